"""Where clients come in: processes that are no members and talk to this one over a socket.

The door is a caller like any other of its member, with a thread of its own: it takes in requests, has errands run for them
(``errands.py``), and sends the replies.  Like the node it neither starts threads nor knows the time: ``replica.py`` runs turns on a thread.

No client can cost another one much: what a connection may have under way is bounded, replies wait where their client does not take them
in, and one that is silent or takes nothing for too long is sent away.  nng drops replies without a word that it finds no room for; so only
a few frames are on their way at a time, each holding all that waited.

Who has not been let in yet (``login.py``) is told nothing, and there is a bound on how many such there are.  Who was let in is a user, or
anybody where auth is not enabled, and is sent away when it is a user no more.
"""

from __future__ import annotations

import logging
from collections import deque
from functools import partial
from typing import TYPE_CHECKING, Final

from attrs import define, evolve, field

from replkv import address, codec, letters
from replkv.complaints import Complaints
from replkv.errands import Errand, PullErrand, errand_for, overloaded, see
from replkv.errors import Incompatible, ReplkvError, TooLarge
from replkv.kv import VALUE
from replkv.letters import ADDRESSES, UNSEEN_MAX, Answer, Ask, Cancel, Events, Failed, Hello, Look, Outcome, Ping, Pong, Prove, Welcome
from replkv.login import PATIENCE, Certified, Login, Proof
from replkv.ops import Delete, Put, Scan
from replkv.parts import in_parts
from replkv.proposals import OwnCall
from replkv.transport import Arrived, PipeDown, PipeUp

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from replkv.auth import Subject
    from replkv.engine import Embedded
    from replkv.errands import Question
    from replkv.letters import Reply, Request
    from replkv.login import Porter
    from replkv.transport import Event, Transport

logger = logging.getLogger(__name__)

_ADDRESSES: Final = Scan(prefix=ADDRESSES, keys_only=True)

ERRANDS_MAX: Final = 4096
"""Requests of one connection that may be under way."""
WAITING_MAX: Final = 64 << 20
"""Bytes of replies that clients of this door have yet to take in; beyond it nothing is begun that would add to a connection's ``SHARE``."""
QUEUE_MAX: Final = 24 << 20
"""Bytes of replies that one connection may have yet to take in; a single reply may have more."""
SHARE: Final = 256 << 10
"""Of them, those that no connection is refused, however much waits for others."""
LETTERS_QUEUED_MAX: Final = 4 * ERRANDS_MAX
"""Replies that may wait for one connection: who goes on asking without taking any in is sent away."""
FRAME_BYTES: Final = 2 * letters.PART_MAX + 1024
"""Bytes of letters in a frame, two parts of a large reply for instance, unless a single one has more."""

READ_FOR: Final = 0.02
"""Seconds of a turn in which reads are begun; what is left waits for the next one, so that nobody takes this member for dead."""
TICK: Final = 1.0
"""Seconds between looks at what no event announces."""
SOON: Final = 0.02
"""Seconds until the door looks again for a member that is not founded yet, or for room in nng's queue."""
TAKES_NOTHING: Final = 30.0
"""Seconds for which replies may wait for a client that acknowledges none."""
SILENT: Final = 60.0
"""Seconds after which a connection on which nothing was heard counts as dead; clients ping every few."""
UNKNOWN_FOR: Final = 30.0
"""Seconds within which a connection must have been let in."""
SAYS_NOTHING: Final = 5.0
"""Seconds of them within which it must have greeted."""
UNKNOWN_MAX: Final = 1000
"""Connections that are not let in yet, fewer where there can't be twice as many in all; when there are more, the oldest one makes room: who
means it is let in within moments."""
FAREWELL: Final = 0.1
"""Seconds for which who is a user no more keeps its connection at least, to hear what became of its commands: one may be the reason."""
UNKNOWN_FRAME_MAX: Final = 4 << 10
"""Bytes of a frame of who is not let in yet: to take a large one apart is work, and it has nothing to say that is longer."""
PROOFS_MAX: Final = 2
"""What one connection may try to prove itself by: a token, and when that has ended a password."""
PULL_FOR: Final = 20.0
"""Seconds after which a pull is answered even with nothing: its place has moved on, which the client must know if it loses this member."""
ADVERTISE_AGAIN: Final = 10.0
"""Seconds until a member that has written its address down looks whether it is there."""


