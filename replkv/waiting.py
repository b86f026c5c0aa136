"""How callers wait: a thread on a lock, an asyncio task on its loop, a future on the notifier.

Each is a ``Call`` that the node finishes on its own thread without blocking.  Tasks and futures are woken once for all that a turn has
finished, not one by one: the first puts the wake-up on its way, the others join the queue.
"""

from __future__ import annotations

import asyncio
import logging
import os
import threading
import weakref
from collections import deque
from concurrent.futures import Future, wait
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from replkv.errors import OutcomeUnknown, Overloaded, ReplkvError
from replkv.proposals import Call
from replkv.values import to_timeout

if TYPE_CHECKING:
    from collections.abc import Callable

    from replkv.engine import Engine, Waits
    from replkv.plans import Plan

R = TypeVar("R")

logger = logging.getLogger(__name__)


class BlockedCall(Call):
    """A thread that waits on a lock."""

    __slots__ = ("_lock", "_waits")

    def __init__(self, command: bytes | None, waits: Waits) -> None:
        super().__init__(command)
        self._waits = waits
        self._lock = threading.Lock()
        self._lock.acquire()

    def finish(self) -> None:
        """Wake the thread."""
        self._lock.release()

    def wait(self, timeout: float | None) -> bool:
        """Wait for at most ``timeout`` seconds; tell whether the call is finished."""
        if not self._waits.acquire(self._lock, timeout):
            return False
        self._lock.release()  # finished stays finished
        return True


class Inbox:
    """What one thread or loop is to do next, calls to resolve above all; at most one wake-up is on its way at any time."""

    def __init__(self, wake: Callable[[], object]) -> None:
        self._wake = wake
        self._todo: deque[Callable[[], object]] = deque()
        self._woken = False

    def put(self, todo: Callable[[], object]) -> None:
        """Add something to do; any thread."""
        self._todo.append(todo)
        if not self._woken:
            self._woken = True
            self._wake()

    def deliver(self) -> None:
        """Do what has come in, on the thread or loop it is for."""
        self._woken = False  # before looking: what comes now wakes again
        while True:
            try:
                todo = self._todo.popleft()
            except IndexError:
                return
            todo()


_inboxes: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, Inbox] = weakref.WeakKeyDictionary()
_inboxes_gate = threading.Lock()  # loops of several threads may come at once


def _in_child() -> None:
    global _inboxes_gate  # noqa: PLW0603  # the thread that may have held it is not in this process
    _inboxes_gate = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_child)


def loop_inbox(loop: asyncio.AbstractEventLoop) -> Inbox:
    """Return the queue through which a loop is woken, once per turn of a member; on the loop's thread."""
    with _inboxes_gate:
        inbox = _inboxes.get(loop)
        if inbox is None:
            for known in list(_inboxes):
                if known.is_closed():  # what is still in its queue would keep it for ever
                    _inboxes.pop(known, None)
            inbox = _inboxes[loop] = _LoopInbox(loop)
        return inbox


class _LoopInbox(Inbox):
    """What one loop is to do; a loop that was closed meanwhile has nobody left who waits."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(self._wake_loop)
        self._loop = weakref.ref(loop)

    def _wake_loop(self) -> None:
        loop = self._loop()
        try:
            if loop is not None:
                loop.call_soon_threadsafe(self.deliver)
        except RuntimeError:
            if loop is not None and not loop.is_closed():
                raise


class LoopCall(Call):
    """An asyncio task that awaits a future of its loop."""

    __slots__ = ("_inbox", "future")

    def __init__(self, command: bytes | None, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(command)
        self._inbox = loop_inbox(loop)
        self.future: asyncio.Future[None] = loop.create_future()

    def finish(self) -> None:
        """Send the call to its loop."""
        self._inbox.put(self.resolve)

    def resolve(self) -> None:
        """Wake the task; on its loop."""
        if not self.future.done():
            self.future.set_result(None)


class _Submitted(Future[Any]):
    """A future whose callbacks run on the notifier's thread, also those that come late, and may not wait for what only it can bring."""

    def __init__(self, notifier: Notifier) -> None:
        super().__init__()
        self._notifier = notifier

    def cancel(self) -> bool:
        return False  # what has been handed over can't be taken back

    def result(self, timeout: float | None = None) -> Any:
        self._notifier.refuse_to_wait_for(self)
        return super().result(timeout)

    def exception(self, timeout: float | None = None) -> BaseException | None:
        self._notifier.refuse_to_wait_for(self)
        return super().exception(timeout)

    def add_done_callback(self, fn: Callable[[Future[Any]], object]) -> None:
        super().add_done_callback(partial(self._notifier.run, fn))


