"""Elections, votes and promises, claim by claim."""

from __future__ import annotations

import random

import pytest
from raft_harness import AFTER, START, TIMING, Cluster, acknowledge, block, configuration, do, elected, founding, raft

from replkv import codec
from replkv.errors import InvariantBroken
from replkv.messages import Append, AppendReply, EntryKind, HardState, SnapshotMeta, TimeoutNow, Vote, VoteReply
from replkv.raft import Raft, Restored, Role
from replkv.testing.raft_check import check_raft

PROMISE, ELECTION = TIMING.promise, TIMING.election_timeout
FIRST = founding("a", "b", "c")


def beat(term: int = 1, prev: tuple[int, int] = (1, 1), commit: int = 0, round_: int = 1) -> Append:
    return Append(term, *prev, commit, round_, 0)


def following(leader: str = "b", now: float = AFTER) -> Raft:
    """Member a, following a leader it has just heard."""
    member = raft("a")
    member.receive(leader, beat(), now)
    do(member, now)
    return member


# -- elections ------------------------------------------------------------------------------------------------------------------------


def test_a_follower_stands_after_two_to_three_thirds_of_the_election_timeout() -> None:
    member = following()
    assert AFTER + ELECTION * 2 / 3 <= member.deadline <= AFTER + ELECTION
    member.tick(member.deadline - 0.001)
    assert member.role is Role.FOLLOWER
    member.tick(member.deadline)
    assert (member.role, member.leader) == (Role.PRE_CANDIDATE, None)


def test_a_leader_that_is_heard_keeps_a_follower_from_standing() -> None:
    member, now = following(), AFTER
    for _ in range(50):
        now += 0.5
        member.tick(now)
        member.receive("b", beat(), now)
    assert (member.role, member.leader, member.term) == (Role.FOLLOWER, "b", 1)


def test_asking_before_an_election_changes_neither_term_nor_vote() -> None:
    member = raft("a", term=4, vote="b")
    for tick in range(5):
        member.tick(AFTER + 5 * tick)
        ready = do(member, AFTER)
        assert ready.hard_state is None
        assert [message for _, message in ready.messages] == [Vote(5, 1, 1, pre=True)] * 2
    assert member.hard_state == HardState(4, "b")


def test_answering_a_question_before_an_election_changes_nothing_either() -> None:
    member = raft("a")
    member.receive("b", Vote(9, 1, 1, pre=True), AFTER)
    ready = do(member, AFTER)
    assert ready.messages == [("b", VoteReply(9, granted=True, pre=True))]
    assert ready.hard_state is None
    assert member.hard_state == HardState(1)


def test_a_majority_of_answers_makes_a_candidate_and_a_majority_of_votes_a_leader() -> None:
    member = raft("a")
    member.tick(AFTER)
    do(member, AFTER)
    member.receive("b", VoteReply(2, granted=True, pre=True), AFTER)
    assert (member.role, member.term, member.vote) == (Role.CANDIDATE, 2, "a")
    do(member, AFTER)
    member.receive("c", VoteReply(2, granted=True), AFTER)
    assert (member.role, member.leader) == (Role.LEADER, "a")
    ready = member.take()
    assert ready is not None
    assert codec.decode_block(ready.entries[0].payload) == []
    assert [to for to, message in ready.messages if isinstance(message, Append)] == ["b", "c"]


def test_a_candidacy_leaves_only_after_its_vote_is_durable() -> None:
    member = raft("a")
    member.tick(AFTER)
    member.take()
    member.receive("b", VoteReply(2, granted=True, pre=True), AFTER)
    ready = member.take()
    assert ready is not None
    assert ready.hard_state == HardState(2, "a")
    assert ready.messages == []
    assert ready.after_sync == [("b", Vote(2, 1, 1)), ("c", Vote(2, 1, 1))]


