"""The table of seeded bugs as Markdown, made of a run's verdicts."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence

from catalogue import CATALOGUE, ROWS, UNLIKE
from lanes import Verdict
from mutant import SEARCH, SIMULATOR

HEAD = """\
# Seeded bugs

A test that has never failed proves little.  So known bugs are put into the real code, one at a time, and the simulator (`python -m
replkv.testing`) or the exhaustive search (`python -m replkv.testing.search`) has to find each, without the help of any other test.
The first {rows} were met in other systems; the further ones are other sides of the same, or were made up.

`make mutants` seeds all of them and writes this page; every run of the tests seeds a dozen, others each day.  What finds a bug has to pass
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


def summary(verdicts: Sequence[Verdict]) -> str:
    """Return what a run came to, in a sentence."""
    seeds = [verdict.needed for verdict in verdicts if verdict.lane == SIMULATOR]
    states = sum(verdict.lane == SEARCH for verdict in verdicts)
    found = sum(bool(verdict.lane) for verdict in verdicts)
    median, most = statistics.median(seeds or [0]), max(seeds, default=0)
    by_simulator = f"{len(seeds)} by the simulator, after {median:g} seeds in the median and {most} at most"
    return f"{found} of {len(verdicts)} were found: {by_simulator}; {states} by the search."


def _row(verdict: Verdict) -> str:
    mutant = CATALOGUE[verdict.number]
    after = f"{verdict.needed:,} {'seeds' if verdict.lane == SIMULATOR else 'states'}" if verdict.lane else ""
    after = "1 seed" if after == "1 seeds" else after
    found = f"{verdict.lane}, {verdict.rule}" if verdict.lane else "**nobody**"
    return f"| {mutant.label} | {mutant.text} | {mutant.source} | {found} | {after} |\n"
