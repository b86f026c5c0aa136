"""Situations worth reaching that only a whole run tells of: what was asked, and what came of it."""

from __future__ import annotations

from collections import Counter
from functools import cached_property
from typing import TYPE_CHECKING

from attrs import define

from replkv import codec, wire
from replkv.errors import (
    AuthenticationFailed,
    AuthRefused,
    Compacted,
    Conflict,
    FutureRevision,
    KeyNotFound,
    LeaseNotFound,
    LockLost,
    MemberExists,
    MemberNotFound,
    MembershipRefused,
    NotACounter,
    PermissionDenied,
    QuotaExceeded,
    ReplkvError,
)
from replkv.refusals import STATUS
from replkv.testing.checker import effect_of
from replkv.testing.history import Consistency, Outcome
from replkv.testing.streams import End
from replkv.values import Event, Progress

if TYPE_CHECKING:
    from collections.abc import Callable

    from replkv.testing.history import Operation
    from replkv.testing.simulation import Simulation
    from replkv.testing.streams import Stream
    from replkv.wire import Raw


@define(eq=False, slots=False)
class Account:
    """A run as it is told afterwards."""

    simulation: Simulation

    def writes(self, outcome: Outcome) -> list[Operation]:
        """Return the writes that ended so."""
        return [operation for operation in self.operations if operation.consistency is Consistency.WRITE and operation.outcome is outcome]

    def reads(self, consistency: Consistency) -> list[Operation]:
        """Return the reads that wanted this and were answered."""
        return [operation for operation in self.operations if operation.consistency is consistency and operation.answer is not None]

    @cached_property
    def operations(self) -> list[Operation]:
        """All of them."""
        return self.simulation.workload.history.operations

    @cached_property
    def commands(self) -> Counter[tuple[int, int]]:
        """What took effect, and how often: kind of command, status of the answer."""
        return Counter((command[0], effect.answer[0]) for command, effect in self.simulation.invariants.witness.slots.values())

    @cached_property
    def streams(self) -> list[Stream]:
        """Everything that was watched."""
        return [stream for watcher in self.simulation.watchers.each for stream in watcher.streams]

    @cached_property
    def ends(self) -> Counter[End]:
        """How watches ended."""
        return Counter(stream.end for stream in self.streams)

    @cached_property
    def answered(self) -> list[tuple[Operation, Raw]]:
        """Reads, and what they were answered."""
        reads = (operation for operation in self.operations if operation.consistency is not Consistency.WRITE)
        return [(read, read.answer) for read in reads if read.answer is not None]

    @cached_property
    def own(self) -> Counter[int]:
        """What members asked for of themselves, by kind."""
        return Counter(codec.unpack(call.command)[0] for call in self.simulation.cluster.own if call.command is not None)


def _refused(kind: int, error: type[ReplkvError]) -> Callable[[Account], int]:
    return lambda run: run.commands[kind, STATUS[error]]


def _counted(what: str) -> Callable[[Account], int]:
    return lambda run: run.simulation.cluster.counts.get(what, 0)


def _ended(end: End) -> Callable[[Account], int]:
    return lambda run: run.ends[end]


def _name(where: str) -> str:
    return where.split("/", maxsplit=1)[0]


def _effects(run: Account, outcome: Outcome, *, wanted: bool) -> int:
    """Return how many writes ended so for their callers, and took effect, or did not."""
    witness = run.simulation.invariants.witness
    return sum((effect_of(operation, witness) is not None) == wanted for operation in run.writes(outcome))


def _accepted_again(run: Account) -> bool:
    """Tell whether a put was accepted after one had been refused for lack of room."""
    puts = sorted(
        (effect.order, effect.answer[0]) for command, effect in run.simulation.invariants.witness.slots.values() if command[0] in _PUTS
    )
    answers = [status for _, status in puts]
    full = STATUS[QuotaExceeded]
    return full in answers and wire.OK in answers[answers.index(full) :]


_PUTS = (wire.PUT, wire.PUT_WITH)

