"""What clients and members say to each other: the letters, and frames of them as bytes.

A client numbers its requests as it likes, each number once per connection; replies carry the number of what they answer, and come in any
order.  A batch is of the client's own session, so that it takes effect once through however many members it is sent; a pull holds the
whole state of a watch.  So a client that lost its member goes on at any other.

Several letters travel in one frame.  That of a client tells how many frames it has taken in on this connection, for a member keeps at
most ``UNSEEN_MAX`` on their way; that of a member tells the revision its store has reached, which is never behind what is said in it.
Nothing that arrives is trusted, as in ``codec.py``; docs/FORMATS.md has the grammar.
"""

from __future__ import annotations

import struct
import zlib
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeAlias

from attrs import field, frozen

from replkv import codec, errors, faults, wire
from replkv.codec import FRAME_MAX, DecodeError, boolean, cluster_id, expected, long_text, natural, row, short_text, unpack
from replkv.config import Settings
from replkv.faults import content, key_value, or_none, raw_answer
from replkv.values import Event

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from replkv.wire import Raw

OLDEST, VERSION = 1, 1
"""The oldest and the newest version of what is described here that this code speaks.

A client says its newest one, the member answers with the newest that it speaks up to that, and the client goes elsewhere if that is too
old for it.  A Hello looks the same in all of them.
"""

UNSEEN_MAX: Final = 16
"""Frames of replies that may be on their way: nng drops those beyond 64 without a word."""
SEEN_EVERY: Final = 8
"""A client that has nothing to say acknowledges after so many frames, with one that is empty."""
SEEN_BYTES: Final = 64 << 10
"""Or after so many bytes: what was not acknowledged is memory that its member may lack for others."""
LETTERS_MAX: Final = 4096
"""Letters in one frame: a frame that is full of the smallest would keep its reader busy for too long."""
PART_MAX: Final = 256 << 10
"""Replies of more bytes than this travel in parts."""
REPLY_MAX: Final = 64 << 20
"""A reply has at most so many bytes, its parts together."""

CONSISTENCIES: Final = ("linearizable", "lease", "local")
"""How new a read must be, by its number on the wire."""

LEASES, LEASE_KEYS, KEPT, READY, STATUS, MEMBERS, SETTLED, OUTLINE = 1, 2, 3, 4, 5, 6, 7, 8
"""What a ``Look`` asks for; these numbers are on the wire."""
INSPECT_STATUS, INSPECT_USERS, INSPECT_USER, INSPECT_ROLES, INSPECT_ROLE = 1, 2, 3, 4, 5
"""What an ``Inspect`` asks for; these numbers are on the wire."""

TOKEN: Final = 32
"""Bytes of a token."""
_SECRET_MAX: Final = 1024

ADDRESSES: Final = b"\x00replkv/clients/"
"""Keys under which members write down, each under its name, at which address they serve clients: every user may read that, root alone
write it."""


# -- requests ----------------------------------------------------------------------------------------------------------------------


@frozen
class Hello:
    """The first letter of a connection.

    Args:
        number: of this letter.
        version: that the client speaks.
        client: a random number of 62 bits, the same on all connections of a client.
        user: whom it is going to prove to be, if it is asked to; "": whom its certificate names, if anybody.
    """

    number: int
    version: int
    client: int
    user: str = ""


@frozen
class Prove:
    """The answer to an ``Ask``: what proves that the client is the user it said it is.

    Args:
        number: of this letter.
        token: that an earlier ``Welcome`` brought; empty: none.
        password: empty: none, the token has to do.
    """

    number: int
    token: bytes = field(repr=False)
    password: bytes = field(repr=False)


@frozen
class Batch:
    """Commands to replicate: ``data`` is what ``codec.pack_batch`` returns, of the client's own session."""

    number: int
    data: bytes = field(repr=False)  # there may be a password's hash in it


@frozen
class Read:
    """A question to the store.

    Args:
        number: of this letter.
        operation: a packed GET, SCAN or transaction that only reads.
        consistency: one of ``CONSISTENCIES``.
        max_staleness: microseconds by which a local read may be behind; None: any.
        min_revision: that a local read must have reached; 0: any.
    """

    number: int
    operation: Raw = field(repr=False)  # values that are compared
    consistency: str
    max_staleness: int | None = None
    min_revision: int = 0


