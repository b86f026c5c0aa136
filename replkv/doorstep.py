"""Connections that were accepted and never get any further, and those of which nng does not notice that they have ended.

Each holds a descriptor.  nng lets those that begin TLS stay for ever; and where the end of one comes at once behind the handshake of TLS,
nng forgets that it was to look for it.

nng has no limit for them, does not tell of them, and gives nobody their descriptors.  So they are looked for among all that this process
has: a socket of a port that is listened on, whose other end is that of no connection nng has announced.  It is shut down, which nng takes
for the other side's doing.  With one that has ended already, that is of no use.  If nng had announced it, nng can be told to close it; else
the listener has to be closed, with all its connections, and opened again.  That is done when there are many.

Where a system does not show a process its descriptors, nothing is done.
"""

from __future__ import annotations

import ctypes
import logging
import os
import resource
import socket
import stat
import sys
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import pynng  # as in ``transport.py``: what comes out of it is Any, and goes no further

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

logger = logging.getLogger(__name__)

HANDSHAKE_TIMEOUT: Final = 10.0
"""Seconds a connection has for what comes before its greeting: that of TLS, and nng's own."""
UNFINISHED_MAX: Final = 4096
"""Connections that are not as far; fewer where a process may have few descriptors.  When there are more, the oldest ones make room."""
UNFINISHED_SHARE: Final = 8
"""One part in so many of a process's descriptors is the most that they may take, at each of a member's two ports."""
DEAD_SHARE: Final = 2
"""One part in so many of what may be unfinished is the most that may have ended without nng's notice; only who has proved to be somebody
leaves such behind, where that has to be proved by a certificate."""
ANEW_AFTER: Final = 10.0
"""Seconds between two times that a listener is closed because of them."""
LOOK_EVERY, LOOK_AT_MOST = 1.0, 10.0
"""Seconds between two looks; more than the first, where there are so many descriptors that a look takes long."""
COMPLAIN_EVERY: Final = 10.0
"""Seconds between two warnings: strangers must not fill the log."""

End: TypeAlias = tuple[int, bytes]
"""A port, and a host's address as the bytes of it."""

_GONE: Final = (-1, b"")
"""Of a connection that has ended."""
_NEAR: Final = (0, b"")
"""Of one over a socket of this machine's file system."""
_DESCRIPTORS: Final = "/dev/fd"
_PAUSE: Final = 200  # times as long as a look takes, there is none: half a percent of the thread's time
_HURRY: Final = 20  # the same while there are too many
_IS_LINUX: Final = sys.platform.startswith("linux")
_FAMILY_AT: Final = slice(0, 2) if _IS_LINUX else slice(1, 2)  # elsewhere the first byte is a length
_HOSTS: Final = {int(socket.AF_INET): slice(4, 8), int(socket.AF_INET6): slice(8, 24)}  # by family: where the address is
_TOLD_OF_TCP: Final = 104  # bytes of Linux's struct tcp_info to ask for: at least those below
_LAST_DATA_SENT: Final = slice(44, 48)  # of them
_STREAMS: Final = ("tcp://",)


