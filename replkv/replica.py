"""``Replica``: one member inside this process, and the thread that runs it."""

from __future__ import annotations

import atexit
import logging
import os
import random
import sys
import threading
import time
import warnings
import weakref
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar

from attrs import evolve

from replkv import address, fork, passwords
from replkv.acting import ActingReplica
from replkv.auth_calls import AuthState, subject_of
from replkv.auth_ops import to_user
from replkv.backup import to_path
from replkv.config import Config, Settings
from replkv.disk import ForgetfulDisk, MemoryDisk, RealDisk
from replkv.engine import Embedded
from replkv.errors import Closed, OutcomeUnknown, Removed, ReplkvError
from replkv.facade import BlockingFacade, Facade
from replkv.housekeeper import HousekeeperThread
from replkv.leasing import Lease
from replkv.member_ops import to_member_name
from replkv.node import Node
from replkv.plans import Leave
from replkv.secure import Secured
from replkv.serving import Serving
from replkv.surface import DEFAULT, Timeout
from replkv.tls import TLS
from replkv.transport import NngTransport
from replkv.waiting import Notifier
from replkv.watching import Watch
from replkv.wire import MEMBERS_MAX

if TYPE_CHECKING:
    from replkv.status import Member, Status

W = TypeVar("W")
L = TypeVar("L")

logger = logging.getLogger(__name__)

_open: weakref.WeakSet[EmbeddedMember[Any, Any]] = weakref.WeakSet()
_ending: weakref.WeakSet[threading.Thread] = weakref.WeakSet()  # of members that nobody holds any more, and that end by themselves


boottime = partial(time.clock_gettime, getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))
"""Monotonic seconds; time in which the machine was suspended counts where the system can tell."""


