"""``founding.py`` and what the node makes of it: a cluster is founded once, by all, or not at all."""

from __future__ import annotations

from typing import Any

import pytest
from fake_network import FakeCluster

from replkv import codec, features
from replkv.codec import DecodeError
from replkv.config import Settings
from replkv.disk import MemoryDisk
from replkv.errors import Incompatible
from replkv.founding import check_founding, founding_entry
from replkv.messages import Configuration, Entry, EntryKind, Found, Founding
from replkv.node import Node
from replkv.raft import Role

CLUSTER = b"c" * 16
INCARNATIONS = {"b": 2, "a": 1, "c": 3}


def clusters(cluster: FakeCluster) -> set[bytes]:
    return {node.links.cluster for node in cluster.nodes.values()}


def founding(settings: Settings | None = None, **configuration: Any) -> Entry:
    """A first entry, the founders' configuration in it as asked for."""
    made = Configuration(**{"voters": ("a", "b", "c"), "members": INCARNATIONS, **configuration})
    payload = codec.encode_founding(Founding(CLUSTER, made, (settings or Settings()).to_wire()))
    return codec.make_entry(1, 1, EntryKind.FOUNDING, 0, payload)


def test_the_first_entry_names_cluster_founders_addresses_and_settings() -> None:
    entry = founding_entry(CLUSTER, INCARNATIONS, {"c": "tcp://c:1", "a": "tcp://a:1", "b": ""}, Settings(max_txn_ops=7))
    made = codec.decode_founding(entry.payload)
    assert (entry.index, entry.term, entry.kind, entry.time) == (1, 1, EntryKind.FOUNDING, 0)
    assert made.cluster == CLUSTER
    assert made.configuration == Configuration(("a", "b", "c"), members=INCARNATIONS, addresses={"a": "tcp://a:1", "c": "tcp://c:1"})
    assert Settings.from_wire(made.settings) == Settings(max_txn_ops=7)
    check_founding(entry)


def test_the_same_founders_in_any_order_make_the_same_entry() -> None:
    addresses = {name: f"tcp://{name}:1" for name in INCARNATIONS}
    shuffled, elsewhere = dict(sorted(INCARNATIONS.items(), reverse=True)), dict(sorted(addresses.items(), reverse=True))
    assert founding_entry(CLUSTER, INCARNATIONS, addresses, Settings()) == founding_entry(CLUSTER, shuffled, elsewhere, Settings())


@pytest.mark.parametrize(
    "entry",
    [
        codec.make_entry(2, 1, EntryKind.FOUNDING, 0, founding().payload),
        codec.make_entry(1, 2, EntryKind.FOUNDING, 0, founding().payload),
        codec.make_entry(1, 1, EntryKind.BLOCK, 0, founding().payload),
        codec.make_entry(1, 1, EntryKind.FOUNDING, 0, b""),
        codec.make_entry(1, 1, EntryKind.FOUNDING, 0, b"\x93\x01\x02\x03"),
        founding(voters=("a", "b")),
        founding(voters=("a", "b"), learners=("c",)),
        founding(outgoing=("a",)),
        founding(voters=("a", "b", "c", "d")),
    ],
)
def test_what_is_no_founding_entry_is_an_error(entry: Entry) -> None:
    with pytest.raises(DecodeError):
        check_founding(entry)


def test_settings_that_this_version_does_not_know_found_nothing() -> None:
    settings = {**Settings().to_wire(), "colour": 5}
    payload = codec.encode_founding(Founding(CLUSTER, Configuration(("a",), members={"a": 1}), settings))
    with pytest.raises(Incompatible):
        check_founding(codec.make_entry(1, 1, EntryKind.FOUNDING, 0, payload))


# -- whole members --------------------------------------------------------------------------------------------------------------------


def test_three_empty_members_found_one_cluster() -> None:
    cluster = FakeCluster()
    cluster.run(cluster.leader)
    (one,) = clusters(cluster)
    assert one != codec.NO_CLUSTER
    cluster.run(lambda: all(node.machine.founding for node in cluster.nodes.values()))
    assert len({repr(node.machine.founding) for node in cluster.nodes.values()}) == 1
    for name, node in cluster.nodes.items():
        assert node.raft is not None
        assert node.raft.configuration.members[name] == node.links.identity.incarnation


def test_nobody_founds_while_one_founder_is_missing() -> None:
    cluster = FakeCluster()
    cluster.crash("c")
    cluster.rest(500)
    assert all(node.raft is None for node in cluster.nodes.values())
    cluster.start("c")
    cluster.run(cluster.leader)
    assert len(clusters(cluster)) == 1


def test_a_founder_whose_first_entry_was_lost_on_the_way_is_told_again() -> None:
    cluster = FakeCluster()
    sender = cluster.network.ends["a"]
    real, lost = sender.send, list[bytes]()

    def lose_the_first(peer: str, frame: bytes) -> bool:
        if peer == "c" and isinstance(codec.decode_frame(frame).message, Found) and not lost:
            lost.append(frame)
            return True
        return real(peer, frame)

    sender.send = lose_the_first  # type: ignore[method-assign]
    cluster.run(lambda: lost)
    cluster.run(cluster.leader, 5.0)
    assert len(clusters(cluster)) == 1


