"""replkv inside real servers, which fork, kill and replace their workers: the programs of docs/DEPLOYMENT.md as they stand there."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import pytest
from cluster import ROOT, eventually, free_ports
from servers import Program, WebServer, free_port, member, write_programs

from replkv import Config, Replica, ReplkvError, connect


def cluster_variables(directory: Path, names: str = "abc") -> dict[str, dict[str, str]]:
    """What each member of a cluster finds in its environment."""
    cluster = ",".join(f"{name}=127.0.0.1:{port}" for name, port in zip(names, free_ports(len(names)), strict=True))
    return {name: {"REPLKV_NAME": name, "REPLKV_DATA_DIR": str(directory / f"data-{name}"), "REPLKV_CLUSTER": cluster} for name in names}


# -- gunicorn ----------------------------------------------------------------------------------------------------------------------


def gunicorn(directory: Path, *options: str, without: tuple[str, ...] = (), environment: dict[str, str] | None = None) -> WebServer:
    """Start the server whose master is a member, unless its configuration is to go without some functions."""
    write_programs(directory, "gunicorn.conf.py", "web.py")
    with (directory / "gunicorn.conf.py").open("a") as configuration:
        configuration.writelines(f"del {name}\n" for name in without)
    port = free_port()
    command = ("gunicorn", "-c", "gunicorn.conf.py", "-b", f"127.0.0.1:{port}", "--no-control-socket", *options, "web:application")
    return WebServer(directory, port, *command, environment={"REPLKV_DATA_DIR": str(directory / "data"), **(environment or {})})


def workers(server: WebServer) -> set[int]:
    """All processes but the master."""
    return set(server.pids()) - {server.process.pid}


def test_eight_workers_of_gunicorn_write_through_the_member_in_their_master_and_are_replaced_when_killed(tmp_path: Path) -> None:
    with gunicorn(tmp_path) as server:
        before = server.visits(workers=8)
        for pid in set(before.values()):
            os.kill(pid, signal.SIGKILL)
        after = server.visits(workers=8)
        assert min(after) > max(before), "what the killed ones had counted stays"
        assert not set(after.values()) & set(before.values())
        assert server.stop() == 0
        assert "Traceback" not in server.log.read_text()
    with Replica(data_dir=tmp_path / "data") as replica:
        assert replica.add("visits", 0).value == max(after)


def test_the_member_goes_on_while_gunicorn_reloads_its_workers(tmp_path: Path) -> None:
    with gunicorn(tmp_path) as server:
        before = server.visits(workers=8)
        with connect(tmp_path / "data") as client:
            term = client.status().raft_term
            server.process.send_signal(signal.SIGHUP)
            eventually(lambda: workers(server).isdisjoint(before.values()))
            after = server.visits(workers=8)
            assert client.status().raft_term == term, "it never stopped leading"
        assert min(after) == max(before) + 1, "no visit was lost"
        assert server.stop() == 0


def test_gunicorn_and_its_member_start_again_when_the_master_was_killed_and_its_workers_have_ended(tmp_path: Path) -> None:
    environment = {"REPLKV_NAME": "a", "REPLKV_CLUSTER": f"a=127.0.0.1:{free_port()}"}  # its workers inherit this port
    with gunicorn(tmp_path, "--timeout", "2", environment=environment) as server:
        before = server.visits(workers=8)
        server.process.kill()
        eventually(lambda: not workers(server))
    with gunicorn(tmp_path, environment=environment) as server:
        assert min(server.visits(workers=8)) == max(before) + 1
        assert server.stop() == 0


def test_gunicorn_with_the_member_beside_it_goes_on_when_that_restarts(tmp_path: Path) -> None:
    with member(tmp_path) as beside, gunicorn(tmp_path, without=("when_ready", "on_exit")) as server:
        before = server.visits(workers=8)
        assert beside.stop() == 0
        with member(tmp_path) as again:
            after = server.visits(workers=8)
            assert set(after.values()) == set(before.values())
            assert min(after) == max(before) + 1
            assert server.stop() == 0
            assert again.stop() == 0


def test_three_hosts_are_deployed_one_after_the_other_and_one_is_lost(tmp_path: Path) -> None:
    variables = cluster_variables(tmp_path)

    def start(name: str) -> WebServer:
        (tmp_path / name).mkdir(exist_ok=True)
        return gunicorn(tmp_path / name, "--workers", "2", "--timeout", "4", environment=variables[name])

    with ExitStack() as stack:
        hosts = {name: stack.enter_context(start(name)) for name in "abc"}
        counts = [server.visit()[0] for server in hosts.values()]
        for name in "abc":
            hosts[name].visits(workers=2)
            assert hosts[name].stop() == 0
            counts += [server.visit()[0] for other, server in hosts.items() if other != name]
            hosts[name] = stack.enter_context(start(name))
            counts += [server.visit()[0] for server in hosts.values()]
        with connect(variables["a"]["REPLKV_DATA_DIR"]) as client:
            leader = client.status().raft_leader
        assert leader is not None
        hosts.pop(leader).process.kill()
        counts += [server.visit()[0] for server in hosts.values()]
        assert counts == sorted(set(counts)), "each visit counts after all that were answered before, and once"
        for server in hosts.values():
            server.visits(workers=2)  # gunicorn can't end a worker that is not up yet before its patience is over
        assert [server.stop() for server in hosts.values()] == [0, 0]


def test_workers_under_gevent_have_clients_too(tmp_path: Path) -> None:
    with gunicorn(tmp_path, "--worker-class", "gevent", "--workers", "2") as server:
        assert min(server.visits(workers=2)) == 1
        assert server.stop() == 0
        assert "Traceback" not in server.log.read_text()


# -- uvicorn -----------------------------------------------------------------------------------------------------------------------


def uvicorn(directory: Path, program: str, *options: str) -> WebServer:
    write_programs(directory, f"{program}.py")
    port = free_port()
    command = ("uvicorn", f"{program}:app", "--port", str(port), *options)
    return WebServer(directory, port, *command, environment={"REPLKV_DATA_DIR": str(directory / "data")})


def test_two_workers_of_uvicorn_share_the_member_beside_them(tmp_path: Path) -> None:
    with member(tmp_path) as beside, uvicorn(tmp_path, "several", "--workers", "2") as server:
        before = server.visits(workers=2)
        killed = before[1]
        os.kill(killed, signal.SIGKILL)
        eventually(lambda: killed not in server.pids())
        after = server.visits(workers=2)
        assert killed not in after.values()
        assert min(after) > max(before)
        assert server.stop() == 0
        assert beside.stop() == 0


def test_clients_in_the_workers_go_on_when_the_member_beside_them_restarts(tmp_path: Path) -> None:
    with member(tmp_path) as beside, uvicorn(tmp_path, "several", "--workers", "2") as server:
        visits, _ = server.visit()
        assert beside.stop() == 0
        with member(tmp_path) as again:
            assert server.visit()[0] == visits + 1
            assert server.stop() == 0
            assert again.stop() == 0


def test_a_single_worker_of_uvicorn_is_the_member(tmp_path: Path) -> None:
    with uvicorn(tmp_path, "single") as server:
        first, _ = server.visit()
        assert [server.visit()[0] for _ in range(20)] == list(range(first + 1, first + 21))
        with connect(tmp_path / "data") as client:
            assert client.add("visits", 0).value == first + 20
        assert server.stop() in (0, -signal.SIGTERM)  # newer versions raise the signal again when all is done
        assert "Application shutdown complete" in server.log.read_text()
    with Replica(data_dir=tmp_path / "data") as replica:
        assert replica.add("visits", 0).value == first + 20


# -- Celery ------------------------------------------------------------------------------------------------------------------------

CELERY_CONFIG = """
broker_url = "filesystem://"
broker_transport_options = {"data_folder_in": "broker", "data_folder_out": "broker", "control_folder": "control"}
worker_hijack_root_logger = False
broker_connection_retry_on_startup = True
"""
SENDER = """
from tasks import deposit
for number in range(60):
    deposit.delay(number % 3, 1)
