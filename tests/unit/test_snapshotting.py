"""``snapshotting.py``: taking, sending and installing snapshots between whole members, and what disturbs it."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from itertools import pairwise
from typing import Any, cast

import pytest
from attrs import evolve
from caller import Caller
from fake_network import FakeCluster, InlineHousekeeper

from replkv import codec, ops, snapshotting
from replkv.config import Config
from replkv.errors import Corrupt, DiskFull
from replkv.machine import Machine
from replkv.messages import Message, SnapshotAck, SnapshotChunk
from replkv.node import Node
from replkv.snapshot import SnapshotReceiver
from replkv.snapshotting import GIVE_UP_AFTER, HOLD, LATELY, ROOM_AGAIN, Measure, Snapshots
from replkv.status import Status, Transfer
from replkv.values import Span
from replkv.watch import Cursor, Place

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


def test_a_member_that_restarts_does_not_look_through_its_whole_history_for_those_who_watch(cluster: FakeCluster) -> None:
    grow(cluster)
    cluster.run(lambda: all(base(node) > 8 for node in cluster.nodes.values()) and equal(cluster))
    cluster.crash("a")
    node = cluster.start("a")
    cursor = Cursor(Span(b"k", b"l"), Place(node.published.revision + 1), lambda: None)
    assert node.published.revision > 8
    assert node.hub.arm(cursor)
    assert node.hub.rests(cursor, node.published.revision)


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


def test_a_snapshot_that_was_not_needed_while_another_was_taken_does_not_stay(cluster: FakeCluster) -> None:
    """It might have been the one that was being taken, and was left where it was until the next start."""
    grow(cluster)
    cluster.run(lambda: all(base(node) for node in cluster.nodes.values()))
    node = cluster.nodes["a"]
    assert isinstance(node.housekeeper, InlineHousekeeper)
    assert node.log.snapshot is not None
    node.housekeeper.idle = node.snapshots._damaged = True
    cluster.run(lambda: node.snapshots.taking)
    other = evolve(node.log.snapshot, name="snapshot-0000000000000001-0000000000000001")
    cluster.disks["a"].allocate(other.name, 10)
    node.snapshots._drop(other)
    assert other.name in whole_snapshots(cluster, "a")
    rouse(node)
    cluster.run(lambda: not node.snapshots.taking)
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


def test_members_that_scrubbed_differently_take_equal_snapshots(cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Snapshots, "_share", lambda self, raft, before: SMALL.snapshot_bytes)  # all at the same entries
    leader = cluster.leader() or ""
    slow = next(name for name in "abc" if name != leader)
    cluster.nodes[slow].upkeep._scrubbing.next_at = float("inf")  # it never comes to it
    sums: dict[int, dict[str, bytes]] = {}
    for number in range(60):
        execute(cluster, leader, ops.Put(f"k{number % 4}", RNG.randbytes(1500)), ops.Delete(f"k{number % 3}"))
        if number % 10 == 9:
            execute(cluster, leader, ops.Compact(cluster.nodes[leader].published.revision - 7))
        for name, node in cluster.nodes.items():
            if (file := node.log.snapshot) is not None:
                sums.setdefault(file.meta.index, {})[name] = file.sha256
    cluster.run(lambda: not cluster.nodes[leader].machine.store.unscrubbed and equal(cluster))
    assert cluster.nodes[slow].machine.store.unscrubbed
    assert sum(len(each) == 3 for each in sums.values()) >= 3
    assert {len({*each.values()}) for each in sums.values()} == {1}


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


# -- taking turns --------------------------------------------------------------------------------------------------------------------


SPREAD = Config(snapshot_bytes=12_000, trailing_entries=4, segment_bytes=1 << 16)


def places(cluster: FakeCluster, count: int) -> dict[str, list[int]]:
    """Write entries of one size until each member has taken some snapshots; return at which entries, by member."""
    taken: dict[str, list[int]] = {name: [] for name in cluster.nodes}
    number = 0
    while min(map(len, taken.values())) < count:
        number += 1
        call = write(cluster, cluster.leader() or "a", ops.Put("k", RNG.randbytes(200)))
        cluster.run(lambda: call.finished)  # noqa: B023
        for name, node in cluster.nodes.items():
            if base(node) and base(node) not in taken[name]:
                taken[name].append(base(node))
        assert number < 1000
    return taken


def distances(taken: dict[str, list[int]], apart: int) -> list[int]:
    """Return how many entries lie between each snapshot and the nearest of another member, from their ``apart``-th on."""
    everywhere = [(index, name) for name, indexes in taken.items() for index in indexes]
    ends = min(indexes[-1] for indexes in taken.values())
    return [
        min(abs(index - other) for other, whose in everywhere if whose != name)
        for name, indexes in taken.items()
        for index in indexes[apart:]
        if index <= ends
    ]


def test_members_do_not_all_take_their_snapshots_at_the_same_moment() -> None:
    """All counted the same bytes of log, and so began at the same entry."""
    cluster = FakeCluster(config=SPREAD)
    cluster.run(cluster.leader)
    taken = places(cluster, 4)
    period = taken["a"][2] - taken["a"][1]
    assert min(distances(taken, 0)) >= period // 4
    for indexes in taken.values():  # each as often as if it were alone
        assert max(later - sooner for sooner, later in pairwise(indexes)) <= period + 2


def test_a_member_that_installed_the_leaders_snapshot_does_not_go_on_in_step_with_it() -> None:
    cluster = FakeCluster(config=SPREAD)
    cluster.run(cluster.leader)
    late = fall_behind(cluster)
    node = cluster.start(late)
    cluster.run(lambda: base(node) > 8 and equal(cluster))
    assert base(node) in {base(other) for name, other in cluster.nodes.items() if name != late}
    taken = places(cluster, 4)
    assert min(distances(taken, 1)) >= 3


def test_a_member_that_no_configuration_names_waits_for_as_much_log_as_any() -> None:
    cluster = FakeCluster(config=SPREAD)
    cluster.run(cluster.leader)
    node = cluster.nodes["b"]
    assert node.raft is not None
    assert [node.snapshots._share(node.raft, before) for before in (None, "a", "b", "c", "x")] == [8000, 4000, 12_000, 8000, 8000]
    node.snapshots._name = "x"
    assert node.snapshots._share(node.raft, "a") == 12_000


def test_turns_stay_apart_where_more_log_lies_between_two_snapshots(monkeypatch: pytest.MonkeyPatch) -> None:
    """Turns were spread over the longer interval at an installation, and by ``snapshot_bytes`` before: two members fell into step."""
    monkeypatch.setattr(Snapshots, "_interval", property(lambda _: 4 * SPREAD.snapshot_bytes))
    cluster = FakeCluster(config=SPREAD)
    cluster.run(cluster.leader)
    node = cluster.nodes["b"]
    assert node.raft is not None
    shares = [node.snapshots._share(node.raft, before) for before in (None, "a", "b", "c", "x")]
    assert shares == [44_000, 40_000, 48_000, 44_000, 44_000]


def test_what_is_written_into_snapshots_stays_in_proportion_to_what_is_put(monkeypatch: pytest.MonkeyPatch) -> None:
    """A million keys were written anew each 48 MiB of log, and a quarter of the time of puts went into that."""
    monkeypatch.setattr("replkv.snapshotting.LARGE", 0)
    cluster = FakeCluster(config=SPREAD)
    cluster.run(cluster.leader)
    nodes = cluster.nodes.values()
    grow(cluster)  # by 1,200,000 bytes: a hundred times what lies between two snapshots
    grow(cluster)
    for node in nodes:
        assert node.log.snapshot is not None
        assert node.log.snapshot.size // 2 < node.snapshots._interval <= node.log.snapshot.size
        with monkeypatch.context() as patch:
            patch.setattr("replkv.snapshotting.LONGEST", 5 * SPREAD.snapshot_bytes)
            assert node.snapshots._interval == 4 * SPREAD.snapshot_bytes
    taken = [node.snapshots.taken for node in nodes]
    grow(cluster)
    assert all(node.snapshots.taken - before <= 3 for node, before in zip(nodes, taken, strict=True))

    for _ in range(100):  # hardly anything is left of it, and that is known when the next snapshot is taken
        for operation in (ops.Put("k", RNG.randbytes(60_000)), ops.Delete(prefix="k"), None):
            call = write(cluster, "a", operation or ops.Compact(cluster.nodes["a"].published.revision))
            cluster.run(lambda: call.finished)  # noqa: B023
    assert all(node.snapshots._interval < 10 * SPREAD.snapshot_bytes for node in nodes)


def test_as_much_more_is_kept_and_waited_for_as_lies_between_two_snapshots(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Snapshots, "_interval", property(lambda _: 4 * SPREAD.snapshot_bytes))
    cluster = FakeCluster(config=SPREAD)
    cluster.run(cluster.leader)
    node = cluster.nodes["a"]
    raft, snapshots = node.raft, node.snapshots
    assert raft is not None
    snapshots._measure = Measure(1)
    for index in range(1, 201):
        snapshots._measure.add(index, 1000)
    assert snapshots._bound(200) == 153, "48 entries, which have 48,000 bytes"
    assert snapshots._keep_from(raft, 200, math.inf) == 189, "a quarter of that"
    snapshots._sending["b"] = cast("Any", None)
    snapshots._bytes = 8 * SPREAD.snapshot_bytes - 1
    assert snapshots._is_held(raft, 200)
    snapshots._bytes += 1
    assert not snapshots._is_held(raft, 200)


# -- what is kept --------------------------------------------------------------------------------------------------------------------


def test_the_bytes_between_two_entries_are_known_to_a_grain() -> None:
    measure = Measure(100)
    assert measure.first(7, 1000) == 8  # nothing was counted: nothing is kept
    rng = random.Random(5)  # its own: what is drawn must not depend on the tests before
    sizes = {index: rng.randrange(1, 80) for index in range(11, 400)}
    for index, size in sizes.items():
        measure.add(index, size)
    for index, most in ((399, 0), (399, 1000), (399, 5000), (350, 777), (11, 50), (399, 10**9), (200, 10**9)):
        first = measure.first(index, most)
        kept = sum(sizes[one] for one in range(first, index + 1))
        assert kept <= most + 180
        assert first == 11 or kept + sizes.get(first - 1, 0) >= most - 180
    measure.forget(300)
    first = measure.first(399, 10**9)
    assert 299 <= first <= 301
    assert sum(sizes[one] for one in range(first, 301)) < 100
    measure.restart()
    assert measure.first(399, 10**9) == 400
    measure.add(1000, 10)
    assert measure.first(1000, 10**9) == 1000


def small_writes(cluster: FakeCluster, until: Callable[[], Any]) -> None:
    """Let the log grow by small entries."""
    name = next(name for name in cluster.nodes if name not in cluster.paused)
    for number in range(3000):
        if until():
            return
        call = write(cluster, name, ops.Put("k", b"%d" % number))
        cluster.run(lambda: call.finished)  # noqa: B023
    raise AssertionError("in vain")


def test_a_follower_that_is_some_hundred_small_entries_behind_needs_no_snapshot() -> None:
    """256 entries were kept, whatever their size: a pause of a second was enough."""
    cluster = FakeCluster(config=Config(snapshot_bytes=60_000))
    cluster.run(cluster.leader)
    leader = cluster.nodes[cluster.leader() or ""]
    small_writes(cluster, lambda: leader.snapshots.taken == 1 and leader.snapshots.log_bytes > 20_000)
    late = next(name for name in "abc" if cluster.nodes[name] is not leader)
    before = cluster.nodes[late].raft
    assert before is not None
    cluster.crash(late)
    small_writes(cluster, lambda: leader.snapshots.taken == 2 and base(leader) - before.last_index > 300)
    assert cluster.now < 1000 + LATELY
    node = cluster.start(late)
    seen = chunks_to(cluster, late)
    cluster.run(lambda: node.machine.applied == leader.machine.applied)
    assert seen == []


def test_a_follower_that_was_away_for_long_holds_up_no_trimming() -> None:
    cluster = FakeCluster(config=Config(snapshot_bytes=60_000, trailing_entries=4))
    cluster.run(cluster.leader)
    leader = cluster.nodes[cluster.leader() or ""]
    late = next(name for name in "abc" if cluster.nodes[name] is not leader)
    cluster.crash(late)
    until = cluster.now + LATELY
    cluster.run(lambda: cluster.now > until, LATELY + 10)
    small_writes(cluster, lambda: leader.snapshots.taken == 1)
    assert leader.raft is not None
    log = leader.raft._log
    kept = sum(len(entry.encoded) for entry in log.between(log.base_index + 1, base(leader)))
    assert 60_000 / 8 < kept < 60_000 / 3  # a quarter, for anybody
    assert leader.raft.peers[late].match < log.base_index


def test_large_entries_are_not_kept_by_the_hundred() -> None:
    """They were counted, not weighed: 256 blocks may have 128 MiB."""
    cluster = FakeCluster(config=Config(snapshot_bytes=200_000))
    cluster.run(cluster.leader)
    leader = cluster.nodes[cluster.leader() or ""]
    for _ in range(3):
        grow(cluster)
    cluster.run(lambda: not leader.snapshots.taking)
    assert leader.raft is not None
    log = leader.raft._log
    assert sum(len(entry.encoded) for entry in log.between(log.base_index + 1, log.last_index)) < 3 * 200_000


def test_a_log_does_not_grow_without_limit_while_a_snapshot_is_sent_slowly(cluster: FakeCluster) -> None:
    """No other was taken meanwhile, however long it took."""
    late = fall_behind(cluster)
    leader = cluster.nodes[cluster.leader() or ""]
    cluster.start(late)
    tamper(cluster, late, lambda message: isinstance(message, SnapshotAck))
    cluster.run(lambda: leader.snapshots._sending)
    sending = leader.snapshots._sending[late]
    for _ in range(6):
        for number in range(20):
            sending.progressed = cluster.now  # as if one chunk came through now and then
            call = write(cluster, leader.name, ops.Put(f"k{number}", RNG.randbytes(60_000)))
            cluster.run(lambda: call.finished)  # noqa: B023
            large = leader.log.snapshot.size if leader.log.snapshot is not None else 0
            assert leader.snapshots.log_bytes < SMALL.snapshot_bytes + large + 2 * 60_000
    assert leader.snapshots._sending.get(late) is not sending
    assert leader.log.snapshot is not None
    assert leader.log.snapshot.meta.index > sending.file.meta.index
    assert sending.file.name not in cluster.disks[leader.name].list()


def test_a_follower_that_is_there_but_slow_is_not_left_behind(cluster: FakeCluster) -> None:
    """The snapshot waits for it until the log has grown by as much again."""
    leader = cluster.nodes[cluster.leader() or ""]
    assert leader.raft is not None
    late = next(name for name in "abc" if cluster.nodes[name] is not leader)
    grow(cluster)
    cluster.run(lambda: leader.raft is not None and leader.raft.peers[late].match == leader.raft.last_index)
    at, snapshots = leader.machine.applied, leader.snapshots
    before = leader.raft.peers[late].match
    assert not snapshots._leaves_behind(leader.raft, at, cluster.now)
    for peer in leader.raft.peers.values():
        peer.match = at + 9
    leader.raft.peers[late].match = base(leader)
    for index in range(at + 1, at + 10):
        snapshots._measure.add(index, SMALL.snapshot_bytes // 4)
    assert snapshots._leaves_behind(leader.raft, at + 9, cluster.now)
    assert not snapshots._leaves_behind(leader.raft, at + 9, cluster.now + 10)  # it is gone
    leader.raft.peers[late].match = base(leader) - 1
    assert not snapshots._leaves_behind(leader.raft, at + 9, cluster.now)  # it needs a snapshot anyway
    leader.raft.peers[late].match = before
    snapshots._bytes = 10**9
    snapshots._sending[late] = snapshotting._Sending(1, leader.log.snapshot, 0, 0.0, 0.0)  # type: ignore[arg-type]
    assert not snapshots._is_held(leader.raft, at)


# -- going on ------------------------------------------------------------------------------------------------------------------------


def chunks_to(cluster: FakeCluster, late: str) -> list[tuple[str, int]]:
    """Return a list that the sender and the offset of each chunk to a member are added to as it leaves."""
    seen: list[tuple[str, int]] = []
    for name in cluster.nodes:

        def note(message: Message, name: str = name) -> bool:
            if isinstance(message, SnapshotChunk):
                seen.append((name, message.offset))
            return False

        if name != late:
            tamper(cluster, name, note)
    return seen


@pytest.mark.parametrize("seconds", [1.0, 2 * GIVE_UP_AFTER], ids=["for a moment", "for so long that it was given up"])
def test_a_snapshot_goes_on_where_it_was_when_the_connection_was_lost(
    cluster: FakeCluster, seconds: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(snapshotting, "CHUNK", 50_000)
    late = fall_behind(cluster)
    node = cluster.start(late)
    cluster.run(lambda: node.snapshots._receiver is not None and node.snapshots._receiver.offset >= 500_000)
    receiver = node.snapshots._receiver
    cluster.paused.add(late)
    for peer in "abc":
        cluster.network.cut(late, peer)
        cluster.network.cut(peer, late)
    until = cluster.now + seconds
    while cluster.now < until:
        cluster.turn()
        for peer in "abc":
            cluster.network.cut(late, peer, told=False)
            cluster.network.cut(peer, late, told=False)
    cluster.paused.clear()
    cluster.network.ends[late].events.clear()
    seen = chunks_to(cluster, late)
    cluster.run(lambda: node.machine.applied > 8 and equal(cluster), 120.0)
    assert receiver is not None
    assert node.snapshots._receiver is None
    assert all(offset == 0 or offset >= 450_000 for _, offset in seen)
    assert seen


def test_a_snapshot_goes_on_where_it_was_when_its_leader_was_started_again(cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(snapshotting, "CHUNK", 50_000)
    late = fall_behind(cluster)
    node = cluster.start(late)
    cluster.run(lambda: node.snapshots._receiver is not None and node.snapshots._receiver.offset >= 500_000)
    leader = cluster.leader() or ""
    cluster.crash(next(name for name in "abc" if name not in (late, leader)))  # so that nobody else can lead
    cluster.crash(leader)
    cluster.start(leader)
    seen = chunks_to(cluster, late)
    cluster.run(lambda: node.machine.applied > 8 and equal(cluster), 120.0)
    assert seen
    assert {name for name, _ in seen} == {leader}
    assert all(offset == 0 or offset >= 500_000 for _, offset in seen)


def test_a_leader_waits_for_a_follower_that_takes_longer_to_load_than_it_would_wait_for_one_that_is_silent(cluster: FakeCluster) -> None:
    """It gave up after ten seconds, took its next snapshot, and trimmed what the follower needed: a large state never came through."""
    late, node = loading(cluster)
    leader = cluster.nodes[cluster.leader() or ""]
    sending = leader.snapshots._sending[late]
    until = cluster.now + 3 * GIVE_UP_AFTER
    while cluster.now < until:
        call = write(cluster, leader.name, ops.Put("meanwhile", RNG.randbytes(1000)))
        cluster.run(lambda: call.finished)  # noqa: B023
        later = cluster.now + 1.0
        cluster.run(lambda: cluster.now > later)  # noqa: B023
    assert leader.snapshots._sending[late] is sending
    assert leader.log.snapshot == sending.file
    rouse(node)
    seen = chunks_to(cluster, late)
    cluster.run(lambda: equal(cluster))
    assert all(offset > 0 for _, offset in seen)


def test_what_has_arrived_of_a_snapshot_that_nobody_needs_any_more_does_not_stay(cluster: FakeCluster) -> None:
    """The next leader had the log that was missing: the half stayed on the disk until the next start."""
    late = fall_behind(cluster)
    node = cluster.start(late)
    cluster.run(lambda: node.snapshots._receiver is not None)
    receiver, raft = node.snapshots._receiver, node.raft
    assert receiver is not None
    assert raft is not None
    node.snapshots.tick(raft, cluster.now)
    assert node.snapshots._receiver is receiver
    raft.commit, commit = receiver.meta.index, raft.commit
    node.snapshots.tick(raft, cluster.now)
    raft.commit = commit
    assert node.snapshots._receiver is None
    assert not [name for name in cluster.disks[late].list() if name.endswith(".tmp")]
    cluster.run(lambda: node.machine.applied > 8 and equal(cluster), 120.0)


def test_a_follower_without_room_for_a_snapshot_is_not_sent_it_again_and_again(
    cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was filled up, emptied and filled up again as fast as the leader could send."""
    late = fall_behind(cluster)
    node = cluster.start(late)
    tried: list[float] = []
    add = SnapshotReceiver.add

    def full(self: SnapshotReceiver, offset: int, data: bytes) -> None:
        if len(tried) < 3:
            tried.append(cluster.now)
            raise DiskFull("no room")
        add(self, offset, data)

    monkeypatch.setattr(SnapshotReceiver, "add", full)
    cluster.run(lambda: node.machine.applied > 8 and equal(cluster), 120.0)
    assert min(later - sooner for sooner, later in pairwise(tried)) >= ROOM_AGAIN


