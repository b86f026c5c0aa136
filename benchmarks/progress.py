"""How far a long measurement is: what runs, how many of how many, the time gone, and an estimate of what is left."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence

from benchmarks.peer import say

Step = tuple[str, str]
"""A peer and a workload."""


class Progress:
    """Says before each step how far it is.

    Args:
        steps: all that will run, in order.
        clock: seconds.
        tell: what is said goes there.
    """

    def __init__(self, steps: Sequence[Step], clock: Callable[[], float] = time.monotonic, tell: Callable[[str], None] = say) -> None:
        self._left = list(steps)
        self._count = len(steps)
        self._clock = clock
        self._tell = tell
        self._begun = self._last = clock()
        self._took: dict[Step, float] = {}
        self._now: Step | None = None

    def begin(self, peer: str, workload: str, title: str) -> None:
        """Begin the next step."""
        self.end()
        self._now = peer, workload
        number = self._count - len(self._left) + 1
        self._tell(f"[{number}/{self._count}] {peer} {workload}: {title} – {_text(self._clock() - self._begun)} gone{self._rest()}")

    def end(self) -> None:
        """End the step that runs."""
        now = self._clock()
        if self._now is not None:
            self._took[self._now] = now - self._last
            if self._now in self._left:
                self._left.remove(self._now)
        self._now, self._last = None, now

    def _rest(self) -> str:
        """Estimate from how long the same step took before, or else from the others."""
        if not self._took:
            return ""
        usual = statistics.fmean(self._took.values())
        return f", about {_text(sum(self._took.get(step, usual) for step in self._left))} left"


def _text(seconds: float) -> str:
    return f"{int(seconds) // 60}:{int(seconds) % 60:02}"
