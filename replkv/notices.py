"""A leader's news of what is committed, kept back for a moment: in a stream of writes the next block carries it.

That saves each follower a message.  Where writes are rare nothing comes to carry it, and those who watch at a follower would wait in vain.
So the leader goes by what happened before: after news that it kept back for nothing it lets the next ones leave at once, and tries again
later and later.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from attrs import define, field

from replkv.messages import Append

if TYPE_CHECKING:
    from collections.abc import Iterable

    from replkv.links import Links
    from replkv.messages import RaftMessage

HOLD = 0.003
"""Seconds for which news is kept back at most; a write takes one to three milliseconds where the one before it has just been answered."""
RESTS = (8, 256)
"""How many commits are told at once after news was kept back for nothing: the first time, and at most."""


@define(eq=False, repr=False)
class Notices:
    """What a leader has to tell its followers, and what it sends them besides.

    Args:
        links: to the followers.
    """

    _links: Links
    due: float = field(default=float("inf"), init=False)
    """When what is kept back has to be sent, in seconds."""
    _kept: dict[str, RaftMessage] = field(factory=dict, init=False)  # by peer
    _held: bool = field(default=False, init=False)  # it waits for a block, not only for the end of the turn
    _rest: int = field(default=RESTS[0] // 2, init=False)
    _resting: int = field(default=0, init=False)  # so many further commits are told at once

    def keep(self, notices: Iterable[tuple[str, RaftMessage]], now: float, *, urgent: bool) -> None:
        """Keep news back until the end of the turn, or, if nobody is known to wait for it, until a block carries it or ``HOLD`` is over."""
        self._kept.update(notices)
        self._held = not urgent and not self._resting
        self.due = now + HOLD if self._held else now
        if self._resting and not urgent:
            self._resting -= 1

    def send(self, peer: str, message: RaftMessage) -> None:
        """Send to a peer, and before it what was kept back, unless this is an Append, which says the same."""
        if self._kept and (notice := self._kept.pop(peer, None)) is not None:
            if not isinstance(message, Append):
                self._links.send(peer, notice)
            elif self._held:
                self._rest = RESTS[0] // 2
        self._links.send(peer, message)

    def flush(self) -> None:
        """Send what is kept back: it is due."""
        self.due = float("inf")
        if self._held and self._kept:
            self._resting = self._rest = min(2 * self._rest, RESTS[1])
        for peer, notice in self._kept.items():
            self._links.send(peer, notice)
        self._kept.clear()

    def forget(self) -> None:
        """Forget what is kept back: this member does not lead any more."""
        self.due = float("inf")
        self._kept.clear()
