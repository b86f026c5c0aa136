"""Operations carried out on a store, transactions above all, after etcd's rules (etcd, server/etcdserver/txn).

A transaction's compares, those of nested transactions included, are all decided on the state before it; that fixes which operations
will run.  Then they run in their order and see each other's writes.  One that is refused takes the whole transaction with it.

What can take long is a generator that yields between slices, so that the node can look after its sockets meanwhile.
"""

from __future__ import annotations

import operator
import re
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, TypeAlias

from replkv import kv, wire
from replkv.errors import Conflict, KeyNotFound, LeaseNotFound, LockLost, NotACounter, QuotaExceeded
from replkv.lease import LEASE_BYTES, NOBODY
from replkv.refusals import refuse
from replkv.values import INT64
from replkv.wire import OK

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from replkv.kv import Store
    from replkv.lease import Lease, Leases
    from replkv.wire import Raw

SLICE = 64
"""How many short operations run between two yields."""

EXPIRIES, EXPIRED_KEYS = 256, 4096
"""How many leases expire with one entry at most, and after how many of their keys no further one does; the others wait for the next."""

_FIELDS = {
    wire.VERSION: kv.VERSION,
    wire.CREATE: kv.CREATE,
    wire.MOD: kv.MOD,
    wire.VALUE: kv.VALUE,
    wire.LEASE: kv.LEASE,
    wire.FENCE: kv.CREATE,
}
_RELATIONS = {wire.EQUAL: operator.eq, wire.NOT_EQUAL: operator.ne, wire.GREATER: operator.gt, wire.LESS: operator.lt}
_COUNTER = re.compile(rb"0|-?[1-9][0-9]{0,18}")


Begun: TypeAlias = "Raw | Generator[None, None, Raw]"
"""What an operation returns that was begun: its answer, or the steps that lead to it if they may be many."""


class Decided(NamedTuple):
    """A transaction whose compares are decided: the operations that will run, nested transactions as decided ones of their own."""

    succeeded: bool
    steps: tuple[Raw | Decided, ...]


class Reader:
    """Carries out operations that only read, at one revision; on any thread.

    ``oldest`` is the oldest revision that was read.
    """

    operations: ClassVar[dict[int, Callable[[Any, Raw], Begun]]]

    def __init__(self, store: Store, revision: int) -> None:
        self._store = store
        self._revision = self.oldest = revision

    @property
    def base(self) -> int:
        """The revision before the command: what compares look at."""
        return self._revision

    @property
    def now(self) -> int:
        """The revision the next operation sees."""
        return self._revision

    def get(self, packed: Raw) -> Raw:
        """Read one key."""
        _, key, asked = packed
        return (OK, self._store.get(key, self._at(asked)))

    def scan(self, packed: Raw) -> Generator[None, None, Raw]:
        """Read a span."""
        _, start, end, limit, asked, *options = packed
        records, count, more = yield from self._store.scan((start, end), self._at(asked), kv.Selection(limit, *options))
        return (OK, self.now, records, count, more)

    def _at(self, asked: int) -> int:
        if not asked:
            return self.now
        self._store.check(asked, self.base)
        self.oldest = min(self.oldest, asked)
        return asked

    def txn(self, packed: Raw) -> Generator[None, None, Raw]:
        """Decide a transaction, then run it."""
        plan = yield from self._decide(packed)
        return (yield from self._run(plan))

    def _decide(self, packed: Raw) -> Generator[None, None, Decided]:
        _, compares, then, otherwise = packed
        succeeded = True
        for compare in compares:
            holds = self._holds(compare)
            if not (holds if isinstance(holds, bool) else (yield from holds)):
                succeeded = False
                break
        steps: list[Raw | Decided] = list(then if succeeded else otherwise)
        for place, step in enumerate(steps):
            if step[0] == wire.TXN:
                steps[place] = yield from self._decide(step)
        return Decided(succeeded, tuple(steps))

    def _holds(self, compare: Raw) -> bool | Generator[None, None, bool]:
        """Tell whether all keys of a compare's span satisfy it; a span without keys counts as one key without value, all zero."""
        start, end, target, relation, operand = compare
        field, holds = _FIELDS[target], _RELATIONS[relation]
        of_none = target != wire.VALUE and holds(0, operand)
        if end != start + b"\x00":
            return self._all_hold((start, end), lambda record: holds(record[field], operand), of_none=of_none)
        record = self._store.get(start, self.base)
        return of_none if record is None else bool(holds(record[field], operand))

    def _all_hold(self, span: kv.Bounds, holds: Callable[[kv.Record], bool], *, of_none: bool) -> Generator[None, None, bool]:
        empty = True
        for records in self._store.slices(span, self.base):
            if not all(map(holds, records)):
                return False
            empty = empty and not records
            yield
        return of_none or not empty

    def _run(self, plan: Decided) -> Generator[None, None, Raw]:
        answers: list[Raw] = []
        for step in plan.steps:
            begun = self._run(step) if isinstance(step, Decided) else self.begin(step)
            answers.append(begun if isinstance(begun, tuple) else (yield from begun))
            if len(answers) % SLICE == 0:
                yield
        return (OK, self.now, plan.succeeded, tuple(answers))

    def begin(self, packed: Raw) -> Begun:
        """Carry out one operation, or return the steps that do; a generator for each of the short ones would cost more than they do.

        Raises:
            Rejected: it is refused; what it wrote before is to be rolled back.  Steps may raise it too.
            KeyError: there is no such operation, or it writes and this only reads.
        """
        return self.operations[packed[0]](self, packed)

    def execute(self, packed: Raw) -> Generator[None, None, Raw]:
        """Carry out one operation, in steps.

        Returns:
            Its answer.

        Raises:
            Rejected: it is refused; what it wrote before is to be rolled back.
            KeyError: there is no such operation, or it writes and this only reads.
        """
        begun = self.begin(packed)
        return begun if isinstance(begun, tuple) else (yield from begun)


