"""Members that serve clients, in virtual time: scripted fronts on one state machine, and the network that leads to them."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

from test_machine import Log

from replkv import codec, letters, wire
from replkv.config import Config
from replkv.errors import AuthenticationFailed, Closed, Incompatible, Overloaded, ReplkvError
from replkv.letters import Answer, Ask, Batch, Cancel, Events, Failed, Hello, Look, Outcome, Ping, Pong, Prove, Pull, Read, Welcome
from replkv.parts import in_parts
from replkv.remote import Remote
from replkv.values import Span
from replkv.watch import Cursor, Place

CLUSTER = bytes(range(16))
HELPING = 3


class Cable:
    """One connection: a client's link, and what is on its way in both directions."""

    def __init__(self, network: FakeNetwork, front: Front) -> None:
        self.network, self.front = network, front
        self.to_client: list[bytes] = []
        self.lost: Exception | None = None
        self.closed = False
        self.waiting = 0
        self.sent = 0  # frames to the client
        self.seen = 0  # of them, those it said it had taken in
        self.requests: list[Any] = []
        self.pulls: dict[int, Cursor] = {}
        self.held: list[Any] = []  # requests that the front does not answer yet
        self.user = ""

    def send(self, body: bytes) -> None:
        if self.closed:
            raise ConnectionError("it is closed")
        seen, requests = letters.decode_requests(body)
        assert self.seen <= seen <= self.sent
        self.seen = seen
        for request in requests:
            self.requests.append(request)
            self.front.handle(self, request)

    def close(self) -> None:
        self.closed = True

    def reply(self, *replies: Any) -> None:
        packed = [part for reply in replies for part in in_parts(reply.number, letters.encode_letter(reply))]
        self.to_client.append(letters.encode_frame(self.front.revision, packed))
        self.sent += 1


class Front:
    """One member, as its clients see it."""

    def __init__(self, cluster: Members, name: str) -> None:
        self.cluster, self.name, self.url = cluster, name, f"tcp://127.0.0.1:{7000 + ord(name)}"
        self.up = True
        self.mute = False  # takes everything in, and answers nothing
        self.leader: str | None = "a"
        self.id = CLUSTER
        self.version = self.spoken = letters.VERSION
        self.behind = 0  # revisions
        self.refusal: ReplkvError | None = None  # of batches
        self.has_room = True  # for reads
        self.answers_batches = True  # or the answers get lost
        self.cables: list[Cable] = []

    @property
    def log(self) -> Log:
        return self.cluster.log

    @property
    def revision(self) -> int:
        return self.log.machine.store.revision - self.behind

    def seen(self, kind: type) -> list[Any]:
        """What was asked of it."""
        return [request for cable in self.cables for request in cable.requests if isinstance(request, kind)]

    def die(self) -> None:
        self.up = False
        for cable in self.cables:
            cable.lost = ConnectionError(f"no connection to {self.url}: reset")

    def handle(self, cable: Cable, request: Any) -> None:
        if not self.mute:
            getattr(self, type(request).__name__.lower())(cable, request)

    def hello(self, cable: Cable, hello: Hello) -> None:
        if hello.version != self.version:
            cable.reply(Failed(hello.number, Incompatible("another version")))
        elif not self.cluster.users:
            self.welcome(cable, hello.number, ("", 0))
        elif hello.user:
            cable.user = hello.user
            cable.reply(Ask(hello.number))
        else:
            cable.reply(Failed(hello.number, AuthenticationFailed("only users")))

    def prove(self, cable: Cable, prove: Prove) -> None:
        cluster, user = self.cluster, cable.user
        password, stamp = cluster.users.get(user, (b"", 0))
        token = b"" if prove.token else user.encode().ljust(letters.TOKEN, b".")
        if prove.token in cluster.tokens or (password and prove.password == password):
            cluster.tokens.add(token)
            self.welcome(cable, prove.number, (user, stamp), token)
        else:
            cable.reply(Failed(prove.number, AuthenticationFailed(f"{user} is not let in")))

    def welcome(self, cable: Cable, number: int, subject: tuple[str, int], token: bytes = b"") -> None:
        settings, addresses = self.cluster.log.machine.settings, self.cluster.advertised
        cable.reply(Welcome(number, self.spoken, self.name, self.id, 1, settings, addresses, self.revision, *subject, token))

    def read(self, cable: Cable, read: Read) -> None:
        if not self.has_room:
            cable.reply(Failed(read.number, Overloaded("no room")))
            return
        if read.min_revision > self.revision:
            cable.held.append(read)
            return
        raw = self.log.machine.read(read.operation, self.revision)
        assert raw is not None
        cable.reply(Answer(read.number, raw))

    def look(self, cable: Cable, look: Look) -> None:
        leases = self.log.machine.leases
        if look.what == letters.KEPT:
            cable.reply(Answer(look.number, (wire.OK, tuple(sorted(lease.id for lease in leases if lease.keeper == look.argument)))))
        elif self.leader is not None:
            assert look.what == letters.READY
            cable.reply(Answer(look.number, (wire.OK,)))

    def pull(self, cable: Cable, pull: Pull) -> None:
        span, place = Span(pull.start, pull.end), Place(pull.revision, pull.passed)
        cable.pulls[pull.number] = Cursor(span, place, lambda: None, pull.puts, pull.deletes, pull.prev_kv, synced=pull.synced)
        self.help(cable)

    def cancel(self, cable: Cable, cancel: Cancel) -> None:
        cable.pulls.pop(cancel.number, None)

    def ping(self, cable: Cable, ping: Ping) -> None:
        self.help(cable, rest=True)
        cable.reply(Pong(ping.number, self.revision, 0, self.leader, (), ""))

    def batch(self, cable: Cable, batch: Batch) -> None:
        if self.refusal is not None:
            cable.reply(Failed(batch.number, self.refusal))
        elif self.leader is None:
            cable.held.append(batch)
        else:
            self.log.time = round(self.cluster.now * 1e6)
            (outcome,) = self.log.block(batch.data)
            if self.answers_batches:
                cable.reply(Outcome(batch.number, *outcome[:5]))

    def help(self, cable: Cable, *, rest: bool = False) -> None:
        """Answer pulls for which there is something; with ``rest`` also those that have not read all yet."""
        store = self.log.machine.store
        for number, cursor in list(cable.pulls.items()):
            try:
                events, caught_up = cursor.read(store, self.revision, HELPING)
            except ReplkvError as error:
                cable.reply(Failed(number, error))
                del cable.pulls[number]
                continue
            if events or (rest and not caught_up):
                cable.reply(Events(number, tuple(events), *cursor.place, caught_up))
                del cable.pulls[number]

    def news(self) -> None:
        for cable in self.cables:
            if not cable.closed and cable.lost is None and not self.mute:
                self.help(cable)

    def stop(self) -> None:
        """Close, as a member does that is asked to: whoever waits is told."""
        for cable in self.cables:
            if not cable.closed:
                waiting = [*cable.pulls, *(request.number for request in cable.held)]
                cable.reply(*(Failed(number, Closed(f"member {self.name} is closed")) for number in waiting))
        self.die()


