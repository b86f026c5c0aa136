"""Codecs: what a view or a mapping makes of stored bytes, and the other way round.

A codec refuses at its caller what it could not give back: ``encode`` raises ``TypeError`` or ``ValueError`` before anything is sent.
Bytes that it can't read are one ``Undecodable``, whatever is wrong with them: others may have written them by other means.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from contextlib import suppress
from types import NoneType
from typing import Any, Final, Literal, NoReturn, Protocol, TypeAlias, TypeVar, overload, runtime_checkable

import msgpack
from attrs import frozen

from replkv.errors import Rejected

T = TypeVar("T")


class Undecodable(Rejected, ValueError):
    """A stored value is not what its codec reads; ``key`` is whose value it is, empty where that is not known."""

    def __init__(self, message: str, key: bytes = b"") -> None:
        super().__init__(message)
        self.key = key


@runtime_checkable
class Codec(Protocol[T]):
    """Turns values into bytes and back; any object with these two methods will do.

    ``decode(encode(value))`` must be equal to ``value``.  Both may be called from any thread.
    """

    def encode(self, value: T, /) -> bytes:
        """Return the bytes that stand for a value.

        Raises:
            TypeError, ValueError: there are none.
        """

    def decode(self, data: bytes, /) -> T:
        """Return the value that the bytes stand for; every error it raises reaches the reader as ``Undecodable``."""


def decode_stored(codec: Codec[T], key: bytes, data: bytes) -> T:
    """Decode what is stored under a key.

    Raises:
        Undecodable: the codec can't read it; the error names the key and the cause.
    """
    try:
        return codec.decode(data)
    except Exception as error:
        what = f"{codec!r} can't read the value of {key_to_text(key)!r}"
        raise Undecodable(f"{what}: {error}; store it anew, or delete the key", key) from error


# -- keys --------------------------------------------------------------------------------------------------------------------------


def text_to_key(text: str) -> bytes:
    """Return the key that a text stands for: UTF-8, and ``surrogateescape`` for what is not.

    Raises:
        TypeError: no text.
        ValueError: no key has this text.
    """
    if not isinstance(text, str):
        raise TypeError(f"keys are str here, not {type(text).__name__}")
    try:
        return text.encode()
    except UnicodeEncodeError:
        with suppress(UnicodeEncodeError):
            key = text.encode(errors="surrogateescape")
            if key_to_text(key) == text:  # else these bytes are written otherwise
                return key
        raise ValueError(f"no key is written {text!r}") from None


def key_to_text(key: bytes) -> str:
    """Return the text of a key; bytes that are no UTF-8 become lone surrogates, and back again in ``text_to_key``."""
    return key.decode(errors="surrogateescape")


# -- what does not fit -------------------------------------------------------------------------------------------------------------


class Mismatch(Exception):
    """A part of a value is not what it should be; the path to it is found on the way out.  It never leaves a codec."""

    def __init__(self, what: str) -> None:
        super().__init__(what)
        self.path = ""

    def below(self, step: str) -> Mismatch:
        """Return this error as it looks from one level further out."""
        self.path = step + self.path
        return self

    def __str__(self) -> str:
        return f"value{self.path} {self.args[0]}"


def check_plain(value: object, leaves: tuple[type, ...], keys: tuple[type, ...]) -> None:
    """Check that a value consists of dicts, lists, tuples and leaves: nothing in it is left out, changed or merged on its way.

    Raises:
        Mismatch: some part of it does not.
    """
    if value is None or isinstance(value, leaves):
        return
    items: Iterable[tuple[object, object]]
    if isinstance(value, dict):
        items = value.items()
        for key in value:
            if not isinstance(key, keys):
                raise Mismatch(f"has a key of type {type(key).__name__}; keys may be {', '.join(kind.__name__ for kind in keys)}")
    elif isinstance(value, (list, tuple)) and not isinstance(value, msgpack.ExtType):
        items = enumerate(value)
    else:
        raise Mismatch(f"is of type {type(value).__name__}; use typed(…) for classes, or a codec of your own")
    for step, item in items:
        try:
            check_plain(item, leaves, keys)
        except Mismatch as error:
            raise error.below(f"[{step!r}]") from None


# -- bytes and text ----------------------------------------------------------------------------------------------------------------


@frozen(repr=False)
class _Bytes:
    def encode(self, value: bytes, /) -> bytes:
        if not isinstance(value, bytes):
            raise TypeError(f'this codec stores bytes, not {type(value).__name__}; encode it, or use codec="text", "json" or typed(…)')
        return bytes(value)

    def decode(self, data: bytes, /) -> bytes:
        return data

    def __repr__(self) -> str:
        return "BYTES"


@frozen(repr=False)
class _Text:
    def encode(self, value: str, /) -> bytes:
        if not isinstance(value, str):
            raise TypeError(f'this codec stores str, not {type(value).__name__}; use codec="bytes", "json" or typed(…) for that')
        try:
            return value.encode()
        except UnicodeEncodeError as error:
            raise ValueError(f'{error.reason} at {error.start}: no UTF-8 stands for it; use codec="bytes"') from None

    def decode(self, data: bytes, /) -> str:
        try:
            return data.decode()
        except UnicodeDecodeError as error:
            raise Undecodable(f"no UTF-8: {error.reason} at byte {error.start}") from None

    def __repr__(self) -> str:
        return "TEXT"


# -- JSON --------------------------------------------------------------------------------------------------------------------------

JSON_LEAVES: Final = (str, int, float)
"""What JSON holds besides lists, objects and null; a bool is an int."""


def json_bytes(value: object) -> bytes:
    """Return the one way to write something as JSON; its keys must be text.

    Raises:
        ValueError: a number or a text that JSON can't write.
    """
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False, sort_keys=True, separators=(",", ":")).encode()
    except ValueError as error:  # also what UTF-8 can't write
        raise ValueError(f"JSON has no way to write this value: {error}") from None


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")


def _finite(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise ValueError("a number beyond the range of a float")
    return number


def from_json(data: bytes) -> Any:
    """Return what JSON says, of lists, dicts and leaves.

    Raises:
        Undecodable: it is no JSON in UTF-8, or holds a number that is not finite.
    """
    try:
        return json.loads(data.decode(), parse_float=_finite, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise Undecodable(f"no JSON: {error}") from None


@frozen(repr=False)
class _Json:
    def encode(self, value: Any, /) -> bytes:
        try:
            check_plain(value, JSON_LEAVES, (str,))
            return json_bytes(value)
        except Mismatch as error:
            raise TypeError(f"JSON can't hold this: {error}") from None
        except RecursionError:
            raise ValueError("JSON can't hold this: it is nested too deep, or contains itself") from None

    def decode(self, data: bytes, /) -> Any:
        return from_json(data)

    def __repr__(self) -> str:
        return "JSON"


# -- msgpack -----------------------------------------------------------------------------------------------------------------------

_MSGPACK_LEAVES: Final = (str, bytes, int, float)
_MSGPACK_KEYS: Final = (str, bytes, int, float, NoneType)


def _no_extension(code: int, data: bytes) -> NoReturn:
    del data
    raise ValueError(f"an extension of type {code}")


@frozen(repr=False)
class _Msgpack:
    def encode(self, value: Any, /) -> bytes:
        try:
            check_plain(value, _MSGPACK_LEAVES, _MSGPACK_KEYS)
            return bytes(msgpack.packb(value, use_bin_type=True))
        except Mismatch as error:
            raise TypeError(f"msgpack can't hold this: {error}") from None
        except (ValueError, OverflowError) as error:
            raise ValueError(f"msgpack can't hold this: {error}") from None
        except RecursionError:
            raise ValueError("msgpack can't hold this: it is nested too deep, or contains itself") from None

    def decode(self, data: bytes, /) -> Any:
        try:
            # Arrays are allocated as soon as their header is read, and nested headers may each claim the whole input.  Skipping over
            # the value allocates nothing and fails if it is not all there; after that every claim is known to be true.
            walker = msgpack.Unpacker(max_buffer_size=max(1, len(data)))
            walker.feed(data)
            walker.skip()
            return msgpack.unpackb(data, strict_map_key=False, ext_hook=_no_extension, max_ext_len=0)
        except (ValueError, TypeError, msgpack.UnpackException, RecursionError) as error:
            raise Undecodable(f"no msgpack: {error or type(error).__name__}") from None

    def __repr__(self) -> str:
        return "MSGPACK"


# -- what users name -----------------------------------------------------------------------------------------------------------------

BYTES: Final[Codec[bytes]] = _Bytes()
"""Bytes as they are; no text, no bytearray."""

TEXT: Final[Codec[str]] = _Text()
"""Text, as UTF-8."""

JSON: Final[Codec[Any]] = _Json()
"""What JSON can hold: dicts with str as keys, lists, str, int, finite floats, bool and None.  A tuple is stored as a list.

