"""A member whose disk is full, and what its cluster does about it.

The log has its next segment ready before it needs it, so a full disk is noticed while there is still room for a while.  From then on the
member says so to its peers, again and again.  A leader among the full ones hands over to a member that has room; where a majority is
full, every member refuses what makes the store grow, so that what is left serves reads, deletes, compaction, leases and votes.  When even
that is used up, the log takes no more entries, and the member lags behind until there is room again.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from attrs import define, field

from replkv import codec, quorum, wire
from replkv.errors import DiskFull
from replkv.log import SMALL
from replkv.messages import Scarcity
from replkv.raft import Role

if TYPE_CHECKING:
    from replkv.links import Links
    from replkv.log import Log
    from replkv.proposals import Proposals
    from replkv.raft import Raft

logger = logging.getLogger(__name__)

LOOK_EVERY = 1.0
"""Seconds after which a full disk is tried again, and peers are told again."""
FORGOTTEN_AFTER = 3.5
"""Seconds without a word after which a peer's disk is no longer taken to be full."""


@define(eq=False, repr=False)
class Space:
    """Whose disks are full, as one member knows it.

    Args:
        name: of the member.
        log: which needs the room.
        links: to the peers.
        proposals: what waits to be sent.
    """

    _name: str
    _log: Log
    _links: Links
    _proposals: Proposals
    scarce: bool = field(default=False, init=False)
    """Whether a majority has no room, so that nothing may grow; read by all threads."""
    look_at: float = field(default=0.0, init=False)
    _arriving: int = field(default=0, init=False)  # bytes of entries that were let in and are not yet written
    _short: bool = field(default=False, init=False)
    _full_until: dict[str, float] = field(factory=dict, init=False)

    # -- entries on their way to the log ----------------------------------------------------------------------------------------------

    def admit(self, raft: Raft, size: int) -> bool:
        """Tell Raft, and the caller, whether the log has room for ``size`` more bytes of entries."""
        if not raft.full:
            self._arriving += size
            raft.full = not self._log.make_room(self._arriving)
        return not raft.full

    def written(self) -> None:
        """Note that all entries that were let in are in the log, or were not needed."""
        self._arriving = 0

    # -- what members tell each other -------------------------------------------------------------------------------------------------

    @property
    def full(self) -> tuple[str, ...]:
        """The members whose disks are full, sorted."""
        return tuple(sorted({*self._full_until} | ({self._name} if self._short else set())))

    def heard(self, peer: str, message: Scarcity, now: float) -> None:
        """Take note of what a peer says of its disk."""
        if message.full:
            self._full_until[peer] = now + FORGOTTEN_AFTER
        else:
            self._full_until.pop(peer, None)

    def refusal(self, command: bytes) -> DiskFull | None:
        """Return why a command can't be taken now, None if it can; any thread."""
        if not self.scarce or not wire.grows(codec.unpack(command, codec.COMMAND_MAX)):
            return None
        return DiskFull(
            f"member {self._name} takes nothing more while the disks of {', '.join(self.full) or 'a majority'} are full: make room there; "
            "reads, deletes and compaction go on"
        )

    # -- from time to time ------------------------------------------------------------------------------------------------------------

    def look_around(self, raft: Raft, now: float) -> None:
        """Look at the own disk and what is known of the others; what waits to be sent and may no longer grow is refused."""
        for peer in [peer for peer, until in self._full_until.items() if now >= until]:
            del self._full_until[peer]
        if self._log.short != self._short:
            self._changed(raft, now)
        if now >= self.look_at:
            self.look_at = now + LOOK_EVERY
            if raft.full:
                raft.full = not self._log.make_room(SMALL)
            if self._short:
                self._tell(raft)
                self._hand_over(raft, now)
        before, self.scarce = self.scarce, self._is_scarce(raft)
        if self.scarce and not before:
            self._proposals.refuse_queued(self.refusal)

    def _changed(self, raft: Raft, now: float) -> None:
        self._short = self._log.short
        if self._short:
            logger.warning(
                "%s: its disk is full; make room: it goes on with what is left of its log, and leads only if it must", self._name
            )
        else:
            logger.info("%s: its disk has room again", self._name)
            self._tell(raft)
        self.look_at = now

    def _tell(self, raft: Raft) -> None:
        for peer in raft.configuration.names:
            if peer != self._name:
                self._links.send(peer, Scarcity(self._short))

    def _hand_over(self, raft: Raft, now: float) -> None:
        """Let somebody lead who has room and the log, if anybody answers: while an heir is waited for nothing can be written."""
        if raft.role is not Role.LEADER:
            return
        heirs = {
            name: peer.match
            for name, peer in raft.peers.items()
            if raft.configuration.is_voter(name) and name not in self._full_until and self._links.incarnation_of(name)
        }
        if heirs:
            raft.transfer(max(heirs, key=heirs.__getitem__), now)

    def _is_scarce(self, raft: Raft) -> bool:
        full = self.full
        return bool(full) and not quorum.won(raft.configuration, {*raft.configuration.names} - {*full})
