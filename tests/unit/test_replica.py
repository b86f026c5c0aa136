"""``Replica``: one member in this process, and its life in processes that fork, are interrupted, or end without a word."""

from __future__ import annotations

import gc
import math
import os
import pickle
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest
from eventual import PATIENCE, eventually

from replkv import (
    Add,
    Closed,
    Config,
    Delete,
    DirectoryInUse,
    FutureRevision,
    Get,
    InvariantBroken,
    Key,
    NoLeader,
    NotACounter,
    OutcomeUnknown,
    Put,
    Replica,
    ReplkvError,
    Scan,
    Settings,
    StorageError,
    TooLarge,
    TooManyOps,
    Txn,
    WaitTimeout,
    WrongCluster,
)
from replkv.disk import ForgetfulDisk
from replkv.node import Node

ROOT = Path(__file__).parents[2]
LIMIT = Settings().max_request_bytes


@pytest.fixture
def replica() -> Iterator[Replica]:
    with Replica() as replica:
        replica.wait_ready(PATIENCE)
        yield replica


@pytest.fixture
def stuck(replica: Replica, monkeypatch: pytest.MonkeyPatch) -> Iterator[Replica]:
    """A member that hands writes over but does not sync them until the test is over."""
    replica.put("before", "x")  # so that its session is open
    assert replica._node is not None
    raft = replica._node.raft
    assert raft is not None
    release = threading.Event()
    monkeypatch.setattr(replica._node.log, "sync", lambda real=replica._node.log.sync: release.wait(PATIENCE) and real())
    replica.release = release  # type: ignore[attr-defined]
    yield replica
    release.set()


