"""The commands of the tests of trust: what they can't do they refuse before they begin, and nothing counts as shown that was not tried."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from replkv.testing.__main__ import main as simulate
from replkv.testing.arguments import INTERRUPTED
from replkv.testing.search.__main__ import main as search

ROOT = Path(__file__).parent.parent
Capture = pytest.CaptureFixture[str]


def refused(text: str) -> pytest.MarkDecorator:
    """A test of each line: arguments, and what is said about them."""
    cases = [line.strip().split(" -> ") for line in text.strip().splitlines()]
    return pytest.mark.parametrize(("arguments", "says"), cases)


@refused("""
    --seeds 0 -> '0' is no whole number from 1 on
    --seeds -3 -> '-3' is no whole number from 1 on
    --hours -1 -> '-1' is no number above 0
    --hours nan -> 'nan' is no number above 0
    --jobs 0 -> '0' is no whole number from 1 on
    --seed 5 --members 0 -> '0' is no whole number from 1 on
    --seed 5 --clients -1 -> '-1' is no whole number from 0 on
    --strikes x -> 'x' is no whole number from 0 on
    --report /nowhere/report.json -> can't be written: No such file
    --report / -> can't be written: Is a directory
    --seed 5 --report report.json -> are for many seeds
    --seed 5 --require-sights -> are for many seeds
""")
def test_the_simulator_refuses_what_it_cannot_do(arguments: str, says: str, capsys: Capture, tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="2"):
        simulate([argument.replace("report.json", str(tmp_path / "report.json")) for argument in arguments.split()])
    assert says in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@refused("""
    --profile elections --nodes 2 -> the world elections does not have 2 members
    --states 0 -> '0' is no whole number from 1 on
    --jobs 0 -> '0' is no whole number from 1 on
""")
def test_the_search_refuses_what_it_cannot_do(arguments: str, says: str, capsys: Capture) -> None:
    with pytest.raises(SystemExit, match="2"):
        search(arguments.split())
    assert says in capsys.readouterr().err


@refused("""
    crash_points --only nosuch -> no scenario has 'nosuch' in its name
    crash_points --jobs 0 -> '0' is no whole number from 1 on
    fuzz --seconds 0 -> '0' is no number above 0
    mutants --only M999 -> there is no bug 'M999'
    mutants --only foo,M1 -> there is no bug 'foo'
    mutants --jobs 0 -> '0' is no whole number from 1 on
    mutants --only M1 --table table.md -> --table is of all
    torture --judge /nowhere -> '/nowhere' is no directory
    torture --judge / -> '/' lacks history.jsonl and seen.json
    torture --hours 0 -> '0' is no number above 0
""")
def test_the_other_commands_refuse_what_they_cannot_do(arguments: str, says: str, tmp_path: Path) -> None:
    name, *rest = arguments.split()
    command = [sys.executable, str(ROOT / "tests" / name), *rest]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert says in done.stderr
    assert f"python tests/{name}: error: " in done.stderr
    assert not list(tmp_path.iterdir())


def test_ctrl_c_ends_a_command_without_a_traceback() -> None:
    command = [sys.executable, "-m", "replkv.testing", "--hours", "1"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline().startswith("the first seed is ")
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == INTERRUPTED
        assert process.stderr.read() == ""
