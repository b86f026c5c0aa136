"""``remote.py``: a client in virtual time, whose members fall silent, die, lag behind, and come back as others."""

from __future__ import annotations

import random
from collections import deque
from itertools import pairwise
from typing import Any

import pytest
from caller import Caller
from fake_members import HELPING, Members, RemoteUnderTest, command

from replkv import codec, fork, letters, ops, wire
from replkv.config import Config
from replkv.engine import THREADS
from replkv.errors import (
    Closed,
    Compacted,
    Corrupt,
    DiskFull,
    ForkedProcess,
    Incompatible,
    InvariantBroken,
    NoLeader,
    OutcomeUnknown,
    Overloaded,
    Removed,
    ReplkvError,
    TooLarge,
    TooStale,
    WaitTimeout,
    WrongCluster,
)
from replkv.feed import Wanted
from replkv.keeper import Keeper
from replkv.letters import Batch, Cancel, Look, Ping, Pong, Pull, Read
from replkv.plans import Read as ReadPlan
from replkv.plans import Ready, Write
from replkv.pulling import HELPINGS
from replkv.questions import AGAIN_AFTER
from replkv.reads import NOT_YET
from replkv.remote import WELCOME_WITHIN, WHEREABOUTS_AGAIN
from replkv.valuecodec import TEXT
from replkv.values import Event, Progress, Span, Synced
from replkv.view import Source, View
from replkv.watching import Watch


@pytest.fixture
def members() -> Members:
    return Members()


def connected(members: Members, names: str = "a", **options: Any) -> RemoteUnderTest:
    client = members.client(names, **options)
    client.run(lambda: client.connected)
    return client


def put(client: RemoteUnderTest, key: str, value: str = "v") -> Caller:
    call = Caller.of(ops.Put(key, value))
    client.admission.enter_anyway(len(call.command or b""))
    client.submit(call)
    return call


def ask(client: RemoteUnderTest, key: str, consistency: str = "linearizable") -> Caller:
    call = Caller()
    client.ask(ReadPlan(ops.Get(key), b"", consistency), call)
    return call


def value(members: Members, key: str) -> tuple[bytes, int]:
    """What a key holds, and how often it was put."""
    record = members.log.machine.store.newest[key.encode()]
    return record[1], record[4]


def ok(call: Caller) -> bool:
    return call.finished == 1 and call.error is None


class NoWait:
    """Waits of a thread that is the one to take turns."""

    def __init__(self) -> None:
        self.client: RemoteUnderTest | None = None

    def acquire(self, lock: Any, timeout: float | None) -> bool:
        assert self.client is not None
        until = self.client.clock() + (timeout or 0.0)
        for _ in range(2000):
            if lock.acquire(blocking=False):
                return True
            if timeout is not None and self.client.clock() >= until:
                return False
            self.client.turn(0.0 if timeout == 0 else min(until, self.client.deadline) - self.client.clock() if timeout else None)
        raise AssertionError("nothing ends this wait")

    def sleep(self, seconds: float) -> None:
        raise NotImplementedError


def watching(members: Members, names: str = "a", **options: Any) -> RemoteUnderTest:
    """A client whose threads that wait take its turns."""
    waits = NoWait()
    client = waits.client = connected(members, names, waits=waits, **options)
    return client


def drain(watch: Watch) -> list[Any]:
    """All that comes."""
    found = []
    while (one := watch.next(1.5)) is not None:
        found.append(one)
    return found


def revisions(found: list[Any]) -> list[int]:
    return [one.revision for one in found]


# -- finding a member -----------------------------------------------------------------------------------------------------------------


def test_the_first_member_that_answers_is_asked(members: Members) -> None:
    members["a"].up = False
    client = connected(members, "abc")
    assert (client.at, client.name) == ("b", "a client of b")
    assert [name for _, name in client.network.opened] == ["a", "b"]
    assert client.network.opened[0][0] == client.network.opened[1][0], "without a pause"
    assert client.settings == members.log.machine.settings
    assert client.revision == 1


def test_while_nobody_answers_all_are_tried_again_after_pauses_of_up_to_a_second(members: Members) -> None:
    for front in members.fronts.values():
        front.up = False
    client = members.client("abc")
    begun = members.now
    while members.now < begun + 30:
        client.turn()
    times = [at for at, name in client.network.opened if name == "a"]
    pauses = [after - before for before, after in pairwise(times)]
    assert 0.02 <= pauses[0] <= 0.06
    assert all(0.4 <= pause <= 1.01 for pause in pauses[6:])
    assert client.unreachable == tuple(sorted(front.url for front in members.fronts.values()))
    text = str(Write(ops.Put("k", "v")).expired(client, untouched=True))
    assert "no leader was found" in text
    assert "tcp://127.0.0.1:7097 (connection refused)" in text
    members["c"].up = True
    client.run(lambda: client.at == "c")


def test_a_member_that_does_not_answer_the_greeting_is_left(members: Members) -> None:
    members["a"].mute = True
    begun = members.now
    client = connected(members, "ab")
    assert client.at == "b"
    assert members.now - begun == pytest.approx(WELCOME_WITHIN, abs=0.01)
    assert members["a"].cables[0].closed


