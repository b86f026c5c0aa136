"""Queues: each item to one taker, in order, and none is lost that somebody claimed and did not finish."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import pytest
from eventual import PATIENCE, eventually
from recipes import FAST, RESERVED, awaited, in_line, line_of, lose, revoke

from replkv import (
    AsyncClaim,
    AsyncReplica,
    Claim,
    Closed,
    Conflict,
    Key,
    LockLost,
    NoLeader,
    OutcomeUnknown,
    PriorityQueue,
    Put,
    Queue,
    Replica,
    Undecodable,
    WaitTimeout,
)
from replkv.immediate import Immediate
from replkv.recipes.items import CHOICES, PAGE, Items


@pytest.fixture
def replica() -> Iterator[Replica]:
    with Replica(settings=FAST) as replica:
        yield replica


def lease_of(claim: Claim | AsyncClaim) -> int:
    return claim._held.lifeline.id


def all_rest(replica: Replica) -> bool:
    """Whether all leases there are rest: none was forgotten, to be kept alive for ever."""
    return sum(map(len, replica._engine().keeper.resting.values())) == len(replica.leases())


def drain(queue: Queue | PriorityQueue) -> list[Any]:
    return [queue.get(0) for _ in range(queue.len())]


def test_items_come_out_in_the_order_in_which_they_were_put(replica: Replica) -> None:
    queue = replica.queue("jobs", "json")
    values = [{"number": number} for number in range(3 * PAGE)]
    revisions = [queue.put(value) for value in values]
    assert revisions == sorted(revisions)
    assert queue.len() == len(values)
    assert queue.peek() == values[0]
    assert drain(queue) == values
    assert queue.len() == 0
    assert queue.peek() is None
    assert in_line(replica) == 0


def test_items_that_were_put_where_an_old_revision_was_known_have_their_place_all_the_same(
    replica: Replica, monkeypatch: pytest.MonkeyPatch
) -> None:
    queue = replica.queue("jobs", "json")
    queue.put(0)
    engine = replica._engine()
    known = type(engine).revision
    for number in range(1, 2 * PAGE):
        with monkeypatch.context() as patch:
            if number % 3:
                patch.setattr(type(engine), "revision", property(lambda self: known.fget(self) // (4 * PAGE)))  # type: ignore[attr-defined]
            queue.put(number)
    names = [kv.key for kv in replica.scan(prefix=RESERVED, sort_by="create")]
    assert sorted(names).index(names[0]) > PAGE
    assert drain(queue) == list(range(2 * PAGE))


def test_a_priority_queue_gives_the_least_first_and_equals_in_their_order(replica: Replica) -> None:
    queue = replica.priority_queue("jobs", "json")
    priorities = [5, -3, 0, 5, -(1 << 63), (1 << 63) - 1, 0, -3]
    for place, priority in enumerate(priorities):
        queue.put([priority, place], priority)
    queue.put(["usual", 8])
    expected: list[Any] = sorted([priority, place] for place, priority in enumerate(priorities))
    expected.insert(5, ["usual", 8])
    assert queue.peek() == expected[0]
    assert drain(queue) == expected
    for wrong, error in ((1 << 63, ValueError), (0.5, TypeError), (True, TypeError)):
        with pytest.raises(error, match="priority"):
            queue.put(1, wrong)  # type: ignore[arg-type]


def test_an_item_that_goes_before_is_not_overlooked_by_a_taker_with_an_old_view(replica: Replica, monkeypatch: pytest.MonkeyPatch) -> None:
    queue = replica.priority_queue("jobs", "text")
    queue.put("usual", 5)
    real = Items._first
    late: list[Any] = []

    async def first(self: Items, most: int, least: int) -> Any:
        view = await real(self, most, least)
        if not late:
            late.append(queue.put("urgent", 1))
        return view

    monkeypatch.setattr(Items, "_first", first)
    assert queue.get() == "urgent"
    assert queue.get() == "usual"


def test_queues_have_their_own_items(replica: Replica) -> None:
    space = replica.namespace("app/")
    urgent = replica.priority_queue("a")
    queues: list[Queue | PriorityQueue] = [replica.queue("a"), replica.queue("b"), urgent, space.queue("a"), replica.queue("a/item")]
    for number, queue in enumerate(queues):
        queue.put(b"%d" % number)
    assert [queue.get() for queue in queues] == [b"%d" % number for number in range(len(queues))]
    with pytest.raises(ValueError, match="name"):
        replica.queue("")
    with pytest.raises(ValueError, match="ttl"):
        replica.queue("a", ttl=0)
    with pytest.raises(ValueError, match="codec"):
        replica.queue("a", "yaml")  # type: ignore[arg-type]
    assert repr(replica.queue("a", "json")) == "<Queue 'a' JSON>"


def test_who_finds_nothing_in_time_leaves_nothing_behind(replica: Replica) -> None:
    queue = replica.queue("jobs")
    for timeout in (0, 0.05):
        for take in (queue.get, queue.claim):
            with pytest.raises(WaitTimeout, match="queue 'jobs' had no item"):
                take(timeout)
            assert in_line(replica) == 0
    for take in (queue.get, queue.claim):
        with pytest.raises(ValueError, match="timeout"):
            take(-1)


def test_each_item_goes_to_one_of_many_takers(replica: Replica) -> None:
    queue = replica.queue("jobs", "json")
    taken: list[int] = []

    def take() -> None:
        while (value := queue.get()) >= 0:
            taken.append(value)

    def claim() -> None:
        value = 0
        while value >= 0:
            with queue.claim() as item:
                value = item.value
                taken.append(value)

    def put(numbers: range) -> None:
        for number in numbers:
            queue.put(number)

    with ThreadPoolExecutor(9) as pool:
        takers = [pool.submit(work) for work in [take, claim] * 3]
        for done in [pool.submit(put, range(first, first + 50)) for first in (0, 50, 100)]:
            done.result(PATIENCE)
        for _ in takers:
            queue.put(-1)
        for taker in takers:
            taker.result(PATIENCE)
    assert sorted(value for value in taken if value >= 0) == list(range(150))
    assert in_line(replica) == 0
    assert all_rest(replica)


def test_a_put_wakes_one_waiting_taker(replica: Replica, monkeypatch: pytest.MonkeyPatch) -> None:
    queue, looks = replica.queue("jobs", "json"), [0]
    real = Items._first

    async def counting(self: Items, most: int, least: int) -> Any:
        looks[0] += 1
        return await real(self, most, least)

    monkeypatch.setattr(Items, "_first", counting)
    with ThreadPoolExecutor(10) as pool:
        takers = [pool.submit(queue.get) for _ in range(10)]
        eventually(lambda: in_line(replica) == 10)
        eventually(lambda: looks[0] >= 11)  # each at once, and the one at the front
        for number in range(10):
            before = looks[0]
            queue.put(number)
            eventually(lambda: sum(taker.done() for taker in takers) == number + 1)  # noqa: B023
            assert looks[0] - before <= 3, "the one at the front, perhaps twice, and the one that is there then"
        assert sorted(taker.result() for taker in takers) == list(range(10))
    assert all_rest(replica)


def test_takers_that_wait_get_items_in_the_order_in_which_they_came(replica: Replica) -> None:
    queue = replica.queue("jobs", "json")
    got: dict[int, int] = {}

    def take(place: int) -> None:
        got[place] = queue.get()

    with ThreadPoolExecutor(5) as pool:
        for place in range(5):
            pool.submit(take, place)
            eventually(lambda: in_line(replica) == place + 1)  # noqa: B023
        for number in range(5):
            queue.put(number)
            eventually(lambda: len(got) == number + 1)  # noqa: B023
    assert got == {place: place for place in range(5)}


def test_takers_that_lose_one_item_to_others_get_another(replica: Replica, monkeypatch: pytest.MonkeyPatch) -> None:
    queue, others = replica.queue("jobs", "json"), replica.queue("jobs", "json")
    for number in range(3 * CHOICES):
        queue.put(number)
    real, lost = Items._try, [0]

    async def overtaken(self: Items, *arguments: Any) -> Any:
        if self is queue and lost[0] < 2:
            lost[0] += 1
            for _ in range(CHOICES if lost[0] == 1 else CHOICES - 2):
                others.get()
        return await real(self, *arguments)

    monkeypatch.setattr(Items, "_try", overtaken)
    assert queue.get() == 2 * CHOICES - 2
    assert lost[0] == 2
    assert others.get() == 2 * CHOICES - 1


def test_a_claim_that_loses_the_last_item_to_others_leaves_nothing_behind(replica: Replica, monkeypatch: pytest.MonkeyPatch) -> None:
    queue, others = replica.queue("jobs", "json"), replica.queue("jobs", "json")
    queue.put(1)
    real = Items._try

    async def overtaken(self: Items, *arguments: Any) -> Any:
        if self is queue:
            others.get()
        return await real(self, *arguments)

    monkeypatch.setattr(Items, "_try", overtaken)
    with pytest.raises(WaitTimeout):
        queue.claim(0)
    assert all_rest(replica)


def test_who_does_not_wait_sees_what_was_put_elsewhere_before(replica: Replica, monkeypatch: pytest.MonkeyPatch) -> None:
    queue = replica.queue("jobs", "json")
    revision = queue.put(1)
    real = Items._first

    async def behind(self: Items, most: int, least: int) -> Any:  # as on a member that has not heard of the put
        return await real(self, most, least) if least >= revision else ([], revision - 1)

    monkeypatch.setattr(Items, "_first", behind)
    assert queue.peek() == 1
    assert queue.get(0) == 1


def test_an_item_that_the_codec_cannot_read_stays_and_can_be_got_rid_of(replica: Replica) -> None:
    replica.queue("jobs", "text").put("no json")
    replica.queue("jobs", "text").put("1")
    queue = replica.queue("jobs", "json")
    for look in (queue.get, queue.peek):
        with pytest.raises(Undecodable):
            look()
    assert queue.len() == 2
    with queue.claim() as item, pytest.raises(Undecodable):
        item.value  # noqa: B018
    assert queue.get() == 1
    with pytest.raises(TypeError):
        queue.put({1, 2})
    assert queue.len() == 0


def test_what_others_took_before_an_unreadable_item_does_not_matter(replica: Replica) -> None:
    replica.queue("jobs", "text").put("1")
    replica.queue("jobs", "text").put("no json")
    assert replica.queue("jobs", "json").get() == 1


# -- claims ------------------------------------------------------------------------------------------------------------------------


def test_a_claimed_item_is_nobody_elses_and_gone_when_it_is_done(replica: Replica) -> None:
    queue = replica.queue("jobs", "text")
    queue.put("a")
    queue.put("b")
    with queue.claim() as item:
        assert item.value == "a"
        assert item.held
        assert queue.peek() == "b"
        assert queue.len() == 2
        assert queue.get() == "b"
        with pytest.raises(WaitTimeout):
            queue.get(0)
    assert queue.len() == 0
    assert in_line(replica) == 0
    with pytest.raises(RuntimeError, match="is not held"):
        item.done()
    with pytest.raises(RuntimeError, match="is over"), item:
        pass


def test_an_item_whose_block_fails_is_free_again_at_its_place(replica: Replica) -> None:
    queue = replica.queue("jobs", "text")
    for value in "abc":
        queue.put(value)
    with pytest.raises(ZeroDivisionError), queue.claim():
        raise ZeroDivisionError
    first = queue.claim()
    with queue.claim() as second:
        assert (first.value, second.value) == ("a", "b")
    first.put_back()
    assert drain(queue) == ["a", "c"]
    assert in_line(replica) == 0


def test_a_claim_that_is_lost_frees_the_item_and_ends_its_block_with_lock_lost(replica: Replica) -> None:
    queue = replica.queue("jobs", "text")
    queue.put("a")
    with pytest.raises(LockLost, match="an item of queue 'jobs'"), queue.claim() as item:
        fence, guard = item.fence, item.guard()
        revoke(replica, lease_of(item))
        assert item.lost.wait(PATIENCE)
        with pytest.raises(LockLost):
            item.check()
        with pytest.raises(LockLost):
            item.done()
        with queue.claim() as again:
            assert again.value == "a"
            assert again.fence > fence
            replica.put("result", "2", guard=again)
            with pytest.raises(LockLost):
                replica.put("result", "1", guard=guard)
    assert queue.len() == 0


def test_a_waiting_taker_gets_an_item_that_is_free_again(replica: Replica) -> None:
    queue = replica.queue("jobs", "text")
    queue.put("a")
    claim = queue.claim()
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(queue.get)
        eventually(lambda: in_line(replica) == 3)
        revoke(replica, lease_of(claim))
        assert waiting.result(PATIENCE) == "a"
    assert in_line(replica) == 0


def test_writes_come_exactly_once_together_with_the_end_of_the_item(replica: Replica) -> None:
    queue = replica.queue("jobs", "text")
    queue.put("a")
    with queue.claim() as item:
        with pytest.raises(Conflict):
            item.done(Put("result", "1", if_mod_revision=7))
        assert item.held, "what is refused has changed nothing"
        item.done(Put("result", "1"))
        assert not item.held
    assert queue.len() == 0
    kv = replica.get("result")
    assert kv is not None
    assert kv.value == b"1"
    queue.put("b")
    item = queue.claim()
    revoke(replica, lease_of(item))
    with pytest.raises(LockLost):
        item.done(Put("result", "2"))
    item = queue.claim()
    replica.delete(item._held.key)  # which the cluster knows before this process does
    with pytest.raises(LockLost):
        item.done(Put("result", "2"))
    assert replica.txn(compare=[Key("result").value == "1"])
    assert queue.get() == "b"


@pytest.mark.parametrize("error", [NoLeader, OutcomeUnknown])
def test_a_block_whose_end_could_not_be_written_says_so_and_lets_the_item_go(
    replica: Replica, error: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    queue = replica.queue("jobs", "text")
    queue.put("a")

    async def fail(*arguments: Any, **named: Any) -> Any:
        raise error("it did not work")

    with monkeypatch.context() as patch, pytest.raises(error), queue.claim():
        patch.setattr(Immediate, "txn", fail)
    assert queue.get() == "a"
    assert in_line(replica) == 0


def test_an_item_that_could_not_be_put_back_is_free_when_its_lease_ends(replica: Replica, monkeypatch: pytest.MonkeyPatch) -> None:
    queue = replica.queue("jobs", "text")
    queue.put("a")

    async def fail(*arguments: Any, **named: Any) -> Any:
        raise NoLeader("it did not work")

    with monkeypatch.context() as patch:
        claim = queue.claim()
        patch.setattr(Immediate, "delete", fail)
        claim.put_back()
    assert queue.get() == "a"


def test_who_can_not_ask_for_an_item_in_time_leaves_nothing_behind(replica: Replica, monkeypatch: pytest.MonkeyPatch) -> None:
    queue = replica.queue("jobs", "text")
    queue.put("a")

    async def fail(*arguments: Any, **named: Any) -> Any:
        raise NoLeader("it did not work")

    with monkeypatch.context() as patch:
        patch.setattr(Immediate, "txn", fail)
        with pytest.raises(NoLeader):
            queue.get(0.1)
        with pytest.raises(WaitTimeout, match="it did not work"):
            queue.claim(0.1)
    assert queue.get() == "a"
    eventually(lambda: all(lease.keys == 0 for lease in replica.leases()))


def test_claiming_again_and_again_makes_no_new_lease(replica: Replica) -> None:
    queue = replica.queue("jobs", "json")
    for number in range(20):
        queue.put(number)
    for number in range(20):
        with queue.claim() as item:
            assert item.value == number
    assert len(replica.leases()) == 1


def test_a_waiter_whose_lease_is_lost_waits_anew(replica: Replica) -> None:
    queue = replica.queue("jobs", "text")
    with ThreadPoolExecutor(2) as pool:
        waiting = [pool.submit(take) for take in (queue.get, lambda: queue.claim().value)]
        eventually(lambda: in_line(replica) == 2)
        for kv in replica.scan(prefix=RESERVED):
            revoke(replica, kv.lease)
        queue.put("a")
        queue.put("b")
        assert sorted(taker.result(PATIENCE) for taker in waiting) == ["a", "b"]


def test_who_waits_learns_that_the_member_ends() -> None:
    with Replica(settings=FAST) as replica, ThreadPoolExecutor(2) as pool:
        queue = replica.queue("x")
        waiting = [pool.submit(queue.get), pool.submit(queue.claim)]
        eventually(lambda: in_line(replica) == 2)
        replica.close()
        for taker in waiting:
            assert isinstance(taker.exception(PATIENCE), Closed)


def test_a_history_that_is_gone_makes_takers_look_anew(replica: Replica, monkeypatch: pytest.MonkeyPatch) -> None:
    queue = replica.queue("jobs", "text")
    real, forgotten = Items._first_besides, threading.Event()

    async def forget(self: Items, *arguments: Any) -> Any:
        if not forgotten.is_set():
            forgotten.set()
            queue.put("a")
            replica.put("k", "v")
            replica.compact(replica.revision)
        return await real(self, *arguments)

    monkeypatch.setattr(Items, "_first_besides", forget)
    assert queue.get() == "a"


# -- asyncio -----------------------------------------------------------------------------------------------------------------------


@awaited
async def test_tasks_put_and_take(replica: AsyncReplica) -> None:
    queue = replica.queue("jobs", "json")
    takers = [asyncio.create_task(queue.get()) for _ in range(20)]
    await asyncio.gather(*(queue.put(number) for number in range(20)))
    assert sorted(await asyncio.gather(*takers)) == list(range(20))
    assert await queue.len() == 0
    assert await line_of(replica) == 0
    urgent = replica.priority_queue("jobs", "json")
    await urgent.put("later", 2)
    await urgent.put("soon", 1)
    assert await urgent.peek() == "soon"


@awaited
async def test_an_item_is_claimed_by_awaiting_or_entering(replica: AsyncReplica) -> None:
    queue = replica.queue("jobs", "text")
    for value in "abc":
        await queue.put(value)
    async with queue.claim() as item:
        assert item.value == "a"
    item = await queue.claim()
    assert item.value == "b"
    await item.put_back()
    async with await queue.claim() as item:
        assert item.value == "b"
        await item.done(Put("result", item.value))
    with pytest.raises(ZeroDivisionError):
        async with queue.claim():
            raise ZeroDivisionError
    assert await queue.get(0) == "c"
    with pytest.raises(RuntimeError, match="not claimed yet"):
        queue.claim().value  # noqa: B018
    assert await line_of(replica) == 0


@awaited
async def test_losing_the_claim_cancels_the_block(replica: AsyncReplica) -> None:
    queue = replica.queue("jobs", "text")
    await queue.put("a")
    with pytest.raises(LockLost):
        async with queue.claim() as item:
            task = lose(replica, lease_of(item))
            await asyncio.get_running_loop().create_future()
    await task
    assert await queue.get() == "a"


@awaited
async def test_a_cancelled_block_puts_the_item_back(replica: AsyncReplica) -> None:
    queue = replica.queue("jobs", "text")
    await queue.put("a")
    begun = asyncio.Event()

    async def work() -> None:
        async with queue.claim():
            begun.set()
            await asyncio.get_running_loop().create_future()

    task = asyncio.create_task(work())
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await queue.get(0) == "a"


@awaited
async def test_a_cancelled_wait_leaves_nothing_behind(replica: AsyncReplica) -> None:
    queue = replica.queue("jobs", "text")
    for take in (queue.get, queue.claim):
        waiting = asyncio.ensure_future(take())
        while await line_of(replica) < 1:  # noqa: ASYNC110  # what is waited for is in the store
            await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        while await line_of(replica):  # noqa: ASYNC110  # what is waited for is in the store
            await asyncio.sleep(0)


@awaited
async def test_a_claim_that_is_cancelled_at_any_moment_leaves_the_item(replica: AsyncReplica) -> None:
    queue = replica.queue("jobs", "text")
    await queue.put("a")
    for steps in range(40):
        claiming = asyncio.ensure_future(queue.claim())
        for _ in range(steps):
            await asyncio.sleep(0)
        claiming.cancel()
        with suppress(asyncio.CancelledError):
            await (await claiming).put_back()
        assert await queue.len() == 1
    assert await queue.get() == "a"
    while await line_of(replica) or len(await replica.leases()) > 1:  # noqa: ASYNC110  # what is waited for is in the store
        await asyncio.sleep(0)
