"""``membership.py``: whole members that come, go, come back empty and move, in virtual time."""

from __future__ import annotations

import logging
from collections.abc import Callable

import pytest
from fake_network import FakeCluster, url_of

from replkv import codec
from replkv.address import ADDRESS_MAX
from replkv.config import Config
from replkv.errors import Removed, WrongCluster
from replkv.links import FAREWELL
from replkv.machine import Machine
from replkv.member_ops import ChangeMembers
from replkv.messages import EXPECTED, Append, Application, CensusReply, Configuration, Message, SnapshotChunk, SnapshotMeta
from replkv.node import Node
from replkv.ops import Put
from replkv.proposals import Call
from replkv.raft import Raft, Role
from replkv.wire import MEMBERS_MAX


def ready(cluster: FakeCluster) -> FakeCluster:
    cluster.run(lambda: all(node.ready for node in cluster.nodes.values()))
    return cluster


def raft_of(node: Node) -> Raft:
    assert node.raft is not None
    return node.raft


def leader_of(cluster: FakeCluster) -> Node:
    """Return who leads, once there is somebody."""
    cluster.run(lambda: any(node.raft is not None and node.raft.role is Role.LEADER for node in cluster.nodes.values()))
    return max(
        (node for node in cluster.nodes.values() if node.raft is not None and node.raft.role is Role.LEADER),
        key=lambda node: raft_of(node).term,
    )


def submit(cluster: FakeCluster, command: ChangeMembers | Put, name: str = "") -> object:
    """Let a member carry out a command, and return the answer."""
    node = cluster.nodes[name] if name else leader_of(cluster)
    answered: list[Call] = []
    node._submit_own(codec.pack(command.to_wire()), answered.append)
    cluster.run(lambda: answered)
    return answered[0].answer


def change(cluster: FakeCluster, *, add: str = "", remove: str = "", learners: str = "", by: str = "") -> None:
    pairs = tuple((name, url_of(name)) for name in add)
    assert submit(cluster, ChangeMembers(pairs, tuple(remove), tuple((name, url_of(name)) for name in learners)), by) == (0,)


def is_decided(cluster: FakeCluster, voters: str, learners: str = "") -> Callable[[], bool]:
    """Tell whether all who are members know that these are the members, and each has come."""

    def told() -> bool:
        known = [cluster.nodes[name].machine.configuration for name in voters + learners if name in cluster.nodes]
        return all(
            (seen.voters, seen.outgoing, seen.learners) == (tuple(voters), (), tuple(learners)) and EXPECTED not in seen.members.values()
            for seen in known
        )

    return told


def warnings_of(caplog: pytest.LogCaptureFixture, text: str) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING and text in record.getMessage()]


# -- coming ---------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("map_of_all", [False, True])
def test_one_that_was_named_is_let_in_and_gets_its_vote_by_itself(map_of_all: bool) -> None:
    cluster = ready(FakeCluster())
    change(cluster, add="d")
    cluster.run(lambda: leader_of(cluster).machine.configuration.members.get("d") == EXPECTED)
    cluster.start("d", join="" if map_of_all else "b")
    cluster.run(is_decided(cluster, "abcd"))
    incarnation = cluster.nodes["d"].links.identity.incarnation
    assert {node.machine.configuration.members["d"] for node in cluster.nodes.values()} == {incarnation}
    assert {node.links.cluster for node in cluster.nodes.values()} == {cluster.nodes["a"].links.cluster}
    submit(cluster, Put("k", "v"), "d")
    cluster.run(lambda: len({(node.machine.applied, node.machine.digest()) for node in cluster.nodes.values()}) == 1)


def test_one_that_nobody_has_named_waits_and_says_so_once(caplog: pytest.LogCaptureFixture) -> None:
    cluster = ready(FakeCluster("a"))
    newcomer = cluster.start("d", join="a")
    cluster.rest(3000)
    assert newcomer.raft is None
    assert newcomer.links.explain() == "tcp://a:1 (d is no member of this cluster: name it first, with change_members(add=...))"
    assert len(warnings_of(caplog, "d is no member of this cluster")) == 1
    change(cluster, add="d")
    cluster.run(is_decided(cluster, "ad"))


