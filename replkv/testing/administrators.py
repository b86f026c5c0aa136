"""Those who say who is to be a member, and see to it that the machines run that are needed for it.

Several of them may be at it at once, at whichever members they reach.  What they ask for is a command like any other; all else is the
cluster's business: it lets newcomers in, and tells those that are removed, who only have to be started, and never with the data of one
that was removed.
"""

from __future__ import annotations

from itertools import chain, combinations, permutations
from typing import TYPE_CHECKING

from attrs import define, field

from replkv.errors import Removed
from replkv.member_ops import ChangeMembers
from replkv.testing.checker import effect_of
from replkv.testing.history import Consistency, Outcome
from replkv.testing.model import Model

if TYPE_CHECKING:
    import random
    from collections.abc import Collection, Iterable, Iterator

    from replkv.messages import Configuration
    from replkv.testing.checker import Roster
    from replkv.testing.cluster import SimCluster, SimMember
    from replkv.testing.electorate import Electorate
    from replkv.testing.history import Operation
    from replkv.testing.invariants import Invariants
    from replkv.testing.workload import Workload

WAYS = ("add", "add", "remove", "remove", "exchange", "exchange", "demote", "promote", "resign", "relieve", "mistake")
"""What is asked for, as often as it is drawn."""
LOOK_EVERY = 0.7
"""Seconds between two looks at the machines, about."""
LOST_AFTER = 8.0
"""Seconds after which a process is started again that has not been let in, or not been told more: all it was told of may have moved."""
ALARM = 2.5
"""Seconds after a disk was lost in which nobody asks for changes: leaders need most of that to find out who is gone."""
UNCLEAR = 3
"""Commands of which nobody knows whether they are yet to be decided, beyond which nobody can tell what may become of the cluster."""


