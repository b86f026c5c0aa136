"""What is left of a damaged log: what is kept, what is known of the rest, what is refused, and that nothing is lost in silence."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from itertools import product

import pytest
from attrs import evolve, frozen
from raft_harness import block, configuration, founding

from replkv.codec import decode_entry
from replkv.errors import Corrupt, DiskFull, Incompatible, WrongCluster
from replkv.log import Log, Recovered
from replkv.messages import NOWHERE, UNKNOWN, Entry, HardState, Identity, Position, SnapshotMeta
from replkv.recovery import Replay
from replkv.snapshot import SnapshotFile, SnapshotWriter, read_snapshot
from replkv.testing.disk import SimDisk, SimulatedCrash
from replkv.wal_format import IDENTITY, Flush, RecordKind, glance, read_flushes, segment_name

SECTOR, SEGMENT = 512, 4096
ME = ord("a")


def new_disk() -> SimDisk:
    return SimDisk(random.Random(0))


def open_log(disk: SimDisk, name: str = "a") -> tuple[Log, Recovered]:
    return Log.open(disk.open(), name, ME, SEGMENT)


def reopen(disk: SimDisk) -> tuple[Log, Recovered]:
    disk.crash(keep=[False] * disk.unsynced)
    return open_log(disk)


def put(log: Log, *entries: Entry, term: int = 1, vote: str | None = "b") -> None:
    log.append(HardState(term, vote), entries)
    log.sync()


def entry(index: int, term: int = 1, size: int = 40) -> Entry:
    return block(index, term, random.Random(f"{index} {term}").randbytes(size))


def write_snapshot(disk: SimDisk, index: int, voters: str = "abc") -> SnapshotFile:
    chunks = [random.Random(index).randbytes(300)] * 3
    writer = SnapshotWriter(disk.open(), SnapshotMeta(index, 1, configuration(*voters)), bytes(16), chunks)
    while (file := writer.step()) is None:
        pass
    return file


def young(voters: str = "abc") -> SimDisk:
    """A disk with a log of one segment: the head in sector 0, the founding entry in 1, entries 2 to 6 in a sector each, 7 in three.

    A prepared segment lies behind it, and the identity beside it.
    """
    disk = new_disk()
    log, _ = Log.open(disk.open(), "a", ME, 8 * SEGMENT)
    log.found(founding(*voters))
    for index in range(2, 7):
        put(log, entry(index))
    put(log, entry(7, 1, 1200))
    log.prepare()
    disk.crash()
    return disk


def grown() -> SimDisk:
    """A disk with a log of several segments, a snapshot at entry 4 of it, six more entries and a vote."""
    disk = new_disk()
    log, _ = open_log(disk)
    log.found(founding("a", "b", "c"))
    log.prepare()
    for index in range(2, 9):
        put(log, entry(index, 1, 900))
    log.snapshot_taken(write_snapshot(disk, 4), 2)
    put(log, entry(9, 2), entry(10, 2, 1200), term=2)
    put(log, term=3, vote="c")
    log.prepare()
    disk.crash()
    return disk


def afresh() -> SimDisk:
    """A disk with a log that was damaged and begun anew, on the way to its floor."""
    disk = grown()
    disk.lose(segment_name(segments(disk)[1]))
    log, recovered = open_log(disk)
    log.prepare()
    first = recovered.entries[-1].index + 1 if recovered.entries else 5
    put(log, entry(first, 1, 900), entry(first + 1, 1, 900), term=3, vote="c")
    put(log, term=4)
    disk.crash()
    return disk


def segments(disk: SimDisk) -> list[int]:
    return sorted(int(name[4:]) for name in disk.seen if name.startswith("wal-"))


def indexes(recovered: Recovered) -> list[int]:
    return [entry.index for entry in recovered.entries]


def contents(disk: SimDisk) -> dict[str, bytes]:
    return {name: bytes(content.seen) for name, content in disk.seen.items()}


def blank(disk: SimDisk, name: str, sector: int) -> None:
    disk.overwrite(name, sector * SECTOR, bytes(SECTOR))


def garble(disk: SimDisk, name: str, sector: int) -> None:
    disk.overwrite(name, sector * SECTOR, random.Random(sector).randbytes(SECTOR))


# -- what is known of the end ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sector", "intact"),
    [(1, []), (2, [1]), (3, [1, 2]), (4, [1, 2, 3]), (5, [1, 2, 3, 4]), (6, [1, 2, 3, 4, 5])],
)
def test_before_a_whole_flush_the_floor_is_where_the_log_ended_and_the_entries_up_to_the_damage_are_kept(
    sector: int, intact: list[int]
) -> None:
    disk = young()
    disk.rot(segment_name(1), sector * SECTOR + 100, 0x10)
    _, recovered = open_log(disk)
    assert recovered.identity == Identity("a", ME)
    assert recovered.founding == founding("a", "b", "c").payload
    assert recovered.hard_state == HardState(1, "b")
    assert recovered.floor == Position(1, 7)
    assert indexes(recovered) == intact
    assert recovered.configuration == configuration("a", "b", "c")


@pytest.mark.parametrize("sector", [7, 8, 9])
def test_where_the_last_flush_is_damaged_the_end_and_the_vote_are_not_known(sector: int) -> None:
    disk = young()
    disk.rot(segment_name(1), sector * SECTOR + 100, 0x10)
    _, recovered = open_log(disk)
    assert (recovered.floor, recovered.hard_state, indexes(recovered)) == (UNKNOWN, HardState(1, "b"), [1, 2, 3, 4, 5, 6])


@pytest.mark.parametrize("sector", [10, 11, 63])
def test_what_stands_behind_the_end_may_have_been_a_flush(sector: int) -> None:
    disk = young()
    garble(disk, segment_name(1), sector)
    _, recovered = open_log(disk)
    assert (recovered.floor, indexes(recovered)) == (UNKNOWN, [1, 2, 3, 4, 5, 6, 7])


def test_what_stands_in_the_segment_that_was_prepared_may_have_been_a_flush_too() -> None:
    disk = young()
    garble(disk, segment_name(2), 3)
    _, recovered = open_log(disk)
    assert (recovered.floor, indexes(recovered)) == (UNKNOWN, [1, 2, 3, 4, 5, 6, 7])


def test_a_flush_that_was_never_finished_behind_the_damage_is_no_doubt() -> None:
    disk = young()
    log, _ = open_log(disk)
    log.append(HardState(2, "c"), [entry(8, 2, 1200)])
    before = disk.unsynced
    disk.crash_in = 1
    with pytest.raises(SimulatedCrash):
        log.sync()
    disk.crash(keep=[True] * before + [True, False, True][: disk.unsynced - before])
    disk.rot(segment_name(1), 3 * SECTOR + 100)
    _, recovered = open_log(disk)
    assert (recovered.floor, recovered.hard_state, indexes(recovered)) == (Position(1, 7), HardState(1, "b"), [1, 2])


def test_a_sector_that_lost_its_write_in_the_middle_is_damage_like_any_other() -> None:
    disk = young()
    blank(disk, segment_name(1), 4)
    _, recovered = open_log(disk)
    assert (recovered.floor, indexes(recovered)) == (Position(1, 7), [1, 2, 3])


def test_a_sector_in_the_place_of_another_is_damage_like_any_other() -> None:
    disk = young()
    data = disk.seen[segment_name(1)].seen
    disk.overwrite(segment_name(1), 3 * SECTOR, bytes(data[5 * SECTOR : 6 * SECTOR]))
    _, recovered = open_log(disk)
    assert (recovered.floor, indexes(recovered)) == (Position(1, 7), [1, 2])


def test_of_a_log_that_was_cut_the_end_is_not_known() -> None:
    for size in (7 * SECTOR, 7 * SECTOR + 100, 8 * SECTOR, 20 * SECTOR):
        disk = young()
        disk.cut(segment_name(1), size)
        _, recovered = open_log(disk)
        assert (recovered.floor, recovered.hard_state) == (UNKNOWN, HardState(1, "b"))


# -- segments and heads ---------------------------------------------------------------------------------------------------------------


def test_a_missing_segment_in_the_middle_leaves_what_is_before_it_and_a_floor() -> None:
    disk = grown()
    numbers = segments(disk)
    assert len(numbers) > 3, "the last one is blank"
    disk.lose(segment_name(numbers[1]))
    _, recovered = open_log(disk)
    assert recovered.floor == Position(2, 10)
    assert recovered.hard_state == HardState(3, "c")
    assert recovered.snapshot is not None
    assert recovered.snapshot.meta.index == 4


def test_a_missing_newest_segment_is_a_doubt_while_the_one_prepared_behind_it_is_there() -> None:
    disk = grown()
    disk.lose(segment_name(segments(disk)[-2]))
    assert open_log(disk)[1].floor == UNKNOWN


@pytest.mark.parametrize("place", [1, 2])
def test_a_segment_whose_head_is_rotten_is_known_by_the_others(place: int) -> None:
    disk = grown()
    disk.rot(segment_name(segments(disk)[place]), 30)
    _, recovered = open_log(disk)
    assert (recovered.identity, recovered.founding) == (Identity("a", ME), founding("a", "b", "c").payload)
    assert (recovered.floor, recovered.hard_state) == (Position(2, 10), HardState(3, "c"))


def test_the_head_of_the_only_segment_is_known_by_the_file_beside_it() -> None:
    """A bit there made a young member refuse to start for good: nothing else said who it was."""
    disk = young()
    disk.rot(segment_name(1), 30)
    log, recovered = open_log(disk)
    assert (recovered.identity, recovered.founding) == (Identity("a", ME), founding("a", "b", "c").payload)
    assert (recovered.floor, recovered.hard_state, indexes(recovered)) == (Position(1, 7), HardState(1, "b"), [])
    assert log.founding_entry == founding("a", "b", "c")


@pytest.mark.parametrize("how", ["lost", "garbled", "blank"])
def test_a_log_of_which_nothing_is_left_but_the_identity_is_a_doubt(how: str) -> None:
    disk = young()
    for number in (1, 2):
        if how == "lost":
            disk.lose(segment_name(number))
        else:
            disk.overwrite(segment_name(number), 0, bytes(5 * SEGMENT) if how == "blank" else random.Random(1).randbytes(5 * SEGMENT))
    log, recovered = open_log(disk)
    assert (recovered.identity, recovered.floor, recovered.hard_state, recovered.entries) == (Identity("a", ME), UNKNOWN, HardState(), ())
    log.set_floor(Position(1, 7))
    put(log, founding("a", "b", "c"), entry(2), term=1)
    _, recovered = reopen(disk)
    assert (recovered.floor, indexes(recovered)) == (Position(1, 7), [1, 2])


def test_a_founded_log_of_which_only_the_flush_from_before_is_left_is_a_doubt() -> None:
    """It was taken for one that had never been founded, and its member for a newcomer that had promised nothing."""
    disk = young()
    disk.overwrite(segment_name(1), SECTOR, bytes(7 * SEGMENT))
    _, recovered = open_log(disk)
    assert (recovered.identity, recovered.founding) == (Identity("a", ME), founding("a", "b", "c").payload)
    assert (recovered.floor, indexes(recovered)) == (UNKNOWN, [])


@pytest.mark.parametrize(("sector", "floor"), [(0, Position(1, 7)), (3, Position(1, 7)), (9, UNKNOWN)])
def test_a_sector_that_cannot_be_read_is_damage_like_any_other(sector: int, floor: Position) -> None:
    """The disk's error stopped the member for good, though nothing but one sector was lost."""
    disk = young()
    disk.spoil(segment_name(1), sector * SECTOR)
    _, recovered = open_log(disk)
    assert recovered.floor == floor
    assert indexes(recovered) == [*range(1, sector)][:6]
    assert reopen(disk)[1] == evolve(recovered, configuration=None)


