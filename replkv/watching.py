"""``Watch`` and ``AsyncWatch``: a watch as its consumer holds it, for threads and for asyncio.

What comes next is decided in one place, ``_Watching._look``, in bounded steps that never wait.  The two classes differ in how they wait
when it finds nothing: on a lock, or on a future of their loop.
"""

from __future__ import annotations

import asyncio
import threading
import weakref
from collections import deque
from collections.abc import AsyncIterator, Generator, Iterable, Iterator
from contextlib import suppress
from enum import Enum
from types import TracebackType
from typing import TYPE_CHECKING, Final, Literal, Protocol, Self, TypeAlias, get_args

from replkv import fork
from replkv.errors import Closed, Compacted, ReplkvError
from replkv.values import Event, EventKind, Progress, Synced, to_count, to_seconds, to_timeout
from replkv.waiting import acquire, loop_inbox
from replkv.watch import Cursor, Place, check_kept, to_event

if TYPE_CHECKING:
    from replkv.kv import Record, Store
    from replkv.node import Node
    from replkv.values import Span
    from replkv.waiting import Inbox

Watched: TypeAlias = Event | Synced | Progress
"""What a watch yields; ``Synced`` and ``Progress`` only to those who asked for them."""

KINDS: Final[tuple[EventKind, ...]] = get_args(EventKind)


class _Found(Enum):
    MORE = "there is more to read before something can be yielded"


_MORE: Final = _Found.MORE
_Look: TypeAlias = tuple[Watched, ...] | Literal[_Found.MORE] | None


class _Bell(Protocol):
    """Is called to ring."""

    def __call__(self) -> None:
        """Have the consumer look once more; any thread, without waiting, also when nobody listens."""


