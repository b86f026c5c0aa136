"""What a member says about itself: values to look at, never to decide by."""

from __future__ import annotations

from attrs import frozen


@frozen
class Status:
    """One member's view of itself and its cluster, taken without waiting for anything.

    Args:
        name: of this member.
        state: "founding", "follower", "pre_candidate", "candidate", "leader", "failed" or "closed".
        raft_leader: the member this one takes for the leader; None: it knows of none.
        raft_term: Raft's term.
        revision: of the store, as local reads see it.
        commit_index: how far the log is decided.
        applied_index: how far the log is in the store.
        last_index: how far the log goes here.
        voters: who decides, sorted.
        unreachable: peers this member can't send to now.
        failure: why the member stopped; empty while it runs.
        full: members whose disks are full, as far as this one knows.
        healing: what the disk has lost, and what has to happen before this member takes its full part again; empty: nothing.
    """

    name: str
    state: str
    raft_leader: str | None
    raft_term: int
    revision: int
    commit_index: int
    applied_index: int
    last_index: int
    voters: tuple[str, ...]
    unreachable: tuple[str, ...]
    failure: str = ""
    full: tuple[str, ...] = ()
    healing: str = ""


@frozen
class Member:
    """A member of the cluster as this one sees it; ``healthy``: it can be reached from here."""

    name: str
    address: str
    learner: bool
    healthy: bool
