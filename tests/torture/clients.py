"""Clients of a tortured cluster: each calls one member after the other, without end, and every call goes into the history."""

from __future__ import annotations

import itertools
import random
import threading
import time
from abc import abstractmethod
from collections.abc import Iterator
from concurrent.futures import TimeoutError as NoAnswer
from functools import partial
from typing import Any

from arena import Arena
from attrs import evolve
from cluster import UNKNOWN, CallError, eventually

from replkv.testing.blackbox import Call, Kind
from replkv.testing.facts import made

REFUSALS = ("NoLeader", "Closed", "NeverAsked", "Overloaded", "DiskFull", "StorageError", "KeyNotFound", "LeaseNotFound")
"""Errors that say that nothing was changed, and that a client of this run has to live with."""
TIMEOUT = 1.5  # s for a call at the member
GRACE = 2.0  # s more for the member to say so; it may be paused
THINK = 0.03  # s between two calls, at most
LONG = 0.1  # share of values that are long
REST = 0.05  # s after a call that did not succeed


class Client(threading.Thread):
    """Calls until told to stop; ``failure`` is what should not have happened, ``acknowledged`` counts what changed something."""

    def __init__(self, name: str, arena: Arena, seed: int, stop: threading.Event) -> None:
        super().__init__(name=name, daemon=True)
        self.failure: BaseException | None = None
        self.acknowledged = 0
        self.rng = random.Random(f"{seed} {name}")
        self.arena = arena
        self.member = self.rng.choice(list(arena))
        self._stop_asked = stop
        self._values = (f"{name}.{number}" for number in itertools.count(1))

    def run(self) -> None:
        try:
            while not self._stop_asked.is_set():
                self.step()
                self._stop_asked.wait(self.rng.uniform(0.0, THINK))
        except BaseException as failure:  # noqa: BLE001  # for the run to see
            self.failure = failure
            self.arena.note(f"{self.name} met {type(failure).__name__}: {failure}")

    @abstractmethod
    def step(self) -> None:
        """Do the next thing."""

    def value(self) -> str:
        """Return a text that nobody else writes, now and then one that fills several sectors."""
        return next(self._values) + (self.rng.randbytes(1000).hex() if self.rng.random() < LONG else "")

    def call(self, kind: Kind, args: dict[str, Any], consistency: str = "linearizable") -> Any:
        """Call a member and note what became of it; return the result, None where there is none."""
        noted = Call(self.name, kind, args, time.monotonic_ns())
        self.arena.journal.note(noted)
        try:
            result = self.member.ask("perform", kind, args, TIMEOUT, consistency).result(TIMEOUT + GRACE)
        except (CallError, NoAnswer) as error:
            refused = isinstance(error, CallError) and error.kind not in UNKNOWN
            self.arena.journal.note(evolve(noted, returned=time.monotonic_ns(), outcome="failed" if refused else "unknown"))
            if isinstance(error, CallError) and error.kind not in (*UNKNOWN, *REFUSALS):
                raise
            self._turn_elsewhere()
            return None
        answered = evolve(noted, returned=time.monotonic_ns(), outcome="ok", result=result)
        self.arena.journal.note(answered)
        self.acknowledged += made(answered) is not None
        return result

    def _turn_elsewhere(self) -> None:
        self.member = self.rng.choice(list(self.arena))
        self._stop_asked.wait(REST)


class Registers(Client):
    """Reads, writes, compares and deletes single keys, of which there are few, and adds to counters."""

    KEYS = ("x0", "x1", "x2")
    COUNTERS = ("n0", "n1")

    def __init__(self, name: str, arena: Arena, seed: int, stop: threading.Event) -> None:
        super().__init__(name, arena, seed, stop)
        self._seen: dict[str, Any] = {}

    def step(self) -> None:
        key = self.rng.choice(self.KEYS)
        steps = [self.get, self.put, self.put_if_value, self.put_if, self.add, self.scan, self.delete]
        self.rng.choices(steps, (8, 4, 4, 4, 2, 1, 1))[0](key)

    def get(self, key: str) -> None:
        pair = self.call("get", {"key": key}, self.rng.choice(("linearizable", "linearizable", "lease")))
        if pair is not None:
            self._seen[key] = pair

    def put(self, key: str) -> Any:
        return self.call("put", {"key": key, "value": self.value()})

    def put_if_value(self, key: str) -> None:
        value = self._seen[key][0] if key in self._seen else "?"
        then = [["put", {"key": key, "value": self.value()}], ["get", {"key": key}]]
        self.call("txn", {"compare": [[key, "value", "==", value]], "then": then, "otherwise": [["get", {"key": key}]]})

    def put_if(self, key: str) -> None:
        revision = self._seen[key][2] if key in self._seen else 0
        self.call("put", {"key": key, "value": self.value(), "if_mod_revision": revision})

    def add(self, _: str) -> None:
        self.call("add", {"key": self.rng.choice(self.COUNTERS), "delta": self.rng.choice((1, 1, 2, -1))})

    def scan(self, _: str) -> None:
        self.call("scan", {"prefix": "x"})

    def delete(self, key: str) -> None:
        self.call("delete", {"key": key})


