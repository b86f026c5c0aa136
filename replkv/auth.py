"""Users, roles and permissions, as a part of the replicated state (etcd, server/auth), and who may do what.

A **role** has permissions: to read, to write or both, each for a span of keys.  A **user** has roles, and a password, of which only a hash
is here, or none: then a certificate names it.  The role ``root`` may do everything and is always there.  While auth is not enabled
everybody may do everything.

A **subject** is a user and the auth revision at which it was proved that this is who asks.  Its commands are judged where they are applied,
so that what was taken away before them in the log counts; a user that was changed since has to prove again who it is.  What has no subject
is the member's own.

An ``Auth`` is never changed: each command makes another one, so that any thread may take the one there is and go by it.
"""

from __future__ import annotations

from bisect import bisect_right
from itertools import islice
from typing import TYPE_CHECKING, Any, ClassVar, Final, NamedTuple, Protocol, TypeAlias

from attrs import evolve, field, frozen

from replkv import codec, refusals, wire
from replkv.codec import DecodeError
from replkv.errors import AuthenticationFailed, AuthRefused, PermissionDenied, RoleExists, RoleNotFound, UserExists, UserNotFound
from replkv.letters import ADDRESSES
from replkv.refusals import refuse
from replkv.values import behind_prefix
from replkv.wire import READ, READWRITE, WRITE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from replkv.lease import Lease, Leases
    from replkv.wire import Raw

ROOT: Final = "root"
"""The role that may do everything, and the user that must have it while auth is enabled."""

ADMIN: Final = 4
"""What only the role root may: not a right that could be granted for keys."""
OF_LEASE: Final = 8
"""Together with READ or WRITE: the key hangs on a lease, and who asks has named no more than the lease, so it is not told which key."""

USERS_MAX, ROLES_MAX, PERMISSIONS_MAX, TOKENS_MAX = 10_000, 1_000, 10_000, 10_000
"""How many there may be; of permissions in all roles together, of tokens those that live at the same time."""
TOKENS_OF_USER_MAX: Final = 100
"""How many tokens of one user live at the same time: who logs in again and again ends its own."""

STEP: Final = 256
"""How many rights are looked up in one step."""


Subject: TypeAlias = tuple[str, int]
"""A user, "" where nobody was asked, and the auth revision at which that was proved."""

Span: TypeAlias = tuple[bytes, bytes | None]
Right: TypeAlias = tuple[int, bytes, bytes | None]
"""READ, WRITE or ADMIN, the first two perhaps OF_LEASE, and the keys."""


class User(NamedTuple):
    """One user.

    Attributes:
        password: its hash; empty: only a certificate proves who it is.
        roles: their names, in order.
        changed: the auth revision at which it was made, or got its password.
    """

    password: bytes
    roles: tuple[str, ...]
    changed: int

    def __repr__(self) -> str:
        return f"User(roles={self.roles}, changed={self.changed})"  # no hash


class Token(NamedTuple):
    """What proves for a while who asks, at every member; it is stored under its hash.

    Attributes:
        user: who.
        stamp: the auth revision at which that was proved.
        until: cluster time in microseconds at which it ends.
    """

    user: str
    stamp: int
    until: int


