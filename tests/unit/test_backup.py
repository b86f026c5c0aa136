"""Backups: a file that holds all there is at one entry, is found whole or not at all, and is refused where it is not what was written."""

from __future__ import annotations

import asyncio
import errno
import gc
import hashlib
import os
import struct
import threading
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest
from eventual import PATIENCE, eventually

import replkv.aio
from replkv import AsyncReplica, Backup, Client, Closed, Compacted, Corrupt, Incompatible, Put, Replica, connect
from replkv.backup import File, State, TakeHold, write_backup
from replkv.new_cluster import read_backup
from replkv.session import Sessions


@pytest.fixture
def replica() -> Iterator[Replica]:
    with Replica() as replica:
        replica.wait_ready(PATIENCE)
        yield replica


def fill(replica: Replica, keys: int = 300) -> None:
    for number in range(keys):
        replica.put(f"key/{number % 97}", bytes([number % 256]) * 64)
    replica.delete("key/13")


def pairs(replica: Replica) -> list[Any]:
    return list(replica.scan(prefix="").kvs)


def stored(path: Path | str) -> list[tuple[bytes, bytes]]:
    store = read_backup(str(path)).store
    return [(record[0], record[1]) for records in store.slices((b"", None), store.revision) for record in records]


def pinned(replica: Replica) -> State:
    state = replica._run(TakeHold(), PATIENCE)
    assert isinstance(state, State)
    return state


# -- what is in it -----------------------------------------------------------------------------------------------------------------


def test_a_backup_holds_all_that_was_acknowledged_and_says_what_it_is(replica: Replica, tmp_path: Path) -> None:
    fill(replica)
    lease = replica.lease(60)
    replica.put("leased", "value", lease=lease)
    backup = replica.backup(tmp_path / "b")
    content = (tmp_path / "b").read_bytes()
    assert (backup.path, backup.size, backup.revision) == (str(tmp_path / "b"), len(content), replica.revision)
    assert backup.sha256 == hashlib.sha256(content).hexdigest()
    assert (backup.index, backup.term) == (replica.status().applied_index, replica.status().raft_term)
    machine = read_backup(backup.path)
    assert machine.founding is not None
    assert (machine.founding.cluster.hex(), machine.store.revision) == (backup.cluster, backup.revision)
    assert stored(backup.path) == [(kv.key, kv.value) for kv in pairs(replica)]
    assert [(one.id, len(one.keys)) for one in machine.leases] == [(lease.id, 1)]


def test_two_backups_of_one_state_are_the_same_file(replica: Replica, tmp_path: Path) -> None:
    fill(replica)
    first, second = replica.backup(tmp_path / "1"), replica.backup(tmp_path / "2")
    if first.index == second.index:  # nothing was written for the member itself meanwhile
        assert first.sha256 == second.sha256


def test_it_is_what_the_store_was_when_it_began_while_writes_and_compaction_go_on(replica: Replica, tmp_path: Path) -> None:
    fill(replica)
    before, state = [(kv.key, kv.value) for kv in pairs(replica)], pinned(replica)
    replica.delete(prefix="key/")
    replica.put("later", "x")
    replica.compact(replica.revision)
    write_backup(state, File(str(tmp_path / "b")))
    assert stored(tmp_path / "b") == before


def test_nothing_is_removed_while_a_state_is_held_and_all_is_when_it_is_let_go(replica: Replica) -> None:
    fill(replica)
    state: State | None = pinned(replica)
    assert state is not None
    replica.compact(replica.revision)
    assert replica._node is not None
    store, held = replica._node.machine.store, replica._node.machine.pins
    replica.put("turn", "x")
    assert store.unscrubbed
    assert list(held) == [state]
    state = None
    gc.collect()
    eventually(lambda: not store.unscrubbed)


def test_one_that_failed_keeps_nothing_from_being_removed_even_if_somebody_keeps_its_error(replica: Replica, tmp_path: Path) -> None:
    fill(replica)

    def fail(_size: int) -> None:
        raise RuntimeError("the bar broke")

    with pytest.raises(RuntimeError, match="the bar broke") as kept:
        replica.backup(tmp_path / "b", on_progress=fail)
    assert kept.tb is not None
    assert replica._node is not None
    assert len(replica._node.machine.pins) == 0


def test_only_its_owner_may_read_it(replica: Replica, tmp_path: Path) -> None:
    replica.backup(tmp_path / "b")
    assert (tmp_path / "b").stat().st_mode & 0o777 == 0o600


# -- where it goes -----------------------------------------------------------------------------------------------------------------


