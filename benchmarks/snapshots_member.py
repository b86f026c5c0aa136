"""A member that takes snapshots when it is told to: ``python -m benchmarks.snapshots_member NAME DIRECTORY CLUSTER``.

It is asked as ``benchmarks.member`` is.  Moments are those of the machine's monotonic clock, which all processes share.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from concurrent.futures import Future
from typing import Any

from attrs import evolve

from benchmarks import filled
from benchmarks.member import VALUES, serve
from benchmarks.workloads import key
from replkv import Put, Replica

CHANGED = 1000
"""Keys that the measured puts change."""
POLL = 0.005
PATIENCE = 120.0


class Taker:
    """What the parent may ask for.

    Args:
        replica: the member.
    """

    def __init__(self, replica: Replica) -> None:
        self._replica = replica
        self._node = replica._running()  # noqa: SLF001  # no call takes a snapshot
        self._ending = threading.Event()
        self._thread = threading.Thread()
        self._done: list[tuple[float, float]] = []

    def status(self) -> dict[str, Any]:
        """Return who leads, and how far this member is."""
        status = self._replica.status()
        return {"leader": status.raft_leader, "revision": status.revision, "index": status.applied_index}

    def ready(self) -> None:
        """Wait until this member takes part."""
        self._replica.wait_ready(60)

    def fill(self, keys: int = 0) -> float:
        """Put so many keys; return the seconds it took."""
        return filled.fill(self._replica, keys)

    def rest(self) -> float:
        """Wait until no snapshot is being taken any more, and return the bytes of the newest."""
        filled.rest(self._replica)
        newest = self._node.log.snapshot
        return 0 if newest is None else newest.size

    def hold(self) -> None:
        """Take no snapshots from now on but when told to: puts alone would soon have them taken."""
        snapshots = self._node.snapshots
        snapshots._config = evolve(snapshots._config, snapshot_bytes=1 << 40)  # noqa: SLF001  # no call does
        snapshots._due = 1 << 40  # noqa: SLF001

    def take(self) -> tuple[float, float]:
        """Take a snapshot; return when it was begun and when it was durable."""
        snapshots, before = self._node.snapshots, self._node.log.snapshot
        snapshots._damaged = True  # noqa: SLF001  # so that another is needed at once
        deadline = time.monotonic() + PATIENCE
        while not snapshots.taking and time.monotonic() < deadline:
            time.sleep(POLL)
        begun = time.monotonic()
        while self._node.log.snapshot is before and time.monotonic() < deadline:
            time.sleep(POLL)
        return begun, time.monotonic()

    def begin(self, in_flight: int) -> None:
        """Begin to put, with so many puts under way at a time."""
        self._ending.clear()
        self._done = []
        self._thread = threading.Thread(target=self._put, args=(in_flight,), daemon=True)
        self._thread.start()

    def end(self) -> list[tuple[float, float]]:
        """End it; return when each put was begun, and the seconds it took."""
        self._ending.set()
        self._thread.join()
        return self._done

    def _put(self, in_flight: int) -> None:
        window: deque[Future[Any]] = deque()
        number = 0
        while not self._ending.is_set():
            number += 1
            begun = time.monotonic()
            if in_flight == 1:
                self._replica.put(key(number % CHANGED), VALUES[number % len(VALUES)])
                self._done.append((begun, time.monotonic() - begun))
                continue
            if len(window) == in_flight:
                window.popleft().result()
                begun = time.monotonic()
            future = self._replica.submit(Put(key(number % CHANGED), VALUES[number % len(VALUES)]))
            future.add_done_callback(lambda _, begun=begun: self._done.append((begun, time.monotonic() - begun)))  # type: ignore[misc]
            window.append(future)
        for future in window:
            future.result()


if __name__ == "__main__":
    serve(Taker)
