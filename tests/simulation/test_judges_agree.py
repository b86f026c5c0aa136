"""Three judges, one verdict: who knows the log, who tries every order, and who searches for one from outside.

Histories are legal by construction, or have one lie in them.  What the judge who tries every order calls legal is legal; the others must
say so as well, and find the rest.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterator

from attrs import evolve
from hypothesis import given, settings
from hypothesis import strategies as st
from outside import PlainRequests, from_outside
from test_checker import random_story
from tiny_store import TinyStore, any_order, changed, spoiled

from replkv import wire
from replkv.testing.blackbox import Call
from replkv.testing.checker import check
from replkv.testing.cycles import check_transactions
from replkv.testing.history import Consistency, Operation, Violation
from replkv.testing.linearizability import Undecided, check_history
from replkv.testing.simulation import Simulation
from replkv.testing.swarm import draw

SMALL = 7
"""Calls of which every order can be tried."""
PAIR = (b"k0", b"v0", 2, 2, 1, 0)
"""What is seen where nothing was."""


def accepts(judge: Callable[[], None]) -> bool:
    try:
        judge()
    except Undecided:
        raise
    except Violation:
        return False
    return True


def tells_of_one_key(operation: Operation) -> bool:
    judged = operation.consistency is not Consistency.LOCAL and operation.wire[0] in (wire.GET, wire.PUT, wire.ADD, wire.DELETE)
    return judged and operation.answer is not None and operation.answer[0] == wire.OK


def explained(calls: list[Call], *, complete: bool = True) -> bool:
    return accepts(lambda: check_history(calls, seconds=10, complete=complete))


def without_circles(calls: list[Call]) -> bool:
    return accepts(lambda: check_transactions(calls))


@given(st.integers(0, 10**9), st.integers(1, 60), st.integers(1, 4), st.integers(1, 6), st.sampled_from((0.0, 0.1, 0.4)))
@settings(max_examples=150, deadline=None, derandomize=True)
def test_whatever_a_store_answers_to_overlapping_clients_is_legal(seed: int, count: int, keys: int, clients: int, doubt: float) -> None:
    calls = TinyStore(random.Random(seed), keys, clients, doubt).run(count)
    check_history(calls, seconds=10)
    check_history(calls, seconds=10, complete=False)
    check_transactions(calls)


def test_a_lie_is_found_unless_some_order_explains_it() -> None:
    """The search agrees with trying every order; the judges that know less never object to what can be explained."""
    verdicts: Counter[tuple[bool, bool]] = Counter()
    circles = 0
    for seed in range(250):
        rng = random.Random(f"lie {seed}")
        store = TinyStore(rng, keys=rng.randint(1, 3), clients=rng.randint(2, 4), doubt=rng.choice((0.0, 0.15, 0.4)))
        calls = store.run(SMALL)
        assert any_order(calls, store.operations)
        for _ in range(3):
            lie = spoiled(calls, rng)
            truth = any_order(lie, store.operations)
            verdicts[truth, explained(lie)] += 1
            circles += not without_circles(lie)
            if truth:
                assert explained(lie, complete=False)
                assert without_circles(lie)
    assert verdicts[True, False] == 0
    assert verdicts[False, True] <= 0.01 * verdicts[False, False]
    assert verdicts[False, False] > 300
    assert verdicts[True, True] > 50
    assert circles > 150


def test_who_looks_from_outside_objects_only_where_who_knows_the_log_does() -> None:
    verdicts: Counter[tuple[bool, bool]] = Counter()
    for seed in range(250):
        story, rng = random_story(seed), random.Random(seed)
        calls = from_outside(story.history)
        assert explained(calls)
        assert without_circles(calls)
        answered = [operation for operation in story.history.operations if tells_of_one_key(operation)]
        if answered:
            victim = rng.choice(answered)
            assert victim.answer is not None
            victim.answer = (victim.answer[0], *changed(victim.answer[1:], rng, PAIR))
            lie = from_outside(story.history)
            if lie != calls:
                verdicts[accepts(story.check), explained(lie)] += 1
    assert verdicts[True, False] == 0
    assert verdicts[False, True] < 0.05 * verdicts[False, False]  # who does not know the log finds another order
    assert verdicts[False, False] > 150


def test_what_simulated_clusters_answered_is_explained_from_outside_too() -> None:
    lies: list[bool] = []
    for seed in (2, 12, 17, 29, 33, 49):
        simulation = Simulation(evolve(draw(seed), users=0))  # nobody outside can tell who may do what
        simulation.workload.requests = PlainRequests(simulation.scenario, random.Random(seed))
        simulation.run()
        calls = from_outside(simulation.workload.history)
        check_history(calls)
        check_transactions(calls)
        lies += told_otherwise(simulation, calls, random.Random(seed))
    assert len(lies) > 30
    assert sum(lies) <= 0.1 * len(lies)  # who does not know the log finds another order


def told_otherwise(simulation: Simulation, calls: list[Call], rng: random.Random) -> Iterator[bool]:
    """Change one answer after the other, which who knows the log finds; yield whether it is explained from outside."""
    history = simulation.workload.history
    told = [operation for operation in history.operations if tells_of_one_key(operation)]
    for victim in rng.sample(told, min(10, len(told))):
        truth, victim.answer = victim.answer, (0, *changed((victim.answer or ())[1:], rng, PAIR))
        assert not accepts(lambda: check(history, simulation.invariants.witness, simulation.cluster.own))
        lie = from_outside(history)
        if lie != calls:
            yield explained(lie)
        victim.answer = truth


def test_a_call_that_is_moved_to_another_time_is_found_where_that_matters() -> None:
    """One after the other, each reading what the one before wrote: whoever changes places with another one is found."""
    calls: list[Call] = []
    for at in range(10):
        calls.append(Call("a", "put", {"key": "k", "value": str(at)}, 100 * at, 100 * at + 10, "ok", {"revision": at + 2}))
        calls.append(Call("b", "get", {"key": "k"}, 100 * at + 20, 100 * at + 30, "ok", [str(at), 2, at + 2, at + 1]))
    check_history(calls)
    for one in range(len(calls)):
        for two in range(one):
            moved = list(calls)
            moved[one] = evolve(calls[one], called=calls[two].called, returned=calls[two].returned)
            moved[two] = evolve(calls[two], called=calls[one].called, returned=calls[one].returned)
            assert not explained(moved)
            assert not without_circles(moved)
