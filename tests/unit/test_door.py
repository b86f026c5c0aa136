"""``door.py``: each request has its reply, nothing is lost or repeated, and no client costs another one anything."""

from __future__ import annotations

import logging
from typing import Any

import attrs
import pytest
from visitors import Hall, Visitor, batch, pull, read

from replkv import codec, door, errands, letters, ops, wire
from replkv.door import Door, advertised
from replkv.errands import PullErrand
from replkv.errors import Closed, Compacted, FutureRevision, Incompatible, LeaseNotFound, MemberNotFound, Overloaded, TooLarge, TooStale
from replkv.letters import (
    ADDRESSES,
    UNSEEN_MAX,
    Answer,
    Batch,
    Cancel,
    Events,
    Hello,
    Look,
    Outcome,
    Ping,
    Pong,
    Pull,
    Welcome,
)
from replkv.status import Status
from replkv.transport import Arrived


@pytest.fixture
def hall() -> Hall:
    made = Hall()
    made.run(lambda: made.node.ready)
    return made


@pytest.fixture
def visitor(hall: Hall) -> Visitor:
    return hall.visitor()


def put(visitor: Visitor, *pairs: tuple[str, str], number: int = 1000) -> None:
    """Write pairs, each at a revision of its own."""
    session = visitor.opens(number)
    outcome = visitor.asks(batch(number + 1, session, 1, *(ops.Put(*pair) for pair in pairs)))
    assert len(outcome.answers) == len(pairs)


# -- greetings --------------------------------------------------------------------------------------------------------------------


def test_a_client_is_told_whom_it_has_reached(hall: Hall) -> None:
    welcome = hall.stranger().greets()
    node, incarnation = hall.node, hall.node.links.identity.incarnation
    assert welcome == Welcome(1, 1, "a", node.links.cluster, incarnation, node.settings, {}, node.published.revision)


def test_a_member_that_is_not_founded_yet_answers_when_it_is() -> None:
    hall = Hall("abc")
    for name in "bc":
        hall.cluster.crash(name)
    visitor = hall.stranger()
    visitor.says(Hello(1, letters.VERSION, 99))
    hall.wait(2.0)
    assert visitor.listen() == []
    for name in "bc":
        hall.cluster.start(name)
    assert isinstance(visitor.hears(1), Welcome)


def test_a_client_of_a_newer_version_is_told_which_one_the_member_speaks(hall: Hall) -> None:
    visitor = hall.stranger()
    visitor.says(Hello(1, letters.VERSION + 7, 99))
    assert visitor.hears(1).version == letters.VERSION


def test_a_client_of_a_version_that_is_too_old_is_told_so(hall: Hall) -> None:
    visitor = hall.stranger()
    visitor.says(Hello(1, letters.OLDEST - 1, 99), Ping(2))
    failed = visitor.hears(1)
    assert isinstance(failed.error, Incompatible)
    assert "member a speaks versions 1 to 1 with clients, this client none above 0: upgrade it" in str(failed.error)
    assert visitor.listen() == []
    hall.wait(door.SILENT + 2)
    assert visitor.kicked


@pytest.mark.parametrize("first", [Ping(1), read(1, ops.Get("k")), Cancel(1)])
def test_who_does_not_greet_first_is_sent_away(hall: Hall, first: Any) -> None:
    visitor = hall.stranger()
    visitor.says(first)
    assert visitor.kicked
    assert hall.empty


def test_who_greets_twice_is_sent_away(visitor: Visitor) -> None:
    visitor.says(Hello(2, letters.VERSION, 99))
    assert visitor.kicked


# -- writes and reads -------------------------------------------------------------------------------------------------------------


