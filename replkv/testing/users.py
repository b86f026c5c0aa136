"""Users: registrars who say who may do what, users who act within the members' processes, and guests, who come from outside.

A guest is let in as at a member's door, by the product's own ``login.py``, and hands over batches in a session of its own, at whichever
member it reaches, until it knows what became of each.  Some of them name sessions that are another's.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any, Final

from attrs import define, field

from replkv import codec, passwords, wire
from replkv.auth_calls import subject_of
from replkv.auth_ops import ChangeAuth
from replkv.engine import Embedded
from replkv.errors import AuthenticationFailed, ReplkvError
from replkv.letters import Prove
from replkv.login import ANYBODY, PATIENCE, Porter, Proof
from replkv.ops import Delete, Get, Grant, Key, Put, Renew, Revoke, Txn
from replkv.refusals import STATUS
from replkv.testing.checker import OUTCOME_UNKNOWN
from replkv.testing.history import Consistency, Outcome, Violation
from replkv.testing.judge import DENIALS, judge_login, meanwhile
from replkv.testing.rights import ROOT, Span
from replkv.values import to_ttl

if TYPE_CHECKING:
    import random
    from collections.abc import Callable

    from replkv import machine
    from replkv.node import Node
    from replkv.ops import Operation as Wanted
    from replkv.testing.checker import Witness
    from replkv.testing.cluster import SimCluster, SimMember
    from replkv.testing.history import Operation
    from replkv.testing.rights import Rights, Subject
    from replkv.testing.workload import Packable, Workload

NAMES: Final = ("ann", "bob", "cid")
"""Users besides root."""
ROLES: Final = ("reader", "writer")
HALVES: Final[tuple[Span, ...]] = ((b"k", b"k01"), (b"k01", b"l"))
"""Only both together have all keys that begin with a k."""
LOGIN_AGAIN: Final = STATUS[AuthenticationFailed]
HASTE, PAUSE = 0.02, 0.2
"""Seconds between two changes of rights by one registrar, on average: before rights are checked for the first time, and later."""
REGISTRARS: Final = 2
COMPARING: Final = 0.5
"""Seconds that it may take to compare a password, where others come first."""
INSISTING: Final = 0.05
"""Seconds between two steps of a guest that insists, on average: with a user's leisure its session would be over before the next one."""
TRIES: Final = 12
"""How often a guest hands a batch over before it thinks no more of it."""
WAYS: Final = (
    *("grant role", "revoke role", "permit", "permit", "forbid") * 4,
    *("change password",) * 4,
    *("delete user", "add user", "delete role", "add role") * 2,
    *("disable", "enable", "mistake"),
)
"""What registrars ask for, as often as it is drawn."""


