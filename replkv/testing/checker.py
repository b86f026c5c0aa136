"""Is what clients saw linearizable?  A check with a witness: the committed log says in which order everything happened.

The log is replayed on the independent model of ``model.py``, with an independent table of sessions.  Then every operation has its place:
a write where the log has it, a read at the revision it was answered from.  What remains to check is simple and takes O(n log n): each
answer is the model's answer at that place, and places respect real time (Herlihy & Wing 1990, with the order given instead of searched).
"""

from __future__ import annotations

from itertools import chain
from typing import TYPE_CHECKING, Any, NamedTuple

from attrs import define, field

from replkv import codec, wire
from replkv.errors import OutcomeUnknown
from replkv.messages import EntryKind
from replkv.refusals import STATUS
from replkv.testing.history import Consistency, Operation, Outcome, Violation
from replkv.testing.judge import DENIALS, Readers
from replkv.testing.model import Model, Wanted, asks

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from replkv.messages import Entry
    from replkv.proposals import Call
    from replkv.testing.history import History, Slot
    from replkv.testing.model import LeaseTable
    from replkv.testing.rights import Rights, Subject
    from replkv.wire import Raw

OUTCOME_UNKNOWN = STATUS[OutcomeUnknown]
"""The status of an answer that was too large to be remembered for a repeat, and is as good as none."""

Place = int
"""Twice the revision for an operation that made it; one more for one that saw it and changed nothing."""

REPEATABLE = {wire.COMPACT, wire.GRANT, wire.RENEW, wire.KEEP_ALIVE, wire.REVOKE, wire.MEMBERS, wire.AUTH}
"""Commands of which several may be alike: they are told apart by where they stood."""


Roster = dict[str, Wanted]
"""Who is wanted as a member."""


class Moment(NamedTuple):
    """What the store must be like behind an entry of the log."""

    revision: int
    compacted: int
    size: int
    leases: LeaseTable
    roster: Roster
    rights: Rights


class Effect(NamedTuple):
    """What a command did: at which place, with which answer, as the how manieth of all, in which entry."""

    place: Place
    answer: Raw
    order: int
    entry: int = 0


@define(eq=False, repr=False)
class _Session:
    """What the witness remembers of a session: when it was last heard of in cluster time, and which batches took effect.

    ``owner``: the user whose client opened it; None: a member.  ``lowest``: its owner has the answers of all batches below and will send
    none of them again; late copies don't count.
    """

    heard: int
    owner: str | None = None
    lowest: int = 0
    done: dict[int, int] = field(factory=dict)  # sequence -> term


@define(eq=False, repr=False)
class Witness:
    """The committed log as it is replayed: which command took effect where, with which answer.

    Args:
        session_ttl: microseconds of cluster time without a word after which a session is gone; None: never.
        model: replays the commands.
    """

    session_ttl: int | None = None
    model: Model = field(factory=Model)
    index: int = 0
    executed: dict[Raw, Effect] = field(factory=dict)
    slots: dict[Slot, tuple[Raw, Effect]] = field(factory=dict)
    at: list[Moment] = field(factory=list)  # the state behind each entry, and before the first
    repeats: list[tuple[int, int]] = field(factory=list)  # batches that stood in the log again: the terms of both entries
    strays: int = 0  # batches of sessions that were gone
    thefts: int = 0  # batches of sessions that are another's
    rights: list[tuple[int, Rights]] = field(factory=list)  # what they were behind each change, and in which entry that was
    _sessions: dict[int, _Session] = field(factory=dict)

    def __attrs_post_init__(self) -> None:
        self._look()

    def apply(self, entry: Entry) -> None:
        """Replay the next committed entry.

        Raises:
            Violation: it repeats a command that took effect before.
        """
        if entry.index != self.index + 1:
            raise Violation("A1", f"entry {entry.index} follows entry {self.index}")
        self.index = self.model.index = entry.index
        self.model.time = max(self.model.time, entry.time)
        if entry.kind is EntryKind.BLOCK:
            self._expire(entry.time)
            for position, batch in enumerate(codec.decode_block(entry.payload)):
                self._batch(entry, position, batch)
        elif entry.kind is EntryKind.FOUNDING:
            founders = codec.decode_founding(entry.payload).configuration
            self.model.roster = {name: Wanted(True, founders.addresses.get(name, "")) for name in founders.voters}
            self.model.addresses = founders.addresses
        else:
            self.model.addresses = codec.decode_configuration(entry.payload).addresses
        self.model.expire()
        self._look()

    def _look(self) -> None:
        model = self.model
        leases = model.lease_table()
        if self.at and self.at[-1].leases == leases:
            leases = self.at[-1].leases  # one copy is enough
        self.at.append(Moment(model.revision, model.compacted, model.size, leases, model.roster, model.rights))

    def _expire(self, time: int) -> None:
        if self.session_ttl is not None:
            gone = [number for number, session in self._sessions.items() if session.heard + self.session_ttl < time]
            for number in gone:
                del self._sessions[number]

    def _batch(self, entry: Entry, position: int, batch: codec.Batch) -> None:
        if batch.session == 0:
            self._sessions[entry.index << 16 | position] = _Session(entry.time, _owner(batch))
            return
        session = self._sessions.get(batch.session)
        if session is None:
            self.strays += 1
            return
        if session.owner != _owner(batch):
            self.thefts += 1
            return
        session.heard, session.lowest = entry.time, max(session.lowest, batch.lowest)
        if batch.sequence in session.done:
            self.repeats.append((session.done[batch.sequence], entry.term))
        elif batch.sequence >= session.lowest:
            session.done[batch.sequence] = entry.term
            for place, command in enumerate(batch.commands):
                self._execute(command, (batch.session, batch.sequence, place), batch.guest)

    def has_session(self, number: int, guest: Subject | None) -> bool:
        """Tell whether a session is open, and somebody's."""
        session = self._sessions.get(number)
        return session is not None and session.owner == (guest and guest[0])

    def _execute(self, command: Raw, slot: Slot, guest: Subject | None) -> None:
        if command in self.executed:
            raise Violation("X2", f"a command takes effect a second time at index {self.index}: {command!r}")
        before, rights = self.model.revision, self.model.rights
        answer = self.model.execute(command, guest)
        changed = self.model.revision != before
        effect = Effect(2 * self.model.revision + (not changed), answer, len(self.slots), self.index)
        self.slots[slot] = command, effect
        if self.model.rights is not rights:
            self.rights.append((self.index, self.model.rights))
            gone = rights.users.keys() - self.model.rights.users.keys()
            for number in [number for number, session in self._sessions.items() if session.owner in gone]:
                del self._sessions[number]
        if not may_be_repeated(command):
            self.executed[command] = effect


