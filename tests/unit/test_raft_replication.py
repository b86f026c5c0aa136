"""Replication, commit, reads, configurations and snapshots, claim by claim."""

from __future__ import annotations

import pytest
from raft_harness import AFTER, START, TIMING, Cluster, acknowledge, block, configuration, do, elected, founding, raft

from replkv import codec
from replkv.errors import InvariantBroken
from replkv.messages import (
    Append,
    AppendReply,
    Configuration,
    Entry,
    EntryKind,
    ReadIndex,
    ReadIndexReply,
    SnapshotMeta,
    Vote,
)
from replkv.progress import INFLIGHT, Pace
from replkv.raft import Raft, Ready, Role

FIRST = founding("a", "b", "c")
ABC = configuration("a", "b", "c")


def appends(ready: Ready, to: str) -> list[Append]:
    return [message for name, message in ready.messages if name == to and isinstance(message, Append)]


def changing(index: int, term: int, new: Configuration) -> Entry:
    return codec.make_entry(index, term, EntryKind.CONFIGURATION, 0, codec.encode_configuration(new))


def beat(term: int, prev: tuple[int, int], *entries: Entry, commit: int = 0, round_: int = 1, time: int = 0) -> Append:
    return Append(term, *prev, commit, round_, time, entries)


def leading(*names: str) -> Raft:
    """Leader a of term 2, its first entry acknowledged by ``names``."""
    member = elected(raft("a"))
    acknowledge(member, *names)
    return member


# -- commit ---------------------------------------------------------------------------------------------------------------------------


def test_an_entry_is_committed_once_a_majority_holds_it_and_told_at_once() -> None:
    member = elected(raft("a"))
    assert member.commit == 0
    ready = acknowledge(member, "b")
    assert member.commit == 2
    assert [entry.index for entry in ready.committed] == [1, 2]
    assert [append.commit for append in appends(ready, "b")] == [2]


def test_entries_of_older_terms_are_committed_only_through_one_of_the_own_term() -> None:
    """Figure 8 of the paper: entry 2 of term 2 is on a majority, and may still be lost."""
    member = elected(raft("a", FIRST, block(2, 2), term=3))
    acknowledge(member, "b", match=2)
    assert member.commit == 0
    acknowledge(member, "b", match=3)
    assert member.commit == 3


def test_the_leader_does_not_count_itself_before_its_disk_is_done() -> None:
    member = leading("b")
    member.propose(EntryKind.BLOCK, b"x", AFTER)
    ready = member.take()
    assert ready is not None
    assert appends(ready, "b"), "Appends leave before the own disk is done"
    member.receive("b", AppendReply(2, 1, 3), AFTER)
    assert member.commit == 2
    member.synced(3, 2, AFTER)
    assert member.commit == 3


def test_a_completion_for_a_replaced_entry_counts_for_nothing() -> None:
    member = raft("a")
    member.receive("b", beat(2, (1, 1), block(2, 2)), AFTER)
    member.take()
    member.receive("c", beat(3, (1, 1), block(2, 3)), AFTER)
    member.take()
    member.synced(2, 2, AFTER)
    assert member.durable_index == 1


def test_a_follower_commits_no_further_than_the_entries_it_has_compared() -> None:
    member = raft("a", FIRST, block(2, 2), block(3, 2), block(4, 2))
    member.receive("b", beat(3, (1, 1), block(2, 2), commit=4), AFTER)
    assert member.commit == 2
    member.receive("b", beat(3, (1, 1), commit=1), AFTER)
    assert member.commit == 2, "commit never goes back"


def test_learners_are_not_counted() -> None:
    member = elected(raft("a", founding("a", "b", "c", learners=("x", "y"))))
    acknowledge(member, "x", "y")
    assert member.commit == 0


def test_no_more_than_a_window_of_own_entries_waits() -> None:
    member = leading("b", "c")
    proposed = 0
    while member.propose(EntryKind.BLOCK, b"", AFTER):
        proposed += 1
    assert proposed == 4
    assert not member.can_propose
    do(member, AFTER)
    acknowledge(member, "b")
    assert member.can_propose


