"""Traps that others have fallen into, or we: each input once, by name, and what must come of it."""

from __future__ import annotations

import functools
import hashlib
import itertools
import random
import struct
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import budget
import forms
import mutation
import pytest
import readers
import zstandard
from attrs import evolve
from targets import TARGETS

from replkv import codec, ops, wire
from replkv import messages as m
from replkv.codec import BLOCK_MAX, DecodeError
from replkv.config import MAY_BE_OFF, Settings
from replkv.disk import MemoryDisk
from replkv.errors import Corrupt, Incompatible
from replkv.kv import run
from replkv.log import Log, Recovered
from replkv.machine import CHUNK_MAX, Machine
from replkv.messages import NOWHERE, Configuration, EntryKind, HardState, SnapshotMeta
from replkv.raft import Raft, Restored, Timing
from replkv.snapshot import SnapshotFile, SnapshotParser, SnapshotReceiver, is_snapshot
from replkv.testing.raft_check import check_raft
from replkv.valuecodec import JSON, MSGPACK, Undecodable
from replkv.wal_format import SECTOR

LARGEST = (1 << 63) - 1


def costs_little(work: Callable[[], object], size: int) -> None:
    """Check that reading so many bytes keeps to the budget, also with what libraries in C take."""
    budget.check(work, size)
    resident = budget.resident_of(work)
    assert resident is None or resident <= budget.allowance(size).memory


def refuses(read: Callable[[bytes], object], data: bytes, error: type[Exception] = DecodeError) -> None:
    """Check that bytes are refused, and cost little."""
    with pytest.raises(error):
        read(data)

    def attempt() -> None:
        with pytest.raises(error):
            read(data)

    costs_little(attempt, len(data))


# -- msgpack: claims -------------------------------------------------------------------------------------------------------------------

UNPACKERS: dict[str, tuple[Callable[[bytes], object], type[Exception]]] = {
    "head of a frame": (lambda data: codec.decode_frame(framed(m.Ping, data)), DecodeError),
    "batch": (readers.read_batch, DecodeError),
    "block": (lambda data: codec.decode_block(b"\0" + data), DecodeError),
    "packed block": (readers.read_packed_block, DecodeError),
    "configuration": (codec.decode_configuration, DecodeError),
    "state": (lambda data: Machine.load([struct.pack("<I", len(data)) + data]), DecodeError),
    "value of a user": (MSGPACK.decode, Undecodable),
}

unpackers = pytest.mark.parametrize(("read", "error"), UNPACKERS.values(), ids=UNPACKERS)


def framed(kind: type, head: bytes, bulk: bytes = b"") -> bytes:
    """Return a frame with a right checksum around any head and bulk."""
    number = codec._WRITERS[kind][0]
    envelope = struct.pack("<BBI16sQQ", codec.VERSIONS[1], number, len(head), forms.CLUSTER, 7, 9)
    return mutation.seal_frame(bytes(6) + envelope + head + bulk)


@unpackers
@pytest.mark.parametrize("head", ["dd", "df", "c6", "db", "c9"])
def test_four_billion_items_claimed_in_five_bytes(read: Callable[[bytes], object], error: type[Exception], head: str) -> None:
    for rest in (b"", bytes(60_000)):
        refuses(read, bytes.fromhex(head) + b"\xff\xff\xff\xff" + rest, error)


