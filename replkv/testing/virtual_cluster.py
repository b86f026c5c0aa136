"""``Cluster`` and ``AsyncCluster``: whole clusters for users' own tests, in one process, under virtual time.

The members are the real ones: what is simulated is time, the network, and the disks.  docs/TESTING.md is the way in.
"""

from __future__ import annotations

import asyncio
import random
import time
from abc import abstractmethod
from collections import Counter
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping
from contextlib import contextmanager
from types import MappingProxyType, TracebackType
from typing import TYPE_CHECKING, Any, Generic, Protocol, Self, TypeVar
from unittest.mock import patch

from attrs import evolve

from replkv.config import Config, Settings
from replkv.raft import Raft, Role
from replkv.recipes.base import recipe
from replkv.surface import Awaiting, Blocking
from replkv.testing.replicas import AsyncSimReplica, SimReplica
from replkv.testing.swarm import calm
from replkv.testing.virtual_loop import VirtualLoop, until
from replkv.testing.world import SimEngine, Stuck, World
from replkv.values import to_count, to_seconds, to_timeout

if TYPE_CHECKING:
    from replkv.keeper import Held
    from replkv.testing.cluster import SimMember

R = TypeVar("R")
M = TypeVar("M", SimReplica, AsyncSimReplica)

NAMES = "abcdefghi"
SEGMENT = 64 << 10
"""Bytes of a log's segment, where the test does not choose: small ones make a cluster start fast."""
ELECTIONS = 20
"""Election timeouts within which there is a leader, or never will be."""


class Losable(Protocol):
    """A lease, or what hangs on one: a lock, or a term."""

    @property
    def lost(self) -> Any:
        """Tells when it can't be counted on any more."""


