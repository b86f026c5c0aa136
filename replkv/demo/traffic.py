"""The demo's load: every member's process writes and reads in bursts, as the requests of an application would come in."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence

from replkv.demo.ledger import UNKNOWN, Ledger, Write
from replkv.demo.processes import Member, MemberFailedError, MemberGoneError

BURST = 20
WRITERS = 2
"""Bursts of writes that each member has in flight."""

PAUSE = 0.01
"""Seconds between one burst and the next; so that the machine has something left for the elections it is to show."""


class Traffic:
    """Endless bursts of writes and reads on all members; what came of them is in the ledger."""

    def __init__(self, members: Sequence[Member], ledger: Ledger) -> None:
        self.ledger = ledger
        self._members = members
        self._rng = random.Random()
        self._stopping = False
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Begin on all members; one that is not running joins in when it does."""
        for member in self._members:
            self._tasks += [asyncio.create_task(self._writes(member)) for _ in range(WRITERS)]
            self._tasks.append(asyncio.create_task(self._reads(member)))

    async def stop(self) -> None:
        """Begin nothing new, and wait for the answers that are due.

        Raises:
            MemberFailedError: a member could not answer a burst.
        """
        self._stopping = True
        await asyncio.gather(*self._tasks)

    def cancel(self) -> None:
        """Drop everything; what has no answer yet stays open in the ledger."""
        for task in self._tasks:
            task.cancel()

    async def write(self, member: Member, writes: list[Write]) -> bool:
        """Have one member write, record the outcomes, and return whether all of them were acknowledged."""
        try:
            outcomes = await member.ask("put", writes=writes)
        except MemberGoneError:
            outcomes = [UNKNOWN] * len(writes)
        for write, outcome in zip(writes, outcomes, strict=True):
            self.ledger.settle(write, outcome)
        return all(isinstance(outcome, int) for outcome in outcomes)

    async def _writes(self, member: Member) -> None:
        while not self._stopping:
            if member.running.is_set():
                await self.write(member, self.ledger.next_writes(BURST))
            await asyncio.sleep(PAUSE)

    async def _reads(self, member: Member) -> None:
        while not self._stopping:
            if member.running.is_set():
                await self._read(member, self._rng.sample(self.ledger.keys, BURST))
            await asyncio.sleep(PAUSE)

    async def _read(self, member: Member, keys: list[str]) -> None:
        floors = [self.ledger.floor(key) for key in keys]
        try:
            revisions = await member.ask("get", keys=keys)
        except (MemberGoneError, MemberFailedError):
            return  # no answer is no lie
        for key, floor, revision in zip(keys, floors, revisions, strict=True):
            self.ledger.read(member.name, key, floor, revision)
