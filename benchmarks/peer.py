"""What both sides of the comparison can do, and what both need."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Protocol, TypeVar

from benchmarks.meters import Sample
from benchmarks.workloads import Workload

T = TypeVar("T")

START_TIMEOUT = 30.0
BLOCK = 4096


class Peer(Protocol):
    """A cluster of three members that can be driven."""

    name: str
    durability: str
    """What is safe when a write is acknowledged."""
    client: str
    """How it is driven."""

    def measures(self, workload: Workload) -> bool:
        """Tell whether it can be measured by a workload."""
        ...

    def start(self) -> None:
        """Start three members on empty directories, wait for a leader, and put every key once."""

    def stop(self) -> None:
        """End all members."""

    def measure(self, workload: Workload, operations: int) -> Sample:
        """Run a workload once.

        The one sample of a fail-over has the seconds from each kill to the first put that began after it, with all members back at the
        end; that of a restart those from the start of a process to its first local get, ``RESTARTS`` times, with ``stored`` as extras.
        """
        ...


def stored(directories: Sequence[Path], pids: Sequence[int], keys: int) -> dict[str, float]:
    """Return what many keys take, on the average member.

    Args:
        directories: of the members' data.
        pids: of the members.
        keys: that were put.
    """
    return {
        "bytes on disk per key": sum(map(written_bytes, directories)) / len(directories) / keys,
        "MiB resident": sum(map(resident, pids)) / len(pids) / 2**20,
    }


def written_bytes(directory: Path) -> int:
    """Return the bytes of all files below a directory without the zeros at their ends, which is what files made in advance consist of."""
    return sum(_without_zeros(path) for path in directory.rglob("*") if path.is_file())


def _without_zeros(path: Path) -> int:
    """Return where a file's last 4 KiB lie that are not all zero."""
    with path.open("rb") as file:
        for end in range(-(-path.stat().st_size // BLOCK), 0, -1):
            file.seek((end - 1) * BLOCK)
            if any(file.read(BLOCK)):
                return end * BLOCK
    return 0


def resident(pid: int) -> int:
    """Return the bytes of a process that are in memory."""
    return int(Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")


def wait_until(condition: Callable[[], T | None], what: str, timeout: float = START_TIMEOUT) -> T:
    """Ask until the answer is not None.

    Raises:
        TimeoutError: it took too long.
    """
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        answer = condition()
        if answer is not None:
            return answer
        time.sleep(0.02)
    raise TimeoutError(f"no {what} within {timeout:.0f} s")


def begin(command: Sequence[str], log: Path) -> subprocess.Popen[bytes]:
    """Start a server that is told nothing, and whose output goes to the end of a file."""
    with log.open("ab") as output:
        return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output)


def end(servers: Iterable[subprocess.Popen[bytes]], root: Path | None) -> None:
    """End servers, and remove the directory they had."""
    for server in servers:
        server.kill()
        server.wait()
    if root is not None:
        shutil.rmtree(root, ignore_errors=True)


def new_directory(base: Path, name: str) -> Path:
    """Make an empty directory for one cluster."""
    return Path(tempfile.mkdtemp(prefix=f"replkv-bench-{name}-", dir=base))


def on_disk() -> Path:
    """Return a place that is a real disk on most systems: where temporary files are memory, a sync costs nothing."""
    lasting = Path("/var/tmp")  # noqa: S108
    return lasting if lasting.is_dir() else Path(tempfile.gettempdir())


def say(text: str) -> None:
    """Tell how far the measuring is."""
    print(time.strftime("%H:%M:%S"), text, file=sys.stderr, flush=True)
