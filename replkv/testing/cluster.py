"""A whole cluster in one thread: real nodes on a simulated network, disk and clock.

A member is what outlives its processes: a name, a disk, an address.  Each of its lives is a new ``Node``; each disk that is empty at the
beginning makes it another incarnation.  A turn happens at one moment of virtual time, but what it costs (work, slow disks) pushes that
member's clock ahead: its messages leave later and its next turn waits.
"""

from __future__ import annotations

import random
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from attrs import define, field

from replkv.errors import Closed, Corrupt, DiskFull, Removed, ReplkvError, StorageError, WrongCluster
from replkv.membership import Membership
from replkv.node import Node
from replkv.proposals import OwnCall, Proposals
from replkv.recovery import segments
from replkv.testing.disk import SimDisk, SimulatedCrash
from replkv.testing.history import Violation
from replkv.testing.network import SimNetwork, SimTransport
from replkv.testing.rot import damage
from replkv.testing.sim import LOOK_AGAIN, Clock, Scheduler, SimHousekeeper, Timer, nothing
from replkv.testing.trace import Trace
from replkv.wal_format import RecordKind, glance

if TYPE_CHECKING:
    from collections.abc import Callable

    from replkv.messages import Configuration
    from replkv.proposals import Call
    from replkv.testing.history import Slot
    from replkv.testing.swarm import Scenario

WORK = 0.00008
"""Seconds a turn costs at most, besides what its disk costs."""
USUAL_STEP = 0.0005
"""Seconds a step of a snapshot takes at most, if nothing is wrong."""
BEYOND_HELP = "nothing is left that says whose log this is", "others vote now than it knows of"
"""Why a member does not go on with a disk that was damaged; an empty one does."""
STUCK = 0.5
"""Seconds that no turn takes but one whose disk hangs."""


