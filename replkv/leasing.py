"""``Lease`` and ``AsyncLease``: a lease as its holder sees it, for threads and for asyncio.

The member's keeper (``keeper.py``) keeps leases alive and knows by this member's clock until when they can be counted on; a handle asks it.
"""

from __future__ import annotations

import asyncio
import threading
from contextlib import contextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING, Any, Self, TypeVar

from replkv import errors
from replkv.lifeline import CancelScope, Lifeline
from replkv.ops import Grant, Renew, Revoke, to_lease_id
from replkv.plans import LeaseKeys, Plan, Write, pack_command
from replkv.surface import DEFAULT, Awaiting, Blocking, Surface, Timeout, operation
from replkv.values import to_timeout, to_ttl
from replkv.waiting import loop_inbox
from replkv.wire import unless_refused

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator
    from types import TracebackType

    from replkv.engine import Engine
    from replkv.keeper import Held, Keeper
    from replkv.plans import Asker
    from replkv.wire import Raw

H = TypeVar("H")


class _Hold(Plan[H]):
    """Grant or take over a lease, and count on it from before it was asked for."""

    __slots__ = ("_asked_at", "_engine", "_gate", "_handle", "_keep_alive", "_lease", "_made", "_ttl")

    def __init__(self, engine: Engine, lease: int, ttl: int, *, keep_alive: bool, handle: Callable[[Engine, Held], H]) -> None:
        self._engine = engine
        self._lease = lease
        self._ttl = ttl  # 0: take over
        self._keep_alive = keep_alive
        self._handle = handle
        self._asked_at = 0.0
        self._made: list[H] = []  # the handle, once there is one
        self._gate = threading.Lock()  # several threads may wait for one outcome

    def _operation(self, keeper: int) -> Grant | Renew:
        return Grant(self._lease, self._ttl, keeper) if self._ttl else Renew(self._lease, keeper)

    def command(self, asker: Asker) -> bytes:
        """Pack it; the lease belongs to this process's keeper if it is to be kept alive here."""
        self._asked_at = asker.clock()
        return pack_command(self._operation(asker.keeper.number if self._keep_alive else 0).to_wire(), asker)

    def meaning(self, raw: Raw) -> H:
        """Hold the lease, once.

        Raises:
            LeaseNotFound: it was over before its caller learnt of it.
        """
        with self._gate:
            if not self._made:
                self._made.append(self._handle(self._engine, self._held(raw)))
            return self._made[0]

    def _held(self, raw: Raw) -> Held:
        engine = self._engine
        number, ttl = self._operation(0).result(unless_refused(raw))
        held = engine.keeper.hold(number, ttl / 1e6, self._asked_at, kept=self._keep_alive)
        if not engine.is_live(number) or held.until <= engine.clock():  # it ended before the keeper knew of it, or may have
            engine.keeper.lose(held)
            raise errors.LeaseNotFound(f"lease {number} was granted, and was over before its caller learnt of it; make a new one")
        engine.look_again()
        return held


@contextmanager
def _ending(engine: Engine, lease: int) -> Iterator[None]:
    """Have the keeper learn that there is no such lease any more: a member in this process has told it, one elsewhere tells the caller."""
    try:
        yield
    except errors.LeaseNotFound:
        engine.keeper.ended(lease)
        raise


class _Renewal(Plan[None]):
    """Let the time of a lease begin anew."""

    __slots__ = ("_asked_at", "_engine", "_held")

    def __init__(self, engine: Engine, held: Held) -> None:
        self._engine = engine
        self._held = held
        self._asked_at = 0.0

    def command(self, asker: Asker) -> bytes:
        """Pack it; whoever keeps the lease alive goes on doing so."""
        self._asked_at = asker.clock()
        return pack_command(Renew(self._held.id, 0).to_wire(), asker)

    def meaning(self, raw: Raw) -> None:
        """Count on the lease for its whole time again."""
        with _ending(self._engine, self._held.id):
            unless_refused(raw)
        self._engine.keeper.renewed(self._held, self._asked_at)
        self._engine.look_again()


