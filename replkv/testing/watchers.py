"""Consumers of watches: each takes step after step on its own thread, at its own pace, and moves on when it loses its member.

What a step does is the product's own ``feed.LocalFeed.look``; here the steps are events of virtual time, and what wakes a consumer
that waits is looked at after every turn of its member, in a fixed order.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from attrs import define, field

from replkv.errors import AuthenticationFailed, Closed, Compacted, PermissionDenied, ReplkvError
from replkv.feed import MORE, GuardedFeed, LocalFeed, Wanted
from replkv.testing.history import Violation
from replkv.testing.judge import judge_watch
from replkv.testing.streams import End, Stream, validate
from replkv.testing.users import NAMES
from replkv.values import Progress, Span

if TYPE_CHECKING:
    import random
    from collections.abc import Collection

    from replkv.described import Published
    from replkv.node import Node
    from replkv.testing.cluster import SimCluster, SimMember
    from replkv.testing.model import Model
    from replkv.testing.rights import Subject
    from replkv.testing.streams import Part
    from replkv.testing.users import Users
    from replkv.values import EventKind

KINDS: tuple[tuple[EventKind, ...], ...] = (("put", "delete"), ("put", "delete"), ("put",), ("delete",))
"""What consumers want."""
STUCK = 100_000
"""More steps than any watch needs to read what a closed member had."""


class SimBell:
    """Remembers that it rang; ``Watchers`` looks after each turn."""

    def __init__(self) -> None:
        self.rung = False

    def __call__(self) -> None:
        """Have the consumer look once more."""
        self.rung = True


class _Sight:
    """A node as a thread sees it that may have stood still since it looked at what is published."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self.seen: Published | None = None

    @property
    def published(self) -> Published:
        """What is published, or was."""
        return self.seen or self._node.published

    def __getattr__(self, name: str) -> Any:
        return getattr(self._node, name)


class SimWatch(LocalFeed):
    """A watch in virtual time: a feed, and the bell of its consumer."""

    def __init__(self, node: Node, span: Span, *whose: Subject, **options: Any) -> None:
        self._sight = _Sight(node)
        self._bell = SimBell()
        self.kept_from = 0  # the oldest revision of the store that refused to go on
        super().__init__(cast("Node", self._sight), Wanted.of(span, **options), self._bell, *whose)

    def step(self, *, whole: bool) -> Part | None:
        """Take one step; what it yielded, () if there is more to read first, None if it has to wait."""
        try:
            found = self.look(whole=whole)
        except Compacted:
            self.kept_from = (self._store or self._sight.published.machine.store).compacted
            raise
        finally:
            self._sight.seen = None
        return () if found is MORE else found

    def begin_step(self) -> None:
        """Get as far in the next step as to its look at what is published; the rest comes later."""
        self._node.hub.disarm(self._cursor)
        self._sight.seen = self._node.published

    def look_again(self) -> None:
        """Forget what was published: something else is to come behind all that is published now."""
        self._sight.seen = None

    def take_ring(self) -> bool:
        """Tell whether the bell rang since the last time."""
        rung, self._bell.rung = self._bell.rung, False
        return rung

    def ask(self) -> None:
        """Ask for a mark."""
        self.look_again()
        super().ask()
        self._bell()

    def end(self) -> None:
        """Have nothing more come."""
        self.close(Closed("this watch is closed"))
        self._bell()


class UsersWatch(SimWatch, GuardedFeed):
    """A user's watch in virtual time."""

    def _check(self) -> None:
        """Look at the rights that there are now, however long ago it looked at what is published."""
        seen, self._sight.seen = self._sight.seen, None
        super()._check()
        self._sight.seen = seen


