"""What a call is going to do, before anybody decides whether to block or to await.

A plan may be answered at once, from this member's memory; else it becomes a ``Call`` that the node finishes, and whose answer the plan
turns into the caller's result on the caller's own thread.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar, cast

from replkv import codec, errors
from replkv.ops import Add, Delete, Get, Put, Scan, Txn, count_operations, request_size, unless_refused

if TYPE_CHECKING:
    from replkv.node import Node
    from replkv.ops import Operation, Raw
    from replkv.proposals import Call

R = TypeVar("R")

CONSISTENCIES: Final = ("linearizable", "lease", "local")

NOT_YET: Final = object()
"""A plan can't be answered at once."""


class Plan(Generic[R]):
    """What a call is going to do."""

    __slots__ = ()

    def command(self, node: Node) -> bytes | None:
        """Return the packed command to replicate; None asks for a read barrier instead.

        Raises:
            Rejected: the cluster's settings forbid it.
        """
        del node
        return None

    def at_once(self, node: Node) -> Any:
        """Return the result if no other member need be asked, else ``NOT_YET``."""
        del node
        return NOT_YET

    def result(self, node: Node, call: Call) -> R:
        """Turn the answer of a finished call into the caller's result.

        Raises:
            ReplkvError: the answer is a refusal.
        """
        raise errors.InvariantBroken(f"{type(self).__name__} has no result for {node.name}: {call.answer}")

    def expired(self, node: Node, *, untouched: bool) -> errors.ReplkvError:
        """Return the error for a call whose time ran out; ``untouched``: it surely had no effect."""
        gone = node.links.unreachable()
        reach = f"; not reachable: {node.links.explain()}" if gone else ""
        if untouched:
            leader = node.raft.leader if node.raft is not None else None
            what = f"the leader {leader} did not answer" if leader else "no leader was found"
            return errors.NoLeader(f"{node.name}: {what} in time{reach}; nothing was applied, try again or start the missing members", gone)
        return errors.OutcomeUnknown(f"{node.name}: the write was handed over, but no answer came in time{reach}; wait() goes on waiting")


class Write(Plan[R]):
    """Replicate an operation."""

    __slots__ = ("operation",)

    def __init__(self, operation: Operation) -> None:
        self.operation = operation

    def command(self, node: Node) -> bytes:
        """Pack the operation, within the cluster's limits."""
        wire = self.operation.to_wire()
        packed = codec.pack(wire)
        largest = node.settings.max_request_bytes
        if len(packed) > largest and (size := request_size(wire)) > largest:  # the first is quick, and never smaller
            raise errors.TooLarge(f"a request of {size} bytes; the cluster allows {largest}")
        if len(packed) > codec.COMMAND_MAX:
            raise errors.TooLarge(f"a request of {len(packed)} bytes as it stands in the log; at most {codec.COMMAND_MAX} fit")
        if isinstance(self.operation, Txn) and count_operations(wire) > node.settings.max_txn_ops:
            raise errors.TooManyOps(f"a transaction of {count_operations(wire)} operations; the cluster allows {node.settings.max_txn_ops}")
        return packed

    def result(self, node: Node, call: Call) -> R:
        """Return what the machine answered, in the operation's own form."""
        del node
        return cast("R", self.operation.result(unless_refused(cast("Raw", call.answer))))


class Read(Plan[R]):
    """Read this member's state, once it is as new as the caller wants."""

    __slots__ = ("consistency", "query")

    def __init__(self, query: Get | Scan | Txn, consistency: str) -> None:
        if consistency not in CONSISTENCIES:
            raise ValueError(f"consistency must be one of {', '.join(CONSISTENCIES)}, not {consistency!r}")
        self.query = query
        self.consistency = consistency

    def at_once(self, node: Node) -> Any:
        """Read at once where the caller takes local state, or where this leader's lease holds (thesis §6.4.1)."""
        if self.consistency == "local":
            return self._read(node)
        if self.consistency == "lease":
            return self._read_under_lease(node)
        return NOT_YET

    def _read_under_lease(self, node: Node) -> Any:
        before = node.published
        if before.applied < before.commit or node.clock() >= before.lease_until:
            return NOT_YET
        result = self._read(node)
        after = node.published
        if after.term != before.term or node.clock() >= after.lease_until:
            return NOT_YET
        return result

    def result(self, node: Node, call: Call) -> R:
        """Read, now that the barrier has been passed."""
        del call
        return self._read(node)

    def _read(self, node: Node) -> R:
        published = node.published
        raw = published.machine.read(self.query.to_wire(), published.revision)
        return cast("R", self.query.result(unless_refused(raw)))


class Ready(Plan[None]):
    """Wait for a leader, and for all it had committed; with a timeout of 0 look whether that is so."""

    __slots__ = ("timeout",)

    def __init__(self, timeout: float | None) -> None:
        self.timeout = timeout

    def at_once(self, node: Node) -> Any:
        """Look, if the caller does not want to wait."""
        return None if self.timeout == 0 and node.ready else NOT_YET

    def result(self, node: Node, call: Call) -> None:
        """Return nothing: having passed the barrier is the answer."""
        del node, call

    def expired(self, node: Node, *, untouched: bool) -> errors.ReplkvError:
        """Name who is missing."""
        del untouched
        reach = f"not reachable: {node.links.explain()}" if node.links.unreachable() else "all members are reachable, none leads yet"
        return errors.WaitTimeout(f"{node.name} is not ready in time; {reach}")


def plan_for(operation: Operation) -> Plan[Any]:
    """Return the plan for one operation: what can only read is not replicated.

    Raises:
        TypeError: it is none; whatever got into the log unchecked would stop every member that applies it.
    """
    if isinstance(operation, (Get, Scan)) or (isinstance(operation, Txn) and operation.read_only):
        return Read(operation, "linearizable")
    if isinstance(operation, (Put, Delete, Add, Txn)):
        return Write(operation)
    raise TypeError(f"an operation is a Put, Get, Scan, Delete, Add or Txn, not {operation!r}")
