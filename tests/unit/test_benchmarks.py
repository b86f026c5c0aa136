"""The measuring must be right before its figures mean anything."""

from __future__ import annotations

import os
import time
from concurrent.futures import Future

import pytest

from benchmarks import protobuf, report, workloads
from benchmarks.meters import Meter, Sample, median, process_cpu

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
    assert workloads.chosen("") == ["W1", "W2", "W3", "W4", "W4-lease", "W6", "W10"]
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
