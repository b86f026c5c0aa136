"""Leases: which there are, until when each lives, and which keys hang on it (etcd, server/lease).

Time here is cluster time, in microseconds: it enters through the log, so leases end alike on all members.  A **keeper** is a process that
keeps leases alive; one keep-alive renews all of its leases, in constant time: a lease lives for ``ttl`` from its own last renewal or from
its keeper's last keep-alive, whichever is later.

Leases of one keeper with one ttl stand in a queue, the least recently renewed first, so that only the heads of queues need be looked at.
"""

from __future__ import annotations

from collections import OrderedDict
from itertools import islice
from typing import TYPE_CHECKING, TypeAlias

from attrs import Factory, define
from sortedcontainers import SortedList

from replkv.errors import LeaseExists, LeaseNotFound
from replkv.refusals import refuse

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

LEASE_BYTES = 64
"""What a lease counts against the store's quota."""

NOBODY = 0
"""The keeper of leases that nobody keeps alive."""


@define(eq=False)
class Lease:
    """One lease.

    Attributes:
        id: its number.
        ttl: microseconds it lives without a renewal.
        keeper: who keeps it alive.
        renewed: when it was granted or last renewed by itself.
        passing: it belongs to one key and ends with it.
        owner: the user for whom it was granted or taken over, None: a member, "": anybody; it counts as long as no key hangs on it.
        keys: the keys that hang on it, in the order in which they came.
        hung: how often one was hung on it.
        judged: what stands for the rights that were found to do for all its keys, and what ``hung`` was then; a note that changes nothing.
    """

    id: int
    ttl: int
    keeper: int
    renewed: int
    passing: bool = False
    owner: str | None = None
    keys: dict[bytes, None] = Factory(dict)
    hung: int = 0
    judged: tuple[object, int] = (None, 0)

    def keys_since(self, hung: int) -> Iterator[bytes]:
        """Yield the keys that came since ``hung`` was that, and perhaps some that were there before; linear in them."""
        return islice(reversed(self.keys), self.hung - hung)


Row: TypeAlias = tuple[int, int, int, int, bool, str | None]
"""A lease in a dump: id, ttl, keeper, renewed, passing and owner."""

_Class: TypeAlias = tuple[int, int]  # keeper and ttl


@define(eq=False)
class _Queue:
    """The leases of one class; ``noted`` is the deadline of the head, or an earlier time."""

    noted: int
    leases: OrderedDict[int, Lease] = Factory(OrderedDict)  # finds its first at once; a dict would first walk over all that are gone

    @property
    def head(self) -> Lease:
        return next(iter(self.leases.values()))


