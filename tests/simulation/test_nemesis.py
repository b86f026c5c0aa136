"""Every fault does what it is named for, and ends; a cluster that had it is well afterwards."""

from __future__ import annotations

import random
from collections.abc import Iterator

import attrs
import pytest
from plays import CALM, Play, play

from replkv.ops import Get, Put
from replkv.testing.cluster import WORK
from replkv.testing.history import Consistency, Outcome
from replkv.testing.nemesis import FOR_EVER, Nemesis
from replkv.testing.sim import nothing
from replkv.testing.simulation import Simulation
from replkv.testing.swarm import FAULTS, TRAFFIC


def strike(simulation: Play, fault: str, seed: int = 1) -> None:
    simulation.nemesis.rng = random.Random(seed)
    getattr(simulation.nemesis, f"_{fault}")(next(iter(simulation.electorate.leaders), simulation.cluster.members["a"]))


@pytest.mark.parametrize("fault", [*FAULTS, *TRAFFIC])
def test_a_cluster_lives_through(fault: str) -> None:
    with play(clients=2, think=0.05, writes=0.6) as simulation:
        simulation.workload.begin()
        simulation.cluster.run(0.5)
        for seed in range(3):
            strike(simulation, fault, seed)
            simulation.cluster.run(1.5)
        simulation.workload.active = False


def test_there_is_something_behind_every_name() -> None:
    assert all(callable(getattr(Nemesis, f"_{fault}", None)) for fault in (*FAULTS, *TRAFFIC))


def test_a_hanging_sync_holds_a_member_up_and_ends_when_all_is_healed() -> None:
    with play() as simulation:
        leader = simulation.leader()
        strike(simulation, "hang")
        assert 1.0 <= leader.disk.sync_takes <= 60.0
        leader.disk.sync_takes = 60.0
        simulation.workload.run(leader, Put("k", "stuck"), Consistency.WRITE, nothing, patience=1.0)
        simulation.cluster.run(0.5)
        assert leader.hangs
        began, life = simulation.cluster.scheduler.now, leader.life
        simulation.nemesis.heal()
        assert leader.life == life + 1  # whoever is responsible for it has ended it
        simulation.leader()
        assert simulation.cluster.scheduler.now - began < 3.0


def test_who_waits_for_a_process_that_stood_still_goes_on_when_it_does() -> None:
    """Callers once slept on for as long as the pause was to last, although it had been ended."""
    with play() as simulation:
        member = simulation.leader()
        read = simulation.workload.run(member, Get("k"), Consistency.LINEARIZABLE, nothing, patience=0.2)
        member.pause(30.0)
        simulation.cluster.run(1.0)
        assert read.outcome is Outcome.PENDING
        assert member.paused
        simulation.nemesis.heal()
        simulation.cluster.run(1.0)
        assert read.outcome is not Outcome.PENDING


def test_a_process_that_stands_still_takes_no_snapshot_either() -> None:
    with play() as simulation:
        member, steps = simulation.leader(), []

        def work() -> Iterator[None]:
            for step in range(3):
                steps.append(step)
                yield

        member.housekeeper.start(work(), lambda _: None)
        member.pause(5.0)
        simulation.cluster.run(4.0)
        assert steps == []
        simulation.cluster.run(2.0)
        assert steps == [0, 1, 2]


def test_all_crash_with_the_one_that_was_chosen() -> None:
    with play() as simulation:
        lives = [member.life for member in simulation.cluster.members.values()]
        simulation.nemesis.rng = random.Random(1)
        leader = simulation.leader()
        simulation.nemesis._crash_all_at_disk(leader)
        leader.disk.crash_in = 0
        simulation.workload.run(leader, Put("k", "never"), Consistency.WRITE, nothing, patience=1.0)
        assert simulation.cluster.run_until(lambda: not simulation.cluster.running, 1.0)
        assert [member.life for member in simulation.cluster.members.values()] == lives
        assert simulation.cluster.counts["crash in the middle of a turn"] == 1


def test_links_that_were_stopped_one_by_one_all_come_back() -> None:
    with play() as simulation:
        strike(simulation, "swizzle")
        network, seen = simulation.cluster.network, set()
        for _ in range(100):
            simulation.cluster.run(0.05)
            seen.add(frozenset(network.cuts))
        assert len(seen) > 3  # they went and came one after the other
        assert network.cuts == set()


def test_a_slow_process_is_as_fast_as_before_when_all_is_healed() -> None:
    with play() as simulation:
        leader = simulation.leader()
        strike(simulation, "slow_member")
        assert leader.work > WORK
        simulation.nemesis.heal()
        assert leader.work == WORK


def test_a_lull_ends_all_faults() -> None:
    with play() as simulation:
        leader = simulation.leader()
        simulation.nemesis.rng = random.Random(1)
        simulation.nemesis._isolate(leader)
        leader.crash(power=True)
        simulation.nemesis._lull()
        assert leader.node is not None
        assert simulation.cluster.network.cuts == set()
        simulation.write(simulation.leader(), "well")


def test_faults_come_in_bursts_and_behind_lulls() -> None:
    scenario = attrs.evolve(CALM, faults=("transfer",), fault_every=1.0, bursts=0.5, lulls=0.3, duration=30.0, seed=7)
    simulation = Simulation(scenario)
    simulation.run()
    assert len(simulation.nemesis.struck) > 10
    assert [number for number, _ in simulation.nemesis.struck] == list(range(1, len(simulation.nemesis.struck) + 1))
    assert simulation.cluster.counts["lull"] > 0


def test_a_leader_that_would_hang_is_replaced_though_no_client_writes() -> None:
    """A majority was once waited for in vain: the leader was none of it, and had nothing to sync, so that its broken disk hurt nobody."""
    with play() as simulation:
        old = simulation.leader()
        core = simulation.others(old)
        old.disk.sync_takes = FOR_EVER
        simulation._stir(core)
        simulation._serve(core)
        assert simulation.leader(core) is not old
