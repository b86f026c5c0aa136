"""What callers give and get: keys and values, spans of keys, results, events.  All of it plain, immutable values."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple, TypeAlias, overload

from attrs import frozen

Data: TypeAlias = bytes | str
"""A key or a value: bytes; text is encoded as UTF-8."""

_BEHIND_RESERVED = b"\x01"
"""Keys that begin with a zero byte are replkv's own; a span reaches them only if it begins there."""

INT64 = range(-(1 << 63), 1 << 63)


# -- results -----------------------------------------------------------------------------------------------------------------------


class KeyValue(NamedTuple):
    """A key with its value and its revisions (etcd's ``mvccpb.KeyValue``)."""

    key: bytes
    value: bytes
    create_revision: int
    mod_revision: int
    version: int
    lease: int = 0

    @property
    def key_text(self) -> str:
        """The key as text.

        Raises:
            UnicodeDecodeError: it is not UTF-8.
        """
        return self.key.decode()

    @property
    def text(self) -> str:
        """The value as text.

        Raises:
            UnicodeDecodeError: it is not UTF-8.
        """
        return self.value.decode()


to_key_value: Final[Callable[[Iterable[Any]], KeyValue]] = partial(tuple.__new__, KeyValue)
"""Make a pair of a record of the store, which has the same fields; a third of what ``KeyValue(*record)`` takes, which scans feel."""


class PutResult(NamedTuple):
    """What a put did: the revision it made, and the pair it replaced if that was asked for."""

    revision: int
    prev_kv: KeyValue | None = None


class DeleteResult(NamedTuple):
    """What a delete did; where nothing matched, ``revision`` is the current one."""

    deleted: int
    revision: int
    prev_kvs: tuple[KeyValue, ...] = ()


class AddResult(NamedTuple):
    """The counter's new value, and the revision that made it."""

    value: int
    revision: int


class _Found:
    __slots__ = ("_records",)
    _records: tuple[tuple[Any, ...], ...]


@frozen(init=False)
class ScanResult(_Found):
    """The pairs of a span in the order asked for, at one revision of the store; it is a sequence of them.

    ``count`` is how many keys the span has, whatever limit and filters; ``more`` tells that the limit cut what the filters left.
    ``kvs`` has them all at once; to iterate over the result itself needs less memory.
    """

    kvs: tuple[KeyValue, ...]
    count: int
    more: bool
    revision: int

    def __init__(self, kvs: tuple[tuple[Any, ...], ...], count: int, more: bool, revision: int) -> None:
        for name, value in (("_records", kvs), ("count", count), ("more", more), ("revision", revision)):
            object.__setattr__(self, name, value)

    if not TYPE_CHECKING:  # who checks types should not think that there is an attribute of every name

        def __getattr__(self, name: str) -> tuple[KeyValue, ...]:
            """Make the pairs when they are asked for: ten thousand that nobody looks at would keep the collector busy."""
            if name != "kvs":
                raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
            pairs = tuple(map(to_key_value, self._records))
            object.__setattr__(self, "kvs", pairs)
            return pairs

    def __reduce__(self) -> tuple[Any, ...]:
        return ScanResult, (self._records, self.count, self.more, self.revision)

    @overload
    def __getitem__(self, index: int) -> KeyValue: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[KeyValue, ...]: ...
    def __getitem__(self, index: int | slice) -> KeyValue | tuple[KeyValue, ...]:
        found = self._records[index]
        return tuple(map(to_key_value, found)) if isinstance(index, slice) else to_key_value(found)

    def __len__(self) -> int:
        return len(self._records)

    def __iter__(self) -> Iterator[KeyValue]:
        return map(to_key_value, self._records)


@frozen
class TxnResult:
    """Which branch a transaction took, and the answers of its operations in their order."""

    succeeded: bool
    revision: int
    responses: tuple[Any, ...]

    def __bool__(self) -> bool:
        return self.succeeded


class LeaseInfo(NamedTuple):
    """A lease as the cluster has it: seconds it was granted for, seconds left at the least, and how many keys hang on it.

    ``kept``: some process keeps it alive; without that it ends when its time is over.
    """

    id: int
    ttl: float
    remaining: float
    keys: int
    kept: bool


# -- what a watch yields -----------------------------------------------------------------------------------------------------------

EventKind: TypeAlias = Literal["put", "delete"]


class Event(NamedTuple):
    """A change of one key.

    A delete's ``kv`` has the key and the revision of the deletion, everything else is empty; ``expired`` tells that a lease did it whose
    time was over, and ``kv.lease`` is then that lease.  ``prev_kv`` is what the key held before, if that was asked for.
    """

    kind: EventKind
    kv: KeyValue
    prev_kv: KeyValue | None
    revision: int
    expired: bool = False

    @property
    def key(self) -> bytes:
        """The key."""
        return self.kv.key

    @property
    def value(self) -> bytes:
        """The new value; empty for a delete."""
        return self.kv.value


class Synced(NamedTuple):
    """The present state has been yielded, as of this revision; what follows are changes."""

    revision: int


class Progress(NamedTuple):
    """All events up to this revision have been yielded."""

    revision: int


# -- arguments ---------------------------------------------------------------------------------------------------------------------