def test_a_follower_knows_whether_it_has_all_that_it_was_told_is_decided() -> None:
    member = raft("b")
    assert member.lags
    member.receive("a", beat(2, (1, 1), block(2, 2), commit=4), AFTER)
    assert (member.commit, member.lags) == (2, True)
    member.receive("a", beat(2, (2, 2), block(3, 2), block(4, 2), commit=4, round_=2), AFTER)
    assert (member.commit, member.lags) == (4, False)


def test_a_configuration_does_not_wait_for_room_in_a_window_that_blocks_keep_full() -> None:
    member = leading("b", "c")
    do(member, AFTER)
    acknowledge(member, "b")
    while member.propose(EntryKind.BLOCK, b"", AFTER):
        pass
    assert propose(member, configuration("a", "b")) == member.last_index


# -- the log of a follower --------------------------------------------------------------------------------------------------------------


def test_an_append_that_does_not_fit_is_refused_with_a_hint() -> None:
    member = raft("a", FIRST, block(2, 2), block(3, 2))
    member.receive("b", beat(9, (7, 8)), AFTER)
    assert do(member, AFTER).messages == [("b", AppendReply(9, 1, 0, True, 3, 2))]
    member.receive("b", beat(9, (3, 1)), AFTER)
    assert do(member, AFTER).messages == [("b", AppendReply(9, 1, 0, True, 1, 1))]


def test_a_conflict_replaces_the_rest_of_the_log() -> None:
    member = raft("a", FIRST, block(2, 2), block(3, 2), block(4, 2))
    member.receive("b", beat(3, (1, 1), block(2, 2), block(3, 3)), AFTER)
    ready = do(member, AFTER)
    assert ready.entries == [block(3, 3)]
    assert (member.last_index, ready.messages[-1]) == (3, ("b", AppendReply(3, 1, 3)))


def test_an_older_append_does_not_truncate_what_came_after_it() -> None:
    member = raft("a")
    member.receive("b", beat(2, (1, 1), block(2, 2), block(3, 2)), AFTER)
    member.receive("b", beat(2, (1, 1), block(2, 2)), AFTER)
    member.receive("b", beat(2, (1, 1)), AFTER)
    assert member.last_index == 3


def test_an_append_from_before_the_commit_is_answered_with_it_and_truncates_nothing() -> None:
    member = raft("a", FIRST, block(2, 2), block(3, 2))
    member.receive("b", beat(2, (3, 2), commit=3), AFTER)
    do(member, AFTER)
    member.receive("b", beat(2, (1, 1), block(2, 2)), AFTER)
    assert do(member, AFTER).messages == [("b", AppendReply(2, 1, 3))]
    member.receive("b", beat(2, (2, 2), block(3, 2), block(4, 2)), AFTER)
    assert do(member, AFTER).messages == [("b", AppendReply(2, 1, 4))]


def test_an_append_that_contradicts_a_committed_entry_stops_the_member() -> None:
    for append in (beat(5, (1, 1), block(2, 3)), beat(5, (2, 3))):
        member = raft("a", FIRST, block(2, 2))
        member.receive("b", beat(2, (2, 2), commit=2), AFTER)
        with pytest.raises(InvariantBroken, match="committed"):
            member.receive("b", append if append.entries == () else beat(5, (1, 1), block(2, 3), block(3, 3)), AFTER)


def test_acknowledgements_leave_after_the_disk_and_not_at_all_once_a_newer_term_is_known() -> None:
    member = raft("a")
    member.receive("b", beat(2, (1, 1), block(2, 2)), AFTER)
    member.receive("c", beat(3, (1, 1), block(2, 3)), AFTER)
    ready = member.take()
    assert ready is not None
    assert ready.entries == [block(2, 3)]
    assert (ready.messages, ready.after_sync) == ([], [("c", AppendReply(3, 1, 2))])


# -- a leader and its followers ----------------------------------------------------------------------------------------------------------


