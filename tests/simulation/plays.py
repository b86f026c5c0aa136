"""A calm cluster as a stage: tests script what happens to it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import product
from typing import Any

import attrs

from replkv.ops import Get, Packable, Put
from replkv.testing.cluster import SimMember
from replkv.testing.history import Consistency, Outcome
from replkv.testing.holders import Holding
from replkv.testing.knobs import turned
from replkv.testing.sim import nothing
from replkv.testing.simulation import Simulation
from replkv.testing.swarm import calm
from replkv.testing.watchers import Watcher
from replkv.values import Span, to_ttl
from replkv.wire import Raw

CALM = calm(segment_bytes=64 << 10)


class Play(Simulation):
    """A calm cluster, and what a test does to it."""

    def write(self, member: SimMember, value: str) -> None:
        probe = self.workload.run(member, Put("k", value), Consistency.WRITE, nothing, patience=3.0)
        assert self.cluster.run_until(lambda: probe.outcome is not Outcome.PENDING, 5.0)
        assert probe.outcome is Outcome.ANSWERED

    def ask(self, member: SimMember, operation: Packable[Any]) -> Raw:
        """Have an operation executed, and return its answer."""
        probe = self.workload.run(member, operation, Consistency.WRITE, nothing, patience=3.0)
        assert self.cluster.run_until(lambda: probe.outcome is not Outcome.PENDING, 5.0)
        assert probe.answer is not None
        return probe.answer

    def hold(self, member: SimMember, ttl: float, *, lease: int = 0, keep_alive: bool = True) -> Holding:
        """Hold a lease at a member; of an id, take it over."""
        answers: list[Holding | None] = []
        self.holders.hold(member, lease, 0 if lease else to_ttl(ttl), keep_alive=keep_alive, then=answers.append, patience=3.0)
        assert self.cluster.run_until(lambda: bool(answers), 5.0)
        assert answers[0] is not None
        return answers[0]

    def lives(self, lease: int) -> bool:
        """Whether the cluster has a lease."""
        return lease in self.invariants.witness.model.leases

    def watch(self, member: SimMember, start: int = 0, *, whole: bool = False) -> Watcher:
        """Begin a watch of everything at a member."""
        watcher = self.watchers.add(Watcher(self.watchers, Span.of(), ("put", "delete"), False, whole, 0, None, 0.0))
        watcher.open(member, start)
        return watcher

    def read(self, member: SimMember, consistency: Consistency = Consistency.LINEARIZABLE) -> bytes | None:
        probe = self.workload.run(member, Get("k"), consistency, nothing, patience=3.0)
        assert self.cluster.run_until(lambda: probe.outcome is not Outcome.PENDING, 5.0)
        assert probe.answer is not None
        return probe.answer[1] and bytes(probe.answer[1][1])

    def leader(self, among: list[SimMember] | None = None) -> SimMember:
        """Wait for a leader from among these, whom they all follow."""
        core = among or list(self.cluster.members.values())

        def led_by() -> list[SimMember]:
            view = self._leader(core)
            return [member for member in core if view is not None and member.name == view[0]]

        assert self.cluster.run_until(lambda: bool(led_by()), 15.0)
        return led_by()[0]

    def others(self, member: SimMember) -> list[SimMember]:
        return [other for other in self.cluster.members.values() if other is not member]

    def part(self, member: SimMember, *, told: bool) -> None:
        """Cut a member off."""
        names = list(self.cluster.members)
        pairs = [(a, b) for a, b in product(names, names) if a != b and member.name in (a, b)]
        self.cluster.network.cut(pairs)
        if told:
            self.cluster.network.sever(pairs)


@contextmanager
def play(**changes: Any) -> Iterator[Play]:
    """Start a cluster, and judge it at the end."""
    simulation = Play(attrs.evolve(CALM, **changes))
    simulation.watchers.settle()
    with turned(simulation.scenario.knobs):
        for member in simulation.cluster.members.values():
            member.start()
        simulation.leader()
        yield simulation
        simulation._heal()
        simulation._settle_account()