def test_the_file_that_repeats_the_identity_is_written_again_when_it_cannot_be_read() -> None:
    disk = young()
    disk.spoil(segment_name(IDENTITY), 0)
    log, recovered = open_log(disk)
    assert (recovered.floor, indexes(recovered)) == (NOWHERE, [1, 2, 3, 4, 5, 6, 7])
    log.prepare()
    assert disk.open().read(segment_name(IDENTITY), 0, SECTOR)


def test_the_identity_is_written_once_there_is_a_cluster_and_again_when_it_rots() -> None:
    name, disk = segment_name(IDENTITY), new_disk()
    log, _ = open_log(disk)
    log.prepare()
    assert name not in disk.seen
    assert not log.unprepared
    log.found(founding("a", "b", "c"))
    assert log.unprepared
    log.prepare()
    good = bytes(disk.seen[name].seen)
    assert not log.unprepared
    for spoil in (lambda: disk.rot(name, 77), lambda: disk.cut(name, 100), lambda: disk.lose(name), lambda: disk.cut(name, 0)):
        spoil()
        log, recovered = reopen(disk)
        assert recovered.floor == NOWHERE
        assert log.unprepared
        log.prepare()
        assert bytes(disk.seen[name].seen) == good
    assert not reopen(disk)[0].unprepared


