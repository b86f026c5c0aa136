"""Clusters of real processes for tests: start, ask, kill, pause, stop.  They end only what they started."""

from __future__ import annotations

import itertools
import json
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")

PROGRAM = Path(__file__).with_name("member_process.py")
ROOT = PROGRAM.parents[2]
PATIENCE = 30.0  # s; what is waited for takes a second or two on a quiet machine
UNKNOWN = ("OutcomeUnknown", "Gone")
"""Errors after which a write may have been applied."""


def eventually(condition: Callable[[], T], timeout: float = PATIENCE, pause: float = 0.01) -> T:
    """Return the condition's first true value."""
    give_up = time.monotonic() + timeout
    while not (value := condition()):
        assert time.monotonic() < give_up, f"not within {timeout} s"
        time.sleep(pause)
    return value


def free_ports(count: int) -> list[int]:
    """Return ports on which nobody listens, below those that systems give to outgoing connections: they stay free for a restart."""
    found: list[int] = []
    for port in random.sample(range(12_000, 20_000), 200):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        found.append(port)
        if len(found) == count:
            return found
    raise AssertionError("no free ports")


class CallError(Exception):
    """The member answered with an error, or its process was gone: ``kind`` is the error's class."""

    def __init__(self, kind: str, text: str, unreachable: tuple[str, ...] = ()) -> None:
        super().__init__(f"{kind}: {text}")
        self.kind = kind
        self.text = text
        self.unreachable = unreachable


class Member:
    """A member's process, run after run."""

    def __init__(self, name: str, root: Path, **arguments: Any) -> None:
        self.name = name
        self.data_dir = root / name
        self.arguments = {"name": name, "data_dir": str(self.data_dir), **arguments}
        self.log = root / f"{name}.log"
        self._process: subprocess.Popen[str] | None = None
        self._reader: threading.Thread | None = None
        self._numbers = itertools.count(1)
        self._waiting: dict[int, Future[Any]] = {}
        self._lock = threading.Lock()

    @property
    def process(self) -> subprocess.Popen[str]:
        assert self._process is not None, f"{self.name} was not started"
        return self._process

    def start(self) -> Member:
        """Start the process and wait until its Replica is open; raises CallError where the constructor did."""
        opened: Future[Any] = Future()
        self._waiting = {0: opened}
        with self.log.open("a") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-W", "error", str(PROGRAM), json.dumps(self.arguments)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                bufsize=1,
                env={**os.environ, "PYTHONPATH": str(ROOT)},
            )
        self._reader = threading.Thread(target=self._read, args=(self._process, self._waiting), daemon=True)
        self._reader.start()
        opened.result(PATIENCE)
        return self

    def _read(self, process: subprocess.Popen[str], waiting: dict[int, Future[Any]]) -> None:
        assert process.stdout is not None
        for line in process.stdout:
            answer = json.loads(line)
            future = waiting.pop(answer["id"])
            if "error" in answer:
                future.set_exception(CallError(answer["error"], answer["text"], tuple(answer.get("unreachable", ()))))
            else:
                future.set_result(answer["result"])
        with self._lock:
            lost = list(waiting.values())
            waiting.clear()
        for future in lost:
            future.set_exception(CallError("Gone", f"{self.name} ended"))

    def ask(self, call: str, *args: Any, **kw: Any) -> Future[Any]:
        """Begin a call."""
        number, future = next(self._numbers), Future[Any]()
        with self._lock:
            waiting = self._waiting
            waiting[number] = future
        try:
            assert self.process.stdin is not None
            self.process.stdin.write(json.dumps({"id": number, "call": call, "args": args, "kw": kw}) + "\n")
            self.process.stdin.flush()
        except (BrokenPipeError, ValueError):
            if waiting.pop(number, None) is not None:
                future.set_exception(CallError("NeverAsked", f"{self.name} had ended before"))
        if self.process.poll() is not None and not (self._reader and self._reader.is_alive()) and waiting.pop(number, None) is not None:
            future.set_exception(CallError("Gone", f"{self.name} ended"))
        return future

    def call(self, call: str, *args: Any, **kw: Any) -> Any:
        """Call the Replica in the process, or its Host; raises CallError."""
        return self.ask(call, *args, **kw).result(PATIENCE)

    def kill(self) -> None:
        """End the process with SIGKILL."""
        self.process.kill()
        self._join()

    def stop(self) -> float:
        """Let the process close its Replica and end; return the seconds it took."""
        began = time.monotonic()
        assert self.process.stdin is not None
        self.process.stdin.close()
        assert self.process.wait(PATIENCE) == 0, self.log.read_text()
        self._join()
        return time.monotonic() - began

    def pause(self) -> None:
        self.process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        self.process.send_signal(signal.SIGCONT)

    def discard(self) -> None:
        """End whatever still runs."""
        if self._process is not None:
            self._process.kill()
            self._join()

    def _join(self) -> None:
        self.process.wait()
        if self._reader is not None:
            self._reader.join(PATIENCE)
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                try:
                    pipe.close()
                except BrokenPipeError:
                    pass


class Cluster:
    """Three members on loopback."""

    def __init__(self, root: Path, names: str = "abc", **arguments: Any) -> None:
        addresses = {name: f"127.0.0.1:{port}" for name, port in zip(names, free_ports(len(names)), strict=True)}
        self.addresses = addresses
        self.members = {name: Member(name, root, cluster=addresses, **arguments) for name in names}

    def __enter__(self) -> Cluster:
        return self

    def __exit__(self, *_: object) -> None:
        for member in self.members.values():
            member.discard()

    def __getitem__(self, name: str) -> Member:
        return self.members[name]

    def __iter__(self) -> Any:
        return iter(self.members.values())

    def start(self) -> Cluster:
        """Start all members at the same time, and wait until each is ready."""
        threads = [threading.Thread(target=member.start) for member in self]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(PATIENCE)
        self.wait_ready()
        return self

    def wait_ready(self) -> None:
        for ready in [member.ask("wait_ready", timeout=PATIENCE) for member in self]:
            ready.result(PATIENCE)

    def leader(self, *, but: str | None = None) -> Member:
        """Wait until all running members, or all but one, name the same leader, and return it."""

        def agreed() -> Member | None:
            named = {member.call("status")["raft_leader"] for member in self if member.name != but and member.process.poll() is None}
            (name, *others) = named
            return self.members[name] if not others and name is not None and name != but else None

        return eventually(agreed)

    def others(self, member: Member) -> list[Member]:
        return [other for other in self if other is not member]

    def state(self) -> dict[str, Any]:
        """Wait until all members are equal, by digest, and return the state as a linearizable scan shows it, per member."""
        eventually(lambda: len({json.dumps(member.call("internals")["digest"]) for member in self}) == 1)
        return {member.name: member.call("scan") for member in self}
