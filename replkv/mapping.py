"""Mappings: the keys below a prefix as a dictionary, each access one call to the cluster.

Every access is written once, in ``AsyncMapping``, on calls that anybody can make.  ``ReplicatedMapping`` is the same over a surface that
blocks: there a call has its result when it returns, so that a coroutine made of such calls runs to its end without being suspended.
"""

from __future__ import annotations

from collections.abc import (
    AsyncIterator,
    Awaitable,
    Callable,
    ItemsView,
    Iterable,
    Iterator,
    Mapping,
    MutableMapping,
    ValuesView,
)
from typing import Any, Final, Generic, Protocol, TypeVar, cast, overload

from replkv.errors import TooLarge, TooManyOps
from replkv.immediate import run
from replkv.ops import Compare, Delete, Get, Key, Operation, Put, Scan
from replkv.valuecodec import Codec, decode_stored, key_to_text, text_to_key
from replkv.values import Data, DeleteResult, KeyValue, PutResult, ScanResult, TxnResult, behind_prefix, to_bytes

T = TypeVar("T")
D = TypeVar("D")
R = TypeVar("R")

_RAISE: Final[Any] = object()


class _Awaited(Protocol):
    """What an ``AsyncMapping`` calls."""

    def get(self, key: Data, /) -> Awaitable[KeyValue | None]: ...
    def put(self, key: Data, value: Data, /) -> Awaitable[PutResult]: ...
    def delete(self, key: Data | None = ..., /, *, start: Data | None = ..., end: Data | None = ...) -> Awaitable[DeleteResult]: ...
    def scan(self, *, prefix: Data, limit: int = ..., keys_only: bool = ..., count_only: bool = ...) -> Awaitable[ScanResult]: ...
    def txn(
        self, *, compare: Iterable[Compare] = ..., then: Iterable[Operation] = ..., otherwise: Iterable[Operation] = ...
    ) -> Awaitable[TxnResult]: ...


class _Blocking(Protocol):
    """What a ``ReplicatedMapping`` calls."""

    def get(self, key: Data, /) -> KeyValue | None: ...
    def put(self, key: Data, value: Data, /) -> PutResult: ...
    def delete(self, key: Data | None = ..., /, *, start: Data | None = ..., end: Data | None = ...) -> DeleteResult: ...
    def scan(self, *, prefix: Data, limit: int = ..., keys_only: bool = ..., count_only: bool = ...) -> ScanResult: ...
    def txn(
        self, *, compare: Iterable[Compare] = ..., then: Iterable[Operation] = ..., otherwise: Iterable[Operation] = ...
    ) -> TxnResult: ...


