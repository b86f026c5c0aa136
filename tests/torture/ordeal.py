"""One run: real processes, clients, watchers and faults; then peace, and a judgement on everything that was seen."""

from __future__ import annotations

import itertools
import json
import random
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

from arena import HISTORY, Arena
from attrs import define, field, frozen
from clients import Clients
from cluster import eventually
from faults import FAULTS, Fault, usable
from grounds import why_no_namespaces
from spectators import Spectator
from verdict import judge

from replkv.testing.blackbox import read_history

SEEN = "seen.json"  # in a run's directory: what the watchers saw, and the state at the end
SETTLE = 60.0  # s for a cluster that is left in peace to be whole again; it takes a few
GOES_ON = 20.0  # s for a majority that nothing is done to, to acknowledge a write; it takes one or two


@frozen
class Plan:
    """What a run is to be.

    Args:
        members: how many.
        seconds: how long faults go on; starting, settling and judging come on top.
        seed: of everything that is drawn.
        faults: their names.
    """

    members: int = 3
    seconds: float = 60.0
    seed: int = 1
    faults: tuple[str, ...] = tuple(FAULTS)


@define
class Figures:
    """What happened in a run; ``went_on``: the times that a majority had to go on, and did."""

    faults: Counter[str] = field(factory=Counter)
    calls: Counter[str] = field(factory=Counter)
    skipped: dict[str, str] = field(factory=dict)
    went_on: int = 0
    events: int = 0
    seconds: float = 0.0


class Failed(Exception):
    """A run failed; the text says why and where everything is, ``figures`` what had happened by then."""

    def __init__(self, text: str, figures: Figures) -> None:
        super().__init__(text)
        self.figures = figures


def torture(plan: Plan, keep: Path | None = None, say: Callable[[str], object] = print, *, verbose: bool = False) -> Figures:
    """Do a run.

    Args:
        plan: what it is to be.
        keep: a directory in which a failed one leaves its history, logs, data directories and schedule.
        say: is told what can't be done here.
        verbose: and of all that is done.

    Raises:
        Failed: something was seen that must not be.
    """
    began = time.monotonic()
    figures = Figures()
    for name, reason in usable(list(plan.faults)):
        if reason:
            figures.skipped[name] = reason
            say(f"  skipped: {name}: {reason}")
    faults = [name for name in plan.faults if name not in figures.skipped]
    if not faults:
        raise Failed("none of these faults can be done here", figures)
    root = Path(tempfile.mkdtemp(prefix=f"replkv-torture-{plan.seed}-", dir=keep))
    grounds = {"apart": not why_no_namespaces(), "proxied": "proxy" in faults, "small_disks": "full" in faults}
    try:
        with Arena(root, plan.members, seed=plan.seed, say=say if verbose else lambda _: None, **grounds) as arena:
            try:
                _Run(plan, arena, [FAULTS[name](arena) for name in faults], figures).run()
            except BaseException:
                arena.save()
                raise
    except Exception as error:
        what = f"seed {plan.seed} with {plan.members} members: {type(error).__name__}: {error}\neverything is in {root}"
        raise Failed(what, figures) from error
    except BaseException:  # interrupted: nobody asks for the files of half a run
        shutil.rmtree(root)
        raise
    finally:
        figures.seconds = time.monotonic() - began
    shutil.rmtree(root)
    return figures


class _Run:
    def __init__(self, plan: Plan, arena: Arena, faults: list[Fault], figures: Figures) -> None:
        self._plan = plan
        self._arena = arena
        self._faults = faults
        self._figures = figures
        self._rng = random.Random(f"torture {plan.seed}")
        self._next_faults = self._draw()
        self._clients = Clients(arena, plan.seed)
        self._spectators = [Spectator(str(number), arena) for number in range(len(arena.members))]

    def run(self) -> None:
        self._arena.start()
        self._clients.start()
        for spectator in self._spectators:
            spectator.start()
        until = time.monotonic() + self._plan.seconds
        while time.monotonic() < until:
            self._round(until)
        self._arena.note("peace")
        for ready in [member.ask("wait_ready", timeout=SETTLE) for member in self._arena]:
            ready.result(SETTLE)
        self._clients.stop()
        self._judge()

    # -- harm ------------------------------------------------------------------------------------------------------------------------

    def _draw(self) -> Iterator[Fault]:
        """Yield faults without end: all of them, before any comes again; and until each has found something to do, those that have not."""
        while True:
            missing = [fault for fault in self._faults if not self._figures.faults[fault.name]] or self._faults
            yield from self._rng.sample(missing, len(missing))

    def _round(self, until: float) -> None:
        """Begin one or two faults, let them last for some seconds, end them, and see that nobody was hurt for good."""
        rng, under_way = self._rng, list[Fault]()
        drawn = dict.fromkeys(itertools.islice(self._next_faults, rng.choice((1, 2, 2))))
        try:
            for fault in drawn:
                self._begin(fault, under_way)
            before = self._clients.acknowledged
            lasts = max(rng.uniform(1.0, 3.0), *(fault.lasts for fault in drawn))
            time.sleep(max(0.0, min(lasts, until - time.monotonic())))
            if self._has_majority(under_way):
                eventually(lambda: self._has_acknowledged(before), GOES_ON)
                self._figures.went_on += 1
        finally:
            for fault in reversed(under_way):
                fault.end()
                self._arena.note(f"end of {fault.name}")
        time.sleep(rng.uniform(0.1, 1.0))  # peace, for a moment
        self._clients.check()
        failures = self._arena.failures()
        assert not failures, f"stopped by themselves: {failures}"

    def _begin(self, fault: Fault, under_way: list[Fault]) -> None:
        taken = [member for other in under_way for member in other.victims]
        fault.victims = []
        did = fault.begin(self._rng, [member for member in self._arena if member not in taken])
        if did:
            under_way.append(fault)
            self._figures.faults[fault.name] += 1
            self._arena.note(f"{fault.name}: {did}")

    def _has_majority(self, under_way: list[Fault]) -> bool:
        """Tell whether most members, and all links, are as they should be."""
        hurt = {member.name for fault in under_way for member in fault.hurt}
        return 2 * len(hurt) < len(self._arena.members) and not any(fault.severs for fault in under_way)

    def _has_acknowledged(self, before: int) -> bool:
        """Tell whether a client's write was acknowledged since there were so many."""
        self._clients.check()
        return self._clients.acknowledged > before

    # -- peace -----------------------------------------------------------------------------------------------------------------------

    def _judge(self) -> None:
        """Every register takes one more write and gives it to one more reader; then everything is compared with everything."""
        last = self._clients.last_writes()
        for spectator in self._spectators:
            spectator.finish(last, SETTLE)
        eventually(self._all_alike, SETTLE)
        watches = [[event for event in spectator.seen if event[3] <= last] for spectator in self._spectators]
        state = next(iter(self._arena)).call("scan", revision=last)["kvs"]
        (self._arena.root / SEEN).write_text(json.dumps({"watches": watches, "state": state}))
        calls = read_history(self._arena.history)
        self._figures.calls.update(f"{call.kind} {call.outcome}" for call in calls)
        self._figures.events = sum(map(len, watches))
        judge(calls, watches, state)

    def _all_alike(self) -> bool:
        """Tell whether all members have the same state, unless a lease ends between two looks."""
        one, *others = self._arena.state().values()
        return all(state == one for state in others)


def judge_again(directory: Path) -> None:
    """Judge what a failed run has left, perhaps by better rules.

    Raises:
        Violation: it still looks wrong.
    """
    judge(read_history(directory / HISTORY), **json.loads((directory / SEEN).read_text()))
