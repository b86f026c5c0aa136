"""One member's time at the head of one term: what it knows of its followers, what it sends them, and what it owes to whom.

Created when an election is won, thrown away when it ends; only ``raft.py`` touches it.  The term never changes meanwhile and the log
only grows, so nothing here can be stale.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from replkv import quorum
from replkv.errors import InvariantBroken
from replkv.messages import NOTICE, Append
from replkv.progress import Pace, Progress, Rounds

if TYPE_CHECKING:
    from collections.abc import Iterable

    from replkv.messages import AppendReply, Configuration, Entry
    from replkv.raftlog import RaftLog
    from replkv.ready import Ready, Timing

APPEND_BYTES = 4 << 20
LEASE_MARGIN = 0.99
"""Clocks of two members may run apart by 1 % before a lease outlives the promises it rests on."""


class Leadership:
    """The volatile state of a leader (§3.3), and its side of replication (§3.5)."""

    def __init__(self, name: str, term: int, log: RaftLog, timing: Timing, now: float) -> None:
        self._name = name
        self._term = term
        self._log = log
        self._timing = timing
        self.peers: dict[str, Progress] = {}
        self.rounds = Rounds(now)
        self.first_index = log.last_index + 1
        """The first entry of this term: until it is committed, the leader does not know what is (§3.6.2, §6.4)."""
        self.heartbeat_at = now
        self._excused = (0, now)  # the round that was confirmed last when this leader stood still, and until when that is its excuse
        self.heir: str | None = None
        self._heir_until = now
        self.handed_over = False
        """Leadership was once offered: the heir's votes are exempt from promises, so no lease may rest on them any more."""
        self.settling = False
        """The newest configuration has been committed, and those it drops have not been told yet."""
        self._broadcast_due = True
        self._reads: list[tuple[str, int]] = []  # origin, id: wait for a round
        self._open_reads: list[tuple[int, int, str, int]] = []  # round, read index, origin, id: wait for its quorum

    # -- followers --------------------------------------------------------------------------------------------------------------------

    def configure(self, others: Iterable[str]) -> None:
        """Lead exactly these; what is known of those who stay is kept."""
        self.peers = {name: self._progress_of(name) for name in others}
        if self.heir not in self.peers:
            self.heir = None

    def _progress_of(self, name: str) -> Progress:
        # Another incarnation is another log: what the first one acknowledged says nothing about it.
        incarnation = self._log.configuration.members.get(name)
        old = self.peers.get(name)
        if old and incarnation in (None, old.incarnation):
            return old
        return Progress(self._log.last_index + 1, incarnation, since_round=self.rounds.current + 1)

    @property
    def is_alone(self) -> bool:
        """Whether nobody else has a vote."""
        return self._log.configuration.all_voters == {self._name}

    def agreed_index(self, durable_index: int) -> int:
        """Return up to where a quorum holds the log durably, this member up to ``durable_index``."""
        matches = {name: peer.match for name, peer in self.peers.items()} | {self._name: durable_index}
        return quorum.agreed(self._log.configuration, matches.__getitem__)

    def may_change_to(self, new: Configuration, commit: int) -> bool:
        """Tell whether the configuration may be changed now: one change at a time, and none before an own entry is committed.

        Raises:
            ValueError: the new one can't follow the one in effect.
        """
        if commit < max(self.first_index, self._log.configuration_index):
            return False
        old = self._log.configuration
        if not quorum.may_follow(old, new):
            raise ValueError(f"{new} can't follow {old}: one voter at a time, or through a joint configuration")
        return True

    def heard(self, peer: Progress, reply: AppendReply, now: float) -> bool:
        """Take an answer to an Append; tell whether more of the log is known to be there."""
        if not peer.since_round <= reply.round <= self.rounds.current or reply.match > self._log.last_index:
            return False  # nothing this leader ever sent, or nothing that is still true
        peer.heard_at = now
        peer.acked_round = max(peer.acked_round, reply.round)
        if reply.rejected:
            self._step_back(peer, reply)
            return False
        return peer.acknowledged(reply.match)

    def _step_back(self, peer: Progress, reply: AppendReply) -> None:
        if reply.round < peer.fresh_round:
            return
        peer.fresh_round = self.rounds.current + 1
        if peer.pace is Pace.SNAPSHOT and reply.hint_index == peer.behind_at:
            return  # still on its way
        peer.behind_at = reply.hint_index
        guess = self._log.agreement(reply.hint_index, reply.hint_term) + 1
        if reply.hint_index == peer.next - 1 and reply.hint_term == self._log.term_at(reply.hint_index):
            # The logs agree where it was asked, so its disk is full; heartbeats find out when it has room again.
            peer.probe(peer.next, wait=True)
            return
        # Where no lower guess is left, the next question waits for the next heartbeat, or the two would talk in circles.
        peer.probe(min(guess, peer.next - 1), wait=peer.next == peer.match + 1)

    def restart_probe(self, name: str, *, wait: bool) -> None:
        """Begin anew with a follower whose connection changed: what was on its way may be lost."""
        peer = self.peers.get(name)
        if peer and peer.pace is not Pace.SNAPSHOT:
            peer.probe(peer.match + 1 if peer.match else peer.next, wait=wait)

    def begin_anew(self, name: str) -> None:
        """Ask from the beginning what a follower holds: its disk lost a part of what it had acknowledged."""
        round_ = self.rounds.current + 1
        self.peers[name] = Progress(self._log.last_index + 1, self.peers[name].incarnation, since_round=round_)

    def snapshot_ended(self, name: str) -> None:
        """Ask a follower where it stands now that no snapshot is on its way to it."""
        peer = self.peers.get(name)
        if peer and peer.pace is Pace.SNAPSHOT:
            peer.probe(self._log.base_index + 1, wait=True)

    # -- rounds: quorum, lease, reads ---------------------------------------------------------------------------------------------------

    def beat(self, now: float) -> bool:
        """Tell whether a heartbeat is due, and see to it."""
        if now < self.heartbeat_at:
            return False
        self.heartbeat_at = now + self._timing.heartbeat
        self._broadcast_due = True
        if now >= self._heir_until:
            self.heir = None
        return True

    def is_cut_off(self, now: float) -> bool:
        """Tell whether no quorum has answered for an election timeout (§6.2)."""
        overdue = now - self.rounds.confirmed_at >= self._timing.election_timeout and now >= self._excused[1]
        return overdue and not self.is_alone

    def excuse(self, now: float) -> None:
        """Ask once more before giving up: this leader stood still, and so may all others have; once for each confirmed round."""
        if self.rounds.confirmed != self._excused[0]:
            self._excused = self.rounds.confirmed, now + self._timing.promise

    def is_followed(self, now: float) -> bool:
        """Tell whether a quorum is still bound by its promises."""
        return now < self.rounds.confirmed_at + self._timing.promise

    def lease_until(self, commit: int) -> float:
        """Return until when nobody else can have been elected, 0 if that can't be known (§6.4.1)."""
        if self.handed_over or commit < self.first_index or not self.rounds.confirmed:
            return 0.0
        return self.rounds.confirmed_at + self._timing.promise * LEASE_MARGIN

    def ask(self, origin: str, read_id: int) -> None:
        """Queue a read for the next round: only a round begun after the question can answer it (§6.4)."""
        self._reads.append((origin, read_id))

    def confirm(self) -> list[tuple[str, int, int]]:
        """Return the reads that a quorum has confirmed by now: origin, id, read index."""
        acked = {name: peer.acked_round for name, peer in self.peers.items()} | {self._name: self.rounds.current}
        round_ = quorum.agreed(self._log.configuration, acked.__getitem__)
        if not self.rounds.confirm(round_) or not self._open_reads:
            return []
        confirmed = [(origin, read_id, index) for begun, index, origin, read_id in self._open_reads if begun <= round_]
        self._open_reads = [read for read in self._open_reads if read[0] > round_]
        return confirmed

    def unanswered(self) -> list[tuple[str, int]]:
        """Return all reads that wait: origin, id."""
        return self._reads + [read[2:] for read in self._open_reads]

    # -- handing over -------------------------------------------------------------------------------------------------------------------

    def offer(self, to: str | None, now: float) -> None:
        """Choose an heir; given up after an election timeout (§3.10).

        Raises:
            ValueError: ``to`` is not another voter.
        """
        heirs = [name for name in self.peers if self._log.configuration.is_voter(name)]
        if to is None:
            # On an idle cluster a dead follower matches as well as a live one.
            heard_since = now - self._timing.election_timeout
            to = max(heirs, key=lambda name: (self.peers[name].heard_at > heard_since, self.peers[name].match), default=None)
        elif to not in heirs:
            raise ValueError(f"leadership can go to one of {', '.join(heirs) or 'nobody'}, not to {to!r}")
        if to is not None:
            self.heir, self._heir_until = to, now + self._timing.election_timeout
            self.handed_over = True

    @property
    def ready_heir(self) -> str | None:
        """The heir, once it has the whole log."""
        return self.heir if self.heir and self.peers[self.heir].match == self._log.last_index else None

    # -- sending --------------------------------------------------------------------------------------------------------------------------

    def send(self, out: Ready, now: float, commit: int, time: int) -> bool:
        """Send everybody what is new: entries, the commit index, a round for waiting reads, a sign of life.

        Returns:
            Whether a round was begun.
        """
        opens_reads = bool(self._reads) and commit >= self.first_index
        due, last = self._broadcast_due or opens_reads, self._log.last_index
        begun = due
        if due:
            self._broadcast_due = False
            self.rounds.begin(now)
        if opens_reads:
            self._open_reads += [(self.rounds.current, commit, origin, read_id) for origin, read_id in self._reads]
            self._reads = []
        for name, peer in self.peers.items():
            if due or peer.has_room(last):
                if not begun:
                    begun = True
                    self.rounds.begin(now)
                self._feed(name, peer, out, now, commit, time, due=due)
            # Whoever is behind the base learns at the next broadcast that it needs a snapshot.
            if peer.commit < commit and peer.pace is Pace.REPLICATE and peer.next > self._log.base_index:
                out.notices.append((name, self._append(peer, peer.next - 1, commit, time, (), NOTICE)))
        return begun

    def _feed(self, name: str, peer: Progress, out: Ready, now: float, commit: int, time: int, *, due: bool) -> None:
        """Send one follower the entries that it lacks, as far as there is room; if there are none and a sign of life is due, that."""
        if peer.next <= self._log.base_index and peer.pace is not Pace.SNAPSHOT:
            self._leave_behind(name, peer, out, now)
        last = self._log.last_index
        while peer.has_room(last):
            entries = self._log.run(peer.next, APPEND_BYTES)
            out.messages.append((name, self._append(peer, peer.next - 1, commit, time, entries, self.rounds.current)))
            due = False
        if due:
            prev_index = self._log.base_index if peer.pace is Pace.SNAPSHOT else peer.next - 1
            out.messages.append((name, self._append(peer, prev_index, commit, time, (), self.rounds.current)))

    def _append(self, peer: Progress, prev_index: int, commit: int, time: int, entries: tuple[Entry, ...], round_: int) -> Append:
        prev_term = self._log.term_at(prev_index)
        if prev_term is None:
            raise InvariantBroken(f"{self._name}: the term of entry {prev_index} is not in the log, which {peer} needs")
        peer.sent(prev_index + len(entries), commit)
        return Append(self._term, prev_index, prev_term, commit, round_, time, entries)

    def _leave_behind(self, name: str, peer: Progress, out: Ready, now: float) -> None:
        base = self._log.base_index
        if now - peer.heard_at < self._timing.election_timeout:
            peer.needs_snapshot(base)
            out.snapshots.append(name)
        else:
            peer.probe(base + 1, wait=True)  # no use in streaming a snapshot to one that may be gone
