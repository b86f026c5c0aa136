"""Is what a member has applied what the log says?  Its store, its leases and its size are compared with the model's.

What is cheap to compare is compared after every turn; the whole state now and then, and at the end of a run.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from attrs import define, field

from replkv import wire
from replkv.codec import DecodeError
from replkv.machine import Machine
from replkv.testing.checker import bare
from replkv.testing.history import Violation
from replkv.testing.model import KEY, LEASE, MOD, VALUE

if TYPE_CHECKING:
    import random

    from replkv.node import Node
    from replkv.testing.checker import Witness
    from replkv.testing.cluster import SimMember
    from replkv.testing.model import LeaseTable
    from replkv.wire import Raw


@define(eq=False, repr=False)
class State:
    """Compares members with the model and with each other.

    Args:
        witness: the committed log, replayed.
        rng: chooses revisions to look at.
    """

    witness: Witness
    rng: random.Random
    _chains: dict[int, int] = field(factory=dict)
    _digests: dict[int, str] = field(factory=dict)

    def look(self, member: SimMember, node: Node) -> None:
        """Compare what is cheap to compare.

        Raises:
            Violation: it differs.
        """
        published, at = node.published, self.witness.at
        machine = published.machine
        least = at[published.applied]
        most = at[published.applied + (node._applying is not None)]
        if not least.revision <= published.revision <= most.revision:
            raise Violation("V1", f"{member.where} is at revision {published.revision} at index {published.applied}, not {least.revision}")
        if not least.compacted <= machine.store.compacted <= most.compacted:
            raise Violation("V4", f"{member.where} is compacted up to {machine.store.compacted}, {least.compacted} would be right")
        if node._applying is not None or machine.applied != published.applied:
            return
        if machine.size != least.size:
            raise Violation("A2", f"{member.where} counts {machine.size} bytes at index {machine.applied}, {least.size} would be right")
        if machine.roster.rows() != tuple((name, *wanted) for name, wanted in sorted(least.roster.items())):
            raise Violation("A2", f"{member.where} wants {machine.roster.rows()} at index {machine.applied}, not {least.roster}")
        if machine.auth.revision != least.rights.revision or machine.auth.tokens.keys() != least.rights.tokens.keys():
            raise Violation("A2", f"{member.where} has other rights at index {machine.applied} than {least.rights}")
        if self._chains.setdefault(machine.applied, machine.chain) != machine.chain:
            raise Violation("A2", f"{member.where} has another chained hash at index {machine.applied} than others")

    def look_closely(self, member: SimMember, node: Node) -> None:
        """Compare the whole state.

        Raises:
            Violation: it differs.
        """
        self._check_reads(member, node)
        machine = node.published.machine
        if machine.applied != node.published.applied or node._applying is not None:
            return
        self._check_history(member, machine)
        self._check_leases(member, machine)
        self._check_indexes(member, machine)
        if list(machine.auth.rows()) != (right := self.witness.at[machine.applied].rights.rows()):
            raise Violation("A2", f"{member.where} has the users and roles {list(machine.auth.rows())}, {right} would be right")
        digest = machine.digest()
        if self._digests.setdefault(machine.applied, digest) != digest:
            raise Violation("A2", f"{member.where} is in another state at index {machine.applied} than others")

    def _check_reads(self, member: SimMember, node: Node) -> None:
        """V3 and V4: today's revision and an earlier one are as the model has them, or compacted."""
        published = node.published
        compacted = published.machine.store.compacted
        for revision in (published.revision, self.rng.randint(1, published.revision), max(1, compacted)):
            everything = (wire.SCAN, b"\x01", None, 0, revision, False, False, wire.SORT_KEY, False, 0, 0, 0, 0)
            right = self.witness.model.read(everything, published.revision, compacted)
            found = published.machine.read(everything, published.revision)
            if found is None or bare(found) != right:
                raise Violation("V3", f"{member.where} has {found} at revision {revision}, {right} would be right")

    def _check_history(self, member: SimMember, machine: Machine) -> None:
        """V4: all events from the compaction revision on are there; what a finished compaction had to remove is not."""
        store, model = machine.store, self.witness.model
        events = [record for record in store.events if record[MOD] >= store.compacted]
        right = model.history(store.compacted, store.revision)
        if events != right:
            raise Violation("V4", f"{member.where} has the events {events}, {right} would be right")
        if store.unscrubbed:
            return
        if len(events) != len(store.events):
            raise Violation("V4", f"{member.where} still has events from before revision {store.compacted}")
        for key, versions in model.versions.items():
            newest = store.newest.get(key)
            found = [*store.older.get(key, ()), *([] if newest is None else [newest])]
            left = _left([record for record in versions if record[MOD] <= store.revision], store.compacted)
            if found != left:
                raise Violation("V4", f"{member.where} has the versions {found} of {key!r}, {left} would be right")

    def _check_leases(self, member: SimMember, machine: Machine) -> None:
        """A2: the leases are the model's, and the keys that hang on them are those that say so."""
        table, right = lease_table(machine), self.witness.at[machine.applied].leases
        if table != right:
            raise Violation("A2", f"{member.where} has the leases {table}, {right} would be right")
        hanging: dict[int, set[bytes]] = {}
        for record in machine.store.newest.values():
            if record[VALUE] is not None and record[LEASE]:
                hanging.setdefault(record[LEASE], set()).add(record[KEY])
        listed = {lease.id: set(lease.keys) for lease in machine.leases if lease.keys}
        if listed != hanging:
            raise Violation("V5", f"{member.where} lists {listed} under its leases, the keys say {hanging}")

    def _check_indexes(self, member: SimMember, machine: Machine) -> None:
        """V5: the keys are in order, and a machine that is built from the dump is the same."""
        store = machine.store
        if list(store.keys) != sorted(store.newest) or not store.older.keys() <= store.newest.keys():
            raise Violation("V5", f"{member.where} has keys that its index has not, or the other way round")
        try:
            copy = Machine.load(machine.dump())
        except DecodeError as error:
            raise Violation("V5", f"{member.where} can't be loaded from its dump: {error}") from error
        same = (copy.digest(), copy.size, copy.store.live) == (machine.digest(), machine.size, store.live)
        if not same or lease_table(copy) != lease_table(machine):
            raise Violation("V5", f"{member.where} becomes another state when it is dumped and loaded")


def lease_table(machine: Machine) -> LeaseTable:
    """Return a machine's leases as the model tells its own."""
    table = (
        (lease.id, lease.ttl, lease.keeper, machine.leases.deadline(lease), lease.passing, len(lease.keys)) for lease in machine.leases
    )
    return tuple(sorted(table))


def _left(versions: list[Raw], compacted: int) -> list[Raw]:
    """Return the versions of a key that are left after a compaction: what is visible there, and a deletion exactly there."""
    old = [record for record in versions if record[MOD] <= compacted]
    visible = [record for record in old[-1:] if record[VALUE] is not None or record[MOD] == compacted]
    return visible + versions[len(old) :]
