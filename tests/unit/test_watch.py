"""Cursors and the hub against a plain list of events: nothing lost, repeated or out of order, and nobody who has to be polled."""

from __future__ import annotations

import gc
import random
import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from typing import Any, Self

import pytest
from hasty import hasty_threads
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from replkv import kv, watch
from replkv.errors import Compacted
from replkv.kv import Store, run
from replkv.values import Event, KeyValue, Span
from replkv.watch import SHARED, STEP, Cursor, Hub, Part, Place, Readings, to_event

KEYS = [b"a", b"a\x00", b"ab", b"b", b"c\xff"]
SPANS = [
    *(Span(key, key + b"\x00") for key in KEYS),
    Span(b"\x01", None),
    Span(b"a", b"b"),
    Span(b"ab", b"c"),
    Span(b"b", None),
    Span(b"ab", None),
    Span(b"b", b"b"),
    Span(b"nothing", b"o"),
]
EVERYTHING = Span(b"\x01", None)


def within(key: bytes, span: Span) -> bool:
    return span.start <= key and (span.end is None or key < span.end)


def committed(store: Store, *pairs: tuple[bytes, bytes]) -> int:
    for key, value in pairs:
        store.put(key, value)
    return store.commit()


def nobody() -> None:
    raise AssertionError("woken without reason")


# -- the model ------------------------------------------------------------------------------------------------------------------------


class Model:
    """What was written, as a list of events that tell what they replaced."""

    def __init__(self) -> None:
        self.revision = 1
        self.pairs: dict[bytes, KeyValue] = {}
        self.events: list[Event] = []
        self.pending: list[Event] = []

    def put(self, key: bytes, value: bytes, lease: int) -> None:
        old = self.pairs.get(key)
        create, version = (self.revision + 1, 1) if old is None else (old.create_revision, old.version + 1)
        new = KeyValue(key, value, create, self.revision + 1, version, lease)
        self.pending.append(Event("put", new, old, self.revision + 1))

    def delete(self, key: bytes, expired: int = 0) -> None:
        old = self.pairs.get(key)
        if old is not None:
            gone = KeyValue(key, b"", 0, self.revision + 1, 0, expired)
            self.pending.append(Event("delete", gone, old, self.revision + 1, expired != 0))

    def touched(self, key: bytes) -> bool:
        return any(event.key == key for event in self.pending)

    def commit(self) -> None:
        self.revision += bool(self.pending)
        for event in self.pending:
            self.pairs[event.key] = event.kv
            if event.kind == "delete":
                del self.pairs[event.key]
        self.events += self.pending
        self.pending = []


class Consumer:
    """Who holds a cursor: what it got, and whether it sleeps."""

    def __init__(self, span: Span, start: int, kinds: tuple[bool, bool], prev_kv: bool, readings: Readings | None = None) -> None:
        self.start = start
        self.cursor = Cursor(span, Place(start), self.wake, *kinds, prev_kv=prev_kv, readings=readings)
        self.got = 0
        self.asleep = False
        self.gone = False
        self.wakes = 0

    def wake(self) -> None:
        assert self.asleep, "woken without being armed"
        assert not self.gone
        self.asleep = False
        self.wakes += 1

    def to_come(self, model: Model, revision: int) -> list[Event]:
        """What the model says is still to come, up to a revision."""
        cursor = self.cursor
        wanted = [
            event if cursor.prev_kv else event._replace(prev_kv=None)
            for event in model.events
            if self.start <= event.revision <= revision
            and within(event.key, cursor.span)
            and (cursor.puts if event.kind == "put" else cursor.deletes)
        ]
        return wanted[self.got :]


writes = st.one_of(
    st.tuples(st.just("put"), st.sampled_from(KEYS), st.sampled_from([b"", b"x", b"y"]), st.integers(0, 2)),
    st.tuples(st.just("delete"), st.sampled_from(SPANS)),
    st.tuples(st.just("expire"), st.lists(st.sampled_from(KEYS), unique=True, max_size=3), st.integers(1, 2)),
)
whose = st.integers(0, 5)


