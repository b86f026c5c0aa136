"""``steering.py``: from every configuration to every roster, step by step, and never by a step that loses what was promised."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cache, partial

import pytest
from attrs import evolve, frozen
from hypothesis import given, settings
from hypothesis import strategies as st

from replkv.messages import EXPECTED, Application, Configuration
from replkv.quorum import may_follow, won
from replkv.roster import Roster, Wanted
from replkv.steering import is_settled, next_step

NAMES = "abcd"


@frozen
class Followers:
    """Who answers, and who has almost all of the log."""

    alive: frozenset[str] = frozenset(NAMES)
    caught_up: frozenset[str] = frozenset(NAMES)
    unknown: frozenset[str] = frozenset()  # had no time to answer yet

    def is_alive(self, name: str) -> bool:
        return name in self.alive | self.unknown

    def has_answered(self, name: str) -> bool:
        return name in self.alive

    def is_caught_up(self, name: str) -> bool:
        return name in self.alive & self.caught_up


ALL = Followers()


def only(alive: str, caught_up: str = NAMES) -> Followers:
    return Followers(frozenset(alive), frozenset(caught_up))


def configuration(
    voters: str,
    learners: str = "",
    outgoing: str = "",
    incarnations: Mapping[str, int] | None = None,
    addresses: Mapping[str, str] | None = None,
) -> Configuration:
    names = sorted({*voters, *learners, *outgoing})
    members = {name: (incarnations or {}).get(name, 1) for name in names}
    return Configuration(tuple(voters), tuple(outgoing), tuple(learners), members, dict(addresses or {}))


def roster(voters: str, learners: str = "") -> Roster:
    return Roster({**{name: Wanted(True, "") for name in voters}, **{name: Wanted(False, "") for name in learners}})


def came(*members: tuple[str, int], at: str = "") -> list[Application]:
    return [Application(name, incarnation, at) for name, incarnation in members]


def subsets(names: Iterable[str]) -> list[str]:
    names = list(names)
    return ["".join(part) for size in range(len(names) + 1) for part in itertools.combinations(names, size)]


def check_step(now: Configuration, step: Configuration, seen: Followers) -> None:
    """Check what must hold of any step, whatever is wanted."""
    assert may_follow(now, step), (now, step)
    assert step != now
    assert step.voters
    assert {*step.members} == {*step.names}
    assert {*step.addresses} <= {*step.members}
    assert [*step.voters] == sorted(step.voters)
    assert [*step.learners] == sorted(step.learners)
    assert not {*step.learners} & step.all_voters
    for name in step.all_voters:
        assert step.members[name] == now.members[name] != EXPECTED, "nobody votes who has not come, or came after the others had begun"
    for name in {*step.voters} - now.all_voters:
        assert seen.is_caught_up(name), f"{name} got a vote before it had the log"
    if not now.outgoing and not step.outgoing:
        assert len({*now.voters} ^ {*step.voters}) <= 1


def decided(
    now: Configuration, wanted: Roster, newcomers: Callable[[Configuration], list[Application]], seen: Followers
) -> list[Configuration]:
    """Take steps until there is none to take; return all configurations, the first one included."""
    path = [now]
    while (step := next_step(path[-1], wanted, newcomers(path[-1]), seen)) is not None:
        check_step(path[-1], step, seen)
        path.append(step)
        assert len(path) < 12, path
    return path


def expected_ones(now: Configuration) -> list[Application]:
    """Whoever is waited for comes."""
    return came(*((name, 2) for name, incarnation in now.members.items() if incarnation == EXPECTED))


# -- every small world --------------------------------------------------------------------------------------------------------------------


def worlds() -> Iterator[Configuration]:
    """Every configuration of up to four names, joint ones included, with learners that have come or have yet to come."""
    for voters in subsets(NAMES)[1:]:
        rest = [name for name in NAMES if name not in voters]
        for learners in subsets(rest):
            for absent in subsets(learners):
                yield configuration(voters, learners, incarnations=dict.fromkeys(absent, EXPECTED))
        for outgoing in subsets(NAMES)[1:]:
            if outgoing != voters:
                for learners in subsets(set(rest) - set(outgoing)):
                    yield configuration(voters, "".join(sorted(learners)), outgoing)


@cache
def all_worlds() -> tuple[Configuration, ...]:
    return tuple(worlds())


def rosters() -> Iterator[Roster]:
    """Every roster of up to four, but for how they are called: with each of these goes every world."""
    for voters in range(1, 5):
        for learners in range(5 - voters):
            yield roster(NAMES[:voters], NAMES[voters : voters + learners])


def test_from_every_configuration_to_every_roster_in_a_few_legal_steps() -> None:
    tried = 0
    for now, wanted in itertools.product(all_worlds(), rosters()):
        *_, last = path = decided(now, wanted, expected_ones, ALL)
        assert is_settled(last, wanted), path
        assert last.names == tuple(wanted), path
        assert {*last.voters} == wanted.voters, path
        assert EXPECTED not in last.members.values(), path
        assert len(path) <= 7, path
        tried += 1
    assert tried > 5000


def test_while_nobody_comes_no_live_voter_goes_that_is_not_relieved() -> None:
    """All are alive, and those who are expected never come: whoever votes goes on to, until the last one that is wanted is there."""
    for now, wanted in itertools.product(all_worlds(), rosters()):
        *_, last = decided(now, wanted, lambda _: [], ALL)
        assert is_settled(last, wanted)
        missing = {name for name in wanted.voters if last.members[name] == EXPECTED}
        if missing and not now.outgoing:
            assert {*now.voters} <= {*last.voters}
        if not missing:
            assert {*last.voters} == wanted.voters


@pytest.mark.parametrize("dead", subsets(NAMES)[1:-1])
def test_with_any_members_dead_every_step_can_still_be_decided_and_when_they_are_back_all_goes_on(dead: str) -> None:
    """A step whose voters can't decide it would be the last one there is: a cluster that was at work stood still for ever."""
    seen = only("".join(set(NAMES) - set(dead)))
    for now, wanted in itertools.product(all_worlds(), rosters()):
        if won(now, seen.alive):  # else nobody leads, and nobody asks for a step
            *_, halted = path = decided(now, wanted, expected_ones, seen)
            assert all(won(step, seen.alive) for step in path), path
            *_, last = decided(halted, wanted, expected_ones, ALL)
            assert (last.names, {*last.voters}) == (tuple(wanted), wanted.voters)


