"""Values as bytes and back: frames on the wire, entries in the log, blocks of commands inside entries.

Nothing that arrives is trusted: every length is checked before anything is built from it, and every failure is one ``DecodeError``.
docs/FORMATS.md has the grammar with worked bytes.
"""

from __future__ import annotations

import re
import struct
import zlib
from itertools import pairwise
from operator import attrgetter
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn, TypeAlias, TypeVar

import msgpack

from replkv import compression
from replkv import messages as m
from replkv.address import parse_address
from replkv.errors import ReplkvError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from replkv.messages import Configuration, Entry, EntryKind, Founding, Message, SnapshotMeta

T = TypeVar("T")


class DecodeError(ReplkvError):
    """Bytes that no replkv of this version wrote."""


class TooNew(DecodeError):
    """Bytes that this version has no name for, and a newer one may; of a frame, ``envelope`` has cluster, sender and receiver."""

    envelope: tuple[bytes, int, int] | None = None


MAGIC = b"rK"
VERSIONS = (1, 1)
"""The oldest and the newest wire version this code speaks."""

FRAME_MAX = 8 << 20
HEAD_MAX = 64 << 10
BLOCK_MAX = 8 << 20
BATCH_MAX = 7 << 20
COMMAND_MAX = 6 << 20
"""Each of these leaves room for what is put around it: what has entered the log must be readable by everybody who applies it."""
FORWARD_MAX = 64
"""Batches of a Forward: a member has a few under way, and each that is none costs the leader a line in its log."""
SMALL = 512
"""Values up to this many bytes are unpacked without a look ahead: false claims in them cost 2 MiB at most."""
COMPRESS_FROM = 1 << 10
"""Blocks below this many bytes travel as they are: compressing them costs more than it saves."""

NO_CLUSTER = bytes(16)
MEMBER_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}", re.ASCII)
"""What a member may be called."""

_PREFIX = struct.Struct("<2sI")  # magic, crc32 of all that follows
_HEADER = struct.Struct("<BBI16sQQ")  # version, kind, length of the head, cluster, sender, receiver
_ENVELOPE = struct.Struct(_PREFIX.format + _HEADER.format[1:])  # both, to be read in one go
_HEAD_AT = _ENVELOPE.size
_INT_MAX = (1 << 63) - 1

_packer = msgpack.Packer(use_bin_type=True)  # shared: it never lets another thread in while it packs
pack: Callable[[Any], bytes] = _packer.pack
"""Pack a plain value as msgpack."""


def unpack(data: bytes | memoryview, limit: int = HEAD_MAX) -> Any:
    """Unpack one msgpack value; arrays become tuples.

    Raises:
        DecodeError: more than ``limit`` bytes, or not exactly one value, or a type replkv never writes: maps and extensions.
    """
    size = len(data)
    if size > limit:
        raise DecodeError(f"{size} bytes where at most {limit} are allowed")
    try:
        if size > SMALL:
            # The library allocates an array as soon as it reads its header, and nested headers may each claim the whole input.
            # Skipping over the value allocates nothing and fails if it is not all there; after that every claim is known to be true.
            walker = msgpack.Unpacker(max_buffer_size=size)
            walker.feed(data)
            walker.skip()
        return msgpack.unpackb(data, use_list=False, object_pairs_hook=_never_written, ext_hook=_never_written, max_ext_len=0)
    except (ValueError, TypeError, msgpack.UnpackException, RecursionError) as error:
        raise DecodeError(f"not a msgpack value: {error}") from None


def unpack_canonical(data: bytes, limit: int = HEAD_MAX) -> Any:
    """Unpack a value that is to be logged or hashed, and so may be written in one way only.

    Raises:
        DecodeError: as by ``unpack``, or ``pack`` would write it otherwise: a number in more bytes than it takes, a float of 32 bits.
    """
    value = unpack(data, limit)
    try:
        same = pack(value) == data
    except ValueError as error:  # it is nested too deep to be packed again
        raise DecodeError(f"not a value that replkv writes: {error}") from None
    if not same:
        raise DecodeError("a value that is written in another way than replkv writes it")
    return value


def _never_written(*_: object) -> NoReturn:
    raise ValueError("a map or an extension")


# -- checks ------------------------------------------------------------------------------------------------------------------------


def expected(what: str, value: object) -> NoReturn:
    """Refuse a value.

    Args:
        what: should have been there.
        value: is there.

    Raises:
        DecodeError: always.
    """
    raise DecodeError(f"expected {what}, found {type(value).__name__}")


