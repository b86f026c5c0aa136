"""A disk in memory that forgets, tears, fails and dawdles as real ones may, by the draw of a seed.

Contents are kept twice: as processes see them, and as they are on the platter.  In between lies everything that was not synced, cut into
sectors of 512 bytes, and every change of the directory.  When power is lost, any part of that may have reached the platter, in any
combination, except that a sector is written whole or not at all.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

from attrs import define, field

from replkv.disk import TEMPORARY, corrupt
from replkv.errors import DirectoryInUse, DiskFull, StorageError

SECTOR = 512


class SimulatedCrash(BaseException):
    """Power is lost at this very moment.  Not an ``Exception``: nothing may catch it and go on."""


@define(eq=False, repr=False)
class _Content:
    """The bytes of one file: as they are seen, as they are on the platter, and the sectors written in between.

    ``bad``: offsets of sectors that can't be read until they are written again.
    """

    seen: bytearray = field(factory=bytearray)
    platter: bytearray = field(factory=bytearray)
    waiting: list[tuple[int, bytes]] = field(factory=list)
    bad: set[int] = field(factory=set)

    def write(self, offset: int, data: bytes) -> None:
        _put(self.seen, offset, data)
        self.bad -= {at for at in self.bad if offset <= at < offset + len(data)}
        at = 0
        while at < len(data):
            end = min(len(data), at + SECTOR - (offset + at) % SECTOR)
            self.waiting.append((offset + at, data[at:end]))
            at = end

    def sync(self) -> None:
        for offset, data in self.waiting:
            _put(self.platter, offset, data)
        self.waiting.clear()


def _put(content: bytearray, offset: int, data: bytes) -> None:
    if offset > len(content):
        content.extend(bytes(offset - len(content)))
    content[offset : offset + len(data)] = data


def is_segment(name: str) -> bool:
    """Tell whether a file is a segment of the log that is in use."""
    return name.startswith("wal-") and not name.endswith(TEMPORARY)


_Link = tuple[str | None, str | None, _Content]
"""A change of the directory: the name that goes, the name that comes, and the file it is about."""


class SimDisk:
    """What outlives processes: the disk itself.  ``open`` gives each process its door to it.

    Faults are switched on by setting attributes, and stay until they are set back:

    ``crash_in``: so many changes still happen, then power is lost (None: never).
    ``crash_behind``: of which only those made by this operation are counted ("": all are).
    ``tears``: when power is lost, some of what was written is kept, and some is not.
    ``fail_sync_in``: so many syncs still succeed, then one fails, and what it should have made durable never will be (None: never).
    ``capacity``: bytes; files never grow beyond it together (None: no limit).
    ``broken``: whether one has failed under the process that has the disk open.
    ``slow``: seconds that every sync takes at most.
    ``sync_takes``: seconds that every sync takes at least.

    Args:
        rng: draws what survives a crash, and how long a sync takes.
    """

    def __init__(self, rng: random.Random) -> None:
        self.crash_in: int | None = None
        self.crash_behind = ""
        self.tears = False
        self.broken = False
        self.fail_sync_in: int | None = None
        self.capacity: int | None = None
        self.slow = 0.0
        self.sync_takes = 0.0
        self.changes = 0
        self.change = ""  # the operation that is about to change something
        # The state of the disk, which only the door to it changes.
        self.rng = rng
        self.seen: dict[str, _Content] = {}
        self.platter: dict[str, _Content] = {}
        self.waiting: list[_Link] = []
        self.newest: tuple[_Content, int] | None = None  # where the newest flush of the log begins
        self.door: SimDoor | None = None

    def open(self, spend: Callable[[float], None] = lambda _: None) -> SimDoor:
        """Return the door for a new process; that of the process before must have crashed or been closed.

        Args:
            spend: told the seconds that an operation takes.
        """
        return SimDoor(self, spend)

    def crash(self, *, power: bool = True, keep: Sequence[bool] | None = None) -> None:
        """End the process that has the disk open; with ``power`` also lose what was not synced.

        Args:
            power: whether the machine stops, not only the process.
            keep: which of the ``unsynced`` changes survive, in their order; by default drawn from one of several kinds of disk.
        """
        if self.door is not None:
            self.door.die()
            self.door = None
        self.crash_in, self.crash_behind, self.broken = None, "", False
        if not power:
            return
        choice = iter(self._draw() if keep is None else keep)
        self.tears = False
        for content in self._contents():
            content.waiting = [piece for piece in content.waiting if next(choice)]
            content.sync()
            content.seen = bytearray(content.platter)
        self.waiting = [link for link in self.waiting if next(choice)]
        self.sync_directory()
        self.seen = dict(self.platter)

    @property
    def unsynced(self) -> int:
        """How many changes a loss of power could undo, each of them or not: written sectors, and changes of the directory."""
        return sum(len(content.waiting) for content in self._contents()) + len(self.waiting)

    def rot(self, name: str, offset: int, mask: int = 1) -> None:
        """Flip bits of one byte, on the platter and in the cache."""
        self.overwrite(name, offset, bytes([self.seen[name].seen[offset] ^ mask]))

    def overwrite(self, name: str, offset: int, data: bytes) -> None:
        """Let other bytes be there, on the platter and in the cache, without anybody having written them."""
        content = self.seen[name]
        content.seen[offset : offset + len(data)] = data
        if offset < len(content.platter):
            content.platter[offset : offset + len(data)] = data[: len(content.platter) - offset]

    def spoil(self, name: str, offset: int) -> None:
        """Let a sector be one that can't be read."""
        self.seen[name].bad.add(offset // SECTOR * SECTOR)

    def cut(self, name: str, size: int) -> None:
        """Let a file end early."""
        del self.seen[name].seen[size:]
        del self.seen[name].platter[size:]

    def lose(self, name: str) -> None:
        """Let a file be gone."""
        self.waiting = [link for link in self.waiting if name not in link[:2]]
        self.platter.pop(name, None)
        del self.seen[name]

    def copy(self) -> SimDisk:
        """Return another disk with the same contents, seen and unsynced, and no faults."""
        twin = SimDisk(random.Random(0))
        contents = {id(c): _Content(bytearray(c.seen), bytearray(c.platter), list(c.waiting), set(c.bad)) for c in self._contents()}
        twin.seen = {name: contents[id(c)] for name, c in self.seen.items()}
        twin.platter = {name: contents[id(c)] for name, c in self.platter.items()}
        twin.waiting = [(old, new, contents[id(c)]) for old, new, c in self.waiting]
        return twin

    def _draw(self) -> list[bool]:
        """Draw what survives: nothing, everything, what was written first, or any part of it."""
        count = self.unsynced
        if self.tears and count > 1:
            until = self.rng.randrange(1, count)
            kept = [number < until for number in range(count)]
            return kept if self.rng.random() < 0.5 else [not each for each in kept]
        kind = self.rng.randrange(4)
        if kind == 0:
            return [False] * count
        if kind == 1:
            return [True] * count
        if kind == 2:
            until = self.rng.randint(0, count)
            return [number < until for number in range(count)]
        share = self.rng.random()
        return [self.rng.random() < share for _ in range(count)]

    def _contents(self) -> list[_Content]:
        """Return every file that is seen, on the platter, or on its way there; always in the same order."""
        found = [*self.platter.values(), *(content for _, _, content in self.waiting), *self.seen.values()]
        return list({id(content): content for content in found}.values())

    def sync_directory(self) -> None:
        """Let the platter's directory be as it is seen."""
        for old, new, content in self.waiting:
            if old is not None:
                self.platter.pop(old, None)
            if new is not None:
                self.platter[new] = content
        self.waiting.clear()

    def count_change(self) -> None:
        """Count a change that is about to happen; power may be lost before it does."""
        self.changes += 1
        if self.crash_in is not None:
            if self.crash_in == 0:
                raise SimulatedCrash
            self.crash_in -= self.crash_behind in ("", self.change)

    def sync_content(self, content: _Content) -> None:
        """Let a file be on the platter as it is seen, unless this sync is to fail."""
        if self.fails_now():
            content.waiting.clear()  # the cache calls these pages clean now: a second sync would succeed and write nothing
            raise OSError("simulated: the disk did not take it")
        content.sync()

    def fails_now(self) -> bool:
        """Tell whether the sync that is being made is the one that is to fail."""
        if self.fail_sync_in is not None:
            self.fail_sync_in -= 1
            if self.fail_sync_in < 0:
                self.fail_sync_in, self.broken = None, True
                return True
        return False


class SimDoor:
    """One process's door to a ``SimDisk``: a ``Disk``.  After a failed change every later one fails, as with ``RealDisk``."""

    where = "simulated"

    def __init__(self, disk: SimDisk, spend: Callable[[float], None]) -> None:
        self.failure: StorageError | None = None
        self._disk = disk
        self._spend = spend
        self._dead = False

    def die(self) -> None:
        """Let nothing through any more: the process has ended."""
        self._dead = True

    def lock(self) -> None:
        """Make this process the only user; see ``Disk``."""
        self._alive()
        if self._disk.door is not None:
            raise DirectoryInUse("the simulated disk is in use by another life")
        self._disk.door = self

    def list(self) -> list[str]:
        """Return the names of all files, sorted."""
        self._alive()
        return sorted(self._disk.seen)

    def size(self, name: str) -> int:
        """Return a file's size in bytes."""
        return len(self._content(name).seen)

    def read(self, name: str, offset: int, length: int) -> bytes:
        """Read from a file; see ``Disk``."""
        content = self._content(name)
        if any(offset - SECTOR < at < offset + length for at in content.bad):
            raise corrupt(f"{self.where}/{name}: what is between {offset} and {offset + length} can't be read")
        return bytes(content.seen[offset : offset + length])

    def allocate(self, name: str, size: int) -> None:
        """Create a file of zero bytes; see ``Disk``."""
        self._change("allocate")
        self._room(name, size)
        content = _Content()
        if old := self._disk.seen.get(name):
            self._disk.waiting.append((name, None, old))
        self._disk.seen[name] = content
        self._disk.waiting.append((None, name, content))
        content.write(0, bytes(size))

    def write(self, name: str, offset: int, data: bytes) -> None:
        """Write into a file; see ``Disk``."""
        self._change("long flush" if is_segment(name) and len(data) > SECTOR else "write")
        content = self._content(name)
        self._room(name, offset + len(data) - len(content.seen))
        content.write(offset, data)

    def sync(self, name: str) -> None:
        """Make a file durable."""
        self._change("sync")
        content = self._content(name)
        self._spend(self._disk.sync_takes + self._disk.rng.random() * self._disk.slow)
        begin = content.waiting[0][0] if content.waiting else None
        try:
            self._disk.sync_content(content)
        except OSError as error:
            self.failure = StorageError(f"{self.where}: cannot sync: {error}")
            raise self.failure from error
        if begin is not None and is_segment(name):
            self._disk.newest = content, begin

    def flush(self, name: str, offset: int, data: bytes) -> None:
        """Write into a file and make it durable, which are two changes: power may be lost between them."""
        self.write(name, offset, data)
        self.sync(name)

    def rename(self, old: str, new: str) -> None:
        """Rename a file; see ``Disk``."""
        self._change("rename")
        content = self._content(old)
        del self._disk.seen[old]
        self._disk.seen[new] = content
        self._disk.waiting.append((old, new, content))

    def remove(self, name: str) -> None:
        """Remove a file."""
        self._change("remove")
        content = self._content(name)
        del self._disk.seen[name]
        self._disk.waiting.append((name, None, content))

    def sync_directory(self) -> None:
        """Make creations, renames and removals durable."""
        self._change("sync_directory")
        if self._disk.fails_now():
            self.failure = StorageError(f"{self.where}: cannot sync the directory: simulated")
            raise self.failure
        self._disk.sync_directory()

    def close(self) -> None:
        """Let go of the disk; may be called again."""
        if self._disk.door is self:
            self._disk.door = None

    def _alive(self) -> None:
        if self._dead:
            raise SimulatedCrash

    def _change(self, operation: str) -> None:
        self._alive()
        if self.failure is not None:
            raise self.failure.with_traceback(None)
        self._disk.change = operation
        self._disk.count_change()

    def _content(self, name: str) -> _Content:
        self._alive()
        try:
            return self._disk.seen[name]
        except KeyError:
            raise StorageError(f"there is no file {name} in {self.where}") from None

    def _room(self, name: str, growth: int) -> None:
        if self._disk.capacity is None or growth <= 0:
            return
        used = sum(len(content.seen) for content in self._disk.seen.values())
        if used + growth > self._disk.capacity:
            failure = DiskFull(f"{self.where}: no space left: {used} of {self._disk.capacity} bytes are in use")
            if not name.endswith(TEMPORARY):
                self.failure = failure
            raise failure