@frozen
class Look:
    """A question to the member.

    Args:
        number: of this letter.
        what: ``LEASES``, ``LEASE_KEYS``, ``KEPT``, ``READY``, ``SETTLED`` or ``OUTLINE``, behind a read barrier; ``STATUS`` or ``MEMBERS``,
            at once.
        argument: the lease whose keys are wanted, or the keeper whose leases.
    """

    number: int
    what: int
    argument: int = 0


@frozen
class Pull:
    """A request for what comes next in a watch; it is answered when there is something, or when the place has moved on by much.

    Args:
        number: of this letter.
        start: of the keys.
        end: of them, not included; None: all from ``start`` on.
        revision: of the place to read on from.
        passed: events of that revision that lie behind.
        puts: whether they are wanted.
        deletes: whether they are wanted.
        prev_kv: whether events are to tell what the key held before.
        synced: the client had read everything when it was answered last.
    """

    number: int
    start: bytes
    end: bytes | None
    revision: int
    passed: int = 0
    puts: bool = True
    deletes: bool = True
    prev_kv: bool = False
    synced: bool = False


@frozen
class HandOver:
    """Have leadership handed over; it is answered when that is done.

    Args:
        number: of this letter.
        to: the member that is to lead; "": anybody but who does.
    """

    number: int
    to: str


@frozen
class Inspect:
    """A question about users and roles, answered behind a read barrier.

    Args:
        number: of this letter.
        what: one of ``INSPECT_STATUS``, ``INSPECT_USERS``, ``INSPECT_USER``, ``INSPECT_ROLES`` and ``INSPECT_ROLE``.
        name: of the user or the role, where one is asked for.
    """

    number: int
    what: int
    name: str = ""


@frozen
class Cancel:
    """Have a request forgotten; no reply follows, but one to it may be on its way."""

    number: int


@frozen
class Ping:
    """Ask for a sign of life, and for what the member knows of its state."""

    number: int


Request: TypeAlias = Hello | Prove | Batch | Read | Look | Pull | Inspect | Cancel | Ping | HandOver


# -- replies -----------------------------------------------------------------------------------------------------------------------


@frozen
class Ask:
    """The answer to a ``Hello`` whose client has to prove that it is the user it says: with ``Prove``."""

    number: int


@frozen
class Welcome:
    """The answer to a ``Hello``, or to a ``Prove``; before it nothing is told.

    Args:
        number: of what it answers.
        version: that the member speaks.
        name: of the member.
        cluster: its id, 16 bytes.
        incarnation: of the member.
        settings: what the cluster lives by.
        addresses: of the members that serve clients over the network, by name.
        revision: that the member's store has reached.
        user: whom the member takes the client for; "": for nobody, since nobody has to say who it is.
        stamp: the auth revision at which that was proved; user and stamp are the guest of the client's batches.
        token: proves it at the other members for a while; empty: there is no new one.
    """

    number: int
    version: int
    name: str
    cluster: bytes
    incarnation: int
    settings: Settings
    addresses: Mapping[str, str]
    revision: int
    user: str = ""
    stamp: int = 0
    token: bytes = field(default=b"", repr=False)


@frozen
class Outcome:
    """What became of a batch, as ``machine.Outcome`` has it; this member has applied it, or has got the news with a snapshot."""

    number: int
    session: int
    sequence: int
    answers: tuple[Raw, ...] | None = field(repr=False)
    opened: int = 0
    expired: bool = False


@frozen
class Answer:
    """The answer to a ``Read`` or a ``Look``: a status and what goes with it."""

    number: int
    raw: Raw = field(repr=False)


@frozen
class Events:
    """A helping of a watch.

    Args:
        number: of the ``Pull``.
        events: perhaps none.
        revision: of the place behind them.
        passed: events of that revision that lie behind.
        caught_up: the member has nothing more to read now.
    """

    number: int
    events: tuple[Event, ...] = field(repr=False)
    revision: int
    passed: int
    caught_up: bool


@frozen
class Pong:
    """The answer to a ``Ping``.

    Args:
        number: of the ``Ping``.
        revision: that the member's store has reached.
        age: microseconds since that was known to be the newest state; None: it never was.
        leader: whom the member takes for the leader; None: it knows of none.
        unreachable: whom it can't reach.
        trouble: what may be the reason that there is no answer, each behind a semicolon.
    """

    number: int
    revision: int
    age: int | None
    leader: str | None
    unreachable: tuple[str, ...]
    trouble: str