def natural(value: object) -> int:
    """Return an integer of 63 bits that is not negative.

    Raises:
        DecodeError: it is something else.
    """
    if type(value) is not int or not 0 <= value <= _INT_MAX:
        expected("an integer of 63 bits", value)
    return value


def uint64(value: object) -> int:
    """Return an integer of 64 bits that is not negative, as incarnations are.

    Raises:
        DecodeError: it is something else.
    """
    if type(value) is not int or not 0 <= value < 1 << 64:
        expected("an integer of 64 bits", value)
    return value


def boolean(value: object) -> bool:
    """Return a boolean.

    Raises:
        DecodeError: it is something else.
    """
    if type(value) is not bool:
        expected("a boolean", value)
    return value


def short_text(value: object) -> str:
    """Return a text of at most 255 characters.

    Raises:
        DecodeError: it is something else.
    """
    if type(value) is not str or len(value) > 255:
        expected("a short text", value)
    return value


def long_text(value: object) -> str:
    """Return a text of at most 4096 characters.

    Raises:
        DecodeError: it is something else.
    """
    if type(value) is not str or len(value) > 4096:
        expected("a text", value)
    return value


def url(value: object) -> str:
    """Return the address of a member as ``parse_address`` writes it.

    Raises:
        DecodeError: it is something else.
    """
    text = short_text(value)
    try:
        if parse_address(text) == text:
            return text
    except ValueError:
        pass
    raise DecodeError(f"{text!r} is no address of a member")


def url_or_none(value: object) -> str:
    """Return the address of a member, or the empty text of one who knows none.

    Raises:
        DecodeError: it is something else.
    """
    return url(value) if value != "" else ""


def cluster_id(value: object) -> bytes:
    """Return the id of a cluster.

    Raises:
        DecodeError: it is something else.
    """
    if type(value) is not bytes or len(value) != len(NO_CLUSTER):
        expected("a cluster id of 16 bytes", value)
    return value


def _hash(value: object) -> bytes:
    if type(value) is not bytes or len(value) > 64:
        expected("a hash", value)
    return value


def names(value: object) -> tuple[str, ...]:
    """Return a list of names.

    Raises:
        DecodeError: it is something else.
    """
    if type(value) is not tuple:
        expected("a list of names", value)
    return tuple(short_text(name) for name in value)


def _voters(value: object) -> tuple[str, ...]:
    voters = names(value)
    if len(set(voters)) < len(voters):
        raise DecodeError("a list that names a member twice: who is in it counts once")
    return voters


def row(value: object, length: int) -> tuple[Any, ...]:
    """Return a list of a fixed length.

    Raises:
        DecodeError: it is something else.
    """
    if type(value) is not tuple or len(value) != length:
        expected(f"a list of {length}", value)
    return value


# -- entries -----------------------------------------------------------------------------------------------------------------------


def make_entry(index: int, term: int, kind: EntryKind, time: int, payload: bytes) -> Entry:
    """Build an entry with its bytes."""
    return m.Entry(index, term, kind, time, m.ENTRY_HEAD.pack(index, term, kind, time) + payload)


_ENTRY_HEAD_SIZE = m.ENTRY_HEAD.size
_ENTRY_KINDS = {int(kind): kind for kind in m.EntryKind}


def decode_entry(data: bytes) -> Entry:
    """Read an entry from the bytes it was packed to; the payload is checked when it is applied.

    Raises:
        DecodeError: too short.
        TooNew: of an unknown kind.
    """
    if len(data) < _ENTRY_HEAD_SIZE:
        raise DecodeError(f"an entry of {len(data)} bytes")
    index, term, number, time = m.ENTRY_HEAD.unpack_from(data)
    kind = _ENTRY_KINDS.get(number)
    if index > _INT_MAX or term > _INT_MAX or (kind is not None and time > _INT_MAX):
        for value in (index, term, time):
            natural(value)  # one of them is none, and this names it
    if kind is None:
        raise TooNew(f"an entry of the unknown kind {number}: upgrade this member")
    return m.Entry(index, term, kind, time, data)


def configuration_to_wire(configuration: Configuration) -> tuple[Any, ...]:
    """Return plain values for a configuration, the same for equal ones."""
    c = configuration
    return (c.voters, c.outgoing, c.learners, sorted(c.members.items()), sorted(c.addresses.items()))


