"""A cluster on its grounds, with a history of all that its clients were told, and a schedule of all that was done to it."""

from __future__ import annotations

import contextlib
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cluster import CallError, Cluster, Member
from grounds import Grounds

from replkv.testing.blackbox import Journal

# Small, so that segments, snapshots and compactions come by the dozen in a minute.
CONFIG = {"segment_bytes": 64 << 10, "snapshot_bytes": 256 << 10, "trailing_entries": 64}
SETTINGS = {"compact_revisions": 10_000}
DISK = "24m"
NAMES = "abcde"
HISTORY = "history.jsonl"  # in a run's directory
PROMPT = 5.0  # s in which a member that runs says how it is, on a machine that is busy


class Arena(Cluster):
    """The members of one run; use it with ``with``.

    Args:
        root: a directory for everything the run writes.
        size: how many members.
        apart: give them namespaces; ``proxied``, ``small_disks``: see ``Grounds``.
        seed: of the proxies' chances.
        say: is told what is done.
    """

    def __init__(
        self,
        root: Path,
        size: int,
        *,
        apart: bool = False,
        proxied: bool = False,
        small_disks: bool = False,
        seed: int = 0,
        say: Callable[[str], object] = lambda _: None,
    ) -> None:
        # Not as the base does it: where members are is for the grounds to say.
        self.root = root
        self.schedule: list[str] = []
        self._say = say
        self._began = time.monotonic()
        self._noting = threading.Lock()
        self.grounds = Grounds(root, NAMES[:size], apart=apart, proxied=proxied, disk=DISK if small_disks else "", seed=seed)
        self.journal = Journal(self.history)
        self.addresses = {name: place.addresses[name] for name, place in self.grounds.places.items()}
        self.members = {name: self._member(name) for name in self.addresses}

    def _member(self, name: str) -> Member:
        place = self.grounds.places[name]
        directory = str(place.directory / "data")
        kind = {"cluster": place.addresses, "insecure": True, "config": CONFIG, "settings": SETTINGS}
        return Member(name, self.root, within=place.within, **kind, data_dir=directory)

    def __exit__(self, *_: object) -> None:
        super().__exit__()
        self.journal.close()
        self.grounds.close()

    @property
    def history(self) -> Path:
        """The file with the clients' calls."""
        return self.root / HISTORY

    def note(self, what: str) -> None:
        """Add a line to the schedule."""
        line = f"{time.monotonic() - self._began:8.3f} {what}"
        with self._noting:
            self.schedule.append(line)
        self._say(line)

    def thread(self, member: Member) -> int:
        """Return the system's number of the thread that syncs a member's log."""
        return int(member.call("thread"))

    def guess_leader(self) -> Member | None:
        """Return whom those who answer at once take for the leader."""
        for member in self:
            with contextlib.suppress(CallError, TimeoutError):
                name = member.ask("status").result(0.5)["raft_leader"]
                if name is not None:
                    return self.members[name]
        return None

    def failures(self) -> dict[str, str]:
        """Return why members have stopped by themselves, by name; all are meant to run."""
        gone = {member.name: "its process ended" for member in self if not member.running}
        asked: dict[str, Any] = {member.name: member.ask("failure") for member in self if member.running}
        return gone | {name: why for name, future in asked.items() if (why := future.result(PROMPT))}

    def save(self) -> None:
        """Bring everything a failure can be judged by into ``root``, before the grounds are gone."""
        (self.root / "schedule.txt").write_text("".join(f"{line}\n" for line in self.schedule))
        for name, place in self.grounds.places.items():
            if place.seen_at != place.directory and place.seen_at.exists():
                shutil.copytree(place.seen_at, self.root / f"{name}.kept", dirs_exist_ok=True)
