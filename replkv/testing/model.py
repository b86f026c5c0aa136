"""What the store should have done: an independent model of the key-value semantics, written for clarity with plain dictionaries.

It shares no code with ``kv.py`` and ``machine.py``, only the numbers of ``ops.py`` that name operations.  It never forgets a version, so
that it can answer any read at any revision.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from attrs import define, field

from replkv import errors, ops

if TYPE_CHECKING:
    from replkv.ops import Raw

Version = tuple[int, bytes | None, int, int]
"""Revision of the change, value (None: deleted), revision of creation, number of puts since."""


class _RefusedError(Exception):
    """A command that is refused as a whole; carries the kind of error."""

    def __init__(self, kind: type[errors.ReplkvError]) -> None:
        super().__init__(kind.__name__)
        self.kind = kind


@define(eq=False, repr=False)
class Model:
    """The store as history: every version of every key."""

    revision: int = 1
    versions: dict[bytes, list[Version]] = field(factory=dict)
    _changes: dict[bytes, Version] = field(factory=dict)  # of the command being executed

    def execute(self, wire: Raw) -> Raw:
        """Execute one command and return the answer it must get; of a refusal only the status counts."""
        self._changes = {}
        try:
            answer = self._do(wire, self.revision)
        except _RefusedError as refused:
            return ops.refusal(refused.kind, "")[:1]
        if self._changes:
            self.revision += 1
            for key, version in self._changes.items():
                self.versions.setdefault(key, []).append(version)
        return answer

    def read(self, wire: Raw, revision: int) -> Raw:
        """Return the answer a read must get from a store that is at ``revision``."""
        self._changes = {}
        try:
            return self._do(wire, revision)
        except _RefusedError as refused:
            return ops.refusal(refused.kind, "")[:1]

    def pairs(self) -> list[tuple[bytes, bytes, int, int, int]]:
        """Return all living pairs: key, value, create revision, mod revision, version."""
        return [record[:5] for record in self._span(b"", None, self.revision)]

    # -- operations -------------------------------------------------------------------------------------------------------------------

    def _do(self, wire: Raw, base: int) -> Raw:
        match wire:
            case (ops.PUT, key, value, prev_kv):
                return self._put(key, value, prev_kv, base)
            case (ops.DELETE, start, end, prev_kv):
                return self._delete(start, end, prev_kv, base)
            case (ops.ADD, key, delta):
                return self._add(key, delta, base)
            case (ops.TXN, compares, then, otherwise):
                return self._txn(compares, then, otherwise, base)
            case (ops.GET, key, revision):
                self._check_revision(revision, base)
                return ops.OK, self._get(key, revision or base, pending=not revision)
            case (ops.SCAN, start, end, limit, revision, keys_only, count_only):
                self._check_revision(revision, base)
                return self._scan(start, end, limit, revision, (keys_only, count_only), base)
        raise AssertionError(f"no such operation: {wire!r}")

    def _put(self, key: bytes, value: bytes, prev_kv: bool, base: int) -> Raw:
        prev = self._get(key, base)
        created, version = (prev[2], prev[4]) if prev else (base + 1, 0)
        self._changes[key] = (base + 1, value, created, version + 1)
        return ops.OK, base + 1, prev if prev_kv else None

    def _delete(self, start: bytes, end: bytes | None, prev_kv: bool, base: int) -> Raw:
        doomed = self._span(start, end, base)
        for record in doomed:
            self._changes[record[0]] = (base + 1, None, 0, 0)
        return ops.OK, base + bool(self._changes), len(doomed), tuple(doomed) if prev_kv else ()

    def _add(self, key: bytes, delta: int, base: int) -> Raw:
        prev = self._get(key, base)
        try:
            number = _number(prev[1]) if prev else 0
        except ValueError:
            raise _RefusedError(errors.NotACounter) from None
        if not -(2**63) <= number + delta < 2**63:
            raise _RefusedError(errors.NotACounter)
        self._put(key, b"%d" % (number + delta), False, base)
        return ops.OK, base + 1, number + delta

    def _txn(self, compares: Raw, then: Raw, otherwise: Raw, base: int) -> Raw:
        path = self._choose((ops.TXN, compares, then, otherwise), base)
        answers = self._follow(path, base)
        return ops.OK, base + bool(self._changes), path[0], answers

    def _choose(self, wire: Raw, base: int) -> tuple[bool, list[object]]:
        """Decide all branches, nested ones included, on the state before the transaction."""
        _, compares, then, otherwise = wire
        holds = all(self._holds(compare, base) for compare in compares)
        return holds, [self._choose(inner, base) if inner[0] == ops.TXN else inner for inner in (then if holds else otherwise)]

    def _follow(self, path: tuple[bool, list[object]], base: int) -> Raw:
        answers: list[Raw] = []
        for step in path[1]:
            if isinstance(step, tuple) and isinstance(step[0], bool):
                inner = self._follow(step, base)
                answers.append((ops.OK, base + bool(self._changes), step[0], inner))
            else:
                answers.append(self._do(step, base))  # type: ignore[arg-type]  # what is no decided branch is an operation
        return tuple(answers)

    # -- looking ----------------------------------------------------------------------------------------------------------------------

    def _check_revision(self, revision: int, base: int) -> None:
        if revision > base:
            raise _RefusedError(errors.FutureRevision)

    def _newest(self, key: bytes, revision: int, *, pending: bool = True) -> Version | None:
        if pending and key in self._changes:
            return self._changes[key]
        return next((version for version in reversed(self.versions.get(key, ())) if version[0] <= revision), None)

    def _get(self, key: bytes, revision: int, *, pending: bool = True) -> Raw | None:
        found = self._newest(key, revision, pending=pending)
        if found is None or found[1] is None:
            return None
        return key, found[1], found[2], found[0], found[3], 0

    def _span(self, start: bytes, end: bytes | None, revision: int, *, pending: bool = True) -> list[Raw]:
        keys = sorted(key for key in {*self.versions, *self._changes} if start <= key and (end is None or key < end))
        records = (self._get(key, revision, pending=pending) for key in keys)
        return [record for record in records if record is not None]

    def _scan(self, start: bytes, end: bytes | None, limit: int, revision: int, flags: tuple[bool, bool], base: int) -> Raw:
        found = self._span(start, end, revision or base, pending=not revision)
        keys_only, count_only = flags
        shown = [] if count_only else found[:limit] if limit else found
        if keys_only:
            shown = [(record[0], b"", *record[2:]) for record in shown]
        at = base + bool(self._changes)
        return ops.OK, at, tuple(shown), len(found), not count_only and len(shown) < len(found)

    def _holds(self, compare: Raw, base: int) -> bool:
        start, end, target, relation, operand = compare
        records = self._span(start, end, base)
        if not records:
            return target != ops.VALUE and _related(0, relation, operand)
        at = {ops.VERSION: 4, ops.CREATE: 2, ops.MOD: 3, ops.VALUE: 1, ops.LEASE: 5}[target]
        return all(_related(record[at], relation, operand) for record in records)


def _number(text: bytes) -> int:
    """Read a counter: decimal digits, as a program writes them."""
    number = int(text)
    if b"%d" % number != text:
        raise ValueError(text)
    return number


def _related(value: int | bytes, relation: int, operand: int | bytes) -> bool:
    if relation == ops.EQUAL:
        return value == operand
    if relation == ops.NOT_EQUAL:
        return value != operand
    return value > operand if relation == ops.GREATER else value < operand  # type: ignore[operator]  # both of one type
