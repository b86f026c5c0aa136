"""The clusters that users test their own code with: whole ones, in this process, under virtual time."""

from __future__ import annotations

import asyncio
import cProfile
import itertools
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import FIRST_COMPLETED, as_completed, wait
from typing import Any

import pytest

from replkv import (
    AsyncReplica,
    Closed,
    Config,
    Event,
    LockLost,
    NoLeader,
    OutcomeUnknown,
    Overloaded,
    Put,
    Replica,
    Settings,
    Synced,
    WaitTimeout,
)
from replkv.testing import AsyncCluster, Cluster, Stuck


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    with Cluster(seed=1) as made:
        yield made


def run(main: Callable[[AsyncCluster], Coroutine[Any, Any, None]], **arguments: Any) -> AsyncCluster:
    cluster = AsyncCluster(**{"seed": 1, **arguments})
    cluster.run(main(cluster))
    cluster.close()
    return cluster


# -- a cluster ---------------------------------------------------------------------------------------------------------------------


def test_a_cluster_is_there_at_once_and_its_members_are_replicas(cluster: Cluster) -> None:
    assert list(cluster.members) == ["a", "b", "c"]
    assert [replica.name for replica in cluster] == ["a", "b", "c"]
    assert all(isinstance(replica, Replica) for replica in cluster)
    assert all(replica.ready and replica.failure is None for replica in cluster)
    assert cluster.leader is cluster["a"]
    cluster["b"].put("key", "value")
    found = cluster["c"].get("key")
    assert found is not None
    assert found.text == "value"
    assert cluster["a"].status().state == "leader"
    assert [member.name for member in cluster["b"].members()] == ["a", "b", "c"]
    assert cluster["c"].settings() == Settings()
    assert repr(cluster["b"]).startswith("<SimReplica b: follower, leader a, revision 2")
    assert "seed 1" in repr(cluster)
    assert "a is leader in term" in repr(cluster)


@pytest.mark.parametrize("members", [1, 2, 5])
def test_a_cluster_has_as_many_members_as_are_wanted(members: int) -> None:
    with Cluster(members, seed=2) as cluster:
        last = list(cluster)[-1]
        last.put("key", "value")
        assert len(cluster.members) == members
        assert [replica.scan(count_only=True).count for replica in cluster] == [1] * members


def test_a_cluster_lives_by_its_own_settings_and_config() -> None:
    settings = Settings(election_timeout=0.9, heartbeat=0.05, promise=0.1)
    config = Config(timeout=0.5, segment_bytes=1 << 16, max_commands_in_flight=1, overload="raise")
    with Cluster(settings=settings, config=config) as cluster:
        assert cluster["b"].settings() == settings
        future = cluster["b"].submit(Put("a", "1"))
        with pytest.raises(Overloaded):
            cluster["b"].submit(Put("b", "1"))
        assert future.result().revision == 2


@pytest.mark.parametrize(
    ("arguments", "error", "says"),
    [
        ({"members": 0}, ValueError, "members must be 1 to 9, not 0"),
        ({"members": 10}, ValueError, "members must be 1 to 9"),
        ({"members": "3"}, TypeError, "members must be an int"),
        ({"seed": -1}, ValueError, "seed must be between"),
        ({"seed": None}, TypeError, "seed must be an int"),
        ({"patience": 0}, ValueError, "patience must be above 0"),
    ],
)
def test_a_wrong_argument_is_refused(arguments: dict[str, Any], error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says):
        Cluster(**arguments)


def test_who_is_no_member_is_said(cluster: Cluster) -> None:
    acts: list[Callable[[str], object]] = [
        *(cluster.__getitem__, cluster.kill, cluster.restart, cluster.isolate, cluster.pause, cluster.resume),
        lambda name: cluster.partition({"a"}, {name}),
    ]
    for act in acts:
        with pytest.raises(KeyError, match="there is no member 'x', only a, b, c"):
            act("x")


