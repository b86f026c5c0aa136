"""What goes into the Raft core when it starts, and what comes out of it: the values around ``raft.py``."""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING

from attrs import Factory, define, frozen

from replkv.messages import NOWHERE, Entry, HardState, Position, RaftMessage, SnapshotMeta

if TYPE_CHECKING:
    from replkv.config import Settings


@frozen
class Timing:
    """The spans Raft waits for, in seconds."""

    election_timeout: float
    heartbeat: float
    promise: float

    @classmethod
    def of(cls, settings: Settings) -> Timing:
        """Take the spans from the cluster's settings."""
        return cls(settings.election_timeout, settings.heartbeat, settings.promise)


@frozen
class Restored:
    """What the disk gave back.

    ``time``: the cluster time of the state machine loaded from the snapshot, in microseconds; ``floor``: where the log ended before the
    disk lost a part of it; ``mute``: the disk has no room even for a vote.
    """

    hard_state: HardState = Factory(HardState)
    snapshot: SnapshotMeta | None = None
    entries: tuple[Entry, ...] = ()
    commit: int = 0
    time: int = 0
    floor: Position = NOWHERE
    mute: bool = False


@define
class Ready:
    """Effects, to be carried out completely and in this order before the next ones are taken; only notices may wait.

    Args:
        messages: send at once: a leader's Appends leave before its own disk is done, and nothing here promises anything.
        notices: tell followers what is committed; they are not answered, and a later Append to the same peer makes them superfluous.
        hard_state: persist before ``after_sync``, together with ``entries``; None if unchanged.
        floor: persist with it; None if unchanged.
        entries: persist; the first replaces everything stored from its index on.
        after_sync: send once the above is durable: acknowledgements, granted votes, an own candidacy.
        committed: apply in order; every index comes exactly once.
        reads: (id, index): serve the read once everything up to the index is applied.
        lost_reads: reads that can't be confirmed here any more; ask again under a new id.
        snapshots: peers that need entries no longer in the log: send them a snapshot.
    """

    messages: list[tuple[str, RaftMessage]] = Factory(list)
    notices: list[tuple[str, RaftMessage]] = Factory(list)
    hard_state: HardState | None = None
    floor: Position | None = None
    entries: list[Entry] = Factory(list)
    after_sync: list[tuple[str, RaftMessage]] = Factory(list)
    committed: list[Entry] = Factory(list)
    reads: list[tuple[int, int]] = Factory(list)
    lost_reads: list[int] = Factory(list)
    snapshots: list[str] = Factory(list)

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to do."""
        return not (
            self.messages
            or self.notices
            or self.after_sync
            or self.entries
            or self.committed
            or self.reads
            or self.lost_reads
            or self.snapshots
            or self.hard_state
            or self.floor
        )


class Role(Enum):
    """What a member is doing about leadership."""

    FOLLOWER = "follower"
    PRE_CANDIDATE = "pre-candidate"
    CANDIDATE = "candidate"
    LEADER = "leader"
