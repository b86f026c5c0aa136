"""What can be asked of the store, and what it answers: operations, compares and results as plain values.

An operation is validated completely when it is built, on its caller's thread: what gets into the log can be applied.  ``to_wire`` is
the tuple that is packed into a batch, ``check_operation`` the same test for tuples that came from another member.  ``result`` turns
the machine's raw answer into the value the caller gets.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple, NoReturn, TypeAlias, overload

from attrs import frozen

from replkv import codec, errors

Data: TypeAlias = bytes | str
"""A key or a value: bytes; text is encoded as UTF-8."""

Raw: TypeAlias = tuple[Any, ...]
"""An answer of the machine: status and details, all of it packable."""

RESERVED = b"\x00"
"""Keys that begin with this byte are replkv's own; a span reaches them only if it begins there."""

_BEHIND_RESERVED = b"\x01"

INT64 = range(-(1 << 63), 1 << 63)

TXN_DEPTH = 16
"""How deep transactions may be nested, the outermost included."""


# -- results -----------------------------------------------------------------------------------------------------------------------


class KeyValue(NamedTuple):
    """A key with its value and its revisions (etcd's ``mvccpb.KeyValue``)."""

    key: bytes
    value: bytes
    create_revision: int
    mod_revision: int
    version: int
    lease: int = 0

    @property
    def key_text(self) -> str:
        """The key as text.

        Raises:
            UnicodeDecodeError: it is not UTF-8.
        """
        return self.key.decode()

    @property
    def text(self) -> str:
        """The value as text.

        Raises:
            UnicodeDecodeError: it is not UTF-8.
        """
        return self.value.decode()


class PutResult(NamedTuple):
    """What a put did: the revision it made, and the pair it replaced if that was asked for."""

    revision: int
    prev_kv: KeyValue | None = None


class DeleteResult(NamedTuple):
    """What a delete did; where nothing matched, ``revision`` is the current one."""

    deleted: int
    revision: int
    prev_kvs: tuple[KeyValue, ...] = ()


class AddResult(NamedTuple):
    """The counter's new value, and the revision that made it."""

    value: int
    revision: int


@frozen
class ScanResult:
    """The pairs of a span in key order, at one revision of the store; it is a sequence of them.

    ``count`` is how many pairs the span has, whatever the limit; ``more`` tells that the limit cut it.
    """

    kvs: tuple[KeyValue, ...]
    count: int
    more: bool
    revision: int

    @overload
    def __getitem__(self, index: int) -> KeyValue: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[KeyValue, ...]: ...
    def __getitem__(self, index: int | slice) -> KeyValue | tuple[KeyValue, ...]:
        return self.kvs[index]

    def __len__(self) -> int:
        return len(self.kvs)

    def __iter__(self) -> Iterator[KeyValue]:
        return iter(self.kvs)


@frozen
class TxnResult:
    """Which branch a transaction took, and the answers of its operations in their order."""

    succeeded: bool
    revision: int
    responses: tuple[Any, ...]

    def __bool__(self) -> bool:
        return self.succeeded


# -- arguments ---------------------------------------------------------------------------------------------------------------------


def to_bytes(data: Data, what: str) -> bytes:
    """Return ``data`` as bytes.

    Raises:
        TypeError: neither bytes nor text.
    """
    if type(data) is bytes:
        return data
    if isinstance(data, str):
        return data.encode()
    if isinstance(data, bytes):
        return bytes(data)
    raise TypeError(f"{what} must be bytes or str, not {type(data).__name__}")


def to_key(key: Data) -> bytes:
    """Return a key as bytes.

    Raises:
        TypeError: neither bytes nor text.
        ValueError: empty.
    """
    data = to_bytes(key, "key")
    if not data:
        raise ValueError("key must not be empty")
    return data


def to_value(value: Data) -> bytes:
    """Return a value as bytes; it may be empty."""
    return to_bytes(value, "value")


def to_count(number: int, what: str) -> int:
    """Return a number that counts something.

    Raises:
        TypeError: no integer.
        ValueError: negative, or beyond 63 bits.
    """
    if isinstance(number, bool) or not isinstance(number, int):
        raise TypeError(f"{what} must be an int, not {type(number).__name__}")
    if not 0 <= number < 1 << 63:
        raise ValueError(f"{what} must be between 0 and 2**63 - 1, not {number}")
    return number


