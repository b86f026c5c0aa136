"""A network of plain queues for tests of ``links.py`` and ``node.py``: nothing moves until it is told to."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

from replkv import codec
from replkv.address_book import SEED, AddressBook
from replkv.config import Config, Settings
from replkv.disk import Disk, MemoryDisk
from replkv.links import Links
from replkv.messages import About, Identity, Message
from replkv.node import Node
from replkv.transport import Answered, Arrived, Event, LinkDown, LinkUp, PipeDown, PipeUp


class FakeTransport:
    """One member's end of the network."""

    def __init__(self, network: FakeNetwork, name: str) -> None:
        self.network = network
        self.name = name
        self.events: deque[Event] = deque()
        self.urls: dict[str, str] = {}
        self.dialled: list[str] = []
        self.kicked: list[int] = []
        self.full = False
        self.closed = False
        self.certificate: frozenset[str] | None = None  # the name in it; None: nothing is encrypted

    def listen(self, url: str) -> str:
        self.network.listeners[url] = self.name
        return url

    def dial(self, peer: str, url: str, name: str = "") -> None:
        self.urls[peer] = url
        self.dialled.append(peer)
        self.network.cut(self.name, peer, told=False)

    def hang_up(self, peer: str) -> None:
        self.urls.pop(peer, None)
        self.network.cut(self.name, peer, told=False)

    def identities(self, end: int | str) -> frozenset[str] | None:
        pipe = self.network.pipes.get((self.name, end)) if isinstance(end, str) else end
        for (dialler, _), number in self.network.pipes.items():
            if number == pipe and self.certificate is not None:
                return (self.network.listener(number) if dialler == self.name else self.network.ends[dialler]).certificate or frozenset()
        return None

    def send(self, peer: str, frame: bytes) -> bool:
        pipe = self.network.pipes.get((self.name, peer))
        if pipe is None or self.full:
            return False
        assert len(frame) <= codec.FRAME_MAX
        self.network.listener(pipe).events.append(Arrived(pipe, frame))
        return True

    def reply(self, pipe: int, frame: bytes) -> bool:
        for (dialler, peer), number in self.network.pipes.items():
            if number == pipe:
                self.network.ends[dialler].events.append(Answered(peer, frame))
                return True
        return False

    def kick(self, pipe: int) -> None:
        self.kicked.append(pipe)
        for (dialler, peer), number in list(self.network.pipes.items()):
            if number == pipe:
                del self.network.pipes[dialler, peer]
                self.network.ends[dialler].events.append(LinkDown(peer))

    def poll(self, timeout: float) -> list[Event]:
        del timeout
        events = list(self.events)
        self.events.clear()
        return events

    def wake(self) -> None:
        pass

    def close(self) -> None:
        self.closed = True
        self.network.cut_off(self.name)


class FakeNetwork:
    """Who is connected to whom: (dialling side, its name for the link) → the listener's number for it."""

    def __init__(self) -> None:
        self.ends: dict[str, FakeTransport] = {}
        self.listeners: dict[str, str] = {}
        self.pipes: dict[tuple[str, str], int] = {}
        self.severed: set[frozenset[str]] = set()  # pairs of members that can't reach each other
        self._listening: dict[int, str] = {}  # who has the listening side of a connection
        self._numbers = iter(range(1, 1 << 30))

    def end(self, name: str) -> FakeTransport:
        self.ends[name] = transport = FakeTransport(self, name)
        return transport

    def listener(self, pipe: int) -> FakeTransport:
        return self.ends[self._listening[pipe]]

    def connect(self, dialler: str, peer: str) -> int:
        """Let one member's dialling succeed, with whoever listens there."""
        self.pipes[dialler, peer] = pipe = next(self._numbers)
        self._listening[pipe] = self.listeners.get(self.ends[dialler].urls.get(peer, ""), peer)
        self.ends[dialler].events.append(LinkUp(peer))
        self.listener(pipe).events.append(PipeUp(pipe))
        return pipe

    def cut(self, dialler: str, peer: str, *, told: bool = True) -> None:
        """Break a connection; ``told``: the dialling side did not break it itself."""
        pipe = self.pipes.pop((dialler, peer), None)
        if pipe is not None:
            if told:
                self.ends[dialler].events.append(LinkDown(peer))
            self.listener(pipe).events.append(PipeDown(pipe))

    def cut_off(self, name: str) -> None:
        """Break all connections of a member, and let nobody listen where it did."""
        for (dialler, peer), pipe in list(self.pipes.items()):
            if name in (dialler, self._listening[pipe]):
                self.cut(dialler, peer)
        self.listeners = {url: listener for url, listener in self.listeners.items() if listener != name}

    def connect_all(self) -> None:
        """Let all dialling succeed where somebody listens."""
        for name, end in self.ends.items():
            for peer, url in list(end.urls.items()):
                is_open = url in self.listeners and frozenset((name, self.listeners[url])) not in self.severed
                if is_open and (name, peer) not in self.pipes and not end.closed:
                    self.connect(name, peer)

    def sever(self, one: str, *others: str) -> None:
        """Let a member and others not reach each other any more, and let both sides notice."""
        for other in others:
            self.severed.add(frozenset((one, other)))
        for (dialler, peer), pipe in list(self.pipes.items()):
            if frozenset((dialler, self._listening[pipe])) in self.severed:
                self.cut(dialler, peer)