def test_the_founders_grow_shrink_and_are_all_exchanged_while_the_same_keys_stay() -> None:
    cluster = ready(FakeCluster("a"))
    submit(cluster, Put("k", "v"))
    change(cluster, add="bcde")
    for name in "bcde":
        cluster.start(name, join="a")
    cluster.run(is_decided(cluster, "abcde"))
    cluster.may_fail.update("abc")
    change(cluster, add="fgh", remove="abc")
    for name in "fgh":
        cluster.start(name, join="d")
    cluster.run(lambda: all(cluster.nodes[name].stopped for name in "abc"))
    assert [type(cluster.nodes[name].failure) for name in "abc"] == [Removed] * 3
    cluster.run(is_decided(cluster, "defgh"))
    for name in "defgh":
        assert cluster.nodes[name].machine.store.get(b"k", 99) is not None


def test_one_that_comes_as_a_learner_stays_one_although_a_vote_was_meant_for_it() -> None:
    cluster = ready(FakeCluster("a"))
    change(cluster, add="b")
    cluster.start("b", join="a", learner=True)
    cluster.run(is_decided(cluster, "a", "b"))
    cluster.rest(500)
    assert is_decided(cluster, "a", "b")()
    assert submit(cluster, ChangeMembers(promote=("b",))) == (0,)
    cluster.run(is_decided(cluster, "ab"))


def test_one_that_comes_as_a_learner_says_so_again_if_it_restarts_before_it_could() -> None:
    cluster = ready(FakeCluster("a"))
    change(cluster, add="b")
    cluster.start("b", join="a", learner=True)
    cluster.run(lambda: cluster.nodes["b"].raft is not None)
    cluster.crash("b")
    cluster.start("b", join="a", learner=True)
    cluster.run(is_decided(cluster, "a", "b"))


def test_one_that_is_removed_before_it_has_declined_its_vote_is_not_named_again_by_that() -> None:
    cluster = ready(FakeCluster("a"))
    change(cluster, add="b")
    newcomer, held = cluster.start("b", join="a", learner=True), list[bytes]()
    newcomer.membership._submit = lambda command, _: held.append(command)
    cluster.run(lambda: held)
    cluster.may_fail.add("b")
    change(cluster, remove="b")
    answered: list[Call] = []
    cluster.nodes["a"]._submit_own(held[0], answered.append)
    cluster.run(lambda: answered)
    cluster.run(is_decided(cluster, "a"))
    assert list(cluster.nodes["a"].machine.roster) == ["a"]


def test_a_newcomer_that_the_leader_does_not_see_is_told_of_by_those_who_do() -> None:
    cluster = ready(FakeCluster())
    leader = leader_of(cluster)
    cluster.network.sever("d", leader.name)
    change(cluster, add="d")
    newcomer = cluster.start("d", join="abc")
    cluster.run(lambda: newcomer.raft is not None, 5.0)
    assert leader.machine.configuration.learners == ("d",)
    cluster.rest(500)
    assert leader.machine.configuration.learners == ("d",), "it can't have the log"
    cluster.network.severed.clear()
    cluster.run(is_decided(cluster, "abcd"))


