"""The command that runs seeds: what it says, writes and returns."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from replkv.testing.__main__ import main
from replkv.testing.history import Violation
from replkv.testing.shrink import shrink
from replkv.testing.sights import SITUATIONS
from replkv.testing.simulation import Simulation
from replkv.testing.swarm import draw
from replkv.testing.trace import UnheardError

Capture = pytest.CaptureFixture[str]
Patch = pytest.MonkeyPatch


def test_it_counts_what_it_did(capsys: Capture) -> None:
    assert main(["--seeds", "2", "--start", "3"]) == 0
    shown = capsys.readouterr().out
    assert "2 seeds in" in shown
    assert "0 failed" in shown
    assert "entries" in shown
    assert "virtual seconds" in shown
    assert "situations worth reaching were reached" in shown
    assert all(name in shown for name in SITUATIONS)


@pytest.fixture
def broken(monkeypatch: Patch) -> None:
    """A promise that is broken at the end of every run."""

    def settle(self: Simulation) -> None:
        raise Violation("T1", "made up")

    monkeypatch.setattr(Simulation, "_settle_account", settle)


@pytest.mark.usefixtures("broken")
def test_it_says_how_to_see_a_failure_again(capsys: Capture) -> None:
    assert main(["--seeds", "2", "--start", "3", "--no-shrink"]) == 1
    shown = capsys.readouterr().out
    assert "seed 3 failed: T1: made up" in shown
    assert "python -m replkv.testing --seed 3\n" in shown
    assert "seed 4" not in shown


@pytest.mark.usefixtures("broken")
def test_it_shrinks_a_failure(capsys: Capture, monkeypatch: Patch) -> None:
    monkeypatch.setattr("replkv.testing.__main__.shrink", partial(shrink, runs=12))
    assert main(["--seeds", "1", "--start", "3"]) == 1
    shown = capsys.readouterr().out
    assert "shrunk in 12 runs" in shown
    told = shown.split("replay it with: python -m replkv.testing ")[-1].split("\n")[0]
    assert main(shlex.split(told)) == 1  # what it says is what it understands
    assert "seed 3 failed: T1: made up" in capsys.readouterr().out


@pytest.mark.usefixtures("broken")
def test_it_goes_on_after_a_failure_if_it_is_told_to(capsys: Capture, tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    assert main(["--seeds", "2", "--start", "3", "--keep-going", "--no-shrink", "--report", str(report)]) == 1
    assert "2 failed" in capsys.readouterr().out
    assert json.loads(report.read_text())["failed_seeds"] == [3, 4]


def test_it_writes_its_figures(capsys: Capture, tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    assert main(["--seeds", "2", "--start", "3", "--report", str(report)]) == 0
    figures = json.loads(report.read_text())
    assert (figures["what"], figures["seeds"], figures["first_seed"], figures["failed_seeds"]) == ("simulation", 2, 3, [])
    assert figures["faults"] == sum(figures["faults_by_kind"].values()) > 0
    assert figures["virtual_days"] == pytest.approx(figures["virtual_seconds"] / 86_400, abs=0.001)
    assert figures["situations"] == len(SITUATIONS) == len(figures["seeds_by_situation"])
    assert figures["situations_reached"] + len(figures["situations_never_reached"]) == len(SITUATIONS)
    assert min(figures["entries"], figures["terms"], figures["operations"], figures["events"]) > 0


def test_several_processes_find_what_one_finds(capsys: Capture, tmp_path: Path) -> None:
    def figures(jobs: int) -> dict[str, Any]:
        report = tmp_path / f"{jobs}.json"
        assert main(["--seeds", "2", "--start", "3", "--jobs", str(jobs), "--report", str(report)]) == 0
        found: dict[str, Any] = json.loads(report.read_text())
        return {name: value for name, value in found.items() if name not in ("seconds", "jobs")}

    assert figures(2) == figures(1)


def test_it_runs_as_many_seeds_as_there_is_time_for_and_one_at_least(capsys: Capture) -> None:
    assert main(["--hours", "1e-9", "--start", "3"]) == 0
    assert "\n1 seeds in" in capsys.readouterr().out


def test_the_command_itself_runs_several_processes() -> None:
    """What they run was a function of the command's own module, which they have not."""
    command = [sys.executable, "-m", "replkv.testing", "--seeds", "2", "--start", "3", "--jobs", "2"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "2 seeds in" in done.stdout


def test_what_is_to_run_for_hours_begins_with_a_seed_that_nobody_has_run(capsys: Capture, monkeypatch: Patch) -> None:
    monkeypatch.setattr("replkv.testing.__main__.unused_seed", lambda: 1234)
    assert main(["--hours", "1e-9"]) == 0
    assert "the first seed is 1234\n" in capsys.readouterr().out


@pytest.mark.parametrize(("share", "status"), [(0.0, 0), (1.0, 1)])
def test_it_fails_when_too_little_was_reached(capsys: Capture, monkeypatch: Patch, share: float, status: int) -> None:
    monkeypatch.setattr("replkv.testing.sights.ENOUGH", share)
    assert main(["--seeds", "1", "--start", "3", "--require-sights"]) == status


def test_nobody_who_listens_is_no_failure_of_the_cluster(monkeypatch: Patch) -> None:
    """An error of the printer inside a member's turn was once taken for the member's own."""

    class Deaf:
        def write(self, text: str) -> None:
            raise BrokenPipeError

    monkeypatch.setattr(sys, "stdout", Deaf())
    with pytest.raises(UnheardError):
        Simulation(draw(3), verbose=True).run()


def test_it_ends_quietly_when_nobody_reads_on() -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "replkv.testing", "--seed", "3"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stderr is not None
    assert process.stdout.readline()
    process.stdout.close()
    assert process.wait(60) == 1
    assert process.stderr.read() == ""
    process.stderr.close()
