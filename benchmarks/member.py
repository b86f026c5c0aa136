"""A member of the measured replkv cluster, with the load's driver inside: ``python -m benchmarks.member NAME DIRECTORY CLUSTER [TIMER]``.

It does what its parent asks for: a JSON object per line on stdin, and the answer on stdout.  It ends with its stdin.  TIMER ("cpu" or
"wall") has cProfile watch the node's thread.
"""

from __future__ import annotations

import cProfile
import io
import json
import pstats
import random
import sys
import threading
import time
from array import array
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from functools import partial
from itertools import cycle
from pathlib import Path
from types import FrameType
from typing import Any, TypeAlias

from benchmarks.answering import answer_requests
from benchmarks.watchers import Watchers
from benchmarks.workloads import (
    COUNTER,
    KEYS,
    KV,
    LAST,
    LOCK,
    WATCHED,
    Workload,
    drive_sequential,
    drive_together,
    drive_window,
    key,
    key_numbers,
    make_values,
    stamped,
    stored_key,
)
from replkv import Add, Config, Conflict, Get, Put, Replica, Watch
from replkv.keeper import PER_TTL
from replkv.ops import Grant, KeepAlive
from replkv.plans import Write

PROBES_PER_SECOND = 67
"""With three members, about 200 puts a second while a leader is killed."""

FAIL_OVER_TIMEOUT = 20.0
PROFILE_LINES = 40
VALUES = make_values()
NUMBERS = key_numbers(50_000)

Operate: TypeAlias = Callable[[int], object]
Submit: TypeAlias = Callable[[int], Future[Any]]


class NodeProfile:
    """Watches the thread that a Replica starts under its own name."""

    def __init__(self, thread: str, timer: str) -> None:
        self._thread = thread
        self._timer = timer
        self._profile = cProfile.Profile()
        threading.setprofile(self._begin)

    def _begin(self, _frame: FrameType, _event: str, _argument: object) -> None:
        """Runs once in each new thread, at its first event; a profile that is enabled takes this hook's place there."""
        if threading.current_thread().name != self._thread:
            sys.setprofile(None)
            return
        if self._timer == "cpu":  # this thread's clock, whichever thread reads it
            clock = time.pthread_getcpuclockid(threading.get_ident())
            self._profile = cProfile.Profile(partial(time.clock_gettime, clock))
        self._profile.enable()

    def restart(self) -> None:
        """Forget what was seen so far."""
        self._profile.clear()

    def report(self) -> str:
        """Return the functions in which most time went."""
        text = io.StringIO()
        pstats.Stats(self._profile, stream=text).strip_dirs().sort_stats("tottime").print_stats(PROFILE_LINES)
        return text.getvalue()


def thread_cpu() -> Counter[str]:
    """Return the CPU microseconds of this process's threads so far, by name; nng's bear the names it gave them."""
    names = {thread.native_id: thread.name for thread in threading.enumerate()}
    spent: Counter[str] = Counter()
    for task in Path("/proc/self/task").iterdir():
        with suppress(FileNotFoundError, ProcessLookupError):  # it has just ended
            nanoseconds = int((task / "schedstat").read_text(encoding="ascii").split()[0])
            spent[names.get(int(task.name)) or (task / "comm").read_text(encoding="utf-8").strip()] += nanoseconds // 1000
    return spent


class Probes:
    """Puts at a steady rate while a leader is killed, and remembers when each began and succeeded."""

    def __init__(self, replica: Replica) -> None:
        self._replica = replica
        self._succeeded: list[tuple[float, float]] = []
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        number = 0
        while not self._stopping.wait(1 / PROBES_PER_SECOND):
            number += 1
            started = time.monotonic()
            future = self._replica.submit(Put(key(number % KEYS), VALUES[0]))
            future.add_done_callback(partial(self._done, started=started))

    def _done(self, future: Future[Any], started: float) -> None:
        if future.exception() is None:
            self._succeeded.append((started, time.monotonic()))

    def first_since(self, since: float) -> float:
        """Wait for a put that began after ``since`` to succeed, stop, and return when that was (infinity: it did not)."""
        deadline = time.monotonic() + FAIL_OVER_TIMEOUT
        while time.monotonic() < deadline:
            ends = [end for start, end in self._succeeded if start >= since]
            if ends:
                break
            time.sleep(0.005)  # between two looks: what is measured was noted by the thread that puts
        self._stopping.set()
        self._thread.join()
        return min((end for start, end in self._succeeded if start >= since), default=float("inf"))


