"""The scopes that are searched: who takes part, where the search begins, and how much of everything may happen.

Small scopes find most bugs of consensus, for almost all of them need few members, few entries and a rare order of events.  A profile
begins where its kind of trouble begins, at the end of a short scene that the real code has played, so that what may happen is
spent on what is of interest.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from attrs import Factory, asdict, frozen

from replkv import codec
from replkv.messages import Configuration, Entry, EntryKind, Founding
from replkv.ready import Timing
from replkv.testing.search.values import SPAN


@frozen
class Budget:
    """How often something may happen on one way through the search.

    Args:
        timeouts: elections begun by members that waited in vain.
        beats: heartbeats of leaders that nothing else gave a reason for.
        puts: entries asked of a leader.
        changes: configurations asked of a leader.
        reads: read indexes asked of anybody.
        transfers: leaderships handed over on request.
        crashes: members that stop and start again; while some are left, syncs take time.
        rots: members that start with a part of their log lost; one at a time.
        fills: disks that become full, or have room again.
        doubles: messages that arrive and remain under way.
        flaps: connections that are lost, or come back.
        trims: logs that are trimmed behind a snapshot.
        waits: steps of the common clock, where there is one.
    """

    timeouts: int = 0
    beats: int = 0
    puts: int = 0
    changes: int = 0
    reads: int = 0
    transfers: int = 0
    crashes: int = 0
    rots: int = 0
    fills: int = 0
    doubles: int = 0
    flaps: int = 0
    trims: int = 0
    waits: int = 0

    def spent(self, kind: str) -> Budget | None:
        """Return what is left when one of a kind is taken, None if there is none."""
        left = {**asdict(self), kind: getattr(self, kind) - 1}
        return Budget(**left) if left[kind] >= 0 else None


@frozen
class Scene:
    """A step of the way to where a search begins: something happens to a member, and some hear of it.

    Args:
        who: whom it happens to; empty: to all, as time does.
        what: the input.
        hearers: those whom messages reach, in the order in which they were first sent.
        speakers: those whose messages reach them; empty: everybody's.
        until: no longer than until the member ``leads`` or ``commits`` all that it has; otherwise until all is quiet.
        most: so many messages arrive at most.
        lost: whether what has not arrived by then never will.
        kept: a sender and a receiver whose messages may arrive later all the same.
    """

    who: str
    what: tuple[Any, ...]
    hearers: str = ""
    speakers: str = ""
    until: str = ""
    most: int = 1000
    lost: bool = True
    kept: str = ""


@frozen
class Profile:
    """One scope.

    Args:
        name: what it is about.
        founders: who takes part, a letter each, as ``configuration`` reads it.
        budget: what may happen.
        wire: how many messages are under way at most; more are lost.
        begin: how it came to where the search begins.
        cut: pairs of members whose messages to each other are lost.
        configurations: those a leader may be asked to change to, as ``configuration`` reads them.
        knobs: sizes that are not as in the product.
        quantum: seconds in a step of the common clock; 0: every member's clock runs as it pleases, so that leases are not judged.
        promise: seconds of a promise, see ``raft.py``.
        hasty: members may take in several inputs before they look at what follows from them.
    """

    name: str
    founders: str
    budget: Budget
    wire: int = 6
    begin: tuple[Scene, ...] = ()
    cut: tuple[str, ...] = ()
    configurations: tuple[str, ...] = ()
    knobs: dict[str, float] = Factory(dict)
    quantum: float = 0.0
    promise: float = 0.0
    hasty: bool = False

    @property
    def members(self) -> tuple[str, ...]:
        """Everybody's name."""
        return configuration(self.founders).names

    @property
    def timing(self) -> Timing:
        """The spans members wait for; a leader gives up after two heartbeats that nobody answers."""
        return Timing(12 * SPAN, 6 * SPAN if not self.quantum else self.quantum, self.promise)

    @property
    def founding(self) -> Entry:
        """The entry everybody's log begins with."""
        value = Founding(bytes(16), configuration(self.founders), {})
        return codec.make_entry(1, 1, EntryKind.FOUNDING, 0, codec.encode_founding(value))


@cache
def configuration(text: str) -> Configuration:
    """Read a configuration, a letter for each member: ``abc``, with learners ``ab+c``, joint ``ad/abc``."""
    text, _, learners = text.partition("+")
    voters, _, outgoing = text.partition("/")
    members = {name: ord(name) for name in sorted({*voters, *outgoing, *learners})}
    return Configuration(tuple(voters), tuple(outgoing), tuple(learners), members)


