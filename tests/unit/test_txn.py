"""Commands on a store with leases, against the model: what they answer, and that a refusal in their middle leaves no trace."""

from __future__ import annotations

from collections.abc import Generator
from typing import TypeVar

import pytest
from hypothesis import note, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from model_kv import LEASES, Dice, Model, carry_out, long_throws, same

from replkv import errors, kv, ops, txn, wire
from replkv.kv import Selection, Store, run
from replkv.lease import LEASE_BYTES, Leases
from replkv.ops import KEEP, Key
from replkv.txn import Reader, Writer
from replkv.values import DeleteResult, KeyValue, PutResult
from replkv.wire import Raw

T = TypeVar("T")
SECOND = 1_000_000


class Member:
    """A store with leases, and what carries out commands on them as the machine does."""

    def __init__(self, max_bytes: int = 1 << 60) -> None:
        self.store = Store()
        self.leases = Leases()
        self.writer = Writer(self.store, self.leases)
        self.writer.max_bytes = max_bytes

    def execute(self, packed: Raw) -> Raw:
        return carry_out(self.writer, packed)

    def do(self, operation: ops.Packable[T]) -> T:
        """Return an operation's result, or raise what it is refused with."""
        return operation.result(wire.unless_refused(self.execute(operation.to_wire())))

    def get(self, key: bytes) -> Raw | None:
        return self.store.get(key, self.store.revision)

    def pass_time(self, seconds: float) -> None:
        self.writer.time += round(seconds * SECOND)
        run(self.writer.expire())

    def hanging(self) -> dict[int, list[bytes]]:
        return {lease.id: sorted(lease.keys) for lease in self.leases}


