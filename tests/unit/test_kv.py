"""The store against its model, and under threads that read while it is written."""

from __future__ import annotations

import random
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from model_kv import KEYS, Model, commands, keys, reads, same, spans, txns, values

from replkv import errors, kv, ops
from replkv.kv import FEW, SLICE, Store, run
from replkv.txn import Reader, Writer


def committed(store: Store, *pairs: tuple[bytes, bytes]) -> int:
    for key, value in pairs:
        store.put(key, value)
    return store.commit()


def scanned(store: Store, revision: int, **options: Any) -> Any:
    return run(store.scan((b"\x01", None), revision, **options))


class AgainstTheModel(RuleBasedStateMachine):
    """The store does what the model does, at every revision, and taking writes back leaves no trace."""

    def __init__(self) -> None:
        super().__init__()
        self.store = Store()
        self.writer = Writer(self.store)
        self.model = Model()

    def _execute(self, wire: ops.Raw) -> ops.Raw:
        try:
            answer = run(self.writer.execute(wire))
        except errors.Rejected as refused:
            run(self.store.rollback())
            return ops.refusal(type(refused), str(refused))
        self.store.commit()
        return answer

    @rule(operation=commands)
    def execute(self, operation: ops.Operation) -> None:
        wire = operation.to_wire()
        answer, expected = self._execute(wire), self.model.execute(wire)
        assert same(answer, expected), (answer, expected)

    @rule(written=st.lists(st.tuples(keys, values), max_size=4), span=spans, more=st.lists(st.tuples(keys, values), max_size=3))
    def take_back(self, written: list[tuple[bytes, bytes]], span: dict[str, bytes], more: list[tuple[bytes, bytes]]) -> None:
        for key, value in written:
            self.store.put(key, value)
        run(self.store.delete(ops.Span.of(**span)))
        for key, value in more:
            self.store.put(key, value)
        run(self.store.rollback())

    @rule(operation=st.one_of(reads, txns(reads)), back=st.integers(0, 6))
    def read(self, operation: ops.Get | ops.Scan | ops.Txn, back: int) -> None:
        revision = max(1, self.store.revision - back)
        wire = operation.to_wire()
        try:
            answer = run(Reader(self.store, revision).execute(wire))
        except errors.Rejected as refused:
            answer = ops.refusal(type(refused), str(refused))
        past = Model()
        past.versions, past.revision = self.model.versions, revision
        assert same(answer, past.execute(wire))

    @precondition(lambda self: self.store.revision > 1)
    @rule(key=keys, data=st.data())
    def get(self, key: bytes, data: st.DataObject) -> None:
        revision = data.draw(st.integers(1, self.store.revision))
        assert self.store.get(key, revision) == self.model.get(key, revision)

    @invariant()
    def indexes_agree(self) -> None:
        store = self.store
        assert store.revision == store.latest == self.model.revision
        assert list(store.keys) == sorted(store.newest) == sorted(self.model.versions)
        for key, versions in self.model.versions.items():
            held = [*store.older.get(key, ()), store.newest[key]]
            assert [(record[kv.MOD], record[kv.VALUE], record[kv.CREATE], record[kv.VERSION]) for record in held] == versions
        assert store.events == sorted(store.events, key=lambda record: record[kv.MOD])
        assert len(store.events) == sum(map(len, self.model.versions.values()))

    @invariant()
    def replayed_history_is_the_same_store(self) -> None:
        copy = Store(self.store.revision)
        copy.replay(self.store.events)
        copy.finish_replay()
        assert (copy.newest, copy.older, list(copy.keys)) == (self.store.newest, self.store.older, list(self.store.keys))


TestAgainstTheModel = AgainstTheModel.TestCase
TestAgainstTheModel.settings = settings(max_examples=80, stateful_step_count=25, deadline=None)


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
    run(store.delete((b"a", b"a\x00")))
    store.commit()
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
        assert run(store.scan(span, 2)) == ((), 0, False)
        assert run(store.delete(span)) == []