Reader.operations = {wire.GET: Reader.get, wire.SCAN: Reader.scan, wire.TXN: Reader.txn}


class Writer(Reader):
    """Carries out all operations, on the store's one writing thread; its reads see what it has written.

    Args:
        store: the keys.
        leases: the leases that keys hang on.

    Attributes:
        time: cluster time in microseconds.
        max_bytes: what store and leases may take.
        user: on whose behalf the command at work is; None: a member's.
        ended: leases that are no more, for whoever holds them here.
    """

    def __init__(self, store: Store, leases: Leases) -> None:
        super().__init__(store, 0)
        self._leases = leases
        self._promised: list[tuple[int, int]] = []  # id and ttl of the passing leases the command at work makes
        self.time = 0
        self.max_bytes = 0
        self.user: str | None = None
        self.ended: list[int] = []

    @property
    def base(self) -> int:
        """The revision before the command: what compares look at."""
        return self._store.revision

    @property
    def now(self) -> int:
        """The revision the next operation sees: the command's own as soon as it has changed something."""
        return self._store.latest

    # -- the ends of a command -----------------------------------------------------------------------------------------------------

    def commit(self) -> Generator[None, None, None]:
        """End a command: its writes make a revision, and keys hang on the leases it gave them."""
        self._store.commit()
        if self._store.moved:
            yield from self.settle()

    def settle(self) -> Generator[None, None, None]:
        """Hang keys on their leases, in slices of 256."""
        promised, self._promised = self._promised, []
        for number, ttl in promised:
            self._leases.grant(number, ttl, NOBODY, self.time, passing=True)
            self._leases.last_id = number
        moved, self._store.moved = self._store.moved, []
        yield from self._hang(moved)  # first: a passing lease that loses a key and is given another goes on
        for at in range(0, len(moved), kv.SLICE):
            for key, before, after in moved[at : at + kv.SLICE]:
                if before and before != after and self._leases.take(key, before):
                    self.ended.append(before)
            yield

    def _hang(self, moved: list[tuple[bytes, int, int]]) -> Generator[None, None, None]:
        for at in range(0, len(moved), kv.SLICE):
            for key, _, after in moved[at : at + kv.SLICE]:
                if after:
                    self._leases.hang(key, after)
            yield

    def rollback(self) -> Generator[None, None, None]:
        """Take back all the command has done."""
        self._promised.clear()
        yield from self._store.rollback()

    # -- keys ----------------------------------------------------------------------------------------------------------------------

    def put(self, packed: Raw) -> Raw:
        """Store a value."""
        _, key, value, prev_kv = packed
        return self._put(key, value, 0, prev_kv)

    def put_with(self, packed: Raw) -> Raw:
        """Store a value, or keep the one there is, with a lease, the one there is, or one of its own."""
        _, key, value, prev_kv, lease, ttl = packed
        if value is None or lease is None:
            present = self._store.get(key, self.now)
            if present is None:
                raise refuse(KeyNotFound, (key, "value" if value is None else "lease"))
            value = present[kv.VALUE] if value is None else value
            lease = present[kv.LEASE] if lease is None else lease
        if lease:
            self._leases[lease]  # or it is refused
        return self._put(key, value, self._promise(ttl) if ttl else lease, prev_kv)

    def _promise(self, ttl: int) -> int:
        """Return the id of a lease that will be made with the command."""
        number = self._leases.choose(self._promised[-1][0] if self._promised else self._leases.last_id)
        self._promised.append((number, ttl))
        return number

    def _put(self, key: bytes, value: bytes, lease: int, prev_kv: bool) -> Raw:
        store = self._store
        self._check_room(len(key) + len(value) + kv.RECORD_BYTES)
        prev = store.put(key, value, lease)
        return (OK, store.revision + 1, prev if prev_kv else None)

    def _check_room(self, more: int) -> None:
        size = self._store.size + self._leases.size + LEASE_BYTES * len(self._promised) + more
        if size > self.max_bytes:
            raise refuse(QuotaExceeded, (size, self.max_bytes))

    def expect(self, packed: Raw) -> Begun:
        """Carry out an operation if its key is at the expected revision."""
        _, key, expected, operation = packed
        present = self._store.get(key, self.now)
        revision = 0 if present is None else present[kv.MOD]
        if revision != expected:
            raise refuse(Conflict, (key, expected), present)
        return self.begin(operation)

    def guard(self, packed: Raw) -> Begun:
        """Carry out an operation if the lock that guards it is still the one that was taken."""
        _, key, created, operation = packed
        lock = self._store.get(key, self.now)
        if lock is None or lock[kv.CREATE] != created:
            raise refuse(LockLost, (key, created))
        return self.begin(operation)

    def add(self, packed: Raw) -> Raw:
        """Add to a counter."""
        _, key, delta = packed
        present = self._store.get(key, self.now)
        total = added(key, None if present is None else present[kv.VALUE], delta)
        _, revision, _ = self._put(key, b"%d" % total, 0 if present is None else present[kv.LEASE], prev_kv=False)
        return (OK, revision, total)

    def delete(self, packed: Raw) -> Generator[None, None, Raw]:
        """Delete a span."""
        _, start, end, prev_kv = packed
        deleted = yield from self._store.delete((start, end))
        return (OK, self.now, len(deleted), tuple(deleted) if prev_kv else ())

    def compact(self, packed: Raw) -> Raw:
        """Forget history."""
        self._store.compact(packed[1])
        return (OK, self._store.revision)

    # -- leases --------------------------------------------------------------------------------------------------------------------

    def grant(self, packed: Raw) -> Raw:
        """Make a lease."""
        _, number, ttl, keeper = packed
        self._check_room(LEASE_BYTES)
        return (OK, self._leases.grant(number, ttl, keeper, self.time, owner=self.user).id, ttl)

    def renew(self, packed: Raw) -> Raw:
        """Let a lease's time begin anew."""
        _, number, keeper = packed
        return (OK, self._leases.renew(number, keeper, self.time, self.user).ttl)

    def keep_alive(self, packed: Raw) -> Raw:
        """Let the time of a keeper's leases begin anew."""
        return (OK, self._leases.keep_alive(packed[1], self.time))

    def revoke(self, packed: Raw) -> Generator[None, None, Raw]:
        """End a lease."""
        _, number, keeper = packed
        lease = self._leases[number]
        if keeper and lease.keeper != keeper:  # somebody else has taken it over meanwhile
            raise refuse(LeaseNotFound, (number,))
        deleted = yield from self._end(lease, expired=False)
        return (OK, self.now, deleted)

    def _end(self, lease: Lease, *, expired: bool) -> Generator[None, None, int]:
        keys = yield from kv.in_order(list(lease.keys))
        deleted = yield from self._store.delete_keys(keys, lease.id if expired else 0)
        self._leases.remove(lease)
        self.ended.append(lease.id)
        return deleted

    def expire(self) -> Generator[None, None, None]:
        """End the leases whose time is over, each with all its keys at a revision of its own; those that are left wait for the next entry.

        In the order of their deadlines, on every member alike.
        """
        keys = 0
        for _ in range(EXPIRIES):
            lease = self._leases.next
            if lease is None or self._leases.deadline(lease) > self.time or keys >= EXPIRED_KEYS:
                return
            keys += yield from self._end(lease, expired=True)
            yield from self.commit()


Writer.operations = {
    **Reader.operations,
    wire.PUT: Writer.put,
    wire.PUT_WITH: Writer.put_with,
    wire.ADD: Writer.add,
    wire.COMPACT: Writer.compact,
    wire.GRANT: Writer.grant,
    wire.RENEW: Writer.renew,
    wire.KEEP_ALIVE: Writer.keep_alive,
    wire.DELETE: Writer.delete,
    wire.EXPECT: Writer.expect,
    wire.GUARD: Writer.guard,
    wire.REVOKE: Writer.revoke,
}


def added(key: bytes, value: bytes | None, delta: int) -> int:
    """Return what a counter stands at when something has been added; it counts from 0 while there is none.

    Raises:
        NotACounter: its value is none, or would leave the range of 64 bits.
    """
    number = 0 if value is None else int(value) if _COUNTER.fullmatch(value) else None
    if number is None or number not in INT64:
        raise refuse(NotACounter, (key, False))
    if number + delta not in INT64:
        raise refuse(NotACounter, (key, True))
    return number + delta
