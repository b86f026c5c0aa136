"""What goes wrong, and when: draws one strike after the other from the faults of the scenario, and ends each after a while.

Strikes are numbered, and each draws from a source of its own: whoever leaves some of them out changes nothing about the others.

One thing is left out because nothing could be promised: that an older copy of a data directory is put in the place of a newer one.
"""

from __future__ import annotations

import random
from functools import partial
from itertools import product
from typing import TYPE_CHECKING

from attrs import define, field

from replkv.raft import Role
from replkv.testing.cluster import WORK
from replkv.testing.swarm import CHANGES_WHO_VOTES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from replkv.node import Node
    from replkv.testing.administrators import Administrators
    from replkv.testing.cluster import SimCluster, SimMember
    from replkv.testing.electorate import Electorate
    from replkv.testing.invariants import Invariants

CLOSE_TIMEOUT = 1.0
FOR_EVER = 1000.0
"""Seconds that no run takes."""
RARE_CHANGES = "allocate", "rename", "sync_directory", "remove"
"""What happens to a disk when a segment is begun, or a snapshot is written."""


@define(eq=False, repr=False)
class Nemesis:
    """The source of all faults.

    Args:
        cluster: whom they hit.
        invariants: told of emptied disks.
        electorate: knows whom it takes to decide.
        administrators: change who is a member.
    """

    cluster: SimCluster
    invariants: Invariants
    electorate: Electorate
    administrators: Administrators
    active: bool = True
    struck: list[tuple[int, str]] = field(factory=list)
    """The strikes so far: number and fault."""
    rng: random.Random = field(init=False)
    _times: random.Random = field(init=False)
    _planned: int = 0  # strikes
    _last: SimMember | None = None  # who was struck last
    _doomed: tuple[SimMember, int] | None = None  # at the end of whose life, and of which, everybody's ends
    _torn: tuple[SimMember, int] | None = None  # at the end of whose life, and of which, a torn flush is left

    def __attrs_post_init__(self) -> None:
        seed = self.cluster.scenario.seed
        self.rng, self._times = random.Random(f"nemesis {seed}"), random.Random(f"strikes {seed}")
        self.cluster.mourners.append(self._life_ended)

    def begin(self) -> None:
        """Start making trouble."""
        if self.cluster.scenario.faults:
            self._wait()
        self._supervise(random.Random(f"supervisor {self.cluster.scenario.seed}"))

    def save_core(self, core: list[SimMember]) -> None:
        """End all faults among these members; the others are broken for good: down, stuck in a sync, or half deaf or dumb.

        A majority that can talk to each other has to go on, whatever the others do.
        """
        self._stop()
        self.rng = random.Random(f"the rest {self.cluster.scenario.seed}")
        pairs, stuck = [], set()
        for member in self.cluster.members.values():
            how = self.rng.random()
            if member in core:
                member.recover()
            elif how < 0.3:
                member.crash(power=True)
            elif how < 0.5:
                member.disk.sync_takes = FOR_EVER
                stuck.add(member.name)
        for a, b in self._pairs():
            inside = {self.cluster.members[a] in core, self.cluster.members[b] in core}
            if a < b and inside == {True, False} and not stuck & {a, b}:
                pairs += self.rng.choice(([(a, b)], [(b, a)], [(a, b), (b, a)]))
            elif inside == {False}:
                pairs.append((a, b))
        self.cluster.network.cut(pairs)
        if self.rng.random() < 0.3:
            self._offer_in_vain(core)

    def _offer_in_vain(self, core: list[SimMember]) -> None:
        """Have a leader that is saved hand over to a member that is lost."""
        for member in core:
            raft = member.node.raft if member.node is not None else None
            if raft is not None and raft.role is Role.LEADER:
                heirs = [name for name in raft.peers if self.cluster.members[name] not in core and raft.configuration.is_voter(name)]
                if heirs:
                    raft.transfer(self.rng.choice(heirs), member.clock())
                    member.wake()

    def heal(self) -> None:
        """End all faults for good: whoever is down comes back, though a disk may have been damaged meanwhile."""
        self._stop()
        faults = self.cluster.scenario.faults
        if "rot" in faults and CHANGES_WHO_VOTES.isdisjoint(faults) and len(self.cluster.mendable) == len(self.cluster.members):
            self.rng = random.Random(f"heal {self.cluster.scenario.seed}")
            self._rot_unseen(self.electorate.leaders)
        self._mend_all()

    def _rot_unseen(self, leaders: list[SimMember]) -> None:
        """Damage a leader's snapshot, which those that were away may need now, or any disk."""
        leader = leaders[0] if leaders else None
        snapshot = leader.node.log.snapshot if leader is not None and leader.node is not None else None
        if leader is not None and snapshot is not None and self._can_spare(leader) and self.rng.random() < 0.5:
            leader.rot(snapshot.name)
        else:
            self._rot(self.rng.choice([*self.cluster.members.values()]))

    def _stop(self) -> None:
        """End all faults of the network, and begin no new ones."""
        self.active = False
        self.electorate.stop()
        cluster = self.cluster
        weather = cluster.network.weather
        weather.loss = weather.doubling = weather.reordering = weather.damage = weather.misrouting = 0.0
        weather.queue, weather.rate = 64, float("inf")
        weather.delay_mean = min(weather.delay_mean, 0.003)
        cluster.network.heal()
        cluster.hurry()

    def _mend_all(self) -> None:
        self.cluster.network.heal()
        for member in self.cluster.members.values():
            member.recover()

    # -- strikes ----------------------------------------------------------------------------------------------------------------------

    def _wait(self) -> None:
        """Plan the next strike: right behind the last one, or in a while, or behind a lull in which all is well."""
        scenario, times, scheduler = self.cluster.scenario, self._times, self.cluster.scheduler
        self._planned += 1
        number, fault, kind = self._planned, times.choice(scenario.faults), times.random()
        delay, burst, lull = times.expovariate(1.0) * scenario.fault_every, times.uniform(0.0, 0.03), times.uniform(1.0, 3.0)
        if kind < scenario.bursts:
            delay = burst
        elif kind > 1.0 - scenario.lulls:
            scheduler.after(delay, self._lull)
            delay += lull * scenario.settings.election_timeout
        scheduler.after(delay, lambda: self._strike(number, fault, same=kind < scenario.bursts))

    def _lull(self) -> None:
        if self.active:
            self.cluster.count("lull")
            self.cluster.trace.note("lull")
            self._mend_all()

    def _strike(self, number: int, fault: str, *, same: bool) -> None:
        if not self.active:
            return
        wanted = self.cluster.scenario.strikes
        if wanted is None or number in wanted:
            self.rng = random.Random(f"strike {self.cluster.scenario.seed} {number}")
            member = self._victim(same=same)
            self.cluster.trace.note("fault", number, fault, member.where)
            self.struck.append((number, fault))
            getattr(self, f"_{fault}")(member)
        self._wait()

    def _victim(self, *, same: bool) -> SimMember:
        """Choose a member; leaders are chosen more often, for more depends on them, and often the same as before in a burst."""
        members, leaders = [member for member in self.cluster.members.values() if member.employed], self.electorate.leaders
        drawn = self.rng.choice(leaders if leaders and self.rng.random() < 0.6 else members)
        again = same and self._last is not None and self.rng.random() < 0.5
        self._last = self._last if again and self._last is not None else drawn
        return self._last

    def _supervise(self, rng: random.Random) -> None:
        """Start again whoever stopped by itself."""
        if not self.active:
            return
        for member in self.cluster.members.values():
            if member.node is None and rng.random() < 0.3:
                member.start()
        self.cluster.scheduler.after(rng.uniform(0.1, 1.0), lambda: self._supervise(rng))

    def _later(self, action: Callable[[], None], mean: float = 1.5) -> None:
        """Do something after a while, unless all was healed before."""
        self._in(self.rng.expovariate(1.0) * mean, action)

    def _in(self, delay: float, action: Callable[[], None]) -> None:
        self.cluster.scheduler.after(delay, lambda: action() if self.active else None)

    # -- processes and machines -------------------------------------------------------------------------------------------------------

    def _kill(self, member: SimMember) -> None:
        member.crash(power=False)
        self._later(member.start, 0.5)

    def _power(self, member: SimMember) -> None:
        """Stop a machine: in the middle of a flush if one comes soon, for under load that is when power fails."""
        member.crash_at_disk(1, "write")
        self._later(partial(self._power_off, member, member.life), 0.5)

    def _power_off(self, member: SimMember, life: int) -> None:
        if member.life == life:
            member.crash(power=True)
        self._later(member.start)

    def _away(self, member: SimMember) -> None:
        member.go_away(self.rng.uniform(2.0, 6.0))
        self._later(member.start)

    def _blackout(self, _member: SimMember) -> None:
        for each in self.cluster.members.values():
            each.crash(power=True)
            self._later(each.start)

    def _crash_at_disk(self, member: SimMember) -> None:
        match self.rng.randrange(3):
            case 0:
                member.crash_at_disk(self.rng.randint(1, 2), self.rng.choice(RARE_CHANGES))
            case 1:
                member.crash_at_disk(self.rng.randint(1, 4), "write")  # in the middle of a flush: it is written and not synced
            case _:
                member.crash_at_disk(self.rng.randrange(12))
        self._later(lambda: self._start_in_vain(member, self.rng.choice((0, 0, 1, 3))))

    def _tear(self, member: SimMember) -> None:
        """Stop a machine in the middle of a flush of several sectors, when one comes, let some of them be written, and stop it again."""
        self._torn = member, member.life
        member.crash_at_disk(1, "long flush")
        member.disk.tears = True
        self._later(member.start)

    def _start_in_vain(self, member: SimMember, times: int) -> None:
        """Start a machine, which loses its power a few more times before long."""
        if not times:
            member.start()
            return
        member.start(self.rng.randrange(12))
        self._later(lambda: self._start_in_vain(member, times - 1), 0.5)

    def first_start(self, member: SimMember) -> None:
        """Start a machine for the first time; its power may fail in the middle of that."""
        rng = random.Random(f"first start {self.cluster.scenario.seed} {member.name}")
        doomed = "crash_at_disk" in self.cluster.scenario.faults and rng.random() < 0.2
        member.start(rng.randrange(6) if doomed else None)

    def _crash_at_send(self, member: SimMember) -> None:
        member.crash_at_send(self.rng.randrange(12))
        self._later(member.start)

    def _crash_all_at_disk(self, member: SimMember) -> None:
        self._doomed = member, member.life
        member.crash_at_disk(self.rng.randrange(12))
        self._later(member.start)

    def _life_ended(self, member: SimMember, _node: Node) -> None:
        if self._doomed == (member, member.life) and self.active:
            self._doomed = None
            self._in(0.0, lambda: self._blackout(member))
        if self._torn == (member, member.life) and self.active:
            self._torn = None
            self._in(0.01, lambda: self._start_in_vain(member, 2))  # it finds the torn flush, and writes a little behind it

    def _restarts(self, _member: SimMember) -> None:
        when = 0.0
        for _ in range(self.rng.randint(4, 12)):
            when += self.rng.uniform(0.005, 0.4)
            member, power = self.rng.choice(list(self.cluster.members.values())), self.rng.random() < 0.5
            self._in(when, lambda member=member, power=power: member.crash(power=power))  # type: ignore[misc]  # mypy infers no lambda
            self._in(when + self.rng.uniform(0.001, 0.1), member.start)

    def _pause(self, member: SimMember) -> None:
        member.pause(self.rng.choice((0.05, 0.2, 1.0, 4.0, 15.0)) * self.rng.uniform(0.5, 2.0))

    def _slow_member(self, member: SimMember) -> None:
        member.work = self.rng.choice((0.005, 0.05, 0.5))
        self._later(lambda: setattr(member, "work", WORK), 2.0)

    def _close(self, member: SimMember) -> None:
        member.close(CLOSE_TIMEOUT)
        self._later(member.start)

    def _transfer(self, member: SimMember) -> None:
        raft = member.node.raft if member.node is not None else None
        if raft is not None and raft.role is Role.LEADER:
            to = self.rng.choice((None, *raft.configuration.voters))
            if to != member.name:
                raft.transfer(to, member.clock())
                member.wake()

    def _reconfigure(self, _member: SimMember) -> None:
        self.electorate.change(self.rng, self.rng.randint(1, 10))

    def _membership(self, _member: SimMember) -> None:
        self.administrators.change(self.rng, self.rng.randint(2, 8))

    def _move(self, member: SimMember) -> None:
        """Let a member go on at another address, or all at once."""
        moving = self.cluster.running if self.rng.random() < 0.2 else [member]
        self.cluster.count("move of one member" if len(moving) < 2 else "move of all members")
        for each in moving:
            each.address = f"inproc://{each.name}-{each.life}"
        for each in moving:
            each.move()
            self._later(each.start, 0.3)

    # -- the network ------------------------------------------------------------------------------------------------------------------

    def _isolate(self, member: SimMember) -> None:
        self._cut([pair for pair in self._pairs() if member.name in pair])

    def _halves(self, _member: SimMember) -> None:
        left = {name for name in self.cluster.members if self.rng.random() < 0.5}
        self._cut([(a, b) for a, b in self._pairs() if (a in left) != (b in left)])

    def _one_way(self, member: SimMember) -> None:
        inbound, share = self.rng.random() < 0.5, self.rng.choice((0.5, 1.0))
        self._cut([pair for pair in self._pairs() if pair[inbound] == member.name and self.rng.random() < share])

    def _ring(self, _member: SimMember) -> None:
        names = list(self.cluster.members)
        self.rng.shuffle(names)
        beside = [{name, names[at - 1]} for at, name in enumerate(names)]
        if len(names) == 3:
            beside.pop()
        self._cut([pair for pair in self._pairs() if set(pair) not in beside])

    def _bridge(self, member: SimMember) -> None:
        left = {name for name in self.cluster.members if self.rng.random() < 0.5}
        self._cut([(a, b) for a, b in self._pairs() if member.name not in (a, b) and (a in left) != (b in left)])

    def _swizzle(self, _member: SimMember) -> None:
        """Cut one direction after the other; they heal one after the other, in another order."""
        network, pairs = self.cluster.network, self._pairs()
        links = self.rng.sample(pairs, self.rng.randint(min(2, len(pairs)), len(pairs)))
        for at, pair in enumerate(links):
            self._in(at * self.rng.uniform(0.0, 0.2), lambda pair=pair: network.cut([pair]))  # type: ignore[misc]
        self.rng.shuffle(links)
        for at, pair in enumerate(links):
            self._in(1.0 + at * self.rng.uniform(0.0, 0.3), lambda pair=pair: network.mend([pair]))  # type: ignore[misc]

    def _reset(self, _member: SimMember) -> None:
        self.cluster.network.reset(self.rng.choice((0.2, 1.0)))

    def _half_open(self, _member: SimMember) -> None:
        self.cluster.network.half_open(self.rng.choice((0.2, 1.0)))

    def _slow_link(self, member: SimMember) -> None:
        self._worsen(self.cluster.network.slowness, member, self.rng.choice((10.0, 100.0, 1000.0)))

    def _lossy_link(self, member: SimMember) -> None:
        self._worsen(self.cluster.network.lossiness, member, self.rng.choice((0.1, 0.5, 0.9)))

    def _worsen(self, quality: dict[tuple[str, str], float], member: SimMember, value: float) -> None:
        """Let some of the directions from and to a member be worse than others."""
        for pair in self._pairs():
            if member.name in pair and self.rng.random() < 0.5:
                quality[pair] = value
        self._later(self.cluster.network.heal)

    def _cut(self, pairs: Iterable[tuple[str, str]]) -> None:
        """Let nothing through between these; half of the time as a firewall does that answers, so that everybody knows at once."""
        self.cluster.network.cut(pairs)
        if self.rng.random() < 0.5:
            self.cluster.network.sever(pairs)
        self._later(self.cluster.network.heal)

    def _pairs(self) -> list[tuple[str, str]]:
        names = list(self.cluster.members)
        return [(a, b) for a, b in product(names, names) if a != b]

    # -- disks ------------------------------------------------------------------------------------------------------------------------

    def _slow_disk(self, member: SimMember) -> None:
        member.disk.slow = self.rng.choice((0.01, 0.1, 2.0))
        self._later(lambda: setattr(member.disk, "slow", 0.0))

    def _hang(self, member: SimMember) -> None:
        """Let the next sync hang for 1 to 60 seconds."""
        member.disk.sync_takes = self.rng.uniform(1.0, self.rng.choice((2.0, 5.0, 20.0, 60.0)))
        self._later(lambda: setattr(member.disk, "sync_takes", 0.0), 0.5)

    def _disk_error(self, member: SimMember) -> None:
        member.break_disk(self.rng.randrange(12), full=False)

    def _wipe(self, member: SimMember) -> None:
        for victim in self._spared(member):
            self.administrators.wipe(victim)
            self._later(victim.start)

    def _rot(self, member: SimMember) -> None:
        for victim in self._spared(member):
            victim.rot()
            self._later(victim.start)

    def _spared(self, member: SimMember) -> list[SimMember]:
        """Return whom the others can do without, this one rather than another; nobody if they need all that are left."""
        employed = [each for each in self.cluster.members.values() if each.employed]
        others = self.rng.sample(employed, len(employed))
        return [each for each in (member, *others) if self._can_spare(each)][:1]

    def _can_spare(self, member: SimMember) -> bool:
        """Tell whether a majority of good disks is left without this one, and decides; a cluster that is being founded needs them all."""
        left = [other.name for other in self.cluster.sound if other is not member]
        if not self.invariants.founded:
            return False
        if self.administrators.at_work:
            return self.administrators.can_do_with(left)
        return 2 * len(left) > len(self.cluster.members) and self.electorate.suffice(left)

    def _disk_full(self, member: SimMember) -> None:
        """Let a disk have little room left, or those of all, which fill up alike."""
        for each in self.cluster.members.values() if self.rng.random() < 0.3 else [member]:
            each.break_disk(self.rng.choice((0, 0, 1, 3, 11)), full=True)
