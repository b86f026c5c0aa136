"""One member as the search sees it: the real Raft value, the disk under it, and what a step makes of the two.

A member is never changed.  A step works on a copy and gives another member, the messages that left, and what happened to reads.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias, cast

from attrs import define, evolve, field, frozen

from replkv import codec
from replkv.messages import NOWHERE, UNKNOWN, Entry, EntryKind, HardState, Position, SnapshotMeta
from replkv.raft import Raft, Ready, Restored, Role
from replkv.raftlog import configuration_in
from replkv.testing.history import Violation
from replkv.testing.search import rules
from replkv.testing.search.profiles import configuration
from replkv.testing.search.values import BASE, copied, key

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Sequence

    from replkv.testing.search.profiles import Profile

Input: TypeAlias = tuple[Any, ...]
"""What happens to a member: a word, and what it needs to know."""

AT_ONCE = {"turn", "sync", "crash", "rot", "doubt", "wait"}
"""What even a hasty member looks after at once."""


@frozen
class Steady:
    """A source of randomness that surprises nobody: all wait equally long, for the search decides whose patience ends first.

    Args:
        life: of how many that began with a loss this is; numbers that must never be used twice come from it.
    """

    life: int

    def uniform(self, _low: float, high: float) -> float:
        """Return the longest."""
        return high

    def getrandbits(self, _count: int) -> int:
        """Return the first of some numbers that no other life uses."""
        return 100 * self.life


@frozen
class Stream:
    """A snapshot on its way to a follower, as one message."""

    meta: SnapshotMeta


@frozen
class Streamed:
    """The end of that, as the sender notices it."""


@frozen
class Disk:
    """What a member has durably.  ``floor`` is where its log ended before a part of it was lost, ``losses`` how many lives that shaped."""

    hard_state: HardState
    entries: tuple[Entry, ...]
    snapshot: SnapshotMeta | None = None
    floor: Position = NOWHERE
    losses: int = 0

    def written(self, hard_state: HardState | None, floor: Position | None, entries: Sequence[Entry]) -> Disk:
        """Return what is there after a write; the first entry replaces everything from its index on."""
        kept = tuple(entry for entry in self.entries if entry.index < entries[0].index) if entries else self.entries
        after = evolve(self, hard_state=hard_state or self.hard_state, floor=floor or self.floor, entries=(*kept, *entries))
        return after if after.log.end < after.floor else evolve(after, floor=NOWHERE)

    @property
    def log(self) -> Log:
        """The entries, and what is known of those before them."""
        known = self.snapshot is not None and (not self.entries or self.entries[0].index > 1)
        base = Position(self.snapshot.term, self.snapshot.index) if self.snapshot is not None and known else NOWHERE
        return Log(base, tuple(entry for entry in self.entries if entry.index > base.index))

    def covers(self, entry: Entry) -> bool:
        """Tell whether this disk holds an entry, or has its member vote as if it did."""
        return self.log.holds(entry) or self.floor >= Position(entry.term, entry.index)


@frozen
class Log:
    """A log to be compared with others; of what it no longer holds it knows the end, ``base``."""

    base: Position
    entries: tuple[Entry, ...]

    @property
    def last_index(self) -> int:
        """The index of the newest entry, or of the base."""
        return self.base.index + len(self.entries)

    @property
    def end(self) -> Position:
        """Where it ends: the greater one is the more up to date."""
        return Position(self.entries[-1].term, self.last_index) if self.entries else self.base

    def at(self, index: int) -> Entry | None:
        """Return an entry, None if it is not here."""
        return self.entries[index - self.base.index - 1] if self.base.index < index <= self.last_index else None

    def holds(self, entry: Entry) -> bool:
        """Tell whether this log has the entry, or had it before a snapshot took its place."""
        mine = self.at(entry.index)
        return entry.index <= self.base.index if mine is None else mine.encoded == entry.encoded

    @classmethod
    def of(cls, raft: Raft) -> Log:
        """Return a member's log as it has it in memory."""
        log = raft._log
        return cls(Position(log.base_term, log.base_index), tuple(log.between(log.base_index + 1, log.last_index)))