class AgainstTheModel(RuleBasedStateMachine):
    """Every consumer gets what the model says; one that sleeps is missing nothing as soon as the hub has caught up."""

    def __init__(self) -> None:
        super().__init__()
        self.steps = (watch.PUBLISHED_STEP, kv.SLICE)
        watch.PUBLISHED_STEP, kv.SLICE = 3, 2
        self.store, self.model, self.hub = Store(), Model(), Hub()
        self.published = 1
        self.scrubbing: Iterator[None] | None = None
        self.consumers: list[Consumer] = []
        self.left: list[Consumer] = []

    # -- the node --

    def _write(self, write: tuple[Any, ...]) -> None:
        """Write to both; no key twice in one command, which is what transactions promise."""
        store, model = self.store, self.model
        match write:
            case ("put", key, value, lease):
                if not model.touched(key):
                    store.put(key, value, lease)
                    model.put(key, value, lease)
            case ("delete", span):
                if not any(model.touched(key) and within(key, span) for key in KEYS):
                    run(store.delete(span))
                    for key in sorted(model.pairs):
                        if within(key, span):
                            model.delete(key)
            case ("expire", keys, lease):
                keys = [key for key in keys if not model.touched(key)]
                run(store.delete_keys(keys, lease))
                for key in keys:
                    model.delete(key, lease)

    @property
    def between(self) -> bool:
        """Whether no command is at work."""
        return not self.model.pending

    @initialize(commands=st.lists(st.lists(writes, max_size=3), max_size=8))
    def begin(self, commands: list[list[tuple[Any, ...]]]) -> None:
        for command in commands:
            self.write(command)
            self.commit()

    @rule(command=st.lists(writes, min_size=1, max_size=5))
    def write(self, command: list[tuple[Any, ...]]) -> None:
        for write in command:
            self._write(write)

    @precondition(lambda self: not self.between)
    @rule()
    def commit(self) -> None:
        self.model.commit()
        assert self.store.commit() == self.model.revision
        self.store.moved.clear()

    @precondition(lambda self: not self.between)
    @rule()
    def take_back(self) -> None:
        self.model.pending = []
        run(self.store.rollback())

    @rule()
    def publish(self) -> None:
        self.published = self.store.revision

    @precondition(lambda self: self.between)
    @rule(commands=st.lists(st.lists(writes, max_size=2), min_size=1, max_size=3))
    def turn(self, commands: list[list[tuple[Any, ...]]]) -> None:
        """Do all of it at once, as a node does that has little to do."""
        for command in commands:
            self.write(command)
            self.commit()
        self.publish()
        self.match()

    @rule()
    def match(self) -> None:
        """Let the hub look at some of it: whoever is woken has something to do."""
        self._match()

    def _match(self) -> bool:
        asleep = [consumer for consumer in self.consumers if consumer.asleep]
        reached = self.hub._place.revision
        more = self.hub.publish(self.store, self.published)
        for consumer in asleep:
            assert consumer.asleep or consumer.to_come(self.model, self.published) or reached < self.store.removed_below
        assert more == (self.hub._place.revision <= self.published)
        return more

    @precondition(lambda self: self.between and self.store.compacted < self.store.revision)
    @rule(back=st.integers(0, 4))
    def compact(self, back: int) -> None:
        self.store.compact(max(self.store.compacted + 1, self.store.revision - back))

    @precondition(lambda self: self.between and (self.scrubbing or (self.published >= self.store.compacted and self.store.unscrubbed)))
    @rule()
    def scrub(self) -> None:
        """Remove a slice; commands are carried out between two of them."""
        if self.scrubbing is None:
            self.scrubbing = self.store.scrub()
        self.scrubbing = self.scrubbing if next(self.scrubbing, self) is None else None

    @precondition(lambda self: self.between and self.scrubbing is None)
    @rule(commands=st.lists(st.lists(writes, max_size=3), max_size=3), back=st.integers(-1, 2))
    def install_a_snapshot(self, commands: list[list[tuple[Any, ...]]], back: int) -> None:
        """Go on from a state that is ahead."""
        for command in commands:
            self.write(command)
            self.commit()
        if back >= 0 and self.store.compacted < self.store.revision - back:
            self.store.compact(self.store.revision - back)
        base, events, history = self.store.pin()
        copy = Store(self.store.revision, self.store.compacted)
        copy.load_base(list(base))
        copy.replay(events[place] for place in history)
        copy.finish_replay()
        self.store, self.published = copy, copy.revision
        self.hub.restart(copy.revision)
        assert not any(consumer.asleep for consumer in self.consumers)

    # -- consumers --

    @precondition(lambda self: len(self.consumers) < 6)
    @rule(
        span=st.sampled_from(SPANS),
        start=st.integers(-6, 3),
        kinds=st.sampled_from([(True, True), (True, True), (True, False), (False, True)]),
        prev_kv=st.booleans(),
        sharing=st.booleans(),
    )
    def open(self, span: Span, start: int, kinds: tuple[bool, bool], prev_kv: bool, sharing: bool) -> None:
        readings = self.hub.readings if sharing else None
        self.consumers.append(Consumer(span, max(1, self.published + start), kinds, prev_kv, readings))

    @precondition(lambda self: self.consumers)
    @rule(who=whose, limit=st.integers(1, 5))
    def look(self, who: int, limit: int) -> None:
        self._look(self.consumers[who % len(self.consumers)], limit)

    @precondition(lambda self: self.consumers)
    @rule(who=whose)
    def read_all(self, who: int) -> None:
        consumer = self.consumers[who % len(self.consumers)]
        while consumer in self.consumers and not self._look(consumer, STEP):
            pass

    @precondition(lambda self: self.consumers)
    @rule(who=whose)
    def leave(self, who: int) -> None:
        self._leave(self.consumers[who % len(self.consumers)])

    def _leave(self, consumer: Consumer) -> None:
        self.consumers.remove(consumer)
        self.hub.leave(consumer.cursor)
        self.left.append(consumer)

    def _look(self, consumer: Consumer, limit: int) -> bool:
        """Take one step as a watch does; tell whether the consumer sleeps."""
        cursor = consumer.cursor
        reached = self.hub.reached(cursor)
        assert not [event for event in consumer.to_come(self.model, self.published) if event.revision < reached]
        self.hub.disarm(cursor)
        was_asleep, consumer.asleep = consumer.asleep, False
        if was_asleep:
            assert cursor.place >= Place(reached)
        before, kept, oldest = cursor.place, self.store.compacted + cursor.prev_kv, self.store.compacted + cursor.prev_kv
        if cursor.synced:
            oldest = self.store.removed_below + cursor.prev_kv
        try:
            events, caught_up = cursor.read(self.store, self.published, limit)
        except Compacted as error:
            assert before.revision < oldest <= kept == error.revision  # noqa: PT017  # it is raised where it must be, and only there
            self._leave(consumer)
            return False
        assert before.revision >= oldest
        self._check(consumer, limit, events, caught_up)
        assert caught_up or cursor.place > before
        if caught_up:
            consumer.asleep = self.hub.arm(cursor)
        return consumer.asleep

    def _check(self, consumer: Consumer, limit: int, events: list[Event], caught_up: bool) -> None:
        to_come = consumer.to_come(self.model, self.published)
        assert events == to_come[: len(events)]
        consumer.got += len(events)
        following, place = to_come[len(events) :], consumer.cursor.place
        assert not (caught_up and following)
        if place.passed:
            alike = sum(event.revision == place.revision for event in self.model.events)
            assert alike > limit, "only a revision that is too large is split"
            assert all(event.revision == place.revision for event in events)
        else:
            assert all(event.revision < place.revision for event in events)
            assert all(event.revision >= place.revision for event in following)

    # -- what must hold --

    @invariant()
    def who_sleeps_has_nothing_that_was_matched(self) -> None:
        matched = self.hub._place.revision
        for consumer in self.consumers:
            if consumer.asleep:
                assert all(event.revision >= matched for event in consumer.to_come(self.model, self.published))

    def teardown(self) -> None:
        """Nobody looks any more without being woken: all the same everybody gets everything."""
        try:
            self.commit()
            while self.scrubbing is not None:
                self.scrub()
            self.publish()
            while self._match():
                pass
            for consumer in self.left:
                consumer.gone = True  # the hub has forgotten it
            while awake := [consumer for consumer in self.consumers if not consumer.asleep]:
                self._look(awake[0], STEP)
            assert not any(consumer.to_come(self.model, self.published) for consumer in self.consumers)
            self.install_a_snapshot([[("put", KEYS[0], b"last", 0)]], -1)
            assert not any(self.hub.arm(consumer.cursor) for consumer in self.left)
            self.hub.end()
        finally:
            watch.PUBLISHED_STEP, kv.SLICE = self.steps


