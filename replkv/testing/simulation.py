"""One seed from beginning to end: faults first, then health, then the final account.

While faults last only safety is promised, and the invariants watch it.  Then a majority is saved, with the others broken for good: within
ten election timeouts it has one stable leader, answers ten writes and ten linearizable reads, lets a lease expire, and is equal.  At last
everything is healed: now the founders' configuration can be brought back, and all members, but those whose disks were lost, serve as
well, come to the same state, and keep their leader.  When power has failed everywhere in the end, all of it is still there.
"""

from __future__ import annotations

import random
from collections import Counter
from functools import partial
from typing import TYPE_CHECKING

from attrs import define, field, frozen

from replkv.ops import Get, Put
from replkv.raft import Role
from replkv.space import FORGOTTEN_AFTER, LOOK_EVERY
from replkv.testing.administrators import Administrators
from replkv.testing.checker import check
from replkv.testing.cluster import SimCluster
from replkv.testing.electorate import Electorate
from replkv.testing.history import Consistency, Outcome, Violation
from replkv.testing.holders import Holders
from replkv.testing.invariants import Invariants
from replkv.testing.knobs import turned
from replkv.testing.nemesis import Nemesis
from replkv.testing.sights import Sights
from replkv.testing.sim import nothing
from replkv.testing.swarm import Scenario, draw
from replkv.testing.users import Users
from replkv.testing.watchers import Watchers
from replkv.testing.workload import Workload
from replkv.values import to_ttl

if TYPE_CHECKING:
    from collections.abc import Callable

    from replkv.testing.cluster import SimMember
    from replkv.testing.holders import Holding

