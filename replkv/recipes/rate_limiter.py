"""Rate limiters: so much in so many seconds, for the whole cluster together."""

from __future__ import annotations

import asyncio
import threading
from contextlib import suppress
from math import ceil
from typing import TYPE_CHECKING, Any, Final

from replkv.errors import Compacted, NoLeader, OutcomeUnknown, TooStale, WaitTimeout
from replkv.ops import Get, Key, Put, Scan
from replkv.recipes.base import Deadline, Recipe, named, place_of, recipe
from replkv.recipes.line import LEAVE, Line
from replkv.recipes.terms import Terms
from replkv.surface import Awaiting, Blocking, Surface
from replkv.values import Data, to_count, to_seconds

if TYPE_CHECKING:
    from replkv.values import TxnResult

GRACE: Final = 1 / 16
"""The part of a window for which what a process has taken can be used there."""

DRIFT: Final = 0.99
"""Clocks run apart: a process counts on so much of a grace."""

SHARE: Final = 8
"""A process takes at most this part of a burst in advance."""


class _RateLimiter(Recipe):
    """A limit that all processes of the cluster share: ``rate`` in ``per`` seconds, and no more than ``burst`` at once.

    In any ``per * burst / rate`` seconds at most ``burst`` are let through: with a limit of 100 per second that is any second, with
    ``burst=20`` as well any 0.2 seconds.  No clocks of two machines are compared: what is taken is a key that the cluster deletes when its
    time is over, and while the keys that are there make up a burst, nothing more is given out.  The promise is about when ``acquire``
    returns, as one process's own clock tells; who then waits before doing it does it when he does.

    Of the rate about 94 % can be reached, for what a process has taken counts a little longer than its window: in that time, a sixteenth
    of the window, it can be used.  Where the cluster answers not much faster than that, the time is longer, and the rate lower.

    Taking is one write.  A process that takes often takes several at a time, up to an eighth of the burst, so that most calls take no
    network; what it doesn't use in its time is lost.  When nothing is left processes stand in line, fairly, and only the first one waits
    for what becomes free; the threads or tasks of a process share one object, and one of them waits for all.

    All must say the same limit: it is kept with the first use, and who says another later is refused.

    Args:
        surface: where.
        name: bytes or text.
        rate: how many in ``per`` seconds; above 0.
        per: seconds; above 0.
        burst: how many at once; None: as many as in ``per`` seconds, at least 1.

    Raises:
        TypeError, ValueError: a bad argument; when it is first used, a burst that would last for less than ``Settings.min_ttl``.
        Conflict: when it is first used: others say another limit.
    """

    def __init__(self, surface: Surface[Any, Any], name: Data, rate: float, per: float = 1.0, burst: int | None = None) -> None:
        super().__init__(surface)
        rate, per = _rate(rate), to_seconds(per, "per")
        if burst is not None and to_count(burst, "burst") < 1:
            raise ValueError("burst must be at least 1")
        self._burst = max(1, int(rate)) if burst is None else burst
        self._window = per * self._burst / rate
        self._grace = self._window * GRACE
        self._limit = f"{rate!r} per {per!r} s, {self._burst} at once"
        self._what = named("rate limiter", name)
        place = place_of("rate_limiter", name)
        self._taken = place + b"taken/"
        self._queue = place + b"line/"
        self._line = Line(self._calls, self._what, (self._queue,), 10.0, None)
        self._terms = Terms(self._calls, self._what, place + b"limit", self._limit.encode(), "change_limit() it")
        self._stock = _Stock(max(1, self._burst // SHARE))
        self._turn = self._make_turn()

    @recipe
    async def acquire(self, n: int = 1, timeout: float | None = None) -> None:
        """Wait until so many may pass.

        Args:
            n: how many; at most ``burst``.
            timeout: seconds; None waits without limit, 0 waits for nobody but the cluster.

        Raises:
            WaitTimeout: not in time; nothing is left behind.
            Conflict: others say another limit.
            TypeError, ValueError: a bad argument.
            Closed, StorageError: the member has ended.
        """
        self._check(n)
        until = self._deadline(timeout)
        if self._stock.take(n, self._clock()):
            return
        if not await self._begin_turn(Deadline(self._clock, timeout)):
            raise self._late(n)
        try:
            while not self._stock.take(n, self._clock()):
                if until.left == 0.0:
                    raise self._late(n)
                if await self._fill(n, until, alone=True):
                    if until.over:
                        raise self._late(n)
                    await self._wait_and_fill(n, until)
        finally:
            self._end_turn()

    @recipe
    async def try_acquire(self, n: int = 1) -> bool:
        """Tell whether so many may pass at once, and let them; nobody is waited for but the cluster.

        Args:
            n: how many; at most ``burst``.

        Returns:
            Whether they may; not so either if others wait already.

        Raises:
            WaitTimeout: the cluster did not answer within ``Config.timeout``.
            Conflict: others say another limit.
            TypeError, ValueError: a bad argument.
            Closed, StorageError: the member has ended.
        """
        self._check(n)
        until = Deadline(self._clock, self._calls._engine().config.timeout)  # noqa: SLF001  # this process's choice
        if self._stock.take(n, self._clock()):
            return True
        if not await self._begin_turn(Deadline(self._clock, 0)):
            return False
        try:
            while not self._stock.take(n, self._clock()):
                if await self._fill(n, until, alone=True):
                    return False
            return True
        finally:
            self._end_turn()

    @recipe
    async def change_limit(self) -> None:
        """Make the limit of this object that of everybody; those that say another one are refused from then on.

        What was given out before counts as it did.

        Raises:
            NoLeader, OutcomeUnknown: the cluster did not answer within ``Config.timeout``.
        """
        await self._calls.put(self._terms.key, self._terms.mine)

    def _check(self, n: int) -> None:
        if not 1 <= to_count(n, "n") <= self._burst:
            raise ValueError(f"n must be from 1 to the burst, {self._burst}, not {n}")
        shortest = self._calls._engine().settings.min_ttl  # noqa: SLF001  # what the cluster lives by
        if self._window < shortest:
            least = ceil(self._burst * shortest / self._window)
            raise ValueError(f"a burst of {self._burst} lasts {self._window:g} s; the cluster can limit {shortest:g} s: say burst={least}")

    def _late(self, n: int) -> WaitTimeout:
        return WaitTimeout(f"{self._what} did not let {n} pass in time: the limit is {self._limit}; nothing is left behind")

    # -- one of this object's users at a time --------------------------------------------------------------------------------------

    def _make_turn(self) -> Any:
        raise NotImplementedError

    async def _begin_turn(self, until: Deadline) -> bool:
        raise NotImplementedError

    def _end_turn(self) -> None:
        self._turn.release()

    async def _wait_and_fill(self, n: int, until: Deadline) -> None:
        """Wait in line, and then for what becomes free."""
        holding = await self._line.hold(self._calls._engine().name.encode(), until)  # noqa: SLF001  # for others to see
        try:
            while not holding.is_lost and (revision := await self._fill(n, until, alone=False)):
                if until.over:
                    break
                await self._wait_for_room(revision, until.at_most(holding.lifeline.remaining()))
        except BaseException:
            self._line.abandon(holding)
            raise
        await self._line.leave(holding, LEAVE)

    async def _wait_for_room(self, revision: int, seconds: float) -> None:
        watch = self._calls.watch(prefix=self._taken, start_revision=revision + 1, kinds=("delete",))
        try:
            with suppress(Compacted):  # then it is to be looked at again
                await watch.next(seconds)
        finally:
            await watch.close()

    async def _fill(self, n: int, until: Deadline, *, alone: bool) -> int:
        """Take ``n`` or more into the stock; else return the revision at which too little was free, or others stood in line."""
        known = 1
        while True:
            try:
                await self._terms.agree(until)
                seen = await self._calls.scan(prefix=self._taken, consistency="local", min_revision=known, timeout=until.left)
                free = self._burst - sum(int(kv.value) for kv in seen)  # an old state shows too little, or the next look is a newer one
                if free < n:
                    return seen.revision
                result = await self._take(max(n, self._stock.wish(free, self._clock())), seen.revision, until, alone=alone)
            except (NoLeader, OutcomeUnknown, TooStale) as error:  # what was taken all the same counts, on the safe side
                if until.over:
                    raise WaitTimeout(f"{self._what} could not be asked for in time: {error}") from error
                continue
            if result:
                return 0
            limit, line = result.responses
            self._terms.check(limit)
            if alone and line.count:
                return result.revision
            known = result.revision

    async def _take(self, count: int, revision: int, until: Deadline, *, alone: bool) -> TxnResult:
        """Take so many, if nobody has taken any since a revision, and nobody stands in line where one does not stand there oneself."""
        engine = self._calls._engine()  # noqa: SLF001  # the same process's
        key = self._taken + b"%x-%d" % (engine.keeper.number, next(engine.keeper.places))
        compare = [Key(self._terms.key).value == self._terms.mine, Key(prefix=self._taken).create_revision < revision + 1]
        line = [Key(prefix=self._queue).missing] if alone else []
        asked_at = self._clock()
        result = await self._calls.txn(
            compare=[*compare, *line],
            then=[Put(key, b"%d" % count, ttl=self._window + self._grace)],
            otherwise=[Get(self._terms.key), Scan(prefix=self._queue, count_only=True)],
            timeout=until.left,
        )
        if result:
            self._stock.fill(count, asked_at + self._grace * DRIFT)
            self._grace = max(self._window * GRACE, 2 * (self._clock() - asked_at))  # an answer that took too long was of no use
        return result

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._what.removeprefix('rate limiter ')}: {self._limit}>"


class RateLimiter(_RateLimiter, Blocking):
    """A rate limiter, for threads; see ``_RateLimiter``."""

    _turn: threading.Lock

    def _make_turn(self) -> threading.Lock:
        return threading.Lock()

    async def _begin_turn(self, until: Deadline) -> bool:
        return self._calls._engine().waits.acquire(self._turn, until.left)  # noqa: SLF001  # how threads wait here


class AsyncRateLimiter(_RateLimiter, Awaiting):
    """A rate limiter, for asyncio; see ``_RateLimiter``."""

    _turn: asyncio.Lock

    def _make_turn(self) -> asyncio.Lock:
        return asyncio.Lock()

    async def _begin_turn(self, until: Deadline) -> bool:
        with suppress(TimeoutError):
            async with asyncio.timeout(until.left):
                return await self._turn.acquire()
        return False


class _Stock:
    """What this process has taken and not used, and until when it can; any thread.

    Args:
        most: to take in advance.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._taken = self._left = 0
        self._until = 0.0
        self._gate = threading.Lock()

    def take(self, n: int, now: float) -> bool:
        """Use so many, if there are."""
        with self._gate:
            if now >= self._until or self._left < n:
                return False
            self._left -= n
            return True

    def wish(self, free: int, now: float) -> int:
        """Return how many to take next: twice as many as the last time if they were used up before their time, else what was used."""
        with self._gate:
            used = self._taken - self._left
            grown = 2 * used if self._left == 0 and now < self._until else used
            return min(max(1, grown), self._most, max(1, free // 2))

    def fill(self, count: int, until: float) -> None:
        """Put in what was taken, and throw away what is left: its time is over, or it was too little."""
        with self._gate:
            self._taken = self._left = count
            self._until = until


def _rate(rate: float) -> float:
    if isinstance(rate, bool) or not isinstance(rate, (int, float)):
        raise TypeError(f"rate must be a number, not {type(rate).__name__}")
    if not 0 < rate < float("inf"):
        raise ValueError(f"rate must be above 0 and finite, not {rate}")
    return float(rate)
