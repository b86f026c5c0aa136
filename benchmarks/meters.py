"""What an operation costs: time, and the CPU of every process that has a part in it."""

from __future__ import annotations

import os
import statistics
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from attrs import asdict, evolve, field, frozen

TICK = os.sysconf("SC_CLK_TCK")


def process_cpu(pid: int) -> float:
    """Return the CPU seconds of a process and all its threads, to the nanosecond: clock_getcpuclockid(3), in Linux' encoding."""
    return time.clock_gettime((~pid << 3) | 2)


def machine_cpu() -> tuple[float, float]:
    """Return the CPU seconds of the whole machine so far: busy, and in all."""
    with Path("/proc/stat").open(encoding="ascii") as file:
        fields = [int(text) / TICK for text in file.readline().split()[1:9]]
    return sum(fields) - fields[3] - fields[4], sum(fields)


def reference_loop() -> float:
    """Return the nanoseconds of one turn of a fixed Python loop: how fast this machine is at the moment."""
    turns = 200_000
    total = 0
    begun = time.perf_counter()
    for number in range(turns):
        total += number & 7
    return (time.perf_counter() - begun) / turns * 1e9


class Usage:
    """The CPU of processes, and of everything else, from when this was made.

    Args:
        pids: the processes.
    """

    def __init__(self, pids: Sequence[int]) -> None:
        self._pids = pids
        self._before = [process_cpu(pid) for pid in pids]
        self._machine = machine_cpu()
        self._begun = time.monotonic()

    def spent(self) -> list[float]:
        """Return the CPU seconds of each process so far."""
        return [process_cpu(pid) - before for pid, before in zip(self._pids, self._before, strict=True)]

    def seconds(self) -> float:
        """Return the seconds so far."""
        return time.monotonic() - self._begun

    def other_share(self, known: float) -> float:
        """Return the share of the machine's CPU time that neither these processes used nor those that used ``known`` seconds: noise."""
        busy, total = (after - before for after, before in zip(machine_cpu(), self._machine, strict=True))
        return max(0.0, busy - sum(self.spent()) - known) / max(total, 1e-9)


@frozen
class Sample:
    """One repeat of one workload; CPU in microseconds per operation.

    Args:
        operations: how many were done.
        seconds: they took together.
        p50_ms: the middle of their latencies.
        p99_ms: what all but a hundredth stayed below.
        driver_cpu: of the thread or process that drives the load.
        leader_cpu: of the leader's process, without the driver where that is a part of it.
        followers_cpu: of the two other members together.
        other_share: of the machine's CPU time, what neither of these used: noise.
        loop_ns: the reference loop just before.
        extras: what a kind of workload tells besides, by name.
        distribution: how many operations took so many microseconds, in three digits.
    """

    operations: int
    seconds: float
    p50_ms: float
    p99_ms: float
    driver_cpu: float
    leader_cpu: float
    followers_cpu: float
    other_share: float
    loop_ns: float
    extras: dict[str, float] = field(factory=dict)
    distribution: dict[str, int] = field(factory=dict)

    @property
    def rate(self) -> float:
        """Operations per second."""
        return self.operations / self.seconds

    @property
    def cpu(self) -> float:
        """Microseconds of CPU per operation, of everything together."""
        return self.driver_cpu + self.leader_cpu + self.followers_cpu


class Meter:
    """Measures CPU between its beginning and ``sample``.

    Args:
        leader: the leader's process id.
        followers: those of the other members.
    """

    def __init__(self, leader: int, followers: Sequence[int]) -> None:
        self._loop_ns = reference_loop()
        self._pids = [leader, *followers]
        self._usage = Usage(self._pids)

    def sample(
        self,
        latencies: Sequence[float],
        seconds: float,
        driver: float,
        *,
        inside: int | None = None,
        operations: int | None = None,
        extras: dict[str, float] | None = None,
    ) -> Sample:
        """Return the sample of what happened since the meter was made.

        Args:
            latencies: seconds of each operation.
            seconds: of all together.
            driver: CPU seconds of the driver.
            inside: the member whose process the driver is a thread of, if it is; its CPU counts once.
            operations: how many are counted, where not every one has a latency.
            extras: see ``Sample``.
        """
        spent = self._usage.spent()
        other_share = self._usage.other_share(0.0 if inside is not None else driver)
        if inside is not None:
            spent[self._pids.index(inside)] -= driver
        per = 1e6 / (operations or len(latencies))
        return evolve(
            timed(latencies, seconds, operations, extras),
            driver_cpu=driver * per,
            leader_cpu=spent[0] * per,
            followers_cpu=sum(spent[1:]) * per,
            other_share=other_share,
            loop_ns=self._loop_ns,
        )


def timed(latencies: Sequence[float], seconds: float, operations: int | None = None, extras: dict[str, float] | None = None) -> Sample:
    """Return a sample of which the CPU is not known; the arguments are those of ``Meter.sample``."""
    ordered = sorted(latencies)
    return Sample(
        operations=operations or len(ordered),
        seconds=seconds,
        p50_ms=ordered[len(ordered) // 2] * 1e3,
        p99_ms=ordered[len(ordered) * 99 // 100] * 1e3,
        driver_cpu=0.0,
        leader_cpu=0.0,
        followers_cpu=0.0,
        other_share=0.0,
        loop_ns=reference_loop(),
        extras=extras or {},
        distribution=distribution(ordered),
    )


def distribution(latencies: Sequence[float]) -> dict[str, int]:
    """Return how many of ``latencies``, in seconds, there are of each number of microseconds, to three digits; the order is kept."""
    return dict(Counter(f"{latency * 1e6:.3g}" for latency in latencies))


def pooled(samples: Sequence[Sample]) -> list[float]:
    """Return the latencies of all samples together, in order: milliseconds, to three digits."""
    return sorted(
        float(microseconds) / 1e3 for sample in samples for microseconds, count in sample.distribution.items() for _ in range(count)
    )


def median(samples: Sequence[Sample]) -> Sample:
    """Return the sample whose every figure is the median of the others' figures; its distribution is theirs together."""
    rows: list[dict[str, Any]] = [asdict(sample) for sample in samples]
    extras = {name: statistics.median(row["extras"][name] for row in rows) for name in rows[0]["extras"]}
    together: Counter[str] = Counter()
    for sample in samples:
        together.update(sample.distribution)
    figures = {name: statistics.median(row[name] for row in rows) for name in rows[0] if name not in ("extras", "distribution")}
    return Sample(**figures, extras=extras, distribution=dict(together))
