"""Signs of life: what a client asks its member from time to time, and what it knows from that."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Final

from attrs import define, field

if TYPE_CHECKING:
    from replkv.letters import Pong

SILENCE: Final = 3.0
"""Seconds without a sign of life after which a member counts as lost, once it has been asked for one."""
BUSY: Final = 1.0
"""Seconds between pings while something is under way, a lease is held or something is watched."""
IDLE: Final = 5.0
LEADERLESS: Final = 0.1
"""Likewise, while the member knows no leader: nothing is handed to it then."""
PONGS: Final = 128
"""Pongs that are remembered, to tell how old a state is."""


@define(eq=False, repr=False)
class Pulse:
    """The pings of one client; the client's thread alone, but for what only looks."""

    pong: Pong | None = field(default=None, init=False)
    """The newest one of the member that is asked now."""
    leaderless_since: float | None = field(default=None, init=False)
    """Since when that has known no leader."""
    waiting: bool = field(default=False, init=False)
    """Whether a ping is unanswered."""
    _pinged_at: float = field(default=float("-inf"), init=False)
    _hurried: bool = field(default=False, init=False)
    _pongs: deque[tuple[float, Pong]] = field(factory=lambda: deque(maxlen=PONGS), init=False)  # with when they were asked for

    def restart(self) -> None:
        """Begin anew with another member."""
        self.pong, self.leaderless_since = None, None
        self.waiting, self._pinged_at = False, float("-inf")

    def hurry(self) -> None:
        """Let the next ping be due now; one that is unanswered is older than the question."""
        self._hurried = True

    def due(self, *, busy: bool) -> float:
        """Return when the next ping is due, in seconds; infinite while one is unanswered."""
        if self.waiting:
            return float("inf")
        if self._hurried:
            return float("-inf")
        return self._pinged_at + (LEADERLESS if self.leaderless_since is not None else BUSY if busy else IDLE)

    def silent_at(self, heard_at: float) -> float:
        """Return when the member counts as lost if nothing is heard; infinite while it was not asked for a sign of life."""
        return max(heard_at, self._pinged_at) + SILENCE if self.waiting else float("inf")

    def pinged(self, now: float) -> None:
        """Take note that a ping was sent."""
        self.waiting, self._pinged_at, self._hurried = True, now, False

    def ponged(self, sent_at: float, pong: Pong, now: float) -> None:
        """Take note of the answer to the ping that was sent at ``sent_at``."""
        self.waiting, self.pong = False, pong
        self._pongs.append((sent_at, pong))
        if pong.leader is not None:
            self.leaderless_since = None
        elif self.leaderless_since is None:
            self.leaderless_since = now

    def age_at(self, revision: int, now: float) -> float:
        """Return how many seconds ago a state of this revision was known to be the newest; infinite if it never was."""
        told = ((sent_at, pong.age) for sent_at, pong in list(self._pongs) if pong.revision <= revision)
        return min((now - sent_at + age / 1e6 for sent_at, age in told if age is not None), default=float("inf"))
