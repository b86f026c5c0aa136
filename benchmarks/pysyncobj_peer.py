"""PySyncObj: three processes that embed it, as an application would; it writes a journal, and never syncs it."""

from __future__ import annotations

import importlib.metadata
import json
import random
import shutil
from pathlib import Path

from attrs import asdict

from benchmarks.meters import Meter, Sample
from benchmarks.peer import new_directory, wait_until
from benchmarks.replkv_peer import ChildProcess
from benchmarks.workloads import Workload
from replkv.demo.processes import free_ports

MEMBERS = 3


def version() -> str | None:
    """Return the version that is installed; None: it is not."""
    try:
        return importlib.metadata.version("pysyncobj")
    except importlib.metadata.PackageNotFoundError:
        return None


class PySyncObjPeer:
    """A PySyncObj cluster.

    Args:
        base: where the journals go.
    """

    durability = "a majority has it in memory; its journal is never synced, so a loss of power loses acknowledged writes"
    client = (
        "in the leader's process; many in flight: appendEntriesUseBatch, a period of 2 ms, ticks of 1 ms, each callback begins the next"
    )

    def __init__(self, base: Path) -> None:
        self.name = f"PySyncObj {version()}, never synced"
        self._base = base
        self._root: Path | None = None
        self._members: dict[str, ChildProcess] = {}
        self._mode = ""

    def measures(self, workload: Workload) -> bool:
        """Tell whether it can be measured by a workload: it reads its own state, and its writes go through the leader."""
        local = workload.kind == "get" and workload.consistency == "local"
        return local or (workload.leader and workload.kind in ("put", "cas", "add") and not workload.name.startswith("window"))

    def start(self) -> None:
        """Do nothing yet: how the members are set depends on the workload."""

    def stop(self) -> None:
        """End all members and remove their directories."""
        for member in self._members.values():
            member.kill()
        self._members = {}
        self._mode = ""
        if self._root is not None:
            shutil.rmtree(self._root, ignore_errors=True)

    def _open(self, mode: str) -> None:
        """Have a cluster with settings for one at a time, or for many, with every key put once."""
        if self._mode == mode:
            return
        self.stop()
        root = self._root = new_directory(self._base, "pysyncobj")
        addresses = [f"127.0.0.1:{port}" for port in free_ports(MEMBERS, random.Random())]
        for number, own in enumerate(addresses):
            directory = root / f"m{number}"
            directory.mkdir()
            others = json.dumps([address for address in addresses if address != own])
            self._members[own] = ChildProcess(f"m{number}", root, "benchmarks.pysyncobj_member", own, others, str(directory), mode)
            self._members[own].start()
        self._mode = mode
        self._leader().ask("fill")

    def _leader(self) -> ChildProcess:
        def agreed() -> ChildProcess | None:
            named = {member.ask("status") for member in self._members.values()}
            return self._members.get(named.pop() or "") if len(named) == 1 else None

        return wait_until(agreed, "leader that all members know")

    def measure(self, workload: Workload, operations: int) -> Sample:
        """Run a workload once in the leader's process, whose CPU is member and driver together."""
        self._open("alone" if workload.in_flight == 1 or workload.threads else "many")
        leader = self._leader()
        meter = Meter(leader.process.pid, [member.process.pid for member in self._members.values() if member is not leader])
        done = leader.ask("run", operations, asdict(workload))
        return meter.sample(done["latencies"], done["seconds"], 0.0)
