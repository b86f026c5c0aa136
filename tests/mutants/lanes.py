"""Who finds a seeded bug: the simulator, seed after seed, or the exhaustive search.

What finds it must find nothing without it: a seed counts only if it passes in the code as it is.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from types import FrameType
from typing import NamedTuple

import pytest
from attrs import frozen
from catalogue import CATALOGUE
from mutant import SEARCH, SIMULATOR, Mutant

from replkv.errors import InvariantBroken
from replkv.testing.history import Violation
from replkv.testing.search import find
from replkv.testing.simulation import simulate

FIRST_SEED = 1000
HANGS_AFTER = 3600
"""Seconds."""
STATES = 150_000
"""States of a small world that are looked at."""
ACCIDENT = "please report it"
"""What a member says of an error that nobody foresaw: a mutant that leads there is broken itself, and teaches nothing."""


class Found(NamedTuple):
    """``needed``: how many seeds were run, or states seen."""

    rule: str
    text: str
    needed: int


@frozen
class Verdict:
    """What became of a mutant; ``lane`` is empty if it survived."""

    number: int
    lane: str = ""
    rule: str = ""
    text: str = ""
    needed: int = 0
    seconds: float = 0.0


class BrokenMutantError(Exception):
    """A mutant fails for a reason that has nothing to do with its bug."""


def judge_in_time(number: int, limit: int) -> Verdict:
    """Judge a mutant in a process of its own; one that is broken, hangs or breaks the judge is as good as one that survives."""

    def hang(_number: int, _frame: FrameType | None) -> None:
        raise BrokenMutantError(f"it takes longer than {HANGS_AFTER} s")

    began = time.monotonic()
    signal.signal(signal.SIGALRM, hang)
    signal.alarm(HANGS_AFTER)
    try:
        return judge(number, limit)
    except BaseException as error:  # noqa: BLE001  # a simulated crash is no Exception; and the others must have their turn
        return Verdict(number, text=f"{type(error).__name__}: {error}", seconds=time.monotonic() - began)
    finally:
        signal.alarm(0)


def judge(number: int, limit: int) -> Verdict:
    """Try to find a seeded bug.

    Args:
        number: of the mutant.
        limit: seeds to try.

    Raises:
        BrokenMutantError: it is none.
    """
    mutant, began = CATALOGUE[number], time.monotonic()
    for lane in mutant.lanes:
        found = LANES[lane](mutant, limit)
        if found is not None:
            return Verdict(number, lane, found.rule, found.text, found.needed, time.monotonic() - began)
    return Verdict(number, seconds=time.monotonic() - began)


# -- the simulator -----------------------------------------------------------------------------------------------------------------------


def by_simulator(mutant: Mutant, limit: int) -> Found | None:
    for needed in range(1, limit + 1):
        seed = FIRST_SEED + needed - 1
        with pytest.MonkeyPatch.context() as patch:
            mutant.apply(patch)
            failure = failure_of(seed)
        if failure is not None:
            rule, text = failure
            if ACCIDENT in text:
                raise BrokenMutantError(f"{mutant.label}, seed {seed}: {text}")
            if (other := failure_of(seed)) is not None:
                raise BrokenMutantError(f"seed {seed} fails without {mutant.label} as well: {other}")
            return Found(rule, f"seed {seed}: {text}", needed)
    return None


def failure_of(seed: int) -> tuple[str, str] | None:
    """Run a seed; return the rule that was broken, and how."""
    try:
        simulate(seed)
    except Violation as violation:
        return violation.rule, str(violation)
    except InvariantBroken as broken:
        return "invariant", str(broken)
    return None


# -- the search --------------------------------------------------------------------------------------------------------------------------


def by_search(mutant: Mutant, _limit: int) -> Found | None:
    with pytest.MonkeyPatch.context() as patch:
        mutant.apply(patch)
        trace = find(mutant.profile, STATES)
    if trace is None:
        return None
    if (other := find(mutant.profile, trace.states)) is not None:
        raise BrokenMutantError(f"{mutant.profile} fails without {mutant.label} as well: {other}")
    return Found(trace.rule, str(trace), trace.states)


LANES: dict[str, Callable[[Mutant, int], Found | None]] = {SIMULATOR: by_simulator, SEARCH: by_search}
