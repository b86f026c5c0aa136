"""Recipes under faults: tasks at all members of a virtual cluster hold what they share while members are cut off, killed and started.

``python tests/simulation/recipes_at_work.py FIRST COUNT`` runs so many seeds of each game; what is judged stands at ``Judge``.
"""

from __future__ import annotations

import asyncio
import random
import sys
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any, Final

from attrs import define, field, frozen

from replkv import Conflict, LockLost, OutcomeUnknown, ReplkvError, Settings, Unavailable
from replkv.errors import Closed
from replkv.testing import AsyncCluster

TTL: Final = 3.0
TURNS: Final = 6
STRIKES: Final = 10
TASKS: Final = "aabbcc"
"""The member of each task."""
WHOLE: Final = 12
PERMITS: Final = 2
SETTLED: Final = 240.0
"""Virtual seconds within which everybody is served once the faults are over."""


class Unsound(AssertionError):
    """A recipe broke its promise."""


@frozen(eq=False)
class Stake:
    """What a task asks for.

    Args:
        rule: that is broken if more is held than there is.
        place: what is shared.
        holder: an object that is used as a lock is.
        share: how much of the place its holder has, of ``WHOLE``.
    """

    rule: str
    place: str
    holder: Any
    share: int


def locks(replica: Any, rng: random.Random) -> Stake:
    """Return one of two locks."""
    name = rng.choice(("x", "y"))
    return Stake("K1", name, replica.lock(name, ttl=TTL), WHOLE)


def semaphores(replica: Any, rng: random.Random) -> Stake:
    """Return a permit of a semaphore."""
    del rng
    return Stake("K4", "s", replica.semaphore("s", PERMITS, ttl=TTL), WHOLE // PERMITS)


def rwlocks(replica: Any, rng: random.Random) -> Stake:
    """Return one side of a reader-writer lock; all tasks may read at once."""
    lock = replica.rwlock("r", ttl=TTL)
    return Stake("K4", "r", lock.write(), WHOLE) if rng.random() < 0.4 else Stake("K4", "r", lock.read(), WHOLE // len(TASKS))


Game = Callable[[Any, random.Random], Stake]
GAMES: Final[dict[str, Game]] = {"locks": locks, "semaphores": semaphores, "rwlocks": rwlocks}


@define(eq=False)
class Judge:
    """What must hold at every moment.

    K1: of the holders of one lock, at most one believes in it.  K2: fences grow from holder to holder, where one holds alone.  K3: writes
    guarded by who holds alone are carried out in the order of fences.  K4: no more holders of a semaphore believe in it than it has
    permits, and no writer of a reader-writer lock beside anybody else.  K5: once faults are over, everybody who waits is served.
    """

    cluster: AsyncCluster
    held: dict[str, list[Stake]] = field(factory=dict)
    fences: dict[str, int] = field(factory=dict)
    sights: Counter[str] = field(factory=Counter)

    def enter(self, stake: Stake) -> None:
        """Take note that somebody holds something now."""
        self.held[stake.place] = [*self.held.get(stake.place, []), stake]
        self.look(stake)
        if stake.share == WHOLE:
            if stake.holder.fence <= self.fences.get(stake.place, 0):
                raise Unsound(f"K2: {stake.holder} behind fence {self.fences[stake.place]}")
            self.fences[stake.place] = stake.holder.fence
        self.sights["taken"] += 1

    def look(self, stake: Stake) -> None:
        """See that those who believe that they hold something have no more than there is."""
        believers = [each for each in self.held[stake.place] if each.holder.held]
        if sum(each.share for each in believers) > WHOLE:
            raise Unsound(f"{stake.rule}: {[each.holder for each in believers]} at {self.cluster.now:.6f}")
        self.sights["together"] += len(believers) > 1

    def leave(self, stake: Stake) -> None:
        """Take note that somebody gives something back."""
        self.held[stake.place].remove(stake)


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


async def holding(judge: Judge, ask: Game, name: str, rng: random.Random, served: Callable[[], object]) -> None:
    """Hold something again and again, and write what it guards."""
    done = 0
    while done < TURNS:
        stake = ask(judge.cluster[name], rng)
        try:
            async with asyncio.timeout(rng.choice((None, None, 2.0))), stake.holder:
                await _work(judge, stake, rng)
                done += 1
        except (LockLost, Unavailable, OutcomeUnknown, Conflict, Closed, TimeoutError) as error:
            judge.sights[type(error).__name__] += 1
            await asyncio.sleep(rng.uniform(0.05, 0.5))
    served()


async def _work(judge: Judge, stake: Stake, rng: random.Random) -> None:
    lock = stake.holder
    judge.enter(stake)
    try:
        for _ in range(rng.randrange(4)):
            await asyncio.sleep(rng.choice((0.0, 0.01, 0.3, TTL)))
            judge.look(stake)
        await lock._surface.put(f"guarded/{stake.place}/{'alone' if stake.share == WHOLE else 'shared'}", str(lock.fence), guard=lock)
    finally:
        judge.leave(stake)


async def _judge_writes(judge: Judge) -> None:
    """K3, from the history of the store."""
    for place in judge.fences:
        fences: list[int] = []
        async with judge.cluster["a"].watch(f"guarded/{place}/alone", start_revision=1) as watch:
            while (event := await watch.next(0)) is not None:
                fences.append(int(event.kv.value))  # type: ignore[union-attr]  # no marks were asked for
        if fences != sorted(fences):
            raise Unsound(f"K3: {place} was written under the fences {fences}")


def play(seed: int, ask: Game) -> Judge:
    """Run one seed of a game; return what was seen.

    Raises:
        Unsound: a promise was broken.
    """
    rng = random.Random(seed)
    settings = Settings(compact_age=0, compact_revisions=0, compact_bytes=0)
    cluster = AsyncCluster(members=3, seed=seed, settings=settings, patience=10_000)
    judge = Judge(cluster)
    waiting = dict(enumerate(TASKS))

    async def main() -> None:
        async with asyncio.TaskGroup() as group:
            strikes = group.create_task(restless(judge, rng, STRIKES))
            for number, name in waiting.copy().items():
                group.create_task(holding(judge, ask, name, random.Random(f"{seed} {number}"), partial(waiting.pop, number)))
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
    """Run seeds of each game until one fails."""
    first, count = int(sys.argv[1]), int(sys.argv[2])
    for game, ask in GAMES.items():
        sights: Counter[str] = Counter()
        for seed in range(first, first + count):
            try:
                sights += play(seed, ask).sights
            except (Unsound, ReplkvError):
                print(f"seed {seed} of {game} failed")
                raise
        print(f"{count} seeds of {game}, nothing found:", dict(sights))


if __name__ == "__main__":
    main()
