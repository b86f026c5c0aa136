"""The figures as a table for a terminal, as Markdown for a page, and as JSON for later."""

from __future__ import annotations

import json
import os
import platform
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from attrs import asdict, define, field

from benchmarks.meters import Sample, median
from benchmarks.workloads import FAIL_OVER, FAIL_OVER_TITLE, WORKLOADS

TITLES = {workload.name: workload.title for workload in WORKLOADS} | {FAIL_OVER: FAIL_OVER_TITLE}
HEADINGS = ("", "workload", "peer", "operations/s", "p50 ms", "p99 ms", "CPU µs/op", "driver + leader + followers", "replkv compared")
NOISE = 0.1
"""A share of the machine used by neither side from which on a figure is not to be trusted."""


@define
class Results:
    """All repeats: by workload, then by peer; fail-over in seconds."""

    samples: dict[str, dict[str, list[Sample]]] = field(factory=dict)
    fail_overs: dict[str, list[float]] = field(factory=dict)

    def add(self, workload: str, peer: str, sample: Sample) -> None:
        """Add a repeat."""
        self.samples.setdefault(workload, {}).setdefault(peer, []).append(sample)

    def add_fail_over(self, peer: str, seconds: float) -> None:
        """Add a kill."""
        self.fail_overs.setdefault(peer, []).append(seconds)


def _number(value: float) -> str:
    """Three significant digits, no exponent."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}" if value >= 0.001 else f"{value:.5f}"


def rows(results: Results) -> list[tuple[str, ...]]:
    """Return the table's rows: workload, peer, rate, p50, p99, CPU, its parts, and how the rate and p50 compare with the first peer's."""
    table: list[tuple[str, ...]] = []
    for workload, peers in results.samples.items():
        medians = {peer: median(samples) for peer, samples in peers.items()}
        first = next(iter(medians.values()))
        for peer, figures in medians.items():
            parts = " + ".join(map(_number, (figures.driver_cpu, figures.leader_cpu, figures.followers_cpu)))
            ratio = "" if figures is first else f"{first.rate / figures.rate:.3g} × rate, p50 ÷ {figures.p50_ms / first.p50_ms:.3g}"
            cells = _number(figures.rate), _number(figures.p50_ms), _number(figures.p99_ms), _number(figures.cpu), parts, ratio
            table.append((workload, TITLES[workload], peer, *cells))
    for peer, seconds in results.fail_overs.items():
        cells = (
            "",
            _number(statistics.median(seconds) * 1e3),
            _number(max(seconds) * 1e3),
            "",
            "",
            f"{len(seconds)} kills; p99 is the worst",
        )
        table.append((FAIL_OVER, TITLES[FAIL_OVER], peer, *cells))
    return table


def machine() -> str:
    """Describe where this was measured, as far as it bears on the figures."""
    return f"{os.cpu_count()} cores, {platform.system()} {platform.release()}, Python {platform.python_version()}"


def remarks(results: Results) -> list[str]:
    """Return what the reader of the table has to know."""
    shares = [sample.other_share for peers in results.samples.values() for samples in peers.values() for sample in samples]
    loops = [sample.loop_ns for peers in results.samples.values() for samples in peers.values() for sample in samples]
    lines = [f"{machine()}; medians; CPU of all members and the driver, in µs per operation."]
    if loops:
        lines.append(f"A fixed Python loop took {min(loops):.0f} to {max(loops):.0f} ns per turn meanwhile.")
    if shares and max(shares) > NOISE:
        lines.append(f"NOISE: up to {max(shares):.0%} of the machine was used by something else; measure again on a quiet one.")
    return lines


def as_markdown(results: Results) -> str:
    """Return the table for a page."""
    headings = list(HEADINGS)
    lines = ["| " + " | ".join(cells) + " |" for cells in (headings, ["---"] * len(headings), *rows(results))]
    return "\n".join([*lines, "", *remarks(results)]) + "\n"


def as_json(results: Results, runs: int) -> str:
    """Return everything, every repeat included."""
    samples: dict[str, Any] = {
        workload: {peer: {"median": asdict(median(some)), "runs": [asdict(sample) for sample in some]} for peer, some in peers.items()}
        for workload, peers in results.samples.items()
    }
    measured = time.strftime("%Y-%m-%dT%H:%M:%S%z")
    whole = {"measured": measured, "machine": machine(), "runs": runs, "workloads": samples, FAIL_OVER: results.fail_overs}
    return json.dumps(whole, indent=1) + "\n"


def show(results: Results) -> None:
    """Print the table, as fine as this installation can."""
    try:
        _show_rich(rows(results))
    except ImportError:
        _show_plain(rows(results))
    for remark in remarks(results):
        print(remark)


def _show_rich(table: Sequence[tuple[str, ...]]) -> None:
    from rich.console import Console  # noqa: PLC0415  # an extra
    from rich.table import Table  # noqa: PLC0415

    shown = Table()
    for heading in HEADINGS:
        shown.add_column(heading, justify="left" if heading in ("", "workload", "peer", "replkv compared") else "right", no_wrap=True)
    for cells in table:
        shown.add_row(*cells)
    Console(width=None if os.isatty(1) else 190).print(shown)


def _show_plain(table: Sequence[tuple[str, ...]]) -> None:
    lines = [HEADINGS, *table]
    widths = [max(len(cells[column]) for cells in lines) for column in range(len(lines[0]))]
    for cells in lines:
        print("  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)).rstrip())


def write(results: Results, runs: int, path: Path) -> None:
    """Write the JSON to ``path``, and the Markdown beside it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(as_json(results, runs), encoding="utf-8")
    path.with_suffix(".md").write_text(as_markdown(results), encoding="utf-8")
