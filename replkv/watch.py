"""Watches: places in the store's history, and who is woken when something new is theirs (etcd, server/mvcc/watchable_store).

A watch is no queue but a **cursor** over the store's events.  Its consumer reads on from there, on the consumer's own thread and at its
own pace; so a slow one costs nobody anything, and none can lose, repeat or reorder an event.  A cursor that has read everything *arms*
itself at the **hub**, and the node's thread wakes those whose keys changed.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import deque
from functools import partial
from operator import itemgetter
from threading import Lock
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from attrs import define, field

from replkv.errors import Compacted
from replkv.kv import KEY, MOD, VALUE
from replkv.values import Event, to_key_value

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from replkv.kv import Record, Store
    from replkv.values import Span

STEP = 512
"""How many events a cursor looks at in one step; a revision is not split, unless it alone has more."""

PUBLISHED_STEP = 4096
"""How many events the hub looks at before the node serves its sockets again."""

SHARED = 2 * STEP
"""How many events are kept for those who read the same a moment later."""

_mod = itemgetter(MOD)
_to_event: Final[Callable[[tuple[Any, ...]], Event]] = partial(tuple.__new__, Event)  # as quick as ``to_key_value``


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
    key, value, _, mod, _, lease = record
    if value is None:
        record = (key, b"", 0, mod, 0, lease)
    if cut:
        record = (key[cut:], *record[VALUE:])
    before = None if previous is None else to_key_value((key[cut:], *previous[VALUE:]))
    kind, expired = ("put", False) if value is not None else ("delete", lease != 0)
    return _to_event((kind, to_key_value(record), before, mod, expired))


class Part(NamedTuple):
    """What was found between two places, when a revision was the newest that could be looked at."""

    events: Sequence[Event]
    behind: Place
    revision: int


class Readings(dict[tuple[object, Place], Part]):
    """What was read last, by the readers' interest and place.

    Who watches the same reads the same: each event is made once, by whoever is the first to come to it.  A part is right whoever reads it,
    for what is published never changes.  A bounded number of events is kept, the newest ones.
    """

    def __init__(self) -> None:
        super().__init__()
        self._lock = Lock()
        self._events = 0

    def add(self, interest: object, place: Place, part: Part) -> None:
        """Keep what was found from a place on, and forget the oldest of what is too much."""
        with self._lock:
            if len(part.events) <= SHARED and self.setdefault((interest, place), part) is part:
                self._events += len(part.events)
                while self._events > SHARED:
                    self._events -= len(self.pop(next(iter(self))).events)

    def forget(self) -> None:
        """Forget everything: what is compacted is not to be kept alive here."""
        with self._lock:
            self.clear()
            self._events = 0


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
        readings: what those found who read the same; None: it reads for itself.
    """

    span: Span
    place: Place
    wake: Callable[[], object]
    puts: bool = True
    deletes: bool = True
    prev_kv: bool = False
    cut: int = 0
    synced: bool = False
    readings: Readings | None = None
    interest: object = field(init=False)
    """What it reads is that of all cursors with an equal one."""
    _single: bool = field(init=False)
    known: bool = field(default=False, init=False)  # the hub has it in its index
    left: bool = field(default=False, init=False)  # the hub forgot it, for good
    settled: int = field(default=0, init=False)  # the hub's: when it was armed last, all before this revision was done with

    def __attrs_post_init__(self) -> None:
        self.interest = self.span, self.puts, self.deletes, self.prev_kv, self.cut
        self._single = self.span.is_single

    def wants(self, record: Record) -> bool:
        """Tell whether a record of one of its keys is of a kind that it wants."""
        return self.deletes if record[VALUE] is None else self.puts

    def read(self, store: Store, revision: int, limit: int = STEP) -> tuple[list[Event], bool]:
        """Read on, by a bounded step; on the consumer's thread.  Logarithmic in the history, linear in what is passed.

        It takes no lock, but for the moment in which it leaves what it found to others.

        Args:
            store: the published one.
            revision: the published one.
            limit: as for ``walk``.

        Returns:
            What it wants of the events passed, perhaps nothing, and whether everything up to ``revision`` has now been read.

        Raises:
            Compacted: the history has a gap here; with ``prev_kv`` also where only what an event replaced is not kept.
        """
        known, place, own = self.readings, self.place, None
        events: list[Event] = []
        while known is not None and (part := known.get((self.interest, place))) is not None and part.revision <= revision:
            if events and len(events) + len(part.events) > limit:
                break  # the rest of a step would end elsewhere than that of those before, and nothing more would be shared
            events += part.events
            place = part.behind
        else:
            began = place
            if place.revision <= revision and len(events) < limit:
                own = self._find(store, place, revision, limit - len(events))
                events, place = [*events, *own.events], own.behind
        # Only now is it sure that nothing was missing: both revisions are raised before anything is removed.
        if not self.synced or self.place.revision < store.removed_below + self.prev_kv:
            check_kept(store, self.place.revision, prev_kv=self.prev_kv)
        if known is not None and own is not None and own.events:
            known.add(self.interest, began, own)
        self.place, self.synced = place, place.revision > revision
        return events, self.synced

    def _find(self, store: Store, place: Place, revision: int, limit: int) -> Part:
        """Look for what it wants from a place on."""
        start, end = self.span
        if self._single:
            records, behind = walk_key(store, start, place, revision, limit)
        else:
            past = store.events  # one and the same: a compaction replaces it
            records, behind = walk(past, past.first_at(place.revision), place, revision, limit)
            records = [record for record in records if start <= record[KEY] and (end is None or record[KEY] < end)]
        if not (self.puts and self.deletes):
            records = list(filter(self.wants, records))
        before = [store.get(record[KEY], record[MOD] - 1) for record in records] if self.prev_kv else [None] * len(records)
        return Part([to_event(record, previous, self.cut) for record, previous in zip(records, before, strict=True)], behind, revision)


