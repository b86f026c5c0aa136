"""A process may open and close members all its life: no thread, no descriptor and no memory is left behind."""

from __future__ import annotations

import gc
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from cluster import eventually, free_ports

from replkv import Config, Put, Replica

CONFIG = Config(segment_bytes=16 << 10)
WARM_UP = 100
MEMORY = 2 << 20  # bytes; a thousand cycles that leave 2 KiB behind each are found
FEW = 320 << 10  # bytes; ten cycles that leave 32 KiB behind each are found, and a third of that comes of itself
PAGE = os.sysconf("SC_PAGE_SIZE")

pytestmark = pytest.mark.skipif(not os.path.isdir("/proc/self/task"), reason="counts what /proc shows")


@pytest.fixture
def directory() -> Iterator[Path]:
    """A directory in memory where there is one: how fast a disk is does not matter here."""
    memory = Path("/dev/shm")
    path = Path(tempfile.mkdtemp(dir=memory if os.access(memory, os.W_OK) else None))
    yield path
    shutil.rmtree(path)


def held() -> tuple[int, int]:
    """Count what this process holds of the system: threads, those of nng too, and descriptors."""
    return len(os.listdir("/proc/self/task")), len(os.listdir("/proc/self/fd"))


def memory() -> int:
    """Return the resident bytes of this process."""
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE


def leaves_nothing(cycle: Callable[[], object], count: int, warm_up: int = WARM_UP, most: int = MEMORY) -> None:
    for _ in range(warm_up):
        cycle()
    before, resident = held(), memory()
    for _ in range(count):
        cycle()
    # A thread that was joined may be on the system's list for a moment more, and nng closes descriptors a moment later.
    eventually(lambda: all(now <= then for now, then in zip(held(), before, strict=True)))
    grown = memory() - resident
    assert grown < most, f"{grown / count:.0f} bytes are left behind by each of {count}"


def use(replica: Replica) -> None:
    """Have everything in use that has threads, callbacks or queues of its own."""
    with replica, replica.watch(prefix="k") as watch:
        lease = replica.lease(10.0)
        replica.put("key", "value", lease=lease)
        replica.submit(Put("key", "other")).result(5.0)
        assert replica.get("key") is not None
        assert watch.next(5.0) is not None


def test_a_member_in_memory_that_is_opened_and_closed_a_thousand_times_leaves_nothing() -> None:
    leaves_nothing(lambda: use(Replica()), 1000)


def test_a_durable_member_that_is_opened_and_closed_a_thousand_times_leaves_nothing(directory: Path) -> None:
    def cycle() -> None:
        use(Replica(data_dir=directory / "data", config=CONFIG))
        shutil.rmtree(directory / "data")

    leaves_nothing(cycle, 1000)


def test_a_member_that_is_refused_its_directory_a_thousand_times_leaves_nothing(directory: Path) -> None:
    def cycle() -> None:
        with pytest.raises(Exception, match="is in use by process"):
            Replica(data_dir=directory / "data", config=CONFIG)

    with Replica(data_dir=directory / "data", config=CONFIG):
        leaves_nothing(cycle, 1000)


def test_clusters_of_three_leave_nothing(directory: Path) -> None:
    addresses = {name: f"127.0.0.1:{port}" for name, port in zip("abc", free_ports(3), strict=True)}

    def cycle() -> None:
        members = [Replica(name, data_dir=directory / name, cluster=addresses, config=CONFIG) for name in addresses]
        members[0].put("key", "value", timeout=20.0)
        assert members[1].get("key", timeout=20.0) is not None
        for member in members:
            member.close()
        for name in addresses:
            shutil.rmtree(directory / name)

    leaves_nothing(cycle, 10, warm_up=6, most=FEW)
