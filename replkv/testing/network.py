"""A network in virtual time, with everything a real one does to its users and more.

Connections are as those of ``transport.py``: each member dials each other and keeps redialling; a connection carries frames both ways.
Frames may be late, lost, doubled, out of order, damaged or misdirected; directions of a link may be cut one by one, and then what was
sent is lost or comes after the cut has healed; connections break with or without notice to either side.
"""

from __future__ import annotations

import random
from collections import deque
from typing import TYPE_CHECKING

from attrs import define, field

from replkv import codec
from replkv.testing.sim import nothing
from replkv.transport import Answered, Arrived, LinkDown, LinkUp, PipeDown, PipeUp

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from replkv.testing.sim import Scheduler
    from replkv.testing.trace import Trace
    from replkv.transport import Event

STRAGGLING = 3.0
"""Seconds after which a doubled frame may come once more."""
POLL_MAX = 64
"""Events handed out in one poll; the rest waits for the next."""


@define
class Weather:
    """How the network treats frames: chances per frame, delays in seconds.

    ``stall``: a cut holds frames back instead of losing them; ``queue``: frames on their way in one direction of a connection, beyond
    which the sender is told to wait; ``rate``: bytes per second that pass one direction of a connection, one frame behind the other.
    """

    delay_least: float = 0.0002
    delay_mean: float = 0.0003
    loss: float = 0.0
    doubling: float = 0.0
    reordering: float = 0.0
    damage: float = 0.0
    misrouting: float = 0.0
    stall: bool = False
    queue: int = 64
    rate: float = float("inf")


@define(eq=False, repr=False)
class _End:
    """One end of a connection."""

    transport: SimTransport
    open: bool = True
    on_the_way: int = 0  # frames towards this end
    newest: float = 0.0  # when the last of them arrives
    held: list[bytes] = field(factory=list)  # by a cut


@define(eq=False, repr=False)
class _Connection:
    """``caller`` dialled, ``callee`` listens; ``peer`` is the callee's name in the caller's address book."""

    pipe: int
    peer: str
    caller: _End
    callee: _End

    def other(self, end: _End) -> _End:
        return self.callee if end is self.caller else self.caller


