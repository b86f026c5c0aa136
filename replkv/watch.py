"""Watches: places in the store's history, and who is woken when something new is theirs (etcd, server/mvcc/watchable_store).

A watch is no queue but a **cursor** over the store's events.  Its consumer reads on from there, on the consumer's own thread and at its
own pace; so a slow one costs nobody anything, and none can lose, repeat or reorder an event.  A cursor that has read everything *arms*
itself at the **hub**, and the node's thread wakes those whose keys changed.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import deque
from operator import itemgetter
from threading import Lock
from typing import TYPE_CHECKING, NamedTuple

from attrs import define, field

from replkv.errors import Compacted
from replkv.kv import KEY, MOD, VALUE
from replkv.values import Event, KeyValue

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from replkv.kv import Record, Store
    from replkv.values import Span

STEP = 512
"""How many events a cursor looks at in one step; a revision is not split, unless it alone has more."""

PUBLISHED_STEP = 4096
"""How many events the hub looks at before the node serves its sockets again."""

_mod = itemgetter(MOD)


class Place(NamedTuple):
    """A place in the history: the next event is of this revision, or later; of the revision itself, ``passed`` events lie behind."""

    revision: int
    passed: int = 0


def walk(events: Sequence[Record], first: int, place: Place, revision: int, limit: int) -> tuple[list[Record], Place]:
    """Return the events from a place on, whole revisions of them, and the place behind them.

    Args:
        events: in the order of their revisions.
        first: the first of them that is not from before the place's revision.
        place: where to begin.
        revision: the last one to look at; later ones may yet be taken back.
        limit: at most so many events.  A revision that has more is the only one that is split.
    """
    if place.revision > revision:
        return [], place
    at = first + place.passed
    records = list(events[at : at + limit + 1])
    seen = bisect_right(records, revision, key=_mod)
    if seen <= limit:
        return records[:seen], Place(revision + 1)
    following = records[limit][MOD]
    whole = bisect_left(records, following, 0, limit, key=_mod)
    return (records[:whole], Place(following)) if whole else (records[:limit], Place(following, place.passed + limit))


def walk_key(store: Store, key: bytes, place: Place, revision: int, limit: int) -> tuple[list[Record], Place]:
    """Do as ``walk`` does with the events of one key, without looking at any others; here ``passed`` counts only those of the key."""
    while True:
        newest = store.newest.get(key)
        older = store.older.get(key, ())
        records, behind = walk(older, bisect_left(older, place.revision, key=_mod), place, revision, limit)
        if store.newest.get(key) is newest:  # then the older ones were complete (kv.Store._older)
            break
    if newest is not None and behind.revision > revision and place.revision <= newest[MOD] <= revision and records[-1:] != [newest]:
        records.append(newest)
    return records, behind


def check_kept(store: Store, revision: int, *, prev_kv: bool) -> None:
    """Check that the events from a revision on are kept and, with ``prev_kv``, what they replaced.

    Raises:
        Compacted: they are not; the error names the oldest revision of which that can be said.
    """
    oldest = store.compacted + prev_kv
    if revision < oldest:
        what = "the events, with what they replaced," if prev_kv else "the events"
        raise Compacted(f"{what} from revision {revision} on are compacted: {oldest} is the oldest a watch can begin at", oldest)


def to_event(record: Record, previous: Record | None = None, cut: int = 0) -> Event:
    """Return what a record means to the one who watches its key; the first ``cut`` bytes of keys are left out."""
    key, value, create, mod, version, lease = record
    before = None if previous is None else KeyValue(key[cut:], *previous[VALUE:])
    if value is None:
        return Event("delete", KeyValue(key[cut:], b"", 0, mod, 0, lease), before, mod, lease != 0)
    return Event("put", KeyValue(key[cut:], value, create, mod, version, lease), before, mod, expired=False)


@define(eq=False)
class Cursor:
    """One consumer's place in the history.

    Args:
        span: the keys it wants.
        place: where it is.  The consumer's own, but for the time it is armed: then it is the hub's.
        wake: called when it was armed and something came, on the node's thread; it must neither wait nor raise.
        puts: whether it wants them.
        deletes: whether it wants them.
        prev_kv: whether events are to tell what the key held before.
        cut: so many bytes are left out at the front of keys.
        synced: it had passed everything when it looked last.  Then a compaction that follows takes nothing from it until it is removed.
    """

    span: Span
    place: Place
    wake: Callable[[], object]
    puts: bool = True
    deletes: bool = True
    prev_kv: bool = False
    cut: int = 0
    synced: bool = False
    left: bool = field(default=False, init=False)  # the hub forgot it, for good
    settled: int = field(default=0, init=False)  # the hub's: when it was armed last, all before this revision was done with

    def wants(self, record: Record) -> bool:
        """Tell whether a record of one of its keys is of a kind that it wants."""
        return self.deletes if record[VALUE] is None else self.puts

    def read(self, store: Store, revision: int, limit: int = STEP) -> tuple[list[Event], bool]:
        """Read on, by a bounded step; on the consumer's thread, without a lock.  Logarithmic in the history, linear in what is passed.

        Args:
            store: the published one.
            revision: the published one.
            limit: as for ``walk``.

        Returns:
            What it wants of the events passed, perhaps nothing, and whether everything up to ``revision`` has now been read.

        Raises:
            Compacted: the history has a gap here; with ``prev_kv`` also where only what an event replaced is not kept.
        """
        place, start, end = self.place, *self.span
        if self.span.is_single:
            records, behind = walk_key(store, start, place, revision, limit)
        else:
            past = store.events  # one and the same: a compaction replaces it
            records, behind = walk(past, past.first_at(place.revision), place, revision, limit)
        found = [record for record in records if start <= record[KEY] and (end is None or record[KEY] < end) and self.wants(record)]
        before = [store.get(record[KEY], record[MOD] - 1) for record in found] if self.prev_kv else [None] * len(found)
        # Only now is it sure that nothing was missing: both revisions are raised before anything is removed.
        if not self.synced or place.revision < store.removed_below + self.prev_kv:
            check_kept(store, place.revision, prev_kv=self.prev_kv)
        events = [to_event(record, previous, self.cut) for record, previous in zip(found, before, strict=True)]
        self.place, self.synced = behind, behind.revision > revision
        return events, self.synced


class Hub:
    """Knows who waits for what; the node's thread tells it of new revisions, consumers arm themselves from theirs.

    Arming and waking cost the same however many others there are: a new event is looked up, by its key and by the ranges it lies in.
    """

    def __init__(self) -> None:
        self.ended = False
        self._lock = Lock()  # guards all of this; held for moments only
        self._place = Place(0)  # how far the events have been matched
        self._armed: set[Cursor] = set()
        self._index = _Index()
        self._leaving: deque[Cursor] = deque()

    # -- consumers, any thread -----------------------------------------------------------------------------------------------------

    def arm(self, cursor: Cursor) -> bool:
        """Have a cursor woken at the next event that it wants; False: there may be some already, or the end, so look once more."""
        with self._lock:
            self._forget_leaving()
            if self.ended or cursor.left or cursor.place < self._place:
                return False
            cursor.settled = cursor.place.revision
            self._index.add(cursor)
            self._armed.add(cursor)
            return True

    def disarm(self, cursor: Cursor) -> None:
        """Give a cursor back to its consumer, at a place behind all that was none of its business."""
        with self._lock:
            if cursor in self._armed:
                self._release(cursor, self._place.revision)

    def reached(self, cursor: Cursor) -> int:
        """Return a revision before which nothing is left for a cursor's consumer: the newest one while it is armed."""
        with self._lock:
            return max(cursor.settled, self._place.revision) if cursor in self._armed else cursor.settled

    def leave(self, cursor: Cursor) -> None:
        """Forget a cursor.  Takes no lock: the collector may call it at any time, also while its thread holds the lock."""
        self._leaving.append(cursor)

    # -- the node's thread ---------------------------------------------------------------------------------------------------------

    def publish(self, store: Store, revision: int) -> bool:
        """Wake those who wait for the events up to a revision, after it was published; O(1) while nobody waits.

        Returns:
            Whether so much is new that some is left to be looked at: then call again soon.
        """
        woken: list[Cursor] = []
        with self._lock:
            self._forget_leaving()
            if self._armed:
                self._match(store, revision, woken)
            if not self._armed:  # those who come later look for themselves
                self._place = Place(revision + 1)
            more = self._place.revision <= revision
        for cursor in woken:
            cursor.wake()
        return more

    def restart(self, revision: int) -> None:
        """Wake everybody: what is published is a store that came to this revision in another way than by new events."""
        with self._lock:
            woken = self._release_all()  # first: they have come as far as the events were matched
            self._place = Place(revision + 1)
        for cursor in woken:
            cursor.wake()

    def end(self) -> None:
        """Wake everybody: nothing more will come."""
        with self._lock:
            self.ended = True
            woken = self._release_all()
        for cursor in woken:
            cursor.wake()

    def _release(self, cursor: Cursor, revision: int) -> None:
        """Give a cursor back: what came before a revision was none of its business."""
        self._armed.remove(cursor)
        cursor.settled = max(cursor.settled, revision)
        cursor.place = Place(cursor.settled)

    def _release_all(self) -> list[Cursor]:
        armed = list(self._armed)
        for cursor in armed:
            self._release(cursor, self._place.revision)
        return armed

    def _match(self, store: Store, revision: int, woken: list[Cursor]) -> None:
        # What is compacted is matched as long as it is there: one whose keys did not change has missed nothing.
        if self._place.revision < store.removed_below:
            woken += self._release_all()
            return
        records, behind = walk(store.events, store.events.first_at(self._place.revision), self._place, revision, PUBLISHED_STEP)
        for record in records:
            if not self._armed:
                break
            for cursors in self._index.find(record[KEY]):
                for cursor in cursors & self._armed:
                    if record[MOD] >= cursor.settled and cursor.wants(record):
                        self._release(cursor, record[MOD])
                        woken.append(cursor)
        self._place = behind

    def _forget_leaving(self) -> None:
        while self._leaving:
            cursor = self._leaving.popleft()
            cursor.left = True
            self._armed.discard(cursor)
            self._index.discard(cursor)