class _Watching:
    """What both kinds of watch are.

    Args:
        node: the member.
        span: the keys.
        start_revision: the first revision whose events are wanted, old or yet to come; None: the next one.
        initial: yield the present state first.
        prev_kv: tell what each event replaced.
        kinds: "put", "delete" or both.
        progress: yield a mark when nothing came for a while.
        progress_interval: how long, in seconds.
        prefix: of the namespace; left out at the front of keys.

    Raises:
        TypeError, ValueError: an argument is wrong.
    """

    def __init__(
        self,
        node: Node,
        span: Span,
        *,
        start_revision: int | None = None,
        initial: bool = False,
        prev_kv: bool = False,
        kinds: Iterable[EventKind] = KINDS,
        progress: bool = False,
        progress_interval: float = 60.0,
        prefix: bytes = b"",
    ) -> None:
        fork.ensure_not_forked()
        wanted = _checked_kinds(kinds)
        self._interval = to_seconds(progress_interval, "progress_interval") if _flag(progress, "progress") else None
        self._initial = _flag(initial, "initial")
        if self._initial and "put" not in wanted:
            raise ValueError('initial=True yields the present state as puts: kinds= must have "put"')
        if self._initial and start_revision is not None:
            raise ValueError("give initial=True or start_revision=, not both: the present state is followed by what comes behind it")
        published = node.published.revision
        start = published + 1 if start_revision is None else _checked_start(start_revision)
        self._node = node
        self._bell = self._make_bell()
        self._cursor = Cursor(span, Place(start), self._bell, "put" in wanted, "delete" in wanted, _flag(prev_kv, "prev_kv"), len(prefix))
        self._cursor.synced = start > published
        self._next = 0 if self._initial else start  # ``revision``, unless the cursor has passed it
        self._state: Generator[list[Record], None, None] | None = None
        self._store: Store | None = None  # that of the present state, while it is read
        self._read: deque[Event] = deque()  # and not yet yielded: what one step brought
        self._marks_from = published if start_revision is None else start
        self._asked: object = None  # who asked last for a mark
        self._answered: object = None
        self._quiet_since = node.clock()
        self._over: ReplkvError | None = None

    def _make_bell(self) -> _Bell:
        raise NotImplementedError

    def _leave(self) -> None:
        self._node.hub.leave(self._cursor)

    def __del__(self) -> None:
        if hasattr(self, "_cursor"):  # or an argument was wrong
            self._leave()

    @property
    def revision(self) -> int:
        """The ``start_revision`` of a watch, on any member, that goes on exactly behind what this one has yielded.

        A revision that is yielded in part is still to come.  While the present state is being yielded it is 0, which no watch begins at:
        then only ``initial=True`` is right again.
        """
        fork.ensure_not_forked()  # the hub's lock may have been held when the process was forked
        return max(self._next, self._node.hub.reached(self._cursor))

    def __repr__(self) -> str:
        return f"<{type(self).__name__} on {self._node.name} of {self._cursor.span}: {self._over or f'next revision {self._next}'}>"

    # -- what comes next -----------------------------------------------------------------------------------------------------------

    def _look(self, *, whole: bool) -> _Look:
        """Take one bounded step; one caller at a time.

        Args:
            whole: all events of a revision are wanted, not the next one of them.

        Returns:
            What to yield; ``_MORE``: look again; None: nothing is there, and the bell rings when that may have changed.

        Raises:
            ReplkvError: the watch is over.
        """
        if self._over is not None:
            raise self._over.again()
        if self._read and not (whole and self._split):
            return self._take(whole=whole)
        try:
            return self._read_state() if self._initial else self._read_on()
        except Compacted as error:
            self._over = error
            raise

    @property
    def _split(self) -> bool:
        """Whether what was read ends amid a revision of which nothing has been yielded as a whole."""
        return not self._initial and self._cursor.place.passed > 0 and self._read[0].revision == self._cursor.place.revision

    def _take(self, *, whole: bool) -> tuple[Event, ...]:
        read = self._read
        events = [read.popleft()]
        while whole and read and (self._initial or read[0].revision == events[0].revision):
            events.append(read.popleft())
        if not self._initial:
            self._next = read[0].revision if read else self._cursor.place.revision
        self._yielded()
        return tuple(events)

    def _yielded(self) -> None:
        if self._interval is not None:
            self._quiet_since = self._node.clock()

    def _read_state(self) -> _Look:
        """Read on in the present state, which is that of the revision published when this began."""
        if self._state is None or self._store is None:
            published = self._node.published
            self._store = published.machine.store
            self._cursor.place = Place(published.revision + 1)
            self._state = self._store.slices(self._cursor.span, published.revision)
        at = self._cursor.place.revision - 1
        records = next(self._state, None)
        check_kept(self._store, at, prev_kv=False)  # afterwards: only now is it sure that nothing was missing
        if records is not None:
            self._read.extend(to_event(record, None, self._cursor.cut) for record in records)
            return _MORE
        self._initial, self._state, self._store = False, None, None
        self._next, self._marks_from = at + 1, at
        self._yielded()
        return (Synced(at),)

    def _read_on(self) -> _Look:
        """Read on in the history, up to what is published."""
        hub, cursor = self._node.hub, self._cursor
        hub.disarm(cursor)
        # Before looking at what is published: who asked by now, and the end, come behind all of that.
        ended, asked = hub.ended, self._asked
        published = self._node.published
        events, caught_up = cursor.read(published.machine.store, published.revision)
        self._read.extend(events)
        if not caught_up or self._read:
            return _MORE
        self._next = cursor.place.revision
        if self._mark_is_due(asked):
            self._yielded()
            return (Progress(cursor.place.revision - 1),)
        if ended:
            self._over = self._over or self._node.failure or Closed(f"member {self._node.name} is closed")
            return _MORE
        return None if hub.arm(cursor) else _MORE

    def _mark_is_due(self, asked: object) -> bool:
        """Tell whether to say that everything so far has been yielded: it was asked for, or nothing has been said for long."""
        silent = self._interval is not None and self._node.clock() >= self._quiet_since + self._interval
        if silent:
            self._yielded()
        if self._cursor.place.revision - 1 < self._marks_from or not (silent or asked is not self._answered):
            return False  # or the watch has not begun
        self._answered = asked
        return True

    # -- waiting -------------------------------------------------------------------------------------------------------------------

    def _patience(self, until: float | None) -> float | None:
        """Return for how many seconds to wait, or None without limit, if the caller gives up at a time."""
        times = [] if until is None else [until]
        if self._interval is not None:
            times.append(self._quiet_since + self._interval)
        return max(0.0, min(times) - self._node.clock()) if times else None

    def _until(self, timeout: float | None) -> float | None:
        limit = to_timeout(timeout)
        return None if limit is None else self._node.clock() + limit

    def _is_late(self, until: float | None) -> bool:
        return until is not None and self._node.clock() >= until

    # -- the end -------------------------------------------------------------------------------------------------------------------

    def _close(self) -> None:
        if self._over is None:
            self._over = Closed(f"this watch of member {self._node.name} is closed")
        self._leave()
        self._bell()

    def _ask(self) -> None:
        fork.ensure_not_forked()
        self._asked = object()
        self._bell()


