"""The state machine on several members: alike after equal entries, whatever each does besides; different when an answer differs."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from model_kv import LEASES, Dice
from test_machine import Log, batch

from replkv import codec, errors, kv, ops, wire
from replkv.config import Settings
from replkv.errors import QuotaExceeded
from replkv.kv import run
from replkv.machine import Machine, Outcome
from replkv.messages import Entry, EntryKind
from replkv.wire import OK

SECOND = 1_000_000


class Other:
    """Another member: it applies the same entries, and is restarted, scrubs and looks at leases when it likes."""

    def __init__(self) -> None:
        self.machine = Machine()
        self._scrubbing: Generator[None, None, None] | None = None

    def apply(self, entry: Entry) -> list[Outcome]:
        return run(self.machine.apply(entry))

    def restart(self) -> None:
        self._scrubbing = None
        self.machine = Machine.load(self.machine.dump())

    def scrub(self, steps: int) -> None:
        if self._scrubbing is None and self.machine.store.unscrubbed:
            self._scrubbing = self.machine.store.scrub()
        for _ in range(steps if self._scrubbing else 0):
            if self._scrubbing and next(self._scrubbing, self) is self:
                self._scrubbing = None

    def disturb(self, dice: Dice) -> None:
        """Do what one member may do and another not, between two entries."""
        match dice.below(6):
            case 0:
                self.restart()
            case 1 | 2:
                self.scrub(dice.below(4))
            case 3:
                _ = self.machine.leases.next
            case 4:
                list(self.machine.dump())


def seen(machine: Machine) -> tuple[Any, ...]:
    """What may not differ between members."""
    store, leases = machine.store, machine.leases
    history = store.events[store.pin()[2].start :]
    keys = {lease.id: (leases.deadline(lease), sorted(lease.keys)) for lease in leases}
    return machine.chain, machine.size, store.live, store.revision, store.compacted, history, keys, leases.last_id


def command(dice: Dice, revision: int) -> ops.Packable[Any]:
    number, keeper = dice.of(LEASES), dice.below(3)
    match dice.below(12):
        case 0:
            return ops.Grant(dice.of([0, *LEASES]), (1 + dice.below(4)) * SECOND, keeper)
        case 1:
            return dice.of([ops.Renew(number, keeper), ops.KeepAlive(keeper), ops.Revoke(number)])
        case 2:
            return ops.Compact(max(0, revision - dice.below(5)))
        case 3:
            return ops.Put(dice.of([b"a", b"b", b"c"]), b"", ttl=float(1 + dice.below(4)))
    return dice.command()


class Cluster:
    """A log with a member that does nothing but apply it, and others."""

    def __init__(self, others: int, **limits: int) -> None:
        self.log = Log(None, **limits)
        self.others = [Other() for _ in range(others)]
        self.executed: dict[bytes, Outcome] = {}  # by the packed batch
        self._sequence = 0
        self._follow([])
        self.session = self.log.open()
        self._follow([])

    def _follow(self, outcomes: list[Outcome]) -> None:
        for other in self.others:
            for entry in self.log.entries[other.machine.applied :]:
                answered = other.apply(entry)
            assert not outcomes or answered == outcomes

    def block(self, batches: list[bytes]) -> list[Outcome]:
        outcomes = self.log.block(*batches)
        self._follow(outcomes)
        return outcomes

    def batch(self, commands: list[ops.Packable[Any]]) -> bytes:
        self._sequence += 1
        return batch(self.session, self._sequence, commands)


def play(thrown: list[bytes], **limits: int) -> Cluster:
    """Let entries made of such bytes be applied on all members, some of them twice, and compare the members after each."""
    cluster = Cluster(2, **limits)
    for data in thrown:
        dice = Dice(data)
        revision = cluster.log.machine.store.revision
        dice.revision = revision
        if dice.below(6) == 5 and cluster.executed:
            cluster.log.time += dice.below(2)
            repeated = dice.of(list(cluster.executed))
            assert cluster.block([repeated]) == [cluster.executed[repeated]], "a repeat is answered as before, and does nothing"
        else:
            cluster.log.time += dice.of([0, 1, SECOND, 3 * SECOND])
            packed = cluster.batch([command(dice, revision) for _ in range(1 + dice.below(3))])
            (cluster.executed[packed],) = cluster.block([packed])
        for other in cluster.others:
            assert seen(other.machine) == seen(cluster.log.machine)
            other.disturb(dice)
    for other in cluster.others:
        assert b"".join(other.machine.dump()) == b"".join(cluster.log.machine.dump())
    return cluster


entries = st.lists(st.binary(min_size=12, max_size=80), min_size=1, max_size=12)


@settings(max_examples=500, deadline=None)
@given(entries, st.sampled_from([1 << 30, 2500]))
def test_members_stay_alike_whatever_each_does_besides(thrown: list[bytes], max_bytes: int) -> None:
    play(thrown, max_bytes=max_bytes, max_request_bytes=500)


class OneByOne(Machine):
    """A machine that spares itself nothing: it carries out each put as it does any other command."""

    def __init__(self) -> None:
        super().__init__()
        self.store.put_each = lambda *_: None  # type: ignore[method-assign]


def mostly_puts(dice: Dice) -> ops.Packable[Any]:
    key = dice.of([b"a", b"b", b"c", b"abc"])
    match dice.below(16):
        case 0:
            return ops.Put(key, b"", lease=1 + dice.below(2))  # of which there is the first
        case 1:
            return ops.Put(key, b"", ttl=1)
        case 2:
            return ops.Delete(key)
        case 3:
            return dice.command()
    return ops.Put(key, bytes(dice.of([0, 1, 20, 90])), prev_kv=not dice.below(4))


@settings(max_examples=200, deadline=None)
@given(st.lists(st.binary(min_size=20, max_size=150), min_size=1, max_size=6), st.sampled_from([1 << 30, 1500, 4000]), st.integers(1, 40))
def test_a_run_of_puts_does_what_each_of_them_does_alone(thrown: list[bytes], max_bytes: int, length: int) -> None:
    log, plodder = Log(None, max_bytes=max_bytes, max_request_bytes=91), OneByOne()
    session = log.open()
    log.execute(session, 1, ops.Grant(1, 60 * SECOND, 0))
    for entry in log.entries:
        run(plodder.apply(entry))
    for number, data in enumerate(thrown, 2):
        dice = Dice(data)
        dice.revision = log.machine.store.revision
        log.time += dice.of([0, 2 * SECOND])
        outcome = log.execute(session, number, *(mostly_puts(dice) for _ in range(length)))
        assert run(plodder.apply(log.entries[-1])) == [outcome]
        one, other = log.machine.store, plodder.store
        assert seen(plodder) == seen(log.machine)
        assert (one.newest, one.older, list(one.keys), one._superseded_at) == (
            other.newest,
            other.older,
            list(other.keys),
            other._superseded_at,
        )
        assert (one._superseded, one._at_commit, one.moved) == (other._superseded, other._at_commit, other.moved)
        assert {key: type(versions) for key, versions in one.older.items()} == {
            key: type(versions) for key, versions in other.older.items()
        }
    assert b"".join(plodder.dump()) == b"".join(log.machine.dump())


def test_a_run_of_puts_is_carried_out_in_one_go(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that the property above compares two things."""
    monkeypatch.setattr(kv.Store, "put", None)  # it is not called
    log = Log()
    puts = [ops.Put(b"%d" % (number % 7), bytes(number)) for number in range(200)]
    assert log.once(*puts) == tuple((OK, 2 + number, None) for number in range(200))
    assert (len(log.machine.store.events), log.machine.store.revision) == (200, 201)


