"""Sessions: a batch of commands that arrives twice is executed once (thesis §6.3).

A member whose batch may have been lost sends it again, under the same session and sequence.  A session remembers the answers of what
it has executed and gives them again.  It forgets those below the lowest sequence the member still waits for, those more than 4,096
sequences or 8 MiB back, and all of them after ``ttl`` of silence in cluster time: what may have been executed before is then never
executed, and the member tells its caller that the outcome is unknown.
"""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING, Any

from attrs import define, field

from replkv import codec

if TYPE_CHECKING:
    from collections.abc import Iterator

    from replkv.wire import Raw

WINDOW = 4096
"""How many sequences of a session are remembered."""

WINDOW_BYTES = 8 << 20
"""How many bytes of packed answers a session remembers."""

KEPT_MAX = 64 << 10
"""Answers of one batch that are larger than this, packed, are not remembered; that it was executed is."""


class Verdict(Enum):
    """What to do with a batch that arrives."""

    NEW = 1
    """Execute it, then ``record`` its answers."""
    REPEAT = 2
    """It was executed: ``answers`` has what came of it."""
    FORGOTTEN = 3
    """It may have been executed; nobody knows any more."""
    EXPIRED = 4
    """Its session is unknown: never execute it."""


@define
class Session:
    """What one session remembers.

    Attributes:
        heard: cluster time of its newest batch.
        owner: the user whose client opened it, and who alone may use it; None: a member.
        floor: everything below this sequence is forgotten.
        answers: the packed answers by sequence; empty where they were too large to keep.
        size: how many bytes they take together.
    """

    heard: int
    owner: str | None = None
    floor: int = 0
    answers: dict[int, bytes] = field(factory=dict, repr=False)  # there are values in them
    size: int = 0

    def forget(self, below: int) -> None:
        """Forget all sequences below one; amortised constant time."""
        if below - self.floor > len(self.answers):
            gone = [sequence for sequence in self.answers if sequence < below]
        else:
            gone = list(range(self.floor, below))
        for sequence in gone:
            self.size -= len(self.answers.pop(sequence, b""))
        self.floor = max(self.floor, below)

    def keep(self, sequence: int, packed: bytes) -> None:
        """Remember a batch's answers, within the window."""
        self.answers[sequence] = packed
        self.size += len(packed)
        if sequence - WINDOW >= self.floor:
            self.forget(sequence - WINDOW + 1)
        while self.size > WINDOW_BYTES:
            self.forget(min(self.answers) + 1)


class Sessions:
    """All sessions, in the order in which they were last heard of."""

    def __init__(self) -> None:
        self._table: dict[int, Session] = {}

    def __len__(self) -> int:
        return len(self._table)

    def open(self, session: int, time: int, owner: str | None = None) -> None:
        """Begin a session; ``time`` is the cluster time in microseconds, ``owner`` the user whose client asks for it."""
        self._table[session] = Session(time, owner)

    def end_of(self, owner: str) -> None:
        """End the sessions of a user, who is no more: another one of that name must not be told what the first one was."""
        for number in [number for number, session in self._table.items() if session.owner == owner]:
            del self._table[number]

    def expire(self, time: int, ttl: int) -> int:
        """End the sessions not heard of for longer than ``ttl`` microseconds, at cluster time ``time``; return how many."""
        expired = []
        for number, session in self._table.items():
            if time - session.heard <= ttl:
                break
            expired.append(number)
        for number in expired:
            del self._table[number]
        return len(expired)

    def lookup(self, session: int, sequence: int, lowest: int, time: int, owner: str | None = None) -> Verdict:
        """Judge a batch that arrives at cluster time ``time``, and forget what is below the lowest sequence its sender waits for.

        To anybody but its owner a session is unknown: its numbers can be guessed, and it remembers answers.
        """
        known = self._table.get(session)
        if known is None or known.owner != owner:
            return Verdict.EXPIRED
        self._table[session] = self._table.pop(session)  # to the end: the table stays in the order of ``heard``
        known.heard = time
        if lowest > known.floor:
            known.forget(lowest)
        if sequence < known.floor:
            return Verdict.FORGOTTEN
        return Verdict.REPEAT if sequence in known.answers else Verdict.NEW

    def record(self, session: int, sequence: int, answers: tuple[Raw, ...]) -> bytes:
        """Remember what came of a batch, and return it packed, empty if that is too large to be kept.

        Packed its size is known, and the collector has nothing to walk through.
        """
        packed = codec.pack(answers) if _fits(answers) else b""
        if len(packed) > KEPT_MAX:
            packed = b""
        if (known := self._table.get(session)) is not None:  # else the batch has removed its own user
            known.keep(sequence, packed)
        return packed

    def knows(self, session: int, owner: str | None = None) -> bool:
        """Tell whether a session is open, and its owner's who asks."""
        known = self._table.get(session)
        return known is not None and known.owner == owner

    def has(self, session: int, sequence: int) -> bool:
        """Tell whether a batch was executed and is not forgotten."""
        known = self._table.get(session)
        return known is not None and sequence in known.answers

    def answers(self, session: int, sequence: int) -> tuple[Raw, ...] | None:
        """Return the answers of a batch that was executed; None: they were too large to be kept."""
        packed = self._table[session].answers[sequence]
        return codec.unpack(packed) if packed else None

    # -- snapshots -----------------------------------------------------------------------------------------------------------------

    def pin(self) -> list[tuple[int, Session]]:
        """Return a copy of the table that later batches leave alone."""
        return [(number, Session(s.heard, s.owner, s.floor, dict(s.answers), s.size)) for number, s in self._table.items()]

    def load(self, number: int, session: Session) -> None:
        """Add a session of a table that was pinned, in its order.

        Raises:
            ValueError: it can't stand there.
        """
        newest = next(reversed(self._table.values())).heard if self._table else 0
        misplaced = not number or number in self._table or session.heard < newest
        outside = any(not session.floor <= sequence < session.floor + WINDOW for sequence in session.answers)
        if misplaced or outside or len(max(session.answers.values(), key=len, default=b"")) > KEPT_MAX or session.size > WINDOW_BYTES:
            raise ValueError(f"session {number} can't be what a table held")
        self._table[number] = session


def _fits(answers: tuple[Raw, ...]) -> bool:
    """Tell whether answers may take ``KEPT_MAX`` bytes or less when packed, at a cost that does not grow with what they hold.

    Packing a million records only to find them too large would hold up the member.
    """
    room = KEPT_MAX - 3 * len(answers)
    for answer in answers if room >= 0 else ():
        last = answer[-1]
        if last is not None and (type(last) is tuple or len(answer) > 3):  # it may hold records; most answers end with nothing
            room = _left(answer, room)
            if room < 0:
                return False
    return room >= 0


def _left(values: Raw, room: int) -> int:
    """Return how much room is left at most behind packed values; negative as soon as there is none."""
    for value in values:
        room -= 1
        if type(value) is bytes:
            room -= len(value)
        elif type(value) is tuple:
            room = _left(value, room)
        if room < 0:
            break
    return room


def rows(pinned: list[tuple[int, Session]]) -> Iterator[tuple[Any, ...]]:
    """Yield a pinned table as plain rows: each session, followed by its answers."""
    for number, session in pinned:
        yield (number, session.heard, session.owner, session.floor, len(session.answers))
        yield from session.answers.items()
