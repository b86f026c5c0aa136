"""Stop after every single change to the disk, let every legal part of what was not synced survive, and recover.

Whatever happens, recovery finds either what the last sync that returned made durable, or that and the whole of the one flush that was
under way: nothing lost, nothing half, nothing invented.
"""

from __future__ import annotations

import contextlib
import itertools
import random
from collections.abc import Callable, Iterator

import pytest
from attrs import define, evolve, frozen

from replkv.codec import make_entry
from replkv.errors import StorageError
from replkv.log import Log, Recovered
from replkv.messages import Configuration, Entry, EntryKind, HardState, SnapshotMeta
from replkv.snapshot import SnapshotFile, SnapshotReceiver, SnapshotWriter, read_snapshot
from replkv.testing.disk import SimDisk, SimDoor, SimulatedCrash

SEGMENT = 4096
CLUSTER = bytes(range(16))
CONFIGURATION = Configuration(("a", "b"), members={"a": 1, "b": 2})
SUBSETS = 64


@frozen
class State:
    """What a log should remember."""

    hard_state: HardState = HardState()
    founding: bytes = b""
    snapshot: SnapshotFile | None = None
    entries: tuple[bytes, ...] = ()  # all of them, those that a snapshot covers as b""

    @property
    def visible(self) -> tuple[HardState, bytes, SnapshotFile | None, tuple[bytes, ...]]:
        """What of it recovery should return."""
        covered = self.snapshot.meta.index if self.snapshot else 0
        return self.hard_state, self.founding, self.snapshot, self.entries[covered:]


def seen(recovered: Recovered) -> tuple[HardState, bytes, SnapshotFile | None, tuple[bytes, ...]]:
    return recovered.hard_state, recovered.founding, recovered.snapshot, tuple(entry.encoded for entry in recovered.entries)


@define
class Member:
    """A log beside the model of what it should remember: ``durable`` surely, ``noted`` perhaps."""

    disk: SimDisk
    durable: State | None = None
    noted: State | None = None
    door: SimDoor | None = None
    log: Log | None = None

    def start(self) -> Recovered:
        self.noted = self.noted or State()
        self.door = self.disk.open()
        self.log, recovered = Log.open(self.door, "a", 7, SEGMENT)
        possible = [state.visible for state in (self.durable, self.noted) if state is not None]
        assert seen(recovered) in possible
        if recovered.snapshot:
            assert b"".join(read_snapshot(self.door, recovered.snapshot)) == content(recovered.snapshot.meta.index)
        assert self.log.last_index == (recovered.entries[-1].index if recovered.entries else self.covered(recovered))
        self.noted = self.durable = next(s for s in (self.noted, self.durable) if s is not None and s.visible == seen(recovered))
        return recovered

    @staticmethod
    def covered(recovered: Recovered) -> int:
        return recovered.snapshot.meta.index if recovered.snapshot else 0

    def append(self, term: int, *entries: Entry) -> None:
        assert self.log and self.noted
        known = self.noted.entries
        for entry in entries:
            known = (*known[: entry.index - 1], entry.encoded)
        self.noted = evolve(self.noted, hard_state=HardState(term, "b"), entries=known)
        self.log.append(HardState(term, "b"), entries)

    def sync(self) -> None:
        assert self.log
        self.log.sync()
        self.durable = self.noted

    def put(self, term: int, *entries: Entry) -> None:
        self.append(term, *entries)
        self.sync()

    def found(self) -> None:
        assert self.log and self.noted
        entry = make_entry(1, 1, EntryKind.FOUNDING, 0, b"founding")
        self.noted = evolve(self.noted, hard_state=HardState(1), founding=b"founding", entries=(entry.encoded,))
        self.log.found(entry)
        self.durable = self.noted

    def take_snapshot(self, index: int, keep: int = 0) -> None:
        assert self.log and self.noted and self.door
        file = write_snapshot(self.door, index)
        self.noted = evolve(self.noted, snapshot=file)
        self.log.snapshot_taken(file, index + 1 - keep)
        self.durable = self.noted

    def install_snapshot(self, index: int, term: int, raw: bytes) -> None:
        assert self.log and self.noted and self.door
        receiver = SnapshotReceiver(self.door, meta_at(index), len(raw))
        for offset in range(0, len(raw), 700):
            receiver.add(offset, raw[offset : offset + 700])
        file = receiver.finish()
        self.noted = evolve(self.noted, hard_state=HardState(term), snapshot=file, entries=(b"",) * index)
        self.log.install_snapshot(file, HardState(term))
        self.durable = self.noted

    def prepare(self) -> None:
        assert self.log
        self.log.prepare()