def test_entries_of_all_sorts_are_played() -> None:
    """So that the property above says something: commands of each kind are carried out, refused, and lead to expiry."""
    statuses, expired, compacted = set[int](), 0, 0
    for seed in range(60):
        thrown = [bytes((seed * 31 + number * 17 + place * place * (seed + 3)) % 256 for place in range(60)) for number in range(12)]
        cluster = play(thrown, max_bytes=2500, max_request_bytes=500)
        statuses |= {answer[0] for outcome in cluster.executed.values() for answer in outcome.answers or ()}
        expired += any(record[kv.VALUE] is None and record[kv.LEASE] for record in cluster.log.machine.store.events)
        compacted += cluster.log.machine.store.compacted > 0
    assert {0, 1, 3, 7, 8, 9, 10} <= statuses
    assert expired > 5
    assert compacted > 5


# -- different ------------------------------------------------------------------------------------------------------------------------


def pair(*operations: ops.Packable[Any]) -> Cluster:
    """Two members that have executed these."""
    cluster = Cluster(1)
    cluster.block([cluster.batch(list(operations))])
    assert seen(cluster.others[0].machine) == seen(cluster.log.machine)
    return cluster


def test_an_answer_that_differs_makes_the_chains_differ_for_good() -> None:
    cluster = pair(ops.Put("k", "right"))
    machine = cluster.others[0].machine
    machine.store.newest[b"k"] = (b"k", b"wrong", *machine.store.newest[b"k"][2:])  # memory that rotted
    cluster.log.block(cluster.batch([ops.Put("other", "x")]))
    cluster.others[0].apply(cluster.log.entries[-1])
    assert machine.chain == cluster.log.machine.chain, "nobody has seen it yet"
    cluster.log.block(cluster.batch([ops.Get("k")]))
    cluster.others[0].apply(cluster.log.entries[-1])
    assert machine.chain != cluster.log.machine.chain
    machine.store.newest[b"k"] = cluster.log.machine.store.newest[b"k"]
    cluster.log.block(cluster.batch([ops.Get("k")]))
    cluster.others[0].apply(cluster.log.entries[-1])
    assert machine.chain != cluster.log.machine.chain


