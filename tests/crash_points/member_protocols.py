"""Everything that whole members do with their disks, as scripts for a calm cluster of three that ``a`` founds and leads."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from attrs import evolve, field, frozen
from member_stage import SEGMENT, Stage

from replkv.config import Config
from replkv.messages import Configuration

SNAPSHOTS = Config(segment_bytes=SEGMENT, snapshot_bytes=1500, trailing_entries=1)
AT_EVERY_ENTRY = evolve(SNAPSHOTS, snapshot_bytes=1)
SMALL_CHUNKS = {"snapshotting.CHUNK": 400}
SLOW = 0.5
"""Seconds that a step of a snapshot may take, so that other things happen between two of them."""


@frozen
class MemberProtocol:
    """A script, the members whose disks stop on the way, one at a time, and how the scenario differs from the calm one."""

    script: Callable[[Stage], None]
    victims: str
    differences: dict[str, Any] = field(factory=dict)

    @property
    def name(self) -> str:
        return self.script.__name__


# -- being a cluster ----------------------------------------------------------------------------------------------------------------------


def founding_a_cluster(stage: Stage) -> None:
    stage.begin()
    stage.pause(0.3)


def writing(stage: Stage) -> None:
    """Enough for several segments, at the leader and at a follower."""
    leader = stage.begin()
    for _ in range(4):
        stage.write(leader, 500)
        stage.write(stage["b"], 1100)
        stage.pause(0.3)


def electing(stage: Stage) -> None:
    """Leadership is handed over, and then taken from one that is gone."""
    leader = stage.begin()
    stage.raft("a").transfer("b", leader.process.clock())
    leader.wake()
    stage.wait(lambda: stage.leads("b"), "b leads")
    stage.write(stage["b"])
    stage.cut_off("b")
    stage.leader("ac")
    stage.reconnect()
    stage.write(stage["b"])


def lead_in_vain(stage: Stage) -> None:
    """Let the first leader go on writing when it is cut off."""
    leader = stage.begin()
    stage.write(leader)
    stage.cut_off("a")
    for _ in range(3):
        stage.ask(leader, 600)
        stage.pause(0.01)


def replacing_what_was_not_decided(stage: Stage) -> None:
    """A leader that is cut off goes on writing; the next one's entries take the place of these."""
    lead_in_vain(stage)
    stage.wait(lambda: stage.raft("a").durable_index >= 5, "a has written more")
    stage.leader("bc")
    stage.write(stage["b"], 300)
    stage.reconnect()
    stage.write(stage["a"])


def restarting(stage: Stage) -> None:
    stage.begin()
    stage.write(stage["b"], 400)
    stage["b"].crash(power=False)
    stage.start(stage["b"])
    stage.write(stage["b"], 400)
    stage["b"].crash(power=True)
    stage.start(stage["b"])
    stage.write(stage["b"], 400)


# -- membership ---------------------------------------------------------------------------------------------------------------------------


def founders(stage: Stage) -> dict[str, int]:
    return {member.name: member.process.links.identity.incarnation for member in stage.members}


def change(stage: Stage, voters: str, *, outgoing: str = "", learners: str = "") -> None:
    """Change the configuration, and wait until everybody has applied that."""
    index = stage.configure(stage["a"], Configuration(tuple(voters), tuple(outgoing), tuple(learners), founders(stage)))
    stage.wait(lambda: stage.applied(index), "the configuration is applied")


def changing_members(stage: Stage) -> None:
    stage.begin()
    change(stage, "ab", learners="c")
    stage.write(stage["c"])
    change(stage, "abc")
    stage.write(stage["c"])


def changing_members_jointly(stage: Stage) -> None:
    stage.begin()
    change(stage, "ab", outgoing="abc")
    stage.write(stage["b"])
    change(stage, "ab", learners="c")
    stage.write(stage["c"])


def taking_a_configuration_back(stage: Stage) -> None:
    """A leader that is cut off appends a configuration; the next one knows nothing of it."""
    leader = stage.begin()
    stage.write(leader)
    stage.cut_off("a")
    index = stage.configure(leader, Configuration(("a", "b"), (), ("c",), founders(stage)))
    stage.wait(lambda: stage.raft("a").durable_index >= index, "a has written it down")
    stage.leader("bc")
    stage.write(stage["c"])
    stage.reconnect()
    stage.write(stage["a"])


def restarting_with_a_configuration_in_a_snapshot(stage: Stage) -> None:
    """Also a joint one: it is all that is left of the entries that were trimmed."""
    leader = stage.begin()
    change(stage, "ab", outgoing="abc")
    for _ in range(6):
        stage.write(leader, 500)
    stage.wait(lambda: all(stage.snapshot_index(name) > 4 for name in "abc"), "there are snapshots")
    for name in "abc":
        stage[name].crash(power=True)
        stage.start(stage[name])
    stage.leader("abc")
    stage.write(stage["c"])


# -- snapshots ----------------------------------------------------------------------------------------------------------------------------


def taking_snapshots(stage: Stage) -> None:
    leader = stage.begin()
    for _ in range(8):
        stage.write(leader, 500)
    stage.wait(lambda: all(stage.snapshot_index(name) for name in "abc"), "there are snapshots")
    stage.pause(0.5)


def taking_a_snapshot_at_every_entry(stage: Stage) -> None:
    leader = stage.begin()
    for _ in range(4):
        stage.write(leader)
    stage.pause(0.5)


def installing_a_snapshot(stage: Stage) -> None:
    leader = stage.begin()
    stage.write(stage["c"])
    stage["c"].crash(power=True)
    while_away(stage)
    stage.start(stage["c"])
    stage.write(stage["c"])
    stage.write(leader, 500)
    stage.pause(0.5)