def test_a_granted_vote_leaves_only_after_it_is_durable() -> None:
    member = raft("a")
    member.receive("b", Vote(2, 1, 1), AFTER)
    ready = member.take()
    assert ready is not None
    assert (ready.messages, ready.hard_state, ready.after_sync) == ([], HardState(2, "b"), [("b", VoteReply(2, granted=True))])


def test_a_member_votes_once_in_a_term_also_over_a_restart() -> None:
    member = raft("a")
    member.receive("b", Vote(2, 1, 1), AFTER)
    disk = do(member, AFTER).hard_state
    assert disk is not None
    again = raft("a", term=disk.term, vote=disk.vote)
    again.receive("c", Vote(2, 1, 1), AFTER)
    assert do(again, AFTER).messages == [("c", VoteReply(2, granted=False))]
    again.receive("b", Vote(2, 1, 1), AFTER)
    assert do(again, AFTER).messages == [("b", VoteReply(2, granted=True))], "a repeated request gets the same answer"


@pytest.mark.parametrize(
    ("last_index", "last_term", "granted"), [(3, 2, True), (4, 2, True), (1, 3, True), (2, 2, False), (9, 1, False), (2, 1, False)]
)
@pytest.mark.parametrize("pre", [True, False])
def test_only_a_candidate_with_as_new_a_log_gets_a_vote(last_index: int, last_term: int, granted: bool, pre: bool) -> None:
    member = raft("a", FIRST, block(2, 2), block(3, 2))
    member.receive("b", Vote(7, last_index, last_term, pre=pre), AFTER)
    ((to, reply),) = do(member, AFTER).messages
    assert isinstance(reply, VoteReply)
    assert (to, reply.granted, reply.pre) == ("b", granted, pre)


def test_a_vote_of_an_older_term_is_not_counted() -> None:
    member = raft("a")
    member.tick(AFTER)
    member.receive("b", VoteReply(2, granted=True, pre=True), AFTER)
    member.receive("b", VoteReply(1, granted=True), AFTER)
    member.receive("b", VoteReply(2, granted=True, pre=True), AFTER)
    assert member.role is Role.CANDIDATE


def test_a_vote_of_a_learner_or_a_stranger_is_not_counted() -> None:
    member = raft("a", founding("a", "b", "c", learners=("x",)))
    member.tick(AFTER)
    for name in ("x", "stranger"):
        member.receive(name, VoteReply(2, granted=True, pre=True), AFTER)
    assert member.role is Role.PRE_CANDIDATE


def test_a_lost_election_ends_at_once() -> None:
    member = raft("a")
    member.tick(AFTER)
    for name in ("b", "c"):
        member.receive(name, VoteReply(1, granted=False, pre=True), AFTER)
    assert member.role is Role.FOLLOWER


def test_a_refused_question_teaches_the_higher_term() -> None:
    member = raft("a")
    member.tick(AFTER)
    member.receive("b", VoteReply(8, granted=False, pre=True), AFTER)
    assert (member.role, member.term) == (Role.FOLLOWER, 8)


def test_a_candidate_gives_way_to_the_leader_of_its_term() -> None:
    member = raft("a")
    member.tick(AFTER)
    member.receive("b", VoteReply(2, granted=True, pre=True), AFTER)
    member.receive("c", beat(2), AFTER)
    assert (member.role, member.leader, member.term) == (Role.FOLLOWER, "c", 2)


def test_two_leaders_in_a_term_stop_the_member_that_sees_them() -> None:
    member = following("b")
    with pytest.raises(InvariantBroken, match="both lead term 1"):
        member.receive("c", beat(), AFTER)


def test_an_append_of_an_older_term_is_refused_with_the_newer_term() -> None:
    member = raft("a", term=5)
    member.receive("b", beat(4), AFTER)
    assert do(member, AFTER).messages == [("b", AppendReply(5, 1, rejected=True))]
    assert member.leader is None


