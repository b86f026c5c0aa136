"""Why the machine refuses a command: **facts**, which are in the log's outcome, and the text that the caller makes of them.

Answers are kept for repeats and hashed to compare members, so they must be alike on members of different versions: no text is in them,
and the facts of a refusal never change their meaning.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, TypeVar

from replkv import errors
from replkv.values import KeyValue

E = TypeVar("E", bound=errors.ReplkvError)

Facts = tuple[Any, ...]


def _compacted(asked: int, oldest: int) -> str:
    if not asked:
        return f"the store is compacted up to revision {oldest} already"
    return f"revision {asked} is compacted: {oldest} is the oldest that is kept"


def _future(asked: int, newest: int) -> str:
    return f"revision {asked} does not exist yet: the store is at {newest}"


def _no_counter(key: bytes, is_one: bool) -> str:  # a fact
    if is_one:
        return f"the counter {key[:64]!r} would leave the range of 64 bits: add less"
    return f"the value of {key[:64]!r} is not a decimal integer of 64 bits: put one first"


def _too_many(operations: int, most: int) -> str:
    return f"a transaction of {operations} operations where Settings.max_txn_ops allows {most}: split it"


def _too_large(size: int, most: int) -> str:
    return f"a request of {size} bytes where Settings.max_request_bytes allows {most}: split it, or store a reference"


def _unknown() -> str:
    return "the command was executed once, but its answer was too large to be kept for a repeat"


def _conflict(key: bytes, expected: int, current: tuple[Any, ...] | None) -> str:
    state = "not there" if current is None else f"at revision {current[3]}"
    return f"{key[:64]!r} is {state}, not {f'at revision {expected}' if expected else 'missing'}: decide anew by what the error carries"


def _no_key(key: bytes, what: str) -> str:
    return f"{key[:64]!r} does not exist, so there is no {what} to keep: give one"


def _no_lease(lease: int) -> str:
    return f"there is no lease {lease}: it expired, was revoked, or never was; make a new one"


def _lease_exists(lease: int) -> str:
    return f"there is a lease {lease} already: take it over without ttl=, or let the cluster choose an id"


def _lost(key: bytes, created: int) -> str:
    return f"the lock {key[:64]!r} that was taken at revision {created} is lost: stop what it protects, then take it anew"


def _no_member(name: str) -> str:
    return f"there is no member {name}: members() lists those there are"


def _member_exists(name: str, address: str) -> str:
    where = f" at {address}" if address else ""
    return f"{name} is a member already{where}: start it with its new address, which the others learn from it, or use another name"


def _no_such_members(members: int, most: int) -> str:
    if not members:
        return "no member would be left to vote: remove the data instead, or add another member first"
    return f"there would be {members} members, and at most {most} are possible"


_MODES = {1: "read", 2: "write", 9: "read", 10: "write"}
_OF_LEASE = 8


def _denied(user: str, mode: int, start: bytes, end: bytes | None) -> str:
    if mode not in _MODES:
        return f"this is for users who have the role root, and {user} has not"
    what = "each of the keys that hang on this lease, or it has none and is another's" if mode & _OF_LEASE else _keys(start, end)
    return f"user {user} may not {_MODES[mode]} {what}: have root grant it to one of the user's roles"


def _keys(start: bytes, end: bytes | None) -> str:
    if end == start + b"\x00":
        return repr(start[:64])
    return f"the keys from {start[:64]!r} " + ("on" if end is None else f"to {end[:64]!r}")


def _unproved(user: str) -> str:
    if not user:
        return "this cluster answers only users who have proved who they are: connect(user=, password=)"
    return f"that this is user {user} has to be proved anew: the user was removed or given another password, or is none"


def _auth_refused(reason: int, name: str) -> str:
    return AUTH_REASONS[reason].format(name=name)


def _no_user(name: str) -> str:
    return f"there is no user {name}: auth.users() lists those there are"


def _user_exists(name: str) -> str:
    return f"there is a user {name} already: change_password, or use another name"


def _no_role(name: str) -> str:
    return f"there is no role {name}: auth.roles() lists those there are"


def _role_exists(name: str) -> str:
    return f"there is a role {name} already: grant permissions to it, or use another name"


NO_ROOT, ROOT_STAYS, ROOT_IS_ALL, ROLE_NOT_HELD, NOT_GRANTED, TOO_MANY, NOT_ENABLED = 1, 2, 3, 4, 5, 6, 7

AUTH_REASONS: Final = {
    NO_ROOT: "nobody could administer the cluster any more: add_user('root', password) first",
    ROOT_STAYS: "the user root keeps its role for as long as auth is enabled: disable it first",
    ROOT_IS_ALL: "the role root may do everything, which can't be changed: make a role of another name",
    ROLE_NOT_HELD: "the user has no role {name}: auth.user() lists those it has",
    NOT_GRANTED: "the role {name} has no permission for exactly these keys: auth.role() lists what it has",
    TOO_MANY: "there are as many {name} as there may be: remove some first",
    NOT_ENABLED: "auth is not enabled, so that nobody logs in",
}
"""Why users, roles and permissions can't be so; these numbers are in the log's outcome: never reuse one."""


def _quota(size: int, most: int) -> str:
    return (
        f"the store would take {size} bytes where Settings.max_bytes allows {most}: delete what is not needed; history goes with the next "
        "compaction"
    )


_KINDS: Final[dict[int, tuple[type[errors.ReplkvError], Callable[..., str]]]] = {
    1: (errors.Compacted, _compacted),
    2: (errors.FutureRevision, _future),
    3: (errors.NotACounter, _no_counter),
    4: (errors.TooManyOps, _too_many),
    5: (errors.TooLarge, _too_large),
    6: (errors.OutcomeUnknown, _unknown),
    7: (errors.Conflict, _conflict),
    8: (errors.KeyNotFound, _no_key),
    9: (errors.LeaseNotFound, _no_lease),
    10: (errors.LeaseExists, _lease_exists),
    11: (errors.QuotaExceeded, _quota),
    12: (errors.LockLost, _lost),
    13: (errors.MemberNotFound, _no_member),
    14: (errors.MemberExists, _member_exists),
    15: (errors.MembershipRefused, _no_such_members),
    16: (errors.PermissionDenied, _denied),
    17: (errors.AuthenticationFailed, _unproved),
    18: (errors.AuthRefused, _auth_refused),
    19: (errors.UserNotFound, _no_user),
    20: (errors.UserExists, _user_exists),
    21: (errors.RoleNotFound, _no_role),
    22: (errors.RoleExists, _role_exists),
}
"""The status of an answer that is a refusal, and what it means.  These numbers are in the log's outcome: never reuse one."""

