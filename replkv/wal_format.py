"""The write-ahead log as bytes: sectors, flushes, records.

A segment is a file of 512-byte sectors, zero until they are written.  A flush, all that one fdatasync makes durable, starts on a fresh
sector.  Every sector carries a stamp with a checksum, so that after a crash a sector that was never written (all zero) differs from one
that went bad.  docs/FORMATS.md has the grammar with worked bytes; ``recovery.py`` decides what a damaged sector means.
"""

from __future__ import annotations

import logging
import struct
import zlib
from enum import IntEnum
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

from attrs import frozen

from replkv import codec
from replkv.codec import DecodeError
from replkv.disk import corrupt
from replkv.errors import Corrupt, Incompatible
from replkv.messages import HardState, Identity, Position
from replkv.snapshot import SnapshotFile

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from replkv.disk import Disk

logger = logging.getLogger(__name__)

SECTOR = 512
SEGMENT_MIN = 8 * SECTOR
SEGMENT_MAX = 1 << 30
"""Bytes of a segment file; a larger one is not ours."""

_FORMAT = b"rkW\x02"  # the magic, and the version of the format
_CRC = struct.Struct("<I")  # crc32 of the rest of the sector, begun with the sector's number
_MARK = struct.Struct("<4sIQ")  # format, segment, flush
_STAMP = _CRC.size + _MARK.size
_ROOM = SECTOR - _STAMP
_ROOMS = struct.Struct(f"{_ROOM}s")  # what is between two stamps
_FLUSH = struct.Struct("<IIQQQIH")  # sectors, length of all that follows the stamps, term, end (term, index), records, length of the vote
_RECORD = struct.Struct("<BI")  # kind, length
_SIZE = struct.Struct("<Q")
_BLANK = bytes(SECTOR)
_UNREADABLE = b"\xff" * SECTOR
_READ_AT_ONCE = 1 << 20
_BLANKS = bytes(_READ_AT_ONCE)
_HEAD_MAX = 1 << 20


IDENTITY = 0
"""The segment that no log goes through: a file of its own that repeats who the member is, for the day when no other head can be read."""


class RecordKind(IntEnum):
    """What a record holds.  These numbers are on disk: never reuse one."""

    HEAD = 1
    ENTRY = 2
    SNAPSHOT_TAKEN = 3
    SNAPSHOT_INSTALLED = 4
    HEAD_AFRESH = 5  # a HEAD with which the log begins anew: the segments before it count no more


HEADS = (RecordKind.HEAD, RecordKind.HEAD_AFRESH)


@frozen
class Head:
    """What every segment begins with: all that must be known if the segments before it are gone.

    ``last_index``: where the log ended when the segment was begun; ``founding``: the first entry, as packed, or b"" while there is none;
    ``size``: bytes of the segment's file.
    """

    size: int
    identity: Identity
    last_index: int
    founding: bytes
    snapshot: SnapshotFile | None


class Record(NamedTuple):
    """One thing a flush makes durable."""

    kind: RecordKind
    body: bytes


class Flush(NamedTuple):
    """What one sync made durable: ``sectors`` sectors from ``sector`` on; ``end``: where the log then ended, or would without a loss."""

    number: int
    sector: int
    sectors: int
    hard_state: HardState
    end: Position
    records: list[Record]


class Torn(NamedTuple):
    """What is left of a flush that was never finished: sectors from ``sector`` up to, not including, ``end``."""

    number: int
    sector: int
    end: int


class Sector(NamedTuple):
    """A sector whose stamp is right."""

    number: int
    flush: int
    payload: bytes


@lru_cache(maxsize=16)
def segment_name(number: int) -> str:
    """Return the file name of a segment."""
    return f"wal-{number:016d}" if number else "identity"


# -- writing -----------------------------------------------------------------------------------------------------------------------


def record_parts(kind: RecordKind, body: bytes) -> tuple[bytes, bytes]:
    """Return a record as bytes, its body, which may be long, not copied."""
    return _RECORD.pack(kind, len(body)), body


def encode_record(kind: RecordKind, body: bytes) -> bytes:
    """Return a record as bytes."""
    return b"".join(record_parts(kind, body))


