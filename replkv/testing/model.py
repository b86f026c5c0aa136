"""What the store should have done: an independent model of its semantics, written for clarity with plain dictionaries.

It shares no code with the store, the leases and the machine, only the numbers that name operations and how much may expire at once.  It
never forgets a version, so that it can answer any read at any revision, and tell what a compaction must have left.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from attrs import define, field, frozen

from replkv import errors, txn, wire
from replkv.refusals import STATUS
from replkv.testing.rights import RefusedChangeError, Rights

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from replkv.testing.rights import Denied, Subject
    from replkv.wire import Raw

COUNTED = 64
"""Bytes that a version counts besides its key and value, and a lease altogether."""

KEY, VALUE, CREATE, MOD, VERSION, LEASE = range(6)

_TARGETS = {
    wire.VERSION: VERSION,
    wire.CREATE: CREATE,
    wire.MOD: MOD,
    wire.VALUE: VALUE,
    wire.LEASE: LEASE,
    wire.FENCE: CREATE,
}
_SORT_BY = {wire.SORT_KEY: KEY, wire.SORT_VERSION: VERSION, wire.SORT_CREATE: CREATE, wire.SORT_MOD: MOD, wire.SORT_VALUE: VALUE}


LeaseTable = tuple[tuple[int, int, int, int, bool, int], ...]
"""Of each lease its id, ttl, keeper, deadline, whether it ends with its key, and how many keys it has."""


class _RefusedError(Exception):
    """A command that is refused as a whole; carries the kind of error, and what its answer tells besides a text."""

    def __init__(self, kind: type[errors.ReplkvError], *details: int | Raw | None) -> None:
        super().__init__(kind.__name__)
        self.answer = (STATUS[kind], *details)


@define
class ModelLease:
    """A lease: microseconds of cluster time; ``renewed_in`` is the entry of the log that granted or renewed it by itself."""

    ttl: int
    keeper: int
    renewed: int
    renewed_in: int
    passing: bool = False
    owner: str | None = None  # the user for whom it was granted or taken over


class Wanted(NamedTuple):
    """A member that is wanted: whether with a vote, and where it was said to be when it was named."""

    voter: bool
    address: str


@frozen
class Expiry:
    """A lease that ended because its time was over: in which entry, and in which one its time had begun."""

    lease: int
    ttl: int
    index: int
    since: int


@define(eq=False, repr=False)
class Model:
    """The store as history: every version of every key, a tombstone being one without a value.

    ``index`` and ``time`` are those of the entry at work; whoever replays a log sets them.
    """

    max_bytes: int = 1 << 62
    revision: int = 1
    compacted: int = 0
    index: int = 0
    time: int = 0
    versions: dict[bytes, list[Raw]] = field(factory=dict)
    events: list[Raw] = field(factory=list)
    leases: dict[int, ModelLease] = field(factory=dict)  # the least recently renewed first
    last_lease: int = 0
    stored: int = 0  # bytes of versions that are not compacted
    expiries: list[Expiry] = field(factory=list)
    roster: dict[str, Wanted] = field(factory=dict)
    addresses: dict[str, str] = field(factory=dict)  # as the configuration has them
    rights: Rights = field(factory=Rights)
    _kept_alive: dict[int, tuple[int, int]] = field(factory=dict)  # by keeper: when, and in which entry
    _changes: dict[bytes, Raw] = field(factory=dict)  # of the command being executed
    _promised: dict[int, int] = field(factory=dict)  # id and ttl of the leases it makes for single keys
    _user: str | None = None  # on whose behalf it is
    _base: int = 1  # the revision before the command
    _oldest: int = 0  # that may be read

    def execute(self, packed: Raw, guest: Subject | None = None) -> Raw:
        """Execute one command, perhaps a guest's, and return the answer it must get; a refusal's without its text."""
        subject, packed = asks(packed, guest)
        if (denied := self.denies(subject, packed)) is not None:
            return (STATUS[denied],)
        self._user = subject and subject[0]
        self._begin(self.revision, self.compacted)
        try:
            answer = self._do(packed)
        except _RefusedError as refused:
            return refused.answer
        self._commit()
        return answer

    def read(self, packed: Raw, revision: int, compacted: int = 0) -> Raw:
        """Return the answer a read must get from a store that is at ``revision``, compacted up to ``compacted``."""
        self._begin(revision, compacted)
        try:
            return self._do(packed)
        except _RefusedError as refused:
            return refused.answer

    def denies(self, subject: Subject | None, packed: Raw) -> Denied | None:
        """Return why somebody may not do what an operation may do, as things are; None: it may."""
        return self.rights.denies(subject, packed, self._hung)

    def _hung(self, lease: int) -> tuple[str | None, list[bytes]]:
        """Return the user whose a lease is, if it is one's, and the keys that hang on it; what is not there is anybody's."""
        return (self.leases[lease].owner if lease in self.leases else ""), self.keys_of(lease)

    def pairs(self) -> list[Raw]:
        """Return all living pairs as records."""
        self._begin(self.revision, 0)
        return self._span(b"", None)

    @property
    def size(self) -> int:
        """What counts against the quota."""
        return self.stored + COUNTED * len(self.leases)

    def _begin(self, base: int, oldest: int) -> None:
        self._changes, self._promised, self._base, self._oldest = {}, {}, base, oldest

    def _commit(self) -> None:
        if not self._changes:
            return
        self.revision += 1
        for number, ttl in self._promised.items():
            self.leases[number] = ModelLease(ttl, 0, self.time, self.index, passing=True)
            self.last_lease = number
        for key, record in self._changes.items():
            self.versions.setdefault(key, []).append(record)
            self.events.append(record)
            self.stored += _size(record)
        for number in [number for number, lease in self.leases.items() if lease.passing and not self.keys_of(number)]:
            del self.leases[number]

    # -- operations -------------------------------------------------------------------------------------------------------------------

    def _do(self, packed: Raw) -> Raw:
        tag, *fields = packed
        operations: dict[int, Callable[..., Raw]] = {
            wire.GET: self._read,
            wire.SCAN: self._scan,
            wire.TXN: self._txn,
            wire.PUT: self._put,
            wire.PUT_WITH: self._put_with,
            wire.DELETE: self._delete,
            wire.ADD: self._add,
            wire.EXPECT: self._expect,
            wire.GUARD: self._guard,
            wire.COMPACT: self._compact,
            wire.GRANT: self._grant,
            wire.RENEW: self._renew,
            wire.KEEP_ALIVE: self._keep_alive,
            wire.REVOKE: self._revoke,
            wire.MEMBERS: self._change_members,
            wire.AUTH: self._change_rights,
        }
        return operations[tag](*fields)

    def _put(self, key: bytes, value: bytes, prev_kv: bool, lease: int = 0) -> Raw:
        prev = self._get(key)
        created, version = (prev[CREATE], prev[VERSION]) if prev else (self._base + 1, 0)
        record = (key, value, created, self._base + 1, version + 1, lease)
        self._need_room(_size(record))
        self._changes[key] = record
        return wire.OK, self._base + 1, prev if prev_kv else None

    def _put_with(self, key: bytes, value: bytes | None, prev_kv: bool, lease: int | None, ttl: int) -> Raw:
        present = self._get(key)
        if present is None and (value is None or lease is None):
            raise _RefusedError(errors.KeyNotFound)
        if present is not None:
            value = present[VALUE] if value is None else value
            lease = present[LEASE] if lease is None else lease
        assert value is not None
        assert lease is not None
        if lease and lease not in self.leases:
            raise _RefusedError(errors.LeaseNotFound)
        if ttl:
            lease = self._free_lease(max(self.last_lease, *self._promised, 0))
            self._promised[lease] = ttl
        return self._put(key, value, prev_kv, lease)

    def _need_room(self, more: int) -> None:
        pending = sum(map(_size, self._changes.values())) + COUNTED * len(self._promised)
        if self.size + pending + more > self.max_bytes:
            raise _RefusedError(errors.QuotaExceeded)

    def _expect(self, key: bytes, expected: int, inner: Raw) -> Raw:
        present = self._get(key)
        if (present[MOD] if present else 0) != expected:
            raise _RefusedError(errors.Conflict, present)
        return self._do(inner)

    def _guard(self, lock: bytes, created: int, inner: Raw) -> Raw:
        held = self._get(lock)
        if not held or held[CREATE] != created:
            raise _RefusedError(errors.LockLost)
        return self._do(inner)

    def _delete(self, start: bytes, end: bytes | None, prev_kv: bool) -> Raw:
        doomed = self._span(start, end)
        self._bury([record[KEY] for record in doomed], 0)
        return wire.OK, self._base + bool(self._changes), len(doomed), tuple(doomed) if prev_kv else ()

    def _bury(self, keys: Iterable[bytes], expired: int) -> None:
        for key in keys:
            self._changes[key] = (key, None, 0, self._base + 1, 0, expired)

    def _add(self, key: bytes, delta: int) -> Raw:
        prev = self._get(key)
        try:
            number = _number(prev[VALUE]) if prev else 0
        except ValueError:
            raise _RefusedError(errors.NotACounter) from None
        if not -(2**63) <= number + delta < 2**63:
            raise _RefusedError(errors.NotACounter)
        self._put(key, b"%d" % (number + delta), False, prev[LEASE] if prev else 0)
        return wire.OK, self._base + 1, number + delta

    def _txn(self, *packed: Raw) -> Raw:
        path = self._choose(packed)
        answers = self._follow(path)
        return wire.OK, self._base + bool(self._changes), path[0], answers

    def _choose(self, packed: tuple[Raw, ...]) -> tuple[bool, list[object]]:
        """Decide all branches, nested ones included, on the state before the transaction."""
        compares, then, otherwise = packed
        holds = all(self._holds(compare) for compare in compares)
        branch = then if holds else otherwise
        return holds, [self._choose(inner[1:]) if inner[0] == wire.TXN else inner for inner in branch]

    def _follow(self, path: tuple[bool, list[object]]) -> Raw:
        answers: list[Raw] = []
        for step in path[1]:
            if isinstance(step, tuple) and isinstance(step[0], bool):
                inner = self._follow(step)
                answers.append((wire.OK, self._base + bool(self._changes), step[0], inner))
            else:
                answers.append(self._do(step))  # type: ignore[arg-type]  # what is no decided branch is an operation
        return tuple(answers)

    # -- history ----------------------------------------------------------------------------------------------------------------------

    def _compact(self, revision: int) -> Raw:
        if revision > self._base:
            raise _RefusedError(errors.FutureRevision)
        if revision <= self.compacted:
            raise _RefusedError(errors.Compacted, self.compacted)
        self.compacted = revision
        self.stored = sum(_size(record) for versions in self.versions.values() for record in _kept(versions, revision))
        return wire.OK, self._base

    def history(self, compacted: int, revision: int) -> list[Raw]:
        """Return the events that a store at ``revision``, compacted up to ``compacted``, must be able to tell of."""
        return [record for record in self.events if compacted <= record[MOD] <= revision]

    # -- members ----------------------------------------------------------------------------------------------------------------------

    def _change_members(self, add: Raw, remove: Raw, learners: Raw, promote: Raw) -> Raw:
        changed = dict(self.roster)
        for name in remove:
            if name not in changed:
                raise _RefusedError(errors.MemberNotFound)
            del changed[name]
        for name in promote:
            if name not in changed:
                raise _RefusedError(errors.MemberNotFound)
            changed[name] = Wanted(True, changed[name].address)
        for (name, address), voter in [*((pair, True) for pair in add), *((pair, False) for pair in learners)]:
            if name not in changed and not address:
                raise _RefusedError(errors.MemberNotFound)
            known = changed.get(name, Wanted(voter, address))
            if address not in ("", known.address, self.addresses.get(name)):
                raise _RefusedError(errors.MemberExists)
            changed[name] = Wanted(voter, known.address)
        if not any(wanted.voter for wanted in changed.values()) or len(changed) > wire.MEMBERS_MAX:
            raise _RefusedError(errors.MembershipRefused)
        self.roster = changed
        return (wire.OK,)

    # -- rights -----------------------------------------------------------------------------------------------------------------------

    def _change_rights(self, what: int, arguments: Raw) -> Raw:
        try:
            self.rights = self.rights.after(what, arguments, self.time)
        except RefusedChangeError as refused:
            raise _RefusedError(refused.kind) from None
        return wire.OK, self.rights.revision

    # -- leases -----------------------------------------------------------------------------------------------------------------------

    def _grant(self, number: int, ttl: int, keeper: int) -> Raw:
        self._need_room(COUNTED)
        if number in self.leases:
            raise _RefusedError(errors.LeaseExists)
        if not number:
            number = self.last_lease = self._free_lease(self.last_lease)
        self.leases[number] = ModelLease(ttl, keeper, self.time, self.index, owner=self._user)
        return wire.OK, number, ttl

    def _free_lease(self, after: int) -> int:
        number = after + 1
        while number in self.leases:
            number += 1
        return number

    def _lease(self, number: int) -> ModelLease:
        if number not in self.leases:
            raise _RefusedError(errors.LeaseNotFound)
        return self.leases[number]

    def _renew(self, number: int, keeper: int) -> Raw:
        lease = self._lease(number)
        del self.leases[number]
        owner = self._user if keeper else lease.owner
        self.leases[number] = ModelLease(lease.ttl, keeper or lease.keeper, self.time, self.index, lease.passing, owner)
        return wire.OK, lease.ttl

    def _keep_alive(self, keeper: int) -> Raw:
        self._kept_alive[keeper] = (self.time, self.index)
        return wire.OK, sum(lease.keeper == keeper != 0 for lease in self.leases.values())

    def _revoke(self, number: int, keeper: int) -> Raw:
        if self._lease(number).keeper != keeper and keeper:
            raise _RefusedError(errors.LeaseNotFound)
        keys = self.keys_of(number)
        self._bury(keys, 0)
        del self.leases[number]
        return wire.OK, self._base + bool(keys), len(keys)

    def keys_of(self, lease: int) -> list[bytes]:
        """Return the keys that hang on a lease, in order."""
        return sorted(key for key, versions in self.versions.items() if versions[-1][VALUE] is not None and versions[-1][LEASE] == lease)

    def _begun(self, lease: ModelLease) -> tuple[int, int]:
        """Return when a lease's time began, and in which entry."""
        kept = self._kept_alive.get(lease.keeper, (0, 0)) if lease.keeper else (0, 0)
        return max((lease.renewed, lease.renewed_in), kept)

    def deadline(self, lease: ModelLease) -> int:
        """Return when a lease is over."""
        return self._begun(lease)[0] + lease.ttl

    def expire(self) -> None:
        """End the leases whose time is over, each with all its keys in one revision; no more than one entry may.

        Of several that are over at once the one of the least keeper and ttl is first, and of these the least recently renewed.
        """
        keys = 0
        for _ in range(txn.EXPIRIES):
            order = sorted(self.leases.items(), key=lambda item: (self.deadline(item[1]), item[1].keeper, item[1].ttl))
            if not order or self.deadline(order[0][1]) > self.time or keys >= txn.EXPIRED_KEYS:
                return
            number, lease = order[0]
            doomed = self.keys_of(number)
            keys += len(doomed)
            self._begin(self.revision, 0)
            self._bury(doomed, number)
            del self.leases[number]
            self._commit()
            self.expiries.append(Expiry(number, lease.ttl, self.index, self._begun(lease)[1]))

    def lease_table(self) -> LeaseTable:
        """Return all leases, in the order of their ids."""
        table = (
            (number, lease.ttl, lease.keeper, self.deadline(lease), lease.passing, len(self.keys_of(number)))
            for number, lease in self.leases.items()
        )
        return tuple(sorted(table))

    # -- looking ----------------------------------------------------------------------------------------------------------------------

    def _check_revision(self, revision: int) -> None:
        if revision > self._base:
            raise _RefusedError(errors.FutureRevision)
        if 0 < revision < self._oldest:
            raise _RefusedError(errors.Compacted, self._oldest)

    def _get(self, key: bytes, asked: int = 0) -> Raw | None:
        """Return a pair as of a revision; 0: as the command at work sees it."""
        if not asked and key in self._changes:
            found: Raw | None = self._changes[key]
        else:
            revision = asked or self._base
            found = next((record for record in reversed(self.versions.get(key, ())) if record[MOD] <= revision), None)
        return found if found is not None and found[VALUE] is not None else None

    def _span(self, start: bytes, end: bytes | None, asked: int = 0) -> list[Raw]:
        keys = sorted(key for key in {*self.versions, *self._changes} if start <= key and (end is None or key < end))
        records = (self._get(key, asked) for key in keys)
        return [record for record in records if record is not None]

    def _read(self, key: bytes, revision: int) -> Raw:
        self._check_revision(revision)
        return wire.OK, self._get(key, revision)

    def _scan(self, start: bytes, end: bytes | None, limit: int, revision: int, *options: int) -> Raw:
        self._check_revision(revision)
        found = self._span(start, end, revision)
        keys_only, count_only, sort_by, descending, *bounds = options
        wanted = [] if count_only else [record for record in found if _within(record, *bounds)]
        wanted.sort(key=lambda record: record[_SORT_BY[sort_by]], reverse=bool(descending))  # stable, also in reverse
        shown = wanted[:limit] if limit else wanted
        if keys_only:
            shown = [(record[KEY], b"", *record[CREATE:]) for record in shown]
        return wire.OK, self._base + bool(self._changes), tuple(shown), len(found), len(shown) < len(wanted)

    def _holds(self, compare: Raw) -> bool:
        start, end, target, relation, operand = compare
        records = self._span(start, end)
        if not records:
            return target != wire.VALUE and _related(0, relation, operand)
        return all(_related(record[_TARGETS[target]], relation, operand) for record in records)


