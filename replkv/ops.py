"""What can be asked of the store: operations and compares.

An operation is validated completely when it is built, on its caller's thread: what gets into the log can be applied.  ``to_wire`` is
the tuple that is packed into a batch (``wire.py``); ``result`` turns the machine's raw answer into the value the caller gets.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import Enum
from typing import Any, Final, Literal, Protocol, TypeAlias, TypeVar

from attrs import frozen

from replkv import wire
from replkv.values import (
    INT64,
    AddResult,
    Data,
    DeleteResult,
    KeyValue,
    PutResult,
    ScanResult,
    Span,
    TxnResult,
    to_count,
    to_key,
    to_key_value,
    to_ttl,
    to_value,
)
from replkv.wire import Raw

R_co = TypeVar("R_co", covariant=True)


class _Keep(Enum):
    KEEP = "keep"

    def __repr__(self) -> str:
        return self.name


KEEP: Final = _Keep.KEEP
"""As the value or the lease of a put: what the key has stays; the key must exist."""

Keep: TypeAlias = Literal[_Keep.KEEP]


class HasLeaseId(Protocol):
    """A handle of a lease."""

    @property
    def id(self) -> int:
        """The lease's id."""


LeaseLike: TypeAlias = HasLeaseId | int
"""A lease: its handle or its id."""

SortBy: TypeAlias = Literal["key", "version", "create", "mod", "value", "create_revision", "mod_revision"]

_SORT_BY = {
    "key": wire.SORT_KEY,
    "version": wire.SORT_VERSION,
    "create": wire.SORT_CREATE,
    "create_revision": wire.SORT_CREATE,
    "mod": wire.SORT_MOD,
    "mod_revision": wire.SORT_MOD,
    "value": wire.SORT_VALUE,
}


def to_lease_id(lease: LeaseLike) -> int:
    """Return a lease's id.

    Raises:
        TypeError: neither a handle nor an int.
        ValueError: not an id: they are above 0 and below 2**63.
    """
    number = to_count(getattr(lease, "id", lease), "lease")  # type: ignore[arg-type]  # checked inside
    if number == 0:
        raise ValueError("a lease's id is above 0")
    return number


def _conditional(operation: Raw, key: bytes, mod_revision: int | None, guard: Guard | None) -> Raw:
    """Return a packed operation within the conditions it has."""
    if mod_revision is not None:
        operation = (wire.EXPECT, key, mod_revision, operation)
    return operation if guard is None else (wire.GUARD, guard.key, guard.create_revision, operation)


def _optional_revision(revision: int | None, what: str) -> int:
    """Return a revision, 0 for None: that is its stored form, and no caller's word for it, or one miscalculated would read the newest."""
    if revision is None:
        return 0
    if to_count(revision, what) == 0:
        raise ValueError(f"{what} must be at least 1, the revision of an empty store; leave it out for none")
    return revision


def _listed(things: object, what: str, example: str) -> tuple[Any, ...]:
    """Return what a list holds.

    Raises:
        TypeError: it is no list, but perhaps what should be in one.
    """
    if not isinstance(things, Iterable) or isinstance(things, (str, bytes)):
        raise TypeError(f"{what}= takes a list: write {what}=[{example}], not a {type(things).__name__}")
    return tuple(things)


# -- operations --------------------------------------------------------------------------------------------------------------------


@frozen(init=False)
class Put:
    """Store a value under a key: ``put`` as an operation, for ``txn`` and ``submit``.

    The arguments are those of ``Replica.put``; the attributes are what the log holds of them.

    Attributes:
        key: bytes.
        value: bytes; None stands for ``KEEP``.
        lease: its id, 0 for none; None stands for ``KEEP``.
        ttl: microseconds, where the argument is in seconds; 0 without one.
        prev_kv: answer with the pair that is replaced.
        if_mod_revision: at which revision the key must be; None: at any.
        guard: what must still be held; None: nothing.

    Raises:
        TypeError, ValueError: a bad argument.
    """

    key: bytes
    value: bytes | None
    lease: int | None
    ttl: int
    prev_kv: bool
    if_mod_revision: int | None
    guard: Guard | None

    def __init__(
        self,
        key: Data,
        value: Data | Keep,
        *,
        lease: LeaseLike | Keep | None = None,
        ttl: float | None = None,
        prev_kv: bool = False,
        if_mod_revision: int | None = None,
        guard: Fenced | None = None,
    ) -> None:
        if lease is not None and ttl is not None:
            raise ValueError("give lease= or ttl=, not both: a ttl is a lease of its own")
        name = key if type(key) is bytes and key else to_key(key)
        kept = value if type(value) is bytes else None if value is KEEP else to_value(value)
        leased = 0 if lease is None else None if lease is KEEP else to_lease_id(lease)
        expected = None if if_mod_revision is None else to_count(if_mod_revision, "if_mod_revision")
        guarded = None if guard is None else to_guard(guard)
        self.__attrs_init__(name, kept, leased, 0 if ttl is None else to_ttl(ttl), bool(prev_kv), expected, guarded)

    def to_wire(self) -> Raw:
        """Return the tuple that stands for this operation in the log."""
        if self.lease == 0 and not self.ttl and self.value is not None:  # most are of this kind, which is shorter and quicker
            operation: Raw = (wire.PUT, self.key, self.value, self.prev_kv)
        else:
            operation = (wire.PUT_WITH, self.key, self.value, self.prev_kv, self.lease, self.ttl)
        if self.if_mod_revision is None and self.guard is None:  # so are these
            return operation
        return _conditional(operation, self.key, self.if_mod_revision, self.guard)

    def result(self, raw: Raw) -> PutResult:
        """Return what the machine's answer means to the caller."""
        _, revision, prev = raw
        return PutResult(revision, None if prev is None else KeyValue(*prev))