def encode_head(head: Head) -> bytes:
    """Return the body of a HEAD record; its length does not depend on ``size``."""
    snapshot = head.snapshot.to_wire() if head.snapshot else None
    return _SIZE.pack(head.size) + codec.pack((head.identity.name, head.identity.incarnation, head.last_index, head.founding, snapshot))


def flush_sectors(hard_state: HardState, records_size: int) -> int:
    """Return how many sectors a flush with so many bytes of records takes."""
    return -(-(_FLUSH.size + len((hard_state.vote or "").encode()) + records_size) // _ROOM)


def encode_flush(
    segment: int, number: int, sector: int, hard_state: HardState, end: Position, records: Sequence[bytes], count: int
) -> bytes:
    """Return a flush as it stands in its segment.

    Args:
        segment: number of the segment.
        number: of the flush; one more than the flush before, across segments.
        sector: of the segment, at which the flush will be written.
        hard_state: repeated by every flush.
        end: so is where the log ends.
        records: their bytes, in any division.
        count: how many records that is.
    """
    vote = (hard_state.vote or "").encode()
    length = _FLUSH.size + len(vote) + sum(map(len, records))
    sectors = -(-length // _ROOM)
    head = _FLUSH.pack(sectors, length, hard_state.term, end.term, end.index, count, len(vote))
    payload = b"".join((head, vote, *records, bytes(sectors * _ROOM - length)))
    mark = _MARK.pack(_FORMAT, segment, number)
    crc32 = zlib.crc32
    parts: list[bytes] = []
    add = parts.append  # one by one: a tuple of three to each sector would cost as much as its checksum
    for (body,) in _ROOMS.iter_unpack(payload):
        add(crc32(body, crc32(mark, sector)).to_bytes(4, "little"))
        add(mark)
        add(body)
        sector += 1
    return b"".join(parts)


# -- reading -----------------------------------------------------------------------------------------------------------------------


def read_sectors(disk: Disk, segment: int) -> Iterator[Sector]:
    """Yield a segment's written sectors in order; takes memory for one MiB at a time.

    Raises:
        Corrupt: a sector is neither blank nor rightly stamped.
        Incompatible: it was written by another version.
    """
    size = disk.size(segment_name(segment))
    if size % SECTOR or not SECTOR <= size <= SEGMENT_MAX:
        raise damage(disk, segment, f"has {size} bytes, which no segment has")
    for number, raw in _written(disk, segment):
        yield _open_sector(disk, segment, number, raw)


def _written(disk: Disk, segment: int) -> Iterator[tuple[int, bytes]]:
    """Yield the sectors that are not blank, each with its number."""
    name = segment_name(segment)
    size = min(disk.size(name), SEGMENT_MAX)
    for offset in range(0, size, _READ_AT_ONCE):
        data = _read(disk, name, offset, min(_READ_AT_ONCE, size - offset))
        if data == _BLANKS[: len(data)]:
            continue
        for at in range(0, len(data), SECTOR):
            raw, number = data[at : at + SECTOR], (offset + at) // SECTOR
            if raw != _BLANK and _is_stray(raw):
                logger.warning(
                    "%s/%s: a bit of sector %d has flipped; nothing was there, but the disk is not to be trusted", disk.where, name, number
                )
            elif raw != _BLANK:
                yield number, raw


def _read(disk: Disk, name: str, offset: int, length: int) -> bytes:
    """Read some sectors; one that the disk can't read is returned as what nobody ever wrote."""
    try:
        return disk.read(name, offset, length)
    except Corrupt as error:
        if length <= SECTOR:
            logger.warning("%s", error.damage)
            return _UNREADABLE
    half = max(SECTOR, length // 2 // SECTOR * SECTOR)
    return _read(disk, name, offset, half) + _read(disk, name, offset + half, length - half)


def _is_stray(raw: bytes) -> bool:
    """Tell whether a sector is blank but for one bit: whatever was written has many, in its stamp alone."""
    return raw[_CRC.size : _CRC.size + len(_FORMAT)] != _FORMAT and int.from_bytes(raw, "little").bit_count() == 1


def _open_sector(disk: Disk, segment: int, number: int, raw: bytes) -> Sector:
    if len(raw) != SECTOR or zlib.crc32(raw[4:], number) != _CRC.unpack_from(raw)[0]:
        raise damage(disk, segment, f"sector {number} is not what was written")
    form, home, flush = _MARK.unpack_from(raw, _CRC.size)
    if form != _FORMAT:
        raise Incompatible(
            f"{disk.where}/{segment_name(segment)} has the format {form!r}, this version reads {_FORMAT!r}: upgrade this member"
        )
    if home != segment:
        raise damage(disk, segment, f"sector {number} belongs to segment {home}")
    return Sector(number, flush, raw[_STAMP:])


def read_flushes(disk: Disk, segment: int, following: int | None) -> Iterator[Flush | Torn]:
    """Yield a segment's flushes in order, and at the end what is left of an unfinished one.

    Args:
        disk: where the segment is.
        segment: its number.
        following: the number the first flush must have; None if that is not known.

    Raises:
        Corrupt: a sector is damaged, or missing although a later flush was written.
        Incompatible: the segment was written by another version.
    """
    start = end = wanted = 0  # of the flush being read: its first sector, the sector behind the last one seen, how many it has (0: unknown)
    parts: list[bytes] = []
    for number, flush, payload in read_sectors(disk, segment):
        if following is None:
            following = flush
        if flush != following or (wanted and number >= start + wanted):
            missing = start + len(parts)
            raise damage(disk, segment, f"sector {missing} of flush {following} is missing before sector {number} of flush {flush}")
        end = number + 1
        if number != start + len(parts):
            continue  # a hole before it: the flush was torn
        if not parts:
            wanted = _wanted(disk, segment, number, payload)
        parts.append(payload)
        if len(parts) == wanted:
            yield _decode_flush(disk, segment, flush, start, parts)
            start, wanted, parts, following = end, 0, [], flush + 1
    if end > start:
        yield Torn(following or 0, start, end)


def glance(disk: Disk, segment: int) -> tuple[int, int] | None:
    """Return what a segment's first sector says of it: the kind of its head, and how many bytes its file should have.

    None: it is blank, damaged, or tells nothing.
    """
    raw = _read(disk, segment_name(segment), 0, SECTOR)
    if raw in (_BLANK, b""):
        return None
    try:
        payload = _open_sector(disk, segment, 0, raw).payload
    except Corrupt:
        return None
    at = _FLUSH.size + _FLUSH.unpack_from(payload)[-1]
    if at + _RECORD.size + _SIZE.size > len(payload):
        return None
    return payload[at], _SIZE.unpack_from(payload, at + _RECORD.size)[0]


def sift(disk: Disk, segment: int) -> Iterator[Flush | int | None]:
    """Yield what can be read of a damaged segment, in order: whole flushes, the flush of every sector, None for what is damaged.

    A flush counts only where its first sector is known to be one: the bytes behind it are users' and may look like anything.
    """
    run: list[Sector] = []  # sectors of one flush, from its first one on
    before: Sector | None = None  # the sector in front
    newest: Flush | None = None
    for sector in _sift_sectors(disk, segment):
        if sector is None:
            yield None
        else:
            yield sector.flush
            if before is not None and (sector.number, sector.flush) == (before.number + 1, before.flush):
                run += [sector] if run else []
            else:
                run = [sector] if _is_first(sector, before, newest) else []
            for found in _try_flush(disk, segment, run):
                newest = found or newest
                yield found
        before = sector


def _is_first(sector: Sector, before: Sector | None, newest: Flush | None) -> bool:
    """Tell whether a flush is known to begin with this sector."""
    if sector.number == 0 or (before is not None and (sector.number, sector.flush) == (before.number + 1, before.flush + 1)):
        return True
    # No flush takes less than a sector: where there is no more room for those in between, nothing of this one can have been among it.
    return newest is not None and sector.number - (newest.sector + newest.sectors) == sector.flush - newest.number - 1


def _sift_sectors(disk: Disk, segment: int) -> Iterator[Sector | None]:
    for number, raw in _written(disk, segment):
        try:
            yield _open_sector(disk, segment, number, raw)
        except Corrupt:
            yield None


def _try_flush(disk: Disk, segment: int, run: list[Sector]) -> Iterator[Flush | None]:
    """Yield the flush that a run of sectors makes up, if it is whole by now."""
    if not run:
        return
    try:
        if len(run) == _wanted(disk, segment, run[0].number, run[0].payload):
            yield _decode_flush(disk, segment, run[0].flush, run[0].number, [sector.payload for sector in run])
    except Corrupt:
        yield None


def _wanted(disk: Disk, segment: int, sector: int, payload: bytes) -> int:
    sectors, length, *_ = _FLUSH.unpack_from(payload)
    if not (_FLUSH.size <= length and sectors == -(-length // _ROOM) and (sector + sectors) * SECTOR <= disk.size(segment_name(segment))):
        raise damage(disk, segment, f"the flush at sector {sector} claims {length} bytes in {sectors} sectors")
    return int(sectors)


def _decode_flush(disk: Disk, segment: int, number: int, sector: int, parts: list[bytes]) -> Flush:
    payload = b"".join(parts)
    _, length, term, end_term, end_index, count, vote_size = _FLUSH.unpack_from(payload)
    at = _FLUSH.size + vote_size
    try:
        hard_state = HardState(term, payload[_FLUSH.size : at].decode() or None)
        records = list(_decode_records(payload, at, length))
    except (ValueError, struct.error) as error:
        raise damage(disk, segment, f"flush {number} at sector {sector} makes no sense ({error})") from None
    if len(records) != count:
        raise damage(disk, segment, f"flush {number} at sector {sector} has {len(records)} records where {count} were written")
    if max(term, end_term, end_index) >= 1 << 63:
        raise damage(disk, segment, f"flush {number} at sector {sector} has numbers that nobody counts to")
    return Flush(number, sector, len(parts), hard_state, Position(end_term, end_index), records)


def _decode_records(payload: bytes, at: int, end: int) -> Iterator[Record]:
    while at < end:
        kind, length = _RECORD.unpack_from(payload, at)
        start, at = at + _RECORD.size, at + _RECORD.size + length
        if at > end:
            raise ValueError("a record longer than its flush")
        yield Record(_record_kind(kind), payload[start:at])
    if at != end:
        raise ValueError("a flush shorter than its vote")


def _record_kind(kind: int) -> RecordKind:
    try:
        return RecordKind(kind)
    except ValueError:
        raise Incompatible(f"the log has a record of the unknown kind {kind}: upgrade this member") from None


def decode_head(body: bytes) -> Head:
    """Read the body of a HEAD record.

    Raises:
        DecodeError: it is none.
    """
    if len(body) < _SIZE.size:
        raise DecodeError(f"a segment head of {len(body)} bytes")
    match codec.unpack_canonical(body[_SIZE.size :], _HEAD_MAX):
        case (str(name), incarnation, last_index, bytes(founding), snapshot):
            if founding:
                codec.decode_entry(founding)
            pointer = None if snapshot is None else SnapshotFile.from_wire(snapshot)
            identity = Identity(name, codec.uint64(incarnation))
            return Head(_SIZE.unpack_from(body)[0], identity, codec.natural(last_index), founding, pointer)
    raise DecodeError("not a segment head")


def snapshot_pointer(body: bytes) -> SnapshotFile:
    """Read the body of a record that points to a snapshot.

    Raises:
        DecodeError: it does not.
    """
    return SnapshotFile.from_wire(codec.unpack(body))


def damage(disk: Disk, segment: int, what: str) -> Corrupt:
    """Return the error for a damaged segment."""
    return corrupt(f"{disk.where}/{segment_name(segment)}: {what}")


def unreadable(disk: Disk, segment: int, error: DecodeError) -> Incompatible:
    """Return the error for records whose checksums are right and whose contents are not."""
    if isinstance(error, codec.TooNew):
        return Incompatible(f"{disk.where}/{segment_name(segment)} holds {error}")
    return Incompatible(f"{damage(disk, segment, str(error))}; or it was written by another version: upgrade this member")