TestAgainstTheModel = AgainstTheModel.TestCase
TestAgainstTheModel.settings = settings(max_examples=400, stateful_step_count=20, deadline=None)


# -- places ---------------------------------------------------------------------------------------------------------------------------


def history(*revisions: int) -> list[kv.Record]:
    return [(b"k%d" % place, b"", revision, revision, 1, 0) for place, revision in enumerate(revisions)]


@pytest.mark.parametrize(
    ("place", "revision", "limit", "found", "behind"),
    [
        (Place(2), 9, 9, [2, 3, 3, 5, 9], Place(10)),
        (Place(2), 8, 9, [2, 3, 3, 5], Place(9)),  # what comes later may be taken back
        (Place(4), 9, 9, [5, 9], Place(10)),
        (Place(12), 9, 9, [], Place(12)),  # yet to come
        (Place(2), 9, 2, [2], Place(3)),  # revision 3 stays whole
        (Place(2), 9, 3, [2, 3, 3], Place(5)),
        (Place(3), 9, 1, [3], Place(3, 1)),  # it alone is too large
        (Place(3, 1), 9, 1, [3], Place(5)),
        (Place(3, 1), 9, 2, [3, 5], Place(9)),
        (Place(5), 5, 1, [5], Place(6)),
    ],
)
def test_a_step_passes_whole_revisions_where_it_can(place: Place, revision: int, limit: int, found: list[int], behind: Place) -> None:
    events = history(2, 3, 3, 5, 9)
    first = sum(event[kv.MOD] < place.revision for event in events)
    records, next_place = watch.walk(events, first, place, revision, limit)
    assert ([record[kv.MOD] for record in records], next_place) == (found, behind)