class _Cluster(Generic[M]):
    """What both kinds of cluster are.

    Args:
        members: how many, from 1 to 9; they are named a, b, c and so on.
        seed: stands for everything that is left to chance: who leads at first, delays, elections, what a disk keeps when power fails.
        settings: of the cluster.
        config: of every member.
        patience: virtual seconds that one call may wait, or all tasks of a loop without getting on; then it is in vain, and ``Stuck`` is
            raised.

    Raises:
        TypeError, ValueError: a bad argument.
    """

    def __init__(
        self,
        members: int = 3,
        *,
        seed: int = 0,
        settings: Settings | None = None,
        config: Config | None = None,
        patience: float = 300.0,
    ) -> None:
        if not 1 <= to_count(members, "members") <= len(NAMES):
            raise ValueError(f"members must be 1 to {len(NAMES)}, not {members}")
        scenario = evolve(
            calm(),
            seed=to_count(seed, "seed"),
            names=tuple(NAMES[:members]),
            settings=Settings() if settings is None else settings,
            config=Config(segment_bytes=SEGMENT) if config is None else config,
        )
        self._world = World(scenario, patience=to_seconds(patience, "patience"))
        for member in self._world.members.values():
            member.start()
        self._members: dict[str, M] = {name: self._make(member) for name, member in self._world.members.items()}
        if not self._world.drive(self._is_ready, self._until_elected):
            raise Stuck(f"no leader came up; {self._world}")
        self._elect(random.Random(f"leader {seed}").choice(scenario.names))

    def _elect(self, name: str) -> None:
        """Let a member lead: it is always the first that founds a cluster, and no test shall rely on that."""
        leader = self._world.members[self._leader() or name]
        raft = leader.process.raft
        if raft is not None and name != leader.name:
            raft.transfer(name, leader.clock())
            leader.wake()
            self._world.drive(lambda: self._leader() == name and self._is_ready(), self._until_elected)

    @abstractmethod
    def _make(self, member: SimMember) -> M:
        """Return what stands for a member."""

    # -- to look at ----------------------------------------------------------------------------------------------------------------

    @property
    def members(self) -> Mapping[str, M]:
        """All members by name; each is one object through all its lives."""
        return MappingProxyType(self._members)

    def __getitem__(self, name: str) -> M:
        return self._members[self._known(name)]

    def __iter__(self) -> Iterator[M]:
        return iter(self._members.values())

    @property
    def leader(self) -> M | None:
        """The member that leads a majority, which it reaches; None while there is none."""
        name = self._leader()
        return None if name is None else self._members[name]

    @property
    def seed(self) -> int:
        """The seed."""
        return self._world.scenario.seed

    @property
    def now(self) -> float:
        """Virtual seconds since the cluster was made."""
        return self._world.scheduler.now

    @property
    def fingerprint(self) -> str:
        """Stands for everything that happened so far: equal fingerprints mean that two runs went the same way."""
        return self._world.trace.digest

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._world}>"

    # -- faults --------------------------------------------------------------------------------------------------------------------

    def isolate(self, name: str) -> None:
        """Cut a member off from all others: nothing passes, and nobody is told; until ``heal``."""
        self.partition({self._known(name)})

    def partition(self, *groups: Iterable[str]) -> None:
        """Cut the network between groups of members; those that no group names are one more group.  Cuts add up, until ``heal``.

        Args:
            groups: of names.

        Raises:
            KeyError: there is no member of such a name.
            ValueError: a name is in two groups.
        """
        listed = [{self._known(name) for name in group} for group in groups]
        twice = [name for name, times in Counter(name for group in listed for name in group).items() if times > 1]
        if twice:
            raise ValueError(f"{', '.join(sorted(twice))} can't be in two groups")
        listed.append(set(self._members).difference(*listed))
        for number, group in enumerate(listed):
            others = set().union(*listed[:number], *listed[number + 1 :])
            with self._world.gate:
                self._world.network.cut((one, other) for one in group for other in others)

    def heal(self) -> None:
        """End all cuts of the network.  Members that are down or stand still do so on."""
        with self._world.gate:
            self._world.network.heal()

    def kill(self, name: str, *, power: bool = True) -> None:
        """End a member without warning; nothing is done to one that is down.

        What this life gave out ends as well: its calls and watches with ``Closed``, writes that were under way with ``OutcomeUnknown``,
        and its leases and locks are lost.

        Args:
            name: which one.
            power: the whole machine stops: the others are not told, and its disk keeps what was synced and perhaps more; else the process
                ends, as by SIGKILL.
        """
        with self._world.gate:
            self._member(name).crash(power=power)
            self._settle()

    def restart(self, name: str) -> None:
        """Start a member again, with the disk it has; one that runs is ended first, as by SIGKILL.

        It takes part when it has found the others, which takes time: ``wait_ready()`` waits for that.
        """
        member = self._member(name)
        with self._world.gate:
            member.crash(power=False)
            member.start()
            self._members[name]._begin()
            self._settle()

    def pause(self, name: str, seconds: float | None = None) -> None:
        """Let a member's process stand still, as with SIGSTOP, or with a machine that is suspended; its clock goes on.

        A call that is made at this member begins, or returns, when it goes on.

        Args:
            name: which one.
            seconds: how long; None: until ``resume``.

        Raises:
            LookupError: it is down.
        """
        member, limit = self._member(name), float("inf") if seconds is None else to_seconds(seconds, "seconds")
        with self._world.gate:
            member.process  # noqa: B018  # there is one
            member.pause(limit)

    def resume(self, name: str) -> None:
        """Let a process that stands still go on.

        Raises:
            LookupError: it is down.
        """
        member = self._member(name)
        with self._world.gate:
            member.process  # noqa: B018  # there is one
            member.resume()

    def after(self, seconds: float, action: Callable[[], object]) -> None:
        """Do something when so much virtual time has passed, in the middle of whatever goes on then, such as a call that waits.

        Args:
            seconds: from now.
            action: a fault, or what another program does at that time.  It may wait; the call in whose middle it runs goes on afterwards.
        """
        self._world.after(_to_delay(seconds), action)

    # -- what takes virtual time ---------------------------------------------------------------------------------------------------

    @abstractmethod
    async def _until(self, done: Callable[[], object], timeout: float | None) -> bool:
        """Let virtual time pass until something is so; as ``run_until``."""

    @recipe
    async def wait_for_leader(self, timeout: float | None = None) -> M:
        """Return the leader, once there is one; see ``leader``.

        Args:
            timeout: virtual seconds; None: twenty election timeouts.

        Raises:
            Stuck: not in time.
        """
        return await self._led(timeout)

    async def _led(self, timeout: float | None = None) -> M:
        if not await self._until(self._leader, self._until_elected if timeout is None else timeout):
            raise self._vain("no leader was elected in time")
        leader = self.leader
        assert leader is not None
        return leader

    @recipe
    async def drop_leader(self, *, isolate: bool = False) -> M:
        """Kill the leader, or cut it off, without waiting for another.

        Args:
            isolate: cut it off, so that it does not know.

        Returns:
            The one that led.
        """
        leader = await self._led()
        (self.isolate if isolate else self.kill)(leader.name)
        return leader

    @recipe
    async def expire(self, handle: Losable) -> None:
        """Have a holder lose its lease, or its lock or term, as if its member's keep-alives did not come through.

        Time passes until the holder knows and the cluster has given it up.  As all leases of a member are kept alive together, those that
        live no longer than this one go with it.

        Args:
            handle: of the lease, lock or term.

        Raises:
            Stuck: the cluster can't end it: it has no leader.
        """
        if handle.lost.is_set():
            return
        limit = _limit(handle) + self._until_elected
        with self._silenced(handle) as is_lost:
            if not await self._until(is_lost, limit):
                raise self._vain(f"{handle!r} was not lost in {limit:g} s")

    def close(self) -> None:
        """End all members; what they gave out is over."""
        for name in self._members:
            self.kill(name)

    # -- time of the program -------------------------------------------------------------------------------------------------------

    @contextmanager
    def patched_time(self) -> Iterator[None]:
        """Have ``time.sleep``, ``time.monotonic`` and ``time.time`` be the cluster's, for code that uses them as they are.

        Code that was written ``from time import sleep`` keeps the real one.  ``time.time`` goes on from what it is.
        """
        epoch = time.time() - self.now
        with (
            patch("time.sleep", self._sleep),
            patch("time.monotonic", lambda: self.now),
            patch("time.time", lambda: epoch + self.now),
        ):
            yield

    def _sleep(self, seconds: float) -> None:
        self._world.drive(lambda: False, _to_delay(seconds))

    # -- inside --------------------------------------------------------------------------------------------------------------------

    def _known(self, name: str) -> str:
        if name not in self._members:
            raise KeyError(f"there is no member {name!r}, only {', '.join(self._members)}")
        return name

    def _member(self, name: str) -> SimMember:
        return self._world.members[self._known(name)]

    def _settle(self) -> None:
        if not self._world.within_event:
            self._world.settle()

    @property
    def _until_elected(self) -> float:
        return ELECTIONS * self._world.scenario.settings.election_timeout

    def _is_ready(self) -> bool:
        return all(member.process.ready for member in self._world.members.values())

    def _leader(self) -> str | None:
        """Return who leads a majority that it reaches."""
        awake = [member.process for member in self._world.running if not member.paused]
        rafts = {node.name: node.raft for node in awake if node.raft is not None}
        return next((raft.name for raft in rafts.values() if raft.role is Role.LEADER and self._is_followed(raft, rafts)), None)

    def _is_followed(self, leader: Raft, rafts: Mapping[str, Raft]) -> bool:
        name, cuts, voters = leader.name, self._world.network.cuts, leader.configuration.voters
        reached = [rafts[other] for other in voters if other in rafts and not {(name, other), (other, name)} & cuts]
        following = [raft for raft in reached if (raft.leader, raft.term) == (name, leader.term)]
        return 2 * len(following) > len(voters)

    @contextmanager
    def _silenced(self, handle: Losable) -> Iterator[Callable[[], bool]]:
        """Hold the keep-alives back on which a handle's lease lives; yield what tells that its holder and the cluster have lost it."""
        signal = handle.lost
        engine, held = signal._engine, signal._held
        if not isinstance(engine, SimEngine) or engine.world is not self._world:
            raise ValueError(f"{handle!r} is not held by a member of this cluster")
        with engine.silenced():
            yield lambda: signal.is_set() and not self._has_lease(held.id)

    def _has_lease(self, lease: int) -> bool:
        """Tell whether the cluster, as its leader knows it, still has a lease; without a leader it does."""
        name = self._leader()
        return name is None or lease in self._world.members[name].process.machine.leases

    def _vain(self, what: str) -> Stuck:
        return Stuck(f"{what}; {self._world}")


