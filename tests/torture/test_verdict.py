"""A verdict is worth something only if it condemns: a small history that is right, and one change after the other that makes it wrong."""

from __future__ import annotations

from typing import Any

import pytest
from attrs import evolve
from verdict import judge

from replkv.testing.blackbox import Call
from replkv.testing.history import Violation

CALLS = [
    Call("one", "put", {"key": "x", "value": "a"}, 10, 20, "ok", {"revision": 2}),
    Call("two", "txn", {"compare": [], "then": [["put", {"key": "y", "value": "b"}]], "otherwise": []}, 30, 40, "ok", {"revision": 3}),
    Call("one", "put", {"key": "lock", "value": "c", "if_mod_revision": 0, "lease": 7}, 50, 60, "ok", {"revision": 4}),
    Call("two", "put", {"key": "x", "value": "d"}, 70, 80, "unknown"),
    Call("one", "get", {"key": "lock"}, 90, 100, "ok", None),
    Call("two", "add", {"key": "n", "delta": 2}, 110, 120, "ok", {"revision": 7, "value": 2}),
]
CALLS[1].result |= {"succeeded": True, "responses": [{"revision": 3}]}
EVENTS: list[list[Any]] = [
    ["put", "x", "a", 2, False],
    ["put", "y", "b", 3, False],
    ["put", "lock", "c", 4, False],
    ["delete", "lock", "", 5, True],
    ["put", "x", "d", 6, False],
    ["put", "n", "2", 7, False],
]
STATE: list[list[Any]] = [["n", "2", 7, 7, 1, 0], ["x", "d", 2, 6, 2, 0], ["y", "b", 3, 3, 1, 0]]


def test_a_run_in_which_all_is_well_is_acquitted() -> None:
    judge(CALLS, [EVENTS, EVENTS], STATE)


def condemned(rules: str, calls: list[Call] = CALLS, watches: list[list[list[Any]]] | None = None, state: list[list[Any]] = STATE) -> None:
    with pytest.raises(Violation) as caught:
        judge(calls, watches or [EVENTS, EVENTS], state)
    assert caught.value.rule in rules.split(), caught.value


@pytest.mark.parametrize("number", range(len(EVENTS)))
def test_a_watcher_that_missed_an_event_is_found(number: int) -> None:
    condemned("W1", watches=[EVENTS, EVENTS[:number] + EVENTS[number + 1 :]])


def test_an_event_that_all_watchers_saw_twice_is_found() -> None:
    twice = [EVENTS[0], *EVENTS]
    condemned("W2", watches=[twice, twice])


def test_events_that_all_watchers_saw_in_a_wrong_order_are_found() -> None:
    turned = [EVENTS[1], EVENTS[0], *EVENTS[2:]]
    condemned("W2", watches=[turned, turned])


@pytest.mark.parametrize("number", [0, 1, 2])
def test_an_acknowledged_change_that_no_watcher_saw_is_found(number: int) -> None:
    fewer = EVENTS[:number] + EVENTS[number + 1 :]
    condemned("W3", watches=[fewer, fewer])


def test_a_change_that_nobody_asked_for_is_found() -> None:
    more = [*EVENTS, ["put", "x", "nobody's", 8, False]]
    condemned("W4", watches=[more, more])


def test_a_change_that_is_not_in_the_state_is_found() -> None:
    condemned("W5", state=STATE[1:])


def test_a_lease_that_ended_without_anybody_seeing_it_is_found() -> None:
    fewer = EVENTS[:3] + EVENTS[4:]
    condemned("T1", watches=[fewer, fewer], state=[*STATE, ["lock", "c", 4, 4, 1, 7]])


def test_a_read_that_misses_what_was_acknowledged_is_found() -> None:
    condemned("T1 G-single-realtime", calls=[*CALLS, Call("one", "get", {"key": "x"}, 130, 140, "ok")])


