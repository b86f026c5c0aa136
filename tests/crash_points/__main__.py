"""Try everything, and say how much that was."""

from __future__ import annotations

import argparse
import logging
import time

from scenarios import SCENARIOS, Effort

from replkv.testing.report import write_report


def main() -> None:
    parser = argparse.ArgumentParser(
        description="Stop members at every change of their disks, and have them recover from all that may survive."
    )
    parser.add_argument("--only", default="", metavar="WORD", help="only scenarios whose names contain this")
    parser.add_argument("--report", metavar="FILE", help="write the figures there")
    options = parser.parse_args()
    logging.disable(logging.CRITICAL)  # members warn of what is done to them
    figures = {}
    for scenario in SCENARIOS:
        if options.only in scenario.name:
            began = time.monotonic()
            tally = scenario.run(Effort())
            figures[scenario.name] = {"operations": tally.operations, "subsets": tally.subsets, "recoveries": tally.recoveries}
            numbers = f"{tally.operations:6,} operations {tally.subsets:9,} subsets {tally.recoveries:7,} recoveries"
            print(f"{scenario.name:60}{numbers} {time.monotonic() - began:6.0f} s", flush=True)
    totals = {what: sum(figure[what] for figure in figures.values()) for what in ("operations", "subsets", "recoveries")}
    print(", ".join(f"{count:,} {what}" for what, count in totals.items()))
    if options.report:
        write_report(options.report, "crash points", {**totals, "scenarios": figures})


main()
