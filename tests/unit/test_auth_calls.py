"""The calls of ``auth``, and what users may do with a member in this process: ``as_user``."""

from __future__ import annotations

import asyncio
import inspect
import threading
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from eventual import PATIENCE, eventually

from replkv import (
    ActingReplica,
    Add,
    AsyncReplica,
    AuthenticationFailed,
    AuthRefused,
    AuthStatus,
    Closed,
    Config,
    Delete,
    Get,
    Key,
    LockLost,
    NoLeader,
    Permission,
    PermissionDenied,
    Put,
    Replica,
    Role,
    RoleExists,
    RoleNotFound,
    Scan,
    Settings,
    Txn,
    User,
    UserExists,
    UserNotFound,
    WaitTimeout,
    passwords,
    wire,
)
from replkv.auth import Auth
from replkv.auth_calls import AsyncAuth, AuthCalls, AuthState, BlockingAuth, Inspection
from replkv.auth_ops import ChangeAuth
from replkv.feed import GuardedFeed, Wanted
from replkv.judged import Judged
from replkv.kv import Store
from replkv.node import Node
from replkv.plans import Plan
from replkv.proposals import Call
from replkv.reads import NOT_YET
from replkv.testing import Cluster
from replkv.values import Span
from replkv.watch import Hub

FAST = Settings(heartbeat=0.05, promise=0.1, election_timeout=0.5)
SHORT = 0.2
CALLS = sorted(name for name in vars(AuthCalls) if not name.startswith("_"))


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hash passwords in no time: here many are, and none has to be kept secret."""
    monkeypatch.setattr(passwords, "LOG2_N", 4)


@pytest.fixture
def replica() -> Iterator[Replica]:
    with Replica("a", settings=FAST) as replica:
        replica.wait_ready(PATIENCE)
        yield replica


def people(replica: Replica) -> None:
    """Let alice read and write below app/, and read what is public; root may do everything."""
    auth = replica.auth
    auth.add_user("root", "rootpw")
    auth.add_user("alice", "alicepw")
    auth.add_role("app")
    auth.grant_permission("app", "readwrite", prefix="app/")
    auth.grant_permission("app", "read", prefix="public/")
    auth.grant_role("alice", "app")
    auth.enable()


@pytest.fixture
def alice(replica: Replica) -> ActingReplica:
    people(replica)
    return replica.as_user("alice", "alicepw")


@pytest.fixture
def root(replica: Replica, alice: ActingReplica) -> ActingReplica:
    return replica.as_user("root", "rootpw")


# -- users and roles ---------------------------------------------------------------------------------------------------------------


def test_every_facade_has_the_same_calls_and_a_namespace_has_none(replica: Replica, alice: ActingReplica) -> None:
    assert {"enable", "disable", "status", "add_user", "grant_permission", "revoke_permission"} <= set(CALLS)
    for name in CALLS:
        assert getattr(BlockingAuth, name) is getattr(AsyncAuth, name), "one definition of each call"
        assert "timeout" in inspect.signature(getattr(AuthCalls, name)).parameters
    assert isinstance(replica.auth, BlockingAuth)
    assert isinstance(alice.auth, BlockingAuth)
    assert isinstance(AsyncReplica().auth, AsyncAuth)
    assert not hasattr(replica.namespace("x/"), "auth")
    assert not hasattr(alice.namespace("x/"), "auth")


def test_users_roles_and_permissions_are_values_without_secrets(replica: Replica) -> None:
    people(replica)
    auth = replica.auth
    auth.add_user("bob")
    assert auth.users() == ["alice", "bob", "root"]
    assert auth.user("alice") == User("alice", ("app",), has_password=True)
    assert auth.user("bob") == User("bob", (), has_password=False)
    assert auth.user("root") == User("root", ("root",), has_password=True)
    assert auth.roles() == ["app", "root"]
    assert auth.role("app") == Role("app", (Permission("readwrite", b"app/", b"app0"), Permission("read", b"public/", b"public0")))
    assert auth.role("root") == Role("root", (Permission("readwrite", b"\x00", None),))
    assert auth.status() == AuthStatus(enabled=True, revision=9)


def test_what_was_done_can_be_undone(replica: Replica) -> None:
    people(replica)
    auth = replica.auth
    auth.grant_permission("app", "read", "key")
    auth.grant_permission("app", "write", start="m", end="n")
    auth.grant_permission("app", "write", start="x")
    auth.grant_permission("app", "read", start="x")  # takes its place
    assert auth.role("app").permissions == (
        Permission("readwrite", b"app/", b"app0"),
        Permission("read", b"key", b"key\x00"),
        Permission("write", b"m", b"n"),
        Permission("read", b"public/", b"public0"),
        Permission("read", b"x", None),
    )
    auth.revoke_permission("app", "key")
    auth.revoke_permission("app", start="m", end="n")
    auth.revoke_permission("app", start="x")
    assert [permission.start for permission in auth.role("app").permissions] == [b"app/", b"public/"]
    auth.revoke_role("alice", "app")
    assert auth.user("alice").roles == ()
    auth.delete_role("app")
    assert auth.roles() == ["root"]
    auth.change_password("alice", None)
    assert not auth.user("alice").has_password
    auth.delete_user("alice")
    assert auth.users() == ["root"]
    auth.disable()
    assert not auth.status().enabled


def test_what_can_not_be_is_refused(replica: Replica) -> None:
    with pytest.raises(AuthRefused, match=r"add_user\('root', password\)"):
        replica.auth.enable()
    people(replica)
    auth = replica.auth
    revision = auth.status().revision
    refused: list[tuple[Callable[[], object], type[Exception]]] = [
        (lambda: auth.add_user("alice", "x"), UserExists),
        (lambda: auth.delete_user("bob"), UserNotFound),
        (lambda: auth.change_password("bob", "x"), UserNotFound),
        (lambda: auth.user("bob"), UserNotFound),
        (lambda: auth.grant_role("bob", "app"), UserNotFound),
        (lambda: auth.grant_role("alice", "no"), RoleNotFound),
        (lambda: auth.add_role("app"), RoleExists),
        (lambda: auth.role("no"), RoleNotFound),
        (lambda: auth.delete_role("no"), RoleNotFound),
        (lambda: auth.revoke_permission("app", "other"), AuthRefused),
        (lambda: auth.delete_user("root"), AuthRefused),
    ]
    for call, error in refused:
        with pytest.raises(error):
            call()
    assert auth.status().revision == revision


BAD: list[tuple[str, tuple[Any, ...], dict[str, Any], type[Exception]]] = [
    ("add_user", ("",), {}, ValueError),
    ("add_user", (5,), {}, TypeError),
    ("add_user", ("a", ""), {}, ValueError),
    ("add_user", ("a", 5), {}, TypeError),
    ("add_user", ("a", "x" * 1025), {}, ValueError),
    ("add_user", ("a\n", "x"), {}, ValueError),
    ("change_password", ("a", b""), {}, ValueError),
    ("user", (b"a",), {}, TypeError),
    ("role", ("x" * 129,), {}, ValueError),
    ("add_role", (None,), {}, TypeError),
    ("grant_role", ("a", ""), {}, ValueError),
    ("grant_permission", ("r", "all", "key"), {}, ValueError),
    ("grant_permission", ("r", "read"), {}, ValueError),
    ("grant_permission", ("r", "read", "k"), {"prefix": "p"}, ValueError),
    ("grant_permission", ("r", "read"), {"start": "b", "end": "a"}, ValueError),
    ("grant_permission", ("r", "read"), {"end": "a"}, ValueError),
    ("grant_permission", ("r", "read", 5), {}, TypeError),
    ("grant_permission", ("r", "read", "x" * 4096), {}, ValueError),
    ("revoke_permission", ("r",), {}, ValueError),
    ("enable", (), {"timeout": -1}, ValueError),
]


def test_a_bad_argument_is_refused_before_anything_is_sent(replica: Replica) -> None:
    for name, arguments, named, error in BAD:
        with pytest.raises(error):
            getattr(replica.auth, name)(*arguments, **named)
    assert replica.auth.status() == AuthStatus(enabled=False, revision=1)


def test_the_same_can_be_awaited() -> None:
    async def test() -> None:
        async with AsyncReplica("a") as replica:
            await replica.wait_ready(PATIENCE)
            auth = replica.auth
            await auth.add_user("root", "rootpw")
            await auth.add_user("alice", "alicepw")
            await auth.change_password("alice", b"other")
            await auth.add_role("app")
            await auth.grant_permission("app", "readwrite", prefix="app/")
            await auth.grant_role("alice", "app")
            await auth.enable()
            assert await auth.users() == ["alice", "root"]
            assert (await auth.role("app")).permissions == (Permission("readwrite", b"app/", b"app0"),)
            with pytest.raises(AuthenticationFailed):
                await replica.as_user("alice", "alicepw")
            alice = await replica.as_user("alice", "other")
            assert repr(alice) == "<AsyncActingReplica of a for alice>"
            await alice.put("app/x", "1")
            assert [kv.key async for kv in _pairs(alice.scan(prefix="app/"))] == [b"app/x"]
            denied: list[Callable[[], Awaitable[object]]] = [
                lambda: alice.put("b", "1"),
                lambda: alice.get("b"),
                lambda: alice.get("b", consistency="local"),
                alice.scan,
                lambda: alice.scan(consistency="local"),
                lambda: alice.scan(consistency="lease"),
                alice.leases,
                alice.auth.users,
                lambda: alice.auth.add_user("x", "y"),
                lambda: alice.namespace("b/").get("x"),
                lambda: asyncio.wrap_future(alice.submit(Get("b"))),
                lambda: alice.watch(prefix="b").next(PATIENCE),
            ]
            for call in denied:
                with pytest.raises(PermissionDenied):
                    await call()
            watch = alice.watch(prefix="app/")
            waiting = asyncio.ensure_future(watch.next(PATIENCE))
            await asyncio.sleep(0)
            await auth.revoke_role("alice", "app")
            with pytest.raises(PermissionDenied):
                await waiting

    async def _pairs(scan: Awaitable[Any]) -> Any:
        for kv in await scan:
            yield kv

    asyncio.run(test())


# -- as_user -----------------------------------------------------------------------------------------------------------------------


def test_a_user_is_who_knows_the_password(replica: Replica, alice: ActingReplica) -> None:
    assert (alice.user, alice.name) == ("alice", "a")
    assert repr(alice) == "<ActingReplica of a for alice>"
    for name, password in [("alice", "wrong"), ("alice", "alicepw "), ("nobody", "alicepw"), ("root", "alicepw")]:
        with pytest.raises(AuthenticationFailed, match=f"not the password of a user '{name}'") as error:
            replica.as_user(name, password)
        assert password not in str(error.value).replace(name, "")
    replica.auth.add_user("cert")
    with pytest.raises(AuthenticationFailed):
        replica.as_user("cert", "anything")
    for bad in ("", "x" * 1025):
        with pytest.raises(ValueError, match="password"):
            replica.as_user("alice", bad)
    with pytest.raises(ValueError, match="name of a user"):
        replica.as_user("", "x")


def test_who_is_no_user_costs_as_much_as_a_wrong_password(replica: Replica, alice: ActingReplica, monkeypatch: pytest.MonkeyPatch) -> None:
    costs: list[tuple[int, ...]] = []
    real = passwords._digest
    monkeypatch.setattr(passwords, "_digest", lambda secret, salt, *cost: (costs.append(cost), real(secret, salt, *cost))[1])  # type: ignore[func-returns-value]
    for name in ("alice", "nobody"):
        with pytest.raises(AuthenticationFailed):
            replica.as_user(name, "wrong")
    assert costs == [(4, 8, 1)] * 2


def test_code_that_holds_the_replica_is_root(replica: Replica, alice: ActingReplica) -> None:
    replica.put("anything", "1")
    replica.compact(2)
    assert replica.get("anything")
    assert replica.auth.users() == ["alice", "root"]
    replica.auth.disable()


def test_while_auth_is_not_enabled_nothing_is_denied_and_nobody_is_believed_for_later(replica: Replica) -> None:
    people(replica)
    replica.auth.disable()
    right, wrong, nobody = (replica.as_user(*who) for who in (("alice", "alicepw"), ("alice", "wrong"), ("nobody", "x")))
    for acting in (right, wrong, nobody):
        acting.put("anything", "1")
        assert acting.get("anything")
        acting.auth.users()
        acting.watch().close()
    replica.auth.add_user("nobody", "y")
    replica.auth.enable()
    right.put("app/x", "1")
    for acting in (wrong, nobody):
        for call in (lambda: acting.put("app/x", "1"), lambda: acting.get("app/x"), acting.auth.status, acting.status):  # noqa: B023
            with pytest.raises(AuthenticationFailed):
                call()


@pytest.mark.parametrize("what", ["change_password", "delete_user", "made anew"])
def test_a_user_that_was_changed_has_to_come_again(replica: Replica, alice: ActingReplica, what: str) -> None:
    watch = alice.watch(prefix="app/")
    if what == "change_password":
        replica.auth.change_password("alice", "alicepw")
    else:
        replica.auth.delete_user("alice")
        if what == "made anew":
            replica.auth.add_user("alice", "alicepw")
            replica.auth.grant_role("alice", "app")
    calls: list[Callable[[], object]] = [
        lambda: alice.put("app/x", "1"),
        lambda: alice.get("app/x"),
        lambda: alice.get("app/x", consistency="local"),
        lambda: alice.scan(prefix="app/", consistency="lease"),
        lambda: alice.lease(60),
        lambda: watch.next(PATIENCE),
        lambda: alice.wait_ready(PATIENCE),
        lambda: alice.auth.user("alice"),
        alice.members,
    ]
    for call in calls:
        with pytest.raises(AuthenticationFailed):
            call()
    if what != "delete_user":
        replica.as_user("alice", "alicepw").put("app/x", "1")


def test_it_lives_and_ends_with_the_replica(replica: Replica, alice: ActingReplica) -> None:
    assert alice.ready
    assert alice.status().name == "a"
    assert [member.name for member in alice.members()] == ["a"]
    alice.wait_ready(0)
    assert alice.settings() == replica.settings()
    replica.close()
    with pytest.raises(Closed):
        alice.get("app/x")
    with pytest.raises(Closed):
        replica.as_user("alice", "alicepw")


# -- what users may do -------------------------------------------------------------------------------------------------------------


def reads(surface: Any, key: str) -> Iterator[Callable[[], object]]:
    """Every way to read a key."""
    for consistency in ("linearizable", "lease", "local"):
        yield partial(surface.get, key, consistency=consistency)
        yield partial(surface.get, key, consistency=consistency, timeout=PATIENCE)
        yield partial(surface.get, key, consistency=consistency, revision=2)
        yield partial(surface.scan, key, consistency=consistency)
        yield partial(surface.scan, key, consistency=consistency, count_only=True)
    yield lambda: surface.get(key, consistency="local", max_staleness=60)
    yield lambda: surface.get(key, consistency="local", min_revision=1)
    yield lambda: surface.txn(then=[Get(key)])
    yield lambda: surface.txn(compare=[Key(key).exists])
    yield lambda: surface.submit(Get(key)).result(PATIENCE)
    yield lambda: surface.submit(Scan(key)).result(PATIENCE)
    yield lambda: surface.submit(Txn(otherwise=[Txn(then=[Get(key)])])).result(PATIENCE)
    yield lambda: surface.watch(key, initial=True).next(PATIENCE)
    yield lambda: surface.watch(key, start_revision=1).next(PATIENCE)
    yield lambda: next(surface.watch(key, start_revision=1).batches())
    yield lambda: len(surface.view(key))
    yield lambda: list(surface.mapping(key))
    yield lambda: surface.transact(lambda transaction: transaction.get(key))


def writes(surface: Any, key: str) -> Iterator[Callable[[], object]]:
    """Ways to write a key, none of which reads."""
    yield lambda: surface.put(key, "1")
    yield lambda: surface.put(key, "1", ttl=60)
    yield lambda: surface.put(key, "1", lease=surface.lease(60))
    yield lambda: surface.delete(key)
    yield lambda: surface.txn(then=[Put(key, "1")])
    yield lambda: surface.txn(otherwise=[Txn(then=[Delete(key)])])
    yield lambda: surface.submit(Put(key, "1")).result(PATIENCE)
    yield lambda: surface.transact(lambda transaction: transaction.put(key, "1"))


def both(surface: Any, key: str) -> Iterator[Callable[[], object]]:
    """Ways to write a key that tell something of it."""
    yield lambda: surface.put(key, "1", prev_kv=True)
    yield lambda: surface.put(key, "1", if_mod_revision=1)
    yield lambda: surface.delete(key, prev_kv=True)
    yield lambda: surface.add(key)
    yield lambda: surface.submit(Add(key)).result(PATIENCE)
    yield lambda: surface.txn(compare=[Key(key).missing], then=[Put(key, "1")])


def denied(calls: Iterator[Callable[[], object]]) -> None:
    for call in calls:
        with pytest.raises(PermissionDenied):
            call()


def test_who_may_not_read_can_in_no_way(replica: Replica, alice: ActingReplica) -> None:
    for key in ("secret", "app", "app0", "public0"):
        replica.put(key, "1")
        denied(reads(alice, key))
    denied(reads(alice.namespace("secret/"), "x"))
    denied(reads(alice.namespace("app"), "0"))


def test_who_may_read_can_in_every_way(replica: Replica, alice: ActingReplica) -> None:
    replica.put("public/x", "1")
    for surface, key in ((alice, "public/x"), (alice.namespace("public/"), "x")):
        for call in reads(surface, key):
            call()


def test_who_may_not_write_can_in_no_way_and_who_may_not_read_learns_nothing_by_writing(replica: Replica, alice: ActingReplica) -> None:
    replica.put("public/n", "1")
    denied(writes(alice, "public/n"))
    denied(both(alice, "public/n"))
    found = replica.get("public/n")
    assert found is not None
    assert found.version == 1
    replica.auth.grant_permission("app", "write", prefix="box/")
    for call in writes(alice, "box/n"):
        call()
    denied(both(alice, "box/n"))
    denied(reads(alice, "box/n"))
    for call in both(alice, "app/n"):
        try:
            call()
        except PermissionDenied:
            raise
        except Exception:  # noqa: BLE001  # a conflict, say, is an answer
            pass


def test_what_is_for_root_is_denied_to_others(replica: Replica, alice: ActingReplica, tmp_path: Path) -> None:
    calls: list[Callable[[], object]] = [
        alice.leases,
        lambda: alice.compact(1),
        lambda: alice.change_members(add={"b": "127.0.0.1:7000"}),
        lambda: alice.promote("a"),
        alice.transfer_leadership,
        lambda: alice.transfer_leadership("a"),
        lambda: alice.backup(tmp_path / "backup"),
        alice.auth.enable,
        alice.auth.disable,
        alice.auth.users,
        alice.auth.roles,
        lambda: alice.auth.user("root"),
        lambda: alice.auth.user("nobody"),
        lambda: alice.auth.role("root"),
        lambda: alice.auth.role("nothing"),
        lambda: alice.auth.add_user("bob", "x"),
        lambda: alice.auth.delete_user("alice"),
        lambda: alice.auth.change_password("alice", "x"),
        lambda: alice.auth.add_role("more"),
        lambda: alice.auth.delete_role("app"),
        lambda: alice.auth.grant_role("alice", "root"),
        lambda: alice.auth.revoke_role("alice", "app"),
        lambda: alice.auth.grant_permission("app", "readwrite", start="\x01"),
        lambda: alice.auth.revoke_permission("app", prefix="app/"),
    ]
    status = replica.auth.status()
    denied(iter(calls))
    assert replica.auth.status() == status
    assert list(tmp_path.iterdir()) == []
    assert {call.__qualname__.split(".")[-1] for call in calls} >= {"leases", "transfer_leadership"}


def test_a_user_may_ask_about_itself(alice: ActingReplica) -> None:
    assert alice.auth.status().enabled
    assert alice.auth.user("alice") == User("alice", ("app",), has_password=True)
    assert alice.auth.role("app").permissions


def test_a_user_with_the_role_root_may_do_everything(replica: Replica, alice: ActingReplica, root: ActingReplica, tmp_path: Path) -> None:
    root.put("anything", "1")
    assert list(root.view("any")) == ["thing"]
    assert root.leases() == []
    root.compact(2)
    root.transfer_leadership("a")
    assert root.backup(tmp_path / "backup").revision == root.revision
    assert root.auth.users() == ["alice", "root"]
    root.auth.grant_role("alice", "root")
    alice.put("secret", "1")
    root.auth.revoke_role("alice", "root")
    denied(iter([lambda: alice.put("secret", "1")]))
    root.auth.disable()


def test_a_right_is_gone_for_what_begins_after_it_was_taken_away(replica: Replica, alice: ActingReplica) -> None:
    alice.put("app/x", "1")
    replica.auth.revoke_permission("app", prefix="app/")
    denied(reads(alice, "app/x"))
    denied(writes(alice, "app/x"))
    replica.auth.grant_permission("app", "read", "app/x")
    assert alice.get("app/x")
    denied(writes(alice, "app/x"))


# -- watches and views -------------------------------------------------------------------------------------------------------------


def test_a_watch_ends_at_once_when_the_right_is_taken_away(replica: Replica, alice: ActingReplica) -> None:
    watches = [alice.watch(prefix="app/"), alice.watch("app/x"), alice.namespace("app/").watch("x")]
    watches.append(alice.watch(prefix="app/", progress=True))
    with ThreadPoolExecutor(len(watches)) as threads:
        waiting = [threads.submit(watch.next, PATIENCE) for watch in watches]
        eventually(lambda: len(replica._node.hub._armed) == len(watches) if replica._node else False)
        replica.auth.revoke_permission("app", prefix="app/")
        for future in waiting:
            with pytest.raises(PermissionDenied):
                future.result(PATIENCE)
    for watch in watches:
        with pytest.raises(PermissionDenied):
            next(watch)
    assert replica._node is not None
    replica.put("app/x", "1")
    assert not replica._node.hub._armed


def test_what_a_watch_has_read_is_not_yielded_when_the_right_is_gone(replica: Replica, alice: ActingReplica) -> None:
    for number in range(5):
        replica.put("app/x", str(number))
    one, batches = alice.watch(prefix="app/", start_revision=2), alice.watch(prefix="app/", start_revision=2).batches()
    assert one.next(PATIENCE)
    assert next(batches)
    replica.auth.revoke_role("alice", "app")
    for step in (lambda: one.next(PATIENCE), lambda: next(batches)):
        with pytest.raises(PermissionDenied):
            step()


def test_other_watches_go_on_when_rights_are_changed(replica: Replica, alice: ActingReplica) -> None:
    own, public = replica.watch(prefix="public/"), alice.watch(prefix="public/")
    assert own.next(0) is None
    assert public.next(0) is None
    replica.auth.revoke_permission("app", prefix="app/")
    replica.put("public/x", "1")
    assert own.next(PATIENCE)
    assert public.next(PATIENCE)


def test_a_view_shows_nothing_any_more_when_the_right_is_gone_though_nothing_was_written(replica: Replica, alice: ActingReplica) -> None:
    replica.put("app/x", "1")
    view = alice.view("app/")
    assert dict(view) == {"x": b"1"}
    replica.auth.revoke_permission("app", prefix="app/")
    with pytest.raises(PermissionDenied):
        len(view)


def test_a_view_of_who_may_not_watch_all_keys_can_be_waited_for(replica: Replica, alice: ActingReplica) -> None:
    view = alice.view("app/")
    written = threading.Timer(0.0, lambda: replica.put("elsewhere", "1"))
    written.start()
    view.wait(2, PATIENCE)
    assert view.revision >= 2
    with pytest.raises(WaitTimeout):
        view.wait(1000, 0)
    with pytest.raises(WaitTimeout):
        view.wait(1000, 0.01)
    written.join()


# -- leases and recipes ------------------------------------------------------------------------------------------------------------


def test_a_lease_is_for_who_may_write_all_its_keys(replica: Replica, alice: ActingReplica) -> None:
    lease = alice.lease(60)
    alice.put("app/x", "1", lease=lease)
    assert lease.keys() == (b"app/x",)
    lease.renew()
    replica.put("secret", "1", lease=lease.id)
    denied(iter([lease.keys, lease.renew, lease.revoke, lambda: alice.lease(id=lease.id), lambda: alice.put("app/y", "1", lease=lease)]))
    with pytest.raises(PermissionDenied):
        alice.namespace("app/").lease(id=lease.id)
    assert not lease.lost.is_set()
    replica.delete("secret")
    assert alice.lease(id=lease.id).revoke() == 1


def test_the_lease_of_a_user_that_was_removed_goes_on_while_it_is_held(replica: Replica, alice: ActingReplica) -> None:
    lease = alice.lease(SHORT)
    alice.put("app/x", "1", lease=lease)
    replica.auth.delete_user("alice")
    assert not lease.lost.wait(3 * SHORT)
    assert replica.get("app/x")


def test_a_lease_that_its_block_may_not_revoke_any_more_is_kept_alive_no_longer(replica: Replica, alice: ActingReplica) -> None:
    with alice.lease(SHORT) as lease:
        alice.put("app/x", "1", lease=lease)
        replica.auth.delete_user("alice")
    assert lease.lost.wait(PATIENCE)
    eventually(lambda: replica.get("app/x") is None)


def test_the_same_of_a_block_of_asyncio() -> None:
    async def test() -> None:
        async with AsyncReplica("a", settings=FAST) as replica:
            await replica.wait_ready(PATIENCE)
            await replica.auth.add_user("root")
            await replica.auth.add_user("alice", "alicepw")
            await replica.auth.enable()
            alice = await replica.as_user("alice", "alicepw")
            async with alice.lease(SHORT) as lease:
                await replica.auth.delete_user("alice")
            assert await lease.lost.wait(PATIENCE)

    asyncio.run(test())


def test_a_lease_that_may_not_be_revoked_is_lost_by_accident_later(replica: Replica, alice: ActingReplica) -> None:
    lease = alice.lease(60)
    replica.put("secret", "1", lease=lease.id)
    denied(iter([lease.revoke]))
    assert isinstance(lease._loss(), LockLost)


def test_recipes_need_rights_on_their_keys(replica: Replica, alice: ActingReplica) -> None:
    denied(iter([lambda: alice.lock("jobs").acquire(), lambda: alice.queue("jobs").put(b"x"), lambda: alice.counter("n").add(1)]))
    space = alice.namespace("app/")
    with space.lock("jobs") as lock:
        space.put("guarded", "1", guard=lock)
    space.queue("jobs").put(b"x")
    with space.election("chief").lead(b"alice"), space.rwlock("rw").read(), space.semaphore("s", 2):
        assert space.counter("n").add(1) == 1
    assert space.rate_limiter("r", 5, per=60).try_acquire()
    with space.registry("services").register("web", "here"):
        assert space.registry("services").discover() == {"web": "here"}
    replica.auth.grant_permission("app", "readwrite", prefix=b"\x00replkv/lock/jobs/")
    with alice.lock("jobs"):
        pass
    denied(iter([lambda: alice.lock("other").acquire()]))


def test_who_fails_to_take_a_lock_has_nothing_written_by_the_member(replica: Replica, alice: ActingReplica) -> None:
    lease = alice.lease(60)
    before = replica.revision
    with pytest.raises(PermissionDenied):
        alice.lock("jobs", lease=lease).acquire()
    replica.put("marker", "1")
    assert replica.revision == before + 1
    assert replica.scan(start="\x00").count == 1, "what cleans up behind a user acts for that user"


def test_leases_at_rest_are_not_shared_by_users(replica: Replica, alice: ActingReplica) -> None:
    with alice.namespace("app/").lock("jobs"):
        pass
    with replica.lock("jobs"):
        pass
    assert len(replica.leases()) == 2
    with alice.namespace("app/").lock("jobs"):
        pass
    assert len(replica.leases()) == 2


# -- how it is judged --------------------------------------------------------------------------------------------------------------


def kinds(plan: type[Plan[Any]] = Plan) -> Iterator[type[Plan[Any]]]:
    yield plan
    for kind in plan.__subclasses__():
        yield from kinds(kind)


def test_a_new_plan_is_for_root_until_somebody_decides() -> None:
    """What is listed here was decided; the rights matrix says what."""
    decided = {kind.__name__ for kind in kinds() if kind.__module__.startswith("replkv") and kind.permit is not Plan.permit}
    assert {"Read", "Ready", "Settled", "LeaseKeys", "Inspection"} <= decided
    roots = {kind.__name__ for kind in kinds() if kind.permit is Plan.permit}
    assert {"LeaseList", "NewLeader", "Left", "Outlined", "TakeHold", "AuthState", "ChangeMembership", "Leave"} <= roots


class Standing:
    """A node that stands still, whose rights change when it is told to."""

    name, failure = "still", None

    def __init__(self) -> None:
        self.hub, self.store = Hub(), Store()
        auth = Auth()
        for what, arguments in [
            (wire.ADD_USER, ("root", b"")),
            (wire.ADD_USER, ("alice", b"")),
            (wire.ADD_ROLE, ("r",)),
            (wire.GRANT_ROLE, ("alice", "r")),
            (wire.GRANT_PERMISSION, ("r", wire.READ, b"a", b"b")),
            (wire.ENABLE, ()),
        ]:
            auth = auth.after(ChangeAuth(what, arguments).to_wire(), 0)
        self.machine = SimpleNamespace(auth=auth, store=self.store)
        self.published = SimpleNamespace(machine=self.machine, revision=1)

    def clock(self) -> float:
        return 0.0

    def change(self, what: int, *arguments: Any) -> None:
        """Change rights as apply does, before anything is published or rung."""
        self.machine.auth = self.machine.auth.after(ChangeAuth(what, arguments).to_wire(), 0)

    def revoke(self) -> None:
        self.change(wire.REVOKE_PERMISSION, "r", b"a", b"b")


class Question(Plan[str]):
    """Reads something below "a"; meanwhile something happens."""

    def __init__(self, *meanwhile: Callable[[], object]) -> None:
        self.meanwhile = [*meanwhile]
        self.asked = 0

    def permit(self, subject: Any, machine: Any) -> None:
        machine.auth.check_span(subject, wire.READ, (b"a", b"b"))

    def is_at_hand(self, node: Any) -> bool:
        return True

    def at_once(self, node: Any) -> Any:
        self.asked += 1
        if self.meanwhile:
            self.meanwhile.pop(0)()
        return (wire.OK, b"secret %d" % self.asked)

    def answer(self, node: Any, call: Any) -> Any:
        return self.at_once(node)


def answers(node: Standing, question: Question) -> Iterator[Callable[[], Any]]:
    """The ways in which a question is answered."""
    judged, it, call = Judged(question, ("alice", 100)), cast("Node", node), cast("Call", None)

    yield lambda: judged.at_once(it)
    yield lambda: judged.answer(it, call)
    yield lambda: _end_of(judged.answer_in_steps(it, None))
    yield lambda: _end_of(judged.answer_in_steps(it, cast("Call", object())))


def _end_of(steps: Iterator[None]) -> Any:
    try:
        while True:
            next(steps)
    except StopIteration as end:
        return end.value


@pytest.mark.parametrize("way", range(4))
def test_what_was_read_while_the_right_was_taken_away_is_not_told(way: int) -> None:
    node = Standing()
    question = Question(node.revoke)
    with pytest.raises(PermissionDenied):
        [*answers(node, question)][way]()
    assert question.asked == 1


@pytest.mark.parametrize("way", range(4))
def test_what_was_read_between_two_changes_of_rights_is_read_again(way: int) -> None:
    """Both checks would pass although there was no right when it was read."""
    node = Standing()

    def away_and_back() -> None:
        node.revoke()
        node.change(wire.GRANT_PERMISSION, "r", wire.READ, b"a", b"b")

    question = Question(away_and_back)
    assert [*answers(node, question)][way]() == (wire.OK, b"secret 2")


@pytest.mark.parametrize("way", range(4))
def test_a_login_in_between_makes_nobody_read_again(way: int) -> None:
    node = Standing()
    question = Question(lambda: node.change(wire.ADD_TOKEN, bytes(32), "alice", 100, 100))
    assert [*answers(node, question)][way]() == (wire.OK, b"secret 1")


def test_who_may_not_is_not_even_looked_for() -> None:
    node = Standing()
    node.revoke()
    for number in range(4):
        question = Question()
        with pytest.raises(PermissionDenied):
            [*answers(node, question)][number]()
        assert question.asked == 0


def test_what_is_not_at_hand_is_not_denied_by_what_an_old_state_knows() -> None:
    node = Standing()
    node.revoke()
    question = Question()
    question.is_at_hand = lambda node: False  # type: ignore[method-assign]
    at_once, _, in_steps, _ = answers(node, question)
    assert at_once() is NOT_YET
    assert in_steps() is NOT_YET


def test_a_right_that_is_taken_away_between_the_look_and_the_wait_for_the_bell_ends_the_watch() -> None:
    node = Standing()
    rung: list[None] = []
    wanted = Wanted.of(Span(b"a", b"b"))
    feed = GuardedFeed(cast("Node", node), wanted, lambda: rung.append(None), ("alice", 100))
    real = node.hub.arm

    def arm(cursor: Any) -> bool:
        node.revoke()
        node.hub.judge_anew(node.machine.auth.revision)  # whoever is not armed hears nothing of it
        return real(cursor)

    node.hub.arm = arm  # type: ignore[method-assign]
    with pytest.raises(PermissionDenied):
        feed.look(whole=False)
    assert rung == []


def test_who_waits_is_woken_when_rights_are_taken_away_and_logins_wake_nobody(replica: Replica, alice: ActingReplica) -> None:
    node = Standing()
    rung: list[None] = []
    feed = GuardedFeed(cast("Node", node), Wanted.of(Span(b"a", b"b")), lambda: rung.append(None), ("alice", 100))
    node.hub.publish(node.store, 1)
    assert feed.look(whole=False) is None
    node.revoke()
    node.hub.judge_anew(node.machine.auth.revision)
    assert rung == [None]
    with pytest.raises(PermissionDenied):
        feed.look(whole=False)
    assert replica._node is not None
    seen: list[int] = []
    real = replica._node.hub.judge_anew

    def judge_anew(auth_revision: int) -> None:
        seen.append(auth_revision)
        real(auth_revision)

    replica._node.hub.judge_anew = judge_anew  # type: ignore[method-assign]
    replica.put("x", "1")
    assert seen == []
    replica.auth.add_role("y")
    assert seen == []
    replica.auth.delete_role("y")
    assert seen == [replica.auth.status().revision]


# -- several members ---------------------------------------------------------------------------------------------------------------


def test_a_right_that_was_taken_away_at_one_member_is_gone_at_all() -> None:
    with Cluster(3) as cluster:
        a, b = cluster["a"], cluster["b"]
        people(a)
        at_b = b.as_user("alice", "alicepw")  # which has heard of her: it asked
        at_b.put("app/x", "1")
        a.auth.revoke_permission("app", prefix="app/")
        for consistency in ("linearizable", "lease"):
            with pytest.raises(PermissionDenied):
                at_b.get("app/x", consistency=consistency)
        with pytest.raises(PermissionDenied):
            at_b.put("app/x", "1")


def test_a_member_that_is_cut_off_goes_by_the_rights_it_knows_as_by_the_data_it_knows() -> None:
    with Cluster(3) as cluster:
        cluster.wait_for_leader()
        people(cluster["a"])
        at_c = cluster["c"].as_user("alice", "alicepw")
        at_c.put("app/x", "1")
        watch = at_c.watch(prefix="app/")
        cluster.isolate("c")
        cluster["a"].auth.revoke_permission("app", prefix="app/")
        cluster["a"].put("app/x", "written afterwards")
        found = at_c.get("app/x", consistency="local")
        assert found is not None
        assert found.value == b"1"
        with pytest.raises(NoLeader):
            at_c.get("app/x", timeout=1)
        assert watch.next(0) is None
        cluster.heal()
        with pytest.raises(PermissionDenied):
            watch.next(60)
        with pytest.raises(PermissionDenied):
            at_c.get("app/x", consistency="local")


def test_who_acts_for_a_user_goes_on_after_a_restart_and_a_snapshot() -> None:
    with Cluster(3, config=Config(snapshot_bytes=1 << 16)) as cluster:
        cluster.wait_for_leader()
        people(cluster["a"])
        at_c = cluster["c"].as_user("alice", "alicepw")
        cluster.kill("c")
        with pytest.raises(Closed):
            at_c.get("app/x")
        for number in range(60):
            cluster["a"].put(f"public/{number}", "x" * 5000)
        cluster["a"].auth.revoke_permission("app", prefix="app/")
        cluster.restart("c")
        assert at_c.scan(prefix="public/").count == 60
        with pytest.raises(PermissionDenied):
            at_c.put("app/x", "1")


def test_no_repr_or_error_shows_a_secret(replica: Replica, alice: ActingReplica, caplog: pytest.LogCaptureFixture) -> None:
    replica.auth.add_user("bob", "hunter2")
    auth = replica._run(AuthState(), PATIENCE)
    kept = auth.users["bob"].password
    things = [
        auth,
        auth.users,
        replica,
        alice,
        alice.auth,
        replica.auth.user("bob"),
        Inspection(1),
        ChangeAuth(wire.ADD_USER, ("bob", kept)),
    ]
    shown = [*map(repr, things), caplog.text]
    for secret in ("hunter2", repr(kept[7:])[2:-1], "alicepw"):
        assert not any(secret in text for text in shown)
