"""Where replkv is meant to differ from etcd: each difference of docs/ETCD.md, shown on both."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from etcd_server import PATIENCE, Etcd, EtcdRefusal, Json, running_etcd, to_data, to_text
from etcd_store import ALL_KEYS, FROM_KEY, EtcdStore
from play import Play
from steps import Compact, Compare, Delete, Grant, Put, Refused, Scan, Txn, Watch, Where

from replkv import Compacted, DuplicateKey, Event, Key, LeaseNotFound, QuotaExceeded, Replica, Settings, TooLarge, TooManyOps, ops
from replkv.values import MAX_TTL

A_DAY = 86_400


@pytest.fixture
def replica(both: Play) -> Replica:
    return both.replkv.replica


@pytest.fixture
def ask(both: Play) -> Callable[[str, Json], Json]:
    """Ask etcd itself."""
    return both.etcd.call


def found(answer: Json) -> list[bytes]:
    """Return the keys of etcd's answer to a range request."""
    return [to_data(kv["key"]) for kv in answer.get("kvs", [])]


def put_both(both: Play, *keys: bytes) -> None:
    for key in keys:
        both.do(Put(key, b"value"))


# -- keys and spans ----------------------------------------------------------------------------------------------------------------


def test_what_has_no_end_is_said_by_leaving_it_out_not_by_a_special_end(both: Play, replica: Replica, ask: Any) -> None:
    put_both(both, b"a", b"b", b"c")
    assert found(ask("/v3/kv/range", {"key": to_text(b"b"), "range_end": to_text(b"\x00")})) == [b"b", b"c"]
    assert found(ask("/v3/kv/range", {"key": to_text(b"b"), "range_end": ""})) == [b"b"]
    assert [kv.key for kv in replica.scan(start="b")] == [b"b", b"c"]
    assert [kv.key for kv in replica.scan("b")] == [b"b"]
    for end in (b"\x00", b""):  # they are keys like others, before "b"
        assert replica.scan(start="b", end=end).count == 0
        assert replica.delete(start="b", end=end).deleted == 0


def test_keys_that_begin_with_a_zero_byte_are_met_only_by_spans_that_begin_there(both: Play, replica: Replica, ask: Any) -> None:
    put_both(both, b"\x00own", b"a")
    assert found(ask("/v3/kv/range", ALL_KEYS)) == [b"\x00own", b"a"]
    assert [kv.key for kv in replica.scan()] == [kv.key for kv in replica.scan(start="")] == [b"a"]
    assert [kv.key for kv in replica.scan(start=b"\x00")] == [b"\x00own", b"a"]
    assert replica.delete(start="").deleted == 1
    assert replica.delete(b"\x00own").deleted == 1


def test_what_can_not_be_meant_is_refused_before_anything_is_sent(replica: Replica, ask: Any) -> None:
    for path, request in (("put", {}), ("range", {}), ("deleterange", {}), ("txn", {"compare": [{"target": "VERSION"}]})):
        with pytest.raises(EtcdRefusal, match="key is not provided"):
            ask(f"/v3/kv/{path}", request)
    for call in (
        lambda: replica.put("", ""),
        lambda: replica.get(""),
        lambda: replica.delete(""),
        replica.delete,
        lambda: replica.delete(prefix=""),
        lambda: Key(""),
        Key,
    ):
        with pytest.raises(ValueError, match="key|prefix"):
            call()


def test_a_watch_of_no_key_at_all_is_silent(both: Play, replica: Replica) -> None:
    nowhere = Watch(Where(start=b"b", end=b"a"))
    with pytest.raises(EtcdRefusal, match="watcher range is empty"):
        both.etcd.watch(nowhere)
    with replica.watch(start="b", end="a") as watch:
        put_both(both, b"a", b"b")
        assert watch.next(timeout=0) is None


def test_a_watch_of_no_kind_of_event_is_refused(both: Play, replica: Replica) -> None:
    both.etcd.watch(Watch(Where(key=b"a"), kinds=())).close()
    with pytest.raises(ValueError, match="kinds"):
        replica.watch("a", kinds=())


# -- numbers -----------------------------------------------------------------------------------------------------------------------


def test_a_negative_number_is_an_error_not_another_word_for_none(both: Play, replica: Replica, ask: Any) -> None:
    put_both(both, b"a")
    assert found(ask("/v3/kv/range", {"key": to_text(b"a"), "revision": -3, "limit": -4})) == [b"a"]
    negative = {"key": to_text(b"a"), "target": "VERSION", "result": "GREATER", "version": -1}
    assert ask("/v3/kv/txn", {"compare": [negative]})["succeeded"]
    for call in (
        lambda: replica.get("a", revision=-3),
        lambda: replica.scan("a", limit=-4),
        lambda: replica.compact(-5),
        lambda: Key("a").version > -1,
    ):
        with pytest.raises(ValueError, match="between 0 and"):
            call()


