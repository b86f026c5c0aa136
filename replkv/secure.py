"""TLS below the transport: nng's settings for it, made of files that may be replaced; and who is at the other end of a connection.

nng tells nothing of another's certificate that can be trusted but the common name: the alternative names come as bytes that do not say
what they are, and four bytes of an address can be the name of a member.
"""

from __future__ import annotations

import contextlib
import logging
import re
import socket
import threading
import time
from typing import TYPE_CHECKING, Any, Final

import pynng  # as in ``transport.py``: what comes out of it is Any, and goes no further

if TYPE_CHECKING:
    from replkv.tls import TLS, Credentials, Stamp

logger = logging.getLogger(__name__)

RETRY: Final = 10.0
"""Seconds until files that can't be used are read again although nobody touched them: a clock may have been set."""
DAY: Final = 86400.0
SOON: Final = 30 * DAY
"""Seconds before the end of the own certificate from which on a warning is given each day, oftener where it does not live for long; but
never before four fifths of its life."""
NO_NAME: Final[frozenset[str]] = frozenset()
"""Who is at the other end of a connection with TLS that did not say so, or not credibly."""

_lib: Any = pynng.lib
_ffi: Any = pynng.ffi


class Secured:
    """The certificates of one transport, and nng's settings made of them.

    Args:
        tls: names the files.
        member: whose they are.
        clients: the transport listens for clients, and not for members.

    Raises:
        ValueError: a file can't be used; the text names it.
    """

    def __init__(self, tls: TLS, member: str, *, clients: bool = False) -> None:
        self.tls = tls
        self._member = member
        self._clients = clients
        self._dialing: dict[str, Any] = {}
        self._listening: Any = None
        self._take(tls.load(member))
        self._seen: Stamp = self._credentials.stamp
        self._failed: Stamp | None = None
        self._retry_at = 0.0

    @property
    def authorities(self) -> str:
        """The file with those that sign certificates of who may come in."""
        return self.tls.client_ca or self.tls.ca if self._clients else self.tls.ca

    def listening(self) -> Any:
        """Return nng's settings for a listener; they stay this object's."""
        return self._listening._tls_config  # noqa: SLF001  # pynng offers them to sockets only

    def hand_over(self, listener: Any, url: str) -> None:
        """Have a listener use what is new; nng waits for the next connection with what is old already, so it is given one."""
        _lib.nng_listener_set_ptr(listener, b"tls-config", self.listening())
        host, port = host_of(url)
        host = {"*": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104
        threading.Thread(target=_touch, args=(host, port), name="replkv-renewal", daemon=True).start()  # a name server may not answer

    def expected(self, name: str, url: str) -> str:
        """Return the name or address that the certificate at a url has to be for.

        Args:
            name: of the member; empty: it is not known, and what ``TLS`` says counts, else the host of the url.
            url: that is dialled.
        """
        return name or self.tls.server_name or host_of(url)[0].removesuffix(".")

    def dialing(self, name: str, url: str) -> Any:
        """Return nng's settings for a dialer; they stay this object's.

        Args:
            name: as in ``expected``.
            url: that is dialled.

        Raises:
            ValueError: no certificate can have that name.
        """
        expected = self.expected(name, url)
        if expected not in self._dialing:
            self._dialing[expected] = _settings(self._credentials, self._credentials.ca, self.tls, server_name=expected)
        return self._dialing[expected]._tls_config  # noqa: SLF001

    def renew(self, now: float) -> bool | None:
        """Take up files that were replaced, once they have not changed since the last call.

        Args:
            now: monotonic seconds.

        Returns:
            None: nothing is new.  Else whether other authorities count from now on, so that everybody should prove again who it is.
        """
        if now >= self._remind_at:
            self._remind(now)
        stamp = self.tls.stamp()
        settled, self._seen = stamp == self._seen, stamp
        if not settled or stamp == self._credentials.stamp or (stamp == self._failed and now < self._retry_at):
            return None
        before = self._credentials
        try:
            self._take(self.tls.load(self._member))
        except ValueError as error:
            if stamp != self._failed:
                logger.warning("%s goes on with the certificates that it has: %s", self._member, error)
            self._failed, self._retry_at = stamp, now + RETRY
            return None
        logger.info("%s has taken up new certificates, from %s", self._member, ", ".join(self.tls.files))
        return self._trusted(before) != self._trusted(self._credentials)

    def _remind(self, now: float) -> None:
        begins, ends = self._credentials.begins, self._credentials.ends
        left, life = ends - time.time(), ends - begins
        if left < min(SOON, life / 5):
            self._remind_at = now + min(DAY, max(left, life / 20))  # once more when it has ended
            when = time.strftime("%Y-%m-%d %H:%M", time.gmtime(ends))
            verb = "ends" if left > 0 else "has ended, and nobody accepts it any more,"
            logger.warning("%s: its certificate, %s, %s at %s UTC: renew it", self._member, self.tls.cert, verb, when)

    def _trusted(self, credentials: Credentials) -> str:
        return credentials.client_ca if self._clients else credentials.ca

    def _take(self, credentials: Credentials) -> None:
        mode = _lib.NNG_TLS_AUTH_MODE_REQUIRED
        if self._clients and not self.tls.require_client_cert:
            mode = _lib.NNG_TLS_AUTH_MODE_OPTIONAL
        self._before = self._listening  # nng may be about to accept a connection with it, without holding it yet
        self._listening = _settings(credentials, self._trusted(credentials), self.tls, auth_mode=mode)
        self._credentials = credentials
        self._remind_at = float("-inf")
        self._dialing.clear()


def _touch(host: str, port: int) -> None:
    with contextlib.suppress(OSError):
        socket.create_connection((host, port), 1.0).close()


def _settings(credentials: Credentials, trusted: str, tls: TLS, **others: Any) -> Any:
    """Make nng's settings: with a server name for a dialer, else for a listener."""
    mode = pynng.TLSConfig.MODE_CLIENT if "server_name" in others else pynng.TLSConfig.MODE_SERVER
    own = {"own_cert_string": credentials.cert, "own_key_string": credentials.key}
    try:
        made = pynng.TLSConfig(mode, ca_string=trusted, **own, **others)
        pynng.check_err(_lib.nng_tls_config_version(made._tls_config, _lib.NNG_TLS_1_2, _lib.NNG_TLS_1_3))  # noqa: SLF001
    except pynng.NNGException as error:
        raise ValueError(
            f"members can't use {tls.cert} and {', '.join(dict.fromkeys(filter(None, (tls.ca, tls.client_ca))))}: {error}; "
            "make all certificates with ECDSA (P-256 or P-384) or RSA keys"
        ) from error
    return made


def identities(pipe: int) -> frozenset[str] | None:
    """Return the common name in the certificate that the other side of a connection has shown; nothing where it has shown no valid one.

    Args:
        pipe: of nng's.

    Returns:
        None if the connection is not encrypted.
    """
    handle = _ffi.new("nng_pipe *")
    handle.id = pipe
    verified = _ffi.new("bool *")
    code = _lib.nng_pipe_get_bool(handle[0], b"tls-verified", verified)
    if code == _lib.NNG_ENOTSUP:
        return None
    name = _ffi.new("char **")
    if code or not verified[0] or _lib.nng_pipe_get_string(handle[0], b"tls-peer-cn", name) or name[0] == _ffi.NULL:
        return NO_NAME
    try:
        return frozenset(filter(None, (only_common_name(_ffi.string(name[0])),)))
    finally:
        _lib.nng_strfree(name[0])


_VALUE: Final = rb"(?:[^\\,+]|\\.)*"
_PART: Final = re.compile(rb"(%b)(?: \+ |, |$)" % _VALUE)  # of a subject, and what stands between two
_SUBJECT: Final = re.compile(rb"%b(?:(?: \+ |, )%b)*" % (_VALUE, _VALUE))
_ESCAPED: Final = re.compile(rb"\\([0-9A-F]{2}|.)")


def only_common_name(told: bytes) -> str:
    """Return the common name out of what nng takes for it: the value, escaped as in RFC 4514, and all of the subject that follows it.

    Returns:
        Empty if there are several, for one may be somebody else's, or if it is no text that can be shown.
    """
    if not _SUBJECT.fullmatch(told):
        return ""
    value, *others = _PART.findall(told)
    if value.startswith(b"#") or any(part.startswith(b"CN=") for part in others):
        return ""
    try:
        name = _ESCAPED.sub(lambda found: bytes.fromhex(found[1].decode()) if len(found[1]) > 1 else found[1], value).decode()
    except UnicodeDecodeError:
        return ""
    return name if name.isprintable() else ""


def host_of(url: str) -> tuple[str, int]:
    """Return the host and the port of a ``tcp://`` url."""
    host, _, port = url.partition("://")[2].rpartition(":")
    return host.strip("[]"), int(port)
