"""Would the tests notice?  Bugs are put in on purpose: of four each day those that are found quickly; ``make mutants`` tries all."""

from __future__ import annotations

import os

import pytest
from catalogue import CATALOGUE, ROWS, UNLIKE, whose_turn
from lanes import Verdict, judge, judge_in_time
from mutant import MUTANTS, SEARCH, SIMULATOR, Mutant
from table import summary

from replkv.testing.disk import SimulatedCrash

DAY = int(os.environ["MUTANTS_DAY"])  # which conftest.py sets to today's, if nobody has
QUICK = 60
"""Seeds within which a bug is found that is seeded here; the others are left to ``make mutants``."""


TODAY = [mutant for mutant in whose_turn(DAY, [*CATALOGUE.values()]) if not mutant.slow]


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


@pytest.mark.parametrize("error", [SimulatedCrash(), ZeroDivisionError("by chance"), SystemExit(3)])
def test_a_bug_that_breaks_the_judge_is_one_that_nobody_found_and_the_others_go_on(
    monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    def break_down(seed: int) -> None:
        raise error

    monkeypatch.setattr("lanes.simulate", break_down)
    number = next(number for number, mutant in CATALOGUE.items() if mutant.lanes[0] == SIMULATOR)
    verdict = judge_in_time(number, QUICK)
    assert verdict.lane == ""
    assert verdict.text == f"{type(error).__name__}: {error}"


def test_the_summary_says_what_the_simulator_was_never_asked_to_find() -> None:
    first = {lane: [number for number, mutant in CATALOGUE.items() if mutant.lanes[0] == lane] for lane in (SIMULATOR, SEARCH)}
    seeds = [Verdict(number, SIMULATOR, needed=needed) for number, needed in zip(first[SIMULATOR][:3], (1, 2, 9), strict=True)]
    states = [Verdict(number, SEARCH, needed=70_000) for number in (first[SIMULATOR][3], *first[SEARCH][:2])]
    said = summary([*seeds, *states, Verdict(first[SIMULATOR][4])])
    assert "6 of 7 were found: 3 by the simulator, after 2 seeds in the median and 9 at most" in said
    assert "3 by the search, 2 of which the simulator was never asked to find, 1 of which it had not found." in said
