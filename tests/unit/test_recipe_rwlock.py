"""Reader-writer locks: readers together, writers alone, nobody starves, and nothing is left behind."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from eventual import PATIENCE, eventually
from recipes import FAST, has_keys, keys_of, revoke

from replkv import AsyncReplica, LockLost, Replica, RWLock, RWLockSide, WaitTimeout
from replkv.recipes.base import RESERVED
from replkv.recipes.line import Line


@pytest.fixture
def replica() -> Iterator[Replica]:
    with Replica(settings=FAST) as replica:
        yield replica


def in_line(replica: Replica) -> int:
    return keys_of(replica, "rwlock", "")


def test_readers_share_and_a_writer_is_alone(replica: Replica) -> None:
    lock = replica.rwlock("data")
    with lock.read() as one, lock.read() as other:
        assert one.held
        assert other.held
        assert lock.write().try_acquire() is None
        assert in_line(replica) == 2
        fences = [one.fence, other.fence]
    with lock.write() as writer:
        assert fences[0] < fences[1] < writer.fence
        assert lock.read().try_acquire() is None
        assert lock.write().try_acquire() is None
    assert in_line(replica) == 0


def test_names_are_apart_and_a_side_is_held_once_at_a_time(replica: Replica) -> None:
    elsewhere = replica.namespace("a/").rwlock("a").write()
    with replica.rwlock("a").write(), replica.rwlock("b").write(), elsewhere, pytest.raises(RuntimeError, match=r"'a' \(writer\) is held"):
        elsewhere.acquire()


def test_a_reader_behind_a_waiting_writer_waits_so_that_writers_do_not_starve(replica: Replica) -> None:
    lock = replica.rwlock("fair")
    reader, writer, late = lock.read(), lock.write(), lock.read()
    reader.acquire()
    with ThreadPoolExecutor(2) as pool:
        writing = pool.submit(writer.acquire, PATIENCE)
        eventually(lambda: in_line(replica) == 2)
        assert lock.read().try_acquire() is None
        reading = pool.submit(late.acquire, PATIENCE)
        eventually(lambda: in_line(replica) == 3)
        reader.release()
        writing.result(PATIENCE)
        assert not reading.done()
        writer.release()
        reading.result(PATIENCE)
    late.release()


def test_a_writer_that_gives_up_lets_the_readers_behind_it_go_on(replica: Replica) -> None:
    lock = replica.rwlock("fair")
    late = lock.read()
    with lock.read(), ThreadPoolExecutor(2) as pool:
        writing = pool.submit(lock.write().acquire, 0.2)
        eventually(lambda: in_line(replica) == 2)
        reading = pool.submit(late.acquire, PATIENCE)
        assert isinstance(writing.exception(PATIENCE), WaitTimeout)
        reading.result(PATIENCE)
        late.release()
    assert in_line(replica) == 0


def test_a_leaving_reader_wakes_no_other_reader_and_a_leaving_writer_all_that_it_lets_go_on(
    replica: Replica, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[int] = []
    real = Line._before

    async def counting(self: Line, *arguments: Any) -> Any:
        looks.append(1)
        return await real(self, *arguments)

    monkeypatch.setattr(Line, "_before", counting)
    lock = replica.rwlock("herd")
    first, writer, readers = lock.read(), lock.write(), [lock.read() for _ in range(6)]
    first.acquire()
    with ThreadPoolExecutor(7) as pool:
        pool.submit(writer.acquire, PATIENCE)
        eventually(lambda: len(looks) == 2)
        for reader in readers:
            pool.submit(reader.acquire, PATIENCE)
        eventually(lambda: len(looks) == 8)
        first.release()
        eventually(lambda: writer.held)
        assert len(looks) == 9  # the writer has looked again, nobody else
        writer.release()
        eventually(lambda: all(reader.held for reader in readers))
        assert len(looks) == 15
        for reader in readers:
            reader.release()


def test_no_update_is_lost_between_writers_and_readers_see_whole_updates(replica: Replica) -> None:
    lock = replica.rwlock("books")
    shared = {"a": 0, "b": 0}

    def write() -> None:
        for _ in range(5):
            with lock.write():
                for name in shared:
                    shared[name] += 1

    def read() -> list[bool]:
        seen = []
        for _ in range(5):
            with lock.read():
                seen.append(shared["a"] == shared["b"])
        return seen

    with ThreadPoolExecutor(6) as pool:
        writing = [pool.submit(write) for _ in range(3)]
        reading = [pool.submit(read) for _ in range(3)]
        for future in writing:
            future.result(PATIENCE)
        assert all(all(future.result(PATIENCE)) for future in reading)
    assert shared == {"a": 15, "b": 15}


@pytest.mark.parametrize("side", [RWLock.read, RWLock.write])
def test_a_side_whose_lease_is_lost_says_so_and_guards_nothing(replica: Replica, side: Any) -> None:
    held: RWLockSide = side(replica.rwlock("x"))

    def hold_and_lose() -> None:
        with held:
            replica.put("result", "1", guard=held)
            revoke(replica, held._held.lifeline.id)
            assert held.lost.wait(PATIENCE)
            with pytest.raises(LockLost):
                replica.put("result", "2", guard=held)

    with pytest.raises(LockLost):
        hold_and_lose()
    with replica.rwlock("x").write():
        assert not held.held


def test_tasks_share_and_wait_and_a_cancelled_wait_leaves_nothing_behind() -> None:
    async def scenario() -> None:
        async with AsyncReplica(settings=FAST) as replica:
            lock = replica.rwlock("data")
            async with lock.read() as one, lock.read():
                assert one.held
                assert await lock.write().try_acquire() is None
                waiting = asyncio.create_task(lock.write().acquire())
                await has_keys(replica, RESERVED, 3)
                waiting.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await waiting
                async with asyncio.timeout(PATIENCE), lock.read():
                    pass
            async with asyncio.timeout(PATIENCE), lock.write() as writer:
                assert writer.fence > 0
            await has_keys(replica, RESERVED, 0)

    asyncio.run(scenario())


def test_bad_arguments_are_refused_at_once(replica: Replica) -> None:
    with pytest.raises(TypeError):
        replica.rwlock(3)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="not empty"):
        replica.rwlock("")
    with pytest.raises(ValueError, match="ttl"):
        replica.rwlock("x", ttl=-1)
    with pytest.raises(TypeError, match="lease"):
        replica.rwlock("x", lease=3)  # type: ignore[arg-type]
    with pytest.raises(WaitTimeout), replica.rwlock("x").write():
        replica.rwlock("x").read().acquire(0)
