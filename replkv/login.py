"""How a client proves at the door which user it is: by a certificate, by a token of an earlier login, or by a password.

A login is an errand.  It first waits for a read barrier, so that who was made a user a moment ago is let in at every member, and nobody by
a password that was changed; a member that knows no leader goes by what it knows after a moment.  Then the password is compared, which is
slow on purpose, elsewhere than on the door's thread and one after the other.  What is let in gets a **token**, random bytes of which the
cluster keeps a hash: it proves the same at every member for a while, and is worth nothing to who has read the log.

Whoever it is, known or not, takes the same way and the same time, until it is refused with the same words.
"""

from __future__ import annotations

import hashlib
import logging
import math
from abc import abstractmethod
from collections import deque
from typing import TYPE_CHECKING, Final, TypeAlias

from attrs import define, field

from replkv import codec, passwords, wire
from replkv.auth_ops import ChangeAuth
from replkv.complaints import Complaints
from replkv.errands import Errand
from replkv.errors import AuthenticationFailed, AuthRefused, NoLeader, Overloaded
from replkv.letters import TOKEN
from replkv.proposals import OwnCall

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

    from replkv.auth import Auth, Subject
    from replkv.engine import Embedded
    from replkv.errands import Ring
    from replkv.errors import ReplkvError
    from replkv.letters import Prove, Welcome
    from replkv.proposals import Call

    Admit: TypeAlias = Callable[[Subject, bytes], Welcome]
    """Lets a client in as a user, and makes the reply that says so."""

logger = logging.getLogger(__name__)

ANYBODY: Final = ("", 0)
"""Who comes in while auth is not enabled, whatever it says: nobody has proved anything."""

TOKEN_FOR: Final = 300.0
"""Seconds for which a token is good: a client that has lost its member finds the next one in less, and a stolen one is soon worthless."""
PATIENCE: Final = 0.5
"""Seconds that a login waits for a leader; after that the member goes by what it knows, and gives no token."""
CHECKS_MAX: Final = 16
"""Passwords that may wait to be compared: each takes as long as all before it, and the last of more would be tired of waiting."""
BURST, AGAIN_AFTER = 10, 5.0
"""Wrong passwords for one user that are looked at at once, and seconds until one more is: some 17,000 guesses a day at each member."""
BURST_OF_ALL, ANY_AGAIN_AFTER = 50, 0.25
"""The same for all users together: guesses at names cost a member no more than a quarter of one processor."""
NAMES_MAX: Final = 1024
"""Names for which guesses are counted.  More can't be guessed at before the first ones are allowed again."""


@define(eq=False)
class Allowance:
    """Lets something be done a few times in a burst, then once per interval; for each key by itself.

    Args:
        burst: so many times at once.
        again_after: seconds.
    """

    burst: int
    again_after: float
    _used_until: dict[Hashable, float] = field(factory=dict, init=False, repr=False)  # when all of it will have come back

    def take(self, key: Hashable, now: float) -> float:
        """Use it once, if that is allowed; else return after how many seconds it will be."""
        until = max(self._used_until.get(key, now), now) + self.again_after
        early = until - now - self.burst * self.again_after
        if early > 1e-9:
            return early
        self._used_until.pop(key, None)  # to the end: the oldest ones are forgotten first
        if len(self._used_until) >= NAMES_MAX:
            del self._used_until[next(iter(self._used_until))]
        self._used_until[key] = until
        return 0.0

    def give_back(self, key: Hashable) -> None:
        """Take note that what was used last was no misuse."""
        if key in self._used_until:
            self._used_until[key] -= self.again_after


