"""The replicas that tests hold: ``Replica`` and ``AsyncReplica`` over members of a simulated cluster.

One object stands for a member through all its lives.  While the member is down its calls raise ``Closed``; when it has been started again
they go to its new life.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Self, TypeVar

from replkv.aio import AsyncReplica
from replkv.errors import Closed
from replkv.leasing import AsyncLease, Lease
from replkv.replica import EmbeddedMember, Replica
from replkv.surface import Timeout
from replkv.testing.futures import SimResolver
from replkv.testing.virtual_loop import VirtualLoop, until
from replkv.testing.world import SimEngine
from replkv.watching import AsyncWatch, Watch

if TYPE_CHECKING:
    from replkv.node import Node
    from replkv.plans import Plan
    from replkv.testing.cluster import SimMember
    from replkv.testing.world import World

R = TypeVar("R")
W = TypeVar("W")
L = TypeVar("L")


class _Simulated(EmbeddedMember[W, L]):
    """What both kinds of simulated replicas are: nothing is opened, and no thread is started.

    Args:
        world: it lives in.
        member: that it stands for.
    """

    def __init__(self, world: World, member: SimMember) -> None:
        self._name = member.name
        self._config = world.scenario.config
        self._settings = world.scenario.settings
        self._world = world
        self._member = member
        self._thread = None
        self._closed = False
        self._begin()

    def _begin(self) -> None:
        """Go on with the member's present life."""
        self._node = self._member.process
        self._embedded: SimEngine = SimEngine(self._world, self._member)
        self._notifier = SimResolver(self._embedded)  # type: ignore[assignment]  # what only _end() needs of a Notifier is its thread

    def _running(self) -> Node:
        node = self._embedded.node
        if node.stopped:
            name = self._name
            raise Closed(f"member {name} is down; restart({name!r}) brings it back") if node.failure is None else node.failure.again()
        return node

    def _engine(self) -> SimEngine:
        self._running()
        self._embedded.take_time()
        self._running()
        return self._embedded

    def _request_close(self, timeout: float) -> float:
        """Begin to close; return for how many seconds to wait."""
        limit = self._timeout(timeout)
        if limit is None:
            raise TypeError("close() takes seconds: it never waits without limit")
        if not self._embedded.node.stopped:
            self._member.close(limit)
        return limit

    def __del__(self) -> None:
        """Do nothing: what is not closed here holds no thread and no file."""


class SimReplica(_Simulated[Watch, Lease], Replica):
    """One member of a simulated cluster; a call lets virtual time pass until it has its answer."""

    def _engine(self) -> SimEngine:
        self._running()
        self._embedded.stand_still()
        return super()._engine()

    def close(self, timeout: float = 5.0) -> None:
        """Hand leadership over and end this life of the member, as a process does that ends as it should.

        Args:
            timeout: virtual seconds.
        """
        life = self._embedded.node
        self._world.drive(lambda: life.stopped, self._request_close(timeout))


class AsyncSimReplica(_Simulated[AsyncWatch, AsyncLease], AsyncReplica):
    """One member of a simulated cluster, for asyncio on the cluster's own event loop."""

    def _engine(self) -> SimEngine:
        loop = asyncio._get_running_loop()
        if loop is not None and not (isinstance(loop, VirtualLoop) and loop.world is self._world):
            raise RuntimeError(
                "this event loop's time is real, the cluster's is virtual: run the test with cluster.run(main()), or have the loop made "
                "by cluster.new_event_loop"
            )
        return super()._engine()

    async def _run(self, plan: Plan[R], timeout: Timeout) -> R:  # type: ignore[override]  # what operation promises on an Awaiting surface
        await self._going_on()
        return await super()._run(plan, timeout)

    async def _get(self, key: bytes, consistency: str, prefix: bytes) -> Any:  # type: ignore[override]  # as _run
        await self._going_on()
        return await super()._get(key, consistency, prefix)

    async def _going_on(self) -> None:
        """Let a call begin when the member's process can go on."""
        life = self._embedded
        await until(self._world, lambda: life.node.stopped or not self._member.paused, None)

    async def open(self) -> Self:
        """Do nothing: the cluster has started the member.

        Raises:
            Closed: it is down.
        """
        self._running()
        return self

    async def close(self, timeout: float = 5.0) -> None:
        """Hand leadership over and end this life of the member; as ``Replica.close``.

        Args:
            timeout: virtual seconds.
        """
        life = self._embedded.node
        await until(self._world, lambda: life.stopped, self._request_close(timeout))
