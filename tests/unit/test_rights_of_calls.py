"""The rights matrix of calls: every public call of members, clients and users' surfaces, and every plan behind one.

What a command needs in which form is tried by ``test_rights_matrix.py`` where it is applied, and how questions are judged by
``test_rights_at_the_door.py``.  Here it is whether each call takes that way at all: none may be answered past it.  A call that is new has
no row here, and fails.
"""

from __future__ import annotations

import asyncio
import hashlib
import importlib
import inspect
import pkgutil
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from rights import (
    HELD,
    KEEPER,
    PASSING,
    SECRET,
    Need,
    Needs,
    Principal,
    auth,
    principals,
    reads,
    reads_all,
    stock,
    users_of,
    writes,
    writes_all,
)

import replkv
from replkv import AsyncClient, AsyncReplica, Client, Replica, connect, errands, errors, letters, plans, wire
from replkv.acting import ActingReplica, AsyncActingReplica
from replkv.aio import connect as connect_async
from replkv.auth_calls import AuthCalls, AuthState, Inspection
from replkv.backup import Outlined, TakeHold
from replkv.blocking import Namespace
from replkv.errors import AuthenticationFailed, PermissionDenied, ReplkvError
from replkv.leasing import Lease
from replkv.ops import Add, Delete, Get, Key, Put, Scan, Txn
from replkv.plans import Plan, Read, Write
from replkv.surface import Surface
from replkv.wire import READ, WRITE, Raw

K = b"key"
HELD_WRITES = (writes(b"held/a"), writes(b"held/b"))
HELD_READS = (reads(b"held/a"), reads(b"held/b"))
DIR = (b"dir/", b"dir0")
BACKUPS = Path()
"""Where backups go."""
SOON = 5.0
"""Seconds within which what is there is found."""


class Call:
    """One way to make a call.

    Args:
        make: makes it, on any surface that blocks, and waits for what comes of it.
        needs: the rights it needs.
        root: nobody but root may.
        steps: it is several, of which the first may be done by who is denied the next.
    """

    def __init__(self, make: Callable[[Any], Any], *needs: Need, root: bool = False, steps: bool = False) -> None:
        self.make = make
        self.needs: Needs = needs
        self.root = root
        self.steps = steps


def first(surface: Any, **where: Any) -> Any:
    """Return the first event of a watch."""
    with surface.watch(**where) as watch:
        event = watch.next(timeout=SOON)
        assert event is not None
        return event


def batch(surface: Any, **where: Any) -> Any:
    with surface.watch(**where) as watch:
        return next(iter(watch.batches()))


def transacted(surface: Any) -> Any:
    def move(transaction: Any) -> None:
        transaction.put(K, transaction.get("z").value)

    return surface.transact(move)


def lease_of(surface: Any, number: int) -> Any:
    return surface.lease(id=number, keep_alive=False)


def within(surface: Any) -> Any:
    return surface.namespace("dir/")


def in_a_with(surface: Any) -> None:
    with surface.lease(60) as lease:
        surface.put(K, b"", lease=lease)


def new_lease(surface: Any) -> Any:
    lease = surface.lease(60)
    assert lease.keys() == ()
    lease.renew()
    assert lease.revoke() == 0
    return lease


