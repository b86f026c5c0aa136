"""The demo's member processes, seen from their parent: start, ask, kill, stop.  It ends only what it started."""

from __future__ import annotations

import asyncio
import json
import random
import socket
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

PORTS = range(20_000, 32_000)
"""Below the ports that systems give to outgoing connections, so that a killed member's port is still free at its restart."""

START_TIMEOUT = 20.0
ANSWER_TIMEOUT = 15.0
STOP_TIMEOUT = 8.0


class MemberGoneError(Exception):
    """The member's process ended before it answered."""


class MemberFailedError(Exception):
    """The member answered with an error."""


def free_ports(count: int, rng: random.Random) -> list[int]:
    """Return ports on which nobody listens on loopback at this moment."""
    found: list[int] = []
    for port in rng.sample(PORTS, len(PORTS)):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) and _can_bind(port):
                found.append(port)
        if len(found) == count:
            return found
    raise MemberFailedError(f"no {count} free ports between {PORTS.start} and {PORTS.stop} on 127.0.0.1")


def _can_bind(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


class Member:
    """A member process: questions go to its stdin, answers come from its stdout, its log goes to a file."""

    def __init__(self, name: str, root: Path, cluster: Mapping[str, str]) -> None:
        self.name = name
        self.log = root / f"{name}.log"
        self._command = [sys.executable, "-m", "replkv.demo.member", name, str(root / name), json.dumps(cluster)]
        self._process: asyncio.subprocess.Process | None = None
        self._listener: asyncio.Task[None] | None = None
        self._waiting: dict[int, asyncio.Future[Any]] = {}
        self._asked = 0
        self.running = asyncio.Event()

    @property
    def pid(self) -> int | None:
        """The process id, while it runs."""
        return self._process.pid if self._process is not None and self.running.is_set() else None

    async def start(self) -> None:
        """Start the process and wait until the member takes part.

        Raises:
            MemberGoneError, MemberFailedError: it did not come up.
        """
        with self.log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                *self._command, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=log, start_new_session=True
            )
        self._listener = asyncio.create_task(self._listen(self._process))
        self.running.set()
        await self.ask("ready", timeout=START_TIMEOUT)

    async def ask(self, what: str, **arguments: Any) -> Any:
        """Ask the member and return its answer.

        Raises:
            MemberGoneError: the process ended, or is silent.
            MemberFailedError: the answer is an error.
        """
        process = self._process
        if process is None or process.stdin is None or not self.running.is_set():
            raise MemberGoneError(f"{self.name} is not running")
        self._asked += 1
        reply: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._waiting[self._asked] = reply
        process.stdin.write(json.dumps({"id": self._asked, "ask": what, "with": arguments}).encode() + b"\n")
        try:
            return await asyncio.wait_for(reply, ANSWER_TIMEOUT + arguments.get("timeout", 0.0))
        except TimeoutError:
            raise MemberGoneError(f"{self.name} does not answer; see {self.log}") from None

    async def _listen(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdout is not None  # noqa: S101  # it was started with a pipe
        async for line in process.stdout:
            answer = json.loads(line)
            reply = self._waiting.pop(answer["id"])
            if reply.done():
                continue
            if "error" in answer:
                reply.set_exception(MemberFailedError(f"{self.name}: {answer['error']}"))
            else:
                reply.set_result(answer["result"])
        self.running.clear()
        for reply in self._waiting.values():
            if not reply.done():
                reply.set_exception(MemberGoneError(f"{self.name} ended; see {self.log}"))
        self._waiting.clear()

    async def kill(self) -> None:
        """End the process with SIGKILL, as a crash would."""
        if self._process is not None and self._process.returncode is None:
            self.running.clear()
            self._process.kill()
        await self._join()

    async def stop(self) -> None:
        """Let the member close; one that does not is killed."""
        if self._process is None or self._process.stdin is None:
            return
        self._process.stdin.close()
        try:
            await asyncio.wait_for(self._process.wait(), STOP_TIMEOUT)
        except TimeoutError:
            await self.kill()
        await self._join()

    async def _join(self) -> None:
        if self._process is not None:
            await self._process.wait()
        if self._listener is not None:
            await self._listener
