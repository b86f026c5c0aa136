"""A fuzzer of our own, for where atheris is not installed: it changes bytes at random, and goes on from those that led to a new outcome."""

from __future__ import annotations

import random
import time
import traceback
from collections.abc import Callable, Iterable

import budget
from attrs import Factory, define
from targets import Target

MEASURED = 2000
"""Of so many inputs one is measured for memory: that takes a hundred times as long as reading it."""


@define
class Findings:
    """What came of a run: how often something was read, the smallest bytes for every outcome, the first ones for what must not happen."""

    executions: int = 0
    outcomes: dict[str, bytes] = Factory(dict)
    failures: dict[str, bytes] = Factory(dict)


def fuzz(target: Target, corpus: Iterable[bytes], rng: random.Random, go_on: Callable[[int], bool]) -> Findings:
    """Change the bytes of a corpus until there is enough of it.

    Args:
        target: reads them.
        corpus: what to begin with.
        rng: draws the changes.
        go_on: tells, by the number of executions so far, whether to go on.

    Returns:
        What was found.
    """
    found = Findings()
    seeds = [*target.seeds(), *corpus]
    waiting = list(seeds)
    pool = list(seeds)
    while go_on(found.executions):
        data = waiting.pop() if waiting else target.mutant(rng, rng.choice(pool), seeds)
        for variant in target.variants(data):
            found.executions += 1
            if _is_new(target, variant, found, measure=found.executions % MEASURED == 0):
                pool.append(variant)
    return found


def _is_new(target: Target, data: bytes, found: Findings, *, measure: bool) -> bool:
    """Read bytes and tell whether that ended in a way not seen before."""
    try:
        ended = outcome(target, data, measure=measure)
    except Exception as error:  # noqa: BLE001  # that is what is looked for
        place = traceback.extract_tb(error.__traceback__)[-1]
        return found.failures.setdefault(f"{type(error).__name__} at {place.filename}:{place.lineno}: {error}", data) is data
    known = found.outcomes.get(ended)
    if known is None or len(data) < len(known):
        found.outcomes[ended] = data
    return known is None


def outcome(target: Target, data: bytes, *, measure: bool) -> str:
    """Read bytes and return how that ended; with ``measure``, or where it took long, check what it cost."""
    size = target.size(data)
    began = time.process_time()
    ended = target.attempt(data)
    if measure or time.process_time() - began > budget.allowance(size).seconds:
        budget.check(lambda: target.only_read(data), size)
    return ended
