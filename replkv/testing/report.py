"""Figures of a run as a file, so that what the documentation claims is generated from runs and never typed."""

from __future__ import annotations

import json
import subprocess
import time
from pathlib import Path
from typing import Any


def write_report(path: str | Path, what: str, figures: dict[str, Any]) -> None:
    """Write the figures of a run as JSON, with the date and the commit they were measured at.

    Args:
        path: of the file, which is replaced.
        what: names the run, such as "simulation".
        figures: plain values by name.
    """
    report = {"what": what, "date": time.strftime("%Y-%m-%d"), "commit": _commit(), **figures}
    Path(path).write_text(json.dumps(report, indent=2) + "\n")


def _commit() -> str:
    """Return the short hash of the checkout this runs from, and whether that is all of it; "" where there is none."""
    try:
        # Reports are written below docs/: the first of several runs would make the checkout of the others look changed.
        changes = _git("--no-optional-locks", "status", "--porcelain", "--", ":(top)", ":(top,exclude)docs")
        return _git("rev-parse", "--short", "HEAD") + (" with changes" if changes else "")
    except (OSError, subprocess.CalledProcessError):
        return ""


def _git(*arguments: str) -> str:
    command = ["git", "-C", str(Path(__file__).parent), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
