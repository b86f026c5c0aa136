"""All members together: the states of a search, and what leads from one to the next.

A state is a tuple of numbers: of each member, of what is left of the budget, of the past, and of the messages under way.  The tables
behind the numbers hold each member and each message once, and each step is made by the real code once: what a member does depends
on nothing but itself and its input.  So the same step in a million states costs a look into a table.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from typing import TYPE_CHECKING, Any, Generic, TypeAlias, TypeVar

from attrs import define, frozen

from replkv.messages import NOWHERE, HardState
from replkv.testing.history import Violation
from replkv.testing.search import judge, options, rules
from replkv.testing.search.judge import Past
from replkv.testing.search.member import Disk, Input, Member, Turn
from replkv.testing.search.profiles import Budget
from replkv.testing.search.values import key

if TYPE_CHECKING:
    from replkv.testing.search.profiles import Profile, Scene

State: TypeAlias = tuple[int, ...]
Action: TypeAlias = tuple[str, Input]
"""Whom something happens to, and what; messages are named by their numbers."""

T = TypeVar("T")

REST = 2
"""How many numbers of a state stand between those of the members and those of the messages: budget and past."""


class Table(Generic[T]):
    """Values by number, each once."""

    def __init__(self) -> None:
        self.values: list[T] = []
        self._numbers: dict[Hashable, int] = {}

    def number(self, key: Hashable, value: T) -> int:
        """Return the number of the value with this key; the first one of several is kept."""
        number = self._numbers.setdefault(key, len(self.values))
        if number == len(self.values):
            self.values.append(value)
        return number


@frozen
class Letter:
    """A message under way."""

    sender: str
    to: str
    message: Any


@define(eq=False)
class Step:
    """What a member makes of an input.

    Args:
        after: the member it is then.
        sent: the letters that left.
        turn: has the rest, where reads are concerned.
        is_idle: nothing has come of it.
    """

    after: int
    sent: tuple[int, ...]
    turn: Turn | None
    is_idle: bool


class World:
    """One profile's states, and the tables behind them.

    Args:
        profile: the scope.
    """

    def __init__(self, profile: Profile) -> None:
        self.profile = profile
        self.size = len(profile.members)
        self.places = {name: place for place, name in enumerate(profile.members)}
        self.members: Table[Member] = Table()
        self.letters: Table[Letter] = Table()
        self.budgets: Table[Budget] = Table()
        self.pasts: Table[Past] = Table()
        self.doing: Action = ("", ("start",))
        """What is being tried: where a violation comes from."""
        self._begun = False  # the scenes before the search are over
        self._cut = {frozenset(pair) for pair in profile.cut}
        self._horizon = profile.timing.election_timeout
        self._steps: dict[tuple[int, Input, bool], Step | Violation] = {}
        self._options: dict[tuple[int, int], list[tuple[Input, int]]] = {}
        self._left: dict[tuple[int, str], int | None] = {}
        self._met: dict[tuple[int, int], int | Violation] = {}
        self._fine: set[State] = set()  # pairs of members, and whole memberships with a past, that were checked

    # -- the first state ------------------------------------------------------------------------------------------------------------

    def first(self, way: list[tuple[Action, State]]) -> State:
        """Return the state where the search begins.

        Args:
            way: takes up what happens on the way to it, and the state after each step.

        Raises:
            Violation: even that is not as it should be.
        """
        disk = Disk(HardState(1), (self.profile.founding,))
        members = tuple(self._number(Turn.born(name, self.profile, disk)) for name in self.profile.members)
        past = self.pasts.number(Past(), Past())
        for number in members:
            past = self._past(past, Step(number, (), None, is_idle=True), members)
        state = (*members, self._budget(Budget()), past)
        for scene in self.profile.begin:
            state = self._play(state, scene, way)
        self._steps.clear()  # nobody was cut off, and nobody hasty
        self._begun = True
        wire = [number for number in self.wire(state) if not self._is_cut(self.letters.values[number])]
        return (*state[: self.size], self._budget(self.profile.budget), state[self.size + 1], *wire)

    def _play(self, state: State, scene: Scene, way: list[tuple[Action, State]]) -> State:
        action: Action | None = (scene.who, scene.what)
        left = scene.most
        while action is not None:
            self.doing = action
            state = self._after(state, action, eager=True)
            way.append((action, state))
            heard = [number for number in self.wire(state) if self._is_heard(self.letters.values[number], scene)]
            over = not heard or left == 0 or (scene.until and self._has_come_to(scene, state))
            action = None if over else (self._to(heard[0]), ("receive", heard[0]))
            left -= 1
        if not scene.lost:
            return state
        kept = (number for number in self.wire(state) if self._is_kept(self.letters.values[number], scene))
        return (*state[: self.size + REST], *kept)

    def _is_kept(self, letter: Letter, scene: Scene) -> bool:
        return letter.sender + letter.to == scene.kept

    def _is_heard(self, letter: Letter, scene: Scene) -> bool:
        return letter.to in scene.hearers and letter.sender in (scene.speakers or self.profile.members)

    def _has_come_to(self, scene: Scene, state: State) -> bool:
        member = self.members.values[state[self.places[scene.who]]]
        return member.leads and (scene.until == "leads" or member.raft.commit == member.log.last_index)

    # -- from state to state --------------------------------------------------------------------------------------------------------

    def wire(self, state: State) -> State:
        """Return the messages under way."""
        return state[self.size + REST :]

    def next(self, state: State) -> Iterator[tuple[Action, State]]:
        """Return everything that can happen in a state, and the state after it.

        Raises:
            Violation: a member or several broke a rule in doing so; ``doing`` tells what was done.
        """
        size = self.size
        budget, wire = state[size], state[size + REST :]
        eager = not self.budgets.values[budget].crashes
        for place in range(size):
            for what, left in self._options_of(state[place], budget):
                if what[0] in options.DAMAGES and self._is_damaged(state, place):
                    continue
                self.doing = action = (self.profile.members[place], what)
                after = self._applied(state, place, self._step(state[place], what, eager), left, wire)
                if after is not None:
                    yield action, after
        yield from self._deliveries(state, budget, wire, eager=eager)
        later = self._pay(budget, "waits") if self.profile.quantum else None
        if later is not None:
            self.doing = action = ("", ("wait",))
            yield action, (*self._after(state, action, eager=eager)[:size], later, *state[size + 1 :])

    def _is_damaged(self, state: State, but: int) -> bool:
        """Tell whether somebody else's disk has lost something that is not healed yet."""
        return any(self.members.values[number].disk.floor > NOWHERE for number in (*state[:but], *state[but + 1 : self.size]))

    def _deliveries(self, state: State, budget: int, wire: State, *, eager: bool) -> Iterator[tuple[Action, State]]:
        twice = self._pay(budget, "doubles")
        for number in wire:
            to = self._to(number)
            place = self.places[to]
            if self.members.values[state[place]].busy is not None:
                continue
            rest = tuple([other for other in wire if other != number])
            self.doing = action = (to, ("receive", number))
            step = self._step(state[place], action[1], eager)
            after = self._applied(state, place, step, budget, rest)
            if after is not None:
                yield action, after
            if twice is not None and not step.is_idle and (after := self._applied(state, place, step, twice, wire)) is not None:
                yield (to, ("receive and keep", number)), after
            if len(wire) > self.profile.wire - self.size + 1:  # no room for a broadcast
                yield (to, ("lose", number)), state[: self.size + REST] + rest

    def _after(self, state: State, action: Action, *, eager: bool) -> State:
        """Return the state after an action, whatever it costs."""
        who, what = action
        if what[0] == "wait":
            members = [self._step(number, what, eager).after for number in state[: self.size]]
            return (*members, *state[self.size :])
        wire = tuple(number for number in self.wire(state) if what != ("receive", number))
        place = self.places[who]
        after = self._applied(state, place, self._step(state[place], what, eager), state[self.size], wire, most=1000)
        return state if after is None else after

    def _applied(self, state: State, place: int, step: Step, budget: int, wire: State, most: int = 0) -> State | None:
        """Return the state after a step of one member; None if too much is under way then, or nothing happened at all."""
        if step.is_idle and len(wire) == len(state) - self.size - REST:
            return None
        if step.sent:
            wire = tuple(sorted({*wire, *step.sent}))
            if len(wire) > (most or self.profile.wire):
                return None
        members = (*state[:place], step.after, *state[place + 1 : self.size])
        past = self._past(state[self.size + 1], step, members)
        return (*members, budget, past, *wire)

    def _past(self, number: int, step: Step, members: State) -> int:
        before = number
        if step.turn is not None:
            past = judge.read(self.pasts.values[number], step.turn)
            number = self.pasts.number(past, past)
        after = self._met.get((number, step.after))
        if after is None:
            after = self._meet(number, step.after)
        if isinstance(after, Violation):
            raise after
        if after != before:
            self._check_news(self.pasts.values[before], self.pasts.values[after], step.after, members)
        return after

    def _meet(self, number: int, member: int) -> int | Violation:
        try:
            past = judge.met(self.pasts.values[number], self.members.values[member])
            result: int | Violation = self.pasts.number(past, past)
        except Violation as violation:
            result = violation
        self._met[number, member] = result
        return result

    def _check_news(self, before: Past, after: Past, number: int, numbers: State) -> None:
        leader, members = self.members.values[number], [self.members.values[number] for number in numbers]
        if len(after.leaders) > len(before.leaders):
            judge.check_votes(leader, members)
        for known in after.committed[len(before.committed) :]:
            judge.check_quorum(leader, members, known.entry)

    def check(self, state: State) -> None:
        """Check what the members of a state must keep together.

        Raises:
            Violation: they don't.
        """
        members = state[: self.size]
        fine = self._fine
        for place, one in enumerate(members):
            for other in members[place + 1 :]:
                if (one, other) not in fine:
                    judge.check_pair(self.members.values[one], self.members.values[other])
                    fine.add((one, other))
        with_past = (*members, state[self.size + 1])
        if with_past not in fine:
            self._check_all(with_past)
            fine.add(with_past)

    def _check_all(self, state: State) -> None:
        members = [self.members.values[number] for number in state[: self.size]]
        committed = self.pasts.values[state[self.size]].committed
        if committed:
            judge.check_election(members, committed[-1].entry)
        if self.profile.quantum:
            judge.check_leases(members, len(committed))

    # -- steps of one member ----------------------------------------------------------------------------------------------------------

    def _step(self, number: int, what: Input, eager: bool) -> Step:
        step = self._steps.get((number, what, eager))
        if step is None:
            try:
                step = self._make_step(number, what, eager=eager)
            except Violation as violation:
                step = violation
            self._steps[number, what, eager] = step
        if isinstance(step, Violation):
            raise step
        return step

    def _make_step(self, number: int, what: Input, *, eager: bool) -> Step:
        before = self.members.values[number]
        turn = Turn.of(before, self.profile, eager=eager, hasty=self.profile.hasty and self._begun)
        if what[0] == "receive":
            letter = self.letters.values[what[1]]
            turn.take(what, (letter.sender, letter.message))
        else:
            turn.take(what)
        after = turn.member()
        rules.check_step(before, after, restarted=turn.restarted)
        letters = [Letter(before.name, to, message) for to, message in turn.sent]
        sent = {self._letter(letter) for letter in letters if not self._is_cut(letter)}
        read = turn.asked is not None or bool(turn.answered or turn.lost or turn.restarted)
        after_number = self._number(after)
        return Step(after_number, tuple(sorted(sent)), turn if read else None, after_number == number and not sent and not read)

    def _is_cut(self, letter: Letter) -> bool:
        return self._begun and {letter.sender, letter.to} in self._cut

    def _number(self, member: Member) -> int:
        return self.members.number(member.key(self._horizon), member)

    def _letter(self, letter: Letter) -> int:
        return self.letters.number(key(letter, 0.0, 0.0), letter)

    def _to(self, number: int) -> str:
        return self.letters.values[number].to

    # -- what may happen --------------------------------------------------------------------------------------------------------------

    def _budget(self, budget: Budget) -> int:
        return self.budgets.number(budget, budget)

    def _pay(self, budget: int, kind: str) -> int | None:
        if (budget, kind) not in self._left:
            left = self.budgets.values[budget].spent(kind)
            self._left[budget, kind] = None if left is None else self._budget(left)
        return self._left[budget, kind]

    def _options_of(self, member: int, budget: int) -> list[tuple[Input, int]]:
        affordable = self._options.get((member, budget))
        if affordable is None:
            affordable = self._options[member, budget] = [
                (what, left)
                for kind, what in options.inputs(self.members.values[member], self.profile, self.budgets.values[budget])
                if (left := self._pay(budget, kind) if kind else budget) is not None
            ]
        return affordable
