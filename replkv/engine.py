"""What a facade stands on, and what it needs of it: the member in this process, or a connection to one elsewhere.

``blocking.py``, ``awaiting.py``, ``watching.py`` and ``leasing.py`` know an ``Engine`` and nothing behind it.
"""

from __future__ import annotations

import threading
import time
from abc import abstractmethod
from typing import TYPE_CHECKING, Any, Final, Protocol

from replkv import errors, features, fork
from replkv.feed import GuardedFeed, LocalFeed
from replkv.judged import Judged
from replkv.plans import Asker, newest, under_lease
from replkv.reads import NOT_YET
from replkv.values import KeyValue, to_key_value
from replkv.wire import READ

if TYPE_CHECKING:
    from collections.abc import Generator

    from replkv.admission import Admission
    from replkv.auth import Subject
    from replkv.config import Config, Settings
    from replkv.errors import ReplkvError
    from replkv.feed import Bell, Feed, Wanted
    from replkv.keeper import Keeper
    from replkv.node import Node
    from replkv.plans import Plan
    from replkv.proposals import Call
    from replkv.wire import Raw


LOOK_UP = 1.0
"""Seconds after which a thread that waits for a lock looks up: a signal that came just before it began to wait does not end the wait."""


class Waits(Protocol):
    """How a thread of this process waits."""

    def acquire(self, lock: threading.Lock, timeout: float | None) -> bool:
        """Acquire a lock, waiting for at most ``timeout`` seconds, None being without limit; tell whether it was acquired."""

    def sleep(self, seconds: float) -> None:
        """Let time pass."""


class ThreadWaits:
    """Threads as they are: the operating system wakes them."""

    def acquire(self, lock: threading.Lock, timeout: float | None) -> bool:
        """Acquire a lock, as ``Waits.acquire``; Ctrl-C ends the wait within a second."""
        if timeout is not None and timeout <= LOOK_UP:
            return lock.acquire(timeout=timeout)
        until = None if timeout is None else time.monotonic() + timeout
        if lock.acquire(timeout=LOOK_UP):  # most are there by then
            return True
        while not lock.acquire(timeout=LOOK_UP if until is None else max(0.0, min(LOOK_UP, until - time.monotonic()))):
            if until is not None and time.monotonic() >= until:
                return False
        return True

    def sleep(self, seconds: float) -> None:
        """Let time pass."""
        time.sleep(seconds)


THREADS: Final = ThreadWaits()


class Engine(Asker):
    """What carries out plans.

    Attributes:
        waits: how threads wait.
    """

    waits: Waits

    # -- calls ---------------------------------------------------------------------------------------------------------------------

    @property
    @abstractmethod
    def config(self) -> Config:
        """This process's choices."""

    @property
    @abstractmethod
    def admission(self) -> Admission:
        """The bound on what is under way."""

    @abstractmethod
    def at_once(self, plan: Plan[Any]) -> Any:
        """Return the raw answer to a plan if nothing has to be waited for, else ``NOT_YET``."""

    def at_hand(self, key: bytes, consistency: str, prefix: bytes) -> Any:
        """Return the newest pair of a key if nothing has to be waited for, else ``NOT_YET``; as ``at_once`` with the plan for that.

        Args:
            key: without the prefix, which the pair comes without, too.
            consistency: "local" or "lease".
            prefix: of the namespace.
        """
        del key, consistency, prefix
        return NOT_YET

    @abstractmethod
    def submit(self, call: Call) -> None:
        """Hand a command over that was let in."""

    @abstractmethod
    def ask(self, plan: Plan[Any], call: Call) -> None:
        """Let a call without a command wait until its plan can be answered."""

    @abstractmethod
    def give_up(self, call: Call) -> bool:
        """Stop waiting; True: the call had surely no effect and never will, False: its outcome is unknown."""

    @abstractmethod
    def line_up(self, waiting: Call, size: int) -> None:
        """Let a caller wait until its command of ``size`` bytes is let in."""

    @abstractmethod
    def answer(self, plan: Plan[Any], call: Call) -> Raw:
        """Return the raw answer to a plan whose call is finished without an error; on the caller's thread."""

    def answer_in_steps(self, plan: Plan[Any], call: Call | None) -> Generator[None, None, Any]:
        """Answer as ``answer`` does, or as ``at_once`` where there is no call, in steps between which others have their turn."""
        yield from ()
        return self.at_once(plan) if call is None else self.answer(plan, call)

    # -- watches -------------------------------------------------------------------------------------------------------------------

    @abstractmethod
    def feed(self, wanted: Wanted, bell: Bell) -> Feed:
        """Begin a watch; ``bell`` is rung when there may be more."""

    @abstractmethod
    def age_at(self, revision: int) -> float:
        """Return how many seconds ago a state of this revision, which watches have brought, was known to be the newest."""

    # -- the end ---------------------------------------------------------------------------------------------------------------------

    @abstractmethod
    def ensure_not_forked(self) -> None:
        """Refuse to go on in a process that was forked from the one this was made in.

        Raises:
            ForkedProcess: it was.
        """

    @property
    @abstractmethod
    def ended(self) -> bool:
        """Whether nothing more comes from here."""

    @property
    @abstractmethod
    def failure(self) -> ReplkvError | None:
        """Why it ended, if it was not asked to."""

    def gone(self) -> ReplkvError:
        """Return the error for who comes after the end."""
        return errors.Closed(f"member {self.name} is closed") if self.failure is None else self.failure.again()

    # -- leases --------------------------------------------------------------------------------------------------------------------

    @abstractmethod
    def is_live(self, lease: int) -> bool:
        """Tell whether a lease that was just granted may still be there."""

    @abstractmethod
    def look_again(self) -> None:
        """Have whoever decides look again: a lease was added or renewed."""

    def refuse_to_block(self) -> None:
        """Refuse to wait where nothing would ever come of it.

        Raises:
            RuntimeError: this thread is the one that decides.
        """


