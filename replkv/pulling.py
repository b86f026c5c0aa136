"""The feed of a watch whose member is elsewhere: what comes next is pulled, a helping at a time, before its consumer asks for it.

A pull tells the whole state of the watch, its place in the history.  So it is repeated at any member when the one that was asked is lost:
nothing is missed and nothing comes twice, also in the midst of a revision.

Threads: the consumer looks, and takes what has arrived; everything else belongs to the client's thread.  Neither waits for the other: the
place is moved on only after what lies before it has been laid down.
"""

from __future__ import annotations

from collections import deque
from functools import partial
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol, TypeAlias

from attrs import define, field

from replkv import letters, wire
from replkv.errors import Overloaded, ReplkvError, TooLarge
from replkv.feed import MORE, Feed, Look
from replkv.ops import Scan
from replkv.values import Event, Progress
from replkv.watch import Place

if TYPE_CHECKING:
    from collections.abc import Callable

    from replkv.feed import Bell, Wanted
    from replkv.line import Line
    from replkv.values import KeyValue

HELPINGS: Final = 4
"""Helpings that may wait for the consumer; each has some hundred events at most."""
PAGE: Final = 256
"""Pairs of the present state that are asked for at a time."""
WATCHES_MAX: Final = 3000
"""Watches of a client: a member has only so many requests of one connection under way, and none of these ends soon."""
AGAIN_AFTER: Final = 0.25
"""Seconds until a pull is repeated for which its member had no room."""


class Puller(Protocol):
    """The connection to a member, as feeds see it."""

    name: str
    clock: Callable[[], float]

    @property
    def revision(self) -> int:
        """The newest one that was seen."""

    @property
    def ended(self) -> bool:
        """Whether nothing more comes from here."""

    def gone(self) -> ReplkvError:
        """Return why."""

    def feed_on(self, feed: RemoteFeed) -> None:
        """Pull for a feed if it has room again; any thread."""

    def hurry(self) -> None:
        """Have the member say how far it is; any thread."""

    def leave(self, feed: RemoteFeed) -> None:
        """Pull no more for a feed; any thread, and takes no lock."""


class _Helping(NamedTuple):
    """What has arrived, and the place behind it; ``last``: with it the present state is complete."""

    events: tuple[Event, ...]
    place: Place
    last: bool = False

    def __repr__(self) -> str:  # without keys and values
        return f"<{len(self.events)} events up to {self.place}>"


