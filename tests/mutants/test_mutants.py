"""Would the tests notice?  Bugs are put in on purpose, a dozen each day; ``make mutants`` does so with all of them."""

from __future__ import annotations

import os
from datetime import UTC, datetime

import pytest
from catalogue import CATALOGUE, ROWS, UNLIKE, dozen
from lanes import judge
from mutant import MUTANTS, Mutant

DAY = int(os.environ.get("MUTANTS_DAY", datetime.now(UTC).date().toordinal()))
QUICK = 60
"""Seeds within which a bug is found that is seeded here; the others are left to ``make mutants``."""


TODAY = [mutant for mutant in dozen(DAY, [*CATALOGUE.values()]) if not mutant.slow]


@pytest.mark.parametrize("mutant", TODAY, ids=lambda mutant: mutant.label)
def test_a_seeded_bug_is_found(mutant: Mutant) -> None:
    verdict = judge(mutant.number, QUICK)
    assert verdict.lane, f"{mutant.text}: nothing found it; again: python tests/mutants --only {mutant.label} (day {DAY})"


def test_all_bugs_are_told_apart() -> None:
    assert len({mutant.number for mutant in MUTANTS}) == len({mutant.text for mutant in MUTANTS}) == len(MUTANTS) == len(CATALOGUE)


def test_every_bug_that_others_had_is_seeded_or_said_to_be_impossible() -> None:
    seeded = [number for number in CATALOGUE if number in ROWS]
    assert sorted([*seeded, *UNLIKE]) == list(ROWS)
    assert [CATALOGUE[number].label for number in seeded if not CATALOGUE[number].source] == []
