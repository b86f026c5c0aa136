"""What a member says of itself to whoever looks at it: gathered from its parts, on any thread, without waiting."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from replkv.errors import Removed
from replkv.messages import Configuration
from replkv.metrics import sizes
from replkv.status import Member, Status

if TYPE_CHECKING:
    from collections.abc import Mapping

    from replkv.address_book import AddressBook
    from replkv.errors import ReplkvError
    from replkv.guests import Guests
    from replkv.links import Links
    from replkv.log import Log
    from replkv.machine import Machine
    from replkv.metrics import Meter
    from replkv.proposals import Proposals
    from replkv.raft import Raft
    from replkv.snapshotting import Snapshots
    from replkv.space import Space


class Published(NamedTuple):
    """What readers on other threads may rely on; replaced as a whole, and before any message tells others of it."""

    machine: Machine
    revision: int
    term: int
    commit: int
    applied: int
    lease_until: float


class Described:
    """The side of a node that is only looked at; ``Node`` has what is named here."""

    __slots__ = ()

    if TYPE_CHECKING:
        name: str
        addresses: Mapping[str, str]
        book: AddressBook
        failure: ReplkvError | None
        guests: Guests
        links: Links
        log: Log
        machine: Machine
        meter: Meter
        proposals: Proposals
        published: Published
        raft: Raft | None
        snapshots: Snapshots
        space: Space
        stopped: bool

    def status(self) -> Status:
        """Return this member's view of itself, without waiting."""
        raft, published = self.raft, self.published
        state = raft.role.name.lower() if raft is not None else "founding"
        if self.stopped:
            state = "removed" if isinstance(self.failure, Removed) else "failed" if self.failure is not None else "closed"
        return Status(
            self.name,
            state,
            raft.leader if raft is not None and not self.stopped else None,
            published.term,
            published.revision,
            published.commit,
            published.applied,
            raft.last_index if raft is not None else 0,
            raft.configuration.voters if raft is not None else tuple(sorted(self.addresses)),
            self.links.unreachable(),
            str(self.failure or ""),
            self.space.full,
            raft.healing if raft is not None else "",
            transfers=self.snapshots.transfers,
            level=published.machine.level,
            last_term=self.log.last_term,
        )

    def metrics(self) -> dict[str, int | float]:
        """Return what was counted, and how large all is, without waiting."""
        own, guests = self.proposals.admission, self.guests.admission
        return {**self.meter.read(), **sizes(self.raft, self.machine, self.snapshots, self.links, own, guests)}

    def members(self) -> list[Member]:
        """Return the members of the configuration, as this one sees them."""
        raft, where = self.raft, self.book.addresses()
        configuration = raft.configuration if raft is not None else Configuration(tuple(sorted(self.addresses)))
        names, learners = configuration.names, configuration.learners
        gone = self.links.unreachable()
        return [Member(name, where.get(name, ""), name in learners, not self.stopped and name not in gone) for name in names]
