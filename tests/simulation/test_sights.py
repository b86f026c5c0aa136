"""Situations worth reaching are recognised when they are there, and not before."""

from __future__ import annotations

import random
from collections import Counter
from itertools import chain

import pytest
from plays import Play, play

from replkv.config import Config
from replkv.ops import Put
from replkv.testing import account, situations
from replkv.testing.history import Consistency
from replkv.testing.sights import SITUATIONS, missing, suffice
from replkv.testing.sim import nothing


def reached(simulation: Play) -> set[str]:
    simulation.sights.finish()
    return simulation.sights.reached


def test_there_are_many_and_no_two_have_one_name() -> None:
    assert len(SITUATIONS) == len(set(SITUATIONS)) > 180
    groups = [
        situations.OFFICES,
        situations.TURNS,
        situations.INSTALLATIONS,
        situations.ELECTIONS,
        situations.LEADERS,
        situations.STARTS,
        situations.ENDS,
    ]
    names = chain(*groups, *situations.MESSAGES.values(), situations.COMMITS, account.RUNS)
    assert sorted(names) == sorted(SITUATIONS)


def test_what_was_never_reached_is_named() -> None:
    everything = Counter(SITUATIONS)
    assert missing(everything) == []
    assert suffice(everything)
    some, rest = SITUATIONS[: len(SITUATIONS) // 20], SITUATIONS[len(SITUATIONS) // 20 :]
    assert missing(rest) == list(some)
    assert suffice(rest)
    assert not suffice(rest[1:])


def test_a_calm_cluster_reaches_next_to_nothing() -> None:
    with play() as simulation:
        simulation.write(simulation.leader(), "1")
        assert reached(simulation) <= {
            "an entry was committed that no disk had to spare",
            "members compared their chains",
            "somebody was elected whose log begins with a snapshot",
        }


def test_a_leadership_that_is_handed_over() -> None:
    with play() as simulation:
        old = simulation.leader()
        raft = old.process.raft
        assert raft is not None
        raft.transfer(None, old.clock())
        old.wake()
        assert simulation.cluster.run_until(lambda: old not in simulation.electorate.leaders, 3.0)
        simulation.leader()
        assert {"leadership was handed over", "an heir asked for votes", "a leader was deposed by a later term"} <= reached(simulation)
        assert "a leader was replaced while it was cut off" not in simulation.sights.reached


@pytest.mark.parametrize(
    ("trouble", "name"),
    [
        ("isolate", "a leader was replaced while it was cut off"),
        ("pause", "a leader was replaced while it stood still"),
        ("hang", "a leader was replaced while its disk hung"),
    ],
)
def test_a_leader_that_is_replaced_although_it_lives(trouble: str, name: str) -> None:
    with play() as simulation:
        old = simulation.leader()
        if trouble == "isolate":
            simulation.part(old, told=False)
        elif trouble == "pause":
            old.pause(10.0)
        else:
            old.disk.sync_takes = 10.0
            simulation.workload.run(old, Put("k", "stuck"), Consistency.WRITE, nothing, patience=1.0)
        simulation.leader(simulation.others(old))
        found = reached(simulation)
        others = {situation for situation in found if situation.startswith("a leader was replaced while")} - {name}
        assert name in found
        assert others == set()


def test_a_snapshot_that_is_installed() -> None:
    with play(config=Config(snapshot_bytes=500, trailing_entries=1), knobs={"snapshotting.CHUNK": 100}) as simulation:
        leader = simulation.leader()
        absent = simulation.others(leader)[0]
        simulation.write(absent, "before")
        absent.crash(power=True)
        for number in range(20):
            simulation.write(leader, f"{number} {'x' * 100}")
        assert "a snapshot was installed" not in simulation.sights.reached
        absent.start()
        assert simulation.cluster.run_until(lambda: simulation._are_equal([absent]), 5.0)
        wanted = {"a snapshot was taken", "a follower needed a snapshot", "a snapshot was sent in pieces", "a snapshot was installed"}
        assert wanted | {"a leader's log was trimmed beyond a follower"} <= reached(simulation)


def test_changes_of_the_configuration_and_crashes_among_them() -> None:
    with play(names=tuple("abcde")) as simulation:
        simulation.write(simulation.leader(), "founded")
        simulation.cluster.run(1.0)
        simulation.electorate.change(random.Random(2), 10)
        for _ in range(40):
            simulation.cluster.run(0.1)
            for leader in simulation.electorate.leaders[:1]:
                if leader.process.raft is not None and leader.process.raft.configuration.outgoing:
                    leader.crash(power=True)
                    leader.start()
        found = reached(simulation)
        assert "a leader crashed in a joint configuration" in found
        assert "a member came back to a joint configuration" in found
        assert "an entry was committed in a joint configuration" in found
