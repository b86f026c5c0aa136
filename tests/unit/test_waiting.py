"""How callers wait: what they may do in a callback, and what they may not."""

from __future__ import annotations

import threading
from concurrent.futures import Future
from typing import Any

import pytest

from replkv import Put, Replica


def test_a_callback_that_waits_for_another_future_is_refused_instead_of_deadlocked() -> None:
    with Replica() as replica:
        told = threading.Event()
        errors: list[BaseException] = []

        def callback(_: object) -> None:
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