def while_away(stage: Stage) -> None:
    """Let the leader forget what the third member needs."""
    for _ in range(8):
        stage.write(stage["a"], 500)
    stage.wait(lambda: stage.snapshot_index("a") > 6, "the leader has a snapshot")
    stage.pause(0.3)


def installing_a_snapshot_over_what_conflicts(stage: Stage) -> None:
    """The first leader has entries behind its last common one that nobody else knows."""
    lead_in_vain(stage)
    heir = stage.leader("bc")
    for _ in range(8):
        stage.write(heir, 500)
    stage.wait(lambda: stage.snapshot_index(heir.name) > 7, "the leader has a snapshot")
    stage.pause(0.5)
    stage.reconnect()
    stage.write(stage["a"])
    stage.pause(0.5)


def installing_a_snapshot_while_one_is_taken(stage: Stage) -> None:
    """A newer one arrives before the member has finished its own."""
    leader = stage.begin()
    stage["c"].housekeeper.slowness = 2.0
    for _ in range(3):
        stage.write(leader, 500)
    stage.wait(lambda: stage["c"].process.snapshots.taking, "c takes a snapshot")
    stage.cut_off("c")
    while_away(stage)
    stage.reconnect()
    stage.write(stage["c"])
    stage.pause(4.0)


# -- healing ------------------------------------------------------------------------------------------------------------------------------


def healing_a_log(stage: Stage) -> None:
    """A flush before the last is damaged: what followed comes from the leader, and the last flush says how far the log went."""
    leader = stage.begin()
    stage.pause(0.3)
    for _ in range(4):
        stage.write(leader, 300)
    file, begin = stage.newest_flush("b")
    stage.damage("b", file, max(begin - 1024, 0))
    heal(stage)


def heal(stage: Stage) -> None:
    stage.start(stage["b"])
    stage.write(stage["b"], 300)
    stage.wait(lambda: not stage["b"].rotten, "b is healed")
    stage.write(stage["b"], 300)


def healing_a_log_that_lost_its_end(stage: Stage) -> None:
    """The last flush is damaged: nobody knows whom the member voted for last."""
    leader = stage.begin()
    stage.pause(0.3)
    for _ in range(4):
        stage.write(leader, 300)
    stage.damage("b", *stage.newest_flush("b"))
    heal(stage)


def healing_a_snapshot(stage: Stage) -> None:
    leader = stage.begin()
    for _ in range(6):
        stage.write(leader, 500)
    stage.wait(lambda: stage.snapshot_index("b") > 0, "there is a snapshot")
    stage.pause(0.3)
    snapshot = stage["b"].process.log.snapshot
    assert snapshot is not None
    stage.damage("b", snapshot.name, snapshot.size // 2)
    heal(stage)


# -- the end ------------------------------------------------------------------------------------------------------------------------------


def closing_a_leader(stage: Stage) -> None:
    stage.begin()
    stage.write(stage["b"], 400)
    close(stage, "a")
    stage.write(stage["b"], 400)
    stage.start(stage["a"])
    stage.write(stage["a"], 400)


def close(stage: Stage, name: str) -> None:
    stage[name].close(1.0)
    stage.wait(lambda: stage[name].node is None, "it closes")


def closing_in_the_middle_of_a_snapshot(stage: Stage) -> None:
    leader = stage.begin()
    for _ in range(3):
        stage.write(leader, 500)
    stage.wait(lambda: leader.process.snapshots.taking, "a snapshot is taken")
    close(stage, "a")
    stage.start(leader)
    stage.write(leader, 500)


def closing_with_writes_under_way(stage: Stage) -> None:
    leader = stage.begin()
    for _ in range(5):
        stage.ask(leader, 300)
        stage.ask(stage["b"], 300)
    close(stage, "a")
    stage.start(leader)
    stage.write(leader)


MEMBER_PROTOCOLS = (
    MemberProtocol(founding_a_cluster, "abc"),
    MemberProtocol(writing, "ab"),
    MemberProtocol(electing, "abc"),
    MemberProtocol(replacing_what_was_not_decided, "ab"),
    MemberProtocol(restarting, "b"),
    MemberProtocol(changing_members, "ac"),
    MemberProtocol(changing_members_jointly, "ac"),
    MemberProtocol(taking_a_configuration_back, "ab"),
    MemberProtocol(restarting_with_a_configuration_in_a_snapshot, "ac", {"config": SNAPSHOTS}),
    MemberProtocol(taking_snapshots, "ab", {"config": SNAPSHOTS}),
    MemberProtocol(taking_a_snapshot_at_every_entry, "ab", {"config": AT_EVERY_ENTRY}),
    MemberProtocol(installing_a_snapshot, "ac", {"config": SNAPSHOTS, "knobs": SMALL_CHUNKS}),
    MemberProtocol(installing_a_snapshot_over_what_conflicts, "a", {"config": SNAPSHOTS, "knobs": SMALL_CHUNKS}),
    MemberProtocol(installing_a_snapshot_while_one_is_taken, "c", {"config": SNAPSHOTS, "knobs": SMALL_CHUNKS}),
    MemberProtocol(healing_a_log, "ab"),
    MemberProtocol(healing_a_log_that_lost_its_end, "ab"),
    MemberProtocol(healing_a_snapshot, "ab", {"config": SNAPSHOTS, "knobs": SMALL_CHUNKS}),
    MemberProtocol(closing_a_leader, "ab"),
    MemberProtocol(closing_in_the_middle_of_a_snapshot, "a", {"config": SNAPSHOTS, "snapshot_step": SLOW}),
    MemberProtocol(closing_with_writes_under_way, "a"),
)
