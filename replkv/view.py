"""Views: the keys below a prefix as a dictionary in this process's memory, kept current by a watch.

A view has no thread.  It takes what its watch has for it whenever it is read, which is no I/O: the watch reads this member's own history,
or what a member elsewhere has sent.
When that is not kept any more, the view reads the present state into a new dictionary, and puts it in the place of the old one when it is
whole.  ``View`` and ``AsyncView`` are read in the same way, and differ in how they wait.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Generator, Iterable, Iterator, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, Generic, Self, TypeVar

from attrs import define, field, frozen

from replkv.errors import Closed, Compacted, PermissionDenied, WaitTimeout
from replkv.mapping import Items, Values
from replkv.plans import Plan
from replkv.valuecodec import Codec, decode_stored, key_to_text, text_to_key
from replkv.values import Data, Event, EventKind, KeyValue, Span, Synced, to_bytes, to_count, to_timeout
from replkv.watching import AsyncWatch, LoopBell, Watch

if TYPE_CHECKING:
    from replkv.engine import Engine
    from replkv.errors import ReplkvError

T = TypeVar("T")
W = TypeVar("W", Watch, AsyncWatch)

_SLICE: Final = 256
_AGAIN: Final = 0.05
"""Seconds after which a view waits no longer for an event, and looks again how far it is: who may not watch all keys hears not of all."""
_UNREAD: Final[Any] = object()


@frozen
class Source:
    """Where a view comes from: one member, and the namespace in it.

    Args:
        engine: the member, or a connection to one.
        namespace: stands before every key.
    """

    engine: Engine
    namespace: bytes = b""

    def check(self) -> None:
        """Check that it can be used.

        Raises:
            ForkedProcess: in a forked child.
            Closed, StorageError: the member has ended.
        """
        self.engine.ensure_not_forked()
        if self.engine.ended:
            raise self.engine.gone()

    def age_at(self, revision: int) -> float:
        """Return how many seconds ago a state of this revision was known to be the newest; infinite if it never was."""
        return self.engine.age_at(revision)

    def has_news(self, revision: int) -> bool:
        """Tell whether there may be more than this revision, or no more to come.

        Raises:
            ForkedProcess: in a forked child.
        """
        self.engine.ensure_not_forked()
        return self.engine.revision != revision or self.engine.ended or self.engine.subject is not None  # whose rights may have changed

    def until(self, timeout: float | None) -> float | None:
        """Return when so many seconds are over, on the engine's clock; None: never."""
        limit = to_timeout(timeout)
        return None if limit is None else self.engine.clock() + limit

    def left(self, until: float | None, most: float | None = None) -> float | None:
        """Return how many seconds are left, at most so many."""
        left = None if until is None else max(0.0, until - self.engine.clock())
        return most if left is None else left if most is None else min(left, most)

    def too_late(self) -> ReplkvError:
        """Return the error for a state that did not come within ``Config.timeout``."""
        return Plan[None]().expired(self.engine, untouched=True)

    def follow(self, prefix: bytes, start_revision: int | None = None) -> Watch:
        """Open a watch that is looked at and never waited for: of changes from a revision on, or of the present state and all changes."""
        span = Span.of(prefix=prefix).below(self.namespace)
        return Watch(self.engine, span, start_revision=start_revision, initial=start_revision is None, prefix=self.namespace)

    def alarm(self, kind: type[W], prefix: bytes | None, start_revision: int) -> W:
        """Open a watch that is only waited for; without a prefix any key counts, also outside of the namespace."""
        span = Span(b"", None) if prefix is None else Span.of(prefix=prefix).below(self.namespace)
        return kind(self.engine, span, start_revision=start_revision)


class _Entry(Generic[T]):
    """A pair whose value is decoded when it is asked for, and then kept."""

    __slots__ = ("_codec", "_value", "kv")

    def __init__(self, kv: KeyValue, codec: Codec[T]) -> None:
        self.kv = kv
        self._codec = codec
        self._value: T = _UNREAD

    @property
    def value(self) -> T:
        if self._value is _UNREAD:
            self._value = decode_stored(self._codec, self.kv.key, self.kv.value)
        return self._value


@frozen(eq=False)
class Change(Generic[T]):
    """A key of a view was put or deleted; its values are decoded when they are asked for, and may raise ``Undecodable`` then."""

    key: str
    revision: int
    _before: _Entry[T] | None = field(repr=False)
    _after: _Entry[T] | None = field(repr=False)

    @property
    def kind(self) -> EventKind:
        """Whether it was put or deleted."""
        return "delete" if self._after is None else "put"

    @property
    def value(self) -> T | None:
        """The new value; None if the key was deleted."""
        return None if self._after is None else self._after.value

    @property
    def previous(self) -> T | None:
        """The value before; None if there was no such key."""
        return None if self._before is None else self._before.value


