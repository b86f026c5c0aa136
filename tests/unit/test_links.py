"""``links.py``: greetings, refusals, pings, and who counts as reachable."""

from __future__ import annotations

import logging
from collections.abc import Mapping

import pytest
from attrs import evolve
from fake_network import FakeMember, FakeNetwork, settle, url_of

from replkv import codec, links
from replkv.address import ADDRESS_MAX
from replkv.address_book import SEED
from replkv.codec import NO_CLUSTER
from replkv.links import FAREWELL, GREETING_TIMEOUT, HELLO_MAX, SILENCE_LIMIT, UNGREETED_MAX
from replkv.messages import (
    EXPECTED,
    About,
    Append,
    AppendReply,
    Application,
    Census,
    CensusReply,
    Configuration,
    Digest,
    EntryKind,
    Forward,
    Found,
    Hello,
    Identity,
    Message,
    Ping,
    Pong,
    ReadIndex,
    Scarcity,
    SnapshotAck,
    SnapshotChunk,
    SnapshotMeta,
    TimeoutNow,
    Vote,
    VoteReply,
    Welcome,
)
from replkv.transport import Arrived, PipeUp
from replkv.wire import MEMBERS_MAX

ONE, TWO = b"1" * 16, b"2" * 16
MEMBERS = {name: ord(name) for name in "abc"}
ADDRESSES = {name: url_of(name) for name in "abc"}
FOUNDING = codec.make_entry(1, 1, EntryKind.FOUNDING, 0, b"x")
META = SnapshotMeta(5, 1, Configuration(("a", "b", "c"), members=MEMBERS))
QUESTIONS = (
    Vote(2, 1, 1),
    Append(2, 1, 1, 1, 1, 0),
    TimeoutNow(2),
    Census(1),
    SnapshotChunk(2, META, 0, 1, b"x"),
    Digest(1, False, b"hash"),
)
ANSWERS = (VoteReply(2, True), AppendReply(2, 1, 5), CensusReply(1, 2, 5, 2), Digest(1, False, b"hash"))


@pytest.fixture
def network() -> FakeNetwork:
    return FakeNetwork()


def pair(network: FakeNetwork, *, cluster: bytes = NO_CLUSTER) -> tuple[FakeMember, FakeMember]:
    """Two members, connected both ways and greeted."""
    a, b = FakeMember(network, "a"), FakeMember(network, "b")
    for member in (a, b):
        if cluster != NO_CLUSTER:
            member.links.join_cluster(cluster, MEMBERS)
    network.connect("a", "b")
    network.connect("b", "a")
    settle(a, b)
    assert (a.changes(), b.changes()) == ([("b", True)], [("a", True)])
    return a, b


def connect(network: FakeNetwork, *members: FakeMember) -> None:
    """Let all those reach each other."""
    for one in members:
        for other in members:
            if one is not other:
                network.connect(one.transport.name, other.transport.name)
    settle(*members)


def decide(member: FakeMember, members: Mapping[str, int], index: int, *, certain: bool = True) -> None:
    """Let a member know a committed configuration, as its node would say."""
    links = member.links
    links.join_cluster(ONE, members)
    links.configured, links.decided, links.certain = index, members, certain
    links.about = evolve(links.about, configured=index)


def refused(network: FakeNetwork, a: FakeMember, b: FakeMember) -> str:
    """Let a dial b, and return why b, or a itself, does not want it."""
    network.connect("a", "b")
    settle(a, b)
    assert not a.links.send("b", Ping())
    assert a.changes() == b.changes() == []
    return a.links.explain()


# -- greetings ------------------------------------------------------------------------------------------------------------------------


def test_members_that_greet_can_talk(network: FakeNetwork) -> None:
    a, b = pair(network)
    assert a.links.send("b", TimeoutNow(3))
    settle(a, b)
    assert b.take() == [("a", TimeoutNow(3))]
    assert (a.links.unreachable(), a.links.incarnation_of("b")) == (("c",), ord("b"))
    assert a.links.is_unfounded("b")


