"""Feature flags shared by web workers: switched at any of them, seen by all at once, and read on each request without any I/O.

    python examples/feature_flags.py 8000                                          # one worker, alone
    curl -X PUT localhost:8000/flags/dark-mode -d '{"on": true, "percent": 50}'    # for every second user
    curl 'localhost:8000/?user=ann'

Started as a cluster of three, on ports 8000 to 8002, each worker has all flags in its own memory.  Switch one at 8000, and look at 8001.
Kill one of them: nothing changes.  Kill two: flags can't be switched any more, and are still read.
"""

from __future__ import annotations

import sys
from hashlib import sha256
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

from attrs import field, frozen, validators

from replkv import OutcomeUnknown, Replica, Unavailable, Undecodable, View, exit_on_sigterm, typed


@frozen
class Flag:
    """Who sees a feature: nobody, or some percent of the users, always the same ones."""

    on: bool
    percent: int = field(default=100, validator=[validators.ge(0), validators.le(100)])

    def shows(self, name: str, user: str) -> bool:
        """Tell whether a user sees it."""
        return self.on and int(sha256(f"{name} {user}".encode()).hexdigest(), 16) % 100 < self.percent


FLAG = typed(Flag)


class Handler(BaseHTTPRequestHandler):
    """``GET /?user=…`` lists the features that a user sees, ``PUT /flags/…`` sets a flag."""

    replica: Replica
    flags: View[Flag]

    def do_GET(self) -> None:  # http.server's name for it
        """Read this process's memory: no call leaves it."""
        user = parse_qs(urlsplit(self.path).query).get("user", ["nobody"])[0]
        self.answer(HTTPStatus.OK, " ".join(name for name, flag in self.flags.items() if flag.shows(name, user)))

    def do_PUT(self) -> None:
        """Store a flag: when the answer is sent, a majority of the cluster has it on disk."""
        _, place, name = self.path.partition("/flags/")
        if not (place and name):
            return self.answer(HTTPStatus.NOT_FOUND, "flags are at /flags/…")
        try:
            flag = FLAG.decode(self.rfile.read(int(self.headers.get("Content-Length", 0))))
            self.replica.mapping("flags/", codec=FLAG)[name] = flag
        except Undecodable as error:
            return self.answer(HTTPStatus.BAD_REQUEST, str(error))
        except (Unavailable, OutcomeUnknown) as error:  # to repeat it does no harm
            return self.answer(HTTPStatus.SERVICE_UNAVAILABLE, str(error))
        return self.answer(HTTPStatus.OK, f"{name} is stored")

    def answer(self, status: HTTPStatus, text: str) -> None:
        """Send a line of text."""
        body = f"{text}\n".encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Be quiet about each request."""


def main(port: int) -> None:
    """Serve until SIGTERM or Ctrl-C."""
    exit_on_sigterm()
    with Replica.from_env() as replica:
        replica.wait_ready()
        Handler.replica, Handler.flags = replica, replica.view("flags/", codec=FLAG)
        with ThreadingHTTPServer(("127.0.0.1", port), Handler) as server:
            print(f"worker {replica.name} serves port {port}", flush=True)
            server.serve_forever()


if __name__ == "__main__":
    main(int(sys.argv[1]))
