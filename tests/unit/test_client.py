"""``Client`` and ``AsyncClient``: the calls of a ``Replica`` over a socket, to a real member."""

from __future__ import annotations

import asyncio
import gc
import inspect
import multiprocessing
import threading
import warnings
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from eventual import PATIENCE, eventually

import replkv
from replkv import (
    Add,
    AsyncClient,
    AsyncReplica,
    Client,
    Closed,
    Compacted,
    Config,
    Conflict,
    Delete,
    Event,
    ForkedProcess,
    FutureRevision,
    Get,
    Key,
    KeyValue,
    LeaseExists,
    LeaseNotFound,
    NoLeader,
    NotACounter,
    OutcomeUnknown,
    Overloaded,
    Progress,
    Put,
    Replica,
    Settings,
    Synced,
    TooLarge,
    TooStale,
    WaitTimeout,
    aio,
    connect,
)
from replkv.client import _checked_targets

FAST = Settings(heartbeat=0.05, promise=0.1, election_timeout=0.5)
SHORT = 0.3


@pytest.fixture
def replica(tmp_path: Path) -> Iterator[Replica]:
    with Replica("a", data_dir=tmp_path / "data", settings=FAST) as replica:
        replica.wait_ready(PATIENCE)
        yield replica


@pytest.fixture
def client(replica: Replica, tmp_path: Path) -> Iterator[Client]:
    with connect(tmp_path / "data") as client:
        yield client


def run(target: Path, test: Callable[[AsyncClient], Awaitable[None]]) -> None:
    async def main() -> None:
        async with aio.connect(target) as client:
            await asyncio.wait_for(test(client), PATIENCE)

    asyncio.run(main())


# -- the same calls -------------------------------------------------------------------------------------------------------------------


def test_a_client_has_the_calls_of_a_replica() -> None:
    of_members_only = {"as_user", "from_env", "leave", "metrics"}
    for client, replica in ((Client, Replica), (AsyncClient, AsyncReplica)):
        public = {name for name in dir(replica) if not name.startswith("_")} - of_members_only
        assert public <= {name for name in dir(client) if not name.startswith("_")}
        for name in public - {"status", "members", "close", "open", "failure", "name", "ready"}:
            assert getattr(client, name) is getattr(replica, name), "one definition of each call"
    assert inspect.signature(connect).parameters == inspect.signature(aio.connect).parameters


def test_writes_and_reads_are_those_of_the_member(client: Client, replica: Replica) -> None:
    assert client.put("a", "1") == (2, None)
    assert client.put("a", "2", prev_kv=True).prev_kv == KeyValue(b"a", b"1", 2, 2, 1)
    assert client.add("n", 5).value == 5
    assert client.txn(compare=[Key("a").value == "2"], then=[Put("b", "3"), Get("a")]).succeeded
    assert client.delete("b").deleted == 1
    for consistency in ("linearizable", "lease", "local"):
        found = client.get("a", consistency=consistency)
        assert found == replica.get("a")
        assert client.scan(consistency=consistency) == replica.scan()
    assert client.get("a", revision=2) == KeyValue(b"a", b"1", 2, 2, 1)
    assert client.get("a", consistency="local", max_staleness=10.0, min_revision=client.revision) == replica.get("a")
    assert client.revision == replica.revision == 6
    assert client.scan(prefix="a", limit=1, keys_only=True).kvs[0].value == b""
    assert client.submit(Put("f", "1")).result(PATIENCE).revision == 7
    assert client.submit(Get("f")).result(PATIENCE) == replica.get("f")
    app = client.namespace("app/")
    app.put("k", "v")
    assert replica.get("app/k") == KeyValue(b"app/k", b"v", 8, 8, 1)
    assert app.get("k") == KeyValue(b"k", b"v", 8, 8, 1)
    mapping = app.mapping("m/", codec="json")
    mapping["x"] = {"y": 1}
    assert mapping["x"] == {"y": 1}


def test_it_tells_of_its_member(client: Client, replica: Replica) -> None:
    assert client.status() == replica.status()
    assert client.members() == replica.members()
    assert client.settings() == FAST
    assert client.name == "a"
    client.wait_ready(PATIENCE)
    client.wait_ready(0)
    assert client.ready
    assert client.failure is None
    assert "connected" in repr(client)


