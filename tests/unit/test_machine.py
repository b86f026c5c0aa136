"""The state machine: the same entries make the same state and the same answers, however apply is interrupted."""

from __future__ import annotations

import itertools
import random
import re
import struct
import threading
import zlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from model_kv import Model, commands, same

import replkv
from replkv import codec, errors, ops, values, wire
from replkv.auth_ops import ChangeAuth
from replkv.codec import DecodeError
from replkv.config import Settings
from replkv.errors import InvariantBroken
from replkv.kv import run
from replkv.machine import CHUNK_MAX, Machine, Outcome, assembled
from replkv.member_ops import ChangeMembers
from replkv.messages import Configuration, Entry, EntryKind, Founding
from replkv.roster import Roster
from replkv.wire import OK

END = ()
"""Stands in a dump behind the rows of the base."""
FOUNDERS = Configuration(voters=("a", "b", "c"), members={"a": 1, "b": 2, "c": 3}, addresses={"a": "tcp://a:1"})


class Log:
    """Makes entries for a machine, and applies them."""

    def __init__(self, machine: Machine | None = None, **limits: float) -> None:
        self.machine = machine or Machine()
        self.entries: list[Entry] = []
        self.time = 0
        if machine is None:
            founding = Founding(b"c" * 16, FOUNDERS, Settings(**limits).to_wire())  # type: ignore[arg-type]
            self.apply(EntryKind.FOUNDING, codec.encode_founding(founding))

    def apply(self, kind: EntryKind, payload: bytes, term: int = 0) -> list[Outcome]:
        entry = codec.make_entry(self.machine.applied + 1, term or max(1, self.machine.term), kind, self.time, payload)
        self.entries.append(entry)
        return run(self.machine.apply(entry))

    def block(self, *batches: bytes) -> list[Outcome]:
        return self.apply(EntryKind.BLOCK, codec.encode_block(batches))

    def open(self, nonce: int = 99) -> int:
        (outcome,) = self.block(codec.pack_batch(0, nonce, 0, []))
        return outcome.opened

    def execute(self, session: int, sequence: int, *operations: ops.Packable[Any], lowest: int = 0) -> Outcome:
        (outcome,) = self.block(batch(session, sequence, operations, lowest))
        return outcome

    def once(self, *operations: ops.Packable[Any]) -> tuple[wire.Raw, ...]:
        """Execute operations in a session of their own; return their answers."""
        answers = self.execute(self.open(), 1, *operations).answers
        assert answers is not None
        return answers


def read(machine: Machine, operation: ops.Operation, revision: int) -> wire.Raw:
    answer = machine.read(operation.to_wire(), revision)
    assert answer is not None
    return answer


def batch(session: int, sequence: int, operations: Iterable[ops.Packable[Any]], lowest: int = 0) -> bytes:
    return codec.pack_batch(session, sequence, lowest, [codec.pack(operation.to_wire()) for operation in operations])