class Driver:
    """Answers the parent's requests."""

    def __init__(self, replica: Replica, profile: NodeProfile | None) -> None:
        self._replica = replica
        self._profile = profile
        self._probes: Probes | None = None
        self._watches: list[Watch] = []
        self._watchers: Watchers | None = None

    def status(self) -> dict[str, Any]:
        """Return who leads, and how far this member is."""
        status = self._replica.status()
        return {"leader": status.raft_leader, "revision": status.revision, "index": status.applied_index}

    def ready(self) -> None:
        """Wait until this member takes part."""
        self._replica.wait_ready(30)

    def fill(self) -> None:
        """Put every key once."""
        drive_window(KEYS, 512, lambda number: self._replica.submit(Put(key(number), VALUES[number % len(VALUES)])))

    def store(self, count: int) -> None:
        """Put so many keys that the workloads don't use."""
        drive_window(
            count, 512, lambda number: self._replica.submit(Put(stored_key(number), VALUES[number % len(VALUES)])), cap=float("inf")
        )

    def find(self, number: int) -> None:
        """Wait until this member itself has one of the keys that were stored."""
        while self._replica.get(stored_key(number), consistency="local") is None:
            time.sleep(0.002)

    def run(self, operations: int, workload: dict[str, Any]) -> dict[str, Any]:
        """Run a workload; return the latencies, the seconds, when it began, and the CPU seconds of the threads that drive it."""
        chosen = Workload(**workload)
        one_by_one = chosen.in_flight == 1 or chosen.threads
        drivers = self._callers(chosen) if one_by_one else []
        for driver in drivers:
            driver(0)
        if self._profile is not None:
            self._profile.restart()
        begun, threads, cpu, others = time.monotonic(), thread_cpu(), time.thread_time(), 0.0
        if len(drivers) > 1:
            latencies, seconds, others = drive_together(operations, drivers)
        elif drivers:
            latencies, seconds = drive_sequential(operations, drivers[0])
        else:
            latencies, seconds = drive_window(operations, chosen.in_flight, self._submitter(chosen))
        cpu = time.thread_time() - cpu + others
        spent = thread_cpu() - threads + Counter({"contenders": round(others * 1e6)})  # whose threads have ended
        done = {"latencies": array("d", latencies), "seconds": seconds, "cpu": cpu, "threads": spent, "begun": begun}
        if chosen.kind == "watch":
            self._replica.put(WATCHED, LAST)
        return done if self._profile is None else done | {"profile": self._profile.report()}

    def _callers(self, workload: Workload) -> list[Operate]:
        """Return what does an operation and waits for it, one for each thread that is to."""
        if workload.kind == "cas":
            self._replica.put(COUNTER, b"0")
        make: dict[str, Callable[[], Operate]] = {
            "put": lambda: self._put,
            "get": lambda: self._get(workload),
            "scan": lambda: self._scan,
            "lock": self._locker,
            "cas": self._swapper,
            "add": lambda: lambda _: self._replica.add(COUNTER),
            "watch": lambda: lambda number: self._replica.put(WATCHED, stamped(VALUES[number % len(VALUES)])),
        }
        return [make[workload.kind]() for _ in range(workload.in_flight)]

    def _submitter(self, workload: Workload) -> Submit:
        """Return what hands an operation over and returns at once."""
        submit, values, one, more = self._replica.submit, VALUES, key(5), Add(COUNTER)
        if workload.value_bytes != len(VALUES[0]):
            values = make_values(workload.value_bytes)
        submitters: dict[str, Submit] = {
            "put": lambda number: submit(Put(key(NUMBERS[number % len(NUMBERS)]), values[number % len(values)])),
            "get": lambda _: submit(Get(one)),
            "add": lambda _: submit(more),
            "watch": lambda number: submit(Put(WATCHED, stamped(VALUES[number % len(VALUES)]))),
        }
        return submitters[workload.kind]

    def _put(self, number: int) -> None:
        self._replica.put(key(NUMBERS[number % len(NUMBERS)]), VALUES[number % len(VALUES)])

    def _get(self, workload: Workload) -> Operate:
        get, one, consistency = self._replica.get, key(5), workload.consistency
        return lambda _: get(one, consistency=consistency)

    def _scan(self, _: int) -> None:
        found = self._replica.scan(prefix=KV, limit=KEYS, consistency="local")
        if (seen := sum(pair.version > 0 for pair in found)) != KEYS:  # each is looked at
            raise RuntimeError(f"{seen:,} keys where there should be {KEYS:,}")

    def _locker(self) -> Operate:
        lock = self._replica.lock(LOCK)

        def take_and_give_back(_: int) -> None:
            lock.acquire()
            lock.release()

        return take_and_give_back

    def _swapper(self) -> Operate:
        """Return what adds one by compare-and-swap; what it read or put last is where it begins the next time."""
        put = self._replica.put
        value = revision = 0

        def swap(_: int) -> None:
            nonlocal value, revision
            while True:
                try:
                    revision = put(COUNTER, b"%d" % (value + 1), if_mod_revision=revision).revision
                except Conflict as conflict:
                    if conflict.current is None:
                        raise
                    value, revision = int(conflict.current.value), conflict.current.mod_revision
                    continue
                value += 1
                return

        return swap

    def listen(self, count: int) -> None:
        """Have so many watch the key that a workload puts."""
        self._watchers = Watchers(self._replica, count)

    def heard(self) -> dict[str, object]:
        """Return what they saw; see ``Watchers``."""
        if self._watchers is None:
            raise RuntimeError("nobody listens")
        return self._watchers.seen()

    def watch(self, count: int, where: str) -> None:
        """Have so many watches on distinct keys, "written" by the workloads or "idle", instead of those before; each has looked once."""
        for watch in self._watches:
            watch.close()
        beneath = "" if where == "written" else "idle"
        self._watches = [self._replica.watch(key(number) + beneath.encode()) for number in range(count)]
        for watch in self._watches:
            watch.next(0)

    def keep(self, leases: int, keepers: int, ttl: float) -> None:
        """Grant leases, and keep them alive in the name of so many other processes, at the rate of a member's keeper."""
        rng, submit = random.Random(), self._replica._submit  # noqa: SLF001  # what no application does
        numbers = [rng.getrandbits(62) + 1 for _ in range(keepers)]
        drive_window(leases, 512, lambda number: submit(Write(Grant(0, round(ttl * 1e6), numbers[number % keepers]))), cap=float("inf"))
        threading.Thread(target=self._keep_alive, args=(numbers, ttl / PER_TTL / keepers), daemon=True).start()

    def _keep_alive(self, keepers: list[int], pause: float) -> None:
        for keeper in cycle(keepers):
            self._replica._submit(Write(KeepAlive(keeper)))  # noqa: SLF001  # what no application does
            time.sleep(pause)

    def leases(self) -> int:
        """Return how many leases there are."""
        return len(self._replica.leases())

    def probe(self) -> None:
        """Begin to put at a steady rate."""
        self._probes = Probes(self._replica)

    def probed(self, since: float) -> float:
        """Return the moment of the first success since; see ``Probes``."""
        return self._probes.first_since(since) if self._probes is not None else float("inf")


def serve(kind: Callable[[Replica], object]) -> None:
    """Open the member that the command line names, with what it says of its ``Config``, and answer for it until stdin ends.

    Args:
        kind: makes what answers of the member.
    """
    name, directory, cluster, *choices = sys.argv[1:]
    config = Config(**json.loads(choices[0])) if choices else None
    with Replica(name, data_dir=directory, cluster=json.loads(cluster), config=config) as replica:
        answer_requests(kind(replica))


def main() -> None:
    """Open the member and serve until stdin ends."""
    name, directory, cluster, *timer = sys.argv[1:]
    profile = NodeProfile(f"replkv-{name}", timer[0]) if timer else None
    with Replica(name, data_dir=directory, cluster=json.loads(cluster)) as replica:
        driver = Driver(replica, profile)
        answer_requests(driver)


if __name__ == "__main__":
    main()
