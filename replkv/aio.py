"""``AsyncReplica``: one member inside this process, for asyncio."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from functools import partial
from types import TracebackType
from typing import Any, Self, TypeVar, cast

from replkv import fork
from replkv.awaiting import AwaitingSurface
from replkv.leasing import AsyncLease
from replkv.node import Node
from replkv.plans import NOT_YET, Plan
from replkv.replica import EmbeddedMember
from replkv.surface import Timeout
from replkv.values import to_timeout
from replkv.waiting import LoopCall, ask, finished, overloaded, resumable, time_left
from replkv.watching import AsyncWatch

R = TypeVar("R")


class AsyncReplica(EmbeddedMember[AsyncWatch, AsyncLease], AwaitingSurface):
    """One member of a cluster, inside this process; every call is awaited.

    The constructor only checks its arguments, which are those of ``Replica``; ``async with`` or ``await open()`` starts the member.
    Its calls are functions that return awaitables: a wrong argument is refused by the call itself, a wrong timeout and what the cluster's
    settings forbid when it is awaited, and nothing is sent before that.
    The member has its own thread: a loop that is blocked for a while delays its own calls, not the cluster.  A call that is cancelled
    before it was handed over has no effect; later, its outcome is unknown.
    """

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
        call = LoopCall(plan.command(node), loop)
        if call.command is None:
            ask(node, plan, call)
        else:
            if not node.proposals.admission.enter(len(call.command)):
                limit = await self._line_up(node, plan, call.command, limit)
            node.submit(call)
        return await self._wait(node, plan, call, limit)

    async def _line_up(self, node: Node, plan: Plan[R], command: bytes, timeout: float | None) -> float | None:
        """Wait until a command is let in; return what is left of the timeout.

        Raises:
            Overloaded: the caller does not want to wait, or waited in vain.
            NoLeader: waited in vain, and that is why.
        """
        if self._config.overload == "raise":
            raise overloaded(node, plan, None)
        size, begun, admission = len(command), node.clock(), node.proposals.admission
        waiting = LoopCall(command, asyncio.get_running_loop())
        node.line_up(waiting, size)
        try:
            await asyncio.wait((waiting.future,), timeout=timeout)
        except asyncio.CancelledError:
            if not admission.give_up(waiting, size):
                admission.leave(1, size)
            raise
        admitted = waiting.future.done() or not admission.give_up(waiting, size)
        return time_left(node, plan, waiting, begun, timeout, admitted=admitted)

    def _wait_on(self, node: Node, plan: Plan[R], call: LoopCall, timeout: float | None) -> Coroutine[Any, Any, R]:
        """Go on waiting for a call whose outcome was unknown."""
        return self._wait(node, plan, call, to_timeout(timeout))

    async def _wait(self, node: Node, plan: Plan[R], call: LoopCall, timeout: float | None) -> R:
        try:
            await asyncio.wait_for(asyncio.shield(call.future), timeout)
        except TimeoutError:
            untouched = node.give_up(call)
            if not call.future.done():
                raise resumable(plan.expired(node, untouched=untouched), partial(self._wait_on, node, plan, call)) from None
        except asyncio.CancelledError:
            node.give_up(call)
            raise
        return finished(call, plan, node)
