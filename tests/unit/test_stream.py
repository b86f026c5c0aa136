"""A client's connection, against the transport that members listen with, and against sockets that behave badly."""

from __future__ import annotations

import contextlib
import os
import selectors
import socket
import ssl
import struct
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from authority import Authority, Certified

from replkv import stream as module
from replkv.codec import FRAME_MAX, DecodeError
from replkv.secure import Secured
from replkv.stream import READ, WRITE, Stream
from replkv.tls import TLS
from replkv.transport import Arrived, NngTransport, PipeDown, PipeUp
from replkv.tunnel import Contexts

PATIENCE = 10.0  # s; what is waited for takes milliseconds
GREETING = b"\x00SP\x00\x00\x31\x00\x00"


@pytest.fixture
def transport() -> Iterator[NngTransport]:
    made = NngTransport()
    yield made
    made.close()


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("ours"))


@pytest.fixture(params=["ipc", "tcp", "tcp6", "tls"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def url(kind: str, tmp_path: Path) -> str:
    return {"ipc": f"ipc://{tmp_path}/s", "tcp6": "tcp://[::1]:0"}.get(kind, "tcp://127.0.0.1:0")


@pytest.fixture
def member(kind: str, ours: Authority) -> Iterator[NngTransport]:
    """What a member listens with."""
    made = NngTransport(secured=Secured(TLS(**ours.member("a").tls), "a") if kind == "tls" else None)
    yield made
    made.close()


@pytest.fixture
def contexts(kind: str, ours: Authority) -> Contexts | None:
    return Contexts(TLS(**ours.member("b").tls)) if kind == "tls" else None


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


def connected(member: NngTransport, url: str, contexts: Contexts | None) -> tuple[Stream, int]:
    stream = Stream(member.listen(url), 0, contexts)
    events, _ = meet(member, stream, lambda events, _: events and stream.connected)
    (up,) = events
    assert isinstance(up, PipeUp)
    return stream, up.pipe


def bodies(events: list[object]) -> list[bytes]:
    return [event.frame for event in events if isinstance(event, Arrived)]


def test_frames_go_both_ways_in_order(member: NngTransport, url: str, contexts: Contexts | None) -> None:
    stream, pipe = connected(member, url, contexts)
    sent = [b"", b"one", bytes(300_000), b"last"]
    for body in sent:
        stream.send(body)
    events, _ = meet(member, stream, lambda events, _: len(bodies(events)) == 4)
    assert bodies(events) == sent
    for body in sent:
        assert member.reply(pipe, body)
    _, frames = meet(member, stream, lambda _, frames: len(frames) == 4)
    assert frames == sent
    stream.close()


def test_what_is_sent_before_the_connection_is_made_arrives(member: NngTransport, url: str, contexts: Contexts | None) -> None:
    stream = Stream(member.listen(url), 0, contexts)
    stream.send(b"early")
    events, _ = meet(member, stream, lambda events, _: bodies(events))
    assert bodies(events) == [b"early"]
    stream.close()


def test_the_largest_frame_fits_and_a_larger_one_is_refused(member: NngTransport, url: str, contexts: Contexts | None) -> None:
    stream, pipe = connected(member, url, contexts)
    with pytest.raises(ValueError, match="at most"):
        stream.send(bytes(FRAME_MAX + 1))
    stream.send(bytes(FRAME_MAX))
    events, _ = meet(member, stream, lambda events, _: bodies(events))
    assert len(bodies(events)[0]) == FRAME_MAX
    assert member.reply(pipe, bytes(FRAME_MAX))
    _, frames = meet(member, stream, lambda _, frames: frames)
    assert len(frames[0]) == FRAME_MAX
    stream.close()


def test_a_client_learns_that_it_was_kicked(member: NngTransport, url: str, contexts: Contexts | None) -> None:
    stream, pipe = connected(member, url, contexts)
    member.kick(pipe)
    with pytest.raises(ConnectionError, match=r"no connection to .*: "):
        meet(member, stream, lambda *_: False)
    stream.close()
    stream.close()


def test_a_member_learns_that_a_client_is_gone(member: NngTransport, url: str, contexts: Contexts | None) -> None:
    stream, pipe = connected(member, url, contexts)
    stream.close()
    give_up, events = time.monotonic() + PATIENCE, list[object]()
    while PipeDown(pipe) not in events:
        assert time.monotonic() < give_up
        events += member.poll(0.05)


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


# -- TLS ---------------------------------------------------------------------------------------------------------------------------


class SecurePeer:
    """The other end of a connection by TLS; each step is one of both sides."""

    def __init__(self, certified: Certified, contexts: Contexts, client_ca: str | None) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certified.cert, certified.key)
        if client_ca is not None:
            context.verify_mode = ssl.CERT_REQUIRED
            context.load_verify_locations(client_ca)
        with socket.create_server(("127.0.0.1", 0)) as server:
            self.stream = Stream(f"tcp://127.0.0.1:{server.getsockname()[1]}", 0, contexts)
            plain, _ = server.accept()
        plain.setblocking(False)
        self.socket = context.wrap_socket(plain, server_side=True, do_handshake_on_connect=False)
        self.handshaken = False
        self.out = bytearray(GREETING)
        self.heard = bytearray()
        self.frames: list[bytes] = []

    def step(self, *, listens: bool = True) -> None:
        with contextlib.suppress(ssl.SSLWantReadError, ssl.SSLWantWriteError, ConnectionError, ssl.SSLError):
            if not self.handshaken:
                self.socket.do_handshake()
                self.handshaken = True
            while self.out:
                del self.out[: self.socket.send(self.out)]
            while listens and (data := self.socket.recv(1 << 20)):
                self.heard += data
        self.frames += step(self.stream)

    def until(self, condition: Callable[[], object], *, listens: bool = True) -> None:
        give_up = time.monotonic() + PATIENCE
        while not condition():
            assert time.monotonic() < give_up
            self.step(listens=listens)

    def close(self) -> None:
        self.socket.close()
        self.stream.close()


Meeting = Callable[..., SecurePeer]


@pytest.fixture
def secured(ours: Authority) -> Iterator[Meeting]:
    """Makes peers."""
    with contextlib.ExitStack() as stack:

        def make(tls: TLS, client_ca: str | None = None) -> SecurePeer:
            peer = SecurePeer(ours.member("a"), Contexts(tls), client_ca)
            stack.callback(peer.close)
            return peer

        yield make


@pytest.fixture
def secure(ours: Authority, secured: Meeting) -> SecurePeer:
    return secured(TLS(ca=ours.ca))


HELLO = b"\x00SP\x00\x00\x30\x00\x00"


def test_by_tls_what_is_sent_before_the_handshake_arrives(secure: SecurePeer) -> None:
    secure.stream.send(b"early")
    secure.stream.send(b"too")
    secure.until(lambda: len(secure.heard) >= 8 + 17 + 15)
    assert secure.heard == HELLO + frame(b"early") + frame(b"too")
    assert secure.stream.waiting == 0


def test_by_tls_all_frames_of_a_record_are_handed_out_at_once(secure: SecurePeer) -> None:
    """The selector does not see what TLS has decrypted already."""
    secure.until(lambda: secure.stream.connected)
    many = [bytes([number]) * 100 for number in range(100)]
    secure.out += b"".join(map(frame, many))
    secure.until(lambda: secure.frames)
    secure.until(lambda: len(secure.frames) == 100)
    assert secure.frames == many
    with selectors.DefaultSelector() as selector:
        selector.register(secure.stream, READ)
        assert not selector.select(0)


def test_by_tls_the_largest_frames_go_both_ways_at_once(secure: SecurePeer) -> None:
    big = os.urandom(1 << 20) * (FRAME_MAX >> 20)
    secure.stream.send(big)
    secure.out += frame(big)
    secure.until(lambda: len(secure.heard) == 8 + 12 + len(big) and secure.frames)
    assert secure.heard[20:] == big
    assert secure.frames == [big]


def test_by_tls_what_a_slow_reader_does_not_take_waits(secure: SecurePeer) -> None:
    secure.until(lambda: secure.stream.connected)
    body = bytes(FRAME_MAX)
    secure.stream.send(body)
    secure.stream.send(body)
    secure.until(lambda: secure.stream.waiting > FRAME_MAX, listens=False)
    assert secure.stream.mask == READ | WRITE
    assert len(secure.stream._out) < 1 << 20  # no more than that is encrypted in advance
    secure.out += frame(b"hear me")
    secure.until(lambda: secure.frames, listens=False)
    secure.until(lambda: secure.stream.waiting == 0)
    secure.until(lambda: len(secure.heard) == 8 + 2 * (12 + FRAME_MAX))
    assert secure.stream.mask == READ


def test_by_tls_it_waits_for_the_other_side_without_turning_round(secure: SecurePeer) -> None:
    secure.stream.send(b"x")
    step(secure.stream)
    assert secure.stream.mask == READ  # the handshake is the other side's to go on with, though something waits
    assert secure.stream.waiting > 0


@pytest.mark.parametrize("certified", [False, True])
def test_by_tls_a_refused_client_is_told_why(ours: Authority, secured: Meeting, tmp_path: Path, *, certified: bool) -> None:
    alice = Authority(tmp_path / "others").client("alice")
    peer = secured(TLS(ca=ours.ca, cert=alice.cert, key=alice.key) if certified else TLS(ca=ours.ca), ours.client_ca)
    peer.stream.send(b"x")
    with pytest.raises(ConnectionError, match=r"no connection to tcp://127\.0\.0\.1:\d+: .*certificate"):
        peer.until(lambda: False)


def test_by_tls_a_refused_member_is_told_why(secured: Meeting, tmp_path: Path) -> None:
    peer = secured(TLS(ca=Authority(tmp_path / "others").ca))
    with pytest.raises(ConnectionError, match="not signed by an authority"):
        peer.until(lambda: False)
    peer.socket.settimeout(PATIENCE)
    with pytest.raises(ssl.SSLError, match="(?i)unknown.ca"):
        peer.socket.do_handshake()


@pytest.mark.parametrize("cut", [1, 7])
def test_plain_text_where_tls_is_spoken_names_the_remedy(peer: Peer, cut: int) -> None:
    with pytest.raises(ConnectionError, match="it speaks TLS: connect with tls="):
        peer.says(b"\x15\x03\x03\x00\x02\x02\x32"[:cut])


def test_tls_where_plain_text_is_spoken_names_the_remedy(transport: NngTransport, ours: Authority) -> None:
    stream = Stream(transport.listen("tcp://127.0.0.1:0"), 0, Contexts(TLS(ca=ours.ca)))
    with pytest.raises(ConnectionError, match="the member there has no tls=: start it with tls="):
        meet(transport, stream, lambda *_: False)
    stream.close()


@pytest.mark.parametrize("contexts", [False, True])
def test_a_close_before_the_greeting_says_what_it_may_mean(ours: Authority, *, contexts: bool) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        stream = Stream(f"tcp://127.0.0.1:{server.getsockname()[1]}", 0, Contexts(TLS(ca=ours.ca)) if contexts else None)
        server.accept()[0].close()
    with pytest.raises(ConnectionError, match="perhaps no TLS is spoken" if contexts else "give tls="):
        wait_for_end(stream)


def test_sockets_of_this_machine_are_never_encrypted(transport: NngTransport, ours: Authority, tmp_path: Path) -> None:
    stream = Stream(transport.listen(f"ipc://{tmp_path}/s"), 0, Contexts(TLS(ca=ours.ca)))
    meet(transport, stream, lambda *_: stream.connected)
    stream.close()


def test_a_forked_child_that_lets_go_says_nothing_to_the_other_side(secure: SecurePeer) -> None:
    secure.until(lambda: secure.stream.connected)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of Python 3.12 on: this process has threads
        if (child := os.fork()) == 0:
            secure.stream.close()
            os._exit(0)
    os.waitpid(child, 0)
    secure.stream.send(b"still there")
    secure.until(lambda: secure.heard.endswith(b"still there"))


def test_a_host_name_that_no_certificate_can_have_is_refused(ours: Authority) -> None:
    with pytest.raises((ValueError, ConnectionError)):
        Stream(f"tcp://{'x' * 64}.invalid:7", 0, Contexts(TLS(ca=ours.ca)))
