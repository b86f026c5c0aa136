"""Frames between members, over nng: it moves bytes and tells who is connected, and knows nothing of Raft or of handshakes.

A member **dials** each peer and sends its frames on that link; what comes back on it are answers.  It **listens** for the peers' links,
which it sees as numbered pipes.  Who is at the other end of a pipe is for the two ends to tell each other; that is ``links.py``'s business.

Below: one raw REP socket that listens, one raw REQ socket per peer (nng's ROUTER and DEALER).  All of it is called without blocking, by
the one thread that polls; nng's own threads only leave a note and wake that thread.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import errno
import threading
import time
from collections import deque
from typing import Any, Protocol, TypeAlias

import pynng  # it ships no types: what comes out of it is Any, and goes no further than this file
from attrs import Factory, define, field, frozen

from replkv import fork
from replkv.bell import READABLE, Bell, Poll
from replkv.codec import FRAME_MAX
from replkv.diagnosis import PROBE_AFTER, Probes, Refusals, listen_in
from replkv.doorstep import Doorstep
from replkv.errors import Closed
from replkv.secure import Secured, identities

_SWEEP = 0.05  # s between two looks at every socket, readable or not: a lost wake-up of nng then costs this much and no more
_LINGER = 0.05  # s that close() gives the last frames to leave; nng drops what it still holds
_RETRY = 0.5  # s before a link is dialled again that broke sooner than _STEADY after it came up, or could not be dialled at all
_STEADY = 1.0  # s
_RECONNECT_MS = (20, 500)  # nng's pauses between attempts to connect; 10 ms without a limit burn a fifth of a core
_QUEUE = 128  # messages nng keeps per socket and direction
_ROOM = 256  # what one poll takes in: a frame counts 1, and 1 more for each _PAGE bytes
_PAGE = 64 << 10
_PIPES_MAX = 256  # incoming connections, if the caller does not say
_LOOK = 0.5  # s between two looks at what no event announces: files that were replaced, links that do not come up
_ANEW = 32  # looks within which all connections are made anew, a few at each, when other authorities count
_GONE_MAX = 4096  # remembered pipes that are no more
_REQUEST = 0x80000000  # the end of nng's way-back list: every message of a raw REQ or REP socket needs it
_WAY_BACK = _REQUEST.to_bytes(4)


@frozen
class LinkUp:
    """The link to ``peer`` is connected; nothing sent on an earlier connection will arrive on it."""

    peer: str


@frozen
class LinkDown:
    """The link to ``peer`` is lost; it is dialled again until ``hang_up``."""

    peer: str


@frozen
class LinkFailed:
    """The link to ``peer`` does not come up, and this is why; it is still dialled again."""

    peer: str
    reason: str


@frozen
class PipeUp:
    """Somebody connected to this member."""

    pipe: int


@frozen
class PipeDown:
    """An incoming connection is gone."""

    pipe: int


@frozen
class Arrived:
    """A frame from an incoming connection."""

    pipe: int
    frame: bytes = field(repr=False)


@frozen
class Answered:
    """A frame that came back on the link to ``peer``."""

    peer: str
    frame: bytes = field(repr=False)


Event: TypeAlias = LinkUp | LinkDown | LinkFailed | PipeUp | PipeDown | Arrived | Answered


class Transport(Protocol):
    """What a node needs of a network.  Only ``wake`` may be called by other threads than the one that polls.

    Frames of one connection arrive in order, each at most once, between its up and its down.  When a connection breaks, frames on their
    way are lost without notice.  What the caller ends itself (``kick``, ``hang_up``, ``dial`` again) is not announced: no event of it
    follows, apart from those that ``poll`` has already returned.
    """

    def listen(self, url: str) -> str:
        """Accept connections, and return the url with the port that was bound.

        Args:
            url: as ``parse_address`` returns it; port 0 lets the system choose.

        Raises:
            OSError: the address can't be listened on; the text says what to do.
        """

    def dial(self, peer: str, url: str, name: str = "") -> None:
        """Open the link to a peer, in place of the one there may be; it is dialled until it succeeds, and again after it is lost.

        Args:
            peer: what the link is called.
            url: where the peer is.
            name: that the certificate shown there must have, where connections are encrypted; empty: that of the url.

        Raises:
            OSError: no such address can exist.
        """

    def hang_up(self, peer: str) -> None:
        """Close the link to a peer at once, with the frames that have not left yet; no link is no error."""

    def identities(self, end: int | str) -> frozenset[str] | None:
        """Return who has proved by a certificate to be at the other end: its common name; nobody where it has shown no valid one.

        Args:
            end: an incoming connection, or the peer of a link.

        Returns:
            None if the connection is not encrypted, so that nobody can prove anything.
        """

    def send(self, peer: str, frame: bytes) -> bool:
        """Send a frame on the link to a peer.

        Returns:
            False: not connected, or its queue is full; try again later.  True promises nothing: the connection may break.
        """

    def reply(self, pipe: int, frame: bytes) -> bool:
        """Send a frame back on an incoming connection; more than 64 under way to one that does not read are dropped without notice.

        Returns:
            False: the pipe is gone, or the queue is full.
        """

    def kick(self, pipe: int) -> None:
        """Close an incoming connection at once; an unknown one is no error."""

    def poll(self, timeout: float) -> list[Event]:
        """Wait for events or ``wake``, and return what there is; a part of it where that is much, the rest by the next call.

        Args:
            timeout: seconds to wait at most.
        """

    def wake(self) -> None:
        """Make the current ``poll``, or else the next one, return without waiting."""

    def close(self) -> None:
        """Let the last frames leave for a moment, then close everything.  May be called again."""


@define(eq=False, repr=False)
class _Line:
    """One nng socket: the listener, whose ``peer`` is empty, or one attempt at a link.  A link's socket carries one connection in its life.

    nng would reconnect by itself and send what it still holds, frames of the old connection in front of the new one's greeting.
    """

    peer: str
    url: str
    socket: Any  # pynng.Socket
    handle: Any  # its nng_socket, as the library's functions take it
    fd: int
    name: str = ""  # of a link: what the certificate there must have
    since: float = 0.0  # of a link: it is missing
    pipe: int = 0  # of a link: its connection, 0 while there is none
    taken: bool = False  # of a link: it has had its one connection, or is about to
    up_at: float = 0.0
    retry_at: float | None = None  # of a lost link: when to dial again; its socket is closed
    departed: list[int] = field(default=Factory(list))  # pipes that ended; announced once what they had sent is taken in


class NngTransport:
    """The transport of a real member.

    Args:
        pipes_max: incoming connections that it takes.
        name: of the member, for its log.
        secured: its certificates; None: nothing is encrypted.
    """

    def __init__(self, pipes_max: int = _PIPES_MAX, *, name: str = "this member", secured: Secured | None = None) -> None:
        fork.ensure_not_forked()
        self._pipes_max = pipes_max
        self._secured = secured
        self._probes = Probes()
        self._refusals, self._doorstep = Refusals(name), Doorstep(name)
        self._listeners: list[tuple[Any, str]] = []  # nng's, and where
        self._anew: list[int | str] = []  # connections that are to be made anew, by and by
        self._look_at = 0.0
        _prepare_nng()
        self._bell = Bell()
        self._bell_lock = threading.Lock()  # no ring may reach a descriptor that is closed and perhaps somebody else's by now
        self._poll = Poll()
        self._poll.register(self._bell.fileno(), READABLE)
        self._lines: dict[int, _Line] = {}  # by the descriptor that is readable when a frame is there
        self._listener: _Line | None = None
        self._links: dict[str, _Line] = {}
        self._pipes: dict[int, bool] = {}  # incoming connection → has it ever sent a frame
        self._gone: dict[int, None] = {}  # nng may report the end of a pipe before its beginning
        self._changes: deque[tuple[_Line, int, bool]] = deque()  # (line, pipe, up), from nng's threads
        self._departing: dict[_Line, None] = {}
        self._asleep = False
        self._signalled = False
        self._sweep_at = self._sent_at = 0.0
        self._closed = False
        self._message = pynng.ffi.new("nng_msg **")  # made once: these would cost more than the calls they are for
        self._number = pynng.ffi.new("uint32_t *")
        self._message_at, self._number_at = _address(self._message), _address(self._number)
        self._pointer = ctypes.c_void_p.from_address(self._message_at)  # the same pointer, for the calls that are made by ctypes

    # -- connections ---------------------------------------------------------------------------------------------------------------

    def listen(self, url: str) -> str:
        """See ``Transport.listen``."""
        self._ensure_usable()
        if self._listener is None:
            self._listener = self._open("", url)
        listener, bound = _start_listener(self._listener.handle, url, self._secured)
        self._listeners.append((listener, bound))
        return bound

    def dial(self, peer: str, url: str, name: str = "") -> None:
        """See ``Transport.dial``."""
        self._ensure_usable()
        missing = self._links.get(peer)
        since = missing.since if missing is not None and not missing.pipe else time.monotonic()
        self.hang_up(peer)
        line = self._open(peer, url)
        line.name, line.since = name, since
        try:
            _start_dialer(line, self._secured)
        except OSError:
            self._shut(line)
            raise
        self._links[peer] = line

    def hang_up(self, peer: str) -> None:
        """See ``Transport.hang_up``."""
        fork.ensure_not_forked()
        if line := self._links.pop(peer, None):
            self._shut(line)

    def kick(self, pipe: int) -> None:
        """See ``Transport.kick``."""
        fork.ensure_not_forked()
        if self._pipes.pop(pipe, None) is not None:
            self._forget(pipe)
            _close_pipe(pipe)

    def _open(self, peer: str, url: str) -> _Line:
        sock = _open_socket(listening=not peer)
        line = _Line(peer, url, sock, sock.socket, sock.recv_fd)
        if peer:
            sock.add_pre_pipe_connect_cb(lambda pipe: _take(line, pipe))
        sock.add_post_pipe_connect_cb(lambda pipe: self._note(line, pipe.id, True))
        sock.add_post_pipe_remove_cb(lambda pipe: self._note(line, pipe.id, False))
        self._lines[line.fd] = line
        self._poll.register(line.fd, READABLE)
        return line

    def _shut(self, line: _Line) -> None:
        if line.retry_at is None:
            del self._lines[line.fd]
            self._poll.unregister(line.fd)  # first: the number is used again as soon as the socket is closed
            line.socket.close()
        if line.pipe:
            self._forget(line.pipe)
            line.pipe = 0
        self._departing.pop(line, None)

    def _forget(self, pipe: int) -> None:
        self._gone[pipe] = None
        if len(self._gone) > _GONE_MAX:
            del self._gone[next(iter(self._gone))]

    def _note(self, line: _Line, pipe: int, up: bool) -> None:
        """Leave word of a change; runs on a thread of nng, which holds a lock of pynng: no call of nng may be made here."""
        self._changes.append((line, pipe, up))
        self._ring()

    def identities(self, end: int | str) -> frozenset[str] | None:
        """See ``Transport.identities``."""
        if self._secured is None:
            return None
        line = self._links.get(end) if isinstance(end, str) else None
        return identities(line.pipe if line is not None else end if isinstance(end, int) else 0)

    # -- frames --------------------------------------------------------------------------------------------------------------------

    def send(self, peer: str, frame: bytes) -> bool:
        """See ``Transport.send``."""
        fork.ensure_not_forked()
        line = self._links.get(peer)
        if line is None or line.pipe == 0:
            return False
        _check_size(frame)
        # In one call.  A link's socket has one connection at most, so its way back need not be a header that nng looks at.
        if _send(line.handle, _WAY_BACK + frame, len(_WAY_BACK) + len(frame), _NONBLOCK):
            return False
        self._sent_at = time.monotonic()
        return True

    def reply(self, pipe: int, frame: bytes) -> bool:
        """See ``Transport.reply``."""
        fork.ensure_not_forked()
        if pipe not in self._pipes or self._listener is None:
            return False
        _check_size(frame)
        if _msg_alloc(self._message_at, 0):
            return False
        message = self._pointer.value
        failed = _msg_append(message, frame, len(frame)) or _header_append(message, pipe) or _header_append(message, _REQUEST)
        if failed or _sendmsg(self._listener.handle, self._message[0], _NONBLOCK):
            _msg_free(message)
            return False
        self._sent_at = time.monotonic()
        return True

    # -- the loop ------------------------------------------------------------------------------------------------------------------

    def poll(self, timeout: float) -> list[Event]:
        """See ``Transport.poll``."""
        self._ensure_usable()
        now = time.monotonic()
        deadline = now + timeout
        while True:
            lines, woken = self._wait(min(deadline, self._sweep_at) - now)
            now = time.monotonic()
            if now >= self._sweep_at:
                lines = self._sweep(now)
            events = self._take_in(lines, now)
            if now >= self._look_at:
                self._look_around(now, events)
            if events or woken or now >= deadline:
                return events

    def wake(self) -> None:
        """See ``Transport.wake``."""
        fork.ensure_not_forked()
        self._ring()

    def _ring(self) -> None:
        if self._signalled:
            return  # a wake-up that nobody has answered yet does for this one too
        self._signalled = True
        if self._asleep:
            with self._bell_lock:
                if not self._closed:
                    self._bell.ring()

    def _wait(self, timeout: float) -> tuple[list[_Line], bool]:
        self._asleep = True  # before the look at _signalled: either this thread sees the signal, or the signaller sees it asleep
        readable = self._poll.poll(0 if self._signalled or timeout < 0 else timeout)
        self._asleep = False
        woken = self._signalled
        if woken:  # not cleared unseen: a signal between the look and the clearing would be lost
            self._signalled = False
        lines = []
        for fd, _ in readable:
            if (line := self._lines.get(fd)) is not None:
                lines.append(line)
            else:
                self._bell.still()
        return lines, woken

    def _sweep(self, now: float) -> list[_Line]:
        """Dial lost links again, and return every open line."""
        self._sweep_at = now + _SWEEP
        for line in [line for line in self._links.values() if line.retry_at is not None and now >= line.retry_at]:
            try:
                self.dial(line.peer, line.url, line.name)
            except OSError:
                line.retry_at = now + _RETRY
                self._links[line.peer] = line
        lines = [line for line in self._links.values() if line.retry_at is None]
        return lines if self._listener is None else [self._listener, *lines]

    def _look_around(self, now: float, events: list[Event]) -> None:
        """Do what no event announces: say what does not come about, and take up certificates that were replaced."""
        self._look_at = now + _LOOK
        self._refusals.look(self._listeners, self._secured, now)
        for pipe in self._doorstep.look(self._listeners, self._pipes, now):
            self._make_anew(pipe, events, now)
        if self._doorstep.clogged:
            self._listen_anew()
        for line in self._links.values():
            if not line.pipe and now - line.since >= PROBE_AFTER:
                self._probes.consider(line.peer, line.url, line.name, self._secured, now)
        for peer, url, reason in self._probes.take():
            failed = self._links.get(peer)
            if failed is not None and failed.url == url and not failed.pipe:
                events.append(LinkFailed(peer, reason))
        if self._secured is not None:
            listen_in()
            if (others_count := self._secured.renew(now)) is not None:
                self._renew(self._secured, others_count=others_count)
            for _ in range(1 + len(self._anew) // _ANEW if self._anew else 0):
                self._make_anew(self._anew.pop(), events, now)

    def _listen_anew(self) -> None:
        """Close all incoming connections with those that nng can't be made to close otherwise, and accept new ones."""
        for at, (listener, url) in enumerate(self._listeners):
            if url.startswith("tcp://") and self._listener is not None:
                _lib.nng_listener_close(listener)  # of no effect where the last attempt ended behind it
                with contextlib.suppress(OSError):  # the next look tries again
                    self._listeners[at] = _start_listener(self._listener.handle, url, self._secured)

    def _renew(self, secured: Secured, *, others_count: bool) -> None:
        """Use other certificates from now on; where other authorities count, everybody has to show its own again, one after the other."""
        for listener, url in self._listeners:
            if url.startswith("tcp://"):
                secured.hand_over(listener, url)
        for line in list(self._links.values()):
            if not line.pipe and line.retry_at is None:
                self.dial(line.peer, line.url, line.name)
        if others_count:
            self._anew = [*self._pipes, *self._links]

    def _make_anew(self, end: int | str, events: list[Event], now: float) -> None:
        if isinstance(end, int):
            if end in self._pipes:
                self.kick(end)
                events.append(PipeDown(end))
        elif (line := self._links.get(end)) is not None and line.pipe:
            self._shut(line)
            line.retry_at = line.since = now
            events.append(LinkDown(line.peer))

    def _take_in(self, lines: list[_Line], now: float) -> list[Event]:
        events: list[Event] = []
        if self._changes:
            self._take_changes(events, now)
        if self._departing:
            lines = list(dict.fromkeys([*lines, *self._departing]))
        for line in lines:
            room = max(1, _ROOM // len(lines))
            drain = self._drain_listener if line is self._listener else self._drain_link
            empty = drain(line, events, room)
            if empty and line.departed:
                self._see_off(line, events, now)
        return events

    def _take_changes(self, events: list[Event], now: float) -> None:
        for _ in range(len(self._changes)):
            line, pipe, up = self._changes.popleft()
            if line is not self._listener and self._links.get(line.peer) is not line:
                continue  # of a link that was hung up
            if not up:
                line.departed.append(pipe)
                self._departing[line] = None
            elif pipe in self._gone:
                continue
            elif line is self._listener:
                if pipe not in self._pipes:
                    self._admit(pipe, events)
            else:
                line.pipe, line.up_at = pipe, now
                events.append(LinkUp(line.peer))

    def _admit(self, pipe: int, events: list[Event]) -> bool:
        """Take an incoming connection; where there are too many, the one that has been silent for longest makes room."""
        self._pipes[pipe] = False
        if len(self._pipes) > self._pipes_max:
            victim = next(pipe for pipe, spoke in self._pipes.items() if not spoke)
            self.kick(victim)
            if victim == pipe:
                return False
            events.append(PipeDown(victim))
        events.append(PipeUp(pipe))
        return True

    def _see_off(self, line: _Line, events: list[Event], now: float) -> None:
        """Announce the end of connections whose last frames have been taken in."""
        for pipe in line.departed:
            self._forget(pipe)
            if line is self._listener:
                if self._pipes.pop(pipe, None) is not None:
                    events.append(PipeDown(pipe))
            elif line.retry_at is None:
                if line.pipe:
                    events.append(LinkDown(line.peer))
                steady = line.pipe and now - line.up_at >= _STEADY
                self._shut(line)
                line.since, line.retry_at = now, now if steady else now + _RETRY
        line.departed.clear()
        self._departing.pop(line, None)

    def _drain_listener(self, line: _Line, events: list[Event], room: int) -> bool:
        """Take in frames; True if none is left."""
        handle, message, number, pipes = line.handle, self._message, self._number, self._pipes
        pointer, number_at = self._pointer, self._number_at
        while room > 0:
            if _recvmsg(handle, message, _NONBLOCK):
                return True
            received = pointer.value
            _header_trim(received, number_at)  # nng puts the pipe in front of the way back
            pipe = number[0]
            frame = _body(received)
            room -= 1 + len(frame) // _PAGE
            if not pipes.get(pipe):
                if pipe in self._gone or not (pipe in pipes or self._admit(pipe, events)):
                    continue
                pipes[pipe] = True
            events.append(Arrived(pipe, frame))
        return False

    def _drain_link(self, line: _Line, events: list[Event], room: int) -> bool:
        """Take in answers; True if none is left."""
        handle, message, pointer = line.handle, self._message, self._pointer
        while room > 0:
            if _recvmsg(handle, message, _NONBLOCK):
                return True
            frame = _body(pointer.value)
            room -= 1 + len(frame) // _PAGE
            if line.pipe:
                events.append(Answered(line.peer, frame))
        return False

    # -- the end -------------------------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """See ``Transport.close``.  In a forked child it does nothing, so that the child can leave its parent's ``with`` block."""
        if self._closed or fork.forked():
            return
        time.sleep(max(0.0, self._sent_at + _LINGER - time.monotonic()))
        for peer in list(self._links):
            self.hang_up(peer)
        if self._listener is not None:
            self._shut(self._listener)
        self._pipes.clear()
        with self._bell_lock:
            self._closed = True
            self._poll.close()
            self._bell.close()

    def _ensure_usable(self) -> None:
        fork.ensure_not_forked()
        if self._closed:
            raise Closed("the transport is closed")


# -- calls of nng ------------------------------------------------------------------------------------------------------------------

_lib: Any = pynng.lib
_NONBLOCK = _lib.NNG_FLAG_NONBLOCK
_TLS = b"tls-config"
_send, _sendmsg, _recvmsg = _lib.nng_send, _lib.nng_sendmsg, _lib.nng_recvmsg
_holding = ctypes.PyDLL(pynng._nng.__file__)  # noqa: SLF001  # the library that pynng has loaded


def _in_memory(name: str, result: type[Any] | None, *arguments: type[Any]) -> Any:
    """Return a function of nng that touches nothing but a message of ours, to be called without letting go of the interpreter's lock.

    pynng lets go of it in each call.  Where other threads compute, any of them may take it then and keep it for 5 ms, and a frame is
    half a dozen calls.  Functions that wait for a lock of nng's must let go, for a thread that holds that may be waiting for Python's.
    """
    function = getattr(_holding, name)
    function.restype, function.argtypes = result, arguments
    return function


_POINTER, _SIZE, _UINT32 = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_uint32
_msg_alloc = _in_memory("nng_msg_alloc", ctypes.c_int, _POINTER, _SIZE)
_msg_append = _in_memory("nng_msg_append", ctypes.c_int, _POINTER, ctypes.c_char_p, _SIZE)
_msg_free = _in_memory("nng_msg_free", None, _POINTER)
_msg_body = _in_memory("nng_msg_body", _POINTER, _POINTER)
_msg_len = _in_memory("nng_msg_len", _SIZE, _POINTER)
_header_append = _in_memory("nng_msg_header_append_u32", ctypes.c_int, _POINTER, _UINT32)
_header_trim = _in_memory("nng_msg_header_trim_u32", ctypes.c_int, _POINTER, _POINTER)

_PORT_TAKEN = (
    "another process has it, perhaps an earlier one of this member or a forked child of it: end that process or choose another address"
)
_REASONS = {  # nng's error → errno, remedy
    _lib.NNG_EADDRINUSE: (errno.EADDRINUSE, _PORT_TAKEN),
    _lib.NNG_EADDRINVAL: (errno.EADDRNOTAVAIL, "it is no address of this machine, or its name can't be resolved: correct it"),
    _lib.NNG_EPERM: (errno.EACCES, "this process may not use it: choose a port above 1023, or a path it may write to"),
    _lib.NNG_ENOENT: (errno.ENOENT, "its directory does not exist: create it first"),
}


def _prepare_nng() -> None:
    """Guard forks, and keep nng to few threads; nng ignores the latter once it runs.

    Its resolvers stay as they are: with only one, a name server that does not answer for one peer would hold up all others.
    """
    fork.guard(_leave_nng_alone)
    _lib.nng_init_set_parameter(_lib.NNG_INIT_NUM_TASK_THREADS, 2)
    _lib.nng_init_set_parameter(_lib.NNG_INIT_NUM_EXPIRE_THREADS, 1)


def _leave_nng_alone() -> None:
    """In a forked child: nng aborts it on the first call, and hangs in the clean-up that pynng runs at exit."""
    atexit.unregister(pynng.nng._pynng_atexit)  # noqa: SLF001  # the only handle there is on it
    for kind in (pynng.Socket, pynng.Context, pynng.Message, pynng.TLSConfig):
        kind.__del__ = lambda _: None


def _open_socket(*, listening: bool) -> Any:
    sock = pynng.Socket(opener=_lib.nng_rep0_open_raw if listening else _lib.nng_req0_open_raw)
    sock.recv_max_size = FRAME_MAX + 4  # nng counts its own header; its default is no limit
    sock.send_buffer_size = sock.recv_buffer_size = _QUEUE  # the default of raw sockets is 1
    sock.reconnect_time_min, sock.reconnect_time_max = _RECONNECT_MS
    sock.tcp_keepalive = True
    return sock


def _start_listener(handle: Any, url: str, secured: Secured | None) -> tuple[Any, str]:
    listener = pynng.ffi.new("nng_listener *")
    _check(_lib.nng_listener_create(listener, handle, _on_wire(url, secured)), "listen on", url)
    if secured is not None and url.startswith("tcp://"):
        _check(_lib.nng_listener_set_ptr(listener[0], _TLS, secured.listening()), "listen on", url)
    _lib.nng_listener_set_int(listener[0], b"ipc:permissions", 0o600)  # refused by other transports, which have no such thing
    if code := _lib.nng_listener_start(listener[0], 0):
        _lib.nng_listener_close(listener[0])
        _check(code, "listen on", url)
    port = pynng.ffi.new("int *")
    if _lib.nng_listener_get_int(listener[0], b"tcp-bound-port", port):
        return listener[0], url  # not TCP
    return listener[0], f"{url.rpartition(':')[0]}:{port[0]}"


def _on_wire(url: str, secured: Secured | None) -> bytes:
    """Return a url as nng takes it."""
    return f"tls+{url}".encode() if secured is not None and url.startswith("tcp://") else url.encode()


def _check_size(frame: bytes) -> None:
    if len(frame) > FRAME_MAX:
        raise ValueError(f"a frame has at most {FRAME_MAX} bytes, not {len(frame)}: its receiver would drop the connection")


def _start_dialer(line: _Line, secured: Secured | None) -> None:
    dialer = pynng.ffi.new("nng_dialer *")
    _check(_lib.nng_dialer_create(dialer, line.handle, _on_wire(line.url, secured)), "dial", line.url)
    if secured is not None and line.url.startswith("tcp://"):
        try:
            settings = secured.dialing(line.name, line.url)
        except ValueError as error:
            raise OSError(errno.EINVAL, str(error)) from error
        _check(_lib.nng_dialer_set_ptr(dialer[0], _TLS, settings), "dial", line.url)
    _check(_lib.nng_dialer_start(dialer[0], _NONBLOCK), "dial", line.url)


def _check(code: int, verb: str, url: str) -> None:
    if code:
        number, remedy = _REASONS.get(code, (errno.EIO, pynng.ffi.string(_lib.nng_strerror(code)).decode()))
        raise OSError(number, f"cannot {verb} {url}: {remedy}")


def _take(line: _Line, pipe: Any) -> None:
    """Refuse a link's socket a second connection; runs on a thread of nng, where closing a pipe is allowed."""
    if line.taken:
        with contextlib.suppress(pynng.NNGException):  # it has just ended by itself
            pipe.close()
    line.taken = True


def _close_pipe(number: int) -> None:
    pipe = pynng.ffi.new("nng_pipe *")
    pipe.id = number
    _lib.nng_pipe_close(pipe[0])


def _body(message: int | None) -> bytes:
    """Copy a message's body out, once, and free it."""
    frame = ctypes.string_at(_msg_body(message), _msg_len(message))
    _msg_free(message)
    return frame


def _address(of: Any) -> int:
    """Return where something of cffi's is."""
    return int(pynng.ffi.cast("uintptr_t", of))
