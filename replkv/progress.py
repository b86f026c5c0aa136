"""What a leader knows of its followers: how far each one's log agrees, and which broadcasts a quorum has answered."""

from __future__ import annotations

from collections import deque
from enum import Enum

from attrs import Factory, define

INFLIGHT = 4
"""Appends with entries on their way to one follower."""
WINDOW = 4
"""Own entries a leader leaves uncommitted: a few large blocks batch better than many small ones."""


class Pace(Enum):
    """How a leader feeds a follower."""

    PROBE = "probe"  # looking for the place where the logs agree: one Append, then wait
    REPLICATE = "replicate"  # agreed: a few Appends ahead of the answers
    SNAPSHOT = "snapshot"  # its next entry is forgotten here: the node streams a snapshot


@define
class Progress:
    """A leader's view of one follower.

    ``match`` is durable there and only grows; ``next`` is a guess and always above it.
    """

    next: int
    incarnation: int | None = None
    match: int = 0
    pace: Pace = Pace.PROBE
    asked: bool = False
    """Probing: an Append is on its way; the next one waits for its answer or for the next heartbeat."""
    inflight: deque[int] = Factory(deque)
    """Replicating: the last index of each unanswered Append with entries."""
    commit: int = 0
    """The commit index it was last told."""
    acked_round: int = 0
    fresh_round: int = 0
    """Refusals from rounds before this one were overtaken by what the leader has learnt since."""
    since_round: int = 0
    """Answers from rounds before this one tell of a log that its disk has lost since."""
    heard_at: float = float("-inf")
    behind_at: int = 0
    """Where its log ended when it was found to need a snapshot."""

    def has_room(self, last_index: int) -> bool:
        """Tell whether entries up to ``last_index`` wait for it and may be sent now."""
        if self.pace is Pace.REPLICATE:
            return self.next <= last_index and len(self.inflight) < INFLIGHT
        return self.pace is Pace.PROBE and not self.asked

    def sent(self, last_index: int, commit: int) -> None:
        """Note an Append with entries up to ``last_index``, or without any if that is below ``next``."""
        self.commit = commit
        if self.pace is Pace.PROBE:
            self.asked = True
        elif self.pace is Pace.REPLICATE and last_index >= self.next:
            self.inflight.append(last_index)
            self.next = last_index + 1

    def acknowledged(self, match: int) -> bool:
        """Note that its log agrees up to ``match``; tell whether that is news."""
        while self.inflight and self.inflight[0] <= match:
            self.inflight.popleft()
        if news := match > self.match:
            self.match = match
        if self.pace is Pace.REPLICATE:
            if self.next <= self.match:
                self.next = self.match + 1
        elif match + 1 >= self.next:
            # An answer from before the probe proves nothing about the probe: it may not end the search early.
            self.next = self.match + 1
            self.pace = Pace.REPLICATE
            self.asked = False
        return news

    def probe(self, next_index: int, *, wait: bool = False) -> None:
        """Look for the place where the logs agree, beginning before ``next_index``.

        Args:
            next_index: the guess; never taken below what is known to match.
            wait: leave the first question to the next heartbeat.
        """
        self.pace = Pace.PROBE
        self.next = max(next_index, self.match + 1)
        self.asked = wait
        self.inflight.clear()

    def needs_snapshot(self, base: int) -> None:
        """Wait until its log agrees at least up to ``base``."""
        self.pace = Pace.SNAPSHOT
        self.next = max(base, self.match) + 1
        self.behind_at = max(self.behind_at, self.match)
        self.inflight.clear()


class Rounds:
    """The broadcasts of one leadership, and the newest one that a quorum has acknowledged.

    A round is begun by every turn that sends anything, so an acknowledged round proves that its sender still led when it was sent:
    that confirms reads asked before it, and measures the lease from the moment of sending.
    """

    def __init__(self, now: float) -> None:
        self.current = 0
        self.confirmed = 0
        self.confirmed_at = now
        self._sent: deque[tuple[int, float]] = deque()

    def begin(self, now: float) -> None:
        """Begin a round."""
        self.current += 1
        self._sent.append((self.current, now))

    def confirm(self, round_: int) -> bool:
        """Note that a quorum has acknowledged ``round_``; tell whether that is news."""
        if round_ <= self.confirmed:
            return False
        self.confirmed = round_
        while self._sent and self._sent[0][0] <= round_:
            self.confirmed_at = self._sent.popleft()[1]
        return True