def test_a_large_value_fits_though_segments_are_small(cluster: Cluster) -> None:
    value = bytes(1_000_000)
    cluster["b"].put("large", value)
    cluster.kill("c")
    cluster.restart("c")
    cluster["c"].wait_ready(10)
    found = cluster["c"].get("large")
    assert found is not None
    assert found.value == value


# -- time --------------------------------------------------------------------------------------------------------------------------


def test_time_passes_only_while_somebody_waits(cluster: Cluster) -> None:
    begun = cluster.now
    assert cluster.now == begun
    cluster.advance(90)
    assert cluster.now == pytest.approx(begun + 90)
    cluster["a"].put("key", "value")
    assert begun + 90 < cluster.now < begun + 90.1


def test_a_timeout_is_virtual(cluster: Cluster) -> None:
    cluster.kill("b")
    cluster.kill("c")
    cluster.advance(5)
    begun = cluster.now
    with pytest.raises(NoLeader, match="not reachable: b at inproc://b"):
        cluster["a"].put("key", "value", timeout=30)
    assert cluster.now == pytest.approx(begun + 30, abs=0.01)
    assert cluster["a"].watch("key").next(timeout=7) is None
    assert cluster.now == pytest.approx(begun + 37, abs=0.01)


def test_who_asks_again_and_again_sees_time_pass(cluster: Cluster) -> None:
    cluster.after(1.0, lambda: cluster["a"].submit(Put("late", "1")))
    while cluster["b"].get("late", consistency="local") is None:
        pass
    assert 1.0 < cluster.now < 2.0


def test_something_can_happen_in_the_middle_of_a_call(cluster: Cluster) -> None:
    cluster.partition({"b"}, {"a", "c"})
    cluster.after(3.0, cluster.heal)
    begun = cluster.now
    cluster["b"].put("key", "value")
    assert begun + 3 < cluster.now < begun + 5


def test_others_may_act_and_wait_in_the_middle_of_a_call(cluster: Cluster) -> None:
    def take_over() -> None:
        with cluster["c"].lock("job", ttl=5):
            cluster["c"].put("key", "c")
        cluster.advance(10)
        cluster.heal()

    cluster["b"].lock("job", ttl=5).acquire()
    cluster.isolate("b")
    cluster.after(0.5, take_over)
    begun = cluster.now
    assert cluster["b"].put("key", "b", timeout=60, prev_kv=True).prev_kv is not None
    assert begun + 14 < cluster.now < begun + 25


def test_who_is_told_on_a_members_own_thread_must_not_wait(cluster: Cluster) -> None:
    lease, caught = cluster["b"].lease(60), list[RuntimeError]()

    def wait_within() -> None:
        try:
            cluster["b"].get("key")
        except RuntimeError as error:
            caught.append(error)

    lease.lost._held.on_lost.append(wait_within)
    lease.revoke()
    assert "a member's own thread can't wait" in str(caught[0])


def test_what_fails_at_a_moment_fails_the_test(cluster: Cluster) -> None:
    cluster.after(1.0, lambda: cluster.kill("nobody"))
    with pytest.raises(KeyError, match="no member 'nobody'"):
        cluster.advance(2)


@pytest.mark.parametrize("seconds", [-1, float("nan")])
def test_time_does_not_go_back(cluster: Cluster, seconds: float) -> None:
    with pytest.raises(ValueError, match="timeout must be at least 0"):
        cluster.advance(seconds)
    with pytest.raises(ValueError, match="timeout must be at least 0"):
        cluster.after(seconds, cluster.heal)
    with pytest.raises(TypeError):
        cluster.advance(None)  # type: ignore[arg-type]  # a wrong one


def waits_in_vain(cluster: Cluster) -> list[Callable[[], object]]:
    b, lock = cluster["b"], cluster["b"].lock("job")
    return [
        lambda: b.watch("key").next(),
        lambda: b.view("keys/").wait(100),
        lambda: next(b.view("keys/").changes()),
        lambda: b.lease(5).lost.wait(None),
        lambda: lock.acquire(None),
        lambda: lock.acquire(timeout=1e5),
    ]


