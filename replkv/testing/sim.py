"""Virtual time: one queue of events, one thread, and a clock of its own for every member.

Nothing here waits.  The scheduler jumps from event to event, so that hours of a cluster's life pass in seconds, and events at one moment
run in the order in which they were planned, so that a seed always tells the same story.
"""

from __future__ import annotations

import heapq
from itertools import count
from typing import TYPE_CHECKING

from attrs import define, field

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Iterator


LOOK_AGAIN = 0.2
"""Seconds after which a thread looks again whether its process can go on: it may, earlier than it seemed."""


def nothing() -> None:
    """Do nothing: where an action may be given and is not."""


@define(eq=False, repr=False)
class Timer:
    """Something planned; ``cancel`` makes nothing of it."""

    when: float
    action: Callable[[], None] | None

    def cancel(self) -> None:
        """Forget the action; the moment passes without it."""
        self.action = None


@define(eq=False, repr=False)
class Scheduler:
    """The one queue of events.  ``now`` is virtual seconds since the start, ``steps`` how many events have run."""

    now: float = 0.0
    steps: int = 0
    _queue: list[tuple[float, int, Timer]] = field(factory=list)
    _numbers: Iterator[int] = field(factory=count)

    def at(self, when: float, action: Callable[[], None]) -> Timer:
        """Plan an action for a moment; one that has passed means as soon as possible."""
        timer = Timer(max(when, self.now), action)
        heapq.heappush(self._queue, (timer.when, next(self._numbers), timer))
        return timer

    def after(self, delay: float, action: Callable[[], None]) -> Timer:
        """Plan an action for ``delay`` seconds from now."""
        return self.at(self.now + delay, action)

    def step(self, until: float) -> bool:
        """Run the next event that is due by ``until``; False when there is none, and then it is that late."""
        while self._queue and self._queue[0][0] <= until:
            when, _, timer = heapq.heappop(self._queue)
            if timer.action is not None:
                self.now = when
                self.steps += 1
                timer.action()
                return True
        self.now = max(self.now, until)
        return False


@define(eq=False, repr=False)
class Clock:
    """A member's monotonic clock: it starts anywhere, runs a little fast or slow, and moves on while the member works.

    ``lag`` is how far the member is ahead of the event it works on: what its turn has cost so far, slow disk operations included.
    """

    scheduler: Scheduler
    offset: float = 0.0
    rate: float = 1.0
    creep: float = 0.0
    lag: float = 0.0

    def __call__(self) -> float:
        """Return the member's time in seconds; looking at it costs ``creep``."""
        self.lag += self.creep
        return self.local(self.scheduler.now + self.lag)

    def local(self, when: float) -> float:
        """Return what this clock shows at a moment of virtual time."""
        return self.offset + when * self.rate

    def moment(self, local: float) -> float:
        """Return the moment of virtual time at which this clock shows ``local``, a touch late rather than early."""
        return (local - self.offset) / self.rate + 1e-6

    def spend(self, seconds: float) -> None:
        """Let time pass within the member's turn."""
        self.lag += seconds


Job = tuple["Callable[[BaseException | None], None]", "BaseException | None"]


@define(eq=False, repr=False)
class SimHousekeeper:
    """A member's second thread: each step of a job is an event of its own, between the member's turns.

    Args:
        scheduler: the queue of events.
        rng: draws how long each step takes.
        slowness: seconds a step takes at most.
        wake: called when a job has ended.
        guard: runs a step in the member's process, which may crash in the middle of it.
        paused_until: when the process goes on, if it stands still.
    """

    scheduler: Scheduler
    rng: random.Random
    slowness: float
    wake: Callable[[], None]
    guard: Callable[[Callable[[], None]], None]
    paused_until: Callable[[], float] = float
    _finished: list[Job] = field(factory=list)
    _closed: bool = False

    def start(self, steps: Iterator[None], done: Callable[[BaseException | None], None]) -> None:
        """Begin a job; ``done`` is what ``finished`` hands back when it has ended."""
        self._plan(steps, done)

    def finished(self) -> list[Job]:
        """Return the jobs that ended since the last call, with their errors."""
        ended, self._finished = self._finished, []
        return ended

    def close(self) -> None:
        """Drop what is left to do."""
        self._closed = True

    def _plan(self, steps: Iterator[None], done: Callable[[BaseException | None], None]) -> None:
        when = max(self.scheduler.now, min(self.paused_until(), self.scheduler.now + LOOK_AGAIN)) + self.rng.random() * self.slowness
        self.scheduler.at(when, lambda: self.guard(lambda: self._step(steps, done)))

    def _step(self, steps: Iterator[None], done: Callable[[BaseException | None], None]) -> None:
        if self._closed:
            return
        if self.paused_until() > self.scheduler.now:
            self._plan(steps, done)
            return
        try:
            next(steps)
        except StopIteration:
            self._end(done, None)
        except Exception as error:  # noqa: BLE001  # whatever went wrong is for the member to judge
            self._end(done, error)
        else:
            self._plan(steps, done)

    def _end(self, done: Callable[[BaseException | None], None], error: BaseException | None) -> None:
        self._finished.append((done, error))
        self.wake()