def test_nothing_is_sent_before_the_greeting_is_done(network: FakeNetwork) -> None:
    a, b = FakeMember(network, "a"), FakeMember(network, "b")
    assert not a.links.send("b", TimeoutNow(3))
    network.connect("a", "b")
    a.handle()
    assert not a.links.send("b", TimeoutNow(3))
    settle(a, b)
    assert a.links.send("b", TimeoutNow(3))


def test_strangers_do_not_take_the_places_of_members_and_the_oldest_of_them_makes_room(network: FakeNetwork) -> None:
    """Those that were refused had spoken, so the transport kept them, and nobody else got in while there were enough of them."""
    a, b = pair(network)
    strangers = range(10_000, 10_000 + UNGREETED_MAX + 3)
    refused = codec.encode_frame(NO_CLUSTER, 7, 0, Hello((1, 1), NO_CLUSTER, "zz", 7, "b"))
    for pipe in strangers:
        b.links.handle([PipeUp(pipe), Arrived(pipe, refused)], 0.0)
    assert b.transport.kicked == list(strangers[:3])
    assert a.links.send("b", TimeoutNow(3))
    settle(a, b)
    assert b.take() == [("a", TimeoutNow(3))]


def test_members_of_two_clusters_refuse_each_other_naming_both(network: FakeNetwork) -> None:
    a, b = FakeMember(network, "a"), FakeMember(network, "b")
    a.links.join_cluster(ONE, MEMBERS)
    b.links.join_cluster(TWO, MEMBERS)
    reason = refused(network, a, b)
    assert ONE.hex() in reason
    assert TWO.hex() in reason
    assert a.links.excluded_by["b"] in reason


def test_an_empty_directory_under_a_members_name_is_greeted_and_told_of_but_not_trusted(network: FakeNetwork) -> None:
    a, b = FakeMember(network, "a", incarnation=999), FakeMember(network, "b")
    b.links.join_cluster(ONE, MEMBERS)
    connect(network, a, b)
    assert [*b.links.newcomers(ADDRESSES)] == [Application("a", 999, url_of("a"))]
    assert b.links.is_unfounded("a")
    assert a.links.excluded_by == b.links.excluded_by == {}
    assert [b.links.send("a", question) for question in QUESTIONS] == [False] * len(QUESTIONS)
    assert b.links.explain() == "a at tcp://a:1 (its directory is new, and it has not been taken in yet), c at tcp://c:1 (no connection)"
    assert b.links.send("a", Found(FOUNDING))


def test_two_members_with_one_name_are_told(network: FakeNetwork) -> None:
    b = FakeMember(network, "b")
    twin = FakeMember(network, "a", join=("b",))
    twin.links.identity = Identity("b", 999)
    network.connect("a", f"{SEED}{url_of('b')}")
    settle(twin, b)
    assert "two members are called b" in twin.links.explain()


def test_a_member_at_the_address_of_another_is_told(network: FakeNetwork) -> None:
    a, b = FakeMember(network, "a"), FakeMember(network, "b")
    b.links.identity = FakeMember(FakeNetwork(), "c").links.identity
    assert "this is member c, not b" in refused(network, a, b)


def test_a_stranger_is_told_that_it_is_in_nobodys_map(network: FakeNetwork) -> None:
    a, b = FakeMember(network, "a"), FakeMember(network, "b", "bc")
    assert "a is not in the cluster map of b" in refused(network, a, b)


def test_maps_that_differ_found_nothing(network: FakeNetwork) -> None:
    a, b = FakeMember(network, "a", "abc"), FakeMember(network, "b", "abcd")
    reason = refused(network, a, b)
    assert "the cluster maps differ" in reason
    assert "a, b, c, d" in reason


def test_maps_may_differ_once_a_cluster_is_founded(network: FakeNetwork) -> None:
    a, b = FakeMember(network, "a", "abc"), FakeMember(network, "b", "abcd")
    for member in (a, b):
        member.links.join_cluster(ONE, MEMBERS)
    network.connect("a", "b")
    settle(a, b)
    assert a.links.send("b", TimeoutNow(1))