class Doorstep:
    """Ends connections that do not get far enough to be announced; belongs to the thread that polls.

    Args:
        name: of the member, for its log.

    Attributes:
        clogged: the listeners are to be closed and opened again.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._look_at = 0.0
        self._complain_at = 0.0
        self._anew_at = 0.0
        self._ended = 0
        self.clogged = False
        self._gone: set[int] = set()  # connections that were announced, and had ended at the last look
        self._ends: dict[int, End] = {}  # of the sockets of those that were not announced
        self._dead: dict[int, float] = {}  # sockets whose connection has ended, and since when
        self._known: dict[int, End | None] = {}  # connections that were announced, and their other ends
        self._since: dict[End, float] = {}  # when those that were not were first seen, oldest first
        self._others: dict[int, int] = {}  # descriptors that are none of these, and what they are

    def look(self, listeners: Iterable[tuple[Any, str]], pipes: Collection[int], now: float) -> list[int]:
        """Look for those that take too long, or are too many, and end them; some calls only.  Return those that ended without nng's notice.

        Args:
            listeners: nng's, and their urls.
            pipes: the connections that were announced and have not ended.
            now: monotonic seconds.
        """
        self.clogged = False
        if now < self._look_at or _system is None:
            return []
        began = time.monotonic()
        gone: list[int] = []
        bound = [end for listener, url in listeners if url.startswith(_STREAMS) and (end := _bound(listener)) is not None]
        if bound:
            self._end_old_ones(self._unfinished(bound, pipes, now), now)
            gone = self._gone_again()
            self._count_dead(now)
        pause = _HURRY if len(self._since) > most() else _PAUSE
        self._look_at = now + min(LOOK_AT_MOST, max(LOOK_EVERY, pause * (time.monotonic() - began)))
        if self._ended and now >= self._complain_at:
            self._complain_at = now + COMPLAIN_EVERY
            how_many = "a connection" if self._ended == 1 else f"{self._ended} connections"
            where = ", ".join(url for _, url in listeners if url.startswith(_STREAMS))
            logger.warning("%s closed %s at %s on which nobody spoke as members or clients do in time", self._name, how_many, where)
            self._ended = 0
        return gone

    def _gone_again(self) -> list[int]:
        """Return the connections that were found to have ended by the last look, too: of others, the news is on its way."""
        before = self._gone
        self._gone = {pipe for pipe, end in self._known.items() if end not in (_NEAR, None) and _other_end(pipe) == _GONE}
        return [pipe for pipe in self._gone if pipe in before]

    def _count_dead(self, now: float) -> None:
        old = sum(now - since >= HANDSHAKE_TIMEOUT for since in self._dead.values())
        if old > most() // DEAD_SHARE and now >= self._anew_at:
            self._anew_at = now + ANEW_AFTER
            self.clogged = True
            logger.warning("%s makes all incoming connections anew: %d have ended that can't be closed otherwise", self._name, old)

    def _unfinished(self, bound: Collection[End], pipes: Collection[int], now: float) -> dict[End, int]:
        """Return the descriptors of connections that were accepted but not announced, by their other ends."""
        for pipe in [pipe for pipe in self._known if pipe not in pipes]:
            del self._known[pipe]
        self._known.update((pipe, _other_end(pipe)) for pipe in list(pipes) if pipe not in self._known)
        announced = set(self._known.values())
        found, others, dead, ends = {}, {}, {}, {}
        for number in _descriptors():
            kind = _kind(number)
            if kind is None or self._others.get(number) == kind:
                others[number] = kind or 0
                continue
            if (seen := self._ends.get(kind)) is not None and seen not in announced:
                found[seen], ends[kind] = number, seen
                continue
            own, other = _end(_system.getsockname, number), _end(_system.getpeername, number)
            if own is None or not _leads_to(own, bound) or other in announced or (other is None and _listens(number)):
                others[number] = kind
            elif other is None:
                dead[kind] = self._dead.get(kind, now)
            else:
                found[other], ends[kind] = number, other
        self._others, self._dead, self._ends = others, dead, ends
        return {} if None in announced else found  # of one it is not known: let nobody be taken for somebody else

    def _end_old_ones(self, unfinished: dict[End, int], now: float) -> None:
        self._since = {end: since for end, since in self._since.items() if end in unfinished}
        # A look finds many at once while there is a rush, in the order of numbers that ended ones have left: the latest would go first.
        found = [end for end in unfinished if end not in self._since]
        self._since.update((end, now) for end in sorted(found, key=lambda end: _waiting_for(unfinished[end]), reverse=True))
        too_many = len(self._since) - most()
        tried = set()
        for end, since in list(self._since.items()):
            if too_many <= 0 and now - since < HANDSHAKE_TIMEOUT:
                break
            too_many -= 1
            tried.add(end)
            # Python's lock is kept for both calls: only a thread of nng's might give the number to another connection between them.
            if _end(_system.getpeername, unfinished[end]) == end:
                _system.shutdown(unfinished[end], socket.SHUT_RDWR)
                self._ended += 1
        self._ends = {kind: end for kind, end in self._ends.items() if end not in tried}  # what becomes of them is looked at anew


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


def _leads_to(own: End, bound: Collection[End]) -> bool:
    """Tell whether a socket of this end may be of a listener; other ones of the program may have the same port at another address."""
    return any(own == end or (own[0] == end[0] and not any(end[1])) for end in bound)


def _listens(number: int) -> bool:
    value = _option(number, socket.SOL_SOCKET, socket.SO_ACCEPTCONN, ctypes.sizeof(ctypes.c_int))
    return value is None or any(value)


def _waiting_for(number: int) -> int:
    """Return for how many ms nothing was sent to the other end of a connection; 0 where a system does not tell.

    What is sent again counts as sent: one who has vanished in the middle of a handshake looks younger than it is, by half of its time.
    """
    if not _IS_LINUX:
        return 0
    told = _option(number, socket.IPPROTO_TCP, socket.TCP_INFO, _TOLD_OF_TCP)
    return 0 if told is None else int.from_bytes(told[_LAST_DATA_SENT], sys.byteorder)


def _option(number: int, level: int, name: int, length: int) -> bytes | None:
    """Return what a socket says of itself, so many bytes of it; None: it does not."""
    value, size = ctypes.create_string_buffer(length), ctypes.c_uint32(length)
    return None if _system.getsockopt(number, level, name, value, ctypes.byref(size)) else value.raw


def _bound(listener: Any) -> End | None:
    """Return where one of nng's listeners listens; the host may be zeros, for all there are."""
    address = pynng.ffi.new("nng_sockaddr *")
    return None if pynng.lib.nng_listener_get_addr(listener, b"local-address", address) else _end_of(address)


def _other_end(pipe: int) -> End | None:
    """Return who is at the other end of one of nng's connections; None: that can't be found out."""
    handle, address = pynng.ffi.new("nng_pipe *"), pynng.ffi.new("nng_sockaddr *")
    handle.id = pipe
    if code := pynng.lib.nng_pipe_get_addr(handle[0], b"remote-address", address):
        return None if code == pynng.lib.NNG_ENOTSUP else _GONE
    return _end_of(address)


def _end_of(address: Any) -> End:
    if address.s_family == pynng.lib.NNG_AF_INET:
        place = address.s_in
        return int.from_bytes(place.sa_port.to_bytes(2, sys.byteorder)), place.sa_addr.to_bytes(4, sys.byteorder)
    if address.s_family == pynng.lib.NNG_AF_INET6:
        place = address.s_in6
        return int.from_bytes(place.sa_port.to_bytes(2, sys.byteorder)), bytes(place.sa_addr)
    return _NEAR
