"""The arithmetic of majorities: what voters agree on, who has won, which configuration may follow which.

Raft decides everything here, and only here, so that a wrong quorum has one place to hide in.  While a configuration is joint every
decision needs a majority of both halves (thesis §4.3); learners are never counted.  Tests compare all of it with brute force.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from replkv.errors import InvariantBroken

if TYPE_CHECKING:
    from collections.abc import Callable, Container

    from replkv.messages import Configuration

Number = TypeVar("Number", int, float)


def agreed(configuration: Configuration, value: Callable[[str], Number]) -> Number:
    """Return the highest number that a majority has reached, in both halves of a joint configuration.

    Args:
        configuration: whose voters count.
        value: the number each voter has reached: an index, a round, a time.

    Raises:
        InvariantBroken: the configuration has no voters, so nothing can be decided.
    """
    if not configuration.voters:
        raise InvariantBroken("a decision was asked of a configuration without voters")
    reached = _reached(configuration.voters, value)
    return min(reached, _reached(configuration.outgoing, value)) if configuration.outgoing else reached


def _reached(voters: tuple[str, ...], value: Callable[[str], Number]) -> Number:
    return sorted(map(value, voters))[(len(voters) - 1) // 2]


def won(configuration: Configuration, granted: Container[str]) -> bool:
    """Tell whether the voters in ``granted`` decide an election; nobody wins where nobody votes."""
    return all(2 * sum(voter in granted for voter in half) > len(half) for half in _halves(configuration))


def lost(configuration: Configuration, refused: Container[str]) -> bool:
    """Tell whether an election can't be won any more once the voters in ``refused`` have refused."""
    return any(2 * sum(voter not in refused for voter in half) <= len(half) for half in _halves(configuration))


def _halves(configuration: Configuration) -> tuple[tuple[str, ...], ...]:
    return (configuration.voters, configuration.outgoing) if configuration.outgoing else (configuration.voters,)


def may_follow(old: Configuration, new: Configuration) -> bool:
    """Tell whether ``new`` may be appended while ``old`` is in force: every majority of one must meet every majority of the other.

    One voter may come or go at a time, or any number through a joint configuration (thesis §4.1, §4.3).  A voter is its name and
    incarnation: the same name with another incarnation is somebody else, who has forgotten what the first one promised.
    """
    if not new.voters or {*new.learners} & {*new.voters, *new.outgoing}:
        return False
    (before, leaving), (after, staying) = electorates(old), electorates(new)
    if old.outgoing or new.outgoing:
        begins = not old.outgoing and staying == before
        ends = not new.outgoing and after == before
        return begins or ends or (after == before and staying == leaving)
    return len(before ^ after) <= 1


def electorates(configuration: Configuration) -> tuple[set[tuple[str, int | None]], set[tuple[str, int | None]]]:
    """Return who votes, by name and incarnation: those that stay, and those of the outgoing half."""
    return _electorate(configuration, configuration.voters), _electorate(configuration, configuration.outgoing)


def _electorate(configuration: Configuration, names: tuple[str, ...]) -> set[tuple[str, int | None]]:
    return {(name, configuration.members.get(name)) for name in names}
