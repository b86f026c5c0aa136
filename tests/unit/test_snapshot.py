from __future__ import annotations

import contextlib
import hashlib
import random
import struct
import time
import tracemalloc
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from replkv.codec import NO_CLUSTER, unpack
from replkv.codec import pack as pack_value
from replkv.disk import MemoryDisk
from replkv.errors import Corrupt, Incompatible, InvariantBroken, StorageError
from replkv.machine import CHUNK_MAX
from replkv.messages import Configuration, SnapshotMeta
from replkv.snapshot import (
    SnapshotFile,
    SnapshotParser,
    SnapshotReceiver,
    SnapshotWriter,
    is_snapshot,
    open_snapshot,
    read_snapshot,
    snapshot_name,
)
from replkv.testing.disk import SimDisk

META = SnapshotMeta(41, 3, Configuration(("a", "b"), learners=("c",), members={"a": 1, "b": 2, "c": 3}))
CLUSTER = bytes(range(16))


def write(disk: MemoryDisk, chunks: Iterable[bytes], meta: SnapshotMeta = META) -> SnapshotFile:
    writer = SnapshotWriter(disk, meta, CLUSTER, chunks)
    while (file := writer.step()) is None:
        pass
    return file


def raw(chunks: Sequence[bytes]) -> bytes:
    disk = MemoryDisk()
    file = write(disk, chunks)
    return disk.read(file.name, 0, file.size)


def put(disk: MemoryDisk, data: bytes) -> None:
    disk.allocate(snapshot_name(META), 0)
    disk.write(snapshot_name(META), 0, data)


def read_all(data: bytes, file: SnapshotFile | None = None) -> list[bytes]:
    """Open and read a snapshot file of these bytes."""
    disk = MemoryDisk()
    put(disk, data)
    return list(read_snapshot(disk, file or open_snapshot(disk, snapshot_name(META))))


# -- what is kept -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("chunks", [[], [b"x"], [b"one", b"two" * 9000, b"x" * CHUNK_MAX], [random.Random(1).randbytes(CHUNK_MAX)] * 3])
def test_the_chunks_come_back_as_they_were_written(chunks: list[bytes]) -> None:
    disk = MemoryDisk()
    file = write(disk, chunks)
    assert list(read_snapshot(disk, file)) == chunks
    assert file == SnapshotFile(snapshot_name(META), META, CLUSTER, disk.size(file.name), hashlib.sha256(b"".join(chunks)).digest())
    assert open_snapshot(disk, file.name) == file
    assert SnapshotFile.from_wire(unpack(pack_value(file.to_wire()))) == file


def test_one_step_takes_one_chunk_and_nothing_has_the_real_name_before_the_last() -> None:
    taken = []

    def chunks() -> Iterator[bytes]:
        for number in range(3):
            taken.append(number)
            yield bytes([number])

    disk = MemoryDisk()
    writer = SnapshotWriter(disk, META, CLUSTER, chunks())
    for number in range(3):
        assert writer.step() is None
        assert taken == list(range(number + 1))
        assert not any(is_snapshot(name) for name in disk.list())
    assert writer.step() is not None
    assert disk.list() == [snapshot_name(META)]


def test_empty_chunks_are_left_out() -> None:
    disk = MemoryDisk()
    assert list(read_snapshot(disk, write(disk, [b"", b"a", b"", b"b"]))) == [b"a", b"b"]


def test_a_chunk_that_could_not_be_read_back_is_not_written() -> None:
    writer = SnapshotWriter(MemoryDisk(), META, CLUSTER, [bytes(CHUNK_MAX + 1)])
    with pytest.raises(InvariantBroken):
        writer.step()


def test_an_abandoned_snapshot_leaves_nothing() -> None:
    disk = MemoryDisk()
    writer = SnapshotWriter(disk, META, CLUSTER, [b"a", b"b"])
    writer.step()
    writer.abandon()
    receiver = SnapshotReceiver(disk, META, 100)
    receiver.abandon()
    assert disk.list() == []


def test_a_finished_snapshot_is_durable_with_its_name() -> None:
    disk = SimDisk(random.Random(0))
    door = disk.open()
    writer = SnapshotWriter(door, META, CLUSTER, [b"a", b"b"])
    while (file := writer.step()) is None:
        pass
    disk.crash(keep=[False] * disk.unsynced)
    assert list(read_snapshot(disk.open(), file)) == [b"a", b"b"]