PATIENCE = 10
"""Election timeouts a healed cluster has for everything it owes."""
COMING = 40.0
"""Seconds more until the members are those that are wanted."""
BUSY = 1000
"""Turns a second that no member needs while there is nothing to do but upkeep; they take a fifth of it at most."""
PROBES = 10
"""Writes, and as many reads, that it answers in that time."""
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
        configurations: proposed, and those that founded.
        outcomes: of the clients' operations, by kind.
        faults: injected, by kind.
        sights: situations that were reached, so that nobody is content with runs in which nothing happens.
    """

    fingerprint: str
    virtual_seconds: float
    events: int
    looks: int
    terms: int
    entries: int
    configurations: int
    outcomes: dict[str, int]
    faults: dict[str, int]
    sights: frozenset[str]


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
    users: Users = field(init=False)
    watchers: Watchers = field(init=False)
    electorate: Electorate = field(init=False)
    administrators: Administrators = field(init=False)
    nemesis: Nemesis = field(init=False)
    sights: Sights = field(init=False)
    probes: int = 0
    unanswered: int = 0
    _patient_until: float = 0.0

    def __attrs_post_init__(self) -> None:
        seed = self.scenario.seed
        self.cluster = SimCluster(self.scenario, self.verbose)
        self.invariants = Invariants(self.cluster, random.Random(f"invariants {seed}"))
        self.workload = Workload(self.cluster, random.Random(f"workload {seed}"))
        self.holders = Holders(self.workload, random.Random(f"holders {seed}"))
        self.invariants.holdings = self.holders.holdings
        self.users = Users(self.workload, self.invariants.witness, random.Random(f"users {seed}"))
        self.watchers = Watchers(self.cluster, random.Random(f"watchers {seed}"), self.users)
        self.electorate = Electorate(self.cluster, self.invariants)
        rng = random.Random(f"administrators {seed}")
        self.administrators = Administrators(self.cluster, self.invariants, self.electorate, self.workload, rng)
        self.nemesis = Nemesis(self.cluster, self.invariants, self.electorate, self.administrators)
        self.sights = Sights(self)

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
            self.sights.finish()
            self._scan()
        return self.report()

    def report(self) -> Report:
        """Return what has been done so far."""
        operations = self.workload.history.operations
        outcomes = Counter(f"{operation.consistency.value} {operation.outcome.value}" for operation in operations)
        cluster, invariants = self.cluster, self.invariants
        return Report(
            fingerprint=cluster.trace.digest,
            virtual_seconds=cluster.scheduler.now,
            events=cluster.scheduler.steps,
            looks=invariants.looks,
            terms=len(invariants.leaders),
            entries=len(invariants.committed),
            configurations=len(invariants.configurations),
            outcomes=dict(outcomes),
            faults=dict(Counter(fault for _, fault in self.nemesis.struck) + Counter(cluster.network.faults)),
            sights=frozenset(self.sights.reached),
        )

    # -- phases -----------------------------------------------------------------------------------------------------------------------

    def _suffer(self) -> None:
        for member in self.cluster.members.values():
            self.cluster.scheduler.after(member.rng.uniform(0.0, 0.5), partial(self.nemesis.first_start, member))
        self.nemesis.begin()
        self.workload.begin()
        self.holders.begin()
        self.users.begin()
        self.watchers.begin()
        self.administrators.begin()
        self.cluster.run(self.scenario.duration)
        self.workload.active = False
        self.watchers.settle()

    def _survive(self) -> None:
        """Members that decide and all reach each other go on, whatever becomes of the others."""
        core = self._core()
        self.nemesis.save_core(core)
        self.cluster.trace.note("saved", *(member.name for member in core))
        self._stir(core)
        if "disk_full" in self.scenario.faults:  # it may have been refused, as long as those were taken for full that have room now
            self.cluster.run(FORGOTTEN_AFTER + LOOK_EVERY)
            self._stir(core)
        if self.administrators.at_work and self.administrators.within is None:
            self._be_patient()
            self._restore()
        self._serve(core)
        self._let_expire(self._belonging(core)[0])

    def _core(self) -> list[SimMember]:
        """Draw who is saved: everybody, where it depends on newcomers who is to decide before long."""
        sound, rng, enough = self.cluster.sound, random.Random(f"core {self.scenario.seed}"), self.administrators.can_do_with
        if not self.administrators.at_work:
            return self.electorate.core(sound, rng)
        if not enough([member.name for member in sound]):
            return [*self.cluster.members.values()]
        self.administrators.within = core = self.electorate.core(sound, rng, enough)
        return core

    def _stir(self, core: list[SimMember]) -> None:
        """Have somebody write at each of these members: a leader with a disk that hangs, who is none of them, falls silent only then."""
        for member in core:
            if member.node is None:
                continue
            self.probes += 1
            put = Put("probe", f"{self.probes} at {member.name}")
            self.workload.run(member, put, Consistency.WRITE, nothing, patience=self.scenario.settings.election_timeout)

    def _heal(self) -> None:
        self.nemesis.heal()
        self.watchers.settle()
        self.cluster.trace.note("healed")
        if self.invariants.founded:
            self._be_patient()
            self._restore()
        sound = self.cluster.mendable
        self._serve(sound)
        self._let_root_in()
        self._must(lambda: self.watchers.current, "watches do not catch up", WATCHED_WITHIN)
        self.watchers.ask()
        self._must(lambda: self.watchers.marked, "watches do not say how far they are", WATCHED_WITHIN)
        before, settled = self._leader(sound), self.invariants.settled
        self.administrators.call_back()
        self._leave_alone(sound)
        if self.invariants.settled is not settled:
            raise Violation("liveness", f"{settled} became {self.invariants.settled} although nothing was wrong")
        if before is None or self._leader(sound) != before:
            raise Violation("liveness", f"leadership moved from {before} to {self._leader(sound)} although nothing was wrong")

    def _let_root_in(self) -> None:
        """Whatever became of all others' rights, root still has its own."""
        if self.users.rights.enabled:
            root = self.users.call_root()
            self._be_patient()
            self._must(lambda: root.done > 0, "root is not let in")

    def _restore(self) -> None:
        """The configuration becomes again what it began with; or what was asked for, where leaders see to that."""
        if not self.scenario.steers:
            self.electorate.restore()
            self._must(lambda: self.electorate.restored, "the founders' configuration does not come back")
        elif self.administrators.at_work:
            self.administrators.within = None
            self._must(lambda: self.administrators.satisfied, "the members are not those that are wanted")

    def _leave_alone(self, sound: list[SimMember]) -> None:
        """With nothing to do but upkeep: leases that are kept alive live, the others end, history goes, and what waits is counted right."""
        settings = self.scenario.settings
        kept = [holding for holding in self.holders.holdings if holding.alive and self._is_kept(holding)]
        turns, calm = [member.turns for member in sound], 2 * settings.election_timeout
        self.cluster.run(calm)
        if max(member.turns - before for member, before in zip(sound, turns, strict=True)) > BUSY * calm:
            raise Violation("liveness", f"a member takes more than {BUSY} turns a second with nothing to do")
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
        self.cluster.run_until(lambda: not (self.workload.under_way or self.users.under_way), self.scenario.patience)
        self.users.dismiss()
        for member in self.cluster.running:
            self.invariants.look_closely(member, member.process)
            self._check_admission(member)
        check(self.workload.history, self.invariants.witness, self.cluster.own)
        self.holders.check(self.invariants.witness)
        self.watchers.check(self.invariants.witness.model)

    def _scan(self) -> None:
        """Power fails everywhere, and everything is still there: the same state on all members, which is that of the whole log."""
        self.watchers.dismiss()
        for member in self.cluster.mendable:
            member.crash(power=True)
            member.start()
        sound = self.cluster.mendable  # without those that find only now that their disks are beyond help
        self._be_patient()
        self._must(lambda: self._leader(sound) is not None, "members do not come back")
        self._compare(sound)

    def _check_admission(self, member: SimMember) -> None:
        """F1: what counts as being under way is what waits in the queue or in a batch."""
        proposals = member.process.proposals
        calls = [*proposals._own, *proposals._queue, *(call for batch in proposals._batches.values() for call in batch.calls)]
        counted = proposals.admission.commands, proposals.admission.bytes
        right = len(calls), sum(len(call.command or b"") for call in calls)
        if counted != right:
            raise Violation("F1", f"{member.where} counts {counted} under way, {right} would be right")

    # -- liveness ---------------------------------------------------------------------------------------------------------------------

    def _serve(self, core: list[SimMember]) -> None:
        """In time these members have a leader, and keep it; those of them that belong to the cluster write and read, and become equal."""
        self._be_patient()
        self._must(lambda: self._leader(core) is not None, "no leader")
        # Until disks that were full have been looked at again, a hand-over may be asked for; and that may take its time.
        self.cluster.run(2 * LOOK_EVERY + self.scenario.settings.election_timeout)
        self._must(lambda: self._is_decided(core), "no leader that is content with its configuration")
        before, serving = self._leader(core), self._belonging(core)
        for number in range(PROBES):
            self._probe(serving[number % len(serving)], Put, Consistency.WRITE)
            self._probe(serving[(number + 1) % len(serving)], Get, Consistency.LINEARIZABLE)
            self._must(lambda: not self.unanswered, "a member does not answer")
        self._must(lambda: self._are_equal(serving), "members do not catch up")
        self._must(lambda: self.watchers.are_current(serving), "watches do not catch up", WATCHED_WITHIN)
        self._compare(serving)
        if self._leader(core) != before:
            raise Violation("liveness", f"leadership moved from {before} to {self._leader(core)} while a majority was well")

    def _compare(self, members: list[SimMember]) -> None:
        """These members come to the same place of the log, and are in the same state there: that of the whole log."""
        self._must(lambda: self._are_equal(members), "members do not catch up")
        for member in members:
            self.invariants.look_closely(member, member.process)

    def _is_decided(self, core: list[SimMember]) -> bool:
        """Tell whether they have a leader whose configuration is committed, and that has no other in mind."""
        leader = self._leader(core)
        member = self.cluster.members[leader[0]] if leader is not None else None
        if member is None or (node := member.node) is None or node.raft is None or node.raft._log.configuration_index > node.raft.commit:
            return False
        if not self.scenario.steers:
            return True
        return node._applying is None and node.membership.step(node.raft, node.machine, member.clock()) is None

    def _belonging(self, core: list[SimMember]) -> list[SimMember]:
        """Return those members that are in the newest configuration."""
        return [member for member in core if self.cluster.belongs(member)]

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
        left = max(0.0, self._patient_until - self.cluster.scheduler.now)
        self._must(lambda: holding.held.id not in leases, "a lease does not expire", min(left, self._until_expiry(ttl)))
        self.cluster.count("lease expired in time")

    def _until_expiry(self, ttl: float) -> float:
        """Return for how many seconds a lease may last, counted from its last renewal."""
        return (ttl + 1.0) * (1 + 2 * self.scenario.drift) + 2 * self.scenario.settings.election_timeout

    def _be_patient(self) -> None:
        """Give the cluster ten election timeouts from now on, and more where newcomers have to be let in first."""
        more = COMING if self.administrators.at_work else 0.0
        self._patient_until = self.cluster.scheduler.now + PATIENCE * self.scenario.settings.election_timeout + more

    def _must(self, done: Callable[[], bool], otherwise: str, seconds: float | None = None) -> None:
        """Go on when something is so, at the latest when patience is over, or after so many seconds.

        Raises:
            Violation: it is not so by then.
        """
        left = max(0.0, self._patient_until - self.cluster.scheduler.now)
        if not self.cluster.run_until(done, left if seconds is None else seconds):
            states = [str(member.node.status()) if member.node else f"{member.name} is down" for member in self.cluster.members.values()]
            raise Violation("liveness", f"{otherwise} in time after all was well: {states}")

    def _leader(self, core: list[SimMember]) -> tuple[str, int] | None:
        """Return the leader, and its term, whom all of these members follow that belong to its cluster."""
        rafts = {member.name: member.node.raft for member in core if member.node is not None and member.node.raft is not None}
        leading = [raft for raft in rafts.values() if raft.role is Role.LEADER]
        newest = max(leading, key=lambda raft: raft.term, default=None)
        if newest is None:
            return None
        views = {
            (raft.leader, raft.term) if (raft := rafts.get(member.name)) is not None else None
            for member in core
            if newest.configuration.members.get(member.name) == member.incarnation
        }
        return (newest.name, newest.term) if views == {(newest.name, newest.term)} else None

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
