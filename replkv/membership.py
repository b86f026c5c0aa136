"""How a member comes to belong to a cluster, and how the cluster's configuration follows what is wanted.

A member with an empty directory founds its cluster together with the other founders (``founding.py``), or greets one that exists as an
applicant: it knows nothing, and whoever it reaches tells the leader.  The leader takes in those whose names are in the configuration, and
steers that, step by step, to what the roster wants (``steering.py``).  A newcomer begins with the first entry of the log, which any member
sends it as soon as a committed configuration has its incarnation; the leader's Appends, or a snapshot, do the rest.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from attrs import define, evolve, field

from replkv import codec
from replkv.address_book import SEED
from replkv.errors import Removed, WrongCluster
from replkv.founding import check_founding, founding_entry
from replkv.member_ops import ChangeMembers
from replkv.messages import EXPECTED, Application, EntryKind, Found
from replkv.raft import Role
from replkv.steering import next_step
from replkv.upgrading import supported

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Iterable, Mapping

    from replkv.address_book import AddressBook
    from replkv.config import Settings
    from replkv.links import Links
    from replkv.log import Log, Recovered
    from replkv.machine import Machine
    from replkv.messages import Configuration, Entry
    from replkv.proposals import Call
    from replkv.raft import Raft
    from replkv.succession import Succession

logger = logging.getLogger(__name__)

CAUGHT_UP = 64
"""Entries a learner may lack when it gets its vote: the leader sends as many in one go (thesis §4.2.1)."""
ALIVE = 2.0
"""Seconds since a member's last answer after which another directory of its name may take its place."""
PATIENCE = 3
"""Election timeouts for which a member hears that it was removed before it believes it: one that leads no longer may not know so much."""
TOLD_FOR = 2.0
"""Seconds for which the leader believes what others tell of newcomers; they tell it again."""


