"""What is done to the members of a run and to the network between them: each fault begins, lasts for a while and ends."""

from __future__ import annotations

import contextlib
import itertools
import random
import time
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import TimeoutError as NoAnswer
from typing import ClassVar

from arena import Arena
from cluster import CallError, Member, eventually
from grounds import Balloon, why_no_namespaces
from proxy import FAIR, Weather
from tracer import FAILS, HANGS, TEARS, Tracer, why_no_tracer

PROMPT = 5.0  # s in which a member whose disk hangs says how it is; it takes milliseconds, but the machine is busy
PATIENCE = 30.0  # s for a member whose disk failed to stop
SOON = 1.0  # s in which a member that works syncs its log


class Fault:
    """One way to do harm; ``victims``: the members nobody else may touch meanwhile, ``hurt``: all that can't do their part."""

    name: ClassVar[str]
    severs: ClassVar[bool] = False
    """Whether it is done to links, and so to nobody and everybody."""
    lasts: ClassVar[float] = 1.0
    """Seconds, at least."""

    def __init__(self, arena: Arena) -> None:
        self.arena = arena
        self.victims: list[Member] = []

    @property
    def hurt(self) -> list[Member]:
        return self.victims

    @staticmethod
    def why_not() -> str:
        """Return why it can't be done on this machine, "" where it can."""
        return ""

    @abstractmethod
    def begin(self, rng: random.Random, free: list[Member]) -> str:
        """Begin; return what was done, "" if there was nothing to do.

        Args:
            rng: to choose by.
            free: the members it may touch.
        """

    def end(self) -> None:
        """End, and have everything as it was."""

    def pick(self, rng: random.Random, free: list[Member], *, all_of_them: float = 0.0) -> list[Member]:
        """Choose victims: often the leader, sometimes everybody."""
        if not free:
            return []
        if rng.random() < all_of_them:
            self.victims = list(free)
        else:
            leader = self.arena.guess_leader()
            wants_leader, other = rng.random() < 0.5, rng.choice(free)
            self.victims = [leader if leader in free and wants_leader else other]
        return self.victims


def names(members: list[Member]) -> str:
    return ", ".join(member.name for member in members)


def within(seconds: float, condition: Callable[[], bool]) -> bool:
    """Tell whether a condition becomes true in time."""
    with contextlib.suppress(AssertionError):
        return eventually(condition, seconds)
    return False


class Kill(Fault):
    """SIGKILL, to one or to all at once."""

    name = "kill"

    def begin(self, rng: random.Random, free: list[Member]) -> str:
        for member in self.pick(rng, free, all_of_them=0.25):
            member.run.process.kill()
        return names(self.victims)

    def end(self) -> None:
        for member in self.victims:
            member.kill()  # once more, and wait for its end
        for member in self.victims:
            member.start()


class Stop(Fault):
    """SIGSTOP: a pause that the process knows nothing of."""

    name = "stop"

    def begin(self, rng: random.Random, free: list[Member]) -> str:
        for member in self.pick(rng, free, all_of_them=0.1):
            member.pause()
        return names(self.victims)

    def end(self) -> None:
        for member in self.victims:
            member.resume()


class Cut(Fault):
    """Packets vanish between members, one way or both."""

    name = "cut"
    severs = True
    why_not = staticmethod(why_no_namespaces)

    def begin(self, rng: random.Random, free: list[Member]) -> str:
        everybody = list(self.arena)
        leader = self.arena.guess_leader()
        victim = leader if leader and rng.random() < 0.6 else rng.choice(everybody)
        others = [member.name for member in everybody if member is not victim]
        sends, hears = [(victim.name, other) for other in others], [(other, victim.name) for other in others]
        shapes = {
            "deaf": hears,
            "mute": sends,
            "alone": sends + hears,
            "half deaf": hears[:1],
            "half mute": sends[:1],
            "in a ring": list(itertools.pairwise([*others, victim.name])),
        }
        kind = rng.choice(list(shapes))
        pairs = shapes[kind]
        self.arena.grounds.cut(pairs)
        return f"{victim.name} {kind}: {' '.join('→'.join(pair) for pair in pairs)}"

    def end(self) -> None:
        self.arena.grounds.mend()


