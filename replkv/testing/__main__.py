"""Simulate clusters: ``python -m replkv.testing --seeds COUNT [--start FIRST]``, or ``--seed N`` to watch one again."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections import Counter, deque
from functools import partial
from itertools import count, islice
from typing import TYPE_CHECKING, Any

from attrs import define, field

from replkv.testing.arguments import duration, new_file, positive, run_command, unused_seed, workers
from replkv.testing.attempt import attempt
from replkv.testing.report import write_report
from replkv.testing.shrink import Failure, Reduction, shrink
from replkv.testing.sights import SITUATIONS, missing, suffice
from replkv.testing.trace import UnheardError, say

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from replkv.testing.attempt import Attempt
    from replkv.testing.simulation import Report

PROGRESS_EVERY = 5.0
DAY = 86_400.0


def main(arguments: list[str] | None = None) -> int:
    """Run the command; return its exit status."""
    options = _options(arguments)
    try:
        if options.seed is not None:
            return _watch(options.seed, Reduction.from_options(options))
        return Batch(options).run()
    except UnheardError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or the interpreter complains when it flushes
        return 1


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m replkv.testing", description="Simulate clusters that live with faults.")
    parser.add_argument("--seeds", type=positive, default=100, metavar="COUNT", help="how many seeds to run (default 100)")
    parser.add_argument("--start", type=int, metavar="FIRST", help="the first of them (default 1; with --hours one nobody has run)")
    parser.add_argument("--hours", type=duration, metavar="H", help="run as many seeds as there is time for")
    parser.add_argument("--seed", type=int, metavar="N", help="run this one, and print everything that happens")
    parser.add_argument("--jobs", type=positive, default=1, metavar="N", help="processes to use (default 1)")
    parser.add_argument("--keep-going", action="store_true", help="go on after a failure")
    parser.add_argument("--no-shrink", action="store_true", help="leave failing seeds as long as they are")
    parser.add_argument("--require-sights", action="store_true", help="fail unless 95 %% of all situations worth reaching were reached")
    parser.add_argument("--report", type=new_file, metavar="FILE", help="write the figures as JSON")
    Reduction.add_options(parser.add_argument_group("what to leave out of a seed, as a shrunk failure says"))
    options = parser.parse_args(arguments)
    if options.seed is not None and (options.report or options.require_sights):
        parser.error("--report and --require-sights are for many seeds, not for --seed")
    if options.start is None:
        options.start = unused_seed() if options.hours else 1
    return options


def _watch(seed: int, reduction: Reduction) -> int:
    run = attempt(seed, reduction, verbose=True)
    if run.failure is None:
        say(str(run.report))
        return 0
    _explain(run.failure)
    return 1


@define
class Batch:
    """Many seeds, one after the other or a few at once."""

    options: argparse.Namespace
    seeds: int = 0
    failed: list[int] = field(factory=list)
    totals: Counter[str] = field(factory=Counter)
    faults: Counter[str] = field(factory=Counter)
    outcomes: Counter[str] = field(factory=Counter)
    sights: Counter[str] = field(factory=Counter)
    began: float = field(factory=time.monotonic)

    def run(self) -> int:
        """Run all; return the command's exit status."""
        say(f"the first seed is {self.options.start}")
        shown = self.began
        for run in self._runs():
            self._add(run.report)
            if run.failure is not None:
                self._fail(run.failure)
                if not self.options.keep_going:
                    break
            if time.monotonic() - shown > PROGRESS_EVERY:
                shown = time.monotonic()
                say(self._progress)
        self._tell()
        if self.options.report:
            write_report(self.options.report, "simulation", self._figures())
        return 1 if self.failed or (self.options.require_sights and not suffice(self.sights)) else 0

    def _runs(self) -> Iterator[Attempt]:
        options = self.options
        seeds: Iterable[int] = count(options.start) if options.hours else range(options.start, options.start + options.seeds)
        simulate = partial(attempt, reduction=Reduction.from_options(options))
        if options.jobs == 1:
            yield from map(simulate, self._in_time(seeds))
            return
        with workers(options.jobs) as pool:
            ahead = self._in_time(seeds)
            waiting = deque(pool.submit(simulate, seed) for seed in islice(ahead, 2 * options.jobs))
            while waiting:
                yield waiting.popleft().result()
                waiting.extend(pool.submit(simulate, seed) for seed in islice(ahead, 1))

    def _in_time(self, seeds: Iterable[int]) -> Iterator[int]:
        until = self.began + self.options.hours * 3600 if self.options.hours else float("inf")
        for seed in seeds:
            yield seed
            if time.monotonic() > until:
                return

    # -- what it found ----------------------------------------------------------------------------------------------------------------

    def _add(self, report: Report) -> None:
        self.seeds += 1
        self.faults.update(report.faults)
        self.outcomes.update(report.outcomes)
        self.sights.update(report.sights)
        for name in ("virtual_seconds", "events", "looks", "terms", "entries", "configurations"):
            self.totals[name] += getattr(report, name)

    def _fail(self, failure: Failure) -> None:
        self.failed.append(failure.seed)
        _explain(failure)
        if self.options.no_shrink:
            return
        shortest, tried = shrink(failure)
        if shortest is failure:
            say(f"nothing could be left out, in {tried} runs")
            return
        say(f"shrunk in {tried} runs, from {failure.events} events and {len(failure.struck)} faults:")
        _explain(shortest)

    @property
    def _progress(self) -> str:
        return f"{self.seeds} seeds in {time.monotonic() - self.began:.1f} s, {len(self.failed)} failed"

    def _tell(self) -> None:
        say(self._progress)
        for what, totals in (("", self.totals), ("fault: ", self.faults), ("client: ", self.outcomes)):
            for name, total in sorted(totals.items()):
                say(f"  {total:>12,.0f}  {what}{name.replace('_', ' ')}")
        never = missing(self.sights)
        say(f"{len(SITUATIONS) - len(never)} of {len(SITUATIONS)} situations worth reaching were reached, in so many seeds:")
        for name in sorted(SITUATIONS, key=lambda name: -self.sights[name]):
            say(f"  {self.sights[name]:>12,}  {name}")

    def _figures(self) -> dict[str, Any]:
        never = missing(self.sights)
        return {
            "first_seed": self.options.start,
            "seeds": self.seeds,
            "failed_seeds": self.failed,
            "seconds": round(time.monotonic() - self.began, 1),
            "jobs": self.options.jobs,
            "faults": sum(self.faults.values()),
            "faults_by_kind": dict(sorted(self.faults.items())),
            "operations": sum(self.outcomes.values()),
            "operations_by_outcome": dict(sorted(self.outcomes.items())),
            **{name: round(total) for name, total in self.totals.items()},
            "virtual_days": round(self.totals["virtual_seconds"] / DAY, 3),
            "situations": len(SITUATIONS),
            "situations_reached": len(SITUATIONS) - len(never),
            "situations_never_reached": never,
            "seeds_by_situation": {name: self.sights[name] for name in SITUATIONS},
        }


def _explain(failure: Failure) -> None:
    say("\n".join(failure.trace))
    say(failure.story)
    say(f"seed {failure.seed} failed: {failure.error}")
    faults = ", ".join(f"{number} {fault}" for number, fault in failure.struck)
    say(f"after {failure.when:.3f} virtual seconds, {failure.events} events and these faults: {faults or 'none'}")
    say(f"replay it with: {failure.command}")


if __name__ == "__main__":
    run_command(main)
