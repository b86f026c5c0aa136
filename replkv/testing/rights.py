"""Who may do what: users, roles and permissions once more, independent of ``replkv.auth``, for clarity and with brute force.

A right on a span is looked for point by point: all keys from one bound up to the next are alike, so that it is enough to ask for the first
of each such stretch whether a permission has it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

from attrs import evolve, field, frozen

from replkv import errors, wire

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from replkv.wire import Raw

ROOT = "root"
OWN_TOKENS, ALL_TOKENS = 100, 10_000
"""How many tokens there are at a time, of one user and of all."""
ADDRESSES = b"\x00replkv/clients/", b"\x00replkv/clients0"
"""The keys that members alone write, and every user reads."""

Subject = tuple[str, int]
Span = tuple[bytes, bytes | None]
Denied = type[errors.ReplkvError]
Wish = tuple[int, Span] | str
"""To read or to write a span, or to be a user, "" being anybody."""
Hung = Callable[[int], tuple[str | None, list[bytes]]]
"""Tells whose a lease is, None being a member, and the keys that hang on it."""


class ModelUser(NamedTuple):
    """A user: its password's hash, its roles, and at which revision of the rights it proved anew who it is at the earliest."""

    password: bytes
    roles: frozenset[str]
    changed: int


class ModelToken(NamedTuple):
    """Whom a token speaks for, proved at which revision, until when in cluster time."""

    user: str
    stamp: int
    until: int


class RefusedChangeError(Exception):
    """A change of rights that can't be; carries the kind of error."""

    def __init__(self, kind: Denied) -> None:
        super().__init__(kind.__name__)
        self.kind = kind