class AgainstTheModel(RuleBasedStateMachine):
    """Every command does to keys and leases what it does to the model's, or nothing at all."""

    def __init__(self) -> None:
        super().__init__()
        self.real = (kv.SLICE, txn.SLICE)
        self.member, self.model = Member(), Model()
        self.scrubbing: Generator[None, None, None] | None = None

    @initialize(max_bytes=st.sampled_from([1 << 60, 520, 900, 2500]), piece=st.sampled_from([256, 1, 2]))
    def begin(self, max_bytes: int, piece: int) -> None:
        self.member.writer.max_bytes = self.model.max_bytes = max_bytes
        kv.SLICE = txn.SLICE = piece
        for operation in (ops.Grant(1, 5 * SECOND, 1), ops.Put("a", "7"), ops.Put("b", "x", lease=1), ops.Put("c", "y", ttl=5)):
            self._execute(operation.to_wire())

    @rule(thrown=long_throws)
    def go_on(self, thrown: bytes) -> None:
        dice = Dice(thrown, self.model)
        commands = [self.transaction, self.transaction, self.commands, self.lease, self.lease, self.compact]
        dice.of([*commands, *commands, self.pass_time, self.pass_time, self.scrub, self.restart, self.read, self.read])(dice)

    def _execute(self, packed: Raw) -> None:
        note(packed)
        answer, expected = self.member.execute(packed), self.model.execute(packed)
        assert same(answer, expected), (packed, answer, expected)
        self._same_leases_ended()

    def _same_leases_ended(self) -> None:
        assert sorted(self.member.writer.ended) == sorted(self.model.ended)
        self.member.writer.ended.clear()
        self.model.ended.clear()

    # -- commands --

    def transaction(self, dice: Dice) -> None:
        self._execute(dice.txn(dice.simple).to_wire())

    def commands(self, dice: Dice) -> None:
        for _ in range(1 + dice.below(4)):
            self._execute(dice.simple().to_wire())

    def lease(self, dice: Dice) -> None:
        number, keeper = dice.of([*self.model.leases, *LEASES]), dice.below(3)
        grant = ops.Grant(dice.of([0, *LEASES]), (3 + dice.below(3)) * SECOND, keeper)
        choices: list[ops.Packable[object]] = [grant, ops.Renew(number, keeper), ops.KeepAlive(keeper), ops.Revoke(number)]
        self._execute(dice.of(choices).to_wire())

    def compact(self, dice: Dice) -> None:
        self._execute(ops.Compact(max(0, self.model.revision + 1 - dice.below(7))).to_wire())

    # -- what goes on between them --

    def pass_time(self, dice: Dice) -> None:
        seconds, looks = dice.of([1, 2, 0, 1, 1, 3600]), dice.below(2)
        note(f"after {seconds} seconds")
        if looks:
            _ = self.member.leases.next  # the leader looks more often than the others
        self.member.pass_time(seconds)
        self.model.expire(self.model.time + seconds * SECOND)
        assert self.member.writer.ended == self.model.ended, "in another order"
        self._same_leases_ended()

    def scrub(self, dice: Dice) -> None:
        if self.scrubbing is None and self.member.store.unscrubbed:
            self.scrubbing = self.member.store.scrub()
        for _ in range(1 + dice.below(6)):
            if self.scrubbing is not None and next(self.scrubbing, self) is self:
                self.scrubbing = None

    def restart(self, _: Dice) -> None:
        """Put in the place of the leases what comes back from their rows."""
        note("restarted")
        member, leases = self.member, Leases()
        leases.load(*member.leases.rows())
        leases.last_id = member.leases.last_id
        for lease in member.leases:
            for key in lease.keys:
                leases.hang(key, lease.id)
        member.leases = member.writer._leases = leases

    def read(self, dice: Dice) -> None:
        revision = max(1, self.model.compacted, self.model.revision - dice.below(6))
        past = self.model.as_of(revision)
        packed = dice.txn(dice.read).to_wire()
        note((revision, packed))
        reader = Reader(self.member.store, revision)
        try:
            answer = run(reader.execute(packed))
        except errors.Rejected as refused:
            answer = wire.refused(refused)
        assert same(answer, past.execute(packed)), packed
        assert self.model.compacted <= reader.oldest <= revision

    # -- always --

    @invariant()
    def nothing_is_left_half_done(self) -> None:
        store, model = self.member.store, self.model
        assert (store.revision, store.latest, store.size, store.live) == (model.revision, model.revision, model.size(), model.live)
        assert (store.moved, self.member.writer._promised) == ([], [])
        assert store.size - store._superseded + store._freed == model.live

    @invariant()
    def leases_agree(self) -> None:
        leases, model = self.member.leases, self.model
        assert self.member.hanging() == {number: model.keys_of(number) for number in model.leases}
        assert [lease.id for lease in leases] == list(model.leases)
        assert [leases.deadline(lease) for lease in leases] == list(map(model.deadline, model.leases.values()))
        assert (leases.last_id, leases.size) == (model.last_id, LEASE_BYTES * len(model.leases))

    def teardown(self) -> None:
        kv.SLICE, txn.SLICE = self.real
        for revision in range(max(1, self.model.compacted), self.model.revision + 1):
            expected = self.model.span(b"", None, revision)
            assert run(self.member.store.scan((b"", None), revision, Selection())) == (tuple(expected), len(expected), False)
        kept = [record for record in self.member.store.events if record[kv.MOD] >= self.model.compacted]
        assert kept == self.model.history  # in this order, and with the leases whose expiry deleted keys


TestAgainstTheModel = pytest.mark.timeout(900)(AgainstTheModel.TestCase)
TestAgainstTheModel.settings = settings(max_examples=400, stateful_step_count=25, deadline=None)


# -- transactions -------------------------------------------------------------------------------------------------------------------------


