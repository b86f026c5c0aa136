"""Errors cross processes, and are raised anew for each caller, with all they say."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest

import replkv
from replkv import Conflict, KeyValue, OutcomeUnknown, ReplkvError

ERRORS = sorted(
    {kind for kind in vars(replkv).values() if isinstance(kind, type) and issubclass(kind, ReplkvError)}, key=lambda kind: kind.__name__
)
WAYS: dict[str, Callable[[ReplkvError], ReplkvError]] = {
    "pickled": lambda error: pickle.loads(pickle.dumps(error)),
    "copied": copy.copy,
    "deeply copied": copy.deepcopy,
    "raised again": lambda error: error.again(),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", ERRORS)
def test_an_error_loses_nothing_on_its_way_also_not_an_attribute_that_is_none(kind: type[ReplkvError], way: str) -> None:
    """A Conflict with a key that does not exist had no ``current`` when it had been pickled."""
    error: Any = kind("what is wrong")
    own = list(vars(error))
    for number, name in enumerate(own):
        setattr(error, name, number if number % 2 else None)
    error.nothing, error.something = None, ("a", 5)
    twin: Any = WAYS[way](error)
    assert type(twin) is kind
    assert twin is not error
    assert str(twin) == "what is wrong"
    assert vars(twin) == vars(error)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("current", [None, KeyValue(b"a", b"1", 2, 3, 4)])
def test_a_conflict_keeps_what_the_key_holds(current: KeyValue | None, way: str) -> None:
    twin: Any = WAYS[way](Conflict("changed meanwhile", current))
    assert twin.current == current


def test_an_unknown_outcome_leaves_what_it_waits_for_in_its_process() -> None:
    error = OutcomeUnknown("no answer")
    error._resume = lambda timeout: timeout
    error.add_note("a note")
    twin = pickle.loads(pickle.dumps(error))
    assert twin.__notes__ == ["a note"]
    with pytest.raises(OutcomeUnknown, match="no answer"):
        twin.wait(1.0)
    assert error.wait(1.0) == 1.0
