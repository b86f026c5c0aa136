"""What ``make evidence`` writes down of runs that went well, badly, or not to their end."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

import evidence

from replkv.testing import report
from replkv.testing.report import write_report


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A page and reports of its own."""
    page = tmp_path / "GUARANTEES.md"
    page.write_text(f"before\n{evidence.BEGIN}{evidence.END}\nafter\n", encoding="utf-8")
    monkeypatch.setattr(evidence, "PAGE", page)
    monkeypatch.setattr(evidence, "REPORTS", tmp_path / "evidence")
    monkeypatch.setattr(sys, "argv", ["evidence.py"])


def reports(figures: object, status: int) -> list[str]:
    """A command that writes these figures where it is told to, and ends with this status."""
    what = {"what": "made up", "date": "2026-01-01", "commit": "abc"}
    return ["-c", f"import json, sys; json.dump({what!r} | {figures!r}, open(sys.argv[2], 'w')); sys.exit({status})"]


def row(name: str) -> str:
    lines = evidence.PAGE.read_text(encoding="utf-8").splitlines()
    (found,) = (line for line in lines if line.startswith(f"| {name} |"))
    return found


FIGURES = {"first_seed": 29100, "seeds": 2000, "days": 1.25, "failed_seeds": [], "failed": "", "seeds_by_situation": {"a": 3}, "each": {}}


def test_what_came_out_is_written_down(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evidence, "RUNS", {"simulation": reports(FIGURES, 0)})
    assert evidence.main() == 0
    assert row("simulation") == "| simulation | first seed 29100, seeds 2,000, days 1.2, failed seeds 0 | 2026-01-01, `abc` |"
    text = evidence.PAGE.read_text(encoding="utf-8")
    assert text == evidence.page()
    assert text.startswith("before\n")
    assert text.endswith("\nafter\n")


def test_lists_and_tables_are_shown_by_their_numbers_and_small_ones_with_their_names(monkeypatch: pytest.MonkeyPatch) -> None:
    figures = {
        "runs": {"3 members": 4, "5 members": 3},
        "skipped": {"cut": "no | root"},
        "calls": {str(number): 1000 for number in range(9)},
        "scenarios": {str(number): {} for number in range(60)},
        "never": [*map(str, range(6))],
    }
    monkeypatch.setattr(evidence, "RUNS", {"torture": reports(figures, 0)})
    assert evidence.main() == 0
    shown = "runs 7 (3 members 4, 5 members 3), skipped 1 (cut), calls 9,000, scenarios 60, never 6"
    assert row("torture") == f"| torture | {shown} | 2026-01-01, `abc` |"


def test_a_run_that_failed_says_so_in_one_line_and_the_others_are_run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    failed = {"simulation": reports({"failed_seeds": [17, 99]}, 1), "torture": reports({"failed": "a lost | write\nand a traceback"}, 1)}
    monkeypatch.setattr(evidence, "RUNS", {**failed, "search": reports({"violations": 0}, 0)})
    assert evidence.main() == 1
    assert row("simulation") == "| simulation | **FAILED** with status 1: failed seeds 2 (17, 99) | 2026-01-01, `abc` |"
    assert row("torture") == "| torture | **FAILED** with status 1: failed a lost \\| write | 2026-01-01, `abc` |"
    assert row("search") == "| search | violations 0 | 2026-01-01, `abc` |"
    assert "FAILED: simulation\nFAILED: torture\n" in capsys.readouterr().out


def test_a_run_that_died_leaves_nothing_of_an_earlier_one_on_the_page(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evidence, "RUNS", {"crash points": ["-c", "import os; os._exit(3)"]})
    evidence.REPORTS.mkdir()
    write_report(evidence.report_of("crash points"), "crash points", {"operations": 5, evidence.STATUS: 0})
    assert evidence.main() == 1
    assert row("crash points").startswith("| crash points | **FAILED** with status 3 |")


def test_a_run_that_is_interrupted_has_no_report(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(evidence, "RUNS", {"search": []})
    monkeypatch.setattr("evidence.subprocess.run", interrupt)
    evidence.REPORTS.mkdir()
    evidence.report_of("search").write_text(json.dumps({"date": "2026-01-01", "commit": "abc", evidence.STATUS: 0}), encoding="utf-8")
    with pytest.raises(KeyboardInterrupt):
        evidence.main()
    assert "No run has been recorded yet." in evidence.PAGE.read_text(encoding="utf-8")


def test_a_report_says_whether_the_commit_is_all_that_was_tested(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def git(*arguments: str) -> None:
        subprocess.run(["git", "-c", "user.name=x", "-c", "user.email=x@y.z", *arguments], cwd=tmp_path, check=True, capture_output=True)

    def commit() -> str:
        write_report(path, "made up", {})
        found: str = json.loads(path.read_text(encoding="utf-8"))["commit"]
        return found

    (tmp_path / "docs").mkdir()
    path = tmp_path / "docs" / "report.json"
    monkeypatch.setattr(report, "__file__", str(tmp_path / "docs" / "report.py"))
    assert commit() == ""
    (tmp_path / "code.py").write_text("1")
    git("init")
    git("add", ".")
    git("commit", "--message", "x")
    assert len(commit().split()) == 1  # and the report that is there now counts for nothing
    assert len(commit().split()) == 1
    (tmp_path / "code.py").write_text("2")
    assert commit().endswith(" with changes")
