"""Three processes on loopback with data directories: the main job, and what must not happen to it when processes die or pause."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from cluster import PATIENCE, CallError, Cluster, Member, eventually
from ledger import Load


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A cluster for tests that leave it whole."""
    with Cluster(tmp_path_factory.mktemp("shared")) as cluster:
        yield cluster.start()


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    with Cluster(tmp_path) as cluster:
        yield cluster.start()


def progress(load: Load, writes: int = 150) -> None:
    """Wait until the clients have been told of so many more writes."""
    target = load.count + writes
    eventually(lambda: load.count >= target)


def fail_over(cluster: Cluster, leader: Member) -> float:
    """Kill the leader; return the seconds until a survivor's write is acknowledged."""
    survivor = cluster.others(leader)[0]
    leader.run.process.kill()
    began = time.monotonic()
    survivor.call("put", "after", "the kill", timeout=PATIENCE)
    took = time.monotonic() - began
    leader.kill()
    return took


# -- the main job ---------------------------------------------------------------------------------------------------------------------


def test_what_one_member_writes_every_member_reads_at_once(shared: Cluster) -> None:
    for number, writer in enumerate(shared):
        revision, _ = writer.call("put", f"seen/{writer.name}", str(number))
        for reader in shared:
            assert reader.call("get", f"seen/{writer.name}")[:4] == [f"seen/{writer.name}", str(number), revision, revision]


def test_every_member_puts_gets_deletes_scans_and_adds(shared: Cluster) -> None:
    for member in shared:
        at = f"all/{member.name}/"
        first, _ = member.call("put", at + "1", "x")
        second, previous = member.call("put", at + "1", "y", prev_kv=True)
        assert second > first
        assert previous == [at + "1", "x", first, first, 1, 0]
        assert [member.call("add", at + "2", delta)[0] for delta in (5, -7, 1)] == [5, -2, -1]
        scan = member.call("scan", prefix=at)
        assert [(kv[0], kv[1], kv[4]) for kv in scan["kvs"]] == [(at + "1", "y", 2), (at + "2", "-1", 3)]
        assert member.call("get", at + "1", revision=first)[1] == "x"
        assert member.call("scan", prefix=at, count_only=True)["count"] == 2
        deleted, _, previous = member.call("delete", prefix=at, prev_kv=True)
        assert (deleted, [kv[1] for kv in previous]) == (2, ["y", "-1"])
        assert member.call("get", at + "1") is None


def test_every_member_runs_transactions(shared: Cluster) -> None:
    for member in shared:
        key = f"txn/{member.name}"
        call = [[[key, "version", "==", 0]], [["put", [key, "new"], {}], ["get", [key], {}]], [["get", [key], {}]]]
        first = member.call("transact", *call)
        again = member.call("transact", *call)
        assert (first["succeeded"], again["succeeded"]) == (True, False)
        assert first["responses"][1][1] == again["responses"][0][1] == "new"


def test_members_contending_for_a_key_have_one_winner(shared: Cluster) -> None:
    call = [[["won", "version", "==", 0]], [["put", ["won", "x"], {}]], []]
    outcomes = [asked.result(PATIENCE)["succeeded"] for asked in [member.ask("transact", *call) for member in shared for _ in range(5)]]
    assert sum(outcomes) == 1


def test_refusals_reach_the_caller_at_every_member(shared: Cluster) -> None:
    for member in shared:
        member.call("put", "text", "no number")
        for kind, call in {
            "NotACounter": ("add", "text"),
            "FutureRevision": ("get", "text", 1 << 40),
            "TooLarge": ("put", "big", "x" * (3 << 19)),
        }.items():
            arguments = {"revision": call[2]} if kind == "FutureRevision" else {}
            with pytest.raises(CallError) as caught:
                member.call(*(call[:2] if arguments else call), **arguments)
            assert caught.value.kind == kind


