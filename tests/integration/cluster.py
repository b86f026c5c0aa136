"""Clusters of real processes for tests: start, ask, kill, pause, stop.  They end only what they started."""

from __future__ import annotations

import contextlib
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
from typing import Any, Self, TypeVar

from nursery import Born, can_fork, nursery

T = TypeVar("T")

PROGRAM = Path(__file__).with_name("member_process.py")
ROOT = PROGRAM.parents[2]
PATIENCE = 30.0  # s; what is waited for takes a second or two on a quiet machine
UNKNOWN = ("OutcomeUnknown", "Gone")
"""Errors after which a write may have been applied."""


def eventually(condition: Callable[[], T | None], timeout: float = PATIENCE, pause: float = 0.01) -> T:
    """Return the condition's first true value."""
    give_up = time.monotonic() + timeout
    while not (value := condition()):
        assert time.monotonic() < give_up, f"not within {timeout} s"
        time.sleep(pause)
    return value


WORKER = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))


def free_ports(count: int) -> list[int]:
    """Return ports on which nobody listens, and which stay free for a restart.

    They are below those that systems give to outgoing connections, and other ones than those of the tests that run beside these.
    """
    found: list[int] = []
    first = 12_000 + WORKER % 4 * 2_000
    for port in random.sample(range(first, first + 2_000), 200):
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


class _Run:
    """One process of a member, from its start to its end."""

    def __init__(self, arguments: dict[str, Any], log: Path, within: tuple[str, ...], program: Path, code: Path) -> None:
        environment = {**os.environ, "PYTHONPATH": str(code)}
        self.process: Born | subprocess.Popen[str]
        with log.open("a") as file:
            if (program, code, within) == (PROGRAM, ROOT, ()) and can_fork():
                self.process = nursery(program, code).start(arguments, environment, file)
            else:
                self.process = subprocess.Popen(
                    [*within, sys.executable, "-W", "error", str(program), json.dumps(arguments)],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=file,
                    text=True,
                    bufsize=1,
                    env=environment,
                    start_new_session=True,  # Ctrl-C is for the tests: they end it
                )
        self.opened: Future[Any] = Future()
        self._waiting: dict[int, Future[Any]] = {0: self.opened}
        self._numbers = itertools.count(1)
        self._lock = threading.Lock()
        self._ended = False
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def ask(self, question: dict[str, Any]) -> Future[Any]:
        future = Future[Any]()
        with self._lock:
            number = next(self._numbers)
            try:
                assert self.process.stdin is not None
                self.process.stdin.write(json.dumps({"id": number, **question}) + "\n")
            except (BrokenPipeError, ValueError):
                future.set_exception(CallError("NeverAsked", "the process had ended before"))
                return future
            if self._ended:
                future.set_exception(CallError("Gone", "the process ended"))
            else:
                self._waiting[number] = future
        return future

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            answer = json.loads(line)
            with self._lock:
                future = self._waiting.pop(answer["id"])
            if "error" in answer:
                future.set_exception(CallError(answer["error"], answer["text"], tuple(answer.get("unreachable", ()))))
            else:
                future.set_result(answer["result"])
        with self._lock:
            self._ended = True
            for future in self._waiting.values():
                future.set_exception(CallError("Gone", "the process ended"))

    def join(self) -> int:
        status = self.process.wait(PATIENCE)
        self._reader.join(PATIENCE)
        for pipe in (self.process.stdin, self.process.stdout):
            assert pipe is not None
            with contextlib.suppress(BrokenPipeError):
                pipe.close()
        return status


class Member:
    """A member, run after run; ``within`` is a command that runs another one, such as nsenter; ``code`` has the package that it runs."""

    program = PROGRAM
    code = ROOT

    def __init__(self, name: str, root: Path, *, within: tuple[str, ...] = (), **arguments: Any) -> None:
        self.name = name
        self.within = within
        self.data_dir = root / name
        self.arguments = {"name": name, "data_dir": str(self.data_dir), **arguments}
        self.log = root / f"{name}.log"
        self._run: _Run | None = None

    @property
    def run(self) -> _Run:
        assert self._run is not None, f"{self.name} was not started"
        return self._run

    @property
    def running(self) -> bool:
        return self._run is not None and self._run.process.poll() is None

    def start(self) -> Member:
        """Start the process and wait until its Replica is open; raises CallError where the constructor did."""
        self._run = _Run(self.arguments, self.log, self.within, self.program, self.code)
        self._run.opened.result(PATIENCE)
        return self

    def ask(self, call: str, *args: Any, **kw: Any) -> Future[Any]:
        """Begin a call of the Replica in the process, or of its Host."""
        return self.run.ask({"call": call, "args": args, "kw": kw})

    def call(self, call: str, *args: Any, **kw: Any) -> Any:
        """Call the Replica in the process, or its Host; raises CallError."""
        return self.ask(call, *args, **kw).result(PATIENCE)

    def kill(self) -> None:
        """End the process with SIGKILL."""
        self.run.process.kill()
        self.run.join()

    def stop(self) -> float:
        """Let the process close its Replica and end; return the seconds it took."""
        began = time.monotonic()
        assert self.run.process.stdin is not None
        self.run.process.stdin.close()
        status = self.run.join()
        assert status == 0, self.log.read_text()
        return time.monotonic() - began

    def pause(self) -> None:
        self.run.process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        self.run.process.send_signal(signal.SIGCONT)

    def discard(self) -> None:
        """End whatever still runs."""
        if self._run is not None:
            self._run.process.kill()
            self._run.join()


class Cluster:
    """Three members on loopback."""

    def __init__(self, root: Path, names: str = "abc", **arguments: Any) -> None:
        addresses = {name: f"127.0.0.1:{port}" for name, port in zip(names, free_ports(len(names)), strict=True)}
        self.addresses = addresses
        self.members = {name: Member(name, root, cluster=addresses, **arguments) for name in names}

    def __enter__(self) -> Self:
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
            named = {member.call("status")["raft_leader"] for member in self if member.name != but and member.running}
            (name, *others) = named
            return self.members[name] if not others and name is not None and name != but else None

        return eventually(agreed)

    def others(self, member: Member) -> list[Member]:
        return [other for other in self if other is not member]

    def state(self) -> dict[str, Any]:
        """Wait until all members are equal, by digest, and return the state as a linearizable scan shows it, per member."""
        eventually(lambda: len({json.dumps(member.call("internals")["digest"]) for member in self}) == 1)
        return {member.name: member.call("scan") for member in self}