@define(eq=False, repr=False)
class Administrators:
    """All of them.

    Args:
        cluster: of whom.
        invariants: know what was decided.
        electorate: knows who decides.
        workload: hands commands over.
        rng: draws when they look, and what they do then.
    """

    cluster: SimCluster
    invariants: Invariants
    electorate: Electorate
    workload: Workload
    rng: random.Random
    within: Collection[SimMember] | None = None
    """Whom they may touch; None: everybody."""
    _lost_at: float = field(default=float("-inf"), init=False)  # when a disk was lost
    _asked: list[Operation] = field(factory=list)

    @property
    def roster(self) -> Roster:
        """Who is wanted, by what is decided."""
        return self.invariants.witness.model.roster

    @property
    def at_work(self) -> bool:
        """Whether members come and go in this run."""
        return self.cluster.scenario.steers and not {"membership", "wipe"}.isdisjoint(self.cluster.scenario.faults)

    def begin(self) -> None:
        """Start looking after the machines."""
        if self.at_work:
            self._look_around()

    @property
    def is_alarmed(self) -> bool:
        """Whether a disk was lost just now: who goes on exchanging members meanwhile may lose another one, and all with it."""
        return self.cluster.scheduler.now - self._lost_at < ALARM

    # -- what they see to -------------------------------------------------------------------------------------------------------------

    def _look_around(self) -> None:
        for member in self.cluster.members.values() if self.invariants.founded else ():
            if self.within is None or member in self.within:
                self._look_after(member)
        self.cluster.scheduler.after(self.rng.uniform(0.5, 1.5) * LOOK_EVERY, self._look_around)

    def _look_after(self, member: SimMember) -> None:
        wanted, sent_away = member.name in self.roster, member.node is None and member.farewell is not None
        if not wanted and (sent_away or (self._is_lost(member) and member.process.raft is None)):
            member.crash(power=False)
            member.employed = False
        elif wanted and (sent_away or not member.employed):
            self.employ(member)
        elif wanted and member.rotten and self._is_hopeless(member):
            self.wipe(member)
            member.start()
        elif self._is_lost(member) and not (wanted and member.process.raft is not None):
            member.crash(power=False)
            member.told = self.cluster.map_for(member)
            member.start()

    def _is_lost(self, member: SimMember) -> bool:
        """Tell whether a process has for long been without a leader."""
        if member.node is None or self.cluster.scheduler.now - member.since < LOST_AFTER:
            return False
        return member.node.raft is None or member.node.raft.leader is None

    def _is_hopeless(self, member: SimMember) -> bool:
        """Tell whether a damaged disk had better be emptied: who could say what was on it is gone, and the others can do without."""
        in_doubt = self._is_lost(member) and member.process.raft is not None and member.process.raft.in_doubt
        return (member.beyond_help or in_doubt) and self.can_do_with([other.name for other in self.cluster.sound if other is not member])

    def employ(self, member: SimMember) -> None:
        """Have a member run; where it was removed its directory is emptied before."""
        if member.farewell is Removed:
            self.wipe(member)
        if not member.incarnation:
            member.told = self.cluster.map_for(member)
        member.farewell, member.employed = None, True
        member.start()

    def wipe(self, member: SimMember) -> None:
        """Empty a directory: the next process is another incarnation, which knows one address or all."""
        member.wipe()
        self.invariants.forget(member.name)
        member.joins, member.farewell = self.rng.random() < 0.5, None
        self._lost_at = self.cluster.scheduler.now

    def call_back(self) -> None:
        """Start those once more that are not wanted, with what they have: they are told so, or told again."""
        for member in self.cluster.members.values():
            if member.name not in self.roster and member.incarnation:
                member.farewell, member.employed = None, True
                member.start()

    @property
    def satisfied(self) -> bool:
        """Whether everybody who is wanted is there, as wanted, and nobody else is, or believes to be."""
        settled, members = self.invariants.settled, self.cluster.members
        if self.electorate.in_force.count(settled) != len(self.electorate.in_force) or {*settled.names} != {*self.roster}:
            return False
        # What is damaged beneath a process that runs is found by the next one only.
        if any(member.rotten and member.life > member.rotten_in for member in members.values() if member.name in self.roster):
            return False
        as_wanted = {*settled.voters} == {name for name, wanted in self.roster.items() if wanted.voter}
        strangers = any(member.node is not None for name, member in members.items() if name not in self.roster)
        return as_wanted and not strangers and all(settled.members[name] == members[name].incarnation for name in settled.names)

    # -- what may become of the cluster -----------------------------------------------------------------------------------------------

    def can_do_with(self, names: Collection[str]) -> bool:
        """Tell whether these decide now, and behind each step that leaders may take next, whoever of the others seems to be well."""
        if not self.electorate.suffice(names):
            return False
        rosters = self._rosters()
        return rosters is not None and all(
            self._decide(names, now, voters)
            for now in self.electorate.in_force
            for roster in rosters
            for voters in _next_voters(now, roster)
        )

    def _decide(self, names: Collection[str], now: Configuration, voters: Collection[str]) -> bool:
        members = self.cluster.members
        there = [name for name in voters if name in names and (not now.is_voter(name) or now.members[name] == members[name].incarnation)]
        return 2 * len(there) > len(voters)

    def _rosters(self) -> list[Roster] | None:
        """Return what the roster is, or may be soon; None: that can't be told."""
        witness = self.invariants.witness
        open_ = [each for each in self._asked if each.outcome in (Outcome.PENDING, Outcome.UNKNOWN) and effect_of(each, witness) is None]
        if len(open_) > UNCLEAR:
            return None
        return [self._after(order) for count in range(len(open_) + 1) for order in permutations(open_, count)]

    def _after(self, commands: Iterable[Operation]) -> Roster:
        model = Model(roster=self.roster, addresses=self.invariants.witness.model.addresses)
        for command in commands:
            model.execute(command.wire)
        return model.roster

    # -- what they ask for ------------------------------------------------------------------------------------------------------------

    def change(self, rng: random.Random, count: int) -> None:
        """Have one of them ask for so many changes, one after the other."""
        _Administrator(self, rng, count).go_on()

    def ask(self, member: SimMember, rng: random.Random, then: _Administrator) -> None:
        """Ask a member for a change, drawn at random, and have machines ready for it, or not yet."""
        command = self.drawn(rng)
        self.cluster.trace.note("members", member.where, command)
        self.cluster.count("change of the members")
        if any(each.outcome is Outcome.PENDING for each in self._asked):
            self.cluster.count("change of the members while another was asked for")
        for name, _ in (*command.add, *command.learners):
            newcomer = self.cluster.members[name]
            if not newcomer.employed and rng.random() < 0.6:
                newcomer.learner = (name, newcomer.address) in command.learners and rng.random() < 0.5
                newcomer.joins = rng.random() < 0.7
                self.employ(newcomer)
        self._asked.append(self.workload.run(member, command, Consistency.WRITE, then.go_on))

    def drawn(self, rng: random.Random) -> ChangeMembers:
        """Draw what to ask for."""
        listed, members = sorted(self.roster), self.cluster.members
        others = [name for name in sorted(members) if name not in self.roster]
        way = rng.choice(WAYS if len(listed) > 2 else ("add", "exchange", *WAYS))
        gone = tuple(rng.sample(listed, rng.randint(1, min(2, len(listed)))))
        come = tuple((name, members[name].address) for name in rng.sample(others, min(len(others), rng.randint(1, 2))))
        leaders = [leader.name for leader in self.electorate.leaders if leader.name in self.roster]
        match way:
            case "add" if come:
                return ChangeMembers(add=come) if rng.random() < 0.8 else ChangeMembers(learners=come)
            case "exchange" if come:
                return ChangeMembers(add=come, remove=gone[: len(come)])
            case "relieve" if come:
                return ChangeMembers(add=come, remove=tuple(listed))
            case "resign" if leaders and len(listed) > 1:
                return ChangeMembers(remove=(leaders[0],))
            case "demote":
                return ChangeMembers(learners=((gone[0], ""),))
            case "promote":
                return ChangeMembers(promote=gone[:1])
            case "mistake":
                wrong = (ChangeMembers(remove=("nobody",)), ChangeMembers(add=((gone[0], "inproc://elsewhere"),)))
                return rng.choice(wrong)
        return ChangeMembers(remove=gone)


