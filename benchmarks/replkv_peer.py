"""replkv: three member processes, the load driven from inside one of them."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from attrs import asdict

from benchmarks.answering import answer_in
from benchmarks.meters import Meter, Sample, timed
from benchmarks.peer import new_directory, say, stored, wait_until
from benchmarks.workloads import KEYS, RESTARTS, Workload, share
from replkv import __version__
from replkv.demo.processes import free_ports

NAMES = ("a", "b", "c")


class ChildProcess:
    """A process of this package; requests and answers over its pipes.

    Args:
        name: for messages, and of its log.
        root: where the log goes.
        module: what it runs.
        arguments: of that.
    """

    def __init__(self, name: str, root: Path, module: str, *arguments: str) -> None:
        self.name = name
        self._log = root / f"{name}.log"
        self._command = [sys.executable, "-m", module, *arguments]
        # An installed package is compiled once, whatever this environment says; a restart must not be charged with it.
        self._environment = {**os.environ, "PYTHONPYCACHEPREFIX": str(root / "bytecode"), "PYTHONDONTWRITEBYTECODE": ""}
        self._process: subprocess.Popen[str] | None = None

    def start(self) -> None:
        """Start the process; it is not ready yet."""
        with self._log.open("a", encoding="utf-8") as log:
            self._process = subprocess.Popen(
                self._command, env=self._environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True
            )

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
            raise RuntimeError(f"{self.name} ended: {self._log.read_text(encoding='utf-8')[-2000:]}")
        return answer_in(line)

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
        how: the last argument of the module: by default a timer, "cpu" or "wall", that profiles the leader's node thread; empty: none.
        module: what a member runs.
    """

    name = f"replkv {__version__}"
    durability = "a majority has synced it"
    client = "threads of a member's process; many in flight by submit()"

    def __init__(self, base: Path, how: str = "", module: str = "benchmarks.member") -> None:
        self.profile = ""
        self._module = module
        self.threads: dict[str, float] = {}
        self._base = base
        self._how = how
        self._root: Path | None = None
        self._members: dict[str, ChildProcess] = {}

    def start(self) -> None:
        """Found a cluster and put every key once."""
        self._root = root = new_directory(self._base, "replkv")
        ports = free_ports(len(NAMES), random.Random())
        cluster = {name: f"127.0.0.1:{port}" for name, port in zip(NAMES, ports, strict=True)}
        more = [self._how] if self._how else []
        for name in NAMES:
            self._members[name] = ChildProcess(name, root, self._module, name, str(root / name), json.dumps(cluster), *more)
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

    def _leader(self) -> ChildProcess:
        def agreed() -> ChildProcess | None:
            named = {member.ask("status")["leader"] for member in self._members.values()}
            return self._members.get(named.pop() or "") if len(named) == 1 else None

        return wait_until(agreed, "leader that all members know")

    @property
    def followers(self) -> list[ChildProcess]:
        """The members that don't lead."""
        leader = self._leader()
        return [member for member in self._members.values() if member is not leader]

    @property
    def members(self) -> list[ChildProcess]:
        """All members, the leader first."""
        return [self._leader(), *self.followers]

    @property
    def directories(self) -> list[str]:
        """The members' data directories."""
        return [str(self._root / name) for name in NAMES] if self._root is not None else []

    @property
    def leader_pid(self) -> int:
        """The leader's process."""
        return self._leader().process.pid

    def ask_leader(self, do: str, *arguments: object) -> Any:
        """Send a request to the leader and wait for its answer."""
        return self._leader().ask(do, *arguments)

    def measures(self, workload: Workload) -> bool:  # noqa: ARG002  # as other peers are asked
        """Tell whether it can be measured by a workload."""
        return True

    def measure(self, workload: Workload, operations: int) -> Sample:
        """Run a workload once, driven by threads in the leader's process, in a follower's, or in all three."""
        if workload.kind == "fail-over":
            kills = [self.fail_over() for _ in range(operations)]
            return timed(kills, sum(kills))
        if workload.kind == "restart":
            return self._restarts(operations)
        leader = self._leader()
        followers = self.followers
        driven = leader if workload.leader else followers[0]
        meter = Meter(leader.process.pid, [member.process.pid for member in followers])
        if workload.spread:
            return self._spread(workload, operations, meter)
        if workload.watchers:
            followers[0].ask("listen", workload.watchers)
        done = driven.ask("run", operations, asdict(workload))
        self.threads = {name: spent / len(done["latencies"]) for name, spent in done["threads"].items()}
        self.profile = done.get("profile", "")
        latencies, seconds, count = done["latencies"], done["seconds"], len(done["latencies"]) * workload.each
        if workload.watchers:
            heard = followers[0].ask("heard")
            latencies, seconds, count = heard["latencies"], heard["ended"] - done["begun"], heard["events"]
        return meter.sample(latencies, seconds, done["cpu"], inside=driven.process.pid, operations=count)

    def _restarts(self, keys: int) -> Sample:
        """Store keys in a new cluster, and have a follower close and start again; its process's own start counts."""
        self.stop()
        self.start()
        say(f"{self.name}: storing {keys:,} keys")
        self._leader().ask("store", keys)
        member, times = self.followers[0], []
        for _ in range(RESTARTS):
            member.stop()
            begun = time.monotonic()
            member.start()
            member.ask("find", keys // 2)
            times.append(time.monotonic() - begun)
            self._settle()
        extras = stored([Path(directory) for directory in self.directories], [member.process.pid], keys + KEYS)
        return timed(times, sum(times), extras=extras)

    def _spread(self, workload: Workload, operations: int, meter: Meter) -> Sample:
        """Have each member do its share; the drivers' CPU counts with their members'."""
        for number, member in enumerate(self._members.values()):
            part = asdict(workload) | {"in_flight": share(workload.in_flight, number, len(NAMES))}
            member.send("run", operations * part["in_flight"] // workload.in_flight, part)
        done = [member.receive() for member in self._members.values()]
        latencies = [latency for some in done for latency in some["latencies"]]
        self.threads = {name: spent / len(latencies) for some in done for name, spent in some["threads"].items()}  # a name for each member
        return meter.sample(latencies, max(some["seconds"] for some in done), 0.0)

    def fail_over(self) -> float:
        """Kill the leader under 200 puts a second from all three members, and bring it back afterwards.

        Raises:
            TimeoutError: no put succeeded any more.
        """
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
        if first == float("inf"):
            raise TimeoutError("no put succeeded after the leader was killed")
        leader.start()
        self._settle()
        time.sleep(1.0)
        return float(first - killed)