def test_a_stale_answer_moves_nothing_back() -> None:
    member = leading("b")
    member.receive("b", AppendReply(2, 1, 1), AFTER)
    member.receive("b", AppendReply(2, 1, 0, True, 0, 0), AFTER)
    member.receive("b", AppendReply(1, 9, 1), AFTER)
    peer = member.peers["b"]
    assert (peer.match, peer.acked_round) == (2, 1)
    assert peer.next > peer.match


def test_answers_to_nothing_this_leader_sent_are_ignored() -> None:
    member = elected(raft("a"))
    member.receive("b", AppendReply(2, 1, 77), AFTER)
    member.receive("b", AppendReply(2, 99, 2), AFTER)
    assert (member.peers["b"].match, member.peers["b"].acked_round, member.commit) == (0, 0, 0)


def test_a_follower_far_behind_is_found_in_one_answer() -> None:
    member = elected(raft("a", FIRST, *[block(index, 2) for index in range(2, 500)]))
    member.receive("b", AppendReply(3, 1, 0, True, 7, 2), AFTER)
    (append,) = appends(do(member, AFTER), "b")
    assert (append.prev_index, append.entries[0].index, append.entries[-1].index) == (7, 8, 500 - 1 + 1)


def test_a_diverged_follower_is_asked_about_whole_terms() -> None:
    member = elected(raft("a", FIRST, block(2, 2), *[block(index, 5) for index in range(3, 100)]))
    member.receive("b", AppendReply(6, 1, 0, True, 80, 4), AFTER)
    (append,) = appends(do(member, AFTER), "b")
    assert append.prev_index == 2


def test_an_unanswered_probe_is_repeated_by_heartbeats_only_and_without_entries() -> None:
    member = elected(raft("a"))
    for _ in range(3):
        member.propose(EntryKind.BLOCK, b"x", AFTER)
        assert appends(do(member, AFTER), "b") == []
    member.tick(AFTER + TIMING.heartbeat)
    (append,) = appends(do(member, AFTER), "b")
    assert (append.prev_index, append.entries) == (1, ())


def test_only_a_few_appends_are_ahead_of_the_answers_and_a_lost_one_is_found_by_heartbeat() -> None:
    member = leading("b", "c")
    sent = []
    for _ in range(6):
        member.propose(EntryKind.BLOCK, b"x", AFTER)
        sent += [append for append in appends(do(member, AFTER), "c") if append.entries]
        acknowledge(member, "b")
    assert len(sent) == INFLIGHT
    member.receive("c", AppendReply(2, member._lead.rounds.current if member._lead else 0, 0, True, 2, 2), AFTER)
    (append,) = appends(do(member, AFTER), "c")
    assert [entry.index for entry in append.entries] == [3, 4, 5, 6, 7, 8]


def test_appends_are_bounded_in_bytes() -> None:
    big = [block(index, 2, bytes(3 << 20)) for index in range(2, 5)]
    member = elected(raft("a", FIRST, *big))
    member.receive("b", AppendReply(3, 1, 1), AFTER)
    member.receive("b", AppendReply(3, 1, 0, True, 1, 1), AFTER)
    (probe,) = appends(do(member, AFTER), "b")
    assert [entry.index for entry in probe.entries] == [2]


def test_appends_are_bounded_in_entries_and_pipelined_once_the_logs_agree() -> None:
    member = elected(raft("a", FIRST, *[block(index, 2) for index in range(2, 10_000)]))
    member.receive("b", AppendReply(3, 1, 0, True, 1, 1), AFTER)
    (probe,) = appends(do(member, AFTER), "b")
    codec.encode_frame(bytes(16), 1, 2, probe)
    member.receive("b", AppendReply(3, probe.round, probe.entries[-1].index), AFTER)
    assert sum(len(append.entries) for append in appends(do(member, AFTER), "b")) == 10_000 - len(probe.entries) - 1


