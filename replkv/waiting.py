"""How callers wait: a thread on a lock, an asyncio task on its loop, a future on the notifier.

Each is a ``Call`` that the node finishes on its own thread without blocking.  The tasks of a loop and the futures of a member are handed
over together, all that a batch answers at once, and at most one wake-up is on its way to them.  A future that nobody wants is left alone.
"""

from __future__ import annotations

import asyncio
import logging
import os
import threading
import weakref
from collections import deque
from concurrent.futures import Future, wait
from concurrent.futures._base import FINISHED, PENDING
from functools import partial
from itertools import groupby
from operator import attrgetter
from typing import TYPE_CHECKING, Any, Final, TypeAlias, TypeVar

from replkv.errors import OutcomeUnknown, Overloaded, ReplkvError
from replkv.proposals import Call
from replkv.values import to_timeout

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from replkv.engine import Engine, Waits
    from replkv.plans import Plan

    Outcome: TypeAlias = tuple[Future[Any], Any, Exception | None]
    """A future that is to be resolved, with what: a result, or an error."""

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

    __slots__ = ("_inbox", "_loop", "future")

    def __init__(self, command: bytes | None, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(command)
        self._inbox = loop_inbox(loop)
        self._loop = loop
        self.future: asyncio.Future[None] = loop.create_future()

    async def first_wait(self, timeout: float | None) -> None:
        """Wait until it is finished, or for ``timeout`` seconds; whoever waits on does so by ``asyncio.wait``, for several may.

        That costs more, and ``wait_for`` of Python 3.11 loses a cancellation that comes with the answer.
        """
        timer = None if timeout is None else self._loop.call_later(timeout, self._time_out)
        try:
            await self.future
        finally:
            if timer is not None:
                timer.cancel()

    def _time_out(self) -> None:
        """Wake the task although the call is not finished; another future waits for that from now on."""
        if not self.future.done():
            waited, self.future = self.future, self._loop.create_future()
            waited.set_result(None)

    def finish(self) -> None:
        """Send the call to its loop."""
        self._inbox.put(partial(_wake_tasks, (self,)))

    @classmethod
    def finish_together(cls, calls: Iterable[LoopCall]) -> None:  # type: ignore[override]  # it is given calls of its own kind
        """Send calls to their loops, to each all that are its own."""
        for inbox, its in groupby(calls, _INBOX):
            inbox.put(partial(_wake_tasks, tuple(its)))


_INBOX: Final = attrgetter("_inbox")


def _wake_tasks(calls: Sequence[LoopCall]) -> None:
    """Wake the tasks of finished calls; on their loop."""
    try:
        for call in calls:
            if not call.future.done():
                call.future.set_result(None)
    except BaseException:  # Ctrl-C: the loop may be run again, and then wakes the others
        _INBOX(calls[0]).put(partial(_wake_tasks, calls))
        raise


class Submitted(Future[Any]):
    """What ``submit`` returns."""

    wanted = True
    """Whether it must be resolved although nobody asks it: somebody waits for it, or is to be called back."""

    def cancel(self) -> bool:
        """Refuse: what has been handed over can't be taken back."""
        return False


class _Lazy(Submitted):
    """A future whose callbacks run on the notifier's thread, also those that come late, and may not wait for what only it can bring.

    Most futures of writes are looked at when their calls are finished, or never.  To resolve each on the notifier's thread would cost more
    than all else that a put costs its caller; so that is done only for those that are ``wanted``, and of the others whoever looks first
    finds out what has become of the call.  ``Future`` gives each a condition and two lists; here they are made when somebody asks for them,
    and the future is watched from then on: it is resolved as ``Future`` does it.  Both changes are made under the notifier's gate, and
    whoever makes one looks at the call afterwards: a call that is finished looks whether its future is wanted afterwards, too.
    """

    _state = PENDING
    _result: Any = None
    _exception: BaseException | None = None
    _done_callbacks: Sequence[Callable[[Future[Any]], object]] = ()
    _watched = False
    wanted = False

    def __init__(self, notifier: Notifier, call: FutureCall) -> None:  # without that of Future
        self._notifier = notifier
        self._call: FutureCall | None = call

    def __getattr__(self, name: str) -> Any:
        made, own = vars(Future()), vars(self)
        if name not in made:
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        self.done()
        with self._notifier.gate:
            if not self._watched:  # else another thread was here before, and it may be resolved without the gate
                self._watched = self.wanted = True
                own.update(made | own)  # what it has stays
        self._catch_up()
        return own[name]

    def _catch_up(self) -> None:
        """Have it resolved if its call was finished before it was wanted, or just now."""
        call = self._call
        if call is not None and call.is_finished and self._state != FINISHED:
            self._notifier.inbox.put(partial(self._notifier.resolve, (call,)))

    def settle(self, result: Any, error: BaseException | None) -> Sequence[Callable[[Future[Any]], object]] | None:
        """Resolve it, under the notifier's gate, and return its callbacks; None: it is watched, and not resolved."""
        if self._state == FINISHED:
            return ()  # who wanted it has found it finished
        if self._watched:
            self._call = None  # which refers to it: neither is left to the garbage collector
            return None
        if error is None:
            self._result = result
        else:
            self._exception = error
        self._state, self._call = FINISHED, None  # the last: from now on others may look
        return self._done_callbacks

    def cancelled(self) -> bool:
        return False

    def done(self) -> bool:
        call = self._call
        # What becomes of a write is the same whenever it is asked for; of a read, it is what can be read then.
        if call is None or call.command is None or self.wanted or self._state == FINISHED or not call.is_finished:
            return self._state == FINISHED
        outcome = call.outcome()
        with self._notifier.gate:
            if not self.wanted:  # else the notifier has been asked
                self.settle(*outcome)
        return self._state == FINISHED

    def result(self, timeout: float | None = None) -> Any:
        if self.done() and self._exception is None:
            return self._result
        self._notifier.refuse_to_wait_for(self)
        return super().result(timeout)

    def exception(self, timeout: float | None = None) -> BaseException | None:
        self._notifier.refuse_to_wait_for(self)
        return super().exception(timeout)

    def add_done_callback(self, fn: Callable[[Future[Any]], object]) -> None:
        then = partial(self._notifier.run, fn)
        pending = not self.done()
        with self._notifier.gate:
            if pending := pending and not self._watched and self._state != FINISHED:
                self._done_callbacks = [*self._done_callbacks, then]
                self.wanted = True
        if pending:
            self._catch_up()
        else:
            super().add_done_callback(then)


class FutureCall(Call):
    """A ``concurrent.futures.Future`` that is resolved by the notifier where somebody wants that.

    Attributes:
        deadline: when it is given up, in seconds of the engine's clock.
        future: what waits for it now.
        resolved: nothing more will come of it.
    """

    __slots__ = ("_engine", "_notifier", "_plan", "deadline", "future", "resolved")

    def __init__(self, command: bytes | None, notifier: Resolver, engine: Engine, plan: Plan[Any], deadline: float) -> None:
        super().__init__(command)
        self._notifier = notifier
        self._engine = engine
        self._plan = plan
        self.deadline = deadline
        self.future = notifier.future(self)
        self.resolved = False

    @property
    def is_finished(self) -> bool:
        """Whether it has an answer or an error."""
        return self.answer is not None or self.error is not None

    @property
    def is_long(self) -> bool:
        """Whether it may take a while to find its outcome out."""
        return self.command is None and self._plan.is_long

    def finish(self) -> None:
        """Send the call to the notifier, if its future is wanted."""
        self.finish_together((self,))

    @classmethod
    def finish_together(cls, calls: Iterable[FutureCall]) -> None:  # type: ignore[override]  # it is given calls of its own kind
        """Send those calls whose futures are wanted to their notifiers, to each all that are its own."""
        wanted = [call for call in calls if call.command is None or call.future.wanted]
        for notifier, its in groupby(wanted, _NOTIFIER):
            notifier.inbox.put(partial(notifier.resolve, tuple(its)))

    def outcome(self) -> tuple[Any, Exception | None]:
        """Return what has become of the call, which is finished: a result, or an error."""
        try:
            return finished(self, self._plan, self._engine), None
        except Exception as error:  # noqa: BLE001  # whatever it is, it is this caller's: the notifier has others to serve
            return None, error

    def expire(self) -> None:
        """Give up: its time has run out.  A write that was handed over goes on, for whoever waits on."""
        untouched = self._engine.give_up(self)
        if not self.is_finished:
            expired, self.resolved = self.future, untouched
            if not untouched:
                self.future = self._notifier.future(self)
            self._notifier.settle([(expired, None, self._expired(untouched=untouched))])

    def _expired(self, *, untouched: bool) -> ReplkvError:
        return resumable(self._plan.expired(self._engine, untouched=untouched), self._wait)

    def _wait(self, timeout: float | None) -> Any:
        limit = to_timeout(timeout)
        self._notifier.refuse_to_wait_for(self.future)
        if not wait((self.future,), limit).done:
            raise self._expired(untouched=False)
        return self.future.result()


_NOTIFIER: Final = attrgetter("_notifier")
_RAISED: Final = "a callback of a future raised"


class Resolver:
    """Resolves futures, and gives them up when their time has run out, wherever ``_look`` is called.

    Args:
        wake: called when there is something to resolve.
    """

    def __init__(self, wake: Callable[[], object]) -> None:
        self.inbox = Inbox(wake)
        self._calls: deque[FutureCall] = deque()  # in the order of their deadlines: all have the same timeout

    def future(self, call: FutureCall) -> Submitted:
        """Return a new future of a call, which is resolved here."""
        raise NotImplementedError

    def expect(self, call: FutureCall) -> None:
        """Watch over a call's deadline."""
        self._calls.append(call)

    def resolve(self, calls: Iterable[FutureCall]) -> None:
        """Resolve the futures of finished calls, but for those that were given up, of which nothing can come any more."""
        outcomes = []
        for call in calls:
            if not call.resolved:
                call.resolved = True
                outcomes.append((call.future, *call.outcome()))
                if call.is_long:  # nobody waits for what others read
                    self.settle(outcomes)
                    outcomes = []
        self.settle(outcomes)

    def settle(self, outcomes: Iterable[Outcome]) -> None:
        """Resolve futures, and have their callbacks run."""
        for future, result, error in outcomes:
            if error is None:
                future.set_result(result)
            else:
                future.set_exception(error)

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
                logger.exception(_RAISED)
            else:
                return

    def _expire(self, now: float) -> None:
        calls = self._calls
        while calls and ((over := calls[0].resolved or calls[0].is_finished) or calls[0].deadline <= now):
            call = calls.popleft()
            if not over:
                call.expire()


class Notifier(Resolver):
    """The thread that resolves futures and runs their callbacks, so that a slow one delays no decision."""

    def __init__(self, name: str, clock: Callable[[], float]) -> None:
        super().__init__(self._wake)
        self._clock = clock
        self.gate = threading.RLock()  # a finalizer or a signal may look at a future while its thread holds it
        self._ready = threading.Semaphore(0)
        self._closed = False
        self._ended = False
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def _wake(self) -> None:
        self._ready.release()
        if self._ended:
            self._look(float("-inf"))  # a call that came too late for the thread, and must not wait for ever

    def future(self, call: FutureCall) -> Submitted:
        """Return a new future of a call, whose callbacks run on the notifier's thread."""
        return _Lazy(self, call)

    def settle(self, outcomes: Sequence[tuple[_Lazy, Any, Exception | None]]) -> None:  # type: ignore[override]  # its own futures
        """Resolve futures, those that nobody watches under the gate, which is taken once for all of them; then run callbacks in order."""
        with self.gate:
            due = [future.settle(result, error) for future, result, error in outcomes]
        for outcome, callbacks in zip(outcomes, due, strict=True):
            if callbacks is None:
                super().settle((outcome,))
            else:
                for callback in callbacks:
                    callback(outcome[0])

    def run(self, callback: Callable[[Future[Any]], object], future: Future[Any]) -> None:
        """Run a future's callback on the notifier's thread, at once if this is it; whatever it raises is nobody else's."""
        if threading.get_ident() != self._thread.ident:
            self.inbox.put(partial(callback, future))
            return
        try:
            callback(future)
        except BaseException:  # as in _look
            logger.exception(_RAISED)

    def refuse_to_wait_for(self, future: Future[Any]) -> None:
        """Refuse to wait for a future on the thread that resolves it.

        Raises:
            RuntimeError: this is that thread, and the future is not resolved.
        """
        thread = self._thread
        if thread.ident == threading.get_ident() and thread.is_alive() and not future.done():  # idents are used again
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
    raw = call.answer if call.command is not None else engine.answer(plan, call)  # to a command it is what the machine said
    return plan.meaning(raw)  # type: ignore[arg-type]  # a finished call has an answer


def resumable(error: ReplkvError, resume: Callable[[float | None], Any]) -> ReplkvError:
    """Return the error with what its ``wait`` does, if it is an OutcomeUnknown."""
    if isinstance(error, OutcomeUnknown):
        error._resume = resume  # noqa: SLF001  # the two belong together
    return error