class RemoteFeed(Feed):
    """What a member elsewhere sends.

    Args:
        puller: the connection.
        wanted: what its consumer wants.
        bell: rings when there is more.
    """

    def __init__(self, puller: Puller, wanted: Wanted, bell: Bell) -> None:
        start = wanted.start or 0  # else it is known when a member has been asked
        super().__init__(wanted, puller.clock, start, start)
        self._puller = puller
        self._bell = bell
        self._arrived: deque[_Helping] = deque()
        self._at = Place(start)  # behind what the consumer has taken
        self._starved = False  # there was no room
        self._confirmed: object = None  # the question that the newest mark answers
        # The rest is the client's thread's.
        self.place = Place(start)
        """Behind all that has arrived."""
        self.again_at = float("-inf")
        """Before that, the member has no room."""
        self.number: int | None = None
        """Of the request that is under way."""
        self.failed: ReplkvError | None = None
        """Why nothing more arrives."""
        self._floor = puller.revision + 1  # what comes next can't be older
        self._known = wanted.initial or wanted.start is not None  # where it begins
        self._scanning = wanted.initial
        self._scanned: tuple[bytes, int] | None = None  # where the next page begins, and of which revision it is
        self._page = PAGE
        self._synced = False

    # -- the consumer's side -------------------------------------------------------------------------------------------------------

    @property
    def begun(self) -> bool:
        """As ``Feed.begun``."""
        return self._known or self._over is not None or self.failed is not None or self._puller.ended

    @property
    def revision(self) -> int:
        """As ``Feed.revision``."""
        place = self.place  # before the look at what there is
        rested = not self._initial and not self._arrived and not self._read and not place.passed  # in the order in which it moves on
        return max(self._next, place.revision) if rested else self._reached

    def leave(self) -> None:
        """Have nothing more pulled."""
        self._puller.leave(self)

    def ask(self) -> None:
        """Have the member asked how far it is."""
        super().ask()
        self._puller.hurry()

    @property
    def asked(self) -> object:
        """Who asked last for a mark."""
        return self._asked

    @property
    def _place(self) -> Place:
        return self._at

    def _read_state(self) -> Look:
        failed = self._gone()
        if not self._arrived:
            return self._end(failed)
        helping = self._take_helping()
        return self._state_is_read(helping.place.revision - 1) if helping.last else MORE

    def _read_on(self) -> Look:
        # Before the look at what there is: all of it comes before these.
        failed, confirmed, place = self._gone(), self._confirmed, self.place
        if self._arrived:
            self._take_helping()
            return MORE
        if not self._known:
            return self._end(failed)
        self._at = place
        if not place.passed:
            self._next = max(self._next, place.revision)
            if self._read:  # of a revision that was read in part, and that ended without more
                return MORE
        if not self._read and self._mark_is_due(confirmed):
            self._yielded()
            return (Progress(place.revision - 1),)
        return self._end(failed)

    def _gone(self) -> ReplkvError | None:
        return self.failed or (self._puller.gone() if self._puller.ended else None)

    def _end(self, failed: ReplkvError | None) -> Look:
        """Say that there is nothing, or that there will be nothing any more."""
        if failed is None:
            return None
        self._over = self._over or failed
        return MORE

    def _take_helping(self) -> _Helping:
        helping = self._arrived[0]  # taken out only when it is in its new place: ``revision`` must not overlook it
        self._at = helping.place
        self._read.extend(helping.events)
        if not self._initial:
            self._next = helping.place.revision
        self._arrived.popleft()
        if self._starved:
            self._starved = False
            self._puller.feed_on(self)
        return helping

    # -- the client's thread -------------------------------------------------------------------------------------------------------

    @property
    def waits_for_start(self) -> bool:
        """Whether a member has yet to say which revision is the next."""
        return not self._known

    def wants_more(self) -> bool:
        """Tell whether something is to be asked for now."""
        if self.number is not None or not self._known or self.failed is not None or self._over is not None:
            return False
        if len(self._arrived) < HELPINGS:
            return True
        self._starved = True
        return len(self._arrived) < HELPINGS  # the consumer may just have made room

    def letter(self, number: int) -> letters.Request:
        """Return the next request."""
        self.number = number
        wanted, (start, end) = self.wanted, self.wanted.span
        if not self._scanning:
            place = self.place
            return letters.Pull(number, start, end, place.revision, place.passed, wanted.puts, wanted.deletes, wanted.prev_kv, self._synced)
        at, revision = self._scanned or (start, 0)
        scan = (wire.SCAN, at, end, self._page, revision, *Scan().to_wire()[5:])
        return letters.Read(number, scan, "local", None, max(revision, self._puller.revision))

    def take(self, reply: Any, now: float) -> None:
        """Take the reply to the request under way."""
        self.number = None
        if isinstance(reply, letters.Failed):
            self._refused(reply.error, now)
        elif isinstance(reply, letters.Events):
            self._pulled(reply)
        else:
            self._read_page(reply.raw)

    def _refused(self, error: ReplkvError, now: float) -> None:
        if isinstance(error, Overloaded):
            self.again_at = now + AGAIN_AFTER
        elif isinstance(error, TooLarge) and self._scanning and self._page > 1:
            self._page //= 2
        else:
            self.fail(error)

    def _pulled(self, reply: letters.Events) -> None:
        place = Place(reply.revision, reply.passed)
        if reply.events:
            self._arrived.append(_Helping(tuple(map(self._cut, reply.events)), place))
        self._move_on(place, synced=reply.caught_up, news=bool(reply.events))  # now that the consumer can see what lies before it

    def _move_on(self, place: Place, *, synced: bool, news: bool = False) -> None:
        """Take note of the place behind all that has arrived; that a revision has ended is news to who waits for the whole of it."""
        news = news or self.place.passed > 0
        self.place, self._synced = place, synced
        if news:
            self.ring()

    def _read_page(self, raw: Any) -> None:
        try:
            found = Scan().result(wire.unless_refused(raw))
        except ReplkvError as error:
            self.fail(error)
            return
        cut, behind = self.wanted.cut, Place(found.revision + 1)
        events = tuple(Event("put", self._cut_pair(kv, cut), None, kv.mod_revision, expired=False) for kv in found.kvs)
        self._arrived.append(_Helping(events, behind))
        if found.more:
            self._scanned = found.kvs[-1].key + b"\x00", found.revision
        else:
            self._scanning, self.place, self._synced = False, behind, True
            self._arrived.append(_Helping((), behind, last=True))
        self.ring()

    def _cut(self, event: Event) -> Event:
        cut = self.wanted.cut
        if not cut:
            return event
        before = None if event.prev_kv is None else self._cut_pair(event.prev_kv, cut)
        return Event(event.kind, self._cut_pair(event.kv, cut), before, event.revision, event.expired)

    def _cut_pair(self, kv: KeyValue, cut: int) -> KeyValue:
        return kv._replace(key=kv.key[cut:]) if cut else kv

    @property
    def is_asked(self) -> bool:
        """Whether somebody waits for a mark, and it depends on a member when that comes."""
        ended = self.failed is not None or self._over is not None
        return self._asked is not self._confirmed and not (ended or self._starved or self._scanning)

    def passed(self, revision: int, number: int | None, asked: object) -> None:
        """Take note that a member has nothing more for this feed up to a revision, if it still waits for the same request.

        Args:
            revision: that the member has reached.
            number: the request that was under way when the member was asked.
            asked: who had asked for a mark by then.
        """
        if not self._known:
            self._begin(max(revision, self._floor - 1))  # this member may be behind what another one has told
            return
        if number is not None and number == self.number and not self._scanning and self.place.revision <= revision:
            self._move_on(Place(revision + 1), synced=True)
        if self.place.revision > revision and asked is not self._confirmed:
            self._confirmed = asked
            self.ring()

    def lost(self) -> None:
        """Take note that the connection is gone over which the request was sent."""
        self.number = None
        if not self._known:  # what was written since it began may have been seen there: rather begin too early than too late
            self._begin(self._floor - 1)

    def _begin(self, revision: int) -> None:
        self._marks_from, self._next = revision, revision + 1
        self.place = self._at = Place(revision + 1)
        self._known = True
        self.ring()

    def fail(self, error: ReplkvError) -> None:
        """Have an error come behind all that has arrived."""
        self.failed = error
        self.ring()

    def ring(self) -> None:
        """Have the consumer look."""
        self._bell()
        for bell in list(self.listeners):
            bell()