class _Revocation(Write[int]):
    """End a lease, which then was not lost by accident."""

    __slots__ = ("_handle",)

    def __init__(self, handle: _Leasing) -> None:
        super().__init__(Revoke(handle.id))
        self._handle = handle

    def command(self, asker: Asker) -> bytes:
        """Pack it, and have its holder not be surprised."""
        self._handle._revoked = True  # noqa: SLF001  # the two belong together
        return super().command(asker)

    def meaning(self, raw: Raw) -> int:
        """Count on it no more."""
        handle = self._handle
        assert handle._engine is not None  # noqa: S101, SLF001  # who holds a lease knows where
        try:
            with _ending(handle._engine, handle.id):  # noqa: SLF001  # the two belong together
                deleted = super().meaning(raw)
        except (errors.PermissionDenied, errors.AuthenticationFailed):
            handle._revoked = False  # noqa: SLF001  # it goes on
            raise
        handle._engine.keeper.ended(handle.id)  # noqa: SLF001
        return deleted


@contextmanager
def _granting(keeper: Keeper) -> Iterator[None]:
    """Have the keeper know that a lease which it does not hold may be about to be held."""
    keeper.granting(+1)
    try:
        yield
    finally:
        keeper.granting(-1)


def _wait_by(error: errors.OutcomeUnknown, grant: Callable[[Callable[[], Any]], object]) -> None:
    """Have who goes on waiting for an unknown outcome do so as the one who asked did, so that the keeper knows of it."""
    resume = error._resume  # noqa: SLF001  # the two belong together
    if resume is not None:
        error._resume = lambda timeout: grant(partial(resume, timeout))  # noqa: SLF001


class _Signal:
    """What tells that a lease is lost."""

    def __init__(self, engine: Engine, held: Held) -> None:
        self._engine = engine
        self._held = held

    def is_set(self) -> bool:
        """Tell whether the lease can't be counted on any more, by this member's own clock; never waits."""
        return self._held.lost or self._engine.clock() >= self._held.until

    def _left(self, until: float | None) -> float:
        """Return for how many seconds to wait before it is worth to look again."""
        return max(0.0, min(self._held.until, float("inf") if until is None else until) - self._engine.clock())

    def _over(self, until: float | None) -> bool:
        return until is not None and self._engine.clock() >= until

    def _until(self, timeout: float | None) -> float | None:
        limit = to_timeout(timeout)
        return None if limit is None else self._engine.clock() + limit

    def __repr__(self) -> str:
        return f"<lease {self._held.id} {'is lost' if self.is_set() else 'is held'}>"


