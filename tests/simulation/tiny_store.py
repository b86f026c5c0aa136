"""A store of a few keys with clients that overlap, whose histories are legal by construction; and a judge that tries every order.

The store is ``replkv.testing.model.Model``, which shares no code with the checkers: each call takes effect at once, somewhere between its
beginning and its end, or later if nobody was told what became of it.
"""

from __future__ import annotations

import random
from copy import copy
from typing import Any

from attrs import define, evolve, field

from replkv import wire
from replkv.errors import LockLost
from replkv.ops import Add, Delete, Get, Guard, Key, Operation, Put, Scan, Txn
from replkv.refusals import STATUS
from replkv.testing.blackbox import Call, describe, describe_result
from replkv.testing.model import Model
from replkv.values import KeyValue


def twin(model: Model) -> Model:
    """Return a model in the same state; what the one does the other does not see."""
    other = copy(model)
    other.versions = {key: list(versions) for key, versions in model.versions.items()}
    other.events = list(model.events)
    return other


def execute(model: Model, operation: Operation) -> Any:
    """Carry an operation out; return its result as a history has it, None also if it was refused and tells nothing."""
    raw = model.execute(operation.to_wire())
    if raw[0] == wire.OK:
        return describe_result(operation.result(raw))
    if raw[0] == STATUS[LockLost]:
        return {"lost": True}
    return {"conflict": describe_result(None if raw[1] is None else KeyValue(*raw[1]))} if len(raw) > 1 else None


@define
class TinyStore:
    """Makes a history.

    Args:
        rng: draws everything.
        keys: how many.
        clients: how many calls may be under way.
        doubt: how many of the calls are never answered.
        joined: some calls name several keys.
    """

    rng: random.Random
    keys: int = 2
    clients: int = 3
    doubt: float = 0.15
    joined: bool = True
    model: Model = field(factory=Model)
    calls: list[Call] = field(factory=list)
    operations: dict[int, Operation] = field(factory=dict)  # by when they were called
    _now: int = 0
    _under_way: list[tuple[Call, Operation]] = field(factory=list)
    _late: list[Operation] = field(factory=list)

    def run(self, count: int) -> list[Call]:
        """Return a history of so many calls."""
        while len(self.operations) < count or self._under_way:
            if len(self.operations) < count and len(self._under_way) < self.clients and self.rng.random() < 0.6:
                self._begin()
            elif self._under_way:
                self._end(*self._under_way.pop(self.rng.randrange(len(self._under_way))))
            if self._late and self.rng.random() < 0.3:
                execute(self.model, self._late.pop())
        return self.calls

    def _moment(self) -> int:
        self._now += 10
        return self._now

    def _begin(self) -> None:
        operation = self._draw()
        call = Call(f"c{len(self._under_way)}", *describe(operation), self._moment())
        self.operations[call.called] = operation
        self._under_way.append((call, operation))
        self.rng.shuffle(self._under_way)
        if self.rng.random() < 0.4:  # somebody takes effect before this one
            self._end(*self._under_way.pop())

    def _end(self, call: Call, operation: Operation) -> None:
        if self.rng.random() < self.doubt:
            self._leave_in_doubt(call, operation)
            return
        result = execute(self.model, operation)
        refused = result is None and isinstance(operation, (Add, Txn))
        ended = evolve(call, returned=self._moment(), outcome="failed" if refused else "ok", result=result)
        if self.rng.random() < 0.5 and self._under_way:  # its caller learns of it after another one took effect
            self._end(*self._under_way.pop())
            ended = evolve(ended, returned=self._moment())
        self.calls.append(ended)

    def _leave_in_doubt(self, call: Call, operation: Operation) -> None:
        match self.rng.randrange(3):
            case 0:
                execute(self.model, operation)
            case 1:
                self._late.append(operation)
        self.calls.append(evolve(call, returned=self._moment()))

    def _draw(self) -> Operation:
        rng = self.rng
        key, other, unique = f"k{rng.randrange(self.keys)}", f"k{rng.randrange(self.keys)}", f"v{self._now}"
        revision = rng.randint(0, self.model.revision)
        match rng.randrange(11) if self.joined else rng.choice((0, 1, 2, 3, 10)):
            case 0 | 1:
                return Put(key, unique, prev_kv=rng.random() < 0.3)
            case 2:
                return Put(key, unique, if_mod_revision=revision)
            case 3:
                return Delete(key) if rng.random() < 0.7 else Delete(key, if_mod_revision=revision)
            case 4:
                return Add("n", rng.randint(1, 3))
            case 5:
                return Get("n")
            case 6 if key != other:
                compare = rng.choice(([], [Key(key).mod_revision == revision], [Key(key).exists], [Key(other).version < 2]))
                return Txn(compare=compare, then=[Get(key), Put(other, unique)], otherwise=[Get(other)])
            case 6 | 7:
                return rng.choice((Scan(prefix="k"), Txn(then=[Get(key), Get("n")])))
            case 8 if revision:
                return Put(key, unique, guard=Guard(other, revision))
            case _:
                return Get(key)


