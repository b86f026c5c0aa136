"""A member whose disk lost a part of its log: what it may not do until it is healed, and that nothing acknowledged is lost with it."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st
from raft_harness import (
    AFTER,
    TIMING,
    acknowledge,
    block,
    configuration,
    do,
    elected,
    founding,
    raft,
)
from rotting import Rotting

from replkv import quorum
from replkv.caution import ASK_EVERY, BEGIN_ANEW, Caution
from replkv.messages import (
    NOWHERE,
    UNKNOWN,
    Append,
    AppendReply,
    Census,
    CensusReply,
    Configuration,
    EntryKind,
    HardState,
    Position,
    RaftMessage,
    ReadIndex,
    SnapshotMeta,
    TimeoutNow,
    Vote,
    VoteReply,
)
from replkv.progress import Pace
from replkv.raft import Raft, Role

FIRST = founding("a", "b", "c")
NOW = 50.0


def answer(number: int, last: tuple[int, int] = (1, 1), *, term: int = 1, in_doubt: bool = False) -> CensusReply:
    return CensusReply(number, term, last[1], last[0], in_doubt)


def heard(caution: Caution, sender: str, reply: CensusReply, now: float, configured: int = 1, known: Configuration | None = None) -> None:
    """Hand over an answer, to a member whose newest configuration is the founders'."""
    caution.heard(sender, reply, now, configured, known or Configuration(()))


def question(caution: Caution, others: str = "bc", now: float = NOW) -> int:
    """Return the number of what is asked now."""
    ((_, census), *_) = caution.questions(others, now)
    return census.id


# -- by itself ------------------------------------------------------------------------------------------------------------------------


def test_it_asks_at_once_and_then_again_those_who_did_not_answer_or_did_not_know() -> None:
    caution = Caution(UNKNOWN, 7, NOW)
    assert caution.questions("bcd", NOW) == [(name, Census(7)) for name in "bcd"]
    assert caution.questions("bcd", NOW + ASK_EVERY - 0.01) == []
    heard(caution, "b", answer(7, in_doubt=True), NOW + 0.1)
    assert caution.questions("bcd", NOW + 0.1) == [(name, Census(8)) for name in "bcd"]
    heard(caution, "b", answer(8, in_doubt=True), NOW + 0.2)
    heard(caution, "c", answer(8), NOW + 0.2)
    assert caution.ask_at == NOW + 0.1 + ASK_EVERY
    assert caution.questions("bcd", caution.ask_at) == [(name, Census(8)) for name in "bd"]


BEFORE = Configuration(("a", "b", "c"), members={"a": 1, "b": 2, "c": 3})


@pytest.mark.parametrize(
    ("configured", "newer", "outgrown"),
    [
        (5, Configuration(("a", "b"), members={"a": 1, "b": 2}), True),
        (5, Configuration(("a", "b", "c"), members={"a": 1, "b": 2, "c": 4}), True),
        (5, Configuration(("a", "b", "c", "d"), members={"a": 1, "b": 2, "c": 3, "d": 4}), True),
        (5, Configuration(("a", "b", "d"), ("a", "b", "c"), members={"a": 1, "b": 2, "c": 3, "d": 4}), True),
        (5, Configuration(("a", "b", "c"), (), ("d",), {"a": 1, "b": 2, "c": 3, "d": 4}, {"a": "tcp://a:1"}), False),
        (4, Configuration(("a", "b"), members={"a": 1, "b": 2}), False),
        (3, Configuration(("a", "d"), members={"a": 1, "d": 4}), False),
    ],
)
def test_who_votes_by_a_newer_configuration_is_not_for_it_to_say(configured: int, newer: Configuration, outgrown: bool) -> None:
    """All whom it knows have answered; but others may have decided since, and one of those who answer has to know of that."""
    caution = Caution(UNKNOWN, 7, NOW)
    heard(caution, "b", CensusReply(7, 3, 9, 3, configured=configured, configuration=newer), NOW, 4, BEFORE)
    assert caution.outgrown is outgrown
    heard(caution, "c", answer(7, (3, 8)), NOW, 4, BEFORE)
    assert caution.outgrown is outgrown, "one is enough, and nobody takes it back"
    assert caution.settle("a", BEFORE, Position(1, 1)) is not outgrown
    assert caution.in_doubt is outgrown


