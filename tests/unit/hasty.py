"""Threads in a hurry: they take turns as often as can be, so that those that get in each other's way do."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def hasty_threads(interval: float = 1e-6) -> Iterator[None]:
    """Let threads take turns after so many seconds."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(interval)
    try:
        yield
    finally:
        sys.setswitchinterval(before)
