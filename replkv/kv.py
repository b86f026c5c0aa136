"""The store: every key in all its versions, after etcd's rules of revisions (etcd, server/mvcc).

One thread writes; any thread reads, at a revision that was published to it, without a lock for a point read.  A command's writes all
get the revision after the current one.  They are invisible to readers, who ask for older ones, until ``commit`` makes that revision
the current one and the node publishes it; ``rollback`` takes them back.

Records are plain tuples of atoms: CPython's collector stops looking at those, which keeps its pauses short with millions of keys.
"""

from __future__ import annotations

from bisect import bisect_right
from itertools import islice
from operator import itemgetter
from threading import Lock
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

from sortedcontainers import SortedList

from replkv import errors

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Sequence

Record: TypeAlias = tuple[Any, ...]
"""(key, value, create_revision, mod_revision, version, lease); a tombstone has no value (None), and 0 as create_revision and version."""

KEY, VALUE, CREATE, MOD, VERSION, LEASE = range(6)

SLICE = 256
"""How many keys are looked at in one go: under the lock, and between two yields."""

FEW = 8
"""Up to so many older versions of a key stand in a tuple, which the collector ignores like the records in it."""

FIRST_REVISION = 1
"""The revision of an empty store; the first write makes the next one."""

Bounds: TypeAlias = "tuple[bytes, bytes | None] | Sequence[Any]"

T = TypeVar("T")
_mod = itemgetter(MOD)


def run(steps: Generator[None, None, T]) -> T:
    """Carry out a sliced computation in one go."""
    while True:
        try:
            next(steps)
        except StopIteration as stop:
            return stop.value  # type: ignore[no-any-return]  # a generator's return value


