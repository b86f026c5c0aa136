"""Commands on their way out of this member: into blocks of its own log while it leads, else to the leader.

They come from three sides: this member's callers (``proposals.py``), the clients it serves (``guests.py``), and, while it leads, the
followers.  None is taken for lost or done here: who handed a batch on sends it again until it is answered.
"""

from __future__ import annotations

import logging
from collections import deque
from typing import TYPE_CHECKING

from attrs import define, field

from replkv import codec, wire
from replkv.messages import EntryKind, Forward
from replkv.raft import Role

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from replkv.guests import Guests
    from replkv.links import Links
    from replkv.machine import Outcome
    from replkv.proposals import Proposals
    from replkv.raft import Raft
    from replkv.space import Space

logger = logging.getLogger(__name__)


@define(eq=False, repr=False)
class Outgoing:
    """What this member hands to whoever leads; the node's thread alone."""

    _name: str
    _clock: Callable[[], float]
    _links: Links
    _proposals: Proposals
    _guests: Guests
    _space: Space
    forwarded_in: int = field(default=0, init=False)
    """The newest block that holds a follower's batch."""
    stamped: int = field(default=0, init=False)
    """Cluster time of the newest entry this leader proposed."""
    _block: deque[tuple[bytes, bool]] = field(factory=deque, init=False)  # batches for the next blocks of this leader; True: forwarded
    _taken: set[tuple[int, int, str | None]] = field(factory=set, init=False)  # followers' batches on their way: session, sequence, whose
    _taken_in: int = field(default=0, init=False)  # the term for which that is so

    def has_more(self, raft: Raft) -> bool:
        """Tell whether what waits could be handed over at once, now that a batch before it was answered."""
        if raft.leader is None or not (self._block or self._proposals.can_send or self._guests.can_send):
            return False
        return raft.can_propose if raft.role is Role.LEADER else self._links.incarnation_of(raft.leader) is not None

    def take_in(self, raft: Raft, peer: str, message: Forward) -> None:
        """Take what a follower forwards, if this member leads; else the sender sends it again when it hears of a leader."""
        if raft.role is not Role.LEADER:
            return
        if self._taken_in != raft.term:
            self._taken_in = raft.term
            self._taken.clear()
        for batch in message.batches:
            try:
                session, sequence, _, _, guest = codec.unpack_batch(batch, wire.check_operation)
            except codec.DecodeError as error:
                logger.warning("%s dropped a batch that %s forwarded: %s", self._name, peer, error)
                continue
            key = session, sequence, guest and guest[0]
            if key not in self._taken:  # or it is here already, and its sender has lost patience
                self._taken.add(key)
                self._block.append((batch, True))

    def send(self, raft: Raft, now: float) -> None:
        """Hand what waits to whoever leads, as far as it takes more."""
        if raft.role is Role.LEADER:
            self._propose(raft, now)
        else:
            self._block.clear()  # its senders send again to the next leader
            self._forward(raft, now)

    def _propose(self, raft: Raft, now: float) -> None:
        if not self._space.may_propose(raft):
            return
        here = raft.term, self._name
        self._block += [(batch, False) for batch in self._proposals.batches_to_send(here, now, lossless=True)]
        self._block += [(batch, False) for batch in self._guests.batches_to_send(here, now, lossless=True)]
        if not self._block:
            return
        batches: list[bytes] = []
        size, forwarded = 0, False
        while self._block and (not batches or size + len(self._block[0][0]) <= self._proposals.block_bytes):
            batch, others = self._block.popleft()
            batches.append(self._space.allowed(batch))
            size += len(batch)
            forwarded |= others
        index = self.propose_block(raft, batches)
        if index is None:
            self.repeat_all()
            self._taken.clear()
        elif forwarded:
            self.forwarded_in = index

    def propose_block(self, raft: Raft, batches: list[bytes]) -> int | None:
        """Propose an entry with these batches, perhaps none; return its index, None if there is no room for it."""
        payload = codec.encode_block(batches)
        if not self._space.admit(raft, len(payload)):
            return None
        # Its stamp must not be older than the commands in it: who holds a lease counts from the moment before it asked.
        index = raft.propose(EntryKind.BLOCK, payload, self._clock())
        self.stamped = raft.time
        return index

    def _forward(self, raft: Raft, now: float) -> None:
        if raft.leader is None or self._links.incarnation_of(raft.leader) is None:
            return
        there = raft.term, raft.leader
        batches = self._proposals.batches_to_send(there, now) + self._guests.batches_to_send(there, now)
        if batches and not all(self._links.send(raft.leader, message) for message in _forwards(batches, self._proposals.block_bytes)):
            self.repeat_all()

    def repeat_all(self) -> None:
        """Send every batch again at the next chance: the leader it went to did not take it."""
        self._proposals.repeat_all()
        self._guests.repeat_all()

    def applied(self, outcomes: Iterable[Outcome]) -> None:
        """Forget those followers' batches that were just applied: a repeat of them is one."""
        if self._taken:
            self._taken.difference_update((outcome.session, outcome.sequence, outcome.owner) for outcome in outcomes)


def _forwards(batches: Iterable[bytes], most: int) -> Iterator[Forward]:
    """Yield batches in messages of at most so many bytes, unless a single batch has more: all may not fit into one frame."""
    together: list[bytes] = []
    size = 0
    for batch in batches:
        if together and (size + len(batch) > most or len(together) == codec.FORWARD_MAX):
            yield Forward(tuple(together))
            together, size = [], 0
        together.append(batch)
        size += len(batch)
    if together:
        yield Forward(tuple(together))
