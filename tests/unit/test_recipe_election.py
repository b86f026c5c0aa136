"""Elections: one leader at a time, work that is done only while leading, and who leads as others see it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from eventual import PATIENCE, eventually
from recipes import FAST, awaited, in_line, line_of, lose, revoke

from replkv import AsyncReplica, AsyncTerm, Closed, Leader, LockLost, Replica, Term, WaitTimeout
from replkv.recipes.base import RESERVED
from replkv.recipes.line import Line


@pytest.fixture
def replica() -> Iterator[Replica]:
    with Replica(settings=FAST) as replica:
        yield replica


def lease_of(term: Term | AsyncTerm) -> int:
    return term._held.lifeline.id


def test_one_leads_and_the_next_does_when_that_one_resigns(replica: Replica) -> None:
    election = replica.election("jobs")
    assert election.leader() is None
    first = election.lead("one")
    fence = first.fence
    assert election.leader() == Leader(b"one", fence)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(replica.election("jobs").lead, "two")
        eventually(lambda: in_line(replica) == 2)
        assert not waiting.done()
        first.resign()
        second = waiting.result(PATIENCE)
    assert not first.held
    assert second.fence > fence
    leader = election.leader()
    assert leader is not None
    assert leader.text == "two"
    second.resign()
    assert election.leader() is None
    assert in_line(replica) == 0


def test_the_block_of_a_term_resigns_at_its_end(replica: Replica) -> None:
    with replica.election("jobs").lead() as term:
        assert term.held
        term.check()
        replica.put("k", "v", guard=term)
        guard = term.guard()
    assert in_line(replica) == 0
    with pytest.raises(LockLost):
        replica.put("k", "v", guard=guard)
    for use in (term.check, term.guard, term.resign, lambda: term.fence, lambda: term.proclaim("x")):
        with pytest.raises(RuntimeError, match="is not held"):
            use()
    with pytest.raises(RuntimeError, match="is over"), term:
        pass


def test_a_leader_can_proclaim_something_else_while_it_leads(replica: Replica) -> None:
    election = replica.election("jobs")
    with election.lead("old") as term:
        revision = term.proclaim("new")
        assert replica.revision == revision
        assert election.leader() == Leader(b"new", term.fence)
        term.check()
        replica.delete(term._held.key)  # which the cluster knows before this process does
        with pytest.raises(LockLost):
            term.proclaim("late")
        revoke(replica, lease_of(term))
        with pytest.raises(LockLost):
            term.proclaim("late")
        with pytest.raises(LockLost):
            term.resign()
    assert election.leader() is None


def test_a_value_that_is_no_text_can_be_proclaimed_and_waited_behind(replica: Replica) -> None:
    with replica.election("jobs").lead(b"\xff"), pytest.raises(WaitTimeout, match=r"election 'jobs' was not free in time: '\\\\xff'"):
        replica.election("jobs").lead(timeout=0.01)


def test_who_does_not_come_to_lead_in_time_leaves_nothing_behind(replica: Replica) -> None:
    with replica.election("jobs").lead():
        for timeout in (0, 0.05):
            with pytest.raises(WaitTimeout):
                replica.election("jobs").lead(timeout=timeout)
        assert in_line(replica) == 1


def test_candidates_lead_in_the_order_in_which_they_came_and_one_is_woken_at_a_time(
    replica: Replica, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks, order = [0], []
    real = Line._before

    async def counting(self: Line, *arguments: Any) -> Any:
        looks[0] += 1
        return await real(self, *arguments)

    monkeypatch.setattr(Line, "_before", counting)

    def work(number: int) -> None:
        with replica.election("fair").lead():
            order.append(number)

    first = replica.election("fair").lead()
    with ThreadPoolExecutor(8) as pool:
        for number in range(8):
            pool.submit(work, number)
            eventually(lambda: in_line(replica) == number + 2)  # noqa: B023
        before = looks[0]
        first.resign()
    assert order == list(range(8))
    assert looks[0] - before <= 16, "each looks when it takes its place, and when the one before it leaves"


def test_a_term_whose_lease_is_lost_ends_its_block_with_lock_lost(replica: Replica) -> None:
    with pytest.raises(LockLost, match=r"election 'jobs' \(fence \d+\) is lost"), replica.election("jobs").lead() as term:
        revoke(replica, lease_of(term))
        assert term.lost.wait(PATIENCE)
        assert not term.held
    with pytest.raises(ZeroDivisionError), replica.election("jobs").lead() as term:
        revoke(replica, lease_of(term))
        raise ZeroDivisionError


def test_a_term_can_hang_on_a_lease_of_its_callers(replica: Replica) -> None:
    lease = replica.lease(30)
    election = replica.election("jobs", lease=lease)
    with election.lead():
        assert len(lease.keys()) == 1
    assert not lease.lost.is_set()
    lease.revoke()
    with pytest.raises(LockLost, match="which is over"):
        election.lead()
    with pytest.raises(LockLost, match="which is over"):
        election.run(lambda term: term)


def test_elections_of_a_namespace_are_its_own(replica: Replica) -> None:
    space = replica.namespace("app/")
    with replica.election("x").lead("outer"), space.election("x").lead("inner") as term:
        term.proclaim("still inner")
        space.put("k", "v", guard=term)
        leader = space.election("x").leader()
        assert leader is not None
        assert leader.text == "still inner"


@pytest.mark.parametrize("wrong", [{"name": ""}, {"name": "x", "ttl": 0}, {"name": "x", "ttl": 1e12}])
def test_bad_arguments_are_refused_at_once(replica: Replica, wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="name|ttl"):
        replica.election(**wrong)


def test_bad_arguments_of_its_calls_are_refused_at_once(replica: Replica) -> None:
    election = replica.election("x")
    with pytest.raises(TypeError, match="value"):
        election.lead(1)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="timeout"):
        election.lead(timeout=-1)
    with pytest.raises(ValueError, match="timeout"):
        election.observe(timeout=-1)
    assert in_line(replica) == 0
    assert repr(election) == "<Election 'x'>"


# -- run ---------------------------------------------------------------------------------------------------------------------------


def test_run_leads_calls_resigns_and_returns(replica: Replica) -> None:
    election = replica.election("jobs")
    assert election.run(lambda term: (term.held, election.leader() == Leader(b"me", term.fence)), value="me") == (True, True)
    assert election.leader() is None

    def failing(term: Term) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        election.run(failing)
    assert in_line(replica) == 0


def _take_away(replica: Replica) -> None:
    """Delete the leader's key, which its process does not learn."""
    replica.delete(replica.scan(prefix=RESERVED, sort_by="create", limit=1)[0].key)


