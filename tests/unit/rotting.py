"""Clusters of Raft values whose disks lose parts of their logs, for tests of ``caution.py``."""

from __future__ import annotations

import random
from functools import partial
from typing import TYPE_CHECKING

from raft_harness import Cluster, Member, SimDisk, configuration

from replkv.messages import UNKNOWN, Entry, HardState, Position, SnapshotMeta

if TYPE_CHECKING:
    from replkv.messages import RaftMessage
    from replkv.raft import Raft


class Rotting(Cluster):
    """A cluster in which fewer than half of the disks are damaged at a time.

    Messages come in any order, late, twice or never; but none reaches another life than the one it was sent to, for no connection does.
    """

    def __init__(self, names: str, seed: int) -> None:
        self.past: dict[str, list[tuple[HardState, list[Entry]]]] = {name: [] for name in names}  # of each disk, since it was last damaged
        self.had: dict[str, set[tuple[int, int]]] = {}  # before a loss
        self.damaged: dict[str, int] = {}  # name -> the life in which that happened
        self.healed = 0
        rng = random.Random(seed)
        super().__init__(names, seed, loss=rng.choice([0, 0.1]), delay=rng.choice([0.005, 0.1, 1.0]), slow_disk=rng.choice([0, 0.05]))

    # -- what differs from other clusters ---------------------------------------------------------------------------------------------

    def send(self, sender: str, to: str, message: RaftMessage) -> None:
        life = self.members[to].life
        for _ in range(1 + (self.rng.random() < 0.1)):
            if self.rng.random() >= self.loss and (sender, to) not in self.cut:
                self.at(self.rng.expovariate(1 / self.delay), partial(self.deliver_to, life, sender, to, message))

    def deliver_to(self, life: int, sender: str, to: str, message: RaftMessage) -> None:
        if self.members[to].life == life:
            self.deliver(sender, to, message)

    def check(self, member: Member) -> None:
        super().check(member)
        past, state = self.past[member.name], (member.disk.hard_state, list(member.disk.entries))
        if not past or past[-1] != state:
            past.append(state)
        raft, damaged_in = member.raft, self.damaged.get(member.name, member.life)
        if raft is not None and damaged_in < member.life and raft._caution is None:
            del self.damaged[member.name]
            self.healed += 1

    def holds(self, member: Member, index: int, term: int) -> bool:
        return super().holds(member, index, term) or (index, term) in self.had.get(member.name, ())

    def judges_match(self, name: str) -> bool:
        return name not in self.had  # a leader hears of the loss in its own time

    # -- damage -------------------------------------------------------------------------------------------------------------------------

    def damage(self, name: str) -> None:
        """Stop a member and let its disk lose a part, unless too many are damaged already; what is left is what a salvage could leave."""
        if 2 * len({*self.damaged, name}) >= len(self.members):
            return
        member = self.members[name]
        if member.raft is not None:
            self.crash(name)
        self.damaged[name] = member.life
        self.had.setdefault(name, set()).update((entry.index, entry.term) for entry in member.disk.entries)
        hard_state, entries = self.rng.choice(self.past[name][-10:] or [(member.disk.hard_state, member.disk.entries)])
        if self.rng.random() < 0.5:
            member.disk.floor, member.disk.hard_state = UNKNOWN, hard_state
            self.promised[name] = hard_state
        else:
            member.disk.floor = max(member.disk.end, member.disk.floor)
        self.leave(member.disk, entries)
        self.past[name] = []

    def leave(self, disk: SimDisk, entries: list[Entry]) -> None:
        """Leave some of what a log held once, and perhaps no snapshot."""
        if disk.snapshot is not None and (self.rng.random() < 0.3 or disk.hard_state.term < disk.snapshot.term):
            disk.snapshot, disk.time, entries = None, 0, []
        base, floor = disk.snapshot.index if disk.snapshot else 0, disk.floor
        left = [entry for entry in entries if base < entry.index <= floor.index and entry.term <= floor.term]
        disk.entries = left[: self.rng.choice((len(left), max(0, len(left) - 1), self.rng.randint(0, len(left))))]
        if disk.entries and disk.entries[0].index != base + 1:
            disk.entries = []
        if not disk.entries and disk.snapshot is None:  # all that is left is who the others are
            disk.snapshot = SnapshotMeta(0, 0, configuration(*self.members))
        assert Position(0, 0) <= disk.end <= floor

    # -- plays --------------------------------------------------------------------------------------------------------------------------

    def play(self, acts: int, pauses: tuple[float, ...]) -> None:
        """Let anything happen for a while; then end all faults, whereupon whatever was damaged must be healed by the others."""
        self.run(3)
        for _ in range(acts):
            self.act(self.members[self.rng.choice(sorted(self.members))])
            self.run(self.rng.choice(pauses))
        self.recover()

    def act(self, member: Member) -> None:
        leader, choice = self.leader, self.rng.random()
        if member.raft is None:
            self.start(member.name)
        elif choice < 0.2:
            self.damage(member.name)
        elif choice < 0.3:
            self.crash(member.name)
        elif choice < 0.4:
            self.isolate(member.name)
        elif choice < 0.5:
            self.heal()
        elif choice < 0.55:
            self.snapshot(member.name, self.rng.randint(0, 2))
        elif leader is not None:
            self.act_on(leader, choice)

    def act_on(self, leader: Raft, choice: float) -> None:
        if choice < 0.6:
            self.damage(leader.name)
        elif choice < 0.75 and len(leader.peers) > 1:
            self.ambush(leader)
        else:
            for _ in range(self.rng.randint(1, 4)):
                self.propose(leader.name, str(self.rng.random()).encode())

    def ambush(self, leader: Raft) -> None:
        """Let somebody fall behind, another one acknowledge and then lose what it acknowledged, and the leader be gone."""
        behind, witness = self.rng.sample(sorted(leader.peers), 2)
        self.isolate(behind)
        self.propose(leader.name, str(self.rng.random()).encode())
        self.run(self.rng.choice((0.01, 0.05, 0.3)))
        self.damage(witness)
        (self.crash if self.rng.random() < 0.5 else self.isolate)(leader.name)
        if self.members[witness].raft is None:
            self.start(witness)
        self.cut = {pair for pair in self.cut if behind not in pair or leader.name in pair}
        self.run(self.rng.choice((0.5, 2.0, 4.0)))

    def recover(self) -> None:
        self.loss, self.delay, self.slow_disk = 0, 0.003, 0
        for name, member in self.members.items():
            if member.raft is None:
                self.start(name)
        self.heal()
        self.run(12)
        leader = self.leader
        assert leader is not None, "no leader although everything has healed"
        self.propose(leader.name, b"last")
        self.run(2)
        for member in self.members.values():
            assert member.raft is not None
            assert (member.raft._caution, member.applied) == (None, self.best_commit)
        assert self.best_commit == leader.last_index
