"""Operations as they stand in the log: packed tuples, what they may hold, and what an answer to them means.

``ops.py`` builds them from what a caller says; the machine executes them.  What came from another member is checked here as strictly as
``ops.py`` checks a caller's arguments: whatever gets into the log is applied by everybody.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator
from itertools import accumulate, pairwise
from operator import itemgetter
from typing import Any, NoReturn, TypeAlias

from replkv import codec, errors
from replkv.characters import is_printable
from replkv.refusals import ABOUT_A_KEY, error_of
from replkv.values import INT64, MAX_TTL, Span

Raw: TypeAlias = tuple[Any, ...]
"""A packed operation, or an answer of the machine: status and details.  All of it packable."""

# These numbers are in the log: never reuse one.
PUT, DELETE, ADD, TXN, GET, SCAN = 1, 2, 3, 4, 5, 6
PUT_WITH, EXPECT, COMPACT = 7, 8, 9
GRANT, RENEW, KEEP_ALIVE, REVOKE = 10, 11, 12, 13
GUARD = 14
MEMBERS = 15
LEVEL = 16
AS, AUTH = 17, 18

CONDITIONAL = (EXPECT, GUARD, AS)
"""Operations that carry out another one, their last part, if a key is as they say, or if a user may."""

VERSION, CREATE, MOD, VALUE, LEASE, FENCE = 1, 2, 3, 4, 5, 6
"""What a compare looks at; FENCE is CREATE of a key that is in no namespace."""
EQUAL, NOT_EQUAL, GREATER, LESS = 1, 2, 3, 4
SORT_KEY, SORT_VERSION, SORT_CREATE, SORT_MOD, SORT_VALUE = 0, 1, 2, 3, 4

READ, WRITE, READWRITE = 1, 2, 3
"""What a permission allows."""
ENABLE, DISABLE, ADD_USER, DELETE_USER, CHANGE_PASSWORD, GRANT_ROLE, REVOKE_ROLE = 1, 2, 3, 4, 5, 6, 7
ADD_ROLE, DELETE_ROLE, GRANT_PERMISSION, REVOKE_PERMISSION, ADD_TOKEN = 8, 9, 10, 11, 12
"""What an AUTH changes."""

NAME_MAX = 128
"""Characters of a user's or a role's name."""
HASH_MAX = 256
"""Bytes of a password's hash."""
BOUND_MAX = 4096
"""Bytes of a key in a permission."""
DIGEST = 32
"""Bytes of a token's hash."""

TXN_DEPTH = 16
"""How deep transactions may be nested, the outermost included."""

MEMBERS_MAX = 64
"""Members of a cluster: the configuration has to fit into the head of a frame."""

MAX_TTL_MICROS = round(MAX_TTL * 1e6)


# -- counting ----------------------------------------------------------------------------------------------------------------------


def count_operations(wire: Raw) -> int:
    """Return the length of the longest list of a packed transaction; a nested one adds its own to the list it stands in."""
    if wire[0] == AS:
        return count_operations(wire[3])
    if wire[0] != TXN:
        return 0
    _, compares, then, otherwise = wire
    return max(len(compares), len(then) + sum(map(count_operations, then)), len(otherwise) + sum(map(count_operations, otherwise)))


def kinds(wire: object) -> Iterator[int]:
    """Yield the number of a packed operation, and those of all that it carries out; it need not have been checked."""
    waiting = [wire]
    while waiting:
        packed = waiting.pop()
        if type(packed) is tuple and packed and type(packed[0]) is int:
            yield packed[0]
            if packed[0] in CONDITIONAL:
                waiting += packed[3:4]
            elif packed[0] == TXN:
                waiting += (inner for branch in packed[2:4] if type(branch) is tuple for inner in branch)


def request_size(wire: Raw) -> int:
    """Return how many bytes of keys, values and bounds a packed operation holds; linear in its number of parts."""
    size = 0
    for part in wire:
        kind = type(part)
        if kind is bytes:
            size += len(part)
        elif kind is tuple:
            size += request_size(part)
    return size


def shortest_ttl(wire: Raw) -> int:
    """Return the shortest time to live that a packed operation asks for, in microseconds; 0 if it asks for none."""
    tag = wire[0]
    if tag in (GRANT, PUT_WITH):
        return wire[2 if tag == GRANT else 5]  # type: ignore[no-any-return]  # a packed operation is a tuple of anything
    inner = wire[3:4] if tag in CONDITIONAL else (*wire[2], *wire[3]) if tag == TXN else ()
    return min(filter(None, map(shortest_ttl, inner)), default=0)


# -- no key twice ------------------------------------------------------------------------------------------------------------------


def check_distinct(wire: Raw) -> None:
    """Check that no path through a packed transaction writes a key twice, by put, add or a delete that covers it.

    Takes n log² n, however deep transactions are nested.

    Raises:
        DuplicateKey: one does.
    """
    if wire[0] == AS:
        check_distinct(wire[3])
    elif wire[0] == TXN:
        _written(wire)


