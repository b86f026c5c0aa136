"""The futures that ``submit`` returns: true futures of ``concurrent.futures``, whatever is done with them and whenever."""

from __future__ import annotations

import asyncio
import copy
import gc
import random
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, FIRST_EXCEPTION, Future, ThreadPoolExecutor, as_completed, wait
from typing import Any

import pytest
from hasty import hasty_threads

from replkv import Put, Replica
from replkv.errors import Closed, KeyNotFound, NoLeader, ReplkvError
from replkv.plans import Plan
from replkv.proposals import finish
from replkv.waiting import FutureCall, Notifier

PATIENCE = 20.0


class Echo(Plan[Any]):
    """The answer is the result; a negative one is an error."""

    def meaning(self, raw: Any) -> Any:
        if raw < 0:
            raise KeyNotFound(f"{raw}")
        return raw


def expected(call: FutureCall, notifier: Notifier) -> FutureCall:
    notifier.expect(call)
    return call


def new_calls(notifier: Notifier, count: int) -> list[FutureCall]:
    return [expected(FutureCall(b"x", notifier, None, Echo(), float("inf")), notifier) for _ in range(count)]  # type: ignore[arg-type]


def answer(calls: list[FutureCall], *answers: Any) -> None:
    """Do what the node does with a batch."""
    for call, raw in zip(calls, answers, strict=True):
        call.answer = raw
    finish(calls)


@pytest.fixture
def notifier() -> Iterator[Notifier]:
    notifier = Notifier("notifier", time.monotonic)
    yield notifier
    notifier.close()


@pytest.fixture
def hurried() -> Iterator[None]:
    with hasty_threads():
        yield


def is_watched(future: Future[Any]) -> bool:
    return "_condition" in vars(future)


# -- what a future tells ------------------------------------------------------------------------------------------------------------


def test_a_future_tells_its_state_before_and_after(notifier: Notifier) -> None:
    calls = new_calls(notifier, 2)
    good, bad = (call.future for call in calls)
    for future in (good, bad):
        assert isinstance(future, Future)
        assert not (future.done() or future.running() or future.cancelled() or future.cancel())
        with pytest.raises(TimeoutError):
            future.result(0)
        with pytest.raises(TimeoutError):
            future.exception(0)
        assert "pending" in repr(future)
    answer(calls, 7, -7)
    assert good.result(PATIENCE) == 7
    assert good.exception() is None
    assert isinstance(bad.exception(PATIENCE), KeyNotFound)
    with pytest.raises(KeyNotFound):
        bad.result()
    for future in (good, bad):
        assert future.done()
        assert not (future.running() or future.cancelled() or future.cancel())
        assert "finished" in repr(future)


def test_futures_that_nobody_waits_for_have_no_condition_of_their_own(notifier: Notifier) -> None:
    calls = new_calls(notifier, 3)
    good, bad, last = (call.future for call in calls)
    told = threading.Event()
    last.add_done_callback(lambda _: told.set())
    answer(calls, 1, -1, 2)
    assert told.wait(PATIENCE)
    assert good.done()
    assert good.result() == 1
    assert last.result() == 2
    assert not any(is_watched(future) for future in (good, bad, last))
    assert isinstance(bad.exception(), KeyNotFound)


def test_a_future_that_is_already_there_can_be_waited_for_in_every_way(notifier: Notifier) -> None:
    calls = new_calls(notifier, 2)
    told = threading.Event()
    calls[-1].future.add_done_callback(lambda _: told.set())
    answer(calls, 1, -1)
    assert told.wait(PATIENCE)
    futures = [call.future for call in calls]
    assert wait(futures, 0).done == set(futures)
    assert wait(futures, 0, FIRST_EXCEPTION).done == set(futures)
    assert set(as_completed(futures, 0)) == set(futures)
    assert futures[0].result(0) == 1


def test_futures_that_were_looked_at_need_no_garbage_collector(notifier: Notifier) -> None:
    calls = new_calls(notifier, 3)
    assert not wait([calls[0].future], 0).done
    told = threading.Event()
    calls[1].future.add_done_callback(lambda _: told.set())
    answer(calls, 1, 2, 3)
    assert told.wait(PATIENCE)
    assert [call.future.result(PATIENCE) for call in calls] == [1, 2, 3]
    notifier.close()  # it holds calls until it has looked whether their time has run out
    left = [weakref.ref(call.future) for call in calls]
    gc.disable()
    try:
        calls.clear()
        assert [future() for future in left] == [None, None, None]
    finally:
        gc.enable()


