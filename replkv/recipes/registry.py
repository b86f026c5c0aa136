"""Registries of services: who offers something, and where, for as long as it lives."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import AsyncIterator, Generator
from contextlib import suppress
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self, cast
from weakref import WeakMethod

from replkv.errors import Closed, ForkedProcess, InvariantBroken, LockLost, ReplkvError, StorageError
from replkv.immediate import run
from replkv.leasing import AsyncLost, Lost
from replkv.ops import KEEP, Delete, Key, Put, Txn
from replkv.recipes import lifelines
from replkv.recipes.base import Deadline, Recipe, named, place_of, recipe
from replkv.surface import Awaiting, Blocking, Surface
from replkv.valuecodec import CodecName, codec_named
from replkv.values import to_key, to_ttl
from replkv.view import AsyncView, Change, Changes, View
from replkv.waiting import loop_inbox

if TYPE_CHECKING:
    from replkv.lifeline import Lifeline
    from replkv.valuecodec import Codec
    from replkv.values import Data

logger = logging.getLogger(__name__)

OVER: Final = (Closed, StorageError, InvariantBroken, ForkedProcess)
"""What nothing helps against."""

PAUSE: Final = 0.5
"""Seconds between two attempts to register again."""


class _Registration(Recipe):
    """An instance that is registered, until it is withdrawn, its process is gone, or its lease is lost.

    Args:
        surface: where.
        what: for messages.
        key: of the instance.
        codec: of its value.
        value: of the instance.
        ttl: seconds.
        again: register again after a loss.
    """

    _lifeline: Lifeline | None = None
    _replacing: Lifeline | None = None  # which was lost
    _withdrawn = False

    def __init__(
        self, surface: Surface[Any, Any], what: str, key: bytes, codec: Codec[Any], value: Any, *, ttl: float, again: bool
    ) -> None:
        super().__init__(surface)
        to_ttl(ttl)
        self._what = what
        self._key = to_key(key)
        self._codec = codec
        self._value = codec.encode(value)
        self._ttl = ttl
        self._again = again

    @property
    def held(self) -> bool:
        """Whether it is registered and can be counted on, by this process's own clock; never waits."""
        return self._lifeline is not None and not self._lifeline.is_lost

    @recipe
    async def update(self, value: Any) -> None:
        """Change its value.

        Args:
            value: what the registry's codec takes.

        Raises:
            LockLost: it is not registered any more: its lease was lost, or another process has registered the same instance.  What
                registers itself again after a loss has the new value then.
            ValueError, TypeError: the codec does not take the value.
            NoLeader, OutcomeUnknown: the cluster did not answer within ``Config.timeout``.
        """
        self._value = self._codec.encode(value)
        lifeline = self._alive
        put = Put(self._key, self._value, lease=KEEP)
        if not await self._calls.txn(compare=[Key(self._key).lease == lifeline.id], then=[put]):
            raise LockLost(f"{self._what} is not this process's any more: its lease was lost, or another one has registered it")

    @recipe
    async def withdraw(self) -> None:
        """Have nobody find it any more.

        It waits for the cluster for ``Config.timeout`` at most; where that can't be reached, the entry ends with its lease.  Another
        process's entry of the same name stays.
        """
        await self._withdraw()

    async def _withdraw(self) -> None:
        self._withdrawn = True
        lifeline, self._lifeline = self._lifeline, None
        if lifeline is None:
            return
        try:
            with suppress(ReplkvError):
                await self._calls.txn(compare=[Key(self._key).lease == lifeline.id], then=[Delete(self._key)])
        finally:
            lifeline.drop()

    # -- the lease -----------------------------------------------------------------------------------------------------------------

    @property
    def _alive(self) -> Lifeline:
        if self._lifeline is None:
            raise RuntimeError(f"{self._what} is {'withdrawn' if self._withdrawn else 'not registered yet: await it, or enter it'}")
        return self._lifeline

    async def _register(self, instead: Lifeline | None = None) -> bool:
        """Put the entry on a lease; if it is to be ``instead`` of one that was lost, only if no other process has put one meanwhile."""
        until = Deadline(self._clock, self._calls._engine().config.timeout)  # noqa: SLF001  # this process's choice
        lifeline = await lifelines.borrow(self._calls, self._ttl, until)
        put = Put(self._key, self._value, lease=lifeline)
        mine = [] if instead is None else [Key(self._key).lease == instead.id]
        if_gone = Txn(compare=[Key(self._key).missing], then=[put])
        try:
            result = await self._calls.txn(compare=mine, then=[put], otherwise=[if_gone], timeout=until.left)
        except BaseException:
            lifeline.drop()
            raise
        if not (result or result.responses[0]):
            lifeline.drop()
            return False
        self._lifeline = lifeline
        if self._withdrawn:  # meanwhile
            lifeline.drop()
        elif self._again:
            tell = WeakMethod(self._is_lost)  # who forgets a registration lets it end
            lifeline.held.on_lost.append(lambda: (is_lost := tell()) and is_lost(lifeline))
            if lifeline.held.lost:  # before that
                self._is_lost(lifeline)
        return True

    def _is_lost(self, lifeline: Lifeline) -> None:
        if self._lifeline is lifeline and self._replacing is not lifeline and not self._withdrawn:
            self._replacing = lifeline
            self._have_registered_again()

    def _have_registered_again(self) -> None:
        """Have that done elsewhere: this is the member's own thread."""
        raise NotImplementedError

    async def _register_again(self) -> None:
        lost = self._lifeline
        while lost is not None and not self._withdrawn:
            try:
                if not await self._register(instead=lost):
                    logger.warning("%s was lost, and is not registered again: another process has registered it", self._what)
                return
            except OVER:
                return
            except ReplkvError as error:
                logger.warning("%s was lost, and could not be registered again yet: %s", self._what, error)
                await self._calls._sleep(PAUSE)  # noqa: SLF001  # the surface's time

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._what}: {'registered' if self.held else 'not registered'}>"


