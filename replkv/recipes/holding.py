"""What is held of a lock, an election or a queue's item: a key of one's own, for as long as a lease lives.

``Holding`` is the fact, ``Holder`` the object in which users have it: a lock, a term, a claim.
"""

from __future__ import annotations

import asyncio
from collections.abc import Generator
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from attrs import frozen

from replkv.errors import LockLost
from replkv.immediate import run
from replkv.leasing import AsyncLost, Lost
from replkv.lifeline import CancelScope
from replkv.ops import Guard
from replkv.recipes.base import Recipe
from replkv.surface import Awaiting, Blocking

if TYPE_CHECKING:
    from replkv.lifeline import Lifeline


@frozen(eq=False)
class Holding:
    """Something held.

    Args:
        what: for messages, such as "lock 'jobs'".
        key: that stands for it, whole.
        fence: the revision that created the key; whoever holds the same later has a larger one.
        lifeline: the lease that the key hangs on.
        first: nobody stood before it when the key was put, and so nobody ever will.
    """

    what: str
    key: bytes
    fence: int
    lifeline: Lifeline
    first: bool = False

    @property
    def is_lost(self) -> bool:
        """Whether it can't be counted on any more, by this process's own clock."""
        return self.lifeline.is_lost

    def loss(self) -> LockLost:
        """Return the error that says so."""
        its_lease = f"its lease {self.lifeline.id} of {self.lifeline.ttl:g} s"
        return LockLost(
            f"{self.what} (fence {self.fence}) is lost: {its_lease} was not kept alive in time, or was revoked; "
            "stop what it protects, and acquire it again"
        )

    def check(self) -> None:
        """Check that it can be counted on.

        Raises:
            LockLost: it can't.
        """
        if self.is_lost:
            raise self.loss()

    def guard(self) -> Guard:
        """Return the condition that it is held still, for the cluster to decide."""
        return Guard(self.key, self.fence)


class Holder(Recipe):
    """What holds something: a lock, a term, a claim; the base of their shared classes."""

    _what: str  # for messages, such as "lock 'jobs'"
    _holding: Holding | None = None

    async def _enter(self) -> None:
        """Begin a block: have it when this returns."""
        raise NotImplementedError

    async def _end(self, *, failed: bool) -> None:
        """End a block, which perhaps failed: don't have it when this returns.

        Raises:
            LockLost: the block did not fail, and it was lost before this.
        """
        raise NotImplementedError

    @property
    def fence(self) -> int:
        """The number of this holding, larger than that of any holder before.

        Raises:
            RuntimeError: it is not held.
        """
        return self._held.fence

    @property
    def held(self) -> bool:
        """Whether it was acquired and can be counted on, by this process's own clock; never waits."""
        return self._holding is not None and not self._holding.is_lost

    def check(self) -> None:
        """Check that it can be counted on.

        Raises:
            LockLost: it can't any more.
            RuntimeError: it is not held.
        """
        self._held.check()

    def guard(self) -> Guard:
        """Return the condition that it is held still, for ``guard=`` of writes and ``compare=`` of transactions: the cluster decides.

        Raises:
            RuntimeError: it is not held.
        """
        return self._held.guard()

    @property
    def _held(self) -> Holding:
        if self._holding is None:
            raise RuntimeError(f"{self._what} is not held: acquire it first")
        return self._holding

    def __repr__(self) -> str:
        state = "not held" if self._holding is None else f"{'held' if self.held else 'lost'}, fence {self._holding.fence}"
        return f"<{type(self).__name__} {self._what.partition(' ')[2]}: {state}>"


class Once(Holder):
    """What holds something once: from the call that made it, or from when it is awaited or entered, until that ends."""

    _begun = False

    async def _begin(self) -> Holding:
        """Wait until it is held."""
        raise NotImplementedError

    async def _enter(self) -> None:
        if self._holding is not None:
            return
        if self._begun:
            raise RuntimeError(f"this hold on {self._what} is over, or somebody else waits for it: make another one")
        self._begun = True
        try:
            self._holding = await self._begin()
        finally:
            self._begun = self._holding is not None


class BlockingHolder(Holder, Blocking):
    """What a thread holds."""

    @property
    def lost(self) -> Lost:
        """Tells when it can't be counted on any more.

        Raises:
            RuntimeError: it is not held.
        """
        return Lost(self._held.lifeline.engine, self._held.lifeline.held)

    def __enter__(self) -> Self:
        run(self._enter())
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        loss = self._holding.loss() if self._holding is not None and self._holding.is_lost else None
        run(self._end(failed=error is not None))
        if loss is not None and error is None:
            raise loss


class AwaitingHolder(Holder, Awaiting):
    """What a task holds; the block of ``async with`` is cancelled when it is lost, and raises ``LockLost``."""

    _scope: CancelScope | None = None

    @property
    def lost(self) -> AsyncLost:
        """Tells when it can't be counted on any more; it can be awaited.

        Raises:
            RuntimeError: it is not held.
        """
        return AsyncLost(self._held.lifeline.engine, self._held.lifeline.held)

    async def __aenter__(self) -> Self:
        await self._enter()
        holding = self._held
        self._scope = CancelScope(holding.lifeline, lambda: holding.loss() if self._holding is holding else None)
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        scope, self._scope = self._scope, None
        failed = True
        try:
            if scope is not None:
                scope.close(error)
            failed = error is not None
        finally:
            await asyncio.shield(self._end(failed=failed))


class BlockingOnce(Once, BlockingHolder):
    """What a thread holds once."""

    def _now(self) -> Self:
        run(self._enter())
        return self


class AwaitingOnce(Once, AwaitingHolder):
    """What a task holds once, from when it is awaited or entered."""

    def __await__(self) -> Generator[Any, None, Self]:
        return self._now().__await__()

    async def _now(self) -> Self:
        await self._enter()
        return self
