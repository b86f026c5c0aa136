"""``python -m benchmarks.limits``: what much state costs: a million keys, ten thousand watches, a hundred thousand leases."""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.commands import check_names
from benchmarks.meters import process_cpu
from benchmarks.peer import new_directory, on_disk, say
from benchmarks.replkv_peer import ReplkvPeer
from benchmarks.report import machine
from benchmarks.workloads import WORKLOADS, Workload

MEMORY_KEYS = 1_000_000
WATCHES = 10_000
LEASES = 100_000
KEEPERS = 100
LEASE_TTL = 10.0
REPEATS = 5
IDLE = 20.0
"""Seconds for which an idle leader is looked at."""

Row = tuple[str, str]


def memory(base: Path, scale: float) -> list[Row]:
    """Fill a lone durable member with keys of 32 and values of 256 bytes, look at its memory, and restart it."""
    keys = int(MEMORY_KEYS * scale)
    root = new_directory(base, "filled")

    def run(what: str) -> Any:
        say(f"memory: {what} {keys:,} keys")
        command = [sys.executable, "-m", "benchmarks.filled", str(root / "data"), str(keys), what]
        return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)

    try:
        filled, restarted = run("fill"), run("restart")
    finally:
        shutil.rmtree(root, ignore_errors=True)
    return [
        (f"{keys:,} keys of 32 B with 256 B: put", f"{filled['filled']:.1f} s"),
        ("resident, all of the process", f"{filled['resident'] / keys:.0f} B per key"),
        ("resident, without that of an empty member", f"{(filled['resident'] - filled['empty']) / keys:.0f} B per key"),
        ("a full garbage collection", f"{filled['collection'] * 1e3:.0f} ms"),
        ("restart, from the process's first line to a leader", f"{restarted['opened']:.1f} s"),
        ("resident after it", f"{restarted['resident'] / keys:.0f} B per key"),
        ("a full garbage collection after it", f"{restarted['collection'] * 1e3:.0f} ms"),
    ]


def watches(base: Path, scale: float) -> list[Row]:
    """Put at the leader of three members, with and without watches there, in turns."""
    chosen = {workload.name: workload for workload in WORKLOADS}
    count = int(WATCHES * scale)
    rows = []
    peer = ReplkvPeer(base)
    try:
        peer.start()
        for name in ("W1", "W3"):
            for where, title in (("idle", "on keys that nobody writes"), ("written", "on the keys written, nobody waiting")):
                say(f"watches: {name} {title}")
                without, among = _in_turns(peer, chosen[name], count, where)
                rows.append(
                    (f"{name} with {count:,} watches {title}", f"{among / without - 1:+.1%} time per put ({without:.4g} → {among:.4g} ms)")
                )
    finally:
        peer.stop()
    return rows


def _in_turns(peer: ReplkvPeer, workload: Workload, count: int, where: str) -> tuple[float, float]:
    """Return the milliseconds per put without watches and with them, medians of several turns."""
    measured: dict[bool, list[float]] = {False: [], True: []}
    operations = max(100, workload.operations)
    for turn in range(2 * REPEATS):
        watched = turn % 2 == 1
        peer.ask_leader("watch", count if watched else 0, where)
        sample = peer.measure(workload, operations)
        measured[watched].append(sample.p50_ms if workload.in_flight == 1 else 1e3 / sample.rate)
    return statistics.median(measured[False]), statistics.median(measured[True])


def leases(base: Path, scale: float) -> list[Row]:
    """Look at an idle leader's CPU while its followers keep leases alive for a hundred processes."""
    count = int(LEASES * scale)
    peer = ReplkvPeer(base)
    try:
        peer.start()
        say("leases: an idle leader")
        before = _idle_cpu(peer)
        for follower in peer.followers:
            say(f"leases: granting {count // 2:,} through {follower.name}")
            follower.ask("keep", count // 2, KEEPERS // 2, LEASE_TTL)
        say("leases: a leader that has nothing else to do")
        after = _idle_cpu(peer)
        left = peer.ask_leader("leases")
    finally:
        peer.stop()
    if left != count:
        raise RuntimeError(f"{left:,} leases are left of {count:,}")
    return [
        ("an idle leader of three members", f"{before:.1%} of one core"),
        (f"with {count:,} leases of {LEASE_TTL:g} s kept alive by {KEEPERS} processes", f"{after:.1%} of one core"),
        ("what the leases cost it", f"{after - before:.1%} of one core"),
    ]


def _idle_cpu(peer: ReplkvPeer) -> float:
    pid = peer.leader_pid
    time.sleep(2.0)  # until what was asked before has been done
    begun, spent = time.monotonic(), process_cpu(pid)
    time.sleep(IDLE)  # this is what is measured
    return (process_cpu(pid) - spent) / (time.monotonic() - begun)


LIMITS: dict[str, Callable[[Path, float], list[Row]]] = {"memory": memory, "watches": watches, "leases": leases}


def main() -> int:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.limits", description=__doc__)
    parser.add_argument("what", nargs="*", help=f"{', '.join(LIMITS)}; all by default")
    parser.add_argument("--scale", type=float, default=1.0, help="multiplies the numbers of keys, watches and leases")
    parser.add_argument("--workdir", type=Path, default=on_disk(), help="where the data directories go (default %(default)s)")
    parser.add_argument("--json", type=Path, default=Path("bench-results/limits.json"), help="where the figures go")
    arguments = parser.parse_args()
    check_names(parser, arguments.what, LIMITS)
    rows = [row for name in arguments.what or LIMITS for row in LIMITS[name](arguments.workdir, arguments.scale)]
    width = max(len(title) for title, _ in rows)
    for title, figure in rows:
        print(f"{title.ljust(width)}  {figure}")
    print(machine())
    arguments.json.parent.mkdir(parents=True, exist_ok=True)
    measured = time.strftime("%Y-%m-%dT%H:%M:%S%z")
    arguments.json.write_text(
        json.dumps({"measured": measured, "machine": machine(), "figures": dict(rows)}, indent=1) + "\n", encoding="utf-8"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