@pytest.mark.parametrize("which", range(6))
def test_a_call_that_nobody_will_end_is_an_error(which: int) -> None:
    with Cluster(seed=1, patience=30) as cluster, cluster["a"].lock("job"):
        begun = cluster.now
        with pytest.raises(Stuck, match="the wait of the call in line .*test_user_cluster.py within 30 s of virtual time.*seed 1, at "):
            waits_in_vain(cluster)[which]()
        assert cluster.now == pytest.approx(begun + 30, abs=0.1)
        cluster["b"].put("key", "value")


def test_a_condition_that_never_comes_true_is_an_error() -> None:
    with Cluster(patience=5) as cluster:
        with pytest.raises(Stuck, match="nothing ended the wait for a condition within 5 s"):
            cluster.run_until(lambda: False)
        cluster.advance(20)  # what ends by itself may last
        assert not cluster.run_until(lambda: False, timeout=20)
        watch = cluster["a"].watch("key")
        assert [watch.next(timeout=3) for _ in range(5)] == [None] * 5
        for number in range(5):
            cluster.after(3.0 * number, lambda: cluster["b"].submit(Put("key", "value")))
        assert len(list(itertools.islice(watch.batches(), 5))) == 5


def test_run_until_tells_whether_it_came_true(cluster: Cluster) -> None:
    begun = cluster.now
    assert cluster.run_until(lambda: cluster.now > begun + 2, timeout=10)
    assert cluster.now < begun + 3
    assert not cluster.run_until(lambda: False, timeout=2)
    assert cluster.run_until(lambda: True, timeout=0)


def test_code_that_uses_the_time_module_can_be_given_virtual_time(cluster: Cluster) -> None:
    real, begun = time.sleep, time.time()
    with cluster.patched_time():
        before, wall = time.monotonic(), time.time()
        time.sleep(60)
        assert time.monotonic() == pytest.approx(before + 60)
        assert time.time() == pytest.approx(wall + 60)
    assert time.sleep is real
    assert time.time() < begun + 30


# -- faults ------------------------------------------------------------------------------------------------------------------------


def test_a_leader_that_is_cut_off_is_replaced_and_learns_of_it(cluster: Cluster) -> None:
    old = cluster.drop_leader(isolate=True)
    assert cluster.leader is None
    new = cluster.wait_for_leader()
    assert new is not old
    new.put("key", "new")
    with pytest.raises((NoLeader, OutcomeUnknown)):
        old.put("key", "old", timeout=1)
    assert old.get("key", consistency="local") is None
    cluster.heal()
    old.wait_ready(10)
    found = old.get("key")
    assert found is not None
    assert found.text == "new"


def test_a_write_whose_outcome_is_unknown_can_be_waited_for(cluster: Cluster) -> None:
    cluster["a"].put("first", "value")
    leader = cluster.drop_leader(isolate=True)
    with pytest.raises(OutcomeUnknown) as caught:
        leader.put("key", "value")
    cluster.heal()
    assert caught.value.wait(20).revision == 3


def test_groups_are_cut_from_each_other_and_others_are_one_more() -> None:
    with Cluster(5, seed=3) as cluster:
        cluster.partition({"a"}, {"b"})
        leader = cluster.wait_for_leader()
        assert leader.name in "cde"
        cluster["c"].put("key", "value", timeout=10)
        for lonely in ("a", "b"):
            with pytest.raises((NoLeader, OutcomeUnknown)):
                cluster[lonely].put("key", "other", timeout=1)
        with pytest.raises(ValueError, match="a, b can't be in two groups"):
            cluster.partition({"a", "b"}, {"b"}, {"a"})