STATUS: Final = {kind: status for status, (kind, _) in _KINDS.items()}

ABOUT_A_KEY: Final = frozenset({STATUS[errors.NotACounter], STATUS[errors.Conflict], STATUS[errors.KeyNotFound]})
"""Refusals whose first fact is a key as the caller names it; that of LockLost is in no namespace."""


KEY_BYTES = 256
"""How much of a key is a fact: enough to be recognised, also behind the prefix of a namespace."""


def refuse(kind: type[E], facts: Facts, *details: Any) -> E:
    """Return the error for a refusal.

    Args:
        kind: of error.
        facts: for its text.
        details: that the error carries besides: the oldest revision of Compacted, the present record of Conflict.
    """
    status = STATUS[kind]
    _, text = _KINDS[status]
    facts = tuple([fact[:KEY_BYTES] if isinstance(fact, bytes) else fact for fact in facts])
    carried = [KeyValue(*detail) if isinstance(detail, tuple) else detail for detail in details]
    error = kind(text(*facts, *details), *carried)
    error.refusal = (status, facts, *details)
    return error


def error_of(status: int, facts: Facts, *details: Any) -> errors.ReplkvError:
    """Return the error that a refusal in the log's outcome stands for."""
    return refuse(_KINDS[status][0], facts, *details)
