"""One seed, and what became of it; in a module of its own, so that a worker finds it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from attrs import frozen

from replkv.testing.shrink import Failure, Reduction, failure_of
from replkv.testing.simulation import Simulation

if TYPE_CHECKING:
    from replkv.testing.simulation import Report


@frozen
class Attempt:
    """What became of a seed: the figures, and how it failed, if it did."""

    report: Report
    failure: Failure | None


def attempt(seed: int, reduction: Reduction, *, verbose: bool = False) -> Attempt:
    """Simulate a seed, with what the reduction leaves of it; with ``verbose`` print everything that happens."""
    simulation = Simulation(reduction.of(seed), verbose)
    try:
        return Attempt(simulation.run(), None)
    except Exception as error:  # noqa: BLE001  # whatever went wrong, the seed shows it again
        return Attempt(simulation.report(), failure_of(seed, reduction, simulation, error))
