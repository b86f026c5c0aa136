"""Where the members of a run live: an address and a directory each, and between them a network that can be cut one way.

Where root may do so, each member gets a network namespace of its own, all of them on one bridge, and a mount namespace in which its
directory can be a small file system in memory.  The namespaces are those of processes that do nothing but wait for the end of their stdin:
however this process ends, they end too, and nothing of them is left on the machine.  Elsewhere all members are on loopback.
"""

from __future__ import annotations

import contextlib
import functools
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Self

from attrs import frozen
from cluster import eventually, free_ports
from proxy import FAIR, Proxy, Weather

PORT = 7420
NOWHERE = "02:00:00:00:00:ff"  # nobody's hardware address: what is sent there is lost without a word
PATIENCE = 20.0  # s for a command to end; it takes a fraction of one


def _run(*command: str, told: str = "") -> None:
    done = subprocess.run(command, input=told, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert done.returncode == 0, f"{' '.join(command)}: {done.stderr or done.stdout}"


class Namespace:
    """A network namespace and a mount namespace, and the process that holds them."""

    def __init__(self) -> None:
        self._holder = subprocess.Popen(
            ["unshare", "--net", "--mount", "cat"],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C ends it when all that live in it have ended
        )
        self.pid = self._holder.pid
        self.within = ("nsenter", "--target", str(self.pid), "--net", "--mount", "--")
        try:
            eventually(self._is_apart, PATIENCE)
        except BaseException:
            self.close()
            raise

    def _is_apart(self) -> bool:
        """Tell whether the process has left this one's namespaces, which it does before it becomes cat."""
        assert self._holder.poll() is None, "unshare is not allowed"
        return Path(f"/proc/{self.pid}/comm").read_text() == "cat\n"

    def ip(self, *orders: str) -> None:
        """Have ip carry out orders, as its own lines."""
        _run(*self.within, "ip", "-batch", "-", told="\n".join(orders))

    def mount(self, directory: Path, size: str) -> None:
        """Mount an empty file system of a size, in memory."""
        _run(*self.within, "mount", "-t", "tmpfs", "-o", f"size={size},mode=700", "tmpfs", str(directory))

    def path(self, path: Path) -> Path:
        """Return where this process finds what processes in the namespace find at a path."""
        return Path(f"/proc/{self.pid}/root{path}")

    def close(self) -> None:
        """Let go of the namespaces; they end with the last process in them."""
        assert self._holder.stdin is not None
        self._holder.stdin.close()
        self._holder.wait(PATIENCE)


@functools.cache
def why_no_namespaces() -> str:
    """Return why there can be no namespaces here, "" where there can."""
    if os.geteuid() != 0:
        return "it needs root's rights"
    if missing := [program for program in ("unshare", "nsenter", "ip", "mount") if shutil.which(program) is None]:
        return f"{', '.join(missing)} not found"
    try:
        with tempfile.TemporaryDirectory() as root, Grounds(Path(root), "ab", apart=True):
            return ""
    except (AssertionError, OSError, subprocess.TimeoutExpired) as error:
        return f"no network namespaces: {error}"


@frozen
class Place:
    """Where one member lives.

    Args:
        within: the command that runs another one there.
        directory: for its files, as its process names it.
        seen_at: the same directory, as this process names it.
        addresses: of all members as this one finds them; its own is where it listens.
        small: whether the directory is a small file system of its own.
    """

    within: tuple[str, ...]
    directory: Path
    seen_at: Path
    addresses: dict[str, str]
    small: bool


class Grounds:
    """The places of all members, and what is between them; use it with ``with``.

    Args:
        root: a directory for theirs.
        names: of the members.
        apart: give each its own namespaces.
        proxied: lead every link through a proxy.
        disk: size of each member's disk, as mount takes it; "": what ``root`` is on.
        seed: of the proxies' chances.
    """

    def __init__(self, root: Path, names: str, *, apart: bool = False, proxied: bool = False, disk: str = "", seed: int = 0) -> None:
        assert apart or not disk, "small disks need namespaces"
        self.apart = apart
        self.places: dict[str, Place] = {}
        self._proxies: dict[str, Proxy] = {}
        self._cut: set[tuple[str, str]] = set()
        self._spaces: dict[str, Namespace] = {}
        with contextlib.ExitStack() as undo:
            undo.callback(self.close)
            if apart:
                self._separate(names)
            for name in names:
                (root / name).mkdir(parents=True, exist_ok=True)
                if disk:
                    self._spaces[name].mount(root / name, disk)
            homes = self._homes(names)
            for number, name in enumerate(names):
                self._settle(name, root / name, homes, seed + number if proxied else None, small=bool(disk))
            undo.pop_all()

    def _separate(self, names: str) -> None:
        """Give each member its namespaces, and connect them with a bridge in one more."""
        hub = self._spaces[""] = Namespace()
        hub.ip("link add name bridge type bridge", "link set dev bridge up")
        for number, name in enumerate(names, 1):
            space = self._spaces[name] = Namespace()
            hub.ip(f"link add name to-{name} type veth peer name eth0 netns {space.pid}", f"link set dev to-{name} master bridge up")
            space.ip("link set dev lo up", f"address add 10.77.0.{number}/24 dev eth0", "link set dev eth0 up")

    def _homes(self, names: str) -> dict[str, str]:
        """Return where each member listens."""
        if self.apart:
            return {name: f"10.77.0.{number}:{PORT}" for number, name in enumerate(names, 1)}
        return {name: f"127.0.0.1:{port}" for name, port in zip(names, free_ports(len(names)), strict=True)}

    def _settle(self, name: str, directory: Path, homes: dict[str, str], seed: int | None, *, small: bool) -> None:
        space = self._spaces.get(name)
        within, seen_at = (space.within, space.path(directory)) if space else ((), directory)
        addresses = dict(homes)
        if seed is not None:
            peers = [peer for peer in homes if peer != name]
            ports = range(PORT + 1, PORT + len(homes)) if self.apart else free_ports(len(peers))
            addresses |= {peer: f"127.0.0.1:{port}" for peer, port in zip(peers, ports, strict=True)}
            self._proxies[name] = Proxy({peer: (addresses[peer], homes[peer]) for peer in peers}, within, seed)
        self.places[name] = Place(within, directory, seen_at, addresses, small)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # -- the network ---------------------------------------------------------------------------------------------------------------

    def cut(self, pairs: Iterable[tuple[str, str]]) -> None:
        """Have what one member sends to another vanish, by pairs of sender and receiver; the receiver's own packets still arrive."""
        for sender, receiver in pairs:
            self._spaces[sender].ip(f"neighbour replace {self._host(receiver)} lladdr {NOWHERE} dev eth0 nud permanent")
            self._cut.add((sender, receiver))

    def mend(self) -> None:
        """End all cuts."""
        while self._cut:
            sender, receiver = self._cut.pop()
            self._spaces[sender].ip(f"neighbour del {self._host(receiver)} dev eth0")

    def _host(self, name: str) -> str:
        return self.places[name].addresses[name].partition(":")[0]

    def worsen(self, sender: str, receiver: str, there: Weather, back: Weather = FAIR) -> None:
        """Set the weather of the link that one member dials to another: for what it sends there, and for what comes back."""
        self._proxies[sender].set(receiver, there, back)

    def reset(self, sender: str, receiver: str) -> None:
        """End the connections that one member has dialled to another."""
        self._proxies[sender].reset(receiver)

    def clear_up(self) -> None:
        """Have fair weather on all links."""
        for name, proxy in self._proxies.items():
            for peer in self.places:
                if peer != name:
                    proxy.set(peer)

    def close(self) -> None:
        """End the proxies and let go of the namespaces; the members have to have ended."""
        for proxy in self._proxies.values():
            proxy.close()
        for space in self._spaces.values():
            space.close()
        self._proxies.clear()
        self._spaces.clear()


class Balloon:
    """A file that takes all the room there is on a member's disk."""

    def __init__(self, place: Place) -> None:
        self._path = place.seen_at / "balloon"

    def blow_up(self) -> int:
        """Fill the disk; return the bytes it took."""
        taken = 0
        with self._path.open("ab", buffering=0) as file, contextlib.suppress(OSError):
            for piece in (bytes(1 << 16), bytes(1 << 12)):
                with contextlib.suppress(OSError):
                    while written := file.write(piece):
                        taken += written
        return taken

    def burst(self) -> None:
        """Make room again."""
        self._path.unlink(missing_ok=True)