@pytest.mark.parametrize("room", [0, SECTOR, SEGMENT - 1])
def test_the_identity_is_written_if_there_is_room_for_that_alone_and_without_any_nothing_stops(room: int) -> None:
    disk = new_disk()
    log, _ = open_log(disk)
    log.found(founding("a", "b", "c"))
    disk.capacity = SEGMENT + room
    with pytest.raises(DiskFull):
        log.prepare()
    assert log.short
    assert (segment_name(IDENTITY) in disk.seen) == (room > 0)
    put(log, entry(2))
    assert indexes(reopen(disk)[1]) == [1, 2]


# -- snapshots ------------------------------------------------------------------------------------------------------------------------


def test_a_snapshot_that_is_missing_or_cut_or_another_takes_the_entries_behind_it_along() -> None:
    name = write_snapshot(new_disk(), 4).name

    def replace(disk: SimDisk) -> None:
        disk.overwrite(name, 0, bytes(disk.seen[write_snapshot(disk, 7).name].seen)[: len(disk.seen[name].seen)])

    damages: list[Callable[[SimDisk], None]] = [
        lambda disk: disk.lose(name),
        lambda disk: disk.cut(name, 100),
        lambda disk: disk.cut(name, 0),
        lambda disk: disk.rot(name, 5),
        lambda disk: disk.rot(name, len(disk.seen[name].seen) - 5),
        replace,
    ]
    for damage in damages:
        disk = grown()
        damage(disk)
        _, recovered = open_log(disk)
        assert (recovered.snapshot, recovered.entries) == (None, ())
        assert (recovered.floor, recovered.hard_state) == (Position(2, 10), HardState(3, "c"))
        assert name not in disk.seen
        assert recovered.configuration == configuration("a", "b", "c")


