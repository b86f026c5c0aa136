"""``python -m benchmarks.busy``: puts and fail-over while a thread computes in the process of each member, and without that."""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.commands import end_on_sigterm
from benchmarks.figures import Figures, publish
from benchmarks.meters import Sample, median
from benchmarks.peer import on_disk, say
from benchmarks.replkv_peer import ReplkvPeer
from benchmarks.workloads import WORKLOADS

ROUNDS = 5
THREADS = 1
PUTS = next(workload for workload in WORKLOADS if workload.name == "W1")


class Found:
    """What was found with so many threads that compute."""

    def __init__(self) -> None:
        self.puts: list[Sample] = []
        self.kills: list[float] = []


def measure(base: Path, threads: int, rounds: int, scale: float, figures: Figures) -> None:
    """Put, and kill the leader, without threads that compute and with them, in turns."""
    peer = ReplkvPeer(base, module="benchmarks.busy_member")
    found = {0: Found(), threads: Found()}
    try:
        peer.start()
        for number in range(rounds):
            for computing, into in found.items():
                say(f"round {number + 1} of {rounds}: {_beside(computing)}")
                _once(peer, computing, scale, into)
    finally:
        peer.stop()
    for computing, into in found.items():
        _add(figures, computing, into)
    calm, busy = (median(found[computing].puts).p50_ms for computing in (0, threads))
    figures.add("a put beside threads that compute, by one without: p50", f"× {busy / calm:.1f}")
    figures.noise += [sample.other_share for sample in found[0].puts]  # what the threads need is not noise, and can't be told from it
    figures.loops += [sample.loop_ns for sample in found[0].puts]


def _once(peer: ReplkvPeer, computing: int, scale: float, into: Found) -> None:
    """Put for a while, and kill the leader once; the process that takes its place computes when its turn comes.

    Raises:
        RuntimeError: no put succeeded afterwards.
    """
    for member in peer.members:
        member.ask("compute", computing)
    into.puts.append(peer.measure(PUTS, max(100, round(PUTS.operations * scale))))
    into.kills.append(peer.fail_over())
    if into.kills[-1] == float("inf"):
        raise RuntimeError(f"{_beside(computing)}: no put succeeded any more after the leader was killed")


def _beside(threads: int) -> str:
    return f"{threads} thread{'s' if threads > 1 else ''} computing in each of the three processes" if threads else "nothing computes"


def _add(figures: Figures, computing: int, found: Found) -> None:
    middle = median(found.puts)
    title = f"{_beside(computing)}: {PUTS.title}"
    figures.add(title, f"{middle.rate:,.0f}/s, p50 {middle.p50_ms:.2f} ms, p99 {middle.p99_ms:.2f} ms")
    figures.add("– leader killed: to the first put that began after it", _spread(found.kills))


def _spread(seconds: Sequence[float]) -> str:
    return f"p50 {statistics.median(seconds) * 1e3:.0f} ms, at most {max(seconds) * 1e3:.0f} ms, {len(seconds)} kills"


def main() -> int:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.busy", description=__doc__)
    parser.add_argument("--threads", type=int, default=THREADS, help="that compute in one process (default %(default)d)")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="of both, one kill in each (default %(default)d)")
    parser.add_argument("--scale", type=float, default=1.0, help="multiplies the number of puts")
    parser.add_argument("--workdir", type=Path, default=on_disk(), help="where the data directories go (default %(default)s)")
    parser.add_argument("--json", type=Path, default=Path("bench-results/busy.json"), help="where the figures go; Markdown beside it")
    arguments = parser.parse_args()
    if arguments.threads < 1 or arguments.rounds < 1 or not arguments.scale > 0:
        parser.error("--threads and --rounds must be at least 1, and --scale above 0")
    end_on_sigterm()
    figures = Figures()
    measure(arguments.workdir, arguments.threads, arguments.rounds, arguments.scale, figures)
    publish(figures, "benchmarks.busy", arguments.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