class Span(NamedTuple):
    """All keys ``start <= key < end``; without an end, all from ``start`` on."""

    start: bytes
    end: bytes | None

    @classmethod
    def of(cls, key: Data | None = None, *, prefix: Data | None = None, start: Data | None = None, end: Data | None = None) -> Span:
        """Build a span from the arguments that every call with a span has.

        Args:
            key: exactly this key.
            prefix: all keys that begin with it.
            start: all keys from this one on, up to but without ``end`` where that is given.
            end: see ``start``.

        Returns:
            The span; with no argument, or an empty prefix, that of all keys of the application.

        Raises:
            TypeError: neither bytes nor text.
            ValueError: more than one of key, prefix and start; or an end without a start.
        """
        if sum(argument is not None for argument in (key, prefix, start)) > 1:
            raise ValueError("give one of key, prefix= and start=, not several")
        if end is not None and start is None:
            raise ValueError("end= needs start=")
        if key is not None:
            single = to_key(key)
            return cls(single, single + b"\x00")
        if start is not None:
            return cls(to_bytes(start, "start") or _BEHIND_RESERVED, None if end is None else to_bytes(end, "end"))
        begin = to_bytes(prefix, "prefix") if prefix is not None else b""
        return cls(begin or _BEHIND_RESERVED, _behind_prefix(begin))


def _behind_prefix(prefix: bytes) -> bytes | None:
    """Return the first key behind all those that begin with ``prefix`` (etcd's rule: raise the last byte that can be raised)."""
    head = prefix.rstrip(b"\xff")
    return head[:-1] + bytes([head[-1] + 1]) if head else None


# -- operations --------------------------------------------------------------------------------------------------------------------

# These numbers are in the log: never reuse one.
PUT, DELETE, ADD, TXN, GET, SCAN = 1, 2, 3, 4, 5, 6


@frozen(init=False)
class Put:
    """Store a value under a key."""

    key: bytes
    value: bytes
    prev_kv: bool

    def __init__(self, key: Data, value: Data, *, prev_kv: bool = False) -> None:
        self.__attrs_init__(to_key(key), to_value(value), bool(prev_kv))

    def to_wire(self) -> Raw:
        """Return the tuple that stands for this operation in the log."""
        return (PUT, self.key, self.value, self.prev_kv)

    def result(self, raw: Raw) -> PutResult:
        """Return what the machine's answer means to the caller."""
        _, revision, prev = raw
        return PutResult(revision, None if prev is None else KeyValue(*prev))


@frozen(init=False)
class Delete:
    """Delete a key or a span of keys."""

    span: Span
    prev_kv: bool

    def __init__(
        self,
        key: Data | None = None,
        *,
        prefix: Data | None = None,
        start: Data | None = None,
        end: Data | None = None,
        prev_kv: bool = False,
    ) -> None:
        if key is None and not prefix and start is None:
            raise ValueError("delete needs key, a prefix= that is not empty, or start=: it does not delete everything by omission")
        self.__attrs_init__(Span.of(key, prefix=prefix, start=start, end=end), bool(prev_kv))

    def to_wire(self) -> Raw:
        """Return the tuple that stands for this operation in the log."""
        return (DELETE, *self.span, self.prev_kv)

    def result(self, raw: Raw) -> DeleteResult:
        """Return what the machine's answer means to the caller."""
        _, revision, deleted, prev_kvs = raw
        return DeleteResult(deleted, revision, tuple(KeyValue(*record) for record in prev_kvs))


@frozen(init=False)
class Add:
    """Add to an integer counter, a decimal text that counts as 0 while there is none."""

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
        return (ADD, self.key, self.delta)

    def result(self, raw: Raw) -> AddResult:
        """Return what the machine's answer means to the caller."""
        _, revision, value = raw
        return AddResult(value, revision)


@frozen(init=False)
class Get:
    """Read one key; ``revision`` 0 is the newest."""

    key: bytes
    revision: int

    def __init__(self, key: Data, *, revision: int | None = None) -> None:
        self.__attrs_init__(to_key(key), 0 if revision is None else to_count(revision, "revision"))

    def to_wire(self) -> Raw:
        """Return the tuple that stands for this operation in the log."""
        return (GET, self.key, self.revision)

    def result(self, raw: Raw) -> KeyValue | None:
        """Return what the machine's answer means to the caller."""
        record = raw[1]
        return None if record is None else KeyValue(*record)