def lone(tmp_path: Path, **more: Any) -> Replica:
    """One member of three, the others of which nobody has started."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        own = f"127.0.0.1:{probe.getsockname()[1]}"
    return Replica("a", data_dir=tmp_path / "a", cluster={"a": own, "b": "127.0.0.1:1", "c": "127.0.0.1:2"}, **more)


# -- one member -----------------------------------------------------------------------------------------------------------------------


def test_a_member_in_memory_answers_every_call(replica: Replica) -> None:
    assert replica.revision == 1
    assert replica.put("a", b"1") == (2, None)
    assert replica.put(b"a", "2", prev_kv=True).prev_kv == (b"a", b"1", 2, 2, 1, 0)
    found = replica.get("a")
    assert found is not None
    assert (found.key_text, found.text, found.version) == ("a", "2", 2)
    assert replica.get("a", revision=2) == (b"a", b"1", 2, 2, 1, 0)
    assert replica.add("n", 40) == (40, 4)
    assert replica.add("n", delta=2).value == 42
    done = replica.txn(compare=[Key("n").value == "42", Key("z").missing], then=[Put("z", "1"), Get("a")], otherwise=[Get("n")])
    assert done
    assert done.responses == ((6, None), (b"a", b"2", 2, 3, 2, 0))
    scan = replica.scan()
    assert [kv.key for kv in scan] == [b"a", b"n", b"z"]
    assert (len(scan), scan.count, scan.more, scan[0].text) == (3, 3, False, "2")
    assert replica.scan(start="b", end="z", keys_only=True).kvs == ((b"n", b"", 4, 5, 2, 0),)
    assert replica.delete(start="a", end="o").deleted == 2
    assert replica.revision == 7


@pytest.mark.parametrize("consistency", ["linearizable", "lease", "local"])
def test_a_lone_members_reads_see_its_writes_at_every_consistency(replica: Replica, consistency: Any) -> None:
    for number in range(50):
        replica.put("k", str(number))
        found = replica.get("k", consistency=consistency)
        assert found is not None
        assert found.text == str(number)


def test_a_read_only_transaction_changes_nothing(replica: Replica) -> None:
    replica.put("a", "1")
    assert replica.txn(then=[Get("a"), Scan()]).revision == 2
    assert replica.revision == 2
    assert replica._node is not None
    before = replica._node.published.applied
    assert replica.txn(compare=[Key("a").missing], otherwise=[Get("a")]).responses[0].text == "1"
    assert replica._node.published.applied == before


def test_a_directory_keeps_everything_over_restarts(tmp_path: Path) -> None:
    for number in range(5):
        with Replica(data_dir=tmp_path / "deep" / "data") as replica:
            assert replica.add("starts").value == number + 1
            replica.put(f"k{number}", "x" * 1000)
    with Replica(data_dir=str(tmp_path / "deep" / "data")) as replica:
        replica.wait_ready(PATIENCE)
        assert replica.scan(count_only=True).count == 6
        assert replica.revision == 11
    assert os.stat(tmp_path / "deep" / "data").st_mode & 0o777 == 0o700


def test_a_directory_keeps_everything_over_snapshots_and_restarts(tmp_path: Path) -> None:
    config = Config(snapshot_bytes=20_000, segment_bytes=1 << 16, trailing_entries=4)
    for _ in range(3):
        with Replica(data_dir=tmp_path, config=config) as replica:
            for number in range(40):
                replica.put(f"k{number}", os.urandom(700))
                replica.add("n")
    with Replica(data_dir=tmp_path, config=config) as replica:
        assert replica.add("n").value == 121
        assert replica.scan(prefix="k", count_only=True).count == 40
        assert replica.revision == 242
    assert len(list(tmp_path.glob("snapshot-*"))) == 1


def test_writes_from_many_threads_all_count(replica: Replica) -> None:
    def write(name: str) -> None:
        for number in range(100):
            replica.put(f"{name}/{number}", name)
            replica.add("n")

    threads = [threading.Thread(target=write, args=(str(i),)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert replica.add("n", 0).value == 800
    assert replica.scan(consistency="local", count_only=True).count == 801


def test_status_and_members_tell_who_it_is(replica: Replica) -> None:
    status = replica.status()
    assert (status.name, status.state, status.raft_leader, status.voters) == ("replica", "leader", "replica", ("replica",))
    assert replica.ready
    assert [(member.name, member.healthy) for member in replica.members()] == [("replica", True)]
    assert replica.settings() == Settings()
    assert "leader" in repr(replica)


def test_settings_come_from_the_log_and_a_different_wish_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with Replica(data_dir=tmp_path, settings=Settings(max_txn_ops=3)) as replica:
        replica.put("a", "1")
    with Replica(data_dir=tmp_path, settings=Settings(max_txn_ops=9)) as replica:
        assert replica.settings().max_txn_ops == 3
        with pytest.raises(TooManyOps):
            replica.txn(then=[Put(f"k{i}", "1") for i in range(4)])
    assert "max_txn_ops=9" in caplog.text
    assert "max_txn_ops=3" in caplog.text


# -- submit ---------------------------------------------------------------------------------------------------------------------------


def test_many_operations_in_flight_are_all_answered(replica: Replica) -> None:
    futures: list[Future[Any]] = [replica.submit(Put(f"k{i}", str(i))) for i in range(2000)]
    futures += [replica.submit(Add("n")) for _ in range(500)]
    results = [future.result(PATIENCE) for future in futures]
    assert len({result.revision for result in results}) == 2500
    assert sorted(result.value for result in results[2000:]) == list(range(1, 501))
    assert replica.submit(Get("k7")).result(PATIENCE).text == "7"
    assert replica.submit(Scan(prefix="k")).result(PATIENCE).count == 2000
    assert replica.submit(Delete(prefix="k")).result(PATIENCE).deleted == 2000
    assert replica.submit(Txn(then=[Put("a", "1")])).result(PATIENCE).succeeded


def test_a_futures_callback_runs_on_a_thread_of_its_own_and_may_block(replica: Replica) -> None:
    seen: Future[tuple[str, Any]] = Future()
    assert replica._thread is not None

    def callback(future: Future[Any]) -> None:
        try:
            seen.set_result((threading.current_thread().name, replica.put("b", str(future.result().revision))))
        except BaseException as error:  # noqa: BLE001  # for the test to see
            seen.set_exception(error)

    replica.submit(Put("a", "1")).add_done_callback(callback)
    thread, result = seen.result(PATIENCE)
    assert thread not in (replica._thread.name, threading.current_thread().name)
    assert result.revision == 3


def test_a_slow_callback_delays_no_other_caller(replica: Replica) -> None:
    go_on = threading.Event()
    replica.submit(Put("a", "1")).add_done_callback(lambda _: go_on.wait(PATIENCE))
    assert replica.put("b", "2").revision
    assert replica.add("n").value == 1
    go_on.set()


def test_a_callback_that_raises_stops_no_other(replica: Replica) -> None:
    replica.submit(Put("a", "1")).add_done_callback(lambda _: 1 // 0)
    assert replica.submit(Put("b", "1")).result(PATIENCE)


def test_a_refusal_is_the_futures_exception(replica: Replica) -> None:
    replica.put("text", "abc")
    with pytest.raises(NotACounter):
        replica.submit(Add("text")).result(PATIENCE)
    with pytest.raises(FutureRevision):
        replica.submit(Get("text", revision=99)).result(PATIENCE)


def test_what_was_handed_over_cannot_be_cancelled_and_says_so(stuck: Any) -> None:
    future = stuck.submit(Put("a", "1"))
    assert not future.cancel()
    stuck.release.set()
    assert future.result(PATIENCE)


@pytest.mark.parametrize("nonsense", ["x", None, Put, Key("a").missing, (1, b"a", b"b", False)])
def test_what_is_no_operation_never_gets_into_the_log(replica: Replica, nonsense: Any) -> None:
    with pytest.raises(TypeError, match="Put, Get, Scan, Delete, Add or Txn"):
        replica.submit(nonsense)
    assert replica.put("still", "alive")


def test_a_future_that_comes_too_late_for_the_notifier_is_settled(replica: Replica, monkeypatch: pytest.MonkeyPatch) -> None:
    node = replica._node
    replica.close()
    monkeypatch.setattr(replica, "_running", lambda: node)  # as if it had looked a moment earlier
    for operation in (Put("a", "1"), Get("a")):
        with pytest.raises(Closed):
            replica.submit(operation).result(PATIENCE)


# -- timeouts -------------------------------------------------------------------------------------------------------------------------


def test_a_member_alone_of_three_names_the_unreachable(tmp_path: Path) -> None:
    with lone(tmp_path, config=Config(timeout=0.1)) as replica:
        calls: list[Callable[[], object]] = [
            lambda: replica.put("a", "1"),
            lambda: replica.get("a", timeout=0.05),
            lambda: replica.scan(timeout=0),
            lambda: replica.submit(Put("a", "1")).result(PATIENCE),
            lambda: replica.submit(Get("a")).result(PATIENCE),
        ]
        for call in calls:
            with pytest.raises(NoLeader, match=r"b at tcp://127\.0\.0\.1:1 .*c at tcp://127\.0\.0\.1:2") as caught:
                call()
            assert caught.value.unreachable == ("b", "c")
            assert isinstance(caught.value, TimeoutError)
            assert pickle.loads(pickle.dumps(caught.value)).unreachable == ("b", "c")
        with pytest.raises(WaitTimeout, match="b at"):
            replica.wait_ready(0.05)
        assert not replica.ready
        assert replica.get("a", consistency="local") is None
        assert replica._node is not None
        assert not replica._node.proposals._queue, "what was given up is left behind"
        assert not replica._node.reads.waiting, "what was given up is left behind"


def test_an_unknown_outcome_can_be_waited_for(stuck: Any) -> None:
    with pytest.raises(OutcomeUnknown) as caught:
        stuck.put("a", "1", timeout=0.05)
    assert isinstance(caught.value, TimeoutError)
    with pytest.raises(OutcomeUnknown) as again:
        caught.value.wait(0.05)
    stuck.release.set()
    assert again.value.wait(PATIENCE).revision == caught.value.wait(PATIENCE).revision == 3
    assert stuck.get("a").version == 1


def test_the_unknown_outcome_of_a_future_can_be_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    with Replica(config=Config(timeout=0.2)) as replica:
        replica.put("before", "x")
        release = threading.Event()
        assert replica._node is not None
        monkeypatch.setattr(replica._node.log, "sync", lambda real=replica._node.log.sync: release.wait(PATIENCE) and real())
        future = replica.submit(Add("n"))
        error = future.exception(PATIENCE)
        assert isinstance(error, OutcomeUnknown)
        with pytest.raises(OutcomeUnknown) as again:
            error.wait(0.05)
        release.set()
        assert again.value.wait(PATIENCE) == error.wait(PATIENCE) == (1, 3)


@pytest.mark.parametrize(("timeout", "error"), [("x", TypeError), (True, TypeError), (-1, ValueError), (float("nan"), ValueError)])
def test_a_wrong_timeout_of_a_wait_for_an_unknown_outcome_is_refused(stuck: Any, timeout: Any, error: type[Exception]) -> None:
    """A negative one waited for ever."""
    with pytest.raises(OutcomeUnknown) as caught:
        stuck.put("a", "1", timeout=0.05)
    with pytest.raises(error, match="timeout must be"):
        caught.value.wait(timeout)


def test_a_wrong_timeout_of_a_wait_for_the_unknown_outcome_of_a_future_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with Replica(config=Config(timeout=0.1)) as replica:
        replica.put("before", "x")
        release = threading.Event()
        log = replica._running().log
        monkeypatch.setattr(log, "sync", lambda real=log.sync: release.wait(PATIENCE) and real())
        error = replica.submit(Put("a", "1")).exception(PATIENCE)
        assert isinstance(error, OutcomeUnknown)
        with pytest.raises(ValueError, match="timeout must be at least 0"):
            error.wait(-1)
        with pytest.raises(TypeError, match="timeout must be seconds"):
            error.wait("x")  # type: ignore[arg-type]
        release.set()
        assert error.wait(PATIENCE).revision == 3


def test_an_argument_that_there_is_none_of_is_refused_in_the_name_of_what_was_called() -> None:
    with pytest.raises(TypeError, match=r"^Replica\.__init__\(\) got an unexpected keyword argument 'timeout'"):
        Replica(timeout=3)  # type: ignore[call-arg]


def test_a_pickled_unknown_outcome_cannot_be_waited_for(stuck: Any) -> None:
    with pytest.raises(OutcomeUnknown) as caught:
        stuck.put("a", "1", timeout=0.05)
    with pytest.raises(OutcomeUnknown):
        pickle.loads(pickle.dumps(caught.value)).wait(1.0)


# -- the end --------------------------------------------------------------------------------------------------------------------------


def test_calls_after_close_say_so(replica: Replica) -> None:
    replica.close()
    calls: list[Callable[[], object]] = [
        lambda: replica.put("a", "1"),
        lambda: replica.get("a", consistency="local"),
        lambda: replica.submit(Put("a", "1")),
        lambda: replica.wait_ready(1),
        lambda: replica.revision,
        replica.members,
        replica.settings,
    ]
    for call in calls:
        with pytest.raises(Closed, match="replica is closed"):
            call()
    assert replica.status().state == "closed"
    assert not replica.ready
    assert replica.failure is None
    replica.close()


def test_closing_from_several_threads_waits_for_the_end_in_each(tmp_path: Path) -> None:
    replica = Replica(data_dir=tmp_path)
    replica.put("a", "1")
    failures: list[BaseException] = []

    def close_and_reopen() -> None:
        try:
            replica.close()
            assert replica._node is not None
            assert replica._node.stopped
        except BaseException as error:  # noqa: BLE001  # for the test to see
            failures.append(error)

    threads = [threading.Thread(target=close_and_reopen) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    assert not failures
    Replica(data_dir=tmp_path).close()


def test_close_ends_those_who_wait(tmp_path: Path) -> None:
    replica = lone(tmp_path)
    outcomes: list[object] = []

    def wait(call: Callable[[], object]) -> None:
        try:
            outcomes.append(call())
        except ReplkvError as error:
            outcomes.append(type(error))

    calls: list[Callable[[], object]] = [
        lambda: replica.put("a", "1", timeout=None),
        lambda: replica.get("a", timeout=None),
        replica.wait_ready,
        lambda: replica.submit(Put("a", "1")).result(PATIENCE),
    ]
    threads = [threading.Thread(target=wait, args=(call,)) for call in calls]
    for thread in threads:
        thread.start()
    assert replica._node is not None
    node = replica._node
    eventually(lambda: len(node.proposals._queue) == 2 and len(node.reads._waiting) == 2)
    began = time.monotonic()
    replica.close()
    for thread in threads:
        thread.join(PATIENCE)
    assert outcomes == [Closed] * 4
    assert time.monotonic() - began < 3


def test_close_does_not_wait_for_a_stuck_disk_longer_than_told(stuck: Any) -> None:
    future = stuck.submit(Put("a", "1"))
    node = stuck._node
    eventually(lambda: not node.proposals._queue)
    began = time.monotonic()
    stuck.close(0.2)
    assert time.monotonic() - began < 2
    assert isinstance(future.exception(PATIENCE), OutcomeUnknown), "nobody is left who could answer it"
    stuck.release.set()


@pytest.mark.parametrize("timeout", ["1", None, True])
def test_a_bad_timeout_of_close_closes_nothing(replica: Replica, timeout: Any) -> None:
    with pytest.raises(TypeError):
        replica.close(timeout)
    assert replica.put("a", "1")


FORGETFUL = """
import sys, warnings
from replkv import Replica
warnings.simplefilter("ignore")
sys.setswitchinterval(0.0005)
cluster = {f"m{i}": f"ipc://{sys.argv[1]}/m{i}.socket" for i in range(6)}
for name in cluster:
    Replica(name, data_dir=f"{sys.argv[1]}/{name}", cluster=cluster)  # each is forgotten when the next one is there
