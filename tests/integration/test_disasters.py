"""Three processes on loopback, and what is left when they are gone: a backup, or one member's directory."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from cluster import PATIENCE, CallError, Cluster, Member, eventually
from ledger import Load

from replkv import recover_lost_majority, restore


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    (root := tmp_path / "old").mkdir()
    with Cluster(root) as cluster:
        yield cluster.start()


def kill(*members: Member) -> None:
    """End them at the same moment."""
    for member in members:
        member.run.process.kill()
    for member in members:
        member.kill()


def progress(load: Load, writes: int) -> None:
    """Wait until the clients have been told of so many more writes."""
    target = load.count + writes
    eventually(lambda: load.count >= target)


def acknowledged(load: Load) -> dict[str, tuple[str, int]]:
    """What clients have been told by now: value and revision, by key."""
    return {key: told for client in load.clients for key, told in list(client.acknowledged.items())}


def stored(member: Member) -> dict[str, tuple[str, int]]:
    """The clients' puts that there are: value and revision, by key."""
    return {kv[0]: (kv[1], kv[3]) for kv in member.call("scan", prefix="put/")["kvs"]}


def test_a_backup_that_a_follower_takes_under_load_begins_a_new_cluster_with_all_that_was_acknowledged(
    cluster: Cluster, tmp_path: Path
) -> None:
    with Load(cluster) as load:
        progress(load, 300)
        follower = cluster.others(cluster.leader())[0]
        before = acknowledged(load)
        backup = follower.call("backup", str(tmp_path / "backup"))
        progress(load, 300)
        newest = follower.call("revision")
    load.check()
    kill(*cluster)
    with pytest.raises(CallError, match="is there already"):
        cluster["a"].start().call("backup", str(tmp_path / "backup"))
    (root := tmp_path / "new").mkdir()
    with Cluster(root) as new:
        made = restore(backup["path"], new["b"].data_dir, name="b", cluster=new.addresses)
        assert (made.former, made.former_revision) == (backup["cluster"], backup["revision"])
        new.start()
        eventually(lambda: all(member.call("status")["voters"] == ["a", "b", "c"] for member in new))
        found = stored(new["a"])
        assert before.items() <= found.items()
        everything = acknowledged(load)
        assert {key: told for key, told in everything.items() if told[1] <= backup["revision"]}.items() <= found.items()
        assert not {key for key, told in everything.items() if told[1] > backup["revision"]} & set(found)
        assert new["c"].call("put", "first", "write")[0] > newest
        with Load(new) as load:
            progress(load, 100)
            kill(new["b"])
            progress(load, 100)
            new["b"].start().call("wait_ready", PATIENCE)


def test_one_of_three_goes_on_when_the_others_are_lost_and_they_are_fenced_out(cluster: Cluster) -> None:
    with Load(cluster) as load:
        progress(load, 300)
        kill(*cluster)
        told = acknowledged(load)
        survivor, lost, replaced = cluster
        made = recover_lost_majority(survivor.data_dir)
        survivor.start().call("wait_ready", PATIENCE)
    found = stored(survivor)
    assert {key: value for key, value in told.items() if value[1] <= made.former_revision}.items() <= found.items()
    assert all(revision <= made.former_revision or revision > made.revision for _, revision in found.values())
    lost.start()
    shutil.rmtree(replaced.data_dir)
    replaced.start().call("wait_ready", PATIENCE)
    eventually(lambda: survivor.call("status")["voters"] == [survivor.name, replaced.name])
    refused = eventually(lambda: lost.call("failure"))
    assert refused.startswith("WrongCluster")
    assert made.cluster in refused
    assert made.former in refused
    survivor.kill()
    shutil.rmtree(lost.data_dir)
    lost.stop()
    lost.start()
    survivor.start()
    eventually(lambda: survivor.call("status")["voters"] == ["a", "b", "c"])
    assert stored(lost).items() >= found.items()


def test_a_member_restored_for_itself_stays_alone(cluster: Cluster, tmp_path: Path) -> None:
    cluster["a"].call("put", "key", "value")
    backup = cluster["a"].call("backup", str(tmp_path / "backup"))
    kill(*cluster)
    with ExitStack() as stack:
        for name in "ab":
            shutil.rmtree(cluster[name].data_dir)
            restore(backup["path"], cluster[name].data_dir, name=name, cluster=cluster.addresses)
            cluster[name].start()
            stack.callback(cluster[name].stop)
        for name in "ab":
            cluster[name].call("wait_ready", PATIENCE)
            assert cluster[name].call("get", "key")[1] == "value"
            assert cluster[name].call("status")["voters"] == [name]
