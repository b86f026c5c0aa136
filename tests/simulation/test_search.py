"""The exhaustive search of small worlds: it finds nothing, and would find a lot."""

from __future__ import annotations

import copy
import json
import os
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import raft_rules as bugs

from replkv.testing.knobs import turned
from replkv.testing.search import PROFILES, Budget, Profile, Scene, __main__, find, named, search
from replkv.testing.search.member import Turn
from replkv.testing.search.profiles import configuration
from replkv.testing.search.world import World

Patch = pytest.MonkeyPatch
Capture = pytest.CaptureFixture[str]

each = pytest.mark.parametrize("profile", PROFILES, ids=lambda profile: profile.name)


# -- what it finds -------------------------------------------------------------------------------------------------------------------


@each
def test_no_rule_is_broken_near_the_beginning(profile: Profile) -> None:
    result = search(profile, 420)
    assert result.trace is None, f"\n{result.trace}"
    assert result.states >= 420 or result.is_complete


@pytest.mark.timeout(600)
def test_no_rule_is_broken_in_a_hundred_thousand_states(tmp_path: Path, capsys: Capture) -> None:
    report = tmp_path / "report.json"
    status = __main__.main(["--states", "110000", "--jobs", "2", "--report", str(report)])
    assert status == 0, capsys.readouterr().out
    figures = json.loads(report.read_text())
    assert figures["distinct_states"] >= 100_000
    assert figures["profiles"] == len(PROFILES)
    assert figures["violations"] == 0


@pytest.mark.parametrize(
    "name", ["elections of two", "a crash and an election", "a read", "leases and promises", "joint changes", "losses"]
)
def test_small_worlds_are_searched_to_the_end(name: str) -> None:
    result = search(named(name), 50_000)
    assert result.trace is None
    assert result.is_complete
    assert result.states > 1000


# -- what it would find --------------------------------------------------------------------------------------------------------------

FOUND: dict[Callable[[Patch], None], tuple[str, str]] = {
    bugs.a_vote_is_given_to_two_candidates: ("hand-over and an election", "P1"),
    bugs.a_vote_is_forgotten_in_a_crash: ("split votes", "P1"),
    bugs.a_late_vote_of_an_older_term_is_counted: ("hand-over and an election", "E4"),
    bugs.a_vote_goes_to_one_whose_log_is_behind: ("elections and a put", "C5"),
    bugs.logs_are_compared_by_their_length_alone: ("old entries", "C5"),
    bugs.a_hand_over_of_an_older_term_is_carried_out_in_the_present_one: ("hand-over and an election", "P1"),
    bugs.an_entry_of_an_older_term_is_committed_by_counting: ("old entries", "C5"),
    bugs.the_commit_index_goes_back_with_a_late_message: ("a read", "P2"),
    bugs.what_a_leader_sent_first_is_committed_whatever_lies_there: ("old entries", "C1"),
    bugs.a_late_answer_takes_the_match_index_back: ("two puts", "L5"),
    bugs.a_late_append_cuts_off_what_was_acknowledged: ("two puts", "L4"),
    bugs.an_append_is_taken_without_looking_what_lies_before_it: ("old entries", "L1"),
    bugs.acknowledgements_leave_before_the_disk_is_done: ("elections of two", "C4"),
    bugs.half_is_taken_for_a_majority: ("elections of two", "C3"),
    bugs.a_leader_changes_the_configuration_before_an_entry_of_its_own_is_committed: ("changes of two leaders", "C5"),
    bugs.a_configuration_is_changed_before_the_last_change_is_committed: ("shrinking", "C5"),
    bugs.two_voters_are_changed_at_once: ("shrinking", "C5"),
    bugs.a_new_configuration_is_decided_by_the_voters_of_the_old_one: ("shrinking", "C3"),
    bugs.a_restart_forgets_the_newest_configuration: ("shrinking", "G1"),
    bugs.one_half_of_a_joint_configuration_decides: ("joint changes", "C3"),
    bugs.whoever_elects_itself_leads_before_that_is_durable: ("shrinking", "P1"),
    bugs.a_leader_reads_without_asking_anybody: ("a read", "T1"),
    bugs.a_read_is_confirmed_by_a_round_that_began_before_it: ("a read", "T1"),
    bugs.a_leader_reads_before_it_knows_what_is_committed: ("a read", "T1"),
    bugs.a_lease_begins_before_the_leader_knows_what_is_committed: ("a lease of a new leader", "R1"),
    bugs.a_lease_lasts_longer_than_the_promises: ("a lease of a new leader", "R1"),
    bugs.a_lease_begins_when_the_answer_arrives: ("leases and late answers", "R1"),
    bugs.a_lease_goes_on_while_leadership_is_handed_over: ("leases at a hand-over", "R1"),
    bugs.a_restart_ends_a_promise: ("leases and promises", "R1"),
    bugs.a_lost_connection_ends_a_promise: ("leases and promises", "R1"),
    bugs.a_snapshot_does_not_say_who_votes: ("snapshots", "G1"),
    bugs.an_installed_snapshot_leaves_the_log_that_it_replaces: ("a snapshot in place of a longer log", "X"),
    bugs.a_snapshot_replaces_a_log_that_already_holds_it: ("snapshots", "L4"),
    bugs.who_lost_a_part_of_its_log_votes_by_what_is_left: ("losses", "C5"),
    bugs.a_lost_vote_is_given_once_more: ("losses and late votes", "E1"),
    bugs.a_lost_term_is_thought_to_be_the_one_before_it: ("losses and late votes", "E1"),
    bugs.a_doubt_ends_before_all_others_have_answered: ("losses", "L5"),
    bugs.who_lost_a_part_of_its_log_stands_for_election: ("losses", "D5"),
}
"""Where each of these bugs is found, and the rule that it breaks first."""
STATES = 150_000