def test_the_end_of_a_member_ends_what_it_gave_out_and_another_life_begins(cluster: Cluster) -> None:
    b = cluster["b"]
    b.put("jobs/1", "x")
    watch, view, lease = b.watch(prefix="jobs/"), b.view("jobs/", "text"), b.lease(60)
    assert view["1"] == "x"
    under_way, told = b.submit(Put("jobs/2", "y")), list[object]()
    under_way.add_done_callback(told.append)
    cluster.kill("b")
    assert told == [under_way]
    with pytest.raises((OutcomeUnknown, Closed)):
        under_way.result()
    with pytest.raises(Closed, match=r"member b is down; restart\('b'\) brings it back"):
        b.put("jobs/3", "z")
    with pytest.raises(Closed):
        b.get("jobs/1", consistency="local")
    with pytest.raises(Closed):
        lease.keys()
    assert not b.ready
    assert b.status().state == "closed"
    assert list(watch) == []
    with pytest.raises(Closed):
        len(view)
    assert lease.lost.is_set()
    cluster.kill("b")
    cluster.restart("b")
    b.wait_ready(10)
    assert b is cluster["b"]
    found = b.get("jobs/1", consistency="local")
    assert found is not None
    assert found.text == "x"
    assert b.view("jobs/", "text")["1"] == "x"
    b.submit(Put("jobs/3", "z")).result()


def test_nothing_that_was_acknowledged_is_lost_when_power_fails_everywhere(cluster: Cluster) -> None:
    for number in range(20):
        cluster["b"].put(f"key/{number}", "value")
    for name in cluster.members:
        cluster.kill(name)
    assert cluster.leader is None
    for name in cluster.members:
        cluster.restart(name)
    assert cluster.wait_for_leader().scan(prefix="key/", count_only=True, timeout=10).count == 20


def test_a_kill_in_the_middle_of_a_call_ends_the_call(cluster: Cluster) -> None:
    cluster.partition({"b"})
    cluster.after(2.0, lambda: cluster.kill("b", power=False))
    begun = cluster.now
    with pytest.raises((Closed, OutcomeUnknown)):
        cluster["b"].put("key", "value", timeout=None)
    assert cluster.now == pytest.approx(begun + 2, abs=0.1)
    cluster.restart("a")  # one that runs is ended first
    assert cluster["a"].status().state != "closed"


def test_a_member_is_closed_as_it_should_be_and_can_be_started_again(cluster: Cluster) -> None:
    with cluster["a"] as leader:
        leader.put("key", "value")
    assert cluster.now < 3
    assert leader.failure is None
    with pytest.raises(Closed):
        leader.get("key")
    leader.close()
    assert cluster.wait_for_leader() is not leader
    cluster.restart("a")
    leader.wait_ready(10)
    assert leader.get("key") is not None
    with pytest.raises(TypeError, match="never waits without limit"):
        leader.close(None)  # type: ignore[arg-type]  # a wrong one


def test_a_process_that_stands_still_does_nothing_until_it_goes_on(cluster: Cluster) -> None:
    lock = cluster["b"].lock("job", ttl=5)
    lock.acquire()
    cluster.pause("b", 30)
    begun = cluster.now
    with cluster["c"].lock("job", ttl=5) as other:
        assert cluster.now < begun + 10
        assert other.fence > lock.fence
        assert cluster["c"].get("key") is None
    with pytest.raises(LockLost):
        cluster["b"].put("key", "late", guard=lock)
    assert cluster.now == pytest.approx(begun + 30, abs=1)
    assert not lock.held


def test_who_stands_still_without_end_is_woken_by_resume(cluster: Cluster) -> None:
    cluster.pause("a")
    assert cluster.wait_for_leader() is not cluster["a"]
    cluster.after(40, lambda: cluster.resume("a"))
    begun = cluster.now
    cluster["a"].put("key", "value")
    assert begun + 40 < cluster.now < begun + 45
    cluster.pause("a")
    with pytest.raises(Stuck, match="a is follower.*stands still"):
        cluster["a"].get("key", consistency="local")
    cluster.kill("a")
    with pytest.raises(LookupError, match="member a is down"):
        cluster.pause("a")
    with pytest.raises(LookupError, match="member a is down"):
        cluster.resume("a")


def test_a_wait_lasts_as_long_as_its_process_stands_still(cluster: Cluster) -> None:
    cluster.after(1, lambda: cluster.pause("b", 20))
    begun = cluster.now
    assert cluster["b"].watch("key").next(timeout=5) is None
    assert cluster.now == pytest.approx(begun + 21, abs=0.01)


