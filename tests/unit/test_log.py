from __future__ import annotations

import itertools
import pathlib
import random
import subprocess
import sys
import threading
import time
from collections.abc import Sequence

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from replkv import codec
from replkv.codec import make_entry
from replkv.disk import MemoryDisk, RealDisk
from replkv.errors import Corrupt, DirectoryInUse, DiskFull, Incompatible, InvariantBroken, StorageError, WrongCluster
from replkv.log import Log, Recovered
from replkv.messages import Configuration, Entry, EntryKind, HardState, Identity, Position, SnapshotMeta
from replkv.snapshot import SnapshotFile, SnapshotWriter
from replkv.testing.disk import SimDisk
from replkv.wal_format import Head, RecordKind, encode_flush, encode_head, encode_record, segment_name

SEGMENT = 4096
SECTOR = 512


def new_disk() -> SimDisk:
    return SimDisk(random.Random(0))


def open_log(disk: SimDisk, name: str = "a", segment_bytes: int = SEGMENT) -> tuple[Log, Recovered]:
    return Log.open(disk.open(), name, 7, segment_bytes)


def reopen(disk: SimDisk) -> Recovered:
    disk.crash(keep=[False] * disk.unsynced)
    return open_log(disk)[1]


def entry(index: int, term: int = 1, size: int = 40) -> Entry:
    return make_entry(index, term, EntryKind.BLOCK, 0, random.Random(f"{index} {term}").randbytes(size))


def put(log: Log, *entries: Entry, term: int = 1) -> None:
    log.append(HardState(term, "b"), entries)
    log.sync()


def take_snapshot(disk: SimDisk, log: Log, index: int, keep: int = 0) -> SnapshotFile:
    file = write_snapshot(disk, index)
    log.snapshot_taken(file, index + 1 - keep)
    return file


def write_snapshot(disk: SimDisk, index: int) -> SnapshotFile:
    writer = SnapshotWriter(disk.open(), SnapshotMeta(index, 1, Configuration(("a",), members={"a": 7})), bytes(16), [b"state"])
    while (file := writer.step()) is None:
        pass
    return file


def filled() -> SimDisk:
    """A disk with a log of one segment: the head, five entries of one sector, one of three sectors."""
    disk = new_disk()
    log, _ = open_log(disk, segment_bytes=8 * SEGMENT)
    for index in range(1, 6):
        put(log, entry(index))
    put(log, entry(6, 1, 1200))
    disk.crash()
    return disk


def indexes(recovered: Recovered) -> list[int]:
    return [entry.index for entry in recovered.entries]


# -- what is kept -------------------------------------------------------------------------------------------------------------------


def test_an_empty_directory_gets_an_identity_that_stays() -> None:
    disk = new_disk()
    _, recovered = Log.open(disk.open(), "a", 7, SEGMENT)
    assert recovered == Recovered(Identity("a", 7), b"", HardState(), None, ())
    disk.crash(keep=[False] * disk.unsynced)
    _, recovered = Log.open(disk.open(), "a", 8, SEGMENT)
    assert recovered.identity == Identity("a", 7)


def test_what_was_synced_comes_back_and_what_was_only_noted_does_not() -> None:
    disk = new_disk()
    log, _ = open_log(disk)
    put(log, entry(1), entry(2), term=3)
    log.append(HardState(4), [entry(3)])
    recovered = reopen(disk)
    assert recovered.entries == (entry(1), entry(2))
    assert [e.encoded for e in recovered.entries] == [entry(1).encoded, entry(2).encoded]
    assert recovered.hard_state == HardState(3, "b")


def test_an_entry_replaces_everything_from_its_index_on() -> None:
    disk = new_disk()
    log, _ = open_log(disk)
    put(log, entry(1), entry(2), entry(3))
    put(log, entry(2, 2), term=2)
    assert log.last_index == 2
    assert reopen(disk).entries == (entry(1), entry(2, 2))


def test_a_sync_with_nothing_noted_touches_nothing() -> None:
    disk = new_disk()
    log, _ = open_log(disk)
    put(log, entry(1))
    before = disk.changes
    log.append(HardState(1, "b"), ())
    log.sync()
    assert disk.changes == before


def test_a_vote_alone_is_kept() -> None:
    disk = new_disk()
    log, _ = open_log(disk)
    log.append(HardState(5, "bäh"), ())
    log.sync()
    assert reopen(disk).hard_state == HardState(5, "bäh")


