"""Who decides: the configurations that may be in force by anybody's account, and the traffic that changes them.

Members come and go, vote and cease to, all with the directories they have: on ways that leaders never take by themselves, who are kept
from steering in such a run.  What is proposed is always legal, and never lets those members decide whose disks were lost.
"""

from __future__ import annotations

import random
from functools import cached_property
from typing import TYPE_CHECKING, Literal

from attrs import define, field

from replkv import codec, quorum
from replkv.messages import Configuration, EntryKind
from replkv.raft import Role

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from replkv.testing.cluster import SimCluster, SimMember
    from replkv.testing.invariants import Invariants

Part = Literal["voter", "learner", "nobody"]
PARTS: tuple[Part, ...] = ("voter", "learner", "nobody")
TRIES = 60
"""How often a chain of changes may find no leader, or one that is not ready."""


@define(eq=False)
class Electorate:
    """All members as voters, learners, or neither.

    Args:
        cluster: of which.
        invariants: know which configurations there are.
    """

    cluster: SimCluster
    invariants: Invariants
    era: int = 0
    """Chains of changes that were begun in an earlier one have been stopped."""

    @property
    def in_force(self) -> list[Configuration]:
        """The newest committed configuration, and all that may yet be: one of them decides, whoever leads next."""
        decided = len(self.invariants.committed)
        beyond = [found for (index, _), found in self.invariants.configurations.items() if index > decided]
        rafts = [member.node.raft for member in self.cluster.running if member.node is not None and member.node.raft is not None]
        proposed = [raft.configuration for raft in rafts if raft._log.configuration_index > decided]
        return [self.invariants.settled, *beyond, *proposed]

    @property
    def leaders(self) -> list[SimMember]:
        """Those who think that they lead."""
        return [member for member in self.cluster.running if member.node and member.node.raft and member.node.raft.role is Role.LEADER]

    def suffice(self, names: Collection[str]) -> bool:
        """Tell whether these members decide, whichever configuration turns out to be in force."""
        return all(self.decide(names, configuration) for configuration in self.in_force)

    def decide(self, names: Collection[str], configuration: Configuration) -> bool:
        """Tell whether these members, with the disks they have now, are a majority of the voters, in both halves of a joint one."""
        members, known = configuration.members, self.cluster.members
        present = {name for name in names if members.get(name) == known[name].incarnation}
        halves = [half for half in (configuration.voters, configuration.outgoing) if half]
        return all(2 * sum(name in present for name in half) > len(half) for half in halves)

    def core(self, sound: list[SimMember], rng: random.Random, suffice: Callable[[Collection[str]], bool] | None = None) -> list[SimMember]:
        """Draw members that suffice, by the configurations or another measure, and perhaps some more; all if that is not enough."""
        drawn, enough = rng.sample(sound, len(sound)), suffice or self.suffice
        counts = range(1, len(drawn) + 1)
        least = next((count for count in counts if enough([member.name for member in drawn[:count]])), len(drawn))
        return drawn[: rng.randint(least, len(drawn))]

    # -- traffic ----------------------------------------------------------------------------------------------------------------------

    def change(self, rng: random.Random, count: int) -> None:
        """Have leaders change the configuration so many times, at random, each as soon as they can."""
        _Changes(self, rng, count).go_on()

    def stop(self) -> None:
        """Let no more changes be proposed by those who are at it."""
        self.era += 1

    def restore(self) -> None:
        """Have leaders bring the founders' configuration back."""
        _Restoration(self).go_on()

    @property
    def restored(self) -> bool:
        """Whether the founders' configuration is the one that counts."""
        return self.in_force == [self.founders] * len(self.in_force)

    @cached_property
    def founders(self) -> Configuration:
        """The first configuration."""
        return codec.decode_founding(self.invariants.committed[0].payload).configuration

    def propose(self, member: SimMember, new: Configuration) -> bool:
        """Have a member propose a configuration; tell whether it did."""
        raft = member.process.raft
        index = raft.propose(EntryKind.CONFIGURATION, codec.encode_configuration(new), member.clock()) if raft is not None else None
        member.wake()
        if index is None:
            self.cluster.count("configuration that had to wait")
            return False
        self.cluster.count("configuration proposed")
        self.cluster.trace.note("configuration", member.where, index, *new.voters, "|", *new.outgoing, "|", *new.learners)
        return True

    def drawn(self, now: Configuration, rng: random.Random) -> Configuration | None:
        """Draw a configuration that may follow this one, and in which those with sound disks decide; None if none was found soon."""
        sound = [member.name for member in self.cluster.sound]
        for _ in range(10):
            new = self._leaving(now, rng) if now.outgoing else self._joint(now, rng) if rng.random() < 0.4 else self._simple(now, rng)
            if new != now and quorum.may_follow(now, new) and self.decide(sound, new):
                return new
        return None

    def _simple(self, now: Configuration, rng: random.Random) -> Configuration:
        """Give one member another part."""
        parts = {name: _part(name, now) for name in self.founders.names}
        name = rng.choice(sorted(parts))
        parts[name] = rng.choice([part for part in PARTS if part != parts[name]])
        return self.made(parts)

    def _joint(self, now: Configuration, rng: random.Random) -> Configuration:
        """Begin to give all members other parts."""
        parts: dict[str, Part] = {name: rng.choice(("voter", "voter", *PARTS)) for name in self.founders.names}
        return self.made(parts, now.voters)

    def _leaving(self, now: Configuration, rng: random.Random) -> Configuration:
        """End a joint configuration, mostly; or change the learners meanwhile."""
        parts = {name: _part(name, now) for name in self.founders.names}
        stays = rng.random() < 0.2
        for name, part in parts.items():
            if part != "voter" and name not in (now.outgoing if stays else ()):
                parts[name] = rng.choice(("learner", "nobody"))
        return self.made(parts, now.outgoing if stays else ())

    def made(self, parts: dict[str, Part], outgoing: tuple[str, ...] = ()) -> Configuration:
        """Return the configuration in which everybody plays these parts."""
        voters = tuple(name for name, part in sorted(parts.items()) if part == "voter")
        learners = tuple(name for name, part in sorted(parts.items()) if part == "learner" and name not in outgoing)
        names = sorted({*voters, *outgoing, *learners})
        founders = self.founders
        addresses = {name: founders.addresses[name] for name in names if name in founders.addresses}
        return Configuration(voters, outgoing, learners, {name: founders.members[name] for name in names}, addresses)


