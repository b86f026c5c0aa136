"""Recipes in a cluster of three whose members are cut off, killed and stopped, under virtual time."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from contextlib import closing, suppress
from random import Random

import pytest

from replkv import (
    Add,
    AsyncLease,
    AsyncReplica,
    AsyncTerm,
    AsyncTransaction,
    Closed,
    Leader,
    LockLost,
    OutcomeUnknown,
    ReplkvError,
    Unavailable,
)
from replkv.testing import AsyncCluster, Cluster

ENDS = (Closed, LockLost, Unavailable, OutcomeUnknown)  # what a fault may do to a call


async def trouble(cluster: AsyncCluster, chance: Random, turns: int) -> None:
    """Let one member after the other fail for a while, in one of the ways there are."""
    for _ in range(turns):
        name = chance.choice("abc")
        fault = chance.choice(("isolate", "kill", "pause"))
        if fault == "pause":
            cluster.pause(name, chance.uniform(1, 20))
            await asyncio.sleep(chance.uniform(1, 25))
        elif fault == "kill":
            cluster.kill(name)
            await asyncio.sleep(chance.uniform(1, 15))
            cluster.restart(name)
        else:
            cluster.isolate(name)
            await asyncio.sleep(chance.uniform(1, 25))
            cluster.heal()
        await asyncio.sleep(chance.uniform(0, 5))
    cluster.heal()
    await asyncio.sleep(40)


async def put_all(cluster: AsyncCluster, chance: Random, numbers: range) -> set[int]:
    """Put numbers into a queue, none of them twice; return those that are surely in it."""
    surely: set[int] = set()
    for number in numbers:
        done = False
        while not done:
            try:
                await cluster[chance.choice("abc")].queue("jobs", "json").put(number)
            except OutcomeUnknown:
                done = True
            except (Unavailable, Closed):
                await asyncio.sleep(1)
            else:
                surely.add(number)
                done = True
        await asyncio.sleep(chance.uniform(0, 3))
    return surely


@pytest.mark.parametrize("seed", range(2))
def test_each_item_of_a_queue_takes_effect_once_whoever_fails(seed: int) -> None:
    with closing(AsyncCluster(members=3, seed=seed)) as cluster:
        chance = Random(seed)

        async def work(name: str) -> None:
            while True:
                try:
                    async with cluster[name].queue("jobs", "json", ttl=5).claim() as item:
                        await asyncio.sleep(chance.uniform(0, 4))
                        await item.done(Add(f"effect/{item.value}"))
                except ENDS:
                    await asyncio.sleep(1)

        async def main() -> set[int]:
            workers = [asyncio.create_task(work(name)) for name in "aabbcc"]
            surely, _ = await asyncio.gather(put_all(cluster, chance, range(40)), trouble(cluster, chance, 6))
            leader = await cluster.wait_for_leader()
            await asyncio.sleep(100)
            assert await leader.queue("jobs", "json").len() == 0
            for worker in workers:
                worker.cancel()
            await asyncio.gather(*workers, return_exceptions=True)
            effects = await leader.scan(prefix="effect/")
            assert {kv.value for kv in effects} == {b"1"}
            assert surely <= {int(kv.key.removeprefix(b"effect/")) for kv in effects} <= set(range(40))
            return surely

        assert len(cluster.run(main())) > 20


@pytest.mark.parametrize("seed", range(2))
def test_terms_do_not_overlap_whoever_fails(seed: int) -> None:
    with closing(AsyncCluster(members=3, seed=seed)) as cluster:
        chance = Random(seed)
        leading: Counter[str] = Counter()
        fences: list[int] = []

        async def lead(name: str, term: AsyncTerm) -> None:
            assert not +leading, f"{name} leads while {set(+leading)} do"
            leading[name] += 1
            fences.append(term.fence)
            try:
                await asyncio.sleep(chance.uniform(1, 30))
                term.check()
            finally:
                leading[name] -= 1

        async def run(name: str) -> None:
            while True:
                with suppress(*ENDS):
                    await cluster[name].election("jobs", ttl=5).run(lambda term: lead(name, term), value=name)
                await asyncio.sleep(1)

        async def main() -> None:
            candidates = [asyncio.create_task(run(name)) for name in "abc"]
            await trouble(cluster, chance, 6)
            for candidate in candidates:
                candidate.cancel()
            outcomes = await asyncio.gather(*candidates, return_exceptions=True)
            assert all(isinstance(outcome, asyncio.CancelledError) for outcome in outcomes), outcomes

        cluster.run(main())
        assert len(fences) > 3
        assert fences == sorted(set(fences))


@pytest.mark.parametrize("seed", range(2))
def test_transactions_are_one_after_the_other_whoever_fails(seed: int) -> None:
    with closing(AsyncCluster(members=3, seed=seed)) as cluster:
        chance = Random(seed)
        accounts = [f"account/{number}" for number in range(4)]

        async def move(t: AsyncTransaction) -> None:
            found = await t.scan(prefix="account/")
            assert sum(int(kv.value) for kv in found) == 400, "each sees one state"
            source, target = chance.choice(found), chance.choice(accounts)
            amount = chance.randrange(1 + int(source.value))
            if amount == int(source.value):
                t.delete(source.key)  # who has nothing has no account
            else:
                t.add(source.key, -amount)
            t.add(target, amount)

        async def work(name: str) -> None:
            for _ in range(25):
                with suppress(*ENDS):
                    await cluster[name].transact(move)
                await asyncio.sleep(chance.uniform(0, 3))

        async def total(replica: AsyncReplica) -> int:
            return sum(int(kv.value) for kv in await replica.scan(prefix="account/"))

        async def main() -> None:
            for account in accounts:
                await cluster["a"].put(account, "100")
            await asyncio.gather(*(work(name) for name in "abcabc"), trouble(cluster, chance, 5))
            assert await total(await cluster.wait_for_leader()) == 400

        cluster.run(main())


def test_who_is_cut_off_does_not_lead_any_more_and_its_claims_are_free() -> None:
    with Cluster(members=3, seed=1) as cluster:
        jobs = {name: cluster[name].queue("jobs", "json") for name in "abc"}
        jobs["a"].put(1)
        claim, term = jobs["b"].claim(), cluster["b"].election("x").lead("b")
        assert cluster["c"].election("x").leader() == Leader(b"b", term.fence)
        cluster.isolate("b")
        cluster.advance(15)
        assert not claim.held
        assert not term.held
        assert cluster["c"].election("x").leader() is None
        with jobs["c"].claim() as again:
            assert again.value == 1
        cluster.heal()
        with pytest.raises(LockLost):
            claim.done(Add("late"))
        with pytest.raises(LockLost):
            term.proclaim("late")
        assert cluster["a"].get("late") is None
        assert jobs["b"].len() == 0


def test_without_a_quorum_nothing_hangs_and_nothing_is_left_behind() -> None:
    with Cluster(members=3, seed=1) as cluster:
        alone = cluster["a"]
        cluster.isolate("a")
        cluster.advance(10)
        calls: list[Callable[[], object]] = [
            lambda: alone.queue("x").get(1),
            lambda: alone.queue("x").get(0),
            lambda: alone.queue("x").claim(1),
            lambda: alone.queue("x").put(b"1"),
            lambda: alone.queue("x").peek(),
            lambda: alone.election("x").lead(timeout=1),
            lambda: alone.election("x").leader(),
            lambda: alone.transact(lambda t: t.put("a", "1")),
            lambda: alone.transact(lambda t: t.get("a")),
        ]
        for call in calls:
            begun = cluster.now
            with pytest.raises((Unavailable, OutcomeUnknown)) as raised:
                call()
            assert isinstance(raised.value, ReplkvError)
            assert cluster.now - begun < 11
        cluster.heal()
        cluster.advance(30)
        assert [kv.key for kv in cluster["b"].scan(prefix=b"\x00") if b"/item/" not in kv.key] == []


def test_who_is_cancelled_while_it_is_cut_off_leaves_nothing_on_a_lease_that_lives_on() -> None:
    with closing(AsyncCluster(members=3, seed=1)) as cluster:

        async def main() -> None:
            await cluster.wait_for_leader()
            lease = await cluster["a"].lease(600)
            holder = cluster["b"].lock("jobs")
            await holder.acquire()
            waiting = asyncio.create_task(cluster["a"].lock("jobs", lease=lease).acquire())
            await asyncio.sleep(1)
            cluster.isolate("a")
            await asyncio.sleep(10)  # it knows no leader any more
            waiting.cancel()
            await asyncio.sleep(30)  # longer than any call may take
            cluster.heal()
            await asyncio.sleep(10)
            await holder.release()
            assert await cluster["c"].lock("jobs").try_acquire()
            assert not lease.lost.is_set()

        cluster.run(main())


@pytest.mark.parametrize("seed", [10, 23])
def test_a_put_that_arrives_after_it_was_given_up_takes_no_place_on_a_lease_that_lives_on(seed: int) -> None:
    with closing(AsyncCluster(members=3, seed=seed)) as cluster:
        rng = Random(seed)

        async def take(name: str, lease: AsyncLease) -> None:
            with suppress(Unavailable, OutcomeUnknown, LockLost):
                async with cluster[name].lock("jobs", lease=lease):
                    await asyncio.sleep(rng.random() * 0.2)

        async def main() -> None:
            await cluster.wait_for_leader()
            leases = {name: await cluster[name].lease(600) for name in "abc"}
            tasks = []
            for _ in range(120):
                name = rng.choice("abc")
                tasks.append(asyncio.create_task(take(name, leases[name])))
                asyncio.get_running_loop().call_later(rng.random() * 0.3, tasks[-1].cancel)
                await asyncio.sleep(rng.random() * 0.03)
                if rng.random() < 0.1:
                    cluster.isolate(rng.choice("abc"))
                    asyncio.get_running_loop().call_later(rng.random() * 2, cluster.heal)
            cluster.heal()
            await asyncio.gather(*tasks, return_exceptions=True)
            await asyncio.sleep(30)
            assert await cluster["c"].lock("jobs").try_acquire()
            assert not any(lease.lost.is_set() for lease in leases.values())

        cluster.run(main())