def test_a_leader_steps_down_when_it_hears_a_higher_term() -> None:
    member = elected(raft("a"))
    member.receive("b", AppendReply(7, 0, rejected=True), AFTER)
    assert (member.role, member.term, member.leader) == (Role.FOLLOWER, 7, None)


def test_a_leader_without_answers_of_a_quorum_steps_down_after_an_election_timeout() -> None:
    member = elected(raft("a"))
    acknowledge(member, "b", now=AFTER + 0.05)
    member.tick(AFTER + ELECTION - 0.01)
    assert member.role is Role.LEADER
    member.tick(AFTER + ELECTION + 0.2)
    assert (member.role, member.leader, member.term) == (Role.FOLLOWER, None, 2)


def test_answers_of_learners_do_not_keep_a_leader_in_office() -> None:
    member = elected(raft("a", founding("a", "b", "c", learners=("x",))))
    now = AFTER
    while member.role is Role.LEADER and now < AFTER + 10:
        acknowledge(member, "x", now=now)
        now += 0.1
        member.tick(now)
    assert now < AFTER + ELECTION + 0.3


def test_a_single_voter_elects_itself_at_once() -> None:
    member = raft("a", founding("a"))
    assert (member.role, member.term) == (Role.LEADER, 2)
    ready = do(member, START)
    assert ready.hard_state == HardState(2, "a")
    assert [entry.index for entry in ready.committed] == [1, 2]
    assert member.lease_until > START


def test_a_single_voter_tells_learners_nothing_before_its_term_is_durable() -> None:
    ready = raft("a", founding("a", learners=("x",))).take()
    assert ready is not None
    assert ready.hard_state == HardState(2, "a")
    assert not ready.messages
    assert [to for to, _ in ready.after_sync] == ["x"]


def test_no_more_is_handed_out_to_be_applied_than_there_is_room_for_and_nothing_twice() -> None:
    member = raft("a", FIRST, *(block(index, 1) for index in range(2, 10)))
    member.receive("b", beat(prev=(9, 1), commit=9), AFTER)
    for room, expected in ((0, []), (3, [1, 2, 3]), (0, []), (1, [4]), (None, [5, 6, 7, 8, 9]), (5, [])):
        ready = member.take(room)
        assert [entry.index for entry in (ready.committed if ready else ())] == expected
        check_raft(member)
    assert member.commit == 9


def test_what_is_to_be_done_follows_from_inputs_alone_and_the_judge_sees_when_it_does_not() -> None:
    follower, leader = raft(), elected(raft())
    assert follower.take() is None
    follower.trim(0, SnapshotMeta(0, 0, configuration("a", "b", "c")))
    leader.snapshot_failed("b")  # neither is an input: what follows from them waits for the next one
    assert (follower.take(), leader.take()) == (None, None)
    follower.tick(AFTER)
    leader.propose(EntryKind.BLOCK, b"", AFTER)
    for member in (follower, leader):
        check_raft(member)
        member._stirred = False
        with pytest.raises(InvariantBroken, match="before the next input"):
            check_raft(member)


def test_learners_and_strangers_never_stand() -> None:
    for member in (raft("x", founding("a", learners=("x",))), raft("z"), Raft("a", TIMING, random.Random(0), Restored(), START)):
        for tick in range(5):
            member.tick(AFTER + 10 * tick)
            assert member.role is Role.FOLLOWER
            assert member.take() is None


def test_a_member_that_has_no_room_for_a_vote_does_not_stand_until_it_has() -> None:
    member = raft("a")
    member.receive("b", Append(2, 1, 1, 0, 1, 0, ()), START)
    do(member, START)
    member.mute = True
    member.disconnected("b", AFTER)
    member.receive("b", TimeoutNow(2), AFTER)
    for number in range(20):
        member.tick(AFTER + number)
        assert do(member, AFTER + number).messages == []
    assert (member.role, member.term, member.vote) == (Role.FOLLOWER, 2, None)
    member.mute = False
    elected(member, AFTER + 20)


