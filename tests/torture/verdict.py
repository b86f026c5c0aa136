"""Is what clients and watchers saw what they were promised?"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

from attrs import evolve

from replkv.testing.blackbox import Call
from replkv.testing.cycles import check_transactions
from replkv.testing.history import Violation
from replkv.testing.linearizability import check_history
from replkv.testing.locks import check_locks

JUDGING = 120.0  # s for the search for an order; it takes a few


def judge(calls: list[Call], watches: list[list[list[Any]]], state: list[list[Any]]) -> None:
    """Check a whole run.

    Args:
        calls: of all clients.
        watches: the events each watcher saw from the first revision on: kind, key, value, revision, expired.
        state: the pairs at the end: key, value, create_revision, mod_revision.

    Raises:
        Violation: somebody was told what is not true.
    """
    check_watches(calls, watches, state)
    check_locks(calls)
    check_transactions(calls)
    check_history(list(_without_leases(calls, watches[0])), seconds=JUDGING)


def _without_leases(calls: list[Call], events: list[list[Any]]) -> Iterator[Call]:
    """Yield a history in which keys that went with their leases were deleted by somebody.

    When a lease ended, calls can only guess, but watchers know: then every revision has somebody who made it.
    """
    answered = [call for call in calls if call.kind == "delete" and call.outcome == "ok"]
    deleted = {call.result["revision"] for call in answered if call.result.get("deleted")}
    for call in calls:
        if call.kind != "revoke":
            yield evolve(call, args={name: value for name, value in call.args.items() if name != "lease"})
    first, last = calls[0].called, max(call.returned or 0 for call in calls)
    for kind, key, _, revision, _ in events:
        if kind == "delete" and revision not in deleted:
            yield Call(f"end of a lease at {revision}", "delete", {"key": key}, first, last, "ok", {"revision": revision, "deleted": 1})


def check_watches(calls: list[Call], watches: list[list[list[Any]]], state: list[list[Any]]) -> None:
    """Check that all watchers saw the same: each change once, in order, all that was acknowledged and nothing that nobody asked for."""
    first, *others = watches
    for number, other in enumerate(others, 1):
        for one, two in itertools.zip_longest(first, other):
            if one != two:
                raise Violation("W1", f"watcher 0 saw {one} where watcher {number} saw {two}")
    for before, after in itertools.pairwise(first):
        if (before[3], before[1]) == (after[3], after[1]) or before[3] > after[3]:
            raise Violation("W2", f"{after} came behind {before}")
    _check_told(calls, {(event[3], event[1]): event for event in first})
    _check_state({event[1]: event for event in first}, state)


def _check_told(calls: list[Call], events: dict[tuple[int, str], list[Any]]) -> None:
    asked: set[tuple[str, str]] = set()
    for call in calls:
        for revision, key, value in _puts(call):
            asked.add((key, value))
            if revision and events.get((revision, key), [None] * 3)[2] != value:
                raise Violation("W3", f"{call} made revision {revision}, where the watchers saw {events.get((revision, key))}")
    for kind, key, value, *_ in events.values():
        if kind == "put" and (key, value) not in asked and not key.startswith("n"):
            raise Violation("W4", f"the watchers saw {key} become {value!r}, which nobody asked for")


def _puts(call: Call) -> Iterator[tuple[int, str, str]]:
    """Yield what a call puts, or would: its revision, 0 where it is not known, key and value."""
    result = call.result if call.outcome == "ok" else {}
    if call.kind == "put":
        yield result.get("revision", 0), call.args["key"], call.args["value"]
    elif call.kind == "txn":
        for branch, taken in (("then", True), ("otherwise", False)):
            revision = result["revision"] if result and result["succeeded"] is taken else 0
            yield from ((revision, args["key"], args["value"]) for kind, args in call.args[branch] if kind == "put")


def _check_state(last: dict[str, list[Any]], state: list[list[Any]]) -> None:
    seen = {key: (event[2], event[3]) for key, event in last.items() if event[0] == "put"}
    there = {pair[0]: (pair[1], pair[3]) for pair in state}
    if seen != there:
        wrong = {key: (seen.get(key), there.get(key)) for key in seen.keys() | there.keys() if seen.get(key) != there.get(key)}
        raise Violation("W5", f"what the watchers saw last is not what is there: {wrong}")