@define(eq=False, repr=False)
class _Client:
    """One connection."""

    pipe: int
    came_at: float
    heard_at: float
    hello: Hello | None = None  # the first letter
    subject: Subject | None = None  # whom it was let in as
    proofs: int = 0  # that it may still bring
    refused: bool = False  # it speaks another version, or is a user no more: it may read that, and go
    taken: int = 0  # the frames it says it has taken in
    sent: int = 0  # frames
    errands: dict[int, Errand] = field(factory=dict)
    reads: deque[tuple[Errand, Callable[[], Reply | None]]] = field(factory=deque)  # and their next steps, which may take long
    queue: deque[bytes] = field(factory=deque)  # packed replies
    on_the_way: deque[int] = field(factory=deque)  # the bytes of replies in each frame that it has not taken in
    size: int = 0  # of both
    stalled_at: float | None = None  # since when it has taken nothing in although replies wait


class _Bad(Exception):
    """A frame that no client of this version sends."""


@define(eq=False, repr=False)
class Door:
    """Serves the clients of one member; ``turn`` belongs to one thread, which may not be the member's.

    Args:
        engine: the member.
        transport: listens for clients already.
        porter: decides who is let in.
        clock: monotonic seconds.
        advertised: the address at which clients of other machines reach this door; empty: none.
        unknown_max: connections that may be not let in yet.
    """

    _engine: Embedded
    _transport: Transport
    _porter: Porter
    _clock: Callable[[], float]
    _advertised: str = ""
    _unknown_max: int = UNKNOWN_MAX
    closing: bool = field(default=False, init=False)
    """Whether it was asked to close."""
    closed: bool = field(default=False, init=False)
    _clients: dict[int, _Client] = field(factory=dict, init=False)
    _unknown: dict[_Client, None] = field(factory=dict, init=False)  # those that are not let in, oldest first
    _logins: dict[Login, _Client] = field(factory=dict, init=False)
    _leaving: dict[_Client, float] = field(factory=dict, init=False)  # who is a user no more, and when it is sent away
    _judged: int = field(default=0, init=False)  # at which auth revision something was taken away, when all others were found to be users
    _rung: deque[tuple[_Client, Errand]] = field(factory=deque, init=False)  # any thread adds to it
    _reading: dict[_Client, None] = field(factory=dict, init=False)  # those who have reads to do; whose turn it is next, first
    _pulls: dict[PullErrand, tuple[float, _Client]] = field(factory=dict, init=False)  # and since when, oldest first
    _ready: dict[_Client, None] = field(factory=dict, init=False)  # those for whom a frame may be sent
    _pings: dict[_Client, list[int]] = field(factory=dict, init=False)  # those of this turn: all of a client are answered together
    _hellos: dict[_Client, None] = field(factory=dict, init=False)  # those whose member is not founded yet
    _waiting: int = field(default=0, init=False)  # bytes for all of them
    _next_tick: float = field(default=0.0, init=False)
    _complaints: Complaints = field(factory=Complaints, init=False)
    _advertise_at: float = field(default=0.0, init=False)
    _cleared: int = field(default=0, init=False)  # the index of the configuration for which the leader has looked for strays

    @property
    def deadline(self) -> float:
        """When ``turn`` must run at the latest although nothing arrived, in the clock's seconds."""
        if self._rung or self._reading:
            return float("-inf")
        soon = min(self._next_tick, self._clock() + SOON) if self._leaving else self._next_tick
        return min(soon, self._clock() + SOON) if self._hellos or self._ready else soon

    def turn(self, timeout: float | None = None) -> None:
        """Wait for at most ``timeout`` seconds, by default until ``deadline``, then do what there is to do."""
        events = self._transport.poll(max(0.0, self.deadline - self._clock()) if timeout is None else timeout)
        now = self._clock()
        self._judge_anew(now)
        for event in events:
            self._handle(event, now)
        for client in list(self._pings):
            self._guard(client, now, partial(self._pong, client, self._pings.pop(client)))
        for _ in range(len(self._rung)):
            client, errand = self._rung.popleft()
            if client.errands.get(errand.number) is errand:
                self._guard(client, now, partial(self._step, client, errand, errand.go_on))
        self._read(now)
        if now >= self._next_tick:
            self._next_tick = now + TICK
            self._look_around(now)
        for client in list(self._hellos):
            if client.hello is not None:
                self._guard(client, now, partial(self._receive, client, client.hello))
        for client in list(self._ready):
            self._send(client, now)
        self._dismiss(now)
        if self.closing or self._engine.node.stopped:
            self._end(now)

    def close(self) -> None:
        """Send all clients away at the next turn, and close; any thread."""
        self.closing = True
        self._transport.wake()

    def wake(self) -> None:
        """Have the door look whether its member has stopped; any thread."""
        self._transport.wake()

    # -- what arrives --------------------------------------------------------------------------------------------------------------

    def _handle(self, event: Event, now: float) -> None:
        match event:
            case PipeUp(pipe):
                self._clients[pipe] = client = _Client(pipe, now, now)
                self._unknown[client] = None
                if len(self._unknown) > self._unknown_max:
                    self._kick(next(iter(self._unknown)))
            case PipeDown(pipe):
                self._drop(pipe)
            case Arrived(pipe, frame) if pipe in self._clients:  # else it was sent away, and this was on its way
                client = self._clients[pipe]
                client.heard_at = now
                self._guard(client, now, partial(self._take_in, client, frame, now))

    def _guard(self, client: _Client, now: float, action: Callable[[], None]) -> None:
        """Do something for a client; whatever comes of it, the others go on."""
        try:
            action()
        except (_Bad, codec.DecodeError) as error:
            self._complain(now, str(error))
            self._kick(client)
        except Exception:
            logger.exception("%s met an error it should not have, and sends the client away that it met it for", self._engine.name)
            self._kick(client)

    def _take_in(self, client: _Client, data: bytes, now: float) -> None:
        if client.subject is None and len(data) > UNKNOWN_FRAME_MAX:
            raise _Bad(f"a frame of {len(data)} bytes from who is not let in yet")
        frame = letters.decode_requests(data)
        self._acknowledged(client, frame.seen, now)
        for letter in frame.letters:
            self._request(client, letter)

    def _acknowledged(self, client: _Client, taken: int, now: float) -> None:
        if not client.taken <= taken <= client.sent:
            raise _Bad(f"it has taken in {taken} frames, of {client.sent} that were sent")
        if taken > client.taken:
            size = sum(client.on_the_way.popleft() for _ in range(taken - client.taken))
            client.taken = taken
            client.size -= size
            self._waiting -= size
            client.stalled_at = now if client.queue else None
            if client.queue:
                self._ready[client] = None

    def _request(self, client: _Client, letter: Request) -> None:
        if client.refused:
            return
        if isinstance(letter, Hello) is not (client.hello is None):
            raise _Bad("the first letter of a connection, and no other, says who its sender is")
        if (client.subject is None) is not isinstance(letter, (Hello, Prove)):
            raise _Bad("it asks before it was let in, or to be let in once more")
        match letter:
            case Hello():
                self._greeted(client, letter)
            case Prove():
                self._proves(client, letter)
            case Cancel(number):
                errand = client.errands.get(number)
                if errand is not None:
                    self._forget(client, errand)
                    errand.cancel()
            case Ping(number):
                self._pings.setdefault(client, []).append(number)
            case _:
                self._begin(client, letter)

    def _begin(self, client: _Client, letter: letters.Batch | letters.Pull | Question) -> None:
        number, subject = letter.number, client.subject
        assert subject is not None  # noqa: S101  # nobody else gets so far
        if number in client.errands:
            raise _Bad(f"two requests of the number {number} at a time")
        if len(client.errands) >= ERRANDS_MAX or self._is_full(client):
            self._reply(client, Failed(number, overloaded(self._engine)))
        elif isinstance(letter, Look) and (seen := see(self._engine, letter, subject)) is not None:
            self._reply(client, seen)
        else:
            errand = errand_for(self._engine, letter, partial(self._ring, client), subject)
            client.errands[number] = errand
            if isinstance(errand, PullErrand):
                self._pulls[errand] = (self._clock(), client)
            self._step(client, errand, errand.begin)

    def _ring(self, client: _Client, errand: Errand) -> None:
        self._rung.append((client, errand))
        self._transport.wake()

    def _is_full(self, client: _Client, more: int = 0) -> bool:
        """Tell whether nothing may be done now that gives a client a reply, or one of so many bytes."""
        return client.size > QUEUE_MAX or (self._waiting > WAITING_MAX and client.size + more > SHARE)

    def _step(self, client: _Client, errand: Errand, step: Callable[[], Reply | None]) -> None:
        """Let an errand take its next step: at once, or, if that may take long, when it is its client's turn."""
        if errand.may_take_long:
            client.reads.append((errand, step))
            self._reading.setdefault(client)
        else:
            self._run(client, errand, step)

    def _read(self, now: float) -> None:
        """Let reads go on for a while, one of each client in turn: who asks for much is the one who waits."""
        until = self._clock() + READ_FOR
        while self._reading:
            client = next(iter(self._reading))
            del self._reading[client]
            errand, step = client.reads.popleft()
            if client.errands.get(errand.number) is errand:
                self._guard(client, now, partial(self._run, client, errand, step))
            if client.reads:
                self._reading[client] = None
            if self._clock() >= until:
                return

    def _run(self, client: _Client, errand: Errand, step: Callable[[], Reply | None]) -> None:
        """Let an errand do what it can; send its reply, if that is what came of it."""
        try:
            if errand.repeatable and self._is_full(client):
                raise overloaded(self._engine)
            reply = step()
        except ReplkvError as error:
            if isinstance(error, codec.DecodeError):
                raise
            errand.cancel()
            reply = Failed(errand.number, error)
        if reply is not None:
            self._forget(client, errand)
            self._reply(client, reply)

    def _forget(self, client: _Client, errand: Errand) -> None:
        client.errands.pop(errand.number, None)
        if isinstance(errand, PullErrand):
            self._pulls.pop(errand, None)
        elif isinstance(errand, Login):
            self._logins.pop(errand, None)

    # -- greetings -----------------------------------------------------------------------------------------------------------------

    def _greeted(self, client: _Client, hello: Hello) -> None:
        client.hello = hello
        if hello.version < letters.OLDEST:
            client.refused = True
            ours = f"member {self._engine.name} speaks versions {letters.OLDEST} to {letters.VERSION} with clients"
            error = Incompatible(f"{ours}, this client none above {hello.version}: upgrade it")
            self._reply(client, Failed(hello.number, error))
        else:
            self._hellos[client] = None
            self._receive(client, hello)

    def _receive(self, client: _Client, hello: Hello) -> None:
        """Answer a greeting, as soon as the member belongs to a cluster and knows whether that has users."""
        if self._engine.node.raft is None or not self._porter.knows_enough():
            return
        del self._hellos[client]
        if hello.user and self._porter.auth.enabled:
            client.proofs = PROOFS_MAX
            self._reply(client, Ask(hello.number))
        else:
            names = self._transport.identities(client.pipe) or ()
            name = next(iter(names)) if len(names) == 1 else ""  # one of several would be anybody's choice
            ring, admit = partial(self._ring, client), partial(self._admit, client, hello.number)
            self._log_in(client, Certified(self._porter, hello.number, ring, admit, name))

    def _proves(self, client: _Client, letter: Prove) -> None:
        if not client.proofs or client.errands or client.hello is None:
            raise _Bad("it proves who it is without being asked")
        client.proofs -= 1
        ring, admit = partial(self._ring, client), partial(self._admit, client, letter.number)
        self._log_in(client, Proof(self._porter, letter, client.hello.user, ring, admit))

    def _log_in(self, client: _Client, login: Login) -> None:
        client.errands[login.number] = login
        self._logins[login] = client
        self._step(client, login, login.begin)

    def _admit(self, client: _Client, number: int, subject: Subject, token: bytes) -> Welcome:
        """Let a client in, and return the reply that says so.

        Raises:
            AuthenticationFailed: the user was changed since it proved who it is; who is in already is looked at when that happens.
        """
        node, hello = self._engine.node, client.hello
        assert hello is not None  # noqa: S101  # it has greeted
        self._porter.auth.check_user(subject)
        client.subject, client.proofs = subject, 0
        self._unknown.pop(client, None)
        return Welcome(
            number,
            min(hello.version, letters.VERSION),
            node.name,
            node.links.cluster,
            node.links.identity.incarnation,
            node.settings,
            self._addresses(),
            node.published.revision,
            *subject,
            token,
        )

    def _judge_anew(self, now: float) -> None:
        """Send away who is a user no more, after a change of users and roles; what the others may do is judged when they do it."""
        auth = self._porter.auth
        if auth.narrowed == self._judged:
            return
        self._judged = auth.narrowed
        for client in list(self._clients.values()):
            if client.subject is not None and not client.refused and not auth.is_valid(client.subject):
                logger.info("%s sends a client away that has to prove anew that it is a user", self._engine.name)
                client.refused = True
                self._leaving[client] = now + FAREWELL
                self._pings.pop(client, None)
                for errand in [errand for errand in client.errands.values() if errand.repeatable]:
                    self._forget(client, errand)
                    errand.cancel()

    def _addresses(self) -> dict[str, str]:
        """Return the addresses that members have written down, as far as this one knows."""
        raft = self._engine.node.raft
        names = raft.configuration.names if raft is not None else ()
        return {name: url for name in names if (url := self._address_of(name))}

    def _address_of(self, name: str) -> str:
        """Return the address a member has written down; empty: none."""
        published = self._engine.node.published
        record = published.machine.store.get(ADDRESSES + name.encode(), published.revision)
        try:
            return "" if record is None or record[VALUE] is None else address.parse_address(record[VALUE].decode())
        except ValueError:
            return ""  # somebody else has written there

    def _advertise(self, now: float) -> None:
        """Write down this member's own address, or take back what it wrote in an earlier life, unless that has been done.

        The leader takes back the addresses of those who are members no more.
        """
        node, key = self._engine.node, ADDRESSES + self._engine.name.encode()
        if not node.ready:
            return
        changes: list[Put | Delete] = [Delete(stray) for stray in self._strays()]
        if self._address_of(self._engine.name) != self._advertised:
            changes.append(Put(key, self._advertised) if self._advertised else Delete(key))
        for change in changes:
            self._advertise_at = now + ADVERTISE_AGAIN
            command = codec.pack(change.to_wire())
            node.proposals.admission.enter_anyway(len(command))
            node.submit(OwnCall(command, lambda _: None))  # if it fails, the next look finds out

    def _strays(self) -> list[bytes]:
        """Return the keys of addresses that are no member's, once after each change of the members."""
        node, published = self._engine.node, self._engine.node.published
        if node.raft is None or node.raft.leader != node.name or self._cleared == published.machine.configured:
            return []
        found = published.machine.read(_ADDRESSES.to_wire(), published.revision)
        if found is None:
            return []  # a compaction outran it: the next look will do
        self._cleared = published.machine.configured
        names = {ADDRESSES + name.encode() for name in node.raft.configuration.members}
        return [kv.key for kv in _ADDRESSES.result(found) if kv.key not in names]

    # -- replies -------------------------------------------------------------------------------------------------------------------

    def _pong(self, client: _Client, pings: list[int]) -> None:
        """Answer pings; what a client's watches want of the revisions up to that which they are told has been sent before."""
        revision = self._engine.revision
        for errand in [errand for errand in client.errands.values() if isinstance(errand, PullErrand)]:
            self._run(client, errand, partial(errand.hurry, revision))
        engine, age = self._engine, self._engine.age
        micros = None if age == float("inf") else round(age * 1e6)
        leader, unreachable, trouble = engine.leader, engine.unreachable, engine.trouble[:4096]
        for number in pings:
            self._reply(client, Pong(number, revision, micros, leader, unreachable, trouble))

    def _reply(self, client: _Client, reply: Reply) -> None:
        data = letters.encode_letter(reply)
        if len(data) > letters.REPLY_MAX:
            data = letters.encode_letter(_without_content(reply, len(data)))
        elif isinstance(reply, (Answer, Events)) and self._is_full(client, len(data)):  # it can be asked for again
            data = letters.encode_letter(Failed(reply.number, overloaded(self._engine)))
        for part in in_parts(reply.number, data):
            self._queue(client, part)
        if len(client.queue) > LETTERS_QUEUED_MAX:
            raise _Bad("it asks on and on without taking in what it is told")

    def _queue(self, client: _Client, packed: bytes) -> None:
        client.queue.append(packed)
        client.size += len(packed)
        self._waiting += len(packed)
        self._ready[client] = None

    def _send(self, client: _Client, now: float) -> None:
        """Send what waits for a client, as far as it has taken in what was sent before."""
        revision = self._engine.revision if client.subject is not None else 0  # which is nobody else's business
        while client.queue and client.sent - client.taken < UNSEEN_MAX:
            taken: list[bytes] = []
            size = 0
            while client.queue and len(taken) < letters.LETTERS_MAX and (not taken or size + len(client.queue[0]) <= FRAME_BYTES):
                taken.append(client.queue.popleft())
                size += len(taken[-1])
            if not self._transport.reply(client.pipe, letters.encode_frame(revision, taken)):
                client.queue.extendleft(reversed(taken))
                return  # it is still among those who are ready: there will be room soon, or news that it is gone
            client.sent += 1
            client.on_the_way.append(size)
        del self._ready[client]
        if client.queue and client.stalled_at is None:
            client.stalled_at = now

    # -- the end of connections ----------------------------------------------------------------------------------------------------

    def _look_around(self, now: float) -> None:
        if self._engine.node.raft is not None:
            self._porter.knows_enough()  # if not, it finds out, before the first client is here
        self._end_what_takes_too_long(now)
        for login, client in list(self._logins.items()):
            if login in self._logins and now - login.waits_since >= PATIENCE:
                self._guard(client, now, partial(self._run, client, login, login.rest))
        for errand, (since, client) in list(self._pulls.items()):
            if now - since < PULL_FOR:
                break
            if errand in self._pulls:  # or its client was sent away for another one
                self._guard(client, now, partial(self._run, client, errand, errand.rest))
        if now >= self._advertise_at:
            self._advertise(now)

    def _end_what_takes_too_long(self, now: float) -> None:
        for client in list(self._clients.values()):
            if now - client.heard_at > SILENT:
                self._kick(client)
            elif client.stalled_at is not None and now - client.stalled_at > TAKES_NOTHING:
                logger.warning("%s sends a client away that has taken nothing in for %g s", self._engine.name, TAKES_NOTHING)
                self._kick(client)
        for client in list(self._unknown):
            if now - client.came_at > (SAYS_NOTHING if client.hello is None else UNKNOWN_FOR):
                self._kick(client)

    def _dismiss(self, now: float) -> None:
        """Send away who has heard what became of its commands, or waits for that for too long."""
        for client, at in list(self._leaving.items()):
            if now >= at and (now >= at + TICK or not (client.errands or client.queue)):
                self._kick(client)

    def _kick(self, client: _Client) -> None:
        self._transport.kick(client.pipe)
        self._drop(client.pipe)

    def _drop(self, pipe: int) -> None:
        """Forget a connection, and have its errands forgotten."""
        client = self._clients.pop(pipe, None)
        if client is None:
            return
        self._unknown.pop(client, None)
        self._leaving.pop(client, None)
        self._ready.pop(client, None)
        self._hellos.pop(client, None)
        self._pings.pop(client, None)
        self._reading.pop(client, None)
        client.reads.clear()
        self._waiting -= client.size
        for errand in list(client.errands.values()):
            self._forget(client, errand)
            errand.cancel()

    def _complain(self, now: float, reason: str) -> None:
        if count := self._complaints.due(now):
            more = f", the last of {count} such" if count > 1 else ""
            logger.warning("%s sends a client away that sent a bad frame%s: %s", self._engine.name, more, reason)

    def _end(self, now: float) -> None:
        """Tell everybody that the member is closed, and close."""
        for client in list(self._clients.values()):
            for errand in list(client.errands.values()):
                self._forget(client, errand)
                errand.cancel()
                self._queue(client, letters.encode_letter(Failed(errand.number, self._engine.gone())))
            if client in self._ready:
                self._send(client, now)
            self._drop(client.pipe)
        self._transport.close()
        self.closed = True


def _without_content(reply: Reply, size: int) -> Reply:
    """Return what is said in place of a reply that is too large."""
    if isinstance(reply, Outcome):  # it was applied
        return evolve(reply, answers=None)
    return Failed(
        reply.number, TooLarge(f"an answer of {size} bytes where clients get at most {letters.REPLY_MAX}: ask for less at a time")
    )


def advertised(bound: Sequence[str], own: str) -> str:
    """Return the address at which clients of other machines reach a door; empty: none.

    Args:
        bound: what the door listens on.
        own: this member's address among the members, for its host if the door listens on every interface; empty: it has none.
    """
    for url in bound:
        scheme, _, rest = url.partition("://")
        if scheme == "tcp" and not address.is_wildcard(url):
            return url
        if scheme == "tcp" and own.startswith("tcp://"):
            return f"{own.rpartition(':')[0]}:{rest.rpartition(':')[2]}"
    return ""
