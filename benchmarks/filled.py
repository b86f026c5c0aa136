"""A lone member with many keys that measures itself: ``python -m benchmarks.filled DIRECTORY KEYS fill|restart``; prints JSON."""

from __future__ import annotations

import gc
import json
import os
import statistics
import sys
import time
from collections import deque
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from benchmarks.workloads import VALUE_BYTES, key
from replkv import Put, Replica

COLLECTIONS = 5
IN_FLIGHT = 512
PAGE = os.sysconf("SC_PAGE_SIZE")


def resident() -> int:
    """Return the bytes of this process that are in memory."""
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * PAGE


def fill(replica: Replica, keys: int) -> float:
    """Put so many keys, each with a value of its own that can't be compressed; return the seconds it took."""
    begun = time.monotonic()
    window: deque[Future[Any]] = deque()  # no list of latencies: what the driver keeps would count as the member's
    for number in range(keys):
        if len(window) == IN_FLIGHT:
            window.popleft().result()
        window.append(replica.submit(Put(key(number), os.urandom(VALUE_BYTES))))
    for future in window:
        future.result()
    return time.monotonic() - begun


def rest(replica: Replica) -> None:
    """Wait until no snapshot is being taken any more."""
    node = replica._running()  # noqa: SLF001  # no call tells
    quiet = 0
    while quiet < 10:
        quiet = 0 if node.snapshots.taking else quiet + 1
        time.sleep(0.1)  # between two looks: one snapshot may follow the other


def collection() -> float:
    """Return the seconds of a full collection, the middle of several."""
    took = []
    for _ in range(COLLECTIONS):
        begun = time.perf_counter()
        gc.collect()
        took.append(time.perf_counter() - begun)
    return statistics.median(took)


def main() -> None:
    """Open, fill or look, measure."""
    begun = time.monotonic()
    directory, count, what = sys.argv[1:]
    keys = int(count)
    with Replica(data_dir=directory) as replica:
        replica.wait_ready(600)
        opened = time.monotonic() - begun
        gc.collect()
        empty = resident()
        seconds = fill(replica, keys) if what == "fill" else 0.0
        found = replica.scan(count_only=True).count
        if found != keys:
            raise RuntimeError(f"{found:,} keys where there should be {keys:,}")
        rest(replica)
        gc.collect()
        report = {"opened": opened, "filled": seconds, "empty": empty, "resident": resident(), "collection": collection()}
        print(json.dumps(report), flush=True)


if __name__ == "__main__":
    main()
