"""A new cluster out of what is left of an old one: of a backup, or of the directory of one member.

Either way one member's directory is made, with which a cluster begins that has an id of its own and this member as its only voter.  Who
else is wanted is named in it: members with those names come with empty directories, by the very call with which they were made before, and
get all there is.  Members of the old cluster are strangers, and are refused.

Nothing that the old cluster numbered is numbered again: the revision is raised by a gap, and what lies below is compacted.  So a watch that
is resumed ends with ``Compacted``, a condition on an older revision fails, and fences go on growing.
"""

from __future__ import annotations

import contextlib
import logging
import os
import random
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Final

from attrs import frozen

from replkv import codec, kv
from replkv.backup import File, read_through, refused, to_path
from replkv.config import Config
from replkv.disk import TEMPORARY, RealDisk, create
from replkv.errors import StorageError
from replkv.founding import founding_entry
from replkv.log import RESTORING, Log
from replkv.machine import Machine
from replkv.member_ops import to_member_name, to_members
from replkv.messages import EXPECTED, Configuration, Identity
from replkv.recovery import segments
from replkv.roster import Roster, Wanted
from replkv.snapshot import SnapshotParser, SnapshotWriter, is_snapshot
from replkv.snapshotting import load_machine
from replkv.wal_format import IDENTITY, segment_name

if TYPE_CHECKING:
    from replkv.disk import Disk
    from replkv.log import Recovered
    from replkv.messages import Entry
    from replkv.snapshot import SnapshotFile

logger = logging.getLogger(__name__)

REVISION_GAP: Final = 1_000_000_000
"""Revisions that the old cluster may have gone on by since its state was taken."""
GAP_MAX: Final = 1 << 40
MAX_BYTES: Final = 8 << 30
"""Bytes of content that a backup may have by default."""
ENTRIES_MAX: Final = 1 << 46
COUNTED_MAX: Final = 1 << 62
"""So many entries, and so many of anything else, no cluster counts; what is added to them has room in the 63 bits of a number."""
SEGMENT: Final = Config().segment_bytes
_THERE_ANYWAY: Final = {"lock", "lost+found"}


@frozen
class NewCluster:
    """A cluster of which there is one member's directory so far.

    Attributes:
        name: of that member, its only voter.
        cluster: the id of the cluster, ``former`` of the one whose state it begins with.
        members: the names of all who are wanted, this one included.
        revision: at which it begins; everything below is compacted.
        former_revision: the newest revision of the former cluster that is in it.
        former_index: the last entry of the former cluster's log that is in it, whose term is ``former_term``.
        damage: what is known to be lost of the member's log; "": it was whole.
    """

    name: str
    cluster: str
    former: str
    members: tuple[str, ...]
    revision: int
    former_revision: int
    former_index: int
    former_term: int
    damage: str = ""


def restore(
    path: str | os.PathLike[str],
    data_dir: str | os.PathLike[str],
    *,
    name: str,
    cluster: Mapping[str, str] | None = None,
    revision_gap: int = REVISION_GAP,
    max_bytes: int = MAX_BYTES,
) -> NewCluster:
    """Make the data directory of the first member of a new cluster, which begins with the state in a backup.

    Do it for one member only, then start it as ever: ``Replica(name, cluster=cluster, data_dir=data_dir)``.  The others are started with
    empty directories, by the same call with their own names; they catch up, and get their votes.  Who restores for each of them has as many
    clusters, whose members refuse each other with ``WrongCluster``.

    Keys and leases are kept; the time of every lease begins anew.  Sessions are not: a write of the old cluster whose outcome was not known
    stays unknown.  History is compacted.

    Args:
        path: of the backup.
        data_dir: a directory that is empty, or not there; left as it was where there is an error.
        name: of the member.
        cluster: the address of every member by name, this one included; None: a cluster of one.
        revision_gap: by so many the revision is raised, at least 1: more than the old cluster has counted since the backup was taken, and
            more than was given before, with what was counted then, if it is restored a second time.
        max_bytes: of content, uncompressed, that are taken in at most; a backup with more is refused.

    Raises:
        TypeError, ValueError: an argument is wrong, or the directory is not empty; nothing was changed.
        OSError: the backup can't be opened.
        Corrupt: it is no backup, cut off, damaged, or too large.
        Incompatible: a newer version wrote it.
        StorageError: the directory can't be used; ``DirectoryInUse``, ``DiskFull``.
    """
    wanted, gap = _wanted_of(to_member_name(name), cluster), _checked(revision_gap, "revision_gap", GAP_MAX)
    disk = RealDisk(to_path(data_dir, "data_dir"))
    _check_empty(disk.where)
    machine = read_backup(to_path(path, "path"), _checked(max_bytes, "max_bytes", 1 << 62))
    disk.lock()
    try:
        _check_empty(disk.where)
        return restore_on(disk, machine, name, wanted, gap, _rng())
    finally:
        disk.close()


