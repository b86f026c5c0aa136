"""What ``as_user`` returns: the calls of a ``Replica`` on behalf of a user, each judged by what that user may do."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, TypeVar

from replkv.engine import Acting
from replkv.facade import AwaitingFacade, BlockingFacade, Facade
from replkv.leasing import AsyncLease, Lease
from replkv.watching import AsyncWatch, Watch

if TYPE_CHECKING:
    from replkv.auth import Subject
    from replkv.config import Config
    from replkv.engine import Embedded
    from replkv.status import Member, Status
    from replkv.waiting import Notifier

W = TypeVar("W")
L = TypeVar("L")


class Whole(Protocol):
    """A ``Replica`` or ``AsyncReplica``, which is root."""

    _config: Config
    _notifier: Notifier | None

    def _engine(self) -> Embedded: ...

    @property
    def name(self) -> str:
        """Of the member."""

    @property
    def ready(self) -> bool:
        """As ``Replica.ready``."""

    def status(self) -> Status:
        """As ``Replica.status``."""

    def members(self) -> list[Member]:
        """As ``Replica.members``."""


class _OfUser(Facade[W, L]):
    """What both kinds share.

    Args:
        member: whose calls these are; it is kept alive by this, and closed by whoever made it.
        subject: the user.
    """

    def __init__(self, member: Whole, subject: Subject) -> None:
        self._member = member
        self._subject = subject
        self._config = member._config  # noqa: SLF001  # a part of it
        self._notifier = member._notifier  # noqa: SLF001
        self._acting = Acting(member._engine(), subject)  # noqa: SLF001

    def _engine(self) -> Acting:
        engine = self._member._engine()  # noqa: SLF001  # which says why it can't be used any more
        if engine is not self._acting.member:  # another life of a member in a simulation
            self._acting, self._notifier = Acting(engine, self._subject), self._member._notifier  # noqa: SLF001
        return self._acting

    def _ensure_user(self) -> None:
        self._engine().node.published.machine.auth.check_user(self._subject)

    @property
    def name(self) -> str:
        """The member's name."""
        return self._member.name

    @property
    def user(self) -> str:
        """The user's name."""
        return self._subject[0]

    @property
    def ready(self) -> bool:
        """Whether the member knows a leader and has applied all it knows to be decided; never waits."""
        return self._member.ready

    def status(self) -> Status:
        """Return the member's view of itself and its cluster; never waits.

        Raises:
            AuthenticationFailed: the user was changed since.
        """
        self._ensure_user()
        return self._member.status()

    def members(self) -> list[Member]:
        """Return the members of the cluster as this one sees them; never waits.

        Raises:
            AuthenticationFailed: the user was changed since.
        """
        self._ensure_user()
        return self._member.members()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {self._member.name} for {self.user}>"


class ActingReplica(_OfUser[Watch, Lease], BlockingFacade[Watch, Lease]):
    """The calls of a ``Replica`` on behalf of a user; made by ``as_user``, and closed with the ``Replica``.

    While auth is enabled each call is judged by what the user may do at that moment: ``PermissionDenied`` says what it may not, and a
    watch ends with it when the right is taken away.  ``AuthenticationFailed`` is raised once the user was removed or got another password:
    call ``as_user`` anew.  Leases that were granted stay: the member keeps them alive for whoever holds their handles.
    """


class AsyncActingReplica(_OfUser[AsyncWatch, AsyncLease], AwaitingFacade[AsyncWatch, AsyncLease]):
    """The calls of an ``AsyncReplica`` on behalf of a user; as ``ActingReplica``."""
