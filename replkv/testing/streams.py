"""What consumers of watches saw, and whether that is what a watch promises: nine validators (etcd, tests/robustness/validate/watch.go).

A stream is one watch in one life of a member; a consumer that lost its member goes on with another stream, at the place it had reached.
The truth is the model's history, which never forgets.  Every validator looks at one promise and blames it by name.
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import Enum
from typing import TYPE_CHECKING

from attrs import define, field

from replkv.testing.history import Violation
from replkv.testing.model import KEY, MOD, VALUE
from replkv.values import Event, KeyValue, Progress, Synced

if TYPE_CHECKING:
    from replkv.testing.model import Model
    from replkv.values import EventKind, Span
    from replkv.wire import Raw

    Part = tuple[Event | Synced | Progress, ...]


class End(Enum):
    """How a stream ended.

    LOST: its process crashed; CLOSED: its member was closed; LEFT: its consumer went elsewhere; DENIED: its user may not have it.
    """

    OPEN = "open"
    LOST = "lost"
    CLOSED = "closed"
    LEFT = "left"
    COMPACTED = "compacted"
    DENIED = "denied"


@define(eq=False, repr=False)
class Stream:
    """What one watch yielded.

    Args:
        where: the member and its life.
        span: the keys, as the store has them.
        start: the first revision it wanted; 0: whatever follows the present state, which it wanted first.
        kinds: which events it wanted.
        prev_kv: whether it wanted to know what they replaced.
        whole: whether it took the events of a revision together.
        marks: whether it wanted to be told how far it was.
        cut: so many bytes are left out at the front of keys.
        parts: what it yielded, each time.
        place: the revision at which another stream goes on; 0: nowhere, the present state was not complete.
        end: how it ended.
        compacted: what its error said, and what the store said by then, if it ended so.
        published: the revision of its member when that was closed.
        resumes: the stream it goes on from.
    """

    where: str
    span: Span
    start: int
    kinds: tuple[EventKind, ...] = ("put", "delete")
    prev_kv: bool = False
    whole: bool = False
    marks: bool = False
    cut: int = 0
    parts: list[Part] = field(factory=list)
    place: int = 0
    end: End = End.OPEN
    compacted: tuple[int, int] = (0, 0)
    published: int = 0
    resumes: Stream | None = None

    def __str__(self) -> str:
        shown = " ".join(f"{part!r:.300}" for part in self.parts[-4:])
        return f"watch of {self.span} at {self.where} from {self.start} to {self.place}, {self.end.value}: … {shown}"

    @property
    def state(self) -> list[Event] | None:
        """The present state that it yielded first; None if it did not, or not completely."""
        if self.start or self.synced is None:
            return None
        before = self.parts[: next(at for at, part in enumerate(self.parts) if isinstance(part[0], Synced))]
        return [event for part in before for event in part if isinstance(event, Event)]

    @property
    def synced(self) -> int | None:
        """The revision of the present state, if that was complete."""
        return next((part[0].revision for part in self.parts if isinstance(part[0], Synced)), None)

    @property
    def first(self) -> int | None:
        """The first revision whose events belong to it; None while it has not got that far."""
        return self.start or (None if self.synced is None else self.synced + 1)

    @property
    def changes(self) -> list[Part]:
        """What it yielded behind the present state."""
        if self.start:
            return self.parts
        at = next((at for at, part in enumerate(self.parts) if isinstance(part[0], Synced)), len(self.parts))
        return self.parts[at + 1 :]

    @property
    def events(self) -> list[Event]:
        """The events among its changes."""
        return [event for part in self.changes for event in part if isinstance(event, Event)]

    def wants(self, record: Raw) -> bool:
        """Tell whether an event of the truth is one for this watch."""
        kind = "delete" if record[VALUE] is None else "put"
        return kind in self.kinds and self.covers(record[KEY])

    def covers(self, key: bytes) -> bool:
        """Tell whether a key of the store is one of its keys."""
        return self.span.start <= key and (self.span.end is None or key < self.span.end)

    def shown(self, record: Raw) -> KeyValue:
        """Return a record of the truth as this watch shows it."""
        key, value, *numbers = record
        return KeyValue(key[self.cut :], value or b"", *numbers)


def validate(stream: Stream, truth: Model) -> None:
    """Check a stream against everything a watch promises.

    Raises:
        Violation: it broke a promise; the rule is the validator's name.
    """
    for validator in (
        filtered,
        ordered,
        unique,
        atomic,
        reliable,
        resumable,
        bookmarkable,
        prev_kv,
        is_create,
        present_state,
        rightly_compacted,
    ):
        validator(stream, truth)


def _blame(rule: str, stream: Stream, text: str) -> Violation:
    return Violation(rule, f"{text}; {stream}")


# -- the validators ----------------------------------------------------------------------------------------------------------------


def filtered(stream: Stream, truth: Model) -> None:
    """Only events of its keys and kinds are yielded."""
    del truth
    prefix = stream.span.start[: stream.cut]
    for event in stream.events:
        if event.kind not in stream.kinds or not stream.covers(prefix + event.key):
            raise _blame("filter", stream, f"{event} is none that was wanted")


def ordered(stream: Stream, truth: Model) -> None:
    """Revisions never go back."""
    del truth
    before = 0
    for event in stream.events:
        if event.revision < before:
            raise _blame("ordered", stream, f"revision {event.revision} follows {before}")
        before = event.revision


def unique(stream: Stream, truth: Model) -> None:
    """No event is yielded twice."""
    del truth
    seen: set[tuple[bytes, int]] = set()
    for event in stream.events:
        if (event.key, event.revision) in seen:
            raise _blame("unique", stream, f"{event} comes twice")
        seen.add((event.key, event.revision))


def atomic(stream: Stream, truth: Model) -> None:
    """The events of a revision come together: nothing is between them, and in one part if that was asked for."""
    del truth
    over: set[int] = set()  # revisions behind which something else came
    before = 0
    for part in stream.changes:
        revisions = {item.revision for item in part if isinstance(item, Event)}
        if stream.whole and (len(revisions) > 1 or revisions & {before}):
            raise _blame("atomic", stream, f"the part {part} is not the whole of one revision")
        for item in part:
            if isinstance(item, Event) and item.revision in over:
                raise _blame("atomic", stream, f"{item} comes apart from the others of its revision")
            if not isinstance(item, Event) or item.revision != before:
                over.add(before)
            before = item.revision if isinstance(item, Event) else 0


def reliable(stream: Stream, truth: Model) -> None:
    """From its beginning to what it passed nothing is missing, and everything is as it was."""
    first = stream.first
    if first is None:
        return
    wanted = [record for record in truth.events if record[MOD] >= first and stream.wants(record)]
    events = stream.events
    for event, record in zip(events, wanted, strict=False):
        expired = record[VALUE] is None and record[5] != 0
        if (event.kv, event.expired, event.revision) != (stream.shown(record), expired, record[MOD]):
            raise _blame("reliable", stream, f"{event} where {record} was to come")
    if len(events) > len(wanted):
        raise _blame("reliable", stream, f"{events[len(wanted)]} never happened")
    missing = wanted[len(events) :]
    passed = _passed(stream)
    if missing and missing[0][MOD] < passed:
        raise _blame("reliable", stream, f"{missing[0]} is missing, although everything before {passed} was passed")


def _passed(stream: Stream) -> int:
    """Return the revision before which a stream claims to have yielded everything."""
    last = max((event.revision for event in stream.events), default=0)
    marks = [item.revision + 1 for part in stream.changes for item in part if isinstance(item, Progress)]
    behind = last + 1 if stream.whole and last else last
    closed = stream.published + 1 if stream.end is End.CLOSED else 0
    return max(behind, stream.place, closed, *marks)


def resumable(stream: Stream, truth: Model) -> None:
    """It begins exactly where it was to begin, and can be gone on from at its place, on any member."""
    del truth
    first, before = stream.first, stream.resumes
    if first is not None and any(event.revision < first for event in stream.events):
        raise _blame("resumable", stream, f"an event from before revision {first}")
    if before is not None and before.place and stream.start != before.place:
        raise _blame("resumable", stream, f"it does not go on at {before.place}")
    beyond = [event for event in stream.events if stream.place and event.revision >= stream.place]
    if any(event.revision > stream.place for event in beyond) or (beyond and stream.whole):
        raise _blame("resumable", stream, f"who goes on at {stream.place} gets {beyond[-1]} again")


def bookmarkable(stream: Stream, truth: Model) -> None:
    """What is marked has been yielded: nothing of it comes later, marks don't go back, and come only to who wants them."""
    mark = last = stream.synced or 0
    if mark > truth.revision:
        raise _blame("bookmarkable", stream, f"revision {mark} never was")
    for part in stream.changes:
        for item in part:
            if isinstance(item, Event):
                if item.revision <= mark:
                    raise _blame("bookmarkable", stream, f"{item} follows the mark {mark}")
                last = max(last, item.revision)
            elif not stream.marks or isinstance(item, Synced) or not last <= item.revision <= truth.revision:
                raise _blame("bookmarkable", stream, f"{item} follows revision {last}, in a store at {truth.revision}")
            else:
                mark = last = item.revision


