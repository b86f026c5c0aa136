"""What goes wrong, and when: draws one fault after the other from those of the scenario, and ends each after a while."""

from __future__ import annotations

from itertools import product
from typing import TYPE_CHECKING

from attrs import define

from replkv.raft import Role

if TYPE_CHECKING:
    import random
    from collections.abc import Callable

    from replkv.testing.cluster import SimCluster, SimMember
    from replkv.testing.invariants import Invariants

CLOSE_TIMEOUT = 1.0


@define(eq=False, repr=False)
class Nemesis:
    """The source of all faults.

    Args:
        cluster: whom they hit.
        rng: draws them.
        invariants: told of emptied disks.
    """

    cluster: SimCluster
    rng: random.Random
    invariants: Invariants
    active: bool = True

    def begin(self) -> None:
        """Start making trouble."""
        if self.cluster.scenario.faults:
            self._wait()
        self._supervise()

    def save_core(self, core: list[SimMember]) -> None:
        """End all faults among these members; the others are broken for good: down, or half deaf, and dumb towards the rest.

        A majority that can talk to each other has to go on, whatever the others do.
        """
        self._stop()
        pairs = []
        for member in self.cluster.members.values():
            if member in core:
                member.recover()
            elif self.rng.random() < 0.3:
                member.crash(power=True)
        for a, b in self._pairs():
            inside = {self.cluster.members[a] in core, self.cluster.members[b] in core}
            if a < b and inside == {True, False}:
                pairs += self.rng.choice(([(a, b)], [(b, a)], [(a, b), (b, a)]))
            elif inside == {False}:
                pairs.append((a, b))
        self.cluster.network.cut(pairs)

    def heal(self) -> None:
        """End all faults for good: whoever is down comes back."""
        self._stop()
        for member in self.cluster.members.values():
            member.recover()

    def _stop(self) -> None:
        """End all faults of the network, and begin no new ones."""
        self.active = False
        cluster = self.cluster
        weather = cluster.network.weather
        weather.loss = weather.doubling = weather.reordering = weather.damage = weather.misrouting = 0.0
        weather.queue = 64
        weather.delay_mean = min(weather.delay_mean, 0.003)
        cluster.network.heal()

    def _wait(self) -> None:
        self.cluster.scheduler.after(self.rng.expovariate(1.0) * self.cluster.scenario.fault_every, self._strike)

    def _strike(self) -> None:
        if not self.active:
            return
        fault = self.rng.choice(self.cluster.scenario.faults)
        member = self._victim()
        self.cluster.count(fault)
        self.cluster.trace.note("fault", fault, member.where)
        getattr(self, f"_{fault}")(member)
        self._wait()

    def _victim(self) -> SimMember:
        """Choose a member; leaders are chosen more often, for more depends on them."""
        members = list(self.cluster.members.values())
        leaders = [member for member in members if member.node and member.node.raft and member.node.raft.role is Role.LEADER]
        return self.rng.choice(leaders if leaders and self.rng.random() < 0.6 else members)

    def _supervise(self) -> None:
        """Start again whoever stopped by itself."""
        if not self.active:
            return
        for member in self.cluster.members.values():
            if member.node is None and self.rng.random() < 0.3:
                member.start()
        self.cluster.scheduler.after(self.rng.uniform(0.1, 1.0), self._supervise)

    def _later(self, action: Callable[[], None], mean: float = 1.5) -> None:
        """Do something after a while, unless all was healed before."""
        self.cluster.scheduler.after(self.rng.expovariate(1.0) * mean, lambda: action() if self.active else None)

    # -- processes and machines -------------------------------------------------------------------------------------------------------

    def _kill(self, member: SimMember) -> None:
        member.crash(power=False)
        self._later(member.start, 0.5)

    def _power(self, member: SimMember) -> None:
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
        member.crash_at_disk(self.rng.randrange(12))
        self._later(member.start)

    def _crash_at_send(self, member: SimMember) -> None:
        member.crash_at_send(self.rng.randrange(12))
        self._later(member.start)

    def _pause(self, member: SimMember) -> None:
        member.pause(self.rng.choice((0.05, 0.2, 1.0, 4.0)) * self.rng.uniform(0.5, 1.5))

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

    def _reset(self, _member: SimMember) -> None:
        self.cluster.network.reset(self.rng.choice((0.2, 1.0)))

    def _slow_link(self, member: SimMember) -> None:
        factor = self.rng.choice((10.0, 100.0, 1000.0))
        for pair in self._pairs():
            if member.name in pair and self.rng.random() < 0.5:
                self.cluster.network.slowness[pair] = factor
        self._later(self.cluster.network.heal)

    def _cut(self, pairs: list[tuple[str, str]]) -> None:
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

    def _disk_error(self, member: SimMember) -> None:
        member.break_disk(self.rng.randrange(12), full=False)

    def _wipe(self, member: SimMember) -> None:
        if self._can_spare(member):
            member.wipe()
            self.invariants.forget(member.name)
        self._later(member.start)

    def _rot(self, member: SimMember) -> None:
        if self._can_spare(member):
            member.rot()
        self._later(member.start)

    def _can_spare(self, member: SimMember) -> bool:
        """Tell whether a majority of good disks is left without this one; a cluster that is being founded needs them all."""
        left = [other for other in self.cluster.sound if other is not member]
        return self.invariants.founded and 2 * len(left) > len(self.cluster.members)

    def _disk_full(self, member: SimMember) -> None:
        member.break_disk(self.rng.randrange(12), full=True)