State: TypeAlias = list[tuple[RemoteFeed, int | None, object]]
"""Feeds, with the request that each has under way, and who has asked for a mark."""


@define(eq=False, repr=False)
class Pulls:
    """All feeds of a client; its thread alone."""

    _feeds: set[RemoteFeed] = field(factory=set, init=False)
    _hungry: dict[RemoteFeed, None] = field(factory=dict, init=False)  # those that may have something to ask for, oldest first

    @property
    def any(self) -> bool:
        """Whether something is watched."""
        return bool(self._feeds)

    @property
    def full(self) -> bool:
        """Whether nothing more can be watched; any thread may look."""
        return len(self._feeds) >= WATCHES_MAX

    @property
    def due(self) -> float:
        """When something is to be asked for, in seconds."""
        return min((feed.again_at for feed in self._hungry), default=float("inf"))

    def add(self, feed: RemoteFeed) -> None:
        """Pull for a feed from now on."""
        self._feeds.add(feed)
        self._hungry[feed] = None

    def go_on(self, feed: RemoteFeed) -> bool:
        """Pull on for a feed, if it wants more; tell whether it is still one of these."""
        if feed not in self._feeds:
            return False
        self._hungry[feed] = None
        return True

    def dismiss(self, feed: RemoteFeed, line: Line | None) -> None:
        """Pull no more for a feed."""
        self._feeds.discard(feed)
        self._hungry.pop(feed, None)
        if feed.number is not None and line is not None:
            line.cancel(feed.number)

    def put(self, line: Line, now: float, pulled: Callable[[Line, RemoteFeed, Any], None]) -> None:
        """Ask for what feeds want.

        Args:
            line: over which.
            now: in seconds.
            pulled: gets the replies.
        """
        for feed in [feed for feed in self._hungry if now >= feed.again_at]:
            del self._hungry[feed]
            if feed.wants_more():
                try:
                    line.ask(feed.letter, partial(pulled, line, feed))
                except TooLarge as error:
                    feed.fail(error)

    def lost(self) -> None:
        """Have everything asked for again, over another connection."""
        for feed in self._feeds:
            feed.lost()
            self._hungry[feed] = None

    def state(self) -> State:
        """Return how things stand when a ping is sent."""
        return [(feed, feed.number, feed.asked) for feed in self._feeds]

    def passed(self, state: State, revision: int) -> bool:
        """Take note of what the answer to a ping says of the feeds there were; tell whether another ping is needed for somebody."""
        for feed, number, asked in state:
            feed.passed(revision, number, asked)
            self.go_on(feed)
        return any(feed.is_asked or feed.waits_for_start for feed in self._feeds)

    def ring(self) -> None:
        """Have all consumers look."""
        for feed in self._feeds:
            feed.ring()

    def fail_all(self, error: ReplkvError) -> None:
        """Have an error come behind all that has arrived, for each."""
        for feed in self._feeds:
            if feed.failed is None:
                feed.fail(error)