@define(eq=False, repr=False)
class SimNetwork:
    """All connections of a cluster.

    Args:
        scheduler: the queue of events.
        rng: draws what happens; each direction between two members has a source of its own, so that what is left out of a run changes
            little about the rest.
        trace: hears of each frame.
        weather: how frames are treated; may be changed at any time.
    """

    scheduler: Scheduler
    rng: random.Random
    trace: Trace
    weather: Weather = field(factory=Weather)
    cuts: set[tuple[str, str]] = field(factory=set)
    slowness: dict[tuple[str, str], float] = field(factory=dict)  # by what delays are multiplied, from a member to another
    lossiness: dict[tuple[str, str], float] = field(factory=dict)  # chances of a loss
    taps: list[Callable[[SimTransport, str, bytes], None]] = field(factory=list)
    faults: dict[str, int] = field(factory=dict)
    certificates: dict[str, str] = field(factory=dict)  # the name in each member's, which may not be its own; empty: nobody has any
    salt: int = field(init=False)
    _listeners: dict[str, SimTransport] = field(factory=dict)
    _connections: dict[int, _Connection] = field(factory=dict)
    _last_pipe: int = 0
    _sources: dict[tuple[str, str], random.Random] = field(factory=dict)
    _read: tuple[bytes, codec.Frame | None] = (b"", None)  # the last frame that somebody wanted to see

    def __attrs_post_init__(self) -> None:
        self.salt = self.rng.getrandbits(63)

    # -- what a test does to it -------------------------------------------------------------------------------------------------------

    def cut(self, pairs: Iterable[tuple[str, str]]) -> None:
        """Let nothing pass from the first to the second of each pair of members."""
        self.cuts.update(pairs)

    def sever(self, pairs: Iterable[tuple[str, str]]) -> None:
        """Break the connections between the members of each pair; both are told."""
        pairs = set(pairs)
        for connection in list(self._connections.values()):
            if (connection.caller.transport.name, connection.callee.transport.name) in pairs:
                self._break(connection)

    def mend(self, pairs: Iterable[tuple[str, str]]) -> None:
        """End the cuts from the first to the second of each pair; what was held back arrives now."""
        self.cuts.difference_update(pairs)
        for connection in list(self._connections.values()):
            for end in (connection.caller, connection.callee):
                if end.held and (connection.other(end).transport.name, end.transport.name) not in self.cuts:
                    self._let_go(connection, end)

    def heal(self) -> None:
        """End all cuts, and let no direction be worse than another."""
        self.slowness.clear()
        self.lossiness.clear()
        self.mend(tuple(self.cuts))

    def _let_go(self, connection: _Connection, end: _End) -> None:
        held, end.held = end.held, []
        for frame in held:
            end.on_the_way -= 1
            self._travel(connection, end, frame, self.scheduler.now)

    def reset(self, chance: float) -> None:
        """Break each connection with this chance: what is on its way is lost, and both sides are told."""
        for connection in list(self._connections.values()):
            if self.rng.random() < chance:
                self._break(connection)

    def half_open(self, chance: float) -> None:
        """Break each connection with this chance, and tell one side only; the other hears of it when it sends."""
        for connection in list(self._connections.values()):
            if self.rng.random() < chance:
                self._count("half open")
                self._close(connection, connection.caller if self.rng.random() < 0.5 else connection.callee)

    def blackout(self, transport: SimTransport) -> None:
        """A member's machine lost its power: its connections die, and nobody is told."""
        for connection in list(self._connections.values()):
            for end in (connection.caller, connection.callee):
                if end.transport is transport:
                    end.open = False
        self._forget_dead()

    def read(self, frame: bytes) -> codec.Frame:
        """Return what a frame says, once decoded for all that overhear it."""
        known, content = self._read
        if content is None or known is not frame:
            content = codec.decode_frame(frame)
            self._read = frame, content
        return content

    # -- what transports ask for ------------------------------------------------------------------------------------------------------

    def listen(self, url: str, transport: SimTransport) -> None:
        """Take calls for ``url``."""
        if url in self._listeners:
            raise OSError(f"address {url} is in use")
        self._listeners[url] = transport

    def unlisten(self, transport: SimTransport) -> None:
        """Take no more calls for this transport."""
        self._listeners = {url: listener for url, listener in self._listeners.items() if listener is not transport}

    def source(self, sender: str, receiver: str) -> random.Random:
        """Return what draws for one direction between two members."""
        found = self._sources.get((sender, receiver))
        if found is None:
            found = self._sources[sender, receiver] = random.Random(f"{self.salt} {sender} {receiver}")
        return found

    def connect(self, dial: _Dial) -> None:
        """Try to connect; try again later while it does not work and the dial still counts."""
        caller = dial.caller
        if dial.over or caller.closed:
            return
        callee = self._listeners.get(dial.url)
        if callee is None or {(caller.name, callee.name), (callee.name, caller.name)} & self.cuts:
            self.scheduler.after(self.source(caller.name, dial.peer).uniform(0.02, 0.5), lambda: self.connect(dial))
            return
        self._last_pipe += 1
        connection = _Connection(self._last_pipe, dial.peer, _End(caller), _End(callee))
        self._connections[connection.pipe] = connection
        self.trace.note("connect", caller.name, callee.name, connection.pipe)
        dial.connection = connection
        callee.accept(connection)
        self.scheduler.after(self._delay(callee, caller), lambda: caller.put(LinkUp(dial.peer)) if dial.connection is connection else None)

    def send(self, connection: _Connection, to: _End, frame: bytes) -> bool:
        """Put a frame on its way; False when too many are."""
        sender = connection.other(to).transport
        sender.about_to_send()
        if to.on_the_way >= self.weather.queue:
            self._count("full queue")
            return False
        for tap in self.taps:
            tap(sender, to.transport.name, frame)
        self.trace.mark(frame)
        self.trace.detail(lambda: f"{sender.name} > {to.transport.name} {describe(frame)}")
        departure, rng = self.scheduler.now + sender.lag(), self.source(sender.name, to.transport.name)
        if self._happens("loss", max(self.weather.loss, self.lossiness.get((sender.name, to.transport.name), 0.0)), rng):
            return True
        if self._happens("damage", self.weather.damage, rng):
            position = rng.randrange(len(frame))
            frame = frame[:position] + bytes([frame[position] ^ (1 << rng.randrange(8))]) + frame[position + 1 :]
        if self._happens("misrouting", self.weather.misrouting, rng):
            connection = self._connections[rng.choice(sorted(self._connections))]
            to = connection.callee
        self._travel(connection, to, frame, departure)
        if self._happens("doubling", self.weather.doubling, rng):
            self._travel(connection, to, frame, departure)
            if rng.random() < 0.2:
                self.scheduler.at(departure + rng.random() * STRAGGLING, lambda: self._straggle(connection, to, frame, departure))
        return True

    def close(self, connection: _Connection, end: _End) -> None:
        """Close one end; the other hears of it behind what is still on its way, if nothing is cut."""
        other = connection.other(end)
        end.open = False
        if (end.transport.name, other.transport.name) not in self.cuts:
            when = max(other.newest, self.scheduler.now + end.transport.lag() + self._delay(end.transport, other.transport))
            self.scheduler.at(when, lambda: self._close(connection, other))
        self._forget_dead()

    # -- a frame's way ----------------------------------------------------------------------------------------------------------------

    def _travel(self, connection: _Connection, to: _End, frame: bytes, departure: float) -> None:
        sender = connection.other(to).transport
        to.on_the_way += 1
        if (sender.name, to.transport.name) in self.cuts:
            self._count("cut")
            if self.weather.stall:
                to.held.append(frame)
            else:
                to.on_the_way -= 1
            return
        takes = len(frame) / self.weather.rate
        arrival = departure + self._delay(sender, to.transport) + takes
        if not self._happens("reordering", self.weather.reordering, self.source(sender.name, to.transport.name)):
            arrival = to.newest = max(arrival, to.newest + takes)
        self.scheduler.at(arrival, lambda: self._arrive(connection, to, frame, departure))

    def _straggle(self, connection: _Connection, to: _End, frame: bytes, departure: float) -> None:
        """Let a frame arrive once more, when it is long out of date, if its connection still stands."""
        if (connection.other(to).transport.name, to.transport.name) not in self.cuts and to.open:
            self._count("straggler")
            to.on_the_way += 1
            self._arrive(connection, to, frame, departure)

    def _arrive(self, connection: _Connection, to: _End, frame: bytes, departure: float) -> None:
        to.on_the_way -= 1
        origin = connection.other(to)
        if departure > origin.transport.died:
            return  # the sender crashed in the middle of its turn, before this left
        if to.open:
            is_call = to is connection.callee
            to.transport.put(Arrived(connection.pipe, frame) if is_call else Answered(connection.peer, frame), connection)
        elif not to.transport.blacked_out and origin.open:
            self.close(connection, to)  # nobody is there any more: the sender is told

    def _delay(self, sender: SimTransport, receiver: SimTransport) -> float:
        rng = self.source(sender.name, receiver.name)
        delay = self.weather.delay_least + rng.expovariate(1.0) * self.weather.delay_mean
        return delay * self.slowness.get((sender.name, receiver.name), 1.0)

    def _break(self, connection: _Connection) -> None:
        self._count("reset")
        self._close(connection, connection.caller)
        self._close(connection, connection.callee)

    def _close(self, connection: _Connection, end: _End) -> None:
        """An end learns that the connection is gone."""
        if end.open:
            end.open = False
            end.transport.lost(connection, end is connection.caller)
        self._forget_dead()

    def _forget_dead(self) -> None:
        for pipe, connection in list(self._connections.items()):
            if not connection.caller.open and not connection.callee.open:
                del self._connections[pipe]

    def _happens(self, fault: str, chance: float, rng: random.Random) -> bool:
        if chance and rng.random() < chance:
            self._count(fault)
            return True
        return False

    def _count(self, fault: str) -> None:
        self.faults[fault] = self.faults.get(fault, 0) + 1