@define(eq=False)
class Member:
    """A member between two steps.

    Args:
        raft: never to be changed.
        disk: what a crash leaves.
        clock: its own time, seconds.
        busy: effects that wait for the disk; it takes nothing in meanwhile.
        applied: the last entry handed out to be applied in this life.
        behind: inputs were taken in whose effects were not asked for yet.
        log: what it has in memory.
    """

    raft: Raft
    disk: Disk
    clock: float
    busy: Ready | None
    applied: int
    behind: bool
    log: Log

    @property
    def name(self) -> str:
        """Who this is."""
        return self.raft.name

    @property
    def leads(self) -> bool:
        """Whether it leads; one that elects itself alone does not before that is durable, for till then a crash undoes it."""
        return self.raft.role is Role.LEADER and self.disk.hard_state.term == self.raft.term

    @property
    def holds_lease(self) -> bool:
        """Whether it may answer reads from memory."""
        return self.raft.lease_until > self.clock

    def key(self, horizon: float) -> bytes:
        """Return what tells this member from any other that could behave differently."""
        return key((self.raft, self.disk, self.busy, self.applied, self.behind), self.clock, horizon)


@define(eq=False)
class Turn:
    """A step under way, on a copy; what it did is to be read from it afterwards.

    Args:
        profile: the scope.
        name: of the member.
        disk: what it has durably.
        eager: the disk takes no time.
        hasty: what follows from an input waits for a further one.
        clock: its own time, seconds.
        busy: effects that wait for the disk.
        applied: the last entry handed out to be applied in this life.
        behind: inputs were taken in whose effects were not asked for yet.
    """

    profile: Profile
    name: str
    disk: Disk
    eager: bool = True
    hasty: bool = False
    clock: float = BASE
    busy: Ready | None = None
    applied: int = 0
    behind: bool = False
    sent: list[tuple[str, Any]] = field(init=False, factory=list)
    asked: int | None = field(init=False, default=None)  # the number of a read
    answered: list[tuple[int, int]] = field(init=False, factory=list)  # reads, and the indexes they are to be served at
    lost: list[int] = field(init=False, factory=list)
    restarted: bool = field(init=False, default=False)
    raft: Raft = field(init=False)

    @classmethod
    def of(cls, member: Member, profile: Profile, *, eager: bool, hasty: bool) -> Turn:
        """Begin a step of a member."""
        turn = cls(profile, member.name, member.disk, eager, hasty, member.clock, member.busy, member.applied, member.behind)
        turn.raft = copied(member.raft)
        return turn

    @classmethod
    def born(cls, name: str, profile: Profile, disk: Disk) -> Member:
        """Return a member that begins with what is on its disk."""
        turn = cls(profile, name, disk)
        turn.start()
        return turn.member()

    def member(self) -> Member:
        """Return what the step has made of the member."""
        return Member(self.raft, self.disk, self.clock, self.busy, self.applied, self.behind, Log.of(self.raft))

    def take(self, what: Input, letter: tuple[str, Any] | None = None) -> None:
        """Let something happen, and carry out what follows from it.

        Args:
            what: the input.
            letter: sender and message where one is received.

        Raises:
            Violation: the member broke a rule that it can keep by itself.
        """
        try:
            if letter is not None:
                self._receive(*letter)
            else:
                self._INPUTS[what[0]](self, *what[1:])
            if self.hasty and what[0] not in AT_ONCE:
                self.behind = True
            else:
                self.carry_out()
        except Violation:
            raise
        except Exception as error:  # whatever it is, a member would stop for it
            raise Violation("X", f"{self.name} stops: {type(error).__name__}: {error}") from error

    # -- life -----------------------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Begin a life with what is on the disk."""
        if self.disk.floor > NOWHERE:
            self.disk = evolve(self.disk, losses=self.disk.losses + 1)
        rng = cast("random.Random", Steady(self.disk.losses))
        restored = Restored(self.disk.hard_state, self.disk.snapshot, self.disk.entries, floor=self.disk.floor)
        self.raft = Raft(self.name, self.profile.timing, rng, restored, self.clock)
        self.applied = self.disk.snapshot.index if self.disk.snapshot else 0
        self.busy, self.behind, self.restarted = None, False, True
        self.carry_out()

    def _crash(self, kept: int) -> None:
        if self.busy is not None and kept >= 0:  # the disk may have got any prefix of the flush, term and vote first
            self._write(self.busy, kept)
        self.start()

    def _rot(self, kept: int, *, doubt: bool) -> None:
        """Lose all but the first entries; in doubt, with damage in the last flush, also term, vote and where the log ended."""
        entries, snapshot, hard_state = self.disk.entries[:kept], self.disk.snapshot, self.disk.hard_state
        floor = max(self.disk.log.end, self.disk.floor)
        if not entries and snapshot is None:
            snapshot = SnapshotMeta(0, 0, configuration(self.profile.founders))  # who the others are stands elsewhere, too
        if doubt:
            floor, hard_state = UNKNOWN, HardState(entries[-1].term if entries else snapshot.term if snapshot else 0)
        self.disk = Disk(hard_state, entries, snapshot, floor, self.disk.losses)
        self.start()

    def _wait(self) -> None:
        self.clock += self.profile.quantum

    # -- inputs ---------------------------------------------------------------------------------------------------------------------

    def _tick(self) -> None:
        if not self.profile.quantum:
            self.clock = max(self.clock, self.raft.deadline)
        self.raft.tick(self.clock)

    def _receive(self, sender: str, message: Any) -> None:
        if isinstance(message, Stream):
            self._install(sender, message.meta)
        elif isinstance(message, Streamed):
            self.raft.snapshot_failed(sender)
        else:
            self.raft.receive(sender, message, self.clock)

    def _install(self, sender: str, meta: SnapshotMeta) -> None:
        if self.raft.wants(meta):
            self.disk = evolve(self.disk, hard_state=self.raft.hard_state, entries=(), snapshot=meta)
            self.applied = meta.index
            self.raft.install(meta, self.clock)
        self.send(sender, Streamed())

    def _put(self) -> None:
        self.raft.propose(EntryKind.BLOCK, self.name.encode(), self.clock)

    def _change(self, names: str) -> None:
        self.raft.propose(EntryKind.CONFIGURATION, codec.encode_configuration(configuration(names)), self.clock)

    def _read(self, read_id: int) -> None:
        self.asked = read_id
        self.raft.read(read_id, self.clock)

    def _transfer(self, to: str) -> None:
        self.raft.transfer(to, self.clock)

    def _part(self, peer: str) -> None:
        self.raft.disconnected(peer, self.clock)

    def _join(self, peer: str) -> None:
        self.raft.connected(peer, self.clock)

    def _trim(self) -> None:
        log = Log.of(self.raft)
        last = log.at(self.applied)
        assert last is not None, "there is something to trim"
        known = [found for entry in log.entries if entry.index <= self.applied and (found := configuration_in(entry)) is not None]
        settled = known[-1] if known else self.disk.snapshot.configuration if self.disk.snapshot else None
        assert settled is not None, "every log begins with a configuration"
        meta = SnapshotMeta(self.applied, last.term, settled)
        self.disk = evolve(self.disk, entries=tuple(entry for entry in self.disk.entries if entry.index > self.applied), snapshot=meta)
        self.raft.trim(self.applied, meta)

    def _fill(self, *, full: bool) -> None:
        self.raft.full = full

    def _sync(self) -> None:
        assert self.busy is not None, "something waits for the disk"
        ready, self.busy = self.busy, None
        self._finish(ready)

    def _turn(self) -> None:
        self.behind = False

    _INPUTS: ClassVar[dict[str, Callable[..., None]]] = {
        "tick": _tick,
        "put": _put,
        "change": _change,
        "read": _read,
        "transfer": _transfer,
        "part": _part,
        "join": _join,
        "trim": _trim,
        "crash": _crash,
        "rot": lambda self, kept: self._rot(kept, doubt=False),
        "doubt": lambda self, kept: self._rot(kept, doubt=True),
        "fill": lambda self, full: self._fill(full=full),
        "wait": _wait,
        "sync": _sync,
        "turn": _turn,
    }

    # -- effects --------------------------------------------------------------------------------------------------------------------

    def carry_out(self) -> None:
        """Do what Raft asks for, as the node does it, up to where the disk must be waited for."""
        while self.busy is None and (ready := self.raft.take()) is not None:
            for to, message in ready.messages:
                self.send(to, message)
            if self.eager or not (ready.entries or ready.hard_state or ready.floor):
                self._finish(ready)
            else:
                self.busy = ready

    def _finish(self, ready: Ready) -> None:
        self._write(ready, len(ready.entries))
        if ready.entries:
            self.raft.synced(ready.entries[-1].index, ready.entries[-1].term, self.clock)
        for to, message in ready.after_sync + ready.notices:
            self.send(to, message)
        for entry in ready.committed:
            self.applied += 1
            if entry.index != self.applied:
                raise Violation("A1", f"{self.name} is to apply entry {entry.index} when {self.applied} is next")
        self.answered += ready.reads
        self.lost += ready.lost_reads
        for peer in ready.snapshots:
            assert self.disk.snapshot is not None, "a log is trimmed behind a snapshot"
            self.send(peer, Stream(self.disk.snapshot))

    def _write(self, ready: Ready, kept: int) -> None:
        before = self.disk.hard_state
        self.disk = self.disk.written(ready.hard_state, ready.floor, ready.entries[:kept])
        rules.check_disk(self.name, before, self.disk.hard_state)

    def send(self, to: str, message: Any) -> None:
        """Put a message on the wire."""
        rules.check_message(self, to, message)
        if to != self.name:
            self.sent.append((to, message))
