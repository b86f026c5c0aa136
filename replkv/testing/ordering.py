"""Look for an order of calls that explains their answers: Wing and Gong's search in Lowe's version, as Porcupine does it.

Of the steps that began before the first one returned that has yet to be placed, one is put after the other, and taken back where that leads
nowhere; situations that were met before are not tried again.  What keeps it short:

- Where the revision of a step is known, it waits for those before it.
- A step that fits and changes nothing is put at once: whatever order there is, there is one with it here.
- What a step saw is not replaced before that step is placed.
- A step that need not have happened is tried only if it changes what the next steps are about, and of several that do the same only one.
- When it led nowhere, only what has to do with the keys that were to blame is tried differently (conflict-directed backjumping).
"""

from __future__ import annotations

import json
import time
from collections import Counter
from typing import TYPE_CHECKING, Any, TypeAlias

from replkv.testing import facts
from replkv.testing.deduction import spare_revisions
from replkv.testing.history import Violation
from replkv.testing.specification import MOD, Specification

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Sequence

    from replkv.testing.specification import State, Step

Move: TypeAlias = tuple[int, "State"]
"""A step, by its number, and the state behind it."""

LOOK_EVERY = 256
"""Moves between two looks at the clock."""
REMEMBERED = 1_000_000
"""Situations that a search may remember: some hundred bytes each."""


class Undecided(Violation):
    """There was not enough time or memory to judge a history: it may be legal or not."""

    def __init__(self, text: str) -> None:
        super().__init__("undecided", text)


