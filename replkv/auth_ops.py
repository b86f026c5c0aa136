"""The commands that change users, roles and permissions, and what their arguments may be."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias

from attrs import field, frozen

from replkv import wire
from replkv.values import Data, Span

if TYPE_CHECKING:
    from replkv.wire import Raw

Mode: TypeAlias = Literal["read", "write", "readwrite"]

MODES: Final[dict[str, int]] = {"read": wire.READ, "write": wire.WRITE, "readwrite": wire.READWRITE}
"""What a permission allows, by its number in the log."""

MODE_NAMES: Final[dict[int, Mode]] = {wire.READ: "read", wire.WRITE: "write", wire.READWRITE: "readwrite"}


@frozen
class ChangeAuth:
    """One change of users, roles and permissions: which one, and what it is told, as ``wire.py`` checks it."""

    what: int
    arguments: tuple[Any, ...] = field(default=(), repr=False)  # which may hold a password's hash

    def to_wire(self) -> Raw:
        """Return the tuple that stands for this operation in the log."""
        return (wire.AUTH, self.what, self.arguments)

    def result(self, raw: Raw) -> None:
        """Return nothing: that it was not refused says all."""


def to_user(name: object) -> str:
    """Return the name of a user.

    Raises:
        TypeError, ValueError: it is none.
    """
    return _to_name(name, "a user")


def to_role(name: object) -> str:
    """Return the name of a role.

    Raises:
        TypeError, ValueError: it is none.
    """
    return _to_name(name, "a role")


def _to_name(name: object, what: str) -> str:
    if not isinstance(name, str):
        raise TypeError(f"the name of {what} is a str, not {type(name).__name__}")
    if not wire.is_auth_name(name):
        raise ValueError(f"the name of {what} has 1 to {wire.NAME_MAX} printable characters, unlike {name[:64]!r}")
    return name


def to_mode(mode: object) -> int:
    """Return what a permission allows, as it stands in the log.

    Raises:
        ValueError: it is none of those there are.
    """
    if not isinstance(mode, str) or mode not in MODES:
        raise ValueError(f"a permission is for 'read', 'write' or 'readwrite', not {mode!r}")
    return MODES[mode]


def to_span(key: Data | None, prefix: Data | None, start: Data | None, end: Data | None) -> Span:
    """Return the keys that a permission is for.

    Raises:
        TypeError, ValueError: a bad argument, no span, or a bound that is too long.
    """
    if key is None and prefix is None and start is None:
        raise ValueError("a permission needs a key, prefix= or start=: it is not given for everything by omission")
    span = Span.of(key, prefix=prefix, start=start, end=end)
    if max(len(span.start), len(span.end or b"")) > wire.BOUND_MAX:
        raise ValueError(f"the keys of a permission have at most {wire.BOUND_MAX - 1} bytes: use a shorter prefix")
    if span.end is not None and span.end <= span.start:
        raise ValueError("the end of a permission's keys lies behind its start")
    return span
