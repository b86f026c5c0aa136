"""Holders of leases: each is granted one or takes one over, hangs keys on it, renews it, lets it go, and notices when it is lost.

They use the plans behind ``Replica.lease``, so that a member's keeper is driven as it is by an application.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from attrs import define, field, frozen

from replkv import codec
from replkv.engine import Embedded
from replkv.errors import LeaseNotFound, Rejected
from replkv.leasing import _Hold, _Renewal
from replkv.ops import Put, Revoke
from replkv.plans import LeaseKeys
from replkv.proposals import Call
from replkv.testing.history import Consistency, Outcome, Violation
from replkv.testing.model import LEASE, MOD, VALUE
from replkv.values import to_ttl

if TYPE_CHECKING:
    import random
    from collections.abc import Callable

    from replkv.keeper import Held
    from replkv.node import Node
    from replkv.plans import Plan
    from replkv.proposals import Look
    from replkv.testing.checker import Witness
    from replkv.testing.cluster import SimCluster, SimMember
    from replkv.testing.history import Operation
    from replkv.testing.workload import Workload


LAST_ID = (1 << 63) - 1
"""Leases that holders name themselves are counted down from here."""


class _Answered(Call):
    """A call that is finished."""

    __slots__ = ()

    def __init__(self, operation: Operation) -> None:
        super().__init__()
        self.answer = operation.answer


@define(eq=False)
class _Packed:
    """An operation as a plan packed it."""

    packed: bytes

    def to_wire(self) -> Any:
        return codec.unpack(self.packed)


@define(eq=False, repr=False)
class Holding:
    """A lease that somebody counts on, in one life of a member."""

    held: Held
    member: SimMember
    node: Node
    told: int = 0  # how often it was said to be lost
    lost: bool = False  # it was seen to be

    @property
    def alive(self) -> bool:
        """Whether its process is running."""
        return self.member.node is self.node


class _LookCall(Call):
    """Somebody who looks at a lease; what there was is noted on the node's thread, as of the index applied then."""

    __slots__ = ("_then",)

    def __init__(self, look: Look, then: Callable[[Call], None]) -> None:
        super().__init__()
        self.look = look
        self._then = then

    def finish(self) -> None:
        """Note what there was."""
        self._then(self)


@frozen
class Glance:
    """What somebody saw of a lease: its keys, None if there was no lease; at which index, and at which one at the earliest."""

    where: str
    lease: int
    keys: tuple[bytes, ...] | None
    index: int
    least: int