def test_what_a_future_does_not_have_it_does_not_make_up(notifier: Notifier) -> None:
    future = new_calls(notifier, 1)[0].future
    with pytest.raises(AttributeError, match="no attribute 'colour'"):
        future.colour  # type: ignore[attr-defined]  # noqa: B018  # that is the question
    assert not is_watched(future)
    assert not copy.copy(future).done()


def test_it_has_all_that_this_pythons_futures_have(notifier: Notifier) -> None:
    """The library's own functions use what is not public: a Python in which that is otherwise has to be found out here."""
    future = new_calls(notifier, 1)[0].future
    for name, value in vars(Future()).items():
        assert type(getattr(future, name)) in (type(value), tuple), name
    assert {"_condition", "_state", "_result", "_exception", "_waiters", "_done_callbacks"} == vars(Future()).keys()


# -- callbacks ----------------------------------------------------------------------------------------------------------------------


def test_callbacks_run_once_each_in_their_order_whoever_else_waits(notifier: Notifier) -> None:
    calls = new_calls(notifier, 2)
    seen: list[tuple[int, int]] = []
    told = threading.Event()
    for at, call in enumerate(calls):
        for number in range(3):
            call.future.add_done_callback(lambda _, at=at, number=number: seen.append((at, number)))  # type: ignore[misc]
            if at == 0 and number == 1:
                assert not wait([call.future], 0).done  # somebody waits from now on
    calls[1].future.add_done_callback(lambda _: told.set())
    answer(calls, 1, 2)
    assert told.wait(PATIENCE)
    assert [number for at, number in seen if at == 0] == [0, 1, 2]
    assert [number for at, number in seen if at == 1] == [0, 1, 2]


def test_callbacks_of_what_was_answered_together_run_in_the_order_of_the_calls_whoever_else_waits(notifier: Notifier) -> None:
    calls = new_calls(notifier, 6)
    seen: list[int] = []
    told = threading.Event()
    for at, call in enumerate(calls):
        if at % 2:
            assert not wait([call.future], 0).done  # somebody waits from now on
        call.future.add_done_callback(lambda _, at=at: seen.append(at))  # type: ignore[misc]
    calls[-1].future.add_done_callback(lambda _: told.set())
    answer(calls, *range(6))
    assert told.wait(PATIENCE)
    assert seen == [0, 1, 2, 3, 4, 5]


def test_a_callback_that_ends_badly_keeps_nobody_else_of_its_batch_waiting(notifier: Notifier) -> None:
    calls = new_calls(notifier, 4)
    told: list[int] = []
    done = threading.Event()

    def leave(_: object) -> None:
        sys.exit(1)

    def fail(_: object) -> None:
        raise ValueError("a callback's own mistake")

    for at, call in enumerate(calls):
        call.future.add_done_callback(leave if at % 2 else fail)
        call.future.add_done_callback(lambda _, at=at: told.append(at))  # type: ignore[misc]
    assert not wait([calls[1].future], 0).done
    calls[-1].future.add_done_callback(lambda _: done.set())
    answer(calls, 1, 2, 3, 4)
    assert [call.future.result(PATIENCE) for call in calls] == [1, 2, 3, 4]
    assert done.wait(PATIENCE)
    assert sorted(told) == [0, 1, 2, 3]


def test_the_future_of_a_long_read_waits_for_no_other_that_was_asked_for_with_it(notifier: Notifier) -> None:
    class Long(Echo):
        is_long = True

        def answer(self, node: Any, call: Any) -> Any:
            return call.answer

        def meaning(self, raw: Any) -> Any:
            if raw == 2:
                assert begun.wait(PATIENCE)
            return raw

    class Answering:
        def answer(self, plan: Plan[Any], call: FutureCall) -> Any:
            return plan.answer(None, call)  # type: ignore[arg-type]  # nobody reads

    begun = threading.Event()
    calls = [FutureCall(None, notifier, Answering(), Long(), float("inf")) for _ in range(2)]  # type: ignore[arg-type]
    calls[0].future.add_done_callback(lambda _: begun.set())
    answer(calls, 1, 2)
    assert [call.future.result(PATIENCE) for call in calls] == [1, 2]


# -- together with others -----------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("hurried")
def test_futures_of_several_members_and_of_executors_can_be_waited_for_together_by_several_threads() -> None:
    """Whoever waits for several futures takes all their locks: futures that shared one would lock each other out."""
    with Replica("a") as one, Replica("b") as other, ThreadPoolExecutor(2) as executor:
        wrong: list[str] = []

        def work(seed: int) -> None:
            rng = random.Random(seed)
            for number in range(60):
                futures = [replica.submit(Put("k", "v")) for replica in (one, other) for _ in range(3)]
                futures += [executor.submit(int, number) for _ in range(3)]
                rng.shuffle(futures)
                if number % 2:
                    if wait(futures, PATIENCE).not_done:
                        wrong.append("not all were done")
                elif len(set(as_completed(futures, PATIENCE))) != 9:
                    wrong.append("not all completed")

        threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert not any(thread.is_alive() for thread in threads)
        assert wrong == []