CALLS: dict[str, list[Call]] = {
    "put": [
        Call(lambda s: s.put(K, b"new"), writes(K)),
        Call(lambda s: s.put(K, b"new", prev_kv=True), writes(K), reads(K)),
        Call(lambda s: s.put(K, b"new", if_mod_revision=0), writes(K), reads(K)),
        Call(lambda s: s.put(K, b"new", lease=HELD), writes(K), *HELD_WRITES),
        Call(lambda s: within(s).put("a", b"new"), writes(b"dir/a")),
    ],
    "add": [Call(lambda s: s.add("number"), reads(b"number"), writes(b"number"))],
    "delete": [
        Call(lambda s: s.delete(K), writes(K)),
        Call(lambda s: s.delete(prefix="dir/", prev_kv=True), writes_all(*DIR), reads_all(*DIR)),
        Call(lambda s: within(s).delete(start="a"), writes_all(b"dir/a", b"dir0")),
    ],
    "txn": [
        Call(lambda s: s.txn(compare=[Key(K).exists], then=[Get("z")]), reads(K), reads(b"z")),
        Call(lambda s: s.txn(compare=[Key("cmp").missing], then=[Put(K, b"")]), reads(b"cmp"), writes(K)),
        Call(lambda s: within(s).txn(then=[Txn(otherwise=[Put("a", b"")])]), writes(b"dir/a")),
        Call(lambda s: s.txn()),
    ],
    "compact": [Call(lambda s: s.compact(5), root=True)],
    "get": [
        Call(lambda s: s.get(K), reads(K)),
        Call(lambda s: s.get(K, consistency="lease"), reads(K)),
        Call(lambda s: s.get(K, consistency="local"), reads(K)),
        Call(lambda s: s.get(K, consistency="local", max_staleness=60), reads(K)),
        Call(lambda s: s.get(K, consistency="local", min_revision=2), reads(K)),
        Call(lambda s: s.get(K, revision=10), reads(K)),
        Call(lambda s: within(s).get("a", consistency="local"), reads(b"dir/a")),
        Call(lambda s: within(s).namespace("a").get("a", consistency="local"), reads(b"dir/aa")),
    ],
    "scan": [
        Call(lambda s: s.scan(prefix="dir/"), reads_all(*DIR)),
        Call(lambda s: s.scan(prefix="dir/", consistency="lease"), reads_all(*DIR)),
        Call(lambda s: s.scan(prefix="dir/", consistency="local", count_only=True), reads_all(*DIR)),
        Call(lambda s: s.scan(start="dir/", keys_only=True), reads_all(b"dir/", None)),
        Call(lambda s: within(s).scan(), reads_all(b"dir/\x01", b"dir0")),
    ],
    "watch": [
        Call(lambda s: first(s, key=K, initial=True), reads(K)),
        Call(lambda s: first(s, key=K, start_revision=2), reads(K)),
        Call(lambda s: first(s, prefix="dir/", initial=True, prev_kv=True), reads_all(*DIR)),
        Call(lambda s: first(s, start="dir/", start_revision=2, prev_kv=True), reads_all(b"dir/", None)),
        Call(lambda s: first(within(s), start_revision=2), reads_all(b"dir/\x01", b"dir0")),
        Call(lambda s: batch(s, key=K, start_revision=2), reads(K)),
        Call(lambda s: next(iter(s.watch(K, initial=True))), reads(K)),
    ],
    "submit": [
        Call(lambda s: s.submit(Put(K, b"new")).result(SOON), writes(K)),
        Call(lambda s: s.submit(Get(K)).result(SOON), reads(K)),
        Call(lambda s: s.submit(Scan(prefix="dir/")).result(SOON), reads_all(*DIR)),
        Call(lambda s: s.submit(Delete(K, prev_kv=True)).result(SOON), writes(K), reads(K)),
        Call(lambda s: s.submit(Add("number")).result(SOON), writes(b"number"), reads(b"number")),
        Call(lambda s: s.submit(Txn(otherwise=[Get(K)])).result(SOON), reads(K)),
        Call(lambda s: s.submit(Txn(otherwise=[Put(K, b"")])).result(SOON), writes(K)),
        Call(lambda s: within(s).submit(Put("a", b"")).result(SOON), writes(b"dir/a")),
    ],
    "lease": [
        Call(new_lease),
        Call(lambda s: s.lease(60, id=55, keep_alive=False)),
        Call(lambda s: s.lease(id=HELD), *HELD_WRITES),
        Call(lambda s: lease_of(s, HELD).renew(), *HELD_WRITES),
        Call(lambda s: lease_of(s, HELD).revoke(), *HELD_WRITES),
        Call(lambda s: lease_of(s, HELD).keys(), *HELD_WRITES, *HELD_READS, steps=True),
        Call(lambda s: lease_of(s, PASSING).keys(), writes(b"ttl"), reads(b"ttl"), steps=True),
        Call(in_a_with, writes(K), steps=True),
    ],
    "leases": [Call(lambda s: s.leases(), root=True)],
    "wait_ready": [Call(lambda s: s.wait_ready(SOON)), Call(lambda s: s.wait_ready(0))],
    "view": [
        Call(lambda s: s.view("dir/")["a"], reads_all(*DIR)),
        Call(lambda s: list(s.view("dir/").items()), reads_all(*DIR)),
        Call(lambda s: next(s.view("dir/").changes(0), None), reads_all(*DIR)),
    ],
    "mapping": [
        Call(lambda s: s.mapping("dir/")["a"], reads(b"dir/a")),
        Call(lambda s: s.mapping("dir/").get("a"), reads(b"dir/a")),
        Call(lambda s: "a" in s.mapping("dir/"), reads(b"dir/a")),
        Call(lambda s: s.mapping("dir/").__setitem__("a", b""), writes(b"dir/a")),
        Call(lambda s: s.mapping("dir/").__delitem__("a"), writes(b"dir/a")),
        Call(lambda s: list(s.mapping("dir/")), reads_all(*DIR)),
        Call(lambda s: len(s.mapping("dir/")), reads_all(*DIR)),
        Call(lambda s: list(s.mapping("dir/").items()), reads_all(*DIR)),
        Call(lambda s: list(s.mapping("dir/").values()), reads_all(*DIR)),
        Call(lambda s: s.mapping("dir/").setdefault("a", b""), reads(b"dir/a"), writes(b"dir/a")),
        Call(lambda s: s.mapping("dir/").pop("a"), reads(b"dir/a"), writes(b"dir/a")),
        Call(lambda s: s.mapping("dir/").popitem(), reads_all(*DIR), writes(b"dir/a")),
        Call(lambda s: s.mapping("dir/").update({"a": b""}), writes(b"dir/a")),
        Call(lambda s: s.mapping("dir/").clear(), writes_all(*DIR)),
    ],
    "transact": [Call(transacted, reads(b"z"), writes(K))],
    "change_members": [
        Call(lambda s: s.change_members(remove=["nobody"]), root=True),
        Call(lambda s: s.change_members(learners={"nobody": "127.0.0.1:1"}, timeout=0.2), root=True),
    ],
    "promote": [Call(lambda s: s.promote("nobody"), root=True)],
    "transfer_leadership": [
        Call(lambda s: s.transfer_leadership("nobody"), root=True),
        Call(lambda s: s.transfer_leadership("replica"), root=True),
        Call(lambda s: s.transfer_leadership(timeout=1.0), root=True),
    ],
    "backup": [Call(lambda s: s.backup(BACKUPS / "backup", overwrite=True), root=True)],
    "status": [Call(lambda s: s.status())],
    "members": [Call(lambda s: s.members())],
}
"""Of each call some ways to make it.  That they are few is enough: operations are tried by the machine's matrix in all of theirs."""

