"""``lease.py`` and what ``txn.Writer`` does with it, against plain dictionaries: who lives until when, and which keys end with whom."""

from __future__ import annotations

from typing import Any, NamedTuple

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from model_kv import carry_out

from replkv import errors, kv, ops, txn, wire
from replkv.kv import Store, run
from replkv.lease import LEASE_BYTES, NOBODY, Leases, Row
from replkv.ops import KEEP
from replkv.txn import Writer
from replkv.wire import Raw

SECOND = 1_000_000


class Member:
    """A store with leases and their writer, driven as the machine drives them."""

    def __init__(self) -> None:
        self.store = Store()
        self._go_on_with(Leases(), 0)

    def _go_on_with(self, leases: Leases, time: int) -> None:
        self.leases = leases
        self.writer = Writer(self.store, leases)
        self.writer.max_bytes = 1 << 60
        self.writer.time = time

    def execute(self, packed: Raw) -> Raw:
        return carry_out(self.writer, packed)

    def do(self, operation: ops.Packable[Any]) -> Any:
        """Return an operation's result, or raise what it is refused with."""
        return operation.result(wire.unless_refused(self.execute(operation.to_wire())))

    def pass_time(self, micros: int) -> None:
        """Let an entry come that much later."""
        self.writer.time += micros
        run(self.writer.expire())

    def reload(self) -> None:
        """Go on with what comes back from the rows of a dump."""
        leases = Leases()
        leases.last_id = self.leases.last_id
        leases.load(*self.leases.rows())
        for record in self.store.newest.values():
            if record[kv.VALUE] is not None and record[kv.LEASE]:
                assert record[kv.LEASE] in leases
                leases.hang(record[kv.KEY], record[kv.LEASE])
        assert leases.rows() == self.leases.rows()
        self._go_on_with(leases, self.writer.time)

    def hanging(self) -> dict[int, list[bytes]]:
        return {lease.id: sorted(lease.keys) for lease in self.leases}


# -- the model ------------------------------------------------------------------------------------------------------------------------


class Granted(NamedTuple):
    """What the model knows of a lease."""

    ttl: int
    keeper: int
    renewed: int
    passing: bool


class Model:
    """Leases as a dictionary, least recently renewed first; ``keys`` has the lease of each key, 0 for none."""

    def __init__(self) -> None:
        self.time = 0
        self.last_id = 0
        self.leases: dict[int, Granted] = {}
        self.keys: dict[bytes, int] = {}
        self.kept_alive: dict[int, int] = {}
        self.expired: list[tuple[int, list[bytes]]] = []

    def deadline(self, number: int) -> int:
        lease = self.leases[number]
        return max(lease.renewed, self.kept_alive.get(lease.keeper, 0)) + lease.ttl

    def hanging(self) -> dict[int, list[bytes]]:
        return {number: sorted(key for key, lease in self.keys.items() if lease == number) for number in self.leases}

    def first(self) -> int | None:
        """Who is over first: by deadline, keeper and ttl, then the least recently renewed, which stands first anyway."""
        return min(self.leases, key=lambda number: (self.deadline(number), *self.leases[number][1::-1]), default=None)

    def grant(self, number: int, ttl: int, keeper: int, *, passing: bool = False) -> int:
        if not number:
            number = self.last_id + 1
            while number in self.leases:
                number += 1
            self.last_id = number
        self.leases[number] = Granted(ttl, keeper, self.time, passing)
        return number

    def hang(self, keys: dict[bytes, int | None]) -> None:
        """Hang keys on leases, by one command; None deletes a key."""
        for key, number in keys.items():
            if number is None:
                self.keys.pop(key, None)
            else:
                self.keys[key] = number
        for number, left in self.hanging().items():
            if self.leases[number].passing and not left:
                self.drop(number)

    def drop(self, number: int) -> None:
        keeper = self.leases.pop(number).keeper
        if all(lease.keeper != keeper for lease in self.leases.values()):
            self.kept_alive.pop(keeper, None)

    def end(self, number: int) -> list[bytes]:
        keys = self.hanging()[number]
        for key in keys:
            del self.keys[key]
        self.drop(number)
        return keys

    def expire(self, most_leases: int, most_keys: int) -> None:
        keys = 0
        for _ in range(most_leases):
            number = self.first()
            if number is None or self.deadline(number) > self.time or keys >= most_keys:
                return
            ended = self.end(number)
            keys += len(ended)
            self.expired.append((number, ended))