@frozen
class Failed:
    """A request that can't be answered: ``error`` is what the call raises."""

    number: int
    error: errors.ReplkvError = field(eq=lambda error: (type(error), error.args, faults.shown(error)))


@frozen
class Part:
    """A piece of a reply that is too large for one letter; ``last``: the reply is complete with it."""

    number: int
    data: bytes = field(repr=False)
    last: bool


Reply: TypeAlias = Ask | Welcome | Outcome | Answer | Events | Pong | Failed | Part
Letter: TypeAlias = Request | Reply


# -- checks ------------------------------------------------------------------------------------------------------------------------


def _raws(value: object) -> tuple[Raw, ...]:
    if type(value) is not tuple:
        expected("a list of answers", value)
    return tuple(map(raw_answer, value))


def _event(value: object) -> Event:
    is_delete, kv, previous, revision, expired = row(value, 5)
    kept = None if previous is None else key_value(previous)
    return Event("delete" if boolean(is_delete) else "put", key_value(kv), kept, natural(revision), boolean(expired))


def _consistency(value: object) -> str:
    number = natural(value)
    if number >= len(CONSISTENCIES):
        raise DecodeError(f"a consistency of the unknown number {number}")
    return CONSISTENCIES[number]


def _look(value: object) -> int:
    what = natural(value)
    if not LEASES <= what <= OUTLINE:
        raise DecodeError(f"a look at the unknown {what}")
    return what


def _inspected(value: object) -> int:
    what = natural(value)
    if not INSPECT_STATUS <= what <= INSPECT_ROLE:
        raise DecodeError(f"a question about the unknown {what} of users and roles")
    return what


def _secret(value: object) -> bytes:
    secret = content(value)
    if len(secret) > _SECRET_MAX:
        raise DecodeError(f"a secret of more than {_SECRET_MAX} bytes")
    return secret


def _token(value: object) -> bytes:
    token = content(value)
    if len(token) not in (0, TOKEN):
        raise DecodeError(f"a token that has not {TOKEN} bytes")
    return token


def _only_reads(raw: Raw) -> bool:
    return raw[0] in (wire.GET, wire.SCAN) or (raw[0] == wire.TXN and all(_only_reads(inner) for branch in raw[2:] for inner in branch))


# -- letters as bytes --------------------------------------------------------------------------------------------------------------

MAGIC: Final = b"rC"

_PREFIX = struct.Struct("<2sI")  # magic, crc32 of all that follows
_SEEN = struct.Struct("<Q")
_LETTER = struct.Struct("<BQII")  # kind, number, length of the head, length of the bulk
_LETTERS_AT = _PREFIX.size + _SEEN.size
_REPLIES_FROM = 32  # kinds below are requests


class Frame(NamedTuple):
    """Letters, and what ``encode_frame`` was told: of a client the number of frames it had taken in, of a member its revision."""

    seen: int
    letters: list[Any]


def encode_letter(letter: Letter) -> bytes:
    """Pack a letter."""
    kind, to_wire = _WRITERS[type(letter)]
    fields, bulk = to_wire(letter)
    head = codec.pack(fields)
    return b"".join((_LETTER.pack(kind, letter.number, len(head), len(bulk)), head, bulk))


def encode_frame(seen: int, letters: Iterable[bytes]) -> bytes:
    """Join packed letters into a frame.

    Args:
        seen: of a client, how many frames it has taken in on this connection; of a member, the revision its store has reached.
        letters: at most ``LETTERS_MAX``, all that fits into ``FRAME_MAX`` bytes.
    """
    rest = b"".join((_SEEN.pack(seen), *letters))
    return _PREFIX.pack(MAGIC, zlib.crc32(rest)) + rest


def decode_requests(data: bytes) -> Frame:
    """Read a frame of a client.

    Raises:
        DecodeError: not a frame of this version, or damaged, or none that clients send.
    """
    return _decode_frame(data, replies=False)


def decode_replies(data: bytes) -> Frame:
    """Read a frame of a member.

    Raises:
        DecodeError: not a frame of this version, or damaged, or none that members send to clients.
    """
    return _decode_frame(data, replies=True)


def decode_reply(data: bytes) -> Reply:
    """Read one packed reply, put together of its parts.

    Raises:
        DecodeError: not a reply, or damaged.
    """
    reply, end = _decode_letter(data, 0, replies=True)
    if end != len(data):
        raise DecodeError("bytes behind the end of a letter")
    return reply  # type: ignore[no-any-return]  # of one of the kinds of replies


