"""The history of a store: a list that grows at its end, is read by any thread, and is cut at its beginning without a pause.

It consists of runs of 4,096 records.  Who cuts it makes a new one that shares the runs: what was begun on the old one goes on there.

A full run is a tuple.  CPython's garbage collector forgets a tuple that holds only what it has forgotten, as records are.  Of a list it
visits every element whenever it collects everything, and puts wait meanwhile.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar, overload

T = TypeVar("T")

RUN = 4096
"""Records of a run: so many are let go of at once."""


class History(Sequence[T], Generic[T]):
    """Records in the order of their revisions; one thread writes, and readers keep to the part that is settled.

    Args:
        revision_of: tells a record's revision.

    Attributes:
        written: how many records there are, counted from the beginning of the first run.
        settled: how many of them will not be taken back.
    """

    __slots__ = ("_first", "_last", "_revision_of", "_run", "_runs", "settled", "written")

    def __init__(self, revision_of: Callable[[T], int]) -> None:
        self._revision_of = revision_of
        self._run = RUN
        self._last: list[T] = []  # the run that is written
        self._runs: list[Sequence[T]] = [self._last]  # full ones, ``_last``, and, after something was taken back, perhaps an empty one
        self._first = 0  # where in the first run the history begins
        self.written = 0
        self.settled = 0

    # -- writing, on one thread ----------------------------------------------------------------------------------------------------

    def append(self, record: T) -> None:
        """Add a record, which may yet be taken back."""
        last = self._last
        if len(last) == self._run:
            at = self.written // self._run
            self._runs[at - 1] = tuple(last)
            del self._runs[at:]
            self._runs.append(last := [])
            self._last = last
        last.append(record)
        self.written += 1

    def extend(self, records: list[T]) -> None:
        """Add records, which may yet be taken back."""
        if len(self._last) + len(records) <= self._run:
            self._last += records
            self.written += len(records)
        else:
            for record in records:
                self.append(record)

    def pop(self) -> T:
        """Take the last record back."""
        self.written -= 1
        if not self._last:
            at = self.written // self._run
            self._runs[at] = self._last = list(self._runs[at])
        return self._last.pop()

    def without(self, count: int) -> tuple[History[T], list[Sequence[T]]]:
        """Return the history without its first records, and the runs that only those were in, to let go of one by one."""
        first = self._first + count
        runs = first // self._run
        gone = runs * self._run
        rest: History[T] = History(self._revision_of)
        rest._run = self._run
        if gone < self.written:
            rest._runs, rest._last = self._runs[runs:], self._last
        rest._first, rest.written, rest.settled = first - gone, self.written - gone, self.settled - gone
        return rest, self._runs[:runs]

    # -- reading, on any thread ----------------------------------------------------------------------------------------------------

    def __len__(self) -> int:
        return self.written - self._first

    @overload
    def __getitem__(self, place: int) -> T: ...
    @overload
    def __getitem__(self, place: slice) -> list[T]: ...
    def __getitem__(self, place: int | slice) -> T | list[T]:
        length = len(self)
        if isinstance(place, slice):
            start, stop, step = place.indices(length)
            if step != 1:
                return [self[at] for at in range(start, stop, step)]
            return self._between(start + self._first, stop + self._first)
        if not -length <= place < length:
            raise IndexError(place)
        run, at = divmod(self._first + place % length, self._run)
        return self._runs[run][at]

    def _between(self, start: int, stop: int) -> list[T]:
        found: list[T] = []
        while start < stop:
            run, at = divmod(start, self._run)
            found += self._runs[run][at : at + stop - start]
            start += self._run - at
        return found

    def first_at(self, revision: int) -> int:
        """Return the place of the first settled record of a revision or a later one; logarithmic, and quick for one of the newest."""
        low, high = self._first, self.settled
        newest = max(low, (high - 1) // self._run * self._run)  # from here on all that is settled is in one run
        if newest < high:
            run, at = divmod(newest, self._run)
            if newest == low or self._revision_of(self._runs[run][at]) < revision:
                return run * self._run - low + bisect_left(self._runs[run], revision, at, high - run * self._run, key=self._revision_of)
        while low < high:
            middle = (low + high) // 2
            run, at = divmod(middle, self._run)
            if self._revision_of(self._runs[run][at]) < revision:
                low = middle + 1
            else:
                high = middle
        return low - self._first

    def since(self, revision: int) -> range:
        """Return the places of all settled records of a revision or later ones."""
        return range(self.first_at(revision), self.settled - self._first)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and list(self) == list(other)

    __hash__ = None  # type: ignore[assignment]  # it changes

    def __repr__(self) -> str:
        return f"<History of {len(self)} records>"
