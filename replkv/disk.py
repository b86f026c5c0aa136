"""The one door to files: everything below one directory, reached by plain names.

What is written is durable once ``sync`` of that file has returned; what is created, renamed or removed once ``sync_directory`` has.
After the first change that failed nothing is tried again (a page that failed to reach the disk may be marked clean, so that a second
fsync succeeds and lies): every later change raises the same error, and the member stops.  Only a temporary file for which there is no
room fails by itself: nothing rests on it yet.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
import threading
import weakref
from typing import TYPE_CHECKING, Concatenate, ParamSpec, Protocol, TypeVar

from replkv.errors import Corrupt, DirectoryInUse, DiskFull, StorageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import TracebackType

TEMPORARY = ".tmp"
"""Files whose names end so were never finished; whoever opens the directory removes them."""

_LOCK = "lock"
_ZEROS = bytes(1 << 20)
_SCARCE = {errno.ENOSPC: "space", errno.EDQUOT: "space", errno.EMFILE: "descriptors", errno.ENFILE: "descriptors"}
"""What may be used up for a while, and come back: strangers' connections take descriptors until they are closed."""
_FULL_SYNC: int | None = getattr(fcntl, "F_FULLFSYNC", None)
"""How macOS is told to sync: its fsync leaves the data in the drive's cache."""

P = ParamSpec("P")
T = TypeVar("T")


class Disk(Protocol):
    """One directory.  Different files may be used by different threads; every failure is a ``StorageError``."""

    where: str
    """What error messages call the directory."""

    def lock(self) -> None:
        """Make this process the directory's only user until ``close``; creates the directory if it is missing.

        Raises:
            DirectoryInUse: it has one already.
        """

    def list(self) -> list[str]:
        """Return the names of all files, sorted."""

    def size(self, name: str) -> int:
        """Return a file's size in bytes."""

    def read(self, name: str, offset: int, length: int) -> bytes:
        """Return at most ``length`` bytes; fewer only at the end of the file.

        Raises:
            Corrupt: the disk can't read some of them any more.
        """

    def allocate(self, name: str, size: int) -> None:
        """Make ``name`` a new file of ``size`` zero bytes, all of them really written; replaces a file of that name."""

    def write(self, name: str, offset: int, data: bytes) -> None:
        """Write all of ``data`` at ``offset`` of an existing file."""

    def sync(self, name: str) -> None:
        """Make all that was written to a file durable."""

    def flush(self, name: str, offset: int, data: bytes) -> None:
        """Write, then sync: every write of a cluster waits for this."""

    def rename(self, old: str, new: str) -> None:
        """Rename a file in one step; replaces a file of the new name."""

    def remove(self, name: str) -> None:
        """Remove a file."""

    def sync_directory(self) -> None:
        """Make all creations, renames and removals durable."""

    def close(self) -> None:
        """Let go of the directory; may be called again."""


def corrupt(what: str) -> Corrupt:
    """Return the error for stored bytes that are not what was written, with the only safe remedy."""
    return Corrupt(
        f"{what}; this member stops rather than guess, the others go on without it.  Keep the directory, and never put an older copy "
        "of it in its place: that one has forgotten what it acknowledged since",
        what,
    )


def create(disk: Disk, name: str, size: int, content: bytes = b"") -> None:
    """Create a durable file of ``size`` bytes, zeros behind its content: after a crash it is there complete, or not at all.

    Raises:
        DiskFull: there is no room; nothing is left behind.
    """
    with removed_if_full(disk, name + TEMPORARY):
        disk.allocate(name + TEMPORARY, size)
        if content:
            disk.write(name + TEMPORARY, 0, content)
        publish(disk, name + TEMPORARY, name)


@contextlib.contextmanager
def removed_if_full(disk: Disk, temporary: str) -> Iterator[None]:
    """Remove a temporary file for which there turns out to be no room, and let the error through."""
    try:
        yield
    except DiskFull:
        if temporary in disk.list():
            disk.remove(temporary)
        raise


