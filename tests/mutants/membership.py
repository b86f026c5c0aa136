"""Bugs in changes of the configuration."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from typing import Any

from attrs import evolve
from mutant import Patch, mutant

from replkv import codec, membership, quorum, steering
from replkv.leadership import Leadership
from replkv.links import Links
from replkv.machine import Machine, Outcome
from replkv.membership import Membership
from replkv.messages import Application, Configuration, Entry, EntryKind, Vote
from replkv.raft import Raft
from replkv.roster import Roster
from replkv.steering import Seen


@mutant(11, "hashicorp/raft#477, hashicorp/raft#526")
def a_member_that_was_removed_stands_for_election(patch: Patch) -> None:
    patch.setattr(Raft, "_may_stand", lambda self: not self._caution)


@mutant(28, "etcd-io/raft e515a67")
def a_restart_knows_only_the_new_half_of_a_joint_configuration(patch: Patch) -> None:
    init = Raft.__init__

    def simple(self: Raft, *arguments: Any) -> None:
        init(self, *arguments)
        index, configuration = self._log._configurations[-1]
        self._log._configurations[-1] = index, evolve(configuration, outgoing=())
        self._configure()

    patch.setattr(Raft, "__init__", simple)


@mutant(29, "etcd#10998, etcd-io/raft abb533c", slow=True)
def a_learner_that_has_not_heard_of_its_promotion_refuses_to_vote(patch: Patch) -> None:
    on_vote = Raft._on_vote

    def scrupulous(self: Raft, sender: str, vote: Vote) -> None:
        if self._votes_in(self.configuration):
            on_vote(self, sender, vote)

    patch.setattr(Raft, "_on_vote", scrupulous)
    patch.setitem(Raft._HANDLERS, Vote, scrupulous)


@mutant(30, "etcd#15096, etcd#21736")
def a_learner_that_has_never_started_is_promoted(patch: Patch) -> None:
    change_voters = steering._change_voters

    def trusting(now: Configuration, roster: Roster, seen: Seen) -> Configuration | None:
        learners = [name for name in now.learners if name in roster.voters]
        if not learners:
            return change_voters(now, roster, seen)
        rest = tuple(name for name in now.learners if name != learners[0])
        return steering._made(now, (*now.voters, learners[0]), rest)

    patch.setattr(steering, "_change_voters", trusting)


@mutant(31, "etcd#19557, etcd#20967")
def snapshots_keep_to_the_first_configuration(patch: Patch) -> None:
    apply = Machine.apply

    def stubborn(self: Machine, entry: Entry) -> Generator[None, None, list[Outcome]]:
        before = self.configuration
        outcomes = yield from apply(self, entry)
        if entry.kind is EntryKind.CONFIGURATION:
            self.configuration = before
        return outcomes

    patch.setattr(Machine, "apply", stubborn)


@mutant(33, "dqlite#324, etcd#13119", slow=True)
def a_leader_that_removed_itself_does_not_come_back_to_see_it_through(patch: Patch) -> None:
    patch.setattr(Raft, "_may_stand", lambda self: not self._caution and self._votes_in(self.configuration))


@mutant(34, "etcd#3477, etcd#21667")
def no_member_can_be_added_while_another_one_is_down(patch: Patch) -> None:
    next_step = steering.next_step

    def anxious(now: Configuration, roster: Roster, newcomers: Iterable[Application], seen: Seen) -> Configuration | None:
        return next_step(now, roster, newcomers, seen) if all(map(seen.is_alive, now.all_voters)) else None

    patch.setattr(membership, "next_step", anxious)


# -- made up, or further sides of the same ---------------------------------------------------------------------------------------------


@mutant(122, "MicroRaft c768342")
def learners_are_counted_like_voters(patch: Patch) -> None:
    agreed = quorum.agreed

    def generous(configuration: Configuration, value: Callable[[str], Any]) -> Any:
        voters = (*configuration.voters, *configuration.learners)
        return agreed(evolve(configuration, voters=voters, learners=()), value)

    patch.setattr(quorum, "agreed", generous)


@mutant(141)
def a_learner_gets_its_vote_however_far_it_is_behind(patch: Patch) -> None:
    patch.setattr(membership._Followers, "is_caught_up", lambda self, name: self._raft.peers[name].heard_at > 0)


@mutant(142, slow=True)
def who_dialled_once_is_believed_to_be_there_still(patch: Patch) -> None:
    def newcomers(self: Links, addresses: Mapping[str, str]) -> Iterator[Application]:
        for caller in self._callers.values():
            if caller.name is not None and self.members is not None and caller.name in self.members:
                is_new = caller.cluster == codec.NO_CLUSTER and caller.incarnation != self.members[caller.name]
                has_moved = caller.incarnation == self.members[caller.name] and caller.about.address != addresses.get(caller.name)
                if is_new or has_moved:
                    yield Application(caller.name, caller.incarnation, caller.about.address, has_moved)

    patch.setattr(Links, "newcomers", newcomers)


@mutant(143)
def founders_are_told_once_of_their_founding(patch: Patch) -> None:
    look_around = Membership.look_around

    def brief(self: Membership, raft: Raft, machine: Machine, now: float) -> None:
        if machine.applied:
            look_around(self, raft, machine, now)

    patch.setattr(Membership, "look_around", brief)


@mutant(144)
def nobody_is_told_of_its_removal(patch: Patch) -> None:
    patch.setattr(Links, "_was_removed", lambda *_: False)


@mutant(145)
def who_is_wanted_is_left_out_of_snapshots(patch: Patch) -> None:
    load_place = Machine._load_place

    def forgetful(self: Machine, *place: object) -> None:
        load_place(self, *place)
        self.roster = Roster.of(self.configuration)

    patch.setattr(Machine, "_load_place", forgetful)


@mutant(146)
def a_joint_configuration_is_never_left(patch: Patch) -> None:
    patch.setattr(steering, "_leave_joint", lambda *_: None)


@mutant(147)
def several_voters_are_exchanged_in_one_step(patch: Patch) -> None:
    made = steering._made

    def hasty(now: Configuration, voters: Iterable[str], learners: Iterable[str], outgoing: tuple[str, ...] = ()) -> Configuration:
        return made(now, voters, learners)

    patch.setattr(steering, "_made", hasty)
    patch.setattr(Leadership, "may_change_to", lambda self, new, commit: commit >= max(self.first_index, self._log.configuration_index))
