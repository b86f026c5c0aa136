"""``python -m benchmarks.calls``: how many functions are called for one operation, which no load of the machine changes.

Three members live on the simulated network and disks of ``replkv.testing``, where nothing happens by chance here, and one more lives
alone, with threads as they are.  Calls of Python and of C functions by this package count, and what those call; the simulator's do not.
"""

from __future__ import annotations

import argparse
import platform
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import wait
from pathlib import Path
from types import CodeType, FrameType, TracebackType
from typing import Any, Self

from attrs import define, field, frozen

import replkv
from benchmarks.workloads import key, make_values
from replkv import Put, Replica, codec, testing
from replkv.codec import make_entry
from replkv.disk import RealDisk
from replkv.log import Log
from replkv.messages import Append, EntryKind
from replkv.node import Node
from replkv.proposals import Proposals
from replkv.testing.network import Weather
from replkv.testing.replicas import SimReplica
from replkv.testing.sim import Scheduler, nothing

TIMES = 100
"""How often each operation is done."""
BATCH = 512
BATCHES = 5
WATCHERS = 100
ROWS = 1000
KEYS = 50
ROUNDS = 3
"""How often a lone member's caller is looked at, of which the least counts: whether its other threads sleep just then is chance."""
DELAY = 0.0003
"""Seconds that each frame is on its way: always the same, so that all that belongs together arrives together."""
CALLER = "caller"
TWO = "leader", "follower"
THREE = *TWO, "other follower"

PACKAGE, SIMULATOR = str(Path(replkv.__file__).parent), str(Path(testing.__file__).parent)
TURN, EVENT = Node.turn.__code__, Scheduler.step.__code__
VALUES = make_values()

Calls = Counter[str]
Who = str | None


class Counting:
    """Counts calls by whose work they are: a member's, by its name, while it takes a turn, and otherwise the caller's; on one thread."""

    def __init__(self) -> None:
        self.calls: dict[str, Calls] = {}
        self._stack: list[tuple[Who, bool]] = []
        self._known: dict[CodeType, tuple[bool | None, str]] = {}

    def __enter__(self) -> Self:
        self._stack = [(CALLER, False)]
        sys.setprofile(self._note)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        sys.setprofile(None)

    def _note(self, frame: FrameType, event: str, argument: Any) -> None:
        if event == "call":
            who, counts = self._entered(frame)
            self._stack.append((who, counts))
            if counts and who is not None:
                self._count(who, self._about(frame.f_code)[1])
        elif event == "c_call":
            who, counts = self._stack[-1]
            if counts and who is not None:
                self._count(who, f"{getattr(argument, '__qualname__', argument)} of C")
        elif event == "return" and len(self._stack) > 1:
            self._stack.pop()

    def _entered(self, frame: FrameType) -> tuple[Who, bool]:
        """Return whose work begins with a function, and whether it counts: what others than this package do is its caller's."""
        who, inherited = self._stack[-1]
        code = frame.f_code
        if code is TURN:
            return frame.f_locals["self"].name, True
        if code is EVENT:
            return None, False  # whatever the simulator lets happen, until a member has its turn
        counts, _ = self._about(code)
        return who, inherited if counts is None else counts

    def _about(self, code: CodeType) -> tuple[bool | None, str]:
        """Return whether a function counts, None being if its caller does, and its name."""
        if code not in self._known:
            file = code.co_filename
            counts = False if file.startswith(SIMULATOR) else True if file.startswith(PACKAGE) else None
            self._known[code] = counts, f"{Path(file).name}:{code.co_qualname}"
        return self._known[code]

    def _count(self, who: str, function: str) -> None:
        self.calls.setdefault(who, Calls())[function] += 1


@frozen
class Cost:
    """What one operation costs.

    Args:
        operation: what was done.
        times: how often.
        calls: by whose work they were, and by function, for all of them together.
    """

    operation: str
    times: int
    calls: dict[str, Calls]

    def each(self, who: str) -> float:
        """Return the calls of one operation."""
        return self.calls[who].total() / self.times

    def most(self, who: str, count: int) -> list[str]:
        """Return the functions that were called most often, one a line, with their calls per operation."""
        return [f"{calls / self.times:10.2f}  {function}" for function, calls in self.calls[who].most_common(count)]


