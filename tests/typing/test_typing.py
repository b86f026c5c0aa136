"""The types of the facades, as mypy sees them: facades.py says what must hold and what must be rejected."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parents[1]


def test_both_facades_have_precise_types_and_wrong_arguments_are_rejected(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mypy", "--strict", "--cache-dir", str(tmp_path), str(HERE / "facades.py")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=150, cwd=ROOT)
    assert done.stdout == "Success: no issues found in 1 source file\n"
