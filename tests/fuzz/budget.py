"""What hostile bytes may cost their reader: for each 64 KiB of them 50 ms of CPU, and 16 MB of memory.

It is a promise, not a benchmark: who sends garbage must not get more work out of a member than that.  So that the promise can be checked
on any machine, time is CPU time, the least of several tries, and counts as on a machine on which ``NORMAL_TURN`` is right.
"""

from __future__ import annotations

import gc
import time
import tracemalloc
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import NamedTuple

UNIT = 64 << 10
SECONDS = 0.05
MEMORY = 16 << 20

NORMAL_TURN = 40e-9
"""Seconds that one turn of an empty loop takes on a machine of the kind the promise is made for; slower ones may take longer."""

TRIES = 20
"""At most: others on the machine make a try dearer than the work is, and one that is cheap enough is the last."""


class TooDear(AssertionError):
    """Reading cost more than the budget allows."""


class Cost(NamedTuple):
    """Seconds of CPU, as on a normal machine, and bytes of memory at the peak."""

    seconds: float
    memory: int


def allowance(size: int) -> Cost:
    """Return what bytes may cost that are so many; compressed ones count as what they claim to hold."""
    units = max(1.0, size / UNIT)
    return Cost(SECONDS * units, int(MEMORY * units))


def seconds_of(work: Callable[[], object], enough: float = 0.0, tries: int = TRIES) -> float:
    """Return how long some work takes: the least of several tries, or the first that takes ``enough`` or less.

    What the process holds besides is left out of the collector's sight: how much that is, is not the reader's business.
    """
    least = float("inf")
    gc.freeze()
    try:
        for _ in range(tries):
            began = time.process_time()
            work()
            least = min(least, (time.process_time() - began) / slowness())
            if least <= enough:
                break
    finally:
        gc.unfreeze()
    return least


def memory_of(work: Callable[[], object]) -> int:
    """Return the peak of what Python takes of memory for some work."""
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def resident_of(work: Callable[[], object]) -> int | None:
    """Return the peak of the process's memory during some work, what libraries in C take included; None where no system tells."""
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # from now on the peak is counted anew
        before = _peak()
        work()
        return _peak() - before
    except OSError:
        return None


def _peak() -> int:
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return next(int(line.split()[1]) << 10 for line in status.splitlines() if line.startswith("VmHWM"))


def check(work: Callable[[], object], size: int) -> Cost:
    """Return what reading bytes costs.

    Raises:
        TooDear: it is beyond what ``size`` bytes allow.
    """
    limit = allowance(size)
    seconds = seconds_of(work, limit.seconds)
    if seconds > limit.seconds:
        raise TooDear(f"{size} bytes took {seconds * 1e3:.1f} ms where {limit.seconds * 1e3:.0f} are allowed")
    memory = memory_of(work)
    if memory > limit.memory:
        raise TooDear(f"{size} bytes took {memory >> 20} MiB where {limit.memory >> 20} are allowed")
    return Cost(seconds, memory)


@cache
def slowness() -> float:
    """Return by how much this machine is slower than a normal one; 1 on faster ones."""
    turns = 100_000
    best = float("inf")
    for _ in range(TRIES):
        began = time.process_time()
        for _ in range(turns):
            pass
        best = min(best, time.process_time() - began)
    return max(1.0, best / turns / NORMAL_TURN)