class _Index:
    """Cursors by their spans: single keys in a dictionary; ranges over the segments into which all their bounds cut the keys.

    The cursors of equal spans share a place.  A key is found in O(log ranges); a range is added in O(ranges it overlaps).
    """

    def __init__(self) -> None:
        self._by_key: dict[bytes, set[Cursor]] = {}
        self._by_range: dict[Span, set[Cursor]] = {}
        self._bounds = [b""]  # where the segments begin
        self._covering: list[tuple[Span, ...]] = [()]  # the ranges that each segment lies in, oldest first

    def find(self, key: bytes) -> list[set[Cursor]]:
        """Return the cursors of each span that has this key."""
        found = [self._by_range[span] for span in self._covering[bisect_right(self._bounds, key) - 1]]
        single = self._by_key.get(key)
        if single is not None:
            found.append(single)
        return found

    def add(self, cursor: Cursor) -> None:
        """Add a cursor, unless it is there."""
        span = cursor.span
        if span.is_single:
            self._by_key.setdefault(span.start, set()).add(cursor)
        elif span in self._by_range:
            self._by_range[span].add(cursor)
        elif span.end is None or span.start < span.end:
            self._by_range[span] = {cursor}
            first, last = self._cut(span.start), self._cut(span.end)
            for segment in range(first, last):
                self._covering[segment] += (span,)

    def discard(self, cursor: Cursor) -> None:
        """Take a cursor away, if it is there."""
        span = cursor.span
        if span.is_single:
            cursors = self._by_key.get(span.start, set())
            cursors.discard(cursor)
            if not cursors:
                self._by_key.pop(span.start, None)
        elif span in self._by_range:
            self._by_range[span].discard(cursor)
            if not self._by_range[span]:
                self._remove(span)

    def _remove(self, span: Span) -> None:
        del self._by_range[span]
        first, last = self._cut(span.start), self._cut(span.end)
        for segment in range(first, last):
            self._covering[segment] = tuple(other for other in self._covering[segment] if other != span)
        self._join(last)  # before the first: that would move it
        self._join(first)

    def _cut(self, bound: bytes | None) -> int:
        """Let a segment begin at a bound, None being the end of all keys; return its number."""
        if bound is None:
            return len(self._bounds)
        segment = bisect_left(self._bounds, bound)
        if segment == len(self._bounds) or self._bounds[segment] != bound:
            self._bounds.insert(segment, bound)
            self._covering.insert(segment, self._covering[segment - 1])
        return segment

    def _join(self, segment: int) -> None:
        """Let a segment be one with that before it, if no range begins or ends between them."""
        if 0 < segment < len(self._bounds) and self._covering[segment - 1] == self._covering[segment]:
            del self._bounds[segment], self._covering[segment]