@define(eq=False, repr=False)
class Users:
    """All users of a run.

    Args:
        workload: makes the calls of those in members' processes.
        witness: knows who may do what.
        rng: draws what they do.
    """

    workload: Workload
    witness: Witness
    rng: random.Random
    guests: list[Guest] = field(factory=list)
    secrets: dict[bytes, bytes] = field(factory=dict)
    """The password of each hash that was ever given to a user."""
    _handles: dict[str, Subject] = field(factory=dict)  # what was proved once in a member's process

    @property
    def cluster(self) -> SimCluster:
        """Where they are."""
        return self.workload.cluster

    @property
    def rights(self) -> Rights:
        """Who may do what, by what is decided."""
        return self.witness.model.rights

    @property
    def under_way(self) -> bool:
        """Whether somebody from outside waits for an answer."""
        return any(guest.parcel for guest in self.guests)

    def begin(self) -> None:
        """Set all to work."""
        if not self.cluster.scenario.users:
            return
        for _ in range(self.cluster.scenario.users):
            self._later(self._act, self.cluster.scenario.think)
            self._later(self.add_guest(self.rng.choice((*NAMES, ROOT))).go_on, self.cluster.scenario.think)
        for _ in range(REGISTRARS):
            self._later(self._administer, HASTE)

    def add_guest(self, name: str) -> Guest:
        """Have one more come from outside."""
        self.guests.append(Guest(self, name))
        return self.guests[-1]

    def _later(self, action: Callable[[], None], pause: float) -> None:
        self.cluster.scheduler.after(self.rng.expovariate(1.0) * pause, action)

    def somewhere(self, action: Callable[[SimMember], None], otherwise: Callable[[], None]) -> None:
        """Do something at a member that runs."""
        running = self.cluster.running
        if running:
            self.rng.choice(running).on_caller_thread(action, otherwise=otherwise)
        else:
            otherwise()

    # -- in members' processes -----------------------------------------------------------------------------------------------------

    def _act(self) -> None:
        again = lambda: self._later(self._act, self.cluster.scenario.think)  # noqa: E731  # shorter than a method
        if self.workload.active:
            self.somewhere(lambda member: self._ask(member, again), again)

    def _ask(self, member: SimMember, then: Callable[[], None]) -> None:
        subject = self.handle(member, self.rng.choice((*NAMES, ROOT)))
        requests, consistencies = self.workload.requests, self.workload._consistencies()
        if subject is None:
            then()
        elif self.rng.random() < self.cluster.scenario.writes:
            self.workload.run(member, self._write(), Consistency.WRITE, then, subject=subject)
        else:
            self.workload.run(member, requests.read(), self.rng.choice(consistencies), then, subject=subject)

    def _write(self) -> Packable:
        requests, rng, how = self.workload.requests, self.rng, self.rng.random()
        if how < 0.3:
            return self.transaction()
        if not self.cluster.scenario.holders or how < 0.8:
            return requests.write()
        lease = rng.choice(requests.leases or [1])
        return rng.choice((Revoke(lease), Renew(lease, 0), Grant(0, to_ttl(requests.ttl()), 0)))

    def transaction(self) -> Txn:
        """Draw a transaction whose branches need different rights, and may be nested."""
        requests, rng = self.workload.requests, self.rng
        keys, value = (requests.key(), requests.key(), b"n" + requests.key()), b"w" + requests.unique()
        least: list[Wanted] = [Put(keys[0], value)] if rng.random() < 0.5 else [Delete(keys[0])]
        most: list[Wanted] = [rng.choice((Put(keys[1], value), Get(keys[2]), Put(keys[2], value)))]
        if rng.random() < 0.4:
            most = [Txn(compare=[Key(keys[0]).exists], then=most, otherwise=[])]
        branches = [least, most] if rng.random() < 0.5 else [most, least]
        return Txn(compare=[Key(b"k00" + value).missing], then=branches[0], otherwise=branches[1])

    def handle(self, member: SimMember, name: str) -> Subject | None:
        """Return what somebody proved at a member, or earlier elsewhere; None: it could not."""
        known = self._handles.get(name)
        if known is not None and self.rng.random() < 0.6:
            return known
        password = self.password_of(name)
        try:
            subject = subject_of(member.process.published.machine.auth, name, password)
        except AuthenticationFailed:
            return None
        if subject[1]:
            judge_login(self.witness, subject, self.hashes_of(password))
        self._handles[name] = subject
        return subject

    def password_of(self, name: str, mistakes: float = 0.15) -> bytes:
        """Return the password of a user, or sometimes another one that somebody had once."""
        user = self.rights.users.get(name)
        if user is not None and self.rng.random() >= mistakes:
            return self.secrets.get(user.password, b"none")
        return self.rng.choice([*self.secrets.values()] or [b"none"])

    def hashes_of(self, password: bytes) -> list[bytes]:
        """Return the hashes that were made of a password."""
        return [kept for kept, secret in self.secrets.items() if secret == password]

    # -- who may do what -----------------------------------------------------------------------------------------------------------

    def _administer(self) -> None:
        again = lambda: self._later(self._administer, PAUSE if self.rights.enabled else HASTE)  # noqa: E731  # shorter than a method
        if self.workload.active:
            self.somewhere(lambda member: self._ask_for_change(member, again), again)

    def _ask_for_change(self, member: SimMember, then: Callable[[], None]) -> None:
        change, who = self.drawn(), self.rng.random()
        subject = None if who < 0.6 else self.handle(member, ROOT if who < 0.9 else self.rng.choice(NAMES))
        self.cluster.trace.note("rights", member.where, subject, change)
        self.cluster.count("change of rights")
        self.workload.run(member, change, Consistency.WRITE, then, subject=subject)

    def drawn(self) -> ChangeAuth:
        """Draw the next change: first of all there have to be some users and roles."""
        rights, rng = self.rights, self.rng
        missing = [name for name in (ROOT, *NAMES) if name not in rights.users]
        bare = [role for role in ROLES if not rights.roles.get(role)]
        idle = [name for name in NAMES if name in rights.users and not rights.users[name].roles]
        if len(missing) > 1 or ROOT in missing:
            return ChangeAuth(wire.ADD_USER, (missing[0], self._hashed()))
        if ROOT not in rights.users[ROOT].roles:
            return ChangeAuth(wire.GRANT_ROLE, (ROOT, ROOT))
        if bare and rng.random() < 0.8:
            return self._permit(bare[0]) if bare[0] in rights.roles else ChangeAuth(wire.ADD_ROLE, (bare[0],))
        if idle and rng.random() < 0.8:
            return ChangeAuth(wire.GRANT_ROLE, (rng.choice(idle), rng.choice((*ROLES, *ROLES, ROOT))))
        if not rights.enabled and rng.random() < 0.8:
            return ChangeAuth(wire.ENABLE)
        return self._any(rng.choice(WAYS))

    def _any(self, way: str) -> ChangeAuth:
        rng = self.rng
        name, role = rng.choice(NAMES), rng.choice(ROLES)
        match way:
            case "grant role":
                return ChangeAuth(wire.GRANT_ROLE, (name, rng.choice((role, role, role, ROOT))))
            case "revoke role":
                held = sorted(self.rights.users[name].roles) if name in self.rights.users else []
                return ChangeAuth(wire.REVOKE_ROLE, (name, rng.choice(held or [role])))
            case "permit":
                return self._permit(role)
            case "forbid":
                granted: list[Span] = [*self.rights.roles.get(role, {})]
                return ChangeAuth(wire.REVOKE_PERMISSION, (role, *rng.choice(granted or [(b"k", b"l")])))
            case "change password":
                return ChangeAuth(wire.CHANGE_PASSWORD, (rng.choice((*NAMES, ROOT)), self._hashed()))
            case "delete user":
                return ChangeAuth(wire.DELETE_USER, (name,))
            case "add user":
                return ChangeAuth(wire.ADD_USER, (name, self._hashed()))
        return self._rare(way, role)

    def _rare(self, way: str, role: str) -> ChangeAuth:
        match way:
            case "delete role":
                return ChangeAuth(wire.DELETE_ROLE, (role,))
            case "add role":
                return ChangeAuth(wire.ADD_ROLE, (role,))
            case "disable":
                return ChangeAuth(wire.DISABLE)
            case "enable":
                return ChangeAuth(wire.ENABLE)
        mistakes = ChangeAuth(wire.DELETE_USER, (ROOT,)), ChangeAuth(wire.REVOKE_ROLE, (ROOT, ROOT)), ChangeAuth(wire.ADD_ROLE, (ROOT,))
        return self.rng.choice(mistakes)

    def _hashed(self) -> bytes:
        """Make a password, and return its hash."""
        password = b"p" + self.rng.randbytes(4).hex().encode()
        kept = passwords.hashed(password, self.rng.randbytes(passwords.SALT))
        self.secrets[kept] = password
        return kept

    def _permit(self, role: str) -> ChangeAuth:
        key = self.workload.requests.key()
        some: tuple[Span, ...] = (key, key + b"\x00"), (b"k", b"l"), (b"k", b"v"), (b"n", b"o"), (b"a", b"z"), (b"a", b"z")
        if role == ROLES[0]:
            some = some[:1]
        span = self.rng.choice((*some, *HALVES * 2, *(() if role == ROLES[0] else ((b"\x00", None),))))
        missing = [half for half in HALVES if half not in self.rights.roles.get(role, {})]
        if len(missing) == 1 and self.rng.random() < 0.7:
            span = missing[0]
        return ChangeAuth(wire.GRANT_PERMISSION, (role, self.rng.choice((1, 2, 3, 3, 3)), *span))

    # -- the end -------------------------------------------------------------------------------------------------------------------

    def call_root(self) -> Guest:
        """Have root come from outside, who does something."""
        root = self.add_guest(ROOT)
        root.insists = True
        root.go_on()
        return root

    def dismiss(self) -> None:
        """Let nobody wait any more."""
        for guest in self.guests:
            guest.forget()