@unpackers
def test_a_thousand_nested_heads_that_each_claim_all_that_follows(read: Callable[[bytes], object], error: type[Exception]) -> None:
    """Some releases of msgpack take seconds for these, or all memory."""
    for size in (500, 60_000):
        for head in (b"\xdd" + struct.pack(">I", size), b"\xdc\xff\xff", b"\xdf" + struct.pack(">I", size // 2) + b"\x00"):
            refuses(read, head * min(1000, size // len(head) // 2) + bytes(size), error)


def test_a_dump_whose_version_is_a_list_nested_almost_too_deep_for_the_stack() -> None:
    """The text of the error was to show it: that took one call for each list, and ended with another error."""
    for depth in (500, 990, 1020):
        part = b"\x91" * depth + b"\x90"
        with pytest.raises(DecodeError):
            Machine.load([struct.pack("<I", len(part)) + part])


@unpackers
def test_deeper_nesting_than_the_stack(read: Callable[[bytes], object], error: type[Exception]) -> None:
    for depth in (1025, 5000, 60_000):
        refuses(read, b"\x91" * depth + b"\x90", error)


def test_a_million_empty_maps_in_a_megabyte() -> None:
    count = 1_000_000
    maps = b"\xdd" + struct.pack(">I", count) + b"\x80" * count
    costs_little(lambda: MSGPACK.decode(maps), len(maps))
    refuses(lambda data: codec.unpack(data, BLOCK_MAX), maps)
    refuses(readers.read_batch, maps)
    refuses(lambda data: codec.decode_block(b"\0" + data), maps)


def test_what_json_takes_a_long_time_for() -> None:
    for data in (
        b"[" * 60_000,
        b'{"a":' * 12_000,
        b"9" * 60_000,
        b"-" * 60_000,
        b"1e999",
        b"NaN",
        b"[Infinity]",
        b'"\xff"',
        b"\xef\xbb\xbf1",
    ):
        refuses(JSON.decode, data, Undecodable)


# -- msgpack: values that are no values, or not ours -----------------------------------------------------------------------------------

ODD = {
    "NaN": "cb7ff8000000000000",
    "a negative zero": "cb8000000000000000",
    "a float of 32 bits": "ca00000000",
    "a timestamp of 4 bytes": "d6ff00000001",
    "a timestamp of 8 bytes": "d7ff0000000000000001",
    "a timestamp of 12 bytes": "c70cff000000000000000000000000",
    "an extension": "d40500",
    "an empty extension": "c70005",
    "a map": "81a16101",
    "a key twice": "82a16101a16102",
    "a map as a key": "818001",
    "a list as a key": "819001",
    "text that is no UTF-8": "a2fffe",
    "a lone surrogate": "a3eda080",
    "the byte that is never used": "c1",
    "2**63": "cf8000000000000000",
    "2**64 - 1": "cfffffffffffffffff",
    "-1": "ff",
    "-2**63": "d38000000000000000",
    "1 in two bytes": "cc01",
    "1 in nine bytes": "cf0000000000000001",
    "1 as it is with a sign": "d001",
    "true": "c3",
    "nil": "c0",
    "1.0": "cb3ff0000000000000",
}

NEVER_WRITTEN = {what for what in ODD if what.startswith(("a timestamp", "an ", "a map", "a key", "a list", "text", "a lone", "the byte"))}


@pytest.mark.parametrize("what", ODD)
def test_what_we_never_write_is_no_value_of_ours(what: str) -> None:
    data = bytes.fromhex(ODD[what])
    for value in (data, b"\x91" + data, b"\x92\x01" + data):
        if what in NEVER_WRITTEN:
            refuses(codec.unpack, value)
        else:
            codec.unpack(value)


PLACES: dict[str, tuple[Callable[[bytes], object], str]] = {
    "the term of a vote": (lambda head: codec.decode_frame(framed(m.Vote, head)), "95 {} 01 01 c2 c2"),
    "the sequence of a batch": (readers.read_batch, "95 01 {} 01 c0 90"),
    "the revision of a get": (readers.read_batch, "95 01 01 01 c0 91 93 05 c4016b {}"),
    "the id of a grant": (readers.read_batch, "95 01 01 01 c0 91 94 0a {} 0a 01"),
    "the ttl of a put": (readers.read_batch, "95 01 01 01 c0 91 96 07 c4016b c40176 c2 00 {}"),
    "the expected revision of a put": (readers.read_batch, "95 01 01 01 c0 91 94 08 c4016b {} 94 01 c4016b c40176 c2"),
    "the revision of a guard": (readers.read_batch, "95 01 01 01 c0 91 94 0e c4016b {} 94 01 c4016b c40176 c2"),
    "an incarnation": (codec.decode_configuration, "95 91a161 90 90 91 92 a161 {} 90"),
}


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("what", ODD)
def test_a_number_that_is_none_or_is_written_in_another_way(place: str, what: str) -> None:
    read, form = PLACES[place]
    read(bytes.fromhex(form.format("01")))
    data = bytes.fromhex(form.format(ODD[what]))
    fits = (place == "an incarnation" and what.startswith("2**")) or (place == "the term of a vote" and what.startswith("1 "))  # not logged
    if fits:
        read(data)
    else:
        with pytest.raises(DecodeError):
            read(data)


@pytest.mark.parametrize("tail", [b"\0", b"\xc0", b"\x90", bytes(100)])
def test_bytes_behind_the_end(tail: bytes) -> None:
    for name in ("frame", "batch", "block", "founding", "configuration", "pointer", "head", "msgpack", "snapshot", "received", "state"):
        target = TARGETS[name]
        for variant in target.variants(target.seeds()[0] + tail):
            if name != "state" or variant != target.seeds()[0]:
                with pytest.raises(target.refuses):
                    target.read(variant)


def test_a_head_that_is_longer_than_its_frame() -> None:
    whole = codec.encode_frame(forms.CLUSTER, 7, 9, m.SnapshotChunk(2, forms.META, 0, 9, b""))
    size = int.from_bytes(whole[8:12], "little")
    for claimed in (size + 1, 1 << 16, 1 << 31, (1 << 32) - 1):
        refuses(codec.decode_frame, mutation.seal_frame(whole[:8] + struct.pack("<I", claimed) + whole[12:]))


@pytest.mark.parametrize("kind", [kind for kind in forms.MESSAGES if kind not in (m.SnapshotChunk, m.Found)])  # which go on to the end
def test_bytes_behind_the_end_of_any_message(kind: type) -> None:
    for seed in range(5):
        whole = codec.encode_frame(forms.CLUSTER, 7, 9, forms.message(kind, random.Random(seed)))
        for tail in (b"\0", b"\xc0", whole):
            refuses(codec.decode_frame, mutation.seal_frame(whole + tail))


# -- one configuration, one founding, one way to write it ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "form",
    [
        "94 92a161a161 90 90 90",  # a voter twice would count twice
        "94 91a161 92a162a162 90 90",
        "94 91a161 90 92a163a163 90",
        "94 91a161 90 90 92 92a16201 92a16101",  # members out of order
        "94 91a161 90 90 92 92a16101 92a16101",  # or twice
        "94 91a161 90 90 91 92a161cc01",
        "94 91d90161 90 90 90",
    ],
)
def test_a_configuration_has_one_form(form: str) -> None:
    refuses(codec.decode_configuration, bytes.fromhex(form))


@pytest.mark.parametrize(
    "settings", ["92 92a16201 92a16101", "92 92a16101 92a16101", "91 92a161cc01", "91 92a161ca3f800000", "91 92a161c3"]
)
def test_a_founding_has_one_form(settings: str) -> None:
    refuses(codec.decode_founding, bytes.fromhex("93 c410" + "00" * 16 + "94 90 90 90 90" + settings))


@pytest.mark.parametrize("number", [1e305, float("inf"), float("nan"), -1.0, -1, 0, 1 << 63, (1 << 64) - 1])
@pytest.mark.parametrize("name", Settings().to_wire())
def test_a_founding_with_settings_that_nobody_can_live_by(name: str, number: float) -> None:
    """1e305 seconds for a session were taken once: the member stopped at the next entry, and at every start."""
    founding = m.Founding(forms.CLUSTER, forms.CONFIGURATION, {**Settings().to_wire(), name: number})
    data = codec.encode_founding(founding)
    if number or name not in MAY_BE_OFF:
        with pytest.raises(Incompatible):
            Settings.from_wire(codec.decode_founding(data).settings)
    else:
        readers.prove_founding(codec.decode_founding(data), data)


# -- zstd ------------------------------------------------------------------------------------------------------------------------------


PLAIN = b"\x91" + forms.batch(ops.Put("k", "plain" * 100))
"""What would be taken if it were packed as we pack it."""


def packed(plain: bytes, **options: Any) -> bytes:
    return bytes(zstandard.ZstdCompressor(level=1, **{"write_checksum": True, **options}).compress(plain))


@functools.cache
def gibibyte(*, checksum: bool = True) -> bytes:
    """Return 32 KiB that unpack to 1 GiB, and say so."""
    source = zstandard.ZstdCompressor(level=1, write_checksum=checksum).compressobj(size=1 << 30)
    piece = bytes(1 << 20)
    return b"".join([*(source.compress(piece) for _ in range(1 << 10)), source.flush()])


def declaring(size: int, plain: bytes) -> bytes:
    """Return a frame whose header states another size than its content has."""
    frame = packed(plain)
    blocks_at = 5 + (1, 2, 4, 8)[frame[4] >> 6]
    return struct.pack("<IBQ", 0xFD2FB528, 0xE4, size) + frame[blocks_at:]


def windowed(exponent: int, plain: bytes) -> bytes:
    """Return a frame that asks its reader for a window of 2**exponent bytes."""
    block = struct.pack("<I", len(plain) << 3 | 1)[:3] + plain
    checksum = packed(plain)[-4:]
    return struct.pack("<IBBQ", 0xFD2FB528, 0xC4, (exponent - 10) << 3, len(plain)) + block + checksum


BOMBS: dict[str, Callable[[], bytes]] = {
    "a gibibyte in 32 KiB": gibibyte,
    "one byte more than is allowed": lambda: packed(bytes(BLOCK_MAX + 1)),
    "no size": lambda: packed(PLAIN, write_content_size=False),
    "no checksum": lambda: packed(PLAIN, write_checksum=False),
    "a size of 0": lambda: declaring(0, PLAIN),
    "too small a size": lambda: declaring(len(PLAIN) - 1, PLAIN),
    "too large a size": lambda: declaring(len(PLAIN) + 1, PLAIN),
    "a size of 8 MiB": lambda: declaring(BLOCK_MAX, PLAIN),
    "a size of 2**64 - 1": lambda: declaring((1 << 64) - 1, PLAIN),
    "a cut frame": lambda: packed(PLAIN)[:-5],
    "half a frame": lambda: packed(random.Random(1).randbytes(3000))[:1500],
    "a second frame": lambda: packed(PLAIN) * 2,
    "a byte more": lambda: packed(PLAIN) + b"\0",
    "a frame to be skipped": lambda: b"\x50\x2a\x4d\x18\x04\0\0\0abcd" + packed(PLAIN),
    "a window of 2 GiB": lambda: windowed(31, PLAIN),
    "a window of 3 TiB": lambda: windowed(41, PLAIN),
}


@pytest.mark.parametrize("make", BOMBS.values(), ids=BOMBS)
def test_compressed_bombs_and_lies_in_a_block(make: Callable[[], bytes]) -> None:
    data = make()

    def attempt() -> None:
        with pytest.raises(DecodeError):
            codec.decode_block(b"\x01" + data)

    attempt()
    costs_little(attempt, max(len(data), readers.declared(data)))


def test_what_is_packed_as_we_pack_it_is_taken() -> None:
    assert codec.decode_block(b"\x01" + packed(PLAIN))[0].commands[0][2] == b"plain" * 100
    assert list(SnapshotParser("a test").feed(snapshot_of((packed(PLAIN), len(PLAIN))))) == [PLAIN]
    assert codec.decode_block(b"\x01" + windowed(23, PLAIN)) == codec.decode_block(b"\x01" + packed(PLAIN))


def snapshot_of(*frames: tuple[bytes, int]) -> bytes:
    """Return a snapshot file of zstd frames and the sizes it claims for them, all checksums right if ``PLAIN`` is in them."""
    _, whole = forms.snapshot()
    header = whole[: 16 + int.from_bytes(whole[8:12], "little")]
    body = b"".join(struct.pack("<III", len(frame), size, 0) + frame for frame, size in frames)
    trailer = struct.pack("<IIQ32sI", 0, 0, sum(size for _, size in frames), hashlib.sha256(PLAIN * len(frames)).digest(), 0)
    return mutation.seal_snapshot(header + body + trailer)


@pytest.mark.parametrize("make", BOMBS.values(), ids=BOMBS)
def test_compressed_bombs_and_lies_in_a_snapshot(make: Callable[[], bytes]) -> None:
    frame = make()
    for size in (len(PLAIN), min(max(1, readers.declared(frame)), CHUNK_MAX)):
        data = snapshot_of((frame, size))

        def attempt(data: bytes = data) -> None:
            with pytest.raises(Corrupt):
                list(SnapshotParser("a test").feed(data))

        attempt()
        costs_little(attempt, len(data))


def test_a_snapshot_that_arrives_costs_what_its_bytes_cost_not_what_they_unpack_to() -> None:
    """Sixty bytes may hold 256 KiB: a leader's chunk of them would keep a follower from hearing anything else for seconds."""
    frame = packed(bytes(CHUNK_MAX))
    data = snapshot_of(*[(frame, CHUNK_MAX)] * (budget.UNIT // (len(frame) + 12)))

    def receive() -> None:
        receiver = SnapshotReceiver(MemoryDisk(), forms.META, len(data))
        receiver.add(0, data)
        receiver.finish()

    costs_little(receive, len(data))
    with pytest.raises(Corrupt, match="another content"):  # when it is loaded
        readers.read_snapshot_file(data)


# -- every bit, every byte -------------------------------------------------------------------------------------------------------------


def flipped(data: bytes) -> Iterator[bytes]:
    """Yield bytes with each of their bits flipped."""
    changed = bytearray(data)
    for at, bit in itertools.product(range(len(data)), range(8)):
        changed[at] ^= 1 << bit
        yield bytes(changed)
        changed[at] ^= 1 << bit


@pytest.mark.parametrize("name", ["frame", "snapshot", "received"])
def test_no_single_bit_of_a_frame_or_a_snapshot_can_flip_unnoticed(name: str) -> None:
    target = TARGETS[name]
    for data in flipped(target.seeds()[0]):
        with pytest.raises(target.refuses):
            target.read(data)


@functools.cache
def small_log(last: bytes = b"two" * 200) -> tuple[bytes, Recovered, Recovered]:
    """A segment whose last flush takes two sectors, or what its entry takes, what it says, and what it says without that flush."""
    disk = MemoryDisk()
    log, _ = Log.open(disk, "a", 7, forms.SEGMENT)
    log.found(forms.entries()[0])
    before = Log.open(disk, "a", 7, forms.SEGMENT)[1]
    log.append(HardState(3, "c"), [codec.make_entry(2, 3, EntryKind.BLOCK, 0, last)])
    log.sync()
    return forms.content(disk, disk.list()[0]), Log.open(disk, "a", 7, forms.SEGMENT)[1], before


def used(data: bytes) -> int:
    """Return where the written sectors of a segment end."""
    return max(at + SECTOR for at in range(0, len(data), SECTOR) if any(data[at : at + SECTOR]))


def opened(data: bytes) -> Recovered | None:
    """Return what a log says, None if it is not believed."""
    try:
        return readers.open_log(data).recovered
    except (Corrupt, Incompatible):
        return None


def begins_with(entries: Sequence[m.Entry], others: Sequence[m.Entry]) -> bool:
    """Tell whether entries are the first ones of others, byte by byte."""
    return [entry.encoded for entry in entries] == [entry.encoded for entry in others[: len(entries)]]


def test_no_single_bit_of_a_log_can_flip_unnoticed() -> None:
    data, whole, _ = small_log(b"two")
    for changed in flipped(data[: used(data)]):
        recovered = opened(changed + data[used(data) :])
        if recovered is not None:
            assert recovered.floor >= whole_end(whole)
            assert begins_with(recovered.entries, whole.entries)


def whole_end(recovered: Recovered) -> m.Position:
    return m.Position(recovered.entries[-1].term, recovered.entries[-1].index)


def test_a_log_that_is_cut_at_any_byte_is_not_taken_for_a_shorter_one() -> None:
    data, whole, _ = small_log()
    for size in range(len(data)):
        recovered = opened(data[:size])
        if recovered is not None:
            assert recovered.floor >= whole_end(whole)
            assert begins_with(recovered.entries, whole.entries)


@pytest.mark.parametrize("rest", [b"\0", b"\xff"], ids=["zeros behind it", "garbage behind it"])
def test_a_flush_that_is_torn_at_any_byte_takes_nothing_with_it_that_was_durable(rest: bytes) -> None:
    data, whole, before = small_log()
    end = used(data)
    start = end - 2 * SECTOR
    for at in range(start, end):
        recovered = opened(data[:at] + rest * (end - at) + data[end:])
        assert recovered is not None
        assert begins_with(before.entries, recovered.entries)
        assert begins_with(recovered.entries, whole.entries)
        if rest == b"\0" and at % SECTOR == 0:
            assert recovered == before  # as a disk tears it: nobody was told that it is durable
        elif any(data[at:end].rstrip(b"\0")):
            assert recovered.floor > NOWHERE


# -- numbers at their edges ------------------------------------------------------------------------------------------------------------

EDGES = (-(1 << 63) - 1, -(1 << 63), -1, 0, 1, (1 << 31) - 1, 1 << 31, 1 << 32, LARGEST, 1 << 63, (1 << 64) - 1)
COUNTS, TTLS, SIGNED = range(1 << 63), range(1, wire.MAX_TTL_MICROS + 1), range(-(1 << 63), 1 << 63)
PUT = (wire.PUT, b"k", b"v", False)
SCAN = (wire.SCAN, b"a", None, 0, 0, False, False, 0, False, 0, 0, 0, 0)


def scan(place: int, number: int) -> tuple[Any, ...]:
    return (*SCAN[:place], number, *SCAN[place + 1 :])


NUMBERS: dict[str, tuple[Callable[[int], tuple[Any, ...]], range]] = {
    "id of a grant": (lambda n: (wire.GRANT, n, 10, 1), COUNTS),
    "ttl of a grant": (lambda n: (wire.GRANT, 1, n, 1), TTLS),
    "keeper of a grant": (lambda n: (wire.GRANT, 1, 10, n), COUNTS),
    "id of a renewal": (lambda n: (wire.RENEW, n, 0), COUNTS),
    "keeper of a renewal": (lambda n: (wire.RENEW, forms.LEASE, n), COUNTS),
    "keeper that keeps alive": (lambda n: (wire.KEEP_ALIVE, n), COUNTS),
    "id of a revocation": (lambda n: (wire.REVOKE, n, 0), COUNTS),
    "keeper of a revocation": (lambda n: (wire.REVOKE, forms.LEASE, n), COUNTS),
    "revision of a compaction": (lambda n: (wire.COMPACT, n), COUNTS),
    "revision of a get": (lambda n: (wire.GET, b"k", n), COUNTS),
    "limit of a scan": (lambda n: scan(3, n), COUNTS),
    "revision of a scan": (lambda n: scan(4, n), COUNTS),
    "order of a scan": (lambda n: scan(7, n), range(5)),
    "least revision of a scan": (lambda n: scan(9, n), COUNTS),
    "largest revision of a scan": (lambda n: scan(12, n), COUNTS),
    "lease of a put": (lambda n: (wire.PUT_WITH, b"k", b"v", False, n, 0), range(1, 1 << 63)),
    "ttl of a put": (lambda n: (wire.PUT_WITH, b"k", b"v", False, 0, n), TTLS),
    "revision expected": (lambda n: (wire.EXPECT, b"k", n, PUT), COUNTS),
    "revision of a guard": (lambda n: (wire.GUARD, b"k", n, PUT), range(1, 1 << 63)),
    "revision of a compare with a guard": (lambda n: (wire.TXN, ((b"k", b"k\0", wire.FENCE, 1, n),), (), ()), range(1, 1 << 63)),
    "how a guard is compared": (lambda n: (wire.TXN, ((b"k", b"k\0", wire.FENCE, n, 1),), (), ()), range(1, 2)),
    "what is added": (lambda n: (wire.ADD, b"n", n), SIGNED),
    "what is compared with": (lambda n: (wire.TXN, ((b"k", None, 1, 1, n),), (), ()), COUNTS),
    "what is compared": (lambda n: (wire.TXN, ((b"k", None, n, 1, 1),), (), ()), range(1, 4)),
    "how it is compared": (lambda n: (wire.TXN, ((b"k", None, 1, n, 1),), (), ()), range(1, 5)),
    "a command": (lambda n: (n,), range(0)),
}


@pytest.mark.parametrize("number", EDGES)
@pytest.mark.parametrize("what", NUMBERS)
def test_numbers_at_their_edges_are_refused_or_carried_out(what: str, number: int) -> None:
    build, allowed = NUMBERS[what]
    try:
        data = codec.pack_batch(1, 1, 1, [codec.pack(build(number))])
    except OverflowError:
        return  # msgpack has no such number
    if number in allowed:
        readers.prove_batch(readers.read_batch(data), data)
    else:
        with pytest.raises(DecodeError):
            readers.read_batch(data)


@pytest.mark.parametrize("number", EDGES)
@pytest.mark.parametrize(
    "call",
    [
        lambda n: ops.Get("k", revision=n),
        lambda n: ops.Scan(limit=n),
        lambda n: ops.Scan(revision=n),
        lambda n: ops.Scan(max_mod_revision=n),
        lambda n: ops.Put("k", "v", lease=n),
        lambda n: ops.Put("k", "v", ttl=n),
        lambda n: ops.Put("k", "v", if_mod_revision=n),
        lambda n: ops.Delete("k", if_mod_revision=n),
        lambda n: ops.Add("n", n),
        lambda n: ops.Key("k").version == n,
        lambda n: ops.Key("k").lease == n,
    ],
)
def test_a_caller_hears_of_a_number_that_is_too_small_or_too_large(call: Callable[[int], Any], number: int) -> None:
    try:
        built = call(number)
    except ValueError:
        return
    packed_ = built.to_wire() if not isinstance(built, ops.Compare) else (wire.TXN, (built.to_wire(),), (), ())
    data = codec.pack_batch(1, 1, 1, [codec.pack(packed_)])
    readers.prove_batch(readers.read_batch(data), data)


@pytest.mark.parametrize("number", [0, 1, 1 << 31, LARGEST])
def test_sessions_and_times_at_their_edges(number: int) -> None:
    machine = forms.machine()
    put = [codec.pack(PUT)]
    batches = [codec.pack_batch(*numbers, put) for numbers in itertools.product((forms.SESSION, number), (number,), (0, number))]
    block = codec.encode_block([*batches, codec.pack_batch(0, number, 0, ())])
    run(machine.apply(codec.make_entry(machine.applied + 1, LARGEST, EntryKind.BLOCK, number, block)))
    readers.prove_state(machine, b"".join(machine.dump()))


def test_an_empty_key_and_a_large_one() -> None:
    for build in (ops.Get, ops.Add, lambda key: ops.Put(key, "v")):
        with pytest.raises(ValueError, match="key must not be empty"):
            build(b"")
    for command in ((wire.PUT, b"", b"v", False), (wire.GET, b"", 0), (wire.DELETE, b"", None, False), (wire.ADD, b"", 1)):
        refuses(readers.read_batch, codec.pack_batch(1, 1, 1, [codec.pack(command)]))
    for size in (1 << 20, 3 << 20):
        data = codec.pack_batch(1, 1, 1, [codec.pack((wire.PUT, bytes(size), b"v", False))])
        readers.prove_batch(readers.read_batch(data), data)  # of the larger one its caller learns that it is too large
        costs_little(functools.partial(readers.read_batch, data), len(data))


def test_a_transaction_that_writes_a_key_twice() -> None:
    delete = (wire.DELETE, b"a", None, False)
    for then in ((PUT, PUT), (PUT, delete), (delete, PUT), (PUT, (wire.TXN, (), (), (PUT,))), ((wire.TXN, (), (PUT,), ()), delete)):
        refuses(readers.read_batch, codec.pack_batch(1, 1, 1, [codec.pack((wire.TXN, (), then, ()))]))


# -- requests that ask for more than they are ------------------------------------------------------------------------------------------


def nested(inner: Any, levels: int, beside: Callable[[int], Sequence[Any]]) -> Any:
    """Return a transaction nested in others, with other operations beside it on each level."""
    for level in range(levels):
        inner = (wire.TXN, (), (inner, *beside(level)), ())
    return inner


def either(count: int) -> Any:
    """Return a transaction that puts many keys, or else deletes them."""
    puts = tuple((wire.PUT, b"%05d" % number, b"", False) for number in range(count))
    deletes = tuple((wire.DELETE, b"%05d" % number, b"%05d!" % number, False) for number in range(count))
    return (wire.TXN, (), puts, deletes)


def tree(depth: int, numbers: Iterator[int]) -> Any:
    if not depth:
        key = b"%05d" % next(numbers)
        return (wire.TXN, (), ((wire.PUT, key, b"", False),), ((wire.DELETE, key, key + b"!", False),))
    return (wire.TXN, (), (tree(depth - 1, numbers), tree(depth - 1, numbers)), ())


COSTLY = {
    "nothing, many times": lambda: (wire.TXN, (), ((wire.TXN, (), (), ()),) * 13_000, ()),
    "deletes beside a put, on every level": lambda: nested(
        (wire.TXN, (), (PUT,), ()), 15, lambda _: ((wire.DELETE, b"a", b"b", False),) * 400
    ),
    "many writes, with one more on every level": lambda: nested(either(2000), 15, lambda n: ((wire.PUT, b"x%d" % n, b"", False),)),
    "many writes, with a delete more on every level": lambda: nested(either(2000), 15, lambda n: ((wire.DELETE, b"x%d" % n, None, False),)),
    "many writes at the bottom": lambda: nested(either(2300), 15, lambda _: ()),
    "a tree": lambda: tree(11, itertools.count()),
    "many compares": lambda: (wire.TXN, ((b"k", None, 1, 1, 1),) * 7000, (), ()),
    "scans": lambda: (wire.TXN, (), (SCAN,) * 3500, ()),
}


@pytest.mark.parametrize("make", COSTLY.values(), ids=COSTLY)
def test_a_transaction_that_is_costly_to_check(make: Callable[[], Any]) -> None:
    """On each of sixteen levels all writes below were compared once more: 64 KiB took 100 ms."""
    data = codec.pack_batch(1, 1, 1, [codec.pack(make())])
    assert budget.UNIT // 2 < len(data) < budget.UNIT * 2
    readers.read_batch(data)
    costs_little(lambda: readers.read_batch(data), len(data))


def test_a_forward_of_thousands_of_batches() -> None:
    """Each that was none made its leader write a warning: a second's work for 64 KiB."""
    count = 60_000
    refuses(codec.decode_frame, framed(m.Forward, codec.pack(((0,) * count,))))
    refuses(codec.decode_frame, framed(m.Forward, codec.pack(((1,) * 65,)), b"\x90" * 65))
    assert len(codec.decode_frame(framed(m.Forward, codec.pack(((1,) * 64,)), b"\x90" * 64)).message.batches) == 64  # type: ignore[union-attr]


def test_an_append_of_thousands_of_entries() -> None:
    entry = codec.make_entry(1, 1, EntryKind.BLOCK, 0, b"").encoded
    data = framed(m.Append, codec.pack((1, 1, 1, 1, 1, 1, (len(entry),) * 60_000)), entry * 60_000)
    costs_little(lambda: codec.decode_frame(data), len(data))


# -- Raft ------------------------------------------------------------------------------------------------------------------------------


def follower() -> Raft:
    entries = tuple(codec.make_entry(index, 1, EntryKind.BLOCK, 0, b"\0\x90") for index in range(2, 6))
    founding = forms.entries()[0]
    return Raft("a", Timing(1.5, 0.1, 0.15), random.Random(1), Restored(HardState(1), None, (founding, *entries)), 0.0, 7)


def block(index: int, term: int = 2) -> m.Entry:
    return codec.make_entry(index, term, EntryKind.BLOCK, 0, b"\0\x90")


@pytest.mark.parametrize(
    "append",
    [
        m.Append(2, 5, 1, 0, 1, 0, (block(7),)),  # a gap
        m.Append(2, 5, 1, 0, 1, 0, (block(6), block(6))),
        m.Append(2, 5, 1, 0, 1, 0, (block(7), block(6))),
        m.Append(2, 5, 1, 0, 1, 0, (block(6, 2), block(7, 1))),  # terms that fall
        m.Append(2, 5, 1, 0, 1, 0, (block(6, 3),)),  # or are above its own
        m.Append(2, 5, 3, 0, 1, 0, ()),
        m.Append(2, LARGEST, 1, LARGEST, 1, 0, ()),
        m.Append(2, LARGEST - 1, 1, LARGEST, 1, 0, (block(LARGEST),)),
        m.Append(2, 0, 0, 0, 1, 0, (block(0),)),
        m.Append(0, 5, 1, LARGEST, 1, LARGEST, ()),
        m.Append(2, 0, 1, 0, 1, 0, ()),  # before the first entry there is no term
    ],
)
def test_an_append_that_no_leader_sends_changes_no_entry(append: m.Append) -> None:
    raft = follower()
    frame = codec.decode_frame(codec.encode_frame(forms.CLUSTER, 8, 7, append))
    raft.receive("b", frame.message, 1.0)  # type: ignore[arg-type]  # an Append
    raft.take()
    check_raft(raft)
    assert (raft.last_index, raft.commit) == (5, 0)
    assert raft._log.term_at(5) == 1


@pytest.mark.parametrize("term", [1 << 41, LARGEST - 1, LARGEST])
@pytest.mark.parametrize("kind", [m.Vote, m.VoteReply, m.Append, m.AppendReply, m.ReadIndex, m.TimeoutNow])
def test_a_term_that_nobody_can_have_reached_is_not_believed(kind: type, term: int) -> None:
    """It was: the member stood in the term behind it, which has no encoding, so that nobody heard of it again."""
    raft = follower()
    message: Any = forms.message(kind, random.Random(1))
    raft.receive("b", evolve(message, term=term), 1.0)
    raft.tick(5.0)
    ready = raft.take()
    assert ready is not None
    for _, message in ready.messages + ready.after_sync:
        codec.decode_frame(codec.encode_frame(forms.CLUSTER, 7, 9, message))
    assert raft.term == 1


# -- snapshots -------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("offset", "total"), [(0, LARGEST), (LARGEST, LARGEST), (1, 0), (0, 0), (5, 3), (1 << 62, 1 << 40)])
def test_a_piece_of_a_snapshot_with_any_place_and_any_size(offset: int, total: int) -> None:
    chunk = m.SnapshotChunk(2, forms.META, offset, total, b"rkSnap")
    frame = codec.decode_frame(codec.encode_frame(forms.CLUSTER, 8, 7, chunk))
    assert frame.message == chunk

    def receive() -> None:
        disk = MemoryDisk()
        receiver = SnapshotReceiver(disk, chunk.meta, chunk.total)
        try:
            receiver.add(chunk.offset, chunk.data)
        except Corrupt:
            receiver.abandon()
        assert receiver.offset in (0, 6)
        assert sum(map(disk.size, disk.list())) <= 6

    receive()
    costs_little(receive, len(chunk.data))


def test_a_snapshot_at_the_largest_place_is_found_again_under_its_name() -> None:
    """Names of more than 16 digits were taken for somebody else's, so that a member with such a snapshot could not start again."""
    for index, term in itertools.product((1, 10**16, LARGEST), repeat=2):
        meta = SnapshotMeta(index, term, Configuration(("a",)))
        file = forms.snapshot_on(MemoryDisk(), meta)
        assert is_snapshot(file.name)
        assert SnapshotFile.from_wire(codec.unpack(codec.pack(file.to_wire()))) == file
    digits = "\N{ARABIC-INDIC DIGIT ZERO}" * 16
    assert not is_snapshot(f"snapshot-{digits}-{digits}")


@pytest.mark.parametrize(
    "place",
    [
        (0, "snapshot-0000000000000006-0000000000000002"),  # not the one it speaks of
        (0, "../../etc/passwd"),
        (2, bytes(15)),
        (3, -1),
        (3, True),
        (3, 1 << 63),
        (4, bytes(31)),
    ],
)
def test_a_pointer_to_a_snapshot_is_checked_in_all_its_parts(place: tuple[int, Any]) -> None:
    at, value = place
    pointer = [*codec.unpack(codec.pack(forms.snapshot()[0].to_wire()))]
    assert SnapshotFile.from_wire(tuple(pointer)) == forms.snapshot()[0]
    pointer[at] = value
    with pytest.raises(DecodeError):
        SnapshotFile.from_wire(tuple(pointer))


# -- states ----------------------------------------------------------------------------------------------------------------------------


def rebuilt(change: Callable[[list[Any]], None]) -> bytes:
    """Return the dump of ``forms.machine``, in one part for its rows, after a change to its head and rows."""
    head, *rows = readers.rows_of(forms.dump())
    everything = [list(head), *rows]
    change(everything)
    parts = [codec.pack(everything[0]), *(codec.pack((row,)) for row in everything[1:])]
    return b"".join(struct.pack("<I", len(part)) + part for part in parts)


def put_in_head(place: int, value: object) -> Callable[[list[Any]], None]:
    return lambda everything: everything[0].__setitem__(place, value)


def open_session_zero(everything: list[Any]) -> None:
    everything[0][7] += 1
    everything.insert(1, (0, 0, None, 0, 0))


def swap_keepers(everything: list[Any]) -> None:
    everything[0][9:11] = [everything[0][9] + 1, 2]
    at = next(place for place, row in enumerate(everything) if row[:1] == (forms.KEEPER,))
    lease = next(place for place, row in enumerate(everything) if len(row) == 6 and row[2] == forms.KEEPER)
    everything.insert(at + 1, (5, 0))
    everything.insert(lease, (8, 1000, 5, 0, False, None))


@pytest.mark.parametrize(
    "change",
    [
        put_in_head(0, 2.0),  # versions
        put_in_head(0, True),
        put_in_head(0, "2"),
        put_in_head(4, 1 << 32),  # a chained hash that could not be reckoned on with
        put_in_head(5, 0),  # no founding, but not as it is written
        put_in_head(5, None),
        put_in_head(5, ""),
        put_in_head(7, LARGEST),  # how many sessions, leases, keepers, records there are
        put_in_head(9, LARGEST),
        put_in_head(10, LARGEST),
        put_in_head(13, LARGEST),
        put_in_head(11, LARGEST),  # revisions that the history does not reach
        put_in_head(12, LARGEST),
        open_session_zero,
        swap_keepers,
    ],
)
def test_a_state_that_no_machine_has(change: Callable[[list[Any]], None]) -> None:
    Machine.load([rebuilt(lambda _: None)])
    data = rebuilt(change)
    refuses(lambda data: Machine.load([data]), data, (DecodeError, Incompatible))  # type: ignore[arg-type]  # either


def test_leases_of_which_each_has_a_class_of_its_own() -> None:
    """They cost most of all that a state can hold."""
    count = budget.UNIT // 12
    head, *_ = readers.rows_of(b"".join(Machine().dump()))
    rows = [*((number, number, number, 0, False, None) for number in range(1, count + 1)), (False, 1, 0, 0, 0), ()]
    parts = [codec.pack((*head[:9], count, *head[10:])), codec.pack(rows)]
    data = b"".join(struct.pack("<I", len(part)) + part for part in parts)
    assert len(Machine.load([data]).leases) == count
    costs_little(lambda: Machine.load([data]), len(data))
