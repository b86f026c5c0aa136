"""The store against its model, step by step; and under threads that read while it is written and scrubbed."""

from __future__ import annotations

import gc
import itertools
import random
import threading
from bisect import bisect_right
from collections.abc import Callable, Generator, Iterator
from functools import partial
from itertools import islice
from typing import Any

import pytest
from hasty import hasty_threads
from hypothesis import note, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from model_kv import KEYS, VALUES, Dice, Model, Refused, long_throws

from replkv import errors, kv, ops, wire
from replkv.history import History
from replkv.kv import FEW, SLICE, Selection, Store, run
from replkv.lease import Leases
from replkv.txn import Reader, Writer
from replkv.values import Span
from replkv.wire import Raw


def committed(store: Store, *pairs: tuple[bytes, bytes]) -> int:
    for key, value in pairs:
        store.put(key, value)
    return store.commit()


def deleted(store: Store, *keys: bytes) -> int:
    run(store.delete_keys(keys))
    return store.commit()


def scanned(store: Store, revision: int, **options: Any) -> Any:
    return run(store.scan((b"\x01", None), revision, Selection(**options)))


def contents(store: Store) -> tuple[list[kv.Record], list[kv.Record]]:
    base, events, history = store.pin()
    return list(base), [events[at] for at in history]


def loaded(store: Store) -> Store:
    """Return a copy that went the way of a snapshot."""
    base, history = contents(store)
    copy = Store(store.revision, store.compacted)
    copy.load_base(base)
    copy.replay(history)
    copy.finish_replay()
    return copy


def size_if_compacted(store: Store, revision: int) -> int:
    """Return what the store counts on being left by a compaction."""
    count = bisect_right(store.events, revision, key=lambda record: record[kv.MOD])
    return store.size - (store._superseded_at[count - 1] - store._freed if count else 0)


Moved = list[tuple[bytes, int, int]]
Act = Callable[[Dice], None]


def write(dice: Dice, model: Model, *stores: Store, twice: bool) -> None:
    """Begin a command that deletes a span and puts and deletes single keys; only one that is to be taken back writes some of them twice."""
    moved: Moved = []
    free = list(KEYS)
    if dice.below(4) == 3:
        span = Span.of(**dice.span())
        victims = model.span(*span, model.now)
        assert all(run(store.delete(span)) == victims for store in stores)
        _delete(model, moved, victims)
        free = free if twice else [key for key in KEYS if not span.start <= key or (span.end is not None and key >= span.end)]
    for _ in range(dice.of([2, 4, 0, 1, 3])):
        if not free:
            break
        key = dice.of(free)
        if dice.below(6) == 5:
            keys, lease = sorted({key, dice.of(free)}), dice.below(3)
            victims = [record for each in keys if (record := model.get(each, model.now))]
            assert all(run(store.delete_keys(keys, lease)) == len(victims) for store in stores)
            _delete(model, moved, victims, lease)
        else:
            keys, value, lease = [key], dice.of(VALUES), dice.of([0, 0, 1, 2])
            old = model.put(key, value, lease)
            assert all(store.put(key, value, lease) == old for store in stores)
            moved.append((key, old[kv.LEASE] if old else 0, lease))
        free = free if twice else [each for each in free if each not in keys]
    for store in stores:
        assert store.latest == model.now
        assert store.moved == [each for each in moved if each[1] or each[2]]


def _delete(model: Model, moved: Moved, victims: list[Raw], lease: int = 0) -> None:
    model.delete(victims, lease)
    moved += [(record[kv.KEY], record[kv.LEASE], 0) for record in victims]


def refusal(act: Any, *arguments: Any) -> tuple[Any, ...] | None:
    """Return the kind and the revision of what is refused."""
    try:
        act(*arguments)
    except (errors.Rejected, Refused) as error:
        if isinstance(error, Refused):
            return (error.kind, *error.details)
        return (type(error), error.revision) if isinstance(error, errors.Compacted) else (type(error),)
    return None


class SmallPieces:
    """Has the stores work in slices of a few, for a while."""

    def __init__(self) -> None:
        self._real = (kv.SLICE, kv.FEW, kv.SORT_RUN)

    def cut(self, piece: int, few: int) -> None:
        kv.SLICE, kv.FEW, kv.SORT_RUN = piece, few, piece + 1

    def restore(self) -> None:
        kv.SLICE, kv.FEW, kv.SORT_RUN = self._real


pieces = st.sampled_from([2, 1, 3, 256])
fews = st.sampled_from([1, 2, 8])


