"""Does the simulator find bugs?  Known ones are put in on purpose, each has to be found within a few dozen seeds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from replkv import leadership, progress, quorum, session
from replkv.errors import ReplkvError
from replkv.kv import Store
from replkv.messages import Configuration, HardState
from replkv.proposals import Call, Proposals
from replkv.raft import Raft, Role
from replkv.ready import Ready
from replkv.testing.disk import SimDoor
from replkv.testing.history import Violation
from replkv.testing.simulation import simulate

LIMIT = 60

Patch = pytest.MonkeyPatch


def votes_and_terms_are_not_stored(patch: Patch) -> None:
    take = Raft.take

    def forgetful(self: Raft) -> Ready | None:
        ready = take(self)
        if ready is not None and ready.hard_state is not None:
            ready.hard_state = HardState(ready.hard_state.term, None)
        return ready

    patch.setattr(Raft, "take", forgetful)


def acknowledgements_leave_before_the_disk_is_done(patch: Patch) -> None:
    take = Raft.take

    def hasty(self: Raft) -> Ready | None:
        ready = take(self)
        if ready is not None:
            ready.messages, ready.after_sync = ready.messages + ready.after_sync, []
        return ready

    patch.setattr(Raft, "take", hasty)


def syncs_do_nothing(patch: Patch) -> None:
    patch.setattr(SimDoor, "sync", lambda self, name: None)


def the_directory_is_never_synced(patch: Patch) -> None:
    patch.setattr(SimDoor, "sync_directory", lambda self: None)


def half_is_taken_for_a_majority(patch: Patch) -> None:
    def half(configuration: Configuration, value: Callable[[str], int]) -> int:
        ranked = sorted(map(value, configuration.voters), reverse=True)
        return ranked[max(0, len(ranked) // 2 - 1)]

    patch.setattr(quorum, "agreed", half)


def what_a_follower_matches_goes_back(patch: Patch) -> None:
    acknowledged = progress.Progress.acknowledged

    def trusting(self: progress.Progress, match: int) -> bool:
        news = acknowledged(self, match)
        self.match, self.next = match, max(self.next, match + 1)
        return news

    patch.setattr(progress.Progress, "acknowledged", trusting)


def a_leader_reads_without_asking_anybody(patch: Patch) -> None:
    read = Raft.read

    def alone(self: Raft, read_id: int, now: float) -> None:
        if self.role is Role.LEADER:
            self._out.reads.append((read_id, self.commit))
        else:
            read(self, read_id, now)

    patch.setattr(Raft, "read", alone)


def the_lease_lasts_longer_than_the_promises(patch: Patch) -> None:
    patch.setattr(leadership, "LEASE_MARGIN", 4.0)


def a_repeated_batch_is_executed_again(patch: Patch) -> None:
    lookup = session.Sessions.lookup

    def always_new(self: session.Sessions, *arguments: Any) -> session.Verdict:
        verdict = lookup(self, *arguments)
        return session.Verdict.NEW if verdict is session.Verdict.REPEAT else verdict

    patch.setattr(session.Sessions, "lookup", always_new)


def sessions_are_left_out_of_snapshots(patch: Patch) -> None:
    patch.setattr(session.Sessions, "pin", lambda self: [])


def older_versions_are_left_out_of_snapshots(patch: Patch) -> None:
    finish = Store.finish_replay

    def forgetful(self: Store) -> None:
        finish(self)
        self.older.clear()

    patch.setattr(Store, "finish_replay", forgetful)


def giving_up_always_claims_that_nothing_happened(patch: Patch) -> None:
    give_up = Proposals.give_up

    def lying(self: Proposals, call: Call) -> bool:
        give_up(self, call)
        return True

    patch.setattr(Proposals, "give_up", lying)


def lost_batches_are_not_sent_again(patch: Patch) -> None:
    patch.setattr(Proposals, "_to_repeat", lambda self, *_: [])


MUTANTS = [
    votes_and_terms_are_not_stored,
    acknowledgements_leave_before_the_disk_is_done,
    syncs_do_nothing,
    the_directory_is_never_synced,
    half_is_taken_for_a_majority,
    what_a_follower_matches_goes_back,
    a_leader_reads_without_asking_anybody,
    the_lease_lasts_longer_than_the_promises,
    a_repeated_batch_is_executed_again,
    sessions_are_left_out_of_snapshots,
    older_versions_are_left_out_of_snapshots,
    giving_up_always_claims_that_nothing_happened,
    lost_batches_are_not_sent_again,
]


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.__name__)
def test_the_simulator_finds_it_when(mutant: Callable[[Patch], None], monkeypatch: Patch) -> None:
    mutant(monkeypatch)
    found = next((error for seed in range(1000, 1000 + LIMIT) if (error := failure_of(seed))), "")
    assert found, f"{mutant.__name__} lived through {LIMIT} seeds"
    assert "Error:" not in found, f"{mutant.__name__} is broken itself: {found}"


def failure_of(seed: int) -> str:
    try:
        simulate(seed)
    except (Violation, ReplkvError) as error:
        return str(error)
    return ""
