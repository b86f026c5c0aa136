"""``keeper.py``: a holder gives up before the cluster does, one entry keeps all leases alive, and none is kept alive for nobody."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_machine import Log

from replkv import codec, ops, wire
from replkv.errors import Closed, OutcomeUnknown
from replkv.keeper import MARGIN, Held, Keeper
from replkv.kv import run
from replkv.machine import Machine
from replkv.proposals import Call, OwnCall
from replkv.wire import Raw

ME, OTHER = 77, 88
TTL = 3.0


class Cluster:
    """A keeper, the log its commands go to, and a clock that moves when it is told to.

    ``asked`` are the member's own commands that wait.  An entry is applied by the cluster at once, and by this member with its keeper when
    it catches up; then the commands in it are answered, as the node does it.
    """

    def __init__(self, session_ttl: float = 600.0) -> None:
        self.log = Log()
        self.own = Machine()
        self.now = 100.0
        self.keeper = Keeper(ME, session_ttl, self._submit)
        self.asked: list[OwnCall] = []
        self.session = self.log.open()
        self._sequence = 0
        self._calls: dict[int, list[OwnCall]] = {}  # by the entry they are in, its last commands

    def _submit(self, command: bytes, then: Callable[[Call], None]) -> None:
        self.asked.append(OwnCall(command, then))

    @property
    def machine(self) -> Machine:
        return self.log.machine

    @property
    def waiting(self) -> list[Raw]:
        """The commands that wait to be handed over."""
        return [codec.unpack(call.command or b"") for call in self.asked]

    def append(self, calls: list[OwnCall], *others: ops.Packable[Any]) -> tuple[Raw, ...]:
        """Add an entry with what others and the member itself said; return the others' answers."""
        self._sequence += 1
        self.log.time = round(self.now * 1e6)
        commands = [codec.pack(operation.to_wire()) for operation in others] + [call.command or b"" for call in calls]
        (outcome,) = self.log.block(codec.pack_batch(self.session, self._sequence, 0, commands))
        self._calls[self.machine.applied] = calls
        assert outcome.answers is not None
        return outcome.answers[: len(others)]

    def catch_up(self) -> None:
        for entry in self.log.entries[self.own.applied :]:
            outcomes = run(self.own.apply(entry))
            self.keeper.applied(self.own)
            calls = self._calls.get(entry.index, [])
            for call, answer in zip(reversed(calls), reversed(outcomes[0].answers or ()) if calls else (), strict=False):
                call.answer = answer
                call.finish()

    def entry(self, calls: list[OwnCall], *others: ops.Packable[Any]) -> tuple[Raw, ...]:
        answers = self.append(calls, *others)
        self.catch_up()
        return answers

    def commit(self, *others: ops.Packable[Any]) -> tuple[Raw, ...]:
        calls, self.asked = self.asked, []
        return self.entry(calls, *others)

    def grant(self, ttl: float = TTL, *, keeper: int = ME) -> int:
        """Grant a lease that nobody holds yet."""
        (answer,) = self.entry([], ops.Grant(0, round(ttl * 1e6), keeper))
        return wire.unless_refused(answer)[1]  # type: ignore[no-any-return]  # raw

    def hold(self, ttl: float = TTL) -> Held:
        """Be granted a lease that is kept alive, in no time."""
        return self.keeper.hold(self.grant(ttl), ttl, self.now, kept=True)

    def turn(self, seconds: float = 0.0) -> None:
        self.now += seconds
        self.keeper.turn(self.now)


@pytest.fixture
def cluster() -> Cluster:
    return Cluster()


KEEP_ALIVE = (wire.KEEP_ALIVE, ME)


# -- keeping alive --------------------------------------------------------------------------------------------------------------------


def test_a_keeper_without_leases_asks_for_nothing(cluster: Cluster) -> None:
    cluster.turn(100.0)
    cluster.keeper.hold(cluster.grant(keeper=0), TTL, cluster.now, kept=False)
    cluster.turn()
    assert cluster.waiting == []