"""


def test_tasks_of_celery_take_locks_in_each_process_of_the_pool(tmp_path: Path) -> None:
    write_programs(tmp_path, "tasks.py")
    (tmp_path / "celeryconfig.py").write_text(CELERY_CONFIG)
    (tmp_path / "broker").mkdir()
    environment = {"REPLKV_DATA_DIR": str(tmp_path / "data")}
    with member(tmp_path) as beside, connect(tmp_path / "data") as client:
        here = {**os.environ, **environment, "PYTHONPATH": f"{ROOT}{os.pathsep}{tmp_path}"}
        subprocess.run([sys.executable, "-c", SENDER], cwd=tmp_path, env=here, timeout=60, check=True)
        command = ("celery", "-A", "tasks", "worker", "--concurrency", "4", "--loglevel", "INFO", "--without-gossip", "--without-mingle")
        with Program(tmp_path, *command, environment=environment) as pool:

            def balances() -> list[str]:
                assert pool.process.poll() is None, pool.log.read_text()
                return [found.text for found in client.scan(prefix="balance/")]

            eventually(lambda: balances() == ["20", "20", "20"])
            assert len(pool.pids()) == 5
            assert pool.stop() == 0
            assert "Traceback" not in pool.log.read_text()
        assert beside.stop() == 0


# -- multiprocessing ---------------------------------------------------------------------------------------------------------------

CHILDREN = """
import asyncio, multiprocessing, sys, threading, warnings
from concurrent.futures import ProcessPoolExecutor

