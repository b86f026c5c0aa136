"""Linearizable reads on their way: which callers wait for which read index.

All callers that wait when the node has a turn share one round (thesis §6.4).  A confirmed index is kept until it is applied here; then the
callers may read this member's own state, each on its own thread.  Rounds that were lost are asked for again, under a new id: an answer to
an old one confirms nothing.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Final

from attrs import define, field

from replkv.proposals import finish

if TYPE_CHECKING:
    from collections.abc import Iterable

    from replkv.errors import ReplkvError
    from replkv.proposals import Call


NOT_YET: Final = object()
"""What a caller looked for is not there yet."""


@define(eq=False, repr=False)
class Reads:
    """The reads of this member's callers."""

    _last_id: int  # random at first: an answer to a question from before a restart must confirm nothing
    fresh_at: float = field(default=float("-inf"), init=False)
    """This member's own state has all that was acknowledged before this moment of its clock."""
    _waiting: list[Call] = field(factory=list, init=False)
    _gate: threading.Lock = field(factory=threading.Lock, init=False)
    _rounds: dict[int, tuple[float, list[Call]]] = field(factory=dict, init=False)  # when each was begun, and for whom
    _confirmed: list[tuple[int, float, list[Call]]] = field(factory=list, init=False)
    _looking: list[Call] = field(factory=list, init=False)

    def ask(self, call: Call) -> None:
        """Let a caller wait; any thread."""
        with self._gate:
            self._waiting.append(call)

    def give_up(self, call: Call) -> None:
        """Forget a caller; any thread.  O(calls waiting)."""
        with self._gate:
            for calls in self._lists():
                if call in calls:
                    calls.remove(call)
                    return

    def _lists(self) -> list[list[Call]]:
        rounds, confirmed = self._rounds.values(), self._confirmed
        return [self._waiting, self._looking, *(calls for _, calls in rounds), *(calls for *_, calls in confirmed)]

    @property
    def waiting(self) -> bool:
        """Whether a caller waits for a round to begin."""
        return bool(self._waiting)

    @property
    def answerable(self) -> bool:
        """Whether a caller waits for something to be applied, or to be looked at."""
        return bool(self._confirmed or self._looking)

    def next_round(self, now: float) -> int:
        """Put all that wait into a new round, asked for at ``now``, and return its id, never used before."""
        self._last_id += 1
        with self._gate:
            self._rounds[self._last_id] = (now, self._waiting)
            self._waiting = []
        return self._last_id

    def confirmed(self, read_id: int, index: int) -> None:
        """Take note of a round's read index."""
        if read_id in self._rounds:
            with self._gate:
                self._confirmed.append((index, *self._rounds.pop(read_id)))

    def lost(self, read_ids: Iterable[int]) -> None:
        """Let the callers of these rounds wait for another one."""
        with self._gate:
            for read_id in read_ids:
                if read_id in self._rounds:
                    self._waiting += self._rounds.pop(read_id)[1]

    def applied(self, index: int) -> None:
        """Finish the callers whose read index has been applied."""
        if not self._confirmed:
            return
        with self._gate:
            ready = [round_ for round_ in self._confirmed if round_[0] <= index]
            self._confirmed = [round_ for round_ in self._confirmed if round_[0] > index]
            self._looking += [call for *_, calls in ready for call in calls if call.look is not None]
        for _, asked_at, calls in ready:
            self.fresh_at = max(self.fresh_at, asked_at)  # before the callers go on: they may ask how fresh the state is
            finish([call for call in calls if call.look is None])

    def take_looking(self) -> list[Call]:
        """Return the callers who may look at the machine now."""
        if not self._looking:
            return []
        with self._gate:
            looking, self._looking = self._looking, []
        return looking

    def look_again(self, call: Call) -> None:
        """Let a caller look once more: what it waits for is not there yet."""
        with self._gate:
            self._looking.append(call)

    def fail_all(self, error: ReplkvError) -> None:
        """Finish every caller: the member has stopped."""
        with self._gate:
            lists = self._lists()
            self._waiting, self._looking, self._rounds, self._confirmed = [], [], {}, []
        for calls in lists:
            for call in calls:
                call.fail(error)