# -- leases and locks --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a", "b"])
def test_a_lease_expires_when_its_keep_alives_do_not_come_through(cluster: Cluster, name: str) -> None:
    mine, other = cluster[name].lease(5), cluster["c"].lease(5)
    longer = cluster[name].lease(60)
    cluster["c"].put("mine", "1", lease=mine)
    watch = cluster["c"].watch("mine")
    begun = cluster.now
    cluster.expire(mine)
    assert begun + 3 < cluster.now < begun + 8
    assert mine.lost.is_set()
    event = watch.next(5)
    assert isinstance(event, Event)
    assert event.expired
    cluster.expire(mine)
    cluster.advance(100)
    assert not other.lost.is_set()
    assert not longer.lost.is_set()


def test_a_lock_expires_too(cluster: Cluster) -> None:
    lock = cluster["b"].lock("job", ttl=3)
    with pytest.raises(LockLost), lock:
        cluster.expire(lock)
        assert not lock.held
        assert cluster["c"].lock("job").try_acquire() is not None


def test_a_term_expires_too(cluster: Cluster) -> None:
    term = cluster["a"].election("boss", ttl=3).lead(b"a")
    cluster.expire(term)
    assert term.lost.is_set()
    assert cluster["b"].election("boss").lead(b"b", timeout=1).fence > term.fence
    with pytest.raises(LockLost):
        cluster["a"].put("key", "late", guard=term)


def test_a_lease_that_the_cluster_can_not_end_is_not_said_to_be_expired(cluster: Cluster) -> None:
    lease = cluster["c"].lease(2)
    cluster.kill("a")
    cluster.kill("b")
    with pytest.raises(Stuck, match="was not lost in"):
        cluster.expire(lease)
    with Cluster() as another, pytest.raises(ValueError, match="not held by a member of this cluster"):
        cluster.expire(another["a"].lease(10))


def test_locks_pass_from_holder_to_holder(cluster: Cluster) -> None:
    with cluster["a"].lock("job") as first:
        with pytest.raises(WaitTimeout):
            cluster["b"].lock("job").acquire(timeout=20)
        assert first.held
    assert cluster["b"].lock("job").try_acquire() is not None


# -- futures -----------------------------------------------------------------------------------------------------------------------


def test_futures_let_time_pass_while_somebody_waits_for_them(cluster: Cluster) -> None:
    futures = [cluster["b"].submit(Put(f"key/{number}", "value")) for number in range(5)]
    assert not any(future.done() for future in futures)
    assert not futures[0].cancel()
    assert {future.result(1).revision for future in as_completed(futures)} == set(range(2, 7))
    assert futures[0].exception() is None
    more = [cluster["c"].submit(Put(f"key/{number}", "value")) for number in range(5)]
    assert wait(more, return_when=FIRST_COMPLETED).done
    assert not wait(more).not_done
    told: list[int] = []
    more[0].add_done_callback(lambda future: told.append(future.result().revision))
    cluster["a"].submit(Put("last", "value")).add_done_callback(lambda _: told.append(cluster["b"].scan("last")[0].create_revision))
    cluster.advance(1)
    assert told[0] in range(7, 12)
    assert told[1] == 12


def test_a_future_fails_in_time_and_can_be_waited_for_further(cluster: Cluster) -> None:
    cluster["a"].put("first", "value")
    leader = cluster.drop_leader(isolate=True)
    future = leader.submit(Put("key", "value"))
    with pytest.raises(TimeoutError):
        future.result(1)
    begun = cluster.now
    error = future.exception()
    assert cluster.now == pytest.approx(begun + 4, abs=0.01)
    assert isinstance(error, OutcomeUnknown)
    cluster.heal()
    assert error.wait(20).revision == 3


# -- the same again ----------------------------------------------------------------------------------------------------------------


def story(seed: int) -> tuple[str, float]:
    """A test in which much happens."""
    with Cluster(seed=seed) as cluster:
        for round_ in range(3):
            for replica in cluster:
                with replica.lock("job", ttl=3):
                    replica.put(f"{replica.name}/{round_}", "value")
            old = cluster.drop_leader(isolate=round_ == 1)
            cluster.wait_for_leader().submit(Put("key", str(round_))).result()
            cluster.heal()
            cluster.restart(old.name)
            old.wait_ready(20)
        watch = cluster["c"].watch(prefix="", start_revision=2)
        assert watch.next(0) is not None
        return cluster.fingerprint, cluster.now