def may_be_repeated(command: Raw) -> bool:
    """Tell whether there may be another command like this one."""
    return asks(command)[1][0] in REPEATABLE


def _owner(batch: codec.Batch) -> str | None:
    return None if batch.guest is None else batch.guest[0]


def check(history: History, witness: Witness, own: Mapping[Call, list[Slot]] | None = None) -> None:
    """Check a finished history against the log that was committed.

    Args:
        history: what clients saw; no two writes in it are alike, but for those that may be.
        witness: the whole committed log, replayed.
        own: the commands that members sent of themselves, and where they stood.

    Raises:
        Violation: an answer is wrong, lost, doubled, or in the wrong order.
    """
    _check_origin(history, witness, own or {})
    places: list[tuple[Operation, Place]] = []
    readers = Readers(history, _acknowledged(history, witness))
    for operation in history.operations:
        readers.judge(operation, witness)
        place = _place(operation, witness)
        if place is not None:
            places.append((operation, place))
    _check_real_time(places)
    _check_order(history, witness)
    _check_processes(places)


def _acknowledged(history: History, witness: Witness) -> Iterator[tuple[int, int]]:
    """Yield the numbers of the writes that were answered, and the entry in which each took effect."""
    for operation in history.operations:
        if operation.consistency is Consistency.WRITE and operation.outcome is Outcome.ANSWERED:
            effect = effect_of(operation, witness)
            if effect is not None:
                yield operation.number, effect.entry


def _check_origin(history: History, witness: Witness, own: Mapping[Call, list[Slot]]) -> None:
    """Every command in the log was asked for by a client, or by a member, which got the right answer."""
    writes = [operation for operation in history.operations if operation.consistency is Consistency.WRITE]
    asked = {operation.wire for operation in writes}
    known = {slot for operation in writes for slot in operation.slots}
    for call, slots in own.items():
        known.update(slots)
        effect = _effect_at(slots, witness)
        if call.answer is not None and call.answer[0] != OUTCOME_UNKNOWN and (effect is None or bare(call.answer) != effect.answer):
            raise Violation("T1", f"a member was answered {call.answer} to its own command, {effect} would be right")
    for slot, (command, _) in witness.slots.items():
        if command not in asked and slot not in known:
            raise Violation("X2", f"the log has a command no client sent: {command!r}")


def _effect_at(slots: list[Slot], witness: Witness) -> Effect | None:
    """Return the one effect of a command that stood in these slots."""
    effects = [witness.slots[slot][1] for slot in slots if slot in witness.slots]
    if len(effects) > 1:
        raise Violation("X2", f"a command took effect in several places: {effects}")
    return effects[0] if effects else None


