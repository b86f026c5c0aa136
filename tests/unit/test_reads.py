"""``reads.py``: who waits for which read index, and that nobody is served before it or left behind."""

from __future__ import annotations

import threading
from collections import deque

import pytest
from caller import Caller
from fake_network import FakeCluster

from replkv import codec, ops
from replkv.errors import Closed
from replkv.reads import Reads


@pytest.fixture
def reads() -> Reads:
    return Reads(41)


def ask(reads: Reads, count: int = 1) -> list[Caller]:
    calls = [Caller() for _ in range(count)]
    for call in calls:
        reads.ask(call)
    return calls


def finished(*calls: Caller) -> list[int]:
    return [call.finished for call in calls]


def test_all_that_wait_share_a_round_and_are_served_once_it_is_applied(reads: Reads) -> None:
    calls = ask(reads, 3)
    assert reads.waiting
    round_ = reads.next_round(0.0)
    assert not reads.waiting
    reads.applied(100)
    assert finished(*calls) == [0, 0, 0], "nothing was confirmed"
    reads.confirmed(round_, 10)
    reads.applied(9)
    assert finished(*calls) == [0, 0, 0], "not applied yet"
    reads.applied(10)
    reads.applied(11)
    assert finished(*calls) == [1, 1, 1]


def test_a_call_that_comes_after_a_round_began_waits_for_the_next(reads: Reads) -> None:
    (early,) = ask(reads)
    first = reads.next_round(0.0)
    (late,) = ask(reads)
    reads.confirmed(first, 5)
    reads.applied(5)
    assert finished(early, late) == [1, 0]
    assert reads.next_round(0.0) == first + 1


def test_rounds_are_confirmed_in_any_order(reads: Reads) -> None:
    (one,) = ask(reads)
    first = reads.next_round(0.0)
    (two,) = ask(reads)
    second = reads.next_round(0.0)
    reads.confirmed(second, 8)
    reads.confirmed(first, 4)
    reads.applied(4)
    assert finished(one, two) == [1, 0]
    reads.applied(8)
    assert finished(one, two) == [1, 1]


def test_a_lost_rounds_callers_wait_for_another_under_a_new_id(reads: Reads) -> None:
    calls = ask(reads, 2)
    lost = reads.next_round(0.0)
    reads.lost([lost, lost, 999])
    reads.confirmed(lost, 1)  # the late answer to what was given up confirms nothing
    reads.applied(1)
    assert finished(*calls) == [0, 0]
    again = reads.next_round(0.0)
    assert again != lost
    reads.confirmed(again, 1)
    reads.applied(1)
    assert finished(*calls) == [1, 1]


def test_an_unknown_round_confirms_nothing(reads: Reads) -> None:
    (call,) = ask(reads)
    reads.confirmed(41, 1)
    reads.confirmed(43, 1)
    reads.applied(9)
    assert finished(call) == [0]


@pytest.mark.parametrize("stage", ["waiting", "asked", "confirmed"])
def test_a_caller_that_gives_up_is_forgotten_at_every_stage(reads: Reads, stage: str) -> None:
    gone, stays = ask(reads, 2)
    if stage != "waiting":
        round_ = reads.next_round(0.0)
        if stage == "confirmed":
            reads.confirmed(round_, 3)
    reads.give_up(gone)
    reads.give_up(gone)
    if stage == "waiting":
        round_ = reads.next_round(0.0)
    if stage != "confirmed":
        reads.confirmed(round_, 3)
    reads.applied(3)
    assert finished(gone, stays) == [0, 1]


@pytest.mark.parametrize("stage", ["waiting", "asked", "confirmed"])
def test_at_the_end_everybody_is_told_once_at_every_stage(reads: Reads, stage: str) -> None:
    calls = ask(reads, 2)
    if stage != "waiting":
        round_ = reads.next_round(0.0)
        if stage == "confirmed":
            reads.confirmed(round_, 3)
    error = Closed("closed")
    reads.fail_all(error)
    reads.fail_all(error)
    reads.applied(9)
    assert finished(*calls) == [1, 1]
    assert all(call.error is error for call in calls)


def test_callers_that_give_up_while_they_are_served_are_served_at_most_once(reads: Reads) -> None:
    for index in range(1, 200):
        calls = ask(reads, 20)
        thread = threading.Thread(target=lambda: deque(map(reads.give_up, calls), 0))  # noqa: B023
        thread.start()
        reads.confirmed(reads.next_round(0.0), index)
        reads.applied(index)
        thread.join()
        assert set(finished(*calls)) <= {0, 1}
    assert not reads.waiting
    assert not reads._rounds
    assert not any(calls for *_, calls in reads._confirmed)


