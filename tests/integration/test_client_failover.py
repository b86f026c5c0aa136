"""A client whose members are killed one after the other: nothing is lost, nothing happens twice, and its handles go on."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cluster import PATIENCE, Cluster, eventually

from replkv import Client, Config, Event, Synced, aio, connect

KILLS = 4
CALM = Config(timeout=PATIENCE)


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    with Cluster(tmp_path, config={"clients": "127.0.0.1:0"}) as cluster:
        yield cluster.start()


@pytest.fixture
def client(cluster: Cluster) -> Iterator[Client]:
    with connect([member.data_dir for member in cluster], config=CALM) as client:
        yield client


class Writer(threading.Thread):
    """Counts up, and puts a key for each number, until it is told to stop."""

    def __init__(self, client: Client, name: str) -> None:
        super().__init__(daemon=True)
        self.client, self.key = client, name
        self.stopping = threading.Event()
        self.counted: list[int] = []
        self.error: Exception | None = None
        self.start()

    def run(self) -> None:
        try:
            while not self.stopping.is_set():
                self.counted.append(self.client.add(f"count/{self.key}").value)
                self.client.put(f"keys/{self.key}/{len(self.counted):05}", "x", if_mod_revision=0)
        except Exception as error:  # noqa: BLE001  # the test looks at it
            self.error = error


class Reader(threading.Thread):
    """Takes what a watch yields, until it ends."""

    def __init__(self, client: Client, **options: Any) -> None:
        super().__init__(daemon=True)
        self.watch = client.watch(**options)
        self.seen: list[Any] = []
        self.start()

    def run(self) -> None:
        self.seen.extend(self.watch)

    def wait_for(self, revision: int) -> list[Any]:
        eventually(lambda: bool(self.seen) and self.seen[-1].revision >= revision)
        self.watch.close()
        self.join(PATIENCE)
        return self.seen


def test_members_are_killed_while_a_client_writes_watches_and_holds_a_lease(cluster: Cluster, client: Client) -> None:
    lease = client.lease(4.0)
    client.put("lease", "mine", lease=lease)
    view = client.view("keys/", codec="text")
    everything, state = Reader(client, prefix="", start_revision=2), Reader(client, prefix="keys/", initial=True)
    writers = [Writer(client, name) for name in "pqrs"]
    lengths: list[int] = []
    for _ in range(KILLS):
        eventually(lambda: all(len(writer.counted) > (lengths[-1] if lengths else 0) + 20 for writer in writers))
        victim = cluster[client.name]
        victim.kill()
        eventually(lambda: client.name != victim.name)  # noqa: B023  # it is waited for here
        lengths.append(max(len(writer.counted) for writer in writers))
        victim.start()
        cluster.wait_ready()
    for writer in writers:
        writer.stopping.set()
        writer.join(PATIENCE)
        assert writer.error is None
        assert writer.counted == list(range(1, len(writer.counted) + 1)), "each once, and none lost"
        assert client.get(f"count/{writer.key}").text == str(len(writer.counted))  # type: ignore[union-attr]
    assert not lease.lost.is_set()
    assert client.get("lease") is not None
    last = client.put("last", "x").revision
    view.wait(last, PATIENCE)
    keys = client.scan(prefix="keys/")
    assert dict(view.items()) == {kv.key_text.removeprefix("keys/"): "x" for kv in keys}
    assert len(keys) == sum(len(writer.counted) for writer in writers)
    seen = everything.wait_for(last)
    with connect(cluster["a"].data_dir, config=CALM) as calm:  # which sees the same history in peace
        assert seen == Reader(calm, prefix="", start_revision=2).wait_for(last), "no gap, and nothing twice"
    assert len(seen) > 2 * len(keys)
    last = client.put("keys/last", "x").revision
    found = state.wait_for(last)
    puts = [one.key for one in found if isinstance(one, Event)]
    assert sum(isinstance(one, Synced) for one in found) == 1
    assert sorted(puts) == sorted(kv.key for kv in client.scan(prefix="keys/")), "each key once, whether it was there or came later"


def test_a_client_of_one_data_directory_learns_where_the_others_are(cluster: Cluster) -> None:
    eventually(lambda: len(cluster["a"].call("scan", prefix="\x00replkv/clients/")["kvs"]) == 3)
    with connect(cluster["b"].data_dir, config=CALM) as client:
        assert client.name == "b"
        cluster["b"].kill()
        assert client.put("k", "v").revision > 1
        assert client.name != "b"


def test_a_member_that_stands_still_is_left(cluster: Cluster, client: Client) -> None:
    victim = cluster[client.name]
    with client.watch("k") as watch:
        victim.pause()
        try:
            revision = client.put("k", "v").revision
            event = watch.next(PATIENCE)
            assert isinstance(event, Event)
            assert event.revision == revision
            assert client.name != victim.name
            before = client.revision
            assert client.get("k", consistency="local") is not None
            assert client.revision >= before
        finally:
            victim.resume()


def test_a_member_that_closes_sends_its_clients_away(cluster: Cluster) -> None:
    async def main() -> None:
        client = await aio.connect([member.data_dir for member in cluster], config=CALM)
        async with client, client.lease(4.0) as lease, client.watch(prefix="n") as watch:
            for _ in range(2):
                counting = [asyncio.ensure_future(client.add("n")) for _ in range(50)]
                victim = cluster[client.name]
                await asyncio.to_thread(victim.stop)
                await asyncio.gather(*counting)
                await asyncio.to_thread(victim.start)
            events = [await watch.next(PATIENCE) for _ in range(100)]
            assert [int(event.value) for event in events if isinstance(event, Event)] == list(range(1, 101))
            assert not lease.lost.is_set()

    asyncio.run(main())
