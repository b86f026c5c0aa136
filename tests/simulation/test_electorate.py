"""Changes of the configuration in the simulator: what is drawn is legal, what must hold is watched, and it can be undone."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import attrs
import pytest
from plays import CALM, Play, play

from replkv import quorum
from replkv.leadership import Leadership
from replkv.messages import Configuration
from replkv.raftlog import RaftLog
from replkv.testing.electorate import Electorate, Part
from replkv.testing.history import Violation
from replkv.testing.shrink import Reduction, attempt
from replkv.testing.simulation import Simulation
from replkv.testing.swarm import draw

FIVE = tuple("abcde")


@contextmanager
def founded(names: tuple[str, ...] = FIVE) -> Iterator[Play]:
    """A cluster that all members know of."""
    with play(names=names, faults=("reconfigure",), strikes=frozenset()) as simulation:
        simulation.write(simulation.leader(), "founded")
        assert simulation.cluster.run_until(lambda: simulation.invariants.complete, 5.0)
        yield simulation


def in_effect(simulation: Play) -> Configuration:
    raft = simulation.leader().process.raft
    assert raft is not None
    return raft.configuration


def change(simulation: Play, parts: Mapping[str, Part], outgoing: tuple[str, ...] = ()) -> None:
    """Propose a configuration, and wait until it is committed."""
    electorate, leader = simulation.electorate, next(iter(simulation.electorate.leaders))
    new = electorate.made({name: parts.get(name, "nobody") for name in electorate.founders.names}, outgoing)
    assert electorate.propose(leader, new)
    assert simulation.cluster.run_until(lambda: simulation.invariants.settled == new, 5.0)


def test_whatever_is_drawn_may_follow_and_leaves_the_sound_in_charge() -> None:
    with founded() as simulation:
        rng, electorate = random.Random(1), simulation.electorate
        lost = simulation.cluster.members["e"]
        lost.wiped, incarnation, lost.incarnation = True, lost.incarnation, 0
        now, seen = electorate.founders, set()
        for _ in range(300):
            new = electorate.drawn(now, rng)
            if new is None:
                continue
            assert quorum.may_follow(now, new)
            assert all(2 * len({*half} & {*"abcd"}) > len(half) for half in (new.voters, new.outgoing) if half)
            assert new.members == {name: electorate.founders.members[name] for name in new.names}
            seen.add((len(new.voters), bool(new.outgoing), len(new.learners)))
            now = new
        assert len(seen) > 25
        lost.wiped, lost.incarnation = False, incarnation


def test_members_come_and_go_and_the_founders_come_back_in_the_end() -> None:
    with founded() as simulation:
        simulation.electorate.change(random.Random(1), 12)
        simulation.cluster.run(10.0)
        assert simulation.cluster.counts["configuration proposed"] > 8
        assert simulation.invariants.settled != simulation.electorate.founders
        for member in simulation.cluster.members.values():
            member.crash(power=True)
            member.start()
    assert simulation.invariants.settled == simulation.electorate.founders


@pytest.mark.parametrize("seed", range(5))
def test_a_core_decides_whichever_configuration_turns_out_to_be_in_force(seed: int) -> None:
    with founded() as simulation:
        simulation.electorate.change(random.Random(seed), 10)
        for _ in range(20):
            simulation.cluster.run(0.2)
            names = {member.name for member in simulation.electorate.core(simulation.cluster.sound, random.Random(seed))}
            for configuration in simulation.electorate.in_force:
                for half in (configuration.voters, configuration.outgoing):
                    assert not half or 2 * len(names & {*half}) > len(half)


def test_a_disk_is_spared_that_is_needed_to_decide() -> None:
    with founded(("a", "b", "c")) as simulation:
        leader = simulation.leader()
        other, another = simulation.others(leader)
        assert all(map(simulation.nemesis._can_spare, simulation.cluster.members.values()))
        change(simulation, {leader.name: "voter", other.name: "voter"})
        assert not simulation.nemesis._can_spare(leader)
        assert not simulation.nemesis._can_spare(other)
        assert simulation.nemesis._can_spare(another)


def test_a_leader_that_is_left_out_steps_down_and_another_takes_over() -> None:
    with founded(("a", "b", "c")) as simulation:
        old = simulation.leader()
        rest: dict[str, Part] = {other.name: "voter" for other in simulation.others(old)}
        change(simulation, rest)
        new = simulation.leader(simulation.others(old))
        assert new is not old
        simulation.write(new, "without it")


def test_nobody_is_changed_before_everybody_has_belonged() -> None:
    """A member that is left out before it was told of the founding could not know that it ever belonged."""
    simulation = Play(attrs.evolve(CALM, faults=("reconfigure",), strikes=frozenset()))
    members = simulation.cluster.members
    for member in members.values():
        member.start()
    assert simulation.cluster.run_until(lambda: members["a"].process.raft is not None, 5.0)
    assert members["c"].process.raft is None
    members["c"].crash(power=True)
    simulation.leader([members["a"], members["b"]])
    simulation.electorate.change(random.Random(1), 5)
    simulation.cluster.run(3.0)
    assert len(simulation.invariants.configurations) == 1
    members["c"].start()
    simulation.cluster.run(5.0)
    assert len(simulation.invariants.configurations) > 1


def test_a_member_hears_of_a_leader_that_it_has_never_heard_of_as_a_member() -> None:
    """It once refused its connections, "no member of this cluster", and could not be told otherwise."""
    with founded() as simulation:
        leader = simulation.leader()
        late, fresh, *_ = simulation.others(leader)
        everybody: dict[str, Part] = dict.fromkeys(simulation.electorate.founders.names, "voter")
        change(simulation, {**everybody, fresh.name: "nobody"})
        assert simulation.cluster.run_until(lambda: simulation._are_equal([late]), 5.0)
        late.crash(power=True)
        change(simulation, everybody)
        assert simulation.cluster.run_until(lambda: simulation._are_equal([fresh]), 5.0)
        raft = leader.process.raft
        assert raft is not None
        raft.transfer(fresh.name, leader.clock())
        leader.wake()
        rest = [member for member in simulation.cluster.members.values() if member is not late]
        assert simulation.cluster.run_until(lambda: simulation._leader(rest) is not None and simulation._leader(rest)[0] == fresh.name, 5.0)  # type: ignore[index]
        late.start()
        assert simulation.cluster.run_until(lambda: simulation._are_equal([late]), 5.0)


# -- what must hold ----------------------------------------------------------------------------------------------------------------


def is_noticed(*rules: str, first: int = 1000) -> bool:
    """Whether one of these rules is broken in a seed with changes of the configuration, from some seed on."""
    seeds = [seed for seed in range(first, first + 500) if "reconfigure" in draw(seed).faults and len(draw(seed).names) > 2]
    failures = (attempt(seed, Reduction(watchers=0, holders=0, users=0)) for seed in seeds)
    return any(failure is not None and failure.rule in rules for failure in failures)


def test_two_changes_at_a_time_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Leadership, "may_change_to", lambda self, new, commit: quorum.may_follow(self._log.configuration, new))
    assert is_noticed("G1", first=1040)


def test_a_configuration_that_is_not_rolled_back_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    truncate = RaftLog._truncate

    def stubborn(self: RaftLog, index: int) -> None:
        kept = list(self._configurations)
        truncate(self, index)
        self._configurations = kept

    monkeypatch.setattr(RaftLog, "_truncate", stubborn)
    assert is_noticed("G1", "N1", first=1640)


def test_a_joint_configuration_that_asks_one_half_only_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    agreed = quorum.agreed
    monkeypatch.setattr(quorum, "agreed", lambda configuration, value: agreed(Configuration(configuration.voters), value))
    assert is_noticed("C3", "C1", "C5", "L3", first=1110)


def test_a_lost_acknowledgement_is_noticed() -> None:
    simulation = Simulation(draw(3))
    simulation.run()
    member = next(iter(simulation.cluster.running))
    raft, seen = member.process.raft, simulation.invariants._members[member.name]
    assert raft is not None
    seen.acked = raft.term, raft.last_index, raft._log.last_term + 1
    with pytest.raises(Violation, match="L4"):
        simulation.invariants.observe(member, member.process)


def test_who_decides_in_a_joint_configuration() -> None:
    with founded() as simulation:
        electorate: Electorate = simulation.electorate
        change(simulation, {"a": "voter", "b": "voter"}, outgoing=FIVE)
        assert electorate.suffice("abc")
        assert not electorate.suffice("ab")
        assert not electorate.suffice("acde")
        change(simulation, {"a": "voter", "b": "voter"})
        assert in_effect(simulation).voters == ("a", "b")
        assert electorate.suffice("ab")
