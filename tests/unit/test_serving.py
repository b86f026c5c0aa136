"""``serving.py`` and ``whereabouts.py``: the sockets of a real member's door, and how clients of its machine find them."""

from __future__ import annotations

import os
import queue
import resource
import selectors
import socket
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from replkv import Config, Replica, letters, serving, whereabouts
from replkv.door import Door
from replkv.errors import DirectoryInUse, Incompatible
from replkv.letters import Hello, Ping, Pong, Welcome
from replkv.serving import Bench
from replkv.stream import Stream

PATIENCE = 10.0  # s; what is waited for takes milliseconds


def talk(url: str, *requests: Any) -> list[Any]:
    """Greet a member, say something once it has let this client in, and return as many replies as that needs."""
    stream = Stream(url)
    said = [Hello(1, letters.VERSION, 9), *requests]
    stream.send(letters.encode_frame(0, [letters.encode_letter(said[0])]))
    replies: list[Any] = []
    give_up = time.monotonic() + PATIENCE
    with selectors.DefaultSelector() as selector:
        selector.register(stream, stream.mask)
        while len(replies) < len(said):
            assert time.monotonic() < give_up
            selector.modify(stream, stream.mask)
            for _, mask in selector.select(0.1):
                for frame in stream.handle(mask):
                    if not replies:
                        stream.send(letters.encode_frame(0, map(letters.encode_letter, requests)))
                    replies += letters.decode_replies(frame).letters
    stream.close()
    return replies


def clients_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.endswith("-clients")]


def test_a_member_with_a_directory_serves_clients_of_its_user_there(tmp_path: Path) -> None:
    with Replica("m", data_dir=tmp_path) as replica:
        replica.wait_ready()
        (url,) = whereabouts.find(str(tmp_path))
        assert url == f"ipc://{tmp_path}/clients"
        for path in (tmp_path / "clients", tmp_path / whereabouts.ADDRESSES):
            assert stat.S_IMODE(path.stat().st_mode) == 0o600
        welcome, pong = talk(url, Ping(2))
        assert isinstance(welcome, Welcome)
        assert isinstance(pong, Pong)
        assert welcome.name == "m"
        assert clients_threads() == ["replkv-m-clients"]
    assert clients_threads() == []
    assert not {"clients", whereabouts.ADDRESSES} & set(os.listdir(tmp_path))


def test_a_member_in_memory_serves_none(tmp_path: Path) -> None:
    with Replica():
        assert clients_threads() == []


def test_a_member_in_memory_serves_clients_at_an_address() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with Replica("m", config=Config(clients=f"127.0.0.1:{port}")) as replica:
        replica.wait_ready()
        assert [type(reply) for reply in talk(f"tcp://127.0.0.1:{port}", Ping(2))] == [Welcome, Pong]


def test_where_the_path_is_too_long_for_a_socket_it_stands_elsewhere(tmp_path: Path) -> None:
    deep = tmp_path / ("d" * 100)
    with Replica("m", data_dir=deep) as replica:
        replica.wait_ready()
        (url,) = whereabouts.find(str(deep))
        where = Path(url.removeprefix("ipc://")).parent
        assert where != deep
        assert stat.S_IMODE(where.stat().st_mode) == 0o700
        assert isinstance(talk(url)[0], Welcome)
    assert not where.exists()


def test_a_directory_that_can_hold_no_socket_is_no_obstacle(tmp_path: Path) -> None:
    (tmp_path / "clients").mkdir(parents=True)
    with Replica("m", data_dir=tmp_path) as replica:
        replica.wait_ready()
        (url,) = whereabouts.find(str(tmp_path))
        assert isinstance(talk(url)[0], Welcome)
    assert (tmp_path / "clients").is_dir()


def test_a_second_member_in_the_directory_leaves_the_first_one_s_socket_alone(tmp_path: Path) -> None:
    with Replica("m", data_dir=tmp_path) as replica:
        replica.wait_ready()
        with pytest.raises(DirectoryInUse):
            Replica("m", data_dir=tmp_path)
        assert isinstance(talk(whereabouts.find(str(tmp_path))[0])[0], Welcome)


def test_what_an_earlier_life_left_behind_is_cleared_away(tmp_path: Path) -> None:
    deep, elsewhere = tmp_path / ("d" * 100), tmp_path / "elsewhere"
    elsewhere.mkdir()
    deep.mkdir(mode=0o700)
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(elsewhere / "clients"))
        left.listen()  # as a forked child would hold it
        whereabouts.publish(str(deep), [f"ipc://{elsewhere}/clients"])
        with Replica("m", data_dir=deep) as replica:
            replica.wait_ready()
            assert not elsewhere.exists()
            assert isinstance(talk(whereabouts.find(str(deep))[0])[0], Welcome)


def test_a_socket_that_somebody_still_holds_open_does_not_stand_in_the_way(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(tmp_path / "clients"))
        left.listen()
        with Replica("m", data_dir=tmp_path) as replica:
            replica.wait_ready()
            assert whereabouts.find(str(tmp_path)) == [f"ipc://{tmp_path}/clients"]
            assert isinstance(talk(f"ipc://{tmp_path}/clients")[0], Welcome)


