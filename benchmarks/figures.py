"""What a measurement of one thing after the other found: a table, with where, when and how."""

from __future__ import annotations

import json
import sys
import time
from typing import TYPE_CHECKING

from benchmarks.meters import reference_loop
from benchmarks.report import NOISE, machine
from replkv import __version__

if TYPE_CHECKING:
    from pathlib import Path

    from benchmarks.meters import Usage

Row = tuple[str, str]


class Figures:
    """The rows of the table, and how much of the machine was used by something else."""

    def __init__(self) -> None:
        self.rows: list[Row] = []
        self.noise: list[float] = []
        self.loops = [reference_loop()]

    def add(self, title: str, figure: str) -> None:
        """Add a row."""
        self.rows.append((title, figure))

    def look(self, usage: Usage, known: float = 0.0) -> None:
        """Take note of the noise since ``usage`` was made; ``known`` are CPU seconds that are not."""
        self.noise.append(usage.other_share(known))
        self.loops.append(reference_loop())


def remarks(figures: Figures, command: str) -> list[str]:
    """Return where, when and how it was measured."""
    what = f"replkv {__version__}, {time.strftime('%Y-%m-%d')}, `{command}`: {machine()}"
    lines = [
        f"{what}; three members on one machine and one disk, default settings; a majority has each write on disk before it counts.",
        f"A fixed Python loop took {min(figures.loops):.0f} to {max(figures.loops):.0f} ns per turn meanwhile.",
    ]
    if figures.noise and max(figures.noise) > NOISE:
        lines.append(f"NOISE: up to {max(figures.noise):.0%} of the machine was used by something else; measure again on a quiet one.")
    return lines


def as_markdown(figures: Figures, command: str) -> str:
    """Return the table for a page."""
    lines = ["| what | figure |", "|---|---|", *(f"| {title} | {figure} |" for title, figure in figures.rows)]
    return "\n".join([*lines, "", *remarks(figures, command)]) + "\n"


def write(figures: Figures, command: str, path: Path) -> None:
    """Write the JSON to ``path``, and the Markdown beside it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    whole = {
        "measured": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "machine": machine(),
        "command": command,
        "figures": figures.rows,
        "other_share": figures.noise,
    }
    path.write_text(json.dumps(whole, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    path.with_suffix(".md").write_text(as_markdown(figures, command), encoding="utf-8")


def publish(figures: Figures, program: str, path: Path) -> None:
    """Print the table of a command line that is at its end, and write it as ``write`` does.

    Args:
        figures: what was found.
        program: the module that was run.
        path: of the JSON.
    """
    command = " ".join([f"python -m {program}", *sys.argv[1:]])
    print(as_markdown(figures, command), end="")
    write(figures, command, path)
