"""Bugs in changes of the configuration."""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Any

from attrs import evolve
from mutant import Patch, mutant

from replkv import quorum
from replkv.machine import Machine, Outcome
from replkv.messages import Configuration, Entry, EntryKind, Vote
from replkv.raft import Raft


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


# -- made up, or further sides of the same ---------------------------------------------------------------------------------------------


@mutant(122, "MicroRaft c768342")
def learners_are_counted_like_voters(patch: Patch) -> None:
    agreed = quorum.agreed

    def generous(configuration: Configuration, value: Callable[[str], Any]) -> Any:
        voters = (*configuration.voters, *configuration.learners)
        return agreed(evolve(configuration, voters=voters, learners=()), value)

    patch.setattr(quorum, "agreed", generous)
