"""TLS for one connection of a client, without its socket: what is to be sent comes out encrypted, and what arrives is decrypted.

It is the standard library's, so it works where nng can't, above all in a forked child.
"""

from __future__ import annotations

import logging
import ssl
from typing import TYPE_CHECKING, Final, NoReturn

from replkv.tls import explain

if TYPE_CHECKING:
    from replkv.tls import TLS, Stamp

logger = logging.getLogger(__name__)

_CHUNK: Final = 256 << 10
_PLAIN: Final = b"\x00SP\x00"  # what a member says first where nothing is encrypted
_RECORDS: Final = range(0x14, 0x18)  # with which byte a record of TLS begins; the next is 3


class TunnelError(ConnectionError):
    """There can't be a connection by TLS; the text has cause and remedy."""


class Contexts:
    """The certificates of one client, read anew when their files have changed.

    Args:
        tls: names the files.

    Raises:
        ValueError: a file can't be used; the text names it.
    """

    def __init__(self, tls: TLS) -> None:
        self.tls = tls
        self._stamp = tls.stamp()
        self._refused: Stamp | None = None
        self._context = _read(tls)

    def current(self) -> ssl.SSLContext:
        """Return what the next connection is made with; while new files can't be used, what they held before is, and a warning says so."""
        stamp = self.tls.stamp()
        if stamp != self._stamp:
            try:
                self._context, self._stamp = _read(self.tls), stamp
            except ValueError as error:
                if stamp != self._refused:
                    logger.warning("the new files of TLS can't be used, what they held before stays in use: %s", error)
                self._refused = stamp  # they are tried again, for the clock may be what is wrong, but complained about once
        return self._context


def _read(tls: TLS) -> ssl.SSLContext:
    tls.load()  # which checks more, and says better what is wrong
    return tls.client_context()


class Tunnel:
    """The TLS of one connection.

    All methods raise ``TunnelError`` when there can be none; it is of no use then, and what ``take`` returns tells the other side.

    Args:
        contexts: of this client.
        host: whom the url names; the other side's certificate has to be for it, unless the client says another name.
    """

    def __init__(self, contexts: Contexts, host: str) -> None:
        self.is_open = False
        """Whether the other side has shown who it is, so that something can be sent."""
        self.ended = False
        """Whether the other side has said that it sends no more."""
        self._tls = contexts.tls
        self._name = self._tls.server_name or host.strip("[]").removesuffix(".")
        self._first = b""  # of what the other side sent
        self._heard = False  # whether anything of it has been decrypted
        self._arriving, self._leaving = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._ssl = contexts.current().wrap_bio(self._arriving, self._leaving, server_hostname=self._name)
        self._open()

    def take(self) -> bytes:
        """Return what the socket has to send."""
        return self._leaving.read()

    def encrypt(self, data: bytes | bytearray | memoryview) -> int:
        """Encrypt what is to be sent, and return how many bytes of it; none as long as the tunnel is not open."""
        if not self.is_open:
            return 0
        try:
            return self._ssl.write(data)
        except ssl.SSLWantReadError:
            return 0
        except ssl.SSLError as error:
            self._fail(error)

    def decrypt(self, data: bytes) -> bytes:
        """Take in what the socket has received, and return what it means; perhaps nothing yet."""
        if not self.is_open:
            self._look_at(data)
        self._arriving.write(data)
        if not self.is_open and not self._open():
            return b""
        pieces: list[bytes] = []
        try:
            while piece := self._ssl.read(_CHUNK):
                self._heard = True
                pieces.append(piece)
            self.ended = True
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLZeroReturnError:
            self.ended = True
        except ssl.SSLError as error:
            self._fail(error)
        return b"".join(pieces)

    def why_closed(self) -> str:
        """Return what it may mean that the other side has closed before it greeted, and without a word."""
        if not self._first:
            return "the other side closed it before it said anything: perhaps no TLS is spoken there"
        if self._tls.cert is None:
            return "the other side closed it: it may demand a certificate, and none was shown: give TLS(cert=, key=)"
        return f"the other side closed it: it may not accept {self._tls.cert}: its own log says why"

    def _open(self) -> bool:
        """Go on with the handshake as far as possible, and tell whether that was all."""
        try:
            self._ssl.do_handshake()
        except ssl.SSLWantReadError:
            return False
        except ssl.SSLError as error:
            self._fail(error)
        self.is_open = True
        return True

    def _look_at(self, data: bytes) -> None:
        """Refuse what is no TLS at all: it is better known here than to OpenSSL what it is instead."""
        if len(self._first) >= len(_PLAIN):
            return
        first = self._first = (self._first + data)[: len(_PLAIN)]
        if first == _PLAIN:
            raise TunnelError("the member there has no tls=: start it with tls=, or name another port")
        if not _PLAIN.startswith(first) and not is_tls(first):
            raise TunnelError("no TLS is spoken there: name the port at which a member with tls= serves clients")

    def _fail(self, error: ssl.SSLError) -> NoReturn:
        if self.is_open and not self._heard and "BAD_RECORD_MAC" in (error.reason or ""):
            text = self.why_closed()  # nng's TLS encrypts its refusal with keys that this side has done with by then
        else:
            text = explain(error, self._name, self._tls.ca)
        raise TunnelError(text) from error


def is_tls(first: bytes | bytearray) -> bool:
    """Tell whether the first bytes that arrived, one or more, may be those of TLS."""
    return first[0] in _RECORDS and first[1:2] in (b"", b"\x03")
