"""A fresh look at the whole: many small clusters, each with troubles of its own."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from replkv.testing.__main__ import main
from replkv.testing.history import Violation
from replkv.testing.simulation import Simulation, simulate
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
