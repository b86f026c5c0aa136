"""Who is wanted as a member: the part of the replicated state that callers change, and that the leader steers the configuration towards.

The configuration, which Raft goes by, says who is a member now; the roster says who should be.  A change of it is a command like any
other, so it is decided once, in one order with all others, whoever leads meanwhile.  ``steering.py`` has the way from one to the other.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from replkv import codec
from replkv.codec import DecodeError
from replkv.errors import MemberExists, MemberNotFound, MembershipRefused
from replkv.refusals import refuse
from replkv.wire import MEMBERS_MAX

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from replkv.messages import Configuration
    from replkv.wire import Raw


class Wanted(NamedTuple):
    """How a member is wanted: with a vote or without, and where it was said to be when it was named."""

    voter: bool
    address: str


class Roster:
    """The members that are wanted, by name."""

    def __init__(self, wanted: Mapping[str, Wanted] | None = None) -> None:
        self._wanted = dict(wanted or {})
        self.changes = 0
        """How often it was changed in this life of the member."""

    @classmethod
    def of(cls, configuration: Configuration) -> Roster:
        """Return the roster of those who are in a configuration."""
        addresses = configuration.addresses
        return cls({name: Wanted(name in configuration.voters, addresses.get(name, "")) for name in configuration.names})

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._wanted))

    def __len__(self) -> int:
        return len(self._wanted)

    def __contains__(self, name: object) -> bool:
        return name in self._wanted

    def __getitem__(self, name: str) -> Wanted:
        return self._wanted[name]

    @property
    def voters(self) -> set[str]:
        """Those who are wanted with a vote."""
        return {name for name, wanted in self._wanted.items() if wanted.voter}

    def change(self, command: Raw, addresses: Mapping[str, str]) -> None:
        """Carry out a packed MEMBERS command, as a whole or not at all.

        Args:
            command: tag, pairs of name and address of voters to add, names to remove, pairs of learners, names to promote.
            addresses: where the members are by now.

        Raises:
            MemberExists: a member that is to be added is there, at another address.
            MemberNotFound: one that is to go or to be promoted, or of which only the name is given, is not there.
            MembershipRefused: nobody would be left to vote, or too many would be members.
        """
        _, add, remove, learners, promote = command
        wanted = dict(self._wanted)
        for name in remove:
            if wanted.pop(name, None) is None:
                raise refuse(MemberNotFound, (name,))
        for name in promote:
            if name not in wanted:
                raise refuse(MemberNotFound, (name,))
            wanted[name] = wanted[name]._replace(voter=True)
        self._add(wanted, add, addresses, voter=True)
        self._add(wanted, learners, addresses, voter=False)
        if not any(voter for voter, _ in wanted.values()):
            raise refuse(MembershipRefused, (0, 0))
        if len(wanted) > MEMBERS_MAX:
            raise refuse(MembershipRefused, (len(wanted), MEMBERS_MAX))
        self._wanted, self.changes = wanted, self.changes + 1

    @staticmethod
    def _add(wanted: dict[str, Wanted], pairs: Iterable[tuple[str, str]], addresses: Mapping[str, str], *, voter: bool) -> None:
        for name, address in pairs:
            known = wanted.get(name)
            if known is None and not address:
                raise refuse(MemberNotFound, (name,))
            if known is not None and address not in ("", known.address, addresses.get(name)):
                raise refuse(MemberExists, (name, addresses.get(name, known.address)))
            wanted[name] = Wanted(voter, known.address if known is not None else address)

    # -- as a part of the state --------------------------------------------------------------------------------------------------------

    def rows(self) -> tuple[tuple[str, bool, str], ...]:
        """Return plain values for it, the same for equal ones."""
        return tuple((name, *self._wanted[name]) for name in self)

    @classmethod
    def load(cls, wire: object) -> Roster:
        """Read what ``rows`` returned.

        Raises:
            DecodeError: it did not.
        """
        if type(wire) is not tuple:
            codec.expected("a roster", wire)
        wanted = {}
        for name, voter, address in (codec.row(part, 3) for part in wire):
            wanted[codec.short_text(name)] = Wanted(codec.boolean(voter), codec.url_or_none(address))
        roster = cls(wanted)
        if roster.rows() != wire:
            raise DecodeError("a roster that is not in the order of its names")
        return roster
