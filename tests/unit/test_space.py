"""A full disk: what the log still takes, what members tell each other, what is refused and what goes on."""

from __future__ import annotations

import contextlib
import random

import pytest
from caller import Caller
from raft_harness import block, configuration, founding
from tight import SEGMENT, Tight, growing, shrinking, used

from replkv import codec, ops
from replkv.config import Config
from replkv.engine import Embedded
from replkv.errors import DiskFull
from replkv.log import SMALL, Log
from replkv.messages import Append, AppendReply, Census, Configuration, HardState, Scarcity, SnapshotMeta, Vote
from replkv.plans import Write
from replkv.snapshot import SnapshotWriter
from replkv.space import FORGOTTEN_AFTER, Space
from replkv.testing.disk import SimDisk
from replkv.values import to_ttl
from replkv.wal_format import segment_name

# -- the log --------------------------------------------------------------------------------------------------------------------------


def full_log(room: int = 0, segment: int = SEGMENT) -> tuple[Log, SimDisk]:
    """A log on a disk with so many bytes left."""
    disk = SimDisk(random.Random(0))
    log, _ = Log.open(disk.open(), "a", 97, segment)
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


@pytest.mark.parametrize("size", [SEGMENT, 8 << 20])
def test_a_log_says_when_it_has_no_room_for_another_vote_and_still_takes_a_snapshot(size: int) -> None:
    log, disk = full_log(5000, size)
    fill(log, 20_000)
    fill(log, 100)
    term = 1
    while not log.spent:
        term += 1
        log.append(HardState(term, "b"), ())
        log.sync()
    assert term > 8
    writer = SnapshotWriter(disk.door or disk.open(), SnapshotMeta(log.last_index, 1, configuration(*"abcdefg")), bytes(16), [b"state"])
    while (file := writer.step()) is None:
        pass
    log.snapshot_taken(file, log.last_index + 1)
    assert log.snapshot == file


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


def test_behind_an_offer_that_failed_proposals_have_their_turn(cluster: Tight, monkeypatch: pytest.MonkeyPatch) -> None:
    full, (second, heir) = cluster.led_by(), cluster.followers()
    raft = cluster.nodes[heir].raft
    assert raft is not None
    monkeypatch.setattr(raft, "_may_stand", lambda: False)
    cluster.fill_up(full, second)
    leader = cluster.nodes[cluster.led_by()]
    assert leader.raft is not None
    cluster.run(lambda: leader.raft and leader.raft._lead and leader.raft._lead.heir == heir)
    for _ in range(5):
        assert cluster.call(full, ops.Delete("fill0"), 2.0).error is None
        until = cluster.now + 0.7
        cluster.run(lambda: cluster.now > until)  # noqa: B023


def test_an_heir_that_can_not_take_over_is_not_waited_for() -> None:
    """It has room and is connected, but is in doubt: it acknowledges nothing before all others have answered it, and one is dead."""
    cluster = Tight("abcde")
    leader, (one, other, doubtful, dead) = cluster.led_by(), cluster.followers()
    cluster.crash(dead)
    cluster.crash(doubtful)
    spoil_the_last_flush(cluster.platters[doubtful])
    raft = cluster.start(doubtful).raft
    assert raft is not None
    assert raft.in_doubt
    rest = (leader, one, other)
    cluster.run(lambda: any(cluster.nodes[name].published.lease_until for name in rest))
    leads = next(name for name in rest if cluster.nodes[name].published.lease_until)
    for name in rest:
        cluster.platters[name].capacity = used(cluster.platters[name])
    count = 0
    while not all(cluster.nodes[name].log.short for name in rest):
        call = cluster.begin(leads, ops.Put(f"fill{count}", bytes(6000)))
        cluster.run(lambda: call.finished)  # noqa: B023
        count += 1
    for _ in range(5):
        assert cluster.call(leads, ops.Delete("fill0"), 1.0).error is None
        until = cluster.now + 1.0
        cluster.run(lambda: cluster.now > until)  # noqa: B023
    assert raft.in_doubt


def put_until_refused(cluster: Tight, name: str) -> DiskFull:
    """Put until no more is taken; each call ends, and soon."""
    for number in range(200):
        call = cluster.call(name, ops.Put(f"more{number}", bytes(3000)), 3.0)
        if call.error is not None:
            assert isinstance(call.error, DiskFull)
            return call.error
    raise AssertionError("it was never refused")


