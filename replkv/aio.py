"""``AsyncReplica``: one member inside this process, for asyncio; and ``connect``, for processes that are no members."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from types import TracebackType
from typing import Self

from replkv import fork, passwords
from replkv.acting import AsyncActingReplica
from replkv.auth_calls import AuthState, subject_of
from replkv.auth_ops import to_user
from replkv.client import AsyncClient, Target
from replkv.config import Config
from replkv.facade import AwaitingFacade
from replkv.leasing import AsyncLease
from replkv.replica import EmbeddedMember
from replkv.surface import DEFAULT, Timeout
from replkv.tls import TLS
from replkv.watching import AsyncWatch


class AsyncReplica(EmbeddedMember[AsyncWatch, AsyncLease], AwaitingFacade[AsyncWatch, AsyncLease]):
    """One member of a cluster, inside this process; every call is awaited.

    The constructor only checks its arguments, which are those of ``Replica``; ``async with`` or ``await open()`` starts the member.
    Its calls are functions that return awaitables: a wrong argument is refused by the call itself, a wrong timeout and what the cluster's
    settings forbid when it is awaited, and nothing is sent before that.
    The member has its own thread: a loop that is blocked for a while delays its own calls, not the cluster.  A long scan gives the loop
    back now and then.  A call that is cancelled before it was handed over has no effect; later, its outcome is unknown.
    """

    async def open(self) -> Self:
        """Open, recover and start the member, without blocking the loop; does nothing when open already.

        Raises:
            ValueError: the address can't be listened on.
            StorageError: the directory can't be used.
            Closed: it was closed, or an ``open`` of it was cancelled; make a new one.
        """
        loop = asyncio.get_running_loop()
        try:
            await loop.run_in_executor(None, self._start_once)
        except asyncio.CancelledError:
            loop.run_in_executor(None, self._close, 5.0)  # nobody is left who would
            raise
        return self

    async def as_user(self, name: str, password: str | bytes, *, timeout: Timeout = DEFAULT) -> AsyncActingReplica:
        """Return the calls of this member with the rights of a user; as ``Replica.as_user``, with the password checked beside the loop.

        Args:
            name: of the user.
            password: which it has.
            timeout: seconds, besides.

        Raises:
            TypeError, ValueError, AuthenticationFailed, NoLeader: as by ``Replica.as_user``.
        """
        user, secret = to_user(name), passwords.to_password(password)
        auth = await self._run(AuthState(), timeout)
        return AsyncActingReplica(self, await asyncio.get_running_loop().run_in_executor(None, subject_of, auth, user, secret))

    async def close(self, timeout: float = 5.0) -> None:
        """Hand leadership over, stop, and let go of the directory; does nothing when closed already, and never hangs.

        Args:
            timeout: seconds.
        """
        if not fork.forked():
            await asyncio.get_running_loop().run_in_executor(None, self._close, timeout)

    async def leave(self, timeout: Timeout = DEFAULT) -> None:
        """Leave the cluster for good, and close; as ``Replica.leave``.

        Args:
            timeout: seconds.
        """
        with self._leaving() as removal:
            await self._run(removal, timeout)
        await self.close()

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
) -> AsyncClient:
    """Connect to a cluster from a process that is no member; to be awaited, or entered with ``async with``.

    The arguments, and the errors that awaiting it raises, are those of ``replkv.connect``.
    """
    return AsyncClient(target, user=user, password=password, tls=tls, insecure=insecure, config=config, timeout=timeout)
