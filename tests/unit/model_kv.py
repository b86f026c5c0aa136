"""An oracle for the store: dictionaries of version lists, copied whole before every command; and operations to try on both."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, TypeAlias

from hypothesis import strategies as st

from replkv import errors, ops
from replkv.ops import Raw

Version: TypeAlias = tuple[int, bytes | None, int, int]
"""Revision, value (None: deleted), create revision, version."""


class Refused(Exception):
    """The model refuses a command; ``kind`` is the error it stands for."""

    def __init__(self, kind: type[errors.ReplkvError]) -> None:
        super().__init__(kind.__name__)
        self.kind = kind


class Model:
    """What etcd's rules make of the same commands, with no thought for speed."""

    def __init__(self) -> None:
        self.revision = 1
        self.versions: dict[bytes, list[Version]] = {}
        self.changed = False

    # -- state --

    def get(self, key: bytes, revision: int) -> Raw | None:
        past = [version for version in self.versions.get(key, []) if version[0] <= revision]
        if not past or past[-1][1] is None:
            return None
        mod, value, create, version = past[-1]
        return (key, value, create, mod, version, 0)

    def span(self, start: bytes, end: bytes | None, revision: int) -> list[Raw]:
        inside = sorted(key for key in self.versions if key >= start and (end is None or key < end))
        return [record for key in inside if (record := self.get(key, revision)) is not None]

    def _write(self, key: bytes, value: bytes | None) -> None:
        old = self.get(key, self.revision + 1)
        create, version = (0, 0) if value is None else (self.revision + 1, 1) if old is None else (old[2], old[4] + 1)
        self.versions.setdefault(key, []).append((self.revision + 1, value, create, version))
        self.changed = True

    @property
    def now(self) -> int:
        return self.revision + self.changed

    # -- commands --

    def execute(self, wire: Raw) -> Raw:
        """Carry out a command; a refusal is only its status."""
        before, self.changed = copy.deepcopy(self.versions), False
        try:
            answer = self._do(self._decided(wire))
        except Refused as refused:
            self.versions = before
            self.changed = False
            return ops.refusal(refused.kind, "")[:1]
        self.revision, self.changed = self.now, False
        return answer

    def _decided(self, wire: Raw) -> Raw:
        if wire[0] != ops.TXN:
            return wire
        held = all(self._holds(*compare) for compare in wire[1])
        return (ops.TXN, held, tuple(self._decided(step) for step in (wire[2] if held else wire[3])))

    def _holds(self, start: bytes, end: bytes | None, target: int, relation: int, operand: Any) -> bool:
        relate: Callable[[Any], bool] = {
            ops.EQUAL: lambda found: found == operand,
            ops.NOT_EQUAL: lambda found: found != operand,
            ops.GREATER: lambda found: found > operand,
            ops.LESS: lambda found: found < operand,
        }[relation]
        place = {ops.VALUE: 1, ops.CREATE: 2, ops.MOD: 3, ops.VERSION: 4, ops.LEASE: 5}[target]
        records = self.span(start, end, self.revision)
        if not records:
            return target != ops.VALUE and relate(0)
        return all(relate(record[place]) for record in records)

    def _do(self, wire: Raw) -> Raw:
        match wire:
            case (ops.PUT, key, value, prev_kv):
                old = self.get(key, self.revision + 1)
                self._write(key, value)
                return (ops.OK, self.now, old if prev_kv else None)
            case (ops.DELETE, start, end, prev_kv):
                old_ones = self.span(start, end, self.revision + 1)
                for record in old_ones:
                    self._write(record[0], None)
                return (ops.OK, self.now, len(old_ones), tuple(old_ones) if prev_kv else ())
            case (ops.ADD, key, delta):
                return self._add(key, delta)
            case (ops.GET, key, revision):
                return (ops.OK, self.get(key, self._at(revision)))
            case (ops.SCAN, start, end, limit, revision, keys_only, count_only):
                found = self.span(start, end, self._at(revision))
                shown = [] if count_only else found[: limit or None]
                kvs = tuple((record[0], b"", *record[2:]) if keys_only else record for record in shown)
                return (ops.OK, self.now, kvs, len(found), not count_only and len(kvs) < len(found))
            case (ops.TXN, held, steps):
                answers = tuple(self._do(step) for step in steps)
                return (ops.OK, self.now, held, answers)
        raise AssertionError(wire)

    def _at(self, asked: int) -> int:
        if asked > self.revision:
            raise Refused(errors.FutureRevision)
        return asked or self.now

    def _add(self, key: bytes, delta: int) -> Raw:
        old = self.get(key, self.now)
        text = "0" if old is None else old[1].decode("latin-1")
        digits = text.removeprefix("-")
        if not (1 <= len(digits) <= 19 and set(digits) <= set("0123456789")):
            raise Refused(errors.NotACounter)
        total = int(text) + delta
        if int(text) not in ops.INT64 or total not in ops.INT64:
            raise Refused(errors.NotACounter)
        self._write(key, str(total).encode())
        return (ops.OK, self.now, total)