def configuration_from_wire(wire: object) -> Configuration:
    """Read what ``configuration_to_wire`` wrote."""
    voters, outgoing, learners, members, addresses = row(wire, 5)
    incarnations, urls = _by_name(members, uint64), _by_name(addresses, url)
    if not urls.keys() <= incarnations.keys():
        raise DecodeError("an address of nobody")
    return m.Configuration(_voters(voters), _voters(outgoing), _voters(learners), incarnations, urls)


def _by_name(wire: object, check: Callable[[Any], T]) -> dict[str, T]:
    """Read pairs of a name and what ``check`` lets pass, in the order of the names."""
    if type(wire) is not tuple:
        expected("a list of members", wire)
    pairs = [row(pair, 2) for pair in wire]
    values = {short_text(name): check(value) for name, value in pairs}
    if any(one >= following for (one, _), (following, _) in pairwise(pairs)):
        raise DecodeError("members that are not in the order of their names")
    return values


def encode_configuration(configuration: Configuration) -> bytes:
    """Pack a configuration as the payload of an entry."""
    return pack(configuration_to_wire(configuration))


def decode_configuration(payload: bytes) -> Configuration:
    """Read the payload of a configuration entry."""
    return configuration_from_wire(unpack_canonical(payload))


def encode_founding(founding: Founding) -> bytes:
    """Pack the payload of the first entry."""
    return pack((founding.cluster, configuration_to_wire(founding.configuration), sorted(founding.settings.items()), founding.level))


def decode_founding(payload: bytes) -> Founding:
    """Read the payload of the first entry."""
    cluster, configuration, settings, level = row(unpack_canonical(payload), 4)
    if type(settings) is not tuple:
        expected("a list of settings", settings)
    values = {}
    for pair in settings:
        name, value = row(pair, 2)
        if type(value) not in (int, float):
            expected("a number", value)
        values[short_text(name)] = value
    if [name for name, _ in settings] != sorted(values):
        raise DecodeError("settings that are not in the order of their names")
    return m.Founding(cluster_id(cluster), configuration_from_wire(configuration), values, natural(level))


def meta_to_wire(meta: SnapshotMeta) -> tuple[Any, ...]:
    """Return plain values for the place a snapshot stands for."""
    return (meta.index, meta.term, configuration_to_wire(meta.configuration))


def meta_from_wire(wire: object) -> SnapshotMeta:
    """Read what ``meta_to_wire`` wrote."""
    index, term, configuration = row(wire, 3)
    return m.SnapshotMeta(natural(index), natural(term), configuration_from_wire(configuration))


# -- blocks of commands ------------------------------------------------------------------------------------------------------------

_RAW, _ZSTD = b"\x00", b"\x01"
_NOBODY = b"\xc0"  # None, packed


class Batch(NamedTuple):
    """Commands of one session under one sequence number: the unit of submission, of deduplication and of repetition.

    ``lowest`` is the lowest sequence whose answer the session still waits for; answers below it may be forgotten.
    ``commands`` are operations as ``ops.py`` packs them.  Session 0 opens a session, with a random number as the sequence.
    ``guest`` is on whose behalf: None a member's own, else the user of a client, "" where nobody was asked, and the auth revision at
    which that was proved.
    """

    session: int
    sequence: int
    lowest: int
    commands: tuple[tuple[Any, ...], ...]
    guest: tuple[str, int] | None = None

    def __repr__(self) -> str:  # without what is in the commands: values, and hashes of passwords
        return f"<{len(self.commands)} commands, {self.sequence} of session {self.session}>"


def pack_batch(session: int, sequence: int, lowest: int, commands: Sequence[bytes], guest: tuple[str, int] | None = None) -> bytes:
    """Join packed commands into a batch, unparsed."""
    head = (b"\x95", pack(session), pack(sequence), pack(lowest), _NOBODY if guest is None else pack(guest))
    return b"".join((*head, _packer.pack_array_header(len(commands)), *commands))


def unpack_batch(data: bytes, check: Callable[[object], None]) -> Batch:
    """Read one batch, and let ``check`` judge each of its commands: for batches that came from another member.

    Raises:
        DecodeError: not a batch, or ``check`` raised it.
    """
    batch = _batch(unpack_canonical(data, BATCH_MAX))
    for command in batch.commands:
        check(command)
    return batch