def test_an_answer_to_another_question_tells_of_no_newer_voters() -> None:
    caution = Caution(UNKNOWN, 7, NOW)
    heard(caution, "b", CensusReply(6, 3, 9, 3, configured=9, configuration=Configuration(("b",), members={"b": 2})), NOW, 4, BEFORE)
    assert not caution.outgrown


def test_it_says_what_it_waits_for() -> None:
    """Nothing did: a member that waited for one that was gone looked like a cluster that elects nobody."""
    voters = configuration("a", "b", "c")
    caution = Caution(UNKNOWN, 7, NOW)
    assert (
        caution.wants("a", voters)
        == f"lost the end of its log, and takes no part until it has heard b, c: start what is down, or {BEGIN_ANEW}"
    )
    heard(caution, "b", answer(7, in_doubt=True), NOW)
    assert "lost the end of its log, and so did b, a majority of all voters: put back a copy" in caution.wants("a", voters)
    caution = Caution(Position(2, 9), 7, NOW)
    heard(caution, "b", answer(7, (2, 9)), NOW)
    assert "sent it the entries up to 9, or it has heard c: start what is down" in caution.wants("a", voters)
    heard(caution, "c", answer(7, (2, 8)), NOW)
    assert "others have lost the same: put back a copy" in caution.wants("a", voters)


def test_an_answer_to_another_lifes_question_tells_nothing() -> None:
    caution = Caution(UNKNOWN, 7, NOW)
    for number in (0, 6, 8):
        heard(caution, "b", answer(number, term=9), NOW)
        heard(caution, "c", answer(number, term=9), NOW)
    assert caution.term == 0
    assert not caution.settle("a", configuration("a", "b", "c"), NOWHERE)
    assert caution.in_doubt


def test_the_floor_is_the_newest_end_of_any_log_that_is_whole() -> None:
    caution = Caution(UNKNOWN, 7, NOW)
    voters = configuration("a", "b", "c", "d", "e")
    heard(caution, "e", answer(7, (9, 99), term=9, in_doubt=True), NOW)
    for name, last in {"b": (2, 3), "c": (1, 8), "d": (2, 2)}.items():
        assert not caution.settle("a", voters, Position(1, 5)), "not all have answered"
        heard(caution, name, answer(8, last, term=4), NOW)
    assert caution.settle("a", voters, Position(1, 5))
    assert (caution.floor, caution.term, caution.in_doubt) == (Position(2, 3), 9, False)


def test_the_own_log_bounds_the_floor_too() -> None:
    caution = Caution(UNKNOWN, 7, NOW)
    for name in "bc":
        heard(caution, name, answer(7, (1, 3)), NOW)
    assert caution.settle("a", configuration("a", "b", "c"), Position(1, 5))
    assert caution.floor == Position(1, 5)


def test_a_floor_that_is_known_is_lowered_to_what_anybody_else_reached_and_never_raised() -> None:
    for known, expected in ((Position(3, 9), Position(2, 4)), (Position(2, 4), Position(2, 4)), (Position(1, 9), Position(1, 9))):
        caution = Caution(known, 7, NOW)
        heard(caution, "b", answer(7, (2, 4)), NOW)
        heard(caution, "c", answer(7, (2, 3)), NOW)
        assert caution.settle("a", configuration("a", "b", "c"), Position(1, 2)) == (expected < known)
        assert caution.floor == expected
        assert not caution.settle("a", configuration("a", "b", "c"), Position(1, 2))


def test_whoever_answered_before_another_turned_out_to_be_in_doubt_is_asked_again() -> None:
    """The one in doubt may have led until it stopped, and decided something with the others after they had answered."""
    caution, voters = Caution(UNKNOWN, 7, NOW), configuration("a", "b", "c", "d", "e")
    for name in "bcd":
        heard(caution, name, answer(7, (1, 5)), NOW)
    heard(caution, "e", answer(7, in_doubt=True), NOW)
    assert not caution.settle("a", voters, NOWHERE)
    number = question(caution, "bcde")
    assert number != 7
    heard(caution, "b", answer(7, (1, 5)), NOW)
    for name in "bcd":
        assert not caution.settle("a", voters, NOWHERE)
        heard(caution, name, answer(number, (1, 6)), NOW)
    assert caution.settle("a", voters, NOWHERE)
    assert caution.floor == Position(1, 6)