RUNS: dict[str, Callable[[Account], int]] = {
    # writes
    "the outcome of a write that took effect is not known": lambda run: _effects(run, Outcome.UNKNOWN, wanted=True),
    "the outcome of a write that did not is not known": lambda run: _effects(run, Outcome.UNKNOWN, wanted=False),
    "a write failed for sure": lambda run: len(run.writes(Outcome.FAILED)),
    "a write went into a second session": lambda run: sum(len({slot[0] for slot in write.slots}) > 1 for write in run.operations),
    "a batch stood in the log again, and did nothing": lambda run: len(run.simulation.invariants.witness.repeats),
    "a batch stood in the logs of two leaders' terms": lambda run: sum(
        first != again for first, again in run.simulation.invariants.witness.repeats
    ),
    "a batch came too late for its session": lambda run: run.simulation.invariants.witness.strays,
    "an answer was too large to be given twice": _counted("answer too large to be given twice"),
    "a caller waited to be let in": _counted("caller that waited to be let in"),
    "a caller gave up before it was let in": _counted("caller that gave up before it was let in"),
    "a caller gave up with its command in the queue": _counted("caller that gave up in the queue"),
    "a caller at a learner was answered": _counted("answer at a learner"),
    "a caller was answered in a joint configuration": _counted("answer in a joint configuration"),
    "a write met another than it expected": _refused(wire.EXPECT, Conflict),
    "a guarded write was carried out": lambda run: run.commands[wire.GUARD, wire.OK],
    "a guarded write found its lock lost": _refused(wire.GUARD, LockLost),
    "a put was refused for lack of room": lambda run: sum(run.commands[kind, STATUS[QuotaExceeded]] for kind in _PUTS),
    "a put was accepted again after that": _accepted_again,
    "a transaction was refused for lack of room": _refused(wire.TXN, QuotaExceeded),
    "a transaction was taken back in the middle": _refused(wire.TXN, NotACounter),
    "a counter was asked of a text": _refused(wire.ADD, NotACounter),
    "a put was to keep a value that is not there": lambda run: run.commands[wire.PUT_WITH, STATUS[KeyNotFound]],
    # reads
    "a read was outrun by a compaction": _counted("read outrun by a compaction"),
    "a read under a lease was answered": lambda run: len(run.reads(Consistency.LEASE)),
    "a lease was over between two looks of a reader": _counted("lease over between two looks"),
    "a local read knew how fresh it is": lambda run: sum(bool(read.fresh) for read in run.reads(Consistency.LOCAL)),
    "a read asked for what is compacted": lambda run: sum(answer[0] == STATUS[Compacted] for _, answer in run.answered),
    "a linearizable read had no answer": lambda run: sum(
        read.consistency is Consistency.LINEARIZABLE and read.outcome is Outcome.FAILED for read in run.operations
    ),
    # compaction
    "a client compacted": lambda run: run.commands[wire.COMPACT, wire.OK] > run.own[wire.COMPACT],
    "the cluster compacted by itself": lambda run: run.own[wire.COMPACT],
    "a compaction came too late": _refused(wire.COMPACT, Compacted),
    "a compaction came too early": _refused(wire.COMPACT, FutureRevision),
    # leases
    "leases were kept alive": lambda run: run.commands[wire.KEEP_ALIVE, wire.OK],
    "a lease was taken over": lambda run: run.commands[wire.RENEW, wire.OK],
    "a lease was to be taken over that was gone": _refused(wire.RENEW, LeaseNotFound),
    "a lease was revoked": lambda run: run.commands[wire.REVOKE, wire.OK],
    "a key was to hang on a lease that was gone": _refused(wire.PUT_WITH, LeaseNotFound),
    "a holder lost its lease": lambda run: sum(holding.lost for holding in run.simulation.holders.holdings),
    "somebody looked at a lease that was gone": lambda run: sum(glance.keys is None for glance in run.simulation.holders.glances),
    # watches
    "a watch was lost with its process": _ended(End.LOST),
    "a watch ended with its member": _ended(End.CLOSED),
    "a watch was left for another": _ended(End.LEFT),
    "a watch was refused what is compacted": _ended(End.COMPACTED),
    "a watch went on at another member": lambda run: sum(
        stream.resumes is not None and _name(stream.resumes.where) != _name(stream.where) for stream in run.streams
    ),
    "a watch went on in another life of its member": lambda run: sum(
        stream.resumes is not None and _name(stream.resumes.where) == _name(stream.where) != stream.resumes.where for stream in run.streams
    ),
    "a watch began at the compaction revision": _counted("watch that began at the compaction revision"),
    "a watch began in the future": _counted("watch that began in the future"),
    "a watch yielded the present state": lambda run: sum(stream.state is not None for stream in run.streams),
    "a watch yielded what expired": lambda run: sum(event.expired for stream in run.streams for event in stream.events),
    "a watch yielded several events of one revision": lambda run: sum(
        sum(isinstance(item, Event) for item in part) > 1 for stream in run.streams for part in stream.parts if stream.whole
    ),
    "a watch said how far it is": lambda run: sum(isinstance(part[0], Progress) for stream in run.streams for part in stream.parts),
    # members
    "the members were changed": lambda run: run.commands[wire.MEMBERS, wire.OK] - run.own[wire.MEMBERS],
    "several changes of the members were asked for at once": _counted("change of the members while another was asked for"),
    "a member was to be removed that is not there": _refused(wire.MEMBERS, MemberNotFound),
    "a member was to be added that is there at another address": _refused(wire.MEMBERS, MemberExists),
    "nobody would have been left to vote": _refused(wire.MEMBERS, MembershipRefused),
    "a member asked to have no vote": lambda run: run.own[wire.MEMBERS],
    "a member was told of its removal": _counted("member that was told of its removal"),
    "a removed member came back and was told": _counted("removed member that came back and was told"),
    "a damaged member was outgrown": _counted("damaged member that was outgrown"),
    "all members moved at once": _counted("move of all members"),
    # users
    "rights were changed": lambda run: run.commands[wire.AUTH, wire.OK],
    "rights were to be as they can't be": _refused(wire.AUTH, AuthRefused),
    "a user's command was carried out": lambda run: run.commands[wire.AS, wire.OK],
    "a user's command was denied": _refused(wire.AS, PermissionDenied),
    "a user that was changed had to prove anew who it is": _refused(wire.AS, AuthenticationFailed),
    "a user's read was denied": lambda run: sum(answer[0] == STATUS[PermissionDenied] for _, answer in run.answered),
    "a user's read under a lease was answered": lambda run: sum(
        read.subject is not None and read.revision > 0 for read in run.reads(Consistency.LEASE)
    ),
    "a guest was denied something": lambda run: run.commands[wire.PUT, STATUS[PermissionDenied]],
    "a guest was let in by a token": _counted("guest that was let in by a token"),
    "a guest was let in by a password": _counted("guest that was let in by a password"),
    "a batch named the session of somebody else": lambda run: run.simulation.invariants.witness.thefts,
    "a watch ended because its user may not have it": _ended(End.DENIED),
    # the world
    "a configuration had to wait for the one before": _counted("configuration that had to wait"),
    "the founders' configuration had to be brought back": _counted("configuration brought back"),
    "a lease expired in time while a majority was well": _counted("lease expired in time"),
    "everything was well for a while": _counted("lull"),
    "a member crashed in the middle of a turn": _counted("crash in the middle of a turn"),
    "the network refused a frame": lambda run: run.simulation.cluster.network.faults.get("full queue", 0),
    "a frame came twice": lambda run: run.simulation.cluster.network.faults.get("doubling", 0),
    "a frame came again when it was long out of date": lambda run: run.simulation.cluster.network.faults.get("straggler", 0),
    "a frame came out of order": lambda run: run.simulation.cluster.network.faults.get("reordering", 0),
    "a frame came to the wrong member": lambda run: run.simulation.cluster.network.faults.get("misrouting", 0),
    "a frame came damaged": lambda run: run.simulation.cluster.network.faults.get("damage", 0),
    "one end of a connection did not know that it is gone": lambda run: run.simulation.cluster.network.faults.get("half open", 0),
}
