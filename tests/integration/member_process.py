"""A process with one Replica in it, for tests: a call per line of JSON on stdin, its answer on stdout; ends when stdin does.

``python member_process.py '{"name": …, "data_dir": …, "cluster": {…}}'``; the keys ``config``, ``settings`` and ``tls`` are built into
theirs.
"""

from __future__ import annotations

import ctypes
import gc
import json
import logging
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from replkv import TLS, Add, Compare, Config, Conflict, Delete, Event, Get, Key, Lease, Put, Replica, Scan, Settings, Txn, Watch
from replkv.machine import Machine
from replkv.node import Node
from replkv.ops import Revoke
from replkv.plans import Plan, Read, Write, plan_for
from replkv.testing.blackbox import describe_result
from replkv.wire import Raw

OPERATIONS: dict[str, Any] = {"put": Put, "get": Get, "scan": Scan, "delete": Delete, "add": Add, "revoke": Revoke}


def operation(wire: list[Any]) -> Any:
    """Build ``["put", [arguments], {keywords}]``."""
    kind, arguments, keywords = wire
    return OPERATIONS[kind](*arguments, **keywords)


def compare(wire: list[Any]) -> Compare:
    """Build ``[key, "version", "==", 1]``."""
    key, target, relation, operand = wire
    side = getattr(Key(key), target)
    built: Compare = {"==": side.__eq__, "!=": side.__ne__, ">": side.__gt__, "<": side.__lt__}[relation](operand)
    return built


def told(kind: str, args: dict[str, Any]) -> Any:
    """Build the operation that a history tells of, as ``replkv.testing.blackbox`` writes it."""
    if kind != "txn":
        return OPERATIONS[kind](**args)
    then, otherwise = ([told(*step) for step in args[branch]] for branch in ("then", "otherwise"))
    return Txn(compare=[compare(each) for each in args["compare"]], then=then, otherwise=otherwise)


def plain(value: Any) -> Any:
    """Return what JSON can carry."""
    if isinstance(value, bytes):
        return value.decode("latin-1")
    if isinstance(value, (tuple, list)):
        return [plain(part) for part in value]
    if hasattr(value, "__attrs_attrs__"):
        return {field.name: plain(getattr(value, field.name)) for field in value.__attrs_attrs__}
    return value


class Digest(Plan[str]):
    """The digest of the state, which can be taken between two entries only."""

    looks = True

    def look(self, machine: Machine, time: int) -> str:
        return machine.digest()

    def meaning(self, raw: Raw) -> str:
        return str(raw[1])


class HandOver(Plan[bool]):
    """Leadership handed to another member; the result tells whether there was any to hand over."""

    looks = True

    def __init__(self, node: Node, to: str | None) -> None:
        self.node = node
        self.to = to

    def look(self, machine: Machine, time: int) -> bool:
        raft = self.node.raft
        assert raft is not None
        leads = raft.leader == self.node.name
        raft.transfer(self.to, self.node.clock())
        return leads

    def meaning(self, raw: Raw) -> bool:
        return bool(raw[1])