@pytest.mark.parametrize("bug", FOUND, ids=lambda bug: bug.__name__)
def test_the_search_finds_it_when(bug: Callable[[Patch], None], monkeypatch: Patch) -> None:
    profile, rule = FOUND[bug]
    bug(monkeypatch)
    trace = find(profile, STATES)
    assert trace is not None, f"it lived through {STATES} states"
    assert trace.rule == rule, f"\n{trace}"
    assert trace.steps, f"not even the way to the first state is clean\n{trace}"


def test_every_bug_that_is_written_down_is_looked_for() -> None:
    written = {value for value in vars(bugs).values() if callable(value) and getattr(value, "__module__", "") == bugs.__name__}
    assert written == {*FOUND}


def test_a_trace_is_a_shortest_one_and_can_be_read(monkeypatch: Patch) -> None:
    bugs.two_voters_are_changed_at_once(monkeypatch)
    trace = find(Profile("one change", "abc", Budget(changes=1), begin=(Scene("a", ("tick",), "abc"),), configurations=("a",)), 100)
    assert trace is not None
    assert trace.begin[0].startswith("a has waited long enough\n        a: pre-candidate, term 1, ")
    assert trace.steps == ("a is asked for the configuration a",)
    assert str(trace).splitlines()[-2:] == [
        "  1 a is asked for the configuration a",
        "    C5: b lacks entry 3 of term 2, which is committed, and ['b', 'c'] could elect it",
    ]


def test_a_member_that_stops_for_an_unforeseen_error_is_found(monkeypatch: Patch) -> None:
    def divide(*_: Any) -> None:
        raise ZeroDivisionError("unforeseen")

    monkeypatch.setattr("replkv.raft.Raft._answer_pre_vote", divide)
    trace = find("elections", 1000)
    assert trace is not None
    assert (trace.rule, trace.text) == ("X", "X: b stops: ZeroDivisionError: unforeseen")


# -- whether it can be believed ------------------------------------------------------------------------------------------------------


@each
def test_the_tables_say_what_the_code_does(profile: Profile) -> None:
    """A walk through the tables, and beside it members that are never copied: after each step they are the same."""
    rng = random.Random(profile.name)
    with turned(profile.knobs):
        for _ in range(3):
            walk(World(profile), rng)


