"""What a call is going to do, before anybody decides whether to block or to await, and who carries it out.

A plan is a command to replicate, or a question.  A member may answer a question at once, from its memory; else the plan becomes a ``Call``
that the node finishes.  A client puts the question into a letter.  What the raw answer means to the caller is found out on the caller's own
thread.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from contextlib import suppress
from typing import TYPE_CHECKING, Any, ClassVar, Final, Generic, Protocol, TypeVar, cast

from attrs import evolve

from replkv import codec, errors, features, letters, wire
from replkv.kv import MOD, VALUE
from replkv.member_ops import ChangeMembers
from replkv.ops import Add, Delete, Get, Put, Scan, Txn
from replkv.reads import NOT_YET
from replkv.refusals import refuse
from replkv.steering import is_settled
from replkv.values import KeyValue, LeaseInfo, to_count, to_seconds

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from replkv.auth import Subject
    from replkv.config import Settings
    from replkv.described import Published
    from replkv.keeper import Keeper
    from replkv.kv import Record
    from replkv.machine import Machine
    from replkv.node import Node
    from replkv.ops import Packable
    from replkv.proposals import Call
    from replkv.wire import Raw

R = TypeVar("R")
Q = TypeVar("Q")
A = TypeVar("A")

CONSISTENCIES: Final = ("linearizable", "lease", "local")

_NOTHING: Final = (wire.OK,)

_LONGEST: Final = 1e9
"""Seconds, decades, beyond which a bound is none: a letter has only so many digits for it."""
_STEP: Final = 256
"""How many pairs of a scan become what the caller sees in one step."""


class Asker(ABC):
    """What a plan needs to know of who carries it out.

    Attributes:
        name: of the member, for messages.
        clock: monotonic seconds.
    """

    name: str
    clock: Callable[[], float]
    subject: Subject | None = None
    """The user on whose behalf it is asked, in this process; None: on the member's own."""

    @property
    @abstractmethod
    def settings(self) -> Settings:
        """What the cluster lives by."""

    @property
    @abstractmethod
    def level(self) -> int:
        """The feature level up to which commands may be handed over; whoever takes them may know better."""

    @property
    @abstractmethod
    def keeper(self) -> Keeper:
        """Keeps the leases of this process alive."""

    @property
    @abstractmethod
    def revision(self) -> int:
        """The newest revision that is seen from here."""

    @property
    @abstractmethod
    def age(self) -> float:
        """Seconds since the state that is seen from here was known to be the newest; infinite if it never was."""

    @property
    @abstractmethod
    def leader(self) -> str | None:
        """Who leads, as far as is known here."""

    @property
    @abstractmethod
    def unreachable(self) -> tuple[str, ...]:
        """Who can't be reached."""

    @property
    @abstractmethod
    def trouble(self) -> str:
        """What may be the reason that there is no answer, each behind a semicolon."""


