"""``python -m benchmarks.crowd``: a thousand who wait for one lock, and a thousand clients whose leases are kept alive."""

from __future__ import annotations

import argparse
import resource
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from attrs import asdict, frozen

from benchmarks.commands import check_names, end_on_sigterm
from benchmarks.figures import Figures, publish
from benchmarks.meters import Usage
from benchmarks.peer import on_disk, say
from benchmarks.replkv_peer import NAMES, ChildProcess, ReplkvPeer
from benchmarks.workloads import WORKLOADS, share
from replkv.keeper import PER_TTL

T = TypeVar("T")

WAITERS = 1_000
CLIENTS = 1_000
LEASES_EACH = 10
LEASE_TTL = 10.0
PROCESSES = 4
"""That the clients are in."""

SECONDS = 60.0
BEFORE = 10.0
"""Seconds for which the cluster is looked at without the clients."""

PUTS = 20
"""Per second, one after the other, while the leases are kept alive."""

LIMIT = 300.0
"""Seconds for each step; more is a failure."""

FILES = 8 * CLIENTS // PROCESSES
"""Open files that a process of clients may need."""

# -- one lock ------------------------------------------------------------------------------------------------------------------------


def lock(base: Path, scale: float, figures: Figures) -> None:
    """Have many wait for one lock, as threads and as tasks, and let it go round once."""
    for how in ("threads", "tasks"):
        lock_round(base, how, max(len(NAMES), int(WAITERS * scale)), figures)


def lock_round(base: Path, how: str, count: int, figures: Figures) -> None:
    """Have so many "threads" or "tasks" wait for one lock, and let it go round once."""
    peer = ReplkvPeer(base, how, "benchmarks.crowd_member")
    try:
        peer.start()
        _go_round(peer, count, f"{count:,} {how} of three members wait for one lock", figures)
    finally:
        peer.stop()


def _go_round(peer: ReplkvPeer, count: int, title: str, figures: Figures) -> None:
    members = peer.members
    leader = members[0]
    leader.ask("take")
    empty = _resident(members)
    begun = time.monotonic()
    for number, member in enumerate(members):
        member.ask("join", share(count, number, len(members)))
    _until(lambda: int(leader.ask("waiting")) - 1, count, f"{title}: in line")
    joined, waiting = time.monotonic() - begun, _resident(members)
    usage, own = Usage([member.process.pid for member in members]), time.process_time()
    given = leader.ask("give")
    _until(lambda: sum(member.ask("served") for member in members), count, f"{title}: had it")
    spent = sum(usage.spent())
    figures.look(usage, time.process_time() - own)
    told = [member.ask("turns") for member in members]
    turns = sorted(moment for one in told for moment in one["taken"])
    p50, p99 = _percentiles([after - before for before, after in zip([given, *turns], turns, strict=False)])
    seconds, woken = turns[-1] - given, sum(one["woken"] for one in told)
    figures.add(title, f"all have had it after {seconds:.2f} s: {count / seconds:,.0f} hand-overs/s")
    figures.add("– a hand-over, from one holder to the next", f"p50 {p50:.2f} ms, p99 {p99:.2f} ms, {spent / count * 1e6:,.0f} µs of CPU")
    figures.add("– wake-ups per release", f"{woken / count:.3g}")
    figures.add("– until all stood in line, each with a lease of its own", f"{joined:.2f} s")
    figures.add("– memory per waiter", f"{(waiting - empty) / count / 1024:,.0f} KiB")


def _resident(members: Sequence[ChildProcess]) -> int:
    return sum(member.ask("resident") for member in members)


def _until(count: Callable[[], int], goal: int, what: str) -> None:
    """Ask until the answer is the goal, and say how far it is.

    Raises:
        TimeoutError: it took too long.
    """
    deadline, said = time.monotonic() + LIMIT, time.monotonic()
    while (so_far := count()) < goal:
        now = time.monotonic()
        if now > deadline:
            raise TimeoutError(f"{what}: only {so_far:,} of {goal:,} after {LIMIT:.0f} s")
        if now > said + 2.0:
            said = now
            say(f"{what}: {so_far:,} of {goal:,}")
        time.sleep(0.1)  # between two looks
    say(f"{what}: {goal:,}")


