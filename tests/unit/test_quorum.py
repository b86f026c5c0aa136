"""The arithmetic of majorities, against brute force over every configuration of up to five voters."""

from __future__ import annotations

import random
from itertools import combinations, product

import pytest

from replkv import quorum
from replkv.errors import InvariantBroken
from replkv.messages import Configuration

NAMES = "abcde"
SUBSETS = [subset for size in range(6) for subset in combinations(NAMES, size)]
HALVES = [subset for subset in SUBSETS if subset]


def majority(half: tuple[str, ...], names: set[str]) -> bool:
    return len(names & set(half)) > len(half) / 2


def decides(voters: tuple[str, ...], outgoing: tuple[str, ...], names: set[str]) -> bool:
    return majority(voters, names) and (not outgoing or majority(outgoing, names))


def all_configurations() -> list[Configuration]:
    return [Configuration(voters, outgoing, ("z",)) for voters in HALVES for outgoing in SUBSETS]


def test_won_and_lost_agree_with_brute_force_for_all_votes() -> None:
    for configuration in all_configurations():
        for names in map(set, SUBSETS):
            expected = decides(configuration.voters, configuration.outgoing, names)
            assert quorum.won(configuration, names | {"z"}) == expected
            assert quorum.lost(configuration, names | {"z"}) == (
                not decides(configuration.voters, configuration.outgoing, set(NAMES) - names)
            )


def test_agreed_is_the_highest_number_that_a_deciding_set_has_reached() -> None:
    rng = random.Random(7)
    for configuration in all_configurations():
        for _ in range(6):
            match = {name: rng.randint(0, 6) for name in NAMES} | {"z": 99}
            reached = [n for n in range(7) if decides(configuration.voters, configuration.outgoing, {x for x in NAMES if match[x] >= n})]
            assert quorum.agreed(configuration, match.__getitem__) == max(reached)


def test_agreed_of_three_for_all_numbers() -> None:
    configuration = Configuration(("a", "b", "c"))
    for numbers in product(range(4), repeat=3):
        assert quorum.agreed(configuration, dict(zip("abc", numbers, strict=True)).__getitem__) == sorted(numbers)[1]


def test_nobody_wins_and_nothing_is_agreed_without_voters() -> None:
    assert not quorum.won(Configuration(()), {"a"})
    with pytest.raises(InvariantBroken, match="without voters"):
        quorum.agreed(Configuration(()), len)


def test_every_majority_of_a_configuration_meets_every_majority_of_what_may_follow_it() -> None:
    small = [subset for subset in HALVES if set(subset) <= set("abcd")]
    configurations = [Configuration(v, o) for v in small for o in [(), *small]]
    deciding = {id(c): [s for s in map(set, SUBSETS) if s <= set("abcd") and decides(c.voters, c.outgoing, s)] for c in configurations}
    followed = 0
    for old, new in product(configurations, repeat=2):
        if quorum.may_follow(old, new):
            followed += 1
            assert all(one & other for one in deciding[id(old)] for other in deciding[id(new)]), (old, new)
    assert followed > 300


def test_what_may_follow() -> None:
    abc = Configuration(("a", "b", "c"), members={"a": 1, "b": 2, "c": 3})
    assert quorum.may_follow(abc, Configuration(("a", "b"), learners=("c",), members={"a": 1, "b": 2, "c": 3}))
    assert quorum.may_follow(abc, Configuration(("a", "d"), outgoing=("a", "b", "c"), members={"a": 1, "b": 2, "c": 3, "d": 4}))
    assert quorum.may_follow(abc, Configuration(("a", "b"), learners=("c",), members={"a": 1, "b": 2, "c": 9})), (
        "a new incarnation learns first"
    )
    assert not quorum.may_follow(abc, Configuration(("a", "b", "c"), members={"a": 1, "b": 2, "c": 9})), (
        "a voter can't be swapped for its heir"
    )
    assert not quorum.may_follow(abc, Configuration(("a",), members={"a": 1}))
    assert not quorum.may_follow(abc, Configuration(()))
    assert not quorum.may_follow(abc, Configuration(("a", "b", "c"), learners=("c",), members={"a": 1, "b": 2, "c": 3}))
