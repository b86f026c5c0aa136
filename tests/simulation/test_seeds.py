"""A fresh look at the whole: many small clusters, each with troubles of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter

import pytest

from replkv import wire
from replkv.errors import Compacted, Conflict, LeaseNotFound, QuotaExceeded
from replkv.refusals import STATUS
from replkv.testing.__main__ import main
from replkv.testing.history import Violation
from replkv.testing.knobs import KNOBS
from replkv.testing.simulation import Simulation, simulate
from replkv.testing.streams import End
from replkv.testing.swarm import FAULTS, draw

SEEDS = range(1, 61)
FINGERPRINT = "import sys; from replkv.testing.simulation import simulate; sys.stdout.write(simulate(int(sys.argv[1])).fingerprint)"


@pytest.mark.parametrize("seed", SEEDS)
def test_a_cluster_keeps_its_promises(seed: int) -> None:
    report = simulate(seed)
    assert report.entries > 0
    assert report.looks > 0


@pytest.mark.parametrize("seed", [3, 7])
def test_a_seed_tells_the_same_story_every_time_and_in_every_process(seed: int) -> None:
    here = simulate(seed).fingerprint
    assert simulate(seed).fingerprint == here
    for hash_seed in ("1", "2"):
        environment = {**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": os.pathsep.join(sys.path)}
        there = subprocess.run([sys.executable, "-c", FINGERPRINT, str(seed)], env=environment, capture_output=True, text=True, check=True)
        assert there.stdout == here


def test_different_seeds_tell_different_stories() -> None:
    assert simulate(3).fingerprint != simulate(4).fingerprint


def test_watching_a_run_does_not_change_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert simulate(3, verbose=True).fingerprint == simulate(3).fingerprint
    assert "Append(" in capsys.readouterr().out


def test_seeds_draw_all_there_is() -> None:
    scenarios = [draw(seed) for seed in range(200)]
    assert {fault for scenario in scenarios for fault in scenario.faults} == set(FAULTS)
    assert {len(scenario.names) for scenario in scenarios} == {1, 3, 5}
    assert {scenario.good_clocks for scenario in scenarios} == {False, True}
    assert {scenario.compactions for scenario in scenarios} == {False, True}
    assert {bool(scenario.holders) for scenario in scenarios} == {bool(scenario.watchers) for scenario in scenarios} == {False, True}
    assert {knob for scenario in scenarios for knob in scenario.knobs} == set(KNOBS)
    assert min(scenario.settings.max_bytes for scenario in scenarios) < 10_000


def test_runs_meet_whatever_is_worth_meeting() -> None:
    met: Counter[str] = Counter()
    for seed in range(200, 216):
        report = simulate(seed)
        met.update(report.sights)
        met.update(report.faults)
    kinds = [wire.PUT, wire.DELETE, wire.ADD, wire.TXN, wire.PUT_WITH, wire.EXPECT, wire.COMPACT]
    kinds += [wire.GRANT, wire.RENEW, wire.KEEP_ALIVE, wire.REVOKE]
    errors = [(wire.PUT, QuotaExceeded), (wire.EXPECT, Conflict), (wire.PUT_WITH, LeaseNotFound), (wire.COMPACT, Compacted)]
    wanted = [f"command {kind}" for kind in kinds]
    wanted += [f"command {kind} refused with {STATUS[error]}" for kind, error in errors]
    wanted += [f"watches {end.value}" for end in End]
    wanted += ["watches gone on with", "watches with the present state", "watched events", "watched marks"]
    wanted += ["leases held", "leases lost", "leases expired", "lease expired in time", "read outrun by a compaction"]
    assert [what for what in wanted if not met[what]] == []


def test_the_command_counts_what_it_did(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--seeds", "2", "--start", "5"]) == 0
    shown = capsys.readouterr().out
    assert "2 seeds in" in shown
    assert "entries" in shown


def test_the_command_says_how_to_see_a_failure_again(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(self: Simulation) -> None:
        raise Violation("T1", "made up")

    monkeypatch.setattr(Simulation, "_settle_account", broken)
    assert main(["--seeds", "3", "--start", "5"]) == 1
    shown = capsys.readouterr().out
    assert "seed 5 failed: T1: made up" in shown
    assert "python -m replkv.testing --seed 5" in shown
    assert "seed 6" not in shown
