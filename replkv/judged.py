"""Questions of users: asked on somebody's behalf, and answered only to who has the right to know.

Commands are judged where they are applied.  A question is judged where it is answered: by the auth that the answering member has, which
behind a read barrier is as new as what is read.
"""

from __future__ import annotations

from itertools import count
from typing import TYPE_CHECKING, Any, Final

from replkv.plans import Plan
from replkv.reads import NOT_YET

if TYPE_CHECKING:
    from collections.abc import Generator

    from replkv.auth import Subject
    from replkv.machine import Machine
    from replkv.node import Node
    from replkv.proposals import Call
    from replkv.wire import Raw


ANEW_MAX: Final = 3
"""How often a question is answered anew because rights were changed meanwhile."""


class Judged(Plan[Any]):
    """A question that somebody asks who may not ask everything.

    Whoever is to be answered must have the right from before the look until it is over; where rights were changed meanwhile the question
    is judged and answered anew.  Where they are changed all the time, as by a program that makes a thousand users, it has to do that who
    asks has the right before the look and behind it: a long scan would never end.

    Args:
        plan: the question; a plan with a command needs none of this.
        subject: who asks.
    """

    __slots__ = ("_plan", "_subject")

    def __init__(self, plan: Plan[Any], subject: Subject) -> None:
        self._plan = plan
        self._subject = subject

    def at_once(self, node: Node) -> Any:
        """Answer at once what is at hand.

        Raises:
            PermissionDenied, AuthenticationFailed: not to this one.
        """
        for attempt in count():
            if not self._plan.is_at_hand(node):
                break
            revision = self._permitted(node)
            if (raw := self._plan.at_once(node)) is NOT_YET or self._still_permitted(node, revision, raw, attempt):
                return raw
        return NOT_YET

    def wait(self, node: Node, call: Call) -> None:
        """Let a call wait until it can be answered.

        Raises:
            PermissionDenied, AuthenticationFailed: something would be done for it at once, and must not be.
        """
        if self._plan.looks:
            call.look = self.look
            node.read_barrier(call)
            return
        if self._plan.acts:
            self._permitted(node)
        self._plan.wait(node, call)

    def look(self, machine: Machine, time: int) -> Any:
        """Look at the machine, if that is permitted at this very moment.

        Raises:
            PermissionDenied, AuthenticationFailed: it is not.
        """
        self._plan.permit(self._subject, machine)
        return self._plan.look(machine, time)

    def answer(self, node: Node, call: Call) -> Raw:
        """Answer what has waited.

        Raises:
            PermissionDenied, AuthenticationFailed: not to this one.
        """
        for attempt in count():
            revision = self._permitted(node)
            raw = self._plan.answer(node, call)
            if self._still_permitted(node, revision, raw, attempt):
                break
        return raw

    def answer_in_steps(self, node: Node, call: Call | None) -> Generator[None, None, Any]:
        """Answer as ``answer`` or ``at_once``, in steps.

        Raises:
            PermissionDenied, AuthenticationFailed: not to this one.
        """
        for attempt in count():
            if call is None and not self._plan.is_at_hand(node):
                break
            revision = self._permitted(node)
            raw = yield from self._plan.answer_in_steps(node, call)
            if raw is NOT_YET or self._still_permitted(node, revision, raw, attempt):
                return raw
        return NOT_YET

    def _permitted(self, node: Node) -> int:
        """Check that it may be asked, and return at which auth revision that was found, or at an older one."""
        machine = node.published.machine
        revision = machine.auth.revision
        self._plan.permit(self._subject, machine)
        return revision

    def _still_permitted(self, node: Node, revision: int, raw: Raw, attempt: int) -> bool:
        """Check that the answer may be seen; tell whether no right was changed since an auth revision, or that happens too often."""
        machine = node.published.machine
        self._plan.permit_answer(self._subject, machine, raw)
        if machine.auth.revision == revision:
            return True
        self._plan.permit(self._subject, machine)
        return attempt == ANEW_MAX