"""


def test_members_that_were_forgotten_were_still_closing_when_nng_ended_under_them(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", FORGETFUL, str(tmp_path)], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, "Traceback" in done.stderr) == (0, False), done.stderr


def test_a_member_that_is_forgotten_ends_by_itself_and_warns() -> None:
    before = {thread for thread in threading.enumerate() if thread.name.startswith("replkv")}
    with pytest.warns(ResourceWarning, match="was not closed"):
        replica = Replica()
        future = replica.submit(Put("a", "1"))
        del replica
        gc.collect()
        future.exception(PATIENCE)
    eventually(lambda: {thread for thread in threading.enumerate() if thread.name.startswith("replkv")} <= before)


def test_members_that_come_and_go_leave_no_threads_and_no_descriptors() -> None:
    Replica().close()
    threads, descriptors = threading.active_count(), len(os.listdir("/proc/self/fd"))
    for _ in range(10):
        with Replica() as replica:
            replica.put("a", "1")
    eventually(lambda: threading.active_count() <= threads)
    assert len(os.listdir("/proc/self/fd")) <= descriptors


def test_a_failed_disk_stops_the_member_and_is_named_by_every_later_call(replica: Replica, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise StorageError("the disk: cannot sync")

    replica.put("a", "1")
    assert replica._node is not None
    monkeypatch.setattr(replica._node.log, "sync", fail)
    with pytest.raises((OutcomeUnknown, StorageError)):
        replica.put("a", "2")
    for call in (lambda: replica.put("a", "3"), lambda: replica.get("a", consistency="local"), lambda: replica.submit(Get("a"))):
        with pytest.raises(StorageError, match="cannot sync"):
            call()
    assert isinstance(replica.failure, StorageError)
    assert replica.status().state == "failed"
    assert "cannot sync" in replica.status().failure


def test_after_a_restart_entries_are_handed_out_a_few_at_a_time_and_without_a_pause(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first turn that knew what was decided unpacked all of it at once, and took a second for half a million entries."""
    with Replica(data_dir=tmp_path) as replica:
        for n in range(50):
            replica.put("a", str(n))
    monkeypatch.setattr("replkv.node.AHEAD", 1)
    monkeypatch.setattr("replkv.node.APPLY_SLICE", -1.0)
    turn = Node.turn
    waiting: set[tuple[int, float]] = set()

    def watched(self: Node, timeout: float | None = None) -> None:
        turn(self, timeout)
        if self.raft is not None and self.raft.handed_out < self.raft.commit:
            waiting.add((len(self._to_apply), self.deadline))

    monkeypatch.setattr(Node, "turn", watched)
    with Replica(data_dir=tmp_path) as replica:
        replica.wait_ready(PATIENCE)
        found = replica.get("a", timeout=PATIENCE)
    assert found is not None
    assert found.value == b"49"
    assert waiting == {(0, -math.inf)}, "what was handed out is applied in the same turn; there is none after which it sleeps"


