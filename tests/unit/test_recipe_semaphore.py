"""Semaphores: never more holders than permits, in the order in which they came, and nobody is forgotten."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from eventual import PATIENCE, eventually
from recipes import FAST, has_keys, keys_of, revoke

from replkv import AsyncReplica, Conflict, LockLost, Replica, Semaphore, WaitTimeout
from replkv.recipes.base import RESERVED
from replkv.recipes.semaphore import _PermitLine

LINE = RESERVED + b"semaphore/api/line/"


@pytest.fixture
def replica() -> Iterator[Replica]:
    with Replica(settings=FAST) as replica:
        yield replica


def in_line(replica: Replica) -> int:
    return keys_of(replica, "semaphore", "line/")


def acquired(replica: Replica, permits: int) -> list[Semaphore]:
    """So many holders of a semaphore of so many permits."""
    holders = [replica.semaphore("api", permits) for _ in range(permits)]
    for holder in holders:
        holder.acquire(PATIENCE)
    return holders


class Waiters:
    """Some that wait in line, one behind the other."""

    def __init__(self, replica: Replica, pool: ThreadPoolExecutor, permits: int, number: int) -> None:
        before = in_line(replica)
        self.all = [replica.semaphore("api", permits, ttl=60.0) for _ in range(number)]  # who is not woken looks too late
        self.futures = []
        for count, waiter in enumerate(self.all):
            self.futures.append(pool.submit(waiter.acquire, PATIENCE))
            eventually(lambda: in_line(replica) == before + count + 1)  # noqa: B023

    def held(self) -> list[bool]:
        return [waiter.held for waiter in self.all]


def test_as_many_hold_it_as_there_are_permits(replica: Replica) -> None:
    one, other = acquired(replica, 2)
    third = replica.semaphore("api", 2)
    assert third.try_acquire() is None
    with pytest.raises(WaitTimeout, match="semaphore 'api' had no permit free in time: its 2 are taken"):
        third.acquire(0.05)
    assert in_line(replica) == 2
    one.release()
    assert third.try_acquire()
    third.release()
    other.release()
    assert in_line(replica) == 0


def test_a_leaving_holder_whichever_lets_the_first_that_waits_go_on_and_they_follow_in_order(replica: Replica) -> None:
    holders = acquired(replica, 3)
    with ThreadPoolExecutor(4) as pool:
        waiters = Waiters(replica, pool, 3, 4)
        for number, leaving in enumerate([holders[1], holders[2], waiters.all[0], holders[0]]):
            leaving.release()
            waiters.futures[number].result(PATIENCE)
        assert waiters.held() == [False, True, True, True]
        for waiter in waiters.all[1:]:
            waiter.release()
    assert in_line(replica) == 0


def test_a_leaving_holder_wakes_two_however_many_wait(replica: Replica, monkeypatch: pytest.MonkeyPatch) -> None:
    looks: list[_PermitLine] = []
    seen: dict[_PermitLine, int] = {}
    real = _PermitLine._look

    async def counting(self: _PermitLine, *arguments: Any) -> Any:
        looks.append(self)
        found = await real(self, *arguments)
        assert found is not None
        seen[self] = found[0].revision
        return found

    holders = acquired(replica, 2)
    monkeypatch.setattr(_PermitLine, "_look", counting)
    with ThreadPoolExecutor(8) as pool:
        waiters = Waiters(replica, pool, 2, 8)
        first, last = waiters.all[0]._line, waiters.all[-1]._line
        eventually(lambda: last in seen and seen[first] >= replica.revision)  # the first one looks whenever somebody comes
        looks.clear()
        for number, leaving in enumerate([*holders, *waiters.all[:5]]):
            leaving.release()
            waiters.futures[number].result(PATIENCE)
            eventually(lambda: len(looks) == 2 * (number + 1))  # noqa: B023  # the one it lets go on, and the next one
        for waiter in waiters.all[5:7]:
            waiter.release()
        waiters.futures[7].result(PATIENCE)
        waiters.all[7].release()


def test_one_that_gives_up_in_the_middle_of_the_line_strands_nobody(replica: Replica) -> None:
    (holder,) = acquired(replica, 1)
    with ThreadPoolExecutor(4) as pool:
        first = Waiters(replica, pool, 1, 1)
        impatient = pool.submit(replica.semaphore("api", 1).acquire, 0.3)
        eventually(lambda: in_line(replica) == 3)
        last = Waiters(replica, pool, 1, 1)
        assert isinstance(impatient.exception(PATIENCE), WaitTimeout)
        holder.release()
        first.futures[0].result(PATIENCE)
        first.all[0].release()
        last.futures[0].result(PATIENCE)
        last.all[0].release()


def test_never_more_than_the_permits_are_held_by_contending_threads(replica: Replica) -> None:
    gate, inside, most = threading.Lock(), [0], [0]

    def work() -> None:
        for _ in range(3):
            with replica.semaphore("api", 3):
                with gate:
                    inside[0] += 1
                    most[0] = max(most[0], inside[0])
                with gate:
                    inside[0] -= 1

    with ThreadPoolExecutor(8) as pool:
        for future in [pool.submit(work) for _ in range(8)]:
            future.result(PATIENCE)
    assert 1 <= most[0] <= 3
    assert in_line(replica) == 0


def test_who_says_another_number_is_refused_until_it_is_changed(replica: Replica) -> None:
    with replica.semaphore("api", 2):
        with pytest.raises(Conflict, match=r"semaphore 'api' has 2, not 3: say the same, or resize\(\) it"):
            replica.semaphore("api", 3).acquire()
        with pytest.raises(Conflict):
            replica.semaphore("api", 1).try_acquire()
        bigger = replica.semaphore("api", 3)
        bigger.resize(3)
        assert bigger.try_acquire()
        assert replica.semaphore("api", 3).try_acquire()
        assert replica.semaphore("api", 3).try_acquire() is None


def test_more_permits_let_those_that_wait_go_on(replica: Replica) -> None:
    holders = acquired(replica, 1)
    with ThreadPoolExecutor(3) as pool:
        waiters = Waiters(replica, pool, 1, 3)
        holders[0].resize(3)
        eventually(lambda: waiters.held() == [True, True, False])
        holders[0].release()
        eventually(lambda: waiters.held() == [True, True, True])
        for waiter in waiters.all:
            waiter.release()


def test_fewer_permits_take_none_away_and_count_when_enough_have_come_back(replica: Replica) -> None:
    holders = acquired(replica, 3)
    holders[0].resize(2)
    with ThreadPoolExecutor(1) as pool:
        waiters = Waiters(replica, pool, 2, 1)
        assert all(holder.held for holder in holders)
        holders[0].release()
        assert replica.semaphore("api", 2).try_acquire() is None
        assert waiters.held() == [False]
        holders[1].release()  # not the one right before the one that waits
        waiters.futures[0].result(PATIENCE)
        waiters.all[0].release()


def test_a_lost_lease_gives_the_permit_to_the_next_and_ends_its_guard(replica: Replica) -> None:
    (holder,) = acquired(replica, 1)
    replica.put("key", "1", guard=holder)
    with ThreadPoolExecutor(1) as pool:
        waiters = Waiters(replica, pool, 1, 1)
        revoke(replica, holder._held.lifeline.id)
        waiters.futures[0].result(PATIENCE)
    assert holder.lost.wait(PATIENCE)
    with pytest.raises(LockLost):
        replica.put("key", "2", guard=holder)
    with pytest.raises(LockLost):
        holder.release()
    waiters.all[0].release()


def test_tasks_take_turns_and_a_cancelled_wait_leaves_nothing_behind() -> None:
    async def scenario() -> None:
        async with AsyncReplica(settings=FAST) as replica:
            inside, most = 0, 0

            async def work() -> None:
                nonlocal inside, most
                async with replica.semaphore("api", 2):
                    inside += 1
                    most = max(most, inside)
                    await asyncio.sleep(0)
                    inside -= 1

            async with asyncio.timeout(PATIENCE):
                await asyncio.gather(*(work() for _ in range(10)))
                assert 1 <= most <= 2
                async with replica.semaphore("api", 2), replica.semaphore("api", 2):
                    waiting = asyncio.create_task(replica.semaphore("api", 2).acquire())
                    await has_keys(replica, LINE, 3)
                    waiting.cancel()
                    with pytest.raises(asyncio.CancelledError):
                        await waiting
                await has_keys(replica, LINE, 0)

    asyncio.run(scenario())


def test_a_namespace_has_its_own_and_bad_arguments_are_refused_at_once(replica: Replica) -> None:
    with replica.semaphore("api", 1), replica.namespace("other/").semaphore("api", 2) as permit:
        replica.put("key", "1", guard=permit)
    for permits, error in ((0, ValueError), (-1, ValueError), (True, TypeError), ("2", TypeError)):
        with pytest.raises(error):
            replica.semaphore("api", permits)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="permit"):
        replica.semaphore("api", 1).resize(0)