def test_the_same_seed_tells_the_same_story_and_another_one_does_not() -> None:
    assert story(7) == story(7)
    assert story(7) != story(8)


def test_a_cluster_of_three_costs_little_to_begin() -> None:
    """Some hundredths of a second: people begin one per test.  Calls are counted, which no load of the machine changes."""
    Cluster(seed=0).close()
    profile = cProfile.Profile(builtins=False)
    profile.runcall(lambda: Cluster(seed=1).close())
    assert sum(entry.callcount for entry in profile.getstats()) < 20_000


def test_threads_may_share_a_cluster_in_turns(cluster: Cluster) -> None:
    def work(replica: Replica) -> None:
        for _ in range(20):
            replica.add("counter")

    threads = [threading.Thread(target=work, args=(replica,)) for replica in cluster]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    found = cluster["a"].get("counter")
    assert found is not None
    assert found.text == "60"


# -- asyncio -----------------------------------------------------------------------------------------------------------------------


def test_on_its_own_loop_all_time_is_virtual() -> None:
    async def main(cluster: AsyncCluster) -> None:
        a, b, _ = cluster
        assert isinstance(a, AsyncReplica)
        assert await a.open() is a
        assert cluster.leader is a
        await a.put("key", "value")
        assert (await b.get("key")) is not None
        begun = cluster.now
        await asyncio.sleep(30)
        await cluster.advance(30)
        assert cluster.now == pytest.approx(begun + 60)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(5):
                await asyncio.Event().wait()
        assert cluster.now == pytest.approx(begun + 65)
        assert asyncio.get_running_loop().time() == cluster.now
        watch = b.watch("key")
        assert await watch.next(timeout=5) is None
        assert cluster.now == pytest.approx(begun + 70, abs=0.01)

    run(main)


def test_two_tasks_contend_for_a_lock() -> None:
    order: list[tuple[str, float]] = []

    async def worker(cluster: AsyncCluster, name: str) -> None:
        for _ in range(3):
            async with cluster[name].lock("job"):
                order.append((name, cluster.now))
                await asyncio.sleep(10)

    async def main(cluster: AsyncCluster) -> None:
        await asyncio.gather(worker(cluster, "a"), worker(cluster, "b"))

    run(main)
    assert [name for name, _ in order] == ["a", "b"] * 3
    times = [when for _, when in order]
    assert all(later >= earlier + 10 for earlier, later in itertools.pairwise(times))


def test_faults_have_their_effect_on_tasks_too() -> None:
    async def main(cluster: AsyncCluster) -> None:
        old = await cluster.drop_leader()
        with pytest.raises(Closed, match="member a is down"):
            await old.put("key", "value")
        with pytest.raises(Closed):
            await old.open()
        new = await cluster.wait_for_leader()
        await new.put("key", "value")
        cluster.restart(old.name)
        await old.wait_ready(10)
        assert (await old.get("key")) is not None
        lease = await new.lease(5)
        await cluster.expire(lease)
        assert await lease.lost
        with pytest.raises(LockLost):
            async with old.lock("job", ttl=5):
                cluster.isolate(old.name)
                await asyncio.sleep(60)
        cluster.heal()
        begun = cluster.now
        cluster.pause(new.name, 20)
        await new.put("key", "other")
        assert cluster.now == pytest.approx(begun + 20, abs=1)
        await old.close()
        assert await cluster.run_until(lambda: cluster.leader is not None, 10)
        assert not await cluster.run_until(lambda: False, 1)

    run(main)


def test_who_waits_in_vain_is_named() -> None:
    async def forget() -> None:
        await asyncio.Event().wait()

    async def main() -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(forget(), name="forgetful")

    cluster = AsyncCluster(patience=10)
    with pytest.raises(Stuck, match=r"the wait of task Task-\d+ in line \d+ of .*test_user_cluster.py, task forgetful in line"):
        cluster.run(main())
    with pytest.raises(Stuck):
        cluster.run(cluster.run_until(lambda: False))
    cluster.close()


