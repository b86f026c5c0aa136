"""A member whose disk is full, and what its cluster does about it.

The log has its next segment ready before it needs it, so a full disk is noticed while there is still room for a while.  From then on the
member says so to its peers, again and again.  A leader among the full ones hands over to a member that has room.  Where those that have
room and can be reached are no majority, every member refuses what makes the store grow, so that what is left serves reads, deletes,
compaction, leases and votes.  When even that is used up, the log takes no more entries, and the member lags behind until there is room
again.  What is kept for votes may be used up as well; then the member takes part in no election: it does not stand, and hears neither of
candidates nor of newer terms.  It goes on with what it has, and stops for no lack of room.

Members may differ in whom they reach, and a batch may be on its way when the disks fill up.  So the leader has the last word: a batch that
asks for what it can't have is emptied before it goes into a block.  Its number is used up then, so that it can never be applied by
anybody, and its member, to whom it comes back empty, queues its commands again and refuses those that have to be.
"""

from __future__ import annotations

import logging
from itertools import accumulate
from typing import TYPE_CHECKING

from attrs import define, evolve, field

from replkv import codec, quorum, wire
from replkv.errors import DiskFull
from replkv.log import SMALL
from replkv.messages import Append, Scarcity, Vote
from replkv.progress import Pace
from replkv.raft import Role

if TYPE_CHECKING:
    from collections.abc import Sequence

    from replkv.links import Links
    from replkv.log import Log
    from replkv.messages import Entry, RaftMessage
    from replkv.progress import Progress
    from replkv.proposals import Proposals
    from replkv.raft import Raft

logger = logging.getLogger(__name__)