def test_nothing_is_sent_to_or_kept_for_one_that_is_no_follower_any_more(cluster: FakeCluster) -> None:
    late = fall_behind(cluster)
    leader = cluster.nodes[cluster.leader() or ""]
    cluster.start(late)
    tamper(cluster, late, lambda message: isinstance(message, SnapshotAck))
    cluster.run(lambda: leader.snapshots._sending)
    assert leader.raft is not None
    assert leader.raft._lead is not None
    del leader.raft._lead.peers[late]
    leader.snapshots.tick(leader.raft, cluster.now + GIVE_UP_AFTER)
    assert not leader.snapshots._sending
    assert leader.snapshots._held_until <= cluster.now + HOLD


# -- to look at ----------------------------------------------------------------------------------------------------------------------


def test_a_status_tells_how_far_snapshots_are(cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(snapshotting, "CHUNK", 50_000)
    late = fall_behind(cluster)
    leader = cluster.nodes[cluster.leader() or ""]
    assert leader.status().transfers == ()
    assert isinstance(leader.housekeeper, InlineHousekeeper)
    leader.housekeeper.idle = leader.snapshots._damaged = True
    cluster.run(lambda: leader.snapshots.taking)
    leader.housekeeper.idle = False
    node = cluster.start(late)
    seen: dict[str, list[Transfer]] = {}
    while node.machine.applied < 8:
        cluster.turn()
        for one in (*leader.status().transfers, *node.status().transfers):
            seen.setdefault(one.doing, []).append(one)
    assert {*seen} >= {"sending", "receiving"}
    assert {one.peer for one in seen["sending"]} == {late}
    assert {one.peer for one in seen["receiving"]} == {leader.name}
    for some in (seen["sending"], seen["receiving"]):
        assert {one.total for one in some} == {leader.log.snapshot.size if leader.log.snapshot is not None else 0}
        assert [one.done for one in some] == sorted(one.done for one in some)
        assert len({one.done for one in some}) > 5
    cluster.run(lambda: node.status().transfers == leader.status().transfers == ())


def test_a_status_tells_of_a_snapshot_that_is_loaded(cluster: FakeCluster) -> None:
    _, node = loading(cluster)
    assert [(one.doing, one.share) for one in node.status().transfers] == [("loading", 1.0)]


def test_a_status_tells_how_far_the_taking_of_a_snapshot_is(cluster: FakeCluster) -> None:
    grow(cluster)
    cluster.run(lambda: all(base(node) > 8 for node in cluster.nodes.values()))
    node = cluster.nodes["a"]
    assert isinstance(node.housekeeper, InlineHousekeeper)
    node.housekeeper.idle = node.snapshots._damaged = True
    cluster.run(lambda: node.snapshots.taking)
    steps, done = node.housekeeper.jobs.pop()
    shares = []
    for _ in steps:
        (one,) = node.status().transfers
        assert (one.doing, one.peer) == ("taking", "")
        shares.append(one.share)
    done(None)
    assert shares == sorted(shares)
    assert shares[0] < 0.3
    assert shares[-1] > 0.9
    assert node.status().transfers == ()


def test_a_status_survives_its_way_to_a_client_also_from_another_version() -> None:
    status = Status("a", "leader", "a", 3, 4, 5, 6, 7, ("a", "b"), ("b",), transfers=(Transfer("sending", "b", 10, 40),), last_term=2)
    wire = codec.unpack(codec.pack(status.to_wire()))
    assert Status.from_wire(wire) == status
    assert status.transfers[0].share == 0.25
    assert Status.from_wire((*wire, "more")) == status
    assert Status.from_wire(wire[:10]) == evolve(status, transfers=(), last_term=0)
    assert Transfer("taking", "", 0, 0).share == 1.0
