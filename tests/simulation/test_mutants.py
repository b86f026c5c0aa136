"""Does the simulator find bugs?  Known ones are put in on purpose, each has to be found within a few dozen seeds."""

from __future__ import annotations

from collections.abc import Callable, Generator
from operator import itemgetter
from typing import Any

import pytest

from replkv import keeper, leadership, progress, quorum, session
from replkv.errors import ReplkvError
from replkv.history import History
from replkv.kv import KEY, MOD, RECORD_BYTES, VALUE, Record, Store
from replkv.lease import Lease, Leases
from replkv.messages import Configuration, HardState
from replkv.node import Node
from replkv.proposals import Call, Proposals
from replkv.raft import Raft, Role
from replkv.ready import Ready
from replkv.testing.disk import SimDoor
from replkv.testing.history import Violation
from replkv.testing.simulation import simulate
from replkv.txn import Writer
from replkv.watch import Cursor, Hub, Place

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


def a_member_takes_its_own_state_for_fresh(patch: Patch) -> None:
    patch.setattr(Node, "fresh_at", property(lambda self: self.clock()))


def a_new_leader_lets_time_jump(patch: Patch) -> None:
    take_office = Raft._take_office

    def hasty(self: Raft) -> None:
        self._time += 3_000_000
        take_office(self)

    patch.setattr(Raft, "_take_office", hasty)


def a_holder_counts_on_its_lease_for_too_long(patch: Patch) -> None:
    patch.setattr(keeper, "MARGIN", 1.5)


def a_keep_alive_revives_a_lost_lease(patch: Patch) -> None:
    renewed = keeper.Keeper.renewed

    def reviving(self: keeper.Keeper, held: keeper.Held, since: float) -> None:
        held.lost = False
        renewed(self, held, since)

    patch.setattr(keeper.Keeper, "renewed", reviving)
    patch.setattr(keeper.Keeper, "_is_kept", lambda self, held: True)


def keep_alives_are_left_out_of_snapshots(patch: Patch) -> None:
    rows = Leases.rows
    patch.setattr(Leases, "rows", lambda self: (rows(self)[0], []))


def a_lease_expires_in_two_revisions(patch: Patch) -> None:
    end = Writer._end

    def piecemeal(self: Writer, lease: Lease, *, expired: bool) -> Generator[None, None, int]:
        keys = sorted(lease.keys)
        if expired and len(keys) > 1:
            yield from self._store.delete_keys(keys[:1], lease.id)
            yield from self.commit()
        return (yield from end(self, lease, expired=expired))

    patch.setattr(Writer, "_end", piecemeal)


def a_compaction_drops_the_tombstone_at_its_revision(patch: Patch) -> None:
    scrub = Store.scrub

    def forgetful(self: Store) -> Generator[None, None, None]:
        yield from scrub(self)
        kept: History[Record] = History(itemgetter(MOD))
        for place, record in reversed([*enumerate(self.events)]):
            if record[VALUE] is None and record[MOD] == self.compacted:
                del self._superseded_at[place]
        for record in self.events:
            if record[VALUE] is not None or record[MOD] != self.compacted:
                kept.append(record)
        kept.settled = kept.written
        self.events = kept

    patch.setattr(Store, "scrub", forgetful)


def what_is_visible_at_the_compaction_revision_is_removed(patch: Patch) -> None:
    scrub = Store._scrub
    patch.setattr(Store, "_scrub", lambda self, key, revision: scrub(self, key, revision + 1))


def readers_are_not_told_that_a_compaction_outran_them(patch: Patch) -> None:
    scrub = Store.scrub

    def silent(self: Store) -> Generator[None, None, None]:
        for _ in scrub(self):
            self.removed_below = 0
            yield
        self.removed_below = 0

    patch.setattr(Store, "scrub", silent)


def tombstones_are_not_counted(patch: Patch) -> None:
    count = Store._count

    def generous(self: Store, old: Record | None, record: Record) -> None:
        count(self, old, record)
        if record[VALUE] is None:
            self.size -= len(record[KEY]) + RECORD_BYTES

    patch.setattr(Store, "_count", generous)


def a_watch_goes_on_behind_an_installed_snapshot(patch: Patch) -> None:
    restart = Hub.restart

    def skipping(self: Hub, revision: int) -> None:
        self._place = Place(revision + 1)
        restart(self, revision)

    patch.setattr(Hub, "restart", skipping)


def nobody_is_woken_for_what_is_deleted(patch: Patch) -> None:
    match = Hub._match

    def deaf(self: Hub, store: Store, revision: int, woken: list[Cursor]) -> None:
        before = self._place.revision
        found: list[Cursor] = []
        armed = set(self._armed)
        match(self, store, revision, found)
        puts = [record for record in store.events if before <= record[MOD] <= revision and record[VALUE] is not None]
        for cursor in found:
            if any(cursor.span.start <= record[KEY] and (cursor.span.end is None or record[KEY] < cursor.span.end) for record in puts):
                woken.append(cursor)
            elif cursor in armed:
                self._armed.add(cursor)

    patch.setattr(Hub, "_match", deaf)


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
    a_member_takes_its_own_state_for_fresh,
    a_new_leader_lets_time_jump,
    a_holder_counts_on_its_lease_for_too_long,
    a_keep_alive_revives_a_lost_lease,
    keep_alives_are_left_out_of_snapshots,
    a_lease_expires_in_two_revisions,
    a_compaction_drops_the_tombstone_at_its_revision,
    what_is_visible_at_the_compaction_revision_is_removed,
    readers_are_not_told_that_a_compaction_outran_them,
    tombstones_are_not_counted,
    a_watch_goes_on_behind_an_installed_snapshot,
    nobody_is_woken_for_what_is_deleted,
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
