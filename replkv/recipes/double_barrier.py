"""Double barriers: a number of processes begin something together and end it together, round after round."""

from __future__ import annotations

from contextlib import suppress
from types import TracebackType
from typing import TYPE_CHECKING, Any

from replkv.errors import Compacted, NoLeader, OutcomeUnknown, ReplkvError, TooStale, WaitTimeout
from replkv.immediate import run
from replkv.ops import Delete, Get, Key, Put, Txn
from replkv.recipes.base import Deadline, named, place_of, recipe
from replkv.recipes.holding import AwaitingHolder, BlockingHolder, Holder
from replkv.recipes.line import LEAVE, Line
from replkv.recipes.terms import Terms
from replkv.surface import Surface
from replkv.values import Data, Event, to_count, to_ttl

if TYPE_CHECKING:
    from replkv.ops import Operation
    from replkv.recipes.base import Calls
    from replkv.recipes.holding import Holding
    from replkv.values import KeyValue


class _Round(Line):
    """Those that take part, each with a key of its own.

    When enough are there the round is started: a key says so, whose revision is the round's number.  While it is there nobody joins.  The
    round is over when all keys are gone that are older than it; who comes first then starts anew.

    Who gives up before the start leaves a trace in the same write, so that nobody starts a round counting one that has given up.
    """

    def __init__(self, calls: Calls, what: str, place: bytes, count: int, ttl: float) -> None:
        super().__init__(calls, what, (place + b"members/",), ttl, None)
        self._started_key = place + b"started"
        self._trace_key = place + b"gave-up"
        self._count = count
        self.number = 0  # of the round one is in
        self.terms = Terms(calls, what, place + b"count", b"%d" % count, "use another name")

    # -- coming --------------------------------------------------------------------------------------------------------------------

    async def _take(self, puts: list[Put | Delete], until: Deadline, *, alone: bool) -> tuple[int, bool]:
        """Join, once no round is on; nobody is before anybody."""
        del alone
        key = self._started_key
        anew = Txn(compare=[Key(prefix=self._queues[0]).missing], then=[Delete(key), *puts], otherwise=[Get(key)])
        while True:
            result = await self._calls.txn(compare=[Key(key).missing], then=puts, otherwise=[anew], timeout=until.left)
            if result or result.responses[0]:
                return result.revision, False
            number = _number(result.responses[0].responses[0])
            await self.wait_until_over(number, number, until)

    async def _reach_front(self, holding: Holding, until: Deadline) -> bool:
        """Wait until the round is started; False: the lease was lost meanwhile."""
        while not holding.is_lost:
            self.number = await self._start(holding, until)
            if not self.number and not until.over:
                self.number = await self._wait_for_start(holding, until)
            if not self.number and until.over:
                self.number = await self._give_up_waiting(holding)
            if self.number:
                return not holding.is_lost
            if until.over:
                raise WaitTimeout(f"{self._what}: {self._count} did not come in time; nothing is left behind")
        return False

    async def _start(self, holding: Holding, until: Deadline) -> int:
        """Start the round if enough are there, and return its number; 0: it has none yet."""
        members = {"prefix": self._queues[0], "count_only": True}
        while (found := await self._seen(holding, until, **members)) is not None and found.count >= self._count:
            all_there = [Key(self._started_key).missing, Key(self._trace_key).mod_revision < found.revision + 1, holding.guard()]
            start = Put(self._started_key, b"%d" % found.count)
            limit = until.at_most(holding.lifeline.remaining())
            try:
                result = await self._calls.txn(compare=all_there, then=[start], otherwise=[Get(self._started_key)], timeout=limit)
            except (NoLeader, OutcomeUnknown):
                if until.over or holding.is_lost:
                    break
                continue
            if result or result.responses[0] is not None:
                return result.revision if result else _number(result.responses[0])
        return 0

    async def _wait_for_start(self, holding: Holding, until: Deadline) -> int:
        found = await self._seen(holding, until, key=self._started_key)
        if found is None or len(found):
            return _number(found[0]) if found else 0
        watch = self._calls.watch(self._started_key, start_revision=found.revision + 1, kinds=("put",))
        try:
            with suppress(Compacted):  # then it is to be looked at again
                event = await watch.next(until.at_most(holding.lifeline.remaining()))
                return event.revision if isinstance(event, Event) else 0
        finally:
            await watch.close()
        return 0

    async def _give_up_waiting(self, holding: Holding) -> int:
        """Leave unless the round has been started, and return its number if it was, else 0."""
        leave: list[Operation] = [Put(self._trace_key, b""), *(Delete(key) for key in self._keys(holding))]
        missing = Key(self._started_key).missing
        try:
            result = await self._calls.txn(compare=[missing], then=leave, otherwise=[Get(self._started_key)], timeout=LEAVE)
        except ReplkvError:
            return 0
        return 0 if result else _number(result.responses[0])

    # -- going ---------------------------------------------------------------------------------------------------------------------

    async def wait_until_over(self, number: int, min_revision: int, until: Deadline) -> None:
        """Wait until nobody is left of a round.

        Args:
            number: of the round.
            min_revision: what is looked at is not older.
            until: when to give up.

        Raises:
            WaitTimeout: not in time.
        """
        newest: dict[str, Any] = {"sort_by": "create", "descending": True, "limit": 1, "max_create_revision": number}
        bounds: dict[str, Any] = {"consistency": "local", "min_revision": min_revision}
        while True:
            with suppress(TooStale):  # a client that has just come to a member that is behind
                found = await self._calls.scan(prefix=self._queues[0], **newest, **bounds, timeout=until.left)
                if not found:
                    return
                if not until.over:
                    await self._wait_until_gone(found[0], found.revision, until.left)
            if until.over:
                raise WaitTimeout(f"{self._what}: the others of round {number} were not done in time")