def any_order(calls: list[Call], operations: dict[int, Operation]) -> bool:
    """Tell whether some order explains a short history, by trying them all.

    Args:
        calls: not many.
        operations: what they asked, by when they were called.
    """
    counted = [call for call in calls if call.outcome != "failed"]

    def explains(model: Model, left: list[Call]) -> bool:
        required = [call for call in left if call.outcome == "ok"]
        if not required:
            return True
        horizon = min(call.returned or 0 for call in required)
        for call in left:
            if call.called > horizon:
                continue
            then = twin(model)
            result = execute(then, operations[call.called])
            if (call.outcome == "unknown" or result == call.result) and explains(then, [other for other in left if other is not call]):
                return True
        return False

    return explains(Model(), counted)


# -- lies -----------------------------------------------------------------------------------------------------------------------------


def spoiled(calls: list[Call], rng: random.Random) -> list[Call]:
    """Return a history with one lie in it; it may be legal all the same."""
    calls = list(calls)
    answered = [at for at, call in enumerate(calls) if call.outcome == "ok"]
    if not answered:
        return calls
    one = rng.choice(answered)
    alike = [at for at in answered if (calls[at].kind, calls[at].args) == (calls[one].kind, calls[one].args) and at != one]
    match rng.randrange(4):
        case 0:  # it failed, and did not
            calls[one] = evolve(calls[one], outcome="failed", result=None)
        case 1 if alike:  # two answers change places
            two = rng.choice(alike)
            calls[one], calls[two] = evolve(calls[one], result=calls[two].result), evolve(calls[two], result=calls[one].result)
        case 2:  # two calls return in the other order
            two = rng.choice(answered)
            ends = calls[two].returned or 0, calls[one].returned or 0
            if calls[one].called < ends[0] and calls[two].called < ends[1]:
                calls[one], calls[two] = evolve(calls[one], returned=ends[0]), evolve(calls[two], returned=ends[1])
        case _:  # an answer was another one
            calls[one] = evolve(calls[one], result=changed(calls[one].result, rng, ["v0", 2, 2, 1]))
    return calls


def changed(result: Any, rng: random.Random, pair: Any) -> Any:
    """Return a result with one part of it changed.

    Args:
        result: of a call.
        rng: draws the part, and what it becomes.
        pair: what is seen where nothing was.
    """
    match result:
        case None:
            return pair
        case bool():
            return not result
        case int():
            return result + rng.choice((1, 2, *((-1, -2) if result > 2 else ())))
        case str():
            return rng.choice([value for value in ("v0", "v10", "1") if value != result])
        case bytes():
            return changed(result.decode(), rng, pair).encode()
        case dict():
            if not result:
                return {"k0": pair}
            part = rng.choice([name for name in result if name != "succeeded"])
            return result | {part: changed(result[part], rng, pair)}
        case list() | tuple():
            if not result:
                return type(result)([pair])
            at = rng.randrange(len(result))
            return type(result)(changed(part, rng, pair) if number == at else part for number, part in enumerate(result))
    return result