@frozen(init=False)
class Scan:
    """Read a span of keys in order, at one revision; ``revision`` 0 is the newest, ``limit`` 0 none."""

    span: Span
    limit: int
    revision: int
    keys_only: bool
    count_only: bool

    def __init__(
        self,
        key: Data | None = None,
        *,
        prefix: Data | None = None,
        start: Data | None = None,
        end: Data | None = None,
        limit: int = 0,
        revision: int | None = None,
        keys_only: bool = False,
        count_only: bool = False,
    ) -> None:
        at = 0 if revision is None else to_count(revision, "revision")
        span = Span.of(key, prefix=prefix, start=start, end=end)
        self.__attrs_init__(span, to_count(limit, "limit"), at, bool(keys_only), bool(count_only))

    def to_wire(self) -> Raw:
        """Return the tuple that stands for this operation in the log."""
        return (SCAN, *self.span, self.limit, self.revision, self.keys_only, self.count_only)

    def result(self, raw: Raw) -> ScanResult:
        """Return what the machine's answer means to the caller."""
        _, revision, records, count, more = raw
        return ScanResult(tuple(KeyValue(*record) for record in records), count, more, revision)


# -- compares ----------------------------------------------------------------------------------------------------------------------

VERSION, CREATE, MOD, VALUE, LEASE = 1, 2, 3, 4, 5
EQUAL, NOT_EQUAL, GREATER, LESS = 1, 2, 3, 4


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


class _Target:
    """One side of a compare: ``Key("a").version`` waits for an operator and a number."""

    def __init__(self, span: Span, target: int) -> None:
        self._span = span
        self._target = target

    def _compare(self, relation: int, operand: object) -> Compare:
        if self._target == VALUE:
            return Compare(self._span, VALUE, relation, to_value(operand))  # type: ignore[arg-type]  # checked inside
        return Compare(self._span, self._target, relation, to_count(operand, "what a compare compares with"))  # type: ignore[arg-type]

    def __eq__(self, operand: object) -> Compare:  # type: ignore[override]  # builds a condition, by design
        return self._compare(EQUAL, operand)

    def __ne__(self, operand: object) -> Compare:  # type: ignore[override]  # builds a condition, by design
        return self._compare(NOT_EQUAL, operand)

    def __gt__(self, operand: Data | int) -> Compare:
        return self._compare(GREATER, operand)

    def __lt__(self, operand: Data | int) -> Compare:
        return self._compare(LESS, operand)

    __hash__ = None  # type: ignore[assignment]  # equality builds a condition


class Key:
    """The keys a compare looks at: one, or a span all of whose keys must satisfy it.

    ``Key("a").value == "1"``, ``Key("a").version > 3``, ``Key("lock").missing``, ``Key(prefix="jobs/").create_revision < 90``.
    A key that does not exist has version, revisions and lease 0, and no value: a compare of its value is never satisfied (etcd).
    """

    def __init__(self, key: Data | None = None, *, prefix: Data | None = None, start: Data | None = None, end: Data | None = None) -> None:
        if key is None and prefix is None and start is None:
            raise ValueError("Key needs a key, prefix= or start=")
        self._span = Span.of(key, prefix=prefix, start=start, end=end)
        self.version = _Target(self._span, VERSION)
        self.create_revision = _Target(self._span, CREATE)
        self.mod_revision = _Target(self._span, MOD)
        self.value = _Target(self._span, VALUE)
        self.lease = _Target(self._span, LEASE)

    @property
    def exists(self) -> Compare:
        """The condition that the key is there."""
        return Compare(self._span, VERSION, GREATER, 0)

    @property
    def missing(self) -> Compare:
        """The condition that the key is not there."""
        return Compare(self._span, VERSION, EQUAL, 0)


# -- transactions ------------------------------------------------------------------------------------------------------------------


def _operations(operations: Iterable[Operation], what: str) -> tuple[Operation, ...]:
    if isinstance(operations, Operation):
        raise TypeError(f"{what}= takes a list: write {what}=[{type(operations).__name__}(…)]")
    listed = tuple(operations)
    for operation in listed:
        if not isinstance(operation, (Put, Delete, Add, Get, Scan, Txn)):
            raise TypeError(f"{what}= takes Put, Get, Scan, Delete, Add and Txn, not {type(operation).__name__}")
    return listed