KEYS = [b"a", b"b", b"c", b"d", b"e"]
IDS = [1, 2, 3, 9]
TTLS = [2, 3, 5]
KEEPERS = [NOBODY, 1, 2]

keys = st.sampled_from(KEYS)
ids = st.sampled_from(IDS)
seconds = st.sampled_from(TTLS)


class AgainstTheModel(RuleBasedStateMachine):
    """Leases live and end as the model's, whatever happens to them and to their keys."""

    @initialize(most_leases=st.sampled_from([1, 2, 256]), most_keys=st.sampled_from([1, 2, 4096]))
    def begin(self, most_leases: int, most_keys: int) -> None:
        self.patch = pytest.MonkeyPatch()
        self.patch.setattr(txn, "EXPIRIES", most_leases)
        self.patch.setattr(txn, "EXPIRED_KEYS", most_keys)
        self.bounds = (most_leases, most_keys)
        self.member, self.model = Member(), Model()

    def teardown(self) -> None:
        if hasattr(self, "patch"):
            self.patch.undo()

    def _refused(self, operation: ops.Packable[Any], kind: type[errors.Rejected]) -> None:
        with pytest.raises(kind):
            self.member.do(operation)

    @rule(number=st.sampled_from([0, 0, *IDS]), ttl=seconds, keeper=st.sampled_from(KEEPERS))
    def grant(self, number: int, ttl: int, keeper: int) -> None:
        operation = ops.Grant(number, ttl * SECOND, keeper)
        if number in self.model.leases:
            self._refused(operation, errors.LeaseExists)
        else:
            assert self.member.do(operation) == (self.model.grant(number, ttl * SECOND, keeper), ttl * SECOND)

    @rule(number=ids, keeper=st.sampled_from(KEEPERS))
    def renew(self, number: int, keeper: int) -> None:
        lease = self.model.leases.pop(number, None)
        if lease is None:
            self._refused(ops.Renew(number, keeper), errors.LeaseNotFound)
            return
        if all(other.keeper != lease.keeper for other in self.model.leases.values()):
            self.model.kept_alive.pop(lease.keeper, None)
        self.model.leases[number] = lease._replace(renewed=self.model.time, keeper=keeper or lease.keeper)
        assert self.member.do(ops.Renew(number, keeper)) == (number, lease.ttl)

    @rule(keeper=st.sampled_from(KEEPERS))
    def keep_alive(self, keeper: int) -> None:
        kept = sum(lease.keeper == keeper != NOBODY for lease in self.model.leases.values())
        if kept:
            self.model.kept_alive[keeper] = self.model.time
        assert self.member.do(ops.KeepAlive(keeper)) == kept

    @rule(number=ids)
    def revoke(self, number: int) -> None:
        if number not in self.model.leases:
            self._refused(ops.Revoke(number), errors.LeaseNotFound)
            return
        revision, events = self.member.store.revision, len(self.member.store.events)
        ended = self.model.end(number)
        assert self.member.do(ops.Revoke(number)) == len(ended)
        self._buried(events, [(revision + 1, key, 0) for key in ended])

    @rule(key=keys, number=st.sampled_from([0, *IDS]))
    def put(self, key: bytes, number: int) -> None:
        operation = ops.Put(key, b"1", lease=number or None)
        if number and number not in self.model.leases:
            self._refused(operation, errors.LeaseNotFound)
        else:
            self.member.do(operation)
            self.model.hang({key: number})

    @rule(key=keys, how=st.integers(0, 2))
    def keep(self, key: bytes, how: int) -> None:
        """Change a key in a way that leaves it on its lease."""
        operation = (ops.Add(key), ops.Put(key, b"2", lease=KEEP), ops.Put(key, KEEP, lease=KEEP))[how]
        if how and key not in self.model.keys:
            self._refused(operation, errors.KeyNotFound)
        else:
            self.member.do(operation)
            self.model.keys.setdefault(key, 0)

    @rule(key=keys, ttl=seconds)
    def put_with_ttl(self, key: bytes, ttl: int) -> None:
        self.member.do(ops.Put(key, b"1", ttl=ttl))
        self.model.hang({key: self.model.grant(0, ttl * SECOND, NOBODY, passing=True)})

    @rule(choices=st.lists(st.integers(0, 7), min_size=len(KEYS), max_size=len(KEYS)))
    def transaction(self, choices: list[int]) -> None:
        """Move, delete and attach several keys at once: also between leases that end with their last key."""
        steps: list[ops.Operation] = []
        hung: dict[bytes, int | None] = {}
        there = list(self.model.leases)
        for key, choice in zip(KEYS, choices, strict=True):
            if choice == 1:
                steps.append(ops.Delete(key))
                hung[key] = None
            elif choice == 2:
                steps.append(ops.Put(key, b"3", ttl=TTLS[-1]))
                hung[key] = self.model.grant(0, TTLS[-1] * SECOND, NOBODY, passing=True)
            elif choice > 2:
                number = there[choice % len(there)] if there else 0
                steps.append(ops.Put(key, b"4", lease=number or None))
                hung[key] = number
        self.member.do(ops.Txn(then=steps))
        self.model.hang(hung)

    @rule(keys=st.sets(keys), number=ids)
    def refused_transaction(self, keys: set[bytes], number: int) -> None:
        """What a transaction that is refused at its end did before leaves no trace."""
        steps: list[ops.Operation] = [ops.Put(key, b"5", ttl=1.0) for key in sorted(keys)]
        if number in self.model.leases:
            steps.append(ops.Put(b"z", b"", lease=number))
        self._refused(ops.Txn(then=[*steps, ops.Get("a", revision=1 << 40)]), errors.FutureRevision)

    @rule(start=keys)
    def delete(self, start: bytes) -> None:
        self.member.do(ops.Delete(start=start))
        self.model.hang({key: None for key in KEYS if key >= start})

    @rule(micros=st.sampled_from([0, 1, SECOND - 1, SECOND, 2 * SECOND, 4 * SECOND]))
    def pass_time(self, micros: int) -> None:
        store, model = self.member.store, self.model
        revision, events = store.revision, len(store.events)
        self.member.writer.ended.clear()
        model.time += micros
        model.expired.clear()
        model.expire(*self.bounds)
        self.member.pass_time(micros)
        assert self.member.writer.ended == [number for number, _ in model.expired]
        buried = []
        for number, ended in model.expired:
            revision += bool(ended)
            buried += [(revision, key, number) for key in ended]
        self._buried(events, buried)

    def _buried(self, events: int, expected: list[tuple[int, bytes, int]]) -> None:
        """Check what was deleted: all keys of a lease at one revision, in order, each with the lease whose expiry did it."""
        assert [(r[kv.MOD], r[kv.KEY], r[kv.LEASE], r[kv.VALUE]) for r in self.member.store.events[events:]] == [
            (*one, None) for one in expected
        ]

    @rule()
    def look(self) -> None:
        """A leader looks for who is over first, the others don't: it makes no difference."""
        first = self.member.leases.next
        assert (first and first.id) == self.model.first()

    @rule()
    def reload(self) -> None:
        self.member.reload()

    @invariant()
    def alike(self) -> None:
        if not hasattr(self, "model"):
            return
        leases, model = self.member.leases, self.model
        assert self.member.hanging() == model.hanging()
        assert {lease.id: (leases.deadline(lease), Granted(*_fields(lease))) for lease in leases} == {
            number: (model.deadline(number), lease) for number, lease in model.leases.items()
        }
        assert ([lease.id for lease in leases], leases.last_id) == (list(model.leases), model.last_id)
        assert (len(leases), leases.size) == (len(model.leases), LEASE_BYTES * len(model.leases))
        assert len(leases._queues) == len(leases._heads) <= len(leases)
        assert dict(leases.rows()[1]) == model.kept_alive


