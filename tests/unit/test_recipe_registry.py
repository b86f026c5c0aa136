"""Registries: what is registered is found while it lives, and comes back by itself."""

from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import Iterator

import pytest
from eventual import PATIENCE, eventually
from recipes import FAST, has_keys, revoke

from replkv import AsyncReplica, Closed, LockLost, Replica, Undecodable
from replkv.recipes.base import RESERVED
from replkv.recipes.registry import _Registration

PLACE = RESERVED + b"registry/web/"


@pytest.fixture
def replica() -> Iterator[Replica]:
    with Replica(settings=FAST) as replica:
        yield replica


def revoke_lease_of(registration: _Registration, replica: Replica) -> None:
    revoke(replica, registration._alive.id)


def test_an_instance_is_found_until_it_is_withdrawn(replica: Replica) -> None:
    web = replica.registry("web")
    assert web.discover() == {}
    with web.register("a/1", "10.0.0.1:80") as one, web.register("b", "10.0.0.2:80"):
        assert one.held
        assert replica.registry("web").discover() == {"a/1": "10.0.0.1:80", "b": "10.0.0.2:80"}
        assert replica.registry("web/a").discover() == {}
        assert replica.namespace("x/").registry("web").discover() == {}
        one.update("10.0.0.3:80")
        assert web.discover()["a/1"] == "10.0.0.3:80"
        one.withdraw()
        assert web.discover() == {"b": "10.0.0.2:80"}
        assert not one.held
        with pytest.raises(RuntimeError, match="is withdrawn"):
            one.update("x")
    assert web.discover() == {}


def test_values_go_through_a_codec_and_one_that_it_cannot_read_is_named(replica: Replica) -> None:
    registry = replica.registry("web", codec="json")
    with registry.register("a", {"port": 80, "tags": ["x"]}):
        assert registry.discover() == {"a": {"port": 80, "tags": ["x"]}}
        replica.put(PLACE + b"b", "no json")
        with pytest.raises(Undecodable, match="registry/web/b"):
            registry.discover()


def test_a_view_and_changes_follow_what_comes_and_goes(replica: Replica) -> None:
    web = replica.registry("web")
    view, changes = web.view(), web.changes(timeout=PATIENCE)
    with web.register("a", "1") as one:
        one.update("2")
    seen = [(change.kind, change.key, change.value) for _, change in zip(range(3), changes, strict=False)]
    assert seen == [("put", "a", "1"), ("put", "a", "2"), ("delete", "a", None)]
    assert dict(view) == {}
    changes.close()


def test_the_last_one_to_register_has_the_name_and_the_one_before_does_not_take_it_along(replica: Replica) -> None:
    web = replica.registry("web")
    old = web.register("a", "old")
    with web.register("a", "new"):
        with pytest.raises(LockLost, match="another one has registered it"):
            old.update("older")
        old.withdraw()
        assert web.discover() == {"a": "new"}


def test_what_is_lost_registers_itself_again_with_its_newest_value(replica: Replica) -> None:
    web = replica.registry("web")
    with web.register("a", "1") as registration:
        registration.update("2")
        for _ in range(2):
            before = registration._alive.id
            revoke_lease_of(registration, replica)
            eventually(lambda: registration.held and registration._alive.id != before)  # noqa: B023
            assert web.discover() == {"a": "2"}
    assert web.discover() == {}
    eventually(lambda: not any(thread.name.startswith("replkv instance") for thread in threading.enumerate()))


def test_what_is_lost_does_not_take_a_name_that_another_process_has_by_now(replica: Replica, caplog: pytest.LogCaptureFixture) -> None:
    web = replica.registry("web")
    registration = web.register("a", "old")
    with web.register("a", "new"):
        revoke_lease_of(registration, replica)
        eventually(lambda: "another process has registered it" in caplog.text)
        assert web.discover() == {"a": "new"}
        assert not registration.held


def test_what_is_lost_stays_so_if_that_is_wanted_or_nobody_refers_to_it(replica: Replica) -> None:
    web = replica.registry("web")
    once = web.register("a", "1", again=False)
    forgotten = web.register("b", "2")
    lease = forgotten._alive
    del forgotten
    gc.collect()
    revoke_lease_of(once, replica)
    revoke(replica, lease.id)
    assert once.lost.wait(PATIENCE)
    eventually(lambda: lease.is_lost)
    assert web.discover() == {}
    assert not once.held
    with pytest.raises(LockLost):
        once.update("3")


def test_registering_again_is_tried_until_it_works(replica: Replica, monkeypatch: pytest.MonkeyPatch) -> None:
    tries, real = [0], _Registration._register

    async def register(self: _Registration, instead: object = None) -> bool:
        tries[0] += 1
        if tries[0] < 3:
            raise LockLost("not yet")
        return await real(self, instead)  # type: ignore[arg-type]  # it is what it was

    web = replica.registry("web")
    with web.register("a", "1") as registration:
        monkeypatch.setattr(_Registration, "_register", register)
        monkeypatch.setattr("replkv.recipes.registry.PAUSE", 0.001)
        revoke_lease_of(registration, replica)
        eventually(lambda: tries[0] == 3 and registration.held)
        assert web.discover() == {"a": "1"}


def test_a_closed_member_ends_what_was_registered_without_a_sound(caplog: pytest.LogCaptureFixture) -> None:
    with Replica(settings=FAST) as replica:
        registration = replica.registry("web").register("a", "1")
    assert not registration.held
    eventually(lambda: not any(thread.name.startswith("replkv instance") for thread in threading.enumerate()))
    registration.withdraw()
    with pytest.raises(Closed):
        replica.registry("web").register("a", "1")
    assert "registered" not in caplog.text


def test_bad_arguments_are_refused_at_once(replica: Replica) -> None:
    web = replica.registry("web")
    for call, error in (
        (lambda: web.register("", "x"), ValueError),
        (lambda: web.register(b"a", "x"), TypeError),  # type: ignore[arg-type]
        (lambda: web.register("a", 3), TypeError),
        (lambda: web.register("a", "x", ttl=0), ValueError),
        (lambda: replica.registry(""), ValueError),
        (lambda: replica.registry("web", codec="yaml"), ValueError),  # type: ignore[arg-type]
    ):
        with pytest.raises(error):
            call()
    assert web.discover() == {}


def test_tasks_register_and_discover() -> None:
    async def scenario() -> None:
        async with AsyncReplica(settings=FAST) as replica, asyncio.timeout(PATIENCE):
            web = replica.registry("web")
            async with web.register("a", "1") as one:
                other = await web.register("b", "2")
                assert await web.discover() == {"a": "1", "b": "2"}
                await one.update("3")
                assert (await web.view())["a"] == "3"
                lease = one._alive
                lease.drop()  # as a loss: nobody withdrew it
                while one._alive is lease or not one.held:  # noqa: ASYNC110  # there is no event for it
                    await asyncio.sleep(0)
                assert await web.discover() == {"a": "3", "b": "2"}
                await other.withdraw()
            await has_keys(replica, PLACE, 0)

    asyncio.run(scenario())


def test_a_registration_of_tasks_is_made_once_and_must_be_awaited() -> None:
    async def scenario() -> None:
        async with AsyncReplica(settings=FAST) as replica, asyncio.timeout(PATIENCE):
            registration = replica.registry("web").register("a", "1")
            with pytest.raises(RuntimeError, match="not registered yet"):
                await registration.update("2")
            assert not registration.held
            await asyncio.gather(*(registration._registered() for _ in range(3)))
            assert len(await replica.leases()) == 1
            await registration.withdraw()

    asyncio.run(scenario())