def test_a_write_that_was_done_twice_is_found() -> None:
    condemned("X2", calls=[*CALLS, Call("one", "get", {"key": "x"}, 130, 140, "ok", ["d", 2, 8, 3])])


@pytest.mark.parametrize(("at", "wrong"), [(2, 3), (3, 5), (4, 3)])
def test_a_state_whose_revisions_or_version_are_not_what_came_of_the_events_is_found(at: int, wrong: int) -> None:
    pair = [*STATE[1][:at], wrong, *STATE[1][at + 1 :]]
    condemned("W5", state=[STATE[0], pair, STATE[2]])


# -- what nobody knows of ------------------------------------------------------------------------------------------------------------------

A = Call("one", "put", {"key": "x", "value": "a"}, 10, 20, "ok", {"revision": 2})
B = Call("two", "put", {"key": "x", "value": "b"}, 30, 40, "unknown")
GUARDED = evolve(B, args=B.args | {"if_mod_revision": 0})
C = Call("one", "put", {"key": "y", "value": "c"}, 90, 100, "ok", {"revision": 4})
DELETE = Call("two", "delete", {"key": "x"}, 30, 40, "unknown")
ADD = Call("two", "add", {"key": "n", "delta": 2}, 30, 40, "unknown")
PUTS: list[list[Any]] = [["put", "x", "b"], ["put", "z", "b"]]
BRANCHES = {"compare": [], "then": [["put", {"key": key, "value": value}] for _, key, value in PUTS], "otherwise": []}
TXN = Call("two", "txn", BRANCHES, 30, 40, "unknown")
LEASED = Call("one", "put", {"key": "x", "value": "a", "lease": 7}, 10, 20, "ok", {"revision": 2})


def failed(call: Call) -> Call:
    return evolve(call, outcome="failed")


def answered(call: Call, **result: Any) -> Call:
    return evolve(call, outcome="ok", result=result)


def judge_events(calls: list[Call], *changes: list[Any], expired: bool = False) -> None:
    """Judge what calls and watchers saw; each change makes the next revision, and the state is what comes of them."""
    events = [[*change, number, expired and change[0] == "delete"] for number, change in enumerate(changes, 2)]
    state: dict[str, list[Any]] = {change[1]: [] for change in changes}
    for kind, key, value, revision, _ in events:
        _, create, _, version = state[key] or (None, revision, None, 0)
        state[key] = [value, create, revision, version + 1] if kind == "put" else []
    judge(calls, [events, events], [[key, *pair] for key, pair in state.items() if pair])


PUT_A, PUT_B, PUT_C = ["put", "x", "a"], ["put", "x", "b"], ["put", "y", "c"]
GONE = ["delete", "x", ""]
ADDED, ADDED_AGAIN = ["put", "n", "2"], ["put", "n", "4"]
C3, C5 = answered(C, revision=3), answered(C, revision=5)


@pytest.mark.parametrize(
    ("calls", "changes"),
    [
        ([A, B, C], [PUT_A, PUT_B, PUT_C]),
        ([A, B, C3], [PUT_A, PUT_C]),
        ([A, B, C3], [PUT_A, PUT_C, PUT_B]),
        ([A, failed(B), C3], [PUT_A, PUT_C]),
        ([A, answered(GUARDED, conflict=["a", 2, 2, 1]), C3], [PUT_A, PUT_C]),
        ([A, DELETE, C], [PUT_A, GONE, PUT_C]),
        ([A, DELETE, C3], [PUT_A, PUT_C]),
        ([A, answered(DELETE, revision=3, deleted=1), C], [PUT_A, GONE, PUT_C]),
        ([evolve(answered(DELETE, revision=1, deleted=0), called=1, returned=5), A, C3], [PUT_A, PUT_C]),
        ([A, ADD, C], [PUT_A, ADDED, PUT_C]),
        ([ADD, A, evolve(ADD, process="three"), C5], [PUT_A, ADDED, ADDED_AGAIN, PUT_C]),
    ],
)
def test_what_may_have_happened_is_acquitted(calls: list[Call], changes: list[list[Any]]) -> None:
    judge_events(calls, *changes)


