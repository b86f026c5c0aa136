"""The one thread that decides: messages, callers and ticks in; disk, network and answers out.

``turn`` is a whole cycle.  It hands everything that came in to the pure floors below, then carries out what they ask for, in the one order
that is safe: publish what readers may rely on, send what promises nothing, make the log durable, send what rests on that, apply what is
decided, answer callers.  A turn never waits for anything but the disk, so a member whose disk hangs falls silent and is replaced.

The node neither starts threads nor knows the time: ``replica.py`` runs turns on a thread, the simulator runs them in virtual time.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping
from typing import TYPE_CHECKING

from attrs import define, field

from replkv import codec, features, wire
from replkv.address_book import SEED, AddressBook
from replkv.admission import Admission
from replkv.caution import BEGIN_ANEW
from replkv.config import Settings
from replkv.described import Described, Published
from replkv.errors import Closed, Corrupt, DiskFull, InvariantBroken, OutcomeUnknown, Overloaded, Rejected, Removed, ReplkvError
from replkv.guests import Guest, Guests
from replkv.keeper import Keeper
from replkv.links import Links
from replkv.log import Log
from replkv.machine import Machine, Outcome
from replkv.membership import Membership
from replkv.messages import (
    RAFT_MESSAGES,
    About,
    Application,
    Digest,
    Entry,
    Forward,
    Found,
    HandOver,
    HardState,
    Hindrance,
    Position,
    Scarcity,
    SnapshotAck,
    SnapshotChunk,
    SnapshotMeta,
)
from replkv.metrics import LATE, Meter
from replkv.notices import Notices
from replkv.outgoing import Outgoing
from replkv.proposals import Call, OwnCall, Proposals
from replkv.raft import Raft, Restored, Role, Timing
from replkv.reads import NOT_YET, Reads
from replkv.snapshotting import Snapshots, load_machine
from replkv.space import Space
from replkv.succession import Succession
from replkv.upkeep import Upkeep
from replkv.watch import Hub

if TYPE_CHECKING:
    import random

    from replkv.config import Config
    from replkv.disk import Disk
    from replkv.housekeeper import Housekeeper
    from replkv.log import Recovered
    from replkv.messages import Message
    from replkv.raft import Ready
    from replkv.transport import Event, Transport

logger = logging.getLogger(__name__)

APPLY_SLICE = 0.002
"""Seconds of applying after which the sockets are served again."""
AHEAD = 4096
"""Entries that wait to be applied at most: after a restart half a million are decided, and to unpack them all takes a second."""
TICK = 0.25
"""Seconds between looks at what no event announces: silent links, lost batches."""
KEEP_FRESH = 10.0
"""Seconds for which a member's state is kept confirmed after somebody asked how fresh it is."""
HAND_OVER = 1.0
"""Seconds a closing leader gives its successor to take over."""


