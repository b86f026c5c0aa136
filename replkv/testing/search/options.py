"""What may happen to a member, except for messages, and the kind of what it costs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, TypeAlias

from replkv import quorum
from replkv.raft import Role
from replkv.testing.search.profiles import configuration

if TYPE_CHECKING:
    from replkv.testing.search.member import Input, Member
    from replkv.testing.search.profiles import Budget, Profile

DAMAGES = {"rot", "doubt"}
"""What may happen to one disk at a time."""

Priced: TypeAlias = "Iterator[tuple[str, Input]]"
"""Each input with the kind of what it costs, as ``Budget`` names it; an empty one is free."""


def inputs(member: Member, profile: Profile, budget: Budget) -> Priced:
    """Return what may happen to a member.

    Args:
        member: to whom.
        profile: the scope.
        budget: what is left of it.
    """
    yield from _of_disk(member)
    if member.busy is not None:
        return
    raft = member.raft
    if member.behind:
        yield "", ("turn",)
    if raft.leader is not None:
        yield "reads", ("read", profile.budget.reads - budget.reads + 1)
    if member.applied > member.log.base.index:
        yield "trims", ("trim",)
    if not profile.quantum:
        yield "beats" if raft.role is Role.LEADER else "timeouts", ("tick",)
    elif raft.deadline <= member.clock:
        yield "", ("tick",)
    yield from _of_leader(member, profile) if raft.role is Role.LEADER else _of_follower(member)


def _of_disk(member: Member) -> Priced:
    if member.busy is not None:
        yield "", ("sync",)
    for kept in range(-1, len(member.busy.entries) + 1 if member.busy is not None else 0):
        yield "crashes", ("crash", kept)
    for kept in range(len(member.disk.entries) + 1):
        yield "rots", ("doubt", kept)
        if kept < len(member.disk.entries):
            yield "rots", ("rot", kept)
    yield "fills", ("fill", not member.raft.full)


def _of_leader(member: Member, profile: Profile) -> Priced:
    raft = member.raft
    if raft.can_propose:
        yield "puts", ("put",)
        for text in profile.configurations:
            new = configuration(text)
            if new != raft.configuration and quorum.may_follow(raft.configuration, new):
                yield "changes", ("change", text)
    for peer in raft.peers:
        yield "flaps", ("part", peer)
        yield "flaps", ("join", peer)
        if raft.configuration.is_voter(peer):
            yield "transfers", ("transfer", peer)


def _of_follower(member: Member) -> Priced:
    if member.raft.leader is not None:
        yield "flaps", ("part", member.raft.leader)
        yield "flaps", ("join", member.raft.leader)