def elected(who: str, hearers: str) -> Scene:
    """Let a member be elected, and its first entry be committed, by some."""
    return Scene(who, ("tick",), hearers)


def barely_elected(who: str, hearers: str) -> Scene:
    """Let a member be elected by some; what it sends as leader is lost."""
    return Scene(who, ("tick",), hearers, until="leads")


def put(who: str, hearers: str) -> Scene:
    """Let a leader take an entry, and some hear of it."""
    return Scene(who, ("put",), hearers)


def barely_put(who: str, hearers: str) -> Scene:
    """Let a leader take an entry and commit it with some, who do not learn that it is committed."""
    return Scene(who, ("put",), hearers, until="commits")


def beat(who: str, hearers: str) -> Scene:
    """Let a leader send a heartbeat that reaches some."""
    return Scene(who, ("tick",), hearers)


WAIT = Scene("", ("wait",))
A_LEADS = elected("a", "abc")
IN_TIME_A_LEADS = (*(WAIT,) * 4, A_LEADS)
LEASES: dict[str, Any] = {"quantum": 3 * SPAN, "promise": 6 * SPAN}
ASK_AGAIN = {"caution.ASK_EVERY": 12 * SPAN}
ONE_BY_ONE: dict[str, float] = {"raftlog.RUN_ENTRIES": 1}

ELECTIONS = (
    Profile("elections", "abc", Budget(timeouts=3), wire=5),
    Profile("split votes", "abc", Budget(timeouts=3), cut=("ab",)),
    Profile("elections of two", "ab", Budget(timeouts=2, crashes=1)),
    Profile("everything of two", "ab", Budget(timeouts=3, crashes=2, puts=1, beats=1, doubles=1)),
    Profile("elections and a put", "abc", Budget(puts=1, timeouts=1), begin=(A_LEADS,), cut=("ab",)),
    Profile("hand-over and a put", "abc", Budget(transfers=1, puts=1), begin=(A_LEADS,)),
    Profile("hand-over and an election", "abc", Budget(transfers=1, timeouts=1), begin=(A_LEADS,), cut=("bc",)),
    Profile("hand-overs", "abc", Budget(transfers=2, timeouts=1, puts=1), begin=(A_LEADS,)),
)

REPLICATION = (
    Profile("two puts", "abc", Budget(puts=2), begin=(A_LEADS,)),
    Profile("doubled messages", "abc", Budget(puts=2, beats=1, doubles=1), begin=(A_LEADS,)),
    Profile("new connections", "abc", Budget(puts=2, beats=1, flaps=1), begin=(A_LEADS,)),
    Profile(
        "old entries",  # thesis, figure 3.7
        "abc",
        Budget(timeouts=2, beats=2),
        begin=(A_LEADS, put("a", "a"), barely_elected("b", "bc"), beat("a", "ac")),
        knobs=ONE_BY_ONE,
    ),
    Profile("a crash and an election", "abc", Budget(crashes=1, timeouts=1), begin=(A_LEADS,), cut=("ab",)),
    Profile("crashes", "abc", Budget(puts=1, crashes=2, timeouts=1), begin=(A_LEADS,), wire=5),
    Profile("haste", "abc", Budget(timeouts=1, puts=1, crashes=1), begin=(A_LEADS,), hasty=True),
    Profile("full disks", "abc", Budget(fills=2, puts=2, timeouts=1), begin=(A_LEADS,)),
    Profile("snapshots", "abc", Budget(trims=2, puts=1, beats=1, doubles=1, crashes=1), begin=(A_LEADS, put("a", "ab"))),
    Profile(
        "a snapshot in place of a longer log",
        "abc",
        Budget(trims=1, puts=1, beats=1, crashes=1),
        begin=(A_LEADS, *(put("a", "a"),) * 3, elected("b", "bc"), put("b", "bc")),
    ),
)

