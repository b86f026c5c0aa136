"""What a member does for a client: one errand for each request, until it has its reply.

An errand begins, and goes on, on the door's thread; where it has to wait, it rings when there is something to go on with.  Reads are
those of the member's own callers (``plans.py``), watches read through the history as the member's own do (``watch.py``).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import attrs

from replkv import codec, features, letters, wire
from replkv.auth_calls import Inspection
from replkv.backup import Outlined
from replkv.errors import AuthenticationFailed, LevelTooLow, Overloaded, PermissionDenied, Rejected
from replkv.judged import Judged
from replkv.letters import Answer, Batch, Events, Failed, HandOver, Inspect, Look, Outcome, Pull, Read, Reply
from replkv.plans import LeaseKeys, LeaseList, NewLeader, Plan, Ready, Settled
from replkv.plans import Read as ReadPlan
from replkv.proposals import Call
from replkv.reads import NOT_YET
from replkv.values import Span
from replkv.watch import Cursor, Place

if TYPE_CHECKING:
    from collections.abc import Callable

    from replkv import machine
    from replkv.auth import Subject
    from replkv.engine import Embedded
    from replkv.errors import ReplkvError
    from replkv.machine import Machine
    from replkv.values import Event
    from replkv.wire import Raw

    Ring: TypeAlias = Callable[["Errand"], None]
    """Has an errand go on, on the door's thread; any thread, without waiting."""

    Question: TypeAlias = Read | Look | Inspect | HandOver
    """What is answered as the member's own callers are."""

HELPING: Final = 256
"""Events in one reply to a pull."""
HELPING_BYTES: Final = 256 << 10
"""Bytes of keys and values in it, unless a single event has more."""

_MEMBERS_ALONE: Final = frozenset((wire.LEVEL, wire.AS))


class Errand(ABC):
    """A request under way.

    Args:
        engine: the member.
        number: of the request.
        ring: of the door.
    """

    repeatable = True
    """Whether it may be refused for want of room at any time: nothing was done for it that can't be done again."""
    may_take_long = False
    """Whether a step may look at all there is in the store."""

    def __init__(self, engine: Embedded, number: int, ring: Ring) -> None:
        self.engine = engine
        self.number = number
        self._ring = ring

    @abstractmethod
    def begin(self) -> Reply | None:
        """Do what can be done at once; return the reply, or None if there will be one later.

        Raises:
            ReplkvError: there is none; the client is told why.
        """

    @abstractmethod
    def go_on(self) -> Reply | None:
        """Do what can be done now that it rang; as ``begin``.

        Raises:
            ReplkvError: there is no reply; the client is told why.
        """

    @abstractmethod
    def cancel(self) -> None:
        """Leave nothing behind: nobody waits for the reply any more."""


# -- writes ------------------------------------------------------------------------------------------------------------------------


class BatchErrand(Errand):
    """A batch of the client's; the member's thread tells what became of it."""

    repeatable = False  # what was applied can't be taken back

    def __init__(self, engine: Embedded, letter: Batch, ring: Ring, subject: Subject) -> None:
        super().__init__(engine, letter.number, ring)
        self._data = letter.data
        self._outcome: machine.Outcome | None = None
        self._error: ReplkvError | None = None
        self._batch = codec.unpack_batch(letter.data, self._check)
        guest = self._batch.guest
        if guest is None or guest[0] != subject[0] or guest[1] > subject[1]:  # one that was proved earlier may be repeated
            raise codec.DecodeError("a batch of somebody else than who was let in")

    def _check(self, command: Any) -> None:
        """Check a command that no member has seen yet; what its client may ask for later is refused when the errand begins."""
        level = self.engine.level
        try:
            wire.check_operation(command)
        except codec.TooNew as error:
            text = f"{error} for member {self.engine.name}, and the cluster is at feature level {level}: upgrade all members"
            self._error = LevelTooLow(text, level)
            return
        is_token = command[0] == wire.AUTH and command[1] == wire.ADD_TOKEN
        if is_token or (command[0] != wire.PUT and not _MEMBERS_ALONE.isdisjoint(wire.kinds(command))):
            raise codec.DecodeError("a command that members alone give")
        self._error = self._error or features.refusal(command, level)

    def begin(self) -> None:
        """Hand it to the member.

        Raises:
            Overloaded, DiskFull, LevelTooLow: it was not taken.
        """
        if self._error is not None:
            raise self._error
        if (refusal := self.engine.node.submit_guest(self._batch, self._data, self)) is not None:
            raise refusal

    def finish(self, outcome: machine.Outcome) -> None:
        """Learn what became of it; on the member's thread."""
        self._outcome = outcome
        self._ring(self)

    def fail(self, error: ReplkvError) -> None:
        """Learn that the member has stopped."""
        self._error = error
        self._ring(self)

    def go_on(self) -> Reply | None:
        """Tell the client what the member told.

        Raises:
            ReplkvError: the member has stopped.
        """
        if self._error is not None:
            raise self._error
        return Outcome(self.number, *self._outcome[:-1]) if self._outcome is not None else None

    def cancel(self) -> None:
        """Forget it here; what was handed on takes its course."""
        self.engine.node.guests.cancel((self._batch.session, self._batch.sequence, self._batch.guest and self._batch.guest[0]), self)