def test_addresses_are_learnt_from_the_members(members: Members) -> None:
    client = connected(members, "a")
    members["a"].die()
    client.run(lambda: client.at in ("b", "c"))


def test_addresses_beyond_this_machine_are_not_used_unless_that_was_said(members: Members) -> None:
    members.advertised["far"] = "tcp://10.0.0.9:7000"
    near, anywhere = connected(members, "a"), connected(members, "a", anywhere=True)
    assert not any("10.0.0.9" in target.where for target in near._targets.usable)
    assert any("10.0.0.9" in target.where for target in anywhere._targets.usable)


def test_a_member_of_another_cluster_is_never_asked(members: Members) -> None:
    client = connected(members, "a")
    members["b"].id = bytes(16)
    members["a"].die()
    client.run(lambda: client.at == "c")
    assert [name for _, name in client.network.opened] in (["a", "b", "c"], ["a", "c"])
    members["c"].die()
    for _ in range(50):
        client.turn()
    assert client.at == ""
    assert not client.stopped, "one of the right ones may come back"


def test_a_client_whose_members_all_belong_to_another_cluster_now_ends(members: Members) -> None:
    members.advertised.clear()
    client = connected(members, "a")
    members["a"].id = bytes(16)
    for cable in members["a"].cables:
        cable.lost = ConnectionError("reset")
    call = ask(client, "k")
    client.run(lambda: client.stopped)
    assert isinstance(client.failure, WrongCluster)
    assert isinstance(call.error, WrongCluster)
    assert "anew" in str(client.gone())
    assert client.network.closed


def test_a_member_of_another_version_says_so(members: Members) -> None:
    members.advertised.clear()
    members["a"].version = 9
    client = members.client("a")
    client.run(lambda: client.stopped)
    assert isinstance(client.failure, Incompatible)


def test_a_member_that_speaks_another_version_than_the_client_is_left(members: Members) -> None:
    members.advertised.clear()
    members["a"].spoken = 9
    client = members.client("a")
    client.run(lambda: client.stopped)
    assert isinstance(client.failure, Incompatible)
    assert "speaks version 9 with clients, this client 1 to 1: upgrade the members first, then their clients" in str(client.failure)


# -- a member that is lost ----------------------------------------------------------------------------------------------------------------


def test_what_is_unanswered_is_asked_at_the_next_member_and_takes_effect_once(members: Members) -> None:
    client = connected(members, "ab")
    first = put(client, "before")
    client.run(lambda: first.finished)
    members["a"].answers_batches = False
    calls = [put(client, "k", str(number)) for number in range(5)]
    client.settle()
    assert value(members, "k") == (b"4", 5), "it was applied"
    assert not any(call.finished for call in calls), "and nobody knows"
    members["a"].die()
    question = ask(client, "k")
    client.run(lambda: all(call.finished for call in [*calls, question]))
    assert all(map(ok, calls))
    assert client.at == "b"
    assert value(members, "k") == (b"4", 5)
    assert question.answer is not None
    assert question.answer[1][1] == b"4"
    assert members["a"].seen(Batch)[-1].data == members["b"].seen(Batch)[0].data, "the same batch, under the same number"


def test_a_session_that_was_being_opened_is_asked_for_again(members: Members) -> None:
    client = connected(members, "ab")
    members["a"].answers_batches = False
    call = put(client, "k")
    client.settle()
    assert not call.finished
    members["a"].die()
    client.run(lambda: call.finished)
    assert ok(call)
    assert value(members, "k") == (b"v", 1)


def test_a_silent_member_is_left_after_three_seconds(members: Members) -> None:
    client = connected(members, "ab")
    client.settle(1.0)
    members["a"].mute = True
    begun = members.now
    call = ask(client, "k")
    client.run(lambda: call.finished)
    assert client.at == "b"
    assert 2.9 <= members.now - begun <= 4.5


def test_a_member_whose_large_answer_takes_its_time_is_not_silent(members: Members) -> None:
    client = connected(members, "ab")
    call = ask(client, "k")
    members["a"].mute = True
    line = client._line
    assert line is not None
    for _ in range(20):
        members.now += 0.5
        client._work([(line.link, [], None)])  # a part of a frame came, or left
    assert client.at == "a"
    assert not call.finished
    client.run(lambda: call.finished)
    assert client.at == "b"


def test_pings_come_every_second_while_something_is_under_way_else_every_five(members: Members) -> None:
    client = connected(members, "a")
    client.settle(20.5)
    assert len(members["a"].seen(Ping)) == 5
    members["a"].behind = 0
    call = Caller()
    client.ask(ReadPlan(ops.Get("k"), b"", "local", min_revision=1000), call)
    client.settle(10.0)
    assert 14 <= len(members["a"].seen(Ping)) <= 16


def test_a_member_that_knows_no_leader_is_left_for_one_that_does(members: Members) -> None:
    client = connected(members, "abc")
    client.settle(0.5)
    assert client.ready
    members["a"].leader = members["b"].leader = None
    client.settle(5.0)
    assert not client.ready
    call = put(client, "k")
    client.run(lambda: call.finished)
    assert ok(call)
    assert client.at == "c"
    assert not members["a"].seen(Batch), "nothing is handed over that could not be taken back"
    assert not any(cable.closed is False for name in "ab" for cable in members[name].cables)


