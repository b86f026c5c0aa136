"""A member that gets more and more to hold: ``python -m benchmarks.growth_member NAME DIRECTORY CLUSTER CONFIG``.

It is asked as ``benchmarks.member`` is.  CONFIG is JSON.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from itertools import cycle
from typing import Any

from benchmarks import filled
from benchmarks.member import VALUES, Driver, serve
from benchmarks.workloads import drive_window, key
from replkv import Put, Replica
from replkv.keeper import PER_TTL
from replkv.ops import Grant, KeepAlive, Packable, Revoke
from replkv.plans import Write

IN_FLIGHT = 512
STRIDE = 7_919
"""A prime: puts go to all keys alike, and not in their order."""


def overwrite(replica: Replica, keys: int, most: int, cap: float) -> tuple[int, float]:
    """Put to keys in no order, 512 at a time, so often or for so many seconds; return how many puts there were, and the seconds."""
    latencies, took = drive_window(
        most, IN_FLIGHT, lambda number: replica.submit(Put(key(number * STRIDE % keys), VALUES[number % len(VALUES)])), cap=cap
    )
    return len(latencies), took


class Growing(Driver):
    """What the parent may ask for.

    Args:
        replica: the member.
    """

    def __init__(self, replica: Replica) -> None:
        super().__init__(replica, None)
        self._submit_plan = replica._submit  # noqa: SLF001  # what no application does
        self._leases: list[int] = []
        self._keeping = threading.Event()

    def grow(self, keys: int) -> float:
        """Put so many keys, with values of which each is another; return the seconds it took."""
        return filled.fill(self._replica, keys)

    def put(self, seconds: float, keys: int) -> tuple[int, float]:
        """Put for so long, 512 at a time, keys among so many; return how many puts there were, and the seconds they took."""
        return overwrite(self._replica, keys, 1 << 40, seconds)

    def lease(self, count: int, keepers: int, ttl: float) -> None:
        """Have so many leases, kept alive in the name of so many processes at the rate of a member's keeper, instead of those before."""
        self._keeping.set()
        self._each(len(self._leases), lambda number: Revoke(self._leases[number]))
        rng = random.Random()
        numbers = [rng.getrandbits(62) + 1 for _ in range(keepers)]
        self._leases = [rng.getrandbits(62) + 1 for _ in range(count)]
        self._keeping = threading.Event()
        if count:  # from the first on: granting all of them takes about as long as they live
            threading.Thread(target=self._keep, args=(numbers, ttl / PER_TTL / keepers, self._keeping), daemon=True).start()
        self._each(count, lambda number: Grant(self._leases[number], round(ttl * 1e6), numbers[number % keepers]))

    def _keep(self, keepers: list[int], pause: float, ended: threading.Event) -> None:
        for keeper in cycle(keepers):
            if ended.wait(pause):
                return
            self._submit_plan(Write(KeepAlive(keeper)))

    def _each(self, count: int, operation: Callable[[int], Packable[Any]]) -> None:
        drive_window(count, IN_FLIGHT, lambda number: self._submit_plan(Write(operation(number))), cap=float("inf"))


if __name__ == "__main__":
    serve(Growing)
