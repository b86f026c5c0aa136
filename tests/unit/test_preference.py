"""When a leader makes way for a member of a higher priority: after a while, for one that has been fit as long, and not again and again."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise

import pytest

from replkv.preference import DOUBLINGS, Preference

PATIENCE = 6.0
STEP = 0.5


def attempts(preference: Preference, term: int, fit: Mapping[str, int], since: float, until: float) -> list[tuple[float, str]]:
    """Return when, and for whom, a leader makes way that goes on leading, because nothing comes of it."""
    found = []
    for step in range(int((until - since) / STEP)):
        now = since + step * STEP
        if (heir := preference.heir(term, fit, now)) is not None:
            found.append((now, heir))
    return found


def test_a_leader_makes_way_once_it_has_led_for_a_while() -> None:
    assert attempts(Preference(0, PATIENCE), 1, {"b": 5, "c": 0}, 100.0, 110.0) == [(106.0, "b")]


@pytest.mark.parametrize("fit", [{}, {"b": 3, "c": 3}, {"b": 2, "c": 0}])
def test_nobody_makes_way_for_who_is_not_wanted_more(fit: dict[str, int]) -> None:
    assert attempts(Preference(3, PATIENCE), 1, fit, 0.0, 1000.0) == []


def test_the_highest_priority_wins_and_among_equals_the_first_by_name() -> None:
    assert attempts(Preference(1, PATIENCE), 1, {"d": 7, "b": 2, "c": 7}, 0.0, 8.0) == [(6.0, "c")]


def test_who_has_just_become_fit_has_to_stay_so_first() -> None:
    preference = Preference(0, PATIENCE)
    assert attempts(preference, 1, {"b": 1}, 0.0, 5.0) == []
    assert attempts(preference, 1, {}, 5.0, 10.0) == []  # it was restarted, say
    assert attempts(preference, 1, {"b": 1}, 10.0, 20.0) == [(16.0, "b")]


def test_a_lower_one_that_is_fit_is_better_than_a_higher_one_that_is_not_yet() -> None:
    preference = Preference(0, PATIENCE)
    assert attempts(preference, 1, {"b": 1}, 0.0, 5.0) == []
    assert attempts(preference, 1, {"b": 1, "c": 9}, 5.0, 7.0) == [(6.0, "b")]


def test_what_comes_to_nothing_is_tried_again_after_twice_the_time() -> None:
    times = [when for when, _ in attempts(Preference(0, PATIENCE), 1, {"b": 1}, 0.0, 100.0)]
    assert times == [6.0, 18.0, 42.0, 90.0]


def test_a_member_that_loses_the_leadership_again_and_again_gets_it_less_and_less_often() -> None:
    """It leads for ten seconds each time, then this member is elected again."""
    preference, now, tried = Preference(0, PATIENCE), 0.0, []
    for term in range(1, 1000, 2):
        while now < 9_000.0 and preference.heir(term, {"b": 1}, now) is None:
            now += STEP
        tried.append(now)
        now += 10.0
        if now >= 9_000.0:
            break
    pauses = [after - before for before, after in pairwise(tried)]
    longest = PATIENCE * 2**DOUBLINGS
    assert pauses[:3] == [16.0, 24.0, 48.0]
    assert pauses[-2] == pytest.approx(longest, abs=1)
    assert len(tried) <= DOUBLINGS + 9_000 / longest + 2


def test_a_successor_that_stayed_for_long_is_trusted_again() -> None:
    preference = Preference(0, PATIENCE)
    assert len(attempts(preference, 1, {"b": 1}, 0.0, 100.0)) == 4
    later = 100.0 + 3 * PATIENCE * 2**DOUBLINGS
    assert [when for when, _ in attempts(preference, 3, {"b": 1}, later, later + 20.0)] == [later + 6.0, later + 18.0]
