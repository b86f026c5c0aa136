"""The replicated state machine: entries of the log in, answers out (thesis §3, §6.3).

The same entries make the same state on every member: what happens depends on nothing but the entry and the state, also where apply
was interrupted between two slices.  ``dump`` is that state as bytes, ``load`` the way back, ``digest`` what equal states share.
"""

from __future__ import annotations

import hashlib
import struct
import zlib
from itertools import chain, islice
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple
from weakref import WeakSet

from replkv import codec, features, kv, session, wire
from replkv.auth import Auth
from replkv.codec import DecodeError
from replkv.config import Settings
from replkv.errors import Incompatible, InvariantBroken, OutcomeUnknown, Rejected, TooLarge, TooManyOps
from replkv.kv import Store
from replkv.lease import Leases
from replkv.messages import Configuration, EntryKind, SnapshotMeta
from replkv.refusals import refuse
from replkv.roster import Roster
from replkv.session import Session, Sessions, Verdict
from replkv.txn import SLICE, Reader, Writer
from replkv.values import LeaseInfo

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Iterator, Sequence

    from replkv.auth import Subject
    from replkv.codec import Batch
    from replkv.history import History
    from replkv.lease import Lease, Row
    from replkv.messages import Entry, Founding
    from replkv.wire import Raw

CHUNK_MAX = 256 << 10
"""Bytes in one chunk of a dump."""

DUMP_VERSION = 4

ENTRIES_AHEAD = 1 << 30
"""By so many places the log of a cluster that begins with the state of another is ahead: the other may go on for so long."""

_PART = 64 << 10  # bytes of rows that are packed together
_LENGTH = struct.Struct("<I")
_STATE = struct.Struct("<QQQQI")  # what the chained hash takes in of the state behind an entry
_END = ()  # behind the rows of the base, of which nobody knows how many they are
_POSITIONS = 16  # bits of a session's number that tell its place in the block

_LOST = refuse(OutcomeUnknown, ()).refusal


class Outcome(NamedTuple):
    """What became of a batch.

    ``answers`` has one for each command; None: the batch is so old that what became of it is forgotten.  ``opened`` is the number of
    the session a batch of session 0 opened.  ``expired``: the batch belongs to a session that is no more, or another's, and was not
    executed.  ``owner`` is the user whose client sent it, None for a member: without it a session's number says nothing.
    """

    session: int
    sequence: int
    answers: tuple[Raw, ...] | None
    opened: int = 0
    expired: bool = False
    owner: str | None = None


