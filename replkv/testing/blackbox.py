"""What clients of real processes saw: a history that is written down as it happens, and read again by whoever judges it.

Nothing is known of the inside: each ``Call`` tells who asked what, when it began and ended by one monotonic clock that all processes
share (``time.monotonic_ns`` on one machine), and what became of it.  ``linearizability``, ``cycles`` and ``locks`` judge such histories.

===========  =============================================  =================================================================
kind         args                                           result of a call that is "ok"
===========  =============================================  =================================================================
``get``      key, *consistency*                             a pair, or None
``scan``     prefix, *consistency*                          revision, pairs: ``{key: pair}``
``put``      key, value, *if_mod_revision*, *guard*,        revision, *prev*: a pair or None, if it was asked for
             *lease*, *prev_kv*
``delete``   key, *if_mod_revision*, *guard*                revision, deleted: 0 or 1
``add``      key, delta                                     revision, value: the new number
``txn``      compare, then, otherwise                       revision, succeeded, responses: of the branch's steps
``revoke``   lease                                          anything
===========  =============================================  =================================================================

What is set *like this* may be left out.  A pair is ``[value, create_revision, mod_revision, version]``.  A compare is ``[key, target,
relation, operand]`` with the targets "value", "version", "create_revision" and "mod_revision", and the relations "==" and "!=", for values
and versions also "<" and ">"; ``then`` and ``otherwise`` are lists of ``[kind, args]``.  A write that was refused because of its
``if_mod_revision`` is "ok" with the result ``{"conflict": pair or None}``.  A guard is ``[key, create_revision]``; a write that was refused
because of it is "ok" with the result ``{"lost": true}``.  Any other refusal is "failed".  Keys and values are texts, a lease is whatever
JSON can carry; a key with a time to live of its own hangs on a lease of its own.  A read whose consistency is "local" need not see what was
acknowledged before.  To be judged quickly and strictly, let no two puts have the same value.
"""

from __future__ import annotations

import json
import os
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

from attrs import asdict, define, evolve, field

from replkv import ops, wire
from replkv.errors import Conflict, LockLost, OutcomeUnknown, ReplkvError
from replkv.values import AddResult, DeleteResult, KeyValue, PutResult, ScanResult, TxnResult

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from types import TracebackType

    from replkv.ops import Compare, Operation

Kind = Literal["get", "scan", "put", "delete", "add", "txn", "revoke"]
Ending = Literal["ok", "failed", "unknown"]


@define
class Call:
    """One call of one process.

    Args:
        process: who called; it has one call under way at a time.
        kind: what was asked.
        args: with which arguments.
        called: when, in nanoseconds.
        returned: when; None if it never did.
        outcome: "ok": it has the result; "failed": it surely did not and will not take effect; "unknown": it may have, or may still.
        result: see the table above.
    """

    process: str
    kind: Kind
    args: dict[str, Any]
    called: int
    returned: int | None = None
    outcome: Ending = "unknown"
    result: Any = None

    def __str__(self) -> str:
        return f"{self.process}: {_told(self.kind, self.args)} → {self.result if self.outcome == 'ok' else self.outcome}"


def _told(kind: str, args: dict[str, Any]) -> str:
    """Return an operation as one would say it: ``put k value='1'``, ``if k.version == 1 then add n delta=2``."""
    if kind != "txn":
        (_, first), *rest = args.items()
        return " ".join([kind, str(first), *(f"{name}={value!r}" for name, value in rest)])
    conditions = " and ".join(f"{key}.{target} {relation} {operand!r}" for key, target, relation, operand in args["compare"])
    then, otherwise = (", ".join(_told(*step) for step in args[branch]) for branch in ("then", "otherwise"))
    return f"if {conditions or 'true'} then {then or 'nothing'}" + (f" else {otherwise}" if otherwise else "")


def write_history(path: str | Path, calls: Iterable[Call]) -> None:
    """Write a history to a file, a line of JSON for each call.

    Args:
        path: of the file, which is replaced.
        calls: in any order.
    """
    Path(path).write_text("".join(_to_line(call) for call in calls))


def read_history(path: str | Path) -> list[Call]:
    """Read a history.

    Args:
        path: of a file that ``write_history`` or a ``Journal`` wrote.

    Returns:
        The calls in the order in which they began.  Of lines with the same process and beginning the last one counts; what a killed
        process left of its last line is left out.

    Raises:
        ValueError: a line other than the last is no call.
    """
    lines = Path(path).read_text().split("\n")
    whole, rest = lines[:-1], lines[-1]
    calls = [Call(**json.loads(line)) for line in whole]
    with suppress(ValueError, TypeError):
        calls += [Call(**json.loads(rest))] if rest else []
    latest = {(call.process, call.called): call for call in calls}
    return sorted(latest.values(), key=lambda call: call.called)


def _to_line(call: Call) -> str:
    return json.dumps(asdict(call), separators=(",", ":")) + "\n"


class Journal:
    """Writes calls to a file as they happen, so that the history of a process that is killed is there."""

    def __init__(self, path: str | Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)

    def note(self, call: Call) -> None:
        """Append a call: once when it begins, as one whose outcome is unknown, and again when it has ended."""
        os.write(self._file, _to_line(call).encode())

    def close(self) -> None:
        """Close the file."""
        os.close(self._file)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


