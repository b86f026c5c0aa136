"""Sharded workers: the shards of some data are spread over the workers there are, and no shard is worked on by two of them at a time.

    python examples/sharding.py 16       # one worker, alone, has all 16

Started as a cluster of three, each worker has some of the shards.  Kill one: when its lease ends, the others have its shards.  Start it
again: it gets its part back.

Who should have a shard needs no boss: each worker sees who is there, and computes it (rendezvous hashing: who comes or goes moves only its
own shards).  For a moment two may see different workers; so who *has* a shard is decided by a lock, and the cluster refuses what is
written by one who had it.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterable
from contextlib import suppress
from hashlib import sha256

from replkv import AsyncReplica, LockLost, exit_on_sigterm


def owner(shard: int, workers: Iterable[str]) -> str | None:
    """Return which worker should have a shard: everybody who sees the same workers finds the same one."""
    return max(workers, key=lambda worker: sha256(f"{shard} {worker}".encode()).digest(), default=None)


async def tend(replica: AsyncReplica, shard: int) -> None:
    """Work on a shard until this task is cancelled, which gives it back."""
    while True:
        with suppress(LockLost):  # this process was cut off, or stood still: wait for another turn
            async with replica.lock(f"shards/{shard}", ttl=3) as lock:  # when the worker that had it has given it back, or is gone
                print(f"{replica.name} has shard {shard}", flush=True)
                while True:
                    await asyncio.sleep(1)  # a piece of work
                    await replica.put(f"last-worked-on/{shard}", replica.name, guard=lock, timeout=None)


async def main(shards: int) -> None:
    """Have this worker's part of the shards, until SIGTERM or Ctrl-C."""
    async with AsyncReplica.from_env() as replica, asyncio.TaskGroup() as group:
        await replica.wait_ready()
        registry = replica.registry("workers")
        async with registry.register(replica.name, "at work", ttl=3):
            workers = await registry.view()
            changes = workers.changes()  # before the first look, so that none is missed
            tending: dict[int, asyncio.Task[None]] = {}
            while True:
                wanted = {shard for shard in range(shards) if owner(shard, workers) == replica.name}
                for shard in tending.keys() - wanted:
                    tending.pop(shard).cancel()
                for shard in wanted - tending.keys():
                    tending[shard] = group.create_task(tend(replica, shard))
                await anext(changes)


if __name__ == "__main__":
    exit_on_sigterm()
    asyncio.run(main(int(sys.argv[1])))