@pytest.mark.parametrize("what", ["size", "revision", "leases", "refusal"])
def test_a_state_that_differs_makes_the_chains_differ_with_the_next_entry(what: str) -> None:
    cluster = pair(ops.Put("k", "v"), ops.Grant(1, SECOND, 0))
    machine = cluster.others[0].machine
    if what == "size":
        machine.store.size += 1
    elif what == "revision":
        machine.store.revision += 1
    elif what == "leases":
        machine.leases.remove(machine.leases[1])
    else:
        machine.settings = Settings(max_request_bytes=1)
    cluster.log.block(cluster.batch([ops.Delete("nothing")]))
    cluster.others[0].apply(cluster.log.entries[-1])
    assert machine.chain != cluster.log.machine.chain


def test_the_chain_goes_on_behind_a_snapshot_as_if_nothing_had_been() -> None:
    cluster = pair(ops.Put("k", "v"))
    cluster.others[0].restart()
    cluster.block([cluster.batch([ops.Put("k", "w")])])
    assert cluster.others[0].machine.chain == cluster.log.machine.chain


# -- exactly once ---------------------------------------------------------------------------------------------------------------------


def test_a_repeat_is_answered_as_the_first_time_whatever_has_changed() -> None:
    cluster = Cluster(1)
    once = cluster.batch(
        [
            ops.Put("k", "v", ttl=1),
            ops.Put("k", "w", if_mod_revision=0),
            ops.Grant(0, SECOND, 0),
            ops.Compact(2),
            ops.Revoke(1),
            ops.Get("k"),
            ops.Get("k", revision=1),
            ops.Renew(77, 0),
        ]
    )
    (first,) = cluster.block([once])
    assert first.answers is not None
    assert [answer[0] for answer in first.answers] == [OK, 7, OK, OK, OK, OK, 1, 9]
    cluster.block([cluster.batch([ops.Put("k", "other"), ops.Grant(77, SECOND, 0)])])
    cluster.others[0].restart()
    before = cluster.log.machine.store.revision
    assert cluster.block([once, once]) == [first, first]
    assert cluster.log.machine.store.revision == before


# -- room -----------------------------------------------------------------------------------------------------------------------------


def statuses(outcomes: list[Outcome]) -> list[str]:
    """Return the names of the errors, "" for what was done."""
    names = []
    for answer in outcomes[0].answers or ():
        try:
            wire.unless_refused(answer)
            names.append("")
        except errors.Rejected as refused:
            names.append(type(refused).__name__)
    return names