@define(eq=False, repr=False)
class Node(Described):
    """One member.

    Args:
        name: of the member.
        config: this process's choices.
        settings: what the cluster is founded with; later those in the log count.
        addresses: url of every founder, or where it joins only its own; "" where it has none.
        disk: the data directory.
        transport: the network.
        clock: monotonic seconds, suspended time included.
        rng: for election timeouts and identities.
        housekeeper: for long work.
        listen: url to listen on, if it is not this member's address.
        join: urls of members of the cluster that it joins; empty: it is one of the founders.
        learner: it wants no vote, whatever the cluster wants of it.
    """

    name: str
    config: Config
    settings: Settings
    addresses: Mapping[str, str]
    disk: Disk
    transport: Transport
    clock: Callable[[], float]
    rng: random.Random
    housekeeper: Housekeeper
    listen: str = ""
    join: tuple[str, ...] = ()
    learner: bool = False

    log: Log = field(init=False)
    machine: Machine = field(init=False)
    links: Links = field(init=False)
    raft: Raft | None = field(default=None, init=False)
    proposals: Proposals = field(init=False)
    guests: Guests = field(init=False)
    outgoing: Outgoing = field(init=False)
    notices: Notices = field(init=False)
    reads: Reads = field(init=False)
    snapshots: Snapshots = field(init=False)
    hub: Hub = field(factory=Hub, init=False)
    keeper: Keeper = field(init=False)
    space: Space = field(init=False)
    succession: Succession = field(init=False)
    upkeep: Upkeep = field(init=False)
    book: AddressBook = field(init=False)
    membership: Membership = field(init=False)
    meter: Meter = field(init=False)
    published: Published = field(init=False)
    failure: ReplkvError | None = field(default=None, init=False)
    stopped: bool = field(default=False, init=False)

    _to_apply: deque[Entry] = field(factory=deque, init=False)
    _applying: Generator[None, None, list[Outcome]] | None = field(default=None, init=False)
    _matching: bool = field(default=False, init=False)  # the hub has not yet looked at all that is published
    _fresh_until: float = field(default=0.0, init=False)
    _refreshing: bool = field(default=False, init=False)
    _next_tick: float = field(default=0.0, init=False)
    _preparing: bool = field(default=False, init=False)
    _close_by: float | None = field(default=None, init=False)
    _handing_over: bool = field(default=False, init=False)
    _seen_leader: str | None = field(default=None, init=False)
    _followed: tuple[str, ...] | None = field(default=None, init=False)  # the peers that links and address book go by

    # -- beginning and end ---------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Open the log, recover, listen, and begin to connect; waits for nothing but the disk.

        Raises:
            StorageError: the directory can't be used; nothing in it was changed.
            OSError: the address can't be listened on.
        """
        try:
            if url := self.listen or self.addresses[self.name]:
                self.transport.listen(url)  # first: a wrong address must not leave a directory behind
            self.log, recovered = Log.open(self.disk, self.name, self.rng.getrandbits(63) | 1, self.config.segment_bytes)
        except BaseException:
            self.transport.close()
            raise
        try:
            self._recover(recovered, self.clock())
        except BaseException:
            self.transport.close()
            self.log.close()
            raise

    def _recover(self, recovered: Recovered, now: float) -> None:
        recovered = self._load(recovered)
        self.book = AddressBook({**self.addresses, **{f"{SEED}{url}": url for url in self.join if url != self.addresses[self.name]}})
        self.links = Links(self.transport, recovered.identity, () if self.join else tuple(sorted(self.addresses)), self.book)
        self.links.about = About(self.addresses[self.name], level=features.LEVEL, priority=self.config.priority)
        founders = {} if self.join else self.addresses
        admission = Admission(self.config.max_commands_in_flight, self.config.max_bytes_in_flight)
        self.proposals = Proposals(self.rng, self.config.block_bytes, self.settings.election_timeout, admission)
        self.keeper = Keeper(self.rng.getrandbits(62) + 1, self.settings.session_ttl, self._submit_own)
        self.reads = Reads(self.rng.getrandbits(62))
        self.snapshots = Snapshots(self.name, self.config, self.disk, self.log, self.links, self.housekeeper, self._go_on_from, self.clock)
        self.meter = Meter(self.name, LATE * self.settings.election_timeout)
        self.guests = Guests(self.settings.election_timeout, Admission(self.config.max_commands_in_flight, self.config.max_bytes_in_flight))
        self.space = Space(self.name, self.log, self.links, self.proposals)
        self.succession = Succession(self.name, self.config.priority, self.links, self.space)
        others = (self.links, self.book, self.log, self.succession)
        self.membership = Membership(self.name, founders, *others, self._begin, self._submit_own, self.learner)
        self.notices = Notices(self.links)
        self.outgoing = Outgoing(self.name, self.clock, self.links, self.proposals, self.guests, self.space)
        self.upkeep = Upkeep(self.name, self.clock, self.links, self.snapshots, self.housekeeper, self._submit_own)
        self._publish()
        self.hub.publish(self.machine.store, self.published.revision)  # what the snapshot brought is news to nobody
        self.links.dial(now)
        if recovered.founding:
            self._begin(recovered, now)
            self._take_up(recovered)
        elif len(self.addresses) == 1:
            self._try_to_found(now)

    def _load(self, recovered: Recovered) -> Recovered:
        """Load the state of the snapshot; if that is damaged, return what the log knows without it."""
        self.machine = Machine()
        if recovered.snapshot is not None:
            try:
                self.machine = load_machine(self.disk, recovered.snapshot)
            except Corrupt as error:
                return self.log.lose_snapshot(recovered, error)
        return recovered

    def _begin(self, recovered: Recovered, now: float) -> None:
        """Take part in the cluster the log tells of."""
        founding = codec.decode_founding(recovered.founding)
        snapshot = recovered.snapshot.meta if recovered.snapshot is not None else None
        if snapshot is None and not recovered.entries:  # all is lost but who the others are
            snapshot = SnapshotMeta(0, 0, recovered.configuration or founding.configuration)
        restored = Restored(recovered.hard_state, snapshot, recovered.entries, 0, self.machine.time, recovered.floor, self.log.spent)
        settings = Settings.from_wire(founding.settings)
        if settings != self.settings:
            logger.warning("%s was given %s, but its cluster lives by %s", self.name, self.settings, settings)
        self.raft = Raft(self.name, Timing.of(settings), self.rng, restored, now, self.links.identity.incarnation)
        self.settings = settings
        self.meter.stall = LATE * settings.election_timeout
        self.keeper.session_ttl = settings.session_ttl
        self.upkeep.begin(settings, self.machine)
        self.membership.passed(self.machine)
        self.proposals.retry_after = self.guests.retry_after = settings.election_timeout
        self.links.cluster = founding.cluster
        self._follow_configuration(self.raft, now)
        self._publish()

    def _take_up(self, recovered: Recovered) -> None:
        """Compare what this member was started with and what its log says."""
        if self.raft is None:
            return
        self.membership.restarted(self.raft.configuration, recovered.entries)
        if len(self.addresses) > 1 and (different := sorted({*self.addresses} ^ {*self.raft.configuration.names})):
            logger.warning("%s: the cluster map is an address book now; it and the members differ in %s", self.name, ", ".join(different))

    def _follow_configuration(self, raft: Raft, now: float) -> None:
        """Keep links to those who are in the newest configuration: one was appended or installed, or an older one came back."""
        self._followed = raft.others
        self.book.configure(raft.configuration.addresses, raft.others, newest=raft.configured >= self.links.newest)
        self.links.join_cluster(self.links.cluster, raft.configuration.members)
        self.links.dial(now)

    @property
    def closing(self) -> bool:
        """Whether it was asked to close."""
        return self._close_by is not None

    def request_close(self, timeout: float) -> None:
        """Begin to close: hand leadership over, answer who still waits, then stop; all within ``timeout`` seconds."""
        self._close_by = self.clock() + min(timeout, HAND_OVER)
        self.transport.wake()

    def _closing(self, now: float) -> None:
        if self._close_by is None or self.stopped:
            return
        raft = self.raft
        leads = raft is not None and raft.role is Role.LEADER and len(raft.configuration.voters) > 1
        busy = self.proposals.under_way and raft is not None and raft.leader is not None
        if now >= self._close_by or not (leads or busy):
            self.notices.flush()  # there will be no block to carry them
            self._stop(Closed(f"member {self.name} was closed"))
        elif raft is not None and not busy and not self._handing_over:
            self._handing_over = True
            raft.transfer(self.succession.best(raft, now), now)
            self._carry_out(raft)

    def _stop(self, reason: ReplkvError) -> None:
        self.stopped = True
        unknown = OutcomeUnknown(f"member {self.name} stopped before it learned the outcome: {reason}; the write may have been applied")
        self.proposals.fail_all(reason, unknown)
        self.guests.fail_all(reason)
        self.reads.fail_all(reason)
        self.succession.fail_all(reason)
        self.keeper.lose_all()
        self.hub.end()
        self.transport.close()
        self.housekeeper.close()
        self.log.close()

    def _fail(self, error: ReplkvError) -> None:
        """Stop for good: nothing is acknowledged after a failed disk or a broken invariant."""
        logger.log(logging.WARNING if isinstance(error, Removed) else logging.ERROR, "member %s stops: %s", self.name, error)
        self.failure = error
        self._stop(error)

    # -- callers, any thread -------------------------------------------------------------------------------------------------------

    def submit(self, call: Call) -> None:
        """Queue a command that ``proposals.admission`` has let in."""
        if self.space.scarce and call.command is not None and (full := self.space.refusal(call.command)) is not None:
            self.proposals.refuse(call, full)
            return
        self.proposals.submit(call)
        self.transport.wake()
        if self.stopped and self.proposals.give_up(call):
            call.fail(self.failure or Closed(f"member {self.name} is closed"))

    def submit_guest(self, batch: codec.Batch, data: bytes, guest: Guest) -> ReplkvError | None:
        """Take a client's batch that was checked; return why it can't be taken, else its guest hears of it.

        Args:
            batch: what it holds.
            data: its bytes.
            guest: who wants to know what becomes of it.
        """
        if self.space.scarce:
            refusals = (self.space.refusal(codec.pack(command)) for command in batch.commands)
            if (full := next(filter(None, refusals), None)) is not None:
                return full
        key = batch.session, batch.sequence, batch.guest and batch.guest[0]
        if not self.guests.submit(key, data, guest):
            return Overloaded(f"member {self.name} has more of its clients' commands under way than its Config allows: try again")
        self.transport.wake()
        if self.stopped:
            self.guests.fail_all(self.failure or Closed(f"member {self.name} is closed"))
        return None

    def line_up(self, waiting: Call, size: int) -> None:
        """Let a caller wait until its command is let in."""
        admission = self.proposals.admission
        admission.line_up(waiting, size)
        if self.stopped and admission.give_up(waiting, size):
            waiting.fail(self.failure or Closed(f"member {self.name} is closed"))

    def _submit_own(self, command: bytes, then: Callable[[Call], None]) -> None:
        """Hand over a command of this member's own; on its thread."""
        self.proposals.admission.enter_anyway(len(command))
        self.proposals.submit(OwnCall(command, then))

    @property
    def fresh_at(self) -> float:
        """This member's own state has everything that was acknowledged before this moment of its clock.

        Who asks is likely to ask again: for a while, a member that does not lead has the leader confirm it a few times a second.
        """
        now, published = self.clock(), self.published  # in this order: what is published later has what was acknowledged before
        self._fresh_until = now + KEEP_FRESH
        leads = now < published.lease_until and published.applied >= published.commit
        return now if leads else self.reads.fresh_at

    def _stay_fresh(self, now: float) -> None:
        if now < self._fresh_until and now >= self.published.lease_until and not self._refreshing:
            self._refreshing = True
            self.reads.ask(OwnCall(None, self._refreshed))

    def _refreshed(self, _call: Call) -> None:
        self._refreshing = False

    def read_barrier(self, call: Call) -> None:
        """Let a caller wait until a linearizable read may be served from ``published``."""
        self.reads.ask(call)
        self.transport.wake()
        if self.stopped:
            self.reads.fail_all(self.failure or Closed(f"member {self.name} is closed"))

    def wish_for_leader(self, call: Call, to: str | None) -> None:
        """Let a caller wait until a member leads, None: another one than now."""
        self.succession.ask(call, to)
        self.transport.wake()
        if self.stopped:
            self.succession.fail_all(self.failure or Closed(f"member {self.name} is closed"))

    def give_up(self, call: Call) -> bool:
        """Stop waiting; True: the call had surely no effect and never will, False: its outcome is unknown."""
        if call.command is None:
            self.reads.give_up(call)
            self.succession.give_up(call)
            return True
        return self.proposals.give_up(call)

    @property
    def ready(self) -> bool:
        """Whether this member knows a leader and has applied all it knows to be decided."""
        raft, published = self.raft, self.published
        return raft is not None and raft.leader is not None and not self.stopped and 0 < published.commit <= published.applied

    # -- a turn --------------------------------------------------------------------------------------------------------------------

    @property
    def deadline(self) -> float:
        """When ``turn`` must run at the latest although nothing arrived, in the clock's seconds."""
        raft = self.raft
        if self._applying is not None or self._to_apply or self._matching:
            return float("-inf")
        if raft is not None and not self.stopped and (raft.handed_out < raft.commit or self.outgoing.has_more(raft)):
            return float("-inf")
        next_look = self._next_tick if self._close_by is None else min(self._next_tick, self.clock() + 0.01)
        if raft is None:
            return min(next_look, self.keeper.deadline)
        around = self.notices.due, self._expiry_due(raft), self.upkeep.scrub_due(self.machine)
        return min(next_look, self.keeper.deadline, raft.deadline, *around)

    def turn(self, timeout: float | None = None) -> None:
        """Wait for at most ``timeout`` seconds, by default until ``deadline``, then do what there is to do.

        What stops the member is kept in ``failure``; nothing is raised.
        """
        try:
            due = self.deadline
            self._work(self.transport.poll(max(0.0, due - self.clock()) if timeout is None else timeout), due)
        except ReplkvError as error:
            self._fail(error)
        except Exception as error:  # whatever it is: better no member than a wrong one, and no caller may hang
            logger.exception("member %s met an error it should not have", self.name)
            self._fail(InvariantBroken(f"member {self.name}: {type(error).__name__}: {error}; please report it"))

    def _work(self, events: list[Event], due: float) -> None:
        now = self.clock()
        late = self.meter.turn(now, due)
        if late:
            self.links.stood_still(late)
        self.links.handle(events, now)
        for done, error in self.housekeeper.finished():
            done(error)
        if now >= self._next_tick:
            self._next_tick = now + TICK
            self._look_around(now)
        for peer, message in self.links.take_received():
            self._receive(peer, message, now)
        if self.raft is not None:
            self._decide(self.raft, now, stalled=late > 0)
        else:
            self._try_to_found(now)
        self._closing(now)

    def _decide(self, raft: Raft, now: float, *, stalled: bool) -> None:
        for peer, reachable in (changes := self.links.take_changes()):
            (raft.connected if reachable else raft.disconnected)(peer, now)
            if reachable and peer == raft.leader:
                self.outgoing.repeat_all()  # what was on the way to it is lost
        if stalled or now >= raft.deadline:
            raft.tick(now, stalled=stalled)
        self.keeper.turn(now)
        if changes or self.proposals.refused:
            self.space.look_around(raft, now)
        self.succession.turn(raft, now)
        self._send_waiting(raft, now)
        if self._expiry_due(raft) <= now:
            self.outgoing.propose_block(raft, [])
        self._carry_out(raft)
        if raft.others is not self._followed:
            self._follow_configuration(raft, now)
        self._apply(raft)
        self._follow_up(raft)

    def _follow_up(self, raft: Raft) -> None:
        """Do what has time until everything else of a turn is done."""
        if self._matching or self.hub.leaving:
            self._matching = self.hub.publish(self.machine.store, self.published.revision)
        if self._applying is None and not self._matching:  # nothing is removed before the hub has looked at it
            self.upkeep.scrub(self.machine)
        if self.notices.due <= self.clock():
            self.notices.flush()
        if raft.lease_until != self.published.lease_until:
            self._publish()
        if raft.leader != self._seen_leader:
            self._seen_leader = raft.leader
            self.meter.led_by(raft.leader, raft.term)
            logger.info("%s: the leader of term %d is %s", self.name, raft.term, raft.leader or "not known")

    def _keep_house(self, now: float) -> None:
        """Let the housekeeper have the log's next segment ready, and clear away what is no longer needed."""
        if self.log.unprepared and not self._preparing and (not self.log.short or now >= self.space.look_at):
            self._preparing = True
            self.housekeeper.start(self._prepare(), self._prepared)

    def _prepare(self) -> Iterator[None]:
        self.log.prepare()
        yield

    def _prepared(self, error: BaseException | None) -> None:
        self._preparing = False
        if error is not None and not isinstance(error, DiskFull):
            raise error
        if self.raft is not None and self.log.short:
            self.space.look_around(self.raft, self.clock())

    def _look_around(self, now: float) -> None:
        """Do what no event announces."""
        self.links.tick(now)
        self._keep_house(now)
        if self.raft is not None:
            if self.raft.is_outgrown:
                raise Corrupt(f"member {self.name} lost the end of its log, and others vote now than it knows of: {BEGIN_ANEW}")
            self._stay_fresh(now)
            self.space.look_around(self.raft, now)
            self.succession.look_around(self.raft, now)
            self.snapshots.tick(self.raft, now)
            if self._applying is None:
                self.snapshots.take_if_due(self.raft, self.machine)
                self.upkeep.look_around(self.raft, self.machine)
                certain = self.ready and (self.raft.role is Role.LEADER or not self.raft.lags)
                self.membership.configured(self.machine, certain=certain)
                self.membership.look_around(self.raft, self.machine, now)
                self._steer(self.raft, now)
            self.membership.check_cluster(self.raft)

    # -- what arrives --------------------------------------------------------------------------------------------------------------

    def _receive(self, peer: str, message: Message, now: float) -> None:
        if isinstance(message, Found):
            self.membership.told(peer, message, now)
        elif self.raft is not None:  # else not a member of anything yet: the sender will say it again
            self._receive_as_member(self.raft, peer, message, now)

    def _receive_as_member(self, raft: Raft, peer: str, message: Message, now: float) -> None:
        if isinstance(message, RAFT_MESSAGES):
            if (taken := self.space.let_in(raft, message)) is not None:
                raft.receive(peer, taken, now)
        elif isinstance(message, Forward):
            self.outgoing.take_in(raft, peer, message)
        elif isinstance(message, SnapshotChunk):
            self.snapshots.receive(raft, peer, message)
        elif isinstance(message, SnapshotAck):
            self.snapshots.acknowledged(raft, peer, message, now)
        elif isinstance(message, Digest):
            self.upkeep.heard(raft, peer, message)
        elif isinstance(message, Application):
            self.membership.heard(raft, peer, message, now)
        elif isinstance(message, (HandOver, Hindrance)):
            self.succession.heard(raft, peer, message, now)
        elif isinstance(message, Scarcity):
            self.space.heard(peer, message, now)
            self.space.look_around(raft, now)

    def _send_waiting(self, raft: Raft, now: float) -> None:
        """Hand what callers wait for to whoever leads."""
        self.proposals.held = self.name not in raft.configuration.members
        self.outgoing.send(raft, now)
        if raft.role is not Role.LEADER:
            self.notices.forget()
        if self.reads.waiting and raft.leader is not None:
            raft.read(self.reads.next_round(now), now)

    def _expiry_due(self, raft: Raft) -> float:
        """Return when an entry is needed for the next lease to expire, on this leader's clock; infinite where none is.

        The stamp of any entry does it; an idle cluster writes one only then.
        """
        if raft.role is not Role.LEADER or self._applying is not None:
            return float("inf")
        lease = self.machine.leases.next
        if lease is None or not raft.can_propose:
            return float("inf")
        deadline = self.machine.leases.deadline(lease)
        covered = self.outgoing.stamped >= deadline and raft.last_index > self.machine.applied
        return float("inf") if covered else raft.moment(deadline)

    # -- what Raft asks for --------------------------------------------------------------------------------------------------------

    def _carry_out(self, raft: Raft) -> None:
        ready = self._take(raft)
        while ready is not None:
            self._publish()
            for peer, message in ready.messages:
                self.notices.send(peer, message)
            if ready.entries or ready.hard_state is not None or ready.floor is not None:
                self._persist(raft, ready.hard_state, ready.floor, ready.entries)
            for peer, message in ready.after_sync:
                self.notices.send(peer, message)
            self._to_apply.extend(ready.committed)
            if ready.reads or ready.lost_reads:
                self._note_reads(ready)
            if ready.notices:
                waited_for = not ready.committed or ready.committed[0].index <= self.outgoing.forwarded_in
                self.notices.keep(ready.notices, self.clock(), urgent=waited_for)
            for peer in ready.snapshots:
                self.snapshots.send(raft, peer, self.clock())
            ready = self._take(raft) if ready.entries else None  # that they are durable now may have decided something
        self.space.written(raft)

    def _take(self, raft: Raft) -> Ready | None:
        return raft.take(max(0, AHEAD - len(self._to_apply)))

    def _persist(self, raft: Raft, hard_state: HardState | None, floor: Position | None, entries: list[Entry]) -> None:
        if floor is not None:
            self.log.set_floor(floor)
        self.log.append(hard_state, entries)
        began = self.clock()
        self.log.sync()
        now = self.clock()
        self.meter.synced(now - began)
        if hard_state is not None and hard_state.vote == self.name:
            self.meter.elections_started += 1
        if not self.log.has_next:
            self._keep_house(now)
        if entries:
            raft.synced(entries[-1].index, entries[-1].term, now)

    def _note_reads(self, ready: Ready) -> None:
        for read_id, index in ready.reads:
            self.reads.confirmed(read_id, index)
        if ready.lost_reads:
            self.reads.lost(ready.lost_reads)

    def _publish(self) -> None:
        machine, raft = self.machine, self.raft
        term, commit, lease = (raft.term, raft.commit, raft.lease_until) if raft is not None else (0, 0, 0.0)
        self.published = Published(machine, machine.store.revision, term, commit, machine.applied, lease)

    def _apply(self, raft: Raft) -> None:
        """Apply what is decided, for at most ``APPLY_SLICE``; the rest waits for the next turn."""
        until = self.clock() + APPLY_SLICE if self._to_apply else 0.0
        while self._applying is not None or self._to_apply:
            if self._applying is None:
                self._applying = self.machine.apply(self._to_apply[0])
            try:
                next(self._applying)
            except StopIteration as end:
                self._applied(raft, self._to_apply.popleft(), end.value)
            if self.clock() > until:
                break
        if self._applying is None:
            if self.reads.answerable:
                self._answer_reads(raft)
            if self.membership.has_news(raft, self.machine):
                self._steer(raft, self.clock())

    def _steer(self, raft: Raft, now: float) -> None:
        """Have the configuration follow the roster; from its very first moment on, nothing counts but what it means."""
        self.membership.steer(raft, self.machine, now)
        if raft.others is not self._followed:
            self._follow_configuration(raft, now)

    def _answer_reads(self, raft: Raft) -> None:
        """Let those read whose index is applied, and those look at the machine who want to; between two entries."""
        self.reads.applied(self.machine.applied)
        for call in self.reads.take_looking():
            try:
                seen = call.look(self.machine, raft.time) if call.look is not None else None
                if seen is NOT_YET:
                    self.reads.look_again(call)
                    continue
                call.answer = (wire.OK, seen)
            except Rejected as refused:
                call.error = refused
            call.finish()

    def _applied(self, raft: Raft, entry: Entry, outcomes: list[Outcome]) -> None:
        self._applying = None
        self._publish()
        self.keeper.applied(self.machine)  # first: who has revoked a lease finds it lost
        if self.machine.auth.narrowed != self.hub.auth_revision:
            self.hub.judge_anew(self.machine.auth.narrowed)
        # Watches before answers: who is handed a lock goes before the one who gave it back, and its first write before the other's next.
        self._matching = self.hub.publish(self.machine.store, self.published.revision)
        self.proposals.answer(outcome for outcome in outcomes if outcome.owner is None)  # a client may name a session that is ours
        self.guests.answer(outcomes)
        self.outgoing.applied(outcomes)
        self.upkeep.applied(raft, self.machine, entry.index)
        self.membership.passed(self.machine)
        self.snapshots.applied(raft, self.machine, len(entry.encoded))
        if self.reads.answerable:
            self._answer_reads(raft)

    def _go_on_from(self, machine: Machine) -> None:
        """Go on from a state that was loaded from a snapshot."""
        self._to_apply.clear()
        self._applying = None
        self.machine = machine
        self._publish()
        self.meter.snapshots_installed += 1
        self.keeper.restarted(machine)
        self.upkeep.restarted(machine)
        self.membership.passed(machine)
        self.proposals.answer_from(machine)
        self.guests.answer_from(machine)
        self.hub.restart(machine.store.revision)
        self.reads.applied(machine.applied)

    # -- founding ------------------------------------------------------------------------------------------------------------------

    def _try_to_found(self, now: float) -> None:
        if self.membership.try_to_found(self.rng, self.settings, now) and len(self.addresses) > 1 and self.raft is not None:
            self.raft.stand(now)