def test_members_agree_on_who_is_who(shared: Cluster) -> None:
    leader = shared.leader()
    for member in shared:
        status = member.call("status")
        assert status["voters"] == ["a", "b", "c"]
        assert status["unreachable"] == []
        assert status["state"] == ("leader" if member is leader else "follower")
        assert [(one["name"], one["healthy"]) for one in member.call("members")] == [("a", True), ("b", True), ("c", True)]


def test_thousands_of_writes_in_flight_at_every_member_all_count(shared: Cluster) -> None:
    asked = [member.ask("put_many", [[f"many/{member.name}/{i:04}", str(i)] for i in range(1000)]) for member in shared]
    revisions = [revision for one in asked for revision in one.result(PATIENCE)]
    assert len(set(revisions)) == 3000
    assert all(member.call("scan", prefix="many/", count_only=True)["count"] == 3000 for member in shared)


def test_values_of_a_megabyte_go_through_every_member_at_the_same_time(shared: Cluster) -> None:
    asked = [member.ask("put", f"large/{member.name}/{i}", member.name * (1 << 20)) for member in shared for i in range(6)]
    for one in asked:
        one.result(PATIENCE)
    assert all(len(member.call("get", "large/a/5")[1]) == 1 << 20 for member in shared)
    assert shared.members["a"].call("delete", prefix="large/")[0] == 18


# -- death ----------------------------------------------------------------------------------------------------------------------------


def test_killing_the_leader_under_load_again_and_again_loses_doubles_and_invents_nothing(
    cluster: Cluster, capsys: pytest.CaptureFixture[str]
) -> None:
    figures = []
    with Load(cluster) as load:
        for _ in range(4):
            progress(load)
            leader = cluster.leader()
            figures.append(fail_over(cluster, leader))
            progress(load, 50)
            leader.start()
            leader.call("wait_ready", PATIENCE)
        progress(load)
    told = load.check()
    with capsys.disabled():
        print(f"\n  fail-over in {', '.join(f'{figure:.3f}' for figure in figures)} s under load; {told}")
    assert min(figures) < 0.6, figures
    assert max(figures) < 5.0, figures


def test_killing_followers_under_load_stops_nobody(cluster: Cluster) -> None:
    with Load(cluster) as load:
        for _ in range(2):
            for follower in cluster.others(cluster.leader()):
                progress(load, 60)
                follower.kill()
                progress(load, 60)
                follower.start()
                follower.call("wait_ready", PATIENCE)
    load.check()


def test_killing_all_at_once_under_load_keeps_what_was_acknowledged(cluster: Cluster) -> None:
    with Load(cluster) as load:
        for _ in range(2):
            progress(load)
            for member in cluster:
                member.run.process.kill()
            for member in cluster:
                member.kill()
            for member in cluster:
                member.start()
            cluster.wait_ready()
        progress(load)
    load.check()


def test_a_leader_that_pauses_for_a_second_costs_nothing_but_time(cluster: Cluster) -> None:
    with Load(cluster) as load:
        for _ in range(2):
            progress(load)
            leader = cluster.leader()
            leader.pause()
            time.sleep(1.0)  # this is what is tested: a pause of one second
            leader.resume()
        progress(load)
    load.check()


def test_a_leader_that_pauses_beyond_the_election_timeout_is_replaced_and_serves_nothing_stale(cluster: Cluster) -> None:
    cluster["a"].call("put", "k", "old")
    leader = cluster.leader()
    leader.pause()
    survivor = cluster.others(leader)[0]
    survivor.call("put", "k", "new", timeout=PATIENCE)
    leader.resume()
    reads = [leader.ask("get", "k", consistency=consistency, timeout=PATIENCE) for consistency in ("lease", "linearizable") * 20]
    assert {read.result(PATIENCE)[1] for read in reads} == {"new"}
    assert cluster.leader() is not leader


