"""Bytes: what is written is read back, and what nobody wrote is one ``DecodeError``, cheaply."""

from __future__ import annotations

import random
import re
import struct
import time
import tracemalloc
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, cast

import pytest
import zstandard
from attrs import astuple, evolve
from hypothesis import given, settings
from hypothesis import strategies as st
from model_kv import commands

from replkv import codec, compression, ops, wire
from replkv import messages as m
from replkv.codec import BLOCK_MAX, COMPRESS_FROM, FRAME_MAX, HEAD_MAX, Batch, DecodeError

CLUSTER = b"0123456789abcdef"

numbers = st.integers(0, (1 << 63) - 1)
incarnations = st.integers(0, (1 << 64) - 1)
names = st.text(max_size=20)
name_lists = st.lists(names, max_size=4).map(tuple)
clusters = st.binary(min_size=16, max_size=16)
voters = st.lists(names, max_size=4, unique=True).map(tuple)
urls = st.one_of(
    st.builds("tcp://{}:{}".format, st.sampled_from(("a", "db-1.example", "10.0.0.1", "[::1]")), st.integers(0, 65535)),
    st.builds("ipc://{}".format, st.text("abc/ ä", min_size=1, max_size=20)),
    st.builds("inproc://{}".format, st.text("abc", min_size=1, max_size=20)),
)
url_or_none = st.one_of(st.just(""), urls)
books = st.dictionaries(names, urls, max_size=3)
abouts = st.builds(m.About, url_or_none, numbers, numbers, numbers)


@st.composite
def configurations_of_any_kind(draw: st.DrawFn) -> m.Configuration:
    members = draw(st.dictionaries(names, incarnations, max_size=4))
    known = {name: url for name in members if (url := draw(url_or_none))}
    return m.Configuration(draw(voters), draw(voters), draw(voters), members, known)


configurations = configurations_of_any_kind()
metas = st.builds(m.SnapshotMeta, numbers, numbers, configurations)
entries = st.builds(codec.make_entry, numbers, numbers, st.sampled_from(m.EntryKind), numbers, st.binary(max_size=40))
batches = st.builds(
    lambda session, sequence, lowest, operations: codec.pack_batch(
        session, sequence, lowest, [codec.pack(operation.to_wire()) for operation in operations]
    ),
    numbers,
    numbers,
    numbers,
    st.lists(commands, max_size=3),
)
MESSAGES: dict[type, st.SearchStrategy[Any]] = {
    m.Vote: st.builds(m.Vote, numbers, numbers, numbers, st.booleans(), st.booleans()),
    m.VoteReply: st.builds(m.VoteReply, numbers, st.booleans(), st.booleans()),
    m.Append: st.builds(m.Append, numbers, numbers, numbers, numbers, numbers, numbers, st.lists(entries, max_size=3).map(tuple)),
    m.AppendReply: st.builds(m.AppendReply, numbers, numbers, numbers, st.booleans(), numbers, numbers),
    m.ReadIndex: st.builds(m.ReadIndex, numbers, numbers),
    m.ReadIndexReply: st.builds(m.ReadIndexReply, numbers, numbers, numbers),
    m.TimeoutNow: st.builds(m.TimeoutNow, numbers),
    m.Census: st.builds(m.Census, numbers),
    m.CensusReply: st.builds(m.CensusReply, numbers, numbers, numbers, numbers, st.booleans(), numbers, configurations),
    m.Forward: st.builds(m.Forward, st.lists(batches, max_size=3).map(tuple)),
    m.SnapshotChunk: st.builds(m.SnapshotChunk, numbers, metas, numbers, numbers, st.binary(max_size=50)),
    m.SnapshotAck: st.builds(m.SnapshotAck, numbers, numbers, numbers),
    m.Digest: st.builds(m.Digest, numbers, st.booleans(), st.binary(max_size=64)),
    m.Scarcity: st.builds(m.Scarcity, st.booleans()),
    m.Hello: st.builds(m.Hello, st.tuples(numbers, numbers), clusters, names, incarnations, names, name_lists, abouts),
    m.Welcome: st.builds(m.Welcome, numbers, clusters, names, incarnations, name_lists, abouts),
    m.Refuse: st.builds(m.Refuse, st.text(max_size=300), clusters, st.booleans()),
    m.Found: st.builds(m.Found, entries, books, numbers),
    m.Application: st.builds(m.Application, names, incarnations, url_or_none, st.booleans()),
    m.HandOver: st.builds(m.HandOver, names),
    m.Hindrance: st.builds(m.Hindrance, st.text(max_size=300)),
    m.Ping: st.just(m.Ping()),
    m.Pong: st.just(m.Pong()),
}
messages = st.one_of(*MESSAGES.values())


