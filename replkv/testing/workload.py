"""Clients: threads of the members' processes that write and read, wait only so long, and note what they saw.

No two writes are alike, so that each can be found in the log: puts carry a value of their own, counters a delta, deletes an end that no
key reaches, transactions a key nobody else asks for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from attrs import define, field

from replkv import codec
from replkv.errors import OutcomeUnknown
from replkv.ops import Add, Delete, Get, Key, Put, Scan, Txn, refusal
from replkv.proposals import Call
from replkv.testing.history import Consistency, History, Operation, Outcome

if TYPE_CHECKING:
    import random
    from collections.abc import Callable

    from replkv.node import Node
    from replkv.testing.cluster import SimCluster, SimMember

OUTCOME_UNKNOWN = refusal(OutcomeUnknown, "")[0]


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


@define(eq=False, repr=False)
class Task:
    """One operation under way, in one life of a member."""

    operation: Operation
    member: SimMember
    node: Node
    patience: float
    then: Callable[[], object]
    call: SimCall | None = None

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
    _tasks: dict[int, Task] = field(factory=dict)
    _seen: int = 1  # a revision somebody saw

    def __attrs_post_init__(self) -> None:
        self.cluster.mourners.append(self._life_ended)

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
        operation = self._write() if write else self._read()
        self.run(member, operation, Consistency.WRITE if write else consistency, self._think)

    def _consistencies(self) -> tuple[Consistency, ...]:
        usual = (Consistency.LINEARIZABLE, Consistency.LINEARIZABLE, Consistency.LOCAL)
        return (*usual, Consistency.LEASE) if self.cluster.scenario.lease_reads else usual

    def run(
        self,
        member: SimMember,
        operation: Put | Delete | Add | Get | Scan | Txn,
        consistency: Consistency,
        then: Callable[[], object],
        *,
        patience: float | None = None,
    ) -> Operation:
        """Call from a thread of a member's process.

        Args:
            member: which one.
            operation: what to do.
            consistency: how; every operation that is no read is a WRITE.
            then: called when the caller has its answer or gave up.
            patience: seconds the caller waits; by default drawn.
        """
        noted = self.history.call(member.where, consistency, operation.to_wire())
        patience = self.cluster.scenario.patience * self.rng.uniform(0.2, 1.0) if patience is None else patience
        task = self._tasks[noted.number] = Task(noted, member, member.process, patience, then)
        if consistency is Consistency.WRITE:
            self._submit(task)
        elif consistency is Consistency.LOCAL:
            self._answer_read(task)
        elif consistency is Consistency.LEASE:
            self._read_under_lease(task)
        else:
            self._ask_barrier(task)
        return noted

    # -- ways of an operation ---------------------------------------------------------------------------------------------------------

    def _submit(self, task: Task) -> None:
        task.call = SimCall(codec.pack(task.operation.wire), lambda: self._soon(task, self._settle))
        self._limit(task)
        task.node.submit(task.call)

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
        self._soon(task, lambda task: self._read_once(task, before.term))

    def _read_once(self, task: Task, term: int) -> None:
        published = task.node.published
        answer = published.machine.read(task.operation.wire, published.revision)
        self._soon(task, lambda task: self._confirm_lease(task, term, published.revision, answer))

    def _confirm_lease(self, task: Task, term: int, revision: int, answer: tuple[object, ...]) -> None:
        after = task.node.published
        if after.term != term or task.node.clock() >= after.lease_until:
            self._ask_barrier(task)
        else:
            self._end(task, lambda: self.history.answered(task.operation, answer, revision))

    def _answer_read(self, task: Task) -> None:
        published = task.node.published
        answer = published.machine.read(task.operation.wire, published.revision)
        self._seen = max(self._seen, published.revision)
        self._end(task, lambda: self.history.answered(task.operation, answer, published.revision))

    # -- ends of an operation ---------------------------------------------------------------------------------------------------------

    def _limit(self, task: Task) -> None:
        self.cluster.scheduler.after(task.patience, lambda: self._soon(task, self._give_up))

    def _soon(self, task: Task, action: Callable[[Task], None]) -> None:
        """Do the next step on the caller's thread, a little later, when its process can."""
        delay = task.member.clock.lag + self.rng.random() * 0.0002
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
        else:
            self._answer_read(task)

    def _note_answer(self, operation: Operation, answer: tuple[object, ...]) -> None:
        """Note a write's answer; one that was too large to be remembered for a repeat is as good as none."""
        if answer[0] == OUTCOME_UNKNOWN:
            self.history.unknown(operation)
        else:
            self.history.answered(operation, answer)

    def _give_up(self, task: Task) -> None:
        call = task.call
        if call is None or call.finished:
            return  # its answer is on the way
        untouched = task.node.give_up(call)
        self._end(task, lambda: (self.history.failed if untouched else self.history.unknown)(task.operation))

    def _end(self, task: Task, note: Callable[[], None]) -> None:
        self._tasks.pop(task.operation.number, None)
        note()
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

    # -- what they ask for ------------------------------------------------------------------------------------------------------------

    def _key(self) -> bytes:
        return b"k%02d" % self.rng.randrange(self.cluster.scenario.keys)

    def _unique(self) -> bytes:
        return b"%d" % (len(self.history.operations) + 1)

    def _write(self) -> Put | Delete | Add | Txn:
        kind = self.rng.choices(("put", "delete", "clear", "add", "txn", "big"), (8, 2, 1, 4, 4, 1))[0]
        key, unique = self._key(), self._unique()
        match kind:
            case "put":
                return Put(key, b"v" + unique, prev_kv=self.rng.random() < 0.5)
            case "big":
                return Put(key, b"v" + unique + bytes(self.rng.randrange(3000)))
            case "delete":
                return Delete(start=key, end=key + b"\x00" + unique, prev_kv=self.rng.random() < 0.5)
            case "clear":
                return Delete(start=b"k", end=b"k~" + unique)
            case "add":
                return Add(key if self.rng.random() < 0.1 else b"n" + key, len(self.history.operations) + 1)
        return self._txn(key, unique, nested=self.rng.random() < 0.3)

    def _txn(self, key: bytes, unique: bytes, *, nested: bool) -> Txn:
        conditions = [
            Key(key).version > self.rng.randrange(3),
            Key(key).mod_revision < self._seen + self.rng.randrange(5),
            Key(prefix=b"k").create_revision < self._seen,
            Key(key).missing,
            Key(key).value > b"v5",
        ]
        chosen = [condition for condition in conditions if self.rng.random() < 0.3]
        then: list[Put | Delete | Add | Get | Scan | Txn] = [Get(key), Put(key, b"v" + unique), Scan(prefix=b"k", limit=3)]
        other = self._key()
        if other != key and self.rng.random() < 0.2:
            then.append(Add(other, 1))  # refused where that holds a text, and then nothing of it may remain
        if nested:
            then.append(Txn(compare=[Key(key).exists], then=[Put(b"t" + key, b"w" + unique)], otherwise=[Delete(b"t" + key)]))
        otherwise = [Delete(key)] if self.rng.random() < 0.3 else [Get(key)]
        return Txn(compare=[Key(b"u" + unique).missing, *chosen], then=then, otherwise=otherwise)

    def _read(self) -> Get | Scan | Txn:
        key = self._key()
        past = self.rng.randint(1, self._seen) if self.rng.random() < 0.2 else None
        match self.rng.randrange(4):
            case 0:
                return Scan(prefix=b"k", limit=self.rng.randrange(4), revision=past, keys_only=self.rng.random() < 0.2)
            case 1:
                return Txn(compare=[Key(key).exists], then=[Get(key), Scan(prefix=b"n")], otherwise=[Scan(prefix=b"t", count_only=True)])
        return Get(key, revision=past)