class AgainstTheModel(RuleBasedStateMachine):
    """The store holds what the model holds, counts what it counts, and shows all of it at every revision that is kept."""

    def __init__(self) -> None:
        super().__init__()
        self.store = Store()
        self.model = Model()
        self.pieces = SmallPieces()
        self.scrubbing: Generator[None, None, None] | None = None
        self.scrubbed = 0
        self.pinned: tuple[list[kv.Record], Iterator[kv.Record], History[kv.Record], range] | None = None
        self.at_pin: tuple[Any, ...] = ()
        self.scans: list[tuple[Generator[None, None, Any], int, Any]] = []

    @initialize(piece=pieces, few=fews)
    def begin(self, piece: int, few: int) -> None:
        self.pieces.cut(piece, few)

    @rule(thrown=long_throws)
    def go_on(self, thrown: bytes) -> None:
        dice = Dice(thrown, self.model)
        often: list[Act] = [
            self.write,
            self.put_each,
            self.write,
            self.take_back,
            self.scan,
            self.check,
            self.compact,
            self.scrub,
            self.scrub,
        ]
        act = dice.of([*often, *often, self.write, self.finish_scan, self.pin, self.load])
        note(act.__name__)
        act(dice)

    # -- writing --

    def write(self, dice: Dice) -> None:
        write(dice, self.model, self.store, twice=False)
        self.model.commit()
        assert self.store.commit() == self.model.revision
        self.store.moved.clear()

    def put_each(self, dice: Dice) -> None:
        free = [key for key in KEYS if not self.store.newest.get(key, (0,) * 6)[kv.LEASE]]
        pairs = [(dice.of(free), dice.of(VALUES), bool(dice.below(2))) for _ in range(dice.of([5, 1, 12]) if free else 0)]
        answers: list[Raw] = []
        self.store.put_each([(wire.PUT, *pair) for pair in pairs], answers, 1 << 20, 1 << 40)
        for (key, value, prev_kv), answer in zip(pairs, answers, strict=True):
            old = self.model.put(key, value)
            self.model.commit()
            assert answer == (wire.OK, self.model.revision, old if prev_kv else None)
        assert self.store.moved == []

    def take_back(self, dice: Dice) -> None:
        write(dice, self.model, self.store, twice=True)
        self.model.rollback()
        run(self.store.rollback())
        assert self.store.moved == []

    def compact(self, dice: Dice) -> None:
        revision = max(0, self.model.revision + 1 - dice.below(7))
        note(revision)
        assert refusal(self.store.compact, revision) == refusal(self.model._do, (wire.COMPACT, revision))
        assert self.store.compacted == self.model.compacted

    def scrub(self, dice: Dice) -> None:
        if self.pinned is None:
            self._scrub(dice.of([1, 2, 4, 20]))

    def _scrub(self, steps: int) -> None:
        for _ in range(steps):
            if self.scrubbing is None and self.store.unscrubbed:
                self.scrubbing, self.scrubbed = self.store.scrub(), self.store.compacted
            if self.scrubbing is None:
                return
            if next(self.scrubbing, self) is self:
                self.scrubbing = None
                self._is_gone(self.scrubbed)
            assert self.store.removed_below == self.scrubbed

    def _is_gone(self, compacted: int) -> None:
        """Check that a finished scrub left what it had to, and nothing else."""
        store, left = self.store, 0
        for key, versions in self.model.versions.items():
            at = max(0, sum(record[kv.MOD] <= compacted for record in versions) - 1)
            readable = versions[at:]
            if readable and readable[0][kv.VALUE] is None and readable[0][kv.MOD] < compacted:
                readable = readable[1:]
            newest = (store.newest[key],) if key in store.newest else ()
            assert (*store.older.get(key, ()), *newest) == readable
            left += bool(readable)
        assert left == len(store.newest)
        assert store.events == [record for record in self.model.events if record[kv.MOD] >= compacted]
        assert store.unscrubbed == (self.model.compacted > compacted)

    # -- reading --

    def scan(self, dice: Dice) -> None:
        revision = max(1, self.model.compacted, self.model.revision - dice.below(10))
        _, start, end, limit, _, *options = ops.Scan(**dice.span(), **dice.selection()).to_wire()
        note((revision, start, end, limit, *options))
        expected = self.model.scan((start, end), revision, limit, *options)
        steps = self.store.scan((start, end), revision, Selection(limit, *options))
        if dice.below(2):
            assert run(steps) == expected
        elif next(steps, self) is not self:
            self.scans.append((steps, revision, expected))

    def finish_scan(self, _: Dice | None = None) -> None:
        for steps, revision, expected in self.scans:
            found = run(steps)
            assert revision < self.store.removed_below or found == expected  # else the machine throws it away
        self.scans.clear()

    def check(self, dice: Dice) -> None:
        known = max(1, self.model.revision - dice.below(4))
        asked = max(1, self.model.revision + 2 - dice.below(12))
        found = refusal(self.store.check, asked, known)
        assert found == refusal(self.model.as_of(known).at, asked)
        if found is None:
            for key in KEYS:
                assert self.store.get(key, asked) == self.model.get(key, asked)

    # -- dumping and loading --

    def pin(self, dice: Dice) -> None:
        if self.pinned is None:
            base, events, history = self.store.pin()
            self.pinned = (list(islice(base, dice.below(4))), base, events, history)
            self.at_pin = (self.model.base, self.model.history, self.store.revision, self.store.compacted, self.store.size, self.store.live)

    def load(self, dice: Dice) -> None:
        if self.pinned is None:
            self.pin(dice)
        assert self.pinned is not None
        (taken, rest, events, places), self.pinned = self.pinned, None
        base, history, revision, compacted, size, live = self.at_pin
        assert [*taken, *rest] == base
        assert [events[at] for at in places] == history
        copy = Store(revision, compacted)
        for record in base:  # in parts
            copy.load_base([record])
        copy.replay(history)
        copy.finish_replay()
        assert (copy.size, copy.live, copy.moved, copy.removed_below, copy.unscrubbed) == (size, live, [], compacted, False)
        assert contents(copy) == (base, history)
        if dice.below(3) and (revision, compacted) == (self.model.revision, self.model.compacted):
            self.store, self.scrubbing = copy, None
            self.scans.clear()

    # -- always --

    @invariant()
    def accounts_agree(self) -> None:
        store, model = self.store, self.model
        assert (store.revision, store.latest, store.compacted) == (model.revision, model.revision, model.compacted)
        assert (store.size, store.live) == (model.size(), model.live)
        middle = (model.compacted + model.revision) // 2
        assert size_if_compacted(store, middle) == model.size(max(middle, model.compacted))
        assert size_if_compacted(store, model.revision) == store.size - (store._superseded - store._freed) == model.live
        assert len(store.keys) == len(store.newest)
        assert len(store.events) == len(store._superseded_at)
        assert store.events.settled == store.events.written
        assert store.removed_below <= store.compacted

    def teardown(self) -> None:
        try:
            self.finish_scan()
            if self.pinned is not None:
                self.load(Dice(b""))
            self._is_whole()
            self._scrub(1000)
            assert not self.store.unscrubbed
            self._is_whole()
        finally:
            self.pieces.restore()

    def _is_whole(self) -> None:
        store, model = self.store, self.model
        for revision in range(max(1, model.compacted), model.revision + 1):
            assert [record for records in store.slices((b"", None), revision) for record in records] == model.span(b"", None, revision)
            assert size_if_compacted(store, revision) == model.size(revision)
        assert contents(store) == (model.base, model.history)
        copy = loaded(store)
        assert (copy.revision, copy.compacted, copy.size, copy.live) == (store.revision, store.compacted, store.size, store.live)
        if not store.unscrubbed:
            assert (copy.newest, copy.older, list(copy.keys)) == (store.newest, store.older, list(store.keys))