@define(eq=False, repr=False)
class Membership:
    """One member's view of who belongs to its cluster.

    Args:
        name: of the member.
        founders: the address of every founder, this one included; empty for one that joins.
        links: to the peers.
        book: where they may be.
        log: of this member.
        succession: who is to lead where this member has to make way.
        begin: called with what the log holds once it has been founded.
        submit: hands over a command of this member's own.
        learner: it came to stay without a vote.
    """

    _name: str
    _founders: Mapping[str, str]
    _links: Links
    _book: AddressBook
    _log: Log
    _succession: Succession
    _begin: Callable[[Recovered, float], None]
    _submit: Callable[[bytes, Callable[[Call], None]], None]
    _learner: bool
    # newcomers others saw, by name: until when that counts, and with which incarnation in the configuration
    _told: dict[str, tuple[Application, float, int | None]] = field(factory=dict, init=False)
    _let_in: dict[str, float] = field(factory=dict, init=False)  # whom it wants for their certificates: when it says so again
    _belonged: bool = field(default=False, init=False)
    _alone_since: float | None = field(default=None, init=False)  # since when peers say that this member was removed
    _office: int = field(default=0, init=False)  # the term in which it was first seen to lead, and since when
    _leads_since: float = field(default=0.0, init=False)
    _has_two: bool = field(default=False, init=False)
    _seen: tuple[int, int] = field(default=(0, 0), init=False)  # what steering last began from: index of the configuration, of the roster

    # -- founding ------------------------------------------------------------------------------------------------------------------

    def try_to_found(self, rng: random.Random, settings: Settings, now: float) -> bool:
        """Found the cluster, if this is the first of the founders by name and all of them are here and empty; tell whether it did."""
        others = [name for name in self._founders if name != self._name]
        if self._name != min(self._founders, default=None) or not all(map(self._links.is_unfounded, others)):
            return False
        incarnations = {name: self._links.incarnation_of(name) or EXPECTED for name in others}
        incarnations[self._name] = self._links.identity.incarnation
        level = supported(self._links, others)
        entry = founding_entry(rng.randbytes(len(codec.NO_CLUSTER)), incarnations, self._founders, settings, level)
        self._begin(self._log.found(entry), now)
        for peer in others:
            self._links.send(peer, Found(entry, self._book.addresses()))
        return True

    @property
    def waits(self) -> bool:
        """Whether this member has an empty directory, and a peer that belongs to a cluster already."""
        return self._links.cluster == codec.NO_CLUSTER and self._links.knows_a_cluster

    def told(self, peer: str, message: Found, now: float) -> None:
        """Begin an empty log with the founding entry of the cluster that this member was let into; it may be one of its founders.

        Raises:
            Incompatible: this version can't take part in that cluster.
        """
        if self._log.last_index:
            return
        try:
            check_founding(message.entry)
        except codec.DecodeError as error:
            logger.warning("%s dropped a founding entry from %s: %s", self._name, peer, error)
            return
        self._book.told(message.addresses)
        self._links.about = evolve(self._links.about, configured=message.configured)
        self._links.newest = max(self._links.newest, message.configured)
        self._begin(self._log.found(message.entry), now)

    # -- what no event announces ---------------------------------------------------------------------------------------------------

    def configured(self, machine: Machine, *, certain: bool) -> None:
        """Say in greetings how new the configuration is that this member knows, and whether it knows all that is decided.

        Raises:
            Removed: this member is not in it any more.
        """
        self._links.decide(machine.configured, machine.configuration.members, certain=certain)
        self._links.level = machine.level
        if machine.configured > self._links.about.configured:
            self._links.about = evolve(self._links.about, configured=machine.configured)
        self._warn_of_two(machine.roster.voters)
        if self._belonged and not self._belongs(machine):
            raise Removed(f"member {self._name} was removed from its cluster; an empty directory can join again, once it is named there")

    def _belongs(self, machine: Machine) -> bool:
        return machine.configuration.members.get(self._name) == self._links.identity.incarnation

    def passed(self, machine: Machine) -> None:
        """Note what an entry has made of the machine.

        That is the level that newcomers have to support, from now on; and that this member has belonged to its cluster, if only for a
        moment: a newcomer's log begins before it did.
        """
        self._links.level = machine.level
        self._belonged = self._belonged or self._belongs(machine)

    def _warn_of_two(self, voters: set[str]) -> None:
        """Say once that two are to vote; that there are two for a moment, on the way to more, is none of it."""
        if len(voters) == 2 and not self._has_two:
            logger.warning(
                "%s: the cluster has two voters, %s: the loss of either stops all writes, so two survive less than one alone; "
                "add a third with change_members(add=...), or remove one",
                self._name,
                " and ".join(sorted(voters)),
            )
        self._has_two = len(voters) == 2

    def look_around(self, raft: Raft, machine: Machine, now: float) -> None:
        """Let newcomers in, and find out that this member is none of the cluster's any more.

        Raises:
            Removed: others say so who have a leader, and for some time nobody has said anything else.
        """
        # The founding itself counts before it is decided: it is decided only once most of the founders have it.
        founding = codec.decode_founding(self._log.founding_entry.payload) if not machine.applied else None
        members = (machine.configuration if founding is None else founding.configuration).members
        for peer in members:
            if peer != self._name and self._links.is_unfounded(peer) and self._links.incarnation_of(peer) == members[peer]:
                self._links.send(peer, Found(self._log.founding_entry, self._book.addresses(), machine.configured))
        if raft.role is not Role.LEADER and raft.leader is not None:
            for newcomer in self._links.newcomers(raft.configuration.addresses):
                self._links.send(raft.leader, newcomer)
        self._let_in_who_is_certified(raft, machine, now)
        if self._learner and self._belonged and raft.leader is not None and machine.applied >= raft.commit:
            self._decline(machine)
        removed_by = self._links.removed_by
        if raft.leader is not None:
            self._book.forget([peer for peer in self._book.peers if peer.startswith(SEED)])
        if raft.leader is not None or not removed_by:
            self._alone_since = None
        elif self._alone_since is None:
            self._alone_since = now
        elif now - self._alone_since > PATIENCE * raft.timing.election_timeout:
            reasons = ", ".join(f"{peer} says: {reason}" for peer, reason in sorted(removed_by.items()))
            raise Removed(f"member {self._name} was removed from its cluster: {reasons}")

    def _let_in_who_is_certified(self, raft: Raft, machine: Machine, now: float) -> None:
        """Want those as members who came to join with a certificate, seen here or by a member that has one: it is their permission."""
        if raft.role is not Role.LEADER:
            return
        told = (newcomer for newcomer, until, _ in self._told.values() if until > now)
        for newcomer in (*self._links.newcomers(raft.configuration.addresses), *told):
            name, address = newcomer.name, newcomer.address
            wanted = name in machine.roster or name in raft.configuration.members
            if not wanted and address and not newcomer.moved and now >= self._let_in.get(name, now):
                self._let_in = {other: until for other, until in self._let_in.items() if until > now} | {name: now + ALIVE}
                logger.info("%s lets %s in, which joins with a certificate, at %s", self._name, name, address)
                self._submit(codec.pack(ChangeMembers(add=((name, address),)).to_wire()), lambda _: None)

    def restarted(self, configuration: Configuration, entries: Iterable[Entry]) -> None:
        """Take note of what is in the log at the start: who has a vote by then was given it on purpose.

        Args:
            configuration: in effect.
            entries: of the log.
        """
        # Each configuration but the last is committed, or the next one had not been proposed.  Until it is applied again, those who lag
        # behind would take this member for one that was removed; and without them there may be no majority.
        changes = [entry.index for entry in entries if entry.kind is not EntryKind.BLOCK]
        self._links.about = evolve(self._links.about, configured=changes[-2] if len(changes) > 1 else 0)
        has_vote = configuration.is_voter(self._name) and configuration.members[self._name] == self._links.identity.incarnation
        self._learner = self._learner and not has_vote

    def _decline(self, machine: Machine) -> None:
        """Say that this member wants no vote; once, for somebody may give it one later."""
        self._learner = False
        if self._name in machine.roster and machine.roster[self._name].voter:
            self._submit(codec.pack(ChangeMembers(learners=((self._name, ""),)).to_wire()), lambda _: None)

    def check_cluster(self, raft: Raft) -> None:
        """Find out that most of the peers belong to another cluster.

        Only who is in the newest configuration is asked: where somebody was who has gone, there may be another cluster by now.

        Raises:
            WrongCluster: they do.
        """
        if raft.leader is not None or raft.configured < self._links.newest:
            return
        excluded_by = {peer: reason for peer, reason in self._links.excluded_by.items() if peer in raft.others}
        if 2 * len(excluded_by) > len(raft.others):
            reasons = ", ".join(f"{peer} says: {reason}" for peer, reason in sorted(excluded_by.items()))
            raise WrongCluster(f"{self._name} is no member of the cluster that most of its peers belong to; {reasons}")

    # -- steering ------------------------------------------------------------------------------------------------------------------

    def heard(self, raft: Raft, peer: str, message: Application, now: float) -> None:
        """Note a newcomer that another member told of; of one that nobody has named only if that can tell by certificates."""
        known = raft.configuration.members.get(message.name)
        if raft.role is Role.LEADER and (known is not None or self._links.is_certified(peer)):
            self._told[message.name] = message, now + TOLD_FOR, known

    def _note_office(self, raft: Raft, now: float) -> None:
        if self._office != raft.term:
            self._office, self._leads_since = raft.term, now

    def has_news(self, raft: Raft, machine: Machine) -> bool:
        """Tell whether the configuration or the roster has changed since ``steer`` was last called."""
        return raft.role is Role.LEADER and self._seen != (machine.configured, machine.roster.changes)

    def step(self, raft: Raft, machine: Machine, now: float) -> Configuration | None:
        """Return the next configuration on the way from the one in effect to what is wanted, None if there is nothing to do but wait."""
        self._note_office(raft, now)
        # What was said of one that has been removed since says nothing about who is expected in its place.
        members = raft.configuration.members
        self._told = {name: told for name, told in self._told.items() if told[1] > now and members.get(name) == told[2]}
        followers = _Followers(raft, now, self._leads_since)
        unseen = {*self._told} - {self._name}  # what is seen here counts more than what is told, and what it knows of itself most
        told = (self._told[name][0] for name in unseen if self._links.incarnation_of(name) is None)
        newcomers = [*self._links.newcomers(raft.configuration.addresses), *told]
        return next_step(raft.configuration, machine.roster, newcomers, followers)

    def steer(self, raft: Raft, machine: Machine, now: float) -> None:
        """Propose the next step from the configuration in effect to what is wanted, if this member leads and the last one is committed.

        Who is to lose its own vote hands the leadership over first, to one that stays: nobody has to miss a leader for that.  If none of
        them answers, it leads into the joint configuration, in which it still has a vote, and hands over to one that comes.
        """
        self._seen = machine.configured, machine.roster.changes
        behind = machine.applied < raft.configured  # it may not know yet who is wanted, for whom the configuration was made
        if raft.role is not Role.LEADER or not raft.is_in_charge or raft.is_unsettled or behind:
            return
        if (step := self.step(raft, machine, now)) is None:
            return
        followers = _Followers(raft, now, self._leads_since)
        heirs = [name for name in step.voters if name != self._name and raft.configuration.is_voter(name) and followers.has_answered(name)]
        if self._name in step.voters or not heirs or not raft.configuration.is_voter(self._name):
            raft.propose(EntryKind.CONFIGURATION, codec.encode_configuration(step), now)
        else:
            self._succession.make_way(raft, now, heirs)


@define
class _Followers:
    """What a leader knows of its followers."""

    _raft: Raft
    _now: float
    _since: float  # this leader is in office

    def is_alive(self, name: str) -> bool:
        """Tell whether a member has answered of late, or has not had the time to; this one does."""
        return self.has_answered(name) or (name in self._raft.peers and self._since > self._now - ALIVE)

    def has_answered(self, name: str) -> bool:
        """Tell whether a member has answered of late; this one does."""
        peer = self._raft.peers.get(name)
        return peer.heard_at > self._now - ALIVE if peer is not None else name == self._raft.name

    def is_caught_up(self, name: str) -> bool:
        """Tell whether a member has almost all of the log, and answers."""
        peer = self._raft.peers.get(name)
        return peer is not None and self.has_answered(name) and peer.match + CAUGHT_UP >= self._raft.last_index and peer.match > 0
