"""``snapshotting.py``: taking, sending and installing snapshots between whole members, and what disturbs it."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest
from attrs import evolve
from caller import Caller
from fake_network import FakeCluster, InlineHousekeeper

from replkv import codec, ops, snapshotting
from replkv.config import Config
from replkv.errors import Corrupt
from replkv.machine import Machine
from replkv.messages import Message, SnapshotAck, SnapshotChunk
from replkv.node import Node
from replkv.snapshotting import GIVE_UP_AFTER, HOLD

RNG = random.Random(5)
SMALL = Config(snapshot_bytes=20_000, trailing_entries=4, segment_bytes=1 << 16)


def write(cluster: FakeCluster, name: str, operation: ops.Packable[Any]) -> Caller:
    call = Caller.of(operation)
    cluster.nodes[name].submit(call)
    return call


def read(node: Node, operation: ops.Operation) -> Any:
    answer = node.machine.read(operation.to_wire(), node.published.revision)
    assert answer is not None
    return answer


def grow(cluster: FakeCluster) -> None:
    """Let the members' state grow by incompressible values, to several chunks of a snapshot."""
    name = next(name for name in cluster.nodes if name not in cluster.paused)
    for number in range(20):
        call = write(cluster, name, ops.Put(f"k{number}", RNG.randbytes(60_000)))
        cluster.run(lambda: call.finished)  # noqa: B023


def base(node: Node) -> int:
    return node.log.snapshot.meta.index if node.log.snapshot is not None else 0


def equal(cluster: FakeCluster) -> bool:
    return len({(node.machine.applied, node.machine.digest()) for node in cluster.nodes.values() if not node.machine._at_work}) == 1


@pytest.fixture
def cluster() -> FakeCluster:
    cluster = FakeCluster(config=SMALL)
    cluster.run(cluster.leader)
    return cluster


def fall_behind(cluster: FakeCluster) -> str:
    """Take a follower away until the others' logs no longer reach back to it; return its name."""
    late = next(name for name in "abc" if name != cluster.leader())
    cluster.crash(late)
    grow(cluster)
    cluster.run(lambda: all(base(node) > 8 for node in cluster.nodes.values()))
    return late


def tamper(cluster: FakeCluster, name: str, judge: Callable[[Message], bool]) -> list[Message]:
    """Lose what a member sends and the judge says; return what was lost."""
    end, lost = cluster.network.ends[name], list[Message]()
    real = end.send

    def send(peer: str, frame: bytes) -> bool:
        message = codec.decode_frame(frame).message
        if judge(message):
            lost.append(message)
            return True
        return real(peer, frame)

    end.send = send  # type: ignore[method-assign]
    return lost


def test_a_log_that_has_grown_is_replaced_by_a_snapshot(cluster: FakeCluster) -> None:
    grow(cluster)
    cluster.run(lambda: all(base(node) > 8 for node in cluster.nodes.values()))
    for name, node in cluster.nodes.items():
        disk = cluster.disks[name]
        cluster.run(lambda: sum(one.startswith("snapshot-") for one in disk.list()) == 1)  # noqa: B023
        assert node.raft is not None
        assert node.raft.last_index - base(node) < 30
    cluster.run(lambda: equal(cluster))


def test_a_member_restarts_from_its_snapshot_and_the_log_behind_it(cluster: FakeCluster) -> None:
    grow(cluster)
    cluster.run(lambda: all(base(node) > 8 for node in cluster.nodes.values()) and equal(cluster))
    digest = cluster.nodes["a"].machine.digest()
    for name in "abc":
        cluster.crash(name)
    for name in "abc":
        assert base(cluster.start(name)) > 8
    cluster.run(cluster.leader)
    cluster.run(lambda: equal(cluster))
    call = write(cluster, "a", ops.Put("after", "x"))
    cluster.run(lambda: call.finished)
    assert cluster.nodes["a"].machine.digest() != digest
    assert read(cluster.nodes["a"], ops.Scan(count_only=True))[3] == 21