def _batch(value: object) -> Batch:
    session, sequence, lowest, guest, commands = row(value, 5)
    if type(commands) is not tuple:
        expected("a list of commands", commands)
    return Batch(natural(session), natural(sequence), natural(lowest), commands, None if guest is None else subject(guest))


def subject(value: object) -> tuple[str, int]:
    """Return a user, "" where there is none, and the auth revision at which that was proved."""
    user, stamp = row(value, 2)
    return short_text(user), natural(stamp)


def encode_block(batches: Sequence[bytes]) -> bytes:
    """Join packed batches into the payload of an entry, and compress it once for all members."""
    plain = b"".join((_packer.pack_array_header(len(batches)), *batches))
    if len(plain) < COMPRESS_FROM:
        return _RAW + plain
    return _ZSTD + compression.compress(plain)


def decode_block(payload: bytes) -> list[Batch]:
    """Read the payload of a block; its commands were checked before they entered the log.

    Raises:
        DecodeError: damaged, or larger than ``BLOCK_MAX``.
        TooNew: in an unknown form.
    """
    form = payload[:1]
    if form not in (_RAW, _ZSTD):
        raise TooNew("a block in an unknown form: upgrade this member")
    plain = decompress(payload[1:], BLOCK_MAX) if form == _ZSTD else payload[1:]
    batches = unpack(plain, BLOCK_MAX)
    if type(batches) is not tuple:
        expected("a list of batches", batches)
    return [_batch(batch) for batch in batches]


def decompress(data: bytes, limit: int) -> bytes:
    """Undo one zstd frame whose size is declared and at most ``limit`` bytes.

    Raises:
        DecodeError: no size, a larger one, no checksum, a window larger than any block, damage, or bytes behind the frame.
    """
    try:
        return compression.decompress(data, limit, BLOCK_MAX)
    except ValueError as error:
        raise DecodeError(str(error)) from None


# -- frames ------------------------------------------------------------------------------------------------------------------------


class Frame(NamedTuple):
    """One message with the addresses on its envelope: incarnations, which are unique, stand for members."""

    cluster: bytes
    sender: int
    receiver: int
    message: Message


def encode_frame(cluster: bytes, sender: int, receiver: int, message: Message, version: int = VERSIONS[1]) -> bytes:
    """Pack a message for the wire.

    Args:
        cluster: 16 bytes; ``NO_CLUSTER`` before there is one.
        sender: this member's incarnation.
        receiver: the peer's incarnation; 0 while it is not known.
        message: what to say.
        version: that both sides agreed on.
    """
    kind, to_wire = _WRITERS[type(message)]
    fields, bulk = to_wire(message)
    head = pack(fields)
    rest = _HEADER.pack(version, kind, len(head), cluster, sender, receiver) + head
    if bulk:
        rest = b"".join((rest, *bulk))
    return _PREFIX.pack(MAGIC, zlib.crc32(rest)) + rest


def decode_frame(data: bytes, versions: tuple[int, int] = VERSIONS) -> Frame:
    """Read a frame.  Takes time and memory in proportion to at most 64 KiB, whatever it claims to hold.

    Greetings are read in every version, so that members which can't talk can say so: newer ones only add fields at their ends.

    Args:
        data: the frame.
        versions: the oldest and the newest that may be spoken.

    Raises:
        DecodeError: not a frame of these versions, or damaged.
        TooNew: it holds an entry of a kind that this version does not know.
    """
    size = len(data)
    if not _HEAD_AT <= size <= FRAME_MAX:
        raise DecodeError(f"a frame of {size} bytes")
    magic, crc, version, kind, head_size, cluster, sender, receiver = _ENVELOPE.unpack_from(data)
    view = memoryview(data)
    if magic != MAGIC:
        raise DecodeError("not a frame of replkv")
    if zlib.crc32(view[_PREFIX.size :]) != crc:
        raise DecodeError("a damaged frame")
    if not versions[0] <= version <= versions[1] and kind not in _GREETINGS:
        raise DecodeError(f"a frame of version {version}, this member speaks {versions[0]} to {versions[1]}")
    if kind not in _READERS:
        raise DecodeError(f"a frame of the unknown kind {kind}")
    bulk_at = _HEAD_AT + head_size
    if bulk_at > size:
        raise DecodeError("a frame whose head is longer than itself")
    length, from_wire = _READERS[kind]
    head = unpack(view[_HEAD_AT:bulk_at])
    if kind in _GREETINGS and type(head) is tuple:
        head = head[:length]
    try:
        message = from_wire(row(head, length), data, bulk_at)
    except TooNew as error:
        error.envelope = (cluster, sender, receiver)
        raise
    return tuple.__new__(Frame, (cluster, sender, receiver, message))  # without the call of Python's that a named tuple's own one is


