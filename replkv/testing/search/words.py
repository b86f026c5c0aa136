"""What happened in a step, for people."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import attrs

from replkv.messages import NOWHERE, UNKNOWN, Entry, HardState, SnapshotMeta

if TYPE_CHECKING:
    from collections.abc import Callable

    from replkv.testing.search.member import Member
    from replkv.testing.search.world import Action, Letter, State, World

HEARING = {"receive": "{who} hears: {letter}", "receive and keep": "{who} hears, not for the last time: {letter}", "lose": "lost: {letter}"}
WORDS: dict[str, Callable[..., str]] = {
    "start": lambda: "all start",
    "tick": lambda: "has waited long enough",
    "put": lambda: "is asked for a put",
    "change": lambda names: f"is asked for the configuration {names}",
    "read": lambda number: f"is asked for read {number}",
    "transfer": lambda to: f"is asked to hand over to {to}",
    "part": lambda peer: f"loses the connection to {peer}",
    "join": lambda peer: f"has a new connection to {peer}",
    "trim": lambda: "trims its log behind a snapshot",
    "fill": lambda full: "has a full disk" if full else "has room on its disk again",
    "sync": lambda: "has its disk done",
    "turn": lambda: "looks what there is to do",
    "wait": lambda: "time passes",
    "crash": lambda kept: "crashes and starts again" + (f", {kept} entries of the flush got written" if kept >= 0 else ""),
    "rot": lambda kept: f"starts again, all but {kept} of its entries lost",
    "doubt": lambda kept: f"starts again, all but {kept} of its entries, term and vote lost",
}


def told(world: World, before: State, action: Action, after: State | None) -> str:
    """Return what an action was, and in a second line what came of it, if anything is known of that."""
    who, what = action
    text = _told(world, who, *what)
    if after is None or who not in world.places:
        return text
    member = world.members.values[after[world.places[who]]]
    sent = [world.letters.values[number] for number in sorted({*world.wire(after)} - {*world.wire(before)})]
    sending = f"; sends {', '.join(f'{shortly(letter.message)} to {letter.to}' for letter in sent)}" if sent else ""
    return f"{text}\n        {member_text(member)}{sending}"


def _told(world: World, who: str, word: str, *rest: Any) -> str:
    if word in HEARING:
        return HEARING[word].format(who=who, letter=letter_text(world.letters.values[rest[0]]))
    return f"{who} {WORDS[word](*rest)}".strip()


def letter_text(letter: Letter) -> str:
    """Return a letter with its sender."""
    return f"{letter.sender} to {letter.to}, {shortly(letter.message)}"


def member_text(member: Member) -> str:
    """Return a member's state in a line."""
    raft, disk = member.raft, member.disk
    role = raft.role.value if raft.leader in (None, member.name) else f"{raft.role.value} of {raft.leader}"
    base = [f"({member.log.base.index})"] if member.log.base.index else []
    log = " ".join(base + [f"{entry.term}" for entry in member.log.entries])
    text = f"{member.name}: {role}, term {raft.term}, vote {raft.vote or '-'}, terms in its log [{log}], commit {raft.commit}"
    if member.busy is not None:
        text += f", on disk yet: up to {disk.log.last_index}, term {disk.hard_state.term}, vote {disk.hard_state.vote or '-'}"
    if disk.floor > NOWHERE:
        text += ", in doubt" if disk.floor == UNKNOWN else f", floor {disk.floor.index} of term {disk.floor.term}"
    return text


def shortly(value: Any) -> str:
    """Return a message without what says nothing."""
    if isinstance(value, Entry):
        return f"{value.index} of term {value.term}"
    if isinstance(value, tuple):
        return f"({', '.join(map(shortly, value))})"
    if isinstance(value, (HardState, SnapshotMeta)) or not attrs.has(type(value)):
        return str(value)
    fields = [(field.name, getattr(value, field.name)) for field in attrs.fields(type(value)) if field.name != "time"]
    shown = [name if part is True else f"{name} {shortly(part)}" for name, part in fields if part not in (False, ())]
    return f"{type(value).__name__}({', '.join(shown)})"