def test_a_follower_that_fell_behind_is_sent_a_snapshot_and_goes_on_from_it(cluster: FakeCluster) -> None:
    late = fall_behind(cluster)
    node = cluster.start(late)
    cluster.run(lambda: node.machine.applied > 8 and equal(cluster))
    assert base(node) > 8
    call = write(cluster, late, ops.Put("after", "x"))
    cluster.run(lambda: call.finished and equal(cluster))


def test_writes_go_on_while_a_snapshot_is_sent(cluster: FakeCluster) -> None:
    late = fall_behind(cluster)
    node = cluster.start(late)
    count = 0
    while base(node) == 0:
        leader = cluster.leader() or next(name for name in cluster.nodes if name != late)
        call = write(cluster, leader, ops.Put(f"during{count}", "x"))
        cluster.run(lambda: call.finished)  # noqa: B023
        count += 1
    cluster.run(lambda: equal(cluster))
    assert count > 1


def test_lost_chunks_and_lost_acknowledgements_are_made_good(cluster: FakeCluster) -> None:
    late = fall_behind(cluster)
    for name in cluster.nodes:
        lost_chunks = tamper(cluster, name, lambda message: isinstance(message, SnapshotChunk) and RNG.random() < 0.4)
        assert lost_chunks is not None
    node = cluster.start(late)
    tamper(cluster, late, lambda message: isinstance(message, SnapshotAck) and RNG.random() < 0.4)
    cluster.run(lambda: node.machine.applied > 8 and equal(cluster), 120.0)


def test_a_damaged_snapshot_is_dropped_and_sent_again(cluster: FakeCluster) -> None:
    late = fall_behind(cluster)
    damaged: list[int] = []
    for name in cluster.nodes:
        end = cluster.network.ends[name]

        def send(peer: str, frame: bytes, real: Callable[[str, bytes], bool] = end.send) -> bool:
            envelope = codec.decode_frame(frame)
            message = envelope.message
            if isinstance(message, SnapshotChunk) and message.offset and not damaged:
                damaged.append(message.offset)
                bad = SnapshotChunk(message.term, message.meta, message.offset, message.total, bytes(len(message.data)))
                frame = codec.encode_frame(envelope.cluster, envelope.sender, envelope.receiver, bad)
            return real(peer, frame)

        end.send = send  # type: ignore[method-assign]
    node = cluster.start(late)
    cluster.run(lambda: node.machine.applied > 8 and equal(cluster), 120.0)
    assert damaged
    assert not [name for name in cluster.disks[late].list() if name.endswith(".tmp")]


def whole_snapshots(cluster: FakeCluster, name: str) -> list[str]:
    return [file for file in cluster.disks[name].list() if file.startswith("snapshot-") and not file.endswith(".tmp")]