warnings.simplefilter("ignore", DeprecationWarning)  # of a fork in a process with threads: this is what is tested
from replkv import ForkedProcess, Replica, aio, connect

def tells(call):
    try:
        call()
    except ForkedProcess as error:
        return "connect()" in str(error)
    return False

def uses_what_it_inherited(_):
    return tells(lambda: replica.get("key")) and tells(lambda: client.get("key")) and tells(Replica)

def leaves_it_alone(_):
    return True

def connects(number):
    with connect(data_dir) as own:
        return own.get("key").text == "value" and own.put(f"child/{number}", "here").revision > 0

async def awaits(number):
    async with aio.connect(data_dir) as own:
        return (await own.get("key")).text == "value"

def connects_and_awaits(number):
    return asyncio.run(awaits(number))

def keep_busy():
    while not done.is_set():
        replica.add("busy")
        client.add("busy")

def run(target):
    assert target(0)

method, data_dir = sys.argv[1:]
if __name__ == "__main__":
    context = multiprocessing.get_context(method)
    with Replica(data_dir=data_dir) as replica, connect(data_dir) as client:
        replica.put("key", "value")
        done = threading.Event()
        busy = threading.Thread(target=keep_busy)
        busy.start()
        for job in [leaves_it_alone, connects, connects_and_awaits] + [uses_what_it_inherited] * (method == "fork"):
            child = context.Process(target=run, args=(job,))
            child.start()
            child.join(30)
            assert child.exitcode == 0, (job, child.exitcode)
            with ProcessPoolExecutor(3, context) as pool:
                assert all(pool.map(job, range(6), timeout=30)), job
        done.set()
        busy.join()
        assert replica.get("busy").version % 2 == 0
        assert replica.scan(prefix="child/", count_only=True).count == 6
        client.put("key", "the parent goes on")
        print(replica.get("key").text)
"""


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_children_connect_or_leave_what_they_inherited_alone_and_are_told_so_otherwise(tmp_path: Path, method: str) -> None:
    program = tmp_path / "children.py"
    program.write_text(CHILDREN)
    here = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(program), method, str(tmp_path / "data")]
    done = subprocess.run(command, env=here, capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "the parent goes on\n", "")


# -- gevent ------------------------------------------------------------------------------------------------------------------------

GREENLETS = """
import gevent.monkey
gevent.monkey.patch_all()
import sys
import gevent
from replkv import AsyncReplica, Put, Replica, connect

for kind in (Replica, AsyncReplica):
    try:
        kind()
    except RuntimeError as error:
        assert "replkv.connect()" in str(error)
    else:
        raise AssertionError(kind)
with connect(sys.argv[1]) as client:
    jobs = [gevent.spawn(client.put, f"key/{number}", "value") for number in range(50)]
    gevent.joinall(jobs, timeout=30, raise_error=True)
    assert client.submit(Put("key/last", "value")).result(10).revision == client.revision
    with client.lock("lock") as lock:
        client.put("guarded", "value", guard=lock)
    turns = []
    with client.watch("never") as watch:
        computing = gevent.spawn(lambda: [(turns.append(turn), gevent.sleep(0)) for turn in range(100)])
        assert watch.next(0.1) is None
    assert len(turns) == 100, "others go on while one waits"
    print(client.scan(prefix="key/", count_only=True).count)
