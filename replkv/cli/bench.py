"""``replkv bench``: how fast a cluster answers this client, measured for some seconds."""

from __future__ import annotations

import os
import platform
import secrets
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

import attrs
from attrs import frozen
from rich.text import Text

from replkv import Client, Put, ReplkvError, Status
from replkv.cli.forms import draw, print_json, table

if TYPE_CHECKING:
    from replkv.cli.asking import Asking

VALUE: Final = b"v" * 256
KEYS: Final = 100
"""How many keys are written in turn."""
WINDOW: Final = 64


@frozen
class Figure:
    """What came out for one kind of call: calls a second, and the milliseconds within which half, and 99 of 100, were answered."""

    what: str
    calls: int
    per_second: float
    p50_ms: float
    p99_ms: float

    @classmethod
    def of(cls, what: str, latencies: list[float], seconds: float) -> Figure:
        """Work it out of the latencies in seconds, of which there is at least one."""
        ordered = sorted(latencies)
        p50, p99 = (ordered[min(len(ordered) - 1, int(len(ordered) * part))] * 1e3 for part in (0.5, 0.99))
        return cls(what, len(ordered), len(ordered) / seconds, p50, p99)


def run(asking: Asking, seconds: float) -> None:
    """Measure, print what came out and under which circumstances, and leave no key behind.

    Args:
        asking: whom.
        seconds: for all of it, about.

    Raises:
        ReplkvError: a call failed; nothing is printed then.
    """
    with asking.client() as client:
        prefix = f"replkv-bench/{secrets.token_hex(8)}/"
        try:
            figures = [measure(client, prefix, seconds / len(_WORKLOADS)) for measure in _WORKLOADS]
        finally:
            with suppress(ReplkvError):  # what ended the measurement is to be told
                client.delete(prefix=prefix)
        about = _about(client.status())
    if asking.as_json:
        print_json({"figures": [attrs.asdict(figure) for figure in figures], "about": about})
        return
    headings = ("call", "calls", "calls/s", "p50 ms", "p99 ms")
    rows = [(each.what, f"{each.calls:,}", f"{each.per_second:,.0f}", f"{each.p50_ms:.3f}", f"{each.p99_ms:.3f}") for each in figures]
    draw(table(headings, rows, right=headings[1:]))
    for line in about:
        draw(Text(line, "dim"))


def _about(status: Status) -> list[str]:
    """Return the circumstances without which the figures mean nothing."""
    members = len(status.voters)
    synced = f"a put is answered when {members // 2 + 1} of {members} members have synced it to disk"
    where = (
        f"one process of {platform.python_implementation()} {platform.python_version()}, {platform.system()} {platform.release()}, "
        f"{os.cpu_count()} cores, as a client of member {status.name} (leader: {status.raft_leader}); values of {len(VALUE)} bytes"
    )
    return [
        where,
        synced if members > 1 else "a put is answered when the only member has synced it to disk, if it has a data directory at all",
        "A client pays for a socket and another process on every call; inside a member local reads and leader's reads cost neither.",
    ]


def _one_by_one(what: str, call: Callable[[int], Any], seconds: float) -> Figure:
    latencies: list[float] = []
    begun = now = time.perf_counter()
    while not latencies or now - begun < seconds:
        call(len(latencies))
        before, now = now, time.perf_counter()
        latencies.append(now - before)
    return Figure.of(what, latencies, now - begun)


def _puts(client: Client, prefix: str, seconds: float) -> Figure:
    return _one_by_one("put, one after the other", lambda turn: client.put(f"{prefix}{turn % KEYS}", VALUE), seconds)


def _many_puts(client: Client, prefix: str, seconds: float) -> Figure:
    latencies: list[float] = []
    waiting: deque[tuple[float, Any]] = deque()
    begun = now = time.perf_counter()
    while waiting or now - begun < seconds:
        while len(waiting) < WINDOW and now - begun < seconds:
            waiting.append((now, client.submit(Put(f"{prefix}{(len(latencies) + len(waiting)) % KEYS}", VALUE))))
            now = time.perf_counter()
        if waiting:
            since, future = waiting.popleft()
            future.result()
            now = time.perf_counter()
            latencies.append(now - since)
    return Figure.of(f"put, {WINDOW} in flight", latencies, now - begun)


def _gets(client: Client, prefix: str, seconds: float) -> Figure:
    return _one_by_one("get, linearizable", lambda turn: client.get(f"{prefix}{turn % KEYS}"), seconds)


def _local_gets(client: Client, prefix: str, seconds: float) -> Figure:
    return _one_by_one("get, local", lambda turn: client.get(f"{prefix}{turn % KEYS}", consistency="local"), seconds)


def _locks(client: Client, prefix: str, seconds: float) -> Figure:
    def take(turn: int) -> None:
        del turn
        with client.lock(prefix):
            pass

    return _one_by_one("lock, taken and given back", take, seconds)


_WORKLOADS: Final = (_puts, _many_puts, _gets, _local_gets, _locks)
