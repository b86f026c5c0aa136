"""Members that leave for good, by themselves or because others removed them; whole clusters in virtual time."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from functools import partial

import pytest

from replkv import Closed, MembershipRefused, NoLeader, OutcomeUnknown, Put, Removed, WaitTimeout
from replkv.testing import AsyncCluster, Cluster

PATIENCE = 10.0


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    with Cluster(seed=5) as made:
        yield made


def leader(cluster: Cluster) -> str:
    return cluster.wait_for_leader().name


def follower(cluster: Cluster) -> str:
    return next(name for name in cluster.members if name != leader(cluster))


def others(cluster: Cluster, gone: str) -> tuple[str, ...]:
    return tuple(name for name in cluster.members if name != gone)


@pytest.mark.parametrize("who", [leader, follower])
def test_a_member_that_leaves_is_no_member_any_more_and_the_others_go_on(cluster: Cluster, who: Callable[[Cluster], str]) -> None:
    gone = who(cluster)
    rest, begun = others(cluster, gone), cluster.now
    cluster[gone].put("key", "1")
    cluster[gone].leave()
    assert cluster.now - begun < 0.5
    assert cluster[gone].status().state in ("removed", "closed")
    with pytest.raises((Removed, Closed)):
        cluster[gone].get("key")
    assert cluster[rest[0]].put("key", "2").revision == 3
    assert tuple(member.name for member in cluster[rest[1]].members()) == rest
    assert cluster[rest[1]].status().voters == rest


def test_a_leader_that_leaves_hands_over_first(cluster: Cluster) -> None:
    gone = leader(cluster)
    term = cluster[gone].status().raft_term
    cluster[gone].leave()
    assert leader(cluster) != gone
    assert cluster[leader(cluster)].status().raft_term == term + 1


def test_all_but_one_can_leave_and_the_last_one_can_not(cluster: Cluster) -> None:
    for gone in ("a", "b"):
        cluster[gone].leave()
    cluster["c"].put("key", "value")
    with pytest.raises(MembershipRefused, match="no member would be left to vote"):
        cluster["c"].leave()
    assert cluster["c"].put("key", "again").revision == 3


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("who", [leader, follower])
def test_every_write_that_was_begun_before_is_answered_and_none_behind_it_is_done(seed: int, who: Callable[[Cluster], str]) -> None:
    """A write of a member that the cluster has removed would leave its caller in doubt."""
    with Cluster(seed=seed) as cluster:
        gone = who(cluster)
        rest, futures, refused = others(cluster, gone), [], []

        def write(number: int, gone: str = gone) -> None:
            try:
                futures.append((number, cluster[gone].submit(Put(f"key/{number}", "value"))))
            except (Removed, Closed):
                refused.append(number)

        for number in range(300):
            cluster.after(number / 1000, partial(write, number))
        cluster.after(0.1, cluster[gone].leave)
        cluster.advance(2.0)
        done = {number for number, future in futures if future.exception() is None}
        failed = {type(future.exception()) for _, future in futures if future.exception() is not None}
        assert failed <= {Removed, Closed}
        assert refused
        assert {*range(100)} <= done
        stored = cluster[rest[0]].scan(prefix="key/", keys_only=True)
        assert {int(kv.key_text.removeprefix("key/")) for kv in stored} == done


def test_a_member_that_reaches_nobody_goes_on_and_does_what_was_asked_meanwhile(cluster: Cluster) -> None:
    gone, behind = follower(cluster), []
    cluster[gone].put("key", "1")
    cluster.isolate(gone)
    cluster.advance(4.0)  # it has noticed
    cluster.after(0.5, lambda: behind.append(cluster[gone].submit(Put("key", "2"))))
    with pytest.raises(NoLeader):
        cluster[gone].leave(timeout=1.0)
    assert cluster[gone].failure is None
    cluster.heal()
    assert behind[0].result().revision == 3
    assert gone in cluster[gone].status().voters


def test_a_removal_that_was_asked_for_and_not_answered_is_made_when_that_can_be(cluster: Cluster) -> None:
    gone = follower(cluster)
    cluster[gone].put("key", "value")
    cluster.isolate(gone)
    with pytest.raises(OutcomeUnknown):
        cluster[gone].leave(timeout=0.5)
    assert cluster[gone].failure is None
    cluster.heal()
    assert cluster.run_until(lambda: cluster[gone].failure is not None, PATIENCE)
    assert isinstance(cluster[gone].failure, Removed)


def test_who_waits_to_be_relieved_goes_on_and_stops_by_itself_in_the_end(cluster: Cluster) -> None:
    gone = follower(cluster)
    cluster["a"].change_members(add={"d": "127.0.0.1:7004"})  # which does not come
    with pytest.raises(WaitTimeout, match="the change is decided"):
        cluster[gone].leave(timeout=1.0)
    cluster[gone].put("key", "value")
    with pytest.raises(WaitTimeout):
        cluster[gone].leave(timeout=1.0)
    rest = others(cluster, gone)
    cluster[rest[0]].change_members(remove=["d"])
    assert cluster.run_until(lambda: cluster[gone].failure is not None, PATIENCE)
    assert isinstance(cluster[gone].failure, Removed)


def test_a_member_that_others_remove_ends_and_says_so(cluster: Cluster, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    gone = follower(cluster)
    rest = others(cluster, gone)
    watch, lease = cluster[gone].watch(prefix="key"), cluster[gone].lease(10.0)
    cluster[rest[0]].change_members(remove=[gone])
    assert cluster.run_until(lambda: cluster[gone].failure is not None, PATIENCE)
    for call in (lambda: cluster[gone].get("key"), lambda: cluster[gone].put("key", "value"), watch.next):
        with pytest.raises(Removed, match=f"member {gone} was removed from its cluster; an empty directory can join again"):
            call()
    assert lease.lost.is_set()
    assert cluster[gone].status().state == "removed"
    assert "was removed" in cluster[gone].status().failure
    assert [record.levelname for record in caplog.records if f"member {gone} stops" in record.getMessage()] == ["WARNING"]


def test_an_async_member_leaves_as_well() -> None:
    cluster = AsyncCluster(seed=5)

    async def main() -> None:
        gone = await cluster.wait_for_leader()
        await gone.leave()
        assert gone.status().state in ("removed", "closed")
        first = await cluster.wait_for_leader()
        assert first is not gone
        assert len(first.members()) == 2

    cluster.run(main())
    cluster.close()
