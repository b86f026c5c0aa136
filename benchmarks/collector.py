"""``python -m benchmarks.collector``: what part of the time of puts goes to CPython's garbage collector, among few keys and among many.

One member alone, with its state in memory: nothing but the caller and the node is at work.
"""

from __future__ import annotations

import argparse
import gc
import sys
import time
from collections import Counter

from attrs import define, field

from benchmarks.commands import end_on_sigterm
from benchmarks.filled import fill
from benchmarks.growth import MANY_KEYS
from benchmarks.growth_member import IN_FLIGHT, overwrite
from benchmarks.peer import say
from benchmarks.report import machine
from benchmarks.workloads import KEYS
from replkv import Replica, __version__

PUTS = 200_000


@define
class Collections:
    """How often each generation was collected, and the seconds that took; ``gc.callbacks`` tells."""

    counts: Counter[int] = field(factory=Counter)
    seconds: dict[int, float] = field(factory=lambda: dict.fromkeys(range(3), 0.0))
    _begun: float = field(default=0.0, init=False)

    def note(self, phase: str, told: dict[str, int]) -> None:
        """Take note of the beginning or the end of a collection."""
        now = time.perf_counter()
        if phase == "start":
            self._begun = now
        else:
            self.counts[told["generation"]] += 1
            self.seconds[told["generation"]] += now - self._begun

    def __str__(self) -> str:
        return "; ".join(
            f"{count} of generation {one}, {self.seconds[one] / count * 1e3:.1f} ms each" for one, count in sorted(self.counts.items())
        )


def measure(keys: int, puts: int) -> list[str]:
    """Put to keys that are there, 512 at a time, in no order; return the lines of a table."""
    with Replica("a") as replica:
        fill(replica, keys)
        found = Collections()
        gc.callbacks.append(found.note)
        try:
            done, seconds = overwrite(replica, keys, puts, float("inf"))
        finally:
            gc.callbacks.remove(found.note)
    return [
        f"| puts to {keys:,} keys, 512 in flight | {done / seconds:,.0f}/s |",
        f"| – collecting garbage | {sum(found.seconds.values()) / seconds:.0%} of that time: {found} |",
    ]


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.collector", description=__doc__)
    parser.add_argument("--scale", type=float, default=1.0, help="multiplies the numbers of keys and puts")
    scale = parser.parse_args().scale
    if not scale > 0:
        parser.error("--scale must be above 0")
    end_on_sigterm()
    lines = ["| what | figure |", "|---|---|"]
    for keys in (KEYS, MANY_KEYS):
        say(f"{keys:,} keys")
        lines += measure(max(1, int(keys * scale)), max(IN_FLIGHT, int(PUTS * scale)))
    print("\n".join([*lines, "", f"replkv {__version__}, {time.strftime('%Y-%m-%d')}, `python -m benchmarks.collector`: {machine()}."]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
