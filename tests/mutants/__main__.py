"""Seed known bugs, one at a time, and see who finds them: ``python tests/mutants``; ``--help`` tells the options."""

from __future__ import annotations

import argparse
import multiprocessing
import statistics
import sys
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from attrs import asdict
from catalogue import CATALOGUE, dozen
from lanes import Verdict, judge_in_time
from mutant import SIMULATOR
from table import page, summary

from replkv.testing.report import write_report

LIMIT = 500


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    parser = argparse.ArgumentParser(prog="python tests/mutants", description="Seed known bugs, and see who finds them.")
    parser.add_argument("--only", metavar="M17,M35", help="these alone")
    parser.add_argument("--rotate", type=int, metavar="DAY", help="those alone whose turn it is on a day")
    parser.add_argument("--limit", type=int, default=LIMIT, metavar="SEEDS", help=f"seeds of the simulator for each (default {LIMIT})")
    parser.add_argument("--jobs", type=int, default=2, metavar="N", help="how many at a time (default 2)")
    parser.add_argument("--report", metavar="FILE", help="write the figures there, as JSON")
    parser.add_argument("--table", metavar="FILE", help="write the table there, as Markdown; of all only")
    options = parser.parse_args(arguments)
    wanted = list(CATALOGUE) if options.rotate is None else [mutant.number for mutant in dozen(options.rotate, [*CATALOGUE.values()])]
    numbers = [int(label.lstrip("M")) for label in options.only.split(",")] if options.only else wanted
    verdicts = {verdict.number: verdict for verdict in judged(numbers, options.limit, options.jobs)}
    print(summary([*verdicts.values()]))
    if options.report:
        write_report(options.report, "seeded bugs", figures(verdicts))
    if options.table and len(verdicts) == len(CATALOGUE):
        Path(options.table).write_text(page(verdicts), encoding="utf-8")
    return 0 if all(verdict.lane for verdict in verdicts.values()) else 1


def judged(numbers: Sequence[int], limit: int, jobs: int) -> Iterator[Verdict]:
    """Judge mutants, each in a process of its own."""
    with multiprocessing.get_context("spawn").Pool(jobs, maxtasksperchild=1) as pool:
        for done, verdict in enumerate(pool.imap_unordered(partial(judge_in_time, limit=limit), numbers), 1):
            print(f"{done:>3} of {len(numbers)}  {line(verdict)}", flush=True)
            yield verdict


def line(verdict: Verdict) -> str:
    """Return what became of a mutant."""
    mutant = CATALOGUE[verdict.number]
    end = f"{verdict.lane} {verdict.needed}, {verdict.rule}" if verdict.lane else f"NOBODY {verdict.text}"
    return f"{mutant.label} {mutant.text}: {end} ({verdict.seconds:.0f} s)"


def figures(verdicts: dict[int, Verdict]) -> dict[str, Any]:
    """Return what a run came to, as plain values."""
    seeds = [verdict.needed for verdict in verdicts.values() if verdict.lane == SIMULATOR]
    found = sum(bool(verdict.lane) for verdict in verdicts.values())
    each = {CATALOGUE[number].label: asdict(verdict) for number, verdict in sorted(verdicts.items())}
    return {
        "seeded": len(verdicts),
        "found": found,
        "by the simulator": len(seeds),
        "median seeds": statistics.median(seeds or [0]),
        "most seeds": max(seeds, default=0),
        "each": each,
    }


if __name__ == "__main__":
    sys.exit(main())
