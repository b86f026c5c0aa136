"""What the simulator once found, each under the name of what went wrong."""

from __future__ import annotations

import random

import pytest
from plays import play

from replkv import codec, wire
from replkv.address_book import AddressBook
from replkv.auth_ops import ChangeAuth
from replkv.config import Config, Settings
from replkv.links import Links
from replkv.messages import Identity, Message, Ping, Pong, Refuse, Welcome
from replkv.raft import Role
from replkv.snapshotting import HOLD
from replkv.testing.cluster import SimMember
from replkv.testing.network import SimNetwork, SimTransport, Weather
from replkv.testing.sim import Scheduler
from replkv.testing.trace import Trace


@pytest.mark.parametrize("message", [Pong(), Welcome(1, codec.NO_CLUSTER, "b", 2), Refuse("no", codec.NO_CLUSTER)])
def test_an_answer_on_a_callers_connection_is_ignored(message: Message) -> None:
    scheduler = Scheduler()
    network = SimNetwork(scheduler, random.Random(1), Trace(scheduler))
    transports = {name: SimTransport(network, name, lambda: None) for name in "ab"}
    members = {}
    for number, (name, transport) in enumerate(transports.items(), 1):
        transport.listen(f"inproc://{name}")
        book = AddressBook({"a": "inproc://a", "b": "inproc://b"})
        members[name] = Links(transport, Identity(name, number), ("a", "b"), book)
        members[name].dial(0.0)

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


def role_of(member: SimMember) -> Role:
    raft = member.process.raft
    assert raft is not None
    return raft.role


def stand(member: SimMember) -> None:
    """Have a member stand for election now."""
    raft = member.process.raft
    assert raft is not None
    raft.stand(member.clock())
    member.wake()


def test_votes_that_were_long_on_their_way_make_a_leader_of_a_term_that_is_over() -> None:
    """The invariant on leases took it for a second leader; but it is of an earlier term, and commits nothing."""
    with play(weather=Weather(stall=True)) as simulation:
        network, old = simulation.cluster.network, simulation.leader()
        late, voter = simulation.others(old)
        simulation.write(old, "before")
        simulation.part(old, told=False)
        stand(late)
        assert simulation.cluster.run_until(lambda: role_of(late) is Role.CANDIDATE, 1.0)
        network.cut([(voter.name, late.name)])  # its vote is on the way
        simulation.cluster.run(0.01)
        network.cut([(late.name, voter.name)])
        network.mend([(old.name, voter.name), (voter.name, old.name)])
        simulation.cluster.run_until(lambda: role_of(old) is not Role.LEADER, 1.0)
        stand(voter)
        assert simulation.leader([old, voter]) is voter
        assert simulation.cluster.run_until(lambda: voter.process.published.lease_until > voter.clock(), 1.0)
        network.mend([(voter.name, late.name)])
        assert simulation.cluster.run_until(lambda: role_of(late) is Role.LEADER, 0.1)
        assert voter.process.published.lease_until > voter.clock()


def test_a_leader_of_a_later_term_does_not_go_on_sending_a_snapshot_that_is_gone() -> None:
    """It had stood still, installed its successor's snapshot, and led again before it looked around: the file was no more there."""
    with play(config=Config(snapshot_bytes=500, trailing_entries=1), knobs={"snapshotting.CHUNK": 100}) as simulation:
        network, old = simulation.cluster.network, simulation.leader()
        absent, other = simulation.others(old)
        absent.crash(power=True)
        for number in range(20):
            simulation.write(old, f"{number} {'x' * 100}")
        absent.start()
        assert simulation.cluster.run_until(lambda: bool(old.process.snapshots._sending), 5.0)
        old.process._next_tick = float("inf")  # it does not look around for now
        simulation.part(old, told=True)
        simulation.leader([absent, other])
        simulation.cluster.run(HOLD)  # one that somebody asked for is not replaced before
        for number in range(20):
            simulation.write(other, f"{number} {'y' * 100}")
        network.heal()
        stale = next(iter(old.process.snapshots._sending.values())).file
        assert simulation.cluster.run_until(lambda: old.process.log.snapshot != stale, 10.0)
        old.process.log.prepare()  # which also removes what is not needed any more
        assert stale.name not in old.disk.seen
        leader = simulation.leader()
        assert leader.process.raft is not None
        leader.process.raft.transfer(old.name, leader.clock())
        leader.wake()
        assert simulation.cluster.run_until(lambda: simulation.leader() is old, 10.0)
        assert old.process.snapshots._sending
        old.process._next_tick = old.clock()
        simulation.cluster.run(2.0)
        assert old.process.failure is None


def test_root_that_thought_at_leisure_between_login_and_first_batch_is_not_too_late() -> None:
    """Users think for longer than a session lives here: root's was over whenever it came back, until all patience was."""
    with play(think=1000.0, settings=Settings(session_ttl=2.0)) as simulation:
        changes = ChangeAuth(wire.ADD_USER, ("root", simulation.users._hashed())), ChangeAuth(wire.ENABLE)
        assert [simulation.ask(simulation.leader(), change)[0] for change in changes] == [wire.OK, wire.OK]
    (root,) = simulation.users.guests
    assert root.done > 0
