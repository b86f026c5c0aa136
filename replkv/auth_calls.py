"""The calls of ``auth``, defined once: who is a user, which roles it has, and what those allow; what they answer; and the proof of a user.

Changes are commands, judged and carried out as all others.  Passwords are hashed here, on the caller's thread, which takes a tenth of a
second on purpose: only the hash leaves it.
"""

from __future__ import annotations

import asyncio
import os
from abc import abstractmethod
from collections.abc import Awaitable
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Literal, TypeVar, cast

from attrs import frozen

from replkv import errors, letters, passwords, wire
from replkv.auth import ROOT, Auth, Subject
from replkv.auth_ops import MODE_NAMES, ChangeAuth, Mode, to_mode, to_role, to_span, to_user
from replkv.plans import Plan, Write
from replkv.refusals import refuse
from replkv.surface import DEFAULT, Awaiting, Blocking, Surface, Timeout, operation

if TYPE_CHECKING:
    from replkv.machine import Machine
    from replkv.node import Node
    from replkv.plans import Asker
    from replkv.proposals import Call
    from replkv.values import Data
    from replkv.wire import Raw

R = TypeVar("R")


@frozen
class AuthStatus:
    """Whether rights are checked.

    Attributes:
        enabled: they are.
        revision: counts the changes of users, roles and permissions.
    """

    enabled: bool
    revision: int


@frozen
class User:
    """A user.

    Attributes:
        name: its name.
        roles: their names, in order.
        has_password: it can prove by one who it is; else only by a certificate.
    """

    name: str
    roles: tuple[str, ...]
    has_password: bool


@frozen
class Permission:
    """What may be done with some keys.

    Attributes:
        mode: "read", "write" or "readwrite".
        start: the first of the keys.
        end: the first one behind them; None: there are all from ``start`` on.
    """

    mode: Mode
    start: bytes
    end: bytes | None


@frozen
class Role:
    """A role.

    Attributes:
        name: its name.
        permissions: what it allows, in the order of the keys; ``root`` may do more than can be said by keys.
    """

    name: str
    permissions: tuple[Permission, ...]


_EVERYTHING: Final = ((wire.READWRITE, b"\x00", None),)


# -- plans -------------------------------------------------------------------------------------------------------------------------


class _ByAuth(Plan[R]):
    """A question about users and roles, behind a read barrier."""

    __slots__ = ()

    @abstractmethod
    def seen(self, auth: Auth) -> Raw:
        """Return what is to be known."""

    def answer(self, node: Node, call: Call) -> Raw:
        """Look it up; linear in what is listed."""
        del call
        return (wire.OK, *self.seen(node.published.machine.auth))


class Inspection(_ByAuth[Any]):
    """Find out about users and roles; everybody may about itself.

    Args:
        what: ``letters.INSPECT_STATUS`` and so on.
        name: of the user or role.
    """

    __slots__ = ("name", "what")

    def __init__(self, what: int, name: str = "") -> None:
        self.what = what
        self.name = name

    def letter(self, number: int, asker: Asker) -> letters.Request:
        """Ask a member."""
        del asker
        return letters.Inspect(number, self.what, self.name)

    def permit(self, subject: Subject | None, machine: Machine) -> None:
        """Tell users about themselves and their roles, and root about everybody."""
        auth = machine.auth
        if self.what == letters.INSPECT_STATUS:
            auth.check_user(subject)
        elif self.what == letters.INSPECT_USER:
            auth.check_user(subject, (self.name,))
        elif self.what != letters.INSPECT_ROLE or subject is None or not auth.enabled or self.name not in auth.roles_of(subject):
            auth.check_root(subject)

    def seen(self, auth: Auth) -> Raw:
        """Return what is to be known, without a password's hash.

        Raises:
            UserNotFound, RoleNotFound: there is none of this name.
        """
        return _SEEN[self.what](auth, self.name)

    def meaning(self, raw: Raw) -> Any:
        """Return it as callers see it."""
        return _MEANINGS[self.what](*raw[1:])


def _see_status(auth: Auth, name: str) -> Raw:
    del name
    return (auth.enabled, auth.revision)


def _see_users(auth: Auth, name: str) -> Raw:
    del name
    return (tuple(sorted(auth.users)),)


def _see_user(auth: Auth, name: str) -> Raw:
    user = auth.users.get(name)
    if user is None:
        raise refuse(errors.UserNotFound, (name,))
    return (name, user.roles, user.password != b"")


def _see_roles(auth: Auth, name: str) -> Raw:
    del name
    return (tuple(sorted({*auth.roles, ROOT})),)