def _decode_frame(data: bytes, *, replies: bool) -> Frame:
    if not _LETTERS_AT <= len(data) <= FRAME_MAX:
        raise DecodeError(f"a frame of {len(data)} bytes")
    magic, crc = _PREFIX.unpack_from(data)
    if magic != MAGIC:
        raise DecodeError("not a frame between a client and a member of replkv")
    if zlib.crc32(memoryview(data)[_PREFIX.size :]) != crc:
        raise DecodeError("a damaged frame")
    (seen,) = _SEEN.unpack_from(data, _PREFIX.size)
    letters: list[Any] = []
    at = _LETTERS_AT
    while at < len(data):
        if len(letters) == LETTERS_MAX:
            raise DecodeError(f"a frame of more than {LETTERS_MAX} letters")
        letter, at = _decode_letter(data, at, replies=replies)
        letters.append(letter)
    return Frame(natural(seen), letters)


def _decode_letter(data: bytes, at: int, *, replies: bool) -> tuple[Any, int]:
    """Read the letter at a place; return it, and the place behind it."""
    head_at = at + _LETTER.size
    if head_at > len(data):
        raise DecodeError("a letter that is cut off")
    kind, number, head_size, bulk_size = _LETTER.unpack_from(data, at)
    if kind not in _READERS or (kind >= _REPLIES_FROM) is not replies:
        raise DecodeError(f"a letter of the unknown kind {kind}")
    bulk_at = head_at + head_size
    end = bulk_at + bulk_size
    if end > len(data):
        raise DecodeError("a letter that is cut off")
    length, has_bulk, from_wire = _READERS[kind]
    head = row(unpack(data[head_at:bulk_at]), length)
    if bulk_size and not has_bulk:
        raise DecodeError("bytes behind the head of a letter that has none")
    return from_wire(natural(number), head, data[bulk_at:end]), end


def _fields(*names: str) -> Callable[[Any], tuple[Raw, bytes]]:
    return lambda letter: (tuple(getattr(letter, name) for name in names), b"")


def _write_batch(letter: Batch) -> tuple[Raw, bytes]:
    return (), letter.data


def _write_read(letter: Read) -> tuple[Raw, bytes]:
    how = CONSISTENCIES.index(letter.consistency)
    return (how, letter.max_staleness, letter.min_revision), codec.pack(letter.operation)


def _write_pull(p: Pull) -> tuple[Raw, bytes]:
    return (p.revision, p.passed, p.puts, p.deletes, p.prev_kv, p.synced), codec.pack((p.start, p.end))


def _write_welcome(letter: Welcome) -> tuple[Raw, bytes]:
    w = letter
    settings, addresses = sorted(w.settings.to_wire().items()), sorted(w.addresses.items())
    return (w.version, w.name, w.cluster, w.incarnation, settings, addresses, w.revision, w.user, w.stamp, w.token), b""


def _write_outcome(letter: Outcome) -> tuple[Raw, bytes]:
    bulk = b"" if letter.answers is None else codec.pack(letter.answers)
    return (letter.session, letter.sequence, letter.opened, letter.expired), bulk


def _write_answer(letter: Answer) -> tuple[Raw, bytes]:
    return (), codec.pack(letter.raw)


def _write_events(letter: Events) -> tuple[Raw, bytes]:
    rows = [(event.kind == "delete", event.kv, event.prev_kv, event.revision, event.expired) for event in letter.events]
    return (letter.revision, letter.passed, letter.caught_up), codec.pack(rows)


def _write_failed(letter: Failed) -> tuple[Raw, bytes]:
    return (), codec.pack(faults.to_wire(letter.error))


def _write_part(letter: Part) -> tuple[Raw, bytes]:
    return (letter.last,), letter.data


def _read_batch(number: int, _head: Raw, bulk: bytes) -> Batch:
    return Batch(number, bulk)


def _read_read(number: int, head: Raw, bulk: bytes) -> Read:
    consistency, max_staleness, min_revision = head
    operation = unpack(bulk, codec.COMMAND_MAX)
    wire.check_operation(operation)
    if not _only_reads(operation):
        raise DecodeError("a read that writes")
    return Read(number, operation, _consistency(consistency), or_none(natural)(max_staleness), natural(min_revision))


def _read_pull(number: int, head: Raw, bulk: bytes) -> Pull:
    revision, passed, *flags = head
    start, end = row(unpack(bulk, codec.COMMAND_MAX), 2)
    return Pull(number, content(start), or_none(content)(end), natural(revision), natural(passed), *map(boolean, flags))