@pytest.mark.parametrize("state", [HardState(2, "b"), HardState(3, "c"), HardState(3)])
def test_a_term_or_a_vote_is_never_taken_back(state: HardState) -> None:
    log, _ = open_log(new_disk())
    log.append(HardState(3, "b"), ())
    with pytest.raises(InvariantBroken):
        log.append(state, ())


@pytest.mark.parametrize("index", [0, 2, 3, 6])
def test_an_entry_that_leaves_a_gap_or_lies_in_the_snapshot_is_a_broken_invariant(index: int) -> None:
    disk = new_disk()
    log, _ = open_log(disk)
    put(log, *[entry(i) for i in range(1, 5)])
    take_snapshot(disk, log, 3)
    with pytest.raises(InvariantBroken):
        log.append(None, [entry(index)])


def test_the_founding_entry_outlives_its_segment() -> None:
    disk = new_disk()
    log, _ = open_log(disk)
    founding = make_entry(1, 1, EntryKind.FOUNDING, 0, b"cluster")
    assert log.found(founding) == Recovered(Identity("a", 7), b"cluster", HardState(1), None, (founding,))
    for index in range(2, 20):
        put(log, entry(index, 1, 1000))
    take_snapshot(disk, log, 19)
    log.prepare()
    assert segment_name(1) not in disk.seen
    disk.crash(keep=[False] * disk.unsynced)
    log, recovered = open_log(disk)
    assert (recovered.founding, log.founding_entry) == (b"cluster", founding)


def test_a_flush_larger_than_a_segment_gets_one_of_its_own() -> None:
    disk = new_disk()
    log, _ = open_log(disk)
    log.prepare()
    put(log, entry(1, 1, 5 * SEGMENT))
    put(log, entry(2))
    assert indexes(reopen(disk)) == [1, 2]
    assert len(disk.seen[segment_name(2)].seen) > 5 * SEGMENT
    assert len(disk.seen[segment_name(3)].seen) == SEGMENT


def test_the_log_goes_on_in_its_segments_after_a_restart_with_other_sizes() -> None:
    disk = new_disk()
    for life, size in enumerate((SEGMENT, 4 * SEGMENT, 3 * SECTOR, 5000)):
        disk.crash()
        log, recovered = open_log(disk, segment_bytes=size)
        assert indexes(recovered) == list(range(1, 5 * life + 1))
        log.prepare()
        for index in range(5 * life + 1, 5 * life + 6):
            put(log, entry(index, 1, 700))
    assert indexes(reopen(disk)) == list(range(1, 21))


def test_preparing_keeps_one_zeroed_segment_ready_and_removes_what_no_one_needs() -> None:
    disk = new_disk()
    log, _ = open_log(disk)
    assert log.unprepared
    log.prepare()
    assert not log.unprepared
    for index in range(1, 13):
        put(log, entry(index, 1, 1000))
    first = take_snapshot(disk, log, 6)
    second = take_snapshot(disk, log, 11, keep=2)
    assert log.unprepared
    log.prepare()
    assert first.name not in disk.seen
    assert second.name in disk.seen
    segments = sorted(name for name in disk.seen if name.startswith("wal"))
    assert segments == [segment_name(number) for number in range(5, 8)]  # two entries in each; from 10 on they are kept
    assert indexes(reopen(disk)) == [12]


def test_an_installed_snapshot_replaces_the_log() -> None:
    disk = new_disk()
    log, _ = open_log(disk)
    for index in range(1, 9):
        put(log, entry(index, 1, 1000))
    file = write_snapshot(disk, 30)
    log.install_snapshot(file, HardState(4))
    put(log, entry(31, 4), term=4)
    log.prepare()
    recovered = reopen(disk)
    assert (recovered.snapshot, recovered.hard_state, indexes(recovered)) == (file, HardState(4, "b"), [31])
    assert segment_name(1) not in disk.seen


def test_a_snapshot_that_the_log_does_not_reach_is_a_broken_invariant() -> None:
    disk = new_disk()
    log, _ = open_log(disk)
    put(log, entry(1), entry(2), entry(3))
    with pytest.raises(InvariantBroken):
        log.snapshot_taken(write_snapshot(disk, 4), 1)
    with pytest.raises(InvariantBroken):
        log.snapshot_taken(write_snapshot(disk, 2), 4)
    take_snapshot(disk, log, 3)
    with pytest.raises(InvariantBroken):
        take_snapshot(disk, log, 2)


