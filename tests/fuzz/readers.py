"""How members read what comes from others or from the disk, and what must be true of what they took.

Who takes bytes has to prove that writing what was read gives the same bytes, where they are logged or hashed, and that a member can live
with it.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

import forms
import zstandard
from attrs import evolve, frozen
from mutation import SECTOR

from replkv import codec, letters, wire
from replkv import messages as m
from replkv.config import Settings
from replkv.disk import MemoryDisk
from replkv.errors import Compacted, Incompatible
from replkv.kv import run
from replkv.log import Log, Recovered
from replkv.machine import Machine
from replkv.snapshot import SnapshotFile, SnapshotParser, SnapshotReceiver, open_snapshot, read_snapshot
from replkv.snapshotting import load_machine
from replkv.valuecodec import Codec
from replkv.values import Span
from replkv.wal_format import Head, RecordKind, decode_head, encode_flush, encode_head, encode_record, segment_name
from replkv.watch import Cursor, Place

# -- from the wire -----------------------------------------------------------------------------------------------------------------


def prove_frame(frame: codec.Frame, _: bytes) -> None:
    again = codec.decode_frame(codec.encode_frame(*frame))
    assert again == frame
    for entry, same in zip(_entries_of(frame), _entries_of(again), strict=True):
        assert entry.encoded == same.encoded
        prove_entry(entry, entry.encoded)


def _entries_of(frame: codec.Frame) -> Sequence[m.Entry]:
    return getattr(frame.message, "entries", ())


def prove_entry(entry: m.Entry, data: bytes) -> None:
    assert codec.make_entry(entry.index, entry.term, entry.kind, entry.time, entry.payload).encoded == data


def read_batch(data: bytes) -> codec.Batch:
    return codec.unpack_batch(data, wire.check_operation)


def prove_batch(batch: codec.Batch, data: bytes) -> None:
    session, sequence, lowest, commands, guest = batch
    packed = [codec.pack(command) for command in commands]
    assert codec.pack_batch(session, sequence, lowest, packed, guest) == data
    if len(commands) <= 500:
        _carry_out(packed)


def _carry_out(commands: Sequence[bytes]) -> None:
    """Let a member carry out commands that were let in, and check that it can: they are in the log now, and all others do the same."""
    machine = Machine.load([forms.dump()])
    block = codec.encode_block([codec.pack_batch(forms.SESSION, 9, 9, commands)])
    entry = codec.make_entry(machine.applied + 1, 1, m.EntryKind.BLOCK, machine.time + 1, block)
    (done,) = run(machine.apply(entry))
    assert done.answers is not None
    assert len(done.answers) == len(commands)
    assert codec.unpack(codec.pack(done.answers), codec.BLOCK_MAX) == done.answers
    prove_state(machine, b"".join(machine.dump()))


def prove_block(batches: list[codec.Batch], _: bytes) -> None:
    try:
        packed = [codec.pack_batch(*batch[:3], [codec.pack(command) for command in batch.commands], batch.guest) for batch in batches]
    except ValueError:
        return  # nested deeper than replkv packs; what is in a block was checked before it entered the log
    assert [codec.pack(batch) for batch in codec.decode_block(codec.encode_block(packed))] == [codec.pack(batch) for batch in batches]


def read_packed_block(plain: bytes) -> list[codec.Batch]:
    return codec.decode_block(b"\x01" + zstandard.ZstdCompressor(level=1, write_checksum=True).compress(plain))


def declared(packed: bytes) -> int:
    """Return how many bytes a zstd frame claims to hold, as far as anybody would believe it."""
    try:
        size = zstandard.get_frame_parameters(packed).content_size
    except zstandard.ZstdError:
        return 0
    return size if size <= codec.BLOCK_MAX else 0


def prove_founding(founding: m.Founding, data: bytes) -> None:
    assert codec.encode_founding(founding) == data
    machine = Machine()
    try:
        Settings.from_wire(founding.settings)
    except Incompatible:
        return
    run(machine.apply(codec.make_entry(1, 1, m.EntryKind.FOUNDING, 0, data)))
    run(machine.apply(codec.make_entry(2, 1, m.EntryKind.BLOCK, 5, codec.encode_block([]))))
    prove_state(machine, b"".join(machine.dump()))


def prove_configuration(configuration: m.Configuration, data: bytes) -> None:
    assert codec.encode_configuration(configuration) == data


# -- from clients, and to them -----------------------------------------------------------------------------------------------------


def _encoded(frame: letters.Frame) -> bytes:
    return letters.encode_frame(frame.seen, map(letters.encode_letter, frame.letters))


def prove_requests(frame: letters.Frame, _: bytes) -> None:
    assert letters.decode_requests(_encoded(frame)) == frame
    machine = Machine.load([forms.dump()])
    store = machine.store
    for letter in frame.letters[:20]:
        if isinstance(letter, letters.Read):
            assert machine.read(letter.operation, store.revision) is not None
        elif isinstance(letter, letters.Pull):
            cursor = Cursor(Span(letter.start, letter.end), Place(letter.revision, letter.passed), lambda: None, prev_kv=letter.prev_kv)
            with suppress(Compacted):
                cursor.read(store, store.revision, 5)


def prove_replies(frame: letters.Frame, _: bytes) -> None:
    try:
        encoded = _encoded(frame)
    except ValueError:
        return  # nested deeper than replkv packs
    assert _encoded(letters.decode_replies(encoded)) == encoded  # as bytes: no number that is none equals itself


# -- states ------------------------------------------------------------------------------------------------------------------------


def read_state(data: bytes) -> Machine:
    return Machine.load(data[at : at + 100] for at in range(0, len(data), 100))


def rows_of(data: bytes) -> list[Any]:
    """Return the head and the rows of a dump, however they are divided into parts."""
    parts = []
    while data:
        (length,) = struct.unpack_from("<I", data)
        parts.append(codec.unpack(data[4 : 4 + length], codec.BLOCK_MAX))
        data = data[4 + length :]
    return [parts[0], *(row for part in parts[1:] for row in part)]


def prove_state(machine: Machine, data: bytes) -> None:
    assert rows_of(b"".join(machine.dump())) == rows_of(data)
    following = codec.make_entry(machine.applied + 1, machine.term, m.EntryKind.BLOCK, machine.time, codec.encode_block([]))
    run(machine.apply(following))
    assert Machine.load(machine.dump()).digest() == machine.digest()


# -- snapshots ---------------------------------------------------------------------------------------------------------------------


def read_snapshot_file(data: bytes) -> tuple[SnapshotFile, list[bytes]]:
    disk = MemoryDisk()
    name = forms.snapshot()[0].name
    disk.allocate(name, 0)
    disk.write(name, 0, data)
    file = open_snapshot(disk, name)
    chunks = list(read_snapshot(disk, file))
    piecemeal = SnapshotParser("the same in pieces")
    pieces = [chunk for at in range(0, len(data), 61) for chunk in piecemeal.feed(data[at : at + 61])]
    assert (pieces, piecemeal.finished) == (chunks, True)
    load_machine(disk, file)
    return file, chunks


def prove_snapshot(read: tuple[SnapshotFile, list[bytes]], data: bytes) -> None:
    file, chunks = read
    assert file.size == len(data)
    prove_state(Machine.load(chunks), b"".join(chunks))


def frames_of(data: bytes) -> list[bytes]:
    """Return the zstd frames of a snapshot file, as far as their lengths lead to them."""
    at = 16 + int.from_bytes(data[8:12], "little")
    found = []
    while length := int.from_bytes(data[at : at + 4], "little"):
        found.append(data[at + 12 : at + 12 + length])
        at += 12 + length
    return found


def size_of_snapshot(data: bytes) -> int:
    return max(len(data), sum(map(declared, frames_of(data))))


def receive(data: bytes) -> SnapshotFile:
    """Take a snapshot as its leader sends it, in pieces, one of which comes twice."""
    receiver = SnapshotReceiver(MemoryDisk(), forms.META, len(data))
    for offset in (*range(0, len(data), 300), 0):
        receiver.add(offset, data[offset : offset + 300])
    return receiver.finish()


def read_pointer(data: bytes) -> SnapshotFile:
    return SnapshotFile.from_wire(codec.unpack(data))


def prove_pointer(file: SnapshotFile, _: bytes) -> None:
    assert SnapshotFile.from_wire(codec.unpack(codec.pack(file.to_wire()))) == file


def prove_head(head: Head, _: bytes) -> None:
    assert decode_head(encode_head(head)) == head
    assert 0 <= head.identity.incarnation < 1 << 64
    assert codec.natural(head.last_index) >= 0
    if head.founding:
        codec.decode_entry(head.founding)


# -- logs --------------------------------------------------------------------------------------------------------------------------


@frozen
class Opened:
    """A log that was opened, and what it said."""

    disk: MemoryDisk
    log: Log
    recovered: Recovered


def open_log(*segments: bytes) -> Opened:
    """Open the log of a directory with these segments, and with the snapshot that ``forms`` knows."""
    disk = MemoryDisk()
    files = {name: data for name, data in forms.log_files().items() if name.startswith("snapshot")}
    for name, data in {**files, **{segment_name(number): data for number, data in enumerate(segments, 1)}}.items():
        disk.allocate(name, 0)
        disk.write(name, 0, data)
    return Opened(disk, *Log.open(disk, "a", 7, forms.SEGMENT))


def segments() -> list[bytes]:
    return [data for name, data in forms.log_files().items() if name.startswith("wal")]


def open_two(data: bytes) -> Opened:
    """Open a log of two segments, each half of the bytes."""
    return open_log(data[: half_of(data)], data[half_of(data) :])


def half_of(data: bytes) -> int:
    """Return where the second segment begins."""
    return len(data) // 2 // SECTOR * SECTOR


_FLUSH = struct.Struct("<QQQ")
"""What a flush for ``open_records`` begins with: its term, and the term and index at which it says the log ends."""


def flush_of(hard_state: m.HardState, end: m.Position, *records: bytes) -> bytes:
    """Return the bytes of a flush for ``open_records``."""
    return _FLUSH.pack(hard_state.term, end.term, end.index) + b"".join(records)


def open_records(data: bytes) -> Opened:
    """Open a log whose second flush says what the bytes say, with right checksums around it."""
    term, end_term, end_index = _FLUSH.unpack(data[: _FLUSH.size].ljust(_FLUSH.size, b"\0"))
    body = data[_FLUSH.size :]
    size = (len(body) // SECTOR + 8) * SECTOR * 2
    first = encode_record(RecordKind.HEAD, encode_head(Head(size, m.Identity("a", 7), 0, b"", None)))
    begun = encode_flush(1, 1, 0, m.HardState(), m.NOWHERE, [first], 1)
    following = encode_flush(
        1, 2, len(begun) // SECTOR, m.HardState(term), m.Position(end_term, end_index), [body], len(record_starts(data))
    )
    return open_log((begun + following).ljust(size, b"\0"))


def record_starts(data: bytes) -> list[int]:
    """Return where the bodies of a flush's records begin, as far as their lengths lead to them."""
    found = []
    at = _FLUSH.size
    while at + 5 <= len(data):
        found.append(at + 5)
        at += 5 + int.from_bytes(data[at + 1 : at + 5], "little")
    return found


