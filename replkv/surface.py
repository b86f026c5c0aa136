"""Every call of replkv, defined once: its arguments, its meaning, its documentation.

A call builds a **plan** of what to do and hands it to ``_run``.  ``Replica`` runs a plan by blocking, ``AsyncReplica`` by awaiting; what
differs between the two is that one method, and the kinds of handles they give out.  The decorator ``operation`` does nothing when the
program runs: it tells type checkers that the same definition returns ``R`` on the one and an awaitable of ``R`` on the other.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Coroutine, Iterable
from enum import Enum
from typing import TYPE_CHECKING, Any, Concatenate, Final, Generic, Literal, ParamSpec, TypeAlias, TypedDict, TypeVar, overload

from replkv.ops import Add, Compact, Compare, Delete, Fenced, Get, Keep, LeaseLike, Operation, Put, Scan, SortBy, Txn
from replkv.plans import LeaseList, Plan, Read, Ready, Write, plan_for
from replkv.values import (
    AddResult,
    Data,
    DeleteResult,
    EventKind,
    KeyValue,
    LeaseInfo,
    PutResult,
    ScanResult,
    Span,
    TxnResult,
    to_bytes,
    to_count,
    to_key,
)

if TYPE_CHECKING:
    from concurrent.futures import Future

    from replkv.engine import Engine

P = ParamSpec("P")
R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)
W = TypeVar("W")
L = TypeVar("L")


class _Unset(Enum):
    DEFAULT = "Config.timeout"


DEFAULT: Final = _Unset.DEFAULT
"""The timeout of operations that don't say: ``Config.timeout``."""

Timeout: TypeAlias = float | Literal[_Unset.DEFAULT] | None
"""Seconds; None waits without limit, 0 does not wait."""

Consistency: TypeAlias = Literal["linearizable", "lease", "local"]


_AT_HAND: Final = ("local", "lease")
"""Consistencies of reads that this process may answer by itself."""


class Blocking:
    """Marks a surface on which a call returns its result."""


class Awaiting:
    """Marks a surface on which a call returns an awaitable of its result."""


if TYPE_CHECKING:

    class operation(Generic[P, R_co]):  # noqa: N801  # a decorator
        """The type of a call: what it returns depends on whose call it is."""

        def __init__(self, define: Callable[Concatenate[Any, P], Plan[R_co]]) -> None: ...
        @overload
        def __get__(self, surface: Blocking, kind: type) -> Callable[P, R_co]: ...
        @overload
        def __get__(self, surface: Awaiting, kind: type) -> Callable[P, Coroutine[None, None, R_co]]: ...
        @overload
        def __get__(self, surface: None, kind: type) -> Callable[Concatenate[Any, P], Any]: ...
        def __get__(self, surface: object, kind: type) -> Any: ...

else:

    def operation(define: Callable[..., Any]) -> Callable[..., Any]:
        """Return the call as it stands; what it says it returns is what the caller gets, not the plan of it."""
        define.__annotations__["return"] = define.__annotations__["return"].removeprefix("Plan[").removesuffix("]")
        return define


class _Order(TypedDict):
    """What of a span ``Scan`` returns, and in which order."""

    sort_by: SortBy
    descending: bool
    keys_only: bool
    count_only: bool


class _Bounds(TypedDict):
    """Which revisions ``Scan`` leaves out."""

    min_mod_revision: int | None
    max_mod_revision: int | None
    min_create_revision: int | None
    max_create_revision: int | None


