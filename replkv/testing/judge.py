"""Was somebody shown only what he may see?  Rules of rights that no replay of commands can tell: about reads, watches and logins.

The witness knows what the rights were behind each change.  Whoever judges at a member goes by some state that this member has had between
the beginning and the end of a call, or has at a moment.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from typing import TYPE_CHECKING, NamedTuple

from replkv import errors
from replkv.refusals import STATUS
from replkv.testing.history import Consistency, Outcome, Violation

if TYPE_CHECKING:
    from collections.abc import Iterable

    from replkv.node import Node
    from replkv.testing.checker import Witness
    from replkv.testing.history import History, Operation
    from replkv.testing.rights import Rights, Subject
    from replkv.values import Span

DENIALS = {STATUS[kind]: kind for kind in (errors.PermissionDenied, errors.AuthenticationFailed)}
"""The statuses of answers that deny something."""


class State(NamedTuple):
    """What the rights were for a while: ``until`` is the entry of the next change, infinite if there was none."""

    rights: Rights
    until: float


def states(witness: Witness, least: int, most: float) -> list[State]:
    """Return what the rights were from behind one entry of the log on until the end of another one."""
    first = bisect_right(witness.rights, least, key=lambda change: change[0])
    last = bisect_right(witness.rights, most, key=lambda change: change[0])
    times = [*(index for index, _ in witness.rights[first:]), float("inf")]
    found = [witness.at[least].rights, *(rights for _, rights in witness.rights[first:last])]
    return [State(rights, until) for rights, until in zip(found, times, strict=False)]


def present(witness: Witness, node: Node) -> list[State]:
    """Return what the rights may be at a member right now: within an entry that it is at work on, any of those that this one makes."""
    return meanwhile(witness, node, node.machine.applied)


def meanwhile(witness: Witness, node: Node, since: int) -> list[State]:
    """Return what the rights have been at a member since it had applied an entry; as ``present``."""
    return states(witness, since, node.machine.applied + (node._applying is not None))


class Readers:
    """What was acknowledged, and when: a read sees all of it that was before its call.

    Args:
        history: what clients saw.
        entries: the entry in which each acknowledged write took effect, by the number of its operation.
    """

    def __init__(self, history: History, entries: Iterable[tuple[int, int]]) -> None:
        returned = sorted((history.operations[number].returned or 0, entry) for number, entry in entries)
        self._times = [when for when, _ in returned]
        self._newest: list[int] = []
        for _, entry in returned:
            self._newest.append(max(entry, self._newest[-1] if self._newest else 0))

    def known_at(self, called: int) -> int:
        """Return the newest entry that somebody knew of at a moment."""
        at = bisect_left(self._times, called)
        return self._newest[at - 1] if at else 0

    def judge(self, operation: Operation, witness: Witness) -> None:
        """Check that a user's read was answered, or denied, by rights that were those of the cluster meanwhile.

        Raises:
            Violation: it was not.
        """
        if operation.subject is None or operation.consistency is Consistency.WRITE or operation.outcome is not Outcome.ANSWERED:
            return
        assert operation.answer is not None
        least = operation.least
        if operation.consistency is not Consistency.LOCAL:
            least = max(least, self.known_at(operation.called))
        if least > operation.most:
            raise Violation("U1", f"{operation} was answered at entry {operation.most}, {least} was acknowledged before its call")
        possible = states(witness, least, operation.most)
        reasons = [state.rights.denies(operation.subject, operation.wire, lambda _: ("", [])) for state in possible]
        denied = DENIALS.get(operation.answer[0])
        if denied is not None:
            if denied not in reasons:
                raise Violation("U1", f"{operation} was denied, and {operation.subject} may: {possible[-1].rights}")
            return
        shown = bisect_left(witness.at, operation.revision, key=lambda moment: moment.revision)
        if not any(reason is None and state.until > shown for reason, state in zip(reasons, possible, strict=True)):
            raise Violation("U1", f"{operation} was answered, and {operation.subject} may not: {possible[-1].rights}")


def judge_watch(witness: Witness, node: Node, subject: Subject, span: Span, *, denied: bool) -> None:
    """Check that a watch may hand something out, or be ended, by the rights of its member right now.

    Raises:
        Violation: it may not.
    """
    reasons = [state.rights.denies_reading(subject, (span.start, span.end)) for state in present(witness, node)]
    if denied and all(reason is None for reason in reasons):
        raise Violation("U2", f"a watch of {span} for {subject} was ended at {node.name}, which it may have")
    if not denied and None not in reasons:
        raise Violation("U2", f"a watch of {span} for {subject} goes on at {node.name}, which it may not have")


def judge_login(witness: Witness, subject: Subject, kept: Iterable[bytes]) -> None:
    """Check that who was let in as a user gave the password that this one had at the revision of the rights that is named.

    Args:
        witness: knows them.
        subject: who was let in.
        kept: the hashes there may be of the password it gave.

    Raises:
        Violation: it had another one, or there was no such user.
    """
    name, stamp = subject
    possible = [rights for _, rights in witness.rights if rights.revision == stamp]
    if not any(name in rights.users and rights.users[name].password in kept for rights in possible):
        raise Violation("U3", f"{subject} was let in with a password that is not that user's")
