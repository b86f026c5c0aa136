"""``AsyncReplica``: the same calls, awaited; cancelled, concurrent, and from several loops."""

from __future__ import annotations

import asyncio
import inspect
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from replkv import (
    AsyncReplica,
    Closed,
    Config,
    DirectoryInUse,
    Get,
    Key,
    NoLeader,
    OutcomeUnknown,
    Put,
    Replica,
    Scan,
    ScanResult,
    TooLarge,
    WaitTimeout,
    kv,
)
from replkv.plans import Read
from replkv.proposals import finish
from replkv.raft import Raft
from replkv.reads import NOT_YET
from replkv.surface import Consistency, Surface
from replkv.waiting import LoopCall

PATIENCE = 20.0
LONE = {"a": "inproc://replkv-test-aio-a", "b": "127.0.0.1:1"}


def run(test: Callable[[AsyncReplica], Awaitable[None]], **arguments: Any) -> None:
    async def main() -> None:
        async with AsyncReplica(**arguments) as replica:
            await test(replica)

    asyncio.run(main())


def hold_syncs(replica: AsyncReplica) -> threading.Event:
    """Let the member hand writes over, but not sync them until the event is set."""
    release = threading.Event()
    assert replica._node is not None
    log = replica._node.log
    real = log.sync
    log.sync = lambda: release.wait(PATIENCE) and real()  # type: ignore[assignment, method-assign]
    return release


async def handed_over(replica: AsyncReplica) -> None:
    """Wait until a batch is under way."""
    assert replica._node is not None
    give_up = time.monotonic() + PATIENCE
    while not replica._node.proposals.under_way:
        assert time.monotonic() < give_up
        await asyncio.sleep(0.001)


def test_both_surfaces_have_the_same_calls_with_the_same_arguments() -> None:
    calls = [name for name in vars(Surface) if not name.startswith("_")]
    assert {"put", "get", "scan", "delete", "add", "txn", "wait_ready"} <= set(calls)
    for name in calls:
        assert inspect.signature(getattr(Replica, name)) == inspect.signature(getattr(AsyncReplica, name))
        assert getattr(Replica, name) is getattr(AsyncReplica, name), "one definition of each call"
    public = {name for name in dir(Replica) if not name.startswith("_")}
    assert public | {"open"} == {name for name in dir(AsyncReplica) if not name.startswith("_")}


def test_every_call_can_be_awaited() -> None:
    async def test(replica: AsyncReplica) -> None:
        await replica.wait_ready(PATIENCE)
        assert await replica.put("a", "1") == (2, None)
        found = await replica.get("a")
        assert found is not None
        assert found.text == "1"
        assert (await replica.add("n", 5)).value == 5
        assert (await replica.txn(compare=[Key("a").exists], then=[Put("b", "2"), Get("a")])).succeeded
        assert [kv.key for kv in await replica.scan(consistency="local")] == [b"a", b"b", b"n"]
        assert (await replica.delete("a")).deleted == 1
        assert await asyncio.wrap_future(replica.submit(Get("a"))) is None
        assert replica.revision == 5

    run(test)


def test_thousands_of_tasks_at_once_are_all_answered() -> None:
    async def test(replica: AsyncReplica) -> None:
        sums = await asyncio.gather(*(replica.add("n") for _ in range(2000)))
        assert sorted(result.value for result in sums) == list(range(1, 2001))
        puts = await asyncio.gather(*(replica.put(f"k{i}", str(i)) for i in range(500)))
        assert len({result.revision for result in puts}) == 500

    run(test)


def test_a_directory_is_shared_with_the_other_surface_over_restarts(tmp_path: Path) -> None:
    async def test(replica: AsyncReplica) -> None:
        await replica.put("a", "1")
        with pytest.raises(DirectoryInUse):
            Replica(data_dir=tmp_path)

    run(test, data_dir=tmp_path)
    with Replica(data_dir=tmp_path) as replica:
        assert replica.scan().count == 1


def test_the_constructor_only_checks(tmp_path: Path) -> None:
    before = threading.active_count()
    replica = AsyncReplica(data_dir=tmp_path / "data")
    assert not list(tmp_path.iterdir())
    assert threading.active_count() == before
    with pytest.raises(Closed, match="not open yet"):
        asyncio.run(replica.get("a"))
    with pytest.raises(ValueError, match="data_dir="):
        AsyncReplica("a", cluster=LONE)


