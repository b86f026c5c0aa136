"""One seed from beginning to end: faults first, then health, then the final account.

While faults last only safety is promised, and the invariants watch it.  Then a majority is saved, with the others broken for good: within
ten election timeouts it has a leader, and in as many again answers a write and a read at every member.  At last everything is healed:
now all members, but those whose disks were lost, serve as well, come to the same state, and keep their leader.
"""

from __future__ import annotations

import random
from collections import Counter
from typing import TYPE_CHECKING

from attrs import define, field, frozen

from replkv.ops import Get, Put
from replkv.testing.checker import check
from replkv.testing.cluster import SimCluster
from replkv.testing.history import Consistency, Outcome, Violation
from replkv.testing.holders import Holders
from replkv.testing.invariants import Invariants
from replkv.testing.knobs import turned
from replkv.testing.nemesis import Nemesis
from replkv.testing.sim import nothing
from replkv.testing.swarm import Scenario, draw
from replkv.testing.watchers import Watchers
from replkv.testing.workload import Workload
from replkv.values import Progress, to_ttl

if TYPE_CHECKING:
    from collections.abc import Callable

    from replkv.testing.cluster import SimMember
    from replkv.testing.holders import Holding

PATIENCE = 10
"""Election timeouts a healed cluster has for everything it owes."""
TIDY_WITHIN = 60.0
"""Seconds within which compacted history is removed, however small the slices."""
WATCHED_WITHIN = 2.0
"""Seconds within which watches have yielded what is published."""


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
        sights: what else was met, by kind: so that nobody is content with runs in which nothing happens.
    """

    fingerprint: str
    virtual_seconds: float
    events: int
    looks: int
    terms: int
    entries: int
    outcomes: dict[str, int]
    faults: dict[str, int]
    sights: dict[str, int]


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
    holders: Holders = field(init=False)
    watchers: Watchers = field(init=False)
    nemesis: Nemesis = field(init=False)
    probes: int = 0
    unanswered: int = 0

    def __attrs_post_init__(self) -> None:
        seed = self.scenario.seed
        self.cluster = SimCluster(self.scenario, self.verbose)
        self.invariants = Invariants(self.cluster, random.Random(f"invariants {seed}"))
        self.workload = Workload(self.cluster, random.Random(f"workload {seed}"))
        self.holders = Holders(self.workload, random.Random(f"holders {seed}"))
        self.invariants.holdings = self.holders.holdings
        self.watchers = Watchers(self.cluster, random.Random(f"watchers {seed}"))
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
        return Report(cluster.trace.digest, *numbers, outcomes=outcomes, faults=faults, sights=dict(self._sights()))

    def _sights(self) -> Counter[str]:
        sights: Counter[str] = Counter()
        model, holdings = self.invariants.witness.model, self.holders.holdings
        for command, effect in self.invariants.witness.slots.values():
            refused = f" refused with {effect.answer[0]}" if effect.answer[0] else ""
            sights[f"command {command[0]}{refused}"] += 1
        sights["fresh reads"] = sum(bool(operation.fresh) for operation in self.workload.history.operations)
        sights["leases expired"] = len(model.expiries)
        sights["leases held"] = len(holdings)
        sights["leases looked at"] = len(self.holders.glances)
        sights["leases lost"] = sum(holding.lost for holding in holdings)
        for watcher in self.watchers.each:
            for stream in watcher.streams:
                sights[f"watches {stream.end.value}"] += 1
                sights["watches gone on with"] += stream.resumes is not None
                sights["watches with the present state"] += stream.state is not None
                sights["watched events"] += len(stream.events)
                sights["watched marks"] += sum(isinstance(part[0], Progress) for part in stream.parts)
        return sights

    # -- phases -----------------------------------------------------------------------------------------------------------------------

    def _suffer(self) -> None:
        for member in self.cluster.members.values():
            self.cluster.scheduler.after(member.rng.uniform(0.0, 0.5), member.start)
        self.nemesis.begin()
        self.workload.begin()
        self.holders.begin()
        self.watchers.begin()
        self.cluster.run(self.scenario.duration)
        self.workload.active = False
        self.watchers.settle()

    def _survive(self) -> None:
        """A majority whose members all reach each other goes on, whatever becomes of the others."""
        rng, sound = random.Random(f"core {self.scenario.seed}"), self.cluster.sound
        core = rng.sample(sound, rng.randint(len(self.cluster.members) // 2 + 1, len(sound)))
        self.nemesis.save_core(core)
        self.cluster.trace.note("saved", *(member.name for member in core))
        self._serve(core)

    def _heal(self) -> None:
        self.nemesis.heal()
        self.watchers.settle()
        self.cluster.trace.note("healed")
        sound = self.cluster.mendable
        self._serve(sound)
        self._must(lambda: self._are_equal(sound), "members do not catch up")
        self._must(lambda: self.watchers.current, "watches do not catch up", WATCHED_WITHIN)
        self.watchers.ask()
        self._must(lambda: self.watchers.marked, "watches do not say how far they are", WATCHED_WITHIN)
        before = self._leader(sound)
        self._leave_alone(sound)
        if before is None or self._leader(sound) != before:
            raise Violation("liveness", f"leadership moved from {before} to {self._leader(sound)} although nothing was wrong")

    def _leave_alone(self, sound: list[SimMember]) -> None:
        """With nothing to do but upkeep: leases that are kept alive live, the others end, history goes, and what waits is counted right."""
        settings = self.scenario.settings
        kept = [holding for holding in self.holders.holdings if holding.alive and self._is_kept(holding)]
        self.cluster.run(2 * settings.election_timeout)
        longest = max((lease.ttl for lease in self.invariants.witness.model.leases.values()), default=0) / 1e6
        self._must(lambda: not self._forsaken(), "leases do not expire", self._until_expiry(longest))
        lost = [holding.held for holding in kept if holding.held.lost]
        if lost:
            raise Violation("K2", f"{lost} were lost although they were kept alive")
        self._must(lambda: all(self._is_tidy(member) for member in sound), "what is compacted is not removed", TIDY_WITHIN)

    def _is_kept(self, holding: Holding) -> bool:
        lease = self.invariants.witness.model.leases.get(holding.held.id)
        return lease is not None and lease.keeper == holding.node.keeper.number and holding.held.kept and not holding.held.lost

    def _forsaken(self) -> list[int]:
        """Return the leases that nobody keeps alive: they have to end."""
        held = {holding.held.id for holding in self.holders.holdings if holding.alive and self._is_kept(holding)}
        return [number for number in self.invariants.witness.model.leases if number not in held]

    def _is_tidy(self, member: SimMember) -> bool:
        """Tell whether no more history is kept than was wanted, and nothing that is compacted."""
        if member.node is None:
            return False
        store, kept = member.node.machine.store, self.scenario.settings.compact_revisions
        return not store.unscrubbed and (not kept or store.revision - store.compacted <= kept + kept // 10)

    def _settle_account(self) -> None:
        self.cluster.run(self.scenario.patience)
        for member in self.cluster.running:
            self.invariants.look_closely(member, member.process)
            self._check_admission(member)
        check(self.workload.history, self.invariants.witness, self.cluster.own)
        self.holders.check(self.invariants.witness)
        self.watchers.check(self.invariants.witness.model)

    def _check_admission(self, member: SimMember) -> None:
        """F1: what counts as being under way is what waits in the queue or in a batch."""
        proposals = member.process.proposals
        calls = [*proposals._own, *proposals._queue, *(call for batch in proposals._batches.values() for call in batch.calls)]
        counted = proposals.admission.commands, proposals.admission.bytes
        right = len(calls), sum(len(call.command or b"") for call in calls)
        if counted != right:
            raise Violation("F1", f"{member.where} counts {counted} under way, {right} would be right")

    # -- liveness -------------------------------------------------------------------------------------------------------------------------

    def _serve(self, core: list[SimMember]) -> None:
        """These members find a leader in time, and each of them writes and reads."""
        self._must(lambda: self._leader(core) is not None, "no leader")
        self.cluster.run(self.scenario.settings.election_timeout)  # a hand-over that was asked for before may still happen
        for member in core:
            for operation, consistency in ((Put, Consistency.WRITE), (Get, Consistency.LINEARIZABLE)):
                self._probe(member, operation, consistency)
        self._must(lambda: not self.unanswered, "a member does not answer")
        self._let_expire(core[0])

    def _let_expire(self, member: SimMember) -> None:
        """A lease that is granted and not kept alive expires in time, whoever leads then."""
        ttl = max(self.scenario.settings.min_ttl, 0.5)
        answers: list[Holding | None] = []
        patience = PATIENCE * self.scenario.settings.election_timeout
        self.holders.hold(member, 0, to_ttl(ttl), keep_alive=False, then=answers.append, patience=patience)
        self._must(lambda: bool(answers), "no answer to who wants a lease")
        holding = answers[0]
        if holding is None:
            return  # the store is full, or nobody knows
        put = Put(b"leased %d" % holding.held.id, "probe", lease=holding.held.id)
        self.workload.run(member, put, Consistency.WRITE, nothing, patience=patience)
        leases = self.invariants.witness.model.leases
        self._must(lambda: holding.held.id not in leases, "a lease does not expire", self._until_expiry(ttl))
        self.cluster.count("lease expired in time")

    def _until_expiry(self, ttl: float) -> float:
        """Return for how many seconds a lease may last, counted from its last renewal."""
        return (ttl + 1.0) * (1 + 2 * self.scenario.drift) + 2 * self.scenario.settings.election_timeout

    def _must(self, done: Callable[[], bool], otherwise: str, seconds: float | None = None) -> None:
        seconds = PATIENCE * self.scenario.settings.election_timeout if seconds is None else seconds
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
