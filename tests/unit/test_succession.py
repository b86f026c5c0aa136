"""Who is to lead next: callers on any member, what is in the way, closing, and priorities; whole clusters in virtual time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

import pytest
from attrs import evolve
from fake_network import FakeCluster

from replkv import Closed, MemberNotFound, MembershipRefused, Put, WaitTimeout, codec
from replkv.links import Links
from replkv.member_ops import ChangeMembers
from replkv.messages import HandOver, TimeoutNow
from replkv.proposals import Call, OwnCall
from replkv.testing import AsyncCluster, Cluster

TIMEOUT = 1.5
"""The election timeout."""


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    with Cluster(seed=5) as made:
        yield made


def followers(cluster: Cluster) -> list[str]:
    return [name for name in cluster.members if name != leader(cluster)]


def leader(cluster: Cluster) -> str:
    return cluster.wait_for_leader().name


def give_priority(cluster: Cluster, **priorities: int) -> None:
    """Restart members with a priority each, the others with none."""
    inner = cluster._world
    before = inner.scenario
    for name, priority in priorities.items():
        inner.scenario = evolve(before, config=evolve(before.config, priority=priority))
        cluster.restart(name)
        cluster[name].wait_ready()
    inner.scenario = before


# -- callers -----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("asks_leader", [True, False])
def test_leadership_goes_where_a_caller_wants_it(cluster: Cluster, asks_leader: bool) -> None:
    first, heir, other = cluster.wait_for_leader(), *followers(cluster)
    asked = first if asks_leader else cluster[other]
    begun, term = cluster.now, asked.status().raft_term
    asked.transfer_leadership(heir)
    assert cluster.now - begun < 0.1
    assert asked.status().raft_leader == heir == leader(cluster)
    assert cluster[heir].status().raft_term == term + 1
    assert cluster[other].put("key", "value").revision == 2


def test_the_heir_itself_can_be_asked(cluster: Cluster) -> None:
    heir = followers(cluster)[1]
    cluster[heir].transfer_leadership(heir)
    assert cluster[heir].status().state == "leader"


@pytest.mark.parametrize("asks_leader", [True, False])
def test_without_a_name_anybody_else_takes_over(cluster: Cluster, asks_leader: bool) -> None:
    first = leader(cluster)
    cluster[first if asks_leader else followers(cluster)[0]].transfer_leadership()
    assert leader(cluster) != first


def test_who_leads_already_goes_on_at_once(cluster: Cluster) -> None:
    first, last = cluster.wait_for_leader(), cluster[followers(cluster)[0]]
    before, now = first.status(), cluster.now
    for asked in (first, last):
        asked.transfer_leadership(first.name, timeout=0)
    assert cluster.now - now < 0.01
    assert first.status().last_index == before.last_index
    assert first.status().raft_term == before.raft_term


def test_a_new_leader_is_all_that_a_transfer_leaves_in_the_log(cluster: Cluster) -> None:
    before = cluster["a"].status().last_index
    for name in (*followers(cluster), leader(cluster)):
        cluster["a"].transfer_leadership(name)
        cluster["a"].transfer_leadership(name)
    cluster.advance(1.0)
    assert cluster["a"].status().last_index == before + 3


@pytest.mark.parametrize(("name", "error"), [(5, TypeError), ("", ValueError), ("no name", ValueError), (b"b", TypeError)])
def test_what_is_no_name_is_refused_before_anything_is_sent(cluster: Cluster, name: Any, error: type[Exception]) -> None:
    with pytest.raises(error):
        cluster["a"].transfer_leadership(name)


@pytest.mark.parametrize("asked", ["a", "b", "c"])
def test_who_is_no_voter_can_not_lead(cluster: Cluster, asked: str) -> None:
    with pytest.raises(MemberNotFound, match="no member d; those that can lead are a, b, c"):
        cluster[asked].transfer_leadership("d", timeout=1)
    cluster["a"].change_members(learners={"e": "127.0.0.1:7005"})
    cluster[asked].get("key")
    with pytest.raises(MemberNotFound, match=r"e is a learner and can't lead: give it a vote with promote\(\) first"):
        cluster[asked].transfer_leadership("e", timeout=1)


def test_who_is_alone_can_not_hand_over() -> None:
    with Cluster(1) as cluster:
        cluster["a"].transfer_leadership("a")
        with pytest.raises(MembershipRefused, match="there is nobody to hand over to: a is the only member that has a vote"):
            cluster["a"].transfer_leadership()


# -- what is in the way ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("asks_leader", [True, False])
def test_one_that_can_not_be_reached_gets_no_offer_and_writes_go_on(cluster: Cluster, asks_leader: bool) -> None:
    first, (gone, other) = leader(cluster), followers(cluster)
    cluster.isolate(gone)
    cluster.advance(4.0)
    asked, done = cluster[first if asks_leader else other], []
    for moment in range(1, 5):
        cluster.after(moment / 4, lambda: done.append(cluster[other].put("key", "value", timeout=0.2)))
    text = f"{asked.name}: leadership was not handed over to {gone} in time, {first} still leads.*; {gone} can't be reached; nothing else"
    with pytest.raises(WaitTimeout, match=text):
        asked.transfer_leadership(gone, timeout=2)
    assert len(done) == 4
    assert leader(cluster) == first
    assert asked._embedded.trouble.count("reached") == 1  # that of the links: nobody waits for the transfer any more
    cluster.heal()
    asked.transfer_leadership(gone)
    assert leader(cluster) == gone


def test_an_heir_that_is_removed_while_a_follower_asks_for_it_stops_nobody() -> None:
    """The leader went on offering its place to it for a moment, and stopped: it was no follower of its any more."""
    cluster = FakeCluster()
    cluster.run(lambda: all(node.ready for node in cluster.nodes.values()))
    leads = cluster.leader() or ""
    asks, heir = sorted({*"abc"} - {leads})
    cluster.crash(heir)
    cluster.rest(300)
    ended: list[Call] = []
    cluster.nodes[asks].wish_for_leader(OwnCall(None, ended.append), heir)
    cluster.run(lambda: cluster.nodes[asks].succession.hindrance)
    cluster.nodes[asks]._submit_own(codec.pack(ChangeMembers(remove=(heir,)).to_wire()), lambda _: None)
    cluster.run(lambda: ended)
    assert isinstance(ended[0].error, MemberNotFound)
    cluster.run(lambda: all(node.machine.configuration.voters == tuple(sorted((asks, leads))) for node in cluster.nodes.values()))
    cluster.rest(50)


def test_one_that_lacks_much_of_the_log_gets_it_first(cluster: Cluster) -> None:
    first, (behind, other) = cluster.wait_for_leader(), followers(cluster)
    cluster.isolate(behind)
    for number in range(200):
        first.put("key", str(number))
    with pytest.raises(WaitTimeout, match=rf"{behind} (lacks 2\d\d entries|can't be reached)"):
        cluster[other].transfer_leadership(behind, timeout=1.0)
    cluster.heal()
    cluster[other].transfer_leadership(behind)
    found = cluster[behind].get("key")
    assert found is not None
    assert found.text == "199"


def test_one_with_a_full_disk_gets_no_offer(cluster: Cluster) -> None:
    first, (full, _) = cluster.wait_for_leader(), followers(cluster)
    first._embedded.node.space._full_until[full] = float("inf")
    with pytest.raises(WaitTimeout, match=f"the disk of {full} is full"):
        first.transfer_leadership(full, timeout=2)
    first.transfer_leadership()
    assert leader(cluster) not in (full, first.name)


def lose(monkeypatch: pytest.MonkeyPatch, kind: type, is_lost: Callable[[], bool]) -> list[Any]:
    """Have messages of a kind get lost; return the list of those that were."""
    send, lost = Links.send, list[Any]()

    def lossy(links: Links, peer: str, message: Any) -> bool:
        if isinstance(message, kind) and is_lost():
            lost.append(message)
            return True
        return send(links, peer, message)

    monkeypatch.setattr(Links, "send", lossy)
    return lost


def test_a_follower_asks_again_until_the_leader_hears_it(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    asked, heir = followers(cluster)
    lost = lose(monkeypatch, HandOver, lambda: len(lost) < 3)
    cluster[asked].transfer_leadership(heir)
    assert leader(cluster) == heir
    assert lost == [HandOver(heir)] * 3


def test_an_offer_that_is_lost_is_made_again_and_writes_have_their_turn_in_between(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, (heir, other) = cluster.wait_for_leader(), followers(cluster)
    until, done = cluster.now + TIMEOUT, []
    lost = lose(monkeypatch, TimeoutNow, lambda: cluster.now < until)
    cluster.after(1.5 * TIMEOUT, lambda: done.append(cluster[other].put("key", "value", timeout=0.3)))
    first.transfer_leadership(heir)
    assert lost
    assert done
    assert leader(cluster) == heir


def test_a_call_goes_on_with_the_next_leader_when_the_one_it_asked_is_killed(cluster: Cluster) -> None:
    first, (asked, heir) = leader(cluster), followers(cluster)
    cluster.isolate(first)
    cluster.after(0.5, lambda: cluster.kill(first))
    cluster[asked].transfer_leadership(heir, timeout=20)
    assert leader(cluster) == heir


def test_without_a_leader_the_wait_ends_in_time(cluster: Cluster) -> None:
    cluster.kill("b")
    cluster.kill("c")
    cluster.advance(5.0)
    with pytest.raises(WaitTimeout, match="not handed over to b in time, no leader is known; not reachable: b .*c"):
        cluster["a"].transfer_leadership("b", timeout=1)


def test_who_waits_at_a_member_that_ends_is_told(cluster: Cluster) -> None:
    first, (gone, other) = leader(cluster), followers(cluster)
    cluster.isolate(gone)
    cluster.after(1.0, lambda: cluster.kill(other))
    with pytest.raises(Closed):
        cluster[other].transfer_leadership(gone, timeout=30)
    assert cluster[first]._embedded.node.succession._wishes == []


def test_a_cancelled_call_leaves_nothing_behind() -> None:
    cluster = AsyncCluster(seed=5)

    async def main() -> None:
        first = await cluster.wait_for_leader()
        gone, other = [name for name in cluster.members if name != first.name]
        cluster.isolate(gone)
        node = cluster[other]._embedded.node
        task = asyncio.ensure_future(cluster[other].transfer_leadership(gone))
        await asyncio.sleep(1.0)
        assert len(node.succession._wishes) == 1
        assert node.succession.hindrance
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert node.succession._wishes == []
        await asyncio.sleep(1.0)
        assert not node.succession.hindrance
        await cluster[other].transfer_leadership(other)
        assert cluster[other].status().state == "leader"

    cluster.run(main())
    cluster.close()


# -- under load, and at the end ----------------------------------------------------------------------------------------------------


def hand_over(cluster: Cluster) -> None:
    cluster.wait_for_leader().transfer_leadership()


def close(cluster: Cluster) -> None:
    cluster.wait_for_leader().close()


@pytest.mark.parametrize("change", [hand_over, close])
@pytest.mark.parametrize("seed", range(5))
def test_no_write_fails_and_the_pause_is_short_when_leadership_is_handed_over(seed: int, change: Callable[[Cluster], None]) -> None:
    with Cluster(seed=seed) as cluster:
        first, writers, answered = leader(cluster), followers(cluster), []
        futures = []

        def write() -> None:
            for name in writers:
                future = cluster[name].submit(Put("key", "value"))
                future.add_done_callback(lambda _: answered.append(cluster.now))
                futures.append(future)

        begun = cluster.now
        for step in range(200):
            cluster.after(step / 200, write)
        cluster.after(0.3, lambda: change(cluster))
        cluster.advance(2.0)
        assert len(futures) == 400
        assert sorted(future.result().revision for future in futures) == list(range(2, 402))
        assert leader(cluster) != first
        moments = sorted(moment for moment in answered if moment < begun + 1.0)
        assert max(after - before for before, after in pairwise(moments)) < 0.1


def test_a_leader_that_closes_prefers_the_highest_priority() -> None:
    for high in ("b", "d"):
        with Cluster(5, seed=7) as cluster:
            give_priority(cluster, **{high: 3})
            if leader(cluster) == high:
                cluster[high].transfer_leadership()
            cluster.wait_for_leader().close()
            assert leader(cluster) == high


# -- priorities --------------------------------------------------------------------------------------------------------------------


def test_leadership_goes_to_the_member_with_the_highest_priority_and_stays_there() -> None:
    with Cluster(seed=3) as cluster:
        give_priority(cluster, b=1, c=2)
        cluster["a"].transfer_leadership("a")
        cluster.advance(3 * TIMEOUT)
        assert leader(cluster) == "a"
        cluster.advance(7 * TIMEOUT)
        assert leader(cluster) == "c"
        term = cluster["c"].status().raft_term
        cluster.advance(60.0)
        assert (leader(cluster), cluster["c"].status().raft_term) == ("c", term)


def test_equal_priorities_do_nothing() -> None:
    with Cluster(seed=3) as cluster:
        give_priority(cluster, a=2, b=2, c=2)
        before = leader(cluster), cluster["a"].status().raft_term
        cluster.advance(60.0)
        assert (leader(cluster), cluster["a"].status().raft_term) == before


def test_a_member_that_is_away_now_and_then_is_not_made_leader() -> None:
    with Cluster(seed=3) as cluster:
        give_priority(cluster, c=2)
        cluster["a"].transfer_leadership("a")
        term = cluster["a"].status().raft_term
        for _ in range(8):
            cluster.advance(2 * TIMEOUT)
            cluster.kill("c")
            cluster.advance(TIMEOUT)
            cluster.restart("c")
        assert (leader(cluster), cluster["a"].status().raft_term) == ("a", term)


def test_a_member_whose_disk_is_full_is_not_made_leader_for_its_priority() -> None:
    with Cluster(seed=3) as cluster:
        give_priority(cluster, b=1, c=2)
        cluster["a"].transfer_leadership("a")
        for name in ("a", "b"):
            cluster[name]._embedded.node.space._full_until["c"] = float("inf")
        cluster.advance(10 * TIMEOUT)
        assert leader(cluster) == "b"
