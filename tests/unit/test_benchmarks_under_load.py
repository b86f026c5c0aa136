"""The benchmarks of growth, of steady load and of busy hosts: what they make of what they see, and that they can be run."""

from __future__ import annotations

import re
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from benchmarks import busy, calls, collector, growth, steady
from benchmarks.calls import CALLER, Calls, Cost
from benchmarks.computing import Computing
from benchmarks.figures import Figures
from benchmarks.growth import Growth, Rates
from benchmarks.steady import Course, Load, Span


def seen(snapshots: int, compacted: int, *, taking: bool = False) -> dict[str, Any]:
    return {"snapshots": snapshots, "compacted": compacted, "taking": taking}


def test_a_snapshot_lasts_from_when_it_was_first_seen_until_it_is_there() -> None:
    course = Course()
    for now, said in enumerate((seen(3, 0), seen(4, 0, taking=True), seen(4, 0, taking=True), seen(4, 0), seen(4, 0), seen(5, 0))):
        course.note(float(now), "a", said)
    assert course.snapshots == {"a": [(1.0, 3.0), (5.0, 5.0)]}


def test_a_compaction_counts_once_whoever_does_it_first() -> None:
    course = Course()
    for now, member, compacted in (
        (0.0, "a", 5),
        (0.0, "b", 5),
        (1.0, "a", 9),
        (1.0, "b", 5),
        (2.0, "a", 9),
        (2.0, "b", 9),
        (3.0, "b", 12),
    ):
        course.note(now, member, seen(0, compacted))
    assert course.compactions == [1.0, 3.0]


def test_puts_count_in_the_minute_in_which_they_were_due() -> None:
    course = Course([(0.0, 0.002), (59.9, 30.0), (60.0, 0.001)])
    assert course.spans(60.0) == {0: Span(30_000.0, 30_000.0, 30_000.0, 2), 1: Span(1.0, 1.0, 1.0, 1)}


@pytest.mark.parametrize(
    ("worst", "judged"), [(0.002, "× 2.00; at most × 2 is wanted: reached"), (0.0021, "at most × 2 is wanted: missed")]
)
def test_each_minute_is_held_against_the_middle_one(worst: float, judged: str) -> None:
    course = Course([(float(second), worst if second >= 120 else 0.001) for second in range(180)])
    figures = Figures()
    steady.tell(course, Load(minutes=3, rate=1), figures)
    told = dict(figures.rows)
    assert told["– of the worst minute"].endswith(judged)
    assert told["minute 2"] == "p50 1.00 ms, p99 1.00 ms, at most 1 ms (60 puts)"


def test_puts_that_failed_or_were_never_made_are_no_measurement() -> None:
    made = [(float(second), 0.001) for second in range(60)]
    with pytest.raises(RuntimeError, match="1 puts failed, such as .*NoLeader"):
        steady.tell(Course(made, failures=["NoLeader()"]), Load(minutes=1, rate=1), Figures())
    with pytest.raises(RuntimeError, match="30 are missing"):
        steady.tell(Course(made[:30]), Load(minutes=1, rate=1), Figures())


def test_a_load_is_described_in_full() -> None:
    load, _, path = steady.wanted(["--minutes", "2", "--rate", "50", "--snapshot-mib", "0.5"])
    assert (load.seconds, load.rate, load.snapshot, load.history) == (120.0, 50.0, 1 << 19, 256 << 20)
    assert path.name == "steady.json"
    with pytest.raises(SystemExit):
        steady.wanted(["--minutes", "0"])


def test_growth_compares_each_round_with_the_one_beside_it() -> None:
    figures = Figures()
    slow_at_last = Rates([100.0, 100.0, 50.0], [1.0, 1.0, 2.0]), Rates([90.0, 95.0, 45.0], [2.0, 2.0, 2.0])
    growth.compare(figures, ["without", "with"], slow_at_last, 0.9)
    assert figures.rows[0] == ("put, 512 in flight: without", "100 puts/s (50 to 100), 1.0 µs of CPU each, all members together")
    assert figures.rows[-1][1] == "90% of the rate; 90% are wanted: reached"


def test_calls_stand_in_a_table_beside_those_whose_they_are() -> None:
    page = calls.as_markdown([Cost("put", 10, {CALLER: Calls({"f": 1_234, "g": 50}), "follower": Calls()})])
    assert page.splitlines()[-1] == "| put | 128.4 |  | 0.0 |  |"


def test_threads_compute_until_there_are_to_be_others() -> None:
    computing = Computing()
    computing.have(2)
    before = list(computing._threads)
    computing.have(0)
    assert [thread.is_alive() for thread in before] == [False, False]


def test_puts_at_a_steady_rate_are_all_made_and_answered(tmp_path: Path) -> None:
    figures, load = Figures(), Load(minutes=1 / 60, rate=100.0, keys=50, period=0.5)
    steady.tell(steady.run(tmp_path, load, figures), load, figures)
    assert figures.rows[0][1].endswith("(100 puts)")


@pytest.mark.parametrize("kind", growth.KINDS)
def test_puts_with_and_without_much_are_compared(kind: str, tmp_path: Path) -> None:
    figures = Figures()
    growth.KINDS[kind](Growth(tmp_path, 0.001, 1, 0.2, figures))
    assert [title for title, _ in figures.rows][-1] == "– the second by the first, the middle of the rounds"


def test_members_are_quiet_when_they_have_nothing_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Puts to few keys were measured while the members with many still wrote their snapshots."""
    with ExitStack() as stack:
        peer = Growth(tmp_path, 1.0, 1, 1.0, Figures())._started(stack)
        growth.until_quiet(peer)
        monkeypatch.setattr(growth, "QUIET", -1.0)
        monkeypatch.setattr(growth, "PATIENCE", 0.5)
        with pytest.raises(TimeoutError, match="after the last call"):
            growth.until_quiet(peer)


def test_the_part_of_the_garbage_collector_is_told() -> None:
    puts, collecting = collector.measure(100, 2_000)
    assert puts.startswith("| puts to 100 keys, 512 in flight |")
    assert re.search(r"\| \d+% of that time: \d+ of generation 0, \d+\.\d ms each", collecting)


def test_busy_members_are_compared_with_calm_ones(tmp_path: Path) -> None:
    figures = Figures()
    busy.measure(tmp_path, 1, 1, 0.05, figures)
    told = [title for title, _ in figures.rows]
    assert told[0] == "nothing computes: put, one after the other"
    assert told[2] == "1 thread computing in each of the three processes: put, one after the other"
