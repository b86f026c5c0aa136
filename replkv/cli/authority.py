"""A small authority in a directory: it signs the certificates by which members and clients of one cluster know each other.

There are two, so that no client's certificate can be taken for a member's: ``ca`` signs members, ``client-ca`` signs clients, and what
members trust of each other is ``ca`` alone.  Keys are of the curve P-256, which every TLS library takes.  Needs ``cryptography``.
"""

from __future__ import annotations

import datetime as dt
import ipaddress
import os
import re
import secrets
import stat
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final, Literal, TypeAlias

from attrs import evolve, frozen
from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from replkv.address import parse_address

Kind: TypeAlias = Literal["authority for members", "authority for clients", "member", "client"]
Key: TypeAlias = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey

CA: Final = "ca"
CLIENT_CA: Final = "client-ca"
CLIENTS: Final = "clients"
"""Where clients' files lie: a member may be named as a user is."""
SKEW: Final = dt.timedelta(hours=1)
"""A certificate is valid from so long ago on: a machine's clock may be behind."""
MAX_NAME: Final = 64
"""Bytes of a common name."""

_NAME: Final = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_-]*[A-Za-z0-9_])?(\.[A-Za-z0-9_]([A-Za-z0-9_-]*[A-Za-z0-9_])?)*")
_SERVER, _CLIENT = ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH


def now() -> dt.datetime:
    """Return the time, by this machine's clock."""
    return dt.datetime.now(dt.UTC)


# -- signing ------------------------------------------------------------------------------------------------------------------------


def _called(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)] if common_name else [])


def _usage(*, signs: bool) -> x509.KeyUsage:
    others = ("content_commitment", "key_encipherment", "data_encipherment", "key_agreement", "encipher_only", "decipher_only")
    return x509.KeyUsage(digital_signature=not signs, key_cert_sign=signs, crl_sign=signs, **dict.fromkeys(others, False))


def _alternative(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


@frozen
class Issued:
    """A certificate, and the key that belongs to it."""

    certificate: x509.Certificate
    key: Key

    @property
    def certificate_pem(self) -> bytes:
        """The certificate's file."""
        return self.certificate.public_bytes(serialization.Encoding.PEM)

    @property
    def key_pem(self) -> bytes:
        """The key's file; it is not encrypted."""
        return self.key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())

    def sign(self, name: str, hosts: Iterable[str], *, serves: bool, begin: dt.datetime, end: dt.datetime) -> Issued:
        """Make a key, and a certificate for it that this authority has signed.

        Args:
            name: the common name; "" for none.
            hosts: the DNS names and IP addresses of its owner.
            serves: a server may show it, not only a client.
            begin: of its validity.
            end: of its validity.
        """
        key = ec.generate_private_key(ec.SECP256R1())
        made = _builder(_called(name), key, self.certificate.subject, self.key, begin, end)
        made = made.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        made = made.add_extension(_usage(signs=False), critical=True)
        made = made.add_extension(x509.ExtendedKeyUsage([_SERVER, _CLIENT] if serves else [_CLIENT]), critical=False)
        if alternatives := list(map(_alternative, dict.fromkeys(hosts))):
            made = made.add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
        return Issued(made.sign(self.key, hashes.SHA256()), key)


def _builder(subject: x509.Name, key: Key, issuer: x509.Name, by: Key, begin: dt.datetime, end: dt.datetime) -> x509.CertificateBuilder:
    made = x509.CertificateBuilder().subject_name(subject).issuer_name(issuer).public_key(key.public_key())
    made = made.serial_number(x509.random_serial_number()).not_valid_before(begin).not_valid_after(end)
    made = made.add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    return made.add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(by.public_key()), critical=False)


def found(title: str, begin: dt.datetime, end: dt.datetime) -> Issued:
    """Make an authority: a key, and a certificate for it that it has signed itself.

    Args:
        title: what it is for.  Its name has random characters as well: who trusts two authorities must be able to tell them apart.
        begin: of its validity.
        end: of its validity.
    """
    key = ec.generate_private_key(ec.SECP256R1())
    name = _called(f"replkv {title} {secrets.token_hex(4)}")
    made = _builder(name, key, name, key, begin, end)
    made = made.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    made = made.add_extension(_usage(signs=True), critical=True)
    return Issued(made.sign(key, hashes.SHA256()), key)


# -- files --------------------------------------------------------------------------------------------------------------------------


