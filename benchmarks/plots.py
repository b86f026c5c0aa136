"""The figures as pictures: rate and latency against the window, and who spends the CPU of a put."""

from __future__ import annotations

from pathlib import Path

from attrs import frozen

from benchmarks.marks import Measured
from benchmarks.workloads import WORKLOADS, in_window

WINDOWS = sorted((workload for workload in WORKLOADS if in_window(workload)), key=lambda workload: workload.in_flight)
SPLIT = ("W1", "W2", "W3")
PARTS = ("driver", "leader", "followers")


@frozen
class Point:
    """A window: puts in flight, puts per second, and milliseconds."""

    in_flight: int
    rate: float
    p50_ms: float
    p99_ms: float


def window_points(measured: Measured) -> dict[str, list[Point]]:
    """Return for each peer a point for each window that was measured, the smallest first; none for a peer of less than two."""
    points: dict[str, list[Point]] = {}
    for workload in WINDOWS:
        for peer, sample in measured.get(workload.name, {}).items():
            points.setdefault(peer, []).append(Point(workload.in_flight, sample.rate, sample.p50_ms, sample.p99_ms))
    return {peer: some for peer, some in points.items() if len(some) > 1}


def cpu_split(measured: Measured) -> list[tuple[str, tuple[float, float, float]]]:
    """Return a bar for each peer of each workload of puts: its name, and the microseconds per put of driver, leader and followers."""
    return [
        (f"{workload}\n{peer}", (sample.driver_cpu, sample.leader_cpu, sample.followers_cpu))
        for workload in SPLIT
        for peer, sample in measured.get(workload, {}).items()
    ]


def draw(measured: Measured, path: Path) -> list[Path]:
    """Draw what there are figures for, beside the JSON at ``path``.

    Returns:
        The pictures.

    Raises:
        ImportError: matplotlib is not installed.
    """
    drawn = []
    if points := window_points(measured):
        drawn.append(_draw_windows(points, path.with_name(f"{path.stem}-window.png")))
    if bars := cpu_split(measured):
        drawn.append(_draw_split(bars, path.with_name(f"{path.stem}-cpu.png")))
    return drawn


def _draw_windows(points: dict[str, list[Point]], path: Path) -> Path:
    from matplotlib.figure import Figure  # noqa: PLC0415  # an extra

    figure = Figure(figsize=(11, 4.5), layout="constrained")
    rate, latency = figure.subplots(1, 2)
    for peer, some in points.items():
        windows = [point.in_flight for point in some]
        (line,) = rate.plot(windows, [point.rate for point in some], marker="o", label=peer)
        latency.plot(windows, [point.p50_ms for point in some], marker="o", color=line.get_color(), label=f"{peer}, p50")
        latency.plot(windows, [point.p99_ms for point in some], marker=".", ls="--", color=line.get_color(), label=f"{peer}, p99")
    for axes, label in ((rate, "puts per second"), (latency, "milliseconds per put")):
        axes.set(xscale="log", yscale="log", xlabel="puts in flight", ylabel=label)
        axes.grid(visible=True, which="both", alpha=0.3)
        axes.legend()
    figure.savefig(path)
    return path


def _draw_split(bars: list[tuple[str, tuple[float, float, float]]], path: Path) -> Path:
    from matplotlib.figure import Figure  # noqa: PLC0415  # an extra

    workloads = list(dict.fromkeys(name.split("\n")[0] for name, _ in bars))
    figure = Figure(figsize=(5 * len(workloads), 4.5), layout="constrained")
    for axes, workload in zip(figure.subplots(1, len(workloads), squeeze=False)[0], workloads, strict=True):
        own = [(name.split("\n")[1], parts) for name, parts in bars if name.startswith(f"{workload}\n")]
        below = [0.0] * len(own)
        for number, part in enumerate(PARTS):
            heights = [parts[number] for _, parts in own]
            axes.bar([name.replace(", ", "\n") for name, _ in own], heights, bottom=below, label=part)
            below = [low + height for low, height in zip(below, heights, strict=True)]
        axes.set(title=workload, ylabel="µs of CPU per put")
        axes.legend()
    figure.savefig(path)
    return path