@frozen
class Auth:
    """Who may do what.

    Attributes:
        enabled: whether anything is checked.
        revision: counts the changes, tokens excepted.
        narrowed: the revision at which something may have been taken away from somebody last.
        users: by name.
        roles: the permissions of each, by span; ``root`` is not among them.
        tokens: by the SHA-256 of each, the one that ends first, first, if all live equally long.
    """

    enabled: bool = False
    revision: int = 1
    users: Mapping[str, User] = field(factory=dict, repr=False)
    roles: Mapping[str, Mapping[Span, int]] = field(factory=dict, repr=False)
    tokens: Mapping[bytes, Token] = field(factory=dict, repr=False)
    narrowed: int = field(default=1, eq=False, repr=False)
    _spans: dict[tuple[str, ...], _Granted] = field(factory=dict, init=False, eq=False, repr=False)  # by roles, once asked for

    # -- who asks ------------------------------------------------------------------------------------------------------------------

    def is_valid(self, subject: Subject) -> bool:
        """Tell whether somebody is still who it proved to be; while auth is not enabled, everybody is."""
        if not self.enabled:
            return True
        user = self.users.get(subject[0])
        return user is not None and user.changed <= subject[1]

    def roles_of(self, subject: Subject) -> tuple[str, ...]:
        """Return the roles of who asks, while auth is enabled.

        Raises:
            AuthenticationFailed: it is no user, or was changed since it proved to be that.
        """
        if not self.is_valid(subject):
            raise refuse(AuthenticationFailed, (subject[0],))
        return self.users[subject[0]].roles

    def holder(self, digest: bytes, time: int) -> Subject | None:
        """Return whom a token speaks for at a cluster time; None: it does not, any more.

        Args:
            digest: the SHA-256 of the token.
            time: in microseconds.
        """
        token = self.tokens.get(digest)
        if token is None or time >= token.until or not self.is_valid((token.user, token.stamp)):
            return None
        return token.user, token.stamp

    # -- who may what --------------------------------------------------------------------------------------------------------------

    def check(self, subject: Subject | None, packed: Raw, leases: Leases) -> None:
        """Check that somebody may do what a packed operation does, in whichever branch; log n in its permissions for each part.

        Args:
            subject: who asks; None: the member itself.
            packed: the operation.
            leases: those there are: rights on a lease are rights on its keys.

        Raises:
            PermissionDenied: it may not.
            AuthenticationFailed: it is no user, or has to prove anew that it is.
        """
        for _ in self.check_in_steps(subject, packed, leases):
            pass

    def check_in_steps(self, subject: Subject | None, packed: Raw, leases: Leases) -> Iterator[None]:
        """Check as ``check``, in steps between which others have their turn: very many keys may hang on a lease."""
        if subject is None or not self.enabled:
            return
        roles = self.roles_of(subject)
        if ROOT in roles:
            return
        unjudged = _Unjudged(leases, self._spans_of(roles).mark)
        rights = needed(packed, unjudged)
        while part := tuple(islice(rights, STEP)):
            self._demand(subject, roles, part)
            if len(part) == STEP:
                yield
        unjudged.end(subject[0])

    def check_span(self, subject: Subject | None, mode: int, span: Span) -> None:
        """Check that somebody may read, or write, all keys of a span; as ``check``."""
        if subject is None or not self.enabled:
            return
        roles = self.roles_of(subject)
        if ROOT not in roles:
            self._demand(subject, roles, ((mode, *span),))

    def check_leased(self, subject: Subject | None, keys: Iterable[bytes]) -> None:
        """Check that somebody may read each of the keys that hang on a lease; as ``check``."""
        if subject is None or not self.enabled:
            return
        roles = self.roles_of(subject)
        if ROOT not in roles:
            self._demand(subject, roles, ((READ | OF_LEASE, *_only(key)) for key in keys))

    def check_user(self, subject: Subject | None, names: Iterable[str] = ()) -> None:
        """Check that somebody is a user, and one of those named if any are; root is whoever it likes.

        Raises:
            PermissionDenied: it is another one.
            AuthenticationFailed: it is none.
        """
        if subject is None or not self.enabled:
            return
        roles, allowed = self.roles_of(subject), set(names)
        if allowed and ROOT not in roles and subject[0] not in allowed:
            raise refuse(PermissionDenied, (subject[0], ADMIN, b"", None))

    def check_root(self, subject: Subject | None) -> None:
        """Check that somebody may do everything; as ``check``."""
        if subject is not None and self.enabled and ROOT not in self.roles_of(subject):
            raise refuse(PermissionDenied, (subject[0], ADMIN, b"", None))

    def _demand(self, subject: Subject, roles: tuple[str, ...], rights: Iterable[Right]) -> None:
        readable, writable, _ = self._spans_of(roles)
        for mode, start, end in rights:
            kind = mode & ~OF_LEASE
            if kind == READ:
                allowed = readable.cover(start, end) or _within(start, end, ADDRESSES)
            else:
                allowed = kind == WRITE and writable.cover(start, end) and not _meets(start, end, ADDRESSES)
            if not allowed:
                raise refuse(PermissionDenied, (subject[0], mode, *((b"", None) if mode & OF_LEASE else (start, end))))

    def _spans_of(self, roles: tuple[str, ...]) -> _Granted:
        found = self._spans.get(roles)
        if found is None:
            granted = [(span, mode) for role in roles for span, mode in self.roles.get(role, {}).items()]
            readable, writable = (_Spans.of(span for span, mode in granted if mode & kind) for kind in (READ, WRITE))
            found = self._spans[roles] = _Granted(readable, writable, object())
        return found

    # -- changes -------------------------------------------------------------------------------------------------------------------

    def after(self, packed: Raw, time: int) -> Auth:
        """Return what becomes of this with an AUTH command, at a cluster time; linear in the number of users, roles or tokens.

        Raises:
            AuthRefused: it can't be so; the kinds of that say why.
        """
        _, what, arguments = packed
        if what == wire.ADD_TOKEN:
            return self._with_token(*arguments, time=time)
        after, revision = self._changes[what](self, *arguments), self.revision + 1
        return evolve(after, revision=revision, narrowed=self.narrowed if self._only_gives(what, arguments) else revision)

    def _only_gives(self, what: int, arguments: Raw) -> bool:
        """Tell whether a change that can be made takes nothing away from anybody."""
        if what != wire.GRANT_PERMISSION:
            return what in (wire.DISABLE, wire.ADD_USER, wire.GRANT_ROLE, wire.ADD_ROLE)
        role, mode, start, end = arguments
        return not self.roles[role].get((start, end), mode) & ~mode

    def _enable(self) -> Auth:
        root = self.users.get(ROOT)
        if root is None or ROOT not in root.roles:
            raise _refused(refusals.NO_ROOT)
        return evolve(self, enabled=True)

    def _disable(self) -> Auth:
        return evolve(self, enabled=False, tokens={})

    def _add_user(self, name: str, password: bytes) -> Auth:
        if name in self.users:
            raise refuse(UserExists, (name,))
        if len(self.users) >= USERS_MAX:
            raise _refused(refusals.TOO_MANY, "users")
        return self._with_user(name, User(password, (ROOT,) if name == ROOT else (), self.revision + 1))

    def _delete_user(self, name: str) -> Auth:
        self._user(name)
        if self.enabled and name == ROOT:
            raise _refused(refusals.ROOT_STAYS)
        return evolve(self, users={other: user for other, user in self.users.items() if other != name}, tokens=self._tokens_but(name))

    def _change_password(self, name: str, password: bytes) -> Auth:
        user = self._user(name)._replace(password=password, changed=self.revision + 1)
        return evolve(self._with_user(name, user), tokens=self._tokens_but(name))

    def _grant_role(self, name: str, role: str) -> Auth:
        user = self._user(name)
        if role != ROOT:
            self._role(role)
        return self._with_user(name, user._replace(roles=tuple(sorted({*user.roles, role}))))

    def _revoke_role(self, name: str, role: str) -> Auth:
        user = self._user(name)
        if role not in user.roles:
            raise _refused(refusals.ROLE_NOT_HELD, role)
        if self.enabled and name == role == ROOT:
            raise _refused(refusals.ROOT_STAYS)
        return self._with_user(name, user._replace(roles=tuple(held for held in user.roles if held != role)))

    def _add_role(self, role: str) -> Auth:
        if role == ROOT or role in self.roles:
            raise refuse(RoleExists, (role,))
        if len(self.roles) >= ROLES_MAX:
            raise _refused(refusals.TOO_MANY, "roles")
        return evolve(self, roles={**self.roles, role: {}})

    def _delete_role(self, role: str) -> Auth:
        self._role(role)
        users = {
            name: user._replace(roles=tuple(held for held in user.roles if held != role)) if role in user.roles else user
            for name, user in self.users.items()
        }
        return evolve(self, users=users, roles={other: spans for other, spans in self.roles.items() if other != role})

    def _grant_permission(self, role: str, mode: int, start: bytes, end: bytes | None) -> Auth:
        granted = self._role(role)
        if (start, end) not in granted and sum(map(len, self.roles.values())) >= PERMISSIONS_MAX:
            raise _refused(refusals.TOO_MANY, "permissions")
        return evolve(self, roles={**self.roles, role: {**granted, (start, end): mode}})

    def _revoke_permission(self, role: str, start: bytes, end: bytes | None) -> Auth:
        granted = dict(self._role(role))
        if granted.pop((start, end), None) is None:
            raise _refused(refusals.NOT_GRANTED, role)
        return evolve(self, roles={**self.roles, role: granted})

    def _with_token(self, digest: bytes, user: str, stamp: int, ttl: int, *, time: int) -> Auth:
        if not self.enabled:
            raise _refused(refusals.NOT_ENABLED)
        self.roles_of((user, stamp))
        tokens = {known: token for known, token in self.tokens.items() if token.until > time}
        own = [known for known, token in tokens.items() if token.user == user]
        if len(own) >= TOKENS_OF_USER_MAX or len(tokens) >= TOKENS_MAX:
            del tokens[own[0] if own else next(iter(tokens))]
        after = evolve(self, tokens={**tokens, digest: Token(user, stamp, time + ttl)})
        after._spans.update(self._spans)  # noqa: SLF001  # of its own kind, which has the same rights
        return after

    _changes: ClassVar[dict[int, Callable[..., Auth]]] = {
        wire.ENABLE: _enable,
        wire.DISABLE: _disable,
        wire.ADD_USER: _add_user,
        wire.DELETE_USER: _delete_user,
        wire.CHANGE_PASSWORD: _change_password,
        wire.GRANT_ROLE: _grant_role,
        wire.REVOKE_ROLE: _revoke_role,
        wire.ADD_ROLE: _add_role,
        wire.DELETE_ROLE: _delete_role,
        wire.GRANT_PERMISSION: _grant_permission,
        wire.REVOKE_PERMISSION: _revoke_permission,
    }

    def _user(self, name: str) -> User:
        user = self.users.get(name)
        if user is None:
            raise refuse(UserNotFound, (name,))
        return user

    def _role(self, role: str) -> Mapping[Span, int]:
        if role == ROOT:
            raise _refused(refusals.ROOT_IS_ALL)
        if role not in self.roles:
            raise refuse(RoleNotFound, (role,))
        return self.roles[role]

    def _with_user(self, name: str, user: User) -> Auth:
        return evolve(self, users={**self.users, name: user})

    def _tokens_but(self, user: str) -> dict[bytes, Token]:
        return {digest: token for digest, token in self.tokens.items() if token.user != user}

    def without_tokens(self) -> Auth:
        """Return the same users and roles for another cluster, where nobody has logged in yet."""
        return evolve(self, tokens={})

    # -- the state as rows ---------------------------------------------------------------------------------------------------------

    def rows(self) -> Iterator[tuple[Any, ...]]:
        """Yield all of it as plain rows, equal states as equal rows."""
        yield (self.enabled, self.revision, len(self.users), len(self.roles), len(self.tokens))
        for name in sorted(self.users):
            yield (name, *self.users[name])
        for role in sorted(self.roles):
            yield (role, len(self.roles[role]))
            for (start, end), mode in sorted(self.roles[role].items(), key=_by_span):
                yield (start, end, mode)
        for digest, token in self.tokens.items():
            yield (digest, *token)

    @classmethod
    def load(cls, rows: Iterator[Any]) -> Auth:
        """Build what ``rows`` yielded.

        Raises:
            DecodeError: it is something else.
        """
        try:
            enabled, revision, users, roles, tokens = next(rows)
            loaded = cls(
                codec.boolean(enabled),
                codec.natural(revision),
                dict(_user(next(rows)) for _ in range(codec.natural(users))),
                dict(_role(rows) for _ in range(codec.natural(roles))),
                dict(_token(next(rows)) for _ in range(codec.natural(tokens))),
                narrowed=revision,
            )
        except (StopIteration, RuntimeError, TypeError, ValueError) as error:  # RuntimeError: rows that end amid a generator
            raise DecodeError(f"not the users and roles of a cluster: {error}") from None
        if (len(loaded.users), len(loaded.roles), len(loaded.tokens)) != (users, roles, tokens):
            raise DecodeError("users, roles or tokens that are there twice")
        return loaded


