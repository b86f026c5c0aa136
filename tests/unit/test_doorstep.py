"""``doorstep.py``: connections that are accepted and get no further end, and nobody else's do."""

from __future__ import annotations

import math
import os
import re
import resource
import socket
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from replkv import doorstep
from replkv.doorstep import Doorstep
from replkv.transport import Event, LinkDown, LinkUp, NngTransport, PipeDown

PATIENCE = 10.0  # s; what is waited for takes a fraction of one
HELLO = b"\x00SP\x00\x00\x30\x00\x00"


@pytest.fixture
def ends() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


@pytest.fixture(autouse=True)
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """nng itself waits ten seconds where there is no TLS, so what ends sooner is not its doing."""
    monkeypatch.setattr(doorstep, "HANDSHAKE_TIMEOUT", 0.3)
    monkeypatch.setattr(doorstep, "LOOK_EVERY", 0.05)


def connect(ends: ExitStack, url: str, said: bytes = b"") -> socket.socket:
    host, _, port = url.removeprefix("tcp://").rpartition(":")
    made = ends.enter_context(socket.create_connection((host.strip("[]"), int(port))))
    made.sendall(said)
    made.setblocking(False)
    return made


def is_closed(end: socket.socket) -> bool:
    try:
        while end.recv(4096):
            pass
    except BlockingIOError:
        return False
    except ConnectionError:
        return True
    return True


def run(*transports: NngTransport, until: Callable[[], object]) -> list[Event]:
    events: list[Event] = []
    give_up = time.monotonic() + PATIENCE
    while not until():
        assert time.monotonic() < give_up
        for transport in transports:
            events += transport.poll(0.01)
    return events


def accepted(ends: list[socket.socket]) -> list[int]:
    """Return the descriptors at the other ends of connections to this process, when it has them all."""
    ports, give_up = {end.getsockname()[1] for end in ends}, time.monotonic() + PATIENCE
    while True:
        others = {number: doorstep._end(doorstep._system.getpeername, number) for number in doorstep._descriptors()}
        if len(found := [number for number, other in others.items() if other is not None and other[0] in ports]) == len(ends):
            return found
        assert time.monotonic() < give_up


@pytest.fixture
def listening(ends: ExitStack) -> tuple[NngTransport, str]:
    transport = NngTransport(name="a")
    ends.callback(transport.close)
    return transport, transport.listen("tcp://127.0.0.1:0")


