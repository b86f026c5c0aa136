"""Bugs in leases, for their holders and for the cluster."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any
from weakref import WeakSet

from mutant import Patch, mutant

from replkv import keeper, wire
from replkv.keeper import Held, Keeper
from replkv.lease import Lease, Leases, Row
from replkv.machine import Machine
from replkv.raft import Raft
from replkv.txn import Begun, Writer
from replkv.wire import Raw


@mutant(74, "etcd#11456")
def a_holder_counts_on_its_lease_for_too_long(patch: Patch) -> None:
    patch.setattr(keeper, "MARGIN", 1.5)


@mutant(75, "etcd#15247, etcd#12528")
def a_keeper_that_gave_a_lease_up_revokes_it_from_who_took_it_over(patch: Patch) -> None:
    revoke = Writer.operations[wire.REVOKE]
    patch.setitem(Writer.operations, wire.REVOKE, lambda self, packed: revoke(self, (*packed[:2], 0)))


@mutant(76, "etcd#13508")
def a_new_leader_lets_time_jump(patch: Patch) -> None:
    take_office = Raft._take_office

    def hasty(self: Raft) -> None:
        self._cluster_time.stamp += 3_000_000
        take_office(self)

    patch.setattr(Raft, "_take_office", hasty)


@mutant(77, "etcd#20615, etcd#13932")
def a_keep_alive_revives_a_lost_lease(patch: Patch) -> None:
    renewed = Keeper.renewed

    def reviving(self: Keeper, held: Held, since: float) -> None:
        held.lost = False
        renewed(self, held, since)

    patch.setattr(Keeper, "renewed", reviving)
    patch.setattr(Keeper, "_is_kept", lambda self, held, kept: True)


@mutant(78, "etcd#14239")
def large_numbers_of_leases_are_cut_in_snapshots(patch: Patch) -> None:
    rows = Leases.rows

    def cut(self: Leases) -> tuple[list[Row], list[tuple[int, int]]]:
        leases, kept_alive = rows(self)
        return [(number & 0xFFFFFFFF, *rest) for number, *rest in leases], kept_alive  # type: ignore[misc]  # as they were

    patch.setattr(Leases, "rows", cut)


@mutant(79, "etcd#13205")
def leases_that_a_snapshot_brought_never_end(patch: Patch) -> None:
    load_store, expire = Machine._load_store, Writer.expire
    loaded: WeakSet[Writer] = WeakSet()

    def load(self: Machine, *arguments: Any) -> None:
        load_store(self, *arguments)
        loaded.add(self._writer)

    patch.setattr(Machine, "_load_store", load)
    patch.setattr(Writer, "expire", lambda self: iter(()) if self in loaded else expire(self))


@mutant(140)
def a_write_is_done_when_its_lock_belongs_to_somebody_else(patch: Patch) -> None:
    guard = Writer.operations[wire.GUARD]

    def trusting(self: Writer, packed: Raw) -> Begun:
        _, lock, _, operation = packed
        return guard(self, packed) if self._store.get(lock, self.now) is None else self.begin(operation)

    patch.setitem(Writer.operations, wire.GUARD, trusting)


@mutant(109)
def a_lease_expires_in_two_revisions(patch: Patch) -> None:
    end = Writer._end

    def piecemeal(self: Writer, lease: Lease, *, expired: bool) -> Generator[None, None, int]:
        keys = sorted(lease.keys)
        if expired and len(keys) > 1:
            yield from self._store.delete_keys(keys[:1], lease.id)
            yield from self.commit()
        return (yield from end(self, lease, expired=expired))

    patch.setattr(Writer, "_end", piecemeal)
