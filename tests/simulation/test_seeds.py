"""A fresh look at the whole: many small clusters, each with troubles of its own."""

from __future__ import annotations

import functools
import os
import subprocess
import sys
from collections import Counter
from typing import Any

import pytest

from replkv.testing.cluster import SimMember
from replkv.testing.history import Consistency, Outcome, Violation
from replkv.testing.knobs import KNOBS, LATER
from replkv.testing.sights import SITUATIONS
from replkv.testing.simulation import Report, Simulation, simulate
from replkv.testing.swarm import FAULTS, SIZES, TRAFFIC, draw

SEEDS = [*range(1, 9), *range(10, 28)]  # 9 takes as long as ten of the others
FINGERPRINT = "import sys; from replkv.testing.simulation import simulate; sys.stdout.write(simulate(int(sys.argv[1])).fingerprint)"


@functools.cache
def told(seed: int) -> Report:
    return simulate(seed)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_cluster_keeps_its_promises(seed: int) -> None:
    report = told(seed)
    assert report.entries > 0
    assert report.looks > 0


def test_they_reach_most_of_what_there_is() -> None:
    found = {situation for seed in SEEDS for situation in told(seed).sights}
    assert len(found) > len(SITUATIONS) // 2
    common = {
        "a caller at a learner was answered",
        "a client compacted",
        "a compaction came too late",
        "a holder lost its lease",
        "a lease expired in time while a majority was well",
        "a lease was revoked",
        "a lease was taken over",
        "a put was refused for lack of room",
        "a read asked for what is compacted",
        "a read was outrun by a compaction",
        "a guest was let in by a password",
        "a transaction was taken back in the middle",
        "a user's command was denied",
        "a watch ended because its user may not have it",
        "a watch ended with its member",
        "a watch said how far it is",
        "a watch was left for another",
        "a watch was lost with its process",
        "a watch was refused what is compacted",
        "a watch went on at another member",
        "a watch yielded the present state",
        "a watch yielded what expired",
        "a write met another than it expected",
        "leases were kept alive",
        "the cluster compacted by itself",
    }
    assert common - found == set()


@pytest.mark.parametrize("seed", [3, 7])
def test_a_seed_tells_the_same_story_every_time_and_in_every_process(seed: int) -> None:
    here = told(seed).fingerprint
    assert simulate(seed).fingerprint == here
    for hash_seed in ("1", "2"):
        environment = {**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": os.pathsep.join(sys.path)}
        there = subprocess.run([sys.executable, "-c", FINGERPRINT, str(seed)], env=environment, capture_output=True, text=True, check=True)
        assert there.stdout == here


def test_different_seeds_tell_different_stories() -> None:
    assert told(3).fingerprint != told(4).fingerprint


def test_watching_a_run_does_not_change_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert simulate(3, verbose=True).fingerprint == told(3).fingerprint
    assert "Append(" in capsys.readouterr().out


def test_seeds_draw_all_there_is() -> None:
    scenarios = [draw(seed) for seed in range(200)]
    assert {fault for scenario in scenarios for fault in scenario.faults} == {*FAULTS, *TRAFFIC}
    assert {len(scenario.names) for scenario in scenarios} == set(SIZES) == set(range(1, 8))
    assert {scenario.good_clocks for scenario in scenarios} == {False, True}
    assert {scenario.compactions for scenario in scenarios} == {False, True}
    assert {scenario.users for scenario in scenarios} == {0, 2, 4}
    assert {bool(scenario.holders) for scenario in scenarios} == {bool(scenario.watchers) for scenario in scenarios} == {False, True}
    assert {knob for scenario in scenarios for knob in scenario.knobs} == {*KNOBS, *LATER}
    assert min(scenario.settings.max_bytes for scenario in scenarios) < 10_000


def test_a_saved_majority_answers_ten_writes_and_ten_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    serve, phases = Simulation._serve, []

    def counted(self: Simulation, core: list[SimMember]) -> None:
        before = [operation.number for operation in self.workload.history.operations]
        serve(self, core)
        probes = [operation for operation in self.workload.history.operations[len(before) :] if operation.outcome is Outcome.ANSWERED]
        phases.append(Counter(operation.consistency for operation in probes if b"probe" in operation.wire))

    monkeypatch.setattr(Simulation, "_serve", counted)
    simulate(3)
    assert len(phases) == 2  # with the others broken, and with all healed
    for answered in phases:
        assert answered[Consistency.WRITE] >= 10
        assert answered[Consistency.LINEARIZABLE] >= 10


def test_a_leader_that_moves_while_a_majority_is_well_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    probe = Simulation._probe

    def restless(self: Simulation, member: SimMember, *arguments: Any) -> None:
        probe(self, member, *arguments)
        leader = next(iter(self.electorate.leaders))
        if self.probes == 4 and leader.process.raft is not None:
            leader.process.raft.transfer(None, leader.clock())
            leader.wake()

    monkeypatch.setattr(Simulation, "_probe", restless)
    with pytest.raises(Violation, match="leadership moved"):
        simulate(4)


def test_a_disk_that_forgot_something_is_found_in_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    scan = Simulation._scan

    def forgetful(self: Simulation) -> None:
        for member in self.cluster.members.values():
            member.crash(power=True)
            segments = sorted(name for name in member.disk.seen if name.startswith("wal-"))
            for name in segments:
                member.disk.overwrite(name, 2048, bytes(len(member.disk.seen[name].seen) - 2048))
        scan(self)

    monkeypatch.setattr(Simulation, "_scan", forgetful)
    with pytest.raises(Violation):
        simulate(3)
