"""The judge of leases must be just: an expiry that came too early is found, and so is a holder who was told nothing, or a wrong thing."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import cast

import attrs
import pytest
from plays import Play, play
from stories import Story

from replkv.ops import Grant, Put, Revoke
from replkv.testing.history import Violation
from replkv.testing.holders import Glance, Holders, Holding
from replkv.testing.model import Expiry
from replkv.testing.workload import Workload

# -- what somebody saw of a lease ---------------------------------------------------------------------------------------------------------


def seen(*glances: Glance) -> None:
    """Judge glances at a lease that is granted in entry 3, and has the key k from entry 4 to entry 5, which revokes it."""
    story = Story()
    story.wrote(Grant(7, 1000, 0))
    story.wrote(Put("k", "1", lease=7))
    story.wrote(Revoke(7))
    assert story.witness.index == 5
    holders = Holders(cast("Workload", None), random.Random(0))
    holders.glances += glances
    holders.check(story.witness)


def test_what_there_was_of_a_lease_is_right() -> None:
    seen(Glance("a/1", 7, None, 2, 0), Glance("a/1", 7, (), 3, 0), Glance("b/1", 7, (b"k",), 4, 3), Glance("b/1", 7, None, 5, 5))


@pytest.mark.parametrize(
    "glance",
    [
        Glance("a/1", 7, (), 2, 0),  # it was not granted yet
        Glance("a/1", 7, None, 3, 0),  # it was
        Glance("a/1", 7, (b"k",), 3, 0),  # it had no key yet
        Glance("a/1", 7, (), 4, 0),  # it had one
        Glance("a/1", 7, (b"j",), 4, 0),  # but not this one
        Glance("a/1", 7, (b"k",), 5, 0),  # it is revoked
        Glance("a/1", 7, (b"k",), 4, 5),  # somebody had seen more before
    ],
)
def test_what_there_was_not_of_a_lease_is_found(glance: Glance) -> None:
    with pytest.raises(Violation, match="T1"):
        seen(glance)


# -- when it ends ---------------------------------------------------------------------------------------------------------------------


@contextmanager
def held(ttl: float) -> Iterator[tuple[Play, Holding, int]]:
    """Hold a lease in a calm cluster; yields the entry in which it was granted too."""
    with play() as simulation:
        holding = simulation.hold(simulation.leader(), ttl, keep_alive=False)
        granted = len(simulation.invariants.committed)
        yield simulation, holding, granted


def expire(simulation: Play, holding: Holding, since: int, ttl: float) -> None:
    """Have the judge look at an expiry in an entry that is made now."""
    simulation.write(holding.member, f"{len(simulation.invariants.committed)}")
    expiry = Expiry(holding.held.id, round(ttl * 1e6), len(simulation.invariants.committed), since)
    simulation.invariants._check_expiry(holding.member, expiry)


def test_an_expiry_that_is_due_is_right() -> None:
    with held(3.0) as (simulation, holding, granted):
        simulation.cluster.run(2.999)
        assert holding.held.lost
        simulation.cluster.run(0.002)
        expire(simulation, holding, granted, 3.0)


def test_an_expiry_before_its_time_is_found() -> None:
    with held(3.0) as (simulation, holding, granted):
        simulation.cluster.run(2.5)
        with pytest.raises(Violation, match=r"K2: .* came 2\.5"):
            expire(simulation, holding, granted, 3.0)


def test_an_expiry_while_a_holder_counts_on_it_is_found() -> None:
    with held(3.0) as (simulation, holding, granted):
        simulation.cluster.run(2.0)
        with pytest.raises(Violation, match="K2: .* counted on it for another"):
            expire(simulation, holding, granted, 1.5)  # its time is over, if it was granted for less than its holder was told


def test_an_expiry_of_what_a_holder_has_given_up_is_right() -> None:
    with held(3.0) as (simulation, holding, granted):
        simulation.cluster.run(2.0)
        holding.held.lost, holding.told = True, 1
        expire(simulation, holding, granted, 1.5)


# -- what its holder is told ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("lost_before", "lost", "told"), [(True, False, 1), (False, True, 0), (False, True, 2), (True, True, 2)])
def test_a_loss_that_is_taken_back_or_not_told_once_is_found(lost_before: bool, lost: bool, told: int) -> None:
    with held(3.0) as (simulation, holding, _):
        holding.lost, holding.held.lost, holding.told = lost_before, lost, told
        with pytest.raises(Violation, match="K2: lease .* was lost"):
            simulation.invariants._check_holdings(holding.member, holding.node)
        holding.lost = holding.held.lost = False
        holding.told = 0


def test_a_lease_is_judged_by_the_clock_that_was_promised() -> None:
    """Clocks that may run 5 % apart may let a lease end 5 % early, and no holder may count on anything."""
    with held(3.0) as (simulation, holding, granted):
        calm = simulation.cluster.scenario
        simulation.cluster.scenario = attrs.evolve(calm, drift=0.05)
        simulation.cluster.run(2.86)
        expire(simulation, holding, granted, 3.0)
        with pytest.raises(Violation, match="K2"):
            expire(simulation, holding, granted, 3.1)
        simulation.cluster.scenario = calm
