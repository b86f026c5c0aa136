"""Incoming connections that never become any: somebody connects and says nothing, or half of what a handshake takes.

nng waits for the rest of a TLS handshake for ever, and has no name for a connection before it is through.  The system has: so those that
lead to a port of ours and are no pipe of nng's after a while are shut down, as if the other side had done it; nng then clears them away.
"""

from __future__ import annotations

import contextlib
import os
import socket
import stat
import time
from collections.abc import Iterable
from typing import Any, Final, TypeAlias

import pynng  # as in ``transport.py``: what comes out of it is Any, and goes no further

PATIENCE: Final = 10.0
"""Seconds that a connection may take to be made, as long as nng gives one without TLS."""
MANY: Final = 100
"""Connections that are being made, beyond which each has ``HURRY`` only: who floods a member must not use up its descriptors."""
HURRY: Final = 1.0
LOOK_EVERY: Final = 1.0
"""Seconds between two looks; more, where a process has so many descriptors that the look takes long."""

_DESCRIPTORS: Final = "/proc/self/fd"  # where it is missing, so is this protection

_Address: TypeAlias = tuple[bytes, int]


class HalfOpen:
    """Ends connections to a transport's ports that do not get through; all calls belong to one thread."""

    def __init__(self) -> None:
        self._look_at = 0.0
        self._since: dict[int, float] = {}  # connections to our ports that may be half open, by inode
        self._done: set[int] = set()  # sockets that are none of them

    def look(self, ports: set[int], pipes: Iterable[int], now: float) -> int:
        """Shut down what has been half open for too long; some calls only.  Return how many.

        Args:
            ports: on which this transport listens.
            pipes: nng's connections.
            now: monotonic seconds.
        """
        if now < self._look_at or not ports:
            return 0
        began = time.monotonic()
        found = _sockets()
        self._done &= found.keys()
        self._since = {inode: since for inode, since in self._since.items() if inode in found}
        for inode in found.keys() - self._done - self._since.keys():
            if _leads_to(found[inode], inode, ports):
                self._since[inode] = now
            else:
                self._done.add(inode)
        patience = PATIENCE if len(self._since) <= MANY else HURRY
        ended = self._end({inode: found[inode] for inode, since in self._since.items() if now - since >= HURRY}, pipes, now - patience)
        self._look_at = now + max(LOOK_EVERY, 200 * (time.monotonic() - began))
        return ended

    def _end(self, old: dict[int, int], pipes: Iterable[int], before: float) -> int:
        """Shut down those of some connections that are no pipes and began before a moment."""
        if not old:
            return 0
        through = {address for pipe in pipes if (address := _remote(pipe)) is not None}
        ended = 0
        for inode, descriptor in old.items():
            with contextlib.suppress(OSError), _opened(descriptor, inode) as connection:
                if _packed(connection.getpeername()) in through:
                    self._done.add(inode)
                elif self._since[inode] <= before:
                    connection.shutdown(socket.SHUT_RDWR)
                    ended += 1
            if inode in self._done:
                del self._since[inode]
        return ended


def _sockets() -> dict[int, int]:
    """Return the descriptors of this process's sockets, by inode."""
    found = {}
    with contextlib.suppress(OSError):
        for name in os.listdir(_DESCRIPTORS):
            with contextlib.suppress(OSError):  # closed meanwhile
                status = os.fstat(int(name))
                if stat.S_ISSOCK(status.st_mode):
                    found[status.st_ino] = int(name)
    return found


def _opened(descriptor: int, inode: int) -> socket.socket:
    """Return a second handle of a socket, which is surely that one although descriptors are used again.

    Raises:
        OSError: it is gone.
    """
    connection = socket.socket(fileno=os.dup(descriptor))
    if os.fstat(connection.fileno()).st_ino != inode:
        connection.close()
        raise OSError("it was closed")
    return connection


def _leads_to(descriptor: int, inode: int, ports: set[int]) -> bool:
    """Tell whether a socket is a connection that somebody made to one of our ports."""
    with contextlib.suppress(OSError), _opened(descriptor, inode) as connection:
        if connection.family in (socket.AF_INET, socket.AF_INET6) and connection.type == socket.SOCK_STREAM:
            return connection.getsockname()[1] in ports and bool(connection.getpeername())
    return False


def _packed(address: Any) -> _Address:
    host, port = address[:2]
    return socket.inet_pton(socket.AF_INET6 if ":" in host else socket.AF_INET, host.partition("%")[0]), port


def _remote(pipe: int) -> _Address | None:
    """Return where a pipe of nng's comes from."""
    handle, found = pynng.ffi.new("nng_pipe *"), pynng.ffi.new("nng_sockaddr *")
    handle.id = pipe
    if pynng.lib.nng_pipe_get_addr(handle[0], b"remote-address", found):
        return None
    if found.s_family == pynng.lib.NNG_AF_INET:
        return bytes(pynng.ffi.buffer(pynng.ffi.addressof(found.s_in, "sa_addr"))), socket.ntohs(found.s_in.sa_port)
    if found.s_family == pynng.lib.NNG_AF_INET6:
        return bytes(pynng.ffi.buffer(found.s_in6.sa_addr)), socket.ntohs(found.s_in6.sa_port)
    return None
