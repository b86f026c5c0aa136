"""The judge of watches must be just too: streams as they are meant to be pass, each kind of wrong is named by the promise it breaks."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from replkv.ops import Delete, Grant, Put, Txn
from replkv.testing.history import Violation
from replkv.testing.model import KEY, LEASE, MOD, VALUE, Model
from replkv.testing.streams import End, Stream, validate
from replkv.values import Event, KeyValue, Progress, Span, Synced
from replkv.wire import Raw


def told() -> Model:
    """Revision 2: a; 3: b and c together; 4: a again; 5: c deleted; 6: b hangs on a lease; 7: that expires; 8: c anew; 9: all deleted."""
    model = Model()
    for operation in (
        Put("a", "1"),
        Txn(then=[Put("b", "1"), Put("c", "1")]),
        Put("a", "2"),
        Delete("c"),
        Grant(1, 1000, 0),
        Put("b", "2", lease=1),
    ):
        model.execute(operation.to_wire())
    model.time = 1000
    model.expire()
    model.execute(Put("c", "2").to_wire())
    model.execute(Delete(start="a").to_wire())
    assert model.revision == 9
    return model


TRUTH = told()
ALL = Span.of()


def event(record: Raw, *, prev: bool = False, cut: int = 0) -> Event:
    key, value, *numbers = record
    kind, expired = ("put", False) if value is not None else ("delete", record[LEASE] != 0)
    before = [other for other in TRUTH.versions[key] if other[MOD] < record[MOD]]
    replaced = KeyValue(key[cut:], *before[-1][1:]) if prev and before and before[-1][VALUE] is not None else None
    return Event(kind, KeyValue(key[cut:], value or b"", *numbers), replaced, record[MOD], expired)  # type: ignore[arg-type]  # a kind


def stream(start: int = 2, upto: int = 9, span: Span = ALL, **options: Any) -> Stream:
    """A right stream from one revision up to another."""
    made = Stream("a/1", span, start, **options)
    for revision in range(max(start, 2), upto + 1):
        records = [record for record in TRUTH.events if record[MOD] == revision and made.wants(record)]
        events = tuple(event(record, prev=made.prev_kv, cut=made.cut) for record in records)
        made.parts += ([events] if events else []) if made.whole else [(one,) for one in events]
    made.place = upto + 1
    return made


def from_state(at: int = 4, upto: int = 9, **options: Any) -> Stream:
    """A right stream that begins with the state at a revision."""
    made = Stream("a/1", ALL, 0, **options)
    for key in sorted(TRUTH.versions):
        before = [record for record in TRUTH.versions[key] if record[MOD] <= at]
        if before and before[-1][VALUE] is not None:
            made.parts.append((event(before[-1]),))
    made.parts.append((Synced(at),))
    made.parts += stream(at + 1, upto, **options).parts
    made.place = upto + 1
    return made


def rejects(wrong: Stream, rule: str) -> None:
    with pytest.raises(Violation) as caught:
        validate(wrong, TRUTH)
    assert caught.value.rule == rule


# -- right ----------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"whole": True}, {"prev_kv": True}, {"kinds": ("put",)}, {"kinds": ("delete",), "prev_kv": True}])
@pytest.mark.parametrize("start", [1, 2, 5, 9, 20])
def test_what_a_watch_should_yield_is_right(start: int, options: dict[str, Any]) -> None:
    validate(stream(start, max(9, start - 1), **options), TRUTH)


@pytest.mark.parametrize(
    "span", [Span.of("a"), Span.of("nothing"), Span.of(start="b"), Span.of(start="a", end="c"), Span.of(start="c", end="a")]
)
def test_a_watch_of_some_keys_is_right(span: Span) -> None:
    validate(stream(span=span), TRUTH)


def test_a_span_begins_with_its_first_key_and_ends_before_its_last() -> None:
    assert {event.key for event in stream(span=Span.of(start="b", end="c")).events} == {b"b"}


def test_a_watch_that_leaves_out_a_prefix_is_right() -> None:
    validate(stream(span=Span.of(prefix="b"), cut=1, prev_kv=True), TRUTH)


@pytest.mark.parametrize("at", [1, 3, 4, 7, 9])
def test_a_present_state_and_what_follows_are_right(at: int) -> None:
    validate(from_state(at), TRUTH)
    validate(from_state(at, whole=True), TRUTH)


def test_a_watch_that_ended_before_all_was_yielded_is_right() -> None:
    validate(stream(2, 6), TRUTH)


def test_a_present_state_that_was_not_completed_is_right() -> None:
    made = from_state(4)
    del made.parts[1:]
    made.place = 0
    validate(made, TRUTH)


def test_a_revision_that_was_yielded_in_part_comes_again_elsewhere() -> None:
    first = stream(2, 3)
    del first.parts[-1]
    first.place, first.end = 3, End.LOST
    validate(first, TRUTH)
    validate(stream(3, resumes=first), TRUTH)


def test_marks_between_revisions_are_right() -> None:
    made = stream(2, 4, marks=True)
    made.parts += [(Progress(4),), (Progress(4),), *stream(5).parts, (Progress(9),)]
    made.place = 10
    validate(made, TRUTH)


def test_a_watch_is_refused_what_is_compacted() -> None:
    made = Stream("a/1", ALL, 3, place=3, end=End.COMPACTED, compacted=(4, 4))
    validate(made, TRUTH)
    made = Stream("a/1", ALL, 4, place=4, prev_kv=True, end=End.COMPACTED, compacted=(5, 4))
    validate(made, TRUTH)


# -- wrong ----------------------------------------------------------------------------------------------------------------------------


def changed(part: tuple[Event], **changes: Any) -> tuple[Event]:
    return (part[0]._replace(**changes),)


def test_an_event_of_another_key_is_not_filtered() -> None:
    made = stream(span=Span.of("a"))
    made.parts.insert(1, stream().parts[1])
    rejects(made, "filter")


def test_an_event_of_another_kind_is_not_filtered() -> None:
    made = stream(kinds=("put",))
    made.parts.append(stream().parts[4])
    rejects(made, "filter")


def test_revisions_that_go_back_are_not_ordered() -> None:
    made = stream()
    made.parts[3], made.parts[4] = made.parts[4], made.parts[3]
    rejects(made, "ordered")


def test_an_event_that_comes_twice_is_not_unique() -> None:
    made = stream()
    made.parts.insert(3, made.parts[3])
    rejects(made, "unique")


def test_a_revision_in_two_parts_is_not_atomic() -> None:
    made = stream(whole=True)
    (first, second) = made.parts[1]
    made.parts[1:2] = [(first,), (second,)]
    rejects(made, "atomic")


def test_two_revisions_in_one_part_are_not_atomic() -> None:
    made = stream(whole=True)
    made.parts[0:2] = [made.parts[0] + made.parts[1]]
    rejects(made, "atomic")


def test_a_mark_amid_a_revision_is_not_atomic() -> None:
    made = stream(marks=True)
    made.parts.insert(2, (Progress(2),))
    rejects(made, "atomic")


def test_half_of_a_revision_that_was_to_come_whole_is_not_reliable() -> None:
    made = stream(2, 3, whole=True)
    made.parts[-1] = made.parts[-1][:1]
    made.place = 3
    rejects(made, "reliable")


@pytest.mark.parametrize("missing", range(9))
def test_a_gap_is_not_reliable(missing: int) -> None:
    made = stream()
    del made.parts[missing]
    rejects(made, "reliable")


@pytest.mark.parametrize("missing", range(9))
def test_a_gap_that_is_passed_without_a_further_event_is_not_reliable(missing: int) -> None:
    made = stream()
    del made.parts[missing:]
    made.place = 10
    rejects(made, "reliable")


def test_a_closed_member_that_keeps_events_back_is_not_reliable() -> None:
    made = stream(2, 6)
    made.end, made.published = End.CLOSED, 8
    rejects(made, "reliable")


def test_what_never_happened_is_not_reliable() -> None:
    made = stream()
    made.parts.append((event((b"a", b"3", 2, 10, 3, 0)),))
    made.place = 11
    rejects(made, "reliable")


@pytest.mark.parametrize("change", [{"value": b"other"}, {"lease": 7}])
def test_a_wrong_pair_is_not_reliable(change: dict[str, Any]) -> None:
    made = stream()
    (first,) = made.parts[0]
    assert isinstance(first, Event)
    made.parts[0] = (first._replace(kv=first.kv._replace(**change)),)
    rejects(made, "reliable")


def test_an_expiry_that_is_told_as_a_delete_is_not_reliable() -> None:
    made = stream()
    at = next(at for at, part in enumerate(made.parts) if isinstance(part[0], Event) and part[0].expired)
    made.parts[at] = changed(made.parts[at], expired=False)  # type: ignore[arg-type]  # one event
    rejects(made, "reliable")


def test_an_event_from_before_the_beginning_is_not_resumable(monkeypatch: pytest.MonkeyPatch) -> None:
    made = stream(3)
    made.parts.insert(0, stream().parts[0])
    rejects(made, "reliable")
    monkeypatch.setattr("replkv.testing.streams.reliable", lambda *_: None)  # which finds whatever should not be there
    rejects(made, "resumable")


@pytest.mark.parametrize("start", [4, 6])
def test_a_watch_that_goes_on_elsewhere_than_it_should_is_not_resumable(start: int) -> None:
    rejects(stream(start, resumes=stream(2, 4)), "resumable")


def test_a_place_before_what_was_yielded_is_not_resumable() -> None:
    made = stream(2, 6)
    made.place = 5
    rejects(made, "resumable")


def test_a_place_at_what_was_yielded_as_a_whole_is_not_resumable() -> None:
    made = stream(2, 6, whole=True)
    made.place = 6
    rejects(made, "resumable")


def test_an_event_behind_its_mark_is_not_bookmarkable() -> None:
    made = stream(2, 4, marks=True)
    made.parts.insert(-1, (Progress(4),))
    rejects(made, "bookmarkable")


def test_a_present_state_of_the_future_is_not_bookmarkable() -> None:
    made = from_state(9)
    made.parts[-1] = (Synced(10),)
    rejects(made, "bookmarkable")


@pytest.mark.parametrize("marks", [[3, 2], [99], [9, 8]])
def test_marks_that_go_back_or_ahead_are_not_bookmarkable(marks: list[int]) -> None:
    made = stream(20, 19, marks=True)
    made.parts += [(Progress(mark),) for mark in marks]
    rejects(made, "bookmarkable")


def test_a_mark_behind_what_was_yielded_is_not_bookmarkable() -> None:
    made = stream(2, 6, marks=True)
    made.parts.append((Progress(5),))
    rejects(made, "bookmarkable")


def test_a_mark_nobody_asked_for_is_not_bookmarkable() -> None:
    made = stream()
    made.parts.append((Progress(9),))
    rejects(made, "bookmarkable")


def test_a_second_synced_is_not_bookmarkable() -> None:
    made = from_state(marks=True)
    made.parts.append((Synced(9),))
    rejects(made, "bookmarkable")


def test_what_was_replaced_must_be_told() -> None:
    made = stream(prev_kv=True)
    at = next(at for at, part in enumerate(made.parts) if isinstance(part[0], Event) and part[0].prev_kv)
    made.parts[at] = changed(made.parts[at], prev_kv=None)  # type: ignore[arg-type]  # one event
    rejects(made, "prev_kv")


def test_what_was_replaced_must_not_be_told_to_who_does_not_ask() -> None:
    made = stream()
    at = next(at for at, part in enumerate(stream(prev_kv=True).parts) if isinstance(part[0], Event) and part[0].prev_kv)
    made.parts[at] = stream(prev_kv=True).parts[at]
    rejects(made, "prev_kv")


@pytest.mark.parametrize("change", [{"version": 2}, {"create_revision": 1}, {"mod_revision": 1}])
def test_a_created_key_must_look_created(change: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("replkv.testing.streams.reliable", lambda *_: None)  # which compares with the truth, and finds it first
    made = stream()
    (first,) = made.parts[0]
    assert isinstance(first, Event)
    made.parts[0] = (first._replace(kv=first.kv._replace(**change)),)
    rejects(made, "is_create")


def without_one(made: Stream) -> None:
    del made.parts[1]


def out_of_order(made: Stream) -> None:
    made.parts[0], made.parts[1] = made.parts[1], made.parts[0]


def with_what_was_deleted(made: Stream) -> None:
    made.parts.insert(1, made.parts[0])


def of_another_revision(made: Stream) -> None:
    made.parts[:2] = from_state(3).parts[:2]


@pytest.mark.parametrize("spoil", [without_one, out_of_order, with_what_was_deleted, of_another_revision])
def test_a_wrong_present_state_is_found(spoil: Callable[[Stream], None]) -> None:
    made = from_state(4)
    spoil(made)
    rejects(made, "present_state")


def of_two_revisions(made: Stream) -> None:
    made.parts = [from_state(3).parts[0], from_state(6).parts[1]]


@pytest.mark.parametrize("spoil", [without_one, out_of_order, with_what_was_deleted, of_two_revisions])
def test_a_wrong_present_state_is_found_though_it_was_not_completed(spoil: Callable[[Stream], None]) -> None:
    made = from_state(4)
    del made.parts[3:]
    made.place = 0
    validate(made, TRUTH)
    spoil(made)
    rejects(made, "present_state")


@pytest.mark.parametrize(("place", "said", "store"), [(5, 4, 4), (4, 4, 4), (2, 3, 4), (2, 9, 4), (2, 5, 4)])
def test_a_refusal_of_what_is_kept_is_found(place: int, said: int, store: int) -> None:
    rejects(Stream("a/1", ALL, place, place=place, end=End.COMPACTED, compacted=(said, store)), "compacted")


# -- many -----------------------------------------------------------------------------------------------------------------------------


def random_stream(rng: random.Random) -> Stream:
    options = {"whole": rng.random() < 0.5, "prev_kv": rng.random() < 0.5, "marks": True}
    kinds = rng.choice((("put", "delete"), ("put",), ("delete",)))
    upto = rng.randint(2, 9)
    if rng.random() < 0.3:
        return from_state(rng.randint(1, upto), upto, **options)
    span = rng.choice((ALL, Span.of("a"), Span.of(start="b")))
    return stream(rng.randint(1, upto), upto, span, kinds=kinds, **options)


@given(st.integers(0, 10**9))
@settings(max_examples=300, deadline=None)
def test_whatever_a_right_watch_yields_is_right(seed: int) -> None:
    validate(random_stream(random.Random(seed)), TRUTH)


@given(st.integers(0, 10**9))
@settings(max_examples=300, deadline=None)
def test_one_wrong_step_is_found(seed: int) -> None:
    rng = random.Random(seed)
    made = random_stream(rng)
    events = [at for at, part in enumerate(made.parts) if isinstance(part[0], Event)]
    if not events:
        return
    at = rng.choice(events)
    match rng.randrange(3):
        case 0:
            del made.parts[at]
        case 1:
            made.parts.insert(at, made.parts[at])
        case 2:
            made.parts[at] = tuple(one._replace(revision=one.revision + 1) for one in made.parts[at])
    with pytest.raises(Violation):
        validate(made, TRUTH)


def test_the_truth_is_what_the_other_tests_take_it_for() -> None:
    shown = [(record[MOD], record[KEY], record[VALUE]) for record in TRUTH.events]
    assert shown == [
        (2, b"a", b"1"),
        (3, b"b", b"1"),
        (3, b"c", b"1"),
        (4, b"a", b"2"),
        (5, b"c", None),
        (6, b"b", b"2"),
        (7, b"b", None),
        (8, b"c", b"2"),
        (9, b"a", None),
        (9, b"c", None),
    ]