def filled(puts: int = 3000) -> Log:
    log, rng = Log(), random.Random(3)
    session = log.open()
    for sequence in range(1, 11):
        log.execute(session, sequence, *(ops.Put(b"%03d" % rng.randrange(500), rng.randbytes(40)) for _ in range(puts // 10)))
        log.execute(log.open(), sequence, ops.Delete(prefix=b"%d" % sequence), ops.Add("counter", sequence))
    return log


# -- entries ------------------------------------------------------------------------------------------------------------------------------


def test_the_founding_entry_brings_settings_and_configuration() -> None:
    log = Log(max_txn_ops=5)
    machine = log.machine
    assert (machine.applied, machine.term, machine.configuration, machine.settings.max_txn_ops) == (1, 1, FOUNDERS, 5)
    assert machine.founding is not None
    assert machine.founding.cluster == b"c" * 16


def test_a_second_founding_entry_stops_the_member() -> None:
    log = Log()
    with pytest.raises(InvariantBroken, match="second founding"):
        log.apply(EntryKind.FOUNDING, log.entries[0].payload)


@pytest.mark.parametrize(
    ("name", "value", "error"), [("from_the_future", 1, errors.Incompatible), ("heartbeat", float("nan"), errors.Incompatible)]
)
def test_settings_this_version_can_not_follow_stop_the_member(name: str, value: float, error: type[Exception]) -> None:
    founding = Founding(b"c" * 16, FOUNDERS, {**Settings().to_wire(), name: value})
    entry = codec.make_entry(1, 1, EntryKind.FOUNDING, 0, codec.encode_founding(founding))
    with pytest.raises(error):
        run(Machine().apply(entry))


def test_a_configuration_entry_counts_when_it_is_applied() -> None:
    log = Log()
    joint = Configuration(voters=("a", "b"), outgoing=("a", "b", "c"), learners=("d",), members={"a": 1, "b": 2, "c": 3, "d": 4})
    assert log.apply(EntryKind.CONFIGURATION, codec.encode_configuration(joint)) == []
    assert log.machine.configuration == joint


@pytest.mark.parametrize(("index", "term"), [(1, 1), (3, 1), (2, 0)])
def test_entries_out_of_order_stop_the_member(index: int, term: int) -> None:
    machine = Log().machine
    with pytest.raises(InvariantBroken):
        run(machine.apply(codec.make_entry(index, term, EntryKind.BLOCK, 0, codec.encode_block([]))))


def test_an_entry_can_not_be_begun_before_the_last_one_is_finished() -> None:
    log = filled()
    session, machine = log.open(), log.machine
    payload = codec.encode_block([batch(session, 1, [ops.Delete(start=b"\x01")])])
    steps = machine.apply(codec.make_entry(machine.applied + 1, 1, EntryKind.BLOCK, 0, payload))
    next(steps)
    with pytest.raises(InvariantBroken, match="at work"):
        run(machine.apply(codec.make_entry(machine.applied + 1, 1, EntryKind.BLOCK, 0, codec.encode_block([]))))
    with pytest.raises(InvariantBroken, match="dumped"):
        machine.dump()
    run(steps)
    machine.dump()


@pytest.mark.parametrize("payload", [b"\x00", b"\x00\xc0", codec.encode_block([b"\x94\x01\x01\x01\xc0"])])
def test_a_block_nobody_wrote_stops_the_member(payload: bytes) -> None:
    log = Log()
    with pytest.raises(DecodeError):
        log.apply(EntryKind.BLOCK, payload)


@pytest.mark.parametrize("payload", [b"", b"\x07\x90"])
def test_a_block_of_a_later_version_stops_the_member(payload: bytes) -> None:
    log = Log()
    with pytest.raises(errors.Incompatible, match="upgrade this member"):
        log.apply(EntryKind.BLOCK, payload)


def test_a_command_of_a_later_version_stops_the_member() -> None:
    log = Log()
    session = log.open()
    with pytest.raises(errors.Incompatible, match="upgrade this member"):
        log.block(codec.pack_batch(session, 1, 0, [codec.pack((77, b"k"))]))


def test_cluster_time_never_goes_back() -> None:
    log = Log()
    for at, expected in ((50, 50), (20, 50), (60, 60)):
        log.time = at
        log.block()
        assert log.machine.time == expected


# -- batches ------------------------------------------------------------------------------------------------------------------------------


def test_sessions_are_numbered_by_index_and_place() -> None:
    log = Log()
    outcomes = log.block(*(codec.pack_batch(0, nonce, 0, []) for nonce in (11, 12)))
    index = log.machine.applied
    assert outcomes == [Outcome(0, 11, (), opened=index << 16), Outcome(0, 12, (), opened=index << 16 | 1)]


def test_a_session_that_would_get_another_blocks_number_is_not_opened() -> None:
    log = Log()
    outcomes = log.block(*[codec.pack_batch(0, 1, 0, [])] * ((1 << 16) + 1))
    assert outcomes[-2].opened == log.machine.applied << 16 | 0xFFFF
    assert (outcomes[-1].opened, outcomes[-1].expired) == (0, True)


def test_a_repeated_batch_is_answered_and_not_executed() -> None:
    log = Log()
    session = log.open()
    first = log.execute(session, 1, ops.Put("a", "1"), ops.Add("n", 5))
    assert first.answers == ((OK, 2, None), (OK, 3, 5))
    assert log.execute(session, 1, ops.Put("a", "1"), ops.Add("n", 5)) == first
    assert log.machine.store.revision == 3


def test_a_batch_twice_in_one_block_is_executed_once() -> None:
    log = Log()
    one = batch(log.open(), 1, [ops.Add("n")])
    first, second = log.block(one, one)
    assert first == second
    assert log.machine.store.revision == 2


def test_a_batch_below_the_lowest_awaited_is_answered_with_nothing() -> None:
    log = Log()
    session = log.open()
    log.execute(session, 5, ops.Add("n"), lowest=5)
    assert log.execute(session, 4, ops.Add("n")) == Outcome(session, 4, None)
    assert log.machine.store.revision == 2


def test_the_batch_of_an_expired_session_is_not_executed() -> None:
    log = Log(session_ttl=2.0)
    session = log.open()
    log.time = 2_000_000
    assert log.execute(session, 1, ops.Add("n")).answers is not None
    log.time = 4_000_001
    assert log.execute(session, 1, ops.Add("n")) == Outcome(session, 1, None, expired=True)
    assert log.machine.store.revision == 2


def test_the_repeat_of_a_batch_with_too_large_answers_says_so_for_each_command() -> None:
    log = Log()
    session = log.open()
    log.execute(session, 1, ops.Put("a", bytes(100_000)))
    operations = (ops.Put("a", "1", prev_kv=True), ops.Put("b", "1"))
    first = log.execute(session, 2, *operations).answers
    assert first is not None
    assert first[0][2][1] == bytes(100_000)
    again = log.execute(session, 2, *operations).answers
    assert again is not None
    assert len(again) == 2
    for answer in again:
        with pytest.raises(errors.OutcomeUnknown, match="too large"):
            wire.unless_refused(answer)
    assert log.machine.store.revision == 4


# -- commands -----------------------------------------------------------------------------------------------------------------------------


@settings(max_examples=150, deadline=None)
@given(st.lists(st.lists(commands, min_size=1, max_size=4), max_size=8))
def test_the_machine_answers_as_the_model_does(batches: list[list[ops.Operation]]) -> None:
    log, model = Log(), Model()
    session = log.open()
    for sequence, operations in enumerate(batches, 1):
        answers = log.execute(session, sequence, *operations).answers
        assert answers is not None
        for operation, answer in zip(operations, answers, strict=True):
            expected = model.execute(operation.to_wire())
            assert same(answer, expected), (operation, answer, expected)
            if answer[0] == OK:
                operation.result(codec.unpack(codec.pack(answer)))
    assert log.machine.store.revision == model.revision


def test_a_refusal_in_the_middle_takes_the_whole_transaction_back() -> None:
    log = Log()
    log.once(ops.Put("x", "no number"))
    before = log.machine.store.revision
    inner = ops.Txn(then=[ops.Delete("x"), ops.Put("b", "1")])
    (answer,) = log.once(ops.Txn(then=[ops.Put("a", "1"), inner, ops.Get("a", revision=before + 1)]))
    with pytest.raises(errors.FutureRevision):
        wire.unless_refused(answer)
    (answer,) = log.once(ops.Txn(then=[ops.Put("a", "1"), ops.Add("x")]))
    with pytest.raises(errors.NotACounter):
        wire.unless_refused(answer)
    store = log.machine.store
    assert (store.revision, list(store.keys), len(store.events)) == (before, [b"x"], 1)


@pytest.mark.parametrize("value", [b"", b"-", b"+1", b" 1", b"1 ", b"1_0", b"0x1", b"1.0", "१".encode(), b"9223372036854775808", b"9" * 40])
def test_add_takes_only_decimal_integers_of_64_bits(value: bytes) -> None:
    log = Log()
    log.once(ops.Put("n", value))
    (answer,) = log.once(ops.Add("n", 0))
    with pytest.raises(errors.NotACounter):
        wire.unless_refused(answer)


def test_add_stays_within_64_bits() -> None:
    log = Log()
    highest, lowest = values.INT64[-1], values.INT64[0]
    assert [raw[2] for raw in log.once(ops.Add("n", highest), ops.Add("m", lowest), ops.Add("m", 1))] == [highest, lowest, lowest + 1]
    for key, delta in (("n", 1), ("m", -2)):
        with pytest.raises(errors.NotACounter, match="64 bits"):
            wire.unless_refused(log.once(ops.Add(key, delta))[0])


def test_the_clusters_limits_are_kept_whoever_sent_the_command() -> None:
    log = Log(max_request_bytes=100, max_txn_ops=2)
    large: Sequence[ops.Operation] = (
        ops.Put("k", bytes(100)),
        ops.Txn(then=[ops.Put("k", bytes(50)), ops.Put("l", bytes(50))]),
        ops.Delete(bytes(200)),
        ops.Add(bytes(101)),
    )
    for operation in large:
        with pytest.raises(errors.TooLarge):
            wire.unless_refused(log.once(operation)[0])
    for txn in (ops.Txn(then=[ops.Get("k")] * 3), ops.Txn(then=[ops.Txn(then=[ops.Get("k")] * 2)])):
        with pytest.raises(errors.TooManyOps):
            wire.unless_refused(log.once(txn)[0])
    assert log.once(ops.Put("k", bytes(99)), ops.Txn(then=[ops.Get("k")] * 2))[0] == (OK, 2, None)


def test_every_refusal_message_is_short() -> None:
    log = Log()
    key = b"k" * 1_000_000
    log.once(ops.Put(key, "x"))
    (refused,) = log.once(ops.Add(key))
    assert len(refused[1]) < 200


# -- slices -------------------------------------------------------------------------------------------------------------------------------


def count_at(machine: Machine) -> int:
    return read(machine, ops.Scan(count_only=True), machine.store.revision)[3]  # type: ignore[no-any-return]  # raw


class Interrupted:
    """Applies the same entries slice by slice, and looks around at every stop."""

    def __init__(self) -> None:
        self.machine = Machine()
        self.stops = 0

    def apply(self, entry: Entry) -> list[Outcome]:
        steps = self.machine.apply(entry)
        while True:
            try:
                next(steps)
            except StopIteration as end:
                return end.value  # type: ignore[no-any-return]
            self.stops += 1
            revision = self.machine.store.revision
            one = self.machine.read(ops.Scan(count_only=True).to_wire(), revision)
            assert self.machine.read(ops.Scan(count_only=True).to_wire(), revision) == one


@settings(max_examples=50, deadline=None)
@given(st.lists(commands, max_size=12))
def test_apply_does_the_same_however_it_is_interrupted(operations: list[ops.Operation]) -> None:
    log = Log()
    session = log.open()
    for sequence, operation in enumerate(operations, 1):
        log.execute(session, sequence, operation, ops.Put("between", b"%d" % sequence))
    interrupted = Interrupted()
    repeated = Machine()
    for entry in log.entries:
        assert interrupted.apply(entry) == run(repeated.apply(entry))
    assert interrupted.machine.digest() == repeated.digest() == log.machine.digest()


def test_long_commands_are_interrupted_and_readers_see_them_whole_or_not_at_all() -> None:
    log = filled()
    session, machine = log.open(), log.machine
    before = count_at(machine)
    assert before > 300
    long = ops.Txn(
        compare=[ops.Key(start=b"\x01").version > 0],
        then=[ops.Scan(), ops.Delete(start=b"\x01", end="z"), ops.Scan(count_only=True), ops.Txn(then=[ops.Put("zz", "1")])],
    )
    entry = codec.make_entry(machine.applied + 1, 1, EntryKind.BLOCK, 0, codec.encode_block([batch(session, 1, [long])]))
    steps = machine.apply(entry)
    counts = [count_at(machine) for _ in steps]
    assert len(counts) > 6
    assert set(counts) == {before}
    assert count_at(machine) == 1


def test_transactions_of_many_short_operations_are_interrupted_too() -> None:
    log = Log(max_txn_ops=10_000)
    txn = ops.Txn(then=[ops.Put(b"%04d" % number, "") for number in range(1000)])
    block = codec.encode_block([batch(log.open(), 1, [txn])])
    assert sum(1 for _ in log.machine.apply(codec.make_entry(log.machine.applied + 1, 1, EntryKind.BLOCK, 0, block))) >= 15
    assert log.machine.store.revision == 2


def test_a_refused_transaction_is_taken_back_in_slices_too() -> None:
    log = filled()
    before = log.machine.digest()
    copy = Machine.load(log.machine.dump())
    session = Log(copy).open()
    txn = ops.Txn(then=[ops.Delete(start=b"\x01"), ops.Get("a", revision=1 << 40)])
    entry = codec.make_entry(copy.applied + 1, 1, EntryKind.BLOCK, 0, codec.encode_block([batch(session, 1, [txn])]))
    assert sum(1 for _ in copy.apply(entry)) > 3
    assert copy.store.newest == log.machine.store.newest
    assert copy.store.events == log.machine.store.events
    assert log.machine.digest() == before


# -- reads --------------------------------------------------------------------------------------------------------------------------------


def test_reads_are_answered_at_the_revision_that_was_published() -> None:
    log = Log()
    log.once(ops.Put("a", "1"), ops.Put("a", "2"), ops.Put("b", "2"))
    machine = log.machine
    assert read(machine, ops.Get("a"), 2) == (OK, (b"a", b"1", 2, 2, 1, 0))
    assert read(machine, ops.Get("b"), 3) == (OK, None)
    assert read(machine, ops.Get("a", revision=2), 4) == (OK, (b"a", b"1", 2, 2, 1, 0))
    scan = read(machine, ops.Scan(revision=2), 3)
    assert scan == (OK, 3, ((b"a", b"1", 2, 2, 1, 0),), 1, False)
    txn = ops.Txn(compare=[ops.Key("a").value == "1"], then=[ops.Get("a")], otherwise=[ops.Scan(limit=1)])
    assert read(machine, txn, 2) == (OK, 2, True, ((OK, (b"a", b"1", 2, 2, 1, 0)),))
    assert read(machine, txn, 4)[1:3] == (4, False)


def test_reads_of_what_is_not_there_yet_are_refused() -> None:
    machine = Log().machine
    for operation in (ops.Get("a", revision=2), ops.Scan(revision=2), ops.Txn(then=[ops.Get("a", revision=2)])):
        with pytest.raises(errors.FutureRevision):
            wire.unless_refused(read(machine, operation, 1))


def test_reads_of_what_is_compacted_are_refused_with_the_oldest_revision() -> None:
    log = Log()
    log.once(*(ops.Put("k", str(revision)) for revision in range(2, 10)), ops.Compact(5))
    machine = log.machine
    for operation in (ops.Get("a", revision=4), ops.Scan(revision=4), ops.Txn(then=[ops.Get("a", revision=4)])):
        with pytest.raises(errors.Compacted) as compacted:
            wire.unless_refused(read(machine, operation, 9))
        assert compacted.value.revision == 5
    assert read(machine, ops.Get("k", revision=5), 9)[1][1] == b"5"


def test_the_newest_state_a_reader_knows_is_read_or_asked_for_again_but_never_refused() -> None:
    log = Log()
    log.once(*(ops.Put("k", str(revision)) for revision in range(2, 10)), ops.Compact(8))
    operations = (ops.Get("k"), ops.Scan(), ops.Txn(then=[ops.Get("k")]))
    assert [log.machine.read(operation.to_wire(), 4) for operation in operations] == [
        (OK, (b"k", b"4", 2, 4, 3, 0)),
        (OK, 4, ((b"k", b"4", 2, 4, 3, 0),), 1, False),
        (OK, 4, True, ((OK, (b"k", b"4", 2, 4, 3, 0)),)),
    ], "it is compacted, but all is still there"
    run(log.machine.store.scrub())
    assert [log.machine.read(operation.to_wire(), 4) for operation in operations] == [None, None, None]
    assert [log.machine.read(operation.to_wire(), 8) for operation in operations] != [None, None, None]


@pytest.mark.parametrize("operation", [ops.Put("a", "1"), ops.Add("a"), ops.Delete("a"), ops.Txn(then=[ops.Txn(then=[ops.Put("a", "")])])])
def test_writes_are_not_taken_for_reads(operation: ops.Operation) -> None:
    machine = Log().machine
    with pytest.raises(ValueError, match="goes through the log"):
        machine.read(operation.to_wire(), 1)
    assert not machine.store.events


def test_reads_go_through_the_log_as_well() -> None:
    answers = Log().once(ops.Put("a", "1"), ops.Get("a"), ops.Scan())
    assert answers[1:] == ((OK, (b"a", b"1", 2, 2, 1, 0)), (OK, 2, ((b"a", b"1", 2, 2, 1, 0),), 1, False))


# -- the state as bytes -------------------------------------------------------------------------------------------------------------------


def test_what_is_loaded_is_what_was_dumped() -> None:
    log = filled()
    machine, copy = log.machine, Machine.load(log.machine.dump())
    assert b"".join(copy.dump()) == b"".join(machine.dump())
    assert copy.digest() == machine.digest()
    assert (copy.store.newest, copy.store.older, copy.store.events) == (machine.store.newest, machine.store.older, machine.store.events)
    assert (copy.applied, copy.term, copy.time, copy.settings) == (machine.applied, machine.term, machine.time, machine.settings)
    assert (copy.founding, copy.configuration) == (machine.founding, machine.configuration)


def test_a_loaded_machine_goes_on_like_the_one_that_was_dumped() -> None:
    log = filled()
    session = log.open()
    log.execute(session, 1, ops.Add("n"))
    other = Log(Machine.load(log.machine.dump()))
    for each in (log, other):
        each.time = 77
        assert each.execute(session, 1, ops.Add("n")).answers == ((OK, each.machine.store.revision, 1),)
        each.execute(session, 2, ops.Delete(prefix="1"), ops.Put("n", "2"))
    assert other.machine.digest() == log.machine.digest()


def test_a_state_that_begins_anew_is_that_of_another_cluster_and_numbers_nothing_twice() -> None:
    log = filled()
    (grant,) = log.once(ops.Grant(0, 10_000_000, 0))
    before, founding = log.machine, Founding(b"d" * 16, Configuration(("x",), members={"x": 7}), Settings().to_wire())
    alone = Configuration(("x",), members={"x": 7})
    index, term, revision, session = before.applied, before.term, before.store.revision, log.open()
    pairs = read(before, ops.Scan(start=b"\x01"), revision)
    before.begin_anew(founding, alone, Roster.of(alone), 1000)
    machine = Machine.load(before.dump())
    assert machine.digest() == before.digest()
    assert (machine.founding, machine.configuration, list(machine.roster)) == (founding, alone, ["x"])
    assert machine.applied == machine.configured > index + 1_000_000
    assert (machine.term, machine.store.revision) == (term + 1, revision + 1000)
    assert read(machine, ops.Scan(start=b"\x01"), machine.store.revision)[2:] == pairs[2:]
    assert machine.sessions.pin() == []
    again = Log(machine)
    (outcome,) = again.block(batch(session, 1, [ops.Put("k", "v")]))
    assert outcome.expired
    assert again.open() > session + (1_000_000 << 16)
    assert again.once(ops.Grant(0, 10_000_000, 0))[0][1] > grant[1] + 1000


def test_a_dump_is_put_together_from_an_outline_and_pairs() -> None:
    machine = filled().machine
    revision = machine.store.revision
    pairs = [record for records in machine.store.slices((b"", None), revision) for record in records]
    base, newest = ([pair for pair in pairs if (pair[3] == revision) == is_new] for is_new in (False, True))
    assert newest
    put_together = Machine.load(assembled(machine.outline(), base, newest))
    assert put_together.outline() == machine.outline()
    assert [record for records in put_together.store.slices((b"", None), revision) for record in records] == pairs
    assert put_together.store.compacted == revision


def test_an_empty_machine_can_be_dumped_and_loaded() -> None:
    copy = Machine.load(Machine().dump())
    assert (copy.applied, copy.founding, copy.store.revision, copy.digest()) == (0, None, 1, Machine().digest())


def test_chunks_are_bounded_and_may_be_cut_anywhere() -> None:
    log = filled()
    log.once(ops.Put("large", bytes(1_400_000)), ops.Put("empty", ""))
    steps = list(log.machine.dump())
    assert steps.count(b"") > 6  # moments at which something else may be done
    chunks = list(filter(None, steps))
    assert len(chunks) > 6
    assert {len(chunk) for chunk in chunks[:-1]} == {CHUNK_MAX}
    whole = b"".join(chunks)
    cut = [whole[at : at + 1013] for at in range(0, len(whole), 1013)]
    assert Machine.load(cut).digest() == Machine.load([whole]).digest() == log.machine.digest()


# -- members --------------------------------------------------------------------------------------------------------------------------


def wanted(machine: Machine) -> dict[str, tuple[bool, str]]:
    return {name: (machine.roster[name].voter, machine.roster[name].address) for name in machine.roster}


def test_the_roster_begins_with_the_founders_and_follows_commands_not_configurations() -> None:
    log = Log()
    assert wanted(log.machine) == {"a": (True, "tcp://a:1"), "b": (True, ""), "c": (True, "")}
    assert (log.machine.configuration, log.machine.configured) == (FOUNDERS, 1)
    change = ChangeMembers((("d", "tcp://d:1"),), ("c",), (("b", ""),))
    assert log.once(change) == ((OK,),)
    assert wanted(log.machine) == {"a": (True, "tcp://a:1"), "b": (False, ""), "d": (True, "tcp://d:1")}
    assert log.machine.configuration == FOUNDERS
    configuration = Configuration(("a", "b"), (), ("d",), {"a": 1, "b": 2, "d": 0}, {"d": "tcp://d:1"})
    log.apply(EntryKind.CONFIGURATION, codec.encode_configuration(configuration))
    assert (log.machine.configuration, log.machine.configured) == (configuration, log.machine.applied)
    assert wanted(log.machine)["b"] == (False, "")
    copy = Machine.load(log.machine.dump())
    assert (copy.configuration, copy.configured, wanted(copy)) == (configuration, log.machine.applied, wanted(log.machine))
    assert copy.digest() == log.machine.digest()


def test_a_refused_change_of_members_changes_nothing_and_its_neighbours_are_carried_out() -> None:
    log = Log()
    before = wanted(log.machine)
    answers = log.once(ops.Put("k", "1"), ChangeMembers(remove=("x", "a")), ops.Put("k", "2"), ChangeMembers(remove=("a", "b", "c")))
    assert [answer[0] == OK for answer in answers] == [True, False, True, False]
    with pytest.raises(errors.MemberNotFound, match="no member x"):
        wire.unless_refused(answers[1])
    with pytest.raises(errors.MembershipRefused, match="no member would be left to vote"):
        wire.unless_refused(answers[3])
    assert wanted(log.machine) == before
    assert log.machine.roster.changes == 0


def test_a_change_of_members_is_carried_out_once_however_often_it_is_sent() -> None:
    log = Log()
    session = log.open()
    first = log.execute(session, 1, ChangeMembers(remove=("c",)))
    assert log.execute(session, 1, ChangeMembers(remove=("c",))) == first
    assert first.answers == ((OK,),)
    assert log.machine.roster.changes == 1


def test_a_dump_shows_the_moment_it_was_asked_for() -> None:
    log = filled()
    before = b"".join(log.machine.dump())
    chunks = log.machine.dump()
    session = log.open()
    log.execute(session, 1, ops.Delete(start=b"\x01"), ops.Put("later", "1"))
    log.execute(session, 2, ops.Txn(then=[ops.Put("later2", "1"), ops.Get("a", revision=1 << 40)]))
    assert b"".join(chunks) == before


def test_a_dump_may_be_taken_on_another_thread_while_apply_goes_on() -> None:
    log = filled()
    digest = log.machine.digest()
    chunks, copies = log.machine.dump(), list[Machine]()
    reader = threading.Thread(target=lambda: copies.append(Machine.load(chunks)))
    reader.start()
    session = log.open()
    for sequence in range(1, 200):
        log.execute(session, sequence, ops.Put("n", b"%d" % sequence), ops.Txn(then=[ops.Put("m", ""), ops.Get("n", revision=1 << 40)]))
        log.execute(session, 1000 + sequence, ops.Delete(prefix="1"), lowest=sequence)
    reader.join()
    assert copies[0].digest() == digest


def test_digests_tell_states_apart() -> None:
    log = Log()
    digests = {log.machine.digest()}
    session = log.open()
    digests.add(log.machine.digest())
    log.execute(session, 1, ops.Put("a", "1"))
    digests.add(log.machine.digest())
    log.execute(session, 1, ops.Put("a", "1"))
    digests.add(log.machine.digest())
    assert len(digests) == 4


def test_a_dump_that_is_cut_short_or_goes_on_is_refused() -> None:
    whole = b"".join(filled(100).machine.dump())
    behind = (b"\x00", b"\x01\x00\x00\x00\x90", b"\x02\x00\x00\x00\x91\xc0")
    for damaged in (b"", whole[:3], whole[:-1], whole[:20], *(whole + more for more in behind)):
        with pytest.raises(DecodeError):
            Machine.load([damaged])


def with_everything() -> Machine:
    """A small machine that holds something of every kind: sessions, leases, a keeper, a base and history, also of a deletion."""
    log = Log()
    log.once(ops.Grant(0, 10_000_000, 7), ops.Grant(5, 20_000_000, 0), ops.Put("a", "1", lease=1), ops.Put("b", "22"))
    log.once(ops.Put("c", "3"), ops.Delete("c"), ops.Compact(5), ops.Put("a", "2", lease=5), ops.Put("d", "4", ttl=3600))
    log.time = 1_000_000
    log.once(ops.KeepAlive(7))
    return log.machine


def parts_of(machine: Machine) -> list[Any]:
    whole = b"".join(machine.dump())
    parts: list[Any] = []
    while whole:
        end = 4 + int.from_bytes(whole[:4], "little")
        parts.append(codec.unpack(whole[4:end]))
        whole = whole[end:]
    return parts


def test_a_dump_has_sessions_leases_keepers_base_and_history_in_this_order() -> None:
    machine = with_everything()
    head, *sections = parts_of(machine)
    founding = codec.encode_founding(machine.founding) if machine.founding is not None else b""
    place = (machine.applied, 1, 1_000_000, machine.chain, founding)
    configuration = codec.unpack(codec.pack(codec.configuration_to_wire(FOUNDERS)))
    roster = (("a", True, "tcp://a:1"), ("b", True, ""), ("c", True, ""))
    assert head == (4, *place, (configuration, 1, roster, 1), 3, 2, 3, 1, 7, 5, 3)
    sessions, leases, kept_alive, users, base, end, history = sections
    assert [row[0] >> 16 for row in sessions if len(row) == 5] == [2, 4, 6]
    assert leases == ((1, 10_000_000, 7, 0, False, None), (5, 20_000_000, 0, 0, False, None), (2, 3_600_000_000, 0, 0, True, None))
    assert kept_alive == ((7, 1_000_000),)
    assert users == (NO_USERS,)
    assert base == ((b"a", b"1", 2, 2, 1, 1), (b"b", b"22", 3, 3, 1, 0))
    assert end == (END,)
    assert history == ((b"c", None, 0, 5, 0, 0), (b"a", b"2", 2, 6, 2, 5), (b"d", b"4", 7, 7, 1, 2))


def test_a_user_of_the_same_name_is_not_told_what_the_one_before_it_was_answered() -> None:
    log = Log(Machine())
    me = log.open()
    log.execute(me, 1, ChangeAuth(wire.ADD_USER, ("ann", b"")))
    (opened,) = log.block(codec.pack_batch(0, 7, 0, [], ("ann", 2)))
    get = codec.pack_batch(opened.opened, 1, 0, [codec.pack(ops.Get("k").to_wire())], ("ann", 2))
    (first,) = log.block(get)
    assert first.answers == ((0, None),)
    log.execute(me, 2, ChangeAuth(wire.DELETE_USER, ("ann",)), ChangeAuth(wire.ADD_USER, ("ann", b"")))
    (again,) = log.block(get)
    assert (again.answers, again.expired) == (None, True)


def test_who_removes_its_own_user_is_answered() -> None:
    log = Log(Machine())
    log.execute(log.open(), 1, ChangeAuth(wire.ADD_USER, ("ann", b"")))
    (opened,) = log.block(codec.pack_batch(0, 7, 0, [], ("ann", 2)))
    (outcome,) = log.block(codec.pack_batch(opened.opened, 1, 0, [codec.pack((wire.AUTH, wire.DELETE_USER, ("ann",)))], ("ann", 2)))
    assert outcome.answers == ((0, 3),)


FORMATS = (Path(replkv.__file__).parent.parent / "docs" / "FORMATS.md").read_text()


def test_the_example_of_a_dump_in_the_documentation_is_one() -> None:
    log = Log(Machine())
    assert log.execute(log.open(), 1, ops.Grant(0, 10_000_000, 7), ops.Put("k", "v", lease=1)).answers is not None
    (example,) = re.findall(r"knows of no founding:\n\n```\n(.*?)```", FORMATS, re.DOTALL)
    assert bytes.fromhex("".join(line.split("   ")[0] for line in example.splitlines())) == b"".join(log.machine.dump())


def test_the_examples_of_commands_in_the_documentation_are_some_and_none_is_missing() -> None:
    rows = re.findall(r"^\| [a-z ]+ \| \[(\d+), ([^|]*)\] \| `([0-9a-f ]+)`", FORMATS, re.MULTILINE)
    tags = set[int]()
    for tag, fields, packed in rows:
        command = codec.unpack(bytes.fromhex(packed))
        wire.check_operation(command)
        for _ in range(2):  # a list is one field, and so is a list of lists
            fields = re.sub(r"\[[^][]*\]", "list", fields)
        assert (command[0], len(command)) == (int(tag), 1 + len(fields.split(", ")))
        tags.add(command[0])
    assert tags == {*range(1, 19)} - {wire.TXN}


def test_the_chained_hash_is_what_the_documentation_says() -> None:
    log = Log()
    session = log.open()
    before = log.machine.chain
    outcome = log.execute(session, 1, ops.Grant(0, 10_000_000, 7), ops.Put("k", "v", lease=1))
    answered = zlib.crc32(codec.pack(outcome.answers), before)
    state = struct.pack("<QQQQI", 3, 2, 1 + 1 + 64 + 64, 1, answered)
    assert log.machine.chain == zlib.crc32(log.entries[-1].encoded, zlib.crc32(state))


def load_or_refuse(damaged: bytes) -> Machine | None:
    try:
        return Machine.load([damaged])
    except (DecodeError, errors.Incompatible):
        return None


def test_no_damage_to_a_dump_raises_anything_but_decode_error() -> None:
    whole = b"".join(with_everything().dump())
    for at in range(len(whole)):
        for bit in range(8):
            damaged = bytearray(whole)
            damaged[at] ^= 1 << bit
            load_or_refuse(bytes(damaged))  # damage within a value goes unnoticed: the file's checksum finds it


STRANGE: list[object] = [None, True, 0, 1, -1, 6, 2**62, 2**63, b"", b"x", "x", (), (1,), (1, 2), 0.5, ((), (), (), ())]


@settings(max_examples=600, deadline=None)
@given(st.data())
def test_no_strange_field_in_a_dump_raises_anything_but_decode_error(data: st.DataObject) -> None:
    """And what is loaded all the same can be dumped and applied to."""
    parts = parts_of(with_everything())
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(parts) - 1))
        where = data.draw(st.integers(0, len(parts[at]) - 1))
        strange: object = data.draw(st.sampled_from(STRANGE))
        row = parts[at][where]
        if type(row) is tuple and row and data.draw(st.booleans()):
            place = data.draw(st.integers(0, len(row) - 1))
            strange = (*row[:place], strange, *row[place + 1 :])
        parts[at] = (*parts[at][:where], strange, *parts[at][where + 1 :])
    try:
        damaged = joined(*parts)
    except OverflowError:
        return  # no such number can be packed
    loaded = load_or_refuse(damaged)
    if loaded is not None:
        copy = Machine.load(loaded.dump())
        assert copy.digest() == loaded.digest()


def test_a_dump_that_is_compacted_beyond_its_revision_is_refused() -> None:
    """It was loaded, and read as an empty store of which nothing can be read."""
    with pytest.raises(DecodeError, match="compacted up to 5"):
        Machine.load([dump_of(head(revision=1, compacted=5), [END])])


@pytest.mark.parametrize(
    "row",
    [
        (0, 1, 0, 0, False, None),
        (1, 0, 0, 0, False, None),
        (1, 1, 0, 0, 0, None),
        (1, 1, 0, 0, False),
        (1, 1, 0, 0, False, 7),
        (1, 1, 0, -1, False, None),
        (1, True, 0, 0, False, None),
        (1, 1, b"", 0, True, None),
    ],
)
def test_a_dump_with_an_impossible_lease_is_refused(row: object) -> None:
    assert len(Machine.load([dump_of(head(leases=1), [(1, 1, 0, 0, False, None)], [END])]).leases) == 1
    with pytest.raises(DecodeError):
        Machine.load([dump_of(head(leases=1), [row], [END])])


@pytest.mark.parametrize("row", [(8, 0), (7, -1), (7,), (7, 0, 0), 7])
def test_a_dump_with_an_impossible_keeper_is_refused(row: object) -> None:
    lease = (1, 1, 7, 0, False, None)
    assert len(Machine.load([dump_of(head(leases=1, kept_alive=1), [lease], [(7, 5)], [END])]).leases) == 1
    with pytest.raises(DecodeError):
        Machine.load([dump_of(head(leases=1, kept_alive=1), [lease], [row], [END])])


@pytest.mark.parametrize(
    "row",
    [
        (b"k", b"v", 2, 5, 1, 0),  # at the compaction revision: that is history
        (b"k", b"v", 2, 6, 1, 0),
        (b"k", b"v", 1, 2, 1, 0),
        (b"k", b"v", 3, 2, 1, 0),
        (b"k", None, 2, 2, 1, 0),
        (b"k", b"v", 2, 3, 3, 0),
        (b"k", b"v", 2, 2, 0, 0),
        (b"k", b"v", 2, 2, 1, 1),
        (b"a", b"v", 2, 2, 1, 0),
    ],
)
def test_a_dump_with_an_impossible_base_is_refused(row: object) -> None:
    start, history = head(revision=5, compacted=5, history=1), [(b"z", b"v", 5, 5, 1, 0)]
    assert Machine.load([dump_of(start, [(b"b", b"", 2, 2, 1, 0), (b"k", b"v", 2, 3, 2, 0), END], history)]).store.compacted == 5
    with pytest.raises(DecodeError):
        Machine.load([dump_of(start, [(b"b", b"", 2, 2, 1, 0), row, END], history)])


NOBODY = ((), (), (), (), ())


@pytest.mark.parametrize(
    "members",
    [
        (NOBODY, 0, ()),
        (NOBODY, -1, (), 0),
        (NOBODY, 0, (), -1),
        (NOBODY, 0, None, 0),
        (NOBODY, 0, (("b", True, ""), ("a", True, "")), 0),
        (NOBODY, 0, (("a", True, ""), ("a", False, "")), 0),
        (NOBODY, 0, (("a", 1, ""),), 0),
        (NOBODY, 0, (("a", True),), 0),
        (NOBODY, 0, (("a", True, "a:1"),), 0),
        (NOBODY, 0, ((1, True, ""),), 0),
        (((), (), (), ()), 0, (), 0),
        (((), (), (), (), (("a", "tcp://a:1"),)), 0, (), 0),
    ],
)
def test_a_dump_with_impossible_members_is_refused(members: object) -> None:
    assert [*Machine.load([dump_of(head(members=(NOBODY, 0, (("a", True, ""), ("b", False, "tcp://b:1")), 0)), [END])]).roster] == [
        "a",
        "b",
    ]
    with pytest.raises(DecodeError):
        Machine.load([dump_of(head(members=members), [END])])


def test_a_dump_of_a_later_version_is_refused() -> None:
    whole = bytearray(b"".join(Machine().dump()))
    for version, remedy in ((99, "upgrade this member"), (2, "no release has written it")):
        whole[5] = version
        with pytest.raises(errors.Incompatible, match=remedy):
            Machine.load([bytes(whole)])


NO_USERS = (False, 1, 0, 0, 0)


def dump_of(*parts: object) -> bytes:
    """Return a dump of parts; that there are no users is put before the base."""
    base = next(at for at, part in enumerate(parts) if isinstance(part, list) and END in part)
    return joined(*parts[:base], [NO_USERS], *parts[base:])


def joined(*parts: object) -> bytes:
    packed = [codec.pack(part) for part in parts]
    return b"".join(len(part).to_bytes(4, "little") + part for part in packed)


def head(
    sessions: int = 0,
    leases: int = 0,
    kept_alive: int = 0,
    revision: int = 1,
    compacted: int = 0,
    history: int = 0,
    members: object = (((), (), (), (), ()), 0, (), 0),
) -> tuple[object, ...]:
    """The first part of a dump, at the index, term, time and chain 0, without a founding."""
    return (4, 0, 0, 0, 0, b"", members, sessions, 0, leases, kept_alive, revision, compacted, history)


@pytest.mark.parametrize(
    "rows",
    [
        [(1, 0, None, 0, 1), (1, "text")],
        [(1, 0, None, 0, 2), (1, b"x"), (1, b"x")],
        [(1, 0, None, 0, 1)],
        [(1, 0, None, 0)],
        [(1, 0, 5, 0, 1), (1, b"x")],
        [(1, 0, None, 0, 1), (-1, b"x")],
        [(1, 0, None, 5, 1), (4, b"x")],
        [5],
    ],
)
def test_a_dump_with_an_impossible_session_is_refused(rows: list[object]) -> None:
    assert len(Machine.load([dump_of(head(sessions=1), [(1, 0, None, 0, 1), (1, b"x")], [END])]).sessions) == 1
    with pytest.raises(DecodeError):
        Machine.load([dump_of(head(sessions=1), [*rows, END])])


@pytest.mark.parametrize(
    "row",
    [
        (b"", b"v", 2, 2, 1, 0),
        (b"k", "v", 2, 2, 1, 0),
        (b"k", b"v", 2, 2, 1),
        (b"k", b"v", 2, 2, True, 0),
        ("k", b"v", 2, 2, 1, 0),
        (b"k", b"v", 2, 2, 1, 7),
        (b"k", None, 0, 2, 0, 0),
        END,
        5,
    ],
)
def test_a_dump_with_an_impossible_record_is_refused(row: object) -> None:
    assert Machine.load([dump_of(head(revision=2, history=1), [END], [(b"k", b"v", 2, 2, 1, 0)])]).store.revision == 2
    with pytest.raises(DecodeError):
        Machine.load([dump_of(head(revision=2, history=1), [END], [row])])


def test_hostile_lengths_in_a_dump_cost_nothing() -> None:
    for damaged in (b"\xff\xff\xff\xff", b"\x05\x00\x00\x00\xdd\xff\xff\xff\xff", b"\x0a\x00\x00\x00" + b"\xdd\x7f\xff\xff\xff" * 2):
        with pytest.raises(DecodeError):
            Machine.load([damaged])


def test_time_for_a_big_block_is_bounded_by_slices() -> None:
    """No slice does much: what counts is that there are many, so this looks at the work per slice and not at the clock."""
    log = Log()
    session = log.open()
    block = codec.encode_block([batch(session, 1, (ops.Put(b"%06d" % number, "v") for number in range(4096)))])
    steps = log.machine.apply(codec.make_entry(log.machine.applied + 1, 1, EntryKind.BLOCK, 0, block))
    done = [0, *(len(log.machine.store.events) for _ in steps)]
    assert max(b - a for a, b in itertools.pairwise(done)) <= 64
