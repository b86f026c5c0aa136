"""Every call of replkv, defined once: its arguments, its meaning, its documentation.

A call builds a **plan** of what to do and hands it to ``_run``.  ``Replica`` runs a plan by blocking, ``AsyncReplica`` by awaiting; what
differs between the two is that one method.  The decorator ``operation`` does nothing when the program runs: it tells type checkers that
the same definition returns ``R`` on the one and an awaitable of ``R`` on the other.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Coroutine, Iterable
from enum import Enum
from typing import TYPE_CHECKING, Any, Concatenate, Final, Generic, Literal, ParamSpec, TypeAlias, TypeVar, overload

from replkv.ops import (
    Add,
    AddResult,
    Compare,
    Data,
    Delete,
    DeleteResult,
    Get,
    KeyValue,
    Operation,
    Put,
    PutResult,
    Scan,
    ScanResult,
    Txn,
    TxnResult,
)
from replkv.plans import Plan, Read, Ready, Write, plan_for

P = ParamSpec("P")
R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)


class _Unset(Enum):
    DEFAULT = "Config.timeout"


DEFAULT: Final = _Unset.DEFAULT
"""The timeout of operations that don't say: ``Config.timeout``."""

Timeout: TypeAlias = float | Literal[_Unset.DEFAULT] | None
"""Seconds; None waits without limit, 0 does not wait."""

Consistency: TypeAlias = Literal["linearizable", "lease", "local"]


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


class Surface:
    """The calls on keys, as ``Replica`` and ``AsyncReplica`` both have them.

    All of them raise ``Closed`` once the member is closed, the error that stopped it (a ``StorageError``, ``InvariantBroken``) once it has
    stopped by itself, ``ForkedProcess`` in a forked child, and ``NoLeader`` when no leader could be reached within ``timeout``.  Calls that
    write raise ``OutcomeUnknown`` instead when the write had been handed over.
    """

    @abstractmethod
    def _run(self, plan: Plan[R], timeout: Timeout) -> Plan[R]:
        """Carry out a plan, each facade in its way; typed as what ``operation`` promises."""

    @operation
    def put(self, key: Data, value: Data, *, prev_kv: bool = False, timeout: Timeout = DEFAULT) -> Plan[PutResult]:
        """Store a value under a key.

        Args:
            key: bytes or text, not empty.
            value: bytes or text.
            prev_kv: return the pair that is replaced.
            timeout: seconds.

        Returns:
            The revision the put made, and the pair it replaced if that was asked for.

        Raises:
            TypeError, ValueError: a bad key or value; nothing was sent.
            TooLarge: key and value exceed ``Settings.max_request_bytes``.
            OutcomeUnknown: handed over, and no answer in time.
        """
        return self._run(Write(Put(key, value, prev_kv=prev_kv)), timeout)

    @operation
    def get(
        self, key: Data, *, revision: int | None = None, consistency: Consistency = "linearizable", timeout: Timeout = DEFAULT
    ) -> Plan[KeyValue | None]:
        """Read one key.

        Args:
            key: bytes or text, not empty.
            revision: read as of this revision; None is the newest.
            consistency: "linearizable" sees every write that was acknowledged before (one round trip, no clock is trusted); "lease" is
                answered from the leader's memory while its lease holds, else as "linearizable"; "local" is this member's own state,
                possibly old, without any network.
            timeout: seconds.

        Returns:
            The pair, or None where there is no such key.  O(1), at an old revision O(log versions of the key).

        Raises:
            Compacted, FutureRevision: the revision is not kept any more, or does not exist yet.
        """
        return self._run(Read(Get(key, revision=revision), consistency), timeout)

    @operation
    def scan(
        self,
        key: Data | None = None,
        *,
        prefix: Data | None = None,
        start: Data | None = None,
        end: Data | None = None,
        limit: int = 0,
        revision: int | None = None,
        keys_only: bool = False,
        count_only: bool = False,
        consistency: Consistency = "linearizable",
        timeout: Timeout = DEFAULT,
    ) -> Plan[ScanResult]:
        """Read a span of keys in order, all at one revision.

        Args:
            key: exactly this key.
            prefix: all keys that begin with it.
            start: all keys from this one on, up to but without ``end`` where that is given.  Without any of these: every key.
            end: see ``start``.
            limit: at most so many pairs; 0 is no limit.
            revision: read as of this revision; None is the newest.
            keys_only: leave the values empty.
            count_only: return no pairs, only their count.
            consistency: as for ``get``.
            timeout: seconds.

        Returns:
            The pairs, their count before the limit, whether the limit cut them, and the store's revision.  O(log keys + keys in the span).

        Raises:
            Compacted, FutureRevision: the revision is not kept any more, or does not exist yet.
        """
        query = Scan(key, prefix=prefix, start=start, end=end, limit=limit, revision=revision, keys_only=keys_only, count_only=count_only)
        return self._run(Read(query, consistency), timeout)

    @operation
    def delete(
        self,
        key: Data | None = None,
        *,
        prefix: Data | None = None,
        start: Data | None = None,
        end: Data | None = None,
        prev_kv: bool = False,
        timeout: Timeout = DEFAULT,
    ) -> Plan[DeleteResult]:
        """Delete a key or a span of keys, at one revision.

        Args:
            key: exactly this key.
            prefix: all keys that begin with it; not empty.
            start: all keys from this one on, up to but without ``end`` where that is given.
            end: see ``start``.
            prev_kv: return the pairs that are deleted.
            timeout: seconds.

        Returns:
            How many keys were deleted, and the revision; where none was, no revision is made.  O(log keys + keys deleted).

        Raises:
            ValueError: no span, or an empty prefix: nothing is deleted by omission.
            OutcomeUnknown: handed over, and no answer in time.
        """
        return self._run(Write(Delete(key, prefix=prefix, start=start, end=end, prev_kv=prev_kv)), timeout)

    @operation
    def add(self, key: Data, delta: int = 1, *, timeout: Timeout = DEFAULT) -> Plan[AddResult]:
        """Add to an integer counter in one command: contenders don't conflict, and each addition counts exactly once.

        Args:
            key: of the counter, a decimal text; a missing one counts as 0.
            delta: 64 bits, may be negative.
            timeout: seconds.

        Returns:
            The new value, and the revision that made it.

        Raises:
            NotACounter: the value is no decimal integer, or would leave the range of 64 bits; nothing was changed.
            OutcomeUnknown: handed over, and no answer in time.
        """
        return self._run(Write(Add(key, delta)), timeout)

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
            TooLarge, NotACounter, Compacted, FutureRevision: of an operation in it; nothing was changed.
            OutcomeUnknown: handed over, and no answer in time.
        """
        return self._run(plan_for(Txn(compare=compare, then=then, otherwise=otherwise)), timeout)

    @operation
    def wait_ready(self, timeout: float | None = None) -> Plan[None]:
        """Wait until this member knows a leader and is up to date.

        Args:
            timeout: seconds; None waits without limit, 0 does not wait.

        Raises:
            WaitTimeout: not in time; the text names the members that can't be reached.
        """
        return self._run(Ready(timeout), timeout)
