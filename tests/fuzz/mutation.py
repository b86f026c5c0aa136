"""Changes to bytes: anywhere, or where a msgpack value stands; and the repair of checksums, without which nothing else would be tested."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Sequence
from random import Random

HOSTILE: tuple[bytes, ...] = tuple(
    bytes.fromhex(value)
    for value in (
        "ff cf8000000000000000 cfffffffffffffffff d38000000000000000",  # below 0, and beyond 63 bits
        "00 01 02 7f cc80 cdffff ceffffffff cf0000000100000000 cf7fffffffffffffff",  # right, but perhaps in the wrong place
        "cc01 cd0001 ce00000001 cf0000000000000001 d001 d3ffffffffffffffff",  # numbers in more bytes than they take
        "cb7ff8000000000000 cb7ff0000000000000 cb8000000000000000 cb4000000000000000 ca3f800000",  # NaN, infinity, -0.0, 2.0, 32 bits
        "c0 c2 c3 c1",  # nil, booleans, the byte that is never used
        "a0 d900 c400 c50000 dc0000 90 91c0 dd00000000",  # nothing, in all sizes
        "a2fffe a3eda080 a1ff d901ff",  # text that is no UTF-8; a lone surrogate
        "80 81a16101 82a16101a16102 818001 819001",  # maps; a key twice; a map and a list as keys
        "c70005 d40500 d6ff00000001 d7ff0000000000000001 c70cff000000000000000000000000 c900000000ff",  # extensions and timestamps
        "ddffffffff dcffff dfffffffff deffff c6ffffffff c5ffff dbffffffff daffff c9ffffffff05 c8ffff05",  # claims
        "9191919191919191919191919191919191919190",  # depth
    )
    for value in value.split()
)
"""Values that no member packs, or not where they are put."""

NUMBERS = (0, 1, 2, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF, (1 << 63) - 1, 1 << 63, (1 << 64) - 1)


# -- where values stand ------------------------------------------------------------------------------------------------------------

_FIXED = {0xC0: 0, 0xC2: 0, 0xC3: 0, 0xCA: 4, 0xCB: 8, **{0xCC + n: 1 << n for n in range(4)}, **{0xD0 + n: 1 << n for n in range(4)}}
_FIXED |= {0xD4 + n: 1 + (1 << n) for n in range(5)}
_COUNTED = {0xC4: 1, 0xC5: 2, 0xC6: 4, 0xC7: 1, 0xC8: 2, 0xC9: 4, 0xD9: 1, 0xDA: 2, 0xDB: 4, 0xDC: 2, 0xDD: 4, 0xDE: 2, 0xDF: 4}


def _head(data: bytes, at: int) -> tuple[int, int]:
    """Return where a value's head and its own bytes end, and how many values are inside it."""
    first = data[at]
    if first in _FIXED:
        return at + 1 + _FIXED[first], 0
    if first in _COUNTED:
        end = at + 1 + _COUNTED[first]
        count = int.from_bytes(data[at + 1 : end], "big")
        if first >= 0xDC:
            return end, count * (1 + (first >= 0xDE))
        return end + count + (first in (0xC7, 0xC8, 0xC9)), 0
    if 0x80 <= first < 0xA0:
        return at + 1, (first & 15) * (1 if first >= 0x90 else 2)
    return at + 1 + (first & 31 if 0xA0 <= first < 0xC0 else 0), 0


def values(data: bytes, at: int) -> list[tuple[int, int]]:
    """Return where the msgpack value at a place, and each inside it, begins and ends; none if it is not all there."""
    found: list[tuple[int, int]] = []
    open_: list[tuple[int, int]] = []  # where a list began, and how many values it still lacks
    while at < len(data) and len(found) < 1000:
        start = at
        at, inside = _head(data, at)
        if inside:
            open_.append((start, inside))
            continue
        found.append((start, at))
        while open_ and open_[-1][1] == 1:
            found.append((open_.pop()[0], at))
        if not open_:
            return found if at <= len(data) else []
        open_[-1] = (open_[-1][0], open_[-1][1] - 1)
    return []


def value_end(data: bytes, at: int) -> int:
    """Return where the msgpack value at a place ends; the end of the data if it is not all there."""
    found = values(data, at)
    return found[-1][1] if found else len(data)


