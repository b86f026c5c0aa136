"""``Replica``: one member inside this process, and the thread that runs it."""

from __future__ import annotations

import atexit
import logging
import os
import random
import re
import threading
import time
import warnings
import weakref
from collections.abc import Mapping
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar, cast

from replkv import address, fork
from replkv.blocking import BlockingSurface
from replkv.config import Config, Settings
from replkv.disk import ForgetfulDisk, MemoryDisk, RealDisk
from replkv.errors import Closed, ReplkvError
from replkv.housekeeper import HousekeeperThread
from replkv.leasing import Lease
from replkv.node import Node
from replkv.plans import NOT_YET, Plan
from replkv.surface import DEFAULT, Surface, Timeout
from replkv.transport import NngTransport
from replkv.values import to_timeout
from replkv.waiting import BlockedCall, FutureCall, Notifier, ask, finished, overloaded, resumable, time_left
from replkv.watching import Watch

if TYPE_CHECKING:
    from concurrent.futures import Future

    from replkv.status import Member, Status

R = TypeVar("R")
W = TypeVar("W")
L = TypeVar("L")

logger = logging.getLogger(__name__)

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}")
_open: weakref.WeakSet[EmbeddedMember[Any, Any]] = weakref.WeakSet()


boottime = partial(time.clock_gettime, getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))
"""Monotonic seconds; time in which the machine was suspended counts where the system can tell."""


class EmbeddedMember(Surface[W, L]):
    """What ``Replica`` and ``AsyncReplica`` share: the arguments, documented there, the member and its threads."""

    def __init__(
        self,
        name: str = "replica",
        *,
        data_dir: str | os.PathLike[str] | None = None,
        listen: str | None = None,
        advertise: str | None = None,
        cluster: Mapping[str, str] | None = None,
        insecure: bool = False,
        config: Config | None = None,
        settings: Settings | None = None,
    ) -> None:
        fork.ensure_not_forked()
        _check_name(name)
        self._name = name
        self._config = _checked(config, Config)
        self._settings = _checked(settings, Settings)
        self._data_dir = _checked_path(data_dir)
        self._addresses = _addresses(name, cluster, listen, advertise)
        self._listen = self._addresses[name] if listen is None else address.parse_address(listen)
        if len(self._addresses) > 1 and self._data_dir is None:
            raise ValueError(f"{name} is a voter of {len(self._addresses)}: give it data_dir=, or it forgets its vote when it restarts")
        if len(self._addresses) > 1 and not insecure and not address.is_loopback(self._listen):
            raise ValueError(
                f"{self._listen} can be reached from other machines, and nothing is encrypted there: "
                "listen on loopback, or say insecure=True if the network is trusted"
            )
        self._node: Node | None = None
        self._thread: threading.Thread | None = None
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
        disk = ForgetfulDisk() if self._data_dir is None else RealDisk(self._data_dir)
        transport = NngTransport()
        housekeeper = HousekeeperThread(f"replkv-{self._name}-housekeeper", transport.wake)
        rng = random.Random(int.from_bytes(os.urandom(16)))
        node = Node(self._name, self._config, self._settings, self._addresses, disk, transport, boottime, rng, housekeeper, self._listen)
        try:
            _start(node, disk)
        except BaseException:
            housekeeper.close()
            raise
        self._notifier = Notifier(f"replkv-{self._name}-notifier", boottime)
        self._thread = threading.Thread(target=_turn, args=(node, self._notifier), name=f"replkv-{self._name}", daemon=True)
        self._node = node
        self._thread.start()
        _open.add(self)

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
        if not self._node.closing:
            self._node.request_close(limit)
        self._thread.join(limit)
        if self._thread.is_alive():
            logger.warning("%s did not stop within %.1f s: its disk or its process is stuck; it ends with the process", self._name, limit)
            self._node.hub.end()  # who iterates over a watch must not wait for that
        self._notifier.close()

    def __del__(self) -> None:
        node = getattr(self, "_node", None)  # missing where an argument was wrong
        if node is None or self._closed or node.stopped or fork.forked():
            return
        node.request_close(0.0)
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

    def _timeout(self, timeout: Timeout) -> float | None:
        return self._config.timeout if timeout is DEFAULT else to_timeout(timeout)

    # -- to look at ----------------------------------------------------------------------------------------------------------------

    @property
    def name(self) -> str:
        """This member's name."""
        return self._name

    @property
    def revision(self) -> int:
        """The revision this member's store has reached; an empty store is at 1."""
        return self._running().published.revision

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

    def members(self) -> list[Member]:
        """Return the members of the cluster as this one sees them; never waits."""
        return self._running().members()

    def settings(self) -> Settings:
        """Return the settings the cluster lives by."""
        return self._running().settings

    def _submit(self, plan: Plan[R]) -> Future[R]:
        node = self._running()
        assert self._notifier is not None  # noqa: S101  # a running node has one
        call = FutureCall(plan.command(node), self._notifier, node, plan, boottime() + self._config.timeout)
        if call.command is not None:
            self._make_room(node, plan, call.command)
        self._notifier.expect(call)
        if call.command is None:
            ask(node, plan, call)
        else:
            node.submit(call)
        return call.future

    def _make_room(self, node: Node, plan: Plan[Any], command: bytes) -> None:
        """Let a command in for ``submit``, which does not wait.

        Raises:
            Overloaded: there is no room.
        """
        if not node.proposals.admission.enter(len(command)):
            raise overloaded(node, plan, None)

    def __repr__(self) -> str:
        state = self._node.status() if self._node is not None else None
        what = f"{state.state}, leader {state.raft_leader}, revision {state.revision}" if state else "not open"
        return f"<{type(self).__name__} {self._name}: {what}>"

    @classmethod
    def from_env(cls, **overrides: Any) -> Self:
        """Build one from the environment.

        ``REPLKV_NAME``, ``_DATA_DIR``, ``_LISTEN``, ``_ADVERTISE``, ``_CLUSTER`` ("a=host:port,…") and ``_INSECURE`` ("1" or "0").

        Args:
            overrides: arguments that win over the environment.

        Raises:
            ValueError: a variable is not in its form; the text names it.
        """
        arguments: dict[str, Any] = {}
        for argument in ("name", "data_dir", "listen", "advertise"):
            if value := os.environ.get(f"REPLKV_{argument.upper()}"):
                arguments[argument] = value
        if value := os.environ.get("REPLKV_CLUSTER"):
            arguments["cluster"] = _parse_cluster(value)
        if value := os.environ.get("REPLKV_INSECURE"):
            if value not in ("0", "1"):
                raise ValueError(f"REPLKV_INSECURE must be 1 or 0, not {value!r}")
            arguments["insecure"] = value == "1"
        return cls(**{**arguments, **overrides})