def meta_at(index: int) -> SnapshotMeta:
    return SnapshotMeta(index, 1, CONFIGURATION)


def content(index: int) -> bytes:
    return random.Random(index).randbytes(1500)


def write_snapshot(door: SimDoor, index: int) -> SnapshotFile:
    plain = content(index)
    writer = SnapshotWriter(door, meta_at(index), CLUSTER, [plain[:600], plain[600:]])
    while (file := writer.step()) is None:
        pass
    return file


def raw_snapshot(index: int) -> bytes:
    door = SimDisk(random.Random(0)).open()
    file = write_snapshot(door, index)
    return door.read(file.name, 0, file.size)


def entry(index: int, term: int = 1, size: int = 40) -> Entry:
    return make_entry(index, term, EntryKind.BLOCK, 0, random.Random(f"{index} {term}").randbytes(size))


def entries(first: int, last: int, term: int = 1, size: int = 40) -> list[Entry]:
    return [entry(index, term, size) for index in range(first, last + 1)]


# -- the scenarios ------------------------------------------------------------------------------------------------------------------------


def bootstrap(member: Member) -> None:
    member.start()


def founding(member: Member) -> None:
    member.start()
    member.found()
    member.prepare()


def appending(member: Member) -> None:
    member.start()
    member.put(1, *entries(1, 3))
    member.put(2, entry(4, 2, 1200))


def truncating(member: Member) -> None:
    member.start()
    member.put(1, *entries(1, 5))
    member.put(3, *entries(3, 4, 3))
    member.put(3, entry(5, 3))
    member.put(4, entry(2, 4, 900))


def rolling(member: Member) -> None:
    member.start()
    member.prepare()
    for index in range(1, 7):
        member.put(1, entry(index, 1, 1000))
        if index % 2:
            member.prepare()


def outgrowing(member: Member) -> None:
    member.start()
    member.prepare()
    member.put(1, entry(1))
    member.put(1, entry(2, 1, 3 * SEGMENT))
    member.put(1, entry(3))


def snapshotting(member: Member) -> None:
    member.start()
    member.put(1, *entries(1, 3))
    member.take_snapshot(2)
    member.put(1, entry(4))


def trimming(member: Member) -> None:
    member.start()
    member.found()
    for index in range(2, 9):
        member.put(1, entry(index, 1, 1000))
    member.take_snapshot(7, keep=1)
    member.prepare()
    member.put(1, entry(9))
    member.take_snapshot(8)
    member.prepare()
    member.put(2, entry(10, 2))


def installing(member: Member) -> None:
    member.start()
    for index in range(1, 5):
        member.put(1, entry(index, 1, 1000))
    member.take_snapshot(1)
    member.install_snapshot(20, 5, raw_snapshot(20))
    member.prepare()
    member.put(6, entry(21, 6))
    member.take_snapshot(21)
    member.prepare()


SCENARIOS = [bootstrap, founding, appending, truncating, rolling, outgrowing, snapshotting, trimming, installing]


def survivors(count: int, rng: random.Random) -> Iterator[list[bool]]:
    """Every legal part of what was not synced; a sample of them when they are many."""
    if 1 << count <= SUBSETS:
        yield from map(list, itertools.product((False, True), repeat=count))
        return
    yield [False] * count
    yield [True] * count
    for _ in range(SUBSETS - 2):
        share = rng.random()
        yield [rng.random() < share for _ in range(count)]


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.__name__)
def test_recovery_after_a_stop_at_any_change_finds_all_that_was_synced_and_nothing_else(scenario: Callable[[Member], None]) -> None:
    rng = random.Random(scenario.__name__)
    rehearsal = SimDisk(rng)
    scenario(Member(rehearsal))
    for stop in range(rehearsal.changes + 1):
        disk = SimDisk(rng)
        disk.crash_in = stop
        member = Member(disk)
        if stop < rehearsal.changes:
            with pytest.raises(SimulatedCrash):
                scenario(member)
        else:
            scenario(member)
        for keep in survivors(disk.unsynced, rng):
            check_recovery(member, keep, rng)


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.__name__)
def test_a_power_loss_in_the_recovery_after_a_killed_process_loses_nothing(scenario: Callable[[Member], None]) -> None:
    """What the dead process wrote and did not sync is still seen: recovery must not lean on it before it is durable."""
    rng = random.Random(scenario.__name__)
    rehearsal = SimDisk(rng)
    scenario(Member(rehearsal))
    for stop in range(rehearsal.changes):
        for stop_again in range(6):
            disk = SimDisk(rng)
            disk.crash_in = stop
            member = Member(disk)
            with pytest.raises(SimulatedCrash):
                scenario(member)
            disk.crash(power=False)
            disk.crash_in = stop_again
            with contextlib.suppress(SimulatedCrash):
                Member(disk, member.durable, member.noted).start()
            disk.crash(keep=[False] * disk.unsynced)
            Member(disk, member.durable, member.noted).start()


