"""``python -m benchmarks.handover``: how long nothing can be written when the leader closes, hands over, or is killed."""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from pathlib import Path

from benchmarks.commands import check_names, end_on_sigterm
from benchmarks.figures import Figures, publish
from benchmarks.meters import Usage
from benchmarks.peer import on_disk, wait_until
from benchmarks.replkv_peer import ChildProcess, ReplkvPeer

TIMES = 30
AROUND = 0.2
"""Seconds of puts before and after a change of leader."""

WAYS = {
    "close": "the leader is closed",
    "transfer": "transfer_leadership() at the leader",
    "kill": "the leader is killed with SIGKILL",
}


def change(peer: ReplkvPeer, way: str) -> tuple[float, float]:
    """Change the leader while its followers put; return the longest time without an answer at any of them, and that of the call.

    Raises:
        RuntimeError: a put failed.
    """
    leader, *followers = peer.members
    for follower in followers:
        follower.ask("begin")
    time.sleep(AROUND)  # puts before the change, and after it, are a part of what is measured
    took, since = 0.0, time.monotonic()  # a clock that all processes share
    if way == "kill":
        leader.kill()
    else:
        took = leader.ask(way)
    wait_until(lambda: all(_follows_another(follower, leader) for follower in followers) or None, "leader")
    until = time.monotonic()
    time.sleep(AROUND)  # as before the change
    told = [follower.ask("end", since, until) for follower in followers]
    if failures := [failure for one in told for failure in one["failures"]]:
        raise RuntimeError(f"{way}: {failures}")
    if way == "kill":
        leader.start()
    elif way == "close":
        leader.ask("open")
    leader.ask("ready")
    return max(one["gap"] for one in told), took


def _follows_another(follower: ChildProcess, leader: ChildProcess) -> bool:
    return follower.ask("status")["leader"] not in (None, leader.name)


def measure(base: Path, ways: list[str], times: int, figures: Figures) -> None:
    """Change the leader so many times in each way."""
    peer = ReplkvPeer(base, module="benchmarks.handover_member")
    try:
        peer.start()
        for way in ways:
            usage, own = Usage([member.process.pid for member in peer.members]), time.process_time()
            changes = [change(peer, way) for _ in range(times)]
            if way != "kill":  # whose members are other processes by now
                figures.look(usage, time.process_time() - own)
            gaps, calls = zip(*changes, strict=True)
            figures.add(f"{WAYS[way]}, {times} times: longest time without an answer to a put", _figure(gaps))
            if way != "kill":
                figures.add("– the call itself", _figure(calls))
    finally:
        peer.stop()


def _figure(seconds: tuple[float, ...]) -> str:
    return f"p50 {statistics.median(seconds) * 1e3:.1f} ms, at most {max(seconds) * 1e3:.1f} ms"


def main() -> int:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.handover", description=__doc__)
    parser.add_argument("what", nargs="*", help=f"{', '.join(WAYS)}; all by default")
    parser.add_argument("--times", type=int, default=TIMES, help="how often in each way (default %(default)s)")
    parser.add_argument("--workdir", type=Path, default=on_disk(), help="where the data directories go (default %(default)s)")
    parser.add_argument("--json", type=Path, default=Path("bench-results/handover.json"), help="where the figures go; Markdown beside it")
    arguments = parser.parse_args()
    check_names(parser, arguments.what, WAYS)
    if arguments.times < 1:
        parser.error("--times must be at least 1")
    end_on_sigterm()
    figures = Figures()
    measure(arguments.workdir, arguments.what or list(WAYS), arguments.times, figures)
    publish(figures, "benchmarks.handover", arguments.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