def kind_of(message: type) -> int:
    return codec._WRITERS[message][0]


def sealed(rest: bytes) -> bytes:
    """Put magic and a right checksum before the rest of a frame, so that damage reaches what lies behind them."""
    return codec.MAGIC + struct.pack("<I", zlib.crc32(rest)) + rest


def framed(head: bytes, kind: int = kind_of(m.Append), bulk: bytes = b"", size: int | None = None, version: int = 1) -> bytes:
    """Build a frame of any content."""
    return sealed(struct.pack("<BBI16sQQ", version, kind, len(head) if size is None else size, CLUSTER, 1, 2) + head + bulk)


def compressed(plain: bytes, **options: Any) -> bytes:
    return bytes(zstandard.ZstdCompressor(level=1, **{"write_checksum": True, **options}).compress(plain))


def checked_batch(data: bytes) -> Batch:
    return codec.unpack_batch(data, wire.check_operation)


READERS: list[Callable[[bytes], object]] = [
    codec.unpack,
    codec.decode_frame,
    codec.decode_entry,
    codec.decode_block,
    codec.decode_configuration,
    codec.decode_founding,
    checked_batch,
    lambda data: codec.decompress(data, BLOCK_MAX),
    lambda data: codec.decode_frame(framed(data)),
    lambda data: codec.decode_frame(framed(codec.pack(((len(data),),)), kind=kind_of(m.Forward), bulk=data)),
    lambda data: codec.decode_block(b"\x00" + data),
    lambda data: codec.decode_block(b"\x01" + compressed(data)),
]


def read_all(data: bytes) -> None:
    """Hand bytes to every reader; each must take them or raise DecodeError."""
    for read in READERS:
        try:
            read(data)
        except DecodeError:
            continue


# -- round trips --------------------------------------------------------------------------------------------------------------------------


@settings(max_examples=300, deadline=None)
@given(clusters, incarnations, incarnations, messages)
def test_every_message_survives_its_frame(cluster: bytes, sender: int, receiver: int, message: m.Message) -> None:
    frame = codec.decode_frame(codec.encode_frame(cluster, sender, receiver, message))
    assert frame == (cluster, sender, receiver, message)
    if isinstance(message, m.Append):
        assert [entry.encoded for entry in frame.message.entries] == [entry.encoded for entry in message.entries]  # type: ignore[union-attr]


def test_every_kind_of_message_is_tried_and_can_be_read() -> None:
    assert set(MESSAGES) == set(codec._WRITERS)
    assert sorted(number for number, _ in codec._WRITERS.values()) == sorted(codec._READERS)


odd_values = st.one_of(
    st.sampled_from((0, 1, -1, (1 << 63) - 1, 1 << 63, (1 << 64) - 1, True, False, 1.0, None, "1", b"1", ())),
    st.integers(-(1 << 63), (1 << 64) - 1),
)