def test_a_single_key_is_followed_without_looking_at_the_others() -> None:
    store = Store()
    for number in range(3 * kv.FEW):
        committed(store, (b"a", b"%d" % number), *((b"b%d" % other, b"") for other in range(100)))
    store.events = None  # type: ignore[assignment]  # who looks there fails
    cursor = Cursor(Span(b"a", b"a\x00"), Place(1), nobody)
    found: list[bytes] = []
    while True:
        events, caught_up = cursor.read(store, store.revision, limit=5)
        assert len(events) <= 6
        found += [event.value for event in events]
        if caught_up:
            break
    assert found == [b"%d" % number for number in range(3 * kv.FEW)]
    assert cursor.place == Place(store.revision + 1)


@pytest.mark.parametrize(
    "meanwhile", [lambda store: run(store.rollback()), lambda store: committed(store, (b"b", b"")) and store.put(b"a", b"3")]
)
def test_a_single_key_is_read_right_while_its_newest_version_is_taken_back_or_replaced(meanwhile: Callable[[Store], object]) -> None:
    store = Store()
    committed(store, (b"a", b"1"))
    store.put(b"a", b"2")

    class Interrupted(dict[Any, Any]):
        def get(self, key: Any, default: Any = None) -> Any:
            store.older = dict(self)
            meanwhile(store)
            return store.older.get(key, default)

    store.older = Interrupted(store.older)
    events, _ = Cursor(Span(b"a", b"a\x00"), Place(1), nobody).read(store, 2)
    assert [(event.revision, event.value) for event in events] == [(2, b"1")]


def test_an_event_tells_what_happened() -> None:
    put, gone, over = (b"p/a", b"v", 2, 5, 3, 7), (b"p/a", None, 0, 6, 0, 0), (b"p/a", None, 0, 6, 0, 7)
    assert to_event(put) == Event("put", KeyValue(b"p/a", b"v", 2, 5, 3, 7), None, 5)
    assert to_event(gone) == Event("delete", KeyValue(b"p/a", b"", 0, 6, 0), None, 6)
    assert to_event(over) == Event("delete", KeyValue(b"p/a", b"", 0, 6, 0, 7), None, 6, expired=True)
    assert to_event(over, put, cut=2) == Event("delete", KeyValue(b"a", b"", 0, 6, 0, 7), KeyValue(b"a", b"v", 2, 5, 3, 7), 6, expired=True)


