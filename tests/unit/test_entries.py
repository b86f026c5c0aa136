"""The entries of a log in memory: alike whether they are packed or not, and nothing for the garbage collector to visit."""

from __future__ import annotations

import gc
from itertools import islice

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from replkv.codec import make_entry
from replkv.entries import RUN, Entries
from replkv.messages import Entry, EntryKind


def entry(index: int) -> Entry:
    return make_entry(index, 1 + index // 5, EntryKind.BLOCK, index * 10, b"%d" % index)


class Model(RuleBasedStateMachine):
    """A list does the same."""

    def __init__(self) -> None:
        super().__init__()
        self.entries = Entries()
        self.entries._run = 4
        self.model: list[Entry] = []
        self.next = 1

    @rule(count=st.integers(0, 20))
    def extend(self, count: int) -> None:
        more = [entry(index) for index in range(self.next, self.next + count)]
        self.next += count
        self.entries.extend(more)
        self.model += more

    @rule(data=st.data())
    def cut(self, data: st.DataObject) -> None:
        count = data.draw(st.integers(0, len(self.model)))
        self.entries.cut(count)
        del self.model[count:]

    @rule(data=st.data())
    def forget(self, data: st.DataObject) -> None:
        count = data.draw(st.integers(0, len(self.model)))
        self.entries.forget(count)
        del self.model[:count]

    @rule(data=st.data())
    def since(self, data: st.DataObject) -> None:
        start = data.draw(st.integers(0, len(self.model)))
        count = data.draw(st.integers(0, 20))
        assert list(islice(self.entries.since(start), count)) == self.model[start : start + count]

    @invariant()
    def same(self) -> None:
        assert len(self.entries) == len(self.model)
        assert self.entries.last == (self.model[-1] if self.model else None)
        assert list(self.entries.since(0)) == self.model
        assert [self.entries[place] for place in range(len(self.model))] == self.model


TestModel = Model.TestCase


def test_a_long_log_is_nothing_for_the_garbage_collector_to_visit() -> None:
    """100,000 entries took 20 ms of every full collection, for which puts waited, several times in an hour of few puts."""
    entries = Entries()
    entries.extend(entry(index) for index in range(1, 20 * RUN))
    gc.collect()
    runs = entries._packed
    assert len(entries) == 20 * RUN - 1
    assert len(runs) >= 18
    assert not any(gc.is_tracked(run) for run in runs)
