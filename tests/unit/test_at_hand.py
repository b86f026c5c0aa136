"""Reads that a member answers by itself: the short way of a plain ``get`` and the long way of all others mean the same."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from replkv import AsyncReplica, Closed, ForkedProcess, Get, Replica, fork, kv, ops
from replkv.described import Published
from replkv.engine import Embedded
from replkv.kv import Store, run
from replkv.machine import Machine
from replkv.node import Node
from replkv.plans import Read
from replkv.reads import NOT_YET
from replkv.values import KeyValue, to_key_value

KEYS = (b"a", b"a/b", b"b", b"b/a/b")
PREFIXES = (b"", b"a/", b"b/")
CONSISTENCIES = ("local", "lease")


@pytest.fixture
def replica() -> Iterator[Replica]:
    with Replica() as replica:
        replica.wait_ready(10.0)
        yield replica


# -- both ways over one store --------------------------------------------------------------------------------------------------------


class Member:
    """What of a node a reader sees: one thing after the other is published, the last one for ever; time passes at each look."""

    name = "member"

    def __init__(self, published: list[Published]) -> None:
        self._published = published
        self._now = 0.0

    @property
    def published(self) -> Published:
        return self._published.pop(0) if len(self._published) > 1 else self._published[0]

    def clock(self) -> float:
        self._now += 1.0
        return self._now


def state(store: Store, *, term: int = 1, commit: int = 5, applied: int = 5, lease: float = float("inf")) -> Published:
    machine = Machine()
    machine.store = store
    return Published(machine, store.revision, term, commit, applied, lease)


def short(published: list[Published], key: bytes, consistency: str, prefix: bytes = b"") -> Any:
    return Embedded(cast("Node", Member([*published]))).at_hand(key, consistency, prefix)


def long(published: list[Published], key: bytes, consistency: str, prefix: bytes = b"") -> Any:
    """Read as any other operation is read: in steps, by what carries out transactions."""
    plan = Read(Get(key), prefix, consistency)
    with pytest.raises(StopIteration) as end:
        steps = plan.answer_in_steps(cast("Node", Member([*published])), None)
        while True:
            next(steps)
    raw = end.value.value
    return raw if raw is NOT_YET else plan.meaning(raw)


def planned(published: list[Published], key: bytes, consistency: str, prefix: bytes = b"") -> Any:
    plan = Read(Get(key), prefix, consistency)
    raw = plan.at_once(cast("Node", Member([*published])))
    return raw if raw is NOT_YET else plan.meaning(raw)


def act(store: Store, what: str, key: bytes) -> None:
    """Do something to a store; a ``commit`` ends what came since the last one, and is all that is ever published."""
    match what:
        case "put":
            store.put(key, b"%d" % store.revision)
        case "delete":
            run(store.delete_keys([key]))
        case "commit":
            store.commit()
        case "rollback":
            run(store.rollback())
        case "compact":
            run(store.rollback())
            if store.compacted < store.revision:
                store.compact(store.revision)
        case "scrub":
            run(store.rollback())
            run(store.scrub())


actions = st.lists(
    st.tuples(st.sampled_from(["put", "put", "delete", "commit", "commit", "rollback", "compact", "scrub"]), st.sampled_from(KEYS))
)


@given(actions, st.sampled_from([{}, {"applied": 4}, {"lease": 0.5}, {"lease": 1.5}]))
@settings(deadline=None)
def test_the_short_way_and_the_long_way_find_the_same(done: list[tuple[str, bytes]], leader: dict[str, Any]) -> None:
    store = Store()
    for what, key in done:
        act(store, what, key)
        published = [state(store, **leader)]
        for consistency in CONSISTENCIES:
            for prefix in PREFIXES:
                for name in (b"a", b"b", b"a/b", b"missing"):
                    found = short(published, name, consistency, prefix)
                    assert found == long(published, name, consistency, prefix) == planned(published, name, consistency, prefix)
                    assert type(found) in (KeyValue, type(None), type(NOT_YET))


@given(actions, st.sampled_from(KEYS))
@settings(deadline=None)
def test_a_scan_finds_what_a_get_of_each_key_finds(done: list[tuple[str, bytes]], start: bytes) -> None:
    store = Store()
    for what, key in done:
        act(store, what, key)
        for revision in range(max(1, store.removed_below, store.revision - 3), store.revision + 1):
            each = [store.get(key, revision) for key in KEYS if key >= start]
            assert [record for records in store.slices((start, None), revision) for record in records] == [*filter(None, each)]


def holding(*values: bytes) -> Store:
    store = Store()
    for value in values:
        store.put(b"key", value)
        store.commit()
    return store


@pytest.mark.parametrize("way", [short, long, planned])
def test_what_a_compaction_has_outrun_is_read_again(way: Callable[..., Any]) -> None:
    store = holding(b"1", b"2", b"3")
    new, old = state(store), state(store)._replace(revision=2)
    assert way([old], b"key", "local") == (b"key", b"1", 2, 2, 1, 0)
    store.compact(4)
    run(store.scrub())
    assert way([old, old, new], b"key", "local") == (b"key", b"3", 2, 4, 3, 0), "not None, although the version of then is gone"


@pytest.mark.parametrize("way", [short, long, planned])
def test_a_lease_read_counts_only_if_the_lease_holds_before_and_afterwards_in_one_term(way: Callable[..., Any]) -> None:
    store = holding(b"1")
    held = state(store)
    assert way([held], b"key", "lease") == (b"key", b"1", 2, 2, 1, 0)
    assert way([held._replace(lease_until=2.5)], b"key", "lease") == (b"key", b"1", 2, 2, 1, 0), "the clock is looked at twice"
    for not_yet in (
        [held._replace(lease_until=0.0)],
        [held._replace(lease_until=1.0)],  # it ends as it is looked at
        [held._replace(lease_until=2.0)],  # it held before
        [held, held, held._replace(lease_until=0.0)],
        [held, held, held._replace(term=2)],
        [held._replace(applied=4)],
        [held._replace(commit=6)],
    ):
        assert way(not_yet, b"key", "lease") is NOT_YET


def test_a_pair_has_the_fields_of_a_record() -> None:
    record = (b"key", b"value", 2, 3, 2, 7)
    assert [KeyValue._fields.index(name) for name in ("key", "value", "create_revision", "mod_revision", "version", "lease")] == [
        kv.KEY,
        kv.VALUE,
        kv.CREATE,
        kv.MOD,
        kv.VERSION,
        kv.LEASE,
    ]
    pair = to_key_value(record)
    assert type(pair) is KeyValue
    assert pair == KeyValue(*record)
    assert repr(pair) == repr(KeyValue(*record))


# -- both ways of a whole member -----------------------------------------------------------------------------------------------------


class Text(str):
    __slots__ = ()


class Octets(bytes):
    __slots__ = ()


@pytest.mark.parametrize("consistency", [*CONSISTENCIES, "linearizable"])
@pytest.mark.parametrize("key", ["a/b", b"a/b", Text("a/b"), Octets(b"a/b"), "a/gone", "missing", "b"])
def test_a_get_finds_the_same_with_and_without_more_arguments(replica: Replica, consistency: Any, key: Any) -> None:
    replica.put("a/b", "value")
    replica.put("a/b", "newer", ttl=60.0)
    replica.put("a/a/b", "inner")
    replica.put("a/gone", "")
    replica.delete("a/gone")
    for surface in (replica, replica.namespace("a/"), replica.namespace("a/").namespace("a/")):
        found = surface.get(key, consistency=consistency)
        assert found == surface.get(key, consistency=consistency, timeout=10.0) == surface.submit(ops.Get(key)).result(10.0)
        assert found is None or type(found.key) is bytes
    assert replica.get("a/b", consistency=consistency) == (b"a/b", b"newer", 2, 3, 2, found.lease if (found := replica.get("a/b")) else 0)


@pytest.mark.parametrize("key", ["", b"", Text(""), Octets(b""), 7, None, "\ud800", bytearray(b"a")])
def test_a_bad_key_is_refused_in_the_same_words(replica: Replica, key: Any) -> None:
    for surface in (replica, replica.namespace("a/")):
        texts = set()
        for consistency in (*CONSISTENCIES, "linearizable"):
            for more in ({}, {"timeout": 10.0}):
                with pytest.raises((TypeError, ValueError)) as refused:
                    surface.get(key, consistency=cast("Any", consistency), **cast("Any", more))
                texts.add(str(refused.value))
        assert len(texts) == 1


@pytest.mark.parametrize("consistency", ["Local", "", None, ["local"], {"local"}])
def test_a_consistency_that_is_none_is_refused(replica: Replica, consistency: Any) -> None:
    with pytest.raises(ValueError, match="consistency must be one of linearizable, lease, local, not"):
        replica.get("key", consistency=consistency)


def test_a_member_that_can_not_be_used_says_so(replica: Replica, monkeypatch: pytest.MonkeyPatch) -> None:
    surfaces = (replica, replica.namespace("a/"))
    with monkeypatch.context() as child:
        child.setattr(fork, "_forked", True)
        for surface in surfaces:
            for consistency in CONSISTENCIES:
                with pytest.raises(ForkedProcess):
                    surface.get("key", consistency=cast("Any", consistency))
    replica.close()
    for surface in surfaces:
        for consistency in CONSISTENCIES:
            with pytest.raises(Closed):
                surface.get("key", consistency=cast("Any", consistency))


@pytest.mark.parametrize("consistency", CONSISTENCIES)
def test_a_lease_that_does_not_hold_is_replaced_by_a_round(replica: Replica, consistency: Any) -> None:
    replica.put("key", "value")
    node = replica._running()
    node.published = node.published._replace(lease_until=0.0)
    for surface, key in ((replica, "key"), (replica.namespace("k"), "ey")):
        found = surface.get(key, consistency=consistency)
        assert found is not None
        assert found.value == b"value"


@pytest.mark.parametrize("consistency", CONSISTENCIES)
def test_an_awaited_get_reads_when_it_is_awaited_and_checks_its_key_before(consistency: Any) -> None:
    async def test() -> None:
        async with AsyncReplica() as replica:
            await replica.wait_ready(10.0)
            for surface, key in ((replica, "a/b"), (replica.namespace("a/"), "b")):
                early = surface.get(key, consistency=consistency)
                revision = (await surface.put(key, "value")).revision
                found = await early
                assert found is not None
                assert found.mod_revision == revision
                assert found == await surface.get(key, consistency=consistency, timeout=10.0)
                with pytest.raises(ValueError, match="empty"):
                    _ = surface.get("", consistency=consistency)
            late = replica.get("a/b", consistency=consistency)
        with pytest.raises(Closed):
            await late

    asyncio.run(test())
