"""Clients: threads of the members' processes that write and read, wait only so long, and note what they saw."""

from __future__ import annotations

from bisect import bisect_left
from typing import TYPE_CHECKING, Any, Protocol, cast

from attrs import define, field

from replkv import codec, kv, wire
from replkv.engine import Acting, Embedded
from replkv.errors import Compacted, OutcomeUnknown, Rejected
from replkv.plans import Read
from replkv.proposals import Call
from replkv.reads import NOT_YET
from replkv.refusals import STATUS
from replkv.testing.checker import OUTCOME_UNKNOWN
from replkv.testing.history import Consistency, History, Operation, Outcome
from replkv.testing.requests import Requests
from replkv.txn import Reader

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Generator

    from replkv.described import Published
    from replkv.kv import Store
    from replkv.node import Node
    from replkv.testing.cluster import SimCluster, SimMember
    from replkv.testing.rights import Subject
    from replkv.wire import Raw


class Packable(Protocol):
    """An operation."""

    def to_wire(self) -> Raw:
        """Return the tuple that stands for it in the log."""


class SimCall(Call):
    """A waiting caller in virtual time.

    Args:
        command: packed; None for a read barrier.
        wake: called on the node's thread when the call is finished.
    """

    __slots__ = ("finished", "wake")

    def __init__(self, command: bytes | None, wake: Callable[[], None]) -> None:
        super().__init__(command)
        self.wake = wake
        self.finished = False

    def finish(self) -> None:
        """Wake the caller."""
        self.finished = True
        self.wake()


class _Seen:
    """What a node has published, as a reader looks at it."""

    def __init__(self, reader: Reading, published: Published) -> None:
        self._reader = reader
        self._published = published

    @property
    def revision(self) -> int:
        """At which to read."""
        self._reader.revision, self._reader.store = self._published.revision, self._published.machine.store
        self._reader.compacted = self._reader.store.compacted
        return self._reader.revision

    def __getattr__(self, name: str) -> Any:
        return getattr(self._published, name)


class Reading:
    """A user's question to a node: the product's own way to an answer, and a note of what it was read from.

    Args:
        node: that is asked.
        subject: the user.
        operation: that reads.
        consistency: how.
    """

    revision = compacted = 0
    store: Store

    def __init__(self, node: Node, subject: Subject, operation: Packable, consistency: Consistency) -> None:
        self._node = node
        self.engine = Acting(Embedded(cast("Node", self)), subject)
        self.plan: Read[Any] = Read(cast("Any", operation), b"", consistency.value)

    @property
    def published(self) -> _Seen:
        """As a node's."""
        return _Seen(self, self._node.published)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._node, name)

    def oldest(self, answer: Raw) -> int:
        """Return how far the store was compacted from which this was answered."""
        is_news = answer[0] == STATUS[Compacted] and self.compacted < answer[2] <= self.store.compacted
        return answer[2] if is_news else self.compacted  # it was so by then


@define(eq=False, repr=False)
class Task:
    """One operation under way, in one life of a member."""

    operation: Operation
    member: SimMember
    node: Node
    patience: float
    then: Callable[[], object]
    call: SimCall | None = None
    entrance: SimCall | None = None  # finished when there is room for the call
    reading: Reading | None = None  # of a user

    @property
    def pending(self) -> bool:
        """Whether its caller still waits."""
        return self.operation.outcome is Outcome.PENDING


