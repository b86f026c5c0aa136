"""The fork guard.  nng ends a forked child that touches it after its parent did; such a child gets ``ForkedProcess`` before that.

A child that never uses replkv goes on and exits as if it knew nothing of its parent's members.  It stands beside the transport and
knows nothing of nng: the transport says what must be put out of reach.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from replkv.errors import ForkedProcess

if TYPE_CHECKING:
    from collections.abc import Callable

_disarms: list[Callable[[], None]] = []
_forked = False
_generation = 0


def guard(disarm: Callable[[], None]) -> None:
    """Guard every child forked from now on.  Call before the first thing that must not be used in one.

    Args:
        disarm: called once in the child, right after the fork; it must not raise and not wait for any thread or lock.
    """
    if disarm not in _disarms:
        _disarms.append(disarm)


def forked() -> bool:
    """Tell whether this process is a child whose parent had a live transport."""
    return _forked


def generation() -> int:
    """Return how many forks lie between this process and the one that imported replkv: another number, another process."""
    return _generation


def ensure_not_forked() -> None:
    """Refuse to go on in a child whose parent had a live transport.

    Raises:
        ForkedProcess: in such a child, and in its children.
    """
    if _forked:
        raise ForkedProcess(
            "this process was forked from one that had already opened a Replica, which only that one can use: "
            "call replkv.connect() here, with the Replica's data directory, or open the Replica after the fork only"
        )


def _in_child() -> None:
    global _forked, _generation  # noqa: PLW0603  # they are facts about the process
    _generation += 1
    if _disarms and not _forked:
        _forked = True
        for disarm in _disarms:
            disarm()


if hasattr(os, "register_at_fork"):  # systems without fork need no guard
    os.register_at_fork(after_in_child=_in_child)
