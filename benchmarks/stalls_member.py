"""A member with threads beside it that only compute: ``python -m benchmarks.stalls_member NAME DIRECTORY CLUSTER``.

It is asked as ``benchmarks.member`` is.
"""

from __future__ import annotations

import sys
import time
from typing import Any

from benchmarks.computing import Computing
from benchmarks.member import serve
from benchmarks.workloads import KEYS, key, make_values
from replkv import Replica

VALUES = make_values()


class Beside:
    """What the parent may ask for.

    Args:
        replica: the member.
    """

    def __init__(self, replica: Replica) -> None:
        self._replica = replica
        self._computing = Computing()

    def status(self) -> dict[str, Any]:
        """Return who leads, and in which term."""
        status = self._replica.status()
        return {"leader": status.raft_leader, "term": status.raft_term}

    def ready(self) -> None:
        """Wait until this member takes part."""
        self._replica.wait_ready(30)

    def fill(self) -> int:
        """Return how many keys were put: none, for the puts that are measured make their own."""
        return 0

    def compute(self, threads: int, interval: float | None) -> None:
        """Start threads that compute as long as the process lives, and never wait for anything.

        Args:
            threads: how many.
            interval: seconds after which they let others run; None: as Python has it.
        """
        if interval is not None:
            sys.setswitchinterval(interval)
        self._computing.have(threads)

    def put(self, seconds: float, pause: float) -> list[float]:
        """Put one after the other for so long, with a pause between two; return the seconds each took."""
        latencies: list[float] = []
        begun = now = time.monotonic()
        while now - begun < seconds:
            self._replica.put(key(len(latencies) % KEYS), VALUES[len(latencies) % len(VALUES)])
            latencies.append(time.monotonic() - now)
            time.sleep(pause)
            now = time.monotonic()
        return latencies

    def metrics(self) -> dict[str, int | float]:
        """Return the member's own counts."""
        return self._replica.metrics()


if __name__ == "__main__":
    serve(Beside)
