"""The measuring must be right before its figures mean anything."""

from __future__ import annotations

import os
import resource
import time
from concurrent.futures import Future
from pathlib import Path

import pytest

from benchmarks import crowd, protobuf, report, snapshots, stalls, workloads, zookeeper_peer
from benchmarks.figures import Figures, as_markdown, write
from benchmarks.meters import Meter, Sample, Usage, median, process_cpu

SAMPLE = Sample(100, 0.5, 1.5, 2.5, 10.0, 20.0, 30.0, 0.01, 40.0)


def test_keys_have_32_bytes_and_sort_by_number() -> None:
    keys = [workloads.key(number) for number in (0, 9, 10, 9_999)]
    assert keys == sorted(keys)
    assert {len(key) for key in keys} == {32}


def test_values_are_half_random_and_always_the_same() -> None:
    values = workloads.make_values()
    assert values == workloads.make_values()
    assert {len(value) for value in values} == {256}
    assert len({value[:128] for value in values}) == len(values)
    assert len({value[128:] for value in values}) == 1


def test_all_workloads_are_chosen_by_default_and_kinds_share_a_number() -> None:
    assert workloads.chosen("") == ["W1", "W2", "W3", "W4", "W4-lease", "W6", "W9", "W9-8", "W9-8-spread", "W10"]
    assert workloads.chosen("W4, W1") == ["W1", "W4", "W4-lease"]
    with pytest.raises(ValueError, match="no workload W7"):
        workloads.chosen("W7")


def test_a_window_never_holds_more_than_it_may() -> None:
    open_futures: list[Future[None]] = []
    most = 0

    class Lazy(Future[None]):
        def result(self, timeout: float | None = None) -> None:
            open_futures.remove(self)

    def submit(number: int) -> Future[None]:
        nonlocal most
        open_futures.append(Lazy())
        most = max(most, len(open_futures))
        return open_futures[-1]

    latencies, seconds = workloads.drive_window(100, 8, submit)
    assert (len(latencies), most, open_futures) == (100, 8, [])
    assert max(latencies) <= seconds


def test_a_sequence_is_done_in_order() -> None:
    done: list[int] = []
    latencies, _ = workloads.drive_sequential(50, done.append)
    assert done == list(range(50))
    assert len(latencies) == 50


def test_contenders_share_the_turns_and_their_cpu_is_theirs() -> None:
    done: dict[str, list[int]] = {"a": [], "b": []}
    latencies, seconds, cpu = workloads.drive_together(100, [done["a"].append, done["b"].append])
    assert done == {"a": list(range(50)), "b": list(range(50))}
    assert len(latencies) == 100
    assert cpu >= 0
    assert max(latencies) <= seconds


def test_a_contender_that_fails_is_no_measurement() -> None:
    def fail(number: int) -> None:
        raise OSError(f"turn {number}")

    with pytest.raises(OSError, match="turn 0"):
        workloads.drive_together(10, [lambda _: None, fail])


@pytest.mark.parametrize(("whole", "parts"), [(8, 3), (1_000, 3), (2, 3), (1_000, 4)])
def test_shares_differ_by_one_and_make_the_whole(whole: int, parts: int) -> None:
    shares = [workloads.share(whole, part, parts) for part in range(parts)]
    assert sum(shares) == whole
    assert max(shares) - min(shares) <= 1


def test_varints_are_those_of_protobuf() -> None:
    assert [protobuf.varint(number) for number in (0, 1, 127, 128, 300)] == [b"\0", b"\x01", b"\x7f", b"\x80\x01", b"\xac\x02"]


def test_requests_are_read_back_as_they_were_meant() -> None:
    assert protobuf.fields(protobuf.put_request(b"k" * 200, b"v")) == {1: b"k" * 200, 2: b"v"}
    assert protobuf.fields(protobuf.range_request(b"k", serializable=True)) == {1: b"k", 7: 1}
    assert protobuf.fields(protobuf.range_request(b"k", serializable=False)) == {1: b"k"}


