"""A simulated cluster as users' tests hold it: a call that blocks lets virtual time pass until it has its answer.

One thread makes everything happen.  Whoever waits, for a lock, a future or a while, takes one event of the simulation after the other; when
nobody waits, time stands still.  Several threads may do so in turns, but then it is their scheduling that tells how the test goes.
"""

from __future__ import annotations

import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from inspect import CO_GENERATOR
from types import FrameType
from typing import TYPE_CHECKING, Any

from attrs import define, field

from replkv.engine import Embedded
from replkv.errors import Closed
from replkv.testing.cluster import SimCluster

if TYPE_CHECKING:
    from replkv.messages import Configuration
    from replkv.node import Node
    from replkv.plans import Plan
    from replkv.proposals import Call
    from replkv.testing.cluster import SimMember
    from replkv.testing.futures import SimResolver
    from replkv.testing.history import Slot

CALL_TAKES = 0.0001
"""Seconds that every call takes at least, also one that is answered from memory: who asks again and again sees time pass."""
TOUCH = 1e-6
"""Seconds a wait lasts longer than was wanted: rather than be a touch too short."""


class Stuck(RuntimeError):
    """A wait lasted so long that nothing will ever end it: the test waits for what nobody is left to do."""


class _Waiting(threading.local):
    """The call that a thread waits in, or was in when it last waited, and since when."""

    call: FrameType | None = None
    since = 0.0


@define(eq=False, repr=False)
class World(SimCluster):
    """All members, and the time that passes when somebody waits.

    Args:
        patience: virtual seconds a call may last.
    """

    patience: float = 300.0
    resolvers: list[SimResolver] = field(factory=list)  # those that have, or will have, something to do
    gate: threading.RLock = field(factory=threading.RLock)
    _actions: deque[Callable[[], object]] = field(factory=deque)  # whose moment has come
    _waiting: _Waiting = field(factory=_Waiting)
    _stepping: int | None = None  # the thread that is within an event

    def __attrs_post_init__(self) -> None:
        super().__attrs_post_init__()
        self.mourners.append(_mourn)
        self.settled = self._newest_configuration

    def _newest_configuration(self) -> Configuration | None:
        """Return the newest configuration that a member has applied."""
        machines = [member.node.machine for member in self.members.values() if member.node is not None]
        newest = max(machines, key=lambda machine: machine.configured, default=None)
        return newest.configuration if newest is not None and newest.configured else None

    def note_slot(self, call: Call, slot: Slot) -> None:
        """Remember nothing: nobody judges where commands stand."""

    @property
    def within_event(self) -> bool:
        """Whether this thread is within an event of the simulation."""
        return self._stepping == threading.get_ident()

    def refuse_to_block(self) -> None:
        """Refuse to wait within an event.

        Raises:
            RuntimeError: this is one.
        """
        if self.within_event:
            raise RuntimeError("a member's own thread can't wait: time stands still meanwhile")

    def step(self, until: float) -> bool:
        """Let the next thing happen that is due by a moment; False: there is none, and it is that late."""
        with self.gate:
            self.refuse_to_block()
            self._stepping = threading.get_ident()
            try:
                happened = self.scheduler.step(until)
            finally:
                self._stepping = None
            self.settle()
        while self._actions:
            self._actions.popleft()()
        return happened

    def after(self, seconds: float, action: Callable[[], object]) -> None:
        """Do something in so many seconds, between two events: it may wait, and whoever waits meanwhile waits for it, too."""
        with self.gate:
            self.scheduler.after(seconds, partial(self._actions.append, action))

    def settle(self) -> None:
        """Resolve futures that can be, and run their callbacks; not within an event."""
        for resolver in tuple(self.resolvers):
            resolver.look()

    def drive(self, done: Callable[[], bool], timeout: float | None) -> bool:
        """Let virtual time pass until ``done``, for ``timeout`` seconds at most, None being without limit; tell whether it came true.

        Raises:
            RuntimeError: within an event.
            Stuck: without limit, and it did not come true for very long.
        """
        self.refuse_to_block()
        with self.gate:
            self.settle()
            until = self.scheduler.now + (self.patience if timeout is None else timeout)
        while not done():
            if not self.step(until):
                came_true = done()
                if timeout is None and not came_true:
                    raise Stuck(self.explain("the wait for a condition"))
                return came_true
        return True

    def wait(self, done: Callable[[], bool], timeout: float | None) -> bool:
        """Let virtual time pass for a call, as ``drive``; the call may wait several times, but not for ever.

        Raises:
            RuntimeError: within an event.
            Stuck: the call has lasted very long.
        """
        call, waiting = _outermost_call(sys._getframe()), self._waiting
        if call is not waiting.call:
            waiting.call, waiting.since = call, self.scheduler.now
        left = max(0.0, waiting.since + self.patience - self.scheduler.now)
        came_true = self.drive(done, left if timeout is None else min(timeout, left))
        if came_true and call.f_code.co_flags & CO_GENERATOR:
            waiting.call = None  # it has the same frame through all that it yields
        if not came_true and (timeout is None or timeout > left):
            raise Stuck(self.explain(f"the wait of the call in {place_of(call.f_back or call)}"))
        return came_true

    def stand_still(self, member: SimMember) -> None:
        """Let a thread of a member's process go on when the process does."""
        if member.node is not None and member.paused:
            self.wait(lambda: member.node is None or not member.paused, None)

    def explain(self, who: str) -> str:
        """Return the text that says that somebody waits in vain."""
        return (
            f"nothing ended {who} within {self.patience:g} s of virtual time: give it a timeout, or let what it waits for "
            f"happen before, or meanwhile by after(); {self}"
        )

    def __str__(self) -> str:
        return f"seed {self.scenario.seed}, at {self.scheduler.now:.3f} s: {'; '.join(map(_describe, self.members.values()))}"