@pytest.mark.parametrize("prepared", [True, False])
def test_a_snapshot_found_rotten_when_it_is_loaded_is_lost_with_what_stands_behind_it(*, prepared: bool) -> None:
    """Without a prepared segment the member died of a TypeError here."""
    disk = grown()
    if not prepared:
        disk.lose(segment_name(segments(disk)[-1]))
    log, recovered = open_log(disk)
    assert recovered.snapshot is not None
    assert indexes(recovered) == [5, 6, 7, 8, 9, 10]
    disk.rot(recovered.snapshot.name, 300)
    with pytest.raises(Corrupt) as caught:
        list(read_snapshot(disk.door or disk.open(), recovered.snapshot))
    left = log.lose_snapshot(recovered, caught.value)
    assert (left.snapshot, left.entries, left.floor, left.hard_state) == (None, (), Position(2, 10), HardState(3, "c"))
    assert log.snapshot is None
    put(log, founding("a", "b", "c"), *[entry(index) for index in range(2, 5)], term=3, vote="c")
    _, recovered = reopen(disk)
    assert (indexes(recovered), recovered.floor) == ([1, 2, 3, 4], Position(2, 10))


def test_a_log_that_loses_its_snapshot_while_the_floor_is_not_known_still_does_not_know_it() -> None:
    disk = grown()
    garble(disk, segment_name(segments(disk)[-1]), 2)
    log, recovered = open_log(disk)
    assert recovered.floor == UNKNOWN
    assert log.lose_snapshot(recovered, Corrupt("rotten")).floor == UNKNOWN


# -- afterwards -----------------------------------------------------------------------------------------------------------------------


def test_the_floor_outlives_restarts_until_the_log_has_passed_it() -> None:
    disk = young()
    disk.rot(segment_name(1), 3 * SECTOR)
    assert open_log(disk)[1].floor == Position(1, 7)
    for index in range(3, 9):
        log, recovered = reopen(disk)
        assert (recovered.floor, recovered.hard_state) == (Position(1, 7) if index <= 7 else NOWHERE, HardState(1, "b"))
        assert indexes(recovered) == list(range(1, index))
        put(log, entry(index))
    assert reopen(disk)[1].floor == NOWHERE


def test_a_doubt_outlives_restarts_until_it_is_settled_and_then_the_floor_does() -> None:
    disk = young()
    disk.rot(segment_name(1), 8 * SECTOR)
    for _ in range(2):
        assert reopen(disk)[1].floor == UNKNOWN
    log, _ = reopen(disk)
    log.set_floor(Position(4, 9))
    put(log, term=5, vote="a")
    _, recovered = reopen(disk)
    assert (recovered.floor, recovered.hard_state, indexes(recovered)) == (Position(4, 9), HardState(5, "a"), [1, 2, 3, 4, 5, 6])


