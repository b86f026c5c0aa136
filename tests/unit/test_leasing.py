"""``Lease`` and ``AsyncLease``: leases as those see them who hold them."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from eventual import PATIENCE, eventually

from replkv import (
    KEEP,
    AsyncLease,
    AsyncReplica,
    Key,
    LeaseExists,
    LeaseInfo,
    LeaseNotFound,
    OutcomeUnknown,
    Put,
    Replica,
    Settings,
)

FAST = Settings(heartbeat=0.05, promise=0.1, election_timeout=0.5)
SHORT = 0.2


@pytest.fixture
def replica() -> Iterator[Replica]:
    with Replica(settings=FAST) as replica:
        replica.wait_ready(PATIENCE)
        yield replica


def test_a_lease_that_is_kept_alive_outlives_its_ttl(replica: Replica) -> None:
    lease = replica.lease(SHORT)
    replica.put("key", "value", lease=lease)
    assert not lease.lost.wait(5 * SHORT)
    assert 0 < lease.remaining() <= SHORT
    found = replica.get("key")
    assert found is not None
    assert found.lease == lease.id


def test_a_lease_that_nobody_keeps_alive_ends_with_its_keys_and_the_holder_knows_first(replica: Replica) -> None:
    with replica.watch(prefix="key") as watch:
        lease = replica.lease(SHORT, keep_alive=False)
        for name in ("key1", "key2"):
            replica.put(name, "value", lease=lease.id)
        assert not lease.lost.is_set()
        puts = [watch.next(PATIENCE), watch.next(PATIENCE)]
        first, second = watch.next(PATIENCE), watch.next(PATIENCE)
    assert lease.lost.is_set()
    assert lease.remaining() == 0.0
    assert [event.kind for event in puts] == ["put", "put"]  # type: ignore[union-attr]
    assert [(event.kind, event.key, event.expired) for event in (first, second)] == [  # type: ignore[union-attr]
        ("delete", b"key1", True),
        ("delete", b"key2", True),
    ]
    assert first.revision == second.revision  # type: ignore[union-attr]
    assert first.kv.lease == lease.id  # type: ignore[union-attr]
    with pytest.raises(LeaseNotFound):
        lease.renew()


def test_renewing_begins_its_time_anew(replica: Replica) -> None:
    lease = replica.lease(2.0, keep_alive=False)
    before = eventually(lambda: lease.remaining() < 1.9 and lease.remaining())
    lease.renew()
    assert lease.remaining() > before
    assert not lease.lost.is_set()


def test_revoking_deletes_all_its_keys_at_one_revision(replica: Replica) -> None:
    lease = replica.lease(60)
    keys = [f"key{number}" for number in range(300)]
    for future in [replica.submit(Put(key, "value", lease=lease)) for key in keys]:
        future.result(PATIENCE)
    assert lease.keys() == tuple(sorted(key.encode() for key in keys))
    before = replica.revision
    assert lease.revoke() == len(keys)
    assert lease.lost.is_set()
    assert replica.revision == before + 1
    assert replica.scan(prefix="key").count == 0
    with pytest.raises(LeaseNotFound):
        lease.revoke()
    with pytest.raises(LeaseNotFound):
        lease.keys()
    with pytest.raises(LeaseNotFound):
        replica.put("key", "value", lease=lease)


def test_the_block_of_a_with_statement_revokes_at_its_end(replica: Replica) -> None:
    with replica.lease(60) as lease:
        replica.put("key", "value", lease=lease)
    assert replica.get("key") is None
    assert replica.leases() == []


def test_leaving_the_block_does_not_mind_a_lease_that_is_over_or_a_member_that_is_closed() -> None:
    with Replica(settings=FAST) as replica:
        with replica.lease(60) as lease:
            lease.revoke()
        with replica.lease(60) as lease:
            replica.close()
    assert lease.lost.is_set()
    assert lease.lost.wait(0)


def test_a_closing_member_ends_a_wait_for_a_lost_lease() -> None:
    with Replica(settings=FAST) as replica:
        lease = replica.lease(3600)
        waiter = threading.Thread(target=lease.lost.wait)
        waiter.start()
    waiter.join(PATIENCE)
    assert not waiter.is_alive()


def test_keys_move_between_leases_and_leave_them(replica: Replica) -> None:
    first, second = replica.lease(60), replica.lease(60)
    replica.put("key", "1", lease=first)
    replica.put("key", "2", lease=KEEP)
    assert first.keys() == (b"key",)
    replica.put("key", "3", lease=second)
    assert (first.keys(), second.keys()) == ((), (b"key",))
    replica.put("key", KEEP, lease=KEEP)
    assert second.keys() == (b"key",)
    replica.put("key", "4")
    assert second.keys() == ()
    second.revoke()
    assert replica.get("key") is not None
    assert replica.txn(compare=[Key("key").lease == 0])


def test_a_key_put_with_a_ttl_goes_by_itself_unless_it_is_put_again(replica: Replica) -> None:
    with replica.watch("key") as watch:
        replica.put("key", "1", ttl=SHORT)
        replica.put("key", "2", ttl=3600)
        assert [event.value for event in (watch.next(PATIENCE), watch.next(PATIENCE))] == [b"1", b"2"]  # type: ignore[union-attr]
        assert watch.next(3 * SHORT) is None
        assert len(replica.leases()) == 1, "the first lease went with its key"
        replica.put("key", "3", ttl=SHORT)
        events = [watch.next(PATIENCE), watch.next(PATIENCE)]
    assert [event.kind for event in events] == ["put", "delete"]  # type: ignore[union-attr]
    assert events[1].expired  # type: ignore[union-attr]
    assert replica.leases() == []


def test_leases_are_listed_with_what_is_known_of_them(replica: Replica) -> None:
    kept, loose = replica.lease(60, id=7), replica.lease(30, keep_alive=False)
    replica.put("key", "value", lease=kept)
    one, two = sorted(replica.leases(), key=lambda lease: -lease.ttl)
    assert (one.id, one.ttl, one.keys, one.kept) == (7, 60.0, 1, True)
    assert (two.id, two.ttl, two.keys, two.kept) == (loose.id, 30.0, 0, False)
    assert isinstance(one, LeaseInfo)
    assert 0 < two.remaining <= 30.0


def test_an_id_that_is_taken_is_refused_and_can_be_taken_over_instead(replica: Replica) -> None:
    first = replica.lease(SHORT, id=42, keep_alive=False)
    with pytest.raises(LeaseExists):
        replica.lease(60, id=42)
    second = replica.lease(id=42)
    assert (second.id, second.ttl) == (42, SHORT)
    assert not second.lost.wait(3 * SHORT), "it is kept alive now"
    assert first.lost.is_set(), "the first holder counted on its own time only"
    with pytest.raises(LeaseNotFound):
        replica.lease(id=43)


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({}, ValueError),
        ({"ttl": 0}, ValueError),
        ({"ttl": 0.09}, ValueError),
        ({"ttl": -1.0}, ValueError),
        ({"ttl": float("nan")}, ValueError),
        ({"ttl": float("inf")}, ValueError),
        ({"ttl": 11 * 365 * 86400}, ValueError),
        ({"ttl": "10"}, TypeError),
        ({"ttl": True}, TypeError),
        ({"ttl": 10, "id": 0}, ValueError),
        ({"ttl": 10, "id": -1}, ValueError),
        ({"ttl": 10, "id": "7"}, TypeError),
        ({"ttl": 10, "keep_alive": 1}, TypeError),
        ({"ttl": 10, "timeout": -1}, ValueError),
    ],
)
def test_wrong_arguments_are_refused_before_anything_is_sent(replica: Replica, arguments: dict[str, Any], error: type[Exception]) -> None:
    before = replica._running().published.commit
    with pytest.raises(error):
        replica.lease(**arguments)
    assert replica.leases() == []
    assert replica._running().published.commit == before


def test_the_shortest_ttl_is_two_heartbeats_for_puts_as_well_also_in_transactions(replica: Replica) -> None:
    for call in (
        lambda: replica.put("key", "value", ttl=0.09),
        lambda: replica.put("key", "value", ttl=0.09, if_mod_revision=0),
        lambda: replica.txn(otherwise=[Put("key", "value", ttl=0.09)]),
        lambda: replica.submit(Put("key", "value", ttl=0.09)),
    ):
        with pytest.raises(ValueError, match=r"at least 0\.1 seconds"):
            call()
    replica.put("key", "value", ttl=0.1)


def test_a_lease_in_a_namespace_shows_the_keys_of_the_namespace(replica: Replica) -> None:
    app = replica.namespace("app/")
    lease = app.lease(60)
    app.put("inside", "value", lease=lease)
    replica.put("outside", "value", lease=lease.id)
    assert lease.keys() == (b"inside",)
    assert replica.lease(id=lease.id).keys() == (b"app/inside", b"outside")


def test_a_lease_whose_caller_gave_up_is_kept_alive_for_nobody(replica: Replica, monkeypatch: pytest.MonkeyPatch) -> None:
    held = replica.lease(SHORT)  # the keeper is busy with another
    node = replica._running()
    release = threading.Event()
    real = node.log.sync
    monkeypatch.setattr(node.log, "sync", lambda: release.wait(PATIENCE) and real())
    with pytest.raises(OutcomeUnknown):
        replica.lease(3600, id=9, timeout=0.05)
    release.set()
    eventually(lambda: 9 not in [lease.id for lease in replica.leases()] and not node.proposals.under_way)
    held.lost.wait(0)


def test_a_lease_whose_grant_took_too_long_comes_later(replica: Replica, monkeypatch: pytest.MonkeyPatch) -> None:
    replica.put("before", "x")
    node = replica._running()
    release = threading.Event()
    real = node.log.sync
    monkeypatch.setattr(node.log, "sync", lambda: release.wait(PATIENCE) and real())
    with pytest.raises(OutcomeUnknown) as caught:
        replica.lease(3600, timeout=0.05)
    release.set()
    lease = caught.value.wait(PATIENCE)
    assert lease.id == replica.leases()[0].id
    assert not lease.lost.wait(0)
    assert caught.value.wait(PATIENCE) is lease, "who asks again gets the same handle"
    assert len(node.keeper._held[lease.id]) == 1, "and counts on the lease once"
    assert lease.lost is lease.lost
    lease.revoke()
    assert lease.lost.wait(PATIENCE)
    assert not node.keeper._held


def stopped_syncs(replica: Replica, monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Let the member hand writes over, but not sync them until the event is set."""
    replica.put("before", "x")  # so that its session is open
    log, release = replica._running().log, threading.Event()
    monkeypatch.setattr(log, "sync", lambda real=log.sync: release.wait(PATIENCE) and real())
    return release