class Registration(_Registration, Blocking):
    """An instance that is registered, for threads; made with ``Registry.register``; the block of ``with`` withdraws it at its end."""

    @property
    def lost(self) -> Lost:
        """Tells when the present lease can't be counted on any more.

        Raises:
            RuntimeError: it is withdrawn.
        """
        return Lost(self._alive.engine, self._alive.held)

    def _have_registered_again(self) -> None:
        threading.Thread(target=lambda: run(self._register_again()), name=f"replkv {self._what}", daemon=True).start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        run(self._withdraw())


class AsyncRegistration(_Registration, Awaiting):
    """An instance that is registered, for asyncio; it is registered when it is awaited or entered with ``async with``."""

    _loop: asyncio.AbstractEventLoop | None = None
    _task: asyncio.Task[None] | None = None

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._turn = asyncio.Lock()  # one task registers; if that is cancelled or fails, the next one does

    @property
    def lost(self) -> AsyncLost:
        """Tells when the present lease can't be counted on any more; it can be awaited.

        Raises:
            RuntimeError: it is not registered yet, or withdrawn.
        """
        return AsyncLost(self._alive.engine, self._alive.held)

    def _have_registered_again(self) -> None:
        assert self._loop is not None  # noqa: S101  # it was registered there
        if not self._loop.is_closed():
            loop_inbox(self._loop).put(self._begin_again)

    def _begin_again(self) -> None:
        assert self._loop is not None  # noqa: S101  # it is this one
        self._task = self._loop.create_task(self._register_again())

    async def _withdraw(self) -> None:
        if self._task is not None:
            self._task.cancel()
        await super()._withdraw()

    def __await__(self) -> Generator[Any, None, Self]:
        return self._registered().__await__()

    async def _registered(self) -> Self:
        async with self._turn:
            if self._lifeline is None and not self._withdrawn:
                self._loop = asyncio.get_running_loop()
                await self._register()
        return self

    async def __aenter__(self) -> Self:
        return await self._registered()

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await asyncio.shield(self._withdraw())


