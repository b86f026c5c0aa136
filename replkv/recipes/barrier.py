"""Barriers that somebody holds, and at which others wait until they are released."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from replkv.errors import Compacted, NoLeader, WaitTimeout
from replkv.leasing import AsyncLease, Lease
from replkv.ops import Key, Put
from replkv.recipes.base import Deadline, Recipe, named, place_of, recipe
from replkv.surface import Awaiting, Blocking, Surface
from replkv.values import Data

if TYPE_CHECKING:
    from replkv.values import KeyValue


class _Barrier(Recipe):
    """A barrier that somebody holds, and at which others wait until it is released.

    It is held by the cluster, not by this object: anybody may release it, and it stays when its holder is gone, unless it was held with
    a lease.  Who waits while it is released goes on, also if it is held again at once.  A release wakes all that wait.

    Args:
        surface: where.
        name: bytes or text.

    Raises:
        TypeError, ValueError: a bad argument.
    """

    def __init__(self, surface: Surface[Any, Any], name: Data) -> None:
        super().__init__(surface)
        self._what = named("barrier", name)
        self._key = place_of("barrier", name) + b"held"

    @recipe
    async def hold(self, *, lease: Lease | AsyncLease | None = None) -> bool:
        """Have those that come from now on wait.

        Args:
            lease: the barrier is released when this ends; None: only by ``release()``.

        Returns:
            Whether it was open before; if not, it stays as it was, also its lease.

        Raises:
            LeaseNotFound: the lease is over.
            OutcomeUnknown, NoLeader: the cluster did not answer in time.
        """
        put = Put(self._key, self._calls._engine().name, lease=lease)  # noqa: SLF001  # shown to those who wait in vain
        return bool(await self._calls.txn(compare=[Key(self._key).missing], then=[put]))

    @recipe
    async def release(self) -> bool:
        """Let all that wait go on.

        Returns:
            Whether it was held.

        Raises:
            OutcomeUnknown, NoLeader: the cluster did not answer in time.
        """
        return (await self._calls.delete(self._key)).deleted > 0

    @recipe
    async def is_held(self) -> bool:
        """Tell whether it is held; linearizable.

        Raises:
            NoLeader: the cluster did not answer in time.
        """
        return await self._calls.get(self._key) is not None

    @recipe
    async def wait(self, timeout: float | None = None) -> None:
        """Wait until it is not held, or is released.

        Args:
            timeout: seconds; None waits without limit, 0 waits for nobody but the cluster.

        Raises:
            WaitTimeout: not in time.
            TypeError, ValueError: no timeout.
            Closed, StorageError: the member has ended.
        """
        until = Deadline(self._clock, timeout)
        while (kv := await self._find(until)) is not None and not await self._is_released(kv, until):
            if until.over:
                raise WaitTimeout(f"{self._what} was not released in time: {kv.text!r} holds it")

    async def _is_released(self, kv: KeyValue, until: Deadline) -> bool:
        watch = self._calls.watch(self._key, start_revision=kv.mod_revision + 1, kinds=("delete",))
        try:
            return await watch.next(until.left) is not None
        except Compacted:
            return False  # as far as is known: it is to be looked at again
        finally:
            await watch.close()

    async def _find(self, until: Deadline) -> KeyValue | None:
        while True:
            try:
                limit = self._calls._engine().config.timeout  # noqa: SLF001  # this process's choice
                return await self._calls.get(self._key, timeout=until.left or limit)
            except NoLeader as error:
                if until.over:
                    raise WaitTimeout(f"{self._what} could not be asked for in time: {error}") from error

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._what.removeprefix('barrier ')}>"


class Barrier(_Barrier, Blocking):
    """A barrier that somebody holds, for threads; see ``_Barrier``."""


class AsyncBarrier(_Barrier, Awaiting):
    """A barrier that somebody holds, for asyncio; see ``_Barrier``."""
