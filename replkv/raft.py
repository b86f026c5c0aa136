"""Raft as a value machine: events in, one batch of effects out.

No I/O, no clock, no threads: the caller says what happened and when, then takes a ``Ready`` and carries it out.  Tests, the simulator and
production run this same code.  ``raftlog.py`` holds the log, ``quorum.py`` counts majorities, ``patience.py`` is a follower's view of
time, ``leadership.py`` a leader's state.  Sections (§) are those of Ongaro's thesis.

Beyond the paper, a **promise** makes leases and fast fail-over possible: whoever acknowledges a leader's Append helps no other candidate
for a fixed time on its own clock, whatever happens to connections.  As long as a majority is so bound nobody else can be elected, so
that the leader may answer reads from memory; once the promise has run out, a voter that has also lost its connection to the leader
need not wait for the whole election timeout.  A member whose disk lost a part of its log goes by ``caution.py`` until that is healed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from replkv import codec, quorum
from replkv.caution import Caution
from replkv.cluster_time import ClusterTime
from replkv.errors import InvariantBroken
from replkv.leadership import Leadership
from replkv.messages import (
    NOTICE,
    NOWHERE,
    Append,
    AppendReply,
    Census,
    CensusReply,
    Configuration,
    Entry,
    EntryKind,
    HardState,
    Position,
    RaftMessage,
    ReadIndex,
    ReadIndexReply,
    SnapshotMeta,
    TimeoutNow,
    Vote,
    VoteReply,
    is_credible,
)
from replkv.patience import Patience
from replkv.progress import WINDOW, Progress
from replkv.raftlog import RaftLog
from replkv.ready import Ready, Restored, Role, Timing

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Mapping, Sequence

__all__ = ["Raft", "Ready", "Restored", "Role", "Timing"]


class Raft:
    """One member's share of the algorithm.

    Times are seconds on this member's own monotonic clock.  ``now`` must be read after the event it comes with: a promise counted from
    before the leader sent its Append would end before the lease.

    Args:
        name: this member's name.
        timing: the spans to wait for.
        rng: source of all randomness.
        restored: the durable state; the default founds nothing and waits for a leader.
        now: seconds.
        own: if given, this member counts itself as a voter only where the configuration names this incarnation.

    Raises:
        InvariantBroken: the durable state contradicts itself.
    """

    def __init__(self, name: str, timing: Timing, rng: random.Random, restored: Restored, now: float, own: int | None = None) -> None:
        self.name = name
        self._incarnation = own
        self.timing = timing
        self._now = now
        self._log = RaftLog(restored.snapshot, restored.entries)
        self._restore(restored)
        self.role = Role.FOLLOWER
        self.leader: str | None = None
        self._patience = Patience(timing.election_timeout, timing.promise, rng, now)
        self._ballots: dict[str, bool] = {}
        self._asked: dict[int, float] = {}  # reads asked of the leader: id, when to give up
        self._lead: Leadership | None = None  # while this member leads
        self._caution = Caution(restored.floor, rng.getrandbits(62), now) if self._log.end < restored.floor else None
        self.full = False  # set by the caller: the disk has no room for entries, so none are proposed, and none taken from a leader
        self.lags = True  # as a follower: its leader has told it of more that is decided than it has
        self.mute = restored.mute  # set by the caller: it has no room even for a vote, so this member does not stand
        self._out = Ready()
        self._stirred = True  # there was an input since effects were taken last
        self._configure()
        founded = [configuration for configuration in self._log.configurations if configuration.voters]
        if founded and all(each.all_voters == {name} and self._votes_in(each) for each in founded):
            self._patience.promised_until = now  # there never was anybody else to promise anything to
            self._stand()

    def _restore(self, restored: Restored) -> None:
        self.term, self.vote = restored.hard_state.term, restored.hard_state.vote
        self._saved = restored.hard_state
        self.handed_out = restored.snapshot.index if restored.snapshot else 0
        self.commit = max(self.handed_out, restored.commit)
        self.durable_index = self._log.last_index
        self._unsaved = self._log.last_index + 1
        self._cluster_time = ClusterTime(max(restored.time, self._log.last_time), self._now)
        if self.commit > self._log.last_index or self.term < self._log.last_term:
            raise InvariantBroken(f"{self.name}: commit {self.commit}, term {self.term} were restored with a log up to {self._log.end}")

    # -- state to look at -------------------------------------------------------------------------------------------------------------

    @property
    def last_index(self) -> int:
        """The index of the newest entry, durable or not."""
        return self._log.last_index

    @property
    def hard_state(self) -> HardState:
        """Term and vote as they are now, persisted or not."""
        return HardState(self.term, self.vote)

    @property
    def peers(self) -> Mapping[str, Progress]:
        """What a leader knows of its followers; empty elsewhere."""
        return self._lead.peers if self._lead else {}

    @property
    def is_in_charge(self) -> bool:
        """Whether it leads, is not handing over, and has room on the disk: enough for a configuration."""
        return self._lead is not None and self._lead.heir is None and not self.full

    @property
    def can_propose(self) -> bool:
        """Whether ``propose`` would take a block now: in charge, and with room in the window."""
        lead = self._lead if self.is_in_charge else None
        return lead is not None and self._log.last_index - max(self.commit, lead.first_index - 1) < WINDOW

    @property
    def lease_until(self) -> float:
        """Until when nobody else can have been elected, on this member's clock; 0 without a lease (§6.4.1)."""
        return self._lead.lease_until(self.commit) if self._lead else 0.0

    @property
    def time(self) -> int:
        """Cluster time in microseconds: as of the last event where this member leads, the newest stamp it received otherwise."""
        return self._cluster_time.stamp

    def moment(self, time: int) -> float:
        """Return when cluster time will be ``time`` on this member's clock, if it leads and works without a stall."""
        return self._cluster_time.moment(time)

    @property
    def deadline(self) -> float:
        """When the next ``tick`` is due."""
        if self._lead:
            return self._lead.heartbeat_at
        due = min(self._patience.deadline, self._caution.ask_at) if self._caution else self._patience.deadline
        return min(due, next(iter(self._asked.values()))) if self._asked else due

    # -- inputs -----------------------------------------------------------------------------------------------------------------------

    def tick(self, now: float, *, stalled: bool = False) -> None:
        """Do what is due by now.  Hand over received messages first: they may tell that it isn't due.

        ``stalled``: this member stood still until now, and some of what was sent to it meanwhile may not be here yet.
        """
        self._pass_time(now)
        if stalled:
            (self._lead or self._patience).excuse(self._now)
        if self._lead:
            self._tick_leader(self._lead)
        else:
            self._tick_voter()

    def receive(self, sender: str, message: RaftMessage, now: float) -> None:
        """Take a message from another member, in any order, late or twice."""
        self._pass_time(now)
        if sender != self.name and is_credible(message, self.term) and (not self.in_doubt or isinstance(message, (Census, CensusReply))):
            self._HANDLERS[type(message)](self, sender, message)

    def propose(self, kind: EntryKind, payload: bytes, now: float) -> int | None:
        """Append an entry as leader.

        Returns:
            Its index; None if this member is not in charge, or for a block its window is full, for a configuration another one, or
            the leader's first entry, is not committed yet (§4.1 and its erratum).

        Raises:
            ValueError: the configuration can't follow the one in effect, or a cluster would be founded twice.
        """
        self._pass_time(now)
        if kind is EntryKind.FOUNDING:
            raise ValueError("a cluster is founded once, before its first election")
        lead = self._lead if self.is_in_charge else None
        if lead is None or (kind is EntryKind.BLOCK and not self.can_propose):
            return None
        if kind is EntryKind.CONFIGURATION and not lead.may_change_to(codec.decode_configuration(payload), self.commit):
            return None
        return self._append_own(kind, payload)

    def synced(self, index: int, term: int, now: float) -> None:
        """Note that the log is durable up to the entry with this index and term; an own entry counts only from here on."""
        self._pass_time(now)
        if index > self.durable_index and self._log.term_at(index) == term:
            self.durable_index = index
            self._heal()
            if self._lead:
                self._advance_commit(self._lead)

    def read(self, read_id: int, now: float) -> None:
        """Ask for a read index; the answer comes in ``Ready.reads`` or ``Ready.lost_reads`` (§6.4).

        Args:
            read_id: a number this member has never used before, over restarts too.
            now: seconds.
        """
        self._pass_time(now)
        if self._lead:
            self._lead.ask(self.name, read_id)
        elif self.leader is None:
            self._out.lost_reads.append(read_id)
        else:
            self._asked[read_id] = now + self.timing.election_timeout / 3
            self._send(self.leader, ReadIndex(self.term, read_id))

    def connected(self, peer: str, now: float) -> None:
        """Note that both links to a peer are up: what was sent before may be lost."""
        self._pass_time(now)
        if self._lead:
            self._lead.restart_probe(peer, wait=False)
        elif peer == self.leader:
            self._patience.forget_early()

    def disconnected(self, peer: str, now: float) -> None:
        """Note that the links to a peer were lost without a farewell.

        A voter that has lost its leader stands soon after its promise runs out; the others follow one by one behind it.
        """
        self._pass_time(now)
        if self._lead:
            self._lead.restart_probe(peer, wait=True)
        elif peer == self.leader and self._may_stand():
            survivors = sorted({*self.configuration.voters, *self.configuration.outgoing, self.name} - {peer})
            self._patience.lost_leader(survivors.index(self.name), now)

    def stand(self, now: float) -> None:
        """Stand for election instead of waiting: for the founder of a cluster, whom nobody has heard of as a leader yet."""
        self._pass_time(now)
        if not self._lead:
            self._stand()

    def transfer(self, to: str | None, now: float) -> None:
        """Hand leadership to another voter, as soon as it has the whole log (§3.10); nothing happens where this member does not lead.

        Args:
            to: its name; None takes the best matched one.
            now: seconds.

        Raises:
            ValueError: ``to`` is not another voter.
        """
        self._pass_time(now)
        if self._lead:
            self._lead.offer(to, now)
            self._hand_over(self._lead)

    def trim(self, index: int, snapshot: SnapshotMeta) -> None:
        """Forget entries up to ``index``, which a durable snapshot holds; a few kept behind it help slow followers.

        Raises:
            InvariantBroken: the snapshot reaches beyond what was handed out to be applied, or ``index`` beyond the snapshot.
        """
        if not index <= snapshot.index <= self.handed_out:
            raise InvariantBroken(f"{self.name}: trim to {index} with a snapshot at {snapshot.index}, handed out {self.handed_out}")
        index = min(index, self._unsaved - 1)
        if index > self._log.base_index:
            self._log.trim(index)
            self.durable_index = max(self.durable_index, index)

    def wants(self, meta: SnapshotMeta) -> bool:
        """Tell whether a snapshot offered by the leader brings anything; one that doesn't must not be installed.

        Replacing a log that already holds the snapshot's last entry would forget what was acknowledged behind it.
        """
        return self._lead is None and meta.index > self.commit and self._log.term_at(meta.index) != meta.term

    def install(self, meta: SnapshotMeta, now: float, time: int = 0) -> None:
        """Go on behind a snapshot that is durable and loaded.

        Args:
            meta: what it stands for; ``wants(meta)`` was asked in the same turn.
            now: seconds.
            time: the cluster time of the state in it, microseconds.

        Raises:
            InvariantBroken: the log has no need of it.
        """
        self._pass_time(now)
        if not self.wants(meta):
            raise InvariantBroken(f"{self.name}: a snapshot at {meta.index} of term {meta.term} replaces a log committed to {self.commit}")
        if meta.term > self.term:
            self._follow(meta.term, None)
        self._log.restart(meta)
        self.commit = self.handed_out = self.durable_index = meta.index
        self._unsaved = meta.index + 1
        self._heal()
        self._cluster_time.hear(time, self._now)
        self._configure()

    def snapshot_failed(self, peer: str) -> None:
        """Note that the stream of a snapshot to a peer has ended, well or not: its next answer tells how to go on."""
        if self._lead:
            self._lead.snapshot_ended(peer)

    def take(self, room: int | None = None) -> Ready | None:
        """Return all effects since the last call, None if there are none; of what is to be applied at most ``room`` entries."""
        if not self._stirred:
            return None  # what is to be done follows from inputs alone, and from what there was no room for
        if self._lead:
            self._replicate(self._lead)
        self._stirred, out = False, self._out
        if self._unsaved <= self._log.last_index:
            out.entries = self._log.between(self._unsaved, self._log.last_index)
            self._unsaved = self._log.last_index + 1
        if self.handed_out < self.commit:
            until = self.commit if room is None else min(self.commit, self.handed_out + room)
            out.committed = self._log.between(self.handed_out + 1, until)
            self.handed_out, self._stirred = until, until < self.commit
        if self.term != self._saved.term or self.vote != self._saved.vote:
            out.hard_state = self._saved = self.hard_state
            # Nothing leaves in a term that a crash could take back: a member that elects itself alone could lead the same term twice.
            out.after_sync, out.messages, out.notices = out.messages + out.notices + out.after_sync, [], []
        if out.is_empty:
            return None
        self._out = Ready()
        return out

    # -- shared -----------------------------------------------------------------------------------------------------------------------

    def _pass_time(self, now: float) -> None:
        self._stirred, self._now = True, max(now, self._now)
        if self._lead:
            self._cluster_time.pass_on(self._now, 2 * self.timing.heartbeat)

    def _send(self, to: str, message: RaftMessage) -> None:
        self._out.messages.append((to, message))

    def _send_after_sync(self, to: str, message: RaftMessage) -> None:
        self._out.after_sync.append((to, message))

    def _answer_read(self, origin: str, read_id: int, index: int) -> None:
        if origin != self.name:
            self._send(origin, ReadIndexReply(self.term, read_id, index))
        elif index:
            self._out.reads.append((read_id, index))
        else:
            self._out.lost_reads.append(read_id)

    def _configure(self) -> None:
        """Put the newest configuration into effect.  Those it removes still get the log until it is committed, to learn of it."""
        self.configuration = self._log.configuration
        names = {*self.configuration.names, *(self._log.configurations[-2].names if self.is_unsettled else ())}
        self.others = tuple(sorted(names - {self.name}))  # a new one each time: who keeps to it sees that it has changed
        if self._lead:
            self._lead.configure(self.others)

    @property
    def configured(self) -> int:
        """Where the configuration in effect stands in the log; behind a snapshot perhaps where that stands."""
        return self._log.configuration_index

    @property
    def is_unsettled(self) -> bool:
        """Whether the configuration in effect may still fall back to an older one."""
        return self.configured > self.commit and len(self._log.configurations) > 1

    def _votes_in(self, configuration: Configuration) -> bool:
        incarnation = configuration.members.get(self.name)
        known = self._incarnation is None or incarnation is None or incarnation == self._incarnation
        return known and configuration.is_voter(self.name)

    def _may_stand(self) -> bool:
        if self._caution or self.mute:
            return False  # it lacks what it may have acknowledged, or could not write down its own vote
        # A leader that removes itself may be the only one to hold that entry: until it is committed it may be needed once more (§4.2.2).
        return self._votes_in(self.configuration) or (self.is_unsettled and self._votes_in(self._log.configurations[-2]))

    def _commit_to(self, index: int) -> None:
        before, self.commit = self.commit, index
        decided = before < self.configured <= index
        if decided and self._lead:
            self._lead.settling = True
        elif decided:
            self._configure()

    def _enter(self, term: int) -> None:
        """Begin a higher term: what was promised to the older one and not yet said need not be said (§3.3)."""
        self.term, self.vote = term, None
        self._out.after_sync = [pair for pair in self._out.after_sync if isinstance(pair[1], Census) or pair[1].term >= term]

    def _of_this_term(self, sender: str, term: int) -> bool:
        """Tell whether an answer counts; one of a higher term ends whatever this member was doing (§3.3)."""
        if sender not in self.others and sender != self.leader:
            return False
        if term > self.term:
            self._follow(term, None)
        return term == self.term

    # -- following --------------------------------------------------------------------------------------------------------------------

    def _follow(self, term: int, leader: str | None) -> None:
        if self._lead:
            self._abdicate(self._lead)
        if term > self.term:
            self._enter(term)
        self._change_leader(leader)
        self.role = Role.FOLLOWER

    def _change_leader(self, leader: str | None) -> None:
        if leader != self.leader:
            self.leader = leader
            self._patience.forget_early()
            self._out.lost_reads.extend(self._asked)
            self._asked.clear()

    def _on_append(self, sender: str, append: Append) -> None:
        if append.term < self.term:  # a leader that was cut off must learn of the newer term, or it would never let this member back in
            self._send(sender, AppendReply(self.term, append.round, rejected=True))
            return
        if append.term > self.term or sender != self.leader:
            self._accept_leader(sender, append.term)
            self._cluster_time.adopt(append.time, self._now)
        self._patience.heard(sender, self._now)
        match, news = self._log.compare(append, self.commit)
        if news and self.full:
            match, news = news[0].index - 1, ()
        if news:
            self._replace(news)
        self._cluster_time.hear(append.time, self._now)
        if match is not None and min(append.commit, match) > self.commit:
            self._commit_to(min(append.commit, match))
        self.lags = append.commit > self.commit
        if append.round == NOTICE:
            return
        if match is None or self.full:  # a refusal keeps the leader from sending more than heartbeats
            self._refuse(sender, append)
        else:
            self._send_after_sync(sender, AppendReply(self.term, append.round, match))

    def _accept_leader(self, leader: str, term: int) -> None:
        if term == self.term and self.leader is not None:
            raise InvariantBroken(f"{self.name}: {leader} and {self.leader} both lead term {term}")
        self._follow(term, leader)
        self._patience.wait(self._now)

    def _replace(self, entries: Sequence[Entry]) -> None:
        first = entries[0].index
        if first <= self.commit:
            raise InvariantBroken(f"{self.name}: entry {first} would be replaced, but {self.commit} is committed")
        before = self._log.configuration_index
        self._log.put(entries)
        self.durable_index = min(self.durable_index, first - 1)
        self._unsaved = min(self._unsaved, first)
        self._cluster_time.hear(entries[-1].time, self._now)
        if before >= first or self._log.configuration_index >= first:
            self._configure()

    def _refuse(self, sender: str, append: Append) -> None:
        hint = self._log.agreement(append.prev_index, append.prev_term)
        self._send(sender, AppendReply(self.term, append.round, 0, True, hint, self._log.term_at(hint) or 0))

    def _on_read_index_reply(self, sender: str, reply: ReadIndexReply) -> None:
        if self._of_this_term(sender, reply.term) and self._asked.pop(reply.id, None) is not None:
            self._answer_read(self.name, reply.id, reply.index)

    # -- voting -----------------------------------------------------------------------------------------------------------------------

    def _tick_voter(self) -> None:
        if self._caution:
            self._out.messages += self._caution.questions(self.others, self._now)
        for candidate, vote in self._patience.release(self._now):
            self._on_vote(candidate, vote)
        for read_id in [read_id for read_id, until in self._asked.items() if until <= self._now]:
            del self._asked[read_id]  # question or answer were lost
            self._out.lost_reads.append(read_id)
        if self._patience.is_over(self._now):
            self._stand()

    def _stand(self) -> None:
        """Ask whether an election could be won; nobody's term or vote changes by asking (§9.6)."""
        self._change_leader(None)
        self._patience.wait(self._now)
        if not self._may_stand():
            self.role = Role.FOLLOWER
            return
        self.role = Role.PRE_CANDIDATE
        self._ask_for_votes(Vote(self.term + 1, self._log.last_index, self._log.last_term, pre=True), self._send)

    def _campaign(self, *, transfer: bool = False) -> None:
        self._change_leader(None)
        self._patience.wait(self._now)
        self.role = Role.CANDIDATE
        self._enter(self.term + 1)
        self.vote = self.name
        # Others may count this member's own vote only once it is durable, so the requests wait for the disk.
        self._ask_for_votes(Vote(self.term, self._log.last_index, self._log.last_term, transfer=transfer), self._send_after_sync)

    def _ask_for_votes(self, vote: Vote, send: Callable[[str, RaftMessage], None]) -> None:
        self._ballots = {}
        for name in self.others:
            if self.configuration.is_voter(name):
                send(name, vote)
        self._count(self.name, granted=True)

    def _count(self, voter: str, *, granted: bool) -> None:
        self._ballots[voter] = granted or self._ballots.get(voter, False)
        if quorum.won(self.configuration, [name for name, yes in self._ballots.items() if yes]):
            if self.role is Role.PRE_CANDIDATE:
                self._campaign()
            else:
                self._take_office()
        elif quorum.lost(self.configuration, [name for name, yes in self._ballots.items() if not yes]):
            self._follow(self.term, None)

    def _on_vote_reply(self, sender: str, reply: VoteReply) -> None:
        if reply.pre and reply.granted:
            counts = self.role is Role.PRE_CANDIDATE and reply.term == self.term + 1 and sender in self.others
        else:
            counts = self._of_this_term(sender, reply.term) and self.role is (Role.PRE_CANDIDATE if reply.pre else Role.CANDIDATE)
        if counts:
            self._count(sender, granted=reply.granted)

    def _on_vote(self, sender: str, vote: Vote) -> None:
        if not self.configuration.voters:
            return  # without a log there is no telling who may ask
        current = Position(vote.last_term, vote.last_index) >= self._end
        if sender not in self.others and not current:
            return  # removed, most likely; a new member that this one hasn't heard of has the newer log
        if vote.term < self.term or (vote.pre and not current):
            self._send(sender, VoteReply(self.term, granted=False, pre=vote.pre))
        elif self._is_bound_against(sender) and not vote.transfer:
            if vote.pre and vote.term > self.term and not self._lead:
                self._patience.hold(sender, vote)
        elif vote.pre:
            self._answer_pre_vote(sender, vote)
        else:
            self._answer_vote(sender, vote, current=current)

    def _is_bound_against(self, candidate: str) -> bool:
        return self._lead.is_followed(self._now) if self._lead else self._patience.binds_against(candidate, self._now)

    def _answer_pre_vote(self, sender: str, vote: Vote) -> None:
        granted = vote.term > self.term
        if granted:
            self._patience.forget_early()  # two that stand at once would split the vote
        self._send(sender, VoteReply(vote.term if granted else self.term, granted, pre=True))

    def _answer_vote(self, sender: str, vote: Vote, *, current: bool) -> None:
        if vote.term > self.term:
            self._follow(vote.term, None)
        granted = current and self.leader is None and self.vote in (None, sender)
        if not granted:
            self._send(sender, VoteReply(self.term, granted=False))
            return
        self.vote = sender
        self._patience.wait(self._now)
        self._send_after_sync(sender, VoteReply(self.term, granted=True))

    def _on_timeout_now(self, sender: str, message: TimeoutNow) -> None:
        if self._of_this_term(sender, message.term) and sender == self.leader and self._may_stand():
            self._campaign(transfer=True)

    # -- after a loss -----------------------------------------------------------------------------------------------------------------

    @property
    def in_doubt(self) -> bool:
        """Whether this member lost its last vote with the end of its log, and says nothing until it has heard the others."""
        return self._caution is not None and self._caution.in_doubt

    @property
    def is_outgrown(self) -> bool:
        """Whether this member lost its last vote, and its cluster has other voters by now than those that it could ask about it."""
        return self.in_doubt and self._caution is not None and self._caution.outgrown

    @property
    def healing(self) -> str:
        """What has to happen before this member has got over a loss, in words; empty: it has; any thread."""
        return caution.wants(self.name, self.configuration) if (caution := self._caution) else ""

    @property
    def _end(self) -> Position:
        """Where this member's log ends, or would without a loss."""
        return max(self._log.end, self._caution.floor) if self._caution else self._log.end

    def _heal(self) -> None:
        if self._caution and self._log.end >= self._caution.floor and self.durable_index == self._log.last_index:
            self._caution = None

    def _on_census(self, sender: str, census: Census) -> None:
        end = NOWHERE if self.in_doubt else self._end
        self._send(sender, CensusReply(census.id, self.term, end.index, end.term, self.in_doubt, self.configured, self.configuration))
        if self._lead and sender in self._lead.peers:
            self._lead.begin_anew(sender)

    def _on_census_reply(self, sender: str, reply: CensusReply) -> None:
        if (caution := self._caution) is None:
            return
        doubted = caution.in_doubt
        caution.heard(sender, reply, self._now, self.configured, self.configuration)
        if caution.settle(self.name, self.configuration, self._log.end):
            self._out.floor = caution.floor
            if doubted:
                self._follow(max(caution.term, self.term), None)
                self.vote = self.vote or self.name  # it may have given its vote in this term, and does not know to whom
            self._heal()

    # -- leading ----------------------------------------------------------------------------------------------------------------------

    def _take_office(self) -> None:
        self._cluster_time.take_over(self._log.last_time, self._now)
        self.role, self.leader = Role.LEADER, self.name
        self._lead = Leadership(self.name, self.term, self._log, self.timing, self._now)
        self._lead.beat(self._now)
        self._configure()
        # Only an entry of its own term tells a leader what is committed (§3.6.2).
        self._append_own(EntryKind.BLOCK, codec.encode_block([]))

    def _abdicate(self, lead: Leadership) -> None:
        self._lead = None
        for origin, read_id in lead.unanswered():
            self._answer_read(origin, read_id, 0)
        self._patience.wait(self._now)

    def _tick_leader(self, lead: Leadership) -> None:
        if lead.beat(self._now) and lead.is_cut_off(self._now):
            self._follow(self.term, None)  # others may be leading by now
        else:
            self._hand_over(lead)

    def _hand_over(self, lead: Leadership) -> None:
        if (heir := lead.ready_heir) is not None:
            self._send(heir, TimeoutNow(self.term))

    def _append_own(self, kind: EntryKind, payload: bytes) -> int:
        entry = codec.make_entry(self._log.last_index + 1, self.term, kind, self.time, payload)
        self._log.put((entry,))
        if kind is EntryKind.CONFIGURATION:
            self._configure()
        return entry.index

    def _on_append_reply(self, sender: str, reply: AppendReply) -> None:
        if not self._of_this_term(sender, reply.term) or (lead := self._lead) is None:
            return
        news = lead.heard(lead.peers[sender], reply, self._now)
        if reply.round > lead.rounds.confirmed:
            self._confirm(lead)
        if news:
            self._advance_commit(lead)
            self._hand_over(lead)

    def _confirm(self, lead: Leadership) -> None:
        for origin, read_id, index in lead.confirm():
            self._answer_read(origin, read_id, index)

    def _advance_commit(self, lead: Leadership) -> None:
        index = lead.agreed_index(self.durable_index) if self.commit < self._log.last_index else 0
        # Entries of older terms are never committed by counting (§3.6.2).
        if index > self.commit and self._log.term_at(index) == self.term:
            self._commit_to(index)

    def _on_read_index(self, sender: str, question: ReadIndex) -> None:
        if self._of_this_term(sender, question.term) and self._lead:
            self._lead.ask(sender, question.id)
        else:
            self._send(sender, ReadIndexReply(self.term, question.id, 0))

    def _replicate(self, lead: Leadership) -> None:
        if lead.send(self._out, self._now, self.commit, self.time) and lead.is_alone:
            self._confirm(lead)
        if lead.settling:
            self._settle(lead)

    def _settle(self, lead: Leadership) -> None:
        """Drop those whom the committed configuration no longer names; a leader among them steps down (§4.2.2)."""
        lead.settling = False
        self._configure()
        if not self._votes_in(self.configuration):
            self._follow(self.term, None)

    _HANDLERS: ClassVar[dict[type, Callable[[Raft, str, Any], None]]] = {
        Vote: _on_vote,
        VoteReply: _on_vote_reply,
        Append: _on_append,
        AppendReply: _on_append_reply,
        ReadIndex: _on_read_index,
        ReadIndexReply: _on_read_index_reply,
        TimeoutNow: _on_timeout_now,
        Census: _on_census,
        CensusReply: _on_census_reply,
    }