def _slices(sizes: object, data: bytes, at: int) -> list[bytes]:
    if type(sizes) is not tuple:
        expected("a list of sizes", sizes)
    parts = []
    for size in sizes:
        if type(size) is not int or not 0 <= size <= len(data) - at:
            natural(size)
            raise DecodeError("a frame shorter than its parts")
        parts.append(data[at : at + size])
        at += size
    if at != len(data):
        raise DecodeError("a frame longer than its parts")
    return parts


def _no_bulk(data: bytes, at: int) -> None:
    if at != len(data):
        raise DecodeError("bytes behind the end of a message")


_Reader: TypeAlias = "Callable[[tuple[Any, ...], bytes, int], Message]"
_NUMBERS: dict[Callable[[Any], Any], type] = {natural: int, boolean: bool}


def _are(values: tuple[Any, ...], kinds: tuple[type, ...]) -> bool:
    """Tell at one look whether values are such naturals and booleans: as ``natural`` and ``boolean`` say, without a call for each."""
    return tuple(map(type, values)) == kinds and min(values) >= 0 and max(values) <= _INT_MAX


def _plain(build: Callable[..., Message], *checks: Callable[[Any], Any]) -> tuple[int, _Reader]:
    """Return the reader of a message that is all head: a check for each field, in their order."""

    def read(head: tuple[Any, ...], data: bytes, at: int) -> Message:
        _no_bulk(data, at)
        return build(*[check(value) for check, value in zip(checks, head, strict=True)])

    kinds = tuple(_NUMBERS[check] for check in checks if check in _NUMBERS)

    def read_numbers(head: tuple[Any, ...], data: bytes, at: int) -> Message:
        return build(*head) if at == len(data) and _are(head, kinds) else read(head, data, at)

    return len(checks), read_numbers if 0 < len(checks) == len(kinds) else read


_encoded = attrgetter("encoded")


def _write_append(message: m.Append) -> tuple[tuple[Any, ...], Sequence[bytes]]:
    a = message
    bulk = tuple(map(_encoded, a.entries))
    return (a.term, a.prev_index, a.prev_term, a.commit, a.round, a.time, tuple(map(len, bulk))), bulk


_SIX_NUMBERS = (int,) * 6


def _read_append(head: tuple[Any, ...], data: bytes, at: int) -> m.Append:
    term, prev_index, prev_term, commit, round_, time, sizes = head
    entries = tuple(map(decode_entry, _slices(sizes, data, at)))
    if not _are(head[:6], _SIX_NUMBERS):
        for number in head[:6]:
            natural(number)  # one of them is none, and this names it
    return m.Append(term, prev_index, prev_term, commit, round_, time, entries)


def _write_forward(message: m.Forward) -> tuple[tuple[Any, ...], Sequence[bytes]]:
    return (tuple(map(len, message.batches)),), message.batches


def _read_forward(head: tuple[Any, ...], data: bytes, at: int) -> m.Forward:
    (sizes,) = head
    if type(sizes) is tuple and len(sizes) > FORWARD_MAX:
        raise DecodeError(f"{len(sizes)} batches where at most {FORWARD_MAX} are allowed")
    return m.Forward(tuple(_slices(sizes, data, at)))


def _write_chunk(message: m.SnapshotChunk) -> tuple[tuple[Any, ...], list[bytes]]:
    return (message.term, meta_to_wire(message.meta), message.offset, message.total), [message.data]


def _read_chunk(head: tuple[Any, ...], data: bytes, at: int) -> m.SnapshotChunk:
    term, meta, offset, total = head
    return m.SnapshotChunk(natural(term), meta_from_wire(meta), natural(offset), natural(total), data[at:])


def _write_found(message: m.Found) -> tuple[tuple[Any, ...], list[bytes]]:
    return (sorted(message.addresses.items()), message.configured), [message.entry.encoded]


def _read_found(head: tuple[Any, ...], data: bytes, at: int) -> m.Found:
    addresses, configured = head
    return m.Found(decode_entry(data[at:]), _by_name(addresses, url), natural(configured))


