"""How a call of a facade is carried out: by blocking, by awaiting, or as a future.

What carries it out is the facade's ``Engine``, a member in this process or a connection to one: all facades do it in the same way.
"""

from __future__ import annotations

import asyncio
import os
from abc import abstractmethod
from collections.abc import Awaitable, Callable, Coroutine, Generator
from functools import partial
from typing import TYPE_CHECKING, Any, Final, TypeVar

from replkv.administration import Administration
from replkv.auth_calls import AsyncAuth, BlockingAuth
from replkv.awaiting import AwaitingSurface
from replkv.backup import Backup, File, State, TakeHold, gathered, write_backup, write_beside
from replkv.blocking import BlockingSurface
from replkv.errors import ReplkvError
from replkv.plans import Plan
from replkv.reads import NOT_YET
from replkv.surface import DEFAULT, Timeout
from replkv.values import ScanResult, to_timeout
from replkv.waiting import BlockedCall, FutureCall, LoopCall, Resolver, finished, left, overloaded, resumable, time_left

if TYPE_CHECKING:
    from concurrent.futures import Future

    from replkv.config import Config, Settings
    from replkv.engine import Engine
    from replkv.wire import Raw

R = TypeVar("R")
W = TypeVar("W")
L = TypeVar("L")

_STEPS_PER_TURN: Final = 8
"""After so many steps of a long read, of 256 keys each, a loop is given back: some 2 ms."""


class Facade(Administration[W, L]):
    """What facades share, whoever waits and however."""

    _config: Config
    _notifier: Resolver | None

    @abstractmethod
    def _make_room(self, engine: Engine, plan: Plan[Any], command: bytes) -> None:
        """Let a command in for ``submit``.

        Raises:
            Overloaded: there is no room.
        """

    def _timeout(self, timeout: Timeout) -> float | None:
        return self._config.timeout if timeout is DEFAULT else to_timeout(timeout)

    @property
    def revision(self) -> int:
        """The newest revision that is seen from here; an empty store is at 1."""
        return self._engine().revision

    def settings(self) -> Settings:
        """Return the settings the cluster lives by."""
        return self._engine().settings

    def _submit(self, plan: Plan[R]) -> Future[R]:
        engine = self._engine()
        assert self._notifier is not None  # noqa: S101  # an open facade has one
        call = FutureCall(plan.command(engine), self._notifier, engine, plan, engine.clock() + self._config.timeout)
        if call.command is not None:
            self._make_room(engine, plan, call.command)
        self._notifier.expect(call)
        if call.command is None:
            engine.ask(plan, call)
        else:
            engine.submit(call)
        return call.future