class Lost(_Signal):
    """Tells threads that a lease is lost; it comes before the cluster deletes the lease's keys because their time is over."""

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until the lease is lost.

        Args:
            timeout: seconds; None waits without limit.

        Returns:
            Whether it is lost; False: not in time.

        Raises:
            TypeError, ValueError: no timeout.
        """
        until = self._until(timeout)
        untold = threading.Lock()
        untold.acquire()

        def tell() -> None:
            with suppress(RuntimeError):  # it has been told already
                untold.release()

        self._held.on_lost.append(tell)
        try:
            while not self.is_set():
                if self._over(until):
                    return False
                self._engine.waits.acquire(untold, self._left(until))
            return True
        finally:
            self._held.on_lost.remove(tell)


class AsyncLost(_Signal):
    """Tells tasks that a lease is lost, as ``Lost`` does threads; it can be awaited."""

    def __await__(self) -> Generator[Any, None, bool]:
        return self.wait().__await__()

    async def wait(self, timeout: float | None = None) -> bool:
        """Wait until the lease is lost; as ``Lost.wait``.

        Args:
            timeout: seconds; None waits without limit.

        Returns:
            Whether it is lost; False: not in time.

        Raises:
            TypeError, ValueError: no timeout.
        """
        until = self._until(timeout)
        loop = asyncio.get_running_loop()
        told = asyncio.Event()
        inbox = loop_inbox(loop)

        def tell() -> None:
            inbox.put(told.set)

        self._held.on_lost.append(tell)
        try:
            while not self.is_set():
                if self._over(until):
                    return False
                with suppress(TimeoutError):
                    async with asyncio.timeout(self._left(until)):  # wait_for() of Python 3.11 would lose a cancellation
                        await told.wait()
            return True
        finally:
            self._held.on_lost.remove(tell)


class _Leasing:
    """What both kinds of handles are."""

    def __init__(self, surface: Surface[Any, Any], ttl: float | None, number: int | None, *, keep_alive: bool, timeout: Timeout) -> None:
        if ttl is None and number is None:
            raise ValueError("lease() needs ttl=, or id= of a lease to take over")
        if not isinstance(keep_alive, bool):
            raise TypeError(f"keep_alive must be a bool, not {type(keep_alive).__name__}")
        self._surface = surface
        self._timeout = timeout
        self._wanted = (0 if number is None else to_lease_id(number), 0 if ttl is None else to_ttl(ttl), keep_alive)
        self._engine: Engine | None = None
        self._held_lease: Held | None = None
        self._revoked = False

    def _loss(self) -> errors.LockLost | None:
        """Return the error for a block that relied on it."""
        if self._revoked:
            return None
        return errors.LockLost(
            f"lease {self.id} of {self.ttl:g} s is lost: not kept alive in time, or revoked; the keys that hung on it are deleted"
        )

    def _let_end(self) -> None:
        """Keep it alive no longer: it could not be revoked, and ends by itself."""
        if self._engine is not None and self._held_lease is not None:
            self._engine.keeper.keep(self._held_lease, alive=False)

    def _plan(self) -> Plan[Self]:
        lease, ttl, keep_alive = self._wanted
        return _Hold(self._surface._engine(), lease, ttl, keep_alive=keep_alive, handle=self._now_held)  # noqa: SLF001  # a part of the surface

    def _now_held(self, engine: Engine, held: Held) -> Self:
        if self._held_lease is None:
            self._engine, self._held_lease = engine, held
        else:  # it was asked for once more when the outcome of the first time was unknown: this one is nobody's
            engine.keeper.lose(held)
        return self

    @property
    def _held(self) -> Held:
        if self._held_lease is None:
            raise RuntimeError("this lease is not granted yet: await it, or enter it with 'async with'")
        return self._held_lease

    @property
    def id(self) -> int:
        """The lease's number in the cluster."""
        return self._held.id

    @property
    def ttl(self) -> float:
        """Seconds it lives without being kept alive."""
        return self._held.ttl

    def remaining(self) -> float:
        """Return for how many seconds this process can count on it, as of now and by this member's clock; 0.0 once it is lost."""
        held = self._held
        assert self._engine is not None  # noqa: S101  # who holds a lease knows where
        return 0.0 if held.lost else max(0.0, held.until - self._engine.clock())

    @operation
    def keys(self, *, timeout: Timeout = DEFAULT) -> Plan[tuple[bytes, ...]]:
        """List the keys that hang on it, in order; in a namespace those of the namespace.  Linearizable.

        Args:
            timeout: seconds.

        Raises:
            LeaseNotFound: it is over.
        """
        return self._surface._run(LeaseKeys(self.id, self._surface._prefix), timeout)  # noqa: SLF001  # a part of the surface

    @operation
    def renew(self, *, timeout: Timeout = DEFAULT) -> Plan[None]:
        """Let its time begin anew; not needed where it is kept alive.

        Args:
            timeout: seconds.

        Raises:
            LeaseNotFound: it is over.
            OutcomeUnknown: handed over, and no answer in time.
        """
        return self._surface._run(_Renewal(self._surface._engine(), self._held), timeout)  # noqa: SLF001  # a part of the surface

    @operation
    def revoke(self, *, timeout: Timeout = DEFAULT) -> Plan[int]:
        """End it, and delete the keys that hang on it at one revision.

        Args:
            timeout: seconds.

        Returns:
            How many keys were deleted.

        Raises:
            LeaseNotFound: it is over already.
            OutcomeUnknown: handed over, and no answer in time.
        """
        return self._surface._run(_Revocation(self), timeout)  # noqa: SLF001  # a part of the surface

    def __repr__(self) -> str:
        held = self._held_lease
        what = "not granted yet" if held is None else f"{held.id} of {held.ttl:g} s, {self.remaining():.1f} s left"
        return f"<{type(self).__name__} {what}>"


