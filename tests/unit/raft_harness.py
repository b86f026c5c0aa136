"""A cluster of Raft values in memory: a network that loses, repeats and reorders, disks that forget what was not synced, and a judge."""

from __future__ import annotations

import random
from functools import partial
from typing import TYPE_CHECKING

from attrs import Factory, define

from replkv import codec, quorum
from replkv.messages import (
    NOWHERE,
    Append,
    AppendReply,
    Configuration,
    Entry,
    EntryKind,
    Founding,
    HardState,
    Position,
    SnapshotMeta,
    VoteReply,
)
from replkv.raft import Raft, Ready, Restored, Role, Timing
from replkv.raftlog import configuration_in
from replkv.testing.raft_check import check_raft

if TYPE_CHECKING:
    from collections.abc import Callable

    from replkv.messages import RaftMessage

TIMING = Timing(election_timeout=1.5, heartbeat=0.1, promise=0.15)


def configuration(*voters: str, outgoing: tuple[str, ...] = (), learners: tuple[str, ...] = ()) -> Configuration:
    names = sorted({*voters, *outgoing, *learners})
    return Configuration(voters, outgoing, learners, {name: ord(name[0]) for name in names})


def founding(*voters: str, learners: tuple[str, ...] = ()) -> Entry:
    value = Founding(bytes(16), configuration(*voters, learners=learners), {})
    return codec.make_entry(1, 1, EntryKind.FOUNDING, 0, codec.encode_founding(value))


def block(index: int, term: int, payload: bytes = b"", time: int = 0) -> Entry:
    return codec.make_entry(index, term, EntryKind.BLOCK, time, payload)


START = 100.0
"""When the members of hand-made scenes start, on their own clocks."""

AFTER = START + 10.0
"""Late enough for any timeout or promise from the start to be over."""


def raft(
    name: str = "a",
    *entries: Entry,
    term: int = 0,
    vote: str | None = None,
    snapshot: SnapshotMeta | None = None,
    floor: Position = NOWHERE,
) -> Raft:
    """A member with a log, started at ``START``; without entries one of a, b, c, freshly founded."""
    log = entries or (() if snapshot else (founding("a", "b", "c"),))
    newest = max([entry.term for entry in log] + [snapshot.term if snapshot else 0])
    restored = Restored(HardState(max(term, newest), vote), snapshot, log, floor=floor)
    return Raft(name, TIMING, random.Random(1), restored, START)


def do(member: Raft, now: float) -> Ready:
    """Carry out everything a member asks of its disk; return all its effects as one."""
    done = Ready()
    while (ready := member.take()) is not None:
        done.messages += ready.messages + ready.after_sync + ready.notices
        done.hard_state = ready.hard_state or done.hard_state
        done.floor = ready.floor or done.floor
        for kind in ("entries", "after_sync", "committed", "reads", "lost_reads", "snapshots"):
            getattr(done, kind).extend(getattr(ready, kind))
        if ready.entries:
            member.synced(ready.entries[-1].index, ready.entries[-1].term, now)
    check_raft(member)
    return done


def elected(member: Raft, now: float = AFTER) -> Raft:
    """Make a member leader with the votes of all others; its effects are thrown away."""
    member.tick(now)
    do(member, now)
    for pre in (True, False):
        for name in member.configuration.voters:
            member.receive(name, VoteReply(member.term + pre, granted=True, pre=pre), now)
        do(member, now)
    assert member.role is Role.LEADER
    return member


def acknowledge(member: Raft, *names: str, match: int | None = None, now: float = AFTER) -> Ready:
    """Let followers acknowledge the newest round, and the log up to ``match``."""
    for name in names:
        index = member.last_index if match is None else match
        member.receive(name, AppendReply(member.term, member._lead.rounds.current if member._lead else 0, index), now)
    return do(member, now)


