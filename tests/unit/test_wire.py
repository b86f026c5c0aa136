"""Packed operations: what may stand in the log, what it costs, what it means in a namespace, and how refusals travel."""

from __future__ import annotations

import itertools
import operator
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from attrs import frozen
from hypothesis import given, settings
from hypothesis import strategies as st
from model_kv import KEYS, Dice, carry_out, commands, keys, long_throws, reading_txns, same, simple, spans, txns

from replkv import codec, errors, ops, wire
from replkv.address import parse_address
from replkv.codec import DecodeError
from replkv.kv import Store, run
from replkv.lease import Leases
from replkv.member_ops import ChangeMembers, to_member_name
from replkv.ops import KEEP, Key
from replkv.refusals import STATUS, refuse
from replkv.txn import Writer
from replkv.values import MAX_TTL, KeyValue
from replkv.wire import OK, TXN_DEPTH, Raw


@frozen
class Level:
    """There is no operation for it: members propose it by themselves."""

    level: int

    def to_wire(self) -> Raw:
        if not self.level:
            raise ValueError("no level")
        return (wire.LEVEL, self.level)


@st.composite
def changes(draw: st.DrawFn) -> ChangeMembers:
    add, remove, learners, promote = parts = list[str](), list[str](), list[str](), list[str]()
    for name in draw(st.sets(st.sampled_from(("a", "b", "c-1", "D", "_e")), min_size=1)):
        draw(st.sampled_from(parts)).append(name)
    pairs = [tuple((name, draw(st.sampled_from(("", "tcp://a:1", "inproc://x")))) for name in names) for names in (add, learners)]
    return ChangeMembers(pairs[0], tuple(remove), pairs[1], tuple(promote))


outermost: st.SearchStrategy[Any] = st.one_of(
    st.builds(ops.Compact, st.integers(0, 9)),
    st.builds(ops.Grant, st.integers(0, 3), st.integers(1, 9), st.integers(0, 3)),
    st.builds(ops.Renew, st.integers(1, 3), st.integers(0, 3)),
    st.builds(ops.KeepAlive, st.integers(1, 3)),
    st.builds(ops.Revoke, st.integers(1, 3), st.integers(0, 2)),
    changes(),
    st.builds(Level, st.integers(1, 3)),
)
operations = st.one_of(commands, simple, txns, reading_txns, outermost)


# -- counting -----------------------------------------------------------------------------------------------------------------------------


def test_the_longest_list_of_a_transaction_counts_with_what_is_nested_in_it() -> None:
    inner = ops.Txn(then=[ops.Get("a")] * 3, otherwise=[ops.Get("a")] * 2)
    assert wire.count_operations(ops.Get("a").to_wire()) == 0
    assert wire.count_operations(ops.Txn(compare=[Key("a").exists] * 4, then=[ops.Get("a")]).to_wire()) == 4
    assert wire.count_operations(ops.Txn(then=[ops.Get("a"), inner, inner], otherwise=[inner]).to_wire()) == 9


def test_the_size_of_a_request_is_that_of_its_keys_values_and_bounds() -> None:
    inner = ops.Txn(then=[ops.Delete(start="x", end="yy", guard=ops.Guard("lock", 2))])
    txn = ops.Txn(compare=[Key("abc").value == "de"], then=[ops.Put("k", "12345")], otherwise=[inner])
    assert wire.request_size(txn.to_wire()) == len(b"abcabc\x00de") + len(b"k12345") + len(b"lockxyy")


def test_the_shortest_time_to_live_is_found_wherever_it_stands() -> None:
    inner = ops.Txn(then=[ops.Put("a", "", ttl=7)], otherwise=[ops.Put("a", "", ttl=5, if_mod_revision=1)])
    assert wire.shortest_ttl(ops.Txn(then=[ops.Put("b", "", ttl=6), inner, ops.Put("c", "", lease=1)]).to_wire()) == 5_000_000
    assert wire.shortest_ttl(ops.Grant(0, 9, 0).to_wire()) == 9
    assert wire.shortest_ttl(ops.Put("a", "", ttl=4, if_mod_revision=1, guard=ops.Guard("l", 2)).to_wire()) == 4_000_000
    for without in (ops.Put("a", ""), ops.Txn(then=[ops.Get("a"), ops.Put("b", KEEP)]), ops.Scan(), ops.Revoke(1)):
        assert wire.shortest_ttl(without.to_wire()) == 0


# -- no key twice -------------------------------------------------------------------------------------------------------------------------

PUT_A, PUT_B, DEL_A, DEL_ALL = ops.Put("a", "1"), ops.Put("b", "1"), ops.Delete("a"), ops.Delete(prefix="a")


