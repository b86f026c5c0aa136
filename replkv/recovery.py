"""What the segments of a data directory say: the state they lead to, or why they cannot be trusted.

Two things look alike after a crash and must never be taken for each other.  A **torn tail** is the last flush, of which some sectors were
never written (they are blank): nobody was told that it is durable, so it is cut off.  **Rot** is anything else that is not as it was
written: it may hit what was acknowledged, and a member that cut it off would break its word.  With f the number of the last flush that
is whole, a torn tail can only be flush f + 1, because no flush is begun before the one before it is durable.
"""

from __future__ import annotations

import contextlib
import re
from typing import TYPE_CHECKING

from replkv import codec
from replkv.codec import DecodeError
from replkv.disk import corrupt
from replkv.errors import Corrupt, WrongCluster
from replkv.messages import NOWHERE, EntryKind, HardState, Identity, Position
from replkv.snapshot import SnapshotFile
from replkv.wal_format import (
    HEADS,
    Flush,
    Head,
    Record,
    RecordKind,
    Torn,
    damage,
    decode_head,
    glance,
    read_flushes,
    segment_name,
    snapshot_pointer,
    unreadable,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from replkv.disk import Disk
    from replkv.messages import Entry

NUMBER_MAX = 1 << 32
_NAME = re.compile(r"wal-(\d{16})", re.ASCII)


def segments(names: Sequence[str]) -> list[int]:
    """Return the numbers of the segments among file names, in order."""
    return sorted(number for name in names if (match := _NAME.fullmatch(name)) and 0 < (number := int(match[1])) < NUMBER_MAX)


def check_owner(disk: Disk, identity: Identity, name: str) -> None:
    """Raise ``WrongCluster`` if a directory is another member's; without a name it may be anybody's."""
    if name and identity.name != name:
        raise WrongCluster(f"{disk.where} belongs to the member {identity.name!r}, not to {name!r}: give each its own directory")


class Replay:
    """The state that flushes lead to, one after the other; one that begins the log afresh forgets those before it.

    The entries that are known are those behind ``base``; the ones up to there are in a snapshot, or in segments that are not read.
    """

    def __init__(self, disk: Disk, name: str) -> None:
        self.identity: Identity | None = None
        self.hard_state = HardState()
        self.founding = b""
        self.snapshot: SnapshotFile | None = None
        self.base = 0
        self.entries: list[Entry] = []
        self.reach: dict[int, int] = {}  # segment -> the last index when the next one was begun
        self.segment = 0  # the newest one with a whole flush, or the one being read when something was wrong
        self.flush: Flush | None = None  # the newest whole one
        self.torn: tuple[int, Torn] | None = None  # and its segment
        self.blank: dict[int, int] = {}  # segments never written to -> bytes
        self._disk = disk
        self._name = name

    @property
    def last_index(self) -> int:
        """The index at which the log ends."""
        return self.base + len(self.entries)

    @property
    def end(self) -> Position:
        """Where the log ends, once all of it was found."""
        if self.entries:
            return Position(self.entries[-1].term, self.entries[-1].index)
        return Position(self.snapshot.meta.term, self.snapshot.meta.index) if self.snapshot else NOWHERE

    def run(self, numbers: Sequence[int]) -> None:
        """Follow segments from the oldest to the newest.

        Raises:
            Corrupt: rot; ``segment`` is the one it was found in.
            WrongCluster: the directory is another member's.
            Incompatible: another version wrote it.
        """
        for number in numbers:
            if number != self.segment + 1 and number != numbers[0]:
                raise damage(self._disk, number - 1, "is missing")
            self.segment = number
            if not self._read(number):
                self.blank[number] = self._disk.size(segment_name(number))
        self.segment = max((n for n in numbers if n not in self.blank), default=0)

    def _read(self, number: int) -> bool:
        """Read one segment; return whether there is a whole flush in it."""
        flush = self.flush
        following = flush.number + 1 if flush else 1 if number == 1 else None
        for found in read_flushes(self._disk, number, following):
            if self.blank or self.torn:
                raise damage(self._disk, number, "is written to although the segment before it is not full")
            if isinstance(found, Torn):
                self.torn = (number, found)
            else:
                self._take(number, found)
        return self.flush is not flush

    def check_whole(self) -> None:
        """Raise ``Corrupt`` unless everything that counts was found: an identity, and all entries behind the snapshot."""
        covered = self.snapshot.meta.index if self.snapshot else 0
        if self.flush is not None and self.flush.end < self.end:
            raise damage(self._disk, self.segment, f"flush {self.flush.number} claims that the log ends at {self.flush.end}")
        if self.base > covered:
            missing = f"{self._disk.where}: the entries {covered + 1} to {self.base} are missing, with the segments they were in"
            raise corrupt(missing)

    def _take(self, segment: int, flush: Flush) -> None:
        if (segment not in self.reach) != (flush.records[:1] != [] and flush.records[0].kind in HEADS):
            raise damage(self._disk, segment, f"flush {flush.number} does not begin with the segment's head")
        try:
            for record in flush.records:
                self._replay(segment, record)
        except DecodeError as error:
            raise unreadable(self._disk, segment, error) from None
        if flush.hard_state.term < self.hard_state.term:
            raise damage(self._disk, segment, f"flush {flush.number} goes back to term {flush.hard_state.term}")
        self.hard_state = flush.hard_state
        self.flush = flush

    def _replay(self, segment: int, record: Record) -> None:
        if record.kind is RecordKind.ENTRY:
            self._replay_entry(segment, codec.decode_entry(record.body))
        elif record.kind in HEADS:
            self._replay_head(segment, decode_head(record.body), afresh=record.kind is RecordKind.HEAD_AFRESH)
        else:
            self._replay_snapshot(segment, record.kind, snapshot_pointer(record.body))

    def _replay_head(self, segment: int, head: Head, *, afresh: bool) -> None:
        check_owner(self._disk, head.identity, self._name)
        if (size := self._disk.size(segment_name(segment))) != head.size:
            raise damage(self._disk, segment, f"has {size} bytes of {head.size}")
        if self.identity is None or afresh:
            self.base, self.entries, self.reach = head.last_index, [], {}
        elif (head.identity, head.last_index, head.founding, head.snapshot) != (
            self.identity,
            self.last_index,
            self.founding,
            self.snapshot,
        ):
            raise damage(self._disk, segment, "does not go on where the segment before it ends")
        else:
            self.reach[segment - 1] = head.last_index
        self.identity, self.founding, self.snapshot = head.identity, head.founding, head.snapshot
        self.reach[segment] = 0
        self._forget_covered()

    def _replay_entry(self, segment: int, entry: Entry) -> None:
        covered = self.snapshot.meta.index if self.snapshot else 0
        if not covered < entry.index <= self.last_index + 1:
            raise damage(self._disk, segment, f"holds entry {entry.index} where {self.last_index + 1} comes next")
        self.base = min(self.base, entry.index - 1)
        del self.entries[entry.index - 1 - self.base :]
        self.entries.append(entry)
        if entry.kind is EntryKind.FOUNDING:
            self.founding = entry.encoded

    def _replay_snapshot(self, segment: int, kind: RecordKind, snapshot: SnapshotFile) -> None:
        if kind is RecordKind.SNAPSHOT_INSTALLED:
            self.base, self.entries = snapshot.meta.index, []
        elif snapshot.meta.index > self.last_index:
            raise damage(self._disk, segment, f"names a snapshot at {snapshot.meta.index} behind its last entry {self.last_index}")
        self.snapshot = snapshot
        self._forget_covered()

    def _forget_covered(self) -> None:
        """Drop entries that the snapshot holds."""
        if self.snapshot and self.base < self.snapshot.meta.index:
            del self.entries[: self.snapshot.meta.index - self.base]
            self.base = self.snapshot.meta.index


def replay(disk: Disk, name: str, numbers: Sequence[int]) -> Replay:
    """Return what the segments lead to.  Rot in segments that the snapshot makes superfluous is passed over.

    Raises:
        Corrupt: rot that matters.
        WrongCluster: the directory is another member's.
        Incompatible: another version wrote it.
    """
    if afresh := [number for number in numbers if (glance(disk, number) or (0, 0))[0] == RecordKind.HEAD_AFRESH]:
        with contextlib.suppress(Corrupt):
            state = replay_from(disk, name, [number for number in numbers if number >= afresh[-1]])
            if state.flush is not None:
                return state  # else the new beginning was torn
    return replay_from(disk, name, numbers)


def replay_from(disk: Disk, name: str, numbers: Sequence[int]) -> Replay:
    """Return what these segments lead to by themselves; see ``replay``."""
    first: Corrupt | None = None
    while True:
        state = Replay(disk, name)
        try:
            state.run(numbers)
            state.check_whole()
        except Corrupt as error:
            first = first or error
            numbers = [number for number in numbers if number > state.segment]
        else:
            if first is not None and state.flush is None:
                raise first
            return state
