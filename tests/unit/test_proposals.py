"""``proposals.py``: calls become batches, batches are repeated until they are answered, and each is answered once."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterable
from typing import Any, ClassVar

import pytest
from caller import Caller
from fake_network import FakeCluster

from replkv import codec, ops, wire
from replkv.admission import Admission
from replkv.codec import Batch
from replkv.config import Settings
from replkv.errors import Closed, InvariantBroken, OutcomeUnknown
from replkv.machine import Machine, Outcome
from replkv.proposals import BATCH_COMMANDS, IN_FLIGHT, OWN_IN_FLIGHT, Call, OwnCall, Proposals, finish

A, B = (1, "a"), (2, "b")
RETRY = 1.5


def read(data: bytes) -> Batch:
    return codec.unpack_batch(data, lambda _: None)


def sent(proposals: Proposals, to: tuple[int, str | None] = A, now: float = 0.0) -> list[Batch]:
    return [read(batch) for batch in proposals.batches_to_send(to, now)]


def submit(proposals: Proposals, call: Caller) -> None:
    """Hand a call over as the surface does: what is in the queue was let in."""
    assert proposals.admission.enter(len(call.command or b""))
    proposals.submit(call)


@pytest.fixture
def proposals() -> Proposals:
    return Proposals(random.Random(1), 1000, RETRY, Admission(1 << 30, 1 << 40))


@pytest.fixture
def ready(proposals: Proposals) -> Proposals:
    """With a session."""
    call = Caller(b"\x01")
    submit(proposals, call)
    (opening,) = sent(proposals)
    proposals.answer([Outcome(0, opening.sequence, (), opened=7)])
    assert proposals.give_up(call)
    return proposals


def put(proposals: Proposals, count: int = 1, size: int = 1) -> list[Caller]:
    calls = [Caller(codec.pack(bytes(size))) for _ in range(count)]
    for call in calls:
        submit(proposals, call)
    return calls


def three_batches(proposals: Proposals, count: int = 1) -> list[Caller]:
    """Put three batches under way."""
    calls = []
    for _ in range(3):
        calls += put(proposals, count)
        assert sent(proposals)
    return calls


# -- sessions -------------------------------------------------------------------------------------------------------------------------


def test_nothing_is_opened_before_somebody_calls(proposals: Proposals) -> None:
    assert sent(proposals) == []


def test_the_first_call_opens_a_session_and_follows_in_it(proposals: Proposals) -> None:
    (call,) = put(proposals)
    (opening,) = sent(proposals)
    assert (opening.session, opening.commands) == (0, ())
    assert sent(proposals, now=0.1) == [], "it is on its way"
    proposals.answer([Outcome(0, opening.sequence + 1, (), opened=5)])
    assert proposals.session == 0, "that was somebody else's"
    proposals.answer([Outcome(0, opening.sequence, (), opened=5)])
    (batch,) = sent(proposals, now=0.2)
    assert (batch.session, batch.sequence, batch.lowest) == (5, 1, 1)
    assert call.finished == 0


def test_an_opening_that_was_lost_is_repeated_so_that_an_answer_to_any_of_them_counts(proposals: Proposals) -> None:
    put(proposals)
    (first,) = sent(proposals)
    (second,) = sent(proposals, now=RETRY + 0.1)
    assert first.sequence == second.sequence
    proposals.answer([Outcome(0, first.sequence, (), opened=5)])
    assert proposals.session == 5
    proposals.answer([Outcome(0, second.sequence, (), opened=6)])
    assert proposals.session == 5, "one is enough; the other ends by itself"


def test_an_opening_goes_to_a_new_leader_at_once(proposals: Proposals) -> None:
    put(proposals)
    assert sent(proposals, A)
    assert sent(proposals, B, now=0.01), "its first leader may have taken it with itself"


# -- batches --------------------------------------------------------------------------------------------------------------------------


def test_what_waits_becomes_one_batch_and_is_answered_in_order(ready: Proposals) -> None:
    calls = put(ready, 5)
    (batch,) = sent(ready)
    assert len(batch.commands) == 5
    ready.answer([Outcome(7, batch.sequence, tuple((wire.OK, i) for i in range(5)))])
    assert [call.answer for call in calls] == [(wire.OK, i) for i in range(5)]
    assert not ready.under_way


def test_a_batch_holds_no_more_than_fits_into_a_block(ready: Proposals) -> None:
    put(ready, 5, size=400)
    batches = [batch for _ in range(4) for batch in sent(ready)]
    assert [len(batch.commands) for batch in batches] == [2, 2, 1]


def test_a_command_larger_than_a_block_goes_alone(ready: Proposals) -> None:
    put(ready, 1)
    put(ready, 1, size=5000)
    put(ready, 1)
    assert [len(batch.commands) for _ in range(4) for batch in sent(ready)] == [1, 1, 1]


def test_a_batch_has_a_limited_number_of_commands(ready: Proposals) -> None:
    ready.block_bytes = 1 << 30
    put(ready, BATCH_COMMANDS + 1)
    assert [len(sent(ready)[0].commands) for _ in range(2)] == [BATCH_COMMANDS, 1]


def test_only_a_few_batches_are_under_way(ready: Proposals) -> None:
    for _ in range(IN_FLIGHT):
        put(ready)
        assert sent(ready)
    put(ready)
    assert sent(ready) == []
    ready.answer([Outcome(7, 1, ((wire.OK,),))])
    (batch,) = sent(ready)
    assert (batch.sequence, batch.lowest) == (IN_FLIGHT + 1, 2)


def test_a_batch_tells_the_lowest_sequence_somebody_still_waits_for(ready: Proposals) -> None:
    for _ in range(3):
        put(ready)
        sent(ready)
    ready.answer([Outcome(7, 2, ((wire.OK,),))])
    put(ready)
    assert sent(ready)[0].lowest == 1
    ready.answer([Outcome(7, 1, ((wire.OK,),)), Outcome(7, 3, ((wire.OK,),)), Outcome(7, 4, ((wire.OK,),))])
    put(ready)
    assert sent(ready)[0].lowest == 5


# -- repeats --------------------------------------------------------------------------------------------------------------------------


def test_a_batch_is_repeated_to_a_new_leader_or_term_byte_by_byte(ready: Proposals) -> None:
    put(ready, 3)
    (first,) = ready.batches_to_send(A, 0.0)
    assert ready.batches_to_send(A, 0.1) == []
    assert ready.batches_to_send(B, 0.2) == [first]
    assert ready.batches_to_send((3, "b"), 0.3) == [first]
    assert ready.batches_to_send((3, "b"), 0.4) == []


def test_a_batch_without_an_answer_is_repeated_after_a_while(ready: Proposals) -> None:
    put(ready)
    (first,) = ready.batches_to_send(A, 0.0)
    assert ready.batches_to_send(A, RETRY - 0.1) == []
    assert ready.batches_to_send(A, RETRY + 0.1) == [first]


def test_a_repeat_that_is_applied_as_well_answers_nobody_twice(ready: Proposals) -> None:
    (call,) = put(ready)
    sent(ready)
    for _ in range(3):
        ready.answer([Outcome(7, 1, ((wire.OK, 5),))])
    assert (call.finished, call.answer) == (1, (wire.OK, 5))


def test_outcomes_of_others_answer_nobody(ready: Proposals) -> None:
    (call,) = put(ready)
    sent(ready)
    ready.answer([Outcome(8, 1, ((wire.OK,),)), Outcome(7, 2, ((wire.OK,),)), Outcome(0, 1, (), opened=9)])
    assert call.finished == 0
    assert ready.session == 7


def test_an_answer_that_is_forgotten_leaves_the_outcome_unknown(ready: Proposals) -> None:
    (call,) = put(ready)
    sent(ready)
    ready.answer([Outcome(7, 1, None)])
    assert isinstance(call.error, OutcomeUnknown)
    assert call.finished == 1


def test_an_answer_of_the_wrong_length_stops_the_member_rather_than_answer_the_wrong_caller(ready: Proposals) -> None:
    put(ready, 2)
    sent(ready)
    with pytest.raises((ValueError, InvariantBroken)):
        ready.answer([Outcome(7, 1, ((wire.OK,),))])


def test_a_batch_that_comes_back_empty_is_queued_again_before_all_that_waits(ready: Proposals) -> None:
    """The leader refused it and used up its number; what of it must be refused is for others to say."""
    calls = put(ready, 3)
    (batch,) = sent(ready)
    later = put(ready, 2)
    counted = ready.admission.commands, ready.admission.bytes
    ready.answer([Outcome(7, batch.sequence, ())])
    assert ready.refused
    assert not any(call.finished for call in calls)
    assert (ready.admission.commands, ready.admission.bytes) == counted
    ready.refuse_queued(lambda command: Closed("no") if command == calls[1].command else None)
    assert [call.finished for call in (*calls, *later)] == [1] * 5, "all of them have the same bytes"
    calls = put(ready, 3)
    (again,) = sent(ready)
    assert (again.session, again.sequence, again.lowest) == (7, batch.sequence + 1, batch.sequence + 1)
    ready.answer([Outcome(7, batch.sequence, ()), Outcome(7, again.sequence, ((wire.OK, 1), (wire.OK, 2), (wire.OK, 3)))])
    assert [call.answer for call in calls] == [(wire.OK, 1), (wire.OK, 2), (wire.OK, 3)]


# -- a session that is no more --------------------------------------------------------------------------------------------------------


def test_batches_of_an_expired_session_go_into_a_new_one_in_their_order(ready: Proposals) -> None:
    calls = three_batches(ready, 2)
    last = put(ready)
    ready.answer([Outcome(7, sequence, None, expired=True) for sequence in (1, 2, 3)])
    assert [call.finished for call in calls] == [0] * 6
    (opening,) = sent(ready)
    assert opening.session == 0
    ready.answer([Outcome(0, opening.sequence, (), opened=70)])
    (batch,) = sent(ready)
    assert (batch.session, batch.sequence, len(batch.commands)) == (70, 1, 7)
    ready.answer([Outcome(70, 1, tuple((wire.OK, i) for i in range(7)))])
    assert [call.answer for call in (*calls, *last)] == [(wire.OK, i) for i in range(7)]


def test_a_late_word_of_the_old_session_disturbs_the_new_one_not(ready: Proposals) -> None:
    (call,) = put(ready)
    sent(ready)
    ready.answer([Outcome(7, 1, None, expired=True)])
    (opening,) = sent(ready)
    ready.answer([Outcome(0, opening.sequence, (), opened=70)])
    sent(ready)
    ready.answer([Outcome(7, 1, None, expired=True), Outcome(7, 1, None)])
    assert ready.session == 70
    assert call.finished == 0


def machine(*sequences: int, session: int = 7) -> Machine:
    """A machine that was loaded from a snapshot, in which these batches were executed."""
    loaded = Machine()
    loaded.sessions.open(session, 0)
    for sequence in sequences:
        loaded.sessions.record(session, sequence, ((wire.OK, sequence),))
    return loaded


def test_after_a_snapshot_the_session_table_answers(ready: Proposals) -> None:
    calls = three_batches(ready)
    ready.answer_from(machine(1, 3))
    assert [call.answer for call in calls] == [(wire.OK, 1), None, (wire.OK, 3)]
    assert [batch.sequence for batch in sent(ready, B)] == [2]


def test_after_a_snapshot_without_its_session_the_outcome_is_unknown(ready: Proposals) -> None:
    (call,) = put(ready)
    sent(ready)
    (waiting,) = put(ready)
    ready.answer_from(machine(session=8))
    assert isinstance(call.error, OutcomeUnknown)
    assert waiting.finished == 0
    assert sent(ready)[0].session == 0


# -- giving up ------------------------------------------------------------------------------------------------------------------------


def test_a_call_in_the_queue_can_be_given_up_and_is_never_sent(ready: Proposals) -> None:
    first, second = put(ready, 2)
    assert ready.give_up(first)
    assert not ready.give_up(first)
    assert len(sent(ready)[0].commands) == 1
    assert not ready.give_up(second)


def test_a_call_that_gives_up_while_batches_are_made_is_either_sent_or_given_up(ready: Proposals) -> None:
    ready.block_bytes = 50
    for _ in range(200):
        calls = put(ready, 30)
        given_up: list[Caller] = []
        thread = threading.Thread(target=lambda: given_up.extend(call for call in calls if ready.give_up(call)))  # noqa: B023
        thread.start()
        commands = 0
        while thread.is_alive() or ready._queue:
            for batch in sent(ready):
                commands += len(batch.commands)
                ready.answer([Outcome(7, batch.sequence, ((wire.OK,),) * len(batch.commands))])
        thread.join()
        assert commands + len(given_up) == 30
        assert [call.finished for call in calls] == [int(call not in given_up) for call in calls]


def test_at_the_end_those_in_the_queue_are_told_otherwise_than_those_under_way(ready: Proposals) -> None:
    (under_way,) = put(ready)
    sent(ready)
    (waiting,) = put(ready)
    closed, unknown = Closed("closed"), OutcomeUnknown("unknown")
    ready.fail_all(closed, unknown)
    ready.fail_all(closed, unknown)
    assert (under_way.error, under_way.finished) == (unknown, 1)
    assert (waiting.error, waiting.finished) == (closed, 1)


# -- what counts as under way ---------------------------------------------------------------------------------------------------------


def counted(proposals: Proposals) -> tuple[int, int]:
    return proposals.admission.commands, proposals.admission.bytes


def test_calls_count_until_they_are_answered(ready: Proposals) -> None:
    put(ready, 3, size=10)
    assert counted(ready) == (3, 36)
    sent(ready)
    assert counted(ready) == (3, 36)
    ready.answer([Outcome(7, 1, ((wire.OK,),) * 3)] * 2)
    assert counted(ready) == (0, 0)


def test_a_call_that_is_given_up_in_the_queue_makes_room(ready: Proposals) -> None:
    first, second = put(ready, 2, size=10)
    assert ready.give_up(first)
    assert counted(ready) == (1, 12)
    sent(ready)
    assert not ready.give_up(second)
    assert counted(ready) == (1, 12), "it may still take effect"


def test_an_answer_that_is_forgotten_makes_room_too(ready: Proposals) -> None:
    put(ready, 2)
    sent(ready)
    ready.answer([Outcome(7, 1, None)])
    assert counted(ready) == (0, 0)


def test_batches_of_an_expired_session_count_once_however_often_they_are_sent(ready: Proposals) -> None:
    three_batches(ready, 2)
    before = counted(ready)
    ready.answer([Outcome(7, sequence, None, expired=True) for sequence in (1, 2, 3)])
    assert counted(ready) == before
    (opening,) = sent(ready)
    ready.answer([Outcome(0, opening.sequence, (), opened=70)])
    sent(ready)
    ready.answer([Outcome(70, 1, ((wire.OK,),) * 6)])
    assert counted(ready) == (0, 0)


@pytest.mark.parametrize("session", [7, 8])
def test_what_a_snapshot_answers_makes_room(ready: Proposals, session: int) -> None:
    three_batches(ready, 2)
    loaded = Machine()
    loaded.sessions.open(session, 0)
    for sequence in (1, 2, 3):
        loaded.sessions.record(session, sequence, ((wire.OK,),) * 2)
    ready.answer_from(loaded)
    assert counted(ready) == (0, 0)


def test_an_answer_lets_in_who_waits_in_line() -> None:
    proposals = Proposals(random.Random(1), 1000, RETRY, Admission(1, 1000))
    (first,) = put(proposals)
    assert not proposals.admission.enter(3)
    waiting = Caller(b"\x01")
    proposals.admission.line_up(waiting, 3)
    assert proposals.give_up(first)
    assert waiting.finished == 1


def test_at_the_end_those_in_line_are_told_as_those_in_the_queue() -> None:
    proposals = Proposals(random.Random(1), 1000, RETRY, Admission(1, 1000))
    put(proposals)
    waiting = Caller(b"\x01")
    proposals.admission.line_up(waiting, 3)
    closed = Closed("closed")
    proposals.fail_all(closed, OutcomeUnknown("unknown"))
    assert (waiting.error, waiting.finished) == (closed, 1)


def test_a_command_of_the_members_own_is_answered_to_whom_it_says(ready: Proposals) -> None:
    answered: list[Call] = []
    own = OwnCall(b"\x01", answered.append)
    ready.admission.enter_anyway(1)
    ready.submit(own)
    assert ready.can_send
    assert len(sent(ready)) == 1
    ready.answer([Outcome(7, 1, ((wire.OK, 1),))])
    assert answered == [own]
    assert own.answer == (wire.OK, 1)
    lost = OwnCall(b"\x01", answered.append)
    ready.submit(lost)
    closed = Closed("closed")
    ready.fail_all(closed, closed)
    assert answered == [own, lost]
    assert lost.error is closed


def submit_own(proposals: Proposals) -> OwnCall:
    own = OwnCall(b"\x02", lambda _: None)
    proposals.admission.enter_anyway(1)
    proposals.submit(own)
    return own


def test_keeping_leases_alive_does_not_wait_behind_the_members_callers(ready: Proposals) -> None:
    put(ready, 3 * BATCH_COMMANDS)
    while len(ready._batches) < IN_FLIGHT:
        put(ready)
        sent(ready)
    assert not ready.can_send
    for _ in range(OWN_IN_FLIGHT):
        submit_own(ready)
        assert ready.can_send
        (batch,) = sent(ready)
        assert batch.commands == (2,)
    submit_own(ready)
    assert not ready.can_send
    assert sent(ready) == []


def test_a_batch_whose_only_caller_has_just_given_up_is_none(ready: Proposals, monkeypatch: pytest.MonkeyPatch) -> None:
    """It was sent empty, and stopped the member if its session had expired meanwhile."""
    (call,) = put(ready)
    take = ready._take
    monkeypatch.setattr(Proposals, "_take", lambda self, queue: (ready.give_up(call), take(queue))[1])
    assert sent(ready) == []
    assert not ready.under_way


def test_after_a_session_expired_the_members_own_go_first_again(ready: Proposals) -> None:
    put(ready)
    submit_own(ready)
    assert [batch.commands for batch in sent(ready)] == [(2,), (b"\x00",)]
    ready.answer([Outcome(7, 1, None, expired=True)])
    (opening,) = sent(ready)
    ready.answer([Outcome(0, opening.sequence, (), opened=9)])
    assert [(batch.session, batch.commands) for batch in sent(ready)] == [(9, (2,)), (9, (b"\x00",))]


def test_who_leads_itself_repeats_nothing_while_its_term_lasts(ready: Proposals) -> None:
    put(ready)
    assert len(ready.batches_to_send(A, 0.0, lossless=True)) == 1
    assert ready.batches_to_send(A, 100 * RETRY, lossless=True) == []
    assert len(ready.batches_to_send((2, "a"), 100 * RETRY, lossless=True)) == 1
    ready.repeat_all()
    assert len(ready.batches_to_send((2, "a"), 100 * RETRY, lossless=True)) == 1


# -- whole members --------------------------------------------------------------------------------------------------------------------


def run(cluster: FakeCluster, name: str, call: Caller) -> Any:
    cluster.nodes[name].submit(call)
    cluster.run(lambda: call.finished)
    return call.answer


def a_follower(cluster: FakeCluster) -> str:
    return next(name for name in cluster.nodes if name != cluster.leader())


def test_large_batches_repeated_to_a_new_leader_go_in_frames_that_hold_them() -> None:
    cluster = FakeCluster(settings=Settings(max_request_bytes=4 << 20))
    cluster.run(cluster.leader)
    old = cluster.leader()
    assert old is not None
    followers = [name for name in "abc" if name != old]
    for name in followers:
        run(cluster, name, Caller(codec.pack(ops.Put("before", "x").to_wire())))
    cluster.paused.add(old)
    calls = []
    for name in followers:
        for i in range(IN_FLIGHT):
            calls.append(Caller(codec.pack(ops.Put(f"{name}{i}", bytes(4_000_000)).to_wire())))
            cluster.nodes[name].submit(calls[-1])
            cluster.turn()
    assert all(len(cluster.nodes[name].proposals._batches) == IN_FLIGHT for name in followers)
    cluster.run(lambda: all(call.finished for call in calls))
    assert [call.answer and call.answer[0] for call in calls] == [wire.OK] * 2 * IN_FLIGHT
    revisions = sorted(call.answer[1] for call in calls if call.answer)
    assert revisions == list(range(revisions[0], revisions[0] + 2 * IN_FLIGHT))


def test_a_leader_that_does_not_answer_is_not_asked_at_every_turn() -> None:
    cluster = FakeCluster()
    cluster.run(cluster.leader)
    leader = cluster.leader()
    assert leader is not None
    name = a_follower(cluster)
    node = cluster.nodes[name]
    run(cluster, name, Caller(codec.pack(ops.Put("before", "x").to_wire())))
    frames: list[bytes] = []
    cluster.network.ends[leader].send = lambda peer, frame: False  # type: ignore[method-assign]  # it can't tell anybody anything
    forward = cluster.network.ends[name].send

    def send(peer: str, frame: bytes) -> bool:
        frames.append(frame)
        return forward(peer, frame)

    cluster.network.ends[name].send = send  # type: ignore[method-assign]
    node.submit(Caller(codec.pack(ops.Put("k", "v").to_wire())))
    cluster.rest(50)
    batches = [frame for frame in frames if b"\xc4\x01k\xc4\x01v" in frame]
    assert 1 <= len(batches) < 5


def test_a_session_that_expired_is_replaced_and_no_write_is_lost_or_doubled() -> None:
    cluster = FakeCluster(settings=Settings(session_ttl=5.0))
    cluster.run(cluster.leader)
    name = a_follower(cluster)
    add = codec.pack(ops.Add("n", 1).to_wire())
    assert run(cluster, name, Caller(add))[2] == 1
    old = cluster.nodes[name].proposals.session
    for _ in range(12):  # others keep the cluster's time going
        other = cluster.leader()
        assert other is not None
        run(cluster, other, Caller(codec.pack(ops.Put("t", "x").to_wire())))
        until = cluster.now + 1.0
        cluster.run(lambda: cluster.now >= until)  # noqa: B023
    assert run(cluster, name, Caller(add))[2] == 2
    assert cluster.nodes[name].proposals.session != old


def test_a_leader_whose_disk_is_slow_does_not_gather_what_its_followers_repeat(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = FakeCluster()
    cluster.run(cluster.leader)
    leader = cluster.leader() or ""
    follower = next(name for name in "abc" if name != leader)
    node = cluster.nodes[leader]
    run(cluster, follower, Caller(codec.pack(ops.Put("before", "x").to_wire())))
    raft = node.raft
    assert raft is not None
    monkeypatch.setattr(type(raft), "can_propose", property(lambda self: False))  # as if its window were full for long
    calls = [Caller(codec.pack(ops.Put("key", str(number)).to_wire())) for number in range(3)]
    for call in calls:
        assert cluster.nodes[follower].proposals.admission.enter(len(call.command or b""))
        cluster.nodes[follower].submit(call)
    until = cluster.now + 10 * cluster.settings.election_timeout
    cluster.run(lambda: cluster.now >= until)
    assert len(node.outgoing._block) == 1
    monkeypatch.undo()
    cluster.run(lambda: all(call.finished for call in calls))
    assert node.outgoing._taken == set()


# -- at a distance --------------------------------------------------------------------------------------------------------------------


def test_a_session_for_which_there_was_no_number_is_asked_for_at_once(proposals: Proposals) -> None:
    put(proposals)
    (opening,) = sent(proposals)
    assert sent(proposals) == []
    proposals.answer([Outcome(0, opening.sequence, None, expired=True)])
    assert sent(proposals) == [opening]


def test_who_does_not_see_all_calls_a_repeated_batch_of_an_expired_session_unknown_and_no_other(ready: Proposals) -> None:
    ready.sees_all = False
    (repeated,) = put(ready)
    sent(ready)
    assert sent(ready, B)
    (once,) = put(ready)
    sent(ready, B)
    ready.answer([Outcome(7, 1, None, expired=True)])
    assert isinstance(repeated.error, OutcomeUnknown)
    assert not once.finished
    (opening,) = sent(ready, B)
    ready.answer([Outcome(0, opening.sequence, (), opened=9)])
    (again,) = sent(ready, B)
    assert (again.session, len(again.commands)) == (9, 1)
    ready.answer([Outcome(9, again.sequence, ((wire.OK, 1),))])
    assert once.answer == (wire.OK, 1)
    assert ready.admission.commands == 0


def test_a_batch_that_was_not_taken_is_taken_back_unless_it_was_sent_before(ready: Proposals) -> None:
    calls = put(ready, 2)
    (data,) = ready.batches_to_send(A, 0.0)
    assert not ready.take_back(b"another")
    assert ready.take_back(data)
    assert not ready.take_back(data)
    assert not ready.under_way
    assert ready.give_up(calls[0])
    (data,) = ready.batches_to_send(A, 0.0)
    assert [len(read(data).commands), read(data).sequence] == [1, 2], "its first number is used for nothing else"
    assert ready.batches_to_send(B, 0.0) == [data]
    assert not ready.take_back(data), "it may have been applied"
    assert ready.under_way


# -- a member that goes ---------------------------------------------------------------------------------------------------------------


def test_what_stands_behind_the_last_command_is_not_handed_over_until_it_is_taken_up_again(ready: Proposals) -> None:
    put(ready, 2)
    last = Caller(codec.pack((5,)))
    ready.end_with(last.command)
    submit(ready, last)
    (behind,) = put(ready)
    (batch,) = sent(ready)
    assert (len(batch.commands), batch.commands[-1]) == (3, (5,))
    assert not ready.can_send
    assert sent(ready) == []
    own = OwnCall(codec.pack((6,)), lambda _: None)
    ready.admission.enter_anyway(len(own.command or b""))
    ready.submit(own)
    assert [one.commands for one in sent(ready)] == [((6,),)], "what the member does for itself goes on"
    assert [one.sequence for one in sent(ready, B)] == [1, 2], "and so does what is under way"
    assert behind.finished == 0
    ready.end_with(None)
    assert ready.can_send
    assert [len(one.commands) for one in sent(ready, B)] == [1]


def test_a_last_command_that_comes_back_empty_is_sent_again(ready: Proposals) -> None:
    last = Caller(codec.pack((5,)))
    ready.end_with(last.command)
    submit(ready, last)
    put(ready)
    (batch,) = sent(ready)
    ready.answer([Outcome(batch.session, batch.sequence, ())])
    (again,) = sent(ready)
    assert (again.sequence, again.commands) == (2, ((5,),))
    assert sent(ready) == []


def test_a_member_that_is_no_member_any_more_hands_nothing_over_and_its_callers_are_told_so(ready: Proposals) -> None:
    (under_way,) = put(ready)
    assert sent(ready)
    ready.held = True
    (held,) = put(ready)
    assert not ready.can_send
    assert sent(ready) == []
    ready.fail_all(Closed("over"), OutcomeUnknown("who knows"))
    assert isinstance(held.error, Closed)
    assert isinstance(under_way.error, OutcomeUnknown)


class Flock(Caller):
    """Callers that are woken together."""

    __slots__ = ()
    woken: ClassVar[list[list[Call]]] = []

    @classmethod
    def finish_together(cls, calls: Iterable[Call]) -> None:
        cls.woken.append(list(calls))


def test_callers_of_one_kind_that_follow_each_other_are_woken_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Flock, "woken", [])
    first, second, single, third = Flock(b"x"), Flock(b"x"), Caller(b"x"), Flock(b"x")
    finish([first, second, single, third])
    assert Flock.woken == [[first, second], [third]]
    assert single.finished == 1
    finish([first])
    finish([])
    assert first.finished == 1
    assert len(Flock.woken) == 2
