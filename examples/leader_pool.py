"""A pool of workers that runs on one host at a time: sources that may be polled by one process only, and must always be polled by one.

    python examples/leader_pool.py 4       # four workers; alone

Started as a cluster of three, the four workers run in one of the processes.  Kill it, or stop it with SIGSTOP: after ``ttl`` the workers
run in another one, and each goes on where its source had been read to.  When the stopped process wakes up (SIGCONT), its workers are
cancelled, and what they still try to store is refused.
"""

from __future__ import annotations

import asyncio
import sys

from replkv import AsyncReplica, AsyncTerm, exit_on_sigterm


async def fetch(source: int, position: int) -> list[str]:
    """Return what a source has after a position; this one has a record every tenth of a second."""
    await asyncio.sleep(0.1)
    return [f"record {position + 1} of source {source}"]


async def follow(replica: AsyncReplica, term: AsyncTerm, source: int) -> None:
    """Read a source from where it had been read to, whoever did that."""
    key = f"positions/{source}"
    found = await replica.get(key, timeout=None)
    position = 0 if found is None else int(found.value)
    while True:
        records = await fetch(source, position)
        position += len(records)
        await replica.put(key, str(position), guard=term, timeout=None)  # refused with LockLost if another process leads by now
        print(f"{replica.name} has read {records[-1]}", flush=True)


async def work(replica: AsyncReplica, term: AsyncTerm, sources: int) -> None:
    """Run the pool; cancelled as soon as the term is lost."""
    print(f"{replica.name} leads", flush=True)
    async with asyncio.TaskGroup() as pool:
        for source in range(sources):
            pool.create_task(follow(replica, term, source))


async def main(sources: int) -> None:
    """Lead or wait to lead, until SIGTERM or Ctrl-C."""
    async with AsyncReplica.from_env() as replica:
        await replica.wait_ready()
        await replica.election("pool", ttl=3).run(lambda term: work(replica, term, sources), value=replica.name)


if __name__ == "__main__":
    exit_on_sigterm()
    asyncio.run(main(int(sys.argv[1])))
