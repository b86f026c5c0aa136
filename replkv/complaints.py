"""When to say in the log that somebody else does wrong: whoever goes on doing it must not fill the log."""

from __future__ import annotations

from typing import Final

from attrs import define, field

EVERY: Final = 5.0
"""Seconds between two warnings of a kind."""


@define(eq=False)
class Complaints:
    """What there is to complain of, and when it was said last."""

    _count: int = field(default=0, init=False)
    _again_at: float = field(default=float("-inf"), init=False)

    def due(self, now: float) -> int:
        """Count one more; return how many there are to be told of now, this one included, 0 where it is too early to say so again."""
        self._count += 1
        if now < self._again_at:
            return 0
        self._again_at = now + EVERY
        told, self._count = self._count, 0
        return told
