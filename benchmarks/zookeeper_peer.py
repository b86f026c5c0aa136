"""ZooKeeper: three servers of the Debian package zookeeper on loopback, driven with kazoo's Lock; it is measured by its locks alone."""

from __future__ import annotations

import os
import random
import shutil
import socket
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.meters import Meter, Sample, process_cpu
from benchmarks.peer import begin, end, new_directory, wait_until
from benchmarks.workloads import LOCK, Workload, drive_together
from replkv.demo.processes import free_ports

try:
    from kazoo.client import KazooClient
except ImportError:
    KazooClient = None

MEMBERS = 3
JAR = Path("/usr/share/java/zookeeper.jar")
"""Where Debian's package puts it; its manifest names the libraries that it needs, which lie beside it."""

SESSION_TTL = 10.0
START_TIMEOUT = 60.0
SERVER = "org.apache.zookeeper.server.quorum.QuorumPeerMain"
SETTINGS = """tickTime=2000
initLimit=10
syncLimit=5
clientPortAddress=127.0.0.1
maxClientCnxns=0
admin.enableServer=false
4lw.commands.whitelist=srvr
"""
"""ZooKeeper's own example, and that it may be asked who leads."""


def missing() -> str | None:
    """Return what has to be installed before ZooKeeper can be measured; None: nothing."""
    wanted = {
        "java (apt-get install default-jre-headless)": shutil.which("java") is not None,
        "ZooKeeper (apt-get install zookeeper)": JAR.exists(),
        "kazoo (pip install '.[bench]')": KazooClient is not None,
    }
    lacking = [what for what, is_there in wanted.items() if not is_there]
    return " and ".join(lacking) or None


def configuration(number: int, root: Path, client: int, members: Sequence[tuple[int, int]]) -> str:
    """Return a server's zoo.cfg.

    Args:
        number: of the server, from 0.
        root: where its directory ``m0``, ``m1`` and so on lies.
        client: the port that it serves clients at.
        members: of each server the ports for the others, and for elections.
    """
    servers = "".join(f"server.{one + 1}=127.0.0.1:{peer}:{vote}\n" for one, (peer, vote) in enumerate(members))
    return f"{SETTINGS}dataDir={root}/m{number}\nclientPort={client}\n{servers}"


def described(answer: str) -> dict[str, str]:
    """Return what a server says about itself, by the words before the colons."""
    return {word: text.strip() for word, colon, text in (line.partition(":") for line in answer.splitlines()) if colon}


class ZooKeeperPeer:
    """A ZooKeeper ensemble.

    Args:
        base: where the data directories go.
    """

    name = "ZooKeeper"
    durability = "a majority has synced it"
    client = "kazoo's Lock, a session for each contender"

    def __init__(self, base: Path) -> None:
        self._base = base
        self._root: Path | None = None
        self._servers: list[subprocess.Popen[bytes]] = []
        self._ports: list[int] = []

    def measures(self, workload: Workload) -> bool:
        """Tell whether it can be measured by a workload."""
        return workload.kind == "lock"

    # -- processes

    def start(self) -> None:
        """Start the servers and wait until one leads."""
        root = self._root = new_directory(self._base, "zookeeper")
        ports = free_ports(3 * MEMBERS, random.Random())
        self._ports = ports[:MEMBERS]
        members = list(zip(ports[MEMBERS : 2 * MEMBERS], ports[2 * MEMBERS :], strict=True))
        self._servers = [self._serve(number, root, members) for number in range(MEMBERS)]
        leader = self._settle()
        self.name = f"ZooKeeper {self._ask(leader).get('Zookeeper version', '').partition('-')[0]}"

    def _serve(self, number: int, root: Path, members: Sequence[tuple[int, int]]) -> subprocess.Popen[bytes]:
        directory = root / f"m{number}"
        directory.mkdir()
        (directory / "myid").write_text(f"{number + 1}\n", encoding="ascii")
        (directory / "zoo.cfg").write_text(configuration(number, root, self._ports[number], members), encoding="ascii")
        command = ["java", "-Xmx1000m", "-cp", str(JAR), SERVER, str(directory / "zoo.cfg")]
        return begin(command, root / "zookeeper.log")

    def stop(self) -> None:
        """End all servers and remove their directories."""
        end(self._servers, self._root)

    def _ask(self, number: int) -> dict[str, str]:
        """Return what a server says about itself; nothing while it does not serve."""
        answer = b""
        try:
            with socket.create_connection(("127.0.0.1", self._ports[number]), 1.0) as connection:
                connection.sendall(b"srvr")
                while part := connection.recv(4096):
                    answer += part
        except OSError:
            return {}
        return described(answer.decode())

    def _settle(self) -> int:
        """Wait until one leads and the others follow it, and return its number."""

        def agreed() -> int | None:
            for server in self._servers:
                if server.poll() is not None:
                    raise RuntimeError(f"a ZooKeeper server ended; see {self._root}/zookeeper.log")
            modes = [self._ask(number).get("Mode") for number in range(MEMBERS)]
            return modes.index("leader") if sorted(map(str, modes)) == ["follower", "follower", "leader"] else None

        return wait_until(agreed, "leader that the ZooKeeper servers follow", START_TIMEOUT)

    # -- load

    def measure(self, workload: Workload, operations: int) -> Sample:
        """Run a workload once, driven by threads of this process; each contender has a session of its own."""
        leader = self._settle()
        order = [leader, *(number for number in range(MEMBERS) if number != leader)]
        meter = Meter(self._servers[leader].pid, [self._servers[number].pid for number in order[1:]])
        clients = [
            KazooClient(hosts=f"127.0.0.1:{self._ports[order[number % MEMBERS if workload.spread else 0]]}", timeout=SESSION_TTL)
            for number in range(workload.in_flight)
        ]
        try:
            contenders = [_contender(client) for client in clients]
            before = process_cpu(os.getpid())
            latencies, seconds, _ = drive_together(operations, contenders)
            return meter.sample(latencies, seconds, process_cpu(os.getpid()) - before)
        finally:
            for client in clients:
                client.stop()
                client.close()


def _contender(client: Any) -> Callable[[int], None]:
    client.start(START_TIMEOUT)
    lock = client.Lock(f"/{LOCK}")

    def take_and_give_back(_: int) -> None:
        lock.acquire()
        lock.release()

    take_and_give_back(0)
    return take_and_give_back