def test_a_received_snapshot_that_turns_out_damaged_when_it_is_loaded_does_not_stay(
    cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It kept its real name, and its place on a disk that might be full, until the next start."""
    late = fall_behind(cluster)
    left: list[list[str]] = []
    load = snapshotting.load_machine

    def damaged_once(disk: Any, file: Any) -> Machine:
        if not left:
            left.append(whole_snapshots(cluster, late))
            raise Corrupt("damaged", "damaged")
        left.append(whole_snapshots(cluster, late))
        return load(disk, file)

    node = cluster.start(late)
    monkeypatch.setattr(snapshotting, "load_machine", damaged_once)
    cluster.run(lambda: left, 120.0)
    assert len(left[0]) == 1
    cluster.run(lambda: node.snapshots._loading is None)
    assert whole_snapshots(cluster, late) == []
    cluster.run(lambda: node.machine.applied > 8 and equal(cluster), 120.0)
    assert node.log.snapshot is not None


def test_a_received_snapshot_that_is_no_longer_wanted_does_not_stay(cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    late = fall_behind(cluster)
    node = cluster.start(late)
    cluster.run(lambda: node.raft is not None and node.snapshots._receiver is not None)
    raft, file = node.raft, None
    assert raft is not None
    with monkeypatch.context() as patch:
        cluster.run(lambda: node.snapshots._loading is not None)
        file = node.snapshots._loading
        assert file is not None
        assert whole_snapshots(cluster, late) == [file.name]
        patch.setattr(raft, "wants", lambda meta: False)
        cluster.run(lambda: node.snapshots._loading is None)
        assert whole_snapshots(cluster, late) == []
    cluster.run(lambda: node.machine.applied > 8 and equal(cluster), 120.0)


def test_a_snapshot_that_somebody_else_needs_too_is_not_dropped(cluster: FakeCluster) -> None:
    """One that is being taken, or that the log points to, has the same name if it stands for the same place."""
    grow(cluster)
    cluster.run(lambda: all(base(node) for node in cluster.nodes.values()))
    node = cluster.nodes["a"]
    file = node.log.snapshot
    assert file is not None
    node.snapshots._drop(file)
    assert file.name in whole_snapshots(cluster, "a")
    other = evolve(file, name="snapshot-0000000000000001-0000000000000001")
    cluster.disks["a"].allocate(other.name, 10)
    node.snapshots._taking = True
    node.snapshots._drop(other)
    assert other.name in whole_snapshots(cluster, "a")
    node.snapshots._taking = False
    node.snapshots._drop(other)
    assert other.name not in whole_snapshots(cluster, "a")


def test_a_leader_that_goes_in_the_middle_of_a_snapshot_is_followed_by_one_that_sends_its_own(cluster: FakeCluster) -> None:
    late = fall_behind(cluster)
    leader = cluster.leader()
    assert leader is not None
    node = cluster.start(late)
    cluster.run(lambda: node.snapshots._receiver is not None)
    cluster.crash(leader)
    cluster.run(lambda: node.machine.applied > 8, 120.0)
    cluster.start(leader)
    cluster.run(lambda: equal(cluster), 120.0)


def test_a_follower_that_goes_in_the_middle_of_a_snapshot_begins_again(cluster: FakeCluster) -> None:
    late = fall_behind(cluster)
    node = cluster.start(late)
    cluster.run(lambda: node.snapshots._receiver is not None)
    cluster.crash(late)
    again = cluster.start(late)
    assert not [name for name in cluster.disks[late].list() if name.endswith(".tmp")]
    cluster.run(lambda: again.machine.applied > 8 and equal(cluster), 120.0)


def test_a_follower_that_never_answers_is_given_up_and_the_snapshot_may_go(cluster: FakeCluster) -> None:
    late = fall_behind(cluster)
    cluster.start(late)
    tamper(cluster, late, lambda message: isinstance(message, SnapshotAck))
    leader = cluster.leader() or "a"
    cluster.run(lambda: any(node.snapshots._sending for node in cluster.nodes.values()), 60.0)
    sender = next(node for node in cluster.nodes.values() if node.snapshots._sending)
    sending = sender.snapshots._sending[late]
    cluster.run(lambda: sender.snapshots._sending.get(late) is not sending, 60.0)
    assert cluster.nodes[leader].failure is None


def test_a_callers_answer_that_went_by_in_a_snapshot_still_comes(cluster: FakeCluster) -> None:
    """Its batch is applied by the others while it is cut off; it never applies the entry itself."""
    late = next(name for name in "abc" if name != cluster.leader())
    call = write(cluster, late, ops.Add("n", 1))
    cluster.run(lambda: call.finished)
    leader = cluster.leader()
    assert leader is not None
    call = write(cluster, late, ops.Add("n", 1))
    cluster.nodes[late].turn(0.0)  # hands it over
    cluster.paused.add(late)
    cluster.run(lambda: read(cluster.nodes[leader], ops.Get("n"))[1][1] == b"2")
    grow(cluster)
    cluster.run(lambda: base(cluster.nodes[leader]) > 8)
    cluster.network.ends[late].events.clear()  # what came for it in the meantime was lost
    for peer in "abc":
        cluster.network.cut(late, peer)
        cluster.network.cut(peer, late)
    cluster.paused.clear()
    cluster.run(lambda: call.finished, 120.0)
    assert call.error is None
    assert call.answer is not None
    assert call.answer[2] == 2
    assert base(cluster.nodes[late]) > 8


@pytest.mark.parametrize("seed", range(3))
def test_members_that_crash_again_and_again_stay_equal(seed: int) -> None:
    rng = random.Random(seed)
    cluster = FakeCluster(config=SMALL)
    cluster.run(cluster.leader)
    added = 0
    for _ in range(12):
        name = rng.choice("abc")
        cluster.crash(name)
        other = rng.choice([one for one in "abc" if one != name])
        for _ in range(rng.randrange(1, 12)):
            calls = [write(cluster, other, ops.Put(f"k{rng.randrange(40)}", RNG.randbytes(8000))), write(cluster, other, ops.Add("n", 1))]
            added += 1
            cluster.run(lambda: all(call.finished for call in calls), 120.0)  # noqa: B023
        cluster.start(name)
    cluster.run(cluster.leader)
    cluster.run(lambda: equal(cluster), 120.0)
    node = cluster.nodes["a"]
    assert read(node, ops.Get("n"))[1][1] == str(added).encode()


def test_a_follower_that_pauses_while_the_log_is_trimmed_stops_nobody(cluster: FakeCluster) -> None:
    """Its connection stands, its window is full, and what it needs next is gone from the leader's log."""
    late = next(name for name in "abc" if name != cluster.leader())
    cluster.paused.add(late)
    grow(cluster)
    cluster.run(lambda: all(base(node) > 8 for name, node in cluster.nodes.items() if name != late))
    cluster.paused.clear()
    cluster.run(lambda: equal(cluster), 120.0)


def execute(cluster: FakeCluster, name: str, *operations: ops.Packable[Any]) -> None:
    for operation in operations:
        call = write(cluster, name, operation)
        cluster.run(lambda: call.finished)  # noqa: B023
        assert call.answer is not None
        assert call.answer[0] == 0


def test_a_snapshot_brings_leases_and_compacted_history_to_a_member_that_fell_behind(cluster: FakeCluster) -> None:
    leader = cluster.leader() or ""
    execute(
        cluster,
        leader,
        ops.Grant(9, 3_600_000_000, 5),
        ops.Grant(10, 15_000_000, 5),
        ops.Put("kept", "1", lease=9),
        ops.Put("passing", "1", ttl=20.0),
        ops.Put("short", "1", lease=10),
        ops.Put("kept", "2", lease=9),
        ops.Put("gone", "1"),
        ops.Delete("gone"),
        ops.Compact(4),
        ops.KeepAlive(5),
    )
    late = fall_behind(cluster)
    node = cluster.start(late)
    cluster.run(lambda: node.machine.applied > 8 and equal(cluster))
    assert base(node) > 8
    assert node.machine.store.compacted == 4
    cluster.run(lambda: [lease.id for lease in node.machine.leases] == [9], 60.0)
    cluster.run(lambda: equal(cluster))
    assert read(node, ops.Scan(prefix="s"))[2] == ()
    assert read(node, ops.Get("kept"))[1][1:] == (b"2", 2, 5, 2, 9)
    assert read(node, ops.Get("passing"))[1] is None
    assert [record[0] for record in node.machine.store.events if record[1] is None and record[5]] == [b"short", b"passing"]


def test_members_that_scrubbed_differently_take_equal_snapshots(cluster: FakeCluster) -> None:
    leader = cluster.leader() or ""
    slow = next(name for name in "abc" if name != leader)
    cluster.nodes[slow].upkeep._scrubbing.next_at = float("inf")  # it never comes to it
    sums: dict[int, set[bytes]] = {}
    for number in range(60):
        execute(cluster, leader, ops.Put(f"k{number % 4}", RNG.randbytes(1500)), ops.Delete(f"k{number % 3}"))
        if number % 10 == 9:
            execute(cluster, leader, ops.Compact(cluster.nodes[leader].published.revision - 7))
        for node in cluster.nodes.values():
            if (file := node.log.snapshot) is not None:
                sums.setdefault(file.meta.index, set()).add(file.sha256)
    cluster.run(lambda: not cluster.nodes[leader].machine.store.unscrubbed and equal(cluster))
    assert cluster.nodes[slow].machine.store.unscrubbed
    assert len(sums) >= 3
    assert {len(each) for each in sums.values()} == {1}


def loading(cluster: FakeCluster) -> tuple[str, Node]:
    """Have a follower that fell behind receive a whole snapshot, while its housekeeper does nothing."""
    late = fall_behind(cluster)
    node = cluster.start(late)
    assert isinstance(node.housekeeper, InlineHousekeeper)
    node.housekeeper.idle = True
    cluster.run(lambda: node.snapshots._loading is not None)
    return late, node


def rouse(node: Node) -> None:
    assert isinstance(node.housekeeper, InlineHousekeeper)
    node.housekeeper.idle = False


def test_a_member_is_heard_while_it_loads_a_snapshot(cluster: FakeCluster) -> None:
    """A million keys took seconds on the thread that answers heartbeats."""
    _, node = loading(cluster)
    leader, term = cluster.leader(), node.raft.term if node.raft is not None else 0
    until = cluster.now + 5 * cluster.settings.election_timeout
    cluster.run(lambda: cluster.now >= until)
    assert node.snapshots._loading is not None
    assert base(node) == 0
    assert cluster.leader() == leader
    assert node.raft is not None
    assert node.raft.term == term
    rouse(node)
    cluster.run(lambda: base(node) > 8 and equal(cluster))


def test_a_leader_that_gave_up_meanwhile_is_answered_when_the_snapshot_is_loaded(cluster: FakeCluster) -> None:
    _, node = loading(cluster)
    until = cluster.now + 3 * GIVE_UP_AFTER
    cluster.run(lambda: cluster.now >= until)
    rouse(node)
    cluster.run(lambda: equal(cluster))


def test_a_snapshot_that_nobody_needs_any_more_when_it_is_loaded_changes_nothing(
    cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, node = loading(cluster)
    machine, raft = node.machine, node.raft
    assert raft is not None
    monkeypatch.setattr(type(raft), "wants", lambda self, meta: False)
    rouse(node)
    cluster.run(lambda: node.snapshots._loading is None)
    assert node.machine is machine
    monkeypatch.undo()
    cluster.run(lambda: equal(cluster))


def test_a_snapshot_that_holds_no_state_is_dropped_and_sent_again(cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    _, node = loading(cluster)

    def corrupt(disk: object, file: object) -> Machine:
        raise Corrupt("no state")

    monkeypatch.setattr(snapshotting, "load_machine", corrupt)
    rouse(node)
    cluster.run(lambda: node.snapshots._loading is None)
    assert base(node) == 0
    monkeypatch.undo()
    cluster.run(lambda: equal(cluster), 120.0)


@pytest.mark.parametrize("chunk", [snapshotting.CHUNK, 4 << 20], ids=["in pieces", "as a whole"])
def test_a_snapshot_that_rots_after_it_was_found_good_is_looked_at_again_when_its_receiver_drops_it(
    cluster: FakeCluster, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was trusted for a minute, and sent again and again for as long."""
    monkeypatch.setattr(snapshotting, "CHUNK", chunk)
    late = fall_behind(cluster)
    name = cluster.leader()
    assert name is not None
    leader = cluster.nodes[name]
    assert leader.log.snapshot is not None
    file, since = leader.log.snapshot.name, cluster.now
    leader.snapshots._trusted = leader.log.snapshot, float("inf")
    data = cluster.disks[name].read(file, 0, 1 << 24)
    cluster.disks[name].write(file, len(data) // 2, bytes(100))
    node = cluster.start(late)
    cluster.run(lambda: node.machine.applied > 8 and equal(cluster))
    assert leader.log.snapshot.name != file
    assert cluster.now - since < GIVE_UP_AFTER


def test_a_snapshot_that_a_follower_has_asked_for_is_not_replaced_before_it_is_sent(cluster: FakeCluster) -> None:
    """Under load the next one was due before the last had been looked through, and none was ever sent."""
    late = fall_behind(cluster)
    leader = cluster.nodes[cluster.leader() or ""]
    assert isinstance(leader.housekeeper, InlineHousekeeper)
    assert leader.raft is not None
    leader.housekeeper.idle = True
    leader.snapshots._trusted = None, 0.0
    leader.snapshots.send(leader.raft, late, leader.clock())
    leader.snapshots.applied(leader.raft, leader.machine, SMALL.snapshot_bytes)
    assert not leader.snapshots.taking
    cluster.now += HOLD
    leader.snapshots.applied(leader.raft, leader.machine, SMALL.snapshot_bytes)
    assert leader.snapshots.taking