class BlockingFacade(Facade[W, L], BlockingSurface):
    """A facade on which a call blocks until it has its result."""

    @property
    def auth(self) -> BlockingAuth:
        """Users, roles and permissions of the cluster."""
        return BlockingAuth(self)

    def backup(
        self,
        path: str | os.PathLike[str],
        *,
        overwrite: bool = False,
        on_progress: Callable[[int], object] | None = None,
        timeout: Timeout = DEFAULT,
    ) -> Backup:
        """Write all there is to a file on this machine, with which ``replkv.restore`` can begin a cluster; everything else goes on.

        Any member can, learners too, and any client; what was acknowledged before is in it.  The file gets its name when it is whole and
        durable, and was read back and found to be what was written.  Only its owner may read it.

        A member keeps history until it has written it.  A client reads bit by bit at one revision, and leaves history out, as a restore
        does in any case: where so much is written meanwhile that this revision is compacted, have a member take the backup.

        Args:
            path: of the file, in a directory that exists; a backup that was cut off leaves at most a hidden file beside it.
            overwrite: it may take the place of a file that is there.
            on_progress: called now and then with the bytes of content that were written so far.
            timeout: seconds for each of the calls that ask for the state; writing takes as long as it takes.

        Raises:
            TypeError, ValueError: no path or timeout.
            OSError: the file can't be written; nothing is left of it.  ``FileExistsError``: it is there.
            Corrupt: what was read back is not what was written; nothing is left of it.
            Compacted: by a client, see above; nothing is left of the file.
            Incompatible: by a client whose version is not that of the member.
        """
        with File.of(path, overwrite=overwrite) as file:
            state = self._run(TakeHold(), timeout)
            if not isinstance(state, State):
                state = gathered(state, partial(self.scan, timeout=timeout))
            return write_backup(state, file, progress=on_progress)

    def _run(self, plan: Plan[R], timeout: Timeout) -> R:  # type: ignore[override]  # what operation promises on a Blocking surface
        engine, limit = self._engine(), self._timeout(timeout)
        if plan.sequel is None:
            return self._carry_out(engine, plan, limit)
        begun = engine.clock()
        result = self._carry_out(engine, plan, limit)
        self._carry_out(engine, plan.sequel, left(engine, begun, limit))
        return result

    def _get(self, key: bytes, consistency: str, prefix: bytes) -> Any:
        engine = self._engine()
        found = engine.at_hand(key, consistency, prefix)
        return super()._get(key, consistency, prefix) if found is NOT_YET else found

    def _carry_out(self, engine: Engine, plan: Plan[R], limit: float | None) -> R:
        command = plan.command(engine)
        if command is None and (raw := engine.at_once(plan)) is not NOT_YET:
            return plan.meaning(raw)
        engine.refuse_to_block()
        call = BlockedCall(command, engine.waits)
        try:
            limit = self._hand_over(engine, plan, call, limit)
            return self._wait(engine, plan, call, limit)
        except ReplkvError:
            raise
        except BaseException:  # Ctrl-C, at whatever moment: nothing is left behind, as far as that can be
            engine.give_up(call)
            raise

    def _hand_over(self, engine: Engine, plan: Plan[Any], call: BlockedCall, limit: float | None) -> float | None:
        """Queue a call, a command when it has been let in; return what is left of the timeout."""
        if call.command is None:
            engine.ask(plan, call)
            return limit
        if not engine.admission.enter(len(call.command)):
            limit = self._line_up(engine, plan, call.command, limit)
        engine.submit(call)
        return limit

    def _make_room(self, engine: Engine, plan: Plan[Any], command: bytes) -> None:
        if not engine.admission.enter(len(command)):
            engine.refuse_to_block()
            self._line_up(engine, plan, command, self._config.timeout)

    def _line_up(self, engine: Engine, plan: Plan[Any], command: bytes, timeout: float | None) -> float | None:
        """Wait until a command is let in; return what is left of the timeout.

        Raises:
            Overloaded: the caller does not want to wait, or waited in vain.
            NoLeader: waited in vain, and that is why.
        """
        if self._config.overload == "raise":
            raise overloaded(engine, plan, None)
        size, begun, admission = len(command), engine.clock(), engine.admission
        waiting = BlockedCall(command, engine.waits)
        engine.line_up(waiting, size)
        try:
            admitted = waiting.wait(timeout) or not admission.give_up(waiting, size)
        except BaseException:
            if not admission.give_up(waiting, size):
                admission.leave(1, size)  # Ctrl-C came when it had just been let in
            raise
        return time_left(engine, plan, waiting, begun, timeout, admitted=admitted)

    def _wait_on(self, engine: Engine, plan: Plan[R], call: BlockedCall, timeout: float | None) -> R:
        """Go on waiting for a call whose outcome was unknown."""
        limit = to_timeout(timeout)
        engine.refuse_to_block()
        return self._wait(engine, plan, call, limit)

    def _wait(self, engine: Engine, plan: Plan[R], call: BlockedCall, timeout: float | None) -> R:
        if not call.wait(timeout):
            untouched = engine.give_up(call)
            if not call.wait(0):
                raise resumable(plan.expired(engine, untouched=untouched), partial(self._wait_on, engine, plan, call))
        return finished(call, plan, engine)


