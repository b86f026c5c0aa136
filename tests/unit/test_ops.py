"""Operations: arguments are checked when they are built, and once more when they come from another member."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from model_kv import commands, keys, reads, simple, spans, txns

from replkv import codec, errors, ops
from replkv.codec import DecodeError
from replkv.ops import OK, TXN_DEPTH, Key, Raw, Span

ANY: Any = ops
"""The operations without their types, for arguments that are wrong on purpose."""

operations = st.one_of(commands, reads, txns(simple))


def nested(depth: int, innermost: ops.Operation | None = None) -> ops.Txn:
    txn = ops.Txn(then=[] if innermost is None else [innermost])
    for _ in range(depth - 1):
        txn = ops.Txn(then=[txn])
    return txn


# -- arguments ----------------------------------------------------------------------------------------------------------------------------


def test_text_is_encoded_as_utf_8() -> None:
    assert ops.Put("ключ", "значение").to_wire() == (ops.PUT, "ключ".encode(), "значение".encode(), False)


@pytest.mark.parametrize(
    ("build", "error"),
    [
        (lambda: ops.Put("", "v"), ValueError),
        (lambda: ANY.Put(5, "v"), TypeError),
        (lambda: ANY.Put("k", None), TypeError),
        (lambda: ANY.Put("k", bytearray(b"v")), TypeError),
        (lambda: ops.Get("k", revision=-1), ValueError),
        (lambda: ops.Get("k", revision=1 << 63), ValueError),
        (lambda: ops.Get("k", revision=True), TypeError),
        (lambda: ANY.Get("k", revision=1.0), TypeError),
        (lambda: ops.Scan("a", prefix="b"), ValueError),
        (lambda: ops.Scan(end="b"), ValueError),
        (lambda: ops.Scan("a", end="b"), ValueError),
        (lambda: ops.Scan(limit=-1), ValueError),
        (ops.Delete, ValueError),
        (lambda: ops.Delete(prefix=""), ValueError),
        (lambda: ops.Delete(end="z"), ValueError),
        (lambda: ops.Add("k", 1 << 63), ValueError),
        (lambda: ops.Add("k", True), TypeError),
        (lambda: ANY.Add("k", 1.5), TypeError),
        (Key, ValueError),
        (lambda: Key("k").version == -1, ValueError),
        (lambda: Key("k").version == "1", TypeError),
        (lambda: Key("k").value == 1, TypeError),
        (lambda: bool(Key("k").version == 1), TypeError),
        (lambda: 1 < Key("k").version < 3, TypeError),
        (lambda: ANY.Txn(compare=[True]), TypeError),
        (lambda: ANY.Txn(then=[("put", "k", "v")]), TypeError),
    ],
)
def test_bad_arguments_are_refused_at_once(build: Callable[[], Any], error: type[Exception]) -> None:
    with pytest.raises(error):
        build()


def test_spans_follow_etcds_rules() -> None:
    assert Span.of("a") == (b"a", b"a\x00")
    assert Span.of(prefix="ab") == (b"ab", b"ac")
    assert Span.of(prefix=b"a\xff\xff") == (b"a\xff\xff", b"b")
    assert Span.of(prefix=b"\xff\xff") == (b"\xff\xff", None)
    assert Span.of(start="a") == (b"a", None)
    assert Span.of(start="b", end="a") == (b"b", b"a")


def test_spans_reach_replkvs_own_keys_only_if_they_begin_there() -> None:
    assert Span.of() == Span.of(prefix="") == Span.of(start="") == (b"\x01", None)
    assert Span.of(prefix=b"\x00lock/").start.startswith(ops.RESERVED)


@given(st.binary(min_size=1, max_size=4), st.binary(max_size=6))
def test_a_prefix_spans_exactly_the_keys_that_begin_with_it(prefix: bytes, key: bytes) -> None:
    start, end = Span.of(prefix=prefix)
    assert (start <= key and (end is None or key < end)) == key.startswith(prefix)


# -- transactions -------------------------------------------------------------------------------------------------------------------------


def test_transactions_may_be_nested_16_deep_and_no_deeper() -> None:
    deepest = nested(TXN_DEPTH, ops.Put("k", "v"))
    assert deepest.depth == TXN_DEPTH == 16
    ops.check_operation(deepest.to_wire())
    with pytest.raises(ValueError, match="16 deep"):
        ops.Txn(otherwise=[ops.Get("k"), deepest])
    with pytest.raises(DecodeError):
        ops.check_operation((ops.TXN, (), (), (deepest.to_wire(),)))


def test_the_longest_list_of_a_transaction_counts_with_what_is_nested_in_it() -> None:
    inner = ops.Txn(then=[ops.Get("a")] * 3, otherwise=[ops.Get("a")] * 2)
    assert ops.count_operations(ops.Get("a").to_wire()) == 0
    assert ops.count_operations(ops.Txn(compare=[Key("a").exists] * 4, then=[ops.Get("a")]).to_wire()) == 4
    assert ops.count_operations(ops.Txn(then=[ops.Get("a"), inner, inner], otherwise=[inner]).to_wire()) == 9


def test_the_size_of_a_request_is_that_of_its_keys_values_and_bounds() -> None:
    txn = ops.Txn(compare=[Key("abc").value == "de"], then=[ops.Put("k", "12345")], otherwise=[nested(2, ops.Delete(start="x", end="yy"))])
    assert ops.request_size(txn.to_wire()) == len(b"abcabc\x00de") + len(b"k12345") + len(b"xyy")


PUT_A, PUT_B, DEL_A, DEL_ALL = ops.Put("a", "1"), ops.Put("b", "1"), ops.Delete("a"), ops.Delete(prefix="a")


@pytest.mark.parametrize(
    "then",
    [
        [PUT_A, PUT_A],
        [PUT_A, ops.Add("a")],
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
        wire = (ops.TXN, (), tuple(operation.to_wire() for operation in then), ())
        with pytest.raises(DecodeError, match="written twice"):
            ops.check_operation(wire)


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
    ops.check_operation(ops.Txn(then=then).to_wire())


def paths(wire: Raw) -> list[list[Raw]]:
    """Return the simple writes on each path through an operation."""
    if wire[0] != ops.TXN:
        return [[wire]]
    return [
        list(itertools.chain.from_iterable(parts)) for branch in wire[2:] for parts in itertools.product(*(paths(step) for step in branch))
    ]


def collides(one: Raw, other: Raw) -> bool:
    if one[0] == ops.DELETE:
        one, other = other, one
    if one[0] not in (ops.PUT, ops.ADD):
        return False
    if other[0] == ops.DELETE:
        return bool(other[1] <= one[1] and (other[2] is None or one[1] < other[2]))
    return other[0] in (ops.PUT, ops.ADD) and bool(one[1] == other[1])


leaves = st.one_of(st.builds(ops.Put, keys, st.just("")), st.builds(lambda span: ops.Delete(**span), spans)).map(lambda op: op.to_wire())
trees = st.recursive(
    leaves, lambda inner: st.tuples(st.just(ops.TXN), st.just(()), *[st.lists(inner, max_size=3).map(tuple)] * 2), max_leaves=7
)


@settings(max_examples=200, deadline=None)
@given(trees)
def test_writes_are_refused_as_duplicate_just_when_two_on_one_path_collide(tree: Raw) -> None:
    # Also where the two stand in different branches of two transactions that can't both be chosen: like etcd, nobody decides that.
    expected = any(collides(*pair) for path in paths(tree) for pair in itertools.combinations(path, 2))
    try:
        ops.check_distinct(tree)
    except errors.DuplicateKey:
        assert expected
    else:
        assert not expected


def test_checking_many_writes_against_many_deletes_takes_no_square() -> None:
    puts = [ops.Put(b"k%05d" % number, "").to_wire() for number in range(20_000)]
    deletes = [ops.Delete(start=b"k%05d!" % number, end=b"k%05d~" % number).to_wire() for number in range(20_000)]
    ops.check_operation((ops.TXN, (), (*puts, *deletes), ()))


def test_only_transactions_that_write_nowhere_are_read_only() -> None:
    assert ops.Txn(then=[ops.Get("a")], otherwise=[nested(3, ops.Scan())]).read_only
    assert not ops.Txn(then=[ops.Get("a")], otherwise=[nested(3, ops.Add("a"))]).read_only


# -- the wire -----------------------------------------------------------------------------------------------------------------------------


@settings(max_examples=200, deadline=None)
@given(operations)
def test_an_operation_survives_the_wire_and_its_check(operation: ops.Operation) -> None:
    wire = operation.to_wire()
    assert codec.unpack(codec.pack(wire)) == wire
    ops.check_operation(wire)


@pytest.mark.parametrize(
    "wire",
    [
        None,
        (),
        (0, b"k"),
        (99, b"k"),
        (True, b"k", b"v", False),
        (b"k",),
        ((1,), b"k"),
        (1.0, b"k", b"v", False),
        (ops.PUT, b"k", b"v"),
        (ops.PUT, b"", b"v", False),
        (ops.PUT, "k", b"v", False),
        (ops.PUT, b"k", None, False),
        (ops.PUT, b"k", b"v", 0),
        (ops.DELETE, b"", None, False),
        (ops.DELETE, b"a", "b", False),
        (ops.ADD, b"k", 1 << 63),
        (ops.ADD, b"k", True),
        (ops.GET, b"k", -1),
        (ops.GET, b"k", 1 << 63),
        (ops.SCAN, b"a", None, 0, 0, False),
        (ops.SCAN, b"a", None, 0, 0, False, 1),
        (ops.SCAN, b"a", None, -1, 0, False, False),
        (ops.TXN, (), ()),
        (ops.TXN, (), (), None),
        (ops.TXN, ((b"a", None, 9, 1, 0),), (), ()),
        (ops.TXN, ((b"a", None, 1, 9, 0),), (), ()),
        (ops.TXN, ((b"a", None, 1, 1, b"0"),), (), ()),
        (ops.TXN, ((b"a", None, ops.VALUE, 1, 0),), (), ()),
        (ops.TXN, ((b"a", None, True, 1, 0),), (), ()),
        (ops.TXN, ((b"a", 1, 1, 0),), (), ()),
        (ops.TXN, (), ((99,),), ()),
    ],
)
def test_a_command_nobody_would_have_packed_is_refused(wire: object) -> None:
    with pytest.raises(DecodeError):
        ops.check_operation(wire)


plain: st.SearchStrategy[Any] = st.recursive(
    st.sampled_from([None, True, False, -1, 0, 1, 2, 3, 4, 5, 6, 7, 1 << 63, 1.5, b"", b"a", b"ab", "a", ()]),
    lambda inner: st.lists(inner, max_size=7).map(tuple),
    max_leaves=12,
)


@settings(max_examples=200, deadline=None)
@given(plain)
def test_checking_anything_at_all_raises_nothing_but_decode_error(wire: object) -> None:
    try:
        ops.check_operation(wire)
    except DecodeError:
        return


def test_the_numbers_in_the_log_never_change() -> None:
    assert [op.to_wire() for op in (ops.Put("k", "v"), ops.Delete("k"), ops.Add("k"), ops.Txn(), ops.Get("k"), ops.Scan("k"))] == [
        (1, b"k", b"v", False),
        (2, b"k", b"k\x00", False),
        (3, b"k", 1),
        (4, (), (), ()),
        (5, b"k", 0),
        (6, b"k", b"k\x00", 0, 0, False, False),
    ]
    key = Key("k")
    conditions = (key.version == 1, key.create_revision != 1, key.mod_revision > 1, key.value < "1", key.lease == 1)
    assert [condition.to_wire()[2:] for condition in conditions] == [(1, 1, 1), (2, 2, 1), (3, 3, 1), (4, 4, b"1"), (5, 1, 1)]


# -- answers ------------------------------------------------------------------------------------------------------------------------------


def test_answers_become_results() -> None:
    record = (b"k", b"v", 2, 3, 2, 0)
    pair = ops.KeyValue(*record)
    assert (pair.key_text, pair.text, pair.mod_revision) == ("k", "v", 3)
    assert ops.Put("k", "v").result((OK, 4, record)) == (4, pair)
    assert ops.Delete("k").result((OK, 4, 1, (record,))) == (1, 4, (pair,))
    assert ops.Add("k").result((OK, 4, 7)) == (7, 4)
    assert ops.Get("k").result((OK, None)) is None
    scan = ops.Scan().result((OK, 4, (record,), 3, True))
    assert (list(scan), len(scan), scan[0], scan[:1], scan.count, scan.more, scan.revision) == ([pair], 1, pair, (pair,), 3, True, 4)
    txn = ops.Txn(then=[ops.Get("k")], otherwise=[ops.Add("k"), ops.Txn()])
    assert txn.result((OK, 4, True, ((OK, record),))).responses == (pair,)
    failed = txn.result((OK, 4, False, ((OK, 4, 1), (OK, 4, True, ()))))
    assert not failed
    assert (failed.responses[0], bool(failed.responses[1])) == ((1, 4), True)


def test_refusals_become_their_errors_again_and_survive_the_log() -> None:
    for status, kind in ops._REFUSALS.items():
        raw = codec.unpack(codec.pack(ops.refusal(kind, "why")))
        assert raw[0] == status
        with pytest.raises(kind, match="why"):
            ops.unless_refused(raw)
    with pytest.raises(errors.Compacted) as compacted:
        ops.unless_refused(ops.refusal(errors.Compacted, "why", 5))
    assert compacted.value.revision == 5
    assert ops.unless_refused((OK, 1)) == (OK, 1)