class Store:
    """All versions of all keys.

    Args:
        revision: the current revision.
        compacted: reads below this revision are refused; 0 refuses none.

    Attributes:
        newest: each key's newest version, tombstones included.
        keys: the keys of ``newest`` in order.
        older: the versions before the newest, ascending, of those keys that have several.
        events: all versions in the order they were written: the history.
    """

    def __init__(self, revision: int = FIRST_REVISION, compacted: int = 0) -> None:
        self.revision = revision
        self.compacted = compacted
        self.newest: dict[bytes, Record] = {}
        self.keys: SortedList[bytes] = SortedList()
        self.older: dict[bytes, tuple[Record, ...] | list[Record]] = {}
        self.events: list[Record] = []
        self._committed = 0  # how many events belong to committed revisions
        self._lock = Lock()  # guards ``keys``: it is reshaped in several steps

    # -- reading, on any thread ----------------------------------------------------------------------------------------------------

    def check(self, asked: int, revision: int) -> int:
        """Return the revision to read at when ``asked`` is wanted (0: the newest) and ``revision`` is the newest the reader may see.

        Raises:
            FutureRevision: ``asked`` does not exist yet.
            Compacted: it is no longer kept.
        """
        at = asked or revision
        if at > revision:
            raise errors.FutureRevision(f"revision {at} does not exist yet: the store is at {revision}")
        if at < self.compacted:
            raise errors.Compacted(f"revision {at} is compacted: {self.compacted} is the oldest that is kept", self.compacted)
        return at

    def get(self, key: bytes, revision: int) -> Record | None:
        """Return a key's version at a revision, or None if it did not exist then; logarithmic in the key's number of versions."""
        record = self.newest.get(key)
        if record is not None and record[MOD] > revision:
            record = self._older(key, record, revision)
        return record if record is None or record[VALUE] is not None else None

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
            yield [record for record in map(self.get, keys, [revision] * len(keys)) if record is not None]
            if len(keys) < SLICE:
                return
            start = keys[-1] + b"\x00"

    def scan(
        self, span: Bounds, revision: int, limit: int = 0, keys_only: bool = False, count_only: bool = False
    ) -> Generator[None, None, tuple[tuple[Record, ...], int, bool]]:
        """Read a span in key order, at a revision, in slices of 256 keys; linear in the number of keys of the span.

        Args:
            span: start and end of it.
            revision: what to read.
            limit: how many pairs are wanted at most; 0 is all of them.
            keys_only: leave the values empty.
            count_only: only count.

        Returns:
            The pairs, how many there are without the limit, and whether the limit cut some off.
        """
        records: list[Record] = []
        count = 0
        for live in self.slices(span, revision):
            count += len(live)
            wanted = [] if count_only else live[: limit - len(records)] if limit else live
            records += [(record[KEY], b"", *record[CREATE:]) for record in wanted] if keys_only else wanted
            yield
        return tuple(records), count, not count_only and count > len(records)

    # -- writing, on one thread ----------------------------------------------------------------------------------------------------

    @property
    def latest(self) -> int:
        """The revision the writer sees: one ahead of the current one as soon as the command at work has changed something."""
        return self.revision + (len(self.events) > self._committed)

    def put(self, key: bytes, value: bytes) -> Record | None:
        """Store a value; return the pair it replaces.  Logarithmic in the number of keys, for a new one."""
        revision = self.revision + 1
        record: Record
        old = self.newest.get(key)
        if old is None:
            record = (key, value, revision, revision, 1, 0)
            with self._lock:
                self.keys.add(key)
            self.newest[key] = record
            self.events.append(record)
            return None
        # After a tombstone that is version 1, created now.  The old key is the same, and one copy of it is enough.
        record = (old[KEY], value, old[CREATE] or revision, revision, old[VERSION] + 1, 0)
        self._replace(key, old, record)
        return None if old[VALUE] is None else old

    def delete(self, span: Bounds) -> Generator[None, None, list[Record]]:
        """Delete the keys of a span, in slices of 256; return the pairs they had."""
        deleted: list[Record] = []
        for live in self.slices(span, self.revision + 1):
            for old in live:
                self._replace(old[KEY], old, (old[KEY], None, 0, self.revision + 1, 0, 0))
            deleted += live
            yield
        return deleted

    def _replace(self, key: bytes, old: Record, record: Record) -> None:
        versions = self.older.get(key, ())
        if isinstance(versions, list):
            versions.append(old)
        else:
            self.older[key] = (*versions, old) if len(versions) < FEW else [*versions, old]
        self.newest[key] = record
        self.events.append(record)

    def commit(self) -> int:
        """End a command: its writes, if there were any, make the next revision.  Return the current one."""
        written = len(self.events)
        if written > self._committed:
            self._committed = written
            self.revision += 1
        return self.revision

    def rollback(self) -> Generator[None, None, None]:
        """Take back the writes since the last commit, in slices of 256."""
        while len(self.events) > self._committed:
            self._undo(self.events.pop()[KEY])
            if len(self.events) % SLICE == 0:
                yield

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

    # -- loading -------------------------------------------------------------------------------------------------------------------

    def replay(self, records: Iterable[Record]) -> None:
        """Add versions that another store's ``events`` held, in their order; ``finish_replay`` makes them readable.

        Raises:
            ValueError: no store can have written them in this order.
        """
        for record in records:
            old = self.newest.get(record[KEY])
            self._check_replayed(old, record)
            if old is None:
                self.newest[record[KEY]] = record
                self.events.append(record)
            else:
                self._replace(record[KEY], old, record)

    def _check_replayed(self, old: Record | None, record: Record) -> None:
        mod = record[MOD]
        before = self.events[-1][MOD] if self.events else FIRST_REVISION
        if not max(before, FIRST_REVISION + 1) <= mod <= self.revision:
            raise ValueError(f"revision {mod} of {record[KEY][:64]!r} comes after {before}, in a store at {self.revision}")
        if old is None and mod <= self.compacted:
            return  # what came before it is compacted
        create, version = (0, 0) if old is None else (old[CREATE], old[VERSION])
        if record[VALUE] is None and not version:
            raise ValueError(f"revision {mod} deletes {record[KEY][:64]!r}, which did not exist")
        right = (0, 0) if record[VALUE] is None else (create or mod, version + 1)
        if (record[CREATE], record[VERSION]) != right:
            raise ValueError(f"revision {mod} of {record[KEY][:64]!r} states {record[CREATE]} and {record[VERSION]}, not {right}")

    def finish_replay(self) -> None:
        """Complete a store whose versions were replayed.

        Raises:
            ValueError: they do not lead to the store's revision.
        """
        reached = self.events[-1][MOD] if self.events else FIRST_REVISION
        if reached != self.revision and self.revision > max(self.compacted, FIRST_REVISION):
            raise ValueError(f"the history ends at revision {reached}, the store is at {self.revision}")
        self.keys.update(self.newest)
        self._committed = len(self.events)
