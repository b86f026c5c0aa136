"""What a member can keep by itself: rules about one step, looked at from outside.

The names are those of ``testing/invariants.py``: E (elections), P (what is persistent), L (logs), C (what is
committed), G (configurations), D (what a disk loses).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from replkv.errors import InvariantBroken
from replkv.messages import NOWHERE, UNKNOWN, Append, AppendReply, Census, CensusReply, HardState, Vote, VoteReply
from replkv.raft import Role
from replkv.raftlog import configuration_in
from replkv.testing.history import Violation
from replkv.testing.raft_check import check_raft

if TYPE_CHECKING:
    from collections.abc import Callable

    from replkv.testing.search.member import Member, Turn


def check_disk(name: str, before: HardState, after: HardState) -> None:
    """Check that the disk never forgets a term or a vote."""
    if after.term < before.term:
        raise Violation("E3", f"{name} goes back from term {before.term} to {after.term} on its disk")
    if after.term == before.term and before.vote not in (None, after.vote):
        raise Violation("P1", f"{name} has voted for {before.vote} in term {after.term}, and now for {after.vote}")


def check_message(turn: Turn, to: str, message: Any) -> None:
    """Check that what binds a member is on its disk before anybody hears of it."""
    if turn.disk.floor > NOWHERE:
        _check_caution(turn, message)
    check = _CHECKS.get(type(message))
    if check is not None:
        check(turn, to, message)


def _check_caution(turn: Turn, message: Any) -> None:
    if turn.disk.floor == UNKNOWN and not isinstance(message, (Census, CensusReply)):
        raise Violation("D5", f"{turn.name} says {message} without knowing what it has promised")
    if isinstance(message, Vote):
        raise Violation("D5", f"{turn.name} stands for election without what it has acknowledged up to {turn.disk.floor}")


def _check_append(turn: Turn, _to: str, append: Append) -> None:
    if not append.is_well_formed:
        raise Violation("L6", f"{turn.name} sends entries that do not follow each other: {append}")
    if turn.disk.hard_state.term < append.term:
        raise Violation("P1", f"{turn.name} speaks as leader of term {append.term} with {turn.disk.hard_state} on its disk")


def _check_vote(turn: Turn, _to: str, vote: Vote) -> None:
    durable = turn.disk.hard_state
    if not vote.pre and durable.term <= vote.term and durable != HardState(vote.term, turn.name):
        raise Violation("P1", f"{turn.name} asks for votes in term {vote.term} with {durable} on its disk")


def _check_vote_reply(turn: Turn, to: str, reply: VoteReply) -> None:
    durable = turn.disk.hard_state
    if reply.granted and not reply.pre and durable.term <= reply.term and durable != HardState(reply.term, to):
        raise Violation("P1", f"{turn.name} grants {to} its vote in term {reply.term} with {durable} on its disk")


def _check_append_reply(turn: Turn, to: str, reply: AppendReply) -> None:
    last = min(turn.disk.log.last_index, turn.raft.durable_index)
    if not reply.rejected and reply.match > last:
        raise Violation("C4", f"{turn.name} acknowledges entry {reply.match} to {to} with {last} on its disk")


_CHECKS: dict[type, Callable[[Turn, str, Any], None]] = {
    Append: _check_append,
    Vote: _check_vote,
    VoteReply: _check_vote_reply,
    AppendReply: _check_append_reply,
}


def check_step(before: Member, after: Member, *, restarted: bool) -> None:
    """Check what may not go back from one step to the next.

    Args:
        before: the member before it.
        after: and after it.
        restarted: it lost everything that is not on the disk.

    Raises:
        Violation: it did go back.
    """
    try:
        check_raft(after.raft)
    except InvariantBroken as broken:
        raise Violation("P2", str(broken)) from broken
    if not restarted:
        _check_progress(before, after)
        _check_log(before, after)
    durable, on_disk = after.raft.durable_index, max(after.disk.log.last_index, after.log.base.index)
    if durable > on_disk:
        raise Violation("C4", f"{after.name} takes entry {durable} for durable, {on_disk} is the last one")
    _check_configuration(after)


def _check_progress(before: Member, after: Member) -> None:
    old, new = before.raft, after.raft
    if new.term < old.term:
        raise Violation("E3", f"{after.name} goes back from term {old.term} to {new.term}")
    if new.term == old.term and old.vote not in (None, new.vote):
        raise Violation("P1", f"{after.name} has voted for {old.vote} in term {new.term}, and now for {new.vote}")
    if new.commit < old.commit:
        raise Violation("C2", f"{after.name} had committed {old.commit}, now {new.commit}")
    if old.role is new.role is Role.LEADER and new.term == old.term:
        for name, peer in new.peers.items():
            known = old.peers.get(name)
            same = known is not None and (known.incarnation, known.since_round) == (peer.incarnation, peer.since_round)
            if known is not None and same and peer.match < known.match:
                raise Violation("L5", f"{after.name} knew that {name} matches up to {known.match}, now {peer.match}")


def _check_log(before: Member, after: Member) -> None:
    """Entries go only for a leader of a later term than theirs, and never once they are committed."""
    for entry in before.log.entries:
        if after.log.holds(entry):
            continue
        if entry.index <= before.raft.commit:
            raise Violation("L3", f"{after.name} removed its committed entry {entry.index}")
        if entry.term >= after.raft.term:
            raise Violation("L4", f"{after.name} removed its entry {entry.index} of term {entry.term} in term {after.raft.term}")
        if after.leads:
            raise Violation("L2", f"{after.name} removed its entry {entry.index} while leading term {after.raft.term}")


def _check_configuration(member: Member) -> None:
    """The configuration in effect is the newest one in the log."""
    in_log = [found for entry in member.log.entries if (found := configuration_in(entry)) is not None]
    newest = in_log[-1] if in_log else member.disk.snapshot.configuration if member.disk.snapshot else None
    if newest != member.raft.configuration:
        raise Violation("G1", f"{member.name} goes by {member.raft.configuration}, the newest in its log is {newest}")