AUTH_CALLS: dict[str, list[Call]] = {
    "enable": [Call(lambda s: s.auth.enable(), root=True)],
    "disable": [Call(lambda s: s.auth.disable(), root=True)],
    "status": [Call(lambda s: s.auth.status())],
    "add_user": [Call(lambda s: s.auth.add_user("new"), root=True), Call(lambda s: s.auth.add_user("new2", "password"), root=True)],
    "delete_user": [Call(lambda s: s.auth.delete_user("victim"), root=True)],
    "change_password": [Call(lambda s: s.auth.change_password("victim", None), root=True)],
    "users": [Call(lambda s: s.auth.users(), root=True)],
    "user": [Call(lambda s: s.auth.user("victim"), root=True), Call(lambda s: s.auth.user("root"), root=True)],
    "grant_role": [Call(lambda s: s.auth.grant_role("victim", "spare"), root=True)],
    "revoke_role": [Call(lambda s: s.auth.revoke_role("victim", "held"), root=True)],
    "add_role": [Call(lambda s: s.auth.add_role("new"), root=True)],
    "delete_role": [Call(lambda s: s.auth.delete_role("spare"), root=True)],
    "roles": [Call(lambda s: s.auth.roles(), root=True)],
    "role": [Call(lambda s: s.auth.role("spare"), root=True), Call(lambda s: s.auth.role("root"), root=True)],
    "grant_permission": [Call(lambda s: s.auth.grant_permission("spare", "read", "a"), root=True)],
    "revoke_permission": [Call(lambda s: s.auth.revoke_permission("spare", start="x", end="y"), root=True)],
}