class Cluster(_Cluster[SimReplica], Blocking):
    """A cluster in this process whose members are held as ``Replica``; virtual time passes while a call waits, and at no other time.

    Made of the same seed, and used by one thread in the same way, it does the same.  ``with`` and ``close()`` end it.

    Args:
        members: how many, from 1 to 9; they are named a, b, c and so on.
        seed: stands for everything that is left to chance: who leads at first, delays, elections, what a disk keeps when power fails.
        settings: of the cluster.
        config: of every member.
        patience: virtual seconds that one call may wait, or all tasks of a loop without getting on; then it is in vain, and ``Stuck`` is
            raised.

    Raises:
        TypeError, ValueError: a bad argument.
    """

    def _make(self, member: SimMember) -> SimReplica:
        return SimReplica(self._world, member)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def advance(self, seconds: float) -> None:
        """Let virtual time pass; it can stand in for ``time.sleep``.

        Args:
            seconds: how much; 0 lets happen what is due now.
        """
        self._sleep(seconds)

    def run_until(self, done: Callable[[], object], timeout: float | None = None) -> bool:
        """Let virtual time pass until something is so.

        Args:
            done: tells whether it is; asked between any two events.
            timeout: virtual seconds; None waits without limit.

        Returns:
            Whether it came true in time.

        Raises:
            Stuck: without limit, and it did not come true within the cluster's ``patience``.
        """
        return self._world.drive(lambda: bool(done()), to_timeout(timeout))

    async def _until(self, done: Callable[[], object], timeout: float | None) -> bool:
        return self.run_until(done, timeout)