# -- compaction -----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("span", [Span(b"a", b"a\x00"), Span(b"a", b"b")])
@pytest.mark.parametrize("kinds", [(True, True), (True, False), (False, True)])
@pytest.mark.parametrize("prev_kv", [False, True])
def test_those_who_watch_the_same_share_what_they_read(span: Span, kinds: tuple[bool, bool], prev_kv: bool) -> None:
    store, readings = Store(), Readings()
    for number in range(20):
        committed(store, (b"a", b"%d" % number), (b"b", b""))
        run(store.delete((b"a", b"a\x00")))
        store.commit()

    def read(*steps: int, others: bool = False) -> list[Event]:
        """Read on up to each of these revisions, in small steps."""
        cursor = Cursor(span, Place(2), nobody, *kinds, prev_kv=prev_kv, cut=int(others), readings=readings)
        found: list[Event] = []
        for revision in steps:
            caught_up = False
            while not caught_up:
                events, caught_up = cursor.read(store, revision, limit=7)
                found += events
        return found

    alone = Cursor(span, Place(2), nobody, *kinds, prev_kv=prev_kv).read(store, store.revision)[0]
    first, second, third = read(11, 30, store.revision), read(11, 30, store.revision), read(5, 41)
    assert first == second == third == alone
    assert [id(event) for event in first] == [id(event) for event in second], "each is made once"
    assert [event.key for event in read(store.revision, others=True)] == [b""] * len(alone)


def test_what_is_kept_for_others_is_bounded_and_forgotten_when_it_is_compacted() -> None:
    store, hub = Store(), Hub()
    for number in range(3 * STEP):
        committed(store, (b"a", b"%d" % number))
    for span in (Span(b"a", b"a\x00"), EVERYTHING):
        cursor = Cursor(span, Place(2), nobody, readings=hub.readings)
        while not cursor.read(store, store.revision)[1]:
            assert sum(len(part.events) for part in hub.readings.values()) <= SHARED
    hub.readings.add("a giant", Place(2), Part([to_event(store.events[0])] * (SHARED + 1), Place(3), 2))
    assert 0 < sum(len(part.events) for part in hub.readings.values()) <= SHARED
    store.compact(store.revision)
    hub.publish(store, store.revision)
    assert not hub.readings
    with pytest.raises(Compacted):
        Cursor(EVERYTHING, Place(2), nobody, readings=hub.readings).read(store, store.revision)


def test_a_cursor_rests_while_nothing_that_is_published_is_its_own() -> None:
    store, hub = Store(), Hub()
    hub.publish(store, 1)
    cursor = Cursor(Span(b"a", b"a\x00"), Place(2), lambda: None)
    assert not hub.rests(cursor, 1)
    assert hub.arm(cursor)
    assert hub.rests(cursor, 1)
    assert not hub.rests(cursor, committed(store, (b"b", b""))), "the hub has not looked at this yet"
    hub.publish(store, 2)
    assert hub.rests(cursor, 2)
    hub.publish(store, committed(store, (b"a", b"")))
    assert not hub.rests(cursor, 3)
    assert not hub.rests(cursor, 2), "who has been woken looks"


def test_the_events_of_the_compacted_revision_are_kept_but_not_what_they_replaced() -> None:
    store = Store()
    for number in range(5):
        committed(store, (b"a", b"%d" % number))
    store.compact(4)
    run(store.scrub())
    for span in (EVERYTHING, Span(b"a", b"a\x00")):
        assert [event.revision for event in Cursor(span, Place(4), nobody).read(store, 6)[0]] == [4, 5, 6]
        with pytest.raises(Compacted, match="from revision 3 on") as caught:
            Cursor(span, Place(3), nobody).read(store, 6)
        assert caught.value.revision == 4
        with pytest.raises(Compacted, match="what they replaced") as caught:
            Cursor(span, Place(4), nobody, prev_kv=True).read(store, 6)
        assert caught.value.revision == 5
        events = Cursor(span, Place(5), nobody, prev_kv=True).read(store, 6)[0]
        assert [(event.value, event.prev_kv and event.prev_kv.value) for event in events] == [(b"3", b"2"), (b"4", b"3")]


