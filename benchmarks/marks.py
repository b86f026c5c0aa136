"""What replkv is to reach, as ratios to its peers, to other workloads, and to what the machine allows in the same run."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from attrs import frozen

from benchmarks.bounds import Bounds
from benchmarks.meters import Sample, pooled

Measured: TypeAlias = dict[str, dict[str, Sample]]
"""Medians: by workload, then by peer."""

Ratio: TypeAlias = Callable[[Measured, Bounds], float]


@frozen
class Mark:
    """One aim.

    Args:
        workload: that it is about.
        wanted: it in words.
        ratio: what is compared; a ``LookupError`` says that something was not measured.
        bound: with what.
        at_least: whether more is better.
    """

    workload: str
    wanted: str
    ratio: Ratio
    bound: float
    at_least: bool = True

    def measure(self, measured: Measured, bounds: Bounds | None) -> float | None:
        """Return the figure; None: something that it needs was not measured."""
        try:
            return self.ratio(measured, bounds or Bounds.unknown())
        except LookupError:
            return None

    def is_met(self, figure: float) -> bool:
        """Tell whether a figure is good enough."""
        return figure >= self.bound if self.at_least else figure <= self.bound


def _of(measured: Measured, workload: str, peer: str = "replkv") -> Sample:
    """Return the figures of the peer whose name begins so.

    Raises:
        LookupError: there are none.
    """
    for name, sample in measured[workload].items():
        if name.startswith(peer):
            return sample
    raise LookupError(peer)


def _faster(workload: str, times: float, peer: str = "etcd") -> Mark:
    def ratio(measured: Measured, _: Bounds) -> float:
        return _of(measured, workload).rate / _of(measured, workload, peer).rate

    return Mark(workload, f"rate ≥ {times:g} × {peer}'s", ratio, times)


def _sooner(workload: str, share: float, peer: str = "etcd") -> Mark:
    def ratio(measured: Measured, _: Bounds) -> float:
        return _of(measured, workload).p50_ms / _of(measured, workload, peer).p50_ms

    return Mark(workload, f"p50 ≤ {share:g} × {peer}'s", ratio, share, at_least=False)


def _share(workload: str, of: str, times: float) -> Mark:
    def ratio(measured: Measured, _: Bounds) -> float:
        return _of(measured, workload).rate / _of(measured, of).rate

    return Mark(workload, f"rate ≥ {times:g} × {of}'s", ratio, times)


def _at_most(workload: str, wanted: str, figure: Callable[[Sample], float], bound: float) -> Mark:
    return Mark(workload, wanted, lambda measured, _: figure(_of(measured, workload)), bound, at_least=False)


def _floor(measured: Measured, bounds: Bounds) -> float:
    return _of(measured, "W1").p50_ms * 1e3 / (bounds.known("sync_us") + bounds.known("round_trip_us"))


def _memory(measured: Measured, bounds: Bounds) -> float:
    """The time of the driver itself, two looks at the clock and a call, is no part of a read."""
    return (_of(measured, "W6").p50_ms * 1e3 - bounds.known("driver_us")) / bounds.known("look_up_us")


def _worst(measured: Measured, _: Bounds) -> float:
    return pooled([_of(measured, "W10")])[-1] / _of(measured, "W10", "etcd").p50_ms


MARKS = (
    _sooner("W1", 0.5),
    Mark("W1", "p50 ≤ 2 × (a sync + a cold round trip)", _floor, 2, at_least=False),
    _faster("W2", 6),
    _faster("W3", 12),
    _at_most("W3", "≤ 25 µs of CPU per put, driver and all members together", lambda sample: sample.cpu, 25),
    _share("W3-follower", "W3", 0.8),
    _faster("W3b", 3, "PySyncObj"),
    _faster("W4", 3),
    _faster("W4-lease", 200),
    _faster("W5", 6),
    _faster("W6", 200),
    Mark("W6", "p50 ≤ 3 × a bare look-up in a dict and its KeyValue", _memory, 3, at_least=False),
    Mark("W7", "rate ≥ 0.7 ÷ W1's p50", lambda measured, _: _of(measured, "W7").rate * _of(measured, "W1").p50_ms / 1e3, 0.7),
    _share("W7-add-64", "W2", 0.5),
    _sooner("W8-one", 0.5),
    _faster("W8-100", 2),
    Mark("W9", "p50 ≤ 2.2 × W1's", lambda measured, _: _of(measured, "W9").p50_ms / _of(measured, "W1").p50_ms, 2.2, at_least=False),
    _faster("W9-8", 12),
    _sooner("W10", 0.25),
    Mark("W10", "the worst ≤ 0.5 × etcd's p50", _worst, 0.5, at_least=False),
    _sooner("W11", 1),
    _at_most(
        "W11", "≤ 400 bytes on disk per key, without files made in advance", lambda sample: sample.extras["bytes on disk per key"], 400
    ),
    _at_most("W11", "≤ 200 MiB resident", lambda sample: sample.extras["MiB resident"], 200),
    _faster("W12", 4),
)