class Hub:
    """Knows who waits for what; the node's thread tells it of new revisions, consumers arm themselves from theirs.

    Arming and waking cost the same however many others there are: a new event is looked up, by its key and by the ranges it lies in.
    """

    def __init__(self) -> None:
        self.ended = False
        self.auth_revision = 1
        """At which rights may have been taken away last: who waited then was woken."""
        self.readings = Readings()
        self._compacted = 0  # up to which revision the store was when the readings were forgotten
        self._lock = Lock()  # guards all of this; held for moments only
        self._place = Place(0)  # how far the events have been matched
        self._armed: set[Cursor] = set()
        self._index = _Index()
        self.leaving: deque[Cursor] = deque()
        """Those that are to be forgotten at the next call of ``publish``."""

    # -- consumers, any thread -----------------------------------------------------------------------------------------------------

    def arm(self, cursor: Cursor) -> bool:
        """Have a cursor woken at the next event that it wants; False: there may be some already, or the end, so look once more."""
        with self._lock:
            if self.leaving:
                self._forget_leaving()
            if self.ended or cursor.left or cursor.place < self._place:
                return False
            cursor.settled = cursor.place.revision
            if not cursor.known:
                self._index.add(cursor)
                cursor.known = True  # only now: an interrupt may have come between, and who is not in the index is never woken
            self._armed.add(cursor)
            return True

    def disarm(self, cursor: Cursor) -> None:
        """Give a cursor back to its consumer, at a place behind all that was none of its business."""
        with self._lock:
            if cursor in self._armed:
                self._release(cursor, self._place)

    def rests(self, cursor: Cursor, revision: int) -> bool:
        """Tell whether a cursor is armed, and nothing up to a revision, which is published, is its consumer's; takes no lock."""
        return self._place.revision > revision and cursor in self._armed  # in this order: who is to be woken is, before the place moves on

    def reached(self, cursor: Cursor) -> int:
        """Return a revision before which nothing is left for a cursor's consumer: the newest one while it is armed."""
        with self._lock:
            return max(cursor.settled, self._place.revision) if cursor in self._armed else cursor.settled

    def leave(self, cursor: Cursor) -> None:
        """Forget a cursor.  Takes no lock: the collector may call it at any time, also while its thread holds the lock."""
        self.leaving.append(cursor)

    # -- the node's thread ---------------------------------------------------------------------------------------------------------

    def publish(self, store: Store, revision: int) -> bool:
        """Wake those who wait for the events up to a revision, after it was published; O(1) while nobody waits.

        Returns:
            Whether so much is new that some is left to be looked at: then call again soon.
        """
        if store.compacted != self._compacted:
            self._compacted = store.compacted
            self.readings.forget()
        if self._place.revision > revision and not self.leaving:  # most turns make no revision, and no thread but this one moves the place
            return False
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
            self.readings.forget()
        for cursor in woken:
            cursor.wake()

    def judge_anew(self, auth_revision: int) -> None:
        """Wake everybody: rights were taken away at this auth revision, and who waits may have lost its own."""
        self.auth_revision = auth_revision
        with self._lock:
            woken = self._release_all()
        for cursor in woken:
            cursor.wake()

    def end(self) -> None:
        """Wake everybody: nothing more will come."""
        with self._lock:
            self.ended = True
            woken = self._release_all()
        for cursor in woken:
            cursor.wake()

    def _release(self, cursor: Cursor, place: Place) -> None:
        """Give a cursor back: what came before the revision of a place was none of its business."""
        self._armed.remove(cursor)
        cursor.settled = max(cursor.settled, place.revision)
        cursor.place = Place(cursor.settled)

    def _release_all(self) -> list[Cursor]:
        armed = list(self._armed)
        for cursor in armed:
            self._release(cursor, self._place)
        return armed

    def _match(self, store: Store, revision: int, woken: list[Cursor]) -> None:
        # What is compacted is matched as long as it is there: one whose keys did not change has missed nothing.
        if self._place.revision < store.removed_below:
            woken += self._release_all()
            return
        records, behind = walk(store.events, store.events.first_at(self._place.revision), self._place, revision, PUBLISHED_STEP)
        nobodys: set[bytes] = set()  # keys that nobody waits for, or nobody any more: of a hundred events of a key the first one wakes all
        for record in records:
            key = record[KEY]
            if key in nobodys:
                continue
            if not self._armed:
                break
            waiting = False
            for cursors in self._index.find(key):
                for cursor in cursors & self._armed:
                    if record[MOD] >= cursor.settled and cursor.wants(record):
                        self._release(cursor, Place(record[MOD]))
                        woken.append(cursor)
                    else:
                        waiting = True
            if not waiting:
                nobodys.add(key)
        self._place = behind

    def _forget_leaving(self) -> None:
        while self.leaving:
            cursor = self.leaving.popleft()
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
        single = self._by_key.get(key)
        if not self._by_range:
            return [] if single is None else [single]
        found = [self._by_range[span] for span in self._covering[bisect_right(self._bounds, key) - 1]]
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
