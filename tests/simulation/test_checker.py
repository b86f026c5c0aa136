"""The judge must be just: odd histories that are legal pass, illegal ones are named by the promise they break."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from stories import Story

from replkv import codec
from replkv.errors import NotACounter
from replkv.messages import EntryKind
from replkv.ops import Add, Compact, Delete, Get, Grant, KeepAlive, Key, Put, Renew, Revoke, Scan, Txn
from replkv.refusals import refuse
from replkv.testing.history import Consistency, Operation, Violation


def rejects(story: Story, rule: str) -> None:
    with pytest.raises(Violation) as caught:
        story.check()
    assert caught.value.rule == rule


# -- legal ----------------------------------------------------------------------------------------------------------------------------


def test_an_empty_history_is_legal() -> None:
    Story().check()


def test_writes_and_reads_one_after_the_other_are_legal() -> None:
    story = Story()
    story.wrote(Put("k", "1"))
    story.served(story.reads(Get("k")), 2)
    story.wrote(Put("k", "2", prev_kv=True))
    story.served(story.reads(Scan(prefix="k")), 3)
    story.check()


def test_writes_that_overlap_may_take_effect_in_either_order() -> None:
    story = Story()
    first, second = story.writes(Put("k", "1")), story.writes(Put("k", "2"))
    story.logged(second)
    story.logged(first)
    story.acknowledged(first)
    story.acknowledged(second)
    story.check()


def test_a_read_that_overlaps_a_write_may_see_it_or_not() -> None:
    story = Story()
    write = story.writes(Put("k", "1"))
    early, late = story.reads(Get("k")), story.reads(Get("k"))
    story.logged(write)
    story.served(late, 2)
    story.served(early, 1)
    story.acknowledged(write)
    story.check()


def test_a_write_whose_caller_knows_nothing_may_never_take_effect() -> None:
    story = Story()
    story.history.unknown(story.writes(Put("k", "1")))
    story.served(story.reads(Get("k")), 1)
    story.check()


def test_a_write_whose_caller_knows_nothing_may_take_effect_much_later() -> None:
    story = Story()
    lost = story.writes(Put("k", "1"))
    story.history.unknown(lost)
    story.served(story.reads(Get("k")), 1)
    story.wrote(Put("k", "2"))
    story.logged(lost)
    story.served(story.reads(Get("k")), 3)
    story.check()


def test_a_failed_write_that_is_not_in_the_log_is_legal() -> None:
    story = Story()
    story.history.failed(story.writes(Put("k", "1")))
    story.served(story.reads(Get("k")), 1)
    story.check()


def test_a_failed_read_says_nothing() -> None:
    story = Story()
    story.wrote(Put("k", "1"))
    story.history.failed(story.reads(Get("k")))
    story.check()


def test_a_batch_that_is_logged_twice_takes_effect_once() -> None:
    story = Story()
    write = story.writes(Add("n", 5))
    story.logged(write, sequence=9)
    story.logged(write, sequence=9)
    story.acknowledged(write)
    story.served(story.reads(Get("n")), 2)
    story.check()


def test_a_late_copy_of_a_batch_its_member_has_done_with_takes_no_effect() -> None:
    story = Story()
    write = story.writes(Add("n", 5))
    story.history.failed(write)
    other = story.writes(Put("k", "1"))
    story.logged(other, sequence=9, lowest=9)
    story.logged(write, sequence=8)
    story.acknowledged(other)
    story.check()


def test_a_batch_of_an_expired_session_takes_effect_in_the_next_one_only() -> None:
    story = Story(session_ttl=10)
    write = story.writes(Add("n", 5))
    story.time = 11
    story.logged(write)
    session = story.opens()
    story.logged(write, session=session)
    story.acknowledged(write)
    story.served(story.reads(Get("n")), 2)
    story.check()


def test_a_session_that_is_heard_of_in_time_lives_on() -> None:
    story = Story(session_ttl=10)
    for story.time in (10, 20, 30):
        story.wrote(Add("n", story.time))
    story.served(story.reads(Get("n")), 4)
    story.check()


def test_a_local_read_may_be_stale() -> None:
    story = Story()
    story.wrote(Put("k", "1"), "a/1")
    story.served(story.peeks(Get("k"), "b/1"), 1)
    story.check()


def test_the_local_reads_of_one_process_may_stand_still() -> None:
    story = Story()
    story.wrote(Put("k", "1"), "b/1")
    for _ in range(2):
        story.served(story.peeks(Get("k"), "b/1"), 2)
    story.check()


def test_a_new_life_of_a_member_may_see_less_than_the_one_before() -> None:
    story = Story()
    story.wrote(Put("k", "1"))
    story.served(story.peeks(Get("k"), "b/1"), 2)
    story.served(story.peeks(Get("k"), "b/2"), 1)
    story.check()


def test_a_write_that_changes_nothing_shares_its_revision_with_reads() -> None:
    story = Story()
    story.wrote(Put("k", "1"))
    story.served(story.reads(Get("k")), 2)
    story.wrote(Delete("nothing"))
    story.served(story.reads(Get("k")), 2)
    story.wrote(Txn(compare=[Key("k").missing], then=[Put("k", "2")]))
    story.served(story.reads(Get("k")), 2)
    story.check()


def test_a_refusal_is_an_answer() -> None:
    story = Story()
    story.wrote(Put("k", "text"))
    add = story.writes(Add("k", 3))
    story.logged(add)
    story.returns(add, refuse(NotACounter, (b"k", False)).refusal)
    story.check()


def test_reads_of_the_past_and_of_the_future_have_their_answers() -> None:
    story = Story()
    story.wrote(Put("k", "1"))
    story.wrote(Put("k", "2"))
    story.served(story.reads(Get("k", revision=2)), 3)
    story.served(story.reads(Get("k", revision=9)), 3)
    story.check()


def test_answers_may_be_lists_where_the_model_has_tuples() -> None:
    story = Story()
    story.wrote(Put("k", "1"))
    story.returns(story.reads(Scan(prefix="k")), (0, 2, [[b"k", b"1", 2, 2, 1, 0]], 1, False), 2)
    story.check()


def test_commands_of_one_batch_take_effect_in_their_order() -> None:
    story = Story()
    first, second = story.writes(Put("k", "1")), story.writes(Put("k", "2", prev_kv=True))
    story.logged(first, second)
    story.returns(first, (0, 2, None))
    story.returns(second, (0, 3, (b"k", b"1", 2, 2, 1, 0)))
    story.check()


def test_leases_are_granted_renewed_and_revoked() -> None:
    story = Story()
    story.wrote(Grant(0, 1000, 5))
    story.wrote(Put("k", "1", lease=1))
    story.wrote(KeepAlive(5))
    story.wrote(KeepAlive(5))  # the same once more
    story.wrote(Renew(1, 0))
    story.wrote(Renew(2, 0))  # there is none
    revoked = story.wrote(Revoke(1))
    assert revoked.answer == (0, 3, 1)
    story.served(story.reads(Get("k")), 3)
    story.check()


def test_a_lease_expires_with_the_entry_whose_time_is_late_enough() -> None:
    story = Story()
    story.wrote(Grant(0, 1000, 5))
    story.wrote(Put("k", "1", lease=1))
    story.time = 999
    story.wrote(KeepAlive(5))
    story.time = 1998
    story.wrote(Put("j", "1"))
    story.served(story.reads(Get("k")), 3)
    story.time = 1999
    story.wrote(Put("j", "2"))
    story.served(story.reads(Get("k")), 5)
    assert [(expiry.lease, expiry.since) for expiry in story.witness.model.expiries] == [(1, 5)]
    story.check()


def test_a_read_of_what_is_compacted_has_its_answer() -> None:
    story = Story()
    story.wrote(Put("k", "1"))
    story.wrote(Put("k", "2"))
    early = story.reads(Get("k", revision=2))
    story.wrote(Compact(3))
    late = story.reads(Get("k", revision=2))
    story.returns(early, (0, (b"k", b"1", 2, 2, 1, 0)), 3)
    story.returns(late, (1, "compacted", 3), 3, compacted=3)
    story.check()


def test_two_commands_that_are_alike_are_two_commands() -> None:
    story = Story()
    first, second = story.writes(Compact(1)), story.writes(Compact(1))
    story.logged(first)
    story.logged(second)
    story.returns(second, (1, "compacted already", 1))
    story.returns(first, (0, 1))
    story.check()


def test_a_member_s_own_commands_are_asked_for_too() -> None:
    story = Story()
    story.logs_own(KeepAlive(5))
    story.check()


# -- illegal --------------------------------------------------------------------------------------------------------------------------


def test_an_acknowledged_write_that_is_not_in_the_log_is_lost() -> None:
    story = Story()
    story.returns(story.writes(Put("k", "1")), (0, 2, None))
    rejects(story, "D1")


def test_a_failed_write_must_not_take_effect() -> None:
    story = Story()
    write = story.writes(Put("k", "1"))
    story.history.failed(write)
    story.logged(write)
    rejects(story, "X1")


def test_a_write_must_not_take_effect_under_two_sequences() -> None:
    story = Story()
    write = story.writes(Put("k", "1"))
    story.logged(write)
    with pytest.raises(Violation, match="X2"):
        story.logged(write)


def test_a_write_must_not_take_effect_in_two_sessions() -> None:
    story = Story()
    write = story.writes(Put("k", "1"))
    session = story.opens()
    story.logged(write, sequence=1)
    with pytest.raises(Violation, match="X2"):
        story.logged(write, sequence=1, session=session)


def test_the_log_must_not_hold_what_nobody_asked_for() -> None:
    story = Story()
    stranger = Story().writes(Put("k", "1"))
    story.logged(stranger)
    rejects(story, "X2")


def test_the_log_must_not_have_a_gap() -> None:
    witness = Story().witness
    with pytest.raises(Violation, match="A1"):
        witness.apply(codec.make_entry(witness.index + 2, 1, EntryKind.BLOCK, 0, codec.encode_block([])))


def test_a_read_must_see_a_write_that_was_acknowledged_before_it_began() -> None:
    story = Story()
    story.wrote(Put("k", "1"), "a/1")
    story.served(story.reads(Get("k"), "b/1"), 1)
    rejects(story, "T1")


def test_a_lease_read_is_as_strict_as_any_other() -> None:
    story = Story()
    story.wrote(Put("k", "1"), "a/1")
    story.served(story.reads(Get("k"), "b/1", Consistency.LEASE), 1)
    rejects(story, "T1")


def test_a_read_must_not_see_less_than_an_earlier_read_elsewhere() -> None:
    story = Story()
    write = story.writes(Put("k", "1"))
    story.logged(write)
    story.served(story.reads(Get("k"), "a/1"), 2)
    story.served(story.reads(Get("k"), "b/1"), 1)
    story.acknowledged(write)
    rejects(story, "T1")


def test_writes_must_take_effect_in_the_order_of_real_time() -> None:
    story = Story()
    first = story.writes(Put("k", "1"))
    story.returns(first, (0, 3, None))
    second = story.writes(Put("j", "2"))
    story.logged(second)
    story.logged(first)
    story.returns(second, (0, 2, None))
    rejects(story, "T1")


def test_an_unknown_write_must_not_take_effect_before_its_call() -> None:
    story = Story()
    early = Story().writes(Put("k", "0"))
    story.logged(early)
    story.wrote(Put("k", "1"))
    operation = story.writes(Put("k", "0"))
    story.history.unknown(operation)
    rejects(story, "T1")


@pytest.mark.parametrize(
    "answer",
    [
        (0, (b"k", b"2", 2, 2, 1, 0)),  # value
        (0, (b"k", b"1", 2, 3, 1, 0)),  # mod revision
        (0, (b"k", b"1", 1, 2, 1, 0)),  # create revision
        (0, (b"k", b"1", 2, 2, 2, 0)),  # version
        (0, (b"k", b"1", 2, 2, 1, 7)),  # lease
        (0, None),
        (1, "compacted"),
    ],
)
def test_a_read_must_not_answer_wrongly(answer: tuple[object, ...]) -> None:
    story = Story()
    story.wrote(Put("k", "1"))
    story.returns(story.reads(Get("k")), answer, 2)
    rejects(story, "T1")


@pytest.mark.parametrize("answer", [(0, 3, None), (0, 2, (b"k", b"0", 1, 1, 1, 0)), (0, 2, None, None), (4, "too many")])
def test_a_write_must_not_answer_wrongly(answer: tuple[object, ...]) -> None:
    story = Story()
    write = story.writes(Put("k", "1"))
    story.logged(write)
    story.returns(write, answer)
    rejects(story, "T1")


def test_a_transaction_must_take_the_branch_its_compares_tell() -> None:
    story = Story()
    write = story.writes(Txn(compare=[Key("k").exists], then=[Put("k", "1")], otherwise=[Put("j", "1")]))
    story.logged(write)
    story.returns(write, (0, 2, True, ((0, 2, None),)))
    rejects(story, "T1")


def test_a_counter_must_not_lose_an_addition() -> None:
    story = Story()
    story.wrote(Add("n", 1))
    add = story.writes(Add("n", 2))
    story.logged(add)
    story.returns(add, (0, 3, 2))
    rejects(story, "T1")


def test_a_refused_command_must_not_be_answered_as_done() -> None:
    story = Story()
    story.wrote(Put("k", "text"))
    add = story.writes(Add("k", 3))
    story.logged(add)
    story.returns(add, (0, 3, 3))
    rejects(story, "T1")


def test_a_read_must_not_see_what_was_never_committed() -> None:
    story = Story()
    story.returns(story.peeks(Get("k")), (0, (b"k", b"1", 2, 2, 1, 0)), 2)
    rejects(story, "D2")


def test_the_local_reads_of_one_process_must_not_go_back() -> None:
    story = Story()
    story.wrote(Put("k", "1"), "a/1")
    story.served(story.peeks(Get("k"), "b/1"), 2)
    story.served(story.peeks(Get("k"), "b/1"), 1)
    rejects(story, "T2")


def test_a_local_read_must_see_its_own_process_s_acknowledged_write() -> None:
    story = Story()
    story.wrote(Put("k", "1"), "a/1")
    story.served(story.peeks(Get("k"), "a/1"), 1)
    rejects(story, "T2")


def test_a_read_of_what_is_compacted_must_not_be_answered() -> None:
    story = Story()
    story.wrote(Put("k", "1"))
    story.wrote(Put("k", "2"))
    story.wrote(Compact(3))
    story.returns(story.reads(Get("k", revision=2)), (0, (b"k", b"1", 2, 2, 1, 0)), 3, compacted=3)
    rejects(story, "T1")


def test_a_refusal_must_name_the_revision_that_is_kept() -> None:
    story = Story()
    story.wrote(Put("k", "1"))
    story.wrote(Put("k", "2"))
    story.wrote(Compact(3))
    story.returns(story.reads(Get("k", revision=1)), (1, "compacted", 2), 3, compacted=3)
    rejects(story, "T1")


def test_a_conflict_must_tell_the_present_state() -> None:
    story = Story()
    story.wrote(Put("k", "1"))
    write = story.writes(Put("k", "2", if_mod_revision=7))
    story.logged(write)
    story.returns(write, (7, "conflict", (b"k", b"1", 2, 2, 2, 0)))
    rejects(story, "T1")


def test_a_write_beyond_the_quota_must_be_refused() -> None:
    story = Story(max_bytes=100)
    story.wrote(Put("k", "1"))
    write = story.writes(Put("j", "1"))
    story.logged(write)
    story.returns(write, (0, 3, None))
    rejects(story, "T1")


def test_two_acknowledged_commands_that_are_alike_must_both_be_in_the_log() -> None:
    story = Story()
    first, second = story.writes(KeepAlive(5)), story.writes(KeepAlive(5))
    story.logged(first)
    story.acknowledged(first)
    story.returns(second, (0, 0))
    rejects(story, "D1")


def test_a_command_that_may_be_repeated_must_still_take_effect_once() -> None:
    story = Story()
    write = story.writes(Grant(0, 1000, 0))
    story.logged(write, sequence=1)
    story.logged(write, sequence=2)
    story.history.unknown(write)
    rejects(story, "X2")


def test_the_log_must_not_hold_a_compaction_nobody_asked_for() -> None:
    story = Story()
    story.logged(Story().writes(Compact(1)))
    rejects(story, "X2")


def test_writes_that_make_no_revision_must_stand_in_the_order_of_real_time() -> None:
    story = Story()
    first = story.writes(Grant(0, 1000, 0))
    story.returns(first, (0, 2, 1000))
    second = story.writes(Grant(0, 1000, 0))
    story.logged(second)
    story.logged(first)
    story.returns(second, (0, 1, 1000))
    rejects(story, "T1")


def test_a_member_must_get_the_right_answer_to_its_own_command() -> None:
    story = Story()
    story.logs_own(KeepAlive(5), answer=(0, 1))
    rejects(story, "T1")


def test_a_fresh_read_must_see_what_was_acknowledged_by_then() -> None:
    story = Story()
    story.wrote(Put("k", "1"), "a/1")
    then = story.history.moment
    story.wrote(Put("k", "2"), "a/1")
    read = story.peeks(Get("k"), "b/1")
    read.fresh = then
    story.served(read, 2)
    story.check()
    read.fresh = story.history.moment
    rejects(story, "T1")


def test_every_call_must_end() -> None:
    story = Story()
    story.writes(Put("k", "1"))
    rejects(story, "X3")


def test_no_call_may_end_twice() -> None:
    story = Story()
    write = story.wrote(Put("k", "1"))
    with pytest.raises(Violation, match="X3"):
        story.history.unknown(write)


# -- many ------------------------------------------------------------------------------------------------------------------------------


def random_story(seed: int) -> Story:
    """Clients that overlap as they like, over a log that is right."""
    rng = random.Random(seed)
    story = Story()
    waiting: list[tuple[Operation, int]] = []
    for number in range(rng.randrange(1, 40)):
        key = f"k{rng.randrange(3)}"
        choice = (Put(key, f"v{number}", prev_kv=True), Add("n", number + 1), Delete(start=key, end=f"{key}\0{number}"), Get(key))
        operation = rng.choice(choice)
        if isinstance(operation, Get):
            waiting.append((story.reads(operation), story.witness.model.revision))
        else:
            write = story.writes(operation)
            story.logged(write)
            waiting.append((write, 0))
        rng.shuffle(waiting)
        while waiting and rng.random() < 0.6:
            finish(story, rng, *waiting.pop())
    for pair in waiting:
        finish(story, rng, *pair)
    return story


def finish(story: Story, rng: random.Random, operation: Operation, least: int) -> None:
    """Let an operation return: a read, which may not see less than ``least``, or a write."""
    if least:
        story.served(operation, rng.randint(least, story.witness.model.revision))
    elif rng.random() < 0.2:
        story.history.unknown(operation)
    else:
        story.acknowledged(operation)


@given(st.integers(0, 10**9))
@settings(max_examples=200, deadline=None)
def test_whatever_a_right_log_and_overlapping_clients_make_is_legal(seed: int) -> None:
    random_story(seed).check()


@given(st.integers(0, 10**9))
@settings(max_examples=200, deadline=None)
def test_one_wrong_answer_is_found(seed: int) -> None:
    story = random_story(seed)
    answered = [operation for operation in story.history.operations if operation.answer is not None]
    if not answered:
        return
    victim = random.Random(seed).choice(answered)
    assert victim.answer is not None
    victim.answer = (0, 999, *victim.answer[2:])
    with pytest.raises(Violation):
        story.check()
