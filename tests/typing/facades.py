"""What type checkers must say of the two facades: read by mypy in test_typing.py, never run.

``assert_type`` lines must hold.  Lines that end in ``# type: ignore[code]`` must be the only errors, with that code.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from concurrent.futures import Future
from pathlib import Path
from typing import Any, assert_type

from replkv import (
    KEEP,
    ActingReplica,
    AddResult,
    AsyncActingReplica,
    AsyncClaim,
    AsyncClient,
    AsyncDoubleBarrier,
    AsyncLease,
    AsyncLock,
    AsyncLost,
    AsyncNamespace,
    AsyncRegistration,
    AsyncReplica,
    AsyncRWLockSide,
    AsyncSemaphore,
    AsyncTerm,
    AsyncTransaction,
    AsyncView,
    AsyncWatch,
    AuthStatus,
    Backup,
    Change,
    Changes,
    Claim,
    Client,
    CodecName,
    Config,
    DeleteResult,
    DoubleBarrier,
    Event,
    EventKind,
    Get,
    Guard,
    Keep,
    Key,
    KeyValue,
    Leader,
    Lease,
    LeaseInfo,
    LeaseLike,
    Lock,
    Lost,
    Member,
    Namespace,
    Progress,
    Put,
    PutResult,
    Registration,
    Replica,
    ReplicatedMapping,
    Role,
    RWLockSide,
    ScanResult,
    Semaphore,
    SortBy,
    Status,
    Synced,
    Term,
    Transaction,
    TxnResult,
    User,
    View,
    Watch,
    Watched,
    aio,
    connect,
    typed,
)


def blocking(r: Replica) -> None:
    assert_type(r.put("a", b"1"), PutResult)
    assert_type(r.put("a", b"1", prev_kv=True, timeout=None).prev_kv, KeyValue | None)
    assert_type(r.put("a", b"1", guard=Guard("lock", 2)), PutResult)
    r.put("a", b"1", guard=2)  # type: ignore[arg-type]
    assert_type(r.delete("a", guard=Guard("lock", 2)), DeleteResult)
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
    assert_type(r.change_members(add={"d": "host:1"}, remove=["a"]), None)
    assert_type(r.promote("d"), None)
    assert_type(r.transfer_leadership("d", timeout=1.0), None)
    assert_type(r.leave(), None)
    assert_type(r.submit(Put("a", "b")), Future[Any])
    assert_type(r.auth.status(), AuthStatus)
    assert_type(r.auth.add_user("a", "b"), None)
    assert_type(r.auth.grant_permission("r", "readwrite", prefix="a/"), None)
    assert_type(r.auth.users(), list[str])
    assert_type(r.auth.user("a"), User)
    assert_type(r.auth.role("r"), Role)
    acting = r.as_user("a", b"b")
    assert_type(acting, ActingReplica)
    assert_type(acting.get("a"), KeyValue | None)
    assert_type(acting.auth.roles(timeout=1.0), list[str])
    with acting.lease(10.0) as lease, acting.lock("a") as lock:
        assert_type(lease, Lease)
        assert_type(lock, Lock)
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
    assert_type(await r.change_members(learners={"d": "host:1"}), None)
    assert_type(await r.promote("d"), None)
    assert_type(await r.transfer_leadership(), None)
    assert_type(await r.leave(timeout=1.0), None)
    assert_type(await r.auth.status(), AuthStatus)
    assert_type(await r.auth.change_password("a", None), None)
    assert_type(await r.auth.role("r"), Role)
    acting = await r.as_user("a", "b")
    assert_type(acting, AsyncActingReplica)
    assert_type(await acting.scan(prefix="a/"), ScanResult)
    assert_type(await acting.auth.user("a"), User)
    async with r as same:
        assert_type(same, AsyncReplica)
    assert_type(await AsyncReplica().open(), AsyncReplica)


def connected(c: Client) -> None:
    assert_type(connect("data"), Client)
    assert_type(connect(["a:7421", "b:7421"], insecure=True, config=Config(), timeout=None), Client)
    assert_type(c.put("a", b"1"), PutResult)
    assert_type(c.get("a", consistency="local"), KeyValue | None)
    assert_type(c.submit(Get("a")), Future[Any])
    assert_type(c.status(), Status)
    assert_type(c.transfer_leadership("b"), None)
    assert_type(c.backup("file", overwrite=True, on_progress=print), Backup)
    assert_type(c.members(timeout=1.0), list[Member])
    assert_type(c.watch("a"), Watch)
    assert_type(c.lease(10.0), Lease)
    assert_type(c.namespace("a/").view("b/", codec="text"), View[str])
    with c as same:
        assert_type(same, Client)


async def connected_too(c: AsyncClient) -> None:
    assert_type(aio.connect("data"), AsyncClient)
    assert_type(await aio.connect("data"), AsyncClient)
    async with aio.connect("data") as same:
        assert_type(same, AsyncClient)
    assert_type(await c.get("a"), KeyValue | None)
    assert_type(await c.status(), Status)
    assert_type(await c.transfer_leadership(), None)
    assert_type(await c.backup(Path("file")), Backup)
    assert_type(await c.members(), list[Member])
    assert_type(c.watch("a"), AsyncWatch)
    assert_type(await c.lease(10.0), AsyncLease)


def agreeing(r: Replica) -> None:
    with r.lock("a", ttl=5.0) as lock:
        assert_type(lock, Lock)
        assert_type(r.put("a", "b", guard=lock), PutResult)
    assert_type(lock.acquire(1.0), int)
    assert_type(lock.try_acquire(), int | None)
    assert_type(lock.release(), None)
    with r.election("a").lead("me") as term:
        assert_type(term, Term)
        assert_type(term.proclaim("you"), int)
    assert_type(r.namespace("a/").election("a").run(lambda term: term.fence), int | None)
    assert_type(r.election("a").leader(), Leader | None)
    for leader in r.election("a").observe():
        assert_type(leader, Leader | None)
    assert_type(r.transact(lambda t: t.get("a")), KeyValue | None)

    @r.transact(retries=3)
    def count(t: Transaction, key: str) -> int:
        assert_type(t.scan(prefix=key), list[KeyValue])
        return 1

    assert_type(count("a"), int)
    assert_type(r.queue("a", "json").put(1), int)
    with r.priority_queue("a", "json").claim(timeout=1) as item:
        assert_type(item, Claim)
        assert_type(item.done(Put("a", "b")), None)
    with r.rwlock("a").read() as side:
        assert_type(side, RWLockSide)
        assert_type(side.acquire(timeout=1), int)
        r.put("a", "b", guard=side)
    with r.semaphore("a", 3) as permit:
        assert_type(permit, Semaphore)
        assert_type(permit.resize(4), None)
        assert_type(permit.lost, Lost)
    assert_type(r.barrier("a").hold(lease=r.lease(3)), bool)
    assert_type(r.barrier("a").wait(1), None)
    with r.double_barrier("a", 3, ttl=5) as barrier:
        assert_type(barrier, DoubleBarrier)
        assert_type(barrier.enter(), int)
    assert_type(r.counter("a", 3).add(), int)
    assert_type(int(r.counter("a")), int)
    assert_type(r.counter("a").reserve(3), range)
    with r.registry("a", "json").register("b", [1], again=False) as registration:
        assert_type(registration, Registration)
        assert_type(registration.update([2]), None)
    assert_type(r.registry("a").discover(), dict[str, Any])
    assert_type(r.registry("a").view(), View[Any])
    assert_type(r.rate_limiter("a", 3, burst=4).try_acquire(2), bool)


async def agreeing_too(r: AsyncReplica) -> None:
    async with r.lock("a") as lock:
        assert_type(lock, AsyncLock)
        await r.put("a", "b", guard=lock)
    assert_type(await lock.acquire(1.0), int)
    async with r.election("a").lead("me") as term:
        assert_type(term, AsyncTerm)
        assert_type(await term.proclaim("you"), int)
    assert_type(await r.election("a").lead(), AsyncTerm)
    async for leader in r.election("a").observe():
        assert_type(leader, Leader | None)

    async def lead(term: AsyncTerm) -> int:
        return term.fence

    assert_type(await r.election("a").run(lead), int)

    @r.transact()
    async def count(t: AsyncTransaction, key: str) -> int:
        assert_type(await t.get(key), KeyValue | None)
        return 1

    assert_type(await count("a"), int)
    assert_type(await r.queue("a").put(b"1"), int)
    async with r.queue("a").claim() as item:
        assert_type(item, AsyncClaim)
        await item.done()
    async with r.rwlock("a").write() as side:
        assert_type(side, AsyncRWLockSide)
        assert_type(await side.acquire(timeout=1), int)
    async with r.semaphore("a", 3) as permit:
        assert_type(permit, AsyncSemaphore)
        assert_type(await permit.resize(4), None)
        assert_type(permit.lost, AsyncLost)
    assert_type(await r.barrier("a").hold(), bool)
    async with r.double_barrier("a", 3, ttl=5) as barrier:
        assert_type(barrier, AsyncDoubleBarrier)
        assert_type(await barrier.enter(), int)
    assert_type(await r.counter("a", 3).add(), int)
    assert_type(await r.counter("a").reserve(3), range)
    async with r.registry("a", "json").register("b", [1]) as registration:
        assert_type(registration, AsyncRegistration)
    assert_type(await r.registry("a").register("b", "c"), AsyncRegistration)
    assert_type(await r.registry("a").discover(), dict[str, Any])
    assert_type(r.registry("a").view(), AsyncView[Any])
    assert_type(await r.rate_limiter("a", 3, burst=4).try_acquire(2), bool)


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
    r.lock(1)  # type: ignore[arg-type]
    r.election("a").lead(1)  # type: ignore[arg-type]
    r.rwlock("a").read(3)  # type: ignore[call-arg]
    r.semaphore("a", "3")  # type: ignore[arg-type]
    r.double_barrier("a")  # type: ignore[call-arg]
    r.counter("a").add("3")  # type: ignore[arg-type]
    r.registry("a", "yaml")  # type: ignore[arg-type]
    r.rate_limiter("a", "3")  # type: ignore[arg-type]
    r.transact(lambda: 1)  # type: ignore[arg-type, misc]
    r.transact(retries="3")  # type: ignore[call-overload]
    Replica(5)  # type: ignore[arg-type]
    Replica("a", "data")  # type: ignore[call-arg]
    Replica("a", cluster=["a"])  # type: ignore[arg-type]
    connect(5)  # type: ignore[arg-type]
    connect("data", user=5)  # type: ignore[arg-type]
    r.auth.grant_permission("r", "all", "key")  # type: ignore[arg-type]
    r.auth.add_user("a", 5)  # type: ignore[arg-type]
    _ = r.namespace("a/").auth  # type: ignore[attr-defined]
    r.as_user("a")  # type: ignore[call-arg]
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
