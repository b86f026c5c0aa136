"""``sockets.py``: what a client waits for, and what is left when connections end."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from eventual import PATIENCE, eventually

from replkv.line import Link
from replkv.sockets import Sockets

WELCOME = b"\x00SP\x00\x00\x31\x00\x00"


@pytest.fixture
def listener(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "clients"))
        listener.listen()
        listener.settimeout(PATIENCE)
        yield listener


@pytest.fixture
def sockets() -> Iterator[Sockets]:
    sockets = Sockets()
    yield sockets
    sockets.close()


def url(listener: socket.socket) -> str:
    return f"ipc://{listener.getsockname()}"


def accepted(listener: socket.socket) -> socket.socket:
    """A member's end, which has greeted."""
    end, _ = listener.accept()
    end.settimeout(PATIENCE)
    end.sendall(WELCOME)
    return end


def framed(body: bytes) -> bytes:
    return b"\x01" + (4 + len(body)).to_bytes(8, "big") + b"\x80\0\0\0" + body


def test_a_connection_whose_descriptor_is_used_again_at_once_is_heard(listener: socket.socket, sockets: Sockets) -> None:
    first = sockets.open(url(listener), 0)
    sockets.poll(0)
    first.close()
    second = sockets.open(url(listener), 0)
    accepted_first, _ = listener.accept()
    with accepted_first, accepted(listener) as end:
        second.send(b"to the member")
        end.sendall(framed(b"to the client"))
        frames: list[bytes] = []
        found: list[tuple[Link, list[bytes], Exception | None]] = []

        def arrived() -> bool:
            found.extend(sockets.poll(0.1))
            frames.extend(frame for _, some, _ in found for frame in some)
            return bool(frames)

        eventually(arrived)
        assert frames[0] == b"to the client"
        assert {link for link, *_ in found} == {second}


def test_a_connection_that_ends_is_told_with_its_reason(listener: socket.socket, sockets: Sockets) -> None:
    link = sockets.open(url(listener), 0)
    accepted(listener).close()
    found: list[tuple[Link, list[bytes], Exception | None]] = []

    def ended() -> bool:
        found.extend(sockets.poll(0.1))
        return any(error for *_, error in found)

    eventually(ended)
    assert found[-1][0] is link
    assert isinstance(found[-1][2], ConnectionError)


def test_who_is_woken_does_not_wait_also_when_it_was_before(sockets: Sockets) -> None:
    for _ in range(3):
        sockets.wake()
        sockets.wake()
        assert sockets.poll(PATIENCE) == []


def test_a_directory_without_a_member_is_no_place_to_go(sockets: Sockets, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "clients.address").touch()
    for nowhere in (tmp_path, tmp_path / "empty", tmp_path / "empty" / "clients.address", tmp_path / "missing"):
        with pytest.raises(ConnectionError, match="no member serves clients there"):
            sockets.open(str(nowhere), 0)


def test_a_directory_never_leads_to_another_machine(sockets: Sockets, tmp_path: Path) -> None:
    """Where nothing may be encrypted, and a password is on its way."""
    (tmp_path / "clients.address").write_text("replkv-clients 1\ntcp://10.0.0.1:7421\n")
    with pytest.raises(ConnectionError, match=r"10\.0\.0\.1:7421 is on another machine: name the address"):
        sockets.open(str(tmp_path), 0)


def test_nothing_is_left_when_it_is_closed(listener: socket.socket) -> None:
    before = len(os.listdir("/proc/self/fd"))
    sockets = Sockets()
    link = sockets.open(url(listener), 0)
    sockets.close()
    link.close()
    sockets.wake()
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_forked_child_lets_go_so_that_the_end_of_its_parents_connection_is_seen(listener: socket.socket, sockets: Sockets) -> None:
    link = sockets.open(url(listener), 0)
    hold_read, hold_write = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(hold_write)
        os.read(hold_read, 1)  # lives as long as the parent wants
        os._exit(0)
    os.close(hold_read)
    try:
        with accepted(listener) as end:
            sockets.poll(0)
            link.close()
            assert end.recv(8) != b""  # the greeting
            assert end.recv(8) == b""
    finally:
        os.close(hold_write)
        os.waitpid(child, 0)