def test_a_broken_invariant_stops_the_member_and_the_process_goes_on(replica: Replica, monkeypatch: pytest.MonkeyPatch) -> None:
    def take(*_: object) -> None:
        raise InvariantBroken("two lead term 1")

    replica.put("a", "1")
    assert replica._node is not None
    monkeypatch.setattr(replica._node.raft, "take", take)
    with pytest.raises((OutcomeUnknown, InvariantBroken), match="two lead term 1"):
        replica.put("a", "2", timeout=PATIENCE)
    for call in (lambda: replica.put("a", "3"), lambda: replica.get("a", consistency="local"), lambda: replica.submit(Get("a"))):
        with pytest.raises(InvariantBroken, match="two lead term 1"):
            call()
    assert isinstance(replica.failure, InvariantBroken)
    assert replica.status().state == "failed"
    with Replica() as another:  # the process is none the worse for it
        assert another.put("a", "1").revision == 2


def test_an_error_while_it_looks_for_its_next_deadline_hangs_nobody(replica: Replica, monkeypatch: pytest.MonkeyPatch) -> None:
    assert replica._node is not None

    def broken(_: object) -> float:
        raise RuntimeError("no deadline")

    monkeypatch.setattr(type(replica._node), "deadline", property(broken))
    with pytest.raises(ReplkvError):
        while True:
            replica.put("a", "1", timeout=None)
    assert "no deadline" in str(replica.failure)


