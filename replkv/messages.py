"""What members keep and tell each other: log entries, configurations, and the messages of Raft.

All of it is plain values.  How they become bytes is ``codec.py``'s business; what they mean is ``raft.py``'s.
Times in entries and messages are **cluster time**: microseconds that pass only while a leader does its work.
"""

from __future__ import annotations

import struct
from enum import IntEnum
from typing import Final, NamedTuple, TypeAlias, get_args

from attrs import Factory, field, frozen


@frozen
class Identity:
    """Which member this is: its name, and the random number of its data directory."""

    name: str
    incarnation: int


class EntryKind(IntEnum):
    """What an entry's payload holds.  These numbers are on disk: never reuse one."""

    FOUNDING = 1
    BLOCK = 2
    CONFIGURATION = 3


ENTRY_HEAD = struct.Struct("<QQBQ")
"""What an encoded entry begins with: index, term, kind, time."""


@frozen
class Entry:
    """One place of the log.

    ``encoded`` is the whole entry as bytes, packed once where it was proposed: the same bytes travel to every peer and into every WAL.
    """

    index: int
    term: int
    kind: EntryKind
    time: int
    encoded: bytes = field(repr=False)

    @property
    def payload(self) -> bytes:
        """What the entry says; a copy, which few need, while many entries are kept."""
        return self.encoded[ENTRY_HEAD.size :]


@frozen
class HardState:
    """What a member must never forget: the newest term it has seen, and whom it voted for in it."""

    term: int = 0
    vote: str | None = None


class Position(NamedTuple):
    """Where a log ends; the greater one is the more up to date (thesis §3.6.1)."""

    term: int
    index: int  # type: ignore[assignment]  # a tuple's method of that name is nobody's business here


NOWHERE = Position(0, 0)
UNKNOWN = Position((1 << 63) - 1, (1 << 63) - 1)
"""Where a log may have ended that lost its own end: beyond anything that can be named."""


EXPECTED = 0
"""The incarnation of a member that was named and has not come yet."""


@frozen
class Configuration:
    """Who decides, and where everybody is.

    While ``outgoing`` is not empty the configuration is joint (thesis §4.3): a decision needs a majority of both sets of voters.

    ``members`` maps every name, learners included, to its incarnation; ``EXPECTED``: its first directory has yet to come.
    ``addresses`` maps those names to urls of which one is known.
    """

    voters: tuple[str, ...]
    outgoing: tuple[str, ...] = ()
    learners: tuple[str, ...] = ()
    members: dict[str, int] = Factory(dict)
    addresses: dict[str, str] = Factory(dict)

    @property
    def names(self) -> tuple[str, ...]:
        """Everybody who gets the log, sorted."""
        return tuple(sorted({*self.voters, *self.outgoing, *self.learners}))

    @property
    def all_voters(self) -> frozenset[str]:
        """Everybody who has a vote in either half."""
        return frozenset((*self.voters, *self.outgoing))

    def is_voter(self, name: str) -> bool:
        """Tell whether ``name`` has a vote in either half."""
        return name in self.voters or name in self.outgoing


@frozen
class Founding:
    """The first entry of every log: which cluster this is, who founded it, the settings and the feature level it began with."""

    cluster: bytes
    configuration: Configuration
    settings: dict[str, int | float]
    level: int = 1


@frozen
class SnapshotMeta:
    """The place a snapshot stands for: everything up to ``index`` is in it."""

    index: int
    term: int
    configuration: Configuration


# -- Raft's messages ---------------------------------------------------------------------------------------------------------------


@frozen
class Vote:
    """RequestVote; with ``pre`` only a question that changes nothing (thesis §9.6).

    ``transfer``: the leader itself asked for this election, so promises to it do not hold it up (thesis §3.10).
    """

    term: int
    last_index: int
    last_term: int
    pre: bool = False
    transfer: bool = False


@frozen
class VoteReply:
    """The answer to a Vote; a granted pre-vote names the term asked about, a refusal the voter's own."""

    term: int
    granted: bool
    pre: bool = False


NOTICE = 0


@frozen
class Append:
    """AppendEntries.  ``round`` is new for every broadcast and comes back in the reply: it confirms reads and extends the lease.

    Round 0, ``NOTICE``, only tells what is committed and is not answered: a quarter of all messages would be such answers.
    """

    term: int
    prev_index: int
    prev_term: int
    commit: int
    round: int
    time: int
    entries: tuple[Entry, ...] = ()

    @property
    def is_well_formed(self) -> bool:
        """Whether the entries follow ``prev_index`` without a gap and their terms never fall."""
        index, term = self.prev_index, self.prev_term
        for entry in self.entries:
            index += 1
            if entry.index != index or entry.term < term:
                return False
            term = entry.term
        return term <= self.term and (self.prev_index > 0 or self.prev_term == 0)


@frozen
class AppendReply:
    """``match``: the log agrees with the leader's up to here and is durable.

    A refusal (``rejected``) carries a hint instead: the highest index at which the logs could agree, and the term found there.
    """

    term: int
    round: int
    match: int = 0
    rejected: bool = False
    hint_index: int = 0
    hint_term: int = 0


