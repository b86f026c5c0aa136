"""Clusters that live through one particular story instead of a drawn one."""

from __future__ import annotations

import random

import pytest
from plays import play

from replkv.config import Config
from replkv.ops import Get, Put
from replkv.raft import Role
from replkv.testing.history import Consistency, Outcome
from replkv.testing.network import Weather
from replkv.testing.sim import nothing


def test_a_calm_cluster_keeps_its_first_leader() -> None:
    with play() as simulation:
        leader = simulation.leader()
        simulation.cluster.run(60.0)
        assert simulation.leader() is leader
        assert len(simulation.invariants.leaders) == 1


def test_an_idle_cluster_writes_nothing() -> None:
    with play() as simulation:
        simulation.cluster.run(1.0)
        before = [member.disk.changes for member in simulation.cluster.members.values()]
        simulation.cluster.run(30.0)
        assert [member.disk.changes for member in simulation.cluster.members.values()] == before


@pytest.mark.parametrize("told", [True, False])
def test_a_leader_that_is_cut_off_is_replaced_and_its_readers_see_nothing_old(told: bool) -> None:
    with play() as simulation:
        old = simulation.leader()
        simulation.write(old, "old")
        simulation.part(old, told=told)
        began = simulation.cluster.scheduler.now
        new = simulation.leader(simulation.others(old))
        assert simulation.cluster.scheduler.now - began < (0.4 if told else 2.0)
        simulation.write(new, "new")
        assert simulation.read(old, Consistency.LOCAL) == b"old"
        stale = simulation.workload.run(old, Get("k"), Consistency.LEASE, nothing, patience=1.0)
        simulation.cluster.run(2.0)
        assert stale.outcome is Outcome.FAILED
        simulation.cluster.network.heal()
        assert simulation.read(old) == b"new"


def test_a_member_that_was_away_for_long_catches_up_with_a_snapshot() -> None:
    with play(config=Config(snapshot_bytes=2000, trailing_entries=1)) as simulation:
        leader = simulation.leader()
        absent = simulation.others(leader)[0]
        absent.crash(power=True)
        for number in range(100):
            simulation.write(leader, f"{number} {'x' * 100}")
        absent.start()
        assert simulation.read(absent) == b"99 " + b"x" * 100
        assert absent.process.log.snapshot is not None


def test_a_snapshot_in_many_pieces_survives_a_change_of_leaders_and_lost_pieces() -> None:
    knobs = {"snapshotting.CHUNK": 300}
    with play(config=Config(snapshot_bytes=1000, trailing_entries=1), names=tuple("abcde"), knobs=knobs) as simulation:
        leader = simulation.leader()
        absent = simulation.others(leader)[0]
        absent.crash(power=True)
        for number in range(60):
            simulation.write(leader, f"{number} {random.Random(number).randbytes(50).hex()}")
        simulation.cluster.network.weather.loss = 0.2
        absent.start()
        simulation.cluster.run(1.0)
        leader.crash(power=False)
        simulation.cluster.run(2.0)
        simulation.cluster.network.weather.loss = 0.0
        assert simulation.read(absent) is not None
        assert absent.process.log.snapshot is not None


def test_late_acknowledgements_confirm_no_newer_read() -> None:
    with play(weather=Weather(stall=True)) as simulation:
        old = simulation.leader()
        simulation.write(old, "old")
        network, followers = simulation.cluster.network, simulation.others(old)
        network.cut([(follower.name, old.name) for follower in followers])
        simulation.cluster.run(0.15)  # heartbeats still arrive, their acknowledgements wait
        simulation.part(old, told=False)
        new = simulation.leader(followers)
        simulation.write(new, "new")
        assert old.process.raft is not None
        assert old.process.raft.role is Role.LEADER
        read = simulation.workload.run(old, Get("k"), Consistency.LINEARIZABLE, nothing, patience=3.0)
        simulation.cluster.run(0.01)
        network.heal()
        simulation.cluster.run(3.0)
        assert read.answer is None or read.answer[1][1] == b"new"


def test_cluster_time_goes_on_when_all_members_come_back_with_nothing_but_snapshots() -> None:
    with play(config=Config(snapshot_bytes=200, trailing_entries=1)) as simulation:
        leader = simulation.leader()
        simulation.cluster.run(5.0)
        for number in range(20):
            simulation.write(leader, f"{number}")
        simulation.cluster.run(1.0)
        before = simulation.invariants.committed[-1].time
        assert before > 5_000_000
        for member in simulation.cluster.members.values():
            member.crash(power=True)
            member.start()
        simulation.write(simulation.leader(), "later")
        assert simulation.invariants.committed[-1].time >= before


def test_a_member_whose_disk_was_emptied_is_somebody_new_and_gets_its_vote_back_by_itself() -> None:
    with play() as simulation:
        leader = simulation.leader()
        victim = simulation.others(leader)[0]
        before = victim.incarnation
        victim.wipe()
        simulation.invariants.forget(victim.name)
        victim.start()
        simulation.write(leader, "without it")
        simulation.cluster.run(10.0)
        settled = simulation.invariants.settled
        assert settled.voters == ("a", "b", "c")
        assert settled.members[victim.name] == victim.incarnation != before
        assert simulation.leader() is leader
        assert simulation.read(victim) == b"without it"


def test_a_majority_that_lost_power_comes_back_with_everything_acknowledged() -> None:
    with play() as simulation:
        simulation.write(simulation.leader(), "kept")
        for member in simulation.cluster.members.values():
            member.crash(power=True)
        for member in simulation.cluster.members.values():
            member.start()
        assert simulation.read(simulation.leader()) == b"kept"


def test_a_leader_with_a_hanging_disk_is_replaced() -> None:
    with play() as simulation:
        old = simulation.leader()
        simulation.cluster.run(1.0)
        old.disk.sync_takes = 20.0
        simulation.workload.run(old, Put("k", "stuck"), Consistency.WRITE, nothing, patience=60.0)
        simulation.cluster.run(0.1)
        new = simulation.leader(simulation.others(old))
        simulation.write(new, "goes on")
        old.disk.sync_takes = 0.0
        simulation.cluster.run(25.0)
        assert simulation.leader() is not old


def test_leadership_is_handed_over_without_a_pause_when_a_leader_closes() -> None:
    with play() as simulation:
        old = simulation.leader()
        began = simulation.cluster.scheduler.now
        old.close(1.0)
        simulation.leader(simulation.others(old))
        assert simulation.cluster.run_until(lambda: old.node is None, 2.0)
        assert simulation.cluster.scheduler.now - began < 0.2
        old.start()


def test_one_member_alone_serves_at_once_and_again_after_a_crash() -> None:
    with play(names=("a",)) as simulation:
        (member,) = simulation.cluster.members.values()
        simulation.write(member, "1")
        member.crash(power=True)
        member.start()
        assert simulation.read(member) == b"1"
        assert simulation.cluster.scheduler.now < 1.0