@frozen(init=False)
class Delete:
    """Delete a key or a span of keys: ``delete`` as an operation, for ``txn`` and ``submit``.

    The arguments are those of ``Replica.delete``; the attributes are what the log holds of them.

    Attributes:
        span: of the keys.
        prev_kv: answer with the pairs that are deleted.
        if_mod_revision: at which revision the one key must be; None: at any.
        guard: what must still be held; None: nothing.

    Raises:
        TypeError: a bad argument.
        ValueError: no span, or an empty prefix; ``if_mod_revision`` without a single key.
    """

    span: Span
    prev_kv: bool
    if_mod_revision: int | None
    guard: Guard | None

    def __init__(
        self,
        key: Data | None = None,
        *,
        prefix: Data | None = None,
        start: Data | None = None,
        end: Data | None = None,
        prev_kv: bool = False,
        if_mod_revision: int | None = None,
        guard: Fenced | None = None,
    ) -> None:
        if key is None and not prefix and start is None:
            raise ValueError("delete needs key, a prefix= that is not empty, or start=: it does not delete everything by omission")
        span = Span.of(key, prefix=prefix, start=start, end=end)
        if if_mod_revision is not None and key is None:
            raise ValueError("if_mod_revision= is for a single key: a span has no one revision")
        expected = None if if_mod_revision is None else to_count(if_mod_revision, "if_mod_revision")
        self.__attrs_init__(span, bool(prev_kv), expected, None if guard is None else to_guard(guard))

    def to_wire(self) -> Raw:
        """Return the tuple that stands for this operation in the log."""
        return _conditional((wire.DELETE, *self.span, self.prev_kv), self.span.start, self.if_mod_revision, self.guard)

    def result(self, raw: Raw) -> DeleteResult:
        """Return what the machine's answer means to the caller."""
        _, revision, deleted, prev_kvs = raw
        return DeleteResult(deleted, revision, tuple(KeyValue(*record) for record in prev_kvs))


@frozen(init=False)
class Add:
    """Add to an integer counter: ``add`` as an operation, for ``txn`` and ``submit``.

    Args:
        key: of the counter, a decimal text that counts as 0 while there is none.
        delta: 64 bits, may be negative.

    Raises:
        TypeError, ValueError: a bad argument.
    """

    key: bytes
    delta: int

    def __init__(self, key: Data, delta: int = 1) -> None:
        if isinstance(delta, bool) or not isinstance(delta, int):
            raise TypeError(f"delta must be an int, not {type(delta).__name__}")
        if delta not in INT64:
            raise ValueError(f"delta must fit 64 bits, not {delta}")
        self.__attrs_init__(to_key(key), delta)

    def to_wire(self) -> Raw:
        """Return the tuple that stands for this operation in the log."""
        return (wire.ADD, self.key, self.delta)

    def result(self, raw: Raw) -> AddResult:
        """Return what the machine's answer means to the caller."""
        _, revision, value = raw
        return AddResult(value, revision)


