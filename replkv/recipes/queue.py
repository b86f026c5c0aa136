"""Queues: each item goes to one taker, at once or for as long as that works on it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from replkv.errors import Rejected, ReplkvError, Unavailable
from replkv.ops import Delete
from replkv.recipes import lifelines
from replkv.recipes.base import Deadline, recipe
from replkv.recipes.holding import AwaitingOnce, BlockingOnce, Holding, Once
from replkv.recipes.items import Items
from replkv.surface import Awaiting, Blocking
from replkv.values import INT64, to_timeout

if TYPE_CHECKING:
    from replkv.ops import Operation
    from replkv.values import KeyValue


class _Claim(Once):
    """An item that is somebody's to work on, until that is done; nobody else gets it meanwhile.

    If its process is gone, or can't keep its lease alive for ``ttl`` seconds, the item is free again, at its old place: so it may be worked
    on more than once, but by one at a time.  ``put(…, guard=item)`` is refused when the claim has passed on; and ``done(…)`` does writes
    together with the end of the item, so that their effect comes exactly once.

    Args:
        queue: whose.
        until: makes the deadline of the wait.
    """

    def __init__(self, queue: Items, until: Callable[[], Deadline]) -> None:
        super().__init__(queue._surface)  # noqa: SLF001  # the same recipe
        self._queue = queue
        self._what = f"an item of {queue.what}"
        self._until = until
        self._item: KeyValue | None = None

    async def _begin(self) -> Holding:
        holding, self._item = await self._queue.claim_first(self._until())
        return holding

    @property
    def _claimed(self) -> KeyValue:
        if self._item is None:
            raise RuntimeError(f"{self._what} is not claimed yet: await it, or enter it with 'async with'")
        return self._item

    @property
    def value(self) -> Any:
        """The item's value.

        Raises:
            Undecodable: the codec can't read it; ``done()`` gets rid of it.
            RuntimeError: nothing is claimed yet.
        """
        return self._queue.value_of(self._claimed)

    @recipe
    async def done(self, *writes: Operation) -> None:
        """Delete the item: nobody gets it any more.

        Args:
            writes: ``Put``, ``Delete``, ``Add`` or ``Txn``, done in the same transaction.

        Raises:
            LockLost: the claim was lost; nothing was changed, and somebody else gets the item.
            RuntimeError: it is not claimed, or done already.
            Rejected, NoLeader: nothing was changed, and the item is claimed still.
            OutcomeUnknown: handed over, and no answer in time; if it is not done, the item is free again.
        """
        await self._finish(writes)

    async def _finish(self, writes: Iterable[Operation]) -> None:
        holding = self._held
        holding.check()
        try:
            result = await self._calls.txn(compare=[holding.guard()], then=[Delete(self._claimed.key), Delete(self._key(holding)), *writes])
        except (Rejected, Unavailable):
            raise
        except BaseException:
            self._let_go()
            raise
        if not result:
            self._let_go()
            raise holding.loss()
        self._holding = None
        lifelines.give_back(holding.lifeline)

    @recipe
    async def put_back(self) -> None:
        """Claim the item no longer: it is free again, at its old place.

        It waits for the cluster for ``Config.timeout`` at most; where that can't be reached, the claim ends with its lease.

        Raises:
            RuntimeError: it is not claimed.
        """
        await self._put_back(self._held)

    async def _put_back(self, holding: Holding) -> None:
        try:
            await self._calls.delete(self._key(holding), guard=holding)
        except ReplkvError:
            self._let_go()
        except BaseException:
            self._let_go()
            raise
        else:
            self._holding = None
            lifelines.give_back(holding.lifeline)

    async def _end(self, *, failed: bool) -> None:
        holding = self._holding
        if holding is None:  # it was done within the block
            return
        if holding.is_lost:
            self._let_go()
        elif failed:
            await self._put_back(holding)
        else:
            try:
                await self._finish(())
            except BaseException:
                self._let_go()
                raise

    def _let_go(self) -> None:
        holding, self._holding = self._holding, None
        if holding is not None:
            holding.lifeline.drop()

    def _key(self, holding: Holding) -> bytes:
        return holding.key.removeprefix(self._calls._prefix)  # noqa: SLF001  # of the namespace


class Claim(_Claim, BlockingOnce):
    """An item that is this process's to work on, for threads; made by ``claim()``; see ``_Claim``.

    The block of ``with`` ends with ``done()``, or ``put_back()`` if it raises.
    """


class AsyncClaim(_Claim, AwaitingOnce):
    """An item that is this process's to work on, for asyncio; made by ``claim()``, begun when awaited or entered; see ``_Claim``.

    The block of ``async with`` is cancelled when the claim is lost, and raises ``LockLost``; else it ends with ``done()``, or
    ``put_back()`` if it raises.
    """


class _BlockingItems(Items, Blocking):
    def claim(self, timeout: float | None = None) -> Claim:
        """Take the first item to work on it; it is deleted when that is done, and free again if this process is gone before.

        Args:
            timeout: seconds to wait for an item; None waits without limit, 0 does not wait.

        Returns:
            The item; the block of ``with`` ends with ``done()``, which raises as a write does, or with ``put_back()`` if it raises.

        Raises:
            WaitTimeout: there was none in time; nothing is left behind.
            TypeError, ValueError: no timeout.
            Closed, StorageError: the member has ended.
        """
        limit = to_timeout(timeout)
        return Claim(self, lambda: Deadline(self._clock, limit))._now()  # noqa: SLF001  # made here


class _AwaitingItems(Items, Awaiting):
    def claim(self, timeout: float | None = None) -> AsyncClaim:
        """Take the first item to work on it; as ``Queue.claim``, and that begins when it is awaited or entered with ``async with``."""
        limit = to_timeout(timeout)
        return AsyncClaim(self, lambda: Deadline(self._clock, limit))


class _Queue(Items):
    """A queue: items come out in the order in which they were put, each to one taker.

    Takers that ask at the same time get items in any order among them.  An item that was claimed and is free again is at its old place.
    A taker finds what this member knows, and waits for more; one that does not wait (``timeout=0``) asks the cluster before it says that
    there is nothing.

    Putting and taking are one write each.  A put wakes one waiting taker, not all.  If that one's process stands still or is gone, the
    others that wait are woken when its place in line ends, ``ttl`` seconds later.

    A taker's look goes through the keys of all that was taken since the history was last compacted, some 0.4 ms for each thousand: where
    much goes through, let ``Settings.compact_revisions`` be small, or call ``compact``.

    Args:
        surface: where.
        name: bytes or text.
        codec: what values are stored as: "bytes", "text", "json", "msgpack", ``typed(kind)``, or an object that encodes and decodes.
        ttl: seconds for which a claim, or a place in line, outlives its process, from ``Settings.min_ttl`` to ten years.

    Raises:
        TypeError, ValueError: a bad argument.
    """

    _kind = "queue"

    @recipe
    async def put(self, value: Any) -> int:
        """Put an item at the end.

        Args:
            value: what the codec can encode.

        Returns:
            The revision.

        Raises:
            TypeError, ValueError: the codec can't encode it; nothing was sent.
            TooLarge, QuotaExceeded, NoLeader, OutcomeUnknown: as ``put`` of a key.
        """
        return await self._put(value, 0)


class _PriorityQueue(Items):
    """A queue whose items come out by their priority, the least first, and among those of one priority in the order they were put.

    An item of a lesser number that was put before somebody asks is taken before others.  All else is as in a ``Queue``.

    Args:
        surface: where.
        name: bytes or text.
        codec: as of a ``Queue``.
        ttl: seconds, as of a ``Queue``.

    Raises:
        TypeError, ValueError: a bad argument.
    """

    _kind = "priority_queue"

    @recipe
    async def put(self, value: Any, priority: int = 0) -> int:
        """Put an item behind those of the same priority.

        Args:
            value: what the codec can encode.
            priority: 64 bits, may be negative; the least goes first.

        Returns:
            The revision.

        Raises:
            TypeError, ValueError: no priority, or the codec can't encode the value; nothing was sent.
            TooLarge, QuotaExceeded, NoLeader, OutcomeUnknown: as ``put`` of a key.
        """
        if isinstance(priority, bool) or not isinstance(priority, int):
            raise TypeError(f"priority must be an int, not {type(priority).__name__}")
        if priority not in INT64:
            raise ValueError(f"priority must fit 64 bits, not {priority}")
        return await self._put(value, priority)


class Queue(_Queue, _BlockingItems):
    """A queue, for threads; see ``_Queue``."""


class AsyncQueue(_Queue, _AwaitingItems):
    """A queue, for asyncio; see ``_Queue``."""


class PriorityQueue(_PriorityQueue, _BlockingItems):
    """A priority queue, for threads; see ``_PriorityQueue``."""


class AsyncPriorityQueue(_PriorityQueue, _AwaitingItems):
    """A priority queue, for asyncio; see ``_PriorityQueue``."""
