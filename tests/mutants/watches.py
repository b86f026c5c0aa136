"""Bugs in history, its compaction, and in watches."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from operator import itemgetter
from typing import Any

from mutant import Patch, mutant

from replkv import watch
from replkv.feed import Feed, LocalFeed
from replkv.history import History
from replkv.kv import KEY, MOD, RECORD_BYTES, VALUE, Record, Store
from replkv.values import Progress
from replkv.watch import Cursor, Hub, Place


@mutant(68, "etcd#15220")
def a_mark_overtakes_the_events_before_it(patch: Patch) -> None:
    take = LocalFeed._take

    def hasty(self: LocalFeed, *, whole: bool) -> Any:
        if self._asked is not self._answered and not self._initial:
            self._answered = self._asked
            return (Progress(self._node.published.revision),)
        return take(self, whole=whole)

    patch.setattr(LocalFeed, "_take", hasty)


@mutant(69, "etcd#15271")
def an_installed_snapshot_puts_watches_back(patch: Patch) -> None:
    restart = Hub.restart

    def backwards(self: Hub, revision: int) -> None:
        armed = list(self._armed)
        restart(self, revision)
        for cursor in armed:
            cursor.place = Place(1)

    patch.setattr(Hub, "restart", backwards)


@mutant(104, "etcd#9297")
def a_watch_goes_on_behind_an_installed_snapshot(patch: Patch) -> None:
    restart = Hub.restart

    def skipping(self: Hub, revision: int) -> None:
        self._place = Place(revision + 1)
        restart(self, revision)

    patch.setattr(Hub, "restart", skipping)


@mutant(105, "etcd#9775")
def an_installed_snapshot_wakes_no_watch(patch: Patch) -> None:
    def deaf(self: Hub, revision: int) -> None:
        self._place = Place(revision + 1)

    patch.setattr(Hub, "restart", deaf)


@mutant(70, "etcd#17529")
def readers_are_not_told_that_a_compaction_outran_them(patch: Patch) -> None:
    scrub = Store.scrub

    def silent(self: Store) -> Generator[None, None, None]:
        for _ in scrub(self):
            self.removed_below = 0
            yield
        self.removed_below = 0

    patch.setattr(Store, "scrub", silent)


@mutant(71, "etcd#18089, etcd#19179")
def a_compaction_drops_the_tombstone_at_its_revision(patch: Patch) -> None:
    scrub = Store.scrub

    def forgetful(self: Store) -> Generator[None, None, None]:
        yield from scrub(self)
        kept: History[Record] = History(itemgetter(MOD))
        for place, record in reversed([*enumerate(self.events)]):
            if record[VALUE] is None and record[MOD] == self.compacted:
                del self._superseded_at[place]
        for record in self.events:
            if record[VALUE] is not None or record[MOD] != self.compacted:
                kept.append(record)
        kept.settled = kept.written
        self.events = kept

    patch.setattr(Store, "scrub", forgetful)


@mutant(72, "etcd#20221")
def a_watch_from_a_revision_to_come_begins_at_the_next_one(patch: Patch) -> None:
    begin = LocalFeed.__init__

    def hasty(self: LocalFeed, *arguments: Any, **options: Any) -> None:
        begin(self, *arguments, **options)
        self._cursor.place = min(self._cursor.place, Place(self._node.published.revision + 1))

    patch.setattr(LocalFeed, "__init__", hasty)


@mutant(73, "etcd#15274, etcd#17247", slow=True)
def a_revision_that_does_not_fit_into_a_step_is_read_twice(patch: Patch) -> None:
    walk = watch.walk

    def overlapping(events: Sequence[Record], first: int, place: Place, revision: int, limit: int) -> tuple[list[Record], Place]:
        records, behind = walk(events, first, place, revision, limit)
        return records, behind._replace(passed=0) if behind.passed else behind

    patch.setattr(watch, "walk", overlapping)


@mutant(106)
def nobody_is_woken_for_what_is_deleted(patch: Patch) -> None:
    match = Hub._match

    def deaf(self: Hub, store: Store, revision: int, woken: list[Cursor]) -> None:
        before = self._place.revision
        found: list[Cursor] = []
        armed = set(self._armed)
        match(self, store, revision, found)
        puts = [record for record in store.events if before <= record[MOD] <= revision and record[VALUE] is not None]
        for cursor in found:
            if any(cursor.span.start <= record[KEY] and (cursor.span.end is None or record[KEY] < cursor.span.end) for record in puts):
                woken.append(cursor)
            elif cursor in armed:
                self._armed.add(cursor)

    patch.setattr(Hub, "_match", deaf)


@mutant(83, "etcd#17566")
def a_watch_without_events_yields_no_marks(patch: Patch) -> None:
    patch.setattr(Feed, "patience", lambda self, until: None)


@mutant(107)
def what_is_visible_at_the_compaction_revision_is_removed(patch: Patch) -> None:
    scrub = Store._scrub
    patch.setattr(Store, "_scrub", lambda self, key, revision: scrub(self, key, revision + 1))


@mutant(108)
def tombstones_are_not_counted(patch: Patch) -> None:
    count = Store._count

    def generous(self: Store, old: Record | None, record: Record) -> None:
        count(self, old, record)
        if record[VALUE] is None:
            self.size -= len(record[KEY]) + RECORD_BYTES

    patch.setattr(Store, "_count", generous)
