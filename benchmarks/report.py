"""The figures as a table for a terminal, as Markdown for a page, and as JSON for later."""

from __future__ import annotations

import json
import os
import platform
import statistics
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from attrs import asdict, define, evolve, field

from benchmarks.bounds import Bounds, middle
from benchmarks.marks import MARKS, Measured
from benchmarks.meters import Sample, median, pooled
from benchmarks.workloads import KEYS, VALUE_BYTES, WORKLOADS, key

BY_NAME = {workload.name: workload for workload in WORKLOADS}
HEADINGS = ("", "workload", "peer", "operations/s", "p50 ms", "p99 ms", "CPU µs/op", "driver + leader + followers", "replkv compared")
MARK_HEADINGS = ("mark", "wanted", "measured", "met")
NOISE = 0.1
"""A share of the machine used by neither side from which on a figure is not to be trusted."""
NOISE_SECONDS = 0.25
"""A sample that took less says nothing about noise: the system counts CPU in ticks of 10 ms."""


def machine() -> str:
    """Describe where this was measured, as far as it bears on the figures."""
    return f"{os.cpu_count()} cores, {platform.system()} {platform.release()}, Python {platform.python_version()}"


@define
class Results:
    """All repeats: by workload, then by peer; what the machine allowed, once per run; and what is to be known of each peer, and of it."""

    samples: dict[str, dict[str, list[Sample]]] = field(factory=dict)
    bounds: list[Bounds] = field(factory=list)
    peers: dict[str, dict[str, str]] = field(factory=dict)
    settings: dict[str, object] = field(factory=dict)
    machine: str = field(factory=machine)
    measured: str = field(factory=partial(time.strftime, "%Y-%m-%dT%H:%M:%S%z"))

    def add(self, workload: str, peer: str, sample: Sample) -> None:
        """Add a repeat."""
        self.samples.setdefault(workload, {}).setdefault(peer, []).append(sample)

    def medians(self) -> Measured:
        """Return the medians, in the order of the workloads: by workload, then by peer; of what is done seldom all runs count together."""
        order = [name for name in BY_NAME if name in self.samples]
        return {name: {peer: _middle(name, samples) for peer, samples in self.samples[name].items()} for name in order}


def _middle(workload: str, samples: Sequence[Sample]) -> Sample:
    found = median(samples)
    return evolve(found, p50_ms=statistics.median(pooled(samples))) if BY_NAME[workload].seldom else found