@define
class SimDisk:
    """What a member has durably."""

    hard_state: HardState = HardState(1)
    entries: list[Entry] = Factory(list)
    snapshot: SnapshotMeta | None = None
    time: int = 0
    floor: Position = NOWHERE

    def write(self, hard_state: HardState | None, entries: list[Entry], floor: Position | None = None) -> None:
        self.hard_state = hard_state or self.hard_state
        if entries:
            self.entries = [entry for entry in self.entries if entry.index < entries[0].index] + entries
        self.floor = self.floor if floor is None else floor
        if self.end >= self.floor:
            self.floor = NOWHERE

    def restored(self) -> Restored:
        return Restored(self.hard_state, self.snapshot, tuple(self.entries), time=self.time, floor=self.floor)

    @property
    def end(self) -> Position:
        base = Position(self.snapshot.term, self.snapshot.index) if self.snapshot else NOWHERE
        return max(base, Position(self.entries[-1].term, self.entries[-1].index)) if self.entries else base

    @property
    def last_index(self) -> int:
        return max(self.entries[-1].index if self.entries else 0, self.snapshot.index if self.snapshot else 0)

    def holds(self, index: int, term: int) -> bool:
        if self.snapshot and index <= self.snapshot.index:
            return True
        return any((entry.index, entry.term) == (index, term) for entry in self.entries)


@define(eq=False)
class Member:
    name: str
    disk: SimDisk
    raft: Raft | None = None
    busy: Ready | None = None  # waits for its disk, and takes nothing in meanwhile
    inbox: list[Callable[[], None]] = Factory(list)
    applied: int = 0
    life: int = 0
    offset: float = 0.0
    lead_log: tuple[int, list[Entry]] = (0, [])