def write_pair(stem: Path, issued: Issued, *, force: bool) -> None:
    """Write a key and its certificate to ``stem.key`` and ``stem.crt``.

    Each file appears complete.  The key comes first: who reads in between finds two that don't match, and reads again.

    Args:
        stem: their path, without suffix.
        issued: what to write.
        force: replace what is there; its owner stays the same, where that is allowed.

    Raises:
        FileExistsError: one of them is there already, and may not be replaced.
        OSError: they can't be written.
    """
    files = [(_suffixed(stem, "key"), issued.key_pem, 0o600), (_suffixed(stem, "crt"), issued.certificate_pem, 0o644)]
    for path, _, _ in files:
        if not force and os.path.lexists(path):
            raise FileExistsError(f"{path} is there already: keep it, or pass force=True to replace it")
    stem.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    waiting = {path: path.with_name(f".{path.name}.{secrets.token_hex(8)}") for path, _, _ in files}
    try:
        for path, data, mode in files:
            _write(waiting[path], data, mode, instead_of=path if force else None)
        for path, temporary in waiting.items():
            if force:
                temporary.replace(path)
            else:
                os.link(temporary, path)  # which never replaces anything
    finally:
        for temporary in waiting.values():
            temporary.unlink(missing_ok=True)
    _sync_directory(stem.parent)


def _suffixed(stem: Path, suffix: str) -> Path:
    return stem.with_name(f"{stem.name}.{suffix}")  # with_suffix would cut a name with a dot


def _write(path: Path, data: bytes, mode: int, *, instead_of: Path | None) -> None:
    """Write a file that never had other rights than it is to have.

    Args:
        path: of a file that does not exist.
        data: all of it.
        mode: its rights.
        instead_of: a file whose owner it gets: root renews what the user of a service has to read.

    Raises:
        OSError: it can't be written.
    """
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, mode)
    with os.fdopen(fd, "wb") as file:
        if instead_of is not None and os.geteuid() == 0 and os.path.lexists(instead_of):
            there = instead_of.lstat()
            os.fchown(fd, there.st_uid, there.st_gid)
        file.write(data)
        file.flush()
        os.fsync(fd)


def _sync_directory(path: Path) -> None:
    directory = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def _read_certificates(path: Path) -> list[x509.Certificate]:
    """Return the certificates in a file.

    Raises:
        ValueError: there are none.
        OSError: it can't be read.
    """
    try:
        return x509.load_pem_x509_certificates(path.read_bytes())
    except ValueError as error:
        raise ValueError(f"{path} is no certificate in PEM: {error}") from None


def _read_key(path: Path) -> Key:
    """Return the private key in a file.

    Raises:
        ValueError: there is none that can be used.
        OSError: it can't be read.
    """
    try:
        key = serialization.load_pem_private_key(path.read_bytes(), password=None)
    except TypeError:
        raise ValueError(f"{path} is encrypted: members read keys that are not, and so does this") from None
    except (ValueError, UnsupportedAlgorithm) as error:
        raise ValueError(f"{path} is no private key in PEM: {error}") from None
    if isinstance(key, (ec.EllipticCurvePrivateKey, rsa.RSAPrivateKey)):
        return key
    raise ValueError(f"{path} has a key that is neither RSA nor of an elliptic curve: TLS libraries differ in what else they take")


def _belongs(key: Key, certificate: x509.Certificate) -> bool:
    return bool(key.public_key() == certificate.public_key())


def _alternatives(certificate: x509.Certificate) -> tuple[str, ...]:
    """Return the DNS names and addresses of a certificate."""
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (x509.ExtensionNotFound, x509.DuplicateExtension, x509.UnsupportedGeneralNameType, ValueError):
        return ()
    return tuple(str(name.value) for name in names if isinstance(name, (x509.DNSName, x509.IPAddress)))


def _common_name(certificate: x509.Certificate) -> str:
    return next((str(name.value) for name in certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)), "")


# -- the directory ------------------------------------------------------------------------------------------------------------------


@frozen
class Entry:
    """One certificate of the directory.

    Args:
        path: of its file.
        kind: whose it is.
        name: of the member, the user or the authority.
        hosts: the DNS names and addresses it is for, with a member's own name.
        begin: of its validity; None if the file can't be read.
        end: of its validity; None if the file can't be read.
        key: there is a key beside it.
        troubles: what is wrong with it, and what ends soon.
    """

    path: Path
    kind: Kind
    name: str
    hosts: tuple[str, ...] = ()
    begin: dt.datetime | None = None
    end: dt.datetime | None = None
    key: bool = False
    troubles: tuple[str, ...] = ()

    @property
    def left(self) -> dt.timedelta:
        """How long it is still valid; less than nothing if it has ended."""
        return (self.end or now()) - now()