class EmbeddedMember(Facade[W, L]):
    """What ``Replica`` and ``AsyncReplica`` share: the arguments, documented there, the member and its threads."""

    def __init__(
        self,
        name: str = "replica",
        *,
        data_dir: str | os.PathLike[str] | None = None,
        listen: str | None = None,
        advertise: str | None = None,
        cluster: Mapping[str, str] | None = None,
        join: Iterable[str] | None = None,
        learner: bool = False,
        tls: TLS | None = None,
        insecure: bool = False,
        config: Config | None = None,
        settings: Settings | None = None,
    ) -> None:
        fork.ensure_not_forked()
        _check_threads()
        to_member_name(name)
        self._name = name
        self._config = _checked(config, Config)
        self._settings = _checked(settings, Settings)
        self._data_dir = None if data_dir is None else to_path(data_dir, "data_dir", "a directory")
        self._join = _seeds(join, cluster)
        self._addresses = _addresses(name, cluster, listen, advertise, joins=bool(self._join))
        self._learner = _checked_learner(learner, self._join)
        self._listen = self._addresses[name] if listen is None else address.parse_address(listen)
        if (len(self._addresses) > 1 or self._join) and self._data_dir is None:
            raise ValueError(f"{name} is a member among others: give it data_dir=, or it forgets its vote when it restarts")
        self._tls = _checked_tls(tls, name)
        _check_reach([self._listen] if self._listen else [], self._config.clients, trusted=insecure or tls is not None)
        self._node: Node | None = None
        self._embedded: Embedded | None = None
        self._thread: threading.Thread | None = None
        self._serving: Serving | None = None
        self._notifier: Notifier | None = None
        self._closing = threading.Lock()
        self._closed = False
        self._constructed()

    def _constructed(self) -> None:
        """Do what follows the check of the arguments; ``AsyncReplica`` leaves it to ``open``."""

    # -- life ----------------------------------------------------------------------------------------------------------------------

    def _start_once(self) -> None:
        """Start, unless that has been done; from any thread."""
        with self._closing:
            if self._closed:
                raise Closed(f"member {self._name} is closed; make a new {type(self).__name__}")
            if self._node is None:
                self._start()
            if self._closed:  # close() came meanwhile, and did not wait for it
                self._end(1.0)
                raise Closed(f"member {self._name} was closed while it opened")

    def _start(self) -> None:
        """Open, recover and start; waits for nothing but the disk."""
        secured = Secured(self._tls, self._name) if self._tls is not None else None
        disk = ForgetfulDisk() if self._data_dir is None else RealDisk(self._data_dir)
        transport = NngTransport(name=self._name, secured=secured)
        housekeeper = HousekeeperThread(f"replkv-{self._name}-housekeeper", transport.wake)
        rng = random.Random(int.from_bytes(os.urandom(16)))
        network = (transport, boottime, rng, housekeeper, self._listen, self._join)
        node = Node(self._name, self._config, self._settings, self._addresses, disk, *network, learner=self._learner)
        try:
            _start(node, disk)
        except BaseException:
            housekeeper.close()
            raise
        try:
            self._serving = self._serve(node)
        except BaseException:
            node.request_close(0.0)
            node.turn(0.0)  # no thread runs it yet
            raise
        self._notifier = Notifier(f"replkv-{self._name}-notifier", boottime)
        self._thread = threading.Thread(target=_turn, args=(node, self._notifier, self._serving), name=f"replkv-{self._name}", daemon=True)
        self._embedded = Embedded(node)
        self._embedded.thread = self._thread
        self._node = node
        self._thread.start()
        if self._serving is not None:
            self._serving.start()
        _open.add(self)

    def _serve(self, node: Node) -> Serving | None:
        """Open the door for clients, where there is one."""
        if self._data_dir is None and self._config.clients is None:
            return None
        try:
            return Serving(node, self._data_dir, self._config.clients, self._tls)
        except OSError as error:
            raise ValueError(f"member {self._name} can't serve clients: {error.strerror}") from error

    def _close(self, timeout: float) -> None:
        limit = self._timeout(timeout)
        if limit is None:
            raise TypeError("close() takes seconds: it never waits without limit")
        if self._thread is threading.current_thread():
            return
        self._closed = True
        if not self._closing.acquire(timeout=limit):
            return  # another thread is still opening it, and ends it when it has
        self._closing.release()
        self._end(limit)

    def _end(self, limit: float) -> None:
        """Ask the member to close, unless somebody has, and wait for its threads."""
        if self._node is None or self._thread is None or self._notifier is None:
            return
        until = boottime() + limit
        if self._serving is not None:
            self._serving.close(limit)
        if not self._node.closing:
            self._node.request_close(max(0.0, until - boottime()))
        self._thread.join(max(0.0, until - boottime()))
        if self._thread.is_alive():
            logger.warning("%s did not stop within %.1f s: its disk or its process is stuck; it ends with the process", self._name, limit)
            self._node.hub.end()  # who iterates over a watch must not wait for that
        self._notifier.close()

    def __del__(self) -> None:
        node = getattr(self, "_node", None)  # missing where an argument was wrong
        if node is None or self._closed or node.stopped or fork.forked():
            return
        node.request_close(0.0)
        serving = None if self._serving is None else self._serving.thread
        _ending.update(thread for thread in (self._thread, serving) if thread is not None)
        warnings.warn(f"{self._name} was not closed; use 'with' or call close()", ResourceWarning, stacklevel=1, source=self)

    def _running(self) -> Node:
        """Return the node, if it may be used here.

        Raises:
            ForkedProcess: in a forked child.
            Closed, StorageError: it has stopped; the error says why.
        """
        fork.ensure_not_forked()
        node = self._node
        if node is None:
            raise Closed(f"member {self._name} is {'closed' if self._closed else 'not open yet'}")
        if self._closed or node.stopped:
            failure = node.failure
            raise Closed(f"member {self._name} is closed") if failure is None else failure.again()
        return node

    def _engine(self) -> Embedded:
        node = self._node
        if node is None or self._closed or node.stopped or fork._forked:  # noqa: SLF001  # every call asks: spare it one
            self._running()  # says why it can't be used
        return self._embedded  # type: ignore[return-value]  # a running node has one

    # -- to look at ----------------------------------------------------------------------------------------------------------------

    @property
    def name(self) -> str:
        """This member's name."""
        return self._name

    @property
    def ready(self) -> bool:
        """Whether this member knows a leader and has applied all it knows to be decided; never waits, and is False in a forked child."""
        return self._node is not None and not fork.forked() and self._node.ready

    @property
    def failure(self) -> ReplkvError | None:
        """Why this member stopped; None while it runs, and when it was closed."""
        return self._node.failure if self._node is not None else None

    def status(self) -> Status:
        """Return this member's view of itself and its cluster; never waits, and answers when closed too.

        Raises:
            Closed: it was never opened.
        """
        if self._node is None:
            raise Closed(f"{self._name} is not open yet")
        return self._node.status()

    def metrics(self) -> dict[str, int | float]:
        """Return what this member has counted since it started, and how large it is; never waits, and answers when closed too.

        docs/DEPLOYMENT.md says what each name means.  Only a member has it: a client counts nothing, and the members' counts are theirs.

        Raises:
            Closed: it was never opened.
        """
        if self._node is None:
            raise Closed(f"{self._name} is not open yet")
        return self._node.metrics()

    @contextmanager
    def _leaving(self) -> Iterator[Leave]:
        """Let no write follow the one that removes this member, for it would not learn what became of them; if that fails, let them go."""
        engine, removal = self._engine(), Leave(self._name)
        engine.node.proposals.end_with(removal.command(engine))
        try:
            yield removal
        except (OutcomeUnknown, Removed):
            if not isinstance(self.failure, Removed):
                raise
        finally:
            engine.node.proposals.end_with(None)
            engine.look_again()

    def members(self) -> list[Member]:
        """Return the members of the cluster as this one sees them; never waits."""
        return self._running().members()

    def __repr__(self) -> str:
        state = self._node.status() if self._node is not None else None
        what = f"{state.state}, leader {state.raft_leader}, revision {state.revision}" if state else "not open"
        return f"<{type(self).__name__} {self._name}: {what}>"

    @classmethod
    def from_env(cls, **overrides: Any) -> Self:
        """Build one from the environment.

        ``REPLKV_NAME``, ``_DATA_DIR``, ``_LISTEN``, ``_ADVERTISE``, ``_CLUSTER`` ("a=host:port,…"), ``_JOIN`` ("host:port,…"),
        ``_LEARNER`` and ``_INSECURE`` ("1" or "0"), of ``Config`` ``_CLIENTS`` and ``_PRIORITY``, and of ``TLS`` ``_TLS_CA``,
        ``_TLS_CERT``, ``_TLS_KEY``, ``_TLS_CLIENT_CA``, ``_TLS_SERVER_NAME`` and ``_TLS_REQUIRE_CLIENT_CERT`` ("1" or "0").

        Args:
            overrides: arguments that win over the environment; a ``config`` without ``clients`` or ``priority`` leaves that to it.

        Raises:
            ValueError: a variable is not in its form; the text names it.
        """
        arguments = _tls_from_env()
        for argument in ("name", "data_dir", "listen", "advertise"):
            if value := os.environ.get(f"REPLKV_{argument.upper()}"):
                arguments[argument] = value
        if value := os.environ.get("REPLKV_CLUSTER"):
            arguments["cluster"] = _parse_cluster(value)
        if value := os.environ.get("REPLKV_JOIN"):
            arguments["join"] = [part.strip() for part in value.split(",")]
        for argument in ("learner", "insecure"):
            if value := os.environ.get(variable := f"REPLKV_{argument.upper()}"):
                arguments[argument] = _parse_choice(variable, value)
        for choice in ("clients", "priority"):
            if value := os.environ.get(f"REPLKV_{choice.upper()}"):
                overrides["config"] = _with_choice(overrides.get("config"), choice, value)
        return cls(**{**arguments, **overrides})


