"""Has a run, or a batch of them, been anywhere?  Notes which situations of ``situations.py`` were reached.

Everything is seen from outside, after the turns of members, at the ends of their lives, and when something is committed or sent; the code
that is tested knows nothing of it.  A batch in which hardly anything was reached proves nothing, whatever it did not find.
"""

from __future__ import annotations

from itertools import chain
from typing import TYPE_CHECKING, Any

from attrs import define, field

from replkv.messages import TimeoutNow
from replkv.testing.account import RUNS, Account
from replkv.testing.invariants import KIND_AT
from replkv.testing.occasions import Decided, Sent, Turn, View
from replkv.testing.situations import COMMITS, ELECTIONS, ENDS, INSTALLATIONS, LEADERS, MESSAGES, OFFICES, STARTS, TURNS

if TYPE_CHECKING:
    from collections.abc import Callable, Container

    from replkv.leadership import Leadership
    from replkv.messages import Configuration
    from replkv.node import Node
    from replkv.testing.cluster import SimMember
    from replkv.testing.network import SimTransport
    from replkv.testing.simulation import Simulation
    from replkv.testing.situations import Situations

SITUATIONS = tuple(chain(OFFICES, TURNS, INSTALLATIONS, ELECTIONS, LEADERS, STARTS, ENDS, *MESSAGES.values(), COMMITS, RUNS))
"""The names of all situations."""
ENOUGH = 0.95
"""The share of them that a batch has to reach."""


@define(eq=False, repr=False)
class Sights:
    """Looks for situations in a run.

    Args:
        simulation: the run.
    """

    simulation: Simulation
    reached: set[str] = field(factory=set)
    views: dict[str, View] = field(factory=dict)
    """How each member was seen last, also those that are down."""
    previous: dict[str, View] = field(factory=dict)
    """How the life before looked in the end."""
    heirs: dict[int, str] = field(factory=dict)
    """Who was told last to stand at once, by the term of the leader who said so."""
    _ahead: dict[int, dict[str, Callable[[Any], object]]] = field(factory=dict)  # of each occasion, what was not reached yet

    def __attrs_post_init__(self) -> None:
        cluster = self.simulation.cluster
        cluster.observers.append(self._look)
        cluster.mourners.append(self._life_ended)
        cluster.network.taps.append(self._overhear)
        self.simulation.invariants.commit_observers.append(lambda commit: self._look_for(COMMITS, Decided(self, commit)))

    def finish(self) -> None:
        """Look at the run as a whole."""
        self._look_for(RUNS, Account(self.simulation))

    # -- what those ask who recognise something ---------------------------------------------------------------------------------------

    def others(self, name: str) -> list[View]:
        """Return how those others look that are running."""
        return [other for other in self.views.values() if other.name != name and other.member.node is other.node]

    @property
    def leaders(self) -> dict[int, str]:
        """Who led, and in which life, by term."""
        return self.simulation.invariants.leaders

    @property
    def settled(self) -> Configuration | None:
        """The newest configuration that is committed."""
        invariants = self.simulation.invariants
        return invariants.settled if invariants.founded else None

    def led(self, name: str, term: int) -> bool:
        """Tell whether a member led in a term."""
        return self.leaders.get(term, "").split("/")[0] == name

    def changes_in(self, term: int) -> int:
        """Return how many configurations were proposed in a term."""
        return sum(proposed == term for _, proposed in self.simulation.invariants.configurations)

    def is_watched(self, node: Node) -> bool:
        """Tell whether somebody watches at a member."""
        return any(watcher.node is node for watcher in self.simulation.watchers.each)

    # -- occasions --------------------------------------------------------------------------------------------------------------------

    def _look(self, member: SimMember, node: Node) -> None:
        raft = node.raft
        if raft is None:
            return
        before, now = self.views.get(member.name), View.of(self, member, node, raft)
        if before is None or before.node is not node:
            self._begins(before, now)
        elif now != before:
            self.views[member.name] = now
            turn = Turn(before, now)
            self._look_for(TURNS, turn)
            if turn.matters:
                self._look_for(OFFICES, turn)
            if turn.installed:
                self._look_for(INSTALLATIONS, turn)
            if now.lead is not None:
                self._leads(before.lead, now)

    def _begins(self, before: View | None, now: View) -> None:
        self.views[now.name] = now
        if before is not None:
            self.previous[now.name] = before
        self._look_for(STARTS, now)
        if now.lead is not None:
            self._leads(None, now)

    def _leads(self, before: Leadership | None, now: View) -> None:
        if before is not now.lead:
            self._look_for(ELECTIONS, now)
        self._look_for(LEADERS, now)

    def _life_ended(self, member: SimMember, node: Node) -> None:
        last = self.views.get(member.name)
        if last is not None and last.node is node and not node.stopped:
            self._look_for(ENDS, last)

    def _overhear(self, sender: SimTransport, receiver: str, frame: bytes) -> None:
        situations = MESSAGES.get(frame[KIND_AT])
        if situations is not None:
            cluster = self.simulation.cluster
            message = cluster.network.read(frame).message
            self._look_for(situations, Sent(self, message, cluster.members[sender.name], cluster.members[receiver]))
            if isinstance(message, TimeoutNow):
                self.heirs[message.term] = receiver

    def _look_for(self, situations: Situations[Any], seen: object) -> None:
        """Look which situations are reached; one that was is looked for no more."""
        ahead = self._ahead.get(id(situations))
        if ahead is None:
            ahead = self._ahead[id(situations)] = dict(situations)
        found = [name for name, recognise in ahead.items() if recognise(seen)]
        for name in found:
            self.reached.add(name)
            del ahead[name]


def missing(reached: Container[str]) -> list[str]:
    """Return the situations that were never reached."""
    return [name for name in SITUATIONS if name not in reached]


def suffice(reached: Container[str]) -> bool:
    """Tell whether enough situations were reached."""
    return len(missing(reached)) <= (1 - ENOUGH) * len(SITUATIONS)