@define
class Trio:
    """Three members in virtual time, and what their operations cost."""

    cluster: testing.Cluster
    leader: SimReplica
    follower: SimReplica
    other: SimReplica
    costs: list[Cost] = field(factory=list)

    @classmethod
    def made(cls) -> Self:
        """Return three members among which nothing is left to chance, at rest."""
        cluster = testing.Cluster(3, config=replkv.Config(), seed=1)
        world = cluster._world  # noqa: SLF001  # what is needed here is of no use to tests
        world.network.weather = Weather(delay_least=DELAY, delay_mean=0.0)
        for member in world.members.values():
            member.work = 0.0
            member.process.proposals.__class__ = Proposals  # not the simulator's, which tells where each command stands
        for replica in cluster:
            replica._embedded.take_time = nothing  # type: ignore[method-assign]  # noqa: SLF001  # a call may begin when the one before did
        cluster.advance(5.0)
        leader = cluster.wait_for_leader()
        follower, other = (replica for replica in cluster if replica is not leader)
        return cls(cluster, leader, follower, other)

    def look(self, operation: str, do: Callable[[int], object], who: Sequence[str] = TWO, times: int = TIMES, per: int = 1) -> None:
        """Do something so many times, and note what it costs.

        Args:
            operation: its name.
            do: what to do; is given a number that grows.
            who: those whose cost is of interest.
            times: how often.
            per: how many operations it is each time.
        """
        do(0)
        with (counting := Counting()):
            for number in range(times):
                do(number)
        whose = {self.leader.name: "leader", self.follower.name: "follower", self.other.name: "other follower", CALLER: CALLER}
        calls = {whose[name]: found for name, found in counting.calls.items()}
        self.costs.append(Cost(operation, times * per, {each: calls.get(each, Calls()) for each in who}))

    def measure(self) -> None:
        """Note what everything costs that takes several members."""
        leader, follower = self.leader, self.follower
        for number in range(KEYS):
            leader.put(key(number), VALUES[number])
        self.look("put, one after the other", lambda number: leader.put(key(number % KEYS), VALUES[number]))
        self.look(f"put, {BATCH} at a time", lambda _: self.together(leader), TWO, BATCHES, BATCH)
        self.look("put at a follower, one after the other", lambda number: follower.put(key(number % KEYS), VALUES[number]), THREE)
        self.look(f"put at a follower, {BATCH} at a time", lambda _: self.together(follower), THREE, BATCHES, BATCH)
        self.look("get by read index", lambda number: leader.get(key(number % KEYS)))
        self.look("turn with nothing to do", lambda _: self.turn())
        self.look("second at rest", lambda _: self.cluster.advance(1.0), TWO, 10)
        self.watched()

    def turn(self) -> None:
        """Have two members take a turn now."""
        for replica in (self.leader, self.follower):
            replica._running().turn(0.0)  # noqa: SLF001  # what the simulator does when there is a reason

    def together(self, replica: SimReplica) -> None:
        """Have many puts under way at a time."""
        futures = [replica.submit(Put(key(number % KEYS), VALUES[number])) for number in range(BATCH)]
        self.cluster.run_until(lambda: all(future.done() for future in futures))

    def watched(self) -> None:
        """Note what an event costs that is one put, for each of many watchers of its key."""
        watches = [self.leader.watch(key(0)) for _ in range(WATCHERS)]
        for watch in watches:
            watch.next(0)

        def put(number: int) -> None:
            self.leader.put(key(0), VALUES[number])
            if {type(watch.next(0)) for watch in watches} != {replkv.Event}:
                raise RuntimeError("a watcher has no event")

        self.look(f"event, for each of {WATCHERS} watchers of a key", put, (CALLER, "leader"), BATCHES, WATCHERS)
        for watch in watches:
            watch.close()


