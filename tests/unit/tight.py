"""A cluster on disks with little room, to be filled up and emptied."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

from caller import Caller
from fake_network import FakeCluster

from replkv import ops
from replkv.config import Config
from replkv.disk import Disk
from replkv.testing.disk import SimDisk
from replkv.values import to_ttl

SEGMENT = 1 << 16


def used(disk: SimDisk) -> int:
    return sum(len(content.seen) for content in disk.seen.values())


class Tight(FakeCluster):
    """Whole nodes on disks that may be full."""

    def __init__(self, names: str = "abc", config: Config | None = None) -> None:
        self.platters = {name: SimDisk(random.Random(name)) for name in names}
        super().__init__(names, config=config or Config(segment_bytes=SEGMENT))
        self.run(self.leader)
        self.run(lambda: not any(node.log.unprepared for node in self.nodes.values()))

    def directory(self, name: str) -> Disk:
        return self.platters[name].open()

    def crash(self, name: str) -> None:
        super().crash(name)
        self.platters[name].crash(power=False)

    def led_by(self) -> str:
        self.run(self.leader)
        leader = self.leader()
        assert leader is not None
        return leader

    def followers(self) -> list[str]:
        return [name for name in self.nodes if name != self.led_by()]

    def begin(self, name: str, operation: ops.Packable[Any]) -> Caller:
        call = Caller.of(operation)
        self.nodes[name].proposals.admission.enter_anyway(len(call.command or b""))
        self.nodes[name].submit(call)
        return call

    def call(self, name: str, operation: ops.Packable[Any], seconds: float = 20.0) -> Caller:
        call = self.begin(name, operation)
        self.run(lambda: call.finished, seconds)
        return call

    def fill_up(self, *names: str) -> None:
        """Let disks be full: no room but in the segment that is in use and the next, most of which is then used up."""
        for name in names:
            self.platters[name].capacity = used(self.platters[name])
        count = 0
        while not all(self.nodes[name].log.short for name in names):
            call = self.begin(self.led_by(), ops.Put(f"fill{count}", bytes(6000)))
            self.run(lambda: call.finished)  # noqa: B023
            count += 1

    def make_room(self) -> None:
        for disk in self.platters.values():
            disk.capacity = None

    def equal(self) -> bool:
        nodes = self.nodes.values()
        return len({node.machine.applied for node in nodes}) == 1 and len({node.machine.digest() for node in nodes}) == 1


def growing() -> Iterator[ops.Packable[Any]]:
    yield ops.Put("k", "v")
    yield ops.Put("k", "v", if_mod_revision=0)
    yield ops.Put("k", "v", ttl=10.0)
    yield ops.Add("n", 1)
    yield ops.Txn(then=[ops.Delete("k"), ops.Put("j", "v")])
    yield ops.Txn(otherwise=[ops.Txn(then=[ops.Add("n", 1)])])
    yield ops.Grant(0, to_ttl(10.0), 0)


def shrinking(revision: int, lease: int) -> Iterator[ops.Packable[Any]]:
    yield ops.Delete("fill0")
    yield ops.Delete("fill1", if_mod_revision=0)
    yield ops.Txn(then=[ops.Delete("fill2"), ops.Get("fill3")])
    yield ops.Compact(revision)
    yield ops.Renew(lease, 5)
    yield ops.KeepAlive(5)
    yield ops.Revoke(lease)
