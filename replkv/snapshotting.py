"""Snapshots in a member's life: taking one when the log has grown, sending it to a follower that is too far behind, installing one.

Taking runs beside the node: the state is pinned in one turn, the file is written by the housekeeper.  Sending goes chunk by chunk, each
waiting for the acknowledgement of the one before, so that heartbeats pass in between.  Installing is atomic: the file is durable and
its state loaded, by the housekeeper, before the log points to it, and the log points to it before Raft and the machine go on from it.
"""

from __future__ import annotations

import logging
from functools import partial
from typing import TYPE_CHECKING

from attrs import define, field

from replkv.codec import DecodeError
from replkv.disk import corrupt
from replkv.errors import Corrupt, DiskFull, InvariantBroken
from replkv.machine import Machine
from replkv.messages import HardState, SnapshotAck, SnapshotChunk, SnapshotMeta
from replkv.raft import Role
from replkv.snapshot import SnapshotReceiver, SnapshotWriter, read_snapshot

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from replkv.config import Config
    from replkv.disk import Disk
    from replkv.housekeeper import Housekeeper
    from replkv.links import Links
    from replkv.log import Log
    from replkv.raft import Raft
    from replkv.snapshot import SnapshotFile

logger = logging.getLogger(__name__)

CHUNK = 256 << 10
RESEND_AFTER = 1.0
"""Seconds without an acknowledgement after which a chunk is sent again."""
GIVE_UP_AFTER = 10.0
"""Seconds without progress after which the follower is left to Raft's probes."""
TRUSTED_FOR = 60.0
"""Seconds for which a snapshot that was read through, and found to be what was written, is sent without another look."""
HOLD = 2.0
"""Seconds for which the newest snapshot is not replaced after a follower has asked for it: under load the next one is soon due."""
ROOM_AGAIN = 5.0
"""Seconds after which a snapshot is tried again that the disk had no room for, or that made none."""
PAUSES = 4
"""How many times as long as such a snapshot took the pause behind it is at least."""


def load_machine(disk: Disk, file: SnapshotFile) -> Machine:
    """Build the state that a snapshot holds.

    Raises:
        Corrupt: the file is not what was written, or holds no state.
        Incompatible: another version wrote it.
    """
    try:
        return Machine.load(read_snapshot(disk, file))
    except DecodeError as error:
        raise corrupt(f"{disk.where}/{file.name}: {error}") from None


@define(eq=False, repr=False)
class _Sending:
    """A snapshot on its way to one follower."""

    term: int  # of the leadership that sends it: in a later one its file may be gone
    file: SnapshotFile
    offset: int
    sent: float
    progressed: float


