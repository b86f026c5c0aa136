"""``Remote``: a connection to one of several members, as an engine for facades.

It is a member's caller at a distance.  Commands go through the same ``Proposals`` as a member's own, in a session of this client; leases
are kept by the same ``Keeper``.  When the member is lost, the next one is asked everything that is unanswered: batches under their old
numbers, which the cluster executes once; questions; and watches from where they are.

Like the node it neither starts threads nor knows the time: ``client.py`` runs turns on a thread, tests run them in virtual time.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections import deque
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from replkv import codec, features, fork, letters, wire
from replkv.address import parse_address
from replkv.admission import Admission
from replkv.badge import Badge
from replkv.config import Settings
from replkv.engine import THREADS, Engine
from replkv.errors import (
    AuthenticationFailed,
    Closed,
    DiskFull,
    ForkedProcess,
    Incompatible,
    InvariantBroken,
    LevelTooLow,
    OutcomeUnknown,
    Overloaded,
    Removed,
    ReplkvError,
    StorageError,
    WrongCluster,
)
from replkv.keeper import Keeper
from replkv.letters import Answer, Ask, Batch, Failed, Ping, Pong, Welcome
from replkv.line import Line, reason_of
from replkv.ops import Scan
from replkv.plans import Read, Ready
from replkv.proposals import Call, OwnCall, Proposals
from replkv.pulling import WATCHES_MAX, Pulls, RemoteFeed
from replkv.pulse import SILENCE, Pulse
from replkv.questions import AGAIN_AFTER, KeptBy, Questions
from replkv.reads import NOT_YET
from replkv.targets import Targets

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Sequence

    from replkv.config import Config
    from replkv.engine import Waits
    from replkv.feed import Bell, Wanted
    from replkv.line import Link, Network
    from replkv.plans import Plan
    from replkv.pulling import State
    from replkv.targets import Target
    from replkv.wire import Raw

logger = logging.getLogger(__name__)

WELCOME_WITHIN: Final = 2.0
"""Seconds within which a member must answer a greeting, from the first attempt to connect to it on."""
LOGIN_WITHIN: Final = 10.0
"""Seconds within which it must answer a proof: comparing a password takes long, and others may have come first."""
CLOSE_WITHIN: Final = 1.0
"""Seconds for which a client that is closed waits for what is under way."""
WHEREABOUTS_AGAIN: Final = 5.0
"""Seconds after which it is asked anew where members serve clients: those who came later are needed when the others are gone."""

_WHEREABOUTS: Final = Read(Scan(prefix=letters.ADDRESSES), b"", "local")


class Remote(Engine):
    """A connection to the members at some addresses; ``turn`` belongs to one thread.

    Args:
        targets: addresses, and data directories of members.
        config: this process's choices.
        network: makes connections.
        clock: monotonic seconds.
        rng: for pauses and identities.
        anywhere: addresses that members tell may be used although they are beyond this machine.
        user: whom this client says it is, where it is asked; empty: whom its certificate names.
        password: of the user.
        waits: how threads wait.

    Raises:
        TypeError, ValueError: no such user can exist, or no such password, or only one of them is given.
    """

    def __init__(
        self,
        targets: Sequence[str],
        config: Config,
        network: Network,
        clock: Callable[[], float],
        rng: random.Random,
        *,
        anywhere: bool = False,
        user: str = "",
        password: str | bytes | None = None,
        waits: Waits = THREADS,
    ) -> None:
        self.name = "a client"
        self.member = ""
        """The name of the member that answers, or did last."""
        self.clock = clock
        self.waits = waits
        self.thread: threading.Thread | None = None
        """The one that takes turns."""
        self.stopped = False
        self._config = config
        self._network = network
        self._generation = fork.generation()
        self._client = rng.getrandbits(62)
        self._badge = Badge(user, password)
        self._targets = Targets(targets, anywhere, rng)
        self._settings = Settings()
        self._admission = Admission(config.max_commands_in_flight, config.max_bytes_in_flight)
        self._proposals = Proposals(rng, config.block_bytes, float("inf"), self._admission, sees_all=False)
        self._keeper = Keeper(rng.getrandbits(62) + 1, self._settings.session_ttl, self._submit_own, self._look_up)
        self._cluster: bytes | None = None
        self._revision = 1
        self._failure: ReplkvError | None = None
        self._close_by: float | None = None
        self._questions = Questions()
        self._pulse = Pulse()
        self._pulls = Pulls()
        self._todo: deque[Callable[[], object]] = deque()  # any thread adds to it
        # The rest is the client's thread's.
        self._line: Line | None = None
        self._coming_line: Line | None = None  # that is being made
        self._welcome_by = float("inf")  # when it must be there
        self._epoch = 0  # how many lines there were
        self._held_until = float("-inf")  # no command is handed over before that
        self._whereabouts_at = float("-inf")  # when it is asked anew where the members are

    # -- what is known -------------------------------------------------------------------------------------------------------------

    @property
    def config(self) -> Config:
        """This process's choices."""
        return self._config

    @property
    def settings(self) -> Settings:
        """What the cluster lives by."""
        return self._settings

    @property
    def level(self) -> int:
        """The highest level of this version: the member that takes a command knows what the cluster's is."""
        return features.LEVEL

    @property
    def admission(self) -> Admission:
        """The bound on what is under way."""
        return self._admission

    @property
    def keeper(self) -> Keeper:
        """Keeps the leases of this client alive."""
        return self._keeper

    @property
    def revision(self) -> int:
        """The newest revision this client has heard of; it never goes back."""
        line = self._line
        return self._revision if line is None else max(self._revision, line.revision)

    @property
    def age(self) -> float:
        """Seconds since the newest state that was heard of was known to be that."""
        return self.age_at(self.revision)

    def age_at(self, revision: int) -> float:
        """Return how many seconds ago a state of this revision was known to be the newest; infinite if it never was."""
        return self._pulse.age_at(revision, self.clock())

    @property
    def leader(self) -> str | None:
        """Who leads, as the member says."""
        pong = self._pulse.pong
        return pong.leader if pong is not None and self.connected else None

    @property
    def unreachable(self) -> tuple[str, ...]:
        """Whom the member can't reach, or, without one, who can't be reached from here."""
        pong = self._pulse.pong
        return pong.unreachable if pong is not None and self.connected else self._targets.names()

    @property
    def trouble(self) -> str:
        """What is known of why there is no answer."""
        pong, line = self._pulse.pong, self._line
        if line is None:
            return self._targets.explain() or "; no member has answered yet"
        return (pong.trouble if pong is not None else "") + self._questions.trouble(self.clock())

    @property
    def connected(self) -> bool:
        """Whether there is a member to ask."""
        return self._line is not None

    @property
    def ready(self) -> bool:
        """Whether there is, and it knows a leader."""
        return self.leader is not None

    @property
    def ended(self) -> bool:
        """Whether this client is closed, or failed."""
        return self.stopped

    @property
    def failure(self) -> ReplkvError | None:
        """Why it ended, if it was not asked to."""
        return self._failure

    def gone(self) -> ReplkvError:
        """Return the error for who comes after the end."""
        return Closed("this client is closed") if self._failure is None else self._failure.again()

    @property
    def forked(self) -> bool:
        """Whether this is another process than the one it was made in."""
        return fork.generation() != self._generation

    def ensure_not_forked(self) -> None:
        """Refuse to go on in a forked child.

        Raises:
            ForkedProcess: this is one.
        """
        if self.forked:
            raise ForkedProcess("this process was forked from the one that made this client: call replkv.connect() here")

    # -- callers, any thread -------------------------------------------------------------------------------------------------------

    def at_once(self, plan: Plan[Any]) -> Any:
        """Answer who does not want to wait for a member to be ready; all else is up to the member."""
        return plan.at_once(self) if isinstance(plan, Ready) else NOT_YET

    def submit(self, call: Call) -> None:
        """Hand a command over that was let in."""
        self._proposals.submit(call)
        self._wake()
        if self.stopped and self._proposals.give_up(call):
            call.fail(self.gone())

    def line_up(self, waiting: Call, size: int) -> None:
        """Let a caller wait until its command is let in."""
        self._admission.line_up(waiting, size)
        if self.stopped and self._admission.give_up(waiting, size):
            waiting.fail(self.gone())

    def ask(self, plan: Plan[Any], call: Call) -> None:
        """Have a member answer."""
        self._questions.bring(plan, call)
        self._wake()
        if self.stopped:
            self._questions.refuse_coming(self.gone())

    def give_up(self, call: Call) -> bool:
        """Stop waiting."""
        if call.command is not None:
            return self._proposals.give_up(call)
        self._do(lambda: self._questions.forget(call, self._line))
        return True

    def answer(self, plan: Plan[Any], call: Call) -> Raw:
        """Return what the member answered."""
        del plan
        assert call.answer is not None  # noqa: S101  # it is finished, without an error
        return call.answer

    def feed(self, wanted: Wanted, bell: Bell) -> RemoteFeed:
        """Have a member read on in its history.

        Raises:
            Overloaded: this client has as many watches as it can have.
        """
        if self._pulls.full:
            raise Overloaded(f"{self.name} has {WATCHES_MAX} watches already: use fewer with wider spans, or another client")
        feed = RemoteFeed(self, wanted, bell)
        self._do(partial(self._enroll, feed))
        return feed

    def feed_on(self, feed: RemoteFeed) -> None:
        """Pull for a feed that has room again."""
        self._do(partial(self._go_on, feed))

    def leave(self, feed: RemoteFeed) -> None:
        """Pull no more for a feed."""
        self._do(lambda: self._pulls.dismiss(feed, self._line))

    def hurry(self) -> None:
        """Have the member say how far it is."""
        self._do(self._pulse.hurry)

    def is_live(self, lease: int) -> bool:
        """Tell whether a lease may be there, which only the cluster knows."""
        del lease
        return True

    def look_again(self) -> None:
        """Have this client look at its leases again."""
        self._wake()

    def refuse_to_block(self) -> None:
        """Refuse to wait on the client's own thread."""
        if self.thread is threading.current_thread():
            raise RuntimeError("a blocking call on the thread that brings the answers would wait for itself; call from another thread")

    def request_close(self, timeout: float) -> None:
        """Begin to close: wait a moment for what is under way, answer everybody, and stop, within ``timeout`` seconds."""
        self._close_by = self.clock() + min(timeout, CLOSE_WITHIN)
        self._wake()

    def _do(self, todo: Callable[[], object]) -> None:
        """Have something done on the client's thread; takes no lock."""
        self._todo.append(todo)
        self._wake()

    def _wake(self) -> None:
        if not self.forked:  # a watch that ends in a child must not disturb its parent
            self._network.wake()

    # -- a turn --------------------------------------------------------------------------------------------------------------------

    @property
    def deadline(self) -> float:
        """When ``turn`` must run at the latest although nothing arrived, in the clock's seconds."""
        if self._questions.coming or self._todo or self.stopped:
            return float("-inf")
        times = [self._keeper.deadline, self._search_due]
        if self._close_by is not None:
            times.append(min(self._close_by, self.clock() + 0.01))
        if self._coming_line is not None:
            times.append(self._welcome_by)
        if (line := self._line) is not None:
            times += [self._pulse.due(busy=self._is_busy), self._pulse.silent_at(line.heard_at), self._pulls.due, self._questions.due]
            if self._may_send(line) and (self._proposals.can_send or self._held_until > self.clock()):
                times.append(self._held_until)
        return min(times)

    @property
    def _search_due(self) -> float:
        """When another member is to be looked for."""
        if self._coming_line is not None or self._close_by is not None:
            return float("inf")
        if self._line is None:
            return max(self._targets.next_at, self._badge.again_at)
        if (since := self._pulse.leaderless_since) is None or len(self._targets.usable) < 2:
            return float("inf")
        return max(since + self._settings.election_timeout, self._targets.next_at, self._badge.again_at)

    @property
    def _is_busy(self) -> bool:
        return self._questions.unanswered or self._pulls.any or self._keeper.deadline < float("inf") or self._admission.commands > 0

    def turn(self, timeout: float | None = None) -> None:
        """Wait for at most ``timeout`` seconds, by default until ``deadline``, then do what there is to do.

        What stops the client is kept in ``failure``; nothing is raised.
        """
        try:
            self._work(self._network.poll(max(0.0, self.deadline - self.clock()) if timeout is None else timeout))
        except Exception as error:  # whatever it is: no caller may hang
            logger.exception("%s met an error it should not have", self.name)
            self._fail(InvariantBroken(f"{self.name}: {type(error).__name__}: {error}; please report it"))

    def _work(self, events: list[tuple[Link, list[bytes], Exception | None]]) -> None:
        now = self.clock()
        for link, frames, error in events:
            self._receive(link, frames, error, now)
        self._look_after(now)
        if self.stopped:
            return
        asked_to_close = self._close_by is not None  # before the keeper looks what leases are to be revoked before that
        self._keeper.turn(now)
        self._send(now)
        if asked_to_close:
            self._closing(now)

    def _receive(self, link: Link, frames: list[bytes], error: Exception | None, now: float) -> None:
        line = next((line for line in (self._line, self._coming_line) if line is not None and line.link is link), None)
        if line is None:
            return
        try:
            line.receive(frames, now)
        except codec.DecodeError as problem:
            reason = f"it sent what no member sends: {problem}"
            known = line.target.reason == reason  # it will be tried again, and must not fill the log
            logger.log(logging.DEBUG if known else logging.WARNING, "%s leaves %s: %s", self.name, line.target.where, reason)
            self._lose(line, reason, now)
            return
        if error is not None and not line.closed:
            self._lose(line, reason_of(error), now)

    # -- the member ----------------------------------------------------------------------------------------------------------------

    def _look_after(self, now: float) -> None:
        """Leave a member that is silent or of no use, and find another one."""
        line, coming = self._line, self._coming_line
        if line is not None and now >= self._pulse.silent_at(line.heard_at):
            self._lose(line, f"silent for {SILENCE:g} s", now)
        if coming is not None and now >= self._welcome_by:
            self._lose(coming, f"no answer within {now - coming.begun_at:.2g} s", now)
        if (verdict := self._targets.verdict) is not None:
            self._fail(verdict)
        elif now >= self._search_due:
            self._dial(self._targets.choose(now, but=self._line.target if self._line is not None else None), now)

    def _dial(self, target: Target | None, now: float) -> None:
        if target is None:
            return
        try:
            link = self._network.open(target.where, target.attempts - 1)
        except (OSError, ValueError, Incompatible) as error:
            target.excluded = error if isinstance(error, Incompatible) else None
            self._targets.failed(target, reason_of(error), now)
            return
        self._coming_line = line = Line(link, target, now)
        self._welcome_by = now + WELCOME_WITHIN
        line.ask(partial(self._badge.hello, client=self._client), partial(self._greeted, line))
        self._flush(line, now)

    def _greeted(self, line: Line, reply: Welcome | Ask | Failed) -> None:
        now = self.clock()
        if isinstance(reply, Ask) or (isinstance(reply, Failed) and self._badge.has_more(reply.error)):
            self._welcome_by = now + LOGIN_WITHIN
            line.ask(self._badge.proof, partial(self._greeted, line))
        elif isinstance(reply, Failed):
            self._exclude(line, reply.error, now)
        else:
            self._badge.let_in(reply)
            self._choose(line, reply, now)

    def _choose(self, line: Line, reply: Welcome, now: float) -> None:
        """Have a member answer that has let this client in, if it is of use."""
        if not letters.OLDEST <= reply.version <= letters.VERSION:
            text = f"{line.target} speaks version {reply.version} with clients, this client {letters.OLDEST} to {letters.VERSION}"
            self._exclude(line, Incompatible(f"{text}: upgrade the members first, then their clients"), now)
        elif self._cluster not in (None, reply.cluster):
            text = f"{line.target} belongs to cluster {reply.cluster.hex()}, this client to {(self._cluster or b'').hex()}"
            self._exclude(line, WrongCluster(f"{text}: connect() anew if its data was to be replaced"), now)
        elif self._line is None:
            self._adopt(line, reply)
        else:  # there is a member, which knows no leader: does this one?
            line.ask(Ping, partial(self._compare, line, reply))

    def _exclude(self, line: Line, error: ReplkvError, now: float) -> None:
        if isinstance(error, (Incompatible, WrongCluster)):
            logger.warning("%s leaves %s out: %s", self.name, line.target, error)
            line.target.excluded = error
        self._lose(line, str(error), now)
        if isinstance(error, AuthenticationFailed):
            self._turned_away(line, error, now)

    def _turned_away(self, line: Line, error: AuthenticationFailed, now: float) -> None:
        """Tell everybody that this client is not let in, or not any more, and try again later; at the beginning that is the end."""
        if self._cluster is None:
            self._fail(error)
        elif self._line is None:
            logger.warning("%s is not let in by %s: %s", self.name, line.target.where, error)
            self._badge.refuse(error, now)
            self._proposals.leave_session(f"the client was not let in any more before it learned the outcome of the write: {error}")

    def _compare(self, line: Line, welcome: Welcome, reply: Pong | Failed) -> None:
        now = self.clock()
        if isinstance(reply, Pong) and reply.leader is not None:
            if self._line is not None:
                self._lose(self._line, "it knows no leader", now)
            self._adopt(line, welcome)
        else:
            self._lose(line, "it knows no leader", now)

    def _adopt(self, line: Line, welcome: Welcome) -> None:
        """Have a member answer from now on."""
        if line.closed:
            return
        self._line, self._coming_line = line, None
        self._epoch += 1
        self._cluster, self._settings = welcome.cluster, welcome.settings
        self._proposals.speak_as((welcome.user, welcome.stamp))
        self._keeper.session_ttl = welcome.settings.session_ttl
        self._revision = max(self._revision, welcome.revision)
        self.name, self.member = f"a client of {welcome.name}", welcome.name
        self._held_until = float("-inf")
        self._pulse.restart()
        self._targets.reached(line.target, welcome.name)
        self._targets.learn(welcome.addresses)
        self._whereabouts_at = self.clock() + WHEREABOUTS_AGAIN
        logger.info("%s is connected to %s at %s", self.name, welcome.name, line.target)

    def _lose(self, line: Line, reason: str, now: float) -> None:
        """Give a connection up; what is unanswered is asked anew over the next one."""
        if line.closed:
            return
        line.close()
        self._targets.failed(line.target, reason, now, now - line.begun_at if line is self._line else 0.0)
        if line is self._coming_line:
            self._coming_line = None
        elif line is self._line:
            logger.info("%s has lost %s: %s", self.name, line.target, reason)
            self._revision = self.revision
            self._line = None
            self._questions.lost()
            self._pulls.lost()

    # -- what is sent --------------------------------------------------------------------------------------------------------------

    def _send(self, now: float) -> None:
        """Send what waits.  Batches are taken first and sent last: a watch is begun before what was written after it."""
        if self._coming_line is not None:
            self._flush(self._coming_line, now)
        line = self._line
        if line is None:
            self._take_in()
            if (refusal := self._badge.refusal) is not None:
                self._questions.fail_all(refusal)
                self._proposals.refuse_queued(lambda _: refusal)
                self._pulls.fail_all(refusal)
            return
        batches: list[bytes] = []
        if now >= self._held_until and self._may_send(line):
            batches = self._proposals.batches_to_send((self._epoch, line.target.where), now, lossless=True)
        self._take_in()
        self._pulls.put(line, now, self._pulled)
        if now >= self._pulse.due(busy=self._is_busy):
            self._ping(line, now)
        for data in batches:
            line.ask(lambda number, data=data: Batch(number, data), partial(self._told, line, data))  # type: ignore[misc]  # mypy can't see the default
        self._questions.put(line, self, now, self._answered)
        self._flush(line, now)

    def _may_send(self, line: Line) -> bool:
        """Tell whether commands may be handed over: as long as they are not, giving up means that nothing was done."""
        return not line.is_full and self._pulse.leaderless_since is None

    def _take_in(self) -> None:
        """Take in what callers want."""
        self._questions.take_in()
        for _ in range(len(self._todo)):
            self._todo.popleft()()

    def _flush(self, line: Line, now: float) -> None:
        try:
            line.flush()
        except (OSError, codec.DecodeError) as error:
            self._lose(line, reason_of(error), now)

    def _submit_own(self, command: bytes, then: Callable[[Call], None]) -> None:
        """Hand over a command of this client's own; on its thread."""
        self._admission.enter_anyway(len(command))
        self._proposals.submit(OwnCall(command, then))

    def _look_up(self, then: Callable[[frozenset[int]], None]) -> None:
        """Find out which leases belong to this client's keeper; on its thread."""

        def answered(call: Call) -> None:
            if call.answer is not None:
                then(frozenset(call.answer[1]))

        self._questions.bring(KeptBy(self._keeper.number), OwnCall(None, answered))

    # -- what is answered ----------------------------------------------------------------------------------------------------------

    def _leaves(self, line: Line, error: ReplkvError) -> bool:
        """Leave a member that has stopped, or is about to, or is of use only to who proves anew who it is; tell whether it has."""
        ends = (Closed, Removed, StorageError, InvariantBroken, AuthenticationFailed)
        stops = isinstance(error, ends) and not isinstance(error, DiskFull)
        if stops:
            self._lose(line, str(error), self.clock())
        return stops

    def _answered(self, line: Line, call: Call, reply: Any) -> None:
        if isinstance(reply, Failed):
            if self._leaves(line, reply.error):
                return
            if isinstance(reply.error, Overloaded) and self._config.overload == "block":
                self._questions.put_off(call, reply.error, self.clock())
                return
            call.error = reply.error
        else:
            call.answer = reply.raw
        self._questions.done(call)
        call.finish()

    def _told(self, line: Line, data: bytes, reply: Any) -> None:
        """Learn what became of a batch."""
        if not isinstance(reply, Failed):
            self._proposals.answer((reply,))
        elif self._leaves(line, reply.error):
            return
        elif self._proposals.take_back(data):
            self._proposals.refuse_queued(partial(self._refusal, reply.error))
            self._held_until = self.clock() + AGAIN_AFTER
        else:  # it was sent to another member before, and may have been applied: only its repeat will tell
            self._proposals.repeat_all()
            self._held_until = self.clock() + AGAIN_AFTER
        if self._proposals.refused:  # it was too late for the member to refuse it
            self._proposals.refused = False
            self._held_until = self.clock() + AGAIN_AFTER

    def _refusal(self, error: ReplkvError, command: bytes) -> ReplkvError | None:
        """Return why a command can't be handed over, given that some could not."""
        if isinstance(error, DiskFull):
            return error if wire.grows(codec.unpack(command, codec.COMMAND_MAX)) else None
        if isinstance(error, Overloaded):
            return error if self._config.overload == "raise" else None
        if isinstance(error, LevelTooLow):
            return error if features.level_of(codec.unpack(command, codec.COMMAND_MAX)) > error.level else None
        return error

    # -- signs of life, and watches ------------------------------------------------------------------------------------------------

    def _ping(self, line: Line, now: float) -> None:
        self._pulse.pinged(now)
        line.ask(Ping, partial(self._ponged, self._pulls.state(), now))
        if now >= self._whereabouts_at:
            self._whereabouts_at = now + WHEREABOUTS_AGAIN
            line.ask(partial(_WHEREABOUTS.letter, asker=self), partial(self._told_whereabouts, line))

    def _told_whereabouts(self, line: Line, reply: Answer | Failed) -> None:
        if isinstance(reply, Failed):
            self._leaves(line, reply.error)
            return
        addresses = {}
        for kv in _WHEREABOUTS.meaning(reply.raw):
            with contextlib.suppress(ValueError):  # somebody else has written there
                addresses[kv.key.removeprefix(letters.ADDRESSES).decode()] = parse_address(kv.value.decode())
        if addresses:
            self._targets.learn(addresses)

    def _ponged(self, state: State, sent_at: float, reply: Pong | Failed) -> None:
        if isinstance(reply, Failed):
            return  # a member that does not even answer a ping is silent
        self._pulse.ponged(sent_at, reply, self.clock())
        if self._pulls.passed(state, reply.revision):
            self._pulse.hurry()

    def _enroll(self, feed: RemoteFeed) -> None:
        if self.stopped:
            feed.ring()
            return
        self._pulls.add(feed)
        if feed.waits_for_start:
            self._pulse.hurry()

    def _go_on(self, feed: RemoteFeed) -> None:
        if self._pulls.go_on(feed) and feed.is_asked:
            self._pulse.hurry()

    def _pulled(self, line: Line, feed: RemoteFeed, reply: Any) -> None:
        if not (isinstance(reply, Failed) and self._leaves(line, reply.error)):
            feed.take(reply, self.clock())
            self._pulls.go_on(feed)

    # -- the end -------------------------------------------------------------------------------------------------------------------

    def _closing(self, now: float) -> None:
        if self._close_by is None or self.stopped:
            return
        under_way = self._line is not None and self._admission.commands > 0
        if now >= self._close_by or not under_way:
            self._stop(Closed("this client is closed"))

    def _fail(self, error: ReplkvError) -> None:
        if not self.stopped:
            logger.error("%s ends: %s", self.name, error)
            self._failure = error
            self._stop(error)

    def _stop(self, reason: ReplkvError) -> None:
        """Answer everybody, and close."""
        self.stopped = True
        unknown = OutcomeUnknown(f"{self.name} ended before it learned the outcome: {reason}; the write may have been applied")
        self._proposals.fail_all(reason, unknown)
        self._take_in()
        self._questions.fail_all(reason)
        self._keeper.lose_all()
        self._pulls.ring()
        for line in (self._line, self._coming_line):
            if line is not None:
                line.close()
        self._line = self._coming_line = None
        self._network.close()
