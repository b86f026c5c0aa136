"""What the hot paths may cost, in calls of functions: a number that no load of the machine changes, so that more work per put is noticed.

``python -m benchmarks.calls --functions 40`` shows what is called.  Who makes a path cheaper lowers its budget here; who has a reason for
making it dearer raises it, and says the reason in the change.
"""

from __future__ import annotations

from benchmarks import calls
from benchmarks.calls import CALLER, Calls, Cost, Counting
from replkv import testing
from replkv.messages import Configuration
from replkv.quorum import agreed

SHOWN = 30

# Calls per operation: some 15 % more than were counted, the most of Python 3.11, 3.12 and 3.13.
BUDGETS: dict[str, dict[str, float]] = {
    "put, one after the other": {"leader": 636, "follower": 338},
    "put, 512 at a time": {"leader": 19.5, "follower": 14.5},
    "put at a follower, one after the other": {"leader": 696, "follower": 574, "other follower": 463},
    "put at a follower, 512 at a time": {"leader": 24.5, "follower": 19.5, "other follower": 14.5},
    "get by read index": {"leader": 354, "follower": 141},
    "turn with nothing to do": {"leader": 57, "follower": 59},
    "second at rest": {"leader": 4944, "follower": 2577},
    "event, for each of 100 watchers of a key": {"caller": 32, "leader": 6.4},
    "put": {"caller": 58},
    "put by submit(), and its result when that is there": {"caller": 43},
    "get, local": {"caller": 6.9},
    "get under the leader's lease": {"caller": 10.5},
    "key of a local scan of 1000": {"caller": 1.3},
    "flush of the log": {"caller": 44},
    "frame, encoded and decoded": {"caller": 34.5},
}


def overspent(costs: list[Cost], budgets: dict[str, dict[str, float]]) -> list[str]:
    """Say which costs are above their budgets, and what is called most often there."""
    return [
        "\n".join([f"{cost.operation}, {who}: {cost.each(who):.1f} calls, at most {budget:g} are expected", *cost.most(who, SHOWN)])
        for cost in costs
        for who, budget in budgets[cost.operation].items()
        if cost.each(who) > budget
    ]


def test_no_hot_path_calls_more_functions_than_it_may() -> None:
    costs = calls.measured()
    assert {cost.operation: cost.calls.keys() for cost in costs} == {operation: budget.keys() for operation, budget in BUDGETS.items()}
    assert not (found := overspent(costs, BUDGETS)), "\n\n".join(found)


def test_what_is_overspent_is_named_with_what_was_called_most_often() -> None:
    cost = Cost("put", 10, {CALLER: Calls({"ops.py:Put": 20, "len of C": 50})})
    assert overspent([cost], {"put": {CALLER: 7.0}}) == []
    assert overspent([cost], {"put": {CALLER: 6.9}}) == [
        "put, caller: 7.0 calls, at most 6.9 are expected\n      5.00  len of C\n      2.00  ops.py:Put"
    ]


def test_calls_of_this_package_count_and_what_they_call_and_nothing_else() -> None:
    with Counting() as counting:
        sorted([2, 1])
        agreed(Configuration(("a", "b", "c")), lambda _: 7)
    ours = {"quorum.py:agreed": 1, "quorum.py:_reached": 1, "sorted of C": 1, "len of C": 1}
    theirs = {"test_costs.py:test_calls_of_this_package_count_and_what_they_call_and_nothing_else.<locals>.<lambda>": 3}
    made = {function: count for function, count in counting.calls[CALLER].items() if "Configuration" not in function}
    assert made == ours | theirs


def test_a_members_turns_are_its_own_and_the_simulator_costs_nothing() -> None:
    with testing.Cluster(1) as cluster:
        with Counting() as counting:
            cluster["a"].put("k", "v")
        assert counting.calls.keys() == {"a", CALLER}
        files = {function.partition(":")[0] for function in counting.calls["a"] + counting.calls[CALLER]}
        assert {"node.py", "machine.py", "facade.py"} <= files
        assert not {"world.py", "sim.py", "disk.py", "network.py"} & files
