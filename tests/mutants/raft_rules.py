"""Bugs in the rules of Raft that the exhaustive search of small scopes is to find."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from replkv import leadership, quorum
from replkv.caution import Caution
from replkv.leadership import Leadership
from replkv.messages import Append, AppendReply, CensusReply, Configuration, HardState, Position, SnapshotMeta, TimeoutNow, Vote, VoteReply
from replkv.patience import Patience
from replkv.progress import Progress
from replkv.raft import Raft, Role
from replkv.raftlog import RaftLog
from replkv.ready import Ready

Patch = pytest.MonkeyPatch


# -- elections -----------------------------------------------------------------------------------------------------------------------


def a_vote_is_given_to_two_candidates(patch: Patch) -> None:
    answer_vote = Raft._answer_vote

    def fickle(self: Raft, sender: str, vote: Vote, *, current: bool) -> None:
        if self.role is Role.FOLLOWER:
            self.vote = None
        answer_vote(self, sender, vote, current=current)

    patch.setattr(Raft, "_answer_vote", fickle)


def a_vote_is_forgotten_in_a_crash(patch: Patch) -> None:
    take = Raft.take

    def forgetful(self: Raft, room: int | None = None) -> Ready | None:
        ready = take(self, room)
        if ready is not None and ready.hard_state is not None:
            ready.hard_state = HardState(ready.hard_state.term, None)
        return ready

    patch.setattr(Raft, "take", forgetful)


def a_late_vote_of_an_older_term_is_counted(patch: Patch) -> None:
    on_vote_reply = Raft._HANDLERS[VoteReply]

    def counting(self: Raft, sender: str, reply: VoteReply) -> None:
        if reply.granted and not reply.pre and self.role is Role.CANDIDATE:
            self._count(sender, granted=True)
        else:
            on_vote_reply(self, sender, reply)

    patch.setitem(Raft._HANDLERS, VoteReply, counting)


def a_vote_goes_to_one_whose_log_is_behind(patch: Patch) -> None:
    answer_vote = Raft._answer_vote
    patch.setattr(Raft, "_answer_vote", lambda self, sender, vote, *, current: answer_vote(self, sender, vote, current=True))


def logs_are_compared_by_their_length_alone(patch: Patch) -> None:
    on_vote = Raft._HANDLERS[Vote]

    def by_length(self: Raft, sender: str, vote: Vote) -> None:
        last_term = self._log.last_term
        on_vote(self, sender, Vote(vote.term, vote.last_index, max(vote.last_term, last_term), vote.pre, vote.transfer))

    patch.setitem(Raft._HANDLERS, Vote, by_length)


def a_hand_over_of_an_older_term_is_carried_out_in_the_present_one(patch: Patch) -> None:
    def obedient(self: Raft, sender: str, message: TimeoutNow) -> None:
        if self._may_stand() and not self._lead:
            self._change_leader(None)
            self._ballots, self.role, self.vote = {}, Role.CANDIDATE, self.name
            self._ask_for_votes(Vote(self.term, self._log.last_index, self._log.last_term, transfer=True), self._send_after_sync)

    patch.setitem(Raft._HANDLERS, TimeoutNow, obedient)


# -- replication ---------------------------------------------------------------------------------------------------------------------


def an_entry_of_an_older_term_is_committed_by_counting(patch: Patch) -> None:
    def counting(self: Raft, lead: Leadership) -> None:
        index = lead.agreed_index(self.durable_index)
        if index > self.commit:
            self._commit_to(index)

    patch.setattr(Raft, "_advance_commit", counting)


def the_commit_index_goes_back_with_a_late_message(patch: Patch) -> None:
    on_append = Raft._HANDLERS[Append]

    def obedient(self: Raft, sender: str, append: Append) -> None:
        on_append(self, sender, append)
        if sender == self.leader and append.term == self.term:
            self.commit = min(append.commit, self._log.last_index)

    patch.setitem(Raft._HANDLERS, Append, obedient)


def what_a_leader_sent_first_is_committed_whatever_lies_there(patch: Patch) -> None:
    on_append = Raft._HANDLERS[Append]

    def hasty(self: Raft, sender: str, append: Append) -> None:
        on_append(self, sender, append)
        if sender == self.leader and append.term == self.term:
            self.commit = max(self.commit, min(append.commit, self._log.last_index))

    patch.setitem(Raft._HANDLERS, Append, hasty)


def a_late_answer_takes_the_match_index_back(patch: Patch) -> None:
    acknowledged = Progress.acknowledged

    def trusting(self: Progress, match: int) -> bool:
        news = acknowledged(self, match)
        self.match, self.next = match, max(self.next, match + 1)
        return news

    patch.setattr(Progress, "acknowledged", trusting)


def a_late_append_cuts_off_what_was_acknowledged(patch: Patch) -> None:
    patch.setattr(RaftLog, "first_difference", lambda self, entries: 0)


def an_append_is_taken_without_looking_what_lies_before_it(patch: Patch) -> None:
    on_append = Raft._HANDLERS[Append]

    def blind(self: Raft, sender: str, append: Append) -> None:
        term = self._log.term_at(append.prev_index)
        if term is not None and append.prev_index > self.commit and term <= append.term:
            append = Append(append.term, append.prev_index, term, append.commit, append.round, append.time, append.entries)
        on_append(self, sender, append)

    patch.setitem(Raft._HANDLERS, Append, blind)


def acknowledgements_leave_before_the_disk_is_done(patch: Patch) -> None:
    take = Raft.take

    def hasty(self: Raft) -> Ready | None:
        ready = take(self)
        if ready is not None:
            acknowledgements = [pair for pair in ready.after_sync if isinstance(pair[1], AppendReply)]
            ready.messages = ready.messages + acknowledgements
            ready.after_sync = [pair for pair in ready.after_sync if not isinstance(pair[1], AppendReply)]
        return ready

    patch.setattr(Raft, "take", hasty)


def half_is_taken_for_a_majority(patch: Patch) -> None:
    def half(configuration: Configuration, value: Callable[[str], Any]) -> Any:
        ranked = sorted(map(value, configuration.voters), reverse=True)
        return ranked[max(0, len(ranked) // 2 - 1)]

    patch.setattr(quorum, "agreed", half)


# -- membership ----------------------------------------------------------------------------------------------------------------------


def a_leader_changes_the_configuration_before_an_entry_of_its_own_is_committed(patch: Patch) -> None:
    may_change_to = Leadership.may_change_to

    def early(self: Leadership, new: Configuration, commit: int) -> bool:
        return may_change_to(self, new, max(commit, self.first_index) if commit >= self._log.configuration_index else commit)

    patch.setattr(Leadership, "may_change_to", early)


def a_configuration_is_changed_before_the_last_change_is_committed(patch: Patch) -> None:
    may_change_to = Leadership.may_change_to

    def early(self: Leadership, new: Configuration, commit: int) -> bool:
        return may_change_to(self, new, max(commit, self._log.configuration_index) if commit >= self.first_index else commit)

    patch.setattr(Leadership, "may_change_to", early)


def two_voters_are_changed_at_once(patch: Patch) -> None:
    patch.setattr(quorum, "may_follow", lambda old, new: bool(new.voters))


def a_new_configuration_is_decided_by_the_voters_of_the_old_one(patch: Patch) -> None:
    def by_the_old(self: Leadership, durable_index: int) -> int:
        configurations = self._log.configurations
        old = configurations[-2] if len(configurations) > 2 else configurations[-1]
        matches = {name: peer.match for name, peer in self.peers.items()}
        return quorum.agreed(old, lambda name: durable_index if name == self._name else matches.get(name, 0))

    patch.setattr(Leadership, "agreed_index", by_the_old)


def a_restart_forgets_the_newest_configuration(patch: Patch) -> None:
    init = Raft.__init__

    def forgetful(self: Raft, *arguments: Any) -> None:
        init(self, *arguments)
        if len(self._log._configurations) > 2:
            self._log._configurations.pop()
            self._configure()

    patch.setattr(Raft, "__init__", forgetful)


def one_half_of_a_joint_configuration_decides(patch: Patch) -> None:
    agreed = quorum.agreed

    def hasty(configuration: Configuration, value: Callable[[str], Any]) -> Any:
        return agreed(Configuration(configuration.voters, (), (), configuration.members), value)

    patch.setattr(quorum, "agreed", hasty)


def whoever_elects_itself_leads_before_that_is_durable(patch: Patch) -> None:
    take = Raft.take

    def hasty(self: Raft) -> Ready | None:
        ready = take(self)
        if ready is not None and self.role is Role.LEADER:
            early = [pair for pair in ready.after_sync if isinstance(pair[1], Append)]
            ready.messages = ready.messages + early
            ready.after_sync = [pair for pair in ready.after_sync if not isinstance(pair[1], Append)]
        return ready

    patch.setattr(Raft, "take", hasty)


# -- reads and leases ----------------------------------------------------------------------------------------------------------------


def a_leader_reads_without_asking_anybody(patch: Patch) -> None:
    read = Raft.read

    def alone(self: Raft, read_id: int, now: float) -> None:
        if self.role is Role.LEADER:
            self._pass_time(now)
            self._out.reads.append((read_id, self.commit))
        else:
            read(self, read_id, now)

    patch.setattr(Raft, "read", alone)


def a_read_is_confirmed_by_a_round_that_began_before_it(patch: Patch) -> None:
    def hasty(self: Leadership, origin: str, read_id: int) -> None:
        self._open_reads.append((self.rounds.current, getattr(self, "_last_commit", 0), origin, read_id))

    send = Leadership.send

    def noting(self: Leadership, out: Ready, now: float, commit: int, time: int) -> bool:
        self._last_commit = commit  # type: ignore[attr-defined]
        return send(self, out, now, commit, time)

    patch.setattr(Leadership, "ask", hasty)
    patch.setattr(Leadership, "send", noting)


def a_leader_reads_before_it_knows_what_is_committed(patch: Patch) -> None:
    send = Leadership.send

    def early(self: Leadership, out: Ready, now: float, commit: int, time: int) -> bool:
        first_index, self.first_index = self.first_index, 0
        begun = send(self, out, now, commit, time)
        self.first_index = first_index
        return begun

    patch.setattr(Leadership, "send", early)


def a_lease_begins_before_the_leader_knows_what_is_committed(patch: Patch) -> None:
    lease_until = Leadership.lease_until
    patch.setattr(Leadership, "lease_until", lambda self, commit: lease_until(self, max(commit, self.first_index)))


def a_lease_lasts_longer_than_the_promises(patch: Patch) -> None:
    patch.setattr(leadership, "LEASE_MARGIN", 4.0)


def a_lease_begins_when_the_answer_arrives(patch: Patch) -> None:
    heard = Leadership.heard

    def generous(self: Leadership, peer: Progress, reply: AppendReply, now: float) -> bool:
        self.rounds._sent = type(self.rounds._sent)((round_, now) for round_, _ in self.rounds._sent)
        return heard(self, peer, reply, now)

    patch.setattr(Leadership, "heard", generous)


def a_lease_goes_on_while_leadership_is_handed_over(patch: Patch) -> None:
    lease_until = Leadership.lease_until

    def generous(self: Leadership, commit: int) -> float:
        handed_over, self.handed_over = self.handed_over, False
        until = lease_until(self, commit)
        self.handed_over = handed_over
        return until

    patch.setattr(Leadership, "lease_until", generous)


def a_restart_ends_a_promise(patch: Patch) -> None:
    init = Patience.__init__

    def forgetful(self: Patience, election_timeout: float, promise: float, rng: Any, now: float) -> None:
        init(self, election_timeout, promise, rng, now)
        self.promised_until = now

    patch.setattr(Patience, "__init__", forgetful)


def a_lost_connection_ends_a_promise(patch: Patch) -> None:
    lost_leader = Patience.lost_leader

    def disloyal(self: Patience, rank: int, now: float) -> None:
        self.promised_until = now
        lost_leader(self, rank, now)

    patch.setattr(Patience, "lost_leader", disloyal)


# -- snapshots -----------------------------------------------------------------------------------------------------------------------


def a_snapshot_does_not_say_who_votes(patch: Patch) -> None:
    restart = RaftLog.restart
    patch.setattr(RaftLog, "restart", lambda self, snapshot: restart(self, SnapshotMeta(snapshot.index, snapshot.term, Configuration(()))))


def an_installed_snapshot_leaves_the_log_that_it_replaces(patch: Patch) -> None:
    restart = RaftLog.restart

    def lenient(self: RaftLog, snapshot: SnapshotMeta) -> None:
        behind = self.between(snapshot.index + 1, self.last_index) if hasattr(self, "last_index") else ()
        restart(self, snapshot)
        self.put(behind)

    patch.setattr(RaftLog, "restart", lenient)


def a_snapshot_replaces_a_log_that_already_holds_it(patch: Patch) -> None:
    patch.setattr(Raft, "wants", lambda self, meta: self._lead is None)


# -- losses --------------------------------------------------------------------------------------------------------------------------


def who_lost_a_part_of_its_log_votes_by_what_is_left(patch: Patch) -> None:
    patch.setattr(Raft, "_end", property(lambda self: self._log.end))


def a_lost_vote_is_given_once_more(patch: Patch) -> None:
    on_census_reply = Raft._HANDLERS[CensusReply]

    def forgetful(self: Raft, sender: str, reply: CensusReply) -> None:
        doubted = self.in_doubt
        on_census_reply(self, sender, reply)
        if doubted and not self.in_doubt:
            self.vote = None

    patch.setitem(Raft._HANDLERS, CensusReply, forgetful)


def a_lost_term_is_thought_to_be_the_one_before_it(patch: Patch) -> None:
    on_census_reply = Raft._HANDLERS[CensusReply]

    def hasty(self: Raft, sender: str, reply: CensusReply) -> None:
        on_census_reply(self, sender, CensusReply(reply.id, 0, reply.last_index, reply.last_term, reply.in_doubt))

    patch.setitem(Raft._HANDLERS, CensusReply, hasty)


def a_doubt_ends_before_all_others_have_answered(patch: Patch) -> None:
    settle = Caution.settle

    def hasty(self: Caution, name: str, configuration: Configuration, last: Position) -> bool:
        heard = (name, *self._replies)
        few = Configuration(tuple(voter for voter in configuration.voters if voter in heard), (), (), configuration.members)
        return settle(self, name, few, last)

    patch.setattr(Caution, "settle", hasty)


def who_lost_a_part_of_its_log_stands_for_election(patch: Patch) -> None:
    may_stand = Raft._may_stand

    def bold(self: Raft) -> bool:
        caution, self._caution = self._caution, None
        answer = may_stand(self)
        self._caution = caution
        return answer

    patch.setattr(Raft, "_may_stand", bold)