class FakeMember:
    """The links of one member, without the member.

    Args:
        network: where it is.
        name: one letter.
        founders: whom its cluster map names.
        incarnation: of its directory; None: the code of the letter.
        join: whose addresses it was told, without their names, and without any map.
    """

    def __init__(
        self, network: FakeNetwork, name: str, founders: str = "abc", *, incarnation: int | None = None, join: tuple[str, ...] = ()
    ) -> None:
        self.transport = network.end(name)
        self.transport.listen(url_of(name))
        self.now = 100.0
        identity = Identity(name, ord(name[0]) if incarnation is None else incarnation)
        given = {f"{SEED}{url_of(peer)}": url_of(peer) for peer in join} or {peer: url_of(peer) for peer in founders}
        self.book = AddressBook(given)
        self.links = Links(self.transport, identity, () if join else tuple(sorted(founders)), self.book)
        self.links.about = About(url_of(name))
        self.links.dial(self.now)
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


def url_of(name: str) -> str:
    return f"tcp://{name}:1"


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

    def __init__(self, names: str = "abc", settings: Settings | None = None, config: Config | None = None, *, now: float = 1000.0) -> None:
        self.network = FakeNetwork()
        self.now = now  # what is drawn by chance depends on it, ids of clusters and incarnations too
        self.addresses = {name: url_of(name) for name in names}
        self.settings = settings or Settings()
        self.config = config or Config()
        self.disks = {name: MemoryDisk() for name in names}
        self.nodes: dict[str, Node] = {}
        self.paused: set[str] = set()
        self.may_fail: set[str] = set()
        for name in names:
            self.start(name)

    def start(self, name: str, *, join: str = "", url: str = "", learner: bool = False) -> Node:
        """Start a member with the directory there is for it, else with an empty one.

        Args:
            name: one letter.
            join: those whose addresses it is given instead of the founders' map.
            url: where it listens, if not where the map says.
            learner: it wants no vote.
        """
        url = url or url_of(name)
        addresses = {name: url} if join else {**self.addresses, name: url}
        around = (self.directory(name), self.network.end(name), lambda: self.now, random.Random(name + str(self.now)), InlineHousekeeper())
        seeds = tuple(url_of(other) for other in join)
        self.nodes[name] = node = Node(name, self.config, self.settings, addresses, *around, url, seeds, learner)
        node.start()
        return node

    def directory(self, name: str) -> Disk:
        return self.disks.setdefault(name, MemoryDisk())

    def wipe(self, name: str) -> None:
        """Take a node and its directory away."""
        if name in self.nodes:
            self.crash(name)
        self.disks[name] = MemoryDisk()

    def crash(self, name: str) -> None:
        """Take a node away; its directory stays."""
        del self.nodes[name]
        self.network.ends[name].closed = True
        self.network.cut_off(name)
        self.disks[name].close()

    def run(self, until: Callable[[], Any], seconds: float = 60.0) -> None:
        """Give turns until the condition holds."""
        limit = self.now + seconds
        while not until():
            assert self.now < limit, f"not within {seconds} s"
            self.turn()

    def rest(self, turns: int) -> None:
        for _ in range(turns):
            self.turn()

    def turn(self) -> None:
        self.now += 0.01
        self.network.connect_all()
        for name, node in self.nodes.items():
            if name not in self.paused:
                node.turn(0.0)
                assert node.failure is None or name in self.may_fail, node.failure

    def leader(self) -> str | None:
        """Return whom all that run take for the leader."""
        named = {node.raft.leader if node.raft is not None else None for node in self.nodes.values()}
        return named.pop() if len(named) == 1 else None