def test_writes_take_effect_once_and_are_answered(visitor: Visitor) -> None:
    session = visitor.opens()
    add = batch(11, session, 1, ops.Add("n", 2), ops.Add("n", 3))
    outcome = visitor.asks(add)
    assert outcome == Outcome(11, session, 1, outcome.answers)
    assert [answer[2] for answer in outcome.answers] == [2, 5]
    assert visitor.revision == outcome.answers[1][1], "what the frame tells is never behind what is said in it"
    assert visitor.asks(attrs.evolve(add, number=12)).answers == outcome.answers


@pytest.mark.parametrize("consistency", letters.CONSISTENCIES)
def test_reads_are_answered_as_the_machine_answers(visitor: Visitor, consistency: str) -> None:
    put(visitor, ("k", "v"))
    record = visitor.asks(read(1, ops.Get("k"), consistency)).raw[1]
    assert record[:2] == (b"k", b"v")
    assert visitor.asks(read(2, ops.Scan(prefix="k"), consistency)).raw[2] == (record,)
    reading = ops.Txn(compare=[ops.Key("k").value == "v"], then=[ops.Get("k")])
    assert visitor.asks(read(3, reading, consistency)).raw[2:] == (True, ((0, record),))
    assert visitor.asks(read(4, ops.Get("missing"), consistency)).raw == (wire.OK, None)


def test_a_refusal_is_an_answer(visitor: Visitor) -> None:
    with pytest.raises(FutureRevision):
        wire.unless_refused(visitor.asks(read(1, ops.Get("k", revision=99))).raw)


def test_a_local_read_waits_for_the_revision_and_the_freshness_asked_for() -> None:
    hall = Hall("abc", at=2)
    hall.run(hall.cluster.leader)
    visitor = hall.visitor()
    put(visitor, ("k", "v"))
    revision = hall.node.published.revision
    assert visitor.asks(read(1, ops.Get("k"), "local", min_revision=revision)).raw[1][1] == b"v"
    assert visitor.asks(read(2, ops.Get("k"), "local", max_staleness=1)).raw[1][1] == b"v"
    assert visitor.asks(read(3, ops.Get("k"), "local", max_staleness=0)).raw[1][1] == b"v"
    assert isinstance(visitor.asks(read(4, ops.Get("k"), "local", min_revision=revision + 1)).error, TooStale)


def test_reads_wait_for_a_leader_until_they_are_cancelled() -> None:
    hall = Hall("abc", at=2)
    hall.run(hall.cluster.leader)
    visitor = hall.visitor()
    for name in "ab":
        hall.cluster.crash(name)
    visitor.says(read(1, ops.Get("k")), read(2, ops.Get("k")), Look(3, letters.READY), read(4, ops.Get("k"), "local"))
    assert visitor.hears(4).raw == (wire.OK, None)
    hall.wait(10.0)
    visitor.says(Cancel(2), Cancel(3), Cancel(77))
    hall.cluster.start("a")
    assert visitor.hears(1).raw == (wire.OK, None)
    hall.wait(1.0)
    assert visitor.listen() == []


def test_leadership_is_handed_over_for_a_client() -> None:
    hall = Hall("abc", at=2)
    hall.run(hall.cluster.leader)
    visitor = hall.visitor()
    for number, name in enumerate("cabc", 1):
        assert visitor.asks(letters.HandOver(number, name)).raw == (wire.OK,)
        assert hall.node.status().raft_leader == name
    assert visitor.asks(letters.HandOver(5, "")).raw == (wire.OK,)
    assert hall.node.status().raft_leader in ("a", "b")
    refused = visitor.asks(letters.HandOver(6, "x"))
    assert isinstance(refused.error, MemberNotFound)
    assert "those that can lead are a, b, c" in str(refused.error)