@define(eq=False, repr=False)
class Holders:
    """All holders of leases of a run.

    Args:
        workload: makes their calls.
        rng: draws what they do.
    """

    workload: Workload
    rng: random.Random
    holdings: list[Holding] = field(factory=list)
    glances: list[Glance] = field(factory=list)
    _newest: int = 0  # the highest index somebody looked at

    @property
    def cluster(self) -> SimCluster:
        """Where they are."""
        return self.workload.cluster

    def begin(self) -> None:
        """Set all to work."""
        for _ in range(self.cluster.scenario.holders):
            self._think(self._seek)

    def _think(self, action: Callable[[], None]) -> None:
        pause = max(0.2, 5 * self.cluster.scenario.think)
        self.cluster.scheduler.after(self.rng.expovariate(1.0) * pause, action)

    def _seek(self) -> None:
        """Find a member."""
        running = self.cluster.running
        if not self.workload.active:
            return
        if running:
            self.rng.choice(running).on_caller_thread(self._ask, otherwise=lambda: self._think(self._seek))
        else:
            self._think(self._seek)

    def _ask(self, member: SimMember) -> None:
        """Ask for a lease, or take one over."""
        if not self.workload.active:
            return
        requests, lease = self.workload.requests, 0
        if self.rng.random() < 0.25:
            held = [holding.held.id for holding in self.holdings if holding.alive and not holding.held.lost]
            lease = self.rng.choice(held or requests.leases or [0])
        ttl = 0 if lease else to_ttl(requests.ttl())
        if ttl and self.rng.random() < 0.1:
            lease = LAST_ID - int(requests.unique())
        self.hold(member, lease, ttl, keep_alive=self.rng.random() < 0.75, then=self._held)

    def hold(
        self,
        member: SimMember,
        lease: int,
        ttl: int,
        *,
        keep_alive: bool,
        then: Callable[[Holding | None], None],
        patience: float | None = None,
    ) -> None:
        """Hold a lease from now on, on a thread of a member's process.

        Args:
            member: where.
            lease: which; 0: one of the store's choice.
            ttl: microseconds; 0: there is one already.
            keep_alive: whether the member does so.
            then: called with it; with None if that was not possible, or nobody knows.
            patience: seconds to wait for it; by default drawn.
        """
        node = member.process
        plan = _Hold(Embedded(node), lease, ttl, keep_alive=keep_alive, handle=lambda _, held: Holding(held, member, node))
        node.keeper.granting(+1)

        def answered(operation: Operation) -> None:
            holding = _result(plan, node, operation) if member.node is node else None
            node.keeper.granting(-1)
            if holding is not None:
                self._count_on(holding)
            then(holding)

        self._run(member, plan, answered, patience)

    def _count_on(self, holding: Holding) -> None:
        def told() -> None:
            holding.told += 1

        holding.held.on_lost.append(told)
        holding.told += holding.held.lost  # nobody is told of what was over before
        self.holdings.append(holding)
        self.workload.requests.granted(holding.held.id)

    def _run(self, member: SimMember, plan: Plan[Any], then: Callable[[Operation], None], patience: float | None = None) -> None:
        command = plan.command(Embedded(member.process))
        assert command is not None
        # The operation is noted before it can be answered.
        noted: list[Operation] = []
        noted.append(self.workload.run(member, _Packed(command), Consistency.WRITE, lambda: then(noted[0]), patience=patience))

    # -- with a lease -----------------------------------------------------------------------------------------------------------------

    def _held(self, holding: Holding | None) -> None:
        if holding is None:
            self._think(self._seek)
        else:
            self._think(lambda: self._go_on(holding))

    def _go_on(self, holding: Holding) -> None:
        if not self.workload.active:
            return
        if holding.held.lost or not holding.alive:
            self._think(self._seek)
        else:
            holding.member.on_caller_thread(lambda _: self._act(holding), otherwise=lambda: self._think(self._seek))

    def _act(self, holding: Holding) -> None:
        member, held = holding.member, holding.held
        if not self.workload.active:
            return
        match self.rng.choice(("put", "put", "put", "look", "renew", "revoke", "wait", "forget")):
            case "put":
                put = Put(self.workload.requests.key(), b"l" + self.workload.requests.unique(), lease=held.id)
                self.workload.run(member, put, Consistency.WRITE, lambda: self._held(holding))
            case "look":
                self._look(holding)
                self._held(holding)
            case "renew":
                plan = _Renewal(Embedded(holding.node), held)
                self._run(member, plan, lambda operation: self._renewed(holding, plan, operation))
            case "revoke":
                keeper = self.rng.choice((0, member.process.keeper.number))  # a keeper's own is refused where it keeps the lease no more
                self.workload.run(member, Revoke(held.id, keeper), Consistency.WRITE, lambda: self._think(self._seek))
            case "forget":  # the member goes on keeping it alive
                self._think(self._seek)
            case _:
                self._held(holding)

    def _look(self, holding: Holding) -> None:
        """See which keys hang on the lease."""
        member, node, lease, least = holding.member, holding.node, holding.held.id, self._newest
        plan = LeaseKeys(lease, b"")

        def seen(call: Call) -> None:
            gone = isinstance(call.error, LeaseNotFound)
            if gone or call.answer is not None:
                keys = None if gone else plan.meaning(plan.answer(node, call))
                self.glances.append(Glance(member.where, lease, keys, node.machine.applied, least))
                self._newest = max(self._newest, node.machine.applied)

        node.read_barrier(_LookCall(plan.look, seen))

    def check(self, witness: Witness) -> None:
        """Check what was seen of leases: it was so at that moment, and never goes back.

        Raises:
            Violation: it was not.
        """
        model = witness.model
        for glance in self.glances:
            at = witness.at[glance.index]
            then = ((key, [record for record in versions if record[MOD] <= at.revision]) for key, versions in model.versions.items())
            hanging = sorted(key for key, past in then if past and past[-1][VALUE] is not None and past[-1][LEASE] == glance.lease)
            right = tuple(hanging) if any(row[0] == glance.lease for row in at.leases) else None
            if glance.keys != right or glance.index < glance.least:
                raise Violation("T1", f"{glance} where {right} would be right")

    def _renewed(self, holding: Holding, plan: _Renewal, operation: Operation) -> None:
        if holding.alive:
            _result(plan, holding.node, operation)
        self._held(holding)


def _result(plan: Plan[Any], node: Node, operation: Operation) -> Any:
    """Return what a plan makes of an answer; None if there is none, or it is a refusal."""
    if operation.outcome is not Outcome.ANSWERED:
        return None
    try:
        return plan.meaning(plan.answer(node, _Answered(operation)))
    except Rejected:
        return None
