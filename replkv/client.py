"""``connect``, ``Client`` and ``AsyncClient``: the calls of a ``Replica`` for processes that are no members.

A client talks to one member at a time, over a socket, and goes to another one when it loses it.  It uses nothing of nng, so it also works
in a forked child of a process that holds a ``Replica``.
"""

from __future__ import annotations

import asyncio
import atexit
import itertools
import logging
import os
import random
import threading
import warnings
import weakref
from collections.abc import Generator, Iterable
from types import TracebackType
from typing import Any, Self, TypeAlias, TypeVar

from replkv import address, letters, passwords
from replkv.auth_ops import to_user
from replkv.config import Config
from replkv.errors import Closed, NoLeader, ReplkvError
from replkv.facade import AwaitingFacade, BlockingFacade, Facade
from replkv.leasing import AsyncLease, Lease
from replkv.plans import Asker, Plan
from replkv.remote import Remote
from replkv.replica import boottime
from replkv.sockets import Sockets
from replkv.status import Member, Status
from replkv.surface import DEFAULT, Timeout, operation
from replkv.tls import TLS
from replkv.tunnel import Contexts
from replkv.waiting import Notifier
from replkv.watching import AsyncWatch, Watch
from replkv.wire import Raw

W = TypeVar("W")
L = TypeVar("L")

Target: TypeAlias = str | os.PathLike[str]
"""Where a member is: its address, or its data directory."""

logger = logging.getLogger(__name__)

_open: weakref.WeakSet[ConnectedClient[Any, Any]] = weakref.WeakSet()
_numbers = itertools.count(1)


class _StatusPlan(Plan[Status]):
    """Ask a member how it is; it answers at once."""

    __slots__ = ()

    def letter(self, number: int, asker: Asker) -> letters.Look:
        """Ask a member."""
        del asker
        return letters.Look(number, letters.STATUS)

    def meaning(self, raw: Raw) -> Status:
        """Put it together again."""
        return Status.from_wire(raw[1:])

    def expired(self, asker: Asker, *, untouched: bool) -> NoLeader:
        """Say who was asked in vain."""
        del untouched
        advice = "start a member, or name one that runs and serves clients"
        return NoLeader(f"{asker.name}: no member answered in time{asker.trouble}; {advice}", asker.unreachable)


class _MembersPlan(_StatusPlan):
    """Ask a member who the members are; it answers at once."""

    __slots__ = ()

    def letter(self, number: int, asker: Asker) -> letters.Look:
        """Ask a member."""
        del asker
        return letters.Look(number, letters.MEMBERS)

    def meaning(self, raw: Raw) -> list[Member]:  # type: ignore[override]  # it answers another question in the same way
        """Put them together again."""
        return [Member(*row) for row in raw[1]]