def test_a_full_store_takes_no_more_and_everything_else_goes_on_and_it_clears_by_itself() -> None:
    cluster = Cluster(1, max_bytes=2000, max_request_bytes=500)
    machine = cluster.log.machine
    cluster.block(
        [cluster.batch([ops.Grant(1, 60 * SECOND, 7), ops.Put("a", bytes(300), lease=1), ops.Put("a", bytes(300)), ops.Put("n", "1")])]
    )
    assert machine.store.revision == 4
    cluster.block([cluster.batch([ops.Put(f"b{number}", bytes(200)) for number in range(5)])])
    assert 2000 - 265 < machine.size <= 2000
    full: list[ops.Packable[Any]] = [
        ops.Put("c", bytes(200)),
        ops.Put("a", bytes(400), lease=1),
        ops.Put("c", bytes(200), ttl=1),
        ops.Txn(then=[ops.Put("c", bytes(200))]),
    ]
    assert statuses(cluster.block([cluster.batch(full)])) == ["QuotaExceeded"] * 4
    while statuses(cluster.block([cluster.batch([ops.Add("n")])])) == [""]:
        pass
    while statuses(cluster.block([cluster.batch([ops.Grant(0, 60 * SECOND, 0)])])) == [""]:
        pass
    assert 2000 - 64 < machine.size <= 2000
    going_on: list[ops.Packable[Any]] = [ops.Get("a"), ops.Scan(), ops.KeepAlive(7), ops.Renew(1, 0), ops.Delete("b0"), ops.Revoke(1)]
    assert statuses(cluster.block([cluster.batch(going_on)])) == [""] * 6
    assert machine.size > 2000 - 64, "what is deleted still is history"
    assert statuses(cluster.block([cluster.batch([ops.Add("n"), ops.Compact(machine.store.revision), ops.Add("n")])])) == [
        "QuotaExceeded",
        "",
        "",
    ]
    assert (
        statuses(cluster.block([cluster.batch([ops.Put("c", bytes(200)), ops.Grant(0, SECOND, 0), ops.Put("d", "", ttl=1)])])) == [""] * 3
    )
    assert seen(cluster.others[0].machine) == seen(machine)


def test_a_quota_error_tells_what_to_do() -> None:
    cluster = Cluster(0, max_bytes=600, max_request_bytes=500)
    (outcome,) = cluster.block([cluster.batch([ops.Put("k", bytes(400)), ops.Put("k", bytes(400))])])
    assert outcome.answers is not None
    with pytest.raises(QuotaExceeded, match=r"would take 930 bytes where Settings.max_bytes allows 600: delete .* compaction"):
        wire.unless_refused(outcome.answers[1])


def test_leases_of_a_transaction_leave_a_put_behind_them_refused_and_not_the_member_stopped() -> None:
    """The put was let in unseen, for each command before it might have made one lease; its refusal then stopped every member for good."""
    cluster = Cluster(1, max_bytes=20_000, max_request_bytes=10_000)
    leases = ops.Txn(then=[ops.Put(f"{number:03}", "", ttl=60) for number in range(100)])
    assert statuses(cluster.block([cluster.batch([leases, ops.Put("k", bytes(9000))])])) == ["", "QuotaExceeded"]
    assert statuses(cluster.block([cluster.batch([ops.Put("k", bytes(6000))])])) == [""]


def test_what_expires_makes_room_too() -> None:
    cluster = Cluster(1, max_bytes=1000, max_request_bytes=500)
    put = ops.Put("k", bytes(400), ttl=1)
    assert statuses(cluster.block([cluster.batch([put, put])])) == ["", "QuotaExceeded"]
    cluster.log.time += SECOND
    assert statuses(cluster.block([cluster.batch([])])) == []
    assert (len(cluster.log.machine.leases), cluster.log.machine.store.live) == (0, 0)
    assert statuses(cluster.block([cluster.batch([ops.Compact(3), put])])) == ["", ""]


# -- expectations ---------------------------------------------------------------------------------------------------------------------


