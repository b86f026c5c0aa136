"""``verification.py`` and how ``upkeep.py`` feeds it: the odd member stops with the evidence, and nobody else ever does."""

from __future__ import annotations

import logging
import random

import pytest
from caller import Caller
from fake_network import FakeCluster
from hypothesis import given, settings
from hypothesis import strategies as st

from replkv import ops
from replkv.errors import InvariantBroken
from replkv.messages import Configuration, Digest
from replkv.verification import KEPT, Verification

RIGHT, WRONG, OTHER = b"\x01\x02\x03\x04", b"\xff\xfe\xfd\xfc", b"\xaa\xaa\xaa\xaa"


def configuration(names: str, learners: str = "") -> Configuration:
    return Configuration(voters=tuple(names), learners=tuple(learners), members={name: ord(name) for name in names + learners})


def digest(index: int, value: bytes = RIGHT, *, full: bool = False) -> Digest:
    return Digest(index, full=full, hash=value)


class Members:
    """Members that hear of each other's hashes, in an order of choice."""

    def __init__(self, names: str, leader: str | None = "a", learners: str = "") -> None:
        self.all = {name: Verification(name) for name in names + learners}
        self.configuration = configuration(names, learners)
        self.leader = leader
        self.stopped: dict[str, str] = {}

    def tell(self, member: str, to: str, one: Digest) -> None:
        if to in self.stopped:
            return
        try:
            self.all[to].note(member, one, self.configuration, self.leader)
        except InvariantBroken as broken:
            self.stopped[to] = str(broken)

    def all_tell(self, index: int, hashes: dict[str, bytes], *, full: bool = False) -> None:
        for member, value in hashes.items():
            for to in self.all:
                self.tell(member, to, digest(index, value, full=full))


# -- who is odd -----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("odd", ["a", "b", "c"])
def test_of_three_members_the_odd_one_stops_with_the_evidence_whoever_leads(odd: str, full: bool) -> None:
    members = Members("abc")
    members.all_tell(7, {name: WRONG if name == odd else RIGHT for name in "abc"}, full=full)
    assert list(members.stopped) == [odd]
    text = members.stopped[odd]
    assert f"{odd} went astray: the {'state' if full else 'chain'} at entry 7 differs" in text
    assert all(f"{name} has {(WRONG if name == odd else RIGHT).hex()}" in text for name in "abc")
    assert "rather than give wrong answers" in text
    assert "data directory" in text


@pytest.mark.parametrize("leader", ["a", "b"])
def test_of_two_members_the_one_that_does_not_lead_stops(leader: str) -> None:
    members = Members("ab", leader)
    members.all_tell(7, {"a": RIGHT, "b": WRONG})
    assert set(members.stopped) == {"a", "b"} - {leader}


def test_of_two_members_none_stops_while_nobody_leads(caplog: pytest.LogCaptureFixture) -> None:
    members = Members("ab", None)
    members.all_tell(7, {"a": RIGHT, "b": WRONG})
    assert members.stopped == {}
    assert "the chain at entry 7 differs" in caplog.text


@pytest.mark.parametrize(("names", "hashes"), [("abcd", "1122"), ("abcde", "11223"), ("abc", "123"), ("abcd", "1123")])
def test_none_stops_where_no_majority_agrees(names: str, hashes: str) -> None:
    members = Members(names)
    members.all_tell(7, {name: value.encode() for name, value in zip(names, hashes, strict=True)})
    assert members.stopped == {}


@pytest.mark.parametrize(("names", "hashes", "odd"), [("abcd", "1112", "d"), ("abcde", "12131", "bd"), ("abcde", "21111", "a")])
def test_all_that_differ_from_a_majority_stop(names: str, hashes: str, odd: str) -> None:
    members = Members(names)
    members.all_tell(7, {name: value.encode() for name, value in zip(names, hashes, strict=True)})
    assert set(members.stopped) == set(odd)


def test_a_majority_of_all_voters_decides_not_one_of_those_heard_of() -> None:
    members = Members("abcde")
    for member in "bc":
        members.tell(member, "a", digest(7, WRONG))
    members.tell("a", "a", digest(7))
    assert members.stopped == {}
    members.tell("d", "a", digest(7, WRONG))
    assert list(members.stopped) == ["a"]


