"""Snapshot files: the whole state at one place of the log, in checked and bounded pieces.

A file is written under a temporary name, synced, and only then named; whoever finds it under its real name finds it complete.  Writing
and receiving go step by step, so that a housekeeper, or the simulator, can do other things in between.  docs/FORMATS.md has the grammar.
"""

from __future__ import annotations

import hashlib
import re
import struct
import zlib
from typing import TYPE_CHECKING, Any

import zstandard
from attrs import frozen

from replkv import codec
from replkv.codec import DecodeError
from replkv.disk import TEMPORARY, corrupt, publish, removed_if_full
from replkv.errors import Corrupt, Incompatible, InvariantBroken
from replkv.machine import CHUNK_MAX

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from replkv.disk import Disk
    from replkv.messages import SnapshotMeta

_MAGIC, _VERSION = b"rkSnap", 1
_HEADER = struct.Struct("<6sHII")  # magic, version, length of the description, crc32 of both numbers and the description
_FRAME = struct.Struct("<III")  # length, plain length, crc32 of both numbers and the zstd frame; length 0: the trailer follows
_TRAILER = struct.Struct("<IIQ32sI")  # 0, 0, plain length of the whole, its SHA-256, crc32 of these four
_SHA256 = 32  # bytes
_DESCRIPTION_MAX = 64 << 10
_PACKED_MAX = CHUNK_MAX + (4 << 10)
_SYNC_EVERY = 4 << 20  # bytes: one sync of all at the end would make the log's own syncs wait for it
_READ_AT_ONCE = 256 << 10
_NAME = re.compile(r"snapshot-\d{16,19}-\d{16,19}", re.ASCII)  # numbers of 63 bits have up to 19 digits


@frozen
class SnapshotFile:
    """A durable snapshot under its real name.

    ``size``: bytes of the file; ``sha256``: of the plain stream inside it, equal on all members.
    """

    name: str
    meta: SnapshotMeta
    cluster: bytes
    size: int
    sha256: bytes

    def to_wire(self) -> tuple[Any, ...]:
        """Return plain values that survive msgpack."""
        return (self.name, codec.meta_to_wire(self.meta), self.cluster, self.size, self.sha256)

    @classmethod
    def from_wire(cls, wire: object) -> SnapshotFile:
        """Read what ``to_wire`` wrote.

        Raises:
            DecodeError: it did not write this.
        """
        match wire:
            case (str(name), meta, bytes(cluster), size, bytes(sha256)) if (len(cluster), len(sha256)) == (len(codec.NO_CLUSTER), _SHA256):
                file = cls(name, codec.meta_from_wire(meta), cluster, codec.natural(size), sha256)
                if name == snapshot_name(file.meta):
                    return file
        raise DecodeError("not a pointer to a snapshot")


def snapshot_name(meta: SnapshotMeta) -> str:
    """Return the file name of the snapshot at a place of the log."""
    return f"snapshot-{meta.index:016d}-{meta.term:016d}"


def is_snapshot(name: str) -> bool:
    """Tell whether a file name is that of a finished snapshot."""
    return _NAME.fullmatch(name) is not None


# -- reading -----------------------------------------------------------------------------------------------------------------------