def test_a_refusal_in_the_middle_takes_back_what_keys_and_leases_had_become() -> None:
    member = Member()
    member.do(ops.Grant(1, 5 * SECOND, 0))
    member.do(ops.Grant(2, 5 * SECOND, 0))
    member.do(ops.Put("moves", "", lease=1))
    member.do(ops.Put("leaves", "", lease=1))
    member.do(ops.Put("passes", "", ttl=5))
    before = (member.hanging(), member.store.size, list(member.store.events), member.leases.last_id)
    steps: list[ops.Operation] = [
        ops.Put("moves", "", lease=2),
        ops.Put("leaves", ""),
        ops.Delete("passes"),
        ops.Put("new", "", ttl=5),
        ops.Txn(then=[ops.Put("inner", "", lease=2)]),
    ]
    for last in (ops.Put("last", "", lease=99), ops.Put("last", KEEP), ops.Put("last", "", if_mod_revision=1), ops.Get("x", revision=99)):
        with pytest.raises(errors.Rejected):
            member.do(ops.Txn(then=[*steps, last]))
        assert (member.hanging(), member.store.size, list(member.store.events), member.leases.last_id) == before
    member.do(ops.Txn(then=steps))
    assert member.hanging() == {1: [], 2: [b"inner", b"moves"], 4: [b"new"]}


def test_a_transaction_sees_its_own_writes_and_older_revisions_without_them() -> None:
    member = Member()
    assert member.do(ops.Put("a", "1")).revision == 2
    steps: list[ops.Operation] = [
        ops.Get("a"),
        ops.Put("a", "2"),
        ops.Get("a"),
        ops.Get("a", revision=2),
        ops.Delete(prefix="b"),
        ops.Put("c", "1"),
        ops.Scan(sort_by="mod", descending=True, limit=1),
        ops.Scan(revision=2, count_only=True),
    ]
    first, put, second, old, none, _, scan, count = member.do(ops.Txn(then=steps)).responses
    assert ([pair.text for pair in (first, second, old)], put.revision, none.deleted) == (["1", "2", "1"], 3, 0)
    assert ([pair.key for pair in scan], scan.count, scan.more, scan.revision, count.count) == ([b"a"], 2, True, 3, 1)
    with pytest.raises(errors.FutureRevision):
        member.do(ops.Txn(then=[ops.Put("a", "3"), ops.Get("a", revision=4)]))


def test_a_transaction_that_changes_nothing_makes_no_revision() -> None:
    member = Member()
    member.do(ops.Put("a", "1"))
    idle = ops.Txn(compare=[Key("a").missing], then=[ops.Put("a", "2")], otherwise=[ops.Delete("b"), ops.Get("a")])
    assert member.do(idle).revision == member.store.revision == 2


def test_compares_of_all_levels_look_at_the_state_before() -> None:
    member = Member()
    inner = ops.Txn(compare=[Key("a").missing], then=[ops.Put("b", "then")], otherwise=[ops.Put("b", "otherwise")])
    result = member.do(ops.Txn(compare=[Key("a").version == 0], then=[ops.Put("a", "1"), inner]))
    assert (result.succeeded, result.responses[1].succeeded) == (True, True)
    assert member.get(b"b") == (b"b", b"then", 2, 2, 1, 0)


def test_leases_can_be_compared_and_a_passing_one_has_a_number_too() -> None:
    member = Member()
    member.do(ops.Grant(9, 5 * SECOND, 0))
    member.do(ops.Put("a", "", lease=9))
    member.do(ops.Put("b", "", ttl=5))
    holds = [Key("a").lease == 9, Key("b").lease == 1, Key("b").lease > 0, Key("none").lease == 0, Key(prefix="").lease != 3]
    assert all(member.do(ops.Txn(compare=[compare])).succeeded for compare in holds)
    assert not member.do(ops.Txn(compare=[Key(start="a").lease == 9])).succeeded