TestAgainstTheModel = pytest.mark.timeout(900)(AgainstTheModel.TestCase)
TestAgainstTheModel.settings = settings(max_examples=400, stateful_step_count=25, deadline=None)


class AtDifferentPaces(RuleBasedStateMachine):
    """Whatever two members have removed by now, or loaded: they hold the same, and nothing that can be asked for is missing."""

    def __init__(self) -> None:
        super().__init__()
        self.stores = [Store(), Store()]
        self.model = Model()
        self.scrubbing: list[Generator[None, None, None] | None] = [None, None]
        self.pieces = SmallPieces()

    @initialize(piece=pieces, few=fews)
    def begin(self, piece: int, few: int) -> None:
        self.pieces.cut(piece, few)

    @rule(thrown=long_throws)
    def go_on(self, thrown: bytes) -> None:
        dice = Dice(thrown, self.model)
        acts: list[Act] = [self.write, self.write, self.compact, self.scrub, self.scrub, self.restart, self.read, self.dump]
        act = dice.of(acts)
        note(act.__name__)
        act(dice)

    def write(self, dice: Dice) -> None:
        write(dice, self.model, *self.stores, twice=False)
        self.model.commit()
        for store in self.stores:
            store.moved.clear()
            assert store.commit() == self.model.revision

    def compact(self, dice: Dice) -> None:
        revision = self.model.revision - dice.below(4)
        if self.model.compacted < revision:
            self.model.compacted = revision
            for store in self.stores:
                store.compact(revision)

    def scrub(self, dice: Dice) -> None:
        self._scrub(dice.below(2), 1 + dice.below(12))

    def _scrub(self, which: int, steps: int) -> None:
        work = self.scrubbing[which]
        if work is None and self.stores[which].unscrubbed:
            work = self.stores[which].scrub()
        self.scrubbing[which] = work if work and all(next(work, self) is not self for _ in range(steps)) else None

    def restart(self, dice: Dice) -> None:
        which = dice.below(2)
        self.stores[which], self.scrubbing[which] = loaded(self.stores[which]), None

    def read(self, dice: Dice) -> None:
        store = self.stores[dice.below(2)]
        revision = max(1, self.model.compacted, self.model.revision - dice.below(5))
        for key in KEYS:
            assert store.get(key, revision) == self.model.get(key, revision)
        expected = self.model.span(b"", None, revision)
        assert run(store.scan((b"\x01", None), revision, Selection())) == (tuple(expected), len(expected), False)
        assert [record for record in store.events if record[kv.MOD] >= self.model.compacted] == self.model.history

    def dump(self, _: Dice | None = None) -> None:
        assert contents(self.stores[0]) == contents(self.stores[1]) == (self.model.base, self.model.history)

    @invariant()
    def counts_agree(self) -> None:
        one, other = self.stores
        assert (one.revision, one.compacted, one.size, one.live) == (other.revision, other.compacted, other.size, other.live)

    def teardown(self) -> None:
        try:
            self.dump()
            for which in (0, 1):
                while self.scrubbing[which] or self.stores[which].unscrubbed:
                    self._scrub(which, 1000)
            one, other = self.stores
            assert (one.newest, one.older, list(one.keys), one.events) == (other.newest, other.older, list(other.keys), other.events)
            self.dump()
        finally:
            self.pieces.restore()