@pytest.mark.parametrize(
    "then",
    [
        [PUT_A, PUT_A],
        [PUT_A, ops.Add("a")],
        [PUT_A, ops.Put("a", KEEP, ttl=5)],
        [PUT_A, ops.Put("a", "2", if_mod_revision=2)],
        [ops.Delete("a", if_mod_revision=1), PUT_A],
        [PUT_A, ops.Put("a", "2", guard=ops.Guard("l", 2))],
        [PUT_A, ops.Delete(prefix="a", guard=ops.Guard("l", 2))],
        [ops.Put("a", "2", if_mod_revision=2, guard=ops.Guard("l", 2)), PUT_A],
        [PUT_A, DEL_A],
        [DEL_A, PUT_A],
        [DEL_ALL, PUT_A],
        [ops.Delete(start="Z"), PUT_A],
        [PUT_A, ops.Txn(then=[PUT_A])],
        [ops.Txn(otherwise=[DEL_ALL]), PUT_A],
        [ops.Txn(then=[PUT_A]), ops.Txn(otherwise=[DEL_A])],
        [ops.Txn(then=[ops.Txn(then=[PUT_A])]), PUT_B, DEL_A],
        [ops.Txn(then=[PUT_A], otherwise=[ops.Delete(start="A")]), ops.Delete("a", prev_kv=True)],
    ],
)
def test_no_path_may_write_a_key_twice(then: list[ops.Operation]) -> None:
    for branch in ({"then": then}, {"otherwise": then}):
        with pytest.raises(errors.DuplicateKey, match="b'a' is written twice"):
            ops.Txn(**branch)  # type: ignore[arg-type]
        packed = (wire.TXN, (), tuple(operation.to_wire() for operation in then), ())
        with pytest.raises(DecodeError, match="written twice"):
            wire.check_operation(packed)


@pytest.mark.parametrize(
    "then",
    [
        [DEL_A, DEL_ALL, DEL_A],
        [PUT_A, PUT_B, ops.Get("a"), ops.Scan()],
        [ops.Txn(then=[PUT_A], otherwise=[DEL_ALL])],
        [ops.Txn(then=[PUT_A], otherwise=[PUT_A]), ops.Txn(then=[PUT_B], otherwise=[ops.Delete("b")])],
        [PUT_A, ops.Delete(start="b", end="a"), ops.Delete(start="aa"), ops.Delete(start="A", end="a")],
    ],
)
def test_paths_that_write_each_key_once_are_welcome(then: list[ops.Operation]) -> None:
    wire.check_operation(ops.Txn(then=then).to_wire())


def paths(packed: Raw) -> list[list[Raw]]:
    """Return the simple writes on each path through an operation."""
    if packed[0] != wire.TXN:
        return [[packed]]
    return [
        list(itertools.chain.from_iterable(parts))
        for branch in packed[2:]
        for parts in itertools.product(*(paths(step) for step in branch))
    ]


PUTS = (wire.PUT, wire.PUT_WITH, wire.ADD)


def done(operation: Raw) -> Raw:
    """Return an operation without its conditions."""
    return done(operation[3]) if operation[0] in (wire.EXPECT, wire.GUARD) else operation


def collides(one: Raw, other: Raw) -> bool:
    one, other = done(one), done(other)
    if one[0] == wire.DELETE:
        one, other = other, one
    if one[0] not in PUTS:
        return False
    if other[0] == wire.DELETE:
        return bool(other[1] <= one[1] and (other[2] is None or one[1] < other[2]))
    return other[0] in PUTS and bool(one[1] == other[1])


leaves = st.one_of(
    st.builds(ops.Put, keys, st.just("")),
    st.builds(lambda key: ops.Put(key, "", ttl=5, if_mod_revision=1), keys),
    st.builds(lambda key: ops.Put(key, "", if_mod_revision=1, guard=ops.Guard("l", 2)), keys),
    st.builds(ops.Add, keys),
    st.builds(lambda span: ops.Delete(**span), spans),
    st.builds(lambda span: ops.Delete(**span, guard=ops.Guard("l", 2)), spans),
).map(lambda operation: operation.to_wire())
trees = st.recursive(
    leaves, lambda inner: st.tuples(st.just(wire.TXN), st.just(()), *[st.lists(inner, max_size=3).map(tuple)] * 2), max_leaves=7
)


@settings(max_examples=200, deadline=None)
@given(trees)
def test_writes_are_refused_as_duplicate_just_when_two_on_one_path_collide(tree: Raw) -> None:
    # Also where the two stand in different branches of two transactions that can't both be chosen: like etcd, nobody decides that.
    expected = any(collides(*pair) for path in paths(tree) for pair in itertools.combinations(path, 2))
    try:
        wire.check_distinct(tree)
    except errors.DuplicateKey:
        assert expected
    else:
        assert not expected


def test_checking_many_writes_against_many_deletes_takes_no_square() -> None:
    puts = [ops.Put(b"k%05d" % number, "").to_wire() for number in range(20_000)]
    deletes = [ops.Delete(start=b"k%05d!" % number, end=b"k%05d~" % number).to_wire() for number in range(20_000)]
    wire.check_operation((wire.TXN, (), (*puts, *deletes), ()))


# -- what other members may send ----------------------------------------------------------------------------------------------------------


def rebuilt(packed: Any, depth: int = 1) -> Any:
    """Build a packed operation anew with ``ops``, which check their arguments; whatever they don't like is an error of some kind."""
    tag, *fields = packed
    if strict(int, tag) == wire.TXN:
        return rebuilt_txn(depth, *fields)
    return ALONE[tag](*fields) if depth == 1 and tag in ALONE else PLAIN[tag](*fields)


