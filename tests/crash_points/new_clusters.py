"""Stop a restore, and the recovery of a lost majority, everywhere; let everything legal survive.

Whatever happens, a directory out of which a new cluster was to be made is that of the old member with all it knew, or that of the new one
with all it was given; and one that was restored into is complete, or is refused by a member that would begin in it.  Both can be done again
where they were not completed, and what was seen of it once is durable.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable
from functools import cache

import pytest
from attrs import define, field, frozen
from log_life import CLUSTER, FOUNDING, SEGMENT
from stopping import StoppingDisk, Tally, outcomes, sample, stopped, stops

from replkv import codec, kv
from replkv.disk import TEMPORARY
from replkv.errors import DiskFull, StorageError
from replkv.log import RESTORING, Log, Recovered
from replkv.machine import Machine
from replkv.messages import EXPECTED, EntryKind
from replkv.new_cluster import recover_on, restore_on
from replkv.ops import Put
from replkv.roster import Wanted
from replkv.snapshot import SnapshotWriter
from replkv.snapshotting import load_machine
from replkv.testing.disk import SimDisk, SimDoor, SimulatedCrash

GAP = 1000
WRITES = 12
WANTED = {name: Wanted(voter=True, address=f"tcp://{name}:1") for name in "abc"}


def _write(log: Log, machine: Machine, count: int) -> None:
    for number in range(count):
        put = codec.pack(Put(f"key/{number % 5}", bytes([machine.applied]) * 200).to_wire())
        session = 2 << 16
        batch = codec.pack_batch(session, machine.applied, 0, [put]) if machine.applied > 1 else codec.pack_batch(0, 7, 0, [])
        entry = codec.make_entry(machine.applied + 1, 3, EntryKind.BLOCK, machine.applied * 1000, codec.encode_block([batch]))
        log.append(None, [entry])
        log.sync()
        kv.run(machine.apply(entry))


@cache
def old_member(*, snapshot: bool, prepared: bool) -> tuple[SimDisk, str]:
    """Return the directory of one of three members, and the digest of the state that is in its log.

    Args:
        snapshot: a part of it is in a snapshot.
        prepared: the next segment is ready.
    """
    disk = SimDisk(random.Random(0))
    log, _ = Log.open(door := disk.open(), "a", 8, SEGMENT)
    log.found(FOUNDING)
    machine = Machine()
    kv.run(machine.apply(FOUNDING))
    _write(log, machine, WRITES)
    if snapshot:
        writer = SnapshotWriter(door, machine.meta, CLUSTER, machine.dump())
        while (file := writer.step()) is None:
            pass
        log.snapshot_taken(file, machine.applied + 1)
        _write(log, machine, WRITES)
    if prepared:
        log.prepare()
    log.close()
    return disk, machine.digest()


def _state(door: SimDoor, recovered: Recovered) -> Machine:
    machine = load_machine(door, recovered.snapshot) if recovered.snapshot is not None else Machine()
    for entry in recovered.entries:
        kv.run(machine.apply(entry))
    return machine


def _pairs(machine: Machine) -> list[kv.Record]:
    return [record for records in machine.store.slices((b"", None), machine.store.revision) for record in records]


@define
class NewClusterCrashes:
    """Explores all that may become of a directory out of which, or in which, a new cluster is made.

    Args:
        like: the directory before.
        make: makes it; called with a door that is not locked.
        look: checks what there is, and tells whether the new member is complete; called with a copy that may be changed.
        limit: how many parts of what was not synced are tried at each stop.
        points: how many stops are tried, chosen by lot; None: all.
    """

    like: SimDisk
    make: Callable[[SimDoor], object]
    look: Callable[[SimDisk], bool]
    limit: int
    points: int | None = None
    tally: Tally = field(factory=Tally)

    def run(self) -> Tally:
        """Stop it everywhere, and let the disk be full from everywhere on."""
        rehearsal = StoppingDisk(like=self.like)
        self.make(rehearsal.open())
        assert self.look(rehearsal.copy())
        self.tally.operations = rehearsal.changes
        for stop in sample(stops(rehearsal), self.points):
            disk = StoppingDisk(stop, self.like)
            completed = False
            with contextlib.suppress(SimulatedCrash, StorageError):
                self.make(disk.open())
                completed = True
            for left in outcomes(stopped(disk), self.limit, self.tally):
                self._look_at(left, completed=completed)
        for full_from in sample(range(rehearsal.changes), self.points):
            disk = StoppingDisk(like=self.like, full_from=full_from)
            completed = False
            with contextlib.suppress(DiskFull):
                self.make(disk.open())
                completed = True
            self._look_at(disk.copy(), completed=completed)
        return self.tally

    def _look_at(self, left: SimDisk, *, completed: bool) -> None:
        self.tally.recoveries += 1
        done = self.look(seen := left.copy())
        assert done or not completed, "it was told to be complete"
        seen.crash(keep=[False] * seen.unsynced)
        assert self.look(seen) == done, "what was seen has to stay"
        if not done:
            again = left.copy()
            again.door = None
            self.make(again.open())
            assert self.look(again)


@frozen
class Recovery:
    """The recovery of a lost majority, on a directory with a log of some kind."""

    snapshot: bool
    prepared: bool

    def run(self, limit: int, points: int | None) -> Tally:
        """Stop it everywhere."""
        disk, digest = old_member(snapshot=self.snapshot, prepared=self.prepared)
        return NewClusterCrashes(disk, self._make, lambda left: self._look(left, digest), limit, points).run()

    def _make(self, door: SimDoor) -> None:
        recover_on(door, None, GAP, random.Random(1), SEGMENT)

    def _look(self, disk: SimDisk, digest: str) -> bool:
        disk.door = None
        log, recovered = Log.open(door := disk.open(), "a", 99, SEGMENT)
        machine = _state(door, recovered)
        founding = codec.decode_founding(recovered.founding)
        assert machine.founding == founding
        new = founding.cluster != CLUSTER
        if new:
            kept, _ = old_member(snapshot=self.snapshot, prepared=self.prepared)
            _check_new(machine, recovered, _pairs(_state(old := kept.copy().open(), Log.open(old, "a", 9, SEGMENT)[1])))
        else:
            assert (machine.digest(), recovered.identity.incarnation) == (digest, 8)
        log.close()
        if new:
            disk.door = None
            with pytest.raises(ValueError, match="only voter"):
                recover_on(disk.open(), None, GAP, random.Random(2), SEGMENT)
        return new


@frozen
class Restore:
    """A restore into an empty directory."""

    def run(self, limit: int, points: int | None) -> Tally:
        """Stop it everywhere."""
        return NewClusterCrashes(SimDisk(random.Random(0)), self._make, self._look, limit, points).run()

    def _source(self) -> Machine:
        disk, _ = old_member(snapshot=True, prepared=False)
        door = disk.copy().open()
        return _state(door, Log.open(door, "a", 9, SEGMENT)[1])

    def _make(self, door: SimDoor) -> None:
        door.lock()
        try:
            restore_on(door, self._source(), "a", WANTED, GAP, random.Random(1), SEGMENT)
        finally:
            door.close()

    def _look(self, disk: SimDisk) -> bool:
        disk.door = None
        if RESTORING in disk.seen:
            with pytest.raises(StorageError, match="restore"):
                Log.open(disk.open(), "a", 99, SEGMENT)
            return False
        if all(name.endswith(TEMPORARY) for name in disk.seen):
            return False  # it has hardly begun
        log, recovered = Log.open(door := disk.open(), "a", 99, SEGMENT)
        _check_new(_state(door, recovered), recovered, _pairs(self._source()))
        log.close()
        return True


def _check_new(machine: Machine, recovered: Recovered, pairs: list[kv.Record]) -> None:
    configuration = machine.configuration
    assert (configuration.voters, configuration.learners) == (("a",), ("b", "c"))
    assert configuration.members == {"a": recovered.identity.incarnation, "b": EXPECTED, "c": EXPECTED}
    assert recovered.snapshot is not None
    assert recovered.snapshot.meta.configuration == configuration
    assert recovered.hard_state.term == recovered.snapshot.meta.term == machine.term
    assert _pairs(machine) == pairs
    assert not recovered.entries
    assert recovered.identity.incarnation not in (8, 99)
