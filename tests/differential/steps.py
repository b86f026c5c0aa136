"""What both stores are asked to do, in words that are neither etcd's nor replkv's.

Revisions are relative to the one at which a play began, so that they are equal on both.
"""

from __future__ import annotations

from typing import Literal, TypeAlias

from attrs import frozen

from replkv import KeyValue

Kind: TypeAlias = Literal["put", "delete"]
Target: TypeAlias = Literal["version", "create_revision", "mod_revision", "value", "lease"]
Relation: TypeAlias = Literal["==", "!=", ">", "<"]
Consistency: TypeAlias = Literal["linearizable", "lease", "local"]


@frozen
class Where:
    """Keys: one, those with a prefix, those from a start on, up to an end; with nothing given, all."""

    key: bytes | None = None
    prefix: bytes | None = None
    start: bytes | None = None
    end: bytes | None = None


# -- changes and reads -------------------------------------------------------------------------------------------------------------


@frozen
class Put:
    """Store a value; None keeps the present one.  ``lease`` 0 is none, None keeps the present one."""

    key: bytes
    value: bytes | None
    lease: int | None = 0
    prev_kv: bool = False


@frozen
class Delete:
    """Delete keys."""

    where: Where
    prev_kv: bool = False


@frozen
class Get:
    """Read a key."""

    key: bytes
    revision: int | None = None
    consistency: Consistency = "linearizable"


@frozen
class Scan:
    """Read keys; None is no bound, no revision."""

    where: Where
    limit: int = 0
    revision: int | None = None
    sort_by: Literal["key", "version", "create", "mod", "value"] = "key"
    descending: bool = False
    keys_only: bool = False
    count_only: bool = False
    min_mod_revision: int | None = None
    max_mod_revision: int | None = None
    min_create_revision: int | None = None
    max_create_revision: int | None = None
    consistency: Consistency = "linearizable"


@frozen
class Compare:
    """A condition; a revision of None stands for 0, the revision of what does not exist."""

    where: Where
    target: Target
    relation: Relation
    operand: int | bytes | None


@frozen
class Txn:
    """Do ``then`` if all conditions hold, else ``otherwise``."""

    compare: tuple[Compare, ...] = ()
    then: tuple[Operation, ...] = ()
    otherwise: tuple[Operation, ...] = ()


Operation: TypeAlias = Put | Delete | Get | Scan | Txn


@frozen
class If:
    """Do this to its one key if that was last changed at a revision; None: if it does not exist."""

    mod_revision: int | None
    then: Put | Delete


# -- history and leases ------------------------------------------------------------------------------------------------------------


@frozen
class Compact:
    """Forget what is older than a revision."""

    revision: int


@frozen
class Grant:
    """Make a lease; of seconds that are many more than a play takes."""

    lease: int
    ttl: int = 86_400


@frozen
class Renew:
    """Let a lease's time begin anew."""

    lease: int


@frozen
class Revoke:
    """End a lease and delete its keys."""

    lease: int


@frozen
class TimeToLive:
    """Ask for how long a lease was granted, and which keys hang on it."""

    lease: int


@frozen
class Leases:
    """Ask which leases there are."""


Step: TypeAlias = Operation | If | Compact | Grant | Renew | Revoke | TimeToLive | Leases

A_PLAY = 600
"""Seconds that no play takes."""


# -- watches -----------------------------------------------------------------------------------------------------------------------


@frozen
class Watch:
    """See what happens to keys, from a revision on; None is from now on."""

    where: Where
    start_revision: int | None = None
    prev_kv: bool = False
    kinds: tuple[Kind, ...] = ("put", "delete")


@frozen
class Seen:
    """An event."""

    kind: Kind
    kv: KeyValue
    prev_kv: KeyValue | None


# -- answers -----------------------------------------------------------------------------------------------------------------------


@frozen
class Refused:
    """What a store answers that refuses: the name of replkv's error, and what the store tells with it.

    ``revision`` is the oldest one kept, ``current`` the pair that was not the expected one.
    """

    kind: str
    revision: int | None = None
    current: KeyValue | None = None