def test_who_waits_on_too_late_for_a_lease_is_told_that_it_is_gone(replica: Replica, monkeypatch: pytest.MonkeyPatch) -> None:
    held = replica.lease(SHORT)  # the keeper is busy with another, and revokes the one that nobody waits for
    node = replica._running()
    release = stopped_syncs(replica, monkeypatch)
    with pytest.raises(OutcomeUnknown) as caught:
        replica.lease(3600, id=9, timeout=0.05)
    release.set()
    eventually(lambda: 9 not in [lease.id for lease in replica.leases()] and not node.proposals.under_way)
    for _ in range(2):
        with pytest.raises(LeaseNotFound, match="lease 9 was granted, and was over"):
            caught.value.wait(PATIENCE)
    assert 9 not in node.keeper._held
    held.lost.wait(0)


def test_a_lease_that_somebody_goes_on_waiting_for_is_not_taken_for_one_that_nobody_wants(
    replica: Replica, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = replica._running()
    release = stopped_syncs(replica, monkeypatch)
    with pytest.raises(OutcomeUnknown) as caught:
        replica.lease(3600, timeout=0.05)
    with pytest.raises(OutcomeUnknown) as again:
        caught.value.wait(0.01)
    assert node.keeper._granting == 0
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(again.value.wait, PATIENCE)
        eventually(lambda: node.keeper._granting == 1)
        release.set()
        assert waiting.result(PATIENCE).keys() == ()
    assert node.keeper._granting == 0


BAD_TIMEOUTS = [("x", TypeError), (True, TypeError), (-1, ValueError), (float("nan"), ValueError)]


@pytest.mark.parametrize(("timeout", "error"), BAD_TIMEOUTS)
def test_a_wrong_timeout_of_a_wait_for_the_loss_is_refused_by_name(replica: Replica, timeout: Any, error: type[Exception]) -> None:
    lost = replica.lease(60).lost
    with pytest.raises(error, match="timeout must be"):
        lost.wait(timeout)

    async def test(other: AsyncReplica) -> None:
        lease = await other.lease(60)
        with pytest.raises(error, match="timeout must be"):
            await lease.lost.wait(timeout)

    run(test)


@pytest.mark.parametrize(("timeout", "error"), BAD_TIMEOUTS)
def test_a_wrong_timeout_of_a_wait_for_an_unknown_lease_is_refused(
    replica: Replica, monkeypatch: pytest.MonkeyPatch, timeout: Any, error: type[Exception]
) -> None:
    release = stopped_syncs(replica, monkeypatch)
    with pytest.raises(OutcomeUnknown) as caught:
        replica.lease(60, timeout=0.05)
    with pytest.raises(error, match="timeout must be"):
        caught.value.wait(timeout)
    release.set()
    assert caught.value.wait(PATIENCE).ttl == 60


def test_a_handle_says_what_it_holds(replica: Replica) -> None:
    lease = replica.lease(60)
    assert repr(lease).startswith(f"<Lease {lease.id} of 60 s, ")
    assert repr(lease.lost) == f"<lease {lease.id} is held>"
    lease.revoke()
    assert repr(lease.lost) == f"<lease {lease.id} is lost>"


# -- asyncio -----------------------------------------------------------------------------------------------------------------------


def run(test: Callable[[AsyncReplica], Any]) -> None:
    async def main() -> None:
        async with AsyncReplica(settings=FAST) as replica:
            await test(replica)

    asyncio.run(main())


def test_an_async_lease_is_granted_when_it_is_awaited_or_entered() -> None:
    async def test(replica: AsyncReplica) -> None:
        waiting = replica.lease(60)
        for use in (lambda: waiting.id, lambda: waiting.lost, waiting.remaining, waiting.revoke):
            with pytest.raises(RuntimeError, match="not granted yet"):  # and not Closed: the member is fine
                use()
        assert repr(waiting) == "<AsyncLease not granted yet>"
        lease = await waiting
        assert lease is waiting
        assert await waiting is lease
        await replica.put("key", "value", lease=lease)
        assert await lease.keys() == (b"key",)
        await lease.renew()
        assert await lease.revoke() == 1
        assert lease.lost.is_set()
        async with replica.lease(60) as inner:
            await replica.put("key", "value", lease=inner)
            assert not inner.lost.is_set()
        assert await replica.get("key") is None
        assert await replica.leases() == []

    run(test)


def test_a_lease_that_two_tasks_await_is_granted_once() -> None:
    async def test(replica: AsyncReplica) -> None:
        lease = replica.lease(60)

        async def wait() -> AsyncLease:
            return await lease

        assert all(found is lease for found in await asyncio.gather(wait(), wait(), wait()))
        assert [info.id for info in await replica.leases()] == [lease.id]
        assert len(replica._running().keeper._held[lease.id]) == 1

    run(test)


def async_stopped_syncs(replica: AsyncReplica) -> threading.Event:
    log, release = replica._running().log, threading.Event()
    real = log.sync
    log.sync = lambda: release.wait(PATIENCE) and real()  # type: ignore[assignment, method-assign]
    return release


def test_a_task_that_is_cancelled_while_it_awaits_a_lease_leaves_it_to_the_next() -> None:
    async def test(replica: AsyncReplica) -> None:
        await replica.put("before", "x")
        release = async_stopped_syncs(replica)
        lease = replica.lease(60)

        async def wait() -> AsyncLease:
            return await lease

        first, second = asyncio.ensure_future(wait()), asyncio.ensure_future(wait())
        while not replica._running().proposals.under_way:  # noqa: ASYNC110  # the member's own thread sets no event of this loop
            await asyncio.sleep(0)
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        release.set()
        assert await asyncio.wait_for(second, PATIENCE) is lease
        assert await lease.keys() == ()

    run(test)


def test_an_unknown_lease_can_be_awaited_and_is_the_same_each_time() -> None:
    async def test(replica: AsyncReplica) -> None:
        await replica.put("before", "x")
        release = async_stopped_syncs(replica)
        lease = replica.lease(60, timeout=0.05)
        with pytest.raises(OutcomeUnknown) as caught:
            await lease
        with pytest.raises(OutcomeUnknown) as again:
            await caught.value.wait(0.01)
        with pytest.raises(ValueError, match="timeout must be"):
            await caught.value.wait(-1)
        release.set()
        assert await again.value.wait(PATIENCE) is lease
        assert await caught.value.wait() is lease
        assert not await lease.lost.wait(0)
        assert len(replica._running().keeper._held[lease.id]) == 1

    run(test)


def test_a_lease_asked_for_again_after_an_unknown_outcome_holds_the_one_that_came_first() -> None:
    async def test(replica: AsyncReplica) -> None:
        await replica.put("before", "x")
        release = async_stopped_syncs(replica)
        lease = replica.lease(60, timeout=0.05)
        with pytest.raises(OutcomeUnknown) as caught:
            await lease
        release.set()
        assert await lease is lease  # the second try
        held = lease.id
        assert await caught.value.wait(PATIENCE) is lease
        assert lease.id == held
        assert list(replica._running().keeper._held) == [held], "the other one is nobody's"
        assert not lease.lost.is_set()

    run(test)


def test_a_task_can_await_the_loss_of_its_lease() -> None:
    async def test(replica: AsyncReplica) -> None:
        short = await replica.lease(SHORT, keep_alive=False)
        assert not await short.lost.wait(0)
        assert await asyncio.wait_for(short.lost.wait(), PATIENCE)
        kept = await replica.lease(60)
        waiter = asyncio.ensure_future(kept.lost.wait())
        await asyncio.sleep(0)
        await kept.revoke()
        assert await asyncio.wait_for(waiter, PATIENCE)
        assert await kept.lost

    run(test)


def test_a_cancelled_wait_leaves_nothing_behind() -> None:
    async def test(replica: AsyncReplica) -> None:
        lease = await replica.lease(60)
        waiter = asyncio.ensure_future(lease.lost.wait())
        await asyncio.sleep(0)
        waiter.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiter
        assert lease._held.on_lost == []

    run(test)