def test_a_large_snapshot_is_synced_as_it_grows() -> None:
    disk = SimDisk(random.Random(0))
    syncs: list[float] = []
    writer = SnapshotWriter(disk.open(syncs.append), META, CLUSTER, [random.Random(n).randbytes(CHUNK_MAX) for n in range(40)])
    while writer.step() is None:
        pass
    assert len(syncs) == 3


def test_the_bytes_are_those_of_the_manual() -> None:
    disk = MemoryDisk()
    meta = SnapshotMeta(5, 2, Configuration(("a",), members={"a": 7}, addresses={"a": "tcp://a:1"}))
    file = write(disk, [b"state of five"], meta)
    data = disk.read(file.name, 0, file.size)
    assert file.name == "snapshot-0000000000000005-0000000000000002"
    assert data[:0x3F].hex() == (
        "726b536e617001002f0000006a4ebef692c410000102030405060708090a0b0c0d0e0f9305029591a16190909192a161079192a161a97463703a2f2f613a31"
    )
    assert data[0x3F:0x4B].hex() == "1a0000000d000000c68b4054"
    assert data[0x54:0x61] == b"state of five"
    assert data[0x65:] == bytes(8) + (13).to_bytes(8, "little") + file.sha256 + bytes.fromhex("58205243")


# -- damage -----------------------------------------------------------------------------------------------------------------------


def test_no_flipped_bit_goes_unnoticed() -> None:
    data = bytearray(raw([b"first chunk " * 9, b"second"]))
    for at in range(len(data)):
        for bit in range(8):
            data[at] ^= 1 << bit
            with pytest.raises((Corrupt, Incompatible)):
                read_all(bytes(data))
            data[at] ^= 1 << bit


def test_a_snapshot_that_is_cut_anywhere_is_refused() -> None:
    data = raw([b"first chunk " * 9, b"second"])
    disk = MemoryDisk()
    file = write(disk, [b"first chunk " * 9, b"second"])
    for size in range(len(data)):
        with pytest.raises(Corrupt):
            read_all(data[:size])
        with pytest.raises(Corrupt):
            read_all(data[:size], file)


def test_bytes_behind_the_end_are_refused() -> None:
    data = raw([b"chunk"])
    for more in (b"\0", data, data[-52:]):
        with pytest.raises(Corrupt):
            read_all(data + more)


def test_chunks_in_another_order_or_left_out_are_refused() -> None:
    head, frames = split(raw([b"first", b"other", b"third"]))
    for order in ((1, 0, 2, 3), (0, 2, 3), (0, 1, 1, 2, 3), (0, 1, 2)):
        with pytest.raises(Corrupt):
            read_all(head + b"".join(frames[number] for number in order))


def test_the_file_of_another_snapshot_is_refused_although_it_is_whole() -> None:
    disk = MemoryDisk()
    file = write(disk, [b"state"])
    with pytest.raises(Corrupt):
        read_all(raw([b"other"]), file)


def split(data: bytes) -> tuple[bytes, list[bytes]]:
    """Return the header, and the frames with the trailer as the last of them."""
    at = 16 + struct.unpack_from("<I", data, 8)[0]
    head, frames = data[:at], []
    while length := struct.unpack_from("<I", data, at)[0]:
        frames.append(data[at : at + 12 + length])
        at += 12 + length
    return head, [*frames, data[at:]]


def frame(packed: bytes, plain: int) -> bytes:
    numbers = struct.pack("<II", len(packed), plain)
    return numbers + struct.pack("<I", zlib.crc32(numbers + packed)) + packed


def pack(plain: bytes) -> bytes:
    return zstandard.ZstdCompressor().compress(plain)


@pytest.mark.parametrize(
    "make",
    [
        lambda: frame(pack(b"abc"), 4),
        lambda: frame(pack(bytes(1 << 26)), 1000),
        lambda: frame(pack(bytes(CHUNK_MAX + 1)), CHUNK_MAX + 1),
        lambda: frame(pack(b"abc") + pack(b"def"), 3),
        lambda: frame(b"no zstd at all", 14),
        lambda: frame(b"", 14),
        lambda: frame(pack(b"abc"), 0),
        lambda: frame(zstandard.ZstdCompressor(write_content_size=False).compressobj().compress(b"abc") + b"x", 3),
        lambda: frame(pack(b"abc")[:-1], 3),
        lambda: struct.pack("<III", 0xFFFFFFFF, 5, 0),
        lambda: struct.pack("<III", 5, 0xFFFFFFFF, 0),
    ],
)
def test_a_frame_that_lies_is_refused_before_it_costs_memory(make: Callable[[], bytes]) -> None:
    head, _ = split(raw([b"x"]))
    parser = SnapshotParser("a test")
    data = head + make()
    tracemalloc.start()
    try:
        with pytest.raises(Corrupt):
            list(parser.feed(data + bytes(100)))
        assert tracemalloc.get_traced_memory()[1] < 4 * CHUNK_MAX
    finally:
        tracemalloc.stop()


