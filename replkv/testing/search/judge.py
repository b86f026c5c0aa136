"""What the members must keep together, and what has to be remembered for that."""

from __future__ import annotations

from typing import TYPE_CHECKING

from attrs import evolve, frozen

from replkv import quorum
from replkv.messages import NOWHERE, Entry, HardState
from replkv.testing.history import Violation

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from replkv.testing.search.member import Member, Turn


@frozen
class Committed:
    """An entry that was committed once, and the term of the leader that did it."""

    entry: Entry
    by: int


@frozen
class Past:
    """What was so once and must stay so.

    Args:
        leaders: the leader of each term, as far as there was one.
        committed: in order, from the first entry of all.
        reads: that wait for an answer: who asked, its number, and how much was committed when it was asked.
    """

    leaders: tuple[tuple[int, str], ...] = ()
    committed: tuple[Committed, ...] = ()
    reads: tuple[tuple[str, int, int], ...] = ()


def met(past: Past, member: Member) -> Past:
    """Hold a member against the past; return the past with what it adds.

    Raises:
        Violation: they contradict each other.
    """
    if member.leads:
        past = _met_leader(past, member)
    log, commit = member.log, member.raft.commit
    for known in past.committed[:commit]:
        if not log.holds(known.entry):
            raise Violation("C1", f"{member.name} has committed {log.at(known.entry.index)}, another member {known.entry}")
    new = [log.at(index) for index in range(len(past.committed) + 1, commit + 1)]
    if new:
        added = tuple(Committed(entry, member.raft.term) for entry in new if entry is not None)
        assert len(added) == len(new), "what was not yet committed was not trimmed"
        past = evolve(past, committed=past.committed + added)
    return past


def _met_leader(past: Past, member: Member) -> Past:
    term = member.raft.term
    before = dict(past.leaders).get(term)
    if before not in (None, member.name):
        raise Violation("E1", f"{member.name} leads term {term}, as did {before}")
    if before is not None:
        return past
    for known in past.committed:
        if known.by < term and not member.log.holds(known.entry):
            raise Violation("C5", f"{member.name} leads term {term} without entry {known.entry.index}, which was committed in {known.by}")
    return evolve(past, leaders=tuple(sorted((*past.leaders, (term, member.name)))))


def read(past: Past, turn: Turn) -> Past:
    """Take note of reads that were asked, answered or lost in a step.

    Raises:
        Violation: an answer does not count what was committed before the question.
    """
    reads = {(name, number): floor for name, number, floor in past.reads}
    if turn.restarted:
        reads = {read: floor for read, floor in reads.items() if read[0] != turn.name}
    if turn.asked is not None:
        reads[turn.name, turn.asked] = len(past.committed)
    for number, index in turn.answered:
        floor = reads.pop((turn.name, number), 0)
        if index < floor:
            raise Violation("T1", f"{turn.name} reads at {index}, although {floor} was committed before it asked")
    for number in turn.lost:
        reads.pop((turn.name, number), None)
    return evolve(past, reads=tuple(sorted((*read, floor) for read, floor in reads.items())))


def check_votes(leader: Member, members: Iterable[Member]) -> None:
    """Check that a new leader has the votes of a majority; who has gone on to a later term, or lost its vote, may have given it.

    Raises:
        Violation: it has not.
    """
    term = leader.raft.term
    voters = []
    for member in members:
        hard_state = member.disk.hard_state
        if hard_state.term > term or hard_state == HardState(term, leader.name) or member.disk.losses:
            voters.append(member.name)
    if not quorum.won(leader.raft.configuration, voters):
        raise Violation("E4", f"{leader.name} leads term {term}, for which only {voters} can have voted")


def check_quorum(leader: Member, members: Sequence[Member], entry: Entry) -> None:
    """Check that what is committed now is on the disks of a majority.

    Raises:
        Violation: it is not.
    """
    holders = [member.name for member in members if member.disk.covers(entry)]
    if not quorum.won(leader.raft.configuration, holders):
        raise Violation("C3", f"{leader.name} committed entry {entry.index} of term {entry.term}, on the disks of {holders} only")


def check_election(members: Sequence[Member], last: Entry) -> None:
    """Check that nobody without the last committed entry could win an election by its log.

    That is why a leader has everything that is committed (§3.6.3); it shows a wrong decision long before somebody is elected to undo it.

    Raises:
        Violation: somebody could.
    """
    for member in members:
        end, disk = member.log.end, member.disk
        if member.log.holds(last) or disk.floor > end or not member.raft.configuration.is_voter(member.name):
            continue
        granted = [voter.name for voter in members if voter is member or max(voter.disk.log.end, voter.disk.floor) <= end]
        if quorum.won(member.raft.configuration, granted):
            raise Violation(
                "C5", f"{member.name} lacks entry {last.index} of term {last.term}, which is committed, and {granted} could elect it"
            )


def check_pair(one: Member, other: Member) -> None:
    """Check what two members say of each other.

    Raises:
        Violation: they disagree.
    """
    _check_logs(one, other)
    _check_match(one, other)
    _check_match(other, one)


def _check_logs(one: Member, other: Member) -> None:
    """L1: an index and a term stand for one entry and for one log before it."""
    same = False
    for index in range(min(one.log.last_index, other.log.last_index), max(one.log.base.index, other.log.base.index), -1):
        mine, its = one.log.at(index), other.log.at(index)
        assert mine is not None, "both logs have it"
        assert its is not None, "both logs have it"
        if mine.term > one.disk.hard_state.term or its.term > other.disk.hard_state.term:
            continue  # of one that elected itself alone, and may yet forget it
        same |= mine.term == its.term
        if same and mine.encoded != its.encoded:
            raise Violation("L1", f"{one.name} has {mine} where {other.name} has {its}, and they agree on the term there or behind it")


def _check_match(leader: Member, follower: Member) -> None:
    """L5: what a leader believes of a follower's log is true, unless a later leader may have replaced it."""
    peer = leader.raft.peers.get(follower.name)
    if peer is None or not leader.leads or follower.disk.hard_state.term > leader.raft.term:
        return
    entry, disk = leader.log.at(peer.match), follower.disk
    believed = disk.covers(entry) if entry is not None else peer.match <= disk.log.last_index or disk.floor > NOWHERE
    if not believed:
        raise Violation("L5", f"{leader.name} believes that {follower.name} matches up to {peer.match}; it does not")


def check_leases(members: Iterable[Member], committed: int) -> None:
    """R1: a lease belongs to one member, and it knows everything that is committed.

    Raises:
        Violation: somebody's reads from memory could be stale.
    """
    holders = [member for member in members if member.holds_lease]
    for member in holders:
        if member.raft.commit < committed:
            raise Violation("R1", f"{member.name} holds a lease with {member.raft.commit} committed, {committed} are")
    if len(holders) > 1:
        raise Violation("R1", f"{' and '.join(member.name for member in holders)} hold leases at once")