@settings(max_examples=500, deadline=None)
@given(st.data(), st.sampled_from(["VoteReply", "AppendReply", "ReadIndex", "Append"]))
def test_numbers_looked_at_together_pass_exactly_where_each_of_them_does(data: st.DataObject, kind: str) -> None:
    checks = {"VoteReply": "nbb", "AppendReply": "nnnbnn", "ReadIndex": "nn", "Append": "nnnnnn"}[kind]
    sound = {"n": numbers, "b": st.booleans()}
    values = tuple(data.draw(st.one_of(sound[check], sound[check], sound[check], odd_values)) for check in checks)
    head = codec.pack((*values, ()) if kind == "Append" else values)
    try:
        wanted = [{"n": codec.natural, "b": codec.boolean}[check](value) for check, value in zip(checks, values, strict=True)]
    except DecodeError as error:
        with pytest.raises(DecodeError, match=f"^{re.escape(str(error))}$"):
            codec.decode_frame(framed(head, kind=kind_of(getattr(m, kind))))
    else:
        message = codec.decode_frame(framed(head, kind=kind_of(getattr(m, kind)))).message
        assert list(astuple(cast("Any", message), recurse=False))[: len(checks)] == wanted


@given(entries)
def test_entries_survive(entry: m.Entry) -> None:
    assert codec.decode_entry(entry.encoded) == entry


@given(configurations)
def test_configurations_survive_and_equal_ones_have_equal_bytes(configuration: m.Configuration) -> None:
    data = codec.encode_configuration(configuration)
    assert codec.decode_configuration(data) == configuration
    members, addresses = configuration.members, configuration.addresses
    turned = evolve(configuration, members=dict(reversed(members.items())), addresses=dict(reversed(addresses.items())))
    assert codec.encode_configuration(turned) == data


@given(clusters, configurations, st.dictionaries(names, st.one_of(st.integers(0, 1 << 62), st.floats(allow_nan=False)), max_size=4))
def test_foundings_survive(cluster: bytes, configuration: m.Configuration, values: dict[str, int | float]) -> None:
    founding = m.Founding(cluster, configuration, values)
    assert codec.decode_founding(codec.encode_founding(founding)) == founding


@given(metas)
def test_metas_survive(meta: m.SnapshotMeta) -> None:
    assert codec.meta_from_wire(codec.unpack(codec.pack(codec.meta_to_wire(meta)))) == meta


guests = st.none() | st.tuples(st.text(max_size=255), numbers)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(numbers, numbers, numbers, st.lists(commands, max_size=3), guests), max_size=4))
def test_blocks_survive(parts: list[tuple[int, int, int, list[ops.Operation], tuple[str, int] | None]]) -> None:
    wires = [codec.Batch(*part[:3], tuple(operation.to_wire() for operation in part[3]), part[4]) for part in parts]
    packed = [
        codec.pack_batch(session, sequence, lowest, [codec.pack(packed) for packed in listed], guest)
        for session, sequence, lowest, listed, guest in wires
    ]
    assert codec.decode_block(codec.encode_block(packed)) == wires
    assert [checked_batch(data) for data in packed] == wires


def test_large_blocks_are_compressed_and_small_ones_are_not() -> None:
    small = codec.encode_block([codec.pack_batch(1, 1, 1, [codec.pack(ops.Put("k", "v").to_wire())])])
    value = b"value" * (COMPRESS_FROM // 4)
    large = codec.encode_block([codec.pack_batch(1, 1, 1, [codec.pack(ops.Put("k", value).to_wire())])])
    assert (small[:1], large[:1]) == (b"\x00", b"\x01")
    assert len(large) < 200
    assert codec.decode_block(large)[0].commands == ((wire.PUT, b"k", value, False),)


def test_blocks_of_several_threads_do_not_get_mixed_up() -> None:
    """Each borrows what it compresses with; the library lets other threads run meanwhile."""

    def there_and_back(number: int) -> bool:
        commands = tuple((wire.PUT, b"%d" % place, bytes([number]) * 500, False) for place in range(99))
        packed = codec.pack_batch(number, 1, 1, [*map(codec.pack, commands)])
        return all(codec.decode_block(codec.encode_block([packed])) == [(number, 1, 1, commands, None)] for _ in range(50))

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(there_and_back, range(4)))


