"""What a member may not do whose disk lost a part of its log, and until when.

Such a member may have acknowledged what it no longer holds.  Its **floor** is where its log ended, or may have ended: it helps only
candidates to leadership whose logs reach that far, as it would have done with its own whole, and does not stand while its own does not.
So the loss of its copy never makes a majority of those that lack an acknowledged entry; the leader sends it what is missing, and from
the floor on it is a member like any other.

Where the very end was damaged, the last vote and the floor themselves are lost: the member is **in doubt**, and neither votes nor
acknowledges anything until all other voters have answered.

- Whoever it may have voted for had made its own new term durable before it asked, or has lost it and been restarted: then it can't use
  the vote any more, for no message reaches another life than the one it was sent to.  So the newest term that anybody knows is at least
  the one it voted in, and its vote in that term counts as given.
- Whoever counts what it acknowledged begins anew with it when the question comes, or has been restarted.  So what was decided with its
  help was decided before the answer, and stands in the log of the one that decided it and of all others that helped.  Unless those in
  doubt could have done it among themselves, one of them knows where it stands: the newest end of any log bounds the floor.

The second holds for a floor that is known as well.  Then it lowers one that nobody else ever reached: what this member wrote as a leader
to its own disk alone need not keep others from being elected.

All of it takes for granted that the member still knows who votes.  It may have lost the entries that changed that.  But whatever followed
the configuration it knows was decided by a majority of that, in which there is another than itself; so when all of them have answered, one
has told of a newer one.  Then the member is **outgrown**: the others can't settle its doubt, and it can only come back as a new member.
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
BEGIN_ANEW = "empty its data directory: it comes back as a new member by itself while the others have a leader"
WAYS_OUT = (
    "put back a copy of the whole directory of one of them that was made after it had stopped for the last time, or begin a new cluster"
)


class Caution:
    """The state of a member between a loss and its healing.

    Args:
        floor: where its log ended, ``UNKNOWN`` if that is lost.
        number: of its first question; neither it nor those that follow it were ever used before.
        now: seconds.
    """

    def __init__(self, floor: Position, number: int, now: float) -> None:
        self.floor = floor
        self.ask_at = now
        self._number = number
        self._replies: dict[str, CensusReply] = {}
        self.outgrown = False
        """Somebody knows a newer configuration, with other voters."""

    @property
    def in_doubt(self) -> bool:
        """Whether its term, its vote and its floor are not known."""
        return self.floor == UNKNOWN

    @property
    def term(self) -> int:
        """The newest term that any of those knows who have answered."""
        return max((reply.term for reply in self._replies.values()), default=0)

    def questions(self, others: Iterable[str], now: float) -> list[tuple[str, Census]]:
        """Return what to ask those who have not answered; a leader among them learns that it must begin anew with this member."""
        if now < self.ask_at:
            return []
        self.ask_at = now + ASK_EVERY
        return [(name, Census(self._number)) for name in others if name not in self._replies or self._replies[name].in_doubt]

    def heard(self, sender: str, reply: CensusReply, now: float, configured: int, known: Configuration) -> None:
        """Take an answer; one to another question tells nothing.

        Args:
            sender: who answers.
            reply: the answer.
            now: seconds.
            configured: the index of the newest configuration this member knows; 0: it has lost that.
            known: that configuration.
        """
        if reply.id != self._number:
            return
        self.outgrown |= reply.configured > configured and quorum.electorates(reply.configuration) != quorum.electorates(known)
        if reply.in_doubt and sender not in self._in_doubt():
            # Until it stopped it may have led, and decided something together with those who had answered before: they are asked again.
            self._replies = self._in_doubt()
            self._number += 1
            self.ask_at = now
        self._replies = {**self._replies, sender: reply}  # another one: other threads may be walking over the last

    def _in_doubt(self) -> dict[str, CensusReply]:
        return {name: reply for name, reply in self._replies.items() if reply.in_doubt}

    def wants(self, name: str, configuration: Configuration) -> str:
        """Return what has to happen before this member is one like any other, in words.

        Args:
            name: of this member.
            configuration: who votes.
        """
        voters, doubtful = configuration.all_voters, {name, *self._in_doubt()}
        silent = ", ".join(sorted(voters - {name, *self._replies}))
        if self.in_doubt and quorum.won(configuration, doubtful):
            return f"lost the end of its log, and so did {', '.join(sorted(doubtful - {name}))}, a majority of all voters: {WAYS_OUT}"
        if self.in_doubt:
            return f"lost the end of its log, and takes no part until it has heard {silent}: start what is down, or {BEGIN_ANEW}"
        lost = f"lost a part of its log, and does not stand for election before a leader has sent it the entries up to {self.floor.index}"
        if silent:
            return f"{lost}, or it has heard {silent}: start what is down"
        return f"{lost}.  If nobody leads although all voters run, others have lost the same: {WAYS_OUT}"

    def settle(self, name: str, configuration: Configuration, last: Position) -> bool:
        """Lower the floor to what the others' answers leave possible, as soon as they do; this ends a doubt.

        Args:
            name: of this member.
            configuration: who votes.
            last: where its own log ends now.

        Returns:
            Whether the floor is another one now.
        """
        voters, doubtful = configuration.all_voters, {name, *self._in_doubt()}
        if self.outgrown or not voters <= {name, *self._replies} or quorum.won(configuration, doubtful):
            return False
        ends = [Position(reply.last_term, reply.last_index) for reply in self._replies.values() if not reply.in_doubt]
        before, self.floor = self.floor, min(self.floor, max(last, *ends))
        return self.floor < before
