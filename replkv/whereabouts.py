"""Where clients of the same machine find a member: its socket, and a file in its data directory that tells all its addresses.

The socket stands in the data directory, which belongs to the member's user alone, unless the path is too long for one.
"""

from __future__ import annotations

import contextlib
import os
import stat
import tempfile
from typing import TYPE_CHECKING, Final

from replkv.address import parse_address
from replkv.errors import Incompatible

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

ADDRESSES: Final = "clients.address"
"""The file: a line with its version, then one url on each line, that of the socket first."""

_MARK, _VERSION = "replkv-clients ", 1

_SOCKET = "clients"


def listen_near(data_dir: str, listen: Callable[[str], str]) -> str:
    """Listen on the socket in a data directory; in a new directory of its own where that is not possible.

    Paths of sockets are short, and not every file system can hold one.

    Args:
        data_dir: the member's, which exists and which nobody else uses.
        listen: listens on a url, and returns it.

    Returns:
        The url.

    Raises:
        OSError: no socket could be made at all.
    """
    withdraw(data_dir)
    path = os.path.join(os.path.abspath(data_dir), _SOCKET)
    with contextlib.suppress(OSError, ValueError):
        return listen(parse_address(f"ipc://{path}"))
    elsewhere = tempfile.mkdtemp(prefix="replkv-")
    try:
        return listen(parse_address(f"ipc://{os.path.join(elsewhere, _SOCKET)}"))
    except BaseException:
        os.rmdir(elsewhere)
        raise


def publish(data_dir: str, urls: Sequence[str]) -> None:
    """Write down where a member serves clients; whoever reads it meanwhile finds the old text or the new one.

    Args:
        data_dir: the member's.
        urls: all that it listens on.

    Raises:
        OSError: it can't be written.
    """
    path = os.path.join(data_dir, ADDRESSES)
    temporary = f"{path}.new"
    with open(temporary, "w", encoding="utf-8", opener=_owner_only) as file:
        file.writelines(f"{line}\n" for line in (f"{_MARK}{_VERSION}", *urls))
    os.replace(temporary, path)


def _owner_only(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW, 0o600)


def find(data_dir: str) -> list[str]:
    """Return the addresses of the member whose data directory this is, the best first; perhaps of one that has ended.

    Args:
        data_dir: the member's.

    Raises:
        FileNotFoundError: no member has served clients there.
        ValueError: the file does not hold addresses.
        Incompatible: a newer version wrote it.
    """
    with open(os.path.join(data_dir, ADDRESSES), encoding="utf-8") as file:
        mark, *urls = [line.strip() for line in file if line.strip()] or [f"{_MARK}{_VERSION}"]
    version = mark.removeprefix(_MARK)
    if version == mark or not version.isdecimal():
        raise ValueError(f"{mark[:64]!r} is not what a file of addresses begins with")
    if int(version) != _VERSION:
        raise Incompatible(f"{data_dir}/{ADDRESSES} has version {version}, this version reads {_VERSION}: upgrade this client")
    return [parse_address(url) for url in urls]


def withdraw(data_dir: str) -> None:
    """Clear away what ``listen_near`` and ``publish`` made in this life of the member or an earlier one; it may be gone already.

    An old socket has to go before a new one is made: a forked child may hold it open, though nobody answers there.

    Args:
        data_dir: the member's, which nobody else uses.
    """
    here = os.path.join(os.path.abspath(data_dir), _SOCKET)
    urls: list[str] = []
    with contextlib.suppress(OSError, ValueError, Incompatible):
        urls = find(data_dir)
    for path in {here, *(url.removeprefix("ipc://") for url in urls if url.startswith("ipc://"))}:
        with contextlib.suppress(OSError):
            if stat.S_ISSOCK(os.lstat(path).st_mode):
                os.unlink(path)
        if path != here:
            with contextlib.suppress(OSError):
                os.rmdir(os.path.dirname(path))  # if it is empty, as one that was made for the socket is
    with contextlib.suppress(OSError):
        os.unlink(os.path.join(data_dir, ADDRESSES))
