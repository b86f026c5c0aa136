"""What a member does without being asked: it compacts history, compares its state with others', and raises the cluster's feature level.

All of it runs on the node's thread in short slices, or as steps of the housekeeper.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from attrs import define, field

from replkv import codec
from replkv.compaction import Compactor, Scrubbing
from replkv.messages import Digest
from replkv.ops import Compact
from replkv.raft import Role
from replkv.upgrading import Upgrading
from replkv.verification import EVERY, FULL_EVERY, Verification

if TYPE_CHECKING:
    from replkv.config import Settings
    from replkv.housekeeper import Housekeeper
    from replkv.links import Links
    from replkv.machine import Machine
    from replkv.proposals import Call
    from replkv.raft import Raft
    from replkv.snapshotting import Snapshots


@define(eq=False, repr=False)
class Upkeep:
    """What one member does for its state; called between two entries only.

    Args:
        name: of the member.
        clock: seconds.
        links: to the other members.
        snapshots: while one is taken, nothing is removed.
        housekeeper: for hashing.
        submit: hands over a command of the member's own, and says what is to be done with its answer.
    """

    name: str
    clock: Callable[[], float]
    links: Links
    snapshots: Snapshots
    housekeeper: Housekeeper
    _submit: Callable[[bytes, Callable[[Call], None]], None]
    _compactor: Compactor | None = field(default=None, init=False)
    _compacting: bool = field(default=False, init=False)  # a compaction that this leader proposed is under way
    _scrubbing: Scrubbing = field(init=False)
    _upgrading: Upgrading = field(init=False)
    _verification: Verification = field(init=False)
    _told_at: int = field(default=0, init=False)  # the entry whose chained hash the others were told last
    _applied_before: int = field(default=0, init=False)  # when this member last looked around
    _compacted: int = field(default=0, init=False)  # as of the newest entry applied
    _hashed_in: int = field(default=0, init=False)  # the stretch of cluster time in which the whole state was hashed last
    _hashing: bool = field(default=False, init=False)

    def __attrs_post_init__(self) -> None:
        self._scrubbing = Scrubbing(self.clock)
        self._verification = Verification(self.name)
        self._upgrading = Upgrading(self.name, self.links, self._submit)

    def begin(self, settings: Settings, machine: Machine) -> None:
        """Take part in a cluster that lives by these settings, from this state on."""
        self._compactor = Compactor(settings)
        self._compacted = machine.store.compacted

    def restarted(self, machine: Machine) -> None:
        """Go on from a state that came from a snapshot, and let go of the one before."""
        self._scrubbing = Scrubbing(self.clock)
        self._compacted = machine.store.compacted

    def look_around(self, raft: Raft, machine: Machine) -> None:
        """Do what no event announces, a few times a second."""
        self._compact(raft, machine)
        self._upgrading.look_around(raft, machine)
        # When nothing goes on, all members stand at the same entry.
        at_rest = machine.applied == self._applied_before == raft.last_index
        self._applied_before = machine.applied
        if at_rest and self._told_at != machine.applied:
            self._compare(raft, machine)

    def applied(self, raft: Raft, machine: Machine, index: int) -> None:
        """Compare where the others do too: at every 256th entry, and thoroughly where one compacted history."""
        if index % EVERY == 0:
            self._compare(raft, machine)
        if machine.store.compacted != self._compacted:
            self._compacted = machine.store.compacted
            self._compare_fully(raft, machine)

    def heard(self, raft: Raft, peer: str, digest: Digest) -> None:
        """Compare with the hash of another member.

        Raises:
            InvariantBroken: this member is the odd one.
        """
        self._verification.note(peer, digest, raft.configuration, raft.leader)

    # -- compaction ----------------------------------------------------------------------------------------------------------------

    def _compact(self, raft: Raft, machine: Machine) -> None:
        """Let history go that the settings don't want to keep."""
        if self._compactor is None:
            return
        self._compactor.note(raft.time, machine.store.revision)
        target = self._compactor.target(machine, raft.time) if raft.role is Role.LEADER and not self._compacting else None
        if target is not None:
            self._compacting = True
            self._submit(codec.pack(Compact(target).to_wire()), self._answered)

    def _answered(self, _call: Call) -> None:
        self._compacting = False

    def scrub_due(self, machine: Machine) -> float:
        """Return when there is something to remove, on this member's clock; infinite where there is nothing."""
        if not machine.store.unscrubbed or self.snapshots.taking or self._hashing or len(machine.pins) > 0:
            return float("inf")
        return self._scrubbing.next_at

    def scrub(self, machine: Machine) -> None:
        """Remove some of what is compacted, if it is time."""
        if machine.store.unscrubbed and self.scrub_due(machine) <= self.clock():
            self._scrubbing.go_on(machine.store)

    # -- comparison ----------------------------------------------------------------------------------------------------------------

    def _compare(self, raft: Raft, machine: Machine) -> None:
        self._told_at = machine.applied
        self._tell(raft, Digest(machine.applied, full=False, hash=machine.chain.to_bytes(4)))

    def _compare_fully(self, raft: Raft, machine: Machine) -> None:
        """Hash the whole state in the background, at the first compaction in each minute of cluster time."""
        stretch = machine.time // FULL_EVERY
        if stretch == self._hashed_in or len(raft.configuration.names) < 2:
            return
        self._hashed_in = stretch
        if self._hashing or self.snapshots.taking:
            return
        self._hashing = True
        digest, index, chunks = hashlib.sha256(), machine.applied, machine.dump()

        def steps() -> Iterator[None]:
            for chunk in chunks:
                digest.update(chunk)
                yield

        def done(error: BaseException | None) -> None:
            self._hashing = False
            if error is not None:
                raise error
            self._tell(raft, Digest(index, full=True, hash=digest.digest()))

        self.housekeeper.start(steps(), done)

    def _tell(self, raft: Raft, digest: Digest) -> None:
        self.heard(raft, self.name, digest)
        for peer in raft.configuration.names:
            if peer != self.name:
                self.links.send(peer, digest)
