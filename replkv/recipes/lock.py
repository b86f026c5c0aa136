"""Locks: one holder at a time, in the order in which they asked, each with a fence that grows from holder to holder."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from replkv.leasing import AsyncLease, Lease
from replkv.recipes import lifelines
from replkv.recipes.base import Deadline, named, place_of, recipe
from replkv.recipes.holding import AwaitingHolder, BlockingHolder, Holder
from replkv.recipes.line import Line
from replkv.surface import Surface
from replkv.values import Data, to_bytes, to_ttl

MOST_NAMES: Final = 60
"""How many locks may be taken together: each takes two operations of a transaction."""


class LineHolder(Holder):
    """What is held by who stands at the front of a line: a lock, a side of a reader-writer lock, a permit.

    Args:
        surface: where.
        what: for messages, such as "lock 'jobs'".
    """

    _line: Line

    def __init__(self, surface: Surface[Any, Any], what: str) -> None:
        super().__init__(surface)
        self._what = what
        self._in_use = False

    # -- taking --------------------------------------------------------------------------------------------------------------------

    @recipe
    async def acquire(self, timeout: float | None = None) -> int:
        """Wait until it is one's turn, and take it.

        Args:
            timeout: seconds; None waits without limit, 0 waits for nobody but the cluster.

        Returns:
            The fence: larger than that of any holder before.

        Raises:
            WaitTimeout: not in time; nothing is left behind.
            LockLost: the lease it was to hang on is lost.
            RuntimeError: it is held or asked for already.
            TypeError, ValueError: no timeout.
            Closed, StorageError: the member has ended.
        """
        return await self._acquire(self._deadline(timeout))

    async def _enter(self) -> None:
        await self._acquire(Deadline(self._clock, None))

    async def _acquire(self, until: Deadline) -> int:
        self._use()
        try:
            self._holding = await self._line.hold(self._value(), until)
        finally:
            self._in_use = self._holding is not None
        return self._holding.fence

    @recipe
    async def try_acquire(self) -> int | None:
        """Take it if it is free; nobody is waited for but the cluster.

        Returns:
            The fence; None: somebody has it, or waits for it.

        Raises:
            LockLost: the lease it was to hang on is lost.
            RuntimeError: it is held or asked for already.
            WaitTimeout: the cluster did not answer within ``Config.timeout``; nothing is left behind.
            Closed, StorageError: the member has ended.
        """
        self._use()
        try:
            until = Deadline(self._clock, self._calls._engine().config.timeout)  # noqa: SLF001  # this process's choice
            self._holding = await self._line.hold_if_empty(self._value(), until)
        finally:
            self._in_use = self._holding is not None
        return None if self._holding is None else self._holding.fence

    def _use(self) -> None:
        if self._in_use:
            raise RuntimeError(
                f"{self._what} is held or asked for by this object already; it is not reentrant: make another object to wait"
            )
        self._in_use = True

    def _value(self) -> bytes:
        return self._calls._engine().name.encode()  # noqa: SLF001  # shown to those who wait in vain

    # -- giving back ---------------------------------------------------------------------------------------------------------------

    @recipe
    async def release(self) -> None:
        """Give it back, to whoever is next.

        It waits for the cluster for ``Config.timeout`` at most; where that can't be reached, it ends with its lease.

        Raises:
            LockLost: it was lost meanwhile; what it was to protect may have been touched by others.
            RuntimeError: it is not held.
        """
        _ = self._held  # or it is refused
        await self._end(failed=False)

    async def _end(self, *, failed: bool) -> None:
        holding, self._holding = self._holding, None
        self._in_use = False
        if holding is not None and not await self._line.leave(holding) and not failed:  # None: it was released within the block
            raise holding.loss()


class _Lock(LineHolder):
    """A lock of the whole cluster, taken and given back by whoever holds this object; not by a thread or task.

    At most one holder at a time believes in it: ``held`` turns false by this process's own clock before the cluster gives the lock to
    the next one.  What no clock can exclude is a process that stands still between its last look and what it does then.  So let the
    cluster decide: ``put(…, guard=lock)`` is refused when the lock has passed on; other systems can refuse a ``fence`` that is smaller than
    one they have seen.

    It is fair: who asks first gets it first, and a leaving holder wakes one that waits, not all.  Taking and giving back a free lock is one
    write each.  It is lost when this process can't keep its lease alive for ``ttl`` seconds: without a quorum, or when it stands still.

    Args:
        surface: where.
        name: bytes or text; several names are taken together, all or none, and never deadlock with others that take several.
        ttl: seconds for which it outlives its holder, from ``Settings.min_ttl`` to ten years.
        lease: a lease to hang on, whose loss is the lock's; None: one of its own.

    Raises:
        TypeError, ValueError: a bad argument.
    """

    def __init__(
        self, surface: Surface[Any, Any], name: Data | Iterable[Data], *, ttl: float = 10.0, lease: Lease | AsyncLease | None = None
    ) -> None:
        names = _names(name)
        super().__init__(surface, named("lock", *names))
        to_ttl(ttl)
        queues = tuple(place_of("lock", each) for each in dict.fromkeys(names))
        self._line = Line(self._calls, self._what, queues, ttl, None if lease is None else lifelines.of(lease))


class Lock(_Lock, BlockingHolder):
    """A lock of the whole cluster, for threads; see ``_Lock``."""


class AsyncLock(_Lock, AwaitingHolder):
    """A lock of the whole cluster, for asyncio; see ``_Lock``.

    The block of ``async with`` is cancelled when the lock is lost, and raises ``LockLost``.
    """


def _names(name: Data | Iterable[Data]) -> list[bytes]:
    listed = [name] if isinstance(name, (str, bytes)) else list(name)
    if not 1 <= len(listed) <= MOST_NAMES:
        raise ValueError(f"a lock has 1 to {MOST_NAMES} names, not {len(listed)}")
    return [to_bytes(each, "name") for each in listed]
