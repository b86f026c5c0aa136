"""What hangs on a lease: it can be counted on as long as the lease can, by this process's own clock."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING

from replkv.errors import LockLost
from replkv.waiting import loop_inbox

if TYPE_CHECKING:
    from replkv.engine import Engine
    from replkv.keeper import Held


class Lifeline:
    """A lease that is held in this process, for who hangs something on it.

    Args:
        engine: what keeps it alive.
        held: the lease.
    """

    def __init__(self, engine: Engine, held: Held) -> None:
        self.engine = engine
        self.held = held

    @property
    def id(self) -> int:
        """The lease's number in the cluster."""
        return self.held.id

    @property
    def ttl(self) -> float:
        """Seconds it lives without being kept alive."""
        return self.held.ttl

    @property
    def is_lost(self) -> bool:
        """Whether it can't be counted on any more; never waits."""
        return self.held.lost or self.engine.clock() >= self.held.until

    def remaining(self) -> float:
        """Return for how many seconds it can be counted on."""
        return 0.0 if self.held.lost else max(0.0, self.held.until - self.engine.clock())

    def rest(self) -> None:
        """Keep it alive no longer, and go on counting on it while its time lasts."""
        self.engine.keeper.keep(self.held, alive=False)

    def resume(self) -> bool:
        """Keep it alive again; False: too little of its time is left."""
        return self.remaining() > self.ttl / 2 and self.engine.keeper.keep(self.held, alive=True)

    def drop(self) -> None:
        """Give it up, with whatever hangs on it or may come to hang on it; does not wait."""
        self.engine.keeper.drop(self.held)
        self.engine.look_again()

    def clean(self, command: bytes) -> None:
        """Have a packed command carried out that removes what hangs on it and is not wanted; does not wait."""
        self.engine.keeper.clean(command)
        self.engine.look_again()


class CancelScope:
    """The block of an ``async with`` that is cancelled when a lease is lost, as ``asyncio.timeout`` does when time is over.

    The task is cancelled by this process's own clock, also when the member's thread is stuck: before the cluster gives away what hangs on
    the lease.

    Args:
        lifeline: what the block relies on.
        loss: makes the error; None: the loss is no accident, and ends nothing.
    """

    def __init__(self, lifeline: Lifeline, loss: Callable[[], LockLost | None]) -> None:
        task = asyncio.current_task()
        if task is None:
            raise RuntimeError("a block that relies on a lease must be run by a task: there is nothing to cancel")
        self._lifeline = lifeline
        self._loss = loss
        self._task = task
        self._cancelling = task.cancelling()
        self._cancelled = self._closed = False
        self._loop = asyncio.get_running_loop()
        self._inbox = loop_inbox(self._loop)
        self._timer: asyncio.TimerHandle | None = None
        lifeline.held.on_lost.append(self._tell)
        self._look()

    def _tell(self) -> None:
        self._inbox.put(self._look)

    def _look(self) -> None:
        """Cancel the task if the lease is lost, else look again when it may be; on the loop."""
        if self._timer is not None:
            self._timer.cancel()
        if self._cancelled or self._closed:
            return
        if self._lifeline.is_lost:
            self._cancelled = self._loss() is not None
            if self._cancelled:
                self._task.cancel()
        else:
            self._timer = self._loop.call_later(self._lifeline.remaining(), self._look)

    def close(self, error: BaseException | None) -> None:
        """End the block, which raised ``error``.

        Raises:
            LockLost: the lease was lost, and that is what ended the block, or nothing did.
        """
        self._closed = True
        self._lifeline.held.on_lost.remove(self._tell)
        if self._timer is not None:
            self._timer.cancel()
        if self._cancelled and self._task.uncancel() > self._cancelling:
            return  # somebody else has cancelled it too
        ended_by_this = error is None or (self._cancelled and isinstance(error, asyncio.CancelledError)) or _tells_of_losses_only(error)
        if ended_by_this and self._lifeline.is_lost and (loss := self._loss()) is not None:
            raise loss from error


def _tells_of_losses_only(error: BaseException | None) -> bool:
    """Tell whether this is what a group of tasks raises that were refused what they still tried to write."""
    return isinstance(error, BaseExceptionGroup) and error.split(LockLost)[1] is None