class Lease(_Leasing, Blocking):
    """A lease that this process holds; made with ``lease()`` of a ``Replica``.

    It is kept alive by the member as long as that runs, with or without this handle, unless ``keep_alive=False`` was said.  The block of
    a ``with`` statement revokes it at its end, and does not mind if that is not possible: then it ends by itself.  Without a quorum that
    is known only after ``Config.timeout``, and so long the end of the block waits.
    """

    _signal: Lost | None = None

    def __init__(self, surface: Surface[Any, Any], ttl: float | None, number: int | None, *, keep_alive: bool, timeout: Timeout) -> None:
        super().__init__(surface, ttl, number, keep_alive=keep_alive, timeout=timeout)
        self._grant(surface._engine().keeper, lambda: surface._run(self._plan(), timeout))  # noqa: SLF001  # a part of the surface

    def _grant(self, keeper: Keeper, wait: Callable[[], object]) -> Self:
        with _granting(keeper):
            try:
                wait()
            except errors.OutcomeUnknown as error:
                _wait_by(error, partial(self._grant, keeper))
                raise
        return self

    def _now_held(self, engine: Engine, held: Held) -> Self:
        super()._now_held(engine, held)
        if self._signal is None:
            self._signal = Lost(engine, held)
        return self

    @property
    def lost(self) -> Lost:
        """Tells when the lease can't be counted on any more; it is the same object each time.

        That is when the lease was revoked, when the member ended, or when its time is over by this member's clock: shortly before the
        cluster deletes its keys for that.
        """
        assert self._signal is not None  # noqa: S101  # a lease is made with it
        return self._signal

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        try:
            self.revoke()
        except errors.ReplkvError:
            self._let_end()


class AsyncLease(_Leasing, Awaiting):
    """A lease that this process holds; made with ``lease()`` of an ``AsyncReplica``, and granted when it is awaited or entered.

    As ``Lease``, with ``async with``, whose block is cancelled when the lease is lost, and raises ``LockLost``.  It is granted once,
    however many tasks await it.
    """

    _scope: CancelScope | None = None

    def __init__(self, surface: Surface[Any, Any], ttl: float | None, number: int | None, *, keep_alive: bool, timeout: Timeout) -> None:
        super().__init__(surface, ttl, number, keep_alive=keep_alive, timeout=timeout)
        self._turn = asyncio.Lock()  # one task asks; if that is cancelled or fails, the next one does

    def __await__(self) -> Generator[Any, None, Self]:
        return self._granted().__await__()

    async def _granted(self) -> Self:
        async with self._turn:
            if self._held_lease is None:
                surface = self._surface
                await self._grant(surface._engine().keeper, lambda: surface._run(self._plan(), self._timeout))  # noqa: SLF001
        return self

    async def _grant(self, keeper: Keeper, wait: Callable[[], Any]) -> Self:
        with _granting(keeper):
            try:
                await wait()
            except errors.OutcomeUnknown as error:
                _wait_by(error, partial(self._grant, keeper))
                raise
        return self

    @property
    def lost(self) -> AsyncLost:
        """Tells when the lease can't be counted on any more, as ``Lease.lost``; it can be awaited.

        Raises:
            RuntimeError: it is not granted yet.
        """
        held = self._held
        assert self._engine is not None  # noqa: S101  # who holds a lease knows where
        return AsyncLost(self._engine, held)

    async def __aenter__(self) -> Self:
        await self._granted()
        assert self._engine is not None  # noqa: S101  # who holds a lease knows where
        self._scope = CancelScope(Lifeline(self._engine, self._held), self._loss)
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        scope, self._scope = self._scope, None
        try:
            if scope is not None:
                scope.close(error)
        finally:
            try:
                await asyncio.shield(self.revoke())
            except errors.ReplkvError:
                self._let_end()