@frozen(init=False)
class Txn:
    """Do ``then`` if all of ``compare`` hold, ``otherwise`` if not: all of it at one revision, or nothing."""

    compare: tuple[Compare, ...]
    then: tuple[Operation, ...]
    otherwise: tuple[Operation, ...]

    def __init__(self, *, compare: Iterable[Compare] = (), then: Iterable[Operation] = (), otherwise: Iterable[Operation] = ()) -> None:
        if isinstance(compare, Compare):
            raise TypeError("compare= takes a list: write compare=[Key(…)…]")
        conditions = tuple(compare)
        for condition in conditions:
            if not isinstance(condition, Compare):
                raise TypeError(f'compare= takes conditions such as Key("a").version == 1, not {type(condition).__name__}')
        self.__attrs_init__(conditions, _operations(then, "then"), _operations(otherwise, "otherwise"))
        if self.depth > TXN_DEPTH:
            raise ValueError(f"transactions may be nested {TXN_DEPTH} deep, this one is {self.depth} deep")
        check_distinct(self.to_wire())

    def to_wire(self) -> Raw:
        """Return the tuple that stands for this operation in the log."""
        branches = (tuple(operation.to_wire() for operation in branch) for branch in (self.then, self.otherwise))
        return (TXN, tuple(condition.to_wire() for condition in self.compare), *branches)

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
        return all(_reads(operation) for operation in (*self.then, *self.otherwise))


Operation: TypeAlias = Put | Delete | Add | Get | Scan | Txn


def _reads(operation: Operation) -> bool:
    return isinstance(operation, (Get, Scan)) or (isinstance(operation, Txn) and operation.read_only)


def count_operations(wire: Raw) -> int:
    """Return the length of the longest list of a packed transaction; a nested one adds its own to the list it stands in."""
    if wire[0] != TXN:
        return 0
    _, compares, then, otherwise = wire
    return max(len(compares), *(len(branch) + sum(map(count_operations, branch)) for branch in (then, otherwise)))


def request_size(wire: Raw) -> int:
    """Return how many bytes of keys, values and bounds a packed operation holds; linear in its number of parts."""
    return sum(len(part) if type(part) is bytes else request_size(part) for part in wire if type(part) in (bytes, tuple))


def check_distinct(wire: Raw) -> None:
    """Check that no path through a packed transaction writes a key twice, by put, add or a delete that covers it; n log n.

    Raises:
        DuplicateKey: one does.
    """
    _written(wire)


_Writes: TypeAlias = tuple[set[bytes], list[Span]]


def _written(wire: Raw) -> _Writes:
    """Return the keys an operation may put and the spans it may delete, whichever branches it takes."""
    tag = wire[0]
    if tag in (PUT, ADD):
        return {wire[1]}, []
    if tag == DELETE:
        return set(), [Span(wire[1], wire[2])]
    if tag != TXN:
        return set(), []
    then, otherwise = (_branch_written(branch) for branch in wire[2:])
    return then[0] | otherwise[0], then[1] + otherwise[1]


def _branch_written(branch: Iterable[Raw]) -> _Writes:
    puts: dict[bytes, int] = {}
    deletes: list[tuple[Span, int]] = []
    for place, wire in enumerate(branch):
        keys, spans = _written(wire)
        for key in keys:
            if puts.setdefault(key, place) != place:
                _refuse_twice(key)
        deletes += [(span, place) for span in spans if span.end is None or span.start < span.end]
    _check_uncovered(puts, deletes)
    return set(puts), [span for span, _ in deletes]


def _check_uncovered(puts: dict[bytes, int], deletes: list[tuple[Span, int]]) -> None:
    """Check that no delete covers a key that stands at another place of the same list: one sweep over both in key order.

    Of the deletes that began, it keeps the two that reach furthest from different places: one of them is not the put's own.
    """
    furthest: list[tuple[bool, bytes, int]] = []
    waiting = sorted(deletes, key=lambda delete: delete[0].start, reverse=True)
    for key in sorted(puts):
        while waiting and waiting[-1][0].start <= key:
            span, place = waiting.pop()
            reach = (span.end is None, span.end or b"", place)
            own = [other for other in (*furthest, reach) if other[2] == place]
            furthest = sorted([*(other for other in furthest if other[2] != place), max(own)])[-2:]
        if any(place != puts[key] and (endless or key < end) for endless, end, place in furthest):
            _refuse_twice(key)


