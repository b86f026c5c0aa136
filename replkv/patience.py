"""How long a member waits for its leader, and what it has promised it meanwhile.

Two clocks run: the election timeout, drawn anew for every wait so that members do not stand all at once (§3.4), and the promise, which
binds this member's vote for a short fixed time after each acknowledged Append.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import random

    from replkv.messages import Vote

NEVER = float("inf")


class Patience:
    """A follower's view of time; all times are seconds on its own clock."""

    def __init__(self, election_timeout: float, promise: float, rng: random.Random, now: float) -> None:
        """Begin as a restarted member does: it may have promised just before it stopped, and cannot know to whom."""
        self._election_timeout = election_timeout
        self._promise = promise
        self._rng = rng
        self._promised_to: str | None = None
        self.promised_until = now + promise
        self._held: dict[str, Vote] = {}
        self._early: tuple[float, float] | None = None  # since when the connection is lost, and how long to wait after the promise
        self._next_early = now
        self._excused = False
        self.wait(now)

    def wait(self, now: float) -> None:
        """Wait for an election timeout of a new random length."""
        self._timeout = self._election_timeout * self._rng.uniform(2 / 3, 1.0)
        self.stand_at = now + self._timeout
        self._excused = False

    def heard(self, leader: str, now: float) -> None:
        """Promise the leader that nobody else gets this vote for a while, and go on waiting."""
        self.stand_at = now + self._timeout
        self._promised_to = leader
        self.promised_until = now + self._promise
        self._excused = False
        if self._held:
            self._held.clear()

    def excuse(self, now: float) -> None:
        """Go on believing in the leader for one promise more: this member stood still, and what was sent meanwhile is yet to be read.

        It also helps nobody else to leadership for as long, who may have stood still as well.  Once in a wait: a member that stands still
        again and again must not wait for ever.
        """
        if not self._excused:
            self._excused = True
            self.promised_until = max(self.promised_until, now + self._promise)
            self.stand_at = max(self.stand_at, self.promised_until)

    def binds_against(self, candidate: str, now: float) -> bool:
        """Tell whether a promise forbids to help a candidate."""
        return now < self.promised_until and candidate != self._promised_to

    def hold(self, candidate: str, vote: Vote) -> None:
        """Keep a question that only the promise forbids to answer: two survivors must not wait for each other."""
        self._held[candidate] = vote

    def release(self, now: float) -> list[tuple[str, Vote]]:
        """Return the questions that may be answered by now."""
        if not self._held or now < self.promised_until:
            return []
        held, self._held = self._held, {}
        return list(held.items())

    def lost_leader(self, rank: int, now: float) -> None:
        """Prepare to stand soon after the promise; once per election timeout, so that a flapping connection is not a weapon.

        Args:
            rank: this voter's place among those who may do the same; each waits a little longer than the one before.
            now: seconds.
        """
        if now >= self._next_early:
            self._early = (now, self._promise * (rank * 0.3 + self._rng.uniform(0.0, 0.1)))

    def forget_early(self) -> None:
        """Stand no earlier than the election timeout asks for."""
        self._early = None

    @property
    def early_at(self) -> float:
        """When to stand for having lost the leader's connection."""
        if self._early is None:
            return NEVER
        since, delay = self._early
        return max(since, self.promised_until) + delay

    @property
    def deadline(self) -> float:
        """When something is due."""
        due = min(self.stand_at, self.early_at)
        return min(due, self.promised_until) if self._held else due

    def is_over(self, now: float) -> bool:
        """Tell whether it is time to stand."""
        if now >= self.early_at:
            self._next_early = now + self._election_timeout
            return True
        return now >= self.stand_at