def test_without_any_leader_the_member_is_kept_and_what_waits_can_be_taken_back(members: Members) -> None:
    for front in members.fronts.values():
        front.leader = None
    client = connected(members, "abc")
    client.settle(0.5)
    call = put(client, "k")
    client.settle(5.0)
    assert client.connected
    assert not client.ready
    assert client.give_up(call)
    assert isinstance(Write(ops.Put("k", "v")).expired(client, untouched=True), NoLeader)


def test_a_member_that_closes_is_left_at_once(members: Members) -> None:
    client = connected(members, "ab")
    client.settle(0.5)
    call = Caller()
    client.ask(ReadPlan(ops.Get("k"), b"", "local", min_revision=2), call)
    client.settle()
    members["a"].stop()
    members.write(ops.Put("k", "v"))
    begun = members.now
    client.run(lambda: call.finished)
    assert (client.at, members.now) == ("b", begun)
    assert ok(call)


def test_a_member_that_sends_everybody_away_is_not_tried_on_and_on(members: Members) -> None:
    members.advertised.clear()
    client = connected(members, "a")
    call = put(client, "k")
    client.run(lambda: call.finished)
    members["a"].refusal = Closed("member a is closed")
    call = put(client, "k")
    client.settle(20.0)
    assert len(client.network.opened) < 50
    members["a"].refusal = None
    client.run(lambda: call.finished)
    assert ok(call)


def test_members_that_serve_clients_since_later_are_known_when_the_first_ones_are_gone(members: Members) -> None:
    members.advertised.clear()
    client = connected(members, "a")
    members.write(*(ops.Put(letters.ADDRESSES + name, where) for name, where in ((b"b", members["b"].url), (b"x", "?"), (b"y", b"\xff"))))
    client.settle(2 * WHEREABOUTS_AGAIN)
    members["a"].die()
    call = put(client, "k")
    client.run(lambda: call.finished)
    assert client.at == "b"
    assert ok(call)


@pytest.mark.parametrize("why", [Closed("a is closed"), Removed("a was removed"), Corrupt("a's disk"), InvariantBroken("a bug in a")])
def test_what_a_member_that_stopped_left_undone_is_asked_of_the_next(members: Members, why: ReplkvError) -> None:
    client = connected(members, "ab")
    members["a"].refusal = why
    calls = put(client, "k"), ask(client, "k")
    client.run(lambda: all(call.finished for call in calls))
    assert client.at == "b"
    assert all(call.error is None for call in calls)


def test_a_member_that_sends_nonsense_is_left(members: Members, caplog: pytest.LogCaptureFixture) -> None:
    client = connected(members, "ab")
    members["a"].cables[0].to_client.append(b"nonsense")
    client.run(lambda: client.at == "b")
    assert "what no member sends" in caplog.text


@pytest.mark.parametrize("kind", ["greeting", "question"])
def test_a_member_that_answers_what_was_not_asked_is_left(members: Members, kind: str) -> None:
    answers = members["a"].hello if kind == "greeting" else members["a"].read
    setattr(members["a"], answers.__name__, lambda cable, asked: cable.reply(Pong(asked.number, 1, 0, "a", (), "")))
    client = members.client("ab")
    call = ask(client, "k")
    client.run(lambda: call.finished)
    assert ok(call)
    assert client.at == "b"
    assert client.failure is None


def test_a_frame_is_acknowledged_after_eight_even_if_there_is_nothing_to_say(members: Members) -> None:
    client = connected(members, "a")
    client.settle(0.1)
    cable = members["a"].cables[0]
    said = len(cable.requests)
    unseen = []
    for _ in range(40):
        cable.reply()
        client.turn(0.0)
        unseen.append(cable.sent - cable.seen)
    assert set(unseen) == set(range(8))
    assert len(cable.requests) == said


def test_a_large_frame_is_acknowledged_at_once_for_its_member_may_lack_the_memory_for_others(members: Members) -> None:
    client = connected(members, "a")
    members.write(ops.Put("k", "v" * letters.SEEN_BYTES))
    call = ask(client, "k")
    client.run(lambda: call.finished)
    client.turn(0.0)
    cable = members["a"].cables[0]
    assert cable.seen == cable.sent


# -- commands -------------------------------------------------------------------------------------------------------------------------


def test_a_full_disk_refuses_what_grows_and_lets_the_rest_through(members: Members) -> None:
    client = connected(members, "a")
    first = put(client, "k")
    client.run(lambda: first.finished)
    members["a"].refusal = DiskFull("the disks are full: make room there")
    grows, shrinks = put(client, "k", "x" * 100), Caller.of(ops.Delete("k"))
    client.admission.enter_anyway(len(shrinks.command or b""))
    client.submit(shrinks)
    client.settle()
    assert isinstance(grows.error, DiskFull)
    assert not shrinks.finished
    members["a"].refusal = None
    client.run(lambda: shrinks.finished)
    assert ok(shrinks)
    assert client.admission.commands == 0