class Machine:
    """Applies the log; one thread writes, any thread reads at a published revision.

    Attributes:
        store: keys and values.
        sessions: what was executed before.
        leases: which there are, and which keys hang on them.
        founding: the first entry's content, None before it.
        settings: what all members must agree on.
        configuration: who the members are, as of the applied index; ``configured`` is the index at which that was decided.
        roster: who they should be.
        auth: who may do what; another value after each change of it.
        level: the cluster's feature level; 0 before there is one.
        time: cluster time in microseconds.
        applied: the index of the newest applied entry; its term is ``term``.
        chain: a hash over all entries so far, what was answered to them and what became of the state: equal on all members at an index.
    """

    def __init__(self) -> None:
        self.store = Store()
        self.sessions = Sessions()
        self.leases = Leases()
        self.founding: Founding | None = None
        self.settings = Settings()
        self.configuration = Configuration(voters=())
        self.configured = 0
        self.roster = Roster()
        self.auth = Auth()
        self.level = 0
        self.time = 0
        self.applied = 0
        self.term = 0
        self.chain = 0
        self._writer = Writer(self.store, self.leases)
        self._writer.max_bytes = self.settings.max_bytes
        self._at_work = False  # from the first slice of an entry to its last
        self.pins: WeakSet[object] = WeakSet()
        """Who walks over a dump on a thread of its own, at its own pace: while it lives and is in here, nothing is removed."""

    @property
    def ended_leases(self) -> list[int]:
        """Leases that ended since somebody cleared the list."""
        return self._writer.ended

    @property
    def meta(self) -> SnapshotMeta:
        """The place of the log that this state stands for."""
        return SnapshotMeta(self.applied, self.term, self.configuration)

    @property
    def size(self) -> int:
        """What counts against ``Settings.max_bytes``, in bytes."""
        return self.store.size + self.leases.size

    # -- apply ---------------------------------------------------------------------------------------------------------------------

    def apply(self, entry: Entry) -> Generator[None, None, list[Outcome]]:
        """Apply the next entry; a generator that yields between slices well below a millisecond.

        Nothing is applied before its first step.  After an error the machine is half way through the entry and good for nothing.

        Returns:
            The outcomes of a block's batches in their order.

        Raises:
            InvariantBroken: not the next entry, or the one before is not finished.
            DecodeError: not an entry that this version writes.
            Incompatible: it needs a newer version, or raises the cluster to a level that this one does not support.
        """
        if self._at_work or entry.index != self.applied + 1 or entry.term < self.term:
            state = "at work on" if self._at_work else "behind"
            raise InvariantBroken(f"entry {entry.index} of term {entry.term} for a machine {state} {self.applied} of term {self.term}")
        self._at_work = True
        self.time = self._writer.time = max(self.time, entry.time)
        self.sessions.expire(self.time, round(self.settings.session_ttl * 1e6))
        outcomes = []
        if entry.kind is EntryKind.BLOCK:
            for place, batch in enumerate(_batches(entry)):
                outcomes.append((yield from self._batch(batch, entry.index, place)))
        elif entry.kind is EntryKind.CONFIGURATION:
            self.configuration, self.configured = codec.decode_configuration(entry.payload), entry.index
        else:
            self._found(codec.decode_founding(entry.payload))
            self.configuration, self.configured = self._founded().configuration, entry.index
            self.roster = Roster.of(self.configuration)
        if self.leases.size:
            yield from self._writer.expire()
        self._note(entry)
        self._at_work = False
        return outcomes

    def _note(self, entry: Entry) -> None:
        """End an entry: its place in the log, and what the members compare to find out that one of them went astray."""
        self.applied, self.term = entry.index, entry.term
        store = self.store
        state = _STATE.pack(entry.index, store.revision, self.size, len(self.leases), self.chain)
        self.chain = zlib.crc32(entry.encoded, zlib.crc32(state))

    def _found(self, founding: Founding) -> None:
        if self.founding is not None:
            raise InvariantBroken(f"a second founding entry, after that of cluster {self.founding.cluster.hex()}")
        features.check_supported(founding.level)
        self.settings = Settings.from_wire(founding.settings)
        self._writer.max_bytes = self.settings.max_bytes
        self.founding, self.level = founding, max(self.level, founding.level)

    def _founded(self) -> Founding:
        if self.founding is None:
            raise InvariantBroken("no founding entry was applied")
        return self.founding

    def _batch(self, batch: Batch, index: int, place: int) -> Generator[None, None, Outcome]:
        number, sequence, lowest, commands, guest = batch
        owner = guest and guest[0]
        if number == 0:
            return self._open(sequence, index, place, owner)
        verdict = self.sessions.lookup(number, sequence, lowest, self.time, owner)
        if verdict is Verdict.NEW:
            answers = yield from self._execute(commands, guest)
            self.chain = zlib.crc32(self.sessions.record(number, sequence, answers), self.chain)
            return Outcome(number, sequence, answers, owner=owner)
        if verdict is Verdict.REPEAT:
            kept = self.sessions.answers(number, sequence)
            return Outcome(number, sequence, (_LOST,) * len(commands) if kept is None else kept, owner=owner)
        return Outcome(number, sequence, None, expired=verdict is Verdict.EXPIRED, owner=owner)

    def _open(self, nonce: int, index: int, place: int, owner: str | None) -> Outcome:
        if place >> _POSITIONS:  # its number would be one of the next block's: let it be asked for again
            return Outcome(0, nonce, None, expired=True, owner=owner)
        opened = index << _POSITIONS | place
        self.sessions.open(opened, self.time, owner)
        return Outcome(0, nonce, (), opened=opened, owner=owner)

    def _execute(self, commands: tuple[Raw, ...], guest: Subject | None) -> Generator[None, None, tuple[Raw, ...]]:
        answers: list[Raw] = []
        done, count, pause = 0, len(commands), SLICE
        while done < count:
            if commands[done][0] == wire.PUT and (guest is None or not self.auth.enabled):
                room = self.settings.max_bytes - self.leases.size
                self.store.put_each(commands[done:pause], answers, self.settings.max_request_bytes, room)
            if len(answers) == done:
                answers.append((yield from self._command(commands[done], guest)))
            done = len(answers)
            if done == pause:
                pause += SLICE
                yield
        return tuple(answers)

    def _command(self, command: Raw, subject: Subject | None) -> Generator[None, None, Raw]:
        writer = self._writer
        try:
            self._check_size(command)
            if command[0] == wire.AS:
                self.auth.check_root(subject)  # members alone speak for others, and doors let no client: but all would hang on those
                _, *asks, command = command
                subject = tuple(asks)
            yield from self.auth.check_in_steps(subject, command, self.leases)
            writer.user = subject and subject[0]
            own = self._own.get(command[0])
            begun = own(self, command) if own is not None else writer.begin(command)
            answer: Raw = begun if isinstance(begun, tuple) else (yield from begun)
        except Rejected as refused:
            yield from writer.rollback()
            return wire.refused(refused)
        except LookupError:
            raise features.unknown(command) or DecodeError(f"a command of kind {command[0]} that nobody writes like that") from None
        yield from writer.commit()
        return answer

    def _change_members(self, command: Raw) -> Raw:
        self.roster.change(command, self.configuration.addresses)
        return (wire.OK,)

    def _change_auth(self, command: Raw) -> Raw:
        self.auth = self.auth.after(command, self.time)
        if command[1] == wire.DELETE_USER:
            self.sessions.end_of(command[2][0])
        return (wire.OK, self.auth.revision)

    def _raise_level(self, command: Raw) -> Raw:
        features.check_supported(command[1])
        self.level = max(self.level, command[1])
        return (wire.OK, self.level)

    _own: ClassVar[dict[int, Callable[[Machine, Raw], Raw]]] = {  # about no keys
        wire.MEMBERS: _change_members,
        wire.LEVEL: _raise_level,
        wire.AUTH: _change_auth,
    }

    def _check_size(self, command: Raw) -> None:
        size, largest = wire.request_size(command), self.settings.max_request_bytes
        if size > largest:
            raise refuse(TooLarge, (size, largest))
        operations, most = wire.count_operations(command), self.settings.max_txn_ops
        if operations > most:
            raise refuse(TooManyOps, (operations, most))

    def begin_anew(self, founding: Founding, configuration: Configuration, roster: Roster, revisions: int) -> None:
        """Turn this state into the one with which another cluster begins; n log n in the number of keys.

        Keys and leases stay, and no lease is cut short: its time begins anew.  Nothing that the former cluster may have gone on to number,
        entries and with them sessions, revisions, leases, is numbered a second time; what history there was is compacted.

        Args:
            founding: how that cluster is founded.
            configuration: who its members are.
            roster: who is wanted.
            revisions: by so many the revision is raised.
        """
        self.founding, self.configuration, self.roster = founding, configuration, roster
        self.applied += ENTRIES_AHEAD
        self.term += 1
        self.configured = self.applied
        self.sessions = Sessions()
        self.auth = self.auth.without_tokens()
        self.leases.renew_all(self.time)
        self.leases.last_id += revisions
        self.store = self.store.without_history(self.store.revision + revisions)
        self._writer = Writer(self.store, self.leases)
        self._writer.max_bytes = self.settings.max_bytes

    # -- read ----------------------------------------------------------------------------------------------------------------------

    def read(self, packed: Raw, revision: int) -> Raw | None:
        """Answer a GET, a SCAN or a transaction that only reads; on the caller's thread.

        Args:
            packed: the operation.
            revision: a revision the node has published: the newest the caller may see.

        Returns:
            The answer; None if what was read may have been removed meanwhile: ask again, with the revision published now.

        Raises:
            ValueError: the operation writes.
        """
        return kv.run(self.read_in_steps(packed, revision))

    def read_in_steps(self, packed: Raw, revision: int) -> Generator[None, None, Raw | None]:
        """Answer as ``read``, in steps between which the caller may do something else."""
        reader = Reader(self.store, revision)
        try:
            self._check_size(packed)
            answer = yield from reader.execute(packed)
        except Rejected as refused:
            return wire.refused(refused)
        except KeyError:
            raise ValueError("an operation that writes goes through the log") from None
        return answer if reader.oldest >= self.store.removed_below else None

    def describe(self, lease: Lease, time: int) -> LeaseInfo:
        """Tell what is known of a lease at a cluster time; between two entries."""
        remaining = max(0, self.leases.deadline(lease) - max(time, self.time))
        return LeaseInfo(lease.id, lease.ttl / 1e6, remaining / 1e6, len(lease.keys), bool(lease.keeper))

    # -- the state as bytes --------------------------------------------------------------------------------------------------------

    def dump(self) -> Iterator[bytes]:
        """Return the whole state, as of this call, in chunks of up to 256 KiB; equal states make equal chunks.

        The chunks may be taken on another thread while apply goes on.  Some are empty: there is a moment's work between any two.

        Raises:
            InvariantBroken: an entry is being applied.
        """
        if self._at_work:
            raise InvariantBroken(f"the state between entries {self.applied} and {self.applied + 1} can't be dumped")
        sessions, store = self.sessions.pin(), self.store
        _, place, last_id, leases, kept_alive, users, revision = self.outline()
        counts = (len(sessions), last_id, len(leases), len(kept_alive))
        base, events, history = store.pin()
        head = codec.pack((DUMP_VERSION, *place, *counts, revision, store.compacted, len(history)))
        return _chunks(_dump_parts(head, (session.rows(sessions), leases, kept_alive, users, base, (_END,), _runs(events, history))))

    def outline(self) -> Raw:
        """Return what the state is besides sessions, keys, values and history, as plain values; between two entries.

        The version of the dumps that it is a part of, where the log stands and who is who, the largest id of a lease, all leases, when each
        keeper last kept its own alive, users and roles, and the revision.
        """
        founding = b"" if self.founding is None else codec.encode_founding(self.founding)
        members = (codec.configuration_to_wire(self.configuration), self.configured, self.roster.rows(), self.level)
        place = (self.applied, self.term, self.time, self.chain, founding, members)
        leases, kept_alive = self.leases.rows()
        return (DUMP_VERSION, place, self.leases.last_id, tuple(leases), tuple(kept_alive), tuple(self.auth.rows()), self.store.revision)

    def digest(self) -> str:
        """Return the SHA-256 of the dump: equal on all members at the same applied index."""
        digest = hashlib.sha256()
        for chunk in self.dump():
            digest.update(chunk)
        return digest.hexdigest()

    @classmethod
    def load(cls, chunks: Iterable[bytes]) -> Machine:
        """Build a machine from what ``dump`` returned, cut into chunks in any way.

        Raises:
            DecodeError: it is not a whole dump of this version.
            Incompatible: its cluster uses settings this version does not know, or is at a level that it does not support.
        """
        parts = _load_parts(chunks)
        machine = cls()
        try:
            version, *head = next(parts)
            if type(version) is not int:
                raise DecodeError("a dump of no version")
            if version != DUMP_VERSION:
                what = "upgrade this member" if version > DUMP_VERSION else "no release has written it"
                raise Incompatible(f"a dump of version {version}, this version reads {DUMP_VERSION}: {what}")
            *place, sessions, last_lease, leases, kept_alive, revision, compacted, events = head
            machine._load_place(*place)
            rows = chain.from_iterable(parts)
            machine._load_sessions(rows, codec.natural(sessions))
            machine._load_leases(rows, *map(codec.natural, (last_lease, leases, kept_alive)))
            machine.auth = Auth.load(rows)
            machine._load_store(rows, codec.natural(revision), codec.natural(compacted), codec.natural(events))
        except (ValueError, TypeError, StopIteration, InvariantBroken) as error:
            raise DecodeError(f"not a dump of a machine: {error}") from None
        for _ in rows:
            raise DecodeError("a dump that goes on behind its end")
        return machine

    def _load_place(self, applied: object, term: object, time: object, chain: object, founding: object, members: object) -> None:
        self.applied, self.term, self.time, self.chain = map(codec.natural, (applied, term, time, chain))
        if type(founding) is not bytes or self.chain >= 1 << 32:
            raise DecodeError("a founding that is not packed, or a chained hash of more than 32 bits")
        if founding:
            self._found(codec.decode_founding(founding))
        configuration, configured, roster, level = codec.row(members, 4)
        self.configuration, self.configured = codec.configuration_from_wire(configuration), codec.natural(configured)
        self.roster, self.level = Roster.load(roster), codec.natural(level)
        features.check_supported(self.level)

    def _load_sessions(self, rows: Iterator[Any], count: int) -> None:
        for _ in range(count):
            number, heard, owner, floor, kept = next(rows)
            number, heard, floor, kept = map(codec.natural, (number, heard, floor, kept))
            one = Session(heard, None if owner is None else codec.short_text(owner), floor)
            for _ in range(kept):
                sequence, packed = next(rows)
                if type(packed) is not bytes:
                    raise DecodeError("answers that are not packed")
                one.answers[codec.natural(sequence)] = packed
                one.size += len(packed)
            if len(one.answers) != kept:
                raise DecodeError(f"session {number} has a sequence twice")
            self.sessions.load(number, one)

    def _load_leases(self, rows: Iterator[Any], last_id: int, leases: int, kept_alive: int) -> None:
        self.leases.last_id = last_id
        self.leases.load([_lease(next(rows)) for _ in range(leases)], [_pair(next(rows)) for _ in range(kept_alive)])

    def _load_store(self, rows: Iterator[Any], revision: int, compacted: int, events: int) -> None:
        if compacted > revision:
            raise DecodeError(f"a store at revision {revision} that is compacted up to {compacted}")
        self.store = store = Store(revision, compacted)
        self._writer = Writer(store, self.leases)
        self._writer.max_bytes = self.settings.max_bytes
        store.load_base(map(_record, _base(rows)))
        store.replay(map(_record, islice(rows, events)))
        if len(store.events) != events:
            raise DecodeError(f"a dump that ends within a history of {events} versions")
        store.finish_replay()
        for record in store.newest.values():
            if record[kv.LEASE] and record[kv.VALUE] is not None:
                self._hang(record)

    def _hang(self, record: kv.Record) -> None:
        if record[kv.LEASE] not in self.leases:
            raise DecodeError(f"{record[kv.KEY][:64]!r} hangs on lease {record[kv.LEASE]}, which is not there")
        self.leases.hang(record[kv.KEY], record[kv.LEASE])