class AsyncMapping(Generic[T]):
    """The keys below a prefix as a dictionary whose accesses are awaited; each reads or writes the cluster.

    Keys are text, relative to the prefix; those that are no UTF-8 have lone surrogates in it (``surrogateescape``).  Every read sees every
    write that was acknowledged before it.  ``pop``, ``popitem``, ``setdefault`` and ``clear`` are atomic: no other writer comes between
    what they read and what they write.  ``async for`` yields the keys, in the order of their bytes and as of one revision.

    Every access raises what the calls of the surface raise: ``NoLeader``, ``Closed``, and ``OutcomeUnknown`` where it writes, whose
    ``wait`` returns the result of the call beneath.  A value that the codec can't read raises ``Undecodable``, which names its key.

    What Python does without awaiting is a ``TypeError``: ``in``, ``for``, ``bool()``; say ``contains``, ``async for`` and ``len``.

    Keys that begin with a zero byte are replkv's own: a mapping without a prefix refuses them with ``ValueError``.

    Args:
        surface: what to call: an ``AsyncReplica`` or a namespace of it.
        prefix: of all keys, text or bytes.
        codec: what values are stored as.
    """

    def __init__(self, surface: _Awaited, prefix: Data, codec: Codec[T]) -> None:
        self._surface = surface
        self._prefix = to_bytes(prefix, "prefix")
        self._codec = codec

    @property
    def prefix(self) -> bytes:
        """What all keys begin with."""
        return self._prefix

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._prefix!r} {self._codec!r}>"

    # Without these, Python would find __getitem__, and ask it for 0, 1, 2 and so on: each gives a coroutine, and none the end.
    __iter__ = None
    __contains__ = None

    def __bool__(self) -> bool:
        raise TypeError("whether this mapping has keys takes a call: await its len()")

    # -- one key -------------------------------------------------------------------------------------------------------------------

    @overload
    async def get(self, key: str) -> T | None: ...
    @overload
    async def get(self, key: str, default: T | D) -> T | D: ...
    async def get(self, key: str, default: Any = None) -> Any:
        """Return the value of a key, or ``default`` if there is none."""
        kv = await self._find(self._full(key))
        return default if kv is None else self._value(kv)

    async def __getitem__(self, key: str) -> T:
        kv = await self._find(self._full(key))
        if kv is None:
            raise KeyError(key)
        return self._value(kv)

    async def contains(self, key: str) -> bool:
        """Tell whether there is such a key, whatever its value."""
        return await self._find(self._full(key)) is not None

    async def set(self, key: str, value: T) -> None:
        """Store a value under a key.

        Raises:
            TypeError, ValueError: the codec can't encode the value, or no key has this text; nothing was sent.
        """
        await self._surface.put(self._full(key), self._codec.encode(value))

    async def delete(self, key: str) -> bool:
        """Delete a key; tell whether there was one."""
        full = self._full(key)
        return bool(full and (await self._surface.delete(full)).deleted)

    async def setdefault(self, key: str, default: T) -> T:
        """Store a value unless the key has one; return what it has now."""
        full, data = self._full(key), self._codec.encode(default)
        result = await self._surface.txn(compare=[Key(full).missing], then=[Put(full, data)], otherwise=[Get(full)])
        return default if result else self._value(result.responses[0])

    @overload
    async def pop(self, key: str) -> T: ...
    @overload
    async def pop(self, key: str, default: T | D) -> T | D: ...
    async def pop(self, key: str, default: Any = _RAISE) -> Any:
        """Delete a key and return its value.

        Args:
            key: the key.
            default: what to return if there is no such key.

        Raises:
            KeyError: there is none, and no default.
            Undecodable: its value can't be decoded; nothing was deleted.
        """
        full = self._full(key)
        kv = await self._find(full)
        while kv is not None:
            value = self._value(kv)
            result = await self._delete_unchanged(kv, Get(full))
            if result:
                return value
            kv = result.responses[0]
        if default is _RAISE:
            raise KeyError(key)
        return default

    async def popitem(self) -> tuple[str, T]:
        """Delete a key, the first when it looked, and return it with its value.

        Raises:
            KeyError: there is no key.
            Undecodable: its value can't be decoded; nothing was deleted.
        """
        first = await self._surface.scan(prefix=self._prefix, limit=1)
        while first:
            item = self._item(first[0])
            result = await self._delete_unchanged(first[0], Scan(prefix=self._prefix, limit=1))
            if result:
                return item
            first = result.responses[0]
        raise KeyError(f"no key begins with {self._prefix!r}")

    async def _delete_unchanged(self, kv: KeyValue, otherwise: Operation) -> TxnResult:
        return await self._surface.txn(compare=[Key(kv.key).mod_revision == kv.mod_revision], then=[Delete(kv.key)], otherwise=[otherwise])

    # -- many keys -----------------------------------------------------------------------------------------------------------------

    async def update(self, other: Mapping[str, T] | Iterable[tuple[str, T]] = (), /, **more: T) -> None:
        """Store many values: in one transaction, at one revision, if the cluster's settings allow one of that size.

        More than ``Settings.max_txn_ops`` values, or ``Settings.max_request_bytes``, go into several transactions, one after the other:
        others see them come, and if the call fails some of them may be stored.

        Raises:
            TypeError, ValueError: a value can't be encoded, or a key is none; nothing was sent.
            TooLarge: a value alone is larger than a request may be.
        """
        values: dict[str, T] = dict(other, **more)
        puts = [Put(self._full(key), self._codec.encode(value)) for key, value in values.items()]
        size = len(puts)
        while puts:
            try:
                await self._surface.txn(then=puts[:size])
            except (TooManyOps, TooLarge):  # found before anything is sent
                if size == 1:
                    raise
                size = min(size, len(puts)) // 2 or 1
            else:
                del puts[:size]

    async def clear(self) -> None:
        """Delete all keys, at one revision."""
        await self._surface.delete(start=self._prefix, end=behind_prefix(self._prefix))

    async def keys(self) -> list[str]:
        """Return the keys, as of one revision."""
        return [self._text(kv) for kv in await self._surface.scan(prefix=self._prefix, keys_only=True)]

    async def values(self) -> list[T]:
        """Return the values, as of one revision, in the order of their keys."""
        return [self._value(kv) for kv in await self._surface.scan(prefix=self._prefix)]

    async def items(self) -> list[tuple[str, T]]:
        """Return the keys with their values, as of one revision."""
        return [self._item(kv) for kv in await self._surface.scan(prefix=self._prefix)]

    async def len(self) -> int:
        """Return how many keys there are."""
        return (await self._surface.scan(prefix=self._prefix, count_only=True)).count

    async def __aiter__(self) -> AsyncIterator[str]:
        for key in await self.keys():
            yield key

    # -- keys and values -----------------------------------------------------------------------------------------------------------

    def _full(self, key: str) -> bytes:
        full = self._prefix + text_to_key(key)
        if full.startswith(b"\x00") and not self._prefix:
            raise ValueError(f"{key!r} begins with a zero byte: such keys are replkv's own, and not in a mapping without a prefix")
        return full

    async def _find(self, full: bytes) -> KeyValue | None:
        return await self._surface.get(full) if full else None  # "" below no prefix: there can't be such a key

    def _text(self, kv: KeyValue) -> str:
        return key_to_text(kv.key[len(self._prefix) :])

    def _value(self, kv: KeyValue) -> T:
        return decode_stored(self._codec, kv.key, kv.value)

    def _item(self, kv: KeyValue) -> tuple[str, T]:
        return self._text(kv), self._value(kv)