def test_what_is_in_the_way_of_a_new_leader_is_told_until_nobody_wants_it_any_more() -> None:
    hall = Hall("abc", at=2)
    hall.run(hall.cluster.leader)
    visitor = hall.visitor()
    (gone,) = {"a", "b"} - {hall.node.status().raft_leader}
    hall.cluster.crash(gone)
    visitor.says(letters.HandOver(1, gone))
    hall.wait(1.0)
    assert f"; {gone} can't be reached" in visitor.asks(Ping(2)).trouble
    visitor.says(Cancel(1))
    hall.wait(1.0)
    assert f"; {gone} can't be reached" not in visitor.asks(Ping(3)).trouble
    assert hall.node.succession._wishes == []


def test_looks(hall: Hall, visitor: Visitor) -> None:
    session = visitor.opens()
    visitor.asks(batch(2, session, 1, ops.Grant(7, 10_000_000, 55), ops.Grant(9, 10_000_000, 55), ops.Grant(8, 10_000_000, 0)))
    visitor.asks(batch(3, session, 2, ops.Put("k", "v", lease=7)))
    assert visitor.asks(Look(4, letters.READY)).raw == (wire.OK,)
    assert sorted(row[0] for row in visitor.asks(Look(5, letters.LEASES)).raw[1]) == [7, 8, 9]
    assert visitor.asks(Look(6, letters.LEASE_KEYS, 7)).raw == (wire.OK, (b"k",))
    assert isinstance(visitor.asks(Look(7, letters.LEASE_KEYS, 99)).error, LeaseNotFound)
    assert visitor.asks(Look(8, letters.KEPT, 55)).raw == (wire.OK, (7, 9))
    assert visitor.asks(Look(9, letters.KEPT, 56)).raw == (wire.OK, ())
    status, *fields = visitor.asks(Look(10, letters.STATUS)).raw
    assert (status, Status(*fields)) == (wire.OK, hall.node.status())
    assert visitor.asks(Look(11, letters.MEMBERS)).raw == (wire.OK, (("a", "tcp://a:1", False, True),))


def test_an_answer_that_is_too_large_is_refused_and_a_write_s_is_left_out(visitor: Visitor, monkeypatch: pytest.MonkeyPatch) -> None:
    put(visitor, ("k", "v" * 1000))
    session = visitor.opens(50)
    monkeypatch.setattr(letters, "REPLY_MAX", 500)
    assert isinstance(visitor.asks(read(1, ops.Get("k"))).error, TooLarge)
    outcome = visitor.asks(batch(2, session, 1, ops.Delete("k", prev_kv=True)))
    assert outcome == Outcome(2, session, 1, None)


def test_a_large_answer_comes_in_parts(visitor: Visitor) -> None:
    put(visitor, *((f"k{number}", "v" * 1_000_000) for number in range(5)))
    visitor.says(read(1, ops.Scan()), Ping(2))
    assert isinstance(visitor.hears(2), Pong)
    assert len(visitor.hears(1).raw[2]) == 5


# -- watches ----------------------------------------------------------------------------------------------------------------------


def follow(visitor: Visitor, first: Pull, count: int) -> list[Any]:
    """Pull until so many events have come."""
    events: list[Any] = []
    request = first
    while len(events) < count:
        helping = visitor.asks(request)
        assert isinstance(helping, Events), helping
        events += helping.events
        request = attrs.evolve(
            request, number=request.number + 1, revision=helping.revision, passed=helping.passed, synced=helping.caught_up
        )
    return events


def test_a_watch_is_pulled_from_one_helping_to_the_next_without_gap_or_repeat(visitor: Visitor) -> None:
    pairs = [(f"k{number % 7}", str(number)) for number in range(1000)]
    put(visitor, *pairs)
    events = follow(visitor, pull(1, 1), 1000)
    assert [(event.kv.key_text, event.kv.text) for event in events] == pairs
    only = follow(visitor, pull(5000, 1, start=b"k3", end=b"k3\0", prev_kv=True), 142)
    assert [event.kv.text for event in only] == [value for key, value in pairs if key == "k3"]
    assert only[1].prev_kv.text == only[0].kv.text


