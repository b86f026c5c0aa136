"""The holder's side of leases: keeps those of this process alive, and knows by this member's own clock when one may be lost.

A lease is promised from the moment before its grant or renewal was asked for, less 1 % for clocks that run apart; the cluster counts from
a later moment, the stamp of the log entry.  So the holder always gives up first.  What it has given up it also revokes, unless
somebody else has taken it over meanwhile.

All leases of a process travel as one keep-alive: they belong to its keeper, a random number.
"""

from __future__ import annotations

import threading
from functools import partial
from itertools import count
from typing import TYPE_CHECKING, Protocol

from attrs import define, field, frozen

from replkv import codec
from replkv.ops import KeepAlive, Revoke

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from replkv.machine import Machine
    from replkv.proposals import Call

MARGIN = 0.99
"""The share of its time for which a holder counts on a lease."""

PER_TTL = 3
"""Keep-alives within the shortest time to live."""


class Kept(Protocol):
    """The ids of the leases that belong to a keeper."""

    def __contains__(self, lease: object, /) -> bool: ...

    def __iter__(self) -> Iterator[int]: ...


@frozen
class _Own(Kept):
    """Those in the state of a member in this process."""

    machine: Machine
    keeper: int

    def __contains__(self, lease: object, /) -> bool:
        leases = self.machine.leases
        return isinstance(lease, int) and lease in leases and leases[lease].keeper == self.keeper

    def __iter__(self) -> Iterator[int]:
        return (lease.id for lease in self.machine.leases if lease.keeper == self.keeper)


@define(eq=False)
class Held:
    """A lease that somebody in this process counts on.

    Attributes:
        id: of the lease.
        ttl: seconds.
        kept: it is kept alive here.
        until: this member's clock; afterwards nobody may count on it.
        lost: it is over, or may be.
        on_lost: called, on the node's thread as a rule, when it is found to be lost; must not block.
    """

    id: int
    ttl: float
    kept: bool
    until: float
    lost: bool = False
    on_lost: list[Callable[[], object]] = field(factory=list)