def test_run_leads_again_when_the_cluster_knew_of_the_loss_before_the_leader_did(replica: Replica) -> None:
    fences: list[int] = []

    def work(term: Term) -> str:
        fences.append(term.fence)
        if len(fences) == 1:
            _take_away(replica)
        assert term.held
        replica.put("result", "done", guard=term)
        return "done"

    assert replica.election("e").run(work) == "done"
    assert len(fences) == 2


def test_who_gives_back_what_the_cluster_has_taken_away_is_told(replica: Replica) -> None:
    lock = replica.lock("jobs")
    lock.acquire()
    _take_away(replica)
    with pytest.raises(LockLost):
        lock.release()
    term = replica.election("e").lead()
    _take_away(replica)
    with pytest.raises(LockLost):
        term.resign()
    assert replica.lock("jobs").try_acquire()


def test_run_calls_the_function_again_when_the_term_was_lost(replica: Replica) -> None:
    fences: list[int] = []

    def work(term: Term) -> str:
        fences.append(term.fence)
        if len(fences) == 1:
            revoke(replica, lease_of(term))
            assert term.lost.wait(PATIENCE)
            return "does not count"
        if len(fences) == 2:
            revoke(replica, lease_of(term))
            replica.put("result", "1", guard=term)
        return "done"

    assert replica.election("jobs").run(work) == "done"
    assert len(fences) == 3
    assert fences == sorted(set(fences))
    assert replica.get("result") is None


