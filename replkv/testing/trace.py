"""The fingerprint of a run: equal fingerprints mean that two runs went the same way, event for event."""

from __future__ import annotations

import hashlib
import sys
from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from replkv.testing.sim import Scheduler


class UnheardError(BaseException):
    """Nobody reads what is printed any more.  Not an ``Exception``: who is tested must not take it for a failure of its own."""


def say(text: str) -> None:
    """Print a line, at once.

    Raises:
        UnheardError: nobody reads it.
    """
    try:
        sys.stdout.write(text + "\n")
        sys.stdout.flush()
    except BrokenPipeError:
        raise UnheardError from None


class Trace:
    """A running SHA-256 over everything that happens, and the last lines of it as text.

    Args:
        scheduler: tells the time of each line.
        verbose: print every line as it comes.
        keep: how many lines to remember for a failure's report.
    """

    def __init__(self, scheduler: Scheduler, *, verbose: bool = False, keep: int = 60) -> None:
        self._scheduler = scheduler
        self._verbose = verbose
        self._hash = hashlib.sha256()
        self.tail: deque[str] = deque(maxlen=keep)

    def note(self, *words: object) -> None:
        """Add one line, made of the time and ``words``."""
        line = f"{self._scheduler.now:.6f} {' '.join(map(str, words))}"
        self._hash.update(line.encode() + b"\n")
        self.tail.append(line)
        if self._verbose:
            say(line)

    def detail(self, text: Callable[[], str]) -> None:
        """Print a line that is no part of the fingerprint, when verbose."""
        if self._verbose:
            say(f"{self._scheduler.now:.6f}   {text()}")

    def mark(self, data: bytes) -> None:
        """Add bytes to the fingerprint without a line of text."""
        self._hash.update(data)

    @property
    def digest(self) -> str:
        """The fingerprint so far, as hexadecimal digits."""
        return self._hash.hexdigest()