@define(eq=False, repr=False)
class Keeper:
    """All leases that are held in this process.

    Callers' threads hold and release; everything else belongs to the node's thread.

    Args:
        number: stands for this process in the cluster.
        submit: hands a command of the member's own over, and says what is to be done with its answer.
        session_ttl: seconds; keep-alives come often enough that the member's session outlives its leases.
        look_up: finds out which leases belong to this keeper, and calls back, unless that fails; None: the state that ``applied`` shows
            tells.
    """

    number: int
    session_ttl: float
    _submit: Callable[[bytes, Callable[[Call], None]], None]
    _look_up: Callable[[Callable[[Kept], None]], None] | None = None
    _held: dict[int, list[Held]] = field(factory=dict, init=False)
    _gate: threading.Lock = field(factory=threading.Lock, init=False)
    _granting: int = field(default=0, init=False)
    _asked_at: float = field(default=float("-inf"), init=False)  # the newest keep-alive
    _under_way: bool = field(default=False, init=False)
    _machine: Machine | None = field(default=None, init=False)  # as it was last seen, on the node's thread
    _stopped: bool = field(default=False, init=False)
    _cleaning: list[bytes] = field(factory=list, init=False)  # commands that remove what nobody wants any more
    resting: dict[tuple[float, str | None], list[Held]] = field(factory=dict, init=False)
    """Leases that nobody uses now and somebody may soon, by their time to live and the user for whom they were granted, if any."""
    places: Iterator[int] = field(factory=count, init=False)
    """Numbers the places in lines that hang on these leases: one lease may stand in a line several times."""
    deadline: float = field(default=float("inf"), init=False)
    """When ``turn`` may have something to do, in seconds."""

    # -- callers, any thread -------------------------------------------------------------------------------------------------------

    def granting(self, change: int) -> None:
        """Note that a caller asks for a lease (+1), or has its answer (-1)."""
        with self._gate:
            self._granting += change

    def hold(self, lease: int, ttl: float, since: float, *, kept: bool) -> Held:
        """Count on a lease that was granted or renewed, asked for at ``since``."""
        held = Held(lease, ttl, kept, since + ttl * MARGIN)
        with self._gate:
            if self._stopped:
                held.lost = True
                return held
            self._held.setdefault(lease, []).append(held)
            keep_by = self._asked_at + min(ttl, self.session_ttl) / PER_TTL if kept and not self._under_way else held.until
            self.deadline = min(self.deadline, held.until, keep_by)
        return held

    def renewed(self, held: Held, since: float) -> None:
        """Count on a lease for its whole time again; one that is lost stays so."""
        with self._gate:
            held.until = max(held.until, since + held.ttl * MARGIN)

    def release(self, held: Held) -> None:
        """Count on a lease no more."""
        with self._gate:
            holders = self._held.get(held.id, [])
            if held in holders:
                holders.remove(held)
            if not holders:
                self._held.pop(held.id, None)

    def keep(self, held: Held, *, alive: bool) -> bool:
        """Keep a lease alive from now on, or no longer; tell whether it can be counted on still."""
        with self._gate:
            held.kept = alive
            if alive and not self._under_way:  # one that rests needs no look: what was due for it is found to be due no more
                self.deadline = min(self.deadline, self._asked_at + min(held.ttl, self.session_ttl) / PER_TTL)
            return not held.lost

    def drop(self, held: Held) -> None:
        """Give up a lease that nobody wants any more, and have it revoked; does not wait."""
        self.lose(held)
        self.clean(self._revocation(held.id))

    def clean(self, command: bytes) -> None:
        """Have a packed command carried out that removes what nobody wants any more, as soon as the cluster can be reached."""
        with self._gate:
            self._cleaning.append(command)
            self.deadline = float("-inf")

    # -- the node's side -----------------------------------------------------------------------------------------------------------

    def _due(self) -> float:
        if self._cleaning:  # it came while the others were looked after
            return float("-inf")
        due = min((held.until for holders in self._held.values() for held in holders), default=float("inf"))
        every = self._interval()
        return due if every is None or self._under_way else min(due, self._asked_at + every)

    def _interval(self) -> float | None:
        shortest = min((held.ttl for holders in self._held.values() for held in holders if held.kept), default=None)
        return None if shortest is None else min(shortest, self.session_ttl) / PER_TTL

    def turn(self, now: float) -> None:
        """Give up what can't be counted on any more, and keep the rest alive."""
        if now < self.deadline:
            return
        with self._gate:
            cleaning, self._cleaning = self._cleaning, []
            over = [held for holders in self._held.values() for held in holders if held.until <= now]
            every = self._interval()
        for command in cleaning:
            self._submit(command, lambda _: None)
        for held in over:
            self.lose(held)
        due = any(held.kept for held in over) or (every is not None and now >= self._asked_at + every)
        if due and not self._under_way:  # where one was given up, its answer tells whether there is something to revoke
            self._keep_alive(now)
        with self._gate:
            self.deadline = self._due()

    def _keep_alive(self, now: float) -> None:
        with self._gate:
            renewed = [held for holders in self._held.values() for held in holders if held.kept]
        self._asked_at, self._under_way = now, True

        def answered(call: Call) -> None:
            with self._gate:
                self._under_way = False
                self.deadline = float("-inf")  # look again
            if call.answer is None or call.answer[0]:
                return
            if self._look_up is not None:
                self._look_up(partial(self._kept_alive, renewed, now, call.answer[1]))
            elif self._machine is not None:
                self._kept_alive(renewed, now, call.answer[1], _Own(self._machine, self.number))

        self._submit(codec.pack(KeepAlive(self.number).to_wire()), answered)

    def _kept_alive(self, renewed: Iterable[Held], since: float, number: int, kept: Kept) -> None:
        """Count on leases for their whole time again, which live by a keep-alive that was asked for at ``since``."""
        for held in renewed:
            if self._is_kept(held, kept):
                self.renewed(held, since)
        self._disown(number, kept)

    def _is_kept(self, held: Held, kept: Kept) -> bool:
        """Tell whether a lease lived by this keeper's last keep-alive; it is lost if it ended or somebody else has taken it over."""
        if held.lost:
            return False
        if held.id in kept:
            return True
        self.lose(held)
        return False

    def applied(self, machine: Machine) -> None:
        """Take note of leases that ended; between two entries, and before the answers of the last one are given."""
        self._machine = machine
        if machine.ended_leases:
            for number in machine.ended_leases:
                self.ended(number)
            machine.ended_leases.clear()

    def restarted(self, machine: Machine) -> None:
        """Look which leases are left, in a state that was loaded from a snapshot."""
        self._machine = machine
        machine.ended_leases.clear()
        with self._gate:
            everything = [held for holders in self._held.values() for held in holders]
        for held in everything:
            if held.kept:
                self._is_kept(held, _Own(machine, self.number))
            elif held.id not in machine.leases:
                self.lose(held)

    def _disown(self, number: int, leases: Kept) -> None:
        """Revoke those of this keeper's ``number`` leases that nobody holds here: they would be kept alive in vain.

        Their callers gave up before they learnt of them, or could not count on them any more.  Those that others have taken over are
        not among them.
        """
        with self._gate:
            kept = sum(any(held.kept for held in holders) for holders in self._held.values())
            if self._granting or number <= kept:
                return
            orphans = [lease for lease in leases if lease not in self._held]
        for orphan in orphans:
            self._submit(self._revocation(orphan), lambda _: None)

    def _revocation(self, number: int) -> bytes:
        return codec.pack(Revoke(number, self.number).to_wire())

    def ended(self, number: int) -> None:
        """Take note that a lease has ended; any thread."""
        with self._gate:
            holders = list(self._held.get(number, ()))
        for held in holders:
            self.lose(held)

    def lose(self, held: Held) -> None:
        """Give a lease up: it is over, or may be; any thread."""
        self.release(held)
        if held.lost:
            return
        held.lost = True
        for tell in list(held.on_lost):
            tell()

    def lose_all(self) -> None:
        """Give up everything: the member has stopped."""
        with self._gate:
            self._stopped = True
            everything = [held for holders in self._held.values() for held in holders]
        for held in everything:
            self.lose(held)