class _Spans(NamedTuple):
    """Spans that neither overlap nor touch, in order: where each begins, and where it ends."""

    starts: tuple[bytes, ...]
    ends: tuple[bytes | None, ...]

    @classmethod
    def of(cls, spans: Iterable[Span]) -> _Spans:
        """Join spans, so that what several of them cover together is covered by one; n log n."""
        starts: list[bytes] = []
        ends: list[bytes | None] = []
        for start, end in sorted(spans, key=lambda span: span[0]):
            if not ends or (ends[-1] is not None and ends[-1] < start):
                starts.append(start)
                ends.append(end)
            elif ends[-1] is not None:
                ends[-1] = None if end is None else max(ends[-1], end)
        return cls(tuple(starts), tuple(ends))

    def cover(self, start: bytes, end: bytes | None) -> bool:
        """Tell whether all keys from ``start`` up to ``end`` are covered; log n."""
        at = bisect_right(self.starts, start) - 1
        if at < 0:
            return False
        reach = self.ends[at]
        return reach is None or (end is not None and end <= reach and start < reach)


class HasKeys(Protocol):
    """Knows which keys hang on which lease."""

    def keys_of(self, number: int) -> Iterable[bytes]:
        """Return the keys that hang on a lease; none where there is no such lease."""


class _Unjudged:
    """The keys of leases that have yet to be judged by who may write what: others were before, for each put that names their lease.

    Args:
        leases: those there are.
        mark: stands for what may be written by who asks.
    """

    def __init__(self, leases: Leases, mark: object) -> None:
        self._leases = leases
        self._mark = mark
        self._asked: dict[int, Lease] = {}

    def keys_of(self, number: int) -> Iterable[bytes]:
        """Return those that hang on a lease, for the first time that it is asked for."""
        if number not in self._leases or number in self._asked:
            return ()
        lease = self._asked[number] = self._leases[number]
        mark, hung = lease.judged
        return lease.keys_since(hung) if mark is self._mark else lease.keys

    def end(self, user: str) -> None:
        """Note that all keys that were asked for may be written; a lease without any is for the user whose it is.

        Raises:
            PermissionDenied: it is another's.
        """
        for lease in self._asked.values():
            if not lease.keys and lease.owner not in (user, ""):
                raise refuse(PermissionDenied, (user, WRITE | OF_LEASE, b"", None))
            lease.judged = self._mark, lease.hung