def test_a_full_disk_and_a_dead_member_refuse_what_grows_instead_of_letting_all_hang(cluster: Tight) -> None:
    """The dead one counted as one with room: puts were let in until the full one took nothing more, and then nothing was served at all."""
    leader, (full, dead) = cluster.led_by(), cluster.followers()
    cluster.crash(dead)
    cluster.platters[full].capacity = used(cluster.platters[full])
    error = put_until_refused(cluster, leader)
    assert f"the disks of {full} are full and {dead} can't be reached: make room there; reads, deletes and compaction go on" in str(error)
    for name, node in cluster.nodes.items():
        for operation in growing():
            assert isinstance(cluster.call(name, operation, 3.0).error, DiskFull)
        assert cluster.call(name, ops.Delete("more0"), 3.0).error is None
        assert cluster.call(name, ops.Compact(node.published.revision), 3.0).error is None
    cluster.start(dead)
    cluster.run(lambda: not any(node.space.scarce for node in cluster.nodes.values()))
    for name in cluster.nodes:
        assert cluster.call(name, ops.Put("k", name)).error is None


def test_all_that_was_let_in_when_the_last_one_with_room_dies_is_answered(cluster: Tight) -> None:
    """Batches were under way from all members, and far more than the full one had room for."""
    leader, (full, dead) = cluster.led_by(), cluster.followers()
    cluster.platters[full].capacity = used(cluster.platters[full])
    cluster.fill_up(full)
    cluster.run(lambda: all(node.space.full == (full,) for node in cluster.nodes.values()))
    rng = random.Random(7)
    calls = [cluster.begin(name, ops.Put(f"{name}{number}", rng.randbytes(9000))) for number in range(30) for name in (leader, full)]
    calls += [cluster.begin(name, ops.Delete(f"{name}{number}")) for number in range(30) for name in (leader, full)]
    cluster.crash(dead)
    cluster.run(lambda: all(call.finished for call in calls), 10.0)
    assert {type(call.error) for call in calls[60:]} == {type(None)}
    assert {type(call.error) for call in calls[:60]} == {DiskFull}
    assert {(node.proposals.admission.commands, node.proposals.admission.bytes) for node in cluster.nodes.values()} == {(0, 0)}
    cluster.start(dead)
    cluster.run(cluster.equal)


def test_the_leader_has_the_last_word_on_what_may_grow(cluster: Tight, monkeypatch: pytest.MonkeyPatch) -> None:
    """A follower may still reach a member that the leader does not: it sends what the leader can't have, and that is refused for good."""
    leader, (full, other) = cluster.led_by(), cluster.followers()
    knows = Space._is_scarce
    monkeypatch.setattr(Space, "_is_scarce", lambda space, raft: space._name == leader and knows(space, raft))
    cluster.fill_up(full)
    cluster.run(lambda: cluster.nodes[leader].space.full == (full,))
    cluster.nodes[leader].space.heard(other, Scarcity(full=True), cluster.now)
    cluster.run(lambda: cluster.nodes[leader].space.scarce)
    assert not cluster.nodes[other].space.scarce
    put, delete, large = (cluster.begin(other, operation) for operation in (ops.Put("k", "v"), ops.Delete("fill0"), ops.Delete("x" * 5000)))
    cluster.run(lambda: put.finished and delete.finished and large.finished, 1.0)
    assert isinstance(put.error, DiskFull)
    assert "deletes of up to 3840 bytes go on" in str(large.error)
    assert delete.answer is not None
    assert cluster.begin(other, ops.Put("k", "v")).finished, "it knows by now, and refuses at once"
    cluster.make_room()
    cluster.run(lambda: not any(node.space.scarce for node in cluster.nodes.values()))
    assert cluster.nodes[other].machine.read(ops.Get("k").to_wire(), cluster.nodes[other].published.revision) == (0, None)
    for operation in growing():
        assert cluster.call(other, operation).error is None
    cluster.run(cluster.equal)


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


def test_a_full_member_whose_room_for_votes_is_used_up_does_not_stop(cluster: Tight) -> None:
    """Each election took a sector of what was left of its log, and the one for which there was none ended it."""
    full = cluster.followers()[0]
    cluster.fill_up(full)
    node = cluster.nodes[full]
    raft = node.raft
    assert raft is not None
    while not raft.mute:
        raft._campaign()
        cluster.run(lambda: cluster.leader() is not None)
        assert node.failure is None
    term = raft.term
    others = [name for name in cluster.nodes if name != full]
    for name in others:
        cluster.nodes[name].raft._campaign()  # type: ignore[union-attr]
        cluster.run(lambda: any(cluster.nodes[name].published.lease_until for name in others))
    assert cluster.call(others[0], ops.Delete("fill0")).error is None
    assert (raft.term, node.failure) == (term, None)
    cluster.make_room()
    cluster.run(cluster.equal)
    assert not raft.mute


