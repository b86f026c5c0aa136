"""``replkv demo`` as its user runs it, and the parts that show it."""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from replkv.__main__ import main
from replkv.demo.ledger import Ledger
from replkv.demo.screen import Board, LiveScreen, PlainScreen
from replkv.demo.story import DATA, read_settings

BOARD = Board(
    members={"a": (11, {"state": "leader", "leader": "a", "term": 2, "revision": 1234}), "b": (12, None), "c": (None, None)},
    elapsed=4.5,
    acknowledged=1233,
    writes_per_second=987.0,
    fail_over=0.25,
)


def test_the_demo_kills_a_leader_and_proves_that_nothing_was_lost(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "replkv", "demo", "--seconds", "3", "--keep"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env={**os.environ, "TMPDIR": str(tmp_path)}, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    for scene in ("founded a cluster", "settings of linux-sysctl.conf loaded", "SIGKILL", "leads now", "restarted", "all three members"):
        assert scene in done.stdout
    (root,) = tmp_path.iterdir()
    record = (root / "acknowledged.jsonl").read_text().splitlines()
    assert len(record) > len(read_settings(DATA.read_text()))
    shutil.rmtree(root)


def test_a_failed_demo_names_its_evidence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr("replkv.demo.processes.sys.executable", "/bin/false")
    assert main(["demo", "--seconds", "1"]) == 1
    (root,) = tmp_path.iterdir()
    shown = capsys.readouterr()
    assert str(root) in shown.out
    assert "PROBLEM: " in shown.err


def test_the_data_set_is_real_settings_one_per_key() -> None:
    settings = read_settings(DATA.read_text(encoding="utf-8"))
    assert 150 <= len(settings) <= 400
    assert settings["vm.swappiness"] == "60"
    assert len(Ledger(settings).first_writes()) == len(settings)


def test_a_settings_file_with_a_foreign_line_is_refused() -> None:
    with pytest.raises(ValueError, match="line 2 is no setting: 'what'"):
        read_settings("a = 1\nwhat\n")


@pytest.mark.parametrize("seconds", ["0", "-1", "4000", "soon", "nan"])
def test_unusable_durations_are_refused(seconds: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["demo", "--seconds", seconds])
    assert "seconds" in capsys.readouterr().err


def test_a_plain_screen_prints_lines(capsys: pytest.CaptureFixture[str]) -> None:
    with PlainScreen() as screen:
        screen.say("it began")
        screen.show(BOARD)
        screen.show(BOARD)
    event, figures = capsys.readouterr().out.splitlines()
    assert event == "* it began"
    for part in ("leader a", "revision   1,234", "acknowledged   1,233", "987 writes/s", "fail-over 250 ms"):
        assert part in figures


def test_a_live_screen_shows_members_figures_and_events() -> None:
    screen = LiveScreen()
    screen.say("it began")
    screen.show(BOARD)
    console = Console(width=120, record=True, file=io.StringIO())
    console.print(screen._render())
    text = console.export_text()
    for part in ("leader", "1,234", "starting", "down", "1,233 writes acknowledged", "250 ms", "it began"):
        assert part in text
