"""Real processes that stand still, by SIGSTOP or because something in them holds the interpreter's lock."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest
from cluster import PATIENCE, Cluster, Member, eventually

STALL = 3
"""Seconds; twice the election timeout."""


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with Cluster(tmp_path_factory.mktemp("stalls")) as cluster:
        yield cluster.start()


def stall(member: Member, how: str) -> float:
    """Let a process stand still, and return when it will go on, which takes a call of ``wake``."""
    if how == "stopped":
        member.pause()
    else:
        member.ask("hold_interpreter", STALL)
    return time.monotonic() + STALL


def wake(member: Member, how: str, until: float) -> None:
    """Wait until it is time, and let the process go on; one that holds its own interpreter's lock does by itself."""
    time.sleep(max(0.0, until - time.monotonic()))  # this is what is tested: a stall of so many seconds
    if how == "stopped":
        member.resume()


def seen(cluster: Cluster) -> list[tuple[str, int]]:
    """Return who leads, and in which term, as each member sees it."""
    statuses: list[dict[str, Any]] = [member.call("status") for member in cluster]
    return [(status["raft_leader"], status["raft_term"]) for status in statuses]


@pytest.mark.parametrize("how", ["stopped", "interpreter held"])
def test_a_follower_that_stands_still_disturbs_nobody_and_says_so(cluster: Cluster, how: str) -> None:
    leader = cluster.leader()
    follower = cluster.others(leader)[0]
    before, counted = seen(cluster), follower.call("metrics")
    until = stall(follower, how)
    leader.call("put", "k", how)
    wake(follower, how, until)
    assert follower.call("get", "k", timeout=PATIENCE)[1] == how
    told = eventually(lambda: now if (now := follower.call("metrics"))["stalls"] > counted["stalls"] else None)
    assert told["longest_stall_seconds"] > STALL - 1
    assert seen(cluster) == before
    assert told["elections_started"] == counted["elections_started"]
    assert told["leader_changes"] == counted["leader_changes"]


@pytest.mark.parametrize("how", ["stopped", "interpreter held"])
def test_a_leader_that_stands_still_is_replaced_and_reads_nothing_old_when_it_goes_on(cluster: Cluster, how: str) -> None:
    old = cluster.leader()
    other = cluster.others(old)[0]
    old.call("put", "k", "old")
    assert old.call("get", "k", consistency="lease")[1] == "old"
    counted = old.call("metrics")["stalls"]
    until = stall(old, how)
    other.call("put", "k", "new", timeout=PATIENCE)
    reads = [old.ask("get", "k", consistency=each, timeout=PATIENCE) for each in ("lease", "linearizable") * 20]
    wake(old, how, until)
    assert {read.result(PATIENCE)[1] for read in reads} == {"new"}
    assert old.call("get", "k", consistency="lease", timeout=PATIENCE)[1] == "new"
    assert cluster.leader() is not old
    assert old.call("metrics")["stalls"] > counted
