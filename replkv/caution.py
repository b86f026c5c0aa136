"""What a member may not do whose disk lost a part of its log, and until when.

Such a member may have acknowledged what it no longer holds.  Its **floor** is where its log ended, or may have ended: it helps only
candidates to leadership whose logs reach that far, as it would have done with its own whole, and does not stand while its own does not.
So the loss of its copy never makes a majority of those that lack an acknowledged entry; the leader sends it what is missing, and from
the floor on it is a member like any other.

Where the very end was damaged, the last vote and the floor themselves are lost: the member is **in doubt**, and neither votes nor
acknowledges anything until it has heard all other voters.  Whoever it may have voted for had raised its own term before it asked, or has
been restarted and can't use the vote any more.  Whatever it may have acknowledged stands in the log of the leader that counts it, and if
it was decided, in those of a majority.  So the greatest term is at least its own, its vote in that term counts as given, and the
greatest end of a log bounds what it may have held, provided that those who know where they stand are a majority.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from replkv import quorum
from replkv.messages import UNKNOWN, Census, CensusReply, Position

if TYPE_CHECKING:
    from collections.abc import Iterable

    from replkv.messages import Configuration

ASK_EVERY = 0.5
"""Seconds after which the question is repeated, for those whom it did not reach."""


class Caution:
    """The state of a member between a loss and its healing.

    Args:
        floor: where its log ended, ``UNKNOWN`` if that is lost.
        number: of its question; never used before.
        now: seconds.
    """

    def __init__(self, floor: Position, number: int, now: float) -> None:
        self.floor = floor
        self.ask_at = now
        self._number = number
        self._replies: dict[str, CensusReply] = {}

    @property
    def in_doubt(self) -> bool:
        """Whether its term, its vote and its floor are not known."""
        return self.floor == UNKNOWN

    def questions(self, others: Iterable[str], now: float) -> list[tuple[str, Census]]:
        """Return what to ask those who have not answered; a leader among them learns that it must begin anew with this member."""
        if now < self.ask_at:
            return []
        self.ask_at = now + ASK_EVERY
        return [(name, Census(self._number)) for name in others if name not in self._replies or self._replies[name].in_doubt]

    def heard(self, sender: str, reply: CensusReply) -> None:
        """Take an answer; one to another life's question tells nothing about this one."""
        if reply.id == self._number:
            self._replies[sender] = reply

    def settle(self, name: str, configuration: Configuration, last: Position) -> int | None:
        """End the doubt once all other voters have answered, and those that know where they stand are a majority.

        Args:
            name: of this member.
            configuration: who votes.
            last: where its own log ends now.

        Returns:
            The newest term that anybody has seen; None while it is not known.
        """
        certain = [sender for sender, reply in self._replies.items() if not reply.in_doubt]
        missing = {*configuration.voters, *configuration.outgoing} - {name, *self._replies}
        if not self.in_doubt or missing or not quorum.won(configuration, certain):
            return None
        replies = self._replies.values()
        self.floor = max(last, *(Position(reply.last_term, reply.last_index) for reply in replies))
        return max(reply.term for reply in replies)