def rebuilt_txn(depth: int, compares: Any, then: Any, otherwise: Any) -> Any:
    if depth > TXN_DEPTH:
        raise ValueError("too deep")
    branches = [[rebuilt(inner, depth + 1) for inner in strict(tuple, branch)] for branch in (then, otherwise)]
    return Transaction([condition(*compare) for compare in strict(tuple, compares)], *branches)


def rebuilt_put(key: Any, value: Any, prev_kv: Any, lease: Any = 0, ttl: Any = 0, expected: Any = None) -> ops.Put:
    kept = KEEP if value is None else strict(bytes, value)
    options = {"ttl": strict(int, ttl) / 1e6} if ttl else {"lease": KEEP if lease is None else lease or None}
    return ops.Put(strict(bytes, key), kept, prev_kv=prev_kv, if_mod_revision=expected, **options)


def rebuilt_delete(start: Any, end: Any, prev_kv: Any) -> ops.Delete:
    return ops.Delete(start=strict(bytes, start), end=end if end is None else strict(bytes, end), prev_kv=prev_kv)


def rebuilt_expect(key: Any, expected: Any, operation: Any) -> Any:
    tag, *fields = strict(tuple, operation)
    strict(int, expected)
    if tag == wire.DELETE:
        return ops.Delete(key, prev_kv=fields[2], if_mod_revision=expected)
    put = {wire.PUT: rebuilt_put, wire.PUT_WITH: rebuilt_put}[tag](*fields)
    return Expecting(rebuilt_put(key, b"", prev_kv=False, expected=expected).if_mod_revision, put)


def rebuilt_guard(key: Any, created: Any, operation: Any) -> Any:
    tag, *fields = strict(tuple, operation)
    guard = ops.Guard(strict(bytes, key), strict(int, created))
    return Guarding(guard, {tag: PLAIN[tag] for tag in (wire.PUT, wire.PUT_WITH, wire.DELETE, wire.EXPECT)}[tag](*fields))


def rebuilt_scan(start: Any, end: Any, limit: Any, revision: Any, *options: Any) -> ops.Scan:
    keys_only, count_only, sort_by, descending, *bounds = options
    kinds: Any = {0: "key", 1: "version", 2: "create", 3: "mod", 4: "value"}
    names = ("min_mod_revision", "max_mod_revision", "min_create_revision", "max_create_revision")
    chosen: Any = {"sort_by": kinds[strict(int, sort_by)], **dict(zip(names, map(asked, bounds), strict=True))}
    flags: Any = {"keys_only": keys_only, "count_only": count_only, "descending": descending}
    span: Any = {"start": strict(bytes, start), "end": end if end is None else strict(bytes, end)}
    return ops.Scan(**span, limit=limit, revision=asked(revision), **flags, **chosen)


def asked(number: Any) -> int | None:
    """What a caller leaves out is 0 when packed."""
    return strict(int, number) or None


class Expecting:
    """A put that expects a revision, of whatever kind."""

    def __init__(self, expected: int | None, put: ops.Put) -> None:
        self.expected, self.put = expected, put

    def to_wire(self) -> Raw:
        return (wire.EXPECT, self.put.key, self.expected, self.put.to_wire())


class Guarding:
    """Something that is done while a lock is held."""

    def __init__(self, guard: ops.Guard, operation: Any) -> None:
        self.guard, self.operation = guard, operation

    def to_wire(self) -> Raw:
        return (wire.GUARD, self.guard.key, self.guard.create_revision, self.operation.to_wire())


class Transaction:
    """A transaction of operations that were rebuilt."""

    def __init__(self, compares: list[ops.Compare], then: list[Any], otherwise: list[Any]) -> None:
        self.compares, self.branches = compares, (then, otherwise)

    def to_wire(self) -> Raw:
        branches = [tuple(inner.to_wire() for inner in branch) for branch in self.branches]
        packed = (wire.TXN, tuple(compare.to_wire() for compare in self.compares), *branches)
        wire.check_distinct(packed)
        return packed


def condition(start: Any, end: Any, target: Any, relation: Any, operand: Any) -> ops.Compare:
    if strict(int, target) == wire.FENCE:
        strict(int, relation)
        return ops.Guard(strict(bytes, start), strict(int, operand))
    key = Key(start=strict(bytes, start), end=end if end is None else strict(bytes, end))
    sides = {1: key.version, 2: key.create_revision, 3: key.mod_revision, 4: key.value, 5: key.lease}
    side: Any = sides[strict(int, target)]
    relations: Any = {1: operator.eq, 2: operator.ne, 3: operator.gt, 4: operator.lt}
    strict(bytes if target == wire.VALUE else int, operand)
    built: ops.Compare = relations[strict(int, relation)](side, operand)
    return built


def numbered(build: Any) -> Any:
    """Return a builder that takes natural numbers below 2**63 only."""

    def built(*numbers: Any) -> Any:
        if any(type(number) is not int or not 0 <= number < 1 << 63 for number in numbers):
            raise ValueError("not numbers")
        return build(*numbers)

    return built


