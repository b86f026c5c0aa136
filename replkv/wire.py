"""Operations as they stand in the log: packed tuples, what they may hold, and what an answer to them means.

``ops.py`` builds them from what a caller says; the machine executes them.  What came from another member is checked here as strictly as
``ops.py`` checks a caller's arguments: whatever gets into the log is applied by everybody.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NoReturn, TypeAlias

from replkv import codec, errors
from replkv.refusals import ABOUT_A_KEY, error_of
from replkv.values import INT64, MAX_TTL, Span

Raw: TypeAlias = tuple[Any, ...]
"""A packed operation, or an answer of the machine: status and details.  All of it packable."""

# These numbers are in the log: never reuse one.
PUT, DELETE, ADD, TXN, GET, SCAN = 1, 2, 3, 4, 5, 6
PUT_WITH, EXPECT, COMPACT = 7, 8, 9
GRANT, RENEW, KEEP_ALIVE, REVOKE = 10, 11, 12, 13

VERSION, CREATE, MOD, VALUE, LEASE = 1, 2, 3, 4, 5
"""What a compare looks at."""
EQUAL, NOT_EQUAL, GREATER, LESS = 1, 2, 3, 4
SORT_KEY, SORT_VERSION, SORT_CREATE, SORT_MOD, SORT_VALUE = 0, 1, 2, 3, 4

TXN_DEPTH = 16
"""How deep transactions may be nested, the outermost included."""

MAX_TTL_MICROS = round(MAX_TTL * 1e6)


# -- counting ----------------------------------------------------------------------------------------------------------------------


def count_operations(wire: Raw) -> int:
    """Return the length of the longest list of a packed transaction; a nested one adds its own to the list it stands in."""
    if wire[0] != TXN:
        return 0
    _, compares, then, otherwise = wire
    return max(len(compares), *(len(branch) + sum(map(count_operations, branch)) for branch in (then, otherwise)))


def request_size(wire: Raw) -> int:
    """Return how many bytes of keys, values and bounds a packed operation holds; linear in its number of parts."""
    return sum(len(part) if type(part) is bytes else request_size(part) for part in wire if type(part) in (bytes, tuple))


def shortest_ttl(wire: Raw) -> int:
    """Return the shortest time to live that a packed operation asks for, in microseconds; 0 if it asks for none."""
    tag = wire[0]
    if tag in (GRANT, PUT_WITH):
        return wire[2 if tag == GRANT else 5]  # type: ignore[no-any-return]  # a packed operation is a tuple of anything
    inner = wire[3:4] if tag == EXPECT else (*wire[2], *wire[3]) if tag == TXN else ()
    return min(filter(None, map(shortest_ttl, inner)), default=0)


# -- no key twice ------------------------------------------------------------------------------------------------------------------


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
    if tag in (PUT, PUT_WITH, ADD):
        return {wire[1]}, []
    if tag == EXPECT:
        return _written(wire[3])
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


# -- the checks for what came from another member ----------------------------------------------------------------------------------


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


def _is_put_with(key: object, value: object, prev_kv: object, lease: object, ttl: object) -> bool:
    kept = value is None or type(value) is bytes
    leased = (lease is None or _is_count(lease)) and (ttl == 0 or lease == 0) and type(ttl) is int and 0 <= ttl <= MAX_TTL_MICROS
    needed = value is None or lease != 0 or ttl != 0  # else it is a PUT
    return _is_key(key) and kept and type(prev_kv) is bool and leased and needed


def _is_expect(key: object, mod_revision: object, operation: object) -> bool:
    if not (_is_key(key) and _is_count(mod_revision) and type(operation) is tuple):
        return False
    if not operation or operation[0] not in (PUT, PUT_WITH, DELETE) or not _is_plain(operation):  # in this order: it must not nest
        return False
    if operation[0] == DELETE:
        return operation[1:3] == (key, key + b"\x00")  # type: ignore[operator]  # a key, just checked
    return operation[1] == key  # type: ignore[no-any-return]  # a tuple of anything


def _is_delete(start: object, end: object, prev_kv: object) -> bool:
    return _is_span(start, end) and type(prev_kv) is bool


def _is_add(key: object, delta: object) -> bool:
    return _is_key(key) and type(delta) is int and delta in INT64


def _is_get(key: object, revision: object) -> bool:
    return _is_key(key) and _is_count(revision)


def _is_scan(start: object, end: object, limit: object, revision: object, *options: object) -> bool:
    keys_only, count_only, sort_by, descending, *bounds = options
    flags = all(type(flag) is bool for flag in (keys_only, count_only, descending))
    sorting = _is_count(sort_by) and sort_by <= SORT_VALUE  # type: ignore[operator]  # a number, just checked
    return _is_span(start, end) and all(map(_is_count, (limit, revision, *bounds))) and flags and sorting


def _is_txn(compares: object, then: object, otherwise: object, depth: int) -> bool:
    if not (type(compares) is tuple and type(then) is tuple and type(otherwise) is tuple):
        return False
    return all(map(_is_compare, compares)) and all(_is_operation(operation, depth + 1) for operation in (*then, *otherwise))


def _is_grant(lease: object, ttl: object, keeper: object) -> bool:
    return _is_count(lease) and type(ttl) is int and 0 < ttl <= MAX_TTL_MICROS and _is_count(keeper)


def _is_of_keeper(lease: object, keeper: object) -> bool:
    return _is_count(lease) and _is_count(keeper)


_Check: TypeAlias = tuple[int, Callable[..., bool]]
"""How long a packed operation is, and the check of what follows its tag."""

_PLAIN: dict[int, _Check] = {
    PUT: (4, _is_put),
    PUT_WITH: (6, _is_put_with),
    EXPECT: (4, _is_expect),
    DELETE: (4, _is_delete),
    ADD: (3, _is_add),
    GET: (3, _is_get),
    SCAN: (13, _is_scan),
}
_OUTERMOST: dict[int, _Check] = {
    COMPACT: (2, _is_count),
    GRANT: (4, _is_grant),
    RENEW: (3, _is_of_keeper),
    KEEP_ALIVE: (2, _is_count),
    REVOKE: (3, _is_of_keeper),
}


def _is_plain(wire: Raw, checks: dict[int, _Check] = _PLAIN) -> bool:
    if not wire or type(wire[0]) is not int:
        return False
    length, check = checks.get(wire[0], (0, None))
    return check is not None and len(wire) == length and check(*wire[1:])


def _is_operation(wire: object, depth: int = 1) -> bool:
    if type(wire) is not tuple or not wire:
        return False
    if wire[0] == TXN and type(wire[0]) is int:
        return len(wire) == 4 and depth <= TXN_DEPTH and _is_txn(*wire[1:], depth)
    return _is_plain(wire) or (depth == 1 and _is_plain(wire, _OUTERMOST))


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


# -- namespaces --------------------------------------------------------------------------------------------------------------------


def below(wire: Raw, prefix: bytes) -> Raw:
    """Return a packed operation on the same keys in the namespace of a prefix; linear in its number of parts."""
    tag = wire[0]
    if tag in (DELETE, SCAN):
        return (tag, *Span(*wire[1:3]).below(prefix), *wire[3:])
    if tag == EXPECT:
        return (tag, prefix + wire[1], wire[2], below(wire[3], prefix))
    if tag != TXN:
        return (tag, prefix + wire[1], *wire[2:])
    _, compares, then, otherwise = wire
    conditions = tuple((*Span(*compare[:2]).below(prefix), *compare[2:]) for compare in compares)
    return (tag, conditions, *(tuple(below(inner, prefix) for inner in branch) for branch in (then, otherwise)))


def stripped(wire: Raw, raw: Raw, length: int) -> Raw:
    """Return the answer to a packed operation without the first ``length`` bytes of its keys; linear in its number of records."""
    tag = wire[0]
    if raw[0] != OK:
        return _stripped_refusal(*raw, length=length)
    if tag in (PUT, PUT_WITH, GET):
        return (*raw[:-1], _strip(raw[-1], length))
    if tag == DELETE:
        return (*raw[:3], tuple(_strip(record, length) for record in raw[3]))
    if tag == SCAN:
        return (*raw[:2], tuple(_strip(record, length) for record in raw[2]), *raw[3:])
    if tag == EXPECT:
        return stripped(wire[3], raw, length)
    if tag == TXN:
        branch = wire[2] if raw[2] else wire[3]
        return (*raw[:3], tuple(stripped(inner, answer, length) for inner, answer in zip(branch, raw[3], strict=True)))
    return raw


def _stripped_refusal(status: int, facts: Raw, *details: Any, length: int) -> Raw:
    if status not in ABOUT_A_KEY:
        return (status, facts, *details)
    key, *others = facts
    return (status, (key[length:], *others), *(_strip(detail, length) for detail in details))


def _strip(record: Raw | None, length: int) -> Raw | None:
    return None if record is None else (record[0][length:], *record[1:])


# -- answers -----------------------------------------------------------------------------------------------------------------------

OK = 0


def refused(error: errors.Rejected) -> Raw:
    """Return the machine's answer that becomes an equal error at the caller."""
    return error.refusal


def unless_refused(raw: Raw) -> Raw:
    """Return an answer, or raise the error it stands for."""
    if raw[0] == OK:
        return raw
    raise error_of(*raw)
