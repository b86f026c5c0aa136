"""New clusters out of what is left of old ones: out of a backup, or out of the directory of the last member."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from eventual import PATIENCE, eventually

from replkv import (
    Backup,
    Compacted,
    Conflict,
    Corrupt,
    DirectoryInUse,
    DiskFull,
    NewCluster,
    Replica,
    Settings,
    StorageError,
    WrongCluster,
    connect,
    recover_lost_majority,
    restore,
)
from replkv.disk import RealDisk
from replkv.machine import ENTRIES_AHEAD
from replkv.new_cluster import REVISION_GAP, read_backup

SETTINGS = Settings(max_txn_ops=7)


@pytest.fixture
def replicas() -> Iterator[ExitStack]:
    with ExitStack() as replicas:
        yield replicas


@pytest.fixture
def addresses(tmp_path: Path) -> dict[str, str]:
    return {name: f"ipc://{tmp_path}/{name}.sock" for name in "abc"}


def fill(replica: Replica) -> None:
    for number in range(200):
        replica.put(f"key/{number % 50}", str(number))
    replica.delete(prefix="key/1")


def pairs(replica: Replica) -> list[Any]:
    return list(replica.scan(prefix="key").kvs)


def backup_of_one(path: Path, *, data_dir: Path | None = None) -> tuple[Backup, list[Any], int]:
    """Return the backup of a small store, the pairs in it, and the id of a lease."""
    with Replica(data_dir=data_dir, settings=SETTINGS) as replica:
        replica.wait_ready(PATIENCE)
        fill(replica)
        lease = replica.lease(60)
        replica.put("key/leased", "value", lease=lease)
        return replica.backup(path), pairs(replica), lease.id


@pytest.fixture(scope="module")
def taken(tmp_path_factory: pytest.TempPathFactory) -> tuple[Backup, list[Any], int]:
    return backup_of_one(tmp_path_factory.mktemp("taken") / "b")


def votes(replica: Replica, names: str) -> None:
    """Wait until a member knows these and no others to have votes."""
    eventually(lambda: replica.status().voters == tuple(names))


def reaches(replica: Replica, revision: int) -> None:
    """Wait until a member's own state has reached a revision."""
    eventually(lambda: replica.revision >= revision)


def begun(name: str, data_dir: Path, replicas: ExitStack, **arguments: Any) -> Replica:
    replica = replicas.enter_context(Replica(name, data_dir=data_dir, **arguments))
    replica.wait_ready(PATIENCE)
    return replica


def files(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir() if path.is_file() and path.name != "lock"}


# -- what comes back ---------------------------------------------------------------------------------------------------------------


def test_keys_leases_and_settings_come_back_at_a_higher_revision(
    taken: tuple[Backup, list[Any], int], tmp_path: Path, replicas: ExitStack
) -> None:
    backup, before, lease = taken
    made = restore(backup.path, tmp_path / "new", name="x")
    assert (made.former, made.former_revision, made.former_index) == (backup.cluster, backup.revision, backup.index)
    assert (made.name, made.members, made.revision) == ("x", ("x",), backup.revision + REVISION_GAP)
    assert made.cluster not in {made.former, "00" * 16}
    replica = begun("x", tmp_path / "new", replicas)
    assert pairs(replica) == before, "with their revisions and versions"
    assert replica.revision == made.revision
    assert replica.settings() == SETTINGS
    assert [(one.id, one.ttl, one.keys) for one in replica.leases()] == [(lease, 60.0, 1)]
    assert replica.put("key", "more").revision == made.revision + 1


def test_what_was_restored_is_there_after_further_lives_and_can_be_backed_up_and_restored_again(
    taken: tuple[Backup, list[Any], int], tmp_path: Path
) -> None:
    made = restore(taken[0].path, tmp_path / "x", name="x")
    for life in range(3):
        with Replica("x", data_dir=tmp_path / "x") as replica:
            replica.wait_ready(PATIENCE)
            assert [kv for kv in pairs(replica) if kv.key != b"key/life"] == taken[1]
            replica.put("key/life", str(life))
            backup = replica.backup(tmp_path / "again", overwrite=True)
    again = restore(tmp_path / "again", tmp_path / "y", name="y", revision_gap=1)
    assert (again.former, again.revision) == (made.cluster, backup.revision + 1)
    with Replica("y", data_dir=tmp_path / "y") as replica:
        replica.wait_ready(PATIENCE)
        assert replica.get("key/life").text == "2"  # type: ignore[union-attr]