EmbeddedMember.__init__.__qualname__ = "Replica.__init__"  # what Python names when it refuses an argument; AsyncReplica has the same


class Replica(EmbeddedMember[Watch, Lease], BlockingFacade[Watch, Lease]):
    """One member of a cluster, inside this process; every call blocks until it has its answer.

    The constructor opens, recovers and starts; ``with`` and ``close()`` end it.  All calls may be made from any thread.

    **Who holds a Replica is root**: this process has all data in its memory and votes in the cluster, so that nothing it asks for is
    denied, whether auth is enabled or not.  ``as_user`` returns the same calls with the rights of a user.

    Args:
        name: of this member; a letter, digit or underscore, then those, dots and dashes; at most 64.
        data_dir: where this member keeps its log; None keeps all in memory, which only a cluster of one may.
        listen: the address to listen on; by default ``advertise``.
        advertise: the address the others reach this member at; by default ``cluster[name]``, else ``listen``.
        cluster: the address of every founder by name, this one included.  The same call is right at every start: who has state uses it as
            an address book, and who has lost its directory comes back as a new member in place of the old one.  None founds a cluster of
            one, which others can join if it has an address.
        join: addresses of members of a cluster to join; one is enough.  With ``tls`` the certificate with this member's name is its
            permission; without, ``change_members`` has to name it first.
        learner: get everything, but never a vote; with ``join``.
        tls: encrypt all connections over TCP, and let certificates say who is who: each member's own has its name.
        insecure: listen beyond this machine although nothing is encrypted and nobody is authenticated.
        config: this process's choices.
        settings: what the cluster is founded with; later those in the log count.

    Raises:
        TypeError, ValueError: an argument is wrong; nothing was opened.
        StorageError: the directory can't be used; ``DirectoryInUse``, ``WrongCluster``, ``Corrupt`` and ``Incompatible`` say why.
        ForkedProcess: the parent of this process had one.
        RuntimeError: gevent has replaced the threads of this process.
    """

    def _constructed(self) -> None:
        self._start_once()

    def as_user(self, name: str, password: str | bytes, *, timeout: Timeout = DEFAULT) -> ActingReplica:
        """Return the calls of this member with the rights of a user, for code that acts on somebody's behalf.

        Where auth is not enabled anybody passes and nothing is denied; who has not given the user's password then has to come again when
        it is.  It is no sandbox: code that can reach this object is root.

        Args:
            name: of the user.
            password: which it has; checking it takes a tenth of a second on the caller's thread, on purpose.
            timeout: seconds, besides.

        Raises:
            TypeError, ValueError: a bad argument; nothing was asked.
            AuthenticationFailed: there is no such user, or its password is another.
            NoLeader: whether it is could not be found out in time.
        """
        user, secret = to_user(name), passwords.to_password(password)
        return ActingReplica(self, subject_of(self._run(AuthState(), timeout), user, secret))

    def close(self, timeout: float = 5.0) -> None:
        """Hand leadership over, stop, and let go of the directory; does nothing when closed already, and never hangs.

        Args:
            timeout: seconds.
        """
        if not fork.forked():
            self._close(timeout)

    def leave(self, timeout: Timeout = DEFAULT) -> None:
        """Leave the cluster for good, and close: this member is removed, behind a successor where it leads.

        Its directory stays and is of no use any more: only an empty one can join again.  What other threads of this process ask for is
        answered; a write that comes later waits, and raises ``Removed`` or ``Closed``: it was not done.  A member that shall come back is
        closed, and does not leave.

        Args:
            timeout: seconds.

        Raises:
            TypeError, ValueError: no timeout.
            MembershipRefused: nobody would be left to vote; the member goes on, as it does after the following ones.
            NoLeader: nobody could be asked in time; nothing was changed.
            OutcomeUnknown: asked, and no answer in time; call it again.
            WaitTimeout: the removal is decided, and not carried out yet; the member stops by itself when it is, as ``Removed``.
        """
        with self._leaving() as removal:
            self._run(removal, timeout)
        self.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


