from __future__ import annotations

import errno
import itertools
import os
import pathlib
import random
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator

import pytest

from replkv.disk import Disk, MemoryDisk, RealDisk, create, publish
from replkv.errors import DirectoryInUse, DiskFull, StorageError
from replkv.testing.disk import SimDisk, SimulatedCrash

Path = pathlib.Path


@pytest.fixture(params=["real", "memory", "simulated"])
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Disk]:
    made: Disk = MemoryDisk()
    if request.param == "real":
        made = RealDisk(tmp_path / "d")
    elif request.param == "simulated":
        made = SimDisk(random.Random(0)).open()
    made.lock()
    yield made
    made.close()


# -- what all of them do ----------------------------------------------------------------------------------------------------------


def test_a_file_holds_what_was_written_over_its_zeros(disk: Disk) -> None:
    disk.allocate("f", 2000)
    disk.write("f", 600, b"hello")
    disk.sync("f")
    assert disk.read("f", 0, 9999) == bytes(600) + b"hello" + bytes(1395)
    assert disk.read("f", 603, 4) == b"lo\0\0"
    assert disk.read("f", 1999, 5) == b"\0"
    assert disk.read("f", 5000, 5) == b""
    assert disk.size("f") == 2000


def test_a_file_grows_when_it_is_written_to_behind_its_end(disk: Disk) -> None:
    disk.allocate("f", 0)
    disk.write("f", 0, b"abc")
    disk.write("f", 5, b"xyz")
    assert disk.size("f") == 8
    assert disk.read("f", 0, 8) == b"abc\0\0xyz"


def test_allocating_a_file_replaces_the_one_of_that_name(disk: Disk) -> None:
    disk.allocate("f", 10)
    disk.write("f", 0, b"old")
    disk.allocate("f", 5)
    assert disk.read("f", 0, 99) == bytes(5)


def test_a_file_can_be_renamed_over_another_and_removed(disk: Disk) -> None:
    for name in ("a", "b"):
        disk.allocate(name, 0)
        disk.write(name, 0, name.encode())
    assert disk.list() == ["a", "b"]
    disk.rename("a", "b")
    disk.sync_directory()
    assert disk.list() == ["b"]
    assert disk.read("b", 0, 9) == b"a"
    disk.write("b", 1, b"!")
    assert disk.read("b", 0, 9) == b"a!"
    disk.remove("b")
    assert disk.list() == []


def test_creating_leaves_a_file_under_its_real_name_only(disk: Disk) -> None:
    create(disk, "f", 1234)
    assert disk.list() == ["f"]
    assert disk.read("f", 0, 9999) == bytes(1234)


@pytest.mark.parametrize("call", ["size", "read"])
def test_looking_at_a_file_that_is_not_there_is_a_storage_error_and_nothing_worse(disk: Disk, call: str) -> None:
    with pytest.raises(StorageError):
        disk.size("nothing") if call == "size" else disk.read("nothing", 0, 1)
    disk.allocate("f", 1)
    disk.sync("f")


# -- a real directory ---------------------------------------------------------------------------------------------------------------


def open_directory(path: Path) -> RealDisk:
    disk = RealDisk(path)
    disk.lock()
    return disk


def test_the_directory_and_its_files_are_for_their_owner_only(tmp_path: Path) -> None:
    old = os.umask(0)
    try:
        disk = open_directory(tmp_path / "one" / "two")
        disk.allocate("f", 10)
    finally:
        os.umask(old)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in [tmp_path / "one" / "two", *(tmp_path / "one" / "two").iterdir()]}
    assert modes == {"two": 0o700, "f": 0o600, "lock": 0o600}
    disk.close()


@pytest.mark.parametrize("mode", [0o770, 0o707, 0o702, 0o777])
def test_a_directory_that_others_may_write_into_is_refused(tmp_path: Path, mode: int) -> None:
    tmp_path.chmod(mode)
    with pytest.raises(StorageError, match="chmod 700"):
        open_directory(tmp_path)
    tmp_path.chmod(0o755)
    open_directory(tmp_path).close()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_a_directory_of_another_user_is_refused(tmp_path: Path) -> None:
    os.chown(tmp_path, 12345, -1)
    with pytest.raises(StorageError, match="12345"):
        open_directory(tmp_path)


