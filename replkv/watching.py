"""``Watch`` and ``AsyncWatch``: a watch as its consumer holds it, for threads and for asyncio.

What comes next is decided by a ``Feed`` (``feed.py``), in bounded steps that never wait.  The two classes differ in how they wait when it
finds nothing: on a lock, or on a future of their loop.
"""

from __future__ import annotations

import asyncio
import threading
import weakref
from collections.abc import AsyncIterator, Callable, Generator, Iterator
from contextlib import contextmanager, suppress
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar

from replkv.errors import Closed
from replkv.feed import MORE, Bell, Wanted, Watched
from replkv.plans import Plan
from replkv.values import to_timeout
from replkv.waiting import loop_inbox

if TYPE_CHECKING:
    from replkv.engine import Engine, Waits
    from replkv.values import Span
    from replkv.waiting import Inbox


T = TypeVar("T")


class _Watching:
    """What both kinds of watch are.

    Args:
        engine: a member in this process, or a connection to one.
        span: the keys.
        options: as those of ``Wanted.of``.

    Raises:
        TypeError, ValueError: an argument is wrong.
    """

    def __init__(self, engine: Engine, span: Span, **options: Any) -> None:
        engine.ensure_not_forked()
        wanted = Wanted.of(span, **options)
        self._engine = engine
        self._bell = self._make_bell()
        self._feed = engine.feed(wanted, self._bell)

    def _make_bell(self) -> Bell:
        raise NotImplementedError

    def __del__(self) -> None:
        if hasattr(self, "_feed"):  # or an argument was wrong
            self._feed.leave()

    @property
    def revision(self) -> int:
        """The ``start_revision`` of a watch, on any member, that goes on exactly behind what this one has yielded.

        A revision that is yielded in part is still to come.  While the present state is being yielded it is 0, which no watch begins at:
        then only ``initial=True`` is right again.
        """
        self._engine.ensure_not_forked()  # a lock may have been held when the process was forked
        return self._feed.revision

    def __repr__(self) -> str:
        return f"<{type(self).__name__} on {self._engine.name} of {self._feed}>"

    @contextmanager
    def heard_by(self, bell: Bell) -> Iterator[None]:
        """Have somebody else hear too when a member elsewhere has sent something; one in this process is just looked at."""
        self._feed.listeners.append(bell)
        try:
            yield
        finally:
            self._feed.listeners.remove(bell)

    def _until(self, timeout: float | None) -> float | None:
        return None if timeout is None else self._engine.clock() + timeout

    def _left(self, until: float | None) -> float | None:
        return None if until is None else max(0.0, until - self._engine.clock())

    def _is_late(self, until: float | None) -> bool:
        return until is not None and self._engine.clock() >= until

    def _late(self) -> Exception:
        """End a watch that did not begin in time, and return the error."""
        self._close()
        return Plan[None]().expired(self._engine, untouched=True)

    def _close(self) -> None:
        self._feed.close(Closed(f"this watch of {self._engine.name} is closed"))
        self._bell()

    def _ask(self) -> None:
        self._engine.ensure_not_forked()
        self._feed.ask()
        self._bell()


class Watch(_Watching):
    """A watch for threads: an iterator of events, each once, in the order of their revisions, with none missing.

    It begins at a revision and reads on through the history at its consumer's pace; it keeps no more than a few hundred events itself, so
    that nobody minds how slow that is.  It ends when its member is closed, and yields before that all that the member had applied; or
    when it is closed itself, at once.  Several threads may share one: each event goes to one of them.  It does not keep the ``Replica``
    alive: one that nobody refers to any more is closed.

    Raises, when iterated: ``Compacted`` when the history it was to read is not kept any more; what stopped the member, if it failed.
    """

    _bell: ThreadBell

    def __init__(self, engine: Engine, span: Span, **options: Any) -> None:
        super().__init__(engine, span, **options)
        if not self._feed.begun:  # where the member is elsewhere, and has to be asked which revision is the next
            self._begin(self._until(to_timeout(engine.config.timeout)))

    def _begin(self, until: float | None) -> None:
        while not self._feed.begun:
            if not self._bell.wait(self._left(until)) and self._is_late(until):
                raise self._late()

    def _make_bell(self) -> ThreadBell:
        self._turn = threading.Lock()
        return ThreadBell(self._engine.waits)

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
        limit = to_timeout(timeout)
        return self._take(self._feed.take_read) or self._next(limit)

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
                yield self._take(self._feed.take_whole) or self._wait(None, whole=True) or ()

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
            found = self._take(self._feed.take_read) or self._next(None)
        except Closed:
            raise StopIteration from None
        assert found  # noqa: S101  # without a timeout something comes
        return found

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _take(self, take: Callable[[], T | None]) -> T | None:
        """Take what was read before, unless another thread is at it."""
        self._engine.ensure_not_forked()
        if not self._turn.acquire(blocking=False):
            return None
        try:
            return take()
        finally:
            self._turn.release()

    def _next(self, timeout: float | None) -> Watched | None:
        found = self._wait(timeout, whole=False)
        return found[0] if found else None

    def _wait(self, timeout: float | None, *, whole: bool) -> tuple[Watched, ...] | None:
        self._engine.ensure_not_forked()
        until = self._until(timeout)
        if not self._engine.waits.acquire(self._turn, timeout):
            return None  # another thread waits for the same
        try:
            while True:
                found = self._feed.look(whole=whole)
                if found is None and timeout == 0:
                    return None
                if found is None and not self._bell.wait(self._feed.patience(until)) and self._is_late(until):
                    return None
                if found is MORE and timeout and not self._feed.pending and self._is_late(until):
                    return None
                if found is not None and found is not MORE:
                    return found
        finally:
            self._turn.release()


