"""Simulate clusters: ``python -m replkv.testing --seeds COUNT [--start FIRST]``, or ``--seed N`` to watch one again."""

from __future__ import annotations

import argparse
import sys
import time
import traceback
from collections import Counter
from typing import TYPE_CHECKING

from replkv.testing.simulation import Simulation
from replkv.testing.swarm import draw

if TYPE_CHECKING:
    from replkv.testing.simulation import Report

PROGRESS_EVERY = 5.0


def main(arguments: list[str] | None = None) -> int:
    """Run the command; return its exit status."""
    parser = argparse.ArgumentParser(prog="python -m replkv.testing", description="Simulate clusters that live with faults.")
    parser.add_argument("--seeds", type=int, default=100, metavar="COUNT", help="how many seeds to run (default 100)")
    parser.add_argument("--start", type=int, default=1, metavar="FIRST", help="the first of them (default 1)")
    parser.add_argument("--seed", type=int, metavar="N", help="run this one, and print everything that happens")
    parser.add_argument("--keep-going", action="store_true", help="go on after a failure")
    options = parser.parse_args(arguments)
    if options.seed is not None:
        return 0 if _run(options.seed, Counter(), verbose=True) else 1
    return _run_many(range(options.start, options.start + options.seeds), keep_going=options.keep_going)


def _run_many(seeds: range, *, keep_going: bool) -> int:
    totals: Counter[str] = Counter()
    began = shown = time.monotonic()
    for seed in seeds:
        if not _run(seed, totals, verbose=False) and not keep_going:
            break
        if time.monotonic() - shown > PROGRESS_EVERY:
            shown = time.monotonic()
            _say(f"{totals['seeds']} seeds in {shown - began:.0f} s, {totals['failed']} failed")
    _say(f"{totals['seeds']} seeds in {time.monotonic() - began:.1f} s, {totals['failed']} failed")
    for what, count in sorted(totals.items()):
        _say(f"  {count:>12,.0f}  {what}")
    return 1 if totals["failed"] else 0


def _run(seed: int, totals: Counter[str], *, verbose: bool) -> bool:
    simulation = Simulation(draw(seed), verbose)
    totals["seeds"] += 1
    try:
        _add(totals, simulation.run())
    except Exception as error:  # noqa: BLE001  # whatever went wrong, the seed shows it again
        totals["failed"] += 1
        _add(totals, simulation.report())
        _explain(seed, simulation, error)
        return False
    if verbose:
        _say(str(simulation.report()))
    return True


def _add(totals: Counter[str], report: Report) -> None:
    totals.update({f"fault: {kind}": count for kind, count in report.faults.items()})
    totals.update({f"client: {kind}": count for kind, count in report.outcomes.items()})
    totals.update({f"saw: {kind}": count for kind, count in report.sights.items()})
    for name in ("virtual_seconds", "events", "looks", "terms", "entries"):
        totals[name.replace("_", " ")] += getattr(report, name)


def _explain(seed: int, simulation: Simulation, error: Exception) -> None:
    _say("\n".join(simulation.cluster.trace.tail))
    _say("".join(traceback.format_exception(error)))
    _say(f"seed {seed} failed: {error}")
    _say(f"replay it with: python -m replkv.testing --seed {seed}")


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
