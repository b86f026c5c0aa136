"""What must hold at every moment, looked at from outside after every turn of every member.

The names are those of the literature where it has some: E (elections), P (what is persistent), L (logs), C (what is committed), G (who
decides), B (who belongs), A (what is applied), K (leases); V (the store) is in ``state.py``.  Most are of the form "this was so once, so
it must stay so": the observer remembers, the members must not contradict.  A member is its name and incarnation: where its directory was
emptied it is another one, that promised nothing and is counted nowhere before the configuration means it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from attrs import define, field

from replkv import membership, quorum
from replkv import node as nodes
from replkv.messages import AppendReply, EntryKind, VoteReply
from replkv.raft import Raft, Role
from replkv.raftlog import configuration_in
from replkv.testing.checker import Witness
from replkv.testing.history import Violation
from replkv.testing.model import Model
from replkv.testing.raft_check import check_raft
from replkv.testing.state import State

if TYPE_CHECKING:
    import random
    from collections.abc import Callable

    from replkv.messages import Configuration, Entry
    from replkv.node import Node
    from replkv.testing.cluster import SimCluster, SimMember
    from replkv.testing.holders import Holding
    from replkv.testing.model import Expiry
    from replkv.testing.network import SimTransport

KIND_AT = 7
"""Where a frame has the kind of its message."""
VOTE_REPLY, APPEND_REPLY = 17, 19


class Commit(NamedTuple):
    """An entry is committed, by the first member that says so.

    Args:
        member: which one.
        raft: its Raft.
        entry: what is committed.
        holders: those of the configuration who have the entry on disk.
        expiries: the leases that end with it.
    """

    member: SimMember
    raft: Raft
    entry: Entry
    holders: list[str]
    expiries: list[Expiry]


@define(eq=False, repr=False)
class _Seen:
    """What was seen of one incarnation of a member; what belongs to one life is forgotten with it."""

    incarnation: int
    term: int = 0
    votes: dict[int, str] = field(factory=dict)
    granted: dict[int, int] = field(factory=dict)  # on the wire: term -> incarnation
    last_raft: Raft | None = None  # of this life, or of the one before
    life: int = 0
    commit: int = 0
    applied: int = 0
    known: dict[int, int] = field(factory=dict)  # index -> term, of entries compared already
    led: tuple[int, int, int] = (0, 0, 0)  # term, last index, last term while leading
    matches: dict[tuple[str, int | None, int], int] = field(factory=dict)
    acked: tuple[int, int, int | None] = (0, 0, 0)  # to the leader of which term, up to which entry, of which term
    deciding: tuple[object, ...] = ()  # when it was last checked which configuration is in force


@define(eq=False, repr=False)
class Invariants:
    """Watches a cluster.

    Args:
        cluster: to be watched.
        rng: decides when to look more closely.
        holdings: the leases that somebody counts on, or did.
    """

    cluster: SimCluster
    rng: random.Random
    holdings: list[Holding] = field(factory=list)
    witness: Witness = field(init=False)
    state: State = field(init=False)
    committed: list[Entry] = field(factory=list)
    leaders: dict[int, str] = field(factory=dict)
    looks: int = 0
    commit_observers: list[Callable[[Commit], None]] = field(factory=list)
    configurations: dict[tuple[int, int], Configuration] = field(factory=dict)  # (index, term) -> what an entry there puts into force
    _settled: list[tuple[int, Configuration]] = field(factory=list)  # those that are committed
    _commit_terms: list[int] = field(factory=list)  # no entry was committed in a later term than this
    _entries: dict[tuple[int, int], tuple[bytes, int]] = field(factory=dict)  # (index, term) -> bytes, term before
    _overheard: list[Violation] = field(factory=list)
    _created: dict[tuple[int, int], tuple[float, float]] = field(factory=dict)  # (index, term) -> when, at the earliest and the latest
    _members: dict[str, _Seen] = field(factory=dict)
    _lost: dict[str, list[_Seen]] = field(factory=dict)  # what was seen of a member before its disk was emptied or damaged, each time

    def __attrs_post_init__(self) -> None:
        settings = self.cluster.scenario.settings
        self.witness = Witness(round(settings.session_ttl * 1e6), Model(settings.max_bytes))
        self.state = State(self.witness, self.rng)
        self.cluster.observers.append(self.observe)
        self.cluster.mourners.append(self._life_ended)
        self.cluster.network.taps.append(self.overhear)
        self.cluster.settled = lambda: self.settled if self.founded else None

    def observe(self, member: SimMember, node: Node) -> None:
        """Look at a member after its turn.

        Raises:
            Violation: something is not as it must be.
        """
        if self._overheard:
            raise self._overheard[0]
        raft = node.raft
        if raft is None or node.failure is not None:
            return
        self.looks += 1
        seen = self._seen(member)
        check_raft(raft)
        if seen.life <= member.rotten_in < member.life and seen.life:
            # What it begins with may be less than it had; the votes it gave on the wire bind it still.
            self._lost.setdefault(member.name, []).append(seen)
            seen = self._members[member.name] = _Seen(seen.incarnation, granted=seen.granted)
        if seen.life != member.life or seen.last_raft is None:
            self._check_recovery(member, raft, seen)
        self._check_terms(member, raft, seen)
        self._check_log(member, raft, seen)
        self._check_acknowledged(member, raft, seen)
        self._check_commit(member, raft, seen)
        self._check_configuration(member, raft, seen)
        if raft.role is Role.LEADER:
            self._check_leader(member, raft, seen)
        self._check_applied(member, node, raft, seen)
        self._check_holdings(member, node)
        if self.rng.random() < 0.01:
            self.look_closely(member, node)

    @property
    def founded(self) -> bool:
        """Whether a majority knows of the cluster: before that all founders are needed."""
        return bool(self.committed)

    @property
    def complete(self) -> bool:
        """Whether every member has belonged to the cluster: before that one that is left out could not tell that it ever did."""
        return self.founded and all(name in self._members or name in self._lost for name in self.cluster.scenario.names)

    @property
    def settled(self) -> Configuration:
        """The newest configuration that is committed."""
        return self._settled[-1][1]

    def forget(self, name: str) -> None:
        """A member's disk was emptied: what comes back there is another member, held to no promise of this one."""
        if name in self._members:
            self._lost.setdefault(name, []).append(self._members.pop(name))

    def _seen(self, member: SimMember) -> _Seen:
        return self._members.setdefault(member.name, _Seen(member.incarnation))

    def _all_seen(self, name: str, incarnation: int | None) -> list[_Seen]:
        """Return what was seen of one incarnation of a member, or of all if none is named, before its disk was damaged too."""
        seen = (self._members.get(name), *self._lost.get(name, ()))
        return [each for each in seen if each is not None and incarnation in (None, each.incarnation)]

    def overhear(self, sender: SimTransport, receiver: str, frame: bytes) -> None:
        """Look at a frame that is being sent: votes and acknowledgements bind their sender.

        What is wrong is kept until the end of the turn: the node would take an exception from its transport for its own.
        """
        if frame[KIND_AT] not in (VOTE_REPLY, APPEND_REPLY):
            return
        _, _, to, message = self.cluster.network.read(frame)
        member = self.cluster.members[sender.name]
        raft = member.node.raft if member.node is not None else None
        if isinstance(message, VoteReply) and message.granted and not message.pre:
            seen = self._seen(member)
            if seen.granted.setdefault(message.term, to) != to:
                self._overheard.append(Violation("P1", f"{member.where} voted twice in term {message.term}, now for {receiver}"))
        elif isinstance(message, AppendReply) and not message.rejected and raft is not None:
            if message.match > raft.durable_index:
                self._overheard.append(Violation("C4", f"{member.where} acknowledges {message.match} with {raft.durable_index} durable"))
            seen = self._seen(member)
            if (message.term, message.match) > seen.acked[:2]:
                seen.acked = message.term, message.match, raft._log.term_at(message.match)

    # -- elections and persistence ----------------------------------------------------------------------------------------------------

    def _check_recovery(self, member: SimMember, raft: Raft, seen: _Seen) -> None:
        """P2: what was durable in the last life is there in this one."""
        before = seen.last_raft
        if (raft._caution is not None and not member.rotten) or (not member.rotten_in and member.began_anew):
            raise Violation("P2", f"{member.where} takes its disk for damaged, which it is not")
        if before is not None:
            for index in range(raft._log.base_index + 1, before.durable_index + 1):
                old, new = before._log.term_at(index), raft._log.term_at(index)
                if old is not None and old != new:
                    raise Violation("P2", f"{member.where} lost entry {index} of term {old}, which was durable; it has term {new} there")
            if raft.last_index < before.durable_index:
                raise Violation("P2", f"{member.where} begins with {raft.last_index} entries, {before.durable_index} were durable")
        vote = seen.votes.get(raft.term)
        if before is not None and vote is not None and raft.vote != vote:
            raise Violation("P1", f"{member.where} forgot that it voted for {vote} in term {raft.term}")
        seen.last_raft, seen.life = raft, member.life
        seen.commit = seen.applied = 0
        seen.known, seen.led, seen.matches = {}, (0, 0, 0), {}

    def _check_terms(self, member: SimMember, raft: Raft, seen: _Seen) -> None:
        if raft.term < seen.term:
            raise Violation("E3", f"{member.where} went back from term {seen.term} to {raft.term}")
        seen.term = raft.term
        if raft.vote is not None and seen.votes.setdefault(raft.term, raft.vote) != raft.vote:
            raise Violation("P1", f"{member.where} voted for {seen.votes[raft.term]} in term {raft.term}, now for {raft.vote}")

    # -- logs -------------------------------------------------------------------------------------------------------------------------

    def _check_log(self, member: SimMember, raft: Raft, seen: _Seen) -> None:
        """L1: an index and a term stand for one entry, and for one log before it."""
        log = raft._log
        for index in range(log.last_index, log.base_index, -1):
            entry = log.between(index, index)[0]
            if seen.known.get(index) == entry.term:
                break
            before = log.term_at(index - 1) or 0
            old = self._entries.setdefault((index, entry.term), (entry.encoded, before))
            if old[0] != entry.encoded or (index > log.base_index + 1 and old[1] != before):
                raise Violation("L1", f"{member.where} has another entry {index} of term {entry.term}, or another log before it")
            seen.known[index] = entry.term
            self._note_creation(entry, self.cluster.scheduler.now + member.clock.lag)

    def _check_acknowledged(self, member: SimMember, raft: Raft, seen: _Seen) -> None:
        """L4: what was acknowledged to a leader stays until the leader of a later term has something else there."""
        term, index, entry_term = seen.acked
        if raft.term == term and index > raft._log.base_index and raft._log.term_at(index) != entry_term:
            raise Violation("L4", f"{member.where} acknowledged entry {index} in term {term}, and has it no more")

    def _check_leader(self, member: SimMember, raft: Raft, seen: _Seen) -> None:
        if raft._saved != raft.hard_state:
            return  # it elected itself when it started, and has not told anybody yet, its own disk neither
        first = self.leaders.setdefault(raft.term, member.where)
        if first != member.where:
            raise Violation("E1", f"{member.where} leads term {raft.term}, as did {first}")
        if not _may_lead(member.name, raft):
            raise Violation("E2", f"{member.where} leads without being a voter of {raft.configuration}")
        term, last, last_term = seen.led
        if term != raft.term:
            seen.matches = {}
            self._check_votes(member, raft)
            self._check_completeness(member, raft)
            self._check_leases(member, raft)
        elif raft.last_index < last or (raft._log.term_at(last) not in (None, last_term)):
            raise Violation("L2", f"{member.where} changed its log at {last} while leading term {term}")
        seen.led = raft.term, raft.last_index, raft._log.last_term
        self._check_progress(member, raft, seen)

    def _check_votes(self, member: SimMember, raft: Raft) -> None:
        """E4: a new leader has the votes of a majority, each of the very incarnation that the configuration means."""

        def votes(name: str, incarnation: int | None) -> bool:
            if name == member.name:
                return incarnation == member.incarnation
            return any(seen.granted.get(raft.term) == member.incarnation for seen in self._all_seen(name, incarnation))

        # It may have changed the configuration in the turn in which it was elected.
        if not any(_decided(each, votes) for each in raft._log.configurations[-2:]):
            raise Violation("E4", f"{member.where} leads term {raft.term} without a majority of {raft.configuration}")

    def _check_completeness(self, member: SimMember, raft: Raft) -> None:
        """C5: a new leader has what was committed in earlier terms."""
        for index in range(len(self.committed), raft._log.base_index, -1):
            if self._commit_terms[index - 1] >= raft.term:
                continue
            if raft._log.term_at(index) != self.committed[index - 1].term:
                raise Violation("C5", f"{member.where} leads term {raft.term} without committed entry {index}")
            break

    def _check_leases(self, member: SimMember, raft: Raft) -> None:
        """R1: while one leader's lease holds nobody is elected in a later term.

        Votes that were long on their way may still make a leader of an earlier one: it will commit nothing, and never have a lease.
        """
        if not self.cluster.scenario.good_clocks:
            return
        for other in self.cluster.running:
            node = other.process
            moment = max(self.cluster.scheduler.now + member.clock.lag, other.free_at)
            holds = node.published.lease_until > other.clock.local(moment)
            if other is not member and holds and node.published.term < raft.term:
                raise Violation(
                    "R1", f"{member.where} leads term {raft.term} while {other.where} holds a lease of term {node.published.term}"
                )

    def _check_progress(self, member: SimMember, raft: Raft, seen: _Seen) -> None:
        """L5: what a leader believes of its followers' logs is true, and never less than before."""
        # A leader begins anew with a follower that lost something.
        before, seen.matches = seen.matches, {(name, peer.incarnation, peer.since_round): peer.match for name, peer in raft.peers.items()}
        if before == seen.matches:
            return
        for name, peer in raft.peers.items():
            known = before.get((name, peer.incarnation, peer.since_round), 0)
            if peer.match < known:
                raise Violation("L5", f"{member.where} believed {name} to match up to {known}, now {peer.match}")
            if any(follower.term > raft.term for follower in self._all_seen(name, peer.incarnation)):
                continue  # a later leader may have replaced it, unknown to this one
            if not self._holds(name, peer.incarnation, peer.match, raft._log.term_at(peer.match)):
                raise Violation("L5", f"{member.where} believes {name} to match up to {peer.match}; it does not")

    def _holds(self, name: str, incarnation: int | None, index: int, term: int | None) -> bool:
        """Tell whether the disk of this incarnation has this entry, or a snapshot behind it; one that is down, or lost, has what it had."""
        rafts = [seen.last_raft for seen in self._all_seen(name, incarnation)]
        member = self.cluster.members[name]
        if member.node is not None and incarnation in (None, member.incarnation):
            rafts.append(member.node.raft)
        return index == 0 or any(raft is not None and _is_durable(raft, index, term) for raft in rafts)

    # -- what is committed ------------------------------------------------------------------------------------------------------------

    def _check_commit(self, member: SimMember, raft: Raft, seen: _Seen) -> None:
        log = raft._log
        if raft.commit < seen.commit:
            raise Violation("C2", f"{member.where} had committed {seen.commit}, now {raft.commit}")
        for index in range(max(seen.commit, log.base_index) + 1, raft.commit + 1):
            entry = log.between(index, index)[0]
            if index <= len(self.committed):
                self._compare(member, entry, self.committed[index - 1])
            else:
                self._commit(member, raft, entry, self._deciding(raft, index, seen))
        if raft.commit > log.base_index and log.term_at(raft.commit) != self.committed[raft.commit - 1].term:
            raise Violation("L3", f"{member.where} replaced its committed entry {raft.commit}")
        seen.commit = raft.commit

    def _compare(self, member: SimMember, entry: Entry, agreed: Entry) -> None:
        if entry.encoded != agreed.encoded:
            raise Violation("C1", f"{member.where} committed {entry}, another member {agreed}")

    def _deciding(self, raft: Raft, index: int, seen: _Seen) -> list[Configuration]:
        """Return the configurations by one of which an entry was committed that a member says is committed.

        A leader counts by its newest, which it may have changed in the same turn behind that; who only hears of the commit may know of
        others besides, or not yet of that one.
        """
        if raft.role is not Role.LEADER:
            return self._in_force(raft, index)
        changed = seen.led[1] < raft._log.configuration_index
        return [*raft._log.configurations[-2 if changed else -1 :]]

    def _commit(self, member: SimMember, raft: Raft, entry: Entry, deciding: list[Configuration]) -> None:
        """The first member says that an entry is committed: then a majority has it on disk."""
        if entry.index != len(self.committed) + 1:
            raise Violation("C1", f"{member.where} committed {entry.index}, nobody has committed {len(self.committed) + 1}")
        if self.committed and (entry.time < self.committed[-1].time or entry.term < self.committed[-1].term):
            raise Violation("C1", f"{entry} goes back behind {self.committed[-1]}")
        holders = self._holders(deciding[-1], entry)
        if not any(_decided(each, lambda name, number: self._holds(name, number, entry.index, entry.term)) for each in deciding):
            raise Violation(
                "C3", f"{member.where} committed {entry.index} of term {entry.term}, on the disks of {holders} only: {deciding}"
            )
        self.committed.append(entry)
        if (configuration := self.configurations.get((entry.index, entry.term))) is not None:
            self._check_succession(member, configuration, entry.index)
            self._settled.append((entry.index, configuration))
        self._commit_terms.append(raft.term)
        known = len(self.witness.model.expiries)
        self.witness.apply(entry)
        expiries = self.witness.model.expiries[known:]
        for expiry in expiries:
            self._check_expiry(member, expiry)
        for observer in self.commit_observers:
            observer(Commit(member, raft, entry, holders, expiries))

    def _holders(self, configuration: Configuration, entry: Entry) -> list[str]:
        return [name for name, number in configuration.members.items() if self._holds(name, number, entry.index, entry.term)]

    # -- who decides ------------------------------------------------------------------------------------------------------------------

    def _check_succession(self, member: SimMember, new: Configuration, index: int) -> None:
        """B1: a configuration follows from the one before it, and everybody who votes has been there; B3: and had caught up before."""
        before = self._settled[-1][1] if self._settled else new
        if not quorum.may_follow(before, new) and before is not new:
            raise Violation("B1", f"{member.where} committed {new} behind {before}")
        voters = {(name, new.members[name]) for name in new.all_voters}
        if strangers := voters - self.cluster.incarnations:
            raise Violation("B1", f"{member.where} committed {new}, in which nobody ever was {strangers}")
        least = index - 1 - membership.CAUGHT_UP
        for name, incarnation in sorted(voters - {(each, before.members.get(each)) for each in before.all_voters}):
            rafts = [seen.last_raft for seen in self._all_seen(name, incarnation)]
            if self.cluster.scenario.steers and all(raft is None or raft.durable_index < max(1, least) for raft in rafts):
                raise Violation("B3", f"{member.where} committed {new} at {index}, and {name} has not caught up")

    def _in_force(self, raft: Raft, index: int) -> list[Configuration]:
        """Return what a member's log has for the configuration at an index, and what it has for later ones."""
        known = raft._log._configurations
        at = max((number for number, (where, _) in enumerate(known) if where <= index), default=0)
        return [configuration for _, configuration in known[at:]]

    def _check_configuration(self, member: SimMember, raft: Raft, seen: _Seen) -> None:
        """G1: the newest configuration in the log is in force, or that of the snapshot; one at most is not yet committed."""
        log, decided = raft._log, len(self.committed)
        before, seen.deciding = seen.deciding, (raft, raft.configuration, log.base_index, log.last_index, log.last_term)
        if seen.deciding == before:
            return
        found = (
            key for key in reversed(self.configurations) if log.base_index < key[0] <= log.last_index and log.term_at(key[0]) == key[1]
        )
        keys = sorted(found, reverse=True)
        if keys:
            right = self.configurations[keys[0]]
        else:
            right = next((each for index, each in reversed(self._settled) if index <= log.base_index), raft.configuration)
        if raft.configuration != right:
            raise Violation("G1", f"{member.where} goes by {raft.configuration}, but {right} is the newest in its log")
        if len(keys) > 1 and keys[1][0] > decided:
            raise Violation("G1", f"{member.where} has uncommitted configurations at {keys[:2]}, {decided} entries are decided")

    # -- what is applied --------------------------------------------------------------------------------------------------------------

    def _check_applied(self, member: SimMember, node: Node, raft: Raft, seen: _Seen) -> None:
        published = node.published
        if published.applied < seen.applied:
            raise Violation("A1", f"{member.where} had applied {seen.applied}, now {published.applied}")
        if not published.applied <= published.commit <= len(self.committed):
            raise Violation("A1", f"{member.where}: applied {published.applied}, commit {published.commit}, decided {len(self.committed)}")
        seen.applied = published.applied
        self._check_waiting(member, node, raft)
        self.state.look(member, node)

    def _check_waiting(self, member: SimMember, node: Node, raft: Raft) -> None:
        if len(node._to_apply) > nodes.AHEAD:
            raise Violation("A3", f"{member.where}: {len(node._to_apply)} entries wait to be applied, where {nodes.AHEAD} may")
        if node.machine.applied < raft.commit and not node.stopped and node.deadline > float("-inf"):
            raise Violation("A3", f"{member.where} sleeps although it has applied {node.machine.applied} of {raft.commit} decided entries")

    # -- leases -----------------------------------------------------------------------------------------------------------------------

    def _note_creation(self, entry: Entry, latest: float) -> None:
        """An entry is seen for the first time: the turn in which it was made began now."""
        key = entry.index, entry.term
        self._created.setdefault(key, (self.cluster.scheduler.now, latest))
        if entry.kind is not EntryKind.BLOCK and key not in self.configurations and (configuration := configuration_in(entry)) is not None:
            self.configurations[key] = configuration

    def _life_ended(self, _member: SimMember, node: Node) -> None:
        """Take note of what was made in a turn that a crash cut short."""
        if node.raft is not None:
            for entry in node.raft._log.between(node.raft._log.base_index + 1, node.raft.last_index):
                self._note_creation(entry, float("inf"))

    def _check_expiry(self, member: SimMember, expiry: Expiry) -> None:
        """K2: nobody's lease expires before its time is over by any good clock, nor while its holder may count on it."""
        now = self.cluster.scheduler.now + member.clock.lag
        begun, ended = (self._created.get((index, self.committed[index - 1].term)) for index in (expiry.since, expiry.index))
        if begun is not None:
            latest = now if ended is None else min(now, ended[1])
            least = expiry.ttl / 1e6 * (1 - self.cluster.scenario.drift) - 1e-5
            if latest - begun[0] < least - self._borrowed_since(begun[0]):
                raise Violation("K2", f"{expiry} came {latest - begun[0]:.6f} s after entry {expiry.since}")
        if not self.cluster.scenario.good_clocks:
            return
        for holding in self.holdings:
            held = holding.held
            left = held.until - holding.member.clock.local(now)
            if held.id == expiry.lease and holding.alive and not held.lost and left > self._borrowed_since(now - expiry.ttl / 1e6):
                raise Violation("K2", f"{expiry} came while {holding.member.where} counted on it for another {left:.6f} s")

    def _borrowed_since(self, begun: float) -> float:
        """Return for how many seconds members lived twice: what was stamped then is carried on as if they had passed."""
        return sum(seconds for at, seconds in self.cluster.borrowed if at >= begun)

    def _check_holdings(self, member: SimMember, node: Node) -> None:
        """K2: a lease that is lost stays lost, and its holder is told once."""
        for holding in self.holdings:
            if holding.node is node:
                holding.lost |= holding.held.lost
                if holding.lost and (not holding.held.lost or holding.told != 1):
                    raise Violation("K2", f"lease {holding.held.id} was lost at {member.where}, told {holding.told} times")

    def look_closely(self, member: SimMember, node: Node) -> None:
        """Compare the whole state with that of others and of the model.

        Raises:
            Violation: they differ.
        """
        self.state.look_closely(member, node)


def _decided(configuration: Configuration, agrees: Callable[[str, int | None], bool]) -> bool:
    """Tell whether most of the voters agree, in both halves of a joint configuration; each is asked for by name and incarnation."""
    halves = [half for half in (configuration.voters, configuration.outgoing) if half]
    return bool(halves) and all(2 * sum(agrees(name, configuration.members.get(name)) for name in half) > len(half) for half in halves)


def _is_durable(raft: Raft, index: int, term: int | None) -> bool:
    known = index <= raft._log.base_index or term is None or raft._log.term_at(index) == term
    return known and index <= raft.durable_index


def _may_lead(name: str, raft: Raft) -> bool:
    """Tell whether a member votes in the configuration in effect, or in the one before while that may come back (thesis §4.2.2)."""
    unsettled = len(raft._log.configurations) > 1 and raft._log.configuration_index > raft.commit
    return any(configuration.is_voter(name) for configuration in raft._log.configurations[-2 if unsettled else -1 :])
