"""Rate limiters: never more than a burst in its window, for all together, and close to the rate."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from eventual import PATIENCE, eventually
from recipes import FAST, has_keys, keys_of

from replkv import AsyncReplica, Conflict, RateLimiter, Replica, WaitTimeout
from replkv.recipes.base import RESERVED
from replkv.recipes.rate_limiter import GRACE, _Stock


@pytest.fixture
def replica() -> Iterator[Replica]:
    with Replica(settings=FAST) as replica:
        yield replica


def in_line(replica: Replica) -> int:
    return keys_of(replica, "rate_limiter", "line/")


def test_a_burst_passes_at_once_and_no_more(replica: Replica) -> None:
    limiter = replica.rate_limiter("api", 3, per=600.0)  # so that its time is not over meanwhile, however slow the machine
    assert [limiter.try_acquire() for _ in range(3)] == [True, True, True]
    assert not replica.rate_limiter("api", 3, per=600.0).try_acquire()
    with pytest.raises(WaitTimeout, match="rate limiter 'api'"):
        limiter.acquire(timeout=0.05)
    assert in_line(replica) == 0


def test_who_waits_passes_when_the_time_of_the_burst_is_over(replica: Replica) -> None:
    limiter = replica.rate_limiter("api", 1, per=1.0)
    begin = time.monotonic()
    limiter.acquire(timeout=PATIENCE)
    limiter.acquire(timeout=PATIENCE)
    assert time.monotonic() - begin >= 1.0


@pytest.fixture
def passed(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """When each was let through; a thread that is told so may be late to look at a clock."""
    times, real = [], _Stock.take

    def take(self: _Stock, n: int, now: float) -> bool:
        taken = real(self, n, now)
        times.extend([now] * n if taken else [])
        return taken

    monkeypatch.setattr(_Stock, "take", take)
    return times


def most_in_a_window(times: list[float], window: float) -> int:
    """How many of these moments lie in any window."""
    return max(sum(1 for at in times if begin <= at < begin + window) for begin in times)


def test_no_window_has_more_than_a_burst_however_many_objects_and_threads_take(replica: Replica, passed: list[float]) -> None:
    def work(limiter: RateLimiter) -> None:
        for _ in range(20):
            limiter.acquire(timeout=PATIENCE)

    begin = time.monotonic()
    with ThreadPoolExecutor(6) as pool:
        limiters = [replica.rate_limiter("api", 100, burst=40) for _ in range(3)]
        for future in [pool.submit(work, limiters[number % 3]) for number in range(6)]:
            future.result(PATIENCE)
    assert len(passed) == 120
    assert time.monotonic() - begin > 0.8
    assert most_in_a_window(passed, 0.4) <= 40
    assert in_line(replica) == 0


def test_who_takes_often_takes_in_advance_so_that_most_calls_write_nothing(replica: Replica) -> None:
    limiter = replica.rate_limiter("api", 16_000)
    begin = replica.revision
    for _ in range(2000):
        limiter.acquire(timeout=PATIENCE)
    assert replica.revision - begin < 50


def test_what_is_taken_in_advance_is_used_soon_or_not_at_all(replica: Replica, monkeypatch: pytest.MonkeyPatch) -> None:
    limiter = replica.rate_limiter("api", 16_000, burst=160_000)
    usable, real = [], _Stock.fill

    def fill(self: _Stock, count: int, until: float) -> None:
        usable.append((until, until - limiter._clock() < limiter._grace))
        real(self, count, until)

    monkeypatch.setattr(_Stock, "fill", fill)
    limiter.acquire(timeout=PATIENCE)
    limiter.acquire(timeout=PATIENCE)
    assert limiter._stock.take(1, limiter._clock())
    eventually(lambda: limiter._clock() >= usable[-1][0])
    assert not limiter._stock.take(1, limiter._clock())
    assert [soon for _, soon in usable] == [True, True]


def test_several_are_taken_together_or_not_at_all(replica: Replica) -> None:
    limiter = replica.rate_limiter("api", 10, per=1.0)
    limiter.acquire(8)
    assert not limiter.try_acquire(3)
    assert limiter.try_acquire(2)
    limiter.acquire(10, timeout=PATIENCE)
    for n, error in ((0, ValueError), (11, ValueError), (True, TypeError)):
        with pytest.raises(error):
            limiter.acquire(n)


def test_those_that_wait_come_one_after_the_other_and_nobody_overtakes(replica: Replica) -> None:
    first, others = replica.rate_limiter("api", 1, per=0.5), [replica.rate_limiter("api", 1, per=0.5) for _ in range(2)]
    first.acquire()
    order: list[int] = []

    def wait(number: int) -> None:
        others[number].acquire(timeout=PATIENCE)
        order.append(number)

    with ThreadPoolExecutor(2) as pool:
        for number in range(2):
            pool.submit(wait, number)
            eventually(lambda: in_line(replica) == number + 1)  # noqa: B023
        assert not first.try_acquire()
    assert order == [0, 1]


def test_all_must_say_the_same_limit_until_it_is_changed(replica: Replica) -> None:
    old, new = replica.rate_limiter("api", 5), replica.rate_limiter("api", 6)
    assert old.try_acquire()
    with pytest.raises(Conflict, match=r"has 5\.0 per 1\.0 s, 5 at once, not 6\.0 per 1\.0 s, 6 at once"):
        new.try_acquire()
    new.change_limit()
    assert new.try_acquire()
    with pytest.raises(Conflict):
        old.try_acquire()


def test_an_answer_that_takes_too_long_lengthens_the_time_in_which_it_is_usable(replica: Replica, monkeypatch: pytest.MonkeyPatch) -> None:
    limiter = replica.rate_limiter("api", 10, per=0.4)
    late, real = threading.Event(), _Stock.fill

    def fill(self: _Stock, count: int, until: float) -> None:
        if not late.is_set():
            late.set()
            eventually(lambda: limiter._clock() >= until)
        real(self, count, until)

    monkeypatch.setattr(_Stock, "fill", fill)
    usual = limiter._window + limiter._grace
    limiter.acquire(timeout=PATIENCE)
    assert max(lease.ttl for lease in replica.leases()) > usual + 0.9 * limiter._window * GRACE


def test_bad_arguments_and_bursts_that_are_too_short_are_refused(replica: Replica) -> None:
    for rate, per, burst, error in (
        (0, 1.0, None, ValueError),
        (-1, 1.0, None, ValueError),
        ("3", 1.0, None, TypeError),
        (1, 0, None, ValueError),
        (1, 1.0, 0, ValueError),
        (1, 1.0, 1.5, TypeError),
        (float("inf"), 1.0, None, ValueError),
    ):
        with pytest.raises(error):
            replica.rate_limiter("api", rate, per, burst)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="say burst=4"):
        replica.rate_limiter("api", 100, burst=1).try_acquire()
    assert replica.rate_limiter("api", 100, burst=4).try_acquire()
    assert replica.rate_limiter("slow", 0.5).try_acquire()
    assert replica.namespace("x/").rate_limiter("slow", 0.5).try_acquire()


def test_tasks_share_one_object_and_a_cancelled_wait_leaves_nothing_behind(passed: list[float]) -> None:
    async def scenario() -> None:
        async with AsyncReplica(settings=FAST) as replica, asyncio.timeout(PATIENCE):
            limiter = replica.rate_limiter("api", 20, per=0.4)
            await asyncio.gather(*(limiter.acquire() for _ in range(50)))
            assert len(passed) == 50
            assert most_in_a_window(passed, 0.4) <= 20
            slow = replica.rate_limiter("slow", 20, per=60.0)
            await slow.acquire()
            waiting = [asyncio.create_task(slow.acquire(20)) for _ in range(3)]
            await has_keys(replica, RESERVED + b"rate_limiter/slow/line/", 1)
            assert not await slow.try_acquire()
            for task in waiting:
                task.cancel()
            assert all(isinstance(error, asyncio.CancelledError) for error in await asyncio.gather(*waiting, return_exceptions=True))
            await has_keys(replica, RESERVED + b"rate_limiter/slow/line/", 0)
            assert await slow.try_acquire()
            with pytest.raises(WaitTimeout):
                await slow.acquire(20, timeout=0.01)

    asyncio.run(scenario())
