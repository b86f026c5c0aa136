"""Configuration with live reload in Flask: changed on one host, in force on all of them at the next request, and on no host halfway.

    python examples/live_config_flask.py 8000        # alone
    curl localhost:8000/hello
    curl -X PUT localhost:8000/config -H 'Content-Type: application/json' -d '{"greeting": "good morning", "limit": 3}'

Started as a cluster of three, on ports 8000 to 8002, a change at one of them is seen at the others without a restart and without polling.
"""

from __future__ import annotations

import logging
import sys

from attrs import field, frozen, validators
from flask import Flask, request
from werkzeug.serving import make_server

from replkv import Replica, Undecodable, exit_on_sigterm, typed


@frozen
class Config:
    """What can be changed while the application runs; all of it is one value, so that nobody ever sees half of a change."""

    greeting: str = "hello"
    limit: int = field(default=10, validator=validators.gt(0))


CONFIG = typed(Config)


def create_app(replica: Replica) -> Flask:
    """Return the application of one process; tests give it a ``Replica()`` in memory."""
    app = Flask(__name__)
    settings = replica.view("settings/", codec=CONFIG)  # follows the cluster; to read it is to read a dictionary

    @app.get("/<greeted>")
    def greet(greeted: str) -> str:
        config = settings.get("app", Config())  # one look for the whole request
        return f"{config.greeting}, {greeted[: config.limit]}\n"

    @app.put("/config")
    def change() -> tuple[str, int]:
        try:
            replica.mapping("settings/", codec=CONFIG)["app"] = CONFIG.decode(request.get_data())
        except Undecodable as error:  # names the field
            return f"{error}\n", 400
        return "stored\n", 200

    return app


def main(port: int) -> None:
    """Serve until SIGTERM or Ctrl-C."""
    exit_on_sigterm()
    logging.getLogger("werkzeug").setLevel(logging.WARNING)  # no line for each request
    with Replica.from_env() as replica:
        replica.wait_ready()
        server = make_server("127.0.0.1", port, create_app(replica), threaded=True)
        print(f"{replica.name} serves port {port}", flush=True)
        server.serve_forever()


if __name__ == "__main__":
    main(int(sys.argv[1]))