class Plan(Generic[R]):
    """What a call is going to do."""

    __slots__ = ()

    looks: ClassVar[bool] = False
    """Whether, behind the read barrier, it has to see the machine on the node's thread."""
    acts: ClassVar[bool] = False
    """Whether something is done when it begins to wait, without a command."""
    sequel: Plan[None] | None = None
    """What is to be done behind it, within the same timeout."""

    @property
    def is_long(self) -> bool:
        """Whether its answer may be long, so that who must not be held up finds it out in steps."""
        return False

    def command(self, asker: Asker) -> bytes | None:
        """Return the packed command to replicate; None asks a question instead, behind a read barrier.

        Raises:
            Rejected: the cluster's settings forbid it.
            ValueError: a time to live is shorter than they allow.
        """
        del asker
        return None

    def letter(self, number: int, asker: Asker) -> letters.Request:
        """Return the question as a client asks a member."""
        raise errors.InvariantBroken(f"{type(self).__name__} of {asker.name} is no question, letter {number}")

    def permit(self, subject: Subject | None, machine: Machine) -> None:
        """Check that somebody may have this answered: root alone, unless a plan says otherwise.

        Args:
            subject: who asks; None: the member itself.
            machine: whose auth counts; on any thread.

        Raises:
            PermissionDenied, AuthenticationFailed: it may not.
        """
        machine.auth.check_root(subject)

    def permit_answer(self, subject: Subject | None, machine: Machine, raw: Raw) -> None:
        """Check what only the answer shows, as ``permit``; nothing, unless a plan says otherwise."""
        del subject, machine, raw

    def look(self, machine: Machine, time: int) -> Any:
        """Take what is needed of the machine, at a cluster time; between two entries, so be quick.

        ``NOT_YET``: it is not there yet; the plan will look again when something has been applied.
        """
        del machine, time

    def is_at_hand(self, node: Node) -> bool:
        """Tell whether ``at_once`` has an answer now, as far as that can be told without looking for it."""
        del node
        return False

    def at_once(self, node: Node) -> Any:
        """Return the raw answer if no other member need be asked, else ``NOT_YET``."""
        del node
        return NOT_YET

    def wait(self, node: Node, call: Call) -> None:
        """Let a call without a command wait at a member until it can be answered; by default behind a read barrier."""
        call.look = self.look if self.looks else None
        node.read_barrier(call)

    def answer(self, node: Node, call: Call) -> Raw:
        """Return the raw answer of a finished call: what the machine said, or what is read now that the barrier has been passed."""
        del node
        return call.answer  # type: ignore[return-value]  # it is finished

    def meaning(self, raw: Raw) -> R:
        """Turn the raw answer into the caller's result.

        Raises:
            ReplkvError: it is a refusal.
        """
        raise errors.InvariantBroken(f"{type(self).__name__} has no meaning for {raw}")

    def answer_in_steps(self, node: Node, call: Call | None) -> Generator[None, None, Any]:
        """Answer as ``answer`` does, or as ``at_once`` where there is no call, in steps between which others have their turn."""
        yield from ()
        return self.at_once(node) if call is None else self.answer(node, call)

    def meaning_in_steps(self, raw: Raw) -> Generator[None, None, R]:
        """Find out the meaning, in steps between which others have their turn."""
        yield from ()
        return self.meaning(raw)

    def expired(self, asker: Asker, *, untouched: bool) -> errors.ReplkvError:
        """Return the error for a call whose time ran out; ``untouched``: it surely had no effect."""
        if untouched:
            leader, gone = asker.leader, asker.unreachable
            what = f"the leader {leader} did not answer" if leader else "no leader was found"
            advice = "try again or start the missing members" if gone else "try again"
            return errors.NoLeader(f"{asker.name}: {what} in time{asker.trouble}; nothing was applied, {advice}", gone)
        return errors.OutcomeUnknown(
            f"{asker.name}: the write was handed over, but no answer came in time{asker.trouble}; wait() goes on waiting"
        )


class OnKeys(Plan[R]):
    """Something is to be done with keys, perhaps in a namespace.

    Args:
        operation: what.
        prefix: of the namespace; the caller's keys and those of the answer are without it.
    """

    __slots__ = ("operation", "prefix")

    def __init__(self, operation: Packable[R], prefix: bytes = b"") -> None:
        self.operation = operation
        self.prefix = prefix

    def packed(self) -> Raw:
        """Return the operation as the machine takes it."""
        packed = self.operation.to_wire()
        return wire.below(packed, self.prefix) if self.prefix else packed

    def meaning(self, raw: Raw) -> R:
        """Return what the machine's answer means to the caller.

        Raises:
            ReplkvError: it is a refusal.
        """
        if self.prefix:
            raw = wire.stripped(self.operation.to_wire(), raw, len(self.prefix))
        return self.operation.result(raw if raw[0] == wire.OK else wire.unless_refused(raw))