def _start(node: Node, disk: MemoryDisk | RealDisk) -> None:
    try:
        node.start()
    except ReplkvError:
        raise
    except OSError as error:
        _check_unused(disk)  # that this member is running already says more than that its address is taken
        raise ValueError(f"member {node.name} {error.strerror}") from error


def _turn(node: Node, notifier: Notifier, serving: Serving | None) -> None:
    """Run the node's turns until it has stopped."""
    while not node.stopped:
        node.turn()
    notifier.stop()
    if serving is not None:
        serving.wake()


@atexit.register
def _close_all() -> None:
    """Close what is open when the interpreter ends: before nng, whose own handler was registered earlier, ends beneath it."""
    if not fork.forked():
        for replica in list(_open):
            replica._close(2.0)  # noqa: SLF001  # one module
        for thread in list(_ending):
            thread.join(2.0)


# -- arguments ---------------------------------------------------------------------------------------------------------------------


def _check_threads() -> None:
    """Refuse threads that gevent has replaced: a member on one of its greenlets would stand still whenever another one computes."""
    monkey = sys.modules.get("gevent.monkey")
    if monkey is not None and any(monkey.is_module_patched(module) for module in ("threading", "socket")):
        raise RuntimeError(
            "gevent has patched this process, and a member needs real threads: run the Replica in a process without gevent, "
            "such as 'replkv member', and use replkv.connect() here"
        )