def prev_kv(stream: Stream, truth: Model) -> None:
    """An event tells what the key held before, if that was asked for."""
    prefix = stream.span.start[: stream.cut]
    for event in stream.events:
        before = _record_at(truth, prefix + event.key, event.revision - 1) if stream.prev_kv else None
        right = None if before is None else stream.shown(before)
        if event.prev_kv != right:
            raise _blame("prev_kv", stream, f"{event} replaced {right}")


def is_create(stream: Stream, truth: Model) -> None:
    """A put's versions begin with 1 where the key did not exist before, and go on by 1 where it did."""
    prefix = stream.span.start[: stream.cut]
    for event in stream.events:
        if event.kind == "put":
            before = _record_at(truth, prefix + event.key, event.revision - 1)
            right = (event.revision, 1) if before is None else (before[2], before[4] + 1)
            if (event.kv.create_revision, event.kv.version) != right or event.kv.mod_revision != event.revision:
                raise _blame("is_create", stream, f"{event} should be created at {right[0]} and of version {right[1]}")


def present_state(stream: Stream, truth: Model) -> None:
    """The state that is yielded first is that of the revision it is marked with, each pair once, in the order of keys.

    One that was not completed is the beginning of that of some revision.
    """
    state, synced = stream.state, stream.synced
    if state is not None and synced is not None:
        right = _state_at(truth, synced, stream)
        if state != right:
            raise _blame("present_state", stream, f"{state} is not the state at {synced}: {right}")
    elif not stream.start and stream.parts:
        begun = [item for part in stream.parts for item in part if isinstance(item, Event)]
        newest = max(event.revision for event in begun)
        if all(_state_at(truth, revision, stream)[: len(begun)] != begun for revision in range(newest, truth.revision + 1)):
            raise _blame("present_state", stream, f"{begun} is not the beginning of any state")


def _state_at(truth: Model, revision: int, stream: Stream) -> list[Event]:
    """Return a state as a watch yields it first."""
    pairs = [stream.shown(record) for record in _pairs_at(truth, revision) if stream.covers(record[KEY])]
    return [Event("put", pair, None, pair.mod_revision) for pair in pairs]


def rightly_compacted(stream: Stream, truth: Model) -> None:
    """It is refused only what is gone, and the error says what is left."""
    del truth
    said, store = stream.compacted
    if stream.end is not End.COMPACTED:
        return
    wanted = [at for at in (stream.place, stream.synced, stream.start) if at]
    if said not in (store, store + stream.prev_kv) or (wanted and wanted[0] >= said):
        raise _blame("compacted", stream, f"Compacted({said}) for a store that keeps {store} and later")


def _record_at(truth: Model, key: bytes, revision: int) -> Raw | None:
    found = next((record for record in reversed(truth.versions.get(key, ())) if record[MOD] <= revision), None)
    return None if found is None or found[VALUE] is None else found


def _pairs_at(truth: Model, revision: int) -> Iterator[Raw]:
    for key in sorted(truth.versions):
        record = _record_at(truth, key, revision)
        if record is not None:
            yield record
