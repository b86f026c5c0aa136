"""``founding.py`` and what the node makes of it: a cluster is founded once, by all, or not at all."""

from __future__ import annotations

import pytest
from fake_network import FakeCluster

from replkv import codec
from replkv.codec import DecodeError
from replkv.config import Settings
from replkv.disk import MemoryDisk
from replkv.errors import WrongCluster
from replkv.founding import founding_entry, is_for
from replkv.messages import Entry, EntryKind, Found, Identity

CLUSTER = b"c" * 16
INCARNATIONS = {"b": 2, "a": 1, "c": 3}


def clusters(cluster: FakeCluster) -> set[bytes]:
    return {node.links.cluster for node in cluster.nodes.values()}


def test_the_first_entry_names_cluster_founders_and_settings() -> None:
    entry = founding_entry(CLUSTER, INCARNATIONS, Settings(max_txn_ops=7))
    founding = codec.decode_founding(entry.payload)
    assert (entry.index, entry.term, entry.kind, entry.time) == (1, 1, EntryKind.FOUNDING, 0)
    assert founding.cluster == CLUSTER
    assert founding.configuration.voters == ("a", "b", "c")
    assert founding.configuration.members == INCARNATIONS
    assert Settings.from_wire(founding.settings) == Settings(max_txn_ops=7)


def test_the_same_founders_in_any_order_make_the_same_entry() -> None:
    shuffled = dict(sorted(INCARNATIONS.items(), reverse=True))
    assert founding_entry(CLUSTER, INCARNATIONS, Settings()) == founding_entry(CLUSTER, shuffled, Settings())


@pytest.mark.parametrize(("name", "incarnation", "meant"), [("a", 1, True), ("a", 9, False), ("z", 1, False), ("b", 1, False)])
def test_only_the_very_members_it_names_take_it(name: str, incarnation: int, meant: bool) -> None:
    assert is_for(founding_entry(CLUSTER, INCARNATIONS, Settings()), Identity(name, incarnation)) is meant


@pytest.mark.parametrize(
    "entry",
    [
        codec.make_entry(2, 1, EntryKind.FOUNDING, 0, founding_entry(CLUSTER, INCARNATIONS, Settings()).payload),
        codec.make_entry(1, 1, EntryKind.BLOCK, 0, founding_entry(CLUSTER, INCARNATIONS, Settings()).payload),
        codec.make_entry(1, 1, EntryKind.FOUNDING, 0, b""),
        codec.make_entry(1, 1, EntryKind.FOUNDING, 0, b"\x93\x01\x02\x03"),
    ],
)
def test_what_is_no_founding_entry_is_an_error(entry: Entry) -> None:
    with pytest.raises(DecodeError):
        is_for(entry, Identity("a", 1))


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
    for _ in range(500):
        cluster.turn()
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


def test_a_founder_whose_directory_was_emptied_after_the_founding_takes_no_part() -> None:
    cluster = FakeCluster()
    cluster.run(cluster.leader)
    cluster.crash("c")
    cluster.disks["c"] = MemoryDisk()
    cluster.may_fail.add("c")
    wiped = cluster.start("c")
    cluster.run(lambda: wiped.stopped)
    assert wiped.raft is None
    assert isinstance(wiped.failure, WrongCluster)
    assert "the data directory of c was replaced" in str(wiped.failure)
    cluster.crash("c")
    cluster.crash("b")
    assert cluster.nodes["a"].raft is not None
    for _ in range(500):
        cluster.turn()
    assert cluster.nodes["a"].raft.leader is None, "one of three decides nothing, whoever answers under the third name"


def test_a_majority_that_was_emptied_founds_no_second_cluster() -> None:
    cluster = FakeCluster()
    cluster.run(cluster.leader)
    for name in "ab":
        cluster.crash(name)
        cluster.disks[name] = MemoryDisk()
    for name in "ab":
        cluster.start(name)
    for _ in range(1000):
        cluster.turn()
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