def test_who_was_in_doubt_and_knows_by_now_counts_as_one_that_knows() -> None:
    caution = Caution(UNKNOWN, 7, NOW)
    heard(caution, "b", answer(7, in_doubt=True), NOW)
    number = question(caution)
    heard(caution, "c", answer(number, (1, 4)), NOW)
    assert not caution.settle("a", configuration("a", "b", "c"), NOWHERE), "a and b could have decided what c does not know of"
    heard(caution, "b", answer(number, (1, 5)), NOW)
    assert caution.settle("a", configuration("a", "b", "c"), NOWHERE)
    assert caution.floor == Position(1, 5)


configurations = st.builds(
    lambda voters, outgoing: configuration(*sorted(voters), outgoing=tuple(sorted(outgoing))),
    st.sets(st.sampled_from("abcde"), min_size=1),
    st.one_of(st.just(set[str]()), st.sets(st.sampled_from("abcde"), min_size=1)),
)


@given(configurations, st.sets(st.sampled_from("bcde")), st.sets(st.sampled_from("bcde")))
def test_a_doubt_ends_exactly_when_no_majority_could_have_decided_anything_unseen(
    voters: object, answered: set[str], doubtful: set[str]
) -> None:
    assert isinstance(voters, type(configuration("a")))
    caution = Caution(UNKNOWN, 7, NOW)
    for name in sorted(doubtful & answered):
        heard(caution, name, answer(question(caution, "bcde", caution.ask_at), in_doubt=True), NOW)
    number = question(caution, "bcde", caution.ask_at)
    for name in sorted(doubtful & answered):
        heard(caution, name, answer(number, in_doubt=True), NOW)
    for name in sorted(answered - doubtful):
        heard(caution, name, answer(number), NOW)
    everybody = {*voters.voters, *voters.outgoing}
    all_answered = everybody <= answered | {"a"}
    majorities = [set(some) for size in range(6) for some in itertools.combinations("abcde", size) if quorum.won(voters, some)]
    seen = all(majority & (answered - doubtful) for majority in majorities)
    assert caution.settle("a", voters, NOWHERE) == (all_answered and seen)
    assert caution.in_doubt == (not all_answered or not seen)


# -- a member with a floor --------------------------------------------------------------------------------------------------------------


def cautious(floor: tuple[int, int] = (1, 4), *, name: str = "a", term: int = 1, vote: str | None = None) -> Raft:
    """One of a, b, c that has two entries left of a log that ended at ``floor``."""
    return raft(name, FIRST, block(2, 1), term=term, vote=vote, floor=Position(*floor))


def doubtful(*, name: str = "a", term: int = 1, vote: str | None = None) -> Raft:
    return raft(name, FIRST, block(2, 1), term=term, vote=vote, floor=UNKNOWN)


def said(member: Raft, sender: str, message: RaftMessage, now: float = AFTER) -> list[RaftMessage]:
    """Return what a member answers the sender, durable things included."""
    member.receive(sender, message, now)
    return [answered for to, answered in do(member, now).messages if to == sender]


def asked(member: Raft, now: float) -> int:
    """Let a member ask its questions; return their number."""
    member.tick(now)
    censuses = [message for _, message in do(member, now).messages if isinstance(message, Census)]
    assert censuses
    return censuses[0].id


@pytest.mark.parametrize(
    ("last", "granted"), [((1, 2), False), ((1, 3), False), ((1, 4), True), ((1, 5), True), ((2, 2), True), ((0, 9), False)]
)
def test_a_member_with_a_floor_votes_only_for_candidates_that_reach_it(last: tuple[int, int], *, granted: bool) -> None:
    for pre in (True, False):
        member = cautious()
        (reply,) = said(member, "b", Vote(5, last[1], last[0], pre=pre))
        assert isinstance(reply, VoteReply)
        assert reply.granted is granted
    assert member.hard_state == HardState(5, "b" if granted else None)