def test_a_conflict_tells_what_the_key_holds_now() -> None:
    member = Member()
    member.do(ops.Put("a", "1"))
    member.do(ops.Put("a", "2"))
    current = KeyValue(b"a", b"2", 2, 3, 2, 0)
    for operation in (
        ops.Put("a", "3", if_mod_revision=2),
        ops.Put("a", KEEP, ttl=5, if_mod_revision=0),
        ops.Delete("a", if_mod_revision=4),
        ops.Txn(then=[ops.Put("b", "1"), ops.Txn(then=[ops.Delete("a", if_mod_revision=2)])]),
    ):
        with pytest.raises(errors.Conflict, match="b'a' is at revision 3") as conflict:
            member.do(operation)
        assert conflict.value.current == current
    with pytest.raises(errors.Conflict, match="b'b' is not there, not at revision 3") as conflict:
        member.do(ops.Put("b", "", if_mod_revision=3))
    assert conflict.value.current is None
    assert member.do(ops.Put("a", "3", if_mod_revision=3)).revision == 4
    assert member.do(ops.Delete("a", if_mod_revision=4)).deleted == 1
    assert member.do(ops.Put("a", "new", if_mod_revision=0)).revision == 6


def test_an_expectation_within_a_transaction_sees_what_the_transaction_did() -> None:
    member = Member()
    member.do(ops.Put("a", "1"))
    result = member.do(ops.Txn(then=[ops.Delete(prefix="a"), ops.Delete("a", if_mod_revision=0)]))
    assert [response.deleted for response in result.responses] == [1, 0]


def test_a_guarded_write_is_done_while_the_lock_is_the_one_that_was_taken() -> None:
    member = Member()
    guard = ops.Guard("lock", member.do(ops.Put("lock", "mine")).revision)
    member.do(ops.Put("lock", "still mine"))
    assert member.do(ops.Put("a", "1", guard=guard)).revision == 4
    assert member.do(ops.Delete("a", if_mod_revision=4, guard=guard)).deleted == 1
    ends: list[ops.Packable[DeleteResult | PutResult]] = [ops.Delete("lock"), ops.Put("lock", "of somebody else")]
    for end in ends:
        revision = member.do(end).revision
        for operation in (
            ops.Put("b", "1", guard=guard),
            ops.Put("b", "1", ttl=5, guard=guard),
            ops.Put("b", "1", if_mod_revision=7, guard=guard),  # which does not matter any more
            ops.Delete(start="a", guard=guard),
            ops.Txn(then=[ops.Put("c", "1"), ops.Txn(then=[ops.Put("b", "1", guard=guard)])]),
        ):
            with pytest.raises(errors.LockLost, match="the lock b'lock' that was taken at revision 2 is lost: stop what it protects"):
                member.do(operation)
            assert (member.store.revision, member.get(b"b"), member.get(b"c")) == (revision, None, None)


def test_the_key_a_guarded_write_is_about_may_conflict_while_the_lock_is_held() -> None:
    member = Member()
    guard = ops.Guard("lock", member.do(ops.Put("lock", "mine")).revision)
    with pytest.raises(errors.Conflict):
        member.do(ops.Put("a", "1", if_mod_revision=7, guard=guard))


def test_a_guard_within_a_transaction_sees_what_the_transaction_did() -> None:
    member = Member()
    guard = ops.Guard("lock", member.do(ops.Put("lock", "mine")).revision)
    with pytest.raises(errors.LockLost):
        member.do(ops.Txn(then=[ops.Delete("lock"), ops.Put("a", "1", guard=guard)]))
    assert member.get(b"lock") is not None
    assert member.do(ops.Txn(then=[ops.Put("a", "1", guard=guard), ops.Delete("lock", guard=guard)])).revision == 3
    taken = ops.Txn(then=[ops.Put("lock", "again"), ops.Put("a", "2", guard=ops.Guard("lock", 4))])
    assert member.do(taken).revision == 4


def test_a_guard_among_the_compares_chooses_the_branch() -> None:
    member = Member()
    guard = ops.Guard("lock", 2)
    txn = ops.Txn(compare=[guard], then=[ops.Get("lock")])
    assert not member.do(txn)
    member.do(ops.Put("lock", "mine"))
    member.do(ops.Put("lock", "still mine"))
    assert member.do(txn)
    assert run(Reader(member.store, member.store.revision).execute(txn.to_wire()))[2]
    member.do(ops.Delete("lock"))
    member.do(ops.Put("lock", "of somebody else"))
    assert not member.do(txn)


