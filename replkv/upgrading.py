"""How the cluster's feature level rises: the leader proposes it, once all members are there and say that they support more.

A member that is away counts as one that does not: it may come back with the version it had.  One that is gone for good holds the level
until it is removed.  Members that were named and have never come do not count, for nobody has to go on from what they have: when they
come with a version that does not support the level by then, they are not let in (``links.py``).
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from attrs import define, field

from replkv import codec, features, wire
from replkv.messages import EXPECTED
from replkv.raft import Role

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from replkv.links import Links
    from replkv.machine import Machine
    from replkv.proposals import Call
    from replkv.raft import Raft

logger = logging.getLogger(__name__)


def supported(links: Links, others: Iterable[str]) -> int:
    """Return the highest level that this member and all those others support; the first one if somebody is not connected.

    Args:
        links: to the others.
        others: names of members.
    """
    said = [links.about_of(name) for name in others]
    return min((links.about.level, *(about.level if about is not None else features.FIRST for about in said)))


@define(eq=False, repr=False)
class Upgrading:
    """One member's part in it.

    Args:
        name: of the member.
        links: to the others.
        submit: hands over a command of the member's own, and says what is to be done with its answer.
    """

    _name: str
    _links: Links
    _submit: Callable[[bytes, Callable[[Call], None]], None]
    _proposed: int = field(default=0, init=False)  # the level that is on its way

    def look_around(self, raft: Raft, machine: Machine) -> None:
        """Propose a higher level, if this member leads and everybody can follow."""
        if raft.role is not Role.LEADER or not raft.can_propose or raft.is_unsettled:
            return
        members = raft.configuration.members
        others = [name for name in raft.others if members.get(name) != EXPECTED]
        present = all(self._links.incarnation_of(name) == members.get(name) for name in others)
        level = supported(self._links, others) if present else machine.level
        if level > max(machine.level, self._proposed):
            self._proposed = level
            logger.info("%s: all members support feature level %d", self._name, level)
            self._submit(codec.pack((wire.LEVEL, level)), self._answered)

    def _answered(self, _call: Call) -> None:
        self._proposed = 0
