"""How tests wait for what happens on another thread."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

PATIENCE = 20.0  # s; what is waited for takes a fraction of it


def eventually(condition: Callable[[], T]) -> T:
    """Return the condition's first true value."""
    give_up = time.monotonic() + PATIENCE
    while not (value := condition()):
        assert time.monotonic() < give_up
        time.sleep(0.001)
    return value
