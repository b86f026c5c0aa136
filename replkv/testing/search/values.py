"""Copies of a member's state, and what tells two of them apart: both by walking over whatever attributes there are.

Nothing here knows a field by its name, except for those that decide nothing.  Values that never change (entries, messages, whatever is
frozen) are shared by all copies; what the state machine changes in place is copied.  Times are told from spans by their size: every clock
of the search begins at ``BASE`` and every span is far below it.
"""

from __future__ import annotations

import marshal
from collections import deque
from collections.abc import Callable
from enum import Enum
from typing import Any, TypeAlias, TypeVar

import attrs

from replkv.messages import Entry

T = TypeVar("T")

BASE = 1024.0
"""Seconds on every clock when a search begins."""
SPAN = 2.0**-34
"""Seconds: what all spans are multiples of.

As powers of two they add up without rounding; and they are so short that cluster time, counted in microseconds, stands still.
"""

IGNORED = {"_now", "_cluster_time", "_timing"}
"""What decides nothing here: when something was looked at last, cluster time, which stands still, and what never changes."""

Copies: TypeAlias = dict[int, Any]
Copier: TypeAlias = Callable[[Any, Copies], Any]
_COPIERS: dict[type[Any], Copier | None] = {}
_FIELDS: dict[type[Any], tuple[str, ...]] = {}


def copied(value: T) -> T:
    """Return a copy that can be changed without changing the original; what is frozen is shared."""
    copy: T = _copied(value, {})
    return copy


def _copied(value: Any, copies: Copies) -> Any:
    copier = _copier(type(value))
    return value if copier is None else copier(value, copies)


def _copier(cls: type[Any]) -> Copier | None:
    return _COPIERS[cls] if cls in _COPIERS else _COPIERS.setdefault(cls, _copier_of(cls))


def _copier_of(cls: type[Any]) -> Copier | None:
    """Return how to copy instances; None where they never change."""
    if cls in {list, deque, set}:
        return lambda value, copies: cls(_copied(item, copies) for item in value)
    if cls is dict:
        return lambda value, copies: {key: _copied(item, copies) for key, item in value.items()}
    hashing: Any = cls.__hash__
    is_value = hashing not in (None, object.__hash__)
    return None if is_value or not cls.__module__.startswith("replkv.") else _copy_object


def _copy_object(value: Any, copies: Copies) -> Any:
    copy = copies.get(id(value))
    if copy is None:
        copy = copies[id(value)] = object.__new__(type(value))
        for name in names_in(value):
            setattr(copy, name, _copied(getattr(value, name), copies))
    return copy


def names_in(value: Any) -> tuple[str, ...]:
    """Return the names of an object's attributes, always in the same order."""
    if hasattr(value, "__dict__"):
        return tuple(sorted(vars(value)))
    names = _FIELDS.get(type(value))
    return names if names is not None else _FIELDS.setdefault(type(value), tuple(field.name for field in attrs.fields(type(value))))


def key(value: Any, now: float, horizon: float) -> bytes:
    """Return bytes that are equal for two values exactly where they can't behave differently.

    Args:
        value: to be walked over.
        now: seconds; times count as how far they are away from it.
        horizon: seconds; what is longer ago than this makes no difference any more.
    """
    return marshal.dumps(_Walk(now, horizon).flat(value), 2)  # version 2 does not tell one object twice from two equal ones


class _Walk:
    def __init__(self, now: float, horizon: float) -> None:
        self._now = now
        self._horizon = horizon
        self._met: dict[int, int] = {}

    def flat(self, value: Any) -> Any:
        """Return the value made of what ``marshal`` can write."""
        cls = type(value)
        if cls in _PLAIN:
            return value
        if cls is float:
            return max(value - self._now, -self._horizon) if not 0.0 <= value < 1.0 else value
        if isinstance(value, (tuple, list, deque)):
            return tuple([item if type(item) in _PLAIN else self.flat(item) for item in value])
        if cls is dict:
            return tuple([(name, self.flat(item)) for name, item in sorted(value.items())])
        if cls is Entry:
            return value.encoded
        if isinstance(value, (set, frozenset)):
            return tuple(sorted(map(self.flat, value)))
        if isinstance(value, Enum):
            return value.value
        return self._flat_object(value, cls)

    def _flat_object(self, value: Any, cls: type) -> Any:
        if _copier(cls) is not None:  # one object in two places is not the same as two equal ones
            if id(value) in self._met:
                return self._met[id(value)]
            self._met[id(value)] = len(self._met)
        flat = self.flat
        return (cls.__name__, *[flat(getattr(value, name)) for name in names_in(value) if name not in IGNORED])


_PLAIN = {type(None), bool, int, str, bytes}
