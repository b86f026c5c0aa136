"""The way from the configuration that is in effect to the one that is wanted, one committed step after the other.

Pure: who leads asks for the next step whenever the last one is committed, so it does not matter where on the way leadership changed hands.
Learners come and go freely, for they decide nothing.  Voters change through one joint configuration, however many there are (thesis §4.3),
or in one step where only one comes or goes (§4.1).  Nobody gets a vote before it has caught up (§4.2.1).  Nobody who is at work loses its
vote while others are still to come: a cluster that exchanges members never has fewer than before.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from attrs import evolve

from replkv.messages import EXPECTED, Application, Configuration

if TYPE_CHECKING:
    from collections.abc import Iterable

    from replkv.roster import Roster


class Seen(Protocol):
    """What a leader knows of its followers."""

    def is_caught_up(self, name: str) -> bool:
        """Tell whether a member has almost all of the log, and answers."""

    def is_alive(self, name: str) -> bool:
        """Tell whether the incarnation of a member that the configuration names answers, or may yet: only who does not may be replaced."""

    def has_answered(self, name: str) -> bool:
        """Tell whether it has answered of late: only on who has may a decision be made to depend."""


def next_step(now: Configuration, roster: Roster, newcomers: Iterable[Application], seen: Seen) -> Configuration | None:
    """Return the configuration to propose behind one that is committed, None if all is as wanted, or has to wait.

    Args:
        now: the configuration in effect.
        roster: who is wanted.
        newcomers: members that came with another incarnation or address than it has.
        seen: what the leader knows of its followers.
    """
    if now.outgoing:
        return _leave_joint(now, roster)
    step = _take_in(_name(now, roster), newcomers, seen)
    if step != now:
        return step
    return _change_voters(now, roster, seen)


def is_settled(now: Configuration, roster: Roster) -> bool:
    """Tell whether a configuration has all who are wanted, and none who is not, but for those who wait to be relieved."""
    if now.outgoing or not all(name in now.members for name in roster):
        return False
    waits = not roster.voters <= {*now.voters}
    return waits or (now.names == tuple(roster) and {*now.voters} == roster.voters)


def _leave_joint(now: Configuration, roster: Roster) -> Configuration:
    demoted = [name for name in now.outgoing if name not in now.voters and name in roster]
    return _made(now, now.voters, (*now.learners, *demoted))


def _name(now: Configuration, roster: Roster) -> Configuration:
    """Name new members as learners that are expected, and drop learners that are not wanted."""
    new = [name for name in roster if name not in now.members]
    learners = (*(name for name in now.learners if name in roster), *new)
    if learners == now.learners:
        return now
    addresses = {name: url for name in new if (url := roster[name].address)}
    named = evolve(now, members={**now.members, **dict.fromkeys(new, EXPECTED)}, addresses={**now.addresses, **addresses})
    return _made(named, now.voters, learners)


def _take_in(now: Configuration, newcomers: Iterable[Application], seen: Seen) -> Configuration:
    """Note new addresses and new incarnations; one that replaces a voter's begins as a learner, and only one of them at a time."""
    for name, incarnation, address, has_moved in sorted({(each.name, each.incarnation, each.address, each.moved) for each in newcomers}):
        known = now.members.get(name)
        if known is None:
            continue
        moved = {**now.addresses, name: address} if address else now.addresses
        if known == incarnation:
            now = evolve(now, addresses=moved)
        elif has_moved:
            continue  # whoever tells of it lags behind: it was removed meanwhile, and its directory does not count any more
        elif known == EXPECTED or (name in now.learners and not seen.is_alive(name)):
            now = evolve(now, addresses=moved, members={**now.members, name: incarnation})
        elif name in now.voters and len(now.voters) > 1 and not seen.is_alive(name):
            voters = tuple(voter for voter in now.voters if voter != name)
            renewed = evolve(now, addresses=moved, members={**now.members, name: incarnation})
            return _made(renewed, voters, (*now.learners, name))
    return now


def _change_voters(now: Configuration, roster: Roster, seen: Seen) -> Configuration | None:
    coming = {name for name in roster.voters.difference(now.voters) if now.members[name] != EXPECTED and seen.is_caught_up(name)}
    waits = not roster.voters <= {*now.voters, *coming}
    going = {name for name in now.voters if name not in roster.voters and not (waits and seen.is_alive(name))}
    voters = tuple(sorted({*now.voters, *coming} - going))
    if not (coming or going) or 2 * sum(map(seen.has_answered, voters)) <= len(voters):
        return None  # nothing to do; or nothing could be decided any more, this step included
    learners = tuple(name for name in now.learners if name not in coming)
    if len(coming) + len(going) == 1:
        return _made(now, voters, (*learners, *(name for name in going if name in roster)))
    return _made(now, voters, learners, now.voters)


def _made(now: Configuration, voters: Iterable[str], learners: Iterable[str], outgoing: tuple[str, ...] = ()) -> Configuration:
    """Put a configuration together of those that are known."""
    voters, learners = tuple(sorted(voters)), tuple(sorted(learners))
    names = sorted({*voters, *outgoing, *learners})
    addresses = {name: now.addresses[name] for name in names if name in now.addresses}
    return Configuration(voters, outgoing, learners, {name: now.members[name] for name in names}, addresses)