@define(eq=False, repr=False)
class SimMember:
    """One member over all its lives."""

    name: str
    cluster: SimCluster
    disk: SimDisk
    rng: random.Random
    address: str
    life: int = 0
    turns: int = 0
    node: Node | None = None
    clock: Clock = field(init=False)
    transport: SimTransport = field(init=False)
    housekeeper: SimHousekeeper = field(init=False)
    away_until: float = 0.0  # before that it can't be started
    closing: bool = False
    work: float = WORK
    told: dict[str, str] = field(factory=dict)  # what its process is told of addresses
    joins: bool = False  # its process is told no more than one address of a member, and its own
    learner: bool = False  # its process says that it wants no vote
    employed: bool = True  # somebody wants it to run
    incarnation: int = 0  # of its disk; 0 while that is empty
    farewell: type[ReplkvError] | None = None  # why its last process was sent away, if it was
    since: float = 0.0  # when its process began
    strange: bool = False  # this life began with a log of which the cluster had removed the member
    wiped: bool = False  # its disk was lost, and nobody lets the new one in: it is not asked to take part
    rotten: bool = False  # its disk may hold damage that has not been healed yet
    rotten_in: int = 0  # the life in which that happened: the next one finds it
    beyond_help: bool = False  # nobody can heal it: it refuses to start
    _planned: Timer | None = None
    _at_work: bool = False
    _woken: bool = False
    _busy_until: float = 0.0
    _worked_until: float = 0.0  # in the last life: what it did before that is on its disk, though a new one may begin earlier
    _paused_until: float = 0.0
    _sends_left: int | None = None

    @property
    def where(self) -> str:
        """The name of this life."""
        return f"{self.name}/{self.life}"

    @property
    def process(self) -> Node:
        """The node of this life."""
        if self.node is None:
            raise LookupError(f"member {self.name} is down")
        return self.node

    @property
    def free_at(self) -> float:
        """When the process can next do something: neither in a turn, nor standing still."""
        return max(self.cluster.scheduler.now, self._busy_until, self._paused_until)

    @property
    def paused(self) -> bool:
        """Whether the process stands still."""
        return self._paused_until > self.cluster.scheduler.now

    @property
    def hangs(self) -> bool:
        """Whether the process is stuck in its turn, because its disk hangs."""
        return self._busy_until > self.cluster.scheduler.now + STUCK

    @property
    def began_anew(self) -> bool:
        """Whether its log was once found damaged, and begun anew with what was left."""
        disk = self.disk.open()  # another door: it only looks
        return any((glance(disk, number) or (None,))[0] == RecordKind.HEAD_AFRESH for number in segments(disk.list()))

    # -- lives ------------------------------------------------------------------------------------------------------------------------

    def start(self, crash_in: int | None = None) -> None:
        """Begin a new life, unless one is going on, the machine is away, or there is no sense in it.

        Args:
            crash_in: its power fails again after so many changes of its disk; None: it does not.
        """
        if self.node is not None or self.beyond_help or not self.employed or self.cluster.scheduler.now < self.away_until:
            return
        cluster, scenario = self.cluster, self.cluster.scenario
        if self._worked_until > cluster.scheduler.now:
            cluster.borrowed.append((cluster.scheduler.now, self._worked_until - cluster.scheduler.now))
        self.life += 1
        self.since = cluster.scheduler.now
        self.disk.crash_in, self.disk.crash_behind, self.disk.fail_sync_in, self.disk.capacity = crash_in, "", None, None
        self.closing = self.disk.tears = False
        cluster.trace.note("start", self.where)
        rng = random.Random(f"node {scenario.seed} {self.where}")
        self._busy_until = self._paused_until = cluster.scheduler.now
        self._woken, self._sends_left = False, None
        drift = self.rng.uniform(-scenario.drift, scenario.drift)
        self.clock = Clock(cluster.scheduler, offset=self.rng.uniform(0.0, 1e6), rate=1.0 + drift, creep=scenario.creep)
        self.transport = SimTransport(cluster.network, self.name, self.wake, lambda: self.clock.lag, self._about_to_send)
        self.housekeeper = SimHousekeeper(
            cluster.scheduler,
            self.rng,
            self.rng.choice((USUAL_STEP, cluster.snapshot_step)),
            self.wake,
            self.guard,
            lambda: self._paused_until,
        )
        self.node = Node(
            self.name,
            config=scenario.config,
            settings=scenario.settings,
            addresses={self.name: self.address} if self.joins else self.told,
            join=(cluster.seed_for(self),) if self.joins else (),
            learner=self.learner,
            disk=self.disk.open(self.spend),
            transport=self.transport,
            clock=self.clock,
            rng=rng,
            housekeeper=self.housekeeper,
        )
        self.guard(self._start)

    def _start(self) -> None:
        node = self.node
        if node is None:
            return
        try:
            node.start()
            note_batches(node.proposals, self.cluster.note_slot)
            if not self.cluster.scenario.steers:
                leave_alone(node.membership)
            self.incarnation = node.links.identity.incarnation
            self.strange = node.raft is not None and not self.cluster.belongs(self)
            self.cluster.incarnations.add((self.name, self.incarnation))
        except StorageError as error:
            self._judge(error)
            self._end(power=False)
        else:
            self._after_work()

    def guard(self, action: Callable[[], None]) -> None:
        """Do something in this member's process; it may crash in the middle of it."""
        try:
            action()
        except SimulatedCrash:
            self.cluster.trace.note("crashed", self.where)
            self.cluster.count("crash in the middle of a turn")
            self._end(power=True)

    def crash(self, *, power: bool) -> None:
        """End this life without warning; with ``power`` the machine stops, and what was not synced may be lost."""
        if self.node is not None:
            self._end(power=power)

    def _end(self, *, power: bool) -> None:
        self.cluster.trace.note("end", self.where, "power" if power else "process")
        node, self.node = self.node, None
        if self._planned is not None:
            self._planned.cancel()
            self._planned = None
        self._at_work = False
        self.housekeeper.close()
        self._worked_until = max(self._busy_until, self.cluster.scheduler.now + self.clock.lag)
        self.transport.die(self.cluster.scheduler.now + self.clock.lag, power=power)
        self.clock.lag = 0.0
        self.disk.crash(power=power)
        if node is not None:
            self.cluster.ended(self, node)

    def close(self, timeout: float) -> None:
        """Ask the process to end as it should."""
        self.closing = True
        self.on_caller_thread(lambda _: self.process.request_close(timeout))

    def pause(self, seconds: float) -> None:
        """Let the process stand still."""
        self._paused_until = max(self._paused_until, self.cluster.scheduler.now + seconds)
        self._plan(self._paused_until)

    def resume(self) -> None:
        """Let the process go on, if it stands still."""
        self._paused_until = self.cluster.scheduler.now
        self._plan(self._paused_until)

    def crash_at_send(self, count: int) -> None:
        """Stop the machine when this many more messages have left."""
        self._sends_left = count

    def crash_at_disk(self, count: int, behind: str = "") -> None:
        """Stop the machine when this many more changes of its disk have happened; of one kind, if that is named."""
        self.disk.crash_in, self.disk.crash_behind = count, behind

    def break_disk(self, count: int, *, full: bool) -> None:
        """Let a sync fail after ``count`` more, or let the disk have no more than some room left."""
        if full:
            used = sum(len(content.seen) for content in self.disk.seen.values())
            self.disk.capacity = used + count * 4096
        else:
            self.disk.fail_sync_in = count

    def go_away(self, seconds: float) -> None:
        """Stop the machine for that long at least."""
        self.crash(power=True)
        self.away_until = self.cluster.scheduler.now + seconds

    def wipe(self) -> None:
        """Give the member an empty disk, and as good a map as there is: an older one might be of a cluster that is no more."""
        self.crash(power=True)
        self.wiped, self.incarnation = not self.cluster.scenario.steers, 0
        self.rotten = self.beyond_help = False
        self.told = self.cluster.map_for(self)
        self.disk = SimDisk(random.Random(f"disk {self.cluster.scenario.seed} {self.where}"))

    def move(self) -> None:
        """End this life: the next one has another address, and knows where the others are, for they don't know where it is."""
        self.crash(power=False)
        self.told = self.cluster.map_for(self)

    def rot(self, file: str = "") -> None:
        """Damage the disk, of a running member or of one that is then stopped; with ``file`` that one, and the member goes on."""
        if not file and self.rng.random() < 0.8:
            self.crash(power=True)
        if (what := damage(self.disk, self.rng, file)) is not None:
            self.rotten, self.rotten_in = True, self.life
            self.cluster.count(f"rot: {what}")

    def recover(self) -> None:
        """End all that was done to this member: it runs, and its disk works."""
        self.disk.crash_in = self.disk.fail_sync_in = self.disk.capacity = None
        self.disk.crash_behind, self.disk.tears = "", False
        self.disk.slow = self.disk.sync_takes = 0.0
        self.work = WORK
        self._sends_left = None
        self._paused_until = self.away_until = self.cluster.scheduler.now
        if self.closing or self.disk.broken or self.hangs:
            self.crash(power=False)  # it is about to end by itself
        self.start()
        self._plan(self.cluster.scheduler.now)

    def _about_to_send(self) -> None:
        if self._sends_left is not None:
            self._sends_left -= 1
            if self._sends_left < 0:
                self._sends_left = None
                raise SimulatedCrash

    def on_caller_thread(self, action: Callable[[SimMember], None], *, otherwise: Callable[[], None] = nothing) -> None:
        """Do something on another thread of this life's process, when that can run; do ``otherwise`` if it ends before."""
        node, scheduler = self.node, self.cluster.scheduler

        def run() -> None:
            if self.node is None or self.node is not node:
                otherwise()
            elif self.free_at > scheduler.now:
                scheduler.at(min(self.free_at, scheduler.now + LOOK_AGAIN), run)
            else:
                action(self)

        run()

    # -- turns ------------------------------------------------------------------------------------------------------------------------

    def wake(self) -> None:
        """Plan a turn as soon as possible."""
        if self._at_work:
            self._woken = True
        elif self.node is not None:
            self._plan(self.cluster.scheduler.now)

    def spend(self, seconds: float) -> None:
        """A disk operation took time."""
        if self._at_work:
            self.clock.spend(seconds)

    def _plan(self, when: float) -> None:
        when = max(when, self.free_at)
        if self._planned is not None:
            if self._planned.when <= when:
                return
            self._planned.cancel()
        self._planned = self.cluster.scheduler.at(when, self._turn)

    def _turn(self) -> None:
        self._planned = None
        if self.node is None:
            return
        if self.free_at > self.cluster.scheduler.now:
            self._plan(self.free_at)
            return
        self._at_work, self._woken = True, False
        self.clock.lag = self.rng.random() * self.work
        self.guard(self._take_turn)

    def _take_turn(self) -> None:
        self.turns += 1
        if self.node is not None:
            self.node.turn(0.0)
            self._after_work()

    def _after_work(self) -> None:
        node = self.node
        if node is None:
            return
        scheduler = self.cluster.scheduler
        self._busy_until = scheduler.now + self.clock.lag
        self._at_work = False
        if self.rotten and self.life > self.rotten_in and node.raft is not None and node.raft._caution is None:
            self.rotten = False
        self.cluster.observe(self, node)
        if node.stopped:
            self._judge(node.failure)
            self._end(power=False)
            return
        deadline = node.deadline
        self.clock.lag = 0.0
        self._plan(scheduler.now if self._woken else self.clock.moment(deadline))

    def _judge(self, failure: ReplkvError | None) -> None:
        """A member may stop when it was closed, or its disk failed or was lost; nothing else is a reason."""
        self.cluster.trace.note("stopped", self.where, type(failure).__name__)
        if (failure is None or isinstance(failure, Closed)) and self.closing:
            return
        if type(failure) in (StorageError, DiskFull) and self.disk.broken:
            return
        if isinstance(failure, DiskFull) and self.rotten:
            return  # not even room for a new beginning
        if isinstance(failure, Corrupt) and self.rotten and any(reason in str(failure) for reason in BEYOND_HELP):
            outgrown = self.node is not None and self.node.raft is not None
            self.cluster.count("damaged member that was outgrown" if outgrown else "refused to start on a rotten disk")
            self.beyond_help = True
            return
        if isinstance(failure, WrongCluster) and (self.wiped or not self.cluster.belongs(self)):
            self.farewell = WrongCluster
            return  # it has not been named, or not yet, or no more
        if isinstance(failure, Removed):
            if not self.cluster.scenario.steers or self.cluster.belongs(self):
                raise Violation("B2", f"{self.where} stopped, though it was not removed: {failure}") from failure
            self.cluster.count("removed member that came back and was told" if self.strange else "member that was told of its removal")
            self.farewell = Removed
            return
        raise Violation("N1", f"{self.where} stopped{f': {type(failure).__name__}: {failure}' if failure else ''}") from failure


