"""Everything that can be wrong with the files of one member at rest, one thing at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

from attrs import evolve, frozen
from log_crashes import Ground
from log_life import Flushed, LogLife, entries, entry
from log_memory import Harm, State
from stopping import StoppingDisk

from replkv.snapshot import is_snapshot
from replkv.testing.disk import SECTOR, SimDisk, is_segment


@frozen
class Damage:
    """``name``: of the file; ``offset``: where what is wrong begins; ``ground``: what the member has to go on from."""

    what: str
    name: str
    offset: int
    ground: Ground


@frozen
class Rest(Ground):
    """The disk of a member at rest; ``flushes``: all that are durable on it, the oldest first."""

    flushes: tuple[Flushed, ...] = ()


def short_log() -> Rest:
    """One segment; entries were replaced by fewer, and the last flush takes several sectors."""
    life = LogLife(StoppingDisk())
    life.begin()
    life.prepare()
    life.put(1, *entries(2, 6))
    life.put(2, entry(3, 2))
    life.put(2, entry(4, 2, 900))
    return _at_rest(life)


def long_log() -> Rest:
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


def _at_rest(life: LogLife) -> Rest:
    life.close()
    life.disk.crash(keep=[False] * life.disk.unsynced)
    assert life.memory.durable == life.memory.noted
    return Rest(life.disk, life.memory, flushes=tuple(life.flushes))


def torn_tails() -> Iterator[Damage]:
    """Yield a log whose last flush was written in part: up to every byte, from every byte on, and in a file that ends at every byte.

    Where whole sectors are missing it was torn; anything else may have been durable.
    """
    life = LogLife(StoppingDisk())
    life.begin()
    life.prepare()
    life.put(1, *entries(2, 3))
    before = life.noted
    life.put(2, entry(4, 2), entry(5, 2, 900))
    after = _at_rest(life)
    newest = after.flushes[-1]
    new = bytes(after.disk.seen[newest.name].seen)
    old = new[: newest.begin] + bytes(len(new) - newest.begin)
    end = max(at for at, byte in enumerate(new, 1) if byte)
    damaged, unfinished = evolve(after.memory, harm=Harm(before, doubt=True)), evolve(after.memory, durable=before)
    for offset in range(newest.begin, end):
        left = evolve(after, memory=damaged if (offset - newest.begin) % SECTOR else unfinished)
        for what, data in (
            ("torn behind", new[:offset] + old[offset:]),
            ("torn before", new[: newest.begin] + old[newest.begin : offset] + new[offset:]),
        ):
            yield _written(left, what, newest.name, 0, data)
    for size in range(len(new)):
        yield _cut(after, newest.name, size)


def damages(ground: Rest) -> Iterator[Damage]:
    """Yield every damage that a checksum can find: that the newest flush was never written no log can know."""
    for name, content in sorted(ground.disk.seen.items()):
        size = len(content.seen)
        for offset in range(0, size, SECTOR):
            yield from _in_sector(ground, name, offset)
        for left in sorted({*range(0, size, SECTOR), 1, size - 1}):
            yield _cut(ground, name, left)
        yield _done(harmed(ground, name, None), "longer", name, size, partial(_lengthen, name=name))
        if name != ground.flushes[-1].name:
            yield _done(harmed(ground, name, None), "lost", name, 0, partial(SimDisk.lose, name=name))


def harmed(ground: Rest, name: str, offset: int | None) -> Rest:
    """Let a memory know of a damage at some place in a file; None: its length is wrong, and no part of it is believed."""
    *_, before, last = ground.flushes
    if is_segment(name):
        in_front = [State(), *(flush.state for flush in ground.flushes if (flush.name, flush.end) <= (name, offset or 0))]
        # Where the last sector of a flush of several can't be read, nobody knows that the next one begins another.
        doubtful = last.begin - SECTOR * (before.name == last.name and before.end - before.begin > SECTOR)
        harm = Harm(in_front[-1], doubt=(name, last.begin if offset is None else offset) >= (last.name, doubtful))
    else:
        harm = Harm(State() if is_snapshot(name) else last.state, doubt=False)
    return evolve(ground, memory=evolve(ground.memory, harm=harm))


def _in_sector(ground: Rest, name: str, offset: int) -> Iterator[Damage]:
    last, raw = ground.flushes[-1], bytes(ground.disk.seen[name].seen[offset : offset + SECTOR])
    flipped = bytes([raw[0] ^ 4]) + raw[1:]
    yield _written(harmed(ground, name, offset), "bit flipped", name, offset, flipped)
    yield _written(harmed(ground, name, offset), "garbage", name, offset, bytes(255 - byte for byte in raw))
    if any(raw) and not (name == last.name and offset >= last.begin):
        yield _written(harmed(ground, name, offset), "never written", name, offset, bytes(len(raw)))


def _cut(ground: Rest, name: str, size: int) -> Damage:
    return _done(harmed(ground, name, None), "cut", name, size, partial(SimDisk.cut, name=name, size=size))


def _written(ground: Ground, what: str, name: str, offset: int, data: bytes) -> Damage:
    return _done(ground, what, name, offset, lambda disk: disk.overwrite(name, offset, data))


def _done(ground: Ground, what: str, name: str, offset: int, change: Callable[[SimDisk], None]) -> Damage:
    disk = ground.disk.copy()
    change(disk)
    return Damage(what, name, offset, evolve(ground, disk=disk))


def _lengthen(disk: SimDisk, name: str) -> None:
    for data in (disk.seen[name].seen, disk.seen[name].platter):
        data.extend(bytes(SECTOR))
