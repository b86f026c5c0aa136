"""A log beside the memory of what was written to it, over all its lives."""

from __future__ import annotations

import contextlib
import random
from functools import cache

from attrs import define, evolve, field, frozen
from log_memory import Memory, State
from stopping import StoppingDisk

from replkv.codec import decode_entry, make_entry
from replkv.config import Settings
from replkv.errors import Corrupt, DiskFull
from replkv.founding import founding_entry
from replkv.log import Log, Recovered
from replkv.messages import NOWHERE, Configuration, Entry, EntryKind, HardState, Position, SnapshotMeta
from replkv.snapshot import SnapshotFile, SnapshotReceiver, SnapshotWriter, read_snapshot
from replkv.testing.disk import SECTOR, SimDisk, SimDoor

SEGMENT = 4096
CLUSTER = bytes(range(16))
FOUNDING = founding_entry(CLUSTER, {"a": 8, "b": 2, "c": 3}, {}, Settings())
CONFIGURATION = Configuration(("a", "b", "c"), members={"a": 8, "b": 2, "c": 3})


class NoRoom(Exception):
    """The disk is full, and the log takes no more."""


def seen(recovered: Recovered) -> State:
    covered = recovered.snapshot.meta.index if recovered.snapshot else 0
    entries = (b"",) * covered + tuple(entry.encoded for entry in recovered.entries)
    return State(recovered.hard_state, recovered.founding, recovered.snapshot, entries, recovered.floor)


@frozen
class Flushed:
    """The state that all flushes up to one lead to, and where in its file that one begins and ends."""

    state: State
    name: str
    begin: int
    end: int


@define
class LogLife:
    """One life of a log on a disk; ``memory`` outlives it.  ``flushes``: those that were told to be durable."""

    disk: StoppingDisk
    memory: Memory = field(factory=Memory)
    flushes: list[Flushed] = field(factory=list, init=False)
    log: Log = field(init=False)
    door: SimDoor = field(init=False)

    @property
    def noted(self) -> State:
        """What the log has been told."""
        return self.memory.noted

    # -- what a member does with it ---------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Recover; all that is found must be what was written, and is durable from now on."""
        self.door = self.disk.open()
        self.log, recovered = Log.open(self.door, "a", (self.memory.incarnation or 7) + 1, SEGMENT)
        assert self.memory.incarnation in (None, recovered.identity.incarnation)
        recovered = self._load(recovered)
        found = seen(recovered)
        self.memory = evolve(self.memory.after(found), incarnation=recovered.identity.incarnation)
        assert self.log.last_index == len(self.noted.entries)

    def _load(self, recovered: Recovered) -> Recovered:
        """Read the snapshot, as members do, who go on without one that is damaged."""
        if recovered.snapshot is None:
            return recovered
        try:
            assert b"".join(read_snapshot(self.door, recovered.snapshot)) == content(recovered.snapshot.meta.index)
        except Corrupt as error:
            return self.log.lose_snapshot(recovered, error)
        return recovered

    def begin(self) -> None:
        """Start for the first time, and become a member."""
        self.start()
        self.found()

    def append(self, term: int, *entries: Entry) -> None:
        if not self.log.make_room(sum(len(entry.encoded) for entry in entries)):
            raise NoRoom
        known = self.noted.entries
        for entry in entries:
            known = (*known[: entry.index - 1], entry.encoded)
        self._note(evolve(self.noted, hard_state=HardState(term, "b"), entries=known))
        self.log.append(HardState(term, "b"), entries)

    def sync(self) -> None:
        self.log.sync()
        self._is_durable()

    def put(self, term: int, *entries: Entry) -> None:
        self.append(term, *entries)
        self.sync()

    def vote(self, term: int, vote: str) -> None:
        self._note(evolve(self.noted, hard_state=HardState(term, vote)))
        self.log.append(HardState(term, vote), ())
        self.sync()

    def found(self) -> None:
        self._note(evolve(self.noted, hard_state=HardState(1), founding=FOUNDING.payload, entries=(FOUNDING.encoded,)))
        self.log.found(FOUNDING)
        self._is_durable()

    def take_snapshot(self, index: int, keep: int = 0) -> None:
        file = write_snapshot(self.door, index, decode_entry(self.noted.entries[index - 1]).term)
        self._note(evolve(self.noted, snapshot=file))
        self.log.snapshot_taken(file, index + 1 - keep)
        self._is_durable()

    def install_snapshot(self, index: int, term: int) -> None:
        raw = raw_snapshot(index, term)
        receiver = SnapshotReceiver(self.door, SnapshotMeta(index, term, CONFIGURATION), len(raw))
        for offset in range(0, len(raw), 700):
            receiver.add(offset, raw[offset : offset + 700])
        file = receiver.finish()
        self._note(evolve(self.noted, hard_state=HardState(term), snapshot=file, entries=(b"",) * index))
        self.log.install_snapshot(file, HardState(term))
        self._is_durable()

    def set_floor(self, floor: Position) -> None:
        """Note a floor that others have told."""
        self._note(evolve(self.noted, floor=floor))
        self.log.set_floor(floor)
        self.sync()

    def prepare(self) -> None:
        with contextlib.suppress(DiskFull):
            self.log.prepare()

    def close(self) -> None:
        self.log.close()

    def _note(self, state: State) -> None:
        floor = NOWHERE if state.end >= state.floor else state.floor  # what was lost is there again
        self.memory = self.memory.noting(evolve(state, floor=floor))

    def _is_durable(self) -> None:
        self.memory = evolve(self.memory, durable=self.noted)
        self.flushes.append(Flushed(self.noted, *self._newest_flush()))

    def _newest_flush(self) -> tuple[str, int, int]:
        assert self.disk.newest is not None
        content, begin = self.disk.newest
        name = next(name for name, other in self.disk.seen.items() if other is content)
        return name, begin, self.log._sector * SECTOR


# -- what is written ----------------------------------------------------------------------------------------------------------------------


@cache
def content(index: int) -> bytes:
    return random.Random(index).randbytes(1500)


def write_snapshot(door: SimDoor, index: int, term: int) -> SnapshotFile:
    plain = content(index)
    writer = SnapshotWriter(door, SnapshotMeta(index, term, CONFIGURATION), CLUSTER, [plain[:600], plain[600:]])
    while (file := writer.step()) is None:
        pass
    return file


@cache
def raw_snapshot(index: int, term: int) -> bytes:
    """A snapshot as the leader sends it."""
    door = SimDisk(random.Random(0)).open()
    file = write_snapshot(door, index, term)
    return door.read(file.name, 0, file.size)


@cache
def entry(index: int, term: int = 1, size: int = 40) -> Entry:
    return make_entry(index, term, EntryKind.BLOCK, 0, random.Random(f"{index} {term}").randbytes(size))


def entries(first: int, last: int, term: int = 1, size: int = 40) -> list[Entry]:
    return [entry(index, term, size) for index in range(first, last + 1)]
