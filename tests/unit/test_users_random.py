"""Clients of users at the doors of members, while users are changed, auth is turned on and off, members crash and connections break.

Whoever a client is by then, each of its commands takes effect once or not at all, and it is never told otherwise.
"""

from __future__ import annotations

import random
from typing import Any

import pytest
from caller import Caller
from test_door_random import House
from test_remote_random import Corridors

from replkv import codec, ops, passwords, wire
from replkv.auth_ops import ChangeAuth
from replkv.config import Config
from replkv.errors import AuthenticationFailed, OutcomeUnknown, PermissionDenied
from replkv.plans import Read
from replkv.proposals import OwnCall
from replkv.remote import Remote
from replkv.wire import ADD_ROLE, ADD_USER, CHANGE_PASSWORD, DELETE_USER, DISABLE, ENABLE, GRANT_PERMISSION, GRANT_ROLE

CALLS = 60
PASSWORD = b"open sesame"
SPAN = (b"k/", b"k0")


@pytest.fixture(autouse=True)
def cheap(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hashes that take no time."""
    monkeypatch.setattr(passwords, "LOG2_N", 1)


class Administrator:
    """Changes users, as code that holds a member does."""

    def __init__(self, house: House, rng: random.Random) -> None:
        self.house, self.rng = house, rng
        self.kept = passwords.hashed(PASSWORD, bytes(passwords.SALT))
        self.begin()

    def change(self, *changes: tuple[Any, ...]) -> bool:
        """Hand changes to the leader, if there is one."""
        leader = self.house.cluster.leader()
        node = self.house.cluster.nodes.get(leader or "")
        if node is None:
            return False
        for what, *arguments in changes:
            command = codec.pack(ChangeAuth(what, tuple(arguments)).to_wire())
            node.proposals.admission.enter_anyway(len(command))
            node.submit(OwnCall(command, lambda _: None))
        return True

    def begin(self) -> None:
        users = [(ADD_USER, name, self.kept) for name in ("root", "ann", "bob")]
        roles = [
            (ADD_ROLE, "dev"),
            (GRANT_PERMISSION, "dev", wire.READWRITE, *SPAN),
            *((GRANT_ROLE, name, "dev") for name in ("ann", "bob")),
        ]
        assert self.change(*users, *roles)

    def stir(self) -> None:
        if self.rng.random() > 0.02:
            return
        user = self.rng.choice(("ann", "bob"))
        changes: list[list[tuple[Any, ...]]] = [
            [(CHANGE_PASSWORD, user, self.kept)],
            [(DELETE_USER, user), (ADD_USER, user, self.kept), (GRANT_ROLE, user, "dev")],
            [(ENABLE,)],
            [(DISABLE,)],
            [(wire.REVOKE_ROLE, user, "dev")],
            [(GRANT_ROLE, user, "dev")],
        ]
        self.change(*self.rng.choice(changes))

    def calm(self) -> bool:
        return self.change((ENABLE,), *((GRANT_ROLE, name, "dev") for name in ("ann", "bob")))


class Guest:
    """A client that counts."""

    def __init__(self, house: House, number: int) -> None:
        self.rng = random.Random(number)
        self.ways = Corridors(house)
        targets = [f"tcp://127.0.0.1:70{number}1/{name}" for name in "abc"]
        user = ("ann", "bob", "ann")[number]
        clock = lambda: house.cluster.now  # noqa: E731
        self.remote = Remote(targets, Config(), self.ways, clock, self.rng, anywhere=False, user=user, password=PASSWORD)
        self.remote._targets.learn({})
        self.key = f"k/{number}"
        self.calls: list[Caller] = []
        self.reads: list[tuple[int, Caller]] = []

    def turn(self) -> None:
        self.remote.turn(0.0)
        if self.rng.random() < 0.1:
            self.count()
        if self.rng.random() < 0.05:
            call = Caller()
            self.reads.append((self.least, call))
            self.remote.ask(Read(ops.Get(self.key), b"", "linearizable"), call)

    def count(self) -> None:
        call = Caller.of(ops.Add(self.key, 1))
        self.remote.admission.enter_anyway(len(call.command or b""))
        self.remote.submit(call)
        self.calls.append(call)

    @property
    def values(self) -> list[int]:
        """What it was told that it has counted."""
        return [call.answer[2] for call in self.calls if call.answer is not None and call.answer[0] == wire.OK]

    @property
    def least(self) -> int:
        return max(self.values, default=0)

    @property
    def done(self) -> bool:
        return all(call.finished for call in [*self.calls, *(call for _, call in self.reads)])


def check(guest: Guest, record: Any) -> None:
    """Compare what a client was told with what was counted."""
    assert all(call.finished == 1 for call in guest.calls)
    unknown = [call for call in guest.calls if isinstance(call.error, OutcomeUnknown)]
    others = {type(call.error) for call in guest.calls if call.error is not None and call not in unknown}
    assert others <= {AuthenticationFailed}
    refusals = {call.answer[0] for call in guest.calls if call.answer is not None} - {wire.OK}
    assert refusals <= {16, 17}, "not permitted, or not proved any more"
    counted = int(record[1])
    assert len(set(guest.values)) == len(guest.values)
    assert len(guest.values) <= counted <= len(guest.values) + len(unknown)
    for least, read in guest.reads:
        if read.error is None:
            assert read.answer is not None
            assert int(read.answer[1][1] if read.answer[1] else 0) >= least
        else:
            assert isinstance(read.error, (AuthenticationFailed, PermissionDenied))


@pytest.mark.parametrize("seed", range(10))
def test_whoever_a_client_is_each_command_counts_once_or_not_at_all(seed: int) -> None:
    house, rng = House(seed), random.Random(seed)
    house.cluster.run(house.cluster.leader)
    administrator, guests = Administrator(house, rng), [Guest(house, number) for number in range(3)]

    def turn() -> None:
        house.turn()
        for guest in guests:
            guest.turn()

    for _ in range(1500):
        house.stir()
        administrator.stir()
        for link in [link for guest in guests for link in guest.ways.links if rng.random() < 0.003]:
            link.cut = True
        turn()
    house.heal()
    house.cluster.run(administrator.calm)
    limit = house.cluster.now + 120
    before = [guest.least for guest in guests]
    while any(guest.least <= least for guest, least in zip(guests, before, strict=True)):
        assert house.cluster.now < limit, "they were let in again"
        turn()
    for guest in guests:
        guest.rng.random = lambda: 1.0  # type: ignore[method-assign]  # it does nothing more
    while not all(guest.done for guest in guests):
        assert house.cluster.now < limit + 60
        turn()
    house.cluster.rest(100)
    store = next(iter(house.cluster.nodes.values())).machine.store
    for guest in guests:
        check(guest, store.newest[guest.key.encode()])