def pack_command(raw: Raw, asker: Asker) -> bytes:
    """Pack an operation, within the cluster's limits.

    Raises:
        TooLarge, TooManyOps: it is beyond them.
        LevelTooLow: not all members can carry it out.
        ValueError: a time to live is shorter than ``Settings.min_ttl``.
    """
    raw = on_behalf(raw, asker)
    packed, settings = codec.pack(raw), asker.settings
    largest = settings.max_request_bytes
    if len(packed) > largest and (size := wire.request_size(raw)) > largest:  # the first is quick, and never smaller
        raise refuse(errors.TooLarge, (size, largest))
    if len(packed) > codec.COMMAND_MAX:
        raise errors.TooLarge(f"a request of {len(packed)} bytes as it stands in the log; at most {codec.COMMAND_MAX} fit")
    if raw[0] != wire.PUT:
        _check_settings(raw, settings)
        if (refusal := features.refusal(raw, asker.level)) is not None:
            raise refusal
    return packed


def on_behalf(raw: Raw, asker: Asker) -> Raw:
    """Return an operation that says on whose behalf it is, where that is a user."""
    return raw if asker.subject is None else (wire.AS, *asker.subject, raw)


def _check_settings(raw: Raw, settings: Settings) -> None:
    operations, most = wire.count_operations(raw), settings.max_txn_ops
    if operations > most:
        raise refuse(errors.TooManyOps, (operations, most))
    ttl, shortest = wire.shortest_ttl(raw), settings.min_ttl
    if 0 < ttl < round(shortest * 1e6):
        raise ValueError(f"ttl is at least {shortest:g} seconds, two heartbeats of the cluster, not {ttl / 1e6:g}")


class Write(OnKeys[R]):
    """Replicate an operation."""

    __slots__ = ()

    def command(self, asker: Asker) -> bytes:
        """Pack the operation, within the cluster's limits."""
        return pack_command(self.packed(), asker)