def test_a_member_takes_part_although_clients_can_t_find_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(whereabouts, "publish", full)
    with Replica("m", data_dir=tmp_path) as replica:
        replica.put("k", "v")
        assert "may not find it" in caplog.text
        assert isinstance(talk(f"ipc://{tmp_path}/clients")[0], Welcome)


def test_an_error_nobody_thought_of_ends_the_service_and_not_the_member(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(Door, "_look_around", lambda *_: 1 / 0)
    with Replica("m", data_dir=tmp_path) as replica:
        replica.put("k", "v")
        give_up = time.monotonic() + PATIENCE
        while clients_threads():
            assert time.monotonic() < give_up
            replica.put("k", "v")
        assert "serves clients no longer" in caplog.text


@pytest.mark.parametrize(("limit", "most"), [(20, 16), (1024, 512), (1 << 20, 10_000), (resource.RLIM_INFINITY, 10_000)])
def test_clients_can_t_use_up_the_descriptors_that_the_log_needs(monkeypatch: pytest.MonkeyPatch, limit: int, most: int) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (limit, limit))
    assert serving._most_connections() == most


def test_an_address_that_is_taken_is_named_and_nothing_is_left_behind(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(ValueError, match=f"can't serve clients: cannot listen on tcp://{address}"):
            Replica("m", data_dir=tmp_path, config=Config(clients=address))
    with Replica("m", data_dir=tmp_path) as replica:
        replica.put("k", "v")


def test_clients_of_other_machines_are_not_served_unencrypted_by_mistake(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="insecure=True"):
        Replica("m", data_dir=tmp_path, config=Config(clients="0.0.0.0:7421"))
    assert not os.listdir(tmp_path)


def test_a_stuck_door_does_not_hold_up_closing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    stuck, release = threading.Event(), threading.Event()

    def turn(door: Door) -> None:
        if stuck.is_set():
            door.closed = True
        stuck.set()
        release.wait(PATIENCE)

    monkeypatch.setattr(Door, "turn", turn)
    replica = Replica("m", data_dir=tmp_path)
    assert stuck.wait(PATIENCE)
    began = time.monotonic()
    replica.close(0.3)
    assert time.monotonic() - began < PATIENCE / 2
    assert "did not send its clients away" in caplog.text
    release.set()


FORKING = """
import os, sys, warnings
warnings.simplefilter("ignore", DeprecationWarning)  # of os.fork in a process with threads: this is what is tested
from replkv import Replica
with Replica("m", data_dir=sys.argv[1]) as replica:
    replica.wait_ready()
    child = os.fork()
    if child:
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert {"clients", "clients.address"} <= set(os.listdir(sys.argv[1])), "the child has cleared away its parent's socket"
"""


def test_passwords_are_compared_on_a_thread_of_their_own_which_survives_errors_and_ends(caplog: pytest.LogCaptureFixture) -> None:
    bench = Bench("test-bench")
    bench.close(5.0)
    assert bench._thread.ident is None, "it begins with the first job"
    done: queue.SimpleQueue[str] = queue.SimpleQueue()
    bench.do(lambda: done.put(threading.current_thread().name))
    bench.do(lambda: 1 / 0)  # type: ignore[arg-type]
    bench.do(lambda: done.put("after an error"))
    assert [done.get(timeout=10), done.get(timeout=10)] == ["test-bench", "after an error"]
    assert "test-bench met an error it should not have" in caplog.text
    bench.close(10.0)
    assert not bench._thread.is_alive()


def test_a_forked_child_leaves_its_parent_s_door_alone(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", FORKING, str(tmp_path)], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_what_is_no_address_is_not_taken_for_one(tmp_path: Path) -> None:
    (tmp_path / whereabouts.ADDRESSES).write_text("replkv-clients 1\nhttp://x\n")
    with pytest.raises(ValueError, match="addresses begin with"):
        whereabouts.find(str(tmp_path))


@pytest.mark.parametrize("first", ["tcp://127.0.0.1:7420", "replkv-clients", "replkv-clients one", "#"])
def test_a_file_that_does_not_begin_with_its_version_is_not_taken_for_one_of_addresses(tmp_path: Path, first: str) -> None:
    (tmp_path / whereabouts.ADDRESSES).write_text(f"{first}\ntcp://127.0.0.1:7421\n")
    with pytest.raises(ValueError, match="is not what a file of addresses begins with"):
        whereabouts.find(str(tmp_path))


def test_a_newer_version_s_file_of_addresses_is_refused_by_name_and_cleared_away(tmp_path: Path) -> None:
    (tmp_path / whereabouts.ADDRESSES).write_text("replkv-clients 2\nin some other way\n")
    with pytest.raises(Incompatible, match="has version 2, this version reads 1: upgrade this client"):
        whereabouts.find(str(tmp_path))
    whereabouts.withdraw(str(tmp_path))
    assert not os.listdir(tmp_path)