def rebuilt_grant(lease: int, ttl: int, keeper: int) -> ops.Grant:
    if not 0 < ttl <= MAX_TTL * 1e6:
        raise ValueError("not a time to live")
    return ops.Grant(lease, ttl, keeper)


def rebuilt_members(add: Any, remove: Any, learners: Any, promote: Any) -> ChangeMembers:
    pairs = [(strict(str, name), address) for name, address in (*strict(tuple, add), *strict(tuple, learners))]
    for _, address in pairs:
        if address and parse_address(strict(str, address)) != address:
            raise ValueError("not a url")
    names = [*(name for name, _ in pairs), *(strict(str, name) for name in (*strict(tuple, remove), *strict(tuple, promote)))]
    if len({to_member_name(name) for name in names}) != len(names) or not names or max(map(len, (add, remove, learners, promote))) > 64:
        raise ValueError("a name twice, or none, or too many")
    return ChangeMembers(tuple((name, strict(str, address)) for name, address in add), remove, learners, promote)


PLAIN: dict[int, Any] = {
    wire.PUT: rebuilt_put,
    wire.PUT_WITH: rebuilt_put,
    wire.DELETE: rebuilt_delete,
    wire.EXPECT: rebuilt_expect,
    wire.GUARD: rebuilt_guard,
    wire.ADD: lambda key, delta: ops.Add(strict(bytes, key), delta),
    wire.GET: lambda key, revision: ops.Get(strict(bytes, key), revision=asked(revision)),
    wire.SCAN: rebuilt_scan,
}
ALONE: dict[int, Any] = {
    wire.COMPACT: numbered(ops.Compact),
    wire.GRANT: numbered(rebuilt_grant),
    wire.RENEW: numbered(ops.Renew),
    wire.KEEP_ALIVE: numbered(ops.KeepAlive),
    wire.REVOKE: numbered(ops.Revoke),
    wire.MEMBERS: rebuilt_members,
    wire.LEVEL: numbered(Level),
}


def strict(kind: type, value: Any) -> Any:
    if type(value) is not kind:
        raise TypeError(f"not a {kind}: {value!r}")
    return value


def alike(one: Any, other: Any) -> bool:
    """Tell whether two packed things are equal in their types, too."""
    if type(one) is not type(other):
        return False
    if type(one) is tuple:
        return len(one) == len(other) and all(map(alike, one, other))
    return bool(one == other)


def would_be_packed(packed: Any) -> bool:
    try:
        return alike(rebuilt(packed).to_wire(), packed)
    except (TypeError, ValueError, LookupError, errors.DuplicateKey):
        return False


def is_accepted(packed: Any) -> bool:
    try:
        wire.check_operation(packed)
    except DecodeError:
        return False
    return True


@settings(max_examples=400, deadline=None)
@given(operations)
def test_an_operation_survives_the_wire_and_its_check(operation: ops.Packable[object]) -> None:
    packed = operation.to_wire()
    assert alike(codec.unpack(codec.pack(packed)), packed)
    assert is_accepted(packed)
    assert would_be_packed(packed)


TOO_LONG = wire.MAX_TTL_MICROS + 1
atoms = st.sampled_from([None, True, False, -1, 0, 1, 2, 5, 1 << 63, (1 << 63) - 1, 1.0, b"", b"a", b"a\x00", "a", (), TOO_LONG])


def mutated(packed: Any, choices: Iterator[int], atom: Any, donor: Any) -> Any:
    """Change one place somewhere in a packed operation."""
    at = next(choices, 0) % (len(packed) + 1)
    if at == len(packed):
        return [(*packed, atom), packed[:-1], donor][next(choices, 0) % 3]
    part = packed[at]
    if type(part) is tuple and part and next(choices, 0) % 4:
        changed = mutated(part, choices, atom, donor)
    else:
        changed = (atom, donor, donor[next(choices, 0) % len(donor)])[next(choices, 0) % 3]
    return (*packed[:at], changed, *packed[at + 1 :])


@settings(max_examples=1000, deadline=None)
@given(long_throws, long_throws, atoms)
def test_a_changed_command_is_accepted_just_when_an_operation_would_be_packed_so(thrown: bytes, other: bytes, atom: Any) -> None:
    dice, donor = Dice(thrown), Dice(other).command().to_wire()
    kinds: list[Callable[[], ops.Operation]] = [dice.command, dice.simple, lambda: dice.txn(dice.simple)]
    packed = dice.of(kinds)().to_wire()
    changed = mutated(packed, iter(other), atom, donor)
    assert is_accepted(changed) == would_be_packed(changed), changed


@settings(max_examples=300, deadline=None)
@given(outermost, st.lists(st.integers(0, 255), max_size=4), atoms)
def test_a_changed_command_of_leases_is_accepted_just_when_it_makes_sense(operation: Any, choices: list[int], atom: Any) -> None:
    changed = mutated(operation.to_wire(), iter(choices), atom, operation.to_wire())
    assert is_accepted(changed) == would_be_packed(changed), changed
    assert not is_accepted((wire.TXN, (), (operation.to_wire(),), ()))


