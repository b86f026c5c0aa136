"""``python -m benchmarks.secured``: what mutual TLS costs between members, and what it costs to check a user's rights.

Two clusters, with TLS and without, are measured in turns; then the calls of a member's own code and those of a user, in turns.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import timeit
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from benchmarks.commands import end_on_sigterm
from benchmarks.figures import Figures, publish
from benchmarks.meters import Sample, median
from benchmarks.peer import on_disk, say
from benchmarks.replkv_peer import NAMES, ReplkvPeer
from benchmarks.workloads import WORKLOADS, Workload
from replkv import wire
from replkv.auth import Auth, Span, User
from replkv.lease import Leases

ROUNDS = 5
PERMISSIONS = 100
CHECKS = 20_000
ENCRYPTED = ("W1", "W2", "W3", "W3-follower", "W4", "W5")
JUDGED = ("W1", "W3", "W4-lease", "W6", "W12")

Found = dict[str, list[Sample]]
Prepare = Callable[[str], ReplkvPeer]


def named(names: Sequence[str]) -> list[Workload]:
    """Return workloads by their names."""
    return [workload for workload in WORKLOADS if workload.name in names]


@contextmanager
def authority() -> Iterator[str]:
    """Make certificates for the members, and yield their directory."""
    with tempfile.TemporaryDirectory(prefix="replkv-pki-") as pki:
        for arguments in (["init"], *(["member", name, "--host", "127.0.0.1"] for name in NAMES)):
            what, *rest = arguments
            subprocess.run([sys.executable, "-m", "replkv", "certs", what, pki, *rest], check=True, stdout=subprocess.DEVNULL)
        yield pki


@contextmanager
def clusters(base: Path, kinds: Mapping[str, Mapping[str, str]]) -> Iterator[dict[str, ReplkvPeer]]:
    """Start a cluster of each kind, whose members find some variables in their environment, and stop all at the end."""
    started: dict[str, ReplkvPeer] = {}
    try:
        for kind, variables in kinds.items():
            started[kind] = ReplkvPeer(base, module="benchmarks.secured_member")
            os.environ.pop("PKI", None)
            os.environ.update(variables)
            started[kind].start()
        yield started
    finally:
        for peer in started.values():
            peer.stop()


def in_turns(workloads: Sequence[Workload], kinds: Sequence[str], prepare: Prepare, rounds: int, scale: float) -> dict[str, Found]:
    """Measure each workload in each way, one after the other, again and again; return what was found by workload and way."""
    found: dict[str, Found] = {workload.name: {kind: [] for kind in kinds} for workload in workloads}
    for number in range(rounds):
        for workload in workloads:
            for kind in kinds:
                say(f"round {number + 1} of {rounds}: {workload.title}, {kind}")
                found[workload.name][kind].append(prepare(kind).measure(workload, workload.count(scale)))
    return found


def report(figures: Figures, workloads: Sequence[Workload], found: Mapping[str, Found]) -> None:
    """Add a row for each workload and way, and how they compare."""
    for workload in workloads:
        middles = {kind: median(samples) for kind, samples in found[workload.name].items()}
        for kind, middle in middles.items():
            cpu = middle.driver_cpu + middle.leader_cpu + middle.followers_cpu
            figures.add(f"{workload.title}: {kind}", f"{middle.rate:,.0f}/s, p50 {middle.p50_ms:.3g} ms, {cpu:.3g} µs of CPU each")
        (_, first), (other, second) = middles.items()
        figures.add(f"– {other}", f"rate × {second.rate / first.rate:.2f}, p50 × {second.p50_ms / first.p50_ms:.2f}")
        for samples in found[workload.name].values():
            figures.noise += [sample.other_share for sample in samples]
            figures.loops += [sample.loop_ns for sample in samples]


def checks(figures: Figures) -> None:
    """Time the check of a put by itself."""
    for permissions in (1, 100, 10_000):
        spans: dict[Span, int] = {(b"key/%06d" % number, b"key/%06d!" % number): wire.READWRITE for number in range(permissions)}
        auth = Auth(True, 1, {"ann": User(b"", ("dev",), 1)}, {"dev": spans})
        check = partial(auth.check, ("ann", 1), (wire.PUT, b"key/000000", b"value", False), Leases())
        each = min(timeit.repeat(check, number=CHECKS, repeat=5)) / CHECKS
        figures.add(f"the check of a put by itself, {permissions:,} permissions", f"{each * 1e6:.2f} µs")


def main() -> int:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.secured", description=__doc__)
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="whose medians count (default %(default)d)")
    parser.add_argument("--scale", type=float, default=1.0, help="multiplies the number of operations")
    parser.add_argument("--workdir", type=Path, default=on_disk(), help="where the data directories go (default %(default)s)")
    parser.add_argument("--json", type=Path, default=Path("bench-results/secured.json"), help="where the figures go; Markdown beside it")
    arguments = parser.parse_args()
    if arguments.rounds < 1 or not arguments.scale > 0:
        parser.error("--rounds must be at least 1, and --scale above 0")
    end_on_sigterm()
    figures = Figures()
    encrypted, judged = named(ENCRYPTED), named(JUDGED)
    with authority() as pki, clusters(arguments.workdir, {"no TLS": {}, "mutual TLS": {"PKI": pki}}) as peers:
        report(figures, encrypted, in_turns(encrypted, list(peers), peers.__getitem__, arguments.rounds, arguments.scale))
    with clusters(arguments.workdir, {"users": {}}) as peers:
        peer = peers["users"]
        peer.ask_leader("enable", PERMISSIONS)

        def acting(kind: str) -> ReplkvPeer:
            for member in peer.members:
                member.ask("act", kind != "the member's own")
            return peer

        ways = ("the member's own", f"of a user with {PERMISSIONS} permissions")
        report(figures, judged, in_turns(judged, ways, acting, arguments.rounds, arguments.scale))
    checks(figures)
    publish(figures, "benchmarks.secured", arguments.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
