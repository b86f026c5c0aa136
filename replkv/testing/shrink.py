"""A failing seed made short: the same failure with as little else as possible.

The seed is run again and again with something left out: single faults, callers, members, bad weather, tiny limits, time.  What does not
matter stays out (Zeller & Hildebrandt, Simplifying and Isolating Failure-Inducing Input, 2002).  What is left is told as arguments of
``python -m replkv.testing``, so that anybody can see it again.
"""

from __future__ import annotations

import time
import traceback
from typing import TYPE_CHECKING, Any

from attrs import asdict, evolve, field, fields, frozen, mutable

from replkv.config import Config, Settings
from replkv.testing.arguments import duration, positive, whole
from replkv.testing.history import Violation
from replkv.testing.network import Weather
from replkv.testing.simulation import Simulation
from replkv.testing.swarm import draw

if TYPE_CHECKING:
    from argparse import Namespace, _ActionsContainer
    from collections.abc import Callable, Iterator

    from replkv.testing.swarm import Scenario

RUNS = 200
SECONDS = 120.0
"""How much is spent on a failure."""
SLACK = 1.2
"""How much longer a run may become that leaves something out."""


def _numbers(text: str) -> frozenset[int]:
    """Return the numbers in a list such as 3,7,12; none in an empty one."""
    return frozenset(whole(number) for number in text.split(",") if number)


def _option(kind: Callable[[str], object] | None, text: str) -> Any:
    return field(default=False if kind is None else None, metadata={"kind": kind, "help": text})


@frozen
class Reduction:
    """What is left out of a seed's scenario; each field is an option of the command, None or False leaves things as they were drawn."""

    strikes: frozenset[int] | None = _option(_numbers, "the only faults that happen, by their numbers, such as 3,7")
    duration: float | None = _option(duration, "virtual seconds with faults")
    members: int | None = _option(positive, "how many there are")
    clients: int | None = _option(whole, "how many there are")
    holders: int | None = _option(whole, "how many of leases there are")
    watchers: int | None = _option(whole, "how many there are")
    users: int | None = _option(whole, "how many there are")
    calm: bool = _option(None, "a good network, and clocks that agree")
    plain: bool = _option(None, "the product's own sizes and limits")

    def of(self, seed: int) -> Scenario:
        """Return the scenario of a seed, reduced."""
        drawn = draw(seed)
        changes = self._changes
        if "members" in changes:
            changes["names"] = drawn.names[: changes.pop("members")]
        if changes.pop("calm", False):
            changes.update(weather=Weather(), drift=0.0, creep=0.0, snapshot_step=0.0005)
        if changes.pop("plain", False):
            changes.update(config=Config(), settings=Settings(), knobs={})
        return evolve(drawn, **changes)

    @property
    def _changes(self) -> dict[str, Any]:
        return {name: value for name, value in asdict(self, recurse=False).items() if value is not None and value is not False}

    @property
    def arguments(self) -> list[str]:
        """What to say to the command."""
        said: list[str] = []
        for name, value in self._changes.items():
            if value is True:
                said.append(f"--{name}")
            elif isinstance(value, frozenset):
                said += [f"--{name}", ",".join(map(str, sorted(value)))]
            else:
                said += [f"--{name}", str(value)]
        return said

    @classmethod
    def add_options(cls, parser: _ActionsContainer) -> None:
        """Have a command take the options."""
        for option in fields(cls):
            if option.metadata["kind"] is None:
                parser.add_argument(f"--{option.name}", action="store_true", help=option.metadata["help"])
            else:
                parser.add_argument(f"--{option.name}", type=option.metadata["kind"], help=option.metadata["help"])

    @classmethod
    def from_options(cls, options: Namespace) -> Reduction:
        """Return what a command was told."""
        return cls(**{option.name: getattr(options, option.name) for option in fields(cls)})


