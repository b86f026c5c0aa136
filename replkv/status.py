"""What a member says about itself: values to look at, never to decide by."""

from __future__ import annotations

from typing import Any, Literal

from attrs import astuple, fields, frozen


@frozen
class Transfer:
    """A snapshot of the state on its way.

    Args:
        doing: "taking" it, to the disk; "sending" it to a follower that is too far behind; "receiving" it; "loading" what was received.
        peer: the other member; empty where one is taken.
        done: bytes; where one is loaded all of them.
        total: bytes in all; where one is taken about so many.
    """

    doing: Literal["taking", "sending", "receiving", "loading"]
    peer: str
    done: int
    total: int

    @property
    def share(self) -> float:
        """How much of it is done, from 0 to 1."""
        return min(1.0, self.done / self.total) if self.total else 1.0


@frozen
class Status:
    """One member's view of itself and its cluster, taken without waiting for anything.

    Args:
        name: of this member.
        state: "founding", "follower", "pre_candidate", "candidate", "leader", "failed", "removed" or "closed".
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
        transfers: snapshots that it takes, sends, receives or loads.
        level: the cluster's feature level, as far as this member has applied the log; 0 while it has nothing of it.
        last_term: of the newest entry of the log here.  Of two logs the one with the greater of this has more of what was decided, whatever
            their lengths; where it is the same, the longer one.
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
    transfers: tuple[Transfer, ...] = ()
    level: int = 0
    last_term: int = 0

    def to_wire(self) -> tuple[Any, ...]:
        """Return plain values that survive msgpack."""
        return astuple(self)

    @classmethod
    def from_wire(cls, wire: tuple[Any, ...]) -> Status:
        """Build it from what ``to_wire`` returned, perhaps that of a version which says less, or more."""
        said = dict(zip((field.name for field in fields(cls)), wire, strict=False))
        return cls(**{**said, "transfers": tuple(Transfer(*one[:4]) for one in said.get("transfers", ()))})


@frozen
class Member:
    """A member of the cluster as this one sees it; ``healthy``: it can be reached from here."""

    name: str
    address: str
    learner: bool
    healthy: bool