def test_what_no_state_refers_to_is_removed_at_the_start() -> None:
    disk = new_disk()
    log, _ = open_log(disk)
    put(log, entry(1), entry(2))
    write_snapshot(disk, 2)
    disk.open().allocate("snapshot-x.tmp", 10)
    disk.open().allocate("somebody's notes", 10)
    disk.crash(keep=[True] * disk.unsynced)
    open_log(disk)
    assert sorted(disk.seen) == ["somebody's notes", segment_name(1)]


def test_the_bytes_are_those_of_the_manual() -> None:
    disk = MemoryDisk()
    log, _ = Log.open(disk, "a", 7, 8 << 20)
    log.append(HardState(2, "b"), [make_entry(1, 2, EntryKind.BLOCK, 1000, b"hello")])
    log.sync()
    assert disk.read(segment_name(1), 0, SECTOR).rstrip(b"\0").hex() == (
        "f5160b97726b57020100000001000000"
        "00000000010000003b00000000000000"
        "00000000000000000000000000000000"
        "00000000010000000000011000000000"
        "0080000000000095a1610700c400c0"
    )
    assert disk.read(segment_name(1), SECTOR, SECTOR).rstrip(b"\0").hex() == (
        "a81c501a726b57020100000002000000"
        "00000000010000004a00000002000000"
        "00000000020000000000000001000000"
        "0000000001000000010062021e000000"
        "01000000000000000200000000000000"
        "02e803000000000000"
        "68656c6c6f"
    )


# -- torn tails ---------------------------------------------------------------------------------------------------------------------


def test_a_flush_of_which_any_sector_is_missing_is_cut_off() -> None:
    """Five sectors: every one of the 31 parts that are not the whole."""
    complete = new_disk()
    log, _ = open_log(complete)
    put(log, entry(1), entry(2))
    noted = complete.copy()
    log.append(HardState(2, "c"), [entry(2, 2, 2200), entry(3, 2)])
    log.sync()
    start = 2 * SECTOR
    for keep in itertools.product((False, True), repeat=5):
        disk = noted.copy()
        data = complete.seen[segment_name(1)].seen
        for number, kept in enumerate(keep):
            at = start + number * SECTOR
            if kept:
                disk.open().write(segment_name(1), at, bytes(data[at : at + SECTOR]))
        disk.crash(keep=[True] * disk.unsynced)
        recovered = reopen(disk)
        if all(keep):
            assert (recovered.entries, recovered.hard_state) == ((entry(1), entry(2, 2, 2200), entry(3, 2)), HardState(2, "c"))
        else:
            assert (recovered.entries, recovered.hard_state) == ((entry(1), entry(2)), HardState(1, "b"))
            assert not any(disk.seen[segment_name(1)].platter[start:])
        assert reopen(disk) == recovered


def test_the_log_goes_on_where_a_torn_flush_was_cut() -> None:
    disk = filled()
    disk.open().write(segment_name(1), 7 * SECTOR, bytes(SECTOR))
    disk.crash(keep=[True])
    log, recovered = open_log(disk)
    assert indexes(recovered) == [1, 2, 3, 4, 5]
    put(log, entry(6, 2))
    assert reopen(disk).entries[-1] == entry(6, 2)


def test_a_first_flush_that_was_torn_lets_the_directory_begin_anew() -> None:
    disk = new_disk()
    disk.open().allocate(segment_name(1), SEGMENT)
    disk.crash(keep=[True] * disk.unsynced)
    assert Log.open(disk.open(), "a", 9, SEGMENT)[1].identity == Identity("a", 9)


# -- rot ------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sector", "what"),
    [
        (0, "the segment's head"),
        (2, "a flush in the middle"),
        (5, "the flush before the last"),
        (6, "the head of the last flush"),
        (7, "the middle of the last flush"),
        (8, "the end of the last flush"),
    ],
)
def test_a_flipped_bit_is_told_from_a_torn_tail_wherever_it_is(sector: int, what: str) -> None:
    disk = filled()
    disk.rot(segment_name(1), sector * SECTOR + 100, 0x10)
    with pytest.raises(Corrupt, match=rf"{segment_name(1)}: sector {sector} .*never put an older copy of it in its place"):
        reopen(disk)


