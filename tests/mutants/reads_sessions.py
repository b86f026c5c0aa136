"""Bugs in reads, sessions, and in what must be the same on all members."""

from __future__ import annotations

from collections.abc import Generator
from itertools import count
from typing import Any
from weakref import WeakKeyDictionary

from attrs import evolve
from mutant import Patch, mutant

from replkv.lease import Leases
from replkv.messages import ReadIndexReply
from replkv.node import Node
from replkv.raft import Raft
from replkv.reads import Reads
from replkv.session import Sessions, Verdict
from replkv.txn import Writer


@mutant(60, "etcd#20418, etcd#21399", slow=True)
def an_answer_to_a_read_counts_for_those_that_were_asked_since(patch: Patch) -> None:
    on_read_index_reply = Raft._HANDLERS[ReadIndexReply]

    def believe(self: Raft, sender: str, reply: ReadIndexReply) -> None:
        for number in [*self._asked]:
            on_read_index_reply(self, sender, evolve(reply, term=self.term, id=number))

    patch.setitem(Raft._HANDLERS, ReadIndexReply, believe)


@mutant(62, "redisraft#18, etcd#3879, openraft 97d92771")
def reads_do_not_wait_until_what_they_must_see_is_applied(patch: Patch) -> None:
    applied = Reads.applied
    patch.setattr(Reads, "applied", lambda self, index: applied(self, 1 << 62))


@mutant(64, "apache/ratis#915")
def batches_of_a_session_that_has_expired_are_executed(patch: Patch) -> None:
    lookup = Sessions.lookup

    def reopening(self: Sessions, session: int, sequence: int, lowest: int, time: int, owner: str | None = None) -> Verdict:
        if session not in self._table:
            self.open(session, time, owner)
        return lookup(self, session, sequence, lowest, time, owner)

    patch.setattr(Sessions, "lookup", reopening)


@mutant(96)
def a_repeated_batch_is_executed_again(patch: Patch) -> None:
    lookup = Sessions.lookup

    def always_new(self: Sessions, *arguments: Any) -> Verdict:
        verdict = lookup(self, *arguments)
        return Verdict.NEW if verdict is Verdict.REPEAT else verdict

    patch.setattr(Sessions, "lookup", always_new)


@mutant(97)
def a_member_takes_its_own_state_for_fresh(patch: Patch) -> None:
    patch.setattr(Node, "fresh_at", property(lambda self: self.clock()))


@mutant(65, "rqlite#536")
def a_number_is_chosen_by_each_member_for_itself(patch: Patch) -> None:
    choose, made = Leases.choose, count()
    offsets: WeakKeyDictionary[Leases, int] = WeakKeyDictionary()

    def by_chance(self: Leases, after: int) -> int:
        return choose(self, after + offsets.setdefault(self, next(made) % 2))

    patch.setattr(Leases, "choose", by_chance)


@mutant(98, "etcd#18667")
def a_refused_transaction_leaves_what_it_wrote_before(patch: Patch) -> None:
    def rollback(self: Writer) -> Generator[None, None, None]:
        yield from self.commit()

    patch.setattr(Writer, "rollback", rollback)


@mutant(84, "etcd 3.2 to 3.3")
def members_of_two_versions_carry_out_a_command_differently(patch: Patch) -> None:
    expire, made = Writer.expire, count()
    versions: WeakKeyDictionary[Writer, int] = WeakKeyDictionary()

    def by_version(self: Writer) -> Generator[None, None, None]:
        self.time -= 50_000 * versions.setdefault(self, next(made) % 2)
        return expire(self)

    patch.setattr(Writer, "expire", by_version)
