"""Servers of several processes for tests: programs of docs/DEPLOYMENT.md, started, asked and ended.  They end only what they started."""

from __future__ import annotations

import contextlib
import http.client
import os
import re
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Self

from cluster import PATIENCE, ROOT, eventually, free_ports

PROGRAMS: dict[str, str] = dict(
    re.findall(r"<!-- file: (\S+) -->\n```python\n(.*?)```", (ROOT / "docs/DEPLOYMENT.md").read_text(encoding="utf-8"), re.DOTALL)
)
"""The programs that docs/DEPLOYMENT.md shows, by their files' names."""


def session_of(pid: int) -> int | None:
    """Return the session that a process belongs to, if it runs."""
    try:
        state, _, _, session = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()[:4]
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if state == "Z" else int(session)


class Program:
    """A program in a session of its own, with all the processes it starts."""

    def __init__(self, directory: Path, *command: str, environment: dict[str, str] | None = None) -> None:
        self.log = directory / f"{command[0].rpartition('.')[2]}.log"
        with self.log.open("a") as file:
            self.process = subprocess.Popen(
                [sys.executable, "-m", *command],
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
                cwd=directory,
                env={**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{directory}", "PYTHONUNBUFFERED": "1", **(environment or {})},
                start_new_session=True,
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for pid in self.pids():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait(PATIENCE)

    def pids(self) -> list[int]:
        """Return its processes, those that their parent left behind too."""
        return [pid for pid in map(int, filter(str.isdigit, os.listdir("/proc"))) if session_of(pid) == self.process.pid]

    def said(self, text: str) -> bool:
        """Tell whether it has written this to its log; fails if it has ended."""
        assert self.process.poll() is None, self.log.read_text()
        return text in self.log.read_text()

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Ask it to end and return its exit code; fails if a process of it is left."""
        self.process.send_signal(number)
        code = self.process.wait(PATIENCE)
        eventually(lambda: not self.pids())  # multiprocessing's tracker of resources ends a moment later
        return code


class WebServer(Program):
    """A server that answers ``visits pid``, or a JSON object of both."""

    def __init__(self, directory: Path, port: int, *command: str, environment: dict[str, str]) -> None:
        self.port = port
        super().__init__(directory, *command, environment=environment)

    def get(self) -> str | None:
        """Return what it answers; None if it does not, as when the worker that was to answer has been killed."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
        try:
            connection.request("GET", "/")
            answer = connection.getresponse()
            return answer.read().decode() if answer.status == http.HTTPStatus.OK else None
        except (OSError, http.client.HTTPException):
            return None
        finally:
            connection.close()

    def visit(self) -> tuple[int, int]:
        """Wait for an answer; return the number of the visit and who answered."""

        def answer() -> str | None:
            assert self.process.poll() is None, self.log.read_text()
            return self.get()

        visits, pid = re.findall(r"\d+", eventually(answer))
        return int(visits), int(pid)

    def visits(self, workers: int) -> dict[int, int]:
        """Ask, eight at a time, until so many workers have answered; return the number of each visit with who answered it."""
        answers: dict[int, int] = {}
        with ThreadPoolExecutor(8) as pool:
            while len(set(answers.values())) < workers:
                found = list(pool.map(lambda _: self.visit(), range(16)))
                assert len(dict(found)) == 16, "no two visits have one number"
                assert not answers or min(dict(found)) > max(answers), "numbers grow"
                answers.update(found)
        return answers


def member(directory: Path) -> Program:
    """Start ``replkv member`` with its data in ``directory / "data"``, and wait until it is ready."""
    program = Program(directory, "replkv", "member", environment={"REPLKV_DATA_DIR": str(directory / "data")})
    try:
        eventually(lambda: program.said("is ready"))
    except BaseException:
        program.__exit__()
        raise
    return program


def write_programs(directory: Path, *names: str) -> None:
    """Write programs of docs/DEPLOYMENT.md into a directory."""
    for name in names:
        (directory / name).write_text(PROGRAMS[name], encoding="utf-8")


def free_port() -> int:
    """Return a port on which nobody listens."""
    return free_ports(1)[0]