class Host:
    """What the parent may ask for beside the Replica's own calls."""

    def __init__(self, replica: Replica) -> None:
        self._replica = replica
        self._leases: dict[int, Lease] = {}
        self._watches: dict[str, Watch] = {}

    def transact(self, compares: list[Any], then: list[Any], otherwise: list[Any]) -> Any:
        """Run a transaction."""
        then, otherwise = [operation(wire) for wire in then], [operation(wire) for wire in otherwise]
        return self._replica.txn(compare=[compare(wire) for wire in compares], then=then, otherwise=otherwise)

    def perform(self, kind: str, args: dict[str, Any], timeout: float, consistency: str = "linearizable") -> Any:
        """Carry out what a history tells of; return the result as it tells it."""
        operation = told(kind, args)
        if kind in ("get", "scan"):
            plan: Plan[Any] = Read(operation, b"", consistency)
        else:
            plan = Write(operation) if kind == "revoke" else plan_for(operation, b"")
        try:
            return describe_result(self._replica._run(plan, timeout))
        except Conflict as conflict:
            return {"conflict": describe_result(conflict.current)}

    def put_many(self, pairs: list[list[str]]) -> Any:
        """Put many pairs, all in flight at once."""
        return [future.result().revision for future in [self._replica.submit(Put(key, value)) for key, value in pairs]]

    def hold(self, ttl: float, *, keep_alive: bool = True) -> int:
        """Make a lease and keep its handle; return its id."""
        lease = self._replica.lease(ttl, keep_alive=keep_alive)
        self._leases[lease.id] = lease
        return lease.id

    def lost(self, lease: int) -> bool:
        """Tell whether a lease that this process holds is lost, as its handle says."""
        return self._leases[lease].lost.is_set()

    def wait_lost(self, lease: int, timeout: float) -> bool:
        """Wait until it is lost."""
        return self._leases[lease].lost.wait(timeout)

    def begin_watch(self, name: str, **arguments: Any) -> None:
        """Open a watch under a name."""
        self._watches[name] = self._replica.watch(**arguments)

    def events(self, name: str, count: int, timeout: float) -> list[list[Any]]:
        """Return the next events of a watch, fewer if they don't come in time: kind, key, value, revision, expired."""
        found: list[list[Any]] = []
        while len(found) < count and (event := self._watches[name].next(timeout)) is not None:
            assert isinstance(event, Event)
            found.append([event.kind, event.kv.key_text, event.kv.text, event.revision, event.expired])
        return found

    def next_revision(self, name: str) -> int:
        """Return where a watch can be resumed."""
        return self._watches[name].revision

    def internals(self) -> dict[str, Any]:
        """Return what no call of the API tells: the digest of the state, frames dropped, memory in KiB, where the package is."""
        node = self._replica._node
        assert node is not None
        gc.collect()
        with open("/proc/self/status", encoding="ascii") as lines:
            rss = next(int(line.split()[1]) for line in lines if line.startswith("VmRSS"))
        code = sys.modules["replkv"].__file__
        return {"digest": self._replica._run(Digest(), 10.0), "dropped": node.links.frames_dropped, "rss": rss, "code": code}

    def transfer(self, to: str | None) -> bool:
        """Hand leadership to another member, None: to whom it suits; return whether this one had it."""
        return self._replica._run(HandOver(self._replica._running(), to), 5.0)

    def thread(self) -> int:
        """Return the system's number of the thread that decides, which is the one that syncs the log."""
        assert self._replica._thread is not None
        return self._replica._thread.native_id or 0

    def snapshot(self) -> int:
        """Return the index that the newest snapshot stands for; 0 without one."""
        newest = self._replica._running().log.snapshot
        return newest.meta.index if newest is not None else 0

    def hold_interpreter(self, seconds: int) -> None:
        """Keep every Python thread of the process from running, as a C extension does that computes and does not let others run."""
        ctypes.PyDLL(None).sleep(seconds)

    def failure(self) -> str:
        """Return why the member stopped, or nothing."""
        failure = self._replica.failure
        return "" if failure is None else f"{type(failure).__name__}: {failure}"

    def revision(self) -> int:
        """Return the revision of the member's own state."""
        return self._replica.revision


def main() -> None:
    arguments = json.loads(sys.argv[1])
    logging.basicConfig(format="%(asctime)s %(name)s %(message)s")
    for kind in (Config, Settings, TLS):
        name = kind.__name__.lower()
        if name in arguments:
            arguments[name] = kind(**arguments[name])
    speaking = threading.Lock()

    def say(**answer: Any) -> None:
        line = json.dumps(answer)
        with speaking:
            print(line, flush=True)

    def serve(line: str) -> None:
        question = json.loads(line)
        try:
            target = getattr(host, question["call"], None) or getattr(replica, question["call"])
            result = target(*question["args"], **question["kw"])
        except Exception as error:  # noqa: BLE001  # the parent judges
            say(id=question["id"], error=type(error).__name__, text=str(error), unreachable=getattr(error, "unreachable", ()))
        else:
            say(id=question["id"], result=plain(result))

    try:
        replica = Replica(**arguments)
    except Exception as error:  # noqa: BLE001  # likewise
        say(id=0, error=type(error).__name__, text=str(error))
        return
    host = Host(replica)
    say(id=0, result="open")
    with replica, ThreadPoolExecutor(16) as pool:
        for line in sys.stdin:
            pool.submit(serve, line)


if __name__ == "__main__":
    main()
