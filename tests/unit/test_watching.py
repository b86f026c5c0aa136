"""``Watch`` and ``AsyncWatch``: on a real member, and on a node that stands still so that races can be set up."""

from __future__ import annotations

import asyncio
import gc
import threading
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import suppress
from types import SimpleNamespace
from typing import Any, TypeVar, cast

import pytest
from eventual import PATIENCE, eventually

from replkv import (
    AsyncReplica,
    AsyncWatch,
    Closed,
    Compacted,
    Delete,
    Event,
    ForkedProcess,
    KeyValue,
    Progress,
    Put,
    Replica,
    Settings,
    StorageError,
    Synced,
    Watch,
    fork,
)
from replkv.engine import Embedded
from replkv.feed import LocalFeed
from replkv.kv import SLICE, Store, run
from replkv.node import Node
from replkv.values import Span
from replkv.watch import STEP, Cursor, Hub

T = TypeVar("T")

FAST = Settings(heartbeat=0.05, promise=0.1, election_timeout=0.5)
EVERYTHING = Span.of()


@pytest.fixture
def replica() -> Iterator[Replica]:
    with Replica(settings=FAST) as replica:
        replica.wait_ready(PATIENCE)
        yield replica


def node_of(replica: Replica | AsyncReplica) -> Node:
    assert replica._node is not None
    return replica._node


def asleep(watch: Watch | AsyncWatch) -> bool:
    """Whether the hub would wake its consumer."""
    feed = cast("LocalFeed", watch._feed)
    return feed._cursor in feed._node.hub._armed


class Background(threading.Thread):
    """Runs a call, and tells what came of it."""

    def __init__(self, call: Callable[[], Any]) -> None:
        super().__init__(daemon=True)
        self.call = call
        self.start()

    def run(self) -> None:
        try:
            self.outcome = self.call()
        except Exception as error:  # noqa: BLE001  # the test looks at it
            self.outcome = error

    def result(self) -> Any:
        self.join(PATIENCE)
        assert not self.is_alive()
        return self.outcome


class StillNode:
    """A member whose thread does nothing by itself."""

    name = "still"
    failure = None

    def __init__(self) -> None:
        self.store, self.hub = Store(), Hub()
        self.now, self.tick = 0.0, 0.0
        self.publish()
        self.hub.publish(self.store, 1)

    def clock(self) -> float:
        self.now += self.tick
        return self.now

    def publish(self) -> None:
        """Let readers see what was committed, without waking them."""
        self.published = SimpleNamespace(machine=SimpleNamespace(store=self.store), revision=self.store.revision)

    def put(self, *keys: bytes) -> None:
        """Write and publish one revision; wakes nobody."""
        for key in keys:
            self.store.put(key, b"%d" % self.store.revision)
        self.store.commit()
        self.publish()

    def wake(self) -> None:
        """Wake those who wait for what was published."""
        while self.hub.publish(self.store, self.store.revision):
            pass

    def restart(self, *, compacted: int) -> None:
        """Go on from a snapshot of the same state, with less history."""
        self.store.compact(compacted)
        base, events, history = self.store.pin()
        copy = Store(self.store.revision, compacted)
        copy.load_base(list(base))
        copy.replay(events[place] for place in history)
        copy.finish_replay()
        self.store = copy
        self.publish()
        self.hub.restart(copy.revision)

    def watch(self, span: Span = EVERYTHING, **arguments: Any) -> Watch:
        return Watch(Embedded(cast("Node", self)), span, **arguments)

    def async_watch(self, span: Span = EVERYTHING, **arguments: Any) -> AsyncWatch:
        return AsyncWatch(Embedded(cast("Node", self)), span, **arguments)


def some(watch: Watch, number: int) -> list[Any]:
    return [watch.next(PATIENCE) for _ in range(number)]


def revisions(found: list[Any]) -> list[int]:
    return [one.revision for one in found]


# -- where it begins ------------------------------------------------------------------------------------------------------------------


def test_it_begins_with_what_comes_next_in_the_past_or_in_the_future(replica: Replica) -> None:
    for number in range(3):
        replica.put("key", str(number))
    now, past, future = replica.watch(), replica.watch(start_revision=3), replica.watch(start_revision=6)
    assert [watch.revision for watch in (now, past, future)] == [5, 3, 6]
    assert future.next(timeout=0) is None
    for number in range(3, 6):
        replica.put("key", str(number))
    assert revisions(some(now, 3)) == [5, 6, 7]
    assert revisions(some(past, 5)) == [3, 4, 5, 6, 7]
    assert revisions(some(future, 2)) == [6, 7]
    assert [watch.next(0) for watch in (now, past, future)] == [None] * 3
    assert [watch.revision for watch in (now, past, future)] == [8] * 3


