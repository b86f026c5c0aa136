"""Clusters of real processes whose members come, go and move, and writers that count."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Self

from cluster import PATIENCE, Cluster, Member, eventually, free_ports

from replkv import Client, Config

CALM = Config(timeout=PATIENCE)
PACE = 0.02  # s between two writes of a writer: the processes that come have to share the machine with them


class Fleet(Cluster):
    """A cluster that begins with some founders; ``common`` are arguments that every member gets."""

    def __init__(self, root: Path, founders: str, **common: Any) -> None:
        super().__init__(root, founders, **common)
        self.root = root
        self.common = common

    def place(self, name: str, host: str = "127.0.0.1") -> str:
        """Return a new address for a member."""
        self.addresses = {**self.addresses, name: f"{host}:{free_ports(1)[0]}"}
        return self.addresses[name]

    def newcomer(self, name: str, *through: str, **arguments: Any) -> Member:
        """Return a member, not started, that joins through others."""
        seeds = [self.addresses[other] for other in through]
        self.members[name] = Member(name, self.root, listen=self.place(name), join=seeds, **self.common, **arguments)
        return self.members[name]

    def add(self, by: str, names: str, *, through: str, role: str = "add") -> None:
        """Name members, then start them."""
        newcomers = [self.newcomer(name, through) for name in names]
        self[by].call("change_members", **{role: {name: self.addresses[name] for name in names}}, timeout=PATIENCE)
        start_all(newcomers)

    def dismiss(self, by: str, names: str) -> None:
        """Remove members from the cluster, and what is left of them."""
        self[by].call("change_members", remove=list(names), timeout=PATIENCE)
        for name in names:
            gone = self.members.pop(name)
            gone.discard()
            wipe(gone)

    def wait_for(self, voters: str, learners: str = "") -> None:
        """Wait until every running member that is to be one says that these vote and those learn, and that all are well."""

        def settled() -> bool:
            for name in voters + learners:
                found = self[name].call("members")
                if [one["name"] for one in found if not one["learner"]] != sorted(voters):
                    return False
                if [one["name"] for one in found if one["learner"]] != sorted(learners) or not all(one["healthy"] for one in found):
                    return False
            return True

        try:
            eventually(settled, pause=0.05)
        except AssertionError:
            seen = {name: (self[name].call("failure"), self[name].call("status")) for name in voters + learners}
            raise AssertionError(f"not {voters or 'nobody'} and {learners or 'nobody'}: {seen}") from None

    def wait_removed(self, *names: str) -> None:
        """Wait until members have been told that they are none any more."""
        for name in names:
            eventually(lambda: self[name].call("failure").startswith("Removed: "))  # noqa: B023  # it is waited for here

    def lead(self, name: str) -> None:
        """Make a member the leader."""

        def leads() -> bool:
            leader = self.leader()
            return leader.name == name or (leader.call("transfer", name) and False)

        eventually(leads, pause=0.2)


def start_all(members: Iterable[Member]) -> None:
    """Start members at the same time; raises what the first of them does."""
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(Member.start, members))


def wipe(member: Member) -> None:
    """Remove the directory of a member that does not run."""
    shutil.rmtree(member.data_dir)


class Writer(threading.Thread):
    """Counts up in the cluster, one write after the other, from ``with`` to its end; the first write that fails ends it."""

    def __init__(self, name: str, add: Callable[[str], int], pace: float = PACE) -> None:
        super().__init__(name=name, daemon=True)
        self.key = f"count/{name}"
        self.counted: list[int] = []
        self.failure: BaseException | None = None
        self._add = add
        self._pace = pace
        self._stop_asked = threading.Event()

    @classmethod
    def at(cls, member: Member, pace: float = PACE) -> Self:
        """Return one that writes through a member."""
        return cls(f"at-{member.name}", lambda key: int(member.call("add", key, timeout=PATIENCE)[0]), pace)

    @classmethod
    def of(cls, client: Client, name: str, pace: float = PACE) -> Self:
        """Return one that writes through a client."""
        return cls(name, lambda key: client.add(key).value, pace)

    def run(self) -> None:
        try:
            while not self._stop_asked.wait(self._pace):
                self.counted.append(self._add(self.key))
        except BaseException as failure:  # noqa: BLE001  # for the test to see
            self.failure = failure

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop_asked.set()
        self.join(PATIENCE)
        assert not self.is_alive(), f"{self.name} hangs"

    def goes_on(self, writes: int = 10) -> None:
        """Wait until so many more writes are acknowledged."""
        target = len(self.counted) + writes
        eventually(lambda: self.failure is not None or len(self.counted) >= target)
        self.check()

    def check(self, stored: int | None = None) -> None:
        """Fail if a write failed, was lost or was done twice."""
        if self.failure is not None:
            raise self.failure
        assert self.counted == list(range(1, len(self.counted) + 1)), "each once, and none lost"
        assert stored in (None, len(self.counted))
