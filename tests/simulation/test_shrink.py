"""A seed that fails is made short, and fails as before."""

from __future__ import annotations

from argparse import ArgumentParser
from collections.abc import Callable

import pytest

from replkv import quorum
from replkv.messages import Configuration
from replkv.testing.shrink import Failure, Reduction, attempt, shrink
from replkv.testing.simulation import Simulation
from replkv.testing.swarm import draw

WHOLE = Reduction()


@pytest.fixture
def half_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    """A bug: half of the voters are taken for a majority."""

    def half(configuration: Configuration, value: Callable[[str], int]) -> int:
        ranked = sorted(map(value, configuration.voters), reverse=True)
        return ranked[max(0, len(ranked) // 2 - 1)]

    monkeypatch.setattr(quorum, "agreed", half)


def failing(seeds: range) -> Failure:
    """The first failure that comes late enough to be made much shorter."""
    failures = (attempt(seed, WHOLE) for seed in seeds)
    return next(failure for failure in failures if failure is not None and len(failure.struck) > 3)


@pytest.mark.usefixtures("half_decides")
def test_a_failure_is_made_much_shorter_and_stays_the_same() -> None:
    failure = failing(range(1000, 1060))
    shortest, tried = shrink(failure, runs=60, seconds=60.0)
    assert 0 < tried <= 60
    assert shortest.rule == failure.rule
    assert shortest.events < failure.events
    assert len(shortest.struck) < len(failure.struck)
    again = attempt(shortest.seed, shortest.reduction)
    assert again == shortest
    assert again is not None
    assert again.trace[-1].split()[0] <= f"{again.when:.6f}"


@pytest.mark.usefixtures("half_decides")
def test_no_more_is_tried_than_allowed() -> None:
    failure = failing(range(1000, 1060))
    assert shrink(failure, runs=3, seconds=60.0)[1] == 3
    assert shrink(failure, seconds=0.0) == (failure, 0)


def test_a_seed_that_keeps_its_promises_is_no_failure() -> None:
    assert attempt(3, WHOLE) is None


def test_what_is_left_out_is_left_out() -> None:
    seed = next(seed for seed in range(100) if len(draw(seed).names) > 3 and draw(seed).knobs)
    drawn, plain = draw(seed), Reduction(members=2, clients=0, duration=0.5, calm=True, plain=True).of(seed)
    assert (plain.names, plain.clients, plain.duration, plain.knobs) == (("a", "b"), 0, 0.5, {})
    assert (plain.drift, plain.weather.loss) == (0.0, 0.0)
    assert (plain.faults, plain.watchers, plain.seed) == (drawn.faults, drawn.watchers, seed)
    assert WHOLE.of(seed) == drawn


@pytest.mark.parametrize(
    "reduction",
    [
        WHOLE,
        Reduction(strikes=frozenset()),
        Reduction(strikes=frozenset({3, 12}), duration=4.125, members=1, clients=0, calm=True),
        Reduction(holders=2, watchers=0, plain=True),
    ],
)
def test_a_reduction_can_be_told_and_understood(reduction: Reduction) -> None:
    parser = ArgumentParser()
    Reduction.add_options(parser)
    assert Reduction.from_options(parser.parse_args(reduction.arguments)) == reduction


def test_faults_that_are_left_out_change_nothing_about_the_others() -> None:
    def strikes(reduction: Reduction) -> dict[str, str]:
        simulation = Simulation(reduction.of(7))
        simulation.cluster.trace.tail = type(simulation.cluster.trace.tail)()  # which forgets nothing
        simulation.run()
        lines = [line.split() for line in simulation.cluster.trace.tail]
        return {words[2]: words[0] + words[3] for words in lines if words[1] == "fault"}

    everything = strikes(WHOLE)
    assert len(everything) > 4
    kept = sorted(everything)[::2]
    assert strikes(Reduction(strikes=frozenset(map(int, kept)))) == {number: everything[number] for number in kept}