class Read(OnKeys[R]):
    """Read this member's state, once it is as new as the caller wants.

    Args:
        query: what to read.
        prefix: of the namespace.
        consistency: how new it must be.
        max_staleness: seconds by which a local read may be behind; None: any.
        min_revision: that a local read must have reached; None: any.
    """

    __slots__ = ("consistency", "max_staleness", "min_revision")

    def __init__(
        self,
        query: Packable[R],
        prefix: bytes,
        consistency: str,
        max_staleness: float | None = None,
        min_revision: int | None = None,
    ) -> None:
        super().__init__(query, prefix)
        if consistency not in CONSISTENCIES:
            raise ValueError(f"consistency must be one of {', '.join(CONSISTENCIES)}, not {consistency!r}")
        bounded = max_staleness is not None or min_revision is not None
        if bounded and consistency != "local":
            raise ValueError('max_staleness= and min_revision= bound a local read: add consistency="local"')
        self.consistency = consistency
        self.max_staleness = None if max_staleness is None else to_seconds(max_staleness, "max_staleness")
        self.min_revision = 0 if min_revision is None else to_count(min_revision, "min_revision")

    def letter(self, number: int, asker: Asker) -> letters.Read:
        """Have a member read; local reads of one client don't go back in time, whichever member answers."""
        least = max(self.min_revision, asker.revision) if self.consistency == "local" else 0
        staleness = None if self.max_staleness is None else round(min(self.max_staleness, _LONGEST) * 1e6)
        return letters.Read(number, self.packed(), self.consistency, staleness, least)

    def permit(self, subject: Subject | None, machine: Machine) -> None:
        """Let it be read by those who may read all of it."""
        machine.auth.check(subject, self.packed(), machine.leases)

    def is_at_hand(self, node: Node) -> bool:
        """Tell whether the caller takes this member's state as it is."""
        return self._is_fresh(node) if self.consistency == "local" else self.consistency == "lease" and _leads(node, node.published)

    def at_once(self, node: Node) -> Any:
        """Read at once where the caller takes local state, or where this leader's lease holds (thesis §6.4.1)."""
        if self.consistency == "local":
            return read(node, self.packed()) if self._is_fresh(node) else NOT_YET
        if self.consistency == "lease":
            return under_lease(node, read, self.packed())
        return NOT_YET

    def _is_fresh(self, node: Node) -> bool:
        """Tell whether this member's state is as new as the caller wants; it only gets newer."""
        late = self.max_staleness is not None and node.clock() - node.fresh_at > self.max_staleness
        return not late and node.published.revision >= self.min_revision

    def answer(self, node: Node, call: Call) -> Raw:
        """Read, now that the barrier has been passed.

        Raises:
            TooStale: the whole cluster has not reached the revision asked for.
        """
        del call
        self._refuse_the_future(node)
        return read(node, self.packed())

    def _refuse_the_future(self, node: Node) -> None:
        if node.published.revision < self.min_revision:
            raise errors.TooStale(
                f"{node.name} is at revision {node.published.revision}, as is its cluster; {self.min_revision} does not exist"
            )

    @property
    def is_long(self) -> bool:
        """Whether it reads more than one key."""
        return not isinstance(self.operation, Get)

    def answer_in_steps(self, node: Node, call: Call | None) -> Generator[None, None, Any]:
        """Read in steps: at one revision, however much is written in between."""
        before, leased = node.published, call is None and self.consistency == "lease"
        if call is not None:
            self._refuse_the_future(node)
        elif not (_leads(node, before) if leased else self.consistency == "local" and self._is_fresh(node)):
            return NOT_YET
        raw = None
        while raw is None:
            published = node.published
            raw = yield from published.machine.read_in_steps(self.packed(), published.revision)
        return NOT_YET if leased and not _leads_still(node, before) else raw

    def meaning_in_steps(self, raw: Raw) -> Generator[None, None, R]:
        """Take the prefix off the pairs of a scan in steps; without one there is nothing to be done for each."""
        if not self.prefix or not isinstance(self.operation, Scan) or raw[0] != wire.OK or len(raw[2]) <= _STEP:
            return self.meaning(raw)
        before, records, behind = raw[:2], raw[2], raw[3:]
        kvs: list[KeyValue] = []
        for at in range(0, len(records), _STEP):
            part: Any = self.meaning((*before, records[at : at + _STEP], *behind))
            kvs += part.kvs
            yield
        return evolve(part, kvs=tuple(kvs))

    def expired(self, asker: Asker, *, untouched: bool) -> errors.ReplkvError:
        """Say how stale a local read would have been."""
        wanted = [] if self.max_staleness is None else [f"at most {self.max_staleness:g} s"]
        if self.min_revision:
            wanted.append(f"revision {self.min_revision}")
        if not wanted:
            return super().expired(asker, untouched=untouched)
        age, at = asker.age, asker.revision
        fresh = f"confirmed {age:.3f} s ago" if age < float("inf") else "not confirmed yet"
        return errors.TooStale(
            f"{asker.name}: its state is that of revision {at}, {fresh}; the call wants {' and '.join(wanted)}{asker.trouble}"
        )


def newest(node: Node, key: bytes) -> Record | None:
    """Return what a key holds in the newest state this member has published; on the caller's thread, without a lock."""
    while True:
        published = node.published
        store, revision = published.machine.store, published.revision
        record = store.newest.get(key)
        if record is None or record[MOD] > revision or record[VALUE] is None:  # else it is what get() returns: a call less for most reads
            record = store.get(key, revision)
        if revision >= store.removed_below:  # else a compaction outran it, and something newer has been published
            return record


def read(node: Node, packed: Raw) -> Raw:
    """Return what the newest state this member has published answers to an operation that reads; on the caller's thread."""
    if packed[0] == wire.GET and not packed[2]:
        return (wire.OK, newest(node, packed[1]))
    while True:
        published = node.published
        raw = published.machine.read(packed, published.revision)
        if raw is not None:  # else as above
            return raw


def under_lease(node: Node, look: Callable[[Node, Q], A], what: Q) -> A | Any:
    """Return what is found where this leader's lease holds before and after the look, else ``NOT_YET``."""
    before = node.published
    if not _leads(node, before):
        return NOT_YET
    found = look(node, what)
    return found if _leads_still(node, before) else NOT_YET


