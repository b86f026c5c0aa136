"""The command that changes who is wanted as a member, and the names that members may have."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import islice
from typing import TYPE_CHECKING

from attrs import frozen

from replkv import wire
from replkv.address import is_wildcard, parse_address
from replkv.codec import MEMBER_NAME
from replkv.wire import MEMBERS_MAX

if TYPE_CHECKING:
    from replkv.wire import Raw


@frozen
class ChangeMembers:
    """Change who is wanted as a member; pairs are of a name and a url, "" being the one that is known already."""

    add: tuple[tuple[str, str], ...] = ()
    remove: tuple[str, ...] = ()
    learners: tuple[tuple[str, str], ...] = ()
    promote: tuple[str, ...] = ()

    @classmethod
    def of(cls, add: object, remove: object, learners: object) -> ChangeMembers:
        """Build the operation from what a caller says.

        Raises:
            TypeError, ValueError: no names or addresses, a name twice, or nothing to change.
        """
        if isinstance(remove, str):
            raise TypeError(f"remove must be a list of names, not a str: remove=[{remove!r}]")
        if not isinstance(remove, Iterable):
            raise TypeError(f"remove must be a list of names, not {type(remove).__name__}")
        gone = tuple(to_member_name(name) for name in islice(remove, MEMBERS_MAX + 1))
        if len(gone) > MEMBERS_MAX:
            raise ValueError(f"remove has more than {MEMBERS_MAX} members, and no cluster has so many")
        coming, staying = to_members(add, "add"), to_members(learners, "learners")
        everybody = [*gone, *(name for name, _ in (*coming, *staying))]
        if not everybody:
            raise ValueError("change_members() needs add=, remove= or learners=")
        for name in everybody:
            if everybody.count(name) > 1:
                raise ValueError(f"{name} is named twice: change it in one way at a time")
        return cls(coming, gone, staying)

    def to_wire(self) -> Raw:
        """Return the tuple that stands for this operation in the log."""
        return (wire.MEMBERS, self.add, self.remove, self.learners, self.promote)

    def result(self, raw: Raw) -> None:
        """Return nothing: that it was not refused says all."""


def to_member_name(name: object) -> str:
    """Return a member's name.

    Raises:
        TypeError, ValueError: it is none.
    """
    if not isinstance(name, str):
        raise TypeError(f"name must be a str, not {type(name).__name__}")
    if not MEMBER_NAME.fullmatch(name):
        raise ValueError(
            f"{name!r} is no name for a member: use letters, digits, '_', '.' and '-', at most 64, and begin with none of '.-'"
        )
    return name


def to_members(pairs: object, argument: str) -> tuple[tuple[str, str], ...]:
    """Return names and urls, in the order of the names.

    Raises:
        TypeError, ValueError: it is no map from names to addresses at which others can reach them; the text names the argument.
    """
    if not isinstance(pairs, Mapping):
        raise TypeError(f"{argument} must map names to addresses, not be a {type(pairs).__name__}")
    if len(pairs) > MEMBERS_MAX:
        raise ValueError(f"{argument} has {len(pairs)} members, and at most {MEMBERS_MAX} are possible")
    members = tuple((to_member_name(name), parse_address(address)) for name, address in pairs.items())
    for name, url in members:
        if is_wildcard(url):
            raise ValueError(f"{url} is no address that others can dial: give {name} the address it is reached at")
    return tuple(sorted(members))
