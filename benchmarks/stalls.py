"""``python -m benchmarks.stalls``: a cluster in whose processes other threads compute all the time; who leads, and what a put takes."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from attrs import frozen

from benchmarks.commands import check_names, end_on_sigterm
from benchmarks.figures import Figures, publish
from benchmarks.meters import Usage
from benchmarks.peer import on_disk, say
from benchmarks.replkv_peer import ChildProcess, ReplkvPeer

PLACES = {"leader": "in the leader's process", "all": "in each of the three processes"}
SECONDS = 300.0
THREADS = 4
QUIET = 5.0
"""Seconds for which puts are measured before the threads begin to compute."""
PAUSE = 0.01
"""Seconds between two puts."""


@frozen
class Load:
    """What goes on beside the members.

    Args:
        place: a key of ``PLACES``.
        threads: that compute in a process.
        seconds: for which they are measured.
        interval: of ``sys.setswitchinterval`` in these processes; None: as it is.
    """

    place: str
    threads: int
    seconds: float
    interval: float | None = None

    def __str__(self) -> str:
        interval = f", with sys.setswitchinterval({self.interval:g})" if self.interval is not None else ""
        return f"{self.threads} threads compute {PLACES[self.place]}{interval}, for {self.seconds:g} s"


def beside(base: Path, load: Load, figures: Figures) -> None:
    """Put from the leader's process while threads compute beside it, or beside all members."""
    peer = ReplkvPeer(base, module="benchmarks.stalls_member")
    try:
        peer.start()
        members = peer.members
        quiet = members[0].ask("put", min(QUIET, load.seconds), PAUSE)
        before = [member.ask("metrics") for member in members]
        for member in members if load.place == "all" else members[:1]:
            member.ask("compute", load.threads, load.interval)
        say(str(load))
        usage, own = Usage([member.process.pid for member in members]), time.process_time()
        latencies = members[0].ask("put", load.seconds, PAUSE)
        figures.look(usage, time.process_time() - own)
        _add(figures, load, quiet, latencies)
        _count(figures, members, before)
    finally:
        peer.stop()


def _add(figures: Figures, load: Load, quiet: Sequence[float], latencies: Sequence[float]) -> None:
    figures.add(str(load), f"{len(latencies):,} puts one after the other, all complete")
    figures.add("– a put from the leader's process", _spread(latencies))
    figures.add("– the same before the threads began", _spread(quiet))


def _spread(seconds: Sequence[float]) -> str:
    ordered = sorted(seconds)
    p50, p99, worst = (ordered[at] * 1e3 for at in (len(ordered) // 2, len(ordered) * 99 // 100, -1))
    return f"p50 {p50:.1f} ms, p99 {p99:.0f} ms, at most {worst:.0f} ms"


def _count(figures: Figures, members: Sequence[ChildProcess], before: Sequence[dict[str, float]]) -> None:
    after = [member.ask("metrics") for member in members]

    def grown(name: str) -> list[float]:
        return [now[name] - then[name] for now, then in zip(after, before, strict=True)]

    terms = {then["raft_term"] for then in before} | {now["raft_term"] for now in after}
    changes, elections = sum(grown("leader_changes")), sum(grown("elections_started"))
    figures.add("– changes of leader, elections, terms", f"{changes:g}, {elections:g}, {len(terms)}")
    stalls = " + ".join(f"{stalls:g}" for stalls in grown("stalls"))
    longest = max(now["longest_stall_seconds"] for now in after)
    figures.add("– stalls of leader + followers, as they count them", f"{stalls}, at most {longest:.2f} s")
    mean = [seconds / max(1, turns) * 1e3 for seconds, turns in zip(grown("sync_seconds"), grown("syncs"), strict=True)]
    figures.add("– a sync of the log, with the wait for the interpreter after it", " + ".join(f"{each:.1f}" for each in mean) + " ms")


def main() -> int:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.stalls", description=__doc__)
    parser.add_argument("where", nargs="*", help=f"{', '.join(PLACES)}; both by default")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="for each (default %(default)g)")
    parser.add_argument("--threads", type=int, default=THREADS, help="that compute in one process (default %(default)d)")
    parser.add_argument("--interval", type=float, help="for sys.setswitchinterval where threads compute (default: as it is)")
    parser.add_argument("--workdir", type=Path, default=on_disk(), help="where the data directories go (default %(default)s)")
    parser.add_argument("--json", type=Path, default=Path("bench-results/stalls.json"), help="where the figures go; Markdown beside it")
    arguments = parser.parse_args()
    check_names(parser, arguments.where, PLACES)
    if arguments.seconds < 1 or arguments.threads < 0:
        parser.error("--seconds must be at least 1, and --threads at least 0")
    end_on_sigterm()
    figures = Figures()
    for place in arguments.where or PLACES:
        beside(arguments.workdir, Load(place, arguments.threads, arguments.seconds, arguments.interval), figures)
    publish(figures, "benchmarks.stalls", arguments.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
