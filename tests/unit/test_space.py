"""A full disk: what the log still takes, what members tell each other, what is refused and what goes on."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator
from typing import Any

import pytest
from fake_network import FakeCluster, InlineHousekeeper
from raft_harness import block, founding

from replkv import codec, ops
from replkv.config import Config
from replkv.errors import DiskFull
from replkv.log import Log
from replkv.messages import Append, Configuration, HardState, Scarcity, SnapshotMeta
from replkv.node import Node
from replkv.proposals import Call
from replkv.snapshot import SnapshotWriter
from replkv.space import FORGOTTEN_AFTER
from replkv.testing.disk import SimDisk
from replkv.values import to_ttl
from replkv.wal_format import segment_name

SEGMENT = 1 << 16


# -- the log --------------------------------------------------------------------------------------------------------------------------


def used(disk: SimDisk) -> int:
    return sum(len(content.seen) for content in disk.seen.values())


def full_log(room: int = 0) -> tuple[Log, SimDisk]:
    """A log on a disk with so many bytes left."""
    disk = SimDisk(random.Random(0))
    log, _ = Log.open(disk.open(), "a", 97, SEGMENT)
    log.found(founding("a", "b", "c"))
    disk.capacity = used(disk) + room
    with contextlib.suppress(DiskFull):
        log.prepare()
    return log, disk


def fill(log: Log, size: int) -> int:
    """Append entries of a size for as long as there is room for them; return how many that were."""
    count = 0
    while log.make_room(len(block(2, 1, bytes(size)).encoded)):
        log.append(HardState(1), [block(log.last_index + 1, 1, bytes(size))])
        log.sync()
        count += 1
    return count


def test_a_log_without_a_next_segment_goes_on_in_what_is_left_of_its_last_one() -> None:
    log, disk = full_log()
    assert log.short
    assert fill(log, 1000) > 30
    assert set(disk.seen) == {segment_name(1)}


def test_what_is_refused_first_are_large_entries_then_small_ones_and_votes_last_of_all() -> None:
    log, _ = full_log()
    assert fill(log, 20_000) == 2
    assert fill(log, 6000) > 0
    assert fill(log, 100) > 2
    for term in range(2, 14):
        log.append(HardState(term, "b"), ())
        log.sync()


@pytest.mark.parametrize("seed", range(30))
def test_whatever_was_let_in_finds_room(seed: int) -> None:
    rng = random.Random(seed)
    log, disk = full_log(rng.choice((0, 100, SEGMENT // 2, SEGMENT, 3 * SEGMENT)))
    refused = 0
    for _ in range(120):
        sizes = [rng.choice((10, 400, 5000, rng.randrange(3 * SEGMENT))) for _ in range(rng.randint(1, 3))]
        entries = [block(log.last_index + 1 + number, 1, bytes(size)) for number, size in enumerate(sizes)]
        if log.make_room(sum(len(entry.encoded) for entry in entries)):
            log.append(HardState(1), entries)
            log.sync()
        else:
            refused += 1
            assert log.short
        if rng.random() < 0.02:
            disk.capacity = (disk.capacity or 0) + SEGMENT
    assert refused > 0


def test_with_room_again_the_log_goes_on() -> None:
    log, disk = full_log()
    fill(log, 100)
    disk.capacity = None
    assert log.make_room(100_000)
    assert not log.short
    log.append(None, [block(log.last_index + 1, 1, bytes(100_000))])
    log.sync()


def test_a_snapshot_is_let_point_to_where_a_log_is_full() -> None:
    log, disk = full_log(5000)
    fill(log, 100)
    last = log.last_index
    writer = SnapshotWriter(disk.door or disk.open(), SnapshotMeta(last, 1, Configuration(("a",))), bytes(16), [b"state"])
    while (file := writer.step()) is None:
        pass
    log.snapshot_taken(file, last + 1)
    assert log.snapshot == file


# -- members --------------------------------------------------------------------------------------------------------------------------


class Tight(FakeCluster):
    """Whole nodes on disks that may be full."""

    def __init__(self, names: str = "abc", config: Config | None = None) -> None:
        self.platters = {name: SimDisk(random.Random(name)) for name in names}
        super().__init__(names, config=config or Config(segment_bytes=SEGMENT))
        self.run(self.leader)
        self.run(lambda: not any(node.log.unprepared for node in self.nodes.values()))

    def start(self, name: str) -> Node:
        rng = random.Random(name + str(self.now))
        args = (self.platters[name].open(), self.network.end(name), lambda: self.now, rng, InlineHousekeeper())
        self.nodes[name] = node = Node(name, self.config, self.settings, self.addresses, *args, self.addresses[name])
        node.start()
        return node

    def crash(self, name: str) -> None:
        super().crash(name)
        self.platters[name].crash(power=False)

    def led_by(self) -> str:
        self.run(self.leader)
        leader = self.leader()
        assert leader is not None
        return leader

    def followers(self) -> list[str]:
        return [name for name in self.nodes if name != self.led_by()]

    def begin(self, name: str, operation: ops.Packable[Any]) -> Caller:
        call = Caller(codec.pack(operation.to_wire()))
        self.nodes[name].submit(call)
        return call

    def call(self, name: str, operation: ops.Packable[Any], seconds: float = 20.0) -> Caller:
        call = self.begin(name, operation)
        self.run(lambda: call.finished, seconds)
        return call

    def fill_up(self, *names: str) -> None:
        """Let disks be full: no room but in the segment that is in use and the next, most of which is then used up."""
        for name in names:
            self.platters[name].capacity = used(self.platters[name])
        count = 0
        while not all(self.nodes[name].log.short for name in names):
            call = self.begin(self.led_by(), ops.Put(f"fill{count}", bytes(6000)))
            self.run(lambda: call.finished)  # noqa: B023
            count += 1

    def make_room(self) -> None:
        for disk in self.platters.values():
            disk.capacity = None

    def equal(self) -> bool:
        nodes = self.nodes.values()
        return len({node.machine.applied for node in nodes}) == 1 and len({node.machine.digest() for node in nodes}) == 1


class Caller(Call):
    __slots__ = ("finished",)

    def __init__(self, command: bytes) -> None:
        super().__init__(command)
        self.finished = 0

    def finish(self) -> None:
        self.finished += 1


def growing() -> Iterator[ops.Packable[Any]]:
    yield ops.Put("k", "v")
    yield ops.Put("k", "v", if_mod_revision=0)
    yield ops.Put("k", "v", ttl=10.0)
    yield ops.Add("n", 1)
    yield ops.Txn(then=[ops.Delete("k"), ops.Put("j", "v")])
    yield ops.Txn(otherwise=[ops.Txn(then=[ops.Add("n", 1)])])
    yield ops.Grant(0, to_ttl(10.0), 0)


def shrinking(revision: int, lease: int) -> Iterator[ops.Packable[Any]]:
    yield ops.Delete("fill0")
    yield ops.Delete("fill1", if_mod_revision=0)
    yield ops.Txn(then=[ops.Delete("fill2"), ops.Get("fill3")])
    yield ops.Compact(revision)
    yield ops.Renew(lease, 5)
    yield ops.KeepAlive(5)
    yield ops.Revoke(lease)


@pytest.fixture
def cluster() -> Tight:
    return Tight()


def test_one_full_disk_is_known_to_all_and_stops_nobody(cluster: Tight) -> None:
    (full, _) = cluster.followers()
    cluster.fill_up(full)
    cluster.run(lambda: all(node.status().full == (full,) for node in cluster.nodes.values()))
    for name in cluster.nodes:
        assert cluster.call(name, ops.Put(name, "x")).error is None
    cluster.make_room()
    cluster.run(lambda: all(node.status().full == () for node in cluster.nodes.values()))
    cluster.run(cluster.equal)


def test_a_leader_with_a_full_disk_hands_over_to_one_with_room(cluster: Tight) -> None:
    full = cluster.led_by()
    term = cluster.nodes[full].published.term
    cluster.fill_up(full)
    cluster.run(lambda: cluster.leader() not in (None, full))
    assert cluster.nodes[full].published.term == term + 1, "it was offered, and not missed"
    assert cluster.call(full, ops.Put("k", "v")).error is None


def test_a_leader_does_not_offer_itself_for_ever_to_one_that_does_not_answer(cluster: Tight) -> None:
    """Nothing can be proposed while an heir is waited for: with one full disk and one that hangs, even deletes would stand still."""
    full, (second, silent) = cluster.led_by(), cluster.followers()
    cluster.fill_up(full, second)
    cluster.run(lambda: cluster.leader() == silent)
    cluster.paused.add(silent)
    until = cluster.now + 10.0
    cluster.run(lambda: cluster.now > until)
    assert cluster.call(full, ops.Delete("fill0"), 3.0).error is None


def test_where_a_majority_is_full_whatever_may_grow_is_refused_and_all_else_goes_on(cluster: Tight) -> None:
    lease = cluster.call("a", ops.Grant(7, to_ttl(60.0), 5))
    assert lease.error is None
    cluster.fill_up("a", "b")
    cluster.run(lambda: all(node.space.scarce for node in cluster.nodes.values()))
    for name, node in cluster.nodes.items():
        assert node.status().full == ("a", "b")
        for operation in growing():
            call = cluster.begin(name, operation)
            assert call.finished, "refused at once"
            assert isinstance(call.error, DiskFull)
            assert "the disks of a, b are full: make room there; reads, deletes and compaction go on" in str(call.error)
    for operation in shrinking(cluster.nodes["a"].published.revision, 7):
        call = cluster.call("c", operation)
        assert call.error is None, operation
    cluster.make_room()
    cluster.run(lambda: not any(node.space.scarce for node in cluster.nodes.values()))
    for operation in growing():
        assert cluster.call("a", operation).error is None
    cluster.run(cluster.equal)


def test_what_waits_in_the_queue_when_the_disks_fill_up_is_refused_too(cluster: Tight) -> None:
    """It would have waited until its timeout, and its caller would not have been told why."""
    leader, (one, other) = cluster.led_by(), cluster.followers()
    node = cluster.nodes[one]
    assert node.raft is not None
    for peer in (leader, other):
        node.space.heard(peer, Scarcity(full=True), cluster.now)
    growing_one, harmless = Caller(codec.pack(ops.Put("k", "v").to_wire())), Caller(codec.pack(ops.Delete("k").to_wire()))
    for call in (growing_one, harmless):
        node.proposals.admission.enter_anyway(len(call.command or b""))
        node.submit(call)
    node.space.look_around(node.raft, cluster.now)
    assert isinstance(growing_one.error, DiskFull)
    assert not harmless.finished
    cluster.run(lambda: harmless.finished)
    assert harmless.error is None
    assert (node.proposals.admission.commands, node.proposals.admission.bytes) == (0, 0)


def test_a_peer_that_no_longer_says_that_it_is_full_is_not_taken_for_full_for_ever(cluster: Tight) -> None:
    node = cluster.nodes["a"]
    node.space.heard("b", Scarcity(full=True), cluster.now)
    node.space.heard("c", Scarcity(full=True), cluster.now)
    node.space.heard("c", Scarcity(full=False), cluster.now)
    assert node.status().full == ("b",)
    until = cluster.now + FORGOTTEN_AFTER + 0.5
    cluster.run(lambda: cluster.now > until)
    assert node.status().full == ()


def test_a_member_whose_log_takes_nothing_more_lags_behind_and_catches_up_when_there_is_room(cluster: Tight) -> None:
    (full, _) = cluster.followers()
    cluster.fill_up(full)
    node = cluster.nodes[full]
    assert node.raft is not None
    count = 0
    while not node.raft.full:
        assert cluster.call(cluster.led_by(), ops.Put(f"more{count}", bytes(3000))).error is None
        count += 1
    leader = cluster.led_by()
    assert leader != full
    for number in range(20):
        assert cluster.call(leader, ops.Put(f"even more{number}", bytes(3000))).error is None
    assert cluster.nodes[leader].machine.applied > node.machine.applied
    assert node.raft.leader == leader
    cluster.make_room()
    cluster.run(cluster.equal)
    assert not node.raft.full


def test_a_member_that_has_no_room_still_votes(cluster: Tight) -> None:
    leader, (full, _) = cluster.led_by(), cluster.followers()
    cluster.fill_up(full)
    node = cluster.nodes[full]
    assert node.raft is not None
    while not node.raft.full:
        cluster.call(cluster.led_by(), ops.Put("more", bytes(3000)))
    leader = cluster.led_by()
    cluster.crash(leader)
    cluster.run(lambda: cluster.leader() not in (None, leader))
    cluster.run(lambda: cluster.leader() not in (None, leader, full))
    cluster.start(leader)
    cluster.run(cluster.leader)


def test_a_snapshot_for_which_there_is_no_room_is_tried_again(caplog: pytest.LogCaptureFixture) -> None:
    cluster = Tight(config=Config(segment_bytes=SEGMENT, snapshot_bytes=30_000, trailing_entries=4))
    (full, _) = cluster.followers()
    cluster.platters[full].capacity = used(cluster.platters[full]) + 2 * SEGMENT
    node = cluster.nodes[full]
    rng = random.Random(3)
    for number in range(12):
        assert cluster.call(cluster.led_by(), ops.Put(f"k{number}", rng.randbytes(9000))).error is None
    cluster.run(lambda: "can't take a snapshot" in caplog.text)
    before = node.log.snapshot
    assert not any(name.endswith(".tmp") for name in cluster.platters[full].seen)
    cluster.make_room()
    cluster.run(lambda: node.log.snapshot != before)
    cluster.run(cluster.equal)


def test_a_snapshot_from_the_leader_for_which_there_is_no_room_is_received_later() -> None:
    cluster = Tight(config=Config(segment_bytes=SEGMENT, snapshot_bytes=30_000, trailing_entries=1))
    (late, _) = cluster.followers()
    cluster.crash(late)
    rng = random.Random(3)
    for number in range(12):
        assert cluster.call(cluster.led_by(), ops.Put(f"k{number}", rng.randbytes(9000))).error is None
    cluster.platters[late].capacity = used(cluster.platters[late]) + 20_000
    node = cluster.start(late)
    until = cluster.now + 5.0
    cluster.run(lambda: cluster.now > until)
    assert node.failure is None
    assert node.log.snapshot is None
    cluster.make_room()
    cluster.run(cluster.equal)
    assert node.log.snapshot is not None


def test_a_lone_member_on_a_full_disk_refuses_what_grows_and_goes_on_when_there_is_room() -> None:
    cluster = Tight("a")
    cluster.fill_up("a")
    node = cluster.nodes["a"]
    cluster.run(lambda: node.space.scarce)
    assert node.status().full == ("a",)
    for operation in growing():
        assert isinstance(cluster.begin("a", operation).error, DiskFull)
    assert cluster.call("a", ops.Delete("fill0")).error is None
    assert cluster.call("a", ops.Compact(node.published.revision)).error is None
    cluster.make_room()
    cluster.run(lambda: not node.space.scarce)
    assert cluster.call("a", ops.Put("k", "v")).error is None
    cluster.crash("a")
    node = cluster.start("a")
    cluster.run(lambda: node.ready)
    assert node.machine.read(ops.Get("k").to_wire(), node.published.revision) is not None


def test_what_was_let_in_and_dropped_claims_no_room_for_ever(cluster: Tight) -> None:
    """A member in doubt takes nothing; for all it was sent it made larger and larger segments."""
    (name, _) = cluster.followers()
    cluster.crash(name)
    disk = cluster.platters[name]
    newest = disk.seen[segment_name(1)].seen
    last = max(sector for sector in range(SEGMENT // 512) if any(newest[sector * 512 : (sector + 1) * 512]))
    disk.rot(segment_name(1), last * 512 + 30)
    node = cluster.start(name)
    raft = node.raft
    assert raft is not None
    assert raft.in_doubt
    before = used(disk)
    for _ in range(50):
        node._receive("x", Append(1, 1, 1, 0, 1, 0, (block(2, 1, bytes(10_000)),)), cluster.now)
        node._carry_out(raft)
    assert used(disk) == before
    assert not raft.full
    cluster.run(cluster.equal)
