"""Torture real processes: ``python tests/torture [--members 3|5] [--seconds S] [--seed N] [--nemeses kill,stop,…] [--hours H]``.

It takes no sides in how a run is judged: what clients and watchers saw is checked without a look inside (``replkv.testing.blackbox``).
"""

from __future__ import annotations

import argparse
import signal
import sys
import time
from collections import Counter
from pathlib import Path

from arena import HISTORY
from faults import FAULTS
from ordeal import SEEN, Failed, Figures, Plan, judge_again, torture

from replkv.testing.arguments import duration, new_file, positive
from replkv.testing.report import write_report


def main() -> int:
    """Run the command; return its exit status."""
    options = _options()
    if options.judge:
        judge_again(options.judge)
        return 0
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # and clean up on the way
    totals, runs, failed = Figures(), Counter[int](), ""
    until = time.monotonic() + 3600 * (options.hours or 0.0)
    while not failed and (not runs or time.monotonic() < until):
        members = options.members or (5 if options.hours and runs.total() % 2 else 3)
        plan = Plan(members, options.seconds, options.seed + runs.total(), options.nemeses)
        print(f"seed {plan.seed}: {members} members, {options.seconds:g} s", flush=True)
        try:
            _add(totals, torture(plan, options.keep, verbose=options.verbose))
        except Failed as failure:
            failed = str(failure)
            _add(totals, failure.figures)
        runs[members] += 1
    _tell(totals, runs, failed)
    if options.report:
        write_report(options.report, "torture", _figures(totals, runs, failed))
    return 1 if failed else 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python tests/torture", description="Torture clusters of real processes.")
    parser.add_argument("--members", type=int, choices=(3, 5), help="how many (default: 3, and with --hours 3 and 5 in turn)")
    parser.add_argument("--seconds", type=duration, default=60.0, metavar="S", help="how long the faults of one run go on (default 60)")
    parser.add_argument("--seed", type=positive, metavar="N", help="of the first run (default 1; with --hours the time)")
    parser.add_argument("--hours", type=duration, metavar="H", help="go on with the next seeds until this time is over (default: one run)")
    parser.add_argument("--nemeses", type=_names, default=tuple(FAULTS), metavar="A,B,…", help=f"of {','.join(FAULTS)} (default: all)")
    parser.add_argument("--keep", type=_directory, metavar="DIR", help="where a failed run leaves everything (default: a new directory)")
    parser.add_argument("--report", type=new_file, metavar="FILE", help="write the figures there, as JSON")
    parser.add_argument("--verbose", action="store_true", help="tell of everything that is done")
    parser.add_argument("--judge", type=_failed_run, metavar="DIR", help="only judge again what a failed run has left there")
    options = parser.parse_args()
    if options.seed is None:
        options.seed = int(time.time()) if options.hours else 1
    return options


def _directory(text: str) -> Path:
    if not Path(text).is_dir():
        raise argparse.ArgumentTypeError(f"{text!r} is no directory")
    return Path(text)


def _failed_run(text: str) -> Path:
    directory = _directory(text)
    if missing := [name for name in (HISTORY, SEEN) if not (directory / name).exists()]:
        raise argparse.ArgumentTypeError(f"{text!r} lacks {' and '.join(missing)}")
    return directory


def _names(text: str) -> tuple[str, ...]:
    names = tuple(text.split(","))
    if unknown := set(names) - set(FAULTS):
        raise argparse.ArgumentTypeError(f"{', '.join(sorted(unknown))}: choose from {', '.join(FAULTS)}")
    return names


def _add(totals: Figures, figures: Figures) -> None:
    totals.faults += figures.faults
    totals.calls += figures.calls
    totals.skipped |= figures.skipped
    totals.went_on += figures.went_on
    totals.events += figures.events
    totals.seconds += figures.seconds


def _figures(totals: Figures, runs: Counter[int], failed: str) -> dict[str, object]:
    return {
        "runs": {f"{members} members": count for members, count in sorted(runs.items())},
        "seconds": round(totals.seconds),
        "faults": dict(sorted(totals.faults.items())),
        "skipped": totals.skipped,
        "calls": dict(sorted(totals.calls.items())),
        "rounds_in_which_a_majority_went_on": totals.went_on,
        "watch_events": totals.events,
        "failed": failed,
    }


def _tell(totals: Figures, runs: Counter[int], failed: str) -> None:
    for what, figure in _figures(totals, runs, failed).items():
        if what != "failed":
            print(f"  {what.replace('_', ' ')}: {figure}")
    print(f"FAILED: {failed}" if failed else "nothing that must not be was seen")