def _fields(lease: Any) -> tuple[int, int, int, bool]:
    return lease.ttl, lease.keeper, lease.renewed, lease.passing


TestAgainstTheModel = AgainstTheModel.TestCase
TestAgainstTheModel.settings = settings(max_examples=400, stateful_step_count=14, deadline=None)


# -- one by one -----------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def member() -> Member:
    return Member()


def granted(member: Member, *numbers: int, ttl: int = 10, keeper: int = NOBODY) -> None:
    for number in numbers:
        member.do(ops.Grant(number, ttl * SECOND, keeper))


def test_a_lease_lives_for_exactly_its_ttl(member: Member) -> None:
    granted(member, 1)
    member.do(ops.Put("k", "v", lease=1))
    member.pass_time(10 * SECOND - 1)
    assert 1 in member.leases
    member.pass_time(1)
    assert member.hanging() == {}
    assert member.store.get(b"k", member.store.revision) is None


def test_one_keep_alive_renews_all_leases_of_a_keeper_and_nobody_elses(member: Member) -> None:
    granted(member, 1, 2, keeper=7)
    granted(member, 3, keeper=8)
    granted(member, 4)
    member.pass_time(6 * SECOND)
    assert [member.do(ops.KeepAlive(keeper)) for keeper in (7, 9, NOBODY)] == [2, 0, 0]
    member.pass_time(4 * SECOND)
    assert list(member.hanging()) == [1, 2]
    member.pass_time(6 * SECOND)
    assert len(member.leases) == 0