def test_a_newcomer_whose_way_to_the_leader_is_long_does_not_forget_it_for_the_founders() -> None:
    """It begins with the founding entry, which may name nobody who is still there; so it let go of the links to all who were, and nobody
    heard its answers any more: it never got further."""
    cluster = ready(FakeCluster("a"))
    change(cluster, add="bcd", remove="a")
    cluster.may_fail.add("a")
    for name in "bcd":
        cluster.start(name, join="a")
    cluster.run(lambda: cluster.nodes["a"].stopped)
    cluster.run(is_decided(cluster, "bcd"))
    cluster.crash("a")
    leader = leader_of(cluster)
    end, lost = cluster.network.ends[leader.name], list[Message]()
    real, until = end.send, cluster.now + 3 * FAREWELL

    def lose_what_is_long(peer: str, frame: bytes) -> bool:
        message = codec.decode_frame(frame).message
        if peer == "e" and isinstance(message, (Append, SnapshotChunk)) and cluster.now < until:
            lost.append(message)
            return True
        return real(peer, frame)

    end.send = lose_what_is_long  # type: ignore[method-assign]
    change(cluster, add="e")
    newcomer = cluster.start("e", join=leader.name)
    cluster.run(lambda: newcomer.raft is not None)
    cluster.run(lambda: cluster.now > until)
    assert lost
    assert {*newcomer.links._links} >= {*"bcd"}
    cluster.run(is_decided(cluster, "bcde"), 5.0)
    cluster.run(lambda: {*newcomer.links._links} == {*"bcd"}, 5.0)  # nobody tries to reach who has gone


def test_a_newcomer_gets_a_snapshot_where_the_log_no_longer_begins_at_its_beginning() -> None:
    cluster = ready(FakeCluster("a", config=Config(snapshot_bytes=2000, trailing_entries=1)))
    for number in range(20):
        submit(cluster, Put("k", f"{number} {'x' * 200}"))
    cluster.run(lambda: raft_of(cluster.nodes["a"])._log.base_index > 5)
    change(cluster, add="b")
    cluster.start("b", join="a")
    cluster.run(is_decided(cluster, "ab"))
    assert cluster.nodes["b"].machine.digest() == cluster.nodes["a"].machine.digest()
    assert {name: tuple(cluster.nodes["b"].machine.roster[name]) for name in "ab"} == {
        "a": (True, url_of("a")),
        "b": (True, url_of("b")),
    }


# -- going ----------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("leads", [False, True])
def test_one_that_is_removed_stops_and_the_others_go_on(leads: bool) -> None:
    cluster = ready(FakeCluster())
    leader = leader_of(cluster).name
    gone = leader if leads else min({*"abc"} - {leader})
    rest = "".join(sorted({*"abc"} - {gone}))
    cluster.may_fail.add(gone)
    change(cluster, remove=gone)
    cluster.run(lambda: cluster.nodes[gone].stopped, 5.0)
    assert isinstance(cluster.nodes[gone].failure, Removed)
    assert "an empty directory can join again" in str(cluster.nodes[gone].failure)
    cluster.crash(gone)
    cluster.run(is_decided(cluster, rest), 5.0)
    submit(cluster, Put("k", "v"))


def test_one_that_was_away_when_it_was_removed_is_told_when_it_comes_back() -> None:
    cluster = ready(FakeCluster())
    away = next(name for name in "abc" if name != leader_of(cluster).name)
    cluster.crash(away)
    change(cluster, remove=away)
    rest = "".join(sorted({*"abc"} - {away}))
    cluster.run(is_decided(cluster, rest))
    cluster.may_fail.add(away)
    back = cluster.start(away)
    cluster.run(lambda: back.stopped, 20.0)
    assert isinstance(back.failure, Removed)
    assert f"{away} was removed from this cluster" in str(back.failure)
    submit(cluster, Put("k", "v"))


def test_a_majority_that_was_started_again_elects_a_leader_although_the_rest_of_it_has_not_heard_of_them() -> None:
    """One that had been away took the others, which had joined meanwhile and had not applied anything again yet, for members that had been
    removed, and refused them: of five members three ran, and nobody ever led."""
    cluster = ready(FakeCluster())
    away = next(name for name in "abc" if name != leader_of(cluster).name)
    cluster.crash(away)
    change(cluster, add="de")
    for name in "de":
        cluster.start(name, join="abc")
    cluster.run(is_decided(cluster, "abcde"))
    submit(cluster, Put("k", "v"))
    for name in list(cluster.nodes):
        cluster.crash(name)
    for name in "de":
        cluster.start(name, join="abc")
    cluster.start(away)
    cluster.run(lambda: all(node.ready for node in cluster.nodes.values()), 10.0)
    submit(cluster, Put("k", "w"), away)
    assert raft_of(cluster.nodes[away]).configuration.voters == (*"abcde",)