def test_a_single_voter_that_has_no_room_for_a_vote_leads_when_it_has() -> None:
    restored = Restored(HardState(1), None, (founding("a"),), mute=True)
    member = Raft("a", TIMING, random.Random(1), restored, START)
    member.tick(AFTER)
    assert (member.take(), member.role, member.term) == (None, Role.FOLLOWER, 1)
    member.mute = False
    member.tick(AFTER + 10)
    do(member, AFTER + 10)
    assert member.role is Role.LEADER


def test_another_incarnation_of_a_voter_never_stands() -> None:
    known = Restored(HardState(1), None, (FIRST,))
    for incarnation, role in ((ord("a"), Role.PRE_CANDIDATE), (999, Role.FOLLOWER)):
        member = Raft("a", TIMING, random.Random(0), known, START, incarnation)
        member.tick(AFTER)
        assert member.role is role


def test_a_member_without_a_log_does_not_vote() -> None:
    member = Raft("a", TIMING, random.Random(0), Restored(), START)
    member.receive("b", Vote(5, 9, 4), AFTER)
    assert member.take() is None
    assert member.term == 0


def test_a_learner_that_does_not_know_of_its_promotion_votes() -> None:
    member = raft("x", founding("a", "b", learners=("x",)))
    member.receive("a", Vote(2, 3, 1), AFTER)
    assert do(member, AFTER).messages == [("a", VoteReply(2, granted=True))]


def test_a_removed_member_with_an_old_log_disturbs_nobody() -> None:
    member = raft("a", founding("a", "b"), block(2, 1))
    for pre in (True, False):
        member.receive("gone", Vote(50, 1, 1, pre=pre), AFTER)
    assert member.take() is None
    assert member.term == 1


def test_a_member_that_missed_a_change_votes_for_a_new_voter_with_the_newer_log() -> None:
    member = raft("a")
    member.receive("d", Vote(2, 5, 1), AFTER)
    assert do(member, AFTER).messages == [("d", VoteReply(2, granted=True))], "its vote may be the one that is missing"


# -- promises -------------------------------------------------------------------------------------------------------------------------


def test_a_vote_inside_the_promise_is_ignored_and_raises_no_term() -> None:
    member = following("b")
    member.receive("c", Vote(9, 5, 5), AFTER + PROMISE - 0.001)
    assert member.take() is None
    assert (member.term, member.leader) == (1, "b")
    member.receive("c", Vote(9, 5, 5), AFTER + PROMISE)
    assert do(member, AFTER).messages == [("c", VoteReply(9, granted=True))]


def test_the_promise_does_not_bind_against_the_one_it_was_given_to() -> None:
    member = following("b")
    member.receive("b", Vote(2, 1, 1), AFTER + 0.01)
    assert do(member, AFTER).messages == [("b", VoteReply(2, granted=True))]


def test_an_election_the_leader_asked_for_is_exempt_from_promises() -> None:
    member = following("b")
    member.receive("c", Vote(2, 1, 1, transfer=True), AFTER)
    assert do(member, AFTER).messages == [("c", VoteReply(2, granted=True))]


def test_a_restarted_voter_begins_with_a_promise() -> None:
    member = raft("a")
    member.receive("b", Vote(2, 1, 1), START + PROMISE - 0.001)
    assert member.take() is None
    member.receive("b", Vote(2, 1, 1), START + PROMISE)
    assert do(member, START).messages == [("b", VoteReply(2, granted=True))]


def test_a_question_refused_only_for_the_promise_is_answered_when_it_runs_out() -> None:
    member = following("b")
    for _ in range(2):
        member.receive("c", Vote(2, 1, 1, pre=True), AFTER + 0.1)
    assert member.take() is None
    assert member.deadline == AFTER + PROMISE
    member.tick(AFTER + PROMISE)
    assert do(member, AFTER).messages == [("c", VoteReply(2, granted=True, pre=True))]


