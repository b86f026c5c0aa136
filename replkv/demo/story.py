"""What the demo does, in its order: found, load, write and read, kill the leader, go on, restart it, stop, compare."""

from __future__ import annotations

import asyncio
import json
import random
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from replkv.demo.ledger import History, Ledger
from replkv.demo.processes import Member, MemberFailedError, MemberGoneError, free_ports
from replkv.demo.screen import Board, Screen
from replkv.demo.traffic import BURST, Traffic

NAMES = ("a", "b", "c")
DATA = Path(__file__).parent / "linux-sysctl.conf"

REFRESH = 0.25
"""Seconds between two looks at the members."""

CATCH_UP_TIMEOUT = 20.0
FAIL_OVER_TIMEOUT = 20.0


class StoryFailedError(Exception):
    """Something that must happen in time did not."""


def read_settings(text: str) -> dict[str, str]:
    """Return the settings of a file in the format of sysctl.conf(5).

    Raises:
        ValueError: a line is none of ``name = value``, a comment, or empty.
    """
    settings = {}
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip() or line.lstrip()[0] in "#;":
            continue
        name, equals, value = line.partition("=")
        if not equals or not name.strip():
            raise ValueError(f"line {number} is no setting: {line!r}")
        settings[name.strip()] = value.strip()
    return settings


