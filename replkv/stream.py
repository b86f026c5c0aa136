"""A client's connection to a member: nng's stream framing, over the sockets of the standard library.

A client must work where nng can't, above all in a forked child, so it speaks nng's wire format by itself: as a REQ socket, to the raw REP
socket that a member listens on.  Where the client has certificates all of that goes through TLS, but for sockets of this machine's file
system.  Nothing here waits, but for the look-up of a host's name; whoever holds a connection has a selector.
"""

from __future__ import annotations

import errno
import os
import selectors
import socket
import struct
from contextlib import suppress
from typing import TYPE_CHECKING, Final, TypeVar

from replkv.codec import FRAME_MAX, DecodeError
from replkv.tunnel import Contexts, Tunnel, TunnelError, is_tls

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")
R = TypeVar("R")

_HELLO = b"\x00SP\x00\x00\x30\x00\x00"  # what a REQ socket says first: protocol 0x30
_WELCOME = b"\x00SP\x00\x00\x31\x00\x00"  # and what a REP socket answers
_LENGTH = struct.Struct(">Q")
_IPC_MARK = b"\x01"  # over ipc it stands in front of each length
_REQUEST = b"\x80\x00\x00\x00"  # the end of nng's way-back list; letters carry numbers of their own

_CHUNK = 256 << 10

READ: Final = selectors.EVENT_READ
WRITE: Final = selectors.EVENT_WRITE