def comes_back_empty(name: str, now: Configuration) -> list[Application]:
    return came((name, 2)) if now.members[name] == 1 else []


def test_every_dead_member_that_comes_back_empty_gets_its_part_back_as_another_incarnation() -> None:
    """It is the same name, and somebody else: the old incarnation loses its vote first, the new one gets it when it has the log."""
    for now in all_worlds():
        if now.outgoing or EXPECTED in now.members.values():
            continue
        wanted = Roster.of(now)
        for name in now.names:
            rest = "".join(set(NAMES) - {name})
            if not won(now, set(rest)):
                continue
            away = decided(now, wanted, partial(comes_back_empty, name), only(rest))
            assert away[-1].members[name] == 2
            assert name in away[-1].learners
            back = decided(away[-1], wanted, lambda _: [], ALL)
            assert back[-1] == evolve(now, members={**now.members, name: 2})


# -- one after the other ----------------------------------------------------------------------------------------------------------------


def test_who_is_wanted_and_unknown_is_named_first_with_the_address_it_was_said_to_have() -> None:
    wanted = Roster({"a": Wanted(True, "tcp://elsewhere:1"), "b": Wanted(True, "tcp://b:1"), "c": Wanted(False, "")})
    step = next_step(configuration("a", addresses={"a": "tcp://a:1"}), wanted, [], ALL)
    assert step == Configuration(("a",), (), ("b", "c"), {"a": 1, "b": EXPECTED, "c": EXPECTED}, {"a": "tcp://a:1", "b": "tcp://b:1"})


def test_who_has_come_is_let_in_where_it_came_from_and_votes_when_it_has_the_log() -> None:
    named = configuration("a", "b", incarnations={"b": EXPECTED}, addresses={"b": "tcp://said:1"})
    step = next_step(named, roster("ab"), came(("b", 7), at="tcp://b:1"), only("a"))
    assert step == configuration("a", "b", incarnations={"b": 7}, addresses={"b": "tcp://b:1"})
    assert next_step(step, roster("ab"), [], only("ab", "a")) is None
    assert next_step(step, roster("ab"), [], only("a", "ab")) is None
    assert next_step(step, roster("ab"), [], ALL) == configuration("ab", incarnations={"b": 7}, addresses={"b": "tcp://b:1"})


