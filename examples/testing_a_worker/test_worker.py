"""Finds what is wrong with two of the workers, in milliseconds; ``pytest`` runs it where replkv is installed."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import TypeAlias

import pytest
from worker import guarded, hopeful, naive

from replkv import Event, LockLost, Replica
from replkv.testing import Cluster

Worker: TypeAlias = Callable[[Replica, Callable[[], str]], None]
Incident: TypeAlias = Callable[[Cluster, Worker], str]


def lose_the_network(cluster: Cluster, worker: Worker) -> str:
    """While worker a works it is cut off, so that its lock is lost, and b takes over."""
    cluster.isolate("a")
    cluster.advance(30)
    worker(cluster["b"], lambda: "by b")
    cluster.heal()
    return "by a"


def stand_still(cluster: Cluster, worker: Worker) -> str:
    """Just when worker a is about to write, its process stands still, its lock is lost, and b takes over."""

    def strike() -> None:
        cluster.pause("a")
        worker(cluster["b"], lambda: "by b")
        cluster.resume("a")

    cluster.after(0.00005, strike)
    return "by a"


def late_writes(cluster: Cluster, worker: Worker, incident: Incident) -> list[str]:
    """Let worker a go through an incident; return who wrote the report after b, which had taken over."""
    history = cluster["c"].watch("report")
    with suppress(LockLost):  # worker a learns that it has lost the lock; the question is what it did before
        worker(cluster["a"], lambda: incident(cluster, worker))
    cluster.advance(5)
    writers = []
    while isinstance(event := history.next(timeout=0), Event):
        writers.append(event.kv.text)
    assert writers[0] == "by b"
    return writers[1:]


@pytest.mark.parametrize("incident", [lose_the_network, stand_still])
@pytest.mark.parametrize("worker", [naive, hopeful, guarded])
def test_nobody_writes_after_another_has_taken_over(replkv_cluster: Cluster, worker: Worker, incident: Incident) -> None:
    is_wrong = worker is naive or (worker is hopeful and incident is stand_still)
    assert late_writes(replkv_cluster, worker, incident) == (["by a"] if is_wrong else [])
