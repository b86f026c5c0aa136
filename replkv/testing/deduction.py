"""What a history as a whole says about its calls: which revision was made by whom, and so when a call must have taken effect.

A write that nobody answered may take effect at any later time, or never, and a search that has to try all of that does not end.  But its
value is its own: who saw it says at which revision it was put, and that it was put before.  And since revisions count the changes of the
whole store, whoever saw a later one bounds every earlier change, whatever the key.  With these bounds keys can be judged one by one.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from itertools import pairwise
from typing import TYPE_CHECKING

from replkv.testing import facts
from replkv.testing.history import Violation
from replkv.testing.specification import Step

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from replkv.testing.blackbox import Call

NEVER = float("inf")


def to_steps(calls: Sequence[Call], landmarks: Landmarks) -> list[Step]:
    """Return the calls that may have taken effect, with what the others say about when.

    Args:
        calls: a history.
        landmarks: of this history.

    Raises:
        Violation: what was seen, or the revisions alone, contradict each other.
        ValueError: a call returned before it was called.
    """
    for call in calls:
        if call.returned is not None and call.returned < call.called:
            raise ValueError(f"no history: {call} returned at {call.returned}, and was called at {call.called}")
    found, seen = found_revisions(calls), _seen_pairs(calls)
    steps = [_to_step(call, found.get(id(call))) for call in calls if _counts(call)]
    for step in steps:
        if step.made is not None:
            step.left = {key: seen[key, step.made] for key in facts.put_keys(step.call) if (key, step.made) in seen}
    _check_one_each(steps)
    _clip(steps, landmarks)
    return steps


def _counts(call: Call) -> bool:
    """Tell whether a call has its place in the order: what failed has none, nor a read of a member's own state, nor one without answer."""
    if call.outcome == "ok":
        return call.args.get("consistency") != "local"
    return call.outcome == "unknown" and facts.may_write(call)


def _to_step(call: Call, found: int | None) -> Step:
    made = facts.made(call) if found is None else found
    required = call.outcome == "ok" or found is not None
    returned = NEVER if call.outcome != "ok" or call.returned is None else call.returned
    return Step(call, required, made, facts.saw(call), call.called, returned, facts.answer(call))


# -- whose revision it is -----------------------------------------------------------------------------------------------------------


def found_revisions(calls: Iterable[Call]) -> dict[int, int]:
    """Return the revisions at which writes without an answer were seen, by the identity of the call.

    Raises:
        Violation: a write was seen at several revisions (X2), or although it is said to have failed (X1).
    """
    calls = list(calls)
    seen: dict[tuple[str, str], set[int]] = {}
    for call in calls:
        for key, pair in facts.sightings(call):
            if pair is not None:
                seen.setdefault((key, pair[facts.VALUE]), set()).add(pair[facts.MOD])
    found: dict[int, int] = {}
    for put, writers in _writers(calls).items():
        revisions = seen.get(put, set())
        if not revisions or len(writers) > 1:
            continue
        (writer,) = writers
        if writer.outcome == "failed":
            raise Violation("X1", f"a write that failed was seen at revision {min(revisions)}: {writer}")
        if writer.outcome == "unknown":
            revisions = revisions | ({found[id(writer)]} if id(writer) in found else set())
            if len(revisions) > 1:
                raise Violation("X2", f"one write was seen at the revisions {sorted(revisions)}: {writer}")
            found[id(writer)] = min(revisions)
    return found


def _writers(calls: Iterable[Call]) -> dict[tuple[str, str], list[Call]]:
    """Return who put which value under which key, where additions can't have made the same value."""
    writers: dict[tuple[str, str], list[Call]] = {}
    counters: set[str] = set()
    for call in calls:
        counters |= {part.args["key"] for part in facts.parts(call) if part.kind == "add"}
        for put in facts.puts(call):
            writers.setdefault(put, []).append(call)
    return {put: who for put, who in writers.items() if put[0] not in counters}