@define(eq=False, repr=False)
class Snapshots:
    """What one member does with snapshots.

    Args:
        name: of the member.
        config: when to take one, and how much of the log to keep behind it.
        disk: where the files are.
        log: points to the newest one.
        links: to the peers.
        housekeeper: writes and loads them.
        go_on_from: called with the machine that an installed one holds.
        clock: seconds.
    """

    _name: str
    _config: Config
    _disk: Disk
    _log: Log
    _links: Links
    _housekeeper: Housekeeper
    _go_on_from: Callable[[Machine], None]
    _clock: Callable[[], float]
    _bytes: int = field(default=0, init=False)  # of log applied since the last snapshot
    _damaged: bool = field(default=False, init=False)  # the newest one is: another is needed at once
    _not_before: float = field(default=float("-inf"), init=False)
    _taking: bool = field(default=False, init=False)
    _held_until: float = field(default=float("-inf"), init=False)
    _began: tuple[float, int] = field(default=(0.0, 0), init=False)  # when the one that is being taken was, and the bytes it covers
    _taken: SnapshotFile | None = field(default=None, init=False)
    _sending: dict[str, _Sending] = field(factory=dict, init=False)
    _checking: bool = field(default=False, init=False)
    _trusted: tuple[SnapshotFile | None, float] = field(default=(None, 0.0), init=False)  # and until when
    _receiver: SnapshotReceiver | None = field(default=None, init=False)
    _loading: SnapshotFile | None = field(default=None, init=False)
    _loaded: Machine | None = field(default=None, init=False)

    # -- taking --------------------------------------------------------------------------------------------------------------------

    @property
    def taking(self) -> bool:
        """Whether the state is being dumped."""
        return self._taking

    def applied(self, raft: Raft, machine: Machine, size: int) -> None:
        """Count an applied entry of ``size`` bytes, and take a snapshot if the log has grown enough; between two entries."""
        self._bytes += size
        if self._bytes >= self._config.snapshot_bytes:
            self.take_if_due(raft, machine)

    def take_if_due(self, raft: Raft, machine: Machine) -> None:
        """Take a snapshot if there is need of one; between two entries.

        That is where the log has grown enough, where the newest one was found to be damaged, and where the disk is full: what was deleted
        and compacted stands in the log until a snapshot lets it go.
        """
        due = self._damaged or self._bytes >= self._config.snapshot_bytes or (self._log.short and self._bytes > 0)
        held = self._sending or (self._clock() < self._held_until and not self._damaged)
        if not due or self._taking or held or self._clock() < self._not_before:
            return
        self._taking, self._began = True, (self._clock(), self._bytes)
        meta = SnapshotMeta(machine.applied, machine.term, machine.configuration)
        self._housekeeper.start(self._write(meta, machine.dump()), partial(self._done, raft))

    def _write(self, meta: SnapshotMeta, chunks: Iterator[bytes]) -> Iterator[None]:
        writer = SnapshotWriter(self._disk, meta, self._links.cluster, chunks)
        while (file := writer.step()) is None:
            yield
        self._taken = file

    def _done(self, raft: Raft, error: BaseException | None) -> None:
        """Let the log rest on the new snapshot; on the node's thread."""
        self._taking = False
        now, (since, covered) = self._clock(), self._began
        if self._log.short or isinstance(error, DiskFull):
            self._not_before = now + max(ROOM_AGAIN, PAUSES * (now - since))
        if isinstance(error, DiskFull):
            logger.warning("%s can't take a snapshot: %s; its log grows until there is room", self._name, error)
            return
        if error is not None:
            raise error
        self._bytes, self._damaged = max(0, self._bytes - covered), False
        file, self._taken = self._taken, None
        if file is None:
            return
        if self._log.snapshot is not None and self._log.snapshot.meta.index >= file.meta.index:
            self._drop(file)  # one that is newer was installed meanwhile
            return
        keep_from = max(1, file.meta.index - self._config.trailing_entries)
        self._log.snapshot_taken(file, keep_from)
        raft.trim(keep_from - 1, file.meta)

    # -- sending -------------------------------------------------------------------------------------------------------------------

    def send(self, raft: Raft, peer: str, now: float) -> None:
        """Begin to send the newest snapshot to a follower, once it was read through: damage must not travel.

        While that is done, or a newer one is being taken, which will replace it, Raft asks again, and none is taken that is not begun.
        """
        file = self._log.snapshot
        if file is None or self._taking or self._trusted[0] != file or now > self._trusted[1]:
            raft.snapshot_failed(peer)
            self._held_until = now + HOLD
            if file is not None and not self._taking and not self._checking:
                self._checking = True
                self._housekeeper.start(self._check(file), partial(self._checked, file))
            return
        logger.info("%s sends %s the snapshot at %d, %d bytes", self._name, peer, file.meta.index, file.size)
        self._sending[peer] = _Sending(raft.term, file, 0, now, now)
        self._send_chunk(raft, peer, now)

    def _check(self, file: SnapshotFile) -> Iterator[None]:
        for _ in read_snapshot(self._disk, file):
            yield

    def _checked(self, file: SnapshotFile, error: BaseException | None) -> None:
        """Trust a snapshot that is what was written; on the node's thread."""
        self._checking = False
        if error is None:
            self._trusted = file, self._clock() + TRUSTED_FOR
        elif self._log.snapshot != file:
            return  # it was replaced, and removed, meanwhile
        elif isinstance(error, Corrupt):
            self._distrust(error)
        else:
            raise error

    def _distrust(self, error: Corrupt) -> None:
        logger.warning("%s; %s takes another", error.damage, self._name)
        self._trusted, self._damaged = (None, 0.0), True

    def _send_chunk(self, raft: Raft, peer: str, now: float) -> None:
        sending = self._sending[peer]
        sending.sent = now
        try:
            data = self._disk.read(sending.file.name, sending.offset, CHUNK)
        except Corrupt as error:  # since it was trusted
            self._distrust(error)
            self._give_up(raft, peer)
            return
        self._links.send(peer, SnapshotChunk(raft.term, sending.file.meta, sending.offset, sending.file.size, data))

    def acknowledged(self, raft: Raft, peer: str, ack: SnapshotAck, now: float) -> None:
        """Go on where the follower says; when it has all, Raft hears from it."""
        sending = self._sending.get(peer)
        if sending is None or raft.role is not Role.LEADER or (ack.term, ack.index) != (raft.term, sending.file.meta.index):
            return
        if ack.offset >= sending.file.size:
            del self._sending[peer]
        elif not ack.offset:  # it begins again: perhaps what it got was damaged, since that was last looked at
            self._trusted = None, 0.0
            self._give_up(raft, peer)
        elif ack.offset != sending.offset:
            sending.offset, sending.progressed = ack.offset, now
            self._send_chunk(raft, peer, now)

    def _give_up(self, raft: Raft, peer: str) -> None:
        del self._sending[peer]
        raft.snapshot_failed(peer)

    def tick(self, raft: Raft, now: float) -> None:
        """Send chunks again that were not acknowledged, and give up on followers that make no progress."""
        if raft.role is not Role.LEADER:
            self._sending.clear()
            return
        for peer, sending in list(self._sending.items()):
            if sending.term != raft.term:
                del self._sending[peer]
            elif now - sending.progressed > GIVE_UP_AFTER:
                self._give_up(raft, peer)
            elif now - sending.sent > RESEND_AFTER:
                self._send_chunk(raft, peer, now)

    # -- installing ----------------------------------------------------------------------------------------------------------------

    def receive(self, raft: Raft, peer: str, chunk: SnapshotChunk) -> None:
        """Take a chunk from the leader; after the last one load the snapshot, and go on from it."""
        if chunk.term != raft.term or peer != raft.leader or self._loading is not None:
            return  # while one is loaded the leader is told nothing: it sends its last chunk again
        if not raft.wants(chunk.meta):  # all of it is here: Raft's next answer says so
            self._acknowledge(raft, peer, chunk.meta, chunk.total)
            return
        try:
            receiver = self._receive(chunk)
            if receiver.complete:
                self._load(raft, receiver.finish())
                return
        except (Corrupt, DiskFull) as error:
            logger.warning("%s dropped a snapshot that %s sent: %s", self._name, peer, error)
            self._abandon()
            if isinstance(error, Corrupt):
                self._acknowledge(raft, peer, chunk.meta, 0)
        else:
            self._acknowledge(raft, peer, chunk.meta, receiver.offset)

    def _receive(self, chunk: SnapshotChunk) -> SnapshotReceiver:
        receiver = self._receiver
        if receiver is None or (receiver.meta, receiver.total) != (chunk.meta, chunk.total):
            self._abandon()
            receiver = self._receiver = SnapshotReceiver(self._disk, chunk.meta, chunk.total)
        receiver.add(chunk.offset, chunk.data)
        return receiver

    def _acknowledge(self, raft: Raft, peer: str, meta: SnapshotMeta, offset: int) -> None:
        self._links.send(peer, SnapshotAck(raft.term, meta.index, offset))

    def _load(self, raft: Raft, file: SnapshotFile) -> None:
        """Have the housekeeper load a snapshot that is here as a whole: that takes long, and the leader must be heard meanwhile."""
        self._receiver, self._loading = None, file

        def steps() -> Iterator[None]:
            self._loaded = load_machine(self._disk, file)
            yield

        self._housekeeper.start(steps(), partial(self._install, raft))

    def _install(self, raft: Raft, error: BaseException | None) -> None:
        """Go on from the snapshot that was loaded, if there is still need of it; on the node's thread."""
        file, machine = self._loading, self._loaded
        self._loading = self._loaded = None
        if file is None or (error is not None and not isinstance(error, Corrupt)):
            raise error or InvariantBroken("no snapshot was being loaded")
        if error is not None or machine is None:
            logger.warning("%s dropped a snapshot: %s", self._name, error)
            self._drop(file)
        elif not raft.wants(file.meta):
            self._drop(file)
        else:
            self._log.install_snapshot(file, HardState(raft.term, raft.vote))
            raft.install(file.meta, self._clock(), machine.time)
            self._bytes = 0
            self._go_on_from(machine)
            logger.info("%s goes on from the snapshot at %d", self._name, file.meta.index)
            if raft.leader is not None:
                self._acknowledge(raft, raft.leader, file.meta, file.size)

    def _drop(self, file: SnapshotFile) -> None:
        """Remove a whole snapshot that turned out not to be needed; one of the same place may be, and then has the same name."""
        needed = {other.name for other in (self._log.snapshot, self._loading) if other is not None}
        if not self._taking and file.name not in needed:
            self._disk.remove(file.name)

    def _abandon(self) -> None:
        if self._receiver is not None:
            self._receiver.abandon()
            self._receiver = None