TestAtDifferentPaces = pytest.mark.timeout(900)(AtDifferentPaces.TestCase)
TestAtDifferentPaces.settings = settings(max_examples=400, stateful_step_count=20, deadline=None)


def test_an_empty_store_is_at_revision_1() -> None:
    store = Store()
    assert (store.revision, store.latest, store.commit()) == (1, 1, 1)


def test_a_command_that_changes_nothing_makes_no_revision() -> None:
    store = Store()
    run(store.delete((b"\x01", None)))
    assert store.commit() == 1


def test_all_writes_of_a_command_share_one_revision() -> None:
    store = Store()
    assert committed(store, (b"a", b"1"), (b"b", b"2")) == 2
    assert [record[kv.MOD] for record in store.events] == [2, 2]


def test_a_key_deleted_and_put_again_is_a_new_one() -> None:
    store = Store()
    committed(store, (b"a", b"1"))
    committed(store, (b"a", b"2"))
    deleted(store, b"a")
    committed(store, (b"a", b"3"))
    assert [record[kv.CREATE : kv.LEASE] for record in store.events] == [(2, 2, 1), (2, 3, 2), (0, 4, 0), (5, 5, 1)]
    assert [store.get(b"a", revision) is None for revision in range(1, 6)] == [True, False, False, True, False]


def test_uncommitted_writes_are_invisible_at_the_current_revision() -> None:
    store = Store()
    committed(store, (b"a", b"1"))
    store.put(b"a", b"2")
    store.put(b"b", b"2")
    assert store.get(b"a", 2) == (b"a", b"1", 2, 2, 1, 0)
    assert store.get(b"b", 2) is None
    assert scanned(store, 2)[1] == 1
    assert scanned(store, store.latest)[1] == 2


@pytest.mark.parametrize("versions", [1, 2, FEW, FEW + 1, FEW + 2, 40])
def test_versions_can_be_taken_back_one_command_at_a_time(versions: int) -> None:
    store = Store()
    for number in range(versions):
        committed(store, (b"a", b"%d" % number))
        before = (store.newest[b"a"], list(store.older.get(b"a", ())))
        store.put(b"a", b"x")
        store.put(b"a", b"y")
        run(store.rollback())
        assert (store.newest[b"a"], list(store.older.get(b"a", ()))) == before
    assert isinstance(store.older.get(b"a", ()), tuple if versions <= FEW + 1 else list)
    assert [store.get(b"a", revision + 2)[kv.VALUE] for revision in range(versions)] == [b"%d" % n for n in range(versions)]  # type: ignore[index]


def test_spans_whose_end_is_not_behind_their_start_are_empty() -> None:
    store = Store()
    committed(store, (b"a", b"1"), (b"b", b"1"))
    for span in ((b"b", b"a"), (b"b", b"b"), (b"a", b"")):
        assert run(store.scan(span, 2, Selection())) == ((), 0, False)
        assert run(store.delete(span)) == []