def test_a_compaction_does_not_concern_those_whose_keys_did_not_change() -> None:
    store, hub = Store(), Hub()
    others, own = Cursor(Span(b"b", b"c"), Place(2), nobody), Consumer(Span(b"a", b"b"), 2, (True, True), prev_kv=False)
    hub.publish(store, 1)
    assert hub.arm(others)
    own.asleep = hub.arm(own.cursor)
    for number in range(5):
        committed(store, (b"a", b"%d" % number))
    store.compact(6)  # before the hub has seen any of it
    assert not hub.publish(store, 6)
    assert own.wakes == 1
    with pytest.raises(Compacted):
        own.cursor.read(store, 6)
    run(store.scrub())
    hub.disarm(others)
    assert others.read(store, 6) == ([], True)


def test_who_slept_while_unmatched_history_was_removed_is_woken_to_find_out() -> None:
    store, hub = Store(), Hub()
    consumer = Consumer(Span(b"a", b"b"), 2, (True, True), prev_kv=False)
    hub.publish(store, 1)
    consumer.asleep = hub.arm(consumer.cursor)
    for number in range(5):
        committed(store, (b"b", b"%d" % number))
    store.compact(6)
    run(store.scrub())
    assert not hub.publish(store, 6)
    assert consumer.wakes == 1
    with pytest.raises(Compacted):
        consumer.cursor.read(store, 6)


# -- the hub --------------------------------------------------------------------------------------------------------------------------


class Calls:
    """Counts the function calls of a thread, without those that the collector makes when its time has come."""

    def __enter__(self) -> Self:
        self.number = 0
        gc.disable()
        sys.setprofile(self._count)
        return self

    def __exit__(self, *_: object) -> None:
        sys.setprofile(None)
        gc.enable()

    def _count(self, _frame: object, event: str, _arg: object) -> None:
        self.number += event in ("call", "c_call")


def single(number: int) -> Span:
    return Span(b"key/%05d" % number, b"key/%05d\x00" % number)


def ranged(number: int) -> Span:
    return Span(b"key/%05d" % number, b"key/%05d" % (number + 1))


@pytest.mark.parametrize("span", [single, ranged])
def test_ten_thousand_cursors_on_distinct_keys_cost_a_new_event_nothing(span: Any) -> None:
    calls = []
    for cursors in (10, 10_000):
        store, hub = Store(), Hub()
        hub.publish(store, 1)
        consumers = [Consumer(span(number), 2, (True, True), prev_kv=False) for number in range(cursors)]
        for consumer in consumers:
            consumer.asleep = hub.arm(consumer.cursor)
        committed(store, *((b"key/%05d" % number, b"") for number in range(5)), (b"other", b""))
        with Calls() as counted:
            assert not hub.publish(store, 2)
        assert [consumer.wakes for consumer in consumers] == [1] * 5 + [0] * (cursors - 5)
        calls.append(counted.number)
    assert calls[0] == calls[1]


def test_without_anybody_waiting_a_new_event_is_not_looked_at() -> None:
    store, hub = Store(2), Hub()
    store.events = None  # type: ignore[assignment]  # who looks there fails
    assert not hub.publish(store, 2)
    assert not hub.arm(Cursor(EVERYTHING, Place(2), nobody)), "it has to look itself"
    assert hub.arm(Cursor(EVERYTHING, Place(3), nobody))


def test_a_great_many_new_events_are_looked_at_in_parts() -> None:
    store, hub = Store(), Hub()
    hub.publish(store, 1)
    last = Consumer(Span(b"z", None), 2, (True, True), prev_kv=False)
    last.asleep = hub.arm(last.cursor)
    committed(store, *((b"a%d" % number, b"") for number in range(3 * watch.PUBLISHED_STEP)))  # in one revision
    committed(store, (b"z", b""))
    looks = 1
    while hub.publish(store, 3):
        assert last.asleep
        assert hub.reached(last.cursor) <= 3
        looks += 1
    assert (looks, last.wakes) == (4, 1)
    assert [event.key for event in last.cursor.read(store, 3)[0]] == [b"z"]