def test_a_member_that_was_away_catches_up_by_snapshot_and_log(tmp_path: Path) -> None:
    config = {"snapshot_bytes": 100_000, "trailing_entries": 8, "segment_bytes": 1 << 16}
    with Cluster(tmp_path, config=config) as cluster:
        cluster.start()
        cluster["a"].call("put", "before", "x")
        late = cluster.others(cluster.leader())[0]
        late.kill()
        others = cluster.others(late)
        for number in range(12):
            others[number % 2].call("put_many", [[f"k{i}", random.randbytes(250).hex()] for i in range(100)])
        eventually(lambda: all(member.call("snapshot") > 8 for member in others))
        late.start()
        late.call("wait_ready", PATIENCE)
        assert late.call("snapshot") > 8
        late.call("put", "after", "x")
        scans = cluster.state()
        assert scans["a"] == scans["b"] == scans["c"]
        assert scans["a"]["count"] == 102
        for member in cluster:
            member.run.process.kill()
        for member in cluster:
            member.kill()
            member.start()
        cluster.wait_ready()
        assert cluster.state() == scans


# -- leaving --------------------------------------------------------------------------------------------------------------------------


def test_a_leader_that_closes_hands_over_quickly(cluster: Cluster, capsys: pytest.CaptureFixture[str]) -> None:
    leader = cluster.leader()
    survivor = cluster.others(leader)[0]
    survivor.call("put", "k", "before")
    began = time.monotonic()
    closed = leader.stop()
    survivor.call("put", "k", "after", timeout=PATIENCE)
    took = time.monotonic() - began
    with capsys.disabled():
        print(f"\n  closed in {closed:.3f} s, next write after {took:.3f} s")
    assert took < 1.4, "the others waited for an election timeout"
    heir = cluster.leader(but=leader.name)
    closed = heir.stop()
    with capsys.disabled():
        print(f"  the second of three closed in {closed:.3f} s")
    assert closed < 3.0
    leader.start()
    assert leader.call("get", "k", timeout=PATIENCE)[1] == "after"


def test_closing_all_at_once_hangs_nobody_and_keeps_everything(cluster: Cluster) -> None:
    cluster["a"].call("put", "k", "v")
    for member in cluster:
        assert member.run.process.stdin is not None
        member.run.process.stdin.close()
    began = time.monotonic()
    for member in cluster:
        assert member.run.process.wait(PATIENCE) == 0
    assert time.monotonic() - began < 10
    for member in cluster:
        member.kill()
        member.start()
    assert cluster["b"].call("get", "k", timeout=PATIENCE)[1] == "v"


# -- alone ----------------------------------------------------------------------------------------------------------------------------


def test_a_member_without_its_peers_names_them(tmp_path: Path) -> None:
    with Cluster(tmp_path) as cluster:
        alone = cluster["b"].start()
        for call in (("put", "k", "v"), ("get", "k"), ("add", "k"), ("scan",), ("delete", "k")):
            with pytest.raises(CallError) as caught:
                alone.call(*call, timeout=0.2)
            assert (caught.value.kind, caught.value.unreachable) == ("NoLeader", ("a", "c"))
            for name in "ac":
                assert f"{name} at tcp://{cluster.addresses[name]}" in caught.value.text
        with pytest.raises(CallError) as caught:
            alone.call("wait_ready", timeout=0.2)
        assert caught.value.kind == "WaitTimeout"
        assert "a at" in caught.value.text
        assert alone.call("get", "k", consistency="local") is None
        assert alone.call("status")["state"] == "founding"


