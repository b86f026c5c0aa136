"""The calls that change the cluster itself: what they refuse before anything is sent, and what a cluster of one makes of them."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import replkv
from replkv import AsyncReplica, MemberExists, MemberNotFound, MembershipRefused, Replica, WaitTimeout
from replkv.address import ADDRESS_MAX
from replkv.administration import Administration
from replkv.member_ops import ChangeMembers
from replkv.membership import Membership
from replkv.node import Node
from replkv.wire import MEMBERS_MAX, check_operation

CALLS = [name for name in vars(Administration) if not name.startswith("_")]
HERE = "tcp://127.0.0.1:7432"
MANY = {f"m{number}": f"tcp://127.0.0.1:{7000 + number}" for number in range(MEMBERS_MAX + 1)}

BAD: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({}, ValueError, "needs add=, remove= or learners="),
    ({"add": {}, "remove": [], "learners": {}}, ValueError, "needs add=, remove= or learners="),
    ({"add": ["b"]}, TypeError, "add must map names to addresses"),
    ({"add": [], "remove": ["a"]}, TypeError, "add must map names to addresses"),
    ({"add": "b"}, TypeError, "add must map names to addresses"),
    ({"add": {"b": None}}, TypeError, "an address is a str"),
    ({"add": {"b": ""}}, ValueError, "host:port"),
    ({"add": {"b": "127.0.0.1:99999"}}, ValueError, "0 to 65535"),
    ({"add": {"b": "*:7432"}}, ValueError, "no address that others can dial: give b"),
    ({"add": {"b": "127.0.0.1:0"}}, ValueError, "no address that others can dial"),
    ({"add": {"b": f"inproc://{'x' * ADDRESS_MAX}"}}, ValueError, "255 at most"),
    ({"add": {"b c": HERE}}, ValueError, "no name for a member"),
    ({"add": {"": HERE}}, ValueError, "no name for a member"),
    ({"add": {5: HERE}}, TypeError, "name must be a str"),
    ({"add": MANY}, ValueError, "at most 64 are possible"),
    ({"learners": ["b"]}, TypeError, "learners must map names to addresses"),
    ({"learners": {"b": "udp://x"}}, ValueError, "addresses begin with"),
    ({"learners": MANY}, ValueError, "at most 64 are possible"),
    ({"remove": "a"}, TypeError, r"remove=\['a'\]"),
    ({"remove": 5}, TypeError, "remove must be a list of names"),
    ({"remove": [5]}, TypeError, "name must be a str"),
    ({"remove": ["../a"]}, ValueError, "no name for a member"),
    ({"remove": ["a", "a"]}, ValueError, "a is named twice"),
    ({"remove": iter(MANY)}, ValueError, "more than 64"),
    ({"add": {"b": HERE}, "remove": ["b"]}, ValueError, "b is named twice"),
    ({"add": {"b": HERE}, "learners": {"b": HERE}}, ValueError, "b is named twice"),
    ({"remove": ["a"], "timeout": -1}, ValueError, "timeout"),
    ({"remove": ["a"], "timeout": "1"}, TypeError, "timeout"),
]


@pytest.fixture
def replica() -> Iterator[Replica]:
    with Replica("a") as replica:
        yield replica


@pytest.fixture
def sent(replica: Replica, monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """What a member that is ready is given to do."""
    replica.wait_ready()
    handed_over: list[object] = []
    monkeypatch.setattr(Node, "submit", lambda _, call: handed_over.append(call))
    return handed_over


@pytest.mark.parametrize(("arguments", "kind", "says"), BAD, ids=range(len(BAD)))
def test_bad_arguments_are_refused_before_anything_is_sent(
    replica: Replica, sent: list[object], arguments: dict[str, Any], kind: type[Exception], says: str
) -> None:
    with pytest.raises(kind, match=says):
        replica.change_members(**arguments)
    assert sent == []


@pytest.mark.parametrize(
    "call", [lambda r, name: r.promote(name), lambda r, name: r.transfer_leadership(name)], ids=["promote", "transfer"]
)
@pytest.mark.parametrize(
    ("name", "kind"), [(5, TypeError), (b"a", TypeError), ("", ValueError), ("-a", ValueError), ("x" * 65, ValueError)]
)
def test_what_is_no_name_is_refused_before_anything_is_sent(
    replica: Replica, sent: list[object], call: Callable[[Any, object], object], name: object, kind: type[Exception]
) -> None:
    with pytest.raises(kind, match="name"):
        call(replica, name)
    assert sent == []


def test_bad_arguments_are_refused_when_the_call_is_awaited_too() -> None:
    async def main() -> None:
        async with AsyncReplica() as replica:
            with pytest.raises(ValueError, match="needs add="):
                await replica.change_members()
            with pytest.raises(TypeError, match="name must be"):
                await replica.promote(5)  # type: ignore[arg-type]

    asyncio.run(main())


def test_what_callers_may_say_is_what_members_take_from_each_other() -> None:
    """Else a batch that a follower hands on is dropped by its leader, with all that travels with it, again and again."""
    full = dict.fromkeys(list(MANY)[:MEMBERS_MAX], HERE)
    check_operation(ChangeMembers.of(full, [], {}).to_wire())
    check_operation(ChangeMembers.of({}, list(full), {}).to_wire())
    check_operation(ChangeMembers.of({"b": f"inproc://{'x' * (ADDRESS_MAX - len('inproc://'))}"}, ["a"], {"c": "localhost"}).to_wire())
    check_operation(ChangeMembers(promote=("x" * 64,)).to_wire())


def test_a_namespace_has_none_of_them(replica: Replica) -> None:
    assert {"change_members", "promote", "transfer_leadership"} <= {*CALLS}
    below = replica.namespace("app/")
    assert [name for name in CALLS if hasattr(below, name)] == []


def test_members_and_clients_have_the_same_ones() -> None:
    for kind in (replkv.Replica, replkv.AsyncReplica, replkv.Client, replkv.AsyncClient):
        for name in CALLS:
            assert getattr(kind, name) is getattr(Administration, name)


def test_a_change_that_is_decided_and_waits_says_so_and_can_be_taken_back(tmp_path: Path) -> None:
    with Replica("a", data_dir=tmp_path / "a", listen="inproc://administration-a") as replica:
        replica.change_members(add={"b": "inproc://administration-b"})  # it is a learner that is expected: nobody has to wait for it
        assert [(member.name, member.learner, member.healthy) for member in replica.members()] == [("a", False, True), ("b", True, False)]
        with pytest.raises(MemberExists, match="inproc://administration-b"):
            replica.change_members(add={"b": "inproc://elsewhere"})
        replica.change_members(remove=["a"])  # it goes when b has come
        with pytest.raises(MembershipRefused, match="no member would be left to vote"):
            replica.change_members(remove=["b"])
        replica.put("still", "written")
        replica.change_members(add={"a": "inproc://administration-a"}, remove=["b"])
        assert [member.name for member in replica.members()] == ["a"]


def test_refusals_are_typed_and_change_nothing(replica: Replica) -> None:
    with pytest.raises(MemberNotFound, match=re.escape("there is no member x: members() lists those there are")):
        replica.change_members(remove=["x"])
    with pytest.raises(MemberNotFound):
        replica.promote("x")
    with pytest.raises(MembershipRefused):
        replica.change_members(remove=["a"])
    with pytest.raises(MembershipRefused):
        replica.change_members(learners={"a": HERE})
    replica.promote("a")
    assert [(member.name, member.learner) for member in replica.members()] == [("a", False)]


def test_where_it_can_not_be_carried_out_in_time_it_is_said_that_it_is_decided(replica: Replica, monkeypatch: pytest.MonkeyPatch) -> None:
    replica.wait_ready()
    monkeypatch.setattr(Membership, "steer", lambda *_: None)
    with pytest.raises(WaitTimeout, match="the change is decided, and goes on"):
        replica.change_members(add={"b": "inproc://b"}, timeout=0.2)
    monkeypatch.undo()
    replica.change_members(remove=["b"])