def stranger(network: FakeNetwork) -> tuple[FakeMember, FakeMember]:
    """An empty member that nobody has named, and one of a cluster."""
    a, b = FakeMember(network, "a"), FakeMember(network, "b")
    b.links.join_cluster(ONE, {"b": ord("b"), "c": ord("c")})
    return a, b


def warnings_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]


def test_a_refusal_is_logged_once_not_at_every_attempt(network: FakeNetwork, caplog: pytest.LogCaptureFixture) -> None:
    a, b = stranger(network)
    for _ in range(3):
        refused(network, a, b)
    (warning,) = warnings_of(caplog)
    assert "is refused" in warning


def test_refusals_that_take_turns_are_logged_once_each(network: FakeNetwork, caplog: pytest.LogCaptureFixture) -> None:
    """Where several addresses are tried, each has its own reason: it was another than the last one every time, and so logged every time."""
    a, b = stranger(network)
    FakeMember(network, "c")
    for _ in range(5):
        refused(network, a, b)
        network.listeners[url_of("b")] = "c"
        refused(network, a, FakeMember(network, "c"))
        network.listeners[url_of("b")] = "b"
    assert len(warnings_of(caplog)) == 2
    b.links.join_cluster(ONE, MEMBERS)
    network.connect("a", "b")
    settle(a, b)
    assert a.links.unreachable() == ("c",)
    b.links.join_cluster(ONE, {"b": ord("b"), "c": ord("c")})
    settle(a, b)
    assert a.changes() == [("b", True), ("b", False)]
    assert b.changes() == []
    refused(network, a, b)
    assert len(warnings_of(caplog)) == 3, "after it was welcome once, it is news again"


def test_a_refused_caller_is_closed_once_its_answer_had_time_to_leave(network: FakeNetwork) -> None:
    a, b = stranger(network)
    refused(network, a, b)
    assert b.transport.kicked == []
    b.tick(GREETING_TIMEOUT + 0.5)
    assert len(b.transport.kicked) == 1


def test_versions_that_do_not_meet_are_refused(network: FakeNetwork) -> None:
    a, b = FakeMember(network, "a"), FakeMember(network, "b")
    pipe = network.connect("a", "b")
    hello = Hello((7, 9), NO_CLUSTER, "a", ord("a"), "b", tuple("abc"))
    b.links.handle([Arrived(pipe, codec.encode_frame(NO_CLUSTER, ord("a"), 0, hello))], b.now)
    a.transport.events.popleft()  # as if its own greeting had been that one
    a.links._links["b"].greeted = True
    settle(a, b)
    assert "speaks wire versions" in a.links.explain()


# -- what strangers send --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "frame",
    [
        b"",
        bytes(100),
        bytes(HELLO_MAX + 1),
        codec.encode_frame(NO_CLUSTER, 5, ord("b"), Ping()),
        codec.encode_frame(NO_CLUSTER, 5, ord("b"), Vote(99, 1, 1)),
        codec.encode_frame(NO_CLUSTER, 5, ord("b"), Hello((1, 1), NO_CLUSTER, "a" * 200, 5, "b", tuple("x" * 9 for _ in range(999)))),
    ],
)
def test_a_frame_before_the_greeting_ends_the_connection(network: FakeNetwork, frame: bytes) -> None:
    FakeMember(network, "a")
    b = FakeMember(network, "b")
    pipe = network.connect("a", "b")
    b.handle()
    b.links.handle([Arrived(pipe, frame)], b.now)
    assert b.transport.kicked == [pipe]
    assert b.links.frames_dropped == 1
    assert b.take() == []


def test_the_largest_greeting_there_is_fits_into_a_first_frame() -> None:
    name, founders = "x" * 64, tuple(f"{'x' * 62}{number:02}" for number in range(MEMBERS_MAX))
    about = About(f"inproc://{'x' * (ADDRESS_MAX - 9)}", (1 << 63) - 1, (1 << 63) - 1, (1 << 63) - 1)
    hello = Hello(codec.VERSIONS, ONE, name, (1 << 64) - 1, name, founders, about)
    assert len(codec.encode_frame(ONE, (1 << 64) - 1, 0, hello)) <= HELLO_MAX