def test_a_founder_that_was_away_when_the_others_began_to_work_joins_them() -> None:
    cluster = FakeCluster()
    cluster.run(lambda: cluster.nodes["a"].raft is not None)
    cluster.crash("c")  # with its directory, in which nothing is but its incarnation
    cluster.run(lambda: cluster.nodes["a"].machine.applied > 1)
    node = cluster.start("c")
    cluster.run(lambda: node.machine.applied > 1, 5.0)
    assert len(clusters(cluster)) == 1


def wipe(cluster: FakeCluster, name: str) -> Node:
    """Start a member anew with an empty directory."""
    cluster.crash(name)
    cluster.disks[name] = MemoryDisk()
    return cluster.start(name)


def test_a_founder_whose_directory_was_emptied_after_the_founding_has_no_vote_until_it_is_let_in() -> None:
    """Its first directory may have promised something, or acknowledged the only other copy of an entry."""
    cluster = FakeCluster()
    cluster.run(cluster.leader)
    cluster.crash("b")
    wiped = wipe(cluster, "c")
    for _ in range(500):
        cluster.turn()
        assert wiped.raft is None, "nobody may let it in: of the three who decide, two are gone"
    rest = cluster.nodes["a"].raft
    assert rest is not None
    assert rest.leader is None, "one of three decides nothing, whoever answers under the third name"
    assert rest.configuration.members["c"] != wiped.links.identity.incarnation


def test_a_founder_whose_directory_was_emptied_comes_back_as_a_new_incarnation() -> None:
    cluster = FakeCluster()
    cluster.run(lambda: all(node.ready for node in cluster.nodes.values()))
    old = cluster.nodes["c"].links.identity.incarnation
    wiped = wipe(cluster, "c")
    new = wiped.links.identity.incarnation
    steps = []

    def is_settled() -> bool:
        decided = cluster.nodes["a"].machine.configuration
        if (step := (decided.voters, decided.learners, decided.members["c"])) not in steps:
            steps.append(step)
        return step == (("a", "b", "c"), (), new)

    cluster.run(is_settled)
    assert old != new
    assert steps == [(("a", "b", "c"), (), old), (("a", "b"), ("c",), new), (("a", "b", "c"), (), new)]
    assert len(clusters(cluster)) == 1
    cluster.run(lambda: wiped.machine.configuration.members.get("c") == new)


def test_a_founding_entry_gives_no_vote_to_another_incarnation_than_it_names() -> None:
    cluster = FakeCluster()
    cluster.run(cluster.leader)
    entry = cluster.nodes["a"].log.founding_entry
    for name in "ab":
        cluster.crash(name)
    wiped = wipe(cluster, "c")
    wiped.membership.told("a", Found(entry), cluster.now)
    assert wiped.raft is not None
    assert wiped.raft.configuration.is_voter("c")
    cluster.rest(1000)
    assert (wiped.raft.term, wiped.raft.role) == (1, Role.FOLLOWER), "it stands for nothing"


@pytest.mark.parametrize("level", [features.LEVEL + 1, features.LEVEL + 7])
def test_who_is_let_into_a_cluster_that_its_version_can_t_live_in_stops_before_it_writes_anything(level: int) -> None:
    cluster = FakeCluster()
    cluster.run(cluster.leader)
    for name in "ab":
        cluster.crash(name)
    wiped = wipe(cluster, "c")
    entry = founding_entry(CLUSTER, INCARNATIONS, {}, Settings(), level)
    with pytest.raises(Incompatible, match=f"level {level}, and this version supports {features.LEVEL} only: upgrade this member"):
        wiped.membership.told("a", Found(entry), cluster.now)
    assert (wiped.raft, wiped.log.last_index) == (None, 0)


def test_a_majority_that_was_emptied_founds_no_second_cluster() -> None:
    cluster = FakeCluster()
    cluster.run(cluster.leader)
    for name in "ab":
        cluster.crash(name)
        cluster.disks[name] = MemoryDisk()
    for name in "ab":
        cluster.start(name)
    cluster.rest(1000)
    assert cluster.nodes["a"].raft is None
    assert cluster.nodes["b"].raft is None


def test_a_founding_entry_that_is_none_is_dropped_and_the_member_lives() -> None:
    cluster = FakeCluster()
    cluster.crash("c")
    cluster.run(lambda: cluster.nodes["a"].links.incarnation_of("b"))
    cluster.nodes["a"].links.send("b", Found(codec.make_entry(1, 1, EntryKind.FOUNDING, 0, b"nonsense")))
    cluster.turn()
    assert cluster.nodes["b"].raft is None
    assert cluster.nodes["b"].failure is None


def test_all_members_restart_into_the_cluster_they_founded() -> None:
    cluster = FakeCluster()
    cluster.run(cluster.leader)
    before = clusters(cluster)
    for name in "abc":
        cluster.crash(name)
    for name in "abc":
        cluster.start(name)
    cluster.run(cluster.leader)
    assert clusters(cluster) == before


def test_a_lone_member_founds_its_cluster_at_once() -> None:
    cluster = FakeCluster("a")
    cluster.turn()
    cluster.run(cluster.leader, 2.0)
    assert cluster.nodes["a"].machine.founding is not None