class _Granted(NamedTuple):
    """What roles allow together; ``mark`` stands for that, and is small."""

    readable: _Spans
    writable: _Spans
    mark: object


def _within(start: bytes, end: bytes | None, prefix: bytes) -> bool:
    """Tell whether all keys of a span begin with a prefix."""
    return start.startswith(prefix) and end is not None and end <= (behind_prefix(prefix) or end)


def _meets(start: bytes, end: bytes | None, prefix: bytes) -> bool:
    """Tell whether a span may hold keys that begin with a prefix."""
    return start < (behind_prefix(prefix) or b"") and (end is None or end > prefix)


# -- what needs which right --------------------------------------------------------------------------------------------------------


def needed(packed: Raw, leases: HasKeys) -> Iterator[Right]:
    """Yield the rights that a packed operation needs, with all that it may carry out; a kind that is not known here needs root.

    Args:
        packed: the operation.
        leases: knows which keys hang on which lease.
    """
    waiting = [packed]
    while waiting:
        operation = waiting.pop()
        kind = operation[0]
        if kind == wire.TXN:
            yield from ((READ, *compare[:2]) for compare in operation[1])
            waiting += (inner for branch in operation[2:4] for inner in branch)
        elif kind in (wire.EXPECT, wire.GUARD):
            yield (READ, *_only(operation[1]))  # a refusal tells what the key holds, or that the lock is another's
            waiting.append(operation[3])
        else:
            yield from _RIGHTS.get(kind, _admin)(operation, leases)


