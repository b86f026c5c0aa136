"""The nng transport: real sockets, in this process and on this machine."""

from __future__ import annotations

import contextlib
import os
import random
import selectors
import signal
import socket
import stat
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from replkv import transport as module
from replkv.bell import EventBell, PairBell, Selector
from replkv.codec import FRAME_MAX
from replkv.errors import Closed
from replkv.transport import Answered, Arrived, Event, LinkDown, LinkUp, NngTransport, PipeDown, PipeUp

PATIENCE = 10.0  # s; what is waited for takes milliseconds
SP_HELLO = b"\x00SP\x00\x00\x30\x00\x00"  # what a REQ socket says first


@pytest.fixture
def make(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], NngTransport]]:
    monkeypatch.setattr(module, "_RETRY", 0.05)
    made: list[NngTransport] = []

    def build(*arguments: int) -> NngTransport:
        made.append(NngTransport(*arguments))
        return made[-1]

    yield build
    for transport in made:
        transport.close()


@pytest.fixture(params=["inproc", "ipc", "tcp"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return {"inproc": f"inproc://{tmp_path}", "ipc": f"ipc://{tmp_path}/s", "tcp": "tcp://127.0.0.1:0"}[request.param]


Log = dict[NngTransport, list[Event]]


def run(*transports: NngTransport, until: Callable[[Log], Any]) -> Log:
    """Poll in turn until the events seen satisfy a condition."""
    log: Log = {transport: [] for transport in transports}
    give_up = time.monotonic() + PATIENCE
    while not until(log):
        assert time.monotonic() < give_up, list(log.values())
        for transport in transports:
            log[transport] += transport.poll(0.005)
    return log


def of(kind: type, events: list[Event]) -> list[Any]:
    return [event for event in events if isinstance(event, kind)]


def connect(server: NngTransport, client: NngTransport, url: str) -> int:
    """Dial; return the pipe that the server sees."""
    client.dial("server", url)
    log = run(server, client, until=lambda log: of(PipeUp, log[server]) and of(LinkUp, log[client]))
    return int(of(PipeUp, log[server])[-1].pipe)


def test_frames_go_both_ways_in_order_between_up_and_down(make: Callable[[], NngTransport], url: str) -> None:
    server, client = make(), make()
    bound = server.listen(url)
    client.dial("server", bound)
    log = run(server, client, until=lambda log: log[server] and log[client])
    assert log[client] == [LinkUp("server")]
    (up,) = log[server]
    assert isinstance(up, PipeUp)
    frames = [b"%d" % number for number in range(100)]
    assert all(client.send("server", frame) for frame in frames)
    arrived = run(server, until=lambda log: len(log[server]) >= 100)[server]
    assert arrived == [Arrived(up.pipe, frame) for frame in frames]
    assert all(server.reply(up.pipe, frame) for frame in frames[:32])
    answered = run(client, until=lambda log: len(log[client]) >= 32)[client]
    assert answered == [Answered("server", frame) for frame in frames[:32]]
    client.close()
    assert run(server, until=lambda log: log[server])[server] == [PipeDown(up.pipe)]
    assert not server.reply(up.pipe, b"too late")


def test_the_empty_frame_and_the_largest_one_arrive_and_a_larger_one_is_not_sent(make: Callable[[], NngTransport], url: str) -> None:
    server, client = make(), make()
    pipe = connect(server, client, server.listen(url))
    largest = os.urandom(1024) * (FRAME_MAX // 1024)
    assert client.send("server", b"")
    assert client.send("server", largest)
    assert run(server, until=lambda log: len(log[server]) == 2)[server] == [Arrived(pipe, b""), Arrived(pipe, largest)]
    assert server.reply(pipe, b"")
    assert server.reply(pipe, largest)
    assert run(client, until=lambda log: len(log[client]) == 2)[client] == [Answered("server", b""), Answered("server", largest)]
    with pytest.raises(ValueError, match="at most"):
        client.send("server", largest + b"!")


def test_a_kicked_connection_is_lost_to_its_peer_and_silent_to_who_kicked(make: Callable[[], NngTransport], url: str) -> None:
    server, client = make(), make()
    pipe = connect(server, client, server.listen(url))
    client.send("server", b"not read before the kick")
    server.kick(pipe)
    server.kick(pipe)
    log = run(server, client, until=lambda log: of(LinkUp, log[client]) and of(PipeUp, log[server]))
    assert log[client] == [LinkDown("server"), LinkUp("server")]
    assert not [event for event in log[server] if event in (PipeUp(pipe), PipeDown(pipe)) or isinstance(event, Arrived)]


def test_what_was_sent_on_a_broken_connection_never_arrives_on_the_next(make: Callable[[], NngTransport], url: str) -> None:
    server, client = make(), make()
    bound = server.listen(url)
    connect(server, client, bound)
    server.close()
    stale = 0
    while not of(LinkDown, client.poll(0)):
        stale += client.send("server", b"stale")
    assert not client.send("server", b"while down")
    again = make()
    again.listen(bound)
    run(again, client, until=lambda log: of(LinkUp, log[client]))
    assert client.send("server", b"fresh")
    assert [event.frame for event in of(Arrived, run(again, until=lambda log: of(Arrived, log[again]))[again])] == [b"fresh"]


def test_frames_sent_just_before_close_arrive_before_the_end_is_told(make: Callable[[], NngTransport], url: str) -> None:
    server, client = make(), make()
    pipe = connect(server, client, server.listen(url))
    frames = [bytes([number]) * 10_000 for number in range(64)]
    assert all(client.send("server", frame) for frame in frames)
    client.close()
    log = run(server, until=lambda log: of(PipeDown, log[server]))
    assert log[server] == [*(Arrived(pipe, frame) for frame in frames), PipeDown(pipe)]


def test_dialling_again_replaces_the_link_and_its_queue_without_a_word_about_the_old_one(
    make: Callable[[], NngTransport], url: str
) -> None:
    first, second, client = make(), make(), make()
    connect(first, client, first.listen(url))
    client.dial("server", second.listen("tcp://127.0.0.1:0"))
    log = run(client, second, first, until=lambda log: log[client] and of(PipeDown, log[first]))
    assert log[client] == [LinkUp("server")]
    client.hang_up("server")
    client.hang_up("server")
    assert not client.send("server", b"")
    assert run(client, second, until=lambda log: of(PipeDown, log[second]))[client] == []


def test_a_peer_that_comes_later_is_connected(make: Callable[[], NngTransport]) -> None:
    server, client = make(), make()
    bound = server.listen("tcp://127.0.0.1:0")
    server.close()
    client.dial("server", bound)
    client.dial("nobody", "inproc://nobody is here")
    assert client.poll(0.2) == []
    later = make()
    later.listen(bound)
    assert run(client, later, until=lambda log: log[client])[client] == [LinkUp("server")]


def test_a_peer_that_hangs_up_at_once_is_not_dialled_without_a_pause(make: Callable[[], NngTransport]) -> None:
    client = make()
    with socket.create_server(("127.0.0.1", 0)) as rude:
        rude.setblocking(False)
        client.dial("rude", f"tcp://127.0.0.1:{rude.getsockname()[1]}")
        dialled = 0
        until = time.monotonic() + 1.0
        while time.monotonic() < until:
            client.poll(0.01)
            with contextlib.suppress(BlockingIOError):
                rude.accept()[0].close()
                dialled += 1
    assert 1 <= dialled < 40  # without back-off it is hundreds


def test_a_peer_that_is_killed_is_lost_at_once(make: Callable[[], NngTransport]) -> None:
    program = (
        "from replkv.transport import NngTransport as N\nt = N()\nprint(t.listen('tcp://127.0.0.1:0'), flush=True)\nwhile True: t.poll(1)"
    )
    client = make()
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        client.dial("server", process.stdout.readline().strip())
        run(client, until=lambda log: log[client])
        process.kill()
        start = time.monotonic()
        assert run(client, until=lambda log: log[client])[client] == [LinkDown("server")]
        assert time.monotonic() - start < 0.5  # about 0.001


def test_an_address_in_use_is_refused_with_its_name_and_a_remedy(make: Callable[[], NngTransport]) -> None:
    bound = make().listen("tcp://127.0.0.1:0")
    other = make()
    with pytest.raises(OSError, match="end that process or choose another address") as caught:
        other.listen(bound)
    assert bound in str(caught.value)
    assert other.listen("tcp://127.0.0.1:0") != bound


@pytest.mark.parametrize(
    ("url", "remedy"),
    [("ipc:///no/such/directory/s", "create it first"), ("tcp://192.0.2.1:7420", "no address of this machine")],
)
def test_an_address_that_cannot_be_listened_on_is_refused_with_a_remedy(make: Callable[[], NngTransport], url: str, remedy: str) -> None:
    with pytest.raises(OSError, match=remedy):
        make().listen(url)


def test_an_address_nobody_can_have_is_refused_when_dialled(make: Callable[[], NngTransport]) -> None:
    client = make()
    with pytest.raises(OSError, match="cannot dial"):
        client.dial("server", "tcp://*:7420")
    assert not client.send("server", b"")


def test_only_the_owner_may_connect_to_a_socket_in_the_file_system(make: Callable[[], NngTransport], tmp_path: Path) -> None:
    umask = os.umask(0)
    try:
        make().listen(f"ipc://{tmp_path}/s")
    finally:
        os.umask(umask)
    assert stat.S_IMODE((tmp_path / "s").stat().st_mode) == 0o600


def test_a_full_queue_refuses_frames_and_takes_them_again_later(make: Callable[[], NngTransport], url: str) -> None:
    server, client = make(), make()
    pipe = connect(server, client, server.listen(url))
    frame = bytes(100_000)
    sent = 0
    while client.send("server", frame):
        sent += 1
        assert sent < 10_000
    arrived = run(server, until=lambda log: len(log[server]) == sent)[server]
    assert arrived == [Arrived(pipe, frame)] * sent
    assert client.send("server", b"more")


def test_one_poll_takes_in_a_bounded_part_and_the_next_ones_the_rest(make: Callable[[], NngTransport]) -> None:
    server, client = make(), make()
    pipe = connect(server, client, server.listen("tcp://127.0.0.1:0"))
    sizes = [0, 1 << 20] * 20
    for size in sizes:
        assert client.send("server", bytes(size))
    parts: list[list[Event]] = []
    while sum(map(len, parts)) < len(sizes):
        parts.append(server.poll(1.0))
        assert sum(len(event.frame) for event in of(Arrived, parts[-1])) <= (module._ROOM + 16) * module._PAGE
    assert [len(event.frame) for part in parts for event in of(Arrived, part)] == sizes
    assert {event.pipe for part in parts for event in of(Arrived, part)} == {pipe}


def test_a_poll_ends_at_its_time_and_at_once_when_woken(make: Callable[[], NngTransport]) -> None:
    transport = make()
    start = time.monotonic()
    assert transport.poll(0) == []
    assert transport.poll(-1) == []
    assert transport.poll(0.12) == []
    assert 0.12 <= time.monotonic() - start < 1
    transport.wake()
    transport.wake()
    start = time.monotonic()
    assert transport.poll(30) == []
    assert time.monotonic() - start < 1


@pytest.mark.parametrize("bell", [EventBell, PairBell])
def test_no_wake_up_is_lost_among_threads(monkeypatch: pytest.MonkeyPatch, make: Callable[[], NngTransport], bell: type) -> None:
    monkeypatch.setattr(module, "Bell", bell)
    transport = make()
    inbox: list[int] = []
    answered = [threading.Semaphore(0) for _ in range(3)]

    def caller(number: int) -> None:
        for _ in range(300):
            inbox.append(number)
            transport.wake()
            assert answered[number].acquire(timeout=PATIENCE)

    threads = [threading.Thread(target=caller, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    done = 0
    while done < 900:
        start = time.monotonic()
        transport.poll(PATIENCE)
        assert time.monotonic() - start < PATIENCE / 2
        while inbox:
            done += 1
            answered[inbox.pop()].release()
    for thread in threads:
        thread.join()


def test_a_system_without_epoll_and_eventfd_sees_the_same(
    monkeypatch: pytest.MonkeyPatch, make: Callable[[], NngTransport], url: str
) -> None:
    monkeypatch.setattr(module, "Poll", Selector)
    monkeypatch.setattr(module, "READABLE", selectors.EVENT_READ)
    monkeypatch.setattr(module, "Bell", PairBell)
    monkeypatch.setattr(module, "_SWEEP", PATIENCE * 2)  # so that nothing is found but by being told of it
    server, client = make(), make()
    bound = server.listen(url)
    pipe = connect(server, client, bound)
    for number in range(3):
        assert client.send("server", b"question %d" % number)
        assert run(server, until=lambda log: log[server])[server] == [Arrived(pipe, b"question %d" % number)]
        assert server.reply(pipe, b"answer %d" % number)
        assert run(client, until=lambda log: log[client])[client] == [Answered("server", b"answer %d" % number)]
    waker = threading.Thread(target=client.wake)
    start = time.monotonic()
    waker.start()
    assert client.poll(PATIENCE) == []
    waker.join()
    client.hang_up("server")
    assert run(server, client, until=lambda log: log[server]) == {server: [PipeDown(pipe)], client: []}
    assert time.monotonic() - start < PATIENCE / 2
    assert connect(server, client, bound) != pipe, "over a descriptor that has the old one's number"
    client.close()
    server.close()


def test_a_signal_does_not_end_a_poll_early(make: Callable[[], NngTransport]) -> None:
    transport, heard = make(), list[int]()
    before = signal.signal(signal.SIGUSR1, lambda number, _: heard.append(number))
    try:
        start = time.monotonic()
        timer = threading.Timer(0.02, os.kill, (os.getpid(), signal.SIGUSR1))
        timer.start()
        assert transport.poll(0.12) == []
        assert time.monotonic() - start >= 0.12
        timer.join()
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert heard == [signal.SIGUSR1]


class WokenJustAfterTheLook(NngTransport):
    """Another thread wakes it at the worst of moments: when it has looked for a signal after its sleep, and seen none."""

    looks = 0
    flag = False

    @property
    def _signalled(self) -> bool:
        seen = self.flag
        self.looks += 1
        if self.looks == 2:
            self.wake()
        return seen

    @_signalled.setter
    def _signalled(self, value: bool) -> None:
        self.flag = value


def test_a_wake_up_right_after_the_look_for_it_is_not_lost() -> None:
    transport = WokenJustAfterTheLook()
    start = time.monotonic()
    assert transport.poll(PATIENCE) == []
    assert time.monotonic() - start < PATIENCE / 2
    transport.close()


def test_many_rings_of_a_bell_nobody_hears_block_nobody() -> None:
    for bell in (EventBell(), PairBell()):
        for _ in range(20_000):
            bell.ring()
        bell.still()
        bell.close()


def test_a_closed_transport_refuses_and_may_be_closed_and_woken_again() -> None:
    transport = NngTransport()
    transport.listen("tcp://127.0.0.1:0")
    transport.close()
    transport.close()
    transport.wake()
    transport.hang_up("nobody")
    assert not transport.send("nobody", b"")
    assert not transport.reply(1, b"")
    for call in (lambda: transport.poll(0), lambda: transport.listen("inproc://x"), lambda: transport.dial("x", "inproc://x")):
        with pytest.raises(Closed):
            call()


def test_fifty_lives_leave_no_descriptor_and_no_thread_behind() -> None:
    def census() -> tuple[int, int]:
        return len(os.listdir("/proc/self/fd")), len(os.listdir("/proc/self/task"))

    def life() -> None:
        server, client = NngTransport(), NngTransport()
        connect(server, client, server.listen("tcp://127.0.0.1:0"))
        client.dial("nobody", "tcp://127.0.0.1:1")
        client.close()
        server.close()

    life()
    before = census()
    start = time.monotonic()
    for _ in range(50):
        life()
    assert time.monotonic() - start < PATIENCE
    fds, tasks = census()
    assert (fds, tasks) <= (before[0] + 2, before[1])  # the last sockets may still be about to be reaped


def _rogues(address: tuple[str, int], seed: int) -> list[socket.socket]:
    """Connections that say nothing, random bytes, or that a frame of up to 2^63 bytes is coming."""
    rng = random.Random(seed)
    rogues = []
    for number in range(300):
        rogue = socket.create_connection(address)
        if number % 3 == 1:
            rogue.send(rng.randbytes(rng.randrange(1, 200)))
        if number % 3 == 2:
            rogue.send(SP_HELLO + struct.pack(">Q", 1 << rng.randrange(20, 64)) + rng.randbytes(50))
        rogues.append(rogue)
    return rogues


def test_hostile_connections_do_not_disturb_a_link(make: Callable[[], NngTransport]) -> None:
    server, client = make(), make()
    bound = server.listen("tcp://127.0.0.1:0")
    pipe = connect(server, client, bound)
    rogues = _rogues(("127.0.0.1", int(bound.rpartition(":")[2])), seed=1)
    for number in range(20):
        assert client.send("server", b"%d" % number)
    log = run(server, client, until=lambda log: Arrived(pipe, b"19") in log[server])
    assert PipeDown(pipe) not in log[server]
    assert log[client] == []
    newcomer = make()
    connect(server, newcomer, bound)
    for rogue in rogues:
        rogue.close()


def test_silent_connections_beyond_the_limit_make_room_for_others(make: Callable[..., NngTransport]) -> None:
    server, client = make(20), make()
    bound = server.listen("tcp://127.0.0.1:0")
    pipe = connect(server, client, bound)
    client.send("server", b"I am no stranger")
    rogues = []
    ups = downs = 0
    for _ in range(60):
        rogue = socket.create_connection(("127.0.0.1", int(bound.rpartition(":")[2])))
        rogue.send(SP_HELLO)
        rogues.append(rogue)
        log = run(server, until=lambda log: of(PipeUp, log[server]))
        ups += len(of(PipeUp, log[server]))
        downs += len(of(PipeDown, log[server]))
    assert (ups, downs) == (60, 41)
    assert server.reply(pipe, b"nor are you")
    assert run(client, until=lambda log: log[client])[client] == [Answered("server", b"nor are you")]
    for rogue in rogues:
        rogue.close()


def test_a_pipe_whose_end_is_told_before_its_beginning_is_announced_in_order_or_not_at_all(make: Callable[[], NngTransport]) -> None:
    server = make()
    server.listen("tcp://127.0.0.1:0")
    assert server._listener
    server._note(server._listener, 7, False)
    server._note(server._listener, 7, True)
    assert server.poll(0) == [PipeUp(7), PipeDown(7)]
    server._note(server._listener, 8, False)
    assert server.poll(0) == []
    server._note(server._listener, 8, True)
    assert server.poll(0) == []
    assert not server.reply(8, b"")
