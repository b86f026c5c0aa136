"""``replkv member``: a member in a process of its own, for hosts whose other processes make poor voters.

They come and go with deploys, fork, or are more than a cluster has use for; they reach this member by ``replkv.connect(data_dir)``.
Nothing but the standard library and replkv itself is needed here.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
from typing import TYPE_CHECKING, Final

from replkv import Replica, ReplkvError, exit_on_sigterm
from replkv.cli.codes import OK, UNAVAILABLE, USAGE, complain

if TYPE_CHECKING:
    import argparse

logger = logging.getLogger("replkv.cli.member")

DESCRIPTION: Final = """\
Run one member of a cluster until SIGTERM or Ctrl-C: then it hands leadership over, closes, and exits with 0. Exits with 2 when an argument
is wrong and with 69 when it can't start or stops by itself, and says why. An option that is not given is taken from its variable:
REPLKV_NAME, REPLKV_DATA_DIR, REPLKV_LISTEN, REPLKV_ADVERTISE, REPLKV_CLUSTER, REPLKV_JOIN, REPLKV_CLIENTS, REPLKV_PRIORITY,
REPLKV_LEARNER and REPLKV_INSECURE (1 or 0), and REPLKV_TLS_CA, REPLKV_TLS_CERT, REPLKV_TLS_KEY, REPLKV_TLS_CLIENT_CA,
REPLKV_TLS_SERVER_NAME and REPLKV_TLS_REQUIRE_CLIENT_CERT (1 or 0)."""

OPTIONS: Final = {
    "name": ("NAME", "of this member, one of the cluster's (default: replica)"),
    "data-dir": ("DIRECTORY", "where it keeps its log; clients of this machine find it by that, too"),
    "listen": ("ADDRESS", "where it listens for the other members (default: its own address)"),
    "advertise": ("ADDRESS", "where the others reach it (default: its address in the cluster)"),
    "cluster": ("NAME=ADDRESS,…", "every founder with its address, this one included (default: a cluster of one)"),
    "join": ("ADDRESS,…", "members of a cluster to join, which has named this one with 'replkv members --add'; instead of --cluster"),
    "clients": ("ADDRESS", "where it serves clients of other machines (default: nowhere)"),
    "priority": ("NUMBER", "how much it is wanted as leader (default: 0)"),
}
TLS_OPTIONS: Final = {
    "ca": ("FILE", "use TLS: the authority that signs the members' certificates"),
    "cert": ("FILE", "with --ca: this member's own certificate, which has its name"),
    "key": ("FILE", "with --ca: the private key of --cert, which only its owner can read"),
    "client-ca": ("FILE", "with --ca: the authority that signs clients' certificates (default: that of --ca)"),
    "server-name": ("NAME", "with --ca and --join: the name that the certificates of those have, if it is not the host of the address"),
    "require-client-cert": ("1|0", "with --ca: 0 lets clients in that have no certificate, and a password instead (default: 1)"),
}


def add_options(parser: argparse.ArgumentParser) -> None:
    """Teach a parser this command's options."""
    parser.description = DESCRIPTION
    for option, (value, text) in {**OPTIONS, **TLS_OPTIONS}.items():
        parser.add_argument(f"--{option}", metavar=value, help=text)
    parser.add_argument("--learner", action="store_const", const="1", help="with --join: get everything, but never a vote")
    parser.add_argument(
        "--insecure", action="store_const", const="1", help="go beyond this machine without --ca, although nothing is encrypted"
    )


def run(chosen: argparse.Namespace) -> int:
    """Run a member until it is told to end, and return the exit code.

    Args:
        chosen: what the user chose of the options.
    """
    for option, value in vars(chosen).items():
        name, variable = option.replace("_", "-"), option.upper()
        if value is not None and name in {*OPTIONS, *TLS_OPTIONS, "learner", "insecure"}:
            os.environ[f"REPLKV_TLS_{variable}" if name in TLS_OPTIONS else f"REPLKV_{variable}"] = value
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(levelname)s %(message)s")
    exit_on_sigterm()
    signal.signal(signal.SIGINT, signal.getsignal(signal.SIGTERM))  # Ctrl-C asks for the same; asked twice, it goes on closing
    try:
        _serve()
    except SystemExit:
        logger.info("the member has closed, as it was told to")
        return OK
    except (ValueError, TypeError) as error:
        complain(error)
        return USAGE
    except (ReplkvError, OSError) as error:
        complain(error)
    return UNAVAILABLE


def _serve() -> None:
    """Run the member that the environment describes.

    Raises:
        ValueError, TypeError: it is described wrongly.
        ReplkvError, OSError: it can't start, or has stopped by itself.
        SystemExit: it was told to end, and has closed.
    """
    if not (os.environ.get("REPLKV_DATA_DIR") or os.environ.get("REPLKV_CLIENTS")):
        raise ValueError("give --data-dir or REPLKV_DATA_DIR: without it a member forgets everything at its end, and no client finds it")
    with Replica.from_env() as replica:
        logger.info("member %s is open and waits for a leader", replica.name)
        replica.wait_ready()
        logger.info("member %s is ready at revision %d; %s leads", replica.name, replica.revision, replica.status().raft_leader)
        with replica.watch("\0") as never:  # a watch wakes up when its member fails, and raises what stopped it
            for _ in never:
                pass
