"""Three processes on loopback: leases, watches, compaction, quotas and bounded reads, while processes die, pause and come back."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from cluster import PATIENCE, CallError, Cluster, Member, eventually

TTL = 1.0
ELECTION = 1.5


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    with Cluster(tmp_path) as cluster:
        yield cluster.start()


def refused(member: Member, kind: str, *call: Any, **kw: Any) -> CallError:
    with pytest.raises(CallError) as caught:
        member.call(*call, **kw)
    assert caught.value.kind == kind, caught.value
    return caught.value


def digests(cluster: Cluster) -> set[tuple[int, str]]:
    found = set()
    for member in cluster:
        applied = member.call("status")["applied_index"]
        found.add((applied, member.call("internals")["digest"]))
    return found


# -- leases ------------------------------------------------------------------------------------------------------------------------


def test_a_lease_survives_the_death_of_the_leader_and_its_keys_go_soon_after_its_holder_dies(cluster: Cluster) -> None:
    leader = cluster.leader()
    holder, witness = cluster.others(leader)
    lease = holder.call("hold", TTL)
    holder.call("put", "key", "value", lease=lease)
    witness.call("begin_watch", "key", key="key", start_revision=2)
    leader.kill()
    assert not holder.call("wait_lost", lease, 3 * TTL), "kept alive through the next leader"
    holder.kill()
    leader.start()  # or no majority could let it expire
    died = time.monotonic()
    put, delete = witness.call("events", "key", 2, PATIENCE)
    assert put[:3] == ["put", "key", "value"]
    assert (delete[:3], delete[4]) == (["delete", "key", ""], True)
    assert time.monotonic() - died < TTL + 2 * ELECTION + 1 + PATIENCE / 3, "the bound, and room for processes that start"


def test_a_holder_that_was_suspended_finds_its_lease_lost_when_it_wakes(cluster: Cluster) -> None:
    leader = cluster.leader()
    holder, witness = cluster.others(leader)
    lease = holder.call("hold", TTL)
    holder.call("put", "key", "value", lease=lease)
    witness.call("begin_watch", "key", key="key", kinds=["delete"])
    holder.pause()
    (delete,) = witness.call("events", "key", 1, PATIENCE)
    assert delete[4], "expired"
    holder.resume()
    assert holder.call("lost", lease)
    refused(holder, "LeaseNotFound", "put", "key", "again", lease=lease)


def test_a_suspended_leader_expires_nothing_when_it_wakes(cluster: Cluster) -> None:
    leader = cluster.leader()
    holder = cluster.others(leader)[0]
    lease = holder.call("hold", 2 * ELECTION)
    holder.call("put", "key", "value", lease=lease)
    leader.pause()
    assert not holder.call("wait_lost", lease, 4 * ELECTION)
    leader.resume()
    assert not holder.call("wait_lost", lease, ELECTION)
    for member in cluster:
        assert member.call("get", "key") is not None


# -- watches -----------------------------------------------------------------------------------------------------------------------


def test_a_watch_on_a_follower_misses_nothing_when_the_leader_dies_and_can_be_resumed_elsewhere(cluster: Cluster) -> None:
    leader = cluster.leader()
    first, second = cluster.others(leader)
    first.call("begin_watch", "all", prefix="w/", start_revision=1)
    wanted = leader.call("put_many", [[f"w/{number}", "x"] for number in range(300)])
    leader.kill()
    wanted += second.call("put_many", [[f"w/{number}", "x"] for number in range(200, 500)])
    got = first.call("events", "all", 400, PATIENCE)
    resume = first.call("next_revision", "all")
    second.call("begin_watch", "rest", prefix="w/", start_revision=resume)
    got += second.call("events", "rest", 200, PATIENCE)
    assert sorted(wanted) == [event[3] for event in got]
    assert second.call("events", "rest", 1, 0.0) == []


def test_a_watch_from_the_past_is_complete_on_a_member_that_was_brought_up_by_a_snapshot(tmp_path: Path) -> None:
    config = {"snapshot_bytes": 50_000, "trailing_entries": 4}
    with Cluster(tmp_path, config=config) as cluster:
        cluster.start()
        late = cluster.others(cluster.leader())[0]
        late.call("put", "w/first", "x")
        late.kill()
        others = cluster.others(late)
        revisions: list[int] = []
        while not all(member.call("snapshot") for member in others) or len(revisions) < 1000:
            revisions += others[0].call("put_many", [[f"w/{number}", os.urandom(100).hex()] for number in range(50)])
        late.start()
        late.call("get", "w/first", timeout=PATIENCE)
        assert late.call("snapshot"), "it was brought up by a snapshot"
        late.call("begin_watch", "all", prefix="w/", start_revision=2)
        events = late.call("events", "all", 1 + len(revisions), PATIENCE)
        assert [event[3] for event in events] == [2, *sorted(revisions)]


# -- compaction and quota ----------------------------------------------------------------------------------------------------------


def test_compaction_is_the_same_on_all_members_whoever_asks_for_it(cluster: Cluster) -> None:
    follower = cluster.others(cluster.leader())[0]
    for number in range(50):
        follower.call("put", f"key{number % 5}", str(number))
    follower.call("delete", "key0")
    revision = follower.call("revision")
    follower.call("put", "key1", "last")
    follower.call("compact", revision)
    for member in cluster:
        assert member.call("scan", revision=revision)["count"] == 4
        refused(member, "Compacted", "get", "key1", revision=revision - 1)
        refused(member, "Compacted", "compact", revision)
        refused(member, "FutureRevision", "compact", revision + 1000)
    assert len(eventually(lambda: found if len(found := digests(cluster)) == 1 else None)) == 1


def test_history_is_compacted_by_itself_as_the_settings_say(tmp_path: Path) -> None:
    with Cluster(tmp_path, settings={"compact_revisions": 100}) as cluster:
        cluster.start()
        member = cluster.others(cluster.leader())[0]
        member.call("put_many", [[f"key{number % 7}", "x"] for number in range(500)])
        for member in cluster:
            eventually(partial(_is_compacted, member))
            assert member.call("get", "key1") is not None
        eventually(lambda: len(digests(cluster)) == 1)


def _is_compacted(member: Member) -> bool:
    try:
        member.call("get", "key1", revision=2)
    except CallError as error:
        return error.kind == "Compacted"
    return False


def test_writes_beyond_the_quota_are_refused_while_all_else_goes_on_until_there_is_room(tmp_path: Path) -> None:
    settings = {"max_bytes": 100_000, "compact_age": 0, "compact_revisions": 0, "compact_bytes": 0}
    with Cluster(tmp_path, settings=settings) as cluster:
        cluster.start()
        member = cluster.others(cluster.leader())[0]
        lease = member.call("hold", 60.0)
        for number in range(9):
            member.call("put", f"key{number}", "x" * 10_000)
        error = refused(member, "QuotaExceeded", "put", "key9", "x" * 10_000)
        assert "max_bytes" in error.text
        refused(member, "QuotaExceeded", "put", "key0", "x" * 10_000, lease=lease)
        assert member.call("get", "key0") is not None
        assert member.call("delete", "key0")[0] == 1
        refused(member, "QuotaExceeded", "put", "key0", "x" * 10_000)
        member.call("compact", member.call("revision"))
        member.call("put", "key0", "x" * 10_000)
        assert len(eventually(lambda: found if len(found := digests(cluster)) == 1 else None)) == 1


# -- reads that may be stale -------------------------------------------------------------------------------------------------------


def test_a_local_read_can_be_bounded_by_age_and_by_revision(cluster: Cluster) -> None:
    leader = cluster.leader()
    alone, other = cluster.others(leader)
    revision, _ = other.call("put", "key", "new")
    assert alone.call("get", "key", consistency="local", min_revision=revision)[1] == "new"
    assert alone.call("get", "key", consistency="local", max_staleness=0.5)[1] == "new"
    leader.kill()
    other.kill()
    assert alone.call("get", "key", consistency="local")[1] == "new", "its own state needs nobody"
    error = refused(alone, "TooStale", "get", "key", consistency="local", max_staleness=0.001, timeout=0.3)
    assert "confirmed" in error.text
    assert alone.call("get", "key", consistency="local", max_staleness=3600.0)[1] == "new"
    refused(alone, "TooStale", "get", "key", consistency="local", min_revision=revision + 1, timeout=0.3)
    refused(alone, "NoLeader", "get", "key", timeout=0.3)