def test_a_member_with_a_floor_does_not_stand_however_long_it_waits_and_whoever_asks_it_to() -> None:
    member = cautious()
    for tick in range(20):
        member.tick(AFTER + 2 * tick)
        assert {type(message) for _, message in do(member, AFTER).messages} <= {Census}
    said(member, "b", Append(1, 2, 1, 0, 1, 0), AFTER + 50)
    said(member, "b", TimeoutNow(1), AFTER + 50)
    member.stand(AFTER + 50)
    do(member, AFTER + 50)
    assert (member.term, member.role) == (1, Role.FOLLOWER)


def test_a_member_with_a_floor_acknowledges_what_it_takes_and_is_healed_when_that_reaches_the_floor_durably() -> None:
    member = cautious()
    assert said(member, "b", Append(1, 2, 1, 0, 1, 0, (block(3, 1),))) == [AppendReply(1, 1, 3)]
    member.tick(AFTER + 5)
    assert member.role is Role.FOLLOWER
    do(member, AFTER)
    member.receive("b", Append(1, 3, 1, 0, 2, 0, (block(4, 1),)), AFTER + 5)
    ready = member.take()
    assert ready is not None
    assert ready.entries
    assert member._caution is not None, "not yet durable"
    member.synced(4, 1, AFTER + 5)
    assert member._caution is None
    member.tick(AFTER + 20)
    assert member.role is Role.PRE_CANDIDATE


def test_entries_of_a_later_term_are_beyond_any_floor() -> None:
    member = cautious((1, 9))
    said(member, "b", Append(2, 2, 1, 0, 1, 0, (block(3, 2),)))
    assert member._caution is None


def test_a_snapshot_beyond_the_floor_heals_too() -> None:
    member = cautious((1, 9))
    meta = SnapshotMeta(9, 1, configuration("a", "b", "c"))
    assert member.wants(meta)
    member.install(meta, AFTER)
    assert member._caution is None


def test_a_log_that_reaches_its_floor_needs_no_caution() -> None:
    assert cautious((1, 2))._caution is None
    assert cautious((1, 1))._caution is None


def test_what_a_member_with_a_floor_tells_others_of_its_end_is_the_floor() -> None:
    assert said(cautious(), "b", Census(99)) == [CensusReply(99, 1, 4, 1, configured=1, configuration=configuration("a", "b", "c"))]


def test_a_leader_begins_anew_with_a_member_that_lost_something_and_forgets_what_it_acknowledged_before() -> None:
    leader = elected(raft())
    leader.propose(EntryKind.BLOCK, b"x", AFTER)
    do(leader, AFTER)
    stale = AppendReply(leader.term, leader._lead.rounds.current if leader._lead else 0, 3)
    acknowledge(leader, "b", match=2)
    assert leader.peers["b"].match == 2
    leader.receive("b", Census(5), AFTER)
    (reply,) = [message for to, message in do(leader, AFTER).messages if to == "b" and isinstance(message, CensusReply)]
    assert reply == CensusReply(5, leader.term, 3, leader.term, configured=1, configuration=leader.configuration)
    peer = leader.peers["b"]
    assert (peer.match, peer.pace) == (0, Pace.PROBE)
    leader.receive("b", stale, AFTER)
    do(leader, AFTER)
    assert (peer.match, leader.commit) == (0, 2)
    acknowledge(leader, "b", match=3)
    assert (peer.match, leader.commit) == (3, 3)


def test_a_member_that_lost_what_it_had_acknowledged_is_sent_it_again() -> None:
    leader = elected(raft())
    for _ in range(3):
        leader.propose(EntryKind.BLOCK, b"x", AFTER)
    do(leader, AFTER)
    acknowledge(leader, "b", "c")
    assert leader.commit == 5
    lost = raft("b", FIRST, block(2, 1, leader._log.between(2, 2)[0].payload), term=leader.term, floor=leader._log.end)
    exchange({"a": leader, "b": lost}, AFTER)
    assert lost._caution is None
    assert lost.last_index == 5
    assert leader.peers["b"].match == 5


