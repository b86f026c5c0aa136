"""Bugs in what reaches the disk, and in what is believed of it."""

from __future__ import annotations

import zlib
from typing import Any

from attrs import evolve
from mutant import Patch, mutant

from replkv import log, wal_format
from replkv.disk import Disk
from replkv.errors import StorageError
from replkv.leadership import Leadership
from replkv.log import Log
from replkv.machine import Machine
from replkv.messages import NOTICE, NOWHERE, Append, Entry, HardState, Position, SnapshotAck
from replkv.node import Node
from replkv.raft import Raft, Role
from replkv.ready import Restored
from replkv.snapshotting import Snapshots
from replkv.testing.cluster import SimMember
from replkv.testing.disk import SimDoor


@mutant(45, "etcd#14370")
def a_lone_member_answers_before_its_disk_is_done(patch: Patch) -> None:
    persist = Node._persist

    def hasty(self: Node, raft: Raft, hard_state: HardState | None, floor: Position | None, entries: list[Entry]) -> None:
        if len(raft.configuration.voters) > 1 or not entries:
            persist(self, raft, hard_state, floor, entries)
        else:
            self.log.sync()
            self.log.append(hard_state, entries)
            raft.synced(entries[-1].index, entries[-1].term, self.clock())

    patch.setattr(Node, "_persist", hasty)


@mutant(46, "etcd#14098, etcd#15069", slow=True)
def a_torn_tail_is_left_where_it_is(patch: Patch) -> None:
    settle = Log._settle
    patch.setattr(Log, "_settle", lambda self, state: None if state.torn is not None else settle(self, state))


@mutant(47, "Trail of Bits: TOB-ETCD-006, etcd#11924")
def the_checksums_of_the_log_are_not_looked_at(patch: Patch) -> None:
    open_sector = wal_format._open_sector

    def trusting(disk: Disk, segment: int, number: int, raw: bytes) -> wal_format.Sector:
        right = zlib.crc32(raw[4:], number).to_bytes(4, "little")
        return open_sector(disk, segment, number, right + raw[4:])

    patch.setattr(wal_format, "_open_sector", trusting)


@mutant(48, "etcd#6368")
def the_directory_is_never_synced(patch: Patch) -> None:
    patch.setattr(SimDoor, "sync_directory", lambda self: None)


@mutant(49, "ClickHouse#112101, ClickHouse#102629")
def segments_go_although_the_snapshot_does_not_reach_to_their_end(patch: Patch) -> None:
    discard = Log._discard

    def hasty(self: Log) -> None:
        self._keep_from = self.last_index + 1
        discard(self)

    patch.setattr(Log, "_discard", hasty)


@mutant(50, "PySyncObj#197")
def a_restarted_member_takes_its_whole_log_for_decided(patch: Patch) -> None:
    restore = Raft._restore

    def confident(self: Raft, restored: Restored) -> None:
        restore(self, restored)
        self.commit = self._log.last_index

    patch.setattr(Raft, "_restore", confident)


@mutant(51, "NATS 2.12.1, etcd#14143")
def syncs_do_nothing(patch: Patch) -> None:
    patch.setattr(SimDoor, "sync", lambda self, name: None)


@mutant(53, "Rebello et al. 2020", slow=True)
def a_failed_sync_is_tried_again_and_believed(patch: Patch) -> None:
    sync = SimDoor.sync

    def stubborn(self: SimDoor, name: str) -> None:
        try:
            sync(self, name)
        except StorageError:
            self.failure = None
            sync(self, name)

    patch.setattr(SimDoor, "sync", stubborn)


@mutant(54, "hashicorp/raft#503, consul#22064", slow=True)
def a_member_whose_disk_hangs_goes_on_sending_heartbeats(patch: Patch) -> None:
    spend = SimMember.spend

    def spend_and_beat(self: SimMember, seconds: float) -> None:
        spend(self, seconds)
        node = self.node
        if node is not None and node.raft is not None and node.raft.role is Role.LEADER:
            every = node.settings.heartbeat
            for number in range(1, int(min(seconds, 30.0) / every)):
                self.cluster.scheduler.after(number * every, lambda: self.guard(lambda: beat(self, node)))

    def beat(member: SimMember, node: Node) -> None:
        raft = node.raft
        if member.node is node and raft is not None:
            for name, peer in raft.peers.items():
                if (term := raft._log.term_at(peer.match)) is not None:
                    node.links.send(name, Append(raft.term, peer.match, term, min(raft.commit, peer.match), NOTICE, raft.time))

    patch.setattr(SimMember, "spend", spend_and_beat)


@mutant(55, "etcd#16596, etcd#10688")
def a_file_has_its_real_name_before_it_is_complete(patch: Patch) -> None:
    def create(disk: Disk, name: str, size: int, content: bytes = b"") -> None:
        disk.allocate(name, size)
        disk.write(name, 0, content)
        disk.sync(name)
        disk.sync_directory()

    patch.setattr(log, "create", create)


@mutant(57, "etcd#17780, etcd#14685")
def how_far_history_was_compacted_is_forgotten_by_a_restart(patch: Patch) -> None:
    load = Machine.load.__func__  # type: ignore[attr-defined]  # a class method's function

    def forgetful(cls: type[Machine], chunks: Any) -> Machine:
        machine: Machine = load(cls, chunks)
        machine.store.compacted = machine.store.removed_below = 0
        return machine

    patch.setattr(Machine, "load", classmethod(forgetful))


@mutant(52, "NATS 2.12.1, NuRaft#185", slow=True)
def a_damaged_log_is_cut_and_its_member_goes_on_as_if_nothing_had_happened(patch: Patch) -> None:
    recovered = Log._recovered
    patch.setattr(Log, "_recovered", lambda self, *known: evolve(recovered(self, *known), floor=NOWHERE))


@mutant(56, "dqlite#401, etcd#14254")
def a_disk_that_was_full_once_is_full_for_good(patch: Patch) -> None:
    prepare = Log._prepare_next

    def pessimistic(self: Log, size: int) -> None:
        shortage = self.shortage
        prepare(self, size)
        self.shortage = self.shortage or shortage

    patch.setattr(Log, "_prepare_next", pessimistic)


# -- after a loss ----------------------------------------------------------------------------------------------------------------------


@mutant(118, slow=True)
def a_leader_is_not_told_that_a_follower_lost_what_it_acknowledged(patch: Patch) -> None:
    patch.setattr(Leadership, "begin_anew", lambda self, name: None)


@mutant(119, slow=True)
def a_damaged_snapshot_is_sent_again_and_again(patch: Patch) -> None:
    """It is neither looked through before, nor when its receiver says that it begins again."""
    send, acknowledged = Snapshots.send, Snapshots.acknowledged

    def trusting(self: Snapshots, raft: Raft, peer: str, now: float) -> None:
        self._trusted = self._log.snapshot, float("inf")
        send(self, raft, peer, now)

    def deaf(self: Snapshots, raft: Raft, peer: str, ack: SnapshotAck, now: float) -> None:
        if ack.offset:
            acknowledged(self, raft, peer, ack, now)

    patch.setattr(Snapshots, "send", trusting)
    patch.setattr(Snapshots, "acknowledged", deaf)