def test_the_present_state_comes_first_then_a_mark_then_changes(replica: Replica) -> None:
    with replica.watch(initial=True) as watch:
        assert watch.revision == 0
        assert watch.next(PATIENCE) == Synced(1)
        assert watch.revision == 2
    for key in ("b", "a", "c"):
        replica.put(key, "value")
    replica.put("a", "new")
    replica.delete("b")
    with replica.watch(initial=True) as watch:
        found = some(watch, 3)
        assert found == [
            Event("put", KeyValue(b"a", b"new", 3, 5, 2), None, 5),
            Event("put", KeyValue(b"c", b"value", 4, 4, 1), None, 4),
            Synced(6),
        ]
        assert watch.next(0) is None
        replica.put("d", "later")
        assert revisions(some(watch, 1)) == [7]


def test_the_present_state_and_the_changes_leave_no_gap_while_others_write(replica: Replica) -> None:
    stop = threading.Event()

    def write(key: str) -> None:
        while not stop.is_set():
            replica.add(key)
            replica.add("all")

    writers = [Background(lambda key=key: write(key)) for key in "abcd"]  # type: ignore[misc]
    for _ in range(20):
        seen: dict[bytes, int] = {}
        with replica.watch(initial=True) as watch:
            synced = 0
            while not synced or len(seen) < 5 or seen[b"all"] < synced + 20:
                found = watch.next(PATIENCE)
                if isinstance(found, Synced):
                    synced = found.revision
                    assert all(kv.mod_revision <= synced for kv in replica.scan(revision=synced))
                    assert seen == {kv.key: int(kv.value) for kv in replica.scan(revision=synced)}
                    synced = seen.get(b"all", 0) or 1
                else:
                    assert isinstance(found, Event)
                    assert not synced or int(found.value) == seen.get(found.key, 0) + 1
                    seen[found.key] = int(found.value)
    stop.set()
    for writer in writers:
        assert writer.result() is None


def test_the_present_state_is_read_in_slices_at_one_revision() -> None:
    node = StillNode()
    node.put(*(b"%04d" % number for number in range(3 * SLICE)))
    watch = node.watch(initial=True)
    first = watch.next(0)
    assert len(watch._feed._read) < SLICE
    node.put(b"0000", b"9999")
    found = [first, *some(watch, 3 * SLICE)]
    assert revisions(found[:-1]) == [2] * 3 * SLICE
    assert found[-1] == Synced(2)
    assert revisions(some(watch, 2)) == [3, 3]


def test_the_present_state_is_given_up_where_it_is_compacted() -> None:
    node = StillNode()
    node.put(*(b"%04d" % number for number in range(3 * SLICE)))
    watch = node.watch(initial=True)
    found = some(watch, SLICE)
    node.put(b"0000")
    node.store.compact(3)
    run(node.store.scrub())
    assert len(found) == SLICE
    with pytest.raises(Compacted) as caught:
        watch.next(0)
    assert caught.value.revision == 3
    assert len(some(node.watch(initial=True), 3 * SLICE + 1)) == 3 * SLICE + 1


# -- what it tells --------------------------------------------------------------------------------------------------------------------


def test_spans_kinds_and_what_was_replaced(replica: Replica) -> None:
    puts = replica.watch(prefix="a", kinds=["put"], prev_kv=True)
    deletes = replica.watch(start="ab", end="b", kinds=("delete",), prev_kv=True)
    one = replica.watch("ab")
    replica.put("a", "1")
    replica.put("ab", "1")
    replica.txn(then=[Put("ab", "2"), Put("b", "2"), Delete("a")])
    replica.delete(prefix="a")
    first, second = KeyValue(b"ab", b"1", 3, 3, 1), KeyValue(b"ab", b"2", 3, 4, 2)
    assert some(puts, 3) == [
        Event("put", KeyValue(b"a", b"1", 2, 2, 1), None, 2),
        Event("put", first, None, 3),
        Event("put", second, first, 4),
    ]
    gone = KeyValue(b"ab", b"", 0, 5, 0)
    assert some(deletes, 1) == [Event("delete", gone, second, 5)]
    assert some(one, 3) == [Event("put", first, None, 3), Event("put", second, None, 4), Event("delete", gone, None, 5)]
    assert [watch.next(0) for watch in (puts, deletes, one)] == [None] * 3


def test_a_namespace_is_watched_from_within(replica: Replica) -> None:
    space = replica.namespace("app/")
    with space.watch(prev_kv=True, initial=True) as watch:
        assert watch.next(PATIENCE) == Synced(1)
        replica.put("other", "1")
        space.put("key", "1")
        space.put("key", "2")
        first, second = some(watch, 2)
        assert (first.key, second.prev_kv) == (b"key", first.kv)
    with space.watch("key", initial=True) as watch:
        assert some(watch, 2) == [second._replace(prev_kv=None), Synced(4)]


def test_an_expiry_is_told_from_a_deletion(replica: Replica) -> None:
    with replica.watch("key", kinds=["delete"], prev_kv=True) as watch:
        replica.put("key", "1")
        replica.delete("key")
        replica.put("key", "2", ttl=0.1)
        deleted, expired = some(watch, 2)
    assert (deleted.expired, deleted.kv.lease) == (False, 0)
    assert (expired.expired, expired.kv.lease, expired.prev_kv.value) == (True, expired.prev_kv.lease, b"2")
    assert expired.kv.lease != 0