@pytest.mark.parametrize(
    ("cluster", "sender", "receiver"), [(TWO, ord("a"), ord("b")), (ONE, 999, ord("b")), (ONE, ord("a"), 999), (ONE, ord("c"), ord("b"))]
)
def test_a_frame_for_somebody_else_ends_the_connection(network: FakeNetwork, cluster: bytes, sender: int, receiver: int) -> None:
    _, b = pair(network, cluster=ONE)
    pipe = network.pipes["a", "b"]
    b.links.handle([Arrived(pipe, codec.encode_frame(cluster, sender, receiver, Vote(9, 9, 9)))], b.now)
    assert b.transport.kicked == [pipe]
    assert b.take() == []


@pytest.mark.parametrize("answer", [Pong(), Welcome(1, ONE, "a", ord("a"))])
def test_an_answer_on_a_connection_somebody_else_dialled_is_no_message(network: FakeNetwork, answer: Pong | Welcome) -> None:
    _, b = pair(network, cluster=ONE)
    b.links.handle([Arrived(network.pipes["a", "b"], codec.encode_frame(ONE, ord("a"), ord("b"), answer))], b.now)
    assert b.take() == []


def test_a_caller_that_never_greets_is_closed(network: FakeNetwork) -> None:
    FakeMember(network, "a")
    b = FakeMember(network, "b")
    pipe = network.connect("a", "b")
    b.handle()
    b.tick(GREETING_TIMEOUT - 0.25)
    assert b.transport.kicked == []
    b.tick(0.75)
    assert b.transport.kicked == [pipe]


def test_a_welcome_nobody_waits_for_changes_nothing(network: FakeNetwork) -> None:
    a, b = pair(network, cluster=ONE)
    for welcome in (Welcome(1, TWO, "b", 999), Welcome(1, ONE, "c", ord("c"))):
        b.transport.reply(network.pipes["a", "b"], codec.encode_frame(TWO, 999, ord("a"), welcome))
    settle(a, b)
    assert a.links.incarnation_of("b") == ord("b")
    assert a.changes() == []


# -- founding -------------------------------------------------------------------------------------------------------------------------


def test_a_member_without_a_cluster_keeps_the_connection_of_a_founded_peer_that_speaks_too_early(network: FakeNetwork) -> None:
    """Its founding entry is still on the way, or was lost: a connection that is dropped for it may never live long enough to bring it."""
    a, b = pair(network)
    a.links.join_cluster(ONE, MEMBERS)
    assert a.links.send("b", Vote(2, 1, 1))
    assert a.links.send("b", Found(FOUNDING))
    assert a.links.send("b", Vote(3, 1, 1))
    settle(a, b)
    assert b.transport.kicked == []
    received = b.links.take_received()
    assert type(next(received)[1]) is Found
    b.links.join_cluster(ONE, MEMBERS)
    assert [message for _, message in received] == [Vote(3, 1, 1)]


def test_a_peer_that_speaks_as_a_member_is_founded(network: FakeNetwork) -> None:
    a, b = pair(network)
    for member in (a, b):
        member.links.join_cluster(ONE, MEMBERS)
    assert a.links.is_unfounded("b")
    b.links.send("a", Vote(2, 1, 1))
    settle(a, b)
    assert not a.links.is_unfounded("b")


def test_joining_a_cluster_drops_whoever_is_none_of_it(network: FakeNetwork) -> None:
    a, b = pair(network)
    b.links.cluster = ONE
    b.links.send("a", Ping())
    settle(a, b)
    a.links.join_cluster(ONE, {"a": ord("a"), "b": 999, "c": ord("c")})
    assert a.links.unreachable() == ("b", "c")
    assert not a.links.send("b", Ping())
    assert a.changes() == [("b", False)]
    assert len(a.transport.kicked) == 1
    settle(a, b)


def test_joining_a_cluster_keeps_an_empty_directory_whose_name_is_a_members(network: FakeNetwork) -> None:
    a, b = pair(network)
    a.links.join_cluster(ONE, {"a": ord("a"), "b": 999, "c": ord("c")})
    assert (a.transport.kicked, a.changes()) == ([], [])
    assert [*a.links.newcomers(ADDRESSES)] == [Application("b", ord("b"), url_of("b"))]
    settle(a, b)