def _percentiles(seconds: Sequence[float]) -> tuple[float, float]:
    """Return the middle, and what all but a hundredth stayed below, in milliseconds."""
    ordered = sorted(seconds)
    return statistics.median(ordered) * 1e3, ordered[len(ordered) * 99 // 100] * 1e3


# -- many clients --------------------------------------------------------------------------------------------------------------------


def clients(base: Path, scale: float, seconds: float, figures: Figures) -> None:
    """Keep the leases of many clients alive, and put beside it."""
    count = max(PROCESSES, int(CLIENTS * scale))
    peer = ReplkvPeer(base)
    try:
        peer.start()
        before = _observe(peer, [], min(BEFORE, seconds), figures)
        with _processes(Path(peer.directories[0]).parent) as processes:
            _connect(processes, peer, count, figures)
            _keep(processes, peer, seconds, before, figures)
    finally:
        peer.stop()


@contextmanager
def _processes(root: Path) -> Iterator[list[ChildProcess]]:
    processes = [ChildProcess(f"clients-{number}", root, "benchmarks.crowd_clients") for number in range(PROCESSES)]
    try:
        for process in processes:
            process.start()
        yield processes
    finally:
        for process in processes:
            process.stop()


def _connect(processes: Sequence[ChildProcess], peer: ReplkvPeer, count: int, figures: Figures) -> None:
    leases = count * LEASES_EACH
    empty = sum(process.ask("state")["resident"] for process in processes)
    say(f"{count:,} clients connect")
    begun = time.monotonic()
    _ask_all(processes, lambda number: ("connect", peer.directories, share(count, number, len(processes))))
    connected = time.monotonic() - begun
    memory = (sum(process.ask("state")["resident"] for process in processes) - empty) / count
    say(f"they ask for {leases:,} leases")
    begun = time.monotonic()
    for number in range(LEASES_EACH):
        _ask_all(processes, lambda _: ("grant", LEASE_TTL))
        say(f"each has {number + 1} of {LEASES_EACH}")
    granted = time.monotonic() - begun
    figures.add(
        f"{count:,} asyncio clients in {len(processes)} processes: connected", f"in {connected:.1f} s, {memory / 1024:,.0f} KiB each"
    )
    figures.add(f"{leases:,} leases of {LEASE_TTL:g} s granted to them", f"in {granted:.1f} s, {leases / granted:,.0f}/s")


def _ask_all(processes: Sequence[ChildProcess], request: Callable[[int], tuple[object, ...]]) -> None:
    for number, process in enumerate(processes):
        do, *arguments = request(number)
        process.send(str(do), *arguments)
    for process in processes:
        process.receive()


@frozen
class Observed:
    """What a while was like.

    Args:
        puts: the seconds that each put took.
        cores: of which each process used that share of one: the leader, the followers, then the clients'.
        entries: of the log, per second.
        seconds: that it lasted.
    """

    puts: list[float]
    cores: list[float]
    entries: float
    seconds: float


def _observe(peer: ReplkvPeer, others: Sequence[ChildProcess], seconds: float, figures: Figures) -> Observed:
    """Look at the members and ``others`` for a while, and put at the leader meanwhile."""
    put = asdict(WORKLOADS[0])
    usage = Usage([process.process.pid for process in (*peer.members, *others)])
    index, own = peer.ask_leader("status")["index"], time.process_time()
    latencies: list[float] = []
    for second in range(max(1, round(seconds))):
        latencies += peer.ask_leader("run", PUTS, put)["latencies"]
        if second % 10 == 9:
            say(f"{second + 1} of {seconds:.0f} s")
        time.sleep(max(0.0, second + 1 - usage.seconds()))  # the puts of one second are a few
    cores = [spent / usage.seconds() for spent in usage.spent()]
    entries = (peer.ask_leader("status")["index"] - index) / usage.seconds()
    figures.look(usage, time.process_time() - own)
    return Observed(latencies, cores, entries, usage.seconds())


def _keep(processes: Sequence[ChildProcess], peer: ReplkvPeer, seconds: float, before: Observed, figures: Figures) -> None:
    sent = sum(process.ask("state")["kept_alive"] for process in processes)
    beside = _observe(peer, processes, seconds, figures)
    states = [process.ask("state") for process in processes]
    leases, clients_here = sum(state["held"] for state in states), sum(state["clients"] for state in states)
    there, wanted = int(peer.ask_leader("leases")), clients_here * LEASES_EACH
    if (leases, there) != (wanted, wanted):
        raise RuntimeError(f"of {wanted:,} leases {there:,} are left, and {leases:,} are counted on by their holders")
    rate = (sum(state["kept_alive"] for state in states) - sent) / beside.seconds
    title = f"kept alive for {beside.seconds:.0f} s: leases that were lost"
    figures.add(title, f"none of {wanted:,}")
    due = clients_here * PER_TTL / LEASE_TTL
    figures.add(
        "– keep-alives through the log, one per client",
        f"{rate:,.0f}/s ({due:,.0f}/s are due), in {beside.entries:,.0f} entries/s, puts among them",
    )
    figures.add(
        "– CPU of leader + followers / of the clients' processes", f"{_cores(beside.cores[:3])} / {sum(beside.cores[3:]):.0%} of one core"
    )
    figures.add("– the same members before the clients came", f"{_cores(before.cores)} of one core")
    for title, observed in (("before the clients came", before), ("beside them", beside)):
        p50, p99 = _percentiles(observed.puts)
        figures.add(f"– a put at the leader, {PUTS} a second, {title}", f"p50 {p50:.2f} ms, p99 {p99:.2f} ms")


def _cores(shares: Sequence[float]) -> str:
    return " + ".join(f"{one:.1%}" for one in shares)


def raise_file_limit(needed: int) -> None:
    """Let this process and its children open as many files as they may.

    Raises:
        OSError: fewer than are needed.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < needed:
        raise OSError(f"a process may open {hard} files here, and {needed} are needed: raise `ulimit -Hn`, or lower --scale")
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def main() -> int:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.crowd", description=__doc__)
    parser.add_argument("what", nargs="*", help="lock, clients; both by default")
    parser.add_argument("--scale", type=float, default=1.0, help="multiplies the numbers of waiters and clients")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="for which leases are kept alive (default %(default)g)")
    parser.add_argument("--workdir", type=Path, default=on_disk(), help="where the data directories go (default %(default)s)")
    parser.add_argument("--json", type=Path, default=Path("bench-results/crowd.json"), help="where the figures go; Markdown beside it")
    arguments = parser.parse_args()
    check_names(parser, arguments.what, ("lock", "clients"))
    if arguments.scale <= 0 or arguments.seconds < 1:
        parser.error("--scale must be above 0, and --seconds at least 1")
    raise_file_limit(max(1024, int(FILES * arguments.scale)))
    end_on_sigterm()
    figures, what = Figures(), arguments.what or ["lock", "clients"]
    if "lock" in what:
        lock(arguments.workdir, arguments.scale, figures)
    if "clients" in what:
        clients(arguments.workdir, arguments.scale, arguments.seconds, figures)
    publish(figures, "benchmarks.crowd", arguments.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