@pytest.mark.parametrize("span", [Span(b"a", b"a\x00"), Span(b"a", b"b")])
def test_a_cursor_sleeps_through_what_it_does_not_want(span: Span) -> None:
    store, hub = Store(), Hub()
    hub.publish(store, 1)
    puts, deletes = (Consumer(span, 2, kinds, prev_kv=False) for kinds in ((True, False), (False, True)))
    for consumer in (puts, deletes):
        consumer.asleep = hub.arm(consumer.cursor)
    hub.publish(store, committed(store, (b"a", b"1")))
    assert (puts.wakes, deletes.wakes) == (1, 0)
    assert len(puts.cursor.read(store, 2)[0]) == 1
    puts.asleep = hub.arm(puts.cursor)
    run(store.delete(span))
    hub.publish(store, store.commit())
    assert (puts.wakes, deletes.wakes) == (1, 1)
    assert [event.revision for event in deletes.cursor.read(store, 3)[0]] == [3]


def test_a_cursor_that_waits_for_the_future_sleeps_until_then() -> None:
    store, hub = Store(), Hub()
    consumer = Consumer(EVERYTHING, 4, (True, True), prev_kv=False)
    hub.publish(store, 1)
    consumer.asleep = hub.arm(consumer.cursor)
    for revision in range(2, 5):
        assert consumer.asleep
        assert hub.reached(consumer.cursor) == 4
        hub.publish(store, committed(store, (b"a", b"%d" % revision)))
    assert not consumer.asleep
    assert [event.revision for event in consumer.cursor.read(store, 4)[0]] == [4]


def test_the_end_wakes_everybody_and_nobody_sleeps_again() -> None:
    hub = Hub()
    consumers = [Consumer(span, 2, (True, True), prev_kv=False) for span in SPANS]
    for consumer in consumers:
        consumer.asleep = hub.arm(consumer.cursor)
    hub.end()
    assert hub.ended
    assert [consumer.wakes for consumer in consumers] == [1] * len(consumers)
    assert not any(hub.arm(consumer.cursor) for consumer in consumers)


def test_a_cursor_may_leave_while_the_hub_is_busy() -> None:
    """The collector may find a watch nobody holds at any moment, also on a thread that is in the hub."""
    hub = Hub()
    cursor = Cursor(EVERYTHING, Place(2), nobody)
    assert hub.arm(cursor)
    with hub._lock:
        hub.leave(cursor)
    gone = weakref.ref(cursor)
    hub.publish(Store(), 1)
    assert not hub.arm(cursor)
    del cursor
    gc.collect()
    assert gone() is None


def test_ranges_are_found_by_key_and_leave_nothing_behind() -> None:
    rng = random.Random(3)
    keys = [bytes([rng.randrange(97, 103) for _ in range(rng.randrange(4))]) for _ in range(60)]
    index = watch._Index()
    there: list[Cursor] = []
    for _ in range(1000):
        if there and rng.random() < 0.5:
            cursor = there.pop(rng.randrange(len(there)))
            index.discard(cursor)
            index.discard(cursor)
        else:
            start, end = rng.choice(keys), rng.choice([*keys, None])
            span = Span(start, start + b"\x00") if rng.random() < 0.2 else Span(start, end)
            cursor = Cursor(span, Place(1), nobody)
            there.append(cursor)
            index.add(cursor)
            index.add(cursor)
        key = rng.choice(keys)
        found = [cursor for cursors in index.find(key) for cursor in cursors]
        assert len(set(found)) == len(found)
        assert set(found) == {cursor for cursor in there if within(key, cursor.span)}
    for cursor in there:
        index.discard(cursor)
    assert (index._bounds, index._covering, index._by_range, index._by_key) == ([b""], [()], {}, {})


# -- threads --------------------------------------------------------------------------------------------------------------------------