def test_an_empty_directory_that_no_configuration_names_is_refused_and_waits(network: FakeNetwork) -> None:
    a, b = stranger(network)
    assert "a is no member of this cluster: name it first" in refused(network, a, b)
    assert a.links.excluded_by == a.links.removed_by == {}
    b.links.join_cluster(ONE, {**MEMBERS, "a": EXPECTED})
    connect(network, a, b)
    assert a.links.unreachable() == ("c",)


# -- other incarnations -----------------------------------------------------------------------------------------------------------------


def replaced(network: FakeNetwork) -> tuple[FakeMember, FakeMember]:
    """A member ``a``, and a new directory of ``b`` that has the cluster's id by now, and that a does not know yet."""
    a, b = FakeMember(network, "a"), FakeMember(network, "b", incarnation=999)
    decide(a, MEMBERS, 7)
    decide(b, {**MEMBERS, "b": 999}, 8, certain=False)
    return a, b


@pytest.mark.parametrize("question", QUESTIONS, ids=lambda message: type(message).__name__)
def test_a_question_never_goes_to_another_incarnation_than_the_configuration_means(network: FakeNetwork, question: Message) -> None:
    a, b = replaced(network)
    connect(network, a, b)
    assert a.links.incarnation_of("b") == 999
    assert not a.links.send("b", question)
    settle(a, b)
    assert b.take() == []
    a.links.join_cluster(ONE, {**MEMBERS, "b": 999})
    assert a.links.send("b", question)


@pytest.mark.parametrize("answer", ANSWERS, ids=lambda message: type(message).__name__)
def test_an_answer_never_counts_from_another_incarnation_than_the_configuration_means(network: FakeNetwork, answer: Message) -> None:
    """It would pass for one of the directory that was asked: a vote it never gave, entries it never had."""
    a, b = replaced(network)
    connect(network, a, b)
    b.links.send("a", answer)
    settle(a, b)
    assert a.take() == []
    b.links.send("a", answer)
    settle(a, b)
    a.links.join_cluster(ONE, {**MEMBERS, "b": 999})
    assert a.take() == [("b", answer)], "by the time it is taken it is one of whom the configuration means"


def test_every_answer_and_question_of_raft_is_held_to_that() -> None:
    """What a follower asks of its leader decides nothing, and a leader that this member does not know yet has to be answered."""
    free = {ReadIndex, Forward, SnapshotAck, Scarcity, Application, Found, Ping, Pong}
    asked, answered = set(map(type, QUESTIONS)), set(map(type, ANSWERS))
    assert (set(links._QUESTIONS), set(links._ANSWERS)) == (asked, answered)
    assert not free & (asked | answered)


@pytest.mark.parametrize("message", [Append(2, 1, 1, 1, 1, 0), Vote(2, 9, 2), TimeoutNow(2), SnapshotChunk(2, META, 0, 1, b"x")], ids=str)
def test_a_newer_incarnation_that_this_member_does_not_know_yet_is_listened_to_and_answered(network: FakeNetwork, message: Message) -> None:
    """It may lead, and bring the very entry that names it (thesis §4.1)."""
    a, b = replaced(network)
    connect(network, a, b)
    assert b.links.send("a", message)
    settle(a, b)
    assert a.take() == [("b", message)]
    assert a.links.send("b", AppendReply(2, 1, 5))
    assert a.links.send("b", SnapshotAck(2, 5, 1))
    settle(a, b)
    assert b.take() == [("a", AppendReply(2, 1, 5)), ("a", SnapshotAck(2, 5, 1))]


def test_the_old_directory_of_a_replaced_member_is_refused_and_told_that_it_was_removed(network: FakeNetwork) -> None:
    a, b = FakeMember(network, "a"), FakeMember(network, "b")
    decide(a, MEMBERS, 7)
    decide(b, {**MEMBERS, "a": 999}, 8)
    assert "the data directory of a was replaced" in refused(network, a, b)
    assert list(a.links.removed_by) == ["b"]
    assert a.links.excluded_by == {}