@pytest.mark.parametrize("which", ["watch", "lock", "lease", "both"])
def test_tasks_that_all_wait_in_vain_are_an_error(which: str) -> None:
    async def watch(cluster: AsyncCluster) -> None:
        async for _ in cluster["b"].watch("key"):
            raise AssertionError

    async def lock(cluster: AsyncCluster) -> None:
        async with cluster["a"].lock("job"), cluster["b"].lock("job"):
            raise AssertionError

    async def lease(cluster: AsyncCluster) -> None:
        await (await cluster["b"].lease(5)).lost

    async def both(cluster: AsyncCluster) -> None:
        await asyncio.gather(watch(cluster), lease(cluster), cluster["c"].watch("key").next())

    cluster = AsyncCluster(patience=20)
    waits = {"watch": watch, "lock": lock, "lease": lease, "both": both}
    with pytest.raises(Stuck, match="within 20 s of virtual time"):
        cluster.run(waits[which](cluster))
    assert cluster.now < 45
    cluster.close()


def test_a_sleep_is_not_in_vain() -> None:
    async def main(cluster: AsyncCluster) -> None:
        waiting = asyncio.create_task(cluster["b"].watch("key").next())
        await asyncio.sleep(30)
        await cluster.advance(30)
        for _ in range(10):
            assert await cluster["c"].watch("key").next(timeout=3) is None
        assert not waiting.done()
        waiting.cancel()

    run(main, patience=10)


def test_futures_of_threads_can_be_awaited() -> None:
    async def main(cluster: AsyncCluster) -> None:
        result = await asyncio.wrap_future(cluster["b"].submit(Put("key", "value")))
        assert result.revision == 2

    run(main)


def test_threads_of_an_executor_and_pipes_are_real() -> None:
    async def main(cluster: AsyncCluster) -> None:
        begun = cluster.now
        go = threading.Event()
        asyncio.get_running_loop().call_soon(go.set)
        assert await asyncio.wait_for(asyncio.to_thread(go.wait, 30), 60)
        assert cluster.now < begun + 30
        connected = asyncio.Event()

        async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(await reader.readline())
            writer.close()
            connected.set()

        server = await asyncio.start_server(greet, "127.0.0.1", 0)
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        writer.write(b"hello\n")
        assert await reader.readline() == b"hello\n"
        await connected.wait()
        writer.close()
        server.close()

    run(main)


def test_another_loop_is_refused() -> None:
    cluster = AsyncCluster()

    async def main() -> None:
        await cluster["a"].get("key")

    with pytest.raises(RuntimeError, match="this event loop's time is real, the cluster's is virtual"):
        asyncio.run(main())
    with asyncio.Runner(loop_factory=cluster.new_event_loop) as runner:
        runner.run(main())
    cluster.close()


def test_a_story_of_tasks_is_the_same_again() -> None:
    async def main(cluster: AsyncCluster) -> None:
        async def work(name: str) -> None:
            for number in range(5):
                async with cluster[name].lock("job"):
                    await cluster[name].put(f"{name}/{number}", "value")

        await asyncio.gather(*(work(name) for name in cluster.members))
        await cluster.drop_leader()
        await cluster.wait_for_leader()

    assert run(main).fingerprint == run(main).fingerprint


def test_a_view_and_a_watch_follow() -> None:
    async def main(cluster: AsyncCluster) -> None:
        view = await cluster["b"].view("jobs/", "text")
        result = await cluster["a"].put("jobs/1", "x")
        await view.wait(result.revision, 5)
        assert dict(view) == {"1": "x"}
        await cluster["c"].get("jobs/1")  # it knows by now
        watch = cluster["c"].watch(prefix="jobs/", initial=True)
        assert isinstance(await watch.next(5), Event)
        assert isinstance(await watch.next(5), Synced)
        cluster.kill("c")
        assert [event async for event in watch] == []

    run(main)
