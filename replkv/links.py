"""Who is at the other end of a connection, and is it alive?

Every member dials every other, and sends only on the connections it dialled; what comes in on its listener is only received (answers to
greetings and pings excepted).  A connection counts once the greeting is done: the dialling side says Hello, the other side checks version,
cluster, names and incarnations and says Welcome, or refuses with a reason.  Where connections are encrypted, both must have shown
certificates under the names they say.  Until then nothing else is listened to, and a connection that does not get that far within
``GREETING_TIMEOUT`` is closed.  From then on each frame must name this cluster and both incarnations, so that none speaks for anybody else.

A member is its name and incarnation.  Two others are greeted as well: an **applicant**, whose directory is new and whose name is in the
configuration; and one of the same cluster that knows a newer configuration, for it may be in that.  With neither anything is decided:
what asks for a decision goes only to whom the configuration means, and what answers counts only from there.  A third kind is let in by its
certificate alone: one that comes to join, with an empty directory, under a name that nobody has said before.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from attrs import define, field

from replkv import codec
from replkv.address_book import SEED
from replkv.complaints import Complaints
from replkv.errors import Incompatible
from replkv.messages import (
    EXPECTED,
    About,
    Append,
    AppendReply,
    Application,
    Census,
    CensusReply,
    Digest,
    Found,
    Hello,
    Identity,
    Message,
    Ping,
    Pong,
    Refuse,
    SnapshotChunk,
    TimeoutNow,
    Vote,
    VoteReply,
    Welcome,
)
from replkv.transport import Answered, Arrived, LinkDown, LinkFailed, LinkUp, PipeDown, PipeUp

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from replkv.address_book import AddressBook
    from replkv.transport import Event, Transport

logger = logging.getLogger(__name__)

GREETING_TIMEOUT = 1.0
"""Seconds a new connection has for its greeting."""
PING_INTERVAL = 0.5
SILENCE_LIMIT = 2.0
"""Seconds without any answer after which a connection is given up and dialled anew: a half-open one reports no error by itself."""
FAREWELL = 2.0
"""Seconds for which a link is kept to somebody who is no longer a member: what tells so is on its way."""
HELLO_MAX = 8192
"""Bytes a frame may have before its sender is known."""
UNGREETED_MAX = 128
"""Connections that have not greeted rightly, half of what a transport takes; when there are more, the oldest makes room."""
ITSELF = "this is the same member"
"""The answer to a member that found itself at an address that it was told; others may answer there the next time."""

NOTHING = About()
"""What somebody says who has said nothing yet."""

_QUESTIONS = frozenset((Vote, Append, TimeoutNow, Census, SnapshotChunk, Digest))
"""Only for whom the configuration means: another incarnation must not speak for the one that was asked."""
_ANSWERS = frozenset((VoteReply, AppendReply, CensusReply, Digest))
"""Count only from whom the configuration means."""


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
    refusals: set[str] = field(factory=set)
    """Those that were logged since it was last ready; where several addresses are tried, there may be several."""
    until: float = float("inf")
    about: About = NOTHING
    version: int = 0
    invited: bool = False  # by its certificate: it has one, and comes to join


@define(eq=False, repr=False)
class _Caller:
    """A connection somebody else dialled; ``name`` is None until its greeting was accepted."""

    since: float
    name: str | None = None
    incarnation: int = 0
    cluster: bytes = codec.NO_CLUSTER
    about: About = NOTHING
    version: int = 0
    invited: bool = False


@define(eq=False, repr=False)
class Links:
    """This member's connections to all its peers.

    What happened is collected until the node takes it: messages of known peers, and which of them became reachable or were lost.

    Args:
        transport: carries frames.
        identity: of this member.
        founders: whom the cluster map names, this member included; empty: there is none, so whoever belongs to a cluster is welcome.
        book: where the peers may be.
        cluster: its id, once there is one.
        members: who is in the configuration, by incarnation; None while there is no cluster yet.
        level: the cluster's feature level, as far as this member knows: no newcomer is let in that does not support it.
        versions: the oldest and the newest wire version that this member speaks.
        about: what this member says of itself; a newcomer knows that a newer configuration names it than the one that it has itself.
        configured: the index of the newest configuration that it knows to be committed; ``decided`` is who is in it, by incarnation.
        newest: the index of the newest configuration that anybody has told of.
        certain: it knows who leads, and all that is decided: only then it tells others that they were removed.
        removed_by: peers that say that this member was removed, and their reasons.
    """

    transport: Transport
    identity: Identity
    founders: tuple[str, ...]
    book: AddressBook
    cluster: bytes = field(default=codec.NO_CLUSTER, init=False)
    members: Mapping[str, int] | None = field(default=None, init=False)
    about: About = field(default=NOTHING, init=False)
    level: int = field(default=0, init=False)
    versions: tuple[int, int] = field(default=codec.VERSIONS, init=False)
    configured: int = field(default=0, init=False)
    newest: int = field(default=0, init=False)
    decided: Mapping[str, int] = field(factory=dict, init=False)
    certain: bool = field(default=False, init=False)
    removed_by: dict[str, str] = field(factory=dict, init=False)
    _received: list[tuple[_Caller, bytes, Message]] = field(factory=list, init=False)  # sender, cluster, message
    _changes: list[tuple[str, bool]] = field(factory=list, init=False)  # peer, reachable or not
    excluded_by: dict[str, str] = field(factory=dict, init=False)  # peers whose cluster is not this member's, and their reasons
    frames_dropped: int = field(default=0, init=False)
    _links: dict[str, _Link] = field(factory=dict, init=False)
    _callers: dict[int, _Caller] = field(factory=dict, init=False)
    _reachable: set[str] = field(factory=set, init=False)
    _warnings: Complaints = field(factory=Complaints, init=False)

    # -- what the node asks --------------------------------------------------------------------------------------------------------

    def dial(self, now: float) -> None:
        """Connect to every peer in the address book, stay connected, and let go of those that are no longer in it."""
        self.book.changed = False
        for peer, link in list(self._links.items()):
            link.until = float("inf") if peer in self.book.peers else min(link.until, now + FAREWELL)
        for peer in self.book.peers:
            known, best = self._links.get(peer), self.book.best(peer)
            moved = known is not None and known.url != best and not known.ready and self.book.is_news(peer)
            if peer != self.identity.name and (known is None or moved):
                self._dial_at(peer, best, now)

    def _dial_at(self, peer: str, url: str, now: float) -> None:
        link = self._links[peer] = _Link(url, now)
        self._dial_again(peer, link)

    def join_cluster(self, cluster: bytes, members: Mapping[str, int]) -> None:
        """Take up a cluster's id and members, and drop connections of whoever can't be one of them any more."""
        self.cluster = cluster
        self.members = members
        self._drop_strangers(members)

    def decide(self, configured: int, members: Mapping[str, int], *, certain: bool) -> None:
        """Take up what is known to be decided; whoever was let in because it knew more is looked at again.

        Args:
            configured: the index of the newest configuration that is committed.
            members: who is in it, by incarnation.
            certain: nothing newer can have been decided.
        """
        news = configured > self.configured
        self.certain, self.configured, self.decided = certain, configured, members
        if news and self.members is not None:
            self._drop_strangers(self.members)

    def _drop_strangers(self, members: Mapping[str, int]) -> None:
        for pipe, caller in list(self._callers.items()):
            if caller.name is not None and self._membership_objection(caller.name, caller):
                self._drop_caller(pipe)
        for peer, link in self._links.items():
            # Who is no longer a member at all is still told so; ``dial`` ends that.
            if link.ready and peer in members and self._membership_objection(peer, link):
                link.ready = False
                self._note(peer)

    def send(self, peer: str, message: Message) -> bool:
        """Send to a peer; False means that it did not leave, because the peer is not connected, too slow, or not whom it is meant for."""
        link = self._links.get(peer)
        if link is None or not link.ready or (type(message) in _QUESTIONS and not self._is_meant(peer, link.incarnation)):
            return False
        return self.transport.send(peer, self._frame(link.incarnation, message, link.version))

    def _is_meant(self, peer: str, incarnation: int) -> bool:
        """Tell whether the configuration, where it names a peer, means this incarnation."""
        return self.members is None or self.members.get(peer, incarnation) == incarnation

    def incarnation_of(self, peer: str) -> int | None:
        """Return the incarnation a connected peer greeted with, else None."""
        link = self._links.get(peer)
        return link.incarnation if link is not None and link.ready else None

    def about_of(self, peer: str) -> About | None:
        """Return what a connected peer says of itself, else None."""
        link = self._links.get(peer)
        return link.about if link is not None and link.ready else None

    def newcomers(self, addresses: Mapping[str, str]) -> Iterator[Application]:
        """Yield the peers of whom the configuration has another incarnation or address, and this member if it has moved itself.

        Only who answers counts: a connection that somebody else dialled may be one of a process that has long been gone.

        Args:
            addresses: those in the configuration.
        """
        own = self.about.address
        if own and own != addresses.get(self.identity.name):
            yield Application(self.identity.name, self.identity.incarnation, own, moved=True)
        for name, link in self._links.items():
            known = self.members.get(name) if self.members is not None else None
            if link.ready and (known is not None or (link.invited and not name.startswith(SEED))):
                is_new = link.cluster == codec.NO_CLUSTER and link.incarnation != known
                address = link.about.address
                moved = link.incarnation == known and address != "" and address != addresses.get(name)
                if is_new or moved:
                    yield Application(name, link.incarnation, address, moved)

    def is_certified(self, peer: str) -> bool:
        """Tell whether a connected peer has proved its name by a certificate."""
        link = self._links.get(peer)
        return link is not None and link.ready and self.transport.identities(peer) is not None

    def is_unfounded(self, peer: str) -> bool:
        """Tell whether a connected peer said that it has no cluster yet."""
        link = self._links.get(peer)
        return link is not None and link.ready and link.cluster == codec.NO_CLUSTER

    @property
    def knows_a_cluster(self) -> bool:
        """Whether a connected peer belongs to a cluster."""
        return any(link.ready and link.cluster != codec.NO_CLUSTER for link in list(self._links.values()))

    def unreachable(self) -> tuple[str, ...]:
        """Return the peers this member can't send to, those included for which it has no address."""
        return tuple(sorted(self._explanations()))

    def explain(self) -> str:
        """Say, for an error message, who can't be reached and why."""
        return ", ".join(f"{peer} {why}" for peer, why in sorted(self._explanations().items()))

    def _explanations(self) -> dict[str, str]:
        wanted = {*self._links} if self.members is None else {*self.members}
        why = {}
        for peer in wanted - {self.identity.name}:
            link = self._links.get(peer)
            if link is None:
                why[peer] = "(no address is known: name it in cluster=)"
            elif not link.ready:
                where = "" if peer.startswith(SEED) else f"at {link.url} "
                why[peer.removeprefix(SEED)] = f"{where}({link.refusal or 'no connection'})"
            elif not self._is_meant(peer, link.incarnation):
                why[peer] = f"at {link.url} (its directory is new, and it has not been taken in yet)"
        return why

    def take_changes(self) -> list[tuple[str, bool]]:
        """Return the peers that became reachable (True) or were lost (False), in order."""
        changes, self._changes = self._changes, []
        return changes

    def take_received(self) -> Iterator[tuple[str, Message]]:
        """Yield the messages that have come in, each if it is meant for the cluster this member belongs to by then.

        The first of them may be the one that founds the cluster of those behind it.
        """
        received, self._received = self._received, []
        for caller, cluster, message in received:
            if caller.name is None or (type(message) in _ANSWERS and not self._is_meant(caller.name, caller.incarnation)):
                continue
            if cluster == self.cluster or isinstance(message, Found):
                yield caller.name, message

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
                case LinkFailed(peer, reason):
                    self._failed(peer, reason)
                case PipeUp(pipe):
                    self._callers.setdefault(pipe, _Caller(now))
                    self._make_room()
                case PipeDown(pipe):
                    self._drop_caller(pipe, kick=False)
        if self.book.changed:
            self.dial(now)

    def _make_room(self) -> None:
        """Keep strangers, and those that were refused, from taking all the connections there may be."""
        if len(self._callers) > UNGREETED_MAX:
            ungreeted = [pipe for pipe, caller in self._callers.items() if caller.name is None]
            if len(ungreeted) > UNGREETED_MAX:
                self._drop_caller(ungreeted[0])

    def tick(self, now: float) -> None:
        """Ping, and give up on connections that stay silent; to be called at least every ``PING_INTERVAL`` seconds."""
        for pipe, caller in list(self._callers.items()):
            if caller.name is None and now - caller.since > GREETING_TIMEOUT:
                self._drop_caller(pipe)
            elif caller.name is not None and caller.invited and caller.name not in self.book.peers:
                self.book.heard(caller.name, caller.about.address)  # a configuration made it forgotten, in which it is not yet
        for peer, link in list(self._links.items()):
            self._tick_link(peer, link, now)

    def stood_still(self, seconds: float) -> None:
        """Hold nothing against the peers for so long: it was this member that did not listen."""
        for caller in self._callers.values():
            caller.since += seconds
        for link in self._links.values():
            link.since += seconds
            link.heard += seconds

    def _tick_link(self, peer: str, link: _Link, now: float) -> None:
        if now > link.until:
            self.transport.hang_up(peer)
            del self._links[peer]
            self._forget_refusal(peer)
            self._note(peer)
            return
        patience = GREETING_TIMEOUT if link.greeted and not link.ready else SILENCE_LIMIT
        if now - (link.heard if link.ready else link.since) > patience:
            self._lost(peer, now)
            link.url = self.book.another(peer, link.url)
            self._dial_again(peer, link)
        elif link.ready and now - max(link.heard, link.pinged) >= PING_INTERVAL:
            link.pinged = now
            self.transport.send(peer, self._frame(link.incarnation, Ping(), link.version))

    def _dial_again(self, peer: str, link: _Link) -> None:
        try:
            self.transport.dial(peer, link.url, "" if peer.startswith(SEED) else peer)
        except OSError as error:
            link.refusal = str(error)  # out of descriptors, most likely: the next tick tries again

    # -- connections this member dialled -------------------------------------------------------------------------------------------

    def _greet(self, peer: str, now: float) -> None:
        link = self._links.get(peer)
        if link is None:
            return
        link.greeted, link.ready, link.since = True, False, now
        receiver = "" if peer.startswith(SEED) else peer
        hello = Hello(self.versions, self.cluster, self.identity.name, self.identity.incarnation, receiver, self.founders, self.about)
        self.transport.send(peer, self._frame(0, hello))

    def _lost(self, peer: str, now: float) -> None:
        link = self._links.get(peer)
        if link is not None:
            link.greeted, link.ready, link.since = False, False, now
            self._note(peer)

    def _answered(self, peer: str, frame: bytes, now: float) -> None:
        link = self._links.get(peer)
        try:
            _, sender, receiver, message = codec.decode_frame(frame, self.versions)
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
        expected = welcome.name if peer.startswith(SEED) else peer
        if reason := self._objection_to_certificate(peer, welcome.name):
            self._refused(peer, link, Refuse(reason, codec.NO_CLUSTER))
            return
        link.invited = self._is_invited(peer, welcome)
        if reason := self._objection(expected, welcome, invited=link.invited):
            self._refused(peer, link, Refuse(reason, welcome.cluster))
            return
        if not self.versions[0] <= welcome.version <= self.versions[1]:
            self._complain("dropped a welcome in wire version %d, which it had not offered, from %s", welcome.version, peer)
            return
        if peer.startswith(SEED):
            self.book.found(welcome.name, link.url)
        link.ready, link.heard, link.refusal, link.about, link.version = True, now, "", welcome.about, welcome.version
        link.incarnation, link.cluster = welcome.incarnation, welcome.cluster
        self.newest = max(self.newest, welcome.about.configured)
        link.refusals.clear()
        self._forget_refusal(peer)
        self._note(peer)

    def _forget_refusal(self, peer: str) -> None:
        self.excluded_by.pop(peer, None)
        self.removed_by.pop(peer.removeprefix(SEED), None)

    def _refused(self, peer: str, link: _Link, refuse: Refuse) -> None:
        self.removed_by.pop(peer.removeprefix(SEED), None)
        if refuse.removed:
            self.removed_by[peer.removeprefix(SEED)] = refuse.reason
        if self.cluster != codec.NO_CLUSTER and refuse.cluster not in (codec.NO_CLUSTER, self.cluster):
            self.excluded_by[peer] = refuse.reason
        if refuse.reason not in link.refusals and refuse.reason != ITSELF:
            logger.warning("%s is refused by %s: %s", self.identity.name, _whereabouts(peer, link), refuse.reason)
        link.refusals.add(refuse.reason)
        link.refusal = refuse.reason

    def _failed(self, peer: str, reason: str) -> None:
        """Keep why no connection to a peer comes about."""
        link = self._links.get(peer)
        if link is None or link.ready:
            return
        if reason not in link.refusals:
            logger.warning("%s can't connect to %s: %s", self.identity.name, _whereabouts(peer, link), reason)
        link.refusals.add(reason)
        link.refusal = reason

    # -- connections of others -----------------------------------------------------------------------------------------------------

    def _arrived(self, pipe: int, frame: bytes, now: float) -> None:
        caller = self._callers.get(pipe)
        if caller is None:
            caller = self._callers[pipe] = _Caller(now)
        try:
            if caller.name is None and len(frame) > HELLO_MAX:
                raise codec.DecodeError(f"{len(frame)} bytes before a greeting")
            envelope = codec.decode_frame(frame, self.versions)
        except codec.DecodeError as error:
            if isinstance(error, codec.TooNew) and caller.name is not None:
                self._stop_if_meant(caller, error)
            self._complain("dropped a connection that sent %s", error)
            self._drop_caller(pipe)
            return
        if isinstance(envelope.message, Hello):
            self._greeted(pipe, caller, envelope.message, now)
        elif caller.name is None or not self._addressed(caller, envelope):
            self._complain("dropped a connection that sent a frame for somebody else")
            self._drop_caller(pipe)
        else:
            self._listen(pipe, caller, caller.name, envelope)

    def _listen(self, pipe: int, caller: _Caller, name: str, envelope: codec.Frame) -> None:
        cluster, _, _, message = envelope
        if cluster != codec.NO_CLUSTER:
            caller.cluster = cluster  # by now it has been founded
            self._note_cluster(name, caller.incarnation, cluster)
        if isinstance(message, Ping):
            self.transport.reply(pipe, self._frame(caller.incarnation, Pong(), caller.version))
        elif isinstance(message, (Pong, Refuse, Welcome)):
            self._complain("dropped an answer that came on a connection somebody else dialled, from %s", name)
        else:
            self._received.append((caller, cluster, message))

    def _addressed(self, caller: _Caller, envelope: codec.Frame) -> bool:
        """Tell whether a frame is from the member that greeted, to this one, in this cluster; pings may come before there is one."""
        cluster, sender, receiver, message = envelope
        known_cluster = cluster == self.cluster or self.cluster == codec.NO_CLUSTER or isinstance(message, (Found, Ping))
        return known_cluster and sender == caller.incarnation and receiver == self.identity.incarnation

    def _greeted(self, pipe: int, caller: _Caller, hello: Hello, now: float) -> None:
        if reason := self._objection_to_certificate(pipe, hello.name):
            self._complain("refused a connection of %s: %s", hello.name, reason)
            if self.transport.identities(pipe) and self._warnings.due(now):  # else it may just have ended, or that was said
                logger.warning("%s refused a connection of %s: %s", self.identity.name, hello.name, reason)
            self.transport.reply(pipe, self._frame(hello.incarnation, Refuse(reason, codec.NO_CLUSTER)))
            return
        version = min(hello.versions[1], self.versions[1])
        cluster = codec.NO_CLUSTER
        invited = self._is_invited(pipe, hello)
        self._note_cluster(hello.name, hello.incarnation, hello.cluster)
        if version < max(hello.versions[0], self.versions[0]):
            reason = self._objection_to_versions(hello)
        elif hello.receiver not in ("", self.identity.name):
            reason = f"this is member {self.identity.name}, not {hello.receiver}; correct the address"
        else:
            cluster = self.cluster
            reason = self._objection(hello.name, hello, invited=invited)
        if reason:
            self._complain("refused %s: %s", hello.name, reason)
            removed = cluster == hello.cluster != codec.NO_CLUSTER and self._was_removed(hello)
            self.transport.reply(pipe, self._frame(hello.incarnation, Refuse(reason, cluster, removed)))
            return  # left open for the answer to leave; the greeting's timeout closes it
        caller.name, caller.incarnation, caller.cluster, caller.about = hello.name, hello.incarnation, hello.cluster, hello.about
        caller.version, caller.invited = version, invited
        self.newest = max(self.newest, hello.about.configured)
        self.book.heard(hello.name, hello.about.address)
        welcome = Welcome(version, self.cluster, self.identity.name, self.identity.incarnation, self.founders, self.about)
        self.transport.reply(pipe, self._frame(hello.incarnation, welcome))

    def _note_cluster(self, name: str, incarnation: int, cluster: bytes) -> None:
        """Note that somebody who knew of no cluster is a newcomer no longer: once removed, it must not be let in again with what it has."""
        link = self._links.get(name)
        if link is not None and link.incarnation == incarnation and cluster != codec.NO_CLUSTER:
            link.cluster = cluster

    def _objection_to_versions(self, hello: Hello) -> str:
        (oldest, newest), me = self.versions, self.identity.name
        behind = me if newest < hello.versions[0] else hello.name
        theirs = "{} to {}".format(*hello.versions)
        return f"{me} speaks wire versions {oldest} to {newest}, {hello.name} {theirs}: upgrade {behind}, over a version between if need be"

    def _stop_if_meant(self, caller: _Caller, error: codec.TooNew) -> None:
        """Stop this member where the log goes on with what it does not know: it would be left behind, and nobody would learn why."""
        if error.envelope == (self.cluster, caller.incarnation, self.identity.incarnation):
            raise Incompatible(f"{caller.name} sent {error}")

    def _was_removed(self, hello: Hello) -> bool:
        """Tell whether it is decided that somebody of this cluster is none of its members any more."""
        gone = hello.name != self.identity.name and self.decided.get(hello.name) != hello.incarnation
        return self.certain and gone and hello.about.configured <= self.configured

    def _drop_caller(self, pipe: int, *, kick: bool = True) -> None:
        if kick:
            self.transport.kick(pipe)
        caller = self._callers.pop(pipe, None)
        if caller is not None and caller.name is not None:
            self._note(caller.name)

    # -- both ----------------------------------------------------------------------------------------------------------------------

    def _objection_to_certificate(self, end: int | str, name: str) -> str:
        """Return why whoever is at the other end of a connection can't speak as a member; empty: it has proved its name, or need not."""
        names = self.transport.identities(end)
        if names is None or name in names:
            return ""
        whose = ", ".join(sorted(names)) or "nobody"
        return f"the certificate of this connection is for {whose}, not for {name}: start each member with a certificate of its own name"

    def _is_invited(self, end: int | str, peer: Hello | Welcome) -> bool:
        """Tell whether somebody comes to join whose certificate, which has been looked at, is its permission."""
        return not peer.founders and peer.cluster == codec.NO_CLUSTER and self.transport.identities(end) is not None

    def _objection(self, expected: str, peer: Hello | Welcome, *, invited: bool) -> str:
        """Return why a peer that greets so can't be one of ours; empty: it can."""
        me, name, cluster = self.identity.name, peer.name, peer.cluster
        if name != expected:
            return f"member {name} answers at the address of {expected}; correct the address"
        if name == me:
            return ITSELF if peer.incarnation == self.identity.incarnation else f"two members are called {me}; give each its own name"
        if codec.NO_CLUSTER not in (cluster, self.cluster) and cluster != self.cluster:
            return f"{me} belongs to cluster {self.cluster.hex()}, {name} to cluster {cluster.hex()}; use each directory with its own peers"
        if self.members is not None:
            return self._membership_objection(name, _Caller(0.0, name, peer.incarnation, cluster, peer.about, invited=invited))
        if self.founders and name not in self.founders:
            return f"{name} is not in the cluster map of {me}; add it there, or start it with another map"
        if cluster == codec.NO_CLUSTER and peer.founders != self.founders:
            theirs, ours = (", ".join(names) or "none" for names in (peer.founders, self.founders))
            return f"the cluster maps differ: {me} has {ours}, {name} has {theirs}; make them equal"
        return ""

    def _membership_objection(self, name: str, peer: _Caller | _Link) -> str:
        known = self.members.get(name) if self.members is not None else None
        if known == peer.incarnation:
            return ""
        if peer.cluster == codec.NO_CLUSTER:
            return self._objection_to_newcomer(name, known, peer)
        if peer.about.configured > self.configured:
            return ""  # it may be in a configuration that is not known here yet, and even lead (thesis §4.1)
        if known in (None, EXPECTED):
            return f"{name} was removed from this cluster, and its directory with it: only an empty one can join again"
        return f"the data directory of {name} was replaced: what is in the old one does not count any more"

    def _objection_to_newcomer(self, name: str, known: int | None, peer: _Caller | _Link) -> str:
        link, level = self._links.get(name), peer.about.level
        if known is None and not peer.invited:
            return f"{name} is no member of this cluster: name it first, with change_members(add=...)"
        if known != EXPECTED and link is not None and link.ready and link.incarnation == known:
            return f"{name} is at work already, at {link.url} with another directory: end one of the two, or give this one its own name"
        if level < self.level:
            return f"the cluster is at feature level {self.level}, and {name} supports {level} only: upgrade {name}"
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

    def _frame(self, receiver: int, message: Message, version: int = 0) -> bytes:
        """Pack a message in the version that was agreed on; a greeting in any."""
        return codec.encode_frame(self.cluster, self.identity.incarnation, receiver, message, version or self.versions[0])

    def _complain(self, text: str, *arguments: object) -> None:
        self.frames_dropped += 1
        logger.debug("%s " + text, self.identity.name, *arguments)  # noqa: G003  # a constant at every call


def _whereabouts(peer: str, link: _Link) -> str:
    """Return who is called, for people; of a seed only the address is known."""
    return link.url if peer.startswith(SEED) else f"{peer} at {link.url}"
