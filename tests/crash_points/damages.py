"""Everything that can be wrong with the files of one member at rest, one thing at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

from attrs import evolve, frozen
from log_crashes import Ground
from log_life import LogLife, entries, entry
from stopping import StoppingDisk

from replkv.testing.disk import SECTOR, SimDisk


@frozen
class Damage:
    """``name``: of the file; ``offset``: where what is wrong begins; ``ground``: what the member has to go on from."""

    what: str
    name: str
    offset: int
    ground: Ground


def short_log() -> Ground:
    """One segment; the last flush takes several sectors."""
    life = LogLife(StoppingDisk())
    life.begin()
    life.prepare()
    life.put(1, *entries(2, 3))
    life.put(2, entry(3, 2), entry(4, 2, 900))
    return _at_rest(life)


def long_log() -> Ground:
    """A snapshot, segments behind it, one that is not yet used, and entries that were replaced."""
    life = LogLife(StoppingDisk())
    life.begin()
    for index in range(2, 6):
        life.put(1, entry(index, 1, 1000))
    life.take_snapshot(3, keep=1)
    life.prepare()
    life.put(3, entry(5, 3, 700))
    for index in range(6, 8):
        life.put(3, entry(index, 3, 1100))
    life.vote(4, "c")
    life.prepare()
    return _at_rest(life)


def _at_rest(life: LogLife) -> Ground:
    life.close()
    life.disk.crash(keep=[False] * life.disk.unsynced)
    assert life.memory.durable == life.memory.noted
    return Ground(life.disk, evolve(life.memory, damaged=True))


def torn_tails() -> Iterator[Damage]:
    """Yield a log whose last flush was written in part: up to every byte, from every byte on, and in a file that ends at every byte.

    Where whole sectors are missing it was torn; anything else may have been durable.
    """
    life = LogLife(StoppingDisk())
    life.begin()
    life.prepare()
    life.put(1, *entries(2, 3))
    before = life.memory.durable
    life.put(2, entry(4, 2), entry(5, 2, 900))
    after = _at_rest(life)
    name, begin = newest(after)
    new = bytes(after.disk.seen[name].seen)
    old = new[:begin] + bytes(len(new) - begin)
    end = max(at for at, byte in enumerate(new, 1) if byte)
    for offset in range(begin, end):
        memory = after.memory if (offset - begin) % SECTOR else evolve(after.memory, durable=before, damaged=False)
        for what, data in (("torn behind", new[:offset] + old[offset:]), ("torn before", new[:begin] + old[begin:offset] + new[offset:])):
            yield _written(evolve(after, memory=memory), what, name, 0, data)
    for size in range(len(new)):
        yield _done(after, "ends", name, size, partial(SimDisk.cut, name=name, size=size))


def newest(ground: Ground) -> tuple[str, int]:
    """Return the file and the place where the newest flush begins."""
    assert ground.disk.newest is not None
    content, offset = ground.disk.newest
    return next(name for name, other in ground.disk.seen.items() if other is content), offset


def damages(ground: Ground) -> Iterator[Damage]:
    """Yield every damage that a checksum can find: that the newest flush was never written no log can know."""
    for name, content in sorted(ground.disk.seen.items()):
        size = len(content.seen)
        for offset in range(0, size, SECTOR):
            yield from _in_sector(ground, name, offset)
        for left in sorted({*range(0, size, SECTOR), 1, size - 1}):
            yield _done(ground, "cut", name, left, partial(SimDisk.cut, name=name, size=left))
        yield _done(ground, "longer", name, size, partial(_lengthen, name=name))
        if name != newest(ground)[0]:
            yield _done(ground, "lost", name, 0, partial(SimDisk.lose, name=name))


def _in_sector(ground: Ground, name: str, offset: int) -> Iterator[Damage]:
    raw = bytes(ground.disk.seen[name].seen[offset : offset + SECTOR])
    flipped = bytes([raw[0] ^ 4]) + raw[1:]
    yield _written(ground, "bit flipped", name, offset, flipped)
    yield _written(ground, "garbage", name, offset, bytes(255 - byte for byte in raw))
    if any(raw) and not (name == newest(ground)[0] and offset >= newest(ground)[1]):
        yield _written(ground, "never written", name, offset, bytes(len(raw)))


def _written(ground: Ground, what: str, name: str, offset: int, data: bytes) -> Damage:
    return _done(ground, what, name, offset, lambda disk: disk.overwrite(name, offset, data))


def _done(ground: Ground, what: str, name: str, offset: int, change: Callable[[SimDisk], None]) -> Damage:
    disk = ground.disk.copy()
    change(disk)
    return Damage(what, name, offset, evolve(ground, disk=disk))


def _lengthen(disk: SimDisk, name: str) -> None:
    for data in (disk.seen[name].seen, disk.seen[name].platter):
        data.extend(bytes(SECTOR))