@frozen
class Failure:
    """A run that failed.

    Args:
        seed: whose.
        reduction: what was left out.
        rule: what was broken: that of a violation, or the kind of another error.
        error: what it says.
        story: where it was raised.
        events: how many there were until then.
        when: virtual seconds until then.
        struck: the faults until then: numbers and kinds.
        trace: what happened last.
    """

    seed: int
    reduction: Reduction
    rule: str
    error: str
    story: str
    events: int
    when: float
    struck: tuple[tuple[int, str], ...]
    trace: tuple[str, ...]

    @property
    def command(self) -> str:
        """How to see it again."""
        return " ".join(["python -m replkv.testing --seed", str(self.seed), *(argument or "''" for argument in self.reduction.arguments)])


def failure_of(seed: int, reduction: Reduction, simulation: Simulation, error: Exception) -> Failure:
    """Return what there is to say of a run that failed."""
    rule = error.rule if isinstance(error, Violation) else type(error).__name__
    scheduler, story = simulation.cluster.scheduler, "".join(traceback.format_exception(error))
    struck, trace = tuple(simulation.nemesis.struck), tuple(simulation.cluster.trace.tail)
    return Failure(seed, reduction, rule, str(error), story, scheduler.steps, scheduler.now, struck, trace)


def attempt(seed: int, reduction: Reduction) -> Failure | None:
    """Run a seed; return how it failed, None if it did not."""
    simulation = Simulation(reduction.of(seed))
    try:
        simulation.run()
    except Exception as error:  # noqa: BLE001  # whatever it is, it is to be told apart from others
        return failure_of(seed, reduction, simulation, error)
    return None


def shrink(failure: Failure, *, runs: int = RUNS, seconds: float = SECONDS) -> tuple[Failure, int]:
    """Look for a shorter run that fails in the same way.

    Args:
        failure: of the seed.
        runs: how many may be tried.
        seconds: that may be spent, about.

    Returns:
        The shortest that was found, and how many were tried.
    """
    shrinking = _Shrinking(failure, runs, time.monotonic() + seconds)
    while shrinking.go_through():
        pass
    return shrinking.best, runs - shrinking.runs


@mutable
class _Shrinking:
    """The search: what is tried, and the best so far."""

    best: Failure
    runs: int
    until: float

    def go_through(self) -> bool:
        """Try to leave out one thing after the other; tell whether that was of any use."""
        before = self.best.reduction
        self._cut_short()
        for changes in ({"watchers": 0}, {"holders": 0}, {"users": 0}, {"clients": 0}, {"clients": 1}, {"calm": True}, {"plain": True}):
            self._try(**changes)
        self._thin_out()
        for members in range(1, len(before.of(self.best.seed).names)):
            if self._try(members=members):
                break
        return self.best.reduction != before

    def _try(self, **changes: Any) -> bool:
        """Leave something out; tell whether the same failure comes of it, and hardly later."""
        reduction = evolve(self.best.reduction, **changes)
        if reduction == self.best.reduction or self.runs <= 0 or time.monotonic() > self.until:
            return False
        self.runs -= 1
        found = attempt(self.best.seed, reduction)
        if found is None or found.rule != self.best.rule or found.events > SLACK * self.best.events:
            return False
        self.best = found
        return True

    def _cut_short(self) -> None:
        """End the faults right before the failure, or a good while before."""
        duration = self.best.reduction.of(self.best.seed).duration
        if self.best.when < duration:
            self._try(duration=round(self.best.when + 0.001, 3))
        while duration > 0.1 and self._try(duration=round(min(duration, self.best.when) * 0.7, 3)):
            duration = self.best.reduction.of(self.best.seed).duration

    def _thin_out(self) -> None:
        """Leave out all faults, or all of a kind, or the half of them, a quarter, and so on."""
        if self._try(strikes=frozenset()):
            return
        for kind in sorted({fault for _, fault in self.best.struck}):
            self._keep([number for number, fault in self.best.struck if fault != kind])
        size = len(self.best.struck)
        while size > 1:
            size = (size + 1) // 2
            for part in self._parts(size):
                self._keep([number for number, _ in self.best.struck if number not in part])

    def _parts(self, size: int) -> Iterator[set[int]]:
        numbers = [number for number, _ in self.best.struck]
        for at in range(0, len(numbers), size):
            yield set(numbers[at : at + size])

    def _keep(self, numbers: list[int]) -> None:
        if len(numbers) < len(self.best.struck):
            self._try(strikes=frozenset(numbers))
