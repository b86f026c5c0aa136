"""The demo's proof is worth as much as its ledger: each way to break a promise must be seen."""

from __future__ import annotations

import pytest

from replkv.demo.ledger import FEW, REFUSED, UNKNOWN, Ledger

SETTINGS = {"vm.swappiness": "60", "kernel.shmmni": "4096"}
GOOD = [(2, "vm.swappiness", "60"), (3, "kernel.shmmni", "4096"), (4, "vm.swappiness", "60 (change 1)")]


@pytest.fixture
def ledger() -> Ledger:
    ledger = Ledger(SETTINGS)
    for revision, write in enumerate(ledger.first_writes() + ledger.next_writes(1), start=2):
        ledger.settle(write, revision)
    return ledger


def test_three_complete_histories_are_no_problem(ledger: Ledger) -> None:
    assert ledger.problems({"a": GOOD, "b": GOOD, "c": GOOD}) == []


def test_a_lost_write_is_seen(ledger: Ledger) -> None:
    (problem, different) = ledger.problems({"a": GOOD, "b": GOOD[:2]})
    assert problem.startswith("b lost the acknowledged write of vm.swappiness at revision 4")
    assert different == "b and a hold different histories"


def test_a_write_at_another_revision_is_seen(ledger: Ledger) -> None:
    swapped = [(2, *GOOD[1][1:]), (3, *GOOD[0][1:]), GOOD[2]]
    assert sum("lost" in problem for problem in ledger.problems({"a": swapped})) == 2


def test_a_doubled_write_is_seen(ledger: Ledger) -> None:
    doubled = [*GOOD, (5, *GOOD[2][1:])]
    assert ledger.problems({"a": doubled}) == ["a applied ('vm.swappiness', '60 (change 1)') 2 times"]


def test_an_invented_write_is_seen(ledger: Ledger) -> None:
    assert ledger.problems({"a": [*GOOD, (5, "vm.swappiness", "0")]}) == ["a holds ('vm.swappiness', '0'), which nobody wrote"]


def test_a_refused_write_that_was_applied_is_seen(ledger: Ledger) -> None:
    (write,) = ledger.next_writes(1)
    ledger.settle(write, REFUSED)
    (problem,) = ledger.problems({"a": [*GOOD, (5, *write)]})
    assert "refused as surely not applied" in problem


@pytest.mark.parametrize("settled", [True, False])
def test_a_write_without_an_answer_may_be_there_or_not(ledger: Ledger, settled: bool) -> None:
    (write,) = ledger.next_writes(1)
    if settled:
        ledger.settle(write, UNKNOWN)
    assert ledger.problems({"a": GOOD}) == []
    assert ledger.problems({"a": [*GOOD, (5, *write)]}) == []


def test_a_left_out_revision_is_seen(ledger: Ledger) -> None:
    (write,) = ledger.next_writes(1)
    assert ledger.problems({"a": [*GOOD, (6, *write)]}) == ["a has revision 6 where 5 was due"]


def test_a_stale_read_is_seen(ledger: Ledger) -> None:
    floor = ledger.floor("vm.swappiness")
    ledger.read("c", "vm.swappiness", floor, 4)
    assert ledger.problems({"a": GOOD}) == []
    ledger.read("c", "vm.swappiness", floor, 2)
    assert ledger.problems({"a": GOOD}) == ["c read vm.swappiness of revision 2, though revision 4 was acknowledged before that"]


def test_many_problems_of_a_kind_are_counted_not_listed(ledger: Ledger) -> None:
    ledger.stale = ["stale"] * 100
    assert ledger.problems({"a": GOOD}) == ["stale"] * FEW + ["… and 95 more like it"]


def test_values_are_all_different() -> None:
    ledger = Ledger(SETTINGS)
    writes = ledger.first_writes() + ledger.next_writes(500)
    assert len(set(writes)) == 502