def test_bad_calls_are_refused_before_anything_is_sent() -> None:
    async def test(replica: AsyncReplica) -> None:
        assert replica._node is not None
        calls: list[tuple[Callable[[], Coroutine[Any, Any, Any]], type[Exception]]] = [
            (lambda: replica.put("", "x"), ValueError),
            (lambda: replica.put(1, "x"), TypeError),  # type: ignore[arg-type]
            (lambda: replica.get("a", consistency="strong"), ValueError),  # type: ignore[arg-type]
            (lambda: replica.get("a", consistency="local", timeout="1"), TypeError),  # type: ignore[arg-type]
            (lambda: replica.put("a", b"x" * (2 << 20)), TooLarge),
            (replica.delete, ValueError),
        ]
        for call, kind in calls:
            with pytest.raises(kind):
                await call()
        assert replica.revision == 1

    run(test)


def test_opening_twice_at_once_starts_one_member(tmp_path: Path) -> None:
    async def main() -> None:
        replica = AsyncReplica(data_dir=tmp_path)
        opened = await asyncio.gather(*(replica.open() for _ in range(5)))
        assert set(opened) == {replica}
        await replica.put("a", "1")
        await asyncio.gather(*(replica.close() for _ in range(5)))
        with pytest.raises(Closed):
            await replica.put("a", "2")
        with pytest.raises(Closed, match="make a new"):
            await replica.open()

    asyncio.run(main())
    Replica(data_dir=tmp_path).close()


def test_an_open_that_is_cancelled_leaves_no_member_behind(tmp_path: Path) -> None:
    before = set(threading.enumerate())

    async def main() -> None:
        opening = asyncio.create_task(AsyncReplica(data_dir=tmp_path).open())
        await asyncio.sleep(0)
        opening.cancel()
        with pytest.raises(asyncio.CancelledError):
            await opening

    asyncio.run(main())  # waits for the executor's threads
    Replica(data_dir=tmp_path).close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("replkv") and thread not in before]


def test_a_member_without_its_peers_names_them(tmp_path: Path) -> None:
    async def test(replica: AsyncReplica) -> None:
        for call in (replica.put("a", "1"), replica.get("a", timeout=0), replica.scan(timeout=0.01)):
            with pytest.raises(NoLeader, match="b at tcp://127.0.0.1:1") as caught:
                await call
            assert caught.value.unreachable == ("b",)
        with pytest.raises(WaitTimeout, match="b at"):
            await replica.wait_ready(0.05)

    run(test, name="a", data_dir=tmp_path, cluster=LONE, config=Config(timeout=0.05))


def test_a_call_that_is_cancelled_before_it_was_handed_over_has_no_effect(tmp_path: Path) -> None:
    async def test(replica: AsyncReplica) -> None:
        assert replica._node is not None
        proposals, reads = replica._node.proposals, replica._node.reads
        tasks = [asyncio.create_task(call) for call in (replica.put("a", "1"), replica.get("a"), replica.wait_ready())]
        await asyncio.sleep(0)
        assert (len(proposals._queue), len(reads._waiting)) == (1, 2)
        for task in tasks:
            task.cancel()
        assert await asyncio.gather(*tasks, return_exceptions=True)
        assert all(task.cancelled() for task in tasks)
        assert (len(proposals._queue), len(reads._waiting)) == (0, 0)

    run(test, name="a", data_dir=tmp_path, cluster=LONE)


def test_a_call_that_is_cancelled_later_happens_once_and_disturbs_nobody() -> None:
    async def test(replica: AsyncReplica) -> None:
        await replica.put("before", "x")
        release = hold_syncs(replica)
        tasks = [asyncio.create_task(replica.add("n")) for _ in range(10)]
        await handed_over(replica)
        for task in tasks[::2]:
            task.cancel()
        release.set()
        done = await asyncio.gather(*tasks, return_exceptions=True)
        assert sum(isinstance(one, asyncio.CancelledError) for one in done) == 5
        assert 5 <= (await replica.add("n", 0)).value <= 10

    run(test)


def test_a_cancellation_that_comes_together_with_the_answer_is_not_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    class Cancelled(LoopCall):
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments)
            task = asyncio.current_task()
            assert task is not None
            self.future.add_done_callback(lambda _: task.cancel())  # in the very turn of the loop in which the task would be woken

    async def test(replica: AsyncReplica) -> None:
        await replica.put("k", "before")
        monkeypatch.setattr("replkv.facade.LoopCall", Cancelled)
        release = hold_syncs(replica)
        task = asyncio.create_task(replica.put("k", "v"))
        await handed_over(replica)
        release.set()
        await asyncio.wait((task,))
        assert task.cancelled()

    run(test)


