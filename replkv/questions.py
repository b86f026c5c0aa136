"""The questions of a client's callers: over the connection that stands, and again over the next one if that breaks."""

from __future__ import annotations

from collections import deque
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from attrs import define, field

if TYPE_CHECKING:
    from collections.abc import Callable

    from replkv.errors import ReplkvError
    from replkv.line import Line
    from replkv.plans import Asker, Plan
    from replkv.proposals import Call

UNDER_WAY_MAX: Final = 1024
"""Questions that are under way at a time; the others wait here."""


@define(eq=False, repr=False)
class Questions:
    """Those that are unanswered; callers bring them from any thread, all else is the client's thread's."""

    _coming: deque[tuple[Plan[Any], Call]] = field(factory=deque, init=False)
    _waiting: dict[Call, Plan[Any]] = field(factory=dict, init=False)
    _asked: dict[Call, tuple[Plan[Any], int]] = field(factory=dict, init=False)  # under which number

    def bring(self, plan: Plan[Any], call: Call) -> None:
        """Add one; any thread."""
        self._coming.append((plan, call))

    def refuse_coming(self, error: ReplkvError) -> None:
        """Fail those that were brought too late; any thread."""
        while self._coming:
            try:
                _, call = self._coming.popleft()
            except IndexError:  # another thread was quicker
                return
            call.fail(error)

    @property
    def coming(self) -> bool:
        """Whether some were brought that have not been taken in."""
        return bool(self._coming)

    @property
    def unanswered(self) -> bool:
        """Whether somebody waits for an answer."""
        return bool(self._waiting or self._asked)

    def take_in(self) -> None:
        """Take in what callers have brought."""
        for _ in range(len(self._coming)):
            plan, call = self._coming.popleft()
            self._waiting[call] = plan

    def put(self, line: Line, asker: Asker, answered: Callable[[Line, Call, Any], None]) -> None:
        """Ask as many of them as may be under way.

        Args:
            line: over which.
            asker: who asks.
            answered: gets the replies.
        """
        while self._waiting and len(self._asked) < UNDER_WAY_MAX and not line.is_full:
            call, plan = next(iter(self._waiting.items()))
            del self._waiting[call]
            self._asked[call] = plan, line.ask(partial(plan.letter, asker=asker), partial(answered, line, call))

    def done(self, call: Call) -> None:
        """Take note that one was answered."""
        self._asked.pop(call, None)

    def forget(self, call: Call, line: Line | None) -> None:
        """Forget one that nobody waits for any more."""
        self._waiting.pop(call, None)
        asked = self._asked.pop(call, None)
        if asked is not None and line is not None:
            line.cancel(asked[1])

    def lost(self) -> None:
        """Have all of them asked again, those first that were under way."""
        self._waiting = {call: plan for call, (plan, _) in self._asked.items()} | self._waiting
        self._asked = {}

    def fail_all(self, error: ReplkvError) -> None:
        """Fail every one: the client has ended."""
        self.lost()
        waiting, self._waiting = self._waiting, {}
        for call in waiting:
            call.fail(error)
        self.refuse_coming(error)
