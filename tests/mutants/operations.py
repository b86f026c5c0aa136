"""Bugs in what a member does for itself: comparing, compacting, closing."""

from __future__ import annotations

from mutant import Patch, mutant

from replkv.machine import Machine
from replkv.messages import Digest
from replkv.raft import Raft
from replkv.upkeep import Upkeep


@mutant(81, "etcd#15548, etcd#16047")
def members_compare_hashes_of_different_entries(patch: Patch) -> None:
    def compare(self: Upkeep, raft: Raft, machine: Machine) -> None:
        self._told_at = machine.applied
        index = machine.applied - machine.applied % 5
        self._tell(raft, Digest(index, full=False, hash=machine.chain.to_bytes(4)))

    patch.setattr(Upkeep, "_compare", compare)