@pytest.mark.parametrize("overload", ["block", "raise"])
def test_a_member_without_room_is_asked_again_or_the_caller_is_told(members: Members, overload: Any) -> None:
    client = connected(members, "a", config=Config(overload=overload))
    first = put(client, "k")
    client.run(lambda: first.finished)
    members["a"].refusal = Overloaded("no room")
    call = put(client, "k", "2")
    client.settle(0.05)
    members["a"].refusal = None
    begun = members.now
    client.run(lambda: call.finished)
    if overload == "raise":
        assert isinstance(call.error, Overloaded)
    else:
        assert ok(call)
        assert members.now - begun <= AGAIN_AFTER


@pytest.mark.parametrize("overload", ["block", "raise"])
def test_a_question_a_member_has_no_room_for_is_asked_again_or_the_caller_is_told(members: Members, overload: Any) -> None:
    client = connected(members, "ab", config=Config(overload=overload))
    members.write(ops.Put("k", "v"))
    members["a"].has_room = False
    calls = [ask(client, "k") for _ in range(3)]
    client.settle(1.0)
    if overload == "raise":
        assert all(isinstance(call.error, Overloaded) for call in calls)
        return
    assert "; no room" in str(ReadPlan(ops.Get("k"), b"", "linearizable").expired(client, untouched=True))
    assert len(members["a"].seen(Read)) == pytest.approx(3 * 1.0 / AGAIN_AFTER, abs=6), "in moderation"
    assert client.give_up(calls[2])
    client.settle()
    members["a"].has_room = True
    begun = members.now
    client.run(lambda: calls[0].finished)
    assert members.now - begun <= AGAIN_AFTER
    assert [call.finished for call in calls] == [1, 1, 0]
    assert not client._questions.unanswered


def test_a_question_that_no_member_would_read_is_refused_and_costs_nobody_else_anything(members: Members) -> None:
    client = watching(members, "a")
    key = "k" * (codec.COMMAND_MAX - 10)
    calls = [ask(client, key), ask(client, "k")]
    client.run(lambda: calls[1].finished)
    assert isinstance(calls[0].error, TooLarge)
    assert ok(calls[1])
    assert not client._questions.unanswered
    for options in ({}, {"initial": True}):
        watch = Watch(client, Span.of(key), **options)
        client.settle()
        with pytest.raises(TooLarge):
            watch.next(1.0)
    assert client.failure is None


@pytest.mark.parametrize("seconds", [1e-9, 1e300])
def test_a_bound_of_any_size_on_staleness_can_be_asked_for(members: Members, seconds: float) -> None:
    client = connected(members, "a")
    call = Caller()
    client.ask(ReadPlan(ops.Get("k"), b"", "local", max_staleness=seconds), call)
    client.run(lambda: call.finished)
    assert ok(call)


def test_a_question_that_was_put_off_is_asked_at_the_next_member(members: Members) -> None:
    client = connected(members, "ab")
    members["a"].has_room = False
    call = ask(client, "k")
    client.settle()
    assert not call.finished
    members["a"].die()
    client.run(lambda: call.finished)
    assert ok(call)
    assert client.at == "b"


def test_a_batch_that_came_over_from_another_member_is_sent_again_soon_when_there_was_no_room(members: Members) -> None:
    client = connected(members, "ab")
    first = put(client, "k", "1")
    client.run(lambda: first.finished)
    members["a"].answers_batches = False
    call = put(client, "k", "2")
    client.settle()
    members["a"].die()
    members["b"].refusal = Overloaded("no room")
    client.run(lambda: members["b"].seen(Batch))
    client.settle(0.02)
    members["b"].refusal = None
    begun = members.now
    client.run(lambda: call.finished)
    assert ok(call)
    assert members.now - begun <= AGAIN_AFTER


def test_a_batch_that_may_have_been_applied_is_not_called_refused(members: Members) -> None:
    client = connected(members, "ab")
    first = put(client, "k", "1")
    client.run(lambda: first.finished)
    members["a"].answers_batches = False
    call = put(client, "k", "2")
    client.settle()
    members["a"].die()
    members["b"].refusal = DiskFull("full")
    client.settle(2.0)
    assert client.at == "b"
    assert not call.finished
    members["b"].refusal = None
    client.run(lambda: call.finished)
    assert ok(call)
    assert value(members, "k") == (b"2", 2)


def test_after_its_session_expired_a_new_batch_goes_into_a_new_one_and_an_old_one_is_unknown(members: Members) -> None:
    client = connected(members, "ab")
    first = put(client, "k", "1")
    client.run(lambda: first.finished)
    client.settle(700.0)
    second = put(client, "k", "2")
    client.run(lambda: second.finished)
    assert ok(second), "sent once, and not executed"
    members["a"].answers_batches = False
    third = put(client, "k", "3")
    client.settle()
    members["a"].die()
    members["b"].up = False
    members["c"].up = False
    client.settle(700.0)
    members["b"].up = True
    client.run(lambda: third.finished)
    assert isinstance(third.error, OutcomeUnknown), "it was applied, in a session that is gone"
    assert value(members, "k") == (b"3", 3)
    fourth = put(client, "k", "4")
    client.run(lambda: fourth.finished)
    assert ok(fourth)
    assert client.admission.commands == 0


# -- reads ----------------------------------------------------------------------------------------------------------------------------


