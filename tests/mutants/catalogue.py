"""The seeded bugs, in order: 1 to 84 were met in other systems; the further ones were made up, or are other sides of the same."""

from __future__ import annotations

import auth_rules
import elections
import leases
import membership
import operations
import raft_seeds
import reads_sessions
import replication
import snapshots
import storage
import watches
from mutant import MUTANTS, Mutant

ROWS = range(1, 85)
AREAS = raft_seeds, elections, replication, membership, snapshots, storage, reads_sessions, watches, leases, operations, auth_rules

CATALOGUE: dict[int, Mutant] = {mutant.number: mutant for mutant in sorted(MUTANTS, key=lambda mutant: mutant.number)}

UNLIKE: dict[int, tuple[str, str, str]] = {
    18: (
        "A leader that can't read its log sends entries without what lies before them",
        "openraft#1795",
        "a leader feeds followers from memory; the one file it reads for them, a snapshot, is checked as a whole before it is sent",
    ),
    23: (
        "Syncs that end out of order leave the log behind for good",
        "openraft#1960",
        "a member has one sync of its log under way, on the thread that decides",
    ),
    38: (
        "A snapshot that took long to write replaces a newer one that came in meanwhile",
        "etcd#18055",
        "who took a snapshot looks whether a newer one came in meanwhile, and the log takes none that is older than the one it has",
    ),
    42: (
        "A refusal that is on its way begins a snapshot anew, again and again",
        "ClickHouse#107338",
        "a stream that is begun anew goes on where the follower says; to begin it once more costs a piece, not the whole",
    ),
    82: (
        "A restored cluster keeps its old members",
        "etcd#20967, etcd#20339",
        "the simulator restores nothing; `tests/unit/test_restore.py` shows that one member founds it anew",
    ),
}
"""Bugs of others that this product can't have, or not yet: what they are, where they were met, why not."""


def whose_turn(day: int, of: list[Mutant]) -> list[Mutant]:
    """Return those whose turn it is on a day: all have had theirs after a few days."""
    turns = -(-len(of) // 4)
    return of[day % turns :: turns]