def to_bytes(data: Data, what: str) -> bytes:
    """Return ``data`` as bytes.

    Raises:
        TypeError: neither bytes nor text.
        ValueError: text with lone surrogates, for which there is no UTF-8.
    """
    if type(data) is bytes:
        return data
    if isinstance(data, str):
        try:
            return data.encode()
        except UnicodeEncodeError as error:
            raise ValueError(f"{what} has a lone surrogate at {error.start}, which UTF-8 can't hold: {data!r}; give bytes") from None
    if isinstance(data, bytes):
        return bytes(data)
    raise TypeError(f"{what} must be bytes or str, not {type(data).__name__}")


def to_key(key: Data) -> bytes:
    """Return a key as bytes.

    Raises:
        TypeError: neither bytes nor text.
        ValueError: empty.
    """
    data = to_bytes(key, "key")
    if not data:
        raise ValueError("key must not be empty")
    return data


def to_value(value: Data) -> bytes:
    """Return a value as bytes; it may be empty."""
    return to_bytes(value, "value")


def to_count(number: int, what: str) -> int:
    """Return a number that counts something.

    Raises:
        TypeError: no integer.
        ValueError: negative, or beyond 63 bits.
    """
    if isinstance(number, bool) or not isinstance(number, int):
        raise TypeError(f"{what} must be an int, not {type(number).__name__}")
    if not 0 <= number < 1 << 63:
        raise ValueError(f"{what} must be between 0 and 2**63 - 1, not {number}")
    return number


MAX_TTL: Final = 10 * 365 * 86400.0
"""The longest time a lease can be granted for, in seconds: ten years."""


def to_seconds(seconds: float, what: str) -> float:
    """Return a number of seconds above 0.

    Raises:
        TypeError: no number.
        ValueError: not above 0, or not finite.
    """
    if isinstance(seconds, bool) or not isinstance(seconds, (int, float)):
        raise TypeError(f"{what} must be seconds, not {type(seconds).__name__}")
    if not 0 < seconds < float("inf"):
        raise ValueError(f"{what} must be above 0 seconds and finite, not {seconds}")
    return float(seconds)


WITHOUT_LIMIT = 1e9
"""Seconds from which on a timeout is none: thirty years."""


def to_timeout(seconds: float | None) -> float | None:
    """Return for how long to wait, in seconds; None waits without limit, 0 does not wait.

    Raises:
        TypeError: no number.
        ValueError: below 0, or no number of any size.
    """
    if seconds is None:
        return None
    if isinstance(seconds, bool) or not isinstance(seconds, (int, float)):
        raise TypeError(f"timeout must be seconds or None, not {type(seconds).__name__}")
    if not seconds >= 0:
        raise ValueError(f"timeout must be at least 0 seconds, not {seconds}")
    return None if seconds >= WITHOUT_LIMIT else float(seconds)


def to_ttl(seconds: float) -> int:
    """Return a time to live in microseconds; the shortest one allowed depends on the cluster's settings and is checked there.

    Raises:
        TypeError: no number.
        ValueError: not above 0, or above ten years.
    """
    if to_seconds(seconds, "ttl") > MAX_TTL:
        raise ValueError(f"ttl is at most {MAX_TTL:.0f} seconds, not {seconds}")
    return max(1, round(seconds * 1e6))


class Span(NamedTuple):
    """All keys ``start <= key < end``; without an end, all from ``start`` on."""

    start: bytes
    end: bytes | None

    @classmethod
    def of(cls, key: Data | None = None, *, prefix: Data | None = None, start: Data | None = None, end: Data | None = None) -> Span:
        """Build a span from the arguments that every call with a span has.

        Args:
            key: exactly this key.
            prefix: all keys that begin with it.
            start: all keys from this one on, up to but without ``end`` where that is given.
            end: see ``start``.

        Returns:
            The span; with no argument, or an empty prefix, that of all keys of the application.

        Raises:
            TypeError: neither bytes nor text.
            ValueError: more than one of key, prefix and start; or an end without a start.
        """
        if (key is not None) + (prefix is not None) + (start is not None) > 1:
            raise ValueError("give one of key, prefix= and start=, not several")
        if end is not None and start is None:
            raise ValueError("end= needs start=")
        if key is not None:
            single = to_key(key)
            return cls(single, single + b"\x00")
        if start is not None:
            return cls(to_bytes(start, "start") or _BEHIND_RESERVED, None if end is None else to_bytes(end, "end"))
        begin = to_bytes(prefix, "prefix") if prefix is not None else b""
        return cls(begin or _BEHIND_RESERVED, behind_prefix(begin))

    @property
    def is_single(self) -> bool:
        """Whether it can hold one key only."""
        return self.end == self.start + b"\x00"

    def below(self, prefix: bytes) -> Span:
        """Return the same span in the namespace of a prefix."""
        return Span(prefix + self.start, behind_prefix(prefix) if self.end is None else prefix + self.end)


def behind_prefix(prefix: bytes) -> bytes | None:
    """Return the first key behind all those that begin with ``prefix`` (etcd's rule: raise the last byte that can be raised)."""
    head = prefix.rstrip(b"\xff")
    return head[:-1] + bytes([head[-1] + 1]) if head else None
