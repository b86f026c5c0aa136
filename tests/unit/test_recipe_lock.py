"""Locks: one holder at a time, fair, with fences, and nothing left behind."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from eventual import PATIENCE, eventually
from recipes import FAST, RESERVED, awaited, in_line, line_of, lose, revoke

from replkv import AsyncLock, AsyncReplica, Closed, Key, LockLost, NoLeader, Put, Replica, WaitTimeout
from replkv.ops import Revoke
from replkv.plans import Write
from replkv.recipes.line import Line
from replkv.recipes.lock import MOST_NAMES


@pytest.fixture
def replica() -> Iterator[Replica]:
    with Replica(settings=FAST) as replica:
        yield replica


def test_a_lock_is_held_by_one_and_goes_to_the_next(replica: Replica) -> None:
    first, second = replica.lock("jobs"), replica.lock("jobs")
    fence = first.acquire()
    assert first.held
    assert first.fence == fence
    assert second.try_acquire() is None
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(second.acquire, PATIENCE)
        eventually(lambda: in_line(replica) == 2)
        assert not waiting.done()
        first.release()
        assert not first.held
        assert waiting.result(PATIENCE) > fence
    second.release()
    assert in_line(replica) == 0


def test_locks_of_other_names_are_others(replica: Replica) -> None:
    with replica.lock("a"), replica.lock("a/b"), replica.lock("a%2Fb"), replica.lock("b"), replica.lock(b"\xff\x00"):
        assert in_line(replica) == 5


def test_waiters_get_it_in_the_order_in_which_they_came(replica: Replica) -> None:
    order: list[int] = []

    def wait(number: int) -> None:
        with replica.lock("fair"):
            order.append(number)

    first = replica.lock("fair")
    first.acquire()
    with ThreadPoolExecutor(8) as pool:
        for number in range(8):
            pool.submit(wait, number)
            eventually(lambda: in_line(replica) == number + 2)  # noqa: B023
        first.release()
    assert order == list(range(8))


def test_a_leaving_holder_wakes_only_the_next(replica: Replica, monkeypatch: pytest.MonkeyPatch) -> None:
    looks: list[int] = []
    real = Line._before

    async def counting(self: Line, *arguments: Any) -> Any:
        looks.append(1)
        return await real(self, *arguments)

    monkeypatch.setattr(Line, "_before", counting)
    first, others = replica.lock("herd"), [replica.lock("herd") for _ in range(10)]
    first.acquire()
    with ThreadPoolExecutor(10) as pool:
        for other in others:
            pool.submit(other.acquire, PATIENCE)
        eventually(lambda: len(looks) == 11)  # the first one has looked too
        first.release()
        for number in range(10):
            eventually(lambda: any(other.held for other in others))
            assert len(looks) == 11 + number + 1
            next(other for other in others if other.held).release()


def test_who_waits_in_vain_leaves_nothing_behind_and_learns_who_was_before(replica: Replica) -> None:
    with replica.lock("jobs"):
        with pytest.raises(WaitTimeout, match=r"lock 'jobs' was not free in time: 'replica' is before this one"):
            replica.lock("jobs").acquire(0.05)
        assert in_line(replica) == 1
        with pytest.raises(WaitTimeout):
            replica.lock("jobs").acquire(0)
        assert in_line(replica) == 1


@pytest.fixture
def slow(replica: Replica, monkeypatch: pytest.MonkeyPatch) -> Replica:
    """A member whose cluster answers no call that takes no time."""
    real = Replica._run

    def run(self: Replica, plan: Any, timeout: Any) -> Any:
        if timeout == 0.0:
            raise NoLeader("no answer in no time")
        return real(self, plan, timeout)

    monkeypatch.setattr(Replica, "_run", run)
    return replica


@pytest.mark.parametrize(
    "take",
    [
        lambda replica: replica.lock("free").acquire(0),
        lambda replica: replica.lock(["free", "too"]).acquire(0),
        lambda replica: replica.rwlock("free").read().acquire(0),
        lambda replica: replica.rwlock("free").write().acquire(0),
        lambda replica: replica.semaphore("free", 1).acquire(0),
        lambda replica: replica.election("free").lead(timeout=0),
        lambda replica: replica.double_barrier("free", 1).enter(0),
        lambda replica: replica.rate_limiter("free", 10).acquire(timeout=0) or True,
    ],
    ids=["lock", "locks", "reader", "writer", "semaphore", "election", "double barrier", "rate limiter"],
)
def test_what_is_free_is_had_without_waiting_for_others_however_long_the_cluster_takes(
    slow: Replica, take: Callable[[Replica], object]
) -> None:
    assert take(slow)


def test_a_free_lock_is_not_said_to_be_taken_because_a_lease_that_rested_is_over(replica: Replica, monkeypatch: pytest.MonkeyPatch) -> None:
    ended: list[int] = []
    real = Line._put

    async def put(self: Line, lifeline: Any, *arguments: Any, **named: Any) -> Any:
        if not ended:
            ended.append(lifeline.id)
            revoke(replica, lifeline.id)  # in the moment between
        return await real(self, lifeline, *arguments, **named)

    monkeypatch.setattr(Line, "_put", put)
    lock = replica.lock("jobs")
    assert lock.try_acquire()
    assert lock.held
    assert ended


def test_looking_whether_a_lock_is_lost_takes_no_memory_however_often(replica: Replica) -> None:
    with replica.lock("jobs") as lock:
        for _ in range(10):
            assert not lock.lost.is_set()
            assert not lock.lost.wait(0)
        assert lock._held.lifeline.held.on_lost == []


def test_one_that_gives_up_in_the_middle_of_the_line_lets_the_next_go_on(replica: Replica) -> None:
    first, last = replica.lock("line"), replica.lock("line")
    first.acquire()
    with ThreadPoolExecutor(2) as pool:
        middle = pool.submit(replica.lock("line").acquire, 0.2)
        eventually(lambda: in_line(replica) == 2)
        end = pool.submit(last.acquire, PATIENCE)
        eventually(lambda: in_line(replica) == 3)
        assert isinstance(middle.exception(PATIENCE), WaitTimeout)
        assert not end.done()
        first.release()
        end.result(PATIENCE)
    last.release()


def test_a_guarded_write_is_refused_when_the_lock_has_passed_on(replica: Replica) -> None:
    old, new = replica.lock("x"), replica.lock("x")
    old.acquire()
    replica.put("result", "1", guard=old)
    stale = old.guard()
    old.release()
    with new:
        for write in (lambda: replica.put("result", "2", guard=stale), lambda: replica.delete("result", guard=stale)):
            with pytest.raises(LockLost):
                write()
        assert not replica.txn(compare=[stale], then=[Put("result", "3")])
        assert replica.txn(compare=[new.guard(), Key("result").value == "1"], then=[Put("result", "4")])
    kv = replica.get("result")
    assert kv is not None
    assert kv.value == b"4"


def test_a_lock_whose_lease_is_revoked_is_lost_and_says_so(replica: Replica) -> None:
    lock = replica.lock("x")
    lock.acquire()
    revoke(replica, lock._held.lifeline.id)
    assert lock.lost.wait(PATIENCE)
    assert not lock.held
    with pytest.raises(LockLost, match=r"lock 'x' \(fence \d+\) is lost"):
        lock.check()
    with pytest.raises(LockLost):
        lock.release()
    with lock:  # it can be taken again
        lock.check()


def test_a_block_whose_lock_was_lost_ends_with_lock_lost(replica: Replica) -> None:
    with pytest.raises(LockLost), replica.lock("x") as lock:
        revoke(replica, lock._held.lifeline.id)
    with pytest.raises(ZeroDivisionError), replica.lock("x") as lock:
        revoke(replica, lock._held.lifeline.id)
        raise ZeroDivisionError
    with replica.lock("x") as lock:
        lock.release()  # and the end of the block does not mind
    assert in_line(replica) == 0


def test_a_waiter_whose_lease_is_lost_stands_in_line_anew(replica: Replica) -> None:
    first, second = replica.lock("x"), replica.lock("x")
    first.acquire()
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(second.acquire, PATIENCE)
        eventually(lambda: in_line(replica) == 2)
        newest = max(kv.lease for kv in replica.scan(prefix=RESERVED))
        revoke(replica, newest)
        eventually(lambda: max((kv.lease for kv in replica.scan(prefix=RESERVED)), default=0) > newest)
        first.release()
        waiting.result(PATIENCE)
    second.release()


def test_several_names_are_taken_together_and_never_deadlock(replica: Replica) -> None:
    names, done = ("a", "b", "c"), []

    def work(turn: int) -> None:
        with replica.lock([names[turn % 3], names[(turn + 1) % 3]]) as lock:
            lock.check()
            done.append(turn)

    with ThreadPoolExecutor(6) as pool:
        for outcome in [pool.submit(work, turn) for turn in range(60)]:
            outcome.result(PATIENCE)
    assert sorted(done) == list(range(60))
    assert in_line(replica) == 0
    both = replica.lock(["a", "b"])
    both.acquire()
    assert replica.lock("b").try_acquire() is None
    assert replica.lock(["b", "c"]).try_acquire() is None
    assert in_line(replica) == 2, "what could not be taken as a whole is not taken in part"
    both.release()


def test_a_lock_can_hang_on_a_lease_of_its_callers(replica: Replica) -> None:
    lease = replica.lease(30)
    lock, other = replica.lock("x", lease=lease), replica.lock("y", lease=lease)
    lock.acquire()
    other.acquire()
    assert len(lease.keys()) == 2
    lock.release()
    assert not lease.lost.is_set()
    other.release()
    lease.revoke()
    with pytest.raises(LockLost, match="which is over"):
        lock.acquire()
    with pytest.raises(TypeError, match=r"as lease\(\) returns it"):
        replica.lock("x", lease=7)  # type: ignore[arg-type]


def test_taking_a_free_lock_again_and_again_makes_no_new_lease(replica: Replica) -> None:
    for _ in range(20):
        with replica.lock("x"):
            pass
    assert len(replica.leases()) == 1


def test_a_process_that_takes_no_locks_any_more_lets_its_leases_end(replica: Replica) -> None:
    with replica.lock("x", ttl=0.2):
        pass
    eventually(lambda: not replica.leases())
    with replica.lock("x", ttl=0.2) as lock:
        lock.check()


def test_a_lock_is_not_reentrant_and_says_so(replica: Replica) -> None:
    lock = replica.lock("x")
    for call in (lock.release, lock.check, lock.guard, lambda: lock.fence, lambda: lock.lost):
        with pytest.raises(RuntimeError, match="is not held"):
            call()
    with lock:
        with pytest.raises(RuntimeError, match="not reentrant"):
            lock.acquire()
        with pytest.raises(RuntimeError, match="not reentrant"):
            lock.try_acquire()
    assert "not held" in repr(lock)


@pytest.mark.parametrize("name", ["", b"", [], ["a", ""], [f"{number}" for number in range(MOST_NAMES + 1)]])
def test_a_lock_needs_a_name(replica: Replica, name: Any) -> None:
    with pytest.raises(ValueError, match="name"):
        replica.lock(name)


def test_a_bad_time_to_live_is_refused_at_once(replica: Replica) -> None:
    with pytest.raises(ValueError, match="ttl"):
        replica.lock("x", ttl=0)
    with pytest.raises(TypeError, match="ttl"):
        replica.lock("x", ttl="1")  # type: ignore[arg-type]


def test_a_namespace_has_locks_of_its_own(replica: Replica) -> None:
    space = replica.namespace("app/")
    with replica.lock("x"), space.lock("x") as lock:
        space.put("k", "v", guard=lock)
        replica.put("k", "v", guard=lock)
        assert space.scan().count == 1, "spans reach what is replkv's own only if they begin there"
        guard = lock.guard()
    with pytest.raises(LockLost):
        space.put("k", "v", guard=guard)


def test_who_waits_learns_that_the_member_ends() -> None:
    with Replica(settings=FAST) as replica, ThreadPoolExecutor(1) as pool:
        replica.lock("x").acquire()
        waiting = pool.submit(replica.lock("x").acquire, PATIENCE)
        eventually(lambda: in_line(replica) == 2)
        replica.close()
        assert isinstance(waiting.exception(PATIENCE), Closed)


def test_many_threads_count_with_one_lock(replica: Replica) -> None:
    def count() -> None:
        for _ in range(10):
            with replica.lock("counter") as lock:
                kv = replica.get("n", consistency="local", min_revision=lock.fence)
                replica.put("n", str(int(kv.value) + 1 if kv else 1), guard=lock)

    with ThreadPoolExecutor(8) as pool:
        for outcome in [pool.submit(count) for _ in range(8)]:
            outcome.result(PATIENCE)
    kv = replica.get("n")
    assert kv is not None
    assert kv.value == b"80"


def test_a_lock_is_lost_by_the_holders_own_clock_when_its_member_stands_still(monkeypatch: pytest.MonkeyPatch) -> None:
    with Replica(settings=FAST) as replica:
        lock = replica.lock("x", ttl=0.3)
        lock.acquire()
        node, stuck = replica._running(), threading.Event()
        monkeypatch.setattr(node.log, "sync", lambda real=node.log.sync: stuck.wait(PATIENCE) and real())
        assert lock.lost.wait(PATIENCE), "a disk that hangs keeps no lease alive"
        assert not lock.held
        stuck.set()


# -- asyncio -----------------------------------------------------------------------------------------------------------------------


@awaited
async def test_tasks_take_turns(replica: AsyncReplica) -> None:
    fences: list[int] = []

    async def work() -> None:
        async with replica.lock("x") as lock:
            fences.append(lock.fence)
            await asyncio.sleep(0)

    await asyncio.gather(*(work() for _ in range(20)))
    assert fences == sorted(set(fences))
    assert await line_of(replica) == 0


@awaited
async def test_losing_the_lock_cancels_the_block(replica: AsyncReplica) -> None:
    went_on = False
    with pytest.raises(LockLost):
        async with replica.lock("x") as lock:
            task = lose(replica, lock._held.lifeline.id)
            await asyncio.get_running_loop().create_future()
            went_on = True
    assert not went_on
    await task
    this = asyncio.current_task()
    assert this is not None
    assert this.cancelling() == 0, "the task goes on as if nothing had been"
    assert await line_of(replica) == 0


@awaited
async def test_an_error_of_the_block_is_not_hidden_by_the_loss(replica: AsyncReplica) -> None:
    with pytest.raises(ZeroDivisionError):
        async with replica.lock("x") as lock:
            task = lose(replica, lock._held.lifeline.id)
            try:
                await asyncio.get_running_loop().create_future()
            finally:
                await task
                raise ZeroDivisionError


async def write_when_cancelled(replica: AsyncReplica, lock: AsyncLock) -> None:
    try:
        await asyncio.get_running_loop().create_future()
    finally:
        await replica.put("late", "1", guard=lock)


@awaited
async def test_a_group_of_tasks_that_were_refused_ends_the_block_as_one_loss(replica: AsyncReplica) -> None:
    with pytest.raises(LockLost, match="lock 'x'") as caught:
        async with replica.lock("x") as lock, asyncio.TaskGroup() as group:
            for _ in range(3):
                group.create_task(write_when_cancelled(replica, lock))
            await lose(replica, lock._held.lifeline.id)
    assert isinstance(caught.value.__cause__, ExceptionGroup)
    assert await replica.get("late") is None


@awaited
async def test_an_error_of_a_task_in_a_group_is_not_hidden_by_the_loss(replica: AsyncReplica) -> None:
    async def fail(losing: asyncio.Task[None]) -> None:
        try:
            await losing
        finally:
            raise ZeroDivisionError

    with pytest.raises(ExceptionGroup) as caught:
        async with replica.lock("x") as lock, asyncio.TaskGroup() as group:
            group.create_task(write_when_cancelled(replica, lock))
            group.create_task(fail(lose(replica, lock._held.lifeline.id)))
    assert caught.group_contains(ZeroDivisionError)


@awaited
async def test_a_cancelled_task_stays_cancelled_although_the_lock_is_lost_too(replica: AsyncReplica) -> None:
    async def work() -> None:
        async with replica.lock("x") as lock:
            losing = lose(replica, lock._held.lifeline.id)
            try:
                await asyncio.get_running_loop().create_future()
            finally:
                await losing
                asyncio.current_task().cancel()  # type: ignore[union-attr]

    task = asyncio.create_task(work())
    with pytest.raises(asyncio.CancelledError):
        await task


@awaited
async def test_a_cancelled_wait_leaves_the_line(replica: AsyncReplica) -> None:
    async with replica.lock("x"):
        waiting = asyncio.create_task(replica.lock("x").acquire())
        while await line_of(replica) < 2:  # noqa: ASYNC110  # what is waited for is in the store
            await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        while await line_of(replica) > 1:  # noqa: ASYNC110  # what is waited for is in the store
            await asyncio.sleep(0)


@awaited
async def test_a_lease_that_is_lost_cancels_its_block_and_one_that_is_revoked_does_not(replica: AsyncReplica) -> None:
    with pytest.raises(LockLost, match=r"lease \d+ of 60 s is lost"):
        async with replica.lease(60) as lease:
            task = lose(replica, lease.id)
            await asyncio.get_running_loop().create_future()
    await task
    async with replica.lease(60) as lease:
        await lease.revoke()
        await asyncio.sleep(0)


@awaited
async def test_a_lock_waits_for_its_loss(replica: AsyncReplica) -> None:
    lock = replica.lock("x")
    assert await lock.try_acquire() is not None
    await replica._run(Write(Revoke(lock._held.lifeline.id)), None)
    assert await lock.lost
    with pytest.raises(LockLost):
        await lock.release()


def test_a_block_ends_with_lock_lost_although_only_the_cluster_knew_of_the_loss(replica: Replica) -> None:
    for holder in (replica.lock("x"), replica.election("x").lead()):
        with pytest.raises(LockLost), holder:
            replica.delete(holder.guard().key)
            assert holder.held
    with pytest.raises(ZeroDivisionError), replica.lock("x") as lock:
        replica.delete(lock.guard().key)
        raise ZeroDivisionError
