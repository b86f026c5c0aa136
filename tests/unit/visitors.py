"""Clients at the door of a member, without sockets and in virtual time."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable
from typing import Any

from fake_network import FakeCluster

from replkv import codec, letters, ops
from replkv.config import Settings
from replkv.door import Door
from replkv.engine import Embedded
from replkv.letters import Ask, Batch, Hello, Part, Prove, Pull, Read, Welcome
from replkv.login import Porter
from replkv.parts import Assembly
from replkv.transport import Arrived, Event, PipeDown, PipeUp

FIRST_KEY = b"\x01"


class DoorTransport:
    """The door's end of connections that are lists."""

    def __init__(self) -> None:
        self.events: deque[Event] = deque()
        self.frames: dict[int, list[bytes]] = {}
        self.certified: dict[int, frozenset[str]] = {}
        self.full = False
        self.closed = False

    def listen(self, url: str) -> str:
        return url

    def dial(self, peer: str, url: str, name: str = "") -> None:
        raise NotImplementedError

    def identities(self, end: int | str) -> frozenset[str] | None:
        return self.certified.get(end) if isinstance(end, int) else None

    def hang_up(self, peer: str) -> None:
        raise NotImplementedError

    def send(self, peer: str, frame: bytes) -> bool:
        raise NotImplementedError

    def reply(self, pipe: int, frame: bytes) -> bool:
        if self.full or pipe not in self.frames:
            return False
        assert len(frame) <= codec.FRAME_MAX
        self.frames[pipe].append(frame)
        return True

    def kick(self, pipe: int) -> None:
        self.frames.pop(pipe, None)

    def poll(self, timeout: float) -> list[Event]:
        del timeout
        events = list(self.events)
        self.events.clear()
        return events

    def wake(self) -> None:
        pass

    def close(self) -> None:
        self.closed = True


class Visitor:
    """A client, by hand."""

    def __init__(self, hall: Hall, pipe: int) -> None:
        self.hall = hall
        self.pipe = pipe
        self.taken = self.told = 0
        self.revision = 0
        self.guest = ("", 0)
        self.replies: list[Any] = []
        self.parts = Assembly()
        hall.transport.frames[pipe] = []
        hall.transport.events.append(PipeUp(pipe))

    @property
    def kicked(self) -> bool:
        return self.pipe not in self.hall.transport.frames

    def says(self, *said: Any, acknowledge: bool = True) -> None:
        """Send a frame, and let the door take it in."""
        if acknowledge:
            self.listen()
            self.told = self.taken
        self._post(*said)
        self.hall.turn()

    def post(self, *said: Any) -> None:
        """Send a frame that acknowledges what has come; the door takes it in at its next turn."""
        self.listen()
        self.told = self.taken
        self._post(*said)

    def _post(self, *said: Any) -> None:
        self.hall.transport.events.append(Arrived(self.pipe, letters.encode_frame(self.told, map(letters.encode_letter, said))))

    def listen(self) -> list[Any]:
        """Take in what has come."""
        frames, self.hall.transport.frames[self.pipe] = self.hall.transport.frames[self.pipe], []
        self.taken += len(frames)
        for data in frames:
            self.revision, came = letters.decode_replies(data)
            whole = [self.parts.add(reply) if isinstance(reply, Part) else reply for reply in came]
            self.replies += filter(None, whole)
        return self.replies

    def asks(self, request: Any) -> Any:
        """Ask, and wait for the reply."""
        self.says(request)
        return self.hears(request.number)

    def hears(self, number: int) -> Any:
        """Wait for the reply of a number."""

        def found() -> list[Any]:
            if self.taken >= self.told + letters.SEEN_EVERY:
                self.says()
            return [reply for reply in self.listen() if reply.number == number]

        self.hall.run(found)
        (reply,) = found()
        self.replies.remove(reply)
        return reply

    def greets(self) -> Welcome:
        return self._welcomed(self.asks(Hello(1, letters.VERSION, 99)))

    def _welcomed(self, welcome: Any) -> Welcome:
        assert isinstance(welcome, Welcome), welcome
        self.guest = welcome.user, welcome.stamp
        return welcome

    def says_it_is(self, user: str) -> Any:
        """Greet as a user; return the reply."""
        return self.asks(Hello(1, letters.VERSION, 99, user))

    def proves(self, password: bytes = b"", token: bytes = b"", number: int = 2) -> Any:
        """Answer a question for a proof; return the reply."""
        return self.asks(Prove(number, token, password))

    def logs_in(self, user: str, password: bytes = b"", token: bytes = b"") -> Welcome:
        assert self.says_it_is(user) == Ask(1)
        return self._welcomed(self.proves(password, token))

    def batch(self, number: int, session: int, sequence: int, *operations: ops.Packable[Any]) -> Batch:
        """Commands on behalf of who this was let in as."""
        return batch(number, session, sequence, *operations, guest=self.guest)

    def opens(self, nonce: int = 5) -> int:
        opened: int = self.asks(Batch(nonce, codec.pack_batch(0, nonce, 0, (), self.guest))).opened
        assert opened
        return opened

    def goes(self) -> None:
        self.hall.transport.frames.pop(self.pipe, None)
        self.hall.transport.events.append(PipeDown(self.pipe))
        self.hall.turn()


class Hall:
    """A door of one member of a cluster, in virtual time."""

    def __init__(
        self, names: str = "a", at: int = 0, own: str = "", settings: Settings | None = None, cluster: FakeCluster | None = None
    ) -> None:
        self.cluster = cluster or FakeCluster(names, settings=settings)
        self.name = names[at]
        self.node = self.cluster.nodes[self.name]
        self.transport = DoorTransport()
        engine, rng = Embedded(self.node), random.Random(self.name)
        self.porter = Porter(engine, lambda: self.cluster.now, rng.randbytes)
        self.door = Door(engine, self.transport, self.porter, lambda: self.cluster.now, own)
        self.pipes = 0

    def turn(self) -> None:
        self.cluster.turn()
        if not self.door.closed:
            self.door.turn(0.0)

    def run(self, until: Callable[[], Any], seconds: float = 60.0) -> None:
        limit = self.cluster.now + seconds
        while not until():
            assert self.cluster.now < limit, f"not within {seconds} s"
            self.turn()

    def wait(self, seconds: float) -> None:
        until = self.cluster.now + seconds
        self.run(lambda: self.cluster.now >= until, seconds + 1)

    def stranger(self) -> Visitor:
        self.pipes += 1
        return Visitor(self, self.pipes)

    def visitor(self) -> Visitor:
        visitor = self.stranger()
        visitor.greets()
        return visitor

    @property
    def empty(self) -> bool:
        """Whether nothing is left of anybody who came in."""
        door = self.door
        came = (door._clients, door._unknown, door._hellos, door._logins, self.porter._checks)
        held = (*came, door._pulls, door._ready, door._reading, self.node.guests._held)
        return not any(held) and not self.door._waiting and not any(self.node.reads._lists())


def batch(number: int, session: int, sequence: int, *operations: ops.Packable[Any], guest: tuple[str, int] | None = ("", 0)) -> Batch:
    packed = [codec.pack(operation.to_wire()) for operation in operations]
    return Batch(number, codec.pack_batch(session, sequence, sequence, packed, guest))


def read(number: int, operation: ops.Packable[Any], consistency: str = "linearizable", **bounds: int) -> Read:
    return Read(number, operation.to_wire(), consistency, **bounds)


def pull(number: int, revision: int, passed: int = 0, start: bytes = FIRST_KEY, **options: Any) -> Pull:
    return Pull(number, start, options.pop("end", None), revision, passed, **options)
