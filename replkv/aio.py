"""``AsyncReplica``: one member inside this process, for asyncio."""

from __future__ import annotations

import asyncio
from functools import partial
from types import TracebackType
from typing import Self, TypeVar, cast

from replkv import fork
from replkv.node import Node
from replkv.plans import NOT_YET, Plan
from replkv.replica import EmbeddedMember
from replkv.surface import Awaiting, Timeout
from replkv.waiting import Inbox, LoopCall, finished, resumable

R = TypeVar("R")


class AsyncReplica(EmbeddedMember, Awaiting):
    """One member of a cluster, inside this process; every call is awaited.

    The constructor only checks its arguments, which are those of ``Replica``; ``async with`` or ``await open()`` starts the member.
    The member has its own thread: a loop that is blocked for a while delays its own calls, not the cluster.  A call that is cancelled
    before it was handed over has no effect; later, its outcome is unknown.
    """

    def _constructed(self) -> None:
        self._inboxes: dict[asyncio.AbstractEventLoop, Inbox] = {}

    async def open(self) -> Self:
        """Open, recover and start the member, without blocking the loop; does nothing when open already.

        Raises:
            ValueError: the address can't be listened on.
            StorageError: the directory can't be used.
            Closed: it was closed, or an ``open`` of it was cancelled; make a new one.
        """
        loop = asyncio.get_running_loop()
        try:
            await loop.run_in_executor(None, self._start_once)
        except asyncio.CancelledError:
            loop.run_in_executor(None, self._close, 5.0)  # nobody is left who would
            raise
        return self

    async def close(self, timeout: float = 5.0) -> None:
        """Hand leadership over, stop, and let go of the directory; does nothing when closed already, and never hangs.

        Args:
            timeout: seconds.
        """
        if not fork.forked():
            await asyncio.get_running_loop().run_in_executor(None, self._close, timeout)

    async def __aenter__(self) -> Self:
        return await self.open()

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await asyncio.shield(self.close())

    async def _run(self, plan: Plan[R], timeout: Timeout) -> R:  # type: ignore[override]  # what operation promises on an Awaiting surface
        node = self._running()
        limit = self._timeout(timeout)
        result = plan.at_once(node)
        if result is not NOT_YET:
            return cast("R", result)
        loop = asyncio.get_running_loop()
        call = LoopCall(plan.command(node), self._inbox(loop), loop)
        (node.read_barrier if call.command is None else node.submit)(call)
        return await self._wait(node, plan, call, limit)

    async def _wait(self, node: Node, plan: Plan[R], call: LoopCall, timeout: float | None) -> R:
        try:
            await asyncio.wait_for(asyncio.shield(call.future), timeout)
        except TimeoutError:
            untouched = node.give_up(call)
            if not call.future.done():
                raise resumable(plan.expired(node, untouched=untouched), partial(self._wait, node, plan, call)) from None
        except asyncio.CancelledError:
            node.give_up(call)
            raise
        return finished(call, plan, node)

    def _inbox(self, loop: asyncio.AbstractEventLoop) -> Inbox:
        """Return the queue through which this loop is woken, once per block."""
        inbox = self._inboxes.get(loop)
        if inbox is None:
            for known in list(self._inboxes):
                if known.is_closed():
                    self._inboxes.pop(known, None)
            inbox = self._inboxes[loop] = _LoopInbox(loop)
        return inbox


class _LoopInbox(Inbox):
    """What one loop is to do; a loop that was closed meanwhile has nobody left who waits."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(self._wake_loop)
        self._loop = loop

    def _wake_loop(self) -> None:
        try:
            self._loop.call_soon_threadsafe(self.deliver)
        except RuntimeError:
            if not self._loop.is_closed():
                raise