def test_one_that_was_removed_joins_again_with_an_empty_directory_only() -> None:
    cluster = ready(FakeCluster())
    gone = next(name for name in "abc" if name != leader_of(cluster).name)
    rest = "".join(sorted({*"abc"} - {gone}))
    cluster.may_fail.add(gone)
    change(cluster, remove=gone)
    cluster.run(lambda: cluster.nodes[gone].stopped)
    cluster.crash(gone)
    change(cluster, add=gone)
    old = cluster.start(gone)
    cluster.run(lambda: old.stopped, 20.0)
    assert isinstance(old.failure, Removed)
    assert leader_of(cluster).machine.configuration.members[gone] == EXPECTED
    cluster.wipe(gone)
    cluster.may_fail.clear()
    cluster.start(gone, join=rest)
    cluster.run(is_decided(cluster, "abc"))


def test_a_member_that_hears_from_a_minority_that_knows_no_leader_believes_in_no_removal() -> None:
    cluster = ready(FakeCluster("abcde"))
    leader = leader_of(cluster).name
    one, other, *rest = sorted({*"abcde"} - {leader})
    cluster.network.sever(one, leader, *rest)
    cluster.network.sever(other, leader, *rest)
    cluster.rest(3000)
    assert [cluster.nodes[name].failure for name in (one, other)] == [None, None]
    cluster.network.severed.clear()
    cluster.run(cluster.leader)


def test_all_others_are_exchanged_although_the_one_that_stays_is_dead() -> None:
    """Only that one could take over from a leader that had to go, so it was waited for, and nobody went."""
    cluster = ready(FakeCluster())
    leader = leader_of(cluster).name
    dead, other = sorted({*"abc"} - {leader})
    cluster.crash(dead)
    cluster.may_fail.update((leader, other))
    for name in "de":
        cluster.start(name, join="abc")
    change(cluster, add="de", remove=leader + other)
    cluster.run(lambda: cluster.nodes[leader].stopped and cluster.nodes[other].stopped)
    assert [type(cluster.nodes[name].failure) for name in (leader, other)] == [Removed] * 2
    submit(cluster, Put("k", "v"), "d")
    cluster.start(dead)
    cluster.run(is_decided(cluster, "".join(sorted((dead, "d", "e")))))


def test_nobody_is_removed_where_too_few_of_those_who_would_be_left_are_there() -> None:
    cluster = ready(FakeCluster())
    leader = leader_of(cluster).name
    dead, alive = sorted({*"abc"} - {leader})
    cluster.crash(dead)
    cluster.rest(400)
    change(cluster, remove=alive)
    cluster.rest(400)
    submit(cluster, Put("k", "v"))
    assert leader_of(cluster).machine.configuration.voters == ("a", "b", "c")
    cluster.may_fail.add(alive)
    cluster.start(dead)
    cluster.run(lambda: cluster.nodes[alive].stopped)
    cluster.run(is_decided(cluster, "".join(sorted((leader, dead)))))


def test_a_new_leader_lets_nobody_go_either_who_is_needed_for_one_that_is_dead() -> None:
    """It took everybody for alive who had not had the time to answer: it proposed what could never be decided, and nothing was any more."""
    cluster = ready(FakeCluster())
    first = leader_of(cluster).name
    dead, alive = sorted({*"abc"} - {first})
    cluster.crash(dead)
    cluster.rest(400)
    change(cluster, remove=alive)
    raft_of(leader_of(cluster)).transfer(alive, cluster.now)
    cluster.run(lambda: cluster.leader() == alive, 5.0)
    cluster.rest(400)
    submit(cluster, Put("k", "v"))
    assert leader_of(cluster).machine.configuration.voters == ("a", "b", "c")
    cluster.may_fail.add(alive)
    cluster.start(dead)
    cluster.run(is_decided(cluster, "".join(sorted((first, dead)))))


