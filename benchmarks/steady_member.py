"""A member that puts at a fixed rate, whatever becomes of them: ``python -m benchmarks.steady_member NAME DIRECTORY CLUSTER CHOICES``.

CHOICES are a JSON object: "config" and "settings", each with arguments of theirs.  It is asked as ``benchmarks.member`` is.  Moments are
those of the machine's monotonic clock, which all processes share.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from concurrent.futures import Future
from functools import partial
from typing import Any

from benchmarks import filled
from benchmarks.answering import answer_requests
from benchmarks.member import VALUES
from benchmarks.workloads import key
from replkv import Config, Put, Replica, Settings

STRIDE = 7_919
"""A prime: puts go to all keys alike, and not in their order."""


class Steady:
    """What the parent may ask for.

    Args:
        replica: the member.
    """

    def __init__(self, replica: Replica) -> None:
        self._replica = replica
        self._done: list[tuple[float, float]] = []
        self._failures: list[str] = []

    def status(self) -> dict[str, Any]:
        """Return who leads."""
        return {"leader": self._replica.status().raft_leader}

    def ready(self) -> None:
        """Wait until this member takes part."""
        self._replica.wait_ready(60)

    def fill(self, keys: int = 0) -> float:
        """Put so many keys; return the seconds it took."""
        return filled.fill(self._replica, keys)

    def rest(self) -> None:
        """Wait until no snapshot is being taken any more."""
        filled.rest(self._replica)

    def begin(self, puts: int, rate: float, keys: int) -> float:
        """Begin to put so many times a second, each at its moment, whether those before are done or not; return when it began."""
        begun = time.monotonic()
        threading.Thread(target=self._put, args=(begun, puts, rate, keys), daemon=True).start()
        return begun

    def _put(self, begun: float, puts: int, rate: float, keys: int) -> None:
        for number in range(puts):
            due = begun + number / rate
            if (early := due - time.monotonic()) > 0:
                time.sleep(early)
            future = self._replica.submit(Put(key(number * STRIDE % keys), VALUES[number % len(VALUES)]))
            future.add_done_callback(partial(self._note, due))

    def _note(self, due: float, future: Future[Any]) -> None:
        """Count a put from when it was due: what waits because others are slow has waited, too."""
        if (error := future.exception()) is not None:
            self._failures.append(repr(error))
        self._done.append((due, time.monotonic() - due))

    def taken(self) -> dict[str, Any]:
        """Return when each put was due that has been done since the last call, the seconds it took from then, and what failed."""
        done, self._done = self._done, []
        failures, self._failures = self._failures, []
        return {"done": done, "failures": failures}

    def look(self) -> dict[str, Any]:
        """Return the snapshots this member has begun or taken, and up to which revision history is compacted."""
        taken, store = self._replica.metrics()["snapshots_taken"], self._replica._running().machine.store  # noqa: SLF001  # no call tells
        taking = any(transfer.doing == "taking" for transfer in self._replica.status().transfers)
        return {"snapshots": taken + taking, "taking": taking, "compacted": store.compacted}


def main() -> None:
    """Open the member and serve until stdin ends."""
    name, directory, cluster, text = sys.argv[1:]
    choices = json.loads(text)
    config, settings = Config(**choices["config"]), Settings(**choices["settings"])
    with Replica(name, data_dir=directory, cluster=json.loads(cluster), config=config, settings=settings) as replica:
        answer_requests(Steady(replica))


if __name__ == "__main__":
    main()
