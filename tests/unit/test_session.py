"""Sessions: what was executed is executed once, and what is forgotten never again."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from replkv import codec, errors
from replkv.refusals import refuse
from replkv.session import KEPT_MAX, WINDOW, WINDOW_BYTES, Session, Sessions, Verdict, rows
from replkv.wire import OK, Raw

SECOND = 1_000_000
ID = 7 << 16


def answer(number: int) -> tuple[Raw, ...]:
    return ((OK, number, None),)


def opened(time: int = 0) -> Sessions:
    sessions = Sessions()
    sessions.open(ID, time)
    return sessions


def executed(sessions: Sessions, sequence: int, answers: tuple[Raw, ...] | None = None, lowest: int = 0) -> None:
    assert sessions.lookup(ID, sequence, lowest, 0) is Verdict.NEW
    sessions.record(ID, sequence, answer(sequence) if answers is None else answers)


def test_a_batch_is_new_once_and_then_a_repeat_with_the_same_answers() -> None:
    sessions = opened()
    executed(sessions, 1)
    assert sessions.lookup(ID, 1, 1, 0) is Verdict.REPEAT
    assert sessions.answers(ID, 1) == answer(1)


def test_an_unknown_session_is_expired() -> None:
    sessions = opened()
    assert sessions.lookup(ID + 1, 1, 0, 0) is Verdict.EXPIRED
    assert not sessions.knows(ID + 1)
    assert not sessions.has(ID + 1, 1)


def test_batches_may_arrive_in_any_order() -> None:
    sessions = opened()
    for sequence in (3, 1, 2):
        executed(sessions, sequence)
    assert all(sessions.has(ID, sequence) for sequence in (1, 2, 3))
    assert not sessions.has(ID, 4)


def test_what_lies_below_the_lowest_awaited_sequence_is_forgotten() -> None:
    sessions = opened()
    for sequence in range(1, 6):
        executed(sessions, sequence)
    executed(sessions, 6, lowest=4)
    assert [sessions.lookup(ID, sequence, 0, 0) for sequence in range(1, 7)] == [Verdict.FORGOTTEN] * 3 + [Verdict.REPEAT] * 3
    assert sessions.lookup(ID, 2, 0, 0) is Verdict.FORGOTTEN, "an old lowest does not bring anything back"


def test_a_batch_below_its_own_lowest_is_not_executed() -> None:
    assert opened().lookup(ID, 4, 5, 0) is Verdict.FORGOTTEN


def test_the_window_holds_4096_sequences() -> None:
    sessions = opened()
    for sequence in range(1, WINDOW + 3):
        executed(sessions, sequence)
    assert [sessions.lookup(ID, sequence, 0, 0) for sequence in (1, 2, 3)] == [Verdict.FORGOTTEN, Verdict.FORGOTTEN, Verdict.REPEAT]


def test_a_leap_over_the_window_forgets_all_before_it() -> None:
    sessions = opened()
    executed(sessions, 1)
    executed(sessions, 1 << 62)
    assert sessions.lookup(ID, 1, 0, 0) is Verdict.FORGOTTEN
    assert sessions.lookup(ID, (1 << 62) - WINDOW, 0, 0) is Verdict.FORGOTTEN
    assert sessions.lookup(ID, (1 << 62) - WINDOW + 1, 0, 0) is Verdict.NEW


def test_the_window_holds_8_mib_of_answers() -> None:
    sessions = opened()
    large = ((OK, 2, (b"k", bytes(KEPT_MAX - 100), 2, 2, 1, 0)),)
    fit = WINDOW_BYTES // len(codec.pack(large))
    for sequence in range(1, fit + 3):
        executed(sessions, sequence, large)
    verdicts = [sessions.lookup(ID, sequence, 0, 0) for sequence in (1, 2, 3)]
    assert verdicts == [Verdict.FORGOTTEN, Verdict.FORGOTTEN, Verdict.REPEAT]
    assert sessions.answers(ID, 3) == large


@pytest.mark.parametrize(
    "answers",
    [
        ((OK, 2, (b"k", bytes(KEPT_MAX), 2, 2, 1, 0)),),
        ((OK, 2, True, ((OK, 2, ((b"k", bytes(KEPT_MAX), 2, 2, 1, 0),), 1, False),)),),
        ((OK, 2, KEPT_MAX, ((b"k", b"v", 2, 2, 1, 0),) * KEPT_MAX),),
        ((OK, 2, None),) * KEPT_MAX,
        ((OK, 1 << 40, None),) * (KEPT_MAX // 4),  # seems to fit, but does not when packed
    ],
)
def test_answers_over_64_kib_are_not_kept_but_the_batch_counts_as_executed(answers: tuple[Raw, ...]) -> None:
    sessions = opened()
    executed(sessions, 1, answers)
    assert sessions.lookup(ID, 1, 0, 0) is Verdict.REPEAT
    assert sessions.answers(ID, 1) is None


def test_answers_of_just_64_kib_are_kept() -> None:
    sessions = opened()
    frame = len(codec.pack(((OK, 2, (b"k", bytes(KEPT_MAX // 2), 2, 2, 1, 0)),))) - KEPT_MAX // 2
    answers = ((OK, 2, (b"k", bytes(KEPT_MAX - frame - 2), 2, 2, 1, 0)),)
    assert KEPT_MAX - 4 <= len(codec.pack(answers)) <= KEPT_MAX
    executed(sessions, 1, answers)
    assert sessions.answers(ID, 1) == answers


def test_an_empty_batch_is_remembered_too() -> None:
    sessions = opened()
    executed(sessions, 1, ())
    assert sessions.answers(ID, 1) == ()


def test_a_session_ends_after_its_time_of_silence_and_not_before() -> None:
    sessions = opened(time=5 * SECOND)
    assert sessions.expire(15 * SECOND, 10 * SECOND) == 0
    assert sessions.expire(15 * SECOND + 1, 10 * SECOND) == 1
    assert sessions.lookup(ID, 1, 0, 15 * SECOND + 1) is Verdict.EXPIRED


def test_any_batch_keeps_its_session_alive() -> None:
    sessions = opened()
    sessions.open(ID + 1, 1)
    executed(sessions, 5)
    assert sessions.lookup(ID, 5, 0, 8 * SECOND) is Verdict.REPEAT
    assert sessions.expire(10 * SECOND + 2, 10 * SECOND) == 1
    assert sessions.knows(ID)
    assert len(sessions) == 1


def test_a_pinned_table_does_not_change_with_the_sessions() -> None:
    sessions = opened()
    executed(sessions, 1)
    pinned = sessions.pin()
    before = list(rows(pinned))
    executed(sessions, 2, lowest=2)
    assert list(rows(pinned)) == before == [(ID, 0, None, 0, 1), (1, codec.pack(answer(1)))]


def test_a_session_is_unknown_to_all_but_the_one_who_opened_it() -> None:
    sessions = Sessions()
    sessions.open(ID, 0, "ann")
    for stranger in (None, "", "bob"):
        assert sessions.lookup(ID, 1, 9, 5, stranger) is Verdict.EXPIRED
    assert sessions.lookup(ID, 1, 1, 0, "ann") is Verdict.NEW, "nothing of it was changed, above all not its floor"
    assert list(rows(sessions.pin())) == [(ID, 0, "ann", 1, 0)]


def test_a_table_can_be_loaded_in_its_order() -> None:
    sessions = opened()
    sessions.open(ID + 1, 1)
    executed(sessions, 1)
    assert sessions.lookup(ID, 1, 1, 9) is Verdict.REPEAT
    copy = Sessions()
    for number, session in sessions.pin():
        copy.load(number, session)
    assert list(rows(copy.pin())) == list(rows(sessions.pin()))


@pytest.mark.parametrize(
    ("number", "session"),
    [
        (ID, Session(5)),  # twice
        (ID + 1, Session(4)),  # heard of before the one before it
        (ID + 1, Session(5, floor=3, answers={2: b"x"}, size=1)),
        (ID + 1, Session(5, floor=3, answers={3 + WINDOW: b"x"}, size=1)),
        (ID + 1, Session(5, answers={1: bytes(KEPT_MAX + 1)}, size=KEPT_MAX + 1)),
        (ID + 1, Session(5, answers={1: b"x"}, size=WINDOW_BYTES + 1)),
    ],
)
def test_a_table_no_member_can_have_is_refused(number: int, session: Session) -> None:
    sessions = opened(time=5)
    with pytest.raises(ValueError, match="can't be what a table held"):
        sessions.load(number, session)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 40), st.integers(0, 12)), max_size=60))
def test_no_batch_is_executed_twice_whatever_arrives(arrivals: list[tuple[int, int]]) -> None:
    sessions, done, floor = opened(), set[int](), 0
    for sequence, behind in arrivals:
        floor = max(floor, sequence - behind)
        verdict = sessions.lookup(ID, sequence, sequence - behind if sequence > behind else 0, 0)
        if verdict is Verdict.NEW:
            assert sequence not in done
            assert sequence >= floor
            sessions.record(ID, sequence, answer(sequence))
            done.add(sequence)
        elif verdict is Verdict.REPEAT:
            assert sequence in done
            assert sessions.answers(ID, sequence) == answer(sequence)
        else:
            assert verdict is Verdict.FORGOTTEN
            assert sequence < floor
    (_, session), *_ = sessions.pin()
    assert session.size == sum(map(len, session.answers.values()))
    assert set(session.answers) == {sequence for sequence in done if sequence >= floor}


def test_refusals_are_kept_like_other_answers() -> None:
    sessions = opened()
    refused = (refuse(errors.Compacted, (3,), 5).refusal,)
    executed(sessions, 1, refused)
    assert sessions.answers(ID, 1) == refused


def test_recording_returns_what_is_kept_of_the_answers() -> None:
    sessions = opened()
    assert sessions.lookup(ID, 1, 0, 0) is Verdict.NEW
    assert sessions.record(ID, 1, answer(1)) == codec.pack(answer(1))
    assert sessions.lookup(ID, 2, 0, 0) is Verdict.NEW
    assert sessions.record(ID, 2, ((OK, 2, (b"k", bytes(KEPT_MAX), 2, 2, 1, 0)),)) == b""


def test_a_conflict_with_a_large_record_is_not_kept_but_counts_as_executed() -> None:
    sessions = opened()
    executed(sessions, 1, (refuse(errors.Conflict, (b"k", 0), (b"k", bytes(KEPT_MAX), 2, 2, 1, 0)).refusal,))
    assert sessions.lookup(ID, 1, 0, 0) is Verdict.REPEAT
    assert sessions.answers(ID, 1) is None


def test_a_conflict_is_kept_with_its_record() -> None:
    sessions = opened()
    present = (b"k", b"v", 2, 2, 1, 0)
    answers = (refuse(errors.Conflict, (b"k", 0), present).refusal, refuse(errors.Conflict, (b"k", 3), None).refusal)
    executed(sessions, 1, answers)
    assert sessions.answers(ID, 1) == answers