def test_a_lost_connection_stops_the_stream_and_a_new_one_restarts_it() -> None:
    member = leading("b", "c")
    member.propose(EntryKind.BLOCK, b"x", AFTER)
    do(member, AFTER)
    member.disconnected("c", AFTER)
    member.propose(EntryKind.BLOCK, b"y", AFTER)
    assert appends(do(member, AFTER), "c") == []
    member.connected("c", AFTER)
    (append,) = appends(do(member, AFTER), "c")
    assert [entry.index for entry in append.entries] == [3, 4]


# -- reads and leases ---------------------------------------------------------------------------------------------------------------------


def test_a_read_is_confirmed_by_a_round_begun_after_it() -> None:
    member = leading("b")
    member.read(7, AFTER)
    member.receive("b", AppendReply(2, member._lead.rounds.current if member._lead else 0, 2), AFTER)
    ready = do(member, AFTER)
    assert ready.reads == [], "an acknowledgement of an older round proves nothing about now"
    assert len(appends(ready, "b")) == len(appends(ready, "c")) == 1
    assert acknowledge(member, "c").reads == [(7, 2)]


def test_reads_wait_for_the_first_commit_of_the_leaders_term() -> None:
    member = elected(raft("a"))
    member.read(7, AFTER)
    member.receive("c", ReadIndex(2, 8), AFTER)
    assert acknowledge(member, "b", match=1).reads == []
    acknowledge(member, "b")
    ready = acknowledge(member, "b")
    assert ready.reads == [(7, 2)]
    assert ("c", ReadIndexReply(2, 8, 2)) in ready.messages


def test_reads_of_a_leader_that_steps_down_are_lost() -> None:
    member = leading("b")
    member.read(7, AFTER)
    do(member, AFTER)
    member.read(8, AFTER)
    member.receive("c", ReadIndex(2, 9), AFTER)
    member.receive("c", AppendReply(5, 0, rejected=True), AFTER)
    ready = do(member, AFTER)
    assert ready.lost_reads == [8, 7]
    assert ("c", ReadIndexReply(2, 9, 0)) in ready.messages


def test_a_follower_asks_its_leader_and_takes_its_answer_once() -> None:
    member = raft("a")
    member.read(1, AFTER)
    assert do(member, AFTER).lost_reads == [1], "no leader is known"
    member.receive("b", beat(1, (1, 1)), AFTER)
    member.read(2, AFTER)
    assert ("b", ReadIndex(1, 2)) in do(member, AFTER).messages
    for _ in range(2):
        member.receive("b", ReadIndexReply(1, 2, 1), AFTER)
    assert do(member, AFTER).reads == [(2, 1)]


def test_a_followers_reads_are_lost_with_its_leader_and_when_no_answer_comes() -> None:
    member = raft("a")
    member.receive("b", beat(1, (1, 1)), AFTER)
    member.read(1, AFTER)
    member.read(2, AFTER)
    member.receive("b", ReadIndexReply(1, 1, 0), AFTER)
    assert do(member, AFTER).lost_reads == [1]
    member.receive("c", beat(2, (1, 1)), AFTER)
    assert do(member, AFTER).lost_reads == [2]
    member.read(3, AFTER)
    do(member, AFTER)
    member.tick(member.deadline)
    assert do(member, AFTER).lost_reads == [3]


def test_a_member_that_does_not_lead_says_so_to_readers() -> None:
    member = raft("a")
    member.receive("b", ReadIndex(1, 4), AFTER)
    assert do(member, AFTER).messages == [("b", ReadIndexReply(1, 4, 0))]


def test_the_lease_runs_from_the_sending_of_the_round_and_less_than_the_promise() -> None:
    member = leading("b")
    member.tick(AFTER + 0.1)
    do(member, AFTER + 0.1)
    acknowledge(member, "c", now=AFTER + 0.14)
    assert member.lease_until == pytest.approx(AFTER + 0.1 + TIMING.promise * 0.99)


def test_there_is_no_lease_before_the_first_commit_of_the_term() -> None:
    member = elected(raft("a"))
    acknowledge(member, "b", match=1)
    assert member.lease_until == 0.0
    acknowledge(member, "b")
    assert member.lease_until > AFTER


