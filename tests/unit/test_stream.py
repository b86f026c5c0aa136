"""A client's connection, against the transport that members listen with, and against sockets that behave badly."""

from __future__ import annotations

import selectors
import socket
import struct
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from replkv import stream as module
from replkv.codec import FRAME_MAX, DecodeError
from replkv.stream import READ, WRITE, Stream
from replkv.transport import Arrived, NngTransport, PipeDown, PipeUp

PATIENCE = 10.0  # s; what is waited for takes milliseconds
GREETING = b"\x00SP\x00\x00\x31\x00\x00"


@pytest.fixture
def transport() -> Iterator[NngTransport]:
    made = NngTransport()
    yield made
    made.close()


@pytest.fixture(params=["ipc", "tcp", "tcp6"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return {"ipc": f"ipc://{tmp_path}/s", "tcp": "tcp://127.0.0.1:0", "tcp6": "tcp://[::1]:0"}[request.param]


def step(stream: Stream, seconds: float = 0.005) -> list[bytes]:
    with selectors.DefaultSelector() as selector:
        selector.register(stream, stream.mask)
        ready = selector.select(seconds)
    return stream.handle(ready[0][1]) if ready else []


def meet(transport: NngTransport, stream: Stream, until: Callable[[list[object], list[bytes]], object]) -> tuple[list[object], list[bytes]]:
    """Let both sides work until what they have seen satisfies a condition."""
    events: list[object] = []
    frames: list[bytes] = []
    give_up = time.monotonic() + PATIENCE
    while not until(events, frames):
        assert time.monotonic() < give_up, (events, frames)
        events += transport.poll(0.005)
        frames += step(stream)
    return events, frames


def connected(transport: NngTransport, url: str) -> tuple[Stream, int]:
    stream = Stream(transport.listen(url))
    events, _ = meet(transport, stream, lambda events, _: events and stream.connected)
    (up,) = events
    assert isinstance(up, PipeUp)
    return stream, up.pipe


def bodies(events: list[object]) -> list[bytes]:
    return [event.frame for event in events if isinstance(event, Arrived)]


def test_frames_go_both_ways_in_order(transport: NngTransport, url: str) -> None:
    stream, pipe = connected(transport, url)
    sent = [b"", b"one", bytes(300_000), b"last"]
    for body in sent:
        stream.send(body)
    events, _ = meet(transport, stream, lambda events, _: len(bodies(events)) == 4)
    assert bodies(events) == sent
    for body in sent:
        assert transport.reply(pipe, body)
    _, frames = meet(transport, stream, lambda _, frames: len(frames) == 4)
    assert frames == sent
    stream.close()


def test_what_is_sent_before_the_connection_is_made_arrives(transport: NngTransport, url: str) -> None:
    stream = Stream(transport.listen(url))
    stream.send(b"early")
    events, _ = meet(transport, stream, lambda events, _: bodies(events))
    assert bodies(events) == [b"early"]
    stream.close()


def test_the_largest_frame_fits_and_a_larger_one_is_refused(transport: NngTransport, url: str) -> None:
    stream, pipe = connected(transport, url)
    with pytest.raises(ValueError, match="at most"):
        stream.send(bytes(FRAME_MAX + 1))
    stream.send(bytes(FRAME_MAX))
    events, _ = meet(transport, stream, lambda events, _: bodies(events))
    assert len(bodies(events)[0]) == FRAME_MAX
    assert transport.reply(pipe, bytes(FRAME_MAX))
    _, frames = meet(transport, stream, lambda _, frames: frames)
    assert len(frames[0]) == FRAME_MAX
    stream.close()


def test_a_client_learns_that_it_was_kicked(transport: NngTransport, url: str) -> None:
    stream, pipe = connected(transport, url)
    transport.kick(pipe)
    with pytest.raises(ConnectionError, match=r"no connection to .*: "):
        meet(transport, stream, lambda *_: False)
    stream.close()
    stream.close()


def test_a_member_learns_that_a_client_is_gone(transport: NngTransport, url: str) -> None:
    stream, pipe = connected(transport, url)
    stream.close()
    give_up, events = time.monotonic() + PATIENCE, list[object]()
    while PipeDown(pipe) not in events:
        assert time.monotonic() < give_up
        events += transport.poll(0.05)


def test_where_nobody_listens_the_error_names_the_address(tmp_path: Path) -> None:
    with pytest.raises(ConnectionError, match="ipc://.*No such file"):
        Stream(f"ipc://{tmp_path}/nobody")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        with pytest.raises(ConnectionError, match=r"tcp://127.*refused"):
            wait_for_end(Stream(f"tcp://127.0.0.1:{free.getsockname()[1]}"))
    with pytest.raises(ConnectionError, match=r"tcp://no\.such\.host\.invalid"):
        Stream("tcp://no.such.host.invalid:1")
    with pytest.raises(ValueError, match="another process"):
        Stream("inproc://x")


def wait_for_end(stream: Stream) -> None:
    give_up = time.monotonic() + PATIENCE
    try:
        while time.monotonic() < give_up:
            step(stream)
    finally:
        stream.close()


def test_a_host_with_several_addresses_has_them_tried_in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port)) for port in (1, 2)]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)
    assert [module._resolve("tcp://host:7", attempt)[1] for attempt in range(3)] == [("127.0.0.1", port) for port in (1, 2, 1)]