class FutureCall(Call):
    """A ``concurrent.futures.Future`` that the notifier resolves."""

    __slots__ = ("_engine", "_notifier", "_plan", "deadline", "future")

    def __init__(self, command: bytes | None, notifier: Resolver, engine: Engine, plan: Plan[Any], deadline: float) -> None:
        super().__init__(command)
        self._notifier = notifier
        self._engine = engine
        self._plan = plan
        self.deadline = deadline
        self.future: Future[Any] = notifier.future()

    def finish(self) -> None:
        """Send the call to the notifier."""
        self._notifier.inbox.put(self.resolve)

    def resolve(self) -> None:
        """Resolve the future, and run its callbacks; on the notifier's thread."""
        if self.future.done():
            return  # its time ran out before, and nothing can come of it any more
        try:
            result = finished(self, self._plan, self._engine)
        except Exception as error:  # noqa: BLE001  # whatever it is, it is this caller's: the notifier has others to serve
            self.future.set_exception(error)
        else:
            self.future.set_result(result)

    def expire(self) -> None:
        """Give up: its time has run out.  A write that was handed over goes on, for whoever waits on."""
        if self.future.done():
            return
        untouched = self._engine.give_up(self)
        if self.answer is None and self.error is None:
            expired = self.future
            if not untouched:
                self.future = self._notifier.future()
            expired.set_exception(self._expired(untouched=untouched))

    def _expired(self, *, untouched: bool) -> ReplkvError:
        return resumable(self._plan.expired(self._engine, untouched=untouched), self._wait)

    def _wait(self, timeout: float | None) -> Any:
        limit = to_timeout(timeout)
        self._notifier.refuse_to_wait_for(self.future)
        if not wait((self.future,), limit).done:
            raise self._expired(untouched=False)
        return self.future.result()


class Resolver:
    """Resolves futures, and gives them up when their time has run out, wherever ``_look`` is called.

    Args:
        wake: called when there is something to resolve.
    """

    def __init__(self, wake: Callable[[], object]) -> None:
        self.inbox = Inbox(wake)
        self._calls: deque[FutureCall] = deque()  # in the order of their deadlines: all have the same timeout

    def future(self) -> Future[Any]:
        """Return a new future, which is resolved here."""
        raise NotImplementedError

    def expect(self, call: FutureCall) -> None:
        """Watch over a call's deadline."""
        self._calls.append(call)

    def refuse_to_wait_for(self, future: Future[Any]) -> None:
        """Refuse to wait for a future where only this wait's end could resolve it.

        Raises:
            RuntimeError: it is so here, and the future is not resolved.
        """

    def _look(self, now: float) -> None:
        while True:
            try:
                self.inbox.deliver()
                self._expire(now)
            except BaseException:  # a callback may even call sys.exit(): others wait behind it
                logger.exception("a callback of a future raised")
            else:
                return

    def _expire(self, now: float) -> None:
        while self._calls and (self._calls[0].future.done() or self._calls[0].deadline <= now):
            self._calls.popleft().expire()