LOOK_EVERY = 1.0
"""Seconds after which a full disk is tried again, and peers are told again."""
RATION = SMALL - 256
"""Bytes of commands in one block where room may be left for small entries only."""
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
    """Whether no majority has room, so that nothing may grow; read by all threads."""
    look_at: float = field(default=0.0, init=False)
    _used_up: bool = field(default=False, init=False)  # this member leads, and its log takes nothing any more
    _strict_until: float = field(default=float("-inf"), init=False)  # a leader refused what this member had let pass
    _strict: bool = field(default=False, init=False)
    _offer_at: float = field(default=float("-inf"), init=False)
    _block_bytes: int = field(init=False)
    _arriving: int = field(default=0, init=False)  # bytes of entries that were let in and are not yet written
    _short: bool = field(default=False, init=False)
    _full_until: dict[str, float] = field(factory=dict, init=False)

    def __attrs_post_init__(self) -> None:
        self._block_bytes = self._proposals.block_bytes

    # -- entries on their way to the log ----------------------------------------------------------------------------------------------

    def admit(self, raft: Raft, size: int) -> bool:
        """Tell Raft, and the caller, whether the log has room for ``size`` more bytes of entries."""
        raft.full = raft.full or not self._claim(size)
        return not raft.full

    def may_propose(self, raft: Raft) -> bool:
        """Tell whether a block may be made: where the log has no room even for a small one, commands stay where they can be refused."""
        if self._short and raft.can_propose and not self._log.make_room(self._arriving + SMALL):
            raft.full, self.look_at = True, float("-inf")
        return raft.can_propose

    def let_in(self, raft: Raft, message: RaftMessage) -> RaftMessage | None:
        """Return what Raft may see of a message: no more entries than the log has room for, and nothing that asks for an impossible vote.

        Small entries, for which room is kept, are taken although they come together with others.
        """
        if raft.mute and (isinstance(message, Vote) or getattr(message, "term", 0) > raft.term):
            return None  # it could not write down the vote, or the new term; a message may be lost at any time
        if not isinstance(message, Append) or raft.full or not message.entries or self._claim(_size(message.entries)):
            return message
        few = sum(size <= SMALL for size in accumulate(len(entry.encoded) for entry in message.entries))
        if few and self._claim(_size(message.entries[:few])):
            return evolve(message, entries=message.entries[:few])
        raft.full = True
        return message

    def _claim(self, size: int) -> bool:
        if not self._log.make_room(self._arriving + size):
            return False
        self._arriving += size
        return True

    def allowed(self, batch: bytes) -> bytes:
        """Return a batch as the leader may propose it: emptied, if it asks for what can't be had."""
        if not self.scarce:
            return batch
        session, sequence, lowest, commands, guest = codec.unpack_batch(batch, lambda _: None)
        fits = len(batch) <= RATION or self._log.make_room(len(batch) + SMALL)  # one that never fits would stop all that wait behind it
        return batch if fits and not any(map(wire.grows, commands)) else codec.pack_batch(session, sequence, lowest, (), guest)

    def written(self, raft: Raft) -> None:
        """Note that all entries that were let in are in the log, or were not needed, and tell Raft whether there is room for a vote."""
        self._arriving = 0
        raft.mute = self._log.spent

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
        if not self.scarce:
            return None
        if self._used_up:
            goes_on = "only reads go on, for what was kept for deletes and compaction is used up"
        elif wire.grows(codec.unpack(command, codec.COMMAND_MAX)):
            goes_on = "reads, deletes and compaction go on"
        elif self._strict and len(command) > RATION:
            goes_on = f"reads, compaction and deletes of up to {RATION} bytes go on"
        else:
            return None
        gone = self._links.unreachable()
        missing = f" and {', '.join(gone)} can't be reached" if gone else ""
        here = f"; {shortage}" if (shortage := self._log.shortage) is not None else ""
        disks = f"the disks of {', '.join(self.full) or 'a majority'} are full{missing}"
        return DiskFull(f"member {self._name} takes nothing more while {disks}: make room there; {goes_on}{here}")

    # -- from time to time ------------------------------------------------------------------------------------------------------------

    def look_around(self, raft: Raft, now: float) -> None:
        """Look at the own disk and what is known of the others; what waits to be sent and may no longer grow is refused."""
        for peer in [peer for peer, until in self._full_until.items() if now >= until]:
            del self._full_until[peer]
        used_up = self._used_up
        if self._log.short != self._short:
            self._changed(raft, now)
        if now >= self.look_at:
            self.look_at = now + LOOK_EVERY
            if raft.full:
                raft.full = not self._log.make_room(SMALL)
            used_up = raft.full
            if self._short:
                self._tell(raft)
                self._hand_over(raft, now)
        if self._proposals.refused:
            self._strict_until = now + FORGOTTEN_AFTER
        self._ration(raft, now, used_up=used_up and raft.role is Role.LEADER)

    def _ration(self, raft: Raft, now: float, *, used_up: bool) -> None:
        """Find out what may be taken now, and refuse what waits and may not."""
        before = False, self.scarce, self._used_up
        self._used_up = used_up
        self._strict = now < self._strict_until
        self.scarce = self._strict or self._is_scarce(raft)
        self._proposals.block_bytes = min(RATION, self._block_bytes) if self.scarce else self._block_bytes
        if (self._proposals.refused, self.scarce, self._used_up) != before:
            self._proposals.refused = False
            self._proposals.refuse_queued(self.refusal)

    def _changed(self, raft: Raft, now: float) -> None:
        self._short = self._log.short
        if self._short:
            logger.warning("%s: %s; it goes on with what is left of its log, and leads only if it must", self._name, self._log.shortage)
        else:
            logger.info("%s: its log has room again", self._name)
            self._tell(raft)
        self.look_at = now

    def _tell(self, raft: Raft) -> None:
        for peer in raft.configuration.names:
            if peer != self._name:
                self._links.send(peer, Scarcity(self._short))

    def _hand_over(self, raft: Raft, now: float) -> None:
        """Let somebody lead who has room and the log, if anybody answers: while an heir is waited for nothing can be written."""
        if raft.role is not Role.LEADER or now < self._offer_at:
            return
        heirs = {name: peer.match for name, peer in raft.peers.items() if self._may_inherit(raft, name, peer, now)}
        if heirs:
            # An offer stands for an election timeout; behind one that failed, proposals must have their turn.
            self._offer_at = now + 2 * raft.timing.election_timeout
            raft.transfer(max(heirs, key=heirs.__getitem__), now)

    def _may_inherit(self, raft: Raft, name: str, peer: Progress, now: float) -> bool:
        """Tell whether a follower has room and could take over at once."""
        has_room = raft.configuration.is_voter(name) and name not in self._full_until and self._is_reachable(name)
        answers = peer.heard_at > now - raft.timing.election_timeout
        return has_room and answers and peer.pace is Pace.REPLICATE and peer.match >= raft.commit

    def _is_scarce(self, raft: Raft) -> bool:
        full, names = self.full, raft.configuration.names
        return bool(full) and not quorum.won(raft.configuration, {name for name in names if name not in full and self._is_reachable(name)})

    def _is_reachable(self, name: str) -> bool:
        return name == self._name or self._links.incarnation_of(name) is not None


def _size(entries: Sequence[Entry]) -> int:
    return sum(len(entry.encoded) for entry in entries)
