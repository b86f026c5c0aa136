"""What there is to see of a run from outside: how a member looks after a turn, what is sent, what is committed.

``situations.py`` asks these for what is worth reaching; ``sights.py`` makes them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from attrs import field, frozen

from replkv.raft import Role
from replkv.wal_format import SECTOR, flush_sectors, segment_name

if TYPE_CHECKING:
    from replkv.leadership import Leadership
    from replkv.machine import Machine
    from replkv.messages import Configuration
    from replkv.node import Node
    from replkv.raft import Raft
    from replkv.testing.cluster import SimMember
    from replkv.testing.invariants import Commit
    from replkv.testing.sights import Sights


class View(NamedTuple):
    """What a member looked like after a turn; ``node``, ``raft`` and ``lead`` have gone on since then, the rest is as it was."""

    world: Sights
    member: SimMember
    node: Node
    raft: Raft
    lead: Leadership | None
    machine: Machine
    role: Role
    term: int
    leader: str | None
    configuration: Configuration
    heir: str | None
    base: int
    commit: int
    last: int
    last_term: int
    snapshot: int
    taking: bool
    sending: int
    receiving: bool
    loading: bool
    applying: bool
    session: int
    batches: int
    early_reads: bool
    address: str

    @classmethod
    def of(cls, world: Sights, member: SimMember, node: Node, raft: Raft) -> View:
        """Return what a member looks like now."""
        log, lead, snapshots, file = raft._log, raft._lead, node.snapshots, node.log.snapshot
        return cls(
            world,
            member,
            node,
            raft,
            lead,
            node.machine,
            raft.role,
            raft.term,
            raft.leader,
            raft.configuration,
            None if lead is None else lead.heir,
            log.base_index,
            raft.commit,
            log.last_index,
            log.last_term,
            0 if file is None else file.meta.index,
            snapshots._taking,
            len(snapshots._sending),
            snapshots._receiver is not None,
            snapshots._loading is not None,
            node._applying is not None,
            node.proposals.session,
            len(node.proposals._batches),
            lead is not None and bool(lead._reads) and raft.commit < lead.first_index,
            member.address,
        )

    @property
    def name(self) -> str:
        """The member's name."""
        return self.member.name

    @property
    def leads(self) -> bool:
        """Whether it thinks that it leads."""
        return self.role is Role.LEADER

    @property
    def follows(self) -> bool:
        """Whether it knows of another that leads."""
        return self.leader not in (None, self.name)

    @property
    def is_new(self) -> bool:
        """Whether it leads and has nothing of its own term committed yet."""
        return self.lead is not None and self.commit < self.lead.first_index

    @property
    def hopes(self) -> bool:
        """Whether it has entries that it does not know to be committed."""
        return self.commit < self.last

    @property
    def removes(self) -> bool:
        """Whether there is compacted history to be removed."""
        return bool(self.machine.store.unscrubbed)

    @property
    def belongs(self) -> bool:
        """Whether it is in its configuration."""
        return self.name in self.configuration.names

    @property
    def votes(self) -> bool:
        """Whether it has a vote in it."""
        return self.configuration.is_voter(self.name)

    @property
    def joint(self) -> bool:
        """Whether that is a joint one."""
        return bool(self.configuration.outgoing)

    @property
    def unsettled(self) -> bool:
        """Whether that is not committed, as far as it knows, and not the founders' either."""
        return self.raft._log.configuration_index > max(self.commit, 1)

    @property
    def made_its_end(self) -> bool:
        """Whether what is last in its log is from a term in which it led."""
        return self.world.led(self.name, self.last_term)

    @property
    def others(self) -> list[View]:
        """How those others look that are running."""
        return self.world.others(self.name)

    @property
    def previous(self) -> View | None:
        """How its last life looked in the end."""
        return self.world.previous.get(self.name)

    @property
    def is_cut_off(self) -> bool:
        """Whether nothing passes between it and any other, in one direction at least."""
        network = self.member.cluster.network
        pairs = [{(self.name, other), (other, self.name)} for other in self.member.cluster.members if other != self.name]
        return all(pair & network.cuts for pair in pairs)

    @property
    def written(self) -> float:
        """How much of the flush that its crash interrupted is on the disk: a share of its sectors."""
        log = self.node.log
        content = self.member.disk.seen.get(segment_name(log._segment))
        if log._failure is None or content is None or not log._records:
            return 0.0
        sectors = flush_sectors(log._hard_state, sum(map(len, log._records)))
        starts = range(log._sector * SECTOR, (log._sector + sectors) * SECTOR, SECTOR)
        return sum(any(content.seen[start : start + SECTOR]) for start in starts) / sectors


