"""The simulated network keeps the contract of the real one, and breaks what real ones break."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from replkv import codec
from replkv.messages import Ping, TimeoutNow
from replkv.testing.network import SimNetwork, SimTransport, Weather
from replkv.testing.sim import Scheduler
from replkv.testing.trace import Trace
from replkv.transport import Answered, Arrived, Event, LinkDown, LinkUp, PipeDown, PipeUp, Transport


class World:
    """Two members, a and b, each of which has dialled the other."""

    def __init__(self, **weather: float) -> None:
        self.scheduler = Scheduler()
        self.network = SimNetwork(self.scheduler, random.Random(1), Trace(self.scheduler), Weather(**weather))  # type: ignore[arg-type]
        self.a, self.b = self.member("a"), self.member("b")
        self.a.dial("b", "inproc://b")
        self.b.dial("a", "inproc://a")
        self.run(1.0)
        self.seen_a, self.seen_b = self.a.poll(0.0), self.b.poll(0.0)

    def member(self, name: str) -> SimTransport:
        transport = SimTransport(self.network, name, lambda: None)
        transport.listen(f"inproc://{name}")
        return transport

    def run(self, seconds: float) -> None:
        until = self.scheduler.now + seconds
        while self.scheduler.step(until):
            pass

    def pipe(self) -> int:
        """The connection that a dialled, as b knows it."""
        return next(event.pipe for event in self.seen_b if isinstance(event, PipeUp))


def arrived(transport: SimTransport) -> list[bytes]:
    events: list[Event] = []
    while more := transport.poll(0.0):
        events += more
    return [event.frame for event in events if isinstance(event, (Arrived, Answered))]


def test_it_is_a_transport() -> None:
    transport: Transport = World().a
    assert transport.poll(0.0) == []


def test_both_ends_learn_of_a_connection() -> None:
    world = World()
    assert LinkUp("b") in world.seen_a
    assert LinkUp("a") in world.seen_b
    assert any(isinstance(event, PipeUp) for event in world.seen_a)


def test_frames_of_one_connection_arrive_in_order_and_once() -> None:
    world = World(delay_mean=0.05)
    for number in range(64):
        assert world.a.send("b", b"%d" % number)
    world.run(5.0)
    assert arrived(world.b) == [b"%d" % number for number in range(64)]


def test_an_answer_comes_back_on_the_same_connection() -> None:
    world = World()
    assert world.b.reply(world.pipe(), b"answer")
    world.run(1.0)
    assert world.a.poll(0.0) == [Answered("b", b"answer")]


def test_a_full_queue_takes_no_more() -> None:
    world = World()
    sent = [world.a.send("b", b"x") for _ in range(64 + 1)]
    assert sent == [True] * 64 + [False]


def test_nothing_can_be_sent_to_whom_nobody_is_connected() -> None:
    world = World()
    assert not world.a.send("c", b"x")
    assert not world.a.reply(99, b"x")
    world.a.kick(99)
    world.a.hang_up("c")


def test_a_cut_loses_frames_in_one_direction_only() -> None:
    world = World()
    world.network.cut([("a", "b")])
    world.a.send("b", b"lost")
    world.b.send("a", b"found")
    world.run(1.0)
    world.network.heal()
    world.run(1.0)
    assert arrived(world.b) == []
    assert arrived(world.a) == [b"found"]


def test_a_stalling_cut_holds_frames_back_until_it_heals() -> None:
    world = World(stall=True)
    world.network.cut([("a", "b")])
    world.a.send("b", b"late")
    world.run(1.0)
    assert arrived(world.b) == []
    world.network.heal()
    world.run(1.0)
    assert arrived(world.b) == [b"late"]


def test_a_severed_link_is_noticed_and_comes_back_when_it_heals() -> None:
    world = World()
    pairs = [("a", "b"), ("b", "a")]
    world.network.cut(pairs)
    world.network.sever(pairs)
    world.run(1.0)
    assert LinkDown("b") in world.a.poll(0.0)
    assert not world.a.send("b", b"x")
    world.network.heal()
    world.run(1.0)
    assert LinkUp("b") in world.a.poll(0.0)


@pytest.mark.parametrize("end", [lambda t: t.close(), lambda t: t.die(1.0, power=False)])
def test_a_process_that_ends_is_noticed(end: Callable[[SimTransport], None]) -> None:
    world = World()
    end(world.b)
    world.run(1.0)
    events = world.a.poll(0.0)
    assert LinkDown("b") in events
    assert any(isinstance(event, PipeDown) for event in events)


def test_a_machine_without_power_is_not_noticed() -> None:
    world = World()
    world.b.die(world.scheduler.now, power=True)
    assert world.a.send("b", b"into the void")
    world.run(1.0)
    assert world.a.poll(0.0) == []


def test_who_sends_to_a_machine_that_came_back_learns_that_the_connection_is_gone() -> None:
    world = World()
    world.b.die(world.scheduler.now, power=True)
    world.b.blacked_out = False
    world.member("b")
    world.a.send("b", b"anybody?")
    world.run(1.0)
    events = world.a.poll(0.0)
    assert LinkDown("b") in events
    assert LinkUp("b") in events


def test_what_a_crash_interrupted_never_leaves() -> None:
    world = World()
    world.a.lag = lambda: 0.5
    world.a.send("b", b"too late")
    world.a.die(world.scheduler.now + 0.2, power=True)
    world.run(2.0)
    assert arrived(world.b) == []


def test_a_kicked_caller_learns_of_it_and_the_kicker_hears_nothing_more() -> None:
    world = World()
    world.a.send("b", b"still on its way")
    world.b.kick(world.pipe())
    world.run(0.001)
    assert world.b.poll(0.0) == []
    world.run(1.0)
    assert LinkDown("b") in world.a.poll(0.0)


def test_dialling_again_drops_what_the_old_connection_brought() -> None:
    world = World()
    world.b.reply(world.pipe(), b"old")
    world.run(1.0)
    world.a.dial("b", "inproc://b")
    world.run(1.0)
    assert arrived(world.a) == []


def test_a_dial_goes_on_until_somebody_listens() -> None:
    world = World()
    world.a.dial("c", "inproc://c")
    world.run(3.0)
    assert world.a.poll(0.0) == []
    world.member("c")
    world.run(1.0)
    assert LinkUp("c") in world.a.poll(0.0)


def test_bad_weather_loses_doubles_and_reorders() -> None:
    lossy, doubling, mixing = World(loss=0.5), World(doubling=0.5), World(reordering=0.5, delay_mean=0.1)
    frames = [b"%d" % number for number in range(32)]
    found = []
    for world in (lossy, doubling, mixing):
        for frame in frames:
            world.a.send("b", frame)
        world.run(5.0)
        found.append(arrived(world.b))
    assert 0 < len(found[0]) < len(frames)
    assert len(found[1]) > len(frames)
    assert found[2] != frames
    assert sorted(found[2]) == sorted(frames)


def test_two_members_can_not_listen_at_one_address() -> None:
    world = World()
    with pytest.raises(OSError, match="in use"):
        world.member("a")


def test_what_is_mended_is_only_what_was_asked_for() -> None:
    world = World(stall=True)
    world.network.cut([("a", "b"), ("b", "a")])
    world.a.send("b", b"there")
    world.b.send("a", b"back")
    world.network.mend([("a", "b")])
    world.run(1.0)
    assert arrived(world.b) == [b"there"]
    assert arrived(world.a) == []
    world.network.heal()
    world.run(1.0)
    assert arrived(world.a) == [b"back"]


def test_a_reset_loses_the_end_of_what_was_sent() -> None:
    world = World(delay_mean=0.05)
    frames = [b"%d" % number for number in range(32)]
    for frame in frames:
        world.a.send("b", frame)
    world.run(0.1)
    world.network.reset(1.0)
    world.run(1.0)
    found = arrived(world.b)
    assert 0 < len(found) < len(frames)
    assert found == frames[: len(found)]


def test_one_end_of_a_half_open_connection_is_told_the_other_finds_out_by_sending() -> None:
    world = World()
    world.network.half_open(1.0)
    world.run(0.0001)
    ends = [(world.a, "b"), (world.b, "a")]
    told = [transport for transport, _ in ends if any(isinstance(event, (LinkDown, PipeDown)) for event in transport.poll(0.0))]
    assert told
    world.run(1.0)
    for transport, peer in ends:
        transport.send(peer, b"anybody?")
    world.run(1.0)
    assert world.network.faults["half open"] == 2
    for transport, peer in ends:  # all connections are whole again
        transport.poll(0.0)
        assert transport.send(peer, b"found")
    world.run(1.0)
    assert arrived(world.a) == arrived(world.b) == [b"found"]


def test_a_lossy_direction_loses_and_the_other_does_not() -> None:
    world = World()
    world.network.lossiness["a", "b"] = 0.5
    for number in range(32):
        world.a.send("b", b"%d" % number)
        world.b.send("a", b"%d" % number)
    world.run(1.0)
    assert 0 < len(arrived(world.b)) < 32
    assert len(arrived(world.a)) == 32
    world.network.heal()
    assert world.network.lossiness == {}


def test_large_frames_take_their_time_one_behind_the_other() -> None:
    world = World(rate=1000.0)
    world.a.send("b", bytes(1000))
    world.a.send("b", bytes(1000))
    world.run(0.9)
    assert arrived(world.b) == []
    world.run(0.3)
    assert len(arrived(world.b)) == 1
    world.run(1.0)
    assert len(arrived(world.b)) == 1


def test_what_happens_in_one_direction_does_not_depend_on_the_others() -> None:
    quiet, busy = (World(loss=0.3, delay_mean=0.1, reordering=0.3) for _ in range(2))
    for number in range(32):
        for _ in range(3):
            busy.b.send("a", b"besides")
        quiet.a.send("b", b"%d" % number)
        busy.a.send("b", b"%d" % number)
    for world in (quiet, busy):
        world.run(5.0)
    assert arrived(quiet.b) == arrived(busy.b)


def test_a_frame_is_decoded_once_for_all_who_overhear_it() -> None:
    network = World().network
    frame = codec.encode_frame(bytes(16), 1, 2, Ping())
    assert network.read(frame) is network.read(frame)
    assert network.read(frame).message == Ping()
    assert network.read(codec.encode_frame(bytes(16), 1, 2, TimeoutNow(3))).message == TimeoutNow(3)
