"""The table of seeded bugs as Markdown, made of a run's verdicts."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence

from attrs import frozen
from catalogue import CATALOGUE, ROWS, UNLIKE
from lanes import Verdict
from mutant import SEARCH, SIMULATOR

HEAD = """\
# Seeded bugs

A test that has never failed proves little.  So known bugs are put into the real code, one at a time, and the simulator (`python -m
replkv.testing`) or the exhaustive search (`python -m replkv.testing.search`) has to find each, without the help of any other test.
The first {rows} were met in other systems; the further ones are other sides of the same, or were made up.

`make mutants` seeds all of them and writes this page.  Every run of the tests takes four, others each day, and seeds those of them that
are found quickly; one for which the simulator needs more than some dozen seeds is left to `make mutants`.  What finds a bug has to pass
without it.  The code of each is a few lines in `tests/mutants/`, in a function of the name that is shown here.

{summary}
"""
COLUMNS = """\
| | seeded bug | met in | found by | after |
|---|---|---|---|---|
"""
WITHOUT = """\

## What replkv can't have

| | bug | met in | why not |
|---|---|---|---|
"""


def page(verdicts: Mapping[int, Verdict]) -> str:
    """Return the page.

    Args:
        verdicts: of all mutants.
    """
    known = "".join(map(_row, (verdicts[number] for number in CATALOGUE)))
    unlike = "".join(f"| M{number:02d} | {bug} | {source} | {why} |\n" for number, (bug, source, why) in sorted(UNLIKE.items()))
    return HEAD.format(rows=len(ROWS), summary=summary([*verdicts.values()])) + "\n" + COLUMNS + known + WITHOUT + unlike


@frozen
class Tally:
    """What a run came to.

    Args:
        seeded: bugs.
        survivors: those that nobody found.
        by_the_simulator: how many it found.
        median_seeds: that it needed for these; of what it did not find, or was not asked to, nothing is counted here.
        most_seeds: likewise.
        by_the_search: how many it found.
        never_simulated: how many of these the simulator was not asked to find, because the search was first.
    """

    seeded: int
    survivors: list[str]
    by_the_simulator: int
    median_seeds: float
    most_seeds: int
    by_the_search: int
    never_simulated: int


def tally(verdicts: Sequence[Verdict]) -> Tally:
    """Return what a run came to, in numbers."""
    seeds = [verdict.needed for verdict in verdicts if verdict.lane == SIMULATOR]
    searched = [CATALOGUE[verdict.number] for verdict in verdicts if verdict.lane == SEARCH]
    return Tally(
        seeded=len(verdicts),
        survivors=sorted(CATALOGUE[verdict.number].label for verdict in verdicts if not verdict.lane),
        by_the_simulator=len(seeds),
        median_seeds=statistics.median(seeds or [0]),
        most_seeds=max(seeds, default=0),
        by_the_search=len(searched),
        never_simulated=sum(mutant.lanes[0] == SEARCH for mutant in searched),
    )


def summary(verdicts: Sequence[Verdict]) -> str:
    """Return what a run came to, in sentences."""
    came = tally(verdicts)
    in_vain = came.by_the_search - came.never_simulated
    simulator = f"{came.by_the_simulator} by the simulator, after {came.median_seeds:g} seeds in the median and {came.most_seeds} at most"
    search = f"{came.by_the_search} by the search, {came.never_simulated} of which the simulator was never asked to find"
    found = f"{came.seeded - len(came.survivors)} of {came.seeded} were found: {simulator}; {search}, {in_vain} of which it had not found."
    return f"{found}  The median is of those alone that the simulator found."


def _row(verdict: Verdict) -> str:
    mutant = CATALOGUE[verdict.number]
    after = f"{verdict.needed:,} {'seeds' if verdict.lane == SIMULATOR else 'states'}" if verdict.lane else ""
    after = "1 seed" if after == "1 seeds" else after
    found = f"{verdict.lane}, {verdict.rule}" if verdict.lane else "**nobody**"
    return f"| {mutant.label} | {mutant.text} | {mutant.source} | {found} | {after} |\n"
