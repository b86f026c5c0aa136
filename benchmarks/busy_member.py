"""A member beside which threads compute when they are told to: ``python -m benchmarks.busy_member NAME DIRECTORY CLUSTER``.

It is asked as ``benchmarks.member`` is.
"""

from __future__ import annotations

import json
import sys

from benchmarks.answering import answer_requests
from benchmarks.computing import Computing
from benchmarks.member import Driver
from replkv import Replica


class Busy(Driver):
    """What the parent may ask for.

    Args:
        replica: the member.
    """

    def __init__(self, replica: Replica) -> None:
        super().__init__(replica, None)
        self._computing = Computing()

    def compute(self, threads: int) -> None:
        """Have so many threads compute from now on."""
        self._computing.have(threads)


def main() -> None:
    """Open the member and serve until stdin ends."""
    name, directory, cluster = sys.argv[1:]
    with Replica(name, data_dir=directory, cluster=json.loads(cluster)) as replica:
        answer_requests(Busy(replica))


if __name__ == "__main__":
    main()
