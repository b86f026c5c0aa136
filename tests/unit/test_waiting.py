"""How callers wait: what they may do in a callback, and what they may not."""

from __future__ import annotations

import sys
import threading
import time
from concurrent.futures import Future
from typing import Any

import pytest

from replkv import Get, Put, Replica, Settings, TooLarge


def test_a_callback_that_waits_for_another_future_is_refused_instead_of_deadlocked() -> None:
    with Replica() as replica:
        told = threading.Event()
        errors: list[BaseException] = []
        log = replica._running().log
        real = log.sync

        def callback(_: object) -> None:
            log.sync = lambda: told.wait(10) and real()  # type: ignore[assignment, method-assign]  # it is not there before it is asked for
            try:
                replica.submit(Put("b", "2")).result()
            except RuntimeError as error:
                errors.append(error)
            told.set()

        replica.submit(Put("a", "1")).add_done_callback(callback)
        assert told.wait(10)
        assert "would wait for itself" in str(errors[0])


def test_a_callback_may_look_at_its_own_future() -> None:
    with Replica() as replica:
        told = threading.Event()
        revisions: list[int] = []
        future = replica.submit(Put("a", "1"))

        def callback(done: Future[Any]) -> None:
            revisions.append(done.result().revision)
            told.set()

        future.add_done_callback(callback)
        assert told.wait(10)
        assert revisions == [future.result().revision]


def test_a_thread_that_has_got_the_ident_of_an_ended_members_thread_may_wait() -> None:
    with Replica() as replica:
        engine, notifier = replica._engine(), replica._notifier
        assert notifier is not None
    assert engine.thread is not None
    pending: Future[Any] = Future()
    refused: list[BaseException] = []

    def wait(heir_of: threading.Thread) -> None:
        heir_of._ident = threading.get_ident()  # type: ignore[attr-defined]  # as the system may give it
        try:
            engine.refuse_to_block()
            notifier.refuse_to_wait_for(pending)
        except RuntimeError as error:
            refused.append(error)

    for thread in (engine.thread, notifier._thread):
        assert not thread.is_alive()
        heir = threading.Thread(target=wait, args=(thread,))
        heir.start()
        heir.join()
    assert refused == []


def test_ready_or_not_is_told_at_once_with_a_timeout_of_zero() -> None:
    with Replica() as replica:
        replica.wait_ready(10)
        replica.wait_ready(0)
        assert replica.ready


@pytest.mark.parametrize("value", ["yes", "true", "2"])
def test_an_insecure_that_is_neither_yes_nor_no_is_refused(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REPLKV_INSECURE", value)
    with pytest.raises(ValueError, match="REPLKV_INSECURE must be 1 or 0"):
        Replica.from_env()


def test_a_callback_that_comes_late_runs_on_the_notifiers_thread_too() -> None:
    with Replica() as replica:
        future = replica.submit(Put("a", "1"))
        future.result(10)
        threads: list[str] = []
        told = threading.Event()

        def callback(_: Future[Any]) -> None:
            threads.append(threading.current_thread().name)
            told.set()

        future.add_done_callback(callback)
        assert told.wait(10)
        assert threads == ["replkv-replica-notifier"]


def test_a_callback_that_calls_exit_ends_nothing_but_itself() -> None:
    with Replica() as replica:
        replica.submit(Put("a", "1")).add_done_callback(lambda _: sys.exit(1))
        assert replica.submit(Put("b", "2")).result(10).revision > 1


def test_a_lone_leader_keeps_its_published_lease_while_it_is_idle() -> None:
    with Replica() as replica:
        replica.put("a", "1")
        node = replica._node
        assert node is not None
        first = node.published.lease_until
        until = time.monotonic() + 10
        while node.published.lease_until < first + 1:  # it moves on with every heartbeat
            assert time.monotonic() < until
        assert node.published.lease_until > node.clock()


def test_a_transaction_too_large_for_the_log_is_refused_before_it_enters() -> None:
    """Operations count little as keys and values, and much as bytes: one such entry stopped every member for good."""
    with Replica(settings=Settings(max_txn_ops=1_000_000)) as replica:
        reads = [Get("k", revision=1 << 40)] * 700_000
        with pytest.raises(TooLarge, match="as it stands in the log"):
            replica.txn(then=[Put("a", "1"), *reads])
        assert replica.put("a", "1").revision == 2