def test_who_renews_a_lease_for_a_keeper_takes_it_over(member: Member) -> None:
    granted(member, 1, keeper=7)
    member.do(ops.Renew(1, 8))
    assert [member.do(ops.KeepAlive(keeper)) for keeper in (7, 8)] == [0, 1]
    member.do(ops.Renew(1, NOBODY))
    assert [member.do(ops.KeepAlive(keeper)) for keeper in (7, 8)] == [0, 1]


def test_leases_expire_in_the_order_of_their_deadlines_each_at_a_revision_of_its_own(member: Member) -> None:
    for number, ttl in ((5, 30), (6, 10), (7, 20)):
        granted(member, number, ttl=ttl)
        for place in "ab":
            member.do(ops.Put(f"{place}{number}", "", lease=number))
    revision = member.store.revision
    member.pass_time(60 * SECOND)
    gone = [(record[kv.MOD] - revision, record[kv.KEY], record[kv.LEASE]) for record in member.store.events if record[kv.VALUE] is None]
    assert gone == [(1, b"a6", 6), (1, b"b6", 6), (2, b"a7", 7), (2, b"b7", 7), (3, b"a5", 5), (3, b"b5", 5)]


def test_what_is_over_bounds_later_entries_too_and_none_is_forgotten(member: Member, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(txn, "EXPIRIES", 3)
    monkeypatch.setattr(txn, "EXPIRED_KEYS", 4)
    granted(member, *range(1, 8))
    for number in range(20):
        member.do(ops.Put(f"{number:02}", "", lease=1 + number % 2))
    member.pass_time(10 * SECOND)
    left = [list(member.hanging())]
    while left[-1]:
        member.pass_time(0)
        left.append(list(member.hanging()))
    assert left == [[2, 3, 4, 5, 6, 7], [3, 4, 5, 6, 7], [6, 7], []], "a lease of 10 keys is one too many, one without keys is not"


def test_a_lease_of_many_keys_ends_in_slices_and_at_one_revision(member: Member) -> None:
    granted(member, 1)
    for number in range(1000):
        member.do(ops.Put(f"{number:03}", "", lease=1))
    revision, member.writer.time = member.store.revision, 10 * SECOND
    assert sum(1 for _ in member.writer.expire()) >= 4
    assert {record[kv.MOD] for record in member.store.events[1000:]} == {revision + 1} == {member.store.revision}


def test_a_keeper_can_not_revoke_what_somebody_else_has_taken_over_meanwhile(member: Member) -> None:
    granted(member, 7, keeper=1)
    member.do(ops.Renew(7, 2))
    with pytest.raises(errors.LeaseNotFound):
        member.do(ops.Revoke(7, 1))
    assert 7 in member.leases
    member.do(ops.Revoke(7, 2))
    assert 7 not in member.leases


@pytest.mark.parametrize("looks", [False, True])
def test_the_order_of_expiry_does_not_depend_on_who_has_looked_or_restarted(member: Member, looks: bool) -> None:
    """It did: lease 9 stood for its queue after it was gone, so a member that had been restarted ended 3 before 5, the others after it."""
    granted(member, 9, keeper=1)
    granted(member, 5, keeper=2)
    granted(member, 3, keeper=1)
    if looks:
        assert member.leases.next is not None
    member.do(ops.Revoke(9))
    other = Member()
    other.leases.load(*member.leases.rows())
    for each in (member, other):
        each.pass_time(10 * SECOND)
    assert member.writer.ended[1:] == other.writer.ended == [3, 5]


def test_a_passing_lease_that_is_given_another_key_by_the_same_transaction_goes_on(member: Member) -> None:
    """It ended with its first key, and the second one hung on nothing: no snapshot of that state could be loaded again."""
    member.do(ops.Put("a", "1", ttl=10))
    member.do(ops.Txn(then=[ops.Put("a", "2"), ops.Put("b", "1", lease=1)]))
    assert member.hanging() == {1: [b"b"]}
    member.do(ops.Txn(then=[ops.Delete("b"), ops.Put("c", "1", lease=1)]))
    assert member.hanging() == {1: [b"c"]}
    member.reload()
    member.pass_time(10 * SECOND)
    assert member.store.get(b"c", member.store.revision) is None


def test_who_took_a_passing_lease_over_is_told_that_it_ended_with_its_key(member: Member) -> None:
    """Nobody was: its holder went on to count on it."""
    member.do(ops.Put("a", "1", ttl=10))
    member.do(ops.Renew(1, 7))
    member.reload()
    member.do(ops.Put("a", "2"))
    assert member.hanging() == {}
    assert member.writer.ended == [1]


def test_leases_that_come_and_go_leave_nothing_behind(member: Member) -> None:
    """Each time to live that was ever used took memory until it would have been over, years later perhaps."""
    for number in range(1000):
        member.do(ops.Put("k", "", ttl=1000 + number))
        member.do(ops.Grant(1_000_000 + number, SECOND + number, 1 + number))
        member.do(ops.Revoke(1_000_000 + number))
    leases = member.leases
    assert [len(each) for each in (leases, leases._queues, leases._heads, leases._numbers, leases._kept_alive)] == [1, 1, 1, 0, 0]


def test_when_all_are_renewed_none_ends_earlier_than_its_time_to_live_from_then_on(member: Member) -> None:
    granted(member, 1, 2, ttl=10)
    granted(member, 3, 4, ttl=20, keeper=9)
    member.do(ops.Put("key", "value", lease=2))
    member.pass_time(5 * SECOND)
    member.leases.keep_alive(9, member.writer.time)
    member.pass_time(4 * SECOND)
    member.leases.renew_all(now := member.writer.time)
    member.reload()
    assert [(lease.id, lease.keeper, member.leases.deadline(lease) - now) for lease in member.leases] == [
        (1, NOBODY, 10 * SECOND),
        (2, NOBODY, 10 * SECOND),
        (3, 9, 20 * SECOND),
        (4, 9, 20 * SECOND),
    ]
    assert member.hanging()[2] == [b"key"]
    member.pass_time(10 * SECOND)
    assert list(member.hanging()) == [3, 4]


def test_the_next_lease_is_found_at_once_behind_many_that_are_gone(member: Member) -> None:
    """Each look walked over all places that had been freed: to let 100,000 leases expire took fifteen times as long."""
    leases = member.leases
    for number in range(1, 100_001):
        leases.grant(number, SECOND, 1, number)
    for number in range(1, 100_000):
        leases.remove(leases[number])
    (queue,) = leases._queues.values()
    assert hasattr(queue.leases, "move_to_end"), "a dictionary that is linked"
    assert leases.next is leases[100_000]


def test_ids_the_store_chooses_count_up_past_those_that_are_taken(member: Member) -> None:
    granted(member, 1, 2, 4)
    assert [member.do(ops.Grant(0, SECOND, NOBODY))[0] for _ in range(2)] == [3, 5]
    member.do(ops.Put("k", "", ttl=1))
    member.do(ops.Txn(then=[ops.Put("l", "", ttl=1), ops.Put("m", "", ttl=1)]))
    assert list(member.hanging()) == [1, 2, 4, 3, 5, 6, 7, 8]
    member.pass_time(SECOND)
    assert member.do(ops.Grant(0, SECOND, NOBODY))[0] == 9, "never the same twice"


@pytest.mark.parametrize(
    ("leases", "kept_alive"),
    [
        ([(0, 1, 0, 0, False, None)], []),
        ([(1, 0, 0, 0, False, None)], []),
        ([(1, 1, 0, 0, False, None), (1, 1, 0, 0, False, None)], []),
        ([(1, 1, 0, 5, False, None), (2, 1, 0, 4, False, None)], []),
        ([(1, 1, 7, 0, False, None)], [(8, 0)]),
        ([(1, 1, 7, 0, False, None)], [(7, 0), (7, 1)]),
        ([(1, 1, 0, 0, False, None)], [(0, 1)]),
    ],
)
def test_a_table_no_member_can_have_is_refused(leases: list[Row], kept_alive: list[tuple[int, int]]) -> None:
    with pytest.raises(ValueError, match="can't"):
        Leases().load(leases, kept_alive)
