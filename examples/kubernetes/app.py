"""A pod of a StatefulSet: one member of the cluster, and a web page that counts its visits in it.

    python examples/kubernetes/app.py 8000   # alone: a cluster of one, in memory
    curl localhost:8000/
    python app.py 0.0.0.0:8080               # in a pod: what statefulset.yaml says in the variables of Replica.from_env()
    python app.py remove store-3 store-4     # in any pod: take members out of the cluster, before their pods are scaled away

README.md beside it says what Kubernetes asks of such a program, and why it is made so.
"""

from __future__ import annotations

import os
import sys
import threading
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from replkv import MemberExists, Replica, ReplkvError, connect, exit_on_sigterm


class Handler(BaseHTTPRequestHandler):
    """Answers the probes, and counts visits."""

    replica: Replica | None = None  # until it is open: a long log takes a while to read

    def do_GET(self) -> None:  # http.server's name for it
        """Answer."""
        if self.path == "/alive":
            self._say(200 if self.replica is None or self.replica.failure is None else 500)
        elif self.path == "/ready":
            self._say(200 if self.replica is not None and takes_part(self.replica) else 503)
        elif self.replica is None:
            self._say(503)
        else:
            try:
                self._say(200, f"{self.replica.add('visits').value}\n")
            except ReplkvError as error:
                self._say(503, f"{error}\n")

    def _say(self, status: int, text: str = "") -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(text.encode())))
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *_: object) -> None:
        """Be quiet about each request."""


def takes_part(replica: Replica) -> bool:
    """Tell whether a member does all that the others may have to count on: only then the next one may be restarted."""
    status = replica.status()
    return replica.ready and replica.name in status.voters and not status.healing


def open_member() -> Replica:
    """Open this pod's member: one of the founders, or one that joins them."""
    name, cluster = os.environ.get("REPLKV_NAME"), os.environ.get("REPLKV_CLUSTER")
    founders = dict(part.split("=") for part in cluster.split(",")) if cluster else {}
    if name is None or name in founders:
        return Replica.from_env()
    data = Path(os.environ["REPLKV_DATA_DIR"])
    if not data.is_dir() or not any(data.iterdir()):  # who was removed has a directory, and must not name itself again
        ask_for_a_place(name, list(founders.values()))
    return Replica.from_env(cluster=None, join=founders.values())


def ask_for_a_place(name: str, founders: list[str]) -> None:
    """Have the cluster name a member that is new; one whose volume was lost has its name there still."""
    port = os.environ["REPLKV_CLIENTS"].rpartition(":")[2]  # the same for all
    seeds = [f"{address.rpartition(':')[0]}:{port}" for address in founders]
    with (
        suppress(MemberExists),
        connect(seeds, insecure=True, timeout=None) as cluster,
    ):  # if at another address, it will say where it is now
        cluster.change_members(add={name: os.environ["REPLKV_ADVERTISE"]}, timeout=60)


def run(listen: str) -> None:
    """Run the pod until SIGTERM; a member that stops by itself ends it too, with the reason."""
    exit_on_sigterm()
    host, _, port = listen.rpartition(":")
    with ThreadingHTTPServer((host or "127.0.0.1", int(port)), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        with open_member() as replica:
            Handler.replica = replica
            print(f"{replica.name} serves port {port}")
            with replica.watch("\0") as never:  # a watch wakes up when its member stops, and raises the reason
                for _ in never:
                    pass


def remove(names: list[str]) -> None:
    """Take members out of the cluster: their processes stop, and a majority is one of those who stay."""
    with connect(os.environ["REPLKV_DATA_DIR"]) as cluster:
        cluster.change_members(remove=names, timeout=60)
        print("members:", ", ".join(member.name for member in cluster.members()))


if __name__ == "__main__":
    if sys.argv[1:2] == ["remove"]:
        remove(sys.argv[2:])
    else:
        run(sys.argv[1])
