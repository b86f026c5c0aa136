"""What both sides of the comparison can do, and what both need."""

from __future__ import annotations

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


class Peer(Protocol):
    """A cluster of three members that can be driven."""

    name: str
    kinds: frozenset[str]
    """What it can be measured by: kinds of workloads, and "fail-over"."""

    def start(self) -> None:
        """Start three members on empty directories, wait for a leader, and put every key once."""

    def stop(self) -> None:
        """End all members."""

    def measure(self, workload: Workload, operations: int) -> Sample:
        """Run a workload once."""
        ...

    def fail_over(self) -> float:
        """Kill the leader; return the seconds from there to the first put that began after it; bring the member back."""
        ...


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