# -- coming back ----------------------------------------------------------------------------------------------------------------------


def test_one_that_lost_its_directory_while_its_log_was_in_use_elsewhere_is_replaced_and_the_old_one_stops() -> None:
    """It was only cut off, and somebody started it anew elsewhere: of the two the new one stays."""
    cluster = ready(FakeCluster())
    cut_off = next(name for name in "abc" if name != leader_of(cluster).name)
    rest = sorted({*"abc"} - {cut_off})
    cluster.network.sever(cut_off, *rest)
    old, disk, end = cluster.nodes.pop(cut_off), cluster.disks.pop(cut_off), cluster.network.ends[cut_off]
    end.name = "zombie"
    cluster.network.ends["zombie"] = end
    cluster.network.cut_off(cut_off)
    cluster.network.severed.clear()
    new = cluster.start(cut_off)
    cluster.run(is_decided(cluster, "abc"))
    assert new.machine.configuration.members[cut_off] == new.links.identity.incarnation != old.links.identity.incarnation
    cluster.nodes["zombie"], cluster.disks["zombie"] = old, disk
    cluster.may_fail.add("zombie")
    cluster.run(lambda: old.stopped, 30.0)
    assert isinstance(old.failure, Removed)
    assert "was replaced" in str(old.failure)


def test_a_leader_knows_for_a_while_nobody_that_is_dead_and_replaces_nobody_at_once() -> None:
    cluster = ready(FakeCluster())
    leader = leader_of(cluster).name
    wiped = next(name for name in "abc" if name != leader)
    cluster.wipe(wiped)
    cluster.start(wiped)
    began = cluster.now
    cluster.run(is_decided(cluster, "abc"))
    assert cluster.now - began > 1.5


# -- moving ---------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("leads", [False, True])
def test_where_a_member_moved_to_is_written_into_the_configuration(leads: bool) -> None:
    cluster = ready(FakeCluster())
    leader = leader_of(cluster).name
    mover = leader if leads else min({*"abc"} - {leader})
    cluster.crash(mover)
    cluster.start(mover, url="tcp://elsewhere:1")
    cluster.run(lambda: all(node.machine.configuration.addresses[mover] == "tcp://elsewhere:1" for node in cluster.nodes.values()), 20.0)
    written = {node.machine.configured for node in cluster.nodes.values()}
    cluster.rest(500)
    assert {node.machine.configured for node in cluster.nodes.values()} == written, "once is enough"
    assert all(node.book.best(mover) == "tcp://elsewhere:1" for name, node in cluster.nodes.items() if name != mover)


def test_all_move_at_once_but_for_one_and_find_each_other_again() -> None:
    cluster = ready(FakeCluster())
    for name in "bc":
        cluster.crash(name)
    for name in "bc":
        cluster.start(name, url=f"tcp://elsewhere-{name}:1")
    cluster.run(cluster.leader, 20.0)
    cluster.run(
        lambda: all(
            node.machine.configuration.addresses == {"a": url_of("a"), "b": "tcp://elsewhere-b:1", "c": "tcp://elsewhere-c:1"}
            for node in cluster.nodes.values()
        )
    )


# -- steering -------------------------------------------------------------------------------------------------------------------------


def test_a_leader_that_has_not_applied_yet_for_whom_the_configuration_was_made_leaves_it_alone() -> None:
    """It knew an older roster than its predecessor, who had named a newcomer: it dropped that again, with the incarnation it had."""
    cluster = ready(FakeCluster("a"))
    leader = leader_of(cluster)
    before = Machine.load(list(leader.machine.dump()))
    change(cluster, add="b")
    cluster.start("b", join="a")
    cluster.run(is_decided(cluster, "ab"))
    raft = raft_of(leader)
    cluster.run(lambda: not raft.is_unsettled and raft.can_propose)
    index, wanted = raft.last_index, leader.membership.step(raft, before, cluster.now)
    assert wanted is not None, "by what it knew, b would have to go"
    leader.membership.steer(raft, before, cluster.now)
    assert raft.last_index == index
    leader.membership.steer(raft, leader.machine, cluster.now)
    assert raft.last_index == index


