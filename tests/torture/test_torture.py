"""Real processes under faults: a minute of everything at once, and what each kind of broken disk does to a cluster."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from arena import Arena
from cluster import PATIENCE, CallError, Member, eventually
from faults import FAULTS, PROMPT, expect_failed
from grounds import Balloon, why_no_namespaces
from ordeal import Plan, torture
from tracer import FAILS, HANGS, TEARS, Tracer, why_no_tracer


@pytest.mark.timeout(400)
@pytest.mark.parametrize(("members", "seconds", "thorough"), [(3, 40.0, True), (5, 8.0, False)])
def test_what_clients_and_watchers_of_a_tortured_cluster_see_is_what_they_were_promised(
    members: int, seconds: float, thorough: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with capsys.disabled():
        print()
        figures = torture(Plan(members, seconds, seed=members), keep=tmp_path)
        print(f"  {members} members: {dict(figures.faults)}; {figures.calls.total()} calls, {figures.events} events of watches")
        print(f"  a majority went on in {figures.went_on} rounds")
    if thorough:
        assert figures.went_on
        assert set(figures.faults) == set(FAULTS) - set(figures.skipped), "each is done once before any is done twice"


# -- broken disks ---------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def arena(tmp_path: Path) -> Iterator[Arena]:
    """A cluster whose threads can be tampered with."""
    if reason := why_no_tracer():
        pytest.skip(reason)
    with Arena(tmp_path, 3) as arena:
        arena.start()
        yield arena


@contextmanager
def writing(member: Member) -> Iterator[list[int]]:
    """Have somebody write through a member all the time; yields the revisions of what was acknowledged."""
    stop, revisions = threading.Event(), list[int]()
    failures: list[BaseException] = []

    def write() -> None:
        try:
            while not stop.is_set():
                value = random.randbytes(1500).hex()  # of several sectors, and stays so
                revisions.append(member.call("put", "written", value, timeout=PATIENCE)[0])
        except BaseException as failure:  # noqa: BLE001  # for the test to see
            failures.append(failure)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        yield revisions
    finally:
        stop.set()
        writer.join(2 * PATIENCE)
    assert not writer.is_alive()
    if failures:
        raise failures[0]


def went_on(revisions: list[int], by: int = 20) -> None:
    """Wait until so many more writes have been acknowledged."""
    target = len(revisions) + by
    eventually(lambda: len(revisions) >= target)


def refusal(call: Callable[[], Any]) -> str:
    """Return the error of a call, "" if it has none."""
    try:
        call()
    except CallError as error:
        return error.kind
    return ""


@pytest.mark.parametrize("who", ["leader", "follower"])
def test_a_member_whose_sync_fails_once_stops_for_good_and_the_others_go_on(arena: Arena, who: str) -> None:
    leader = arena.leader()
    victim, other = (leader, arena.others(leader)[0]) if who == "leader" else arena.others(leader)
    with writing(other) as revisions:
        went_on(revisions)
        with Tracer(arena.thread(victim), FAILS) as tracer:
            eventually(lambda: tracer.hit)
            expect_failed(victim)
            assert tracer.said().count("fdatasync(") == 1, "it tried again, which a kernel that forgot the pages would have acknowledged"
        went_on(revisions)
        victim.stop()
        victim.start()
        victim.call("wait_ready", PATIENCE)
        went_on(revisions)
    assert arena.state()["a"]["kvs"][0][3] == revisions[-1]


def test_a_member_whose_disk_hangs_loses_the_lead_and_still_tells_how_it_is(arena: Arena) -> None:
    leader = arena.leader()
    other = arena.others(leader)[0]
    with writing(other) as revisions:
        went_on(revisions)
        with Tracer(arena.thread(leader), HANGS) as tracer:
            eventually(lambda: tracer.hit)
            status = leader.ask("status").result(PROMPT)
            assert status["raft_leader"] == leader.name, "it can't know better"
            heir = arena.leader(but=leader.name)
            assert "DELAYED" not in tracer.said(), f"{heir.name} leads only now that the disk works again"
            went_on(revisions)
    assert arena.leader() is not leader
    assert arena.state()["a"]["kvs"][0][3] == revisions[-1]


@pytest.mark.parametrize("who", ["leader", "follower"])
def test_a_flush_that_was_torn_when_the_process_died_is_cut_off_and_nothing_else(arena: Arena, who: str) -> None:
    leader = arena.leader()
    victim, other = (leader, arena.others(leader)[0]) if who == "leader" else arena.others(leader)
    with writing(other) as revisions:
        for _ in range(3):
            went_on(revisions)
            with Tracer(arena.thread(victim), TEARS) as tracer:
                eventually(lambda: tracer.hit)
            victim.run.join()
            went_on(revisions)
            victim.start()
            victim.call("wait_ready", PATIENCE)
    assert arena.state()["a"]["kvs"][0][3] == revisions[-1]


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Arena]:
    """A cluster on disks that are soon full."""
    if reason := why_no_namespaces():
        pytest.skip(reason)
    with Arena(tmp_path, 3, apart=True, small_disks=True) as arena:
        arena.start()
        yield arena


def test_a_leader_whose_disk_is_full_hands_over_and_goes_on_as_a_follower(small: Arena) -> None:
    leader = small.leader()
    balloon = Balloon(small.grounds.places[leader.name])
    with writing(small.others(leader)[0]) as revisions:
        went_on(revisions)
        balloon.blow_up()
        eventually(lambda: small.leader() is not leader)
        went_on(revisions)
        assert not small.failures()
        assert leader.call("get", "written", consistency="local") is not None
        balloon.burst()
        went_on(revisions)
    assert small.state()["a"]["kvs"][0][3] == revisions[-1]


def test_full_disks_refuse_what_grows_and_do_the_rest_until_there_is_room(small: Arena) -> None:
    member = small["a"]
    revision, _ = member.call("put", "old", "x")
    balloons = [Balloon(place) for place in small.grounds.places.values()]
    for balloon in balloons:
        balloon.blow_up()

    def is_told(asked: Member, answer: str) -> bool:
        return (refusal(lambda: asked.call("put", "big", random.randbytes(1500).hex())) or "done") == answer

    for each in small:
        eventually(partial(is_told, each, "DiskFull"), pause=0.05)  # slowly: until all know, there must be room for that
        assert each.call("get", "old")[1] == "x"
    assert member.call("delete", "old")[0] == 1
    member.call("compact", revision)
    assert not small.failures()
    for balloon in balloons:
        balloon.burst()
    for each in small:
        eventually(partial(is_told, each, "done"))
    assert small.state()["a"]["count"] == 1
