"""What happens to bytes at rest: they rot, go missing, or come to lie where others belong.

Only what a checksum can find is done.  That the newest flush of the log was never written, though the disk said so, no log can know; see
docs/FORMATS.md.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from replkv.testing.disk import SECTOR

if TYPE_CHECKING:
    import random

    from replkv.testing.disk import SimDisk


def damage(disk: SimDisk, rng: random.Random, file: str = "") -> str | None:
    """Damage one file of a disk, any or this one, in one of several ways; return which, None if there was nothing to damage.

    Under a running process only bytes change, or can't be read any more.
    """
    files = sorted(name for name, content in disk.seen.items() if any(content.seen))
    if not files:
        return None
    name = file or rng.choice(files)
    kind = rng.choice((_flip, _garble, _spoil, *(() if disk.door else (_flip, _lose_write, _misdirect, _cut, _lose_file))))
    return kind.__name__.strip("_") if kind(disk, name, rng) else None


def _flip(disk: SimDisk, name: str, rng: random.Random) -> bool:
    written = [at for at, byte in enumerate(disk.seen[name].seen) if byte]
    disk.rot(name, rng.choice(written), 1 << rng.randrange(8))
    return True


def _lose_write(disk: SimDisk, name: str, rng: random.Random) -> bool:
    """Blank a sector, as if it had never been written; not one of the newest flush."""
    old = [at for at in _sectors(disk, name) if not _is_newest(disk, name, at)]
    if old:
        disk.overwrite(name, at := rng.choice(old), bytes(min(SECTOR, len(disk.seen[name].seen) - at)))
    return bool(old)


def _misdirect(disk: SimDisk, name: str, rng: random.Random) -> bool:
    """Let a sector lie where another one belongs."""
    sectors = _sectors(disk, name)
    if len(sectors) < 2:
        return False
    source, target = rng.sample(sectors, 2)
    content = disk.seen[name].seen
    disk.overwrite(name, target, bytes(content[source : source + min(SECTOR, len(content) - target)]))
    return True


def _garble(disk: SimDisk, name: str, rng: random.Random) -> bool:
    at = rng.choice(_sectors(disk, name))
    disk.overwrite(name, at, rng.randbytes(min(SECTOR, len(disk.seen[name].seen) - at)))
    return True


def _spoil(disk: SimDisk, name: str, rng: random.Random) -> bool:
    disk.spoil(name, rng.choice(_sectors(disk, name)))
    return True


def _cut(disk: SimDisk, name: str, rng: random.Random) -> bool:
    disk.cut(name, rng.randrange(len(disk.seen[name].seen)))
    return True


def _lose_file(disk: SimDisk, name: str, _rng: random.Random) -> bool:
    if _is_newest(disk, name, len(disk.seen[name].seen)):
        return False
    disk.lose(name)
    return True


def _sectors(disk: SimDisk, name: str) -> list[int]:
    content = disk.seen[name].seen
    return [at for at in range(0, len(content), SECTOR) if any(content[at : at + SECTOR])]


def _is_newest(disk: SimDisk, name: str, offset: int) -> bool:
    """Tell whether a place was written by the newest flush, or after it."""
    return disk.newest is not None and disk.seen[name] is disk.newest[0] and offset >= disk.newest[1]
