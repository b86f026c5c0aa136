"""The measuring must be right before its figures mean anything."""

from __future__ import annotations

import io
import json
import os
import random
import resource
import time
from array import array
from concurrent.futures import Future
from pathlib import Path

import pytest
from attrs import evolve

from benchmarks import answering, bounds, crowd, marks, peer, plots, protobuf, report, snapshots, stalls, workloads, zookeeper_peer
from benchmarks.figures import Figures, as_markdown, write
from benchmarks.meters import Meter, Sample, Usage, median, process_cpu, timed
from benchmarks.progress import Progress

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
    assert workloads.chosen("") == [workload.name for workload in workloads.WORKLOADS]
    assert {name.partition("-")[0] for name in workloads.chosen("")} == {*(f"W{number}" for number in range(1, 13)), "W3b", "window"}
    assert workloads.chosen("W4, W1") == ["W1", "W4", "W4-lease"]
    assert workloads.chosen("W3") == ["W3", "W3-follower"]
    with pytest.raises(ValueError, match="no workload W99"):
        workloads.chosen("W99")


def test_windows_of_puts_are_chosen_together_whatever_their_names() -> None:
    names = ["W1", "W2", "W3", "window-4", "window-16", "window-256", "window-2000"]
    assert workloads.chosen("window") == names
    assert [workload.in_flight for workload in plots.WINDOWS] == [1, 4, 16, 64, 256, 512, 2_000]


def test_a_scale_leaves_each_workload_enough_to_be_measured() -> None:
    counts = {workload.name: workload.count(0.001) for workload in workloads.WORKLOADS}
    assert (counts["W1"], counts["W10"], counts["W11"], counts["W12"]) == (100, 1, 2_000, 3)
    assert [workload.count(4) for workload in workloads.WORKLOADS if workload.name == "W10"] == [20]


def test_a_value_tells_when_it_was_made() -> None:
    value = workloads.make_values()[0]
    stamped = workloads.stamped(value)
    assert len(stamped) == len(value)
    assert stamped[20:] == value[20:]
    assert 0 <= time.monotonic_ns() - workloads.stamp(stamped) < 60e9


def test_values_of_another_size_are_random_all_over() -> None:
    values = workloads.make_values(100)
    assert {len(value) for value in values} == {100}
    assert len({value[50:] for value in values}) == len(values)


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


