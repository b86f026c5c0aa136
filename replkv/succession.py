"""Who is to lead next: callers who want another leader, and a leader that makes way for a member it is told to prefer.

While a leader waits for its heir to take over nothing can be written.  So it offers its place only to one that could take it at once, and
waits a while behind an offer that came to nothing.  A member that does not lead passes its callers' wishes on to the leader, again and
again until it sees them fulfilled: messages may be lost, and who leads may change.  The leader says what is in the way, so that who waits
in vain can tell its caller.
"""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING

from attrs import define, field

from replkv.errors import MemberNotFound, MembershipRefused
from replkv.messages import HandOver, Hindrance
from replkv.preference import Preference
from replkv.progress import Pace
from replkv.raft import Role

if TYPE_CHECKING:
    from collections.abc import Iterable

    from replkv.errors import ReplkvError
    from replkv.links import Links
    from replkv.messages import Configuration
    from replkv.proposals import Call
    from replkv.raft import Raft
    from replkv.space import Space

logger = logging.getLogger(__name__)

LACKS = 64
"""Entries an heir may lack: it gets them in one go."""
ASK_EVERY = 0.1
"""Seconds after which a leader is asked again."""
PATIENCE = 4
"""Election timeouts for which a leader leads, and a better one is fit, before it makes way by itself."""


@define(eq=False)
class _Wish:
    """A caller that wants another leader: ``to``, or with None anybody but ``old``."""

    call: Call
    to: str | None
    old: str | None = None
    ask_at: float = float("-inf")