class Members:
    """A cluster of fronts, and the time."""

    def __init__(self, names: str = "abc") -> None:
        self.log = Log()
        self.now = 100.0
        self.users: dict[str, tuple[bytes, int]] = {}  # passwords, and when they were changed; empty: auth is not enabled
        self.tokens: set[bytes] = set()
        self.fronts = {name: Front(self, name) for name in names}
        self.advertised = {name: front.url for name, front in self.fronts.items()}
        self._writer, self._written = self.log.open(), 0

    def __getitem__(self, name: str) -> Front:
        return self.fronts[name]

    def write(self, *operations: Any) -> int:
        """Write as somebody else; return the revision."""
        self._written += 1
        self.log.time = round(self.now * 1e6)
        self.log.execute(self._writer, self._written, *operations)
        for front in self.fronts.values():
            front.news()
        return self.log.machine.store.revision

    def client(self, names: str = "a", config: Config | None = None, **options: Any) -> RemoteUnderTest:
        targets = [self.fronts[name].url for name in names]
        return RemoteUnderTest(self, targets, config or Config(), FakeNetwork(self), lambda: self.now, random.Random(7), **options)


class FakeNetwork:
    """Leads to the fronts; while nothing is on its way, to wait is to let time pass."""

    def __init__(self, members: Members) -> None:
        self.members = members
        self.cables: list[Cable] = []
        self.opened: list[tuple[float, str]] = []
        self.woken = self.closed = False

    def open(self, target: str, attempt: int) -> Cable:
        del attempt
        front = next(front for front in self.members.fronts.values() if front.url == target)
        self.opened.append((self.members.now, front.name))
        if not front.up:
            raise ConnectionError(f"no connection to {target}: connection refused")
        cable = Cable(self, front)
        front.cables.append(cable)
        self.cables.append(cable)
        return cable

    def poll(self, timeout: float) -> list[tuple[Any, list[bytes], Exception | None]]:
        found: list[tuple[Any, list[bytes], Exception | None]] = []
        for cable in self.cables:
            frames, cable.to_client = cable.to_client, []
            if not cable.closed and (frames or cable.lost is not None):
                found.append((cable, frames, cable.lost))
        if not found and not self.woken:
            self.members.now += min(timeout, 10.0)
        self.woken = False
        return found

    def wake(self) -> None:
        self.woken = True

    def close(self) -> None:
        self.closed = True


class RemoteUnderTest(Remote):
    """A client whose turns the test runs."""

    def __init__(self, members: Members, *arguments: Any, **options: Any) -> None:
        self.members = members
        super().__init__(*arguments, **options)
        assert isinstance(self._network, FakeNetwork)
        self.network = self._network

    def run(self, until: Callable[[], object], turns: int = 2000) -> None:
        """Take turns until something is so."""
        for _ in range(turns):
            if until():
                return
            self.turn()
        raise AssertionError(f"not within {turns} turns, at {self.members.now}")

    def settle(self, seconds: float = 0.0) -> None:
        """Take turns until so much time has passed and nothing is on its way."""
        until = self.members.now + seconds
        for _ in range(5):
            self.turn(0.0)
        while self.members.now < until:
            self.turn(min(max(0.0, self.deadline - self.members.now), until - self.members.now + 1e-6))
        for _ in range(5):
            self.turn(0.0)

    @property
    def at(self) -> str:
        """The member that answers."""
        return self.member if self.connected else ""


def command(operation: Any) -> bytes:
    return codec.pack(operation.to_wire())