def test_a_learner_stops_when_it_differs_from_the_voters_and_has_no_say() -> None:
    members = Members("abc", learners="xyz")
    members.all_tell(7, {"x": WRONG, "y": WRONG, "z": WRONG, "a": RIGHT, "b": RIGHT})
    assert set(members.stopped) == {"x", "y", "z"}


def test_learners_that_differ_before_any_voter_was_heard_of_stop_nobody() -> None:
    """The member met an IndexError, and stopped."""
    members = Members("abc", learners="xy")
    members.all_tell(7, {"x": WRONG, "y": RIGHT})
    assert members.stopped == {}


def test_a_member_alone_agrees_with_itself() -> None:
    members = Members("a")
    members.all_tell(7, {"a": RIGHT})
    assert members.stopped == {}


# -- no false alarm -------------------------------------------------------------------------------------------------------------------


def test_hashes_of_different_places_are_not_compared() -> None:
    members = Members("abc")
    members.all_tell(7, {"a": RIGHT, "b": RIGHT})
    members.all_tell(8, {"c": WRONG})
    members.all_tell(7, {"c": WRONG}, full=True)
    assert members.stopped == {}


def test_a_member_that_is_far_behind_raises_no_alarm_and_is_compared_when_it_has_caught_up() -> None:
    members = Members("abc")
    hashes = {index: bytes([index % 251, 1, 2, 3]) for index in range(1, 3 * KEPT)}
    for index, value in hashes.items():
        members.all_tell(index, {"a": value, "b": value})
    for index, value in hashes.items():
        members.all_tell(index, {"c": value})
    assert members.stopped == {}
    members.all_tell(3 * KEPT, {"a": RIGHT, "b": RIGHT})
    members.all_tell(3 * KEPT, {"c": WRONG})
    assert list(members.stopped) == ["c"]


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_members_that_agree_never_stop_however_late_they_hear(data: st.DataObject) -> None:
    names = data.draw(st.sampled_from(["ab", "abc", "abcde"]))
    members = Members(names, data.draw(st.sampled_from([None, "a", "b"])))
    on_the_way = [(member, to, index, full) for member in names for to in names for index in range(1, 5) for full in (False, True)]
    random.Random(data.draw(st.integers(0, 1 << 30))).shuffle(on_the_way)
    for member, to, index, full in on_the_way:
        members.tell(member, to, digest(index, bytes([index, full]), full=full))
    assert members.stopped == {}


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 1 << 30), st.sampled_from("abc"))
def test_only_the_odd_member_stops_whatever_is_heard_first(seed: int, odd: str) -> None:
    members = Members("abc", "a")
    on_the_way = [(member, to) for member in "abc" for to in "abc"]
    random.Random(seed).shuffle(on_the_way)
    for member, to in on_the_way:
        members.tell(member, to, digest(7, WRONG if member == odd else RIGHT))
    assert list(members.stopped) == [odd]


# -- what it keeps --------------------------------------------------------------------------------------------------------------------


def test_only_the_newest_places_are_remembered() -> None:
    members = Members("abc")
    for index in range(1, 1000):
        members.all_tell(index, {"a": RIGHT, "b": RIGHT})
    assert {len(one._hashes) for one in members.all.values()} == {KEPT}


def test_what_was_reported_is_forgotten_with_its_place(caplog: pytest.LogCaptureFixture) -> None:
    """It was kept for good: a cluster in which two members stand against two others grew with every report."""
    members = Members("abcd")
    with caplog.at_level(logging.CRITICAL):
        for index in range(1, 1000):
            members.all_tell(index, {"a": RIGHT, "b": RIGHT, "c": WRONG, "d": WRONG})
    assert members.stopped == {}
    assert {len(one._reported) for one in members.all.values()} == {2 * KEPT}