@define(eq=False, repr=False)
class Guest:
    """A client that is no member's.

    Args:
        users: it is one of.
        name: of its user.
    """

    users: Users
    name: str
    insists: bool = False
    """It goes on until something was carried out, and does not dawdle."""
    subject: Subject | None = None
    session: int = 0
    sequence: int = 0
    parcel: list[Operation] = field(factory=list)
    """What it wants to be done and does not know to be: the commands of one batch."""
    tried: int = 0
    """How often that batch was handed over."""
    done: int = 0
    """How many commands were answered that it had a right to."""
    owner: str = ""
    """Whose the session is."""
    _token: bytes = b""
    _visit: _Visit | None = None  # what it waits for

    @property
    def cluster(self) -> SimCluster:
        """Where it is a guest."""
        return self.users.cluster

    def go_on(self) -> None:
        """Hand the next batch over, or the last one again, at some member."""
        if self._goes_on:
            self.users.somewhere(self._come, self._wait)

    @property
    def _goes_on(self) -> bool:
        return self.users.workload.active or bool(self.parcel) or (self.insists and not self.done)

    def _wait(self) -> None:
        self.users._later(self.go_on, INSISTING if self.insists else self.cluster.scenario.think)

    def _come(self, member: SimMember) -> None:
        if self._visit is not None:
            return
        if member.process.raft is None:  # a door answers nobody before it belongs to a cluster
            self._wait()
            return
        if self.subject is None or self.users.rng.random() < 0.2:
            self._log_in(member)
        else:
            self._hand_over(member)

    # -- logging in ----------------------------------------------------------------------------------------------------------------

    def _log_in(self, member: SimMember) -> None:
        rng, engine = self.users.rng, Embedded(member.process)
        porter = Porter(engine, member.clock, rng.randbytes, self._elsewhere)
        password = self.users.password_of(self.name, 0.0 if self.insists else 0.15)
        token, since = self._token if rng.random() < 0.5 else b"", member.process.published.applied

        def admit(subject: Subject, token: bytes) -> Any:
            self._check_login(member.process, subject, password, since)
            self._token = token or self._token
            return subject

        letter = Prove(1, token, b"" if token and rng.random() < 0.5 else password)
        self._visit = _Greeting(self, member, Proof(porter, letter, self.name, self._ring, admit))
        self._visit.begin()

    def _elsewhere(self, check: Callable[[], None]) -> None:
        """Have a password compared: that takes its time."""
        visit = self._visit
        if isinstance(visit, _Greeting):
            visit.soon(check, self.users.rng.choice((0.001, COMPARING)))

    def _ring(self, errand: object) -> None:
        visit = self._visit
        if isinstance(visit, _Greeting) and visit.errand is errand:
            visit.soon(visit.go_on)

    def _check_login(self, node: Node, subject: Subject, password: bytes, since: int) -> None:
        """Check that it may be let in so."""
        users = self.users
        if subject == ANYBODY:
            if all(state.rights.enabled for state in meanwhile(users.witness, node, since)):
                raise Violation("U3", f"somebody was let in at {node.name} without having proved anything")
        elif self._token and self._is_known_by_token(subject):
            self.cluster.count("guest that was let in by a token")
        else:
            self.cluster.count("guest that was let in by a password")
            judge_login(users.witness, subject, users.hashes_of(password))

    def _is_known_by_token(self, subject: Subject) -> bool:
        digest = hashlib.sha256(self._token).digest()
        return any(rights.speaks_for(digest, 0) == subject for _, rights in self.users.witness.rights)

    def let_in(self, subject: Subject | None) -> None:
        """Go on as whoever it was let in as; None: as nobody."""
        self._visit = None
        if subject is None:
            self.subject, self._token = None, b""
            self._try_again()
            return
        if self.session and self.owner != subject[0]:
            self.forget()  # the session is that of another user
        self.subject = subject
        self.go_on()

    # -- batches -------------------------------------------------------------------------------------------------------------------

    def _hand_over(self, member: SimMember) -> None:
        assert self.subject is not None
        rng = self.users.rng
        if not self.session:
            self._submit(member, 0, rng.getrandbits(62) + 1, [])
            return
        if not self.parcel:
            if rng.random() < 0.15 and self.users.workload.active:
                self._steal(member)
                return
            self.sequence += 1
            self.tried = 0
            self._draw(rng.choice((1, 1, 2, 4)))
        if not self.tried:
            for place, operation in enumerate(self.parcel):
                operation.slots.append((self.session, self.sequence, place))
        self.tried += 1
        self._submit(member, self.session, self.sequence, self.parcel)

    def _draw(self, count: int) -> None:
        history, requests = self.users.workload.history, self.users.workload.requests
        where = f"{self.name}*{self.users.guests.index(self)}"
        self.parcel = [history.call(where, Consistency.WRITE, self._drawn(requests)) for _ in range(count)]

    def _drawn(self, requests: Any) -> wire.Raw:
        if self.name == ROOT:
            return Put(b"root", requests.unique()).to_wire()
        drawn = self.users.transaction() if self.users.rng.random() < 0.2 else requests.write()
        return drawn.to_wire()

    def _submit(self, member: SimMember, session: int, sequence: int, operations: list[Operation]) -> None:
        commands = [operation.wire for operation in operations]
        data = codec.pack_batch(session, sequence, sequence if session else 0, [codec.pack(command) for command in commands], self.subject)
        batch = codec.Batch(session, sequence, sequence if session else 0, tuple(commands), self.subject)
        self._visit = _Batch(self, member, batch, data, operations)
        self._visit.begin()

    def _steal(self, member: SimMember) -> None:
        """Hand something over in a session that is somebody else's: nothing comes of it."""
        rng, node = self.users.rng, member.process
        others = [guest for guest in self.users.guests if guest.session and guest.owner != self.owner]
        others = [guest for guest in others if guest.parcel and guest.is_at(member)] or others
        targets = [(guest.session, guest.sequence + (not guest.parcel)) for guest in others]
        if node.proposals.session:
            targets.append((node.proposals.session, node.proposals._sequence + rng.randrange(2)))
        if not targets:
            self._wait()
            return
        session, sequence = rng.choice(targets)
        self.cluster.count("batch in the session of another")
        history, requests = self.users.workload.history, self.users.workload.requests
        stolen = history.call(f"{self.name}*thief", Consistency.WRITE, Put(requests.key(), b"s" + requests.unique()).to_wire())
        stolen.slots.append((session, sequence, 0))
        self._submit(member, session, sequence, [stolen])

    def learned(self, batch: codec.Batch, operations: list[Operation], outcome: machine.Outcome) -> None:
        """Take note of what became of a batch."""
        self._visit = None
        history = self.users.workload.history
        if operations and operations is not self.parcel:
            if outcome.answers is not None:
                raise Violation("U4", f"{self.subject} was told {outcome} of a session that is another's")
            history.failed(operations[0])
        elif outcome.opened:
            self.session, self.sequence, self.owner = outcome.opened, 0, outcome.owner or ""
        elif outcome.expired:
            self._expired(batch)
        elif outcome.answers == () and batch.commands:  # there was no room for it
            self.sequence += 1
            self.tried = 0
        elif operations:
            self._answered(outcome.answers)
        self._try_again()

    def _expired(self, batch: codec.Batch) -> None:
        if batch.session and self.users.witness.has_session(batch.session, batch.guest):
            raise Violation("U4", f"{self.subject} was told that the session {batch.session} is over, which is its own")
        self.session = self.sequence = 0
        if self.tried > 1:
            self.forget()
        self.tried = 0  # what was handed over once only was not carried out, and never will be: it goes into a new one

    def is_at(self, member: SimMember) -> bool:
        """Tell whether it waits for something at a member."""
        return self._visit is not None and self._visit.member is member

    def _answered(self, answers: tuple[Any, ...] | None) -> None:
        history, parcel = self.users.workload.history, self.parcel
        self.parcel = []
        for place, operation in enumerate(parcel):
            if answers is None or answers[place][0] == OUTCOME_UNKNOWN:
                history.unknown(operation)
                continue
            history.answered(operation, answers[place])
            self.done += answers[place][0] not in DENIALS
            if answers[place][0] == LOGIN_AGAIN:
                self.subject = None

    def missed(self, operations: list[Operation]) -> None:
        """Hear nothing: the member is gone, or takes too long."""
        self._visit = None
        if operations and operations is not self.parcel:
            self.users.workload.history.unknown(operations[0])
        elif self.tried >= TRIES:
            self.forget()
        self._try_again()

    def forget(self) -> None:
        """Think no more of what became of a batch."""
        for operation in self.parcel:
            if operation.outcome is Outcome.PENDING:
                self.users.workload.history.unknown(operation)
        self.parcel, self.session, self.sequence, self.tried = [], 0, 0, 0

    def _try_again(self) -> None:
        if self._goes_on:
            self._wait()


