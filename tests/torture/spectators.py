"""Watchers of a tortured cluster: each follows all changes from the first one on, on one member after the other."""

from __future__ import annotations

import threading
from concurrent.futures import TimeoutError as NoAnswer
from typing import Any

from arena import Arena
from clients import REFUSALS
from cluster import UNKNOWN, CallError, Member

FIRST = 2  # the revision of the first change
AT_ONCE = 200  # events asked for in one call
WAIT = 0.3  # s for an event
GRACE = 3.0  # s more until another member is asked; this one may be paused
REST = 0.1  # s after a member that does not answer


class Spectator(threading.Thread):
    """Follows until it has seen a revision; ``seen`` are events: kind, key, value, revision, expired."""

    def __init__(self, name: str, arena: Arena) -> None:
        super().__init__(name=name, daemon=True)
        self.seen: list[list[Any]] = []
        self.failure: BaseException | None = None
        self._arena = arena
        self._until: int | None = None
        self._gave_up = threading.Event()
        self._watches = 0

    def run(self) -> None:
        members = list(self._arena)
        at = int(self.name)
        try:
            while not self._done:
                self._follow(members[at % len(members)])
                at += 1
                self._gave_up.wait(REST)
        except BaseException as failure:  # noqa: BLE001  # for the run to see
            self.failure = failure
            self._arena.note(f"spectator {self.name} met {type(failure).__name__}: {failure}")

    @property
    def _done(self) -> bool:
        reached = self._until is not None and bool(self.seen) and self.seen[-1][3] >= self._until
        return reached or self._gave_up.is_set()

    def _follow(self, member: Member) -> None:
        """Follow on one member, as long as it answers; begin with the last revision seen, of which a part may be missing."""
        self._watches += 1
        watch = f"{self.name}.{self._watches}"
        again = self.seen[-1][3] if self.seen else FIRST
        had = {event[1] for event in self.seen if event[3] == again}
        try:
            member.ask("begin_watch", watch, start_revision=again).result(GRACE)
            while not self._done:
                events = member.ask("events", watch, AT_ONCE, WAIT).result(WAIT + GRACE)
                self.seen += [event for event in events if event[3] != again or event[1] not in had]
        except CallError as error:
            if error.kind not in (*UNKNOWN, *REFUSALS):
                raise
        except NoAnswer:
            pass

    def finish(self, revision: int, timeout: float) -> None:
        """Have it end once it has seen a revision, and wait for that."""
        self._until = revision
        self.join(timeout)
        late = self.is_alive()
        self._gave_up.set()
        self.join(GRACE + WAIT + 1.0)
        if self.failure is not None:
            raise self.failure
        at = self.seen[-1][3] if self.seen else 0
        assert not late, f"the watch of spectator {self.name} is at revision {at} and not at {revision} after {timeout} s"