def test_answers_of_etcd_are_understood() -> None:
    header = b"\x08" + protobuf.varint(77) + b"\x10" + protobuf.varint(1 << 60)
    status = protobuf.bytes_field(1, header) + protobuf.bytes_field(2, b"3.5.1") + b"\x20" + protobuf.varint(5)
    assert protobuf.EtcdStatus.decode(status) == protobuf.EtcdStatus(member=1 << 60, leader=5)
    pair = protobuf.put_request(b"k", b"")[:3] + protobuf.bytes_field(5, b"value")
    assert protobuf.found_value(protobuf.bytes_field(1, header) + protobuf.bytes_field(2, pair)) == b"value"
    assert protobuf.found_value(protobuf.bytes_field(1, header)) is None


def test_locks_of_etcd_are_asked_for_by_name_and_lease_and_given_back_by_their_key() -> None:
    assert protobuf.fields(protobuf.grant_request(60, 1 << 40)) == {1: 60, 2: 1 << 40}
    assert protobuf.fields(protobuf.lock_request(b"name", 300)) == {1: b"name", 2: 300}
    locked = protobuf.bytes_field(1, b"header") + protobuf.bytes_field(2, b"name/12c")
    assert protobuf.fields(protobuf.unlock_request(locked)) == {1: b"name/12c"}
    with pytest.raises(TypeError, match="no LockResponse"):
        protobuf.unlock_request(protobuf.bytes_field(1, b"header"))


def test_servers_of_zookeeper_know_each_other(tmp_path: Path) -> None:
    text = zookeeper_peer.configuration(1, tmp_path, 2181, [(1, 2), (3, 4), (5, 6)])
    settings = dict(line.split("=", 1) for line in text.splitlines())
    assert settings["clientPort"] == "2181"
    assert settings["dataDir"] == f"{tmp_path}/m1"
    assert settings["server.3"] == "127.0.0.1:5:6"


def test_a_server_of_zookeeper_says_what_it_is_and_how_old() -> None:
    answer = "Zookeeper version: 3.8.0-abc, built on 2022-02-25\nLatency min/avg/max: 0/0.0/0\nMode: follower\nNode count: 5\n"
    told = zookeeper_peer.described(answer)
    assert told["Mode"] == "follower"
    assert told["Zookeeper version"].startswith("3.8.0-")
    assert zookeeper_peer.described("") == {}


def test_what_zookeeper_lacks_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(zookeeper_peer, "JAR", tmp_path / "zookeeper.jar")
    lacking = zookeeper_peer.missing()
    assert lacking is not None
    assert "apt-get install zookeeper" in lacking


def test_the_cpu_of_a_process_is_its_own() -> None:
    assert process_cpu(os.getpid()) == pytest.approx(time.process_time(), abs=0.05)


def test_the_driver_inside_a_member_is_counted_once() -> None:
    own = os.getpid()
    outside = Meter(own, []).sample([0.001], 0.001, 0.0)
    inside = Meter(own, []).sample([0.001], 0.001, 0.0, inside=own)
    assert outside.leader_cpu >= 0 <= inside.leader_cpu
    shifted = Meter(own, []).sample([0.001], 0.001, 1.0, inside=own)
    assert shifted.driver_cpu == 1e6
    assert shifted.cpu < 1e6


def test_what_else_a_machine_does_is_what_nobody_accounts_for() -> None:
    usage = Usage([os.getpid()])
    assert usage.spent()[0] >= 0
    assert usage.other_share(1e9) == 0
    assert 0 <= usage.other_share(0) <= 1


def test_medians_are_taken_figure_by_figure() -> None:
    other = Sample(100, 1.0, 0.5, 9.0, 10.0, 20.0, 30.0, 0.01, 40.0)
    third = Sample(100, 2.0, 3.0, 1.0, 10.0, 20.0, 30.0, 0.01, 40.0)
    middle = median([SAMPLE, other, third])
    assert (middle.seconds, middle.p50_ms, middle.p99_ms) == (1.0, 1.5, 2.5)