def test_a_damaged_block_spoils_none_that_comes_after_it() -> None:
    block = codec.encode_block([codec.pack_batch(1, 1, 1, [codec.pack((wire.PUT, b"k", random.Random(1).randbytes(5000), False))])])
    for at in range(1, len(block), 97):
        with pytest.raises(DecodeError):
            codec.decode_block(block[:at] + bytes([block[at] ^ 1]) + block[at + 1 :])
        assert codec.decode_block(block)[0].session == 1


def test_the_bytes_on_the_wire_and_in_the_log_never_change() -> None:
    batch = codec.pack_batch(65536, 1, 1, [codec.pack(ops.Put("k", "v").to_wire())])
    assert batch.hex(" ") == "95 ce 00 01 00 00 01 01 c0 91 94 01 c4 01 6b c4 01 76 c2"
    block = codec.encode_block([batch])
    assert block == b"\x00\x91" + batch
    entry = codec.make_entry(2, 1, m.EntryKind.BLOCK, 1_000_000, block)
    assert entry.encoded.hex(" ", 1).startswith("02 00 00 00 00 00 00 00 01 00 00 00 00 00 00 00 02 40 42 0f 00 00 00 00 00 00 91")
    append = codec.encode_frame(CLUSTER, 1, 2, m.Append(1, 1, 1, 1, 7, 1_000_000, (entry,)))
    envelope = "01 12 0d 00 00 00 " + CLUSTER.hex(" ") + " 01 00 00 00 00 00 00 00 02 00 00 00 00 00 00 00"
    head = "97 01 01 01 01 07 ce 00 0f 42 40 91 2e"
    assert append.hex(" ") == " ".join(("72 4b 75 23 48 10", envelope, head, entry.encoded.hex(" ")))
    founder = m.Configuration(voters=("a",), members={"a": 5}, addresses={"a": "tcp://a:1"})
    where = "91 92 a1 61 a9 74 63 70 3a 2f 2f 61 3a 31"
    assert codec.encode_configuration(founder).hex(" ") == "95 91 a1 61 90 90 91 92 a1 61 05 " + where


FORMATS = (Path(codec.__file__).parent.parent / "docs" / "FORMATS.md").read_text(encoding="utf-8")


def test_the_documentation_names_every_message_and_the_number_of_its_fields() -> None:
    (table,) = re.findall(r"\| kind \| message \| head \| bulk \|\n\|---\|---\|---\|---\|\n(.*?)\n\n", FORMATS, re.DOTALL)
    rows = [[cell.strip() for cell in row.strip("|").split("|")] for row in table.splitlines()]
    assert {int(kind): name for kind, name, *_ in rows} == {number: message.__name__ for message, (number, _) in codec._WRITERS.items()}
    for kind, name, head, _ in rows:
        fields = [field for field in re.sub(r"\[[^\]]*\]", "list", head).split(", ") if field]
        assert len(fields) == codec._READERS[int(kind)][0], name


def test_the_example_of_a_greeting_in_the_documentation_is_one() -> None:
    (example,) = re.findall(r"to a member that it calls `a`:\n\n```\n(.*?)```", FORMATS, re.DOTALL)
    data = bytes.fromhex("".join(line.split("   ")[0] for line in example.splitlines()))
    hello = m.Hello((1, 1), codec.NO_CLUSTER, "d", 5, "a", about=m.About("tcp://d:1", level=1))
    assert codec.encode_frame(codec.NO_CLUSTER, 5, 0, hello) == data


@pytest.mark.parametrize(
    "addresses",
    [
        (("a", "tcp://a:1"),),
        (("b", "tcp://b:1"), ("b", "tcp://b:2")),
        (("c", "tcp://c:1"), ("b", "tcp://b:1")),
        (("b", "b:1"),),
        (("b", "tcp://b"),),
        (("b", ""),),
        (("b", b"tcp://b:1"),),
        (("b", "tcp://b:1", 1),),
        (("b",),),
        "tcp://b:1",
        None,
    ],
)
def test_addresses_that_are_none_or_nobodys_make_no_configuration(addresses: object) -> None:
    data = codec.pack((("b",), (), ("c",), (("b", 1), ("c", 2)), addresses))
    with pytest.raises(DecodeError):
        codec.decode_configuration(data)


