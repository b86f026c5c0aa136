"""Where etcd is known to differ from replkv by a rule of its own: that rule, so that plays can be kept out of its way."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import permutations

from steps import Delete, Get, If, Operation, Put, Refused, Scan, Step, Txn, Where


def etcd_finds_duplicate(txn: Txn) -> bool:
    """Tell whether etcd refuses a transaction for writing a key twice (``checkIntervals`` in its ``v3rpc/key.go``).

    It overlooks some that do: a put in one nested transaction and a delete in a later one, and a delete from a key on without an end.
    """
    return _written(txn.then) is None or _written(txn.otherwise) is None


_Written = tuple[set[bytes], list[Where]]


def _covers(deleted: Iterable[Where], key: bytes) -> bool:
    return any(_holds(where, key) for where in deleted)


def _holds(where: Where, key: bytes) -> bool:
    if where.key is not None:
        return key == where.key
    if where.prefix is not None:
        return key.startswith(where.prefix) and where.prefix.strip(b"\xff") != b""
    return where.start is not None and where.end is not None and where.start <= key < where.end


def _written(branch: Iterable[Operation]) -> _Written | None:
    """Return the keys that are put and the spans that are deleted; None if etcd sees a key twice."""
    branch = list(branch)
    deleted = [operation.where for operation in branch if isinstance(operation, Delete)]
    put: set[bytes] = set()
    for operation in branch:
        if isinstance(operation, Txn):
            then, otherwise = _written(operation.then), _written(operation.otherwise)
            if then is None or otherwise is None:
                return None
            for keys, allowed in ((then[0], set[bytes]()), (otherwise[0], then[0])):
                if any((key in put and key not in allowed) or _covers(deleted, key) for key in keys):
                    return None
                put |= keys
            deleted += then[1] + otherwise[1]
    for operation in branch:
        if isinstance(operation, Put):
            if operation.key in put or _covers(deleted, operation.key):
                return None
            put.add(operation.key)
    return put, deleted


def may_both_be(step: Step, ours: object, theirs: object) -> bool:
    """Tell whether a step could be refused for either of two reasons, so that each store may name the one it met first."""
    if not (isinstance(ours, Refused) and isinstance(theirs, Refused)):
        return False
    reasons = list(_reasons(step))
    return any(ours.kind in one and theirs.kind in other for one, other in permutations(reasons, 2))


def _reasons(step: Step) -> Iterator[set[str]]:
    """Yield what a step could be refused for; each set is one reason, for which there may be two errors."""
    if isinstance(step, Txn):
        for operation in (*step.then, *step.otherwise):
            yield from _reasons(operation)
    elif isinstance(step, If):
        yield from _reasons(step.then)
    elif isinstance(step, Put):
        if step.value is None or step.lease is None:
            yield {"KeyNotFound"}
        if step.lease:
            yield {"LeaseNotFound"}
    elif isinstance(step, (Get, Scan)) and step.revision is not None:
        yield {"Compacted", "FutureRevision"}