def test_limits_count_all_and_tell_that_there_is_more() -> None:
    store = Store()
    committed(store, *((b"%04d" % number, b"v") for number in range(SLICE * 2 + 3)))
    records, count, more = scanned(store, 2, limit=SLICE + 1)
    assert (len(records), count, more) == (SLICE + 1, SLICE * 2 + 3, True)
    records, count, more = scanned(store, 2, limit=SLICE * 2 + 3, keys_only=True)
    assert (len(records), count, more, {record[kv.VALUE] for record in records}) == (count, SLICE * 2 + 3, False, {b""})
    assert scanned(store, 2, limit=1, count_only=True) == ((), SLICE * 2 + 3, False)


def test_long_deletes_scans_and_rollbacks_are_cut_into_slices() -> None:
    store = Store()
    committed(store, *((b"%06d" % number, b"v") for number in range(SLICE * 8)))
    assert sum(1 for _ in store.scan((b"\x01", None), 2)) >= 8
    assert sum(1 for _ in store.delete((b"\x01", None))) >= 8
    assert sum(1 for _ in store.rollback()) >= 8
    assert scanned(store, store.latest)[1] == SLICE * 8


def test_revisions_that_do_not_exist_or_are_compacted_are_refused() -> None:
    store = Store(revision=9, compacted=5)
    assert (store.check(0, 9), store.check(9, 9), store.check(5, 9)) == (9, 9, 5)
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
    store.replay([(b"a", b"1", 2, 3, 2, 0), (b"b", None, 0, 4, 0, 0), (b"a", b"2", 2, 5, 3, 0), (b"b", b"1", 6, 6, 1, 0)])
    store.finish_replay()
    assert (store.get(b"a", 4), store.get(b"b", 5)) == ((b"a", b"1", 2, 3, 2, 0), None)


# -- compares ---------------------------------------------------------------------------------------------------------------------------


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
    answer = run(Writer(store).execute(ops.Txn(then=[ops.Put("a", "1"), inner]).to_wire()))
    assert answer == (ops.OK, 2, True, ((ops.OK, 2, None), (ops.OK, 2, True, ((ops.OK, (b"a", b"1", 2, 2, 1, 0)),))))


# -- readers on other threads -------------------------------------------------------------------------------------------------------------


@contextmanager
def hasty_threads() -> Iterator[None]:
    """Let threads take turns as often as can be."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        yield
    finally:
        sys.setswitchinterval(interval)


def write_pairs(store: Store, published: list[int], rounds: int) -> None:
    """Write all keys in each revision, with its number as the value; between them, write and delete what is then taken back."""
    rng = random.Random(5)
    for number in range(rounds):
        if number % 7 == 3:
            run(store.delete((b"\x01", None)))
            store.put(b"new", b"never")
            run(store.rollback())
            store.put(rng.choice(KEYS), b"never")
            run(store.rollback())
        for key in KEYS:
            store.put(key, b"%d" % (store.revision + 1))
        published[0] = store.commit()


def read_pairs(store: Store, published: list[int], wrong: list[Any], done: threading.Event) -> None:
    rng = random.Random(threading.get_ident())
    while not done.is_set() and not wrong:
        revision = max(1, published[0] - rng.randrange(3))
        expected = b"%d" % revision if revision > 1 else None
        record = store.get(rng.choice(KEYS), revision)
        if (record and record[kv.VALUE]) != expected:
            wrong.append((revision, record))
        records, count, _ = scanned(store, revision)
        if count != (len(KEYS) if expected else 0) or {record[kv.VALUE] for record in records} - {expected}:
            wrong.append((revision, records))


def test_readers_racing_with_the_writer_see_whole_revisions_and_never_the_future() -> None:
    store, published, done = Store(), [1], threading.Event()
    wrong: list[Any] = []
    readers = [threading.Thread(target=read_pairs, args=(store, published, wrong, done)) for _ in range(3)]
    with hasty_threads():
        for reader in readers:
            reader.start()
        try:
            write_pairs(store, published, 6000)
        finally:
            done.set()
            for reader in readers:
                reader.join()
    assert not wrong
    assert store.revision == 6001


def test_a_read_is_right_whatever_a_rollback_does_in_the_middle_of_it() -> None:
    for at in range(3):
        store = Store()
        for number in range(3):
            committed(store, (b"a", b"%d" % number))
        store.put(b"a", b"never")
        store.newest = Meddling(store, at)
        assert store.get(b"a", 4) == (b"a", b"2", 2, 4, 3, 0)


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
