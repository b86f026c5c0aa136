"""Certificates for tests: an authority of a test's own, and what it has signed.

Good, or bad in one way::

    ours = Authority(tmp_path / "ours")
    a = ours.member("a", "127.0.0.1", "localhost")       # a.ca, a.cert, a.key: paths as ``TLS(**a.tls)`` takes them
    ours.expired("a"), ours.early("a")                   # that were valid till yesterday, or will be from tomorrow on
    Authority(tmp_path / "others").member("a")           # of an authority that nobody knows
    ours.client("alice")                                 # of the authority for clients, which ``ours.client_ca`` has
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from attrs import frozen

from replkv.cli.authority import found, now, write_pair

DAY = dt.timedelta(days=1)
HOUR = dt.timedelta(hours=1)
LOOPBACK = ("localhost", "127.0.0.1", "::1")


@frozen
class Certified:
    """The files of one certificate: paths, as text."""

    ca: str
    cert: str
    key: str

    @property
    def tls(self) -> dict[str, Any]:
        """The arguments of ``TLS``."""
        return {"ca": self.ca, "cert": self.cert, "key": self.key}

    @property
    def pem(self) -> str:
        """A file with the certificate and the key, as nng takes it."""
        both = Path(self.cert).with_suffix(".pem")
        both.write_bytes(Path(self.cert).read_bytes() + Path(self.key).read_bytes())
        return str(both)


class Signer:
    """One authority: its certificate, and what it signs with its key.

    Args:
        directory: for the files.
        file: of its own certificate, without the suffix.
    """

    def __init__(self, directory: Path, file: str) -> None:
        self.directory = directory
        self.ca = str(directory / f"{file}.crt")
        self.issued = found(f"{file} of {directory.name}"[:40], now() - 30 * DAY, now() + 3650 * DAY)
        write_pair(directory / file, self.issued, force=True)

    def sign(
        self,
        name: str,
        alternatives: Sequence[str] = (),
        *,
        serves: bool = True,
        begin: dt.timedelta = -HOUR,
        end: dt.timedelta = 30 * DAY,
        file: str | None = None,
    ) -> Certified:
        """Make a key and a certificate for it.

        Args:
            name: the common name; "" for none.
            alternatives: DNS names and addresses.
            serves: a server may show it, not only a client.
            begin: of its validity, from now.
            end: of its validity, from now.
            file: of the files, without suffix; files that are there are replaced.
        """
        stem = self.directory / (file or name)
        write_pair(stem, self.issued.sign(name, alternatives, serves=serves, begin=now() + begin, end=now() + end), force=True)
        return Certified(self.ca, f"{stem}.crt", f"{stem}.key")


class Authority:
    """An authority for members and one for clients, as ``replkv certs init`` makes them.

    Args:
        directory: for all files; two authorities need two.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.members, self.clients = Signer(directory, "ca"), Signer(directory, "client-ca")
        self.ca, self.client_ca = self.members.ca, self.clients.ca

    def member(self, name: str, *hosts: str, file: str | None = None) -> Certified:
        """Return a good certificate of a member, under its name and those of its hosts (default: of this machine).

        Args:
            name: of the member.
            hosts: DNS names and IP addresses.
            file: as in ``Signer.sign``; made again under the same, the files are replaced, as by a rotation.
        """
        return self.members.sign(name, (name, *(hosts or LOOPBACK)), file=file)

    def expired(self, name: str) -> Certified:
        """Return a member's certificate that was good till yesterday."""
        return self.members.sign(name, (name, *LOOPBACK), begin=-20 * DAY, end=-DAY, file=f"{name}-expired")

    def early(self, name: str) -> Certified:
        """Return a member's certificate that is good from tomorrow on."""
        return self.members.sign(name, (name, *LOOPBACK), begin=DAY, file=f"{name}-early")

    def client(self, user: str) -> Certified:
        """Return a client's certificate for a user; it trusts members, and is signed by the authority for clients."""
        made = self.clients.sign(user, serves=False, file=f"client-{user}")
        return Certified(self.ca, made.cert, made.key)