def test_a_file_that_is_there_is_not_touched_unless_that_is_wanted(replica: Replica, tmp_path: Path) -> None:
    (tmp_path / "b").write_text("precious")
    with pytest.raises(FileExistsError, match="overwrite=True"):
        replica.backup(tmp_path / "b")
    assert (tmp_path / "b").read_text() == "precious"
    replica.backup(tmp_path / "b", overwrite=True)
    assert read_backup(str(tmp_path / "b")).applied
    assert os.listdir(tmp_path) == ["b"]


@pytest.mark.parametrize("links", [True, False])
def test_a_file_that_comes_meanwhile_is_not_touched_either(
    replica: Replica, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, links: bool
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise OSError(errno.EPERM, "no links here")

    if not links:
        monkeypatch.setattr(os, "link", refuse)
    file = File(str(tmp_path / "b"))
    (tmp_path / "b").write_text("precious")
    with pytest.raises(FileExistsError):
        write_backup(pinned(replica), file)
    assert (tmp_path / "b").read_text() == "precious"
    assert os.listdir(tmp_path) == ["b"]
    backup = write_backup(pinned(replica), File(str(tmp_path / "c")))
    assert read_backup(backup.path).applied == backup.index


def test_a_link_is_replaced_and_what_it_points_to_stays(replica: Replica, tmp_path: Path) -> None:
    (tmp_path / "target").write_text("precious")
    for name in ("b", "dangling"):
        (tmp_path / name).symlink_to(tmp_path / ("target" if name == "b" else "nowhere"))
        with pytest.raises(FileExistsError):
            replica.backup(tmp_path / name)
        replica.backup(tmp_path / name, overwrite=True)
        assert not (tmp_path / name).is_symlink()
    assert (tmp_path / "target").read_text() == "precious"
    assert not (tmp_path / "nowhere").exists()


def test_a_link_in_the_place_of_the_temporary_file_is_not_followed(replica: Replica, tmp_path: Path) -> None:
    file = File(str(tmp_path / "b"))
    (tmp_path / file._temporary).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(FileExistsError):
        write_backup(pinned(replica), file)
    assert not (tmp_path / "elsewhere").exists()


def test_a_path_that_can_not_be_is_refused_before_anything_is_asked(replica: Replica, tmp_path: Path) -> None:
    (tmp_path / "directory").mkdir()
    for path, kind in {tmp_path / "directory": IsADirectoryError, tmp_path / "no" / "b": FileNotFoundError}.items():
        with pytest.raises(kind):
            replica.backup(path)
    with pytest.raises(TypeError, match="path"):
        replica.backup(3)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="overwrite"):
        replica.backup(tmp_path / "b", overwrite=1)  # type: ignore[arg-type]
    for text in ("", "a\0b"):
        with pytest.raises(ValueError, match="path"):
            replica.backup(text)


def test_a_name_may_be_as_long_as_any_and_a_longer_one_is_refused_before_anything_is_asked(replica: Replica, tmp_path: Path) -> None:
    longest = tmp_path / ("漢" * 85)
    assert replica.backup(longest).path == str(longest)
    replica.close()
    for overwrite in (False, True):
        with pytest.raises(OSError, match="too long"):
            replica.backup(tmp_path / ("n" * 256), overwrite=overwrite)