def test_an_expectation_decides_whether_anything_is_done_and_a_conflict_shows_what_there_is() -> None:
    log = Log()
    present = (b"k", b"1", 2, 2, 1, 0)
    answers = log.once(
        ops.Put("k", "1", if_mod_revision=0),
        ops.Put("k", "2", if_mod_revision=0),
        ops.Delete("k", if_mod_revision=3),
        ops.Put("k", "2", if_mod_revision=2),
        ops.Delete("k", if_mod_revision=3, prev_kv=True),
        ops.Delete("k", if_mod_revision=3),
        ops.Delete("k", if_mod_revision=0),
        ops.Put("k", "3", if_mod_revision=0, ttl=5),
    )
    assert answers[0] == (OK, 2, None)
    assert answers[1] == (7, (b"k", 0), present)
    assert answers[2] == (7, (b"k", 3), present)
    assert answers[3] == (OK, 3, None)
    assert answers[4] == (OK, 4, 1, ((b"k", b"2", 2, 3, 2, 0),))
    assert answers[5] == (7, (b"k", 3), None)
    assert answers[6] == (OK, 4, 0, ())
    assert answers[7] == (OK, 5, None)
    with pytest.raises(errors.Conflict) as conflict:
        wire.unless_refused(codec.unpack(codec.pack(answers[1])))
    assert conflict.value.current is not None
    assert conflict.value.current.mod_revision == 2


def test_an_expectation_that_fails_takes_its_transaction_with_it() -> None:
    log = Log()
    log.once(ops.Put("k", "1"))
    txn = ops.Txn(then=[ops.Put("a", "x", ttl=5), ops.Put("k", "2", if_mod_revision=7)])
    (answer,) = log.once(txn)
    assert answer[0] == 7
    assert (log.machine.store.revision, len(log.machine.leases), list(log.machine.store.keys)) == (2, 0, [b"k"])


def test_an_expectation_sees_what_its_transaction_did_before() -> None:
    log = Log()
    (answer,) = log.once(ops.Txn(then=[ops.Txn(then=[ops.Put("a", "1")]), ops.Put("b", "1", if_mod_revision=0), ops.Get("a")]))
    assert answer[3][1:] == ((OK, 2, None), (OK, (b"a", b"1", 2, 2, 1, 0)))


# -- leases and entries ---------------------------------------------------------------------------------------------------------------


def test_leases_expire_behind_the_commands_of_an_entry_and_every_entry_will_do() -> None:
    cluster = Cluster(1)
    cluster.block([cluster.batch([ops.Grant(1, SECOND, 7), ops.Grant(2, SECOND, 0), ops.Put("k", "", lease=1), ops.Put("l", "", lease=2)])])
    cluster.log.time += SECOND
    (outcome,) = cluster.block([cluster.batch([ops.KeepAlive(7), ops.Get("l")])])
    assert outcome.answers == ((OK, 1), (OK, (b"l", b"", 3, 3, 1, 2))), "they still came in time"
    assert list(cluster.log.machine.store.keys) == [b"k", b"l"]
    assert [lease.id for lease in cluster.log.machine.leases] == [1]
    cluster.log.time += SECOND
    cluster.log.apply(EntryKind.BLOCK, codec.encode_block([]))
    assert cluster.log.machine.ended_leases == [2, 1]
    assert cluster.log.machine.store.events[-1] == (b"k", None, 0, 5, 0, 1)


def test_keys_hang_on_their_leases_again_behind_a_restart() -> None:
    cluster = pair(ops.Grant(1, SECOND, 0), ops.Put("a", "", lease=1), ops.Put("b", "", lease=1), ops.Put("a", ""), ops.Put("c", "", ttl=1))
    cluster.others[0].restart()
    leases = cluster.others[0].machine.leases
    assert {lease.id: list(lease.keys) for lease in leases} == {1: [b"b"], 2: [b"c"]}
    cluster.log.time += SECOND
    cluster.block([])
    assert seen(cluster.others[0].machine) == seen(cluster.log.machine)
    assert cluster.others[0].machine.store.live == len("a") + 64


def test_a_lease_is_described_as_of_a_cluster_time() -> None:
    cluster = Cluster(0)
    cluster.block([cluster.batch([ops.Grant(1, 10 * SECOND, 7), ops.Grant(2, 10 * SECOND, 0), ops.Put("k", "", lease=1)])])
    machine = cluster.log.machine
    assert machine.describe(machine.leases[1], 4 * SECOND) == (1, 10.0, 6.0, 1, True)
    assert machine.describe(machine.leases[2], 40 * SECOND) == (2, 10.0, 0.0, 0, False)
