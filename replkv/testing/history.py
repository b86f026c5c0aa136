"""What clients saw: every operation with the moments of its call and its return, and how it ended.

Moments are a count of such events, not seconds: two of them are never equal, so "returned before the other was called" is always clear.
"""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING

from attrs import define, field

if TYPE_CHECKING:
    from replkv.testing.rights import Subject
    from replkv.wire import Raw


Slot = tuple[int, int, int]
"""Where a command stands: session, sequence, place in the batch."""


class Violation(Exception):
    """A promise of replkv was broken; ``rule`` is the short name of the promise, as the tests know it."""

    def __init__(self, rule: str, text: str) -> None:
        super().__init__(f"{rule}: {text}")
        self.rule = rule


class Consistency(Enum):
    """How an operation wants to be placed in time."""

    WRITE = "write"
    LINEARIZABLE = "linearizable"
    LEASE = "lease"
    LOCAL = "local"


class Outcome(Enum):
    """How an operation ended.  UNKNOWN: it may have taken effect once, or may still; FAILED: it never did and never will."""

    PENDING = "pending"
    ANSWERED = "answered"
    FAILED = "failed"
    UNKNOWN = "unknown"


@define(eq=False, repr=False)
class Operation:
    """One call of one client.

    Args:
        number: the operation's place in the history.
        where: the member that was asked, and which of its lives: one process's view of the store never goes back.
        consistency: how it wants to be placed in time.
        wire: the packed operation; no two writes of a history are alike.
        called: when.
        returned: when; None while it has not.
        outcome: how it ended.
        answer: the raw answer, if there was one.
        revision: that of the store a read was answered from.
        compacted: how far that store had been compacted.
        fresh: a moment before which everything that was acknowledged is seen by this local read; 0: none was promised.
        subject: the user who reads, if it is not the member itself.
        least: the entry up to which the member had applied the log when a user's read was called.
        most: likewise when it was answered.
        slots: where a write's command stood: session, sequence of its batch, place in it; again in another session if the first expired.
    """

    number: int
    where: str
    consistency: Consistency
    wire: Raw
    called: int
    returned: int | None = None
    outcome: Outcome = Outcome.PENDING
    answer: Raw | None = None
    revision: int = 0
    compacted: int = 0
    fresh: int = 0
    subject: Subject | None = None
    least: int = 0
    most: int = 0
    slots: list[Slot] = field(factory=list)

    def __str__(self) -> str:
        wire, answer = (f"{value!r:.200}" for value in (self.wire, self.answer))
        who = "" if self.subject is None else f" for {self.subject}"
        return f"#{self.number} {self.consistency.value} {wire}{who} at {self.where}: {self.outcome.value} {answer}"


@define(eq=False, repr=False)
class History:
    """All operations of a run, in the order of their calls."""

    operations: list[Operation] = field(factory=list)
    moment: int = 0

    def call(self, where: str, consistency: Consistency, wire: Raw) -> Operation:
        """Note that a client calls."""
        operation = Operation(len(self.operations), where, consistency, wire, self._next())
        self.operations.append(operation)
        return operation

    def answered(self, operation: Operation, answer: Raw, revision: int = 0, compacted: int = 0) -> None:
        """Note an answer; for a read with the revision of the store it was read from, and how far that was compacted."""
        operation.answer, operation.revision, operation.compacted = answer, revision, compacted
        self._end(operation, Outcome.ANSWERED)

    def failed(self, operation: Operation) -> None:
        """Note that an operation surely did not and will not take effect."""
        self._end(operation, Outcome.FAILED)

    def unknown(self, operation: Operation) -> None:
        """Note that nobody can tell the caller what became of it."""
        self._end(operation, Outcome.UNKNOWN)

    def _end(self, operation: Operation, outcome: Outcome) -> None:
        if operation.outcome is not Outcome.PENDING:
            raise Violation("X3", f"an operation ended twice, now {outcome.value}: {operation}")
        operation.outcome, operation.returned = outcome, self._next()

    def _next(self) -> int:
        self.moment += 1
        return self.moment