def test_who_went_astray_is_reported_once_by_the_others(caplog: pytest.LogCaptureFixture) -> None:
    members = Members("abc")
    for _ in range(3):
        members.all_tell(7, {"a": RIGHT, "b": RIGHT, "c": WRONG})
    assert caplog.text.count("a: c went astray: the chain at entry 7 differs") == 1
    assert caplog.text.count("b: c went astray") == 1


# -- whole members --------------------------------------------------------------------------------------------------------------------


def execute(cluster: FakeCluster, name: str, *operations: ops.Packable[object]) -> None:
    for operation in operations:
        call = Caller.of(operation)
        node = cluster.nodes[name]
        assert node.proposals.admission.enter(len(call.command or b""))
        node.submit(call)
        cluster.run(lambda: call.finished)  # noqa: B023


def rest(cluster: FakeCluster, seconds: float = 3.0) -> None:
    until = cluster.now + seconds
    cluster.run(lambda: cluster.now >= until)


def failures(cluster: FakeCluster) -> dict[str, str]:
    return {name: str(node.failure) for name, node in cluster.nodes.items() if node.failure is not None}


def test_a_member_whose_answers_differ_stops_when_all_are_at_rest() -> None:
    cluster = FakeCluster()
    cluster.run(cluster.leader)
    leader = cluster.leader() or ""
    odd = next(name for name in "abc" if name != leader)
    execute(cluster, leader, ops.Put("k", "right"))
    rest(cluster)
    store = cluster.nodes[odd].machine.store
    store.newest[b"k"] = (b"k", b"wrong", *store.newest[b"k"][2:])
    cluster.may_fail.add(odd)
    execute(cluster, leader, ops.Add("counter"), ops.Txn(then=[ops.Put("x", "y"), ops.Get("k")]))
    cluster.run(lambda: odd in failures(cluster))
    assert list(failures(cluster)) == [odd]
    assert "went astray: the chain at entry" in failures(cluster)[odd]
    execute(cluster, leader, ops.Put("goes", "on"))


def test_a_member_whose_memory_rotted_unseen_is_found_by_the_hash_of_the_whole_state_at_a_compaction() -> None:
    cluster = FakeCluster()
    cluster.run(cluster.leader)
    leader = cluster.leader() or ""
    odd = next(name for name in "abc" if name != leader)
    execute(cluster, leader, ops.Put("k", "right"), ops.Put("k", "right"), ops.Put("l", "x"))
    rest(cluster)
    store = cluster.nodes[odd].machine.store
    store.events._last[1] = store.newest[b"k"] = (b"k", b"wrong", *store.newest[b"k"][2:])
    cluster.may_fail.add(odd)
    rest(cluster, 10.0)
    assert failures(cluster) == {}
    stretch = cluster.nodes[leader].machine.time // 60_000_000
    cluster.run(lambda: cluster.nodes[leader].raft is not None and cluster.nodes[leader].raft.time // 60_000_000 > stretch, 120.0)  # type: ignore[union-attr]
    execute(cluster, leader, ops.Compact(3))
    cluster.run(lambda: odd in failures(cluster))
    assert list(failures(cluster)) == [odd]
    assert "went astray: the state at entry" in failures(cluster)[odd]


def test_members_that_crash_restart_compact_and_scrub_never_accuse_each_other(caplog: pytest.LogCaptureFixture) -> None:
    cluster = FakeCluster()
    cluster.run(cluster.leader)
    rng = random.Random(7)
    for turn in range(8):
        name = rng.choice("abc")
        cluster.crash(name)
        other = rng.choice([one for one in "abc" if one != name])
        execute(cluster, other, *(ops.Put(f"k{number % 7}", str(turn), ttl=60.0) for number in range(40)))
        revision = cluster.nodes[other].published.revision
        execute(cluster, other, ops.Compact(revision - 5), ops.Delete(prefix="k1"))
        cluster.start(name)
        rest(cluster, rng.uniform(0.1, 4.0))
    rest(cluster)
    assert failures(cluster) == {}
    assert "astray" not in caplog.text
    assert len({(node.machine.applied, node.machine.chain, node.machine.digest()) for node in cluster.nodes.values()}) == 1
    assert not any(node.machine.store.unscrubbed for node in cluster.nodes.values())