@frozen
class Rights:
    """Who may do what; each change makes another one."""

    enabled: bool = False
    revision: int = 1
    users: Mapping[str, ModelUser] = field(factory=dict)
    roles: Mapping[str, Mapping[Span, int]] = field(factory=dict)
    tokens: Mapping[bytes, ModelToken] = field(factory=dict)

    # -- who may what --------------------------------------------------------------------------------------------------------------

    def denies(self, subject: Subject | None, packed: Raw, hung: Hung) -> Denied | None:
        """Return why somebody may not do what an operation may do, in whichever branch; None: it may."""
        if (wrong := self._denies_user(subject)) is not None or subject is None or not self.enabled or self.is_root(subject):
            return wrong
        wishes = list(wishes_of(packed, hung))
        return None if all(wish is not None and self._allows(subject, wish) for wish in wishes) else errors.PermissionDenied

    def denies_reading(self, subject: Subject | None, span: Span) -> Denied | None:
        """Return why somebody may not read all keys of a span; None: it may."""
        return self.denies(subject, (wire.SCAN, *span), lambda _: ("", []))

    def _denies_user(self, subject: Subject | None) -> Denied | None:
        if subject is None or not self.enabled:
            return None
        name, stamp = subject
        return errors.AuthenticationFailed if name not in self.users or stamp < self.users[name].changed else None

    def is_root(self, subject: Subject) -> bool:
        """Tell whether a user has the role that may do everything."""
        return ROOT in self.users[subject[0]].roles

    def _allows(self, subject: Subject, wish: Wish) -> bool:
        return wish in (subject[0], "") if isinstance(wish, str) else self._grants(subject, *wish)

    def _grants(self, subject: Subject, mode: int, span: Span) -> bool:
        if mode == wire.READ and span[1] is not None and ADDRESSES[0] <= span[0] < ADDRESSES[1] and span[1] <= ADDRESSES[1]:
            return True
        if mode == wire.WRITE and span[0] < ADDRESSES[1] and (span[1] is None or span[1] > ADDRESSES[0]):
            return False
        mine = [
            granted
            for role in self.users[subject[0]].roles
            for granted, allowed in self.roles.get(role, {}).items()
            if allowed in (mode, wire.READWRITE)
        ]
        first, end = span
        bounds = [bound for _, bound in mine if bound is not None and first < bound and (end is None or bound < end)]
        return all(any(_has(granted, key) for granted in mine) for key in (first, *bounds))

    # -- changes -------------------------------------------------------------------------------------------------------------------

    def after(self, what: int, arguments: Raw, time: int) -> Rights:
        """Return what a change makes of this.

        Raises:
            RefusedChangeError: it can't be.
        """
        if what == wire.ADD_TOKEN:
            digest, user, stamp, ttl = arguments
            return self._with_token(digest, ModelToken(user, stamp, time + ttl), time)
        changes: dict[int, Callable[..., Rights]] = {
            wire.ENABLE: self._enable,
            wire.DISABLE: lambda: evolve(self, enabled=False, tokens={}),
            wire.ADD_USER: self._add_user,
            wire.DELETE_USER: self._delete_user,
            wire.CHANGE_PASSWORD: self._change_password,
            wire.GRANT_ROLE: self._grant_role,
            wire.REVOKE_ROLE: self._revoke_role,
            wire.ADD_ROLE: self._add_role,
            wire.DELETE_ROLE: self._delete_role,
            wire.GRANT_PERMISSION: self._grant_permission,
            wire.REVOKE_PERMISSION: self._revoke_permission,
        }
        return evolve(changes[what](*arguments), revision=self.revision + 1)

    def _enable(self) -> Rights:
        _demand(ROOT in self.users and ROOT in self.users[ROOT].roles, errors.AuthRefused)
        return evolve(self, enabled=True)

    def _add_user(self, name: str, password: bytes) -> Rights:
        _demand(name not in self.users, errors.UserExists)
        return self._with(name, ModelUser(password, frozenset({ROOT} if name == ROOT else ()), self.revision + 1))

    def _delete_user(self, name: str) -> Rights:
        _demand(name in self.users, errors.UserNotFound)
        _demand(not (self.enabled and name == ROOT), errors.AuthRefused)
        return evolve(self._without_tokens_of(name), users={other: user for other, user in self.users.items() if other != name})

    def _change_password(self, name: str, password: bytes) -> Rights:
        _demand(name in self.users, errors.UserNotFound)
        return self._without_tokens_of(name)._with(name, ModelUser(password, self.users[name].roles, self.revision + 1))

    def _grant_role(self, name: str, role: str) -> Rights:
        _demand(name in self.users, errors.UserNotFound)
        _demand(role == ROOT or role in self.roles, errors.RoleNotFound)
        return self._with(name, self.users[name]._replace(roles=self.users[name].roles | {role}))

    def _revoke_role(self, name: str, role: str) -> Rights:
        _demand(name in self.users, errors.UserNotFound)
        _demand(role in self.users[name].roles and not (self.enabled and name == role == ROOT), errors.AuthRefused)
        return self._with(name, self.users[name]._replace(roles=self.users[name].roles - {role}))

    def _add_role(self, role: str) -> Rights:
        _demand(role != ROOT and role not in self.roles, errors.RoleExists)
        return evolve(self, roles={**self.roles, role: {}})

    def _delete_role(self, role: str) -> Rights:
        self._check_role(role)
        users = {name: user._replace(roles=user.roles - {role}) for name, user in self.users.items()}
        return evolve(self, users=users, roles={other: granted for other, granted in self.roles.items() if other != role})

    def _grant_permission(self, role: str, mode: int, start: bytes, end: bytes | None) -> Rights:
        self._check_role(role)
        return evolve(self, roles={**self.roles, role: {**self.roles[role], (start, end): mode}})

    def _revoke_permission(self, role: str, start: bytes, end: bytes | None) -> Rights:
        self._check_role(role)
        _demand((start, end) in self.roles[role], errors.AuthRefused)
        left = {span: mode for span, mode in self.roles[role].items() if span != (start, end)}
        return evolve(self, roles={**self.roles, role: left})

    def _check_role(self, role: str) -> None:
        _demand(role != ROOT, errors.AuthRefused)
        _demand(role in self.roles, errors.RoleNotFound)

    def _with(self, name: str, user: ModelUser) -> Rights:
        return evolve(self, users={**self.users, name: user})

    def _without_tokens_of(self, name: str) -> Rights:
        return evolve(self, tokens={digest: token for digest, token in self.tokens.items() if token.user != name})

    def _with_token(self, digest: bytes, token: ModelToken, time: int) -> Rights:
        _demand(self.enabled, errors.AuthRefused)
        _demand(self._denies_user((token.user, token.stamp)) is None, errors.AuthenticationFailed)
        living = [(known, other) for known, other in self.tokens.items() if other.until > time]
        own = [known for known, other in living if other.user == token.user]
        if len(own) >= OWN_TOKENS or len(living) >= ALL_TOKENS:
            oldest = own[0] if own else living[0][0]
            living = [(known, other) for known, other in living if known != oldest]
        return evolve(self, tokens={**dict(living), digest: token})

    def speaks_for(self, digest: bytes, time: int) -> Subject | None:
        """Return whom a token speaks for at a cluster time."""
        token = self.tokens.get(digest)
        if token is None or token.until <= time or self._denies_user((token.user, token.stamp)) is not None:
            return None
        return token.user, token.stamp

    def rows(self) -> list[Raw]:
        """Return all of it, as a machine tells its own."""
        users = [(name, user.password, tuple(sorted(user.roles)), user.changed) for name, user in sorted(self.users.items())]
        roles: list[Raw] = []
        for role, granted in sorted(self.roles.items()):
            spans = sorted(granted, key=lambda span: (span[0], span[1] is None, span[1] or b""))
            roles += [(role, len(granted)), *((*span, granted[span]) for span in spans)]
        counts = (self.enabled, self.revision, len(self.users), len(self.roles), len(self.tokens))
        return [counts, *users, *roles, *((digest, *token) for digest, token in self.tokens.items())]


