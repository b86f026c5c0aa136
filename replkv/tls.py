"""``TLS``: by which certificates a member or a client goes, what is in their files, and what it means when a handshake fails.

All of it is the standard library's; the connections themselves are made by nng for members (``secure.py``) and by ``ssl`` for clients.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import ssl
from typing import Any, Final, TypeAlias

from attrs import field, frozen

logger = logging.getLogger(__name__)

Stamp: TypeAlias = tuple[tuple[int, int, int] | None, ...]
"""What tells whether files were replaced: inode, size and time of the last change of each; None: it is missing."""
Certificate: TypeAlias = dict[str, Any]
"""What ``ssl`` says of a certificate."""

_SERVER_NAME: Final = re.compile(r"[A-Za-z0-9_-]{1,63}(\.[A-Za-z0-9_-]{1,63})*|[0-9A-Fa-f:]+(:[0-9.]+)?")
_ROUNDS: Final = 8  # a handshake takes two or three
_UNTRUSTED: Final = frozenset((2, 18, 19, 20, 21))  # what OpenSSL says when no authority of ours signed a certificate
_TOO_EARLY: Final = 9
_EXPIRED: Final = 10
_PURPOSE: Final = 26
_OTHER_NAME: Final = frozenset((62, 64))  # as a name, as an IP address


def _path(value: object) -> Any:
    """Return a path as text that stays right when the process changes its directory; what is none is left for ``TLS`` to refuse."""
    path = os.fspath(value) if isinstance(value, os.PathLike) else value
    return os.path.abspath(path) if isinstance(path, str) and path else path


@frozen(kw_only=True)
class TLS:
    """Encrypt all connections, and let certificates say who is at the other end; all are paths of PEM files.

    The files are read again when they change, so that certificates are renewed without a restart: write the new file beside the old one and
    rename it.  A new authority is introduced by a ``ca`` that holds both.

    Args:
        ca: the authority, or several, that sign members' certificates, and should sign nothing else: who has one may join the cluster.
        cert: this process's own certificate, with those between it and the authority behind it; only clients may do without.  A member's
            has its name as common name and among its DNS names, and is for client and server; a client's has its user as common name.
        key: its private key, not encrypted; ECDSA or RSA.
        client_ca: members: the authority that signs certificates of clients; by default ``ca``, which then trusts clients as members.
        server_name: the name that members' certificates have where it is not the host of their address; for clients, and for ``join=``.
        require_client_cert: members: False lets clients in that have no certificate and say who they are by a password.

    Raises:
        TypeError, ValueError: an argument is wrong.  What is in the files is looked at by who uses them.
    """

    ca: str = field(converter=_path)
    cert: str | None = field(default=None, converter=_path)
    key: str | None = field(default=None, converter=_path)
    client_ca: str | None = field(default=None, converter=_path)
    server_name: str | None = None
    require_client_cert: bool = True

    def __attrs_post_init__(self) -> None:
        for name in ("ca", "cert", "key", "client_ca", "server_name"):
            value = getattr(self, name)
            if not isinstance(value, str) and (name == "ca" or value is not None):
                raise TypeError(f"TLS({name}=) must be a str{'' if name == 'server_name' else ' or a path'}, not {type(value).__name__}")
            if value == "" or (value is not None and "\0" in value and name != "server_name"):
                raise ValueError(f"TLS({name}=) must not be empty, and have no zero bytes")
        if self.server_name is not None and not _SERVER_NAME.fullmatch(self.server_name):
            raise ValueError(
                f"TLS(server_name=) must be a host name or an IP address, in ASCII and without brackets, not {self.server_name!r}"
            )
        if not isinstance(self.require_client_cert, bool):
            raise TypeError(f"TLS(require_client_cert=) must be a bool, not {type(self.require_client_cert).__name__}")
        if (self.cert is None) != (self.key is None):
            raise ValueError("TLS needs both cert= and key=, or for a client without a certificate neither")

    @property
    def files(self) -> tuple[str, ...]:
        """All files that are named."""
        return tuple(path for path in (self.ca, self.cert, self.key, self.client_ca) if path is not None)

    def stamp(self) -> Stamp:
        """Return what changes when one of the files is replaced."""
        return tuple(map(_stamp, self.files))

    def load(self, member: str = "") -> Credentials:
        """Read and check the files; takes some milliseconds.

        Args:
            member: the name of the member that goes by them; "": it is a client.

        Raises:
            ValueError: a file is missing, is no PEM, or does not fit the others, or the own certificate is not valid; the text names the
                file and says what to do.
        """
        stamp = self.stamp()
        ca, client_ca = _certificates(self.ca), _certificates(self.client_ca or self.ca)
        for path, text in ((self.ca, ca), (self.client_ca, client_ca)):
            if path is not None:
                _context(ssl.PROTOCOL_TLS_SERVER, text, path)
        if self.cert is None or self.key is None:
            if member:
                raise ValueError(f"member {member} needs a certificate of its own: give TLS(cert=, key=), too")
            return Credentials(stamp, ca, client_ca, "", "")
        cert, key = _certificates(self.cert), _private_key(self.key)
        found = _own_certificate(self, ca if member else "", cert)
        if member:
            _check_names(self.cert, member, common_name(found), names(found))
        if self.stamp() != stamp:
            raise ValueError(f"{self.cert}: the files of TLS changed while they were read: try again")
        begins, ends = (ssl.cert_time_to_seconds(found[bound]) for bound in ("notBefore", "notAfter"))
        return Credentials(stamp, ca, client_ca, cert, key, begins, ends)

    def client_context(self) -> ssl.SSLContext:
        """Return a context for connections to members: they need a certificate of ``ca`` for the name that is asked for.

        Raises:
            ValueError: the files can't be used.
        """
        context = _context(ssl.PROTOCOL_TLS_CLIENT, _certificates(self.ca), self.ca)
        if self.cert is not None and self.key is not None:
            _load_chain(context, self.cert, self.key)
        return context


@frozen(repr=False)
class Credentials:
    """What the files of a ``TLS`` held when they were read, as text.

    Attributes:
        stamp: of the files.
        cert: the own certificate, and key its private key; empty where there is none.
        begins: when the own certificate begins to be valid, in seconds since 1970, and ``ends`` when it ends.
    """

    stamp: Stamp
    ca: str
    client_ca: str
    cert: str
    key: str
    begins: float = 0.0
    ends: float = float("inf")


def explain(error: OSError, name: str = "", ca: str = "") -> str:
    """Say for people why a handshake with a member failed, and what to do.

    Args:
        error: what was raised; others than those of ``ssl`` are taken, too.
        name: that the member's certificate was to have.
        ca: the file with the authorities that count.
    """
    if isinstance(error, ssl.SSLCertVerificationError):
        return _explain_certificate(error, name, ca)
    if isinstance(error, ssl.SSLError):
        reason = error.reason or ""
        for part, text in _REFUSALS.items():
            if part in reason:
                return text
        if isinstance(error, (ssl.SSLEOFError, ssl.SSLZeroReturnError)):
            return HUNG_UP
        return f"the handshake failed: {reason or error}"
    if isinstance(error, (ConnectionResetError, BrokenPipeError)):
        return HUNG_UP
    if isinstance(error, TimeoutError):
        return "it does not answer, or does not speak TLS: look at the address, and whether tls= is given there"
    return error.strerror or str(error)


HUNG_UP: Final = "it hung up during the handshake: no TLS is spoken there, for want of tls=, or it does not accept this certificate"
_REFUSALS: Final = {  # what OpenSSL's reasons contain
    "CERTIFICATE_REQUIRED": "it demands a certificate, and none was shown: give TLS(cert=, key=)",
    "UNKNOWN_CA": "it does not trust the authority that signed this certificate: use one of its ca=, or add that authority there",
    "CERTIFICATE_EXPIRED": "it says that this certificate has expired: renew it, and look at the clocks of both machines",
    "BAD_CERTIFICATE": "it does not accept this certificate: its own log says why; look at the clocks of both machines, too",
    "CERTIFICATE_UNKNOWN": "it does not accept this certificate: its own log says why; look at the clocks of both machines, too",
    "UNSUPPORTED_CERTIFICATE": "it does not accept certificates of this kind: use one for client and server, with an ECDSA or RSA key",
    "WRONG_VERSION_NUMBER": "no TLS is spoken there: give tls= on both sides, or on none",
    "HTTP_REQUEST": "no TLS is spoken there: give tls= on both sides, or on none",
    "RECORD_LAYER_FAILURE": "no TLS is spoken there: give tls= on both sides, or on none",
    "PROTOCOL_VERSION": "it speaks no version of TLS from 1.2 on: upgrade it",
    "UNSUPPORTED_PROTOCOL": "it speaks no version of TLS from 1.2 on: upgrade it",
    "HANDSHAKE_FAILURE": "it refused the handshake, for want of a certificate or of a common cipher: its own log says why",
}


def _explain_certificate(error: ssl.SSLCertVerificationError, name: str, ca: str) -> str:
    code = error.verify_code
    if code in _UNTRUSTED:
        where = f"in {ca}" if ca else "trusted here"
        return f"its certificate was not signed by an authority that is {where}: renew it, or add its authority to ca="
    if code == _EXPIRED:
        return "its certificate has expired: renew it there, and look at the clocks of both machines"
    if code == _TOO_EARLY:
        return "its certificate is not valid yet: look at the clocks of both machines"
    if code == _PURPOSE:
        return "its certificate is not made for servers: members need one for client and server"
    if code in _OTHER_NAME:
        remedy = "correct the address, put the name into the certificate, or say in server_name= which name it has"
        return f"its certificate is not for {name or 'that name'}: {remedy}"
    return f"its certificate is not accepted: {error.verify_message}"


# -- files -------------------------------------------------------------------------------------------------------------------------


def _stamp(path: str) -> tuple[int, int, int] | None:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns


_BYTE_ORDER_MARK: Final = b"\xef\xbb\xbf"
_open_keys: set[str] = set()  # of whose rights was warned


def _read(path: str, *, secret: bool = False) -> str:
    """Return what is in a file, without what is not ASCII: that can only be in the words between which PEM stands."""
    try:
        with open(path, "rb") as file:
            data = file.read()
            others_read = secret and os.name == "posix" and os.fstat(file.fileno()).st_mode & 0o077
    except OSError as error:
        raise ValueError(f"{path} can't be read: {error.strerror}; TLS needs it") from error
    if data.startswith(_BYTE_ORDER_MARK):
        raise ValueError(f"{path} begins with a byte order mark, which hides its first line from TLS libraries: save it without one")
    if others_read and path not in _open_keys:
        _open_keys.add(path)
        logger.warning("%s: others than its owner can read this private key, and be taken for its owner: chmod 600 it", path)
    return data.decode("ascii", "ignore")


def _certificates(path: str) -> str:
    text = _read(path)
    if "-----BEGIN CERTIFICATE-----" not in text:
        raise ValueError(
            f"{path} holds no certificate in PEM form: there must be a line -----BEGIN CERTIFICATE-----; "
            "other forms can be converted, with 'openssl x509 -inform der' for instance"
        )
    return text


def _private_key(path: str) -> str:
    text = _read(path, secret=True)
    if "ENCRYPTED" in text:
        raise ValueError(f"{path} is encrypted, and nobody is there to type its passphrase: decrypt it, and let only its owner read it")
    if "PRIVATE KEY-----" not in text:
        raise ValueError(f"{path} holds no private key in PEM form: there must be a line -----BEGIN PRIVATE KEY-----")
    return text


# -- the own certificate -----------------------------------------------------------------------------------------------------------


def _context(protocol: int, ca: str, path: str) -> ssl.SSLContext:
    """Return a context that accepts certificates of some authorities; of an intermediate one, too, as members do."""
    context = ssl.SSLContext(protocol)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.verify_mode = ssl.CERT_REQUIRED
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    try:
        context.load_verify_locations(cadata=ca)
    except (ssl.SSLError, ValueError) as error:
        raise ValueError(f"{path} holds a certificate that can't be read: {error}; write it anew") from error
    return context


def _load_chain(context: ssl.SSLContext, cert: str, key: str) -> None:
    try:
        context.load_cert_chain(cert, key, lambda: "")  # without the last it might ask at the terminal, and wait
    except ssl.SSLError as error:
        if "KEY_VALUES_MISMATCH" in (error.reason or "") or "MISMATCH" in str(error):
            raise ValueError(
                f"{key} is not the private key of {cert}: replace both together, and the own certificate comes first there"
            ) from error
        raise ValueError(f"{cert} and {key} can't be used as certificate and private key: {error.reason or error}") from error
    except OSError as error:
        raise ValueError(f"{cert} and {key} can't be read: {error.strerror}") from error


def _own_certificate(tls: TLS, ca: str, cert: str) -> Certificate:
    """Check the own certificate by showing it to itself, and return what it says.

    Args:
        tls: where the files are.
        ca: the authorities that must have signed it, and for servers, too; empty: it need only be valid.
        cert: what is in its file.
    """
    assert tls.cert is not None and tls.key is not None  # noqa: S101, PT018  # the caller has looked
    accepting = _context(ssl.PROTOCOL_TLS_SERVER, ca or cert, tls.ca if ca else tls.cert)
    calling = _context(ssl.PROTOCOL_TLS_CLIENT, ca or cert, tls.ca if ca else tls.cert)
    calling.check_hostname = False  # nobody is called
    if not ca:
        calling.verify_mode = ssl.CERT_NONE  # a client's certificate need not do for a server
    for context in (accepting, calling):
        _load_chain(context, tls.cert, tls.key)
    try:
        return _meet(accepting, calling)
    except ssl.SSLCertVerificationError as error:
        raise ValueError(f"{tls.cert} can't be used: {_own_fault(error, tls.ca)}") from error
    except ssl.SSLError as error:
        raise ValueError(f"{tls.cert} can't be used: {error.reason or error}; members and clients need ECDSA or RSA keys") from error


def _own_fault(error: ssl.SSLCertVerificationError, ca: str) -> str:
    texts = {
        _EXPIRED: "it has expired; renew it, and look at the clock of this machine",
        _TOO_EARLY: "it is not valid yet; look at the clock of this machine",
        _PURPOSE: "it is not made for this; members need a certificate for client and server, clients one for clients",
        **dict.fromkeys(
            _UNTRUSTED, f"no authority in {ca} signed it; renew it, add its authority there, or those between the two behind it"
        ),
    }
    return texts.get(error.verify_code, error.verify_message)


def _meet(accepting: ssl.SSLContext, calling: ssl.SSLContext) -> Certificate:
    """Let two contexts shake hands in memory, and return the certificate that the calling one showed."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    server = accepting.wrap_bio(to_server, to_client, server_side=True)
    client = calling.wrap_bio(to_client, to_server)
    for _ in range(_ROUNDS):
        for side in (client, server):
            with contextlib.suppress(ssl.SSLWantReadError):
                side.do_handshake()
    found: Certificate | None = server.getpeercert()
    if not found:
        raise ssl.SSLError(1, "no handshake can be made with it")
    return found