def test_local_reads_never_go_back_in_time(members: Members) -> None:
    client = connected(members, "ab")
    members["b"].behind = 1
    call = put(client, "k", "new")
    client.run(lambda: call.finished)
    assert client.revision == 2
    members["a"].die()
    client.run(lambda: client.at == "b")
    read = ask(client, "k", "local")
    client.settle(2.0)
    assert not read.finished, "it would show the state before the put"
    assert members["b"].seen(Read)[0].min_revision == 2
    assert isinstance(ReadPlan(ops.Get("k"), b"", "local").expired(client, untouched=True), NoLeader)
    assert isinstance(ReadPlan(ops.Get("k"), b"", "local", min_revision=9).expired(client, untouched=True), TooStale)


def test_who_gives_up_leaves_nothing_behind(members: Members) -> None:
    client = connected(members, "a")
    call = Caller()
    client.ask(ReadPlan(ops.Get("k"), b"", "local", min_revision=9), call)
    client.settle()
    number = members["a"].seen(Read)[0].number
    assert client.give_up(call)
    client.settle()
    assert members["a"].seen(Cancel) == [Cancel(number)]
    assert not client._questions.unanswered
    assert not call.finished


def test_to_be_ready_is_to_have_a_member_that_knows_a_leader(members: Members) -> None:
    client = connected(members, "a")
    client.settle(0.1)
    assert client.at_once(Ready(0)) == (wire.OK,)
    assert client.at_once(Ready(None)) is NOT_YET
    members["a"].leader = None
    client.settle(6.0)
    assert client.at_once(Ready(0)) is NOT_YET
    assert isinstance(Ready(0).expired(client, untouched=True), WaitTimeout)
    call = Caller()
    client.ask(Ready(None), call)
    client.settle()
    assert Look(members["a"].seen(Look)[0].number, letters.READY) in members["a"].seen(Look)


def test_only_so_many_questions_are_under_way_and_all_are_answered(members: Members) -> None:
    client = connected(members, "a")
    members["a"].mute = True
    calls = [ask(client, f"k{number}") for number in range(3000)]
    client.settle()
    assert len(members["a"].seen(Read)) == 1024
    client.run(lambda: all(call.finished for call in calls))
    assert client.at != "a"


# -- leases ---------------------------------------------------------------------------------------------------------------------------


def grant(client: RemoteUnderTest, members: Members, ttl: float = 6.0) -> Any:
    members.write(ops.Grant(0, round(ttl * 1e6), client.keeper.number))
    number = members.log.machine.leases.last_id
    return client.keeper.hold(number, ttl, members.now, kept=True)


def test_leases_are_kept_alive_also_through_a_change_of_members(members: Members) -> None:
    client = connected(members, "ab")
    held = grant(client, members)
    client.look_again()
    client.settle(20.0)
    assert not held.lost
    members["a"].die()
    client.settle(20.0)
    assert client.at in ("b", "c")
    assert not held.lost
    assert members.now < held.until <= members.now + 6.0


def test_of_the_leases_that_were_kept_alive_only_those_count_that_the_cluster_has(members: Members) -> None:
    client = connected(members, "a")
    stays, ended, taken = (grant(client, members) for _ in range(3))
    members.write(ops.Revoke(ended.id))
    members.write(ops.Renew(taken.id, 999))
    client.settle(3.0)
    assert [held.lost for held in (stays, ended, taken)] == [False, True, True]
    assert stays.until > members.now + 3.0


def test_a_lease_of_this_client_that_nobody_holds_is_revoked(members: Members) -> None:
    client = connected(members, "a")
    grant(client, members)
    members.write(ops.Grant(77, 60_000_000, client.keeper.number))
    client.settle(5.0)
    assert 77 not in members.log.machine.leases


def test_leases_are_given_up_in_time_while_nobody_can_be_reached(members: Members) -> None:
    client = connected(members, "abc")
    held = grant(client, members)
    for front in members.fronts.values():
        front.die()
    client.settle(5.9)
    assert not held.lost
    client.settle(0.1)
    assert held.lost


# -- watches --------------------------------------------------------------------------------------------------------------------------


def test_a_watch_begins_behind_what_its_member_has(members: Members) -> None:
    members.write(ops.Put("k", "old"))
    client = watching(members, "a")
    members.write(ops.Put("k", "unheard of"))
    watch = Watch(client, Span.of("k"))
    assert watch.revision == 4
    members.write(ops.Put("k", "new"))
    assert revisions(drain(watch)) == [4]


def test_a_watch_does_not_begin_before_what_was_seen_although_its_member_is_behind(members: Members) -> None:
    client = watching(members, "ab")
    call = put(client, "k", "seen before")
    client.run(lambda: call.finished)
    members["b"].behind = 1
    members["a"].die()
    client.run(lambda: client.at == "b")
    watch = Watch(client, Span.of("k"))
    assert watch.revision == 3
    members["b"].behind = 0
    members.write(ops.Put("k", "new"))
    assert revisions(drain(watch)) == [3]


