"""``replkv lock``: a command that runs while a lock is held, and no longer."""

from __future__ import annotations

import asyncio
import os
import signal
from asyncio.subprocess import Process
from collections.abc import Sequence
from contextlib import suppress
from types import TracebackType
from typing import TYPE_CHECKING, Final, Self

from attrs import frozen

from replkv import LockLost, aio
from replkv.cli.codes import NOT_EXECUTABLE, NOT_FOUND, SIGNAL, TRY_AGAIN, complain

if TYPE_CHECKING:
    from replkv.cli.asking import Asking
    from replkv.recipes.lock import AsyncLock

FENCE: Final = "REPLKV_FENCE"
"""The variable that tells the command its fence."""
PASSED_ON: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2)
FROM_THE_TERMINAL: Final = (signal.SIGINT, signal.SIGQUIT)
"""What a terminal sends to the command as well, on Ctrl-C and on Ctrl-\\."""


@frozen
class Wish:
    """What is to be done under which lock.

    Args:
        name: of the lock.
        command: with its arguments.
        ttl: seconds for which the lock outlives this process.
        timeout: seconds to wait for the lock; None waits without limit.
        wait: whether to wait at all.
        grace: seconds that the command has to end itself when the lock is lost.
    """

    name: bytes
    command: Sequence[str]
    ttl: float
    timeout: float | None
    wait: bool
    grace: float


class Signals:
    """What becomes of signals: they end the wait for the lock; once a command runs they are passed on to it."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._task = asyncio.current_task()
        self._process: Process | None = None
        self._kept: list[signal.Signals] | None = None
        self._taken = [number for number in PASSED_ON if signal.getsignal(number) is not signal.SIG_IGN]  # as nohup wants it
        self.ended_by: signal.Signals | None = None

    def __enter__(self) -> Self:
        for number in self._taken:
            self._loop.add_signal_handler(number, self._take, number)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for number in self._taken:
            self._loop.remove_signal_handler(number)

    def keep(self) -> None:
        """Keep what comes from now on for the command that is about to start."""
        self._kept = []

    def pass_on(self, process: Process) -> None:
        """Pass on what was kept, and what comes from now on."""
        self._process = process
        for number in self._kept or ():
            self._send(process, number)

    def _take(self, number: signal.Signals) -> None:
        if self._process is not None:
            self._send(self._process, number)
        elif self._kept is not None:
            self._kept.append(number)
        elif self._task is not None and self.ended_by is None:
            self.ended_by = number
            self._task.cancel()

    def _send(self, process: Process, number: signal.Signals) -> None:
        if not (number in FROM_THE_TERMINAL and _in_the_foreground()):
            with suppress(ProcessLookupError):
                process.send_signal(number)


def _in_the_foreground() -> bool:
    """Whether a terminal sends its signals to this process and to the command alike."""
    try:
        terminal = os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY)
    except OSError:
        return False
    try:
        return os.tcgetpgrp(terminal) == os.getpgrp()
    except OSError:
        return False
    finally:
        os.close(terminal)


async def run_locked(asking: Asking, wish: Wish) -> int:
    """Wait for the lock, run the command while it is held, give it back, and return the exit code.

    Raises:
        ValueError: an argument is wrong.
        WaitTimeout: the lock was not to be had in time.
        LockLost: it was lost while the command ran, which has been ended.
        ReplkvError: no member answers.
    """
    with Signals() as signals:
        try:
            async with aio.connect(asking.targets, **asking.how, timeout=asking.timeout) as client:
                lock = client.lock(wish.name, ttl=wish.ttl)
                if wish.wait:
                    await lock.acquire(wish.timeout)
                elif await lock.try_acquire() is None:
                    complain(f"lock {wish.name.decode(errors='backslashreplace')!r} is held by another one")
                    return TRY_AGAIN
                try:
                    return await _run(lock, wish, signals)
                finally:
                    with suppress(LockLost):  # that has been said
                        await lock.release()
        except asyncio.CancelledError:
            if signals.ended_by is None:
                raise
            return SIGNAL + signals.ended_by


async def _run(lock: AsyncLock, wish: Wish, signals: Signals) -> int:
    signals.keep()
    try:
        process = await asyncio.create_subprocess_exec(*wish.command, env={**os.environ, FENCE: str(lock.fence)})
    except (OSError, ValueError) as error:
        complain(f"{wish.command[0]} can't be run: {getattr(error, 'strerror', None) or error}")
        return NOT_FOUND if isinstance(error, FileNotFoundError) else NOT_EXECUTABLE
    signals.pass_on(process)
    ended, lost = asyncio.create_task(process.wait()), asyncio.create_task(lock.lost.wait())
    await asyncio.wait((ended, lost), return_when=asyncio.FIRST_COMPLETED)
    if not ended.done():
        complain(f"the lock is lost: {wish.command[0]} is told to end, and is killed if it has not within {wish.grace:g} s")
        await _end(process, ended, wish.grace)
    lost.cancel()
    lock.check()
    code = ended.result()
    return code if code >= 0 else SIGNAL - code


async def _end(process: Process, ended: asyncio.Task[int], grace: float) -> None:
    """Ask the command to end, and make it."""
    with suppress(ProcessLookupError):
        process.terminate()
    await asyncio.wait((ended,), timeout=grace)
    if not ended.done():
        with suppress(ProcessLookupError):
            process.kill()
        await ended