def test_who_came_without_an_address_keeps_the_one_that_is_known() -> None:
    named = configuration("a", "b", incarnations={"b": EXPECTED}, addresses={"b": "tcp://said:1"})
    step = next_step(named, roster("ab"), came(("b", 7)), ALL)
    assert step == configuration("a", "b", incarnations={"b": 7}, addresses={"b": "tcp://said:1"})


def test_a_stranger_that_comes_changes_nothing() -> None:
    assert next_step(configuration("abc"), roster("abc"), came(("d", 7), at="tcp://d:1"), ALL) is None


def test_a_learner_that_is_to_stay_one_gets_no_vote() -> None:
    assert next_step(configuration("ab", "c"), roster("ab", "c"), [], ALL) is None


def test_a_learner_that_is_not_wanted_goes_at_once() -> None:
    assert next_step(configuration("ab", "cd"), roster("ab", "d"), [], only("ab")) == configuration("ab", "d")


def test_one_voter_comes_or_goes_in_one_step_and_more_go_through_a_joint_configuration() -> None:
    assert next_step(configuration("ab", "c"), roster("abc"), [], ALL) == configuration("abc")
    assert next_step(configuration("abc"), roster("ab"), [], ALL) == configuration("ab")
    assert next_step(configuration("abc"), roster("ab", "c"), [], ALL) == configuration("ab", "c")
    assert next_step(configuration("ab", "cd"), roster("abcd"), [], ALL) == configuration("abcd", outgoing="ab")
    assert next_step(configuration("ab", "c"), roster("bc"), [], ALL) == configuration("bc", outgoing="ab")
    assert next_step(configuration("bc", outgoing="ab"), roster("bc"), [], ALL) == configuration("bc")
    assert next_step(configuration("bc", outgoing="ab"), roster("bc", "a"), [], ALL) == configuration("bc", "a")


def test_a_live_voter_stays_until_all_that_are_wanted_vote_and_a_dead_one_goes() -> None:
    waiting = configuration("abc", "d", incarnations={"d": EXPECTED})
    assert next_step(waiting, roster("abd"), [], ALL) is None
    assert is_settled(waiting, roster("abd"))
    assert next_step(waiting, roster("abd"), [], only("ab")) == configuration("ab", "d", incarnations={"d": EXPECTED})
    come = configuration("abc", "d")
    assert next_step(come, roster("abd"), [], only("abcd", "abc")) is None
    assert next_step(come, roster("abd"), [], ALL) == configuration("abd", outgoing="abc")


def test_nobody_goes_where_most_of_those_who_are_left_do_not_answer() -> None:
    """Removing b of a, b and c while c was down made a configuration of two, of which one was down: no entry was ever decided again."""
    now = configuration("abc")
    assert next_step(now, roster("ac"), [], only("ab")) is None
    assert not is_settled(now, roster("ac"))
    assert next_step(now, roster("ac"), [], only("abc")) == configuration("ac")


def test_nobody_goes_either_where_those_who_are_left_had_no_time_to_answer_yet() -> None:
    unknown = Followers(alive=frozenset("ac"), unknown=frozenset("b"))
    assert next_step(configuration("abc"), roster("ab"), (), unknown) is None
    assert next_step(configuration("abc"), roster("ab"), (), only("ab")) == configuration("ab")


def test_the_last_voter_never_goes() -> None:
    for learners in ("", "b"):
        waiting = configuration("a", learners, incarnations={"b": EXPECTED})
        *_, last = decided(waiting, roster("b"), lambda _: [], ALL)
        assert last.voters == ("a",)


def test_of_two_voters_that_come_back_empty_one_is_taken_in_after_the_other() -> None:
    now = configuration("abcd")
    step = next_step(now, roster("abcd"), came(("c", 2), ("d", 2)), only("ab"))
    assert step == configuration("abd", "c", incarnations={"c": 2})
    assert next_step(step, roster("abcd"), came(("d", 2)), only("ab")) == configuration("ab", "cd", incarnations={"c": 2, "d": 2})