class Search:
    """Looks for an order of some steps that explains the answers.

    Args:
        keys: that they are about.
        steps: any; those that are not required may be left out.
        deadline: when to give up, by the monotonic clock.
        whole: there are no other keys, and no other calls wrote to them: revisions have no gaps.

    Attributes:
        decided: whether the search came to its end.
        furthest: the longest order that led nowhere, each step with the state behind it.
        objections: why none of the steps can follow one of which would have to.
    """

    def __init__(self, keys: Sequence[str], steps: Iterable[Step], deadline: float, *, whole: bool = False) -> None:
        self._steps = steps = sorted(steps, key=lambda step: (not step.required, step.called))
        self._required = required = sum(step.required for step in steps)
        self._whole, self._deadline = whole, deadline
        numbers, size = range(required), len(steps)
        placed = [number for number in numbers if steps[number].place is not None]
        placed.sort(key=lambda number: (steps[number].place, steps[number].made is None))
        self._by_call = _Line(numbers, size)
        self._by_return = _Line(sorted(numbers, key=lambda number: steps[number].returned), size)
        self._by_place = _Line(placed, size)
        self._optional = _Line(range(required, size), size)
        self._alike = _likenesses(steps[required:], steps)
        self._reach = _reaches(steps[required:], steps)
        self._sights = [_sights(step) for step in steps[:required]]
        self._unread = Counter(sight for sights in self._sights for sight in sights)  # versions, by how many steps to come have seen them
        self._order: list[Move] = []
        self._done = self._chosen = 0  # a bit for each required step, and for each other one, that is in the order
        self._blame: dict[tuple[int, int, int, State], set[str]] = {}  # of each situation the keys because of which it led nowhere
        self._looks = 0
        self.rules = Specification(keys, None if whole else spare_revisions(steps))
        self.decided = False
        self.furthest: list[tuple[Step, State]] = []
        self.objections: list[tuple[Step, str]] = []

    def run(self) -> bool:
        """Tell whether there is such an order.

        Raises:
            Undecided: there was not enough time or memory to find out.
        """
        way = [self._branch(self.rules.empty)]
        while way and self._by_call.first != self._by_call.end:
            self._look_at_budget()
            moves, blame = way[-1]
            move = next(moves, None)
            if move is None:
                self._note_furthest()
                way.pop()
                if way:
                    self._take_back()
                    way[-1][1].update(blame)
                continue
            self._place(*move)
            known = self._blame.get(self._situation(move[1]))
            if known is None:
                way.append(self._branch(move[1]))
            else:
                self._take_back()
                blame |= known
        self.decided = True
        return bool(way)

    # -- what can be next -------------------------------------------------------------------------------------------------------------

    def _branch(self, state: State) -> tuple[Iterator[Move], set[str]]:
        """Return what can be next in the situation reached, and the keys that are to blame where nothing can."""
        blame = self._blame[self._situation(state)] = set()
        return self._moves(state, blame), blame

    def _moves(self, state: State, blame: set[str]) -> Iterator[Move]:
        """Yield each step that can be next, with the state behind it; those that are not required come last."""
        moves: list[Move] = []
        wanted: set[str] = set()
        for number in self._candidates():
            step = self._steps[number]
            found = list(self._moves_with(number, state, blame))
            if found and found[0][1] == state:
                yield found[0]
                return
            moves += found
            if found:
                wanted |= facts.put_keys(step.call) - step.left.keys()
            else:
                keys = self._unlike(state, step)
                wanted |= keys
                blame |= keys
        yield from moves
        yield from self._doubtful_moves(state, wanted, blame)

    def _moves_with(self, number: int, state: State, blame: set[str]) -> Iterator[Move]:
        """Yield a step with each state that may be behind it, unless it replaces what others have yet to see."""
        own = self._sights[number] if number < self._required else set()
        for after in self.rules.after(state, self._steps[number]):
            replaced = {(key, before[MOD]) for key, before, behind in self.rules.changes(state, after) if before is not None}
            early = {key for key, revision in replaced if self._unread[key, revision] > ((key, revision) in own)}
            blame |= early
            if not early:
                yield number, after

    def _candidates(self) -> Iterator[int]:
        """Yield the required steps that began in time, and whose revision is the next one, if it is known."""
        horizon, first = self._horizon, self._by_place.first
        for number in self._by_call:
            step = self._steps[number]
            if step.called > horizon:
                return
            if step.place is None or number == first:
                yield number

    @property
    def _horizon(self) -> float:
        """When the first step returned that has yet to be placed: what was called later can't come before it."""
        return self._steps[self._by_return.first].returned

    def _unlike(self, state: State, step: Step) -> set[str]:
        """Return the keys of which some hold something else than a step that can't be next has to find."""
        return self.rules.unlike(state, step) if step.call.kind in ("get", "scan") else facts.keys_of(step.call)

    def _doubtful_moves(self, state: State, wanted: set[str], blame: set[str]) -> Iterator[Move]:
        """Yield the steps that are not required and are worth a try here, each with the state behind it.

        One that changes no key that is both wanted and to blame can as well come later, where a key of its is; but a revision that is
        missing has to be made by any of them, and if the first one that can leads nowhere, by one that has to do with the blame.
        """
        if not self._whole:
            for number in self._choices():
                # What a transaction's conditions are about may change before its keys are wanted, so it can't always wait.
                promising = blame if self._steps[number].call.args.get("compare") else blame & wanted
                if self._reach[number - self._required] & promising:
                    yield from self._moves_with(number, state, blame)
        elif self._is_gap(state):
            tried: set[str] = set()
            for number in sorted(self._choices(), key=lambda number: not self._reach[number - self._required] & wanted):
                reach = self._reach[number - self._required]
                for move in self._moves_with(number, state, blame):
                    if not tried or (tried | reach) & blame:
                        tried |= reach
                        yield move
            if not tried:
                blame.update(self.rules.keys)

    def _choices(self) -> Iterator[int]:
        """Yield the steps that are not required and began in time; of those that do the same only the first."""
        horizon = self._horizon
        tried: set[str] = set()
        for number in self._optional:
            if self._steps[number].called > horizon:
                return
            alike = self._alike[number - self._required]
            if alike not in tried:
                tried.add(alike)
                yield number

    def _is_gap(self, state: State) -> bool:
        """Tell whether no required step makes the next revision."""
        first = self._by_place.first
        if first == self._by_place.end:
            return True
        step = self._steps[first]
        return step.place is not None and step.place > state[0] + (step.made is not None)

    # -- the order so far -------------------------------------------------------------------------------------------------------------

    def _situation(self, state: State) -> tuple[int, int, int, State]:
        first = self._by_call.first  # everything before it is done: that need not be remembered bit by bit
        return first, self._done >> first, self._chosen, state

    def _place(self, number: int, state: State) -> None:
        """Put a step at the end of the order."""
        self._order.append((number, state))
        for line in self._lines_of(number):
            line.take(number)
        self._mark(number)

    def _take_back(self) -> None:
        """Take the last step out of the order again."""
        number, _ = self._order.pop()
        for line in self._lines_of(number):
            line.put_back(number)
        self._mark(number)

    def _mark(self, number: int) -> None:
        """Note that a step is in the order now, or is not any more."""
        if number < self._required:
            self._done ^= 1 << number
            placed = self._done >> number & 1
            for sight in self._sights[number]:
                self._unread[sight] += -1 if placed else 1
        else:
            self._chosen ^= 1 << number - self._required

    def _lines_of(self, number: int) -> tuple[_Line, ...]:
        if number >= self._required:
            return (self._optional,)
        return (self._by_call, self._by_return) if self._steps[number].place is None else (self._by_call, self._by_return, self._by_place)

    # -- what is wrong ----------------------------------------------------------------------------------------------------------------

    def _note_furthest(self) -> None:
        if self.objections and len(self._order) <= len(self.furthest):
            return
        self.furthest = [(self._steps[number], state) for number, state in self._order]
        state, horizon = self._order[-1][1] if self._order else self.rules.empty, self._horizon
        waiting = [number for number in self._by_call if self._steps[number].called <= horizon]
        self.objections = [(self._steps[number], self._objection(state, number)) for number in waiting]

    def _objection(self, state: State, number: int) -> str:
        """Return why a required step can't be next."""
        step = self._steps[number]
        if step.place is not None and number != self._by_place.first:
            return f"comes after revision {self._steps[self._by_place.first].place}"
        answer, after = self.rules.execute(state, step.call, step.place or 0)
        if step.call.outcome == "ok" and step.call.kind != "revoke" and answer != step.answer:
            return f"would be answered {answer}"
        for key, before, _ in self.rules.changes(state, after):
            for reader in self._by_call:
                if before is not None and reader != number and (key, before[MOD]) in self._sights[reader]:
                    return f"would replace {key} at {before[MOD]} before {self._steps[reader].call}"
        return f"does not leave what was seen of it: {dict(step.left)}"

    def _look_at_budget(self) -> None:
        self._looks += 1
        if self._looks % LOOK_EVERY:
            return
        if time.monotonic() > self._deadline or len(self._blame) > REMEMBERED:
            raise Undecided(f"{len(self._steps)} calls on {', '.join(self.rules.keys)} after {self._looks} moves")


