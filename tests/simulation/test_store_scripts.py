"""Leases, watches, history and quota in clusters that live through one particular story."""

from __future__ import annotations

import pytest
from plays import play

from replkv.config import Config, Settings
from replkv.ops import Compact, Delete, Put, Revoke
from replkv.testing.streams import End, validate
from replkv.testing.watchers import Watcher
from replkv.values import Event


def seen(watcher: Watcher) -> list[tuple[str, bytes, int]]:
    """What a consumer was yielded, whatever member it was at."""
    return [(event.kind, event.key, event.revision) for stream in watcher.streams for event in stream.events]


# -- leases ---------------------------------------------------------------------------------------------------------------------------


def test_a_lease_that_is_kept_alive_lives_through_a_change_of_leaders() -> None:
    with play() as simulation:
        old = simulation.leader()
        holder = simulation.others(old)[0]
        holding = simulation.hold(holder, 3.0)
        old.crash(power=True)
        simulation.cluster.run(10.0)
        assert not holding.held.lost
        assert simulation.lives(holding.held.id)


def test_a_lease_whose_process_died_expires_in_time_with_all_its_keys_at_once() -> None:
    with play() as simulation:
        leader = simulation.leader()
        holder, other = simulation.others(leader)
        lease = simulation.hold(holder, 1.0).held.id
        simulation.ask(other, Put("a", "1", lease=lease))
        simulation.ask(other, Put("b", "1", lease=lease))
        watcher = simulation.watch(other, whole=True)
        holder.crash(power=True)
        began = simulation.cluster.scheduler.now
        assert simulation.cluster.run_until(lambda: not simulation.lives(lease), 1.1)
        assert simulation.cluster.scheduler.now - began > 0.6  # keep-alives came three times within its time
        simulation.cluster.run(0.1)
        (part,) = watcher.stream.parts
        assert [isinstance(event, Event) and (event.kind, event.key, event.expired) for event in part] == [
            ("delete", b"a", True),
            ("delete", b"b", True),
        ]


def test_a_holder_that_is_cut_off_gives_up_before_the_cluster_does() -> None:
    with play() as simulation:
        holder = simulation.others(simulation.leader())[0]
        holding = simulation.hold(holder, 1.0)
        simulation.part(holder, told=False)
        assert simulation.cluster.run_until(lambda: holding.held.lost, 1.1)
        assert simulation.lives(holding.held.id)
        assert simulation.cluster.run_until(lambda: not simulation.lives(holding.held.id), 0.5)


def test_a_lease_outlives_a_leader_that_stood_still() -> None:
    with play() as simulation:
        leader = simulation.leader()
        holder = simulation.others(leader)[0]
        lease = simulation.hold(holder, 1.0, keep_alive=False).held.id  # a keeper goes by its own clock, and would revoke what it has lost
        for member in simulation.cluster.members.values():
            member.pause(30.0)
        simulation.cluster.run(30.5)
        assert simulation.leader() is leader, "it has had time to end leases"
        assert simulation.lives(lease)
        assert simulation.cluster.run_until(lambda: not simulation.lives(lease), 1.0), "and ends it when its time has run"


def test_a_lease_outlives_a_change_to_a_leader_that_has_counted_more_time() -> None:
    """The others were down meanwhile: what they know of time is what their logs say."""
    with play() as simulation:
        old = simulation.leader()
        others = simulation.others(old)
        simulation.cluster.run(2.0)
        simulation.part(old, told=True)
        for member in others:
            member.go_away(8.0)
        simulation.cluster.run(8.0)
        for member in others:
            member.start()
        new = simulation.leader(others)
        lease = simulation.hold(new, 3.0, keep_alive=False).held.id
        simulation.cluster.network.heal()
        assert old.process.raft is not None
        assert new.process.raft is not None
        assert simulation.cluster.run_until(lambda: simulation.leader() is new, 5.0)
        new.process.raft.transfer(old.name, new.clock())
        new.wake()
        assert simulation.cluster.run_until(lambda: simulation.leader() is old, 5.0)
        simulation.cluster.run(1.0)
        assert simulation.lives(lease)


def test_who_took_a_lease_over_decides_how_long_it_lives() -> None:
    with play() as simulation:
        first, second = simulation.others(simulation.leader())
        holding = simulation.hold(first, 1.0)
        taken = simulation.hold(second, 0.0, lease=holding.held.id)
        simulation.cluster.run(2.0)
        assert (holding.held.lost, taken.held.lost) == (True, False)
        second.crash(power=False)
        assert simulation.cluster.run_until(lambda: not simulation.lives(holding.held.id), 1.2)


def test_a_lease_nobody_heard_of_is_given_back() -> None:
    with play() as simulation:
        holder = simulation.others(simulation.leader())[0]
        kept = simulation.hold(holder, 1.0)
        answers: list[object] = []
        simulation.holders.hold(holder, 0, 1_000_000, keep_alive=True, then=answers.append, patience=0.0005)
        assert simulation.cluster.run_until(lambda: bool(answers), 1.0)
        assert answers == [None]
        simulation.cluster.run(2.0)
        assert list(simulation.invariants.witness.model.leases) == [kept.held.id]


def test_a_lease_that_was_revoked_is_lost_to_its_holder() -> None:
    with play() as simulation:
        leader = simulation.leader()
        holding = simulation.hold(simulation.others(leader)[0], 5.0)
        simulation.ask(leader, Put("k", "1", lease=holding.held.id))
        assert simulation.ask(leader, Revoke(holding.held.id)) == (0, 3, 1)
        simulation.cluster.run(0.2)
        assert holding.held.lost
        assert simulation.read(leader) is None