def test_run_does_not_take_the_loss_of_another_lock_for_that_of_the_term(replica: Replica) -> None:
    calls: list[int] = []

    def work(term: Term) -> None:
        calls.append(term.fence)
        with replica.lock("other") as lock:
            revoke(replica, lock._held.lifeline.id)
            lock.check()

    with pytest.raises(LockLost, match="lock 'other'"):
        replica.election("jobs").run(work)
    assert len(calls) == 1
    assert replica.election("jobs").leader() is None


def test_run_raises_a_timeout_of_the_function_as_it_is(replica: Replica) -> None:
    def work(term: Term) -> None:
        raise WaitTimeout("mine")

    with pytest.raises(WaitTimeout, match="mine"):
        replica.election("jobs").run(work, stop=threading.Event())


def test_a_wait_to_lead_ends_when_it_is_to_stop(replica: Replica) -> None:
    stop = threading.Event()
    with replica.election("jobs").lead(), ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(replica.election("jobs").run, lambda term: term.fence, stop=stop)
        eventually(lambda: in_line(replica) == 2)
        stop.set()
        assert waiting.result(PATIENCE) is None
        assert in_line(replica) == 1
    assert replica.election("jobs").run(lambda term: term.fence, stop=stop) is None
    stop.clear()

    def work(term: Term) -> int:
        stop.set()
        return term.fence

    assert replica.election("jobs").run(work, stop=stop), "who leads goes on to its end"


def test_who_runs_learns_that_the_member_ends() -> None:
    with Replica(settings=FAST) as replica, ThreadPoolExecutor(1) as pool:
        replica.election("x").lead()
        waiting = pool.submit(replica.election("x").run, lambda term: term.fence)
        eventually(lambda: in_line(replica) == 2)
        replica.close()
        assert isinstance(waiting.exception(PATIENCE), Closed)


# -- observe -----------------------------------------------------------------------------------------------------------------------


def test_observers_see_who_leads_what_it_proclaims_and_when_nobody_does(replica: Replica) -> None:
    election = replica.election("jobs")
    with election.observe() as leaders:
        assert next(leaders) is None
        with election.lead("a") as term:
            assert next(leaders) == Leader(b"a", term.fence)
            with ThreadPoolExecutor(1) as pool:
                waiting = pool.submit(replica.election("jobs").lead, "b")
                eventually(lambda: in_line(replica) == 2)
                term.proclaim("c")
                assert next(leaders) == Leader(b"c", term.fence), "a candidate is no news"
                term.resign()
                second = waiting.result(PATIENCE)
        assert next(leaders) == Leader(b"b", second.fence)
        second.resign()
        assert next(leaders) is None
    with pytest.raises(StopIteration):
        next(leaders)


def test_an_observer_that_comes_late_sees_the_newest_only(replica: Replica) -> None:
    election = replica.election("jobs")
    leaders = election.observe(timeout=0)
    assert next(leaders) is None
    with election.lead("a"):
        pass
    with election.lead("b") as term:
        term.proclaim("c")
        assert list(leaders) in ([Leader(b"c", term.fence)], [Leader(b"b", term.fence), Leader(b"c", term.fence)])


def test_an_observer_waits_until_it_is_closed_or_nothing_comes(replica: Replica) -> None:
    election = replica.election("jobs")
    assert list(election.observe(timeout=0.01)) == [None]
    leaders = election.observe()
    assert next(leaders) is None
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(list, leaders)
        leaders.close()
        assert waiting.result(PATIENCE) == []
        leaders = election.observe()
        waiting = pool.submit(list, leaders)
        replica.close()
        assert waiting.result(PATIENCE) in ([None], [])


def test_an_observer_looks_anew_when_the_history_it_needs_is_gone(replica: Replica) -> None:
    election = replica.election("jobs")
    leaders = election.observe()
    assert next(leaders) is None
    with election.lead("a") as term:
        replica.put("k", "v")
        replica.compact(replica.revision)
        assert next(leaders) == Leader(b"a", term.fence)


