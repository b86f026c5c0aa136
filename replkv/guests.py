"""Batches of clients, who are no members, on their way through this one.

A client numbers its batches in a session of its own and repeats them through whatever member it reaches.  This member hands them on like
those of its own callers, and answers when it has applied them itself.  So nothing here has to be remembered: a batch whose client has gone
is forgotten, and if it was under way it takes effect once, or not at all.

Threads: the door submits and cancels from its own; everything else belongs to the node's thread.
"""

from __future__ import annotations

import threading
from itertools import islice
from typing import TYPE_CHECKING, Final, Protocol, TypeAlias

from attrs import define, field

from replkv.machine import Outcome

if TYPE_CHECKING:
    from collections.abc import Iterable

    from replkv.admission import Admission
    from replkv.errors import ReplkvError
    from replkv.machine import Machine

FORWARDED_MAX = 64
"""Batches that a follower has under way to its leader at a time: half of what a link's queue holds."""

_LOST: Final = float("-inf")
"""When a batch was handed on that is to be handed on again."""

_Key: TypeAlias = tuple[int, int, str | None]
"""Session and sequence, 0 and the nonce where a session is to be opened, and whose: what one user guesses is not another's answer."""


class Guest(Protocol):
    """Who waits for the outcome of a batch.  Both are called on the node's thread and must not block."""

    def finish(self, outcome: Outcome) -> None:
        """Learn what became of it."""

    def fail(self, error: ReplkvError) -> None:
        """Learn that it will not be known here."""


@define(eq=False, repr=False)
class _Held:
    """A batch, and who wants to know: a client that came back may have asked over two connections."""

    data: bytes
    guests: list[Guest]


@define(eq=False, repr=False)
class Guests:
    """The batches of this member's clients.

    Args:
        retry_after: seconds after which a batch that was forwarded counts as lost.
        admission: the bound on what is under way.
    """

    retry_after: float
    admission: Admission
    _held: dict[_Key, _Held] = field(factory=dict, init=False)
    _new: dict[_Key, None] = field(factory=dict, init=False)  # and not yet handed on
    _sent: dict[_Key, float] = field(factory=dict, init=False)  # when each was handed on last
    _sent_to: tuple[int, str] = field(default=(0, ""), init=False)  # term and leader
    _gate: threading.Lock = field(factory=threading.Lock, init=False)

    # -- the door's side, any thread -----------------------------------------------------------------------------------------------

    def submit(self, key: _Key, data: bytes, guest: Guest) -> bool:
        """Take a batch that was checked; False: there is no room for it.

        Args:
            key: session and sequence, and the user whose client sent it.
            data: as ``codec.pack_batch`` returned it.
            guest: who wants to know what became of it.
        """
        with self._gate:
            held = self._held.get(key)
            if held is not None:  # it is under way already: the client lost the connection over which it asked first
                held.guests.append(guest)
                return True
            if not self.admission.enter(len(data)):
                return False
            self._held[key] = _Held(data, [guest])
            self._new[key] = None
            return True

    def cancel(self, key: _Key, guest: Guest) -> None:
        """Forget a guest, and its batch if nobody else waits for it; one that was answered is no error."""
        with self._gate:
            held = self._held.get(key)
            if held is None or guest not in held.guests:
                return
            held.guests.remove(guest)
            if not held.guests:
                self._drop(key)

    def _drop(self, key: _Key) -> _Held | None:
        held = self._held.pop(key, None)
        if held is not None:
            self._new.pop(key, None)
            self._sent.pop(key, None)
            self.admission.leave(1, len(held.data))
        return held

    # -- the node's side -----------------------------------------------------------------------------------------------------------

    @property
    def can_send(self) -> bool:
        """Whether a batch waits that was never handed on, and ``batches_to_send`` would return it."""
        return bool(self._new) and len(self._sent) < FORWARDED_MAX

    def batches_to_send(self, to: tuple[int, str], now: float, *, lossless: bool = False) -> list[bytes]:
        """Return what should go to the leader now: batches that may have been lost, and some of what is new.

        Args:
            to: the term and the leader it goes to.
            now: in seconds.
            lossless: this member leads itself: what it has taken is not lost while its term lasts.
        """
        if not self._held:
            return []
        if to != self._sent_to:
            self._sent_to = to
            self.repeat_all()
        with self._gate:
            keys = [key for key, at in self._sent.items() if at == _LOST or (now - at > self.retry_after and not lossless)]
            fresh = list(islice(self._new, max(0, FORWARDED_MAX - len(self._sent))))
            for key in fresh:
                del self._new[key]
            self._sent.update(dict.fromkeys((*keys, *fresh), now))
            return [self._held[key].data for key in (*keys, *fresh)]

    def repeat_all(self) -> None:
        """Send every batch again at the next chance: the leader it went to did not take it."""
        with self._gate:
            self._sent = dict.fromkeys(self._sent, _LOST)

    def answer(self, outcomes: Iterable[Outcome]) -> None:
        """Answer those whose batches are among the ones that were just applied."""
        if not self._held:
            return
        for outcome in outcomes:
            self._answer((outcome.session, outcome.sequence, outcome.owner), outcome)

    def _answer(self, key: _Key, outcome: Outcome) -> None:
        with self._gate:
            held = self._drop(key)
        for guest in held.guests if held is not None else ():
            guest.finish(outcome)

    def answer_from(self, machine: Machine) -> None:
        """Answer from the session table of a machine that was loaded from a snapshot: what led to it was never applied here."""
        sessions = machine.sessions
        with self._gate:
            keys = [key for key in self._held if key[0]]  # whether a session was opened can't be told, so it is asked for again
        for key in keys:
            session, sequence, owner = key
            if not sessions.knows(session, owner):  # it ended meanwhile; before that, the batch may have been applied
                self._answer(key, Outcome(session, sequence, None, owner=owner))
            elif sessions.has(session, sequence):
                self._answer(key, Outcome(session, sequence, sessions.answers(session, sequence), owner=owner))

    def fail_all(self, error: ReplkvError) -> None:
        """Tell everybody that the member has stopped."""
        with self._gate:
            keys = list(self._held)
            waiting = [held for key in keys if (held := self._drop(key)) is not None]
        for held in waiting:
            for guest in held.guests:
                guest.fail(error)
