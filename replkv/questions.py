"""The questions of a client's callers: over the connection that stands, and again over the next one if that breaks."""

from __future__ import annotations

from collections import deque
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from attrs import define, field

from replkv import letters
from replkv.errors import TooLarge
from replkv.plans import Plan

if TYPE_CHECKING:
    from collections.abc import Callable

    from replkv.errors import ReplkvError
    from replkv.line import Line
    from replkv.plans import Asker
    from replkv.proposals import Call

UNDER_WAY_MAX: Final = 1024
"""Questions that are under way at a time; the others wait here."""
AGAIN_AFTER: Final = 0.1
"""Seconds until questions are asked again, and commands handed over, for which the member had no room."""


class KeptBy(Plan[Any]):
    """Find out which leases belong to a keeper."""

    __slots__ = ("_keeper",)

    def __init__(self, keeper: int) -> None:
        self._keeper = keeper

    def letter(self, number: int, asker: Asker) -> letters.Look:
        """Ask a member."""
        del asker
        return letters.Look(number, letters.KEPT, self._keeper)


@define(eq=False, repr=False)
class Questions:
    """Those that are unanswered; callers bring them from any thread, all else is the client's thread's."""

    _coming: deque[tuple[Plan[Any], Call]] = field(factory=deque, init=False)
    _waiting: dict[Call, Plan[Any]] = field(factory=dict, init=False)
    _asked: dict[Call, tuple[Plan[Any], int]] = field(factory=dict, init=False)  # under which number
    _put_off: dict[Call, Plan[Any]] = field(factory=dict, init=False)
    _again_at: float = field(default=float("inf"), init=False)  # when those are asked again
    _put_off_at: float = field(default=float("-inf"), init=False)  # the last of them
    _reason: ReplkvError | None = field(default=None, init=False)  # of that

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
        return bool(self._waiting or self._asked or self._put_off)

    @property
    def due(self) -> float:
        """When some are to be asked again, in seconds."""
        return self._again_at

    def take_in(self) -> None:
        """Take in what callers have brought."""
        for _ in range(len(self._coming)):
            try:
                plan, call = self._coming.popleft()
            except IndexError:  # the client is ending, and a caller has just refused its own
                return
            self._waiting[call] = plan

    def put(self, line: Line, asker: Asker, now: float, answered: Callable[[Line, Call, Any], None]) -> None:
        """Ask as many of them as may be under way.

        Args:
            line: over which.
            asker: who asks.
            now: in seconds.
            answered: gets the replies.
        """
        if now >= self._again_at:
            self._resume()
        while self._waiting and len(self._asked) < UNDER_WAY_MAX and not line.is_full:
            call, plan = next(iter(self._waiting.items()))
            del self._waiting[call]
            try:
                self._asked[call] = plan, line.ask(partial(plan.letter, asker=asker), partial(answered, line, call))
            except TooLarge as error:
                call.fail(error)

    def done(self, call: Call) -> None:
        """Take note that one was answered."""
        self._asked.pop(call, None)

    def put_off(self, call: Call, error: ReplkvError, now: float) -> None:
        """Have one asked again in a moment: there was no room for it."""
        self._put_off[call], _ = self._asked.pop(call)
        self._again_at = min(self._again_at, now + AGAIN_AFTER)
        self._put_off_at, self._reason = now, error

    def trouble(self, now: float) -> str:
        """Return why some are being put off, behind a semicolon; empty: none are.  Any thread."""
        return f"; {self._reason}" if now - self._put_off_at <= 2 * AGAIN_AFTER else ""

    def _resume(self) -> None:
        self._waiting |= self._put_off
        self._put_off, self._again_at = {}, float("inf")

    def forget(self, call: Call, line: Line | None) -> None:
        """Forget one that nobody waits for any more."""
        self._waiting.pop(call, None)
        self._put_off.pop(call, None)
        asked = self._asked.pop(call, None)
        if asked is not None and line is not None:
            line.cancel(asked[1])

    def lost(self) -> None:
        """Have all of them asked again, those first that were under way."""
        self._waiting = {call: plan for call, (plan, _) in self._asked.items()} | self._waiting
        self._asked = {}
        self._resume()

    def fail_all(self, error: ReplkvError) -> None:
        """Fail every one: the client has ended."""
        self.lost()
        waiting, self._waiting = self._waiting, {}
        for call in waiting:
            call.fail(error)
        self.refuse_coming(error)