RECIPES: dict[str, list[Callable[[Any], Any]]] = {
    "lock": [lambda s: s.lock("x").acquire(0.2), lambda s: s.lock("x").try_acquire()],
    "election": [lambda s: s.election("x").leader(), lambda s: s.election("x").lead(timeout=0.2).__enter__()],
    "rwlock": [lambda s: s.rwlock("x").read().acquire(0.2), lambda s: s.rwlock("x").write().acquire(0.2)],
    "semaphore": [lambda s: s.semaphore("x", 2).acquire(0.2)],
    "barrier": [lambda s: s.barrier("x").hold(), lambda s: s.barrier("x").is_held(), lambda s: s.barrier("x").wait(0.2)],
    "double_barrier": [lambda s: s.double_barrier("x", 1).enter(0.2)],
    "queue": [lambda s: s.queue("x").put(b"1"), lambda s: s.queue("x").claim(0.2).__enter__()],
    "priority_queue": [lambda s: s.priority_queue("x").put(b"1"), lambda s: s.priority_queue("x").claim(0.2).__enter__()],
    "counter": [lambda s: s.counter("x").value(), lambda s: s.counter("x").add(2), lambda s: s.counter("x").set(5)],
    "registry": [lambda s: s.registry("x").register("i", "v").__enter__(), lambda s: s.registry("x").discover()],
    "rate_limiter": [lambda s: s.rate_limiter("x", 10).acquire(), lambda s: s.rate_limiter("x", 10).try_acquire()],
}
"""Recipes are made of the calls above, so it is enough that none of them works without rights on its own keys, and all do with them."""

NOT_JUDGED = {
    "name": "of the member: who talks to it knows it",
    "user": "one's own name",
    "ready": "whether there is a leader is told every user with each Pong, and in-process it is the member's own",
    "revision": "counts the writes; every answer tells it",
    "settings": "every user is told with its Welcome",
    "failure": "why this object ended",
    "auth": "has calls of its own: AUTH_CALLS",
    "namespace": "the same calls, tried with the others",
    "open": "opens this object; at the door: test_rights_at_the_door.py",
    "close": "closes this object",
    "from_env": "makes a member: whoever does is root",
    "leave": "only who holds the Replica: it is root",
    "metrics": "only who holds the Replica: it is root",
    "as_user": "asks for a password itself, and is only for who holds the Replica",
}
"""Public names that need no right, and why."""

SURFACES = (Replica, AsyncReplica, Client, AsyncClient, ActingReplica, AsyncActingReplica, Namespace)


def public(kind: type) -> set[str]:
    return {name for name in dir(kind) if not name.startswith("_")}


# -- every call has its row --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", SURFACES)
def test_every_public_call_has_a_row(kind: type) -> None:
    assert public(kind) - {*CALLS, *RECIPES, *NOT_JUDGED} == set()


def test_no_row_is_for_what_is_no_call() -> None:
    assert {*CALLS, *RECIPES, *NOT_JUDGED} == set().union(*map(public, SURFACES))
    assert not {*CALLS, *RECIPES} & set(NOT_JUDGED)


def test_users_are_not_given_what_only_who_holds_the_member_may() -> None:
    for kind in (ActingReplica, AsyncActingReplica, Namespace):
        assert not public(kind) & {"leave", "metrics", "as_user", "from_env", "close", "open", "failure"}


def test_every_call_about_users_and_roles_has_a_row() -> None:
    assert public(AuthCalls) == set(AUTH_CALLS)


