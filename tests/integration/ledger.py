"""What clients of a cluster have asked and been told, and whether the cluster's state can be squared with it."""

from __future__ import annotations

import itertools
import threading
from typing import Any, Self

from cluster import UNKNOWN, CallError, Cluster, Member

PACE = 0.01  # s between a client's rounds of three writes: members that start and recover share the machine with them
REFUSED = ("NoLeader", "Closed", "NeverAsked")
"""Errors after which a write was surely not applied."""


class Client(threading.Thread):
    """Writes through one member, one call after the other, until told to stop; a member that is gone is asked again when it is back."""

    def __init__(self, name: str, member: Member, stop: threading.Event) -> None:
        super().__init__(name=name, daemon=True)
        self.acknowledged: dict[str, tuple[str, int]] = {}  # key → value, revision
        self.unknown: dict[str, str] = {}
        self.refused: set[str] = set()
        self.reasons: list[str] = []  # of unknown outcomes
        self.versions: list[int] = []  # of this client's own register, as read back
        self.sums: list[tuple[int, int]] = []  # this client's counter: answer, unknown adds before it
        self.added = self.unsure = 0
        self.overwritten = self.overwrites_unsure = 0
        self.failure: BaseException | None = None
        self._member = member
        self._stop_asked = stop

    def run(self) -> None:
        try:
            for number in itertools.count():
                if self._stop_asked.wait(PACE):
                    return
                self._put(f"put/{self.name}/{number:06}", f"{self.name}-{number}")
                self._add()
                self._overwrite(number)
        except BaseException as failure:  # noqa: BLE001  # for the test to see
            self.failure = failure

    def _ask(self, *call: Any) -> tuple[str, Any]:
        """Return what became of a call: "done" with the answer, "unknown", or "refused"."""
        try:
            return "done", self._member.call(*call)
        except CallError as error:
            if error.kind in UNKNOWN:
                self.reasons.append(str(error))
                self._stop_asked.wait(0.02)
                return "unknown", None
            if error.kind not in REFUSED:
                raise
            self._stop_asked.wait(0.02)
            return "refused", None

    def _put(self, key: str, value: str) -> None:
        became, answer = self._ask("put", key, value)
        if became == "done":
            self.acknowledged[key] = (value, answer[0])
        elif became == "unknown":
            self.unknown[key] = value
        else:
            self.refused.add(key)

    def _add(self) -> None:
        became, answer = self._ask("add", f"sum/{self.name}")
        if became == "done":
            self.added += 1
            self.sums.append((answer[0], self.unsure))
        self.unsure += became == "unknown"

    def _overwrite(self, number: int) -> None:
        became, _ = self._ask("put", f"register/{self.name}", str(number))
        self.overwritten += became == "done"
        self.overwrites_unsure += became == "unknown"


class Load:
    """Several clients at every member, from ``with`` to its end."""

    def __init__(self, cluster: Cluster, per_member: int = 2) -> None:
        self._stop = threading.Event()
        self.cluster = cluster
        self.clients = [Client(f"{member.name}{i}", member, self._stop) for member in cluster for i in range(per_member)]

    def __enter__(self) -> Self:
        for client in self.clients:
            client.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for client in self.clients:
            client.join(30)
            assert not client.is_alive(), f"{client.name} hangs"

    @property
    def count(self) -> int:
        """How many puts have been acknowledged so far."""
        return sum(len(client.acknowledged) for client in self.clients)

    def check(self) -> dict[str, int]:
        """Compare all members with what the clients know: nothing lost, doubled or invented."""
        scans = self.cluster.state()
        one, *others = scans.values()
        assert all(scan["kvs"] == one["kvs"] and scan["revision"] == one["revision"] for scan in others)
        stored = {kv[0]: kv for kv in one["kvs"]}
        for client in self.clients:
            if client.failure is not None:
                raise client.failure
            _check_puts(client, stored)
            _check_sum(client, stored)
            _check_register(client, stored)
        revisions = [revision for client in self.clients for _, revision in client.acknowledged.values()]
        assert len(set(revisions)) == len(revisions), "two writes were told the same revision"
        asked = {key for client in self.clients for key in (*client.acknowledged, *client.unknown)}
        assert {key for key in stored if key.startswith("put/")} <= asked, "a write nobody asked for, or that was refused"
        return {
            "acknowledged": len(revisions),
            "unknown": sum(len(client.unknown) for client in self.clients),
            "unknown, stored": sum(key in stored for client in self.clients for key in client.unknown),
            "refused": sum(len(client.refused) for client in self.clients),
        }


def _check_puts(client: Client, stored: dict[str, list[Any]]) -> None:
    for key, (value, revision) in client.acknowledged.items():
        assert stored.get(key) == [key, value, revision, revision, 1, 0], f"{key} was acknowledged at {revision}"
    for key, value in client.unknown.items():
        if key in stored:
            assert stored[key][1] == value
            assert stored[key][4] == 1, f"{key} was written twice"


def _check_sum(client: Client, stored: dict[str, list[Any]]) -> None:
    """Each addition counts exactly once: the answers grow by one, and by at most one more for each whose outcome is unknown."""
    before, unsure_before = 0, 0
    for answer, unsure in client.sums:
        assert 1 <= answer - before <= 1 + unsure - unsure_before, f"{client.name}: from {before} to {answer}"
        before, unsure_before = answer, unsure
    total = int(stored[f"sum/{client.name}"][1]) if client.sums else 0
    assert 0 <= total - before <= client.unsure - unsure_before


def _check_register(client: Client, stored: dict[str, list[Any]]) -> None:
    """A key's version counts its writes."""
    if client.overwritten:
        version = stored[f"register/{client.name}"][4]
        assert client.overwritten <= version <= client.overwritten + client.overwrites_unsure
