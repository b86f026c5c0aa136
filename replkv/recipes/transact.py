"""Transactions as functions: reads see one state, writes are kept back, and all of it is committed at once or done again.

A transaction reads this member's own memory, so it costs one write of the cluster however much it reads.  It is optimistic: the commit
is a ``txn`` whose conditions say that what was read is still so.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine
from functools import wraps
from inspect import isawaitable, iscoroutine
from random import Random
from typing import TYPE_CHECKING, Any, Concatenate, Final, ParamSpec, TypeVar, overload

from replkv.errors import Compacted, Conflict, ReplkvError
from replkv.immediate import run
from replkv.ops import Add, Delete, Fenced, Key, LeaseLike, Put
from replkv.recipes.base import Recipe, recipe
from replkv.surface import Awaiting, Blocking
from replkv.txn import added
from replkv.values import Data, KeyValue, Span, TxnResult, to_count, to_key, to_value

if TYPE_CHECKING:
    from replkv.ops import Compare
    from replkv.surface import Surface

P = ParamSpec("P")
R = TypeVar("R")

RETRIES: Final = 100
"""How often a transaction is done again if nothing else is said."""

PAUSE: Final = (0.001, 0.1)
"""Seconds of the first pause before it is done again, and of the longest: each is at most twice as long as the one before."""


class _Transaction(Recipe):
    """What a transaction's function reads and writes.

    All reads see the store at one revision, with the transaction's own writes on top.  Writes take no call: they are kept until the
    function returns.  Of several writes to one key the last one counts, and additions add up.  A pair that the transaction has written
    itself has revisions and version 0, for it is not committed yet.
    """

    def __init__(self, surface: Surface[Any, Any], least: int) -> None:
        super().__init__(surface)
        self._least = least  # the revision it must see
        self._snapshot: int | None = None  # the one it sees
        self._read: dict[bytes, KeyValue | None] = {}
        self._spans: list[Span] = []
        self._writes: dict[bytes, Put | Delete | Add] = {}
        self._outdated = False
        self._over = False

    # -- reading -------------------------------------------------------------------------------------------------------------------

    @recipe
    async def get(self, key: Data) -> KeyValue | None:
        """Read one key.

        Args:
            key: bytes or text, not empty.

        Returns:
            The pair, or None where there is no such key.

        Raises:
            TypeError, ValueError: a bad argument.
            NotACounter: the transaction has added to what is none.
            Compacted, TooStale, Closed: the state that the transaction sees can't be read.
        """
        name = to_key(key)
        write = self._writes.get(name)
        if isinstance(write, (Put, Delete)):
            return _seen_through(write, None)
        if name not in self._read:
            found = await self._look(Span.of(name))
            self._read[name] = found[0] if found else None
        return _seen_through(write, self._read[name])

    @recipe
    async def scan(
        self,
        key: Data | None = None,
        *,
        prefix: Data | None = None,
        start: Data | None = None,
        end: Data | None = None,
        limit: int = 0,
        descending: bool = False,
    ) -> list[KeyValue]:
        """Read a span of keys in their order.

        The commit has a condition for each pair that was read, so ``Settings.max_txn_ops`` bounds how many that may be.

        Args:
            key: exactly this key.
            prefix: all keys that begin with it.
            start: all keys from this one on, up to but without ``end`` where that is given.  Without any of these: every key.
            end: see ``start``.
            limit: at most so many pairs; 0 is no limit.
            descending: the last keys first.

        Raises:
            TypeError, ValueError: a bad argument.
            NotACounter, Compacted, TooStale, Closed: as ``get``.
        """
        span = Span.of(key, prefix=prefix, start=start, end=end)
        own = [name for name in self._writes if _has(span, name)]
        most = to_count(limit, "limit") and limit + len(own)  # so many may be hidden
        found = await self._look(span, most, descending=descending)
        if most and len(found) == most:  # what is behind the last one was not looked at
            last = found[-1].key
            span = Span(last, span.end) if descending else Span(span.start, last + b"\x00")
        self._spans.append(span)
        self._read.update((kv.key, kv) for kv in found)
        pairs: dict[bytes, KeyValue | None] = {kv.key: kv for kv in found}
        for name in own:
            if _has(span, name):
                pairs[name] = _seen_through(self._writes[name], pairs.get(name))
        shown = sorted((kv for kv in pairs.values() if kv is not None), reverse=descending)
        return shown[:limit] if limit else shown

    async def _look(self, span: Span, limit: int = 0, *, descending: bool = False) -> tuple[KeyValue, ...]:
        self._ensure_open()
        at, least = self._snapshot, self._least
        try:
            found = await self._calls.scan(
                start=span.start, end=span.end, limit=limit, descending=descending, revision=at, consistency="local", min_revision=least
            )
        except Compacted:
            self._outdated = True  # whatever the function makes of it
            raise
        if self._snapshot is None:
            self._snapshot = self._least = found.revision
        return found.kvs

    # -- writing -------------------------------------------------------------------------------------------------------------------

    def put(self, key: Data, value: Data, *, lease: LeaseLike | None = None, ttl: float | None = None, guard: Fenced | None = None) -> None:
        """Store a value when the transaction is committed.

        Args:
            key: bytes or text, not empty.
            value: bytes or text.
            lease: the lease the key hangs on from then on; None: none.
            ttl: seconds after which the key is deleted; not together with ``lease``.
            guard: commit only while this is held; else nothing is written, and ``LockLost`` is raised.  It stays the guard of later
                writes to the key that name none.

        Raises:
            TypeError, ValueError: a bad argument.
        """
        self._write(Put(key, to_value(value), lease=lease, ttl=ttl, guard=self._guard(key, guard)))

    def delete(self, key: Data, *, guard: Fenced | None = None) -> None:
        """Delete a key when the transaction is committed; for a span, delete what ``scan`` returns.

        Args:
            key: bytes or text, not empty.
            guard: as for ``put``.

        Raises:
            TypeError, ValueError: a bad argument.
        """
        self._write(Delete(key, guard=self._guard(key, guard)))

    def add(self, key: Data, delta: int = 1) -> None:
        """Add to an integer counter when the transaction is committed; where it is not read, others that add do not conflict.

        Args:
            key: of the counter, a decimal text; a missing one counts as 0.
            delta: 64 bits, may be negative.

        Raises:
            TypeError, ValueError: a bad argument, or additions that leave 64 bits.
            NotACounter: the transaction has put something else there itself.
        """
        addition = Add(key, delta)
        before = self._writes.get(addition.key)
        if isinstance(before, Add):
            self._write(Add(key, before.delta + delta))
        elif isinstance(before, Put):
            total, ttl = b"%d" % added(before.key, before.value, delta), before.ttl / 1e6 if before.ttl else None
            self._write(Put(key, total, lease=before.lease or None, ttl=ttl, guard=before.guard))
        elif isinstance(before, Delete):
            self._write(Put(key, b"%d" % delta, guard=before.guard))
        else:
            self._write(addition)

    def _guard(self, key: Data, guard: Fenced | None) -> Fenced | None:
        before = self._writes.get(to_key(key))
        return before.guard if guard is None and isinstance(before, (Put, Delete)) else guard

    def _write(self, operation: Put | Delete | Add) -> None:
        self._ensure_open()
        self._writes[operation.span.start if isinstance(operation, Delete) else operation.key] = operation

    def _ensure_open(self) -> None:
        if self._over:
            raise RuntimeError("this transaction is over: use it within its function only")

    # -- the end -------------------------------------------------------------------------------------------------------------------

    def _conditions(self) -> list[Compare]:
        """Return the conditions that what was read is still so: each key as it was, and nothing newer in the spans."""
        keys = [Key(key).mod_revision == (0 if kv is None else kv.mod_revision) for key, kv in self._read.items()]
        return keys + [Key(start=span.start, end=span.end).mod_revision < self._least + 1 for span in self._spans]

    async def _commit(self, *, write: bool) -> TxnResult | None:
        """Have the cluster decide; None: there is nothing to decide.

        Where nothing is to be written it confirms what was read, as a linearizable read does.
        """
        conditions, writes = self._conditions(), list(self._writes.values()) if write else []
        if not conditions and not writes:
            return None
        return await self._calls.txn(compare=conditions, then=writes)


def _has(span: Span, key: bytes) -> bool:
    return span.start <= key and (span.end is None or key < span.end)


def _seen_through(write: Put | Delete | Add | None, below: KeyValue | None) -> KeyValue | None:
    """Return a pair as a transaction sees it that has written to it."""
    if write is None:
        return below
    if isinstance(write, Delete):
        return None
    if isinstance(write, Put):
        return KeyValue(write.key, write.value or b"", 0, 0, 0, write.lease or 0)
    value = added(write.key, None if below is None else below.value, write.delta)
    return KeyValue(write.key, b"%d" % value, 0, 0, 0, 0 if below is None else below.lease)


class Transaction(_Transaction, Blocking):
    """What a transaction's function reads and writes, for threads; see ``_Transaction``."""