class Peer:
    """The other end, byte by byte."""

    def __init__(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as server:
            self.stream = Stream(f"tcp://127.0.0.1:{server.getsockname()[1]}")
            self.socket, _ = server.accept()
        self.stream.handle(WRITE)
        assert self.socket.recv(8) == b"\x00SP\x00\x00\x30\x00\x00"

    def says(self, data: bytes) -> list[bytes]:
        if data:
            self.socket.sendall(data)
        with selectors.DefaultSelector() as selector:
            selector.register(self.stream, READ)
            assert selector.select(PATIENCE)
        return self.stream.handle(READ)

    def close(self) -> None:
        self.socket.close()
        self.stream.close()


@pytest.fixture
def peer() -> Iterator[Peer]:
    made = Peer()
    yield made
    made.close()


def frame(body: bytes, size: int | None = None) -> bytes:
    return struct.pack(">Q", 4 + len(body) if size is None else size) + b"\x80\0\0\0" + body


def test_frames_arrive_however_they_are_cut(peer: Peer) -> None:
    frames = []
    for byte in GREETING + frame(b"one") + frame(b""):
        frames += peer.says(bytes([byte]))
    assert frames == [b"one", b""]
    assert peer.says(frame(b"two") + frame(b"three")[:-1]) == [b"two"]
    assert peer.says(b"e" + frame(b"four")) == [b"three", b"four"]
    assert peer.stream.mask == READ


@pytest.mark.parametrize("size", [0, 3, FRAME_MAX + 5, 1 << 40, (1 << 64) - 1])
def test_a_frame_that_claims_an_impossible_size_is_refused_before_it_arrives(peer: Peer, size: int) -> None:
    peer.says(GREETING)
    with pytest.raises(DecodeError, match="frame of"):
        peer.says(struct.pack(">Q", size))


@pytest.mark.parametrize("greeting", [b"HTTP/1.1", b"\x00SP\x00\x00\x30\x00\x00", b"x"])
def test_who_does_not_greet_as_a_member_is_none(peer: Peer, greeting: bytes) -> None:
    with pytest.raises(DecodeError, match="no member"):
        peer.says(greeting)


def test_frames_before_the_end_are_not_lost(peer: Peer) -> None:
    peer.socket.sendall(GREETING + frame(b"bye"))
    peer.socket.shutdown(socket.SHUT_WR)
    assert peer.says(b"") == [b"bye"]
    with pytest.raises(ConnectionError, match="the other side closed it"):
        peer.stream.handle(READ)


def test_what_a_slow_reader_does_not_take_waits(peer: Peer) -> None:
    body = bytes(FRAME_MAX)
    peer.stream.send(body)
    peer.stream.send(body)
    assert peer.stream.waiting > 0
    assert peer.stream.mask == READ | WRITE
    received = 0
    while received < 2 * (FRAME_MAX + 12):
        received += len(peer.socket.recv(1 << 20))
        peer.stream.handle(WRITE)
    assert peer.stream.waiting == 0


def test_a_spurious_wake_up_does_no_harm(peer: Peer) -> None:
    assert peer.stream.handle(READ | WRITE) == []
    assert peer.stream.handle(0) == []
