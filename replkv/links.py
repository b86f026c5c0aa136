"""Who is at the other end of a connection, and is it alive?

Every member dials every other, and sends only on the connections it dialled; what comes in on its listener is only received (answers to
greetings and pings excepted).  A connection counts once the greeting is done: the dialling side says Hello, the other side checks version,
cluster, names and incarnations and says Welcome, or refuses with a reason.  Until then nothing else is listened to, and a connection that
does not get that far within ``GREETING_TIMEOUT`` is closed.  From then on each frame must name this cluster and both incarnations.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from attrs import define, field

from replkv import codec
from replkv.messages import Found, Hello, Identity, Message, Ping, Pong, Refuse, Welcome
from replkv.transport import Answered, Arrived, LinkDown, LinkUp, PipeDown, PipeUp

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from replkv.transport import Event, Transport

logger = logging.getLogger(__name__)

GREETING_TIMEOUT = 1.0
"""Seconds a new connection has for its greeting."""
PING_INTERVAL = 0.5
SILENCE_LIMIT = 2.0
"""Seconds without any answer after which a connection is given up and dialled anew: a half-open one reports no error by itself."""
HELLO_MAX = 4096
"""Bytes a frame may have before its sender is known."""


@define(eq=False, repr=False)
class _Link:
    """A connection this member dialled."""

    url: str
    since: float
    greeted: bool = False
    ready: bool = False
    heard: float = 0.0
    pinged: float = 0.0
    incarnation: int = 0
    cluster: bytes = codec.NO_CLUSTER
    refusal: str = ""


@define(eq=False, repr=False)
class _Caller:
    """A connection somebody else dialled; ``name`` is None until its greeting was accepted."""

    since: float
    name: str | None = None
    incarnation: int = 0


@define(eq=False, repr=False)
class Links:
    """This member's connections to all its peers.

    What happened is collected until the node takes it: messages of known peers, and which of them became reachable or were lost.
    """

    transport: Transport
    identity: Identity
    cluster: bytes
    members: dict[str, int] | None  # who is in the configuration, by incarnation; None while there is no cluster yet
    founders: tuple[str, ...]
    _received: list[tuple[str, bytes, Message]] = field(factory=list, init=False)  # sender, cluster, message
    _changes: list[tuple[str, bool]] = field(factory=list, init=False)  # peer, reachable or not
    excluded_by: dict[str, str] = field(factory=dict, init=False)  # peers whose cluster is not this member's, and their reasons
    frames_dropped: int = field(default=0, init=False)
    _links: dict[str, _Link] = field(factory=dict, init=False)
    _callers: dict[int, _Caller] = field(factory=dict, init=False)
    _reachable: set[str] = field(factory=set, init=False)

    # -- what the node asks --------------------------------------------------------------------------------------------------------

    def dial(self, addresses: Mapping[str, str], now: float) -> None:
        """Connect to every peer in the address book, and stay connected."""
        for peer, url in sorted(addresses.items()):
            if peer != self.identity.name:
                self._links[peer] = _Link(url, now)
                self.transport.dial(peer, url)

    def join_cluster(self, cluster: bytes, members: dict[str, int]) -> None:
        """Take up a cluster's id and members, and drop connections of whoever has taken the place of one of them."""
        self.cluster = cluster
        self.members = members
        for pipe, caller in list(self._callers.items()):
            if caller.name is not None and members.get(caller.name, caller.incarnation) != caller.incarnation:
                self._drop_caller(pipe)
        for peer, link in self._links.items():
            if link.ready and members.get(peer, link.incarnation) != link.incarnation:
                link.ready = False
                self._note(peer)

    def send(self, peer: str, message: Message) -> bool:
        """Send to a peer; False means that it did not leave, because the peer is not connected or too slow."""
        link = self._links.get(peer)
        return link is not None and link.ready and self.transport.send(peer, self._frame(link.incarnation, message))

    def incarnation_of(self, peer: str) -> int | None:
        """Return the incarnation a connected peer greeted with, else None."""
        link = self._links.get(peer)
        return link.incarnation if link is not None and link.ready else None

    def is_unfounded(self, peer: str) -> bool:
        """Tell whether a connected peer said that it has no cluster yet."""
        link = self._links.get(peer)
        return link is not None and link.ready and link.cluster == codec.NO_CLUSTER

    def unreachable(self) -> tuple[str, ...]:
        """Return the peers this member can't send to, those included for which it has no address."""
        return tuple(sorted(self._explanations()))

    def explain(self) -> str:
        """Say, for an error message, who can't be reached and why."""
        return ", ".join(f"{peer} {why}" for peer, why in sorted(self._explanations().items()))

    def _explanations(self) -> dict[str, str]:
        links = [(peer, link) for peer, link in self._links.items() if not link.ready]
        why = {peer: f"at {link.url} ({link.refusal or 'no connection'})" for peer, link in links}
        strangers = {*(self.members or ())} - {self.identity.name, *self._links}
        return {**why, **dict.fromkeys(strangers, "(no address is known: name it in cluster=)")}

    def take_changes(self) -> list[tuple[str, bool]]:
        """Return the peers that became reachable (True) or were lost (False), in order."""
        changes, self._changes = self._changes, []
        return changes

    def take_received(self) -> Iterator[tuple[str, Message]]:
        """Yield the messages that have come in, each if it is meant for the cluster this member belongs to by then.

        The first of them may be the one that founds the cluster of those behind it.
        """
        received, self._received = self._received, []
        for peer, cluster, message in received:
            if cluster == self.cluster or isinstance(message, Found):
                yield peer, message

    # -- what the transport reports ------------------------------------------------------------------------------------------------

    def handle(self, events: Iterable[Event], now: float) -> None:
        """Take in what the transport saw."""
        for event in events:
            match event:
                case Arrived(pipe, frame):
                    self._arrived(pipe, frame, now)
                case Answered(peer, frame):
                    self._answered(peer, frame, now)
                case LinkUp(peer):
                    self._greet(peer, now)
                case LinkDown(peer):
                    self._lost(peer, now)
                case PipeUp(pipe):
                    self._callers.setdefault(pipe, _Caller(now))
                case PipeDown(pipe):
                    self._drop_caller(pipe, kick=False)

    def tick(self, now: float) -> None:
        """Ping, and give up on connections that stay silent; to be called at least every ``PING_INTERVAL`` seconds."""
        for pipe, caller in list(self._callers.items()):
            if caller.name is None and now - caller.since > GREETING_TIMEOUT:
                self._drop_caller(pipe)
        for peer, link in self._links.items():
            self._tick_link(peer, link, now)

    def _tick_link(self, peer: str, link: _Link, now: float) -> None:
        patience = GREETING_TIMEOUT if link.greeted and not link.ready else SILENCE_LIMIT
        if now - (link.heard if link.ready else link.since) > patience:
            self._lost(peer, now)
            self._dial_again(peer, link)
        elif link.ready and now - max(link.heard, link.pinged) >= PING_INTERVAL:
            link.pinged = now
            self.transport.send(peer, self._frame(link.incarnation, Ping()))

    def _dial_again(self, peer: str, link: _Link) -> None:
        try:
            self.transport.dial(peer, link.url)
        except OSError as error:
            link.refusal = str(error)  # out of descriptors, most likely: the next tick tries again

    # -- connections this member dialled -------------------------------------------------------------------------------------------

    def _greet(self, peer: str, now: float) -> None:
        link = self._links.get(peer)
        if link is None:
            return
        link.greeted, link.ready, link.since = True, False, now
        hello = Hello(codec.VERSIONS, self.cluster, self.identity.name, self.identity.incarnation, peer, self.founders)
        self.transport.send(peer, self._frame(0, hello))

    def _lost(self, peer: str, now: float) -> None:
        link = self._links.get(peer)
        if link is not None:
            link.greeted, link.ready, link.since = False, False, now
            self._note(peer)

    def _answered(self, peer: str, frame: bytes, now: float) -> None:
        link = self._links.get(peer)
        try:
            _, sender, receiver, message = codec.decode_frame(frame)
        except codec.DecodeError as error:
            self._complain("%s answered with %s", peer, error)
            return
        if link is None or receiver != self.identity.incarnation:
            self.frames_dropped += 1
        elif isinstance(message, Welcome):
            self._welcomed(peer, link, message, now)
        elif isinstance(message, Refuse):
            self._refused(peer, link, message)
        elif isinstance(message, Pong) and sender == link.incarnation:
            link.heard = now

    def _welcomed(self, peer: str, link: _Link, welcome: Welcome, now: float) -> None:
        if not link.greeted or link.ready:
            return
        if reason := self._objection(peer, welcome.name, welcome.incarnation, welcome.cluster, welcome.founders):
            self._refused(peer, link, Refuse(reason, welcome.cluster))
            return
        link.ready, link.heard, link.refusal = True, now, ""
        link.incarnation, link.cluster = welcome.incarnation, welcome.cluster
        self.excluded_by.pop(peer, None)
        self._note(peer)

    def _refused(self, peer: str, link: _Link, refuse: Refuse) -> None:
        if refuse.cluster not in (codec.NO_CLUSTER, self.cluster):
            self.excluded_by[peer] = refuse.reason
        if refuse.reason != link.refusal:
            logger.warning("%s is refused by %s at %s: %s", self.identity.name, peer, link.url, refuse.reason)
        link.refusal = refuse.reason

    # -- connections of others -----------------------------------------------------------------------------------------------------

    def _arrived(self, pipe: int, frame: bytes, now: float) -> None:
        caller = self._callers.setdefault(pipe, _Caller(now))
        try:
            if caller.name is None and len(frame) > HELLO_MAX:
                raise codec.DecodeError(f"{len(frame)} bytes before a greeting")
            envelope = codec.decode_frame(frame)
        except codec.DecodeError as error:
            self._complain("dropped a connection that sent %s", error)
            self._drop_caller(pipe)
            return
        if isinstance(envelope.message, Hello):
            self._greeted(pipe, caller, envelope.message)
        elif caller.name is None or not self._addressed(caller, envelope):
            self._complain("dropped a connection that sent a frame for somebody else")
            self._drop_caller(pipe)
        else:
            self._listen(pipe, caller, envelope.cluster, envelope.message)

    def _listen(self, pipe: int, caller: _Caller, cluster: bytes, message: Message) -> None:
        if caller.name is not None and cluster != codec.NO_CLUSTER:
            self._links[caller.name].cluster = cluster  # by now it has been founded
        if isinstance(message, Ping):
            self.transport.reply(pipe, self._frame(caller.incarnation, Pong()))
        elif isinstance(message, (Pong, Refuse, Welcome)):
            self._complain("dropped an answer that came on a connection somebody else dialled, from %s", caller.name)
        elif caller.name is not None:
            self._received.append((caller.name, cluster, message))

    def _addressed(self, caller: _Caller, envelope: codec.Frame) -> bool:
        """Tell whether a frame is from the member that greeted, to this one, in this cluster; pings may come before there is one."""
        known_cluster = self.cluster == codec.NO_CLUSTER or envelope.cluster == self.cluster or isinstance(envelope.message, (Found, Ping))
        return known_cluster and envelope.sender == caller.incarnation and envelope.receiver == self.identity.incarnation

    def _greeted(self, pipe: int, caller: _Caller, hello: Hello) -> None:
        version = min(hello.versions[1], codec.VERSIONS[1])
        cluster = codec.NO_CLUSTER
        if version < max(hello.versions[0], codec.VERSIONS[0]):
            ours = f"{self.identity.name} speaks wire versions {codec.VERSIONS[0]} to {codec.VERSIONS[1]}"
            reason = f"{ours}, not {hello.versions}; upgrade one"
        elif hello.receiver != self.identity.name:
            reason = f"this is member {self.identity.name}, not {hello.receiver}; correct the address"
        else:
            cluster = self.cluster
            reason = self._objection(hello.name, hello.name, hello.incarnation, hello.cluster, hello.founders)
        if reason:
            self._complain("refused %s: %s", hello.name, reason)
            self.transport.reply(pipe, self._frame(hello.incarnation, Refuse(reason, cluster)))
            return  # left open for the answer to leave; the greeting's timeout closes it
        caller.name, caller.incarnation = hello.name, hello.incarnation
        welcome = Welcome(version, self.cluster, self.identity.name, self.identity.incarnation, self.founders)
        self.transport.reply(pipe, self._frame(hello.incarnation, welcome))

    def _drop_caller(self, pipe: int, *, kick: bool = True) -> None:
        if kick:
            self.transport.kick(pipe)
        caller = self._callers.pop(pipe, None)
        if caller is not None and caller.name is not None:
            self._note(caller.name)

    # -- both ----------------------------------------------------------------------------------------------------------------------

    def _objection(self, expected: str, name: str, incarnation: int, cluster: bytes, founders: tuple[str, ...]) -> str:
        """Return why a peer that calls itself so can't be one of ours; empty: it can."""
        me = self.identity.name
        if name != expected:
            return f"member {name} answers at the address of {expected}; correct the address"
        if name == me:
            return f"two members are called {me}; give each its own name"
        if codec.NO_CLUSTER not in (cluster, self.cluster) and cluster != self.cluster:
            return f"{me} belongs to cluster {self.cluster.hex()}, {name} to cluster {cluster.hex()}; use each directory with its own peers"
        if name not in self._links:
            return f"{name} is not in the cluster map of {me}; add it there, or start it with another map"
        if self.members is not None:
            return self._membership_objection(name, incarnation, cluster)
        if cluster == codec.NO_CLUSTER and founders != self.founders:
            return f"the cluster maps differ: {me} has {', '.join(self.founders)}, {name} has {', '.join(founders)}; make them equal"
        return ""

    def _membership_objection(self, name: str, incarnation: int, cluster: bytes) -> str:
        known = self.members.get(name) if self.members is not None else None
        if known is None and cluster == codec.NO_CLUSTER:
            return f"{name} is no member of this cluster"
        # One that belongs to this cluster but to no configuration known here may be newer than that, and even lead (thesis §4.1).
        if known not in (None, incarnation):
            return f"the data directory of {name} was replaced: an empty one is a new member, and does not get the old one's vote"
        return ""

    def _note(self, peer: str) -> None:
        """Report a peer that became reachable, or one of which the last connection was lost."""
        link = self._links.get(peer)
        sendable = link is not None and link.ready
        present = sendable or any(caller.name == peer for caller in self._callers.values())
        if sendable and peer not in self._reachable:
            self._reachable.add(peer)
            self._changes.append((peer, True))
        elif not present and peer in self._reachable:
            self._reachable.discard(peer)
            self._changes.append((peer, False))

    def _frame(self, receiver: int, message: Message) -> bytes:
        return codec.encode_frame(self.cluster, self.identity.incarnation, receiver, message)

    def _complain(self, text: str, *arguments: object) -> None:
        self.frames_dropped += 1
        logger.debug("%s " + text, self.identity.name, *arguments)  # noqa: G003  # a constant at every call
