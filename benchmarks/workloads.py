"""What is measured: operations, keys and values, and the two ways to drive them."""

from __future__ import annotations

import random
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Literal, TypeAlias

from attrs import frozen

Consistency: TypeAlias = Literal["linearizable", "lease", "local"]

KV = b"/bench/kv/"
"""Where the keys lie that are put and read."""

KEYS = 10_000
VALUE_BYTES = 256
VALUES = 1024

CAP = 10.0
"""Seconds after which one repeat of a workload begins no further operation."""


@frozen
class Workload:
    """One thing to measure.

    Args:
        name: its number among the workloads; those of a kind share it up to the dash.
        title: what it does, in the table.
        kind: "put"; "get"; "scan"; "lock": take one and give it back; "cas": add to a counter by compare-and-swap; "add": by ``add``;
            "watch": put what others watch; "fail-over": kill the leader; "restart": a member.
        operations: how many at scale 1; of a restart the keys that are stored.
        in_flight: how many at a time.
        threads: each of those at a time in a thread of its own that waits for it, as contenders do.
        consistency: of a get.
        leader: driven at the leader; otherwise at a follower.
        spread: driven at all three members alike.
        value_bytes: of a put; other sizes than ``VALUE_BYTES`` are random bytes only.
        watchers: at a follower, all of one key.
        each: what the rate counts, per operation: the keys of a scan.
        least: operations, whatever the scale.
    """

    name: str
    title: str
    kind: str
    operations: int
    in_flight: int = 1
    threads: bool = False
    consistency: Consistency = "linearizable"
    leader: bool = True
    spread: bool = False
    value_bytes: int = VALUE_BYTES
    watchers: int = 0
    each: int = 1
    least: int = 100

    @property
    def seldom(self) -> bool:
        """Whether it is done a few times only, and its CPU is not looked at."""
        return self.kind in ("fail-over", "restart")

    def count(self, scale: float) -> int:
        """Return how many operations there are at a scale."""
        return max(self.least, round(self.operations * scale))


def _window(in_flight: int, operations: int) -> Workload:
    return Workload(f"window-{in_flight}", f"put, {in_flight:,} in flight", "put", operations, in_flight)


WORKLOADS = (
    Workload("W1", "put, one after the other", "put", 2_000),
    Workload("W2", "put, 64 in flight", "put", 20_000, in_flight=64),
    Workload("W3", "put, 512 in flight", "put", 50_000, in_flight=512),
    Workload("W3-follower", "put at a follower, 512 in flight", "put", 50_000, in_flight=512, leader=False),
    Workload("W3b", "put of 100 random bytes, 2,000 in flight", "put", 60_000, in_flight=2_000, value_bytes=100),
    Workload("W4", "linearizable get (read index)", "get", 5_000),
    Workload("W4-lease", "get at the leader under its lease (etcd: read index)", "get", 5_000, consistency="lease"),
    Workload("W5", "linearizable get, 64 in flight", "get", 30_000, in_flight=64),
    Workload("W6", "local get at a follower", "get", 20_000, consistency="local", leader=False),
    Workload("W7", "compare-and-swap on one counter, 8 contenders", "cas", 2_000, in_flight=8, threads=True),
    Workload("W7-add", "add to one counter, 8 contenders", "add", 4_000, in_flight=8, threads=True),
    Workload("W7-add-64", "add to one counter, 64 in flight", "add", 20_000, in_flight=64),
    Workload("W8-one", "watch at a follower: from a put's call to its event", "watch", 1_000, watchers=1),
    Workload("W8-100", "100 watchers of one key at a follower, 64 puts in flight: events", "watch", 4_000, in_flight=64, watchers=100),
    Workload("W9", "lock and unlock, alone", "lock", 1_000, threads=True),
    Workload("W9-8", "lock and unlock, 8 contenders at the leader", "lock", 2_000, in_flight=8, threads=True),
    Workload("W9-8-spread", "lock and unlock, 8 contenders over three members", "lock", 2_000, in_flight=8, threads=True, spread=True),
    Workload("W12", "local scan of 10,000 keys at a follower: keys", "scan", 30, consistency="local", leader=False, each=KEYS, least=3),
    *(_window(in_flight, operations) for in_flight, operations in ((4, 4_000), (16, 10_000), (256, 30_000), (2_000, 60_000))),
    Workload("W10", "leader killed: to the first put that began after it", "fail-over", 5, least=1),
    Workload("W11", "restart of a member with 200,000 more keys: to its first local get", "restart", 200_000, least=2_000),
)

LOCK = "bench"
"""The lock's name."""

COUNTER = b"/bench/counter"
WATCHED = b"/bench/watched"
LAST = b"last"
"""The value that ends a watch."""

RESTARTS = 3
"""Per run."""