# -- bad input ------------------------------------------------------------------------------------------------------------------------

THREE = {"a": "127.0.0.1:7431", "b": "127.0.0.1:7432", "c": "127.0.0.1:7433"}


@pytest.mark.parametrize(
    ("arguments", "kind", "says"),
    [
        ({"name": 1}, TypeError, "name must be a str"),
        ({"name": ""}, ValueError, "letters, digits"),
        ({"name": "../a"}, ValueError, "letters, digits"),
        ({"name": "z", "cluster": THREE}, ValueError, "'z' is not among a, b, c"),
        ({"cluster": THREE, "data_dir": None}, ValueError, "data_dir="),
        ({"cluster": list(THREE)}, TypeError, "map names to addresses"),
        ({"cluster": {}}, ValueError, "name every member"),
        ({"cluster": {**THREE, **{f"m{n}": f"127.0.0.1:{n + 1}" for n in range(62)}}}, ValueError, "65 members, and at most 64"),
        ({"cluster": {**THREE, "b": 7432}}, TypeError, "address is a str"),
        ({"cluster": {5: "127.0.0.1:7435", "a": "127.0.0.1:7431"}}, TypeError, "name must be a str"),
        ({"cluster": {**THREE, "b": "127.0.0.1:99999"}}, ValueError, "0 to 65535"),
        ({"cluster": {**THREE, "b": "http://x"}}, ValueError, "tcp://"),
        ({"cluster": {**THREE, "b": "127.0.0.1:0"}}, ValueError, "dial"),
        ({"cluster": {**THREE, "b": "*:7432"}}, ValueError, "dial"),
        ({"cluster": {**THREE, "b": "127.0.0.1:7431"}}, ValueError, "one address"),
        ({"cluster": {**THREE, "a": "192.0.2.1:7431"}}, ValueError, "insecure=True"),
        ({"cluster": THREE, "listen": "0.0.0.0"}, ValueError, "insecure=True"),
        ({"cluster": THREE, "listen": "*:7431"}, ValueError, "insecure=True"),
        ({"cluster": THREE, "listen": "192.0.2.1:7431", "insecure": True}, ValueError, "no address of this machine"),
        ({"cluster": THREE, "listen": "no.such.name.invalid", "insecure": True}, ValueError, "can't be resolved"),
        ({"cluster": THREE, "listen": "ipc:///no/such/directory/socket"}, ValueError, "does not exist"),
        ({"cluster": THREE, "listen": 7431}, TypeError, "address is a str"),
        ({"cluster": THREE, "advertise": ""}, ValueError, "host:port"),
        ({"listen": "*:7431"}, ValueError, "say in advertise= where a is reached"),
        ({"listen": "192.0.2.1:7431"}, ValueError, "insecure=True"),
        ({"join": ["127.0.0.1:7432"], "cluster": THREE}, ValueError, "not both"),
        ({"join": "127.0.0.1:7432", "listen": "127.0.0.1:7431"}, TypeError, "join must be a list of addresses"),
        ({"join": 5, "listen": "127.0.0.1:7431"}, TypeError, "join must be a list of addresses"),
        ({"join": [5], "listen": "127.0.0.1:7431"}, TypeError, "address is a str"),
        ({"join": [], "listen": "127.0.0.1:7431"}, ValueError, "address of one member at least"),
        ({"join": ["*:7432"], "listen": "127.0.0.1:7431"}, ValueError, "can be dialled"),
        ({"join": ["127.0.0.1:7432"]}, ValueError, "needs listen= or advertise="),
        ({"join": ["127.0.0.1:7432"], "listen": "*:7431"}, ValueError, "say in advertise="),
        ({"join": ["127.0.0.1:7432"], "listen": "127.0.0.1:7431", "data_dir": None}, ValueError, "data_dir="),
        ({"join": ["127.0.0.1:7432"], "listen": "192.0.2.1:7431"}, ValueError, "insecure=True"),
        ({"learner": True}, ValueError, "needs join="),
        ({"learner": 1, "join": ["127.0.0.1:7432"], "listen": "127.0.0.1:7431"}, TypeError, "learner must be a bool"),
        ({"data_dir": 5}, TypeError, "data_dir must be"),
        ({"data_dir": b"data"}, TypeError, "data_dir must be"),
        ({"data_dir": ""}, ValueError, "data_dir must name"),
        ({"data_dir": "a\0b"}, ValueError, "data_dir must name"),
        ({"config": {}}, TypeError, "config must be a Config"),
        ({"settings": Config()}, TypeError, "settings must be a Settings"),
    ],
)
def test_bad_arguments_are_refused_before_anything_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: dict[str, Any], kind: type[Exception], says: str
) -> None:
    monkeypatch.chdir(tmp_path)
    threads, descriptors = threading.active_count(), len(os.listdir("/proc/self/fd"))
    with pytest.raises(kind, match=says):
        Replica(**{"name": "a", "data_dir": tmp_path / "data", **arguments})
    assert not list(tmp_path.iterdir())
    assert (threading.active_count(), len(os.listdir("/proc/self/fd"))) == (threads, descriptors)