@frozen(init=False)
class Get:
    """Read one key: ``get`` as an operation, for ``txn`` and ``submit``.

    The arguments are those of ``Replica.get`` that say what to read.

    Attributes:
        key: bytes.
        revision: 0 is the newest, where the argument is None.

    Raises:
        TypeError, ValueError: a bad argument.
    """

    key: bytes
    revision: int

    def __init__(self, key: Data, *, revision: int | None = None) -> None:
        self.__attrs_init__(to_key(key), _optional_revision(revision, "revision"))

    def to_wire(self) -> Raw:
        """Return the tuple that stands for this operation in the log."""
        return (wire.GET, self.key, self.revision)

    def result(self, raw: Raw) -> KeyValue | None:
        """Return what the machine's answer means to the caller."""
        record = raw[1]
        return None if record is None else to_key_value(record)


@frozen(init=False)
class Scan:
    """Read a span of keys in order, at one revision: ``scan`` as an operation, for ``txn`` and ``submit``.

    The arguments are those of ``Replica.scan`` that say what to read; the attributes are what is packed of them.

    Attributes:
        span: of the keys.
        limit: how many pairs; 0 is no limit.
        revision: 0 is the newest, where the argument is None.
        keys_only: leave the values empty.
        count_only: answer with the count alone.
        sort_by: by what to sort, as a number of the wire.
        descending: the largest first.
        bounds: the least and the largest mod_revision, then create_revision; 0 is no bound, where the argument is None.

    Raises:
        TypeError, ValueError: a bad argument.
    """

    span: Span
    limit: int
    revision: int
    keys_only: bool
    count_only: bool
    sort_by: int
    descending: bool
    bounds: tuple[int, int, int, int]

    def __init__(
        self,
        key: Data | None = None,
        *,
        prefix: Data | None = None,
        start: Data | None = None,
        end: Data | None = None,
        limit: int = 0,
        revision: int | None = None,
        sort_by: SortBy = "key",
        descending: bool = False,
        keys_only: bool = False,
        count_only: bool = False,
        min_mod_revision: int | None = None,
        max_mod_revision: int | None = None,
        min_create_revision: int | None = None,
        max_create_revision: int | None = None,
    ) -> None:
        if sort_by not in tuple(_SORT_BY):  # which need not be hashable
            raise ValueError(f"sort_by must be {', '.join(_SORT_BY)}, not {sort_by!r}")
        bounds = (
            _optional_revision(min_mod_revision, "min_mod_revision"),
            _optional_revision(max_mod_revision, "max_mod_revision"),
            _optional_revision(min_create_revision, "min_create_revision"),
            _optional_revision(max_create_revision, "max_create_revision"),
        )
        self.__attrs_init__(
            Span.of(key, prefix=prefix, start=start, end=end),
            to_count(limit, "limit"),
            _optional_revision(revision, "revision"),
            bool(keys_only),
            bool(count_only),
            _SORT_BY[sort_by],
            bool(descending),
            bounds,
        )

    def to_wire(self) -> Raw:
        """Return the tuple that stands for this operation in the log."""
        options = (self.keys_only, self.count_only, self.sort_by, self.descending, *self.bounds)
        return (wire.SCAN, *self.span, self.limit, self.revision, *options)

    def result(self, raw: Raw) -> ScanResult:
        """Return what the machine's answer means to the caller."""
        _, revision, records, count, more = raw
        return ScanResult(records, count, more, revision)


# -- compares ----------------------------------------------------------------------------------------------------------------------


@frozen
class Compare:
    """One condition of a transaction, made with ``Key``."""

    span: Span
    target: int
    relation: int
    operand: int | bytes

    def __bool__(self) -> bool:
        raise TypeError("a compare has no truth of its own: list compares in compare=[...], don't join them with 'and' or chain them")

    def to_wire(self) -> Raw:
        """Return the tuple that stands for this condition in the log."""
        return (*self.span, self.target, self.relation, self.operand)


@frozen(init=False)
class Guard(Compare):
    """The condition that a lock is still held as it was taken: its key, which is in no namespace, was created at that revision.

    For ``compare=`` of a transaction, and as ``guard=`` of a put or a delete.  ``lock.guard()`` makes it.

    Args:
        key: the whole key, whatever namespace the call is made in.
        create_revision: at which it was created, 1 or later.

    Raises:
        TypeError, ValueError: a bad argument.
    """

    def __init__(self, key: Data, create_revision: int) -> None:
        created = to_count(create_revision, "create_revision")
        if created == 0:
            raise ValueError("create_revision must be at least 1: a key that is missing guards nothing")
        self.__attrs_init__(Span.of(to_key(key)), wire.FENCE, wire.EQUAL, created)

    @property
    def key(self) -> bytes:
        """The lock's key."""
        return self.span.start

    @property
    def create_revision(self) -> int:
        """The revision at which the lock was taken."""
        return self.operand  # type: ignore[return-value]  # the constructor takes no other

    def guard(self) -> Guard:
        """Return the condition itself, so that it can stand for the lock."""
        return self


