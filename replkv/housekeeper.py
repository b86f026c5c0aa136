"""Long work beside the node thread: zeroing WAL segments, writing snapshots.

A job is a generator that does its work in short steps.  In production one thread runs a step of each job in turn, and rests between
them; the simulator runs a step whenever it likes.  The node learns of the end on its own thread, when it asks ``finished``.
"""

from __future__ import annotations

import ctypes
import queue
import threading
import time
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

LONG = 256
"""Steps after which a job has taken so much memory that it is given back to the system afterwards: glibc would keep the gaps."""
REST = 2.0
"""How many times as long as a step took of the CPU the thread rests behind it.

Each time the node's thread, or a caller's, comes back from the kernel it needs the interpreter, a dozen times per put.  Beside a thread
that only computes it would have to wait each time, and a put would take many times as long.
"""
LONGEST_REST = 0.02
"""Seconds; who closes the member need not wait longer, nor does a new job."""

Job: TypeAlias = tuple[Iterator[None], Done]


class HousekeeperThread:
    """The housekeeper of a real member: one daemon thread.

    Args:
        name: of the thread.
        wake: called when a job has ended, so that the node asks for it.
    """

    def __init__(self, name: str, wake: Callable[[], None]) -> None:
        self._wake = wake
        self._new: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._ended: deque[tuple[Done, BaseException | None]] = deque()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def start(self, steps: Iterator[None], done: Done) -> None:
        """Begin a job; it is done in turn with those under way, so that a short one need not wait for a long one."""
        self._new.put((steps, done))

    def finished(self) -> list[tuple[Done, BaseException | None]]:
        """Return the jobs that ended since the last call."""
        return [self._ended.popleft() for _ in range(len(self._ended))]

    def close(self) -> None:
        """Stop after the step that is running, and wait a moment for it."""
        self._closed = True
        self._new.put(None)
        self._thread.join(1.0)

    def _run(self) -> None:
        jobs: deque[tuple[Iterator[None], Done, int]] = deque()  # with the steps that were done
        while not self._closed:
            if not jobs or not self._new.empty():
                if (new := self._new.get()) is not None:
                    jobs.append((*new, 0))
                del new
                continue
            begun = time.thread_time()
            self._step(jobs)
            if jobs and self._new.empty():
                time.sleep(min(LONGEST_REST, REST * (time.thread_time() - begun)))

    def _step(self, jobs: deque[tuple[Iterator[None], Done, int]]) -> None:
        """Do the next step of the first job; the job goes to the end of the line, or is over."""
        steps, done, number = jobs.popleft()
        error: BaseException | None = None
        try:
            next(steps)
        except StopIteration:
            pass
        except Exception as raised:  # noqa: BLE001  # whatever it is, the node decides what it means
            error = raised
        else:
            jobs.append((steps, done, number + 1))
            return
        self._ended.append((done, error))
        self._wake()
        if number >= LONG:
            del steps, done
            _trim(0)
