"""The store: every key in all its versions, after etcd's rules of revisions (etcd, server/mvcc).

One thread writes; any thread reads, at a revision that was published to it, without a lock for a point read.  A command's writes all
get the revision after the current one.  They are invisible to readers, who ask for older ones, until ``commit`` makes that revision
the current one and the node publishes it; ``rollback`` takes them back.

Compaction is two things.  ``compact`` says what is forgotten: at once, alike on all members, and that is all anybody can notice.
``scrub`` removes it, each member at its own pace.  A reader that was at work meanwhile looks at ``compacted`` when it is done.

Records are plain tuples of atoms: CPython's collector stops looking at those, which keeps its pauses short with millions of keys.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from heapq import merge
from itertools import islice
from operator import itemgetter
from threading import Lock
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias, TypeVar

from sortedcontainers import SortedList

from replkv.errors import Compacted, FutureRevision
from replkv.history import History
from replkv.refusals import refuse
from replkv.wire import OK, PUT

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Iterator, Sequence

    from replkv.wire import Raw

Record: TypeAlias = tuple[Any, ...]
"""(key, value, create_revision, mod_revision, version, lease); a tombstone has no value (None), and 0 as create_revision and version.

A tombstone's lease is the one whose expiry deleted the key; 0 if that was not the reason.
"""

KEY, VALUE, CREATE, MOD, VERSION, LEASE = range(6)

SLICE = 256
"""How many keys are looked at in one go: under the lock, and between two yields."""

FEW = 8
"""Up to so many older versions of a key stand in a tuple, which the collector ignores like the records in it."""

FIRST_REVISION = 1
"""The revision of an empty store; the first write makes the next one."""

RECORD_BYTES = 64
"""What a version counts in ``size`` besides its key and its value: a million empty values are not nothing."""

SORT_BY = (KEY, VERSION, CREATE, MOD, VALUE)
"""What a scan sorts by: the places in a record of ``wire.SORT_KEY`` and its like."""

SORT_RUN = 4096
"""How many records are sorted in one go."""

Bounds: TypeAlias = "tuple[bytes, bytes | None] | Sequence[Any]"

T = TypeVar("T")
_mod = itemgetter(MOD)


def _is_plausible(record: Record) -> bool:
    """Tell whether a store can have come to a record, with whatever went before."""
    _, value, create, mod, version, _ = record
    if value is None:
        return (create, version) == (0, 0)
    return bool(FIRST_REVISION < create <= mod and 1 <= version <= mod - create + 1)


def run(steps: Generator[None, None, T]) -> T:
    """Carry out a sliced computation in one go."""
    while True:
        try:
            next(steps)
        except StopIteration as stop:
            return stop.value  # type: ignore[no-any-return]  # a generator's return value


def in_order(items: list[T], key: Callable[[T], Any] | None = None, *, descending: bool = False) -> Generator[None, None, list[T]]:
    """Sort stably, with a yield at least every 4,096 items."""
    runs: list[list[T]] = []
    for at in range(0, len(items), SORT_RUN):
        runs.append(sorted(items[at : at + SORT_RUN], key=key, reverse=descending))  # type: ignore[type-var, arg-type]  # comparable
        yield
    if len(runs) < 2:
        return runs[0] if runs else []
    merged = merge(*runs, key=key, reverse=descending)  # type: ignore[arg-type]  # as above
    result: list[T] = []
    while part := list(islice(merged, SLICE)):
        result += part
        yield
    return result


class Selection(NamedTuple):
    """What of a span a scan returns, and in which order; 0 is no limit and no bound."""

    limit: int = 0
    keys_only: bool = False
    count_only: bool = False
    sort_by: int = 0
    descending: bool = False
    min_mod: int = 0
    max_mod: int = 0
    min_create: int = 0
    max_create: int = 0

    @property
    def first_found(self) -> int:
        """How many records are enough to know the result; 0: all have to be seen."""
        return self.limit + 1 if self.limit and not self.sort_by and not self.descending else 0

    def filtered(self, records: list[Record]) -> list[Record]:
        """Return those within the bounds."""
        if self.count_only:
            return []
        if not (self.min_mod or self.max_mod or self.min_create or self.max_create):
            return records
        most_mod, most_create = self.max_mod or float("inf"), self.max_create or float("inf")
        return [r for r in records if self.min_mod <= r[MOD] <= most_mod and self.min_create <= r[CREATE] <= most_create]

    def sorted(self, records: list[Record]) -> Generator[None, None, list[Record]]:
        """Sort records that stand in key order; ties stay in it."""
        if not self.sort_by:
            return records[::-1] if self.descending else records
        return (yield from in_order(records, itemgetter(SORT_BY[self.sort_by]), descending=self.descending))


class _Stable(dict[bytes, T]):
    """A dict that CPython's garbage collector never takes for a young object.

    Of a plain dict the collector finds, whenever it collects everything, that all in it are atoms and need not be visited; with the next
    put the dict counts as new, and all of it is visited in three collections more.  An instance of a subclass stays where it is.
    """

    __slots__ = ()

    def __repr__(self) -> str:
        return f"<{len(self)} keys>"  # and not what they hold


class Store:
    """All versions of all keys.

    Args:
        revision: the current revision.
        compacted: the oldest revision that can be read; 0: all can.

    Attributes:
        newest: each key's newest version, tombstones included.
        keys: the keys of ``newest`` in order.
        older: the versions before the newest, ascending, of those keys that have several.
        events: all versions from revision ``compacted`` on, in the order they were written: the history.
        size: bytes of all versions that are not compacted, ``live`` those of the newest ones.
        moved: (key, lease before, lease after) for what the command at work did to keys with leases.
        removed_below: a read at a revision below this one may have met holes, if it was at work when ``scrub`` began.
    """

    def __init__(self, revision: int = FIRST_REVISION, compacted: int = 0) -> None:
        self.revision = revision
        self.compacted = compacted
        self.newest: dict[bytes, Record] = _Stable()
        self.keys: SortedList[bytes] = SortedList()
        self.older: dict[bytes, tuple[Record, ...] | list[Record]] = _Stable()
        self.events: History[Record] = History(_mod)
        self.size = 0
        self.live = 0
        self.moved: list[tuple[bytes, int, int]] = []
        self._superseded = 0  # bytes that a compaction of all that was written would have freed since the beginning
        self._superseded_at = array("q")  # the same as it was after each of ``events``
        self._freed = 0  # bytes that compactions have freed
        self._at_commit = (0, 0, 0)  # size, live and superseded bytes then
        self.removed_below = compacted
        self._scrubbed = compacted  # up to which revision ``scrub`` is done
        self._lock = Lock()  # guards ``keys``: it is reshaped in several steps

    # -- reading, on any thread ----------------------------------------------------------------------------------------------------

    def check(self, asked: int, revision: int) -> None:
        """Check that a revision that somebody asks for can be read where ``revision`` is the newest that may be seen.

        Raises:
            FutureRevision: it does not exist yet.
            Compacted: it is no longer kept.
        """
        if asked > revision:
            raise refuse(FutureRevision, (asked, revision))
        if asked < self.compacted:
            raise refuse(Compacted, (asked,), self.compacted)

    def get(self, key: bytes, revision: int) -> Record | None:
        """Return a key's version at a revision, or None if it did not exist then; logarithmic in the key's number of versions."""
        record = self.newest.get(key)
        if record is not None and record[MOD] > revision:
            record = self._older(key, record, revision)
        return record if record is None or record[VALUE] is not None else None

    def _present(self, keys: list[bytes], revision: int) -> list[Record]:
        """Return what ``get`` returns for each of these keys, without those that did not exist: a scan spares a call for each."""
        newest, older = self.newest.get, self._older
        return [
            record
            for key in keys
            if (record := newest(key)) is not None
            and (record[MOD] <= revision or (record := older(key, record, revision)) is not None)
            and record[VALUE] is not None
        ]

    def _older(self, key: bytes, record: Record | None, revision: int) -> Record | None:
        # The writer puts a version into ``older`` before it replaces it in ``newest``, and a rollback goes the other way round.  So if
        # ``newest`` still holds the record found there before, ``older`` was complete while we looked at it.
        while record is not None and record[MOD] > revision:
            versions = self.older.get(key, ())
            at = bisect_right(versions, revision, key=_mod)
            found = versions[at - 1 : at] if at else ()  # a slice: a rollback may have shortened the list meanwhile
            if self.newest.get(key) is record:
                return found[0] if found else None
            record = self.newest.get(key)
        return record

    def slices(self, span: Bounds, revision: int) -> Generator[list[Record], None, None]:
        """Walk over the pairs of a span in key order, at a revision.

        Yields:
            The pairs among the next 256 keys, perhaps none.
        """
        start, end = span
        if end is not None and end <= start:
            return
        if end == start + b"\x00":
            record = self.get(start, revision)
            yield [] if record is None else [record]
            return
        while True:
            with self._lock:
                keys = list(islice(self.keys.irange(start, end, (True, False)), SLICE))
            yield self._present(keys, revision)
            if len(keys) < SLICE:
                return
            start = keys[-1] + b"\x00"

    def scan(self, span: Bounds, revision: int, selection: Selection) -> Generator[None, None, tuple[tuple[Record, ...], int, bool]]:
        """Read a span at a revision, in slices of 256 keys; linear in the number of keys of the span, n log n if they are sorted.

        Args:
            span: start and end of it.
            revision: what to read.
            selection: what to return of it, in which order.

        Returns:
            The pairs, how many keys there are whatever limit and bounds (etcd), and whether the limit cut some off.
        """
        records: list[Record] = []
        count, enough = 0, selection.first_found
        for live in self.slices(span, revision):
            count += len(live)
            wanted = selection.filtered(live)
            records += wanted[: enough - len(records)] if enough else wanted
            yield
        records = yield from selection.sorted(records)
        more = bool(selection.limit) and len(records) > selection.limit
        if more:
            del records[selection.limit :]
        if selection.keys_only:
            for at in range(0, len(records), SLICE):
                records[at : at + SLICE] = [(record[KEY], b"", *record[CREATE:]) for record in records[at : at + SLICE]]
                yield
        return tuple(records), count, more

    # -- writing, on one thread ----------------------------------------------------------------------------------------------------

    @property
    def latest(self) -> int:
        """The revision the writer sees: one ahead of the current one as soon as the command at work has changed something."""
        return self.revision + (self.events.written > self.events.settled)

    def put(self, key: bytes, value: bytes, lease: int = 0) -> Record | None:
        """Store a value; return the pair it replaces.  Logarithmic in the number of keys, for a new one."""
        revision = self.revision + 1
        record: Record
        old = self.newest.get(key)
        if old is None:
            record = (key, value, revision, revision, 1, lease)
            with self._lock:
                self.keys.add(key)
            self.newest[key] = record
            self.events.append(record)
            self._count(None, record)
            return None
        # After a tombstone that is version 1, created now.  The old key is the same, and one copy of it is enough.
        record = (old[KEY], value, old[CREATE] or revision, revision, old[VERSION] + 1, lease)
        self._replace(key, old, record)
        return None if old[VALUE] is None else old

    def put_each(self, commands: Iterable[Raw], answers: list[Raw], largest: int, room: int) -> None:
        """Carry out the plain puts with which a list of commands begins, each at a revision of its own, and append their answers.

        For each this is ``put`` and ``commit``, written out in one loop over locals: most of what a member applies is such puts, and this
        saves about a microsecond of each.  It stops at what needs more than that: another operation, a pair that is too large, a put that
        finds no room, a key that hangs on a lease or went with one.

        Args:
            commands: as they are packed.
            answers: to which those of the puts are appended.
            largest: how many bytes a key and its value may take.
            room: how many bytes the store may take.
        """
        newest, older, keys, lock = self.newest, self.older, self.keys, self._lock
        revision, size, superseded = self.revision, self.size, self._superseded
        records: list[Record] = []
        sums: list[int] = []
        for command in commands:
            if command[0] != PUT:
                break
            _, key, value, prev_kv = command
            pair = len(key) + len(value)
            old = newest.get(key)
            if pair > largest or size + pair + RECORD_BYTES > room or (old is not None and old[LEASE]):
                break
            revision += 1
            size += pair + RECORD_BYTES
            before: bytes | None = None
            if old is None:
                record: Record = (key, value, revision, revision, 1, 0)
                with lock:
                    keys.add(key)
            else:
                key, before, create, _, version, _ = old
                record = (key, value, create or revision, revision, version + 1, 0)
                if before is not None:
                    superseded += len(key) + len(before) + RECORD_BYTES
                versions = older.get(key, ())
                if type(versions) is list:
                    versions.append(old)
                else:
                    older[key] = (*versions, old) if len(versions) < FEW else [*versions, old]
            newest[key] = record
            records.append(record)
            sums.append(superseded)
            answers.append((OK, revision, old if prev_kv and before is not None else None))
        if records:
            self.events.extend(records)
            self._superseded_at.fromlist(sums)
            self.live += size - self.size - (superseded - self._superseded)
            self.size, self._superseded = size, superseded
            self._settle(revision)

    def delete(self, span: Bounds) -> Generator[None, None, list[Record]]:
        """Delete the keys of a span, in slices of 256; return the pairs they had."""
        deleted: list[Record] = []
        for live in self.slices(span, self.revision + 1):
            self._bury(live, 0)
            deleted += live
            yield
        return deleted

    def delete_keys(self, keys: Sequence[bytes], expired: int = 0) -> Generator[None, None, int]:
        """Delete these keys, in slices of 256, because the lease ``expired`` is over; return how many there were."""
        deleted = 0
        for at in range(0, len(keys), SLICE):
            found = (self.get(key, self.revision + 1) for key in keys[at : at + SLICE])
            live = [record for record in found if record is not None]
            self._bury(live, expired)
            deleted += len(live)
            yield
        return deleted

    def _bury(self, records: list[Record], expired: int) -> None:
        for old in records:
            self._replace(old[KEY], old, (old[KEY], None, 0, self.revision + 1, 0, expired))

    def _replace(self, key: bytes, old: Record, record: Record) -> None:
        versions = self.older.get(key, ())
        if isinstance(versions, list):
            versions.append(old)
        else:
            self.older[key] = (*versions, old) if len(versions) < FEW else [*versions, old]
        self.newest[key] = record
        self.events.append(record)
        self._count(old, record)

    def _count(self, old: Record | None, record: Record) -> None:
        """Count a new version, and what a compaction that covers it will free: what it supersedes, and itself if it is a tombstone."""
        key, value = record[KEY], record[VALUE]
        lease_before = 0
        if old is not None and old[VALUE] is not None:
            before = len(key) + len(old[VALUE]) + RECORD_BYTES
            self.live -= before
            self._superseded += before
            lease_before = old[LEASE]
        if value is None:
            size = len(key) + RECORD_BYTES
            self._superseded += size
            lease = 0
        else:
            size = len(key) + len(value) + RECORD_BYTES
            self.live += size
            lease = record[LEASE]
        self.size += size
        self._superseded_at.append(self._superseded)
        if lease or lease_before:
            self.moved.append((key, lease_before, lease))

    def commit(self) -> int:
        """End a command: its writes, if there were any, make the next revision.  Return the current one."""
        if self.events.written > self.events.settled:
            self._settle(self.revision + 1)
        return self.revision

    def _settle(self, revision: int) -> None:
        self.events.settled = self.events.written
        self.revision = revision
        self._at_commit = (self.size, self.live, self._superseded)

    def rollback(self) -> Generator[None, None, None]:
        """Take back the writes since the last commit, in slices of 256."""
        self.moved.clear()
        events = self.events
        while events.written > events.settled:
            self._undo(events.pop()[KEY])
            if events.written % SLICE == 0:
                yield
        del self._superseded_at[len(events) :]
        self.size, self.live, self._superseded = self._at_commit

    def _undo(self, key: bytes) -> None:
        versions = self.older.get(key)
        if versions is None:
            with self._lock:
                self.keys.remove(key)
            del self.newest[key]
            return
        self.newest[key] = versions[-1]
        if len(versions) == 1:
            del self.older[key]
        elif isinstance(versions, list) and len(versions) > FEW + 1:
            versions.pop()
        else:
            self.older[key] = tuple(versions[:-1])

    # -- compaction ----------------------------------------------------------------------------------------------------------------

    def compact(self, revision: int) -> None:
        """Forget what was superseded at or before a revision, which itself stays readable (etcd); logarithmic.

        Raises:
            Compacted: that has been done.
            FutureRevision: ``revision`` does not exist yet.
        """
        if revision > self.revision:
            raise refuse(FutureRevision, (revision, self.revision))
        if revision <= self.compacted:
            raise refuse(Compacted, (0,), self.compacted)
        count = self.events.first_at(revision + 1)
        if count:
            self.size -= self._superseded_at[count - 1] - self._freed
            self._freed = self._superseded_at[count - 1]
        self.compacted = revision
        self._at_commit = (self.size, self.live, self._superseded)

    @property
    def unscrubbed(self) -> bool:
        """Whether something is compacted and still there."""
        return self._scrubbed < self.compacted

    def scrub(self) -> Generator[None, None, None]:
        """Remove what is compacted, in slices of 256 versions.

        Only between commands, when readers know of the compaction revision already, and not while the store is dumped.

        The events at the compaction revision stay for watches that begin there, a deletion too (etcd #18089); the next compaction
        finds its tombstone by them.
        """
        revision = self.removed_below = self.compacted
        for at in range(0, self.events.first_at(revision + 1), SLICE):
            for record in self.events[at : at + SLICE]:
                self._scrub(record[KEY], revision)
            yield
        gone = self.events.first_at(revision)
        self.events, runs = self.events.without(gone)  # a new one: readers may be walking the old one
        del self._superseded_at[:gone]
        while runs:
            del runs[-1]
            yield
        self._scrubbed = revision

    def _scrub(self, key: bytes, revision: int) -> None:
        newest, versions = self.newest.get(key), self.older.get(key, ())
        if newest is None:
            return
        if newest[MOD] > revision:
            keep = bisect_right(versions, revision, key=_mod) - 1  # the version that is readable at the revision
            if keep >= 0 and versions[keep][VALUE] is None and versions[keep][MOD] < revision:
                keep += 1
            if keep > 0:
                self._cut(key, versions[keep:])
            return
        if versions:
            del self.older[key]
        if newest[VALUE] is None and newest[MOD] < revision:
            with self._lock:
                self.keys.remove(key)
            del self.newest[key]

    def _cut(self, key: bytes, versions: tuple[Record, ...] | list[Record]) -> None:
        """Leave a key these older versions: as a new object, for readers may be searching the old one."""
        if not versions:
            del self.older[key]
        else:
            self.older[key] = tuple(versions) if len(versions) <= FEW else versions

    def without_history(self, revision: int) -> Store:
        """Return a store with the present pairs of this one, at a later revision, up to which all is compacted; n log n."""
        store = Store(revision, revision)
        for live in self.slices((b"", None), self.revision):
            store.load_base(live)
        store.finish_replay()
        return store

    # -- dumping and loading -------------------------------------------------------------------------------------------------------

    def pin(self) -> tuple[Iterator[Record], History[Record], range]:
        """Return what makes this store as of now: its base, and which places of which history are its own.

        The base are the pairs at the compaction revision that were not changed by it, in key order.  Both may be walked on another
        thread while the store is written, but not while it is scrubbed.
        """
        return self._base(self.compacted), self.events, self.events.since(self.compacted)

    def _base(self, compacted: int) -> Iterator[Record]:
        if compacted > FIRST_REVISION:
            for live in self.slices((b"", None), compacted):
                yield from (record for record in live if record[MOD] < compacted)

    def load_base(self, records: Iterable[Record]) -> None:
        """Add the base of another store that was pinned, in its order, before its history.

        Raises:
            ValueError: no store can have had it.
        """
        last = next(reversed(self.newest), b"")
        for record in records:
            key, value, _, mod, _, _ = record
            if value is None or key <= last or mod >= self.compacted or not _is_plausible(record):
                raise ValueError(f"{key[:64]!r} at revision {mod} can't be what a store held when it was compacted at {self.compacted}")
            last = key
            self.newest[key] = record
            size = len(key) + len(value) + RECORD_BYTES
            self.size += size
            self.live += size

    def replay(self, records: Iterable[Record]) -> None:
        """Add the history of another store, in its order; ``finish_replay`` makes it readable.

        Raises:
            ValueError: no store can have written it in this order.
        """
        newest, lowest = self.newest, max(FIRST_REVISION + 1, self.compacted)
        before = self.events[-1][MOD] if self.events else lowest
        for record in records:
            key, value, create, mod, version, _ = record
            old = newest.get(key)
            if old is not None or value is None or not (create == mod > self.compacted and version == 1 and before <= mod <= self.revision):
                self._check_replayed(old, record, before)  # which the first version of a key, and most are that, needs no call for
            before = mod
            if old is not None:
                self._replace(key, old, record)
                continue
            newest[key] = record
            self.events.append(record)
            self._count(None, record)
            if value is None:  # deleted at the compaction revision: compacted already
                size = len(key) + RECORD_BYTES
                self.size -= size
                self._freed += size

    def _check_replayed(self, old: Record | None, record: Record, before: int) -> None:
        mod = record[MOD]
        if not before <= mod <= self.revision:
            raise ValueError(f"revision {mod} of {record[KEY][:64]!r} comes after {before}, in a store at {self.revision}")
        if mod == self.compacted and old is None and _is_plausible(record):
            return  # what came before it is compacted
        create, version = (0, 0) if old is None else (old[CREATE], old[VERSION])
        if record[VALUE] is None and not version:
            raise ValueError(f"revision {mod} deletes {record[KEY][:64]!r}, which did not exist")
        right = (0, 0) if record[VALUE] is None else (create or mod, version + 1)
        if (record[CREATE], record[VERSION]) != right or mod == self.compacted:
            raise ValueError(f"revision {mod} of {record[KEY][:64]!r} states {record[CREATE]} and {record[VERSION]}, not {right}")

    def finish_replay(self) -> None:
        """Complete a store whose history was replayed.

        Raises:
            ValueError: it does not lead to the store's revision.
        """
        reached = self.events[-1][MOD] if self.events else FIRST_REVISION
        if reached != self.revision and (self.events or self.compacted != self.revision):
            raise ValueError(f"the history ends at revision {reached}, the store is at {self.revision}")
        with self._lock:
            self.keys.update(self.newest)
        self.moved.clear()
        self.events.settled = self.events.written
        self._at_commit = (self.size, self.live, self._superseded)
