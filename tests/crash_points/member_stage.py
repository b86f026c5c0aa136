"""A calm cluster that goes through a script; one member's disk stops somewhere on the way, and then everybody has to be well again."""

from __future__ import annotations

import random
from collections.abc import Callable
from itertools import product

from attrs import define, field
from stopping import Stop, StoppingDisk

from replkv import codec
from replkv.messages import Configuration, EntryKind
from replkv.ops import Get, Put
from replkv.raft import Raft
from replkv.raftlog import configuration_in
from replkv.testing.cluster import SimMember
from replkv.testing.disk import SimDisk
from replkv.testing.history import Consistency, Operation, Outcome, Violation
from replkv.testing.sim import nothing
from replkv.testing.simulation import Simulation
from replkv.testing.swarm import calm
from replkv.wal_format import IDENTITY, segment_name

SEGMENT = 4096
WRITTEN_WITHIN = 10.0
"""Seconds in which a write is answered in a script."""
WELL_WITHIN = 15.0
"""Seconds in which a cluster that nothing disturbs any more has a leader, and as many for everything else."""

CALM = calm(SEGMENT, patience=0.1)


class GivenUp(Exception):
    """The script need not go on: the disk has stopped, or there is no room for what was to come."""


@define(eq=False, repr=False)
class Stage(Simulation):
    """A cluster, and what a script does to it.

    Args:
        victim: whose disk stops.
        stop: where; None for a rehearsal.
        heir: what the disk looks like then; by default one of all that is possible.
        full_from: after so many changes the disk has no more room, until everybody has to be well.
    """

    victim: str = "a"
    stop: Stop | None = None
    heir: SimDisk | None = None
    full_from: int | None = None
    disk: StoppingDisk = field(init=False)

    def __attrs_post_init__(self) -> None:
        super().__attrs_post_init__()
        self.watchers.settle()
        for member in self.members:
            member.disk = StoppingDisk()
        victim = self.cluster.members[self.victim]
        victim.disk = self.disk = StoppingDisk(self.stop, heir=self.heir, told=self._excuse, full_from=self.full_from)

    def _excuse(self) -> None:
        """The member whose disk failed may stop, and so may one that can't even begin."""
        self[self.victim].disk.broken = True

    @property
    def members(self) -> list[SimMember]:
        return list(self.cluster.members.values())

    def __getitem__(self, name: str) -> SimMember:
        return self.cluster.members[name]

    # -- what scripts do --------------------------------------------------------------------------------------------------------------

    def begin(self) -> SimMember:
        """Start everybody, and wait for the founder to lead; another one who was faster hands over to it."""
        for member in self.members:
            self.start(member)
        leader = self.leader("".join(self.cluster.members))
        if leader.name != "a":
            self.raft(leader.name).transfer("a", leader.process.clock())
            leader.wake()
        self.wait(lambda: self.leads("a") and self.applied(2), "a founds the cluster and leads it")
        return self["a"]

    def start(self, member: SimMember) -> None:
        member.start()
        self.wait(lambda: member.node is not None, "starts")

    def wait(self, done: Callable[[], bool], what: str, seconds: float = 20.0) -> None:
        """Let time pass until something is so.

        Raises:
            GivenUp: the disk has stopped, or is full.
        """
        came = self.cluster.run_until(lambda: self.disk.stopped is not None or done(), seconds)
        if self.disk.stopped is not None or (self.disk.capacity is not None and not came):
            raise GivenUp
        assert came, f"it should be so within {seconds} s: {what}"

    def pause(self, seconds: float) -> None:
        until = self.cluster.scheduler.now + seconds
        self.wait(lambda: self.cluster.scheduler.now >= until, "time passes", seconds)

    def write(self, member: SimMember, size: int = 8) -> None:
        """Write at a member, and wait for the answer."""
        self.wait(lambda: member.node is not None, f"{member.name} runs")
        probe = self.ask(member, size)
        self.wait(lambda: probe.outcome is Outcome.ANSWERED, f"{member.name} answers", WRITTEN_WITHIN)

    def ask(self, member: SimMember, size: int = 8) -> Operation:
        """Begin to write at a member."""
        self.probes += 1
        value = f"{self.probes} {random.Random(self.probes).randbytes(size).hex()}"
        return self.workload.run(member, Put("k", value), Consistency.WRITE, nothing, patience=WRITTEN_WITHIN)

    def raft(self, name: str) -> Raft:
        raft = self[name].process.raft
        assert raft is not None
        return raft

    def leads(self, name: str, among: str = "abc") -> bool:
        """Whether a member leads and these follow it."""
        followers = [self[follower] for follower in among]
        return all(follower.node for follower in followers) and (self._leader(followers) or ("",))[0] == name

    def leader(self, among: str) -> SimMember:
        """Wait for a leader from among these, whom they all follow."""
        self.wait(lambda: any(self.leads(name, among) for name in among), f"one of {among} leads")
        return next(self[name] for name in among if self.leads(name, among))

    def cut_off(self, name: str) -> None:
        """Let nothing pass between a member and the others; all are told."""
        pairs = [(a, b) for a, b in product(self.cluster.members, repeat=2) if a != b and name in (a, b)]
        self.cluster.network.cut(pairs)
        self.cluster.network.sever(pairs)

    def reconnect(self) -> None:
        self.cluster.network.heal()

    def configure(self, leader: SimMember, configuration: Configuration) -> int:
        """Have a leader append a configuration; return its index.

        Raises:
            GivenUp: the disk is full, and the leader hands over.
        """
        index = self.raft(leader.name).propose(EntryKind.CONFIGURATION, codec.encode_configuration(configuration), leader.process.clock())
        leader.wake()
        if index is None and self.disk.capacity is not None:
            raise GivenUp
        assert index is not None
        return index

    def damage(self, name: str, file: str, offset: int) -> None:
        """Stop a member's machine, and flip a bit of one of its files.

        Raises:
            GivenUp: its disk was full from the beginning: who it is stands in one place only, and there damage is beyond help.
        """
        member = self[name]
        member.crash(power=True)
        if segment_name(IDENTITY) not in member.disk.seen:
            raise GivenUp
        member.disk.rot(file, offset)
        member.rotten, member.rotten_in = True, member.life

    def newest_flush(self, name: str) -> tuple[str, int]:
        """Where the newest flush of a member's log begins: file and offset."""
        disk = self[name].disk
        assert disk.newest is not None
        content, offset = disk.newest
        return next(file for file, other in disk.seen.items() if other is content), offset

    def applied(self, index: int) -> bool:
        """Whether all members have applied an entry."""
        return all(member.node is not None and member.node.published.applied >= index for member in self.members)

    def snapshot_index(self, name: str) -> int:
        """Where the newest snapshot of a member stands, 0 without one."""
        snapshot = self[name].process.log.snapshot
        return snapshot.meta.index if snapshot is not None else 0

    # -- how it ends ------------------------------------------------------------------------------------------------------------------

    def end_life(self) -> None:
        """See to it that the member whose disk stopped is gone; where the stop lay behind everything, it comes now."""
        victim = self[self.victim]
        if self.stop is not None and self.disk.stopped is None:
            self.disk.stop_at_last()
            victim.crash(power=True)
            self.disk.crash()
        assert self.cluster.run_until(lambda: victim.node is None, 5.0), "a member whose disk failed goes on"

    def make_room(self) -> None:
        """Let the disk have room again."""
        self.disk.full_from = self.disk.capacity = None

    def black_out(self) -> None:
        """Let all machines lose their power at once, and everything that is not synced with it."""
        for member in self.members:
            member.crash(power=True)

    def be_well(self) -> None:
        """Start whoever is down: everybody serves, and all agree.

        Raises:
            Violation: they do not.
        """
        self.reconnect()
        for member in self.members:
            member.recover()
        self._must(lambda: all(member.node for member in self.members) and self._leader(self.members) is not None, "no leader", WELL_WITHIN)
        for member in self.members:
            self._probe(member, Put, Consistency.WRITE)
            self._probe(member, Get, Consistency.LINEARIZABLE)
        self._must(lambda: not self.unanswered, "a member does not answer", WELL_WITHIN)
        self._must(lambda: self._are_equal(self.members), "members do not catch up", WELL_WITHIN)
        self._must(
            lambda: not any(member.process.links.unreachable() for member in self.members), "members lost sight of others", WELL_WITHIN
        )
        self._compare_configurations()

    def _compare_configurations(self) -> None:
        """G1: the configuration in effect is the last one in the log, or in the snapshot before it; and all are in one cluster."""
        *_, right = (configuration for entry in self.invariants.committed if (configuration := configuration_in(entry)) is not None)
        for member in self.members:
            found = self.raft(member.name).configuration, member.process.machine.configuration
            if found != (right, right):
                raise Violation("G1", f"{member.where} is in {found[0]} and has applied {found[1]}, {right} would be right")
        if len({member.process.links.cluster for member in self.members}) != 1:
            raise Violation("G1", "there is more than one cluster")