@pytest.mark.parametrize("said", [b"", HELLO[:5]], ids=["nothing", "half of nng's greeting"])
def test_who_connects_and_gets_no_further_is_cut_off_and_said_of(
    ends: ExitStack, listening: tuple[NngTransport, str], said: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    transport, url = listening
    silent = [connect(ends, url, said) for _ in range(5)]
    began = time.monotonic()
    run(transport, until=lambda: all(map(is_closed, silent)))
    assert time.monotonic() - began < 5, "before nng does it"
    (message,) = caplog.messages
    expected = rf"a closed (a|\d) connections? at {re.escape(url)} on which nobody spoke as members or clients do in time"
    assert re.fullmatch(expected, message)


def test_who_got_through_stays_however_long_it_is_silent(ends: ExitStack, listening: tuple[NngTransport, str]) -> None:
    transport, url = listening
    other = NngTransport()
    ends.callback(other.close)
    events: list[Event] = []
    other.dial("a", url)
    greeted = connect(ends, url, HELLO)
    events += run(transport, other, until=lambda: len(transport._pipes) == 2)
    silent = connect(ends, url)
    events += run(transport, other, until=lambda: is_closed(silent))
    late = connect(ends, url)
    events += run(transport, other, until=lambda: is_closed(late))
    assert LinkUp("a") in events
    assert not [event for event in events if isinstance(event, (LinkDown, PipeDown))]
    assert not is_closed(greeted)


def test_sockets_of_the_program_itself_are_left_alone(ends: ExitStack, listening: tuple[NngTransport, str]) -> None:
    transport, url = listening
    server = ends.enter_context(socket.create_server(("127.0.0.1", 0)))
    near = ends.enter_context(socket.create_connection(server.getsockname()))
    far = ends.enter_context(server.accept()[0])
    pair = socket.socketpair()
    for end in (near, far, *pair):
        end.setblocking(False)
    silent = connect(ends, url)
    run(transport, until=lambda: is_closed(silent))
    assert not any(map(is_closed, (near, far, *pair)))
    for end in pair:
        end.close()


def test_a_server_of_the_program_at_the_same_port_of_another_address_is_left_alone(
    ends: ExitStack, listening: tuple[NngTransport, str]
) -> None:
    transport, url = listening
    port = int(url.rpartition(":")[2])
    server = ends.enter_context(socket.create_server(("127.0.0.2", port)))
    near = ends.enter_context(socket.create_connection(("127.0.0.2", port)))
    far = ends.enter_context(server.accept()[0])
    for end in (near, far):
        end.setblocking(False)
    silent = connect(ends, url)
    run(transport, until=lambda: is_closed(silent))
    assert not any(map(is_closed, (near, far)))


@pytest.mark.parametrize("host", ["*", "[::]"])
def test_who_listens_everywhere_is_looked_after_as_well(ends: ExitStack, host: str) -> None:
    transport = NngTransport()
    ends.callback(transport.close)
    try:
        port = transport.listen(f"tcp://{host}:0").rpartition(":")[2]
    except OSError:
        pytest.skip("there is no IPv6 here")
    at = f"tcp://127.0.0.1:{port}" if host == "*" else f"tcp://[::1]:{port}"
    greeted, silent = connect(ends, at, HELLO), connect(ends, at)
    run(transport, until=lambda: is_closed(silent))
    assert not is_closed(greeted)


def test_when_there_are_too_many_the_oldest_make_room_at_once(
    ends: ExitStack, listening: tuple[NngTransport, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doorstep, "HANDSHAKE_TIMEOUT", 1000.0)
    monkeypatch.setattr(doorstep, "UNFINISHED_MAX", 20)
    transport, url = listening
    first = [connect(ends, url) for _ in range(20)]
    run(transport, until=lambda: len(transport._doorstep._since) == 20)
    second = [connect(ends, url) for _ in range(5)]
    run(transport, until=lambda: sum(map(is_closed, first)) == 5)
    assert not any(map(is_closed, second))


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="how old a connection is can't be asked elsewhere")
def test_of_those_a_look_finds_together_the_oldest_make_room_whatever_their_numbers(
    ends: ExitStack, listening: tuple[NngTransport, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a rush somebody in the middle of a handshake was cut off before those that had been silent all the time."""
    monkeypatch.setattr(doorstep, "HANDSHAKE_TIMEOUT", 1000.0)
    monkeypatch.setattr(doorstep, "UNFINISHED_MAX", 16)
    transport, url = listening
    with ExitStack() as low:
        for _ in range(100):
            low.callback(os.close, os.open(os.devnull, os.O_RDONLY))
        monkeypatch.setattr(transport._doorstep, "_look_at", math.inf)
        first = [connect(ends, url) for _ in range(10)]
        numbers = accepted(first)
    in_a_while = time.monotonic() + 0.1
    run(transport, until=lambda: time.monotonic() >= in_a_while)
    second = [connect(ends, url) for _ in range(10)]
    assert max(accepted(second)) < min(numbers)
    transport._doorstep._look_at = 0.0
    run(transport, until=lambda: sum(map(is_closed, first)) == 4)
    assert not any(map(is_closed, second))


def test_it_works_where_no_descriptor_is_left(ends: ExitStack, listening: tuple[NngTransport, str]) -> None:
    transport, url = listening
    silent = [connect(ends, url) for _ in range(3)]
    taken = []
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    run(transport, until=lambda: len(transport._doorstep._since) == 3)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(map(int, os.listdir("/dev/fd"))) + 5, hard))
    try:
        with pytest.raises(OSError, match="Too many open files"):
            while True:
                taken.append(os.open(os.devnull, os.O_RDONLY))
        run(transport, until=lambda: all(map(is_closed, silent)))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for number in taken:
            os.close(number)


def test_a_share_of_the_descriptors_is_the_most_that_may_be_unfinished(monkeypatch: pytest.MonkeyPatch) -> None:
    for limit, expected in ((1024, 128), (1 << 20, 4096), (resource.RLIM_INFINITY, 4096), (20, 16)):
        monkeypatch.setattr(resource, "getrlimit", lambda _, limit=limit: (limit, limit))
        assert doorstep.most() == expected


def test_sockets_of_the_file_system_and_of_the_process_are_not_looked_at(ends: ExitStack, tmp_path: Path) -> None:
    transport = NngTransport()
    ends.callback(transport.close)
    transport.listen(f"ipc://{tmp_path}/s")
    end = ends.enter_context(socket.socket(socket.AF_UNIX))
    end.connect(f"{tmp_path}/s")
    end.setblocking(False)
    door = Doorstep("a")
    for now in range(1, 2000, 100):
        door.look(transport._listeners, transport._pipes, float(now))
    assert not is_closed(end)


def test_other_addresses_of_the_internet_are_told_apart(ends: ExitStack) -> None:
    transport = NngTransport()
    ends.callback(transport.close)
    try:
        url = transport.listen("tcp://[::1]:0")
    except OSError:
        pytest.skip("there is no IPv6 here")
    greeted, silent = connect(ends, url, HELLO), connect(ends, url)
    run(transport, until=lambda: is_closed(silent))
    assert not is_closed(greeted)


def test_a_connection_that_ended_without_nng_s_notice_is_told_of_at_the_second_look(
    ends: ExitStack, listening: tuple[NngTransport, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    transport, url = listening
    greeted = [connect(ends, url, HELLO) for _ in range(2)]
    run(transport, until=lambda: len(transport._pipes) == 2)
    run(transport, until=lambda: len(transport._doorstep._known) == 2)
    first = next(iter(transport._pipes))
    before = doorstep._other_end
    monkeypatch.setattr(doorstep, "_other_end", lambda pipe: doorstep._GONE if pipe == first else before(pipe))
    events = run(transport, until=lambda: any(map(is_closed, greeted)))
    assert events[-1:] == [PipeDown(first)]
    assert [is_closed(end) for end in greeted].count(True) == 1


def test_when_many_have_ended_that_nng_keeps_the_listener_is_closed_and_opened_again(
    ends: ExitStack, listening: tuple[NngTransport, str], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """With TLS nng keeps some; here it is only said that it does."""
    transport, url = listening
    monkeypatch.setattr(doorstep, "UNFINISHED_MAX", 16)
    greeted = connect(ends, url, HELLO)
    run(transport, until=lambda: len(transport._pipes) == 1)
    before = transport._listeners[0][0]
    unfinished = transport._doorstep._unfinished

    def with_dead_ones(bound: list[doorstep.End], pipes: list[int], now: float) -> dict[doorstep.End, int]:
        found = unfinished(bound, pipes, now)
        transport._doorstep._dead = dict.fromkeys(range(9), 0.0) if transport._listeners[0][0] is before else {}
        return found

    monkeypatch.setattr(transport._doorstep, "_unfinished", with_dead_ones)
    run(transport, until=lambda: is_closed(greeted))
    assert "a makes all incoming connections anew: 9 have ended that can't be closed otherwise" in caplog.messages
    again = connect(ends, url, HELLO)
    run(transport, until=lambda: len(transport._pipes) == 1)
    assert not is_closed(again)
    assert transport._listeners[0][1] == url