def _only(key: bytes) -> Span:
    return key, key + b"\x00"


def _admin(packed: Raw, leases: HasKeys) -> Iterator[Right]:
    del packed, leases
    yield (ADMIN, b"", None)


def _none(packed: Raw, leases: HasKeys) -> Iterator[Right]:
    """Every user may."""
    del packed, leases
    yield from ()


def _get(packed: Raw, leases: HasKeys) -> Iterator[Right]:
    del leases
    yield (READ, *_only(packed[1]))


def _scan(packed: Raw, leases: HasKeys) -> Iterator[Right]:
    del leases
    yield (READ, *packed[1:3])


def _put(packed: Raw, leases: HasKeys) -> Iterator[Right]:
    del leases
    span = _only(packed[1])
    yield (WRITE, *span)
    if packed[3]:
        yield (READ, *span)


def _put_with(packed: Raw, leases: HasKeys) -> Iterator[Right]:
    """As a put, and on all keys of the lease: they end together."""
    yield from _put(packed, leases)
    if packed[4]:
        yield from _on_lease(packed[4], leases)


def _add(packed: Raw, leases: HasKeys) -> Iterator[Right]:
    """Both: the answer tells what the counter holds."""
    del leases
    yield (READ, *_only(packed[1]))
    yield (WRITE, *_only(packed[1]))


