"""``housekeeper.py``: the thread that does long work beside the node, in turn and with pauses."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

import pytest
from eventual import eventually

from replkv import housekeeper
from replkv.housekeeper import LONG, LONGEST_REST, REST, HousekeeperThread


class Keeping:
    """A housekeeper, and what it has reported."""

    def __init__(self) -> None:
        self.woken = threading.Event()
        self.thread = HousekeeperThread("housekeeper", self.woken.set)
        self.ended: list[tuple[str, BaseException | None]] = []

    def start(self, name: str, steps: Iterator[None]) -> None:
        self.thread.start(steps, lambda error: self.ended.append((name, error)))

    def look(self) -> list[tuple[str, BaseException | None]]:
        for done, error in self.thread.finished():
            done(error)
        return self.ended


@pytest.fixture
def keeping() -> Iterator[Keeping]:
    keeping = Keeping()
    yield keeping
    keeping.thread.close()


def forever(step: Callable[[], object]) -> Iterator[None]:
    while True:
        step()
        yield


def once(step: Callable[[], object]) -> Iterator[None]:
    step()
    yield


def test_a_short_job_need_not_wait_for_a_long_one(keeping: Keeping) -> None:
    """The log's next segment was zeroed only when the snapshot was written: the node had to do it itself, and stood still."""
    running = threading.Event()
    keeping.start("long", forever(running.set))
    assert running.wait(10)
    keeping.start("short", once(lambda: None))
    eventually(lambda: keeping.look() == [("short", None)])
    assert keeping.woken.is_set()


def test_the_node_learns_of_an_error_and_the_next_job_is_done(keeping: Keeping) -> None:
    error = ValueError("odd")

    def fail() -> None:
        raise error

    keeping.start("bad", once(fail))
    keeping.start("good", iter([None] * (LONG + 1)))
    eventually(lambda: len(keeping.look()) == 2)
    assert sorted(keeping.ended, key=lambda ended: ended[0]) == [("bad", error), ("good", None)]


def test_no_further_step_is_done_after_the_end() -> None:
    keeping = Keeping()
    steps: list[None] = []
    keeping.start("long", forever(lambda: steps.append(None)))
    eventually(lambda: len(steps) > 3)
    keeping.thread.close()
    count = len(steps)
    assert not keeping.thread._thread.is_alive()
    assert len(steps) == count
    assert keeping.look() == []


def test_an_idle_housekeeper_ends_too() -> None:
    keeping = Keeping()
    keeping.thread.close()
    assert not keeping.thread._thread.is_alive()


class Clock:
    """Stands for the module ``time`` in that of the housekeeper."""

    def __init__(self) -> None:
        self.worked = 0.0
        self.rests: list[float] = []

    def thread_time(self) -> float:
        return self.worked

    def sleep(self, seconds: float) -> None:
        self.rests.append(seconds)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(housekeeper, "time", clock)
    return clock


def rests(clock: Clock, *works: float) -> list[float]:
    """Return how long it rests behind steps that take so much of the CPU."""
    keeping = Keeping()

    def steps() -> Iterator[None]:
        for seconds in works:
            clock.worked += seconds
            yield

    keeping.start("job", steps())
    eventually(lambda: keeping.look() == [("job", None)])
    keeping.thread.close()
    return clock.rests


def test_it_rests_for_twice_as_long_as_it_works(clock: Clock) -> None:
    """Beside a thread that only computed, a put took many times as long."""
    assert rests(clock, 0.001, 0.002, 0.0) == pytest.approx([REST * 0.001, REST * 0.002, 0.0])


def test_nobody_waits_for_a_long_rest_to_end(clock: Clock) -> None:
    assert rests(clock, 1.0) == [LONGEST_REST]
