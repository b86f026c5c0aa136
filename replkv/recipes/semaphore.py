"""Semaphores: as many holders at a time as there are permits, in the order in which they asked."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any

from replkv.errors import Compacted, NoLeader, ReplkvError, WaitTimeout
from replkv.leasing import AsyncLease, Lease
from replkv.ops import KEEP, Key, Put
from replkv.recipes import lifelines
from replkv.recipes.base import named, place_of, recipe
from replkv.recipes.holding import AwaitingHolder, BlockingHolder
from replkv.recipes.line import LEAVE, Line
from replkv.recipes.lock import LineHolder
from replkv.recipes.terms import Terms
from replkv.surface import Surface
from replkv.values import Data, to_count, to_ttl

if TYPE_CHECKING:
    from replkv.lifeline import Lifeline
    from replkv.recipes.base import Calls, Deadline
    from replkv.recipes.holding import Holding
    from replkv.values import ScanResult


class _PermitLine(Line):
    """A line whose first places hold a permit each.

    The first of those that wait watches the whole line.  The others watch the one right before them, which leaves, or tells by a put
    that it waits no longer: so a leaving holder wakes two.  A put that was lost in a failure is made up for when a lease is renewed.
    """

    def __init__(self, calls: Calls, what: str, place: bytes, permits: int, ttl: float, lifeline: Lifeline | None) -> None:
        super().__init__(calls, what, (place + b"line/",), ttl, lifeline)
        self._place = place
        self._most_key = place + b"permits/most"  # that there ever were: so many places from the front there may be holders
        self.terms = Terms(calls, what, place + b"permits", b"%d" % permits, "resize() it")

    async def hold(self, value: bytes, until: Deadline) -> Holding:
        """Wait in line until there is a permit; as ``Line.hold``."""
        await self.terms.agree(until)
        return await super().hold(value, until)

    async def hold_if_empty(self, value: bytes, until: Deadline) -> Holding | None:
        """Take a permit if one is free; None: none is, and nothing was changed but perhaps for a moment."""
        await self.terms.agree(until)
        while await self._has_room(until):
            holding = await self._join(value, until, alone=False)
            assert holding is not None  # noqa: S101  # nobody is minded
            try:
                if await self._is_let_in(holding, until):
                    return holding
            except BaseException:
                self.abandon(holding)
                raise
            await self.leave(holding, LEAVE)
        return None

    async def _has_room(self, until: Deadline) -> bool:
        try:
            permits, _ = _numbers(await self._calls.scan(prefix=self.terms.key, timeout=until.left))
            return (await self._calls.scan(prefix=self._queues[0], count_only=True, timeout=until.left)).count < permits
        except NoLeader as error:
            raise WaitTimeout(f"{self._what} could not be asked for in time: {error}") from error

    async def _is_let_in(self, holding: Holding, until: Deadline) -> bool:
        found = await self._look(holding, until)
        return found is not None and len(found[0]) < found[1] and not holding.is_lost

    async def resize(self, permits: int) -> None:
        """Change the number of permits."""
        key = self.terms.key
        while True:
            found = await self._calls.scan(prefix=key)
            unchanged = Key(key).mod_revision == (found[0].mod_revision if found else 0)
            most = max(permits, *_numbers(found)) if found else permits
            if await self._calls.txn(compare=[unchanged], then=[Put(key, b"%d" % permits), Put(self._most_key, b"%d" % most)]):
                self.terms.mine = b"%d" % permits
                return

    async def _reach_front(self, holding: Holding, until: Deadline) -> bool:
        waited = False
        while (found := await self._look(holding, until)) is not None and not holding.is_lost:
            before, permits, most = found
            if len(before) < permits:
                if waited:
                    self._tell_next(holding)
                return True
            waited = True
            if until.over:
                raise WaitTimeout(f"{self._what} had no permit free in time: its {permits} are taken; nothing is left behind")
            await self._wait_for_change(before, most, until.at_most(holding.lifeline.remaining()))
        return False

    async def _look(self, holding: Holding, until: Deadline) -> tuple[ScanResult, int, int] | None:
        """Return those before, as far as they count, and how many permits there are and ever were; None: the lease was lost."""
        numbers = await self._seen(holding, until, prefix=self.terms.key)
        if numbers is None:
            return None
        permits, most = _numbers(numbers)
        before = await self._nearest(self._queues[0], holding, until, most + 1)
        return None if before is None else (before, permits, most)

    async def _wait_for_change(self, before: ScanResult, most: int, seconds: float) -> None:
        begin = before.revision + 1
        if len(before) <= most:
            watch = self._calls.watch(prefix=self._place, start_revision=begin)
        else:
            watch = self._calls.watch(before[0].key, start_revision=begin)
        try:
            with suppress(Compacted):  # then it is to be looked at again
                await watch.next(seconds)
        finally:
            await watch.close()

    def _tell_next(self, holding: Holding) -> None:
        with suppress(ReplkvError):
            self._calls.submit(Put(self._keys(holding)[0], KEEP, lease=KEEP))


def _numbers(found: ScanResult) -> tuple[int, int]:
    """Return how many permits there are, and ever were."""
    stored = [int(kv.value) for kv in found]
    return stored[0], max(stored)


class _Semaphore(LineHolder):
    """One of a number of permits, which holders all over the cluster share; to be used as a lock is, once at a time per object.

    At most as many hold one at a time as there are permits, each by its own clock as with a lock.  ``guard()`` makes writes depend on
    this holder's permit.  What fences can't do here: several hold at once, so that another system can't tell from a smaller ``fence``
    that its holder is late.

    All must say the same number of permits: it is kept with the first use, and who says another later is refused.  ``resize`` changes
    it for those that are using the semaphore already, too.

    It is fair: who asks first gets a permit first, and a leaving holder wakes two that wait: the one it lets go on, and the next one.
    Taking and giving back a free permit is one write each, taking one for which one waited another that nobody waits for.

    Args:
        surface: where.
        name: bytes or text.
        permits: how many, 1 or more.
        ttl: seconds for which a permit outlives its holder, from ``Settings.min_ttl`` to ten years.
        lease: a lease to hang on, whose loss is the permit's; None: one of its own.

    Raises:
        TypeError, ValueError: a bad argument.
        Conflict: when it is first used: there is another number of permits.
    """

    _line: _PermitLine

    def __init__(
        self, surface: Surface[Any, Any], name: Data, permits: int, *, ttl: float = 10.0, lease: Lease | AsyncLease | None = None
    ) -> None:
        super().__init__(surface, named("semaphore", name))
        to_ttl(ttl)
        lifeline = None if lease is None else lifelines.of(lease)
        self._line = _PermitLine(self._calls, self._what, place_of("semaphore", name), _permits(permits), ttl, lifeline)

    @recipe
    async def resize(self, permits: int) -> None:
        """Change the number of permits for everybody, also from an object that was made with the new one.

        More permits let those that wait go on at once.  With fewer nobody loses one: no new ones are given out until enough have come
        back; a member that has not heard of it yet may still give one to somebody who was waiting there.

        Args:
            permits: how many, 1 or more.

        Raises:
            TypeError, ValueError: a bad argument.
            NoLeader, OutcomeUnknown: the cluster did not answer within ``Config.timeout``.
        """
        await self._line.resize(_permits(permits))


class Semaphore(_Semaphore, BlockingHolder):
    """One of a number of permits, for threads; see ``_Semaphore``."""


class AsyncSemaphore(_Semaphore, AwaitingHolder):
    """One of a number of permits, for asyncio; see ``_Semaphore``.

    The block of ``async with`` is cancelled when the permit is lost, and raises ``LockLost``.
    """


def _permits(number: int) -> int:
    if to_count(number, "permits") < 1:
        raise ValueError("a semaphore has at least 1 permit")
    return number
