"""Everything a member does with its log, as short stories; each begins on an empty disk."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from log_life import SEGMENT, LogLife, entries, entry

LogProtocol: TypeAlias = Callable[[LogLife], None]


def bootstrapping(life: LogLife) -> None:
    life.start()
    life.prepare()


def founding(life: LogLife) -> None:
    life.begin()
    life.prepare()


def voting(life: LogLife) -> None:
    life.begin()
    life.vote(2, "a")
    life.vote(3, "b")


def appending(life: LogLife) -> None:
    life.begin()
    life.put(1, *entries(2, 4))
    life.put(2, entry(5, 2, 1200))


def truncating(life: LogLife) -> None:
    life.begin()
    life.put(1, *entries(2, 6))
    life.put(3, *entries(4, 5, 3))
    life.put(3, entry(6, 3))
    life.put(4, entry(3, 4, 900))


def truncating_across_segments(life: LogLife) -> None:
    life.begin()
    for index in range(2, 9):
        life.put(1, entry(index, 1, 1000))
    life.put(2, entry(3, 2))
    life.prepare()
    life.put(2, *entries(4, 5, 2, 1000))
    life.put(3, entry(4, 3))


def rolling(life: LogLife) -> None:
    life.begin()
    life.prepare()
    for index in range(2, 8):
        life.put(1, entry(index, 1, 1000))
        if index % 2:
            life.prepare()


def outgrowing(life: LogLife) -> None:
    """A flush larger than the segment that was prepared."""
    life.begin()
    life.prepare()
    life.put(1, entry(2, 1, SEGMENT))
    life.put(1, entry(3))


def snapshotting(life: LogLife) -> None:
    life.begin()
    life.put(1, *entries(2, 4))
    life.take_snapshot(3)
    life.put(1, entry(5))


def snapshotting_twice(life: LogLife) -> None:
    """The file of the first snapshot is still there when the second is taken."""
    life.begin()
    life.put(1, *entries(2, 4))
    life.take_snapshot(2)
    life.take_snapshot(4)
    life.prepare()


def trimming(life: LogLife) -> None:
    life.begin()
    for index in range(2, 9):
        life.put(1, entry(index, 1, 1000))
    life.take_snapshot(7, keep=1)
    life.prepare()
    life.put(1, entry(9))
    life.take_snapshot(8)
    life.prepare()
    life.put(2, entry(10, 2))


def removing(life: LogLife) -> None:
    """Many files go at once, and any of them may come back."""
    life.begin()
    life.take_snapshot(1, keep=1)
    for index in range(2, 10):
        life.put(1, entry(index, 1, 1500))
    life.take_snapshot(9)
    life.prepare()
    life.put(1, entry(10))


def installing(life: LogLife) -> None:
    life.begin()
    for index in range(2, 5):
        life.put(1, entry(index, 1, 1000))
    life.take_snapshot(1)
    life.install_snapshot(20, 5)
    life.prepare()
    life.put(6, entry(21, 6))
    life.take_snapshot(21)
    life.prepare()


def installing_over_what_conflicts(life: LogLife) -> None:
    """The log goes on behind the snapshot's place, with entries that the leader does not know."""
    life.begin()
    life.put(2, *entries(2, 9, 2))
    life.install_snapshot(5, 7)
    life.put(7, entry(6, 7))


def closing(life: LogLife) -> None:
    """A life that ends as it should, and another one."""
    life.begin()
    life.put(1, *entries(2, 3))
    life.append(1, entry(4))  # noted and not synced: it may be lost
    life.close()
    life.start()
    life.prepare()
    life.put(2, entry(len(life.noted.entries) + 1, 2))
    life.close()


LOG_PROTOCOLS: tuple[LogProtocol, ...] = (
    bootstrapping,
    founding,
    voting,
    appending,
    truncating,
    truncating_across_segments,
    rolling,
    outgrowing,
    snapshotting,
    snapshotting_twice,
    trimming,
    removing,
    installing,
    installing_over_what_conflicts,
    closing,
)