def test_all_leases_are_kept_alive_by_one_command_three_times_within_the_shortest_ttl(cluster: Cluster) -> None:
    held = [cluster.hold(ttl) for ttl in (30.0, 6.0, 9.0)]
    times = []
    for _ in range(2000):
        cluster.turn(0.01)
        if cluster.waiting:
            assert cluster.waiting == [KEEP_ALIVE]
            times.append(cluster.now)
            cluster.commit()
    assert {round(after - before, 1) for before, after in pairwise(times)} == {2.0}
    assert not any(one.lost for one in held)
    assert all(one.until > cluster.now for one in held)


def test_keep_alives_come_often_enough_for_the_session_too() -> None:
    cluster = Cluster(session_ttl=3.0)
    cluster.hold(3600.0)
    cluster.turn()
    cluster.commit()
    cluster.turn()
    cluster.turn(0.9)
    assert cluster.waiting == []
    cluster.turn(0.2)
    assert cluster.waiting == [KEEP_ALIVE]


def test_a_new_lease_of_a_shorter_ttl_is_not_forgotten_until_the_others_are_due(cluster: Cluster) -> None:
    cluster.hold(300.0)
    cluster.turn()
    cluster.commit()
    cluster.turn()
    cluster.turn(1.0)
    assert cluster.keeper.deadline > cluster.now + 90
    cluster.hold(0.6)
    assert cluster.keeper.deadline <= cluster.now
    cluster.turn()
    assert cluster.waiting == [KEEP_ALIVE]


def test_a_keep_alive_that_is_under_way_is_not_asked_for_again_and_the_next_follows_its_answer(cluster: Cluster) -> None:
    held = cluster.hold()
    cluster.turn()
    cluster.turn(2.9)
    assert cluster.waiting == [KEEP_ALIVE]
    assert not held.lost
    cluster.commit()
    assert cluster.keeper.deadline <= cluster.now
    cluster.turn()
    assert cluster.waiting == [KEEP_ALIVE]


@pytest.mark.parametrize("error", [OutcomeUnknown("unknown"), Closed("closed")])
def test_a_keep_alive_that_fails_counts_for_nothing_and_is_asked_for_again(cluster: Cluster, error: Any) -> None:
    held = cluster.hold()
    until = held.until
    cluster.turn(0.5)
    (call,) = cluster.asked
    cluster.asked.clear()
    call.fail(error)
    assert held.until == until
    cluster.turn(1.0)
    assert cluster.waiting == [KEEP_ALIVE]


# -- until when one may count on it ---------------------------------------------------------------------------------------------------


def test_a_lease_is_counted_on_from_before_it_was_asked_for_less_a_margin(cluster: Cluster) -> None:
    held = cluster.keeper.hold(cluster.grant(), TTL, 90.0, kept=True)
    assert held.until == 90.0 + TTL * MARGIN


def test_a_keep_alive_counts_from_when_it_was_asked_for_however_late_its_answer(cluster: Cluster) -> None:
    held = cluster.hold()
    cluster.turn(0.5)
    asked_at, cluster.now = cluster.now, cluster.now + 1.5
    cluster.commit()
    assert held.until == asked_at + TTL * MARGIN


def test_an_answer_that_comes_late_never_takes_time_away(cluster: Cluster) -> None:
    held = cluster.hold()
    cluster.turn(0.1)
    cluster.keeper.renewed(held, cluster.now + 1.0)
    until = held.until
    cluster.commit()
    cluster.keeper.renewed(held, 0.0)
    assert held.until == until


def test_a_lease_granted_while_a_keep_alive_is_under_way_is_not_renewed_by_it(cluster: Cluster) -> None:
    cluster.hold()
    cluster.turn(1.0)
    cluster.now += 1.0
    late = cluster.hold()
    until = late.until
    cluster.commit()
    assert late.until == until


def test_a_lease_that_is_not_kept_alive_here_is_lost_when_its_time_is_over(cluster: Cluster) -> None:
    held = cluster.keeper.hold(cluster.grant(keeper=0), TTL, cluster.now, kept=False)
    cluster.turn(2.0)
    cluster.keeper.renewed(held, cluster.now)
    cluster.turn(2.0)
    assert not held.lost
    cluster.turn(0.98)
    assert held.lost
    assert cluster.waiting == []