def test_a_later_snapshot_ends_a_loss() -> None:
    disk = young()
    disk.rot(segment_name(1), 3 * SECTOR)
    log, _ = open_log(disk)
    log.install_snapshot(write_snapshot(disk, 20), HardState(1, "b"))
    _, recovered = reopen(disk)
    assert (recovered.floor, recovered.entries) == (NOWHERE, ())


def test_what_the_new_beginning_replaces_is_removed() -> None:
    disk = grown()
    before = segments(disk)
    disk.rot(segment_name(before[1]), 3 * SECTOR)
    open_log(disk)
    assert segments(disk) == [before[-1]], "the one that was prepared"
    assert glance(disk.door or disk.open(), before[-1]) == (RecordKind.HEAD_AFRESH, SEGMENT)


def test_a_full_disk_has_room_for_a_new_beginning_in_the_segment_that_was_prepared() -> None:
    for make, damaged in ((young, 0), (grown, 1)):
        disk = make()
        disk.capacity = sum(len(content.seen) for content in disk.seen.values())
        before = segments(disk)
        disk.rot(segment_name(before[damaged]), 3 * SECTOR)
        assert open_log(disk)[1].floor != NOWHERE
        assert segments(disk) == [before[-1]]


def test_without_a_prepared_segment_a_full_disk_has_no_room_for_a_new_beginning_and_nothing_is_changed() -> None:
    disk = young()
    disk.lose(segment_name(2))
    disk.rot(segment_name(1), 3 * SECTOR)
    disk.capacity, before = 0, contents(disk)
    with pytest.raises(DiskFull):
        open_log(disk)
    assert contents(disk) == before
    disk.capacity = None
    assert open_log(disk)[1].floor == Position(1, 7)


def long() -> SimDisk:
    """A disk that is full, with a log of three segments and a prepared one, whose last sector is damaged."""
    disk = new_disk()
    log, _ = open_log(disk)
    log.found(founding("a", "b", "c"))
    for index in range(2, 14):
        put(log, entry(index, 1, 800))
        log.prepare()
    disk.crash()
    last = [at for at in range(0, SEGMENT, SECTOR) if any(disk.seen[segment_name(segments(disk)[-2])].seen[at : at + SECTOR])][-1]
    disk.rot(segment_name(segments(disk)[-2]), last + 30)
    disk.capacity = sum(len(content.seen) for content in disk.seen.values())
    return disk


def test_on_a_full_disk_so_much_is_kept_as_the_prepared_segment_has_room_for() -> None:
    """A log that was longer than one segment did not start: that is the usual length."""
    disk = long()
    log, recovered = open_log(disk)
    assert recovered.floor == UNKNOWN
    assert indexes(recovered) == [*range(1, len(recovered.entries) + 1)]
    assert 0 < len(recovered.entries) < 12
    assert log.last_index == len(recovered.entries)
    assert reopen(disk)[1] == evolve(recovered, configuration=None)


def test_a_new_beginning_on_a_full_disk_that_a_crash_tears_is_made_again() -> None:
    """Where the end was in doubt too, its half-written segment was taken for one in use, and there was no room for another."""
    disk = long()
    whole, torn = disk.copy(), 0
    whole.capacity = disk.capacity
    expected = open_log(whole)[1]
    for at, seed in product(range(whole.changes), range(6)):
        twin = disk.copy()
        twin.capacity, twin.crash_in, twin.tears = disk.capacity, at, True
        twin.rng.seed(seed)
        with pytest.raises(SimulatedCrash):
            open_log(twin)
        twin.crash()
        torn += any(twin.seen[segment_name(segments(twin)[-1])].seen)
        assert open_log(twin)[1] in (expected, evolve(expected, configuration=None))
    assert torn > 3


