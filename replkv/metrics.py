"""What a member counts while it runs, and how it notices that it stood still; for those who operate it.

A member stands still when its process is stopped or swapped out, or when something in it holds the interpreter's lock.  It can't know
that while it lasts, only afterwards: a turn of its loop begins much later than it was due.  What it does then is up to others; here it is
measured, counted and said.  A wait for the disk holds a member up in the same way, and from within it can't be told from a stall that
begins in a sync; so it counts as one, and the syncs are counted beside it.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from attrs import define, field

from replkv.raft import Role

if TYPE_CHECKING:
    from replkv.admission import Admission
    from replkv.links import Links
    from replkv.machine import Machine
    from replkv.raft import Raft
    from replkv.snapshotting import Snapshots

logger = logging.getLogger(__name__)

WARN_EVERY = 10.0
"""Seconds between two warnings."""
LATE = 1 / 3
"""The part of the election timeout by which a turn must be late to count as a stall: long before anybody is taken for dead."""
STOOD_STILL = (
    "it was stopped, swapped out or without a CPU, or a C extension in it held the interpreter's lock; move such work to another process, "
    "or give this one memory and CPU"
)
SLOW_DISK = "its disk is slow or busy, unless the process itself stood still; give the data directory a better disk, or one of its own"


@define(eq=False, repr=False)
class Meter:
    """Counts what one member does; one thread counts, any may look.

    Args:
        name: of the member.
        stall: seconds by which a turn must be late to count as a stall.
    """

    name: str
    stall: float
    turns: int = field(default=0, init=False)
    stalls: int = field(default=0, init=False)
    stall_seconds: float = field(default=0.0, init=False)
    longest_stall_seconds: float = field(default=0.0, init=False)
    syncs: int = field(default=0, init=False)
    sync_seconds: float = field(default=0.0, init=False)
    longest_sync_seconds: float = field(default=0.0, init=False)
    elections_started: int = field(default=0, init=False)
    leader_changes: int = field(default=0, init=False)
    snapshots_installed: int = field(default=0, init=False)
    _turned_at: float = field(default=float("inf"), init=False)
    _synced: float = field(default=0.0, init=False)  # seconds of the last turn in which it waited for the disk
    _leader: tuple[str, int] | None = field(default=None, init=False)
    _silent_until: float = field(default=float("-inf"), init=False)
    _untold: int = field(default=0, init=False)

    def turn(self, now: float, due: float) -> float:
        """Note that a turn begins.

        Args:
            now: seconds.
            due: when it had to begin at the latest, by what was known when the last one ended.

        Returns:
            By how many seconds the member has looked at nothing for longer than it meant to; 0 where that is too little to matter.
        """
        late, synced = now - max(due, self._turned_at), self._synced
        self.turns += 1
        self._turned_at, self._synced = now, 0.0
        if late < self.stall:
            return 0.0
        self.stalls += 1
        self.stall_seconds += late
        self.longest_stall_seconds = max(self.longest_stall_seconds, late)
        self._warn(now, late, synced)
        return late

    def synced(self, seconds: float) -> None:
        """Note that the log was synced."""
        self.syncs += 1
        self.sync_seconds += seconds
        self._synced += seconds
        if seconds > self.longest_sync_seconds:
            self.longest_sync_seconds = seconds

    def _warn(self, now: float, late: float, synced: float) -> None:
        if now < self._silent_until:
            self._untold += 1
            return
        others = f" ({self._untold} more since the last time this was said)" if self._untold else ""
        self._silent_until, self._untold = now + WARN_EVERY, 0
        if 2 * synced > late:
            logger.warning("%s: a sync of its log held it up for %.1f s%s: %s", self.name, synced, others, SLOW_DISK)
        else:
            logger.warning("%s: the process stood still for %.1f s%s: %s", self.name, late, others, STOOD_STILL)

    def led_by(self, leader: str | None, term: int) -> None:
        """Note who leads now; not to know it for a while is no change."""
        if leader is not None and (leader, term) != self._leader:
            self.leader_changes += self._leader is not None
            self._leader = leader, term

    def read(self) -> dict[str, int | float]:
        """Return what was counted, by name."""
        return {name: getattr(self, name) for name in COUNTED}


COUNTED = (
    *("turns", "stalls", "stall_seconds", "longest_stall_seconds", "syncs", "sync_seconds", "longest_sync_seconds"),
    *("elections_started", "leader_changes", "snapshots_installed"),
)
"""The names of what a ``Meter`` counts."""


def sizes(
    raft: Raft | None, machine: Machine, snapshots: Snapshots, links: Links, own: Admission, guests: Admission
) -> dict[str, int | float]:
    """Return how far a member is, and how much of everything it has, by name.

    Args:
        raft: None until there is a cluster.
        machine: the state.
        snapshots: of the state.
        links: to the peers.
        own: what its own callers have under way.
        guests: what its clients have.
    """
    store = machine.store
    return {
        "leader": int(raft is not None and raft.role is Role.LEADER),
        "raft_term": raft.term if raft is not None else 0,
        "commit_index": raft.commit if raft is not None else 0,
        "applied_index": machine.applied,
        "revision": store.revision,
        "keys": len(store.newest),
        "store_bytes": store.size,
        "live_bytes": store.live,
        "leases": len(machine.leases),
        "sessions": len(machine.sessions),
        "log_bytes": snapshots.log_bytes,
        "snapshots_taken": snapshots.taken,
        "unreachable_peers": len(links.unreachable()),
        "frames_dropped": links.frames_dropped,
        "commands_in_flight": own.commands,
        "bytes_in_flight": own.bytes,
        "client_commands_in_flight": guests.commands,
        "client_bytes_in_flight": guests.bytes,
    }
