"""Linearizable reads on their way: which callers wait for which read index.

All callers that wait when the node has a turn share one round (thesis §6.4).  A confirmed index is kept until it is applied here; then the
callers may read this member's own state, each on its own thread.  Rounds that were lost are asked for again, under a new id: an answer to
an old one confirms nothing.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from attrs import define, field

if TYPE_CHECKING:
    from collections.abc import Iterable

    from replkv.errors import ReplkvError
    from replkv.proposals import Call


@define(eq=False, repr=False)
class Reads:
    """The reads of this member's callers."""

    _last_id: int  # random at first: an answer to a question from before a restart must confirm nothing
    _waiting: list[Call] = field(factory=list, init=False)
    _gate: threading.Lock = field(factory=threading.Lock, init=False)
    _rounds: dict[int, list[Call]] = field(factory=dict, init=False)
    _confirmed: list[tuple[int, list[Call]]] = field(factory=list, init=False)

    def ask(self, call: Call) -> None:
        """Let a caller wait; any thread."""
        with self._gate:
            self._waiting.append(call)

    def give_up(self, call: Call) -> None:
        """Forget a caller; any thread.  O(calls waiting)."""
        with self._gate:
            for calls in (self._waiting, *self._rounds.values(), *(calls for _, calls in self._confirmed)):
                if call in calls:
                    calls.remove(call)
                    return

    @property
    def waiting(self) -> bool:
        """Whether a caller waits for a round to begin."""
        return bool(self._waiting)

    def next_round(self) -> int:
        """Put all that wait into a new round and return its id, never used before."""
        self._last_id += 1
        with self._gate:
            self._rounds[self._last_id] = self._waiting
            self._waiting = []
        return self._last_id

    def confirmed(self, read_id: int, index: int) -> None:
        """Take note of a round's read index."""
        if read_id in self._rounds:
            with self._gate:
                self._confirmed.append((index, self._rounds.pop(read_id)))

    def lost(self, read_ids: Iterable[int]) -> None:
        """Let the callers of these rounds wait for another one."""
        with self._gate:
            for read_id in read_ids:
                if read_id in self._rounds:
                    self._waiting += self._rounds.pop(read_id)

    def applied(self, index: int) -> None:
        """Finish the callers whose read index has been applied."""
        if not self._confirmed:
            return
        with self._gate:
            ready = [calls for at, calls in self._confirmed if at <= index]
            self._confirmed = [(at, calls) for at, calls in self._confirmed if at > index]
        for calls in ready:
            for call in calls:
                call.finish()

    def fail_all(self, error: ReplkvError) -> None:
        """Finish every caller: the member has stopped."""
        with self._gate:
            lists = [self._waiting, *self._rounds.values(), *(calls for _, calls in self._confirmed)]
            self._waiting, self._rounds, self._confirmed = [], {}, []
        for calls in lists:
            for call in calls:
                call.fail(error)
