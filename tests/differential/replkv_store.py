"""Steps done by replkv, through the calls that every application uses; their results with relative revisions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import steps
from steps import Refused, Seen, Where

from replkv import (
    KEEP,
    Compacted,
    Conflict,
    DeleteResult,
    Event,
    Key,
    KeyValue,
    PutResult,
    Rejected,
    Replica,
    ScanResult,
    TxnResult,
    ops,
)
from replkv.blocking import BlockingSurface
from replkv.leasing import Lease
from replkv.ops import Compare

_CALLS = {steps.Put: "put", steps.Get: "get", steps.Scan: "scan", steps.Delete: "delete", steps.Txn: "txn"}
_OPERATIONS: dict[type, Any] = {steps.Put: ops.Put, steps.Get: ops.Get, steps.Scan: ops.Scan, steps.Delete: ops.Delete, steps.Txn: ops.Txn}
_BOUNDS = ("min_mod_revision", "max_mod_revision", "min_create_revision", "max_create_revision")
_OPTIONS = ("limit", "sort_by", "descending", "keys_only", "count_only")

PATIENCE = 20.0
"""Seconds after which an event that is missing is taken for one that never comes."""


def span(where: Where) -> dict[str, Any]:
    """Return the arguments for a span."""
    given = {"key": where.key, "prefix": where.prefix, "start": where.start, "end": where.end}
    return {name: value for name, value in given.items() if value is not None}


class ReplkvStore:
    """replkv, as the plays see it.

    Args:
        replica: it runs, and nobody else uses it.
        namespace: do everything in the namespace of this prefix; empty: in none.
        neighbours: keys beside it that have to stay as they are.
    """

    def __init__(self, replica: Replica, namespace: bytes = b"", neighbours: Sequence[bytes] = ()) -> None:
        self.replica = replica
        self.base = 0
        self.surface: BlockingSurface = replica.namespace(namespace) if namespace else replica
        self._neighbours = neighbours
        self._leases: dict[int, Lease] = {}

    @property
    def revision(self) -> int:
        """The store's revision."""
        return self.replica.revision - self.base

    def clear(self) -> None:
        """Leave no key, no lease and no history, and count revisions from here."""
        for lease in self.replica.leases():
            self.replica.lease(id=lease.id, keep_alive=False).revoke()
        self._leases.clear()
        self.replica.put("cleared", "")
        self.replica.delete(start="")
        for key in self._neighbours:
            self.replica.put(key, "")
        self.base = self.replica.revision
        self.replica.compact(self.base)

    def require_untouched_neighbours(self) -> None:
        """Require that the keys beside the namespace are what they were when it was cleared."""
        for kv in map(self.replica.get, self._neighbours):
            assert kv is not None
            assert kv.version == 1
            assert kv.mod_revision <= self.base

    def do(self, step: steps.Step) -> Any:
        """Carry out a step and return its result; where etcd has none to give, None."""
        try:
            return self._relative(self._do(step))
        except Conflict as error:
            return Refused("Conflict", current=self._pair(error.current))
        except Rejected as error:
            return Refused(type(error).__name__)

    def _do(self, step: steps.Step) -> Any:
        match step:
            case steps.Compact(revision):
                self.surface.compact(self.base + revision)
            case steps.Grant(lease, ttl):
                granted = self._leases[lease] = self.surface.lease(ttl, id=lease, keep_alive=False)
                return granted.id, granted.ttl
            case steps.Renew(lease):
                self._lease(lease).renew()
                return self._lease(lease).ttl
            case steps.Revoke(lease):
                self._lease(lease).revoke()
            case steps.TimeToLive(lease):
                return self._time_to_live(lease)
            case steps.Leases():
                return sorted(lease.id for lease in self.surface.leases())
            case steps.If(revision, then):
                expected = 0 if revision is None else self.base + revision
                return getattr(self.surface, _CALLS[type(then)])(**self._arguments(then), if_mod_revision=expected)
            case steps.Get() | steps.Scan():
                return getattr(self.surface, _CALLS[type(step)])(**self._arguments(step), consistency=step.consistency)
            case _:
                return getattr(self.surface, _CALLS[type(step)])(**self._arguments(step))
        return None

    def _lease(self, lease: int) -> Lease:
        """Return the handle of a lease that was granted in this play, whatever became of it; take over one that never was."""
        return self._leases.get(lease) or self.surface.lease(id=lease, keep_alive=False)

    def _time_to_live(self, lease: int) -> tuple[float, list[bytes]]:
        keys = list(self._lease(lease).keys())
        (info,) = (info for info in self.surface.leases() if info.id == lease)
        assert info.keys == len(keys)
        assert info.ttl - steps.A_PLAY <= info.remaining <= info.ttl
        return info.ttl, keys

    # -- arguments --

    def absolute(self, revision: int | None) -> int | None:
        """Return a revision as the store counts."""
        return None if revision is None else self.base + revision

    def _arguments(self, step: steps.Operation) -> dict[str, Any]:
        match step:
            case steps.Put(key, value, lease, prev_kv):
                kept = {"value": KEEP if value is None else value, "lease": KEEP if lease is None else lease or None}
                return {"key": key, **kept, "prev_kv": prev_kv}
            case steps.Get(key, revision):
                return {"key": key, "revision": self.absolute(revision)}
            case steps.Scan():
                revisions = {name: self.absolute(getattr(step, name)) for name in ("revision", *_BOUNDS)}
                return {**span(step.where), **{name: getattr(step, name) for name in _OPTIONS}, **revisions}
            case steps.Delete(where, prev_kv):
                return {**(span(where) or {"start": ""}), "prev_kv": prev_kv}
            case steps.Txn(compares, then, otherwise):
                branches = {"then": list(map(self._operation, then)), "otherwise": list(map(self._operation, otherwise))}
                return {"compare": list(map(self._compare, compares)), **branches}

    def _operation(self, step: steps.Operation) -> Any:
        return _OPERATIONS[type(step)](**self._arguments(step))

    def _compare(self, compare: steps.Compare) -> Compare:
        operand = compare.operand
        if compare.target in ("create_revision", "mod_revision") and isinstance(operand, int):
            operand = self.base + operand
        target = getattr(Key(**(span(compare.where) or {"start": ""})), compare.target)
        right = 0 if operand is None else operand
        condition = {
            "==": lambda: target == right,
            "!=": lambda: target != right,
            ">": lambda: target > right,
            "<": lambda: target < right,
        }[compare.relation]()
        assert isinstance(condition, Compare)
        return condition

    # -- answers --

    def _relative(self, result: Any, *, inner: bool = False) -> Any:
        match result:
            case PutResult(revision, prev_kv):
                return PutResult(revision - self.base, self._pair(prev_kv))
            case ScanResult(kvs, count, more, revision):
                return ScanResult(self._pairs(kvs), count, more, revision - self.base)
            case DeleteResult(deleted, revision, prev_kvs):
                return DeleteResult(deleted, revision - self.base, self._pairs(prev_kvs))
            case TxnResult(succeeded, revision, responses):
                answers = tuple(self._relative(response, inner=True) for response in responses)
                # etcd gives a nested transaction no revision of its own.
                return TxnResult(succeeded, 0 if inner else revision - self.base, answers)
            case KeyValue():
                return self._pair(result)
        return result

    def _pairs(self, kvs: tuple[KeyValue, ...]) -> tuple[KeyValue, ...]:
        return tuple(pair for kv in kvs if (pair := self._pair(kv)) is not None)

    def _pair(self, kv: KeyValue | None) -> KeyValue | None:
        if kv is None:
            return None
        create = kv.create_revision and kv.create_revision - self.base  # a deletion has none
        return kv._replace(create_revision=create, mod_revision=kv.mod_revision - self.base)

    # -- watches --

    def watch(self, step: steps.Watch) -> ReplkvWatch:
        """Begin a watch; what it sees is told when it is collected."""
        return ReplkvWatch(self, step)

    def seen(self, event: Event) -> Seen:
        """Return an event of a watch."""
        pair = self._pair(event.kv)
        assert pair is not None
        assert pair.mod_revision == event.revision - self.base
        return Seen(event.kind, pair, self._pair(event.prev_kv))


class ReplkvWatch:
    """A watch that replkv has begun."""

    def __init__(self, store: ReplkvStore, step: steps.Watch) -> None:
        self._store = store
        start = store.absolute(step.start_revision)
        self._watch = store.surface.watch(**span(step.where), start_revision=start, prev_kv=step.prev_kv, kinds=step.kinds)

    def collect(self, last: int) -> list[Seen] | Refused:
        """Return all events up to a revision at which there is one, and end the watch."""
        events: list[Seen] = []
        with self._watch:
            while not events or events[-1].kv.mod_revision < last:
                try:
                    event = self._watch.next(timeout=PATIENCE)
                except Compacted as error:
                    return Refused("Compacted", error.revision - self._store.base)
                assert isinstance(event, Event), f"no event up to revision {last} after {events}"
                events.append(self._store.seen(event))
        return events