@define(eq=False, repr=False)
class Porter:
    """Who lets clients in at the door of one member; belongs to the door's thread.

    Args:
        engine: the member.
        clock: monotonic seconds.
        randbytes: returns so many random bytes that nobody can guess.
        elsewhere: has something done that takes long, one after the other; by default at once, for where time is virtual.
    """

    engine: Embedded
    clock: Callable[[], float]
    _randbytes: Callable[[int], bytes]
    _elsewhere: Callable[[Callable[[], None]], object] = field(default=lambda job: job())
    _checks: set[Proof] = field(factory=set, init=False)  # any thread takes itself out
    _harmless: deque[str] = field(factory=deque, init=False)  # the users of those that were no wrong guesses; any thread adds to it
    _of_user: Allowance = field(factory=lambda: Allowance(BURST, AGAIN_AFTER), init=False)
    _of_all: Allowance = field(factory=lambda: Allowance(BURST_OF_ALL, ANY_AGAIN_AFTER), init=False)
    _barrier: OwnCall | None = field(default=None, init=False)  # the first one of this member's life
    _asked_at: float = field(default=0.0, init=False)
    _is_current: bool = field(default=False, init=False)  # it has passed
    _complaints: Complaints = field(factory=Complaints, init=False)

    def knows_enough(self) -> bool:
        """Tell whether this member knows what had been decided when it was started, or has found no leader for a moment.

        One that was just started may have the state of long ago, when auth was not enabled, and would take users for nobody.
        """
        if self._is_current or self.auth.enabled:  # then each login has a barrier of its own
            return True
        if self._barrier is None:
            self._asked_at = self.clock()
            self._barrier = OwnCall(None, self._passed)
            self.engine.node.read_barrier(self._barrier)
        return self.clock() - self._asked_at >= PATIENCE

    def _passed(self, call: Call) -> None:
        """Take note that the member is as new as its leader was; on the member's thread."""
        self._is_current = call.error is None

    @property
    def auth(self) -> Auth:
        """Users and roles as this member knows them."""
        return self.engine.node.published.machine.auth

    @property
    def time(self) -> int:
        """Cluster time in microseconds."""
        raft = self.engine.node.raft
        return raft.time if raft is not None else 0

    def new_token(self) -> bytes:
        """Make a token."""
        return self._randbytes(TOKEN)

    def begin_check(self, proof: Proof, check: Callable[[], None]) -> None:
        """Have a password compared, unless there were too many wrong ones.

        Raises:
            Overloaded: for this user, or for all, or too many wait.  It is no verdict on who asks: somebody else may have guessed, and
                another member may look at it.
        """
        while self._harmless:
            self._of_user.give_back(self._harmless.popleft())
            self._of_all.give_back(None)
        now, user, name = self.clock(), proof.user, self.engine.name
        wait = 0.0
        if len(self._checks) >= CHECKS_MAX or (wait := self._of_all.take(None, now)):
            soon = f"in {math.ceil(wait)} s" if wait else "in a moment, or another member now"
            raise Overloaded(f"member {name} has as many passwords to compare as it may: try again {soon}")
        if wait := self._of_user.take(user, now):  # last: names at which nobody may guess must not push out those that are counted
            self._of_all.give_back(None)
            again = f"try again in {math.ceil(wait)} s, or another member now"
            raise Overloaded(f"member {name} was given too many wrong passwords for user {user}: {again}")
        self._checks.add(proof)
        self._elsewhere(check)

    def end_check(self, proof: Proof, *, wrong: bool) -> None:
        """Take note that a password was compared, or need not be any more; any thread."""
        self._checks.discard(proof)
        if not wrong:
            self._harmless.append(proof.user)

    def was_wrong(self, user: str) -> None:
        """Say that there was a wrong password, but not too often."""
        if count := self._complaints.due(self.clock()):
            more = f", the last of {count} such logins" if count > 1 else ""
            logger.warning("%s did not let a client in as user %r: no such user, or a wrong password%s", self.engine.name, user, more)


class Login(Errand):
    """One attempt to be let in.

    Args:
        porter: who decides.
        number: of the letter that is to be answered.
        ring: of the door.
        admit: lets the client in.
    """

    def __init__(self, porter: Porter, number: int, ring: Ring, admit: Admit) -> None:
        super().__init__(porter.engine, number, ring)
        self.porter = porter
        self.waits_since = porter.clock()
        """Since when it has waited for the leader; infinite while it does not."""
        self._admit = admit
        self._barrier: OwnCall | None = OwnCall(None, lambda _: ring(self))
        self._alone = False  # the leader did not answer

    def begin(self) -> Welcome | None:
        """Let the client in if that is clear, else ask the leader first."""
        if not self.porter.auth.enabled:
            return self._admit(ANYBODY, b"")
        if (welcome := self._at_once()) is not None:
            return welcome
        assert self._barrier is not None  # noqa: S101  # it was just made
        self.engine.node.read_barrier(self._barrier)
        return None

    def go_on(self) -> Welcome | None:
        """Decide, now that the member's state is new enough; later, go on with what was begun then.

        Raises:
            ReplkvError: the client is not let in.
        """
        barrier, self._barrier = self._barrier, None
        if barrier is None:
            return self._go_on()
        self.waits_since = float("inf")
        if barrier.error is not None:
            raise barrier.error
        return self._decide() if self.porter.auth.enabled else self._admit(ANYBODY, b"")

    def rest(self) -> Welcome | None:
        """Wait for the leader no longer.

        Raises:
            ReplkvError: the client is not let in.
        """
        if self._barrier is not None:
            self._alone = True
            self.engine.give_up(self._barrier)
            return self.go_on()
        return self._rest()

    def _unknown(self, text: str) -> ReplkvError:
        """Return the error for who is no user by what this member knows, which is a verdict only if it has heard of its leader."""
        if not self._alone:
            return AuthenticationFailed(text)
        return NoLeader(f"{text}; but it knows no leader, and may not have heard of all users: try another member")

    def cancel(self) -> None:
        """Wait no longer."""
        if self._barrier is not None:
            self.engine.give_up(self._barrier)

    def _at_once(self) -> Welcome | None:
        """Let the client in if no newer state could say otherwise but by taking something away, which ends the connection."""
        return None

    @abstractmethod
    def _decide(self) -> Welcome | None:
        """Go by the users there are."""

    def _go_on(self) -> Welcome | None:
        return None

    def _rest(self) -> Welcome | None:
        return None


