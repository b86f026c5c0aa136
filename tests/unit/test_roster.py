"""``roster.py``: who is wanted, changed as a whole or not at all, and the same bytes for the same members."""

from __future__ import annotations

import random

import pytest

from replkv import codec
from replkv.codec import DecodeError
from replkv.errors import MemberExists, MemberNotFound, MembershipRefused
from replkv.member_ops import ChangeMembers
from replkv.messages import Configuration
from replkv.roster import Roster, Wanted
from replkv.wire import MEMBERS_MAX

THREE = {"a": Wanted(True, "tcp://a:1"), "b": Wanted(True, ""), "c": Wanted(False, "tcp://c:1")}


def changed(roster: Roster, **how: object) -> dict[str, Wanted]:
    roster.change(ChangeMembers(**how).to_wire(), {"b": "tcp://moved:1"})  # type: ignore[arg-type]
    return {name: roster[name] for name in roster}


def test_it_begins_with_those_who_are_in_a_configuration() -> None:
    configuration = Configuration(("b", "a"), (), ("c",), {"a": 1, "b": 2, "c": 0}, {"a": "tcp://a:1", "c": "tcp://c:1"})
    roster = Roster.of(configuration)
    assert {name: roster[name] for name in roster} == THREE
    assert (list(roster), len(roster), roster.voters, roster.changes) == (["a", "b", "c"], 3, {"a", "b"}, 0)
    assert "a" in roster
    assert "x" not in roster


def test_a_voter_that_leaves_a_joint_configuration_is_not_wanted_as_one() -> None:
    roster = Roster.of(Configuration(("b",), ("a",), (), {"a": 1, "b": 2}))
    assert (roster.voters, roster["a"].voter) == ({"b"}, False)


def test_who_is_added_has_a_vote_and_who_is_a_learner_has_none() -> None:
    wanted = changed(Roster(THREE), add=(("d", "tcp://d:1"),), learners=(("e", "tcp://e:1"),), remove=("c",))
    assert wanted == {"a": THREE["a"], "b": THREE["b"], "d": Wanted(True, "tcp://d:1"), "e": Wanted(False, "tcp://e:1")}


def test_votes_are_given_and_taken_by_the_same_calls_and_addresses_stay() -> None:
    roster = Roster(THREE)
    assert changed(roster, promote=("c",))["c"] == Wanted(True, "tcp://c:1")
    assert changed(roster, learners=(("a", ""), ("c", "tcp://c:1")))["a"] == Wanted(False, "tcp://a:1")
    assert roster.voters == {"b"}
    assert changed(roster, add=(("a", "tcp://a:1"),))["a"] == THREE["a"]
    assert changed(roster, promote=("a",))["a"] == THREE["a"]
    assert roster.changes == 4


def test_one_that_has_moved_changes_its_part_by_the_address_it_has_now() -> None:
    """It was refused, with the address at which it had been named: members() shows another one."""
    assert changed(Roster(THREE), learners=(("b", "tcp://moved:1"),))["b"] == Wanted(False, "")


@pytest.mark.parametrize(
    ("change", "error", "says"),
    [
        ({"remove": ("x",)}, MemberNotFound, "there is no member x: members"),
        ({"promote": ("x",)}, MemberNotFound, "there is no member x"),
        ({"remove": ("a", "x")}, MemberNotFound, "there is no member x"),
        ({"add": (("a", "tcp://a:2"),)}, MemberExists, "a is a member already at tcp://a:1: start it with its new address"),
        ({"add": (("b", "tcp://b:1"),)}, MemberExists, "b is a member already at tcp://moved:1: start it"),
        ({"learners": (("x", ""),)}, MemberNotFound, "there is no member x"),
        ({"learners": (("c", "tcp://c:2"),)}, MemberExists, "c is a member already"),
        ({"remove": ("a", "b")}, MembershipRefused, "no member would be left to vote"),
        ({"learners": (("a", ""), ("b", ""))}, MembershipRefused, "no member would be left to vote"),
        ({"add": (("d", "tcp://d:1"),), "remove": ("x",)}, MemberNotFound, "there is no member x"),
    ],
)
def test_what_is_refused_changes_nothing(change: dict[str, object], error: type[Exception], says: str) -> None:
    roster = Roster(THREE)
    with pytest.raises(error, match=says):
        changed(roster, **change)
    assert {name: roster[name] for name in roster} == THREE
    assert roster.changes == 0


def test_all_may_be_exchanged_at_once() -> None:
    wanted = changed(Roster(THREE), add=(("d", "tcp://d:1"), ("e", "tcp://e:1")), remove=("a", "b", "c"))
    assert list(wanted) == ["d", "e"]


def test_there_are_never_more_than_fit_into_a_configuration() -> None:
    roster = Roster(THREE)
    rest = tuple((f"m{number:02}", "tcp://m:1") for number in range(MEMBERS_MAX - 3))
    changed(roster, learners=rest)
    with pytest.raises(MembershipRefused, match=f"there would be {MEMBERS_MAX + 1} members, and at most {MEMBERS_MAX}"):
        changed(roster, learners=(("one-more", "tcp://m:1"),))
    assert len(changed(roster, learners=(("one-more", "tcp://m:1"),), remove=("m00",))) == MEMBERS_MAX


def test_equal_rosters_have_equal_rows_whatever_their_history() -> None:
    names = [f"m{number}" for number in range(9)]
    rows = set()
    for seed in range(9):
        random.Random(seed).shuffle(names)
        roster = Roster({"x": Wanted(True, "")})
        for name in names:
            changed(roster, add=((name, f"tcp://{name}:1"),))
        changed(roster, remove=("x",))
        rows.add(roster.rows())
    assert len(rows) == 1
    (only,) = rows
    assert Roster.load(codec.unpack(codec.pack(only))).rows() == only
    assert Roster.load(()).rows() == ()


@pytest.mark.parametrize(
    "wire",
    [
        None,
        "a",
        ("a",),
        (("a",),),
        (("a", True),),
        (("a", True, "", 1),),
        (("a", 1, ""),),
        (("a", True, None),),
        (("a", True, "a:1"),),
        ((b"a", True, ""),),
        (("b", True, ""), ("a", True, "")),
        (("a", True, ""), ("a", True, "")),
        (("x" * 256, True, ""),),
    ],
)
def test_what_is_no_roster_is_refused(wire: object) -> None:
    with pytest.raises(DecodeError):
        Roster.load(wire)