class Embedded(Engine):
    """The member in this process.

    Args:
        node: the member.
        waits: how threads wait.
    """

    def __init__(self, node: Node, waits: Waits = THREADS) -> None:
        self.node = node
        self.name = node.name
        self.clock = node.clock
        self.waits = waits
        self.thread: threading.Thread | None = None
        """The one that decides."""

    @property
    def config(self) -> Config:
        """This process's choices."""
        return self.node.config

    @property
    def settings(self) -> Settings:
        """What the cluster lives by."""
        return self.node.settings

    @property
    def level(self) -> int:
        """The cluster's feature level; the lowest there is, as long as this member has not heard of its cluster."""
        return self.node.machine.level or features.FIRST

    @property
    def admission(self) -> Admission:
        """The bound on what is under way."""
        return self.node.proposals.admission

    def at_once(self, plan: Plan[Any]) -> Any:
        """Answer from memory, where the plan allows."""
        return plan.at_once(self.node)

    def at_hand(self, key: bytes, consistency: str, prefix: bytes) -> Any:
        """Look the key up, where its holder may."""
        whole = prefix + key if prefix else key
        record = newest(self.node, whole) if consistency == "local" else under_lease(self.node, newest, whole)
        if record is None or record is NOT_YET:
            return record
        return KeyValue(key, *record[1:]) if prefix else to_key_value(record)

    def submit(self, call: Call) -> None:
        """Hand a command over that was let in."""
        self.node.submit(call)

    def ask(self, plan: Plan[Any], call: Call) -> None:
        """Let a call without a command wait until its plan may read, or look."""
        plan.wait(self.node, call)

    def give_up(self, call: Call) -> bool:
        """Stop waiting."""
        return self.node.give_up(call)

    def line_up(self, waiting: Call, size: int) -> None:
        """Let a caller wait until its command is let in."""
        self.node.line_up(waiting, size)

    def answer(self, plan: Plan[Any], call: Call) -> Raw:
        """Return what the machine answered, or read now that the barrier has been passed."""
        return plan.answer(self.node, call)

    def answer_in_steps(self, plan: Plan[Any], call: Call | None) -> Generator[None, None, Any]:
        """Read in steps, where that may be long."""
        return plan.answer_in_steps(self.node, call)

    @property
    def revision(self) -> int:
        """The revision the member's store has reached."""
        return self.node.published.revision

    @property
    def age(self) -> float:
        """Seconds since the member's state was known to be the newest."""
        return max(0.0, self.node.clock() - self.node.fresh_at)

    @property
    def leader(self) -> str | None:
        """Who leads, as the member knows."""
        return self.node.raft.leader if self.node.raft is not None else None

    @property
    def unreachable(self) -> tuple[str, ...]:
        """Whom the member can't reach."""
        return self.node.links.unreachable()

    @property
    def trouble(self) -> str:
        """What the member knows of why there is no answer."""
        node = self.node
        gone = f"not reachable: {node.links.explain()}" if node.links.unreachable() else ""
        full = f"the disks of {', '.join(node.space.full)} are full: make room there" if node.space.full else ""
        healing = f"{node.name} {healing}" if node.raft is not None and (healing := node.raft.healing) else ""
        waits = f"{node.name} has no state, and waits to be let in by the leader of its cluster" if node.membership.waits else ""
        reasons = gone, full, healing, waits, node.succession.hindrance
        return "".join(f"; {reason}" for reason in reasons if reason)

    def feed(self, wanted: Wanted, bell: Bell) -> LocalFeed:
        """Read on in the member's own history."""
        return LocalFeed(self.node, wanted, bell)

    def age_at(self, revision: int) -> float:
        """Return how old the member's state is: watches read it at once."""
        del revision
        return self.age

    ensure_not_forked = staticmethod(fork.ensure_not_forked)  # itself: every call and every event asks

    @property
    def ended(self) -> bool:
        """Whether the member has ended, as its watches see it."""
        return self.node.hub.ended

    @property
    def failure(self) -> ReplkvError | None:
        """What stopped the member."""
        return self.node.failure

    @property
    def keeper(self) -> Keeper:
        """The member's keeper."""
        return self.node.keeper

    def is_live(self, lease: int) -> bool:
        """Tell whether the member's own state has a lease."""
        return lease in self.node.machine.leases

    def look_again(self) -> None:
        """Wake the member."""
        self.node.transport.wake()

    def refuse_to_block(self) -> None:
        """Refuse to wait on the member's own thread."""
        thread = self.thread
        if thread is not None and thread.ident == threading.get_ident() and thread.is_alive():  # idents of those that ended are used again
            raise RuntimeError("a blocking call on the thread that decides would wait for itself; call from another thread")