class SnapshotParser:
    """Checks a snapshot file as its bytes come in, however they are divided; holds one frame at most."""

    def __init__(self, where: str) -> None:
        self.meta: SnapshotMeta | None = None
        self.cluster = codec.NO_CLUSTER
        self.sha256 = b""
        self.finished = False
        self._where = where
        self._waiting = bytearray()
        self._digest = hashlib.sha256()
        self._plain = 0

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Take the next bytes of the file, and yield the plain chunks they complete, already checked.

        Raises:
            Corrupt: these are not the bytes of a snapshot file.
            Incompatible: they are of another version's.
        """
        for packed, plain in self.frames(data):
            chunk = self._unpack(packed, plain)
            self._digest.update(chunk)
            yield chunk
        if self.finished and self.sha256 != self._digest.digest():
            raise self._corrupt("does not add up: its trailer names another content")

    def frames(self, data: bytes) -> Iterator[tuple[bytes, int]]:
        """Take the next bytes of the file, and yield the frames they complete, packed, with the size each claims for its content.

        Checksums and sizes are checked, at a cost in proportion to ``data``; what is in the frames, which may be a thousand times
        as much, is not looked at.

        Raises:
            Corrupt: these are not the bytes of a snapshot file.
            Incompatible: they are of another version's.
        """
        self._waiting += data
        if self.meta is None and not self._read_header():
            return
        while (frame := self._next()) is not None:
            yield frame
        if self.finished and self._waiting:
            raise self._corrupt("has bytes behind its end")

    def _read_header(self) -> bool:
        if len(self._waiting) < _HEADER.size:
            return False
        magic, version, length, crc = _HEADER.unpack_from(self._waiting)
        if magic != _MAGIC or length > _DESCRIPTION_MAX:
            raise self._corrupt("does not begin like a snapshot")
        if len(self._waiting) < _HEADER.size + length:
            return False
        description = self._take(_HEADER.size + length)[_HEADER.size :]
        if _header_crc(version, description) != crc:
            raise self._corrupt("has a damaged header")
        if version != _VERSION:
            raise Incompatible(f"{self._where} is a snapshot of format {version}, this version reads {_VERSION}: upgrade this member")
        self.cluster, self.meta = self._describe(description)
        return True

    def _describe(self, description: bytes) -> tuple[bytes, SnapshotMeta]:
        try:
            match codec.unpack_canonical(description):
                case (bytes(cluster), meta) if len(cluster) == len(codec.NO_CLUSTER):
                    return cluster, codec.meta_from_wire(meta)
        except DecodeError as error:
            raise self._corrupt(f"has an odd header ({error})") from None
        raise self._corrupt("has an odd header")

    def _next(self) -> tuple[bytes, int] | None:
        """Return the next frame and the size of its content, None if it is not complete yet or there is none any more."""
        if self.finished or len(self._waiting) < _FRAME.size:
            return None
        length, plain, crc = _FRAME.unpack_from(self._waiting)
        if length == 0:
            self._read_trailer()
            return None
        if length > _PACKED_MAX or not 0 < plain <= CHUNK_MAX:
            raise self._corrupt(f"has a frame that claims {length} bytes for {plain}")
        if len(self._waiting) < _FRAME.size + length:
            return None
        packed = self._take(_FRAME.size + length)[_FRAME.size :]
        if _frame_crc(plain, packed) != crc:
            raise self._corrupt("has a damaged frame")
        self._plain += plain
        return packed, plain

    def _unpack(self, packed: bytes, plain: int) -> bytes:
        try:
            chunk = codec.decompress(packed, plain)
        except DecodeError as error:
            raise self._corrupt(f"has a frame of another content than it claims ({error})") from None
        if len(chunk) != plain:
            raise self._corrupt("has a frame of another size than it claims")
        return chunk

    def _read_trailer(self) -> None:
        if len(self._waiting) < _TRAILER.size:
            return
        raw = self._take(_TRAILER.size)
        _, none, plain, sha256, crc = _TRAILER.unpack(raw)
        if zlib.crc32(raw[:-4]) != crc or none or plain != self._plain:
            raise self._corrupt("does not add up: its trailer names another content")
        self.sha256 = sha256
        self.finished = True

    def _take(self, size: int) -> bytes:
        data = bytes(self._waiting[:size])
        del self._waiting[:size]
        return data

    def _corrupt(self, what: str) -> Corrupt:
        return corrupt(f"{self._where} {what}")


def read_snapshot(disk: Disk, file: SnapshotFile) -> Iterator[bytes]:
    """Yield the plain chunks of a snapshot; only when the iterator has ended is the whole known to be right.

    Raises:
        Corrupt: the file is not what was written, or not the one meant.
        Incompatible: another version wrote it.
    """
    parser = SnapshotParser(f"{disk.where}/{file.name}")
    for offset in range(0, disk.size(file.name), _READ_AT_ONCE):
        yield from parser.feed(disk.read(file.name, offset, _READ_AT_ONCE))
    if not parser.finished or (parser.meta, parser.sha256) != (file.meta, file.sha256):
        raise corrupt(f"{disk.where}/{file.name} is cut off, or another snapshot than the one that was written under that name")


def open_snapshot(disk: Disk, name: str) -> SnapshotFile:
    """Return what a snapshot's first and last bytes say it is; its content is checked when it is read.

    Raises:
        Corrupt: the ends are not those of a snapshot.
        Incompatible: another version wrote it.
    """
    size = disk.size(name)
    parser = SnapshotParser(f"{disk.where}/{name}")
    next(parser.feed(disk.read(name, 0, _HEADER.size + _DESCRIPTION_MAX)), None)
    raw = disk.read(name, max(0, size - _TRAILER.size), _TRAILER.size)
    if parser.meta is None or len(raw) < _TRAILER.size or zlib.crc32(raw[:-4]) != _TRAILER.unpack(raw)[4]:
        raise corrupt(f"{disk.where}/{name} is not a complete snapshot")
    return SnapshotFile(name, parser.meta, parser.cluster, size, _TRAILER.unpack(raw)[3])


# -- writing -----------------------------------------------------------------------------------------------------------------------


class _File:
    """A snapshot file in the making: bytes are added at its end; now and then they are synced."""

    def __init__(self, disk: Disk, meta: SnapshotMeta, suffix: str) -> None:
        self._disk = disk
        self._name = snapshot_name(meta)
        self._temporary = self._name + suffix + TEMPORARY
        self._unsynced = 0
        self.size = 0
        with removed_if_full(disk, self._temporary):
            disk.allocate(self._temporary, 0)

    def add(self, data: bytes) -> None:
        with removed_if_full(self._disk, self._temporary):
            self._disk.write(self._temporary, self.size, data)
            self.size += len(data)
            self._unsynced += len(data)
            if self._unsynced >= _SYNC_EVERY:
                self._disk.sync(self._temporary)
                self._unsynced = 0

    def finish(self, meta: SnapshotMeta, cluster: bytes, sha256: bytes) -> SnapshotFile:
        with removed_if_full(self._disk, self._temporary):
            publish(self._disk, self._temporary, self._name)
        return SnapshotFile(self._name, meta, cluster, self.size, sha256)

    def abandon(self) -> None:
        if self._temporary in self._disk.list():
            self._disk.remove(self._temporary)


class SnapshotWriter:
    """Writes a snapshot file, one chunk per ``step``.

    Args:
        disk: where to.
        meta: the place of the log it stands for.
        cluster: the cluster's id, 16 bytes.
        chunks: the plain stream, in pieces of at most ``CHUNK_MAX`` bytes; the division comes back when the file is read.
    """

    def __init__(self, disk: Disk, meta: SnapshotMeta, cluster: bytes, chunks: Iterable[bytes]) -> None:
        self._meta = meta
        self._cluster = cluster
        self._chunks = iter(chunks)
        self._digest = hashlib.sha256()
        self.plain = 0
        """Bytes of the plain stream that were written so far."""
        self._packer = zstandard.ZstdCompressor(level=1, write_checksum=True, write_content_size=True)
        self._file = _File(disk, meta, ".writing")
        description = codec.pack((cluster, codec.meta_to_wire(meta)))
        self._file.add(_HEADER.pack(_MAGIC, _VERSION, len(description), _header_crc(_VERSION, description)) + description)

    def step(self) -> SnapshotFile | None:
        """Write the next chunk, if it is not empty; after the last one make the file durable and return it."""
        if (chunk := next(self._chunks, None)) is not None:
            if chunk:
                self._add(chunk)
            return None
        raw = _TRAILER.pack(0, 0, self.plain, self._digest.digest(), 0)[:-4]
        self._file.add(raw + struct.pack("<I", zlib.crc32(raw)))
        return self._file.finish(self._meta, self._cluster, self._digest.digest())

    def abandon(self) -> None:
        """Remove what was written; not after the last step."""
        self._file.abandon()

    def _add(self, chunk: bytes) -> None:
        if len(chunk) > CHUNK_MAX:
            raise InvariantBroken(f"a snapshot chunk of {len(chunk)} bytes, at most {CHUNK_MAX} are read back")
        self._digest.update(chunk)
        self.plain += len(chunk)
        packed = self._packer.compress(chunk)
        self._file.add(_FRAME.pack(len(packed), len(chunk), _frame_crc(len(chunk), packed)) + packed)


class SnapshotReceiver:
    """Takes the raw bytes of a leader's snapshot file, checks them as they come, and gives the file its real name.

    Args:
        disk: where to.
        meta: the place of the log the leader says it stands for.
        total: bytes of the whole file.
    """

    def __init__(self, disk: Disk, meta: SnapshotMeta, total: int) -> None:
        self.meta = meta
        self.total = total
        self._parser = SnapshotParser(f"the snapshot received for {disk.where}")
        self._file = _File(disk, meta, ".receiving")

    @property
    def offset(self) -> int:
        """How many bytes have arrived: where the next chunk must begin."""
        return self._file.size

    @property
    def complete(self) -> bool:
        """Whether all bytes are here, so that ``finish`` may be called."""
        return self.offset == self.total

    def add(self, offset: int, data: bytes) -> None:
        """Take a chunk if it is the next one; any other is ignored, and the sender learns of it by ``offset``.

        Raises:
            Corrupt: this is not the snapshot the leader announced; abandon it.
        """
        if offset != self.offset:
            return
        if offset + len(data) > self.total:
            raise Corrupt(f"a snapshot of {self.total} bytes goes on behind its end")
        for _ in self._parser.frames(data):  # they are unpacked when the file is loaded, which takes longer than the leader may wait
            pass
        if self._parser.meta not in (None, self.meta):
            raise Corrupt(f"received another snapshot than announced: {self._parser.meta} for {self.meta}")
        self._file.add(data)

    def finish(self) -> SnapshotFile:
        """Make the file durable under its real name and return it.

        Raises:
            Corrupt: it is not complete.
        """
        if not self.complete or not self._parser.finished:
            raise Corrupt(f"a snapshot that ends after {self.offset} of {self.total} bytes")
        return self._file.finish(self.meta, self._parser.cluster, self._parser.sha256)

    def abandon(self) -> None:
        """Remove what has arrived; not after ``finish``."""
        self._file.abandon()


def _header_crc(version: int, description: bytes) -> int:
    return zlib.crc32(description, zlib.crc32(struct.pack("<HI", version, len(description))))


def _frame_crc(plain: int, packed: bytes) -> int:
    return zlib.crc32(packed, zlib.crc32(struct.pack("<II", len(packed), plain)))