def test_the_time_of_every_lease_begins_anew(tmp_path: Path, replicas: ExitStack) -> None:
    with Replica() as replica:
        replica.wait_ready(PATIENCE)
        lease = replica.lease(60, keep_alive=False)
        replica.put("key", "value", lease=lease)
        eventually(lambda: replica.leases()[0].remaining < 58.5)
        replica.put("time", "goes into the log")
        replica.backup(tmp_path / "b")
    before = read_backup(str(tmp_path / "b"))
    restore(tmp_path / "b", tmp_path / "new", name="x")
    replica = begun("x", tmp_path / "new", replicas)
    (info,) = replica.leases()
    assert before.time > 1_400_000, "of which nothing counts"
    assert info.remaining > 59.0


def test_a_lease_that_nobody_keeps_alive_ends_in_the_new_cluster(tmp_path: Path, replicas: ExitStack) -> None:
    with Replica() as replica:
        replica.wait_ready(PATIENCE)
        replica.put("gone", "soon", ttl=0.5)
        replica.put("stays", "here")
        replica.backup(tmp_path / "b")
    restore(tmp_path / "b", tmp_path / "new", name="x")
    replica = begun("x", tmp_path / "new", replicas)
    eventually(lambda: replica.get("gone") is None)
    assert replica.get("stays") is not None


# -- what was numbered before ------------------------------------------------------------------------------------------------------


def test_whoever_comes_back_with_a_revision_of_the_old_cluster_learns_that_something_is_missing(
    taken: tuple[Backup, list[Any], int], tmp_path: Path, replicas: ExitStack
) -> None:
    backup = taken[0]
    made = restore(backup.path, tmp_path / "new", name="x")
    replica = begun("x", tmp_path / "new", replicas)
    for start in (1, backup.revision, backup.revision + 1, backup.revision + 12_345, made.revision - 1):
        with replica.watch(prefix="", start_revision=start) as watch, pytest.raises(Compacted) as caught:
            watch.next(PATIENCE)
        assert caught.value.revision == made.revision
        with pytest.raises(Compacted):
            replica.get("key", revision=start)
    for start in (made.revision, made.revision + 1):
        with replica.watch(prefix="", start_revision=start) as watch:
            replica.put("key", str(start))
            event = watch.next(PATIENCE)
            assert event is not None
            assert event.revision > made.revision


def test_a_client_of_the_old_cluster_ends_and_one_that_connects_anew_can_not_miss_that_something_is_missing(
    tmp_path: Path, replicas: ExitStack
) -> None:
    where = tmp_path / "a"
    with Replica("a", data_dir=where) as replica:
        replica.wait_ready(PATIENCE)
        fill(replica)
        backup = replica.backup(tmp_path / "b")
        old = replicas.enter_context(connect(where))
        seen = old.put("key/after", "the backup").revision
        watch = replicas.enter_context(old.watch(prefix="key/", start_revision=seen))
        assert watch.next(PATIENCE) is not None
    shutil.rmtree(where)
    made = restore(backup.path, where, name="a")
    begun("a", where, replicas)
    with pytest.raises(WrongCluster, match=f"{made.cluster}.*{made.former}.*connect"):
        old.get("key/after", timeout=PATIENCE)
    with pytest.raises(WrongCluster):
        watch.next(PATIENCE)
    new = replicas.enter_context(connect(where))
    assert new.get("key/after") is None, "it was written after the backup"
    with pytest.raises(Conflict):
        new.put("key/after", "never", if_mod_revision=seen)
    with new.watch(prefix="key/", start_revision=watch.revision) as again, pytest.raises(Compacted):
        again.next(PATIENCE)
    assert new.put("key/after", "again").revision > seen


