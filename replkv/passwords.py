"""Passwords as they are kept: hashes by scrypt (RFC 7914), each with its own salt and the cost it was made with.

Pure and slow on purpose: some 60 ms and 32 MiB each, which belongs neither on the thread that decides nor into apply.
"""

from __future__ import annotations

import hashlib
import hmac
import struct
from typing import Final

SALT: Final = 16
"""Bytes of a salt."""
PASSWORD_MAX: Final = 1024
"""Bytes of a password: hashing must not cost what somebody else pleases."""

_HEAD: Final = struct.Struct(">4sBBB")  # mark, log2 of n, r, p
_MARK: Final = b"scr1"
LOG2_N = 15
"""What a guess costs, as a power of two: 60 ms and 32 MiB."""
_R, _P = 8, 1
_DIGEST: Final = 32
_LARGEST: Final = (17, 16, 4)  # beyond it no hash is believed: OpenSSL takes 2 GiB at most for anything, a member hardly any of that


def to_password(password: object) -> bytes:
    """Return a password's bytes.

    Raises:
        TypeError, ValueError: it is none; the text does not repeat it.
    """
    if isinstance(password, str):
        password = password.encode()
    if not isinstance(password, bytes):
        raise TypeError(f"a password is bytes or a str, not {type(password).__name__}")
    if not 0 < len(password) <= PASSWORD_MAX:
        raise ValueError(f"a password has 1 to {PASSWORD_MAX} bytes")
    return password


def hashed(password: bytes, salt: bytes) -> bytes:
    """Return what is kept of a password.

    Args:
        password: as ``to_password`` returned it.
        salt: ``SALT`` random bytes.
    """
    return _HEAD.pack(_MARK, LOG2_N, _R, _P) + salt + _digest(password, salt, LOG2_N, _R, _P)


def matches(password: bytes, kept: bytes) -> bool:
    """Tell whether a password is the one that is kept; takes as long for a user that has none, and for one that does not exist.

    Args:
        password: as ``to_password`` returned it.
        kept: what ``hashed`` returned; empty: there is none.
    """
    known = _parsed(kept)
    cost, salt, digest = known if known is not None else ((LOG2_N, _R, _P), bytes(SALT), bytes(_DIGEST))
    equal = hmac.compare_digest(_digest(password, salt, *cost), digest)
    return equal and known is not None


def _parsed(kept: bytes) -> tuple[tuple[int, int, int], bytes, bytes] | None:
    if len(kept) != _HEAD.size + SALT + _DIGEST:
        return None
    mark, *cost = _HEAD.unpack_from(kept)
    if mark != _MARK or not all(0 < one <= most for one, most in zip(cost, _LARGEST, strict=True)):
        return None
    n, r, p = cost
    return (n, r, p), kept[_HEAD.size : _HEAD.size + SALT], kept[_HEAD.size + SALT :]


def _digest(password: bytes, salt: bytes, n: int, r: int, p: int) -> bytes:
    return hashlib.scrypt(password, salt=salt, n=1 << n, r=r, p=p, maxmem=256 * r * ((1 << n) + p + 2), dklen=_DIGEST)
