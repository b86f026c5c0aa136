"""Many who watch one key in one process, each in a thread of its own."""

from __future__ import annotations

import threading
import time
from array import array

from benchmarks.workloads import CAP, LAST, WATCHED, stamp
from replkv import Event, Replica, Watch

PATIENCE = 3 * CAP


class Watchers:
    """Counts what arrives until ``LAST`` does; the first of them looks at the clock as well.

    Args:
        replica: the member that they watch at.
        count: how many.
    """

    def __init__(self, replica: Replica, count: int) -> None:
        self._latencies: list[float] = []
        self._events = [0] * count
        self._watches = [replica.watch(WATCHED) for _ in range(count)]
        for watch in self._watches:
            watch.next(0)
        self._threads = [threading.Thread(target=self._run, args=(number, watch)) for number, watch in enumerate(self._watches)]
        for thread in self._threads:
            thread.start()

    def _run(self, number: int, watch: Watch) -> None:
        seen, first, latencies = 0, number == 0, self._latencies
        for event in watch:
            if isinstance(event, Event):
                seen += 1
                value = event.kv.value
                if value == LAST:
                    break
                if first:
                    latencies.append((time.monotonic_ns() - stamp(value)) / 1e9)
        self._events[number] = seen

    def seen(self) -> dict[str, object]:
        """Wait until all have seen the last event; return the latencies, how many events they saw, and the moment of the last.

        Raises:
            TimeoutError: one did not see it.
        """
        deadline = time.monotonic() + PATIENCE
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        ended, waiting = time.monotonic(), sum(thread.is_alive() for thread in self._threads)
        for watch in self._watches:
            watch.close()
        if waiting:
            raise TimeoutError(f"{waiting} of {len(self._threads)} watchers did not see the last event within {PATIENCE:.0f} s")
        return {"latencies": array("d", self._latencies), "events": sum(self._events), "ended": ended}