def publish(disk: Disk, temporary: str, name: str) -> None:
    """Give a finished file its real name; durable when this returns."""
    disk.sync(temporary)
    disk.rename(temporary, name)
    disk.sync_directory()


# -- a directory of the operating system -------------------------------------------------------------------------------------------


class _File:
    """An open file.  The lock keeps one thread from using the descriptor's number while another closes it."""

    __slots__ = ("fd", "lock")

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self.lock = threading.Lock()

    def __enter__(self) -> int:
        self.lock.acquire()
        if self.fd < 0:
            self.lock.release()
            raise OSError(errno.EBADF, "closed while it was in use")
        return self.fd

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.lock.release()

    def close(self) -> None:
        with self.lock:
            fd, self.fd = self.fd, -1
            if fd >= 0:
                os.close(fd)


def _change(method: Callable[Concatenate[RealDisk, P], T]) -> Callable[Concatenate[RealDisk, P], T]:
    """Latch the first failure of a method that changes something."""

    def latched(self: RealDisk, /, *args: P.args, **kwargs: P.kwargs) -> T:
        if self.failure is not None:
            raise self.failure.with_traceback(None)
        try:
            return method(self, *args, **kwargs)
        except OSError as error:
            failure = self._storage_error(error, method.__name__)
            if not isinstance(failure, DiskFull) or not str(args[0] if args else "").endswith(TEMPORARY):
                self.failure = failure
            raise failure from error

    return latched