class Fenced(Protocol):
    """What can guard a write: a lock, a term, or a condition that one of them made."""

    def guard(self) -> Guard:
        """Return the condition that it is still held."""


def to_guard(fenced: Fenced) -> Guard:
    """Return the condition that something is still held.

    Raises:
        TypeError: it is nothing that is held.
    """
    make = getattr(fenced, "guard", None)
    made = make() if callable(make) else None
    if not isinstance(made, Guard):
        raise TypeError(f"guard= takes a lock, a term or what their guard() returns, not {type(fenced).__name__}")
    return made


class _Target:
    """One side of a compare: ``Key("a").version`` waits for an operator and a number."""

    def __init__(self, span: Span, target: int) -> None:
        self._span = span
        self._target = target

    def _compare(self, relation: int, operand: object) -> Compare:
        if self._target == wire.VALUE:
            return Compare(self._span, wire.VALUE, relation, to_value(operand))  # type: ignore[arg-type]  # checked inside
        if self._target == wire.LEASE and not isinstance(operand, int):
            operand = to_lease_id(operand)  # type: ignore[arg-type]  # checked inside
        return Compare(self._span, self._target, relation, to_count(operand, "what a compare compares with"))  # type: ignore[arg-type]

    def __eq__(self, operand: object) -> Compare:  # type: ignore[override]  # builds a condition, by design
        return self._compare(wire.EQUAL, operand)

    def __ne__(self, operand: object) -> Compare:  # type: ignore[override]  # builds a condition, by design
        return self._compare(wire.NOT_EQUAL, operand)

    def __gt__(self, operand: Data | int) -> Compare:
        return self._compare(wire.GREATER, operand)

    def __lt__(self, operand: Data | int) -> Compare:
        return self._compare(wire.LESS, operand)

    __hash__ = None  # type: ignore[assignment]  # equality builds a condition


class Key:
    """The keys a compare looks at: one, or a span all of whose keys must satisfy it.

    ``Key("a").value == "1"``, ``Key("a").version > 3``, ``Key("lock").missing``, ``Key(prefix="jobs/").create_revision < 90``.
    A key that does not exist has version, revisions and lease 0, and no value: a compare of its value is never satisfied (etcd).

    Args:
        key: exactly this key.
        prefix: all keys that begin with it.
        start: all keys from this one on, up to but without ``end`` where that is given.
        end: see ``start``.

    Raises:
        TypeError, ValueError: a bad argument, or none.
    """

    def __init__(self, key: Data | None = None, *, prefix: Data | None = None, start: Data | None = None, end: Data | None = None) -> None:
        if key is None and prefix is None and start is None:
            raise ValueError("Key needs a key, prefix= or start=")
        self._span = Span.of(key, prefix=prefix, start=start, end=end)
        self.version = _Target(self._span, wire.VERSION)
        self.create_revision = _Target(self._span, wire.CREATE)
        self.mod_revision = _Target(self._span, wire.MOD)
        self.value = _Target(self._span, wire.VALUE)
        self.lease = _Target(self._span, wire.LEASE)

    @property
    def exists(self) -> Compare:
        """The condition that the key is there."""
        return Compare(self._span, wire.VERSION, wire.GREATER, 0)

    @property
    def missing(self) -> Compare:
        """The condition that the key is not there."""
        return Compare(self._span, wire.VERSION, wire.EQUAL, 0)


# -- transactions ------------------------------------------------------------------------------------------------------------------


def _operations(operations: object, what: str) -> tuple[Operation, ...]:
    listed = _listed(operations, what, f"{type(operations).__name__ if isinstance(operations, Operation) else 'Put'}(…)")
    for operation in listed:
        if not isinstance(operation, (Put, Delete, Add, Get, Scan, Txn)):
            raise TypeError(f"{what}= takes Put, Get, Scan, Delete, Add and Txn, not {type(operation).__name__}")
    return listed