def test_a_lone_member_without_room_for_a_vote_starts_and_leads_when_there_is_room() -> None:
    cluster = Tight("a")
    cluster.fill_up("a")
    while not cluster.nodes["a"].log.spent:
        cluster.crash("a")
        cluster.start("a")
        cluster.turn()
    for _ in range(10):
        cluster.crash("a")
        node = cluster.start("a")
        until = cluster.now + 5.0
        cluster.run(lambda: cluster.now > until)  # noqa: B023
        assert not node.ready
        assert node.machine.read(ops.Scan(prefix="fill", count_only=True).to_wire(), node.published.revision) is not None
    cluster.make_room()
    cluster.run(lambda: node.ready)
    assert cluster.call("a", ops.Put("k", "v")).error is None


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


def test_small_entries_are_taken_although_they_come_together(cluster: Tight) -> None:
    """A follower that comes back is sent many at once, for all of which together it has no room."""
    (full, _) = cluster.followers()
    cluster.fill_up(full)
    node = cluster.nodes[full]
    assert node.raft is not None
    while node.log.make_room(SMALL + 1):
        assert cluster.call(cluster.led_by(), ops.Put("more", bytes(1000))).error is None
    end, raft = node.raft.last_index, node.raft
    run = tuple(block(end + 1 + number, raft.term, bytes(700)) for number in range(20))
    taken = node.space.let_in(raft, Append(raft.term, end, raft.term, 0, 1, 0, run))
    assert isinstance(taken, Append)
    assert taken.entries == run[:5]
    assert not raft.full
    node.space.written(raft)
    assert node.space.let_in(raft, Append(raft.term, end, raft.term, 0, 1, 0, (block(end + 1, raft.term, bytes(9000)),))) is not None
    assert raft.full


def test_a_member_that_could_not_write_down_a_vote_hears_of_none(cluster: Tight) -> None:
    raft, space = cluster.nodes["a"].raft, cluster.nodes["a"].space
    assert raft is not None
    vote, beat = Vote(raft.term, 9, 9), Append(raft.term, 1, 1, 0, 1, 0, ())
    later = (Append(raft.term + 1, 1, 1, 0, 1, 0, ()), AppendReply(raft.term + 1, 1, 0), Vote(raft.term + 1, 9, 9, pre=True))
    assert [space.let_in(raft, message) for message in (vote, beat, *later)] == [vote, beat, *later]
    raft.mute = True
    assert [space.let_in(raft, message) for message in (vote, beat, Census(5), *later)] == [None, beat, Census(5), None, None, None]


def test_what_is_deleted_on_a_full_disk_makes_room_on_it() -> None:
    """Nothing that is deleted leaves the disk before a snapshot lets the log go, and none was due: it never recovered."""
    cluster = Tight("a", config=Config(segment_bytes=SEGMENT, snapshot_bytes=6 * SEGMENT, trailing_entries=4))
    rng, keys = random.Random(1), [f"k{number}" for number in range(20)]
    for key in keys:
        assert cluster.call("a", ops.Put(key, rng.randbytes(9000))).error is None
    node, disk = cluster.nodes["a"], cluster.platters["a"]
    disk.capacity = used(disk) + 8 * 1024  # room for a small snapshot, not for a segment
    while cluster.call("a", ops.Put(f"k{len(keys)}", rng.randbytes(6000))).error is None:
        keys.append(f"k{len(keys)}")
    for key in keys:
        assert cluster.call("a", ops.Delete(key)).error is None
    assert cluster.call("a", ops.Compact(node.published.revision)).error is None
    cluster.run(lambda: not node.space.scarce, 10.0)
    assert cluster.call("a", ops.Put("k", "v")).error is None