def _see_role(auth: Auth, name: str) -> Raw:
    if name == ROOT:
        return (name, _EVERYTHING)
    spans = auth.roles.get(name)
    if spans is None:
        raise refuse(errors.RoleNotFound, (name,))
    return (name, tuple(sorted(((mode, *span) for span, mode in spans.items()), key=_by_keys)))


def _by_keys(permission: Raw) -> tuple[bytes, bool, bytes]:
    _, start, end = permission
    return start, end is None, end or b""


def _to_role(name: str, permissions: Raw) -> Role:
    return Role(name, tuple(Permission(MODE_NAMES[mode], start, end) for mode, start, end in permissions))


_SEEN: Final = {
    letters.INSPECT_STATUS: _see_status,
    letters.INSPECT_USERS: _see_users,
    letters.INSPECT_USER: _see_user,
    letters.INSPECT_ROLES: _see_roles,
    letters.INSPECT_ROLE: _see_role,
}
_MEANINGS: Final[dict[int, Any]] = {
    letters.INSPECT_STATUS: AuthStatus,
    letters.INSPECT_USERS: list,
    letters.INSPECT_USER: User,
    letters.INSPECT_ROLES: list,
    letters.INSPECT_ROLE: _to_role,
}


class AuthState(_ByAuth[Auth]):
    """Take all of it, hashes too, which therefore stays in this process: for who has to find out whether somebody is a user."""

    __slots__ = ()

    def seen(self, auth: Auth) -> Raw:
        """Return it as it is."""
        return (auth,)

    def meaning(self, raw: Raw) -> Auth:
        """Return it as it is."""
        return cast("Auth", raw[1])


def subject_of(auth: Auth, name: str, password: bytes) -> Subject:
    """Return a user who has proved by its password who it is; takes long on purpose, as long for a user that does not exist.

    While auth is not enabled anybody passes; who has proved nothing is nobody as soon as it is enabled.

    Args:
        auth: the users, not older than the question.
        name: who it says it is.
        password: as ``to_password`` returned it.

    Raises:
        AuthenticationFailed: there is no such user, or the password is another one.
    """
    user = auth.users.get(name)
    if passwords.matches(password, b"" if user is None else user.password):
        return name, auth.revision
    if auth.enabled:
        raise wrong_password(name)
    return name, 0


def wrong_password(name: str) -> errors.AuthenticationFailed:
    """Return the error for a password that is not the user's; the same where there is no such user, or it has none."""
    return errors.AuthenticationFailed(
        f"this is not the password of a user {name!r}: there is none of this name, or its password is another"
    )


# -- calls -------------------------------------------------------------------------------------------------------------------------