def test_limits_count_all_and_tell_that_there_is_more() -> None:
    store = Store()
    committed(store, *((b"%04d" % number, b"v") for number in range(SLICE * 2 + 3)))
    records, count, more = scanned(store, 2, limit=SLICE + 1)
    assert (len(records), count, more) == (SLICE + 1, SLICE * 2 + 3, True)
    records, count, more = scanned(store, 2, limit=SLICE * 2 + 3, keys_only=True)
    assert (len(records), count, more, {record[kv.VALUE] for record in records}) == (count, SLICE * 2 + 3, False, {b""})
    assert scanned(store, 2, limit=1, count_only=True) == ((), SLICE * 2 + 3, False)


def test_a_limit_cuts_what_is_left_by_the_bounds_in_the_order_asked_for() -> None:
    store = Store()
    for key, value in ((b"a", b"3"), (b"b", b"1"), (b"c", b"2"), (b"d", b"1")):
        committed(store, (key, value))
    committed(store, (b"a", b"3"))

    def found(**options: Any) -> tuple[bytes, int, bool]:
        records, count, more = scanned(store, 6, **options)
        return b"".join(record[kv.KEY] for record in records), count, more

    assert found(limit=2) == (b"ab", 4, True)
    assert found(limit=2, descending=True) == (b"dc", 4, True)
    assert found(limit=3, sort_by=wire.SORT_VALUE) == (b"bdc", 4, True)
    assert found(sort_by=wire.SORT_VALUE, descending=True) == (b"acbd", 4, False)  # equals stay in the order of their keys
    assert found(sort_by=wire.SORT_MOD, limit=1, keys_only=True) == (b"b", 4, True)
    assert found(sort_by=wire.SORT_CREATE, descending=True) == (b"dcba", 4, False)
    assert found(sort_by=wire.SORT_VERSION, descending=True, limit=4) == (b"abcd", 4, False)
    assert found(min_mod=4, limit=2) == (b"ac", 4, True)
    assert found(max_mod=4, limit=2) == (b"bc", 4, False)
    assert found(min_create=3, max_create=4, min_mod=1, max_mod=3) == (b"b", 4, False)
    assert found(count_only=True, limit=1, min_mod=6) == (b"", 4, False)


def test_long_deletes_scans_and_rollbacks_are_cut_into_slices() -> None:
    store = Store()
    committed(store, *((b"%06d" % number, b"v") for number in range(SLICE * 8)))
    assert sum(1 for _ in store.scan((b"\x01", None), 2, Selection(sort_by=wire.SORT_VALUE, keys_only=True))) >= 16
    assert sum(1 for _ in store.delete((b"\x01", None))) >= 8
    assert sum(1 for _ in store.rollback()) >= 8
    assert scanned(store, store.latest)[1] == SLICE * 8


def test_revisions_that_do_not_exist_or_are_compacted_are_refused() -> None:
    store = Store(revision=9, compacted=5)
    store.check(9, 9)
    store.check(5, 9)
    with pytest.raises(errors.FutureRevision):
        store.check(9, 8)
    with pytest.raises(errors.Compacted) as compacted:
        store.check(4, 9)
    assert compacted.value.revision == 5


@pytest.mark.parametrize(
    "events",
    [
        [(b"a", b"1", 1, 1, 1, 0)],  # before the first revision
        [(b"a", b"1", 4, 4, 1, 0)],  # after the current one
        [(b"a", b"1", 3, 3, 1, 0), (b"b", b"1", 2, 2, 1, 0)],  # backwards
        [(b"a", b"1", 2, 2, 2, 0)],  # begins at version 2
        [(b"a", b"1", 2, 3, 1, 0)],  # created before it was there
        [(b"a", b"1", 2, 2, 1, 0), (b"a", b"2", 2, 3, 1, 0)],  # same version twice
        [(b"a", b"1", 2, 2, 1, 0), (b"a", None, 2, 3, 1, 0)],  # a tombstone with a version
        [(b"a", None, 0, 2, 0, 0)],  # deletes nothing
        [(b"a", b"1", 2, 2, 1, 0)],  # ends before the current revision
    ],
)
def test_a_history_no_store_can_have_is_refused(events: list[kv.Record]) -> None:
    store = Store(revision=3)
    with pytest.raises(ValueError, match="revision"):  # either step may find it
        store.replay(events)
        store.finish_replay()


def test_a_compacted_history_may_begin_with_late_versions() -> None:
    store = Store(revision=6, compacted=4)
    store.load_base([(b"a", b"1", 2, 3, 2, 0)])
    store.replay([(b"b", None, 0, 4, 0, 0), (b"c", b"1", 3, 4, 2, 0), (b"a", b"2", 2, 5, 3, 0), (b"b", b"1", 6, 6, 1, 0)])
    store.finish_replay()
    assert (store.get(b"a", 4), store.get(b"b", 5), store.get(b"b", 6)) == ((b"a", b"1", 2, 3, 2, 0), None, (b"b", b"1", 6, 6, 1, 0))


