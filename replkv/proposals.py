"""Commands on their way: from a waiting caller into a batch, to the leader, and back as an answer.

A batch carries (session, sequence).  The leader puts it into a block; every member applies the block; the member whose batch it is
answers its own callers from what it applied itself.  A batch that may have been lost is simply sent again: the session table of the
machine answers a repeat from memory, so that it takes effect once.

Threads: callers append to the queue; everything else belongs to the node's thread.  The gate is held for moments, to decide whether a
caller that gives up was still in the queue.
"""

from __future__ import annotations

import threading
from collections import deque
from itertools import groupby
from typing import TYPE_CHECKING, Any, TypeAlias

from attrs import define, field

from replkv import codec
from replkv.errors import OutcomeUnknown, ReplkvError

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Iterable, Reversible, Sequence

    from replkv.admission import Admission
    from replkv.auth import Subject
    from replkv.machine import Machine, Outcome
    from replkv.wire import Raw

    Look: TypeAlias = Callable[[Machine, int], Any]
    """Sees a machine at a cluster time in microseconds; may raise ``Rejected``."""

BATCH_COMMANDS = 4096
IN_FLIGHT = 4
"""Batches a member has under way: fewer batch better than many, for each waits for the same disks."""
OWN_IN_FLIGHT = 2
"""Batches of the member's own that may be under way besides: leases that are to be kept alive can't wait behind its callers."""


NOBODY: tuple[int, str | None] = (0, None)
"""The term and leader that a batch was handed to, which nobody is."""


class Call:
    """One caller that waits: for a command's answer, or with ``command`` None for the moment a linearizable read may be served.

    A kind of caller is a subclass whose ``finish`` wakes it.
    """

    __slots__ = ("answer", "command", "error", "look")

    def __init__(self, command: bytes | None = None) -> None:
        self.command = command
        self.answer: Raw | None = None
        self.error: ReplkvError | None = None
        self.look: Look | None = None
        """What a caller without a command wants to see of the machine on the node's thread, between two entries."""

    def finish(self) -> None:
        """Wake the caller; runs on the node's thread and must not block."""
        raise NotImplementedError

    @classmethod
    def finish_together(cls, calls: Iterable[Call]) -> None:
        """Wake callers of this kind who have their answers at the same moment; for kinds that have less to do then."""
        for call in calls:
            call.finish()

    def fail(self, error: ReplkvError) -> None:
        """Finish with an error."""
        self.error = error
        self.finish()


def finish(calls: Sequence[Call]) -> None:
    """Wake callers in their order, those of one kind that follow each other together."""
    if len(calls) == 1:
        calls[0].finish()
        return
    for kind, alike in groupby(calls, type):
        kind.finish_together(alike)  # type: ignore[attr-defined]  # the kind of a call


class OwnCall(Call):
    """A command, or a read barrier, of the member's own; what is to be done with the answer runs on the node's thread."""

    __slots__ = ("_then",)

    def __init__(self, command: bytes | None, then: Callable[[Call], None]) -> None:
        super().__init__(command)
        self._then = then

    def finish(self) -> None:
        """Do what is to be done with the answer."""
        self._then(self)


@define(eq=False, repr=False)
class _Batch:
    """A batch under way: its bytes as they stand in a block, and whom to answer in which order."""

    data: bytes
    calls: list[Call]
    size: int  # of the commands
    sent_in: tuple[int, str | None]  # term and leader it was handed to
    sent_at: float
    repeated: bool = False  # so that it may have been applied although this time it was not


