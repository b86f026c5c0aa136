"""A rate limit that all processes share: whoever calls a partner's API, all together may do so 20 times in 2 seconds.

    python examples/rate_limit.py 20 2      # alone

Started as a cluster of three, each process makes about a third of the calls.  Kill one: the others have its part.  Nobody counts for the
others, and no process needs to know how many there are.
"""

from __future__ import annotations

import asyncio
import sys
import time

from replkv import AsyncRateLimiter, AsyncReplica, exit_on_sigterm

AT_A_TIME = 4  # calls that one process has under way


async def call_the_partner() -> str:
    """Make a call, which here says when it was made."""
    return f"called at {time.monotonic():.6f}"


async def work(name: str, limiter: AsyncRateLimiter) -> None:
    """Make one call after the other, as fast as the limit allows."""
    while True:
        await limiter.acquire()  # often without any network: a process takes some of what is free in advance
        print(f"{name} {await call_the_partner()}", flush=True)


async def main(rate: float, per: float) -> None:
    """Call the partner until SIGTERM or Ctrl-C."""
    async with AsyncReplica.from_env() as replica, asyncio.TaskGroup() as tasks:
        await replica.wait_ready()
        limiter = replica.rate_limiter("partner", rate=rate, per=per)  # all tasks of a process share one
        for _ in range(AT_A_TIME):
            tasks.create_task(work(replica.name, limiter))


if __name__ == "__main__":
    exit_on_sigterm()
    asyncio.run(main(float(sys.argv[1]), float(sys.argv[2])))
