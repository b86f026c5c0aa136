"""Bugs in taking, sending and installing snapshots."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from mutant import Patch, mutant

from replkv import log, snapshot, snapshotting, wal_format
from replkv.disk import Disk
from replkv.errors import DiskFull
from replkv.kv import Store
from replkv.lease import Leases
from replkv.machine import Machine
from replkv.messages import HardState
from replkv.node import Node
from replkv.raft import Raft
from replkv.session import Sessions
from replkv.snapshot import SnapshotFile
from replkv.snapshotting import Snapshots
from replkv.upkeep import Upkeep


@mutant(36, "etcd#7876, redisraft#43")
def a_snapshot_is_used_before_it_is_durable(patch: Patch) -> None:
    def publish(disk: Disk, temporary: str, name: str) -> None:
        disk.rename(temporary, name)
        disk.sync_directory()

    patch.setattr(snapshot, "publish", publish)


@mutant(37, "etcd#11888")
def a_new_segment_does_not_repeat_term_and_vote(patch: Patch) -> None:
    encode = wal_format.encode_flush

    def forgetful(segment: int, number: int, sector: int, hard_state: HardState, *rest: Any) -> bytes:
        return encode(segment, number, sector, hard_state if sector else HardState(0, hard_state.vote), *rest)

    patch.setattr(log, "encode_flush", forgetful)


@mutant(39, "etcd#20650")
def compacted_history_is_removed_while_a_snapshot_is_taken(patch: Patch) -> None:
    patch.setattr(Upkeep, "scrub_due", lambda self, machine: self._scrubbing.next_at if machine.store.unscrubbed else float("inf"))


@mutant(41, "etcd#13933")
def what_was_applied_before_counts_as_applied_to_an_installed_snapshot(patch: Patch) -> None:
    go_on_from = Node._go_on_from

    def confused(self: Node, machine: Machine) -> None:
        machine.applied = self.machine.applied
        go_on_from(self, machine)

    patch.setattr(Node, "_go_on_from", confused)


@mutant(43, "rqlite#1905, rqlite#1627", slow=True)
def the_log_goes_although_there_was_no_room_for_its_snapshot(patch: Patch) -> None:
    done = Snapshots._done

    def careless(self: Snapshots, raft: Raft, error: BaseException | None) -> None:
        done(self, raft, error)
        if isinstance(error, DiskFull):
            self._log._keep_from = self._log.last_index + 1
            self._log._discard()

    patch.setattr(Snapshots, "_done", careless)


@mutant(44, "etcd#13766")
def a_snapshot_has_a_later_state_than_its_place_in_the_log(patch: Patch) -> None:
    dump = Machine.dump

    def torn(self: Machine) -> Iterator[bytes]:
        place = self.applied, self.term, self.time, self.chain
        early = dump(self)  # raises where the state can't be dumped now

        def chunks() -> Iterator[bytes]:
            later = self.applied, self.term, self.time, self.chain
            if self._at_work:
                yield from early
                return
            self.applied, self.term, self.time, self.chain = place
            late = dump(self)
            self.applied, self.term, self.time, self.chain = later
            yield from late

        return chunks()

    patch.setattr(Machine, "dump", torn)


@mutant(99)
def sessions_are_left_out_of_snapshots(patch: Patch) -> None:
    patch.setattr(Sessions, "pin", lambda self: [])


@mutant(100)
def older_versions_are_left_out_of_snapshots(patch: Patch) -> None:
    finish = Store.finish_replay

    def forgetful(self: Store) -> None:
        finish(self)
        self.older.clear()

    patch.setattr(Store, "finish_replay", forgetful)


@mutant(101)
def keep_alives_are_left_out_of_snapshots(patch: Patch) -> None:
    rows = Leases.rows
    patch.setattr(Leases, "rows", lambda self: (rows(self)[0], []))


@mutant(102)
def the_table_of_sessions_goes_on_changing_while_it_is_written(patch: Patch) -> None:
    patch.setattr(Sessions, "pin", lambda self: [*self._table.items()])


@mutant(103, slow=True)
def a_snapshot_that_is_being_sent_is_replaced(patch: Patch) -> None:
    applied = Snapshots.applied

    def careless(self: Snapshots, raft: Raft, machine: Machine, size: int) -> None:
        sending, self._sending = self._sending, {}
        applied(self, raft, machine, size)
        self._sending = sending

    use = Snapshots._use

    def thoughtless(self: Snapshots, raft: Raft, file: SnapshotFile, now: float) -> None:
        sending, self._sending = self._sending, {}
        use(self, raft, file, now)
        self._sending = sending

    patch.setattr(Snapshots, "applied", careless)
    patch.setattr(Snapshots, "_use", thoughtless)


@mutant(124, slow=True)
def a_piece_of_a_snapshot_that_was_lost_is_not_sent_again(patch: Patch) -> None:
    patch.setattr(snapshotting, "RESEND_AFTER", float("inf"))
    patch.setattr(snapshotting, "GIVE_UP_AFTER", float("inf"))
