"""Connections that were accepted and never get any further: each holds a descriptor, and nng lets those that begin TLS stay for ever.

nng has no limit for them, does not tell of them, and gives nobody their descriptors.  So they are looked for among all that this process
has: a socket of a port that is listened on, whose other end is that of no connection nng has announced.  It is shut down, which nng takes
for the other side's doing.  Where a system does not show a process its descriptors, nothing is done.
"""

from __future__ import annotations

import ctypes
import logging
import os
import resource
import stat
import sys
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import pynng  # as in ``transport.py``: what comes out of it is Any, and goes no further

from replkv.secure import host_of

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

logger = logging.getLogger(__name__)

HANDSHAKE_TIMEOUT: Final = 10.0
"""Seconds a connection has for what comes before its greeting: that of TLS, and nng's own."""
UNFINISHED_MAX: Final = 4096
"""Connections that are not as far; fewer where a process may have few descriptors.  When there are more, the oldest ones make room."""
UNFINISHED_SHARE: Final = 4
"""One part in so many of a process's descriptors is the most that they may take."""
LOOK_EVERY: Final = 1.0
"""Seconds between two looks; more, where there are so many descriptors that a look takes long."""
COMPLAIN_EVERY: Final = 10.0
"""Seconds between two warnings: strangers must not fill the log."""

End: TypeAlias = tuple[int, bytes]
"""A port, and a host's address as the bytes of it."""

_NOWHERE: Final = (0, b"")
_DESCRIPTORS: Final = "/dev/fd"
_PAUSE: Final = 200  # times as long as a look takes, there is none: half a percent of the thread's time
_FAMILY_AT: Final = slice(0, 2) if sys.platform.startswith("linux") else slice(1, 2)  # elsewhere the first byte is a length
_HOSTS: Final = {2: slice(4, 8), 10 if sys.platform.startswith("linux") else 30: slice(8, 24)}  # by family: where the address is
_SHUT_BOTH: Final = 2
_STREAMS: Final = ("tcp://",)


class Doorstep:
    """Ends connections that do not get far enough to be announced; belongs to the thread that polls.

    Args:
        name: of the member, for its log.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._look_at = 0.0
        self._complain_at = 0.0
        self._ended = 0
        self._known: dict[int, End | None] = {}  # connections that were announced, and their other ends
        self._since: dict[End, float] = {}  # when those that were not were first seen, oldest first
        self._others: dict[int, int] = {}  # descriptors that are none of these, and what they are

    def look(self, listeners: Iterable[tuple[Any, str]], pipes: Collection[int], now: float) -> None:
        """Look for those that take too long, or are too many, and end them; some calls only.

        Args:
            listeners: nng's, and their urls.
            pipes: the connections that were announced and have not ended.
            now: monotonic seconds.
        """
        if now < self._look_at or _system is None:
            return
        began = time.monotonic()
        ports = {host_of(url)[1] for _, url in listeners if url.startswith(_STREAMS)}
        if ports:
            self._end_old_ones(self._unfinished(ports, pipes), now)
        self._look_at = now + max(LOOK_EVERY, _PAUSE * (time.monotonic() - began))
        if self._ended and now >= self._complain_at:
            self._complain_at = now + COMPLAIN_EVERY
            how_many = "a connection" if self._ended == 1 else f"{self._ended} connections"
            where = ", ".join(url for _, url in listeners if url.startswith(_STREAMS))
            logger.warning("%s closed %s at %s on which nobody spoke as members or clients do in time", self._name, how_many, where)
            self._ended = 0

    def _unfinished(self, ports: set[int], pipes: Collection[int]) -> dict[End, int]:
        """Return the descriptors of connections that were accepted but not announced, by their other ends."""
        for pipe in [pipe for pipe in self._known if pipe not in pipes]:
            del self._known[pipe]
        self._known.update((pipe, _other_end(pipe)) for pipe in list(pipes) if pipe not in self._known)
        announced = set(self._known.values())
        found, others = {}, {}
        for number in _descriptors():
            kind = _kind(number)
            if kind is None or self._others.get(number) == kind:
                others[number] = kind or 0
                continue
            own, other = _end(_system.getsockname, number), _end(_system.getpeername, number)
            if own is not None and other is not None and own[0] in ports and other not in announced:
                found[other] = number
            else:
                others[number] = kind
        self._others = others
        return {} if None in announced else found  # of one it is not known: let nobody be taken for somebody else

    def _end_old_ones(self, unfinished: dict[End, int], now: float) -> None:
        self._since = {end: since for end, since in self._since.items() if end in unfinished}
        for end in unfinished:
            self._since.setdefault(end, now)
        too_many = len(self._since) - most()
        for end, since in list(self._since.items()):
            if too_many <= 0 and now - since < HANDSHAKE_TIMEOUT:
                break
            too_many -= 1
            # Python's lock is kept for both calls: only a thread of nng's might give the number to another connection between them.
            if _end(_system.getpeername, unfinished[end]) == end:
                _system.shutdown(unfinished[end], _SHUT_BOTH)
                self._ended += 1


def most() -> int:
    """Return how many connections may be unfinished."""
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return UNFINISHED_MAX if limit == resource.RLIM_INFINITY else max(16, min(UNFINISHED_MAX, limit // UNFINISHED_SHARE))


def _open_system() -> Any:
    with suppress(OSError, TypeError):
        return ctypes.PyDLL(None) if os.path.isdir(_DESCRIPTORS) else None
    return None


_system: Any = _open_system()


def _descriptors() -> Iterable[int]:
    """Return the numbers of this process's descriptors, some that are none by now included."""
    try:
        return [int(name) for name in os.listdir(_DESCRIPTORS)]
    except OSError:  # there is none left to read the list with
        return range(resource.getrlimit(resource.RLIMIT_NOFILE)[0])


def _kind(number: int) -> int | None:
    """Return what tells one socket from the others that will have its number; None: it is no socket."""
    try:
        found = os.fstat(number)
    except OSError:
        return None
    return found.st_ino if stat.S_ISSOCK(found.st_mode) else None


def _end(of: Any, number: int) -> End | None:
    """Return what a socket is bound to or connected with, if it is one of TCP and that far."""
    address, size = ctypes.create_string_buffer(128), ctypes.c_uint32(128)
    if of(number, address, ctypes.byref(size)):
        return None
    raw = address.raw
    family = int.from_bytes(raw[_FAMILY_AT], sys.byteorder)
    return (int.from_bytes(raw[2:4]), raw[_HOSTS[family]]) if family in _HOSTS else None


def _other_end(pipe: int) -> End | None:
    """Return who is at the other end of one of nng's connections; None: that can't be found out."""
    handle, address = pynng.ffi.new("nng_pipe *"), pynng.ffi.new("nng_sockaddr *")
    handle.id = pipe
    if code := pynng.lib.nng_pipe_get_addr(handle[0], b"remote-address", address):
        return None if code == pynng.lib.NNG_ENOTSUP else _NOWHERE
    if address.s_family == pynng.lib.NNG_AF_INET:
        place = address.s_in
        return int.from_bytes(place.sa_port.to_bytes(2, sys.byteorder)), place.sa_addr.to_bytes(4, sys.byteorder)
    if address.s_family == pynng.lib.NNG_AF_INET6:
        place = address.s_in6
        return int.from_bytes(place.sa_port.to_bytes(2, sys.byteorder)), bytes(place.sa_addr)
    return _NOWHERE  # a socket of this machine's file system
