"""Backups: the state of a member at one entry of the log, in one file with which another cluster can begin (``new_cluster.py``).

It is a snapshot file, and as such it is checked.  The member's thread only takes hold of the state; the file is written on a thread of
whoever asked, while writes go on.  It gets its name when it is whole and durable, and was read back.
"""

from __future__ import annotations

import asyncio
import contextlib
import copy
import errno
import hashlib
import os
import stat
import threading
import time
from typing import TYPE_CHECKING, Any, Final, Protocol, Self, TypeAlias
from weakref import WeakSet

from attrs import define, field, frozen

from replkv import codec, letters
from replkv.errors import Corrupt, Incompatible, TooLarge
from replkv.kv import RECORD_BYTES
from replkv.machine import DUMP_VERSION, assembled
from replkv.messages import SnapshotMeta
from replkv.plans import Plan
from replkv.snapshot import SnapshotParser, SnapshotWriter

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from replkv.machine import Machine
    from replkv.plans import Asker
    from replkv.values import ScanResult
    from replkv.wire import Raw

    Progress: TypeAlias = Callable[[int], object]
    """Is told how many bytes have been written so far."""

REST: Final = 1.0
"""How many times as long as it computes the writing thread rests: the member's thread needs the interpreter a dozen times for a put."""
AT_ONCE: Final = 256 << 10
"""Bytes that are read in one go."""
MODE: Final = 0o600
"""Nobody else may read what holds all data."""
PAGE: Final = 4 << 20
"""About so many bytes of pairs a client asks for in one go; each time the member walks to the end, for a scan counts what there is."""
FEW: Final = 16
MANY: Final = 4096
"""How many pairs it asks for at first, and at most."""
_FIRST: Final = b"\x00"
_NO_LINKS: Final = {errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EINVAL}


@frozen
class Backup:
    """A backup that is on disk and was found to be what was written.

    Attributes:
        path: of the file, absolute.
        revision: of the store in it: it has everything up to there.
        index: of the last entry of the log in it, whose term is ``term``.
        size: bytes of the file.
        sha256: of the file, as ``sha256sum`` prints it.
        cluster: the id of the cluster it was taken of.
    """

    path: str
    revision: int
    index: int
    term: int
    size: int
    sha256: str
    cluster: str


@define(eq=False)
class State:
    """What a backup is made of.

    Attributes:
        meta: the place of the log it is the state of.
        cluster: the id of the cluster.
        revision: of the store.
        chunks: the dump of it.
        pins: of the member that removes nothing of it meanwhile.
    """

    meta: SnapshotMeta
    cluster: bytes
    revision: int
    chunks: Iterator[bytes]
    pins: WeakSet[object] = field(factory=WeakSet)

    def let_go(self) -> None:
        """Let the member remove what it kept for this, also if an error that somebody keeps still refers to it; any thread."""
        self.pins.discard(self)


class Outlined(Plan[Any]):
    """Take down what the state is besides its pairs: for a client, which reads those by itself, at the same revision."""

    __slots__ = ()
    looks = True

    def look(self, machine: Machine, time: int) -> Any:
        """Take it down."""
        del time
        return machine.outline()

    def meaning(self, raw: Raw) -> State | Raw:
        """Return what was taken.

        Raises:
            Incompatible: the member is of a version whose dumps are others.
        """
        taken: State | Raw = raw[1]
        if not isinstance(taken, State) and taken[0] != DUMP_VERSION:
            raise Incompatible(
                f"the member's state is of version {taken[0]}, this client's of {DUMP_VERSION}: use the member's version here"
            )
        return taken


class TakeHold(Outlined):
    """Take hold of the state that has everything acknowledged before, to write it down; in a client, of its outline.

    A member removes nothing of it until it is let go, or what is returned lives no more.
    """

    __slots__ = ()

    def letter(self, number: int, asker: Asker) -> letters.Look:
        """Ask a member for the outline."""
        del asker
        return letters.Look(number, letters.OUTLINE)

    def look(self, machine: Machine, time: int) -> State:
        """Take hold of it."""
        del time
        assert machine.founding is not None  # noqa: S101  # who has a leader was founded
        state = State(machine.meta, machine.founding.cluster, machine.store.revision, machine.dump(), machine.pins)
        machine.pins.add(state)
        return state


class Scan(Protocol):
    """The call of that name."""

    def __call__(self, *, start: bytes, revision: int, limit: int = 0, min_mod_revision: int | None = None) -> ScanResult:
        """Read keys from ``start`` on, at a revision."""


def gathered(outline: Raw, scan: Scan) -> State:
    """Return a state without history, whose pairs are read from a member bit by bit, at the revision of its outline.

    Args:
        outline: of the state.
        scan: reads them.
    """
    place, revision = outline[1], outline[-1]
    founding, configuration = codec.decode_founding(place[4]), codec.configuration_from_wire(place[5][0])
    newest = [tuple(kv) for kv in scan(start=_FIRST, revision=revision, min_mod_revision=revision)]
    chunks = assembled(outline, _pairs(scan, revision), newest)
    return State(SnapshotMeta(place[0], place[1], configuration), founding.cluster, revision, chunks)