def test_what_is_told_of_newcomers_is_believed_for_a_moment_only() -> None:
    cluster = ready(FakeCluster("a"))
    leader = leader_of(cluster)
    change(cluster, add="b")
    cluster.run(lambda: "b" in leader.machine.configuration.members)
    leader.membership.heard(raft_of(leader), "c", Application("b", 77, url_of("b")), cluster.now)
    step = leader.membership.step(raft_of(leader), leader.machine, cluster.now)
    assert step is not None
    assert step.members["b"] == 77
    assert leader.membership.step(raft_of(leader), leader.machine, cluster.now + 5.0) is None


def test_a_leader_that_moved_believes_nobody_who_tells_it_where_it_was() -> None:
    """Its own word and that of a follower took turns: a configuration was written at every look, until the old connection was given up."""
    cluster = ready(FakeCluster())
    leader = leader_of(cluster)
    before = Application(leader.name, leader.links.identity.incarnation, "tcp://before:1", moved=True)
    leader.membership.heard(raft_of(leader), "c", before, cluster.now)
    assert leader.membership.step(raft_of(leader), leader.machine, cluster.now) is None


def test_what_was_told_of_one_that_was_removed_does_not_let_it_in_again_when_its_name_is_named_anew() -> None:
    """It had moved just before; so it was taken for the empty directory that was expected, and stopped when it learned of its removal."""
    cluster = ready(FakeCluster())
    leader = leader_of(cluster)
    gone = next(name for name in "abc" if name != leader.name)
    moved = Application(gone, cluster.nodes[gone].links.identity.incarnation, "tcp://elsewhere:1", moved=True)
    cluster.crash(gone)
    cluster.rest(300)
    leader.membership.heard(raft_of(leader), "c", moved, cluster.now)
    change(cluster, remove=gone)
    cluster.run(lambda: gone not in leader.machine.configuration.members, 1.0)
    change(cluster, add=gone)
    cluster.rest(300)
    assert leader.machine.configuration.members[gone] == EXPECTED


def test_who_was_removed_is_not_let_in_again_by_a_newcomer_that_lags_behind() -> None:
    """It knew the founders alone, of whom one had moved, and told so when that had been removed and its name been named anew."""
    cluster = ready(FakeCluster())
    leader = leader_of(cluster)
    gone = next(name for name in "abc" if name != leader.name)
    moved = Application(gone, cluster.nodes[gone].links.identity.incarnation, "tcp://elsewhere:1", moved=True)
    cluster.crash(gone)
    cluster.rest(300)
    change(cluster, remove=gone)
    cluster.run(lambda: gone not in leader.machine.configuration.members, 1.0)
    change(cluster, add=gone)
    cluster.rest(300)
    leader.membership.heard(raft_of(leader), "c", moved, cluster.now)
    cluster.rest(300)
    assert leader.machine.configuration.members[gone] == EXPECTED


def test_what_is_told_of_somebody_whom_nobody_named_is_not_kept() -> None:
    cluster = ready(FakeCluster())
    for name in ("stranger", "a", "b"):
        for node in cluster.nodes.values():
            node.membership.heard(raft_of(node), "c", Application(name, 77, ""), cluster.now)
    assert {name: sorted(node.membership._told) for name, node in cluster.nodes.items()} == {
        name: ["a", "b"] if name == leader_of(cluster).name else [] for name in "abc"
    }


def test_a_cluster_at_rest_writes_no_configurations() -> None:
    cluster = ready(FakeCluster())
    cluster.rest(1000)
    assert {node.machine.configured for node in cluster.nodes.values()} == {1}
    assert {type(node.machine.configuration) for node in cluster.nodes.values()} == {Configuration}


# -- wrong clusters -------------------------------------------------------------------------------------------------------------------