# -- reads -------------------------------------------------------------------------------------------------------------------------


class _Operation:
    """An operation as it stands on the wire already."""

    __slots__ = ("raw",)

    def __init__(self, raw: Raw) -> None:
        self.raw = raw

    def to_wire(self) -> Raw:
        return self.raw

    def result(self, raw: Raw) -> Raw:
        return raw


class _Kept(Plan[Any]):
    """Find out which leases belong to a keeper."""

    __slots__ = ("keeper",)
    looks = True

    def __init__(self, keeper: int) -> None:
        self.keeper = keeper

    def permit(self, subject: Subject | None, machine: Machine) -> None:
        """Tell every user: a keeper's number is a secret of its own."""
        machine.auth.check_user(subject)

    def look(self, machine: Machine, time: int) -> tuple[int, ...]:
        """Take hold of their ids."""
        del time
        return tuple(sorted(machine.leases.kept_by(self.keeper)))

    def answer(self, node: Any, call: Call) -> Raw:
        """Return them, one level deeper than the status."""
        del node
        assert call.answer is not None  # noqa: S101  # the look has made it
        return call.answer


class _Barrier(Call):
    """Waits for the moment at which an errand may read."""

    __slots__ = ("_errand",)

    def __init__(self, errand: PlanErrand | PullErrand) -> None:
        super().__init__(None)
        self._errand = errand

    def finish(self) -> None:
        self._errand.passed()


class PlanErrand(Errand):
    """A question, answered as the member answers those of its own callers, to who may know the answer."""

    def __init__(self, engine: Embedded, letter: Question, ring: Ring, subject: Subject) -> None:
        super().__init__(engine, letter.number, ring)
        self.may_take_long = isinstance(letter, Read) or (isinstance(letter, Look) and letter.what in (letters.LEASES, letters.LEASE_KEYS))
        self._plan = Judged(_plan_of(letter), subject)
        self._call = _Barrier(self)

    def begin(self) -> Reply | None:
        """Answer from memory if that will do, else ask the leader."""
        raw = self.engine.at_once(self._plan)
        if raw is not NOT_YET:
            return Answer(self.number, raw)
        self.engine.ask(self._plan, self._call)
        return None

    def passed(self) -> None:
        """Learn that the question may be answered now; any thread."""
        self._ring(self)

    def go_on(self) -> Reply | None:
        """Answer.

        Raises:
            ReplkvError: there is no answer.
        """
        if self._call.error is not None:
            raise self._call.error
        return Answer(self.number, self.engine.answer(self._plan, self._call))

    def cancel(self) -> None:
        """Wait no longer."""
        self.engine.give_up(self._call)


def _plan_of(letter: Question) -> Plan[Any]:
    if isinstance(letter, HandOver):
        return NewLeader(letter.to or None)
    if isinstance(letter, Inspect):
        return Inspection(letter.what, letter.name)
    if isinstance(letter, Read):
        staleness = None if letter.max_staleness is None else max(1, letter.max_staleness) / 1e6
        bounds = (staleness, letter.min_revision) if letter.consistency == "local" else ()
        return ReadPlan(_Operation(letter.operation), b"", letter.consistency, *bounds)
    if letter.what == letters.LEASES:
        return LeaseList()
    if letter.what == letters.LEASE_KEYS:
        return LeaseKeys(letter.argument, b"")
    if letter.what == letters.SETTLED:
        return Settled()
    if letter.what == letters.OUTLINE:
        return Outlined()
    return _Kept(letter.argument) if letter.what == letters.KEPT else Ready(None)


def see(engine: Embedded, letter: Look, subject: Subject) -> Reply | None:
    """Return what the member says of itself or of the members to a user, without waiting; None: that is not asked for."""
    if letter.what not in (letters.STATUS, letters.MEMBERS):
        return None
    try:
        engine.node.published.machine.auth.check_user(subject)
    except Rejected as error:
        return Failed(letter.number, error)
    if letter.what == letters.STATUS:
        return Answer(letter.number, (wire.OK, *engine.node.status().to_wire()))
    rows = tuple(attrs.astuple(member, recurse=False) for member in engine.node.members())
    return Answer(letter.number, (wire.OK, rows))


# -- watches -----------------------------------------------------------------------------------------------------------------------


