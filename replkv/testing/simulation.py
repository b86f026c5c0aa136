"""One seed from beginning to end: faults first, then health, then the final account.

While faults last only safety is promised, and the invariants watch it.  Then a majority is saved, with the others broken for good: within
ten election timeouts it has a leader, and in as many again answers a write and a read at every member.  At last everything is healed:
now all members, but those whose disks were lost, serve as well, come to the same state, and keep their leader.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

from attrs import define, field, frozen

from replkv.ops import Get, Put
from replkv.testing.checker import check
from replkv.testing.cluster import SimCluster
from replkv.testing.history import Consistency, Outcome, Violation
from replkv.testing.invariants import Invariants
from replkv.testing.knobs import turned
from replkv.testing.nemesis import Nemesis
from replkv.testing.swarm import Scenario, draw
from replkv.testing.workload import Workload

if TYPE_CHECKING:
    from collections.abc import Callable

    from replkv.testing.cluster import SimMember

PATIENCE = 10
"""Election timeouts a healed cluster has for everything it owes."""


@frozen
class Report:
    """What a run did.

    Args:
        fingerprint: of the trace: equal for equal runs.
        virtual_seconds: how long it lasted in there.
        events: of the scheduler.
        looks: how often the invariants were checked.
        terms: how many had a leader.
        entries: committed.
        outcomes: of the clients' operations, by kind.
        faults: injected, by kind.
    """

    fingerprint: str
    virtual_seconds: float
    events: int
    looks: int
    terms: int
    entries: int
    outcomes: dict[str, int]
    faults: dict[str, int]


@define(eq=False, repr=False)
class Simulation:
    """A cluster, its clients, its enemy and its judge.

    Args:
        scenario: what to simulate.
        verbose: print everything that happens.
    """

    scenario: Scenario
    verbose: bool = False
    cluster: SimCluster = field(init=False)
    invariants: Invariants = field(init=False)
    workload: Workload = field(init=False)
    nemesis: Nemesis = field(init=False)
    probes: int = 0
    unanswered: int = 0

    def __attrs_post_init__(self) -> None:
        seed = self.scenario.seed
        self.cluster = SimCluster(self.scenario, self.verbose)
        self.invariants = Invariants(self.cluster, random.Random(f"invariants {seed}"))
        self.workload = Workload(self.cluster, random.Random(f"workload {seed}"))
        self.nemesis = Nemesis(self.cluster, random.Random(f"nemesis {seed}"), self.invariants)

    def run(self) -> Report:
        """Go through all phases.

        Raises:
            Violation: a promise was broken.
        """
        with turned(self.scenario.knobs):
            self._suffer()
            if self.invariants.founded:
                self._survive()
            self._heal()
            self._settle_account()
        return self.report()

    def report(self) -> Report:
        """Return what has been done so far."""
        outcomes: dict[str, int] = {}
        for operation in self.workload.history.operations:
            kind = f"{operation.consistency.value} {operation.outcome.value}"
            outcomes[kind] = outcomes.get(kind, 0) + 1
        cluster, invariants = self.cluster, self.invariants
        faults = {**cluster.counts, **cluster.network.faults}
        numbers = (cluster.scheduler.now, cluster.scheduler.steps, invariants.looks, len(invariants.leaders), len(invariants.committed))
        return Report(cluster.trace.digest, *numbers, outcomes=outcomes, faults=faults)

    # -- phases -----------------------------------------------------------------------------------------------------------------------

    def _suffer(self) -> None:
        for member in self.cluster.members.values():
            self.cluster.scheduler.after(member.rng.uniform(0.0, 0.5), member.start)
        self.nemesis.begin()
        self.workload.begin()
        self.cluster.run(self.scenario.duration)
        self.workload.active = False

    def _survive(self) -> None:
        """A majority whose members all reach each other goes on, whatever becomes of the others."""
        rng, sound = random.Random(f"core {self.scenario.seed}"), self.cluster.sound
        core = rng.sample(sound, rng.randint(len(self.cluster.members) // 2 + 1, len(sound)))
        self.nemesis.save_core(core)
        self.cluster.trace.note("saved", *(member.name for member in core))
        self._serve(core)

    def _heal(self) -> None:
        self.nemesis.heal()
        self.cluster.trace.note("healed")
        sound = self.cluster.sound
        self._serve(sound)
        self._must(lambda: self._are_equal(sound), "members do not catch up")
        before = self._leader(sound)
        self.cluster.run(2 * self.scenario.settings.election_timeout)
        if before is None or self._leader(sound) != before:
            raise Violation("liveness", f"leadership moved from {before} to {self._leader(sound)} although nothing was wrong")

    def _settle_account(self) -> None:
        self.cluster.run(self.scenario.patience)
        for member in self.cluster.running:
            self.invariants.look_closely(member, member.process)
        check(self.workload.history, self.invariants.witness)

    # -- liveness -------------------------------------------------------------------------------------------------------------------------

    def _serve(self, core: list[SimMember]) -> None:
        """These members find a leader in time, and each of them writes and reads."""
        self._must(lambda: self._leader(core) is not None, "no leader")
        self.cluster.run(self.scenario.settings.election_timeout)  # a hand-over that was asked for before may still happen
        for member in core:
            for operation, consistency in ((Put, Consistency.WRITE), (Get, Consistency.LINEARIZABLE)):
                self._probe(member, operation, consistency)
        self._must(lambda: not self.unanswered, "a member does not answer")

    def _must(self, done: Callable[[], bool], otherwise: str) -> None:
        seconds = PATIENCE * self.scenario.settings.election_timeout
        if not self.cluster.run_until(done, seconds):
            states = [str(member.node.status()) if member.node else f"{member.name} is down" for member in self.cluster.members.values()]
            raise Violation("liveness", f"{otherwise} within {seconds} s after all was well: {states}")

    def _leader(self, core: list[SimMember]) -> tuple[str, int] | None:
        """Return the leader all these members follow, and its term."""
        views = set()
        for member in core:
            raft = member.node.raft if member.node is not None else None
            views.add((raft.leader, raft.term) if raft is not None and raft.leader is not None else None)
        view = views.pop()
        return None if views else view

    def _probe(self, member: SimMember, operation: type[Put | Get], consistency: Consistency) -> None:
        """Write or read at one member, again if the outcome is unknown: its session may have run out while it was cut off."""
        self.probes += 1
        self.unanswered += 1
        wanted = Put("probe", f"{self.probes} at {member.name}") if operation is Put else Get("probe")

        def judge() -> None:
            self.unanswered -= 1
            if probe.outcome is not Outcome.ANSWERED:
                self._probe(member, operation, consistency)

        # The judge is called at the end of the call, when the probe has long been noted.
        probe = self.workload.run(member, wanted, consistency, judge, patience=PATIENCE * self.scenario.settings.election_timeout)

    def _are_equal(self, members: list[SimMember]) -> bool:
        """Tell whether these members have applied everything that is committed."""
        target = len(self.invariants.committed)
        return all(member.node is not None and member.node.published.applied == target for member in members)


def simulate(seed: int, *, verbose: bool = False) -> Report:
    """Run one seed.

    Raises:
        Violation: a promise was broken; the seed will break it again.
    """
    return Simulation(draw(seed), verbose).run()