def test_an_idle_cluster_lets_leases_expire() -> None:
    with play() as simulation:
        lease = simulation.hold(simulation.leader(), 5.0, keep_alive=False).held.id
        entries = len(simulation.invariants.committed)
        simulation.cluster.run(4.9)
        assert simulation.lives(lease)
        assert len(simulation.invariants.committed) == entries
        simulation.cluster.run(0.2)
        assert not simulation.lives(lease)
        assert len(simulation.invariants.committed) == entries + 1


# -- watches --------------------------------------------------------------------------------------------------------------------------


def test_a_watch_goes_on_at_another_member_when_its_own_crashed() -> None:
    with play() as simulation:
        leader = simulation.leader()
        member = simulation.others(leader)[0]
        watcher = simulation.watch(member)
        simulation.write(leader, "1")
        simulation.cluster.run(0.1)
        member.crash(power=True)
        simulation.write(leader, "2")
        simulation.write(leader, "3")
        assert simulation.cluster.run_until(lambda: watcher.current, 5.0)
        assert seen(watcher) == [("put", b"k", 2), ("put", b"k", 3), ("put", b"k", 4)]
        assert [stream.end for stream in watcher.streams] == [End.LOST, End.OPEN]


def test_a_watch_sees_everything_that_a_snapshot_brought() -> None:
    with play(config=Config(snapshot_bytes=500, trailing_entries=1)) as simulation:
        leader = simulation.leader()
        member = simulation.others(leader)[0]
        watcher = simulation.watch(member)
        simulation.cluster.run(0.1)
        simulation.part(member, told=True)
        for number in range(30):
            simulation.write(leader, f"{number} {'x' * 100}")
        simulation.cluster.network.heal()
        assert simulation.cluster.run_until(lambda: watcher.current and len(seen(watcher)) == 30, 5.0)
        assert member.process.log.snapshot is not None
        assert seen(watcher) == [("put", b"k", revision) for revision in range(2, 32)]


def test_a_member_that_is_closed_has_its_watches_yield_what_there_is() -> None:
    with play() as simulation:
        leader = simulation.leader()
        member = simulation.others(leader)[0]
        watcher = simulation.watch(member)
        watcher.stall(100.0)
        for number in range(20):
            simulation.write(leader, f"{number}")
        member.close(1.0)
        assert simulation.cluster.run_until(lambda: member.node is None, 2.0)
        assert watcher.streams[0].end is End.CLOSED
        assert watcher.streams[0].published >= 20
        validate(watcher.streams[0], simulation.invariants.witness.model)
        member.start()


def test_a_watch_that_is_too_slow_for_compactions_is_told_so() -> None:
    with play() as simulation:
        leader = simulation.leader()
        watcher = simulation.watch(leader)
        simulation.cluster.run(0.1)
        simulation.write(leader, "1")
        watcher.stall(10.0)
        for number in range(2, 5):
            simulation.write(leader, f"{number}")
        simulation.ask(leader, Compact(4))
        simulation.write(leader, "5")
        assert simulation.cluster.run_until(lambda: watcher.streams[0].end is End.COMPACTED, 15.0)
        assert watcher.streams[0].compacted == (4, 4)


@pytest.mark.parametrize("name", ["leader", "follower"])
def test_a_tombstone_at_the_compaction_revision_is_there_for_watches_that_begin_at_it(name: str) -> None:
    with play() as simulation:
        leader = simulation.leader()
        member = leader if name == "leader" else simulation.others(leader)[0]
        simulation.write(leader, "1")
        simulation.ask(leader, Delete("k"))
        simulation.ask(leader, Compact(3))
        simulation.cluster.run(1.0)
        assert not member.process.machine.store.unscrubbed
        watcher = simulation.watch(member, 3)
        simulation.cluster.run(0.1)
        assert seen(watcher) == [("delete", b"k", 3)]


# -- history and quota ----------------------------------------------------------------------------------------------------------------


def test_a_full_store_refuses_puts_until_history_makes_room() -> None:
    with play(settings=Settings(max_bytes=1000, compact_age=0.0, compact_revisions=0, compact_bytes=0)) as simulation:
        leader = simulation.leader()
        answers = [simulation.ask(leader, Put("k", f"{number:100}")) for number in range(8)]
        assert [answer[0] for answer in answers] == [0] * 6 + [11] * 2
        assert simulation.ask(leader, Delete("k"))[0] == 0
        assert simulation.ask(leader, Put("k", f"{8:100}"))[0] == 11
        assert simulation.ask(leader, Compact(8))[0] == 0
        assert simulation.ask(leader, Put("k", f"{9:100}"))[0] == 0


def test_history_goes_by_itself_when_its_time_is_over() -> None:
    with play(settings=Settings(compact_age=10.0)) as simulation:
        leader = simulation.leader()
        for number in range(10):
            simulation.write(leader, f"{number}")
        simulation.cluster.run(8.0)
        assert leader.process.machine.store.compacted == 0
        simulation.cluster.run(4.0)
        stores = [member.process.machine.store for member in simulation.cluster.members.values()]
        assert {(store.compacted, len(store.events), store.unscrubbed) for store in stores} == {(11, 1, False)}