def test_nothing_is_left_of_one_for_which_there_is_no_room(replica: Replica, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(replica)
    file, writes = File(str(tmp_path / "b")), []

    def write(name: str, offset: int, data: bytes) -> None:
        writes.append(data)
        if len(writes) > 1:
            raise OSError(errno.ENOSPC, "no space left")
        File.write(file, name, offset, data)

    monkeypatch.setattr(file, "write", write)
    with pytest.raises(OSError, match="no space left"):
        write_backup(pinned(replica), file)
    assert os.listdir(tmp_path) == []
    replica.put("the member", "goes on")


def test_a_disk_that_holds_something_else_than_was_written_is_found_out(
    replica: Replica, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(replica)
    file = File(str(tmp_path / "b"))
    monkeypatch.setattr(file, "read", lambda name, offset, length: bytes(File.read(file, name, offset, length)[:-1]) + b"\0")
    with pytest.raises(Corrupt, match="can't be trusted"):
        write_backup(pinned(replica), file)
    assert os.listdir(tmp_path) == []
    good = write_backup(pinned(replica), File(str(tmp_path / "good")))
    replica.put("key", "another state")
    file = File(str(tmp_path / "b"))
    monkeypatch.setattr(file, "read", lambda name, offset, length: Path(good.path).read_bytes()[offset : offset + length])
    monkeypatch.setattr(file, "size", lambda name: good.size)
    with pytest.raises(Corrupt, match="something else than was written"):
        write_backup(pinned(replica), file)
    assert os.listdir(tmp_path) == ["good"]


def test_a_closed_member_takes_none_and_leaves_nothing(tmp_path: Path) -> None:
    with Replica() as replica:
        replica.wait_ready(PATIENCE)
    with pytest.raises(Closed):
        replica.backup(tmp_path / "b")
    assert os.listdir(tmp_path) == []


# -- asyncio -----------------------------------------------------------------------------------------------------------------------


def test_an_async_member_takes_one_beside_its_loop(tmp_path: Path) -> None:
    async def play() -> Backup:
        async with AsyncReplica() as replica:
            await replica.put("key", "value")
            return await replica.backup(tmp_path / "b")

    backup = asyncio.run(play())
    assert stored(backup.path) == [(b"key", b"value")]


@pytest.mark.parametrize("step", ["write", "read"])
def test_one_that_is_cancelled_while_it_is_written_or_read_back_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """One that was cancelled when it was read back got its name all the same."""
    at_work, go_on = threading.Event(), threading.Event()
    work = getattr(File, step)

    def wait_and_work(self: File, name: str, offset: int, what: Any) -> Any:
        at_work.set()
        assert go_on.wait(PATIENCE)
        return work(self, name, offset, what)

    async def play() -> None:
        async with AsyncReplica() as replica:
            await replica.put("key", "value")
            backup = asyncio.create_task(replica.backup(tmp_path / "b"))
            await asyncio.get_running_loop().run_in_executor(None, at_work.wait)
            backup.cancel()
            await asyncio.sleep(0)
            go_on.set()
            with pytest.raises(asyncio.CancelledError):
                await backup
            assert os.listdir(tmp_path) == []

    monkeypatch.setattr(File, step, wait_and_work)
    asyncio.run(play())


# -- from elsewhere ------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[Replica, Client]]:
    with Replica(data_dir=tmp_path / "data") as replica:
        replica.wait_ready(PATIENCE)
        with connect(tmp_path / "data") as client:
            yield replica, client


def test_a_client_takes_one_that_holds_what_a_members_does(served: tuple[Replica, Client], tmp_path: Path) -> None:
    replica, client = served
    fill(replica)
    leases = [replica.lease(60), client.lease(60)]
    for lease in leases:
        client.put(f"leased/{lease.id}", "value", lease=lease)
    with replica.lock("held"):
        sizes: list[int] = []
        theirs = client.backup(tmp_path / "theirs", on_progress=sizes.append)
        own = replica.backup(tmp_path / "own")
    assert theirs.sha256 == hashlib.sha256(Path(theirs.path).read_bytes()).hexdigest()
    assert sizes
    assert sizes == sorted(sizes)
    assert (theirs.revision, theirs.cluster) == (own.revision, own.cluster)
    one, other = read_backup(theirs.path), read_backup(own.path)
    assert stored(theirs.path) == stored(own.path)
    assert one.store.compacted == one.store.revision, "history is not in it"
    for machine in (one, other):
        machine.store, machine.sessions = machine.store.without_history(machine.store.revision + 1), Sessions()
        machine.time = machine.chain = machine.applied = 0  # there may be an entry between the two
    assert one.outline() == other.outline()
    assert list(one.leases)
    assert {lease.id: lease.keys for lease in one.leases} == {lease.id: lease.keys for lease in other.leases}


def test_a_client_reads_page_after_page_at_one_revision_however_large_values_are(
    served: tuple[Replica, Client], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    replica, client = served
    for number in range(0, 3000, 100):
        replica.txn(then=[Put(f"small/{number + at:04}", "x") for at in range(100)])
    for number in range(80):
        replica.put(f"large/{number}", bytes(1 << 20))
    before = [(kv.key, kv.value) for kv in pairs(replica)]
    scan, scans = client.scan, []

    def scan_and_write(**arguments: Any) -> Any:
        scans.append(arguments)
        replica.put(f"small/{len(scans):04}", "later")
        replica.delete(f"large/{len(scans)}")
        return scan(**arguments)

    monkeypatch.setattr(client, "scan", scan_and_write)
    client.backup(tmp_path / "b")
    assert stored(tmp_path / "b") == before
    assert len(scans) > 10


def test_a_client_of_an_empty_cluster_takes_one_too(served: tuple[Replica, Client], tmp_path: Path) -> None:
    _, client = served
    backup = client.backup(tmp_path / "b")
    assert stored(backup.path) == []
    assert backup.revision == 1


def test_what_is_compacted_while_a_client_reads_it_leaves_no_file(
    served: tuple[Replica, Client], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    replica, client = served
    fill(replica)
    scan = client.scan

    def scan_and_compact(**arguments: Any) -> Any:
        replica.put("key", "more")
        replica.compact(replica.revision)
        return scan(**arguments)

    monkeypatch.setattr(client, "scan", scan_and_compact)
    with pytest.raises(Compacted):
        client.backup(tmp_path / "b")
    assert not (tmp_path / "b").exists()
    assert os.listdir(tmp_path) == ["data"]


def test_an_async_client_takes_one(tmp_path: Path) -> None:
    async def play() -> Backup:
        async with AsyncReplica(data_dir=tmp_path / "data") as replica:
            await replica.put("key", "value")
            async with replkv.aio.connect(tmp_path / "data") as client:
                return await client.backup(tmp_path / "b")

    backup = asyncio.run(play())
    assert stored(backup.path) == [(b"key", b"value")]


# -- what is no backup -------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("good") / "b"
    with Replica() as replica:
        fill(replica, 40)
        replica.lease(60)
        replica.backup(path)
    return path.read_bytes()


def refused(content: bytes, path: Path, kinds: tuple[type[Exception], ...] = (Corrupt,)) -> None:
    path.write_bytes(content)
    with pytest.raises(kinds) as caught:
        read_backup(str(path))
    assert str(path) in str(caught.value)


def test_one_bit_changed_anywhere_is_found(good: bytes, tmp_path: Path) -> None:
    for at in range(0, len(good), 3):
        changed = bytearray(good)
        changed[at] ^= 1 << at % 8
        refused(bytes(changed), tmp_path / "b")


def test_one_that_is_cut_off_anywhere_or_goes_on_behind_its_end_is_refused(good: bytes, tmp_path: Path) -> None:
    for size in range(0, len(good), 5):
        refused(good[:size], tmp_path / "b")
    refused(good + b"\0", tmp_path / "b")
    refused(good + good, tmp_path / "b")


def test_what_was_never_a_backup_is_refused(tmp_path: Path) -> None:
    for content in (b"", b"SQLite format 3\0" * 99, bytes(4096), b"\x1f\x8b" + os.urandom(999)):
        refused(content, tmp_path / "b")


def test_one_of_a_newer_format_asks_for_a_newer_version(good: bytes, tmp_path: Path) -> None:
    magic, version, length, _ = struct.unpack_from("<6sHII", good)
    description = good[16 : 16 + length]
    crc = zlib.crc32(description, zlib.crc32(struct.pack("<HI", version + 1, length)))
    (tmp_path / "b").write_bytes(struct.pack("<6sHII", magic, version + 1, length, crc) + good[16:])
    with pytest.raises(Incompatible, match="upgrade"):
        read_backup(str(tmp_path / "b"))


def test_one_that_says_to_be_of_another_place_than_its_content_is_refused(replica: Replica, tmp_path: Path) -> None:
    state = pinned(replica)
    state.meta = attrs.evolve(state.meta, index=state.meta.index + 1)
    write_backup(state, File(str(tmp_path / "b")))
    with pytest.raises(Corrupt, match="another state"):
        read_backup(str(tmp_path / "b"))
    state = pinned(replica)
    state.cluster = bytes(16)
    write_backup(state, File(str(tmp_path / "c")))
    with pytest.raises(Corrupt, match="another state"):
        read_backup(str(tmp_path / "c"))


def test_content_that_is_no_state_is_refused(replica: Replica, tmp_path: Path) -> None:
    state = pinned(replica)
    for number, chunks in enumerate(([b"nonsense"], [], [*state.chunks][:-1], [b"\xff" * 1000])):
        state.chunks = iter(chunks)
        write_backup(state, File(str(tmp_path / str(number))))
        with pytest.raises(Corrupt, match="nothing was restored"):
            read_backup(str(tmp_path / str(number)))


@pytest.mark.parametrize("number", ["applied", "term", "time", "last_id"])
def test_numbers_behind_which_none_are_left_for_a_new_cluster_are_refused(number: str, good: bytes, tmp_path: Path) -> None:
    (tmp_path / "good").write_bytes(good)
    machine = read_backup(str(tmp_path / "good"))
    assert machine.founding is not None
    setattr(machine.leases if number == "last_id" else machine, number, (1 << 63) - 1)
    meta = machine.meta
    write_backup(State(meta, machine.founding.cluster, machine.store.revision, machine.dump()), File(str(tmp_path / "b")))
    with pytest.raises(Corrupt, match="numbers that nobody counts to"):
        read_backup(str(tmp_path / "b"))


def test_one_with_more_content_than_is_wanted_is_refused_before_it_takes_room(good: bytes, tmp_path: Path) -> None:
    (tmp_path / "b").write_bytes(good)
    with pytest.raises(Corrupt, match="max_bytes="):
        read_backup(str(tmp_path / "b"), 100)


def test_a_pipe_or_a_directory_in_its_place_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError, match="is no file"):
        read_backup(str(tmp_path / "pipe"))
    with pytest.raises(IsADirectoryError):
        read_backup(str(tmp_path))
    with pytest.raises(FileNotFoundError):
        read_backup(str(tmp_path / "nothing"))