@pytest.mark.parametrize(
    ("arguments", "kind"),
    [
        ({"start_revision": 0}, ValueError),
        ({"start_revision": -1}, ValueError),
        ({"start_revision": 1 << 63}, ValueError),
        ({"start_revision": "1"}, TypeError),
        ({"start_revision": True}, TypeError),
        ({"start_revision": 1, "initial": True}, ValueError),
        ({"kinds": ()}, ValueError),
        ({"kinds": ("put", "get")}, ValueError),
        ({"kinds": "put"}, TypeError),
        ({"kinds": ([],)}, ValueError),
        ({"kinds": None}, TypeError),
        ({"kinds": ("delete",), "initial": True}, ValueError),
        ({"initial": 1}, TypeError),
        ({"prev_kv": None}, TypeError),
        ({"progress": "yes"}, TypeError),
        ({"key": "a", "prefix": "a"}, ValueError),
        ({"end": "a"}, ValueError),
    ],
)
def test_bad_arguments_are_refused_at_once(replica: Replica, arguments: dict[str, Any], kind: type[Exception]) -> None:
    with pytest.raises(kind):
        replica.watch(**arguments)
    watch = replica.watch()
    for timeout, refused in ((-1, ValueError), (float("nan"), ValueError), ("1", TypeError), (True, TypeError)):
        with pytest.raises(refused):
            watch.next(timeout)  # type: ignore[arg-type]


# -- waiting --------------------------------------------------------------------------------------------------------------------------


def test_who_waits_is_woken_by_what_it_wants_only(replica: Replica) -> None:
    watch = replica.watch("key")
    waiting = Background(watch.next)
    eventually(lambda: asleep(watch))
    replica.put("other", "1")
    assert asleep(watch)
    assert watch.revision == eventually(lambda: watch.revision == 3 and 3)
    replica.put("key", "1")
    assert waiting.result().revision == 3


def test_what_was_acknowledged_is_there_without_waiting(replica: Replica) -> None:
    watch = replica.watch("key")
    for number in range(300):
        replica.put("other", "")
        assert watch.next(0) is None
        replica.put("key", str(number))
        found = watch.next(0)
        assert isinstance(found, Event)
        assert found.value == b"%d" % number


def test_a_wait_ends_in_time(replica: Replica) -> None:
    watch = replica.watch("key")
    assert watch.next(0.01) is None
    assert watch.next(1e-9) is None
    waiting = Background(watch.next)
    eventually(lambda: watch._turn.locked() and asleep(watch))
    assert watch.next(0) is None, "another thread waits for the same"
    assert watch.next(0.01) is None
    watch.close()
    assert isinstance(waiting.result(), Closed)


def test_a_wait_ends_in_time_also_amid_a_long_history_of_others() -> None:
    node = StillNode()
    for _ in range(10):
        node.put(*(b"b%d" % number for number in range(STEP)))
    node.put(b"a")
    watch = node.watch(Span.of(prefix="a"), start_revision=1)
    steps = 0
    node.tick = 0.3
    while (found := watch.next(0.5)) is None:
        steps += 1
    assert 3 <= steps <= 6, "two steps of history in each"
    assert found.revision == 12


def test_several_threads_share_a_watch(replica: Replica) -> None:
    watch = replica.watch()
    readers = [Background(lambda: list(watch)) for _ in range(4)]
    for _ in range(200):
        replica.add("n")
    eventually(lambda: watch.revision == 202)
    watch.close()
    parts = [reader.result() for reader in readers]
    assert all(revisions(part) == sorted(revisions(part)) for part in parts)
    assert sorted(revisions([event for part in parts for event in part])) == list(range(2, 202))


def test_a_consumer_that_stands_still_keeps_little_and_then_reads_on(replica: Replica) -> None:
    number = 4 * STEP
    with replica.watch() as watch, replica.watch(initial=True) as state:
        replica.put("key", "first")
        assert some(watch, 1)[0].value == b"first"
        for future in [replica.submit(Put(f"k{place}", str(place))) for place in range(number)]:
            future.result(PATIENCE)
        assert not watch._feed._read
        found = some(watch, 1)
        assert len(watch._feed._read) < STEP
        found += some(watch, number - 1)
        assert revisions(found) == list(range(3, number + 3))
        assert watch.next(0) is None
        assert len(some(state, number + 2)) == number + 2


def test_what_is_published_between_looking_and_falling_asleep_is_not_missed(monkeypatch: pytest.MonkeyPatch) -> None:
    node = StillNode()
    real = Cursor.read

    def read(cursor: Cursor, *arguments: Any) -> Any:
        found = real(cursor, *arguments)
        if node.store.revision < 5:
            node.put(b"key")
            node.wake()
        return found

    monkeypatch.setattr(Cursor, "read", read)
    watch = node.watch(Span.of("key"))
    assert revisions(some(watch, 4)) == [2, 3, 4, 5]
    assert watch.next(0) is None