def _pairs(scan: Scan, revision: int) -> Iterator[tuple[Any, ...]]:
    start, limit = _FIRST, FEW
    while True:
        try:
            found = scan(start=start, revision=revision, limit=limit)
        except TooLarge:
            if limit == 1:
                raise
            limit = max(1, limit // FEW)
            continue
        yield from (tuple(kv) for kv in found if kv.mod_revision < revision)
        if not found.more:
            return
        start = found.kvs[-1].key + b"\x00"
        size = sum(len(kv.key) + len(kv.value) + RECORD_BYTES for kv in found)
        limit = min(MANY, max(1, len(found) * PAGE // size))


class File:
    """One file anywhere, seen as the directory in which snapshots are written and read: whatever they call it, it is this one.

    Until ``publish`` it has a name of its own beside the one it is to have.

    Args:
        path: of the file.
        overwrite: it may take the place of another.

    Raises:
        OSError: the directory it is in can't be opened, or ``path`` names a directory; ``FileExistsError``: it is there.
    """

    def __init__(self, path: str, *, overwrite: bool = False) -> None:
        self.where = os.path.abspath(path)
        self._overwrite = overwrite
        directory, self._name = os.path.split(self.where)
        beginning = os.fsdecode(os.fsencode(self._name)[:100])  # a name of 255 bytes leaves no room for more
        self._temporary = f".{beginning}.{os.urandom(8).hex()}.tmp"
        self._fd = -1
        if os.path.isdir(self.where):
            raise IsADirectoryError(errno.EISDIR, "is a directory: name a file in it", self.where)
        with contextlib.suppress(FileNotFoundError):
            os.lstat(self.where)  # a name that is too long is refused now, not when everything has been written
            if not overwrite:
                raise self._taken()
        self._directory = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)

    @classmethod
    def of(cls, path: object, *, overwrite: object) -> File:
        """Return the file that a caller means.

        Raises:
            TypeError, ValueError, OSError: there can be none.
        """
        if not isinstance(overwrite, bool):
            raise TypeError(f"overwrite must be a bool, not {type(overwrite).__name__}")
        return cls(to_path(path, "path"), overwrite=overwrite)

    @classmethod
    def reading(cls, path: str) -> File:
        """Open a file that is there.

        Raises:
            OSError: it can't be opened, or is no file.
        """
        file = cls(path, overwrite=True)
        try:
            file._fd = os.open(file.where, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)  # a pipe must not hold this up
            if not stat.S_ISREG(os.fstat(file._fd).st_mode):
                raise OSError(errno.EINVAL, "is no file", file.where)
        except BaseException:
            file.close()
            raise
        return file

    def _taken(self) -> FileExistsError:
        return FileExistsError(errno.EEXIST, "is there already: name another file, or say overwrite=True", self.where)

    def allocate(self, name: str, size: int) -> None:
        """Create the file under its own name, which nobody else can have put there."""
        del name, size
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        self._fd = os.open(self._temporary, flags, MODE, dir_fd=self._directory)

    def write(self, name: str, offset: int, data: bytes) -> None:
        """Write at an offset."""
        del name
        while data:
            written = os.pwrite(self._fd, data, offset)
            data, offset = data[written:], offset + written

    def sync(self, name: str) -> None:
        """Make it durable, and have it read from the disk from now on, as far as that can be told to the system."""
        del name
        os.fsync(self._fd)
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(self._fd, 0, 0, os.POSIX_FADV_DONTNEED)

    def flush(self, name: str, offset: int, data: bytes) -> None:
        """Write, then sync."""
        self.write(name, offset, data)
        self.sync(name)

    def rename(self, old: str, new: str) -> None:
        """Do nothing yet; see ``publish``."""

    def sync_directory(self) -> None:
        """Do nothing yet; see ``publish``."""

    def publish(self) -> None:
        """Give it the name it is to have; durable when this returns.

        Raises:
            FileExistsError: another file has it by now.
        """
        where: dict[str, Any] = {"src_dir_fd": self._directory, "dst_dir_fd": self._directory}
        if self._overwrite:
            os.rename(self._temporary, self._name, **where)
        else:
            self._link(where)
        os.fsync(self._directory)

    def _link(self, where: dict[str, Any]) -> None:
        """Take the name if nobody has it."""
        try:
            os.link(self._temporary, self._name, follow_symlinks=False, **where)
        except FileExistsError:
            raise self._taken() from None
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
            if os.path.lexists(self.where):  # this file system can't do both in one step
                raise self._taken() from None
            os.rename(self._temporary, self._name, **where)
        else:
            os.unlink(self._temporary, dir_fd=self._directory)

    def size(self, name: str) -> int:
        """Return its size in bytes."""
        del name
        return os.fstat(self._fd).st_size

    def read(self, name: str, offset: int, length: int) -> bytes:
        """Read from it."""
        del name
        return os.pread(self._fd, length, offset)

    def list(self) -> list[str]:
        """Return nothing: whoever writes it has nothing to clear away, ``discard`` does that."""
        return []

    def lock(self) -> None:
        """Do nothing: its name is lock enough."""

    def remove(self, name: str) -> None:
        """Do nothing; see ``list``."""

    def discard(self) -> None:
        """Remove what has not got its name yet."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._temporary, dir_fd=self._directory)

    def handed_on(self) -> File:
        """Return the same file for another thread, which closes it; this one is closed."""
        other = copy.copy(self)
        self._fd = self._directory = -1
        return other

    def close(self) -> None:
        """Let go of it; may be called again."""
        for fd in (self._fd, self._directory):
            if fd >= 0:
                os.close(fd)
        self._fd = self._directory = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def write_backup(state: State, file: File, stop: threading.Event | None = None, progress: Progress | None = None) -> Backup:
    """Write a state down, make the file durable, read it back, and give it its name; on the caller's thread.

    Args:
        state: what to write; it is let go.
        file: where to; it is closed.
        stop: when it is set, nothing is left of it, and ``InterruptedError`` is raised.
        progress: called now and then with the bytes of content that are written.

    Raises:
        OSError: the disk did not take it; nothing is left of it.
        Corrupt: what is read back is not what was written; nothing is left of it.
    """
    with file:
        try:
            sha256 = _read_back(file, _write(state, file, stop, progress), stop)
            file.publish()
        except BaseException:
            file.discard()
            raise
        size = file.size("")
    return Backup(file.where, state.revision, state.meta.index, state.meta.term, size, sha256, state.cluster.hex())


def _write(state: State, file: File, stop: threading.Event | None, progress: Progress | None) -> bytes:
    """Write a state down, not too fast, and let it go; return the SHA-256 of its plain stream."""
    try:
        writer = SnapshotWriter(file, state.meta, state.cluster, state.chunks)
        written = None
        while written is None:
            begun = time.thread_time()
            written = writer.step()
            time.sleep(REST * (time.thread_time() - begun))
            if progress is not None:
                progress(writer.plain)
            _heed(stop, file)
    finally:
        state.let_go()
    return written.sha256


def _heed(stop: threading.Event | None, file: File) -> None:
    if stop is not None and stop.is_set():
        raise InterruptedError(f"the backup to {file.where} was stopped")


def _read_back(file: File, written: bytes, stop: threading.Event | None) -> str:
    """Return the SHA-256 of a file whose plain stream has to have another one."""
    parser, digest = SnapshotParser(file.where), hashlib.sha256()
    try:
        for _ in read_through(file, parser, digest.update):
            _heed(stop, file)
    except Corrupt as error:
        raise Corrupt(f"{error.damage}, as soon as it was written: the disk it is on can't be trusted", error.damage) from None
    if parser.sha256 != written:
        raise Corrupt(f"{file.where} holds something else than was written to it: the disk it is on can't be trusted")
    return digest.hexdigest()


async def write_beside(state: State, file: File, progress: Progress | None = None) -> Backup:
    """Write a state down as ``write_backup``, on a thread beside the loop; nothing is left of it when this is cancelled.

    Args:
        state: what to write.
        file: where to; it is closed.
        progress: called on that thread.

    Raises:
        OSError, Corrupt: as by ``write_backup``.
    """
    stop = threading.Event()
    writing = asyncio.get_running_loop().run_in_executor(None, write_backup, state, file.handed_on(), stop, progress)
    try:
        return await asyncio.shield(writing)
    except asyncio.CancelledError:
        stop.set()
        await asyncio.wait((writing,))
        writing.exception()  # it is known
        raise


def read_through(file: File, parser: SnapshotParser, seen: Callable[[bytes], object] = len) -> Iterator[bytes]:
    """Yield the plain content of a backup in pieces; only when the iterator has ended is the whole known to be right.

    Args:
        file: the backup.
        parser: a new one, which tells what was found.
        seen: is called with the bytes of the file as they are read.

    Raises:
        Corrupt: it is no backup, is cut off, or damaged.
        Incompatible: a newer version wrote it.
    """
    try:
        for offset in range(0, file.size(""), AT_ONCE):
            data = file.read("", offset, AT_ONCE)
            seen(data)
            yield from parser.feed(data)
    except Corrupt as error:
        raise refused(error.damage) from None
    if not parser.finished:
        raise refused(f"{file.where} is no backup, or is cut off")


def refused(damage: str) -> Corrupt:
    """Return the error for a file that can't be restored from."""
    return Corrupt(f"{damage}; nothing was restored from it: use another backup, or an intact copy of this one", damage)


def to_path(path: object, argument: str, what: str = "a file or directory") -> str:
    """Return the path of a file or directory as text.

    Args:
        path: as a caller said it.
        argument: its name, for the error.
        what: it should name, for the error.

    Raises:
        TypeError, ValueError: it is none; the text names the argument.
    """
    text = os.fspath(path) if isinstance(path, os.PathLike) else path
    if not isinstance(text, str):
        raise TypeError(f"{argument} must be a str or a path of str, not {type(path).__name__}")
    if not text or "\0" in text:
        raise ValueError(f"{argument} must name {what}, not {text!r}")
    return text