@pytest.mark.parametrize(
    "event",
    [
        (b"c", b"1", 1, 4, 1, 0),  # created before the first revision
        (b"c", b"1", 5, 4, 1, 0),  # changed before it was created
        (b"c", b"1", 3, 4, 3, 0),  # changed more often than there were revisions
        (b"c", b"1", 4, 4, 0, 0),
        (b"c", None, 0, 4, 1, 0),  # a tombstone with a version
    ],
)
def test_an_event_at_the_compaction_revision_that_nothing_can_have_led_to_is_refused(event: kv.Record) -> None:
    store = Store(revision=4, compacted=4)
    with pytest.raises(ValueError, match="revision"):
        store.replay([event])


# -- compaction -------------------------------------------------------------------------------------------------------------------------


def compacted_at(store: Store, revision: int) -> Store:
    store.compact(revision)
    run(store.scrub())
    return store


def test_a_tombstone_at_the_compaction_revision_stays_for_watches_and_goes_with_the_next_compaction() -> None:
    store = Store()
    committed(store, (b"a", b"1"), (b"b", b"1"))
    deleted(store, b"a")
    compacted_at(store, 3)
    assert (store.get(b"a", 3), list(store.events), list(store.keys)) == (None, [(b"a", None, 0, 3, 0, 0)], [b"a", b"b"])
    assert store.size == store.live == 1 + 1 + kv.RECORD_BYTES
    committed(store, (b"c", b"1"))
    compacted_at(store, 4)
    assert list(store.keys) == [b"b", b"c"]
    assert store.older == {}


def test_a_store_without_history_has_the_same_pairs_and_goes_on_at_a_later_revision() -> None:
    store = Store()
    for number in range(3 * SLICE):
        committed(store, (b"%d" % (number % SLICE), b"%d" % number))
    deleted(store, b"7", b"13")
    newest = [record for records in store.slices((b"", None), store.revision) for record in records]
    later = store.without_history(revision := store.revision + 1000)
    for one in (later, loaded(later)):
        assert [record for records in one.slices((b"", None), revision) for record in records] == newest
        assert (one.revision, one.compacted, one.size, list(one.events), one.older) == (revision, revision, store.live, [], {})
        with pytest.raises(errors.Compacted):
            one.check(revision - 1, revision)
        assert committed(one, (b"7", b"new")) == revision + 1
        assert one.get(b"7", revision + 1) == (b"7", b"new", revision + 1, revision + 1, 1, 0)
        assert one.get(b"7", revision) is None
        compacted_at(one, revision + 1)
    with pytest.raises(ValueError, match="can't be what a store held"):
        store.without_history(store.revision - 1)


def test_what_was_compacted_counts_no_more_before_it_is_removed() -> None:
    store = Store()
    for value in (b"", b"12345", b"1"):
        committed(store, (b"a", value))
    assert (store.size, store.live) == (3 * (1 + kv.RECORD_BYTES) + 6, 2 + kv.RECORD_BYTES)
    store.compact(3)
    assert store.size == 2 * (1 + kv.RECORD_BYTES) + 6
    assert len(store.events) == 3
    store.compact(4)
    assert store.size == store.live


def test_compacting_what_is_compacted_or_does_not_exist_is_refused() -> None:
    store = Store()
    committed(store, (b"a", b"1"))
    with pytest.raises(errors.FutureRevision):
        store.compact(3)
    store.compact(2)
    for revision in (2, 1, 0):
        with pytest.raises(errors.Compacted) as compacted:
            store.compact(revision)
        assert compacted.value.revision == 2


def test_who_walks_the_history_while_it_is_cut_walks_on() -> None:
    store = Store()
    for _ in range(5):
        committed(store, (b"a", b""))
    held, versions = store.events, store.older[b"a"]
    store.compact(5)
    run(store.scrub())
    assert (len(held), len(versions), len(store.events), len(store.older[b"a"])) == (5, 4, 2, 1)


def test_scrubbing_much_is_cut_into_slices() -> None:
    store = Store()
    for _ in range(3):
        committed(store, *((b"%06d" % number, b"v") for number in range(SLICE * 8)))
    store.compact(4)
    assert sum(1 for _ in store.scrub()) >= 16
    assert len(store.events) == SLICE * 8
    assert store.older == {}


