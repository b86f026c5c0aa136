"""The log as the Raft core sees it: everything since the snapshot, in memory.

The core never reads a disk.  ``base`` is the last entry that was forgotten: its index and term are still known, so that every question
about the log has an exact answer or none, never a made-up one.
"""

from __future__ import annotations

from bisect import bisect_right
from itertools import islice
from operator import attrgetter
from typing import TYPE_CHECKING

from replkv import codec
from replkv.entries import Entries
from replkv.errors import InvariantBroken
from replkv.messages import Append, Configuration, Entry, EntryKind, Position, SnapshotMeta

if TYPE_CHECKING:
    from collections.abc import Sequence

RUN_ENTRIES = 4096
"""Entries in one Append: the sizes of all of them must fit into the head of a frame."""

_term = attrgetter("term")


def configuration_in(entry: Entry) -> Configuration | None:
    """Return the configuration an entry puts into effect, None if it holds none."""
    if entry.kind is EntryKind.BLOCK:
        return None
    if entry.kind is EntryKind.FOUNDING:
        return codec.decode_founding(entry.payload).configuration
    return codec.decode_configuration(entry.payload)


class RaftLog:
    """A run of entries behind a base, and the configurations among them."""

    def __init__(self, snapshot: SnapshotMeta | None, entries: Sequence[Entry]) -> None:
        """Join what the disk gave back.

        Raises:
            InvariantBroken: a gap between snapshot and entries or among them, or an entry that contradicts the snapshot.
        """
        self.base_index, self.base_term = 0, 0
        self.restart(snapshot or SnapshotMeta(0, 0, Configuration(())))
        self._base_at(entries)
        self.put(entries[self.last_index + 1 - entries[0].index :] if entries else ())

    def _base_at(self, entries: Sequence[Entry]) -> None:
        # Entries from before the snapshot are of use to slow followers, but the term before the first one is not known:
        # the first one becomes the base itself, unless it is the first of all.
        index = self.base_index
        if not entries or entries[-1].index < index:
            return
        if entries[0].index > index + 1:
            raise InvariantBroken(f"the log begins at {entries[0].index}, its snapshot ends at {index}")
        if entries[0].index == index + 1:
            return
        at_snapshot = entries[index - entries[0].index]
        if (at_snapshot.index, at_snapshot.term) != (index, self.base_term):
            raise InvariantBroken(f"the log holds {at_snapshot} where its snapshot ends at {index} of term {self.base_term}")
        first = entries[0]
        self.base_index, self.base_term = (0, 0) if first.index == 1 else (first.index, first.term)
        self.last_index, self.last_term = self.base_index, self.base_term

    def restart(self, snapshot: SnapshotMeta) -> None:
        """Forget everything; the log goes on behind a snapshot."""
        self.base_index, self.base_term = snapshot.index, snapshot.term
        self._entries = Entries()
        self.last_index, self.last_term = snapshot.index, snapshot.term
        """Where the newest entry is, or the base, and of which term it is."""
        self._configurations = [(snapshot.index, snapshot.configuration)]

    # -- questions -----------------------------------------------------------------------------------------------------------------

    @property
    def end(self) -> Position:
        """Where the log ends: what decides whose is more up to date."""
        return Position(self.last_term, self.last_index)

    @property
    def last_time(self) -> int:
        """The cluster time of the newest entry, 0 if there is none."""
        return last.time if (last := self._entries.last) else 0

    @property
    def configuration(self) -> Configuration:
        """The newest configuration, committed or not: the one in effect (thesis §4.1)."""
        return self._configurations[-1][1]

    @property
    def configuration_index(self) -> int:
        """Where the newest configuration stands in the log."""
        return self._configurations[-1][0]

    @property
    def configurations(self) -> tuple[Configuration, ...]:
        """All configurations still known, the newest last."""
        return tuple(configuration for _, configuration in self._configurations)

    def term_at(self, index: int) -> int | None:
        """Return the term of an entry or of the base, None if it is not known (any more)."""
        if index == self.last_index:
            return self.last_term
        if self.base_index < index < self.last_index:
            return self._entries[index - self.base_index - 1].term
        return self.base_term if index == self.base_index else None

    def between(self, first: int, last: int) -> list[Entry]:
        """Return the entries from ``first`` to ``last``, both included.

        Raises:
            InvariantBroken: the log no longer, or not yet, holds all of them.
        """
        if first > last:
            return []
        if not self.base_index < first <= last <= self.last_index:
            raise InvariantBroken(f"entries {first} to {last} asked of a log that holds {self.base_index + 1} to {self.last_index}")
        return list(islice(self._entries.since(first - self.base_index - 1), last + 1 - first))

    def run(self, first: int, limit: int) -> tuple[Entry, ...]:
        """Return entries from ``first`` on, at least one if there is one, with at most ``limit`` bytes and ``RUN_ENTRIES`` in all."""
        run: list[Entry] = []
        size = 0
        for entry in islice(self._entries.since(first - self.base_index - 1), RUN_ENTRIES):
            size += len(entry.encoded)
            if size > limit and run:
                break
            run.append(entry)
        return tuple(run)

    def agreement(self, index: int, term: int) -> int:
        """Return the highest index up to ``index`` at which this log could agree with one that has ``term`` there.

        Terms never fall along a log, so entries of a higher term than that can't be in the other one.  O(log n).
        """
        if index <= self.base_index:
            return index
        known = min(index, self.last_index) - self.base_index
        at = bisect_right(self._entries, term, hi=known, key=_term)
        return self.base_index + at if at or self.base_term <= term else self.base_index - 1

    def compare(self, append: Append, commit: int) -> tuple[int | None, Sequence[Entry]]:
        """Compare this log with what a leader sends (§3.5).

        Args:
            append: well-formed.
            commit: what is committed here is in every leader's log (§3.6.3); comparing begins behind it.

        Returns:
            Up to where the logs agree once the entries that are new have been put, and these; (None, ()): they don't agree.

        Raises:
            InvariantBroken: they differ in what is committed.
        """
        entries: Sequence[Entry] = append.entries
        prev_index, prev_term = append.prev_index, append.prev_term
        if prev_index < commit:
            skipped = entries[: commit - prev_index]
            if prev_index + len(skipped) < commit:
                return commit, ()
            entries = entries[len(skipped) :]
            prev_index, prev_term = commit, skipped[-1].term
        own_term = self.term_at(prev_index)
        if own_term != prev_term and prev_index == commit:
            raise InvariantBroken(f"committed entry {prev_index} has term {own_term}, the leader's {prev_term}")
        if own_term != prev_term:
            return None, ()
        return prev_index + len(entries), entries[self.first_difference(entries) :]

    def first_difference(self, entries: Sequence[Entry]) -> int:
        """Return the position of the first of ``entries`` that this log does not hold."""
        for at, entry in enumerate(entries):
            if self.term_at(entry.index) != entry.term:
                return at
        return len(entries)

    # -- changes -------------------------------------------------------------------------------------------------------------------

    def put(self, entries: Sequence[Entry]) -> None:
        """Append entries in place of everything from the first one's index on; a configuration among them is in effect at once.

        Raises:
            InvariantBroken: they leave a gap, or their terms fall.
            DecodeError: a damaged configuration; nothing has changed then.
        """
        found = [(entry.index, configuration) for entry in entries if (configuration := configuration_in(entry)) is not None]
        if entries and self.base_index < entries[0].index <= self.last_index:
            self._truncate(entries[0].index)
        index, term = self.last_index, self.last_term
        for entry in entries:
            index += 1
            if entry.index != index or entry.term < term:
                raise InvariantBroken(f"entry {entry.index} of term {entry.term} where {index} of term {term} or later belongs")
            term = entry.term
        self._entries.extend(entries)
        self.last_index, self.last_term = index, term
        self._configurations.extend(pair for pair in found if pair[0] > self._configurations[0][0])

    def _truncate(self, index: int) -> None:
        self._entries.cut(index - 1 - self.base_index)
        self.last_index, self.last_term = index - 1, last.term if (last := self._entries.last) else self.base_term
        while self._configurations[-1][0] >= index:
            self._configurations.pop()

    def trim(self, index: int) -> None:
        """Forget the entries up to ``index``.  O(runs kept)."""
        term = self.term_at(index)
        if term is None:
            raise InvariantBroken(f"trim to {index} of a log that holds {self.base_index + 1} to {self.last_index}")
        self._entries.forget(index - self.base_index)
        self.base_index, self.base_term = index, term
        while len(self._configurations) > 1 and self._configurations[1][0] <= index:
            del self._configurations[0]
