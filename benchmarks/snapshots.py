"""``python -m benchmarks.snapshots``: puts while snapshots are taken, and how long a follower takes to catch up by one."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.commands import end_on_sigterm
from benchmarks.figures import Figures, publish
from benchmarks.meters import Usage
from benchmarks.peer import on_disk, say, wait_until
from benchmarks.replkv_peer import ChildProcess, ReplkvPeer

KEYS = 1_000_000
ROUNDS = 1
QUIET = 5.0
"""Seconds for which puts are made without a snapshot, in each round."""
CATCH_UP = 120.0

LOADS = ((1, "a put at the leader, one after the other"), (64, "a put at the leader, 64 in flight"))


class Latencies:
    """How long puts took."""

    def __init__(self) -> None:
        self._seconds: list[float] = []

    def add(self, puts: Sequence[tuple[float, float]], since: float = 0.0, until: float = float("inf")) -> None:
        """Add those that were under way at any moment between two."""
        self._seconds += [took for begun, took in puts if begun < until and begun + took > since]

    def at(self, share: float) -> float:
        """Return the milliseconds below which a share of them stayed."""
        ordered = sorted(self._seconds)
        return ordered[min(len(ordered) - 1, int(len(ordered) * share))] * 1e3

    def __str__(self) -> str:
        return f"p50 {self.at(0.5):.2f} ms, p99 {self.at(0.99):.2f} ms, at most {self.at(1):.0f} ms ({len(self._seconds):,} puts)"


class Trio:
    """Three members, one of which leads all the time.

    Args:
        peer: they, started.
        figures: where the results go.
    """

    def __init__(self, peer: ReplkvPeer, figures: Figures) -> None:
        self.leader, *self.followers = peer.members
        self._figures = figures

    def fill(self, keys: int) -> None:
        """Put keys while a follower is away, and let it catch up."""
        away = self.followers[-1]
        away.kill()
        say(f"putting {keys:,} keys into two members of three")
        seconds = self.leader.ask("fill", keys)
        size, goal = self.leader.ask("rest"), self.leader.ask("status")["revision"]
        say("the third member comes back")
        begun = time.monotonic()
        away.start()
        wait_until(lambda: away.ask("status")["revision"] >= goal or None, "follower that has caught up", CATCH_UP)
        took = time.monotonic() - begun
        self._figures.add(f"{keys:,} keys of 32 B with random values of 256 B: put into two members of three", f"{seconds:.0f} s")
        title = f"– the third, empty until then, has them by a snapshot of {size / 1e6:,.0f} MB and the log behind it"
        self._figures.add(title, f"{took:.1f} s after its start")
        for member in (self.leader, *self.followers):
            member.ask("rest")
            member.ask("hold")

    def compare(self, in_flight: int, title: str, rounds: int) -> None:
        """Put without and beside snapshots, in turns: of the leader alone, and of all three at once."""
        without, beside_own, beside_all = Latencies(), Latencies(), Latencies()
        for number in range(rounds):
            say(f"{title}: round {number + 1} of {rounds}")
            self.leader.ask("begin", in_flight)
            time.sleep(QUIET)
            without.add(self.leader.ask("end"))
            for latencies, takers in ((beside_own, [self.leader]), (beside_all, [self.leader, *self.followers])):
                self._beside(in_flight, takers, latencies)
        self._figures.add(f"{title}: no snapshot", str(without))
        for latencies, whose in ((beside_own, "the leader takes one"), (beside_all, "all three members take one at the same time")):
            self._figures.add(f"– while {whose}", f"{latencies}: p99 × {latencies.at(0.99) / without.at(0.99):.2f}")

    def _beside(self, in_flight: int, takers: Sequence[ChildProcess], latencies: Latencies) -> None:
        self.leader.ask("begin", in_flight)
        for member in takers:
            member.send("take")
        spans = [member.receive() for member in takers]
        puts = self.leader.ask("end")
        latencies.add(puts, min(since for since, _ in spans), max(until for _, until in spans))
        say(f"snapshots of {', '.join(f'{until - since:.1f} s' for since, until in spans)}")


def measure(base: Path, keys: int, rounds: int, figures: Figures) -> None:
    """Fill a cluster, and measure."""
    peer = ReplkvPeer(base, module="benchmarks.snapshots_member")
    try:
        peer.start()
        trio = Trio(peer, figures)
        trio.fill(keys)
        usage = Usage([member.process.pid for member in peer.members])
        own = time.process_time()
        for in_flight, title in LOADS:
            trio.compare(in_flight, title, rounds)
        figures.look(usage, time.process_time() - own)
    finally:
        peer.stop()


def main() -> int:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.snapshots", description=__doc__)
    parser.add_argument("--keys", type=int, default=KEYS, help="how many there are (default %(default)s)")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="of each measurement (default %(default)s)")
    parser.add_argument("--workdir", type=Path, default=on_disk(), help="where the data directories go (default %(default)s)")
    parser.add_argument("--json", type=Path, default=Path("bench-results/snapshots.json"), help="where the figures go; Markdown beside it")
    arguments = parser.parse_args()
    if arguments.keys < 1 or arguments.rounds < 1:
        parser.error("--keys and --rounds must be at least 1")
    end_on_sigterm()
    figures = Figures()
    measure(arguments.workdir, arguments.keys, arguments.rounds, figures)
    publish(figures, "benchmarks.snapshots", arguments.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
