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
        kind: "put", "get", or "lock": take a lock and give it back.
        operations: how many at scale 1.
        in_flight: how many at a time.
        consistency: of a get.
        leader: driven at the leader; otherwise at a follower.
        spread: driven at all three members alike.
    """

    name: str
    title: str
    kind: str
    operations: int
    in_flight: int = 1
    consistency: Consistency = "linearizable"
    leader: bool = True
    spread: bool = False


WORKLOADS = (
    Workload("W1", "put, one after the other", "put", 2_000),
    Workload("W2", "put, 64 in flight", "put", 20_000, in_flight=64),
    Workload("W3", "put, 512 in flight", "put", 50_000, in_flight=512),
    Workload("W4", "linearizable get (read index)", "get", 5_000),
    Workload("W4-lease", "get at the leader under its lease (etcd: read index)", "get", 5_000, consistency="lease"),
    Workload("W6", "local get at a follower", "get", 20_000, consistency="local", leader=False),
    Workload("W9", "lock and unlock, alone", "lock", 1_000),
    Workload("W9-8", "lock and unlock, 8 contenders at the leader", "lock", 2_000, in_flight=8),
    Workload("W9-8-spread", "lock and unlock, 8 contenders over three members", "lock", 2_000, in_flight=8, spread=True),
)

LOCK = "bench"
"""The lock's name."""

FAIL_OVER = "W10"
FAIL_OVER_TITLE = "leader killed: to the first put that began after it"


def chosen(only: str) -> list[str]:
    """Return the names of the workloads that ``--only`` asks for: all if it is empty.

    Raises:
        ValueError: there is none of a name.
    """
    known = [workload.name for workload in WORKLOADS] + [FAIL_OVER]
    asked = [name.strip() for name in only.split(",") if name.strip()]
    for name in asked:
        if not any(_is(one, name) for one in known):
            raise ValueError(f"there is no workload {name}, only {', '.join(known)}")
    return [one for one in known if not asked or any(_is(one, name) for name in asked)]


def _is(name: str, asked: str) -> bool:
    return name == asked or name.startswith(asked + "-")


def key(number: int) -> bytes:
    """Return a key of 32 bytes; keys sort as their numbers do."""
    return b"/bench/kv/%022d" % number


def make_values(seed: int = 7) -> list[bytes]:
    """Return values of which one half is random and the other is text that repeats, so that compression has something to do."""
    rng = random.Random(seed)
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