def test_a_watch_from_now_on_is_said_by_none_not_by_zero(both: Play, replica: Replica) -> None:
    now = both.etcd.watch(Watch(Where(key=b"a")))  # its start_revision is 0
    put_both(both, b"a")
    events = now.collect(1)
    assert isinstance(events, list)
    assert [event.kv.key for event in events] == [b"a"]
    with pytest.raises(ValueError, match="start_revision must be at least 1"):
        replica.watch("a", start_revision=0)


def test_the_newest_revision_and_no_bound_are_said_by_none_not_by_zero(both: Play, replica: Replica, ask: Any) -> None:
    put_both(both, b"a")
    zeros = dict.fromkeys(("revision", "min_mod_revision", "max_mod_revision", "min_create_revision", "max_create_revision"), 0)
    assert found(ask("/v3/kv/range", {"key": to_text(b"a"), **zeros})) == [b"a"]
    for name in zeros:
        with pytest.raises(ValueError, match=f"{name} must be at least 1"):
            replica.scan("a", **{name: 0})  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="revision must be at least 1"):
        replica.get("a", revision=0)


def test_an_id_of_a_lease_is_above_zero(replica: Replica, ask: Any) -> None:
    assert ask("/v3/lease/grant", {"ID": -5, "TTL": A_DAY})["ID"] == "-5"
    for number in (-5, 0):
        with pytest.raises(ValueError, match="lease"):
            replica.lease(A_DAY, id=number)


# -- transactions ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "then",
    [
        (Txn(then=(Put(b"a", b"1"),)), Txn(then=(Delete(Where(key=b"a")),))),
        (Put(b"a", b"1"), Delete(Where(start=b"a"))),
        (Delete(Where()), Put(b"a", b"1")),
    ],
    ids=["a delete in a later transaction", "a delete without an end", "a put after a delete without an end"],
)
def test_a_key_that_is_written_twice_is_always_found(both: Play, then: tuple[Put | Delete | Txn, ...]) -> None:
    assert not isinstance(both.etcd.do(Txn(then=then)), Refused)
    assert both.replkv.do(Txn(then=then)) == Refused("DuplicateKey")


def test_a_key_that_is_written_twice_is_found_before_there_is_a_transaction() -> None:
    with pytest.raises(DuplicateKey, match="b'a' is written twice"):
        ops.Txn(then=[ops.Put("a", ""), ops.Put("a", "")])


def puts(first: int, count: int) -> tuple[Put, ...]:
    return tuple(Put(b"%d" % number, b"") for number in range(first, first + count))


def test_the_bound_of_a_transaction_is_on_what_it_may_do_on_one_path(both: Play, replica: Replica) -> None:
    most = Settings().max_txn_ops
    assert most == 128
    both.do(Txn(then=puts(0, most)))
    assert both.do(Txn(then=puts(0, most + 1))) == Refused("TooManyOps")
    # etcd gives each nested transaction what its parent left, however many siblings do the same.
    siblings = Txn(then=(Txn(then=puts(0, 70)), Txn(then=puts(70, 70))))
    assert not isinstance(both.etcd.do(siblings), Refused)
    assert both.replkv.do(siblings) == Refused("TooManyOps")
    # And it takes off the longest of the parent's lists, be it that of its compares.
    compares = Txn((Compare(Where(key=b"missing"), "version", "==", 0),) * 100, then=(Txn(then=puts(0, 50)),))
    assert both.etcd.do(compares) == Refused("TooManyOps")
    assert not isinstance(both.replkv.do(compares), Refused)
    with pytest.raises(TooManyOps):
        replica.txn(compare=[Key("missing").missing] * (most + 1))


def test_transactions_may_be_nested_sixteen_deep(both: Play) -> None:
    nested = Txn()
    for _ in range(15):
        nested = Txn(then=(nested,))
    both.do(nested)
    assert not isinstance(both.etcd.do(Txn(then=(nested,))), Refused)
    with pytest.raises(ValueError, match="nested 16 deep"):
        both.replkv.do(Txn(then=(nested,)))


def test_a_nested_transaction_knows_its_revision(replica: Replica, ask: Any) -> None:
    put: Json = {"request_put": {"key": to_text(b"a")}}
    answer = ask("/v3/kv/txn", {"success": [{"request_txn": {"success": [put]}}]})
    assert "revision" not in answer["responses"][0]["response_txn"].get("header", {})
    result = replica.txn(then=[ops.Txn(then=[ops.Put("a", "")])])
    assert result.responses[0].revision == result.revision == replica.revision