def _checked_tls(tls: object, name: str) -> TLS | None:
    """Return the certificates to use, whose files have been looked at."""
    if tls is None:
        return None
    if not isinstance(tls, TLS):
        raise TypeError(f"tls must be a replkv.TLS, not {type(tls).__name__}: tls=TLS(ca=..., cert=..., key=...)")
    tls.load(name)
    return tls


def _check_reach(listened: list[str], clients: str | None, *, trusted: bool) -> None:
    """Refuse to listen beyond this machine without encryption, unless that is wanted."""
    for url in [*listened, *([address.parse_address(clients)] if clients is not None else [])]:
        if not trusted and not address.is_loopback(url):
            raise ValueError(
                f"{url} can be reached from other machines, and nothing is encrypted there: give tls=TLS(ca=..., cert=..., key=...) "
                "with certificates for all members, or listen on loopback, or say insecure=True if the network is trusted"
            )


def _check_unused(disk: MemoryDisk | RealDisk) -> None:
    """Raise DirectoryInUse if another process has the directory; one that was never used is left as it is."""
    if isinstance(disk, RealDisk) and os.path.exists(os.path.join(disk.where, "lock")):
        try:
            disk.lock()
        finally:
            disk.close()


T = TypeVar("T", Config, Settings)


def _checked(value: T | None, kind: type[T]) -> T:
    if value is None:
        return kind()
    if not isinstance(value, kind):
        raise TypeError(f"{kind.__name__.lower()} must be a {kind.__name__}, not {type(value).__name__}")
    return value


def _seeds(join: object, cluster: object) -> tuple[str, ...]:
    """Return the urls of members to join, none for a founder."""
    if join is None:
        return ()
    if cluster is not None:
        raise ValueError("give cluster= to found a cluster, or join= to come into one that exists, not both")
    if isinstance(join, str) or not isinstance(join, Iterable):
        raise TypeError(f"join must be a list of addresses, not {type(join).__name__}: join=['host:port']")
    seeds = tuple(dict.fromkeys(address.parse_address(text) for text in join))
    if not seeds:
        raise ValueError("join= needs the address of one member at least")
    for url in seeds:
        if address.is_wildcard(url):
            raise ValueError(f"{url} is no address that can be dialled: name a member's in join=")
    return seeds