def recover_lost_majority(
    data_dir: str | os.PathLike[str], *, cluster: Mapping[str, str] | None = None, revision_gap: int = REVISION_GAP
) -> NewCluster:
    """Turn the directory of a member that is left of a cluster into that of the first member of a new one; the member must not run.

    Only for when the majority is lost for good: as long as it may come back, wait.  Of several that are left choose the one whose
    ``status().last_term`` is the largest, of those with the same the one whose ``last_index`` is: a log may be long for what was never
    decided.  Start all others with empty directories.

    All that is in this member's log counts, also what nobody knew to be decided: a write may be there that was never acknowledged.  What
    only the lost members had is lost, even if it was acknowledged.  Members of the old cluster that come back are refused with
    ``WrongCluster``; with an empty directory they are let in.  Crashes do no harm: the directory is the old member's or the new one's.

    Args:
        data_dir: of the member that is left.
        cluster: the address of every member by name, this one included; None: those who were wanted before.
        revision_gap: by so many the revision is raised, at least 1: more than the lost members may have counted beyond this one.

    Raises:
        TypeError, ValueError: an argument is wrong; or the member never belonged to a cluster, or has nobody to lose; nothing was changed.
        DirectoryInUse: it runs.
        Corrupt: nothing is left of its state.
        StorageError: the directory can't be used.
    """
    gap = _checked(revision_gap, "revision_gap", GAP_MAX)
    where = to_path(data_dir, "data_dir")
    if not os.path.isdir(where) or not segments(os.listdir(where)):
        raise ValueError(f"{where} is no member's data directory")
    if cluster is not None:
        to_members(cluster, "cluster")
    return recover_on(RealDisk(where), cluster, gap, _rng())


# -- on any disk -------------------------------------------------------------------------------------------------------------------


def restore_on(
    disk: Disk, machine: Machine, name: str, wanted: Mapping[str, Wanted], gap: int, rng: random.Random, segment_bytes: int = SEGMENT
) -> NewCluster:
    """Restore into a directory that is locked and holds nothing, or what is left of an attempt that was cut off.

    Args:
        disk: the directory.
        machine: the state; it is changed.
        name: of the member.
        wanted: who is to belong to the cluster.
        gap: by so many the revision is raised.
        rng: for identities.
        segment_bytes: of the log.

    Raises:
        StorageError: the directory can't be used; ``DiskFull``.
    """
    made, incarnation, founding = begin_anew(machine, name, wanted, gap, rng)
    try:
        _clear(disk)
        create(disk, RESTORING, 0)
        log = Log(disk, Identity(name, incarnation), segment_bytes)
        log.begin_anew(incarnation, founding, write_snapshot(disk, machine))
    except StorageError:
        with contextlib.suppress(StorageError):  # a disk that has failed keeps the mark
            _clear(disk)
            disk.remove(RESTORING)
        raise
    disk.remove(RESTORING)
    disk.sync_directory()
    return made


def recover_on(disk: Disk, cluster: Mapping[str, str] | None, gap: int, rng: random.Random, segment_bytes: int = SEGMENT) -> NewCluster:
    """Recover what a directory holds; as ``recover_lost_majority``.

    Args:
        disk: the directory, not locked; it is closed.
        cluster: the address of every member by name; None: those who were wanted before.
        gap: by so many the revision is raised.
        rng: for identities.
        segment_bytes: of the log.

    Raises:
        ValueError, StorageError: as there.
    """
    log, recovered = Log.open(disk, "", 1, segment_bytes)
    try:
        name = recovered.identity.name
        machine = _state_of(disk, recovered)
        if machine.configuration.all_voters <= {name}:
            raise ValueError(f"{name} in {disk.where} is the only voter of its cluster: it has nobody to lose, start it")
        made, incarnation, founding = begin_anew(machine, name, _wanted_by(machine, name, cluster), gap, rng, _damage(recovered))
        log.begin_anew(incarnation, founding, write_snapshot(disk, machine))
    finally:
        log.close()
    logger.warning("%s goes on alone as cluster %s, from entry %d of cluster %s", name, made.cluster, made.former_index, made.former)
    return made


def begin_anew(
    machine: Machine, name: str, wanted: Mapping[str, Wanted], gap: int, rng: random.Random, damage: str = ""
) -> tuple[NewCluster, int, Entry]:
    """Turn a state into that of a new cluster.

    Args:
        machine: the state.
        name: of the only voter.
        wanted: who is to belong to the cluster.
        gap: by so many the revision is raised.
        rng: for identities.
        damage: what is known to be lost.

    Returns:
        What was made, the incarnation of the voter, and the first entry of the cluster.
    """
    assert machine.founding is not None  # noqa: S101  # the callers have looked
    former, revision, index, term = machine.founding.cluster, machine.store.revision, machine.applied, machine.term
    cluster, incarnation = rng.randbytes(len(codec.NO_CLUSTER)), rng.getrandbits(63) | 1
    addresses = {member: at.address for member, at in sorted(wanted.items()) if at.address}
    founding = founding_entry(cluster, {name: incarnation}, {name: wanted[name].address}, machine.settings, machine.level)
    members = {member: incarnation if member == name else EXPECTED for member in sorted(wanted)}
    others = tuple(member for member in members if member != name)
    configuration = Configuration((name,), (), others, members, addresses)
    machine.begin_anew(codec.decode_founding(founding.payload), configuration, Roster(wanted), gap)
    made = NewCluster(name, cluster.hex(), former.hex(), tuple(members), machine.store.revision, revision, index, term, damage)
    return made, incarnation, founding


