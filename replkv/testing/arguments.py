"""What the commands have in common: the arguments they refuse before anything runs, and how an interrupt ends them."""

from __future__ import annotations

import math
import multiprocessing
import signal
import sys
import time
from argparse import ArgumentTypeError
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

INTERRUPTED = 130
"""The exit status that shells give to what Ctrl-C ended."""


# -- types of arguments ---------------------------------------------------------------------------------------------------------------


def whole(text: str, least: int = 0) -> int:
    """Return a whole number, 0 or more.

    Raises:
        ArgumentTypeError: it is none.
    """
    try:
        number = int(text)
    except ValueError:
        number = least - 1
    if number < least:
        raise ArgumentTypeError(f"{text!r} is no whole number from {least} on")
    return number


def positive(text: str) -> int:
    """Return a whole number, 1 or more.

    Raises:
        ArgumentTypeError: it is none.
    """
    return whole(text, 1)


def duration(text: str) -> float:
    """Return a time, of whatever unit, that is neither nothing nor endless.

    Raises:
        ArgumentTypeError: it is none.
    """
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0 < number < math.inf:
        raise ArgumentTypeError(f"{text!r} is no number above 0")
    return number


def new_file(text: str) -> Path:
    """Return the path of a file that can be written when the run is over, which may be hours from now; nothing is changed there yet.

    Raises:
        ArgumentTypeError: it can't be written.
    """
    path = Path(text)
    is_there = path.exists()
    try:
        path.open("a").close()
        if not is_there:
            path.unlink()
    except OSError as error:
        raise ArgumentTypeError(f"{text!r} can't be written: {error.strerror}") from None
    return path


def unused_seed() -> int:
    """Return the first of seeds that nobody has run yet: ten thousand for each minute that passes."""
    return int(time.time()) // 60 * 10_000


# -- interrupts -----------------------------------------------------------------------------------------------------------------------


def run_command(command: Callable[[], int]) -> NoReturn:
    """End this process with the status that a command returns; without a traceback if it is interrupted."""
    try:
        sys.exit(command())
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)


def die_silently() -> None:
    """Have an interrupt end this process, a worker, at once: its command says what there is to say."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@contextmanager
def workers(jobs: int) -> Iterator[ProcessPoolExecutor]:
    """Yield a pool of fresh processes; who leaves it because of an error or an interrupt does not wait for what they are at."""
    pool = ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn"), initializer=die_silently)
    try:
        yield pool
    except BaseException:
        for process in multiprocessing.active_children():
            process.terminate()
        raise
    finally:
        pool.shutdown(cancel_futures=True)