@pytest.mark.parametrize("known", [None, EXPECTED])
def test_a_member_that_was_removed_is_refused_and_told_so(network: FakeNetwork, known: int | None) -> None:
    a, b = FakeMember(network, "a"), FakeMember(network, "b")
    decide(a, MEMBERS, 7)
    decide(b, {**{name: MEMBERS[name] for name in "bc"}, **({} if known is None else {"a": known})}, 8)
    assert "a was removed from this cluster" in refused(network, a, b)
    assert list(a.links.removed_by) == ["b"]


def test_who_does_not_know_all_that_is_decided_tells_nobody_that_it_was_removed(network: FakeNetwork) -> None:
    a, b = FakeMember(network, "a"), FakeMember(network, "b")
    decide(a, MEMBERS, 7)
    decide(b, {**MEMBERS, "a": 999}, 8, certain=False)
    assert "was replaced" in refused(network, a, b)
    assert a.links.removed_by == {}


def test_a_configuration_that_is_not_committed_makes_nobody_tell_that_somebody_was_removed(network: FakeNetwork) -> None:
    a, b = FakeMember(network, "a"), FakeMember(network, "b")
    decide(a, MEMBERS, 7)
    decide(b, MEMBERS, 7)
    b.links.join_cluster(ONE, {**MEMBERS, "a": 999})  # appended, and perhaps taken back
    assert "was replaced" in refused(network, a, b)
    assert a.links.removed_by == {}
    b.links.join_cluster(ONE, MEMBERS)
    connect(network, a, b)
    assert a.links.unreachable() == b.links.unreachable() == ("c",)


def test_a_newer_configuration_is_never_judged_by_an_older_one(network: FakeNetwork) -> None:
    a, b = FakeMember(network, "a", incarnation=999), FakeMember(network, "b")
    decide(a, {**MEMBERS, "a": 999}, 9, certain=False)
    decide(b, {"b": ord("b"), "c": ord("c")}, 8)
    connect(network, a, b)
    assert a.links.removed_by == {}
    assert b.links.send("a", AppendReply(2, 1, 5))


def test_a_welcome_takes_back_what_the_same_peer_said_before(network: FakeNetwork) -> None:
    a, b = FakeMember(network, "a"), FakeMember(network, "b")
    decide(a, MEMBERS, 7)
    decide(b, {**MEMBERS, "a": 999}, 8)
    refused(network, a, b)
    decide(b, MEMBERS, 9)
    connect(network, a, b)
    assert a.links.removed_by == {}


def test_what_a_peer_said_that_is_none_any_more_counts_no_longer(network: FakeNetwork) -> None:
    a, b = FakeMember(network, "a"), FakeMember(network, "b", join=("c",))
    b.book.heard("a", url_of("a"))
    b.links.dial(b.now)
    decide(b, MEMBERS, 7)
    a.links.join_cluster(TWO, MEMBERS)
    network.connect("b", "a")
    settle(a, b)
    assert list(b.links.excluded_by) == ["a"]
    b.book.configure({}, ("c",))
    b.links.dial(b.now)
    b.tick(FAREWELL + 0.5)
    assert b.links.excluded_by == {}
    assert "a" not in b.links._links


def test_a_second_process_under_the_name_of_a_member_that_is_there_is_refused(network: FakeNetwork) -> None:
    a, b = pair(network, cluster=ONE)
    a.links.join_cluster(ONE, {**MEMBERS})
    twin = FakeMember(network, "b", incarnation=999)
    twin.transport.name = "twin"
    network.ends["twin"], network.ends["b"] = twin.transport, b.transport
    network.connect("twin", "a")
    settle(a, b, twin)
    assert "b is at work already" in twin.links.explain()
    assert [*a.links.newcomers(ADDRESSES)] == []


# -- addresses ----------------------------------------------------------------------------------------------------------------------------


