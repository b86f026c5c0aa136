"""What happens when more is under way at a member than its ``Config`` allows."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from typing import Any

import pytest
from eventual import PATIENCE, eventually

from replkv import AsyncReplica, Closed, Config, NoLeader, OutcomeUnknown, Overloaded, Put, Replica, TooLarge

TWO = Config(max_commands_in_flight=2, timeout=PATIENCE)
REFUSING = Config(max_commands_in_flight=2, timeout=PATIENCE, overload="raise")


class Brake:
    """Holds a member's syncs up, so that what is handed over stays under way."""

    def __init__(self, replica: Replica | AsyncReplica) -> None:
        log = replica._running().log
        self.release = threading.Event()
        real = log.sync
        log.sync = lambda: self.release.wait(PATIENCE) and real()  # type: ignore[assignment, method-assign]


def held(config: Config) -> Iterator[tuple[Replica, Brake]]:
    with Replica(config=config) as replica:
        replica.put("before", "x")  # so that its session is open
        brake = Brake(replica)
        yield replica, brake
        brake.release.set()


@pytest.fixture
def blocking() -> Iterator[tuple[Replica, Brake]]:
    yield from held(TWO)


@pytest.fixture
def refusing() -> Iterator[tuple[Replica, Brake]]:
    yield from held(REFUSING)


def in_line(replica: Replica | AsyncReplica) -> int:
    return len(replica._running().proposals.admission._line)


def test_a_call_beyond_the_bound_waits_for_room(blocking: tuple[Replica, Brake]) -> None:
    replica, brake = blocking
    futures: list[Future[Any]] = [replica.submit(Put(f"key{number}", "value")) for number in range(2)]
    answers: list[int] = []
    caller = threading.Thread(target=lambda: answers.append(replica.put("more", "value").revision))
    caller.start()
    eventually(lambda: in_line(replica) == 1)
    assert not answers
    brake.release.set()
    caller.join(PATIENCE)
    assert len(answers) == 1
    assert [future.result(PATIENCE).revision for future in futures] == [3, 4]


def test_who_waits_for_room_while_it_handles_an_error_leaves_once(blocking: tuple[Replica, Brake]) -> None:
    replica, brake = blocking
    for number in range(2):
        replica.submit(Put(f"key{number}", "value"))

    def put() -> None:
        try:
            raise KeyError
        except KeyError:
            replica.put("more", "value")

    caller = threading.Thread(target=put)
    caller.start()
    eventually(lambda: in_line(replica) == 1)
    brake.release.set()
    caller.join(PATIENCE)
    admission = replica._running().proposals.admission
    eventually(lambda: (admission.commands, admission.bytes) == (0, 0))


def test_a_submit_beyond_the_bound_waits_for_room_too(blocking: tuple[Replica, Brake]) -> None:
    replica, brake = blocking
    futures: list[Future[Any]] = []

    def submit() -> None:
        futures.extend(replica.submit(Put(f"key{number}", "value")) for number in range(10))

    caller = threading.Thread(target=submit)
    caller.start()
    eventually(lambda: in_line(replica) == 1)
    brake.release.set()
    caller.join(PATIENCE)
    assert sorted(future.result(PATIENCE).revision for future in futures) == list(range(3, 13))
    admission = replica._running().proposals.admission
    assert (admission.commands, admission.bytes) == (0, 0)


def test_who_waited_in_vain_is_told_so_and_nothing_was_sent(blocking: tuple[Replica, Brake]) -> None:
    replica, brake = blocking
    for number in range(2):
        replica.submit(Put(f"key{number}", "value"))
    with pytest.raises(Overloaded, match=r"still no room after 0\.0\d* s .* 2 commands"):
        replica.put("more", "value", timeout=0.01)
    with pytest.raises(Overloaded):
        replica.put("more", "value", timeout=0)
    brake.release.set()
    eventually(lambda: replica._running().proposals.admission.commands == 0)
    assert replica.get("more") is None