Equal values have equal bytes: sorted keys, no spaces, UTF-8.
"""

MSGPACK: Final[Codec[Any]] = _Msgpack()
"""As JSON, and bytes, NaN, and dicts with scalars of any kind as keys; integers have 64 bits at most.  A tuple is stored as a list."""

CodecName: TypeAlias = Literal["bytes", "text", "json", "msgpack"]

_NAMED: Final[dict[str, Codec[Any]]] = {"bytes": BYTES, "text": TEXT, "json": JSON, "msgpack": MSGPACK}


@overload
def codec_named(codec: Literal["bytes"]) -> Codec[bytes]: ...
@overload
def codec_named(codec: Literal["text"]) -> Codec[str]: ...
@overload
def codec_named(codec: Literal["json", "msgpack"]) -> Codec[Any]: ...
@overload
def codec_named(codec: Codec[T]) -> Codec[T]: ...
@overload
def codec_named(codec: CodecName | Codec[Any]) -> Codec[Any]: ...
def codec_named(codec: str | Codec[Any]) -> Codec[Any]:
    """Return the codec that a name or a codec stands for.

    Args:
        codec: "bytes", "text", "json", "msgpack", or a codec.

    Raises:
        TypeError: neither.
        ValueError: no codec has this name.
    """
    if isinstance(codec, str):
        if codec not in _NAMED:
            raise ValueError(f"codec must be {', '.join(_NAMED)} or a codec such as typed(…), not {codec!r}")
        return _NAMED[codec]
    if isinstance(codec, type):
        raise TypeError(f"codec must be a codec, not the class {codec.__name__}: write typed({codec.__name__})")
    if not isinstance(codec, Codec):
        raise TypeError(f"codec must be a name or have encode() and decode(), not be a {type(codec).__name__}")
    return codec
