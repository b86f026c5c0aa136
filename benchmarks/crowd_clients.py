"""Many clients in one process, each with leases of its own: ``python -m benchmarks.crowd_clients``; asked as ``benchmarks.member`` is."""

from __future__ import annotations

import asyncio
import itertools
import json
import sys
from collections.abc import Callable
from typing import Any

from benchmarks.filled import resident
from replkv import codec
from replkv.aio import connect
from replkv.client import AsyncClient
from replkv.keeper import Keeper
from replkv.leasing import AsyncLease
from replkv.ops import KeepAlive
from replkv.proposals import Call

AT_A_TIME = 32
"""How many clients connect or ask for a lease at the same moment."""

PATIENCE = 60.0
"""Seconds that a client waits for an answer."""


class Clients:
    """The clients, and answers to the parent's requests."""

    def __init__(self) -> None:
        self._clients: list[AsyncClient] = []
        self._leases: list[AsyncLease] = []
        self._kept_alive = 0
        self._count = itertools.count(1)
        self._gate = asyncio.Semaphore(AT_A_TIME)

    async def connect(self, targets: list[str], count: int) -> None:
        """Connect so many clients, to the targets in turn."""
        clients = [connect(targets[number % len(targets)], timeout=PATIENCE) for number in range(count)]
        self._clients += clients
        await asyncio.gather(*(self._open(client) for client in clients))

    async def _open(self, client: AsyncClient) -> None:
        async with self._gate:
            await client.open()
        self._watch_keeper(client._engine().keeper)  # noqa: SLF001  # no call tells

    def _watch_keeper(self, keeper: Keeper) -> None:
        """Count the keep-alives that a client sends, one for all of its leases."""
        keep_alive, submit = codec.pack(KeepAlive(keeper.number).to_wire()), keeper._submit  # noqa: SLF001

        def counted(command: bytes, then: Callable[[Call], None]) -> None:
            if command == keep_alive:
                self._kept_alive = next(self._count)
            submit(command, then)

        keeper._submit = counted  # noqa: SLF001

    async def grant(self, ttl: float) -> None:
        """Grant each client one more lease, which it keeps alive from now on."""
        await asyncio.gather(*(self._grant(client, ttl) for client in self._clients))

    async def _grant(self, client: AsyncClient, ttl: float) -> None:
        async with self._gate:
            self._leases.append(await client.lease(ttl, timeout=PATIENCE))

    async def state(self) -> dict[str, int]:
        """Return how many leases are held, how many keep-alives were sent, and how much memory this takes."""
        held = sum(not lease.lost.is_set() for lease in self._leases)
        return {"clients": len(self._clients), "held": held, "kept_alive": self._kept_alive, "resident": resident()}

    async def close(self) -> None:
        """Close all clients."""
        await asyncio.gather(*(client.close(0.0) for client in self._clients))


async def serve() -> None:
    """Answer until stdin ends."""
    clients, loop = Clients(), asyncio.get_running_loop()
    try:
        while line := await loop.run_in_executor(None, sys.stdin.readline):
            request: dict[str, Any] = json.loads(line)
            print(json.dumps(await getattr(clients, request["do"])(*request["with"])), flush=True)
    finally:
        await clients.close()


if __name__ == "__main__":
    sys.setswitchinterval(0.1)  # each thread that waits for the interpreter wakes that often: by default hundreds do 200 times a second
    asyncio.run(serve())