def test_a_revision_with_more_events_than_a_helping_is_split(hall: Hall, visitor: Visitor) -> None:
    session = visitor.opens()
    keys = [f"k{number:04}" for number in range(2 * errands.HELPING + 10)]
    for at in range(0, len(keys), 100):
        visitor.asks(batch(10 + at, session, 1 + at, *(ops.Put(key, "v") for key in keys[at : at + 100])))
    visitor.asks(batch(3000, session, 3000, ops.Delete(prefix="k")))
    events = follow(visitor, pull(5000, hall.node.published.revision), len(keys))
    assert [event.kv.key_text for event in events] == keys
    assert {event.kind for event in events} == {"delete"}


def test_helpings_are_small_where_events_are_large(visitor: Visitor) -> None:
    put(visitor, *((f"k{number}", "v" * 100_000) for number in range(20)))
    request = pull(1, 1)
    sizes: list[int] = []
    while sum(sizes) < 20:
        helping = visitor.asks(request)
        sizes.append(len(helping.events))
        request = pull(request.number + 1, helping.revision, helping.passed)
    assert max(sizes) <= 3


def test_a_pull_is_answered_when_something_comes(hall: Hall, visitor: Visitor) -> None:
    put(visitor, ("k", "1"))
    visitor.says(
        pull(1, hall.node.published.revision + 1, start=b"k", end=b"l"),
        pull(2, hall.node.published.revision + 1, start=b"k", puts=False),
        pull(3, hall.node.published.revision + 3),
    )
    hall.wait(1.0)
    assert visitor.listen() == []
    put(visitor, ("k", "2"), number=2000)
    (event,) = visitor.hears(1).events
    assert event.kv.text == "2"
    assert visitor.listen() == []
    session = visitor.opens(3000)
    visitor.asks(batch(4000, session, 1, ops.Delete("k")))
    (event,) = visitor.hears(2).events
    assert event.kind == "delete"
    assert visitor.listen() == []
    put(visitor, ("other", "3"), number=4001)
    (event,) = visitor.hears(3).events
    assert event.kv.key == b"other"


def test_a_pull_that_finds_nothing_tells_where_it_is_after_a_while(hall: Hall, visitor: Visitor) -> None:
    visitor.says(pull(1, 1, start=b"quiet", end=b"quiet\0"))
    put(visitor, *((f"k{number}", "v") for number in range(50)))
    hall.wait(door.PULL_FOR + 2)
    helping = visitor.hears(1)
    assert helping == Events(1, (), hall.node.published.revision + 1, 0, True)


def test_a_pong_tells_that_there_was_nothing_up_to_its_revision_but_what_came_before(hall: Hall, visitor: Visitor) -> None:
    put(visitor, ("k", "1"))
    at = hall.node.published.revision
    visitor.says(pull(1, at + 1, start=b"k", end=b"l"), pull(2, 1, start=b"z"), pull(3, at + 1, start=b"z"))
    put(visitor, *((f"k{number}", "2") for number in range(300)), number=2000)
    visitor.replies.clear()
    visitor.says(pull(4, 1), Ping(5))
    visitor.hears(5)
    visitor.says(pull(6, 1, start=b"z"), Ping(7))
    pong = visitor.hears(7)
    assert pong.revision == hall.node.published.revision
    assert [reply for reply in visitor.replies if reply.number == 6] == [], "it has nothing up to there, which the pong has told"
    assert (pong.leader, pong.unreachable, pong.trouble) == ("a", (), "")
    assert pong.age == 0


