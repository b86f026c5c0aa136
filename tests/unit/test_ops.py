"""Operations: their arguments are checked when they are built, and their answers become results."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from replkv import errors, ops, values, wire
from replkv.ops import KEEP, Key
from replkv.values import MAX_TTL, Span
from replkv.wire import OK, TXN_DEPTH

ANY: Any = ops
"""The operations without their types, for arguments that are wrong on purpose."""


def nested(depth: int, innermost: ops.Operation | None = None) -> ops.Txn:
    txn = ops.Txn(then=[] if innermost is None else [innermost])
    for _ in range(depth - 1):
        txn = ops.Txn(then=[txn])
    return txn


# -- arguments ----------------------------------------------------------------------------------------------------------------------------


def test_text_is_encoded_as_utf_8() -> None:
    assert ops.Put("ключ", "значение").to_wire() == (wire.PUT, "ключ".encode(), "значение".encode(), False)


@pytest.mark.parametrize(
    ("build", "error"),
    [
        (lambda: ops.Put("", "v"), ValueError),
        (lambda: ANY.Put(5, "v"), TypeError),
        (lambda: ANY.Put("k", None), TypeError),
        (lambda: ANY.Put("k", bytearray(b"v")), TypeError),
        (lambda: ops.Get("k", revision=-1), ValueError),
        (lambda: ops.Get("k", revision=0), ValueError),
        (lambda: ops.Get("k", revision=1 << 63), ValueError),
        (lambda: ops.Get("k", revision=True), TypeError),
        (lambda: ANY.Get("k", revision=1.0), TypeError),
        (lambda: ops.Scan("a", prefix="b"), ValueError),
        (lambda: ops.Scan(end="b"), ValueError),
        (lambda: ops.Scan("a", end="b"), ValueError),
        (lambda: ops.Scan(limit=-1), ValueError),
        (lambda: ANY.Scan(sort_by="lease"), ValueError),
        (lambda: ANY.Scan(sort_by=[]), ValueError),
        (lambda: ops.Scan(revision=0), ValueError),
        (lambda: ops.Scan(min_mod_revision=0), ValueError),
        (lambda: ops.Scan(max_mod_revision=0), ValueError),
        (lambda: ops.Scan(min_create_revision=0), ValueError),
        (lambda: ops.Scan(max_create_revision=0), ValueError),
        (lambda: ops.Scan(min_mod_revision=-1), ValueError),
        (lambda: ops.Scan(max_create_revision=True), TypeError),
        (lambda: ANY.Put("k", "v", lease="1"), TypeError),
        (lambda: ops.Put("k", "v", lease=0), ValueError),
        (lambda: ops.Put("k", "v", lease=True), TypeError),
        (lambda: ops.Put("k", "v", lease=1, ttl=1), ValueError),
        (lambda: ops.Put("k", "v", lease=KEEP, ttl=1), ValueError),
        (lambda: ops.Put("k", "v", ttl=0), ValueError),
        (lambda: ops.Put("k", "v", ttl=MAX_TTL + 1), ValueError),
        (lambda: ops.Put("k", "v", ttl=float("nan")), ValueError),
        (lambda: ops.Put("k", "v", if_mod_revision=-1), ValueError),
        (lambda: ops.Delete(prefix="k", if_mod_revision=1), ValueError),
        (lambda: ANY.Put("k", "v", guard=5), TypeError),
        (lambda: ANY.Put("k", "v", guard=Handle()), TypeError),
        (lambda: ANY.Put("k", "v", guard=Key("l").exists), TypeError),
        (lambda: ANY.Delete("k", guard=b"l"), TypeError),
        (lambda: ops.Guard("", 1), ValueError),
        (lambda: ops.Guard("l", 0), ValueError),
        (lambda: ops.Guard("l", 1 << 63), ValueError),
        (lambda: ops.Guard("l", True), TypeError),
        (lambda: ANY.Guard(7, 1), TypeError),
        (lambda: bool(ops.Guard("l", 1)), TypeError),
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
        (lambda: Key("k").lease == "1", TypeError),
        (lambda: hash(Key("k").version), TypeError),
        (lambda: bool(Key("k").version == 1), TypeError),
        (lambda: 1 < Key("k").version < 3, TypeError),
        (lambda: ANY.Txn(compare=[True]), TypeError),
        (lambda: ANY.Txn(then=[("put", "k", "v")]), TypeError),
    ],
)
def test_bad_arguments_are_refused_at_once(build: Callable[[], Any], error: type[Exception]) -> None:
    with pytest.raises(error):
        build()


@pytest.mark.parametrize(
    ("build", "error", "text"),
    [
        (lambda: ANY.Get("k", revision=0), ValueError, "revision must be at least 1"),
        (lambda: ANY.Scan(max_mod_revision=0), ValueError, "max_mod_revision must be at least 1"),
        (lambda: ANY.Scan(sort_by=[]), ValueError, "sort_by must be key, version, .*not \\[\\]"),
        (lambda: ANY.Txn(then=None), TypeError, r"then= takes a list: write then=\[Put\(…\)\], not a NoneType"),
        (lambda: ANY.Txn(otherwise=ops.Get("k")), TypeError, r"write otherwise=\[Get\(…\)\]"),
        (lambda: ANY.Txn(then="put"), TypeError, "then= takes a list"),
        (lambda: ANY.Txn(compare=5), TypeError, "compare= takes a list"),
        (lambda: ANY.Put("k", "v", guard=b"l"), TypeError, "guard= takes a lock, a term or what their guard.. returns, not bytes"),
        (lambda: ops.Guard("l", 0), ValueError, "create_revision must be at least 1"),
        (lambda: ANY.Txn(compare=Key("k").exists), TypeError, "compare= takes a list"),
        (lambda: ops.Put("a\udc80", "v"), ValueError, "key has a lone surrogate at 1"),
        (lambda: ops.Put("k", "\ud800"), ValueError, "value has a lone surrogate at 0"),
        (lambda: ops.Scan(prefix="\ud800"), ValueError, "prefix has a lone surrogate at 0"),
    ],
)
def test_what_is_wrong_with_an_argument_is_said_with_its_name(build: Callable[[], Any], error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        build()


def test_none_is_the_newest_revision_and_no_bound() -> None:
    assert ops.Get("k", revision=None).to_wire() == ops.Get("k").to_wire() == (wire.GET, b"k", 0)
    assert ops.Scan(min_mod_revision=None, max_create_revision=7).bounds == (0, 0, 0, 7)


@pytest.mark.parametrize("operation", [ops.Put, ops.Delete, ops.Add, ops.Get, ops.Scan, ops.Txn, ops.Guard, Key])
def test_what_help_says_of_an_operation_tells_its_arguments_from_what_is_stored(operation: type) -> None:
    assert operation.__doc__ is not None
    assert "Raises:" in operation.__doc__
    assert "argument" in operation.__doc__ or "Args:" in operation.__doc__
    if operation is ops.Put:
        assert "microseconds, where the argument is in seconds" in operation.__doc__


def test_spans_follow_etcds_rules() -> None:
    assert Span.of("a") == (b"a", b"a\x00")
    assert Span.of(prefix="ab") == (b"ab", b"ac")
    assert Span.of(prefix=b"a\xff\xff") == (b"a\xff\xff", b"b")
    assert Span.of(prefix=b"\xff\xff") == (b"\xff\xff", None)
    assert Span.of(start="a") == (b"a", None)
    assert Span.of(start="b", end="a") == (b"b", b"a")


def test_spans_reach_replkvs_own_keys_only_if_they_begin_there() -> None:
    assert Span.of() == Span.of(prefix="") == Span.of(start="") == (b"\x01", None)
    assert Span.of(prefix=b"\x00lock/").start.startswith(b"\x00")


@given(st.binary(min_size=1, max_size=4), st.binary(max_size=6))
def test_a_prefix_spans_exactly_the_keys_that_begin_with_it(prefix: bytes, key: bytes) -> None:
    start, end = Span.of(prefix=prefix)
    assert (start <= key and (end is None or key < end)) == key.startswith(prefix)


# -- transactions -------------------------------------------------------------------------------------------------------------------------


def test_transactions_may_be_nested_16_deep_and_no_deeper() -> None:
    deepest = nested(TXN_DEPTH, ops.Put("k", "v"))
    assert deepest.depth == TXN_DEPTH == 16
    with pytest.raises(ValueError, match="16 deep"):
        ops.Txn(otherwise=[ops.Get("k"), deepest])


def test_a_transaction_that_writes_a_key_twice_is_refused_when_it_is_built() -> None:
    with pytest.raises(errors.DuplicateKey, match="b'a' is written twice"):
        ops.Txn(then=[ops.Put("a", "1"), ops.Txn(otherwise=[ops.Delete(prefix="a")])])


def test_only_transactions_that_write_nowhere_are_read_only() -> None:
    assert ops.Txn(then=[ops.Get("a")], otherwise=[nested(3, ops.Scan())]).read_only
    assert not ops.Txn(then=[ops.Get("a")], otherwise=[nested(3, ops.Add("a"))]).read_only


# -- leases -------------------------------------------------------------------------------------------------------------------------------


class Handle:
    """Something with a lease's id."""

    id = 7