def test_expectations_in_expectations_are_refused_however_deep_they_go() -> None:
    nested: Raw = (wire.PUT, b"k", b"", False)
    for depth in range(1, 5000):
        nested = (wire.EXPECT, b"k", 0, nested)
        assert depth > 20 or is_accepted(nested) == (depth == 1)
    assert not is_accepted(nested)


def test_guards_in_guards_and_in_expectations_are_refused_however_deep_they_go() -> None:
    nested: Raw = (wire.EXPECT, b"k", 0, (wire.PUT, b"k", b"", False))
    for depth in range(1, 5000):
        nested = (wire.GUARD, b"l", 2, nested)
        assert depth > 20 or is_accepted(nested) == (depth == 1)
    assert not is_accepted(nested)
    assert not is_accepted((wire.EXPECT, b"k", 0, (wire.GUARD, b"l", 2, (wire.PUT, b"k", b"", False))))


def test_transactions_may_be_nested_16_deep_and_no_deeper() -> None:
    nested: Raw = (wire.PUT, b"k", b"", False)
    for depth in range(1, 5000):
        nested = (wire.TXN, (), (nested,), ())
        assert depth > 20 or is_accepted(nested) == (depth <= TXN_DEPTH == 16)
    assert not is_accepted(nested)


@pytest.mark.parametrize(
    "packed",
    [
        None,
        (),
        (0, b"k"),
        (99, b"k"),
        (True, b"k", b"v", False),
        (b"k",),
        ((1,), b"k"),
        (1.0, b"k", b"v", False),
        (wire.PUT, b"k", b"v"),
        (wire.PUT, b"", b"v", False),
        (wire.PUT, "k", b"v", False),
        (wire.PUT, b"k", None, False),
        (wire.PUT, b"k", b"v", 0),
        (wire.DELETE, b"", None, False),
        (wire.DELETE, b"a", "b", False),
        (wire.ADD, b"k", 1 << 63),
        (wire.ADD, b"k", True),
        (wire.GET, b"k", -1),
        (wire.GET, b"k", 1 << 63),
        (wire.SCAN, b"a", None, 0, 0, False, False),
        (wire.SCAN, b"a", None, 0, 0, False, 1, 0, False, 0, 0, 0, 0),
        (wire.SCAN, b"a", None, -1, 0, False, False, 0, False, 0, 0, 0, 0),
        (wire.SCAN, b"a", None, 0, 0, False, False, 5, False, 0, 0, 0, 0),
        (wire.SCAN, b"a", None, 0, 0, False, False, 0, False, 0, 0, 0, None),
        (wire.PUT_WITH, b"k", b"v", False, 0, 0),  # that is a PUT
        (wire.PUT_WITH, b"k", b"v", False, 1, 5),
        (wire.PUT_WITH, b"k", None, False, None, 5),
        (wire.PUT_WITH, b"k", b"v", False, 0, wire.MAX_TTL_MICROS + 1),
        (wire.EXPECT, b"k", 1, (wire.PUT, b"other", b"v", False)),
        (wire.EXPECT, b"k", 1, (wire.DELETE, b"k", None, False)),
        (wire.EXPECT, b"k", 1, (wire.ADD, b"k", 1)),
        (wire.EXPECT, b"k", -1, (wire.PUT, b"k", b"v", False)),
        (wire.EXPECT, b"k", 1, ()),
        (wire.GUARD, b"", 1, (wire.PUT, b"k", b"v", False)),
        (wire.GUARD, "l", 1, (wire.PUT, b"k", b"v", False)),
        (wire.GUARD, b"l", 0, (wire.PUT, b"k", b"v", False)),
        (wire.GUARD, b"l", True, (wire.PUT, b"k", b"v", False)),
        (wire.GUARD, b"l", 1 << 63, (wire.PUT, b"k", b"v", False)),
        (wire.GUARD, b"l", 1, (wire.ADD, b"k", 1)),
        (wire.GUARD, b"l", 1, (wire.GET, b"k", 0)),
        (wire.GUARD, b"l", 1, (wire.TXN, (), (), ())),
        (wire.GUARD, b"l", 1, (wire.GRANT, 1, 1, 1)),
        (wire.GUARD, b"l", 1, ()),
        (wire.GUARD, b"l", 1, None),
        (wire.TXN, ((b"l", b"l\x00", wire.FENCE, 1, 0),), (), ()),
        (wire.TXN, ((b"l", b"l\x00", wire.FENCE, 2, 1),), (), ()),
        (wire.TXN, ((b"l", b"m", wire.FENCE, 1, 1),), (), ()),
        (wire.TXN, ((b"l", None, wire.FENCE, 1, 1),), (), ()),
        (wire.TXN, ((None, b"\x00", wire.FENCE, 1, 1),), (), ()),
        (wire.TXN, ((b"l", b"l\x00", wire.FENCE, 1, b"1"),), (), ()),
        (wire.TXN, ((b"l", b"l\x00", float(wire.FENCE), 1, 1),), (), ()),
        (wire.COMPACT, None),
        (wire.MEMBERS, (), (), (), ()),
        (wire.MEMBERS, (), ("a",), ()),
        (wire.MEMBERS, None, ("a",), (), ()),
        (wire.MEMBERS, (), "a", (), ()),
        (wire.MEMBERS, (), (b"a",), (), ()),
        (wire.MEMBERS, (), ("",), (), ()),
        (wire.MEMBERS, (), (".a",), (), ()),
        (wire.MEMBERS, (), ("ä",), (), ()),
        (wire.MEMBERS, (), ("a\n",), (), ()),
        (wire.MEMBERS, (), ("x" * 65,), (), ()),
        (wire.MEMBERS, (), ("a", "a"), (), ()),
        (wire.MEMBERS, (("a", ""),), ("a",), (), ()),
        (wire.MEMBERS, (("a", ""),), (), (("a", ""),), ()),
        (wire.MEMBERS, (), ("a",), (), ("a",)),
        (wire.MEMBERS, (("a", ""), ("a", "tcp://a:1")), (), (), ()),
        (wire.MEMBERS, (("a",),), (), (), ()),
        (wire.MEMBERS, (("a", "", ""),), (), (), ()),
        (wire.MEMBERS, ("a",), (), (), ()),
        (wire.MEMBERS, (("a", None),), (), (), ()),
        (wire.MEMBERS, (("a", b""),), (), (), ()),
        (wire.MEMBERS, (("a", "a:1"),), (), (), ()),
        (wire.MEMBERS, (("a", "tcp://a"),), (), (), ()),
        (wire.MEMBERS, (("a", f"inproc://{'x' * 255}"),), (), (), ()),
        (wire.MEMBERS, (), tuple(f"m{number}" for number in range(65)), (), ()),
        (wire.LEVEL, 0),
        (wire.LEVEL, True),
        (wire.LEVEL, 1 << 63),
        (wire.GRANT, 0, 0, 0),
        (wire.KEEP_ALIVE,),
        (wire.TXN, (), ()),
        (wire.TXN, (), (), None),
        (wire.TXN, ((b"a", None, 9, 1, 0),), (), ()),
        (wire.TXN, ((b"a", None, 1, 9, 0),), (), ()),
        (wire.TXN, ((b"a", None, 1, 1, b"0"),), (), ()),
        (wire.TXN, ((b"a", None, wire.VALUE, 1, 0),), (), ()),
        (wire.TXN, ((b"a", None, True, 1, 0),), (), ()),
        (wire.TXN, ((b"a", 1, 1, 0),), (), ()),
        (wire.TXN, (), ((99,),), ()),
    ],
)
def test_a_command_nobody_would_have_packed_is_refused(packed: object) -> None:
    with pytest.raises(DecodeError):
        wire.check_operation(packed)