def test_what_is_written_after_a_watch_was_made_is_not_missed_although_its_member_was_lost(members: Members) -> None:
    client = connected(members, "ab")
    client.settle(0.5)
    members["a"].mute = True
    bell: list[int] = []
    feed = client.feed(Wanted.of(Span.of("k")), lambda: bell.append(1))
    client.settle()
    assert not feed.begun
    members.write(ops.Put("k", "v"))
    client.run(lambda: feed.begun)
    assert feed.revision <= 2
    client.run(lambda: client.at == "b")
    client.settle()
    assert bell
    found: list[Any] = []
    while (one := feed.look(whole=False)) is not None:
        found += one if isinstance(one, tuple) else ()
    assert revisions(found) == [2]


def test_a_watch_goes_on_at_the_next_member_without_gap_or_repeat_also_amid_a_revision(members: Members) -> None:
    client = watching(members, "ab")
    watch = Watch(client, Span.of(), start_revision=2)
    members.write(ops.Txn(then=[ops.Put(f"k{number:02}", "v") for number in range(20)]))
    for _ in range(10):
        members.write(ops.Put("other", "v"))
    found = [watch.next(1.0) for _ in range(2 * HELPING)]
    client.settle()
    members["a"].die()
    found += drain(watch)
    assert client.at == "b"
    assert [(event.revision, event.key) for event in found if isinstance(event, Event)] == [
        *((2, b"k%02d" % number) for number in range(20)),
        *((revision, b"other") for revision in range(3, 13)),
    ]
    assert members["b"].seen(Pull)[0].passed > 0, "the place was amid a revision"


def test_whole_revisions_are_yielded_together_however_many_helpings_they_take(members: Members) -> None:
    client = watching(members, "a")
    watch = Watch(client, Span.of(), start_revision=2)
    members.write(ops.Txn(then=[ops.Put(f"k{number:02}", "v") for number in range(50)]))
    assert len(next(watch.batches())) == 50


def test_a_whole_revision_is_not_held_back_because_the_rest_of_it_is_of_other_keys(members: Members) -> None:
    client = watching(members, "a")
    watch = Watch(client, Span.of(prefix="a"), start_revision=2)
    members.write(ops.Txn(then=[ops.Put("a", "v"), *(ops.Put(f"b{number:02}", "v") for number in range(50))]))
    batches = watch.batches()
    watch.request_progress()
    assert [event.key for event in next(batches) if isinstance(event, Event)] == [b"a"]
    assert next(batches) == (Progress(2),)


def test_a_slow_consumer_has_a_few_helpings_sent_ahead_and_no_more(members: Members) -> None:
    client = watching(members, "a")
    watch = Watch(client, Span.of("k"), start_revision=2)
    for _ in range(100):
        members.write(ops.Put("k", "v"))
    client.settle(10.0)
    assert len(members["a"].seen(Pull)) <= HELPINGS + 1
    assert revisions(drain(watch)) == list(range(2, 102))


def test_the_present_state_is_read_by_the_page_at_one_revision_then_come_changes(members: Members) -> None:
    for number in range(600):
        members.write(ops.Put(f"app/k{number:03}", "v"))
    client = watching(members, "ab")
    watch = Watch(client, Span.of(prefix="k").below(b"app/"), initial=True, prefix=b"app/")
    assert watch.revision == 0
    first = watch.next(1.0)
    members.write(ops.Put("app/k000", "later"))
    members["a"].die()
    found = drain(watch)
    keys = [event.key for event in [first, *found[:599]]]
    assert keys == [b"k%03d" % number for number in range(600)]
    synced, *changes = found[599:]
    assert isinstance(synced, Synced)
    assert revisions(changes) == [revision for revision in (602,) if revision > synced.revision]
    assert watch.revision == 603


def test_a_watch_behind_the_compaction_says_so(members: Members) -> None:
    for _ in range(9):
        members.write(ops.Put("k", "v"))
    members.write(ops.Compact(8))
    client = watching(members, "a")
    watch = Watch(client, Span.of(), start_revision=3)
    with pytest.raises(Compacted) as caught:
        watch.next(1.0)
    assert caught.value.revision == 8
    client.settle(1.0)
    assert len(members["a"].seen(Ping)) < 10


def test_a_mark_comes_behind_all_that_was_there_when_it_was_asked_for(members: Members) -> None:
    client = watching(members, "a")
    watch = Watch(client, Span.of("k"))
    members.write(ops.Put("k", "v"))
    members.write(ops.Put("other", "v"))
    watch.request_progress()
    assert [watch.next(1.0), watch.next(1.0)][1] == Progress(3)
    assert watch.next(0.1) is None
    assert watch.revision == 4
    members["a"].die()
    watch.request_progress()
    client.settle(1.0)
    assert watch.next(1.0) == Progress(3)


def test_marks_come_by_themselves_when_nothing_comes_for_a_while(members: Members) -> None:
    client = watching(members, "a")
    watch = Watch(client, Span.of("k"), progress=True, progress_interval=10.0)
    for _ in range(5):
        members.write(ops.Put("other", "v"))
    assert watch.next(9.0) is None
    assert watch.next(2.0) == Progress(6)


def test_a_quiet_watch_moves_on_with_its_member(members: Members) -> None:
    client = watching(members, "ab")
    watch = Watch(client, Span.of("k"))
    for _ in range(50):
        members.write(ops.Put("other", "v"))
    client.settle(2.0)
    assert watch.revision == 52
    members.write(ops.Compact(51))
    members["a"].die()
    members.write(ops.Put("k", "v"))
    assert revisions(drain(watch)) == [52]


