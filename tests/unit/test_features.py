"""The feature level: what needs one, how it rises, and who stops where it is too high."""

from __future__ import annotations

import itertools
import struct
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from recipes import FAST

from replkv import Config, Replica, codec, connect, features, ops, wire
from replkv.codec import DecodeError
from replkv.config import Settings
from replkv.errors import Incompatible, LevelTooLow
from replkv.founding import check_founding, founding_entry
from replkv.kv import run
from replkv.machine import Machine
from replkv.messages import EXPECTED, About, Configuration, Entry, EntryKind
from replkv.plans import Write
from replkv.raft import Role
from replkv.testing import Cluster
from replkv.upgrading import Upgrading, supported

TOUCH = 200
"""A command that level 2 will add: it does nothing."""


class Touch:
    """What a caller asks for who wants that."""

    def to_wire(self) -> wire.Raw:
        return (TOUCH, b"k")

    def result(self, raw: wire.Raw) -> str:
        return str(raw[1])


@pytest.fixture
def to_come(monkeypatch: pytest.MonkeyPatch) -> None:
    """This version knows the command, and that it needs level 2."""
    monkeypatch.setitem(features.COMMANDS, TOUCH, 2)
    monkeypatch.setitem(wire._OUTERMOST, TOUCH, (2, wire._is_key))
    monkeypatch.setattr(wire, "_KNOWN", {*wire._KNOWN, TOUCH})
    monkeypatch.setitem(Machine._own, TOUCH, lambda machine, command: (wire.OK, "touched"))


def founded(level: int = 1) -> Machine:
    machine = Machine()
    run(machine.apply(founding_entry(b"c" * 16, {"a": 1}, {}, Settings(), level)))
    return machine


def block(machine: Machine, *commands: wire.Raw, payload: bytes = b"") -> Entry:
    """The next entry, with commands of a session of its own."""
    index = machine.applied + 1
    batch = codec.pack_batch(index << 16, 1, 0, [codec.pack(each) for each in commands])
    packed = codec.encode_block([codec.pack_batch(0, 1, 0, []), batch])
    return codec.make_entry(index, 1, EntryKind.BLOCK, 0, payload or packed)


# -- what needs a level ---------------------------------------------------------------------------------------------------------------


def test_each_command_and_each_kind_of_entry_has_a_level_that_this_version_supports() -> None:
    assert set(features.COMMANDS) == wire._KNOWN
    assert set(features.ENTRIES) == set(EntryKind)
    assert {*features.COMMANDS.values(), *features.ENTRIES.values()} <= {*range(features.FIRST, features.LEVEL + 1)}


def test_a_command_needs_the_level_of_all_that_it_carries_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(features.COMMANDS, wire.ADD, 3)
    nested = ops.Txn(then=[ops.Put("k", "v")], otherwise=[ops.Txn(then=[ops.Add("n", 1)])]).to_wire()
    assert features.level_of(ops.Put("k", "v").to_wire()) == 1
    assert features.level_of(nested) == 3
    assert features.refusal(nested, 3) is None
    refusal = features.refusal(nested, 2)
    assert refusal is not None
    assert (str(refusal), refusal.level) == ("the cluster is at feature level 2, and this needs 3: upgrade all members", 2)


@pytest.mark.parametrize(
    "hostile", [(), 7, (wire.TXN,), (wire.TXN, 1, 2, 3), (wire.TXN, (), ((),), (5,)), (wire.EXPECT, b"k", 1), (b"k",), ((),)]
)
def test_kinds_are_told_of_whatever_comes(hostile: Any) -> None:
    assert set(wire.kinds(hostile)) <= {wire.TXN, wire.EXPECT}


def test_an_unknown_command_is_told_from_one_that_nobody_packs() -> None:
    for newer in ((TOUCH, b"k"), (wire.TXN, (), ((TOUCH, b"k"),), ()), (wire.EXPECT, b"k", 1, (TOUCH, b"k"))):
        with pytest.raises(codec.TooNew, match="a command of the unknown kind 200"):
            wire.check_operation(newer)
    for broken in ((wire.PUT, b"k"), (wire.TXN, (), ((wire.COMPACT, 1),), ()), (b"k",), ()):
        with pytest.raises(DecodeError) as caught:
            wire.check_operation(broken)
        assert not isinstance(caught.value, codec.TooNew)


# -- in the machine -------------------------------------------------------------------------------------------------------------------