plain: st.SearchStrategy[Any] = st.recursive(
    st.sampled_from([None, True, False, -1, 0, 1, 2, 3, 4, 5, 6, 7, 1 << 63, 1.5, b"", b"a", b"ab", "a", ()]),
    lambda inner: st.lists(inner, max_size=7).map(tuple),
    max_leaves=12,
)


@settings(max_examples=200, deadline=None)
@given(plain)
def test_checking_anything_at_all_raises_nothing_but_decode_error(packed: object) -> None:
    try:
        wire.check_operation(packed)
    except DecodeError:
        return


def test_the_numbers_in_the_log_never_change() -> None:
    listed: list[ops.Packable[object]] = [
        ops.Put("k", "v"),
        ops.Delete("k"),
        ops.Add("k"),
        ops.Txn(),
        ops.Get("k"),
        ops.Scan("k", limit=1, revision=2, sort_by="value", descending=True, min_mod_revision=3, max_mod_revision=4),
        ops.Scan("k", keys_only=True, count_only=True, min_create_revision=5, max_create_revision=6),
        ops.Put("k", "v", lease=7),
        ops.Put("k", KEEP, ttl=1, if_mod_revision=9),
        ops.Compact(8),
        ops.Grant(7, 8, 9),
        ops.Renew(7, 9),
        ops.KeepAlive(9),
        ops.Revoke(7, 9),
        ops.Put("k", "v", guard=ops.Guard("l", 5)),
        ops.Delete("k", if_mod_revision=9, guard=ops.Guard("l", 5)),
        ChangeMembers((("d", "tcp://d:1"),), ("c",), (("e", ""),), ("b",)),
    ]
    assert [operation.to_wire() for operation in listed] == [
        (1, b"k", b"v", False),
        (2, b"k", b"k\x00", False),
        (3, b"k", 1),
        (4, (), (), ()),
        (5, b"k", 0),
        (6, b"k", b"k\x00", 1, 2, False, False, 4, True, 3, 4, 0, 0),
        (6, b"k", b"k\x00", 0, 0, True, True, 0, False, 0, 0, 5, 6),
        (7, b"k", b"v", False, 7, 0),
        (8, b"k", 9, (7, b"k", None, False, 0, 1_000_000)),
        (9, 8),
        (10, 7, 8, 9),
        (11, 7, 9),
        (12, 9),
        (13, 7, 9),
        (14, b"l", 5, (1, b"k", b"v", False)),
        (14, b"l", 5, (8, b"k", 9, (2, b"k", b"k\x00", False))),
        (15, (("d", "tcp://d:1"),), ("c",), (("e", ""),), ("b",)),
    ]
    assert (wire.MEMBERS, wire.LEVEL) == (15, 16)
    key = Key("k")
    conditions = (key.version == 1, key.create_revision != 1, key.mod_revision > 1, key.value < "1", key.lease == 1)
    assert [condition.to_wire()[2:] for condition in conditions] == [(1, 1, 1), (2, 2, 1), (3, 3, 1), (4, 4, b"1"), (5, 1, 1)]
    assert ops.Guard("l", 5).to_wire() == (b"l", b"l\x00", 6, 1, 5)
    assert [STATUS[kind] for kind in REFUSED] == list(range(1, 23))