"""


def test_a_process_that_gevent_has_patched_is_refused_a_member_and_served_as_a_client(tmp_path: Path) -> None:
    with Replica(data_dir=tmp_path / "data") as replica:
        command = [sys.executable, "-W", "ignore", "-c", GREENLETS, str(tmp_path / "data")]
        done = subprocess.run(command, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=60, check=False)
        assert (done.returncode, done.stdout, done.stderr) == (0, "51\n", "")
        assert replica.scan(prefix="key/", count_only=True).count == 51


# -- the bare member ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_bare_member_closes_and_exits_with_0_when_it_is_told_to(tmp_path: Path, number: signal.Signals) -> None:
    with member(tmp_path) as bare:
        with connect(tmp_path / "data") as client:
            client.put("key", "value")
        assert bare.stop(number) == 0
        assert "closed, as it was told to" in bare.log.read_text()
        assert "Traceback" not in bare.log.read_text()
    with Replica(data_dir=tmp_path / "data") as replica:
        found = replica.get("key")
        assert found is not None
        assert found.text == "value"


def test_a_bare_member_that_leads_hands_over_before_it_exits(tmp_path: Path) -> None:
    variables = cluster_variables(tmp_path)
    with ExitStack() as stack:
        for name in variables:
            (tmp_path / name).mkdir()
        bare = {name: stack.enter_context(Program(tmp_path / name, "replkv", "member", environment=variables[name])) for name in "abc"}
        for program in bare.values():
            eventually(partial(program.said, "is ready"))
        with connect([variables[name]["REPLKV_DATA_DIR"] for name in "abc"]) as client:
            client.put("key", "value")
            before = client.status()
            assert before.raft_leader is not None
            assert bare.pop(before.raft_leader).stop() == 0
            client.put("key", "another")
            assert client.status().raft_leader in bare
            assert client.status().raft_term == before.raft_term + 1
        assert [program.stop() for program in bare.values()] == [0, 0]


def test_a_bare_member_that_waits_for_the_others_can_be_told_to_end(tmp_path: Path) -> None:
    with Program(tmp_path, "replkv", "member", environment=cluster_variables(tmp_path)["a"]) as bare:
        eventually(lambda: bare.said("waits for a leader"))
        assert bare.stop() == 0


def test_options_of_a_bare_member_win_over_the_environment(tmp_path: Path) -> None:
    clients, address = (f"127.0.0.1:{port}" for port in free_ports(2))
    options = ["--name", "b", "--data-dir", str(tmp_path / "data"), "--cluster", f"b={address}", "--clients", clients]
    with Program(tmp_path, "replkv", "member", *options, environment=cluster_variables(tmp_path)["a"]) as bare:
        eventually(lambda: bare.said("b is ready"))
        with connect(clients) as client:
            assert client.status().name == "b"
        assert bare.stop() == 0


def refused(directory: Path, *options: str) -> tuple[int, str]:
    """Run a member that can't start; return its exit code and what it said."""
    command = [sys.executable, "-m", "replkv", "member", *options]
    kept = {name: value for name, value in os.environ.items() if not name.startswith("REPLKV_")}
    here = {**kept, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=directory, env=here, capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout == ""
    return done.returncode, done.stderr


def test_a_bare_member_that_can_not_start_says_why_in_a_line(tmp_path: Path) -> None:
    code, said = refused(tmp_path)
    assert (code, said.count("\n")) == (2, 1)
    assert "--data-dir" in said
    code, said = refused(tmp_path, "--data-dir", "data", "--cluster", "a")
    assert (code, said.count("\n")) == (2, 1)
    assert "REPLKV_CLUSTER" in said
    code, said = refused(tmp_path, "--data-dir", "data", "--clients", "10.0.0.1:7421")
    assert (code, said.count("\n")) == (2, 1)
    assert "insecure" in said
    with Replica(data_dir=tmp_path / "data"):
        code, said = refused(tmp_path, "--data-dir", "data")
    assert (code, said.count("\n")) == (69, 1)
    assert "in use" in said


BROKEN_LATER = """
import os, sys
from replkv.__main__ import main

sync = os.fdatasync

def sync_until_it_breaks(fd):
    if os.path.exists("broken"):
        raise OSError(5, "Input/output error")
    sync(fd)

os.fdatasync = sync_until_it_breaks
sys.exit(main(["member", "--data-dir", "data"]))
"""


def test_a_bare_member_whose_disk_breaks_says_so_and_exits(tmp_path: Path) -> None:
    (tmp_path / "broken_later.py").write_text(BROKEN_LATER)
    with Program(tmp_path, "broken_later") as bare:
        eventually(lambda: bare.said("is ready"))
        with connect(tmp_path / "data", config=Config(timeout=2.0)) as client:
            (tmp_path / "broken").touch()
            with pytest.raises(ReplkvError):
                client.put("key", "value")
        assert bare.process.wait(30) == 69
        said = bare.log.read_text()
        assert "Traceback" not in said
        assert said.splitlines()[-1].startswith("replkv: ")
        assert "Input/output error" in said
