"""Members that come, go, move and lose their disks in the simulator: the cluster sees to it, and what must hold is watched."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from plays import CALM, Play, play

from replkv.errors import Removed
from replkv.member_ops import ChangeMembers
from replkv.membership import Membership
from replkv.messages import Configuration
from replkv.testing.administrators import _next_voters
from replkv.testing.cluster import SimMember
from replkv.testing.history import Consistency, Violation
from replkv.testing.model import Wanted
from replkv.testing.sim import nothing
from replkv.wire import OK


@contextmanager
def founded(**changes: object) -> Iterator[Play]:
    """A cluster of three that all members know of, with administrators that look after it."""
    with play(**{"faults": ("membership",), "strikes": frozenset(), "spares": ("x", "y"), **changes}) as simulation:
        simulation.write(founders_leader(simulation), "founded")
        assert simulation.cluster.run_until(lambda: simulation.invariants.complete, 5.0)
        simulation.administrators.begin()
        yield simulation


def founders_leader(simulation: Play) -> SimMember:
    return simulation.leader([simulation.cluster.members[name] for name in simulation.scenario.names])


def change(simulation: Play, command: ChangeMembers, seconds: float = 20.0) -> None:
    """Ask for a change, and wait until it is as it was asked for."""
    assert simulation.ask(next(iter(simulation.electorate.leaders)), command) == (OK,)
    assert simulation.cluster.run_until(lambda: simulation.administrators.satisfied, seconds)


def test_a_wiped_member_comes_back_as_another_incarnation_and_votes_again() -> None:
    with founded(faults=("wipe",)) as simulation:
        victim = simulation.others(founders_leader(simulation))[0]
        before = victim.incarnation
        simulation.administrators.wipe(victim)
        victim.start()
        assert simulation.cluster.run_until(lambda: simulation.administrators.satisfied, 15.0)
        assert victim.incarnation not in (0, before)
        assert simulation.invariants.settled.is_voter(victim.name)
        assert not simulation.electorate.decide([victim.name], Configuration((victim.name,), members={victim.name: before}))


def test_a_member_joins_is_removed_told_and_can_only_come_back_empty() -> None:
    with founded() as simulation:
        newcomer = simulation.cluster.members["x"]
        change(simulation, ChangeMembers(add=(("x", newcomer.address),)))
        first = newcomer.incarnation
        assert simulation.invariants.settled.voters == ("a", "b", "c", "x")
        change(simulation, ChangeMembers(remove=("x",)))
        assert newcomer.farewell is Removed
        newcomer.employed = True
        newcomer.start()  # with what it had
        assert simulation.cluster.run_until(lambda: newcomer.node is None, 15.0)
        assert simulation.cluster.counts["removed member that came back and was told"] == 1
        change(simulation, ChangeMembers(add=(("x", newcomer.address),)))
        assert newcomer.incarnation != first


def test_a_leader_that_removes_itself_hands_over_before() -> None:
    with founded() as simulation:
        old = founders_leader(simulation)
        terms = len(simulation.invariants.leaders)
        change(simulation, ChangeMembers(remove=(old.name,)))
        assert len(simulation.invariants.leaders) == terms + 1
        assert old.node is None
        simulation.write(simulation.leader(simulation.cluster.sound), "without it")


def test_all_are_exchanged_at_once_and_nothing_is_lost() -> None:
    with founded() as simulation:
        members = simulation.cluster.members
        change(simulation, ChangeMembers(add=tuple((name, members[name].address) for name in "xy"), remove=("a", "b", "c")), 30.0)
        assert simulation.invariants.settled.voters == ("x", "y")
        assert simulation.read(simulation.leader([members["x"], members["y"]])) == b"founded"


def test_all_members_move_at_once_and_come_back() -> None:
    with founded(faults=("move",)) as simulation:
        members = simulation.cluster.running
        for member in members:
            member.address = f"inproc://{member.name}-elsewhere"
        for member in members:
            member.move()
            member.start()
        simulation.leader()
        simulation.cluster.run(2.0)
        assert simulation.invariants.settled.addresses == {name: f"inproc://{name}-elsewhere" for name in "abc"}


def test_an_address_is_written_down_once_though_a_connection_of_a_dead_process_is_left() -> None:
    """What such a connection had said was once taken for news, in turns with what the living process says, hundreds of times."""
    with founded(faults=("move",)) as simulation:
        mover = simulation.others(founders_leader(simulation))[0]
        mover.crash(power=True)  # nobody is told
        mover.address = "inproc://elsewhere"
        mover.told = simulation.cluster.map_for(mover)
        mover.start()
        simulation.cluster.run(6.0)
        assert simulation.invariants.settled.addresses[mover.name] == "inproc://elsewhere"
        assert len(simulation.invariants.configurations) == 2


def test_founders_are_told_again_of_a_founding_that_they_missed() -> None:
    """The founder once told those again only who were in a decided configuration, which takes most of them."""
    simulation = Play(CALM)
    members = simulation.cluster.members
    for member in members.values():
        member.start()
    assert simulation.cluster.run_until(lambda: members["a"].process.raft is not None, 5.0)
    assert members["b"].process.raft is members["c"].process.raft is None
    simulation.cluster.network.reset(1.0)  # what is on its way is lost
    simulation.cluster.run(0.001)
    assert members["b"].process.raft is members["c"].process.raft is None
    simulation.leader()


def test_who_is_needed_is_not_removed_while_another_is_away() -> None:
    """Of two that were left to vote one was away, so that nothing could be decided any more, its return included."""
    with founded() as simulation:
        leader = founders_leader(simulation)
        away, other = simulation.others(leader)[:2]
        away.crash(power=True)
        simulation.cluster.run(3.0)
        assert simulation.ask(leader, ChangeMembers(remove=(other.name,))) == (OK,)
        simulation.cluster.run(3.0)
        assert simulation.invariants.settled.voters == ("a", "b", "c")
        simulation.write(leader, "still")
        away.start()
        assert simulation.cluster.run_until(lambda: simulation.administrators.satisfied, 15.0)


# -- what may be wiped -------------------------------------------------------------------------------------------------------------


def test_a_disk_is_spared_that_will_be_needed_for_what_was_asked_for() -> None:
    with founded() as simulation:
        leader = founders_leader(simulation)
        kept, gone = simulation.others(leader)[:2]
        assert simulation.nemesis._can_spare(kept)
        simulation.cluster.network.cut([(a, b) for a in "abc" for b in "abc" if a != b])
        operation = simulation.workload.run(leader, ChangeMembers(remove=(gone.name,)), Consistency.WRITE, nothing)
        simulation.administrators._asked.append(operation)
        assert not simulation.nemesis._can_spare(kept)  # two would be left to vote
        assert simulation.nemesis._can_spare(gone)
        simulation.cluster.network.heal()


def test_the_voters_that_may_follow() -> None:
    now = Configuration(("a", "b"), members={"a": 1, "b": 2})
    roster = {"b": Wanted(True, ""), "c": Wanted(True, "")}
    assert {frozenset(voters) for voters in _next_voters(now, roster)} == {frozenset("ab"), frozenset("b"), frozenset("bc")}


# -- what must hold ----------------------------------------------------------------------------------------------------------------


def test_a_member_that_stops_as_if_it_were_removed_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    def mistaken(self: Membership, *_: object) -> None:
        raise Removed("by mistake")

    with pytest.raises(Violation, match="B2"), founded() as simulation:
        monkeypatch.setattr(Membership, "look_around", mistaken)
        simulation.cluster.run(1.0)


def test_a_vote_of_another_incarnation_is_not_counted() -> None:
    with pytest.raises(Violation, match="E4"), founded() as simulation:
        leader = founders_leader(simulation)
        simulation.invariants._members[leader.name].led = (0, 0, 0)
        for other in simulation.others(leader):
            if other.name in simulation.invariants._members:
                simulation.invariants._members[other.name].incarnation += 1
        simulation.invariants.observe(leader, leader.process)