def test_however_many_pings_come_at_once_the_watches_of_their_client_are_looked_at_once(
    hall: Hall, visitor: Visitor, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[int] = []
    real = PullErrand.hurry

    def hurry(errand: PullErrand, revision: int) -> Any:
        looks.append(errand.number)
        return real(errand, revision)

    monkeypatch.setattr(PullErrand, "hurry", hurry)
    visitor.post(*(pull(number, 1000) for number in range(2, 12)), *(Ping(number) for number in range(20, 30)))
    visitor.post(*(Ping(number) for number in range(30, 40)))
    hall.turn()
    assert [reply.number for reply in visitor.listen()] == list(range(20, 40))
    assert looks == list(range(2, 12))


def test_a_pull_that_is_still_reading_when_a_pong_is_due_is_answered_before_it(hall: Hall, visitor: Visitor) -> None:
    put(visitor, *((f"k{number}", "v") for number in range(3 * errands.HELPING)))
    visitor.says(pull(1, 1, start=b"z"), Ping(2))
    visitor.listen()
    numbers = [reply.number for reply in visitor.replies]
    assert numbers == [1, 2]
    helping = visitor.replies[0]
    assert not helping.events
    assert not helping.caught_up
    assert 1 < helping.revision < hall.node.published.revision


def test_a_pull_from_what_is_compacted_is_refused(visitor: Visitor) -> None:
    put(visitor, *((f"k{number}", "v") for number in range(10)))
    session = visitor.opens(5000)
    visitor.asks(batch(5001, session, 1, ops.Compact(8)))
    failed = visitor.asks(pull(1, 3))
    assert isinstance(failed.error, Compacted)
    assert failed.error.revision == 8


@pytest.mark.parametrize("revision", [0, 1, 5, (1 << 63) - 1])
@pytest.mark.parametrize("passed", [0, 1, (1 << 63) - 1])
@pytest.mark.parametrize(("start", "end"), [(b"", None), (b"", b""), (b"", b"\0"), (b"z", b"a"), (b"k1", b"k1\0"), (b"k", b"k")])
@pytest.mark.parametrize("synced", [True, False])
def test_a_pull_that_makes_no_sense_does_no_harm(
    hall: Hall, visitor: Visitor, revision: int, passed: int, start: bytes, end: bytes | None, synced: bool
) -> None:
    put(visitor, *((f"k{number}", "v") for number in range(10)))
    visitor.says(Pull(1, start, end, revision, passed, prev_kv=True, synced=synced), Ping(2))
    visitor.hears(2)
    put(visitor, *((f"k{number}", "w") for number in range(10)), number=2000)
    assert not visitor.kicked
    visitor.goes()
    put(hall.visitor(), ("k1", "x"), number=3000)
    assert not hall.node.hub._armed


def test_a_cancelled_pull_leaves_nothing_behind(hall: Hall, visitor: Visitor) -> None:
    visitor.says(*(pull(number, 1000) for number in range(2, 12)))
    assert len(hall.node.hub._armed) == 10
    visitor.says(*(Cancel(number) for number in range(2, 12)))
    put(visitor, ("k", "v"))
    assert not hall.node.hub._armed
    assert visitor.replies == []


# -- bad clients ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "frame",
    [
        b"",
        b"garbage",
        letters.encode_frame(0, [letters.encode_letter(Answer(1, (0,)))]),
        letters.encode_frame(99, []),
        letters.encode_frame(0, [letters.encode_letter(Batch(1, b"no batch"))]),
        letters.encode_frame(0, [letters.encode_letter(Batch(1, codec.pack_batch(1, 1, 1, [codec.pack((wire.PUT,))], ("", 0))))]),
        letters.encode_frame(0, [letters.encode_letter(Batch(1, codec.pack_batch(1, 1, 1, [codec.pack((wire.LEVEL, 9))], ("", 0))))]),
        letters.encode_frame(1, [letters.encode_letter(pull(5, 1000)), letters.encode_letter(Look(5, letters.LEASES))]),
    ],
)
def test_who_sends_what_no_client_sends_is_sent_away_and_costs_the_others_nothing(
    hall: Hall, frame: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    bad, good = hall.visitor(), hall.visitor()
    good.says(read(1, ops.Get("k")))
    with caplog.at_level(logging.WARNING):
        hall.transport.events.append(Arrived(bad.pipe, frame))
        hall.turn()
    assert bad.kicked
    assert len([record for record in caplog.records if "bad frame" in record.message]) == 1
    assert good.hears(1).raw == (wire.OK, None)
    good.goes()
    hall.turn()
    assert hall.empty


def test_warnings_of_bad_frames_do_not_fill_the_log(hall: Hall, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        for _ in range(50):
            visitor = hall.stranger()
            hall.transport.events.append(Arrived(visitor.pipe, b"garbage"))
            hall.turn()
    assert len(caplog.records) == 1


def test_an_error_nobody_thought_of_costs_only_the_client_it_was_met_for(hall: Hall, monkeypatch: pytest.MonkeyPatch) -> None:
    bad, good = hall.visitor(), hall.visitor()
    with monkeypatch.context() as patched:
        patched.setattr(Door, "_pong", lambda *_: 1 / 0)
        bad.says(Ping(1))
    assert bad.kicked
    assert isinstance(good.asks(Ping(1)), Pong)


def test_only_some_frames_are_on_their_way_to_a_client_that_takes_none_in(hall: Hall, visitor: Visitor) -> None:
    visitor.says()
    sent = hall.transport.frames[visitor.pipe]
    for number in range(100):
        visitor.says(Ping(number), acknowledge=False)
    assert len(sent) == UNSEEN_MAX
    visitor.says()
    visitor.says()
    assert [reply.number for reply in visitor.listen()] == list(range(100)), "what waited comes together"


def test_a_client_that_takes_nothing_in_for_too_long_is_sent_away(hall: Hall, visitor: Visitor) -> None:
    for _ in range(50):
        visitor.says(Ping(1), acknowledge=False)
        hall.wait(1.0)
        if visitor.kicked:
            break
    assert visitor.kicked
    assert hall.empty


def test_a_client_that_is_slow_but_takes_in_stays(hall: Hall, visitor: Visitor) -> None:
    for number in range(0, 1000, 20):
        for more in range(20):
            visitor.says(Ping(number + more), acknowledge=False)
        hall.wait(2.0)
        visitor.says()
    assert not visitor.kicked


def test_a_silent_connection_is_closed(hall: Hall, visitor: Visitor) -> None:
    visitor.says(pull(1, 1000))
    stranger = hall.stranger()
    hall.wait(door.SILENT + 2)
    assert visitor.kicked
    assert stranger.kicked
    assert hall.empty


def test_too_many_requests_are_refused(hall: Hall, visitor: Visitor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(door, "ERRANDS_MAX", 3)
    visitor.says(*(pull(number, 1000) for number in range(2, 6)))
    (failed,) = visitor.listen()
    assert (failed.number, type(failed.error)) == (5, Overloaded)
    visitor.replies.clear()
    visitor.says(Cancel(3), pull(5, 1000))
    assert visitor.listen() == []


@pytest.mark.parametrize("limit", ["WAITING_MAX", "QUEUE_MAX"])
def test_replies_that_wait_are_bounded_but_a_write_is_always_answered(
    hall: Hall, visitor: Visitor, monkeypatch: pytest.MonkeyPatch, limit: str
) -> None:
    put(visitor, ("k", "v" * 10_000))
    session = visitor.opens(50)
    monkeypatch.setattr(door, limit, 5000)
    monkeypatch.setattr(door, "SHARE", 5000)
    hall.transport.full = True
    get = ops.Get("k")
    visitor.says(batch(1, session, 1, ops.Add("n", 1)), read(2, get, "local"), read(3, get), read(4, get, "local"))
    hall.wait(1.0)
    hall.transport.full = False
    assert visitor.hears(2).raw[1][1] == b"v" * 10_000, "it found room"
    assert [type(visitor.hears(number).error) for number in (3, 4)] == [Overloaded] * 2
    assert visitor.hears(1).answers is not None
    assert visitor.asks(read(5, ops.Get("n"))).raw[1][1] == b"1"


def test_replies_that_one_client_does_not_take_in_keep_others_from_large_ones_only(
    hall: Hall, visitor: Visitor, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(visitor, ("small", "v"), ("large", "v" * 10_000))
    slow = hall.visitor()
    monkeypatch.setattr(door, "WAITING_MAX", 5000)
    monkeypatch.setattr(door, "SHARE", 5000)
    slow.says(read(2, ops.Get("large"), "local"))
    hall.wait(1.0)
    assert hall.door._waiting > 5000, "also on its way it takes memory"
    assert visitor.asks(read(2, ops.Get("small"), "local")).raw[1][1] == b"v"
    assert isinstance(visitor.asks(read(3, ops.Get("large"), "local")).error, Overloaded)
    slow.says()
    visitor.says()
    assert hall.door._waiting == 0
    assert visitor.asks(read(4, ops.Get("large"), "local")).raw[1][1] == b"v" * 10_000


@pytest.mark.parametrize("consistency", ["local", "linearizable"])
def test_who_asks_for_much_to_be_read_is_the_one_who_waits(
    hall: Hall, visitor: Visitor, monkeypatch: pytest.MonkeyPatch, consistency: str
) -> None:
    monkeypatch.setattr(door, "READ_FOR", 0.0)  # one read, and the turn is over
    other = hall.visitor()
    visitor.post(*(read(number, ops.Get("k"), consistency) for number in range(2, 42)))
    other.post(read(2, ops.Get("k"), consistency), Ping(3))
    hall.run(lambda: len(other.listen()) == 2)
    assert len(visitor.listen()) < 10

    def all_there() -> bool:
        visitor.says()
        return len(visitor.listen()) == 40

    hall.run(all_there)
    assert [reply.number for reply in visitor.replies] == list(range(2, 42))
    assert not hall.door._reading


def test_reads_that_were_cancelled_before_it_was_their_turn_are_not_done(
    hall: Hall, visitor: Visitor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(door, "READ_FOR", 0.0)
    visitor.says(*(read(number, ops.Get("k"), "local") for number in range(2, 12)), Cancel(11), Cancel(2))
    hall.wait(1.0)
    assert [reply.number for reply in visitor.listen()] == list(range(3, 11))
    visitor.post(*(read(number, ops.Get("k"), "local") for number in range(2, 12)))
    visitor.goes()
    assert hall.empty


def test_who_asks_on_and_on_without_taking_anything_in_is_sent_away(hall: Hall, visitor: Visitor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(door, "LETTERS_QUEUED_MAX", 100)
    for number in range(200):
        if not visitor.kicked:
            visitor.says(Ping(number), acknowledge=False)
    assert visitor.kicked
    assert hall.empty


def test_who_is_sent_away_amid_its_pulls_leaves_nothing_behind(hall: Hall, visitor: Visitor, monkeypatch: pytest.MonkeyPatch) -> None:
    visitor.says(*(pull(number, 1000) for number in range(2, 20)))
    monkeypatch.setattr(door, "LETTERS_QUEUED_MAX", 10)
    hall.transport.full = True
    hall.wait(door.PULL_FOR + 2)
    assert visitor.kicked
    assert hall.empty


def test_a_full_queue_of_the_transport_is_waited_for(hall: Hall, visitor: Visitor) -> None:
    hall.transport.full = True
    visitor.says(Ping(1), Ping(2))
    hall.wait(1.0)
    assert visitor.listen() == []
    assert hall.door.deadline < hall.cluster.now + 1
    hall.transport.full = False
    assert [visitor.hears(number).number for number in (1, 2)] == [1, 2]


def test_a_client_that_goes_leaves_nothing_behind() -> None:
    hall = Hall("abc", at=2)
    hall.run(hall.cluster.leader)
    visitor = hall.visitor()
    session = visitor.opens()
    for name in "ab":
        hall.cluster.crash(name)
    visitor.says(batch(1, session, 1, ops.Add("n", 1)), read(2, ops.Get("k")), pull(3, 1000), Look(4, letters.LEASES))
    hall.wait(1.0)
    visitor.goes()
    hall.turn()
    assert hall.empty
    assert hall.node.guests.admission.commands == 0


# -- addresses, and the end -------------------------------------------------------------------------------------------------------


def test_members_tell_clients_of_each_other() -> None:
    hall = Hall("abc", own="tcp://10.0.0.1:7421")
    hall.run(hall.cluster.leader)
    hall.wait(3.0)
    record = hall.node.published.machine.store.get(ADDRESSES + b"a", hall.node.published.revision)
    assert record is not None
    assert record[1] == b"tcp://10.0.0.1:7421"
    other = Hall("abc", at=1, cluster=hall.cluster)
    assert other.stranger().greets().addresses == hall.stranger().greets().addresses == {"a": "tcp://10.0.0.1:7421"}
    revision = hall.node.published.revision
    hall.wait(2 * door.ADVERTISE_AGAIN)
    assert hall.node.published.revision == revision, "it is written down once"


def test_an_address_that_changed_is_written_down_anew_and_one_that_is_no_more_is_taken_back() -> None:
    hall = Hall("abc", own="tcp://new:1")
    hall.run(hall.cluster.leader)
    visitor = hall.visitor()
    session = visitor.opens()
    writes = [
        ops.Put(ADDRESSES + name, url) for name, url in ((b"a", "tcp://old:1"), (b"b", "tcp://b:1"), (b"c", "?"), (b"d", "tcp://d:1"))
    ]
    visitor.asks(batch(2, session, 1, *writes))
    hall.wait(2 * door.ADVERTISE_AGAIN)
    assert hall.stranger().greets().addresses == {"a": "tcp://new:1", "b": "tcp://b:1"}
    kept = [hall.node.published.machine.store.get(ADDRESSES + name, hall.node.published.revision) for name in (b"b", b"d")]
    assert [record is not None and record[1] is not None for record in kept] == [True, False], "d is no member"
    hall.door._advertised = ""
    hall.wait(2 * door.ADVERTISE_AGAIN)
    assert hall.stranger().greets().addresses == {"b": "tcp://b:1"}


@pytest.mark.parametrize(
    ("bound", "own", "expected"),
    [
        ([], "", ""),
        (["ipc:///tmp/x"], "tcp://a:1", ""),
        (["tcp://10.0.0.1:7421", "ipc:///tmp/x"], "tcp://a:1", "tcp://10.0.0.1:7421"),
        (["tcp://0.0.0.0:7421"], "tcp://a.internal:1", "tcp://a.internal:7421"),
        (["tcp://*:7421"], "", ""),
        (["tcp://[::]:7421"], "tcp://[fd00::1]:1", "tcp://[fd00::1]:7421"),
    ],
)
def test_what_others_are_told_can_be_dialled(bound: list[str], own: str, expected: str) -> None:
    assert advertised(bound, own) == expected


def test_a_member_that_stops_answers_everybody(hall: Hall, visitor: Visitor) -> None:
    silent = hall.visitor()
    visitor.says(pull(1, 1000), pull(2, 1000))
    hall.node.request_close(0.0)
    hall.run(lambda: hall.door.closed)
    assert [type(visitor.hears(number).error) for number in (1, 2)] == [Closed, Closed]
    assert silent.listen() == []
    assert hall.transport.closed
    assert hall.empty


def test_a_door_that_is_closed_answers_everybody_while_its_member_goes_on(hall: Hall, visitor: Visitor) -> None:
    visitor.says(pull(1, 1000))
    hall.door.close()
    hall.run(lambda: hall.door.closed)
    assert isinstance(visitor.hears(1).error, Closed)
    assert not hall.node.stopped