class AwaitingFacade(Facade[W, L], AwaitingSurface):
    """A facade on which a call is awaited."""

    @property
    def auth(self) -> AsyncAuth:
        """Users, roles and permissions of the cluster; each call is awaited."""
        return AsyncAuth(self)

    async def backup(
        self,
        path: str | os.PathLike[str],
        *,
        overwrite: bool = False,
        on_progress: Callable[[int], object] | None = None,
        timeout: Timeout = DEFAULT,
    ) -> Backup:
        """Write all there is to a file, as ``Replica.backup``, on a thread of its own; nothing is left of one that is cancelled.

        Args:
            path: of the file, in a directory that exists.
            overwrite: it may take the place of a file that is there.
            on_progress: called on that thread, now and then, with the bytes of content that were written so far.
            timeout: seconds for each of the calls that ask for the state.

        Raises:
            TypeError, ValueError, OSError, Corrupt, Compacted, Incompatible: as by ``Replica.backup``.
        """
        loop = asyncio.get_running_loop()

        def scan(**arguments: Any) -> ScanResult:
            return asyncio.run_coroutine_threadsafe(self.scan(**arguments, timeout=timeout), loop).result()

        with File.of(path, overwrite=overwrite) as file:
            state = await self._run(TakeHold(), timeout)
            if not isinstance(state, State):
                state = await loop.run_in_executor(None, gathered, state, scan)
            return await write_beside(state, file, on_progress)

    async def _run(self, plan: Plan[R], timeout: Timeout) -> R:  # type: ignore[override]  # what operation promises on an Awaiting surface
        engine, limit = self._engine(), self._timeout(timeout)
        if plan.sequel is None:
            return await self._carry_out(engine, plan, limit)
        begun = engine.clock()
        result = await self._carry_out(engine, plan, limit)
        await self._carry_out(engine, plan.sequel, left(engine, begun, limit))
        return result

    async def _get(self, key: bytes, consistency: str, prefix: bytes) -> Any:  # type: ignore[override]  # as _run
        engine = self._engine()
        found = engine.at_hand(key, consistency, prefix)
        return await super()._get(key, consistency, prefix) if found is NOT_YET else found  # type: ignore[misc]  # as _run

    async def _carry_out(self, engine: Engine, plan: Plan[R], limit: float | None) -> R:
        command = plan.command(engine)
        if command is None:
            raw = await _in_turns(engine.answer_in_steps(plan, None)) if plan.is_long else engine.at_once(plan)
            if raw is not NOT_YET:
                return await _meaning(plan, raw)
        call = LoopCall(command, asyncio.get_running_loop())
        if command is None:
            engine.ask(plan, call)
        else:
            if not engine.admission.enter(len(command)):
                limit = await self._line_up(engine, plan, command, limit)
            engine.submit(call)
        return await self._wait(engine, plan, call, call.first_wait(limit))

    def _make_room(self, engine: Engine, plan: Plan[Any], command: bytes) -> None:
        if not engine.admission.enter(len(command)):
            raise overloaded(engine, plan, None)  # a loop must not be blocked

    async def _line_up(self, engine: Engine, plan: Plan[Any], command: bytes, timeout: float | None) -> float | None:
        """Wait until a command is let in; return what is left of the timeout.

        Raises:
            Overloaded: the caller does not want to wait, or waited in vain.
            NoLeader: waited in vain, and that is why.
        """
        if self._config.overload == "raise":
            raise overloaded(engine, plan, None)
        size, begun, admission = len(command), engine.clock(), engine.admission
        waiting = LoopCall(command, asyncio.get_running_loop())
        engine.line_up(waiting, size)
        try:
            await asyncio.wait((waiting.future,), timeout=timeout)
        except asyncio.CancelledError:
            if not admission.give_up(waiting, size):
                admission.leave(1, size)
            raise
        admitted = waiting.future.done() or not admission.give_up(waiting, size)
        return time_left(engine, plan, waiting, begun, timeout, admitted=admitted)

    def _wait_on(self, engine: Engine, plan: Plan[R], call: LoopCall, timeout: float | None) -> Coroutine[Any, Any, R]:
        """Go on waiting for a call whose outcome was unknown."""
        return self._wait(engine, plan, call, asyncio.wait((call.future,), timeout=to_timeout(timeout)))

    async def _wait(self, engine: Engine, plan: Plan[R], call: LoopCall, waits: Awaitable[object]) -> R:
        try:
            await waits
        except asyncio.CancelledError:
            engine.give_up(call)
            raise
        if not call.future.done():
            untouched = engine.give_up(call)
            if not call.future.done():
                raise resumable(plan.expired(engine, untouched=untouched), partial(self._wait_on, engine, plan, call))
        if plan.is_long and call.error is None:
            return await _meaning(plan, await _in_turns(engine.answer_in_steps(plan, call)))
        return finished(call, plan, engine)


async def _meaning(plan: Plan[R], raw: Raw) -> R:
    return await _in_turns(plan.meaning_in_steps(raw)) if plan.is_long else plan.meaning(raw)


async def _in_turns(steps: Generator[None, None, R]) -> R:
    """Carry out what is done in steps, and give the loop back after every few of them; to be cancelled meanwhile does no harm."""
    while True:
        try:
            for _ in range(_STEPS_PER_TURN):
                next(steps)
        except StopIteration as end:
            result: R = end.value
            return result
        await asyncio.sleep(0)