@frozen
class ReadIndex:
    """A follower asks its leader for a read index (thesis §6.4); ``id`` is never used twice."""

    term: int
    id: int


@frozen
class ReadIndexReply:
    """The confirmed read index; 0: not the leader (any more), ask again."""

    term: int
    id: int
    index: int


@frozen
class TimeoutNow:
    """The leader hands over: stand for election at once (thesis §3.10)."""

    term: int


@frozen
class Census:
    """A member whose disk lost a part of its log says so, and asks where everybody stands; ``id`` is never used twice."""

    id: int


@frozen
class CensusReply:
    """The newest term its sender knows, and where its log ends; ``in_doubt``: it does not know either.

    ``configured`` and ``configuration``: the newest configuration in its log, and where that stands.
    """

    id: int
    term: int
    last_index: int
    last_term: int
    in_doubt: bool = False
    configured: int = 0
    configuration: Configuration = Configuration(())


RaftMessage: TypeAlias = Vote | VoteReply | Append | AppendReply | ReadIndex | ReadIndexReply | TimeoutNow | Census | CensusReply
RAFT_MESSAGES: Final = get_args(RaftMessage)

TERM_STEP = 1 << 40
"""How far a message's term may be ahead: one election a millisecond takes thirty years for that.  Who believed in any number would soon
stand in a term that has no encoding, and never be heard again."""


def is_credible(message: RaftMessage, term: int) -> bool:
    """Tell whether a sound member can have sent a message to one that stands in a term."""
    if isinstance(message, Append) and not message.is_well_formed:
        return False
    return isinstance(message, Census) or message.term <= term + TERM_STEP


# -- messages of the node ----------------------------------------------------------------------------------------------------------


@frozen
class Forward:
    """Batches of commands a follower hands to its leader, each packed as it will stand in a block."""

    batches: tuple[bytes, ...] = field(repr=False)


@frozen
class SnapshotChunk:
    """A piece of a snapshot file for a follower whose next entry is no longer in the log."""

    term: int
    meta: SnapshotMeta
    offset: int
    total: int
    data: bytes = field(repr=False)


@frozen
class SnapshotAck:
    """How much of the snapshot at ``index`` has arrived in order; ``offset`` is what to send next."""

    term: int
    index: int
    offset: int


@frozen
class Digest:
    """A hash of what was applied up to ``index``: the chained one, or with ``full`` that of the whole state."""

    index: int
    full: bool
    hash: bytes


@frozen
class Scarcity:
    """Tells whether its sender's disk is full; said again and again while it is."""

    full: bool


@frozen
class About:
    """What a member says of itself in every greeting.

    ``address``: the url it is reached at, "" if it does not know; ``configured``: the index of the newest configuration that it knows to
    be committed; ``level``: the highest feature level that its code supports; ``priority``: how much it is wanted as a leader.
    """

    address: str = ""
    configured: int = 0
    level: int = 1
    priority: int = 0


@frozen
class Hello:
    """The first frame on every connection, from the side that dialled; ``receiver`` is "" where only an address is known."""

    versions: tuple[int, int]
    cluster: bytes
    name: str
    incarnation: int
    receiver: str
    founders: tuple[str, ...] = ()
    about: About = About()


@frozen
class Welcome:
    """The answer to a Hello that was accepted."""

    version: int
    cluster: bytes
    name: str
    incarnation: int
    founders: tuple[str, ...] = ()
    about: About = About()


@frozen
class Refuse:
    """The answer to a Hello that was not; ``cluster`` is the refusing member's where that is what keeps the two apart, else zeros.

    ``removed``: a configuration that is committed, and newer than any the other side has, names its incarnation no longer.
    """

    reason: str
    cluster: bytes
    removed: bool = False


@frozen
class Found:
    """The first entry of the cluster's log, for one that has none yet.

    ``addresses``: where its sender knows the members to be; ``configured``: the index of a configuration that names the receiver.
    """

    entry: Entry
    addresses: dict[str, str] = Factory(dict)
    configured: int = 1


@frozen
class Application:
    """Tells the leader that a member has come to its sender with another incarnation or address than the configuration has.

    ``moved``: it is in the configuration that the sender knows, and has another address; else its directory is empty, and it wants to be
    let in.
    """

    name: str
    incarnation: int
    address: str
    moved: bool = False


@frozen
class HandOver:
    """Asks the leader to hand leadership to a member; "": to whom it likes."""

    to: str


@frozen
class Hindrance:
    """The leader's answer to a ``HandOver``: what is in the way; "": the leadership has been offered."""

    why: str


@frozen
class Ping:
    """A sign of life on a connection that has nothing else to say."""


@frozen
class Pong:
    """The answer to a Ping, on the same connection."""


NodeMessage: TypeAlias = (
    Forward
    | SnapshotChunk
    | SnapshotAck
    | Digest
    | Scarcity
    | Hello
    | Welcome
    | Refuse
    | Found
    | Application
    | HandOver
    | Hindrance
    | Ping
    | Pong
)
Message: TypeAlias = RaftMessage | NodeMessage