def _delete(packed: Raw, leases: HasKeys) -> Iterator[Right]:
    del leases
    yield (WRITE, *packed[1:3])
    if packed[3]:
        yield (READ, *packed[1:3])


def _lease(packed: Raw, leases: HasKeys) -> Iterator[Right]:
    yield from _on_lease(packed[1], leases)


def _on_lease(number: int, leases: HasKeys) -> Iterator[Right]:
    return ((WRITE | OF_LEASE, *_only(key)) for key in leases.keys_of(number))


_RIGHTS: Final[dict[int, Callable[[Raw, HasKeys], Iterator[Right]]]] = {
    wire.GET: _get,
    wire.SCAN: _scan,
    wire.PUT: _put,
    wire.PUT_WITH: _put_with,
    wire.ADD: _add,
    wire.DELETE: _delete,
    wire.GRANT: _none,
    wire.KEEP_ALIVE: _none,
    wire.RENEW: _lease,
    wire.REVOKE: _lease,
}


# -- rows --------------------------------------------------------------------------------------------------------------------------


def _by_span(item: tuple[Span, int]) -> tuple[bytes, bool, bytes]:
    (start, end), _ = item
    return start, end is None, end or b""


def _user(row: Any) -> tuple[str, User]:
    name, password, roles, changed = row
    if type(password) is not bytes or type(roles) is not tuple:
        raise DecodeError("not a user")
    return codec.short_text(name), User(password, tuple(map(codec.short_text, roles)), codec.natural(changed))


def _role(rows: Iterator[Any]) -> tuple[str, dict[Span, int]]:
    role, count = next(rows)
    return codec.short_text(role), dict(_permission(next(rows)) for _ in range(codec.natural(count)))


def _permission(row: Any) -> tuple[Span, int]:
    start, end, mode = row
    if type(start) is not bytes or not (end is None or type(end) is bytes) or mode not in (READ, WRITE, READWRITE):
        raise DecodeError("not a permission")
    return (start, end), mode


def _token(row: Any) -> tuple[bytes, Token]:
    digest, user, stamp, until = row
    if type(digest) is not bytes or len(digest) != wire.DIGEST:
        raise DecodeError("not a token")
    return digest, Token(codec.short_text(user), codec.natural(stamp), codec.natural(until))


def _refused(reason: int, name: str = "") -> AuthRefused:
    return refuse(AuthRefused, (reason, name))