def in_window(workload: Workload) -> bool:
    """Tell whether a workload is one of those that differ in how many puts are in flight, and in nothing else."""
    return workload.kind == "put" and workload.leader and workload.value_bytes == VALUE_BYTES


def chosen(only: str) -> list[str]:
    """Return the names of the workloads that ``--only`` asks for: all if it is empty; "window" is all windows of puts.

    Raises:
        ValueError: there is none of a name.
    """
    known = [workload.name for workload in WORKLOADS]
    asked = [name.strip() for name in only.split(",") if name.strip()]
    for name in asked:
        if not any(_is(one, name) for one in known):
            raise ValueError(f"there is no workload {name}, only {', '.join(known)}")
    windows = {workload.name for workload in WORKLOADS if "window" in asked and in_window(workload)}
    return [one for one in known if not asked or one in windows or any(_is(one, name) for name in asked)]


def _is(name: str, asked: str) -> bool:
    return name == asked or name.startswith(asked + "-")


def key(number: int) -> bytes:
    """Return a key of 32 bytes; keys sort as their numbers do."""
    return KV + b"%022d" % number


def stored_key(number: int) -> bytes:
    """Return a key of 32 bytes of those that a restart finds."""
    return b"/bench/stored/%018d" % number


def make_values(size: int = VALUE_BYTES, seed: int = 7) -> list[bytes]:
    """Return values of which one half is random and the other is text that repeats, so that compression has something to do.

    Those of another size than ``VALUE_BYTES`` are random all over.
    """
    rng = random.Random(seed)
    if size != VALUE_BYTES:
        return [rng.randbytes(size) for _ in range(VALUES)]
    text = b'{"state":"running","owner":"worker-7","attempt":0,"tags":["blue","green"],"ok":true,"next":null,"zone":"eu-west-1a"}' * 2
    half = VALUE_BYTES // 2
    return [rng.randbytes(half) + text[: VALUE_BYTES - half] for _ in range(VALUES)]


def key_numbers(count: int, seed: int = 1) -> list[int]:
    """Return ``count`` key numbers in a random order that is always the same."""
    rng = random.Random(seed)
    return [rng.randrange(KEYS) for _ in range(count)]


def drive_sequential(count: int, operation: Callable[[int], Any]) -> tuple[list[float], float]:
    """Do ``operation(0)``, ``operation(1)`` and so on, each when the one before it is done.

    Returns:
        The seconds each took, and those of all together.
    """
    latencies = []
    clock = time.perf_counter
    begun = clock()
    for number in range(count):
        start = clock()
        if start - begun > CAP:
            break
        operation(number)
        latencies.append(clock() - start)
    return latencies, clock() - begun


def stamped(value: bytes) -> bytes:
    """Return a value with the present moment in place of its first bytes; see ``stamp``."""
    return b"%020d" % time.monotonic_ns() + value[20:]


def stamp(value: bytes) -> int:
    """Return when a value was made: nanoseconds of the machine's monotonic clock, which all processes share."""
    return int(value[:20])


def drive_together(count: int, operations: Sequence[Callable[[int], Any]]) -> tuple[list[float], float, float]:
    """Do ``count`` operations, each of ``operations`` an equal share of them in a thread of its own.

    Returns:
        The seconds each took, those of all together, and the CPU seconds of these threads.
    """

    def drive(operation: Callable[[int], Any]) -> tuple[list[float], float]:
        before = time.thread_time()
        latencies, _ = drive_sequential(max(1, count // len(operations)), operation)
        return latencies, time.thread_time() - before

    begun = time.perf_counter()
    with ThreadPoolExecutor(len(operations)) as threads:
        done = list(threads.map(drive, operations))
    seconds = time.perf_counter() - begun
    return [latency for latencies, _ in done for latency in latencies], seconds, sum(cpu for _, cpu in done)


def share(whole: int, part: int, parts: int) -> int:
    """Return how much of ``whole`` falls to one of ``parts``, as equal as whole numbers can be."""
    return whole * (part + 1) // parts - whole * part // parts


def drive_window(count: int, in_flight: int, submit: Callable[[int], Future[Any]], cap: float = CAP) -> tuple[list[float], float]:
    """Keep ``in_flight`` operations under way, waiting for the oldest before the next one is submitted; for ``cap`` seconds at most.

    Returns:
        The seconds each took until this thread saw its result, and those of all together.
    """
    latencies = []
    window: deque[tuple[float, Future[Any]]] = deque()
    clock = time.perf_counter
    begun = clock()
    for number in range(count):
        start = clock()
        if start - begun > cap:
            break
        if len(window) == in_flight:
            then, future = window.popleft()
            future.result()
            start = clock()
            latencies.append(start - then)
        window.append((start, submit(number)))
    for then, future in window:
        future.result()
        latencies.append(clock() - then)
    return latencies, clock() - begun
