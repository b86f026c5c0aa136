"""What can be saved of a damaged log, and what is known of the rest.

Recovery stops at the first thing that is not as it was written.  In a cluster that is not the end: the entries up to there are good, the
leader sends the others again, and for the time in between ``caution.py`` only has to know what this member promised: its term and vote,
and where its log ended.  Every flush repeats them, so one whole flush behind the damage tells; where the damage may have hit the last one
nobody knows, and the end is ``UNKNOWN``.  Whose log it is stands at the head of every segment, and once more in the file ``identity``.
"""

from __future__ import annotations

import contextlib
from itertools import accumulate, pairwise, takewhile
from typing import TYPE_CHECKING

from attrs import evolve, frozen

from replkv import codec
from replkv.errors import Corrupt
from replkv.messages import NOWHERE, UNKNOWN, Configuration, Entry, EntryKind, HardState, Identity, Position
from replkv.raftlog import configuration_in
from replkv.recovery import Replay, check_owner
from replkv.wal_format import (
    HEADS,
    IDENTITY,
    SECTOR,
    SEGMENT_MIN,
    Flush,
    Head,
    RecordKind,
    decode_head,
    encode_head,
    encode_record,
    flush_sectors,
    glance,
    segment_name,
    sift,
    snapshot_pointer,
    unreadable,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from replkv.disk import Disk
    from replkv.snapshot import SnapshotFile


KEPT = 256 << 20
"""Bytes of entries that are kept at most: the new beginning is one flush, and the leader sends the others again in any case."""


@frozen
class Salvage:
    """What is left of a log.

    ``end``: where it ended, ``UNKNOWN`` if that is lost with the last vote; ``entries``: the intact ones behind the snapshot;
    ``configuration``: the newest that was found; ``flush`` and ``segment``: the last numbers in use; ``prepared``: bytes of the blank
    segment behind that one, 0 if there is none.
    """

    identity: Identity
    founding: bytes
    hard_state: HardState
    end: Position
    snapshot: SnapshotFile | None
    entries: tuple[Entry, ...]
    configuration: Configuration
    flush: int
    segment: int
    prepared: int

    @property
    def last_index(self) -> int:
        """The last entry that is left, in the snapshot or behind it."""
        return self.entries[-1].index if self.entries else self.snapshot.meta.index if self.snapshot else 0

    @property
    def prospect(self) -> str:
        """What becomes of the rest."""
        if self.end != UNKNOWN:
            return "the leader sends the rest"
        return f"this member takes no part before all other voters have told what they know: {', '.join(self._others)}"

    @property
    def _others(self) -> list[str]:
        return sorted(self.configuration.all_voters - {self.identity.name})

    def that_fit(self) -> Salvage:
        """Return this with so many entries as have room in the prepared segment."""
        base = self.snapshot.meta.index if self.snapshot else 0
        head = len(encode_record(RecordKind.HEAD_AFRESH, encode_head(Head(0, self.identity, base, self.founding, self.snapshot))))
        sized = zip(self.entries, _sizes(self.entries), strict=True)
        fitting = (entry for entry, size in sized if flush_sectors(self.hard_state, head + size) * SECTOR <= self.prepared)
        return evolve(self, entries=tuple(fitting))

    @property
    def is_curable(self) -> bool:
        """Whether there is anybody else: whatever was decided, somebody else has it too."""
        return bool(self._others)


class _Findings:
    """What the readable flushes of a damaged log say, wherever they stand."""

    def __init__(self) -> None:
        self.identity: Identity | None = None
        self.founding = b""
        self.snapshot: SnapshotFile | None = None
        self.configuration = Configuration(())
        self._configured_at = 0
        self.newest = Flush(0, 0, 0, HardState(), NOWHERE, [])
        self.highest = 0  # the highest flush number of any readable sector
        self.damaged_behind = True  # something behind the newest flush can't be read

    def take(self, flush: Flush) -> None:
        self.newest, self.damaged_behind = flush, False
        for record in flush.records:
            if record.kind in HEADS:
                self._take_head(decode_head(record.body))
            elif record.kind is RecordKind.ENTRY:
                self._take_entry(codec.decode_entry(record.body))
            else:
                self._take_snapshot(snapshot_pointer(record.body))

    def _take_head(self, head: Head) -> None:
        self.identity = head.identity
        if head.founding:
            self._take_entry(codec.decode_entry(head.founding))
        self._take_snapshot(head.snapshot)

    def _take_entry(self, entry: Entry) -> None:
        if entry.kind is EntryKind.FOUNDING:
            self.founding = entry.encoded
        self._configure(entry.index, configuration_in(entry))

    def _take_snapshot(self, snapshot: SnapshotFile | None) -> None:
        if snapshot is not None:
            self.snapshot = snapshot
            self._configure(snapshot.meta.index, snapshot.meta.configuration)

    def _configure(self, index: int, configuration: Configuration | None) -> None:
        if configuration is not None and index >= self._configured_at:
            self.configuration, self._configured_at = configuration, index

    @property
    def in_doubt(self) -> bool:
        """Whether a flush behind the newest whole one was durable, or may have been."""
        # What was founded has an entry: where the newest whole flush is one from before that, all others are lost.
        return self.damaged_behind or self.highest > self.newest.number + 1 or self.newest.end == NOWHERE


def salvage(disk: Disk, name: str, numbers: Sequence[int], damage: Corrupt) -> Salvage:
    """Read what can be read of a damaged log.

    Args:
        disk: where it is; nothing there is changed.
        name: of the member.
        numbers: of all segments.
        damage: what was found first.

    Raises:
        Corrupt: not even whose log it is can be read; ``damage``, with the ways out.
        WrongCluster: it is another member's.
        Incompatible: another version wrote it.
    """
    found = _sift(disk, numbers)
    if found.identity is None or not found.founding:
        raise _nameless(damage)
    check_owner(disk, found.identity, name)
    end = UNKNOWN if found.in_doubt else found.newest.end
    entries = _intact_entries(disk, name, numbers, found.snapshot, end)
    used = found.highest if found.in_doubt else found.newest.number, *_last_in_use(disk, numbers)
    return Salvage(found.identity, found.founding, found.newest.hard_state, end, found.snapshot, entries, found.configuration, *used)


def _last_in_use(disk: Disk, numbers: Sequence[int]) -> tuple[int, int]:
    """Return the last segment that must not be replaced, and the bytes of one behind it in which nothing is of use.

    It is blank, or has a part of one flush: most likely of the new beginning that an earlier salvage was about to write.
    """
    newest = max(numbers, default=0)
    if not newest or _is_cut(disk, newest):
        return newest, 0
    left = list(sift(disk, newest))
    if all(isinstance(item, int) and item == left[0] for item in left):
        return newest - 1, disk.size(segment_name(newest))
    return newest, 0


def _sift(disk: Disk, numbers: Sequence[int]) -> _Findings:
    found = _Findings()
    if segment_name(IDENTITY) in disk.list():
        _sift_segment(disk, IDENTITY, found)
        found.damaged_behind = True  # it says nothing about where the log ends
    for before, number in pairwise((IDENTITY, *numbers)):
        found.damaged_behind |= before != number - 1  # a segment is missing
        _sift_segment(disk, number, found)
    return found


def _sift_segment(disk: Disk, number: int, found: _Findings) -> None:
    for item in sift(disk, number):
        if isinstance(item, Flush):
            try:
                found.take(item)
            except codec.DecodeError as error:
                raise unreadable(disk, number, error) from None
        elif item is None:
            found.damaged_behind = True
        else:
            found.highest = max(found.highest, item)
    found.damaged_behind |= _is_cut(disk, number)


def _is_cut(disk: Disk, number: int) -> bool:
    """Tell whether a segment's file has a size that it never had."""
    size, claimed = disk.size(segment_name(number)), glance(disk, number)
    return size % SECTOR != 0 or size < SEGMENT_MIN or (claimed is not None and claimed[1] != size)


def _intact_entries(disk: Disk, name: str, numbers: Sequence[int], snapshot: SnapshotFile | None, end: Position) -> tuple[Entry, ...]:
    """Return the entries that follow the snapshot without a gap, up to the first damage."""
    best: list[Entry] = []
    reached = 0
    for first in numbers:
        if first < reached:
            continue  # what begins there ends where the one before it did, and is shorter
        state = Replay(disk, name)
        with contextlib.suppress(Corrupt):
            state.run([number for number in numbers if number >= first])
        covered = snapshot.meta.index if snapshot else 0
        if state.snapshot == snapshot and state.base <= covered and len(state.entries) > len(best):
            best = state.entries
        reached = state.segment
    # Where the damage is they may have been replaced: what the log can't have held at its end is not to be taken for it.
    held = list(takewhile(lambda entry: entry.term <= end.term and entry.index <= end.index, best))
    return tuple(entry for entry, size in zip(held, _sizes(held), strict=True) if size <= KEPT)


def _sizes(entries: Sequence[Entry]) -> Iterator[int]:
    """Return for each entry how many bytes all records up to there take."""
    return accumulate(len(encode_record(RecordKind.ENTRY, entry.encoded)) for entry in entries)


def beyond_cure(left: Salvage, error: Corrupt) -> Corrupt:
    """Return the error for a loss that nobody else can make good, with the ways out."""
    return _ways_out(
        error,
        f"entries up to {left.last_index} are intact, but {left.identity.name} is the only voter of its cluster: nobody can send the rest",
        "move the directory away and begin with an empty one, which loses what was stored",
    )


def _nameless(error: Corrupt) -> Corrupt:
    """Return the error for a log that does not even tell whose it is, with the ways out."""
    return _ways_out(
        error,
        "nothing is left that says whose log this is, so that no other member can send what is missing",
        "leave this member out: the others go on as long as they are a majority.  If there are none, begin with an empty directory, which "
        "loses what was stored",
    )


def _ways_out(error: Corrupt, why: str, otherwise: str) -> Corrupt:
    return Corrupt(
        f"{error.damage}; {why}.  Either put back a copy of the whole directory that was made after this member had stopped for the last "
        f"time (never put an older copy of it in its place: that one has forgotten every write and vote since); or {otherwise}",
        error.damage,
    )