def _batches(entry: Entry) -> list[Batch]:
    try:
        return codec.decode_block(entry.payload)
    except codec.TooNew as error:
        raise Incompatible(f"entry {entry.index} of the log holds {error}") from None


def _lease(row: Any) -> Row:
    *numbers, passing, owner = row
    number, ttl, keeper, renewed = map(codec.natural, numbers)
    if type(passing) is not bool:
        raise DecodeError("not a lease")
    return number, ttl, keeper, renewed, passing, None if owner is None else codec.short_text(owner)


def _pair(row: Any) -> tuple[int, int]:
    keeper, time = map(codec.natural, row)
    return keeper, time


def _base(rows: Iterator[Any]) -> Iterator[Any]:
    """Yield the rows before the one that ends the base."""
    for row in rows:
        if row == _END:
            return
        yield row
    raise DecodeError("a dump that ends within its base")


def _record(row: Any) -> kv.Record:
    """Return a row as a record; called for every version of every key, and so without any further call."""
    key, value, create, mod, version, lease = row
    if type(key) is not bytes or not key or (type(value) is not bytes and value is not None):
        raise DecodeError("not a version of a key")
    if not (type(create) is type(mod) is type(version) is type(lease) is int) or (create | mod | version | lease) >> 63:
        raise DecodeError("a version of a key with something else than integers of 63 bits")
    return (key, value, mod, mod, version, lease) if create == mod else row  # one number is smaller than two that are equal


