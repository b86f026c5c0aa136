"""``housekeeper.py``: the thread that does long work beside the node, in turn and with pauses."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

import pytest
from eventual import eventually

from replkv import housekeeper
from replkv.housekeeper import LONG, LONGEST_REST, LONGEST_WORK, REST, HousekeeperThread


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
        self.now = 0.0
        self.worked = 0.0
        self.rests: list[float] = []

    def perf_counter(self) -> float:
        return self.now

    def thread_time(self) -> float:
        return self.worked

    def sleep(self, seconds: float) -> None:
        self.rests.append(seconds)
        self.now += seconds

    def work(self, seconds: float, wait: float = 0.0) -> None:
        self.worked += seconds
        self.now += seconds + wait


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(housekeeper, "time", clock)
    return clock


def done_on(clock: Clock, *works: tuple[float, float]) -> list[float]:
    """Return the rests between steps that work and wait for so long."""
    keeping = Keeping()

    def steps() -> Iterator[None]:
        for seconds, wait in works:
            clock.work(seconds, wait)
            yield

    keeping.start("job", steps())
    eventually(lambda: keeping.look() == [("job", None)])
    keeping.thread.close()
    return clock.rests


def test_it_rests_for_twice_as_long_as_it_works(clock: Clock) -> None:
    """Beside a thread that only computed, a put took many times as long."""
    rests = done_on(clock, *[(0.001, 0.0)] * 10)
    assert rests == pytest.approx([REST * 0.001] * 10)


def test_waiting_counts_as_rest(clock: Clock) -> None:
    """On a busy member each step waits for the interpreter anyway; to rest as well would make a snapshot take for ever."""
    assert done_on(clock, *[(0.001, 0.005)] * 10) == []


def test_a_long_wait_is_no_leave_to_work_for_long_without_a_rest(clock: Clock) -> None:
    works = [(0.001, 10.0), *[(0.001, 0.0)] * 6]
    rests = done_on(clock, *works)
    assert sum(rests) == pytest.approx(REST * (0.006 - LONGEST_WORK))


def test_nobody_waits_for_a_long_rest_to_end(clock: Clock) -> None:
    rests = done_on(clock, (1.0, 0.0), *[(0.0, 0.0)] * 3)
    assert rests == [LONGEST_REST] * 4