class Story:
    """One run of the demo.

    Args:
        root: an empty directory for the members' data, logs and histories.
        seconds: how long the members are kept busy.
        screen: where to show it.
    """

    def __init__(self, root: Path, seconds: float, screen: Screen) -> None:
        ports = free_ports(len(NAMES), random.Random())
        cluster = {name: f"127.0.0.1:{port}" for name, port in zip(NAMES, ports, strict=True)}
        self.members = {name: Member(name, root, cluster) for name in NAMES}
        self.ledger = Ledger(read_settings(DATA.read_text(encoding="utf-8")))
        self.board = Board()
        self._root = root
        self._seconds = seconds
        self._screen = screen
        self._traffic = Traffic(list(self.members.values()), self.ledger)

    async def run(self) -> list[str]:
        """Tell the story and return the problems found; none is the proof.

        Raises:
            StoryFailedError, MemberGoneError, MemberFailedError: it could not be told to its end.
        """
        watching = asyncio.create_task(self._watch())
        try:
            await self._found()
            await self._load()
            self._traffic.start()
            await asyncio.sleep(self._seconds / 3)
            victim = await self._kill_leader()
            await asyncio.sleep(self._seconds / 3)
            await self._restart(victim)
            await asyncio.sleep(self._seconds / 3)
            await self._traffic.stop()
            return await self._compare()
        finally:
            watching.cancel()
            self._traffic.cancel()
            await asyncio.gather(*(member.stop() for member in self.members.values()))
            self._write_record()

    # -- the scenes

    async def _found(self) -> None:
        await asyncio.gather(*(member.start() for member in self.members.values()))
        leader = await self._leader()
        self._screen.say(f"three members founded a cluster, {leader.name} leads")

    async def _load(self) -> None:
        writes = self.ledger.first_writes()
        bursts = [writes[first : first + BURST] for first in range(0, len(writes), BURST)]
        members = list(self.members.values())
        loaded = await asyncio.gather(*(self._traffic.write(members[i % len(members)], burst) for i, burst in enumerate(bursts)))
        if not all(loaded):
            raise StoryFailedError("not every setting of the data set was acknowledged, though all members are up")
        self._screen.say(f"{len(writes)} settings of {DATA.name} loaded, one key each")

    async def _kill_leader(self) -> Member:
        victim = await self._leader()
        loop = asyncio.get_running_loop()
        killed = loop.time()
        await victim.kill()
        self._screen.say(f"killed the leader {victim.name} with SIGKILL while it was writing")
        survivors = [member for member in self.members.values() if member is not victim]
        probes = [asyncio.create_task(self._first_write(member)) for member in survivors]
        done, late = await asyncio.wait(probes, timeout=FAIL_OVER_TIMEOUT, return_when=asyncio.FIRST_COMPLETED)
        self.board.fail_over = loop.time() - killed
        for probe in late:
            probe.cancel()
        if not done:
            raise StoryFailedError(f"no write was acknowledged within {FAIL_OVER_TIMEOUT:.0f} s of the kill")
        leader = await self._leader()
        self._screen.say(
            f"{leader.name} leads now; the first write after the kill was acknowledged {self.board.fail_over * 1e3:.0f} ms after it"
        )
        return victim

    async def _first_write(self, member: Member) -> None:
        while not await self._traffic.write(member, self.ledger.next_writes(1)):
            pass

    async def _restart(self, member: Member) -> None:
        due = max(self.ledger.acknowledged.values())
        await member.start()
        await self._caught_up(member, due)
        self._screen.say(f"restarted {member.name}: recovered from its log and caught up beyond revision {due:,}")

    async def _compare(self) -> list[str]:
        statuses = await self._statuses()
        last = max(status["revision"] for status in statuses.values())
        await asyncio.gather(*(self._caught_up(member, last) for member in self.members.values()))
        histories = {name: await self._history(member, last) for name, member in self.members.items()}
        problems = self.ledger.problems(histories)
        if not problems:
            self._screen.say(
                f"all {len(self.ledger.acknowledged):,} acknowledged writes are on all three members, each once and at its revision; "
                f"{self.ledger.reads:,} linearizable reads, none stale"
            )
        return problems

    # -- what the scenes need

    async def _statuses(self) -> dict[str, dict[str, Any]]:
        running = [member for member in self.members.values() if member.running.is_set()]
        answers = await asyncio.gather(*(member.ask("status") for member in running), return_exceptions=True)
        return {member.name: answer for member, answer in zip(running, answers, strict=True) if isinstance(answer, dict)}

    async def _leader(self) -> Member:
        """Wait until all that run agree on a leader that runs."""
        deadline = asyncio.get_running_loop().time() + FAIL_OVER_TIMEOUT
        while asyncio.get_running_loop().time() < deadline:
            statuses = await self._statuses()
            named = Counter(status["leader"] for status in statuses.values())
            leader = self.members.get(next(iter(named), None) or "")
            if len(named) == 1 and leader is not None and leader.running.is_set():
                return leader
            await asyncio.sleep(0.02)
        raise StoryFailedError(f"no leader that all members know within {FAIL_OVER_TIMEOUT:.0f} s")

    async def _caught_up(self, member: Member, revision: int) -> None:
        deadline = asyncio.get_running_loop().time() + CATCH_UP_TIMEOUT
        while (await member.ask("status"))["revision"] < revision:
            if asyncio.get_running_loop().time() > deadline:
                raise StoryFailedError(f"{member.name} did not reach revision {revision} within {CATCH_UP_TIMEOUT:.0f} s")
            await asyncio.sleep(0.02)

    async def _history(self, member: Member, revision: int) -> History:
        path = self._root / f"{member.name}.history.jsonl"
        await member.ask("history", revision=revision, path=str(path))
        return _read_lines(path)

    async def _watch(self) -> None:
        """Keep the board current and show it."""
        loop = asyncio.get_running_loop()
        begun, before, writes, reads = loop.time(), loop.time(), 0, 0
        while True:
            statuses = await self._statuses()
            now = loop.time()
            board, ledger = self.board, self.ledger
            board.members = {name: (member.pid, statuses.get(name)) for name, member in self.members.items()}
            board.elapsed, board.acknowledged = now - begun, len(ledger.acknowledged)
            board.writes_per_second = (len(ledger.acknowledged) - writes) / max(now - before, 1e-3)
            board.reads_per_second = (ledger.reads - reads) / max(now - before, 1e-3)
            before, writes, reads = now, len(ledger.acknowledged), ledger.reads
            self._screen.show(board)
            await asyncio.sleep(REFRESH)

    def _write_record(self) -> None:
        """Leave the parent's record beside the members' histories."""
        with (self._root / "acknowledged.jsonl").open("w", encoding="utf-8") as file:
            for (key, value), revision in self.ledger.acknowledged.items():
                file.write(json.dumps((revision, key, value)) + "\n")


def _read_lines(path: Path) -> Sequence[tuple[int, str, str]]:
    with path.open(encoding="utf-8") as file:
        return [(revision, key, value) for revision, key, value in map(json.loads, file)]


FAILURES = (StoryFailedError, MemberGoneError, MemberFailedError)
"""What ends a story before its end."""