@define(eq=False)
class _State(Generic[T]):
    """The keys below a prefix as of some revision, and the watch that leads on from there; one user at a time."""

    source: Source
    prefix: bytes
    codec: Codec[T]
    entries: dict[str, _Entry[T]]
    watch: Watch
    coming: dict[str, _Entry[T]] | None = field(default=None)  # the present state while it is read; takes the place of ``entries`` then
    shown: int = field(default=-1)  # meanwhile, the revision of ``entries``; -1 before there were any

    @property
    def revision(self) -> int:
        return self.watch.revision - 1 if self.coming is None else self.shown

    @property
    def is_bare(self) -> bool:
        """Whether the first state is still to come."""
        return self.coming is not None and self.shown < 0

    def step(self, timeout: float | None = 0) -> Iterable[Change[T]] | None:
        """Take the next thing from the watch and return what it changes; None: there is none, also not within so many seconds.

        Raises:
            ReplkvError: the member has ended.
        """
        try:
            found = self.watch.next(timeout)
        except Compacted:
            self.shown = self.revision
            self.watch, self.coming = self.source.follow(self.prefix), {}
            return ()
        if found is None:
            return None
        if isinstance(found, Event):
            return self._apply(found)
        return self._complete(found.revision) if isinstance(found, Synced) else ()

    def _apply(self, event: Event) -> Iterable[Change[T]]:
        key = key_to_text(event.key[len(self.prefix) :])
        before = self.entries.get(key)
        if self.coming is not None:
            unchanged = before is not None and before.kv.mod_revision == event.revision
            self.coming[key] = before if before is not None and unchanged else _Entry(event.kv, self.codec)
            return ()
        if event.kind == "put":
            after = self.entries[key] = _Entry(event.kv, self.codec)
            return (Change(key, event.revision, before, after),)
        return (Change(key, event.revision, self.entries.pop(key), None),) if before is not None else ()

    def _complete(self, revision: int) -> Iterable[Change[T]]:
        assert self.coming is not None  # noqa: S101  # the present state was asked for
        before, self.entries, self.coming = self.entries, self.coming, None
        return _differences(before, self.entries, revision)

    def branch(self) -> _State[T]:
        """Return a state that goes on from here by itself."""
        return _State(self.source, self.prefix, self.codec, self.entries.copy(), self.source.follow(self.prefix, self.revision + 1))


def _differences(before: dict[str, _Entry[T]], after: dict[str, _Entry[T]], revision: int) -> Iterator[Change[T]]:
    """Yield what became different, in the order of revisions as far as they are known: a deletion may have been any time."""
    new = [Change(key, entry.kv.mod_revision, before.get(key), entry) for key, entry in after.items() if before.get(key) is not entry]
    yield from sorted(new, key=lambda change: change.revision)
    yield from (Change(key, revision, entry, None) for key, entry in before.items() if key not in after)


class _View(Mapping[str, T]):
    """What both kinds of view are.

    Args:
        source: the member.
        prefix: of all keys, text or bytes.
        codec: what values are stored as.
    """

    def __init__(self, source: Source, prefix: Data, codec: Codec[T]) -> None:
        self._source = source
        self._prefix = to_bytes(prefix, "prefix")
        self._revision = -1  # of the last look
        self._state = _State(source, self._prefix, codec, {}, source.follow(self._prefix), {})
        self._lock = threading.Lock()  # guards the state; held while news are taken in

    def _await_state(self) -> None:
        """Wait for the first state, or for what is left of it: a member elsewhere has not sent it yet.  The lock is held."""
        raise NotImplementedError

    @property
    def prefix(self) -> bytes:
        """What all keys begin with."""
        return self._prefix

    @property
    def revision(self) -> int:
        """The store's revision that this view shows now."""
        self._current()
        return self._revision

    @property
    def age(self) -> float:
        """Seconds since this member's state, which the view shows, was known to be the newest: infinite if it never was.

        The member has that confirmed a few times a second while somebody asks: after a pause of some seconds the first answer is from
        before it, and an upper bound.  A client asks its member once a second.
        """
        self._source.check()
        return self._source.age_at(self.revision)

    def __getitem__(self, key: str) -> T:
        return self._current()[key].value

    def __contains__(self, key: object) -> bool:
        return key in self._current()

    def __len__(self) -> int:
        return len(self._current())

    def __iter__(self) -> Iterator[str]:
        return (key for key, _ in self._entries())

    def items(self) -> Items[T]:
        """Return a view of the keys with their values; iterating it shows one revision, in the order of the keys' bytes."""
        return Items(self, self._pairs)

    def values(self) -> Values[T]:
        """Return a view of the values; iterating it shows one revision, in the order of the keys' bytes."""
        return Values(self, self._pairs)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._prefix!r} {self._state.codec!r} at revision {self._revision}>"

    def _pairs(self) -> Iterator[tuple[str, T]]:
        return ((key, entry.value) for key, entry in self._entries())

    def _entries(self) -> list[tuple[str, _Entry[T]]]:
        """Return all entries, as of one revision."""
        self._current()
        with self._lock:
            entries = self._state.entries.copy()
        return sorted(entries.items(), key=lambda item: text_to_key(item[0]))

    def _current(self) -> dict[str, _Entry[T]]:
        """Take in all news."""
        state = self._state
        if self._source.has_news(self._revision):  # and this is no forked child, in which the lock could be held for ever
            with self._lock:
                while state.step() is not None:
                    pass
                if state.is_bare:
                    self._await_state()
                self._revision = state.revision
        return state.entries

    def _branch(self) -> _State[T]:
        self._current()
        with self._lock:
            return self._state.branch()

    def _has_reached(self, revision: int) -> bool:
        return self.revision >= to_count(revision, "revision")

    def _late(self, revision: int) -> WaitTimeout:
        return WaitTimeout(f"{self!r} did not come to revision {revision} in time: this member has not heard of it, or it does not exist")


