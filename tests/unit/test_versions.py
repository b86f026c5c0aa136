"""Members of different wire versions: which one they speak, who is refused, and what a newer one may say to an older one."""

from __future__ import annotations

import struct
import zlib

import pytest
from attrs import evolve
from fake_network import FakeMember, FakeNetwork, settle

from replkv import codec
from replkv.errors import Incompatible
from replkv.links import GREETING_TIMEOUT
from replkv.messages import EXPECTED, About, Append, Entry, EntryKind, Hello, Message, Pong, Vote, Welcome
from replkv.transport import Answered, Arrived

ONE = b"1" * 16
MEMBERS = {"a": ord("a"), "b": ord("b"), "c": ord("c")}
VERSION_AT, KIND_AT = 6, 7


@pytest.fixture
def network() -> FakeNetwork:
    return FakeNetwork()


def members(network: FakeNetwork, versions_of_a: tuple[int, int], versions_of_b: tuple[int, int]) -> tuple[FakeMember, FakeMember]:
    """Two members of one cluster, of which each has dialled the other."""
    a, b = FakeMember(network, "a"), FakeMember(network, "b")
    for member, versions in ((a, versions_of_a), (b, versions_of_b)):
        member.links.versions = versions
        member.links.join_cluster(ONE, MEMBERS)
    network.connect("a", "b")
    network.connect("b", "a")
    settle(a, b)
    return a, b


def frames(member: FakeMember) -> list[bytes]:
    """What waits to be read by a member."""
    return [event.frame for event in member.transport.events if isinstance(event, (Arrived, Answered))]


def changed(frame: bytes, at: int, value: int) -> bytes:
    """A frame with another byte, and the checksum of that."""
    body = bytearray(frame)
    body[at] = value
    return sealed(bytes(body))


def sealed(frame: bytes) -> bytes:
    return frame[:2] + struct.pack("<I", zlib.crc32(frame[6:])) + frame[6:]


# -- versions -------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("versions_of_a", "versions_of_b", "spoken"), [((1, 3), (2, 5), 3), ((2, 5), (1, 3), 3), ((1, 1), (1, 9), 1), ((4, 4), (2, 6), 4)]
)
def test_members_speak_the_highest_version_that_both_know(
    network: FakeNetwork, versions_of_a: tuple[int, int], versions_of_b: tuple[int, int], spoken: int
) -> None:
    a, b = members(network, versions_of_a, versions_of_b)
    for sender, receiver in ((a, b), (b, a)):
        assert sender.links.send(receiver.links.identity.name, Vote(1, 1, 1))
        (frame,) = frames(receiver)
        assert frame[VERSION_AT] == spoken
        settle(a, b)
        assert receiver.take() == [(sender.links.identity.name, Vote(1, 1, 1))]
    a.tick(0.75)
    assert {frame[VERSION_AT] for frame in frames(b)} == {spoken}, "pings"
    b.handle()
    assert {frame[VERSION_AT] for frame in frames(a)} == {spoken}, "and pongs"


@pytest.mark.parametrize(("versions_of_a", "versions_of_b", "behind"), [((1, 2), (3, 4), "a"), ((7, 9), (1, 6), "b")])
def test_members_without_a_common_version_refuse_each_other_and_say_who_is_to_be_upgraded(
    network: FakeNetwork, versions_of_a: tuple[int, int], versions_of_b: tuple[int, int], behind: str
) -> None:
    a, b = members(network, versions_of_a, versions_of_b)
    for one, other, own, others in ((a, b, versions_of_b, versions_of_a), (b, a, versions_of_a, versions_of_b)):
        me, peer = other.links.identity.name, one.links.identity.name
        reason = f"{me} speaks wire versions {own[0]} to {own[1]}, {peer} {others[0]} to {others[1]}: upgrade {behind}"
        assert reason in one.links.explain()
        assert not one.links.send(me, Vote(1, 1, 1))


def test_a_welcome_in_a_version_that_was_not_offered_does_not_count(network: FakeNetwork) -> None:
    a, b = FakeMember(network, "a"), FakeMember(network, "b")
    pipe = network.connect("a", "b")
    a.handle()
    welcome = Welcome(5, codec.NO_CLUSTER, "b", ord("b"), tuple("abc"))
    b.transport.reply(pipe, codec.encode_frame(codec.NO_CLUSTER, ord("b"), ord("a"), welcome))
    a.handle()
    assert not a.links.send("b", Vote(1, 1, 1))