def test_every_argument_of_a_call_was_thought_of() -> None:
    """A new one may need another right: give it a row, then name it here."""
    told = {
        name: set(inspect.signature(getattr(Surface, name)).parameters) - {"self", "timeout"} for name in CALLS if hasattr(Surface, name)
    }
    assert told == {
        "put": {"key", "value", "lease", "ttl", "prev_kv", "if_mod_revision", "guard"},
        "add": {"key", "delta"},
        "delete": {"key", "prefix", "start", "end", "prev_kv", "if_mod_revision", "guard"},
        "txn": {"compare", "then", "otherwise"},
        "compact": {"revision"},
        "get": {"key", "revision", "consistency", "max_staleness", "min_revision"},
        "scan": {
            *("key", "prefix", "start", "end", "limit", "revision", "sort_by", "descending", "keys_only", "count_only"),
            *("min_mod_revision", "max_mod_revision", "min_create_revision", "max_create_revision"),
            *("consistency", "max_staleness", "min_revision"),
        },
        "watch": {"key", "prefix", "start", "end", "start_revision", "initial", "prev_kv", "kinds", "progress"},
        "submit": {"operation"},
        "lease": {"ttl", "id", "keep_alive"},
        "leases": set(),
        "wait_ready": set(),
    }


def test_every_call_of_a_lease_was_thought_of() -> None:
    assert public(Lease) == {"id", "keys", "lost", "remaining", "renew", "revoke", "ttl"}


# -- in this process, on behalf of a user ------------------------------------------------------------------------------------------


class Packed:
    """A command that is packed already."""

    def __init__(self, raw: Raw) -> None:
        self.raw = raw

    def to_wire(self) -> Raw:
        return self.raw

    def result(self, raw: Raw) -> None: ...


class House:
    """A member, what the calls are about, and the users of a call."""

    def __init__(self, replica: Replica, call: Call) -> None:
        self.replica = replica
        self.users = [(f"user{number}", principal) for number, principal in enumerate(principals(call.needs))]
        for command in (*stock(), *users_of(self.users)):
            replica._run(Write(Packed(command)), SOON)
        self.stamp = replica.auth.status().revision

    def user(self, name: str) -> ActingReplica:
        return ActingReplica(self.replica, (name, self.stamp))

    def state(self) -> Any:
        machine = self.replica._running().machine
        return (
            machine.store.revision,
            machine.store.compacted,
            machine.auth,
            tuple(machine.leases.rows()[0]),
            tuple(machine.roster.rows()),
        )


@pytest.fixture
def replica(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Replica]:
    monkeypatch.setattr(f"{__name__}.BACKUPS", tmp_path)
    with Replica() as made:
        made.wait_ready()
        yield made


def allowed_to(call: Call, principal: Principal) -> bool:
    return principal.grants is None or (not call.root and principal.may(call.needs))


WAYS = [pytest.param(call, id=f"{name} {number}") for name, calls in CALLS.items() for number, call in enumerate(calls)]
AUTH_WAYS = [pytest.param(call, id=f"auth.{name} {number}") for name, calls in AUTH_CALLS.items() for number, call in enumerate(calls)]


@pytest.mark.parametrize("call", [*WAYS, *AUTH_WAYS])
def test_a_call_on_behalf_of_a_user_is_for_those_who_have_all_rights_that_it_needs(replica: Replica, call: Call) -> None:
    house = House(replica, call)
    denied = [
        (user, principal)
        for user, principal in house.users
        if principal.grants is not None and (call.root or not principal.may(call.needs))
    ]
    before = house.state()
    for user, principal in denied:
        with pytest.raises(PermissionDenied, match=f"user {user} |, and {user} has not") as caught:
            call.make(house.user(user))
        assert SECRET.decode() not in str(caught.value), principal
    for user, stamp in (("nobody", house.stamp), (denied[0][0] if denied else "victim", 0)):
        with pytest.raises(AuthenticationFailed):
            call.make(ActingReplica(replica, (user, stamp)))
    assert call.steps or house.state() == before
    allowed = [user for user, principal in house.users if principal.name in {"root", "exactly"} and allowed_to(call, principal)]
    for user in allowed[:1] if call.root else allowed[::-1]:
        require_no_refusal(call, house.user(user))