def _leads(node: Node, published: Published) -> bool:
    """Tell whether what the node has published is the newest there is, by its lease."""
    return published.applied >= published.commit and node.clock() < published.lease_until


def _leads_still(node: Node, before: Published) -> bool:
    """Tell whether that lease has held until now."""
    after = node.published
    return after.term == before.term and node.clock() < after.lease_until


class _HasReady(Protocol):
    """Knows whether a leader is known, and all it had committed."""

    @property
    def ready(self) -> bool: ...


class Wait(Plan[None]):
    """Wait for something; that it has come is the answer."""

    __slots__ = ()

    def answer(self, node: Node, call: Call) -> Raw:
        """Return nothing."""
        del node, call
        return _NOTHING

    def meaning(self, raw: Raw) -> None:
        """Return nothing."""
        del raw


class Ready(Wait):
    """Wait for a leader, and for all it had committed; with a timeout of 0 look whether that is so."""

    __slots__ = ("timeout",)

    def __init__(self, timeout: float | None) -> None:
        self.timeout = timeout

    def letter(self, number: int, asker: Asker) -> letters.Look:
        """Ask a member to wait."""
        del asker
        return letters.Look(number, letters.READY)

    def permit(self, subject: Subject | None, machine: Machine) -> None:
        """Tell every user."""
        machine.auth.check_user(subject)

    def is_at_hand(self, node: _HasReady) -> bool:
        """Tell whether it is so, and the caller does not want to wait."""
        return self.timeout == 0 and node.ready

    def at_once(self, node: _HasReady) -> Any:
        """Look, if the caller does not want to wait."""
        return _NOTHING if self.is_at_hand(node) else NOT_YET

    def expired(self, asker: Asker, *, untouched: bool) -> errors.ReplkvError:
        """Name who is missing."""
        del untouched
        reason = asker.trouble or "; all members are reachable, none leads yet"
        return errors.WaitTimeout(f"{asker.name} is not ready in time{reason}")


class Settled(Wait):
    """Wait until the configuration has those who are wanted."""

    __slots__ = ()
    looks = True

    def letter(self, number: int, asker: Asker) -> letters.Look:
        """Ask a member to wait."""
        del asker
        return letters.Look(number, letters.SETTLED)

    def permit(self, subject: Subject | None, machine: Machine) -> None:
        """Tell every user."""
        machine.auth.check_user(subject)

    def look(self, machine: Machine, time: int) -> Any:
        """Compare the two."""
        del time
        return () if is_settled(machine.configuration, machine.roster) else NOT_YET

    def expired(self, asker: Asker, *, untouched: bool) -> errors.ReplkvError:
        """Say how far it is."""
        del untouched
        return errors.WaitTimeout(f"{asker.name}: the change is decided, and goes on, but is not carried out yet{asker.trouble}")


class ChangeMembership(Write[None]):
    """Change who is wanted, and wait until the configuration says so, too."""

    __slots__ = ()
    sequel = Settled()


class Left(Settled):
    """Wait until a member is in the configuration no more.

    Args:
        name: of the member.
    """

    __slots__ = ("name",)

    permit = Plan.permit

    def __init__(self, name: str) -> None:
        self.name = name

    def look(self, machine: Machine, time: int) -> Any:
        """Look for it."""
        del time
        return NOT_YET if self.name in machine.configuration.members else ()


class Leave(Write[None]):
    """Have the member that is asked removed, and wait until it is.

    Args:
        name: of the member.
    """

    __slots__ = ("sequel",)

    def __init__(self, name: str) -> None:
        super().__init__(ChangeMembers(remove=(name,)))
        self.sequel = Left(name)

    def meaning(self, raw: Raw) -> None:
        """Return nothing, also where that was decided before."""
        with suppress(errors.MemberNotFound):
            super().meaning(raw)