@pytest.mark.parametrize("message", [Vote(1, 1, 1), Pong()])
def test_only_greetings_are_read_in_versions_that_are_not_spoken(message: Message) -> None:
    with pytest.raises(codec.DecodeError, match="a frame of version 9, this member speaks 1 to 1"):
        codec.decode_frame(codec.encode_frame(ONE, 1, 2, message, 9), (1, 1))


def test_a_newer_version_may_add_to_its_greetings() -> None:
    hello = Hello((3, 9), ONE, "a", 1, "b", tuple("abc"), About("tcp://a:1", 4, 5, 6))
    frame = codec.encode_frame(ONE, 1, 0, hello, 9)
    head = codec.unpack(frame[44:])
    head = (*head[:-1], (*head[-1], "more of what it says of itself"), "and one field more")
    packed = codec.pack(head)
    longer = sealed(frame[:8] + struct.pack("<I", len(packed)) + frame[12:44] + packed)
    assert codec.decode_frame(longer).message == hello


# -- what an older member is told that it does not know -------------------------------------------------------------------------------


def test_a_frame_of_an_unknown_kind_costs_the_connection_and_no_more(network: FakeNetwork) -> None:
    a, b = members(network, (1, 1), (1, 1))
    pipe = network.pipes["a", "b"]
    a.links.send("b", Vote(1, 1, 1))
    (event,) = [event for event in b.transport.events if isinstance(event, Arrived)]
    b.transport.events.clear()
    b.links.handle([Arrived(pipe, changed(event.frame, KIND_AT, 99))], b.now)
    assert (b.take(), b.transport.kicked, b.links.frames_dropped) == ([], [pipe], 1)
    network.cut("a", "b")
    settle(a, b)
    network.connect("a", "b")
    settle(a, b)
    assert a.links.send("b", Vote(1, 1, 1))


def unknown_entry(sender: int, cluster: bytes = ONE) -> bytes:
    """An Append with an entry of a kind that a newer version has."""
    entry = Entry(2, 1, EntryKind.BLOCK, 0, struct.pack("<QQBQ", 2, 1, 9, 0) + b"what comes next")
    return codec.encode_frame(cluster, sender, ord("b"), Append(1, 1, 1, 1, 1, 1, (entry,)))


def test_an_entry_of_an_unknown_kind_from_a_member_stops_this_one(network: FakeNetwork) -> None:
    _, b = members(network, (1, 1), (1, 1))
    with pytest.raises(Incompatible, match="a sent an entry of the unknown kind 9: upgrade this member"):
        b.links.handle([Arrived(network.pipes["a", "b"], unknown_entry(ord("a")))], b.now)


def test_it_does_not_where_anybody_else_sends_it(network: FakeNetwork) -> None:
    _, b = members(network, (1, 1), (1, 1))
    FakeMember(network, "c")
    stranger = network.connect("c", "b")
    b.handle()
    for pipe, frame in ((stranger, unknown_entry(ord("a"))), (network.pipes["a", "b"], unknown_entry(ord("c")))):
        b.links.handle([Arrived(pipe, frame)], b.now)
        assert b.transport.kicked[-1] == pipe
    assert b.links.frames_dropped == 2


# -- the feature level ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("supports", "welcome"), [(2, False), (3, True), (4, True)])
def test_a_newcomer_is_let_in_if_it_supports_the_cluster_s_level(network: FakeNetwork, supports: int, welcome: bool) -> None:
    a, b = FakeMember(network, "a"), FakeMember(network, "b")
    a.links.about = evolve(a.links.about, level=supports)
    b.links.join_cluster(ONE, {**MEMBERS, "a": EXPECTED})
    b.links.level = 3
    network.connect("a", "b")
    network.connect("b", "a")
    settle(a, b)
    assert (b.links.incarnation_of("a") is not None) is welcome
    reason = "the cluster is at feature level 3, and a supports 2 only: upgrade a"
    assert (reason in a.links.explain()) is not welcome
    if not welcome:
        b.tick(GREETING_TIMEOUT + 0.5)
        assert b.transport.kicked


def test_a_member_that_does_not_support_it_may_come_for_it_will_find_the_level_in_the_log(network: FakeNetwork) -> None:
    a, b = FakeMember(network, "a"), FakeMember(network, "b")
    for member in (a, b):
        member.links.join_cluster(ONE, MEMBERS)
        member.links.level = 3
    a.links.about = evolve(a.links.about, level=2)
    network.connect("b", "a")
    settle(a, b)
    about = b.links.about_of("a")
    assert about is not None
    assert about.level == 2
