"""What was written, what was answered, and whether three histories agree with it: the demo's book-keeping, without any I/O.

Every write has a value of its own, so that a write is known by its (key, value).  A history is everything one member holds, as
``(revision, key, value)`` in the order of revisions; as each write of the demo is a command of its own, no revision may be left out.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TypeAlias

Write: TypeAlias = tuple[str, str]
History: TypeAlias = Sequence[tuple[int, str, str]]
Outcome: TypeAlias = int | str
"""The revision of an acknowledged write, or one of the two words below."""

REFUSED = "refused"
"""The call failed and promised that the write was not applied."""

UNKNOWN = "unknown"
"""No answer: the write may have been applied once."""

FEW = 5
"""Problems of one kind that are spelled out; the rest is counted."""


class Ledger:
    """The parent's own record of all writes and reads."""

    def __init__(self, settings: Mapping[str, str]) -> None:
        self.settings = dict(settings)
        self.keys = tuple(self.settings)
        self.acknowledged: dict[Write, int] = {}
        self.refused: set[Write] = set()
        self.unknown: set[Write] = set()
        self.open: set[Write] = set()
        self.reads = 0
        self.stale: list[str] = []
        self._newest: dict[str, int] = {}
        self._serial = 0

    def first_writes(self) -> list[Write]:
        """Return the settings as they stand in the file, one write each."""
        writes = list(self.settings.items())
        self.open.update(writes)
        return writes

    def next_writes(self, count: int) -> list[Write]:
        """Return ``count`` further writes, going round the keys."""
        writes = []
        for _ in range(count):
            key = self.keys[self._serial % len(self.keys)]
            self._serial += 1
            writes.append((key, f"{self.settings[key]} (change {self._serial})"))
        self.open.update(writes)
        return writes

    def settle(self, write: Write, outcome: Outcome) -> None:
        """Record the answer to a write."""
        self.open.discard(write)
        if isinstance(outcome, int):
            self.acknowledged[write] = outcome
            self._newest[write[0]] = max(outcome, self._newest.get(write[0], 0))
        elif outcome == REFUSED:
            self.refused.add(write)
        else:
            self.unknown.add(write)

    def floor(self, key: str) -> int:
        """Return the revision that a linearizable read of ``key`` that begins now must not fall below."""
        return self._newest.get(key, 0)

    def read(self, member: str, key: str, floor: int, revision: int) -> None:
        """Record a linearizable read that found ``key`` changed last at ``revision``."""
        self.reads += 1
        if revision < floor:
            self.stale.append(f"{member} read {key} of revision {revision}, though revision {floor} was acknowledged before that")

    def problems(self, histories: Mapping[str, History]) -> list[str]:
        """Compare the members' histories with this record.

        Args:
            histories: of each member, up to the same revision.

        Returns:
            What is wrong, in sentences; nothing if no write was lost, doubled or invented, and no read was stale.
        """
        found = _few(self.stale)
        for member, history in histories.items():
            found += _few(self._lost(member, history)) + _few(self._unexpected(member, history)) + _few(_gaps(member, history))
        names = list(histories)
        found += [f"{name} and {names[0]} hold different histories" for name in names[1:] if histories[name] != histories[names[0]]]
        return found

    def _lost(self, member: str, history: History) -> list[str]:
        held = {revision: (key, value) for revision, key, value in history}
        lost = ((write, revision) for write, revision in self.acknowledged.items() if held.get(revision) != write)
        return [
            f"{member} lost the acknowledged write of {write[0]} at revision {revision}: it holds {held.get(revision)} there, not {write}"
            for write, revision in lost
        ]

    def _unexpected(self, member: str, history: History) -> list[str]:
        times = Counter((key, value) for _, key, value in history)
        doubled = [f"{member} applied {write} {count} times" for write, count in times.items() if count > 1]
        asked_for = self.acknowledged.keys() | self.unknown | self.open
        invented = [
            f"{member} holds {write}, which {'was refused as surely not applied' if write in self.refused else 'nobody wrote'}"
            for write in times
            if write not in asked_for
        ]
        return doubled + invented


def _gaps(member: str, history: History) -> list[str]:
    """An empty store is at revision 1, so the first write makes revision 2."""
    pairs = enumerate(history, start=2)
    return [f"{member} has revision {revision} where {place} was due" for place, (revision, _, _) in pairs if revision != place][:1]


def _few(problems: list[str]) -> list[str]:
    rest = len(problems) - FEW
    return [*problems[:FEW], f"… and {rest} more like it"] if rest > 0 else problems