def exchange(members: dict[str, Raft], begin: float, seconds: float = 3.0) -> None:
    """Let members talk to each other, every message once and at once."""
    for step in range(int(seconds / 0.05)):
        now = begin + step * 0.05
        for name, member in members.items():
            member.tick(now)
            messages = do(member, now).messages
            while messages:
                to, message = messages.pop(0)
                if to in members:
                    members[to].receive(name, message, now)


# -- in doubt ---------------------------------------------------------------------------------------------------------------------------


EVERYTHING: list[RaftMessage] = [
    Vote(5, 9, 4),
    Vote(5, 9, 4, pre=True),
    Vote(5, 9, 4, transfer=True),
    VoteReply(5, granted=True),
    VoteReply(5, granted=True, pre=True),
    Append(5, 2, 1, 2, 1, 0, (block(3, 1),)),
    Append(5, 2, 1, 2, 1, 0),
    Append(5, 9, 5, 2, 1, 0),
    AppendReply(5, 1, 2),
    ReadIndex(5, 3),
    TimeoutNow(5),
]


@pytest.mark.parametrize("message", EVERYTHING, ids=str)
def test_a_member_in_doubt_neither_votes_nor_acknowledges_nor_learns_anything(message: RaftMessage) -> None:
    member = doubtful(vote="c")
    assert said(member, "b", message) == []
    assert (member.hard_state, member.last_index, member.commit, member.leader) == (HardState(1, "c"), 2, 0, None)


def test_a_member_in_doubt_says_so_when_it_is_asked() -> None:
    assert said(doubtful(term=3), "b", Census(9)) == [CensusReply(9, 3, 0, 0, True, 1, configuration("a", "b", "c"))]


def test_a_member_in_doubt_stays_so_until_everybody_has_answered() -> None:
    member = doubtful()
    number = asked(member, AFTER)
    member.receive("b", answer(number, (4, 9), term=4), AFTER)
    ready = do(member, AFTER)
    assert (ready.hard_state, ready.floor) == (None, None)
    assert member.in_doubt
    assert asked(member, AFTER + ASK_EVERY) == number
    member.receive("c", answer(number, (3, 9), term=6), AFTER + ASK_EVERY)
    ready = do(member, AFTER + ASK_EVERY)
    assert (ready.hard_state, ready.floor) == (HardState(6, "a"), Position(4, 9))
    assert not member.in_doubt


def test_a_doubt_that_ended_leaves_a_floor_and_a_vote_that_is_spent() -> None:
    member = settled(doubtful(), (1, 4), term=6)
    assert said(member, "b", Vote(6, 9, 5)) == [VoteReply(6, granted=False)]
    assert said(member, "b", Vote(7, 3, 1)) == [VoteReply(7, granted=False)]
    assert said(member, "c", Vote(8, 4, 1)) == [VoteReply(8, granted=True)]


def test_a_vote_that_is_known_to_be_the_newest_stays_what_it_was() -> None:
    member = settled(doubtful(term=6, vote="c"), (1, 4), term=6)
    assert said(member, "b", Vote(6, 9, 5)) == [VoteReply(6, granted=False)]
    assert said(member, "c", Vote(6, 9, 5)) == [VoteReply(6, granted=True)]


def settled(member: Raft, last: tuple[int, int], *, term: int) -> Raft:
    """End a member's doubt."""
    number = asked(member, AFTER)
    for name in member.configuration.voters:
        member.receive(name, answer(number, last, term=term), AFTER)
    do(member, AFTER)
    assert not member.in_doubt
    return member


def test_nothing_that_rests_on_a_settled_doubt_leaves_before_it_is_durable() -> None:
    member = doubtful()
    number = asked(member, AFTER)
    for name in "bc":
        member.receive(name, answer(number, (1, 4), term=6), AFTER)
    member.receive("b", Append(6, 2, 1, 0, 1, 0), AFTER)
    ready = member.take()
    assert ready is not None
    assert (ready.hard_state, ready.floor, ready.messages) == (HardState(6, "a"), Position(1, 4), [])
    assert ready.after_sync == [("b", AppendReply(6, 1, 2))]


