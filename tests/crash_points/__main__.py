"""Try everything, and say how much that was."""

from __future__ import annotations

import argparse

from attrs import asdict
from scenarios import SCENARIOS, try_everything
from stopping import Tally

from replkv.testing.arguments import new_file, positive, run_command, workers
from replkv.testing.report import write_report


def main() -> int:
    """Run the command; return its exit status."""
    what = "Stop members at every change of their disks, and have them recover from all that may be left."
    parser = argparse.ArgumentParser(prog="python tests/crash_points", description=what)
    parser.add_argument("--only", default="", metavar="WORD", help="only scenarios whose names contain this")
    parser.add_argument("--jobs", type=positive, default=1, metavar="N", help="scenarios that run at once (default 1)")
    parser.add_argument("--report", type=new_file, metavar="FILE", help="write the figures there, as JSON")
    options = parser.parse_args()
    names = [scenario.name for scenario in SCENARIOS if options.only in scenario.name]
    if not names:
        parser.error(f"no scenario has {options.only!r} in its name")
    total = Tally()
    figures = {}
    with workers(options.jobs) as pool:
        for name, (tally, seconds) in zip(names, pool.map(try_everything, names), strict=True):
            figures[name] = asdict(tally)
            total.add(tally)
            print(f"{name:60}{tally} {seconds:5.0f} s", flush=True)
    print(f"{'in all':60}{total}")
    if options.report:
        write_report(options.report, "crash points", {**asdict(total), "scenarios": figures})
    return 0


if __name__ == "__main__":
    run_command(main)