_Writes: TypeAlias = tuple[list[bytes], list[tuple[bytes, bytes | None]]]
"""What a part of a transaction may write, whichever branches it takes: keys it puts, and spans it deletes; in any order."""


def _written(wire: Raw) -> _Writes:
    _, _, then, otherwise = wire
    keys, spans = _branch_written(then) if then else ([], [])
    if not otherwise:
        return keys, spans
    other_keys, other_spans = _branch_written(otherwise)
    return keys + other_keys, spans + other_spans


def _branch_written(branch: tuple[Raw, ...]) -> _Writes:
    keys: list[bytes] = []
    spans: list[tuple[bytes, bytes | None]] = []
    parts = [(keys, spans)]
    for wire in branch:
        while (tag := wire[0]) in CONDITIONAL:
            wire = wire[3]
        if tag in (PUT, PUT_WITH, ADD):
            keys.append(wire[1])
        elif tag == DELETE:
            spans.append(wire[1:3])
        elif tag == TXN and any(written := _written(wire)):  # those that write nothing, thousands perhaps, are not compared
            parts.append(written)
    if len(keys) > 1 and len(set(keys)) < len(keys):
        _refuse_twice(next(key for key, following in pairwise(sorted(keys)) if key == following))
    _check_uncovered(keys, spans)
    while len(parts) > 1:  # in pairs, for then a write is looked at only as often as the part it belongs to doubles
        parts = [_both_written(*parts[at : at + 2]) for at in range(0, len(parts), 2)]
    return parts[0]


def _both_written(one: _Writes, other: _Writes = ([], [])) -> _Writes:
    """Return what two parts write of which both are carried out."""
    keys, spans = one
    other_keys, other_spans = other
    if keys and other_keys and not set(keys).isdisjoint(other_keys):
        _refuse_twice(min(set(keys).intersection(other_keys)))
    _check_uncovered(keys, other_spans)
    _check_uncovered(other_keys, spans)
    return keys + other_keys, spans + other_spans


def _check_uncovered(keys: list[bytes], spans: list[tuple[bytes, bytes | None]]) -> None:
    """Check that no span covers a key; sorts them, which is quick where parts of them are sorted already."""
    if not (keys and spans):
        return
    keys.sort()
    if len(spans) <= len(keys):
        for start, end in spans:
            at = bisect_left(keys, start)
            if at < len(keys) and (end is None or keys[at] < end):
                _refuse_twice(keys[at])
        return
    spans.sort(key=itemgetter(0))
    starts, reach = [start for start, _ in spans], list(accumulate((end for _, end in spans), _further))
    for key in keys:
        covering = bisect_right(starts, key)
        if covering and ((end := reach[covering - 1]) is None or key < end):
            _refuse_twice(key)


def _further(one: bytes | None, other: bytes | None) -> bytes | None:
    return None if one is None or other is None else max(one, other)


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
    known = _is_count(target) and VERSION <= target <= FENCE and _is_count(relation) and EQUAL <= relation <= LESS
    return _is_span(start, end) and known and fits and (target != FENCE or _is_fence(start, end, relation, operand))


def _is_fence(start: bytes, end: bytes | None, relation: int, operand: int) -> bool:
    return end == start + b"\x00" and relation == EQUAL and operand != 0  # 0 would hold while nobody has the lock


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


def _is_guard(key: object, create_revision: object, operation: object) -> bool:
    if not (_is_key(key) and _is_count(create_revision) and create_revision != 0 and type(operation) is tuple and operation):
        return False
    return operation[0] in (PUT, PUT_WITH, DELETE, EXPECT) and _is_plain(operation)  # in this order: it must not nest


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
    for branch in (then, otherwise):
        for operation in branch:
            if not _is_operation(operation, depth + 1):
                return False
    return all(map(_is_compare, compares))


def _is_grant(lease: object, ttl: object, keeper: object) -> bool:
    return _is_count(lease) and type(ttl) is int and 0 < ttl <= MAX_TTL_MICROS and _is_count(keeper)


def _is_of_keeper(lease: object, keeper: object) -> bool:
    return _is_count(lease) and _is_count(keeper)


def _is_name(value: object) -> bool:
    return type(value) is str and codec.MEMBER_NAME.fullmatch(value) is not None


def _is_name_and_address(pair: object) -> bool:
    """Tell whether something is a member's name with its url, or with "" where that is known already."""
    if type(pair) is not tuple or len(pair) != 2 or not _is_name(pair[0]):
        return False
    try:
        codec.url_or_none(pair[1])
    except codec.DecodeError:
        return False
    return True


def _is_members(add: object, remove: object, learners: object, promote: object) -> bool:
    lists = add, remove, learners, promote
    if not all(type(part) is tuple and len(part) <= MEMBERS_MAX for part in lists) or not any(lists):
        return False
    pairs, names = (*add, *learners), (*remove, *promote)  # type: ignore[misc]  # tuples, just checked
    if not (all(map(_is_name_and_address, pairs)) and all(map(_is_name, names))):
        return False
    everybody = [*(name for name, _ in pairs), *names]
    return len(set(everybody)) == len(everybody)


