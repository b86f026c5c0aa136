"""A network of plain queues for tests of ``links.py`` and ``node.py``: nothing moves until it is told to."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

from replkv import codec
from replkv.config import Config, Settings
from replkv.disk import MemoryDisk
from replkv.links import Links
from replkv.messages import Identity, Message
from replkv.node import Node
from replkv.transport import Answered, Arrived, Event, LinkDown, LinkUp, PipeDown, PipeUp


class FakeTransport:
    """One member's end of the network."""

    def __init__(self, network: FakeNetwork, name: str) -> None:
        self.network = network
        self.name = name
        self.events: deque[Event] = deque()
        self.dialled: list[str] = []
        self.kicked: list[int] = []
        self.full = False
        self.closed = False

    def listen(self, url: str) -> str:
        return url

    def dial(self, peer: str, url: str) -> None:
        del url
        self.dialled.append(peer)
        self.network.cut(self.name, peer, told=False)

    def hang_up(self, peer: str) -> None:
        self.network.cut(self.name, peer, told=False)

    def send(self, peer: str, frame: bytes) -> bool:
        pipe = self.network.pipes.get((self.name, peer))
        if pipe is None or self.full:
            return False
        assert len(frame) <= codec.FRAME_MAX
        self.network.ends[peer].events.append(Arrived(pipe, frame))
        return True

    def reply(self, pipe: int, frame: bytes) -> bool:
        for (dialler, peer), number in self.network.pipes.items():
            if number == pipe and peer == self.name:
                self.network.ends[dialler].events.append(Answered(self.name, frame))
                return True
        return False

    def kick(self, pipe: int) -> None:
        self.kicked.append(pipe)
        for (dialler, peer), number in list(self.network.pipes.items()):
            if number == pipe and peer == self.name:
                del self.network.pipes[dialler, peer]
                self.network.ends[dialler].events.append(LinkDown(self.name))

    def poll(self, timeout: float) -> list[Event]:
        del timeout
        events = list(self.events)
        self.events.clear()
        return events

    def wake(self) -> None:
        pass

    def close(self) -> None:
        self.closed = True
        for one, other in list(self.network.pipes):
            if self.name in (one, other):
                self.network.cut(one, other)


class FakeNetwork:
    """Who is connected to whom: (dialling side, listening side) → the listener's number for it."""

    def __init__(self) -> None:
        self.ends: dict[str, FakeTransport] = {}
        self.pipes: dict[tuple[str, str], int] = {}
        self._numbers = iter(range(1, 1 << 30))

    def end(self, name: str) -> FakeTransport:
        self.ends[name] = transport = FakeTransport(self, name)
        return transport

    def connect(self, dialler: str, peer: str) -> int:
        """Let one member's dialling succeed."""
        self.pipes[dialler, peer] = pipe = next(self._numbers)
        self.ends[dialler].events.append(LinkUp(peer))
        self.ends[peer].events.append(PipeUp(pipe))
        return pipe

    def cut(self, dialler: str, peer: str, *, told: bool = True) -> None:
        """Break a connection; ``told``: the dialling side did not break it itself."""
        pipe = self.pipes.pop((dialler, peer), None)
        if pipe is not None:
            if told:
                self.ends[dialler].events.append(LinkDown(peer))
            self.ends[peer].events.append(PipeDown(pipe))


class FakeMember:
    """The links of one member, without the member."""

    def __init__(self, network: FakeNetwork, name: str, founders: str = "abc", *, incarnation: int | None = None) -> None:
        self.transport = network.end(name)
        self.now = 100.0
        identity = Identity(name, ord(name[0]) if incarnation is None else incarnation)
        self.links = Links(self.transport, identity, codec.NO_CLUSTER, None, tuple(sorted(founders)))
        self.links.dial({peer: f"tcp://{peer}:1" for peer in founders}, self.now)
        self.transport.dialled.clear()

    def handle(self) -> None:
        self.links.handle(self.transport.poll(0), self.now)

    def take(self) -> list[tuple[str, Message]]:
        return list(self.links.take_received())

    def changes(self) -> list[tuple[str, bool]]:
        return self.links.take_changes()

    def tick(self, seconds: float) -> None:
        """Let time pass in steps of a quarter second, with a tick after each."""
        until = self.now + seconds
        while self.now < until:
            self.now += 0.25
            self.links.tick(self.now)


def settle(*members: FakeMember) -> None:
    """Deliver until nothing moves any more."""
    while any(member.transport.events for member in members):
        for member in members:
            member.handle()


class InlineHousekeeper:
    """Runs a job when it is asked for the finished ones."""

    def __init__(self) -> None:
        self.jobs: deque[tuple[Iterator[None], Callable[[BaseException | None], None]]] = deque()
        self.idle = False

    def start(self, steps: Iterator[None], done: Callable[[BaseException | None], None]) -> None:
        self.jobs.append((steps, done))

    def finished(self) -> list[tuple[Callable[[BaseException | None], None], BaseException | None]]:
        ended: list[tuple[Callable[[BaseException | None], None], BaseException | None]] = []
        while self.jobs and not self.idle:
            steps, done = self.jobs.popleft()
            error: BaseException | None = None
            try:
                for _ in steps:
                    pass
            except Exception as raised:  # noqa: BLE001  # the node judges
                error = raised
            ended.append((done, error))
        return ended

    def close(self) -> None:
        pass


class FakeCluster:
    """Whole nodes over a fake network, in virtual time: ``run`` gives each a turn, a hundredth of a second apart."""

    def __init__(self, names: str = "abc", settings: Settings | None = None, config: Config | None = None) -> None:
        self.network = FakeNetwork()
        self.now = 1000.0
        self.addresses = {name: f"tcp://{name}:1" for name in names}
        self.settings = settings or Settings()
        self.config = config or Config()
        self.disks = {name: MemoryDisk() for name in names}
        self.nodes: dict[str, Node] = {}
        self.paused: set[str] = set()
        self.may_fail: set[str] = set()
        for name in names:
            self.start(name)

    def start(self, name: str) -> Node:
        rng = random.Random(name + str(self.now))
        args = (self.disks[name], self.network.end(name), lambda: self.now, rng, InlineHousekeeper())
        self.nodes[name] = node = Node(name, self.config, self.settings, self.addresses, *args, self.addresses[name])
        node.start()
        return node

    def crash(self, name: str) -> None:
        """Take a node away; its directory stays."""
        del self.nodes[name]
        for one, other in list(self.network.pipes):
            if name in (one, other):
                self.network.cut(one, other)
        self.disks[name].close()

    def run(self, until: Callable[[], Any], seconds: float = 60.0) -> None:
        """Give turns until the condition holds."""
        limit = self.now + seconds
        while not until():
            assert self.now < limit, f"not within {seconds} s"
            self.turn()

    def turn(self) -> None:
        self.now += 0.01
        for one in self.nodes:
            for other in self.nodes:
                if one != other and (one, other) not in self.network.pipes:
                    self.network.connect(one, other)
        for name, node in self.nodes.items():
            if name not in self.paused:
                node.turn(0.0)
                assert node.failure is None or name in self.may_fail, node.failure

    def leader(self) -> str | None:
        """Return whom all that run take for the leader."""
        named = {node.raft.leader if node.raft is not None else None for node in self.nodes.values()}
        return named.pop() if len(named) == 1 else None