@define(eq=False, repr=False)
class Succession:
    """What one member knows and does about the next leader.

    Args:
        name: of the member.
        priority: of the member.
        links: to the peers.
        space: knows whose disks are full.
    """

    _name: str
    _priority: int
    _links: Links
    _space: Space
    hindrance: str = field(default="", init=False)
    """What is in the way of what a caller wants; read by all threads."""
    _wishes: list[_Wish] = field(factory=list, init=False)
    _gate: threading.Lock = field(factory=threading.Lock, init=False)
    _asked_by: dict[str, tuple[str | None, float]] = field(factory=dict, init=False)  # followers that ask: for whom, and until when
    _offered: tuple[int, float] = field(default=(0, 0.0), init=False)  # in which term this member made an offer, and how long it rests
    _preference: Preference | None = field(default=None, init=False)

    # -- callers, any thread -------------------------------------------------------------------------------------------------------

    def ask(self, call: Call, to: str | None) -> None:
        """Let a caller wait until a member leads, None: another one than now."""
        with self._gate:
            self._wishes.append(_Wish(call, to))

    def give_up(self, call: Call) -> None:
        """Forget a caller."""
        with self._gate:
            self._wishes = [wish for wish in self._wishes if wish.call is not call]

    def fail_all(self, error: ReplkvError) -> None:
        """Finish every caller: the member has stopped."""
        with self._gate:
            wishes, self._wishes = self._wishes, []
        for wish in wishes:
            wish.call.fail(error)

    # -- the node's thread ---------------------------------------------------------------------------------------------------------

    def turn(self, raft: Raft, now: float) -> None:
        """Finish the callers whose wishes are fulfilled, and do what brings the others nearer to that."""
        if self._asked_by:
            self._hear_followers(raft, now)
        if not self._wishes:
            self.hindrance = ""
            return
        if raft.leader is not None:
            with self._gate:
                wishes = list(self._wishes)
            for wish in wishes:
                self._pursue(raft, raft.leader, wish, now)

    def _pursue(self, raft: Raft, leader: str, wish: _Wish, now: float) -> None:
        wish.old = wish.old or leader
        if leader == wish.to or (wish.to is None and leader != wish.old):
            self._finish(wish, None)
        elif (error := _impossible(raft.configuration, wish.to, leader)) is not None:
            self._finish(wish, error)
        elif raft.role is Role.LEADER:
            self.hindrance = self._offer(raft, wish.to, now)
        elif now >= wish.ask_at:
            wish.ask_at = now + ASK_EVERY
            self._links.send(leader, HandOver(wish.to or ""))

    def _finish(self, wish: _Wish, error: ReplkvError | None) -> None:
        self.give_up(wish.call)
        wish.call.error = error
        wish.call.finish()

    def _hear_followers(self, raft: Raft, now: float) -> None:
        """Offer this leader's place to whom followers ask for as soon as that one is fit."""
        leads = raft.role is Role.LEADER
        self._asked_by = {peer: (to, until) for peer, (to, until) in self._asked_by.items() if leads and until > now}
        for to, _ in self._asked_by.values():
            if _impossible(raft.configuration, to, self._name) is None:  # it may have lost its vote since
                self._offer(raft, to, now)

    def heard(self, raft: Raft, peer: str, message: HandOver | Hindrance, now: float) -> None:
        """Take what a follower wishes, or what is in the way as the leader says."""
        if isinstance(message, Hindrance):
            self.hindrance = message.why if self._wishes and raft.leader == peer else ""
        elif raft.role is Role.LEADER and message.to != self._name:
            to = message.to or None
            if (error := _impossible(raft.configuration, to, self._name)) is None:
                self._asked_by[peer] = to, now + 3 * ASK_EVERY
            self._links.send(peer, Hindrance(str(error) if error is not None else self._offer(raft, to, now)))

    def look_around(self, raft: Raft, now: float) -> None:
        """Make way for a member that is wanted more, where this one leads and all is quiet."""
        if raft.role is not Role.LEADER or raft.is_unsettled or raft.configuration.outgoing:
            return
        if self._preference is None:
            self._preference = Preference(self._priority, PATIENCE * raft.timing.election_timeout)
        others = [name for name in raft.configuration.voters if name in raft.peers]
        fit = {name: self._priority_of(name) for name in others if not self._unfit(raft, name, now)}
        if (heir := self._preference.heir(raft.term, fit, now)) is not None and not self._offer(raft, heir, now):
            logger.info("%s makes way for %s, which has priority %d, not %d", self._name, heir, fit[heir], self._priority)

    def make_way(self, raft: Raft, now: float, among: Iterable[str]) -> None:
        """Offer this leader's place to the best of some others, as soon as that one is fit: this member is to lose its vote."""
        if (heir := self.best(raft, now, among)) is not None and (hindered := self._offer(raft, heir, now)):
            logger.debug("%s can't make way: %s", self._name, hindered)

    def best(self, raft: Raft, now: float, among: Iterable[str] | None = None) -> str | None:
        """Return who should lead if this member does not: fit, of the highest priority, with the most of the log; None: nobody could.

        Args:
            raft: of this member, which leads.
            now: seconds.
            among: who may be chosen; None: every voter.
        """
        names = raft.configuration.voters if among is None else among
        heirs = [name for name in sorted(names) if name in raft.peers and name in raft.configuration.voters]

        def rank(name: str) -> tuple[bool, int, int]:
            return not self._unfit(raft, name, now), self._priority_of(name), raft.peers[name].match

        return max(heirs, key=rank, default=None)

    # -- leading -------------------------------------------------------------------------------------------------------------------

    def _offer(self, raft: Raft, to: str | None, now: float) -> str:
        """Offer this leader's place; return what is in the way, "" where it has been offered."""
        term, rests_until = self._offered
        if term == raft.term and now < rests_until:
            return "the last offer has not been taken up"
        heir = to or self.best(raft, now)
        if heir is None:
            return "there is nobody to hand over to"
        if unfit := self._unfit(raft, heir, now):
            return unfit
        # An offer stands for an election timeout; behind one that came to nothing, writes must have their turn.
        self._offered = raft.term, now + 2 * raft.timing.election_timeout
        raft.transfer(heir, now)
        return ""

    def _unfit(self, raft: Raft, name: str, now: float) -> str:
        """Say why a follower could not take over at once; "": it could."""
        peer = raft.peers[name]
        if self._links.incarnation_of(name) is None or peer.heard_at <= now - raft.timing.election_timeout:
            return f"{name} can't be reached"
        if name in self._space.full:
            return f"the disk of {name} is full"
        lacks = raft.last_index - peer.match
        if lacks > LACKS or peer.pace is Pace.SNAPSHOT:
            return f"{name} lacks {lacks:,} {'entry' if lacks == 1 else 'entries'}"
        return "" if peer.pace is Pace.REPLICATE else f"{name} is being asked how much of the log it has"

    def _priority_of(self, name: str) -> int:
        about = self._links.about_of(name)
        return about.priority if about is not None else 0


def _impossible(configuration: Configuration, to: str | None, leader: str) -> ReplkvError | None:
    """Return why leadership can never go where it is wanted, as the cluster's members are now; None: it can."""
    if to is None and configuration.all_voters <= {leader}:
        return MembershipRefused(f"there is nobody to hand over to: {leader} is the only member that has a vote")
    if to is None or configuration.is_voter(to):
        return None
    if to in configuration.learners:
        return MemberNotFound(f"{to} is a learner and can't lead: give it a vote with promote() first")
    return MemberNotFound(f"there is no member {to}; those that can lead are {', '.join(sorted(configuration.all_voters))}")
