"""A verdict is worth something only if it condemns: a small history that is right, and one change after the other that makes it wrong."""

from __future__ import annotations

from typing import Any

import pytest
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
    condemned("T1", calls=[*CALLS, Call("one", "get", {"key": "x"}, 130, 140, "ok", ["d", 2, 8, 3])])