def walk(world: World, rng: random.Random) -> None:
    profile, names = world.profile, world.profile.members
    horizon = profile.timing.election_timeout
    state = world.first([])
    live = {}
    for name, number in zip(names, state, strict=False):
        begun = world.members.values[number]
        live[name] = Turn(profile, name, begun.disk, clock=begun.clock, busy=begun.busy, applied=begun.applied, behind=begun.behind)
        live[name].hasty, live[name].raft = profile.hasty, copy.deepcopy(begun.raft)
    for _ in range(60):
        eager = not world.budgets.values[state[len(names)]].crashes
        ways = list(world.next(state))
        if not ways:
            break
        (who, what), after = rng.choice(ways)
        if what[0] in {"receive", "receive and keep"}:
            letter = world.letters.values[what[1]]
            live[who].eager = eager
            live[who].take(what, (letter.sender, letter.message))
        elif what[0] != "lose":
            for name in [who] if who else names:
                live[name].eager = eager
                live[name].take(what)
        state = after
        for name, number in zip(names, state, strict=False):
            assert live[name].member().key(horizon) == world.members.values[number].key(horizon)


def test_a_search_finds_the_same_whatever_the_order_of_hashes() -> None:
    script = "from replkv.testing.search import *; r = search(named('snapshots'), 3000); print(r.states, r.steps, r.depth)"
    shown = set()
    for seed in ("1", "2"):
        environment = {**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": os.pathsep.join(sys.path)}
        done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True)
        shown.add(done.stdout)
    assert len(shown) == 1


def test_a_copy_is_the_same_member_and_one_whose_clock_has_gone_on_is_another() -> None:
    world = World(named("leases and promises"))
    member = world.members.values[world.first([])[0]]
    horizon = world.profile.timing.election_timeout
    later = copy.deepcopy(member)
    assert later.key(horizon) == member.key(horizon)
    later.clock += world.profile.quantum
    assert later.key(horizon) != member.key(horizon)


def test_configurations_are_written_with_a_letter_each() -> None:
    plain, learning, joint = configuration("abc"), configuration("ab+c"), configuration("ad/abc")
    assert (plain.voters, plain.outgoing, plain.learners) == (("a", "b", "c"), (), ())
    assert (learning.voters, learning.learners, [*learning.members]) == (("a", "b"), ("c",), ["a", "b", "c"])
    assert (joint.voters, joint.outgoing, joint.names) == (("a", "d"), ("a", "b", "c"), ("a", "b", "c", "d"))


# -- the command ---------------------------------------------------------------------------------------------------------------------


def test_the_command_searches_what_it_is_told_to(tmp_path: Path, capsys: Capture) -> None:
    report = tmp_path / "report.json"
    assert __main__.main(["--nodes", "2", "--states", "3000", "--report", str(report)]) == 0
    shown = capsys.readouterr().out.splitlines()
    figures = json.loads(report.read_text())
    two = [profile.name for profile in PROFILES if len(profile.members) == 2]
    assert [*figures["of_each"]] == two
    assert [line.split("  ")[0] for line in shown[:-1]] == two
    assert figures["what"] == "search"
    assert figures["distinct_states"] == sum(states for states, _, _ in figures["of_each"].values()) >= 3000


def test_the_command_fails_and_shows_the_way_when_a_rule_is_broken(monkeypatch: Patch, capsys: Capture) -> None:
    bugs.a_leader_reads_without_asking_anybody(monkeypatch)
    broken = search(named("a read"), 1000)
    monkeypatch.setattr(__main__, "run", lambda profiles, states, jobs: iter([broken]))
    assert __main__.main([]) == 1
    shown = capsys.readouterr().out
    assert "  1 b is asked for read 1\n" in shown
    assert "T1: b reads at 2, although 3 was committed before it asked" in shown
    assert "1 violations" in shown


def test_states_that_a_small_world_has_no_use_for_go_to_the_others() -> None:
    small, large = named("leases and promises"), named("elections")
    results = {result.profile: result for result in __main__.run([small, large], 6000, 1)}
    assert results[small.name].is_complete
    assert results[small.name].states + results[large.name].states >= 6000
