"""Versions of the package, and clusters whose members run different ones."""

from __future__ import annotations

import re
import shutil
import threading
from pathlib import Path
from typing import Any, NamedTuple, Self

from cluster import PATIENCE, PROGRAM, ROOT, Cluster, Member, eventually
from ledger import Load

from replkv import Client, Compacted, Event, connect


class Version(NamedTuple):
    """A package, and the program that runs a member of it."""

    code: Path
    program: Path


TODAY = Version(ROOT, PROGRAM)


def future(directory: Path) -> Version:
    """Return today's version as it will look when it supports another feature level and speaks another wire version, too."""
    shutil.copytree(ROOT / "replkv", directory / "replkv", ignore=shutil.ignore_patterns("__pycache__"))
    _rewrite(directory / "replkv" / "features.py", r"^LEVEL: Final = (\d+)$", lambda level: f"LEVEL: Final = {level + 1}")
    _rewrite(directory / "replkv" / "codec.py", r"^VERSIONS = \(1, (\d+)\)$", lambda newest: f"VERSIONS = (1, {newest + 1})")
    return Version(directory, PROGRAM)


def _rewrite(path: Path, pattern: str, replacement: Any) -> None:
    text, count = re.subn(pattern, lambda found: replacement(int(found[1])), path.read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert count == 1, f"{pattern} in {path}"
    path.write_text(text, encoding="utf-8")


def run(member: Member, version: Version) -> None:
    """Start a member with a version, stopping it first if it runs, and wait until it is ready."""
    if member.running:
        member.stop()
    member.code, member.program = version
    member.start()
    member.call("wait_ready", timeout=PATIENCE)
    assert member.call("internals")["code"] == str(version.code / "replkv" / "__init__.py")


def lead(cluster: Cluster, name: str) -> None:
    """Have a member lead."""
    cluster[name].call("transfer_leadership", name, timeout=PATIENCE)
    eventually(lambda: cluster.leader().name == name)


def progress(load: Load, writes: int = 60) -> None:
    """Wait until the clients have been told of so many more writes."""
    target = load.count + writes
    eventually(lambda: load.count >= target)


class Spectator(threading.Thread):
    """A client of today's version that watches all puts through one member, which may be restarted meanwhile."""

    def __init__(self, member: Member) -> None:
        super().__init__(daemon=True)
        self.seen: dict[str, int] = {}
        self.failure: BaseException | None = None
        self._client: Client = connect(member.data_dir, timeout=PATIENCE)
        self._watch = self._client.watch(prefix="put/", start_revision=1)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._watch.close()
        self.join(PATIENCE)
        self._client.close()

    def run(self) -> None:
        try:
            for event in self._watch:
                assert isinstance(event, Event)
                assert event.kv.key_text not in self.seen, "an event came twice"
                assert event.revision > max(self.seen.values(), default=0), "events are not in order"
                self.seen[event.kv.key_text] = event.revision
        except (AssertionError, Compacted) as failure:
            self.failure = failure

    def check(self, load: Load) -> None:
        """Check that nothing was missed of what was acknowledged."""
        acknowledged = {key: revision for client in load.clients for key, (_, revision) in client.acknowledged.items()}
        eventually(lambda: self.failure is not None or acknowledged.items() <= self.seen.items())
        assert self.failure is None, self.failure
