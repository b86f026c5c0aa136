"""Snapshots in a member's life: taking one when the log has grown, sending it to a follower that is too far behind, installing one.

Taking runs beside the node: the state is pinned in one turn, the file is written by the housekeeper.  The log between two snapshots is as
long as ``Config.snapshot_bytes`` says, or about as large as a snapshot, if that is more.  Members take turns, each at a place of the log of
its own.  Sending goes chunk by chunk, each waiting for the acknowledgement of the one before, so that heartbeats pass in between; it goes
on where the follower says, also after a lost connection or a restart of the leader.  The file is not replaced meanwhile, unless the log
has grown by more than it costs to send another.  Installing is atomic: the file is durable and its state loaded, by the housekeeper,
before the log points to it, and the log points to it before Raft and the machine go on from it.
"""

from __future__ import annotations

import logging
from bisect import bisect_left, bisect_right
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
from replkv.status import Transfer

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
"""Seconds after which a snapshot is tried again, or taken from the leader, that the disk had no room for, or that made none."""
PAUSES = 4
"""How many times as long as such a snapshot took the pause behind it is at least."""
LATELY = 60.0
"""Seconds since a follower was heard of, up to which log, or a snapshot half sent, is kept for it: it may only have been started again."""
KEPT = 4
"""The part of the log between two snapshots that is kept behind the newer one for anybody: who leads next knows of nobody how far it is."""
FEW = 4
"""Entries that may be kept whatever their size: so many may be on their way to a follower that lacks nothing."""
LARGE = 4 << 20
"""Bytes of a snapshot up to which it is taken as often as the configuration says: a small one is written in no time."""
LONGEST = 256 << 20
"""Bytes of log between two snapshots up to which there may be more than the configuration says: it is in memory, replayed at a start."""
GRAINS = 64
"""Into so many parts ``Config.snapshot_bytes`` of log are divided where the bytes of a part are counted."""


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