class Acting(Embedded):
    """The member in this process, for who acts on behalf of a user: whatever is asked is judged by what that user may do.

    Args:
        member: the member's own engine.
        subject: the user.
    """

    def __init__(self, member: Embedded, subject: Subject) -> None:
        super().__init__(member.node, member.waits)
        self.member = member
        self.subject: Subject = subject

    def at_once(self, plan: Plan[Any]) -> Any:
        """Answer from memory, where the plan allows and the user may know."""
        return self.member.at_once(Judged(plan, self.subject))

    def at_hand(self, key: bytes, consistency: str, prefix: bytes) -> Any:
        """Look the key up, where the user may; under a lease the plan does, which knows when that holds."""
        if consistency != "local":
            return NOT_YET
        node, whole = self.node, prefix + key
        auth = node.published.machine.auth
        auth.check_span(self.subject, READ, (whole, whole + b"\x00"))
        found = self.member.at_hand(key, consistency, prefix)
        return found if node.published.machine.auth.revision == auth.revision else NOT_YET

    def submit(self, call: Call) -> None:
        """Hand a command over, which says on whose behalf it is."""
        self.member.submit(call)

    def ask(self, plan: Plan[Any], call: Call) -> None:
        """Let a call without a command wait until its plan may read, or look."""
        self.member.ask(Judged(plan, self.subject), call)

    def give_up(self, call: Call) -> bool:
        """Stop waiting."""
        return self.member.give_up(call)

    def line_up(self, waiting: Call, size: int) -> None:
        """Let a caller wait until its command is let in."""
        self.member.line_up(waiting, size)

    def answer(self, plan: Plan[Any], call: Call) -> Raw:
        """Read now that the barrier has been passed, if the user may."""
        return self.member.answer(Judged(plan, self.subject), call)

    def answer_in_steps(self, plan: Plan[Any], call: Call | None) -> Generator[None, None, Any]:
        """Read in steps, where that may be long, if the user may."""
        return self.member.answer_in_steps(Judged(plan, self.subject), call)

    def feed(self, wanted: Wanted, bell: Bell) -> GuardedFeed:
        """Read on in the member's own history, as long as the user may."""
        return GuardedFeed(self.node, wanted, bell, self.subject)

    def look_again(self) -> None:
        """Wake the member."""
        self.member.look_again()

    def refuse_to_block(self) -> None:
        """Refuse to wait on the member's own thread."""
        self.member.refuse_to_block()
