"""Long work beside the node thread: zeroing WAL segments, writing snapshots.

A job is a generator that does its work in short steps.  In production one thread runs jobs one after the other; the simulator runs a step
whenever it likes.  The node learns of the end on its own thread, when it asks ``finished``.
"""

from __future__ import annotations

import ctypes
import queue
import threading
from collections import deque
from collections.abc import Callable, Iterator
from typing import Protocol, TypeAlias, cast

Done: TypeAlias = Callable[[BaseException | None], None]
"""What to call, on the node's thread, when a job has ended: with the error that ended it, or None."""


class Housekeeper(Protocol):
    """Runs jobs beside the node."""

    def start(self, steps: Iterator[None], done: Done) -> None:
        """Run a generator to its end, then report ``done`` through ``finished``."""

    def finished(self) -> list[tuple[Done, BaseException | None]]:
        """Return the jobs that ended since the last call."""

    def close(self) -> None:
        """Stop after the step that is running; what is left is dropped."""


def _find_trim() -> Callable[[int], object]:
    """Return what gives memory back that C's allocator keeps for nothing, or something harmless where there is no such thing."""
    try:
        return cast("Callable[[int], object]", ctypes.CDLL(None).malloc_trim)
    except (OSError, TypeError, AttributeError):
        return lambda _: None


_trim = _find_trim()

LONG = 64
"""Steps after which a job has taken so much memory that it is given back to the system afterwards: glibc would keep the gaps."""


class HousekeeperThread:
    """The housekeeper of a real member: one daemon thread.

    Args:
        name: of the thread.
        wake: called when a job has ended, so that the node asks for it.
    """

    def __init__(self, name: str, wake: Callable[[], None]) -> None:
        self._wake = wake
        self._jobs: queue.SimpleQueue[tuple[Iterator[None], Done] | None] = queue.SimpleQueue()
        self._ended: deque[tuple[Done, BaseException | None]] = deque()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def start(self, steps: Iterator[None], done: Done) -> None:
        """Queue a job."""
        self._jobs.put((steps, done))

    def finished(self) -> list[tuple[Done, BaseException | None]]:
        """Return the jobs that ended since the last call."""
        return [self._ended.popleft() for _ in range(len(self._ended))]

    def close(self) -> None:
        """Stop after the step that is running, and wait a moment for it."""
        self._closed = True
        self._jobs.put(None)
        self._thread.join(1.0)

    def _run(self) -> None:
        while (job := self._jobs.get()) is not None:
            steps, done = job
            error: BaseException | None = None
            number = 0
            try:
                for _ in steps:
                    number += 1
                    if self._closed:
                        return
            except Exception as raised:  # noqa: BLE001  # whatever it is, the node decides what it means
                error = raised
            self._ended.append((done, error))
            self._wake()
            if number >= LONG:
                del steps, done, job
                _trim(0)