def _outermost_call(frame: FrameType) -> FrameType:
    """Return the frame of the call by which others came into this package: the same one as long as that call lasts."""
    while frame.f_back is not None and frame.f_back.f_globals.get("__name__", "").partition(".")[0] == "replkv":
        frame = frame.f_back
    return frame


def place_of(frame: FrameType) -> str:
    """Return where a frame is, as text."""
    return f"line {frame.f_lineno} of {frame.f_code.co_filename}"


def _describe(member: SimMember) -> str:
    if member.node is None:
        return f"{member.name} is down"
    status = member.node.status()
    follows = f" of {status.raft_leader}" if status.raft_leader not in (None, status.name) else ""
    gone = f", can't reach {', '.join(status.unreachable)}" if status.unreachable else ""
    still = ", stands still" if member.paused else ""
    return f"{status.name} is {status.state}{follows} in term {status.raft_term} at revision {status.revision}{gone}{still}"


def _mourn(_member: SimMember, node: Node) -> None:
    """Tell those who hold something of a life that it has ended: in reality they would have ended with it."""
    if not node.stopped:
        node._stop(Closed(f"member {node.name} was killed"))


class _MemberWaits:
    """How threads of a member's process wait."""

    def __init__(self, world: World, member: SimMember) -> None:
        self._world = world
        self._member = member

    def acquire(self, lock: threading.Lock, timeout: float | None) -> bool:
        """Acquire a lock, as ``Waits.acquire``, while virtual time passes."""
        acquired = self._world.wait(lambda: lock.acquire(blocking=False), timeout + TOUCH if timeout else timeout)
        self._world.stand_still(self._member)
        return acquired

    def sleep(self, seconds: float) -> None:
        """Let virtual time pass."""
        self._world.wait(lambda: False, seconds)
        self._world.stand_still(self._member)


class SimEngine(Embedded):
    """One life of a simulated member, as calls see it.

    Args:
        world: it lives in.
        member: whose life it is.
    """

    def __init__(self, world: World, member: SimMember) -> None:
        super().__init__(member.process, _MemberWaits(world, member))
        self.world = world
        self.member = member
        self._submit = self.node.keeper._submit
        self._silences = 0
        self._waiting: list[tuple[Any, ...]] = []
        self.node.keeper._submit = self._submit_for_keeper

    @contextmanager
    def silenced(self) -> Iterator[None]:
        """Hold the keep-alives of this life's leases back."""
        self._silences += 1
        try:
            yield
        finally:
            self._silences -= 1
            while self._waiting and not self._silences and not self.node.stopped:
                self._submit(*self._waiting.pop(0))
            self.look_again()

    def _submit_for_keeper(self, *command: Any) -> None:
        if self._silences:
            self._waiting.append(command)
        else:
            self._submit(*command)

    def take_time(self) -> None:
        """Let the time pass that a call takes at least; within an event none does."""
        if not self.world.within_event:
            self.world.drive(lambda: False, CALL_TAKES)

    def stand_still(self) -> None:
        """Let a call begin when the member's process can go on."""
        if not self.world.within_event:
            self.world.stand_still(self.member)

    def submit(self, call: Call) -> None:
        """Hand a command over that was let in."""
        with self.world.gate:
            super().submit(call)

    def ask(self, plan: Plan[object], call: Call) -> None:
        """Let a call without a command wait until its plan may read, or look."""
        with self.world.gate:
            super().ask(plan, call)

    def give_up(self, call: Call) -> bool:
        """Stop waiting."""
        with self.world.gate:
            return super().give_up(call)

    def line_up(self, waiting: Call, size: int) -> None:
        """Let a caller wait until its command is let in."""
        with self.world.gate:
            super().line_up(waiting, size)

    def look_again(self) -> None:
        """Wake the member."""
        with self.world.gate:
            super().look_again()

    def refuse_to_block(self) -> None:
        """Refuse to wait within an event of the simulation."""
        self.world.refuse_to_block()