def test_there_is_no_lease_once_leadership_was_offered_and_none_without_it() -> None:
    member = leading("b")
    member.transfer("c", AFTER)
    assert member.lease_until == 0.0
    assert raft("b").lease_until == 0.0


# -- configurations -----------------------------------------------------------------------------------------------------------------------


def propose(member: Raft, new: Configuration) -> int | None:
    return member.propose(EntryKind.CONFIGURATION, codec.encode_configuration(new), AFTER)


def test_a_configuration_counts_from_its_append_and_falls_back_with_it() -> None:
    member = raft("a")
    new = configuration("a", "b")
    member.receive("b", beat(2, (1, 1), changing(2, 2, new)), AFTER)
    assert member.configuration == new
    member.receive("c", beat(3, (1, 1), block(2, 3)), AFTER)
    assert member.configuration == ABC


def test_a_leader_changes_one_thing_at_a_time_and_not_before_its_own_entry_is_committed() -> None:
    member = elected(raft("a"))
    new = configuration("a", "b", "c", learners=("x",))
    assert propose(member, new) is None
    acknowledge(member, "b")
    assert propose(member, new) == 3
    assert propose(member, ABC) is None
    ready = do(member, AFTER)
    assert appends(ready, "x")[0].prev_index == 3, "a new member is probed at once"
    acknowledge(member, "b")
    assert propose(member, ABC) == 4


def test_a_jump_between_configurations_is_a_mistake_of_the_caller() -> None:
    member = leading("b")
    with pytest.raises(ValueError, match="one voter at a time"):
        propose(member, configuration("a", "d", "e"))
    with pytest.raises(ValueError, match="founded once"):
        member.propose(EntryKind.FOUNDING, FIRST.payload, AFTER)


def test_a_joint_configuration_needs_both_majorities() -> None:
    member = leading("b", "c")
    assert propose(member, configuration("a", "d", "e", outgoing=("a", "b", "c"))) == 3
    do(member, AFTER)
    acknowledge(member, "b", "c")
    assert member.commit == 2
    acknowledge(member, "d")
    assert member.commit == 3


def test_a_leader_that_removes_itself_leads_until_that_is_committed_without_counting_itself() -> None:
    member = leading("b", "c")
    propose(member, configuration("b", "c"))
    do(member, AFTER)
    acknowledge(member, "b")
    assert (member.role, member.commit) == (Role.LEADER, 2)
    ready = acknowledge(member, "c")
    assert (member.role, member.commit) == (Role.FOLLOWER, 3)
    assert appends(ready, "b")[-1].commit == 3


def test_a_leader_cut_off_while_removing_itself_may_be_needed_once_more() -> None:
    member = raft("a", founding("a", "b"), changing(2, 2, configuration("b")))
    member.tick(AFTER)
    assert do(member, AFTER).messages == [("b", Vote(3, 2, 2, pre=True))]


def test_those_who_are_removed_still_learn_of_it() -> None:
    member = leading("b", "c")
    propose(member, configuration("a", "b"))
    assert appends(do(member, AFTER), "c")[-1].entries[-1].kind is EntryKind.CONFIGURATION
    assert appends(acknowledge(member, "b"), "c")[-1].commit == 3
    assert list(member.peers) == ["b"]


def test_another_incarnation_inherits_nothing() -> None:
    member = leading("b", "c")
    propose(member, configuration("a", "b"))
    do(member, AFTER)
    acknowledge(member, "b")
    propose(member, Configuration(("a", "b"), (), ("c",), {"a": ord("a"), "b": ord("b"), "c": 999}))
    assert (member.peers["c"].match, member.peers["c"].incarnation) == (0, 999)


# -- snapshots ----------------------------------------------------------------------------------------------------------------------------


