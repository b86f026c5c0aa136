"""Workers that write a report, of which there must never be two writers at a time.  Two of the three are wrong."""

from __future__ import annotations

from collections.abc import Callable

from replkv import Replica


def naive(replica: Replica, work: Callable[[], str]) -> None:
    """Write while the lock was taken: by the time the work is done it may have passed on to another worker."""
    with replica.lock("report"):
        made = work()
        replica.put("report", made)


def hopeful(replica: Replica, work: Callable[[], str]) -> None:
    """Look at the lock before writing: between the look and the write, this process may stand still for as long as it takes."""
    with replica.lock("report") as lock:
        made = work()
        lock.check()
        replica.put("report", made)


def guarded(replica: Replica, work: Callable[[], str]) -> None:
    """Let the cluster decide: it refuses the write if the lock has passed on, whenever it arrives."""
    with replica.lock("report") as lock:
        made = work()
        replica.put("report", made, guard=lock)
