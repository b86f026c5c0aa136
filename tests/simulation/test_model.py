"""The model and the machine were written apart from each other; here they must agree on everything."""

from __future__ import annotations

import random
from contextlib import suppress
from typing import Any

from attrs import define, field
from hypothesis import given, settings
from hypothesis import strategies as st

from replkv import codec, kv
from replkv.config import Settings
from replkv.errors import DuplicateKey
from replkv.founding import founding_entry
from replkv.machine import Machine, Outcome
from replkv.messages import Entry, EntryKind
from replkv.ops import KEEP, Add, Compact, Delete, Get, Grant, Guard, KeepAlive, Key, Operation, Packable, Put, Renew, Revoke, Scan, Txn
from replkv.testing.checker import bare
from replkv.testing.knobs import turned
from replkv.testing.model import Model
from replkv.wire import SCAN, SORT_KEY, Raw

KEYS = (b"a", b"b", b"b\x00", b"c", b"n")


def random_condition(rng: random.Random, revision: int):  # type: ignore[no-untyped-def]  # noqa: ANN201  # a Compare
    key = Key(rng.choice(KEYS)) if rng.random() < 0.6 else Key(start=rng.choice(KEYS), end=rng.choice(KEYS))
    target = rng.choice((key.version, key.create_revision, key.mod_revision, key.lease))
    number = rng.choice((0, 1, 2, revision))
    values = (key.value == b"1", key.value != b"1", key.value > b"1", key.value < b"2")
    guard = Guard(rng.choice(KEYS), rng.randint(1, revision + 1))
    return rng.choice((target == number, target != number, target > number, target < number, key.exists, key.missing, guard, *values))


def random_put(rng: random.Random, key: bytes, revision: int) -> Operation:
    value = rng.choice((b"", b"1", b"2", b"text", KEEP))
    lease = rng.choice((None, None, KEEP, rng.randint(1, 4)))
    ttl = rng.choice((None, 0.2, 0.5)) if lease is None else None
    expected = rng.choice((None, None, 0, rng.randint(1, revision + 1)))
    guard = random_guard(rng, revision)
    return Put(key, value, lease=lease, ttl=ttl, prev_kv=rng.random() < 0.5, if_mod_revision=expected, guard=guard)


def random_guard(rng: random.Random, revision: int) -> Guard | None:
    return rng.choice((None, None, Guard(rng.choice(KEYS), rng.randint(1, revision + 1))))


def random_scan(rng: random.Random, key: bytes, past: int | None) -> Operation:
    bounds: dict[str, Any] = {
        f"{bound}_{of}_revision": rng.randint(1, 8) for bound in ("min", "max") for of in ("mod", "create") if rng.random() < 0.2
    }
    return Scan(
        start=key,
        end=rng.choice((None, *KEYS)),
        limit=rng.randrange(3),
        revision=past,
        keys_only=rng.random() < 0.3,
        count_only=rng.random() < 0.2,
        sort_by=rng.choice(("key", "version", "create", "mod", "value")),
        descending=rng.random() < 0.5,
        **bounds,
    )


def random_operation(rng: random.Random, revision: int, depth: int = 0) -> Operation:
    key = rng.choice(KEYS)
    past = rng.choice((None, None, rng.randint(1, revision + 1)))
    match rng.randrange(8 if depth < 3 else 7):
        case 0 | 1:
            return random_put(rng, key, revision)
        case 2:
            end, guard = rng.choice((None, key + b"\x00", *KEYS)), random_guard(rng, revision)
            return Delete(start=key, end=end, prev_kv=rng.random() < 0.5, guard=guard)
        case 3:
            return Delete(key, if_mod_revision=rng.randint(0, revision + 1))
        case 4:
            return Add(key, rng.choice((1, -1, 2**63 - 1, -(2**63))))
        case 5:
            return Get(key, revision=past)
        case 6:
            return random_scan(rng, key, past)
    return random_transaction(rng, revision, depth + 1)


def random_command(rng: random.Random, revision: int) -> Packable[Any]:
    """An operation, or one of those that stand alone."""
    lease, keeper = rng.randint(1, 4), rng.randrange(3)
    match rng.randrange(12):
        case 0:
            return Compact(rng.randint(max(0, revision - 4), revision + 1))
        case 1 | 2:
            return Grant(rng.choice((0, 0, lease)), rng.choice((200_000, 200_000, 500_000, 900_000)), keeper)
        case 3:
            return Renew(lease, keeper)
        case 4:
            return KeepAlive(keeper)
        case 5:
            return Revoke(lease)
    return random_operation(rng, revision)


def random_transaction(rng: random.Random, revision: int, depth: int) -> Operation:
    while True:
        branches = [[random_operation(rng, revision, depth) for _ in range(rng.randrange(4))] for _ in range(2)]
        conditions = [random_condition(rng, revision) for _ in range(rng.randrange(3))]
        with suppress(DuplicateKey):  # drawn again
            return Txn(compare=conditions, then=branches[0], otherwise=branches[1])