def _checked_learner(learner: object, seeds: tuple[str, ...]) -> bool:
    if not isinstance(learner, bool):
        raise TypeError(f"learner must be a bool, not {type(learner).__name__}")
    if learner and not seeds:
        raise ValueError("learner= needs join=: who founds a cluster has a vote in it")
    return learner


def _addresses(name: str, cluster: Mapping[str, str] | None, listen: str | None, advertise: str | None, *, joins: bool) -> dict[str, str]:
    """Return the url at which each founder can be dialled; of one that joins only its own."""
    if cluster is None:
        return {name: _own_address(name, advertise if advertise is not None else listen, joins=joins)}
    if not isinstance(cluster, Mapping):
        raise TypeError(f"cluster must map names to addresses, not be a {type(cluster).__name__}")
    if len(cluster) > MEMBERS_MAX:
        raise ValueError(f"cluster has {len(cluster)} members, and at most {MEMBERS_MAX} are possible")
    if name not in cluster:
        raise ValueError(f"cluster must name every member, this one too: {name!r} is not among {', '.join(map(str, cluster))}")
    for member in cluster:
        to_member_name(member)
    urls = {member: address.parse_address(text) for member, text in cluster.items()}
    if advertise is not None:
        urls[name] = address.parse_address(advertise)
    if len(set(urls.values())) < len(urls):
        raise ValueError(f"two members of the cluster have one address: {urls}")
    for member, url in urls.items():
        if address.is_wildcard(url):
            raise ValueError(
                f"{url} is no address that others can dial: give {member} the address it is reached at, and listen= the wildcard"
            )
    return urls


def _own_address(name: str, own: str | None, *, joins: bool) -> str:
    """Return the url at which a member is reached that has no map; "": nobody is to reach it."""
    if own is None:
        if joins:
            raise ValueError("join= needs listen= or advertise=: the others must be able to reach this member")
        return ""
    url = address.parse_address(own)
    if address.is_wildcard(url):
        raise ValueError(f"{url} is no address that others can dial: say in advertise= where {name} is reached")
    return url


def _with_choice(config: object, choice: str, value: str) -> Any:
    """Return the configuration, by default the standard one, with what the environment chooses where it has not been chosen there."""
    config = Config() if config is None else config
    if not isinstance(config, Config) or getattr(config, choice):
        return config
    try:
        return evolve(config, priority=int(value)) if choice == "priority" else evolve(config, clients=value)
    except ValueError as error:
        raise ValueError(f"REPLKV_{choice.upper()}: {error}") from None


def _tls_from_env() -> dict[str, Any]:
    """Return the argument ``tls``, if there is one."""
    names = ("ca", "cert", "key", "client_ca", "server_name", "require_client_cert")
    given: dict[str, Any] = {name: value for name in names if (value := os.environ.get(f"REPLKV_TLS_{name.upper()}"))}
    if value := given.get("require_client_cert"):
        given["require_client_cert"] = _parse_choice("REPLKV_TLS_REQUIRE_CLIENT_CERT", value)
    if given and "ca" not in given:
        raise ValueError(f"REPLKV_TLS_{next(iter(given)).upper()} is set, and REPLKV_TLS_CA is not: TLS needs the authority of the members")
    return {"tls": TLS(**given)} if given else {}


def _parse_choice(variable: str, value: str) -> bool:
    if value not in ("0", "1"):
        raise ValueError(f"{variable} must be 1 or 0, not {value!r}")
    return value == "1"


def _parse_cluster(text: str) -> dict[str, str]:
    members: dict[str, str] = {}
    for part in text.split(","):
        name, separator, where = part.strip().partition("=")
        if not separator or name in members:
            raise ValueError(f"REPLKV_CLUSTER must be name=address,name=address with each name once, not {text!r}")
        members[name] = where
    return members