def test_of_two_reasons_to_refuse_each_names_the_one_it_met_first(both: Play) -> None:
    twice = Put(b"missing", None, lease=4711)
    both.do(twice)  # which takes both for equal
    assert both.etcd.do(twice) == Refused("LeaseNotFound")
    assert both.replkv.do(twice) == Refused("KeyNotFound")


def test_a_request_is_as_large_as_its_keys_and_values(both: Play, replica: Replica) -> None:
    most = Settings().max_request_bytes
    assert most == 1_572_864  # etcd's as well
    largest = Put(b"k", bytes(most - 1))
    assert both.etcd.do(largest) == Refused("TooLarge")  # it counts what is around them
    assert not isinstance(both.replkv.do(largest), Refused)
    with pytest.raises(TooLarge):
        replica.put("k", bytes(most))


# -- reads -------------------------------------------------------------------------------------------------------------------------


def test_equal_ones_are_in_the_order_of_their_keys(both: Play) -> None:
    put_both(both, *(b"%02d" % number for number in range(40)), *(b"%02d" % number for number in range(0, 40, 3)))
    for descending in (False, True):
        scan = Scan(Where(), sort_by="version", descending=descending)
        ours, theirs = both.replkv.do(scan).kvs, both.etcd.do(scan).kvs
        assert list(ours) == sorted(theirs, key=lambda kv: (-kv.version if descending else kv.version, kv.key))
        assert ours != theirs  # its sort is not stable


# -- history -----------------------------------------------------------------------------------------------------------------------


def test_a_deletion_at_the_compacted_revision_is_still_watched(both: Play) -> None:
    put_both(both, b"a")
    both.do(Delete(Where(key=b"a")))
    both.do(Compact(2))
    watch = Watch(Where(key=b"a"), start_revision=2)
    ours, theirs = both.replkv.watch(watch), both.etcd.watch(watch)
    last = both.touch(watch)
    seen, expected = ours.collect(last), theirs.collect(last)
    assert isinstance(seen, list)
    assert [(event.kind, event.kv.mod_revision) for event in seen] == [("delete", 2), ("put", 3), ("delete", 4)]
    assert expected == (seen[1:] if both.etcd.loses_deletions else seen)  # issue 18089


def test_what_an_event_replaced_is_told_or_the_watch_says_that_it_can_not(both: Play) -> None:
    put_both(both, b"a", b"a")
    both.do(Compact(2))
    watch = Watch(Where(key=b"a"), start_revision=2, prev_kv=True)
    ours, theirs = both.replkv.watch(watch), both.etcd.watch(watch)
    events = theirs.collect(both.touch(watch))
    assert isinstance(events, list)
    assert events[0].kv.version == 2
    assert events[0].prev_kv is None, "and nothing tells that there was one"
    assert ours.collect(4) == Refused("Compacted", 3)


def test_history_goes_by_itself_unless_that_is_turned_off(installed: Etcd) -> None:
    told = subprocess.run([installed.binary, "--help"], capture_output=True, text=True, check=False)
    assert "--auto-compaction-retention '0'" in told.stdout + told.stderr
    assert (Settings().compact_age, Settings().compact_revisions, Settings().compact_bytes) == (3600, 1_000_000, 256 << 20)
    Settings(compact_age=0, compact_revisions=0, compact_bytes=0)  # the history of all times


# -- leases ------------------------------------------------------------------------------------------------------------------------


def test_a_ttl_is_kept_as_it_is_or_refused(replica: Replica, ask: Any) -> None:
    assert ask("/v3/lease/grant", {"ID": 7, "TTL": 1})["TTL"] == "2"  # a silent raise
    assert ask("/v3/lease/grant", {"ID": 8, "TTL": -1})["TTL"] == "2"
    assert ask("/v3/lease/grant", {"ID": 9, "TTL": 9_000_000_000})["TTL"] == "9000000000"
    with pytest.raises(EtcdRefusal, match="too large lease TTL"):
        ask("/v3/lease/grant", {"ID": 10, "TTL": 9_000_000_001})
    least = Settings().min_ttl
    with replica.lease(least) as lease:
        assert lease.ttl == least == 0.2
    assert replica.lease(MAX_TTL, id=9, keep_alive=False).ttl == MAX_TTL == 10 * 365 * A_DAY
    for ttl in (least / 2, 0, -1, MAX_TTL + 1):
        with pytest.raises(ValueError, match="ttl"):
            replica.lease(ttl)


def test_the_ids_that_the_store_chooses_count_up(replica: Replica, ask: Any) -> None:
    assert int(ask("/v3/lease/grant", {"TTL": A_DAY})["ID"]) > 1 << 32  # a random one
    first = replica.lease(A_DAY, keep_alive=False).id
    replica.lease(A_DAY, id=first + 1, keep_alive=False)
    assert replica.lease(A_DAY, keep_alive=False).id == first + 2


