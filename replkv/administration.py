"""The calls that change the cluster itself: who its members are, and who leads it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TypeVar

from replkv.member_ops import ChangeMembers, to_member_name
from replkv.plans import ChangeMembership, NewLeader, Plan
from replkv.surface import DEFAULT, Surface, Timeout, operation

W = TypeVar("W")
L = TypeVar("L")


class Administration(Surface[W, L]):
    """What members and clients offer beyond the keys; a namespace has none of it."""

    @operation
    def change_members(
        self,
        *,
        add: Mapping[str, str] | None = None,
        remove: Iterable[str] = (),
        learners: Mapping[str, str] | None = None,
        timeout: Timeout = DEFAULT,
    ) -> Plan[None]:
        """Change who belongs to the cluster, in one step that is decided once; writes go on meanwhile.

        Returns when the change is committed, not when those who come have caught up: they are learners until then, and get their vote by
        themselves.  Where some are to come and others to go, those who are at work stay until those who come have caught up.  So a dead
        member is replaced in one call, before or after the new one is started, with ``join=`` or with the whole map as ``cluster=``.

        A name that is in ``add`` or ``learners`` with the address it has already changes its part: it gets a vote, or loses it.

        Args:
            add: address by name of those who come, to have a vote.
            remove: names of those who go; they stop, and only an empty directory can join again.
            learners: address by name of those who get everything and have no vote, for good.
            timeout: seconds.

        Raises:
            TypeError, ValueError: no names or addresses, a name twice, or nothing to change; nothing was sent.
            MemberExists: one that is to come is there already, at another address.
            MemberNotFound: one that is to go is not there.
            MembershipRefused: nobody would be left to vote, or they would be too many.
            WaitTimeout: the change is decided, and will be carried out; it was not within the timeout.
            Removed: it was carried out, and the member that was asked is one of those who go; ``leave()`` is made for that.
            OutcomeUnknown: handed over, and no answer in time.
        """
        return self._run(
            ChangeMembership(ChangeMembers.of({} if add is None else add, remove, {} if learners is None else learners)), timeout
        )

    @operation
    def promote(self, name: str, *, timeout: Timeout = DEFAULT) -> Plan[None]:
        """Give a learner a vote, as soon as it has caught up.

        Args:
            name: of the learner; a voter stays one.
            timeout: seconds.

        Raises:
            TypeError, ValueError: no name; nothing was sent.
            MemberNotFound: there is no such member.
            WaitTimeout, OutcomeUnknown: as ``change_members``.
        """
        return self._run(ChangeMembership(ChangeMembers(promote=(to_member_name(name),))), timeout)

    @operation
    def transfer_leadership(self, to: str | None = None, *, timeout: Timeout = DEFAULT) -> Plan[None]:
        """Hand the leadership to another member; writes pause for some milliseconds, and none is lost.

        Returns when the member that was asked sees the other one lead, which may be at once.  It is tried again until the timeout, as soon
        as the one that is to lead answers and has the log.  It is not kept to: whoever leads may be followed by anybody, and
        ``Config.priority`` says who is wanted in the long run.

        Args:
            to: its name; None: the fittest of those that don't lead now.
            timeout: seconds.

        Raises:
            TypeError, ValueError: no name; nothing was sent.
            MemberNotFound: there is no such member, or it has no vote.
            MembershipRefused: there is nobody else who has a vote.
            WaitTimeout: not in time; the text says what was in the way.
        """
        return self._run(NewLeader(None if to is None else to_member_name(to)), timeout)
