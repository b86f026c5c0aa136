"""Bugs in users, roles and permissions: what is not checked, is checked too early, or outlives what it rests on."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator
from typing import Any

from mutant import Patch, mutant

from replkv import auth, wire
from replkv.auth import Auth, Right
from replkv.feed import GuardedFeed
from replkv.guests import Guests
from replkv.judged import Judged
from replkv.lease import Leases
from replkv.login import Proof
from replkv.machine import Machine, Outcome
from replkv.node import Node
from replkv.proposals import Call
from replkv.session import Sessions, Verdict
from replkv.wire import Raw


@mutant(66, "etcd#11651, etcd#14571")
def what_users_may_do_is_forgotten_by_a_restart(patch: Patch) -> None:
    load = Auth.load

    def forgetful(rows: Iterator[Any]) -> Auth:
        load(rows)
        return Auth()

    patch.setattr(Auth, "load", forgetful)


@mutant(67, "etcd's design of authentication", slow=True)
def an_old_password_is_accepted(patch: Patch) -> None:
    checked = Proof._checked

    def late(self: Proof, *, right: bool) -> Any:
        self._subject = self.user, self.porter.auth.revision  # it was compared with what was there before
        return checked(self, right=right)

    patch.setattr(Proof, "_checked", late)


@mutant(148)
def commands_of_guests_are_not_checked(patch: Patch) -> None:
    command = Machine._command
    patch.setattr(Machine, "_command", lambda self, packed, _subject: command(self, packed, None))


@mutant(149)
def who_proved_it_before_a_change_is_still_believed(patch: Patch) -> None:
    patch.setattr(Auth, "is_valid", lambda self, subject: not self.enabled or subject[0] in self.users)


@mutant(150)
def a_session_is_open_to_everybody(patch: Patch) -> None:
    lookup = Sessions.lookup

    def open_to_all(self: Sessions, session: int, sequence: int, lowest: int, time: int, owner: str | None = None) -> Verdict:
        del owner
        known = self._table.get(session)
        return lookup(self, session, sequence, lowest, time, known.owner if known is not None else None)

    patch.setattr(Sessions, "lookup", open_to_all)


@mutant(151)
def only_one_branch_of_a_transaction_is_checked(patch: Patch) -> None:
    needed = auth.needed

    def of_one_branch(packed: Raw, leases: Leases) -> Iterator[Right]:
        return needed((*packed[:3], ()) if packed[0] == wire.TXN else packed, leases)

    patch.setattr(auth, "needed", of_one_branch)


@mutant(152)
def nested_transactions_are_not_checked(patch: Patch) -> None:
    needed = auth.needed

    def shallow(packed: Raw, leases: Leases) -> Iterator[Right]:
        if packed[0] == wire.TXN:
            then, otherwise = (tuple(inner for inner in branch if inner[0] != wire.TXN) for branch in packed[2:4])
            packed = (wire.TXN, packed[1], then, otherwise)
        return needed(packed, leases)

    patch.setattr(auth, "needed", shallow)


@mutant(153)
def a_watch_is_checked_only_when_it_begins(patch: Patch) -> None:
    check = GuardedFeed._check

    def once(self: GuardedFeed) -> None:
        if not self._judged:
            check(self)

    patch.setattr(GuardedFeed, "_check", once)


@mutant(154)
def who_waits_in_a_watch_does_not_hear_that_rights_were_changed(patch: Patch) -> None:
    def deaf(self: Any, auth_revision: int) -> None:
        self.auth_revision = auth_revision

    patch.setattr("replkv.watch.Hub.judge_anew", deaf)


@mutant(155)
def a_read_is_judged_before_its_barrier(patch: Patch) -> None:
    wait = Judged.wait

    def early(self: Judged, node: Node, call: Call) -> None:
        self._permitted(node)
        wait(self, node, call)

    def unjudged(self: Judged, node: Node, call: Call | None) -> Generator[None, None, Any]:
        if call is None:
            self._permitted(node)
        return (yield from self._plan.answer_in_steps(node, call))

    patch.setattr(Judged, "wait", early)
    patch.setattr(Judged, "answer_in_steps", unjudged)


@mutant(156)
def what_a_write_replaced_is_told_to_who_may_not_read_it(patch: Patch) -> None:
    def blind(packed: Raw, leases: Leases) -> Iterator[Right]:
        del leases
        yield wire.WRITE, packed[1], packed[1] + b"\x00"

    patch.setitem(auth._RIGHTS, wire.PUT, blind)


@mutant(157, slow=True)
def what_a_write_found_is_told_to_who_may_not_read_it(patch: Patch) -> None:
    needed = auth.needed

    def blind(packed: Raw, leases: Leases) -> Iterator[Right]:
        return needed(packed[3] if packed[0] == wire.EXPECT else packed, leases)

    patch.setattr(auth, "needed", blind)


@mutant(158)
def a_token_outlives_the_password(patch: Patch) -> None:
    patch.setattr(Auth, "_tokens_but", lambda self, user: dict(self.tokens))


@mutant(159)
def spans_that_touch_do_not_count_together(patch: Patch) -> None:
    def apart(self: Any, start: bytes, end: bytes | None) -> bool:
        spans = zip(self.starts, self.ends, strict=True)
        return any(first <= start and (last is None or (end is not None and end <= last)) for first, last in spans)

    def as_they_are(cls: Any, spans: Iterable[Any]) -> Any:
        return cls(*map(tuple, zip(*spans, strict=True))) if (spans := list(spans)) else cls((), ())

    patch.setattr(auth._Spans, "of", classmethod(as_they_are))
    patch.setattr(auth._Spans, "cover", apart)


@mutant(160)
def all_keys_from_one_on_are_taken_for_that_one(patch: Patch) -> None:
    cover = auth._Spans.cover
    patch.setattr(auth._Spans, "cover", lambda self, start, end: cover(self, start, start + b"\x00" if end is None else end))


@mutant(161)
def a_lease_may_be_ended_by_who_may_not_write_its_keys(patch: Patch) -> None:
    patch.setitem(auth._RIGHTS, wire.REVOKE, auth._none)


@mutant(162)
def a_batch_in_the_session_of_another_ends_it(patch: Patch) -> None:
    def answer(self: Node, outcomes: list[Outcome]) -> None:
        self.proposals.answer(outcomes)
        for outcome in outcomes:
            for key in [key for key in self.guests._held if key[:2] == (outcome.session, outcome.sequence)]:
                self.guests._answer(key, outcome)

    patch.setattr(Guests, "answer", lambda self, outcomes: None)
    apply = Node._applied

    def applied(self: Node, raft: Any, entry: Any, outcomes: list[Outcome]) -> None:
        answer(self, outcomes)
        apply(self, raft, entry, outcomes)

    patch.setattr(Node, "_applied", applied)


@mutant(163, slow=True)
def a_batch_is_taken_for_another_ones_by_its_number(patch: Patch) -> None:
    submit = Guests.submit

    def by_number(self: Guests, key: Any, data: bytes, guest: Any) -> bool:
        known = next((held for held in self._held if held[:2] == key[:2]), key)
        return submit(self, known, data, guest)

    patch.setattr(Guests, "submit", by_number)


@mutant(164)
def a_lease_without_keys_is_anybodys(patch: Patch) -> None:
    patch.setattr(auth._Unjudged, "end", lambda self, user: None)
