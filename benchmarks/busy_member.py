"""A member beside which threads compute when they are told to: ``python -m benchmarks.busy_member NAME DIRECTORY CLUSTER``.

It is asked as ``benchmarks.member`` is.
"""

from __future__ import annotations

from benchmarks.computing import Computing
from benchmarks.member import Driver, serve
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


if __name__ == "__main__":
    serve(Busy)
