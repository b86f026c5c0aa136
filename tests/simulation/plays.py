"""A calm cluster as a stage: tests script what happens to it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import product
from typing import Any

import attrs

from replkv.config import Config, Settings
from replkv.ops import Get, Put
from replkv.testing.cluster import SimMember
from replkv.testing.history import Consistency, Outcome
from replkv.testing.knobs import turned
from replkv.testing.network import Weather
from replkv.testing.sim import nothing
from replkv.testing.simulation import Simulation
from replkv.testing.swarm import draw

CALM = attrs.evolve(
    draw(1),
    names=("a", "b", "c"),
    settings=Settings(),
    config=Config(),
    faults=(),
    weather=Weather(),
    drift=0.0,
    creep=0.0,
    clients=0,
    patience=4.0,
    snapshot_step=0.0005,
    knobs={},
)


class Play(Simulation):
    """A calm cluster, and what a test does to it."""

    def write(self, member: SimMember, value: str) -> None:
        probe = self.workload.run(member, Put("k", value), Consistency.WRITE, nothing, patience=3.0)
        assert self.cluster.run_until(lambda: probe.outcome is not Outcome.PENDING, 5.0)
        assert probe.outcome is Outcome.ANSWERED

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
    with turned(simulation.scenario.knobs):
        for member in simulation.cluster.members.values():
            member.start()
        simulation.leader()
        yield simulation
        simulation._heal()
        simulation._settle_account()
