"""Namespaces: the same calls below a prefix, which callers don't see."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from replkv import AsyncReplica, Conflict, Delete, Get, Guard, Key, KeyValue, LockLost, Put, Replica, Scan, Synced, Txn


@pytest.fixture
def replica() -> Iterator[Replica]:
    with Replica() as replica:
        yield replica


def test_keys_come_and_go_without_the_prefix(replica: Replica) -> None:
    app = replica.namespace("app/")
    assert app.put("key", "value").revision == 2
    assert app.get("key") == KeyValue(b"key", b"value", 2, 2, 1)
    assert replica.get("app/key") == KeyValue(b"app/key", b"value", 2, 2, 1)
    replica.put("app0", "outside")
    replica.put("ap", "outside")
    assert [pair.key for pair in app.scan()] == [b"key"]
    assert [pair.key for pair in app.scan(start="a")] == [b"key"]
    assert app.put("key", "new", prev_kv=True).prev_kv == KeyValue(b"key", b"value", 2, 2, 1)
    assert app.add("counter").value == 1
    deleted = app.delete(start="a", prev_kv=True)
    assert [pair.key for pair in deleted.prev_kvs] == [b"counter", b"key"]
    assert [pair.key for pair in replica.scan()] == [b"ap", b"app0"]


def test_a_namespace_in_a_namespace_has_both_prefixes(replica: Replica) -> None:
    inner = replica.namespace("a/").namespace(b"b/")
    inner.put("key", "value")
    assert replica.get("a/b/key") is not None
    assert repr(inner).startswith("<Namespace b'a/b/' of <Namespace b'a/' of <Replica")


def test_transactions_are_placed_as_a_whole(replica: Replica) -> None:
    app = replica.namespace("app/")
    app.put("key", "1")
    app.put("other", "1")
    result = app.txn(
        compare=[Key("key").value == "1", Key(prefix="k").exists],
        then=[Put("key", "2", prev_kv=True), Get("key"), Scan(prefix="k"), Txn(then=[Delete("other", prev_kv=True)])],
        otherwise=[Put("no", "no")],
    )
    put, got, scanned, inner = result.responses
    assert put.prev_kv.key == got.key == scanned[0].key == b"key"
    assert inner.responses[0].prev_kvs[0].key == b"other"
    assert app.txn(compare=[Key("other").exists], otherwise=[Get("other")]).responses == (None,)
    assert [pair.key for pair in replica.scan()] == [b"app/key"]


def test_a_conflict_carries_the_key_as_the_caller_knows_it(replica: Replica) -> None:
    app = replica.namespace("app/")
    app.put("key", "1")
    with pytest.raises(Conflict) as caught:
        app.put("key", "2", if_mod_revision=0)
    assert caught.value.current == KeyValue(b"key", b"1", 2, 2, 1)
    with pytest.raises(Conflict) as caught:
        app.delete("other", if_mod_revision=7)
    assert caught.value.current is None


def test_what_guards_a_write_is_in_no_namespace(replica: Replica) -> None:
    app = replica.namespace("app/")
    guard = Guard("lock", replica.put("lock", "mine").revision)
    app.put("lock", "another")
    app.put("key", "1", guard=guard)
    app.delete("lock", guard=guard)
    assert app.txn(compare=[guard, Key("key").exists], then=[Put("key", "2", guard=guard)])
    replica.delete("lock")
    for operation in (Put("key", "3", guard=guard), Delete(prefix="k", guard=guard), Txn(then=[Put("key", "3", guard=guard)])):
        with pytest.raises(LockLost, match="the lock b'lock' that was taken at revision 2 is lost"):
            app.submit(operation).result(20)
    assert not app.txn(compare=[guard])
    found = app.get("key")
    assert found is not None
    assert found.text == "2"


def test_operations_can_be_submitted(replica: Replica) -> None:
    app = replica.namespace("app/")
    app.submit(Put("key", "value")).result(20)
    found = app.submit(Get("key")).result(20)
    assert found.key == b"key"


def test_a_watch_sees_only_its_namespace_and_strips_keys(replica: Replica) -> None:
    app = replica.namespace("app/")
    app.put("old", "1")
    with app.watch(initial=True, prev_kv=True) as watch:
        event = watch.next(20)
        assert event is not None
        assert event.key == b"old"  # type: ignore[union-attr]
        assert isinstance(watch.next(20), Synced)
        replica.put("outside", "x")
        app.put("old", "2")
        event = watch.next(20)
    assert event.kv.key == event.prev_kv.key == b"old"  # type: ignore[union-attr]


def test_a_prefix_of_0xff_ends_where_keys_end(replica: Replica) -> None:
    last = replica.namespace(b"\xff\xff")
    last.put("key", "value")
    assert [pair.key for pair in last.scan()] == [b"key"]
    assert last.delete(start="a").deleted == 1


@pytest.mark.parametrize(("prefix", "error"), [("", ValueError), (b"", ValueError), (7, TypeError), (None, TypeError)])
def test_a_namespace_needs_a_prefix(replica: Replica, prefix: object, error: type[Exception]) -> None:
    with pytest.raises(error):
        replica.namespace(prefix)  # type: ignore[arg-type]


def test_namespaces_can_be_awaited_too() -> None:
    async def main() -> None:
        async with AsyncReplica() as replica:
            app = replica.namespace("app/")
            await app.put("key", "value")
            inner = app.namespace("in/")
            await inner.add("count", 3)
            with pytest.raises(LockLost):
                await inner.put("guarded", "no", guard=Guard("lock", 1))
            with pytest.raises(LockLost):
                await inner.delete("count", guard=Guard("lock", 1))
            assert [pair.key for pair in await app.scan()] == [b"in/count", b"key"]
            assert await asyncio.wrap_future(app.submit(Get("key"))) == await app.get("key")
            async with app.lease(60) as lease:
                await app.put("leased", "x", lease=lease)
                assert await lease.keys() == (b"leased",)
            assert repr(inner).startswith("<AsyncNamespace b'app/in/' of <AsyncNamespace")

    asyncio.run(main())
