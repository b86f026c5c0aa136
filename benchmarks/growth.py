"""``python -m benchmarks.growth``: what puts lose when there is much: a million keys, ten thousand watches, a hundred thousand leases.

Rates are measured without and with it, in turns, so that what else the machine does falls on both alike.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path

from attrs import define, field

from benchmarks.commands import check_names, end_on_sigterm
from benchmarks.figures import Figures, publish
from benchmarks.meters import Usage
from benchmarks.peer import on_disk, say, wait_until
from benchmarks.replkv_peer import ReplkvPeer
from benchmarks.workloads import KEYS
from replkv import Config
from replkv.config import MIB

MANY_KEYS = 1_000_000
WATCHES = 10_000
LEASES = 100_000
KEEPERS = 100
LEASE_TTL = 10.0
ROUNDS = 5
SECONDS = 10.0
WARM_UP = 2.0
QUIET = 0.15
"""Of a core, what all members of a cluster use together at most while it is idle."""
PATIENCE = 300.0


@define
class Rates:
    """How many puts there were per second, and what each cost, turn by turn."""

    rates: list[float] = field(factory=list)
    costs: list[float] = field(factory=list)

    def put(self, peer: ReplkvPeer, seconds: float, keys: int, figures: Figures) -> None:
        """Put at the leader for so long, 512 at a time."""
        peer.ask_leader("put", min(WARM_UP, seconds), keys)
        usage, own = Usage([member.process.pid for member in peer.members]), time.process_time()
        puts, took = peer.ask_leader("put", seconds, keys)
        self.rates.append(puts / took)
        self.costs.append(sum(usage.spent()) / puts * 1e6)
        figures.look(usage, time.process_time() - own)

    @property
    def rate(self) -> float:
        """The middle of the rates."""
        return statistics.median(self.rates)

    def __str__(self) -> str:
        spread = f"{min(self.rates):,.0f} to {max(self.rates):,.0f}"
        return f"{self.rate:,.0f} puts/s ({spread}), {statistics.median(self.costs):.1f} µs of CPU each, all members together"


def compare(figures: Figures, titles: Sequence[str], rates: Sequence[Rates], least: float) -> None:
    """Add the rows for two rates, of which the second is to be so large a part of the first."""
    for title, each in zip(titles, rates, strict=True):
        figures.add(f"put, 512 in flight: {title}", str(each))
    share = statistics.median(grown / plain for plain, grown in zip(rates[0].rates, rates[1].rates, strict=True))
    judged = "reached" if share >= least else "missed"
    figures.add("– the second by the first, the middle of the rounds", f"{share:.0%} of the rate; {least:.0%} are wanted: {judged}")


def until_quiet(peer: ReplkvPeer) -> None:
    """Wait until members do no more than members at rest: what they still have to do would slow down whoever is measured next.

    Raises:
        TimeoutError: they go on.
    """
    wait_until(lambda: _is_quiet(peer) or None, f"members that use less than {QUIET} of a core after the last call", PATIENCE)


def _is_quiet(peer: ReplkvPeer) -> bool:
    usage = Usage([member.process.pid for member in peer.members])
    time.sleep(2.0)  # what is measured: a snapshot's writer rests for a part of that
    return sum(usage.spent()) < QUIET * usage.seconds()


@define
class Growth:
    """How to measure.

    Args:
        base: where the data directories go.
        scale: multiplies the numbers of keys, watches and leases.
        rounds: how often with and without.
        seconds: for which puts are made each time.
        figures: where the results go.
        snapshot: bytes of log after which members take a snapshot.
    """

    base: Path
    scale: float
    rounds: int
    seconds: float
    figures: Figures
    snapshot: int = Config().snapshot_bytes

    def keys(self) -> None:
        """Compare two clusters, of which one has many more keys; the other is idle meanwhile, with its snapshots written."""
        few, many = max(1, int(KEYS * self.scale)), max(1, int(MANY_KEYS * self.scale))
        plain, grown = Rates(), Rates()
        with ExitStack() as stack:
            peers = [self._started(stack) for _ in range(2)]
            for peer, keys in zip(peers, (few, many), strict=True):
                say(f"keys: putting {keys:,}")
                peer.ask_leader("grow", keys)
            for number in range(self.rounds):
                for peer, rates, keys in zip(peers, (plain, grown), (few, many), strict=True):
                    for each in peers:
                        until_quiet(each)
                    say(f"keys: round {number + 1} of {self.rounds}, {keys:,}")
                    rates.put(peer, self.seconds, keys, self.figures)
        compare(self.figures, [f"{few:,} keys", f"{many:,} keys"], [plain, grown], 0.8)

    def watchers(self) -> None:
        """Have many watch keys that nobody writes, at the leader."""
        count = int(WATCHES * self.scale)
        self._in_turns(
            f"{count:,} watches at the leader on other keys", lambda peer, there: peer.ask_leader("watch", count * there, "idle")
        )

    def leases(self) -> None:
        """Have many leases that are kept alive in the name of a hundred processes."""
        count = int(LEASES * self.scale)

        def have(peer: ReplkvPeer, there: bool) -> None:
            peer.ask_leader("lease", count * there, KEEPERS, LEASE_TTL)
            if (left := peer.ask_leader("leases")) != count * there:
                raise RuntimeError(f"{left:,} leases where there should be {count * there:,}")

        self._in_turns(f"{count:,} leases of {LEASE_TTL:g} s kept alive by {KEEPERS} processes", have)

    def _in_turns(self, what: str, have: Callable[[ReplkvPeer, bool], object]) -> None:
        rates = Rates(), Rates()
        with ExitStack() as stack:
            peer = self._started(stack)
            for number in range(self.rounds):
                say(f"{what}: round {number + 1} of {self.rounds}")
                for there in (False, True):
                    have(peer, there)
                    rates[there].put(peer, self.seconds, KEYS, self.figures)
        compare(self.figures, [f"without {what}", f"with {what}"], rates, 0.9)

    def _started(self, stack: ExitStack) -> ReplkvPeer:
        peer = ReplkvPeer(self.base, json.dumps({"snapshot_bytes": self.snapshot}), "benchmarks.growth_member")
        stack.callback(peer.stop)
        peer.start()
        return peer


KINDS = {"keys": Growth.keys, "watchers": Growth.watchers, "leases": Growth.leases}


def main() -> int:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.growth", description=__doc__)
    parser.add_argument("what", nargs="*", help=f"{', '.join(KINDS)}; all by default")
    parser.add_argument("--scale", type=float, default=1.0, help="multiplies the numbers of keys, watches and leases")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="with and without (default %(default)d)")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="of puts, each time (default %(default)g)")
    mib = Config().snapshot_bytes / MIB
    parser.add_argument("--snapshot-mib", type=float, default=mib, help="of log between two snapshots at least (default %(default)g)")
    parser.add_argument("--workdir", type=Path, default=on_disk(), help="where the data directories go (default %(default)s)")
    parser.add_argument("--json", type=Path, default=Path("bench-results/growth.json"), help="where the figures go; Markdown beside it")
    arguments = parser.parse_args()
    check_names(parser, arguments.what, KINDS)
    if arguments.rounds < 1 or not min(arguments.seconds, arguments.scale, arguments.snapshot_mib) > 0:
        parser.error("--rounds must be at least 1, --seconds, --scale and --snapshot-mib above 0")
    end_on_sigterm()
    snapshot = round(arguments.snapshot_mib * MIB)
    growth = Growth(arguments.workdir, arguments.scale, arguments.rounds, arguments.seconds, figures := Figures(), snapshot)
    for name in arguments.what or KINDS:
        KINDS[name](growth)
    publish(figures, "benchmarks.growth", arguments.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
