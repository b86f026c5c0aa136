"""Real members whose files are damaged while they are down: the others heal them, and who can't be healed says what can be done."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from cluster import PATIENCE, CallError, Cluster, Member, eventually

from replkv import Corrupt, Replica

SECTOR = 512
SMALL = {"segment_bytes": 1 << 16, "snapshot_bytes": 60_000, "trailing_entries": 8}


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A cluster with a snapshot and a log behind it on every member; each test damages one and sees it healed."""
    with Cluster(tmp_path_factory.mktemp("broken"), config=SMALL) as cluster:
        cluster.start()
        for number in range(30):
            cluster["a"].call("put", f"k{number}", random.Random(number).randbytes(3000).hex())
        eventually(lambda: all(list(member.data_dir.glob("snapshot-*")) for member in cluster))
        yield cluster


def written(file: Path) -> list[int]:
    """Return the sectors of a file that are not blank."""
    data = file.read_bytes()
    return [at // SECTOR for at in range(0, len(data), SECTOR) if any(data[at : at + SECTOR])]


def newest(directory: Path) -> Path:
    """Return the segment that is being written to: another one may be prepared behind it."""
    return [file for file in sorted(directory.glob("wal-*")) if written(file)][-1]


def flip(file: Path, offset: int) -> None:
    data = bytearray(file.read_bytes())
    data[offset] ^= 0x14
    file.write_bytes(data)


def flip_the_last_flush(directory: Path) -> None:
    flip(newest(directory), written(newest(directory))[-1] * SECTOR + 40)


def flip_in_the_middle(directory: Path) -> None:
    sectors = written(newest(directory))
    flip(newest(directory), sectors[len(sectors) // 2] * SECTOR + 100)


def flip_the_head(directory: Path) -> None:
    flip(newest(directory), 100)


def cut(directory: Path) -> None:
    with newest(directory).open("r+b") as file:
        file.truncate(written(newest(directory))[-1] * SECTOR)


def remove_the_log(directory: Path) -> None:
    for file in directory.glob("wal-*"):
        file.unlink()


def remove_the_snapshot(directory: Path) -> None:
    for file in directory.glob("snapshot-*"):
        file.unlink()


def flip_in_the_snapshot(directory: Path) -> None:
    (file,) = directory.glob("snapshot-*")
    flip(file, file.stat().st_size // 2)


def flip_everything(directory: Path) -> None:
    for file in [*directory.glob("wal-*"), *directory.glob("snapshot-*")]:
        for sector in written(file):
            flip(file, sector * SECTOR + 8)


DAMAGES = (
    ("the leader", flip_the_last_flush),
    ("a follower", flip_the_last_flush),
    ("the leader", flip_in_the_middle),
    ("a follower", flip_the_head),
    ("the leader", cut),
    ("a follower", remove_the_log),
    ("a follower", remove_the_snapshot),
    ("the leader", flip_in_the_snapshot),
    ("the leader", flip_everything),
)


def damage(member: Member, how: Callable[[Path], None]) -> None:
    """Kill a member, and damage what it stored."""
    eventually((member.data_dir / "identity").exists)
    member.kill()
    how(member.data_dir)


@pytest.mark.parametrize(("who", "how"), DAMAGES)
def test_a_damaged_member_is_healed_by_the_others(cluster: Cluster, who: str, how: Callable[[Path], None]) -> None:
    leader = cluster.leader()
    victim = leader if who == "the leader" else cluster.others(leader)[0]
    victim.call("put", "before", how.__name__)
    segment = newest(victim.data_dir)
    damage(victim, how)
    cluster.others(victim)[0].call("put", "meanwhile", how.__name__, timeout=PATIENCE)
    victim.start()
    victim.call("wait_ready", timeout=PATIENCE)
    assert newest(victim.data_dir) != segment or how is remove_the_log, "the log was begun anew"
    for key in ("before", "meanwhile"):
        assert victim.call("get", key)[1] == how.__name__
    victim.call("put", "after", how.__name__)
    states = cluster.state()
    assert states["a"] == states["b"] == states["c"]


def test_a_damaged_member_is_healed_although_the_leader_was_lost_meanwhile(cluster: Cluster) -> None:
    """With the damaged one and the one that lags behind up, nobody leads: what both have forgotten may have been acknowledged."""
    leader = cluster.leader()
    behind, victim = cluster.others(leader)
    behind.kill()
    leader.call("put", "acknowledged", "by two", timeout=PATIENCE)
    leader.kill()
    damage(victim, flip_the_last_flush)
    behind.start()
    victim.start()
    with pytest.raises(CallError, match="no leader"):
        behind.call("get", "acknowledged", timeout=3.0)
    leader.start()
    cluster.wait_ready()
    for member in cluster:
        assert member.call("get", "acknowledged")[1] == "by two"
    cluster.state()


@pytest.mark.parametrize("how", [flip_the_last_flush, flip_in_the_middle, flip_the_head, cut])
def test_a_lone_member_refuses_to_start_and_names_the_ways_out(tmp_path: Path, how: Callable[[Path], None]) -> None:
    directory = tmp_path / "data"
    with Replica(data_dir=directory) as replica:
        for number in range(20):
            replica.put(f"k{number}", "x" * 700)
        eventually((directory / "identity").exists)
    file = newest(directory)
    how(directory)
    before = {path.name: path.read_bytes() for path in directory.iterdir() if path.name != "lock"}
    with pytest.raises(Corrupt) as refused:
        Replica(data_dir=directory)
    for text in (
        str(file),
        "is the only voter of its cluster",
        "put back a copy of the whole directory that was made after this member had stopped for the last time",
        "never put an older copy of it in its place",
        "move the directory away and begin with an empty one, which loses what was stored",
    ):
        assert text in str(refused.value)
    assert {path.name: path.read_bytes() for path in directory.iterdir() if path.name != "lock"} == before


def test_a_lone_member_does_not_mind_a_bit_that_flips_where_nothing_was_written(tmp_path: Path) -> None:
    directory = tmp_path / "data"
    with Replica(data_dir=directory) as replica:
        replica.put("k", "v")
    data = bytearray(newest(directory).read_bytes())
    data[-1000] = 0x40
    newest(directory).write_bytes(data)
    with Replica(data_dir=directory) as replica:
        assert replica.get("k").text == "v"  # type: ignore[union-attr]
