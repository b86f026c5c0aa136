"""A member of the measured PySyncObj cluster, driven from inside: ``python -m benchmarks.pysyncobj_member OWN OTHERS DIRECTORY MODE``.

It is asked as ``benchmarks.member`` is.  MODE is "alone", or "many": entries leave in batches every 2 ms.
"""

from __future__ import annotations

import base64
import json
import os
import sys
import threading
import time
from array import array
from collections.abc import Callable
from typing import Any

from pysyncobj import FAIL_REASON, SyncObj, SyncObjConf, SyncObjConsumer, replicated

from benchmarks.answering import answer_requests
from benchmarks.workloads import (
    CAP,
    KEYS,
    VALUE_BYTES,
    Workload,
    drive_sequential,
    drive_together,
    key,
    key_numbers,
    make_values,
)

MANY = {"appendEntriesUseBatch": True, "appendEntriesPeriod": 0.002, "autoTickPeriod": 0.001}
ALONE = {"appendEntriesUseBatch": False}
PATIENCE = 30.0
NUMBERS = key_numbers(50_000)


class Store(SyncObjConsumer):  # type: ignore[misc]  # it ships no types
    """A dict, and counters in it."""

    def __init__(self) -> None:
        super().__init__()
        self.pairs: dict[str, Any] = {}

    @replicated  # type: ignore[untyped-decorator]
    def put(self, key: str, value: Any) -> None:
        """Store a pair."""
        self.pairs[key] = value

    @replicated  # type: ignore[untyped-decorator]
    def swap(self, key: str, old: int, new: int) -> bool:
        """Store a number if another is there."""
        if self.pairs.get(key, 0) != old:
            return False
        self.pairs[key] = new
        return True

    @replicated  # type: ignore[untyped-decorator]
    def increase(self, key: str) -> int:
        """Add one."""
        self.pairs[key] = self.pairs.get(key, 0) + 1
        return int(self.pairs[key])


def as_text(values: list[bytes]) -> list[str]:
    """Return values of the same sizes as text: pickle protocol 2, which PySyncObj is bound to, would swell bytes."""
    return [base64.b64encode(value).decode()[: len(value)] for value in values]


class Driver:
    """Answers the parent's requests.

    Args:
        node: the member.
        store: that it replicates.
    """

    def __init__(self, node: Any, store: Store) -> None:
        self._node = node
        self._store = store
        self._values = {size: as_text(make_values(size)) for size in (VALUE_BYTES, 100)}
        self._keys = [key(number).decode() for number in range(KEYS)]

    def status(self) -> str | None:
        """Return the address of the leader; None until this member takes part."""
        leader = self._node.getStatus()["leader"]
        return str(leader.address) if leader is not None and self._node.isReady() else None

    def fill(self) -> None:
        """Put every key once."""
        values = self._values[VALUE_BYTES]
        self._chain(KEYS, 512, lambda number, done: self._store.put(self._keys[number], values[number % len(values)], callback=done))

    def run(self, operations: int, workload: dict[str, Any]) -> dict[str, Any]:
        """Run a workload; return the latencies and the seconds."""
        chosen = Workload(**workload)
        if chosen.threads:
            operate = self._swap if chosen.kind == "cas" else self._increase
            latencies, seconds, _ = drive_together(operations, [operate] * chosen.in_flight)
        elif chosen.kind == "get":
            one = self._keys[5]
            latencies, seconds = drive_sequential(operations, lambda _: self._store.pairs[one])
        elif chosen.in_flight == 1:
            latencies, seconds = drive_sequential(operations, lambda number: self._put(number, chosen, sync=True, timeout=PATIENCE))
        elif chosen.kind == "add":
            latencies, seconds = self._chain(operations, chosen.in_flight, lambda _, done: self._store.increase("counter", callback=done))
        else:
            latencies, seconds = self._chain(operations, chosen.in_flight, lambda number, done: self._put(number, chosen, callback=done))
        return {"latencies": array("d", latencies), "seconds": seconds}

    def _put(self, number: int, workload: Workload, **how: Any) -> None:
        values = self._values[workload.value_bytes]
        self._store.put(self._keys[NUMBERS[number % len(NUMBERS)]], values[number % len(values)], **how)

    def _increase(self, _: int) -> None:
        self._store.increase("counter", sync=True, timeout=PATIENCE)

    def _swap(self, _: int) -> None:
        while True:
            now = self._store.pairs.get("swapped", 0)
            if self._store.swap("swapped", now, now + 1, sync=True, timeout=PATIENCE):
                return

    def _chain(self, count: int, in_flight: int, submit: Callable[[int, Callable[[Any, Any], None]], object]) -> tuple[list[float], float]:
        """Have each completion begin the next operation, on PySyncObj's own thread: that spares it hand-overs between threads."""
        latencies: list[float] = []
        failed: list[object] = []
        ended = threading.Semaphore(0)
        upcoming, clock = iter(range(count)), time.perf_counter
        begun = clock()

        def begin_next() -> None:
            start, number = clock(), next(upcoming, None)
            if number is None or failed or start - begun > CAP:
                ended.release()
                return

            def done(_: Any, error: Any) -> None:
                if error == FAIL_REASON.SUCCESS:
                    latencies.append(clock() - start)
                else:
                    failed.append(error)
                begin_next()

            submit(number, done)

        for _ in range(in_flight):
            begin_next()
        for _ in range(in_flight):
            if not ended.acquire(timeout=CAP + PATIENCE):
                raise TimeoutError("PySyncObj did not complete a put")
        if failed:
            raise RuntimeError(f"PySyncObj failed: {failed[0]}")
        return latencies, clock() - begun


def main() -> None:
    """Open the member and serve until stdin ends."""
    own, others, directory, mode = sys.argv[1:]
    settings = SyncObjConf(journalFile=f"{directory}/journal", fullDumpFile=f"{directory}/dump", **(MANY if mode == "many" else ALONE))
    store = Store()
    answer_requests(Driver(SyncObj(own, json.loads(others), conf=settings, consumers=[store]), store))
    os._exit(0)  # its thread would go on


if __name__ == "__main__":
    main()