def same(answer: Raw, expected: Raw) -> bool:
    """Tell whether an answer is what the model expects; of a refusal only the status is compared."""
    return answer[: len(expected)] == expected if expected[0] != ops.OK else answer == expected


# -- operations to try ----------------------------------------------------------------------------------------------------------------

KEYS = [b"a", b"a\x00", b"ab", b"b", b"c", b"d\xff", b"e", b"\xff\xff"]
keys = st.sampled_from(KEYS)
values = st.sampled_from([b"", b"0", b"7", b"-3", b"x", b"9223372036854775807", b"-9223372036854775808", b"99999999999999999999", b"1_0"])
spans = st.one_of(
    st.builds(lambda key: {"key": key}, keys),
    st.builds(lambda prefix: {"prefix": prefix}, st.sampled_from([b"a", b"d", b"\xff", b"b", b"nothing"])),
    st.builds(lambda start: {"start": start}, keys),
    st.builds(lambda start, end: {"start": start, "end": end}, keys, st.sampled_from([*KEYS, b""])),
)
puts = st.builds(lambda key, value, prev: ops.Put(key, value, prev_kv=prev), keys, values, st.booleans())
deletes = st.builds(lambda span, prev: ops.Delete(**span, prev_kv=prev), spans, st.booleans())
adds = st.builds(ops.Add, keys, st.one_of(st.integers(-2, 2), st.sampled_from([ops.INT64[0], ops.INT64[-1]])))
revisions = st.sampled_from([None, None, None, 1, 2, 5, 1000])
gets = st.builds(lambda key, revision: ops.Get(key, revision=revision), keys, revisions)
scans = st.builds(
    lambda span, limit, revision, keys_only, count_only: ops.Scan(
        **span, limit=limit, revision=revision, keys_only=keys_only, count_only=count_only
    ),
    spans,
    st.integers(0, 3),
    revisions,
    st.booleans(),
    st.booleans(),
)


def _compare(span: dict[str, bytes], target: int, relation: int, number: int, value: bytes) -> ops.Compare:
    return ops.Compare(ops.Span.of(**span), target, relation, value if target == ops.VALUE else number)


compares = st.builds(_compare, spans, st.integers(1, 5), st.integers(1, 4), st.integers(0, 4), values)
simple = st.one_of(puts, deletes, adds, gets, scans)
reads = st.one_of(gets, scans)


@st.composite
def txns(draw: st.DrawFn, leaves: st.SearchStrategy[Any], depth: int = 3) -> ops.Txn:
    """Transactions of such operations, nested up to ``depth`` deep, that write no key twice."""
    while True:
        branches = [
            [draw(txns(leaves, depth - 1)) if depth > 1 and draw(st.integers(0, 3)) == 0 else draw(leaves) for _ in range(length)]
            for length in draw(st.tuples(st.integers(0, 3), st.integers(0, 2)))
        ]
        try:
            return ops.Txn(compare=draw(st.lists(compares, max_size=2)), then=branches[0], otherwise=branches[1])
        except errors.DuplicateKey:
            continue


commands = st.one_of(puts, puts, deletes, adds, txns(simple))
