"""An asyncio event loop whose time is virtual: where another loop sleeps, this one lets the simulation go on.

``asyncio.sleep``, ``asyncio.timeout`` and all timers of a loop follow its ``time()``, so a test of hours takes as long as what happens in
them.  What is real stays real: sockets are looked at without waiting, and threads of an executor get a moment before time passes.
"""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

from replkv.testing.world import Stuck, place_of

if TYPE_CHECKING:
    from replkv.testing.world import World

T = TypeVar("T")

THREADS_GET = 0.01
"""Real seconds that threads of an executor get before each event of the simulation."""
SOCKETS_GET = 0.001
"""Real seconds that the world outside gets, if the loop has sockets or pipes."""
CHECKS = 8
"""How often, within a cluster's patience, it is looked whether all tasks wait in vain."""
LOOK_EVERY = 0.001
"""Virtual seconds between two looks at a condition."""


class VirtualLoop(asyncio.SelectorEventLoop):
    """The event loop of one simulated cluster.

    Args:
        world: whose time is this loop's.
    """

    def __init__(self, world: World) -> None:
        self.world = world
        self.jobs = 0  # of executors
        self._check_at = 0.0
        self._waits: dict[asyncio.Task[Any], tuple[object, float]] = {}
        super().__init__(_Selector(self))

    def time(self) -> float:
        """Return the virtual time, in seconds."""
        return self.world.scheduler.now

    def run_in_executor(self, executor: Any, func: Callable[..., T], *args: Any) -> asyncio.Future[T]:  # type: ignore[override]
        """Run a function on a thread; as any loop does."""
        job = super().run_in_executor(executor, func, *args)
        self.jobs += 1
        job.add_done_callback(self._job_done)
        return job

    def _job_done(self, _job: asyncio.Future[Any]) -> None:
        self.jobs -= 1

    @property
    def has_work(self) -> bool:
        """Whether callbacks are ready to run."""
        return bool(self._ready)  # type: ignore[attr-defined]  # as in all versions of asyncio

    def check(self) -> None:
        """Look now and then whether all tasks wait in vain.

        Raises:
            Stuck: none of them got on for very long.
        """
        if self.time() >= self._check_at:
            self._check_at = self.time() + self.world.patience / CHECKS
            self._waits = {task: self._wait_of(task) for task in self._tasks()}
            if self._waits and all(self.time() - since >= self.world.patience for _, since in self._waits.values()):
                raise self.stuck()

    def _tasks(self) -> list[asyncio.Task[Any]]:
        """Return the tasks that count: not those that a library made for one of them, which come and go, unless there are no others."""
        tasks = list(asyncio.all_tasks(self))
        return [task for task in tasks if not _is_library(task.get_coro())] or tasks

    def _wait_of(self, task: asyncio.Task[Any]) -> tuple[object, float]:
        """Return what a task waits for, and since when it is seen to do so."""
        awaited = _awaited_by(task)
        before, since = self._waits.get(task, (None, 0.0))
        return awaited, since if awaited is before else self.time()

    def stuck(self) -> Stuck:
        """Return the error that says that all tasks wait in vain."""
        tasks = ", ".join(sorted(map(_describe, self._tasks())))
        return Stuck(self.world.explain(f"the wait of {tasks or 'the event loop'}"))


class _Selector(selectors.DefaultSelector):
    """What a loop waits with."""

    def __init__(self, loop: VirtualLoop) -> None:
        super().__init__()
        self._loop = loop

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """Return which files are ready, letting virtual time pass for ``timeout`` seconds at most until some are, or the loop has work.

        Raises:
            Stuck: without a timeout, and nothing came for very long.
        """
        world = self._loop.world
        ready = super().select(0)
        if ready or (timeout is not None and timeout <= 0):
            return ready
        world.settle()
        until = world.scheduler.now + (world.patience if timeout is None else timeout)
        self._loop.check()
        while not (ready := super().select(self._real_moment())) and not self._loop.has_work:
            if not world.step(until):
                if timeout is None and not self._loop.has_work:
                    raise self._loop.stuck()
                break
        return ready

    def _real_moment(self) -> float:
        if self._loop.jobs:
            return THREADS_GET
        return SOCKETS_GET if len(self.get_map()) > 1 else 0.0  # one is the loop's own, by which other threads wake it


def _describe(task: asyncio.Task[Any]) -> str:
    frames = task.get_stack(limit=1)
    return f"task {task.get_name()}{f' in {place_of(frames[0])}' if frames else ''}"


def _awaited_by(task: asyncio.Task[Any]) -> object:
    """Return what the code of a task's user waits for: the same object as long as it does; a sleep, which ends, is never the same."""
    awaited: Any = task.get_coro()
    while (inner := _inner(awaited)) is not None and not _is_library(awaited):
        awaited = inner
    code = getattr(awaited, "cr_code", None)
    return object() if code is asyncio.sleep.__code__ else awaited


def _inner(awaited: Any) -> Any:
    return getattr(awaited, "cr_await", None) or getattr(awaited, "ag_await", None)


def _is_library(awaited: Any) -> bool:
    frame = getattr(awaited, "cr_frame", None) or getattr(awaited, "ag_frame", None)
    module = frame.f_globals.get("__name__", "") if frame is not None else ""
    return module.partition(".")[0] in ("replkv", "asyncio") and not module.startswith("replkv.testing")


async def until(world: World, done: Callable[[], bool], timeout: float | None) -> bool:
    """Let the loop's time pass until ``done``, for ``timeout`` seconds at most, None being without limit; tell whether it came true.

    Raises:
        Stuck: without limit, and it did not come true for very long.
    """
    end = world.scheduler.now + (world.patience if timeout is None else timeout)
    while not done():
        if world.scheduler.now >= end:
            if timeout is None:
                raise Stuck(world.explain("the wait for a condition"))
            return False
        await asyncio.sleep(LOOK_EVERY)  # virtual, and so is what makes it come true: the simulation goes on meanwhile
    return True