def prove_log(opened: Opened, _: bytes) -> None:
    """Check that a log says the same when it is opened again, and that what it says is well-formed."""
    recovered = opened.recovered
    again = Log.open(opened.disk, "a", 7, forms.SEGMENT)[1]
    assert again == evolve(recovered, configuration=again.configuration)  # the first time, more of what was lost may be known
    vote = m.Vote(recovered.hard_state.term, opened.log.last_index, 0)
    frame = codec.encode_frame(codec.NO_CLUSTER, recovered.identity.incarnation, 0, vote)
    assert codec.decode_frame(frame).message == vote  # what it says can be told to others
    for entry in recovered.entries:
        prove_entry(entry, entry.encoded)


# -- values of users ---------------------------------------------------------------------------------------------------------------


class Everything(NamedTuple):
    """A type with a field of every kind that ``typed`` knows."""

    numbers: tuple[int, ...] = ()
    share: float = 0.0
    names: frozenset[str] = frozenset()
    raw: bytes = b""
    pairs: dict[str, tuple[int, str | None]] = {}  # noqa: RUF012  # it is never changed
    inner: Everything | None = None
    rest: Any = None


def prover(codec_: Codec[Any]) -> Callable[[Any, bytes], None]:
    """Return the proof that a value which a codec has read is read alike when the codec itself has written it."""

    def prove(value: Any, _: bytes) -> None:
        try:
            stored = codec_.encode(value)
        except (TypeError, ValueError):
            return  # others may have written what this codec does not
        assert codec_.encode(codec_.decode(stored)) == stored

    return prove
