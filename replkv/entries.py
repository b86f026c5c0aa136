"""The entries of a log in memory: the newest as they are, the others packed.

A leader keeps a hundred thousand entries for those who are behind, and mostly nobody asks for them.  CPython's garbage collector visits
every entry whenever it collects everything, and puts wait meanwhile; of tuples of bytes it knows nothing any more.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from attrs import define, field

from replkv import codec

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from replkv.messages import Entry

RUN = 4096
"""Entries that are packed in one go, and that are left as they are at least: what one Append brings is still to be saved and applied."""


@define(eq=False, repr=False)
class Entries:
    """Entries in a row; more come and go at the end, and the first ones are forgotten."""

    _run: int = field(factory=lambda: RUN, init=False)  # looked up when it is made: tests set it
    _packed: list[tuple[bytes, ...]] = field(factory=list, init=False)  # runs of ``RUN`` entries
    _newest: list[Entry] = field(factory=list, init=False)  # what follows them
    _first: int = field(default=0, init=False)  # how many at the beginning of the first run are forgotten, and blank

    # -- changes -------------------------------------------------------------------------------------------------------------------

    def extend(self, entries: Iterable[Entry]) -> None:
        """Append entries."""
        newest, run = self._newest, self._run
        newest += entries
        if len(newest) >= 2 * run:
            count = (len(newest) // run - 1) * run
            self._packed += (tuple(entry.encoded for entry in newest[at : at + run]) for at in range(0, count, run))
            del newest[:count]

    def cut(self, count: int) -> None:
        """Keep the first ``count`` entries only.  O(1) where the rest is among the newest; else a run of entries is read again."""
        run, rest = divmod(self._first + count, self._run)
        if run >= len(self._packed):
            del self._newest[self._first + count - len(self._packed) * self._run :]
            return
        blank = 0 if run else self._first
        self._newest = [codec.decode_entry(data) for data in self._packed[run][blank:rest]]
        self._first -= blank
        del self._packed[run:]

    def forget(self, count: int) -> None:
        """Drop the first ``count`` entries.  O(runs)."""
        self._first += count
        runs = min(self._first // self._run, len(self._packed))
        del self._packed[:runs]
        self._first -= runs * self._run
        if not self._packed:
            del self._newest[: self._first]
            self._first = 0
        elif self._first:
            self._packed[0] = (b"",) * self._first + self._packed[0][self._first :]

    # -- questions -----------------------------------------------------------------------------------------------------------------

    def __len__(self) -> int:
        return len(self._packed) * self._run + len(self._newest) - self._first

    def __getitem__(self, place: int) -> Entry:
        at = self._first + place
        newest = at - len(self._packed) * self._run
        if newest >= 0:
            return self._newest[newest]
        run, at = divmod(at, self._run)
        return codec.decode_entry(self._packed[run][at])

    @property
    def last(self) -> Entry | None:
        """The newest entry, None if there is none."""
        return self[len(self) - 1] if len(self) else None

    def since(self, place: int) -> Iterator[Entry]:
        """Yield the entries from a place on; nothing may change meanwhile."""
        at = self._first + place
        newest = at - len(self._packed) * self._run
        if newest < 0:
            run, at = divmod(at, self._run)
            yield from map(codec.decode_entry, self._packed[run][at:])
            for packed in self._packed[run + 1 :]:
                yield from map(codec.decode_entry, packed)
        yield from self._newest[max(0, newest) :]