def test_a_put_says_what_becomes_of_the_lease_in_the_shortest_way() -> None:
    assert ops.Put("k", "v").to_wire() == (wire.PUT, b"k", b"v", False)
    assert ops.Put("k", KEEP).to_wire() == (wire.PUT_WITH, b"k", None, False, 0, 0)
    assert ops.Put("k", "v", lease=KEEP).to_wire() == (wire.PUT_WITH, b"k", b"v", False, None, 0)
    assert ops.Put("k", "v", lease=7) == ops.Put("k", "v", lease=Handle())
    assert ops.Put("k", "v", lease=7).to_wire() == (wire.PUT_WITH, b"k", b"v", False, 7, 0)
    assert ops.Put("k", "v", ttl=1.5, prev_kv=True).to_wire() == (wire.PUT_WITH, b"k", b"v", True, 0, 1_500_000)
    assert ops.Put("k", "v", ttl=1e-9).ttl == 1
    assert repr(KEEP) == "KEEP"


def test_an_expected_revision_is_put_around_the_operation() -> None:
    assert ops.Put("k", "v", if_mod_revision=0).to_wire() == (wire.EXPECT, b"k", 0, (wire.PUT, b"k", b"v", False))
    assert ops.Delete("k", if_mod_revision=5).to_wire() == (wire.EXPECT, b"k", 5, (wire.DELETE, b"k", b"k\x00", False))