@pytest.mark.parametrize(
    "base",
    [
        [(b"a", None, 0, 3, 0, 0)],  # a deletion
        [(b"a", b"1", 2, 4, 1, 0)],  # at the compaction revision: that is history
        [(b"a", b"1", 1, 3, 1, 0)],  # created before the first revision
        [(b"a", b"1", 3, 2, 1, 0)],  # changed before it was created
        [(b"a", b"1", 2, 3, 3, 0)],  # changed more often than there were revisions
        [(b"a", b"1", 2, 3, 0, 0)],
        [(b"b", b"1", 2, 3, 1, 0), (b"a", b"1", 2, 3, 1, 0)],  # out of order
        [(b"a", b"1", 2, 3, 1, 0), (b"a", b"1", 2, 3, 1, 0)],
    ],
)
def test_a_base_no_store_can_have_is_refused(base: list[kv.Record]) -> None:
    store = Store(revision=6, compacted=4)
    with pytest.raises(ValueError, match="can't be what a store held"):
        store.load_base(base)


# -- compares ---------------------------------------------------------------------------------------------------------------------------


def writer(store: Store) -> Writer:
    result = Writer(store, Leases())
    result.max_bytes = 1 << 40
    return result


def holds(store: Store, compare: ops.Compare) -> bool:
    return bool(run(Reader(store, store.revision).txn(ops.Txn(compare=[compare]).to_wire()))[2])


def test_a_missing_key_has_no_value_and_everything_else_is_zero() -> None:
    store, key = Store(), ops.Key("missing")
    assert not any(holds(store, compare) for compare in (key.value == b"", key.value != b"x", key.value > b"", key.value < b"x"))
    assert all(holds(store, c) for c in (key.version == 0, key.create_revision == 0, key.mod_revision < 1, key.lease == 0, key.missing))
    assert not any(holds(store, compare) for compare in (key.exists, key.version != 0, key.mod_revision > 0))


def test_all_keys_of_a_span_must_satisfy_a_compare() -> None:
    store = Store()
    committed(store, *((b"k%04d" % number, b"v") for number in range(SLICE + 1)))
    assert holds(store, ops.Key(prefix="k").value == b"v")
    committed(store, (b"k%04d" % SLICE, b"w"))
    assert not holds(store, ops.Key(prefix="k").value == b"v")
    assert holds(store, ops.Key(prefix="k").mod_revision < 4)
    assert not holds(store, ops.Key(prefix="nothing").value != b"v")
    assert holds(store, ops.Key(prefix="nothing").version == 0)


def test_nested_compares_see_the_state_before_the_transaction() -> None:
    store = Store()
    inner = ops.Txn(compare=[ops.Key("a").missing], then=[ops.Get("a")])
    answer = run(writer(store).execute(ops.Txn(then=[ops.Put("a", "1"), inner]).to_wire()))
    assert answer == (wire.OK, 2, True, ((wire.OK, 2, None), (wire.OK, 2, True, ((wire.OK, (b"a", b"1", 2, 2, 1, 0)),))))


# -- readers on other threads -------------------------------------------------------------------------------------------------------------


class Story:
    """What a store goes through, and what it then has to show at each revision."""

    def __init__(self, commands: int, seed: int) -> None:
        self.rng = random.Random(seed)
        self.store, self.model = Store(), Model()
        self.published = 1
        self.wrong: list[Any] = []
        self.over = False
        self.thrown = [self.rng.randbytes(24) for _ in range(commands)]
        self.shown = self._foretold()

    def _foretold(self) -> list[list[Raw]]:
        """Go through it once without readers; the model forgets its old versions every now and then, to be quick."""
        store, model = Store(), Model()
        shown: list[list[Raw]] = [[], []]
        for thrown in self.thrown:
            write(Dice(thrown, model), model, store, twice=False)
            store.moved.clear()
            store.commit()
            model.commit()
            if model.revision == len(shown):
                shown.append(model.span(b"", None, model.revision))
            model.versions = {key: versions[-3:] for key, versions in model.versions.items()}
        return shown

    def write(self) -> None:
        model, scrubbing = Model(), None
        for number, thrown in enumerate(self.thrown):
            if number % 5 == 3:
                write(Dice(thrown[::-1], model), model, self.store, twice=True)
                model.rollback()
                run(self.store.rollback())
            write(Dice(thrown, model), model, self.store, twice=False)
            self.store.moved.clear()
            model.commit()
            self.published = self.store.commit()
            model.versions = {key: versions[-3:] for key, versions in model.versions.items()}
            if number % 23 == 7 and self.store.compacted < self.published - 4:
                self.store.compact(self.published - 4)
            if scrubbing is None and self.store.unscrubbed:
                scrubbing = self.store.scrub()
            if scrubbing is not None and next(scrubbing, self) is self:
                scrubbing = None

    def read(self, seed: int) -> None:
        rng, store = random.Random(seed), self.store
        while not self.over and not self.wrong:
            revision = max(1, self.published - rng.randrange(8))
            expected, key, limit = self.shown[revision], rng.choice(KEYS), rng.choice([0, 2])
            record = store.get(key, revision)
            records, count, more = scanned(store, revision, limit=limit, descending=limit == 0)
            if revision < store.removed_below:
                continue  # as the machine does: the answer does not count
            listed = list(expected[:limit] if limit else expected[::-1])
            if record != next((r for r in expected if r[kv.KEY] == key), None):
                self.wrong.append((revision, key, record))
            if (list(records), count, more) != (listed, len(expected), 0 < limit < len(expected)):
                self.wrong.append((revision, records))