class Leases:
    """All leases, in the order in which they were renewed.

    Attributes:
        last_id: the largest id the store has chosen by itself.
        size: what all leases count against the store's quota, in bytes.
    """

    def __init__(self) -> None:
        self.last_id = 0
        self.size = 0
        self._table: dict[int, Lease] = {}
        self._queues: dict[_Class, _Queue] = {}  # none is empty
        self._heads: SortedList[tuple[int, _Class]] = SortedList()  # what each queue has noted
        self._kept_alive: dict[int, int] = {}  # when each keeper last did
        self._numbers: dict[int, int] = {}  # how many leases each keeper has

    def __len__(self) -> int:
        return len(self._table)

    def __iter__(self) -> Iterator[Lease]:
        return iter(self._table.values())

    def __contains__(self, number: object) -> bool:
        return number in self._table

    def __getitem__(self, number: int) -> Lease:
        """Return a lease.

        Raises:
            LeaseNotFound: there is none of this id.
        """
        lease = self._table.get(number)
        if lease is None:
            raise refuse(LeaseNotFound, (number,))
        return lease

    def deadline(self, lease: Lease) -> int:
        """Return when a lease is over if nothing renews it."""
        return max(lease.renewed, self._kept_alive.get(lease.keeper, 0)) + lease.ttl

    def keys_of(self, number: int) -> Iterable[bytes]:
        """Return the keys that hang on a lease; none where there is no such lease."""
        lease = self._table.get(number)
        return () if lease is None else lease.keys

    # -- changes -------------------------------------------------------------------------------------------------------------------

    def choose(self, after: int) -> int:
        """Return the next id behind ``after`` that is free."""
        number = after + 1
        while number in self._table:
            number += 1
        return number

    def grant(self, number: int, ttl: int, keeper: int, time: int, *, passing: bool = False, owner: str | None = None) -> Lease:
        """Make a lease.

        Args:
            number: its id; 0 chooses one.
            ttl: microseconds.
            keeper: who keeps it alive, or ``NOBODY``.
            time: now.
            passing: it ends with its key.
            owner: the user who asks; None: a member.

        Raises:
            LeaseExists: the id is taken.
        """
        if number in self._table:
            raise refuse(LeaseExists, (number,))
        if not number:
            number = self.last_id = self.choose(self.last_id)
        lease = Lease(number, ttl, keeper, time, passing, owner)
        self._add(lease)
        return lease

    def renew(self, number: int, keeper: int, time: int, owner: str | None = None) -> Lease:
        """Let a lease's time begin anew, and give it to a keeper if one is named, and to the user who asks.

        Raises:
            LeaseNotFound: there is none of this id.
        """
        lease = self[number]
        self.remove(lease)
        lease.renewed = time
        if keeper:
            lease.keeper, lease.owner = keeper, owner
        self._add(lease)
        return lease

    def renew_all(self, time: int) -> None:
        """Let the time of all leases begin anew; linear in their number."""
        for lease in list(self):
            self.renew(lease.id, NOBODY, time)

    def keep_alive(self, keeper: int, time: int) -> int:
        """Let the time of all leases of a keeper begin anew, in constant time; return how many it has."""
        number = self._numbers.get(keeper, 0)
        if number:
            self._kept_alive[keeper] = time
        return number

    def kept_by(self, keeper: int) -> list[int]:
        """Return the ids of the leases of a keeper; linear in them and in how many kinds of leases there are."""
        if keeper == NOBODY:
            return []  # nobody is no secret, which the number of a keeper is
        return [number for (owner, _), queue in self._queues.items() if owner == keeper for number in queue.leases]

    def hang(self, key: bytes, number: int) -> None:
        """Hang a key on a lease."""
        if (lease := self._table.get(number)) is not None:
            lease.keys[key] = None
            lease.hung += 1

    def take(self, key: bytes, number: int) -> bool:
        """Take a key from a lease, if it is still there; tell whether that ended it: a passing lease ends with the last of its keys."""
        lease = self._table.get(number)
        if lease is None:
            return False
        lease.keys.pop(key, None)
        if not lease.passing or lease.keys:
            return False
        self.remove(lease)
        return True

    def _add(self, lease: Lease) -> None:
        self._table[lease.id] = lease
        self.size += LEASE_BYTES
        keeper = lease.keeper
        if keeper:
            self._numbers[keeper] = self._numbers.get(keeper, 0) + 1
        place = (keeper, lease.ttl)
        queue = self._queues.get(place)
        if queue is None:
            queue = self._queues[place] = _Queue(self.deadline(lease))
            self._heads.add((queue.noted, place))
        queue.leases[lease.id] = lease

    def remove(self, lease: Lease) -> None:
        """End a lease; what becomes of its keys is the caller's business."""
        keeper = lease.keeper
        del self._table[lease.id]
        self.size -= LEASE_BYTES
        place = (keeper, lease.ttl)
        queue = self._queues[place]
        del queue.leases[lease.id]
        if not queue.leases:
            del self._queues[place]
            self._heads.remove((queue.noted, place))
        if keeper:
            self._numbers[keeper] -= 1
            if not self._numbers[keeper]:
                del self._numbers[keeper]
                self._kept_alive.pop(keeper, None)

    # -- expiry --------------------------------------------------------------------------------------------------------------------

    @property
    def next(self) -> Lease | None:
        """The lease that is over first, of several the one of the least keeper, then ttl; amortised logarithmic in the number of queues.

        All members agree on it, however often each has looked.
        """
        while self._queues:
            noted, place = self._heads[0]
            queue = self._queues[place]
            head = queue.head
            deadline = self.deadline(head)
            if deadline == noted:
                return head
            del self._heads[0]
            queue.noted = deadline
            self._heads.add((deadline, place))
        return None

    # -- dumping and loading -------------------------------------------------------------------------------------------------------

    def rows(self) -> tuple[list[Row], list[tuple[int, int]]]:
        """Return the leases and the keepers' last keep-alives as plain rows that later changes leave alone."""
        leases = [(lease.id, lease.ttl, lease.keeper, lease.renewed, lease.passing, lease.owner) for lease in self]
        return leases, sorted(self._kept_alive.items())

    def load(self, leases: Iterable[Row], kept_alive: Iterable[tuple[int, int]]) -> None:
        """Fill an empty table with what ``rows`` returned; keys are hung on it by ``hang``.

        Raises:
            ValueError: no table can have had it.
        """
        before = 0
        for number, ttl, keeper, renewed, passing, owner in leases:
            if number in self._table or not number or not ttl or renewed < before:
                raise ValueError(f"lease {number} can't stand where it does")
            before = renewed
            self._add(Lease(number, ttl, keeper, renewed, passing, owner))
        last = NOBODY
        for keeper, time in kept_alive:
            if keeper not in self._numbers or keeper <= last:
                raise ValueError(f"keeper {keeper} can't have kept anything alive, or stands out of order")
            last = keeper
            self._kept_alive[keeper] = time
