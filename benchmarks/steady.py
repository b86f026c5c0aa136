"""``python -m benchmarks.steady``: puts at a fixed rate for an hour, and what they took, minute by minute.

Each is counted from the moment it was due, so that those count that had to wait while others were slow.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from attrs import define, field, frozen

from benchmarks.commands import end_on_sigterm
from benchmarks.figures import Figures, publish
from benchmarks.meters import Usage
from benchmarks.peer import on_disk, say
from benchmarks.replkv_peer import ReplkvPeer
from replkv import Config, Settings
from replkv.config import MIB

KEYS = 100_000
RATE = 500.0
MINUTES = 60.0
PERIOD = 60.0
WITHIN = 2.0
"""How many times the median minute's 99th percentile that of any may be."""
LOOK_EVERY = 1.0
GRACE = 5.0
"""Seconds for the last puts to be done."""


@frozen
class Load:
    """What to do.

    Args:
        minutes: for how long.
        rate: puts per second.
        keys: that there are, and are put again and again.
        period: seconds of what the table calls a minute.
        snapshot: bytes of log after which members take a snapshot.
        history: bytes of history that are kept.
    """

    minutes: float = MINUTES
    rate: float = RATE
    keys: int = KEYS
    period: float = PERIOD
    snapshot: int = Config().snapshot_bytes
    history: int = Settings().compact_bytes

    @property
    def seconds(self) -> float:
        """For how long."""
        return self.minutes * 60

    @property
    def puts(self) -> int:
        """How many puts are due in that time."""
        return round(self.seconds * self.rate)

    @property
    def choices(self) -> str:
        """What the members' processes are told."""
        return json.dumps({"config": {"snapshot_bytes": self.snapshot}, "settings": {"compact_bytes": self.history}})