def test_who_knows_only_addresses_finds_out_names(network: FakeNetwork) -> None:
    a = FakeMember(network, "a")
    d = FakeMember(network, "d", join=("a",))
    decide(a, {**MEMBERS, "d": EXPECTED}, 7)
    seed = f"{SEED}{url_of('a')}"
    network.connect("d", seed)
    settle(a, d)
    assert d.book.addresses() == {"a": url_of("a")}
    assert d.transport.urls == {seed: url_of("a"), "a": url_of("a")}
    network.connect("d", "a")
    network.connect("a", "d")
    settle(a, d)
    assert (a.links.incarnation_of("d"), d.links.incarnation_of("a")) == (ord("d"), ord("a"))
    assert [*a.links.newcomers(ADDRESSES)] == [Application("d", ord("d"), url_of("d"))]
    d.book.forget([seed])
    d.links.dial(d.now)
    assert d.links.incarnation_of("a") == ord("a")
    d.tick(FAREWELL + 0.5)
    assert list(d.transport.urls) == ["a"]


def test_a_seed_at_which_nobody_wants_this_member_names_the_reason(network: FakeNetwork) -> None:
    a = FakeMember(network, "a")
    d = FakeMember(network, "d", join=("a",))
    decide(a, MEMBERS, 7)
    network.connect("d", f"{SEED}{url_of('a')}")
    settle(a, d)
    assert d.links.explain() == "tcp://a:1 (d is no member of this cluster: name it first, with change_members(add=...))"


def test_a_member_that_moved_is_dialled_at_its_new_address(network: FakeNetwork) -> None:
    a, b = pair(network, cluster=ONE)
    network.cut_off("b")
    settle(a, b)
    moved = FakeMember(network, "b")
    moved.transport.listen("tcp://elsewhere:1")
    moved.links.about = About("tcp://elsewhere:1")
    moved.links.join_cluster(ONE, MEMBERS)
    network.connect("b", "a")
    settle(a, moved)
    assert a.transport.urls["b"] == "tcp://elsewhere:1"
    network.connect("a", "b")
    settle(a, moved)
    assert a.links.incarnation_of("b") == ord("b")
    assert [*a.links.newcomers(ADDRESSES)] == [Application("b", ord("b"), "tcp://elsewhere:1", moved=True)]
    assert [*a.links.newcomers({**ADDRESSES, "b": "tcp://elsewhere:1"})] == []


def test_a_connection_that_stands_is_not_given_up_for_another_address(network: FakeNetwork) -> None:
    a, b = pair(network, cluster=ONE)
    a.book.heard("b", "tcp://elsewhere:1")
    a.links.dial(a.now)
    assert a.transport.urls["b"] == url_of("b")
    assert a.links.send("b", TimeoutNow(2))
    network.cut("a", "b")
    settle(a, b)
    a.tick(SILENCE_LIMIT + 0.5)
    assert a.transport.urls["b"] == "tcp://elsewhere:1"


def test_all_addresses_of_a_peer_are_tried_in_turn(network: FakeNetwork) -> None:
    a = FakeMember(network, "a")
    a.book.heard("b", "tcp://said:1")
    a.book.configure({"b": "tcp://configured:1"}, ("b", "c"))
    a.book.told({"b": "tcp://told:1"})
    a.links.dial(a.now)
    tried = []
    for _ in range(8):
        tried.append(a.transport.urls["b"])
        a.tick(SILENCE_LIMIT + 0.25)
    assert tried == ["tcp://said:1", "tcp://b:1", "tcp://configured:1", "tcp://told:1"] * 2


def test_an_address_at_which_another_member_answers_is_left_for_the_next(network: FakeNetwork) -> None:
    a, c = FakeMember(network, "a"), FakeMember(network, "c")
    for member in (a, c):
        decide(member, MEMBERS, 7)
    network.listeners[url_of("b")] = "c"  # the hosts were exchanged
    a.book.told({"b": "tcp://elsewhere:1"})
    network.connect("a", "b")
    settle(a, c)
    assert "this is member c, not b" in a.links.explain()
    a.tick(GREETING_TIMEOUT + 0.25)
    assert a.transport.urls["b"] == "tcp://elsewhere:1"