class HurriedNode(StillNode):
    """Something happens right after somebody looked at what is published."""

    then: Callable[[], object] | None = None

    @property
    def published(self) -> Any:
        seen, then, self.then = self.seen, self.then, None
        if then is not None:
            then()
        return seen

    @published.setter
    def published(self, published: Any) -> None:
        self.seen = published


def test_what_is_published_before_the_end_is_yielded_before_it() -> None:
    node = HurriedNode()
    watch = node.watch()

    def then() -> None:
        node.put(b"key")
        node.hub.end()

    node.then = then
    assert revisions(list(watch)) == [2]


def test_what_is_published_before_a_mark_is_asked_for_is_yielded_before_it() -> None:
    node = HurriedNode()
    watch = node.watch()

    def then() -> None:
        node.put(b"key")
        watch.request_progress()

    node.then = then
    found = some(watch, 2)
    assert (found[0].revision, found[1]) == (2, Progress(2))


# -- revisions ------------------------------------------------------------------------------------------------------------------------


def test_another_watch_goes_on_where_one_ended(replica: Replica) -> None:
    replica.watch()
    for number in range(5):
        replica.txn(then=[Put(f"{letter}{number}", "") for letter in "abc"])
    expected = some(replica.watch(start_revision=1), 15)
    for read in range(15):
        watch = replica.watch(start_revision=1)
        found = some(watch, read)
        watch.close()
        whole = [event for event in found if event.revision < watch.revision]
        assert watch.revision == (expected[read].revision if read else 1)
        assert whole + some(replica.watch(start_revision=watch.revision), 15 - len(whole)) == expected


def test_batches_never_split_a_revision(replica: Replica) -> None:
    many = 3 * STEP
    watch = replica.watch(start_revision=1, kinds=["put", "delete"])
    for future in [replica.submit(Put(f"k{number:04}", "")) for number in range(many)]:
        future.result(PATIENCE)
    replica.txn(then=[Put("a", "1"), Put("b", "1")])
    replica.delete(prefix="k")
    replica.put("a", "2")
    watch.request_progress()
    batches = watch.batches()
    assert [len(next(batches)) for _ in range(many)] == [1] * many
    pair, gone, last, mark = (next(batches) for _ in range(4))
    assert ([event.key for event in cast("Any", pair)], len(gone), len(last)) == ([b"a", b"b"], many, 1)
    assert [event.key for event in cast("Any", gone)] == [b"k%04d" % number for number in range(many)]
    assert mark == (Progress(many + 4),)
    watch.close()
    assert list(batches) == []


def test_a_whole_revision_is_not_held_back_because_the_rest_of_it_is_of_other_keys() -> None:
    node = StillNode()
    node.put(b"a", *(b"b%04d" % number for number in range(STEP + 100)))
    run(node.store.delete((b"a", b"c")))
    node.store.commit()
    node.publish()
    watch = node.watch(Span(b"a", b"b"), start_revision=3)
    watch.request_progress()
    batches = watch.batches()
    assert [event.key for event in cast("Any", next(batches))] == [b"a"]
    assert next(batches) == (Progress(3),)


def test_batches_of_the_present_state_come_before_the_mark(replica: Replica) -> None:
    replica.txn(then=[Put("a", "1"), Put("b", "1")])
    replica.put("c", "1")
    with replica.watch(initial=True) as watch:
        batches = watch.batches()
        assert [event.key for event in cast("Any", next(batches))] == [b"a", b"b", b"c"]
        assert next(batches) == (Synced(3),)


def test_the_revision_never_runs_ahead_of_what_was_yielded() -> None:
    """Also where another thread asks while the consumer is between two steps."""
    node = StillNode()
    watch = node.watch()
    assert watch.next(0) is None
    node.put(b"a")
    node.put(b"b")
    assert watch._feed.look(whole=False) is not None  # read, not yielded
    assert watch._feed._read
    assert watch.revision == 2
    assert revisions(some(watch, 1)) == [2]
    assert watch.revision == 3
    node.wake()
    assert watch.revision == 3


def test_who_sleeps_keeps_up_with_what_is_none_of_its_business() -> None:
    node = StillNode()
    watch = node.watch(Span.of("key"), prev_kv=True)
    assert watch.next(0) is None
    for _ in range(10):
        node.put(b"other")
        node.wake()
    assert watch.revision == 12
    node.put(b"key")
    node.wake()
    assert watch.revision == 12
    assert revisions(some(watch, 1)) == [12]
    assert watch.next(0) is None
    node.put(b"other")
    node.wake()
    node.restart(compacted=node.store.revision)
    node.put(b"key")
    assert revisions(some(watch, 1)) == [14]


# -- marks ----------------------------------------------------------------------------------------------------------------------------


