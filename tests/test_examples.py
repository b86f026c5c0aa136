"""The examples, run as their README says: alone, and as clusters of three whose members are killed."""

from __future__ import annotations

import json
import os
import random
import re
import shlex
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TypeAlias

import pytest

from replkv import Replica, connect
from replkv.demo.processes import free_ports

ROOT = Path(__file__).parent.parent
README = (ROOT / "examples" / "README.md").read_text(encoding="utf-8")
COMMANDS = dict(re.findall(r"^\| \[(\S+?)/?\]\(.+?\) \| .+ \| `python (.+?)` \|$", README, re.MULTILINE))
NAMES = ("a", "b", "c")
PATIENCE = 30.0  # s; what is waited for takes a fraction of it


class Program:
    """An example that runs; what it says is kept."""

    def __init__(self, command: str, environment: dict[str, str]) -> None:
        self.lines: list[str] = []
        self._told = threading.Condition()
        found_here = os.pathsep.join(str(Path(entry).resolve()) for entry in sys.path)
        inherited = {key: value for key, value in os.environ.items() if not key.startswith("REPLKV_")}
        self._process = subprocess.Popen(
            [sys.executable, "-u", *shlex.split(command)],
            cwd=ROOT,
            env={**inherited, "PYTHONPATH": found_here, **environment},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            with self._told:
                self.lines.append(line.rstrip("\n"))
                self._told.notify_all()

    def says(self, wanted: str, after: int = 0) -> int:
        """Wait for a line that matches, from a number on; return the number of the next one."""

        def found() -> int | None:
            return next((at + 1 for at, line in enumerate(self.lines[after:], after) if re.fullmatch(wanted, line)), None)

        with self._told:
            number = self._told.wait_for(found, PATIENCE)
        assert number, f"no {wanted!r} in {self.lines}; {self._errors()}"
        return number

    def _errors(self) -> str:
        self.kill()
        assert self._process.stderr is not None
        return self._process.stderr.read()

    def tell(self, *lines: str) -> None:
        """Type lines into it."""
        assert self._process.stdin is not None
        self._process.stdin.writelines(f"{line}\n" for line in lines)
        self._process.stdin.flush()

    def signal(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    def kill(self) -> None:
        self._process.kill()
        self._process.wait(PATIENCE)
        self._reader.join(PATIENCE)

    def end(self, expected: int = 0) -> None:
        """Ask it to end, as service managers do: it does so in an orderly way, and has complained of nothing."""
        self._process.terminate()
        code = self._process.wait(PATIENCE)
        self._reader.join(PATIENCE)
        assert self._process.stderr is not None
        assert (code, self._process.stderr.read()) == (expected, "")

    def close(self) -> None:
        self.kill()
        for pipe in (self._process.stdin, self._process.stdout, self._process.stderr):
            assert pipe is not None
            pipe.close()


class Run:
    """An example as a cluster of three, or alone."""

    def __init__(self, example: str, root: Path, instead: dict[str, str], stack: ExitStack) -> None:
        self._example = example
        self._root = root
        self._instead = instead
        self._stack = stack
        found = free_ports(6, random.Random())
        self._cluster = ",".join(f"{name}=127.0.0.1:{port}" for name, port in zip(NAMES, found, strict=False))
        self.ports = dict(zip(NAMES, found[3:], strict=True))

    def alone(self) -> Program:
        return self._start(self.ports["a"], {})

    def start(self, name: str) -> Program:
        where = {"REPLKV_NAME": name, "REPLKV_DATA_DIR": str(self._root / name), "REPLKV_CLUSTER": self._cluster}
        return self._start(self.ports[name], where)

    def three(self) -> dict[str, Program]:
        return {name: self.start(name) for name in NAMES}

    def _start(self, port: int, environment: dict[str, str]) -> Program:
        command = COMMANDS[self._example]
        for written, meant in {**self._instead, "8000": str(port)}.items():
            command = re.sub(rf"\b{written}\b", meant, command)
        program = Program(command, environment)
        self._stack.callback(program.close)
        return program


Running: TypeAlias = Callable[..., Run]


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Running]:
    """Give an example, with some of its arguments replaced; whatever it starts is ended."""
    with ExitStack() as stack:
        yield lambda example, instead=None: Run(example, tmp_path, instead or {}, stack)


def ask(port: int, path: str, method: str = "GET", body: object = None) -> tuple[int, str]:
    """Make a request; return its status and its text."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}{path}", data=data, method=method, headers={"Content-Type": "application/json"}
    )
    try:
        with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def becomes(expected: object, look: Callable[[], object]) -> None:
    """Wait until it looks as expected: what one member was told, another one learns in a moment."""
    give_up = time.monotonic() + PATIENCE
    while (seen := look()) != expected:
        assert time.monotonic() < give_up, f"{seen} instead of {expected}"


def listens(port: int) -> None:
    """Wait until somebody can connect."""

    def look() -> bool:
        with socket.socket() as caller:
            return caller.connect_ex(("127.0.0.1", port)) == 0

    becomes(True, look)


# -- what each of them does --------------------------------------------------------------------------------------------------------


def test_the_readme_lists_every_example_and_nothing_else() -> None:
    there = {path.name for path in (ROOT / "examples").iterdir() if path.suffix == ".py" or (path.is_dir() and path.name != "__pycache__")}
    assert set(COMMANDS) == there


@pytest.mark.parametrize(
    ("example", "instead", "said"),
    [
        ("feature_flags.py", {}, "worker replica serves port .*"),
        ("kubernetes", {}, "replica serves port .*"),
        ("live_config_flask.py", {}, "replica serves port .*"),
        ("discovery.py", {}, "replica serves port .*"),
        ("rate_limit.py", {}, "replica called at .*"),
        ("job_queue.py", {}, "replica does jobs"),
        ("cron.py", {"10": "0.1"}, "replica has done run .*"),
        ("leader_pool.py", {}, "replica has read record 2 of source 3"),
        ("sharding.py", {}, "replica has shard 15"),
    ],
)
def test_it_runs_alone_and_ends_when_it_is_told(running: Running, example: str, instead: dict[str, str], said: str) -> None:
    program = running(example, instead).alone()
    program.says(said)
    program.end()


def test_flags_are_switched_at_one_worker_and_seen_at_all(running: Running) -> None:
    run = running("feature_flags.py")
    workers = run.three()
    for worker in workers.values():
        worker.says("worker . serves port .*")
    assert ask(run.ports["a"], "/flags/dark", "PUT", {"on": True}) == (200, "dark is stored\n")
    assert ask(run.ports["b"], "/flags/half", "PUT", {"on": True, "percent": 50}) == (200, "half is stored\n")
    becomes((200, "dark half\n"), lambda: ask(run.ports["c"], "/?user=user1"))
    assert ask(run.ports["c"], "/?user=user2") == (200, "dark\n")
    workers["a"].kill()
    workers["b"].kill()
    assert ask(run.ports["c"], "/?user=user1") == (200, "dark half\n")  # without a majority
    workers["a"] = run.start("a")
    workers["a"].says("worker a serves port .*")
    becomes((200, "dark is stored\n"), lambda: ask(run.ports["c"], "/flags/dark", "PUT", {"on": False}))
    becomes((200, "half\n"), lambda: ask(run.ports["a"], "/?user=user1"))
    workers["a"].end()
    workers["c"].end()


def test_a_flag_that_is_none_is_refused(running: Running) -> None:
    run = running("feature_flags.py")
    worker, port = run.alone(), run.ports["a"]
    worker.says("worker replica serves port .*")
    assert ask(port, "/flags/dark", "PUT", {"on": "yes"}) == (400, "no Flag: value.on must be bool, not str\n")
    assert ask(port, "/flags/dark", "PUT", {"on": True, "percent": 101})[0] == 400
    assert ask(port, "/flags/", "PUT", {"on": True})[0] == ask(port, "/else", "PUT", {"on": True})[0] == 404
    assert ask(port, "/") == (200, "\n")
    worker.end()


def test_config_in_flask_is_changed_everywhere_at_once(running: Running) -> None:
    run = running("live_config_flask.py")
    processes = run.three()
    for process in processes.values():
        process.says(". serves port .*")
    assert ask(run.ports["a"], "/everybody") == (200, "hello, everybody\n")
    assert ask(run.ports["a"], "/config", "PUT", {"greeting": "good morning", "limit": 5}) == (200, "stored\n")
    for name in NAMES:
        becomes((200, "good morning, every\n"), lambda port=run.ports[name]: ask(port, "/everybody"))  # type: ignore[misc]
    status, text = ask(run.ports["b"], "/config", "PUT", {"limit": 0})
    assert (status, "'limit' must be > 0" in text) == (400, True)
    for process in processes.values():
        process.end()


def test_config_in_flask_can_be_tested_without_a_server_or_a_cluster() -> None:
    from live_config_flask import create_app

    with Replica() as replica:
        client = create_app(replica).test_client()
        assert client.put("/config", json={"greeting": "servus"}).text == "stored\n"
        assert client.get("/ann").text == "servus, ann\n"


def test_config_in_fastapi_is_changed_everywhere_and_applied(running: Running) -> None:
    run = running("live_config_fastapi.py")
    processes = run.three()
    for name, process in processes.items():
        process.says(f"{name} is ready")
        listens(run.ports[name])  # uvicorn opens its port behind that
    assert ask(run.ports["a"], "/config", "PUT", {"log_level": "DEBUG", "slots": 2}) == (200, '"stored"')
    expected = {"config": {"log_level": "DEBUG", "slots": 2}, "log_level": "DEBUG"}
    for name in NAMES:
        becomes(expected, lambda port=run.ports[name]: json.loads(ask(port, "/config")[1]))  # type: ignore[misc]
    assert ask(run.ports["b"], "/config", "PUT", {"log_level": "LOUD"})[0] == 422
    for process in processes.values():
        process.end(-signal.SIGTERM)  # uvicorn ends the application, and then itself by the signal


def test_config_in_fastapi_can_be_tested_without_a_server_or_a_cluster() -> None:
    from fastapi.testclient import TestClient
    from live_config_fastapi import app

    with TestClient(app) as client:
        assert client.get("/config").json()["config"] == {"log_level": "INFO", "slots": 8}
        assert client.put("/config", json={"slots": 3}).json() == "stored"
        assert client.get("/config").json()["config"] == {"log_level": "INFO", "slots": 3}


def runs_of(processes: dict[str, Program]) -> list[int]:
    """Return which runs of the cron job were said to be done, by whomever."""
    return [int(line.split()[-1]) for process in processes.values() for line in process.lines]


def test_cron_leaves_no_run_out_and_does_none_twice_when_the_leader_is_killed(running: Running) -> None:
    run = running("cron.py", {"10": "0.1"})
    processes = run.three()
    done = first_line(processes, ". has done run .*")
    killed = done[0]
    processes[killed].kill()
    others = {name: process for name, process in processes.items() if name != killed}
    successor = first_line(others, ". has done run .*")[0]
    others[successor].says(f"{successor} has done run .*", after=5)
    for process in others.values():
        process.end()
    runs = sorted(runs_of(processes))
    missing = set(range(runs[0], runs[-1] + 1)) - set(runs)
    assert len(runs) == len(set(runs))
    assert len(missing) <= 1  # done and stored by the killed one, which did not come to say so


def first_line(processes: dict[str, Program], wanted: str) -> str:
    """Wait until any of them says something."""
    found: list[str] = []

    def look() -> bool:
        found.extend(line for process in processes.values() for line in process.lines if re.fullmatch(wanted, line))
        return bool(found)

    becomes(True, look)
    return found[0]


def test_the_pool_runs_once_and_goes_on_elsewhere_where_it_was(running: Running) -> None:
    run = running("leader_pool.py")
    processes = run.three()
    leader = first_line(processes, ". leads")[0]
    processes[leader].says(f"{leader} has read record 3 of source 0")
    assert [process.lines for name, process in processes.items() if name != leader] == [[], []]
    processes[leader].signal(signal.SIGSTOP)
    others = {name: process for name, process in processes.items() if name != leader}
    successor = first_line(others, ". leads")[0]
    others[successor].says(f"{successor} has read record .* of source 0")
    before = len(processes[leader].lines)
    processes[leader].signal(signal.SIGCONT)
    others[successor].says(f"{successor} has read record .* of source 3", after=20)
    for process in processes.values():
        process.end()
    # What it still tried to store was refused.  What was under way when it was stopped may have been decided before it lost its term, one
    # record of each source: it hears of that when it goes on, and nobody reads that record again.
    late = [line.rpartition(" of ")[2] for line in processes[leader].lines[before:]]
    assert len(late) == len(set(late))
    records = [line.split(" has read ")[1] for process in processes.values() for line in process.lines if " has read " in line]
    assert len(records) == len(set(records))


def shards_of(process: Program) -> set[int]:
    return {int(line.split()[-1]) for line in process.lines}


def test_shards_pass_on_when_a_worker_is_gone_and_come_back_with_it(running: Running) -> None:
    run = running("sharding.py")
    processes = run.three()
    becomes(set(range(16)), lambda: set[int]().union(*map(shards_of, processes.values())))
    for name in NAMES:
        processes[name].says(f"{name} has shard .*")
    processes["a"].kill()
    becomes(set(range(16)), lambda: shards_of(processes["b"]) | shards_of(processes["c"]))
    processes["a"] = run.start("a")
    processes["a"].says("a has shard .*")
    becomes({9, 10, 13, 14}, lambda: shards_of(processes["a"]))
    for process in processes.values():
        process.end()


def test_a_service_that_is_killed_is_passed_over_and_then_forgotten(running: Running) -> None:
    run = running("discovery.py")
    services = run.three()
    for service in services.values():
        service.says(". serves port .*")
    ports = run.ports

    def answers() -> set[str]:
        return {ask(ports["b"], "/ask")[1] for _ in range(8)}

    hello = {name: f"{name} says: hello, this is {name}\n" for name in NAMES}
    becomes(set(hello.values()), answers)
    services["a"].kill()
    assert answers() <= {hello["b"], hello["c"]}
    services["c"].end()
    assert answers() == {hello["b"]}  # without a majority
    services["a"] = run.start("a")
    services["a"].says("a serves port .*")
    becomes({hello["a"], hello["b"]}, answers)
    services["a"].end()
    services["b"].end()


def test_three_callers_together_keep_to_the_rate(running: Running) -> None:
    callers = running("rate_limit.py").three()
    for name, caller in callers.items():
        caller.says(f"{name} called at .*")
    becomes(True, lambda: sum(len(caller.lines) for caller in callers.values()) >= 60)
    for caller in callers.values():
        caller.end()
    times = sorted(float(line.split()[-1]) for caller in callers.values() for line in caller.lines)
    windows = (times[-1] - times[0]) / 2
    assert len(times) <= 20 * (windows + 1) + 12  # the last: calls that were let through just before, and made late


def test_each_job_is_done_and_its_result_stored_once_though_a_process_is_killed(running: Running, tmp_path: Path) -> None:
    run = running("job_queue.py")
    processes = run.three()
    for name, process in processes.items():
        process.says(f"{name} does jobs")
    processes["a"].tell(*(f"job a{number}" for number in range(30)))
    processes["b"].tell(*(f"job b{number}" for number in range(30)))
    processes["c"].says("c: job .*")
    processes["c"].kill()
    processes["a"].tell("last job")
    expected = sorted([f"JOB {name}{number}" for name in "AB" for number in range(30)] + ["LAST JOB"])
    with connect(str(tmp_path / "a")) as client:
        becomes(expected, lambda: sorted(kv.text for kv in client.scan(prefix="results/")))
        assert client.queue("jobs").len() == 0
    processes["a"].end()
    processes["b"].end()