@frozen(init=False)
class Txn:
    """Do ``then`` if all of ``compare`` hold, ``otherwise`` if not: ``txn`` as an operation, to be nested, and for ``submit``.

    Args:
        compare: conditions such as ``Key("a").version == 1``.
        then: operations, done in their order, at one revision, all or none.
        otherwise: the operations for the other case.

    Raises:
        TypeError: what is listed is none of these, or not in a list.
        ValueError: nested too deep.
        DuplicateKey: a key would be written twice on one path.
    """

    compare: tuple[Compare, ...]
    then: tuple[Operation, ...]
    otherwise: tuple[Operation, ...]

    def __init__(self, *, compare: Iterable[Compare] = (), then: Iterable[Operation] = (), otherwise: Iterable[Operation] = ()) -> None:
        conditions = _listed(compare, "compare", "Key(…)…")
        for condition in conditions:
            if not isinstance(condition, Compare):
                raise TypeError(f'compare= takes conditions such as Key("a").version == 1, not {type(condition).__name__}')
        self.__attrs_init__(conditions, _operations(then, "then"), _operations(otherwise, "otherwise"))
        if self.depth > wire.TXN_DEPTH:
            raise ValueError(f"transactions may be nested {wire.TXN_DEPTH} deep, this one is {self.depth} deep")
        wire.check_distinct(self.to_wire())

    def to_wire(self) -> Raw:
        """Return the tuple that stands for this operation in the log."""
        branches = (tuple(operation.to_wire() for operation in branch) for branch in (self.then, self.otherwise))
        return (wire.TXN, tuple(condition.to_wire() for condition in self.compare), *branches)

    def result(self, raw: Raw) -> TxnResult:
        """Return what the machine's answer means to the caller."""
        _, revision, succeeded, answers = raw
        branch = self.then if succeeded else self.otherwise
        responses = tuple(operation.result(answer) for operation, answer in zip(branch, answers, strict=True))
        return TxnResult(succeeded, revision, responses)

    @property
    def depth(self) -> int:
        """How deep transactions are nested in this one, itself included."""
        return 1 + max((inner.depth for inner in (*self.then, *self.otherwise) if isinstance(inner, Txn)), default=0)

    @property
    def read_only(self) -> bool:
        """Whether neither branch can change anything."""
        return all(reads_only(operation) for operation in (*self.then, *self.otherwise))


Operation: TypeAlias = Put | Delete | Add | Get | Scan | Txn


def reads_only(operation: object) -> bool:
    """Tell whether an operation can't change anything, so that it needs no place in the log."""
    return isinstance(operation, (Get, Scan)) or (isinstance(operation, Txn) and operation.read_only)


# -- history and leases ------------------------------------------------------------------------------------------------------------


@frozen
class Compact:
    """Forget what was superseded at or before a revision."""

    revision: int

    def to_wire(self) -> Raw:
        """Return the tuple that stands for this operation in the log."""
        return (wire.COMPACT, self.revision)

    def result(self, raw: Raw) -> None:
        """Return nothing: that it was not refused says all."""


@frozen
class Grant:
    """Make a lease; ``lease`` 0 lets the store choose its id, ``keeper`` 0 says that nobody keeps it alive."""

    lease: int
    ttl: int
    keeper: int

    def to_wire(self) -> Raw:
        """Return the tuple that stands for this operation in the log."""
        return (wire.GRANT, self.lease, self.ttl, self.keeper)

    def result(self, raw: Raw) -> tuple[int, int]:
        """Return the lease's id and its ttl in microseconds."""
        return raw[1], raw[2]


@frozen
class Renew:
    """Let a lease's time begin anew; with a ``keeper`` it is from now on that one's to keep alive."""

    lease: int
    keeper: int

    def to_wire(self) -> Raw:
        """Return the tuple that stands for this operation in the log."""
        return (wire.RENEW, self.lease, self.keeper)

    def result(self, raw: Raw) -> tuple[int, int]:
        """Return the lease's id and its ttl in microseconds."""
        return self.lease, raw[1]


@frozen
class KeepAlive:
    """Let the time of all leases of a keeper begin anew."""

    keeper: int

    def to_wire(self) -> Raw:
        """Return the tuple that stands for this operation in the log."""
        return (wire.KEEP_ALIVE, self.keeper)

    def result(self, raw: Raw) -> int:
        """Return how many leases the keeper has."""
        return raw[1]  # type: ignore[no-any-return]  # an answer is a tuple of anything


@frozen
class Revoke:
    """End a lease, and delete the keys that hang on it at one revision; with a ``keeper`` only while it is that one's."""

    lease: int
    keeper: int = 0

    def to_wire(self) -> Raw:
        """Return the tuple that stands for this operation in the log."""
        return (wire.REVOKE, self.lease, self.keeper)

    def result(self, raw: Raw) -> int:
        """Return how many keys were deleted."""
        return raw[2]  # type: ignore[no-any-return]  # an answer is a tuple of anything


class Packable(Protocol[R_co]):
    """What a plan needs of an operation."""

    def to_wire(self) -> Raw:
        """Return the tuple that stands for this operation in the log."""

    def result(self, raw: Raw, /) -> R_co:
        """Return what the machine's answer means to the caller."""