def test_a_mark_that_was_asked_for_comes_behind_the_events(replica: Replica) -> None:
    watch = replica.watch("key")
    watch.request_progress()
    assert watch.next(0) == Progress(1)
    replica.put("key", "1")
    replica.put("other", "1")
    watch.request_progress()
    watch.request_progress()
    assert revisions(some(watch, 1)) == [2]
    assert watch.next(0) == Progress(3)
    assert watch.next(0) is None
    waiting = Background(watch.next)
    eventually(lambda: asleep(watch))
    watch.request_progress()
    assert waiting.result() == Progress(3)
    assert watch.revision == 4


def test_a_mark_is_newer_than_the_question(monkeypatch: pytest.MonkeyPatch) -> None:
    """A question that comes while an older one is being answered gets an answer of its own."""
    node = StillNode()
    watch = node.watch(Span.of("key"))
    real = Cursor.read

    def read(cursor: Cursor, *arguments: Any) -> Any:
        found = real(cursor, *arguments)
        if node.store.revision == 1:
            node.put(b"other")
            watch.request_progress()
        return found

    watch.request_progress()
    monkeypatch.setattr(Cursor, "read", read)
    assert [watch.next(0) for _ in range(3)] == [Progress(1), Progress(2), None]


def test_a_mark_comes_when_nothing_came_for_a_while() -> None:
    node = StillNode()
    watch = node.watch(Span.of("key"), progress=True, progress_interval=60.0)
    quiet = node.watch(Span.of("key"))
    node.now = 59.0
    assert watch.next(0) is None
    node.now = 61.0
    node.put(b"other")
    assert watch.next(0) == Progress(2)
    assert watch.next(0) is None
    node.now = 120.0
    node.put(b"key")
    assert revisions(some(watch, 1)) == [3]
    node.now = 179.0
    assert watch.next(0) is None
    node.now = 180.0
    node.put(b"key")
    assert revisions(some(watch, 1)) == [4], "no mark overtakes an event"
    node.now = 240.0
    assert watch.next(0) == Progress(4)
    assert revisions(some(quiet, 2)) == [3, 4]
    assert quiet.next(0) is None


def test_a_mark_wakes_who_waits(replica: Replica) -> None:
    node = node_of(replica)
    watch = Watch(Embedded(node), EVERYTHING, progress=True, progress_interval=0.01)
    assert watch.next() == Progress(1)
    assert watch.next() == Progress(1)


def test_a_watch_that_has_not_begun_gives_no_marks_and_waits_for_them_quietly(replica: Replica) -> None:
    node = node_of(replica)
    watch = Watch(Embedded(node), EVERYTHING, start_revision=3, progress=True, progress_interval=0.01)
    looks = 0
    real = watch._feed._mark_is_due

    def counted(asked: object) -> bool:
        nonlocal looks
        looks += 1
        return real(asked)

    watch._feed._mark_is_due = counted  # type: ignore[method-assign]
    watch.request_progress()
    begun = node.clock()
    assert watch.next(0.2) is None
    assert looks <= (node.clock() - begun) / 0.01 + 2
    replica.put("key", "1")
    replica.put("key", "2")
    assert revisions(some(watch, 1)) == [3]
    assert watch.next(PATIENCE) == Progress(3)


# -- compaction -----------------------------------------------------------------------------------------------------------------------


def test_history_that_is_gone_is_told_when_it_is_read(replica: Replica) -> None:
    for number in range(5):
        replica.put("key", str(number))
    late = replica.watch(start_revision=1)
    replica.compact(4)
    for watch in (late, replica.watch(start_revision=3)):
        for _ in range(2):
            with pytest.raises(Compacted, match="4 is the oldest") as caught:
                watch.next(0)
            assert caught.value.revision == 4
        with pytest.raises(Compacted):
            next(iter(watch))
        with pytest.raises(Compacted):
            next(watch.batches())
    assert revisions(some(replica.watch(start_revision=4), 3)) == [4, 5, 6]
    with pytest.raises(Compacted) as caught:
        replica.watch(start_revision=4, prev_kv=True).next(0)
    assert caught.value.revision == 5
    assert [event.prev_kv.value for event in some(replica.watch(start_revision=5, prev_kv=True), 2)] == [b"2", b"3"]


def test_a_compaction_does_not_disturb_who_has_read_everything(replica: Replica) -> None:
    watch, waiting = replica.watch("key", prev_kv=True), replica.watch("key", prev_kv=True)
    waiter = Background(waiting.next)
    eventually(lambda: asleep(waiting))
    assert watch.next(0) is None
    for _ in range(3):
        replica.compact(replica.put("other", "").revision)
    assert watch.next(0) is None
    replica.put("key", "1")
    assert waiter.result().revision == 5
    assert revisions(some(watch, 1)) == [5]


def test_a_compaction_close_behind_an_event_does_not_take_it_from_who_had_read_all_before() -> None:
    node = StillNode()
    watch, late = node.watch(), node.watch(start_revision=1)
    assert watch.next(0) is None
    node.put(b"key")
    node.put(b"key")
    node.store.compact(3)
    assert revisions(some(watch, 2)) == [2, 3]
    with pytest.raises(Compacted):
        late.next(0)