class AsyncTransaction(_Transaction, Awaiting):
    """What a transaction's function reads and writes, for asyncio: reads are awaited, writes are not; see ``_Transaction``."""


class _Transact(Recipe):
    """Run a function as a transaction: what it reads is one state, and what it writes is committed at once, if that state is still so.

    The function takes a ``Transaction``, reads and writes by it, and returns something.  If others have changed meanwhile what it read,
    nothing is written and the function is called again, after a short pause: so it may be called several times, and must have no effect
    but by its transaction.  What it returned in the end is returned.  What it raises is raised, and nothing is written; the state that
    made it raise is confirmed before that.

    A transaction is committed exactly once, in the one order of all changes (strictly serializable).  One that only reads writes
    nothing, and costs a linearizable read.

    ``transact(function)`` runs it at once.  ``transact(retries=…)`` without a function is a decorator: the decorated function is run as a
    transaction whenever it is called, and takes the arguments it is called with behind the transaction.

    Args:
        function: takes the transaction; on an ``AsyncReplica`` a coroutine function.
        retries: how often it is called again.

    Returns:
        What the function returned; without a function, a decorator.

    Raises:
        TypeError, ValueError: a bad argument.
        Conflict: others changed what it read, each time.
        TooManyOps: it writes more than ``Settings.max_txn_ops`` allows, or reads more keys and spans.
        LockLost, LeaseNotFound, NotACounter, TooLarge, QuotaExceeded: of a write in it; nothing was written.
        NoLeader, TooStale: the cluster can't be reached; nothing was written.
        OutcomeUnknown: handed over, and no answer in time; the ``TxnResult`` that its ``wait`` returns is true if it was committed.
    """

    _kind: type[_Transaction]

    async def _carry_out(self, function: Callable[[Any], Any], retries: int) -> Any:
        engine = self._calls._engine()  # noqa: SLF001  # the surface's own
        chance = Random(f"{engine.keeper.number} {engine.clock()}")  # so that contenders part; alike in a repeated simulation
        least, pause = engine.revision, PAUSE[0]
        for attempt in range(retries + 1):
            if attempt:
                await self._calls._sleep(chance.uniform(0, pause))  # noqa: SLF001  # the surface's time
                pause = min(2 * pause, PAUSE[1])
            least, result = await self._attempt(function, least)
            if result:
                return result[0]
        raise Conflict(
            f"others changed what this transaction read each of the {retries + 1} times it was tried; nothing was written: "
            "try again, read less, or allow more retries="
        )

    async def _attempt(self, function: Callable[[Any], Any], least: int) -> tuple[int, list[Any]]:
        """Call the function once; return what it returned, or nothing and the revision that is to be seen next time."""
        transaction = self._kind(self._surface, least)
        error: Exception | None = None
        returned: Any = None
        try:
            returned = await self._result(function(transaction))
        except Exception as raised:  # noqa: BLE001  # the function's, raised below
            error = raised
        finally:
            transaction._over = True  # noqa: SLF001  # one module
        if transaction._outdated:  # noqa: SLF001  # one module
            return least, []
        try:
            decided = await transaction._commit(write=error is None)  # noqa: SLF001  # one module
        except ReplkvError as failure:
            raise failure from error
        if decided is not None and not decided:
            return decided.revision, []
        if error is not None:
            raise error
        return least, [returned]

    async def _result(self, returned: Any) -> Any:
        if isinstance(self, Awaiting):
            return await returned if isawaitable(returned) else returned
        if iscoroutine(returned):
            returned.close()
            raise TypeError("a coroutine function can be a transaction of an AsyncReplica only")
        return returned


