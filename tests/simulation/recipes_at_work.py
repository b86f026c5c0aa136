"""Recipes under faults: tasks at all members of a virtual cluster take locks while members are cut off, killed, stopped and started.

``python tests/simulation/recipes_at_work.py FIRST COUNT`` runs so many seeds; what is judged stands at ``Judge``.
"""

from __future__ import annotations

import asyncio
import random
import sys
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any, Final

from attrs import define, field

from replkv import Conflict, LockLost, OutcomeUnknown, ReplkvError, Settings, Unavailable
from replkv.errors import Closed
from replkv.testing import AsyncCluster

TTL: Final = 3.0
TURNS: Final = 6
STRIKES: Final = 10
SETTLED: Final = 240.0
"""Virtual seconds within which everybody is served once the faults are over."""


class Unsound(AssertionError):
    """A recipe broke its promise."""


@define(eq=False)
class Judge:
    """What must hold at every moment.

    K1: of the holders of one lock, at most one believes in it.  K2: fences grow from holder to holder.  K3: writes guarded by a lock are
    carried out in the order of fences.  K4: no more than ``permits`` holders of a semaphore believe in it, and no writer of a
    reader-writer lock beside anybody else.  K5: once faults are over, everybody who waits is served.
    """

    cluster: AsyncCluster
    held: dict[str, list[Any]] = field(factory=dict)
    fences: dict[str, int] = field(factory=dict)
    sights: Counter[str] = field(factory=Counter)

    def enter(self, name: str, lock: Any, most: int = 1) -> None:
        """Take note that somebody has a lock now."""
        believers = [other for other in self.held.setdefault(name, []) if other.held]
        if len(believers) >= most:
            raise Unsound(f"K1: {lock} at {self.cluster.now:.6f} while {believers}")
        if most == 1:
            if lock.fence <= self.fences.get(name, 0):
                raise Unsound(f"K2: {lock} behind fence {self.fences[name]}")
            self.fences[name] = lock.fence
        self.held[name] = [*believers, lock]
        self.sights["taken"] += 1

    def leave(self, name: str, lock: Any) -> None:
        """Take note that somebody gives a lock back."""
        if lock in self.held[name]:
            self.held[name].remove(lock)


async def restless(judge: Judge, rng: random.Random, strikes: int) -> None:
    """Strike members, one after the other, and heal what was struck."""
    cluster, names = judge.cluster, list(judge.cluster.members)
    for _ in range(strikes):
        await asyncio.sleep(rng.uniform(0.1, 2 * TTL))
        name, seconds = rng.choice(names), rng.choice((0.2, 1.0, TTL / 2, TTL * 1.5, TTL * 3))
        strike = rng.choice(("isolate", "kill", "stop", "pause", "flap"))
        judge.sights[strike] += 1
        if strike == "isolate":
            cluster.isolate(name)
            await asyncio.sleep(seconds)
            cluster.heal()
        elif strike == "kill":
            cluster.kill(name, power=rng.random() < 0.5)
            await asyncio.sleep(seconds)
            cluster.restart(name)
        elif strike == "stop":
            cluster.restart(name)
        elif strike == "pause":
            cluster.pause(name, seconds)
        else:
            cluster.partition({name}, set(names) - {name})
            await asyncio.sleep(0.05)
            cluster.heal()


async def locker(judge: Judge, name: str, rng: random.Random, served: Callable[[], object]) -> None:
    """Take a lock again and again, and write what it guards."""
    done = 0
    while done < TURNS:
        replica = judge.cluster[name]
        lock = replica.lock(rng.choice(("x", "y")), ttl=TTL)
        try:
            async with asyncio.timeout(rng.choice((None, None, 2.0))), lock:
                await _work(judge, lock, rng)
                done += 1
        except (LockLost, Unavailable, OutcomeUnknown, Conflict, Closed, TimeoutError) as error:
            judge.sights[type(error).__name__] += 1
            await asyncio.sleep(rng.uniform(0.05, 0.5))
    served()


async def _work(judge: Judge, lock: Any, rng: random.Random) -> None:
    name = repr(lock).split("'")[1]
    judge.enter(name, lock)
    try:
        for _ in range(rng.randrange(4)):
            await asyncio.sleep(rng.choice((0.0, 0.01, 0.3, TTL)))
            if lock.held and [other for other in judge.held[name] if other.held and other is not lock]:
                raise Unsound(f"K1: {judge.held[name]} at {judge.cluster.now:.6f}")
        await lock._surface.put(f"guarded/{name}", str(lock.fence), guard=lock)
    finally:
        judge.leave(name, lock)


async def _judge_writes(judge: Judge) -> None:
    """K3, from the history of the store."""
    for name in ("x", "y"):
        fences: list[int] = []
        async with judge.cluster["a"].watch(f"guarded/{name}", start_revision=1) as watch:
            while (event := await watch.next(0)) is not None:
                fences.append(int(event.kv.value))  # type: ignore[union-attr]  # no marks were asked for
        if fences != sorted(fences):
            raise Unsound(f"K3: {name} was written under the fences {fences}")


def play(seed: int) -> Judge:
    """Run one seed; return what was seen.

    Raises:
        Unsound: a promise was broken.
    """
    rng = random.Random(seed)
    settings = Settings(compact_age=0, compact_revisions=0, compact_bytes=0)
    cluster = AsyncCluster(members=3, seed=seed, settings=settings, patience=10_000)
    judge = Judge(cluster)
    waiting = dict(enumerate("aabbcc"))

    async def main() -> None:
        async with asyncio.TaskGroup() as group:
            strikes = group.create_task(restless(judge, rng, STRIKES))
            for number, name in waiting.copy().items():
                group.create_task(locker(judge, name, random.Random(f"{seed} {number}"), partial(waiting.pop, number)))
            await strikes
            over = cluster.now
            while waiting:  # in virtual time
                if cluster.now > over + SETTLED:
                    raise Unsound(f"K5: {waiting} still wait {SETTLED} s after the last fault")
                await asyncio.sleep(1.0)
        await _judge_writes(judge)

    try:
        cluster.run(main())
    except BaseExceptionGroup as group:
        unsound = group.subgroup(Unsound)
        raise (unsound.exceptions[0] if unsound else group.exceptions[0]) from group
    finally:
        cluster.close()
    return judge


def main() -> None:
    """Run seeds until one fails."""
    first, count = int(sys.argv[1]), int(sys.argv[2])
    sights: Counter[str] = Counter()
    for seed in range(first, first + count):
        try:
            sights += play(seed).sights
        except (Unsound, ReplkvError):
            print(f"seed {seed} failed")
            raise
    print(f"{count} seeds, nothing found:", dict(sights))


if __name__ == "__main__":
    main()