class Cluster:
    """Drive members through seeded faults and judge after every step."""

    def __init__(
        self, names: str, seed: int, *, loss: float = 0.0, delay: float = 0.005, slow_disk: float = 0.0, learners: str = ""
    ) -> None:
        self.rng = random.Random(seed)
        self.now = 10.0
        self.loss, self.delay, self.slow_disk = loss, delay, slow_disk
        first = founding(*names, learners=tuple(learners))
        self.members = {name: Member(name, SimDisk(HardState(1), [first])) for name in names + learners}
        self.events: list[tuple[float, int, Callable[[], None]]] = []
        self.counter = 0
        self.cut: set[tuple[str, str]] = set()
        self.leaders: dict[int, str] = {}
        self.committed: dict[int, Entry] = {1: first}
        self.commit_terms: dict[int, int] = {}
        self.best_commit = 0
        self.reads: dict[tuple[str, int], int] = {}
        self.served = 0
        self.next_read = 0
        self.promised: dict[str, HardState] = {}
        self.seen: dict[tuple[int, int], Entry] = {}
        for name in self.members:
            self.start(name)

    # -- life -------------------------------------------------------------------------------------------------------------------------

    def clock(self, member: Member) -> float:
        return self.now + member.offset

    def start(self, name: str) -> None:
        member = self.members[name]
        member.offset = self.rng.uniform(0, 5)
        member.life += 1
        member.busy, member.inbox = None, []
        member.applied = member.disk.snapshot.index if member.disk.snapshot else 0
        member.raft = Raft(name, TIMING, self.rng, member.disk.restored(), self.clock(member))
        self.carry_out(member)

    def crash(self, name: str) -> None:
        member = self.members[name]
        if member.busy:  # the disk may have got any prefix of the flush, the hard state first
            kept = self.rng.randint(-1, len(member.busy.entries))
            if kept >= 0:
                member.disk.write(member.busy.hard_state, member.busy.entries[:kept], member.busy.floor)
        member.raft, member.busy = None, None
        member.life += 1
        for other in self.members.values():
            self.tell(other, lambda raft, now: raft.disconnected(name, now))

    def tell(self, member: Member, action: Callable[[Raft, float], None]) -> None:
        """Let something happen to a member; while it waits for its disk it happens later."""
        life = member.life

        def happen() -> None:
            if member.life == life and member.raft is not None:
                action(member.raft, self.clock(member))
                self.carry_out(member)

        if member.raft is not None and member.busy is None:
            happen()
        elif member.raft is not None:
            member.inbox.append(happen)

    def carry_out(self, member: Member) -> None:
        raft = member.raft
        while raft is not None and member.busy is None and (ready := raft.take()) is not None:
            self.check(member)
            for to, message in ready.messages:
                self.send(member.name, to, message)
            slow = self.slow_disk and (ready.entries or ready.hard_state) and self.rng.random() < 0.7
            if slow:
                member.busy = ready
                self.at(self.rng.expovariate(1 / self.slow_disk), partial(self.flushed, member, member.life, ready))
            else:
                self.finish(member, ready)
        self.check(member)

    def flushed(self, member: Member, life: int, ready: Ready) -> None:
        if member.life != life or member.raft is None:
            return
        member.busy = None
        self.finish(member, ready)
        self.carry_out(member)
        inbox, member.inbox = member.inbox, []
        while inbox:
            if member.busy is not None:
                member.inbox = inbox + member.inbox
                return
            inbox.pop(0)()

    def finish(self, member: Member, ready: Ready) -> None:
        raft = member.raft
        assert raft is not None
        member.disk.write(ready.hard_state, ready.entries, ready.floor)
        if ready.entries:
            raft.synced(ready.entries[-1].index, ready.entries[-1].term, self.clock(member))
        for to, message in ready.after_sync + ready.notices:
            self.send(member.name, to, message)
        for entry in ready.committed:
            assert entry.index == member.applied + 1, "every index exactly once, in order"
            member.applied = entry.index
            assert self.committed.setdefault(entry.index, entry) == entry, "C1, C6: committed entries agree for ever"
        for read_id, index in ready.reads:
            assert index >= self.reads.pop((member.name, read_id)), "a read misses a write that was committed before it was asked"
            self.served += 1
        for read_id in ready.lost_reads:
            del self.reads[member.name, read_id]
        for peer in ready.snapshots:
            self.stream(member, peer)

    # -- network ------------------------------------------------------------------------------------------------------------------------

    def at(self, delay: float, action: Callable[[], None]) -> None:
        self.counter += 1
        self.events.append((self.now + delay, self.counter, action))

    def send(self, sender: str, to: str, message: RaftMessage) -> None:
        if isinstance(message, Append):
            expected = range(message.prev_index + 1, message.prev_index + 1 + len(message.entries))
            assert [entry.index for entry in message.entries] == list(expected), "L6: Appends are contiguous"
        copies = 1 + (self.loss > 0 and self.rng.random() < 0.1)
        for _ in range(copies):
            if (sender, to) in self.cut or self.rng.random() < self.loss or to not in self.members:
                continue
            delay = self.rng.expovariate(1 / self.delay) if self.delay else 0.0
            self.at(delay, lambda: self.deliver(sender, to, message))

    def deliver(self, sender: str, to: str, message: RaftMessage) -> None:
        if (sender, to) not in self.cut:
            self.tell(self.members[to], lambda raft, now: raft.receive(sender, message, now))

    def stream(self, member: Member, peer: str) -> None:
        meta = member.disk.snapshot
        if meta is None or peer not in self.members or (member.name, peer) in self.cut or self.rng.random() < self.loss:
            self.tell(member, lambda raft, _now: raft.snapshot_failed(peer))
            return
        self.at(self.rng.uniform(0, 0.3), lambda: self.arrive(meta, self.members[peer]))
        self.at(0.5, lambda: self.tell(member, lambda raft, _now: raft.snapshot_failed(peer)))

    def arrive(self, meta: SnapshotMeta, member: Member) -> None:
        if member.raft is None or member.busy is not None or not member.raft.wants(meta):
            return
        member.disk.snapshot, member.disk.entries = meta, []
        member.disk.hard_state = member.raft.hard_state
        member.disk.time = time = self.committed[meta.index].time
        member.applied = meta.index
        self.tell(member, lambda raft, now: raft.install(meta, now, time))

    def snapshot(self, name: str, keep: int) -> None:
        member = self.members[name]
        if member.raft is None or member.busy is not None or member.applied <= 1:
            return
        index = member.applied
        entry = self.committed[index]
        settled = [c for i in range(1, index + 1) if (c := configuration_in(self.committed[i])) is not None][-1]
        meta = SnapshotMeta(index, entry.term, settled)
        member.disk.snapshot, member.disk.time = meta, entry.time
        trimmed = max(0, index - keep)
        member.disk.entries = [entry for entry in member.disk.entries if entry.index > trimmed]
        self.tell(member, lambda raft, _now: raft.trim(trimmed, meta))

    # -- time -----------------------------------------------------------------------------------------------------------------------------

    def run(self, seconds: float) -> None:
        """Let time pass."""
        end = self.now + seconds
        while (due := self.next_due()) <= end:
            self.now = max(self.now, due)
            self.step()
        self.now = end

    def next_due(self) -> float:
        deadlines = [m.raft.deadline - m.offset for m in self.members.values() if m.raft is not None and m.busy is None]
        return min([when for when, _, _ in self.events] + deadlines, default=float("inf"))

    def step(self) -> None:
        due = sorted((event for event in self.events if event[0] <= self.now), key=lambda event: event[:2])
        if due:
            self.events.remove(due[0])
            due[0][2]()
            return
        for member in self.members.values():
            if member.raft is not None and member.busy is None and member.raft.deadline <= self.clock(member) + 1e-9:
                self.tell(member, lambda raft, now: raft.tick(now + 1e-9))
                return

    # -- use ------------------------------------------------------------------------------------------------------------------------------

    @property
    def leader(self) -> Raft | None:
        """The leader of the highest term."""
        return max(
            (m.raft for m in self.members.values() if m.raft and m.raft.role is Role.LEADER), key=lambda raft: raft.term, default=None
        )

    def propose(self, name: str, payload: bytes = b"x", kind: EntryKind = EntryKind.BLOCK) -> None:
        self.tell(self.members[name], lambda raft, now: void(raft.propose(kind, payload, now)))

    def change(self, name: str, new: Configuration) -> None:
        def ask(raft: Raft, now: float) -> None:
            if quorum.may_follow(raft.configuration, new):
                raft.propose(EntryKind.CONFIGURATION, codec.encode_configuration(new), now)

        self.tell(self.members[name], ask)

    def read(self, name: str) -> None:
        if self.members[name].raft is not None and self.members[name].busy is None:
            self.next_read += 1
            self.reads[name, self.next_read] = self.best_commit
            read_id = self.next_read
            self.tell(self.members[name], lambda raft, now: raft.read(read_id, now))

    def isolate(self, *names: str) -> None:
        for name in names:
            for other in self.members:
                if other not in names:
                    self.unlink(name, other)

    def unlink(self, one: str, other: str) -> None:
        """Cut one connection; both ends notice."""
        self.cut |= {(one, other), (other, one)}
        self.tell(self.members[one], parted(other))
        self.tell(self.members[other], parted(one))

    def heal(self) -> None:
        self.cut.clear()
        for name, member in self.members.items():
            for other in self.members:
                if other != name and self.members[other].raft is not None:
                    self.tell(member, joined(other))

    # -- the judge ------------------------------------------------------------------------------------------------------------------------

    def check(self, member: Member) -> None:
        raft = member.raft
        if raft is None:
            return
        check_raft(raft)
        self.check_terms(member, raft)
        self.check_log(member, raft)
        self.check_commit(raft)
        if raft.role is Role.LEADER:
            self.check_leader(member, raft)
        elif member.lead_log[0]:
            member.lead_log = (0, [])

    def check_terms(self, member: Member, raft: Raft) -> None:
        before = self.promised.get(member.name, HardState())
        assert raft.term >= member.disk.hard_state.term >= before.term, "E3: terms never fall"
        assert before.term < member.disk.hard_state.term or before.vote in (None, member.disk.hard_state.vote), "P1: one vote in a term"
        self.promised[member.name] = member.disk.hard_state
        # One that elects itself alone says and does nothing before its term is durable: till then a crash undoes it.
        if raft.role is Role.LEADER and member.disk.hard_state.term == raft.term:
            assert self.leaders.setdefault(raft.term, member.name) == member.name, "E1: one leader in a term"

    def check_log(self, member: Member, raft: Raft) -> None:
        log = raft._log
        entries = log.between(max(log.base_index + 1, log.last_index - 6), log.last_index)
        before = None
        for entry in entries:
            if entry.term > member.disk.hard_state.term:
                break  # of one that elected itself alone, see above
            known = self.seen.setdefault((entry.index, entry.term), entry)
            assert known == entry, "L1: one entry for an index and a term"
            assert before is None or (before.term <= entry.term and before.time <= entry.time), "terms and times never fall"
            before = entry
        for index in range(max(log.base_index, raft.commit - 6) + 1, raft.commit + 1):
            if index in self.commit_terms:
                assert log.term_at(index) == self.commit_terms[index], "C1: committed entries agree"
        assert raft.durable_index <= member.disk.last_index or raft.durable_index == log.base_index, "durable means on disk"

    def check_commit(self, raft: Raft) -> None:
        for index in range(self.best_commit + 1, raft.commit + 1):
            term = raft._log.term_at(index)
            assert term is not None
            self.commit_terms[index] = term
            self.check_quorum(raft, index, term)
        self.best_commit = max(self.best_commit, raft.commit)

    def check_quorum(self, raft: Raft, index: int, term: int) -> None:
        holders = {m.name for m in self.members.values() if self.holds(m, index, term)}
        assert quorum.won(raft.configuration, holders), f"C3, C4: {index} committed but durable only at {sorted(holders)}"

    def holds(self, member: Member, index: int, term: int) -> bool:
        """Whether a member has an entry durably."""
        return member.disk.holds(index, term)

    def judges_match(self, _name: str) -> bool:
        """Whether what a leader knows of this follower's log must be true at any moment."""
        return True

    def judges_lease(self) -> bool:
        """Whether clocks are good enough for leases."""
        return True

    def check_leader(self, member: Member, raft: Raft) -> None:
        log = raft._log
        if member.lead_log[0] != raft.term:
            assert raft._may_stand() or (raft._lead is not None and raft._lead.settling), "E2: a leader is a voter"
            for index in range(log.base_index + 1, self.best_commit + 1):
                assert log.term_at(index) == self.commit_terms[index], "C5: a leader has everything committed"
            member.lead_log = (raft.term, [])
        seen = member.lead_log[1]
        done = seen[-1].index if seen else log.base_index
        if seen and seen[-1].index > log.base_index:
            assert log.term_at(seen[-1].index) == seen[-1].term, "L2: a leader only appends"
        seen.extend(log.between(max(done, log.base_index) + 1, log.last_index))
        if self.judges_lease() and raft.lease_until > self.clock(member):
            assert raft.commit >= self.best_commit, "a lease outlived its promises"
        for name, peer in raft.peers.items():
            disk = self.members[name].disk
            if self.judges_match(name) and disk.hard_state.term <= raft.term:  # a newer leader may have truncated it since
                assert peer.match <= disk.last_index, "L5: match is durable there"


def parted(peer: str) -> Callable[[Raft, float], None]:
    return lambda raft, now: raft.disconnected(peer, now)


def joined(peer: str) -> Callable[[Raft, float], None]:
    return lambda raft, now: raft.connected(peer, now)


def void(_value: object) -> None:
    """Drop a result."""