class Transact(_Transact, Blocking):
    """Run a function as a transaction, for threads; see ``_Transact``."""

    _kind = Transaction

    @overload
    def __call__(self, function: Callable[[Transaction], R], /, *, retries: int = RETRIES) -> R: ...
    @overload
    def __call__(self, /, *, retries: int = RETRIES) -> Callable[[Callable[Concatenate[Transaction, P], R]], Callable[P, R]]: ...
    def __call__(self, function: Callable[..., Any] | None = None, /, *, retries: int = RETRIES) -> Any:
        """Run a function, or return a decorator; as the class says."""
        to_count(retries, "retries")
        if function is not None:
            return run(self._carry_out(function, retries))

        def decorate(decorated: Callable[..., Any]) -> Callable[..., Any]:
            @wraps(decorated)
            def call(*arguments: Any, **named: Any) -> Any:
                return self(lambda transaction: decorated(transaction, *arguments, **named), retries=retries)

            return call

        return decorate


class AsyncTransact(_Transact, Awaiting):
    """Run a function as a transaction, for asyncio; see ``_Transact``."""

    _kind = AsyncTransaction

    @overload
    def __call__(self, function: Callable[[AsyncTransaction], Awaitable[R]], /, *, retries: int = RETRIES) -> Coroutine[Any, Any, R]: ...
    @overload
    def __call__(
        self, /, *, retries: int = RETRIES
    ) -> Callable[[Callable[Concatenate[AsyncTransaction, P], Awaitable[R]]], Callable[P, Coroutine[Any, Any, R]]]: ...
    def __call__(self, function: Callable[..., Any] | None = None, /, *, retries: int = RETRIES) -> Any:
        """Run a function, or return a decorator; as the class says."""
        to_count(retries, "retries")
        if function is not None:
            return self._carry_out(function, retries)

        def decorate(decorated: Callable[..., Any]) -> Callable[..., Any]:
            @wraps(decorated)
            async def call(*arguments: Any, **named: Any) -> Any:
                return await self._carry_out(lambda transaction: decorated(transaction, *arguments, **named), retries)

            return call

        return decorate


Transact.__doc__ = AsyncTransact.__doc__ = _Transact.__doc__  # what help() shows of ``replica.transact``


class Transacting:
    """Is ``transact`` on a surface."""

    @overload
    def __get__(self, surface: Blocking, kind: type) -> Transact: ...
    @overload
    def __get__(self, surface: Awaiting, kind: type) -> AsyncTransact: ...
    @overload
    def __get__(self, surface: None, kind: type) -> Transacting: ...
    def __get__(self, surface: Any, kind: type) -> Any:
        if surface is None:
            return self
        return (AsyncTransact if isinstance(surface, Awaiting) else Transact)(surface)