def test_rot_may_come_again_and_again() -> None:
    disk = young()
    disk.rot(segment_name(1), 5 * SECTOR)
    log, recovered = open_log(disk)
    assert (recovered.floor, indexes(recovered)) == (Position(1, 7), [1, 2, 3, 4])
    put(log, entry(5))
    put(log, term=2, vote="c")
    disk.crash()
    disk.rot(segment_name(segments(disk)[-1]), 10)
    log, recovered = open_log(disk)
    assert (recovered.floor, recovered.hard_state, indexes(recovered)) == (Position(1, 7), HardState(2, "c"), [])
    put(log, founding("a", "b", "c"), term=2, vote="c")
    disk.crash()
    newest = segments(disk)[-1]
    sectors = [sector for sector in range(SEGMENT // SECTOR) if any(disk.seen[segment_name(newest)].seen[sector * SECTOR :][:SECTOR])]
    disk.rot(segment_name(newest), sectors[-1] * SECTOR)
    assert open_log(disk)[1].floor == UNKNOWN


def test_entries_that_others_may_have_replaced_are_not_taken_for_what_the_log_ended_with() -> None:
    """The log was shortened by a newer leader, and the flush that says so is damaged: to keep what it replaced would hide the loss.

    The member asked nobody then, its leader believed in what it had acknowledged, and the two never came together.
    """
    disk = new_disk()
    log, _ = Log.open(disk.open(), "a", ME, 8 * SEGMENT)
    log.found(founding("a", "b", "c"))
    put(log, *[entry(index, 2) for index in range(2, 8)], term=2)
    put(log, entry(2), entry(3), term=3)
    put(log, term=4)
    disk.crash()
    flushes = [flush for flush in read_flushes(disk.copy().open(), 1, 1) if isinstance(flush, Flush)]
    assert flushes[-2].end == Position(1, 3)
    disk.rot(segment_name(1), flushes[-2].sector * SECTOR)
    _, recovered = open_log(disk)
    assert recovered.floor == Position(1, 3)
    assert indexes(recovered) == [1]


def test_an_entry_that_is_left_out_takes_all_behind_it_along() -> None:
    """Only the one whose term is too high was left out, and the log could not begin anew with a gap in it."""
    disk = new_disk()
    log, _ = Log.open(disk.open(), "a", ME, 8 * SEGMENT)
    log.found(founding("a", "b", "c"))
    put(log, entry(2), entry(3, 2), entry(4), term=2)
    put(log, entry(5), term=2)
    put(log, entry(6), term=2)
    disk.crash()
    disk.rot(segment_name(1), 3 * SECTOR)
    _, recovered = open_log(disk)
    assert recovered.floor == Position(1, 6)
    assert indexes(recovered) == [1, 2]


def test_of_a_very_long_log_only_a_part_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("replkv.salvage.KEPT", 3 * len(entry(2).encoded))
    disk = young()
    disk.rot(segment_name(1), 6 * SECTOR)
    _, recovered = open_log(disk)
    assert (recovered.floor, indexes(recovered)) == (Position(1, 7), [1, 2])


def test_a_long_log_is_not_read_from_each_of_its_segments_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is intact was looked for behind each segment anew: of a log of 60 segments 14 GiB were read, while the member was down."""
    disk = new_disk()
    log, _ = open_log(disk)
    log.found(founding("a", "b", "c"))
    for index in range(2, 101):
        log.prepare()
        put(log, entry(index, 1, 900))
    disk.crash()
    count = len(segments(disk))
    assert count > 25
    disk.rot(segment_name(segments(disk)[-3]), 4 * SECTOR)
    read: list[int] = []
    whole = Replay._read

    def counted(self: Replay, number: int) -> bool:
        read.append(number)
        return whole(self, number)

    monkeypatch.setattr(Replay, "_read", counted)
    _, recovered = open_log(disk)
    assert 90 < len(recovered.entries) < 99
    assert len(read) < 5 * count


def test_a_new_beginning_that_a_crash_tears_is_made_again() -> None:
    changes = salvaging(None)
    assert changes > 4
    for at in range(changes):
        salvaging(at)


def salvaging(crash_at: int | None) -> int:
    """Salvage a log, with a loss of power after so many changes and anything of what was not synced; return how many changes there were."""
    for seed in range(6):
        disk = grown()
        disk.rot(segment_name(segments(disk)[1]), 3 * SECTOR)
        expected, before = open_log(disk.copy())[1], disk.changes
        disk.crash_in = crash_at
        try:
            open_log(disk)
        except SimulatedCrash:
            disk.rng.seed(seed)
            disk.crash()
            assert open_log(disk)[1] in (expected, evolve(expected, configuration=None))
        else:
            assert crash_at is None
            return disk.changes - before
    return 0


# -- refusals -------------------------------------------------------------------------------------------------------------------------


def refuses(disk: SimDisk, *texts: str) -> None:
    """Check that a disk is refused, with all these texts, and left as it is."""
    before = contents(disk)
    with pytest.raises(Corrupt) as caught:
        open_log(disk)
    for text in texts:
        assert text in str(caught.value)
    assert contents(disk) == before
    assert disk.door is None


WAYS_OUT = (
    "put back a copy of the whole directory that was made after this member had stopped for the last time",
    "never put an older copy of it in its place",
)


def test_a_lone_member_is_refused_and_told_the_ways_out() -> None:
    disk = young("a")
    disk.rot(segment_name(1), 4 * SECTOR + 10)
    refuses(
        disk,
        f"simulated/{segment_name(1)}: sector 4 is not what was written",
        "entries up to 3 are intact, but a is the only voter of its cluster",
        *WAYS_OUT,
        "begin with an empty one, which loses what was stored",
    )


def test_a_lone_member_is_refused_for_its_snapshot_too() -> None:
    disk = new_disk()
    log, _ = open_log(disk)
    log.found(founding("a"))
    put(log, entry(2))
    file = write_snapshot(disk, 2, "a")
    log.snapshot_taken(file, 3)
    disk.crash()
    disk.lose(file.name)
    refuses(disk, f"simulated/{file.name} is missing", "only voter", *WAYS_OUT)


@pytest.mark.parametrize("sector", [4, 8])
def test_of_two_members_the_other_one_heals(sector: int) -> None:
    disk = young("ab")
    disk.rot(segment_name(1), sector * SECTOR + 10)
    assert open_log(disk)[1].floor == (UNKNOWN if sector == 8 else Position(1, 7))


def test_a_log_that_does_not_even_tell_whose_it_is_is_refused() -> None:
    disk = young()
    disk.rot(segment_name(1), 30)
    disk.rot(segment_name(IDENTITY), 30)
    refuses(
        disk,
        f"{segment_name(1)}: sector 0 is not what was written",
        "nothing is left that says whose log this is",
        *WAYS_OUT,
        "leave this member out",
    )


def test_a_directory_whose_log_is_gone_but_for_a_snapshot_is_refused() -> None:
    disk = grown()
    for number in (IDENTITY, *segments(disk)):
        disk.lose(segment_name(number))
    refuses(disk, "but no log", *WAYS_OUT)


def test_a_damaged_log_of_another_member_is_that_members() -> None:
    disk = young()
    disk.rot(segment_name(1), 30)
    before = contents(disk)
    with pytest.raises(WrongCluster, match="belongs to the member 'a', not to 'b'"):
        open_log(disk, "b")
    assert contents(disk) == before


@pytest.mark.parametrize(("number", "floor"), [("9" * 16, NOWHERE), ("0" * 16, NOWHERE), ("0" * 8 + "1" * 8, UNKNOWN)])
def test_a_file_that_is_only_called_like_a_segment_holds_nobody_up(number: str, floor: Position) -> None:
    disk = young()
    disk.open().allocate(f"wal-{number}", SEGMENT)
    disk.crash(keep=[True] * disk.unsynced)
    _, recovered = open_log(disk)
    assert (recovered.floor, indexes(recovered)) == (floor, [1, 2, 3, 4, 5, 6, 7])


# -- everything -----------------------------------------------------------------------------------------------------------------------


STEP = 13
"""Bytes from one flipped byte to the next; with 1 all are flipped, which takes minutes."""


@frozen
class Truth:
    """What a disk held before it was damaged."""

    recovered: Recovered
    end: Position
    ever: list[Entry]


def truth(disk: SimDisk) -> Truth:
    recovered = open_log(disk.copy())[1]
    end = Position(recovered.entries[-1].term, recovered.entries[-1].index) if recovered.entries else NOWHERE
    return Truth(recovered, max(end, recovered.floor), ever(disk))


def ever(disk: SimDisk) -> list[Entry]:
    """Return every entry that is anywhere in a log."""
    door = disk.copy().open()
    flushes = [flush for number in segments(disk) for flush in read_flushes(door, number, None) if isinstance(flush, Flush)]
    return [decode_entry(record.body) for flush in flushes for record in flush.records if record.kind is RecordKind.ENTRY]


def judge(disk: SimDisk, was: Truth) -> str:
    """Open a damaged log: what it says must be true, and what it does not know it must say."""
    try:
        _, found = open_log(disk)
    except (Corrupt, Incompatible):
        return "refused"
    if found == was.recovered:
        return "unharmed"
    assert (found.identity, found.founding) == (was.recovered.identity, was.recovered.founding)
    assert found.snapshot in (None, was.recovered.snapshot)
    assert all(entry in was.ever for entry in found.entries)
    if found.floor == UNKNOWN:
        assert found.hard_state.term <= was.recovered.hard_state.term
        return "in doubt"
    assert found.hard_state == was.recovered.hard_state
    assert found.entries == was.recovered.entries[: len(found.entries)] or found.snapshot is None
    assert found.floor == was.end > (Position(found.entries[-1].term, found.entries[-1].index) if found.entries else NOWHERE)
    return "cautious"


def written(disk: SimDisk) -> Iterator[tuple[str, int]]:
    """Yield every sector that was ever written."""
    for name, content in sorted(disk.seen.items()):
        for sector in range(-(-len(content.seen) // SECTOR)):
            if any(content.seen[sector * SECTOR : (sector + 1) * SECTOR]):
                yield name, sector


def judge_all(disk: SimDisk, damages: Iterator[Callable[[SimDisk], None]]) -> set[str]:
    was, verdicts = truth(disk), set()
    for damage in damages:
        copy = disk.copy()
        damage(copy)
        verdicts.add(judge(copy, was))
    return verdicts


@pytest.mark.parametrize("make", [young, grown, afresh])
def test_no_flipped_byte_makes_a_log_that_lost_something_in_silence(make: Callable[[], SimDisk]) -> None:
    def damages() -> Iterator[Callable[[SimDisk], None]]:
        rng = random.Random(4)
        for name, content in disk.seen.items():
            for offset in range(0, len(content.seen), STEP):
                if any(content.seen[offset // SECTOR * SECTOR :][:SECTOR]) or offset % 100 == 0:
                    yield lambda copy, name=name, offset=offset: copy.rot(name, offset, rng.randrange(1, 256))  # type: ignore[misc]

    disk = make()
    assert judge_all(disk, damages()) == {"in doubt", "unharmed", "cautious"}


@pytest.mark.parametrize("make", [young, grown, afresh])
def test_no_garbled_cut_or_missing_file_makes_a_log_that_lost_something_in_silence(make: Callable[[], SimDisk]) -> None:
    def damages() -> Iterator[Callable[[SimDisk], None]]:
        for name, content in disk.seen.items():
            yield lambda copy, name=name: copy.lose(name)  # type: ignore[misc]
            for sector in range(-(-len(content.seen) // SECTOR)):
                yield lambda copy, name=name, sector=sector: garble(copy, name, sector)  # type: ignore[misc]
                yield lambda copy, name=name, sector=sector: copy.cut(name, sector * SECTOR)  # type: ignore[misc]
                yield lambda copy, name=name, sector=sector: copy.cut(name, sector * SECTOR + 77)  # type: ignore[misc]

    disk = make()
    assert judge_all(disk, damages()) == {"in doubt", "unharmed", "cautious"}


@pytest.mark.parametrize("make", [young, grown, afresh])
def test_no_sector_in_the_place_of_another_makes_a_log_that_lost_something_in_silence(make: Callable[[], SimDisk]) -> None:
    def damages() -> Iterator[Callable[[SimDisk], None]]:
        for source, at in written(disk):
            data = bytes(disk.seen[source].seen[at * SECTOR : (at + 1) * SECTOR])
            for target, to in [*written(disk), (segment_name(segments(disk)[-1]), 5)]:
                yield lambda copy, target=target, to=to, data=data: copy.overwrite(target, to * SECTOR, data)  # type: ignore[misc]

    disk = make()
    assert judge_all(disk, damages()) >= {"in doubt", "unharmed", "cautious"}


def test_two_damages_at_once_make_no_log_that_lost_something_in_silence() -> None:
    disk, rng = grown(), random.Random(8)
    places = [place for place in written(disk) if place[0].startswith("wal")]
    newest = places[-1]

    def damages() -> Iterator[Callable[[SimDisk], None]]:
        for _ in range(300):
            first, second = rng.sample(places, 2)

            def both(copy: SimDisk, first: tuple[str, int] = first, second: tuple[str, int] = second) -> None:
                for name, sector in (first, second):
                    spoil = garble if (name, sector) == newest or rng.random() < 0.5 else blank
                    spoil(copy, name, sector)

            yield both

    assert judge_all(disk, damages()) >= {"in doubt", "cautious"}