def _seen_pairs(calls: Iterable[Call]) -> dict[tuple[str, int], facts.Pair]:
    """Return what was seen, by key and revision."""
    seen: dict[tuple[str, int], facts.Pair] = {}
    for call in calls:
        for key, pair in facts.sightings(call):
            if pair is not None and seen.setdefault((key, pair[facts.MOD]), pair) != pair:
                raise Violation("T1", f"{key} was seen as {seen[key, pair[facts.MOD]]}, and as {pair}: {call}")
    return seen


def _check_one_each(steps: Iterable[Step]) -> None:
    makers: dict[int, Step] = {}
    for step in steps:
        if step.made is not None and makers.setdefault(step.made, step) is not step:
            raise Violation("T1", f"two calls made revision {step.made}:\n  {makers[step.made].call}\n  {step.call}")


def spare_revisions(steps: Sequence[Step]) -> dict[str, list[int]]:
    """Return of each key the revisions that somebody saw or named and no call is known to have made."""
    made = {step.made for step in steps}
    spare: dict[str, set[int]] = {}
    for step in steps:
        shown = [(key, pair) for key, pair in facts.sightings(step.call) if pair is not None]
        named = [(key, pair[at]) for key, pair in shown for at in (facts.CREATE, facts.MOD)]
        for key, revision in (*named, *facts.guesses(step.call)):
            if revision not in made:
                spare.setdefault(key, set()).add(revision)
    return {key: sorted(revisions) for key, revisions in spare.items()}


# -- when it was --------------------------------------------------------------------------------------------------------------------


class Landmarks:
    """How far the store had come by when: who first returned knowing of a revision, or of a later one.

    Args:
        calls: a history.
    """

    def __init__(self, calls: Iterable[Call]) -> None:
        answered = [(_newest(call), call.returned, call) for call in calls if call.outcome == "ok" and call.returned is not None]
        answered.sort(key=lambda mark: mark[:2])
        self._revisions = [revision for revision, _, _ in answered]
        self._first: list[tuple[float, Call | None]] = [(NEVER, None)]
        for _, returned, call in reversed(answered):
            self._first.append(min(self._first[-1], (returned, call), key=lambda end: end[0]))
        self._first.reverse()

    @property
    def last(self) -> int:
        """The last revision that anybody knew of."""
        return self._revisions[-1] if self._revisions else 0

    def reached(self, revision: int) -> tuple[float, Call | None]:
        """Return when somebody first knew of this revision or a later one, and who."""
        return self._first[bisect_left(self._revisions, revision)]

    def passed(self, revision: int) -> tuple[float, Call | None]:
        """Return when somebody first knew of a later revision, and who."""
        return self._first[bisect_right(self._revisions, revision)]


def _newest(call: Call) -> int:
    """Return the newest revision that an answered call tells of."""
    told = facts.made(call) or facts.saw(call) or 0
    return max([told, *(int(pair[facts.MOD]) for _, pair in facts.sightings(call) if pair is not None)])


def _clip(steps: Iterable[Step], landmarks: Landmarks) -> None:
    """Let each step end when somebody knew of it, or of what came later."""
    for step in steps:
        if step.place is None:
            continue
        bound, witness = landmarks.reached(step.place) if step.made is not None else landmarks.passed(step.place)
        if bound < step.returned:
            step.returned, step.known_by = bound, witness
        if step.returned < step.called:
            raise Violation("T1", f"revision {step.place} is older than what had returned before its call:\n  {witness}\n  {step.call}")


def check_gaps(steps: Sequence[Step], landmarks: Landmarks) -> None:
    """Check that every revision may have been made by one of the calls, where nobody else wrote.

    Raises:
        Violation: more are missing than there are writes that nobody answered and that were called in time.
    """
    unknown = sorted(step.called for step in steps if not step.required)
    made = sorted({1, *(step.made for step in steps if step.made is not None), landmarks.last + 1})
    missing = (revision for before, behind in pairwise(made) for revision in range(before + 1, behind))
    for count, revision in enumerate(missing, 1):
        reached, witness = landmarks.reached(revision)
        if bisect_right(unknown, reached) < count:
            raise Violation("T1", f"no call made revision {revision}, which had passed when this returned: {witness}")