def test_an_outer_timeout_cancels_the_call(tmp_path: Path) -> None:
    async def test(replica: AsyncReplica) -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.02):
                await replica.put("a", "1", timeout=None)
        assert replica._node is not None
        assert not replica._node.proposals._queue

    run(test, name="a", data_dir=tmp_path, cluster=LONE)


def test_an_unknown_outcome_can_be_awaited() -> None:
    async def test(replica: AsyncReplica) -> None:
        await replica.put("before", "x")
        release = hold_syncs(replica)
        with pytest.raises(OutcomeUnknown) as caught:
            await replica.put("a", "1", timeout=0.05)
        with pytest.raises(OutcomeUnknown) as again:
            await caught.value.wait(0.05)
        for timeout, error in (("x", TypeError), (-1, ValueError), (float("nan"), ValueError)):
            with pytest.raises(error, match="timeout must be"):
                caught.value.wait(timeout)  # type: ignore[arg-type]  # and at the call already
        release.set()
        assert (await again.value.wait(PATIENCE)).revision == (await caught.value.wait()).revision == 3

    run(test)


def test_several_tasks_may_wait_on_for_one_outcome_and_one_that_is_cancelled_takes_it_from_nobody() -> None:
    async def test(replica: AsyncReplica) -> None:
        await replica.put("before", "x")
        release = hold_syncs(replica)
        with pytest.raises(OutcomeUnknown) as caught:
            await replica.put("a", "1", timeout=0.02)
        one, other = (asyncio.ensure_future(caught.value.wait(PATIENCE)) for _ in range(2))
        await asyncio.sleep(0)  # both begin to wait
        one.cancel()
        await asyncio.wait((one,))
        release.set()
        assert (await other).revision == 3
        assert one.cancelled()

    run(test)


def test_a_call_that_was_cancelled_leaves_no_timer_behind() -> None:
    async def test(replica: AsyncReplica) -> None:
        await replica.put("before", "x")
        release = hold_syncs(replica)
        task = asyncio.create_task(replica.put("k", "v", timeout=0.02))
        await handed_over(replica)
        task.cancel()
        await asyncio.wait((task,))
        loop = asyncio.get_running_loop()
        assert all(timer.cancelled() for timer in loop._scheduled)  # type: ignore[attr-defined]  # the loop's own list
        release.set()
        assert (await replica.put("after", "x")).revision == 4

    run(test)


def test_ctrl_c_among_the_wake_ups_of_several_tasks_takes_them_from_nobody() -> None:
    class Interrupted:
        def done(self) -> bool:
            calls[1].future = real
            raise KeyboardInterrupt

    loop = asyncio.new_event_loop()
    calls = [LoopCall(b"x", loop) for _ in range(4)]
    real, calls[1].future = calls[1].future, Interrupted()  # type: ignore[assignment]
    finish(calls)
    with pytest.raises(KeyboardInterrupt):
        loop.run_until_complete(asyncio.sleep(PATIENCE))
    loop.run_until_complete(asyncio.wait_for(asyncio.wait([call.future for call in calls]), PATIENCE))
    assert all(call.future.done() for call in calls)
    loop.close()


def test_close_ends_those_who_wait(tmp_path: Path) -> None:
    async def main() -> None:
        replica = await AsyncReplica("a", data_dir=tmp_path, cluster=LONE).open()
        calls: list[Coroutine[Any, Any, Any]] = [replica.put("a", "1", timeout=None), replica.get("a", timeout=None), replica.wait_ready()]
        tasks = [asyncio.create_task(call) for call in calls]
        await asyncio.sleep(0)
        await replica.close()
        for outcome in await asyncio.gather(*tasks, return_exceptions=True):
            assert isinstance(outcome, Closed)
        await replica.close()

    asyncio.run(main())


def test_several_loops_may_use_one_member() -> None:
    async def main() -> None:
        async with AsyncReplica() as replica:
            loops = [threading.Thread(target=lambda: asyncio.run(many(replica))) for _ in range(4)]
            for loop in loops:
                loop.start()
            while any(loop.is_alive() for loop in loops):
                await replica.add("n")
            assert (await replica.add("m", 0)).value == 400

    async def many(replica: AsyncReplica) -> None:
        await asyncio.gather(*(replica.add("m") for _ in range(100)))

    asyncio.run(main())