@define(eq=False, repr=False)
class _Visit:
    """What a guest waits for at a member, for a while."""

    guest: Guest
    member: SimMember
    node: Node = field(init=False)
    over: bool = field(init=False)

    def __attrs_post_init__(self) -> None:
        self.node, self.over = self.member.process, False

    def soon(self, action: Callable[[], None], within: float = 0.0005) -> None:
        """Do something a little later, while this is not over."""
        scheduler, rng = self.guest.cluster.scheduler, self.guest.users.rng
        here = lambda _: action() if self._goes_on else None  # noqa: E731  # shorter than a method
        delay = self.member.clock.lag + rng.random() * within
        scheduler.after(delay, lambda: None if self.over else self.member.on_caller_thread(here))

    @property
    def _goes_on(self) -> bool:
        """Whether it waits still, and the process that it came to is there."""
        return not self.over and self.member.node is self.node

    def limit(self, seconds: float, action: Callable[[], None]) -> None:
        """Do something when it takes too long, whatever the member does."""
        self.guest.cluster.scheduler.after(seconds, lambda: None if self.over else action())

    def begin(self) -> None:
        """Say what is wanted."""


@define(eq=False, repr=False)
class _Greeting(_Visit):
    """A guest that wants to be let in."""

    errand: Proof

    def begin(self) -> None:
        """Knock."""
        self.limit(PATIENCE, lambda: self.soon(lambda: self._step(self.errand.rest)))
        self.limit(2 * PATIENCE, self._leave)
        self._step(self.errand.begin)

    def go_on(self) -> None:
        """Hear what there is."""
        self._step(self.errand.go_on)

    def _step(self, step: Callable[[], Any]) -> None:
        try:
            subject = step()
        except AuthenticationFailed:
            self.over = True
            self.guest.let_in(None)
        except ReplkvError:
            self._leave()
        else:
            if subject is not None:
                self.over = True
                self.guest.let_in(subject)

    def _leave(self) -> None:
        self.over = True
        if self.member.node is self.node:
            self.errand.cancel()
        self.guest.missed([])


@define(eq=False, repr=False)
class _Batch(_Visit):
    """A guest that has handed a batch over."""

    batch: codec.Batch
    data: bytes
    operations: list[Operation]

    def begin(self) -> None:
        """Hand it over."""
        guest = self.guest
        patience = guest.cluster.scenario.patience * guest.users.rng.uniform(0.2, 1.0)
        self.limit(4.0 if guest.insists else patience, self._leave)
        if self.node.submit_guest(self.batch, self.data, self) is not None:
            self._leave()

    def finish(self, outcome: machine.Outcome) -> None:
        """Hear what became of it."""
        self.soon(lambda: self._end(outcome))

    def _end(self, outcome: machine.Outcome) -> None:
        self.over = True
        self.guest.learned(self.batch, self.operations, outcome)

    def fail(self, error: ReplkvError) -> None:
        """Hear that nothing will be heard."""
        del error
        self.guest.cluster.scheduler.after(0.0, lambda: None if self.over else self._leave())

    def _leave(self) -> None:
        self.over = True
        if self.member.node is self.node:
            guest = self.batch.guest
            self.node.guests.cancel((self.batch.session, self.batch.sequence, guest and guest[0]), self)
        self.guest.missed(self.operations)
