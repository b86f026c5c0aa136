"""A cluster under attack, and its attackers: connections that say what they should not, and the measure of what they do.

A ``Siege`` has three members with doors for clients, and work that goes on all the time: a writer at each member, a client at each door.
``unharmed()`` is what an attack has to leave behind: the same leader in the same term, all work going on, each write once, and no
descriptor, no thread and hardly any memory more than before.
"""

from __future__ import annotations

import contextlib
import os
import socket
import ssl
import struct
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, Self, TypeVar

from attrs import frozen
from authority import Authority, Certified
from cluster import PATIENCE, Cluster, Member, eventually, free_ports
from fleet import CALM, Writer

from replkv import TLS, Client, connect, letters

S = TypeVar("S", bound="Stranger")

REQ = b"\x00SP\x00\x00\x30\x00\x00"
"""What a REQ socket of nng says first."""
REQUEST = b"\x80\x00\x00\x01"
"""In front of each frame of such a socket."""
DESCRIPTORS = 1024  # that a member may have, as most systems have it
MEMORY = 64 << 10  # KiB that an attack may leave behind: what was asked for in between is not all given back by malloc
PACE = 0.1  # s between two writes of each who works: six of them, for minutes, beside attacks that take what there is of the machine
PASSWORDS = {"root": "the root of all", "ann": "ann keeps this to herself", "bob": "bob does not tell either"}


# -- attackers ---------------------------------------------------------------------------------------------------------------------


