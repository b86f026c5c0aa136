"""Counters: each addition counts once, and each number is given out once."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from recipes import FAST

from replkv import AsyncReplica, Conflict, NotACounter, Replica


@pytest.fixture
def replica() -> Iterator[Replica]:
    with Replica(settings=FAST) as replica:
        yield replica


@pytest.mark.parametrize("initial", [0, 7, -3])
def test_it_begins_where_it_is_said_and_is_added_to(replica: Replica, initial: int) -> None:
    counter = replica.counter("visits", initial)
    assert counter.value() == int(counter) == initial
    assert counter.add() == initial + 1
    assert counter.add(-5) == initial - 4
    assert counter.value(consistency="local") == initial - 4
    assert replica.counter("visits", initial).add(0) == initial - 4


@pytest.mark.parametrize("initial", [0, 100])
def test_numbers_are_given_out_once_however_many_ask(replica: Replica, initial: int) -> None:
    def take() -> list[int]:
        counter = replica.counter("ids", initial)
        return [number for _ in range(10) for number in (counter.next(), *counter.reserve(3))]

    with ThreadPoolExecutor(4) as pool:
        taken = [number for future in [pool.submit(take) for _ in range(4)] for number in future.result()]
    assert sorted(taken) == list(range(initial, initial + 160))


def test_it_is_set_if_it_is_as_expected(replica: Replica) -> None:
    counter = replica.counter("n", 5)
    with pytest.raises(Conflict, match="counter 'n' is 5, not 4") as caught:
        counter.set(1, expected=4)
    assert caught.value.current is None
    counter.set(6, expected=5)
    counter.set(7, expected=6)
    with pytest.raises(Conflict, match="counter 'n' is 7, not 5"):
        counter.set(1, expected=5)
    counter.set(5)
    counter.set(8, expected=5)
    assert counter.value() == 8


@pytest.mark.parametrize("initial", [0, 1])
def test_it_does_not_leave_the_range_of_64_bits(replica: Replica, initial: int) -> None:
    counter = replica.counter("big", initial)
    most = (1 << 63) - 1
    counter.set(most)
    with pytest.raises(NotACounter):
        counter.add()
    assert counter.value() == most
    with pytest.raises(NotACounter):
        replica.counter("other", 1).add(most)
    with pytest.raises(ValueError, match="64 bits"):
        counter.add(1 << 63)
    with pytest.raises(ValueError, match="64 bits"):
        counter.set(-(1 << 63) - 1)


def test_bad_arguments_are_refused_and_namespaces_are_apart(replica: Replica) -> None:
    counter = replica.counter("n")
    calls: tuple[Any, ...] = (counter.add, counter.reserve, counter.set)
    for call in calls:
        with pytest.raises(TypeError):
            call(1.5)
        with pytest.raises(TypeError):
            call(True)
    with pytest.raises(ValueError, match="at least 1"):
        counter.reserve(0)
    with pytest.raises(ValueError, match="not empty"):
        replica.counter("")
    counter.add(3)
    assert replica.namespace("a/").counter("n").value() == 0


def test_tasks_count_together() -> None:
    async def scenario() -> None:
        async with AsyncReplica(settings=FAST) as replica:
            counter = replica.counter("visits")
            taken = await asyncio.gather(*(counter.next() for _ in range(20)))
            assert sorted(taken) == list(range(20))
            assert await counter.reserve(2) == range(20, 22)
            await counter.set(1, expected=22)
            assert await counter.value() == 1
            with pytest.raises(TypeError):
                int(counter)  # type: ignore[call-overload]

    asyncio.run(scenario())


def test_a_counter_that_exists_may_be_moved_by_more_than_its_beginning_allows(replica: Replica) -> None:
    counter = replica.counter("n", initial=2**63 - 1)
    with pytest.raises(NotACounter, match="would leave the range"):
        counter.add(1)
    counter.add(-10)
    assert counter.add(5) == 2**63 - 1 - 5