@define(eq=False)
class _Changes:
    """A chain of changes; each step is taken by whoever leads by then."""

    electorate: Electorate
    rng: random.Random
    left: int
    _tries: int = field(default=TRIES, init=False)
    _era: int = field(init=False)

    def __attrs_post_init__(self) -> None:
        self._era = self.electorate.era

    def go_on(self) -> None:
        """Take the next step before long, if there is one to take."""
        cluster = self.electorate.cluster
        if self.left and self._tries:
            self._tries -= 1
            cluster.scheduler.after(self.rng.uniform(0.01, 0.4), self._step)

    def _step(self) -> None:
        leaders = self.electorate.leaders
        if self._era != self.electorate.era:
            return
        if leaders and self.electorate.invariants.complete:
            self.rng.choice(leaders).on_caller_thread(self._propose)
        self.go_on()

    def _propose(self, member: SimMember) -> None:
        raft = member.process.raft
        if raft is None or raft.role is not Role.LEADER or self._era != self.electorate.era or not self.left:
            return
        new = self._next(raft.configuration)
        if new is not None and self.electorate.propose(member, new):
            self.left -= 1

    def _next(self, now: Configuration) -> Configuration | None:
        return self.electorate.drawn(now, self.rng)


class _Restoration(_Changes):
    """The chain that ends with the founders' configuration."""

    def __init__(self, electorate: Electorate) -> None:
        super().__init__(electorate, random.Random(f"restoration {electorate.cluster.scenario.seed}"), left=TRIES)

    def _next(self, now: Configuration) -> Configuration | None:
        electorate = self.electorate
        parts: dict[str, Part] = {name: _part(name, now if now.outgoing else electorate.founders) for name in electorate.founders.names}
        if now == electorate.founders:
            return None
        electorate.cluster.count("configuration brought back")
        in_one_step = electorate.made(parts)
        return in_one_step if quorum.may_follow(now, in_one_step) else electorate.made(parts, now.voters)


def _part(name: str, configuration: Configuration) -> Part:
    return "voter" if name in configuration.voters else "learner" if name in configuration.learners else "nobody"