def require_no_refusal(call: Call, surface: Any) -> None:
    """Require that a call is not denied; a second one may find the world changed."""
    try:
        call.make(surface)
    except (PermissionDenied, AuthenticationFailed) as error:
        raise AssertionError(f"it needs no more than {call.needs}") from error
    except (ReplkvError, KeyError, StopIteration):
        pass


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_works_with_rights_on_its_own_keys_and_without_them_not_at_all(replica: Replica, name: str) -> None:
    own = (b"\x00replkv/%s/" % name.encode(), b"\x00replkv/%s0" % name.encode())
    call = Call(lambda s: None, reads_all(*own), writes_all(*own))
    house = House(replica, call)
    keys = {key for key in replica._running().machine.store.newest if key.startswith(b"\x00replkv/")}
    by_name = {principal.name: user for user, principal in house.users}
    for make in RECIPES[name]:
        with pytest.raises(PermissionDenied):
            make(house.user(by_name["another key"]))
        try:
            make(house.user(by_name["exactly"]))
        except PermissionDenied as error:
            raise AssertionError(f"it has keys beyond {own}") from error
        except errors.WaitTimeout:
            pass  # for what the calls before it hold
    made = {key for key in replica._running().machine.store.newest if key.startswith(b"\x00replkv/")} - keys
    assert all(own[0] <= key < own[1] for key in made), made


@pytest.mark.parametrize("user", ["victim", "root"])
def test_a_user_may_ask_about_itself_and_its_own_roles(replica: Replica, user: str) -> None:
    house = House(replica, Call(lambda s: None))
    asked = house.user(user).auth.user(user)
    assert asked.name == user
    assert [house.user(user).auth.role(role).name for role in asked.roles] == list(asked.roles)
    assert house.user(user).auth.status().enabled


def test_while_auth_is_not_enabled_each_call_on_behalf_of_a_user_is_done(replica: Replica) -> None:
    for command in stock():
        replica._run(Write(Packed(command)), SOON)
    nobody = ActingReplica(replica, ("nobody", 0))
    for calls in CALLS.values():
        for call in calls:
            require_no_refusal(call, nobody)


# -- clients, and asyncio ----------------------------------------------------------------------------------------------------------

KEPT = b"scr1\x01\x08\x01" + bytes(16)
"""The head of a password's hash that costs nothing to compare, and its salt."""


def hashed(password: bytes) -> bytes:
    return KEPT + hashlib.scrypt(password, salt=bytes(16), n=2, r=8, p=1, dklen=32)


EVERYWHERE = (Need(READ, b"\x00", None), Need(WRITE, b"\x00", None))
FEW = {
    "nothing": Principal("nothing", ()),
    "reader": Principal("reader", (EVERYWHERE[:1],)),
    "writer": Principal("writer", (EVERYWHERE[1:],)),
    "everything": Principal("everything", (EVERYWHERE,)),
    "admin": Principal("admin", None),
}


def founded(replica: Replica) -> None:
    commands = [*stock(), *users_of(FEW.items())]
    for command in commands:
        replica._run(Write(Packed(command)), SOON)
    for user in FEW:
        replica._run(Write(Packed(auth(wire.CHANGE_PASSWORD, user, hashed(b"secret")))), SOON)


def restock(replica: Replica) -> None:
    """Put back what calls have changed, as far as that can be."""
    for command in stock():
        if command[1] != b"ttl" or replica.get("ttl") is None:
            with suppress(errors.LeaseExists):
                replica._run(Write(Packed(command)), SOON)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Replica, dict[str, Client]]]:
    """A member with auth enabled, and a client of each of a few users."""
    place = tmp_path_factory.mktemp("served")
    with Replica(data_dir=place / "data") as made:
        made.wait_ready()
        founded(made)
        clients = {user: connect(place / "data", user=user, password="secret") for user in FEW}
        yield made, clients
        for client in clients.values():
            client.close()


