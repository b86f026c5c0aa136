"""What comes next in a watch.  A ``Feed`` is asked in bounded steps that never wait; how its consumer waits is none of its business.

``LocalFeed`` reads on in the history of a member in this process; ``RemoteFeed`` (``pulling.py``) has a member elsewhere do it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Generator, Iterable
from enum import Enum
from typing import TYPE_CHECKING, Final, Literal, Protocol, Self, TypeAlias, get_args

from attrs import frozen

from replkv.errors import Closed, Compacted, Rejected, ReplkvError
from replkv.values import Event, EventKind, Progress, Synced, to_count, to_seconds
from replkv.watch import Cursor, Place, check_kept, to_event
from replkv.wire import READ

if TYPE_CHECKING:
    from replkv.auth import Subject
    from replkv.kv import Record, Store
    from replkv.node import Node
    from replkv.values import Span

Watched: TypeAlias = Event | Synced | Progress
"""What a watch yields; ``Synced`` and ``Progress`` only to those who asked for them."""

KINDS: Final[tuple[EventKind, ...]] = get_args(EventKind)


class _Found(Enum):
    MORE = "there is more to read before something can be yielded"


MORE: Final = _Found.MORE
Look: TypeAlias = tuple[Watched, ...] | Literal[_Found.MORE] | None


class Bell(Protocol):
    """Is called to ring."""

    def __call__(self) -> None:
        """Have the consumer look once more; any thread, without waiting, also when nobody listens."""


@frozen
class Wanted:
    """What somebody wants to watch; the arguments are those of ``watch``.

    Attributes:
        span: the keys.
        start: the first revision whose events are wanted, old or yet to come; None: the next one.
        initial: yield the present state first.
        prev_kv: tell what each event replaced.
        puts: whether they are wanted.
        deletes: whether they are wanted.
        interval: seconds without anything else after which a mark is wanted; None: none is.
        cut: so many bytes are left out at the front of keys: the prefix of a namespace.
    """

    span: Span
    start: int | None
    initial: bool
    prev_kv: bool
    puts: bool
    deletes: bool
    interval: float | None
    cut: int

    @classmethod
    def of(
        cls,
        span: Span,
        *,
        start_revision: int | None = None,
        initial: bool = False,
        prev_kv: bool = False,
        kinds: Iterable[EventKind] = KINDS,
        progress: bool = False,
        progress_interval: float = 60.0,
        prefix: bytes = b"",
    ) -> Self:
        """Check what was asked for.

        Raises:
            TypeError, ValueError: an argument is wrong.
        """
        wanted = _checked_kinds(kinds)
        interval = to_seconds(progress_interval, "progress_interval") if _flag(progress, "progress") else None
        if _flag(initial, "initial") and "put" not in wanted:
            raise ValueError('initial=True yields the present state as puts: kinds= must have "put"')
        if initial and start_revision is not None:
            raise ValueError("give initial=True or start_revision=, not both: the present state is followed by what comes behind it")
        start = None if start_revision is None else _checked_start(start_revision)
        return cls(span, start, initial, _flag(prev_kv, "prev_kv"), "put" in wanted, "delete" in wanted, interval, len(prefix))


class Feed(ABC):
    """What comes next, for one consumer.

    Args:
        wanted: what it wants.
        clock: monotonic seconds.
        start: the first revision whose events come; 0 if the present state comes first.
        marks_from: no mark is given for an older revision.
    """

    def __init__(self, wanted: Wanted, clock: Callable[[], float], start: int, marks_from: int) -> None:
        self.wanted = wanted
        self.listeners: list[Bell] = []
        """Who is to hear as well when something arrives from a member elsewhere."""
        self._clock = clock
        self._initial = wanted.initial
        self._next = start  # behind all that was read
        self._marks_from = marks_from
        self._read: deque[Event] = deque()  # and not yet yielded: what one step brought
        self._asked: object = None  # who asked last for a mark
        self._answered: object = None
        self._quiet_since = clock()
        self._over: ReplkvError | None = None

    @property
    def begun(self) -> bool:
        """Whether it is known where it begins, or that it does not."""
        return True

    @property
    @abstractmethod
    def revision(self) -> int:
        """The ``start_revision`` of a watch, on any member, that goes on exactly behind what this one has yielded."""

    @property
    def _reached(self) -> int:
        """``revision``, unless it is known that nothing comes for a while."""
        following = self._next  # before the look at what was read: it is raised when that is there
        try:
            return following if self._initial else self._read[0].revision
        except IndexError:
            return following

    @abstractmethod
    def leave(self) -> None:
        """Want nothing more; takes no lock, for the collector may call it at any time."""

    @property
    @abstractmethod
    def _place(self) -> Place:
        """Behind all that was read."""

    @abstractmethod
    def _read_state(self) -> Look:
        """Read on in the present state."""

    @abstractmethod
    def _read_on(self) -> Look:
        """Read on in the history."""

    # -- what comes next -----------------------------------------------------------------------------------------------------------

    def take_read(self) -> Event | None:
        """Return the next of the events that were read, or None: then ``look``; one caller at a time.

        It yields all events of a step but the first, and does nothing else: most of what a watch does is done here.
        """
        if self._over is not None or not self._read:
            return None
        if self.wanted.interval is not None:
            self._yielded()
        return self._read.popleft()

    def take_whole(self) -> tuple[Watched, ...] | None:
        """Return all events of the next revision that was read as a whole, or None: then ``look``; one caller at a time."""
        return self._take(whole=True) if self._over is None and self._read and not self._split else None

    def look(self, *, whole: bool) -> Look:
        """Take one bounded step; one caller at a time.

        Args:
            whole: all events of a revision are wanted, not the next one of them.

        Returns:
            What to yield; ``MORE``: look again; None: nothing is there, and the bell rings when that may have changed.

        Raises:
            ReplkvError: the watch is over.
        """
        if self._over is not None:
            raise self._over.again()
        if self._read and not (whole and self._split):
            return self._take(whole=whole)
        try:
            return self._read_state() if self._initial else self._read_on()
        except Compacted as error:
            self._over = error
            raise

    @property
    def pending(self) -> bool:
        """Whether the next look yields something."""
        return bool(self._read)

    @property
    def _split(self) -> bool:
        """Whether what was read ends amid a revision of which nothing has been yielded as a whole."""
        return not self._initial and self._place.passed > 0 and self._read[0].revision == self._place.revision

    def _take(self, *, whole: bool) -> tuple[Event, ...]:
        read = self._read
        events = [read.popleft()]
        while whole and read and (self._initial or read[0].revision == events[0].revision):
            events.append(read.popleft())
        self._yielded()
        return tuple(events)

    def _yielded(self) -> None:
        if self.wanted.interval is not None:
            self._quiet_since = self._clock()

    def _state_is_read(self, at: int) -> Look:
        """Go on from the present state, which was that of a revision, to what comes behind it."""
        self._initial, self._next, self._marks_from = False, at + 1, at
        self._yielded()
        return (Synced(at),)

    def _mark_is_due(self, asked: object) -> bool:
        """Tell whether to say that everything so far has been yielded: it was asked for, or nothing has been said for long."""
        interval = self.wanted.interval
        silent = interval is not None and self._clock() >= self._quiet_since + interval
        if silent:
            self._yielded()
        if self._place.revision - 1 < self._marks_from or not (silent or asked is not self._answered):
            return False  # or the watch has not begun
        self._answered = asked
        return True

    def patience(self, until: float | None) -> float | None:
        """Return for how many seconds to wait, or None without limit, if the caller gives up at a time."""
        times = [] if until is None else [until]
        if self.wanted.interval is not None:
            times.append(self._quiet_since + self.wanted.interval)
        return max(0.0, min(times) - self._clock()) if times else None

    def ask(self) -> None:
        """Have a mark come behind all that is published now; any thread."""
        self._asked = object()

    def close(self, error: ReplkvError) -> None:
        """Have nothing more come but an error; any thread."""
        if self._over is None:
            self._over = error
        self.leave()

    def __str__(self) -> str:
        return f"{self.wanted.span}: {self._over or f'next revision {self._reached}'}"


class LocalFeed(Feed):
    """The history of a member in this process, read by a cursor.

    Args:
        node: the member.
        wanted: what its consumer wants.
        bell: rings when there may be more.
    """

    def __init__(self, node: Node, wanted: Wanted, bell: Bell) -> None:
        published = node.published.revision
        start = published + 1 if wanted.start is None else wanted.start
        super().__init__(wanted, node.clock, 0 if wanted.initial else start, published if wanted.start is None else start)
        self._node = node
        kinds, synced = (wanted.puts, wanted.deletes), start > published
        self._cursor = Cursor(wanted.span, Place(start), bell, *kinds, wanted.prev_kv, wanted.cut, synced, node.hub.readings)
        self._state: Generator[list[Record], None, None] | None = None
        self._store: Store | None = None  # that of the present state, while it is read

    @property
    def revision(self) -> int:
        """As ``Feed.revision``."""
        return max(self._reached, self._node.hub.reached(self._cursor))

    def leave(self) -> None:
        """Have the hub forget the cursor."""
        self._node.hub.leave(self._cursor)

    @property
    def _place(self) -> Place:
        return self._cursor.place

    def _read_state(self) -> Look:
        """Read on in the present state, which is that of the revision published when this began."""
        if self._state is None or self._store is None:
            published = self._node.published
            self._store = published.machine.store
            self._cursor.place = Place(published.revision + 1)
            self._state = self._store.slices(self._cursor.span, published.revision)
        at = self._cursor.place.revision - 1
        records = next(self._state, None)
        check_kept(self._store, at, prev_kv=False)  # afterwards: only now is it sure that nothing was missing
        if records is not None:
            self._read.extend(to_event(record, None, self._cursor.cut) for record in records)
            return MORE
        self._state, self._store = None, None
        return self._state_is_read(at)

    def _read_on(self) -> Look:
        """Read on in the history, up to what is published."""
        hub, cursor, asked = self._node.hub, self._cursor, self._asked
        no_mark = asked is self._answered and self.wanted.interval is None
        if no_mark and hub.rests(cursor, self._node.published.revision):
            return None
        hub.disarm(cursor)
        ended = hub.ended  # before looking at what is published: the end, and marks for who asked by now, come behind all of that
        published = self._node.published
        events, caught_up = cursor.read(published.machine.store, published.revision)
        self._read.extend(events)
        self._next = cursor.place.revision  # now that what lies before it can be seen
        if not caught_up or self._read:  # which may be there without these: of a revision that was read in part
            return MORE
        if not no_mark and self._mark_is_due(asked):
            self._yielded()
            return (Progress(cursor.place.revision - 1),)
        if ended:
            self._over = self._over or self._node.failure or Closed(f"member {self._node.name} is closed")
            return MORE
        return None if hub.arm(cursor) else MORE


class GuardedFeed(LocalFeed):
    """The same for a user: what was read is handed out only while it may read the span, and the watch is over when it may no more.

    Args:
        node: the member.
        wanted: what its consumer wants.
        bell: rings when there may be more, or when rights were changed.
        subject: the user.
    """

    def __init__(self, node: Node, wanted: Wanted, bell: Bell, subject: Subject) -> None:
        super().__init__(node, wanted, bell)
        self._subject = subject
        self._judged = 0  # the auth revision at which it was found to be permitted

    def take_read(self) -> Event | None:
        """As ``Feed.take_read``; None where rights were changed: then ``look`` tells."""
        return super().take_read() if self._node.published.machine.auth.revision == self._judged else None

    def take_whole(self) -> tuple[Watched, ...] | None:
        """As ``Feed.take_whole``; None where rights were changed: then ``look`` tells."""
        return super().take_whole() if self._node.published.machine.auth.revision == self._judged else None

    def look(self, *, whole: bool) -> Look:
        """Take one bounded step.

        Raises:
            PermissionDenied, AuthenticationFailed: the user may not read this, or no longer; the watch is over.
        """
        self._check()
        found = super().look(whole=whole)
        self._check()  # whoever changes rights from now on rings: if nothing was found, the bell is armed by now
        return found

    def _check(self) -> None:
        auth = self._node.published.machine.auth
        if auth.revision == self._judged or self._over is not None:
            return
        try:
            auth.check_span(self._subject, READ, self.wanted.span)
        except Rejected as error:
            self.close(error)
            raise error.again() from None
        self._judged = auth.revision


# -- arguments ---------------------------------------------------------------------------------------------------------------------


def _checked_kinds(kinds: Iterable[EventKind]) -> frozenset[EventKind]:
    if isinstance(kinds, str):
        raise TypeError(f'kinds must be several, ("{kinds}",), not a str')
    if not isinstance(kinds, Iterable):
        raise TypeError(f'kinds must be several, such as ("put",), not {type(kinds).__name__}')
    listed = list(kinds)
    if not listed or any(kind not in KINDS for kind in listed):
        raise ValueError(f'kinds must be "put", "delete" or both, not {sorted(map(repr, listed))}')
    return frozenset(listed)


def _checked_start(revision: int) -> int:
    if to_count(revision, "start_revision") < 1:
        raise ValueError("start_revision must be at least 1, the revision of an empty store; None begins with what comes next")
    return revision


def _flag(value: bool, what: str) -> bool:
    if not isinstance(value, bool):
        raise TypeError(f"{what} must be a bool, not {type(value).__name__}")
    return value
