"""Addresses of members: what a user writes, as the one form the transport takes.

``host`` and ``host:port`` mean TCP; ``tcp://``, ``ipc://`` and ``inproc://`` say it themselves.  Pure text: no name is looked up here.
"""

from __future__ import annotations

import ipaddress
import re

from replkv.characters import is_printable

DEFAULT_PORT = 7420
ADDRESS_MAX = 255
"""Characters of an address: it travels as a short text."""

_IPC_PATH_MAX = 103  # bytes; the shortest limit among the systems that have such sockets
_HOST = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_-]*[A-Za-z0-9_])?(\.[A-Za-z0-9_]([A-Za-z0-9_-]*[A-Za-z0-9_])?)*\.?")
_DIGITS = re.compile(r"[0-9]{1,5}")


def parse_address(text: str) -> str:
    """Return the url an address stands for; a url already in that form is returned as it is.

    Args:
        text: ``host``, ``host:port``, ``[IPv6]:port``, ``tcp://…``, ``ipc://path`` or ``inproc://name``.  Port 0 lets the system choose
            one, and the host ``*`` means every interface; both are for listening only.

    Raises:
        TypeError: not a str.
        ValueError: no such address; the text says how to write it.
    """
    if not isinstance(text, str):
        raise TypeError(f"an address is a str such as 'host:{DEFAULT_PORT}', not {type(text).__name__}")
    scheme, separator, rest = text.partition("://")
    if not separator:
        scheme, rest = "tcp", text
    if (check := {"tcp": _endpoint, "ipc": _path, "inproc": _name}.get(scheme)) is None:
        if scheme == "tls+tcp":
            raise ValueError(f"{text!r}: write tcp:// and pass tls=; TLS is used if and only if tls= is given")
        raise ValueError(f"{text!r}: addresses begin with tcp://, ipc:// or inproc://, or are host[:port]")
    url = f"{scheme}://{check(text, rest)}"
    if len(url) > ADDRESS_MAX:
        raise ValueError(f"{url[:64]}… has {len(url)} characters: an address has {ADDRESS_MAX} at most")
    return url


def is_loopback(url: str) -> bool:
    """Tell whether only this machine can reach the address.

    A name other than ``localhost`` counts as reachable from elsewhere: what it resolves to may change.

    Args:
        url: what ``parse_address`` returned.
    """
    scheme, _, rest = url.partition("://")
    if scheme != "tcp":
        return True
    host = rest.rpartition(":")[0].strip("[]").lower()
    if host.removesuffix(".") == "localhost":
        return True
    try:
        ip = ipaddress.ip_address(host)
    except ValueError:
        return False
    mapped = ip.ipv4_mapped if isinstance(ip, ipaddress.IPv6Address) else None
    return (mapped or ip).is_loopback


def is_wildcard(url: str) -> bool:
    """Tell whether an address can only be listened on: every interface, or a port that the system chooses.

    Args:
        url: what ``parse_address`` returned.
    """
    scheme, _, rest = url.partition("://")
    host, _, port = rest.rpartition(":")
    return scheme == "tcp" and (host in ("*", "0.0.0.0", "[::]") or port == "0")  # noqa: S104  # it refuses them


def _endpoint(text: str, rest: str) -> str:
    if rest.startswith("["):
        host, bracket, tail = rest[1:].partition("]")
        if not bracket or (tail and not tail.startswith(":")):
            raise ValueError(f"{text!r}: write an IPv6 address as [::1] or [::1]:{DEFAULT_PORT}")
        return f"[{_ipv6(text, host)}]:{_port(text, tail[1:] if tail else str(DEFAULT_PORT))}"
    if rest.count(":") > 1:
        raise ValueError(f"{text!r}: write an IPv6 address in brackets, as [::1]:{DEFAULT_PORT}")
    host, colon, port = rest.partition(":")
    if host != "*" and (not _HOST.fullmatch(host) or len(host) > 253 or not _is_number_or_name(host)):
        raise ValueError(f"{text!r}: {host!r} is no host name or IP address; write host:port, as in db1.internal:{DEFAULT_PORT}")
    return f"{host}:{_port(text, port if colon else str(DEFAULT_PORT))}"


def _is_number_or_name(host: str) -> bool:
    """Tell whether a host that looks like an IPv4 address is one: resolvers read ``10.1`` and ``010.0.0.1`` in ways nobody means."""
    last = host.removesuffix(".").rpartition(".")[2]
    if not last.isdigit():
        return True
    try:
        ipaddress.IPv4Address(host)
    except ValueError:
        return False
    return True


def _ipv6(text: str, host: str) -> str:
    try:
        ip = ipaddress.IPv6Address(host)
    except ValueError:
        raise ValueError(f"{text!r}: {host!r} is no IPv6 address") from None
    if ip.scope_id is not None:
        raise ValueError(f"{text!r}: an address with a zone (%{ip.scope_id}) counts on one machine only; use a global address or a name")
    mapped = ip.ipv4_mapped  # which is written in one way up to Python 3.12, and in another one since
    return str(ip) if mapped is None else f"::ffff:{int(mapped) >> 16:x}:{int(mapped) & 0xFFFF:x}"


def _port(text: str, port: str) -> int:
    if not _DIGITS.fullmatch(port) or int(port) > 65535:
        raise ValueError(f"{text!r}: a port is a number from 0 to 65535, not {port!r}")
    return int(port)


def _path(text: str, path: str) -> str:
    _name(text, path)
    if len(path.encode()) > _IPC_PATH_MAX:
        raise ValueError(f"{text!r}: the path of a socket has at most {_IPC_PATH_MAX} bytes; use a shorter one, or one relative to here")
    return path


def _name(text: str, name: str) -> str:
    if not is_printable(name):
        raise ValueError(f"{text!r}: a path or name must follow ://, of printable characters")
    return name