def test_what_was_read_before_a_compaction_is_still_yielded() -> None:
    node = StillNode()
    watch = node.watch(start_revision=1)
    for _ in range(STEP + 10):
        node.put(b"key")
    found = some(watch, 5)
    node.store.compact(STEP + 5)
    found += some(watch, STEP - 5)
    assert revisions(found) == list(range(2, STEP + 2))
    with pytest.raises(Compacted):
        watch.next(0)


# -- a snapshot -----------------------------------------------------------------------------------------------------------------------


def test_it_goes_on_behind_a_snapshot_that_has_the_history() -> None:
    node = StillNode()
    for _ in range(5):
        node.put(b"key", b"other")
    slow, waiting = node.watch(start_revision=4), node.watch(Span.of("key"))
    waiter = Background(waiting.next)
    eventually(lambda: asleep(waiting))
    found = some(slow, 1)
    for _ in range(3):
        node.put(b"key", b"other")
    node.restart(compacted=4)
    assert waiter.result().revision == 7
    found += some(slow, 11)
    assert revisions(found) == [revision for revision in range(4, 10) for _ in "ab"]
    node.put(b"key")
    assert revisions(some(waiting, 3)) == [8, 9, 10]


def test_a_snapshot_without_the_history_ends_it() -> None:
    node = StillNode()
    node.put(b"key")
    waiting, behind = node.watch(Span.of("key")), node.watch(start_revision=2)
    waiter = Background(waiting.next)
    eventually(lambda: asleep(waiting))
    for _ in range(3):
        node.put(b"key")
    node.restart(compacted=4)
    assert isinstance(waiter.result(), Compacted)
    with pytest.raises(Compacted):
        behind.next(0)


# -- the end --------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("consume", [list, lambda watch: list(watch.batches()), lambda watch: watch.next()])
def test_closing_ends_who_waits(replica: Replica, consume: Callable[[Watch], Any]) -> None:
    watch = replica.watch()
    waiters = [Background(lambda: consume(watch)) for _ in range(3)]
    eventually(lambda: asleep(watch))
    watch.close()
    watch.close()
    for waiter in waiters:
        outcome = waiter.result()
        assert outcome == [] or isinstance(outcome, Closed)
    assert list(watch) == []
    assert list(watch.batches()) == []
    with pytest.raises(Closed, match="this watch"):
        watch.next(0)
    assert replica.put("key", "1").revision == 2
    hub = node_of(replica).hub
    eventually(lambda: not hub.leaving and not hub._armed)


def test_a_block_closes_it(replica: Replica) -> None:
    with replica.watch() as watch:
        replica.put("key", "1")
        for event in watch:
            assert event.revision == 2
            break
    with pytest.raises(Closed):
        watch.next()
    assert watch.revision == 3
    assert "this watch" in repr(watch)


def test_what_a_closed_member_had_applied_is_yielded_then_it_ends() -> None:
    with Replica() as replica:
        replica.wait_ready(PATIENCE)
        waiting, slow, state = replica.watch("key"), replica.watch(), replica.watch(initial=True)
        waiter = Background(lambda: list(waiting))
        for number in range(2 * STEP):
            replica.submit(Put("key" if number == 5 else "other", ""))
        replica.put("last", "")
    assert revisions(waiter.result()) == [7]
    assert revisions(list(slow)) == list(range(2, 2 * STEP + 3))
    assert [type(found) for found in state] == [Event] * 3 + [Synced]
    for watch in (waiting, slow, state):
        with pytest.raises(Closed, match="member replica"):
            watch.next()
    slow.request_progress()
    slow.close()


