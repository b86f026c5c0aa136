"""replkv: three member processes, the load driven from inside one of them."""

from __future__ import annotations

import json
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from attrs import asdict

from benchmarks.meters import Meter, Sample
from benchmarks.peer import new_directory, wait_until
from benchmarks.workloads import Workload
from replkv import __version__
from replkv.demo.processes import free_ports

NAMES = ("a", "b", "c")


class MemberProcess:
    """One member; requests and answers over its pipes."""

    def __init__(self, name: str, root: Path, cluster: dict[str, str], timer: str) -> None:
        self.name = name
        self._log = root / f"{name}.log"
        command = [sys.executable, "-m", "benchmarks.member", name, str(root / name), json.dumps(cluster)]
        self._command = [*command, timer] if timer else command
        self._process: subprocess.Popen[str] | None = None

    def start(self) -> None:
        """Start the process; it is not ready yet."""
        with self._log.open("a", encoding="utf-8") as log:
            self._process = subprocess.Popen(self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True)

    @property
    def process(self) -> subprocess.Popen[str]:
        """The process.

        Raises:
            RuntimeError: it was not started.
        """
        if self._process is None:
            raise RuntimeError(f"{self.name} was not started")
        return self._process

    def send(self, do: str, *arguments: object) -> None:
        """Send a request."""
        process = self.process
        if process.stdin is not None:
            process.stdin.write(json.dumps({"do": do, "with": arguments}) + "\n")
            process.stdin.flush()

    def receive(self) -> Any:
        """Wait for an answer.

        Raises:
            RuntimeError: the process ended.
        """
        process = self.process
        line = process.stdout.readline() if process.stdout is not None else ""
        if not line:
            raise RuntimeError(f"member {self.name} ended: {self._log.read_text(encoding='utf-8')[-2000:]}")
        return json.loads(line)

    def ask(self, do: str, *arguments: object) -> Any:
        """Send a request and wait for its answer."""
        self.send(do, *arguments)
        return self.receive()

    def kill(self) -> None:
        """End it at once."""
        self.process.kill()
        self._reap()

    def stop(self) -> None:
        """Let it close."""
        if self._process is None or self._process.stdin is None or self._process.returncode is not None:
            return
        self._process.stdin.close()
        try:
            self._process.wait(15)
        except subprocess.TimeoutExpired:
            self._process.kill()
        self._reap()

    def _reap(self) -> None:
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                pipe.close()


class ReplkvPeer:
    """A replkv cluster.

    Args:
        base: where the data directories go.
        timer: "cpu" or "wall": profile the leader's node thread; empty: don't.
    """

    name = f"replkv {__version__}"

    def __init__(self, base: Path, timer: str = "") -> None:
        self.profile = ""
        self.threads: dict[str, float] = {}
        self._base = base
        self._timer = timer
        self._root: Path | None = None
        self._members: dict[str, MemberProcess] = {}

    def start(self) -> None:
        """Found a cluster and put every key once."""
        self._root = new_directory(self._base, "replkv")
        ports = free_ports(len(NAMES), random.Random())
        cluster = {name: f"127.0.0.1:{port}" for name, port in zip(NAMES, ports, strict=True)}
        self._members = {name: MemberProcess(name, self._root, cluster, self._timer) for name in NAMES}
        for member in self._members.values():
            member.start()
        self._settle()
        self._leader().ask("fill")

    def stop(self) -> None:
        """End all members and remove their directories."""
        for member in self._members.values():
            member.stop()
        if self._root is not None:
            shutil.rmtree(self._root, ignore_errors=True)

    def _settle(self) -> None:
        for member in self._members.values():
            member.send("ready")
        for member in self._members.values():
            member.receive()
        self._leader()

    def _leader(self) -> MemberProcess:
        def agreed() -> MemberProcess | None:
            named = {member.ask("status")["leader"] for member in self._members.values()}
            return self._members.get(named.pop() or "") if len(named) == 1 else None

        return wait_until(agreed, "leader that all members know")

    @property
    def followers(self) -> list[MemberProcess]:
        """The members that don't lead."""
        leader = self._leader()
        return [member for member in self._members.values() if member is not leader]

    @property
    def leader_pid(self) -> int:
        """The leader's process."""
        return self._leader().process.pid

    def ask_leader(self, do: str, *arguments: object) -> Any:
        """Send a request to the leader and wait for its answer."""
        return self._leader().ask(do, *arguments)

    def measure(self, workload: Workload, operations: int) -> Sample:
        """Run a workload once, driven by a thread in the leader's process or in a follower's."""
        leader = self._leader()
        followers = self.followers
        driven = leader if workload.leader else followers[0]
        meter = Meter(leader.process.pid, [member.process.pid for member in followers])
        done = driven.ask("run", operations, asdict(workload))
        self.threads = {name: spent / len(done["latencies"]) for name, spent in done["threads"].items()}
        self.profile = done.get("profile", "")
        return meter.sample(done["latencies"], done["seconds"], done["cpu"], inside=driven.process.pid)

    def fail_over(self) -> float:
        """Kill the leader under 200 puts a second from all three members, and bring it back afterwards."""
        for member in self._members.values():
            member.ask("probe")
        time.sleep(1.0 + random.random() * 0.2)
        leader = self._leader()
        killed = time.monotonic()
        leader.kill()
        survivors = [member for member in self._members.values() if member is not leader]
        for member in survivors:
            member.send("probed", killed)
        first = min(member.receive() for member in survivors)
        leader.start()
        self._settle()
        time.sleep(1.0)
        return float(first - killed)
