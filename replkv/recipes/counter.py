"""Counters: numbers that many add to without conflicts, and that give out each id once."""

from __future__ import annotations

from typing import Any

from replkv.errors import Conflict, NotACounter
from replkv.ops import Add, Get, Key, Put, Txn
from replkv.recipes.base import Recipe, named, place_of, recipe
from replkv.surface import Awaiting, Blocking, Consistency, Surface
from replkv.values import INT64, Data, KeyValue, to_count


class _Counter(Recipe):
    """An integer of 64 bits that the whole cluster shares.

    Every addition counts exactly once and takes one write; contenders don't conflict and don't wait for each other.

    Args:
        surface: where.
        name: bytes or text.
        initial: what it is before the first change; all users must say the same.

    Raises:
        TypeError, ValueError: a bad argument.
    """

    def __init__(self, surface: Surface[Any, Any], name: Data, initial: int = 0) -> None:
        super().__init__(surface)
        self._what = named("counter", name)
        self._key = place_of("counter", name) + b"value"
        self._initial = _int64(initial, "initial")

    @recipe
    async def value(self, *, consistency: Consistency = "linearizable") -> int:
        """Return what it is.

        Args:
            consistency: as for ``get``.

        Raises:
            NoLeader: the cluster did not answer within ``Config.timeout``.
        """
        return self._number(await self._calls.get(self._key, consistency=consistency))

    @recipe
    async def add(self, delta: int = 1) -> int:
        """Add to it.

        Args:
            delta: 64 bits, may be negative.

        Returns:
            The new value.

        Raises:
            TypeError, ValueError: a bad argument.
            NotACounter: it would leave the range of 64 bits; nothing was changed.
            NoLeader: it was not added.
            OutcomeUnknown: it may have been added, once.
        """
        return await self._add(_int64(delta, "delta"))

    @recipe
    async def next(self) -> int:
        """Return a number that nobody else gets, and add 1: the first one is ``initial``.

        Numbers grow in the order in which they are given out; one whose taker failed, or did not learn it, is left out.

        Raises:
            NotACounter, NoLeader, OutcomeUnknown: as for ``add``.
        """
        return await self._add(1) - 1

    @recipe
    async def reserve(self, count: int) -> range:
        """Return so many numbers that nobody else gets, as ``next``, in one write.

        Args:
            count: 1 or more.

        Raises:
            TypeError, ValueError: a bad argument.
            NotACounter, NoLeader, OutcomeUnknown: as for ``add``.
        """
        if to_count(count, "count") < 1:
            raise ValueError("reserve at least 1 number")
        end = await self._add(_int64(count, "count"))
        return range(end - count, end)

    @recipe
    async def set(self, value: int, *, expected: int | None = None) -> None:
        """Set it.

        Args:
            value: 64 bits.
            expected: set it only if it is this; None: whatever it is.

        Raises:
            TypeError, ValueError: a bad argument.
            Conflict: it is not ``expected``; the error says what it is.
            NoLeader: it was not set.
            OutcomeUnknown: it may have been set.
        """
        put = Put(self._key, b"%d" % _int64(value, "value"))
        if expected is None:
            await self._calls.txn(then=[put])
            return
        found = Key(self._key).value == b"%d" % _int64(expected, "expected")
        if_new = Txn(
            compare=[Key(self._key).missing], then=[put] if expected == self._initial else [Get(self._key)], otherwise=[Get(self._key)]
        )
        result = await self._calls.txn(compare=[found], then=[put], otherwise=[if_new])
        if not result and not (result.responses[0] and expected == self._initial):
            kv = result.responses[0].responses[0]
            raise Conflict(f"{self._what} is {self._number(kv)}, not {expected}; it was not set", kv)

    async def _add(self, delta: int) -> int:
        if not self._initial:
            return (await self._calls.add(self._key, delta)).value
        first = self._initial + delta
        begin = [Put(self._key, b"%d" % first)] if first in INT64 else []
        result = await self._calls.txn(compare=[Key(self._key).missing], then=begin, otherwise=[Add(self._key, delta)])
        if result and not begin:
            raise NotACounter(f"{self._what} would leave the range of 64 bits: {self._initial} + {delta}")
        return first if result else int(result.responses[0].value)

    def _number(self, kv: KeyValue | None) -> int:
        return self._initial if kv is None else int(kv.value)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._what.removeprefix('counter ')}>"


class Counter(_Counter, Blocking):
    """A counter, for threads; see ``_Counter``."""

    def __int__(self) -> int:
        return self.value()


class AsyncCounter(_Counter, Awaiting):
    """A counter, for asyncio; see ``_Counter``."""


def _int64(number: int, what: str) -> int:
    if isinstance(number, bool) or not isinstance(number, int):
        raise TypeError(f"{what} must be an int, not {type(number).__name__}")
    if number not in INT64:
        raise ValueError(f"{what} must fit 64 bits, not {number}")
    return number