class AuthCalls:
    """Users, roles and permissions of the cluster, by etcd's model; the ``auth`` of a ``Replica``, of a client, and of ``as_user``.

    A role allows to read, to write or both for spans of keys; a user may do what any of its roles allows.  The role ``root`` may do
    everything, and is always there; the user ``root`` gets it when it is made.  As long as auth is not enabled, everybody may do
    everything.  All of it takes effect at one place in the log, as writes do: a right that was taken away is gone for every write and
    every linearizable read that begins afterwards, at any member, and watches that needed it end.

    Every call raises ``PermissionDenied`` for users who have not the role root, but that every user may ask for ``status()``, for
    ``user`` with its own name and for ``role`` with one of its own; and beyond that what writes and linearizable reads raise.
    """

    def __init__(self, surface: Surface[Any, Any]) -> None:
        self._surface = surface

    @abstractmethod
    def _with_hash(self, what: int, name: str, password: bytes, timeout: Timeout) -> Plan[None]:
        """Carry out a change that needs a password's hash, with a fresh salt."""

    def _change(self, timeout: Timeout, what: int, *arguments: Any) -> Plan[None]:
        return self._surface._run(Write(ChangeAuth(what, arguments)), timeout)  # noqa: SLF001  # a part of the surface

    def _inspect(self, timeout: Timeout, what: int, name: str = "") -> Plan[Any]:
        return self._surface._run(Inspection(what, name), timeout)  # noqa: SLF001  # a part of the surface

    def _secret(self, what: int, name: str, password: str | bytes | None, timeout: Timeout) -> Plan[None]:
        user = to_user(name)
        if password is None:
            return self._change(timeout, what, user, b"")
        return self._with_hash(what, user, passwords.to_password(password), timeout)

    # -- on and off ----------------------------------------------------------------------------------------------------------------

    @operation
    def enable(self, *, timeout: Timeout = DEFAULT) -> Plan[None]:
        """Have rights checked from now on; who has not proved who it is may do nothing then, but for code that holds a ``Replica``.

        Args:
            timeout: seconds.

        Raises:
            AuthRefused: there is no user root, or it has not the role root: nobody could administer the cluster any more.
        """
        return self._change(timeout, wire.ENABLE)

    @operation
    def disable(self, *, timeout: Timeout = DEFAULT) -> Plan[None]:
        """Have everybody do everything; users and roles stay as they are.

        Args:
            timeout: seconds.
        """
        return self._change(timeout, wire.DISABLE)

    @operation
    def status(self, *, timeout: Timeout = DEFAULT) -> Plan[AuthStatus]:
        """Return whether rights are checked, and how often users, roles and permissions were changed.

        Args:
            timeout: seconds.
        """
        return self._inspect(timeout, letters.INSPECT_STATUS)

    # -- users ---------------------------------------------------------------------------------------------------------------------

    @operation
    def add_user(self, name: str, password: str | bytes | None = None, *, timeout: Timeout = DEFAULT) -> Plan[None]:
        """Make a user, who may do nothing yet; ``root`` has the role root from the beginning.

        Args:
            name: 1 to 128 printable characters.
            password: 1 to 1024 bytes; text counts as UTF-8.  None: the user proves by a certificate with its name who it is.
            timeout: seconds; hashing the password takes its own.

        Raises:
            TypeError, ValueError: a bad argument; nothing was sent.
            UserExists: there is one of this name.
            AuthRefused: there are as many as there may be.
        """
        return self._secret(wire.ADD_USER, name, password, timeout)

    @operation
    def delete_user(self, name: str, *, timeout: Timeout = DEFAULT) -> Plan[None]:
        """Remove a user: who acts for it can do nothing any more, also if one of the same name is made anew.

        What it has written stays, and leases that were granted to it go on until who holds them lets them end.

        Args:
            name: of the user.
            timeout: seconds.

        Raises:
            TypeError, ValueError: no name; nothing was sent.
            UserNotFound: there is none of this name.
            AuthRefused: it is root, and auth is enabled.
        """
        return self._change(timeout, wire.DELETE_USER, to_user(name))

    @operation
    def change_password(self, name: str, password: str | bytes | None, *, timeout: Timeout = DEFAULT) -> Plan[None]:
        """Give a user another password; who acts for it has to prove anew who it is.

        Args:
            name: of the user.
            password: as for ``add_user``; None: it has none any more.
            timeout: seconds; hashing the password takes its own.

        Raises:
            TypeError, ValueError: a bad argument; nothing was sent.
            UserNotFound: there is none of this name.
        """
        return self._secret(wire.CHANGE_PASSWORD, name, password, timeout)

    @operation
    def users(self, *, timeout: Timeout = DEFAULT) -> Plan[list[str]]:
        """List the names of all users, in order.

        Args:
            timeout: seconds.
        """
        return self._inspect(timeout, letters.INSPECT_USERS)

    @operation
    def user(self, name: str, *, timeout: Timeout = DEFAULT) -> Plan[User]:
        """Return a user's roles.

        Args:
            name: of the user.
            timeout: seconds.

        Raises:
            TypeError, ValueError: no name; nothing was sent.
            UserNotFound: there is none of this name.
        """
        return self._inspect(timeout, letters.INSPECT_USER, to_user(name))

    @operation
    def grant_role(self, user: str, role: str, *, timeout: Timeout = DEFAULT) -> Plan[None]:
        """Give a user a role; it may have it already.

        Args:
            user: its name.
            role: its name; "root" may do everything.
            timeout: seconds.

        Raises:
            TypeError, ValueError: no names; nothing was sent.
            UserNotFound, RoleNotFound: there is none of this name.
        """
        return self._change(timeout, wire.GRANT_ROLE, to_user(user), to_role(role))

    @operation
    def revoke_role(self, user: str, role: str, *, timeout: Timeout = DEFAULT) -> Plan[None]:
        """Take a role away from a user.

        Args:
            user: its name.
            role: its name.
            timeout: seconds.

        Raises:
            TypeError, ValueError: no names; nothing was sent.
            UserNotFound: there is none of this name.
            AuthRefused: the user has no such role; or it is root's own, and auth is enabled.
        """
        return self._change(timeout, wire.REVOKE_ROLE, to_user(user), to_role(role))

    # -- roles ---------------------------------------------------------------------------------------------------------------------

    @operation
    def add_role(self, name: str, *, timeout: Timeout = DEFAULT) -> Plan[None]:
        """Make a role, which allows nothing yet.

        Args:
            name: 1 to 128 printable characters.
            timeout: seconds.

        Raises:
            TypeError, ValueError: no name; nothing was sent.
            RoleExists: there is one of this name, as ``root`` always is.
            AuthRefused: there are as many as there may be.
        """
        return self._change(timeout, wire.ADD_ROLE, to_role(name))

    @operation
    def delete_role(self, name: str, *, timeout: Timeout = DEFAULT) -> Plan[None]:
        """Remove a role, also from those who have it.

        Args:
            name: of the role.
            timeout: seconds.

        Raises:
            TypeError, ValueError: no name; nothing was sent.
            RoleNotFound: there is none of this name.
            AuthRefused: it is root.
        """
        return self._change(timeout, wire.DELETE_ROLE, to_role(name))

    @operation
    def roles(self, *, timeout: Timeout = DEFAULT) -> Plan[list[str]]:
        """List the names of all roles, in order; ``root`` is one of them.

        Args:
            timeout: seconds.
        """
        return self._inspect(timeout, letters.INSPECT_ROLES)

    @operation
    def role(self, name: str, *, timeout: Timeout = DEFAULT) -> Plan[Role]:
        """Return what a role allows.

        Args:
            name: of the role.
            timeout: seconds.

        Raises:
            TypeError, ValueError: no name; nothing was sent.
            RoleNotFound: there is none of this name.
        """
        return self._inspect(timeout, letters.INSPECT_ROLE, to_role(name))

    @operation
    def grant_permission(
        self,
        role: str,
        mode: Literal["read", "write", "readwrite"],
        key: Data | None = None,
        *,
        prefix: Data | None = None,
        start: Data | None = None,
        end: Data | None = None,
        timeout: Timeout = DEFAULT,
    ) -> Plan[None]:
        """Have a role allow something with a key or a span of keys; what it allowed before with exactly these keys counts no more.

        Spans that overlap or touch count as one: a scan may go from one into the other.  An empty ``prefix`` or ``start`` is every key
        of the application, but not those that recipes keep outside of namespaces; a namespace's begin with its prefix, as all its keys.

        Args:
            role: its name.
            mode: "read", "write" or "readwrite".
            key: exactly this key.
            prefix: all keys that begin with it.
            start: all keys from this one on, up to but without ``end`` where that is given.
            end: see ``start``.
            timeout: seconds.

        Raises:
            TypeError, ValueError: a bad argument, or no span: nothing is granted by omission; nothing was sent.
            RoleNotFound: there is none of this name.
            AuthRefused: it is root, or there are as many permissions as there may be.
        """
        return self._change(timeout, wire.GRANT_PERMISSION, to_role(role), to_mode(mode), *to_span(key, prefix, start, end))

    @operation
    def revoke_permission(
        self,
        role: str,
        key: Data | None = None,
        *,
        prefix: Data | None = None,
        start: Data | None = None,
        end: Data | None = None,
        timeout: Timeout = DEFAULT,
    ) -> Plan[None]:
        """Have a role allow nothing any more with exactly the key or span that was granted; what others grant of it stays.

        Args:
            role: its name.
            key: as for ``grant_permission``.
            prefix: likewise.
            start: likewise.
            end: likewise.
            timeout: seconds.

        Raises:
            TypeError, ValueError: a bad argument, or no span; nothing was sent.
            RoleNotFound: there is none of this name.
            AuthRefused: nothing was granted for exactly these keys, or it is root.
        """
        return self._change(timeout, wire.REVOKE_PERMISSION, to_role(role), *to_span(key, prefix, start, end))


class BlockingAuth(AuthCalls, Blocking):
    """As ``AuthCalls``; each call blocks until it has its result."""

    def _with_hash(self, what: int, name: str, password: bytes, timeout: Timeout) -> Plan[None]:
        return self._change(timeout, what, name, passwords.hashed(password, os.urandom(passwords.SALT)))


class AsyncAuth(AuthCalls, Awaiting):
    """As ``AuthCalls``; each call is awaited, and passwords are hashed beside the loop."""

    def _with_hash(self, what: int, name: str, password: bytes, timeout: Timeout) -> Plan[None]:
        return cast("Plan[None]", self._hashed_first(what, name, password, timeout))  # as operation promises on an Awaiting surface

    async def _hashed_first(self, what: int, name: str, password: bytes, timeout: Timeout) -> None:
        hashing = partial(passwords.hashed, password, os.urandom(passwords.SALT))
        kept = await asyncio.get_running_loop().run_in_executor(None, hashing)
        await cast("Awaitable[None]", self._change(timeout, what, name, kept))
