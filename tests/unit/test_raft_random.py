"""Whole clusters of Raft values under seeded faults; the harness judges after every step."""

from __future__ import annotations

import random

import pytest
from raft_harness import Cluster, configuration

from replkv.messages import Configuration
from replkv.raft import Raft, Role

PAUSES = (0, 0.001, 0.01, 0.05, 0.2, 0.2, 1.0, 2.0)


@pytest.fixture(autouse=True)
def _short_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have all but a few entries packed."""
    monkeypatch.setattr("replkv.entries.RUN", 3)


class Chaos:
    """One seeded run: a cluster, which faults it meets, and what is asked of it."""

    def __init__(self, seed: int, voters: str, learners: str = "") -> None:
        self.rng = rng = random.Random(seed)
        self.names = voters + learners
        self.cluster = Cluster(
            voters,
            seed,
            learners=learners,
            loss=rng.choice([0, 0.02, 0.1, 0.3]),
            delay=rng.choice([0.001, 0.005, 0.03, 0.1]),
            slow_disk=rng.choice([0, 0.002, 0.05]),
        )
        faults = [self.crash, self.restart_all, self.cut, self.heal, self.snapshot, self.change, self.transfer, self.flap]
        self.actions = [self.write] * 4 + [self.read] * 2 + [fault for fault in faults if rng.random() < 0.7]

    def run(self, steps: int) -> None:
        self.cluster.run(self.rng.choice([0, 2, 3]))
        for _ in range(steps):
            self.rng.choice(self.actions)(self.rng.choice(self.names))
            self.cluster.run(self.rng.choice(PAUSES))

    def write(self, who: str) -> None:
        leader = self.cluster.leader
        for _ in range(self.rng.randint(1, 6)):
            self.cluster.propose(leader.name if leader else who, str(self.rng.random()).encode())

    def read(self, who: str) -> None:
        self.cluster.read(who)

    def crash(self, who: str) -> None:
        if self.cluster.members[who].raft is None:
            self.cluster.start(who)
        else:
            self.cluster.crash(who)

    def restart_all(self, _who: str) -> None:
        for name, member in self.cluster.members.items():
            if member.raft is None:
                self.cluster.start(name)
        self.cluster.heal()

    def cut(self, who: str) -> None:
        choice = self.rng.random()
        if choice < 0.4 and len(self.names) > 1:
            self.cluster.unlink(*self.rng.sample(self.names, 2))
        elif choice < 0.7:
            self.cluster.isolate(*self.rng.sample(self.names, self.rng.randint(1, max(1, len(self.names) // 2))))
        else:
            self.cluster.cut.add((who, self.rng.choice(self.names)))

    def heal(self, _who: str) -> None:
        self.cluster.heal()

    def snapshot(self, who: str) -> None:
        self.cluster.snapshot(who, self.rng.randint(0, 5))

    def change(self, _who: str) -> None:
        if leader := self.cluster.leader:
            self.cluster.change(leader.name, self.other_configuration(leader.configuration))

    def other_configuration(self, current: Configuration) -> Configuration:
        if current.outgoing:
            return configuration(*current.voters, learners=current.learners)
        before = set(current.voters)
        if self.rng.random() < 0.5:
            after = before ^ {self.rng.choice(self.names)}
            return configuration(*sorted(after), learners=tuple(sorted(set(self.names) - after)))
        after = set(self.rng.sample(self.names, self.rng.randint(1, len(self.names))))
        return configuration(*sorted(after), outgoing=tuple(sorted(before)), learners=tuple(sorted(set(self.names) - after - before)))

    def transfer(self, _who: str) -> None:
        def ask(raft: Raft, now: float) -> None:
            raft.transfer(None, now)

        if leader := self.cluster.leader:
            self.cluster.tell(self.cluster.members[leader.name], ask)

    def flap(self, who: str) -> None:
        other = self.rng.choice(self.names)
        self.cluster.tell(self.cluster.members[who], lambda raft, now: raft.disconnected(other, now))
        if self.rng.random() < 0.5:
            self.cluster.tell(self.cluster.members[who], lambda raft, now: raft.connected(other, now))

    def settle(self) -> None:
        """Heal everything: one leader must emerge and everybody catch up."""
        cluster = self.cluster
        cluster.loss, cluster.delay, cluster.slow_disk = 0, 0.003, 0
        self.restart_all("")
        cluster.run(8)
        leader = cluster.leader
        assert leader is not None, "no leader although everything has healed"
        term, before, served = leader.term, cluster.best_commit, cluster.served
        cluster.propose(leader.name, b"last")
        for name in (leader.name, *leader.peers):
            cluster.read(name)
        cluster.run(1)
        assert (leader.term, leader.role) == (term, Role.LEADER)
        assert cluster.best_commit > before
        assert cluster.served > served + len(leader.peers)
        for name, peer in leader.peers.items():
            assert cluster.members[name].applied == cluster.best_commit
            assert not peer.inflight, "F1: nothing in flight when all is quiet"


@pytest.mark.parametrize("seed", range(20))
def test_three_members_keep_every_promise_and_recover(seed: int) -> None:
    chaos = Chaos(seed, "abc")
    chaos.run(50)
    chaos.settle()


@pytest.mark.parametrize("seed", range(100, 115))
def test_five_members_keep_every_promise_and_recover(seed: int) -> None:
    chaos = Chaos(seed, "abcde")
    chaos.run(40)
    chaos.settle()


@pytest.mark.parametrize("seed", range(200, 215))
def test_members_come_and_go_with_learners(seed: int) -> None:
    chaos = Chaos(seed, "ab"[: 1 + seed % 2] + "c", "xy")
    chaos.run(50)
    chaos.settle()


def test_the_same_seed_gives_the_same_history() -> None:
    ends = []
    for _ in range(2):
        chaos = Chaos(5, "abc")
        chaos.run(30)
        ends.append((chaos.cluster.now, chaos.cluster.best_commit, chaos.cluster.counter, chaos.cluster.leaders))
    assert ends[0] == ends[1]