def test_a_member_whose_peers_belong_to_another_cluster_stops_and_says_so() -> None:
    cluster, other = ready(FakeCluster()), ready(FakeCluster(now=2000.0))
    for each in (cluster, other):
        each.crash("c")
    cluster.disks["c"] = other.disks["c"]
    cluster.may_fail.add("c")
    stray = cluster.start("c")
    cluster.run(lambda: stray.stopped, 20.0)
    assert isinstance(stray.failure, WrongCluster)
    assert "c is no member of the cluster that most of its peers belong to" in str(stray.failure)
    submit(cluster, Put("k", "v"), "a")


def test_another_cluster_where_founders_were_that_have_gone_is_none_of_anybodys_business() -> None:
    """Whoever had the founders in its map saw most of its peers in another cluster, and stopped as soon as nobody led."""
    cluster = ready(FakeCluster())
    cluster.addresses.update({name: url_of(name) for name in "de"})
    change(cluster, add="de")
    for name in "de":
        cluster.start(name)
    cluster.run(is_decided(cluster, "abcde"))
    cluster.may_fail.update("abc")
    change(cluster, remove="abc")
    cluster.run(lambda: all(cluster.nodes[name].stopped for name in "abc"))
    cluster.run(is_decided(cluster, "de"))
    for name in "abc":
        cluster.wipe(name)
    cluster.may_fail.clear()
    cluster.addresses = {name: url_of(name) for name in "abc"}
    for name in "abc":
        cluster.start(name)
    one = leader_of(cluster).name if leader_of(cluster).name in "de" else "d"
    cluster.run(lambda: all(cluster.nodes[name].raft is not None and cluster.nodes[name].ready for name in "abc"))
    assert len({node.links.cluster for node in cluster.nodes.values()}) == 2
    cluster.network.sever("d", "e")
    cluster.rest(1000)
    assert [sorted(cluster.nodes[name].links.excluded_by) for name in "de"] == [["a", "b", "c"]] * 2
    assert one in cluster.nodes
    cluster.network.severed.clear()
    cluster.run(lambda: cluster.nodes["d"].ready and cluster.nodes["e"].ready)


def test_a_member_that_finds_itself_at_an_address_it_was_told_tries_on(caplog: pytest.LogCaptureFixture) -> None:
    """The address of all members together, behind which any of them may answer, is a good one to join by."""
    cluster = ready(FakeCluster("a"))
    cluster.network.listeners[url_of("z")] = "d"
    newcomer = cluster.start("d", join="dz")
    assert newcomer.book.peers == (f"@{url_of('z')}", "d"), "its own address is none to join by"
    cluster.rest(300)
    assert newcomer.links.explain() == "tcp://z:1 (this is the same member)"
    assert warnings_of(caplog, "same member") == []
    cluster.network.listeners[url_of("z")] = "a"
    cluster.run(lambda: "name it first" in newcomer.links.explain(), 5.0)
    change(cluster, add="d")
    cluster.run(is_decided(cluster, "ad"))


def test_the_largest_configuration_there_is_fits_into_an_entry_and_into_the_head_of_a_frame() -> None:
    """While all members of a cluster are exchanged, both halves are in it."""
    names = [f"{'x' * 61}{number:03}" for number in range(2 * MEMBERS_MAX)]
    url = f"tcp://{'x' * (ADDRESS_MAX - 12)}:65535"
    largest = Configuration(
        tuple(names[:MEMBERS_MAX]), tuple(names[MEMBERS_MAX:]), (), dict.fromkeys(names, (1 << 64) - 1), dict.fromkeys(names, url)
    )
    assert codec.decode_configuration(codec.encode_configuration(largest)) == largest
    last = (1 << 63) - 1
    chunk = SnapshotChunk(last, SnapshotMeta(last, last, largest), last, last, b"x")
    assert codec.decode_frame(codec.encode_frame(bytes(16), 1, 2, chunk)).message == chunk
    reply = CensusReply(last, last, last, last, True, last, largest)
    assert codec.decode_frame(codec.encode_frame(bytes(16), 1, 2, reply)).message == reply