def _dump_parts(head: bytes, sections: Iterable[Iterable[tuple[Any, ...]]]) -> Iterator[bytes]:
    yield head
    for rows in sections:
        yield from _packed(rows)


def assembled(outline: Raw, base: Iterable[kv.Record], newest: Sequence[kv.Record]) -> Iterator[bytes]:
    """Return the dump of a state without sessions and history, in chunks as ``dump`` does.

    Args:
        outline: of the state.
        base: its pairs in key order, but for those that were written at its revision.
        newest: those.
    """
    version, place, last_id, leases, kept_alive, users, revision = outline
    head = codec.pack((version, *place, 0, last_id, len(leases), len(kept_alive), revision, revision, len(newest)))
    return _chunks(_dump_parts(head, (leases, kept_alive, users, base, (_END,), newest)))


def _runs(events: History[kv.Record], places: range) -> Iterator[kv.Record]:
    for at in range(places.start, places.stop, kv.SLICE):
        yield from events[at : min(at + kv.SLICE, places.stop)]


def _packed(rows: Iterable[tuple[Any, ...]]) -> Iterator[bytes]:
    """Pack rows in lists of about 64 KiB."""
    rows_at_hand: list[tuple[Any, ...]] = []
    size = 0
    for row in rows:
        rows_at_hand.append(row)
        size += 32 + sum(len(part) for part in row[:2] if type(part) is bytes)
        if len(row) == 4 and type(row[2]) is tuple:  # the roles of a user
            size += sum(5 + 4 * len(role) for role in row[2])
        if size >= _PART:
            yield codec.pack(rows_at_hand)
            rows_at_hand, size = [], 0
    if rows_at_hand:
        yield codec.pack(rows_at_hand)


def _chunks(parts: Iterable[bytes]) -> Iterator[bytes]:
    """Put each part's length before it, and cut the whole into chunks; an empty one comes where more work is needed for the next."""
    waiting = bytearray()
    for part in parts:
        yield b""
        waiting += _LENGTH.pack(len(part)) + part
        while len(waiting) >= CHUNK_MAX:
            yield bytes(waiting[:CHUNK_MAX])
            del waiting[:CHUNK_MAX]
    if waiting:
        yield bytes(waiting)


def _load_parts(chunks: Iterable[bytes]) -> Iterator[Any]:
    waiting = bytearray()
    for chunk in chunks:
        waiting += chunk
        while len(waiting) >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(waiting)
            if length > codec.BLOCK_MAX:
                raise DecodeError(f"a part of {length} bytes in a dump")
            end = _LENGTH.size + length
            if len(waiting) < end:
                break
            part = codec.unpack_canonical(bytes(waiting[_LENGTH.size : end]), codec.BLOCK_MAX)
            del waiting[:end]
            if type(part) is not tuple or not part:
                raise DecodeError("a part of a dump that is no list, or empty")
            yield part
    if waiting:
        raise DecodeError("a dump that ends within a part")