class Certified(Login):
    """A client that says no name: it is whom its certificate names, if that is a user.

    Args:
        porter: who decides.
        number: of the letter that is to be answered.
        ring: of the door.
        admit: lets the client in.
        name: the common name of the certificate it has shown; empty: none.
    """

    def __init__(self, porter: Porter, number: int, ring: Ring, admit: Admit, name: str) -> None:
        super().__init__(porter, number, ring, admit)
        self._name = name

    def _at_once(self) -> Welcome | None:
        auth = self.porter.auth
        return self._admit((self._name, auth.revision), b"") if self._name and self._name in auth.users else None

    def _decide(self) -> Welcome | None:
        if (welcome := self._at_once()) is not None:
            return welcome
        member = f"member {self.engine.name}"
        if not self._name:
            raise AuthenticationFailed(f"{member}: only users of the cluster are let in here: connect(user=, password=)")
        who = f"the certificate of this client names {self._name}, which is no user of the cluster: add_user({self._name!r}, None)"
        raise self._unknown(f"{member}: {who}")


class Proof(Login):
    """A client that says its name, and proves it.

    Args:
        porter: who decides.
        letter: what is to prove it.
        user: the name.
        ring: of the door.
        admit: lets the client in.
    """

    def __init__(self, porter: Porter, letter: Prove, user: str, ring: Ring, admit: Admit) -> None:
        super().__init__(porter, letter.number, ring, admit)
        self.user = user
        self._token, self._password = letter.token, letter.password
        self._subject: Subject = (user, 0)
        self._right: bool | None = None  # whether the password is, once it was compared
        self._new_token = b""
        self._noting: OwnCall | None = None
        self._cancelled = False

    def _at_once(self) -> Welcome | None:
        """Let the client in by its token."""
        if not self._token:
            return None
        holder = self.porter.auth.holder(hashlib.sha256(self._token).digest(), self.porter.time)
        return self._admit(holder, b"") if holder is not None and holder[0] == self.user else None

    def _decide(self) -> Welcome | None:
        if (welcome := self._at_once()) is not None:
            return welcome
        if not self._password:
            raise AuthenticationFailed(f"member {self.engine.name}: the login of user {self.user} has ended: prove it by the password")
        auth = self.porter.auth
        self._subject = self.user, auth.revision
        known = auth.users.get(self.user)
        kept = known.password if known is not None else b""
        self.porter.begin_check(self, lambda: self._check(kept))
        return None

    def _check(self, kept: bytes) -> None:
        """Compare the password; elsewhere."""
        right = None
        try:
            if not self._cancelled:
                right = passwords.matches(self._password, kept)
        finally:
            self._right = bool(right)
            self.porter.end_check(self, wrong=right is False)
            self._ring(self)

    def _go_on(self) -> Welcome | None:
        if self._noting is not None:
            return self._noted(self._noting)
        if self._right is None:
            return None
        return self._checked(right=self._right)

    def _checked(self, *, right: bool) -> Welcome | None:
        """Have the cluster note the token, now that the password was compared."""
        self._password = b""
        if not right:
            self.porter.was_wrong(self.user)
            raise self._unknown(f"member {self.engine.name} does not let user {self.user} in: no such user, or a wrong password")
        self._new_token = self.porter.new_token()
        digest = hashlib.sha256(self._new_token).digest()
        note = ChangeAuth(wire.ADD_TOKEN, (digest, *self._subject, round(TOKEN_FOR * 1e6)))
        command = codec.pack(note.to_wire())
        node = self.engine.node
        self.waits_since = self.porter.clock()
        self._noting = OwnCall(command, lambda _: self._ring(self))
        node.proposals.admission.enter_anyway(len(command))
        node.submit(self._noting)
        return None

    def _noted(self, call: OwnCall) -> Welcome | None:
        """Let the client in with its token, unless the cluster has decided otherwise meanwhile."""
        if call.error is not None:
            return self._rest()  # there is no room for it, or the member is about to stop, which the client will hear
        if call.answer is None:
            return None
        try:
            wire.unless_refused(call.answer)
        except AuthRefused:  # auth is enabled no more
            return self._admit(ANYBODY, b"")
        return self._admit(self._subject, self._new_token)

    def _rest(self) -> Welcome | None:
        """Let the client in without a token: what it does is judged where it is applied, by what was known here.

        Raises:
            AuthenticationFailed: the user was changed meanwhile.
        """
        if self._noting is None:
            return None
        auth = self.porter.auth
        if not auth.enabled:
            return self._admit(ANYBODY, b"")
        auth.roles_of(self._subject)
        return self._admit(self._subject, b"")

    def cancel(self) -> None:
        """Wait no longer; a password that waits to be compared is not compared."""
        super().cancel()
        self._cancelled = True