@define(eq=False, repr=False)
class Watcher:
    """A consumer, and the streams it has read one after the other."""

    watchers: Watchers
    span: Span
    kinds: tuple[EventKind, ...]
    prev_kv: bool
    whole: bool
    cut: int
    interval: float | None  # between marks
    pause: float  # seconds between two steps, on average
    user: str = ""  # on whose behalf; empty: the member's own
    subject: Subject | None = None  # who the present watch is for
    _judged_at: int = -1  # the entry behind which it was found to be permitted
    streams: list[Stream] = field(factory=list)
    watch: SimWatch | None = None
    member: SimMember | None = None
    node: Node | None = None
    _asked_at: int | None = None  # a mark is owed: it comes behind so many parts
    _waiting: bool = False
    _half_way: bool = False  # in a step
    _steps: int = 0  # a step that was planned counts only if none was planned since
    _heard: float = 0.0  # when it yielded something, or was begun

    @property
    def cluster(self) -> SimCluster:
        """Where it watches."""
        return self.watchers.cluster

    @property
    def stream(self) -> Stream:
        """The newest one."""
        return self.streams[-1]

    # -- beginning ----------------------------------------------------------------------------------------------------------------------

    def begin_soon(self, delay: float) -> None:
        """Find a member before long; what was planned before is forgotten."""
        self._steps += 1
        number = self._steps
        self.cluster.scheduler.after(self.watchers.rng.expovariate(1.0) * delay, lambda: self._begin(number))

    def _begin(self, number: int) -> None:
        if number != self._steps:
            return
        running = self.cluster.running

        def open_there(member: SimMember) -> None:
            if number == self._steps:
                self.open(member)

        def look_elsewhere() -> None:
            if number == self._steps:
                self.begin_soon(0.2)

        if running:
            self.watchers.rng.choice(running).on_caller_thread(open_there, otherwise=look_elsewhere)
        else:
            self.begin_soon(0.2)

    def open(self, member: SimMember, start: int = 0) -> None:
        """Begin at a member: where the stream before ended, or at a revision, or anew."""
        rng, node = self.watchers.rng, member.process
        before = self.streams[-1] if self.streams and self.stream.end is not End.COMPACTED else None
        start = before.place if before is not None else start
        published = node.published.revision
        initial = not start and "put" in self.kinds and (before is not None or rng.random() < 0.6)
        if not start and not initial and rng.random() < 0.5:
            start = rng.randint(1, published + 3)
        if self.user and (found := self.watchers.users.handle(member, self.user)) is not None:
            self.subject = found
        whose = () if self.subject is None else (self.subject,)
        self.watch = (UsersWatch if whose else SimWatch)(
            node,
            self.span,
            *whose,
            start_revision=start or None,
            initial=initial,
            prev_kv=self.prev_kv,
            kinds=self.kinds,
            progress=self.interval is not None,
            progress_interval=self.interval or 1.0,
            prefix=self.span.start[: self.cut],
        )
        self.member, self.node, self._waiting, self._half_way = member, node, False, False
        self._heard = self.cluster.scheduler.now
        first = 0 if initial else start or published + 1
        marks = self.interval is not None or self.watchers.asking
        stream = Stream(member.where, self.span, first, self.kinds, self.prev_kv, self.whole, marks, self.cut, place=first, resumes=before)
        self.streams.append(stream)
        if start > published + 1:
            self.cluster.count("watch that began in the future")
        elif start == node.published.machine.store.compacted > 0:
            self.cluster.count("watch that began at the compaction revision")
        self.cluster.trace.note("watch", member.where, self.span, stream.start)
        self._plan(0.0)

    # -- steps --------------------------------------------------------------------------------------------------------------------------

    def _plan(self, delay: float) -> None:
        """Take the next step after a while; a step that was planned before is none any more."""
        self._steps += 1
        number, watch, member = self._steps, self.watch, self.member
        if watch is None or member is None:
            return

        def step(_member: SimMember) -> None:
            if number != self._steps or watch is not self.watch:
                return
            if not self._half_way and self.watchers.patient and self.watchers.rng.random() < 0.05:
                self._half_way, self._waiting = True, False
                watch.begin_step()
                self._plan(self.watchers.rng.random() * 0.1)
            else:
                self._half_way = False
                self._step(watch)

        self.cluster.scheduler.after(delay, lambda: member.on_caller_thread(step) if number == self._steps else None)

    def stall(self, seconds: float) -> None:
        """Take no step for a while."""
        self._waiting = False
        self._plan(seconds)

    def hurry(self) -> None:
        """Take the next step now, if this does not wait."""
        if self.watch is None:
            self.begin_soon(0.0)
        elif not self._waiting:
            self._plan(0.0)

    def ask(self) -> None:
        """Ask for a mark, unless the watch has yet to begin, or wants none."""
        watch, node, stream = self.watch, self.node, self.stream
        if watch is not None and node is not None and stream.marks and stream.start <= node.published.revision:
            self._asked_at = len(stream.parts)
            watch.ask()
            self.rung()

    @property
    def marked(self) -> bool:
        """Whether it has the mark it asked for."""
        return self._asked_at is None or any(isinstance(part[0], Progress) for part in self.stream.parts[self._asked_at :])

    def check_silence(self) -> None:
        """Check that a mark came when one was due, now that nothing holds the consumer up."""
        if self.interval is None or self.node is None or self.stream.start > self.node.published.revision:
            return
        silent = self.cluster.scheduler.now - self._heard
        if silent > self.interval * (1 + 2 * self.cluster.scenario.drift) + 1.0:
            raise Violation("watch", f"a mark is due after {self.interval} s, nothing came for {silent:.3f} s: {self.stream}")

    def rung(self) -> None:
        """Go on if the bell rang while this waited."""
        if self._waiting and self.watch is not None and self.watch.take_ring():
            self._waiting = False
            self._plan(self.watchers.rng.random() * 0.0002)
        elif self._waiting and self.node is not None and self._judged_at != self.node.machine.applied:
            self._judged_at = self.node.machine.applied
            self._judge(denied=False)  # nothing wakes it: it may go on waiting

    def _judge(self, *, denied: bool) -> None:
        if self.subject is not None and self.node is not None:
            judge_watch(self.watchers.users.witness, self.node, self.subject, self.span, denied=denied)

    def _step(self, watch: SimWatch) -> None:
        rng = self.watchers.rng
        self._waiting = False
        try:
            part = watch.step(whole=self.whole)
        except Compacted as error:
            self._compacted(watch, error)
            return
        except (PermissionDenied, AuthenticationFailed):
            self._denied(watch)
            return
        if part is None:
            self._wait(watch)
        elif part:
            self._note(watch, part)
            slow = self.watchers.patient and rng.random() < 0.1
            self._plan(rng.expovariate(1.0) * self.pause if slow else rng.random() * 0.001)
        else:
            slow = self.watchers.patient and rng.random() < 0.05
            self._plan(rng.random() * (0.3 if slow else 0.0002))

    def _note(self, watch: SimWatch, part: Part) -> None:
        assert self.node is not None
        self._heard = self.cluster.scheduler.now
        self._judge(denied=False)
        self.stream.parts.append(part)
        newest = max(item.revision for item in part)
        if newest > self.node.published.revision:
            raise Violation("D2", f"{newest} is not published yet: {self.stream}")
        self.stream.place = watch.revision
        self.cluster.trace.note("event", self.stream.where, *part)

    def _wait(self, watch: SimWatch) -> None:
        rng, patience = self.watchers.rng, watch.patience(None)
        self.stream.place = watch.revision
        self._waiting = True
        if patience is not None:
            self._plan(patience)
        if rng.random() < self.watchers.restlessness:
            self._leave(watch)
        elif self.watchers.asking and rng.random() < 0.2:
            watch.ask()
            self.rung()

    # -- ends ---------------------------------------------------------------------------------------------------------------------------

    def _leave(self, watch: SimWatch) -> None:
        """Go on at another member, or at the same."""
        self.stream.place = watch.revision
        watch.end()
        self._over(End.LEFT, 0.05)

    def _compacted(self, watch: SimWatch, error: Compacted) -> None:
        self.stream.place = watch.revision
        self.stream.compacted = error.revision, watch.kept_from
        watch.end()
        self._over(End.COMPACTED, 0.05)

    def _denied(self, watch: SimWatch) -> None:
        self._judge(denied=True)
        self.stream.place = watch.revision
        watch.end()
        self.subject, self._judged_at = None, -1
        if not self.watchers.patient:
            self.user = ""  # in the end everybody is to see everything
        self._over(End.DENIED, 0.3)

    def life_ended(self, node: Node) -> None:
        """Its process is gone; one that was closed has its watches yield what there is."""
        if self.node is not node or self.watch is None:
            return
        if not node.stopped:
            self._over(End.LOST, 0.2)
            return
        self.stream.published = node.published.revision
        self.watch.look_again()
        try:
            for _ in range(STUCK):
                part = self.watch.step(whole=self.whole)
                if part is None:
                    raise Violation("watch", f"waits at a member that was closed: {self.stream}")
                if part:
                    self._note(self.watch, part)
        except Compacted as error:
            self._compacted(self.watch, error)
        except (PermissionDenied, AuthenticationFailed):
            self._denied(self.watch)
        except ReplkvError:
            self._over(End.CLOSED, 0.2)
        else:
            raise Violation("watch", f"does not end with its member: {self.stream}")

    def _over(self, end: End, delay: float) -> None:
        self.stream.end = end
        self.cluster.trace.note("watch over", self.stream.where, end.value, self.stream.place)
        self.watch = self.member = self.node = None
        self._waiting = False
        self.begin_soon(delay)

    @property
    def current(self) -> bool:
        """Whether it has yielded everything that its member has published, and waits."""
        return self._waiting and self.watch is not None and self.node is not None and self.watch.revision > self.node.published.revision


