"""Breadth first through all states of a profile, so that the first way found to a violation is a shortest one."""

from __future__ import annotations

import time
from array import array
from itertools import pairwise

from attrs import frozen

from replkv.testing.history import Violation
from replkv.testing.knobs import turned
from replkv.testing.search.profiles import PROFILES, Profile
from replkv.testing.search.words import told
from replkv.testing.search.world import Action, State, World


@frozen
class Trace:
    """A shortest way to a violation.

    Args:
        profile: the name of the scope.
        rule: that was broken, by its short name.
        text: what is wrong.
        states: how many distinct states had been seen by then.
        begin: what happened on the way to where the search begins.
        steps: what happened from there on, each step with what came of it.
    """

    profile: str
    rule: str
    text: str
    states: int
    begin: tuple[str, ...]
    steps: tuple[str, ...]

    def __str__(self) -> str:
        """Return all of it, a step in one or two lines."""
        numbered = [f"{number:3} {step}" for number, step in enumerate(self.steps, 1)]
        return "\n".join([*(f"  . {step}" for step in self.begin), *numbered, f"    {self.text}"])


@frozen
class Result:
    """What a search came to.

    Args:
        profile: the name of the scope.
        states: distinct ones.
        steps: from a state to another one, also to one that was known.
        depth: all states that so many steps lead to were seen.
        is_complete: these are all there are.
        seconds: it took.
        trace: the way to a violation.
    """

    profile: str
    states: int
    steps: int
    depth: int
    is_complete: bool
    seconds: float
    trace: Trace | None = None


def named(name: str) -> Profile:
    """Return the profile with this name.

    Raises:
        KeyError: there is none.
    """
    return {profile.name: profile for profile in PROFILES}[name]


def search(profile: Profile, states: int) -> Result:
    """Search a profile until a rule is broken, nothing is left, or so many distinct states were seen."""
    with turned(profile.knobs):
        return Search(profile, states).run()


def find(profile: Profile | str, states: int) -> Trace | None:
    """Search a profile for a violation; return the way to it, None if there is none among so many distinct states.

    Raises:
        KeyError: no profile has this name.
    """
    return search(named(profile) if isinstance(profile, str) else profile, states).trace


class Search:
    """A search under way.

    Args:
        profile: the scope.
        states: how many to see at most, give or take those that one of them leads to.
    """

    def __init__(self, profile: Profile, states: int) -> None:
        self.world = World(profile)
        self._most = states
        self._seen: dict[State, int] = {}
        # How each state was reached first, by its number: from which other one, and by what.
        self._parents = array("I")
        self._actions: list[Action] = []
        self._same: dict[Action, Action] = {}
        self._steps = 0
        self._depth = 0

    def run(self) -> Result:
        """Search; return what it came to."""
        began = time.monotonic()
        trace, at, frontier = None, 0, []
        way: list[tuple[Action, State]] = []
        try:
            frontier = [self.world.first(way)]
            self._add(frontier[0], 0, self.world.doing)
            while frontier and len(self._seen) < self._most:
                following: list[State] = []
                for state in frontier:
                    at = self._seen[state]
                    self._expand(state, at, following)
                    if len(self._seen) >= self._most:
                        break
                else:
                    self._depth += 1
                frontier = following
        except Violation as violation:
            trace = self._trace(violation, at, way)
        seconds = time.monotonic() - began
        return Result(self.world.profile.name, len(self._seen), self._steps, self._depth, not frontier, seconds, trace)

    def _expand(self, state: State, at: int, following: list[State]) -> None:
        seen, world = self._seen, self.world
        for action, after in world.next(state):
            self._steps += 1
            if after not in seen:
                world.check(after)
                self._add(after, at, action)
                following.append(after)

    def _add(self, state: State, parent: int, action: Action) -> None:
        self._seen[state] = len(self._seen)
        self._parents.append(parent)
        self._actions.append(self._same.setdefault(action, action))

    def _trace(self, violation: Violation, at: int, way: list[tuple[Action, State]]) -> Trace:
        """Tell how the state was reached in which something went wrong."""
        world, states = self.world, [*self._seen]
        before = [(), *(state for _, state in way)]
        begin = [told(world, state, action, after) for state, (action, after) in zip(before, way, strict=False)]
        last = told(world, (), world.doing, None)
        if not states:
            return Trace(world.profile.name, violation.rule, str(violation), 0, (*begin, last), ())
        numbers = [at]
        while numbers[0]:
            numbers.insert(0, self._parents[numbers[0]])
        steps = [told(world, states[one], self._actions[next_], states[next_]) for one, next_ in pairwise(numbers)]
        return Trace(world.profile.name, violation.rule, str(violation), len(states), tuple(begin), (*steps, last))