def test_a_caller_who_wants_to_look_waits_for_the_round_and_is_then_handed_out_once(reads: Reads) -> None:
    looking, other = ask(reads, 2)
    looking.look = lambda machine, time: (machine, time)
    reads.confirmed(reads.next_round(0.0), 5)
    reads.applied(4)
    assert reads.take_looking() == []
    reads.applied(5)
    assert finished(looking, other) == [0, 1], "only the node can show it the machine"
    assert reads.take_looking() == [looking]
    assert reads.take_looking() == []


@pytest.mark.parametrize("ends", [False, True])
def test_a_caller_who_wants_to_look_can_give_up_and_is_told_of_the_end(reads: Reads, ends: bool) -> None:
    (looking,) = ask(reads)
    looking.look = lambda machine, time: (machine, time)
    reads.confirmed(reads.next_round(0.0), 5)
    reads.applied(5)
    error = Closed("closed")
    if ends:
        reads.fail_all(error)
    else:
        reads.give_up(looking)
    assert reads.take_looking() == []
    assert (looking.finished, looking.error) == ((1, error) if ends else (0, None))


def test_the_state_is_as_fresh_as_the_newest_round_that_was_applied(reads: Reads) -> None:
    assert reads.fresh_at == float("-inf")
    rounds = []
    for asked_at in (10.0, 20.0, 30.0):
        ask(reads)
        rounds.append(reads.next_round(asked_at))
    reads.confirmed(rounds[1], 5)
    reads.applied(4)
    assert reads.fresh_at == float("-inf"), "it is not applied yet"
    reads.applied(5)
    assert reads.fresh_at == 20.0
    reads.confirmed(rounds[0], 5)
    reads.applied(6)
    assert reads.fresh_at == 20.0, "a late answer to an older question tells nothing new"
    reads.lost([rounds[2]])
    reads.applied(7)
    assert reads.fresh_at == 20.0, "what was lost confirms nothing"


def test_the_state_is_fresh_before_the_callers_of_a_round_go_on(reads: Reads) -> None:
    seen: list[float] = []

    class Looks(Caller):
        __slots__ = ()

        def finish(self) -> None:
            seen.append(reads.fresh_at)

    reads.ask(Looks())
    reads.confirmed(reads.next_round(10.0), 5)
    reads.applied(5)
    assert seen == [10.0]


# -- whole members --------------------------------------------------------------------------------------------------------------------


def read(cluster: FakeCluster, name: str) -> Caller:
    call = Caller()
    cluster.nodes[name].read_barrier(call)
    return call


def test_a_read_at_every_member_sees_what_was_acknowledged_before() -> None:
    cluster = FakeCluster()
    cluster.run(cluster.leader)
    for number, name in enumerate("abcabc"):
        write = Caller(codec.pack(ops.Put("k", str(number)).to_wire()))
        cluster.nodes[name].submit(write)
        cluster.run(lambda: write.finished)  # noqa: B023
        calls = [(reader, read(cluster, reader)) for reader in "abc"]
        seen: dict[str, bytes] = {}
        while len(seen) < 3:
            cluster.turn()
            for reader, call in calls:
                if call.finished and reader not in seen:
                    published = cluster.nodes[reader].published
                    answer = published.machine.read(ops.Get("k").to_wire(), published.revision)
                    assert answer is not None
                    seen[reader] = answer[1][1]
        assert set(seen.values()) == {str(number).encode()}


def test_a_read_outlives_the_leader_it_was_asked_of() -> None:
    cluster = FakeCluster()
    cluster.run(cluster.leader)
    leader = cluster.leader()
    assert leader is not None
    reader = next(name for name in "abc" if name != leader)
    call = read(cluster, reader)
    cluster.paused.add(leader)
    cluster.run(lambda: call.finished, 10.0)
    assert call.error is None


def test_a_member_cut_off_from_the_others_serves_no_linearizable_read() -> None:
    cluster = FakeCluster()
    cluster.run(cluster.leader)
    leader = cluster.leader()
    assert leader is not None
    cluster.paused |= {name for name in "abc" if name != leader}
    cluster.rest(30)
    call = read(cluster, leader)
    cluster.rest(500)
    assert not call.finished
    cluster.paused.clear()
    cluster.run(lambda: call.finished, 10.0)