def test_a_member_that_turns_out_to_have_lost_nothing_is_healed_at_once() -> None:
    """It waited for the next entry once, and did not stand, though nobody had more than it."""
    member = settled(doubtful(), (1, 2), term=1)
    assert member._caution is None
    member.tick(AFTER + 20)
    assert member.role is Role.PRE_CANDIDATE


def test_a_member_in_doubt_is_healed_by_the_leader_there_is() -> None:
    leader = elected(raft())
    for _ in range(3):
        leader.propose(EntryKind.BLOCK, b"x", AFTER)
    do(leader, AFTER)
    acknowledge(leader, "b", "c")
    lost = raft("b", FIRST, floor=UNKNOWN)
    third = raft("c", FIRST, *leader._log.between(2, 5), term=leader.term)
    exchange({"a": leader, "b": lost, "c": third}, AFTER)
    assert (lost._caution, lost.last_index, lost.commit) == (None, 5, 5)
    assert leader.role is Role.LEADER


# -- that nothing is lost -----------------------------------------------------------------------------------------------------------------


def test_an_entry_on_the_leader_and_the_damaged_member_alone_outlives_the_leader() -> None:
    """b acknowledged entry 3 to its leader c, which answered its caller and died; a, that lacks it, must not be elected."""
    rotten = raft("b", FIRST, block(2, 1), term=1, floor=Position(1, 3))
    behind = raft("a", FIRST, block(2, 1), term=1)
    exchange({"a": behind, "b": rotten}, AFTER, 30.0)
    assert {behind.role, rotten.role} <= {Role.FOLLOWER, Role.PRE_CANDIDATE, Role.CANDIDATE}
    back = raft("c", FIRST, block(2, 1), block(3, 1, b"acknowledged"), term=1)
    exchange({"a": behind, "b": rotten, "c": back}, AFTER + 30, 10.0)
    for member in (behind, rotten, back):
        assert member._log.between(3, 3)[0].payload == b"acknowledged"
        assert member.commit > 3
    assert rotten._caution is None


def test_a_member_in_doubt_does_not_help_without_the_one_that_may_have_what_it_lost() -> None:
    rotten, behind = raft("b", FIRST, floor=UNKNOWN), raft("a", FIRST, block(2, 1))
    exchange({"a": behind, "b": rotten}, AFTER, 30.0)
    assert rotten.in_doubt
    assert behind.role is not Role.LEADER
    back = raft("c", FIRST, block(2, 1), block(3, 1, b"acknowledged"), term=1)
    exchange({"a": behind, "b": rotten, "c": back}, AFTER + 30, 10.0)
    assert [member._log.between(3, 3)[0].payload for member in (behind, rotten, back)] == [b"acknowledged"] * 3
    assert rotten._caution is None


def test_a_vote_that_was_lost_is_not_given_again() -> None:
    """b voted for c in term 2, c leads it; b lost its last flush: in term 2 it must not vote for a."""
    rotten = raft("b", FIRST, term=1, floor=UNKNOWN)
    number = asked(rotten, AFTER)
    rotten.receive("a", answer(number, (1, 1), term=1), AFTER)
    rotten.receive("c", answer(number, (2, 2), term=2), AFTER)
    do(rotten, AFTER)
    assert said(rotten, "a", Vote(2, 9, 2)) == [VoteReply(2, granted=False)]


def test_what_two_members_wrote_to_their_own_disks_alone_does_not_keep_the_other_of_two_from_leading() -> None:
    """Of two voters a led and wrote entries 3 to 9 that b never had; a lost them: they can't have been decided."""
    for floor in (Position(1, 9), UNKNOWN):
        pair = founding("a", "b")
        members = {"a": raft("a", pair, floor=floor), "b": raft("b", pair, block(2, 1))}
        exchange(members, AFTER, 10.0)
        assert members["b"].role is Role.LEADER
        assert members["a"]._caution is None
        assert members["a"].commit == members["b"].commit > 2