@pytest.mark.parametrize(
    "text", ["a", "a:1", "tcp://a", "TCP://a:1", "tcp://a:01", "tcp://[0:0::1]:1", "udp://a:1", "tls+tcp://a:1", 5, None]
)
def test_an_address_is_written_in_one_way(text: object) -> None:
    with pytest.raises(DecodeError):
        codec.url(text)
    with pytest.raises(DecodeError):
        codec.url_or_none(text)


# -- hostile bytes ------------------------------------------------------------------------------------------------------------------------


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=300))
def test_random_bytes_raise_nothing_but_decode_error(data: bytes) -> None:
    read_all(data)


@settings(max_examples=300, deadline=None)
@given(messages, st.data())
def test_damaged_frames_raise_nothing_but_decode_error(message: m.Message, data: st.DataObject) -> None:
    frame = codec.encode_frame(CLUSTER, 1, 2, message)
    at = data.draw(st.integers(0, len(frame) * 8 - 1))
    damaged = bytearray(frame)
    damaged[at // 8] ^= 1 << at % 8
    with pytest.raises(DecodeError):
        codec.decode_frame(bytes(damaged))
    for mended in (sealed(bytes(damaged[6:])), sealed(frame[6 : 6 + at // 8]), sealed(frame[6:] + b"\x00")):
        try:
            codec.decode_frame(mended)
        except DecodeError:
            continue


@settings(max_examples=200, deadline=None)
@given(st.lists(batches, max_size=3), st.booleans(), st.data())
def test_damaged_blocks_raise_nothing_but_decode_error(parts: list[bytes], pad: bool, data: st.DataObject) -> None:
    filler = [codec.pack_batch(1, 1, 1, [codec.pack(ops.Put("k", bytes(2000)).to_wire())])] if pad else []
    block = bytearray(codec.encode_block([*parts, *filler]))
    at = data.draw(st.integers(0, len(block) * 8 - 1))
    block[at // 8] ^= 1 << at % 8
    read_all(bytes(block))
    read_all(bytes(block[: at // 8]))


def test_every_truncation_of_a_frame_is_refused() -> None:
    entry = codec.make_entry(3, 2, m.EntryKind.BLOCK, 5, codec.encode_block([]))
    frame = codec.encode_frame(CLUSTER, 1, 2, m.Append(2, 2, 1, 2, 9, 5, (entry,)))
    for length in range(len(frame)):
        for data in (frame[:length], sealed(frame[6:length])):
            with pytest.raises(DecodeError):
                codec.decode_frame(data)


MAP_TWICE = b"\x82\xa1a\x01\xa1a\x02"

HOSTILE = {
    "nothing": b"",
    "random": random.Random(1).randbytes(HEAD_MAX),
    "an array that claims 4 billion": b"\xdd\xff\xff\xff\xff" + bytes(HEAD_MAX - 5),
    "nested arrays that claim all the rest": b"\xdd\x00\x00\xf0\x00" * 500 + bytes(HEAD_MAX - 2500),
    "nested arrays of 16 bits": b"\xdc\xff\xff" * (HEAD_MAX // 3),
    "nested maps that claim much": b"\xdf\x00\x00\x70\x00\x01" * 500 + bytes(HEAD_MAX - 3000),
    "deep nesting": b"\x91" * HEAD_MAX,
    "deep nesting that ends": b"\x91" * (HEAD_MAX - 1) + b"\x90",
    "nesting of 500": b"\x91" * 499 + b"\x90",
    "text that claims 4 billion": b"\xdb\xff\xff\xff\xff" + bytes(100),
    "bytes that claim 4 billion": b"\xc6\xff\xff\xff\xff" + bytes(100),
    "an extension that claims 4 billion": b"\xc9\xff\xff\xff\xff\x05" + bytes(100),
    "an extension": b"\xd4\x05\x00",
    "an empty extension": b"\xc7\x00\x05",
    "a timestamp of 4 bytes": b"\xd6\xff\x00\x00\x00\x01",
    "a timestamp of 12 bytes": b"\xc7\x0c\xff" + bytes(12),
    "a map": b"\x81\xa1a\x01",
    "an empty map": b"\x80",
    "a key twice": MAP_TWICE,
    "a key twice in a list": b"\x91" + MAP_TWICE,
    "many empty maps": b"\xdd" + struct.pack(">I", HEAD_MAX - 5) + b"\x80" * (HEAD_MAX - 5),
    "a map as a key": b"\x81\x80\x01",
    "text that is no UTF-8": b"\xa2\xff\xfe",
    "the byte that is never used": b"\xc1",
    "two values": b"\x01\x02",
    "a number of 64 bits": b"\xcf" + b"\xff" * 8,
    "not a number": b"\xcb\x7f\xf8" + bytes(6),
}

CROWDED = {
    "many small tuples": b"\xdd" + struct.pack(">I", (HEAD_MAX - 5) // 2) + b"\x91\xc0" * ((HEAD_MAX - 5) // 2),
    "many numbers": b"\xdd" + struct.pack(">I", (HEAD_MAX - 5) // 3) + b"\xcd\x7f\xff" * ((HEAD_MAX - 5) // 3),
    "many texts": b"\xdd" + struct.pack(">I", (HEAD_MAX - 5) // 3) + b"\xa2ab" * ((HEAD_MAX - 5) // 3),
}


def cost(read: Callable[[bytes], object], data: bytes) -> tuple[float, int]:
    """Return the seconds of CPU and the bytes of memory that a reader takes for hostile bytes."""
    best = float("inf")
    for _ in range(3):  # the machine may be busy: the best of three
        start = time.thread_time()
        _try(read, data)
        best = min(best, time.thread_time() - start)
    tracemalloc.start()
    try:
        _try(read, data)
        return best, tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def _try(read: Callable[[bytes], object], data: bytes) -> None:
    try:
        read(data)
    except DecodeError:
        return


@pytest.mark.parametrize("data", [*HOSTILE.values(), *CROWDED.values()], ids=[*HOSTILE, *CROWDED])
def test_hostile_bytes_cost_little(data: bytes) -> None:
    for read in READERS:
        seconds, memory = cost(read, data)
        assert seconds < 0.05
        assert memory < 16 << 20


@pytest.mark.parametrize("name", [name for name in HOSTILE if name not in ("nesting of 500", "a number of 64 bits", "not a number")])
def test_hostile_bytes_are_no_value(name: str) -> None:
    with pytest.raises(DecodeError):
        codec.unpack(HOSTILE[name])


def test_a_hostile_transaction_costs_little() -> None:
    puts = [(wire.PUT, b"%04d" % number, b"", False) for number in range(2200)]
    deletes = [(wire.DELETE, b"%04d!" % number, b"%04d~" % number, False) for number in range(2200)]
    wide = codec.pack((wire.TXN, (), tuple(puts + deletes), ()))
    deep: Any = (wire.TXN, (), (), ())
    for _ in range(150):
        deep = (wire.TXN, (), (deep,), (ops.Delete(start=b"a").to_wire(),) * 20)
    expecting: Any = (wire.PUT, b"k", b"", False)
    for _ in range(490):
        expecting = (wire.EXPECT, b"k", 0, expecting)
    for command in (wide, codec.pack(deep), codec.pack(expecting)):
        data = codec.pack_batch(1, 1, 1, [command])
        assert len(data) < HEAD_MAX * 2
        seconds, memory = cost(checked_batch, data)
        assert seconds < 0.1
        assert memory < 16 << 20


def test_what_is_larger_than_its_limit_is_not_looked_at() -> None:
    for read, data in (
        (codec.unpack, bytes(HEAD_MAX + 1)),
        (codec.decode_frame, bytes(FRAME_MAX + 1)),
        (codec.decode_frame, framed(b"\x90" + bytes(HEAD_MAX), kind=kind_of(m.Ping))),
        (checked_batch, bytes(BLOCK_MAX + 1)),
        (codec.decode_block, bytes(BLOCK_MAX + 2)),
    ):
        with pytest.raises(DecodeError, match="bytes"):
            read(data)


# -- compressed data ----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x28\xb5\x2f\xfd",
        compressed(bytes(BLOCK_MAX + 1)),  # declares too much
        compressed(bytes(1 << 28)),
        compressed(b"plain", write_content_size=False),  # declares nothing
        compressed(b"plain", write_checksum=False),
        compressed(b"plain") + compressed(b"plain"),  # a second frame
        compressed(b"plain") + b"\x00",
        compressed(b"plain")[:-1],
        compressed(b"plain")[:-4] + bytes(4),  # another checksum
        b"\x50\x2a\x4d\x18\x04\x00\x00\x00abcd",  # a frame to be skipped
        b"\x50\x2a\x4d\x18\x04\x00\x00\x00abcd" + compressed(b"plain"),
    ],
)
def test_compressed_data_of_another_form_is_refused(data: bytes) -> None:
    seconds, memory = cost(lambda data: codec.decompress(data, BLOCK_MAX), data)
    assert seconds < 0.05
    assert memory < 16 << 20
    with pytest.raises(DecodeError):
        codec.decompress(data, BLOCK_MAX)


def _declaring(size: int, plain: bytes) -> bytes:
    """Return a frame whose header states another size than its content has."""
    frame = compressed(plain)
    single = struct.pack("<IBQ", 0xFD2FB528, 0xE4, size)
    blocks_at = 4 + 1 + (1 if frame[4] >> 6 == 0 else {1: 2, 2: 4, 3: 8}[frame[4] >> 6])
    return single + frame[blocks_at:]


def test_a_frame_that_does_not_hold_what_it_declares_is_refused() -> None:
    assert codec.decompress(_declaring(5, b"plain"), 100) == b"plain"
    for size in (0, 4, 6, 100, BLOCK_MAX, BLOCK_MAX + 1, 1 << 40, (1 << 64) - 1):
        data = _declaring(size, b"plain")
        seconds, memory = cost(lambda data: codec.decompress(data, BLOCK_MAX), data)
        assert seconds < 0.05
        assert memory < 16 << 20
        with pytest.raises(DecodeError):
            codec.decompress(data, BLOCK_MAX)


def test_the_limit_of_a_compressed_frame_counts_for_its_plain_bytes() -> None:
    assert codec.decompress(compressed(bytes(1000)), 1000) == bytes(1000)
    with pytest.raises(DecodeError, match="at most 999"):
        codec.decompress(compressed(bytes(1000)), 999)


def test_the_window_of_the_largest_block_is_let_through() -> None:
    largest = random.Random(2).randbytes(1000) * (BLOCK_MAX // 1000 + 1)
    frame = compression.compress(largest[:BLOCK_MAX])
    assert codec.decompress(frame, BLOCK_MAX) == largest[:BLOCK_MAX]


# -- fields -------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "frame",
    [
        framed(codec.pack(()), kind=99),
        framed(codec.pack(()), kind=kind_of(m.Ping), version=2),
        framed(codec.pack(()), kind=kind_of(m.Ping), version=0),
        framed(codec.pack((1,)), kind=kind_of(m.Ping)),
        framed(codec.pack(()), kind=kind_of(m.Ping), bulk=b"x"),
        framed(codec.pack(()), kind=kind_of(m.Ping), size=1 << 31),
        framed(codec.pack((-1,)), kind=kind_of(m.TimeoutNow)),
        framed(codec.pack((1 << 63,)), kind=kind_of(m.TimeoutNow)),
        framed(codec.pack((True,)), kind=kind_of(m.TimeoutNow)),
        framed(codec.pack((1.0,)), kind=kind_of(m.TimeoutNow)),
        framed(codec.pack((1, 2, 3, 1, False)), kind=kind_of(m.Vote)),
        framed(codec.pack(("x" * 4097, CLUSTER)), kind=kind_of(m.Refuse)),
        framed(codec.pack(((5,),)), kind=kind_of(m.Forward), bulk=b"four"),
        framed(codec.pack(((3,),)), kind=kind_of(m.Forward), bulk=b"four"),
        framed(codec.pack(((-1, 5),)), kind=kind_of(m.Forward), bulk=b"four"),
        framed(codec.pack((4,)), kind=kind_of(m.Forward), bulk=b"four"),
        framed(codec.pack((1, 1, 1, 1, 1, 1, (3,))), bulk=b"abc"),
        framed(codec.pack((1, 1, 1, 1, 1, 1, (25,))), bulk=struct.pack("<QQBQ", 1, 1, 77, 1)),
        framed(codec.pack((1, 1, 1, 1, 1, 1, (25,))), bulk=struct.pack("<QQBQ", 1 << 63, 1, 2, 1)),
        framed(codec.pack((1, (1, 1, ((), (), (), (("a", -1),))), 0, 0)), kind=kind_of(m.SnapshotChunk)),
        framed(codec.pack((1, (1, 1, ((), (), (), 5)), 0, 0)), kind=kind_of(m.SnapshotChunk)),
        framed(codec.pack(((1, 1), b"short", "a", 1, "b", ())), kind=kind_of(m.Hello)),
        framed(codec.pack(((1, 1), CLUSTER, b"a", 1, "b", ())), kind=kind_of(m.Hello)),
        framed(codec.pack(((1, 1), CLUSTER, "a" * 256, 1, "b", ())), kind=kind_of(m.Hello)),
        framed(codec.pack(((1, 1), CLUSTER, "a", 1, "b", "c")), kind=kind_of(m.Hello)),
        framed(codec.pack(((1, 1), CLUSTER, "a", 1, "b", (1,))), kind=kind_of(m.Hello)),
        framed(codec.pack((1, CLUSTER, "a", 1)), kind=kind_of(m.Welcome)),
    ],
)
def test_frames_with_a_wrong_field_are_refused(frame: bytes) -> None:
    with pytest.raises(DecodeError):
        codec.decode_frame(frame)


def test_foundings_with_a_wrong_field_are_refused() -> None:
    configuration = ((), (), (), ())
    for fields in (
        (CLUSTER, configuration),
        (b"short", configuration, ()),
        (CLUSTER, configuration, (("name", "text"),)),
        (CLUSTER, configuration, (("name", True),)),
        (CLUSTER, configuration, ((5, 1),)),
        (CLUSTER, configuration, 5),
    ):
        with pytest.raises(DecodeError):
            codec.decode_founding(codec.pack(fields))


def test_batches_with_a_wrong_field_or_command_are_refused() -> None:
    put = ops.Put("k", "v").to_wire()
    wrong_numbers = (1, 1, 1, None), (-1, 1, 1, None, ()), (1, 1, True, None, ())
    wrong_commands = (1, 1, 1, None, 5), (1, 1, 1, None, (put, (99,))), (1, 1, 1, None, ((*put, 1),))
    wrong_guests = [(1, 1, 1, guest, ()) for guest in (5, ("ann",), ("ann", -1), (b"ann", 1), ("a" * 256, 1))]
    for fields in (*wrong_numbers, *wrong_commands, *wrong_guests):
        with pytest.raises(DecodeError):
            checked_batch(codec.pack(fields))
    assert checked_batch(codec.pack((1, 1, 1, None, (put,)))).commands == (put,)
    assert checked_batch(codec.pack((1, 1, 1, ("ann", 7), (put,)))).guest == ("ann", 7)