def test_a_later_format_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("replkv.snapshot._VERSION", 2)
        data = raw([b"x"])
    with pytest.raises(Incompatible, match="upgrade"):
        read_all(data)


# -- receiving --------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 7, 100, 1 << 20])
def test_a_snapshot_arrives_in_pieces_of_any_size(size: int) -> None:
    chunks = [random.Random(2).randbytes(3000), b"end"]
    data, disk = raw(chunks), MemoryDisk()
    receiver = SnapshotReceiver(disk, META, len(data))
    while not receiver.complete:
        receiver.add(receiver.offset, data[receiver.offset : receiver.offset + size])
    file = receiver.finish()
    assert list(read_snapshot(disk, file)) == chunks
    assert file == open_snapshot(disk, file.name)
    assert disk.list() == [file.name]


def test_pieces_that_come_twice_or_too_early_are_ignored() -> None:
    data, disk = raw([b"state" * 100]), MemoryDisk()
    receiver = SnapshotReceiver(disk, META, len(data))
    for offset in (10, 0, 0, 20, 10, 5, 20, 30):
        receiver.add(offset, data[offset : offset + 10])
    assert receiver.offset == 40
    receiver.add(40, data[40:])
    assert list(read_snapshot(disk, receiver.finish())) == [b"state" * 100]


def test_a_snapshot_that_is_not_the_announced_one_is_refused() -> None:
    data, disk = raw([b"state"]), MemoryDisk()
    with pytest.raises(Corrupt, match="another"):
        SnapshotReceiver(disk, SnapshotMeta(42, 3, META.configuration), len(data)).add(0, data)
    with pytest.raises(Corrupt, match="behind its end"):
        SnapshotReceiver(disk, META, len(data) - 1).add(0, data)
    receiver = SnapshotReceiver(disk, META, len(data))
    receiver.add(0, data[:-1])
    with pytest.raises(Corrupt, match="ends after"):
        receiver.finish()
    receiver = SnapshotReceiver(disk, META, len(data) - 1)
    receiver.add(0, data[:-1])
    with pytest.raises(Corrupt, match="ends after"):
        receiver.finish()


def test_damage_on_the_way_is_noticed_with_the_piece_it_is_in() -> None:
    data = bytearray(raw([random.Random(3).randbytes(200), b"second" * 100]))
    data[200] ^= 1
    receiver = SnapshotReceiver(MemoryDisk(), META, len(data))
    with pytest.raises(Corrupt):
        receiver.add(0, bytes(data[:-60]))


def test_a_snapshot_file_that_is_not_there_is_a_storage_error() -> None:
    with pytest.raises(StorageError):
        open_snapshot(MemoryDisk(), snapshot_name(META))


# -- anything at all ----------------------------------------------------------------------------------------------------------------

quick = settings(max_examples=400, deadline=None)


def check_anything(data: bytes) -> None:
    began = time.perf_counter()
    with contextlib.suppress(Corrupt, Incompatible):
        read_all(data)
    assert time.perf_counter() - began < 1.0


@quick
@given(st.binary(max_size=3000))
def test_random_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(Corrupt):
        read_all(data)


@quick
@given(st.lists(st.tuples(st.integers(0, 400), st.binary(max_size=30)), min_size=1, max_size=4))
def test_a_damaged_snapshot_is_refused_or_is_the_one_that_was_written(damage: list[tuple[int, bytes]]) -> None:
    chunks = [b"first chunk " * 9, random.Random(5).randbytes(200)]
    whole = raw(chunks)
    data = bytearray(whole)
    for offset, piece in damage:
        data[offset : offset + len(piece)] = piece
    try:
        assert read_all(bytes(data)) == chunks
    except (Corrupt, Incompatible):
        assert bytes(data) != whole


@quick
@given(st.binary(max_size=500), st.binary(max_size=500))
def test_random_frames_behind_a_right_header_are_refused(first: bytes, second: bytes) -> None:
    head, frames = split(raw([b"x"]))
    for data in (head + first + frames[-1], head + frame(first, len(second)) + frames[-1], head + frames[0] + second):
        check_anything(data)


def test_no_cluster_is_a_cluster_of_its_own() -> None:
    assert SnapshotParser("a test").cluster == NO_CLUSTER