def test_a_holder_who_hears_nothing_gives_up_before_the_cluster_does(cluster: Cluster) -> None:
    told: list[float] = []
    held = cluster.hold()
    held.on_lost.append(lambda: told.append(cluster.now))
    granted_at = cluster.now
    while not held.lost:
        assert held.id in cluster.machine.leases
        cluster.turn(0.001)
        cluster.log.time = round(cluster.now * 1e6)
        cluster.log.block()
    assert held.id in cluster.machine.leases
    assert granted_at + TTL * MARGIN <= told[0] < granted_at + TTL
    assert len(told) == 1


def test_a_lease_that_is_lost_stays_so(cluster: Cluster) -> None:
    held = cluster.hold()
    cluster.turn()
    cluster.turn(5.0)
    assert held.lost
    cluster.commit()
    cluster.keeper.renewed(held, cluster.now)
    assert held.lost
    assert cluster.keeper._held == {}


def test_a_lease_that_ended_in_the_cluster_is_lost_at_once_and_its_holders_are_told_once(cluster: Cluster) -> None:
    held = cluster.hold()
    told: list[int] = []
    again = cluster.keeper.hold(held.id, TTL, cluster.now, kept=True)
    for one in (held, again):
        one.on_lost.append(lambda: told.append(1))
    cluster.turn()
    cluster.commit(ops.Revoke(held.id))
    assert (held.lost, again.lost, told) == (True, True, [1, 1])
    cluster.turn(5.0)
    assert told == [1, 1]


def test_a_lease_that_ended_before_its_holder_came_is_found_lost_by_the_next_keep_alive(cluster: Cluster) -> None:
    """It was counted on for ever: each keep-alive was answered, as the keeper had others."""
    cluster.hold()
    number = cluster.grant()
    cluster.commit(ops.Revoke(number))
    late = cluster.keeper.hold(number, TTL, cluster.now, kept=True)
    cluster.turn()
    cluster.commit()
    assert late.lost


def test_a_lease_that_another_process_takes_over_is_counted_on_no_longer_than_promised_and_not_revoked(cluster: Cluster) -> None:
    """Every answer to a keep-alive was taken for this lease too, although it lived by the other's; given up, it was revoked."""
    mine, theirs = cluster.hold(), cluster.hold()
    cluster.turn()
    cluster.commit()
    until = theirs.until
    cluster.turn(1.0)
    cluster.commit(ops.Renew(theirs.id, OTHER))
    assert (mine.lost, theirs.lost, theirs.until) == (False, True, until)
    for _ in range(4):
        cluster.turn(1.0)
        assert cluster.waiting in ([], [KEEP_ALIVE])
        cluster.commit(ops.KeepAlive(OTHER))
    assert sorted(lease.id for lease in cluster.machine.leases) == [mine.id, theirs.id]


def test_a_process_that_was_cut_off_does_not_revoke_what_another_has_taken_over(cluster: Cluster) -> None:
    held = cluster.hold()
    cluster.turn()
    cluster.now += 2.0
    cluster.append([], ops.Renew(held.id, OTHER))  # this process does not hear of it yet
    cluster.turn(1.5)
    assert held.lost
    while cluster.waiting:
        cluster.commit()
        cluster.turn()
    assert held.id in cluster.machine.leases


def move(cluster: Cluster, what: str, number: int, everything: list[Held]) -> None:
    """Let something happen; commands are committed or lost, and heard of late."""
    chosen = everything[number % len(everything)].id if everything else 1
    match what:
        case "hold":
            everything.append(cluster.hold(1.0 + number % 3))
        case "turn":
            cluster.turn(number / 8)
        case "commit":
            cluster.commit()
        case "append":
            calls, cluster.asked = cluster.asked, []
            cluster.append(calls)
        case "lose" if cluster.asked:
            cluster.asked.pop(number % len(cluster.asked)).fail(OutcomeUnknown("lost"))
        case "take over":
            cluster.append([], ops.Renew(chosen, OTHER))
        case "revoke":
            cluster.entry([], ops.Revoke(chosen))
        case "catch up":
            cluster.catch_up()