def note_batches(proposals: Proposals, note: Callable[[Call, Slot], None]) -> None:
    """Have a member's proposals tell in which slot each command is sent."""

    class Noted(Proposals):
        __slots__ = ()

        def _next_batch(self, *arguments: Any, **named: Any) -> bytes:
            data = super()._next_batch(*arguments, **named)
            for place, call in enumerate(self._batches[self._sequence].calls if data else ()):
                note(call, (self.session, self._sequence, place))
            return data

    proposals.__class__ = Noted


def leave_alone(membership: Membership) -> None:
    """Have a member neither steer nor stop: its configuration is changed by others, who bring back whom they have removed."""

    class Steered(Membership):
        __slots__ = ()

        def configured(self, *arguments: Any, **named: Any) -> None:
            with suppress(Removed):
                super().configured(*arguments, **named)

        def look_around(self, *arguments: Any) -> None:
            with suppress(Removed):
                super().look_around(*arguments)

        def steer(self, *_: Any) -> None:
            """Leave it to others."""

    membership.__class__ = Steered


@define(eq=False, repr=False)
class SimCluster:
    """All members, and the world they live in.

    Args:
        scenario: how big, how limited, how reliable.
        verbose: print everything that happens.
    """

    scenario: Scenario
    verbose: bool = False
    scheduler: Scheduler = field(factory=Scheduler)
    trace: Trace = field(init=False)
    network: SimNetwork = field(init=False)
    members: dict[str, SimMember] = field(factory=dict)
    settled: Callable[[], Configuration | None] = lambda: None  # the newest committed configuration, to be set by who knows it
    incarnations: set[tuple[str, int]] = field(factory=set)  # all that there ever were
    observers: list[Callable[[SimMember, Node], None]] = field(factory=list)
    mourners: list[Callable[[SimMember, Node], None]] = field(factory=list)
    counts: dict[str, int] = field(factory=dict)
    slots: dict[Call, list[Slot]] = field(factory=dict)
    borrowed: list[tuple[float, float]] = field(factory=list)  # when a life began, and the seconds that the one before it had yet to work
    snapshot_step: float = field(init=False)

    def __attrs_post_init__(self) -> None:
        scenario = self.scenario
        self.snapshot_step = scenario.snapshot_step
        self.trace = Trace(self.scheduler, verbose=self.verbose)
        self.network = SimNetwork(self.scheduler, random.Random(f"network {scenario.seed}"), self.trace, scenario.weather)
        for name in (*scenario.names, *scenario.spares):
            rng = random.Random(f"member {scenario.seed} {name}")
            self.members[name] = SimMember(name, self, SimDisk(random.Random(f"disk {scenario.seed} {name}")), rng, f"inproc://{name}")
        for member in self.members.values():
            member.employed = member.name in scenario.names
        founders = {name: self.members[name].address for name in scenario.names}
        for name in scenario.names:
            self.members[name].told = founders

    # -- who is who -------------------------------------------------------------------------------------------------------------------

    def belongs(self, member: SimMember) -> bool:
        """Tell whether a member, with the disk that it has, is in the newest committed configuration; before there is one all are."""
        settled = self.settled()
        return settled is None or settled.members.get(member.name) == member.incarnation != 0

    def map_for(self, member: SimMember) -> dict[str, str]:
        """Return where a member and all others of the cluster are now."""
        settled = self.settled() if self.scenario.steers else None
        names = {*(self.scenario.names if settled is None else settled.names), member.name}
        return {name: self.members[name].address for name in sorted(names) if name in self.members}

    def seed_for(self, member: SimMember) -> str:
        """Return the address of some member that another one is told when it starts."""
        known = self.map_for(member)
        others = [url for name, url in known.items() if name != member.name and self.members[name].incarnation]
        return member.rng.choice(others or list(known.values()))

    # -- what happens -----------------------------------------------------------------------------------------------------------------

    def note_slot(self, call: Call, slot: Slot) -> None:
        """Remember where a command stands, a member's own one too."""
        self.slots.setdefault(call, []).append(slot)

    @property
    def own(self) -> dict[Call, list[Slot]]:
        """Where the members' own commands stood."""
        return {call: slots for call, slots in self.slots.items() if isinstance(call, OwnCall)}

    def hurry(self) -> None:
        """Let snapshots be taken and loaded as fast as usual from now on."""
        self.snapshot_step = min(self.snapshot_step, USUAL_STEP)
        for member in self.running:
            member.housekeeper.slowness = self.snapshot_step

    def count(self, what: str) -> None:
        """Count something worth to be reported."""
        self.counts[what] = self.counts.get(what, 0) + 1

    def observe(self, member: SimMember, node: Node) -> None:
        """Show a member's state after a turn to whoever wants to see it."""
        for observer in self.observers:
            observer(member, node)

    def ended(self, member: SimMember, node: Node) -> None:
        """Show the last state of a life."""
        for mourner in self.mourners:
            mourner(member, node)

    def run(self, seconds: float) -> None:
        """Let virtual time pass."""
        until = self.scheduler.now + seconds
        while self.scheduler.step(until):
            pass

    def run_until(self, done: Callable[[], bool], seconds: float) -> bool:
        """Let virtual time pass until ``done``, but no more than ``seconds``; tell whether it came true."""
        until = self.scheduler.now + seconds
        while not done():
            if not self.scheduler.step(until):
                return done()
        return True

    @property
    def sound(self) -> list[SimMember]:
        """The members that have the disk by which the others know them, undamaged or healed."""
        return [member for member in self.mendable if not member.rotten]

    @property
    def mendable(self) -> list[SimMember]:
        """The members that take part once all faults have ended; one that lost its last vote only if all others can be asked."""
        counted = [each for each in self.members.values() if each.employed and (self.belongs(each) or not self.scenario.steers)]
        left = [member for member in counted if not member.wiped and not member.beyond_help]
        return left if len(left) == len(counted) else [member for member in left if not member.rotten]

    @property
    def running(self) -> list[SimMember]:
        """The members that have a process now."""
        return [member for member in self.members.values() if member.node is not None]