def test_a_watch_that_is_closed_is_pulled_for_no_more(members: Members) -> None:
    client = watching(members, "a")
    watch = Watch(client, Span.of("k"))
    client.settle()
    pull = members["a"].seen(Pull)[-1]
    watch.close()
    client.settle()
    assert members["a"].seen(Cancel) == [Cancel(pull.number)]
    assert not client._pulls.any
    with pytest.raises(Closed):
        watch.next(0)


def test_a_watch_that_nobody_holds_is_forgotten(members: Members) -> None:
    client = watching(members, "a")
    Watch(client, Span.of("k"), start_revision=5)
    client.settle()
    assert not client._pulls.any


def test_a_watch_that_can_not_begin_says_why(members: Members) -> None:
    client = watching(members, "a", config=Config(timeout=2.0))
    for front in members.fronts.values():
        front.die()
    client.settle()
    with pytest.raises(NoLeader, match="not reachable"):
        Watch(client, Span.of("k"))


def test_a_view_whose_history_was_lost_shows_the_old_state_until_the_new_one_is_whole(members: Members) -> None:
    members.write(ops.Put("k/a", "1"))
    client = watching(members, "a")
    view = View(Source(client), "k/", TEXT)
    assert dict(view.items()) == {"a": "1"}
    for front in members.fronts.values():
        front.die()
    members.write(ops.Put("k/a", "2"))
    members.write(ops.Put("k/b", "2"))
    members.write(ops.Compact(4))
    client.settle(2.0)
    assert (view["a"], view.revision) == ("1", 2)
    for front in members.fronts.values():
        front.up, front.cables = True, []
    client.run(lambda: client.connected)
    begun, shown = members.now, set()
    while view.get("b") is None:
        shown.add((view["a"], view.revision))
        changes = view.changes(5.0)
        client.turn(0.0)
    assert shown == {("1", 2)}, "no read waited, and none saw half a state"
    assert members.now == begun
    assert dict(view.items()) == {"a": "2", "b": "2"}
    assert [(one.key, one.previous, one.value) for one in (next(changes), next(changes))] == [("a", "1", "2"), ("b", None, "2")]
    changes.close()
    view.wait(4, 0)


def test_a_view_of_a_client_without_a_member_says_why_there_is_no_state(members: Members) -> None:
    client = watching(members, "a", config=Config(timeout=2.0))
    for front in members.fronts.values():
        front.die()
    view = View(Source(client), "k/", TEXT)
    with pytest.raises(NoLeader, match="not reachable"):
        len(view)
    for front in members.fronts.values():
        front.up, front.cables = True, []
    assert len(view) == 0


