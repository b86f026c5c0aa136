"""What a client that is alone with the store sees: the store as a value, each call a step to the next one.

A state is a tuple, so that a search can tell where it was already: the last revision known to be made, then of each key what it holds.
Nothing is shared with the store or with ``model.py``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, TypeAlias

from attrs import define, field

from replkv.testing import facts

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from replkv.testing.blackbox import Call
    from replkv.testing.facts import Pair

Record: TypeAlias = tuple[str, int, int, int, Any]
"""Of a pair its value, create_revision, mod_revision, version and lease."""
State: TypeAlias = tuple[Any, ...]
"""The last revision known to be made, then a record or None for each key."""

VALUE: Final = 0
CREATE: Final = 1
MOD: Final = 2
VERSION: Final = 3
LEASE: Final = 4
UNSEEN = -1
"""The revision of a change of which nobody saw the revision."""

_TARGETS = {"value": VALUE, "create_revision": CREATE, "mod_revision": MOD, "version": VERSION}


class _RefusedError(Exception):
    """The call changes nothing and is answered this; None: it fails."""

    def __init__(self, answer: dict[str, Any] | None) -> None:
        super().__init__(answer)
        self.answer = answer


@define(eq=False)
class Step:
    """A call as the search takes it.

    Args:
        call: which.
        required: it took effect; otherwise it may have, once, or may still.
        made: the revision it made; None: none, or nobody knows which.
        saw: the revision of the store it met without changing it; None: it did not tell.
        called: when it took effect at the earliest, in nanoseconds.
        returned: when at the latest; infinite if that is not known.
        answer: what it was answered, without the revisions of its writes.
        left: the pairs it left behind, by key, as far as somebody saw them.
        known_by: the call whose return says that it had taken effect by then, if that is another one.
    """

    call: Call
    required: bool
    made: int | None
    saw: int | None
    called: float
    returned: float
    answer: Any
    left: Mapping[str, Pair] = field(factory=dict)
    known_by: Call | None = None

    @property
    def place(self) -> int | None:
        """The revision of the store behind it, if that is known."""
        return self.saw if self.made is None else self.made


@define(eq=False)
class Specification:
    """The rules of a store with a few keys.

    Args:
        keys: that the calls are about.
        spare: of each key the revisions that somebody saw or named, and no call is known to have made; None: the keys are all there are,
            and the calls all writes to them, so that the next revision is always the one that follows.
    """

    keys: Sequence[str]
    spare: Mapping[str, Sequence[int]] | None
    _at: dict[str, int] = field(init=False)

    def __attrs_post_init__(self) -> None:
        self._at = {key: at for at, key in enumerate(self.keys, 1)}

    @property
    def empty(self) -> State:
        """The state in the beginning."""
        return (1, *(None for _ in self.keys))

    def after(self, state: State, step: Step) -> Iterator[State]:
        """Yield each state to which a step may lead; none if it can't come next with the answer it had and what it left behind."""
        told = step.call.outcome == "ok" and step.call.kind != "revoke"
        for revision in self._revisions(state, step):
            answer, after = self.execute(state, step.call, revision)
            changed = after[1:] != state[1:]
            last = self._last(state, after, revision, placed=step.place is not None)
            if last is None or (answer != step.answer if told else not (changed or step.required)):
                continue
            if all(_pair(after[self._at[key]]) == pair for key, pair in step.left.items()):
                yield (last, *after[1:])

    def _revisions(self, state: State, step: Step) -> list[int]:
        """Return the revisions of the store that may be behind a step."""
        if step.place is not None:
            return [step.place]
        if step.call.outcome == "ok" and step.call.kind != "revoke":
            return [UNSEEN]
        if self.spare is None:
            return [state[0] + 1, UNSEEN]
        return [*sorted({revision for key in facts.keys_of(step.call) for revision in self.spare.get(key, ())}), UNSEEN]

    def _last(self, state: State, after: State, revision: int, *, placed: bool) -> int | None:
        """Return the last revision known to be made behind a step of this revision, None if it can't come at this point."""
        changes = self.changes(state, after)
        if self.spare is None:
            last: int = state[0] + bool(changes)
            return last if revision == last or (revision == UNSEEN and not changes) else None
        if revision == UNSEEN:
            return int(state[0])
        if any(before is not None and before[MOD] >= revision for _, before, _ in changes):
            return None
        if not placed:  # how it stands to what happened under other keys is not known, and not searched for
            return int(state[0])
        return revision if revision >= state[0] + bool(changes) else None

    def changes(self, state: State, after: State) -> list[tuple[str, Record | None, Record | None]]:
        """Return the keys that two states differ in, each with what it held and what it holds."""
        return [change for change in zip(self.keys, state[1:], after[1:], strict=True) if change[1] != change[2]]

    def unlike(self, state: State, step: Step) -> set[str]:
        """Return the keys under which an answered read found something else than there is."""
        if step.call.kind == "get":
            return {step.call.args["key"]}
        read, _ = self.execute(state, step.call, UNSEEN)
        return {key for key in self.keys if read["pairs"].get(key) != step.answer["pairs"].get(key)}

    def execute(self, state: State, call: Call, revision: int) -> tuple[Any, State]:
        """Return what a call is answered in a state, without the revisions of its writes, and what the keys hold behind it."""
        records = list(state)
        try:
            return self._do(records, call.kind, call.args, revision), tuple(records)
        except _RefusedError as refused:
            return refused.answer, state

    def _do(self, records: list[Any], kind: str, args: dict[str, Any], revision: int) -> Any:
        match kind:
            case "get":
                return _pair(records[self._at[args["key"]]])
            case "scan":
                found = {key: _pair(records[at]) for key, at in self._at.items() if key.startswith(args["prefix"])}
                return {"pairs": {key: pair for key, pair in found.items() if pair is not None}}
            case "put":
                return self._put(records, args, revision)
            case "add":
                return self._add(records, args, revision)
            case "delete":
                return self._delete(records, args)
            case "txn":
                return self._txn(records, args, revision)
            case _:  # revoke; that a lease expires is the same
                records[1:] = [None if record and record[LEASE] == args["lease"] else record for record in records[1:]]
                return None

    def _put(self, records: list[Any], args: dict[str, Any], revision: int) -> dict[str, Pair | None]:
        at = self._allowed(records, args)
        before = records[at]
        created, version = (before[CREATE], before[VERSION]) if before else (revision, 0)
        records[at] = (args["value"], created, revision, version + 1, args.get("lease"))
        return {"prev": _pair(before)} if args.get("prev_kv") else {}

    def _add(self, records: list[Any], args: dict[str, Any], revision: int) -> dict[str, int]:
        before = records[self._at[args["key"]]]
        try:
            number = int(before[VALUE] if before else "0") + args["delta"]
        except ValueError:
            raise _RefusedError(None) from None
        self._put(records, {"key": args["key"], "value": str(number), "lease": before[LEASE] if before else None}, revision)
        return {"value": number}

    def _delete(self, records: list[Any], args: dict[str, Any]) -> dict[str, int]:
        at = self._allowed(records, args)
        deleted, records[at] = int(records[at] is not None), None
        return {"deleted": deleted}

    def _allowed(self, records: list[Any], args: dict[str, Any]) -> int:
        """Return where a key is, if what guards it is held and it is at the revision the call expects."""
        lock, created = args.get("guard", (None, 0))
        if lock is not None and not self._holds(records, lock, "create_revision", "==", created):
            raise _RefusedError({"lost": True})
        at, wanted = self._at[args["key"]], args.get("if_mod_revision")
        record = records[at]
        if wanted is not None and (record[MOD] if record else 0) != wanted:
            raise _RefusedError({"conflict": _pair(record)})
        return at

    def _txn(self, records: list[Any], args: dict[str, Any], revision: int) -> dict[str, Any]:
        holds = all(self._holds(records, *compare) for compare in args["compare"])
        branch = args["then" if holds else "otherwise"]
        return {"succeeded": holds, "responses": [self._do(records, kind, inner, revision) for kind, inner in branch]}

    def _holds(self, records: list[Any], key: str, target: str, relation: str, operand: Any) -> bool:
        record = records[self._at[key]]
        if record is None and target == "value":
            return False
        value = record[_TARGETS[target]] if record else 0
        if relation in ("<", ">") and target not in ("value", "version"):
            raise ValueError(f"of revisions a history can only tell whether they are equal, not {relation}")
        return bool({"==": value == operand, "!=": value != operand}.get(relation, value < operand if relation == "<" else value > operand))


def _pair(record: Record | None) -> Pair | None:
    return None if record is None else list(record[:LEASE])