def test_readers_racing_with_writes_and_scrubs_see_whole_revisions_and_never_the_future() -> None:
    story, pieces = Story(12_000, seed=5), SmallPieces()
    readers = [threading.Thread(target=story.read, args=(seed,)) for seed in range(2)]
    pieces.cut(piece=3, few=2)
    with hasty_threads():
        for reader in readers:
            reader.start()
        try:
            story.write()
        finally:
            story.over = True
            for reader in readers:
                reader.join()
            pieces.restore()
    assert not story.wrong
    assert len(story.shown) == story.published + 1
    assert story.store.removed_below > story.published - 40


def test_a_read_is_right_whatever_a_rollback_does_in_the_middle_of_it() -> None:
    for at in range(3):
        store = Store()
        for number in range(3):
            committed(store, (b"a", b"%d" % number))
        store.put(b"a", b"never")
        store.newest = Meddling(store, at)
        assert store.get(b"a", 4) == (b"a", b"2", 2, 4, 3, 0)


def test_readers_see_nothing_of_a_run_of_puts_at_any_moment_of_it() -> None:
    store = Store()
    published = committed(store, (b"a", b"1"), (b"b", b"1"))
    before = (store.get(b"a", published), store.get(b"c", published), scanned(store, published))
    seen: list[Any] = []

    def look() -> None:
        seen.append((store.get(b"a", published), store.get(b"c", published), scanned(store, published)))

    store.newest, store.older = Looking(store.newest, look), Looking(store.older, look)
    keys = [key for _ in range(FEW + 2) for key in (b"a", b"c")]
    store.put_each([(wire.PUT, key, b"2", False) for key in keys], [], 100, 1 << 20)
    assert (store.revision, len(seen)) == (published + len(keys), 4 * (FEW + 2) - 2)
    assert set(map(repr, seen)) == {repr(before)}


class Looking(dict[bytes, Any]):
    """Has somebody look after each change."""

    def __init__(self, content: dict[bytes, Any], look: Callable[[], None]) -> None:
        super().__init__(content)
        self._look = look

    def __setitem__(self, key: bytes, value: Any) -> None:
        super().__setitem__(key, value)
        self._look()


class Meddling(dict[bytes, Any]):
    """Takes back the store's uncommitted writes just before, or right after, one of the look-ups."""

    def __init__(self, store: Store, at: int) -> None:
        super().__init__(store.newest)
        self._store = store
        self._left = at

    def get(self, key: bytes, default: Any = None) -> Any:
        found = super().get(key, default)
        if self._left == 0:
            run(self._store.rollback())
        self._left -= 1
        return found


def test_the_quick_look_at_a_first_version_lets_through_what_the_full_check_does() -> None:
    for compacted, value, create, mod, version in itertools.product((0, 3), (b"v", None), range(6), range(6), range(3)):
        record = (b"k", value, create, mod, version, 0)
        stores = [Store(4, compacted) for _ in range(2)]
        outcomes = []
        checks: list[Callable[[], object]] = [
            partial(stores[0]._check_replayed, None, record, max(2, compacted)),
            partial(stores[1].replay, [record]),
        ]
        for check in checks:
            try:
                check()
            except ValueError as error:
                outcomes.append(str(error))
            else:
                outcomes.append("")
        assert outcomes[0] == outcomes[1]


def test_a_full_collection_does_not_make_the_store_young_again() -> None:
    """The dicts were found to hold nothing but atoms, and were new with the next put: a million keys were visited three times more."""
    store = Store()
    committed(store, *((b"%d" % number, b"old") for number in range(100)))
    committed(store, (b"1", b"new"))
    for _ in range(2):
        gc.collect()
    committed(store, (b"1", b"newer"), (b"2", b"new"))
    assert not [each for each in gc.get_objects(generation=0) if each is store.newest or each is store.older]
    assert gc.is_tracked(store.newest)
    assert gc.is_tracked(store.older)