def test_a_taken_address_is_refused_before_anything_changes(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        cluster = {**THREE, "a": f"127.0.0.1:{taken.getsockname()[1]}"}
        with pytest.raises(ValueError, match="another process has it"):
            Replica("a", data_dir=tmp_path / "data", cluster=cluster)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("path", ["file", "file/below"])
def test_a_directory_that_cannot_be_one_is_refused(tmp_path: Path, path: str) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(StorageError, match="file"):
        Replica(data_dir=tmp_path / path)
    assert [p.name for p in tmp_path.iterdir()] == ["file"]
    assert (tmp_path / "file").read_text() == "mine"


def test_a_directory_in_use_is_refused_also_in_the_same_process(tmp_path: Path) -> None:
    with Replica(data_dir=tmp_path) as replica:
        node = replica._node
        assert node is not None
        eventually(lambda: not node.log.unprepared and not node._preparing)  # the housekeeper opens files of its own
        descriptors = len(os.listdir("/proc/self/fd"))
        with pytest.raises(DirectoryInUse, match=str(tmp_path)):
            Replica(data_dir=tmp_path)
        assert len(os.listdir("/proc/self/fd")) == descriptors
        assert replica.put("a", "1")


def test_a_running_member_started_again_hears_of_its_directory_not_of_its_address(tmp_path: Path) -> None:
    with lone(tmp_path) as replica, pytest.raises(DirectoryInUse):
        Replica("a", data_dir=tmp_path / "a", cluster=replica._addresses)


def test_a_directory_of_another_name_is_refused_with_both(tmp_path: Path) -> None:
    Replica("one", data_dir=tmp_path).close()
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.name != "lock"}
    with pytest.raises(WrongCluster, match=r"'one'.*'two'"):
        Replica("two", data_dir=tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.name != "lock"} == before


@pytest.mark.parametrize(
    ("call", "kind"),
    [
        (lambda r: r.put(1, "v"), TypeError),
        (lambda r: r.put("", "v"), ValueError),
        (lambda r: r.put(bytearray(b"k"), "v"), TypeError),
        (lambda r: r.put("k", None), TypeError),
        (lambda r: r.put("k", 5), TypeError),
        (lambda r: r.put("k", b"x" * LIMIT), TooLarge),
        (lambda r: r.put("k" * (LIMIT + 1), ""), TooLarge),
        (lambda r: r.txn(then=[Put("a", b"x" * LIMIT)]), TooLarge),
        (lambda r: r.submit(Put("k", b"x" * LIMIT)), TooLarge),
        (lambda r: r.get("k", consistency="strong"), ValueError),
        (lambda r: r.scan(consistency=None), ValueError),
        (lambda r: r.get("k", revision=-1), ValueError),
        (lambda r: r.get("k", revision="1"), TypeError),
        (lambda r: r.scan(limit=-1), ValueError),
        (lambda r: r.scan(end="b"), ValueError),
        (lambda r: r.scan("k", prefix="k"), ValueError),
        (lambda r: r.delete(), ValueError),
        (lambda r: r.delete(prefix=""), ValueError),
        (lambda r: r.delete(end="b"), ValueError),
        (lambda r: r.add("k", 1.5), TypeError),
        (lambda r: r.add("k", True), TypeError),
        (lambda r: r.add("k", 1 << 63), ValueError),
        (lambda r: r.txn(then=["put"]), TypeError),
        (lambda r: r.txn(compare=[True]), TypeError),
        (lambda r: r.txn(then=[Put(f"k{i}", "") for i in range(129)]), TooManyOps),
        (lambda r: r.txn(compare=[Key("k").version > 0 and Key("k").version < 3]), TypeError),
        (lambda r: r.put("k", "v", timeout="1"), TypeError),
        (lambda r: r.put("k", "v", timeout=-1), ValueError),
        (lambda r: r.put("k", "v", timeout=float("nan")), ValueError),
        (lambda r: r.get("k", consistency="local", timeout="1"), TypeError),
        (lambda r: r.wait_ready(-1), ValueError),
    ],
)
def test_bad_calls_are_refused_before_anything_is_sent(replica: Replica, call: Callable[[Replica], object], kind: type[Exception]) -> None:
    assert replica._node is not None
    applied = replica._node.published.applied
    with pytest.raises(kind):
        call(replica)
    assert not replica._node.proposals._queue
    assert (replica._node.published.applied, replica.revision) == (applied, 1)


