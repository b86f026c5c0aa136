"""Service discovery: each process offers a service and finds the others', without a server to ask and without configured addresses.

    python examples/discovery.py 8000      # alone
    curl localhost:8000/                   # one instance's own answer
    curl localhost:8000/ask                # the answer of any instance that lives

Started as a cluster of three, on ports 8000 to 8002, ``/ask`` at any of them is answered by one of the three.  Kill one: it is passed over
at once, for another one is tried then, and it is forgotten when its lease ends.  One that is ended by SIGTERM is forgotten before it ends.
"""

from __future__ import annotations

import random
import sys
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from replkv import Registry, Replica, exit_on_sigterm


def ask(registry: Registry) -> str:
    """Return the answer of any instance that gives one."""
    found = list(registry.discover().items())  # out of this process's own memory
    for name, url in random.sample(found, len(found)):
        try:
            with urllib.request.urlopen(url, timeout=1) as answer:  # noqa: S310  # the urls are this program's own
                return f"{name} says: {answer.read().decode()}"
        except OSError:
            continue  # it has just died: the registry will know in a moment
    return "nobody is there\n"


class Handler(BaseHTTPRequestHandler):
    """Answers for this instance, or asks any of them."""

    name: str
    registry: Registry

    def do_GET(self) -> None:  # http.server's name for it
        """Answer."""
        body = (ask(self.registry) if self.path == "/ask" else f"hello, this is {self.name}\n").encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Be quiet about each request."""


def main(port: int) -> None:
    """Offer the service until SIGTERM or Ctrl-C."""
    exit_on_sigterm()
    with Replica.from_env() as replica, ThreadingHTTPServer(("127.0.0.1", port), Handler) as server:
        replica.wait_ready()
        Handler.name, Handler.registry = replica.name, replica.registry("greeter")
        with Handler.registry.register(replica.name, f"http://127.0.0.1:{port}/", ttl=3):  # it listens already; withdrawn before it ends
            print(f"{replica.name} serves port {port}", flush=True)
            server.serve_forever()


if __name__ == "__main__":
    main(int(sys.argv[1]))