@pytest.mark.parametrize(
    ("call", "error"),
    [
        (lambda r: r.put("a", "2", if_mod_revision=0), Conflict),
        (lambda r: r.get("a", revision=99), FutureRevision),
        (lambda r: r.get("a", revision=1), Compacted),
        (lambda r: r.add("a"), NotACounter),
        (lambda r: r.put("a", "1", lease=99), LeaseNotFound),
        (lambda r: r.lease(5, id=7), LeaseExists),
        (lambda r: r.put("a", b"x" * 2_000_000), TooLarge),
        (lambda r: r.get("a", consistency="local", min_revision=99, timeout=0.1), TooStale),
        (lambda r: r.put("a", "1", ttl=0.0001), ValueError),
        (lambda r: r.put(5, "1"), TypeError),
        (lambda r: r.watch(start_revision=1).next(PATIENCE), Compacted),
        (lambda r: r.view("v/").wait(99, 0.1), WaitTimeout),
    ],
)
def test_the_errors_are_those_of_a_member(client: Client, replica: Replica, call: Callable[[Any], object], error: type[Exception]) -> None:
    replica.put("a", "x")
    replica.put("a", "x")
    replica.compact(3)
    replica.lease(60, id=7)
    with pytest.raises(error) as at_the_member:
        call(replica)
    with pytest.raises(error) as here:
        call(client)
    assert type(here.value) is type(at_the_member.value)
    if error not in (TooStale, WaitTimeout):
        assert here.value.args == at_the_member.value.args
        assert vars(here.value) == vars(at_the_member.value)


def test_large_answers_come_in_parts_and_whole(client: Client, replica: Replica) -> None:
    for number in range(8):
        replica.put(f"k{number}", bytes([number]) * 1_000_000)
    assert client.scan() == replica.scan()
    watch = client.watch(initial=True)
    assert [event.value for event in (watch.next(PATIENCE) for _ in range(8))] == [kv.value for kv in replica.scan()]  # type: ignore[union-attr]


