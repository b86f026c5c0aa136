"""Bugs in replication, flow control, and the way of a command."""

from __future__ import annotations

from typing import Any
from weakref import WeakSet

import pytest
from attrs import evolve
from mutant import Patch, mutant

from replkv import codec, node
from replkv.leadership import Leadership
from replkv.links import Links
from replkv.messages import Append, AppendReply
from replkv.node import Node
from replkv.progress import Pace, Progress
from replkv.proposals import Call, Proposals
from replkv.raft import Raft
from replkv.raftlog import RaftLog
from replkv.ready import Ready


@mutant(15, "etcd-io/raft#31")
def the_term_of_a_forgotten_entry_is_taken_for_zero_and_zero_matches(patch: Patch) -> None:
    term_at, run = RaftLog.term_at, RaftLog.run
    patch.setattr(RaftLog, "term_at", lambda self, index: term_at(self, index) or 0)
    patch.setattr(RaftLog, "run", lambda self, first, limit: () if first <= self.base_index else run(self, first, limit))
    patch.setattr(Leadership, "_leave_behind", lambda self, name, peer, *_: setattr(peer, "pace", Pace.PROBE))


@mutant(16, "openraft#1828")
def a_follower_behind_the_whole_log_is_only_asked_again(patch: Patch) -> None:
    def hopeful(self: Leadership, name: str, peer: Progress, out: Ready, now: float) -> None:
        peer.probe(self._log.base_index + 1, wait=True)

    patch.setattr(Leadership, "_leave_behind", hopeful)


@mutant(17, "openraft cecb5de8, fbbf37b1", profile="late answers", slow=True)
def acknowledgements_of_an_older_term_are_counted(patch: Patch) -> None:
    on_append_reply = Raft._HANDLERS[AppendReply]

    def counting(self: Raft, sender: str, reply: AppendReply) -> None:
        on_append_reply(self, sender, evolve(reply, term=max(reply.term, self.term)))

    patch.setitem(Raft._HANDLERS, AppendReply, counting)


@mutant(19, "openraft 71a290cd, SandTable: WRaft")
def an_append_from_before_the_log_begins_is_taken_for_a_conflict(patch: Patch) -> None:
    on_append = Raft._HANDLERS[Append]

    def destructive(self: Raft, sender: str, append: Append) -> None:
        if append.term == self.term and append.prev_index < self._log.base_index and self.commit < self._log.last_index and not self._lead:
            self._log._truncate(self.commit + 1)
            self.durable_index = min(self.durable_index, self.commit)
            self._unsaved = min(self._unsaved, self.commit + 1)
        on_append(self, sender, append)

    patch.setitem(Raft._HANDLERS, Append, destructive)


@mutant(20, "etcd-io/raft 85e68cf, 4967cff, 1ee3589")
def what_was_acknowledged_still_counts_as_on_its_way(patch: Patch) -> None:
    acknowledged = Progress.acknowledged

    def leaking(self: Progress, match: int) -> bool:
        inflight = list(self.inflight)
        news = acknowledged(self, match)
        self.inflight.clear()
        self.inflight.extend(inflight)
        return news

    patch.setattr(Progress, "acknowledged", leaking)


@mutant(21, "etcd-io/raft a370b6f")
def who_gives_up_still_counts_as_being_under_way(patch: Patch) -> None:
    patch.setattr(Proposals, "_let_out", lambda self, calls: None)


@mutant(22, "etcd-io/raft 8ecce32")
def what_is_committed_is_cut_to_the_page_that_is_handed_out(patch: Patch) -> None:
    take = Raft.take

    def paging(self: Raft, room: int | None = None) -> Ready | None:
        ready = take(self, room)
        if ready is not None and len(ready.committed) > 1:
            del ready.committed[1:]
            self.commit = self.handed_out = ready.committed[-1].index
        return ready

    patch.setattr(Raft, "take", paging)


@mutant(165)
def more_is_handed_out_although_enough_waits_to_be_applied(patch: Patch) -> None:
    patch.setattr(Node, "_take", lambda self, raft: raft.take(node.AHEAD))


@mutant(166)
def a_member_sleeps_although_not_all_that_is_decided_was_handed_out(patch: Patch) -> None:
    deadline = Node.__dict__["deadline"].fget

    def sleepy(self: Node) -> float:
        if self.raft is None:
            return float(deadline(self))
        with pytest.MonkeyPatch.context() as blind:
            blind.setattr(self.raft, "handed_out", self.raft.commit)
            return float(deadline(self))

    patch.setattr(Node, "deadline", property(sleepy))


class _Gone(BaseException):
    """Ends a thread, past everything that would notice."""


@mutant(24, "PySyncObj#161, RaftOS#27")
def the_thread_that_decides_dies_of_a_lost_connection_and_nobody_notices(patch: Patch) -> None:
    turn, deadline = Node.turn, Node.deadline.fget  # type: ignore[attr-defined]  # a property's function
    dead: WeakSet[Node] = WeakSet()

    def lost(self: Links, peer: str, now: float) -> None:
        raise _Gone

    def fragile(self: Node, timeout: float | None = None) -> None:
        try:
            if self not in dead:
                turn(self, timeout)
        except _Gone:
            dead.add(self)

    patch.setattr(Links, "_lost", lost)
    patch.setattr(Node, "turn", fragile)
    patch.setattr(Node, "deadline", property(lambda self: float("inf") if self in dead else deadline(self)))


@mutant(25, "openraft 1d5cc706, 13df5b32")
def commands_that_a_leader_lost_are_not_sent_again(patch: Patch) -> None:
    patch.setattr(Proposals, "_to_repeat", lambda self, *_: [])


@mutant(94)
def giving_up_always_claims_that_nothing_happened(patch: Patch) -> None:
    give_up = Proposals.give_up

    def lying(self: Proposals, call: Call) -> bool:
        give_up(self, call)
        return True

    patch.setattr(Proposals, "give_up", lying)


@mutant(63, "tidb#47060")
def a_command_that_may_be_lost_is_sent_again_as_a_new_one(patch: Patch) -> None:
    to_repeat = Proposals._to_repeat

    def forgetful(self: Proposals, *arguments: Any) -> list[bytes]:
        to_repeat(self, *arguments)
        lost = [(sequence, batch) for sequence, batch in self._batches.items() if batch.sent_at == arguments[1]]
        for sequence, batch in lost:
            del self._batches[sequence]
            self._sequence += 1
            commands = [call.command for call in batch.calls if call.command is not None]
            batch.data = codec.pack_batch(self.session, self._sequence, min(self._batches, default=self._sequence), commands)
            self._batches[self._sequence] = batch
        return [batch.data for _, batch in lost]

    patch.setattr(Proposals, "_to_repeat", forgetful)