@frozen
class Span:
    """Puts of a minute, or of another time: milliseconds."""

    p50: float
    p99: float
    worst: float
    puts: int

    @classmethod
    def of(cls, seconds: Iterable[float]) -> Span:
        """Return what becomes of latencies, of which there is one at least."""
        ordered = sorted(seconds)
        p50, p99, worst = (ordered[at] * 1e3 for at in (len(ordered) // 2, len(ordered) * 99 // 100, -1))
        return cls(p50, p99, worst, len(ordered))

    def __str__(self) -> str:
        return f"p50 {self.p50:.2f} ms, p99 {self.p99:.2f} ms, at most {self.worst:.0f} ms ({self.puts:,} puts)"


@define
class Course:
    """What happened; moments are seconds from when the puts began.

    Args:
        done: when each put was due, and the seconds it took from then.
        snapshots: by member, when each was begun and ended, as far as looking once a second tells.
        compactions: when history was compacted.
        failures: of puts.
    """

    done: list[tuple[float, float]] = field(factory=list)
    snapshots: dict[str, list[tuple[float, float]]] = field(factory=dict)
    compactions: list[float] = field(factory=list)
    failures: list[str] = field(factory=list)
    _last: dict[str, dict[str, Any]] = field(factory=dict)

    def note(self, now: float, member: str, seen: dict[str, Any]) -> None:
        """Take note of what a member said of its snapshots and its history."""
        before = self._last.get(member, seen)
        spans = self.snapshots.setdefault(member, [])
        if seen["snapshots"] > before["snapshots"]:
            spans.append((now, now))
        elif before["taking"] and spans:
            spans[-1] = spans[-1][0], now
        if seen["compacted"] > max((each["compacted"] for each in self._last.values()), default=seen["compacted"]):
            self.compactions.append(now)
        self._last[member] = seen

    def spans(self, period: float) -> dict[int, Span]:
        """Return what puts took, for each period in which one was due, by its number."""
        parts: dict[int, list[float]] = {}
        for due, took in self.done:
            parts.setdefault(int(due // period), []).append(took)
        return {number: Span.of(parts[number]) for number in sorted(parts)}


def run(base: Path, load: Load, figures: Figures) -> Course:
    """Have the leader put, and look at all members meanwhile."""
    peer, course = ReplkvPeer(base, load.choices, "benchmarks.steady_member"), Course()
    try:
        peer.start()
        members = peer.members
        say(f"putting {load.keys:,} keys")
        members[0].ask("fill", load.keys)
        for member in members:
            member.send("rest")
        for member in members:
            member.receive()
        usage, own = Usage([member.process.pid for member in members]), time.process_time()
        begun, told = members[0].ask("begin", load.puts, load.rate, load.keys), 0
        while (now := time.monotonic() - begun) < load.seconds + GRACE and len(course.done) < load.puts:
            for member in members:
                course.note(now, member.name, member.ask("look"))
            _take(course, members[0].ask("taken"), begun)
            if now // load.period > told and now <= load.seconds:
                told = int(now // load.period)
                newest = Course(course.done[-round(2 * load.rate * load.period) :])  # all of them would cost more and more
                say(f"{now / 60:.1f} of {load.minutes:g} minutes: {newest.spans(load.period).get(told - 1, 'nothing is done')}")
            time.sleep(LOOK_EVERY)
        figures.look(usage, time.process_time() - own)
        figures.add("CPU of all members together", f"{sum(usage.spent()) / usage.seconds():.0%} of one core")
    finally:
        peer.stop()
    return course


def _take(course: Course, taken: dict[str, Any], begun: float) -> None:
    course.done += [(due - begun, took) for due, took in taken["done"]]
    course.failures += taken["failures"]


def tell(course: Course, load: Load, figures: Figures) -> None:
    """Add the rows.

    Raises:
        RuntimeError: not all puts that were due were made and answered.
    """
    missing = load.puts - len(course.done)
    if course.failures or missing:
        raise RuntimeError(f"{len(course.failures)} puts failed, such as {course.failures[:3]}, and {missing} are missing")
    spans = course.spans(load.period)
    middle = statistics.median(span.p99 for span in spans.values())
    most = max(spans.values(), key=lambda span: span.p99)
    judged = "reached" if most.p99 <= WITHIN * middle else "missed"
    title = f"{load.rate:g} puts/s for {load.minutes:g} minutes, to {load.keys:,} keys of 32 B with 256 B, from when each was due"
    rows = [
        (title, str(Span.of(took for _, took in course.done))),
        (
            "– snapshots, of all members together",
            f"{sum(map(len, course.snapshots.values()))}, one per {load.snapshot / MIB:g} MiB of log and member",
        ),
        ("– compactions", f"{len(course.compactions)}, each at {load.history / MIB:g} MiB of history"),
        (f"– 99th percentile of the middle one of {len(spans)} minutes", f"{middle:.2f} ms"),
        ("– of the worst minute", f"{most.p99:.2f} ms, × {most.p99 / middle:.2f}; at most × {WITHIN:g} is wanted: {judged}"),
    ]
    figures.rows[:0] = rows
    for number, span in spans.items():
        figures.add(f"minute {number + 1}", str(span))


def draw(course: Course, path: Path) -> bool:
    """Draw what puts took, second by second, with the snapshots and compactions; False: matplotlib is not installed."""
    try:
        from matplotlib.figure import Figure  # noqa: PLC0415  # optional
    except ImportError:
        return False
    spans = course.spans(1.0)
    picture = Figure(figsize=(12, 5), layout="constrained")
    axes = picture.add_subplot()
    for name in ("worst", "p99", "p50"):
        axes.plot([second / 60 for second in spans], [getattr(span, name) for span in spans.values()], linewidth=0.8, label=name)
    for number, (member, taken) in enumerate(sorted(course.snapshots.items())):
        for since, until in taken:
            axes.axvspan(since / 60, until / 60, color=f"C{number + 3}", alpha=0.3, label=_once(axes, f"snapshot of {member}"))
    for moment in course.compactions:
        axes.axvline(moment / 60, color="black", linestyle=":", label=_once(axes, "compaction"))
    axes.set(yscale="log", xlabel="minutes", ylabel="ms from when a put was due, by second", title="Puts at a fixed rate")
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_formatter("{x:g}")
    picture.legend(loc="outside lower center", ncols=7)
    picture.savefig(path, dpi=120)
    return True


def _once(axes: Any, label: str) -> str:
    """Return a label unless the legend has it already; one that begins so is not shown."""
    return f"_{label}" if label in axes.get_legend_handles_labels()[1] else label


def wanted(arguments: Sequence[str] | None = None) -> tuple[Load, Path, Path]:
    """Read the command line: what to do, where, and where the figures go."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.steady", description=__doc__)
    parser.add_argument("--minutes", type=float, default=MINUTES, help="for how long (default %(default)g)")
    parser.add_argument("--rate", type=float, default=RATE, help="puts per second (default %(default)g)")
    parser.add_argument("--keys", type=int, default=KEYS, help="how many there are (default %(default)s)")
    parser.add_argument("--period", type=float, default=PERIOD, help="seconds of a minute, for short runs (default %(default)g)")
    mib = Config().snapshot_bytes / MIB, Settings().compact_bytes / MIB
    parser.add_argument("--snapshot-mib", type=float, default=mib[0], help="of log between two snapshots at least (default %(default)g)")
    parser.add_argument("--history-mib", type=float, default=mib[1], help="that are kept at most (default %(default)g)")
    parser.add_argument("--workdir", type=Path, default=on_disk(), help="where the data directories go (default %(default)s)")
    where = "where the figures go; Markdown, and a PNG if matplotlib is installed, beside it"
    parser.add_argument("--json", type=Path, default=Path("bench-results/steady.json"), help=where)
    given = parser.parse_args(arguments)
    if min(given.minutes, given.rate, given.period, given.keys - 1, given.snapshot_mib, given.history_mib) <= 0:
        parser.error("all numbers must be above 0, and --keys at least 2")
    sizes = round(given.snapshot_mib * MIB), round(given.history_mib * MIB)
    return Load(given.minutes, given.rate, given.keys, given.period, *sizes), given.workdir, given.json


def main() -> int:
    """Measure, print, write."""
    load, base, path = wanted()
    end_on_sigterm()
    figures = Figures()
    course = run(base, load, figures)
    tell(course, load, figures)
    publish(figures, "benchmarks.steady", path)
    if not draw(course, path.with_suffix(".png")):
        say("no picture: matplotlib is not installed")
    return 0


if __name__ == "__main__":
    sys.exit(main())