# -- changes -----------------------------------------------------------------------------------------------------------------------


def mutate(rng: Random, data: bytes, others: Sequence[bytes], values_at: Sequence[int] = ()) -> bytes:
    """Change bytes a little, in one to four ways.

    Args:
        rng: draws the ways.
        data: what to change.
        others: valid bytes of the same form, to take parts from.
        values_at: where msgpack values stand in it.
    """
    for _ in range(rng.choice((1, 1, 1, 2, 3, 4))):
        spans = values(data, rng.choice(values_at)) if values_at and rng.random() < 0.6 else []
        data = rng.choice(_OF_VALUES)(rng, data, spans) if spans else rng.choice(_OF_BYTES)(rng, data, others)
    return data


def _flip(rng: Random, data: bytes, _: Sequence[bytes]) -> bytes:
    if not data:
        return b"\x00"
    at = rng.randrange(len(data))
    return data[:at] + bytes([data[at] ^ 1 << rng.randrange(8)]) + data[at + 1 :]


def _cut(rng: Random, data: bytes, _: Sequence[bytes]) -> bytes:
    return data[: rng.randrange(len(data) + 1)]


def _remove(rng: Random, data: bytes, _: Sequence[bytes]) -> bytes:
    start = rng.randrange(len(data) + 1)
    return data[:start] + data[start + rng.randint(1, 16) :]


def _insert(rng: Random, data: bytes, _: Sequence[bytes]) -> bytes:
    at = rng.randrange(len(data) + 1)
    return data[:at] + rng.randbytes(rng.randint(1, 16)) + data[at:]


def _number(rng: Random, data: bytes, _: Sequence[bytes]) -> bytes:
    """Write an odd number over some bytes."""
    size, order = rng.choice((1, 2, 4, 8)), rng.choice(("little", "big"))
    at = rng.randrange(len(data) + 1)
    number = (rng.choice(NUMBERS) & ((1 << 8 * size) - 1)).to_bytes(size, "little" if order == "little" else "big")
    return data[:at] + number + data[at + size :]


def _splice(rng: Random, data: bytes, others: Sequence[bytes]) -> bytes:
    other = rng.choice(others) if others else data
    return data[: rng.randrange(len(data) + 1)] + other[rng.randrange(len(other) + 1) :]


def _double(rng: Random, data: bytes, _: Sequence[bytes]) -> bytes:
    start = rng.randrange(len(data) + 1)
    end = start + rng.randint(1, 64)
    return data[:end] + data[start:end] + data[end:]


_OF_BYTES: tuple[Callable[[Random, bytes, Sequence[bytes]], bytes], ...] = (_flip, _flip, _cut, _remove, _insert, _number, _splice, _double)


def _replace(rng: Random, data: bytes, spans: list[tuple[int, int]]) -> bytes:
    start, end = rng.choice(spans)
    return data[:start] + rng.choice(HOSTILE) + data[end:]


def _disguise(rng: Random, data: bytes, spans: list[tuple[int, int]]) -> bytes:
    """Write a value as one of another type, or of another form, that passes for it: 1 as true, as 1.0, in two bytes."""
    start, end = rng.choice(spans)
    first = data[start]
    if end - start == 1 and first < 0x80:
        forms = [b"\xcc" + data[start:end], b"\xcd\x00" + data[start:end], b"\xcb" + struct.pack(">d", first)]
        forms += [b"\xc3" if first else b"\xc2"] if first < 2 else []
    elif first in (0xC2, 0xC3):
        forms = [bytes([first - 0xC2])]
    elif first == 0xC4:
        forms = [b"\xc5\x00" + data[start + 1 : end], b"\xd9" + data[start + 1 : end], b"\xc0", b"\x00", b"\xc2", b"\xa0", b"\x90"]
    else:
        forms = [b"\xc0", b"\xc4\x00", b"\x90"]
    return data[:start] + rng.choice(forms) + data[end:]


def _swap(rng: Random, data: bytes, spans: list[tuple[int, int]]) -> bytes:
    (start, end), (other, other_end) = rng.choice(spans), rng.choice(spans)
    return data[:start] + data[other:other_end] + data[end:]


