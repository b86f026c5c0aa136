"""Did transactions depend on each other in circles?  Dependencies in the manner of Elle; revisions say which version came first.

Every pair that is shown says which version of its key was read, and ``mod_revision`` puts the versions in order.  So it is known, not
searched for, that one call wrote what another replaced (ww) or read (wr), or read what another replaced (rw), and that one returned before
another began (rt).  All of these say "comes before": in a circle they can't be true together.  Circles are named as Adya and Elle do.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from itertools import pairwise
from typing import TYPE_CHECKING, Literal, NamedTuple, TypeAlias

from replkv.testing import facts
from replkv.testing.drawing import draw
from replkv.testing.history import Violation

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from replkv.testing.blackbox import Call

Why: TypeAlias = Literal["ww", "wr", "rw", "rt", "rev"]

TIERS: tuple[tuple[frozenset[Why], str], ...] = (
    (frozenset(), ""),
    (frozenset({"rt"}), "-realtime"),
    (frozenset({"rt", "rev"}), "-revision"),
)
"""What beside dependencies on keys a circle may be made of, and how it is called then: time, and at last the revisions of the store."""


TRIED = 50
"""How many nodes a short circle is looked for from."""


class Edge(NamedTuple):
    """One node comes before another one; nodes are the numbers of calls, and behind them those of moments."""

    source: int
    target: int
    why: Why
    text: str = ""


def check_transactions(calls: Iterable[Call]) -> None:
    """Check that the calls of a history are strictly serializable, as far as dependencies tell; in n log n.

    Args:
        calls: of all processes, in any order.  Every value that is put is put once.

    Raises:
        Violation: they are not.  The rule is the anomaly's name: G0, G1c, G-single or G2, with what else it takes (see ``TIERS``), G1a if
            something was seen that had failed, T1 if it came from nobody.  The text shows the circle.
    """
    versions = Versions(list(calls))
    graph = Graph([*versions.edges(), *real_time(versions.calls)])
    knots = sorted(graph.knots(), key=len)
    if knots:
        name, circle = graph.worst_circle(knots[0])
        raise Violation(name, _draw_circle(versions.calls, circle))


# -- who wrote and read which version -----------------------------------------------------------------------------------------------


class Versions:
    """Who wrote and who read which version of which key.

    Args:
        history: all calls.

    Raises:
        Violation: a version was seen that nobody wrote, or only a call that failed.
    """

    def __init__(self, history: Sequence[Call]) -> None:
        self.calls = [call for call in history if call.outcome != "failed" and call.args.get("consistency") != "local"]
        self._makers = {made: number for number, call in enumerate(self.calls) if (made := facts.made(call)) is not None}
        self._writers: dict[str, dict[int, int]] = {}  # of each key and version
        self._removed: dict[str, list[int]] = {}  # of each key the revisions at which it was deleted
        self._leased = {key for call in history for keys in facts.leases_of(call).values() for key in keys}
        doubtful = [part for call in self.calls if call.outcome == "unknown" for part in facts.parts(call)]
        self._unsure = {part.args["key"] for part in doubtful if part.kind in ("put", "add")}  # what was seen may come from there
        self._perhaps_removed = {part.args["key"] for part in doubtful if part.kind == "delete"}
        for made, number in self._makers.items():
            self._note_writes(made, number)
        self._note_sightings([call for call in history if call.outcome == "failed"])

    def _note_writes(self, made: int, number: int) -> None:
        for part in facts.parts(self.calls[number]):
            if part.kind == "delete" and part.result["deleted"]:
                self._removed.setdefault(part.args["key"], []).append(made)
            if part.kind in ("put", "add") or (part.kind == "delete" and part.result["deleted"]):
                self._writers.setdefault(part.args["key"], {})[made] = number

    def _note_sightings(self, failed: Sequence[Call]) -> None:
        """Find the writers of what was seen of writes without an answer, by the values."""
        values = _writers_of_values(self.calls)
        aborted = {put: call for call in failed for put in facts.puts(call)}
        for call in self.calls:
            for key, pair in facts.sightings(call):
                if pair is None or pair[facts.MOD] in self._writers.get(key, {}):
                    continue
                writers = values.get((key, pair[facts.VALUE]), [])
                if len(writers) == 1:
                    self._note_place(key, pair[facts.MOD], writers[0])
                elif (key, pair[facts.VALUE]) in aborted:
                    raise Violation("G1a", f"what failed was seen:\n  {aborted[key, pair[facts.VALUE]]}\n  {call}")
                elif not writers and key not in self._unsure:
                    raise Violation("T1", f"nobody wrote {key} = {pair}, which was seen: {call}")

    def _note_place(self, key: str, version: int, number: int) -> None:
        places = self._writers.setdefault(key, {})
        others = [other for other, writer in places.items() if writer == number]
        if others:
            raise Violation("X2", f"one write was seen at the revisions {others[0]} and {version}: {self.calls[number]}")
        places[version] = number

    def edges(self) -> Iterator[Edge]:
        """Yield which call comes before which other one because of what it wrote or read."""
        order = {key: sorted(writers) for key, writers in self._writers.items()}
        for key, versions in order.items():
            writers = self._writers[key]
            yield from (Edge(writers[one], writers[two], "ww", f"{key} at {one}, then {two}") for one, two in pairwise(versions))
        for number, call in enumerate(self.calls):
            for key, version in self._reads(number, call):
                writers, versions = self._writers.get(key, {}), order.get(key, [])
                if version in writers:
                    yield Edge(writers[version], number, "wr", f"{key} at {version}")
                behind = versions[bisect_right(versions, version) :][:1]
                text = f"{key} at {version}, replaced at {{}}"
                yield from (Edge(number, writers[after], "rw", text.format(after)) for after in behind if writers[after] != number)
        yield from self._revision_edges()

    def _revision_edges(self) -> Iterator[Edge]:
        """Yield the same for the revision of the store, which every write replaces."""
        order = sorted(self._makers)
        yield from (Edge(self._makers[one], self._makers[two], "rev", f"revision {one}, then {two}") for one, two in pairwise(order))
        for number, call in enumerate(self.calls):
            saw = facts.saw(call)
            if saw is not None:
                at = bisect_right(order, saw)
                yield from (Edge(self._makers[made], number, "rev", f"revision {made}, seen {saw}") for made in order[:at][-1:])
                yield from (Edge(number, self._makers[made], "rev", f"seen {saw}, then {made}") for made in order[at : at + 1])

    def _reads(self, number: int, call: Call) -> Iterator[tuple[str, int]]:
        """Yield which versions of other calls a call met; 0 is that there was no key yet."""
        if call.outcome != "ok":
            return
        for key, version in (*_shown(call), *_conditions(call)):
            met = version or self._which_absence(key, call)
            if met is not None and self._writers.get(key, {}).get(met) != number:
                yield key, met

    def _which_absence(self, key: str, call: Call) -> int | None:
        """Return at which revision a key went that somebody did not find: 0 if it was not there yet, None if nobody can tell."""
        removed = self._removed.get(key, [])
        made = facts.made(call)
        if key in self._leased or key in self._perhaps_removed or made in removed:
            return None
        if not removed:
            return 0
        place = facts.saw(call) if made is None else made - 1
        return None if place is None else max([0, *(revision for revision in removed if revision <= place)])


def _writers_of_values(calls: Sequence[Call]) -> dict[tuple[str, str], list[int]]:
    """Return which calls put which value under which key, by their numbers; counters may have any value."""
    writers: dict[tuple[str, str], list[int]] = {}
    counters: set[str] = set()
    for number, call in enumerate(calls):
        counters |= {part.args["key"] for part in facts.parts(call) if part.kind == "add"}
        for put in facts.puts(call):
            writers.setdefault(put, []).append(number)
    return {put: numbers for put, numbers in writers.items() if put[0] not in counters}


def _shown(call: Call) -> Iterator[tuple[str, int]]:
    for key, pair in facts.sightings(call):
        yield key, 0 if pair is None else pair[facts.MOD]


def _conditions(call: Call) -> Iterator[tuple[str, int]]:
    """Yield the versions a call must have met because its conditions held."""
    for part in facts.parts(call):
        if part.args.get("if_mod_revision") is not None and not facts.refused(part.result):
            yield part.args["key"], part.args["if_mod_revision"]
    if call.kind == "txn" and not facts.refused(call.result) and call.result["succeeded"]:
        for key, target, relation, operand in call.args["compare"]:
            if relation == "==" and (target == "mod_revision" or (operand == 0 and target != "value")):
                yield key, operand


def real_time(calls: Sequence[Call]) -> Iterator[Edge]:
    """Yield which call returned before which other one began, by way of moments: as many edges as there are calls, not their square."""
    ends = [(call.returned, True, number) for number, call in enumerate(calls) if call.outcome == "ok" and call.returned is not None]
    begins = [(call.called, False, number) for number, call in enumerate(calls)]
    moment = len(calls) - 1
    for _, is_end, number in sorted([*begins, *ends]):
        if is_end:
            moment += 1
            yield Edge(number, moment, "rt")
            if moment > len(calls):
                yield Edge(moment - 1, moment, "rt")
        elif moment >= len(calls):
            yield Edge(moment, number, "rt")


# -- circles ------------------------------------------------------------------------------------------------------------------------


class Graph:
    """What comes before what.

    Args:
        edges: all of it.
    """

    def __init__(self, edges: Iterable[Edge]) -> None:
        self._out: dict[int, list[Edge]] = {}
        for edge in edges:
            self._out.setdefault(edge.source, []).append(edge)

    def knots(self) -> list[list[int]]:
        """Return the strongly connected components of more than one node: there are circles in each, and nowhere else."""
        return _Tarjan(self._out).run()

    def worst_circle(self, knot: Sequence[int]) -> tuple[str, list[Edge]]:
        """Return a circle in a knot, of the worst kind that there is, and that kind's name.

        Args:
            knot: nodes of a strongly connected component.
        """
        edges = [edge for node in knot for edge in self._out.get(node, ())]
        for extra, suffix in TIERS:
            for name, whys in (("G0", {"ww"}), ("G1c", {"ww", "wr"}), ("G2", {"ww", "wr", "rw"})):
                allowed = Graph([edge for edge in edges if edge.why in whys | extra])
                knots = sorted(allowed.knots(), key=len)
                if not knots:
                    continue
                single = allowed.circle_with_one("rw") if name == "G2" else None
                return ("G-single" if single else name) + suffix, single or allowed.short_circle(knots[0])
        raise AssertionError("no circle in a knot")

    def short_circle(self, knot: Sequence[int]) -> list[Edge]:
        """Return a circle through nodes of a knot, the shortest through some of them."""
        circles = (self.path(node, node) for node in knot[:TRIED])
        return min(filter(None, circles), key=len)

    def circle_with_one(self, why: Why) -> list[Edge] | None:
        """Return a circle that has exactly one edge of a kind, None if there is none."""
        others = Graph([edge for edges in self._out.values() for edge in edges if edge.why != why])
        for edge in (edge for edges in self._out.values() for edge in edges if edge.why == why):
            rest = others.path(edge.target, edge.source)
            if rest:
                return [edge, *rest]
        return None

    def path(self, start: int, end: int) -> list[Edge] | None:
        """Return a shortest way of at least one edge, None if there is none."""
        reached: dict[int, Edge] = {}
        waiting = deque([start])
        while waiting and end not in reached:
            for edge in self._out.get(waiting.popleft(), ()):
                if edge.target not in reached:
                    reached[edge.target] = edge
                    waiting.append(edge.target)
        if end not in reached:
            return None
        way = [reached[end]]
        while way[-1].source != start:
            way.append(reached[way[-1].source])
        return way[::-1]


class _Tarjan:
    """Finds strongly connected components (Tarjan 1972), without recursion."""

    def __init__(self, out: Mapping[int, Sequence[Edge]]) -> None:
        self._out = out
        self._index: dict[int, int] = {}
        self._lowest: dict[int, int] = {}
        self._open: dict[int, None] = {}  # the nodes whose component is not complete, in the order of their discovery
        self._found: list[list[int]] = []

    def run(self) -> list[list[int]]:
        """Return the components of more than one node."""
        for root in self._out:
            if root not in self._index:
                self._explore(root)
        return self._found

    def _explore(self, root: int) -> None:
        path = [self._enter(root)]
        while path:
            node, edges = path[-1]
            for edge in edges:
                if edge.target not in self._index:
                    path.append(self._enter(edge.target))
                    break
                if edge.target in self._open:
                    self._lowest[node] = min(self._lowest[node], self._index[edge.target])
            else:
                path.pop()
                self._leave(node)
                if path:
                    above = path[-1][0]
                    self._lowest[above] = min(self._lowest[above], self._lowest[node])

    def _enter(self, node: int) -> tuple[int, Iterator[Edge]]:
        self._index[node] = self._lowest[node] = len(self._index)
        self._open[node] = None
        return node, iter(self._out.get(node, ()))

    def _leave(self, node: int) -> None:
        if self._lowest[node] != self._index[node]:
            return
        component = []
        while node in self._open:
            component.append(self._open.popitem()[0])
        if len(component) > 1:
            self._found.append(component)


def _draw_circle(calls: Sequence[Call], circle: Sequence[Edge]) -> str:
    """Return a text that shows the calls of a circle in its order, each with why it comes before the next one."""
    steps = [edge for edge in circle if edge.source < len(calls)]
    remarks = ["returned before the next one began" if edge.why == "rt" else f"{edge.why}: {edge.text}" for edge in steps]
    picture = draw([calls[edge.source] for edge in steps], remarks)
    return f"{len(steps)} calls come each before the next one, and the last before the first:\n{picture}"
