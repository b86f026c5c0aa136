"""The write-ahead log of one member: its term and vote, its entries, and where its newest snapshot is.

What ``append`` is given is only noted; one ``sync`` makes all of it durable, in one flush.  Truncation is logical: an entry at an index
replaces everything from there on.  Segments are zeroed and synced ahead, so that a sync into them has no metadata to write.
``wal_format.py`` knows the bytes, ``recovery.py`` how to read them back.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from typing import TYPE_CHECKING

from attrs import evolve, frozen

from replkv.codec import decode_entry, pack
from replkv.disk import TEMPORARY, corrupt, create
from replkv.errors import Corrupt, DiskFull, InvariantBroken, StorageError
from replkv.messages import NOWHERE, EntryKind, HardState, Identity, Position
from replkv.raftlog import configuration_in
from replkv.recovery import Replay, replay, segments
from replkv.salvage import Salvage, beyond_cure, salvage
from replkv.snapshot import SnapshotFile, is_snapshot, open_snapshot
from replkv.wal_format import (
    IDENTITY,
    SECTOR,
    SEGMENT_MAX,
    SEGMENT_MIN,
    Head,
    RecordKind,
    encode_flush,
    encode_head,
    encode_record,
    flush_sectors,
    record_parts,
    segment_name,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from replkv.disk import Disk
    from replkv.messages import Configuration, Entry

logger = logging.getLogger(__name__)

KEPT = 64 << 10
"""Bytes of the last segment that are kept where the disk is full: a vote takes a sector, a small entry one or a few."""
SMALL = 4 << 10
"""Bytes of a small entry."""
RESTORING = "restoring"
"""A file that is there as long as a restore into the directory is not complete."""
LAST = 8
"""Sectors that no vote takes: with the pointer to a snapshot in them the log makes room again."""


@frozen
class Recovered:
    """What a data directory remembers.

    ``founding``: the payload of the first entry, b"" if the log never held it; ``entries``: all behind the snapshot.  After a loss
    ``floor`` is where the log ended before, and ``configuration`` the newest that is known, where no snapshot or entry says it.
    """

    identity: Identity
    founding: bytes
    hard_state: HardState
    snapshot: SnapshotFile | None
    entries: tuple[Entry, ...]
    floor: Position = NOWHERE
    configuration: Configuration | None = None


class Log:
    """Built by ``open``.  One thread appends and syncs; ``prepare`` may run on another.

    ``snapshot``: the newest one, with which recovery begins.
    """

    def __init__(self, disk: Disk, identity: Identity, segment_bytes: int) -> None:
        self.snapshot: SnapshotFile | None = None
        self._disk = disk
        self._identity = identity
        self._segment_bytes = min(SEGMENT_MAX, max(SEGMENT_MIN, -(-segment_bytes // SECTOR) * SECTOR))
        self._hard_state = HardState()
        self._founding = b""
        self._end = NOWHERE
        self._floor = NOWHERE  # where the log ended before a part of it was lost, until it has grown that far again
        self._records: list[bytes] = []
        self._count = 0
        self._dirty = False
        self._failure: StorageError | None = None
        # Where the next flush goes.
        self._flush = 1
        self._segment = 0
        self._sector = 0
        self._segment_size = 0
        # What is durable: the head of a new segment tells it, because what is noted follows it in the same flush.
        self._durable: tuple[int, bytes, SnapshotFile | None] = (0, b"", None)
        # Segment -> the last index when the next one was begun: it may go when all of that is in a snapshot.
        self._reach: dict[int, int] = {}
        self._keep_from = 0
        self._replaced: list[SnapshotFile] = []
        self._repeated = b""  # what the file ``identity`` holds
        # Shared with the thread that prepares.
        self._housekeeping = threading.Lock()
        self._blank: dict[int, int] = {}  # segments that wait to be used -> bytes
        self._garbage: list[str] = []
        self.shortage: DiskFull | None = None
        """Why there was no room for the next segment: what is left of this one is all there is; None: there was."""

    # -- opening -------------------------------------------------------------------------------------------------------------------

    @classmethod
    def open(cls, disk: Disk, name: str, new_incarnation: int, segment_bytes: int) -> tuple[Log, Recovered]:
        """Recover what a directory holds, or begin a log in an empty one.

        Args:
            disk: the directory; locked until ``close``.
            name: of this member; "": it is that of whoever has a log there.
            new_incarnation: a random number of 64 bits, this member's identity if the directory is empty.
            segment_bytes: size of new segments.

        Returns:
            The log and what it remembers, all of it durable.  Takes time in proportion to the segments kept.

        Raises:
            DirectoryInUse: another process has it.
            WrongCluster: it is another member's.
            Corrupt: what it holds is not what was written.
            Incompatible: another version wrote it.
            StorageError: the disk failed.
        """
        disk.lock()
        try:
            names = disk.list()
            if RESTORING in names:
                raise StorageError(f"{disk.where}: a restore into it was cut off; do that again, or begin with an empty directory")
            if names:
                disk.sync_directory()  # a process that was killed has left names that are seen, and that a loss of power would take back
            try:
                return cls._open(disk, names, Identity(name, new_incarnation), segment_bytes)
            except Corrupt as error:
                return cls._recover_from(disk, names, name, segment_bytes, error)
        except BaseException:
            disk.close()
            raise

    @classmethod
    def _open(cls, disk: Disk, names: Sequence[str], newcomer: Identity, segment_bytes: int) -> tuple[Log, Recovered]:
        numbers = segments(names)
        state = replay(disk, newcomer.name, numbers)
        _check_history(disk, names, numbers, state)
        if state.identity is None and not newcomer.name:
            raise StorageError(f"{disk.where} holds nobody's log")
        log = cls(disk, state.identity or newcomer, segment_bytes)
        log._repeated = _read_identity(disk, names)
        log.snapshot = _check_snapshot(disk, state.snapshot)
        log._settle(state)
        log._blank = state.blank
        log._remove_all_but({*state.reach, *state.blank}, names)
        if state.identity is None:
            log._begin()
        else:
            log._adopt(state)
        return log, log._recovered(tuple(state.entries))

    def _recovered(self, entries: tuple[Entry, ...], configuration: Configuration | None = None) -> Recovered:
        founding = decode_entry(self._founding).payload if self._founding else b""
        return Recovered(self._identity, founding, self._hard_state, self.snapshot, entries, self._floor, configuration)

    def _settle(self, state: Replay) -> None:
        """Make durable what was read: cut a torn tail, or write the last flush again.

        It may have been read from the page cache of a process that died before, or in, its sync.
        """
        if state.torn is not None:
            segment, torn = state.torn
            offset, data = torn.sector * SECTOR, bytes((torn.end - torn.sector) * SECTOR)
        elif state.flush is not None:
            segment, flush = state.segment, state.flush
            offset = flush.sector * SECTOR
            data = self._disk.read(segment_name(segment), offset, flush.sectors * SECTOR)
        else:
            return
        self._disk.flush(segment_name(segment), offset, data)

    def _begin(self) -> None:
        self._dirty = True
        self.sync()

    def _adopt(self, state: Replay) -> None:
        """Take over the state that was read."""
        if state.flush is None or state.identity is None:
            raise InvariantBroken("a log without a flush has no state")
        self._hard_state, self._founding, self._end = state.hard_state, state.founding, state.end
        self._floor = state.flush.end if state.flush.end > state.end else NOWHERE
        self._durable = (self.last_index, self._founding, self.snapshot)
        self._flush = state.flush.number + 1
        self._segment = state.segment
        self._sector = state.flush.sector + state.flush.sectors
        self._segment_size = self._disk.size(segment_name(state.segment))
        self._reach = {number: reach for number, reach in state.reach.items() if number != state.segment}

    def _remove_all_but(self, used: set[int], names: Sequence[str]) -> None:
        """Remove what nothing refers to: unfinished files, snapshots without a pointer, segments that are not in use."""
        pointer = self.snapshot.name if self.snapshot else ""
        self._garbage = [segment_name(number) for number in segments(names) if number not in used]
        self._garbage += [name for name in names if name.endswith(TEMPORARY) or (is_snapshot(name) and name != pointer)]
        self._remove_garbage()

    # -- after a loss --------------------------------------------------------------------------------------------------------------

    @classmethod
    def _recover_from(cls, disk: Disk, names: Sequence[str], name: str, segment_bytes: int, error: Corrupt) -> tuple[Log, Recovered]:
        """Open a damaged log with what is intact, if others can send the rest."""
        left = salvage(disk, name, segments(names), error)
        try:
            left = evolve(left, snapshot=_check_snapshot(disk, left.snapshot))
        except Corrupt:
            left = evolve(left, snapshot=None, entries=())
        log = cls(disk, left.identity, segment_bytes)
        log._repeated = _read_identity(disk, names)
        return log, log._begin_afresh(left, error)

    def lose_snapshot(self, recovered: Recovered, error: Corrupt) -> Recovered:
        """Go on without the snapshot, which turned out to be damaged when it was loaded, and so without the entries behind it.

        Args:
            recovered: what the log remembered with it.
            error: what was found.

        Returns:
            What it remembers now.

        Raises:
            Corrupt: nobody else could replace it; ``error``, with the ways out.
        """
        if self.snapshot is None:
            raise InvariantBroken("there is no snapshot to lose")
        known = [configuration for entry in recovered.entries if (configuration := configuration_in(entry)) is not None]
        configuration = known[-1] if known else self.snapshot.meta.configuration
        end, used = max(self._end, self._floor), (self._flush - 1, self._segment, self._blank.get(self._segment + 1, 0))
        left = Salvage(self._identity, self._founding, self._hard_state, end, None, (), configuration, *used)
        return self._begin_afresh(left, error)

    def _begin_afresh(self, left: Salvage, error: Corrupt) -> Recovered:
        """Write what is left as one flush of the next segment; as soon as that is durable nothing before it counts."""
        if not left.is_curable:
            raise beyond_cure(left, error)
        try:
            self._write_afresh(left)
        except DiskFull:
            if not left.prepared:
                raise
            left = left.that_fit()
            self._write_afresh(left)
        self._remove_all_but({self._segment}, self._disk.list())
        logger.warning("%s; what is intact is kept, up to entry %d, and %s", error.damage, left.last_index, left.prospect)
        return self._recovered(left.entries, left.configuration)

    def _write_afresh(self, left: Salvage) -> None:
        self._hard_state, self._founding, self._floor, self.snapshot = left.hard_state, left.founding, left.end, left.snapshot
        self._end = Position(left.snapshot.meta.term, left.snapshot.meta.index) if left.snapshot else NOWHERE
        self._durable = (self._end.index, self._founding, left.snapshot)
        self._flush, self._segment, self._segment_size = left.flush + 1, left.segment, 0
        self._blank = {left.segment + 1: left.prepared} if left.prepared else {}  # on a full disk there is no other
        self._records, self._count = [], 0
        self.append(None, left.entries)
        self._roll(RecordKind.HEAD_AFRESH)
        if self._segment_size == left.prepared:
            self._erase_what_is_left_of_another_attempt()
        self._reach = {}
        self._write_flush()

    def _erase_what_is_left_of_another_attempt(self) -> None:
        """Blank all but the first sector, which tells what the segment is until the flush replaces it."""
        self._disk.flush(segment_name(self._segment), SECTOR, bytes(self._segment_size - SECTOR))

    def begin_anew(self, incarnation: int, founding: Entry, snapshot: SnapshotFile) -> None:
        """Let the directory be that of another cluster's member, which begins with a snapshot; durable when this returns.

        One flush does it: after a crash it is the one or the other.

        Args:
            incarnation: of the new member.
            founding: the first entry of the cluster.
            snapshot: its file, durable already.
        """
        used = self._flush - 1, self._segment, self._blank.get(self._segment + 1, 0)
        end = Position(snapshot.meta.term, snapshot.meta.index)
        identity, configuration = Identity(self._identity.name, incarnation), snapshot.meta.configuration
        self._identity = identity
        self._write_afresh(Salvage(identity, founding.encoded, HardState(end.term), end, snapshot, (), configuration, *used))
        self._remove_all_but({self._segment}, self._disk.list())
        with contextlib.suppress(DiskFull):  # there may be room when it starts
            self.prepare()

    @property
    def last_index(self) -> int:
        """Where the log ends, what is not yet synced included."""
        return self._end.index

    @property
    def last_term(self) -> int:
        """The term of the entry there."""
        return self._end.term

    def set_floor(self, floor: Position) -> None:
        """Note how far the log may have reached before a part of it was lost, now that this is known; durable after ``sync``."""
        self._floor = floor
        self._dirty = True

    @property
    def founding_entry(self) -> Entry:
        """The first entry of the cluster's log, also when the log no longer goes back that far."""
        if not self._founding:
            raise InvariantBroken(f"{self._disk.where} was never founded")
        return decode_entry(self._founding)

    # -- noting --------------------------------------------------------------------------------------------------------------------

    def append(self, hard_state: HardState | None, entries: Sequence[Entry]) -> None:
        """Note a term and vote, and entries; each entry replaces everything from its index on.  Durable after ``sync``."""
        if hard_state is not None:
            self._note_hard_state(hard_state)
        covered = self.snapshot.meta.index if self.snapshot else 0
        for entry in entries:
            if not covered < entry.index <= self._end.index + 1:
                raise InvariantBroken(f"entry {entry.index} appended to a log from {covered + 1} to {self.last_index}")
            self._note(RecordKind.ENTRY, entry.encoded)
            self._end = Position(entry.term, entry.index)
            if entry.kind is EntryKind.FOUNDING:
                self._founding = entry.encoded

    def found(self, entry: Entry) -> Recovered:
        """Begin an empty log with the founding entry; durable when this returns.  It is kept as long as the directory lives.

        Returns:
            What recovery would return now.
        """
        if self.last_index or entry.kind is not EntryKind.FOUNDING:
            raise InvariantBroken(f"a log up to {self.last_index} founded with {entry}")
        self.append(HardState(entry.term), (entry,))
        self.sync()
        return Recovered(self._identity, entry.payload, self._hard_state, None, (entry,))

    def snapshot_taken(self, file: SnapshotFile, keep_from: int) -> None:
        """Let recovery begin with a snapshot of this log's own entries; durable when this returns, with everything noted before.

        Args:
            file: the snapshot.
            keep_from: the index of the first entry whose segment must stay.
        """
        if not file.meta.index <= self.last_index or keep_from > file.meta.index + 1:
            raise InvariantBroken(f"a snapshot at {file.meta.index} of a log up to {self.last_index}, kept from {keep_from}")
        self._note_snapshot(RecordKind.SNAPSHOT_TAKEN, file)
        self._keep_from = keep_from
        self.sync()

    def install_snapshot(self, file: SnapshotFile, hard_state: HardState | None) -> None:
        """Replace the whole log by a snapshot from the leader, behind which it goes on; durable when this returns."""
        if hard_state is not None:
            self._note_hard_state(hard_state)
        self._note_snapshot(RecordKind.SNAPSHOT_INSTALLED, file)
        self._keep_from = file.meta.index + 1
        self._end = Position(file.meta.term, file.meta.index)
        self.sync()

    def _note_hard_state(self, new: HardState) -> None:
        old = self._hard_state
        if new.term < old.term or (new.term == old.term and old.vote not in (None, new.vote)):
            raise InvariantBroken(f"{new} after {old}: a term or a vote taken back")
        self._dirty |= new != old
        self._hard_state = new

    def _note_snapshot(self, kind: RecordKind, file: SnapshotFile) -> None:
        if self.snapshot is not None:
            if file.meta.index < self.snapshot.meta.index:
                raise InvariantBroken(f"a snapshot at {file.meta.index} after one at {self.snapshot.meta.index}")
            self._replaced.append(self.snapshot)
        self._note(kind, pack(file.to_wire()))
        self.snapshot = file

    def _note(self, kind: RecordKind, body: bytes) -> None:
        self._records += record_parts(kind, body)
        self._count += 1
        self._dirty = True

    # -- making durable ------------------------------------------------------------------------------------------------------------

    def sync(self) -> None:
        """Make everything noted durable, in one flush; does nothing if nothing was.

        Raises:
            StorageError: the disk failed, now or before; nothing can be made durable any more.
        """
        if self._failure is not None:
            raise self._failure.with_traceback(None)
        if not self._dirty:
            return
        try:
            self._write_flush()
        except StorageError as error:
            self._failure = error
            raise
        except BaseException as error:
            self._failure = StorageError(f"{self._disk.where}: an earlier flush was interrupted by {error!r}")
            raise

    def _write_flush(self) -> None:
        if self._end >= self._floor:
            self._floor = NOWHERE
        data = self._encoded()
        if self._sector * SECTOR + len(data) > self._segment_size:
            self._roll()
            data = self._encoded()
        self._disk.flush(segment_name(self._segment), self._sector * SECTOR, data)
        self._flush += 1
        self._sector += len(data) // SECTOR
        self._records, self._count, self._dirty = [], 0, False
        if self._durable[2] is not self.snapshot:
            self._discard()
        self._durable = (self._end.index, self._founding, self.snapshot)

    def _encoded(self) -> bytes:
        """Return what is noted, as it will stand where the next flush goes."""
        end = max(self._end, self._floor)
        return encode_flush(self._segment, self._flush, self._sector, self._hard_state, end, self._records, self._count)

    def _roll(self, kind: RecordKind = RecordKind.HEAD) -> None:
        """Go over to the next segment; its head comes before what is noted."""
        last_index, founding, snapshot = self._durable
        head = Head(0, self._identity, last_index, founding, snapshot)
        head_size = len(encode_record(kind, encode_head(head)))
        needed = flush_sectors(self._hard_state, head_size + sum(map(len, self._records))) * SECTOR
        if needed > SEGMENT_MAX:
            raise InvariantBroken(f"a flush of {needed} bytes; a segment has at most {SEGMENT_MAX}")
        with self._housekeeping:
            size = self._blank.pop(self._segment + 1, 0)
            if size < needed:
                size = max(self._segment_bytes, needed)
                create(self._disk, segment_name(self._segment + 1), size)
            if self._segment:
                self._reach[self._segment] = last_index
            self._segment += 1
        self._sector, self._segment_size = 0, size
        self._records.insert(0, encode_record(kind, encode_head(evolve(head, size=size))))
        self._count += 1

    def _discard(self) -> None:
        """Mark as garbage what the new snapshot, durable now with its pointer, makes superfluous."""
        with self._housekeeping:
            for number in sorted(self._reach):
                if self._reach[number] >= self._keep_from:
                    break
                del self._reach[number]
                self._garbage.append(segment_name(number))
            current = self.snapshot.name if self.snapshot else ""
            self._garbage += [file.name for file in self._replaced if file.name != current]
            self._replaced = []

    def make_room(self, size: int) -> bool:
        """Tell whether entries of ``size`` bytes, together with all that is noted, will find room; make it if there is none yet.

        Where the disk is full a part of the last segment is kept: for small entries, such as those that make room or begin a new term,
        and the last half of it for votes alone.
        """
        # Of each sector 492 bytes are used; a new segment begins with a head.
        needed = size + sum(map(len, self._records)) + len(self._founding)
        kept = min(KEPT, self._segment_bytes // 8) // SECTOR if self.short else 0
        sectors = needed // 480 + 8 + (kept if size > SMALL else kept // 2)
        if self._segment_size // SECTOR - self._sector >= sectors:
            return True
        with self._housekeeping:
            if self._blank.get(self._segment + 1, 0) < sectors * SECTOR:
                try:
                    self._prepare_next(max(self._segment_bytes, sectors * SECTOR))
                except DiskFull:
                    return False
        return True

    # -- housekeeping --------------------------------------------------------------------------------------------------------------

    @property
    def short(self) -> bool:
        """Whether there was no room for the next segment."""
        return self.shortage is not None

    @property
    def spent(self) -> bool:
        """Whether there is no room left even for a vote."""
        return not self.has_next and self._segment_size // SECTOR - self._sector < LAST

    @property
    def has_next(self) -> bool:
        """Whether the next segment is ready."""
        return self._segment + 1 in self._blank

    @property
    def unprepared(self) -> bool:
        """Whether ``prepare`` has anything to do."""
        return bool(self._garbage) or not self.has_next or self._repeated != self._identity_file()

    def prepare(self) -> None:
        """Remove files that are no longer needed, have a zeroed segment ready, and the identity repeated.  May run on another thread.

        Raises:
            DiskFull: there is no room for it; see ``shortage``.
        """
        self._remove_garbage()
        try:
            with self._housekeeping:
                if self._segment + 1 not in self._blank:
                    self._prepare_next(self._segment_bytes)
        finally:  # for which there may be room although there is none for a segment
            if self._repeated != (content := self._identity_file()):
                create(self._disk, segment_name(IDENTITY), len(content), content)
                self._repeated = content

    def _prepare_next(self, size: int) -> None:
        try:
            create(self._disk, segment_name(self._segment + 1), size)
        except DiskFull as error:
            self.shortage = error
            raise
        self._blank[self._segment + 1] = size
        self.shortage = None

    def _identity_file(self) -> bytes:
        """Return what the file ``identity`` should hold: who this member is, and in which cluster; nothing before there is one."""
        founding = self._durable[1]
        if not founding:
            return b""
        head = Head(0, self._identity, 0, founding, None)
        size = flush_sectors(HardState(), len(encode_record(RecordKind.HEAD, encode_head(head)))) * SECTOR
        record = encode_record(RecordKind.HEAD, encode_head(evolve(head, size=size)))
        return encode_flush(IDENTITY, 0, 0, HardState(), NOWHERE, [record], 1)

    def _remove_garbage(self) -> None:
        """Remove files; a crash may bring any of them back, and recovery passes over segments that the snapshot covers."""
        with self._housekeeping:
            unused, self._garbage = self._garbage, []
        for name in unused:
            self._disk.remove(name)
        if unused:
            self._disk.sync_directory()

    def close(self) -> None:
        """Let go of the directory; what was noted and not synced is lost."""
        self._disk.close()


def _check_history(disk: Disk, names: Sequence[str], numbers: Sequence[int], state: Replay) -> None:
    """Raise ``Corrupt`` if a directory has files that tell of a log, or of more of it, than there is."""
    lost = [segment_name(IDENTITY)] if segment_name(IDENTITY) in names and not state.founding else []
    if state.identity is None:
        lost += [name for name in names if is_snapshot(name)] + [segment_name(number) for number in numbers[:1] if number != 1]
    if lost:
        raise corrupt(f"{disk.where} has {lost[0]} but no log of a cluster")


def _read_identity(disk: Disk, names: Sequence[str]) -> bytes:
    name = segment_name(IDENTITY)
    with contextlib.suppress(Corrupt):  # it is written again then
        return disk.read(name, 0, SEGMENT_MAX) if name in names else b""
    return b""


def _check_snapshot(disk: Disk, pointer: SnapshotFile | None) -> SnapshotFile | None:
    """Return the file a pointer means, if it is the one that was meant."""
    if pointer is None:
        return None
    if pointer.name not in disk.list():
        raise corrupt(f"{disk.where}/{pointer.name} is missing")
    file = open_snapshot(disk, pointer.name)
    if (file.meta, file.sha256, file.cluster) != (pointer.meta, pointer.sha256, pointer.cluster):
        raise corrupt(f"{disk.where}/{pointer.name} is another snapshot than the log means")
    return file
