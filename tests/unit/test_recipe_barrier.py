"""Barriers, held and released, and double barriers, at which a number of participants begin and end together."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from eventual import PATIENCE, eventually
from recipes import FAST, has_keys, keys_of, revoke

from replkv import AsyncBarrier, AsyncReplica, Conflict, DoubleBarrier, KeyValue, LockLost, Replica, WaitTimeout
from replkv.recipes.base import RESERVED, Deadline

MEMBERS = RESERVED + b"double_barrier/job/members/"


@pytest.fixture
def replica() -> Iterator[Replica]:
    with Replica(settings=FAST) as replica:
        yield replica


def members(replica: Replica) -> int:
    return keys_of(replica, "double_barrier", "members/")


# -- held and released -------------------------------------------------------------------------------------------------------------


def test_an_open_barrier_stops_nobody_and_a_held_one_all_until_it_is_released(replica: Replica) -> None:
    barrier = replica.barrier("deploy")
    barrier.wait(0)
    assert barrier.hold()
    assert not replica.barrier("deploy").hold()
    assert barrier.is_held()
    with pytest.raises(WaitTimeout, match="barrier 'deploy' was not released in time: 'replica' holds it"):
        barrier.wait(0)
    with ThreadPoolExecutor(3) as pool:
        waiting = [pool.submit(replica.barrier("deploy").wait, PATIENCE) for _ in range(3)]
        with pytest.raises(WaitTimeout):
            barrier.wait(0.05)
        assert not any(future.done() for future in waiting)
        assert replica.barrier("deploy").release()
        for future in waiting:
            future.result(PATIENCE)
    assert not barrier.release()
    assert not barrier.is_held()


def test_who_waits_while_it_is_released_goes_on_also_if_it_is_held_again_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        async with AsyncReplica(settings=FAST) as replica, asyncio.timeout(PATIENCE):
            barrier = replica.barrier("gate")
            looked, real = asyncio.Event(), AsyncBarrier._is_released

            async def is_released(self: AsyncBarrier, kv: KeyValue, until: Deadline) -> bool:
                looked.set()
                return await real(self, kv, until)

            monkeypatch.setattr(AsyncBarrier, "_is_released", is_released)
            await barrier.hold()
            waiting = asyncio.create_task(barrier.wait())
            await looked.wait()
            await barrier.release()
            await barrier.hold()
            await waiting
            assert await barrier.is_held()
            looked.clear()
            again = asyncio.create_task(barrier.wait())
            await looked.wait()
            again.cancel()
            with pytest.raises(asyncio.CancelledError):
                await again

    asyncio.run(scenario())


def test_a_barrier_held_with_a_lease_opens_when_that_ends(replica: Replica) -> None:
    barrier = replica.barrier("deploy")
    with replica.lease(60) as lease, ThreadPoolExecutor(1) as pool:
        barrier.hold(lease=lease)
        waiting = pool.submit(barrier.wait, PATIENCE)
        with pytest.raises(WaitTimeout):
            barrier.wait(0)
        lease.revoke()
        waiting.result(PATIENCE)


# -- begin and end together --------------------------------------------------------------------------------------------------------


def test_all_begin_when_enough_have_come_and_end_when_all_have_left_round_after_round(replica: Replica) -> None:
    barriers = [replica.double_barrier("job", 3) for _ in range(3)]
    rounds: list[int] = []
    with ThreadPoolExecutor(3) as pool:
        for _ in range(4):
            coming = [pool.submit(barrier.enter, PATIENCE) for barrier in barriers[:2]]
            eventually(lambda: members(replica) == 2)
            assert not any(future.done() for future in coming)
            number = barriers[2].enter(PATIENCE)
            assert {future.result(PATIENCE) for future in coming} == {number}
            rounds.append(number)
            going = [pool.submit(barrier.leave, PATIENCE) for barrier in barriers[:2]]
            eventually(lambda: members(replica) == 1)
            assert not any(future.done() for future in going)
            barriers[2].leave(PATIENCE)
            for future in going:
                future.result(PATIENCE)
    assert rounds == sorted(set(rounds))
    assert members(replica) == 0


def test_threads_that_go_round_and_round_never_meet_another_round(replica: Replica) -> None:
    def work() -> list[int]:
        barrier, rounds = replica.double_barrier("job", 4), []
        for _ in range(6):
            with barrier:
                rounds.append(barrier._round.number)
        return rounds

    with ThreadPoolExecutor(4) as pool:
        done = [future.result(PATIENCE) for future in [pool.submit(work) for _ in range(4)]]
    assert all(rounds == done[0] for rounds in done)
    assert len(set(done[0])) == 6


def test_who_comes_while_a_round_is_on_waits_for_the_next_one(replica: Replica) -> None:
    first, second, late, last = (replica.double_barrier("job", 2) for _ in range(4))
    with ThreadPoolExecutor(3) as pool:
        coming = pool.submit(first.enter, PATIENCE)
        number = second.enter(PATIENCE)
        coming.result(PATIENCE)
        with pytest.raises(WaitTimeout, match="the others of round"):
            late.enter(0.05)
        waiting = [pool.submit(barrier.enter, PATIENCE) for barrier in (late, last)]
        going = pool.submit(first.leave, PATIENCE)
        second.leave(PATIENCE)
        going.result(PATIENCE)
        assert len({future.result(PATIENCE) for future in waiting} | {number}) == 2
        going = pool.submit(late.leave, PATIENCE)
        last.leave(PATIENCE)
        going.result(PATIENCE)


def test_who_waits_in_vain_leaves_nothing_behind_and_nobody_counts_on_it(replica: Replica) -> None:
    with pytest.raises(WaitTimeout, match="double barrier 'job': 2 did not come in time"):
        replica.double_barrier("job", 2).enter(0.05)
    assert members(replica) == 0
    with pytest.raises(WaitTimeout):
        replica.double_barrier("job", 2).enter(0.05)


def test_a_round_is_not_started_for_one_that_gave_up_in_that_moment(replica: Replica, monkeypatch: pytest.MonkeyPatch) -> None:
    impatient, other = (replica.double_barrier("job", 2) for _ in range(2))
    real = type(impatient._round)._start
    holding = None

    async def start(self: object, held: object, until: object) -> int:
        nonlocal holding
        if self is impatient._round:
            holding = held
            return 0
        await impatient._round._give_up_waiting(holding)  # type: ignore[arg-type]  # counted already, and gone now
        return await real(self, held, until)  # type: ignore[arg-type]  # they are what they were

    monkeypatch.setattr(type(impatient._round), "_start", start)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(impatient.enter, 0.3)
        eventually(lambda: members(replica) == 1)
        with pytest.raises(WaitTimeout):
            other.enter(0.1)
        assert isinstance(waiting.exception(PATIENCE), WaitTimeout)
    assert keys_of(replica, "double_barrier", "started") == 0


def test_the_round_is_entered_if_it_starts_when_the_time_is_over(replica: Replica, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = (replica.double_barrier("job", 2) for _ in range(2))
    kind = type(first._round)
    real = kind._wait_for_start

    async def wait_for_start(self: object, holding: object, until: object) -> int:
        if self is first._round:
            eventually(lambda: keys_of(replica, "double_barrier", "started"))
            eventually(lambda: until.over)  # type: ignore[attr-defined]  # a deadline
            return 0
        return await real(self, holding, until)  # type: ignore[arg-type]  # they are what they were

    monkeypatch.setattr(kind, "_wait_for_start", wait_for_start)
    with ThreadPoolExecutor(1) as pool:
        entering = pool.submit(first.enter, 0.1)
        assert second.enter(PATIENCE) == entering.result(PATIENCE)
        leaving = pool.submit(first.leave, PATIENCE)
        second.leave(PATIENCE)
        leaving.result(PATIENCE)


def test_one_that_dies_in_a_round_lets_the_others_end_it_and_is_told(replica: Replica) -> None:
    dying, other = (replica.double_barrier("job", 2) for _ in range(2))
    with ThreadPoolExecutor(2) as pool:
        for future in [pool.submit(barrier.enter, PATIENCE) for barrier in (dying, other)]:
            future.result(PATIENCE)
        leaving = pool.submit(other.leave, PATIENCE)
        eventually(lambda: members(replica) == 1)
        revoke(replica, dying._held.lifeline.id)
        leaving.result(PATIENCE)
        assert dying.lost.wait(PATIENCE)
        with pytest.raises(LockLost):
            dying.leave()
        for future in [pool.submit(barrier.enter, PATIENCE) for barrier in (dying, other)]:
            future.result(PATIENCE)


def test_one_that_loses_its_lease_while_it_waits_comes_anew(replica: Replica) -> None:
    first, second = (replica.double_barrier("job", 2, ttl=0.5) for _ in range(2))
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(first.enter, PATIENCE)
        (kv,) = eventually(lambda: replica.scan(prefix=MEMBERS).kvs)
        revoke(replica, kv.lease)
        assert second.enter(PATIENCE) == waiting.result(PATIENCE)


def test_the_count_is_kept_and_objects_are_used_once_at_a_time(replica: Replica) -> None:
    barrier = replica.double_barrier("job", 1)
    with barrier:
        with pytest.raises(RuntimeError, match="is in double barrier 'job' already"):
            barrier.enter()
        with pytest.raises(Conflict, match="double barrier 'job' has 1, not 2"):
            replica.double_barrier("job", 2).enter()
    with pytest.raises(RuntimeError):
        barrier.leave()
    for count, error in ((0, ValueError), (True, TypeError)):
        with pytest.raises(error):
            replica.double_barrier("job", count)
    with replica.namespace("other/").double_barrier("job", 1):
        assert members(replica) == 0


def test_a_block_that_fails_does_not_wait_for_the_others(replica: Replica) -> None:
    def fail(barrier: DoubleBarrier) -> None:
        with barrier:
            raise ZeroDivisionError

    with ThreadPoolExecutor(1) as pool:
        other = replica.double_barrier("job", 2)
        entering = pool.submit(other.enter, PATIENCE)
        with pytest.raises(ZeroDivisionError):
            fail(replica.double_barrier("job", 2))
        entering.result(PATIENCE)
        other.leave(PATIENCE)


def test_tasks_go_round_together_and_a_cancelled_one_leaves_nothing_behind() -> None:
    async def scenario() -> None:
        async with AsyncReplica(settings=FAST) as replica:
            rounds: list[int] = []

            async def work() -> None:
                barrier = replica.double_barrier("job", 3)
                for _ in range(3):
                    async with barrier:
                        rounds.append(barrier._round.number)

            async with asyncio.timeout(PATIENCE):
                await asyncio.gather(*(work() for _ in range(3)))
                assert sorted(rounds) == rounds
                assert len(set(rounds)) == 3
                waiting = asyncio.create_task(replica.double_barrier("job", 3).enter())
                await has_keys(replica, MEMBERS, 1)
                waiting.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await waiting
                await has_keys(replica, MEMBERS, 0)

    asyncio.run(scenario())