MOVES = ["hold", "turn", "turn", "turn", "commit", "append", "lose", "take over", "revoke", "catch up"]


@settings(max_examples=1000, deadline=None)
@given(st.binary(max_size=60))
def test_nobody_counts_on_a_lease_that_the_cluster_has_ended_by_its_time(thrown: bytes) -> None:
    cluster = Cluster()
    everything: list[Held] = [cluster.hold()]
    revoked: set[int] = set()
    for byte in thrown:
        what, number = MOVES[byte % len(MOVES)], byte // len(MOVES)
        if what == "revoke":
            revoked.add(everything[number % len(everything)].id)
        move(cluster, what, number, everything)
        leases = cluster.machine.leases
        for held in everything:
            if not held.lost and cluster.now < held.until and held.id not in revoked:
                assert leases.deadline(leases[held.id]) >= round(held.until * 1e6)


# -- what nobody holds ----------------------------------------------------------------------------------------------------------------


def test_a_lease_that_was_given_up_is_revoked_when_the_cluster_can_be_reached_again(cluster: Cluster) -> None:
    held = cluster.hold()
    cluster.turn(2.98)
    assert held.lost
    assert cluster.waiting == [KEEP_ALIVE]
    cluster.now -= 0.5  # the cluster's time lags behind
    cluster.commit()
    assert cluster.waiting == [(wire.REVOKE, held.id, cluster.keeper.number)]
    cluster.commit()
    assert held.id not in cluster.machine.leases
    cluster.turn(100.0)
    assert cluster.waiting == []


def test_a_lease_whose_caller_gave_up_is_revoked(cluster: Cluster) -> None:
    cluster.hold()
    orphan = cluster.grant()
    cluster.turn()
    cluster.commit()
    assert cluster.waiting == [(wire.REVOKE, orphan, cluster.keeper.number)]
    cluster.commit()
    cluster.turn(1.1)
    cluster.commit()
    assert cluster.waiting == []


def test_a_lease_whose_caller_is_about_to_hold_it_is_not_revoked(cluster: Cluster) -> None:
    cluster.hold()
    cluster.keeper.granting(+1)
    number = cluster.grant()
    cluster.turn()
    cluster.commit()
    assert cluster.waiting == []
    held = cluster.keeper.hold(number, TTL, cluster.now, kept=True)
    cluster.keeper.granting(-1)
    cluster.turn(1.1)
    cluster.commit()
    assert cluster.waiting == []
    assert not held.lost


def test_a_lease_granted_while_a_keep_alive_is_under_way_is_not_taken_for_an_orphan(cluster: Cluster) -> None:
    cluster.hold()
    cluster.turn()
    (keep_alive,) = cluster.asked
    cluster.asked.clear()
    cluster.keeper.granting(+1)
    cluster.keeper.hold(cluster.grant(), TTL, cluster.now, kept=True)
    cluster.keeper.granting(-1)
    cluster.entry([keep_alive])
    assert cluster.waiting == []


def test_leases_of_other_processes_and_of_nobody_are_not_revoked(cluster: Cluster) -> None:
    cluster.hold()
    cluster.grant(keeper=OTHER)
    cluster.grant(keeper=0)
    orphan = cluster.grant()
    cluster.turn()
    cluster.commit()
    assert cluster.waiting == [(wire.REVOKE, orphan, cluster.keeper.number)]


# -- snapshots and the end ------------------------------------------------------------------------------------------------------------


def test_after_a_snapshot_what_ended_or_was_taken_over_meanwhile_is_lost(cluster: Cluster) -> None:
    stays, ended, taken = cluster.hold(), cluster.hold(), cluster.hold()
    unkept = cluster.keeper.hold(cluster.grant(keeper=0), TTL, cluster.now, kept=False)
    borrowed = cluster.keeper.hold(cluster.grant(keeper=OTHER), TTL, cluster.now, kept=False)
    ahead = Log(Machine.load(cluster.machine.dump()))
    ahead.execute(ahead.open(), 1, ops.Revoke(ended.id), ops.Renew(taken.id, OTHER), ops.Revoke(unkept.id))
    cluster.keeper.restarted(Machine.load(ahead.machine.dump()))
    assert [held.lost for held in (stays, ended, taken, unkept, borrowed)] == [False, True, True, True, False]