class _DoubleBarrier(Holder):
    """A barrier at which ``count`` participants begin together and end together, round after round.

    ``enter()`` returns when ``count`` have come, ``leave()`` when all of them have left; the block of ``with`` does both.  Who comes while
    a round is on waits for the next one.  Each participant has an object of its own.

    A participant that dies counts as long as its lease lives, ``ttl`` seconds at most: if it dies while it waits the others go on waiting
    for another one, if it dies in the round they end without it.  It may have died in the very moment of the start: a round begins
    when ``count`` were there together, and more can't be known.  When more than ``count`` use a barrier, more may start together.  A
    participant that loses its lease is told: ``held``, ``lost`` and ``check()`` are those of a lock, and ``leave()`` raises ``LockLost``.

    All must say the same count: it is kept with the first use, and who says another later is refused.

    Args:
        surface: where.
        name: bytes or text.
        count: how many take part, 1 or more.
        ttl: seconds for which a participant that dies counts, from ``Settings.min_ttl`` to ten years.

    Raises:
        TypeError, ValueError: a bad argument.
        Conflict: when it is first used: there is another count.
    """

    def __init__(self, surface: Surface[Any, Any], name: Data, count: int, *, ttl: float = 10.0) -> None:
        super().__init__(surface)
        if to_count(count, "count") < 1:
            raise ValueError("a double barrier has at least 1 participant")
        to_ttl(ttl)
        self._what = named("double barrier", name)
        self._round = _Round(self._calls, self._what, place_of("double_barrier", name), count, ttl)
        self._in_use = False

    @recipe
    async def enter(self, timeout: float | None = None) -> int:
        """Wait until ``count`` have come.

        Args:
            timeout: seconds; None waits without limit, 0 waits for nobody but the cluster.

        Returns:
            The round's number: alike for all that are in it, and larger than that of any round before.

        Raises:
            WaitTimeout: not in time; nothing is left behind, and the others go on waiting.
            Conflict: others say another count.
            RuntimeError: this object is in a round already, or waits for one.
            TypeError, ValueError: no timeout.
            Closed, StorageError: the member has ended.
        """
        return await self._come(self._deadline(timeout))

    async def _enter(self) -> None:
        await self._come(Deadline(self._clock, None))

    async def _come(self, until: Deadline) -> int:
        if self._in_use:
            raise RuntimeError(f"this object is in {self._what} already, or waits for it: each participant needs one of its own")
        self._in_use = True
        try:
            await self._round.terms.agree(until)
            self._holding = await self._round.hold(self._calls._engine().name.encode(), until)  # noqa: SLF001  # for others to see
        finally:
            self._in_use = self._holding is not None
        return self._round.number

    @recipe
    async def leave(self, timeout: float | None = None) -> None:
        """Leave, and wait until all others of the round have left.

        Args:
            timeout: seconds; None waits without limit, 0 does not wait for the others.

        Raises:
            WaitTimeout: the others were not done in time; this one has left all the same.
            LockLost: this one's lease was lost meanwhile: the others may have gone on without it.
            RuntimeError: it is in no round.
            TypeError, ValueError: no timeout.
            Closed, StorageError: the member has ended.
        """
        until = self._deadline(timeout)
        holding = self._held
        lost = holding.is_lost
        await self._end(failed=False)
        if lost:
            raise holding.loss()
        await self._wait_for_others(until)

    async def _end(self, *, failed: bool) -> None:
        del failed
        holding, self._holding = self._holding, None
        self._in_use = False
        if holding is not None and holding.is_lost:
            self._round.abandon(holding)
        elif holding is not None:
            await self._round.leave(holding)

    async def _wait_for_others(self, until: Deadline) -> None:
        await self._round.wait_until_over(self._round.number, self._round.number, until)


class DoubleBarrier(_DoubleBarrier, BlockingHolder):
    """A barrier at which many begin and end together, for threads; see ``_DoubleBarrier``."""

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        inside = self._holding is not None
        super().__exit__(kind, error, trace)
        if inside and error is None:
            run(self._wait_for_others(Deadline(self._clock, None)))


class AsyncDoubleBarrier(_DoubleBarrier, AwaitingHolder):
    """A barrier at which many begin and end together, for asyncio; see ``_DoubleBarrier``.

    The block of ``async with`` is cancelled when this participant's lease is lost, and raises ``LockLost``.
    """

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        inside = self._holding is not None
        await super().__aexit__(kind, error, trace)
        if inside and error is None:
            await self._wait_for_others(Deadline(self._clock, None))


def _number(started: KeyValue) -> int:
    """Return the number of the round that was started by putting a key."""
    return started.create_revision