def _number(value: float) -> str:
    """Three significant digits, no exponent."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}" if value >= 0.001 else f"{value:.5f}"


def rows(results: Results) -> list[tuple[str, ...]]:
    """Return the table's rows: workload, peer, rate, p50, p99, CPU, its parts, and how the rate and p50 compare with the first peer's."""
    table: list[tuple[str, ...]] = []
    for workload, medians in results.medians().items():
        first, repeats = next(iter(medians.values())), results.samples[workload]
        for peer, figures in medians.items():
            cells = _seldom(repeats[peer], figures, first) if BY_NAME[workload].seldom else _often(figures, first)
            table.append((workload, BY_NAME[workload].title, peer, *cells))
    return table


def _often(figures: Sample, first: Sample) -> tuple[str, ...]:
    parts = " + ".join(map(_number, (figures.driver_cpu, figures.leader_cpu, figures.followers_cpu)))
    ratio = "" if figures is first else f"{first.rate / figures.rate:.3g} × rate, p50 ÷ {figures.p50_ms / first.p50_ms:.3g}"
    return _number(figures.rate), _number(figures.p50_ms), _number(figures.p99_ms), _number(figures.cpu), parts, ratio


def _seldom(samples: Sequence[Sample], figures: Sample, first: Sample) -> tuple[str, ...]:
    """Return the cells of what was done a few times: all runs count together, and the worst in place of the p99."""
    times = pooled(samples)
    notes = [f"{len(times)} times; p99 is the worst", *(f"{_number(figure)} {name}" for name, figure in figures.extras.items())]
    if figures is not first:
        notes.append(f"p50 ÷ {figures.p50_ms / first.p50_ms:.3g}")
    return "", _number(figures.p50_ms), _number(times[-1]), "", "", "; ".join(notes)


def brief(results: Results) -> str:
    """Return the table for who wants to know no more: a line for each workload, a column for each peer, and how the first compares."""
    peers = list(dict.fromkeys(peer for found in results.samples.values() for peer in found))
    headings = ["", "", *(f"{peer}: rate, p50" for peer in peers), *(f"{peers[0].split()[0]} ÷ {peer.split()[0]}" for peer in peers[1:])]
    table = []
    for workload, medians in results.medians().items():
        seldom = BY_NAME[workload].seldom
        cells = [_in_brief(medians[peer], seldom=seldom) if peer in medians else "" for peer in peers]
        first = medians.get(peers[0])
        compared = [_compared(first, medians[peer], seldom=seldom) if first and peer in medians else "" for peer in peers[1:]]
        table.append((workload, BY_NAME[workload].title, *cells, *compared))
    return _table(headings, table)


def _in_brief(figures: Sample, *, seldom: bool) -> str:
    p50 = f"{_number(figures.p50_ms)} ms"
    return p50 if seldom else f"{figures.rate:,.0f}/s, {p50}"


def _compared(first: Sample, other: Sample, *, seldom: bool) -> str:
    """Say how many times as much the first gets done, or, of what is done seldom, in what part of the time."""
    return f"{first.p50_ms / other.p50_ms:.2f} of the time" if seldom else f"{first.rate / other.rate:,.3g}"


def read(path: Path) -> Results:
    """Return what ``write`` kept.

    Raises:
        OSError, ValueError, KeyError, TypeError: it can't be read, or holds something else.
    """
    told = json.loads(path.read_text(encoding="utf-8"))
    samples = {
        workload: {peer: [Sample(**run) for run in found["runs"]] for peer, found in peers.items()}
        for workload, peers in told["workloads"].items()
    }
    return Results(samples, [Bounds(**one) for one in told["bounds"]], told["peers"], told["settings"], told["machine"], told["measured"])


def mark_rows(results: Results) -> list[tuple[str, ...]]:
    """Return the rows of the table of marks that could be measured: name, what is wanted, what was measured, met or not."""
    medians, bounds = results.medians(), middle(results.bounds)
    table: list[tuple[str, ...]] = []
    for mark in MARKS:
        measured = mark.measure(medians, bounds)
        if measured is not None:
            table.append((mark.workload, mark.wanted, f"{measured:.3g}", "met" if mark.is_met(measured) else "NOT MET"))
    return table


def remarks(results: Results) -> list[str]:
    """Return what the reader of the table has to know."""
    loops = [sample.loop_ns for peers in results.samples.values() for samples in peers.values() for sample in samples]
    given = results.settings.get("command")
    command = " ".join(["python -m benchmarks", *(map(str, given) if isinstance(given, list) else ())])
    lines = [f"{results.machine}, {results.measured[:10]}, `{command}`; medians; CPU of all members and the driver, in µs per operation."]
    lines += [f"{name}: before a write counts, {told['durability']}. {told['client']}." for name, told in results.peers.items()]
    bounds = middle(results.bounds)
    if bounds is not None:
        lines.append(str(bounds))
    if loops:
        lines.append(f"A fixed Python loop took {min(loops):.0f} to {max(loops):.0f} ns per turn meanwhile.")
    return lines + [
        f"NOISE: up to {share:.0%} of the machine was used by none of the processes of {peer}." for peer, share in _noise(results)
    ]


def _noise(results: Results) -> list[tuple[str, float]]:
    """Return the peers beside which something else used much of the machine, and how much; the system counts in ticks of 10 ms."""
    shares: dict[str, float] = {}
    for peers in results.samples.values():
        for peer, samples in peers.items():
            found = (sample.other_share for sample in samples if sample.seconds > NOISE_SECONDS)
            shares[peer] = max(shares.get(peer, 0.0), *found, 0.0)
    return [(peer, share) for peer, share in shares.items() if share > NOISE]


def as_markdown(results: Results) -> str:
    """Return the tables for a page."""
    parts = [brief(results), _table(HEADINGS, rows(results)), "\n".join(remarks(results))]
    marks = mark_rows(results)
    if marks:
        parts.append(_table(MARK_HEADINGS, marks))
    return "\n\n".join(parts) + "\n"


def _table(headings: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (headings, ["---"] * len(headings), *lines))


def as_json(results: Results) -> str:
    """Return everything: every repeat, with how many of its operations took how long."""
    samples: dict[str, Any] = {
        workload: {peer: {"median": asdict(median(some)), "runs": [asdict(sample) for sample in some]} for peer, some in peers.items()}
        for workload, peers in results.samples.items()
    }
    whole = {
        "measured": results.measured,
        "machine": results.machine,
        "settings": results.settings | {"keys": KEYS, "key_bytes": len(key(0)), "value_bytes": VALUE_BYTES},
        "peers": results.peers,
        "bounds": [asdict(bounds) for bounds in results.bounds],
        "workloads": samples,
        "marks": [dict(zip(MARK_HEADINGS, cells, strict=True)) for cells in mark_rows(results)],
    }
    return json.dumps(whole, indent=1, ensure_ascii=False) + "\n"


def show(results: Results) -> None:
    """Print the table, as fine as this installation can."""
    try:
        _show_rich(rows(results))
    except ImportError:
        _show_plain(rows(results))
    for remark in remarks(results):
        print(remark)
    for cells in mark_rows(results):
        print("  ".join(cells))


def _show_rich(table: Sequence[tuple[str, ...]]) -> None:
    from rich.console import Console  # noqa: PLC0415  # an extra
    from rich.table import Table  # noqa: PLC0415

    shown = Table()
    for heading in HEADINGS:
        shown.add_column(heading, justify="left" if heading in ("", "workload", "peer", "replkv compared") else "right", no_wrap=True)
    for cells in table:
        shown.add_row(*cells)
    Console(width=None if os.isatty(1) else 250).print(shown)


def _show_plain(table: Sequence[tuple[str, ...]]) -> None:
    lines = [HEADINGS, *table]
    widths = [max(len(cells[column]) for cells in lines) for column in range(len(lines[0]))]
    for cells in lines:
        print("  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)).rstrip())


def write(results: Results, path: Path) -> None:
    """Write the JSON to ``path``, and the Markdown beside it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(as_json(results), encoding="utf-8")
    path.with_suffix(".md").write_text(as_markdown(results), encoding="utf-8")