class ConnectedClient(Facade[W, L]):
    """What ``Client`` and ``AsyncClient`` share: the arguments, documented at ``connect``, and the connection."""

    def __init__(
        self,
        target: Target | Iterable[Target],
        *,
        user: str | None = None,
        password: str | bytes | None = None,
        tls: TLS | None = None,
        insecure: bool = False,
        config: Config | None = None,
        timeout: Timeout = DEFAULT,
    ) -> None:
        if config is not None and not isinstance(config, Config):
            raise TypeError(f"config must be a Config, not {type(config).__name__}")
        self._config = Config() if config is None else config
        if tls is not None and not isinstance(tls, TLS):
            raise TypeError(f"tls must be a TLS, not {type(tls).__name__}")
        self._login = _checked_login(user, password)
        self._targets = _checked_targets(target, insecure=insecure, encrypted=tls is not None, secret=password is not None)
        self._contexts = Contexts(tls) if tls is not None else None
        self._anywhere = insecure or tls is not None
        self._patience = self._timeout(timeout)
        self._remote: Remote | None = None
        self._thread: threading.Thread | None = None
        self._notifier: Notifier | None = None
        self._closed = False

    def _start(self) -> None:
        """Begin to connect; does not wait."""
        if self._closed:
            raise Closed("this client is closed; connect() anew")
        if self._remote is not None:
            return
        rng = random.Random(int.from_bytes(os.urandom(16)))
        name = f"replkv-client-{next(_numbers)}"
        sockets = Sockets(self._contexts)
        login, self._login = self._login, {}  # one place that holds a secret is enough
        self._remote = Remote(self._targets, self._config, sockets, boottime, rng, anywhere=self._anywhere, **login)
        self._notifier = Notifier(f"{name}-notifier", boottime)
        self._thread = threading.Thread(target=_turn, args=(self._remote, self._notifier), name=name, daemon=True)
        self._remote.thread = self._thread
        self._thread.start()
        _open.add(self)

    def _close(self, timeout: float) -> None:
        limit = self._timeout(timeout)
        if limit is None:
            raise TypeError("close() takes seconds: it never waits without limit")
        self._closed = True
        remote, thread, notifier = self._remote, self._thread, self._notifier
        if remote is None or thread is None or notifier is None or remote.forked or thread is threading.current_thread():
            return
        remote.request_close(limit)
        thread.join(limit + 1.0)  # it looks up a name, at the worst
        notifier.close()

    def __del__(self) -> None:
        remote = getattr(self, "_remote", None)  # missing where an argument was wrong
        if remote is None or self._closed or remote.stopped or remote.forked:
            return
        remote.request_close(0.0)
        warnings.warn(f"{remote.name} was not closed; use 'with' or call close()", ResourceWarning, stacklevel=1, source=self)

    def _engine(self) -> Remote:
        remote = self._remote
        if remote is None:
            raise Closed(f"this client is {'closed' if self._closed else 'not open yet: await it, or enter it with async with'}")
        remote.ensure_not_forked()
        if self._closed or remote.stopped:
            raise remote.gone()
        return remote

    # -- to look at ----------------------------------------------------------------------------------------------------------------

    @property
    def name(self) -> str:
        """The name of the member that answers this client; that of the last one while none does."""
        return self._remote.member if self._remote is not None else ""

    @property
    def ready(self) -> bool:
        """Whether a member answers and knows a leader; never waits, and is False in a forked child."""
        remote = self._remote
        return remote is not None and not remote.forked and not remote.stopped and remote.ready

    @property
    def failure(self) -> ReplkvError | None:
        """Why this client ended by itself; None while it works, and when it was closed."""
        return self._remote.failure if self._remote is not None else None

    @operation
    def status(self, *, timeout: Timeout = DEFAULT) -> Plan[Status]:
        """Return the view that the member which answers has of itself and its cluster.

        Args:
            timeout: seconds.
        """
        return self._run(_StatusPlan(), timeout)

    @operation
    def members(self, *, timeout: Timeout = DEFAULT) -> Plan[list[Member]]:
        """Return the members of the cluster as the one which answers sees them.

        Args:
            timeout: seconds.
        """
        return self._run(_MembersPlan(), timeout)  # type: ignore[arg-type]  # it answers another question in the same way

    def __repr__(self) -> str:
        remote = self._remote
        state = "not open" if remote is None else "closed" if remote.stopped else "connected" if remote.connected else "not connected"
        return f"<{type(self).__name__} of {', '.join(self._targets)}: {state}>"


class Client(ConnectedClient[Watch, Lease], BlockingFacade[Watch, Lease]):
    """A connection to a cluster; every call blocks until it has its answer.  Made by ``connect``, whose arguments it takes.

    It has the calls of a ``Replica``, with the same results and errors, and any thread may use it.  What a ``Replica`` reads in its own
    memory is asked of a member; ``consistency="local"`` is that member's state, and never goes back in time.  When the member is lost,
    calls, watches, views and leases go on at another one.  A write is executed once, however often it had to be sent.

    ``close`` ends watches and answers who still waits.  It revokes no lease: they are kept alive no longer, and end by themselves.
    """

    def __init__(
        self,
        target: Target | Iterable[Target],
        *,
        user: str | None = None,
        password: str | bytes | None = None,
        tls: TLS | None = None,
        insecure: bool = False,
        config: Config | None = None,
        timeout: Timeout = DEFAULT,
    ) -> None:
        super().__init__(target, user=user, password=password, tls=tls, insecure=insecure, config=config, timeout=timeout)
        self._start()
        try:
            self._run(_StatusPlan(), self._patience)
        except BaseException:
            self._close(0.0)
            raise

    def close(self, timeout: float = 5.0) -> None:
        """Wait a moment for what is under way, and end; does nothing when closed already, and in a forked child.

        Args:
            timeout: seconds.
        """
        self._close(timeout)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


class AsyncClient(ConnectedClient[AsyncWatch, AsyncLease], AwaitingFacade[AsyncWatch, AsyncLease]):
    """A connection to a cluster, for asyncio; every call is awaited.  Made by ``replkv.aio.connect``.

    The constructor only checks its arguments, which are those of ``connect``; to await it, or to enter it with ``async with``, connects.
    Otherwise as ``Client``.
    """

    async def open(self) -> Self:
        """Connect; does nothing when connected already.

        Raises:
            NoLeader: no member answered in time; this client is closed then.
            WrongCluster, Incompatible: no member can be used; the text says why.
            Closed: it was closed; make a new one.
        """
        if self._remote is None or self._closed:
            self._start()
            try:
                await self._run(_StatusPlan(), self._patience)
            except BaseException:
                self._close_soon()
                raise
        return self

    def _close_soon(self) -> None:
        self._closed = True  # at once, for who tries again at once
        asyncio.get_running_loop().run_in_executor(None, self._close, 0.0)

    async def close(self, timeout: float = 5.0) -> None:
        """Wait a moment for what is under way, and end; as ``Client.close``.

        Args:
            timeout: seconds.
        """
        await asyncio.get_running_loop().run_in_executor(None, self._close, timeout)

    def __await__(self) -> Generator[Any, None, Self]:
        return self.open().__await__()

    async def __aenter__(self) -> Self:
        return await self.open()

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await asyncio.shield(self.close())