def test_a_loop_that_ended_with_calls_under_way_disturbs_nobody() -> None:
    replica = AsyncReplica()

    async def leave() -> threading.Event:
        await replica.open()
        await replica.put("before", "x")
        release = hold_syncs(replica)
        asyncio.get_running_loop().create_task(replica.put("a", "1"))  # it is abandoned on purpose
        await handed_over(replica)
        return release

    async def come_back() -> None:
        found = await replica.get("a")
        assert found is not None
        await replica.close()

    release = asyncio.run(leave())
    release.set()
    asyncio.run(come_back())


def test_a_blocked_loop_holds_up_only_itself() -> None:
    async def test(replica: AsyncReplica) -> None:
        future = replica.submit(Put("a", "1"))
        assert future.result(PATIENCE).revision == 2  # blocks the loop
        assert (await replica.put("b", "2")).revision == 3

    run(test)


# -- long reads --------------------------------------------------------------------------------------------------------------------


async def turns_during(read: Awaitable[ScanResult]) -> tuple[ScanResult, int]:
    """Return what a read returns, and how many turns of the loop another task had meanwhile."""
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    counting = asyncio.create_task(count())
    await asyncio.sleep(0)
    before = turns
    found = await read
    counting.cancel()
    return found, turns - before


async def fill(replica: AsyncReplica, number: int) -> None:
    for at in range(0, number, 100):
        await replica.txn(then=[Put(f"app/{key:05}", f"{key % 7}") for key in range(at, min(at + 100, number))])


@pytest.mark.parametrize("consistency", ["linearizable", "lease", "local"])
@pytest.mark.parametrize("asked", [{}, {"sort_by": "value", "limit": 4_000}, {"keys_only": True}, {"count_only": True}])
def test_a_long_scan_lets_other_tasks_have_their_turn_and_finds_the_same(consistency: Consistency, asked: dict[str, Any]) -> None:
    async def test(replica: AsyncReplica) -> None:
        await fill(replica, 5_000)
        for surface in (replica, replica.namespace("app/")):
            expected = await asyncio.wrap_future(surface.submit(Scan(**asked)))
            found, turns = await turns_during(surface.scan(**asked, consistency=consistency))
            assert found == expected
            assert turns >= 2

    run(test)


def test_a_long_scan_shows_one_revision_whatever_is_written_meanwhile() -> None:
    async def test(replica: AsyncReplica) -> None:
        await fill(replica, 5_000)
        before = await replica.scan()

        async def write() -> None:
            for number in range(0, 5_000, 250):
                await replica.put(f"app/{number:05}", "late")
                await replica.delete(f"app/{number + 1:05}")

        reading = asyncio.create_task(replica.scan(consistency="local"))
        await asyncio.sleep(0)  # it has begun
        await write()
        assert await reading == before
        assert len(await replica.scan(revision=before.revision)) == len(await replica.scan()) + 20 == 5_000

    run(test)


def test_a_long_scan_under_a_lease_that_ends_meanwhile_is_confirmed_by_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(replica: AsyncReplica) -> None:
        await fill(replica, 5_000)
        node = replica._node
        assert node is not None
        steps = Read(Scan(), b"", "lease").answer_in_steps(node, None)
        next(steps)
        monkeypatch.setattr(Raft, "lease_until", 0.0)
        await replica.put("app/00000", "with this, the member's own thread tells that the lease is over")
        assert kv.run(steps) is NOT_YET

    run(test)


def test_a_long_scan_that_a_compaction_outran_is_read_again() -> None:
    async def test(replica: AsyncReplica) -> None:
        await fill(replica, 5_000)
        node = replica._node
        assert node is not None
        steps = Read(Scan(), b"", "local").answer_in_steps(node, None)
        next(steps)
        await replica.delete("app/04999")
        revision = (await replica.put("app/04998", "new")).revision
        await replica.compact(revision)
        give_up = time.monotonic() + PATIENCE
        while node.machine.store.removed_below < revision:
            assert time.monotonic() < give_up
            await asyncio.sleep(0.001)
        _, seen, records, count, _ = kv.run(steps)
        assert (seen, len(records), count, records[-1][:2]) == (revision, 4_999, 4_999, (b"app/04998", b"new"))

    run(test)


def test_a_long_scan_that_is_cancelled_between_two_of_its_turns_disturbs_nobody() -> None:
    async def test(replica: AsyncReplica) -> None:
        await fill(replica, 5_000)
        reading = asyncio.create_task(replica.scan(consistency="local"))
        await asyncio.sleep(0)
        assert not reading.done()
        reading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reading
        assert len(await replica.scan()) == 5_000

    run(test)