def test_figures_travel_unchanged_and_not_as_text(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Written out as text, they cost the member that is measured more than a local read, and a read seemed to cost that much."""
    figures = [random.Random(1).random() for _ in range(1000)]

    class Measured:
        def run(self, count: int) -> dict[str, object]:
            return {"latencies": array("d", figures[:count]), "nested": [{"threads": {"node": 1.5}}]}

        def fail(self) -> object:
            return array("i", [1])

    monkeypatch.setattr("sys.stdin", io.StringIO('{"do": "run", "with": [1000]}\n{"do": "fail", "with": []}\n'))
    with pytest.raises(TypeError, match="arrays of doubles"):
        answering.answer_requests(Measured())
    (line,) = capsys.readouterr().out.splitlines()
    assert answering.answer_in(line) == {"latencies": figures, "nested": [{"threads": {"node": 1.5}}]}
    assert len(line) < 11 * len(figures)


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


def measured(**rates: float) -> dict[str, dict[str, Sample]]:
    """Return one figure of replkv per workload: 100 operations, and the milliseconds that each took."""
    return {name.replace("_", "-"): {"replkv 1": evolve(SAMPLE, seconds=100 / rate, p50_ms=1e3 / rate)} for name, rate in rates.items()}


def test_the_table_compares_with_the_first_peer() -> None:
    results = report.Results()
    kills = timed([0.25, 0.5, 0.125], 1.0)
    results.add("W10", "replkv 1", kills)
    results.add("W1", "replkv 1", SAMPLE)
    results.add("W1", "etcd 3", Sample(100, 5.0, 15.0, 2.5, 10.0, 20.0, 30.0, 0.5, 40.0))
    first, second, third = report.rows(results)
    assert first == ("W1", "put, one after the other", "replkv 1", "200", "1.5", "2.5", "60", "10 + 20 + 30", "")
    assert second[-1] == "10 × rate, p50 ÷ 10"
    assert third[3:] == ("", "250", "500", "", "", "3 times; p99 is the worst")
    page = report.as_markdown(results)
    assert "NOISE: up to 50%" in page
    told = json.loads(report.as_json(results))
    assert told["workloads"]["W1"]["etcd 3"]["runs"][0]["p50_ms"] == 15.0
    assert told["workloads"]["W10"]["replkv 1"]["runs"][0]["distribution"] == {"1.25e+05": 1, "2.5e+05": 1, "5e+05": 1}


def test_what_was_measured_is_told_in_brief_and_read_back(tmp_path: Path) -> None:
    results = report.Results(settings={"runs": 2})
    for name, seconds in (("replkv 1", 0.5), ("etcd 3", 1.0), ("Other", 0.25)):
        results.add("W1", name, evolve(SAMPLE, seconds=seconds))
    results.add("W7-add", "replkv 1", SAMPLE)
    results.add("W10", "replkv 1", timed([0.25, 0.5], 1.0))
    results.add("W10", "etcd 3", timed([1.0], 1.0))
    results.bounds.append(bounds.Bounds(100, 200, 0.2, 0.1))
    _, _, put, add, kill = report.brief(results).splitlines()
    assert put == "| W1 | put, one after the other | 200/s, 1.5 ms | 100/s, 1.5 ms | 400/s, 1.5 ms | 2 | 0.5 |"
    assert add == "| W7-add | add to one counter, 8 contenders | 200/s, 1.5 ms |  |  |  |  |"
    assert kill == "| W10 | leader killed: to the first put that began after it | 375 ms | 1,000 ms |  | 0.38 of the time |  |"
    report.write(results, tmp_path / "kept.json")
    assert report.as_markdown(report.read(tmp_path / "kept.json")) == (tmp_path / "kept.md").read_text(encoding="utf-8")


def test_the_worst_of_all_runs_counts_where_little_was_done_and_extras_are_told() -> None:
    results = report.Results()
    for seconds in (0.5, 0.75):
        results.add("W11", "replkv 1", timed([0.5, seconds], 1.0, extras={"MiB resident": seconds * 200}))
    assert report.rows(results)[0][4:] == ("500", "750", "", "", "4 times; p99 is the worst; 125 MiB resident")


def test_peers_settings_and_what_the_machine_allows_are_told_with_the_figures() -> None:
    results = report.Results(settings={"runs": 2})
    results.add("W1", "replkv 1", SAMPLE)
    results.bounds += [bounds.Bounds(100, 200, 0.2, 0.1), bounds.Bounds(200, 300, 0.3, 0.1)]
    results.peers["replkv 1"] = {"durability": "a majority has synced it", "client": "threads"}
    page = report.as_markdown(results)
    assert "replkv 1: before a write counts, a majority has synced it. threads." in page
    assert "a sync 150 µs, a cold round trip over nng 250 µs" in page
    assert "| W1 | p50 ≤ 2 × (a sync + a cold round trip) | 3.75 | NOT MET |" in page
    told = json.loads(report.as_json(results))
    assert told["settings"]["runs"] == 2
    assert told["settings"]["value_bytes"] == 256
    assert [one["sync_us"] for one in told["bounds"]] == [100, 200]
    assert told["marks"][0]["met"] == "NOT MET"


def test_marks_are_ratios_and_those_that_need_what_is_missing_are_left_out() -> None:
    figures = measured(W1=1_000, W2=20_000, W7=700, W7_add_64=9_000, W9=500)
    found = {(mark.workload, mark.wanted): mark.measure(figures, None) for mark in marks.MARKS}
    known = {name: round(figure, 3) for (name, _), figure in found.items() if figure is not None}
    assert known == {"W7": 0.7, "W7-add-64": 0.45, "W9": 2.0}
    figures["W1"]["etcd 3"] = evolve(SAMPLE, seconds=1.0, p50_ms=2.0)
    assert marks.MARKS[0].measure(figures, None) == 0.5
    assert marks.MARKS[0].is_met(0.5)
    assert not marks.MARKS[0].is_met(0.51)


def test_fail_overs_of_all_runs_count_together_in_tables_and_marks_alike() -> None:
    """The table showed the median of all fail-overs, and the mark was about the median of each run's."""
    results = report.Results()
    for peer_name, runs in (("replkv 1", ([0.1, 0.1, 0.2], [0.2, 0.2, 0.3])), ("etcd 3", ([1.0, 1.0, 1.0], [2.0, 3.0]))):
        for times in runs:
            results.add("W10", peer_name, timed(times, sum(times)))
    medians = results.medians()
    assert [round(sample.p50_ms) for sample in medians["W10"].values()] == [200, 1000]
    found = {mark.wanted: mark.measure(medians, None) for mark in marks.MARKS if mark.workload == "W10"}
    assert found == {"p50 ≤ 0.25 × etcd's": pytest.approx(0.2), "the worst ≤ 0.5 × etcd's p50": pytest.approx(0.3)}
    assert report.brief(results).endswith("| 200 ms | 1,000 ms | 0.20 of the time |")


def test_a_read_is_compared_with_a_look_up_without_what_measuring_takes() -> None:
    figures = {"W6": {"replkv 1": evolve(SAMPLE, p50_ms=0.0007)}}
    mark = next(mark for mark in marks.MARKS if "bare look-up" in mark.wanted)
    found = mark.measure(figures, bounds.Bounds(1, 1, look_up_us=0.2, driver_us=0.1))
    assert found == pytest.approx(3.0)


def test_plots_show_the_windows_in_order_and_who_spends_the_cpu() -> None:
    figures = measured(window_4=2_000, W1=1_000, W3=30_000, W3b=1)
    figures["W1"]["etcd 3"] = SAMPLE
    points = plots.window_points(figures)
    assert list(points) == ["replkv 1"]
    assert [(point.in_flight, round(point.rate)) for point in points["replkv 1"]] == [(1, 1_000), (4, 2_000), (512, 30_000)]
    assert plots.cpu_split(figures)[1] == ("W1\netcd 3", (10.0, 20.0, 30.0))
    assert [name for name, _ in plots.cpu_split(figures)] == ["W1\nreplkv 1", "W1\netcd 3", "W3\nreplkv 1"]


def test_progress_says_what_runs_and_expects_of_a_step_what_it_took_before() -> None:
    said: list[str] = []
    now = 0.0
    progress = Progress([("a", "W1"), ("a", "W2"), ("a", "W1"), ("a", "W2")], lambda: now, said.append)
    progress.begin("a", "W1", "put")
    now = 10.0
    progress.begin("a", "W2", "puts")
    now = 70.0
    progress.begin("a", "W1", "put")
    assert said[0] == "[1/4] a W1: put – 0:00 gone"
    assert said[1] == "[2/4] a W2: puts – 0:10 gone, about 0:30 left"
    assert said[2] == "[3/4] a W1: put – 1:10 gone, about 1:10 left"


def test_zeros_at_the_end_of_a_file_are_not_what_is_stored(tmp_path: Path) -> None:
    (tmp_path / "below").mkdir()
    (tmp_path / "below" / "log").write_bytes(bytes(5_000) + b"x" + bytes(100_000))
    (tmp_path / "empty").write_bytes(bytes(10_000))
    assert peer.written_bytes(tmp_path) == 8_192


def test_swaps_of_etcd_are_encoded_and_told_apart() -> None:
    request = protobuf.fields(protobuf.swap_request(b"k", 300, b"8"))
    assert {number: protobuf.fields(field) for number, field in request.items() if isinstance(field, bytes)} == {
        1: {2: 2, 3: b"k", 6: 300},
        2: {2: protobuf.put_request(b"k", b"8")},
        3: {1: protobuf.range_request(b"k", serializable=False)},
    }
    header = protobuf.bytes_field(1, b"\x18" + protobuf.varint(301))
    assert protobuf.Swapped.decode(header + b"\x10\x01") == protobuf.Swapped(True, 301, b"")
    pair = protobuf.bytes_field(1, b"k") + b"\x18" + protobuf.varint(299) + protobuf.bytes_field(5, b"7")
    found = protobuf.bytes_field(3, protobuf.bytes_field(1, protobuf.bytes_field(2, pair)))
    assert protobuf.Swapped.decode(header + found) == protobuf.Swapped(False, 299, b"7")


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