class Lock:
    """Something that is held, and guards what is written meanwhile."""

    def guard(self) -> ops.Guard:
        return ops.Guard("lock", 5)


def test_a_guard_is_put_around_the_operation_and_what_it_expects() -> None:
    assert ops.Put("k", "v", guard=Lock()).to_wire() == (wire.GUARD, b"lock", 5, (wire.PUT, b"k", b"v", False))
    assert ops.Put("k", KEEP, guard=Lock()).to_wire()[3] == ops.Put("k", KEEP).to_wire()
    assert ops.Put("k", "v", if_mod_revision=3, guard=Lock()).to_wire()[3] == ops.Put("k", "v", if_mod_revision=3).to_wire()
    assert ops.Delete(prefix="k", guard=Lock()).to_wire() == (wire.GUARD, b"lock", 5, ops.Delete(prefix="k").to_wire())


def test_what_is_held_and_its_guard_say_the_same() -> None:
    guard = Lock().guard()
    assert (guard.key, guard.create_revision) == (b"lock", 5)
    assert ops.Put("k", "v", guard=guard) == ops.Put("k", "v", guard=Lock())
    assert ops.Delete("k", guard=guard) == ops.Delete("k", guard=Lock()) != ops.Delete("k")
    assert pickle.loads(pickle.dumps(guard)) == guard != ops.Guard("lock", 6)
    assert ops.Txn(compare=[guard]).to_wire()[1] == ((b"lock", b"lock\x00", wire.FENCE, wire.EQUAL, 5),)


def test_a_lease_can_be_compared_with_a_number_or_a_handle() -> None:
    assert (Key("k").lease == Handle()).to_wire() == (Key("k").lease == 7).to_wire() == (b"k", b"k\x00", wire.LEASE, wire.EQUAL, 7)
    assert (Key("k").lease == 0).to_wire()[-1] == 0


# -- answers ------------------------------------------------------------------------------------------------------------------------------


def test_answers_become_results() -> None:
    record = (b"k", b"v", 2, 3, 2, 0)
    pair = values.KeyValue(*record)
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


def test_answers_of_leases_and_compactions_become_results() -> None:
    assert ops.Compact(5).result((OK, 9)) is None  # type: ignore[func-returns-value]  # that is the point
    assert ops.Grant(0, 1_000_000, 3).result((OK, 7, 1_000_000)) == (7, 1_000_000)
    assert ops.Renew(7, 0).result((OK, 1_000_000)) == (7, 1_000_000)
    assert ops.KeepAlive(3).result((OK, 2)) == 2
    assert ops.Revoke(7).result((OK, 9, 2)) == 2
