"""Processes that join a cluster and leave it: growing and shrinking under load, replacement, what becomes of those who are removed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from cluster import PATIENCE, CallError, Member, eventually, free_ports
from fleet import CALM, Fleet, Writer, wipe

from replkv import connect, remote


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    with Fleet(tmp_path_factory.mktemp("three"), "abc") as fleet:
        fleet.start()
        yield fleet


@pytest.fixture
def three(made: Fleet) -> Fleet:
    """Three members, which a test leaves as it found them."""
    made.wait_for("abc")
    return made


def test_from_one_to_five_and_back_to_another_one_without_a_failed_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "WHEREABOUTS_AGAIN", 0.5)
    with ExitStack() as ending:
        fleet = ending.enter_context(Fleet(tmp_path, "a", config={"clients": "127.0.0.1:0"}))
        fleet.start()
        client = ending.enter_context(connect(fleet["a"].data_dir, config=CALM))
        writers = [ending.enter_context(Writer.of(client, f"client-{number}")) for number in range(2)]

        def all_go_on() -> None:
            for writer in writers:
                writer.goes_on()

        all_go_on()
        fleet.add("a", "bc", through="a")
        fleet.wait_for("abc")
        writers.append(ending.enter_context(Writer.at(fleet["c"])))
        all_go_on()
        fleet.add("b", "de", through="c")
        fleet.wait_for("abcde")
        eventually(lambda: {target.name for target in client._engine()._targets.usable} >= {*"abcde"})
        all_go_on()
        fleet.lead("a")
        fleet["c"].call("change_members", remove=["a", "d"], timeout=PATIENCE)  # the leader, to which the client is connected
        fleet.wait_for("bce")
        all_go_on()
        fleet["c"].call("change_members", remove=["b", "e"], timeout=PATIENCE)
        fleet.wait_for("c")
        all_go_on()
        assert client.name == "c"
        fleet.wait_removed(*"abde")
        for writer in writers:
            writer.__exit__()
            writer.check(int(fleet["c"].call("get", writer.key)[1]))


def test_a_dead_member_is_replaced_by_one_call_before_its_successor_is_there(tmp_path: Path) -> None:
    with Fleet(tmp_path, "abc") as fleet:
        fleet.start()
        dead = fleet.others(fleet.leader())[0]
        alive = fleet.others(dead)
        dead.kill()
        with Writer.at(alive[0]) as writer:
            writer.goes_on()
            successor = fleet.newcomer("d", alive[1].name)
            alive[1].call("change_members", add={"d": fleet.addresses["d"]}, remove=[dead.name], timeout=PATIENCE)
            successor.start()
            fleet.wait_for("".join(sorted(member.name for member in [*alive, successor])))
            writer.goes_on()
        alive[0].kill()
        assert successor.call("get", writer.key, timeout=PATIENCE)[1] == str(len(writer.counted))


def test_a_wiped_member_comes_back_by_the_same_call_and_votes_again(three: Fleet) -> None:
    revision, _ = three["a"].call("put", "k", "v")
    wiped = three.others(three.leader())[0]
    wiped.kill()
    wipe(wiped)
    term = three.leader(but=wiped.name).call("status")["raft_term"]
    wiped.start()
    wiped.call("wait_ready", timeout=PATIENCE)
    three.wait_for("abc")
    assert wiped.call("get", "k", consistency="local")[:3] == ["k", "v", revision]
    assert wiped.call("status")["raft_term"] == term, "nobody had to be elected"
    away, other = three.others(wiped)
    away.kill()
    assert other.call("put", "k", "w", timeout=PATIENCE)[0] == revision + 1, "which its vote decided"
    away.start()


def test_who_was_down_when_it_was_removed_is_told_so_and_disturbs_nobody_and_comes_back_when_it_is_empty(three: Fleet) -> None:
    removed = three.others(three.leader())[0]
    removed.stop()
    others = three.others(removed)
    others[0].call("change_members", remove=[removed.name], timeout=PATIENCE)
    term = others[0].call("status")["raft_term"]
    with Writer.at(others[1]) as writer:
        removed.start()
        three.wait_removed(removed.name)
        writer.goes_on()
    assert {member.call("status")["raft_term"] for member in others} == {term}
    assert removed.name in removed.call("failure")
    assert "only an empty one can join again" in removed.call("failure")
    with pytest.raises(CallError) as caught:
        removed.call("put", "k", "v")
    assert caught.value.kind == "Removed"
    removed.stop()
    wipe(removed)
    others[1].call("change_members", add={removed.name: three.addresses[removed.name]}, timeout=PATIENCE)
    removed.start()
    three.wait_for("abc")


def test_a_learner_stays_one_until_it_is_promoted(three: Fleet) -> None:
    follower = three.others(three.leader())[0]
    three.add("a", "d", through=follower.name, role="learners")
    by_choice = three.newcomer("e", follower.name, learner=True)
    follower.call("change_members", add={"e": three.addresses["e"]}, timeout=PATIENCE)  # it was to be a voter, and does not want to
    by_choice.start()
    three.wait_for("abc", "de")
    revision, _ = three["a"].call("put", "k", "v")
    assert three["d"].call("get", "k", consistency="local", min_revision=revision, timeout=PATIENCE)
    three.others(follower)[0].call("promote", "d", timeout=PATIENCE)
    three.wait_for("abcd", "e")
    by_choice.call("promote", "e", timeout=PATIENCE)
    three.wait_for("abcde")
    three.dismiss("a", "de")


def test_who_was_not_named_is_refused_with_what_to_do_and_let_in_as_soon_as_it_is(three: Fleet) -> None:
    stranger = three.newcomer("d", "b").start()
    with pytest.raises(CallError) as caught:
        stranger.call("wait_ready", timeout=1.5)
    assert "d is no member of this cluster: name it first, with change_members(add=...)" in caught.value.text
    assert [one["name"] for one in three["a"].call("members")] == ["a", "b", "c"]
    three["a"].call("change_members", add={"d": three.addresses["d"]}, timeout=PATIENCE)
    three.wait_for("abcd")
    three.dismiss("a", "d")


def test_of_two_with_one_name_the_running_one_keeps_its_place(three: Fleet, tmp_path: Path) -> None:
    running = three.others(three.leader())[0]
    where = f"127.0.0.1:{free_ports(1)[0]}"
    twin = Member(running.name, tmp_path, cluster={**three.addresses, running.name: where}).start()
    try:
        with pytest.raises(CallError) as caught:
            twin.call("wait_ready", timeout=1.5)
    finally:
        twin.stop()
    assert f"{running.name} is at work already, at tcp://{three.addresses[running.name]} with another directory" in caught.value.text
    three.wait_for("abc")
    for member in three:
        assert [one["address"] for one in member.call("members")] == [f"tcp://{three.addresses[name]}" for name in "abc"]
    assert running.call("put", "k", "w")


def test_two_voters_are_warned_of_once_and_a_third_with_a_map_of_its_own_founds_nothing_beside(tmp_path: Path) -> None:
    warning = "the cluster has two voters, a and b: the loss of either stops all writes, so two survive less than one alone"
    with Fleet(tmp_path, "ab") as fleet:
        fleet.start()
        late = Member("c", tmp_path, cluster={**fleet.addresses, "c": fleet.place("c")})
        fleet.members["c"] = late.start()
        for member in fleet.others(late):
            eventually(lambda: warning in member.log.read_text())  # noqa: B023  # it is waited for here
        with pytest.raises(CallError) as caught:
            late.call("wait_ready", timeout=1.0)
        assert "name it first" in caught.value.text
        fleet["b"].call("change_members", add={"c": fleet.addresses["c"]}, timeout=PATIENCE)
        fleet.wait_for("abc")
        assert [member.log.read_text().count("two voters") for member in fleet] == [1, 1, 0]
        fleet["a"].call("change_members", remove=["b"], timeout=PATIENCE)
        eventually(lambda: "two voters, a and c" in late.log.read_text())