def asks(packed: Raw, guest: Subject | None = None) -> tuple[Subject | None, Raw]:
    """Return on whose behalf a command of a guest, or of a member's own, is asked for, and what is."""
    return ((packed[1], packed[2]), packed[3]) if packed[0] == wire.AS else (guest, packed)


def _size(record: Raw) -> int:
    return COUNTED + len(record[KEY]) + len(record[VALUE] or b"")


def _kept(versions: list[Raw], compacted: int) -> list[Raw]:
    """Return the versions of a key that count after a compaction: what is visible at it or later, without tombstones up to it."""
    old = [record for record in versions if record[MOD] <= compacted]
    visible = [record for record in old[-1:] if record[VALUE] is not None]
    return visible + versions[len(old) :]


def _within(record: Raw, min_mod: int, max_mod: int, min_create: int, max_create: int) -> bool:
    def inside(number: int, least: int, most: int) -> bool:
        return least <= number and (not most or number <= most)

    return inside(record[MOD], min_mod, max_mod) and inside(record[CREATE], min_create, max_create)


def _number(text: bytes) -> int:
    """Read a counter: decimal digits, as a program writes them."""
    number = int(text)
    if b"%d" % number != text:
        raise ValueError(text)
    return number


def _related(value: int | bytes, relation: int, operand: int | bytes) -> bool:
    if relation == wire.EQUAL:
        return value == operand
    if relation == wire.NOT_EQUAL:
        return value != operand
    return value > operand if relation == wire.GREATER else value < operand  # type: ignore[operator]  # both of one type
