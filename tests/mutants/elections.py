"""Bugs in elections, terms, votes and quorums."""

from __future__ import annotations

from collections.abc import Container
from typing import Any

from mutant import Patch, mutant

from replkv import quorum
from replkv.leadership import Leadership
from replkv.links import Links
from replkv.log import Log
from replkv.messages import Append, Configuration
from replkv.patience import Patience
from replkv.raft import Raft
from replkv.ready import Ready


@mutant(2, "openraft a9f696a9, ee460f37")
def acknowledgements_and_votes_leave_before_the_disk_is_done(patch: Patch) -> None:
    take = Raft.take

    def hasty(self: Raft) -> Ready | None:
        ready = take(self)
        if ready is not None:
            ready.messages, ready.after_sync = ready.messages + ready.after_sync, []
        return ready

    patch.setattr(Raft, "take", hasty)


@mutant(9, "raft-rs#84, openraft#1796, etcd#8525", slow=True)
def a_leader_of_an_older_term_is_not_told_of_the_newer_one(patch: Patch) -> None:
    on_append = Raft._HANDLERS[Append]

    def silent(self: Raft, sender: str, append: Append) -> None:
        if append.term >= self.term:
            on_append(self, sender, append)

    patch.setitem(Raft._HANDLERS, Append, silent)


@mutant(10, "etcd at Cloudflare, 2020-11-02", profile="leases and promises", slow=True)
def who_hears_a_leader_helps_others_to_leadership(patch: Patch) -> None:
    patch.setattr(Patience, "binds_against", lambda self, candidate, now: False)


@mutant(12, "hashicorp/raft#581")
def a_hand_over_to_a_member_that_is_gone_is_never_given_up(patch: Patch) -> None:
    offer = Leadership.offer

    def patient(self: Leadership, to: str | None, now: float) -> None:
        offer(self, to, now)
        self._heir_until = float("inf")

    patch.setattr(Leadership, "offer", patient)


@mutant(13, "etcd#3504, rethinkdb#5289", slow=True)
def an_emptied_directory_is_taken_for_the_one_that_was_there(patch: Patch) -> None:
    opened = Log.open.__func__  # type: ignore[attr-defined]  # a class method's function

    def same(cls: type[Log], disk: Any, name: str, new_incarnation: int, segment_bytes: int) -> Any:
        return opened(cls, disk, name, int.from_bytes(name.encode()) + 1, segment_bytes)

    patch.setattr(Log, "open", classmethod(same))


@mutant(14, "etcd#17078")
def nobody_looks_for_whom_a_frame_is_meant(patch: Patch) -> None:
    patch.setattr(Links, "_addressed", lambda self, caller, envelope: True)


# -- made up, or further sides of the same ---------------------------------------------------------------------------------------------


@mutant(85, "PySyncObj#202")
def a_term_is_stored_only_with_entries(patch: Patch) -> None:
    take = Raft.take

    def forgetful(self: Raft) -> Ready | None:
        ready = take(self)
        if ready is not None and ready.hard_state is not None and not ready.entries:
            ready.hard_state = None
        return ready

    patch.setattr(Raft, "take", forgetful)


@mutant(90)
def half_of_the_votes_win_an_election(patch: Patch) -> None:
    def won(configuration: Configuration, granted: Container[str]) -> bool:
        return 2 * sum(voter in granted for voter in configuration.voters) >= len(configuration.voters) - 1

    patch.setattr(quorum, "won", won)