class Watch(_Watching):
    """A watch for threads: an iterator of events, each once, in the order of their revisions, with none missing.

    It begins at a revision and reads on through the history at its consumer's pace; it keeps no more than a few hundred events itself, so
    that nobody minds how slow that is.  It ends when its member is closed, and yields before that all that the member had applied; or
    when it is closed itself, at once.  Several threads may share one: each event goes to one of them.  It does not keep the ``Replica``
    alive: one that nobody refers to any more is closed.

    Raises, when iterated: ``Compacted`` when the history it was to read is not kept any more; what stopped the member, if it failed.
    """

    _bell: _ThreadBell

    def _make_bell(self) -> _ThreadBell:
        self._turn = threading.Lock()
        return _ThreadBell()

    def next(self, timeout: float | None = None) -> Watched | None:
        """Return what comes next.

        Args:
            timeout: seconds to wait; None waits without limit, 0 does not wait.

        Returns:
            An event, or a mark that was asked for; None: nothing came in time.

        Raises:
            TypeError, ValueError: no timeout.
            Closed: the watch is closed, or the member.
            Compacted: the events that come next are not kept any more; the watch is over.
            StorageError, InvariantBroken: the member failed.
            ForkedProcess: this is a forked child.
        """
        found = self._wait(timeout, whole=False)
        return found[0] if found else None

    def batches(self) -> Iterator[tuple[Watched, ...]]:
        """Yield the events of each revision together; never a part of them.

        Yields:
            The events of a revision; a mark, alone.  The present state comes in pieces of some hundred pairs, before ``Synced``.

        Raises:
            Compacted: the events that come next are not kept any more; the watch is over.
            StorageError, InvariantBroken: the member failed.
            ForkedProcess: this is a forked child.
        """
        with suppress(Closed):
            while True:
                yield self._wait(None, whole=True) or ()

    def request_progress(self) -> None:
        """Have a mark yielded behind all events up to what is published now; a watch that begins in the future gives none before.

        Raises:
            ForkedProcess: this is a forked child.
        """
        self._ask()

    def close(self) -> None:
        """End the watch, also for those who wait for it; what it has not yielded is dropped.  Any thread."""
        self._close()

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Watched:
        try:
            found = self._wait(None, whole=False)
        except Closed:
            raise StopIteration from None
        assert found  # noqa: S101  # without a timeout something comes
        return found[0]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _wait(self, timeout: float | None, *, whole: bool) -> tuple[Watched, ...] | None:
        fork.ensure_not_forked()
        until = self._until(timeout)
        if not acquire(self._turn, timeout):
            return None  # another thread waits for the same
        try:
            while True:
                found = self._look(whole=whole)
                if found is None and not self._bell.wait(self._patience(until)) and self._is_late(until):
                    return None
                if found is _MORE and timeout and not self._read and self._is_late(until):
                    return None
                if found is not None and found is not _MORE:
                    return found
        finally:
            self._turn.release()


class _ThreadBell:
    """A lock that is free when it has rung."""

    def __init__(self) -> None:
        self._silent = threading.Lock()
        self._silent.acquire()

    def __call__(self) -> None:
        with suppress(RuntimeError):  # it has rung already
            self._silent.release()

    def wait(self, timeout: float | None) -> bool:
        """Wait until it rings, or has since the last time; tell whether it did."""
        return acquire(self._silent, timeout)