class ThreadBell:
    """A lock that is free when it has rung."""

    def __init__(self, waits: Waits) -> None:
        self._waits = waits
        self._silent = threading.Lock()
        self._silent.acquire()

    def __call__(self) -> None:
        """Wake the thread."""
        try:  # noqa: SIM105  # a hundred watchers of a key are rung for one after the other: suppress() costs more than the rest
            self._silent.release()
        except RuntimeError:  # it has rung already
            pass

    def wait(self, timeout: float | None) -> bool:
        """Wait until it rings, or has since the last time; tell whether it did."""
        return self._waits.acquire(self._silent, timeout)


class AsyncWatch(_Watching):
    """A watch for asyncio: what ``Watch`` is for threads, with ``async for``; to be used on one loop.

    A wait that is cancelled loses nothing.  Between two steps through a long history the loop is given back.
    """

    _bell: LoopBell

    def _make_bell(self) -> LoopBell:
        return LoopBell()

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
        limit = to_timeout(timeout)
        return self._take(self._feed.take_read) or await self._next(limit)

    async def batches(self) -> AsyncIterator[tuple[Watched, ...]]:
        """Yield the events of each revision together; as ``Watch.batches``."""
        with suppress(Closed):
            while True:
                yield self._take(self._feed.take_whole) or await self._wait(None, whole=True) or ()

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
            found = self._take(self._feed.take_read) or await self._next(None)
        except Closed:
            raise StopAsyncIteration from None
        assert found  # noqa: S101  # without a timeout something comes
        return found

    def __await__(self) -> Generator[None, None, Self]:
        return self._itself().__await__()

    async def _itself(self) -> Self:
        if not self._feed.begun:
            self._bell.bind(asyncio.get_running_loop())
            await self._begin(self._until(to_timeout(self._engine.config.timeout)))
        return self

    async def _begin(self, until: float | None) -> None:
        while not self._feed.begun:
            if not await self._bell.wait(self._left(until)) and self._is_late(until):
                raise self._late()

    async def __aenter__(self) -> Self:
        return await self._itself()

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self.close()

    def _take(self, take: Callable[[], T | None]) -> T | None:
        """Take what was read before; who else waits for the same was woken when it was read."""
        self._engine.ensure_not_forked()
        self._bell.bind(asyncio.get_running_loop())
        return take()

    async def _next(self, timeout: float | None) -> Watched | None:
        found = await self._wait(timeout, whole=False)
        return found[0] if found else None

    async def _wait(self, timeout: float | None, *, whole: bool) -> tuple[Watched, ...] | None:
        self._engine.ensure_not_forked()
        until = self._until(timeout)
        self._bell.bind(asyncio.get_running_loop())
        try:
            return await self._find(timeout, until, whole=whole)
        finally:
            self._bell.resolve()  # other tasks may wait for the same: what is left, or the end, is theirs

    async def _find(self, timeout: float | None, until: float | None, *, whole: bool) -> tuple[Watched, ...] | None:
        rested = False  # whether other tasks have had the loop
        while True:
            found = self._feed.look(whole=whole)
            if found is None:
                rested = await self._bell.wait(self._feed.patience(until))
                if not rested and self._is_late(until):
                    return None
            elif found is not MORE:
                return found
            elif timeout and not self._feed.pending and self._is_late(until):
                return None
            else:
                if not rested:
                    await asyncio.sleep(0)
                rested = False


class LoopBell:
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
        """Wake the tasks, on their loop."""
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