def connect(
    target: Target | Iterable[Target],
    *,
    user: str | None = None,
    password: str | bytes | None = None,
    tls: TLS | None = None,
    insecure: bool = False,
    config: Config | None = None,
    timeout: Timeout = DEFAULT,
) -> Client:
    """Connect to a cluster from a process that is no member.

    Args:
        target: the data directory of a member on this machine, an address at which a member serves clients (``Config.clients``), or
            several of either; text is taken for a directory if it names one or has a ``/`` in it.  Further addresses are learnt from the
            members.
        user: who this is, where the cluster's users have to say so; a client whose certificate names its user says nothing.
        password: of the user; kept for as long as the client, which has to prove itself anew to each member.
        tls: encrypt all connections but those over sockets in this machine's file system, and talk to nobody whose certificate is not
            for the host of its address, or for ``server_name``.
        insecure: go beyond this machine although nothing is encrypted there, a password no more than all else, and nobody knows who
            answers.
        config: this process's choices; those about disks and serving don't count here.
        timeout: seconds within which a member must answer; None waits without limit.

    Returns:
        A client that is connected; ``with`` and ``close()`` end it.

    Raises:
        TypeError, ValueError: an argument is wrong, or a file of ``tls`` can't be used.
        NoLeader: no member answered in time; the text says who was tried, and what was wrong with each.
        AuthenticationFailed: users have been enabled, and this client has not proved to be one.
        WrongCluster, Incompatible: no member can be used; the text says why.
    """
    return Client(target, user=user, password=password, tls=tls, insecure=insecure, config=config, timeout=timeout)


def _turn(remote: Remote, notifier: Notifier) -> None:
    """Run the client's turns until it has ended."""
    while not remote.stopped:
        remote.turn()
    notifier.stop()


@atexit.register
def _close_all() -> None:
    """Close what is open when the interpreter ends."""
    for client in list(_open):
        client._close(1.0)  # noqa: SLF001  # one module


# -- arguments ---------------------------------------------------------------------------------------------------------------------


def _checked_login(user: object, password: object) -> dict[str, Any]:
    """Return what a member is to be told of who this is, if anything."""
    if (user is None) != (password is None):
        raise ValueError("user= and password= belong together; a client whose certificate names its user needs neither")
    if user is not None:
        to_user(user)
        passwords.to_password(password)
    return {} if user is None else {"user": user, "password": password}


def _checked_targets(target: object, *, insecure: bool, encrypted: bool = False, secret: bool = False) -> list[str]:
    if not isinstance(insecure, bool):
        raise TypeError(f"insecure must be a bool, not {type(insecure).__name__}")
    if isinstance(target, (str, os.PathLike)):
        targets = [target]
    elif isinstance(target, Iterable) and not isinstance(target, (bytes, bytearray)):
        targets = list(target)
    else:
        raise TypeError(f"target must be an address, a data directory or several of them, not {type(target).__name__}")
    if not targets:
        raise ValueError("target must name at least one address or data directory")
    found = {_to_target(one): one for one in targets}
    for url, meant in found.items():
        if "://" in url and not (insecure or encrypted or address.is_loopback(url)):
            what = "the password would travel there in clear" if secret else "nothing is encrypted on the way there"
            raise ValueError(
                f"{url} is on another machine, and {what}: give tls=, or say insecure=True if the network is trusted, "
                f"and write ./{meant} if a directory is meant"
            )
    return list(found)


def _to_target(one: object) -> str:
    text = os.fspath(one) if isinstance(one, os.PathLike) else one
    if not isinstance(text, str):
        raise TypeError(f"a target is an address or a path of str, not {type(one).__name__}")
    if not text or "\0" in text:
        raise ValueError(f"a target must be an address or a data directory, not {text!r}")
    is_path = isinstance(one, os.PathLike) or ("://" not in text and ("/" in text or os.sep in text or os.path.exists(text)))
    if is_path:
        return os.path.abspath(text)
    url = address.parse_address(text)
    if url.startswith("inproc://") or address.is_wildcard(url):
        raise ValueError(f"{url} is no address that another process can dial")
    return url
