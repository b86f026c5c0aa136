"""Lines of those who want the same, in the order in which they came.

Who wants it puts a key of its own into the line, which hangs on its lease; the revision that created the key is its place.  The first in
line holds it.  Everybody else watches the one right before it, so that a leaving wakes one, not all.  Whether somebody is before is told by
the put itself where nobody was, else it is read from this member's own state: nobody can come into the line before a place that is taken,
so that an old state shows too many, never too few (the algorithm is that of etcd's concurrency package).
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

from replkv import codec
from replkv.errors import Compacted, Conflict, LeaseNotFound, LockLost, NoLeader, OutcomeUnknown, ReplkvError, TooStale, WaitTimeout
from replkv.ops import Delete, Key, Put, Txn
from replkv.plans import on_behalf
from replkv.recipes import lifelines
from replkv.recipes.base import place_of
from replkv.recipes.holding import Holding
from replkv.wire import below

if TYPE_CHECKING:
    from replkv.lifeline import Lifeline
    from replkv.recipes.base import Calls, Deadline
    from replkv.values import KeyValue, ScanResult

LEAVE: Final = 1.0
"""Seconds to wait for the cluster when somebody leaves the line in vain; afterwards its lease is revoked in the background."""


class Line:
    """One line, or several in which one stands at once.

    Args:
        calls: what to call.
        what: for messages, such as "lock 'jobs'".
        queues: the prefix of each line's keys.
        ttl: seconds; of leases it makes.
        lifeline: the lease to hang on, which is the caller's; None: one of its own.
        behind: the prefixes of the keys that one stands behind; None: of all in these lines.
    """

    def __init__(
        self,
        calls: Calls,
        what: str,
        queues: tuple[bytes, ...],
        ttl: float,
        lifeline: Lifeline | None,
        behind: tuple[bytes, ...] | None = None,
    ) -> None:
        self._calls = calls
        self._what = what
        self._queues = queues
        self._ttl = ttl
        self._lifeline = lifeline
        self._behind = queues if behind is None else behind
        self._nobody = [Key(prefix=queue).missing for queue in self._behind]

    async def hold(self, value: bytes, until: Deadline) -> Holding:
        """Wait in line until one is at its front; who loses its lease meanwhile begins anew at the end.

        Args:
            value: of the key, for others to see.
            until: when to give up.

        Raises:
            WaitTimeout: not in time; nothing is left behind.
            LockLost: the lease that was given is lost.
        """
        while True:
            holding = await self._join(value, until, alone=False)
            assert holding is not None  # noqa: S101  # nobody is minded
            try:
                if await self._reach_front(holding, until):
                    return holding
            except WaitTimeout:
                await self.leave(holding, LEAVE)
                raise
            except BaseException:
                self.abandon(holding)
                raise
            self.abandon(holding)
            if self._lifeline is not None:
                raise holding.loss()

    async def hold_if_empty(self, value: bytes, until: Deadline) -> Holding | None:
        """Take a place if nobody would be before; None: somebody would, and nothing was changed."""
        return await self._join(value, until, alone=True)

    async def leave(self, holding: Holding, timeout: float | None = None) -> bool:
        """Leave the line; never raises for a cluster that can't be reached: then the lease is revoked as soon as possible, or ends.

        Args:
            holding: one's place.
            timeout: seconds; None: ``Config.timeout``.

        Returns:
            Whether it was one's own until then, as far as is known: the cluster may know better than this process's own clock.
        """
        if holding.is_lost:
            self.abandon(holding)
            return False
        limit = self._calls._engine().config.timeout if timeout is None else timeout  # noqa: SLF001  # the same process's
        try:
            gone = await self._delete(holding, limit)
        except ReplkvError:
            lost = holding.is_lost
            self.abandon(holding)
            return not lost
        except BaseException:
            self.abandon(holding)
            raise
        if not gone:
            self.abandon(holding)
            return False
        self.left(holding)
        return True

    async def _delete(self, holding: Holding, timeout: float) -> bool:
        """Delete one's keys; tell whether all were there."""
        if len(self._queues) == 1:  # as a transaction it would do the same, and cost its caller twice as much
            return (await self._calls.delete(self._keys(holding)[0], timeout=timeout)).deleted == 1
        result = await self._calls.txn(then=self.leaving(holding), timeout=timeout)
        return all(answer.deleted for answer in result.responses)

    def leaving(self, holding: Holding) -> list[Delete]:
        """Return what leaves the line, for a transaction of who holds a place in it; ``left`` is to be told."""
        return [Delete(key) for key in self._keys(holding)]

    def left(self, holding: Holding) -> None:
        """Take note that one has left the line: nothing hangs on the lease any more."""
        if self._lifeline is None:
            lifelines.give_back(holding.lifeline)

    def abandon(self, holding: Holding) -> None:
        """Leave the line without waiting."""
        self._give_up(holding.lifeline, self._keys(holding))

    def _give_up(self, lifeline: Lifeline, keys: list[bytes], *marks: Put) -> None:
        if self._lifeline is None:
            lifeline.drop()  # what comes to hang on it later is refused
        else:  # the lease is the caller's
            cleaning = below(Txn(then=[*(Delete(key) for key in keys), *marks]).to_wire(), self._calls._prefix)  # noqa: SLF001  # of the namespace
            lifeline.clean(codec.pack(on_behalf(cleaning, lifeline.engine)))

    # -- steps ---------------------------------------------------------------------------------------------------------------------

    def _keys(self, holding: Holding) -> list[bytes]:
        return self._keys_of(holding.key.rpartition(b"/")[2])

    def _keys_of(self, suffix: bytes) -> list[bytes]:
        return [queue + suffix for queue in self._queues]

    async def _join(self, value: bytes, until: Deadline, *, alone: bool) -> Holding | None:
        """Take a place in line; None: the line is not empty where it must be."""
        while True:
            try:
                lifeline = self._lifeline or await lifelines.borrow(self._calls, self._ttl, until)
                with suppress(Conflict):  # another process uses the same lease, and counted as far
                    return await self._put(lifeline, value, until, alone=alone)
            except (NoLeader, OutcomeUnknown) as error:
                if until.over:
                    raise WaitTimeout(f"{self._what} could not be asked for in time: {error}") from error
            except LeaseNotFound:  # one of its own had rested for too long
                if self._lifeline is not None:
                    raise LockLost(f"{self._what} was to hang on lease {self._lifeline.id}, which is over: give another one") from None

    async def _put(self, lifeline: Lifeline, value: bytes, until: Deadline, *, alone: bool) -> Holding | None:
        suffix = b"%x" % lifeline.id  # the same each time: scans go through what is deleted, until the history is compacted
        if self._lifeline is not None:  # which may stand in this line several times, or have something under way that deletes it
            suffix += b"-%d" % next(lifeline.engine.keeper.places)
        puts: list[Put | Delete] = [Put(key, value, lease=lifeline, if_mod_revision=0) for key in self._keys_of(suffix)]
        if self._lifeline is not None:
            # This deletes nothing: it refuses puts that come after they were given up.
            puts.append(Delete(_given_up(suffix), if_mod_revision=0))
        holding = None
        try:
            revision, first = await self._take(puts, until, alone=alone)
            if first or not alone:
                prefix = self._calls._prefix  # noqa: SLF001  # of the namespace: what a guard names is the whole key
                holding = Holding(self._what, prefix + self._queues[0] + suffix, revision, lifeline, first)
        except Conflict:
            if self._lifeline is None:
                lifeline.drop()  # which is not as free as it should be
            raise
        except BaseException:
            self._give_up(lifeline, self._keys_of(suffix), Put(_given_up(suffix), b"", lease=lifeline))
            raise
        if holding is None and self._lifeline is None:
            lifelines.give_back(lifeline)
        return holding

    async def _take(self, puts: list[Put | Delete], until: Deadline, *, alone: bool) -> tuple[int, bool]:
        """Put one's keys, with ``alone`` only where nobody is before; return the revision, and whether nobody was before."""
        result = await self._calls.txn(compare=self._nobody, then=puts, otherwise=[] if alone else puts, timeout=until.left)
        return result.revision, result.succeeded

    async def _reach_front(self, holding: Holding, until: Deadline) -> bool:
        """Wait until nobody is before; False: the lease was lost meanwhile."""
        for queue in self._behind:
            while (before := await self._before(queue, holding, until)) is not None:
                if holding.is_lost:
                    return False
                if until.over:
                    name = before[0].value[:64].decode(errors="backslashreplace")
                    raise WaitTimeout(f"{self._what} was not free in time: {name!r} is before this one; nothing is left behind")
                await self._wait_until_gone(*before, until.at_most(holding.lifeline.remaining()))
        return not holding.is_lost

    async def _before(self, queue: bytes, holding: Holding, until: Deadline) -> tuple[KeyValue, int] | None:
        """Return who stands right before, and the revision at which it did; asks nobody where the put has told that nobody does."""
        if holding.first:
            return None
        found = await self._nearest(queue, holding, until, 1)
        return (found[0], found.revision) if found else None

    async def _nearest(self, queue: bytes, holding: Holding, until: Deadline, limit: int) -> ScanResult | None:
        """Return those who stand before, the nearest first; None: the lease was lost meanwhile."""
        before = {"sort_by": "create", "descending": True, "limit": limit, "max_create_revision": holding.fence - 1}
        return await self._seen(holding, until, prefix=queue, **before)

    async def _seen(self, holding: Holding, until: Deadline, **query: Any) -> ScanResult | None:
        """Scan this member's own state, once it knows one's place; None: the lease was lost meanwhile."""
        bounds: dict[str, Any] = {"consistency": "local", "min_revision": holding.fence}
        while True:
            try:
                return await self._calls.scan(**query, **bounds, timeout=until.at_most(holding.lifeline.remaining()))
            except TooStale:  # a client that has just come to a member that is behind
                if holding.is_lost:
                    return None
                if until.over:
                    raise WaitTimeout(f"{self._what}: nobody could tell in time who is before this one; nothing is left behind") from None

    async def _wait_until_gone(self, kv: KeyValue, revision: int, seconds: float | None) -> None:
        watch = self._calls.watch(kv.key, start_revision=revision + 1, kinds=("delete",))
        try:
            with suppress(Compacted):  # then it is to be looked at again
                await watch.next(seconds)
        finally:
            await watch.close()


def _given_up(suffix: bytes) -> bytes:
    """Return the key that says that a place in line was given up before it was taken."""
    return place_of("given-up", suffix)
