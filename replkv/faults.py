"""Errors on their way from a member to a client: by name, with their text and what else they carry.

Beside them the checks of what errors and letters have in common.  Nothing that arrives is trusted.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from replkv import codec, errors
from replkv.codec import DecodeError, expected, long_text, natural, row, short_text
from replkv.values import KeyValue

if TYPE_CHECKING:
    from collections.abc import Callable

    from replkv.wire import Raw


# -- checks ------------------------------------------------------------------------------------------------------------------------


def or_none(check: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Return a check that lets None pass, too."""
    return lambda value: None if value is None else check(value)


def content(value: object) -> bytes:
    """Check that a value is bytes, of any length."""
    if type(value) is not bytes:
        expected("bytes", value)
    return value


def raw_answer(value: object) -> Raw:
    """Check that a value is a status and what goes with it."""
    if type(value) is not tuple or not value or type(value[0]) is not int:
        expected("an answer", value)
    return value


def key_value(value: object) -> KeyValue:
    """Read a pair."""
    key, held, *numbers = row(value, 6)
    return KeyValue(content(key), content(held), *map(natural, numbers))


# -- errors ------------------------------------------------------------------------------------------------------------------------

_ATTRIBUTES: Final[dict[str, Callable[[Any], Any]]] = {
    "revision": natural,
    "current": or_none(key_value),
    "unreachable": codec.names,
    "damage": long_text,
    "refusal": raw_answer,
    "level": natural,
}
"""What errors carry besides their text, and the check of it."""

_ERRORS: Final[dict[str, type[errors.ReplkvError]]] = {
    name: kind for name, kind in vars(errors).items() if isinstance(kind, type) and issubclass(kind, errors.ReplkvError)
}
"""All errors that may arrive, by name: nothing else is built because a name was sent."""


def shown(error: errors.ReplkvError) -> dict[str, Any]:
    """Return the attributes of an error that mean something elsewhere."""
    return {name: value for name, value in vars(error).items() if name in _ATTRIBUTES}


def to_wire(error: errors.ReplkvError) -> Raw:
    """Return what stands for an error in a letter."""
    name = next(kind.__name__ for kind in type(error).__mro__ if _ERRORS.get(kind.__name__) is kind)
    return (name, str(error)[:4096], tuple(sorted(shown(error).items())))


def from_wire(value: object) -> errors.ReplkvError:
    """Make an error of what stands for it.

    Raises:
        DecodeError: no error stands there that this version knows.
    """
    name, message, pairs = row(value, 3)
    kind = _ERRORS.get(short_text(name))
    if kind is None or type(pairs) is not tuple:
        raise DecodeError("an error that this version does not know")
    error = kind(long_text(message))
    for pair in pairs:
        attribute, fact = row(pair, 2)
        check = _ATTRIBUTES.get(short_text(attribute))
        if check is None:
            raise DecodeError("an attribute of an error that this version does not know")
        setattr(error, attribute, check(fact))
    return error
