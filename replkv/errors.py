"""Every error replkv raises, grouped by what the caller should do.

``Rejected`` is decided: the same call gets the same answer until the state changes.  ``Unavailable`` means surely not applied: try
again.  ``OutcomeUnknown`` means applied once or not at all.  ``StorageError`` means this member has stopped and needs its operator; only
``DiskFull`` is ``Unavailable`` as well: its member goes on, and waits for room.
Bad arguments are plain ``TypeError`` and ``ValueError``, raised before anything is sent.

All of them can be pickled, so that they cross process pools with their attributes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

    from replkv.values import KeyValue


E = TypeVar("E", bound="ReplkvError")


class ReplkvError(Exception):
    """The root of all errors of replkv; its text names the member, the cause and the remedy."""

    refusal: tuple[Any, ...] = ()
    """How the cluster's decision stands in the log's outcome; empty for an error that is none."""

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), self.args, self.__dict__)

    def again(self) -> Self:
        """Return an equal error to raise: each caller its own, for an exception collects the traceback of whoever raises it."""
        return _rebuild(type(self), self.args, self.__dict__)


def _rebuild(kind: type[E], args: tuple[Any, ...], attributes: dict[str, Any]) -> E:
    error = kind.__new__(kind, *args)
    error.args = args
    error.__dict__.update(attributes)
    return error


# -- decided -----------------------------------------------------------------------------------------------------------------------


class Rejected(ReplkvError):
    """The cluster decided against the call; nothing was changed."""


class DuplicateKey(Rejected):
    """A transaction would write the same key twice on one path."""


class TooManyOps(Rejected):
    """A transaction has more operations than ``Settings.max_txn_ops``."""


class TooLarge(Rejected):
    """A request is larger than ``Settings.max_request_bytes``."""


class NotACounter(Rejected):
    """``add`` met a value that is no decimal integer, or would leave the range of 64 bits."""


class Compacted(Rejected):
    """The revision asked for is no longer kept; ``revision`` is the oldest one that is."""

    def __init__(self, message: str, revision: int = 0) -> None:
        super().__init__(message)
        self.revision = revision


class FutureRevision(Rejected):
    """The revision asked for does not exist yet."""


class Conflict(Rejected):
    """The key is not at the revision the call expected; ``current`` is what it holds now, None if it does not exist."""

    def __init__(self, message: str, current: KeyValue | None = None) -> None:
        super().__init__(message)
        self.current = current


class KeyNotFound(Rejected):
    """What was to be kept of a key is not there: the key does not exist."""


class LeaseNotFound(Rejected):
    """There is no such lease (any more)."""


class LeaseExists(Rejected):
    """A lease with the id asked for exists already."""


class MembershipRefused(Rejected):
    """The cluster can't have the members that were asked for: nobody would be left to vote, or they would be too many."""


class MemberExists(MembershipRefused):
    """A member of this name is there already, at another address."""


class MemberNotFound(MembershipRefused):
    """There is no member of this name."""


class PermissionDenied(Rejected):
    """The user who asks has no right to do this; the text says which one is missing."""


class AuthenticationFailed(Rejected):
    """Who asks has not proved to be a user of the cluster, or not since the user was changed."""


class AuthRefused(Rejected):
    """Users, roles and permissions can't be as they were asked to be."""


class UserNotFound(AuthRefused):
    """There is no user of this name."""


class UserExists(AuthRefused):
    """A user of this name is there already."""


class RoleNotFound(AuthRefused):
    """There is no role of this name."""


class RoleExists(AuthRefused):
    """A role of this name is there already."""


class LockLost(Rejected):
    """A lock, lease or term is no longer this process's; a write that it guards was not done."""


class QuotaExceeded(Rejected):
    """The write would take more than ``Settings.max_bytes``; deletes and compaction make room."""


# -- surely not applied ------------------------------------------------------------------------------------------------------------


class Unavailable(ReplkvError):
    """The call was surely not applied and may be repeated."""


class NoLeader(Unavailable, TimeoutError):
    """No leader could be reached in time; ``unreachable`` names the members that did not answer."""

    def __init__(self, message: str, unreachable: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.unreachable = unreachable


class Overloaded(Unavailable):
    """More is under way at this member than its ``Config`` allows."""


class LevelTooLow(Unavailable):
    """The cluster's feature ``level`` is too low for the call: it rises when all members run a version that supports more."""

    def __init__(self, message: str, level: int = 0) -> None:
        super().__init__(message)
        self.level = level


class TooStale(Unavailable, TimeoutError):
    """This member's own state is older than the call accepts."""


class WaitTimeout(Unavailable, TimeoutError):
    """What was waited for did not happen in time; nothing is left behind."""


# -- perhaps applied ---------------------------------------------------------------------------------------------------------------


class OutcomeUnknown(ReplkvError, TimeoutError):
    """A write was handed over and no answer came in time: it may have been applied once, or may still be.

    ``wait(timeout)`` goes on waiting for that very write.
    """

    _resume: Callable[[float | None], Any] | None = None

    def wait(self, timeout: float | None = None) -> Any:
        """Wait for the same write.

        Args:
            timeout: seconds; None waits without limit.

        Returns:
            What the call would have returned; for a call of an ``AsyncReplica`` an awaitable of it.

        Raises:
            TypeError, ValueError: no timeout.
            OutcomeUnknown: still no answer; or there will be none: the member stopped, or the error came from another process.
            ReplkvError: the answer is a refusal, as the call would have raised it.
        """
        if self._resume is None:
            raise self
        return self._resume(timeout)

    def __reduce__(self) -> tuple[Any, ...]:
        kept = {name: value for name, value in self.__dict__.items() if name != "_resume"}  # that holds on to this very process
        return _rebuild, (type(self), self.args, kept)


# -- this member's disk ------------------------------------------------------------------------------------------------------------


class StorageError(ReplkvError):
    """This member's disk failed; unless the subclass says otherwise it has stopped, and acknowledges nothing more."""


class Corrupt(StorageError):
    """Stored bytes are not what was written; ``damage`` says which, without the remedy."""

    def __init__(self, message: str, damage: str = "") -> None:
        super().__init__(message)
        self.damage = damage or message


class DirectoryInUse(StorageError):
    """Another process has the data directory open."""


class DiskFull(StorageError, Unavailable):
    """The disk has no space left.

    The call may be repeated when there is room again; the member goes on: reads, deletes and compaction work.
    """


class WrongCluster(StorageError):
    """The data directory, or a peer, belongs to another member or another cluster."""


class Incompatible(StorageError):
    """A file or a peer speaks a format this version does not know."""


# -- the handle is of no use any more ----------------------------------------------------------------------------------------------


class Removed(ReplkvError):
    """This member was removed from its cluster, or its directory was replaced; only an empty directory can join again."""


class Closed(ReplkvError):
    """The Replica is closed, or not open yet.  A member that stopped by itself raises what stopped it: ``Replica.failure``."""


class ForkedProcess(ReplkvError):
    """A forked child used its parent's Replica."""


class InvariantBroken(ReplkvError):
    """replkv found itself in a state that must not exist, and stopped this member rather than go on."""