@frozen
class Turn:
    """A member looks otherwise than before."""

    before: View
    now: View
    installed: bool = field(init=False)
    """Whether it goes on from a snapshot."""
    forgot: bool = field(init=False)
    """Whether what was last in its log is there no more."""

    @installed.default
    def _was_installed(self) -> bool:
        return self.now.machine is not self.before.machine

    @forgot.default
    def _has_forgotten(self) -> bool:
        log, last = self.now.raft._log, self.before.last
        return not self.installed and last > log.base_index and log.term_at(last) != self.before.last_term

    @property
    def founding(self) -> dict[str, int]:
        """The founders, by incarnation."""
        founding = self.now.machine.founding
        return {} if founding is None else founding.configuration.members

    @property
    def renewed(self) -> list[tuple[str, int, int]]:
        """Those who have another incarnation in the configuration than before: name, incarnation before and now."""
        before, now = self.before.configuration.members, self.now.configuration.members
        if before is now:
            return []
        return [(name, number, now[name]) for name, number in before.items() if now.get(name, number) != number]

    @property
    def promoted(self) -> set[str]:
        """Those who have become voters from learners."""
        return {*self.before.configuration.learners}.intersection(self.now.configuration.voters)

    @property
    def removed(self) -> set[str]:
        """Those who are in the configuration no more, in the cluster that leaders steer."""
        if not self.now.member.cluster.scenario.steers:
            return set()
        return {*self.before.configuration.members}.difference(self.now.configuration.members)

    @property
    def has_moved(self) -> bool:
        """Whether the configuration has another address of somebody than before."""
        before, now = self.before.configuration.addresses, self.now.configuration.addresses
        return before is not now and any(now.get(name, url) != url for name, url in before.items())

    @property
    def matters(self) -> bool:
        """Whether it plays another part than before, in another session, or knows another leader or configuration."""
        before, now = self.before, self.now
        parts = (before.lead, before.role, before.term, before.leader, before.heir, before.configuration, before.session)
        return parts != (now.lead, now.role, now.term, now.leader, now.heir, now.configuration, now.session)

    @property
    def lost_office(self) -> bool:
        """Whether it led, and does so no more."""
        return self.before.leads and self.now.lead is not self.before.lead

    @property
    def resigned(self) -> bool:
        """Whether it led, and does so no more although there is no later term."""
        return self.lost_office and self.now.term == self.before.term

    @property
    def changes_configuration(self) -> bool:
        """Whether it leads, and has another configuration."""
        return self.now.leads and self.before.leads and self.now.configuration != self.before.configuration

    @property
    def begins_a_snapshot(self) -> bool:
        """Whether it has begun to take one."""
        return self.now.taking and not self.before.taking


class Sent(NamedTuple):
    """A message leaves one member for another."""

    world: Sights
    message: Any
    sender: SimMember
    receiver: SimMember

    @property
    def term(self) -> int:
        """The receiver's term."""
        raft = _raft(self.receiver)
        return 0 if raft is None else raft.term

    @property
    def commit(self) -> int:
        """How far the receiver knows the log to be committed."""
        raft = _raft(self.receiver)
        return 0 if raft is None else raft.commit

    @property
    def is_led(self) -> bool:
        """Whether somebody has been elected in the message's term."""
        return self.message.term in self.world.leaders

    @property
    def is_from_stranger(self) -> bool:
        """Whether the sender is in no configuration of the receiver's."""
        configuration = self.configuration
        return configuration is not None and self.sender.name not in configuration.names

    @property
    def is_to_learner(self) -> bool:
        """Whether the receiver is a learner, as the sender knows."""
        raft = _raft(self.sender)
        return raft is not None and self.receiver.name in raft.configuration.learners

    @property
    def configuration(self) -> Configuration | None:
        """The receiver's."""
        raft = _raft(self.receiver)
        return None if raft is None else raft.configuration


class Decided(NamedTuple):
    """An entry is committed."""

    world: Sights
    commit: Commit

    @property
    def is_joint(self) -> bool:
        """Whether two majorities were asked."""
        return bool(self.commit.raft.configuration.outgoing)

    @property
    def is_late(self) -> bool:
        """Whether it took a later term than that of the entry, as it always does for the founding one."""
        return self.commit.entry.term < self.commit.raft.term and self.commit.entry.index > 1

    @property
    def begins_term(self) -> bool:
        """Whether the entry is the first of its term."""
        entry, committed = self.commit.entry, self.world.simulation.invariants.committed
        return entry.index > 1 and committed[entry.index - 2].term < entry.term

    @property
    def others(self) -> list[View]:
        """How those look that are running, but for the one that said so first."""
        return self.world.others(self.commit.member.name)

    @property
    def holdings(self) -> list[Any]:
        """The leases that end with it, as those see it who count on them."""
        ended = {expiry.lease for expiry in self.commit.expiries}
        return [holding for holding in self.world.simulation.holders.holdings if holding.held.id in ended]


def _raft(member: SimMember) -> Raft | None:
    return member.node.raft if member.node is not None else None