def test_a_lease_that_does_not_exist_is_always_an_error(both: Play, replica: Replica, ask: Any) -> None:
    assert ask("/v3/lease/timetolive", {"ID": 4711})["TTL"] == "-1"
    with closing(both.etcd.server.stream("/v3/lease/keepalive", {"ID": 4711})) as stream:
        assert "TTL" not in stream.next()
    lease = replica.lease(A_DAY, keep_alive=False)
    lease.revoke()
    for call in (lease.keys, lease.renew, lease.revoke, lambda: replica.lease(id=4711)):
        with pytest.raises(LeaseNotFound):
            call()


def test_revoking_tells_how_many_keys_went(both: Play, replica: Replica, ask: Any) -> None:
    both.do(Grant(7))
    for key in (b"a", b"b"):
        both.do(Put(key, b"", lease=7))
    assert set(ask("/v3/lease/revoke", {"ID": 7})) == {"header"}
    assert replica.lease(id=7, keep_alive=False).revoke() == 2


def test_a_deletion_tells_that_a_lease_was_over(both: Play, replica: Replica, ask: Any) -> None:
    ask("/v3/lease/grant", {"ID": 7, "TTL": 1})  # which it makes two
    replica.lease(0.2, id=7, keep_alive=False)
    for key in (b"held/a", b"held/b"):
        both.do(Put(key, b"", lease=7))
    watch = Watch(Where(prefix=b"held/"), start_revision=1)
    for store in (both.replkv, both.etcd):
        store.watch(watch).collect(3)
    last = both.touch(watch)
    seen, expected = (store.watch(watch).collect(last) for store in (both.replkv, both.etcd))
    assert isinstance(seen, list)
    assert isinstance(expected, list)
    both_keys_at_one_revision = [("put", 1), ("put", 2), ("delete", 3), ("delete", 3)]
    for events in (seen, expected):
        assert [(event.kind, event.kv.mod_revision) for event in events[:4]] == both_keys_at_one_revision
    assert [event.kv.lease for event in seen[:4]] == [7, 7, 7, 7]
    assert [event.kv.lease for event in expected[:4]] == [7, 7, 0, 0]
    with replica.watch(prefix="held/", start_revision=both.replkv.base + 1) as again:
        told = [event.expired for _ in range(4) if isinstance(event := again.next(timeout=PATIENCE), Event)]
    assert told == [False, False, True, True]


# -- what a store of its own is needed for -----------------------------------------------------------------------------------------


@pytest.fixture
def small(installed: Etcd, tmp_path: Path) -> Iterator[EtcdStore]:
    with running_etcd(installed, tmp_path, quota_backend_bytes="1000000") as server:
        yield EtcdStore(server)


def test_an_empty_store_has_nothing_to_forget(small: EtcdStore) -> None:
    small.call("/v3/kv/compaction", {"revision": 0})
    assert small.revision == 1
    with pytest.raises(EtcdRefusal, match="has been compacted"):
        small.call("/v3/kv/compaction", {"revision": 0})
    with Replica() as replica:
        replica.wait_ready()
        assert replica.revision == 1
        with pytest.raises(Compacted):
            replica.compact(0)


def test_a_full_store_goes_on_by_itself_as_soon_as_there_is_room(small: EtcdStore) -> None:
    value = bytes(100_000)
    put = {"key": to_text(b"a"), "value": to_text(value)}
    with pytest.raises(EtcdRefusal, match="database space exceeded"):
        for _ in range(1000):  # it notices with its next commit to disk, by the clock
            small.call("/v3/kv/put", put)
    deleted = small.call("/v3/kv/deleterange", {"key": to_text(b"a"), "range_end": to_text(FROM_KEY)})
    small.call("/v3/kv/compaction", {"revision": int(deleted["header"]["revision"]), "physical": True})
    small.call("/v3/maintenance/defragment", {})
    with pytest.raises(EtcdRefusal, match="database space exceeded"):
        small.call("/v3/kv/put", put)
    (alarm,) = small.call("/v3/maintenance/alarm", {"action": "GET"})["alarms"]
    small.call("/v3/maintenance/alarm", {"action": "DEACTIVATE", **alarm})
    small.call("/v3/kv/put", put)

    with Replica(settings=Settings(max_bytes=1_000_000)) as replica:
        replica.wait_ready()
        with pytest.raises(QuotaExceeded):
            for _ in range(20):
                replica.put("a", value)
        replica.compact(replica.delete("a").revision)
        replica.put("a", value)