class View(_View[T]):
    """The keys below a prefix as a dictionary that follows the cluster: each read shows this member's state, without any I/O.

    It costs memory for each key, works without a quorum, and may be behind the cluster as this member may; ``age`` and ``wait`` say how
    much.  Keys are text, relative to the prefix, as in a mapping.  Values are decoded once, when they are first read, and all readers get
    the same object: don't change it.  A value that the codec can't read raises ``Undecodable``, which names its key; the others stay
    readable.  ``dict(view.items())`` is the state as of one revision.  Any thread may use it.  It does not keep the ``Replica`` alive: one
    that nobody refers to any more is closed.  The first read of a view of a ``Client`` waits for the state, for ``Config.timeout`` at the
    most; ``NoLeader`` says that it did not come.

    Every access raises ``Closed`` once the member is closed, what stopped it once it has stopped by itself, and ``ForkedProcess`` in a
    forked child.
    """

    def wait(self, revision: int, timeout: float | None = None) -> None:
        """Wait until the view shows a revision, such as a write returned, or a later one.

        Args:
            revision: any of the store, also one that is yet to come.
            timeout: seconds; None waits without limit, 0 does not wait.

        Raises:
            WaitTimeout: not in time.
            TypeError, ValueError: a bad argument.
            Closed, StorageError, ForkedProcess: the member can't be used.
        """
        until = self._source.until(timeout)
        start, pause = revision, None
        while not self._has_reached(revision):
            try:
                with self._source.alarm(Watch, None if pause is None else self._prefix, start) as alarm:
                    while not self._has_reached(revision):
                        if alarm.next(self._source.left(until, pause)) is None and self._source.left(until) == 0:
                            raise self._late(revision)
                        alarm.request_progress()  # of a member elsewhere: when it comes, what is behind it has come too
            except Compacted as error:  # what is compacted has been reached
                start = max(start + 1, error.revision)
            except PermissionDenied:  # for all keys: then its own will have to do
                if pause is not None:
                    raise
                pause = _AGAIN

    def _await_state(self) -> None:
        until = self._source.until(self._source.engine.config.timeout)
        while self._state.is_bare:
            if self._state.step(self._source.left(until) or 0) is None:
                raise self._source.too_late()

    def changes(self, timeout: float | None = None) -> Changes[T]:
        """Return an iterator of all changes from now on, each with the value before and after it.

        It goes on at its consumer's pace, whoever else reads the view.  Where the history it needs is not kept any more, it tells the
        differences between the state then and the state now.

        Args:
            timeout: it ends when nothing has come for so many seconds; None: when the member or the iterator is closed.

        Raises:
            TypeError, ValueError: no timeout.
            Closed, StorageError, ForkedProcess: the member can't be used; while it iterates all but ``Closed``, which ends it.
        """
        return Changes(self._branch(), to_timeout(timeout))