def _check_names(path: str, member: str, common: str, others: frozenset[str]) -> None:
    """Check that a certificate is one for a member: who dials asks for its name there, and who is dialled looks at the common name.

    nng tells no more of a certificate that can be trusted: of the other names it does not say whether one is a DNS name or the bytes of an
    address.
    """
    if common != member:
        raise ValueError(
            f"{path} is a certificate for {common or 'nobody'}, not for {member}: "
            "each member needs one of its own, with its name as its one common name and among its DNS names"
        )
    if member not in others:
        raise ValueError(
            f"{path}: {member} is its common name, and is missing among its DNS names: make a certificate that has it there, too"
        )


def common_name(certificate: Certificate) -> str:
    """Return the common name; empty if there is none that can be shown, or several, for one may be somebody else's."""
    found = [str(value) for part in certificate.get("subject", ()) for kind, value in part if kind == "commonName"]
    return found[0] if len(found) == 1 and found[0].isprintable() else ""


def names(certificate: Certificate) -> frozenset[str]:
    """Return under which names and addresses its owner may be dialled: the common name counts only where there are no others (RFC 6125)."""
    if (others := certificate.get("subjectAltName")) is not None:
        return frozenset(name for kind, name in others if kind in ("DNS", "IP Address"))
    return frozenset(filter(None, (common_name(certificate),)))