@pytest.mark.parametrize(
    ("rule", "calls", "changes"),
    [
        ("X1", [A, failed(B), C], [PUT_A, PUT_B, PUT_C]),
        ("X1", [A, failed(B), DELETE, C5], [PUT_A, PUT_B, GONE, PUT_C]),
        ("X1", [A, answered(GUARDED, conflict=["a", 2, 2, 1]), C], [PUT_A, PUT_B, PUT_C]),
        ("X1", [A, failed(DELETE), C], [PUT_A, GONE, PUT_C]),
        ("X1", [A, failed(ADD), C], [PUT_A, ADDED, PUT_C]),
        ("X1", [A, failed(TXN), C], [PUT_A, PUT_B, PUT_C]),
        ("X2", [A, B, C5], [PUT_A, PUT_B, PUT_B, PUT_C]),
        ("X2", [A, B, C], [PUT_A, PUT_A, PUT_C]),
        ("X2", [A, DELETE, B, C], [PUT_A, GONE, PUT_C, PUT_B, GONE]),
        ("X2", [A, ADD, C5], [PUT_A, ADDED, ADDED_AGAIN, PUT_C]),
        ("X2", [A, TXN, C5], [PUT_A, *PUTS, PUT_C]),
        ("W3", [A, answered(DELETE, revision=3, deleted=1), C3], [PUT_A, PUT_C]),
        ("W3", [A, answered(DELETE, revision=3, deleted=1), C], [PUT_A, PUT_B, PUT_C]),
        ("W3", [A, answered(ADD, revision=3, value=2), C3], [PUT_A, PUT_C]),
        ("W3", [A, answered(ADD, revision=3, value=2), C], [PUT_A, ADDED_AGAIN, PUT_C]),
        ("W4", [A, C], [PUT_A, GONE, PUT_C]),
        ("W4", [A, evolve(DELETE, args={"key": "z"}), C], [PUT_A, GONE, PUT_C]),
        ("W4", [A, ADD, C], [PUT_A, ADDED_AGAIN, PUT_C]),
        ("W4", [A, answered(TXN, revision=2, succeeded=False, responses=[]), C], [PUT_A, PUT_B, PUT_C]),
        (
            "T1",
            [A, evolve(C, process="two", args={"key": "x", "value": "d"}), evolve(B, called=110, returned=120)],
            [PUT_A, PUT_B, ["put", "x", "d"]],
        ),
    ],
)
def test_what_cannot_have_happened_is_condemned(rule: str, calls: list[Call], changes: list[list[Any]]) -> None:
    with pytest.raises(Violation) as caught:
        judge_events(calls, *changes)
    assert caught.value.rule == rule, caught.value


def test_only_keys_that_hang_on_a_lease_go_by_themselves() -> None:
    for expired in (True, False):  # when a lease is revoked, they do not count as expired
        judge_events([LEASED, C], PUT_A, GONE, PUT_C, expired=expired)
        with pytest.raises(Violation, match="W4"):
            judge_events([A, C], PUT_A, GONE, PUT_C, expired=expired)


def test_a_transaction_without_an_answer_is_acquitted_if_all_of_it_has_one_revision() -> None:
    events = [[*PUT_A, 2, False], *([*put, 3, False] for put in PUTS), [*PUT_C, 4, False]]
    state = [["x", "b", 2, 3, 2], ["y", "c", 4, 4, 1], ["z", "b", 3, 3, 1]]
    judge([A, TXN, C], [events, events], state)
    half = [event for event in events if event[1] != "z"]
    again = Call("one", "put", {"key": "z", "value": "e"}, 110, 120, "ok", {"revision": 5})
    with pytest.raises(Violation, match="T1"):
        judge([A, TXN, C, again], [[*half, ["put", "z", "e", 5, False]]], [*state[:2], ["z", "e", 5, 5, 1]])