class Notifier(Resolver):
    """The thread that resolves futures and runs their callbacks, so that a slow one delays no decision."""

    def __init__(self, name: str, clock: Callable[[], float]) -> None:
        super().__init__(self._wake)
        self._clock = clock
        self._ready = threading.Semaphore(0)
        self._closed = False
        self._ended = False
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def _wake(self) -> None:
        self._ready.release()
        if self._ended:
            self._look(float("-inf"))  # a call that came too late for the thread, and must not wait for ever

    def future(self) -> Future[Any]:
        """Return a new future, whose callbacks run on the notifier's thread."""
        return _Submitted(self)

    def run(self, callback: Callable[[Future[Any]], object], future: Future[Any]) -> None:
        """Run a future's callback on the notifier's thread."""
        if threading.get_ident() == self._thread.ident:
            callback(future)
        else:
            self.inbox.put(partial(callback, future))

    def refuse_to_wait_for(self, future: Future[Any]) -> None:
        """Refuse to wait for a future on the thread that resolves it.

        Raises:
            RuntimeError: this is that thread, and the future is not resolved.
        """
        if threading.get_ident() == self._thread.ident and not future.done():
            raise RuntimeError("a callback that waits for another future would wait for itself: give that one a callback too")

    def stop(self) -> None:
        """Resolve what has come in, then end; does not wait for it."""
        self._closed = True
        self._ready.release()

    def close(self) -> None:
        """Stop, and wait a moment."""
        self.stop()
        if threading.current_thread() is not self._thread:
            self._thread.join(1.0)

    def _run(self) -> None:
        while not self._closed:
            self._ready.acquire(timeout=0.1)
            self._look(self._clock())
        self._ended = True  # before the last look: what comes later is resolved by whoever brings it
        self._look(float("inf"))  # and what a stuck disk still holds up is given up


def overloaded(engine: Engine, plan: Plan[Any], waited: float | None) -> ReplkvError:
    """Return the error for a command that was not let in, after waiting so many seconds or, with None, at once."""
    if waited is not None and engine.leader is None:
        return plan.expired(engine, untouched=True)  # that is why nothing gets on
    config = engine.config
    return Overloaded(
        f"{engine.name}: {'no room' if waited is None else f'still no room after {waited:.3g} s'} for another command: Config allows "
        f"{config.max_commands_in_flight} commands and {config.max_bytes_in_flight} bytes under way; nothing was sent, try again later"
    )


def left(engine: Engine, begun: float, timeout: float | None) -> float | None:
    """Return what is left of a timeout.

    Args:
        engine: has the clock.
        begun: when it began to run.
        timeout: seconds from then; None: without limit.
    """
    return None if timeout is None else max(0.0, timeout - (engine.clock() - begun))


def time_left(engine: Engine, plan: Plan[Any], line: Call, begun: float, timeout: float | None, *, admitted: bool) -> float | None:
    """Return what is left of a caller's timeout, now that it is out of the line for admission.

    Args:
        engine: what carries the plan out.
        plan: what is to be done.
        line: what stood in the line.
        begun: when, on the engine's clock.
        timeout: seconds from then.
        admitted: whether the command was let in, or refused for good.

    Raises:
        Overloaded: the caller waited in vain.
        NoLeader: likewise, and that is why.
        Closed, StorageError: the member has ended.
    """
    if not admitted:
        raise overloaded(engine, plan, engine.clock() - begun)
    if line.error is not None:
        raise line.error.again()
    return left(engine, begun, timeout)


def finished(call: Call, plan: Plan[R], engine: Engine) -> R:
    """Return the result of a finished call, or raise its error."""
    if call.error is not None:
        raise call.error.again()
    return plan.meaning(engine.answer(plan, call))


def resumable(error: ReplkvError, resume: Callable[[float | None], Any]) -> ReplkvError:
    """Return the error with what its ``wait`` does, if it is an OutcomeUnknown."""
    if isinstance(error, OutcomeUnknown):
        error._resume = resume  # noqa: SLF001  # the two belong together
    return error