@define(eq=False, repr=False)
class _Dial:
    """A member's wish to be connected to a peer."""

    caller: SimTransport
    peer: str
    url: str
    connection: _Connection | None = None
    over: bool = False


@define(eq=False, repr=False)
class SimTransport:
    """One life of a member on the network; the same interface as that of ``transport.py``.

    Args:
        network: the network.
        name: of the member.
        notify: called when an event waits for ``poll``, or ``wake`` was called.
        lag: how far the member is ahead of the scheduler within its turn, in seconds.
    """

    network: SimNetwork
    name: str
    notify: Callable[[], None]
    lag: Callable[[], float] = float
    about_to_send: Callable[[], None] = nothing  # a crash may happen here
    died: float = float("inf")
    blacked_out: bool = False
    closed: bool = False
    _inbox: deque[tuple[Event, _Connection | None]] = field(factory=deque)
    _dials: dict[str, _Dial] = field(factory=dict)
    _pipes: dict[int, _Connection] = field(factory=dict)

    # -- the Transport protocol -------------------------------------------------------------------------------------------------------

    def listen(self, url: str) -> str:
        """Take calls for ``url``."""
        self.network.listen(url, self)
        return url

    def dial(self, peer: str, url: str, name: str = "") -> None:  # noqa: ARG002  # only ``identities`` plays certificates
        """Connect to a peer and stay connected; an older connection to it is closed first."""
        self.hang_up(peer)
        dial = self._dials[peer] = _Dial(self, peer, url)
        self._retry(dial)

    def hang_up(self, peer: str) -> None:
        """Close the connection to a peer, and connect no more."""
        dial = self._dials.pop(peer, None)
        if dial is None:
            return
        dial.over = True
        connection = dial.connection
        if connection is not None:
            self._inbox = deque(item for item in self._inbox if item[1] is not connection or isinstance(item[0], Arrived))
            if connection.caller.open:
                self.network.close(connection, connection.caller)

    def identities(self, end: int | str) -> frozenset[str] | None:
        """Return the name in the certificate of who is at the other end of a connection; None where nobody has one."""
        certificates = self.network.certificates
        if not certificates:
            return None
        if isinstance(end, int):
            called = self._pipes.get(end)
            other = called.caller if called is not None else None
        else:
            dial = self._dials.get(end)
            other = dial.connection.callee if dial is not None and dial.connection is not None else None
        name = certificates.get(other.transport.name) if other is not None else None
        return frozenset(()) if name is None else frozenset((name,))

    def send(self, peer: str, frame: bytes) -> bool:
        """Send on the connection this member dialled."""
        dial = self._dials.get(peer)
        if dial is None or dial.connection is None or not dial.connection.caller.open:
            return False
        return self.network.send(dial.connection, dial.connection.callee, frame)

    def reply(self, pipe: int, frame: bytes) -> bool:
        """Send back on a connection somebody else dialled."""
        connection = self._pipes.get(pipe)
        return connection is not None and self.network.send(connection, connection.caller, frame)

    def kick(self, pipe: int) -> None:
        """Close a connection somebody else dialled."""
        connection = self._pipes.pop(pipe, None)
        if connection is not None and connection.callee.open:
            self.network.close(connection, connection.callee)

    def poll(self, timeout: float) -> list[Event]:  # noqa: ARG002  # virtual time does not pass here
        """Return what happened since the last call."""
        events = [self._inbox.popleft()[0] for _ in range(min(POLL_MAX, len(self._inbox)))]
        if self._inbox:
            self.notify()
        return events

    def wake(self) -> None:
        """Let the member have a turn soon."""
        self.notify()

    def close(self) -> None:
        """Close everything; peers are told."""
        if self.closed:
            return
        self.closed = True
        self.network.unlisten(self)
        for peer in sorted(self._dials):
            self.hang_up(peer)
        for pipe in sorted(self._pipes):
            self.kick(pipe)

    # -- what the network tells it ----------------------------------------------------------------------------------------------------

    def put(self, event: Event, connection: _Connection | None = None) -> None:
        """Keep an event for the next poll."""
        if not self.closed:
            self._inbox.append((event, connection))
            self.notify()

    def accept(self, connection: _Connection) -> None:
        """Somebody else's call was put through."""
        self._pipes[connection.pipe] = connection
        self.put(PipeUp(connection.pipe), connection)

    def lost(self, connection: _Connection, as_caller: bool) -> None:
        """A connection broke; the one who dialled it tries again."""
        if not as_caller:
            self._pipes.pop(connection.pipe, None)
            self.put(PipeDown(connection.pipe), connection)
            return
        dial = self._dials.get(connection.peer)
        if dial is not None and dial.connection is connection:
            dial.connection = None
            self.put(LinkDown(connection.peer), connection)
            self._retry(dial)

    def die(self, when: float, *, power: bool) -> None:
        """The process ends at a moment; with ``power`` the whole machine does, and no peer is told."""
        self.died = when
        self.blacked_out = power
        if power:
            self.closed = True
            self.network.unlisten(self)
            self.network.blackout(self)
        else:
            self.close()

    def _retry(self, dial: _Dial) -> None:
        network = self.network
        delay = network.source(self.name, dial.peer).uniform(0.0005, 0.02)
        network.scheduler.after(self.lag() + delay, lambda: network.connect(dial) if dial.connection is None else None)


def describe(frame: bytes) -> str:
    """Return a frame's message as text."""
    try:
        return str(codec.decode_frame(frame).message)
    except codec.DecodeError as error:
        return f"({error})"