def test_a_survivor_without_a_quorum_refuses_or_does_not_know_and_goes_on_when_the_others_return(cluster: Cluster) -> None:
    cluster["a"].call("put", "k", "v")
    leader = cluster.leader()
    others = cluster.others(leader)
    for other in others:
        other.kill()
    asked = leader.ask("put", "k", "handed over", timeout=1.0)
    with pytest.raises(CallError) as caught:
        asked.result(PATIENCE)
    assert caught.value.kind in ("OutcomeUnknown", "NoLeader")
    with pytest.raises(CallError) as caught:
        eventually(lambda: leader.call("status")["state"] != "leader")
        leader.call("put", "k", "never", timeout=0.2)
    assert (caught.value.kind, caught.value.unreachable) == ("NoLeader", tuple(other.name for other in others))
    assert leader.call("get", "k", consistency="local")[1] == "v"
    others[0].start()
    assert leader.call("get", "k", timeout=PATIENCE)[1] in ("v", "handed over")
    others[1].start()
    assert cluster.state()["a"]["kvs"][0][1] != "never"


# -- directories ----------------------------------------------------------------------------------------------------------------------


def contents(member: Member) -> dict[str, bytes]:
    """Return a directory's files, without the one that only names the process using it."""
    return {path.name: path.read_bytes() for path in member.data_dir.iterdir() if path.name != "lock"}


def test_another_members_directory_is_refused_with_both_names(cluster: Cluster) -> None:
    cluster["a"].call("put", "k", "v")
    for member in cluster:
        member.stop()
    stranger = cluster["b"]
    stranger.arguments = {**stranger.arguments, "data_dir": str(cluster["c"].data_dir)}
    before = contents(cluster["c"])
    with pytest.raises(CallError) as caught:
        stranger.start()
    assert caught.value.kind == "WrongCluster"
    assert all(f"'{name}'" in caught.value.text for name in "bc"), caught.value.text
    assert contents(cluster["c"]) == before


def test_a_directory_of_another_cluster_is_refused_with_both_names(tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    with Cluster(tmp_path / "one") as one, Cluster(tmp_path / "two") as two:
        one.start()["a"].call("put", "of", "one")
        two.start()["a"].call("put", "of", "two")
        one["c"].stop()
        two["c"].stop()
        stranger = one["c"]
        stranger.arguments = {**stranger.arguments, "data_dir": str(two["c"].data_dir)}
        stranger.start()
        failure = eventually(lambda: stranger.call("failure"))
        assert failure.startswith("WrongCluster")
        ids = {bytes.fromhex(word.strip(",;")) for word in failure.split() if len(word.strip(",;")) == 32}
        assert len(ids) == 2, failure
        with pytest.raises(CallError) as caught:
            stranger.call("get", "of")
        assert caught.value.kind == "WrongCluster"
        assert one["a"].call("get", "of")[1] == "one"
        assert one["a"].call("scan")["count"] == 1


def test_a_wiped_directory_has_not_the_vote_of_the_one_before(cluster: Cluster) -> None:
    cluster["a"].call("put", "k", "v")
    wiped, away, left = cluster
    away.kill()
    wiped.kill()
    for path in wiped.data_dir.iterdir():
        path.unlink()
    wiped.start()
    with pytest.raises(CallError):
        left.call("put", "k", "w", timeout=2.5)
    with pytest.raises(CallError):
        wiped.call("get", "k", timeout=0.5)
    away.start()
    assert left.call("get", "k", timeout=PATIENCE)[1] in ("v", "w")
    wiped.call("wait_ready", timeout=PATIENCE)


def test_a_directory_in_use_is_refused_whoever_asks(shared: Cluster) -> None:
    member = shared["a"]
    twin = Member("a", member.data_dir.parent)
    try:
        with pytest.raises(CallError) as caught:
            twin.start()
    finally:
        twin.discard()
    assert caught.value.kind == "DirectoryInUse"
    assert str(member.data_dir) in caught.value.text


def test_the_same_member_started_twice_is_refused_and_the_first_goes_on(shared: Cluster) -> None:
    member = shared["a"]
    twin = Member("a", member.data_dir.parent, cluster=shared.addresses)
    try:
        with pytest.raises(CallError) as caught:
            twin.start()
    finally:
        twin.discard()
    assert caught.value.kind == "DirectoryInUse", caught.value
    assert member.call("put", "still", "here")
