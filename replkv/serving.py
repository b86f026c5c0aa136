"""The door of a real member: the sockets it listens on, and the thread that runs its turns."""

from __future__ import annotations

import logging
import resource
import secrets
import threading
from queue import SimpleQueue
from typing import TYPE_CHECKING, Final

from replkv import whereabouts
from replkv.address import parse_address
from replkv.door import UNKNOWN_MAX, Door, advertised
from replkv.engine import Embedded
from replkv.login import Porter
from replkv.secure import Secured
from replkv.transport import NngTransport

if TYPE_CHECKING:
    from collections.abc import Callable

    from replkv.node import Node
    from replkv.tls import TLS

logger = logging.getLogger(__name__)

CLIENTS_MAX: Final = 10_000
"""Connections of clients that a member takes, where the system lets a process have as many."""


class Bench:
    """A thread of its own, begun with the first job, on which jobs are done one after the other.

    Args:
        name: of the thread.
    """

    def __init__(self, name: str) -> None:
        self._jobs: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def do(self, job: Callable[[], None]) -> None:
        """Have something done; one thread calls this."""
        if self._thread.ident is None:
            self._thread.start()
        self._jobs.put(job)

    def close(self, timeout: float) -> None:
        """End the thread when what is under way is done; waits for that for at most ``timeout`` seconds."""
        if self._thread.ident is not None:
            self._jobs.put(None)
            self._thread.join(timeout)

    def _run(self) -> None:
        while (job := self._jobs.get()) is not None:
            try:
                job()
            except Exception:  # whatever it is: the next one has nothing to do with it
                logger.exception("%s met an error it should not have", self._thread.name)


class Serving:
    """Serves a member's clients; they are answered from ``start`` on.

    That clients of this machine can't find it is worth a warning, but no reason for a member not to take part: its disk may be full.

    Args:
        node: the member, which has been started.
        data_dir: where clients of this machine and user find it; None: they don't.
        clients: ``Config.clients``.
        tls: its certificates; None: nothing is encrypted.

    Raises:
        ValueError: the certificates can't be used.
        OSError: it can't listen on ``clients``; nothing is left behind.
    """

    def __init__(self, node: Node, data_dir: str | None, clients: str | None, tls: TLS | None = None) -> None:
        self._name = node.name
        self._data_dir = data_dir
        secured = Secured(tls, node.name, clients=True) if tls is not None and clients is not None else None
        if secured is not None and secured.tls.client_ca is None and secured.tls.require_client_cert:
            logger.warning(
                "%s: clients need certificates of the authority that signs members', in %s, so each of them could join as a member: "
                "give clients an authority of their own, and TLS(client_ca=)",
                node.name,
                secured.tls.ca,
            )
        most = _most_connections()
        self._transport = NngTransport(most, name=node.name, secured=secured)
        try:
            bound = [self._transport.listen(parse_address(clients))] if clients is not None else []
        except BaseException:
            self._transport.close()
            raise
        if data_dir is not None:
            self._listen_near(data_dir, bound)
        self._passwords = Bench(f"replkv-{node.name}-passwords")  # comparing one takes long, and others must be served meanwhile
        engine = Embedded(node)
        porter = Porter(engine, node.clock, secrets.token_bytes, self._passwords.do)
        own = advertised(bound, node.addresses[node.name])
        self._door = Door(engine, self._transport, porter, node.clock, own, min(UNKNOWN_MAX, most // 2))
        self.thread = threading.Thread(target=self._run, name=f"replkv-{node.name}-clients", daemon=True)
        """The one that answers."""

    def _listen_near(self, data_dir: str, bound: list[str]) -> None:
        try:
            near = whereabouts.listen_near(data_dir, self._transport.listen)
            whereabouts.publish(data_dir, [near, *bound])
        except OSError as error:
            logger.warning("%s: clients of this machine may not find it by its data directory: %s", self._name, error)

    def start(self) -> None:
        """Begin to answer."""
        self.thread.start()

    def wake(self) -> None:
        """Have it look whether the member has stopped, after which it ends; any thread."""
        self._door.wake()

    def close(self, timeout: float) -> None:
        """Send all clients away, who go to other members; call it while the data directory is still the member's.

        Args:
            timeout: seconds to wait for that.
        """
        self._door.close()
        self.thread.join(timeout)
        self._passwords.close(timeout)
        if self.thread.is_alive():
            logger.warning("%s did not send its clients away within %.1f s; they are cut off", self._name, timeout)

    def _run(self) -> None:
        try:
            while not self._door.closed:
                self._door.turn()
        except Exception:  # whatever it is: the member goes on, and clients find others
            logger.exception("%s met an error it should not have, and serves clients no longer", self._name)
            self._transport.close()
        self._passwords.close(0.0)
        if self._data_dir is not None and self._door.closing:  # else the member stopped by itself: it may be another process's by now
            whereabouts.withdraw(self._data_dir)


def _most_connections() -> int:
    """Return how many connections to take: the log needs descriptors too, and a member that can open no file stops."""
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return CLIENTS_MAX if limit == resource.RLIM_INFINITY else min(CLIENTS_MAX, max(16, limit // 2))