@define(eq=False, repr=False)
class Watchers:
    """All consumers of a run.

    Args:
        cluster: where they watch.
        rng: draws what they want.
        users: on behalf of whom some of them watch.
    """

    cluster: SimCluster
    rng: random.Random
    users: Users
    patient: bool = True  # some steps take their time
    restlessness: float = 0.02  # how often one that waits goes elsewhere
    asking: bool = field(init=False)
    each: list[Watcher] = field(factory=list)

    def __attrs_post_init__(self) -> None:
        self.asking = self.rng.random() < 0.5
        self.cluster.observers.append(lambda _member, node: self._look(node))
        self.cluster.mourners.append(lambda _member, node: self._mourn(node))

    def begin(self) -> None:
        """Set all consumers to work."""
        for _ in range(self.cluster.scenario.watchers):
            self.add(self._drawn()).begin_soon(1.0)

    def add(self, watcher: Watcher) -> Watcher:
        """Have one more."""
        self.each.append(watcher)
        return watcher

    def _drawn(self) -> Watcher:
        rng = self.rng
        key = b"k%02d" % rng.randrange(self.cluster.scenario.keys)
        spans = (Span.of(), Span.of(), Span.of(key), Span.of(prefix=b"k"), Span.of(start=b"k01", end=b"nk02"))
        span = rng.choice(spans)
        cut = 1 if span.start[:1] == b"k" and span.end in (b"l", key + b"\x00") and rng.random() < 0.3 else 0
        interval = rng.choice((None, None, 0.3, 2.0))
        pause = rng.choice((0.01, 0.3, 2.0))
        drawn = Watcher(self, span, rng.choice(KINDS), rng.random() < 0.5, rng.random() < 0.5, cut, interval, pause)
        if self.cluster.scenario.users and rng.random() < 0.6:
            drawn.user = rng.choice(NAMES)
        return drawn

    def settle(self) -> None:
        """Let nobody dawdle or move any more."""
        self.patient, self.restlessness = False, 0.0
        for watcher in self.each:
            watcher.hurry()

    @property
    def behind(self) -> list[Stream]:
        """The newest streams of those that are not current."""
        return [watcher.stream for watcher in self.each if not watcher.current and watcher.streams]

    @property
    def current(self) -> bool:
        """Whether all have yielded everything."""
        return all(watcher.current for watcher in self.each)

    def are_current(self, members: Collection[SimMember]) -> bool:
        """Tell whether all that watch at these members have yielded everything."""
        return all(watcher.current for watcher in self.each if watcher.member in members)

    def ask(self) -> None:
        """Have all ask for a mark."""
        for watcher in self.each:
            watcher.ask()

    @property
    def marked(self) -> bool:
        """Whether all have the mark they asked for."""
        return all(watcher.marked for watcher in self.each)

    def dismiss(self) -> None:
        """Let nobody watch any more."""
        self.each.clear()

    def check(self, truth: Model) -> None:
        """Validate everything that was seen.

        Raises:
            Violation: a watch broke a promise.
        """
        for watcher in self.each:
            watcher.check_silence()
            for stream in watcher.streams:
                validate(stream, truth)

    def _look(self, node: Node) -> None:
        for watcher in self.each:
            if watcher.node is node:
                watcher.rung()

    def _mourn(self, node: Node) -> None:
        for watcher in self.each:
            watcher.life_ended(node)