class PullErrand(Errand):
    """A client's watch, from its place to the next helping.

    Its right is judged by what the member knows, each time after something was read and before it is handed out.  Where the member seems
    to lack news of it, the leader is asked once: who was given a right a moment ago has it at every member.
    """

    def __init__(self, engine: Embedded, letter: Pull, ring: Ring, subject: Subject) -> None:
        super().__init__(engine, letter.number, ring)
        span, place = Span(letter.start, letter.end), Place(letter.revision, letter.passed)
        self._cursor = Cursor(span, place, self._woken, letter.puts, letter.deletes, letter.prev_kv, synced=letter.synced)
        self._amid = place.passed > 0  # a revision, of which the client may wait for the rest
        self._subject = subject
        self._judged = 0  # the auth revision at which it was found to be permitted
        self._barrier: _Barrier | None = None  # the question to the leader, once there was one

    def _woken(self) -> None:
        self._ring(self)

    def begin(self) -> Reply | None:
        """Read on by one bounded step; where nothing is found, ring for the next step or when something comes.

        Raises:
            Compacted: what comes next is not kept any more.
            PermissionDenied, AuthenticationFailed: its user may not read this.
            ReplkvError: the member has stopped.
        """
        try:
            events, caught_up = self._step()
        except (PermissionDenied, AuthenticationFailed):
            if self._barrier is not None:
                raise
            self._barrier = _Barrier(self)
            self.engine.node.read_barrier(self._barrier)
            return None
        if events or (self._amid and not self._cursor.place.passed):
            return self._helping(events, caught_up=caught_up)
        if not caught_up or not self._arm():
            self._ring(self)
        return None

    def passed(self) -> None:
        """Learn that the member is as new as the leader was when it was asked; any thread."""
        self._ring(self)

    def _arm(self) -> bool:
        """Have the hub wake it; False: there may be something, a change of its right for instance, so look once more."""
        return self.engine.node.hub.arm(self._cursor) and self.engine.node.published.machine.auth.revision == self._judged

    def go_on(self) -> Reply | None:
        """Read on; as ``begin``."""
        if self._barrier is not None and self._barrier.error is not None:
            raise self._barrier.error
        return self.begin()

    def rest(self) -> Reply:
        """Reply at once, if need be with nothing but the place, which has moved on.

        Raises:
            ReplkvError: as by ``begin``.
        """
        events, caught_up = self._step()
        return self._helping(events, caught_up=caught_up)

    def hurry(self, revision: int) -> Reply | None:
        """Reply at once, unless there is surely nothing up to a revision that the client wants.

        Raises:
            ReplkvError: as by ``begin``.
        """
        hub = self.engine.node.hub
        if hub.reached(self._cursor) > revision:
            return None
        events, caught_up = self._step()
        if events or not caught_up or not self._arm():
            return self._helping(events, caught_up=caught_up)
        return None

    def cancel(self) -> None:
        """Have the hub forget it."""
        self.engine.node.hub.leave(self._cursor)
        if self._barrier is not None:
            self.engine.give_up(self._barrier)

    def _helping(self, events: list[Event], *, caught_up: bool) -> Reply:
        self.cancel()
        return Events(self.number, tuple(events), *self._cursor.place, caught_up)

    def _step(self) -> tuple[list[Event], bool]:
        """Read a helping; in smaller steps where events are large."""
        node, cursor = self.engine.node, self._cursor
        node.hub.disarm(cursor)
        ended = node.hub.ended  # before looking at what is published: the end comes behind all of that
        published = node.published
        place, synced, limit = cursor.place, cursor.synced, HELPING
        events, caught_up = cursor.read(published.machine.store, published.revision, limit)
        while limit > 1 and sum(map(_size, events)) > HELPING_BYTES:
            limit = max(1, limit // 4)
            cursor.place, cursor.synced = place, synced
            events, caught_up = cursor.read(published.machine.store, published.revision, limit)
        try:
            self._judge()
        except Rejected:
            cursor.place, cursor.synced = place, synced  # it may turn out to be permitted
            raise
        if ended and caught_up and not events:
            raise self.engine.gone()
        return events, caught_up

    def _judge(self) -> None:
        """Check that its user may see what was just read: by the newest that is known, which is at least as new."""
        auth = self.engine.node.published.machine.auth
        if auth.revision != self._judged:
            auth.check_span(self._subject, wire.READ, self._cursor.span)
            self._judged = auth.revision


def _size(event: Event) -> int:
    before = event.prev_kv
    return len(event.kv.key) + len(event.kv.value) + (len(before.value) if before is not None else 0)


def errand_for(engine: Embedded, letter: Batch | Pull | Question, ring: Ring, subject: Subject) -> Errand:
    """Return the errand for a request.

    Args:
        engine: the member.
        letter: the request.
        ring: has the errand go on, on the door's thread; any thread may call it.
        subject: whose request it is.

    Raises:
        DecodeError: the request holds what no client of this version sends.
    """
    if isinstance(letter, Batch):
        return BatchErrand(engine, letter, ring, subject)
    return PullErrand(engine, letter, ring, subject) if isinstance(letter, Pull) else PlanErrand(engine, letter, ring, subject)


def overloaded(engine: Embedded) -> Overloaded:
    """Return the error for a request that finds no room."""
    return Overloaded(f"member {engine.name} holds as many requests and replies for clients as it may: take in replies, then try again")
