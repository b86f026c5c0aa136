"""Seed known bugs, one at a time, and see who finds them: ``python tests/mutants``; ``--help`` tells the options."""

from __future__ import annotations

import argparse
import multiprocessing
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

from attrs import asdict
from catalogue import CATALOGUE, whose_turn
from lanes import Verdict, judge_in_time
from table import page, summary, tally

from replkv.testing.arguments import die_silently, new_file, positive, run_command
from replkv.testing.report import write_report

LIMIT = 1000


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    parser = argparse.ArgumentParser(prog="python tests/mutants", description="Seed known bugs, and see who finds them.")
    parser.add_argument("--only", type=_numbers, metavar="M17,M35", help="these alone")
    parser.add_argument("--rotate", type=int, metavar="DAY", help="those alone whose turn it is on a day")
    parser.add_argument("--limit", type=positive, default=LIMIT, metavar="SEEDS", help=f"seeds of the simulator for each (default {LIMIT})")
    parser.add_argument("--jobs", type=positive, default=2, metavar="N", help="how many at a time (default 2)")
    parser.add_argument("--report", type=new_file, metavar="FILE", help="write the figures there, as JSON")
    parser.add_argument("--table", type=new_file, metavar="FILE", help="write the table of all there, as Markdown")
    options = parser.parse_args(arguments)
    wanted = list(CATALOGUE) if options.rotate is None else [mutant.number for mutant in whose_turn(options.rotate, [*CATALOGUE.values()])]
    numbers = options.only or wanted
    if options.table and len(numbers) < len(CATALOGUE):
        parser.error("--table is of all, without --only and --rotate")
    verdicts = {verdict.number: verdict for verdict in judged(numbers, options.limit, options.jobs)}
    print(summary([*verdicts.values()]))
    if options.report:
        write_report(options.report, "seeded bugs", figures(verdicts))
    if options.table:
        options.table.write_text(page(verdicts), encoding="utf-8")
    return 0 if all(verdict.lane for verdict in verdicts.values()) else 1


def _numbers(text: str) -> list[int]:
    numbers = {label: label.removeprefix("M") for label in text.split(",")}
    if unknown := [label for label, number in numbers.items() if not number.isdecimal() or int(number) not in CATALOGUE]:
        raise argparse.ArgumentTypeError(f"there is no bug {' and no '.join(map(repr, unknown))}")
    return [int(number) for number in numbers.values()]


def judged(numbers: Sequence[int], limit: int, jobs: int) -> Iterator[Verdict]:
    """Judge mutants, each in a process of its own."""
    with multiprocessing.get_context("spawn").Pool(jobs, die_silently, maxtasksperchild=1) as pool:
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
    each = {CATALOGUE[number].label: asdict(verdict) for number, verdict in sorted(verdicts.items())}
    return {**asdict(tally([*verdicts.values()])), "each": each}


if __name__ == "__main__":
    run_command(main)
