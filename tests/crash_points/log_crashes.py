"""Stop a log everywhere, let everything legal survive, recover; stop the recovery everywhere, too, and the one after that.

Whatever happens, recovery finds either what the last sync that returned made durable, or that and the whole of the one flush that was
under way: nothing lost, nothing half, nothing invented.  What it has found, and what is written from then on, is durable.

Where a disk was damaged, what is found is a part of that, and says how far the log went, or that nobody can know; a recovery that was
interrupted there comes to the same end in the next life.
"""

from __future__ import annotations

import contextlib

from attrs import define, evolve, field, frozen
from log_life import LogLife, NoRoom, entry
from log_memory import Harm, Memory, State
from log_protocols import LogProtocol
from stopping import End, Stop, Stopped, StoppingDisk, Tally, fingerprint, outcomes, sample, stopped, stops

from replkv.errors import Corrupt, DiskFull, StorageError
from replkv.messages import UNKNOWN
from replkv.testing.disk import SimDisk, SimulatedCrash

IN_RECOVERY = 4
"""Parts of what was not synced that are tried at each stop of a recovery."""


@frozen
class Ground:
    """What a life begins on: a disk, what has to be found there, and how many recoveries came to a stop on the way."""

    disk: SimDisk
    memory: Memory
    interrupted: int = 0


@define
class LogCrashes:
    """Explores all that may become of a log.

    Args:
        limit: how many parts of what was not synced are tried at each stop.
        again: how many times in a row recovery is stopped.
        points: how many stops of a protocol are tried, chosen by lot; None: all.
    """

    limit: int
    again: int
    points: int | None = None
    tally: Tally = field(factory=Tally)
    _known: set[tuple[bytes, str]] = field(factory=set)
    _ahead: list[Ground] = field(factory=list)

    def run(self, protocol: LogProtocol) -> Tally:
        """Stop a protocol everywhere, and let the disk be full from everywhere on."""
        rehearsal = StoppingDisk()
        protocol(LogLife(rehearsal))
        self.tally.operations = rehearsal.changes
        for stop in sample(stops(rehearsal), self.points):
            self._stop(protocol, stop)
        for full_from in sample(range(rehearsal.changes), self.points):
            self._fill(protocol, full_from)
        return self.explore()

    def explore(self, *grounds: Ground) -> Tally:
        """Recover on disks, and on all that becomes of them when that is interrupted."""
        self._ahead += grounds
        while self._ahead:
            self._recover(self._ahead.pop())
        return self.tally

    # -- in a protocol ----------------------------------------------------------------------------------------------------------------

    def _stop(self, protocol: LogProtocol, stop: Stop) -> None:
        life = LogLife(StoppingDisk(stop))
        with contextlib.suppress(SimulatedCrash, StorageError):
            protocol(life)
        self._note_outcomes(stopped(life.disk), life.memory, self.limit)

    def _fill(self, protocol: LogProtocol, full_from: int) -> None:
        """Let there be no more room from one change on: what is there is enough to begin again, before and after there is room."""
        disk = StoppingDisk(full_from=full_from)
        life = LogLife(disk)
        with contextlib.suppress(NoRoom, DiskFull):
            protocol(life)
        for end in (End.POWER, End.KILL):
            for ground in self._note_outcomes(Stopped(end, disk.copy()), life.memory, self.limit):
                self._recover_without_room(ground)

    def _recover_without_room(self, ground: Ground) -> None:
        life = LogLife(StoppingDisk(like=ground.disk, full_from=0), ground.memory)
        try:
            life.start()
        except DiskFull:
            assert ground.memory.durable is None, "what is in use already needs no more room to begin"
            return
        with contextlib.suppress(NoRoom):
            life.put(life.noted.hard_state.term + 1, entry(len(life.noted.entries) + 1, life.noted.hard_state.term + 1))
        self._note_outcomes(Stopped(End.POWER, life.disk.copy()), life.memory, 1)

    # -- in a recovery ----------------------------------------------------------------------------------------------------------------

    def _recover(self, ground: Ground) -> None:
        self.tally.recoveries += 1
        rehearsal = StoppingDisk(like=ground.disk)
        life = LogLife(rehearsal, ground.memory)
        try:
            life.start()
        except Corrupt:
            assert ground.memory.harm and not (ground.memory.durable and ground.memory.durable.founding)
            return  # it was never a member of anything: nothing is lost with it
        for stop in stops(rehearsal) if ground.interrupted < self.again else ():
            interrupted = LogLife(StoppingDisk(stop, ground.disk), ground.memory)
            with contextlib.suppress(SimulatedCrash, StorageError):
                interrupted.start()
            memory = left_to_find(ground.memory, life.memory, stop)
            self._note_outcomes(stopped(interrupted.disk), memory, IN_RECOVERY, ground.interrupted + 1)
        if self._is_new(life.disk, f"alive with {life.memory}"):
            live_on(life)

    def _note_outcomes(self, left: Stopped, memory: Memory, limit: int, interrupted: int = 0) -> list[Ground]:
        """Note what may be left of a disk; return what is new of that."""
        look = repr(memory)
        new = [Ground(disk, memory, interrupted) for disk in outcomes(left, limit, self.tally) if self._is_new(disk, look)]
        self._ahead += new
        return new

    def _is_new(self, disk: SimDisk, memory: str) -> bool:
        """Tell whether a disk was not met like this before, with this to be found on it."""
        look = fingerprint(disk), memory
        known = look in self._known
        self._known.add(look)
        return not known


def left_to_find(before: Memory, after: Memory, stop: Stop) -> Memory:
    """Return what has to be found after a recovery that came to a stop."""
    if after.durable is not None and after.durable.visible not in [state.visible for state in before.possible]:
        return after  # what was saved of a damaged log
    # Where a torn tail was cut and the cache believes it, but the disk does not, nothing can be known of it: it comes to light later.
    harm = Harm(before.durable or State(), doubt=True) if stop.end is End.KEPT else None
    return evolve(before, harm=before.harm or harm)


def live_on(life: LogLife) -> None:
    """Write, into new segments too, and lose all that is not synced: it must have been durable."""
    for _ in range(2):
        if life.noted.floor == UNKNOWN:
            life.set_floor(life.noted.end)
        last = len(life.noted.entries)
        term = life.noted.hard_state.term + 1
        for size in (40, 1000, 2500):
            last += 1
            life.put(term, entry(last, term, size))
        life.disk.crash(keep=[False] * life.disk.unsynced)
        life = LogLife(life.disk, life.memory)
        life.start()
