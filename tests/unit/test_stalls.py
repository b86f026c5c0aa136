"""Members that stand still: what they count, what they say, and that nobody is taken for dead because of it."""

from __future__ import annotations

import asyncio
import logging
import re
from functools import partial
from pathlib import Path

import pytest
from raft_harness import AFTER, TIMING, Cluster, Member, acknowledge, do, elected, founding, raft

import replkv
from replkv import Closed, Replica
from replkv.aio import AsyncReplica
from replkv.messages import Append, Vote, VoteReply
from replkv.metrics import WARN_EVERY, Meter
from replkv.raft import Raft, Ready, Role
from replkv.testing import Cluster as VirtualCluster
from replkv.testing.network import SimTransport

FIRST = founding("a", "b", "c")
PROMISE, ELECTION = TIMING.promise, TIMING.election_timeout
STALL = 0.5
DIAL = SimTransport.dial
LONG = AFTER + 3.0
"""When a member goes on that stood still from ``AFTER`` on."""


def beat(term: int = 1, round_: int = 1) -> Append:
    return Append(term, 1, 1, 0, round_, 0)


def following() -> Raft:
    """Member a, which has just heard its leader b."""
    member = raft("a")
    member.receive("b", beat(), AFTER)
    do(member, AFTER)
    return member


def leading() -> Raft:
    """Member a, whose followers have just answered."""
    member = elected(raft("a"))
    acknowledge(member, "b", "c")
    assert member.lease_until > AFTER
    return member


# -- a follower -----------------------------------------------------------------------------------------------------------------------


def test_a_follower_that_stood_still_believes_in_its_leader_until_what_was_sent_meanwhile_can_be_read() -> None:
    member = following()
    member.tick(LONG, stalled=True)
    assert do(member, LONG).is_empty
    member.receive("b", beat(round_=2), LONG + 0.01)
    assert (member.role, member.leader, member.term) == (Role.FOLLOWER, "b", 1)
    assert member.deadline >= LONG + ELECTION * 2 / 3


def test_it_stands_one_promise_later_if_nothing_comes() -> None:
    member = following()
    member.tick(LONG, stalled=True)
    assert member.deadline == LONG + PROMISE
    member.tick(LONG + PROMISE, stalled=False)
    assert member.role is Role.PRE_CANDIDATE


def test_one_that_stands_still_again_and_again_waits_no_longer() -> None:
    member = following()
    member.tick(LONG, stalled=True)
    member.tick(LONG + 3.0, stalled=True)
    assert (member.role, member.leader) == (Role.PRE_CANDIDATE, None)


def test_each_sign_of_a_leader_gives_a_new_excuse() -> None:
    member, now = following(), AFTER
    for _ in range(5):
        now += 3.0
        member.tick(now, stalled=True)
        assert member.leader == "b"
        member.receive("b", beat(), now)


def test_a_short_stall_does_not_make_a_follower_less_patient() -> None:
    member = following()
    before = member.deadline
    member.tick(AFTER + 0.5, stalled=True)
    assert member.deadline == before


def test_a_follower_that_stood_still_does_not_stand_early_for_a_connection_that_was_lost_meanwhile() -> None:
    member = following()
    member.disconnected("b", LONG)
    member.tick(LONG, stalled=True)
    assert do(member, LONG).is_empty
    assert member.deadline >= LONG + PROMISE


def test_a_follower_that_stood_still_helps_nobody_until_it_knows_better_and_then_answers() -> None:
    member = following()
    member.tick(LONG, stalled=True)
    member.receive("c", Vote(2, 1, 1, pre=True), LONG + 0.01)
    assert do(member, LONG).is_empty
    member.tick(LONG + PROMISE)
    assert ("c", VoteReply(2, granted=True, pre=True)) in do(member, LONG + PROMISE).messages


# -- a leader -------------------------------------------------------------------------------------------------------------------------


def test_a_leader_that_stood_still_asks_once_more_without_a_lease_and_goes_on_if_it_is_answered() -> None:
    member = leading()
    term = member.term
    member.tick(LONG, stalled=True)
    assert [to for to, message in do(member, LONG).messages if isinstance(message, Append)] == ["b", "c"]
    assert (member.role, member.lease_until < LONG) == (Role.LEADER, True)
    acknowledge(member, "b", now=LONG + 0.01)
    member.tick(LONG + PROMISE * 2)
    assert (member.role, member.term) == (Role.LEADER, term)
    assert member.lease_until > LONG