def test_a_lock_that_hangs_on_a_lease_guards_no_longer_than_that() -> None:
    member = Member()
    member.do(ops.Grant(1, 5 * SECOND, 0))
    guard = ops.Guard("lock", member.do(ops.Put("lock", "mine", lease=1)).revision)
    member.pass_time(4)
    member.do(ops.Put("a", "1", guard=guard))
    member.pass_time(2)
    with pytest.raises(errors.LockLost):
        member.do(ops.Put("a", "2", guard=guard))


def test_what_is_to_be_kept_must_be_there() -> None:
    member = Member()
    member.do(ops.Grant(1, 5 * SECOND, 0))
    for put in (ops.Put("a", KEEP), ops.Put("a", "", lease=KEEP), ops.Put("a", KEEP, lease=1), ops.Put("a", KEEP, ttl=5)):
        with pytest.raises(errors.KeyNotFound):
            member.do(put)
    member.do(ops.Put("a", "value", lease=1))
    member.do(ops.Put("a", KEEP, lease=KEEP))
    assert member.get(b"a") == (b"a", b"value", 2, 3, 2, 1)
    member.do(ops.Put("a", KEEP))
    assert (member.get(b"a"), member.hanging()) == ((b"a", b"value", 2, 4, 3, 0), {1: []})


def test_a_counter_keeps_its_lease() -> None:
    member = Member()
    member.do(ops.Grant(1, 5 * SECOND, 0))
    member.do(ops.Put("n", "1", lease=1))
    assert member.do(ops.Add("n", 2)).value == 3
    assert member.hanging() == {1: [b"n"]}


@pytest.mark.parametrize("text", ["", "x", "1.5", " 1", "+1", "-0", "007", "1_0", "\u0661", "9223372036854775808", "99999999999999999999"])
def test_what_is_no_integer_of_64_bits_is_no_counter(text: str) -> None:
    member = Member()
    member.do(ops.Put("n", text))
    with pytest.raises(errors.NotACounter):
        member.do(ops.Add("n"))


def test_a_counter_stays_within_64_bits() -> None:
    member = Member()
    assert member.do(ops.Add("n", (1 << 63) - 1)).value == (1 << 63) - 1
    with pytest.raises(errors.NotACounter):
        member.do(ops.Add("n"))
    member.do(ops.Put("n", "-9223372036854775808"))
    with pytest.raises(errors.NotACounter):
        member.do(ops.Add("n", -1))
    assert member.do(ops.Add("n", 0)).value == -(1 << 63)


# -- quota --------------------------------------------------------------------------------------------------------------------------------


def test_what_is_full_refuses_what_needs_room_and_takes_all_else() -> None:
    member = Member(max_bytes=3 * (kv.RECORD_BYTES + 2) + LEASE_BYTES)
    member.do(ops.Grant(1, 5 * SECOND, 0))
    member.do(ops.Put("a", "1"))
    member.do(ops.Add("n", 1))
    for operation in (ops.Put("b", "12"), ops.Put("b", "", ttl=5), ops.Txn(then=[ops.Put("b", "1"), ops.Add("c")])):
        with pytest.raises(errors.QuotaExceeded):
            member.do(operation)
    member.do(ops.Put("b", "1"))  # just fits
    with pytest.raises(errors.QuotaExceeded):
        member.do(ops.Add("n", 1))
    with pytest.raises(errors.QuotaExceeded):
        member.do(ops.Grant(2, 5, 0))
    assert member.do(ops.KeepAlive(1)) == 0
    member.do(ops.Revoke(1))
    member.do(ops.Delete("b"))
    member.do(ops.Compact(member.store.revision))
    assert member.store.size == 2 * (kv.RECORD_BYTES + 2)
    member.do(ops.Put("b", "1"))


