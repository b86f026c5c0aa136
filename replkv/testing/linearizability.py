"""Is what clients of real processes saw linearizable?  Judged from outside, by a search for an order of the calls that explains it.

If the calls are all that was written, the store is judged as a whole, every revision counted.  Else, or if that takes long, keys are
judged one by one, unless a call joins them (locality; Herlihy and Wing 1990); what revisions say about the order across keys is then in
the bounds that ``deduction`` gives.
"""

from __future__ import annotations

import time
from contextlib import suppress
from typing import TYPE_CHECKING

from attrs import evolve

from replkv.testing import facts
from replkv.testing.blackbox import Call
from replkv.testing.deduction import NEVER, Landmarks, check_gaps, to_steps
from replkv.testing.drawing import draw_stuck
from replkv.testing.history import Violation
from replkv.testing.ordering import Search, Undecided, joined
from replkv.testing.specification import Step

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

__all__ = ["Undecided", "check_history"]


def check_history(calls: Iterable[Call], *, seconds: float = 60.0, complete: bool = True) -> None:
    """Check that a history is linearizable: all calls can be put in one order that explains every answer.

    Args:
        calls: of all processes, in any order.  The store was empty before.
        seconds: how long to try.
        complete: nobody else wrote to the store: then every revision was made by one of these calls.

    Raises:
        Violation: it is not; the text shows the keys, the calls that can be ordered and those that can't be placed.
        Undecided: a Violation too: nobody knows.
    """
    calls, now = list(calls), time.monotonic()
    landmarks = Landmarks(calls)
    steps = to_steps(calls, landmarks)
    whole = None
    if complete:
        everything = steps + ends_of_leases(steps)
        check_gaps(everything, landmarks)
        keys = sorted({key for step in steps for key in facts.keys_of(step.call)})
        whole = Search(keys, everything, now + seconds / 2, whole=True)
        with suppress(Undecided):  # then keys are judged one by one, and of revisions that nobody seems to have made only the number counts
            if whole.run():
                return
    refuted, why = whole is not None and whole.decided, "nobody can have made a revision that was made"
    try:
        _check_one_by_one(steps, now + seconds)
    except Undecided:
        if not refuted:
            raise
        why = "no order explains all answers"
    if whole is not None and refuted:
        raise Violation("T1", f"{why}: {_drawn(whole)}")


def _check_one_by_one(steps: Sequence[Step], deadline: float) -> None:
    for keys, group in components(steps):
        search = Search(keys, group, deadline)
        if not search.run():
            raise Violation("T1", _explain(search, group, deadline))


# -- keys that can be judged by themselves --------------------------------------------------------------------------------------------


def components(steps: Sequence[Step]) -> Iterator[tuple[list[str], list[Step]]]:
    """Yield the keys that belong together because one call names several of them, with the steps that are about them."""
    keys = {key for step in steps for key in facts.keys_of(step.call)}
    groups = joined([_all_keys(step.call, keys) for step in steps])
    revocations = [step for step in steps if step.call.kind == "revoke"]
    for group in sorted(set(groups) - {()}):
        own = [step for step, together in zip(steps, groups, strict=True) if together == group]
        leases = {lease for step in own for lease in facts.leases_of(step.call)}
        yield list(group), own + ends_of_leases(own) + [step for step in revocations if step.call.args["lease"] in leases]


def _all_keys(call: Call, keys: Iterable[str]) -> set[str]:
    return facts.keys_of(call) | {key for prefix in facts.prefixes_of(call) for key in keys if key.startswith(prefix)}


def ends_of_leases(steps: Iterable[Step]) -> list[Step]:
    """Return for each lease the step by which it may have ended by itself, with all its keys."""
    begun: dict[object, float] = {}
    for step in steps:
        for lease in facts.leases_of(step.call):
            begun[lease] = min(begun.get(lease, NEVER), step.called)
    expiries = [Call("time", "revoke", {"lease": lease}, int(called)) for lease, called in begun.items()]
    return [Step(call, False, None, None, call.called, NEVER, None) for call in expiries]


# -- what is wrong --------------------------------------------------------------------------------------------------------------------


def _explain(search: Search, steps: Sequence[Step], deadline: float) -> str:
    """Return a text that shows why a search found no order, with as few calls as there is time to find: what began later is left out."""
    ends = sorted({step.returned for step in steps if step.required})
    legal, illegal = -1, len(ends) - 1
    with suppress(Undecided):
        while illegal - legal > 1:
            middle = (legal + illegal) // 2
            shorter = Search(search.rules.keys, _until(ends[middle], steps), deadline)
            if shorter.run():
                legal = middle
            else:
                illegal, search = middle, shorter
    return _drawn(search)


def _drawn(search: Search) -> str:
    return draw_stuck(search.rules.keys, [step for step, _ in search.furthest], search.objections)


def _until(moment: float, steps: Iterable[Step]) -> list[Step]:
    """Return what a history was at a moment: calls under way may have taken effect, or not yet."""
    begun = [step for step in steps if step.called <= moment]
    done = [step for step in begun if step.returned <= moment]
    under_way = [step for step in begun if step.returned > moment and (step.made is not None or step.answer is None)]
    return done + [evolve(step, required=False, returned=NEVER) for step in under_way]
