"""A member that puts without pause and can be closed: ``python -m benchmarks.handover_member NAME DIRECTORY CLUSTER``.

It is asked as ``benchmarks.member`` is.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from itertools import pairwise
from typing import Any

from benchmarks.answering import answer_requests
from replkv import Replica


class Putting:
    """A member, and a thread that puts one after the other.

    Args:
        name: of the member.
        directory: its data directory.
        cluster: the cluster map.
    """

    def __init__(self, name: str, directory: str, cluster: dict[str, str]) -> None:
        self._arguments: dict[str, Any] = {"name": name, "data_dir": directory, "cluster": cluster}
        self._replica = Replica(**self._arguments)
        self._answered: list[float] = []
        self._failures: list[str] = []
        self._ending = threading.Event()
        self._thread: threading.Thread | None = None

    def status(self) -> dict[str, Any]:
        """Return who leads."""
        return {"leader": self._replica.status().raft_leader}

    def ready(self) -> None:
        """Wait until this member takes part."""
        self._replica.wait_ready(30)

    def fill(self) -> int:
        """Return how many keys were put: none."""
        return 0

    def begin(self) -> None:
        """Begin to put."""
        self._answered, self._failures = [], []
        self._ending.clear()
        self._thread = threading.Thread(target=self._put, daemon=True)
        self._thread.start()

    def _put(self) -> None:
        number = 0
        while not self._ending.is_set():
            number += 1
            try:
                self._replica.put(f"handover/{self._replica.name}", str(number), timeout=30)
            except Exception as error:  # noqa: BLE001  # the parent is told
                self._failures.append(repr(error))
                return
            self._answered.append(time.monotonic())

    def end(self, since: float, until: float) -> dict[str, Any]:
        """Stop putting, and return the longest time between two answers that touches what lies between two moments, and what failed."""
        self._ending.set()
        if self._thread is not None:
            self._thread.join()
        pairs = pairwise(self._answered)
        gap = max((after - before for before, after in pairs if after > since and before < until), default=0.0)
        return {"gap": gap, "failures": self._failures}

    def transfer(self) -> float:
        """Hand leadership over, and return the seconds until this member saw it."""
        begun = time.monotonic()
        self._replica.transfer_leadership(timeout=30)
        return time.monotonic() - begun

    def close(self) -> float:
        """Close the member, and return the seconds it took."""
        begun = time.monotonic()
        self._replica.close()
        return time.monotonic() - begun

    def open(self) -> None:
        """Open the member again."""
        self._replica = Replica(**self._arguments)


def main() -> None:
    """Open the member and serve until stdin ends."""
    name, directory, cluster = sys.argv[1:]
    member = Putting(name, directory, json.loads(cluster))
    try:
        answer_requests(member)
    finally:
        member.close()


if __name__ == "__main__":
    main()