def test_two_damaged_members_of_five_do_not_lose_what_one_of_them_decided_as_leader_while_the_other_asked() -> None:
    """a, in doubt, has heard b when e, leading, decides entry 3 with b and with what a had acknowledged before; then e is damaged too.

    The answer of b no longer bounds what a may have acknowledged: c and d must not be elected without entry 3.
    """
    first = founding(*"abcde")
    member = raft("a", first, term=1, floor=UNKNOWN)
    number = asked(member, AFTER)
    for name in "bcd":
        member.receive(name, answer(number, (1, 2)), AFTER)
    member.receive("e", answer(number, in_doubt=True), AFTER)
    do(member, AFTER)
    assert member.in_doubt
    number = asked(member, AFTER)
    for name, last in {"b": (1, 3), "c": (1, 2), "d": (1, 2), "e": (0, 0)}.items():
        member.receive(name, answer(number, last, in_doubt=name == "e"), AFTER)
        do(member, AFTER)
    assert not member.in_doubt
    assert said(member, "c", Vote(2, 2, 1)) == [VoteReply(2, granted=False)]
    assert said(member, "b", Vote(3, 3, 1)) == [VoteReply(3, granted=True)]


# -- a member without room ----------------------------------------------------------------------------------------------------------------


def full(*entries: int) -> Raft:
    """Member a, following b, with a log up to the newest of ``entries`` and no room for more."""
    member = raft("a", FIRST, *(block(index, 1) for index in entries))
    said(member, "b", Append(1, member.last_index, 1, 0, 1, 0))
    member.full = True
    return member


def test_a_full_member_refuses_entries_and_says_where_its_log_ends() -> None:
    member = full(2, 3)
    member.receive("b", Append(1, 3, 1, 0, 2, 0, (block(4, 1),)), AFTER)
    ready = do(member, AFTER)
    assert ready.messages == [("b", AppendReply(1, 2, 0, rejected=True, hint_index=3, hint_term=1))]
    assert (ready.entries, member.last_index) == ([], 3)


def test_a_full_member_learns_what_is_committed_of_what_it_has() -> None:
    member = full(2, 3)
    member.receive("b", Append(1, 3, 1, 4, 2, 0, (block(4, 1),)), AFTER)
    assert [entry.index for entry in do(member, AFTER).committed] == [1, 2, 3]


def test_a_full_member_confirms_rounds_and_is_sent_no_more_than_heartbeats_until_it_has_room() -> None:
    leader = elected(raft("b"))
    acknowledge(leader, "a", "c")
    member = full(2)
    member = raft("a", *leader._log.between(1, 2), term=leader.term)
    said(member, "b", Append(leader.term, 2, leader.term, 0, 1, 0))
    member.full = True
    leader.read(1, AFTER)
    leader.propose(EntryKind.BLOCK, b"x", AFTER)
    reads, appends, now = [], 0, AFTER
    for _ in range(100):
        now += 0.01
        leader.tick(now)
        ready = do(leader, now)
        reads += ready.reads
        for to, message in ready.messages:
            if to == "a" and isinstance(message, Append):
                appends += 1
                for reply in said(member, "b", message, now):
                    leader.receive("a", reply, now)
    assert [number for number, _ in reads] == [1], "a confirms the round, c is silent"
    assert leader.role is Role.LEADER
    assert appends <= 1 + 1.0 / TIMING.heartbeat + 1
    assert (member.last_index, leader.commit) == (2, 2)
    member.full = False
    exchange({"a": member, "b": leader}, now, 1.0)
    assert (member.last_index, leader.commit) == (3, 3)


def test_a_full_leader_proposes_nothing() -> None:
    leader = elected(raft())
    leader.full = True
    assert not leader.can_propose
    assert leader.propose(EntryKind.BLOCK, b"x", AFTER) is None
    leader.full = False
    assert leader.propose(EntryKind.BLOCK, b"x", AFTER) == 3


# -- whole clusters -----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("names", ["ab", "abc", "abcd", "abcde"])
@pytest.mark.parametrize("seed", range(6))
def test_damage_to_fewer_than_half_of_the_disks_loses_nothing_and_heals_by_itself(names: str, seed: int) -> None:
    Rotting(names, seed).play(60, (0, 0.01, 0.1, 0.5, 2.0))


def test_damage_happens_and_is_healed_in_these_plays() -> None:
    healed = 0
    for seed in range(3):
        cluster = Rotting("abc", seed)
        cluster.play(60, (0.5, 2.0))
        healed += cluster.healed
    assert healed > 10