def test_the_level_rises_and_never_falls_and_is_a_part_of_the_state(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(features, "LEVEL", 5)
    machine = founded()
    digests = {machine.digest()}
    for asked, becomes in ((1, 1), (3, 3), (2, 3), (5, 5)):
        (_, outcome) = run(machine.apply(block(machine, (wire.LEVEL, asked))))
        assert (outcome.answers, machine.level) == (((wire.OK, becomes),), becomes)
        digests.add(machine.digest())
    assert len(digests) == 5
    assert Machine.load(machine.dump()).level == 5


def test_a_cluster_begins_at_the_level_that_its_founding_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(features, "LEVEL", 4)
    assert founded(4).level == 4
    assert codec.decode_founding(founding_entry(b"c" * 16, {"a": 1}, {}, Settings(), 3).payload).level == 3


TOO_HIGH = "the cluster is at feature level 2, and this version supports 1 only: upgrade this member"


def test_a_level_that_this_version_does_not_support_stops_the_machine_wherever_it_is_met(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as newer:
        newer.setattr(features, "LEVEL", 2)
        dump = list(founded(2).dump())
    machine = founded()
    with pytest.raises(Incompatible, match=TOO_HIGH):
        run(machine.apply(block(machine, (wire.LEVEL, 2))))
    assert machine.level == 1
    with pytest.raises(Incompatible, match=TOO_HIGH):
        Machine.load(dump)
    with pytest.raises(Incompatible, match=TOO_HIGH):
        founded(2)
    with pytest.raises(Incompatible, match=TOO_HIGH):
        check_founding(founding_entry(b"c" * 16, {"a": 1}, {}, Settings(), 2))


@pytest.mark.parametrize("newer", [(TOUCH, b"k"), (wire.TXN, (), ((wire.PUT, b"k", b"v", False), (TOUCH, b"k")), ())])
def test_a_command_of_a_newer_version_stops_the_machine_and_is_not_skipped(newer: wire.Raw) -> None:
    machine = founded()
    with pytest.raises(Incompatible, match="the log has a command of the unknown kind 200: upgrade this member"):
        run(machine.apply(block(machine, newer)))
    assert machine.applied == 1


def test_a_block_or_an_entry_of_a_newer_version_stops_the_machine() -> None:
    machine = founded()
    with pytest.raises(Incompatible, match="entry 2 of the log holds a block in an unknown form: upgrade this member"):
        run(machine.apply(block(machine, payload=b"\x07what comes next")))
    with pytest.raises(codec.TooNew, match="an entry of the unknown kind 9: upgrade this member"):
        codec.decode_entry(struct.pack("<QQBQ", 2, 1, 9, 0) + b"what comes next")


# -- the rise -------------------------------------------------------------------------------------------------------------------------


class Peers:
    """What a leader's links know of its followers: who is connected, with which incarnation, and what it supports."""

    def __init__(self, **levels: tuple[int, int]) -> None:
        self.levels = levels
        self.about = About(level=4)  # of the leader itself

    def about_of(self, peer: str) -> About | None:
        return About(level=self.levels[peer][1]) if peer in self.levels else None

    def incarnation_of(self, peer: str) -> int | None:
        return self.levels[peer][0] if peer in self.levels else None


def proposed(peers: Peers, *, at: int = 1, rounds: int = 1, answered: bool = True, **odd: Any) -> list[int]:
    """The levels a leader of the members a, b and a learner c proposes."""
    members = {"a": 1, "b": 2, "c": 3, "d": EXPECTED}
    configuration = Configuration(("a", "b"), learners=("c", "d"), members=members)
    leader = {"role": Role.LEADER, "can_propose": True, "is_unsettled": False, "others": ("b", "c", "d"), "configuration": configuration}
    found: list[int] = []

    def submit(command: bytes, then: Any) -> None:
        kind, level = codec.unpack(command)
        assert kind == wire.LEVEL
        found.append(level)
        if answered:
            then(None)

    upgrading = Upgrading("a", peers, submit)  # type: ignore[arg-type]
    for _ in range(rounds):
        upgrading.look_around(SimpleNamespace(**{**leader, **odd}), SimpleNamespace(level=at))  # type: ignore[arg-type]
    return found


def test_the_leader_raises_the_level_to_the_lowest_that_all_support() -> None:
    assert proposed(Peers(b=(2, 3), c=(3, 9))) == [3]
    assert proposed(Peers(b=(2, 8), c=(3, 9))) == [4]
    assert proposed(Peers(b=(2, 3), c=(3, 9)), at=3) == []


@pytest.mark.parametrize(
    "peers",
    [
        Peers(b=(2, 4)),  # c is away
        Peers(b=(2, 4), c=(33, 4)),  # another directory has come for c
        Peers(b=(2, 1), c=(3, 4)),  # b is not upgraded
    ],
)
def test_it_does_not_where_a_member_is_not_there_or_does_not_support_it(peers: Peers) -> None:
    assert proposed(peers) == []


@pytest.mark.parametrize("odd", [{"role": Role.FOLLOWER}, {"can_propose": False}, {"is_unsettled": True}])
def test_nobody_raises_it_who_does_not_lead_members_that_are_certain(odd: dict[str, Any]) -> None:
    assert proposed(Peers(b=(2, 4), c=(3, 4)), **odd) == []


def test_a_level_is_proposed_once_until_there_is_an_answer() -> None:
    assert proposed(Peers(b=(2, 4), c=(3, 4)), rounds=3, answered=False) == [4]
    assert proposed(Peers(b=(2, 4), c=(3, 4)), rounds=2) == [4, 4]


def test_founders_begin_with_the_lowest_level_that_all_support() -> None:
    for peers, level in ((Peers(b=(2, 3), c=(3, 9)), 3), (Peers(b=(2, 5), c=(3, 9)), 4), (Peers(b=(2, 5)), 1)):
        assert supported(peers, ("b", "c")) == level  # type: ignore[arg-type]
    assert supported(Peers(), ()) == 4  # type: ignore[arg-type]


@pytest.mark.parametrize("order", [*itertools.permutations("abc")], ids="".join)
def test_in_a_cluster_it_rises_when_the_last_member_is_upgraded_whoever_that_is(
    order: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    def start_again(name: str, level: int) -> None:
        cluster.kill(name)
        with monkeypatch.context() as version:  # what a member supports is known when it starts
            version.setattr(features, "LEVEL", level)
            cluster.restart(name)
        cluster.wait_for_leader().put("by", name)

    first, *_, last = order
    with Cluster(seed=5) as cluster:
        cluster.wait_for_leader()
        monkeypatch.setattr(features, "LEVEL", 2)  # lest anybody stops: it is each member's own that counts
        for name, level in ((order[0], 2), (order[1], 2), (first, 1), (last, 2)):
            start_again(name, level)
            cluster.advance(10)
            assert {member.status().level for member in cluster} == {1}
        start_again(first, 2)
        assert cluster.run_until(lambda: {member.status().level for member in cluster} == {2}, 30)


def test_what_newcomers_have_to_support_rises_in_the_moment_in_which_the_level_does(monkeypatch: pytest.MonkeyPatch) -> None:
    """It was looked at four times a second only: newcomers below the level were let in for a moment."""

    def are_at(level: int) -> bool:
        nodes = [member._running() for member in cluster]
        assert all(node.links.level == node.machine.level for node in nodes if node.machine.level == 2)
        return all(node.machine.level == level for node in nodes)

    monkeypatch.setattr(features, "LEVEL", 2)
    with Cluster(seed=5) as cluster:
        assert cluster.run_until(lambda: are_at(2), 30)


# -- callers --------------------------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("to_come")
def test_what_needs_a_higher_level_is_refused_until_the_cluster_has_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    too_low = "the cluster is at feature level 1, and this needs 2: upgrade all members"
    with Replica("a", data_dir=tmp_path, settings=FAST) as replica, connect(tmp_path, timeout=30) as client:
        with pytest.raises(LevelTooLow, match=too_low):
            replica._run(Write(Touch()), 30)
        with pytest.raises(LevelTooLow, match=too_low):
            client._run(Write(Touch()), 30)  # it does not know the level
        client.put("k", "v")
    monkeypatch.setattr(features, "LEVEL", 2)
    with Replica("a", data_dir=tmp_path, settings=FAST) as replica, connect(tmp_path, timeout=30) as client:
        while replica.status().level < 2:
            replica.add("asked", 1)
        assert (replica._run(Write(Touch()), 30), client._run(Write(Touch()), 30)) == ("touched", "touched")


def test_a_client_that_is_newer_than_the_members_is_told_so_and_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Replica("a", data_dir=tmp_path, settings=FAST), connect(tmp_path, timeout=30) as client:
        client.put("k", "v")
        monkeypatch.setattr(features, "LEVEL", 2)  # the client's alone: the member began before, and its checks don't know the command
        monkeypatch.setitem(features.COMMANDS, TOUCH, 2)
        with pytest.raises(LevelTooLow, match="unknown kind 200 for member a, and the cluster is at feature level 1: upgrade all members"):
            client._run(Write(Touch()), 30)
        assert client.get("k", consistency="local") is not None


def test_a_snapshot_of_a_level_that_is_not_supported_keeps_the_member_from_starting_and_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(features, "LEVEL", 2)
    small = Config(snapshot_bytes=1 << 16)
    with Replica("a", data_dir=tmp_path, settings=FAST, config=small) as replica:
        while not replica.metrics()["snapshots_taken"]:
            replica.put("k", bytes(4096))
        revision = replica.revision
    kept = {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.name != "lock"}
    with monkeypatch.context() as older:
        older.setattr(features, "LEVEL", 1)
        with pytest.raises(Incompatible, match=TOO_HIGH):
            Replica("a", data_dir=tmp_path, settings=FAST, config=small)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.name != "lock"} == kept
    with Replica("a", data_dir=tmp_path, settings=FAST, config=small) as replica:
        replica.wait_ready(30)
        assert (replica.revision, replica.status().level) == (revision, 2)


def test_a_member_stops_at_a_level_that_it_does_not_support_and_goes_on_when_it_is_upgraded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(features, "LEVEL", 2)
    with Replica("a", data_dir=tmp_path, settings=FAST, config=Config(segment_bytes=1 << 20)) as replica:
        replica.put("k", "v")
        assert replica.status().level == 2
    with monkeypatch.context() as older:
        older.setattr(features, "LEVEL", 1)
        with Replica("a", data_dir=tmp_path, settings=FAST) as replica:
            with pytest.raises(Incompatible, match=TOO_HIGH):
                replica.wait_ready(30)
            assert isinstance(replica.failure, Incompatible)
    with Replica("a", data_dir=tmp_path, settings=FAST) as replica:
        found = replica.get("k")
        assert found is not None
        assert (found.text, replica.status().level) == ("v", 2)