def test_a_path_that_is_no_directory_is_a_storage_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError):
        open_directory(tmp_path / "file")
    with pytest.raises(StorageError):
        open_directory(tmp_path / "file" / "below")


def test_links_are_not_followed(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").write_text("precious")
    disk = open_directory(tmp_path / "d")
    (tmp_path / "d" / "wal").symlink_to(tmp_path / "elsewhere")
    assert disk.list() == []
    with pytest.raises(StorageError):
        disk.read("wal", 0, 1)
    with pytest.raises(StorageError):
        disk.allocate("wal", 10)
    assert (tmp_path / "elsewhere").read_text() == "precious"
    disk.close()


def test_a_second_user_in_the_same_process_is_refused(tmp_path: Path) -> None:
    first = open_directory(tmp_path / "d")
    with pytest.raises(DirectoryInUse, match=str(os.getpid())):
        open_directory(tmp_path / "d")
    with pytest.raises(DirectoryInUse):
        first.lock()
    first.allocate("f", 1)
    first.close()
    open_directory(tmp_path / "d").close()


OPEN = (
    "import sys\nfrom replkv.disk import RealDisk\ndisk = RealDisk(sys.argv[1])\ndisk.lock()\nprint('open', flush=True)\nsys.stdin.read()\n"
)


def test_a_second_process_is_refused_until_the_first_is_gone(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", OPEN, tmp_path / "d"], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout
        assert other.stdout.readline() == b"open\n"
        with pytest.raises(DirectoryInUse, match=f"process {other.pid}:"):
            open_directory(tmp_path / "d")
        other.kill()
    open_directory(tmp_path / "d").close()


def test_a_directory_can_be_opened_again_right_after_close_although_a_child_was_just_forked(tmp_path: Path) -> None:
    """The child holds the same lock until its at-fork handler has run, which the parent does not wait for."""
    disk = open_directory(tmp_path / "d")
    also = os.dup(disk._lock)  # as a fork does
    disk.close()
    open_directory(tmp_path / "d").close()
    os.close(also)


def test_a_forked_child_neither_holds_the_lock_nor_writes(tmp_path: Path) -> None:
    disk = open_directory(tmp_path / "d")
    disk.allocate("f", 10)
    go, gone = os.pipe(), os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.close(go[1])  # so that it ends with its parent, however that ends
            os.read(go[0], 1)
            disk.write("f", 0, b"child")
        except StorageError:
            os.write(gone[1], b"refused")
        finally:
            os._exit(0)
    disk.close()
    again = open_directory(tmp_path / "d")  # although the child still lives
    os.write(go[1], b"!")
    assert os.read(gone[0], 99) == b"refused"
    os.waitpid(child, 0)
    assert again.read("f", 0, 10) == bytes(10)
    again.close()
    for fd in (*go, *gone):
        os.close(fd)


@pytest.mark.parametrize(("number", "kind"), [(errno.ENOSPC, DiskFull), (errno.EDQUOT, DiskFull), (errno.EIO, StorageError)])
@pytest.mark.parametrize("call", ["pwrite", "fdatasync", "fsync", "rename"])
def test_after_the_first_failed_change_every_change_fails_alike(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, kind: type[StorageError], call: str
) -> None:
    disk = open_directory(tmp_path / "d")
    disk.allocate("f", 10)

    def fail(*args: object, **kwargs: object) -> None:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr(f"os.{call}", fail)
        failing: dict[str, Callable[[], None]] = {
            "pwrite": lambda: disk.write("f", 0, b"x"),
            "fdatasync": lambda: disk.sync("f"),
            "fsync": disk.sync_directory,
            "rename": lambda: disk.rename("f", "g"),
        }
        with pytest.raises(kind) as first:
            failing[call]()
    assert type(first.value) is kind
    changes: list[Callable[[], None]] = [
        lambda: disk.write("f", 0, b"x"),
        lambda: disk.sync("f"),
        lambda: disk.remove("f"),
        disk.sync_directory,
    ]
    for change in changes:
        with pytest.raises(kind) as again:
            change()
        assert again.value is first.value
    assert disk.read("f", 0, 10) == bytes(10)
    disk.close()


@pytest.mark.parametrize("call", ["pwrite", "fdatasync", "rename"])
def test_a_file_there_is_no_room_for_leaves_nothing_behind_and_stops_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    disk = open_directory(tmp_path / "d")

    def fail(*args: object, **kwargs: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(f"os.{call}", fail)
        with pytest.raises(DiskFull):
            create(disk, "g", 10)
    assert disk.list() == []
    create(disk, "g", 10)
    assert disk.list() == ["g"]
    disk.close()


@pytest.mark.parametrize("call", ["pwrite", "fdatasync"])
def test_a_flush_is_a_write_and_a_sync_and_after_a_failed_one_every_change_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    disk = open_directory(tmp_path / "d")
    disk.allocate("f", 10)
    synced: list[bytes] = []
    with monkeypatch.context() as patch:
        patch.setattr("os.fdatasync", lambda fd: synced.append(os.pread(fd, 10, 0)))
        disk.flush("f", 2, b"xy")
    assert synced == [disk.read("f", 0, 10)] == [b"\0\0xy" + bytes(6)]

    def fail(*args: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as patch:
        patch.setattr(f"os.{call}", fail)
        with pytest.raises(StorageError) as first:
            disk.flush("f", 0, b"z")
    with pytest.raises(StorageError) as again:
        disk.flush("f", 0, b"z")
    assert again.value is first.value
    disk.close()
    with pytest.raises(StorageError):
        disk.flush("f", 0, b"z")


def test_short_reads_and_writes_are_finished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    disk = open_directory(tmp_path / "d")
    pwrite, pread = os.pwrite, os.pread
    monkeypatch.setattr("os.pwrite", lambda fd, data, offset: pwrite(fd, data[:7], offset))
    monkeypatch.setattr("os.pread", lambda fd, length, offset: pread(fd, min(length, 11), offset))
    data = random.Random(1).randbytes(500)
    disk.allocate("f", 100)
    disk.write("f", 3, data)
    assert disk.read("f", 0, 9999) == bytes(3) + data
    disk.close()


def test_a_closed_directory_refuses_everything_and_leaves_no_descriptor(tmp_path: Path) -> None:
    before = os.listdir("/proc/self/fd") if os.path.isdir("/proc/self/fd") else []
    disk = open_directory(tmp_path / "d")
    for name in "abc":
        create(disk, name, 10)
    disk.rename("a", "b")
    disk.remove("c")
    disk.close()
    disk.close()
    calls: list[Callable[[], object]] = [disk.list, lambda: disk.read("b", 0, 1), lambda: disk.write("b", 0, b"x"), disk.sync_directory]
    for call in calls:
        with pytest.raises(StorageError):
            call()
    assert not before or os.listdir("/proc/self/fd") == before


def test_a_file_that_is_removed_while_others_read_it_never_shows_them_another(tmp_path: Path) -> None:
    disk = open_directory(tmp_path / "d")
    wrong: list[bytes] = []
    stop = threading.Event()

    def read(name: str) -> None:
        while not stop.is_set():
            try:
                if (data := disk.read(name, 0, 4)) not in (b"", name.encode() * 4, bytes(4)):
                    wrong.append(data)
            except StorageError:
                pass

    readers = [threading.Thread(target=read, args=(name,)) for name in "xy"]
    for reader in readers:
        reader.start()
    for _ in range(100):
        for name in "xy":
            disk.allocate(name, 0)
            disk.write(name, 0, name.encode() * 4)
        for name in "xy":
            disk.remove(name)
    stop.set()
    for reader in readers:
        reader.join()
    assert wrong == []
    disk.close()


# -- the simulated disk ---------------------------------------------------------------------------------------------------------------


def sim() -> SimDisk:
    return SimDisk(random.Random(0))


def after_crash(disk: SimDisk, *keep: bool) -> dict[str, bytes]:
    disk.crash(keep=keep or [False] * disk.unsynced)
    return {name: bytes(content.seen) for name, content in disk.seen.items()}


def test_what_was_not_synced_may_be_lost_and_what_was_may_not() -> None:
    disk = sim()
    door = disk.open()
    create(door, "f", 4)
    door.write("f", 0, b"kept")
    door.sync("f")
    door.write("f", 0, b"lost")
    assert after_crash(disk) == {"f": b"kept"}


def test_any_part_of_a_large_write_may_survive_but_no_sector_is_torn() -> None:
    disk = sim()
    door = disk.open()
    create(door, "f", 2048)
    door.write("f", 256, b"x" * 1024)
    assert disk.unsynced == 3
    assert after_crash(disk, True, False, True) == {"f": bytes(256) + b"x" * 256 + bytes(512) + b"x" * 256 + bytes(768)}


def test_names_that_were_not_synced_may_come_and_go_in_any_combination() -> None:
    outcomes = set()
    for keep in itertools.product((False, True), repeat=3):
        disk = sim()
        door = disk.open()
        create(door, "a", 0)
        door.rename("a", "b")
        door.allocate("c", 0)
        door.remove("b")
        outcomes.add("".join(after_crash(disk, *keep)))
    assert outcomes == {"a", "b", "", "ac", "bc", "c"}


def test_a_file_synced_without_its_directory_may_be_lost_altogether() -> None:
    disk = sim()
    door = disk.open()
    door.allocate("f", 3)
    door.sync("f")
    assert after_crash(disk) == {}


def test_power_is_lost_at_the_chosen_change_and_the_process_is_dead_after_it() -> None:
    disk = sim()
    door = disk.open()
    door.lock()
    disk.crash_in = 2
    door.allocate("f", 3)
    door.sync("f")
    with pytest.raises(SimulatedCrash):
        door.rename("f", "g")
    disk.crash(keep=[True] * disk.unsynced)
    with pytest.raises(SimulatedCrash):
        door.list()
    again = disk.open()
    again.lock()
    assert again.list() == ["f"]


def test_a_failed_sync_loses_what_the_cache_still_shows() -> None:
    disk = sim()
    door = disk.open()
    create(door, "f", 3)
    disk.fail_sync_in = 0
    door.write("f", 0, b"new")
    for _ in range(2):
        with pytest.raises(StorageError):
            door.sync("f")
    disk.crash(power=False)
    door = disk.open()
    assert door.read("f", 0, 3) == b"new"
    door.sync("f")
    assert after_crash(disk) == {"f": bytes(3)}


def test_a_slow_sync_tells_how_long_it_took() -> None:
    disk, spent = sim(), list[float]()
    door = disk.open(spent.append)
    door.allocate("f", 3)
    disk.sync_takes, disk.slow = 0.5, 2.0
    door.sync("f")
    assert 0.5 <= spent[0] <= 2.5


def test_a_disk_that_is_full_takes_no_more() -> None:
    disk = sim()
    door = disk.open()
    disk.capacity = 100
    door.allocate("f", 90)
    door.write("f", 0, bytes(90))
    with pytest.raises(DiskFull):
        door.write("f", 85, bytes(20))
    with pytest.raises(DiskFull):
        publish(door, "f", "g")


def test_the_same_seed_loses_the_same() -> None:
    results = []
    for _ in range(2):
        disk = SimDisk(random.Random(5))
        for life in range(20):
            door = disk.open()
            door.allocate(f"f{life}", 3000)
            door.sync_directory()
            door.write(f"f{life}", 0, b"x" * 3000)
            disk.crash()
        results.append({name: bytes(content.seen) for name, content in disk.seen.items()})
    assert results[0] == results[1]
    assert len(set(results[0].values())) > 3
