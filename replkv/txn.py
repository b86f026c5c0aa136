"""Operations carried out on a store, transactions above all, after etcd's rules (etcd, server/etcdserver/txn).

A transaction's compares, those of nested transactions included, are all decided on the state before it; that fixes which operations
will run.  Then they run in their order and see each other's writes.  One that is refused takes the whole transaction with it.

What can take long is a generator that yields between slices, so that the node can look after its sockets meanwhile.
"""

from __future__ import annotations

import operator
import re
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from replkv import kv, ops
from replkv.errors import NotACounter
from replkv.ops import OK

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from replkv.kv import Record, Store
    from replkv.ops import Raw

SLICE = 64
"""How many short operations run between two yields."""

_FIELDS = {ops.VERSION: kv.VERSION, ops.CREATE: kv.CREATE, ops.MOD: kv.MOD, ops.VALUE: kv.VALUE, ops.LEASE: kv.LEASE}
_RELATIONS = {ops.EQUAL: operator.eq, ops.NOT_EQUAL: operator.ne, ops.GREATER: operator.gt, ops.LESS: operator.lt}
_COUNTER = re.compile(rb"0|-?[1-9][0-9]{0,18}")


class Decided(NamedTuple):
    """A transaction whose compares are decided: the operations that will run, nested transactions as decided ones of their own."""

    succeeded: bool
    steps: tuple[Raw | Decided, ...]


class Reader:
    """Carries out operations that only read, at one revision; on any thread."""

    quick: ClassVar[dict[int, Callable[[Any, Raw], Raw]]]
    sliced: ClassVar[dict[int, Callable[[Any, Raw], Generator[None, None, Raw]]]]

    def __init__(self, store: Store, revision: int) -> None:
        self._store = store
        self._revision = revision

    @property
    def base(self) -> int:
        """The revision before the command: what compares look at."""
        return self._revision

    @property
    def now(self) -> int:
        """The revision the next operation sees."""
        return self._revision

    def get(self, wire: Raw) -> Raw:
        """Read one key."""
        _, key, asked = wire
        return (OK, self._store.get(key, self._at(asked)))

    def scan(self, wire: Raw) -> Generator[None, None, Raw]:
        """Read a span."""
        _, start, end, limit, asked, keys_only, count_only = wire
        records, count, more = yield from self._store.scan((start, end), self._at(asked), limit, keys_only, count_only)
        return (OK, self.now, records, count, more)

    def _at(self, asked: int) -> int:
        at = self._store.check(asked, self.base)
        return at if asked else self.now

    def txn(self, wire: Raw) -> Generator[None, None, Raw]:
        """Decide a transaction, then run it."""
        plan = yield from self._decide(wire)
        return (yield from self._run(plan))

    def _decide(self, wire: Raw) -> Generator[None, None, Decided]:
        _, compares, then, otherwise = wire
        succeeded = True
        for compare in compares:
            if not (yield from self._holds(compare)):
                succeeded = False
                break
        steps: list[Raw | Decided] = list(then if succeeded else otherwise)
        for place, step in enumerate(steps):
            if step[0] == ops.TXN:
                steps[place] = yield from self._decide(step)
        return Decided(succeeded, tuple(steps))

    def _holds(self, compare: Raw) -> Generator[None, None, bool]:
        """Tell whether all keys of a compare's span satisfy it; a span without keys counts as one key without value, all zero."""
        start, end, target, relation, operand = compare
        field, holds = _FIELDS[target], _RELATIONS[relation]
        empty = True
        for records in self._store.slices((start, end), self.base):
            if not all(holds(record[field], operand) for record in records):
                return False
            empty = empty and not records
            yield
        return not empty or (target != ops.VALUE and holds(0, operand))

    def _run(self, plan: Decided) -> Generator[None, None, Raw]:
        answers: list[Raw] = []
        for step in plan.steps:
            answers.append((yield from self._run(step) if isinstance(step, Decided) else self.execute(step)))
            if len(answers) % SLICE == 0:
                yield
        return (OK, self.now, plan.succeeded, tuple(answers))

    def execute(self, wire: Raw) -> Generator[None, None, Raw]:
        """Carry out one operation.

        Returns:
            Its answer.

        Raises:
            Rejected: it is refused; what it wrote before is to be rolled back.
            KeyError: there is no such operation, or it writes and this only reads.
        """
        quick = self.quick.get(wire[0])
        if quick is not None:
            return quick(self, wire)
        return (yield from self.sliced[wire[0]](self, wire))


Reader.quick = {ops.GET: Reader.get}
Reader.sliced = {ops.SCAN: Reader.scan, ops.TXN: Reader.txn}


class Writer(Reader):
    """Carries out all operations, on the store's one writing thread; its reads see what it has written."""

    def __init__(self, store: Store) -> None:
        super().__init__(store, 0)

    @property
    def base(self) -> int:
        """The revision before the command: what compares look at."""
        return self._store.revision

    @property
    def now(self) -> int:
        """The revision the next operation sees: the command's own as soon as it has changed something."""
        return self._store.latest

    def put(self, wire: Raw) -> Raw:
        """Store a value."""
        _, key, value, prev_kv = wire
        store = self._store
        prev = store.put(key, value)
        return (OK, store.revision + 1, prev if prev_kv else None)

    def add(self, wire: Raw) -> Raw:
        """Add to a counter."""
        _, key, delta = wire
        total = _count(key, self._store.get(key, self.now)) + delta
        if total not in ops.INT64:
            raise NotACounter(f"the counter {key[:64]!r} would leave the range of 64 bits: {total}")
        self._store.put(key, b"%d" % total)
        return (OK, self.now, total)

    def delete(self, wire: Raw) -> Generator[None, None, Raw]:
        """Delete a span."""
        _, start, end, prev_kv = wire
        deleted = yield from self._store.delete((start, end))
        return (OK, self.now, len(deleted), tuple(deleted) if prev_kv else ())


Writer.quick = {**Reader.quick, ops.PUT: Writer.put, ops.ADD: Writer.add}
Writer.sliced = {**Reader.sliced, ops.DELETE: Writer.delete}


def _count(key: bytes, record: Record | None) -> int:
    """Return what a counter stands at; 0 while there is none."""
    if record is None:
        return 0
    number = int(record[kv.VALUE]) if _COUNTER.fullmatch(record[kv.VALUE]) else None
    if number is None or number not in ops.INT64:
        raise NotACounter(f"the value of {key[:64]!r} is not a decimal integer of 64 bits")
    return number