class _Line:
    """Numbers in an order; they are taken out, and put back where they were, the last one first (Knuth's dancing links)."""

    def __init__(self, order: Iterable[int], size: int) -> None:
        self.end = size
        self._next, self._back = [size] * (size + 1), [size] * (size + 1)
        for number in order:
            last = self._back[size]
            self._next[last], self._back[number], self._back[size] = number, last, number

    def __iter__(self) -> Iterator[int]:
        at = self._next[self.end]
        while at != self.end:
            yield at
            at = self._next[at]

    @property
    def first(self) -> int:
        """The first of them; ``end`` if there is none."""
        return self._next[self.end]

    def take(self, number: int) -> None:
        """Take one out."""
        back, behind = self._back[number], self._next[number]
        self._next[back], self._back[behind] = behind, back

    def put_back(self, number: int) -> None:
        """Put back what was taken last."""
        self._next[self._back[number]] = self._back[self._next[number]] = number


# -- what steps have to do with each other -----------------------------------------------------------------------------------------


def joined(named: Sequence[Collection[str]]) -> list[tuple[str, ...]]:
    """Return for each of several sets of keys all that it is joined with, because they share some or a third one joins them; in order."""
    leader = {key: key for keys in named for key in keys}

    def find(key: str) -> str:
        while leader[key] != key:
            leader[key] = key = leader[leader[key]]
        return key

    for keys in named:
        for key in keys:
            leader[find(key)] = find(next(iter(keys)))
    groups: dict[str, list[str]] = {}
    for key in sorted(leader):
        groups.setdefault(find(key), []).append(key)
    return [tuple(groups[find(next(iter(keys)))]) if keys else () for keys in named]


def _sights(step: Step) -> set[tuple[str, int]]:
    """Return the versions that a step saw, but for what it wrote itself."""
    seen = {(key, pair[facts.MOD]) for key, pair in facts.sightings(step.call) if pair is not None}
    return {(key, revision) for key, revision in seen if revision != step.made}


def _reaches(optional: Sequence[Step], steps: Iterable[Step]) -> list[set[str]]:
    """Return for each step the keys that it may change, by itself or because it lets a transaction decide otherwise that does."""
    hanging: dict[object, set[str]] = {}
    for step in steps:
        for lease, keys in facts.leases_of(step.call).items():
            hanging.setdefault(lease, set()).update(keys)
    changed = [hanging.get(step.call.args["lease"], set()) if step.call.kind == "revoke" else facts.written(step.call) for step in optional]
    reaches = {key: {key} for step in optional for key in facts.keys_of(step.call)}
    growing = True
    while growing:
        growing = False
        for step in optional:
            news = facts.written(step.call).union(*(reaches[key] for key in facts.written(step.call)))
            for key, *_ in step.call.args.get("compare", ()):
                growing |= not news <= reaches[key]
                reaches[key] |= news
    return [keys.union(*(reaches.get(key, ()) for key in keys)) for keys in changed]


def _likenesses(optional: Sequence[Step], steps: Iterable[Step]) -> list[str]:
    """Return a text for each step that is the same for those that do the same, as far as anybody could see: values nobody saw are alike."""
    seen: set[tuple[str, str]] = set()
    compared: set[str] = set()
    for step in steps:
        seen |= {(key, pair[facts.VALUE]) for key, pair in facts.sightings(step.call) if pair is not None}
        compared |= {key for key, target, *_ in step.call.args.get("compare", ()) if target == "value"}

    def blank(kind: str, args: dict[str, Any]) -> Any:
        if kind == "txn":
            return args | {name: [blank(*part) for part in args[name]] for name in ("then", "otherwise")}
        hidden = kind == "put" and args["key"] not in compared and (args["key"], args["value"]) not in seen
        return [kind, args | {"value": None} if hidden else args]

    return [json.dumps(blank(step.call.kind, step.call.args), sort_keys=True) for step in optional]