def check_member(name: str) -> str:
    """Return the name of a member that a certificate can bear.

    Raises:
        ValueError: TLS could not compare it, or its files would be those of an authority.
    """
    if not _NAME.fullmatch(name) or len(name) >= MAX_NAME:
        raise ValueError(
            f"a certificate can't name a member {name!r}: it takes names of at most {MAX_NAME - 1} letters, digits, '_', '-' and '.'; "
            "give the member such a name"
        )
    if name.lower() in (CA, CLIENT_CA):
        raise ValueError(f"a member must not be named {name!r} here: {name}.crt and {name}.key are an authority's")
    return name


def check_user(user: str) -> str:
    """Return the name of a user that a certificate can bear.

    Raises:
        ValueError: it is too long, or can't be a file's name.
    """
    if not user or not user.isprintable() or len(user.encode()) > MAX_NAME or "/" in user or user.startswith((".", "-")):
        raise ValueError(
            f"a certificate can't name a user {user!r}: it takes 1 to {MAX_NAME} bytes of printable text without '/' that begins with "
            "neither '.' nor '-'; let this user have a password instead"
        )
    return user


def check_host(host: str) -> str:
    """Return a DNS name or an IP address as a certificate has it.

    Raises:
        ValueError: it is neither.
    """
    try:
        ip = ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        pass
    else:
        if "%" in host or ip.is_unspecified:
            raise ValueError(f"{host!r}: nobody elsewhere reaches a member by that; write the address that others use")
        return str(ip)
    if ":" in host or "*" in host:
        raise ValueError(f"{host!r}: write a host name or an IP address, without a port and without '*'")
    return parse_address(f"tcp://{host}").removeprefix("tcp://").rpartition(":")[0].removesuffix(".")