def test_a_trimmed_log_still_knows_the_term_of_its_base() -> None:
    member = leading("b", "c")
    member.trim(2, SnapshotMeta(2, 2, ABC))
    assert member._log.term_at(2) == 2
    assert member._log.term_at(1) is None
    with pytest.raises(InvariantBroken, match="trim"):
        member.trim(9, SnapshotMeta(9, 2, ABC))


def test_a_peer_behind_the_log_is_sent_a_snapshot_and_taken_back_when_it_has_it() -> None:
    member = leading("b")
    member.trim(2, SnapshotMeta(2, 2, ABC))
    member.receive("c", AppendReply(2, 1, 0, True, 1, 1), AFTER)
    ready = do(member, AFTER)
    assert ready.snapshots == ["c"]
    assert member.peers["c"].pace is Pace.SNAPSHOT
    member.propose(EntryKind.BLOCK, b"x", AFTER)
    member.tick(AFTER + 0.1)
    (append,) = appends(do(member, AFTER), "c")
    assert (append.prev_index, append.entries) == (2, ())
    member.receive("c", AppendReply(2, append.round, 0, True, 1, 1), AFTER)
    assert do(member, AFTER).snapshots == [], "it is on its way"
    member.receive("c", AppendReply(2, append.round, 2), AFTER)
    (append,) = appends(do(member, AFTER), "c")
    assert [entry.index for entry in append.entries] == [3]


def test_a_failed_snapshot_is_tried_again_after_the_peer_was_heard() -> None:
    member = leading("b")
    member.trim(2, SnapshotMeta(2, 2, ABC))
    member.receive("c", AppendReply(2, 1, 0, True, 1, 1), AFTER)
    do(member, AFTER)
    member.snapshot_failed("c")
    assert do(member, AFTER).snapshots == []
    member.tick(AFTER + 0.1)
    (append,) = appends(do(member, AFTER), "c")
    member.receive("c", AppendReply(2, append.round, 0, True, 1, 1), AFTER + 0.1)
    assert do(member, AFTER).snapshots == ["c"]


@pytest.mark.parametrize("base", [0, 200])
def test_a_full_follower_is_asked_once_per_heartbeat_and_not_searched_for(base: int) -> None:
    """It refuses everything, whether the logs agree or not: the leader went back one entry per answer, with megabytes each time."""
    entries = [block(index, 1, bytes(100)) for index in range(max(base, 2), 300)]
    snapshot = SnapshotMeta(base, 1, ABC) if base else None
    log = entries if base else [FIRST, *entries]
    leader, follower = elected(raft("a", *log, snapshot=snapshot)), raft("b", *log, snapshot=snapshot)
    follower.full = True
    sent: list[Append] = []
    for beats in range(40):
        now = AFTER + beats / 10
        leader.tick(now)
        acknowledge(leader, "c", now=now)
        if beats == 20:
            leader.connected("b", now)
        ready = do(leader, now)
        while asked := appends(ready, "b"):
            assert ready.snapshots == []
            sent += asked
            for append in asked:
                follower.receive("a", append, now)
            for name, message in do(follower, now).messages:
                assert name == "a"
                leader.receive("b", message, now)
            ready = do(leader, now)
    assert len(sent) < 45
    assert sum(len(append.entries) for append in sent) < 5
    follower.full = False
    for beats in range(2):
        leader.tick(AFTER + 4.1 + beats / 10)
        while asked := appends(do(leader, AFTER + 5), "b"):
            for append in asked:
                follower.receive("a", append, AFTER + 5)
            for _, message in do(follower, AFTER + 5).messages:
                leader.receive("b", message, AFTER + 5)
    assert follower.last_index == leader.last_index == leader.peers["b"].match


def test_no_snapshot_is_sent_to_a_peer_that_is_gone() -> None:
    member = leading("b")
    member.trim(2, SnapshotMeta(2, 2, ABC))
    for beats in range(1, 5):
        member.tick(AFTER + beats / 10)
        ready = do(member, AFTER)
        assert ready.snapshots == []
        assert appends(ready, "c")[0].prev_index == 2


