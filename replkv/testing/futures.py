"""What ``submit`` returns in a simulation: futures that let virtual time pass while somebody waits for them."""

from __future__ import annotations

import threading
from concurrent.futures import Future
from functools import partial
from typing import TYPE_CHECKING, Any

from replkv.testing.sim import nothing
from replkv.waiting import Resolver, Submitted

if TYPE_CHECKING:
    from collections.abc import Callable

    from replkv.testing.world import SimEngine, World
    from replkv.waiting import FutureCall


class SimResolver(Resolver):
    """What resolves the futures of one life of a member, between two events of the simulation.

    Args:
        engine: that life.
    """

    def __init__(self, engine: SimEngine) -> None:
        super().__init__(self._join)
        self._engine = engine

    def _join(self) -> None:
        """Be asked to look between two events."""
        if self not in self._engine.world.resolvers:
            self._engine.world.resolvers.append(self)

    def future(self, call: FutureCall) -> Submitted:  # noqa: ARG002  # it is resolved when the call is finished
        """Return a new future."""
        return _SimFuture(self._engine.world, self)

    def expect(self, call: FutureCall) -> None:
        """Watch over a call's deadline."""
        super().expect(call)
        with self._engine.world.gate:
            self._join()
            self._engine.world.scheduler.at(self._engine.member.clock.moment(call.deadline), nothing)  # time must not pass over it

    def look(self) -> None:
        """Resolve what can be; everything when the life has ended."""
        self._look(float("inf") if self._engine.node.stopped else self._engine.clock())
        if not self._calls and self in self._engine.world.resolvers:
            self._engine.world.resolvers.remove(self)


class _SimFuture(Submitted):
    """A future for which virtual time passes, also where ``wait`` or ``as_completed`` wait for it."""

    def __init__(self, world: World, resolver: SimResolver) -> None:
        super().__init__()
        self._world = world
        self._resolver = resolver
        self._waiters = _Waiters(world)

    def result(self, timeout: float | None = None) -> Any:
        self._world.wait(self.done, timeout)
        return super().result(0)

    def exception(self, timeout: float | None = None) -> BaseException | None:
        self._world.wait(self.done, timeout)
        return super().exception(0)

    def add_done_callback(self, fn: Callable[[Future[Any]], object]) -> None:
        super().add_done_callback(lambda future: self._resolver.inbox.put(partial(fn, future)))


class _Waiters(list[Any]):
    """The list in which ``concurrent.futures`` leaves who waits; the event each of them waits for is replaced."""

    def __init__(self, world: World) -> None:
        super().__init__()
        self._world = world

    def append(self, waiter: Any) -> None:
        if not isinstance(waiter.event, _SimEvent):
            waiter.event = _SimEvent(self._world)
        super().append(waiter)


class _SimEvent(threading.Event):
    def __init__(self, world: World) -> None:
        super().__init__()
        self._world = world

    def wait(self, timeout: float | None = None) -> bool:
        return self._world.wait(self.is_set, timeout)