def is_auth_name(value: object) -> bool:
    """Tell whether something may be the name of a user or of a role."""
    return type(value) is str and len(value) <= NAME_MAX and is_printable(value)


def _is_as(user: object, stamp: object, operation: object) -> bool:
    return is_auth_name(user) and _is_count(stamp) and type(operation) is tuple and operation[:1] != (AS,) and _is_operation(operation)


def _is_auth(what: object, arguments: object) -> bool:
    checks = _AUTH.get(what) if type(what) is int else None
    if checks is None or type(arguments) is not tuple or len(arguments) != len(checks):
        return False
    return all(check(argument) for check, argument in zip(checks, arguments, strict=True))


def _is_level(level: object) -> bool:
    return _is_count(level) and level != 0


def _is_secret(value: object) -> bool:
    return type(value) is bytes and len(value) <= HASH_MAX


def _is_mode(value: object) -> bool:
    return type(value) is int and READ <= value <= READWRITE


def _is_bound(value: object) -> bool:
    return type(value) is bytes and 0 < len(value) <= BOUND_MAX


def _is_end(value: object) -> bool:
    return value is None or _is_bound(value)


def _is_digest(value: object) -> bool:
    return type(value) is bytes and len(value) == DIGEST


def _is_lifetime(value: object) -> bool:
    return type(value) is int and 0 < value <= MAX_TTL_MICROS


_AUTH: dict[int, tuple[Callable[[object], bool], ...]] = {
    ENABLE: (),
    DISABLE: (),
    ADD_USER: (is_auth_name, _is_secret),
    DELETE_USER: (is_auth_name,),
    CHANGE_PASSWORD: (is_auth_name, _is_secret),
    GRANT_ROLE: (is_auth_name, is_auth_name),
    REVOKE_ROLE: (is_auth_name, is_auth_name),
    ADD_ROLE: (is_auth_name,),
    DELETE_ROLE: (is_auth_name,),
    GRANT_PERMISSION: (is_auth_name, _is_mode, _is_bound, _is_end),
    REVOKE_PERMISSION: (is_auth_name, _is_bound, _is_end),
    ADD_TOKEN: (_is_digest, is_auth_name, _is_count, _is_lifetime),
}
"""What the changes of users, roles and permissions are told."""

_Check: TypeAlias = tuple[int, Callable[..., bool]]
"""How long a packed operation is, and the check of what follows its tag."""

_PLAIN: dict[int, _Check] = {
    PUT: (4, _is_put),
    PUT_WITH: (6, _is_put_with),
    EXPECT: (4, _is_expect),
    GUARD: (4, _is_guard),
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
    MEMBERS: (5, _is_members),
    LEVEL: (2, _is_level),
    AS: (4, _is_as),
    AUTH: (3, _is_auth),
}
_KNOWN = {TXN, *_PLAIN, *_OUTERMOST}


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
        DecodeError: it is none that this version would have packed; ``TooNew``: a newer one might.
    """
    if not _is_operation(wire):
        if unknown := [kind for kind in kinds(wire) if kind not in _KNOWN]:
            raise codec.TooNew(f"a command of the unknown kind {unknown[0]}")
        raise codec.DecodeError("a command that no member of this version packs")
    try:
        check_distinct(wire)  # type: ignore[arg-type]  # it was just found to be a tuple
    except errors.DuplicateKey as duplicate:
        raise codec.DecodeError(f"a command that no member of this version packs: {duplicate}") from None


def grows(wire: Raw) -> bool:
    """Tell whether an operation may make the store larger; linear in its number of parts."""
    tag = wire[0]
    if tag in CONDITIONAL:
        return grows(wire[3])
    if tag == TXN:
        return any(grows(inner) for branch in wire[2:] for inner in branch)
    return tag in (PUT, PUT_WITH, ADD, GRANT)


# -- namespaces --------------------------------------------------------------------------------------------------------------------


def below(wire: Raw, prefix: bytes) -> Raw:
    """Return a packed operation on the same keys in the namespace of a prefix; linear in its number of parts."""
    tag = wire[0]
    if tag in (DELETE, SCAN):
        return (tag, *Span(*wire[1:3]).below(prefix), *wire[3:])
    if tag == EXPECT:
        return (tag, prefix + wire[1], wire[2], below(wire[3], prefix))
    if tag == GUARD:
        return (*wire[:3], below(wire[3], prefix))
    if tag != TXN:
        return (tag, prefix + wire[1], *wire[2:])
    _, compares, then, otherwise = wire
    conditions = tuple(compare if compare[2] == FENCE else (*Span(*compare[:2]).below(prefix), *compare[2:]) for compare in compares)
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
    if tag in CONDITIONAL:
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