def _demand(so: bool, kind: Denied) -> None:  # a fact
    if not so:
        raise RefusedChangeError(kind)


def _has(span: Span, key: bytes) -> bool:
    return span[0] <= key and (span[1] is None or key < span[1])


# -- what an operation may do ------------------------------------------------------------------------------------------------------


def wishes_of(packed: Raw, hung: Hung) -> Iterator[Wish | None]:
    """Yield what an operation may read and write, whatever becomes of it; None: what root alone may do.

    Args:
        packed: the operation.
        hung: tells whose a lease is, and its keys.
    """
    tag, *fields = packed
    if tag == wire.TXN:
        yield from ((wire.READ, (compare[0], compare[1])) for compare in fields[0])
        for inner in (*fields[1], *fields[2]):
            yield from wishes_of(inner, hung)
    elif tag in (wire.EXPECT, wire.GUARD):
        yield wire.READ, _key(fields[0])
        yield from wishes_of(fields[2], hung)
    elif tag in (wire.RENEW, wire.REVOKE):
        yield from _wishes_on(fields[0], hung)
    elif tag not in (wire.GRANT, wire.KEEP_ALIVE):
        yield from _wishes_of_plain(tag, fields, hung)


def _wishes_on(lease: int, hung: Hung) -> Iterator[Wish | None]:
    """Yield what may become of a lease: all its keys may end, and one without any is its owner's."""
    owner, keys = hung(lease)
    yield from ((wire.WRITE, _key(key)) for key in keys)
    if not keys:
        yield owner


def _wishes_of_plain(tag: int, fields: list[Any], hung: Hung) -> Iterator[Wish | None]:
    if tag in (wire.GET, wire.ADD):
        yield wire.READ, _key(fields[0])
        if tag == wire.ADD:
            yield wire.WRITE, _key(fields[0])
    elif tag == wire.SCAN:
        yield wire.READ, (fields[0], fields[1])
    elif tag in (wire.PUT, wire.PUT_WITH, wire.DELETE):
        span, prev_kv = ((fields[0], fields[1]), fields[2]) if tag == wire.DELETE else (_key(fields[0]), fields[2])
        yield wire.WRITE, span
        if prev_kv:
            yield wire.READ, span
        if tag == wire.PUT_WITH and fields[3]:
            yield from _wishes_on(fields[3], hung)
    else:
        yield None


def _key(key: bytes) -> Span:
    return key, key + b"\x00"
