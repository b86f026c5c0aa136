"""A client's connections: streams over sockets, and the selector that waits for all of them.

Nothing here needs nng, so it works in a forked child.  A child that inherits connections lets go of them at once: while it held them,
neither side would notice that the other one has closed.
"""

from __future__ import annotations

import os
import selectors
import socket
import weakref
from contextlib import suppress
from typing import TYPE_CHECKING

from replkv import whereabouts
from replkv.address import is_loopback
from replkv.codec import DecodeError
from replkv.line import Link
from replkv.stream import Stream

if TYPE_CHECKING:
    from replkv.tunnel import Contexts

_open: weakref.WeakSet[Sockets] = weakref.WeakSet()


class Sockets:
    """The network of one client, as ``line.Network``; belongs to one thread but for ``wake``.

    Args:
        contexts: connect by TLS, but for sockets of this machine's file system.
    """

    def __init__(self, contexts: Contexts | None = None) -> None:
        self._contexts = contexts
        self._selector = selectors.DefaultSelector()
        self._ear, self._mouth = socket.socketpair()
        for end in (self._ear, self._mouth):
            end.setblocking(False)
        self._selector.register(self._ear, selectors.EVENT_READ)
        self._wires: dict[_Wire, int] = {}  # and what the selector waits for
        self._woken = False
        _open.add(self)

    def open(self, target: str, attempt: int) -> Link:
        """Begin to connect, as ``Network.open``.

        Raises:
            OSError, ValueError: that is not possible; the text says why.
        """
        wire = _Wire(Stream(target if "://" in target else _url_of(target), attempt, self._contexts), self)
        self._wires[wire] = wire.stream.mask
        self._selector.register(wire, wire.stream.mask)
        return wire

    def poll(self, timeout: float) -> list[tuple[Link, list[bytes], Exception | None]]:
        """Wait, and return what arrived, as ``Network.poll``."""
        for wire, mask in self._wires.items():
            if wire.stream.mask != mask:
                self._wires[wire] = wire.stream.mask
                self._selector.modify(wire, wire.stream.mask)
        found: list[tuple[Link, list[bytes], Exception | None]] = []
        for key, mask in self._selector.select(None if timeout == float("inf") else timeout):
            if isinstance(key.fileobj, _Wire):
                found.append(key.fileobj.handle(mask))
            else:
                with suppress(BlockingIOError):
                    self._ear.recv(4096)
        self._woken = False  # before the caller looks what it was woken for
        return found

    def forget(self, wire: _Wire) -> None:
        """Wait for a connection no more, while it still has its descriptor: the next one may get the same."""
        if self._wires.pop(wire, None) is not None:
            self._selector.unregister(wire)

    def wake(self) -> None:
        """End the wait, as ``Network.wake``."""
        if not self._woken:
            self._woken = True
            with suppress(OSError):  # it is closed, or enough is on its way
                self._mouth.send(b"!")

    def close(self) -> None:
        """Close everything."""
        self._selector.close()
        for wire in self._wires:
            wire.stream.close()
        self._wires.clear()
        self._ear.close()
        self._mouth.close()


def _url_of(data_dir: str) -> str:
    try:
        urls = whereabouts.find(data_dir)
    except (FileNotFoundError, NotADirectoryError):
        urls = []
    if not urls:
        raise ConnectionError(f"no connection to {data_dir}: no member serves clients there")
    if not is_loopback(urls[0]):
        raise ConnectionError(f"no connection to {data_dir}: {urls[0]} is on another machine: name the address, instead of the directory")
    return urls[0]


class _Wire(Link):
    """A stream, and who waits for it."""

    def __init__(self, stream: Stream, sockets: Sockets) -> None:
        self.stream = stream
        self._sockets = sockets

    @property
    def waiting(self) -> int:
        return self.stream.waiting

    def fileno(self) -> int:
        return self.stream.fileno()

    def send(self, body: bytes, /) -> None:
        self.stream.send(body)

    def handle(self, mask: int) -> tuple[Link, list[bytes], Exception | None]:
        try:
            return self, self.stream.handle(mask), None
        except (OSError, DecodeError) as error:
            return self, [], error

    def close(self) -> None:
        self._sockets.forget(self)
        self.stream.close()


def _in_child() -> None:
    for sockets in list(_open):
        sockets.close()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_child)
