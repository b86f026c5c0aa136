"""The bound on what is under way at one member: a caller enters with its command, and leaves when it has its answer.

Who finds no room is refused, or waits in line, as its process chose.  Any thread enters; the node's thread lets out, and lets in whom it
finds in line.
"""

from __future__ import annotations

import threading
from collections import deque
from typing import TYPE_CHECKING, Protocol

from attrs import define, field

if TYPE_CHECKING:
    from replkv.errors import ReplkvError


class _Waiting(Protocol):
    """Somebody in line."""

    def finish(self) -> None: ...

    def fail(self, error: ReplkvError, /) -> None: ...


@define(eq=False, repr=False)
class Admission:
    """Counts commands and bytes under way.

    Args:
        most_commands: how many commands may be under way.
        most_bytes: how many bytes; a single command is let in alone whatever its size.
    """

    most_commands: int
    most_bytes: int
    commands: int = field(default=0, init=False)
    bytes: int = field(default=0, init=False)
    _line: deque[tuple[_Waiting, int]] = field(factory=deque, init=False)
    _gate: threading.Lock = field(factory=threading.Lock, init=False)

    def enter(self, size: int) -> bool:
        """Let a command of ``size`` bytes in if there is room, and nobody in line for it."""
        with self._gate:
            if self._line or not self._has_room(size):
                return False
            self.commands += 1
            self.bytes += size
            return True

    def enter_anyway(self, size: int) -> None:
        """Let in a command of the member's own, which keeps leases alive and makes room."""
        with self._gate:
            self._count(1, size)

    def line_up(self, waiting: _Waiting, size: int) -> None:
        """Wait for room: ``waiting`` is finished when its command has been let in."""
        with self._gate:
            self._line.append((waiting, size))
        self.leave(0, 0)  # there may be room by now

    def give_up(self, waiting: _Waiting, size: int) -> bool:
        """Leave the line; False: it was let in meanwhile.  O(callers in line)."""
        with self._gate:
            try:
                self._line.remove((waiting, size))
            except ValueError:
                return False
        self.leave(0, 0)  # there may be room for those behind it
        return True

    def leave(self, commands: int, size: int) -> None:
        """Let commands out, and those in who are first in line."""
        admitted = []
        with self._gate:
            self._count(-commands, -size)
            while self._line and self._has_room(self._line[0][1]):
                waiting, wanted = self._line.popleft()
                self._count(1, wanted)
                admitted.append(waiting)
        for waiting in admitted:
            waiting.finish()

    def fail_all(self, error: ReplkvError) -> None:
        """Send everybody in line away: the member has stopped."""
        with self._gate:
            line, self._line = self._line, deque()
        for waiting, _ in line:
            waiting.fail(error)

    def _has_room(self, size: int) -> bool:
        return self.commands == 0 or (self.commands < self.most_commands and self.bytes + size <= self.most_bytes)

    def _count(self, commands: int, size: int) -> None:
        self.commands += commands
        self.bytes += size