@pytest.mark.parametrize("sector", [9, 63])
def test_more_than_one_bit_where_nothing_was_written_may_have_been_something(sector: int) -> None:
    disk = filled()
    disk.rot(segment_name(1), sector * SECTOR + 100, 0x11)
    with pytest.raises(Corrupt, match=rf"{segment_name(1)}: sector {sector} "):
        reopen(disk)


@pytest.mark.parametrize("bit", range(0, 8 * SECTOR, 37))
def test_a_bit_that_flips_where_nothing_was_written_is_reported_and_harms_nobody(bit: int, caplog: pytest.LogCaptureFixture) -> None:
    """It stopped members that had lost nothing, a lone one for good: most of a young log is blank."""
    disk = filled()
    disk.rot(segment_name(1), 9 * SECTOR + bit // 8, 1 << bit % 8)
    log, recovered = open_log(disk)
    assert indexes(recovered) == [1, 2, 3, 4, 5, 6]
    assert f"{segment_name(1)}: a bit of sector 9 has flipped" in caplog.text
    put(log, entry(7))
    assert indexes(reopen(disk)) == [1, 2, 3, 4, 5, 6, 7]


@pytest.mark.parametrize("sector", range(6))
def test_a_sector_that_went_blank_before_the_last_flush_is_rot(sector: int) -> None:
    disk = filled()
    disk.open().write(segment_name(1), sector * SECTOR, bytes(SECTOR))
    with pytest.raises(Corrupt):
        reopen_keeping(disk)


def test_a_sector_in_the_place_of_another_is_rot() -> None:
    for source, target in itertools.permutations(range(9), 2):
        disk = filled()
        copy_sector(disk, source, target)
        with pytest.raises(Corrupt):
            reopen_keeping(disk)


def test_a_stale_sector_behind_the_end_is_rot() -> None:
    for source in range(9):
        disk = filled()
        copy_sector(disk, source, 20)
        with pytest.raises(Corrupt):
            reopen_keeping(disk)


def test_a_sector_of_another_segment_is_rot() -> None:
    disk = new_disk()
    log, _ = open_log(disk)
    for index in range(1, 8):
        put(log, entry(index, 1, 1000))
    first, second = disk.seen[segment_name(1)].seen, disk.seen[segment_name(2)].seen
    assert any(first[SECTOR * 3 : SECTOR * 4])
    disk.open().write(segment_name(2), SECTOR * 3, bytes(first[SECTOR * 3 : SECTOR * 4]))
    assert second[SECTOR * 3 : SECTOR * 4] == first[SECTOR * 3 : SECTOR * 4]
    with pytest.raises(Corrupt, match="belongs to segment 1"):
        reopen_keeping(disk)


def test_no_flipped_bit_anywhere_goes_unnoticed() -> None:
    rng = random.Random(3)
    disk = filled()
    for offset in range(9 * SECTOR):
        disk.rot(segment_name(1), offset, mask := 1 << rng.randrange(8))
        with pytest.raises((Corrupt, Incompatible)):
            open_log(disk)
        disk.rot(segment_name(1), offset, mask)
    assert indexes(reopen(disk)) == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize("size", [0, 100, SECTOR, 3 * SECTOR, 8 * SEGMENT - SECTOR, 8 * SEGMENT + SECTOR])
def test_a_segment_of_another_size_than_it_was_made_is_rot(size: int) -> None:
    disk = filled()
    data = bytes(disk.seen[segment_name(1)].seen[:size]).ljust(size, b"\0")
    disk.open().allocate(segment_name(1), 0)
    disk.open().write(segment_name(1), 0, data)
    with pytest.raises(Corrupt):
        reopen_keeping(disk)


def rolled(snapshot: int, entries: int = 12, keep: int = 0) -> SimDisk:
    """A disk with a log of several segments, one entry in each of four thirds of them, and a snapshot at the end."""
    disk = new_disk()
    log, _ = open_log(disk)
    for index in range(1, entries + 1):
        put(log, entry(index, 1, 1000))
    if snapshot:
        take_snapshot(disk, log, snapshot, keep)
    log.append(HardState(9, "c"), ())
    log.sync()
    log.prepare()
    disk.crash()
    return disk


@pytest.mark.parametrize("number", [1, 2, 3])
def test_a_missing_segment_is_rot(number: int) -> None:
    disk = rolled(0)
    disk.open().remove(segment_name(number))
    with pytest.raises(Corrupt, match=segment_name(number) if number > 1 else "entries 1 to 2 are missing"):
        reopen_keeping(disk)


def test_a_log_whose_newest_segment_is_missing_is_rot_while_the_one_prepared_behind_it_is_there() -> None:
    disk = rolled(0)
    newest = sorted(disk.seen)[-2]
    disk.open().remove(newest)
    with pytest.raises(Corrupt, match=newest):
        reopen_keeping(disk)


@pytest.mark.parametrize("number", [1, 2, 3])
def test_rot_in_a_segment_that_lies_below_the_snapshot_is_thrown_away_with_it(number: int) -> None:
    disk = rolled(snapshot=12, keep=12)
    assert segment_name(1) in disk.seen
    disk.rot(segment_name(number), 700)
    recovered = reopen(disk)
    assert (indexes(recovered), recovered.hard_state) == ([], HardState(9, "c"))
    assert recovered.snapshot
    assert recovered.snapshot.meta.index == 12
    assert segment_name(number) not in disk.seen
    assert reopen(disk) == recovered


def test_rot_above_the_snapshot_is_refused_also_when_the_newest_segment_holds_no_entry() -> None:
    """The newest segment says how far the log went before it, so it is known that the rotten ones held what counts."""
    disk = new_disk()
    log, _ = open_log(disk)
    put(log, entry(1))
    take_snapshot(disk, log, 1)
    put(log, *[entry(index, 1, 1000) for index in (2, 3)])
    term = 1
    while segment_name(3) not in disk.seen:
        term += 1
        log.append(HardState(term), ())
        log.sync()
    disk.crash()
    disk.rot(segment_name(2), 700)
    with pytest.raises(Corrupt, match=segment_name(2)):
        reopen(disk)


def test_rot_in_the_newest_segment_is_never_passed_over() -> None:
    disk = rolled(snapshot=12, keep=12)
    disk.rot(sorted(name for name in disk.seen if name.startswith("wal"))[-2], 700)
    with pytest.raises(Corrupt):
        reopen(disk)


def test_a_log_that_is_gone_while_its_snapshot_is_there_is_not_taken_for_an_empty_directory() -> None:
    disk = rolled(snapshot=12)
    for name in [name for name in disk.seen if name.startswith("wal")]:
        disk.open().remove(name)
    with pytest.raises(Corrupt, match="no log"):
        reopen_keeping(disk)


def test_a_snapshot_that_is_missing_cut_or_another_is_rot() -> None:
    for damage in ("missing", "cut", "another"):
        disk = rolled(snapshot=12)
        name = next(name for name in disk.seen if name.startswith("snapshot"))
        door = disk.open()
        if damage == "missing":
            door.remove(name)
        elif damage == "cut":
            data = door.read(name, 0, door.size(name) - 1)
            door.allocate(name, 0)
            door.write(name, 0, data)
        else:
            other = write_snapshot(disk, 11)
            door.rename(other.name, name)
        with pytest.raises(Corrupt, match=name):
            reopen_keeping(disk)


def copy_sector(disk: SimDisk, source: int, target: int) -> None:
    door = disk.open()
    door.write(segment_name(1), target * SECTOR, door.read(segment_name(1), source * SECTOR, SECTOR))


def reopen_keeping(disk: SimDisk) -> Recovered:
    disk.crash(keep=[True] * disk.unsynced)
    return open_log(disk)[1]


# -- what is refused ------------------------------------------------------------------------------------------------------------------


def test_the_directory_of_another_member_is_refused_naming_both() -> None:
    disk = filled()
    before = bytes(disk.seen[segment_name(1)].platter)
    with pytest.raises(WrongCluster, match=r"'a'.*'other'"):
        open_log(disk, "other")
    assert (bytes(disk.seen[segment_name(1)].platter), disk.unsynced) == (before, 0)
    assert indexes(open_log(disk)[1]) == [1, 2, 3, 4, 5, 6]


def test_a_directory_in_use_is_refused_and_free_again_after_close() -> None:
    disk = new_disk()
    log, _ = open_log(disk)
    with pytest.raises(DirectoryInUse):
        open_log(disk)
    log.close()
    log.close()
    open_log(disk)


def flush_bytes(segment: int, flush: int, sector: int, records: Sequence[bytes], vote: str | None = None) -> bytes:
    return encode_flush(segment, flush, sector, HardState(1, vote), Position(1, 10), records, len(records))


def hand_made(segment: int, flush: int, *records: bytes, vote: str | None = None, form: bytes | None = None) -> SimDisk:
    disk = new_disk()
    door = disk.open()
    door.allocate(segment_name(segment), SEGMENT)
    data = flush_bytes(segment, flush, 0, records, vote)
    door.write(segment_name(segment), 0, data)
    return disk


def head(**changes: object) -> bytes:
    known: dict[str, object] = {"size": SEGMENT, "identity": Identity("a", 7), "last_index": 0, "founding": b"", "snapshot": None}
    return encode_record(RecordKind.HEAD, encode_head(Head(**(known | changes))))  # type: ignore[arg-type]


def test_a_format_of_a_later_version_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("replkv.wal_format._FORMAT", b"rkW\x03")
        disk = hand_made(1, 1, head())
    with pytest.raises(Incompatible, match="upgrade"):
        reopen_keeping(disk)


@pytest.mark.parametrize(
    "records",
    [
        (b"\x63\x00\x00\x00\x00",),
        (encode_record(RecordKind.ENTRY, entry(1).encoded[:16] + b"\x63" + bytes(8)),),
        (encode_record(RecordKind.ENTRY, b"short"),),
        (encode_record(RecordKind.SNAPSHOT_TAKEN, codec.pack(("snapshot", 1))),),
        (encode_record(RecordKind.SNAPSHOT_TAKEN, b"\xc1"),),
    ],
)
def test_a_record_that_only_another_version_can_have_written_is_refused(records: tuple[bytes, ...]) -> None:
    with pytest.raises(Incompatible, match="upgrade"):
        reopen_keeping(hand_made(1, 1, head(), *records))


@pytest.mark.parametrize(
    ("segment", "flush", "records"),
    [
        (1, 2, (head(),)),  # flush 1 is missing
        (1, 1, ()),  # no head
        (1, 1, (encode_record(RecordKind.ENTRY, entry(1).encoded),)),
        (1, 1, (head(size=SEGMENT - SECTOR),)),
        (1, 1, (head(), encode_record(RecordKind.ENTRY, entry(2).encoded))),
        (1, 1, (head(), b"\x02\xff\xff\xff\x00")),  # a record longer than its flush
        (1, 1, (head(), b"\x02")),
        (2, 9, (head(last_index=5),)),  # entries 1 to 5 are nowhere
        (2, 9, (head(last_index=5), encode_record(RecordKind.ENTRY, entry(4).encoded))),
    ],
)
def test_a_log_that_contradicts_itself_is_rot_although_its_checksums_are_right(
    segment: int, flush: int, records: tuple[bytes, ...]
) -> None:
    with pytest.raises(Corrupt):
        reopen_keeping(hand_made(segment, flush, *records))


def add_flush(disk: SimDisk, segment: int, flush: int, sector: int, *records: bytes, sectors: int = 99) -> None:
    data = flush_bytes(segment, flush, sector, records)[: sectors * SECTOR]
    disk.open().write(segment_name(segment), sector * SECTOR, data)


@pytest.mark.parametrize("case", ["whole behind torn", "torn behind torn", "whole behind blank", "torn behind blank"])
def test_a_segment_that_is_written_to_although_the_one_before_it_was_not_finished_is_rot(case: str) -> None:
    disk = hand_made(1, 1, head())
    door = disk.open()
    for number in (2, 3):
        door.allocate(segment_name(number), SEGMENT)
    long = encode_record(RecordKind.ENTRY, entry(1, 1, 1000).encoded)
    if case.endswith("behind torn"):
        add_flush(disk, 1, 2, 1, long, sectors=1)
        add_flush(disk, 2, 2, 0, head(), long, sectors=99 if case.startswith("whole") else 1)
    else:
        add_flush(disk, 3, 2, 0, head(), long, sectors=99 if case.startswith("whole") else 1)
    with pytest.raises(Corrupt):
        reopen_keeping(disk)


@pytest.mark.parametrize(
    "changes", [{}, {"identity": Identity("a", 8)}, {"last_index": 0}, {"last_index": 2}, {"founding": entry(1).encoded}]
)
def test_a_segment_whose_head_contradicts_the_segment_before_it_is_rot(changes: dict[str, object]) -> None:
    disk = hand_made(1, 1, head(), encode_record(RecordKind.ENTRY, entry(1).encoded))
    disk.open().allocate(segment_name(2), SEGMENT)
    add_flush(disk, 2, 2, 0, head(**({"last_index": 1} | changes)))
    if not changes:
        assert indexes(reopen_keeping(disk)) == [1]
        return
    with pytest.raises(Corrupt, match="does not go on"):
        reopen_keeping(disk)


def test_a_sector_behind_the_end_of_a_torn_flush_is_rot_although_it_bears_its_number() -> None:
    disk = filled()
    number = 8  # the head's flush is 1, the last of filled() is 7
    data, torn = (
        flush_bytes(1, number, 12, [encode_record(RecordKind.ENTRY, entry(7).encoded)], "b"),
        flush_bytes(1, number, 9, [encode_record(RecordKind.ENTRY, entry(7, 1, 600).encoded)], "b"),
    )
    disk.open().write(segment_name(1), 9 * SECTOR, torn[:SECTOR])
    assert indexes(reopen_keeping(disk.copy())) == [1, 2, 3, 4, 5, 6]
    disk.open().write(segment_name(1), 12 * SECTOR, data)
    with pytest.raises(Corrupt, match="is missing"):
        reopen_keeping(disk)


def test_an_installed_snapshot_drops_also_what_lies_behind_it() -> None:
    disk = new_disk()
    log, _ = open_log(disk)
    put(log, *[entry(index) for index in range(1, 9)])
    log.install_snapshot(write_snapshot(disk, 5), HardState(2))
    assert log.last_index == 5
    assert indexes(reopen(disk)) == []
    disk.crash()
    log, _ = open_log(disk)
    put(log, entry(6, 2), term=2)
    assert reopen(disk).entries == (entry(6, 2),)


def test_a_segment_head_that_is_none_is_refused() -> None:
    for body in (b"", bytes(8), bytes(8) + codec.pack((1, 2)), bytes(8) + codec.pack(("a", 7, 0, b"", 5))):
        with pytest.raises(Incompatible):
            reopen_keeping(hand_made(1, 1, encode_record(RecordKind.HEAD, body)))


# -- a disk that fails ------------------------------------------------------------------------------------------------------------------


def test_after_a_failed_sync_nothing_is_ever_called_durable_again() -> None:
    disk = new_disk()
    log, _ = open_log(disk)
    put(log, entry(1))
    disk.fail_sync_in = 0
    log.append(None, [entry(2)])
    with pytest.raises(StorageError) as first:
        log.sync()
    for _ in range(3):
        with pytest.raises(StorageError) as again:
            log.sync()
        assert again.value is first.value
    log.append(None, [entry(3)])
    with pytest.raises(StorageError):
        log.sync()
    with pytest.raises(StorageError):
        log.prepare()
    assert indexes(reopen(disk)) == [1]


def test_a_full_disk_stops_the_log_and_loses_nothing_that_was_synced() -> None:
    disk = new_disk()
    log, _ = open_log(disk)
    disk.capacity = 2 * SEGMENT
    for index in range(1, 5):
        put(log, entry(index, 1, 1000))
    log.append(None, [entry(5, 1, 1000)])
    with pytest.raises(DiskFull):
        log.sync()
    with pytest.raises(DiskFull):
        log.sync()
    disk.capacity = None
    assert indexes(reopen(disk)) == [1, 2, 3, 4]


def test_a_sync_that_was_interrupted_counts_as_failed() -> None:
    disk = new_disk()
    log, _ = open_log(disk)
    door = disk.door
    assert door

    def interrupt(name: str) -> None:
        raise KeyboardInterrupt

    door.sync = interrupt  # type: ignore[method-assign]
    log.append(None, [entry(1)])
    with pytest.raises(KeyboardInterrupt):
        log.sync()
    with pytest.raises(StorageError, match="KeyboardInterrupt"):
        log.sync()


def test_a_log_in_memory_keeps_no_zeros() -> None:
    disk = MemoryDisk()
    began = time.perf_counter()
    log, _ = Log.open(disk, "a", 7, 1 << 29)
    log.prepare()
    put(log, entry(1))
    assert time.perf_counter() - began < 0.1
    assert sum(len(data) for _, data in disk._files.values()) < 4096


# -- real files ------------------------------------------------------------------------------------------------------------------------


WRITE = """
import sys
from replkv.codec import make_entry
from replkv.disk import RealDisk
from replkv.log import Log
from replkv.messages import EntryKind
log, recovered = Log.open(RealDisk(sys.argv[1]), "a", 7, 16384)
index = log.last_index
while True:
    index += 1
    log.append(None, [make_entry(index, 1, EntryKind.BLOCK, 0, b"%d " % index * (index % 700))])
    log.sync()
    if log.unprepared:
        log.prepare()
    print(index, flush=True)
"""


def test_a_process_that_is_killed_forgets_nothing_it_has_told(tmp_path: pathlib.Path) -> None:
    told = 0
    for life in range(3):
        with subprocess.Popen([sys.executable, "-c", WRITE, tmp_path / "d"], stdout=subprocess.PIPE) as process:
            assert process.stdout
            for _ in range(40 + 13 * life):
                told = int(process.stdout.readline())
            process.kill()
            rest = process.stdout.read().split(b"\n")[:-1]
        told = int(rest[-1]) if rest else told
        log, recovered = Log.open(RealDisk(tmp_path / "d"), "a", 8, 16384)
        assert indexes(recovered) == list(range(1, len(recovered.entries) + 1))
        assert [e.payload for e in recovered.entries] == [b"%d " % i * (i % 700) for i in indexes(recovered)]
        assert told <= log.last_index <= told + 1
        log.close()


def test_another_thread_may_prepare_while_the_log_is_written(tmp_path: pathlib.Path) -> None:
    log, _ = Log.open(RealDisk(tmp_path / "d"), "a", 7, SEGMENT)
    done = threading.Event()

    def prepare() -> None:
        while not done.is_set():
            if log.unprepared:
                log.prepare()

    thread = threading.Thread(target=prepare)
    thread.start()
    for index in range(1, 200):
        put(log, entry(index, 1, 700))
    done.set()
    thread.join()
    log.close()
    log, recovered = Log.open(RealDisk(tmp_path / "d"), "a", 7, SEGMENT)
    assert indexes(recovered) == list(range(1, 200))
    log.close()


# -- anything at all --------------------------------------------------------------------------------------------------------------------

quick = settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def try_to_open(disk: SimDisk) -> Recovered | None:
    began = time.perf_counter()
    try:
        return reopen_keeping(disk)
    except (Corrupt, Incompatible, WrongCluster):
        return None
    finally:
        assert time.perf_counter() - began < 1.0


@quick
@given(st.lists(st.binary(max_size=2048), max_size=3))
def test_random_bytes_as_segments_are_refused(contents: list[bytes]) -> None:
    disk = new_disk()
    for number, data in enumerate(contents, 1):
        disk.open().allocate(segment_name(number), 0)
        disk.open().write(segment_name(number), 0, data)
    recovered = try_to_open(disk)
    assert recovered is None or not any(any(data) for data in contents)


@quick
@given(st.data())
def test_random_records_with_right_checksums_are_read_or_refused(data: st.DataObject) -> None:
    kinds = st.sampled_from(RecordKind)
    bodies = st.one_of(st.binary(max_size=300), st.builds(lambda n: entry(n).encoded, st.integers(0, 5)))
    records = data.draw(st.lists(st.builds(encode_record, kinds, bodies), max_size=5))
    try_to_open(hand_made(1, 1, *([head()] if data.draw(st.booleans()) else []), *records))


@quick
@given(st.lists(st.tuples(st.integers(0, 10 * SECTOR - 1), st.binary(min_size=1, max_size=40)), min_size=1, max_size=4))
def test_any_damage_is_refused_or_changed_nothing(damage: list[tuple[int, bytes]]) -> None:
    disk = filled()
    before = bytes(disk.seen[segment_name(1)].seen)
    for offset, data in damage:
        disk.open().write(segment_name(1), offset, data)
    after = bytes(disk.seen[segment_name(1)].seen)
    recovered = try_to_open(disk)
    if recovered is not None:
        changed = {at // SECTOR for at in range(len(after)) if after[at] != before[at]}
        assert not changed or all(sector >= 6 and not any(sectors(after, sector)) for sector in changed)


def sectors(data: bytes, number: int) -> bytes:
    return data[number * SECTOR : (number + 1) * SECTOR]