def test_the_table_compares_with_the_first_peer() -> None:
    results = report.Results()
    results.add("W1", "replkv 1", SAMPLE)
    results.add("W1", "etcd 3", Sample(100, 5.0, 15.0, 2.5, 10.0, 20.0, 30.0, 0.5, 40.0))
    results.add_fail_over("replkv 1", 0.25)
    first, second, third = report.rows(results)
    assert first == ("W1", "put, one after the other", "replkv 1", "200", "1.5", "2.5", "60", "10 + 20 + 30", "")
    assert second[-1] == "10 × rate, p50 ÷ 10"
    assert third[4:6] == ("250", "250")
    page = report.as_markdown(results)
    assert page.count("\n| ") == 4
    assert "NOISE: up to 50%" in page
    assert '"etcd 3"' in report.as_json(results, 1)


def test_the_table_of_crowds_says_where_and_how_it_was_measured(tmp_path: Path) -> None:
    figures = Figures()
    figures.add("a hand-over", "p50 1.00 ms")
    figures.noise.append(0.5)
    page = as_markdown(figures, "python -m benchmarks.crowd lock")
    assert "| a hand-over | p50 1.00 ms |" in page
    assert "`python -m benchmarks.crowd lock`" in page
    assert "NOISE: up to 50%" in page
    write(figures, "python", tmp_path / "new" / "crowd.json")
    assert "a hand-over" in (tmp_path / "new" / "crowd.json").read_text(encoding="utf-8")
    assert (tmp_path / "new" / "crowd.md").read_text(encoding="utf-8") == as_markdown(figures, "python")


def test_puts_that_were_under_way_during_a_snapshot_count_and_no_others() -> None:
    latencies = snapshots.Latencies()
    latencies.add([(0.0, 0.5), (0.9, 0.2), (1.5, 0.1), (1.9, 5.0), (2.0, 0.1)], 1.0, 2.0)
    assert (latencies.at(0.0), latencies.at(0.5), latencies.at(1.0)) == (100, 200, 5000)
    assert str(latencies) == "p50 200.00 ms, p99 5000.00 ms, at most 5000 ms (3 puts)"


def test_too_few_files_are_refused_before_anything_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    limits: list[tuple[int, int]] = []
    monkeypatch.setattr(resource, "getrlimit", lambda _: (256, 1_000))
    monkeypatch.setattr(resource, "setrlimit", lambda _, both: limits.append(both))
    with pytest.raises(OSError, match="may open 1000 files here, and 2000 are needed"):
        crowd.raise_file_limit(2_000)
    crowd.raise_file_limit(500)
    assert limits == [(1_000, 1_000)]


@pytest.mark.parametrize("how", ["threads", "tasks"])
def test_a_lock_goes_round_once_and_each_release_wakes_one(how: str, tmp_path: Path) -> None:
    figures = Figures()
    crowd.lock_round(tmp_path, how, 6, figures)
    told = dict(figures.rows)
    assert told["– wake-ups per release"] == "1"
    assert any(title.startswith(f"6 {how} of three members") for title in told)


def test_leases_of_many_clients_are_kept_alive(tmp_path: Path) -> None:
    figures = Figures()
    crowd.clients(tmp_path, 0.004, 1.0, figures)
    assert ("kept alive for 1 s: leases that were lost", "none of 40") in figures.rows


def test_puts_beside_threads_that_compute_complete_under_one_leader(tmp_path: Path) -> None:
    figures = Figures()
    stalls.beside(tmp_path, stalls.Load("all", 1, 0.5, 0.001), figures)
    told = dict(figures.rows)
    assert told["– changes of leader, elections, terms"] == "0, 0, 1"
    title = "1 threads compute in each of the three processes, with sys.setswitchinterval(0.001), for 0.5 s"
    assert told[title].endswith("puts one after the other, all complete")