def _write_greeting(*names: str) -> Callable[[Any], tuple[tuple[Any, ...], tuple[bytes, ...]]]:
    head = _fields(*names)

    def write(message: m.Hello | m.Welcome) -> tuple[tuple[Any, ...], tuple[bytes, ...]]:
        about = message.about
        return (*head(message)[0], (about.address, about.configured, about.level, about.priority)), ()

    return write


def _read_about(value: object) -> m.About:
    address, configured, level, priority = row(value[:4] if type(value) is tuple else value, 4)
    return m.About(url_or_none(address), natural(configured), natural(level), natural(priority))


def _write_census_reply(message: m.CensusReply) -> tuple[tuple[Any, ...], tuple[bytes, ...]]:
    r = message
    return (r.id, r.term, r.last_index, r.last_term, r.in_doubt, r.configured, configuration_to_wire(r.configuration)), ()


def _read_versions(value: object) -> tuple[int, int]:
    low, high = row(value, 2)
    return natural(low), natural(high)


def _fields(*names: str) -> Callable[[Any], tuple[tuple[Any, ...], tuple[bytes, ...]]]:
    """Return the writer of a message that is all head."""
    if len(names) < 2:  # of which ``attrgetter`` makes no tuple
        return lambda message: (tuple([getattr(message, name) for name in names]), ())
    fields = attrgetter(*names)
    return lambda message: (fields(message), ())


# These numbers are on the wire: never reuse one.
_WRITERS: dict[type, tuple[int, Callable[[Any], tuple[Any, Any]]]] = {
    m.Hello: (1, _write_greeting("versions", "cluster", "name", "incarnation", "receiver", "founders")),
    m.Welcome: (2, _write_greeting("version", "cluster", "name", "incarnation", "founders")),
    m.Refuse: (3, _fields("reason", "cluster", "removed")),
    m.Ping: (4, _fields()),
    m.Pong: (5, _fields()),
    m.Found: (6, _write_found),
    m.Vote: (16, _fields("term", "last_index", "last_term", "pre", "transfer")),
    m.VoteReply: (17, _fields("term", "granted", "pre")),
    m.Append: (18, _write_append),
    m.AppendReply: (19, _fields("term", "round", "match", "rejected", "hint_index", "hint_term")),
    m.ReadIndex: (20, _fields("term", "id")),
    m.ReadIndexReply: (21, _fields("term", "id", "index")),
    m.TimeoutNow: (22, _fields("term")),
    m.Census: (23, _fields("id")),
    m.CensusReply: (24, _write_census_reply),
    m.Forward: (32, _write_forward),
    m.SnapshotChunk: (33, _write_chunk),
    m.SnapshotAck: (34, _fields("term", "index", "offset")),
    m.Digest: (35, _fields("index", "full", "hash")),
    m.Scarcity: (36, _fields("full")),
    m.Application: (37, _fields("name", "incarnation", "address", "moved")),
    m.HandOver: (38, _fields("to")),
    m.Hindrance: (39, _fields("why")),
}

_GREETINGS = frozenset(_WRITERS[kind][0] for kind in (m.Hello, m.Welcome, m.Refuse))

_READERS: dict[int, tuple[int, _Reader]] = {
    1: _plain(m.Hello, _read_versions, cluster_id, short_text, uint64, short_text, names, _read_about),
    2: _plain(m.Welcome, natural, cluster_id, short_text, uint64, names, _read_about),
    3: _plain(m.Refuse, long_text, cluster_id, boolean),
    4: _plain(m.Ping),
    5: _plain(m.Pong),
    6: (2, _read_found),
    16: _plain(m.Vote, natural, natural, natural, boolean, boolean),
    17: _plain(m.VoteReply, natural, boolean, boolean),
    18: (7, _read_append),
    19: _plain(m.AppendReply, natural, natural, natural, boolean, natural, natural),
    20: _plain(m.ReadIndex, natural, natural),
    21: _plain(m.ReadIndexReply, natural, natural, natural),
    22: _plain(m.TimeoutNow, natural),
    23: _plain(m.Census, natural),
    24: _plain(m.CensusReply, natural, natural, natural, natural, boolean, natural, configuration_from_wire),
    32: (1, _read_forward),
    33: (4, _read_chunk),
    34: _plain(m.SnapshotAck, natural, natural, natural),
    35: _plain(m.Digest, natural, boolean, _hash),
    36: _plain(m.Scarcity, boolean),
    37: _plain(m.Application, short_text, uint64, url_or_none, boolean),
    38: _plain(m.HandOver, short_text),
    39: _plain(m.Hindrance, long_text),
}
