"""Transactions as functions: one state is read, all is written at once, and who was overtaken does it again."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from random import Random
from typing import Any

import pytest
from eventual import PATIENCE
from recipes import FAST, awaited

from replkv import (
    AsyncReplica,
    AsyncTransaction,
    Compacted,
    Conflict,
    KeyValue,
    LeaseNotFound,
    LockLost,
    NoLeader,
    NotACounter,
    Put,
    Replica,
    Settings,
    TooManyOps,
    Transaction,
)
from replkv.immediate import Immediate


@pytest.fixture
def replica() -> Iterator[Replica]:
    with Replica(settings=FAST) as replica:
        yield replica


def number(kv: KeyValue | None) -> int:
    return int(kv.value) if kv is not None else 0


def once(act: Callable[[], object]) -> Callable[[], None]:
    """What is done the first time it is called, and not again."""
    done: list[object] = []
    return lambda: None if done else done.append(act())


def test_what_is_written_is_committed_at_one_revision_and_what_is_returned_comes_back(replica: Replica) -> None:
    def move(t: Transaction) -> str:
        assert t.get("a") is None
        t.put("a", "1")
        t.put("b", b"2", ttl=60)
        t.delete("c")
        t.add("d", 3)
        return "moved"

    replica.put("c", "3")
    before = replica.revision
    assert replica.transact(move) == "moved"
    assert replica.revision == before + 1
    assert [(kv.key, kv.value, kv.mod_revision) for kv in replica.scan()] == [
        (b"a", b"1", before + 1),
        (b"b", b"2", before + 1),
        (b"d", b"3", before + 1),
    ]


def test_a_transaction_sees_its_own_writes(replica: Replica) -> None:
    replica.put("a", "1")
    replica.put("n", "5", lease=replica.lease(60))

    def look(t: Transaction) -> None:
        t.put("b", "2")
        assert t.get("b") == KeyValue(b"b", b"2", 0, 0, 0)
        t.delete("a")
        assert t.get("a") is None
        t.add("n", 2)
        counted = t.get("n")
        assert counted is not None
        assert (counted.value, counted.lease) == (b"7", 1)
        t.add("n", 1)
        t.add("new", -1)
        t.add("b", 10)
        assert [(kv.key, kv.value) for kv in t.scan()] == [(b"b", b"12"), (b"n", b"8"), (b"new", b"-1")]
        t.delete("n")
        t.add("n", 1)
        t.put("b", "x")

    replica.transact(look)
    assert {kv.key: kv.value for kv in replica.scan()} == {b"b": b"x", b"n": b"1", b"new": b"-1"}


def test_all_reads_are_of_one_state(replica: Replica) -> None:
    replica.put("a", "1")
    replica.put("b", "1")
    seen: list[tuple[int, int, list[int]]] = []

    @once
    def overtake() -> None:
        replica.txn(then=[])
        replica.put("a", "2")
        replica.put("b", "2")

    def look(t: Transaction) -> None:
        a = number(t.get("a"))
        overtake()
        seen.append((a, number(t.get("b")), [number(kv) for kv in t.scan(prefix="")]))

    replica.transact(look)
    assert seen == [(1, 1, [1, 1]), (2, 2, [2, 2])]


Act = Callable[[Replica], object]


@pytest.mark.parametrize(
    ("read", "change"),
    [
        (lambda t: t.get("a"), lambda r: r.put("a", "2")),
        (lambda t: t.get("a"), lambda r: r.delete("a")),
        (lambda t: t.get("new"), lambda r: r.put("new", "1")),
        (lambda t: t.scan(prefix=""), lambda r: r.put("a", "1")),
        (lambda t: t.scan(prefix=""), lambda r: r.put("new", "1")),
        (lambda t: t.scan(prefix=""), lambda r: r.delete("c")),
        (lambda t: t.scan(start="a", limit=2), lambda r: r.put("aa", "1")),
        (lambda t: t.scan(start="a", limit=2), lambda r: r.delete("b")),
        (lambda t: t.scan(start="a", limit=2, descending=True), lambda r: r.put("d", "1")),
        (lambda t: t.scan(prefix="nothing"), lambda r: r.put("nothing/new", "1")),
        (lambda t: (t.delete("a"), t.scan(start="a", limit=1)), lambda r: r.delete("b")),
        (lambda t: (t.add("a"), t.get("a")), lambda r: r.add("a")),
    ],
)
@pytest.mark.parametrize("writes", [True, False])
def test_what_was_read_and_is_changed_by_others_makes_it_run_again(replica: Replica, read: Any, change: Act, writes: bool) -> None:
    for key in "abc":
        replica.put(key, "1")
    overtake, calls = once(lambda: change(replica)), [0]

    def work(t: Transaction) -> None:
        calls[0] += 1
        read(t)
        overtake()
        if writes:
            t.put("result", "1")

    replica.transact(work)
    assert calls[0] == 2


@pytest.mark.parametrize(
    ("read", "change"),
    [
        (lambda t: t.get("a"), lambda r: r.put("b", "2")),
        (lambda t: t.get("a"), lambda r: r.put("new", "2")),
        (lambda t: t.scan(start="a", limit=2), lambda r: r.put("c", "2")),
        (lambda t: t.scan(start="a", limit=2), lambda r: r.delete("c")),
        (lambda t: t.scan(start="a", limit=2, descending=True), lambda r: r.put("a", "2")),
        (lambda t: t.scan(start="a", end="b"), lambda r: r.put("b", "2")),
        (lambda t: t.add("n"), lambda r: r.add("n")),
        (lambda t: (t.put("a", "3"), t.get("a")), lambda r: r.put("a", "2")),
    ],
)
def test_what_others_change_besides_does_not_matter(replica: Replica, read: Any, change: Act) -> None:
    for key in "abc":
        replica.put(key, "1")
    overtake, calls = once(lambda: change(replica)), [0]

    def work(t: Transaction) -> None:
        calls[0] += 1
        read(t)
        overtake()
        t.put("result", "1")

    replica.transact(work)
    assert calls[0] == 1


def test_scans_show_what_a_model_shows(replica: Replica) -> None:
    chance = Random(7)
    keys = [f"{number:02}".encode() for number in range(30)]
    for _ in range(60):
        replica.delete(start="0")
        stored = chance.sample(keys, 12)
        replica.txn(then=[Put(key, "1") for key in stored])

        def work(t: Transaction, stored: list[bytes] = stored) -> None:
            model = dict.fromkeys(stored, b"1")
            for key in chance.sample(keys, 6):
                match chance.randrange(3):
                    case 0:
                        t.put(key, "2")
                        model[key] = b"2"
                    case 1:
                        t.delete(key)
                        model.pop(key, None)
                    case 2:
                        t.add(key, 4)
                        model[key] = b"%d" % (int(model.get(key, b"0")) + 4)
            start, end = sorted(chance.sample(keys, 2))
            limit, descending = chance.randrange(6), chance.random() < 0.5
            shown = sorted((item for item in model.items() if start <= item[0] < end), reverse=descending)
            found = t.scan(start=start, end=end, limit=limit, descending=descending)
            assert [(kv.key, kv.value) for kv in found] == shown[: limit or None]

        replica.transact(work)


def test_many_threads_move_money_and_none_is_lost(replica: Replica) -> None:
    accounts = [f"account/{number}" for number in range(4)]
    for account in accounts:
        replica.put(account, "100")

    @replica.transact(retries=1000)
    def move(t: Transaction, source: str, target: str, amount: int) -> int:
        left = number(t.get(source)) - amount
        if left < 0:
            return 0
        t.put(source, str(left))
        t.put(target, str(number(t.get(target)) + amount))
        return amount

    def work(seed: int) -> int:
        chance = Random(seed)
        moved = 0
        for _ in range(20):
            source, target = chance.sample(accounts, 2)
            moved += move(source, target, amount=chance.randrange(30))
        return moved

    with ThreadPoolExecutor(8) as pool:
        moved = sum(pool.map(work, range(8), timeout=PATIENCE))
    assert moved > 0
    assert sum(number(kv) for kv in replica.transact(lambda t: t.scan(prefix="account/"))) == 400


def test_who_is_overtaken_each_time_gets_a_conflict_and_has_written_nothing(replica: Replica) -> None:
    calls = [0]

    def work(t: Transaction) -> None:
        calls[0] += 1
        t.get("a")
        replica.put("a", "2")
        t.put("b", "1")

    with pytest.raises(Conflict, match="each of the 4 times"):
        replica.transact(work, retries=3)
    assert calls[0] == 4
    assert replica.get("b") is None
    with pytest.raises(Conflict, match="each of the 1 times"):
        replica.transact(work, retries=0)


def test_an_error_of_the_function_writes_nothing_and_is_raised(replica: Replica) -> None:
    def work(t: Transaction) -> None:
        t.put("a", "1")
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        replica.transact(work)
    assert replica.get("a") is None


def test_an_error_that_an_old_state_made_is_not_raised(replica: Replica) -> None:
    overtake = once(lambda: replica.put("a", "1"))

    def work(t: Transaction) -> bytes:
        kv = t.get("a")
        overtake()
        if kv is None:
            raise LookupError("no such account")
        return kv.value

    assert replica.transact(work) == b"1"


def test_an_interrupt_is_raised_at_once(replica: Replica) -> None:
    def work(t: Transaction) -> None:
        t.put("a", "1")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        replica.transact(work)
    assert replica.get("a") is None


def test_a_state_that_is_compacted_meanwhile_is_read_anew_whatever_the_function_makes_of_it(replica: Replica) -> None:
    replica.put("a", "1")

    @once
    def forget() -> None:
        replica.put("b", "2")
        replica.put("b", "3")
        replica.compact(replica.revision)

    def work(t: Transaction) -> str:
        t.get("a")
        forget()
        try:
            return f"found {number(t.get('b'))}"
        except Compacted:
            return "nothing"

    assert replica.transact(work) == "found 3"


def test_it_is_run_again_on_a_state_that_has_what_overtook_it(replica: Replica) -> None:
    overtake, least = once(lambda: replica.put("a", "1")), []

    def work(t: Transaction) -> None:
        least.append(t._least)
        t.get("a")
        overtake()

    replica.transact(work)
    assert least == [replica.revision - 1, replica.revision]


def test_what_is_added_to_a_put_keeps_what_that_said_besides(replica: Replica) -> None:
    lease = replica.lease(60)

    def work(t: Transaction) -> None:
        t.put("a", "1", lease=lease)
        t.add("a", 2)
        t.put("b", "1", ttl=60)
        t.add("b", 2)

    replica.transact(work)
    assert lease.keys() == (b"a",)
    assert [(kv.value, kv.lease == 0) for kv in replica.scan()] == [(b"3", False), (b"3", False)]


def test_a_transaction_that_only_reads_writes_nothing(replica: Replica, monkeypatch: pytest.MonkeyPatch) -> None:
    replica.put("a", "1")
    monkeypatch.setattr(replica._engine(), "submit", None)
    assert replica.transact(lambda t: number(t.get("a"))) == 1
    assert replica.transact(lambda t: "nothing at all") == "nothing at all"


def test_a_guard_is_not_forgotten_when_the_same_key_is_written_again(replica: Replica) -> None:
    with replica.lock("jobs") as lock:
        guard = lock.guard()

    for again in (lambda t: t.put("a", "2"), lambda t: t.delete("a"), lambda t: t.add("a", 1)):

        def twice(t: Transaction, again: Callable[[Transaction], object] = again) -> None:
            t.put("a", "1", guard=guard)
            again(t)

        with pytest.raises(LockLost):
            replica.transact(twice)
    assert replica.get("a") is None


def test_a_guard_that_is_lost_ends_it(replica: Replica) -> None:
    with replica.lock("x") as lock:
        replica.transact(lambda t: t.put("a", "1", guard=lock))
        guard = lock.guard()
    for write in (lambda t: t.put("a", "2", guard=guard), lambda t: t.delete("a", guard=guard)):
        with pytest.raises(LockLost):
            replica.transact(write)
    assert number(replica.get("a")) == 1


def test_refusals_of_a_write_are_raised_and_nothing_is_written(replica: Replica) -> None:
    replica.put("text", "x")

    def half(act: Callable[[Any], object]) -> Callable[[Transaction], object]:
        def work(t: Transaction) -> object:
            t.put("half", "1")
            return act(t)

        return work

    lease = replica.lease(60)
    lease.revoke()
    refused: list[tuple[type[Exception], Callable[[Any], object]]] = [
        (NotACounter, lambda t: t.add("text")),
        (NotACounter, lambda t: (t.add("text"), t.get("text"))),
        (NotACounter, lambda t: (t.put("new", "x"), t.add("new"))),
        (LeaseNotFound, lambda t: t.put("new", "x", lease=lease)),
        (TooManyOps, lambda t: [t.put(f"k{n}", "1") for n in range(200)]),
        (TooManyOps, lambda t: [t.get(f"k{n}") for n in range(200)]),
        (TypeError, lambda t: t.put("k", 1)),
        (ValueError, lambda t: t.put("", "1")),
        (ValueError, lambda t: t.scan("a", prefix="b")),
        (ValueError, lambda t: t.add("n", 1 << 63)),
    ]
    for error, act in refused:
        with pytest.raises(error):
            replica.transact(half(act))
    assert replica.get("half") is None


def test_it_can_be_used_within_its_function_only(replica: Replica) -> None:
    kept: list[Transaction] = []
    replica.transact(kept.append)
    t = kept[0]
    for use in (lambda: t.get("a"), t.scan, lambda: t.put("a", "1"), lambda: t.delete("a"), lambda: t.add("a")):
        with pytest.raises(RuntimeError, match="is over"):
            use()


def test_bad_arguments_are_refused_at_once(replica: Replica) -> None:
    with pytest.raises(ValueError, match="retries"):
        replica.transact(lambda t: None, retries=-1)
    with pytest.raises(TypeError, match="retries"):
        replica.transact(retries="3")  # type: ignore[call-overload]

    async def work(t: Any) -> None:
        pass

    with pytest.raises(TypeError, match="AsyncReplica"):
        replica.transact(work)  # type: ignore[unused-coroutine]


def test_a_decorated_function_keeps_its_name(replica: Replica) -> None:
    @replica.transact()
    def increase(t: Transaction, by: int = 1) -> int:
        """Increase it."""
        t.put("n", str(number(t.get("n")) + by))
        return number(t.get("n"))

    assert [increase(), increase(by=2), increase(3)] == [1, 3, 6]
    assert (increase.__name__, increase.__doc__) == ("increase", "Increase it.")


def test_a_namespace_has_transactions_of_its_own(replica: Replica) -> None:
    space = replica.namespace("app/")
    replica.put("a", "outer")

    def work(t: Transaction) -> list[bytes]:
        assert t.get("a") is None
        t.put("a", "inner")
        return [kv.key for kv in t.scan()]

    assert space.transact(work) == [b"a"]
    assert [kv.key for kv in replica.scan()] == [b"a", b"app/a"]
    overtake, calls = once(lambda: space.put("b", "1")), [0]

    def again(t: Transaction) -> None:
        calls[0] += 1
        t.scan()
        overtake()

    space.transact(again)
    assert calls[0] == 2


def test_without_a_quorum_nothing_is_written_and_that_is_said(replica: Replica, monkeypatch: pytest.MonkeyPatch) -> None:
    async def refuse(*arguments: Any, **named: Any) -> Any:
        raise NoLeader("nobody leads")

    monkeypatch.setattr(Immediate, "txn", refuse)

    def work(t: Transaction) -> None:
        t.get("a")
        raise ZeroDivisionError

    with pytest.raises(NoLeader) as raised:
        replica.transact(work)
    assert isinstance(raised.value.__cause__, ZeroDivisionError)


def test_settings_bound_how_much_is_read(tmp_path: Any) -> None:
    with Replica(settings=Settings(heartbeat=0.02, promise=0.03, election_timeout=0.3, max_txn_ops=4)) as replica:
        for key in "abcdef":
            replica.put(key, "1")
        assert len(replica.transact(lambda t: t.scan(start="a", limit=3))) == 3
        with pytest.raises(TooManyOps):
            replica.transact(lambda t: t.scan())


# -- asyncio -----------------------------------------------------------------------------------------------------------------------


@awaited
async def test_tasks_count_together(replica: AsyncReplica) -> None:
    @replica.transact(retries=1000)
    async def count(t: AsyncTransaction, key: str) -> int:
        now = number(await t.get(key)) + 1
        await asyncio.sleep(0)
        t.put(key, str(now))
        return now

    assert sorted(await asyncio.gather(*(count("n") for _ in range(30)))) == list(range(1, 31))


@awaited
async def test_a_function_that_awaits_nothing_may_be_a_plain_one(replica: AsyncReplica) -> None:
    assert await replica.transact(lambda t: t.put("a", "1")) is None  # type: ignore[arg-type, return-value]
    kv = await replica.get("a")
    assert kv is not None
    assert kv.value == b"1"


@awaited
async def test_a_cancelled_function_writes_nothing(replica: AsyncReplica) -> None:
    begun = asyncio.Event()

    async def work(t: AsyncTransaction) -> None:
        t.put("a", "1")
        begun.set()
        await asyncio.get_running_loop().create_future()

    task = asyncio.create_task(replica.transact(work))
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await replica.get("a") is None


@awaited
async def test_an_async_transaction_reads_spans_and_raises_what_its_function_raises(replica: AsyncReplica) -> None:
    await replica.put("a", "1")

    async def work(t: AsyncTransaction) -> None:
        assert [kv.key for kv in await t.scan(prefix="a")] == [b"a"]
        t.delete("a")
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await replica.transact(work)
    assert await replica.get("a") is not None