class Stranger:
    """A connection that says what it is told to, by TLS where it is told to; it counts what the network carries.

    Args:
        at: host and port.
        hello: what to say at once.
    """

    def __init__(self, at: tuple[str, int], hello: bytes = b"") -> None:
        self.sent = self.received = 0
        self.socket = socket.create_connection(at, timeout=10)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._tunnel: ssl.SSLObject | None = None
        self._in, self._out = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._plain = b""
        self._ended = False
        self.raw(hello)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def raw(self, data: bytes) -> None:
        """Send bytes as they are; nothing happens where the other side has closed."""
        self.socket.settimeout(10)
        with suppress(ConnectionError):
            self.socket.sendall(data)
            self.sent += len(data)

    def begin_tls(self, certified: Certified | None = None) -> bytes:
        """Return how TLS begins."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        if certified is not None:
            context.load_cert_chain(certified.cert, certified.key)
        self._tunnel = context.wrap_bio(self._in, self._out)
        with suppress(ssl.SSLWantReadError):
            self._tunnel.do_handshake()
        return self._out.read()

    def handshake(self, certified: Certified | None = None) -> bool:
        """Do all of TLS; False if it was refused."""
        self.raw(self.begin_tls(certified))
        assert self._tunnel is not None
        give_up = time.monotonic() + PATIENCE
        while True:
            try:
                self._tunnel.do_handshake()
            except ssl.SSLWantReadError:
                self.raw(self._out.read())
                assert time.monotonic() < give_up
                if not self._take(10):
                    return False
            except ssl.SSLError:
                return False
            else:
                self.raw(self._out.read())
                return True

    def say(self, data: bytes) -> None:
        """Send bytes, by TLS if that was begun."""
        if self._tunnel is not None:
            self._tunnel.write(data)
            data = self._out.read()
        self.raw(data)

    def send(self, frame: bytes) -> None:
        """Send a frame as a request."""
        self.say(struct.pack(">Q", len(REQUEST) + len(frame)) + REQUEST + frame)

    def _take(self, timeout: float) -> bool:
        """Take in what has come; False if that is the end."""
        self.socket.settimeout(timeout)
        try:
            data = self.socket.recv(1 << 16)
        except (BlockingIOError, TimeoutError):
            return True
        except ConnectionError:
            data = b""
        self.received += len(data)
        self._ended = self._ended or not data
        if self._tunnel is None:
            self._plain += data
        elif data:
            self._in.write(data)
        return bool(data)

    def hear(self) -> bytes:
        """Return all bytes that have come so far, of what is inside TLS if that was begun."""
        before = -1
        while not self._ended and before != self.received:
            before = self.received
            self._take(0.0)
        if self._tunnel is not None:
            with suppress(ssl.SSLError):  # there is nothing more, or it was the end
                while data := self._tunnel.read(1 << 16):
                    self._plain += data
        return self._plain

    def is_dropped(self) -> bool:
        """Tell whether the other side has closed the connection."""
        self.hear()
        return self._ended

    def frames(self) -> list[bytes]:
        """Return the frames that have come so far."""
        data, at, found = self.hear(), len(REQ), []
        while at + 8 <= len(data) and at + 8 + (size := struct.unpack_from(">Q", data, at)[0]) <= len(data):
            found.append(data[at + 12 : at + 8 + size])
            at += 8 + size
        return found


class Visitor(Stranger):
    """A client at a door, by hand."""

    def __init__(self, at: tuple[str, int], *, tls: bool, certified: Certified | None = None) -> None:
        super().__init__(at)
        if tls:
            assert self.handshake(certified)
        self.say(REQ)
        self.guest = ("", 0)
        self.token = b""

    def letter(self, *said: Any) -> None:
        """Send letters, and acknowledge what has come."""
        self.send(letters.encode_frame(len(self.frames()), map(letters.encode_letter, said)))

    def replies(self) -> list[Any]:
        """Return the replies that have come."""
        return [reply for frame in self.frames() for reply in letters.decode_replies(frame).letters]

    def reply(self, number: int) -> Any:
        """Wait for the reply of a number."""

        def found() -> list[Any]:
            assert not self._ended, "it was sent away"
            return [reply for reply in self.replies() if reply.number == number]

        return eventually(found)[-1]

    def log_in(self, user: str, password: str = "", token: bytes = b"") -> Any:
        """Greet, and prove who it is if that is asked for; return the last reply."""
        self.letter(letters.Hello(1, letters.VERSION, 99, user))
        reply = self.reply(1)
        if isinstance(reply, letters.Ask):
            self.letter(letters.Prove(2, token, password.encode()))
            reply = self.reply(2)
        if isinstance(reply, letters.Welcome):
            self.guest, self.token = (reply.user, reply.stamp), reply.token
        return reply


@contextmanager
def crowd(makers: Iterable[Callable[[], S]]) -> Iterator[list[S]]:
    """Many connections at once."""
    with ExitStack() as stack:
        yield [stack.enter_context(make()) for make in makers]  # type: ignore[misc]  # each enters as itself


# -- who is attacked ---------------------------------------------------------------------------------------------------------------


@frozen
class Held:
    """What a process holds of the system."""

    descriptors: int
    threads: int
    memory: int  # KiB

    @classmethod
    def by(cls, member: Member) -> Self:
        """Look at the process of a member."""
        process = Path(f"/proc/{member.run.process.pid}")
        status = dict(line.split(":\t", 1) for line in (process / "status").read_text().splitlines())
        return cls(len(os.listdir(process / "fd")), int(status["Threads"]), int(status["VmRSS"].split()[0]))


class Siege:
    """Three members with doors, and work under way.

    Args:
        root: for all files.
        tls: whether all is encrypted; clients need no certificate then, and prove who they are by a password.
        arguments: of all members.
    """

    def __init__(self, root: Path, *, tls: bool, **arguments: Any) -> None:
        self.tls = tls
        self.ours = Authority(root / "ours") if tls else None
        self.doors = dict(zip("abc", free_ports(3), strict=True))
        self.cluster = Cluster(root, within=("prlimit", f"--nofile={DESCRIPTORS}"), **arguments)
        for member in self.cluster:
            member.arguments["config"] = {"clients": f"127.0.0.1:{self.doors[member.name]}"}
            if self.ours is not None:
                member.arguments["tls"] = {
                    **self.ours.member(member.name).tls,
                    "client_ca": self.ours.client_ca,
                    "require_client_cert": False,
                }
        self.work: list[Writer] = []
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            stack.enter_context(self.cluster)
            self.cluster.start()
            self._found_users()
            for member in self.cluster:
                self.work.append(stack.enter_context(Writer.at(member, PACE)))
                client = stack.enter_context(self.client(member.name, "ann"))
                self.work.append(stack.enter_context(Writer.of(client, f"by-client-of-{member.name}", PACE)))
            self._stack = stack.pop_all()
        self.goes_on()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _found_users(self) -> None:
        with self.client("a") as client:
            for name, password in PASSWORDS.items():
                client.auth.add_user(name, password, timeout=PATIENCE)
            client.auth.add_role("counts", timeout=PATIENCE)
            client.auth.grant_permission("counts", "readwrite", prefix="count/", timeout=PATIENCE)
            client.auth.grant_role("ann", "counts", timeout=PATIENCE)
        with self.client("a") as client, suppress(Exception):  # which is sent away then, perhaps before it hears of it
            client.auth.enable(timeout=PATIENCE)
        with self.client("b", "root") as client:
            assert client.auth.status(timeout=PATIENCE).enabled

    def client(self, name: str, user: str | None = None) -> Client:
        """Connect to a member, as a user."""
        tls = TLS(ca=self.ours.ca) if self.ours is not None else None
        password = None if user is None else PASSWORDS[user]
        return connect(f"127.0.0.1:{self.doors[name]}", user=user, password=password, tls=tls, config=CALM, timeout=PATIENCE)

    def door(self, name: str) -> tuple[str, int]:
        """Return where a member serves clients."""
        return "127.0.0.1", self.doors[name]

    def port(self, name: str) -> tuple[str, int]:
        """Return where a member serves members."""
        host, _, port = self.cluster.addresses[name].partition(":")
        return host, int(port)

    def visitor(self, name: str) -> Visitor:
        """Return a client, by hand, which has not greeted."""
        return Visitor(self.door(name), tls=self.tls)

    def goes_on(self, writes: int = 3) -> None:
        """Wait until everybody who works has got on."""
        for writer in self.work:
            writer.goes_on(writes)

    @contextmanager
    def unharmed(self, memory: int = MEMORY, descriptors: int = 0) -> Iterator[None]:
        """Check that nothing is left of an attack but perhaps so much, and that nobody was disturbed by it."""
        leader = self.cluster.leader()
        term = leader.call("status")["raft_term"]
        self.goes_on()
        before = {member.name: Held.by(member) for member in self.cluster}
        yield
        self.goes_on()
        assert self.cluster.leader() is leader
        assert leader.call("status")["raft_term"] == term
        for member in self.cluster:
            assert member.call("failure") == ""
            was = before[member.name]

            def is_as_before(member: Member = member, was: Held = was) -> bool:
                now = Held.by(member)
                # The log may have begun another segment, and the thread that compares passwords begins with the first.
                few = now.descriptors <= was.descriptors + 3 + descriptors and now.threads <= was.threads + 2
                return few and now.memory <= was.memory + memory

            with contextlib.suppress(AssertionError):
                eventually(is_as_before, timeout=20, pause=0.1)
            assert is_as_before(), (was, Held.by(member))