def test_a_leader_that_is_not_answered_after_a_stall_steps_down_and_gets_no_second_excuse() -> None:
    member = leading()
    member.tick(LONG, stalled=True)
    assert member.role is Role.LEADER
    member.tick(LONG + PROMISE, stalled=True)
    assert (member.role, member.leader) == (Role.FOLLOWER, None)


# -- a cluster ------------------------------------------------------------------------------------------------------------------------


def pause(cluster: Cluster, names: str, seconds: float) -> None:
    """Let members stand still; what is sent to them comes a moment after they have gone on."""
    for name in names:
        member = cluster.members[name]
        assert member.busy is None
        member.busy = Ready()  # takes nothing in
        cluster.at(seconds, partial(go_on, cluster, member))


def go_on(cluster: Cluster, member: Member) -> None:
    assert member.raft is not None
    assert member.busy is not None
    member.busy, waiting = None, member.inbox
    member.inbox = []
    member.raft.tick(cluster.clock(member), stalled=True)
    cluster.carry_out(member)
    for happen in waiting:
        cluster.at(0.02, happen)


@pytest.mark.parametrize("seed", range(12))
def test_followers_that_stand_still_for_three_seconds_raise_no_term_and_depose_nobody(seed: int) -> None:
    cluster = Cluster("abc", seed)
    cluster.run(3.0)
    leader = cluster.leader
    assert leader is not None
    first, second = sorted({*"abc"} - {leader.name})
    for _ in range(4):
        pause(cluster, first if seed % 3 else first + second, 1.2 if seed % 3 == 0 else 3.0)  # no quorum: not for an election timeout
        cluster.run(4.0)
        cluster.propose(leader.name)
        cluster.run(1.0)
    assert {member.raft.term for member in cluster.members.values() if member.raft} == {leader.term}
    assert [(name, len(cluster.leaders)) for name in (leader.name,)] == [(cluster.leaders[leader.term], 1)]


@pytest.mark.parametrize("seed", range(12))
def test_members_that_all_stood_still_go_on_under_their_leader(seed: int) -> None:
    cluster = Cluster("abc", seed)
    cluster.run(3.0)
    leader = cluster.leader
    assert leader is not None
    pause(cluster, "abc", 30.0)
    cluster.run(33.0)
    cluster.propose(leader.name)
    cluster.run(1.0)
    assert leader.role is Role.LEADER
    assert len(cluster.leaders) == 1


def test_a_member_that_stands_still_in_virtual_time_says_so_and_keeps_its_leader() -> None:
    with VirtualCluster(seed=3) as cluster:
        leader = cluster.wait_for_leader()
        follower = next(member for member in cluster if member is not leader)
        leader.put("key", "1")
        before = leader.status().raft_term
        cluster.pause(follower.name, 3.0)
        cluster.advance(4.0)
        told = follower.metrics()
        assert told["stalls"] == 1
        assert 2.5 < told["longest_stall_seconds"] < 3.1
        assert told["stall_seconds"] == told["longest_stall_seconds"]
        assert (told["elections_started"], told["leader_changes"]) == (0, 0)
        assert {(member.status().raft_leader, member.status().raft_term) for member in cluster} == {(leader.name, before)}
        assert all(member.metrics()["stalls"] == 0 for member in cluster if member is not follower)


def test_a_member_that_stood_still_does_not_take_its_peers_for_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    dialled: list[str] = []

    def dial(transport: SimTransport, peer: str, url: str, name: str = "") -> None:
        dialled.append(transport.name)
        DIAL(transport, peer, url, name)

    monkeypatch.setattr(SimTransport, "dial", dial)
    with VirtualCluster(seed=6) as cluster:
        leader = cluster.wait_for_leader()
        follower = next(member for member in cluster if member is not leader)
        dialled.clear()
        cluster.pause(follower.name, 1.9)  # its peers do not take it for silent either
        cluster.advance(2.2)
        assert dialled == []
        cluster.pause(follower.name, 10.0)
        cluster.advance(14.0)
        assert follower.name not in dialled
        assert follower.status().unreachable == ()


def test_all_members_of_one_host_that_was_suspended_keep_their_leader_and_their_leases() -> None:
    with VirtualCluster(seed=4) as cluster:
        leader = cluster.wait_for_leader()
        leader.put("key", "1", ttl=5.0)
        before = leader.status().raft_term
        for member in cluster:
            cluster.pause(member.name, 60.0)
        cluster.advance(61.0)
        assert {(member.status().raft_leader, member.status().raft_term) for member in cluster} == {(leader.name, before)}
        assert leader.get("key") is not None


