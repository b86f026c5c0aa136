"""What the simulator once found, each under the name of what went wrong."""

from __future__ import annotations

import random

import pytest
from plays import play

from replkv import codec
from replkv.config import Config
from replkv.links import Links
from replkv.messages import Identity, Message, Ping, Pong, Refuse, Welcome
from replkv.testing.network import SimNetwork, SimTransport
from replkv.testing.sim import Scheduler
from replkv.testing.simulation import simulate
from replkv.testing.trace import Trace


@pytest.mark.parametrize("message", [Pong(), Welcome(1, codec.NO_CLUSTER, "b", 2), Refuse("no", codec.NO_CLUSTER)])
def test_an_answer_on_a_callers_connection_is_ignored(message: Message) -> None:
    scheduler = Scheduler()
    network = SimNetwork(scheduler, random.Random(1), Trace(scheduler))
    transports = {name: SimTransport(network, name, lambda: None) for name in "ab"}
    members = {}
    for number, (name, transport) in enumerate(transports.items(), 1):
        transport.listen(f"inproc://{name}")
        members[name] = Links(transport, Identity(name, number), codec.NO_CLUSTER, None, ("a", "b"))
        members[name].dial({"a": "inproc://a", "b": "inproc://b"}, 0.0)

    def settle() -> None:
        for _ in range(200):
            scheduler.step(scheduler.now + 0.01)
            for name, links in members.items():
                links.handle(transports[name].poll(0.0), 0.0)

    settle()
    members["b"].send("a", message)
    members["b"].send("a", Ping())
    settle()
    assert list(members["a"].take_received()) == []
    assert members["a"].frames_dropped == 1


def test_a_leader_whose_log_was_trimmed_beyond_a_silent_follower_goes_on() -> None:
    with play(config=Config(snapshot_bytes=500, trailing_entries=1)) as simulation:
        leader = simulation.leader()
        simulation.write(leader, "before")
        silent = simulation.others(leader)[0]
        simulation.cluster.network.cut([(silent.name, leader.name)])
        for number in range(50):
            simulation.write(leader, f"{number} {'x' * 100}")
        assert leader.process.failure is None


def test_votes_that_were_long_on_their_way_make_a_leader_of_a_term_that_is_over() -> None:
    """The invariant on leases took it for a second leader; but it is of an earlier term, and commits nothing."""
    simulate(910597)