def _repeat(rng: Random, data: bytes, spans: list[tuple[int, int]]) -> bytes:
    start, end = rng.choice(spans)
    return data[:end] + data[start:end] + data[end:]


def _wrap(rng: Random, data: bytes, spans: list[tuple[int, int]]) -> bytes:
    """Put a value into a list, perhaps with a second one, or nest it deep."""
    start, end = rng.choice(spans)
    head = rng.choice((b"\x91", b"\x92\xc0", b"\x91" * 20, b"\xdc\x00\x01", b"\x81\xc0"))
    return data[:start] + head + data[start:end] + data[end:]


_OF_VALUES: tuple[Callable[[Random, bytes, list[tuple[int, int]]], bytes], ...] = (
    _replace,
    _replace,
    _disguise,
    _disguise,
    _swap,
    _repeat,
    _wrap,
)


# -- checksums ---------------------------------------------------------------------------------------------------------------------

HEAD_AT = 44
"""Where a frame's head begins."""

SECTOR = 512


def seal_frame(data: bytes) -> bytes:
    """Give a frame its magic, and the checksum of what it says."""
    return b"rK" + struct.pack("<I", zlib.crc32(data[6:])) + data[6:]


def seal_head(data: bytes) -> bytes:
    """Let a frame's head be as long as the msgpack value that stands there, and seal it."""
    if len(data) >= HEAD_AT:
        data = data[:8] + struct.pack("<I", value_end(data, HEAD_AT) - HEAD_AT) + data[12:]
    return seal_frame(data)


LETTER_AT = 31


def seal_letters(data: bytes) -> bytes:
    """Give a frame of letters its magic, and the checksum of what it says."""
    return b"rC" + struct.pack("<I", zlib.crc32(data[6:])) + data[6:]


def seal_letter(data: bytes) -> bytes:
    """Let the only letter of a frame be as long as it is, its head as long as the msgpack value that stands there, and seal the frame."""
    if len(data) >= LETTER_AT:
        end = value_end(data, LETTER_AT)
        data = data[: LETTER_AT - 8] + struct.pack("<II", end - LETTER_AT, len(data) - end) + data[LETTER_AT:]
    return seal_letters(data)


def seal_sectors(data: bytes) -> bytes:
    """Give every sector of a segment that is not blank its checksum."""
    sealed = []
    for number, at in enumerate(range(0, len(data), SECTOR)):
        sector = data[at : at + SECTOR]
        sealed.append(zlib.crc32(sector[4:], number).to_bytes(4, "little") + sector[4:] if any(sector) else sector)
    return b"".join(sealed)


def seal_parts(data: bytes) -> bytes:
    """Let each part of a dump be as long as the msgpack value in it."""
    parts = []
    at = 0
    while at < len(data):
        end = value_end(data, at + 4)
        parts.append(struct.pack("<I", max(0, end - at - 4)) + data[at + 4 : end])
        at = max(end, at + 4)
    return b"".join(parts)


def part_starts(data: bytes) -> list[int]:
    """Return where the msgpack values of a dump's parts stand, its head more than once: that one is a part like no other."""
    found = []
    at = 4
    while at < len(data):
        found.append(at)
        at = value_end(data, at) + 4
    return found[:1] * 4 + found


def seal_snapshot(data: bytes) -> bytes:
    """Give the header, the frames and the trailer of a snapshot file their checksums, as far as their sizes lead to them."""
    sealed = bytearray(data)
    if len(data) < 16:
        return data
    length = int.from_bytes(data[8:12], "little")
    description = data[16 : 16 + length]
    sealed[12:16] = struct.pack("<I", zlib.crc32(description, zlib.crc32(data[6:12])))
    at = 16 + length
    while at + 12 <= len(data) and (length := int.from_bytes(data[at : at + 4], "little")):
        packed = data[at + 12 : at + 12 + length]
        sealed[at + 8 : at + 12] = struct.pack("<I", zlib.crc32(packed, zlib.crc32(data[at : at + 8])))
        at += 12 + length
    if at + 52 <= len(data):
        sealed[at + 48 : at + 52] = struct.pack("<I", zlib.crc32(data[at : at + 48]))
    return bytes(sealed)
