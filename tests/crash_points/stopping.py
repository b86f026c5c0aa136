"""Where a life may end, and everything that its disk may look like afterwards.

A life ends before any change to the disk, because power is lost or the process is killed; or in any sync, because it fails.  What was not
synced then survives in any part and any order, a sector of 512 bytes as a whole or not at all; when the parts are too many to try them all,
those that real disks like to leave come first: a beginning, whole pages of 4 KiB, all but one sector, a single sector.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from enum import Enum
from itertools import chain, islice, product
from typing import TypeVar

from attrs import define, frozen

from replkv.codec import pack
from replkv.disk import TEMPORARY
from replkv.errors import StorageError
from replkv.testing.disk import SimDisk, SimulatedCrash, _Content
from replkv.testing.sim import nothing

PAGE = 4096
PAGES_MAX = 6
"""Pages in all of whose parts pages are tried as units; of more, samples do."""

T = TypeVar("T")


class End(Enum):
    """How a life ends.  The last three are what file systems make of pages that a failed sync did not write (Rebello et al., ATC 2020)."""

    POWER = "power lost"
    KILL = "process killed"
    KEPT = "sync failed, pages kept and called clean"
    REVERTED = "sync failed, pages read anew from the disk"
    DIRTY = "sync failed once, pages still dirty"


DIRECTORY = -1
FAILURES = (End.KEPT, End.REVERTED, End.DIRTY)


@frozen
class Stop:
    """How a life ends, and after how many changes of the disk; after how many syncs where one of them fails."""

    end: End
    at: int


@frozen
class Stopped:
    """A disk at the moment when the life on it ended.  ``failed``: the place among its files of the one whose sync failed, or DIRECTORY."""

    end: End
    disk: SimDisk
    failed: int | None = None


@define
class Tally:
    """What was tried: changes of disks at which lives ended, parts of what was not synced, and recoveries from what differed."""

    operations: int = 0
    subsets: int = 0
    recoveries: int = 0

    def __str__(self) -> str:
        return f"{self.operations:7,} operations {self.subsets:9,} subsets {self.recoveries:7,} recoveries"

    def add(self, other: Tally) -> None:
        """Count what was tried elsewhere, too."""
        self.operations += other.operations
        self.subsets += other.subsets
        self.recoveries += other.recoveries


class StoppingDisk(SimDisk):
    """A disk that stops at one chosen point, counted over all lives that it sees.  Otherwise it forgets whatever is not synced.

    Args:
        stop: that point; None for a rehearsal.
        like: what it looks like at first; empty by default.
        heir: what it looks like after the stop; by default one of all that is possible.
        told: called when it stops, or is full although nothing is on it.
        full_from: after so many changes it has no more room; None: it always has.
    """

    def __init__(
        self,
        stop: Stop | None = None,
        like: SimDisk | None = None,
        heir: SimDisk | None = None,
        told: Callable[[], None] = nothing,
        full_from: int | None = None,
    ) -> None:
        super().__init__(random.Random(0))
        self.stop = stop
        self.told = told
        self.full_from = full_from
        self.stopped: Stopped | None = None
        self.syncs = 0
        self._heir = heir
        self._inherited = False
        self.become(like or SimDisk(self.rng))

    def become(self, other: SimDisk) -> None:
        """Look like another disk from now on, what it has not synced included."""
        twin = other.copy()
        self.seen, self.platter, self.waiting = twin.seen, twin.platter, twin.waiting

    def crash(self, *, power: bool = True, keep: Sequence[bool] | None = None) -> None:
        super().crash(power=power, keep=[False] * self.unsynced if keep is None else keep)
        if self.stopped is not None and not self._inherited:
            self._inherited = True
            self.become(self._heir or next(outcomes(self.stopped, 1, Tally())))

    def count_change(self) -> None:
        if (end := self._due(self.changes, failing=False)) is not None:
            self._stop(end)
            raise SimulatedCrash
        if self.full_from is not None and self.changes >= self.full_from:
            self.capacity = sum(len(content.seen) for content in self.seen.values())
            if not self.platter:
                self.told()
        super().count_change()

    def sync_content(self, content: _Content) -> None:
        if (end := self._due_in_sync()) is not None:
            self._stop(end, next(place for place, other in enumerate(self._contents()) if other is content))
            raise OSError("simulated: the disk did not take it")
        super().sync_content(content)

    def sync_directory(self) -> None:
        if self.door is not None and (end := self._due_in_sync()) is not None:  # without a door it is the end of a life that calls
            self._stop(end, DIRECTORY)
            self.door.failure = StorageError("simulated: the disk did not take the directory")
            raise self.door.failure
        super().sync_directory()

    def stop_at_last(self) -> None:
        """Stop now, behind everything that was to be done."""
        assert self.stop is not None and self.stop.end not in FAILURES
        self._stop(self.stop.end)

    def _due_in_sync(self) -> End | None:
        self.syncs += 1
        return self._due(self.syncs - 1, failing=True)

    def _due(self, at: int, *, failing: bool) -> End | None:
        stop = self.stop
        return stop.end if stop is not None and stop.at == at and (stop.end in FAILURES) == failing else None

    def _stop(self, end: End, failed: int | None = None) -> None:
        left = self.copy()
        for content in left._contents():
            content.waiting = _without_idle(content)
        self.stop, self.stopped = None, Stopped(end, left, failed)
        self.told()


def stops(rehearsal: StoppingDisk) -> Iterator[Stop]:
    """Yield every stop on the way that was rehearsed, and those right behind its end."""
    for at in range(rehearsal.changes + 1):
        yield Stop(End.POWER, at)
        yield Stop(End.KILL, at)
    for at in range(rehearsal.syncs):
        for end in FAILURES:
            yield Stop(end, at)


def sample(points: Iterable[T], count: int | None) -> list[T]:
    """Choose so many points, always the same; None: all of them."""
    points = list(points)
    return points if count is None or count >= len(points) else random.Random(len(points)).sample(points, count)


def stopped(disk: StoppingDisk) -> Stopped:
    """Return how a disk stopped; where the stop lay behind the last change, everything was done and then the life ended."""
    if disk.stopped is None:
        disk.stop_at_last()
    assert disk.stopped is not None
    return disk.stopped


def outcomes(left: Stopped, limit: int, tally: Tally) -> Iterator[SimDisk]:
    """Yield what a disk may look like when the next life begins on it; what looks the same, once.

    Args:
        left: the disk when it stopped.
        limit: how many parts of what was not synced are tried at most.
        tally: counts them.
    """
    found: set[bytes] = set()
    for disk in _survivors(left, limit):
        tally.subsets += 1
        if (look := fingerprint(disk)) not in found:
            found.add(look)
            yield disk


def fingerprint(disk: SimDisk) -> bytes:
    """Return a hash that is equal for disks that look the same, in the cache and on the platter, but for what is in temporary files."""
    numbers: dict[int, int] = {}
    contents: list[tuple[bytes, bytes, list[tuple[int, bytes]]] | None] = []
    links = [*sorted(disk.platter.items()), *sorted(disk.seen.items()), *((new, content) for _, new, content in disk.waiting)]
    for _, content in links:
        if numbers.setdefault(id(content), len(numbers)) == len(contents):
            unfinished = all(name.endswith(TEMPORARY) for name, other in links if name is not None and other is content)
            contents.append(None if unfinished else (bytes(content.seen), bytes(content.platter), content.waiting))
    names = [(name, numbers[id(content)]) for name, content in links]
    return hashlib.sha256(pack((contents, names, len(disk.platter), [old for old, _, _ in disk.waiting]))).digest()


def _without_idle(content: _Content) -> list[tuple[int, bytes]]:
    """Leave out writes that change nothing whether they survive or not: recovery likes to write again what is there."""
    last: dict[int, bytes] = {}
    kept = []
    for offset, data in content.waiting:
        if last.get(offset, bytes(content.platter[offset : offset + len(data)])) != data:
            kept.append((offset, data))
        last[offset] = data
    return kept


# -- what survives ------------------------------------------------------------------------------------------------------------------------


def _survivors(left: Stopped, limit: int) -> Iterator[SimDisk]:
    if left.end is End.KILL:
        yield left.disk.copy()
    elif left.end is End.POWER:
        for keep in legal_parts(_pages(left.disk), limit):
            disk = left.disk.copy()
            disk.crash(keep=keep)
            yield disk
    elif left.failed == DIRECTORY:
        yield from _after_a_failed_sync_of_the_directory(left, limit)
    elif left.failed is not None:
        yield from _after_a_failed_sync(left, left.failed, limit)


def _after_a_failed_sync(left: Stopped, failed: int, limit: int) -> Iterator[SimDisk]:
    waiting = left.disk._contents()[failed].waiting
    for keep in legal_parts([offset // PAGE for offset, _ in waiting], limit):
        disk = left.disk.copy()
        content = disk._contents()[failed]
        content.waiting = [piece for piece, reached in zip(waiting, keep, strict=True) if reached]
        content.sync()
        if left.end is End.REVERTED:
            content.seen = bytearray(content.platter)
        elif left.end is End.DIRTY:
            content.waiting = list(waiting)
        yield disk


def _after_a_failed_sync_of_the_directory(left: Stopped, limit: int) -> Iterator[SimDisk]:
    """Directories are journaled: none is shown, after a failure, as it can never become durable."""
    for keep in legal_parts(range(len(left.disk.waiting)), limit):
        disk = left.disk.copy()
        waiting = list(disk.waiting)
        disk.waiting = [link for link, reached in zip(waiting, keep, strict=True) if reached]
        disk.sync_directory()
        if left.end is End.DIRTY:
            disk.waiting = waiting
        else:
            disk.seen = dict(disk.platter)
        yield disk


def _pages(disk: SimDisk) -> list[object]:
    """Name, for everything that is not synced, the page it belongs to; a change of the directory is one by itself."""
    sectors: list[object] = [(place, offset // PAGE) for place, content in enumerate(disk._contents()) for offset, _ in content.waiting]
    return sectors + list(range(len(disk.waiting)))


def legal_parts(pages: Sequence[object], limit: int) -> Iterator[list[bool]]:
    """Yield the parts of so many pieces that may survive; all of them, or the ``limit`` most telling ones.

    Args:
        pages: the page of each piece.
        limit: how many parts to yield at most.
    """
    count = len(pages)
    if 1 << count <= limit:
        return map(list, product((False, True), repeat=count))
    return map(list, islice(_once(chain(_telling_parts(pages), _drawn_parts(count))), limit))


def _once(parts: Iterator[list[bool]]) -> Iterator[tuple[bool, ...]]:
    known: set[tuple[bool, ...]] = set()
    for part in map(tuple, parts):
        if part not in known:
            known.add(part)
            yield part


def _telling_parts(pages: Sequence[object]) -> Iterator[list[bool]]:
    count = len(pages)
    yield [False] * count
    yield [True] * count
    different = list(dict.fromkeys(pages))
    if len(different) <= PAGES_MAX:
        for choice in product((False, True), repeat=len(different)):
            written = dict(zip(different, choice, strict=True))
            yield [written[page] for page in pages]
    for place in range(count):
        yield [number < place for number in range(count)]
        yield [number != place for number in range(count)]
        yield [number == place for number in range(count)]


def _drawn_parts(count: int) -> Iterator[list[bool]]:
    rng = random.Random(count)
    while True:
        share = rng.random()
        yield [rng.random() < share for _ in range(count)]