EmbeddedMember.__init__.__qualname__ = "Replica.__init__"  # what Python names when it refuses an argument; AsyncReplica has the same


class Replica(EmbeddedMember[Watch, Lease], BlockingSurface):
    """One member of a cluster, inside this process; every call blocks until it has its answer.

    The constructor opens, recovers and starts; ``with`` and ``close()`` end it.  All calls may be made from any thread.

    Args:
        name: of this member; a letter, digit or underscore, then those, dots and dashes; at most 64.
        data_dir: where this member keeps its log; None keeps all in memory, which only a cluster of one may.
        listen: the address to listen on; by default ``advertise``.
        advertise: the address the others reach this member at; by default ``cluster[name]``.
        cluster: the address of every founder by name, this one included.  The same call is right at every start: who has state uses it as
            an address book.  None founds a cluster of one.
        insecure: listen beyond this machine although nothing is encrypted and nobody is authenticated.
        config: this process's choices.
        settings: what the cluster is founded with; later those in the log count.

    Raises:
        TypeError, ValueError: an argument is wrong; nothing was opened.
        StorageError: the directory can't be used; ``DirectoryInUse``, ``WrongCluster``, ``Corrupt`` and ``Incompatible`` say why.
        ForkedProcess: the parent of this process had one.
    """

    def _constructed(self) -> None:
        self._start_once()

    def close(self, timeout: float = 5.0) -> None:
        """Hand leadership over, stop, and let go of the directory; does nothing when closed already, and never hangs.

        Args:
            timeout: seconds.
        """
        if not fork.forked():
            self._close(timeout)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _run(self, plan: Plan[R], timeout: Timeout) -> R:  # type: ignore[override]  # what operation promises on a Blocking surface
        node = self._running()
        limit = self._timeout(timeout)
        result = plan.at_once(node)
        if result is not NOT_YET:
            return cast("R", result)
        self._refuse_to_block()
        call = BlockedCall(plan.command(node))
        try:
            limit = self._hand_over(node, plan, call, limit)
            return self._wait(node, plan, call, limit)
        except ReplkvError:
            raise
        except BaseException:  # Ctrl-C, at whatever moment: nothing is left behind, as far as that can be
            node.give_up(call)
            raise

    def _hand_over(self, node: Node, plan: Plan[Any], call: BlockedCall, limit: float | None) -> float | None:
        """Queue a call, a command when it has been let in; return what is left of the timeout."""
        if call.command is None:
            ask(node, plan, call)
            return limit
        if not node.proposals.admission.enter(len(call.command)):
            limit = self._line_up(node, plan, call.command, limit)
        node.submit(call)
        return limit

    def _refuse_to_block(self) -> None:
        if self._thread is threading.current_thread():
            raise RuntimeError("a blocking call on the thread that decides would wait for itself; call from another thread")

    def _make_room(self, node: Node, plan: Plan[Any], command: bytes) -> None:
        if not node.proposals.admission.enter(len(command)):
            self._refuse_to_block()
            self._line_up(node, plan, command, self._config.timeout)

    def _line_up(self, node: Node, plan: Plan[Any], command: bytes, timeout: float | None) -> float | None:
        """Wait until a command is let in; return what is left of the timeout.

        Raises:
            Overloaded: the caller does not want to wait, or waited in vain.
            NoLeader: waited in vain, and that is why.
        """
        if self._config.overload == "raise":
            raise overloaded(node, plan, None)
        size, begun = len(command), node.clock()
        waiting = BlockedCall(command)
        node.line_up(waiting, size)
        admission = node.proposals.admission
        try:
            admitted = waiting.wait(timeout) or not admission.give_up(waiting, size)
        except BaseException:
            if not admission.give_up(waiting, size):
                admission.leave(1, size)  # Ctrl-C came when it had just been let in
            raise
        return time_left(node, plan, waiting, begun, timeout, admitted=admitted)

    def _wait_on(self, node: Node, plan: Plan[R], call: BlockedCall, timeout: float | None) -> R:
        """Go on waiting for a call whose outcome was unknown."""
        limit = to_timeout(timeout)
        self._refuse_to_block()
        return self._wait(node, plan, call, limit)

    def _wait(self, node: Node, plan: Plan[R], call: BlockedCall, timeout: float | None) -> R:
        if not call.wait(timeout):
            untouched = node.give_up(call)
            if not call.wait(0):
                raise resumable(plan.expired(node, untouched=untouched), partial(self._wait_on, node, plan, call))
        return finished(call, plan, node)