class NewLeader(Wait):
    """Have leadership handed over, and wait until the member sees that it was.

    Args:
        to: who is to lead; None: anybody else.
    """

    __slots__ = ("to",)
    acts = True

    def __init__(self, to: str | None) -> None:
        self.to = to

    def letter(self, number: int, asker: Asker) -> letters.HandOver:
        """Ask a member to see to it."""
        del asker
        return letters.HandOver(number, self.to or "")

    def is_at_hand(self, node: Node) -> bool:
        """Tell whether it is so already."""
        return self.to is not None and node.raft is not None and node.raft.leader == self.to

    def at_once(self, node: Node) -> Any:
        """Look whether it is so already."""
        return _NOTHING if self.is_at_hand(node) else NOT_YET

    def wait(self, node: Node, call: Call) -> None:
        """Let the member see to it."""
        node.wish_for_leader(call, self.to)

    def expired(self, asker: Asker, *, untouched: bool) -> errors.ReplkvError:
        """Say who leads, and what is in the way."""
        del untouched
        leads = f"{asker.leader} still leads" if asker.leader else "no leader is known"
        what = "leadership was not handed over" + (f" to {self.to}" if self.to is not None else "")
        return errors.WaitTimeout(f"{asker.name}: {what} in time, {leads}{asker.trouble}; nothing else was changed")


class LeaseList(Plan[list[LeaseInfo]]):
    """List the leases; the node's thread only copies the list."""

    __slots__ = ()
    looks = True

    def letter(self, number: int, asker: Asker) -> letters.Look:
        """Ask a member."""
        del asker
        return letters.Look(number, letters.LEASES)

    def look(self, machine: Machine, time: int) -> Callable[[], Raw]:
        """Take hold of all leases."""
        leases = list(machine.leases)
        return lambda: tuple(machine.describe(lease, time) for lease in leases)

    def answer(self, node: Node, call: Call) -> Raw:
        """Describe them."""
        del node
        described: Raw = cast("Raw", call.answer)[1]()
        return (wire.OK, described)

    def meaning(self, raw: Raw) -> list[LeaseInfo]:
        """Put them in the order of their ids."""
        return sorted(LeaseInfo(*row) for row in raw[1])


class LeaseKeys(Plan[tuple[bytes, ...]]):
    """List the keys that hang on a lease, as far as they begin with a prefix, which is left out."""

    __slots__ = ("lease", "prefix")
    looks = True

    def __init__(self, lease: int, prefix: bytes) -> None:
        self.lease = lease
        self.prefix = prefix

    def letter(self, number: int, asker: Asker) -> letters.Look:
        """Ask a member."""
        del asker
        return letters.Look(number, letters.LEASE_KEYS, self.lease)

    def permit(self, subject: Subject | None, machine: Machine) -> None:
        """Let every user ask; what it may see is known when the keys are."""
        machine.auth.check_user(subject)

    def permit_answer(self, subject: Subject | None, machine: Machine, raw: Raw) -> None:
        """Let the keys be seen by those who may read all of them, also those outside of a namespace."""
        machine.auth.check_leased(subject, raw[1])

    def look(self, machine: Machine, time: int) -> tuple[bytes, ...]:
        """Take hold of the keys.

        Raises:
            LeaseNotFound: there is no such lease.
        """
        del time
        return tuple(machine.leases[self.lease].keys)

    def meaning(self, raw: Raw) -> tuple[bytes, ...]:
        """Put them in order."""
        return tuple(sorted(key[len(self.prefix) :] for key in raw[1] if key.startswith(self.prefix)))


def plan_for(operation: Any, prefix: bytes) -> Plan[Any]:
    """Return the plan for one operation: what can only read is not replicated.

    Args:
        operation: Put, Get, Scan, Delete, Add or Txn.
        prefix: of the namespace.

    Raises:
        TypeError: it is none; whatever got into the log unchecked would stop every member that applies it.
    """
    if isinstance(operation, (Put, Add, Delete)):  # most are
        return Write(operation, prefix)
    if isinstance(operation, (Get, Scan)) or (isinstance(operation, Txn) and operation.read_only):
        return Read(operation, prefix, "linearizable")
    if isinstance(operation, Txn):
        return Write(operation, prefix)
    raise TypeError(f"an operation is a Put, Get, Scan, Delete, Add or Txn, not {operation!r}")
