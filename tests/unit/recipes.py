"""What tests of recipes share: a member with short times, what recipes have left in its store, and leases that are lost."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from eventual import PATIENCE

from replkv import AsyncReplica, Replica, Settings
from replkv.ops import Revoke
from replkv.plans import Write

FAST = Settings(heartbeat=0.02, promise=0.03, election_timeout=0.3)
RESERVED = b"\x00"


def in_line(replica: Replica) -> int:
    """Return how many keys of recipes there are."""
    return replica.scan(prefix=RESERVED, count_only=True).count


async def line_of(replica: AsyncReplica) -> int:
    """Return how many keys of recipes there are."""
    return (await replica.scan(prefix=RESERVED, count_only=True)).count


def revoke(replica: Replica, lease: int) -> None:
    """Have a lease lost."""
    replica._run(Write(Revoke(lease)), None)


def lose(replica: AsyncReplica, lease: int) -> asyncio.Task[Any]:
    """Have a lease lost, soon."""
    return asyncio.create_task(replica._run(Write(Revoke(lease)), None))


def awaited(test: Callable[[AsyncReplica], Any]) -> Callable[[], None]:
    """Return a test of asyncio as one that pytest can call."""

    def run() -> None:
        async def main() -> None:
            async with asyncio.timeout(PATIENCE), AsyncReplica(settings=FAST) as replica:
                await test(replica)

        asyncio.run(main())

    run.__name__ = test.__name__
    return run


def keys_of(replica: Replica, kind: str, part: str) -> int:
    """Return how many keys recipes of a kind have in a part of theirs."""
    return sum(f"/{part}" in kv.key_text for kv in replica.scan(prefix=f"\0replkv/{kind}/", keys_only=True))


async def has_keys(replica: AsyncReplica, prefix: bytes, count: int) -> None:
    """Wait until there are so many keys below a prefix."""
    while (await replica.scan(prefix=prefix, count_only=True)).count != count:  # noqa: ASYNC110  # there is no event for it
        await asyncio.sleep(0)