def _read_welcome(number: int, head: Raw, _bulk: bytes) -> Welcome:
    *greeting, settings, addresses, revision, user, stamp, token = head
    version, name, cluster, incarnation = greeting
    try:
        known = Settings.from_wire(dict(_pairs(settings)))
    except errors.Incompatible as error:
        raise DecodeError("the cluster uses settings that this version does not know or refuses: upgrade this client") from error
    where = {short_text(member): long_text(url) for member, url in _pairs(addresses)}
    member = (natural(version), short_text(name), cluster_id(cluster), natural(incarnation), known, where, natural(revision))
    return Welcome(number, *member, short_text(user), natural(stamp), _token(token))


def _pairs(value: object) -> list[tuple[str, Any]]:
    if type(value) is not tuple:
        expected("a list of pairs", value)
    return [(short_text(name), fact) for name, fact in (row(pair, 2) for pair in value)]


def _read_outcome(number: int, head: Raw, bulk: bytes) -> Outcome:
    session, sequence, opened, expired = head
    answers = _raws(unpack(bulk, REPLY_MAX)) if bulk else None
    return Outcome(number, natural(session), natural(sequence), answers, natural(opened), boolean(expired))


def _read_answer(number: int, _head: Raw, bulk: bytes) -> Answer:
    return Answer(number, raw_answer(unpack(bulk, REPLY_MAX)))


def _read_events(number: int, head: Raw, bulk: bytes) -> Events:
    revision, passed, caught_up = head
    events = unpack(bulk, REPLY_MAX)
    if type(events) is not tuple:
        expected("a list of events", events)
    return Events(number, tuple(map(_event, events)), natural(revision), natural(passed), boolean(caught_up))


def _read_failed(number: int, _head: Raw, bulk: bytes) -> Failed:
    return Failed(number, faults.from_wire(unpack(bulk, REPLY_MAX)))


def _read_part(number: int, head: Raw, bulk: bytes) -> Part:
    return Part(number, bulk, boolean(head[0]))


_Reader: TypeAlias = tuple[int, bool, "Callable[[int, Raw, bytes], Letter]"]
"""How many fields the head has, whether there is a bulk, and who makes a letter of them."""


def _plain(build: Callable[..., Letter], *checks: Callable[[Any], Any]) -> _Reader:
    """Return the reader of a letter that is all head: a check for each field, in their order."""
    return (
        len(checks),
        False,
        lambda number, head, _bulk: build(number, *[check(value) for check, value in zip(checks, head, strict=True)]),
    )


# These numbers are on the wire: never reuse one.
_WRITERS: dict[type, tuple[int, Callable[[Any], tuple[Raw, bytes]]]] = {
    Hello: (1, _fields("version", "client", "user")),
    Batch: (2, _write_batch),
    Read: (3, _write_read),
    Look: (4, _fields("what", "argument")),
    Pull: (5, _write_pull),
    Cancel: (6, _fields()),
    Ping: (7, _fields()),
    HandOver: (8, _fields("to")),
    Prove: (9, _fields("token", "password")),
    Inspect: (10, _fields("what", "name")),
    Welcome: (32, _write_welcome),
    Outcome: (33, _write_outcome),
    Answer: (34, _write_answer),
    Events: (35, _write_events),
    Pong: (36, _fields("revision", "age", "leader", "unreachable", "trouble")),
    Failed: (37, _write_failed),
    Part: (38, _write_part),
    Ask: (39, _fields()),
}

_READERS: dict[int, _Reader] = {
    1: _plain(Hello, natural, natural, short_text),
    2: (0, True, _read_batch),
    3: (3, True, _read_read),
    4: _plain(Look, _look, natural),
    5: (6, True, _read_pull),
    6: _plain(Cancel),
    7: _plain(Ping),
    8: _plain(HandOver, short_text),
    9: _plain(Prove, _token, _secret),
    10: _plain(Inspect, _inspected, short_text),
    32: (10, False, _read_welcome),
    33: (4, True, _read_outcome),
    34: (0, True, _read_answer),
    35: (3, True, _read_events),
    36: _plain(Pong, natural, or_none(natural), or_none(short_text), codec.names, long_text),
    37: (0, True, _read_failed),
    38: (1, True, _read_part),
    39: _plain(Ask),
}