@define(eq=False, repr=False)
class Proposals:
    """The commands of this member's callers."""

    rng: random.Random
    block_bytes: int
    retry_after: float
    admission: Admission
    sees_all: bool = True
    """Whether every outcome comes by here, as at a member: one that lost its way is known never to have been."""
    guest: Subject | None = field(default=None, init=False)
    """On whose behalf batches are sent; None: a member's own."""
    held: bool = field(default=False, init=False)
    """Whether callers' commands stay in the queue: this member is being removed, and would hardly learn what became of them."""
    _last: bytes | None = field(default=None, init=False)
    _over: bool = field(default=False, init=False)  # the last one has been taken
    refused: bool = field(default=False, init=False)
    """Whether a batch came back empty, its commands are in the queue again, and nobody has looked yet why."""
    session: int = field(default=0, init=False)
    _nonce: int = field(default=0, init=False)
    _opening_at: float = field(default=0.0, init=False)
    _opening_in: tuple[int, str | None] = field(default=NOBODY, init=False)  # as a batch's sent_in
    _sequence: int = field(default=0, init=False)
    _queue: deque[Call] = field(factory=deque, init=False)
    _own: deque[Call] = field(factory=deque, init=False)  # the member's own, which go first
    _gate: threading.Lock = field(factory=threading.Lock, init=False)
    _batches: dict[int, _Batch] = field(factory=dict, init=False)

    # -- callers' side, any thread -------------------------------------------------------------------------------------------------

    def submit(self, call: Call) -> None:
        """Queue a command that was let in."""
        (self._own if isinstance(call, OwnCall) else self._queue).append(call)

    def give_up(self, call: Call) -> bool:
        """Take a call out of the queue; False: it is out already, in a batch or answered.  O(calls waiting)."""
        with self._gate:
            try:
                self._queue.remove(call)
            except ValueError:
                return False
        self._let_out((call,))
        return True

    def end_with(self, command: bytes | None) -> None:
        """Take nothing more behind this command, which removes the member; None: take up what waits behind it."""
        with self._gate:
            self._last, self._over = command, False

    def refuse(self, call: Call, error: ReplkvError) -> None:
        """Refuse a command that was let in and not yet queued."""
        self._let_out((call,))
        call.fail(error)

    def refuse_queued(self, refusal: Callable[[bytes], ReplkvError | None]) -> None:
        """Refuse those commands in the queue for which there is a reason."""
        with self._gate:
            found = [(call, refusal(call.command or b"")) for call in self._queue]
            self._queue = deque(call for call, error in found if error is None)
        for call, error in found:
            if error is not None:
                self.refuse(call, error)

    def _let_out(self, calls: Sequence[Call]) -> None:
        self.admission.leave(len(calls), sum(len(call.command or b"") for call in calls))

    # -- the node's side -----------------------------------------------------------------------------------------------------------

    @property
    def can_send(self) -> bool:
        """Whether a call waits and ``batches_to_send`` would take it."""
        if not (self._queue or self._own):
            return False
        return bool(self.session) and (self._may_send(self._own) or self._may_send(self._queue))

    def _may_send(self, queue: deque[Call]) -> bool:
        own = queue is self._own
        return bool(queue) and (own or not (self.held or self._over)) and len(self._batches) < IN_FLIGHT + (OWN_IN_FLIGHT if own else 0)

    @property
    def under_way(self) -> bool:
        """Whether a batch waits for its answer."""
        return bool(self._batches)

    def batches_to_send(self, to: tuple[int, str | None], now: float, *, lossless: bool = False) -> list[bytes]:
        """Return what should go to the leader now: batches that may have been lost, and some of what waits.

        Args:
            to: the term and the leader it goes to.
            now: in seconds.
            lossless: this member leads itself: what it has taken is not lost while its term lasts.
        """
        retry_after = float("inf") if lossless else self.retry_after
        batches = self._to_repeat(to, now, retry_after) if self._batches else []
        if not (self._queue or self._own):
            return batches
        if not self.session:
            if self._opening_in != to or now - self._opening_at > retry_after:
                self._nonce = self._nonce or self.rng.getrandbits(62) + 1
                self._opening_at, self._opening_in = now, to
                batches.append(codec.pack_batch(0, self._nonce, 0, (), self.guest))
            return batches
        for queue in (self._own, self._queue):
            if self._may_send(queue) and (batch := self._next_batch(queue, to, now)):
                batches.append(batch)
        return batches

    def _to_repeat(self, to: tuple[int, str | None], now: float, retry_after: float) -> list[bytes]:
        repeated = []
        for batch in self._batches.values():
            if batch.sent_in != to or now - batch.sent_at > retry_after:
                batch.sent_in, batch.sent_at, batch.repeated = to, now, True
                repeated.append(batch.data)
        return repeated

    def _next_batch(self, queue: deque[Call], to: tuple[int, str | None], now: float) -> bytes:
        calls, size = self._take(queue)
        if not calls:
            return b""  # the last one who waited has just given up
        self._sequence += 1
        lowest = min(self._batches, default=self._sequence)
        data = self._pack(self._sequence, lowest, calls)
        self._batches[self._sequence] = _Batch(data, calls, size, to, now)
        return data

    def _pack(self, sequence: int, lowest: int, calls: Iterable[Call]) -> bytes:
        return codec.pack_batch(self.session, sequence, lowest, [call.command for call in calls if call.command is not None], self.guest)

    def speak_as(self, guest: Subject) -> None:
        """Send batches on behalf of a user from now on; what is unanswered goes on under its numbers if that is the one it was before.

        A session belongs to its user.  So if it is another one, nobody will learn any more what became of the batches under way.
        """
        before, self.guest = self.guest, guest
        if before == guest:
            return
        if before is not None and before[0] == guest[0]:  # it has proved anew who it is, and its commands count only if they say so
            for sequence, batch in self._batches.items():
                batch.data = self._pack(sequence, min(self._batches), batch.calls)
            return
        self.leave_session("the client is another user now than when the write was handed over")

    def leave_session(self, reason: str) -> None:
        """Begin another session with what comes next; what became of the batches under way, nobody will learn any more."""
        unknown = OutcomeUnknown(f"{reason}; it may have been applied")
        lost = list(self._batches.values())
        self._batches.clear()
        self.session, self._nonce, self._opening_in = 0, 0, NOBODY
        for batch in lost:
            self.admission.leave(len(batch.calls), batch.size)
            _fail(batch.calls, unknown)

    def _take(self, queue: deque[Call]) -> tuple[list[Call], int]:
        """Take from a queue what fits into one batch; return its size too."""
        calls: list[Call] = []
        size = 0
        with self._gate:
            while queue and len(calls) < BATCH_COMMANDS:
                more = len(queue[0].command or b"")
                if calls and size + more > self.block_bytes:
                    break
                size += more
                calls.append(queue.popleft())
                if self._last is not None and calls[-1].command == self._last:
                    self._over = True
                    break
        return calls, size

    def repeat_all(self) -> None:
        """Send every batch again at the next chance: the leader it went to did not take it."""
        self._opening_in = NOBODY
        for batch in self._batches.values():
            batch.sent_in = NOBODY

    def answer(self, outcomes: Iterable[Outcome]) -> None:
        """Answer the callers of this member's batches among those that were just applied."""
        for outcome in outcomes:
            if outcome.session == self.session and outcome.session:
                if outcome.expired:
                    self._start_anew()
                else:
                    self._answer_batch(outcome.sequence, outcome.answers)
            elif outcome.opened and outcome.sequence == self._nonce and not self.session:
                self.session, self._sequence, self._nonce = outcome.opened, 0, 0
            elif outcome.expired and outcome.sequence == self._nonce and not self.session:
                self._opening_in = NOBODY  # there was no number left for it in its block

    def _answer_batch(self, sequence: int, answers: Sequence[Raw] | None) -> None:
        batch = self._batches.pop(sequence, None)
        if batch is None:
            return  # a repeat of what was answered before
        if answers is not None and not answers:  # the leader has emptied it (``space.py``): its number is used up, it was never applied
            self._queue_again([batch])
            self.refused = True
            return
        self.admission.leave(len(batch.calls), batch.size)
        if answers is None:
            _fail(batch.calls, OutcomeUnknown("the write may have been applied, its answer is no longer kept"))
            return
        for call, answer in zip(batch.calls, answers, strict=True):
            call.answer = answer
        finish(batch.calls)

    def _start_anew(self) -> None:
        """The session expired: its batches that were not applied before never will be, so they go into a new one."""
        lost = [] if self.sees_all else [batch for batch in self._batches.values() if batch.repeated]
        self._queue_again([batch for batch in self._batches.values() if batch not in lost])
        self._batches.clear()
        self.session, self._opening_in = 0, NOBODY
        for batch in lost:
            self.admission.leave(len(batch.calls), batch.size)
            _fail(batch.calls, OutcomeUnknown("nobody could be reached for longer than a session lasts; the write may have been applied"))

    def take_back(self, data: bytes) -> bool:
        """Queue the commands of a batch again that was not taken; False: it was sent before, and may have been applied."""
        sequence = next((sequence for sequence, batch in self._batches.items() if batch.data is data and not batch.repeated), None)
        if sequence is None:
            return False
        self._queue_again([self._batches.pop(sequence)])
        return True

    def _queue_again(self, batches: Reversible[_Batch]) -> None:
        with self._gate:
            for batch in reversed(batches):
                queue = self._own if isinstance(batch.calls[0], OwnCall) else self._queue
                queue.extendleft(reversed(batch.calls))
                self._over = False  # the last one may be among them

    def answer_from(self, machine: Machine) -> None:
        """Answer from the session table of a machine that was loaded from a snapshot: what led to it was never applied here."""
        if not self.session:
            return
        if not machine.sessions.knows(self.session):
            for batch in self._batches.values():
                self.admission.leave(len(batch.calls), batch.size)
                _fail(
                    batch.calls, OutcomeUnknown("this member was away for longer than its session lasts; the write may have been applied")
                )
            self._batches.clear()
            self.session, self._opening_in = 0, NOBODY
            return
        for sequence in list(self._batches):
            if machine.sessions.has(self.session, sequence):
                self._answer_batch(sequence, machine.sessions.answers(self.session, sequence))

    def fail_all(self, not_sent: ReplkvError, sent: ReplkvError) -> None:
        """Finish every call: the member has stopped."""
        with self._gate:
            queued = [*self._own, *self._queue]
            self._own.clear()
            self._queue.clear()
        _fail(queued, not_sent)
        self.admission.fail_all(not_sent)
        for batch in self._batches.values():
            _fail(batch.calls, sent)
        self._batches.clear()


def _fail(calls: Iterable[Call], error: ReplkvError) -> None:
    for call in calls:
        call.fail(error)