class Surface(Generic[W, L]):
    """The calls on keys, as ``Replica`` and ``AsyncReplica`` both have them; ``W`` and ``L`` are their kinds of watches and leases.

    All of them raise ``Closed`` once the member is closed, the error that stopped it (a ``StorageError``, ``InvariantBroken``) once it has
    stopped by itself, ``ForkedProcess`` in a forked child, and ``NoLeader`` when no leader could be reached within ``timeout``.  Calls that
    write raise ``OutcomeUnknown`` instead when the write had been handed over, and ``Overloaded`` when more is under way than
    ``Config`` allows.
    """

    _prefix = b""
    """Stands before every key: that of a namespace."""

    @abstractmethod
    def _run(self, plan: Plan[R], timeout: Timeout) -> Plan[R]:
        """Carry out a plan, each facade in its way; typed as what ``operation`` promises."""

    def _get(self, key: bytes, consistency: str, prefix: bytes) -> Plan[KeyValue | None]:
        """Carry out the plan for a ``get`` of the newest; a facade spares itself the plan where the answer is at hand."""
        return self._run(Read(Get(key), prefix, consistency), DEFAULT)

    @abstractmethod
    def _submit(self, plan: Plan[R]) -> Future[R]:
        """Hand a plan over and return at once."""

    @abstractmethod
    def _engine(self) -> Engine:
        """Return what carries calls out, if it may be used here."""

    @abstractmethod
    def _watch(self, span: Span, start_revision: int | None, kinds: Iterable[EventKind], flags: dict[str, bool]) -> W:
        """Open a watch; the arguments are those of ``watch``, the span is in the namespace."""

    @abstractmethod
    def _lease(self, ttl: float | None, number: int | None, *, keep_alive: bool, timeout: Timeout) -> L:
        """Make a handle of a lease, granted or about to be."""

    # -- writing -------------------------------------------------------------------------------------------------------------------

    @operation
    def put(
        self,
        key: Data,
        value: Data | Keep,
        *,
        lease: LeaseLike | Keep | None = None,
        ttl: float | None = None,
        prev_kv: bool = False,
        if_mod_revision: int | None = None,
        guard: Fenced | None = None,
        timeout: Timeout = DEFAULT,
    ) -> Plan[PutResult]:
        """Store a value under a key.

        Args:
            key: bytes or text, not empty.
            value: bytes or text; ``KEEP`` leaves the value as it is, which makes a new version all the same.
            lease: the lease the key hangs on from now on, a handle or its id; ``KEEP``: the one it has; None: none.
            ttl: seconds after which the key is deleted, unless it is put again before; not together with ``lease``.
            prev_kv: return the pair that is replaced.
            if_mod_revision: store only if the key was last changed at this revision; 0: only if it does not exist.
            guard: store only while this is held: a lock or a term, or what its ``guard()`` returned.  That is decided where the put is
                carried out, so that it can't come too late.
            timeout: seconds.

        Returns:
            The revision the put made, and the pair it replaced if that was asked for.

        Raises:
            TypeError, ValueError: a bad argument; nothing was sent.
            TooLarge: key and value exceed ``Settings.max_request_bytes``.
            QuotaExceeded: there is no room within ``Settings.max_bytes``; deletes and compaction make some.
            Conflict: the key is not at ``if_mod_revision``; the error's ``current`` is what it holds.
            LockLost: ``guard`` is not held any more.
            KeyNotFound: something was to be kept, and there is no such key.
            LeaseNotFound: there is no such lease (any more).
            OutcomeUnknown: handed over, and no answer in time.
        """
        put = Put(key, value, lease=lease, ttl=ttl, prev_kv=prev_kv, if_mod_revision=if_mod_revision, guard=guard)
        return self._run(Write(put, self._prefix), timeout)

    @operation
    def delete(
        self,
        key: Data | None = None,
        *,
        prefix: Data | None = None,
        start: Data | None = None,
        end: Data | None = None,
        prev_kv: bool = False,
        if_mod_revision: int | None = None,
        guard: Fenced | None = None,
        timeout: Timeout = DEFAULT,
    ) -> Plan[DeleteResult]:
        """Delete a key or a span of keys, at one revision.

        Args:
            key: exactly this key.
            prefix: all keys that begin with it; not empty.
            start: all keys from this one on, up to but without ``end`` where that is given.
            end: see ``start``.
            prev_kv: return the pairs that are deleted.
            if_mod_revision: delete the one key only if it was last changed at this revision.
            guard: delete only while this is held: a lock or a term, or what its ``guard()`` returned.
            timeout: seconds.

        Returns:
            How many keys were deleted, and the revision; where none was, no revision is made.  O(log keys + keys deleted).

        Raises:
            TypeError, ValueError: a bad argument; no span, or an empty prefix: nothing is deleted by omission.
            TooLarge: the keys that are named exceed ``Settings.max_request_bytes``.
            Conflict: the key is not at ``if_mod_revision``; the error's ``current`` is what it holds.
            LockLost: ``guard`` is not held any more.
            OutcomeUnknown: handed over, and no answer in time.
        """
        delete = Delete(key, prefix=prefix, start=start, end=end, prev_kv=prev_kv, if_mod_revision=if_mod_revision, guard=guard)
        return self._run(Write(delete, self._prefix), timeout)

    @operation
    def add(self, key: Data, delta: int = 1, *, timeout: Timeout = DEFAULT) -> Plan[AddResult]:
        """Add to an integer counter in one command: contenders don't conflict, and each addition counts exactly once.

        Args:
            key: of the counter, a decimal text; a missing one counts as 0.  The lease it may have stays.
            delta: 64 bits, may be negative.
            timeout: seconds.

        Returns:
            The new value, and the revision that made it.

        Raises:
            TypeError, ValueError: a bad argument; nothing was sent.
            TooLarge: the key exceeds ``Settings.max_request_bytes``.
            NotACounter: the value is no decimal integer, or would leave the range of 64 bits; nothing was changed.
            QuotaExceeded: there is no room within ``Settings.max_bytes``.
            OutcomeUnknown: handed over, and no answer in time.
        """
        return self._run(Write(Add(key, delta), self._prefix), timeout)

    @operation
    def txn(
        self,
        *,
        compare: Iterable[Compare] = (),
        then: Iterable[Operation] = (),
        otherwise: Iterable[Operation] = (),
        timeout: Timeout = DEFAULT,
    ) -> Plan[TxnResult]:
        """Do ``then`` if all conditions hold, ``otherwise`` if not: at one revision, all of it or nothing.

        Args:
            compare: conditions such as ``Key("a").version == 1``; all are judged before anything is done.
            then: operations, done in their order; each sees what those before it did.
            otherwise: the operations for the other case.
            timeout: seconds.

        Returns:
            Which branch was taken, the revision, and the answers of its operations; its truth is whether ``then`` was.

        Raises:
            TypeError, ValueError: what is listed is none of these, or nested too deep; nothing was sent.
            DuplicateKey: a key would be written twice on one path.
            TooManyOps: more than ``Settings.max_txn_ops`` in one list.
            TooLarge, QuotaExceeded, NotACounter, Conflict, LockLost, KeyNotFound, LeaseNotFound, Compacted, FutureRevision: of an
                operation in it; nothing was changed.
            OutcomeUnknown: handed over, and no answer in time.
        """
        return self._run(plan_for(Txn(compare=compare, then=then, otherwise=otherwise), self._prefix), timeout)

    @operation
    def compact(self, revision: int, *, timeout: Timeout = DEFAULT) -> Plan[None]:
        """Forget the history before a revision, on all members; what is visible at it or later stays.

        The cluster does so by itself as ``Settings.compact_age``, ``compact_revisions`` and ``compact_bytes`` say.

        Args:
            revision: the oldest one that can be read afterwards.
            timeout: seconds.

        Raises:
            TypeError, ValueError: no revision.
            Compacted: that was done before, for this revision or a later one.
            FutureRevision: the revision does not exist yet.
            OutcomeUnknown: handed over, and no answer in time.
        """
        return self._run(Write(Compact(to_count(revision, "revision"))), timeout)

    # -- reading -------------------------------------------------------------------------------------------------------------------

    @operation
    def get(
        self,
        key: Data,
        *,
        revision: int | None = None,
        consistency: Consistency = "linearizable",
        max_staleness: float | None = None,
        min_revision: int | None = None,
        timeout: Timeout = DEFAULT,
    ) -> Plan[KeyValue | None]:
        """Read one key.

        Args:
            key: bytes or text, not empty.
            revision: read as of this revision; None is the newest.
            consistency: "linearizable" sees every write that was acknowledged before (one round trip, no clock is trusted); "lease" is
                answered from the leader's memory while its lease holds, else as "linearizable"; "local" is this member's own state,
                possibly old, without any network.
            max_staleness: of a local read: it sees every write that was acknowledged so many seconds ago or earlier.  Where this member
                can't vouch for that it asks the leader; for some seconds after such a read it keeps asking four times a second.
            min_revision: of a local read: it sees this revision, asking the leader if it must; a revision that some read or write
                returned makes reads on several members follow one another.
            timeout: seconds.

        Returns:
            The pair, or None where there is no such key.  O(1), at an old revision O(log versions of the key).

        Raises:
            TypeError, ValueError: a bad argument; a revision of 0 is one.
            Compacted, FutureRevision: the revision is not kept any more, or does not exist yet.
            TooStale: this member did not become as new as ``max_staleness`` and ``min_revision`` want in time.
        """
        if consistency in _AT_HAND and revision is max_staleness is min_revision is None and timeout is DEFAULT:  # most are
            return self._get(key if type(key) is bytes and key else to_key(key), consistency, self._prefix)
        return self._run(Read(Get(key, revision=revision), self._prefix, consistency, max_staleness, min_revision), timeout)

    @operation
    def scan(  # noqa: D417  # some arguments are described together
        self,
        key: Data | None = None,
        *,
        prefix: Data | None = None,
        start: Data | None = None,
        end: Data | None = None,
        limit: int = 0,
        revision: int | None = None,
        sort_by: SortBy = "key",
        descending: bool = False,
        keys_only: bool = False,
        count_only: bool = False,
        min_mod_revision: int | None = None,
        max_mod_revision: int | None = None,
        min_create_revision: int | None = None,
        max_create_revision: int | None = None,
        consistency: Consistency = "linearizable",
        max_staleness: float | None = None,
        min_revision: int | None = None,
        timeout: Timeout = DEFAULT,
    ) -> Plan[ScanResult]:
        """Read a span of keys in order, all at one revision.

        Args:
            key: exactly this key.
            prefix: all keys that begin with it.
            start, end: all keys from ``start`` on, up to but without ``end`` where that is given.  Without any of these: every key.
            limit: at most so many pairs, after sorting; 0 is no limit.
            revision: read as of this revision; None is the newest.
            sort_by: "key", "version", "create", "mod" or "value"; equal ones in the order of their keys.  "create_revision" and
                "mod_revision" are "create" and "mod".
            descending: the largest first.
            keys_only: leave the values empty.
            count_only: return no pairs, only their count.
            min_mod_revision, max_mod_revision: leave out what was changed before the one or after the other.
            min_create_revision, max_create_revision: leave out what was created before the one or after the other.
            consistency, max_staleness, min_revision: as for ``get``.
            timeout: seconds.

        Returns:
            The pairs; how many keys the span has, whatever limit and revisions; whether the limit cut some off; the store's revision.
            O(log keys + keys in the span), with n log n if they are sorted.

        Raises:
            TypeError, ValueError: a bad argument; a revision of 0 is one, also as a bound.
            Compacted, FutureRevision: the revision is not kept any more, or does not exist yet.
            TooStale: as for ``get``.
        """
        order: _Order = {"sort_by": sort_by, "descending": descending, "keys_only": keys_only, "count_only": count_only}
        bounds: _Bounds = {
            "min_mod_revision": min_mod_revision,
            "max_mod_revision": max_mod_revision,
            "min_create_revision": min_create_revision,
            "max_create_revision": max_create_revision,
        }
        query = Scan(key, prefix=prefix, start=start, end=end, limit=limit, revision=revision, **order, **bounds)
        return self._run(Read(query, self._prefix, consistency, max_staleness, min_revision), timeout)

    def watch(
        self,
        key: Data | None = None,
        *,
        prefix: Data | None = None,
        start: Data | None = None,
        end: Data | None = None,
        start_revision: int | None = None,
        initial: bool = False,
        prev_kv: bool = False,
        kinds: Iterable[EventKind] = ("put", "delete"),
        progress: bool = False,
    ) -> W:
        """Follow the changes of a span of keys: each once, in the order of their revisions, with none missing.

        Nothing is sent: a watch reads this member's own history, so it works without a quorum, and costs nobody anything.  That of a
        client is read by its member, and goes on at another one when that is lost.

        Args:
            key: exactly this key.
            prefix: all keys that begin with it.
            start: all keys from this one on, up to but without ``end`` where that is given.  Without any of these: every key.
            end: see ``start``.
            start_revision: the first revision whose changes are wanted, past or yet to come; None: the next one.
            initial: yield the present state as puts first, then one ``Synced``, then what changes.
            prev_kv: have each event tell what the key held before.
            kinds: "put", "delete" or both.
            progress: yield ``Progress`` after ``Config.progress_interval`` seconds without anything else.

        Returns:
            An iterator of ``Event``, ``Synced`` and ``Progress``.  It raises ``Compacted`` when the history it needs is not kept any more.
            It does not keep the member alive: see to it that somebody refers to that.

        Raises:
            TypeError, ValueError: a bad argument.
        """
        span = Span.of(key, prefix=prefix, start=start, end=end)
        flags = {"initial": initial, "prev_kv": prev_kv, "progress": progress}
        return self._watch(span.below(self._prefix) if self._prefix else span, start_revision, kinds, flags)

    def submit(self, operation: Operation) -> Future[Any]:
        """Hand an operation over and return at once; many may be in flight, and those in flight together have no order.

        Args:
            operation: ``Put``, ``Get``, ``Scan``, ``Delete``, ``Add`` or ``Txn``.

        Returns:
            A future of what the call of the same name returns; it fails as that does, after ``Config.timeout`` at the latest.  Its
            callbacks run on a thread of their own, not on the one that decides.  All futures of a member share it: a callback must not
            wait for another of them in any way, by ``result()``, which refuses that, or by ``concurrent.futures.wait()``, which can't.

        Raises:
            TypeError: no operation.
            TooLarge, TooManyOps, ValueError: the cluster's settings forbid it.
            Overloaded: more is under way than ``Config`` allows; a ``Replica`` with ``overload="block"`` waits for room first.
            Closed, StorageError, ForkedProcess: this member can't be used.
        """
        return self._submit(plan_for(operation, self._prefix))

    # -- leases --------------------------------------------------------------------------------------------------------------------

    def lease(
        self,
        ttl: float | None = None,
        *,
        id: int | None = None,  # noqa: A002  # etcd's word
        keep_alive: bool = True,
        timeout: Timeout = DEFAULT,
    ) -> L:
        """Make a lease, or take over one that exists: keys put with it are deleted together when it ends.

        Args:
            ttl: seconds it lives without being kept alive, from ``Settings.min_ttl`` to ten years; None takes over the lease ``id``.
            id: its number; None lets the cluster choose one.
            keep_alive: keep it alive as long as this member runs, or until it is revoked; else it ends when ``ttl`` is over, or
                ``renew()`` begins it anew.
            timeout: seconds.

        Returns:
            A handle of it; ``with`` revokes it at the end of the block.

        Raises:
            TypeError, ValueError: a bad argument, a ttl outside these bounds, or neither ``ttl`` nor ``id``; nothing was sent.
            LeaseExists: there is a lease of this id already.
            LeaseNotFound: the lease to take over does not exist; or the lease was over before its caller learnt of it.
            QuotaExceeded: there is no room within ``Settings.max_bytes``.
            OutcomeUnknown: handed over, and no answer in time; if it was granted it ends by itself, or is revoked.  The error's ``wait``
                returns the handle, or raises ``LeaseNotFound`` when it comes too late for the lease.
        """
        return self._lease(ttl, id, keep_alive=keep_alive, timeout=timeout)

    @operation
    def leases(self, *, timeout: Timeout = DEFAULT) -> Plan[list[LeaseInfo]]:
        """List all leases of the cluster in the order of their ids; linearizable.

        Args:
            timeout: seconds.

        Returns:
            Of each its id, its ttl, the seconds that are left at the least, how many keys hang on it, and whether a process keeps it
            alive.  Linear in their number.
        """
        return self._run(LeaseList(), timeout)

    @operation
    def wait_ready(self, timeout: float | None = None) -> Plan[None]:
        """Wait until this member knows a leader and is up to date.

        Args:
            timeout: seconds; None waits without limit, 0 does not wait.

        Raises:
            TypeError, ValueError: no timeout.
            WaitTimeout: not in time; the text names the members that can't be reached.
        """
        return self._run(Ready(timeout), timeout)


def to_prefix(outer: bytes, prefix: Data) -> bytes:
    """Return the prefix of a namespace within another.

    Raises:
        TypeError: neither bytes nor text.
        ValueError: empty.
    """
    inner = to_bytes(prefix, "prefix")
    if not inner:
        raise ValueError("a namespace needs a prefix that is not empty")
    return outer + inner