def fewest(operation: str, do: Callable[[], object], per: int) -> Cost:
    """Return what something costs its caller: the least of several rounds.

    Args:
        operation: its name.
        do: what to do, which is ``per`` operations.
        per: how many.
    """
    do()
    rounds = []
    for _ in range(ROUNDS):
        with (counting := Counting()):
            do()
        rounds.append(counting.calls[CALLER])
    return Cost(operation, per, {CALLER: min(rounds, key=Calls.total)})


def callers() -> list[Cost]:
    """Return what calls cost the thread that makes them, at a member that is alone and in memory."""
    with Replica() as replica:
        replica.wait_ready()
        for number in range(ROWS):
            replica.put(key(number), VALUES[number])

        def put() -> None:
            for number in range(TIMES):
                replica.put(key(number), VALUES[number])

        def submit() -> None:
            futures = [replica.submit(Put(key(number), VALUES[number])) for number in range(TIMES)]
            counting = sys.getprofile()
            sys.setprofile(None)
            wait(futures)
            sys.setprofile(counting)
            for future in futures:
                future.result()

        def get(consistency: Any) -> Callable[[], None]:
            def do() -> None:
                for number in range(TIMES):
                    replica.get(key(number), consistency=consistency)

            return do

        return [
            fewest("put", put, TIMES),
            fewest("put by submit(), and its result when that is there", submit, TIMES),
            fewest("get, local", get("local"), TIMES),
            fewest("get under the leader's lease", get("lease"), TIMES),
            fewest(f"key of a local scan of {ROWS}", lambda: replica.scan(prefix=key(0)[:10], consistency="local"), ROWS),
        ]


def floors() -> list[Cost]:
    """Return what the log and the network's frames cost by themselves."""

    def append(number: int) -> Append:
        entry = make_entry(number, 1, EntryKind.BLOCK, 0, VALUES[number % len(VALUES)])
        return Append(term=1, prev_index=number - 1, prev_term=1, commit=number, round=number, time=0, entries=(entry,))

    appends = [append(number) for number in range(1, (ROUNDS + 1) * TIMES + 1)]  # as many as one of the two below takes

    def frames() -> None:
        for message in appends[:TIMES]:
            codec.decode_frame(codec.encode_frame(bytes(16), 1, 2, message))

    with tempfile.TemporaryDirectory() as directory:
        log, _ = Log.open(RealDisk(directory), "a", 7, replkv.Config().segment_bytes)

        def flush() -> None:
            for message in appends[log.last_index : log.last_index + TIMES]:
                log.append(None, message.entries)
                log.sync()

        found = [fewest("flush of the log", flush, TIMES), fewest("frame, encoded and decoded", frames, TIMES)]
        log.close()
    return found


def measured() -> list[Cost]:
    """Return what everything costs."""
    with (trio := Trio.made()).cluster:
        trio.measure()
    return [*trio.costs, *callers(), *floors()]


def as_markdown(costs: Sequence[Cost]) -> str:
    """Return the table for a page."""
    columns = (CALLER, *THREE)
    lines = [f"| calls of functions per operation | {' | '.join(columns)} |", "|---|" + "---:|" * len(columns)]
    for cost in costs:
        cells = (f"{cost.each(who):,.1f}" if who in cost.calls else "" for who in columns)
        lines.append(f"| {cost.operation} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def main() -> int:
    """Count, print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.calls", description=__doc__)
    parser.add_argument("--functions", type=int, default=0, metavar="N", help="show the N functions that are called most often, too")
    parser.add_argument("--only", default="", help="show those operations whose names hold this text (default: all)")
    arguments = parser.parse_args()
    costs = [cost for cost in measured() if arguments.only in cost.operation]
    print(as_markdown(costs))
    print(f"replkv {replkv.__version__}, `python -m benchmarks.calls`: Python {platform.python_version()}.")
    for cost in costs if arguments.functions else ():
        for who in cost.calls:
            print("", f"{cost.operation}: {who}", *cost.most(who, arguments.functions), sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