@pytest.mark.parametrize("call", [*WAYS, *AUTH_WAYS])
def test_a_call_of_a_client_is_for_those_who_have_the_rights(
    served: tuple[Replica, dict[str, Client]], call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By users who may read or write everything: where exactly a right ends is found out by what the other matrices try."""
    monkeypatch.setattr(f"{__name__}.BACKUPS", tmp_path)
    replica, clients = served
    restock(replica)
    for user, principal in FEW.items():
        if not allowed_to(call, principal):
            with pytest.raises(PermissionDenied, match=f"user {user} |, and {user} has not"):
                call.make(clients[user])
        elif not call.root:
            require_no_refusal(call, clients[user])


async def _maybe(result: Any) -> Any:
    return await result if inspect.isawaitable(result) else result


async def _viewed(surface: Any) -> Any:
    view = await surface.view("dir/")
    return view["a"]


ASYNC: dict[str, tuple[Callable[[Any], Awaitable[Any]], Needs, bool]] = {
    "put": (lambda s: s.put(K, b""), (writes(K),), False),
    "get": (lambda s: s.get(K), (reads(K),), False),
    "get, local": (lambda s: s.get(K, consistency="local"), (reads(K),), False),
    "get, lease": (lambda s: s.get(K, consistency="lease"), (reads(K),), False),
    "scan": (lambda s: s.scan(prefix="dir/"), (reads_all(*DIR),), False),
    "scan, local": (lambda s: s.scan(prefix="dir/", consistency="local"), (reads_all(*DIR),), False),
    "scan, lease": (lambda s: s.scan(prefix="dir/", consistency="lease"), (reads_all(*DIR),), False),
    "txn": (lambda s: s.txn(otherwise=[Get(K)]), (reads(K),), False),
    "submit": (lambda s: asyncio.wrap_future(s.submit(Get(K))), (reads(K),), False),
    "watch": (lambda s: s.watch(K, initial=True).next(SOON), (reads(K),), False),
    "lease": (lambda s: s.lease(id=HELD, keep_alive=False), HELD_WRITES, False),
    "leases": (lambda s: s.leases(), (), True),
    "backup": (lambda s: s.backup(BACKUPS / "backup", overwrite=True), (), True),
    "status": (lambda s: _maybe(s.status()), (), False),
    "members": (lambda s: _maybe(s.members()), (), False),
    "auth.users": (lambda s: s.auth.users(), (), True),
    "lock": (lambda s: s.lock(str(id(s))).acquire(SOON), EVERYWHERE, False),
    "view": (_viewed, (reads_all(*DIR),), False),
}
"""Where asyncio has code of its own: handles, steps of long reads, backups."""


async def _require(surface: Any, user: str) -> None:
    for name, (make, needs, root) in ASYNC.items():
        principal = FEW[user]
        if principal.grants is None or (not root and principal.may(needs)):
            with suppress(errors.LeaseNotFound, KeyError, errors.WaitTimeout):
                await make(surface)
        else:
            try:
                await make(surface)
            except PermissionDenied:
                continue
            raise AssertionError(f"{user} was not denied {name}")


@pytest.mark.parametrize("user", FEW)
def test_awaited_calls_on_behalf_of_a_user_and_of_clients_are_judged_alike(
    user: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(f"{__name__}.BACKUPS", tmp_path)

    async def main() -> None:
        async with AsyncReplica(data_dir=tmp_path / "data") as replica:
            await replica.wait_ready()
            for command in (*stock(), *users_of(FEW.items()), auth(wire.CHANGE_PASSWORD, user, hashed(b"secret"))):
                await replica._run(Write(Packed(command)), SOON)
            await _require(await replica.as_user(user, "secret"), user)
            async with connect_async(tmp_path / "data", user=user, password="secret") as client:
                await _require(client, user)

    asyncio.run(main())


# -- plans -------------------------------------------------------------------------------------------------------------------------


def all_plans() -> set[type[Plan[Any]]]:
    for module in pkgutil.walk_packages(replkv.__path__, "replkv."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)

    def below(kind: type[Plan[Any]]) -> Iterator[type[Plan[Any]]]:
        for inner in kind.__subclasses__():
            if inner.__module__.startswith("replkv."):
                yield inner
                yield from below(inner)

    return {*below(Plan)}


ANYBODY, READERS, ROOT = {*FEW}, {"reader", "everything", "admin"}, {"admin"}

QUESTIONS: dict[str, list[tuple[Callable[[], Plan[Any]], set[str]]]] = {
    "Read": [
        (lambda: Read(Get(K), b"", "local"), READERS),
        (lambda: Read(Txn(compare=[Key(K).exists]), b"n/", "lease"), READERS),
        (lambda: Read(Txn(), b"", "local"), ANYBODY),
    ],
    "Ready": [(lambda: plans.Ready(0), ANYBODY)],
    "Settled": [(plans.Settled, ANYBODY)],
    "Left": [(lambda: plans.Left("a"), ROOT)],
    "NewLeader": [(lambda: plans.NewLeader(None), ROOT)],
    "LeaseList": [(plans.LeaseList, ROOT)],
    "LeaseKeys": [(lambda: plans.LeaseKeys(HELD, b""), ANYBODY)],
    "Outlined": [(Outlined, ROOT)],
    "TakeHold": [(TakeHold, ROOT)],
    "AuthState": [(AuthState, ROOT)],
    "Inspection": [
        (lambda: Inspection(letters.INSPECT_STATUS), ANYBODY),
        (lambda: Inspection(letters.INSPECT_USERS), ROOT),
        (lambda: Inspection(letters.INSPECT_USER, "reader"), {"reader", "admin"}),
        (lambda: Inspection(letters.INSPECT_ROLES), ROOT),
        (lambda: Inspection(letters.INSPECT_ROLE, "reader/0"), {"reader", "admin"}),
    ],
    "_Kept": [(lambda: errands._Kept(KEEPER), ANYBODY)],
}
"""Questions that a member answers: who may ask."""

COMMANDS = {"Write", "ChangeMembership", "Leave", "_Hold", "_Renewal", "_Revocation"}
"""Plans with a command: judged where that is applied."""
CLIENTS = {"KeptBy", "_StatusPlan", "_MembersPlan"}
"""Plans that only clients have: they send a letter, and test_rights_at_the_door.py is about those."""
ABSTRACT = {"OnKeys", "Wait", "_ByAuth"}
JUDGES = {"Judged"}


def test_every_plan_has_a_row() -> None:
    names = sorted(kind.__name__ for kind in all_plans())
    assert names == sorted({*QUESTIONS, *COMMANDS, *CLIENTS, *ABSTRACT, *JUDGES})


def test_a_plan_that_nobody_has_thought_of_is_for_root_alone(replica: Replica) -> None:
    founded_by_hand = House(replica, Call(lambda s: None))
    machine = replica._running().machine

    class Unthought(Plan[None]):
        pass

    Unthought().permit(("root", founded_by_hand.stamp), machine)
    Unthought().permit(None, machine)
    with pytest.raises(PermissionDenied):
        Unthought().permit(("victim", founded_by_hand.stamp), machine)
    for kind in all_plans():
        if kind.__name__ in CLIENTS | ABSTRACT:
            assert kind.permit is Plan.permit


@pytest.mark.parametrize("name", QUESTIONS)
def test_a_question_is_answered_to_whom_it_concerns(replica: Replica, name: str) -> None:
    founded(replica)
    machine = replica._running().machine
    stamp = machine.auth.revision
    for make, who in QUESTIONS[name]:
        plan = make()
        assert type(plan).__name__ == name
        plan.permit(None, machine)
        for user in FEW:
            if user in who:
                plan.permit((user, stamp), machine)
            else:
                with pytest.raises(PermissionDenied):
                    plan.permit((user, stamp), machine)
        for nobody in (("", 0), ("none", stamp), ("reader", 0)):
            with pytest.raises(AuthenticationFailed):
                plan.permit(nobody, machine)


def test_the_keys_of_a_lease_are_told_to_who_may_read_all_of_them(replica: Replica) -> None:
    founded(replica)
    machine = replica._running().machine
    stamp = machine.auth.revision
    plan = plans.LeaseKeys(HELD, b"held/b")  # whichever of them it is going to leave out
    raw = (0, plan.look(machine, 0))
    for user in FEW:
        if user in READERS:
            plan.permit_answer((user, stamp), machine, raw)
        else:
            with pytest.raises(PermissionDenied):
                plan.permit_answer((user, stamp), machine, raw)