def test_a_request_of_exactly_the_limit_is_taken(replica: Replica) -> None:
    assert replica.put("k", b"x" * (LIMIT - 1))
    with pytest.raises(TooLarge):
        replica.put("kk", b"x" * (LIMIT - 1))


# -- the environment ------------------------------------------------------------------------------------------------------------------


def test_it_can_be_built_from_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REPLKV_NAME", "a")
    monkeypatch.setenv("REPLKV_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("REPLKV_CLUSTER", "a=127.0.0.1:7441, b=127.0.0.1:7442")
    monkeypatch.setenv("REPLKV_LISTEN", "ipc://" + str(tmp_path / "s"))
    with Replica.from_env(config=Config(timeout=0.05)) as replica:
        assert replica.name == "a"
        with pytest.raises(NoLeader, match="b at tcp://127.0.0.1:7442"):
            replica.put("k", "v")
    monkeypatch.setenv("REPLKV_CLUSTER", "a")
    with pytest.raises(ValueError, match="REPLKV_CLUSTER"):
        Replica.from_env()


def test_the_environment_says_where_clients_are_served_unless_the_config_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REPLKV_CLIENTS", "127.0.0.1:0")
    with Replica.from_env() as first, Replica.from_env(config=Config(timeout=2.5)) as second:
        assert first._config == Config(clients="127.0.0.1:0")
        assert second._config == Config(clients="127.0.0.1:0", timeout=2.5)
    own = Config(clients="127.0.0.2:0")
    with Replica.from_env(config=own) as third:
        assert third._config is own
    with pytest.raises(TypeError, match="config must be a Config"):
        Replica.from_env(config="none")
    monkeypatch.setenv("REPLKV_CLIENTS", "ipc:///tmp/clients")
    with pytest.raises(ValueError, match="REPLKV_CLIENTS: .* must be host:port"):
        Replica.from_env()


def test_the_environment_says_how_much_a_member_is_wanted_as_leader(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REPLKV_PRIORITY", "5")
    with Replica.from_env() as first, Replica.from_env(config=Config(priority=7)) as second:
        assert (first._config.priority, second._config.priority) == (5, 7)
    for wrong in ("high", "-1"):
        monkeypatch.setenv("REPLKV_PRIORITY", wrong)
        with pytest.raises(ValueError, match="REPLKV_PRIORITY: "):
            Replica.from_env()


# -- processes ------------------------------------------------------------------------------------------------------------------------

PRELUDE = """
import os, signal, sys, threading, time, warnings
from replkv import *
"""


def run(program: str, *, status: int = 0, warnings: str = "error") -> str:
    """Run a program in a process of its own, and return what it printed; it must not complain."""
    done = subprocess.run(
        [sys.executable, "-W", warnings, "-c", PRELUDE + program],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert (done.returncode, done.stderr) == (status, "")
    return done.stdout


def test_a_process_that_ends_without_close_ends_quickly_and_keeps_what_was_acknowledged(tmp_path: Path) -> None:
    began = time.monotonic()
    run(f"replica = Replica(data_dir={str(tmp_path)!r}); replica.put('a', '1'); replica.submit(Put('b', '2')).result(5)")
    assert time.monotonic() - began < 10
    with Replica(data_dir=tmp_path) as replica:
        assert replica.scan().count == 2


def test_a_process_with_an_open_asyncio_member_ends_quickly() -> None:
    run("""
import asyncio
async def main():
    global replica
    replica = await AsyncReplica().open()
    await replica.put("a", "1")
asyncio.run(main())
""")


def test_a_process_that_ends_while_threads_wait_ends_quickly() -> None:
    run("""
cluster = {"a": "ipc:///tmp/replkv-test-%d" % os.getpid(), "b": "127.0.0.1:1"}
import tempfile
replica = Replica("a", data_dir=tempfile.mkdtemp(), cluster=cluster)
def wait():
    try:
        replica.put("a", "1", timeout=None)
    except Closed:
        pass
threading.Thread(target=wait, daemon=True).start()
while not replica._node.proposals._queue:
    time.sleep(0.001)
""")


def test_a_member_in_memory_holds_its_state_once() -> None:
    """Its log and its snapshots were kept as well, which nobody can ever read."""
    with Replica(config=Config(snapshot_bytes=50_000, segment_bytes=1 << 16)) as replica:
        for number in range(300):
            replica.put(f"key{number}", os.urandom(1000))
        node = replica._running()
        eventually(lambda: node.log.snapshot is not None and not node.snapshots.taking)
        assert isinstance(node.disk, ForgetfulDisk)
        assert sum(len(content) for _, content in node.disk._files.values()) == 0
        with pytest.raises(StorageError, match="data_dir="):
            node.disk.read(node.disk.list()[0], 0, 10)
        assert replica.scan().count == 300


def test_ctrl_c_interrupts_a_blocked_put_and_leaves_nothing_behind(tmp_path: Path) -> None:
    printed = run(
        f"""
replica = Replica("a", data_dir={str(tmp_path / "a")!r}, cluster={{"a": "ipc://{tmp_path}/s", "b": "127.0.0.1:1"}})
def interrupt():
    while not replica._node.proposals._queue:
        time.sleep(0.001)
    os.kill(os.getpid(), signal.SIGINT)
threading.Thread(target=interrupt).start()
try:
    replica.put("a", "1", timeout=None)
except KeyboardInterrupt:
    print("interrupted", len(replica._node.proposals._queue))
replica.close()
"""
    )
    assert printed == "interrupted 0\n"


def test_ctrl_c_ends_a_blocked_put_whenever_it_comes(tmp_path: Path) -> None:
    """A signal just before the wait began did not end it, and one while the call was handed over left it in the queue."""
    printed = run(
        f"""
replica = Replica("a", data_dir={str(tmp_path / "a")!r}, cluster={{"a": "ipc://{tmp_path}/s", "b": "127.0.0.1:1"}})
proposals = replica._node.proposals
def interrupt():
    while not proposals._queue:
        pass
    os.kill(os.getpid(), signal.SIGINT)
left = 0
for _ in range(100):
    thread = threading.Thread(target=interrupt)
    thread.start()
    try:
        replica.put("a", "1", timeout=None)
    except KeyboardInterrupt:
        left += len(proposals._queue) + proposals.admission.commands
    thread.join()
print(left)
replica.close()
"""
    )
    assert printed == "0\n"


def test_ctrl_c_that_nobody_catches_ends_the_process_as_it_should(tmp_path: Path) -> None:
    program = f"""
replica = Replica("a", data_dir={str(tmp_path / "a")!r}, cluster={{"a": "ipc://{tmp_path}/s", "b": "127.0.0.1:1"}})
print("open", flush=True)
replica.get("a", timeout=None)
"""
    command = [sys.executable, "-W", "error", "-c", PRELUDE + program]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "open\n"
        process.send_signal(signal.SIGINT)
        _, complaints = process.communicate(timeout=30)
    assert process.returncode == -signal.SIGINT
    assert complaints.rstrip().endswith("KeyboardInterrupt")
    assert complaints.count("Traceback") == 1


FORKED = """
replica = Replica()
replica.put("a", "1")
child = os.fork()
if child == 0:
    assert not replica.ready
    for call in (lambda: replica.put("a", "2"), lambda: replica.get("a"), lambda: replica.get("a", consistency="local"),
                 lambda: replica.submit(Put("a", "2")), lambda: replica.wait_ready(1), lambda: replica.revision, Replica, AsyncReplica):
        try:
            call()
        except ForkedProcess as error:
            assert "after the fork" in str(error)
        else:
            os._exit(9)
    ENDING
else:
    _, status = os.waitpid(child, 0)
    assert replica.get("a").text == "1"
    replica.close()
    sys.exit(os.waitstatus_to_exitcode(status))
"""


@pytest.mark.parametrize("ending", ["pass", "replica.close()", "sys.exit(0)", "del replica", "with replica: pass"])
def test_a_forked_child_is_told_and_ends_normally(ending: str) -> None:
    run(FORKED.replace("ENDING", ending), warnings="error")


def test_a_child_of_multiprocessing_is_told_and_ends_normally() -> None:
    run("""
import multiprocessing
def work(queue):
    try:
        replica.put("a", "2")
    except ForkedProcess:
        queue.put("told")
if __name__ == "__main__":
    replica = Replica()
    replica.put("a", "1")
    context = multiprocessing.get_context("fork")
    queue = context.SimpleQueue()
    process = context.Process(target=work, args=(queue,))
    process.start()
    assert queue.get() == "told"
    process.join(20)
    assert process.exitcode == 0
    assert replica.put("a", "3").revision == 3
    replica.close()
""")


def test_a_child_forked_before_may_open_its_own() -> None:
    run("""
child = os.fork()
with Replica() as replica:
    replica.put("a", "1")
if child:
    sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
""")