class _Registry(Recipe):
    """The instances of a service: each process registers what it offers, and finds what others do in its own memory.

    An instance stays registered as long as its process keeps a lease alive; ``ttl`` seconds after that has died nobody finds it
    any more.  ``discover()`` shows this process's own state, which takes no network and works without a quorum: an instance that it shows
    may be gone, so be ready to try another one.  ``view()`` is the same as a dictionary that follows the cluster, and says how old it is.

    Args:
        surface: where.
        service: its name, bytes or text.
        codec: what values are stored as: "bytes", "text", "json", "msgpack", ``typed(kind)``, or an object that encodes and decodes.

    Raises:
        TypeError, ValueError: a bad argument.
    """

    def __init__(self, surface: Surface[Any, Any], service: Data, codec: CodecName | Codec[Any] = "text") -> None:
        super().__init__(surface)
        self._what = named("service", service)
        self._place = place_of("registry", service)
        self._codec: Codec[Any] = codec_named(codec)

    def _entry(self, instance: str) -> tuple[str, bytes, Codec[Any]]:
        """Return what a registration needs to know."""
        if not isinstance(instance, str):
            raise TypeError(f"instance must be text, not {type(instance).__name__}")
        if not instance:
            raise ValueError("an instance needs a name that is not empty")
        return f"instance {instance!r} of {self._what}", self._place + instance.encode(), self._codec

    async def _view(self) -> Any:
        """Return the view that all calls of this object share, once it has taken in what there is."""
        raise NotImplementedError

    @recipe
    async def discover(self) -> dict[str, Any]:
        """Return the values of all instances by their names, as this process knows them, all at one revision.

        Raises:
            Undecodable: the codec can't read the value of an instance, which the error names.
            Closed, StorageError: the member has ended.
        """
        return dict((await self._view()).items())

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._what}>"


class Registry(_Registry, Blocking):
    """The instances of a service, for threads; see ``_Registry``."""

    def register(self, instance: str, value: Any, *, ttl: float = 10.0, again: bool = True) -> Registration:
        """Register an instance, in the place of one of the same name: a process that comes back need not wait for its old lease to end.

        Args:
            instance: its name.
            value: what the codec takes, such as an address.
            ttl: seconds for which it outlives its process, from ``Settings.min_ttl`` to ten years.
            again: when its lease is lost, as in a long time without a quorum, register it again as soon as possible, unless another
                process has done so, and as long as somebody refers to the registration.

        Raises:
            TypeError, ValueError: a bad argument.
            NoLeader: it was not registered within ``Config.timeout``.
            OutcomeUnknown: it may have been registered, and ends soon.
        """
        registration = Registration(self._surface, *self._entry(instance), value, ttl=ttl, again=again)
        run(registration._register())  # noqa: SLF001  # one module
        return registration

    def view(self) -> View[Any]:
        """Return a dictionary of the instances that follows the cluster."""
        return cast("View[Any]", cast("Any", self._surface).view(self._place, self._codec))

    def changes(self, timeout: float | None = None) -> Changes[Any]:
        """Return an iterator of all changes from now on; as ``View.changes``.

        Args:
            timeout: it ends when nothing has come for so many seconds; None: when the member or the iterator is closed.
        """
        return self.view().changes(timeout)

    _seen: View[Any] | None = None

    async def _view(self) -> View[Any]:
        if self._seen is None:
            self._seen = self.view()
        return self._seen


class AsyncRegistry(_Registry, Awaiting):
    """The instances of a service, for asyncio; see ``_Registry``."""

    def register(self, instance: str, value: Any, *, ttl: float = 10.0, again: bool = True) -> AsyncRegistration:
        """Register an instance when what this returns is awaited or entered; as ``Registry.register``.

        Args:
            instance: its name.
            value: what the codec takes, such as an address.
            ttl: seconds for which it outlives its process, from ``Settings.min_ttl`` to ten years.
            again: when its lease is lost, register it again.

        Raises:
            TypeError, ValueError: a bad argument.
        """
        return AsyncRegistration(self._surface, *self._entry(instance), value, ttl=ttl, again=again)

    def view(self) -> AsyncView[Any]:
        """Return a dictionary of the instances that follows the cluster; await it before it is first read."""
        return cast("AsyncView[Any]", cast("Any", self._surface).view(self._place, self._codec))

    def changes(self, timeout: float | None = None) -> AsyncIterator[Change[Any]]:
        """Return an iterator of all changes from now on; as ``AsyncView.changes``.

        Args:
            timeout: it ends when nothing has come for so many seconds; None: when the member is closed.
        """
        return self.view().changes(timeout)

    _seen: AsyncView[Any] | None = None

    async def _view(self) -> AsyncView[Any]:
        if self._seen is None:
            self._seen = self.view()
        return await self._seen
