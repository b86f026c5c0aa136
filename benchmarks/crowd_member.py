"""A member in whose process many wait for one lock: ``python -m benchmarks.crowd_member NAME DIRECTORY CLUSTER HOW``.

HOW is "threads" or "tasks".  It is asked as ``benchmarks.member`` is.
"""

from __future__ import annotations

import asyncio
import json
import sys
import threading
import time
from abc import ABC, abstractmethod
from typing import Any

from benchmarks.answering import answer_requests
from benchmarks.filled import resident
from benchmarks.workloads import LOCK
from replkv import Replica
from replkv.aio import AsyncReplica
from replkv.recipes.base import place_of
from replkv.recipes.lock import AsyncLock, Lock

PATIENCE = 300.0
"""Seconds after which who waits gives up."""


class Crowd(ABC):
    """Those who wait in this process, and answers to the parent's requests.

    Args:
        replica: the member, open.
    """

    def __init__(self, replica: Replica | AsyncReplica) -> None:
        self._replica: Any = replica  # whose calls return results, or what is to be awaited: ``_do`` makes them alike
        self._own = self._replica.lock(LOCK)
        self._taken: list[float] = []
        self._woken: list[None] = []
        self._failures: list[str] = []

    @abstractmethod
    def _do(self, call: Any) -> Any:
        """Return the result of a call of the member's."""

    @abstractmethod
    def join(self, count: int) -> None:
        """Have so many wait for the lock and give it back as soon as they have it."""

    def close(self) -> None:
        """End the member."""
        self._do(self._replica.close())

    # -- for those who wait

    def _lock(self) -> Any:
        """Return a lock that takes note of each time that its waiter is woken."""
        lock: Lock | AsyncLock = self._replica.lock(LOCK)
        line = lock._line  # noqa: SLF001  # no call tells
        wait = line._wait_until_gone  # noqa: SLF001

        async def counted(*arguments: Any) -> None:
            await wait(*arguments)
            self._woken.append(None)

        line._wait_until_gone = counted  # type: ignore[method-assign, assignment]  # noqa: SLF001
        return lock

    def _had_it(self) -> None:
        self._taken.append(time.monotonic())  # a clock that all processes share

    def _failed(self, error: Exception) -> None:
        self._failures.append(repr(error))

    # -- requests

    def status(self) -> dict[str, Any]:
        """Return who leads, and how far this member is."""
        status = self._replica.status()
        return {"leader": status.raft_leader, "revision": status.revision}

    def ready(self) -> None:
        """Wait until this member takes part."""
        self._do(self._replica.wait_ready(30))

    def fill(self) -> int:
        """Return how many keys were put: none, for the store is to hold the crowd alone."""
        return 0

    def resident(self) -> int:
        """Return the bytes of this process that are in memory."""
        return resident()

    def take(self) -> None:
        """Take the lock."""
        self._do(self._own.acquire(PATIENCE))

    def give(self) -> float:
        """Give it back, and return when that began."""
        begun = time.monotonic()
        self._do(self._own.release())
        return begun

    def waiting(self) -> int:
        """Return how many stand in line, the holder among them."""
        count: int = self._do(self._replica.scan(prefix=place_of("lock", LOCK), count_only=True, consistency="local")).count
        return count

    def served(self) -> int:
        """Return how many have had it here.

        Raises:
            RuntimeError: somebody did not get it.
        """
        if self._failures:
            raise RuntimeError(f"{len(self._failures)} did not get the lock: {self._failures[0]}")
        return len(self._taken)

    def turns(self) -> dict[str, Any]:
        """Return when each had it, and how often somebody was woken."""
        return {"taken": self._taken, "woken": len(self._woken)}


class Threads(Crowd):
    """A crowd of threads."""

    def __init__(self, name: str, directory: str, cluster: dict[str, str]) -> None:
        super().__init__(Replica(name, data_dir=directory, cluster=cluster))

    def _do(self, call: Any) -> Any:
        return call

    def join(self, count: int) -> None:
        """Start a thread for each."""
        for _ in range(count):
            threading.Thread(target=self._wait, daemon=True).start()

    def _wait(self) -> None:
        lock = self._lock()
        try:
            lock.acquire(PATIENCE)
            self._had_it()
            lock.release()
        except Exception as error:  # noqa: BLE001  # the parent is told
            self._failed(error)


class Tasks(Crowd):
    """A crowd of tasks of one loop, which has a thread of its own."""

    def __init__(self, name: str, directory: str, cluster: dict[str, str]) -> None:
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, daemon=True).start()
        replica = AsyncReplica(name, data_dir=directory, cluster=cluster)
        self._do(replica.open())
        super().__init__(replica)
        self._tasks: list[Any] = []

    def _do(self, call: Any) -> Any:
        async def awaited() -> Any:
            return await call

        return asyncio.run_coroutine_threadsafe(awaited(), self._loop).result()

    def join(self, count: int) -> None:
        """Start a task for each."""
        self._tasks = [asyncio.run_coroutine_threadsafe(self._wait(), self._loop) for _ in range(count)]

    async def _wait(self) -> None:
        lock = self._lock()
        try:
            await lock.acquire(PATIENCE)
            self._had_it()
            await lock.release()
        except Exception as error:  # noqa: BLE001  # the parent is told
            self._failed(error)


def main() -> None:
    """Open the member and serve until stdin ends."""
    name, directory, cluster, how = sys.argv[1:]
    kind = Threads if how == "threads" else Tasks
    crowd = kind(name, directory, json.loads(cluster))
    try:
        answer_requests(crowd)
    finally:
        crowd.close()


if __name__ == "__main__":
    main()