def effect_of(operation: Operation, witness: Witness) -> Effect | None:
    """Return what a write did, None if it did not take effect.

    Raises:
        Violation: it took effect several times.
    """
    return _effect_at(operation.slots, witness) if may_be_repeated(operation.wire) else witness.executed.get(operation.wire)


def _place(operation: Operation, witness: Witness) -> Place | None:
    """Return where an operation took effect, None if it did not; check its answer."""
    if operation.outcome is Outcome.PENDING:
        raise Violation("X3", f"a call never ended: {operation}")
    if operation.consistency is Consistency.WRITE:
        return _place_write(operation, witness)
    if operation.outcome is not Outcome.ANSWERED or (operation.answer or (0,))[0] in DENIALS:
        return None
    if operation.revision > witness.model.revision:
        raise Violation("D2", f"a read saw revision {operation.revision}, which was never committed: {operation}")
    _compare(operation, witness.model.read(operation.wire, operation.revision, operation.compacted))
    return 2 * operation.revision + 1


def _place_write(operation: Operation, witness: Witness) -> Place | None:
    effect = effect_of(operation, witness)
    if operation.outcome is Outcome.ANSWERED:
        if effect is None:
            raise Violation("D1", f"a write was acknowledged, but the committed log does not have it: {operation}")
        _compare(operation, effect.answer)
    elif operation.outcome is Outcome.FAILED and effect is not None:
        raise Violation("X1", f"a write that was said to have failed took effect at place {effect.place}: {operation}")
    return effect.place if effect is not None else None


def _compare(operation: Operation, expected: Raw) -> None:
    if bare(operation.answer or ()) != expected:
        raise Violation("T1", f"a wrong answer, {expected!r} would be right: {operation}")


def bare(answer: Raw) -> Raw:
    """Return an answer as plain tuples, and a refusal without its text."""
    plain: Raw = _plain(answer)
    return (*plain[:1], *plain[2:]) if plain[:1] != (wire.OK,) else plain


def _plain(value: Any) -> Any:
    """Return an answer with lists and records as plain tuples."""
    return tuple(_plain(item) for item in value) if isinstance(value, (tuple, list)) else value


def _check_real_time(places: Iterable[tuple[Operation, Place]]) -> None:
    """What returned before another was called comes first; an operation whose outcome is unknown may last for ever.

    A local read that was promised to be fresh sees what returned by the moment that was said.
    """
    bound = [(operation, place) for operation, place in places if operation.consistency is not Consistency.LOCAL]
    ended = [(operation.returned or 0, 0, operation, place) for operation, place in bound if operation.outcome is Outcome.ANSWERED]
    begun = [(operation.called, 1, operation, place) for operation, place in bound]
    fresh = [(operation.fresh, 1, operation, place) for operation, place in places if operation.fresh]
    newest: tuple[Place, Operation | None] = (0, None)
    for _, begins, operation, place in sorted(chain(ended, begun, fresh), key=lambda event: event[:2]):
        if not begins:
            newest = max(newest, (place, operation), key=lambda pair: pair[0])
        elif place < newest[0]:
            raise Violation("T1", f"{operation} took effect at place {place}, but before its call {newest[1]} had seen {newest[0]}")


def _check_order(history: History, witness: Witness) -> None:
    """Writes stand in the log in the order of real time, those that make no revision too."""
    newest: tuple[int, Operation | None] = (-1, None)
    events = []
    for operation in history.operations:
        effect = effect_of(operation, witness) if operation.consistency is Consistency.WRITE else None
        if effect is not None:
            events.append((operation.called, False, operation, effect.order))
            if operation.outcome is Outcome.ANSWERED:
                events.append((operation.returned or 0, True, operation, effect.order))
    for _, is_end, operation, order in sorted(events, key=lambda event: event[0]):
        if is_end:
            newest = max(newest, (order, operation), key=lambda pair: pair[0])
        elif order < newest[0]:
            raise Violation("T1", f"{operation} stands in the log before {newest[1]}, which had returned before its call")


def _check_processes(places: Iterable[tuple[Operation, Place]]) -> None:
    """One process's view never goes back: its local reads see what it was answered before."""
    seen: dict[str, list[tuple[int, Place]]] = {}
    for operation, place in places:
        if operation.outcome is Outcome.ANSWERED:
            seen.setdefault(operation.where, []).append((operation.returned or 0, place))
    for returns in seen.values():
        returns.sort()
    cursors = dict.fromkeys(seen, (0, 0))
    for operation, place in places:  # in the order of their calls
        if operation.consistency is not Consistency.LOCAL:
            continue
        at, newest = cursors[operation.where]
        returns = seen[operation.where]
        while at < len(returns) and returns[at][0] < operation.called:
            newest = max(newest, returns[at][1])
            at += 1
        cursors[operation.where] = at, newest
        if place < newest:
            raise Violation("T2", f"{operation} saw place {place}, but this process had seen {newest}")