def test_a_held_question_is_dropped_when_the_leader_is_heard_again() -> None:
    member = following("b")
    member.receive("c", Vote(2, 1, 1, pre=True), AFTER + 0.1)
    member.receive("b", beat(round_=2), AFTER + 0.12)
    do(member, AFTER)
    member.tick(AFTER + 0.5)
    assert member.take() is None


def test_a_question_with_an_old_log_is_refused_at_once_also_inside_the_promise() -> None:
    member = following("b")
    member.receive("c", Vote(2, 0, 0, pre=True), AFTER)
    assert do(member, AFTER).messages == [("c", VoteReply(1, granted=False, pre=True))]


def test_voters_that_lost_the_leader_stand_one_after_the_other_behind_the_promise() -> None:
    first, second = following("c"), raft("b")
    second.receive("c", beat(), AFTER)
    do(second, AFTER)
    for member in (first, second):
        member.disconnected("c", AFTER + 0.02)
    assert AFTER + PROMISE <= first.deadline <= AFTER + 1.1 * PROMISE
    assert AFTER + 1.3 * PROMISE <= second.deadline <= AFTER + 1.4 * PROMISE
    first.tick(first.deadline)
    assert first.role is Role.PRE_CANDIDATE


def test_a_leader_that_comes_back_or_is_heard_puts_off_the_early_election() -> None:
    member = following("b")
    member.disconnected("b", AFTER)
    member.receive("b", beat(round_=2), AFTER + 0.1)
    assert member.deadline >= AFTER + 0.1 + PROMISE
    member.connected("b", AFTER + 0.1)
    assert member.deadline >= AFTER + ELECTION * 2 / 3


def test_an_early_election_comes_once_per_election_timeout() -> None:
    member = following("b")
    member.disconnected("b", AFTER)
    early = member.deadline
    member.tick(early)
    member.receive("b", beat(round_=2), early)
    member.disconnected("b", early + 0.01)
    assert member.deadline >= early + ELECTION * 2 / 3


def test_one_who_grants_a_question_does_not_stand_early_itself() -> None:
    member = following("c")
    member.disconnected("c", AFTER)
    member.receive("b", Vote(2, 1, 1, pre=True), AFTER + PROMISE)
    do(member, AFTER)
    assert member.deadline >= AFTER + ELECTION * 2 / 3


def test_a_leader_with_a_quorum_behind_it_ignores_candidates() -> None:
    member = elected(raft("a"))
    acknowledge(member, "b")
    for pre in (True, False):
        member.receive("c", Vote(9, 9, 9, pre=pre), AFTER + PROMISE - 0.01)
    assert member.take() is None
    assert (member.role, member.term) == (Role.LEADER, 2)


def test_a_crashed_leader_is_replaced_soon_after_its_promise() -> None:
    for seed in range(10):
        cluster = Cluster("abcde"[: 3 + seed % 2 * 2], seed, delay=0.001)
        cluster.run(4)
        old = cluster.leader
        assert old is not None
        cluster.crash(old.name)
        cluster.run(0.35)
        assert cluster.leader is not None, f"seed {seed}"
        assert cluster.leader.name != old.name


@pytest.mark.parametrize("seed", range(5))
def test_flapping_connections_do_not_depose_a_leader(seed: int) -> None:
    cluster = Cluster("abc", seed, delay=0.001)
    cluster.run(4)
    leader = cluster.leader
    assert leader is not None
    term = leader.term
    for _ in range(100):
        who = cluster.rng.choice([name for name in "abc" if name != leader.name])
        cluster.tell(cluster.members[who], lambda raft, now: raft.disconnected(leader.name, now))
        cluster.run(cluster.rng.uniform(0, 0.3))
    assert (leader.term, leader.role) == (term, Role.LEADER)