class Transactions(Client):
    """Reads several keys at once, and writes what it read anew unless somebody was faster."""

    KEYS = ("t0", "t1", "t2", "t3", "t4")

    def step(self) -> None:
        keys = self.rng.sample(self.KEYS, self.rng.choice((2, 2, 3)))
        gets = [["get", {"key": key}] for key in keys]
        read = self.call("txn", {"compare": [], "then": gets, "otherwise": []})
        if read is None or self.rng.random() < 0.3:
            return
        revisions = [pair[2] if pair else 0 for pair in read["responses"]]
        compare = [[key, "mod_revision", "==", revision] for key, revision in zip(keys, revisions, strict=True)]
        puts = [["put", {"key": key, "value": self.value()}] for key in keys[: self.rng.choice((1, 2))]]
        self.call("txn", {"compare": compare, "then": [*gets[len(puts) :], *puts], "otherwise": gets})


class Lockers(Client):
    """Takes a lock that hangs on a lease, writes what it guards, and gives it back; its token guards the writes too."""

    LOCK, GUARDED = "lock", "guarded"
    TTL = 1.0

    def step(self) -> None:
        try:
            lease = self.member.ask("hold", self.TTL, keep_alive=self.rng.random() < 0.7).result(TIMEOUT + GRACE + 5.0)
        except (CallError, NoAnswer) as error:
            if isinstance(error, CallError) and error.kind not in (*UNKNOWN, *REFUSALS):
                raise
            self._turn_elsewhere()
            return
        self._lock(lease)
        self.call("revoke", {"lease": lease})

    def _lock(self, lease: int) -> None:
        taken = self.call("put", {"key": self.LOCK, "value": self.value(), "if_mod_revision": 0, "lease": lease})
        if taken is None or "conflict" in taken:
            return
        token = taken["revision"]
        for _ in range(self.rng.randrange(1, 6)):
            put = ["put", {"key": self.GUARDED, "value": self.value()}]
            written = self.call("txn", {"compare": [[self.LOCK, "create_revision", "==", token]], "then": [put], "otherwise": []})
            if written is None or not written["succeeded"]:
                return
        if self.rng.random() < 0.7:
            self.call("delete", {"key": self.LOCK, "if_mod_revision": token})


class Clients:
    """All clients of a run, from ``start`` to ``stop``."""

    def __init__(self, arena: Arena, seed: int) -> None:
        self._stop = threading.Event()
        kinds: Iterator[type[Client]] = itertools.chain([Registers] * len(arena.members), [Transactions] * 2, [Lockers] * 2)
        self._threads = [kind(f"{kind.__name__.lower()}{number}", arena, seed, self._stop) for number, kind in enumerate(kinds)]
        self._last = Registers("last", arena, seed, self._stop)

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def check(self) -> None:
        """Raise what went wrong with any of them."""
        for thread in self._threads:
            if thread.failure is not None:
                raise thread.failure

    @property
    def acknowledged(self) -> int:
        """How many writes of theirs have been acknowledged."""
        return sum(thread.acknowledged for thread in self._threads)

    def stop(self) -> None:
        """Have them end, each with the call it is about."""
        self._stop.set()
        for thread in self._threads:
            thread.join(30.0)
            assert not thread.is_alive(), f"{thread.name} hangs"
        self.check()

    def last_writes(self) -> int:
        """See that every key takes one more write at some member and gives it to one more reader at another; return the last revision.

        A write may have to wait until all members know that there is room on disks again.
        """
        writer, revision = self._last, 0
        members = itertools.cycle(writer.arena)
        for key in (*Registers.KEYS, *Transactions.KEYS, Lockers.GUARDED):
            writer.member = next(members)
            revision = eventually(partial(writer.put, key))["revision"]
            writer.member = next(members)
            eventually(partial(writer.call, "get", {"key": key}))
        return revision