def test_a_leader_that_stood_still_while_another_was_elected_reads_nothing_old_under_its_lease() -> None:
    with VirtualCluster(seed=5) as cluster:
        old = cluster.wait_for_leader()
        old.put("key", "old")
        assert old.get("key", consistency="lease") is not None
        cluster.pause(old.name, 3.0)
        other = next(member for member in cluster if member is not old)
        other.put("key", "new", timeout=3.0)
        read = old.get("key", consistency="lease")
        assert read is not None
        assert read.value == b"new"
        assert old.metrics()["stalls"] == 1
        assert cluster.wait_for_leader() is not old


# -- what is counted ------------------------------------------------------------------------------------------------------------------


def meter() -> Meter:
    made = Meter("a", STALL)
    assert made.turn(10.0, 0.0) == 0
    return made


def test_a_turn_is_late_from_when_it_was_due_or_the_last_one_began() -> None:
    measured = meter()
    assert measured.turn(20.0, due=20.0) == 0
    assert measured.turn(20.4, due=float("-inf")) == 0
    assert measured.turn(20.9, due=float("-inf")) == pytest.approx(0.5)
    assert measured.turn(30.9, due=30.0) == pytest.approx(0.9)
    assert (measured.turns, measured.stalls) == (5, 2)
    assert measured.stall_seconds == pytest.approx(1.4)
    assert measured.longest_stall_seconds == pytest.approx(0.9)


def test_a_sync_that_holds_a_member_up_is_counted_and_said_as_what_it_is(caplog: pytest.LogCaptureFixture) -> None:
    measured = meter()
    measured.synced(3.0)
    assert measured.turn(13.1, due=10.1) == pytest.approx(3.0)
    measured.synced(0.5)
    assert measured.turn(13.1 + WARN_EVERY, due=13.1) == pytest.approx(WARN_EVERY)
    assert (measured.stalls, measured.syncs, measured.sync_seconds, measured.longest_sync_seconds) == (2, 2, 3.5, 3.0)
    first, second = [record.getMessage() for record in caplog.records]
    assert first.startswith("a: a sync of its log held it up for 3.0 s: its disk is slow or busy")
    assert second.startswith("a: the process stood still for 10.0 s: it was stopped, swapped out")


def test_stalls_are_said_now_and_then_with_how_many_went_unsaid(caplog: pytest.LogCaptureFixture) -> None:
    measured, now = meter(), 10.0
    while now < 10.0 + 2.5 * WARN_EVERY:
        now += 1.0
        measured.turn(now, due=now - STALL)
    said = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert len(said) == 3
    assert "(9 more since" in said[1]
    assert "(" not in said[0]
    assert "move such work to another process" in said[0]
    assert measured.stalls == 25


def test_not_to_know_a_leader_for_a_while_is_no_change_of_leaders() -> None:
    measured = meter()
    for leader, term in [(None, 1), ("b", 2), (None, 2), ("b", 2), ("c", 3), ("c", 4)]:
        measured.led_by(leader, term)
    assert measured.leader_changes == 2


def test_metrics_are_numbers_that_the_page_for_operators_explains(tmp_path: Path) -> None:
    with Replica(data_dir=tmp_path) as replica:
        replica.wait_ready()
        for _ in range(3):
            replica.put("key", "value")
        told = replica.metrics()
        assert all(type(value) in (int, float) and value >= 0 for value in told.values())
        assert (told["leader"], told["revision"], told["keys"], told["elections_started"]) == (1, 4, 1, 1)
        assert told["syncs"] >= 3
        assert told["sync_seconds"] >= told["longest_sync_seconds"] > 0
        assert told["commands_in_flight"] == told["stalls"] == 0
    assert replica.metrics()["revision"] == 4
    page = (Path(replkv.__file__).parents[1] / "docs" / "DEPLOYMENT.md").read_text(encoding="utf-8")
    explained = [name for row in re.findall(r"^\| (`\w+`(?:, `\w+`)*) \|", page, re.MULTILINE) for name in re.findall(r"\w+", row)]
    assert sorted(set(explained) & set(told)) == sorted(told)


def test_a_member_that_was_never_opened_has_no_metrics() -> None:
    async def ask() -> int | float:
        member = AsyncReplica()
        with pytest.raises(Closed, match="not open yet"):
            member.metrics()
        async with member:
            await member.put("key", "value")
            return member.metrics()["turns"]

    assert asyncio.run(ask()) > 0