def check_recovery(member: Member, keep: list[bool], rng: random.Random) -> None:
    disk = member.disk.copy()
    disk.crash(keep=keep)
    first = recover_with_a_crash(Member(disk, member.durable, member.noted), rng)
    second = Member(disk, first.durable, first.durable)
    second.start()
    assert second.durable
    second.put(9, entry(len(second.durable.entries) + 1, 9))
    disk.crash(keep=[False] * disk.unsynced)
    Member(disk, second.durable, second.durable).start()


def recover_with_a_crash(member: Member, rng: random.Random) -> Member:
    """Recover; sometimes power is lost once more in the middle of that, and whenever it ends, what was found must stay."""
    if rng.random() < 0.3:
        member.disk.crash_in = rng.randrange(4)
    again = Member(member.disk, member.durable, member.noted)
    try:
        again.start()
    except SimulatedCrash:
        member.disk.crash()
        again = Member(member.disk, member.durable, member.noted)
        again.start()
    again.disk.crash(keep=[False] * again.disk.unsynced)
    return again


@pytest.mark.parametrize("seed", range(16))
def test_a_member_with_many_lives_never_forgets_or_invents(seed: int) -> None:
    rng = random.Random(seed)
    disk = SimDisk(rng)
    member = Member(disk)
    for _ in range(25):
        disk.crash_in = rng.randrange(60) if rng.random() < 0.7 else None
        disk.fail_sync_in = rng.randrange(15) if rng.random() < 0.2 else None
        member = Member(disk, member.durable, member.noted)
        try:
            live(member, rng)
        except SimulatedCrash:
            disk.crash()
        except StorageError:
            disk.crash(power=rng.random() < 0.3)
        else:
            disk.crash(power=rng.random() < 0.7)
        disk.fail_sync_in = None


def live(member: Member, rng: random.Random) -> None:
    member.start()
    for _ in range(rng.randrange(30)):
        assert member.noted
        term, last = member.noted.hard_state.term, len(member.noted.entries)
        covered = member.noted.snapshot.meta.index if member.noted.snapshot else 0
        match rng.randrange(10):
            case 0:
                member.prepare()
            case 1 if last > covered:
                member.sync()
                member.take_snapshot(rng.randint(covered + 1, last), keep=rng.randrange(2))
            case 2 if rng.random() < 0.3:
                member.sync()
                index = rng.randint(covered + 1, last + 9)
                member.install_snapshot(index, term + 1, raw_snapshot(index))
            case 3 if last > covered:
                member.append(term + 1, *entries(rng.randint(covered + 1, last), last + 1, term + 1))
            case 4 | 5:
                member.sync()
            case _:
                member.append(term + 1, entry(last + 1, term + 1, rng.choice((10, 300, 1500, 6000))))


def test_what_was_found_after_a_failed_sync_is_durable_although_the_cache_called_it_clean() -> None:
    disk = SimDisk(random.Random(1))
    member = Member(disk)
    member.start()
    member.put(1, entry(1))
    disk.fail_sync_in = 0
    member.append(1, entry(2))
    with pytest.raises(StorageError):
        member.sync()
    disk.crash(power=False)
    member = Member(disk, member.durable, member.noted)
    assert len(member.start().entries) == 2
    disk.crash(keep=[False] * disk.unsynced)
    assert len(Member(disk, member.durable, member.durable).start().entries) == 2