@define
class Recorder:
    """Carries out the operations of one process and notes what became of them.

    Args:
        process: its name in the history.
        perform: carries an operation out and returns its result, such as ``lambda operation: replica.submit(operation).result(1.0)``.
        note: takes each call when it begins and again when it has ended: ``Journal.note``.
        clock: nanoseconds.
    """

    process: str
    perform: Callable[[Operation], Any]
    note: Callable[[Call], object]
    clock: Callable[[], int] = field(default=time.monotonic_ns)

    def run(self, operation: Operation) -> Any:
        """Carry an operation out.

        Returns:
            Its result.

        Raises:
            Exception: what ``perform`` raised.  A refusal, and whatever else replkv raises except ``OutcomeUnknown``, means that nothing
                was changed; of any other error nobody knows.
        """
        kind, args = describe(operation)
        call = Call(self.process, kind, args, self.clock())
        self.note(call)
        try:
            result = self.perform(operation)
        except Conflict as conflict:
            current = None if conflict.current is None else _pair(conflict.current)
            self.note(evolve(call, returned=self.clock(), outcome="ok", result={"conflict": current}))
            raise
        except LockLost:
            self.note(evolve(call, returned=self.clock(), outcome="ok", result={"lost": True}))
            raise
        except Exception as error:
            surely_not = isinstance(error, ReplkvError) and not isinstance(error, OutcomeUnknown)
            self.note(evolve(call, returned=self.clock(), outcome="failed" if surely_not else "unknown"))
            raise
        self.note(evolve(call, returned=self.clock(), outcome="ok", result=describe_result(result)))
        return result


# -- replkv's own operations and results, as a history has them --------------------------------------------------------------------

_TARGETS = {
    wire.VERSION: "version",
    wire.CREATE: "create_revision",
    wire.MOD: "mod_revision",
    wire.VALUE: "value",
    wire.FENCE: "create_revision",
}
_RELATIONS = {wire.EQUAL: "==", wire.NOT_EQUAL: "!=", wire.GREATER: ">", wire.LESS: "<"}


def describe(operation: Operation) -> tuple[Kind, dict[str, Any]]:
    """Return an operation's kind and arguments as a history has them.

    Raises:
        ValueError: a history can't tell it: a read of the past, a scan that sorts or filters, a delete of a span, ``KEEP``, a nested
            transaction, a compare of a span, of a lease, or of which revision is larger.
    """
    match operation:
        case ops.Get(revision=0):
            return "get", {"key": operation.key.decode()}
        case ops.Scan(limit=0, revision=0, keys_only=False, count_only=False, sort_by=wire.SORT_KEY, bounds=(0, 0, 0, 0)):
            return "scan", {"prefix": _prefix(operation)}
        case ops.Put(value=bytes(value), lease=int(lease)):
            args = {"key": operation.key.decode(), "value": value.decode(), **_conditions(operation)}
            args["lease"] = f"of {value.decode()}" if operation.ttl else lease or None
            return "put", _given(args | {"prev_kv": operation.prev_kv or None})
        case ops.Delete() if operation.span.is_single:
            return "delete", _given({"key": operation.span.start.decode(), **_conditions(operation)})
        case ops.Add():
            return "add", {"key": operation.key.decode(), "delta": operation.delta}
        case ops.Txn() if operation.depth == 1:
            branches = {"then": operation.then, "otherwise": operation.otherwise}
            steps = {name: [list(describe(step)) for step in branch] for name, branch in branches.items()}
            return "txn", {"compare": [_compare(compare) for compare in operation.compare], **steps}
        case _:
            raise ValueError(f"a history can't tell {operation}")


def _given(args: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in args.items() if value is not None}


def _conditions(write: ops.Put | ops.Delete) -> dict[str, Any]:
    guard = None if write.guard is None else [write.guard.key.decode(), write.guard.create_revision]
    return {"if_mod_revision": write.if_mod_revision, "guard": guard}


def _prefix(scan: ops.Scan) -> str:
    prefix = scan.span.start
    if prefix == ops.Scan().span.start:
        return ""
    if ops.Scan(prefix=prefix).span != scan.span:
        raise ValueError(f"a history can't tell {scan}")
    return prefix.decode()


def _compare(compare: Compare) -> list[Any]:
    ordered = compare.relation in (wire.GREATER, wire.LESS) and compare.target in (wire.CREATE, wire.MOD)
    if not compare.span.is_single or compare.target not in _TARGETS or ordered:
        raise ValueError(f"a history can't tell {compare}")
    operand = compare.operand.decode() if isinstance(compare.operand, bytes) else compare.operand
    return [compare.span.start.decode(), _TARGETS[compare.target], _RELATIONS[compare.relation], operand]


def describe_result(result: Any) -> Any:
    """Return the result of one of replkv's calls as a history has it."""
    match result:
        case KeyValue():
            return _pair(result)
        case PutResult():
            return {"revision": result.revision} | ({} if result.prev_kv is None else {"prev": _pair(result.prev_kv)})
        case DeleteResult():
            return {"revision": result.revision, "deleted": result.deleted}
        case AddResult():
            return {"revision": result.revision, "value": result.value}
        case ScanResult():
            return {"revision": result.revision, "pairs": {pair.key_text: _pair(pair) for pair in result}}
        case TxnResult():
            responses = [describe_result(response) for response in result.responses]
            return {"revision": result.revision, "succeeded": result.succeeded, "responses": responses}
        case _:
            return result


def _pair(pair: KeyValue) -> list[Any]:
    return [pair.text, pair.create_revision, pair.mod_revision, pair.version]