def _look(method: Callable[Concatenate[RealDisk, P], T]) -> Callable[Concatenate[RealDisk, P], T]:
    def typed(self: RealDisk, /, *args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return method(self, *args, **kwargs)
        except OSError as error:
            raise self._storage_error(error, method.__name__) from error

    return typed


class RealDisk:
    """A directory, owned by this user, with files nobody else may read.

    Args:
        path: of the directory; created, for its owner only, when ``lock`` is called.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.where = os.path.abspath(path)
        self.failure: StorageError | None = None
        self._directory = -1
        self._lock = -1
        self._files: dict[str, _File] = {}
        self._opening = threading.Lock()
        _unforked.add(self)

    @_look
    def lock(self) -> None:
        """Make this process the directory's only user; see ``Disk``.

        Raises:
            DirectoryInUse: another process, or another Replica in this one, has it open.
            StorageError: others may write into the directory, or it cannot be used.
        """
        if self._directory >= 0:
            raise DirectoryInUse(f"{self.where} is open already")
        _make_directory(self.where)
        self._directory = os.open(self.where, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            self._check_owner()
            self._take_lock()
        except BaseException:
            self.close()
            raise

    def _check_owner(self) -> None:
        status = os.fstat(self._directory)
        if status.st_uid != os.geteuid():
            raise StorageError(f"{self.where} belongs to user {status.st_uid}, not to {os.geteuid()}: use a directory of this user's own")
        if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            raise StorageError(f"others may write into {self.where}: chmod 700 it, or name a new directory inside it")

    def _take_lock(self) -> None:
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        self._lock = os.open(_LOCK, flags, 0o600, dir_fd=self._directory)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = os.pread(self._lock, 20, 0).decode("ascii", "replace").strip() or "unknown"
            raise DirectoryInUse(f"{self.where} is in use by process {owner}: close that Replica, or use another directory") from None
        os.ftruncate(self._lock, 0)
        os.pwrite(self._lock, b"%d\n" % os.getpid(), 0)

    @_look
    def list(self) -> list[str]:
        """Return the names of all files; see ``Disk``."""
        if self._directory < 0:  # scandir takes -1 for the current directory
            raise OSError(errno.EBADF, "the directory is closed")
        with os.scandir(self._directory) as entries:
            return sorted(entry.name for entry in entries if entry.name != _LOCK and entry.is_file(follow_symlinks=False))

    @_look
    def size(self, name: str) -> int:
        """Return a file's size in bytes."""
        with self._file(name) as fd:
            return os.fstat(fd).st_size

    @_look
    def read(self, name: str, offset: int, length: int) -> bytes:
        """Read from a file; see ``Disk``."""
        try:
            with self._file(name) as fd:
                data = os.pread(fd, length, offset)
                while 0 < len(data) < length and (more := os.pread(fd, length - len(data), offset + len(data))):
                    data += more
        except OSError as error:
            if error.errno != errno.EIO:
                raise
            raise corrupt(f"{self.where}/{name}: the disk can't read what is between {offset} and {offset + length} ({error})") from error
        return data

    @_change
    def allocate(self, name: str, size: int) -> None:
        """Create a file of zero bytes; see ``Disk``."""
        with self._file(name, os.O_CREAT | os.O_TRUNC) as fd:
            for offset in range(0, size, len(_ZEROS)):
                _write_all(fd, _ZEROS[: size - offset], offset)

    @_change
    def write(self, name: str, offset: int, data: bytes) -> None:
        """Write into a file; see ``Disk``."""
        with self._file(name) as fd:
            _write_all(fd, data, offset)

    @_change
    def sync(self, name: str) -> None:
        """Make a file durable."""
        with self._file(name) as fd:
            _datasync(fd)

    @_change
    def flush(self, name: str, offset: int, data: bytes) -> None:
        """Write into a file and make it durable; see ``Disk``."""
        file = self._files.get(name) or self._file(name)
        with file.lock:  # not ``with file``: that is two calls; the system, too, refuses a descriptor that is closed
            _write_all(file.fd, data, offset)
            _datasync(file.fd)

    @_change
    def rename(self, old: str, new: str) -> None:
        """Rename a file; see ``Disk``."""
        with self._opening:
            os.rename(old, new, src_dir_fd=self._directory, dst_dir_fd=self._directory)
            replaced, moved = self._files.pop(new, None), self._files.pop(old, None)
            if moved is not None:
                self._files[new] = moved
        if replaced is not None:
            replaced.close()

    @_change
    def remove(self, name: str) -> None:
        """Remove a file."""
        os.unlink(name, dir_fd=self._directory)
        with self._opening:
            file = self._files.pop(name, None)
        if file is not None:
            file.close()

    @_change
    def sync_directory(self) -> None:
        """Make creations, renames and removals durable."""
        os.fsync(self._directory)

    def close(self) -> None:
        """Let go of the directory; may be called again."""
        with self._opening:
            files, self._files = self._files, {}
            lock, self._lock = self._lock, -1
            directory, self._directory = self._directory, -1
        for file in files.values():
            file.close()
        if lock >= 0:
            fcntl.flock(lock, fcntl.LOCK_UN)  # closing is not enough: a child just forked holds the same lock until it has run
            os.close(lock)
        if directory >= 0:
            os.close(directory)

    def _file(self, name: str, flags: int = 0) -> _File:
        """Return an open file, kept open until it is removed: a member has a few dozen at most."""
        file = self._files.get(name)
        if file is not None and not flags:
            return file
        with self._opening:
            if self._directory < 0:
                raise OSError(errno.EBADF, "the directory is closed")
            file = self._files.get(name)
            if file is None or flags:
                flags |= os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW
                opened = _File(os.open(name, flags, 0o600, dir_fd=self._directory))
                if file is not None:
                    file.close()
                self._files[name] = file = opened
        return file

    def _storage_error(self, error: OSError, action: str) -> StorageError:
        if error.errno in _SCARCE:
            return DiskFull(f"{self.where}: no {_SCARCE[error.errno]} left to {action}: free some ({error})")
        return StorageError(f"{self.where}: cannot {action}: {error}")

    def disown(self) -> None:
        """Close what a forked child inherited: the lock would outlive its owner otherwise."""
        self._opening = threading.Lock()
        for fd in (self._lock, self._directory, *(file.fd for file in self._files.values())):
            if fd >= 0:
                os.close(fd)
        self._lock = self._directory = -1
        self._files = {}
        self.failure = StorageError(f"{self.where} belongs to the process this one was forked from")


def _make_directory(path: str) -> None:
    """Create a directory, and make it durable: what is synced inside it is lost if it is not itself on disk."""
    parent = os.path.dirname(path)
    if not os.path.isdir(path):
        if not os.path.isdir(parent):
            _make_directory(parent)
        with contextlib.suppress(FileExistsError):
            os.mkdir(path, 0o700)
    with contextlib.suppress(PermissionError):  # not ours to read: then it is not we who created something in it
        fd = os.open(parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)


def _write_all(fd: int, data: bytes, offset: int) -> None:
    written = os.pwrite(fd, data, offset)
    while written < len(data):  # a short write, rare
        written += os.pwrite(fd, data[written:], offset + written)


def _datasync(fd: int) -> None:
    if _FULL_SYNC is None:
        os.fdatasync(fd)
    else:
        fcntl.fcntl(fd, _FULL_SYNC)


_unforked: weakref.WeakSet[RealDisk] = weakref.WeakSet()


def _in_child() -> None:
    for disk in list(_unforked):
        disk.disown()


os.register_at_fork(after_in_child=_in_child)


# -- memory ------------------------------------------------------------------------------------------------------------------------


class MemoryDisk:
    """A directory in memory, for members that keep nothing.  Zeros at the end of a file cost nothing."""

    where = "memory"

    def __init__(self) -> None:
        self._files: dict[str, tuple[int, bytearray]] = {}

    def lock(self) -> None:
        """Do nothing: nobody else can reach it."""

    def list(self) -> list[str]:
        """Return the names of all files, sorted."""
        return sorted(self._files)

    def size(self, name: str) -> int:
        """Return a file's size in bytes."""
        size, data = self._file(name)
        return max(size, len(data))

    def read(self, name: str, offset: int, length: int) -> bytes:
        """Read from a file; see ``Disk``."""
        size, data = self._file(name)
        length = max(0, min(length, max(size, len(data)) - offset))
        return bytes(data[offset : offset + length]).ljust(length, b"\0")

    def allocate(self, name: str, size: int) -> None:
        """Create a file of zero bytes; see ``Disk``."""
        self._files[name] = (size, bytearray())

    def write(self, name: str, offset: int, data: bytes) -> None:
        """Write into a file; see ``Disk``."""
        _, content = self._file(name)
        if offset > len(content):
            content.extend(bytes(offset - len(content)))
        content[offset : offset + len(data)] = data

    def sync(self, name: str) -> None:
        """Do nothing: nothing here outlives the process."""

    def flush(self, name: str, offset: int, data: bytes) -> None:
        """Write into a file: nothing here outlives the process."""
        self.write(name, offset, data)

    def rename(self, old: str, new: str) -> None:
        """Rename a file; see ``Disk``."""
        self._files[new] = self._file(old)
        del self._files[old]

    def remove(self, name: str) -> None:
        """Remove a file."""
        self._file(name)
        del self._files[name]

    def sync_directory(self) -> None:
        """Do nothing: nothing here outlives the process."""

    def close(self) -> None:
        """Do nothing."""

    def _file(self, name: str) -> tuple[int, bytearray]:
        try:
            return self._files[name]
        except KeyError:
            raise StorageError(f"there is no file {name} in {self.where}") from None


class ForgetfulDisk(MemoryDisk):
    """The directory of a lone member in memory: it neither restarts nor has followers, so nothing is read again and only sizes are kept."""

    def read(self, name: str, offset: int, length: int) -> bytes:
        """Refuse: what was written is gone.

        Raises:
            StorageError: always, where the file has bytes to read.
        """
        if min(length, self.size(name) - offset) > 0:
            raise StorageError(f"{name} was written to a member in memory, which keeps no files; give it data_dir=")
        return b""

    def write(self, name: str, offset: int, data: bytes) -> None:
        """Note how large the file is now."""
        size, content = self._file(name)
        self._files[name] = (max(size, offset + len(data)), content)