def test_a_client_has_so_many_watches_and_no_more(members: Members, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("replkv.pulling.WATCHES_MAX", 3)
    client = watching(members, "a")
    watches = [Watch(client, Span.of(f"k{number}"), start_revision=2) for number in range(3)]
    client.settle()
    with pytest.raises(Overloaded, match="another client"):
        Watch(client, Span.of("k"))
    watches.pop().close()
    client.settle()
    Watch(client, Span.of("k"))


def test_the_age_of_a_state_counts_from_the_question_that_confirmed_it(members: Members) -> None:
    client = connected(members, "a")
    assert client.age == float("inf")
    client.settle(1.0)
    confirmed = members.now
    assert client.age <= 1.1
    assert client.age_at(0) == float("inf")
    members.write(ops.Put("k", "v"))
    for front in members.fronts.values():
        front.die()
    client.settle(30.0)
    assert client.age_at(1) >= members.now - confirmed - 0.1


# -- by chance ------------------------------------------------------------------------------------------------------------------------


def trouble(members: Members, rng: random.Random) -> None:
    """Let something happen to some member, or to the one that was in trouble longest."""
    front = members[rng.choice("abc")]
    match rng.randrange(8):
        case 0:
            front.die()
        case 1:
            front.stop()
        case 2:
            front.mute = True
        case 3:
            front.leader = None
        case 4:
            front.answers_batches = False
        case 5:
            front.refusal = rng.choice([Overloaded("no room"), DiskFull("full"), Closed("member is closed")])
        case _:
            heal(members)


def heal(members: Members) -> None:
    for front in members.fronts.values():
        if front.mute or not front.answers_batches or front.leader is None:
            front.die()  # what it took in and did not answer is gone with its connections
        front.up, front.mute, front.leader, front.answers_batches, front.refusal = True, False, "a", True, None
        front.cables = [cable for cable in front.cables if cable.lost is None]


@pytest.mark.parametrize("seed", range(40))
def test_whatever_happens_to_members_each_command_takes_effect_once_and_a_watch_sees_it(seed: int) -> None:
    rng, members = random.Random(seed), Members()
    client = watching(members, "abc")
    watch = Watch(client, Span.of(prefix="k"), start_revision=2)
    calls: list[Caller] = []
    seen: list[Any] = []
    for _ in range(60):
        for _ in range(rng.randrange(4)):
            call = Caller.of(ops.Add(f"k{rng.randrange(3)}", 1))
            client.admission.enter_anyway(len(call.command or b""))
            client.submit(call)
            calls.append(call)
        if rng.random() < 0.3:
            trouble(members, rng)
        if rng.random() < 0.5:
            members.write(ops.Put("k9" if rng.random() < 0.5 else "other", "x"))
        client.settle(rng.choice([0.0, 0.0, 0.1, 1.0, 4.0]))
        while rng.random() < 0.7 and (one := watch.next(0)) is not None:
            seen.append(one)
    heal(members)
    client.run(lambda: all(call.finished for call in calls))
    refused = sum(isinstance(call.error, DiskFull) for call in calls)
    assert all(call.finished == 1 and (call.error is None or isinstance(call.error, DiskFull)) for call in calls)
    newest = members.log.machine.store.newest
    assert sum(int(newest[key][1]) for key in (b"k0", b"k1", b"k2") if key in newest) == len(calls) - refused
    assert client.admission.commands == 0
    seen += drain(watch)
    events = [record for record in members.log.machine.store.events if record[0].startswith(b"k")]
    assert [(event.key, event.value, event.revision) for event in seen] == [(key, value, mod) for key, value, _, mod, *_ in events]


# -- the end --------------------------------------------------------------------------------------------------------------------------


def test_the_end_answers_everybody(members: Members) -> None:
    client = watching(members, "a")
    first = put(client, "k")
    client.run(lambda: first.finished)
    watch, held = Watch(client, Span.of("k"), start_revision=2), grant(client, members)
    assert watch.next(1.0) is not None
    members["a"].answers_batches = False
    sent, read = put(client, "k"), Caller()
    client.ask(ReadPlan(ops.Get("k"), b"", "local", min_revision=99), read)
    client.settle()
    members["a"].leader = None
    client.settle(1.2)
    unsent = put(client, "k")
    client.request_close(5.0)
    begun = members.now
    client.run(lambda: client.stopped)
    assert members.now - begun <= 1.1
    assert isinstance(sent.error, OutcomeUnknown)
    assert isinstance(read.error, Closed)
    assert isinstance(unsent.error, Closed)
    assert held.lost
    assert revisions([watch.next(0)]) == [3]
    with pytest.raises(Closed, match="this client"):
        watch.next()
    late, question = put(client, "k"), ask(client, "k")
    assert isinstance(late.error, Closed)
    assert isinstance(question.error, Closed)
    assert client.network.closed
    assert client.failure is None


def test_what_is_under_way_is_waited_for_at_the_end(members: Members) -> None:
    client = connected(members, "a")
    call = put(client, "k")
    client.request_close(5.0)
    client.run(lambda: client.stopped)
    assert ok(call)


def test_what_is_given_up_just_before_the_end_is_revoked(members: Members, monkeypatch: pytest.MonkeyPatch) -> None:
    client = connected(members, "a")
    held = grant(client, members)
    client.look_again()
    client.settle(0.1)  # nothing is under way any more
    send = client._send

    def meanwhile(now: float) -> None:
        """What another thread does while the client is in the middle of a turn."""
        monkeypatch.setattr(client, "_send", send)
        client.keeper.drop(held)
        client.request_close(5.0)
        send(now)

    monkeypatch.setattr(client, "_send", meanwhile)
    client.run(lambda: client.stopped)
    assert not list(members.log.machine.leases)


def test_who_is_refused_by_itself_just_when_the_client_ends_does_not_keep_the_others_waiting(
    members: Members, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Quick(deque[Any]):
        """Another thread takes the only one out when it has been counted."""

        def __len__(self) -> int:
            return super().__len__() + 1

    client = connected(members, "a")
    members["a"].mute = True
    call = ask(client, "k")
    client.settle()
    monkeypatch.setattr(client._questions, "_coming", Quick())
    client.request_close(0.0)
    client.run(lambda: client.stopped)
    assert isinstance(call.error, Closed)
    assert client.network.closed


def test_an_error_it_should_not_have_ends_it_and_answers_everybody(members: Members, monkeypatch: pytest.MonkeyPatch) -> None:
    client = connected(members, "a")
    call = ask(client, "k")
    monkeypatch.setattr(Keeper, "turn", lambda self, now: 1 / 0)
    client.turn(0.0)
    assert client.stopped
    assert isinstance(client.failure, InvariantBroken)
    assert isinstance(call.error, InvariantBroken)


def test_a_forked_child_is_told_and_disturbs_nobody(members: Members, monkeypatch: pytest.MonkeyPatch) -> None:
    client = watching(members, "a")
    watch = Watch(client, Span.of("k"), start_revision=5)
    with monkeypatch.context() as child:
        child.setattr(fork, "_generation", fork.generation() + 1)
        with pytest.raises(ForkedProcess, match="connect"):
            client.ensure_not_forked()
        with pytest.raises(ForkedProcess):
            watch.next(0)
        client.network.woken = False
        del watch
        assert not client.network.woken


def test_a_client_numbers_itself_and_its_keeper_at_random(members: Members) -> None:
    one, other = members.client("a"), members.client("a")
    other._targets.rng = random.Random(1)
    assert one.keeper.number > 0
    assert one.waits is THREADS
    assert codec.unpack(command(ops.Put("k", "v")))[0] == wire.PUT