@pytest.mark.parametrize("seed", range(5))
def test_a_half_broken_switch_raises_no_terms(seed: int) -> None:
    cluster = Cluster("abc", seed, delay=0.001)
    cluster.run(4)
    leader = cluster.leader
    assert leader is not None
    other = next(name for name in "abc" if name != leader.name)
    cluster.cut |= {(leader.name, other), (other, leader.name)}
    cluster.run(30)
    assert leader.role is Role.LEADER
    assert {member.raft.term for member in cluster.members.values() if member.raft} == {leader.term}


# -- handing over ---------------------------------------------------------------------------------------------------------------------


def test_leadership_goes_to_the_best_matched_voter_once_it_has_everything() -> None:
    member = elected(raft("a", founding("a", "b", "c", learners=("x",))))
    acknowledge(member, "c", "x")
    member.propose(EntryKind.BLOCK, b"", AFTER)
    do(member, AFTER)
    acknowledge(member, "x")
    member.transfer(None, AFTER)
    assert not [message for _, message in do(member, AFTER).messages if isinstance(message, TimeoutNow)]
    assert ("c", TimeoutNow(2)) in acknowledge(member, "c").messages


def test_nothing_is_proposed_during_a_transfer_and_it_is_given_up_after_an_election_timeout() -> None:
    member = elected(raft("a"))
    acknowledge(member, "b")
    member.transfer("c", AFTER)
    assert not member.can_propose
    assert member.propose(EntryKind.BLOCK, b"", AFTER) is None
    now = AFTER
    while not member.can_propose:
        now += TIMING.heartbeat
        member.tick(now)
        do(member, now)
        acknowledge(member, "b", now=now)
    assert AFTER + ELECTION <= now <= AFTER + ELECTION + 0.2
    assert member.lease_until == 0.0, "no lease for the rest of the term"


def test_leadership_goes_to_voters_only() -> None:
    member = elected(raft("a", founding("a", "b", "c", learners=("x",))))
    for name in ("x", "a", "nobody"):
        with pytest.raises(ValueError, match="can go to one of b, c"):
            member.transfer(name, AFTER)


def test_the_heir_stands_at_once_without_asking() -> None:
    member = following("b")
    member.receive("b", TimeoutNow(1), AFTER)
    assert do(member, AFTER).messages == [("b", Vote(2, 1, 1, transfer=True)), ("c", Vote(2, 1, 1, transfer=True))]


def test_a_call_to_stand_from_another_term_or_another_member_is_ignored() -> None:
    member = following("b")
    member.receive("c", TimeoutNow(1), AFTER)
    member.receive("b", TimeoutNow(0), AFTER)
    assert (member.role, member.term) == (Role.FOLLOWER, 1)


def test_a_transfer_moves_leadership_within_a_few_messages() -> None:
    cluster = Cluster("abc", 3, delay=0.001)
    cluster.run(4)
    old = cluster.leader
    assert old is not None
    cluster.tell(cluster.members[old.name], lambda raft, now: raft.transfer(None, now))
    cluster.run(0.05)
    assert cluster.leader is not None
    assert cluster.leader.name != old.name


# -- the state it starts from ---------------------------------------------------------------------------------------------------------


def test_a_contradictory_disk_is_refused() -> None:
    snapshot = SnapshotMeta(5, 2, configuration("a"))
    for restored in (
        Restored(HardState(1), None, (FIRST, block(2, 2))),
        Restored(HardState(2), None, (FIRST,), commit=2),
        Restored(HardState(2), snapshot, (block(7, 2),)),
        Restored(HardState(2), snapshot, (block(5, 1), block(6, 2))),
        Restored(HardState(2), None, (FIRST, block(3, 2))),
    ):
        with pytest.raises(InvariantBroken):
            Raft("a", TIMING, random.Random(0), restored, START)


def test_malformed_appends_are_ignored() -> None:
    member = raft("a")
    for entries in ((block(3, 1),), (block(2, 1), block(2, 1)), (block(2, 9),), (block(2, 5), block(3, 4))):
        member.receive("b", Append(5, 1, 1, 0, 1, 0, entries), AFTER)
    assert member.take() is None
    assert member.term == 1
