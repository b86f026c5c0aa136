"""``links.py``: greetings, refusals, pings, and who counts as reachable."""

from __future__ import annotations

import logging

import pytest
from fake_network import FakeMember, FakeNetwork, settle

from replkv import codec
from replkv.codec import NO_CLUSTER
from replkv.links import GREETING_TIMEOUT, HELLO_MAX, SILENCE_LIMIT
from replkv.messages import EntryKind, Found, Hello, Ping, Pong, TimeoutNow, Vote, Welcome
from replkv.transport import Arrived

ONE, TWO = b"1" * 16, b"2" * 16
MEMBERS = {name: ord(name) for name in "abc"}


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


def test_members_of_two_clusters_refuse_each_other_naming_both(network: FakeNetwork) -> None:
    a, b = FakeMember(network, "a"), FakeMember(network, "b")
    a.links.join_cluster(ONE, MEMBERS)
    b.links.join_cluster(TWO, MEMBERS)
    reason = refused(network, a, b)
    assert ONE.hex() in reason
    assert TWO.hex() in reason
    assert a.links.excluded_by["b"] in reason


def test_a_wiped_directory_is_refused(network: FakeNetwork) -> None:
    a, b = FakeMember(network, "a", incarnation=999), FakeMember(network, "b")
    b.links.join_cluster(ONE, MEMBERS)
    assert "the data directory of a was replaced" in refused(network, a, b)
    assert list(a.links.excluded_by) == ["b"]


def test_a_member_does_not_trust_a_wiped_peer_that_welcomes_it(network: FakeNetwork) -> None:
    a, b = FakeMember(network, "a"), FakeMember(network, "b", incarnation=999)
    a.links.join_cluster(ONE, MEMBERS)
    assert "the data directory of b was replaced" in refused(network, a, b)


def test_two_members_with_one_name_are_told(network: FakeNetwork) -> None:
    b = FakeMember(network, "b")
    twin = FakeMember(network, "a")
    twin.links.identity = b.links.identity
    assert "two members are called b" in refused(network, twin, b)


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


def test_a_refusal_is_logged_once_not_at_every_attempt(network: FakeNetwork, caplog: pytest.LogCaptureFixture) -> None:
    a, b = FakeMember(network, "a", incarnation=999), FakeMember(network, "b")
    b.links.join_cluster(ONE, MEMBERS)
    for _ in range(3):
        refused(network, a, b)
    assert [record.levelno for record in caplog.records if "is refused" in record.message] == [logging.WARNING]


def test_a_refused_caller_is_closed_once_its_answer_had_time_to_leave(network: FakeNetwork) -> None:
    a, b = FakeMember(network, "a", incarnation=999), FakeMember(network, "b")
    b.links.join_cluster(ONE, MEMBERS)
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
    assert a.links.send("b", Found(codec.make_entry(1, 1, EntryKind.FOUNDING, 0, b"x")))
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
    a.links.join_cluster(ONE, {"a": ord("a"), "b": 999, "c": ord("c")})
    assert a.links.unreachable() == ("b", "c")
    assert not a.links.send("b", Ping())
    assert a.changes() == [("b", False)]
    assert len(a.transport.kicked) == 1
    settle(a, b)


def test_a_peer_of_this_cluster_is_heard_though_no_configuration_known_here_names_it(network: FakeNetwork) -> None:
    """A member that is behind was once deaf to those that had joined meanwhile, and to the leader if that was one of them."""
    a, b = pair(network, cluster=ONE)
    a.links.join_cluster(ONE, {"a": ord("a"), "c": ord("c")})
    assert a.links.send("b", TimeoutNow(1))
    b.links.send("a", TimeoutNow(2))
    settle(a, b)
    assert list(a.links.take_received()) == [("b", TimeoutNow(2))]
    network.cut("a", "b")
    network.cut("b", "a")
    settle(a, b)
    network.connect("a", "b")
    network.connect("b", "a")
    settle(a, b)
    assert a.links.send("b", TimeoutNow(3))
    assert b.links.send("a", TimeoutNow(4))


def test_an_empty_directory_that_no_configuration_names_is_refused(network: FakeNetwork) -> None:
    a, b = FakeMember(network, "a"), FakeMember(network, "b")
    b.links.join_cluster(ONE, {"b": ord("b"), "c": ord("c")})
    assert "a is no member of this cluster" in refused(network, a, b)


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