@define
class Pair:
    """A machine and a model that are given the same."""

    max_bytes: int = 1 << 31
    machine: Machine = field(factory=Machine)
    model: Model = field(init=False)
    time: int = 0

    def __attrs_post_init__(self) -> None:
        self.model = Model(self.max_bytes)
        self._apply(founding_entry(bytes(16), {"a": 1}, {}, Settings(max_bytes=self.max_bytes)))
        self._apply(codec.make_entry(2, 1, EntryKind.BLOCK, 0, codec.encode_block([codec.pack_batch(0, 1, 0, ())])))

    def _apply(self, entry: Entry) -> list[Outcome]:
        self.model.index, self.model.time = entry.index, entry.time
        return kv.run(self.machine.apply(entry))

    def execute(self, *commands: Packable[Any]) -> None:
        """Execute commands in one entry, and compare the answers."""
        index = self.machine.applied + 1
        batch = codec.pack_batch(2 << 16, index, index, [codec.pack(command.to_wire()) for command in commands])
        (outcome,) = self._apply(codec.make_entry(index, 1, EntryKind.BLOCK, self.time, codec.encode_block([batch])))
        assert outcome.answers is not None
        for command, answer in zip(commands, outcome.answers, strict=True):
            right = self.model.execute(command.to_wire())
            assert bare(answer) == right, (command, answer, right)
        self.model.expire()

    def compare(self) -> None:
        """Compare what is there."""
        machine, model = self.machine, self.model
        assert (machine.store.revision, machine.store.compacted) == (model.revision, model.compacted)
        assert machine.size == model.size
        table = [
            (lease.id, lease.ttl, lease.keeper, machine.leases.deadline(lease), lease.passing, len(lease.keys)) for lease in machine.leases
        ]
        assert tuple(sorted(table)) == model.lease_table()
        kept = [record for record in machine.store.events if record[kv.MOD] >= model.compacted]
        assert kept == model.history(model.compacted, model.revision)

    def read(self, packed: Raw, revision: int) -> None:
        """Read the same from both."""
        found, right = self.machine.read(packed, revision), self.model.read(packed, revision, self.model.compacted)
        assert found is not None
        assert bare(found) == right


@given(st.integers(0, 10**9))
@settings(max_examples=400, deadline=None)
def test_machine_and_model_answer_alike_and_hold_the_same(seed: int) -> None:
    rng = random.Random(seed)
    pair = Pair(rng.choice((1 << 31, 1 << 31, 1500, 800)))
    for _ in range(rng.randrange(1, 25)):
        pair.time += rng.choice((0, 1000, 100_000, 300_000))
        commands = [random_command(rng, pair.model.revision) for _ in range(rng.choice((1, 1, 3)))]
        pair.execute(*commands)
        if rng.random() < 0.2:
            kv.run(pair.machine.store.scrub())
        pair.compare()
    for revision in range(1, pair.model.revision + 1):
        pair.read((SCAN, b"\x01", None, 0, revision, False, False, SORT_KEY, False, 0, 0, 0, 0), pair.model.revision)


@given(st.integers(0, 10**9))
@settings(max_examples=200, deadline=None)
def test_leases_expire_alike_however_few_may_at_once(seed: int) -> None:
    rng = random.Random(seed)
    pair = Pair()
    with turned({"txn.EXPIRIES": rng.choice((1, 2, 256)), "txn.EXPIRED_KEYS": rng.choice((1, 4096)), "kv.SLICE": 1}):
        for number in range(rng.randrange(1, 30)):
            pair.time += rng.choice((0, 50_000, 200_000))
            lease, keeper = rng.randint(1, 6), rng.randrange(3)
            some = (Grant(0, rng.choice((200_000, 300_000)), keeper), KeepAlive(keeper), Renew(lease, keeper), Revoke(lease))
            puts = [Put(f"k{number}/{place}", b"1", lease=lease) for place in range(3)]
            pair.execute(rng.choice(some), *puts, Put(f"p{number}", b"1", ttl=0.3))
            pair.compare()
            if rng.random() < 0.2:
                pair.machine = Machine.load(pair.machine.dump())


@given(st.integers(0, 10**9))
@settings(max_examples=100, deadline=None)
def test_reads_at_any_revision_answer_alike(seed: int) -> None:
    rng = random.Random(seed)
    pair = Pair()
    for _ in range(12):
        pair.execute(random_command(rng, pair.model.revision))
    for _ in range(20):
        past = rng.choice((None, rng.randint(1, 9)))
        read = rng.choice((Get(rng.choice(KEYS), revision=past), random_scan(rng, rng.choice(KEYS), past)))
        pair.read(read.to_wire(), pair.model.revision)