# -- leases -------------------------------------------------------------------------------------------------------------------------------


def test_leases_that_are_over_at_once_end_in_the_same_order_on_a_member_that_looked_before() -> None:
    """The one who looked remembered a head of a queue that was gone meanwhile, and counted its number."""
    members = [Member(), Member()]
    for place, member in enumerate(members):
        for lease, keeper in ((5, 1), (3, 1), (4, 2)):
            member.do(ops.Grant(lease, 5 * SECOND, keeper))
            member.do(ops.Put(f"{lease}", "", lease=lease))
        if place:
            assert member.leases.next is not None
        member.do(ops.Revoke(5))
        member.pass_time(5)
    assert members[0].writer.ended == members[1].writer.ended == [5, 3, 4]
    assert members[0].store.events == members[1].store.events


def test_a_lease_of_a_single_key_that_somebody_keeps_alive_survives_a_snapshot() -> None:
    member, copy = Member(), Leases()
    member.do(ops.Put("a", "", ttl=5))
    member.do(ops.Renew(1, 7))
    copy.load(*member.leases.rows())
    assert copy.rows() == member.leases.rows()


def test_an_expiry_says_so_and_a_revoke_does_not() -> None:
    member = Member()
    for lease in (1, 2):
        member.do(ops.Grant(lease, 5 * SECOND, 0))
        member.do(ops.Txn(then=[ops.Put(f"{lease}b", "", lease=lease), ops.Put(f"{lease}a", "", lease=lease)]))
    member.do(ops.Revoke(1))
    member.pass_time(5)
    assert member.store.events[-4:] == [
        (b"1a", None, 0, 4, 0, 0),
        (b"1b", None, 0, 4, 0, 0),
        (b"2a", None, 0, 5, 0, 2),
        (b"2b", None, 0, 5, 0, 2),
    ]


def test_only_so_many_leases_and_keys_end_with_one_entry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(txn, "EXPIRIES", 3)
    monkeypatch.setattr(txn, "EXPIRED_KEYS", 4)
    member = Member()
    for lease, number in ((1, 1), (2, 3), (3, 1), (4, 0), (5, 0), (6, 0), (7, 0)):
        member.do(ops.Grant(lease, 5 * SECOND, 0))
        for key in range(number):
            member.do(ops.Put(f"{lease}/{key}", "", lease=lease))
    member.pass_time(5)
    assert member.writer.ended == [1, 2]
    member.pass_time(0)
    assert member.writer.ended == [1, 2, 3, 4, 5]
    member.pass_time(0)
    assert len(member.leases) == 0


# -- what takes long ----------------------------------------------------------------------------------------------------------------------


def test_long_commands_are_cut_into_slices() -> None:
    member, many = Member(), range(kv.SLICE * 4)
    member.do(ops.Grant(1, 5 * SECOND, 0))
    for number in many:
        member.do(ops.Put(b"%05d" % number, "", lease=1))
    held = ops.Txn(compare=[Key(prefix="0").lease == 1] * 2, then=[ops.Scan(), ops.Delete(prefix="0")]).to_wire()
    assert sum(1 for _ in member.writer.execute(held)) >= 16
    assert len(member.store.moved) == len(many)
    run(member.writer.rollback())
    assert sum(1 for _ in member.writer.execute(ops.Revoke(1).to_wire())) >= 4
    assert sum(1 for _ in member.writer.commit()) >= 4
    short = [ops.Get("x")] * (txn.SLICE * 3)
    assert sum(1 for _ in member.writer.execute(ops.Txn(then=short).to_wire())) == 3


def test_a_reader_refuses_to_write() -> None:
    for operation in (ops.Put("a", ""), ops.Delete("a"), ops.Add("a"), ops.Txn(then=[ops.Put("a", "", if_mod_revision=0)])):
        with pytest.raises(KeyError):
            run(Reader(Store(), 1).execute(operation.to_wire()))
