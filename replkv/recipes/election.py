"""Elections: one leader at a time among those who want to be, a helper that works while it leads, and a view of who does."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import suppress
from typing import Any, Final, Protocol, Self, TypeVar

from attrs import frozen

from replkv.errors import Closed, Compacted, LockLost, TooStale, WaitTimeout
from replkv.immediate import run
from replkv.leasing import AsyncLease, Lease
from replkv.ops import KEEP
from replkv.recipes import lifelines
from replkv.recipes.base import Alarm, Deadline, Recipe, named, place_of, recipe
from replkv.recipes.holding import AwaitingOnce, BlockingOnce, Holding, Once
from replkv.recipes.line import Line
from replkv.surface import Awaiting, Blocking, Surface
from replkv.values import Data, Event, KeyValue, to_timeout, to_ttl, to_value

R = TypeVar("R")

LOOK_UP: Final = 1.0
"""Seconds after which ``run`` looks up from its wait, whether it is to stop."""


class Stop(Protocol):
    """Tells that something is to end: a ``threading.Event``."""

    def is_set(self) -> bool:
        """Tell whether it is to end."""


@frozen
class Leader:
    """Who leads.

    Attributes:
        value: what it proclaims.
        fence: of its term; that of a later term is larger.
    """

    value: bytes
    fence: int

    @property
    def text(self) -> str:
        """The value as text.

        Raises:
            UnicodeDecodeError: it is not UTF-8.
        """
        return self.value.decode()


def _leader(kv: KeyValue) -> Leader:
    return Leader(kv.value, kv.create_revision)


class _UntilStopped(Deadline):
    """Over when somebody says so; until then attempts take as long as any call, and waits end now and then to look."""

    def __init__(self, clock: Callable[[], float], stop: Stop, attempt: float) -> None:
        super().__init__(clock, None, attempt)
        self._stop = stop

    @property
    def left(self) -> float:
        return 0.0 if self.over else self._attempt

    @property
    def over(self) -> bool:
        return self._stop.is_set()

    def at_most(self, seconds: float) -> float:
        return min(seconds, self.left, LOOK_UP)


class _Term(Once):
    """What a leader has: the held half of a lock.

    ``held``, ``lost`` and ``check()`` follow this process's own clock and turn before anybody else can lead; ``put(…, guard=term)`` lets
    the cluster decide; the ``fence`` grows from term to term.

    Args:
        surface: where.
        what: for messages.
        line: of the candidates.
        value: to proclaim.
        until: makes the deadline of the wait.
    """

    def __init__(self, surface: Surface[Any, Any], what: str, line: Line, value: bytes, until: Callable[[], Deadline]) -> None:
        super().__init__(surface)
        self._what = what
        self._line = line
        self._value = value
        self._until = until
        self._was_lost = False  # when it ended

    async def _begin(self) -> Holding:
        return await self._line.hold(self._value, self._until())

    async def _end(self, *, failed: bool) -> None:
        holding, self._holding = self._holding, None
        if holding is None:
            return  # it was resigned within the block
        self._was_lost = holding.is_lost  # in case that this is cancelled
        self._was_lost = not await self._line.leave(holding)
        if self._was_lost and not failed:
            raise holding.loss()

    @recipe
    async def proclaim(self, value: Data) -> int:
        """Change what the leader says of itself; those who observe the election see it.

        Args:
            value: bytes or text.

        Returns:
            The revision.

        Raises:
            LockLost: it does not lead any more; nothing was changed.
            RuntimeError: it does not lead.
            TypeError: neither bytes nor text.
            NoLeader, OutcomeUnknown: as ``put``.
        """
        holding = self._held
        holding.check()
        key = holding.key.removeprefix(self._calls._prefix)  # noqa: SLF001  # of the namespace
        return (await self._calls.put(key, value, lease=KEEP, guard=self)).revision

    @recipe
    async def resign(self) -> None:
        """Lead no longer; whoever is next does.

        It waits for the cluster for ``Config.timeout`` at most; where that can't be reached, the term ends with its lease.

        Raises:
            LockLost: the term was lost meanwhile.
            RuntimeError: it does not lead.
        """
        _ = self._held  # or it is refused
        await self._end(failed=False)


class Term(_Term, BlockingOnce):
    """What a leader has, for threads; made by ``lead()``, and the block of ``with`` resigns at its end; see ``_Term``."""


class AsyncTerm(_Term, AwaitingOnce):
    """What a leader has, for asyncio; made by ``lead()``, and begun when it is awaited or entered; see ``_Term``.

    The block of ``async with`` is cancelled when the term is lost, and raises ``LockLost``; else it resigns at its end.
    """


class _Election(Recipe):
    """An election: candidates stand in line, and the first one leads until it resigns or its process is gone.

    At most one leader at a time believes in itself: ``term.held`` turns false by its process's own clock before the cluster lets the next
    one lead.  What no clock can exclude is a process that stands still between its last look and what it does then: so write with
    ``guard=term``, or hand ``term.fence`` to systems that refuse a smaller one.

    The line is fair, and a leader that leaves wakes the next candidate, not all.  A term is lost when its process can't keep its lease
    alive for ``ttl`` seconds: without a quorum, or when it stands still.

    Args:
        surface: where.
        name: bytes or text.
        ttl: seconds for which a leader outlives its process, from ``Settings.min_ttl`` to ten years.
        lease: a lease to hang on, whose loss is the term's; None: one of its own.

    Raises:
        TypeError, ValueError: a bad argument.
    """

    def __init__(self, surface: Surface[Any, Any], name: Data, *, ttl: float = 10.0, lease: Lease | AsyncLease | None = None) -> None:
        super().__init__(surface)
        to_ttl(ttl)
        self._what = named("election", name)
        self._place = place_of("election", name)
        self._line = Line(self._calls, self._what, (self._place,), ttl, None if lease is None else lifelines.of(lease))

    @recipe
    async def leader(self) -> Leader | None:
        """Return who leads; None: nobody does.  Linearizable.

        It says who led when it was asked: the term may be over when the answer comes.

        Raises:
            NoLeader: the cluster can't be reached.
        """
        found = await self._calls.scan(prefix=self._place, sort_by="create", limit=1)
        return _leader(found[0]) if found else None

    def _arguments(self, value: Data, timeout: float | None) -> tuple[Surface[Any, Any], str, Line, bytes, Callable[[], Deadline]]:
        limit = to_timeout(timeout)
        return self._surface, self._what, self._line, to_value(value), lambda: self._deadline(limit)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._what.removeprefix('election ')}>"


class Election(_Election, Blocking):
    """An election, for threads; see ``_Election``."""

    def lead(self, value: Data = b"", timeout: float | None = None) -> Term:
        """Wait until one leads.

        Args:
            value: to proclaim, for others to see: a name, an address.
            timeout: seconds; None waits without limit, 0 waits for nobody but the cluster.

        Returns:
            The term; the block of ``with`` resigns at its end, and raises ``LockLost`` if it was lost.

        Raises:
            WaitTimeout: not in time; nothing is left behind.
            LockLost: the lease it was to hang on is lost.
            TypeError, ValueError: a bad argument.
            Closed, StorageError: the member has ended.
        """
        return Term(*self._arguments(value, timeout))._now()  # noqa: SLF001  # made here

    def run(self, function: Callable[[Term], R], *, value: Data = b"", stop: Stop | None = None) -> R | None:
        """Work while leading: lead, call ``function(term)``, and lead again if the term was lost.

        The function runs on this thread.  A thread can't be interrupted: so it has to look at ``term.check()``, ``term.held`` or
        ``term.lost.wait()`` often enough, and to write with ``guard=term``.  When it returns, ``run`` resigns and returns; when it raises,
        ``run`` resigns and raises that.  If the term was lost meanwhile, what it returned does not count, nor does the ``LockLost`` that it
        raised: it is called again in the next term.

        Args:
            function: takes the term; called once in each.
            value: to proclaim.
            stop: such as a ``threading.Event``: when that is set, a wait to lead is over within a second, or within ``Config.timeout``
                where the cluster can't be reached.  Who leads then goes on to the function's end: have that look at it too.

        Returns:
            What the function returned; None: it was to stop before.

        Raises:
            LockLost: the lease it was to hang on is lost.
            TypeError, ValueError: a bad argument.
            Closed, StorageError: the member has ended.
        """
        surface, what, line, proclaimed, until = self._arguments(value, None)
        if stop is not None:
            until = self._until(stop)
        while stop is None or not stop.is_set():
            try:
                term = Term(surface, what, line, proclaimed, until)._now()  # noqa: SLF001  # made here
            except WaitTimeout:  # it is to stop
                break
            try:
                with term:
                    return function(term)
            except LockLost:
                if not term._was_lost:  # noqa: SLF001  # another lock is lost
                    raise
        return None

    def _until(self, stop: Stop) -> Callable[[], Deadline]:
        attempt = self._calls._engine().config.timeout  # noqa: SLF001  # this process's choice
        return lambda: _UntilStopped(self._clock, stop, attempt)

    def observe(self, timeout: float | None = None) -> Leaders:
        """Follow who leads.

        Args:
            timeout: it ends when nothing has changed for so many seconds; None: when the member or the iterator is closed.

        Returns:
            An iterator of the present leader and then of each one there is, with what it proclaims; None where nobody leads.  It never
            misses the newest, and may skip what was soon replaced.  It reads this member's own state, so it works without a quorum and
            may be behind as this member may.

        Raises:
            TypeError, ValueError: no timeout.
        """
        return Leaders(self._surface, self._place, to_timeout(timeout))


class AsyncElection(_Election, Awaiting):
    """An election, for asyncio; see ``_Election``."""

    def lead(self, value: Data = b"", timeout: float | None = None) -> AsyncTerm:
        """Wait until one leads; as ``Election.lead``, and that begins when the term is awaited or entered with ``async with``."""
        return AsyncTerm(*self._arguments(value, timeout))

    async def run(self, function: Callable[[AsyncTerm], Awaitable[R]], *, value: Data = b"") -> R:
        """Work while leading: lead, await ``function(term)``, and lead again if the term was lost.

        The function is cancelled as soon as the term is lost, and called again in the next one.  When it returns, ``run`` resigns and
        returns; when it raises, ``run`` resigns and raises that.  To end ``run``, cancel its task.

        Args:
            function: a coroutine function that takes the term; called once in each.
            value: to proclaim.

        Returns:
            What the function returned.

        Raises:
            LockLost: the lease it was to hang on is lost.
            TypeError: a bad argument.
            Closed, StorageError: the member has ended.
        """
        while True:
            term = self.lead(value)
            try:
                async with term:
                    return await function(term)
            except LockLost:
                if not term._was_lost:  # noqa: SLF001  # another lock is lost
                    raise

    def observe(self, timeout: float | None = None) -> AsyncLeaders:
        """Follow who leads; as ``Election.observe``, with ``async for``."""
        return AsyncLeaders(self._surface, self._place, to_timeout(timeout))


class _Over(Exception):  # an end, not an error
    """There is nothing more to observe."""


class _Leaders(Recipe):
    """Who leads, and each change of that.

    It watches the leader's own key, so that candidates that come and go wake nobody.
    """

    def __init__(self, surface: Surface[Any, Any], place: bytes, timeout: float | None) -> None:
        super().__init__(surface)
        self._place = place
        self._timeout = timeout
        self._revision = 0  # as of which it was last known who leads
        self._told: list[Leader | None] = []  # the last one that was yielded, once there is one
        self._seen: Leader | None = None
        self._alarm: Alarm | None = None  # tells that this may be another one
        self._closed = False

    async def _next(self) -> Leader | None:
        try:
            while not self._closed:
                if self._alarm is None:
                    await self._look()
                elif self._told != [self._seen]:
                    self._told = [self._seen]
                    return self._seen
                else:
                    await self._wait(self._alarm)
        except Closed:  # the member, or this iterator while it waited
            self._closed = True
        raise _Over

    async def _look(self) -> None:
        """Find out who leads, and watch for whatever may change that."""
        with suppress(TooStale):  # a client that has just come to a member that is behind
            found = await self._calls.scan(prefix=self._place, sort_by="create", limit=1, consistency="local", min_revision=self._revision)
            self._revision, self._seen = found.revision, _leader(found[0]) if found else None
            if found:
                self._alarm = self._calls.watch(found[0].key, start_revision=found.revision + 1)
            else:
                self._alarm = self._calls.watch(prefix=self._place, start_revision=found.revision + 1)

    async def _wait(self, alarm: Alarm) -> None:
        with suppress(Compacted):  # then it is to be looked at again
            event = await alarm.next(self._timeout)
            if event is None:
                self._closed = True
                return
            self._revision = event.revision
            if self._seen is not None and isinstance(event, Event) and event.kind == "put":
                self._seen = _leader(event.kv)
                return
        self._alarm = None
        await alarm.close()

    @recipe
    async def close(self) -> None:
        """End it, also for who waits for it."""
        self._closed = True
        alarm = self._alarm
        if alarm is not None:
            await alarm.close()


class Leaders(_Leaders, Blocking, Iterator["Leader | None"]):
    """The leaders of an election, for threads: one thread iterates, any thread may close it."""

    def __next__(self) -> Leader | None:
        try:
            return run(self._next())
        except _Over:
            raise StopIteration from None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


class AsyncLeaders(_Leaders, Awaiting, AsyncIterator["Leader | None"]):
    """The leaders of an election, for asyncio; a wait that is cancelled loses nothing."""

    async def __anext__(self) -> Leader | None:
        try:
            return await self._next()
        except _Over:
            raise StopAsyncIteration from None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.close()