class Sleeper(threading.Thread):
    """Reads all it can get as a watch does, and sleeps for good if nobody wakes it."""

    def __init__(self, node: Node, span: Span, *, prev_kv: bool, readings: Readings | None) -> None:
        super().__init__()
        self.node = node
        self.bell = threading.Semaphore(0)
        self.cursor = Cursor(span, Place(2), self.bell.release, prev_kv=prev_kv, readings=readings)
        self.runs: list[tuple[int, list[Event]]] = [(2, [])]  # from which revision on, and what came
        self.failure: BaseException | None = None

    def run(self) -> None:
        try:
            while self.look():
                pass
        except BaseException as error:  # noqa: BLE001  # the test looks at it
            self.failure = error

    def look(self) -> bool:
        hub, cursor = self.node.hub, self.cursor
        hub.disarm(cursor)
        ended, (store, revision) = hub.ended, self.node.published
        try:
            events, caught_up = cursor.read(store, revision, limit=7)
        except Compacted as error:
            assert error.revision > cursor.place.revision  # noqa: PT017  # nobody knows when
            cursor.place = Place(error.revision)
            self.runs.append((error.revision, []))
            return True
        self.runs[-1][1].extend(events)
        if caught_up and not ended and hub.arm(cursor):
            self.bell.acquire()
        return not (caught_up and ended)


class Node:
    """One thread that writes, takes back, compacts, removes, and publishes at times."""

    def __init__(self) -> None:
        self.store, self.hub = Store(), Hub()
        self.published = (self.store, 1)
        self.written: list[kv.Record] = []
        self.rng = random.Random(11)
        self.scrubbing: Iterator[None] | None = None

    def work(self) -> None:
        store, rng = self.store, self.rng
        for key in rng.sample(KEYS, rng.randrange(1, 4)):
            if rng.random() < 0.3:
                run(store.delete((key, key + b"\x00")))
            else:
                store.put(key, b"%d" % store.revision)
        if rng.random() < 0.2:
            run(store.rollback())
            return
        self.written += store.events[len(store.events) + store.events.settled - store.events.written :]
        store.commit()
        store.moved.clear()
        if rng.random() < 0.02 and store.revision > store.compacted + 200:
            store.compact(store.revision - rng.choice([0, 50, 200]))
        if rng.random() < 0.5:
            self.publish()

    def publish(self) -> None:
        store = self.store
        self.published = (store, store.revision)
        self.hub.publish(store, store.revision)
        if self.scrubbing is not None or store.unscrubbed:
            self.scrubbing = self.scrubbing or store.scrub()
            self.scrubbing = self.scrubbing if next(self.scrubbing, self) is None else None


def test_no_thread_misses_an_event_or_a_wake_up_while_the_store_is_written_and_compacted() -> None:
    node = Node()
    kinds = [(False, None), (True, None), (False, node.hub.readings), (False, node.hub.readings), (True, node.hub.readings)]
    sleepers = [Sleeper(node, span, prev_kv=prev_kv, readings=readings) for span in SPANS[3:8] for prev_kv, readings in kinds]
    with hasty_threads(1e-5):
        for sleeper in sleepers:
            sleeper.start()
        for _ in range(8000):
            node.work()
        while node.hub.publish(node.store, node.store.revision):
            pass
        node.publish()
        node.hub.end()
        for sleeper in sleepers:
            sleeper.join(60.0)
    for sleeper in sleepers:
        assert not sleeper.is_alive()
        assert sleeper.failure is None, sleeper.failure
        check_runs(sleeper, node.written)


def check_runs(sleeper: Sleeper, written: list[kv.Record]) -> None:
    """Between two compactions that hit it, a sleeper got everything, in order, once, with what it replaced."""
    before: dict[bytes, KeyValue | None] = {}
    expected = []
    for record in written:
        event = to_event(record)
        if within(event.key, sleeper.cursor.span):
            expected.append(event._replace(prev_kv=before.get(event.key) if sleeper.cursor.prev_kv else None))
        before[event.key] = event.kv if event.kind == "put" else None
    for (start, events), following in zip(sleeper.runs, [*sleeper.runs[1:], None], strict=True):
        wanted = [event for event in expected if event.revision >= start]
        assert events == wanted[: len(events)]
        assert following or len(events) == len(wanted)