def test_what_the_old_cluster_may_have_numbered_is_not_numbered_again(taken: tuple[Backup, list[Any], int], tmp_path: Path) -> None:
    before = read_backup(taken[0].path)
    assert before.sessions.pin()
    restore(taken[0].path, tmp_path / "new", name="x")
    with Replica("x", data_dir=tmp_path / "new") as replica:
        replica.wait_ready(PATIENCE)
        replica.put("key", "in a session")
        lease = replica.lease(60)
        replica.backup(tmp_path / "b")
    after = read_backup(str(tmp_path / "b"))
    assert lease.id > before.leases.last_id + REVISION_GAP // 2
    assert after.applied > before.applied + ENTRIES_AHEAD // 2
    oldest = min(number for number, _ in after.sessions.pin())
    assert oldest >> 16 > before.applied + ENTRIES_AHEAD // 2


# -- three members -----------------------------------------------------------------------------------------------------------------


def test_the_other_members_start_with_empty_directories_and_get_their_votes(
    taken: tuple[Backup, list[Any], int], tmp_path: Path, addresses: dict[str, str], replicas: ExitStack
) -> None:
    made = restore(taken[0].path, tmp_path / "b", name="b", cluster=addresses)
    assert made.members == ("a", "b", "c")
    started = {name: replicas.enter_context(Replica(name, data_dir=tmp_path / name, cluster=addresses)) for name in "acb"}
    for replica in started.values():
        replica.wait_ready(PATIENCE)
        votes(replica, "abc")
        assert pairs(replica) == taken[1]
    assert {replica.backup(tmp_path / f"of-{name}").cluster for name, replica in started.items()} == {made.cluster}
    started["b"].close()
    started["a"].put("key", "without the first", timeout=PATIENCE)


def test_members_that_were_restored_each_for_itself_refuse_each_other(
    taken: tuple[Backup, list[Any], int], tmp_path: Path, addresses: dict[str, str], replicas: ExitStack
) -> None:
    made = {name: restore(taken[0].path, tmp_path / name, name=name, cluster=addresses) for name in "ab"}
    assert made["a"].cluster != made["b"].cluster
    first, second = (begun(name, tmp_path / name, replicas, cluster=addresses) for name in "ab")
    first.put("key", "a")
    second.put("key", "b")
    assert first.status().voters == ("a",)
    assert second.status().voters == ("b",)
    eventually(lambda: "cluster" in first._node.links.explain())  # type: ignore[union-attr]


# -- where to ----------------------------------------------------------------------------------------------------------------------


def test_a_directory_that_is_not_empty_is_left_as_it_is(taken: tuple[Backup, list[Any], int], tmp_path: Path) -> None:
    restore(taken[0].path, tmp_path / "x", name="x")
    before = files(tmp_path / "x")
    with pytest.raises(ValueError, match="not empty"):
        restore(taken[0].path, tmp_path / "x", name="x")
    assert files(tmp_path / "x") == before
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "todo").write_text("milk")
    with pytest.raises(ValueError, match="todo"):
        restore(taken[0].path, tmp_path / "notes", name="x")
    assert os.listdir(tmp_path / "notes") == ["todo"]


