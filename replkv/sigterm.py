"""SIGTERM as an orderly end, for programs that want it: by itself replkv touches no signal handler."""

from __future__ import annotations

import asyncio
import signal
import threading
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from types import FrameType


def exit_on_sigterm() -> None:
    """Turn SIGTERM into ``SystemExit`` in the main thread, so that its ``with`` blocks end: locks are given back, members closed.

    Without this, SIGTERM ends a process at once: what it held ends with its lease, and the others have to notice that it is gone.  The exit
    code is 0, for this end was asked for.  Further ones do nothing, so that they don't disturb the first.

    Under ``asyncio.run`` no task is interrupted in the middle: the loop stops when it has its next turn, all tasks are cancelled, and
    ``SystemExit`` comes out of ``asyncio.run`` when they have ended.

    The handler stays until the process installs another one, as servers such as uvicorn and gunicorn do, which end their applications in
    their own way.  Call this once, early, where the program begins.

    Raises:
        RuntimeError: it is called by another thread than the main one, which can't install handlers.
    """
    if threading.current_thread() is not threading.main_thread():
        raise RuntimeError("exit_on_sigterm() must be called by the main thread: no other one can install a signal handler")
    asked = False

    def leave(number: int, frame: FrameType | None) -> None:
        nonlocal asked
        del number, frame
        if asked:
            return
        asked = True
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            _exit()
        loop.call_soon_threadsafe(_exit)

    signal.signal(signal.SIGTERM, leave)


def _exit() -> NoReturn:
    raise SystemExit(0) from None
