"""``notices.py``: how long a leader keeps back the news of a commit, and that nobody is left without it."""

from __future__ import annotations

from math import inf

import pytest
from caller import Caller
from fake_network import FakeCluster, url_of

from replkv import ops
from replkv.member_ops import ChangeMembers
from replkv.messages import NOTICE, Append, Message, TimeoutNow
from replkv.notices import HOLD, RESTS, Notices


class FakeLinks:
    """Keeps what is sent."""

    def __init__(self) -> None:
        self.sent: list[tuple[str, Message]] = []

    def send(self, peer: str, message: Message) -> bool:
        self.sent.append((peer, message))
        return True

    def take(self) -> list[tuple[str, Message]]:
        sent, self.sent = self.sent, []
        return sent


def news(commit: int = 7) -> Append:
    return Append(3, 9, 3, commit, NOTICE, 0, ())


BLOCK = Append(3, 9, 3, 7, 12, 0, ())


@pytest.fixture
def links() -> FakeLinks:
    return FakeLinks()


@pytest.fixture
def notices(links: FakeLinks) -> Notices:
    return Notices(links)  # type: ignore[arg-type]


def keep(notices: Notices, now: float = 0.0, *peers: str, commit: int = 7, urgent: bool = False) -> None:
    notices.keep([(peer, news(commit)) for peer in peers or ("b", "c")], now, urgent=urgent)


def hold_for_nothing(notices: Notices, links: FakeLinks) -> int:
    """Let news be kept back in vain; return how many that follow are told at once."""
    keep(notices)
    assert notices.due == HOLD
    notices.flush()
    at_once = 0
    while notices.due == inf:
        keep(notices)
        if notices.due == 0.0:
            notices.flush()
            at_once += 1
    notices.send("b", BLOCK)  # what is held now does not go in vain, or the next rest would be longer for that
    notices.forget()
    links.take()
    return at_once


def test_news_waits_for_a_block_and_is_told_when_none_comes(notices: Notices, links: FakeLinks) -> None:
    assert notices.due == inf
    keep(notices, 5.0)
    assert notices.due == 5.0 + HOLD
    assert links.take() == []
    notices.flush()
    assert notices.due == inf
    assert links.take() == [("b", news()), ("c", news())]
    notices.flush()
    assert links.take() == []


def test_a_block_carries_the_news_of_its_own_follower_only(notices: Notices, links: FakeLinks) -> None:
    keep(notices)
    notices.send("b", BLOCK)
    assert links.take() == [("b", BLOCK)]
    notices.flush()
    assert links.take() == [("c", news())]


def test_what_is_no_append_is_sent_behind_the_news(notices: Notices, links: FakeLinks) -> None:
    keep(notices)
    notices.send("b", TimeoutNow(3))
    assert links.take() == [("b", news()), ("b", TimeoutNow(3))]
    notices.send("b", TimeoutNow(3))
    assert links.take() == [("b", TimeoutNow(3))]


def test_newer_news_replaces_what_is_kept_back(notices: Notices, links: FakeLinks) -> None:
    keep(notices, 0.0, "b", commit=7)
    keep(notices, 0.001, "b", commit=8)
    notices.flush()
    assert links.take() == [("b", news(8))]


def test_urgent_news_is_due_at_once_and_takes_along_what_was_held(notices: Notices, links: FakeLinks) -> None:
    keep(notices, 1.0, "b")
    keep(notices, 1.001, "c", urgent=True)
    assert notices.due == 1.001
    notices.flush()
    assert links.take() == [("b", news()), ("c", news())]
    keep(notices, 2.0)
    assert notices.due == 2.0 + HOLD, "what somebody waited for was not held for nothing"


def test_news_held_for_nothing_lets_the_next_ones_leave_at_once_for_longer_and_longer(notices: Notices, links: FakeLinks) -> None:
    rests = list[int]()
    while len(rests) < 8:
        keep(notices)
        if notices.due == 0.0:
            rests[-1] += 1
        else:
            rests.append(0)
        notices.flush()
    assert rests[:-1] == [8, 16, 32, 64, 128, 256, 256]
    assert (rests[0], max(rests)) == RESTS


def test_news_that_a_block_carried_begins_the_rests_anew(notices: Notices, links: FakeLinks) -> None:
    assert [hold_for_nothing(notices, links) for _ in range(3)] == [8, 8, 8]


def test_urgent_news_does_not_count_as_a_rest(notices: Notices, links: FakeLinks) -> None:
    keep(notices)
    notices.flush()
    for _ in range(100):
        keep(notices, urgent=True)
        notices.flush()
    at_once = 0
    while not at_once or notices.due == inf:
        keep(notices)
        if notices.due == 0.0:
            notices.flush()
            at_once += 1
    assert at_once == 8


def test_who_leads_no_more_tells_nothing(notices: Notices, links: FakeLinks) -> None:
    keep(notices)
    notices.forget()
    assert notices.due == inf
    notices.flush()
    notices.send("b", TimeoutNow(3))
    assert links.take() == [("b", TimeoutNow(3))]


# -- in a member -------------------------------------------------------------------------------------------------------------------


def test_news_wakes_the_leader_that_keeps_it_back() -> None:
    cluster = FakeCluster()
    cluster.run(cluster.leader)
    leader = cluster.nodes[cluster.leader() or ""]
    cluster.run(lambda: leader.notices.due == inf and leader.deadline > cluster.now)
    call = Caller.of(ops.Put("k", "v"))
    leader.submit(call)
    cluster.run(lambda: call.finished)
    assert leader.notices.due == leader.deadline == pytest.approx(cluster.now + HOLD)
    cluster.turn()
    assert leader.notices.due == inf
    cluster.run(lambda: len({node.published.revision for node in cluster.nodes.values()}) == 1, seconds=0.03)


def test_a_leader_that_is_closed_tells_its_learners_what_it_kept_back() -> None:
    cluster = FakeCluster("a")
    cluster.run(cluster.leader)
    leader, learner = cluster.nodes["a"], cluster.start("x", join="a", learner=True)
    call = Caller.of(ChangeMembers(learners=(("x", url_of("x")),)))
    leader.submit(call)
    cluster.run(lambda: call.finished and learner.ready)
    cluster.rest(100)
    call = Caller.of(ops.Put("k", "v"))
    leader.submit(call)
    cluster.run(lambda: call.finished)
    assert leader.notices.due == pytest.approx(cluster.now + HOLD)
    leader.request_close(0.0)
    leader.turn(0.0)
    assert leader.stopped
    del cluster.nodes["a"]
    cluster.rest(5)
    assert learner.published.revision == leader.published.revision
