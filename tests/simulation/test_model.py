"""The model and the machine were written apart from each other; here they must agree on everything."""

from __future__ import annotations

import random
from contextlib import suppress

from hypothesis import given, settings
from hypothesis import strategies as st

from replkv import codec, kv
from replkv.config import Settings
from replkv.errors import DuplicateKey
from replkv.founding import founding_entry
from replkv.machine import Machine
from replkv.messages import EntryKind
from replkv.ops import SCAN, Add, Delete, Get, Key, Operation, Put, Raw, Scan, Txn
from replkv.testing.model import Model

KEYS = (b"a", b"b", b"b\x00", b"c", b"n")


def random_condition(rng: random.Random, revision: int):  # type: ignore[no-untyped-def]  # noqa: ANN201  # a Compare
    key = Key(rng.choice(KEYS)) if rng.random() < 0.6 else Key(start=rng.choice(KEYS), end=rng.choice(KEYS))
    target = rng.choice((key.version, key.create_revision, key.mod_revision, key.lease))
    number = rng.choice((0, 1, 2, revision))
    values = (key.value == b"1", key.value != b"1", key.value > b"1", key.value < b"2")
    return rng.choice((target == number, target != number, target > number, target < number, key.exists, key.missing, *values))


def random_operation(rng: random.Random, revision: int, depth: int = 0) -> Operation:
    key = rng.choice(KEYS)
    past = rng.choice((None, None, rng.randint(0, revision + 1)))
    match rng.randrange(7 if depth < 3 else 6):
        case 0 | 1:
            return Put(key, rng.choice((b"", b"1", b"2", b"text")), prev_kv=rng.random() < 0.5)
        case 2:
            return Delete(start=key, end=rng.choice((None, key + b"\x00", *KEYS)), prev_kv=rng.random() < 0.5)
        case 3:
            return Add(key, rng.choice((1, -1, 2**63 - 1, -(2**63))))
        case 4:
            return Get(key, revision=past)
        case 5:
            flags = rng.random() < 0.3, rng.random() < 0.2
            return Scan(
                start=key, end=rng.choice((None, *KEYS)), limit=rng.randrange(3), revision=past, keys_only=flags[0], count_only=flags[1]
            )
    return random_transaction(rng, revision, depth + 1)


def random_transaction(rng: random.Random, revision: int, depth: int) -> Operation:
    while True:
        branches = [[random_operation(rng, revision, depth) for _ in range(rng.randrange(4))] for _ in range(2)]
        conditions = [random_condition(rng, revision) for _ in range(rng.randrange(3))]
        with suppress(DuplicateKey):  # drawn again
            return Txn(compare=conditions, then=branches[0], otherwise=branches[1])


def founded() -> Machine:
    machine = Machine()
    kv.run(machine.apply(founding_entry(bytes(16), {"a": 1}, Settings())))
    kv.run(machine.apply(codec.make_entry(2, 1, EntryKind.BLOCK, 0, codec.encode_block([codec.pack_batch(0, 1, 0, ())]))))
    return machine


def apply(machine: Machine, operation: Operation) -> Raw:
    index = machine.applied + 1
    batch = codec.pack_batch(2 << 16, index, index, [codec.pack(operation.to_wire())])
    (outcome,) = kv.run(machine.apply(codec.make_entry(index, 1, EntryKind.BLOCK, 0, codec.encode_block([batch]))))
    assert outcome.answers is not None
    return outcome.answers[0]


def same(found: Raw, right: Raw) -> bool:
    return found == right if right[0] == 0 else found[0] == right[0]


@given(st.integers(0, 10**9))
@settings(max_examples=300, deadline=None)
def test_machine_and_model_answer_alike_and_hold_the_same(seed: int) -> None:
    rng = random.Random(seed)
    machine, model = founded(), Model()
    for _ in range(rng.randrange(1, 25)):
        operation = random_operation(rng, model.revision)
        found, right = apply(machine, operation), model.execute(operation.to_wire())
        assert same(found, right), (operation, found, right)
        assert machine.store.revision == model.revision
    for revision in range(1, model.revision + 1):
        everything = (SCAN, b"\x01", None, 0, revision, False, False)
        assert machine.read(everything, model.revision) == model.read(everything, model.revision)


@given(st.integers(0, 10**9))
@settings(max_examples=100, deadline=None)
def test_reads_at_any_revision_answer_alike(seed: int) -> None:
    rng = random.Random(seed)
    machine, model = founded(), Model()
    for _ in range(12):
        operation = random_operation(rng, model.revision)
        apply(machine, operation)
        model.execute(operation.to_wire())
    for _ in range(20):
        read = rng.choice((Get(rng.choice(KEYS), revision=rng.randint(0, 9)), Scan(start=rng.choice(KEYS), limit=2)))
        at = rng.randint(1, model.revision)
        assert same(machine.read(read.to_wire(), at), model.read(read.to_wire(), at))