class Authority:
    """The two authorities of a directory, and what they have signed.

    Args:
        directory: where all files are.
    """

    def __init__(self, directory: str | os.PathLike[str]) -> None:
        self.directory = Path(directory)

    def init(self, *, days: int, force: bool = False) -> tuple[Entry, Entry]:
        """Make the authority for members and the one for clients.

        Args:
            days: how long they are valid.
            force: replace those that are there: what they have signed is worthless then.

        Raises:
            FileExistsError: there is one already.
            OSError: the files can't be written.
        """
        stems = [self.directory / CA, self.directory / CLIENT_CA]
        for path in (_suffixed(stem, suffix) for stem in stems for suffix in ("crt", "key")):
            if not force and os.path.lexists(path):
                raise FileExistsError(f"{path} is there already: use it, or pass force=True, which makes worthless what it has signed")
        begin = now() - SKEW
        for stem, title in zip(stems, ("members", "clients"), strict=True):
            write_pair(stem, found(title, begin, begin + SKEW + dt.timedelta(days=days)), force=force)
        return self._entry(stems[0], "authority for members"), self._entry(stems[1], "authority for clients")

    def member(self, name: str, hosts: Sequence[str] = (), *, days: int, force: bool = False) -> Entry:
        """Make a key and a certificate for a member.

        Args:
            name: of the member.
            hosts: the names and addresses by which clients, and members that join, reach it; with ``force`` and none, those of the
                certificate that is replaced.
            days: how long it is valid; at most as long as the authority.
            force: replace the files that are there.

        Raises:
            ValueError: a name or a host can't be used, or there is no authority that can sign.
            FileExistsError: the member has a certificate already.
            OSError: the files can't be read or written.
        """
        stem = self.directory / check_member(name)
        if not hosts and force and _suffixed(stem, "crt").exists():
            hosts = self._entry(stem, "member").hosts
        if not hosts:
            raise ValueError(f"say by which host names or IP addresses clients reach {name}: they check that its certificate has them")
        hosts = [check_host(host) for host in hosts if host != name]
        self._sign(CA, stem, name, [name, *hosts], serves=True, days=days, force=force)
        return self._entry(stem, "member")

    def client(self, user: str, *, days: int, force: bool = False) -> Entry:
        """Make a key and a certificate for a user's clients.

        Args:
            user: the user that clients with this certificate are.
            days: how long it is valid; at most as long as the authority.
            force: replace the files that are there.

        Raises:
            ValueError: a certificate can't have the name, or there is no authority that can sign.
            FileExistsError: the user has a certificate already.
            OSError: the files can't be read or written.
        """
        stem = self.directory / CLIENTS / check_user(user)
        self._sign(CLIENT_CA, stem, user, (), serves=False, days=days, force=force)
        return self._entry(stem, "client")

    def entries(self, *, soon: int = 0) -> list[Entry]:
        """Return every certificate that is there: authorities, members, clients.

        Args:
            soon: what ends within so many days is told as a trouble.

        Raises:
            ValueError: there is no certificate.
            OSError: the directory can't be read.
        """
        names = sorted(path.name.removesuffix(".crt") for path in self.directory.glob("*.crt"))
        users = sorted(path.name.removesuffix(".crt") for path in (self.directory / CLIENTS).glob("*.crt"))
        if not names and not users:
            raise ValueError(f"{self.directory} has no certificates: make an authority there with 'replkv certs init {self.directory}'")
        entries = [self._entry(self.directory / name, kind, soon) for name, kind in _AUTHORITIES.items() if name in names]
        entries += [self._entry(self.directory / name, "member", soon) for name in names if name not in _AUTHORITIES]
        return entries + [self._entry(self.directory / CLIENTS / user, "client", soon) for user in users]

    # -- inside -------------------------------------------------------------------------------------------------------------------

    def _sign(self, issuer: str, stem: Path, name: str, hosts: Sequence[str], *, serves: bool, days: int, force: bool) -> None:
        by = self._issuer(issuer)
        at = now()
        end = min(at + dt.timedelta(days=days), by.certificate.not_valid_after_utc)
        if end <= at:
            raise ValueError(
                f"the authority {self.directory / issuer}.crt has ended on {end:%Y-%m-%d}: make a new one in another directory"
            )
        write_pair(stem, by.sign(name, hosts, serves=serves, begin=at - SKEW, end=end), force=force)

    def _issuer(self, name: str) -> Issued:
        """Return an authority with its key.

        Raises:
            ValueError: there is none, or its files don't belong together.
            OSError: they can't be read.
        """
        stem = self.directory / name
        try:
            certificates, key = _read_certificates(_suffixed(stem, "crt")), _read_key(_suffixed(stem, "key"))
        except FileNotFoundError as error:
            raise ValueError(f"{error.filename} is missing: 'replkv certs init {self.directory}' makes an authority") from None
        for certificate in certificates:
            if _belongs(key, certificate):
                return Issued(certificate, key)
        raise ValueError(f"{stem}.key does not belong to {stem}.crt: put the two of one authority there")

    def _entry(self, stem: Path, kind: Kind, soon: int = 0) -> Entry:
        """Look at one certificate."""
        path = _suffixed(stem, "crt")
        entry = Entry(path, kind, stem.name)
        try:
            certificate = _read_certificates(path)[0]
        except (ValueError, OSError) as error:
            return evolve(entry, troubles=(_said(path, error),))
        key = _suffixed(stem, "key")
        name = _common_name(certificate)
        begin, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
        troubles = [*_of_time(begin, end, soon), *_of_key(key, certificate), *self._of_issuer(certificate, kind)]
        if name != stem.name and kind in ("member", "client"):
            troubles.append(f"names {name!r}, not {stem.name!r}")
        return evolve(
            entry, name=name, hosts=_alternatives(certificate), begin=begin, end=end, key=os.path.lexists(key), troubles=tuple(troubles)
        )

    def _of_issuer(self, certificate: x509.Certificate, kind: Kind) -> list[str]:
        if kind not in ("member", "client"):
            return []
        path = _suffixed(self.directory / (CA if kind == "member" else CLIENT_CA), "crt")
        try:
            authorities = _read_certificates(path)
        except (ValueError, OSError) as error:
            return [f"can't be checked: {_said(path, error)}"]
        return [] if any(_signed(certificate, authority) for authority in authorities) else [f"is not signed by {path}"]


_AUTHORITIES: Final[dict[str, Kind]] = {CA: "authority for members", CLIENT_CA: "authority for clients"}


def _said(path: Path, error: Exception) -> str:
    text = error.strerror or "can't be read" if isinstance(error, OSError) else str(error)
    return text.removeprefix(f"{path} ")


def _signed(certificate: x509.Certificate, authority: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(authority)
    except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm):
        return False
    return True


def _of_time(begin: dt.datetime, end: dt.datetime, soon: int) -> list[str]:
    at = now()
    if end <= at:
        return [f"has ended on {end:%Y-%m-%d}"]
    if begin > at:
        return [f"is valid from {begin:%Y-%m-%d %H:%M} UTC on only"]
    return [f"ends on {end:%Y-%m-%d %H:%M} UTC"] if end - at < dt.timedelta(days=soon) else []


def _of_key(path: Path, certificate: x509.Certificate) -> list[str]:
    """Say what is wrong with the key beside a certificate; that there is none may be meant so."""
    if not os.path.lexists(path):
        return []
    try:
        wrong = [] if _belongs(_read_key(path), certificate) else [f"does not belong to {path}"]
        return [*wrong, *([f"has a key that others may read, {path}"] if stat.S_IMODE(path.stat().st_mode) & 0o077 else [])]
    except (ValueError, OSError, UnsupportedAlgorithm) as error:
        return [f"has a key that can't be used: {path}: {_said(path, error)}"]