# -- namespaces ---------------------------------------------------------------------------------------------------------------------------

OUTSIDE = [b"", b"n", b"m\xff", b"o", b"\xff"]
"""What keys begin with that lie around the namespaces that are tried."""


def begun() -> Writer:
    """Return a writer on a store that begins at revision 2, with a lease."""
    writer = Writer(Store(revision=2), Leases())
    writer.max_bytes = 1 << 60
    run(writer.execute(ops.Grant(1, 9, 0).to_wire()))
    return writer


def with_guards_in(packed: Any, prefix: bytes) -> Any:
    """Let what guards an operation be in a namespace: callers name its whole key."""
    if type(packed) is not tuple or not packed:
        return packed
    if packed[0] == wire.GUARD:
        return (wire.GUARD, prefix + packed[1], packed[2], packed[3])
    if len(packed) == 5 and packed[2:4] == (wire.FENCE, wire.EQUAL):
        return (prefix + packed[0], prefix + packed[1], *packed[2:])
    return tuple(with_guards_in(part, prefix) for part in packed)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.one_of(simple, txns), min_size=1, max_size=6), st.sampled_from([b"n/", b"n", b"\x00", b"\xff", b"n\xff"]))
def test_a_namespace_answers_like_a_store_of_its_own(operations: list[ops.Operation], prefix: bytes) -> None:
    alone, shared = begun(), begun()
    for place, other in enumerate(OUTSIDE):
        for key in KEYS:
            if not (other + key).startswith(prefix):
                record = (other + key, b"%d" % place, 2, 2, 1, 0)
                shared._store.newest[other + key] = record
                shared._store.keys.add(other + key)
    for operation in operations:
        packed = operation.to_wire()
        placed = wire.below(with_guards_in(packed, prefix), prefix)
        wire.check_operation(placed)
        expected, got = carry_out(alone, packed), wire.stripped(packed, carry_out(shared, placed), len(prefix))
        assert same(got, (expected[0], *expected[2:]) if expected[0] != OK else expected), (packed, placed)
    assert [record[0] for record in shared._store.events] == [prefix + record[0] for record in alone._store.events]


def test_a_namespace_reaches_to_its_end_and_not_beyond() -> None:
    assert wire.below(ops.Scan().to_wire(), b"n/")[1:3] == (b"n/\x01", b"n0")
    assert wire.below(ops.Delete(start="a").to_wire(), b"n/")[1:3] == (b"n/a", b"n0")
    assert wire.below(ops.Delete(start="b", end="").to_wire(), b"n/")[1:3] == (b"n/b", b"n/")
    assert wire.below(ops.Scan(prefix=b"\xff").to_wire(), b"\xff")[1:3] == (b"\xff\xff", None)


def test_a_guard_is_in_no_namespace() -> None:
    guard = ops.Guard("l", 5)
    put = ops.Put("k", "", if_mod_revision=2, guard=guard)
    for operation in (ops.Put("k", "v", guard=guard), ops.Delete(prefix="k", guard=guard), put):
        tag, *lock, inner = operation.to_wire()
        assert wire.below((tag, *lock, inner), b"n/") == (tag, *lock, wire.below(inner, b"n/"))
    _, (fence, other), (then,), _ = wire.below(ops.Txn(compare=[guard, Key("k").exists], then=[put]).to_wire(), b"n/")
    assert fence == guard.to_wire()
    assert other[0] == b"n/k"
    assert then[1:3] == (b"l", 5)
    lost = wire.refused(refuse(errors.LockLost, (b"lock/of", 5)))
    assert wire.stripped(put.to_wire(), lost, 2) == lost


def test_what_is_guarded_may_grow_just_as_without_its_guard() -> None:
    guard = ops.Guard("l", 5)
    assert wire.grows(ops.Put("k", "v", if_mod_revision=2, guard=guard).to_wire())
    assert not wire.grows(ops.Delete("k", if_mod_revision=2, guard=guard).to_wire())
    assert wire.grows(ops.Txn(otherwise=[ops.Put("k", "v", guard=guard)]).to_wire())