READS = (
    Profile("a read", "abc", Budget(reads=1, beats=1), begin=(A_LEADS, barely_put("a", "ab"), barely_elected("b", "bc"))),
    Profile("reads", "abc", Budget(reads=2, puts=1, beats=1), begin=(A_LEADS, barely_put("a", "ab"), barely_elected("b", "bc"))),
    Profile("a read of a deposed leader", "abc", Budget(reads=1, beats=1, timeouts=1), begin=(A_LEADS,), cut=("ab",)),
    Profile(
        "late answers",
        "abc",
        Budget(reads=1, beats=1),
        begin=(
            A_LEADS,
            Scene("a", ("tick",), "c", kept="ca"),
            Scene("b", ("tick",), "ab", "ab", kept="ca"),
            Scene("a", ("tick",), "ab", "ab", kept="ca"),
            Scene("b", ("tick",), "bc", kept="ca"),
        ),
    ),
    Profile("leases at a hand-over", "abc", Budget(transfers=1, waits=1, puts=1), begin=IN_TIME_A_LEADS, **LEASES),
    Profile(
        "leases and promises",
        "abc",
        Budget(waits=1, flaps=1, crashes=1),
        begin=(*IN_TIME_A_LEADS, *(WAIT, beat("a", "ac")) * 4),
        cut=("ab",),
        **LEASES,
    ),
    Profile(
        "leases and late answers", "abc", Budget(waits=3), begin=(*IN_TIME_A_LEADS, WAIT, beat("a", "ac"), WAIT), cut=("ab",), **LEASES
    ),
    Profile("a lease nobody answers", "abc", Budget(waits=3), begin=(*IN_TIME_A_LEADS, *(WAIT,) * 3), cut=("ab", "ac"), **LEASES),
    Profile(
        "a lease of a new leader",
        "abc",
        Budget(waits=2),
        begin=(*IN_TIME_A_LEADS, barely_put("a", "ab"), *(WAIT,) * 4, barely_elected("b", "bc")),
        cut=("ab", "ac"),
        **LEASES,
    ),
)

MEMBERSHIP = (
    Profile(
        "two changes", "abcd", Budget(changes=2, timeouts=1, beats=1), begin=(elected("a", "abcd"),), configurations=("abc", "bcd", "acd")
    ),
    Profile(
        "changes of two leaders",  # Ongaro's erratum to the change of one voter at a time
        "abcd",
        Budget(changes=1, timeouts=1, beats=1),
        begin=(elected("a", "abcd"), Scene("a", ("change", "acd")), barely_elected("b", "bcd")),
        configurations=("abc", "bcd", "abd"),
    ),
    Profile("shrinking", "abc", Budget(changes=2, timeouts=1, crashes=1), begin=(A_LEADS,), configurations=("ab", "ac", "a", "b")),
    Profile("joint changes", "abc", Budget(changes=2), begin=(A_LEADS,), configurations=("a/abc", "a", "bc/abc", "bc")),
    Profile(
        "joint changes and an election",
        "abc",
        Budget(changes=2, beats=1, timeouts=1),
        begin=(A_LEADS,),
        configurations=("a/abc", "a", "bc/abc", "bc"),
    ),
    Profile("a voter and a learner", "a+b", Budget(puts=2, crashes=2, beats=1, changes=1), configurations=("ab",)),
)

LOSSES = (
    Profile("losses", "abc", Budget(timeouts=2), begin=(A_LEADS, barely_put("a", "ab"), Scene("b", ("doubt", 2))), knobs=ASK_AGAIN),
    Profile(
        "losses of a leader",
        "abc",
        Budget(timeouts=2),
        begin=(A_LEADS, barely_put("a", "ab"), Scene("a", ("doubt", 1))),
        knobs=ASK_AGAIN,
    ),
    Profile("losses of two", "ab", Budget(rots=1, timeouts=2, puts=1), begin=(elected("a", "ab"),), knobs=ASK_AGAIN),
    Profile(
        "losses and late answers",
        "abc",
        Budget(timeouts=2),
        begin=(A_LEADS, Scene("a", ("put",), "b", lost=False), Scene("b", ("doubt", 2), lost=False)),
        knobs=ASK_AGAIN,
    ),
    Profile(
        "losses and late votes",
        "abc",
        Budget(timeouts=2, beats=1),
        begin=(
            Scene("b", ("tick",), "bc", most=2, lost=False),
            Scene("a", ("tick",), "ac", "ac", most=3, lost=False),
            Scene("c", ("doubt", 1), lost=False),
        ),
        cut=("ab",),
        knobs=ASK_AGAIN,
    ),
    Profile("losses at any moment", "abc", Budget(rots=1, puts=1, timeouts=2), begin=(A_LEADS,), knobs=ASK_AGAIN),
)

PROFILES = ELECTIONS + REPLICATION + READS + MEMBERSHIP + LOSSES