def test_where_it_was_chosen_a_call_beyond_the_bound_is_refused_at_once(refusing: tuple[Replica, Brake]) -> None:
    replica, brake = refusing
    futures = [replica.submit(Put(f"key{number}", "value")) for number in range(2)]
    with pytest.raises(Overloaded, match="no room for another command"):
        replica.put("more", "value", timeout=None)
    with pytest.raises(Overloaded):
        replica.submit(Put("more", "value"))
    assert replica.get("before", consistency="local") is not None, "reads go on"
    brake.release.set()
    for future in futures:
        future.result(PATIENCE)
    assert replica.put("more", "value").revision == 5


def test_bytes_are_bounded_as_well_but_a_single_large_command_gets_through() -> None:
    with Replica(config=Config(max_bytes_in_flight=1000, overload="raise", timeout=PATIENCE)) as replica:
        replica.put("large", b"x" * 100_000)
        brake = Brake(replica)
        first = replica.submit(Put("one", b"x" * 900))
        with pytest.raises(Overloaded, match="1000 bytes"):
            replica.submit(Put("two", b"x" * 900))
        brake.release.set()
        first.result(PATIENCE)
        with pytest.raises(TooLarge):
            replica.put("larger", b"x" * 4_000_000)
        admission = replica._running().proposals.admission
        assert (admission.commands, admission.bytes) == (0, 0)


def test_those_in_line_learn_that_the_member_was_closed(blocking: tuple[Replica, Brake]) -> None:
    replica, brake = blocking
    for number in range(2):
        replica.submit(Put(f"key{number}", "value"))
    errors: list[BaseException] = []

    def put() -> None:
        try:
            replica.put("more", "value", timeout=None)
        except Closed as error:
            errors.append(error)

    caller = threading.Thread(target=put)
    caller.start()
    eventually(lambda: in_line(replica) == 1)
    replica._running().request_close(0.0)
    brake.release.set()
    caller.join(PATIENCE)
    assert [type(error) for error in errors] == [Closed]


def test_without_a_leader_waiting_in_vain_names_that_as_the_cause(tmp_path: Any) -> None:
    cluster = {"a": "inproc://replkv-test-overload-a", "b": "127.0.0.1:1"}
    with Replica("a", data_dir=tmp_path / "a", cluster=cluster, config=Config(max_commands_in_flight=1)) as replica:
        waiting = replica.submit(Put("key", "value"))
        with pytest.raises(NoLeader, match="nothing was applied"):
            replica.put("key", "value", timeout=0.05)
        assert not waiting.done()


def test_a_task_waits_for_room_without_blocking_its_loop() -> None:
    async def main() -> None:
        async with AsyncReplica(config=TWO) as replica:
            await replica.put("before", "x")
            brake = Brake(replica)
            futures = [replica.submit(Put(f"key{number}", "value")) for number in range(2)]
            with pytest.raises(Overloaded):
                replica.submit(Put("more", "value"))
            with pytest.raises(Overloaded):
                await replica.put("more", "value", timeout=0.01)
            tasks = [asyncio.ensure_future(replica.put(f"more{number}", "value")) for number in range(3)]
            await asyncio.sleep(0)
            assert in_line(replica) == 3
            tasks[1].cancel()
            with pytest.raises(asyncio.CancelledError):
                await tasks[1]
            brake.release.set()
            await tasks[0]
            await tasks[2]
            for future in futures:
                await asyncio.wrap_future(future)
            assert await replica.get("more1") is None
            admission = replica._running().proposals.admission
            assert (admission.commands, admission.bytes) == (0, 0)

    asyncio.run(main())


def test_a_call_given_up_while_under_way_leaves_when_its_answer_comes(blocking: tuple[Replica, Brake]) -> None:
    replica, brake = blocking
    with pytest.raises(OutcomeUnknown):
        replica.put("key", "value", timeout=0.05)
    brake.release.set()
    admission = replica._running().proposals.admission
    eventually(lambda: (admission.commands, admission.bytes) == (0, 0))
