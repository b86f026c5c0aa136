"""The history of a store: a list that is cut at its beginning while others read on."""

from __future__ import annotations

import gc
from operator import itemgetter
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from replkv import history
from replkv.history import History

STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("append"), st.integers(0, 2)),  # how much larger the next revision is
        st.tuples(st.just("extend"), st.integers(0, 9)),
        st.tuples(st.just("pop"), st.integers(0, 5)),
        st.tuples(st.just("settle"), st.just(0)),
        st.tuples(st.just("cut"), st.integers(0, 9)),
    ),
    max_size=60,
)


@pytest.fixture(autouse=True)
def short_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(history, "RUN", 4)


def new() -> History[tuple[int, int]]:
    return History(itemgetter(0))


def settle(events: History[Any]) -> None:
    events.settled = events.written


class Both:
    """A history, and the list it has to be like."""

    def __init__(self) -> None:
        self.events, self.model = new(), list[Any]()
        self.settled, self.revision, self.count = 0, 1, 0

    def do(self, what: str, number: int) -> None:
        if what == "append":
            self.revision += number
            self.model.append((self.revision, self.count))
            self.count += 1
            self.events.append(self.model[-1])
        elif what == "extend":
            self.revision += 1
            self.model += (records := [(self.revision, self.count + place) for place in range(number)])
            self.count += number
            self.events.extend(records)
        elif what == "pop":
            for _ in range(min(number, len(self.model) - self.settled)):
                assert self.events.pop() == self.model.pop()
        elif what == "settle":
            settle(self.events)
            self.settled = len(self.model)
        else:
            self.cut(min(number, self.settled))

    def cut(self, count: int) -> None:
        before, copy = self.events, list(self.events)
        self.events, gone = before.without(count)
        assert not [record for run in gone for record in run if record in self.model[count:]]
        del self.model[:count]
        self.settled -= count
        assert list(before)[: len(copy)] == copy, "who reads the old one reads on"

    def check(self) -> None:
        events, model = self.events, self.model
        assert events == model
        assert (len(events), events.written - events.settled) == (len(model), len(model) - self.settled)
        for start in range(-2, len(model) + 2):
            assert events[start:] == model[start:]
            assert events[start : start + 5] == model[start : start + 5]
            assert events[:start:2] == model[:start:2]
            assert events[start::-1] == model[start::-1]
        for revision in range(self.revision + 2):
            before = [record for record in model[: self.settled] if record[0] < revision]
            assert events.first_at(revision) == len(before)
            assert events.since(revision) == range(len(before), self.settled)


@settings(max_examples=800, deadline=None)
@given(STEPS)
def test_it_is_like_a_list(steps: list[tuple[str, int]]) -> None:
    both = Both()
    for what, number in steps:
        both.do(what, number)
        both.check()


def test_full_runs_are_nothing_to_the_garbage_collector() -> None:
    """A store of a hundred thousand keys and their history made puts wait for up to half a second while all of it was visited."""
    events = new()
    for number in range(10):
        events.append((number, number))
    gc.collect()
    gc.collect()  # what is in a run first, and then the run
    assert [gc.is_tracked(run) for run in events._runs] == [False, False, True]
    assert [events.pop()[0] for _ in range(3)] == [9, 8, 7]
    assert list(events) == [(number, number) for number in range(7)]


def test_a_place_outside_is_an_index_error() -> None:
    events = new()
    events.append((2, 0))
    assert (events[0], events[-1]) == ((2, 0), (2, 0))
    for place in (1, -2):
        with pytest.raises(IndexError):
            events[place]
    assert repr(events) == "<History of 1 records>"


@pytest.mark.parametrize("count", [3, 4, 5, 8])
def test_a_history_that_was_cut_to_nothing_goes_on(count: int) -> None:
    events = new()
    for number in range(count):
        events.append((number, number))
    settle(events)
    rest, gone = events.without(count)
    assert len(rest) == 0
    assert len(gone) == count // 4
    for number in range(6):
        rest.append((count + number, number))
    settle(rest)
    assert rest.first_at(count + 3) == 3
    assert len(events) == count
