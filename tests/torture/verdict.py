"""Is what clients and watchers saw what they were promised?"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Collection, Iterator
from typing import Any, TypeAlias

from attrs import evolve

from replkv.testing import facts
from replkv.testing.blackbox import Call
from replkv.testing.cycles import check_transactions
from replkv.testing.history import Violation
from replkv.testing.linearizability import check_history
from replkv.testing.locks import check_locks

JUDGING = 120.0  # s for the search for an order; it takes a few


Event: TypeAlias = list[Any]
"""What a watcher saw: kind, key, value, revision, expired."""
Claim: TypeAlias = tuple[str, str, Any]
"""A change that a call asks for, or that was seen: kind, key, and the value or how much was added."""


def judge(calls: list[Call], watches: list[list[Event]], state: list[list[Any]]) -> None:
    """Check a whole run.

    Args:
        calls: of all clients.
        watches: the events each watcher saw from the first revision on.
        state: the pairs at the end: key, value, create_revision, mod_revision, version.

    Raises:
        Violation: somebody was told what is not true.
    """
    check_watches(calls, watches, state)
    check_locks(calls)
    check_transactions(calls)
    check_history([*_without_leases(calls, watches[0]), *_sights(calls, watches[0])], seconds=JUDGING)


def _without_leases(calls: list[Call], events: list[Event]) -> Iterator[Call]:
    """Yield a history in which keys that went with their leases were deleted by somebody.

    When a lease ended, calls can only guess, but watchers know: then every revision has somebody who made it.
    """
    for call in calls:
        if call.kind != "revoke":
            yield evolve(call, args={name: value for name, value in call.args.items() if name != "lease"})
    first, last = _span(calls)
    for revision, key in _ends_of_leases(calls, events):
        yield Call(f"end of a lease at {revision}", "delete", {"key": key}, first, last, "ok", {"revision": revision, "deleted": 1})


def _ends_of_leases(calls: list[Call], events: list[Event]) -> Iterator[tuple[int, str]]:
    """Yield the revisions at which keys that hung on a lease went, with the keys, if nobody is known to have deleted them."""
    leased = {key for call in calls for keys in facts.leases_of(call).values() for key in keys}
    told = {(revision, key) for call in calls for revision, key, _ in _told(call)}
    for kind, key, _, revision, _ in events:
        if kind == "delete" and key in leased and (revision, key) not in told:
            yield revision, key


def _sights(calls: list[Call], events: list[Event]) -> Iterator[Call]:
    """Yield what watchers saw as reads at no certain time: they tell of writes without an answer whether and where they took effect."""
    first, last = _span(calls)
    for key, pair in _grown(events):
        if pair is not None:
            yield Call("watchers", "get", {"key": key, "consistency": "local"}, first, last, "ok", pair)


def _span(calls: list[Call]) -> tuple[int, int]:
    return calls[0].called, max(call.returned or 0 for call in calls)


def _grown(events: list[Event]) -> Iterator[tuple[str, facts.Pair | None]]:
    """Yield after each event its key, and the pair that is there by then."""
    there: dict[str, facts.Pair] = {}
    for kind, key, value, revision, _ in events:
        before = there.pop(key, None)
        if kind == "put":
            there[key] = [value, before[facts.CREATE] if before else revision, revision, before[facts.VERSION] + 1 if before else 1]
        yield key, there.get(key)


# -- what watchers saw ----------------------------------------------------------------------------------------------------------------


def check_watches(calls: list[Call], watches: list[list[Event]], state: list[list[Any]]) -> None:
    """Check that all watchers saw the same: each change once, in order, all that was acknowledged and nothing that nobody asked for."""
    first, *others = watches
    for number, other in enumerate(others, 1):
        for one, two in itertools.zip_longest(first, other):
            if one != two:
                raise Violation("W1", f"watcher 0 saw {one} where watcher {number} saw {two}")
    for before, after in itertools.pairwise(first):
        if (before[3], before[1]) == (after[3], after[1]) or before[3] > after[3]:
            raise Violation("W2", f"{after} came behind {before}")
    told = {(revision, key): (value, call) for call in calls for revision, key, value in _told(call)}
    seen = {(revision, key): value if kind == "put" else None for kind, key, value, revision, _ in first}
    for place, (value, call) in told.items():
        if place not in seen or seen[place] != value:
            raise Violation("W3", f"{call} made revision {place[0]}, where the watchers saw {seen.get(place, 'nothing')!r}")
    _check_asked(calls, first, {*told, *_ends_of_leases(calls, first)})
    _check_state(first, state)


def _told(call: Call) -> Iterator[tuple[int, str, str | None]]:
    """Yield what an answered call says it changed: at which revision, which key, and to what; None where it deleted."""
    for kind, args, result in facts.parts(call) if call.outcome == "ok" else ():
        if kind in ("put", "add") and not facts.refused(result):
            yield result["revision"], args["key"], args["value"] if kind == "put" else str(result["value"])
        elif kind == "delete" and result.get("deleted"):
            yield result["revision"], args["key"], None


def _check_asked(calls: list[Call], events: list[Event], explained: Collection[tuple[int, str]]) -> None:
    """Check that each change that is not explained was asked for by a call of its own, of which nobody knows what became."""
    asked: dict[str, Counter[Claim]] = {outcome: Counter() for outcome in ("ok", "failed", "unknown")}
    for call in calls:
        for claim, refused in _claims(call):
            asked["failed" if refused else call.outcome][claim] += 1
    left = asked["unknown"].copy()
    for event, claim in _unexplained(calls, events, explained):
        if left[claim]:
            left[claim] -= 1
        elif claim in asked["unknown"] or claim in asked["ok"]:
            raise Violation("X2", f"the watchers saw {event}, and so once more than anybody asked for it")
        elif claim in asked["failed"]:
            raise Violation("X1", f"the watchers saw {event}, which is said to have failed")
        else:
            raise Violation("W4", f"the watchers saw {event}, which nobody asked for")


def _claims(call: Call) -> Iterator[tuple[Claim, bool]]:
    """Yield the changes that a call asks for, each with whether it was refused; of a transaction without answer those of both branches."""
    for kind, args, result in facts.parts(call):
        if kind in ("put", "add", "delete"):
            yield (kind, args["key"], args.get("value", args.get("delta"))), facts.refused(result)


def _unexplained(calls: list[Call], events: list[Event], explained: Collection[tuple[int, str]]) -> Iterator[tuple[Event, Claim]]:
    """Yield the events at other places than those that are explained, each with what must have been asked for."""
    counters = {part.args["key"] for call in calls for part in facts.parts(call) if part.kind == "add"}
    numbers: dict[str, int] = {}
    for event in events:
        kind, key, value, revision, expired = event
        before = numbers.pop(key, 0)
        if key in counters and kind == "put":
            numbers[key] = int(value)
        if (revision, key) in explained:
            continue
        if kind == "delete":
            yield event, ("end of a lease" if expired else kind, key, None)
        elif key in counters:
            yield event, ("add", key, numbers[key] - before)
        else:
            yield event, ("put", key, value)


def _check_state(events: list[Event], state: list[list[Any]]) -> None:
    seen = {key: pair for key, pair in dict(_grown(events)).items() if pair is not None}
    there = {key: pair[:4] for key, *pair in state}
    if seen != there:
        wrong = {key: (seen.get(key), there.get(key)) for key in seen.keys() | there.keys() if seen.get(key) != there.get(key)}
        raise Violation("W5", f"what the watchers saw last is not what is there: {wrong}")