class Stream:
    """One connection, which begins to connect at once.  It belongs to one thread.

    All methods that do I/O raise ``ConnectionError`` when the connection can't be made or is lost, naming the member's address and the
    reason, and ``DecodeError`` when what answers is no member.  After either it is of no use and is to be closed.

    Args:
        url: as ``parse_address`` returns it, ``tcp://`` or ``ipc://``.
        attempt: counts the attempts to reach it: a host may have several addresses, which are tried in turn.
        contexts: connect by TLS, unless the url is ``ipc://``.

    Raises:
        ValueError: no such url can be reached from another process.
        ConnectionError: there is no such host, or nobody listens.
    """

    def __init__(self, url: str, attempt: int = 0, contexts: Contexts | None = None) -> None:
        self.url = url
        self.connected = False
        """Whether the other side has answered the greeting."""
        family, address = _resolve(url, attempt)
        self._mark = _IPC_MARK if family == socket.AF_UNIX else b""
        self._tunnel = Tunnel(contexts, _host(url)) if contexts is not None and family != socket.AF_UNIX else None
        self._plain = bytearray()  # what is to be encrypted
        self._out = bytearray()  # what the socket is to send
        self._in = bytearray()
        self._connecting = True
        self._queue(_HELLO)
        self._encrypt()
        self._socket = socket.socket(family, socket.SOCK_STREAM)
        try:
            self._socket.setblocking(False)
            if family != socket.AF_UNIX:
                self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            code = self._socket.connect_ex(address)
            if code == errno.EAGAIN:  # of a Unix socket whose backlog is full: it can't be waited for
                raise self._lost("too many connect to it at once")
            if code not in (0, errno.EINPROGRESS):
                raise self._lost(os.strerror(code))
            self._connecting = code != 0
        except BaseException:
            self.close()
            raise

    def fileno(self) -> int:
        """Return the descriptor, for a selector."""
        return self._socket.fileno()

    @property
    def mask(self) -> int:
        """What to wait for: ``READ``, ``WRITE`` or both."""
        return WRITE if self._connecting else READ | WRITE if self._out else READ

    @property
    def waiting(self) -> int:
        """How many bytes wait to be sent."""
        return len(self._out) + len(self._plain)

    def send(self, body: bytes) -> None:
        """Send a frame, or queue it while the connection is being made or does not take more.

        Raises:
            ValueError: it is larger than any frame may be.
        """
        if len(body) > FRAME_MAX:
            raise ValueError(f"a frame has at most {FRAME_MAX} bytes, not {len(body)}: its receiver would drop the connection")
        self._queue(b"".join((self._mark, _LENGTH.pack(len(_REQUEST) + len(body)), _REQUEST, body)))
        if not self._connecting:
            self._write()

    def handle(self, mask: int) -> list[bytes]:
        """Do what the socket is ready for.

        Args:
            mask: what the selector found; more than is true does no harm.

        Returns:
            The frames that have arrived, in their order.
        """
        if self._connecting:
            if not mask & WRITE:
                return []
            if code := self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
                raise self._lost(os.strerror(code))
            self._connecting = False
        if mask & WRITE:
            self._write()
        return self._read() if mask & READ else []

    def close(self) -> None:
        """Close the connection at once, with what has not left yet.  May be called again."""
        self._socket.close()

    # -- bytes ---------------------------------------------------------------------------------------------------------------------

    def _queue(self, data: bytes) -> None:
        if self._tunnel is None:
            self._out += data
        else:
            self._plain += data

    def _write(self) -> None:
        """Send as much as the socket takes; little more than that is encrypted in advance."""
        self._send_out()
        while not self._out and self._encrypt():
            self._send_out()

    def _encrypt(self) -> bool:
        """Encrypt the next part of what waits; tell whether there is something to send, which may be TLS's own."""
        if self._tunnel is None:
            return False
        if self._plain:
            with memoryview(self._plain) as plain, plain[:_CHUNK] as part:
                taken = self._through(self._tunnel.encrypt, part)
            del self._plain[:taken]
        self._out += self._tunnel.take()
        return bool(self._out)

    def _send_out(self) -> None:
        written, out = 0, self._out
        try:
            with memoryview(out) as view:
                while written < len(view):
                    with view[written : written + _CHUNK] as part:  # else who looks at all objects may keep it from being released
                        written += self._socket.send(part)
        except BlockingIOError:
            pass
        except OSError as error:
            if not self.connected and (data := self._receive()):  # why it was closed tells more than that it was
                self._take_in(data)
            raise self._lost(self._why_closed(_reason(error))) from None
        del out[:written]

    def _read(self) -> list[bytes]:
        if not (data := self._receive()):
            return []
        frames = self._take_in(data)
        if not frames and self._tunnel is not None:
            if self._tunnel.ended:
                raise self._lost(self._why_closed("the other side closed it"))
            self._write()  # the handshake goes on, or what waited for its end
        return frames

    def _receive(self) -> bytes:
        """Return what has arrived, perhaps nothing yet."""
        try:
            data = self._socket.recv(_CHUNK)
        except BlockingIOError:
            return b""
        except OSError as error:
            raise self._lost(self._why_closed(_reason(error))) from None
        if not data:
            raise self._lost(self._why_closed("the other side closed it"))
        return data

    def _take_in(self, data: bytes) -> list[bytes]:
        if self._tunnel is not None:
            data = self._through(self._tunnel.decrypt, data)
            if not self._out:
                self._encrypt()
        self._in += data
        return self._frames()

    def _through(self, step: Callable[[T], R], data: T) -> R:
        """Encrypt or decrypt; if that fails, the other side is told why."""
        assert self._tunnel is not None  # noqa: S101  # it is its step
        try:
            return step(data)
        except TunnelError as error:
            with suppress(OSError):
                self._socket.send(self._out + self._tunnel.take())
            raise self._lost(str(error)) from error

    def _why_closed(self, reason: str) -> str:
        """Return what it means that the connection was closed, as far as that can be told."""
        if self.connected or self._mark:
            return reason
        if self._tunnel is not None:
            return self._tunnel.why_closed()
        return f"{reason} before it greeted: give tls= if that member has it"

    def _frames(self) -> list[bytes]:
        """Take the whole frames out of what has arrived."""
        frames: list[bytes] = []
        arrived, at = self._in, 0
        if not self.connected:
            if self._tunnel is None and not self._mark and arrived and is_tls(arrived):
                raise self._lost("it speaks TLS: connect with tls=, which names the authority of the members")
            if not _WELCOME.startswith(arrived[: len(_WELCOME)]):
                raise DecodeError(f"what listens on {self.url} is no member that serves clients")
            if len(arrived) < len(_WELCOME):
                return frames
            self.connected, at = True, len(_WELCOME)
        head = len(self._mark) + _LENGTH.size
        while len(arrived) >= at + head:
            (size,) = _LENGTH.unpack_from(arrived, at + len(self._mark))
            if not arrived.startswith(self._mark, at) or not len(_REQUEST) <= size <= FRAME_MAX + len(_REQUEST):
                raise DecodeError(f"what listens on {self.url} sent a frame of {size} bytes where at most {FRAME_MAX} are allowed")
            end = at + head + size
            if len(arrived) < end:
                break
            frames.append(bytes(arrived[at + head + len(_REQUEST) : end]))
            at = end
        del arrived[:at]
        return frames

    def _lost(self, reason: str) -> ConnectionError:
        return ConnectionError(f"no connection to {self.url}: {reason}")


def _host(url: str) -> str:
    return url.partition("://")[2].rpartition(":")[0]


def _reason(error: OSError) -> str:
    return error.strerror or str(error)


def _resolve(url: str, attempt: int) -> tuple[socket.AddressFamily, str | tuple[str, int] | tuple[str, int, int, int]]:
    """Return the kind of socket, and where to connect it to."""
    scheme, _, rest = url.partition("://")
    if scheme == "ipc":
        return socket.AF_UNIX, rest
    if scheme != "tcp":
        raise ValueError(f"{url} can't be reached from another process: use tcp:// or ipc://")
    host, _, port = rest.rpartition(":")
    try:
        found = socket.getaddrinfo(host.strip("[]"), int(port), type=socket.SOCK_STREAM)
    except OSError as error:
        raise ConnectionError(f"no connection to {url}: {_reason(error)}") from None
    family, _, _, _, address = found[attempt % len(found)]
    return family, address  # type: ignore[return-value]  # an address of the internet, as the url asks for one