def test_a_member_that_stops_gives_everything_up(cluster: Cluster) -> None:
    told: list[int] = []
    held = [cluster.hold(), cluster.hold(), cluster.keeper.hold(cluster.grant(keeper=0), TTL, cluster.now, kept=False)]
    for one in held:
        one.on_lost.append(lambda: told.append(1))
    cluster.keeper.lose_all()
    cluster.keeper.lose_all()
    assert [one.lost for one in held] == [True] * 3
    assert told == [1, 1, 1]


def test_who_comes_with_a_lease_after_the_member_has_stopped_has_lost_it(cluster: Cluster) -> None:
    """It was never told: nothing looked after it any more."""
    number = cluster.grant()
    cluster.keeper.lose_all()
    assert cluster.keeper.hold(number, TTL, cluster.now, kept=True).lost


def test_a_lease_that_is_released_is_kept_alive_no_more(cluster: Cluster) -> None:
    held = cluster.hold()
    cluster.keeper.release(held)
    cluster.keeper.release(held)
    cluster.turn(10.0)
    assert cluster.waiting == []
    assert not held.lost


def test_a_lease_that_is_given_up_while_the_keeper_turns_is_revoked_in_its_next_turn(cluster: Cluster) -> None:
    first, second = cluster.hold(), cluster.hold()
    first.on_lost.append(lambda: cluster.keeper.drop(second))  # in the middle of the turn
    first.until = cluster.now
    cluster.keeper.turn(cluster.now)
    assert cluster.keeper.deadline <= cluster.now
    cluster.asked.clear()
    cluster.keeper.turn(cluster.now)
    assert ops.Revoke(second.id, ME).to_wire() in cluster.waiting


# -- threads --------------------------------------------------------------------------------------------------------------------------


def test_callers_that_hold_and_release_while_the_node_turns_are_all_looked_after(cluster: Cluster) -> None:
    numbers = [cluster.grant(1e6) for _ in range(8)]
    kept: list[Held] = []

    def work(number: int) -> None:
        rng = random.Random(number)
        for _ in range(300):
            held = cluster.keeper.hold(number, 1e6, cluster.now, kept=rng.random() < 0.5)
            cluster.keeper.renewed(held, cluster.now)
            cluster.keeper.release(held)
        kept.append(cluster.keeper.hold(number, 0.9, cluster.now, kept=True))

    cluster.keeper.granting(+1)
    threads = [threading.Thread(target=work, args=(number,)) for number in numbers]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        cluster.turn()
        cluster.commit()
    for thread in threads:
        thread.join()
    for _ in range(20):
        cluster.turn(0.1)
        cluster.commit()
    assert len(kept) == 8
    assert not any(held.lost for held in kept)
    assert {held.until for held in kept} == {cluster.keeper._asked_at + 0.9 * MARGIN}


# -- at a distance --------------------------------------------------------------------------------------------------------------------


def test_a_keeper_that_has_to_look_counts_only_on_what_it_finds_and_revokes_what_nobody_holds() -> None:
    cluster = Cluster()
    looks: list[Callable[[Any], None]] = []
    cluster.keeper = Keeper(ME, 600.0, cluster._submit, looks.append)
    stays, gone = (cluster.keeper.hold(number, TTL, cluster.now, kept=True) for number in (11, 12))
    cluster.turn(1.0)
    (keep_alive,) = cluster.asked
    cluster.asked.clear()
    keep_alive.answer = (wire.OK, 3)
    keep_alive.finish()
    assert stays.until == gone.until == pytest.approx(100.0 + TTL * MARGIN), "that it was answered proves nothing yet"
    cluster.now += 0.5
    looks.pop()(frozenset((11, 99)))
    assert stays.until == pytest.approx(101.0 + TTL * MARGIN), "from before the keep-alive was asked for"
    assert (stays.lost, gone.lost) == (False, True)
    assert cluster.waiting == [(wire.REVOKE, 99, ME)]
    cluster.keeper.ended(11)
    assert stays.lost