class Changes(Iterator[Change[T]]):
    """The changes of a ``View`` from some moment on; one thread iterates, any thread may close it."""

    def __init__(self, state: _State[T], timeout: float | None) -> None:
        self._state = state
        self._alarm: Watch | None = None
        self._closed = False
        self._coming = self._follow(state, timeout)

    def __next__(self) -> Change[T]:
        if self._closed:
            raise StopIteration
        return next(self._coming)

    def close(self) -> None:
        """End it, also for the thread that waits for it; what it has not yielded is dropped."""
        self._closed = True
        self._state.watch.close()
        if self._alarm is not None:
            self._alarm.close()

    def _follow(self, state: _State[T], timeout: float | None) -> Iterator[Change[T]]:
        with suppress(Closed):
            while True:
                loading = state.coming is not None  # all that can be waited for is the rest of the state
                changes = state.step(timeout if loading and not self._closed else 0)
                if changes is not None:
                    yield from changes
                    continue
                if loading:
                    return
                with state.source.alarm(Watch, state.prefix, state.revision + 1) as alarm, suppress(Compacted):
                    self._alarm = alarm  # before the look: either this thread sees that it is closed, or close() sees the alarm
                    if self._closed or alarm.next(timeout) is None:
                        return


class AsyncView(_View[T]):
    """What ``View`` is for threads, for asyncio.

    It is read without ``await``, for that is no I/O.  The first read takes in all keys at once; awaiting the view before that, as in
    ``view = await replica.view("jobs/")``, gives the loop back in between.  That of an ``AsyncClient`` has to be awaited first.
    """

    def __await__(self) -> Generator[Any, None, Self]:
        return self._loaded().__await__()

    async def _loaded(self) -> Self:
        while self._load():  # noqa: ASYNC110  # nothing is waited for: others get their turn
            await asyncio.sleep(0)
        if self._state.is_bare:
            await self._arrived()
        self._current()
        return self

    async def _arrived(self) -> None:
        """Wait for the first state, which a member elsewhere has to send."""
        bell, until = LoopBell(), self._source.until(self._source.engine.config.timeout)
        bell.bind(asyncio.get_running_loop())
        with self._state.watch.heard_by(bell):
            while self._load() or self._state.is_bare:
                if not await bell.wait(self._source.left(until)) and self._source.left(until) == 0:
                    raise self._source.too_late()

    def _load(self) -> bool:
        with self._lock:
            return all(self._state.coming is not None and self._state.step() is not None for _ in range(_SLICE))

    async def wait(self, revision: int, timeout: float | None = None) -> None:
        """Wait until the view shows a revision, or a later one; as ``View.wait``.

        Args:
            revision: any of the store, also one that is yet to come.
            timeout: seconds; None waits without limit, 0 does not wait.

        Raises:
            WaitTimeout: not in time.
            TypeError, ValueError: a bad argument.
            Closed, StorageError, ForkedProcess: the member can't be used.
        """
        until = self._source.until(timeout)
        start, pause = revision, None
        while not self._has_reached(revision):
            try:
                async with self._source.alarm(AsyncWatch, None if pause is None else self._prefix, start) as alarm:
                    while not self._has_reached(revision):
                        if await alarm.next(self._source.left(until, pause)) is None and self._source.left(until) == 0:
                            raise self._late(revision)
                        await alarm.request_progress()
            except Compacted as error:
                start = max(start + 1, error.revision)
            except PermissionDenied:
                if pause is not None:
                    raise
                pause = _AGAIN

    def _await_state(self) -> None:
        raise RuntimeError("this view of a client has no state yet: await it first, as in view = await client.view(...)")

    def changes(self, timeout: float | None = None) -> AsyncIterator[Change[T]]:
        """Return an iterator of all changes from now on; as ``View.changes``.  A wait for it ends when its task is cancelled.

        Args:
            timeout: it ends when nothing has come for so many seconds; None: when the member is closed.

        Raises:
            TypeError, ValueError: no timeout.
            Closed, StorageError, ForkedProcess: the member can't be used; while it iterates all but ``Closed``, which ends it.
        """
        return self._changes(self._branch(), to_timeout(timeout))

    async def _changes(self, state: _State[T], timeout: float | None) -> AsyncIterator[Change[T]]:
        with suppress(Closed):
            while True:
                loading = state.coming is not None
                if (changes := await self._part(state, timeout) if loading else state.step()) is not None:
                    for change in changes:
                        yield change
                    continue
                if loading:
                    return
                async with self._source.alarm(AsyncWatch, self._prefix, state.revision + 1) as alarm:
                    with suppress(Compacted):
                        if await alarm.next(timeout) is None:
                            return

    async def _part(self, state: _State[T], timeout: float | None) -> Iterable[Change[T]] | None:
        """Take the next part of a state that a member elsewhere may have to send first; None: it did not come in time."""
        bell = LoopBell()
        bell.bind(asyncio.get_running_loop())
        with state.watch.heard_by(bell):
            changes = state.step()
            if changes is None and await bell.wait(timeout):
                changes = ()
        return changes