# -- asyncio -----------------------------------------------------------------------------------------------------------------------


@awaited
async def test_a_task_leads_by_awaiting_or_entering(replica: AsyncReplica) -> None:
    election = replica.election("x")
    term = await election.lead("a")
    assert await term is term
    assert await election.leader() == Leader(b"a", term.fence)
    await term.proclaim("b")
    await term.resign()
    with pytest.raises(RuntimeError, match="is over"):
        await term
    async with election.lead("c") as term:
        assert await election.leader() == Leader(b"c", term.fence)
        await replica.put("k", "v", guard=term)
    async with await election.lead("d") as term:
        assert term.held
    assert await line_of(replica) == 0
    with pytest.raises(RuntimeError, match="is not held"):
        election.lead().check()


@awaited
async def test_losing_the_term_cancels_the_block(replica: AsyncReplica) -> None:
    with pytest.raises(LockLost):
        async with replica.election("x").lead() as term:
            task = lose(replica, lease_of(term))
            await asyncio.get_running_loop().create_future()
    await task
    assert await line_of(replica) == 0


@awaited
async def test_a_block_whose_term_was_resigned_goes_on(replica: AsyncReplica) -> None:
    async with replica.election("x").lead() as term:
        lease = lease_of(term)
        await term.resign()
        await lose(replica, lease)
        await asyncio.sleep(0)


@awaited
async def test_a_cancelled_candidate_leaves_the_line(replica: AsyncReplica) -> None:
    async with replica.election("x").lead():
        term = replica.election("x").lead()
        waiting = asyncio.ensure_future(term)
        while await line_of(replica) < 2:  # noqa: ASYNC110  # what is waited for is in the store
            await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        while await line_of(replica) > 1:  # noqa: ASYNC110  # what is waited for is in the store
            await asyncio.sleep(0)
    async with term:
        assert term.held, "who was cancelled can be awaited again"


@awaited
async def test_run_cancels_the_function_when_the_term_is_lost_and_calls_it_again(replica: AsyncReplica) -> None:
    fences: list[int] = []
    cancelled: list[int] = []

    async def work(term: AsyncTerm) -> str:
        fences.append(term.fence)
        if len(fences) == 1:
            losing = lose(replica, lease_of(term))
            try:
                await asyncio.get_running_loop().create_future()
            finally:
                cancelled.append(term.fence)
                await losing
        return "done"

    assert await replica.election("x").run(work, value="me") == "done"
    assert len(fences) == 2
    assert cancelled == fences[:1]
    assert await replica.election("x").leader() is None


@awaited
async def test_a_cancelled_run_cancels_the_function_and_resigns(replica: AsyncReplica) -> None:
    begun = asyncio.Event()

    async def work(term: AsyncTerm) -> None:
        begun.set()
        await asyncio.get_running_loop().create_future()

    running = asyncio.create_task(replica.election("x").run(work))
    await begun.wait()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert await replica.election("x").leader() is None


@awaited
async def test_run_raises_what_the_function_raises(replica: AsyncReplica) -> None:
    async def work(term: AsyncTerm) -> None:
        async with replica.lock("other") as lock:
            await lose(replica, lock._held.lifeline.id)
            lock.check()

    with pytest.raises(LockLost, match="lock 'other'"):
        await replica.election("x").run(work)
    assert await replica.election("x").leader() is None


@awaited
async def test_a_task_observes_and_a_cancelled_wait_loses_nothing(replica: AsyncReplica) -> None:
    election = replica.election("x")
    async with election.observe() as leaders:
        assert await anext(leaders) is None
        waiting = asyncio.ensure_future(anext(leaders))
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        async with election.lead("a") as term:
            assert await anext(leaders) == Leader(b"a", term.fence)
        waiting = asyncio.ensure_future(anext(leaders))
        assert await waiting is None
        waiting = asyncio.ensure_future(anext(leaders))
        await asyncio.sleep(0)
        await leaders.close()
        with pytest.raises(StopAsyncIteration):
            await waiting
    assert [leader async for leader in election.observe(timeout=0)] == [None]
