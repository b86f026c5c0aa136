"""Does this notice anything?  States that can't be left of a log are refused, and bugs put into the salvage on purpose are found."""

from __future__ import annotations

import random
from collections.abc import Callable
from itertools import chain
from typing import Any

import pytest
from attrs import evolve
from damages import damages, long_log, short_log
from log_crashes import LogCrashes
from log_life import FOUNDING, entry, write_snapshot
from log_memory import Harm, Memory, State

from replkv import salvage
from replkv.messages import NOWHERE, UNKNOWN, HardState, Position
from replkv.testing.disk import SimDisk

SNAPSHOT = write_snapshot(SimDisk(random.Random(0)).open(), 2, 1)


def state(terms: str, term: int, vote: str | None = "b", **changes: Any) -> State:
    """A log whose entries have these terms; " " is one that a snapshot covers."""
    entries = (b"" if each == " " else entry(index, int(each)).encoded for index, each in enumerate(terms[1:], 2))
    return State(HardState(term, vote), FOUNDING.payload, entries=(FOUNDING.encoded, *entries), **changes)


# Five entries, of which the last three are replaced by two, in flushes of their own; the last one is the newest.
FIRST, REPLACED, LAST = state("11111", 1), state("113", 3), state("1133", 4, "c")
MEMORY = Memory(LAST, LAST, 7, past=(State(), FIRST, REPLACED, LAST))
IN_FRONT, AT_THE_END = Harm(FIRST, doubt=False), Harm(REPLACED, doubt=True)
FLOOR = LAST.end


def left(of: State, **changes: Any) -> State:
    return evolve(of, hard_state=LAST.hard_state, **changes)


@pytest.mark.parametrize(
    ("harm", "found"),
    [
        (None, LAST),
        (IN_FRONT, LAST),
        (IN_FRONT, left(state("11", 4), floor=FLOOR)),
        (IN_FRONT, left(state("1111", 4), floor=FLOOR)),
        (IN_FRONT, left(REPLACED, floor=FLOOR)),
        (AT_THE_END, left(REPLACED, floor=FLOOR)),
        (AT_THE_END, evolve(REPLACED, floor=UNKNOWN)),
        (AT_THE_END, evolve(REPLACED, hard_state=LAST.hard_state, floor=UNKNOWN)),
    ],
)
def test_what_can_be_left_is_accepted(harm: Harm | None, found: State) -> None:
    after = evolve(MEMORY, harm=harm).after(found)
    assert after.durable == after.noted == found
    assert after.harm == (harm if found == LAST else None), "what is not found yet may come to light later"


@pytest.mark.parametrize(
    ("harm", "found", "why"),
    [
        (None, REPLACED, "found"),
        (None, left(REPLACED, floor=FLOOR), "found"),
        (IN_FRONT, left(state("1", 4), floor=FLOOR), "what was intact is lost"),
        (AT_THE_END, evolve(FIRST, floor=UNKNOWN), "the end or the vote"),
        (AT_THE_END, evolve(state("11", 3), floor=UNKNOWN), "what was intact is lost"),
        (AT_THE_END, evolve(State(), hard_state=REPLACED.hard_state, floor=UNKNOWN), "another cluster"),
        (AT_THE_END, left(state("1131", 3), floor=FLOOR), "never looked like that"),
        (AT_THE_END, left(state("11333", 3), floor=FLOOR), "never looked like that"),
        (IN_FRONT, left(state("12", 4), floor=FLOOR), "never looked like that"),
        (IN_FRONT, left(FIRST, floor=FLOOR), "behind its end"),
        (IN_FRONT, left(REPLACED, floor=REPLACED.end), "the end or the vote"),
        (IN_FRONT, left(REPLACED, floor=NOWHERE), "the end or the vote"),
        (IN_FRONT, left(REPLACED, floor=Position(9, 9)), "the end or the vote"),
        (IN_FRONT, evolve(REPLACED, floor=FLOOR), "the end or the vote"),
        (IN_FRONT, left(REPLACED, floor=UNKNOWN), "the end or the vote"),
        (AT_THE_END, evolve(REPLACED, hard_state=HardState(3, "z"), floor=UNKNOWN), "the end or the vote"),
        (AT_THE_END, evolve(REPLACED, hard_state=HardState(53, "b"), floor=UNKNOWN), "the end or the vote"),
        (AT_THE_END, evolve(REPLACED, snapshot=SNAPSHOT, floor=UNKNOWN), "never looked like that"),
    ],
)
def test_what_cannot_be_left_is_refused(harm: Harm | None, found: State, why: str) -> None:
    with pytest.raises(AssertionError, match=why):
        evolve(MEMORY, harm=harm).after(found)


def test_a_snapshot_in_front_of_the_damage_must_be_found_with_what_follows_it() -> None:
    whole = evolve(LAST, snapshot=SNAPSHOT)
    memory = evolve(
        MEMORY, durable=whole, noted=whole, past=(*MEMORY.past, whole), harm=Harm(evolve(REPLACED, snapshot=SNAPSHOT), doubt=False)
    )
    memory.after(evolve(state("113", 4, "c"), entries=(b"", b"", REPLACED.entries[2]), snapshot=SNAPSHOT, floor=FLOOR))
    for lost in (
        evolve(state("113", 4, "c"), floor=FLOOR),
        evolve(state("113", 4, "c"), entries=(b"", b""), snapshot=SNAPSHOT, floor=FLOOR),
    ):
        with pytest.raises(AssertionError, match="what was intact is lost"):
            memory.after(lost)


# -- bugs in the salvage -------------------------------------------------------------------------------------------------------------------

REAL = salvage.salvage


def nothing_is_kept(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(salvage, "_intact_entries", lambda *_: ())


def everything_is_in_doubt_in_a_term_that_nobody_has_reached(patch: pytest.MonkeyPatch) -> None:
    def vague(*known: Any) -> salvage.Salvage:
        left = REAL(*known)
        return evolve(left, end=UNKNOWN, hard_state=HardState(left.hard_state.term + 50), entries=())

    patch.setattr("replkv.log.salvage", vague)


def what_was_replaced_behind_the_end_is_kept(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(salvage, "takewhile", lambda _, entries: entries)


def the_newest_snapshot_is_forgotten(patch: pytest.MonkeyPatch) -> None:
    patch.setattr("replkv.log.salvage", lambda *known: evolve(REAL(*known), snapshot=None, entries=()))


def the_end_is_taken_from_what_is_left(patch: pytest.MonkeyPatch) -> None:
    def confident(*known: Any) -> salvage.Salvage:
        left = REAL(*known)
        return evolve(left, end=Position(left.entries[-1].term, left.entries[-1].index)) if left.entries else left

    patch.setattr("replkv.log.salvage", confident)


@pytest.mark.parametrize(
    "bug",
    [
        nothing_is_kept,
        everything_is_in_doubt_in_a_term_that_nobody_has_reached,
        what_was_replaced_behind_the_end_is_kept,
        the_newest_snapshot_is_forgotten,
        the_end_is_taken_from_what_is_left,
    ],
)
def test_a_bug_in_the_salvage_is_found(bug: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch) -> None:
    bug(monkeypatch)
    with pytest.raises(AssertionError, match="can't be left"):
        salvage_everything()


def salvage_everything() -> None:
    for damage in chain(damages(short_log()), damages(long_log())):
        LogCrashes(limit=1, again=0).explore(damage.ground)


def test_without_a_bug_every_damage_is_survived() -> None:
    salvage_everything()