def _refuse_twice(key: bytes) -> NoReturn:
    raise errors.DuplicateKey(f"a transaction may write each key once on a path, but {key[:64]!r} is written twice")


# -- the same checks for what came from another member -----------------------------------------------------------------------------


def _is_key(value: object) -> bool:
    return type(value) is bytes and value != b""


def _is_count(value: object) -> bool:
    return type(value) is int and 0 <= value < 1 << 63


def _is_span(start: object, end: object) -> bool:
    return type(start) is bytes and start != b"" and (end is None or type(end) is bytes)


def _is_compare(wire: object) -> bool:
    if type(wire) is not tuple or len(wire) != 5:
        return False
    start, end, target, relation, operand = wire
    fits = type(operand) is bytes if target == VALUE else _is_count(operand)
    known = _is_count(target) and VERSION <= target <= LEASE and _is_count(relation) and EQUAL <= relation <= LESS
    return _is_span(start, end) and known and fits


def _is_put(key: object, value: object, prev_kv: object) -> bool:
    return _is_key(key) and type(value) is bytes and type(prev_kv) is bool


def _is_delete(start: object, end: object, prev_kv: object) -> bool:
    return _is_span(start, end) and type(prev_kv) is bool


def _is_add(key: object, delta: object) -> bool:
    return _is_key(key) and type(delta) is int and delta in INT64


def _is_get(key: object, revision: object) -> bool:
    return _is_key(key) and _is_count(revision)


def _is_scan(start: object, end: object, limit: object, revision: object, *flags: object) -> bool:
    return _is_span(start, end) and _is_count(limit) and _is_count(revision) and len(flags) == 2 and all(type(f) is bool for f in flags)


def _is_txn(compares: object, then: object, otherwise: object, depth: int) -> bool:
    if not (type(compares) is tuple and type(then) is tuple and type(otherwise) is tuple):
        return False
    return all(map(_is_compare, compares)) and all(_is_operation(operation, depth + 1) for operation in (*then, *otherwise))


_CHECKS: dict[int, tuple[int, Any]] = {
    PUT: (4, _is_put),
    DELETE: (4, _is_delete),
    ADD: (3, _is_add),
    GET: (3, _is_get),
    SCAN: (7, _is_scan),
}


def _is_operation(wire: object, depth: int = 1) -> bool:
    if type(wire) is not tuple or not wire or type(wire[0]) is not int:
        return False
    if wire[0] == TXN:
        return len(wire) == 4 and depth <= TXN_DEPTH and _is_txn(*wire[1:], depth)
    length, check = _CHECKS.get(wire[0], (0, None))
    return len(wire) == length and bool(check(*wire[1:]))


def check_operation(wire: object) -> None:
    """Check a packed operation that came from another member as ``Put`` and its like check their arguments.

    Raises:
        DecodeError: it is none that this version would have packed.
    """
    if not _is_operation(wire):
        raise codec.DecodeError("a command that no member of this version packs")
    try:
        check_distinct(wire)  # type: ignore[arg-type]  # it was just found to be a tuple
    except errors.DuplicateKey as duplicate:
        raise codec.DecodeError(f"a command that no member of this version packs: {duplicate}") from None


# -- refusals ----------------------------------------------------------------------------------------------------------------------

OK = 0

# The status of an answer that is a refusal.  These numbers are in the log's outcome: never reuse one.
_REFUSALS: dict[int, type[errors.ReplkvError]] = {
    1: errors.Compacted,
    2: errors.FutureRevision,
    3: errors.NotACounter,
    4: errors.TooManyOps,
    5: errors.TooLarge,
    6: errors.OutcomeUnknown,
}
_STATUS = {kind: status for status, kind in _REFUSALS.items()}


def refusal(kind: type[errors.ReplkvError], message: str, *details: int) -> Raw:
    """Return the machine's answer that becomes ``kind(message, *details)`` at the caller."""
    return (_STATUS[kind], message, *details)


def unless_refused(raw: Raw) -> Raw:
    """Return an answer, or raise the error it stands for."""
    if raw[0] != OK:
        raise _REFUSALS[raw[0]](*raw[1:])
    return raw
