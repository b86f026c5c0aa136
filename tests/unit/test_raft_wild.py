"""Safety without any timing: clocks run as they please, messages arrive in any order, twice or never.

Leases are the only thing that may break here, so they are not judged; everything else must hold.  Short runs, many of them: most bugs
of consensus need few steps in a rare order.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import pytest
from raft_harness import Cluster, Member, configuration

from replkv.raft import Raft, Role

if TYPE_CHECKING:
    from replkv.messages import RaftMessage


@pytest.fixture(autouse=True)
def _short_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have all but a few entries packed."""
    monkeypatch.setattr("replkv.entries.RUN", 3)


class Wild(Cluster):
    """A cluster whose next event is any event at all."""

    def __init__(self, seed: int) -> None:
        rng = random.Random(seed)
        self.bag: list[tuple[str, str, RaftMessage]] = []
        self.clocks: dict[str, float] = {}
        super().__init__(rng.choice(["ab", "abc", "abc", "abcd"]), seed, slow_disk=rng.choice([0, 1.0]))
        self.hasty = rng.choice([0.02, 0.1, 0.3])
        self.changes = rng.random() < 0.5
        self.names = sorted(self.members)

    def clock(self, member: Member) -> float:
        return self.clocks.setdefault(member.name, 10.0)

    def judges_lease(self) -> bool:
        return False

    def send(self, sender: str, to: str, message: RaftMessage) -> None:
        self.bag.append((sender, to, message))

    def step(self) -> None:
        member = self.members[self.rng.choice(self.names)]
        choice = self.rng.random()
        if choice < self.hasty:
            self.clocks[member.name] = self.clock(member) + self.rng.choice([0.1, 0.2, 2.0])
            self.tell(member, lambda raft, now: raft.tick(now))
        elif choice < 0.75:
            self.deliver_any()
        elif choice < 0.8 and self.events:
            self.events.pop(self.rng.randrange(len(self.events)))[2]()
        elif choice < 0.9:
            self.propose(member.name, str(self.rng.random()).encode())
        else:
            self.disturb(member)

    def deliver_any(self) -> None:
        if not self.bag:
            return
        at = self.rng.randrange(len(self.bag))
        sender, to, message = self.bag[at]
        if self.rng.random() < 0.9:
            self.bag[at] = self.bag[-1]
            self.bag.pop()
        if self.rng.random() < 0.9:
            self.deliver(sender, to, message)
        del self.bag[:-60]

    def disturb(self, member: Member) -> None:
        choice = self.rng.random()
        if member.raft is None:
            self.start(member.name)
        elif choice < 0.2:
            self.crash(member.name)
        elif choice < 0.35:
            self.snapshot(member.name, self.rng.randint(0, 2))
        elif choice < 0.6:
            self.read(member.name)
        elif choice < 0.65:
            self.tell(member, offer)
        elif self.changes and member.raft.role is Role.LEADER:
            self.change_somehow(member.raft)

    def change_somehow(self, leader: Raft) -> None:
        current = leader.configuration
        after = set(current.voters) ^ {self.rng.choice(self.names)}
        if current.outgoing:
            new = configuration(*current.voters)
        elif self.rng.random() < 0.5:
            new = configuration(*sorted(after), learners=tuple(sorted(set(self.names) - after)))
        else:
            wanted = sorted(self.rng.sample(self.names, self.rng.randint(1, len(self.names))))
            new = configuration(*wanted, outgoing=current.voters)
        self.change(leader.name, new)


def offer(raft: Raft, now: float) -> None:
    raft.transfer(None, now)


@pytest.mark.parametrize("seed", range(40))
def test_nothing_committed_is_ever_lost_whatever_the_order_of_events(seed: int) -> None:
    wild = Wild(seed)
    for _ in range(600):
        wild.step()