class ReplicatedMapping(MutableMapping[str, T]):
    """The keys below a prefix as a dictionary; each access reads or writes the cluster.

    It is what ``AsyncMapping`` is, for threads and with Python's own operators, and raises the same.  Iterating reads once, as of one
    revision and in the order of the keys' bytes; so ``dict(mapping.items())`` is one state of the cluster, while ``dict(mapping)`` reads
    each value by itself.

    Args:
        surface: what to call: a ``Replica`` or a namespace of it.
        prefix: of all keys, text or bytes.
        codec: what values are stored as.
    """

    def __init__(self, surface: _Blocking, prefix: Data, codec: Codec[T]) -> None:
        self._awaited = AsyncMapping(cast("_Awaited", _Immediate(surface)), prefix, codec)

    @property
    def prefix(self) -> bytes:
        """What all keys begin with."""
        return self._awaited.prefix

    def __repr__(self) -> str:
        return repr(self._awaited).replace("AsyncMapping", type(self).__name__, 1)

    def __getitem__(self, key: str) -> T:
        return run(self._awaited[key])

    def __setitem__(self, key: str, value: T) -> None:
        run(self._awaited.set(key, value))

    def __delitem__(self, key: str) -> None:
        if not run(self._awaited.delete(key)):
            raise KeyError(key)

    def __contains__(self, key: object) -> bool:
        return isinstance(key, str) and run(self._awaited.contains(key))

    def __iter__(self) -> Iterator[str]:
        return iter(run(self._awaited.keys()))

    def __len__(self) -> int:
        return run(self._awaited.len())

    def values(self) -> Values[T]:
        """Return a view of the values; iterating it reads them as of one revision, in the order of their keys."""
        return Values(self, self._pairs)

    def items(self) -> Items[T]:
        """Return a view of the keys with their values; iterating it reads them as of one revision."""
        return Items(self, self._pairs)

    def _pairs(self) -> Iterator[tuple[str, T]]:
        return iter(run(self._awaited.items()))

    def setdefault(self, key: str, default: T) -> T:
        """Store a value unless the key has one; return what it has now."""
        return run(self._awaited.setdefault(key, default))

    @overload
    def pop(self, key: str, /) -> T: ...
    @overload
    def pop(self, key: str, /, default: T | D) -> T | D: ...
    def pop(self, key: str, /, default: Any = _RAISE) -> Any:
        """Delete a key and return its value, or ``default`` if there is none; as ``AsyncMapping.pop``."""
        return run(self._awaited.pop(key, default))

    def popitem(self) -> tuple[str, T]:
        """Delete a key, the first when it looked, and return it with its value; as ``AsyncMapping.popitem``."""
        return run(self._awaited.popitem())

    def update(self, other: Any = (), /, **more: T) -> None:
        """Store many values, at one revision if the cluster's settings allow; as ``AsyncMapping.update``."""
        run(self._awaited.update(other, **more))

    def clear(self) -> None:
        """Delete all keys, at one revision."""
        run(self._awaited.clear())


class Items(ItemsView[str, T]):
    """The keys of a mapping with their values, read together when iterated."""

    def __init__(self, mapping: Mapping[str, T], read: Callable[[], Iterator[tuple[str, T]]]) -> None:
        super().__init__(mapping)
        self._read = read

    def __iter__(self) -> Iterator[tuple[str, T]]:
        return self._read()


class Values(ValuesView[T]):
    """The values of a mapping, read together when iterated."""

    def __init__(self, mapping: Mapping[str, T], read: Callable[[], Iterator[tuple[str, T]]]) -> None:
        super().__init__(mapping)
        self._read = read

    def __iter__(self) -> Iterator[T]:
        return (value for _, value in self._read())

    def __contains__(self, value: object) -> bool:
        return any(one is value or one == value for one in self)


class _Immediate:
    """A surface that blocks, as one whose calls are awaited: each is made when it is awaited, and then has its result."""

    def __init__(self, surface: _Blocking) -> None:
        self._surface = surface

    def __getattr__(self, name: str) -> Callable[..., Awaitable[Any]]:
        call = getattr(self._surface, name)

        async def awaited(*arguments: Any, **named: Any) -> Any:
            return call(*arguments, **named)

        return awaited