def test_what_stopped_a_member_is_raised_behind_what_it_had_applied(replica: Replica, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise StorageError("the disk: cannot sync")

    watch, waiting = replica.watch(), replica.watch("key")
    waiter = Background(lambda: list(waiting))
    eventually(lambda: asleep(waiting))
    replica.put("other", "1")
    monkeypatch.setattr(node_of(replica).log, "sync", fail)
    replica.submit(Put("key", "2"))
    assert isinstance(waiter.result(), StorageError)
    assert revisions([watch.next()]) == [2]
    for _ in range(2):
        with pytest.raises(StorageError, match="cannot sync"):
            watch.next()


def test_a_forked_child_is_told(replica: Replica, monkeypatch: pytest.MonkeyPatch) -> None:
    watch = replica.watch()
    with monkeypatch.context() as child:
        child.setattr(fork, "_forked", True)
        calls: list[Callable[[], object]] = [
            watch.next,
            lambda: next(watch),
            lambda: next(watch.batches()),
            watch.request_progress,
            lambda: watch.revision,
            lambda: Watch(Embedded(node_of(replica)), EVERYTHING),
        ]
        for call in calls:
            with pytest.raises(ForkedProcess):
                call()
        assert "replica" in repr(watch)
    assert watch.next(0) is None
    with monkeypatch.context() as child:
        child.setattr(fork, "_forked", True)
        watch.close()


def test_a_watch_that_nobody_holds_is_forgotten(replica: Replica) -> None:
    hub = node_of(replica).hub
    watches = [replica.watch(f"key{number}") for number in range(10)] + [replica.watch(prefix="k"), replica.watch()]
    for watch in watches:
        assert watch.next(0) is None
    assert len(hub._armed) == 12
    gone = [weakref.ref(watch) for watch in watches]
    del watch, watches
    gc.collect()
    assert not any(watch() for watch in gone)
    eventually(lambda: not hub._armed)
    assert not hub._index._by_key
    assert not hub._index._by_range
    assert replica.put("key1", "").revision == 2


# -- asyncio --------------------------------------------------------------------------------------------------------------------------


def with_member(test: Callable[[AsyncReplica], Awaitable[None]]) -> None:
    async def main() -> None:
        async with AsyncReplica(settings=FAST) as replica:
            await replica.wait_ready(PATIENCE)
            await test(replica)

    asyncio.run(main())


def with_loop(test: Callable[[StillNode], Awaitable[None]]) -> None:
    async def main() -> None:
        await test(StillNode())

    asyncio.run(main())


async def several(watch: AsyncWatch, number: int) -> list[Any]:
    return [await watch.next(PATIENCE) for _ in range(number)]


async def turns(number: int = 5) -> None:
    """Let other tasks have the loop for some turns."""
    for _ in range(number):
        await asyncio.sleep(0)


def test_it_can_be_awaited() -> None:
    async def test(replica: AsyncReplica) -> None:
        async with await replica.watch(initial=True) as watch:
            assert await watch.next() == Synced(1)
            assert await watch.next(0) is None
            assert await watch.next(0.01) is None
            await replica.put("key", "1")
            await watch.request_progress()
            assert await several(watch, 2) == [Event("put", KeyValue(b"key", b"1", 2, 2, 1), None, 2), Progress(2)]
            waiting = asyncio.create_task(watch.next())
            await turns()
            await replica.put("key", "2")
            assert (await waiting).revision == 3  # type: ignore[union-attr]
            assert watch.revision == 4
        assert [event async for event in watch] == []
        assert [batch async for batch in watch.batches()] == []
        with pytest.raises(Closed):
            await watch.next()

    with_member(test)


def test_a_long_history_can_be_iterated_while_it_grows() -> None:
    async def test(replica: AsyncReplica) -> None:
        number = 3 * STEP
        watch = replica.watch("n")
        adding = [asyncio.create_task(replica.add("n")) for _ in range(number)]
        found = []
        async for event in watch:
            found.append(int(cast("Event", event).value))
            if len(found) == number:
                await watch.close()
        await asyncio.gather(*adding)
        assert found == list(range(1, number + 1))
        sizes = [len(batch) async for batch in limited(replica.watch("n", start_revision=2).batches(), number)]
        assert sizes == [1] * number

    with_member(test)


async def limited(items: AsyncIterator[T], number: int) -> AsyncIterator[T]:
    for _ in range(number):
        yield await anext(items)


def test_a_wait_that_is_cancelled_loses_nothing() -> None:
    async def test(replica: AsyncReplica) -> None:
        watch = replica.watch("n")
        found = []
        for number in range(300):
            waiting = asyncio.create_task(watch.next())
            await turns(number % 3)
            adding = asyncio.create_task(replica.add("n"))
            await turns(number % 7)
            waiting.cancel()
            await adding
            with suppress(asyncio.CancelledError):
                found.append(await waiting)
        while (event := await watch.next(0)) is not None:
            found.append(event)
        assert [int(cast("Event", event).value) for event in found] == list(range(1, 301))
        assert not watch._bell._waiting

    with_member(test)


def test_a_wait_that_is_cancelled_when_it_was_woken_already_loses_nothing() -> None:
    async def test(node: StillNode) -> None:
        watch = node.async_watch()
        waiting = asyncio.create_task(watch.next())
        await turns()
        assert asleep(watch)
        node.put(b"key")
        node.wake()
        assert not asleep(watch)
        await turns(1)  # the loop has been woken, the task has not run
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert [found.revision for found in await several(watch, 1)] == [2]

    with_loop(test)


def test_a_task_that_takes_something_leaves_no_other_one_waiting_for_the_rest() -> None:
    async def test(node: StillNode) -> None:
        watch = node.async_watch()
        waiting = [asyncio.create_task(watch.next()) for _ in range(2)]
        await turns()
        for _ in range(3):
            node.put(b"key")  # the hub has not looked at it yet
        assert [found.revision for found in await several(watch, 1)] == [2]
        assert sorted(revisions(await asyncio.wait_for(asyncio.gather(*waiting), PATIENCE))) == [3, 4]
        waiting = [asyncio.create_task(watch.next()) for _ in range(3)]
        await turns()
        node.put(b"key")
        waiting[0].cancel()
        node.wake()
        waiting[1].cancel()
        assert revisions([await waiting[2]]) == [5]

    with_loop(test)


def test_closing_ends_every_task_that_waits_also_from_another_thread() -> None:
    async def test(replica: AsyncReplica) -> None:
        watch = replica.watch()

        async def consume() -> list[Any]:
            return [event async for event in watch]

        tasks = [asyncio.create_task(consume()) for _ in range(3)]
        await turns()
        assert asleep(watch)
        await asyncio.to_thread(lambda: asyncio.run(watch.close()))
        assert await asyncio.wait_for(asyncio.gather(*tasks), PATIENCE) == [[], [], []]

    with_member(test)


def test_a_member_that_is_closed_ends_it_behind_what_was_applied() -> None:
    async def main() -> None:
        replica = await AsyncReplica(settings=FAST).open()
        waiting, slow = replica.watch("none"), replica.watch()
        task = asyncio.create_task(waiting.next())
        await turns()
        for _ in range(3):
            await replica.put("key", "")
        await replica.close()
        with pytest.raises(Closed, match="member replica"):
            await task
        assert revisions([event async for event in slow]) == [2, 3, 4]

    asyncio.run(main())


def test_history_that_is_gone_is_told_to_a_task() -> None:
    async def test(replica: AsyncReplica) -> None:
        for _ in range(3):
            await replica.add("n")
        await replica.compact(4)
        watch = replica.watch(start_revision=2)
        for _ in range(2):
            with pytest.raises(Compacted):
                await anext(watch)
        with pytest.raises(Compacted):
            await anext(watch.batches())

    with_member(test)


def test_marks_come_to_a_task_that_waits() -> None:
    async def test(replica: AsyncReplica) -> None:
        watch = AsyncWatch(Embedded(node_of(replica)), EVERYTHING, progress=True, progress_interval=0.01)
        assert await watch.next() == Progress(1)
        assert await watch.next() == Progress(1)
        quiet = replica.watch()
        waiting = asyncio.create_task(quiet.next())
        await turns()
        await quiet.request_progress()
        assert await waiting == Progress(1)

    with_member(test)


def test_a_watch_belongs_to_one_loop() -> None:
    async def test(node: StillNode) -> None:
        watch = node.async_watch()
        assert await watch.next(0) is None

        def elsewhere() -> None:
            with pytest.raises(RuntimeError, match="first used on"):
                asyncio.run(watch.next(0))

        await asyncio.to_thread(elsewhere)
        node.put(b"key")
        assert len(await several(watch, 1)) == 1

    with_loop(test)


def test_the_loop_is_given_back_between_two_steps_through_history() -> None:
    async def test(node: StillNode) -> None:
        for _ in range(10):
            node.put(*(b"b%d" % number for number in range(STEP)))
        node.put(b"a")
        turned = 0

        async def turn() -> None:
            nonlocal turned
            while True:
                turned += 1
                await asyncio.sleep(0)

        task = asyncio.create_task(turn())
        assert revisions(await several(node.async_watch(Span.of(prefix="a"), start_revision=1), 1)) == [12]
        assert turned >= 10
        task.cancel()

    with_loop(test)


def test_a_loop_is_woken_once_for_all_its_watches() -> None:
    async def test(node: StillNode) -> None:
        watches = [node.async_watch(Span.of("key")) for _ in range(100)]
        tasks = [asyncio.create_task(watch.next()) for watch in watches]
        await turns()
        assert all(map(asleep, watches))
        loop, woken = asyncio.get_running_loop(), 0
        real = loop.call_soon_threadsafe

        def counted(*arguments: Any, **more: Any) -> Any:
            nonlocal woken
            woken += 1
            return real(*arguments, **more)

        loop.call_soon_threadsafe = counted  # type: ignore[method-assign, assignment]
        node.put(b"key")
        node.wake()
        assert woken == 1
        assert revisions(await asyncio.gather(*tasks)) == [2] * 100

    with_loop(test)


def test_a_loop_that_was_closed_disturbs_nobody_and_is_let_go() -> None:
    node = StillNode()
    watches: list[AsyncWatch] = []

    async def leave() -> weakref.ref[asyncio.AbstractEventLoop]:
        watches.extend(node.async_watch() for _ in range(2))
        for watch in watches:
            assert await watch.next(0) is None
        return weakref.ref(asyncio.get_running_loop())

    loop = asyncio.run(leave())
    assert all(map(asleep, watches))
    node.put(b"key")
    node.wake()  # nobody hears it
    with pytest.raises(RuntimeError, match="first used on"):
        asyncio.run(watches[0].next(0))
    watches.clear()
    node.wake()
    gc.collect()
    assert loop() is None


def test_a_watch_whose_loop_ended_amid_a_wait_is_let_go() -> None:
    node = StillNode()

    async def leave() -> weakref.ref[AsyncWatch]:
        watch = node.async_watch()
        waiting = asyncio.create_task(watch.next())  # asyncio.run() cancels it
        await turns()
        assert asleep(watch)
        del waiting
        return weakref.ref(watch)

    watch = asyncio.run(leave())
    gc.collect()
    assert watch() is None
    node.wake()
    assert not node.hub._armed
