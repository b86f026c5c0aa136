"""Search small worlds: ``python -m replkv.testing.search [--states N] [--jobs J]``, or ``--profile NAME`` for one of them."""

from __future__ import annotations

import argparse
import sys
import time
from concurrent.futures import FIRST_COMPLETED, Future, wait
from typing import TYPE_CHECKING

from replkv.testing.arguments import new_file, positive, run_command, workers
from replkv.testing.report import write_report
from replkv.testing.search.explore import Result, search
from replkv.testing.search.profiles import PROFILES, Profile

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence


def main(arguments: list[str] | None = None) -> int:
    """Run the command; return its exit status."""
    options, profiles = _options(arguments)
    began, results = time.monotonic(), []
    for result in run(profiles, options.states, min(options.jobs, len(profiles))):
        results.append(result)
        _say(line(result))
    figures = _figures(results, time.monotonic() - began)
    _say("{distinct_states:,} distinct states, {steps:,} steps in {seconds} s; {violations} violations".format_map(figures))
    if options.report:
        write_report(options.report, "search", figures)
    return 1 if figures["violations"] else 0


def _options(arguments: list[str] | None) -> tuple[argparse.Namespace, list[Profile]]:
    """Return what the command was told, and the worlds that it asks for."""
    sizes = sorted({len(profile.members) for profile in PROFILES})
    parser = argparse.ArgumentParser(prog="python -m replkv.testing.search", description="Search small worlds of the real Raft.")
    parser.add_argument("--states", type=positive, default=1_000_000, metavar="N", help="distinct states in all (default 1,000,000)")
    parser.add_argument("--nodes", type=int, choices=sizes, help="only worlds with so many members")
    parser.add_argument("--profile", choices=[profile.name for profile in PROFILES], help="only this world")
    parser.add_argument("--jobs", type=positive, default=1, metavar="J", help="processes (default 1)")
    parser.add_argument("--report", type=new_file, metavar="FILE", help="write the figures there, as JSON")
    options = parser.parse_args(arguments)
    sized = [profile for profile in PROFILES if options.nodes in (None, len(profile.members))]
    profiles = [profile for profile in sized if options.profile in (None, profile.name)]
    if not profiles:
        parser.error(f"the world {options.profile} does not have {options.nodes} members")
    return options, profiles


def run(profiles: Sequence[Profile], states: int, jobs: int) -> Iterator[Result]:
    """Search profiles in several processes; yield the results as they come.

    Each process has its part of the profiles and of the states.  It divides these evenly among those; what one has no use for is left to
    the following ones, so the numbers are the same every time.
    """
    lanes = [[*reversed(profiles[number::jobs])] for number in range(jobs)]
    left = [states // jobs] * jobs
    with workers(jobs) as pool:
        running: dict[Future[Result], int] = {}

        def begin(lane: int) -> None:
            if lanes[lane]:
                share = left[lane] // len(lanes[lane])
                running[pool.submit(search, lanes[lane].pop(), share)] = lane

        for lane in range(jobs):
            begin(lane)
        while running:
            for done in wait(running, return_when=FIRST_COMPLETED).done:
                result, lane = done.result(), running.pop(done)
                left[lane] -= result.states
                begin(lane)
                yield result


def line(result: Result) -> str:
    """Return a result in a line, and a violation with all that led to it."""
    extent = "all there are" if result.is_complete else f"all within {result.depth} steps"
    text = f"{result.profile:28} {result.states:>9,} states, {extent}, {result.states / max(result.seconds, 1e-9):,.0f}/s"
    return text if result.trace is None else f"{text}\n{result.trace}"


def _figures(results: Sequence[Result], seconds: float) -> dict[str, object]:
    states = sum(result.states for result in results)
    return {
        "distinct_states": states,
        "steps": sum(result.steps for result in results),
        "profiles": len(results),
        "searched_completely": sum(result.is_complete for result in results),
        "depth_at_least": min((result.depth for result in results if not result.is_complete), default=0),
        "violations": sum(result.trace is not None for result in results),
        "seconds": round(seconds, 1),
        "of_each": {result.profile: [result.states, result.depth, result.is_complete] for result in results},
    }


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    run_command(main)