def test_a_backup_that_is_refused_leaves_no_directory(taken: tuple[Backup, list[Any], int], tmp_path: Path) -> None:
    content = bytearray(Path(taken[0].path).read_bytes())
    content[len(content) // 2] ^= 1
    (tmp_path / "b").write_bytes(content)
    with pytest.raises(Corrupt, match="another backup"):
        restore(tmp_path / "b", tmp_path / "new", name="x")
    assert not (tmp_path / "new").exists()


def test_arguments_that_can_not_be_are_refused(taken: tuple[Backup, list[Any], int], tmp_path: Path) -> None:
    path, new = taken[0].path, tmp_path / "new"
    unfit: list[tuple[type[Exception], dict[str, Any], str]] = [
        (ValueError, {"name": ".x"}, "no name"),
        (ValueError, {"cluster": {"a": "127.0.0.1:1"}}, "not among"),
        (ValueError, {"cluster": {}}, "not among"),
        (ValueError, {"cluster": {"x": "0.0.0.0:1"}}, "dial"),
        (ValueError, {"cluster": {"x": "127.0.0.1:1", "y": "127.0.0.1:1"}}, "one address"),
        (ValueError, {"revision_gap": 0}, "revision_gap"),
        (ValueError, {"revision_gap": 1 << 60}, "revision_gap"),
        (ValueError, {"max_bytes": 0}, "max_bytes"),
        (TypeError, {"name": 1}, "name"),
        (TypeError, {"cluster": ["a"]}, "cluster"),
        (TypeError, {"revision_gap": 1.0}, "revision_gap"),
        (TypeError, {"revision_gap": True}, "revision_gap"),
    ]
    for kind, arguments, text in unfit:
        with pytest.raises(kind, match=text):
            restore(path, new, **{"name": "x", **arguments})
    assert not new.exists()


def test_a_directory_that_is_in_use_is_refused(taken: tuple[Backup, list[Any], int], tmp_path: Path) -> None:
    disk = RealDisk(tmp_path / "new")
    disk.lock()
    try:
        with pytest.raises(DirectoryInUse):
            restore(taken[0].path, tmp_path / "new", name="x")
    finally:
        disk.close()


def test_nothing_is_left_where_there_is_no_room_and_it_can_be_done_again(
    taken: tuple[Backup, list[Any], int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    allocate = RealDisk.allocate

    def refuse(self: RealDisk, name: str, size: int) -> None:
        if size > 1 << 20:
            raise DiskFull("no room for a segment")
        allocate(self, name, size)

    with monkeypatch.context() as patched:
        patched.setattr(RealDisk, "allocate", refuse)
        with pytest.raises(DiskFull):
            restore(taken[0].path, tmp_path / "new", name="x")
    assert files(tmp_path / "new") == {}
    restore(taken[0].path, tmp_path / "new", name="x")


def test_a_restore_that_was_cut_off_is_never_taken_for_an_empty_directory(
    taken: tuple[Backup, list[Any], int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, replicas: ExitStack
) -> None:
    class Killed(BaseException):
        pass

    def die(*_: object) -> Any:
        raise Killed

    with monkeypatch.context() as patched:
        patched.setattr("replkv.new_cluster.write_snapshot", die)
        with pytest.raises(Killed):
            restore(taken[0].path, tmp_path / "new", name="x")
    with pytest.raises(StorageError, match="restore"):
        Replica("x", data_dir=tmp_path / "new")
    restore(taken[0].path, tmp_path / "new", name="x")
    assert pairs(begun("x", tmp_path / "new", replicas)) == taken[1]


# -- the last one left -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def lost(tmp_path: Path, addresses: dict[str, str]) -> dict[str, list[Any]]:
    """Let three members have had a cluster, and return what each of them had."""
    with ExitStack() as stack:
        started = {name: stack.enter_context(Replica(name, data_dir=tmp_path / name, cluster=addresses)) for name in addresses}
        for replica in started.values():
            replica.wait_ready(PATIENCE)
        fill(started["a"])
        lease = started["b"].lease(60)
        started["b"].put("key/leased", "value", lease=lease)
        newest = started["a"].revision
        for replica in started.values():
            reaches(replica, newest)
        return {name: list(replica.scan(prefix="key", consistency="local").kvs) for name, replica in started.items()}


def test_one_that_is_left_goes_on_with_all_it_has_and_the_lost_ones_are_fenced_out(
    lost: dict[str, list[Any]], tmp_path: Path, addresses: dict[str, str], replicas: ExitStack
) -> None:
    made = recover_lost_majority(tmp_path / "c")
    assert (made.name, made.members, made.damage) == ("c", ("a", "b", "c"), "")
    assert made.revision == made.former_revision + REVISION_GAP
    survivor = begun("c", tmp_path / "c", replicas, cluster=addresses)
    assert pairs(survivor) == lost["c"]
    assert survivor.status().voters == ("c",)
    assert len(survivor.leases()) == 1
    stranger = replicas.enter_context(Replica("a", data_dir=tmp_path / "a", cluster=addresses))
    eventually(lambda: made.former in stranger._node.links.explain())  # type: ignore[union-attr]
    assert made.cluster in stranger._node.links.explain()  # type: ignore[union-attr]
    survivor.put("key", "alone")
    shutil.rmtree(tmp_path / "b")
    second = begun("b", tmp_path / "b", replicas, cluster=addresses)
    votes(survivor, "bc")
    assert second.get("key").text == "alone"  # type: ignore[union-attr]
    eventually(lambda: isinstance(stranger.failure, WrongCluster))


def test_a_members_status_says_of_which_term_the_entry_is_with_which_it_would_go_on(
    lost: dict[str, list[Any]], tmp_path: Path, addresses: dict[str, str]
) -> None:
    with Replica("c", data_dir=tmp_path / "c", cluster=addresses) as left:
        status = left.status()
    made = recover_lost_majority(tmp_path / "c")
    assert (made.former_term, made.former_index) == (status.last_term, status.last_index) > (0, 0)


def test_a_majority_that_comes_back_all_the_same_is_a_cluster_of_its_own(
    lost: dict[str, list[Any]], tmp_path: Path, addresses: dict[str, str], replicas: ExitStack
) -> None:
    made = recover_lost_majority(tmp_path / "c")
    survivor = begun("c", tmp_path / "c", replicas, cluster=addresses)
    first, second = (replicas.enter_context(Replica(name, data_dir=tmp_path / name, cluster=addresses)) for name in "ab")
    first.wait_ready(PATIENCE)
    second.put("key", "old", timeout=PATIENCE)
    survivor.put("key", "new")
    assert survivor.get("key").text == "new"  # type: ignore[union-attr]
    assert first.get("key").text == "old"  # type: ignore[union-attr]
    assert first.backup(tmp_path / "old").cluster == made.former


def test_others_can_be_named_for_the_new_cluster(
    lost: dict[str, list[Any]], tmp_path: Path, addresses: dict[str, str], replicas: ExitStack
) -> None:
    named = {"c": addresses["c"], "d": f"ipc://{tmp_path}/d.sock"}
    with pytest.raises(ValueError, match="not among"):
        recover_lost_majority(tmp_path / "c", cluster={"d": named["d"]})
    assert recover_lost_majority(tmp_path / "c", cluster=named).members == ("c", "d")
    survivor, new = (replicas.enter_context(Replica(name, data_dir=tmp_path / name, cluster=named)) for name in "cd")
    new.wait_ready(PATIENCE)
    votes(survivor, "cd")
    assert pairs(new) == lost["c"]


def test_a_learner_that_is_left_goes_on_with_a_vote(tmp_path: Path, replicas: ExitStack) -> None:
    where = {name: f"ipc://{tmp_path}/{name}.sock" for name in "al"}
    with (
        Replica("a", data_dir=tmp_path / "a", listen=where["a"]) as voter,
        Replica("l", data_dir=tmp_path / "l", listen=where["l"], join=[where["a"]], learner=True) as learner,
    ):
        voter.change_members(learners={"l": where["l"]}, timeout=PATIENCE)
        fill(voter)
        reaches(learner, voter.revision)
        before = pairs(voter)
        assert learner.backup(tmp_path / "b").revision == voter.revision
    assert recover_lost_majority(tmp_path / "l").members == ("a", "l")
    left = begun("l", tmp_path / "l", replicas, listen=where["l"])
    assert left.status().voters == ("l",)
    assert pairs(left) == before


def test_recovery_refuses_what_needs_none(lost: dict[str, list[Any]], tmp_path: Path, addresses: dict[str, str]) -> None:
    with Replica("a", data_dir=tmp_path / "a", cluster=addresses), pytest.raises(DirectoryInUse):
        recover_lost_majority(tmp_path / "a")
    recover_lost_majority(tmp_path / "c")
    before = files(tmp_path / "c")
    with pytest.raises(ValueError, match="only voter"):
        recover_lost_majority(tmp_path / "c")
    assert files(tmp_path / "c") == before
    with pytest.raises(ValueError, match="no member's"):
        recover_lost_majority(tmp_path / "nowhere")
    assert not (tmp_path / "nowhere").exists()
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="no member's"):
        recover_lost_majority(tmp_path / "empty")
    with Replica("d", data_dir=tmp_path / "d", cluster={**addresses, "d": f"ipc://{tmp_path}/d.sock"}):
        pass
    with pytest.raises(ValueError, match="never belonged"):
        recover_lost_majority(tmp_path / "d")


def test_what_damage_has_cost_is_said(lost: dict[str, list[Any]], tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    segment = max((tmp_path / "c").glob("wal-*"), key=lambda path: path.stat().st_size and any(path.read_bytes()[:512]))
    content = bytearray(segment.read_bytes())
    content[len(bytes(content).rstrip(b"\0")) // 2] ^= 0xFF
    segment.write_bytes(content)
    made = recover_lost_majority(tmp_path / "c")
    assert isinstance(made, NewCluster)
    assert f"what followed entry {made.former_index}" in made.damage