def test_an_installed_snapshot_replaces_log_commit_and_configuration() -> None:
    member = raft("a")
    new = configuration("a", "b", "d")
    meta = SnapshotMeta(10, 4, new)
    assert member.wants(meta)
    member.install(meta, AFTER, 5_000_000)
    assert (member.commit, member.last_index, member.durable_index, member.term) == (10, 10, 10, 4)
    assert (member.configuration, member.time) == (new, 5_000_000)
    member.receive("b", beat(4, (10, 4), block(11, 4), commit=11), AFTER)
    assert [entry.index for entry in do(member, AFTER).committed] == [11]


def test_a_snapshot_that_brings_nothing_is_not_wanted_and_not_installed() -> None:
    member = raft("a", FIRST, block(2, 2), block(3, 2))
    assert not member.wants(SnapshotMeta(2, 2, ABC)), "installing it would forget entry 3, which may have been acknowledged"
    assert member.wants(SnapshotMeta(2, 3, ABC))
    with pytest.raises(InvariantBroken, match="snapshot at 2"):
        member.install(SnapshotMeta(2, 2, ABC), AFTER)


def test_a_member_restarts_from_a_snapshot_with_and_without_older_entries() -> None:
    meta = SnapshotMeta(3, 2, configuration("a", "b"))
    bare = raft("a", snapshot=meta)
    assert (bare.commit, bare.last_index, bare.configuration) == (3, 3, meta.configuration)
    trailing = raft("a", block(2, 2), block(3, 2), block(4, 2), snapshot=meta)
    assert (trailing._log.base_index, trailing._log.base_term, trailing.last_index) == (2, 2, 4)
    assert trailing.configuration == meta.configuration
    stale = raft("a", FIRST, block(2, 2), snapshot=meta)
    assert (stale._log.base_index, stale.last_index) == (3, 3)


# -- cluster time -----------------------------------------------------------------------------------------------------------------------


def test_cluster_time_passes_with_the_leaders_clock_but_a_stall_adds_two_heartbeats_at_most() -> None:
    member = leading("b", "c")
    before = member.time
    member.tick(AFTER + 0.05)
    assert member.time == pytest.approx(before + 50_000, abs=2)
    member.tick(AFTER + 100)
    assert member.time == pytest.approx(before + 250_000, abs=2)


def test_a_new_leader_goes_on_from_the_newest_stamp_by_its_own_clock() -> None:
    member = raft("a")
    member.receive("b", beat(1, (1, 1), time=7_000_000), AFTER)
    elected(member, AFTER + 2)
    assert member.time == pytest.approx(9_000_000, abs=2)
    assert member._log.last_time == member.time


def test_cluster_time_survives_a_restart_behind_a_snapshot() -> None:
    cluster = Cluster("abc", 1)
    cluster.run(5)
    for name in "abc":
        cluster.propose(name)
    cluster.run(1)
    for name in "abc":
        cluster.snapshot(name, 0)
        cluster.crash(name)
    for name in "abc":
        cluster.start(name)
    cluster.heal()
    cluster.run(3)
    assert cluster.leader is not None
    times = [cluster.committed[index].time for index in sorted(cluster.committed)]
    assert times == sorted(times)
    assert START < AFTER


def test_a_follower_with_another_entry_at_the_base_is_not_taken_for_full_but_sent_a_snapshot_as_soon_as_there_is_one() -> None:
    """The leader, who knows no more of its log, took that for agreement, and asked the same question with every heartbeat for ever."""
    leader = elected(raft("a", block(3, 2), snapshot=SnapshotMeta(2, 2, ABC)))
    follower = raft("b", FIRST, block(2, 1), block(3, 1))
    snapshots: list[str] = []
    for beats in range(6):
        now = AFTER + beats / 10
        leader.tick(now)
        ready = do(leader, now)
        for name in ready.snapshots:
            snapshots.append(name)
            leader.snapshot_failed(name)  # another one is being written
        for append in appends(ready, "b"):
            follower.receive("a", append, now)
        for _, message in do(follower, now).messages:
            leader.receive("b", message, now)
    assert len(snapshots) > 1