@define(eq=False)
class _Administrator:
    """One of them, with so many changes ahead."""

    office: Administrators
    rng: random.Random
    left: int
    _era: int = field(init=False)

    def __attrs_post_init__(self) -> None:
        self._era = self.office.electorate.era

    def go_on(self) -> None:
        """Ask for the next change before long, if there is one."""
        if self.left:
            self.office.cluster.scheduler.after(self.rng.uniform(0.01, 0.8), self._step)

    def _step(self) -> None:
        office = self.office
        if self._era != office.electorate.era:
            return
        running = office.cluster.running
        if running and office.invariants.founded and not office.is_alarmed:
            self.rng.choice(running).on_caller_thread(self._ask, otherwise=self.go_on)
        else:
            self.go_on()

    def _ask(self, member: SimMember) -> None:
        if self._era == self.office.electorate.era:
            self.left -= 1
            self.office.ask(member, self.rng, self)


def _next_voters(now: Configuration, roster: Roster) -> Iterator[set[str]]:
    """Yield the voters of whom leaders may make the configuration consist, now or soon, whoever is well by then."""
    wanted = {name for name, each in roster.items() if each.voter}
    for coming in _subsets(wanted.difference(now.voters)):
        waits = not wanted <= {*now.voters, *coming}
        unwanted = {name for name in now.voters if name not in wanted}
        for going in _subsets(unwanted) if waits else [unwanted]:
            if voters := {*now.voters, *coming}.difference(going):
                yield voters


def _subsets(names: Collection[str]) -> Iterator[tuple[str, ...]]:
    ordered = sorted(names)
    return chain.from_iterable(combinations(ordered, count) for count in range(len(ordered) + 1))