class AsyncCluster(_Cluster[AsyncSimReplica], Awaiting):
    """A cluster in this process whose members are held as ``AsyncReplica``; ``run`` runs a test on an event loop of virtual time.

    As ``Cluster``; ``asyncio.sleep`` and ``asyncio.timeout`` are virtual as well.  ``async with`` and ``close()`` end it.

    Args:
        members: how many, from 1 to 9; they are named a, b, c and so on.
        seed: stands for everything that is left to chance: who leads at first, delays, elections, what a disk keeps when power fails.
        settings: of the cluster.
        config: of every member.
        patience: virtual seconds that one call may wait, or all tasks of a loop without getting on; then it is in vain, and ``Stuck`` is
            raised.

    Raises:
        TypeError, ValueError: a bad argument.
    """

    def _make(self, member: SimMember) -> AsyncSimReplica:
        return AsyncSimReplica(self._world, member)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def new_event_loop(self) -> asyncio.AbstractEventLoop:
        """Return an event loop of this cluster's time, for test tools that want to run it themselves."""
        return VirtualLoop(self._world)

    def run(self, main: Coroutine[Any, Any, R]) -> R:
        """Run a coroutine to its end on an event loop of this cluster's time, as ``asyncio.run`` does, and return its result.

        Args:
            main: such as ``test()``.

        Raises:
            Stuck: no task got on for the cluster's ``patience``.
        """
        with asyncio.Runner(loop_factory=self.new_event_loop) as runner:
            return runner.run(main)

    async def advance(self, seconds: float) -> None:
        """Let virtual time pass, as ``asyncio.sleep`` does."""
        await asyncio.sleep(_to_delay(seconds))

    async def run_until(self, done: Callable[[], object], timeout: float | None = None) -> bool:
        """Let virtual time pass until something is so; as ``Cluster.run_until``, looked at every millisecond.

        Args:
            done: tells whether it is.
            timeout: virtual seconds; None waits without limit.

        Returns:
            Whether it came true in time.

        Raises:
            Stuck: without limit, and it did not come true within the cluster's ``patience``.
        """
        return await until(self._world, lambda: bool(done()), to_timeout(timeout))

    async def _until(self, done: Callable[[], object], timeout: float | None) -> bool:
        return await self.run_until(done, timeout)


def _limit(handle: Losable) -> float:
    """Return for how many seconds a lease lives at most when it is not kept alive; none is kept alive for longer than its time twice."""
    held: Held = handle.lost._held
    return 2 * held.ttl


def _to_delay(seconds: float) -> float:
    limit = to_timeout(seconds)
    if limit is None:
        raise TypeError("seconds must be a number, not None")
    return limit