def test_many_threads_share_a_client(client: Client) -> None:
    def count() -> None:
        for _ in range(50):
            client.add("n")

    threads = [threading.Thread(target=count) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    assert client.add("n").value == 401


def hold_syncs(replica: Replica, monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Let the member hand writes over, but not sync them until the event is set."""
    log, release = replica._running().log, threading.Event()
    monkeypatch.setattr(log, "sync", lambda real=log.sync: release.wait(PATIENCE) and real())
    return release


def test_a_write_whose_outcome_is_unknown_can_be_waited_for(client: Client, replica: Replica, monkeypatch: pytest.MonkeyPatch) -> None:
    client.put("k", "1")
    release = hold_syncs(replica, monkeypatch)
    with pytest.raises(OutcomeUnknown, match=r"a client of a: the write was handed over.*wait\(\)") as caught:
        client.put("k", "2", timeout=0.1)
    with pytest.raises(NoLeader, match="nothing was applied"):
        client.get("k", timeout=0.1)
    with pytest.raises(OutcomeUnknown):
        caught.value.wait(0)
    release.set()
    assert caught.value.wait(PATIENCE).revision == 3
    assert client.get("k") == KeyValue(b"k", b"2", 2, 3, 2)


@pytest.mark.parametrize("overload", ["block", "raise"])
def test_more_than_config_allows_waits_or_is_refused(
    replica: Replica, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, overload: Any
) -> None:
    config = Config(max_commands_in_flight=3, overload=overload, timeout=PATIENCE)
    with connect(tmp_path / "data", config=config) as client:
        client.add("n")
        release = hold_syncs(replica, monkeypatch)
        futures = [client.submit(Add("n", 1)) for _ in range(3)]
        if overload == "raise":
            with pytest.raises(Overloaded, match="3 commands"):
                client.add("n")
            release.set()
        else:
            waiting = [threading.Thread(target=client.add, args=("n",)) for _ in range(5)]
            for thread in waiting:
                thread.start()
            release.set()
            for thread in waiting:
                thread.join(PATIENCE)
        assert [future.result(PATIENCE).value for future in futures] == [2, 3, 4]
        assert client.add("n").value == (5 if overload == "raise" else 10)


# -- handles --------------------------------------------------------------------------------------------------------------------------


def test_a_watch_yields_what_comes_next_and_what_was(client: Client, replica: Replica) -> None:
    replica.put("k", "1")
    with client.watch("k") as watch, client.watch(start_revision=2) as past, client.watch(initial=True, prev_kv=True) as state:
        assert watch.next(0) is None
        client.put("k", "2")
        client.delete("k")
        assert [event.revision for event in (watch.next(PATIENCE), watch.next(PATIENCE))] == [3, 4]  # type: ignore[union-attr]
        assert [event.kind for event in (past.next(PATIENCE) for _ in range(3))] == ["put", "put", "delete"]  # type: ignore[union-attr]
        found = [state.next(PATIENCE) for _ in range(4)]
        assert [type(one) for one in found] == [Event, Synced, Event, Event]
        assert [one.prev_kv.value for one in found[2:]] == [b"1", b"2"]  # type: ignore[union-attr]
        watch.request_progress()
        assert watch.next(PATIENCE) == Progress(4)
        assert watch.revision == 5
        waiter = threading.Thread(target=lambda: list(watch))
        waiter.start()
        watch.close()
        waiter.join(PATIENCE)
        assert not waiter.is_alive()
    with client.namespace("app/").watch("k") as inside:
        replica.put("app/k", "v")
        event = inside.next(PATIENCE)
        assert isinstance(event, Event)
        assert event.key == b"k"


def test_a_lease_is_kept_alive_and_ends_with_its_keys(client: Client, replica: Replica) -> None:
    with client.lease(SHORT) as lease:
        client.put("k", "v", lease=lease)
        assert lease.keys() == (b"k",)
        assert not lease.lost.wait(4 * SHORT)
        assert [info.id for info in client.leases()] == [lease.id]
    assert lease.lost.is_set()
    assert replica.get("k") is None
    unkept = client.lease(SHORT, keep_alive=False)
    unkept.renew()
    assert unkept.lost.wait(PATIENCE)
    eventually(lambda: not replica.leases())
    with pytest.raises(LeaseNotFound):
        unkept.renew()


def test_a_lease_that_somebody_else_revoked_is_lost_with_the_next_keep_alive(client: Client, replica: Replica) -> None:
    lease = client.lease(3 * SHORT)
    replica.lease(id=lease.id).revoke()
    assert lease.lost.wait(PATIENCE)
    assert lease.remaining() == 0.0


def test_a_view_for_asyncio_that_has_no_state_yet_wants_to_be_awaited(replica: Replica, tmp_path: Path) -> None:
    async def test(client: AsyncClient) -> None:
        await client.wait_ready(PATIENCE)
        await asyncio.to_thread(replica.close)  # or the state might come from the member before it is looked for
        with pytest.raises(RuntimeError, match="await it first"):
            client.view("v/", codec="text").get("x")

    run(tmp_path / "data", test)


def test_a_view_has_the_state_when_it_is_first_read_and_follows(client: Client, replica: Replica) -> None:
    for number in range(1000):
        replica.submit(Put(f"v/{number:03}", str(number)))
    revision = replica.put("v/last", "x").revision
    view = client.view("v/", codec="text")
    assert len(view) == 1001
    assert view["007"] == "7"
    assert view.revision == revision
    revision = client.put("v/007", "8").revision
    view.wait(revision, PATIENCE)
    assert view["007"] == "8"
    other = replica.put("elsewhere", "x").revision
    view.wait(other, PATIENCE)
    assert view.revision >= other
    assert view.age < PATIENCE
    changes = view.changes(PATIENCE)
    replica.delete("v/007")
    change = next(changes)
    assert (change.kind, change.previous) == ("delete", "8")
    replica.compact(replica.put("v/a", "x").revision)
    view.wait(replica.put("v/b", "x").revision, PATIENCE)
    assert view["b"] == "x"


def test_locks_are_held_through_a_client(client: Client, replica: Replica) -> None:
    with client.lock("job") as lock:
        assert lock.held
        assert replica.lock("job").try_acquire() is None
        client.put("k", "v", guard=lock)
    assert replica.lock("job").try_acquire() is not None


# -- asyncio --------------------------------------------------------------------------------------------------------------------------


def test_every_call_can_be_awaited(replica: Replica, tmp_path: Path) -> None:
    async def test(client: AsyncClient) -> None:
        await client.wait_ready(PATIENCE)
        assert await client.put("a", "1") == (2, None)
        assert (await client.status()).name == client.name == "a"
        assert [member.name for member in await client.members()] == ["a"]
        sums = await asyncio.gather(*(client.add("n") for _ in range(500)))
        assert sorted(result.value for result in sums) == list(range(1, 501))
        with pytest.raises(Conflict) as caught:
            await client.put("a", "2", if_mod_revision=0)
        assert caught.value.current == KeyValue(b"a", b"1", 2, 2, 1)
        async with client.watch("w") as watch, client.lease(60) as lease:
            await client.put("w", "1", lease=lease)
            event = await watch.next(PATIENCE)
            assert isinstance(event, Event)
            assert event.kv.lease == lease.id
        replica.put("v/x", "1")
        view = await client.view("v/", codec="text")
        assert view["x"] == "1"
        await view.wait((await client.put("v/x", "2")).revision, PATIENCE)
        assert view["x"] == "2"
        task = asyncio.ensure_future(client.get("a", consistency="local", min_revision=10_000, timeout=None))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert client._remote is not None
        await asyncio.wrap_future(client.submit(Delete("a")))

    run(tmp_path / "data", test)


def test_an_async_client_connects_when_it_is_awaited(replica: Replica, tmp_path: Path) -> None:
    async def main() -> None:
        client = aio.connect(tmp_path / "data")
        with pytest.raises(Closed, match="not open yet"):
            await client.get("a")
        assert (await client) is client
        assert await client.get("a") is None
        await client.close()
        with pytest.raises(Closed):
            await client.get("a")
        with pytest.raises(Closed):
            await client.open()
        nobody = aio.connect(tmp_path / "nothing", timeout=0.1)
        with pytest.raises(NoLeader, match="no member answered"):
            await nobody
        with pytest.raises(Closed):
            await nobody

    asyncio.run(main())


# -- where to ------------------------------------------------------------------------------------------------------------------------


def test_targets_are_addresses_and_data_directories(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "data").mkdir()
    monkeypatch.chdir(tmp_path)
    here = str(tmp_path)

    def targets(target: Any, *, insecure: bool = False) -> list[str]:
        return _checked_targets(target, insecure=insecure)

    assert targets("data") == [f"{here}/data"]
    assert targets("./other") == [f"{here}/other"]
    assert targets(Path("other")) == [f"{here}/other"]
    assert targets("localhost") == ["tcp://localhost:7420"]
    assert targets(["127.0.0.1:7", "tcp://[::1]:8", "data", "127.0.0.1:7"]) == ["tcp://127.0.0.1:7", "tcp://[::1]:8", f"{here}/data"]
    assert targets("ipc:///tmp/socket") == ["ipc:///tmp/socket"]
    assert targets("db1.internal", insecure=True) == ["tcp://db1.internal:7420"]
    with pytest.raises(ValueError, match=r"insecure=True.*\./db1"):
        targets("db1.internal")
    unusable: Any
    for unusable in ("", [], "inproc://x", "127.0.0.1:0", "*:7420", "no address"):
        with pytest.raises(ValueError, match="address|at least one"):
            targets(unusable)
    for wrong in (5, b"x", None, [5]):
        with pytest.raises(TypeError):
            targets(wrong)
    with pytest.raises(TypeError, match="config"):
        connect("data", config=5)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="insecure"):
        connect("data", insecure="no")  # type: ignore[arg-type]


def test_who_finds_no_member_is_told_whom_it_tried(tmp_path: Path) -> None:
    with pytest.raises(NoLeader) as caught:
        connect([tmp_path / "nothing", "127.0.0.1:1"], timeout=0.2)
    text = str(caught.value)
    assert f"{tmp_path}/nothing (no member serves clients there)" in text
    assert "tcp://127.0.0.1:1 (Connection refused)" in text
    assert "start a member" in text
    assert caught.value.unreachable == (f"{tmp_path}/nothing", "tcp://127.0.0.1:1")
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("replkv-client")]


def test_a_member_that_comes_later_is_found(tmp_path: Path) -> None:
    found: list[Client] = []
    waiting = threading.Thread(target=lambda: found.append(connect(tmp_path / "data", timeout=PATIENCE)))
    waiting.start()
    with Replica("a", data_dir=tmp_path / "data", settings=FAST):
        waiting.join(PATIENCE)
        with found[0] as client:
            assert client.put("k", "v").revision == 2


def test_a_client_waits_for_its_member_to_come_back(tmp_path: Path) -> None:
    with Replica("a", data_dir=tmp_path / "data", settings=FAST) as replica:
        replica.wait_ready(PATIENCE)
        client = connect(tmp_path / "data", config=Config(timeout=PATIENCE))
        client.put("k", "1")
        watch, view, lease = client.watch("k"), client.view("k"), client.lease(60)
        assert view[""] == b"1"
    future = client.submit(Put("k", "2"))
    with pytest.raises(NoLeader, match="not reachable"):
        client.put("k", "never", timeout=0.1)
    with Replica("a", data_dir=tmp_path / "data", settings=FAST):
        revision = future.result(PATIENCE).revision
        event = watch.next(PATIENCE)
        assert isinstance(event, Event)
        assert (event.revision, event.value) == (revision, b"2")
        view.wait(revision, PATIENCE)
        assert view[""] == b"2"
        assert not lease.lost.is_set()
        assert client.get("k", consistency="local") is not None
        client.close()


def test_a_member_serves_clients_over_the_network(tmp_path: Path) -> None:
    config = Config(clients="127.0.0.1:0")
    with Replica("a", data_dir=tmp_path / "data", settings=FAST, config=config) as replica:
        replica.wait_ready(PATIENCE)
        address = (tmp_path / "data" / "clients.address").read_text().splitlines()[2]
        with connect(address) as client:
            client.put("k", "v")
            assert replica.get("k") == client.get("k")


# -- the end --------------------------------------------------------------------------------------------------------------------------


def test_a_closed_client_says_so_and_closing_twice_is_nothing(client: Client, replica: Replica) -> None:
    watch, view, lease = client.watch("k"), client.view("k"), client.lease(60)
    assert len(view) == 0
    client.close()
    client.close()
    for call in (lambda: client.get("k"), lambda: client.put("k", "v"), lambda: client.submit(Get("k")), client.watch, lambda: len(view)):
        with pytest.raises(Closed, match="this client is closed"):
            call()
    assert list(watch) == []
    assert lease.lost.is_set()
    assert [info.id for info in replica.leases()] == [lease.id], "it is not revoked, and ends by itself"
    assert "closed" in repr(client)
    assert not client.ready


def test_a_client_that_is_forgotten_warns_and_closes(replica: Replica, tmp_path: Path) -> None:
    client = connect(tmp_path / "data")
    thread = client._thread
    assert thread is not None
    with pytest.warns(ResourceWarning, match="was not closed"):
        del client
        gc.collect()
    thread.join(PATIENCE)
    assert not thread.is_alive()


def test_nothing_is_left_of_a_client(replica: Replica, tmp_path: Path) -> None:
    def sockets() -> int:
        return sum(path.resolve().name.startswith("socket:") for path in Path("/proc/self/fd").iterdir())

    with connect(tmp_path / "data") as client:
        client.put("k", "v")
    before = sockets()
    for _ in range(5):
        with connect(tmp_path / "data") as client:
            client.put("k", "v")
    eventually(lambda: sockets() <= before)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("replkv-client")]


# -- fork ----------------------------------------------------------------------------------------------------------------------------


def _use_in_child(target: str, parents: Client, results: Any) -> None:
    try:
        try:
            parents.get("k")
        except ForkedProcess as error:
            results.put(str(error))
        parents.close()

        async def main() -> bytes | None:
            async with aio.connect(target) as client, client.lease(60) as lease:
                await client.put("async", "x", lease=lease)
                found = await client.get("k")
                return found and found.value

        with warnings.catch_warnings():
            warnings.simplefilter("error")
            with connect(target) as client, client.watch("child") as watch, client.lease(60):
                client.put("child", "was here")
                event = watch.next(PATIENCE)
                view = client.view("child")
                results.put((client.get("k"), event is not None and event.revision, dict(view.items()), asyncio.run(main())))
    except BaseException as error:  # the parent shows it
        results.put(error)
        raise


def test_a_forked_child_of_a_process_that_holds_a_replica_connects(client: Client, replica: Replica, tmp_path: Path) -> None:
    client.put("k", "v")
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of Python 3.12 on: this process has threads
        child = context.Process(target=_use_in_child, args=(str(tmp_path / "data"), client, results))
        child.start()
    assert "replkv.connect()" in results.get(timeout=PATIENCE)
    kv, revision, view, value = results.get(timeout=PATIENCE)
    child.join(PATIENCE)
    assert child.exitcode == 0
    assert (kv, revision, view, value) == (KeyValue(b"k", b"v", 2, 2, 1), 3, {"": b"was here"}, b"v")
    assert replica.get("child") is not None
    assert client.put("k", "w").revision > 3, "the parent's goes on"


def test_the_version_exports_what_a_client_needs() -> None:
    assert {"connect", "Client", "AsyncClient"} <= set(replkv.__all__)