class AsyncWatch(_Watching):
    """A watch for asyncio: what ``Watch`` is for threads, with ``async for``; to be used on one loop.

    A wait that is cancelled loses nothing.  Between two steps through a long history the loop is given back.
    """

    _bell: _LoopBell

    def _make_bell(self) -> _LoopBell:
        return _LoopBell()

    async def next(self, timeout: float | None = None) -> Watched | None:
        """Return what comes next; as ``Watch.next``.

        Args:
            timeout: seconds to wait; None waits without limit, 0 does not wait.

        Returns:
            An event, or a mark that was asked for; None: nothing came in time.

        Raises:
            TypeError, ValueError: no timeout.
            Closed: the watch is closed, or the member.
            Compacted: the events that come next are not kept any more; the watch is over.
            StorageError, InvariantBroken: the member failed.
            ForkedProcess: this is a forked child.
            RuntimeError: another loop uses it.
        """
        found = await self._wait(timeout, whole=False)
        return found[0] if found else None

    async def batches(self) -> AsyncIterator[tuple[Watched, ...]]:
        """Yield the events of each revision together; as ``Watch.batches``."""
        with suppress(Closed):
            while True:
                yield await self._wait(None, whole=True) or ()

    async def request_progress(self) -> None:
        """Have a mark yielded behind all events up to what is published now; as ``Watch.request_progress``."""
        self._ask()

    async def close(self) -> None:
        """End the watch, also for those who wait for it; what it has not yielded is dropped."""
        self._close()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Watched:
        try:
            found = await self._wait(None, whole=False)
        except Closed:
            raise StopAsyncIteration from None
        assert found  # noqa: S101  # without a timeout something comes
        return found[0]

    def __await__(self) -> Generator[None, None, Self]:
        return self._itself().__await__()

    async def _itself(self) -> Self:
        return self

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self.close()

    async def _wait(self, timeout: float | None, *, whole: bool) -> tuple[Watched, ...] | None:
        fork.ensure_not_forked()
        until = self._until(timeout)
        self._bell.bind(asyncio.get_running_loop())
        try:
            return await self._find(timeout, until, whole=whole)
        finally:
            self._bell.resolve()  # other tasks may wait for the same: what is left, or the end, is theirs

    async def _find(self, timeout: float | None, until: float | None, *, whole: bool) -> tuple[Watched, ...] | None:
        rested = False  # whether other tasks have had the loop
        while True:
            found = self._look(whole=whole)
            if found is None:
                rested = await self._bell.wait(self._patience(until))
                if not rested and self._is_late(until):
                    return None
            elif found is not _MORE:
                return found
            elif timeout and not self._read and self._is_late(until):
                return None
            else:
                if not rested:
                    await asyncio.sleep(0)
                rested = False


class _LoopBell:
    """Futures of a loop, which are resolved when it rings; who does not wait does not keep the loop alive."""

    def __init__(self) -> None:
        self._loop: weakref.ref[asyncio.AbstractEventLoop] | None = None
        self._inbox: Inbox | None = None
        self._waiting: set[asyncio.Future[None]] = set()

    def bind(self, loop: asyncio.AbstractEventLoop) -> None:
        """Say on which loop it is to be heard.

        Raises:
            RuntimeError: that is another one already.
        """
        if self._loop is None:
            self._loop, self._inbox = weakref.ref(loop), loop_inbox(loop)
        elif self._loop() is not loop:
            raise RuntimeError("a watch belongs to the loop it was first used on; open another one on this loop")

    def __call__(self) -> None:
        if self._inbox is not None:
            self._inbox.put(self.resolve)

    def resolve(self) -> None:
        """Wake those who wait; on the loop."""
        for waiter in self._waiting:
            if not waiter.done():
                waiter.set_result(None)

    async def wait(self, timeout: float | None) -> bool:
        """Wait until it rings; tell whether it did."""
        waiter = asyncio.get_running_loop().create_future()
        self._waiting.add(waiter)
        try:
            if timeout is None:
                await waiter
            else:
                await asyncio.wait((waiter,), timeout=timeout)
        finally:
            self._waiting.discard(waiter)
        return waiter.done()


# -- arguments ---------------------------------------------------------------------------------------------------------------------


def _checked_kinds(kinds: Iterable[EventKind]) -> frozenset[EventKind]:
    if isinstance(kinds, str):
        raise TypeError(f'kinds must be several, ("{kinds}",), not a str')
    if not isinstance(kinds, Iterable):
        raise TypeError(f'kinds must be several, such as ("put",), not {type(kinds).__name__}')
    listed = list(kinds)
    if not listed or any(kind not in KINDS for kind in listed):
        raise ValueError(f'kinds must be "put", "delete" or both, not {sorted(map(repr, listed))}')
    return frozenset(listed)


def _checked_start(revision: int) -> int:
    if to_count(revision, "start_revision") < 1:
        raise ValueError("start_revision must be at least 1, the revision of an empty store; None begins with what comes next")
    return revision


def _flag(value: bool, what: str) -> bool:
    if not isinstance(value, bool):
        raise TypeError(f"{what} must be a bool, not {type(value).__name__}")
    return value