class BadLinks(Fault):
    """Links that are slow, lossy, narrow, silent in one direction or both, or reset."""

    name = "proxy"
    severs = True

    def begin(self, rng: random.Random, free: list[Member]) -> str:
        links = [pair for pair in itertools.permutations(self.arena.members, 2) if rng.random() < 0.5]
        kind = rng.choice(("slow", "lossy", "narrow", "mute", "deaf", "half open", "reset"))
        there, back = self._weather(rng, kind)
        for sender, receiver in links:
            if kind == "reset":
                self.arena.grounds.reset(sender, receiver)
            else:
                self.arena.grounds.worsen(sender, receiver, there, back)
        return f"{kind}: {' '.join('→'.join(pair) for pair in links)}" if links else ""

    @staticmethod
    def _weather(rng: random.Random, kind: str) -> tuple[Weather, Weather]:
        silent = Weather(silent=True)
        slow, narrow = Weather(delay=rng.uniform(0.005, 0.1)), Weather(rate=rng.uniform(5e3, 5e4))
        both = {"slow": slow, "lossy": Weather(loss=rng.uniform(0.02, 0.3)), "narrow": narrow, "half open": silent}
        if kind in both:
            return both[kind], both[kind]
        return (silent if kind == "mute" else FAIR), (silent if kind == "deaf" else FAIR)

    def end(self) -> None:
        self.arena.grounds.clear_up()


class FullDisk(Fault):
    """No room on a member's disk, or on all; other faults may come on top."""

    name = "full"
    lasts = 3.0  # until the log has used up what it has ready
    why_not = staticmethod(why_no_namespaces)

    @property
    def hurt(self) -> list[Member]:
        return self._full

    def begin(self, rng: random.Random, free: list[Member]) -> str:
        self._full, self.victims = self.pick(rng, free, all_of_them=0.3), []
        self._balloons = [Balloon(self.arena.grounds.places[member.name]) for member in self._full]
        for balloon in self._balloons:
            balloon.blow_up()
        return names(self._full)

    def end(self) -> None:
        for balloon in self._balloons:
            balloon.burst()


class Traced(Fault):
    """Something happens to the next sync of a member's log."""

    inject: ClassVar[Mapping[str, str]]
    why_not = staticmethod(why_no_tracer)

    def begin(self, rng: random.Random, free: list[Member]) -> str:
        for member in self.pick(rng, free):
            self._tracer = Tracer(self.arena.thread(member), self.inject)
            if not within(SOON, lambda: self._tracer.hit):
                self._tracer.close()
                self.victims = []
                return ""  # it has nothing to sync, perhaps because it is cut off
            self.struck(member)
        return names(self.victims)

    def struck(self, member: Member) -> None:
        """Look at the member to which it has just happened."""

    def end(self) -> None:
        self._tracer.close()


class FailedSync(Traced):
    """A sync fails, and those behind it would succeed: the member has to stop, and acknowledge nothing more."""

    name = "eio"
    inject = FAILS

    def struck(self, member: Member) -> None:
        expect_failed(member)

    def end(self) -> None:
        super().end()
        for member in self.victims:
            member.stop()
            member.start()


def expect_failed(member: Member) -> None:
    """Wait until a member has stopped because of its disk; then it refuses everything."""
    failure = eventually(lambda: member.call("failure"), PATIENCE)
    assert failure.startswith("StorageError"), failure
    for call in (("put", "x0", "never"), ("get", "x0")):
        try:
            answer = member.call(*call)
        except CallError as error:
            kind = error.kind
        else:
            kind = f"the answer {answer}"
        assert kind == "StorageError", f"{member.name} gave {kind} to {call} after {failure}"


class HungDisk(Traced):
    """A sync takes seconds; the member still tells how it is."""

    name = "hang"
    lasts = 2.0  # or nobody minds
    inject = HANGS

    def struck(self, member: Member) -> None:
        began = time.monotonic()
        member.ask("status").result(PROMPT)
        self.arena.note(f"{member.name} told its status in {time.monotonic() - began:.3f} s")


class TornFlush(Traced):
    """A part of a flush is written, and the process is killed before it can be synced."""

    name = "tear"
    inject = TEARS

    def end(self) -> None:
        super().end()
        for member in self.victims:
            member.kill()
            member.start()


class HandOver(Fault):
    """The leader hands over to another member."""

    name = "transfer"

    def begin(self, rng: random.Random, free: list[Member]) -> str:
        leader = self.arena.guess_leader()
        if leader is None or leader not in free:
            return ""
        to = rng.choice([None, *(member.name for member in self.arena.others(leader))])
        with contextlib.suppress(CallError, NoAnswer):
            if leader.ask("transfer", to).result(PROMPT):
                return f"{leader.name} to {to or 'anybody'}"
        return ""


class Restart(Fault):
    """A member closes, and is started again."""

    name = "restart"

    @property
    def hurt(self) -> list[Member]:
        return []  # it is back by now

    def begin(self, rng: random.Random, free: list[Member]) -> str:
        for member in self.pick(rng, free):
            member.stop()
            member.start()
        return names(self.victims)


FAULTS: dict[str, type[Fault]] = {
    fault.name: fault for fault in (Kill, Stop, Cut, BadLinks, FullDisk, FailedSync, HungDisk, TornFlush, HandOver, Restart)
}


def usable(wanted: list[str]) -> Iterator[tuple[str, str]]:
    """Yield the names of faults, each with the reason why it can't be done here, "" where it can."""
    return ((name, FAULTS[name].why_not()) for name in wanted)
