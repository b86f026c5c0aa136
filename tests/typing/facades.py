"""What type checkers must say of the two facades: read by mypy in test_typing.py, never run.

``assert_type`` lines must hold.  Lines that end in ``# type: ignore[code]`` must be the only errors, with that code.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from concurrent.futures import Future
from typing import Any, assert_type

from replkv import (
    KEEP,
    AddResult,
    AsyncLease,
    AsyncLost,
    AsyncNamespace,
    AsyncReplica,
    AsyncView,
    AsyncWatch,
    Change,
    Changes,
    CodecName,
    DeleteResult,
    Event,
    EventKind,
    Get,
    Keep,
    Key,
    KeyValue,
    Lease,
    LeaseInfo,
    LeaseLike,
    Lost,
    Namespace,
    Progress,
    Put,
    PutResult,
    Replica,
    ReplicatedMapping,
    ScanResult,
    SortBy,
    Synced,
    TxnResult,
    View,
    Watch,
    Watched,
    typed,
)


def blocking(r: Replica) -> None:
    assert_type(r.put("a", b"1"), PutResult)
    assert_type(r.put("a", b"1", prev_kv=True, timeout=None).prev_kv, KeyValue | None)
    assert_type(r.get("a"), KeyValue | None)
    assert_type(r.get(b"a", revision=3, consistency="lease", timeout=0), KeyValue | None)
    assert_type(r.scan(prefix="a", limit=3), ScanResult)
    assert_type(r.scan()[0], KeyValue)
    assert_type([kv.text for kv in r.scan()], list[str])
    assert_type(r.delete("a"), DeleteResult)
    assert_type(r.add("a", -3), AddResult)
    assert_type(r.txn(compare=[Key("a").value == "x"], then=[Put("a", "b")], otherwise=(Get("a"),)), TxnResult)
    assert_type(r.put("a", KEEP, lease=KEEP, if_mod_revision=3), PutResult)
    assert_type(r.get("a", consistency="local", max_staleness=0.5, min_revision=3), KeyValue | None)
    assert_type(r.scan(sort_by="mod", descending=True, min_mod_revision=3), ScanResult)
    assert_type(r.compact(3), None)
    assert_type(r.leases(), list[LeaseInfo])
    with r.lease(10.0) as lease:
        assert_type(lease, Lease)
        assert_type(r.put("a", "b", lease=lease), PutResult)
        assert_type(lease.keys(), tuple[bytes, ...])
        assert_type(lease.renew(timeout=1), None)
        assert_type(lease.revoke(), int)
        assert_type(lease.lost.wait(1.0), bool)
    with r.watch(prefix="a", initial=True) as watch:
        assert_type(watch, Watch)
        assert_type(watch.next(1.0), Event | Synced | Progress | None)
        for event in watch:
            assert_type(event, Event | Synced | Progress)
        for batch in watch.batches():
            assert_type(batch, tuple[Event | Synced | Progress, ...])
    assert_type(r.namespace("a/").namespace("b/").get("c"), KeyValue | None)
    assert_type(r.view("a/"), View[bytes])
    assert_type(r.view("a/", codec="json")["b"], Any)
    assert_type(r.namespace("a/").view("b/", typed(int))["c"], int)
    assert_type(r.mapping("a/", codec="text"), ReplicatedMapping[str])
    r.mapping("a/", codec="text")["b"] = "c"
    assert_type(r.wait_ready(), None)
    assert_type(r.submit(Put("a", "b")), Future[Any])
    with r as same:
        assert_type(same, Replica)
    assert_type(Replica.from_env(), Replica)


def named(  # what an application's own functions take and return has names
    r: Replica, other: AsyncReplica, key: str, value: str | Keep, lease: LeaseLike, order: SortBy, kinds: list[EventKind], codec: CodecName
) -> tuple[Namespace, AsyncNamespace, Lost]:
    r.put(key, value, lease=lease)
    r.scan(sort_by=order)
    event: Watched | None = r.watch(kinds=kinds).next()
    assert_type(event, Event | Synced | Progress | None)
    r.view("a/", codec)
    return r.namespace("a/"), other.namespace("a/"), r.lease(10.0).lost


def changes(r: Replica) -> Changes[bytes]:
    found = r.view("a/").changes()
    assert_type(next(found), Change[bytes])
    return found


async def lost(r: AsyncReplica) -> AsyncLost:
    return (await r.lease(10.0)).lost


async def awaiting(r: AsyncReplica) -> None:
    await assert_type(r.put("a", b"1"), Coroutine[None, None, PutResult])
    assert_type(await r.put("a", b"1"), PutResult)
    assert_type(await asyncio.gather(r.put("a", b"1"), r.get("a")), tuple[PutResult, KeyValue | None])
    assert_type(await r.get("a"), KeyValue | None)
    assert_type(await r.scan(start="a", end="b"), ScanResult)
    assert_type(await r.delete(prefix="a"), DeleteResult)
    assert_type(await r.add("a"), AddResult)
    assert_type(await r.txn(then=[Put("a", "b")]), TxnResult)
    assert_type(await r.compact(3), None)
    assert_type(await r.leases(), list[LeaseInfo])
    assert_type(await r.lease(10.0), AsyncLease)
    async with r.lease(10.0) as lease:
        assert_type(lease, AsyncLease)
        assert_type(await lease.keys(), tuple[bytes, ...])
        assert_type(await lease.revoke(), int)
        assert_type(await lease.lost, bool)
        assert_type(await lease.lost.wait(1.0), bool)
    async with r.watch("a") as watch:
        assert_type(watch, AsyncWatch)
        assert_type(await watch.next(1.0), Event | Synced | Progress | None)
        async for event in watch:
            assert_type(event, Event | Synced | Progress)
    assert_type(await r.namespace("a/").namespace("b/").get("c"), KeyValue | None)
    assert_type(await r.view("a/", codec="text"), AsyncView[str])
    assert_type(await r.mapping("a/", typed(float))["b"], float)
    assert_type(await r.wait_ready(1.0), None)
    async with r as same:
        assert_type(same, AsyncReplica)
    assert_type(await AsyncReplica().open(), AsyncReplica)


def wrong(r: Replica) -> None:
    r.put("a")  # type: ignore[call-arg]
    r.put(1, "b")  # type: ignore[arg-type]
    r.put("a", None)  # type: ignore[arg-type]
    r.put("a", "b", prev="x")  # type: ignore[call-arg]
    r.put("a", "b", True)  # type: ignore[call-arg]
    r.get("a", consistency="strong")  # type: ignore[arg-type]
    _ = r.get("a").value  # type: ignore[union-attr]
    r.scan(limit="3")  # type: ignore[arg-type]
    r.add("a", 1.5)  # type: ignore[arg-type]
    r.txn(then=["put"])  # type: ignore[list-item]
    r.txn(compare=[True])  # type: ignore[list-item]
    r.submit("put")  # type: ignore[arg-type]
    r.put("a", "b", lease="7")  # type: ignore[arg-type]
    r.scan(sort_by="size")  # type: ignore[arg-type]
    r.watch(kinds=["puts"])  # type: ignore[list-item]
    r.lease("10")  # type: ignore[arg-type]
    r.view("a/", codec="yaml")  # type: ignore[call-overload]
    r.mapping("a/", codec="text")["b"] = 1  # type: ignore[assignment]
    r.wait_ready("1")  # type: ignore[arg-type]
    Replica(5)  # type: ignore[arg-type]
    Replica("a", "data")  # type: ignore[call-arg]
    Replica("a", cluster=["a"])  # type: ignore[arg-type]
    with r.put("a", "b") as _:  # type: ignore[attr-defined]
        pass


async def wrong_too(r: AsyncReplica) -> None:
    await r.put(1, "b")  # type: ignore[arg-type]
    await r.get("a", consistency="strong")  # type: ignore[arg-type]
    _ = (await r.get("a")).value  # type: ignore[union-attr]
    _ = r.put("a", "b").revision  # type: ignore[attr-defined]
    await r.submit(Put("a", "b"))  # type: ignore[misc]
    with r:  # type: ignore[attr-defined]
        pass
    mapping = r.mapping("a/")
    _ = "b" in mapping  # type: ignore[misc]
    for _ in mapping:  # type: ignore[misc]
        pass