class Measure:
    """How many bytes of the log lie between two entries, to a grain.

    Args:
        grain: bytes.
    """

    def __init__(self, grain: int) -> None:
        self._grain = grain
        self._total = 0
        self._indexes: list[int] = []  # marks: entries, and the bytes up to the end of each
        self._totals: list[int] = []

    def add(self, index: int, size: int) -> None:
        """Count the next entry."""
        if not self._indexes:
            self._indexes, self._totals = [index - 1], [self._total]
        self._total += size
        if self._total - self._totals[-1] >= self._grain:
            self._indexes.append(index)
            self._totals.append(self._total)

    def first(self, index: int, size: int) -> int:
        """Return from which entry on there are no more than ``size`` bytes up to the end of entry ``index``, as far as was counted."""
        if not self._indexes:
            return index + 1
        newest = self._totals[max(0, bisect_right(self._indexes, index) - 1)]
        mark = bisect_left(self._totals, newest - size)
        return min(self._indexes[mark], index) + 1

    def forget(self, index: int) -> None:
        """Forget what lies before an entry."""
        count = max(0, bisect_right(self._indexes, index) - 1)
        del self._indexes[:count], self._totals[:count]

    def restart(self) -> None:
        """Forget all; what is counted next stands elsewhere in the log."""
        self._indexes, self._totals = [], []


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
    taken: int = field(default=0, init=False)
    """How many this member has taken since it started."""
    _bytes: int = field(default=0, init=False)  # of log applied since the last snapshot
    _due: int = field(default=0, init=False)  # with so many bytes the next one is; 0: that is not reckoned yet
    _measure: Measure = field(init=False)
    _damaged: bool = field(default=False, init=False)  # the newest one is: another is needed at once
    _not_before: float = field(default=float("-inf"), init=False)
    _taking: bool = field(default=False, init=False)
    _held_until: float = field(default=float("-inf"), init=False)
    _began: tuple[float, int] = field(default=(0.0, 0), init=False)  # when the one that is being taken was, and the bytes it covers
    _writer: SnapshotWriter | None = field(default=None, init=False)
    _expected: int = field(default=0, init=False)  # about how many bytes the state is that is being written
    _taken: SnapshotFile | None = field(default=None, init=False)
    _unneeded: list[SnapshotFile] = field(factory=list, init=False)  # whole ones, unless the one that is being taken has the name of one
    _sending: dict[str, _Sending] = field(factory=dict, init=False)
    _checking: bool = field(default=False, init=False)
    _trusted: tuple[SnapshotFile | None, float] = field(default=(None, 0.0), init=False)  # and until when
    _receiver: SnapshotReceiver | None = field(default=None, init=False)
    _sender: str = field(default="", init=False)  # of what is received or loaded
    _no_room_until: float = field(default=float("-inf"), init=False)  # for what is received
    _loading: SnapshotFile | None = field(default=None, init=False)
    _loaded: Machine | None = field(default=None, init=False)

    def __attrs_post_init__(self) -> None:
        self._measure = Measure(self._config.snapshot_bytes // GRAINS)

    @property
    def transfers(self) -> tuple[Transfer, ...]:
        """What is under way, to look at; any thread."""
        writer, receiver, loading = self._writer, self._receiver, self._loading
        found = [Transfer("sending", peer, sending.offset, sending.file.size) for peer, sending in sorted(self._sending.copy().items())]
        if writer is not None:
            found.append(Transfer("taking", "", min(writer.plain, self._expected), self._expected))
        if receiver is not None:
            found.append(Transfer("receiving", self._sender, receiver.offset, receiver.total))
        if loading is not None:
            found.append(Transfer("loading", self._sender, loading.size, loading.size))
        return tuple(found)

    # -- taking --------------------------------------------------------------------------------------------------------------------

    @property
    def taking(self) -> bool:
        """Whether the state is being dumped."""
        return self._taking

    @property
    def log_bytes(self) -> int:
        """Bytes of log that were applied since the newest snapshot was begun."""
        return self._bytes

    def applied(self, raft: Raft, machine: Machine, size: int) -> None:
        """Count an applied entry of ``size`` bytes, and take a snapshot if the log has grown enough; between two entries."""
        self._bytes += size
        self._measure.add(machine.applied, size)
        if self._bytes >= self._due:
            self.take_if_due(raft, machine)

    def take_if_due(self, raft: Raft, machine: Machine) -> None:
        """Take a snapshot if there is need of one; between two entries.

        That is where the log has grown enough, where the newest one was found to be damaged, and where the disk is full: what was deleted
        and compacted stands in the log until a snapshot lets it go.
        """
        if not self._due:
            self._due = self._interval if self._log.snapshot is not None else self._share(raft, None)
        due = self._damaged or self._bytes >= self._due or (self._log.short and self._bytes > 0)
        if not due or self._taking or self._clock() < self._not_before or self._is_held(raft, machine.applied):
            return
        self._taking, self._began = True, (self._clock(), self._bytes)
        self._expected = machine.size
        self._housekeeper.start(self._write(machine.meta, machine.dump()), partial(self._done, raft))

    @property
    def _interval(self) -> int:
        """How many bytes of log lie between two snapshots: ``snapshot_bytes``, doubled as long as the newest one is still as large.

        So what is written into snapshots stays in proportion to what is put (thesis §5.1.3).  It is doubled, not taken from the size:
        where each interval is a multiple of the other, members whose files differ keep their turns.
        """
        interval, file = self._config.snapshot_bytes, self._log.snapshot
        if file is not None and file.size > LARGE:
            while 2 * interval <= min(file.size, LONGEST):
                interval *= 2
        return interval

    def _share(self, raft: Raft, before: str | None) -> int:
        """Return after how much of the log this member takes its turn, if another had its own where the log is counted from.

        All count the same bytes.  So that they don't take their snapshots at the same moment, which would slow all of a quorum down,
        they are spread evenly over ``snapshot_bytes``, in the order of their names, and stay as far apart where there is more between two.

        Args:
            raft: knows the members.
            before: the other; None: nobody had one yet.
        """
        names = sorted(raft.configuration.names)
        whole, least = self._interval, self._config.snapshot_bytes
        if self._name not in names:
            return whole
        places = (names.index(self._name) - (names.index(before) if before in names else -1)) % len(names) or len(names)
        return max(1, whole - least + least * places // len(names))

    def _is_held(self, raft: Raft, applied: int) -> bool:
        """Tell whether a snapshot has to wait: for those that are being sent the last one, have asked for it, or would be left behind.

        They are waited for until the log has grown by as much as that snapshot is large: then sending the next one costs no more.
        """
        whole, file = self._interval, self._log.snapshot
        if self._bytes >= whole + max(whole, file.size if file is not None else 0):
            return False
        if self._sending:
            return True
        now = self._clock()
        return not self._damaged and (now < self._held_until or (not self._log.short and self._leaves_behind(raft, applied, now)))

    def _leaves_behind(self, raft: Raft, applied: int, now: float) -> bool:
        """Tell whether a follower that is there, and that has what the last one holds, lacks more than is kept behind the next."""
        has, bound = self._log.snapshot.meta.index if self._log.snapshot is not None else 0, self._bound(applied)
        since = now - raft.timing.election_timeout
        return any(peer.heard_at > since and has <= peer.match < bound - 1 for peer in raft.peers.values())

    def _write(self, meta: SnapshotMeta, chunks: Iterator[bytes]) -> Iterator[None]:
        self._writer = writer = SnapshotWriter(self._disk, meta, self._links.cluster, chunks)
        while (file := writer.step()) is None:
            yield
        self._taken = file

    def _done(self, raft: Raft, error: BaseException | None) -> None:
        """Let the log rest on the new snapshot; on the node's thread."""
        self._taking, self._writer = False, None
        now = self._clock()
        if self._log.short or isinstance(error, DiskFull):
            self._not_before = now + max(ROOM_AGAIN, PAUSES * (now - self._began[0]))
        if isinstance(error, DiskFull):
            logger.warning("%s can't take a snapshot: %s; its log grows until there is room", self._name, error)
        elif error is not None:
            raise error
        file, self._taken = self._taken, None
        if file is not None:
            self.taken += 1
            self._use(raft, file, now)
        unneeded, self._unneeded = self._unneeded, []
        for other in unneeded:
            self._drop(other)

    def _use(self, raft: Raft, file: SnapshotFile, now: float) -> None:
        if self._log.snapshot is not None and self._log.snapshot.meta.index >= file.meta.index:
            self._drop(file)  # one that is newer was installed meanwhile
            return
        covered = self._began[1]
        self._bytes, self._damaged = self._bytes - covered, False
        for peer in list(self._sending):
            logger.warning("%s gives up sending %s a snapshot: the log has grown by more than that is large meanwhile", self._name, peer)
            self._give_up(raft, peer)
        keep_from = self._keep_from(raft, file.meta.index, now)  # by the interval there was: so much was promised to those who lack it
        self._log.snapshot_taken(file, keep_from)
        whole = self._interval
        self._due = whole - (covered - self._due) % whole  # whether it was late or early, its turn stays
        raft.trim(keep_from - 1, file.meta)
        self._measure.forget(keep_from)

    def _keep_from(self, raft: Raft, index: int, now: float) -> int:
        """Return the first entry that is kept behind a snapshot, for followers that need a little more.

        A part of the log is kept for anybody, and by a leader what those lack that it has heard of lately; never more than lies between
        two snapshots, and where the disk is full hardly anything.
        """
        bound, kept = self._bound(index), index - self._config.trailing_entries
        if not self._log.short:
            lacked = [peer.match + 1 for peer in raft.peers.values() if peer.heard_at > now - LATELY]
            anyhow = self._measure.first(index, self._interval // KEPT)
            kept = min([kept, anyhow, *(first for first in lacked if first >= bound)])
        return max(1, bound, kept)

    def _bound(self, index: int) -> int:
        """Return the first entry that may be kept behind a snapshot at most."""
        return min(self._measure.first(index, self._interval), index - min(FEW, self._config.trailing_entries))

    # -- sending -------------------------------------------------------------------------------------------------------------------

    def send(self, raft: Raft, peer: str, now: float) -> None:
        """Begin to send the newest snapshot to a follower, once it was read through: damage must not travel.

        While that is done, or a newer one is being taken, which will replace it, Raft asks again, and none is taken that is not begun.
        """
        file = self._log.snapshot
        if file is None or self._taking or self._trusted[0] != file or now > self._trusted[1]:
            raft.snapshot_failed(peer)
            self._held_until = max(self._held_until, now + HOLD)
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
        elif ack.offset == sending.offset:
            sending.progressed = now  # it has all and is loading it
        else:
            sending.offset, sending.progressed = ack.offset, now
            self._send_chunk(raft, peer, now)

    def _give_up(self, raft: Raft, peer: str) -> None:
        del self._sending[peer]
        raft.snapshot_failed(peer)

    def tick(self, raft: Raft, now: float) -> None:
        """Send chunks again that were not acknowledged, and give up on followers that make no progress, and on what nobody needs."""
        if self._receiver is not None and not raft.wants(self._receiver.meta):
            self._abandon()
        if raft.role is not Role.LEADER:
            self._sending.clear()
            return
        for peer, sending in list(self._sending.items()):
            if sending.term != raft.term or peer not in raft.peers:
                del self._sending[peer]
            elif now - sending.progressed > GIVE_UP_AFTER:
                self._held_until = now + LATELY  # it has a part of it, and may come back for the rest
                self._give_up(raft, peer)
            elif now - sending.sent > RESEND_AFTER:
                self._send_chunk(raft, peer, now)

    # -- installing ----------------------------------------------------------------------------------------------------------------

    def receive(self, raft: Raft, peer: str, chunk: SnapshotChunk) -> None:
        """Take a chunk from the leader; after the last one load the snapshot, and go on from it."""
        if chunk.term != raft.term or peer != raft.leader or self._clock() < self._no_room_until:
            return
        if self._loading is not None:
            if chunk.offset and chunk.meta == self._loading.meta:
                self._acknowledge(raft, peer, chunk.meta, chunk.offset)  # not yet: it sends its last chunk again
            return
        self._sender = peer
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
                self._no_room_until = self._clock() + ROOM_AGAIN
        else:
            self._acknowledge(raft, peer, chunk.meta, receiver.offset)

    def _receive(self, chunk: SnapshotChunk) -> SnapshotReceiver:
        receiver = self._receiver
        if receiver is None or (receiver.meta, receiver.total) != (chunk.meta, chunk.total):
            if receiver is not None:
                what = f"the snapshot at {receiver.meta.index}: {self._sender} sends another, at {chunk.meta.index}"
                logger.info("%s drops the %d bytes that it has of %s", self._name, receiver.offset, what)
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
            self._bytes, self._due, self._damaged = 0, self._share(raft, self._sender), False
            self._measure.restart()
            self._go_on_from(machine)
            logger.info("%s goes on from the snapshot at %d", self._name, file.meta.index)
            if raft.leader is not None:
                self._acknowledge(raft, raft.leader, file.meta, file.size)

    def _drop(self, file: SnapshotFile) -> None:
        """Remove a whole snapshot that turned out not to be needed; one of the same place may be, and then has the same name."""
        if self._taking:
            self._unneeded.append(file)  # perhaps
            return
        needed = {other.name for other in (self._log.snapshot, self._loading) if other is not None}
        if file.name not in needed and file.name in self._disk.list():
            self._disk.remove(file.name)

    def _abandon(self) -> None:
        if self._receiver is not None:
            self._receiver.abandon()
            self._receiver = None
