"""Reader-writer locks: many readers or one writer, in the order in which they asked."""

from __future__ import annotations

from typing import Any

from replkv.leasing import AsyncLease, Lease
from replkv.recipes import lifelines
from replkv.recipes.base import Recipe, named, place_of
from replkv.recipes.holding import AwaitingHolder, BlockingHolder
from replkv.recipes.line import Line
from replkv.recipes.lock import LineHolder
from replkv.surface import Awaiting, Blocking, Surface
from replkv.values import Data, to_ttl


class _RWLock(Recipe):
    """A reader-writer lock of the whole cluster: ``read()`` is shared with other readers, ``write()`` with nobody.

    Both return an object that is used as a lock is, with a fence, a guard and a loss of its own; each call makes another one, to be held
    once at a time.  What a lock promises and can't promise holds for them as well.

    It is fair: all stand in one line.  A reader waits for the writers before it, a writer for everybody before it, so that nobody
    starves; a reader that comes behind a waiting writer waits for that.  Who leaves wakes those whom it lets go on: readers watch the
    nearest writer before them, a writer the nearest place before it.  There is no way from one to the other: to write what one has
    read, release the reader, hold the writer, and read again.

    Args:
        surface: where.
        name: bytes or text.
        ttl: seconds for which what is held outlives its holder, from ``Settings.min_ttl`` to ten years.
        lease: a lease to hang on, whose loss is that of what is held; None: each has one of its own.

    Raises:
        TypeError, ValueError: a bad argument.
    """

    def __init__(self, surface: Surface[Any, Any], name: Data, *, ttl: float = 10.0, lease: Lease | AsyncLease | None = None) -> None:
        super().__init__(surface)
        to_ttl(ttl)
        self._place = place_of("rwlock", name)
        self._name = named("rwlock", name)
        self._ttl = ttl
        self._lifeline = None if lease is None else lifelines.of(lease)

    def _reader(self) -> tuple[str, Line]:
        return self._side("reader", b"read/", b"write/")

    def _writer(self) -> tuple[str, Line]:
        return self._side("writer", b"write/", b"")

    def _side(self, what: str, mine: bytes, behind: bytes) -> tuple[str, Line]:
        """Return the name of a side, and the line of those that stand on it behind others."""
        what = f"{self._name} ({what})"
        return what, Line(self._calls, what, (self._place + mine,), self._ttl, self._lifeline, (self._place + behind,))

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._name.removeprefix('rwlock ')}>"


class _Side(LineHolder):
    """One side of a reader-writer lock, to be used as a lock is; made with ``read()`` and ``write()``."""

    def __init__(self, surface: Surface[Any, Any], what: str, line: Line) -> None:
        super().__init__(surface, what)
        self._line = line


class RWLockSide(_Side, BlockingHolder):
    """One side of a reader-writer lock, for threads; see ``_Side``."""


class AsyncRWLockSide(_Side, AwaitingHolder):
    """One side of a reader-writer lock, for asyncio; see ``_Side``."""


class RWLock(_RWLock, Blocking):
    """A reader-writer lock, for threads; see ``_RWLock``."""

    def read(self) -> RWLockSide:
        """Return what is held together with other readers."""
        return RWLockSide(self._surface, *self._reader())

    def write(self) -> RWLockSide:
        """Return what is held alone."""
        return RWLockSide(self._surface, *self._writer())


class AsyncRWLock(_RWLock, Awaiting):
    """A reader-writer lock, for asyncio; see ``_RWLock``."""

    def read(self) -> AsyncRWLockSide:
        """Return what is held together with other readers."""
        return AsyncRWLockSide(self._surface, *self._reader())

    def write(self) -> AsyncRWLockSide:
        """Return what is held alone."""
        return AsyncRWLockSide(self._surface, *self._writer())
