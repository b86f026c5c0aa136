"""A history that was written inside the simulator, as somebody outside would have written it; and requests that can be told to him."""

from __future__ import annotations

from typing import Any

from replkv import wire
from replkv.errors import LockLost
from replkv.ops import Add, Compact, Compare, Delete, Get, Guard, Key, Operation, Put, Scan, Txn
from replkv.refusals import STATUS
from replkv.testing.blackbox import Call, describe, describe_result
from replkv.testing.history import Consistency, History, Outcome
from replkv.testing.history import Operation as Noted
from replkv.testing.requests import Requests
from replkv.values import KeyValue, Span
from replkv.wire import Raw

ENDINGS: dict[Outcome, Any] = {Outcome.ANSWERED: "ok", Outcome.FAILED: "failed", Outcome.UNKNOWN: "unknown", Outcome.PENDING: "unknown"}


class PlainRequests(Requests):
    """Only what a history from outside can tell."""

    def write(self) -> Operation | Compact:
        key, unique = self.key(), self.unique()
        match self.rng.randrange(9):
            case 0 | 1:
                return Put(key, b"v" + unique, prev_kv=self._chance(0.3))
            case 2 | 3:
                return Put(key, b"v" + unique, if_mod_revision=max(0, self.seen - self.rng.randrange(3)))
            case 4:
                return Delete(start=key, end=key + b"\0" + unique)
            case 5:
                return Add(b"n", self._drawn)
            case 6:
                return Put(key, b"v" + unique, guard=self._guard())
            case _:
                compare = [Key(b"u" + unique).missing, *([Key(key).version < 3] if self._chance(0.5) else [])]
                return Txn(compare=compare, then=[Get(key), Put(self.key(), b"v" + unique)], otherwise=[Get(key)])

    def read(self) -> Get | Scan | Txn:
        return self.rng.choice((Get(self.key()), Get(b"n"), Scan(prefix=b"k"), Txn(then=[Get(self.key()), Get(b"n")])))


def operation_of(packed: Raw) -> Operation:
    """Return the operation that was packed; a delete up to a key that cannot be is one of a single key."""
    tag, *fields = packed
    match tag:
        case wire.GET:
            return Get(fields[0])
        case wire.SCAN:
            return Scan(start=fields[0], end=fields[1])
        case wire.PUT:
            return Put(fields[0], fields[1], prev_kv=fields[2])
        case wire.PUT_WITH:
            key, value, prev_kv, lease, _ = fields
            return Put(key, value, prev_kv=prev_kv, lease=lease or None)
        case wire.ADD:
            return Add(*fields)
        case wire.DELETE:
            return Delete(fields[0])
        case wire.EXPECT:
            key, revision, inner = fields
            return (
                Put(key, inner[2], prev_kv=inner[3], if_mod_revision=revision)
                if inner[0] == wire.PUT
                else Delete(key, if_mod_revision=revision)
            )
        case wire.GUARD:
            key, value, prev_kv = fields[2][1:]
            return Put(key, value, prev_kv=prev_kv, guard=Guard(*fields[:2]))
    compares, then, otherwise = fields
    conditions = [Compare(Span(*compare[:2]), *compare[2:]) for compare in compares]
    return Txn(compare=conditions, then=map(operation_of, then), otherwise=map(operation_of, otherwise))


def from_outside(history: History) -> list[Call]:
    """Return a history of the simulator as one of real processes; what is done about members and for leases is nobody's business there."""
    apart = wire.GRANT, wire.RENEW, wire.KEEP_ALIVE, wire.MEMBERS, wire.LEVEL
    return [_call(noted) for noted in history.operations if noted.wire[0] not in apart]


def _call(noted: Noted) -> Call:
    if noted.wire[0] == wire.REVOKE:
        revoked = noted.answer is not None and noted.answer[0] == wire.OK
        ending: Any = "failed" if noted.answer is not None and not revoked else ENDINGS[noted.outcome]
        return Call(noted.where, "revoke", {"lease": noted.wire[1]}, noted.called, noted.returned, ending)
    operation = operation_of(noted.wire)
    kind, args = describe(operation)
    if noted.consistency is Consistency.LOCAL:
        args["consistency"] = "local"
    call = Call(f"{noted.where}#{noted.number}", kind, args, noted.called, noted.returned, ENDINGS[noted.outcome])
    if noted.answer is None:
        return call
    if noted.answer[0] == wire.OK:
        call.result = describe_result(operation.result(noted.answer))
    elif noted.answer[0] == STATUS[LockLost]:
        call.result = {"lost": True}
    elif len(noted.answer) == 3 and (noted.answer[2] is None or len(noted.answer[2]) == 6):
        call.result = {"conflict": describe_result(None if noted.answer[2] is None else KeyValue(*noted.answer[2]))}
    else:
        call.outcome = "failed"
    return call