def write_snapshot(disk: Disk, machine: Machine) -> SnapshotFile:
    """Write the state of a machine down as a snapshot in its directory."""
    assert machine.founding is not None  # noqa: S101  # it has just begun anew
    writer = SnapshotWriter(disk, machine.meta, machine.founding.cluster, machine.dump())
    while (file := writer.step()) is None:
        pass
    return file


def _clear(disk: Disk) -> None:
    """Remove what an earlier attempt has left, but for the mark of it."""
    names = disk.list()
    logs = {segment_name(number) for number in (IDENTITY, *segments(names))}
    for name in names:
        if name in logs or is_snapshot(name) or name.endswith(TEMPORARY):
            disk.remove(name)
    disk.sync_directory()


# -- what there is -----------------------------------------------------------------------------------------------------------------


def read_backup(path: str, max_bytes: int = MAX_BYTES) -> Machine:
    """Build the state that a backup holds.

    Raises:
        OSError: it can't be opened.
        Corrupt: it is no backup, cut off, damaged, or too large.
        Incompatible: a newer version wrote it.
    """
    with File.reading(path) as file:
        parser = SnapshotParser(file.where)
        try:
            machine = Machine.load(_bounded(read_through(file, parser), max_bytes, file.where))
        except codec.DecodeError as error:
            raise refused(f"{file.where}: {error}") from None
        meta, founding = parser.meta, machine.founding
        if meta is None or founding is None or (meta.index, meta.term, parser.cluster) != (machine.applied, machine.term, founding.cluster):
            raise refused(f"{file.where} holds another state than it says")
        counted = machine.term, machine.time, machine.store.revision, machine.leases.last_id
        if machine.applied >= ENTRIES_MAX or max(counted) >= COUNTED_MAX:
            raise refused(f"{file.where} has numbers that nobody counts to")
    return machine


def _bounded(chunks: Iterable[bytes], most: int, where: str) -> Iterator[bytes]:
    size = 0
    for chunk in chunks:
        size += len(chunk)
        if size > most:
            raise refused(f"{where} holds more than {most} bytes of content, which max_bytes= allows")
        yield chunk


def _state_of(disk: Disk, recovered: Recovered) -> Machine:
    """Apply all that a directory remembers.

    Raises:
        ValueError: it never belonged to a cluster.
        Corrupt: its state is lost.
    """
    if not recovered.founding:
        raise ValueError(f"{disk.where} has never belonged to a cluster: there is nothing to recover")
    machine = load_machine(disk, recovered.snapshot) if recovered.snapshot is not None else Machine()
    for entry in recovered.entries:
        kv.run(machine.apply(entry))
    if machine.founding is None:
        raise refused(f"{disk.where} has lost its state, and only the other members had it, too")
    return machine


def _damage(recovered: Recovered) -> str:
    last = recovered.entries[-1].index if recovered.entries else recovered.snapshot.meta.index if recovered.snapshot else 0
    if recovered.floor.index <= last:
        return ""
    return f"its log is damaged: what followed entry {last} is lost"


# -- arguments ---------------------------------------------------------------------------------------------------------------------


def _wanted_of(name: str, cluster: Mapping[str, str] | None) -> dict[str, Wanted]:
    if cluster is None:
        return {name: Wanted(voter=True, address="")}
    members = dict(to_members(cluster, "cluster"))
    if name not in members:
        raise ValueError(f"cluster must name every member, this one too: {name!r} is not among {', '.join(members)}")
    if len(set(members.values())) < len(members):
        raise ValueError(f"two members of the cluster have one address: {members}")
    return {member: Wanted(voter=True, address=url) for member, url in members.items()}


def _wanted_by(machine: Machine, name: str, cluster: Mapping[str, str] | None) -> dict[str, Wanted]:
    if cluster is not None:
        return _wanted_of(name, cluster)
    wanted = {member: machine.roster[member] for member in machine.roster}
    known = {member: machine.configuration.addresses.get(member, at.address) for member, at in wanted.items()}
    known.setdefault(name, machine.configuration.addresses.get(name, ""))
    return {member: Wanted(member == name or wanted[member].voter, url) for member, url in known.items()}


def _check_empty(where: str) -> None:
    names = os.listdir(where) if os.path.isdir(where) else []
    found = {name for name in names if name not in _THERE_ANYWAY and not name.endswith(TEMPORARY)}
    if found and RESTORING not in found:
        raise ValueError(f"{where} is not empty, there is {min(found)}: restore into a new directory, or move away what is in it")


def _checked(number: object, argument: str, most: int) -> int:
    if not isinstance(number, int) or isinstance(number, bool):
        raise TypeError(f"{argument} must be an int, not {type(number).__name__}")
    if not 1 <= number <= most:
        raise ValueError(f"{argument} must be from 1 to {most}, not {number}")
    return number


def _rng() -> random.Random:
    return random.Random(int.from_bytes(os.urandom(16)))
