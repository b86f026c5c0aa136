"""The leases that recipes hang their keys on.

Making a lease costs as much as taking a lock.  So one that was given back rests for a while: it is not kept alive any more, and who
asks for one soon gets it again.  A process that takes no locks any more lets its leases end, and writes nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from replkv.lifeline import Lifeline

if TYPE_CHECKING:
    from replkv.engine import Engine
    from replkv.recipes.base import Calls, Deadline

MOST_AT_REST: Final = 16
"""Leases of one time to live that may rest."""


def of(lease: Any) -> Lifeline:
    """Return the lease behind a handle.

    Raises:
        TypeError: it is no handle of a lease that this process holds.
        RuntimeError: it is not granted yet.
    """
    try:
        return Lifeline(lease._engine, lease._held)  # noqa: SLF001  # what a handle is a handle of
    except AttributeError:
        raise TypeError(f"lease must be a lease that this process holds, as lease() returns it, not {type(lease).__name__}") from None


async def borrow(calls: Calls, ttl: float, until: Deadline) -> Lifeline:
    """Return a lease that is kept alive, and that nobody else uses.

    Args:
        calls: what to call.
        ttl: seconds.
        until: when to give up.

    Raises:
        ReplkvError: as ``lease()`` raises it.
    """
    engine = calls._engine()  # noqa: SLF001  # leases belong to who keeps them alive
    resting = engine.keeper.resting.get((ttl, _user(engine)), [])
    while resting:
        try:
            lifeline = Lifeline(engine, resting.pop())
        except IndexError:  # another thread was quicker
            break
        if lifeline.resume():
            return lifeline
    return of(await calls.lease(ttl, timeout=until.left))


def give_back(lifeline: Lifeline) -> None:
    """Let a lease rest on which no key hangs any more."""
    resting = lifeline.engine.keeper.resting.setdefault((lifeline.ttl, _user(lifeline.engine)), [])
    if len(resting) < MOST_AT_REST:
        lifeline.rest()
        resting.append(lifeline.held)
    else:
        lifeline.drop()


def _user(engine: Engine) -> str | None:
    """Return the user on whose behalf something is asked; not when that was proved, or leases would rest for who never comes again."""
    return None if engine.subject is None else engine.subject[0]