@define(eq=False, repr=False)
class Workload:
    """All clients of a run.

    Args:
        cluster: whom they ask.
        rng: draws what they do.
    """

    cluster: SimCluster
    rng: random.Random
    history: History = field(factory=History)
    active: bool = True
    requests: Requests = field(init=False)
    _tasks: dict[int, Task] = field(factory=dict)
    _ends: list[tuple[float, int]] = field(factory=list)  # when operations ended, in seconds and as a moment of the history

    def __attrs_post_init__(self) -> None:
        self.requests = Requests(self.cluster.scenario, self.rng)
        self.cluster.mourners.append(self._life_ended)

    @property
    def under_way(self) -> int:
        """How many callers wait for an answer."""
        return len(self._tasks)

    def begin(self) -> None:
        """Set all clients to work."""
        for _ in range(self.cluster.scenario.clients):
            self._think()

    # -- one client -------------------------------------------------------------------------------------------------------------------

    def _think(self) -> None:
        self.cluster.scheduler.after(self.rng.expovariate(1.0) * self.cluster.scenario.think, self._act)

    def _act(self) -> None:
        if not self.active:
            return
        running = self.cluster.running
        if not running:
            self._think()
            return
        self.rng.choice(running).on_caller_thread(self._ask, otherwise=self._think)

    def _ask(self, member: SimMember) -> None:
        write, consistency = self.rng.random() < self.cluster.scenario.writes, self.rng.choice(self._consistencies())
        operation: Packable = self.requests.write() if write else self.requests.read()
        self.run(member, operation, Consistency.WRITE if write else consistency, self._think)

    def _consistencies(self) -> tuple[Consistency, ...]:
        usual = (Consistency.LINEARIZABLE, Consistency.LINEARIZABLE, Consistency.LOCAL)
        return (*usual, Consistency.LEASE) if self.cluster.scenario.good_clocks else usual

    def run(
        self,
        member: SimMember,
        operation: Packable,
        consistency: Consistency,
        then: Callable[[], object],
        *,
        patience: float | None = None,
        subject: Subject | None = None,
    ) -> Operation:
        """Call from a thread of a member's process.

        Args:
            member: which one.
            operation: what to do.
            consistency: how; every operation that is no read is a WRITE.
            then: called when the caller has its answer or gave up.
            patience: seconds the caller waits; by default drawn.
            subject: the user on whose behalf; None: the member's own.
        """
        packed = operation.to_wire()
        if subject is not None and consistency is Consistency.WRITE:
            packed = (wire.AS, *subject, packed)
        noted = self.history.call(member.where, consistency, packed)
        patience = self.cluster.scenario.patience * self.rng.uniform(0.2, 1.0) if patience is None else patience
        task = self._tasks[noted.number] = Task(noted, member, member.process, patience, then)
        if consistency is Consistency.WRITE:
            self._submit(task)
        elif subject is not None:
            noted.subject, noted.least = subject, member.process.published.applied
            task.reading = Reading(member.process, subject, operation, consistency)
            self._read_for_user(task, task.reading)
        elif consistency is Consistency.LOCAL:
            self._note_freshness(task)
            self._answer_read(task)
        elif consistency is Consistency.LEASE:
            self._read_under_lease(task)
        else:
            self._ask_barrier(task)
        return noted

    # -- ways of an operation ---------------------------------------------------------------------------------------------------------

    def _submit(self, task: Task) -> None:
        command = codec.pack(task.operation.wire)
        task.call = SimCall(command, lambda: self._soon(task, self._settle))
        self._limit(task)
        if task.node.proposals.admission.enter(len(command)):
            self._hand_over(task, task.call)
        else:
            self.cluster.count("caller that waited to be let in")
            task.entrance = SimCall(None, lambda: self._soon(task, self._admitted))
            task.node.line_up(task.entrance, len(command))

    def _admitted(self, task: Task) -> None:
        """There is room for the call now, or its member has stopped."""
        if task.entrance is None or task.call is None:
            return
        if task.entrance.error is not None:
            self._end(task, lambda: self.history.failed(task.operation))
        else:
            task.entrance = None
            self._hand_over(task, task.call)

    def _hand_over(self, task: Task, call: SimCall) -> None:
        self.cluster.slots[call] = task.operation.slots
        task.node.submit(call)

    def _ask_barrier(self, task: Task) -> None:
        task.call = SimCall(None, lambda: self._soon(task, self._settle))
        self._limit(task)
        task.node.read_barrier(task.call)

    def _read_under_lease(self, task: Task) -> None:
        """Read from memory if the leader's lease holds before and after; each look at a later moment, as threads do it."""
        before = task.node.published
        if before.applied < before.commit or task.node.clock() >= before.lease_until:
            self._ask_barrier(task)
            return
        self._soon(task, lambda task: self._read_once(task, before.term), self.rng.choice((0.0002, 0.0002, 0.1)))

    def _read_once(self, task: Task, term: int) -> None:
        published = task.node.published
        answer = published.machine.read(task.operation.wire, published.revision)
        if answer is None:
            self._ask_barrier(task)
            return
        compacted = published.machine.store.compacted
        self._soon(task, lambda task: self._confirm_lease(task, term, answer, (published.revision, compacted)))

    def _confirm_lease(self, task: Task, term: int, answer: Raw, store: tuple[int, int]) -> None:
        after = task.node.published
        if after.term != term or task.node.clock() >= after.lease_until:
            self.cluster.count("lease over between two looks")
            self._ask_barrier(task)
        else:
            self._end(task, lambda: self.history.answered(task.operation, answer, *store))

    def _read_for_user(self, task: Task, reading: Reading) -> None:
        if task.operation.consistency is Consistency.LINEARIZABLE:
            self._ask_for_user(task, reading)
        else:
            self._judge_on(task, reading, reading.engine.answer_in_steps(reading.plan, None))

    def _ask_for_user(self, task: Task, reading: Reading) -> None:
        task.call = SimCall(None, lambda: self._soon(task, self._settle))
        self._limit(task)
        try:
            reading.engine.ask(reading.plan, task.call)
        except Rejected as refused:
            self._answer_user(task, reading, wire.refused(refused))

    def _judge_on(self, task: Task, reading: Reading, steps: Generator[None, None, Any]) -> None:
        """Take one step of a read that is judged; rights may be changed in between."""
        answer: Any = None
        try:
            next(steps)
        except StopIteration as end:
            answer = end.value
        except Rejected as refused:
            answer = wire.refused(refused)
        if answer is NOT_YET:
            self._ask_for_user(task, reading)
        elif answer is None:
            within = self.rng.choice((0.0002, 0.0002, 0.1))
            self._soon(task, lambda task: self._judge_on(task, reading, steps), within)
        else:
            self._answer_user(task, reading, answer)

    def _answer_user(self, task: Task, reading: Reading, answer: Raw) -> None:
        operation = task.operation
        operation.most = task.node.machine.applied + (task.node._applying is not None)
        self._end(task, lambda: self.history.answered(operation, answer, reading.revision, reading.oldest(answer)))

    def _note_freshness(self, task: Task) -> None:
        """Note what the member says of its own state: it has everything that was acknowledged before a time of its clock."""
        if self.rng.random() < 0.5 or not self.cluster.scenario.good_clocks:
            return
        when = task.member.clock.moment(task.node.fresh_at) - 1e-5
        task.operation.fresh = self._ends[bisect_left(self._ends, (when, 0)) - 1][1] if self._ends and self._ends[0][0] < when else 0

    def _answer_read(self, task: Task) -> None:
        """Read; sometimes the thread stands still behind its look at what is published, or again and again while it reads."""
        published, chance = task.node.published, self.rng.random()
        if chance < 0.1:
            reader = Reader(published.machine.store, published.revision)
            self._read_on(task, published, reader, reader.execute(task.operation.wire), published.machine.store.compacted)
        elif chance < 0.4:
            self._soon(task, lambda task: self._read_from(task, published), self.rng.choice((0.0002, 0.05, 0.5)))
        else:
            self._read_from(task, published)

    def _read_from(self, task: Task, published: Published) -> None:
        answer = published.machine.read(task.operation.wire, published.revision)
        self._note_read(task, published, answer, published.machine.store.compacted)

    def _read_on(self, task: Task, published: Published, reader: Reader, steps: Generator[None, None, Raw], compacted: int) -> None:
        """Take one step of a read, as ``Machine.read`` does; whatever happens to the store may happen in between."""
        store, answer = published.machine.store, None
        try:
            next(steps)
        except StopIteration as end:
            answer = end.value if reader.oldest >= store.removed_below else None
        except Rejected as refused:
            answer = wire.refused(refused)
            if isinstance(refused, Compacted) and compacted < refused.revision <= store.compacted:
                compacted = refused.revision  # it is so by now
        else:
            within = self.rng.choice((0.0002, 0.0002, 0.02))
            self._soon(task, lambda task: self._read_on(task, published, reader, steps, compacted), within)
            return
        self._note_read(task, published, answer, compacted)

    def _note_read(self, task: Task, published: Published, answer: Raw | None, compacted: int) -> None:
        if answer is None:  # what it was to read has been removed meanwhile
            self.cluster.count("read outrun by a compaction")
            self._read_from(task, task.node.published)
            return
        self.requests.saw(published.revision)
        self._note_key(task.operation, answer)
        self._end(task, lambda: self.history.answered(task.operation, answer, published.revision, compacted))

    # -- ends of an operation ---------------------------------------------------------------------------------------------------------

    def _limit(self, task: Task) -> None:
        self.cluster.scheduler.after(task.patience, lambda: self._soon(task, self._give_up))

    def _soon(self, task: Task, action: Callable[[Task], None], within: float = 0.0002) -> None:
        """Do the next step on the caller's thread, a little later, when its process can."""
        delay = task.member.clock.lag + self.rng.random() * within
        resume = lambda _: action(task) if task.pending else None  # noqa: E731  # shorter than a method
        self.cluster.scheduler.after(delay, lambda: task.member.on_caller_thread(resume) if task.pending else None)

    def _settle(self, task: Task) -> None:
        """The call is finished: note its answer, or read now that the barrier is passed."""
        call = task.call
        if call is None:
            return
        if call.error is not None:
            unknown = isinstance(call.error, OutcomeUnknown) and task.operation.consistency is Consistency.WRITE
            self._end(task, lambda: (self.history.unknown if unknown else self.history.failed)(task.operation))
        elif call.answer is not None:
            answer = call.answer
            self._end(task, lambda: self._note_answer(task.operation, answer))
        elif task.reading is not None:
            self._judge_on(task, task.reading, task.reading.engine.answer_in_steps(task.reading.plan, call))
        else:
            self._answer_read(task)
        self._note_place(task)

    def _note_place(self, task: Task) -> None:
        """Count what is answered where, or when, that is not usual."""
        raft = task.node.raft
        if raft is None or task.call is None or task.call.error is not None:
            return
        if task.member.name in raft.configuration.learners:
            self.cluster.count("answer at a learner")
        if raft.configuration.outgoing:
            self.cluster.count("answer in a joint configuration")

    def _note_answer(self, operation: Operation, answer: Raw) -> None:
        """Note a write's answer; one that was too large to be remembered for a repeat is as good as none."""
        if answer[0] == OUTCOME_UNKNOWN:
            self.cluster.count("answer too large to be given twice")
            self.history.unknown(operation)
        else:
            self.history.answered(operation, answer)
            if operation.wire[0] in (wire.PUT, wire.DELETE, wire.TXN) and answer[0] == wire.OK:
                self.requests.saw(answer[1])
            self._note_key(operation, answer)

    def _note_key(self, operation: Operation, answer: Raw) -> None:
        """Have writes guarded by a key that somebody saw, or made."""
        if operation.wire[0] not in (wire.GET, wire.PUT) or answer[0] != wire.OK:
            return
        if answer[-1] is not None:
            self.requests.found(operation.wire[1], answer[-1][kv.CREATE])
        elif operation.wire[0] == wire.PUT and operation.wire[3]:
            self.requests.found(operation.wire[1], answer[1])

    def _give_up(self, task: Task) -> None:
        call = task.call
        if call is None or call.finished:
            return  # its answer is on the way
        waits_outside = task.entrance is not None
        untouched = self._turn_back(task, len(call.command or b"")) if waits_outside else task.node.give_up(call)
        if call.command is not None and untouched:
            self.cluster.count(f"caller that gave up {'before it was let in' if waits_outside else 'in the queue'}")
        self._end(task, lambda: (self.history.failed if untouched else self.history.unknown)(task.operation))

    def _turn_back(self, task: Task, size: int) -> bool:
        """Leave the line; who was just let in goes out again."""
        admission = task.node.proposals.admission
        if task.entrance is not None and not admission.give_up(task.entrance, size):
            admission.leave(1, size)
        return True

    def _end(self, task: Task, note: Callable[[], None]) -> None:
        self._tasks.pop(task.operation.number, None)
        note()
        self._ends.append((self.cluster.scheduler.now, self.history.moment))
        self.cluster.trace.note("client", task.operation)
        task.then()

    def _life_ended(self, _member: SimMember, node: Node) -> None:
        for task in list(self._tasks.values()):
            if task.node is node and task.pending:
                self._end_with_process(task)

    def _end_with_process(self, task: Task) -> None:
        """Note what the callers of a process that ended know: an answer they got, or nothing about a write, or that a read is over."""
        call, operation = task.call, task.operation
        if call is not None and call.finished and (call.error is not None or call.answer is not None):
            self._settle(task)
        elif operation.consistency is Consistency.WRITE:
            self._end(task, lambda: self.history.unknown(operation))
        else:
            self._end(task, lambda: self.history.failed(operation))