def test_a_future_can_be_awaited() -> None:
    async def main(replica: Replica) -> int:
        results = await asyncio.gather(*(asyncio.wrap_future(replica.submit(Put("k", "v"))) for _ in range(50)))
        with pytest.raises(ReplkvError):
            await asyncio.wrap_future(replica.submit(Put("k", "v", if_mod_revision=1)))
        return len({result.revision for result in results})

    with Replica() as replica:
        assert asyncio.run(main(replica)) == 50


def by_result(future: Future[Any]) -> Any:
    try:
        return future.result(PATIENCE)
    except KeyNotFound as error:
        return int(str(error))


def by_exception(future: Future[Any]) -> Any:
    error = future.exception(PATIENCE)
    return future.result() if error is None else int(str(error))


def by_wait(future: Future[Any]) -> Any:
    assert wait([future], PATIENCE, FIRST_COMPLETED).done
    return by_result(future)


def by_as_completed(future: Future[Any]) -> Any:
    (done,) = as_completed([future], PATIENCE)
    return by_result(done)


def by_callback(future: Future[Any]) -> Any:
    told = threading.Event()
    future.add_done_callback(lambda _: told.set())
    assert told.wait(PATIENCE)
    return by_result(future)


def by_looking(future: Future[Any]) -> Any:
    until = time.monotonic() + PATIENCE
    while not future.done():
        assert time.monotonic() < until
    return by_result(future)


WAYS: list[Callable[[Future[Any]], Any]] = [by_result, by_exception, by_wait, by_as_completed, by_callback, by_looking]


@pytest.mark.usefixtures("hurried")
def test_however_a_future_is_watched_while_it_is_resolved_its_outcome_is_seen(notifier: Notifier) -> None:
    rounds, threads = 60, 4
    batches = [new_calls(notifier, 6) for _ in range(rounds)]
    begun = [threading.Barrier(threads + 1) for _ in range(rounds)]
    wrong: list[object] = []

    def watch(seed: int) -> None:
        rng = random.Random(seed)
        try:
            for batch, barrier in zip(batches, begun, strict=True):
                barrier.wait(PATIENCE)
                for number in rng.sample(range(6), 6):
                    seen = rng.choice(WAYS)(batch[number].future)
                    if seen != (number if number % 3 else -number - 1):
                        wrong.append((number, seen))
        except BaseException as error:  # noqa: BLE001  # whatever it is, the test has to know
            wrong.append(error)

    watchers = [threading.Thread(target=watch, args=(seed,)) for seed in range(threads)]
    for watcher in watchers:
        watcher.start()
    for batch, barrier in zip(batches, begun, strict=True):
        barrier.wait(PATIENCE)
        answer(batch, *(number if number % 3 else -number - 1 for number in range(6)))
    for watcher in watchers:
        watcher.join(60)
    assert not any(watcher.is_alive() for watcher in watchers)
    assert wrong == []


# -- the end ------------------------------------------------------------------------------------------------------------------------


def test_futures_that_are_finished_after_the_notifiers_end_are_resolved_with_their_callbacks(notifier: Notifier) -> None:
    notifier.close()
    calls = new_calls(notifier, 3)
    told: list[int] = []
    for at, call in enumerate(calls):
        call.future.add_done_callback(lambda _, at=at: told.append(at))  # type: ignore[misc]
    for call in calls:
        call.error = Closed("closed")
    finish(calls)
    assert all(isinstance(call.future.exception(0), Closed) for call in calls)
    assert told == [0, 1, 2]


def test_however_many_futures_are_finished_while_the_notifier_ends_none_is_lost_in_the_depth_of_the_others(
    notifier: Notifier, caplog: pytest.LogCaptureFixture
) -> None:
    told: list[int] = []

    class Ending:
        """Does it in the last moment of the notifier's last look but one."""

        name = "member"

        def give_up(self, _: FutureCall) -> bool:
            calls = new_calls(notifier, 2000)
            for at, call in enumerate(calls):
                call.future.add_done_callback(lambda _, at=at: told.append(at))  # type: ignore[misc]
                call.fail(Closed("closed"))
            notifier.stop()
            return True

        leader, unreachable, trouble = None, (), ""

    late = expected(FutureCall(b"x", notifier, Ending(), Echo(), 0.0), notifier)  # type: ignore[arg-type]
    assert isinstance(late.future.exception(PATIENCE), NoLeader)
    notifier._thread.join(PATIENCE)
    assert told == list(range(2000))
    assert not caplog.records