# -- refusals -----------------------------------------------------------------------------------------------------------------------------

REFUSED: list[type[errors.ReplkvError]] = [
    errors.Compacted,
    errors.FutureRevision,
    errors.NotACounter,
    errors.TooManyOps,
    errors.TooLarge,
    errors.OutcomeUnknown,
    errors.Conflict,
    errors.KeyNotFound,
    errors.LeaseNotFound,
    errors.LeaseExists,
    errors.QuotaExceeded,
    errors.LockLost,
    errors.MemberNotFound,
    errors.MemberExists,
    errors.MembershipRefused,
    errors.PermissionDenied,
    errors.AuthenticationFailed,
    errors.AuthRefused,
    errors.UserNotFound,
    errors.UserExists,
    errors.RoleNotFound,
    errors.RoleExists,
]
RECORD = KeyValue(b"n/k", b"v", 2, 3, 2, 7)
DETAILS: dict[Any, tuple[Any, ...]] = {
    errors.Compacted: ((3,), 5),
    errors.FutureRevision: ((9, 5),),
    errors.NotACounter: ((b"n/k", True),),
    errors.TooManyOps: ((129, 128),),
    errors.TooLarge: ((10, 9),),
    errors.Conflict: ((b"n/k", 2), RECORD),
    errors.KeyNotFound: ((b"n/k", "value"),),
    errors.LeaseNotFound: ((7,),),
    errors.LeaseExists: ((7,),),
    errors.QuotaExceeded: ((10, 9),),
    errors.LockLost: ((b"n/k", 2),),
    errors.MemberNotFound: (("d",),),
    errors.MemberExists: (("d", "tcp://d:1"),),
    errors.MembershipRefused: ((65, 64),),
    errors.PermissionDenied: (("ann", 2, b"n/k", None),),
    errors.AuthenticationFailed: (("ann",),),
    errors.AuthRefused: ((5, "dev"),),
    errors.UserNotFound: (("ann",),),
    errors.UserExists: (("ann",),),
    errors.RoleNotFound: (("dev",),),
    errors.RoleExists: (("dev",),),
}


def travelled(raw: Raw) -> Raw:
    return codec.unpack(codec.pack(raw))  # type: ignore[no-any-return]  # a tuple, as it was packed


@pytest.mark.parametrize("kind", [kind for kind in REFUSED if issubclass(kind, errors.Rejected)])
def test_an_error_survives_the_log_with_all_it_says(kind: Any) -> None:
    error = refuse(kind, *DETAILS[kind])
    with pytest.raises(kind) as raised:
        wire.unless_refused(travelled(wire.refused(error)))
    assert (str(raised.value), vars(raised.value)) == (str(error), vars(error))


def test_the_documentation_names_every_refusal() -> None:
    text = (Path(wire.__file__).parent.parent / "docs" / "FORMATS.md").read_text(encoding="utf-8")
    table = text.partition("| status | | facts | details |")[2].partition("\n\n")[0]
    rows = re.findall(r"^\| (\d+) \| (\w+)", table, re.MULTILINE)
    assert [(int(status), kind) for status, kind in rows] == [(STATUS[kind], kind.__name__) for kind in REFUSED]


def test_an_outcome_that_is_unknown_can_be_answered_too() -> None:
    with pytest.raises(errors.OutcomeUnknown, match="executed once"):
        wire.unless_refused(travelled(refuse(errors.OutcomeUnknown, ()).refusal))
    assert wire.unless_refused((OK, 1)) == (OK, 1)


def test_no_text_of_ours_is_in_the_outcome_of_the_log() -> None:
    known = {
        b"n/k",
        "value",
        "d",
        "tcp://d:1",
        "ann",
        "dev",
        None,
        64,
        65,
        RECORD,
        True,
        2,
        3,
        5,
        7,
        9,
        10,
        128,
        129,
    }  # facts: later versions may say them in other words
    for kind, (facts, *details) in DETAILS.items():
        status, *rest = refuse(kind, facts, *details).refusal
        assert status == STATUS[kind]
        assert {*rest[0], *rest[1:]} <= known


def test_of_a_long_key_a_part_is_enough_for_a_refusal() -> None:
    for error in (refuse(errors.KeyNotFound, (b"k" * 1_000_000, "lease")), refuse(errors.LockLost, (b"k" * 1_000_000, 5))):
        assert len(codec.pack(error.refusal)) < 300


def test_a_conflict_carries_the_pair_or_nothing_and_no_prefix() -> None:
    put = ops.Put("k", "", if_mod_revision=1)
    for operation in (put, ops.Txn(then=[ops.Txn(then=[put])]), ops.Delete("k", if_mod_revision=1)):
        for record, current in ((RECORD, KeyValue(b"k", *RECORD[1:])), (None, None)):
            raw = wire.stripped(operation.to_wire(), travelled(wire.refused(refuse(errors.Conflict, (b"n/k", 1), record))), 2)
            with pytest.raises(errors.Conflict, match="^b'k' is ") as conflict:
                wire.unless_refused(raw)
            assert conflict.value.current == current
            assert type(conflict.value.current) is type(current)
