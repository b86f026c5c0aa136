"""Bytes made smaller, by zstd, and back; what comes back has been checked before anything is allocated for it."""

from __future__ import annotations

import zstandard

LEVEL = -1
"""How much is done to make a block small: random values with keys that resemble each other shrink as by 1, in two thirds of the time."""

# Those that nobody is using.  To make one costs more than to compress a small block, and only one thread at a time may use it.
_compressors: list[zstandard.ZstdCompressor] = []
_decompressors: list[zstandard.ZstdDecompressor] = []


def compress(plain: bytes) -> bytes:
    """Return a zstd frame that states its size and has a checksum; on any thread."""
    try:
        compressor = _compressors.pop()
    except IndexError:
        compressor = zstandard.ZstdCompressor(level=LEVEL, write_checksum=True, write_content_size=True)
    data = compressor.compress(plain)
    _compressors.append(compressor)
    return data


def decompress(data: bytes, limit: int, window: int) -> bytes:
    """Undo one zstd frame whose size is declared and at most ``limit`` bytes; on any thread.

    The declared size is checked first: the library's own bound does not stop a frame that states a larger one, and one that states
    none (0) it does not look into at all.  Nor does it look at the window where it undoes a frame in one go.

    Args:
        data: the frame.
        limit: bytes that it may hold.
        window: how far back it may refer, in bytes.

    Raises:
        ValueError: no size, a larger one, no checksum, a larger window, damage, or bytes behind the frame.
    """
    try:
        parameters = zstandard.get_frame_parameters(data)
        if not 0 < parameters.content_size <= limit or not parameters.has_checksum:  # an unknown size counts as 2**64 - 1
            raise ValueError(f"a compressed frame of {parameters.content_size} bytes where at most {limit} are allowed, with checksum")
        if parameters.window_size > window:
            raise ValueError(f"a compressed frame that asks for a window of {parameters.window_size} bytes")
        try:
            decompressor = _decompressors.pop()
        except IndexError:
            decompressor = zstandard.ZstdDecompressor()
        plain = decompressor.decompress(data, allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise ValueError(f"damaged compressed data: {error}") from None
    _decompressors.append(decompressor)  # it has not failed, so nothing is left in it
    if len(plain) != parameters.content_size:
        raise ValueError(f"{len(plain)} bytes where the frame declared {parameters.content_size}")
    return plain