def test_snapshots_that_make_no_room_are_not_taken_all_the_time() -> None:
    cluster = Tight("a")
    cluster.fill_up("a")
    node, indices = cluster.nodes["a"], set()
    cluster.platters["a"].capacity = used(cluster.platters["a"]) + 8 * 1024
    for number in range(100):
        assert cluster.call("a", ops.Delete(f"fill{number % 3}")).error is None
        until = cluster.now + 0.1
        cluster.run(lambda: cluster.now > until)  # noqa: B023
        indices.add(node.log.snapshot and node.log.snapshot.meta.index)
    assert node.log.short
    assert 2 <= len(indices) <= 4


def test_a_log_that_is_used_up_refuses_every_command_at_once_and_says_why() -> None:
    """Every call waited for its timeout, and was then told to start members that were not missing."""
    cluster = Tight("a")
    cluster.fill_up("a")
    node = cluster.nodes["a"]
    waiting = None
    for number in range(300):
        call = waiting = cluster.begin("a", ops.Delete(f"x{number}"))
        cluster.run(lambda: call.finished, 3.0)  # noqa: B023
        if call.error is not None:
            break
    assert waiting is not None
    assert "member a takes nothing more while the disks of a are full: make room there; only reads go on" in str(waiting.error)
    for operation in (*growing(), *shrinking(node.published.revision, 7)):
        call = cluster.begin("a", operation)
        assert call.finished
        assert isinstance(call.error, DiskFull)
    for untouched in (True, False):
        text = str(Write(ops.Delete("k")).expired(Embedded(node), untouched=untouched))
        assert "the disks of a are full: make room there" in text
        assert "start the missing" not in text
    assert node.failure is None
    cluster.make_room()
    cluster.run(lambda: not node.space.scarce)
    assert cluster.call("a", ops.Put("k", "v")).error is None


def test_what_is_used_up_is_named_when_it_is_not_space(caplog: pytest.LogCaptureFixture) -> None:
    """A process without descriptors left was told that its disk is full."""
    cluster = Tight("a")
    node = cluster.nodes["a"]
    node.log.shortage = DiskFull("data: no descriptors left to allocate: free some")
    cluster.run(lambda: node.space.scarce)
    assert "a: data: no descriptors left to allocate: free some; it goes on with what is left of its log" in caplog.text
    assert str(cluster.begin("a", ops.Put("k", "v")).error).endswith("; data: no descriptors left to allocate: free some")


def test_many_small_deletes_go_on_where_there_is_room_for_small_entries_only() -> None:
    """The leader, which has room, joined them into a block so large that the full ones did not take it, nor anything behind it."""
    cluster = Tight(config=Config(segment_bytes=1 << 20))
    rng = random.Random(3)
    full, leader = cluster.followers(), cluster.led_by()
    for name in full:
        cluster.platters[name].capacity = used(cluster.platters[name])
    while cluster.call(leader, ops.Put("k", rng.randbytes(60_000))).error is None:
        pass
    log = cluster.nodes[full[0]].log
    while log.make_room(100_000):
        assert cluster.call(leader, ops.Delete(rng.randbytes(30_000))).error is None
    while log.make_room(SMALL + 1):
        assert cluster.call(leader, ops.Delete(rng.randbytes(3000))).error is None
    calls = [cluster.begin(name, ops.Delete(rng.randbytes(60))) for _ in range(60) for name in cluster.nodes]
    cluster.run(lambda: all(call.finished for call in calls), 3.0)
    assert {call.error for call in calls} == {None}


def test_a_delete_for_which_the_log_has_no_room_does_not_stop_those_behind_it() -> None:
    cluster = Tight("a")
    cluster.fill_up("a")
    huge = cluster.begin("a", ops.Delete("x" * 60_000))
    small = [cluster.begin("a", ops.Delete(f"fill{number}")) for number in range(5)]
    cluster.run(lambda: huge.finished and all(call.finished for call in small), 3.0)
    assert isinstance(huge.error, DiskFull)
    assert [call.error for call in small] == [None] * 5


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


def spoil_the_last_flush(disk: SimDisk) -> None:
    newest = disk.seen[segment_name(1)].seen
    last = max(sector for sector in range(SEGMENT // 512) if any(newest[sector * 512 : (sector + 1) * 512]))
    disk.rot(segment_name(1), last * 512 + 30)


def test_what_was_let_in_and_dropped_claims_no_room_for_ever(cluster: Tight) -> None:
    """A member in doubt takes nothing; for all it was sent it made larger and larger segments."""
    (name, _) = cluster.followers()
    cluster.crash(name)
    disk = cluster.platters[name]
    spoil_the_last_flush(disk)
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