def test_who_is_at_work_is_not_replaced_by_another_directory_of_its_name() -> None:
    assert next_step(configuration("abc"), roster("abc"), came(("c", 2)), ALL) is None
    assert next_step(configuration("ab", "c"), roster("ab", "c"), came(("c", 2)), ALL) is None


def test_a_lone_voter_is_never_replaced() -> None:
    assert next_step(configuration("a"), roster("a"), came(("a", 2)), only("")) is None


def test_a_learner_that_comes_back_empty_is_let_in_again() -> None:
    step = next_step(configuration("ab", "c"), roster("ab", "c"), came(("c", 2)), only("ab"))
    assert step == configuration("ab", "c", incarnations={"c": 2})


def test_nothing_but_the_end_of_a_joint_configuration_follows_it() -> None:
    joint = configuration("cd", outgoing="ab")
    assert next_step(joint, roster("abcd"), came(("c", 2), ("d", 2), at="tcp://x:1"), only("b")) == configuration("cd", "ab")


def test_a_new_address_is_written_down_and_the_same_one_is_not() -> None:
    now = configuration("ab", addresses={"b": "tcp://b:1"})
    moved = next_step(now, roster("ab"), came(("b", 1), at="tcp://b:2"), ALL)
    assert moved == configuration("ab", addresses={"b": "tcp://b:2"})
    assert next_step(moved, roster("ab"), came(("b", 1), at="tcp://b:2"), ALL) is None
    assert next_step(moved, roster("ab"), came(("b", 1)), ALL) is None


def test_who_is_told_of_twice_is_taken_in_once() -> None:
    named = configuration("a", "b", incarnations={"b": EXPECTED})
    newcomers = came(("b", 7), at="tcp://b:1") * 2
    assert next_step(named, roster("ab"), newcomers, ALL) == configuration("a", "b", incarnations={"b": 7}, addresses={"b": "tcp://b:1"})


@pytest.mark.parametrize(
    ("now", "wanted", "settled"),
    [
        (configuration("abc"), roster("abc"), True),
        (configuration("abc", "d"), roster("abc", "d"), True),
        (configuration("ab", "c"), roster("abc"), True),
        (configuration("abc", "d"), roster("abd"), True),
        (configuration("abc"), roster("abd"), False),
        (configuration("abc"), roster("ab"), False),
        (configuration("abc"), roster("ab", "c"), False),
        (configuration("abc", "d"), roster("abc"), False),
        (configuration("ab", outgoing="abc"), roster("ab"), False),
        (configuration("ab", "c", incarnations={"c": EXPECTED}), roster("ab", "c"), True),
    ],
)
def test_settled_is_who_has_all_that_are_wanted_and_lets_nobody_go_only_while_somebody_is_awaited(
    now: Configuration, wanted: Roster, settled: bool
) -> None:
    assert is_settled(now, wanted) is settled


# -- while everything changes -------------------------------------------------------------------------------------------------------------


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_rosters_newcomers_and_deaths_in_between_lead_to_no_illegal_step_and_in_the_end_to_what_is_wanted(data: st.DataObject) -> None:
    every, wanted = all_worlds(), list(rosters())
    now, roster_ = data.draw(st.sampled_from(every)), data.draw(st.sampled_from(wanted))
    names = st.frozensets(st.sampled_from(NAMES))
    newest = dict.fromkeys(NAMES, 2)
    for _ in range(data.draw(st.integers(0, 15))):
        what = data.draw(st.sampled_from(("roster", "empty", "step", "step", "step")))
        if what == "roster":
            roster_ = data.draw(st.sampled_from(wanted))
        elif what == "empty":
            newest[data.draw(st.sampled_from(NAMES))] += 1
        seen = Followers(data.draw(names), data.draw(names))
        alive = {name for name in seen.alive if now.members.get(name, EXPECTED) != EXPECTED}
        if not won(now, alive):
            continue  # nobody leads
        newcomers = [Application(name, newest[name], data.draw(st.sampled_from(("", "tcp://x:1")))) for name in data.draw(names)]
        step = next_step(now, roster_, newcomers, Followers(frozenset(alive), seen.caught_up))
        if step is not None:
            check_step(now, step, seen)
            assert won(step, alive)
            now = step
    *_, last = decided(now, roster_, expected_ones, ALL)
    assert (last.names, {*last.voters}) == (tuple(roster_), roster_.voters)