def test_a_link_to_one_that_is_no_member_any_more_is_kept_for_a_moment_and_then_let_go(network: FakeNetwork) -> None:
    a, d = FakeMember(network, "a", "abc"), FakeMember(network, "d", join=("a",))
    decide(a, {**MEMBERS, "d": ord("d")}, 7)
    decide(d, {**MEMBERS, "d": ord("d")}, 7)
    a.book.heard("d", url_of("d"))
    a.links.dial(a.now)
    network.connect("a", "d")
    settle(a, d)
    a.links.join_cluster(ONE, MEMBERS)
    a.book.configure(ADDRESSES, ("b", "c"))
    a.links.dial(a.now)
    assert a.links.send("d", Append(2, 1, 1, 1, 1, 0)), "the entry that tells so"
    settle(a, d)
    assert d.take() == [("a", Append(2, 1, 1, 1, 1, 0))]
    a.tick(FAREWELL + 0.5)
    assert "d" not in a.transport.urls
    assert not a.links.send("d", Append(2, 1, 1, 1, 1, 0))
    a.take()
    assert a.changes() == [("d", True), ("d", False)]


# -- life and loss --------------------------------------------------------------------------------------------------------------------


def test_a_silent_connection_is_pinged_and_lives_by_the_answers(network: FakeNetwork) -> None:
    a, b = pair(network, cluster=ONE)
    for _ in range(40):
        a.tick(0.25)
        b.now = a.now
        settle(a, b)
    assert "b" not in a.transport.dialled
    assert a.changes() == []


def test_a_connection_without_answers_is_given_up_and_dialled_anew(network: FakeNetwork) -> None:
    a, b = pair(network, cluster=ONE)
    network.cut("b", "a")
    settle(a, b)
    a.tick(SILENCE_LIMIT + 0.5)
    assert a.transport.dialled.count("b") >= 1
    assert a.changes() == [("b", False)]
    network.connect("a", "b")
    settle(a, b)
    assert a.changes() == [("b", True)]


def test_a_greeting_that_is_not_answered_is_dialled_anew(network: FakeNetwork) -> None:
    a, b = FakeMember(network, "a"), FakeMember(network, "b")
    network.connect("a", "b")
    a.handle()
    b.transport.events.clear()  # nobody at home
    a.tick(GREETING_TIMEOUT + 0.25)
    assert "b" in a.transport.dialled


def test_one_of_two_connections_lost_is_no_loss(network: FakeNetwork) -> None:
    a, b = pair(network, cluster=ONE)
    network.cut("a", "b")
    settle(a, b)
    assert a.changes() == b.changes() == []
    network.connect("a", "b")
    settle(a, b)
    assert a.changes() == b.changes() == []
    network.cut("a", "b")
    network.cut("b", "a")
    settle(a, b)
    assert (a.changes(), b.changes()) == ([("b", False)], [("a", False)])


def test_a_lost_peer_that_comes_back_is_reported_again(network: FakeNetwork) -> None:
    a, b = pair(network, cluster=ONE)
    for _ in range(3):
        network.cut("a", "b")
        network.cut("b", "a")
        settle(a, b)
        network.connect("b", "a")
        network.connect("a", "b")
        settle(a, b)
        assert a.changes() == [("b", False), ("b", True)]


def test_a_full_link_says_so(network: FakeNetwork) -> None:
    a, _ = pair(network, cluster=ONE)
    a.transport.full = True
    assert not a.links.send("b", TimeoutNow(1))
    assert a.links.unreachable() == ("c",)


def test_the_unreachable_are_named_with_address_and_reason(network: FakeNetwork) -> None:
    a, _ = pair(network)
    assert a.links.explain() == "c at tcp://c:1 (no connection)"


def test_a_voter_without_an_address_is_named_among_the_unreachable(network: FakeNetwork) -> None:
    a, _ = pair(network)
    a.links.join_cluster(ONE, {**MEMBERS, "stranger": 7})
    assert "stranger" in a.links.unreachable()
    assert "stranger (no address is known: name it in cluster=)" in a.links.explain()