def _start(node: Node, disk: MemoryDisk | RealDisk) -> None:
    try:
        node.start()
    except ReplkvError:
        raise
    except OSError as error:
        _check_unused(disk)  # that this member is running already says more than that its address is taken
        raise ValueError(f"member {node.name} {error.strerror}") from error


def _turn(node: Node, notifier: Notifier) -> None:
    """Run the node's turns until it has stopped."""
    while not node.stopped:
        node.turn()
    notifier.stop()


@atexit.register
def _close_all() -> None:
    """Close what is open when the interpreter ends: before nng, whose own handler was registered earlier, ends beneath it."""
    if not fork.forked():
        for replica in list(_open):
            replica._close(2.0)  # noqa: SLF001  # one module


# -- arguments ---------------------------------------------------------------------------------------------------------------------


def _check_name(name: object) -> None:
    if not isinstance(name, str):
        raise TypeError(f"name must be a str, not {type(name).__name__}")
    if not _NAME.fullmatch(name):
        raise ValueError(
            f"{name!r} is no name for a member: use letters, digits, '_', '.' and '-', at most 64, and begin with none of '.-'"
        )


def _checked_path(path: object) -> str | None:
    if path is None:
        return None
    text = os.fspath(path) if isinstance(path, os.PathLike) else path
    if not isinstance(text, str):
        raise TypeError(f"data_dir must be a str or a path of str, not {type(path).__name__}")
    if not text or "\0" in text:
        raise ValueError(f"data_dir must name a directory, not {text!r}")
    return text


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


def _addresses(name: str, cluster: Mapping[str, str] | None, listen: str | None, advertise: str | None) -> dict[str, str]:
    """Return the url at which each founder can be dialled."""
    if cluster is None:
        if listen is not None or advertise is not None:
            raise ValueError("listen= and advertise= need cluster=: a member alone listens to nobody")
        return {name: ""}
    if not isinstance(cluster, Mapping):
        raise TypeError(f"cluster must map names to addresses, not be a {type(cluster).__name__}")
    if name not in cluster:
        raise ValueError(f"cluster must name every member, this one too: {name!r} is not among {', '.join(map(str, cluster))}")
    for member in cluster:
        _check_name(member)
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


def _parse_cluster(text: str) -> dict[str, str]:
    members: dict[str, str] = {}
    for part in text.split(","):
        name, separator, where = part.strip().partition("=")
        if not separator or name in members:
            raise ValueError(f"REPLKV_CLUSTER must be name=address,name=address with each name once, not {text!r}")
        members[name] = where
    return members
