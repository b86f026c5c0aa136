"""What members of different versions may do together: one number, the **feature level**, which the whole cluster agrees on.

A version of replkv supports all levels up to ``LEVEL``.  The cluster's level is a part of the replicated state: it begins with the lowest
that its founders support, and rises when all members support a higher one (``upgrading.py``); it never falls.  What an older version could
not apply, read or send like everybody else has a level, and is not used below it: commands, kinds of entries, and whatever changes the
bytes of answers, snapshots or the log.  So a member can go back to the version it came from for as long as the level has not risen.

A member that finds a higher level than it supports, or something that its version has no name for, stops: it must not skip what the
others apply.  Nothing in its directory is changed by that; the newer version goes on from there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from replkv import wire
from replkv.errors import Incompatible, LevelTooLow
from replkv.messages import EntryKind

if TYPE_CHECKING:
    from replkv.wire import Raw

FIRST: Final = 1
"""The level of a cluster that knows nothing of levels: every version supports it."""

LEVEL: Final = 1
"""The highest level that this version supports.  With each that is added goes a line in docs/DEPLOYMENT.md that says what it brings."""

COMMANDS: Final[dict[int, int]] = {
    **dict.fromkeys((wire.PUT, wire.DELETE, wire.ADD, wire.TXN, wire.GET, wire.SCAN, wire.PUT_WITH, wire.EXPECT, wire.COMPACT), 1),
    **dict.fromkeys((wire.GRANT, wire.RENEW, wire.KEEP_ALIVE, wire.REVOKE, wire.GUARD, wire.MEMBERS, wire.LEVEL, wire.AS, wire.AUTH), 1),
}
"""The level that each kind of command needs."""

ENTRIES: Final[dict[EntryKind, int]] = {EntryKind.FOUNDING: 1, EntryKind.BLOCK: 1, EntryKind.CONFIGURATION: 1}
"""The level that each kind of entry needs."""


def level_of(command: Raw) -> int:
    """Return the level that a packed command needs, with all that it carries out; linear in its number of parts."""
    if command[0] != wire.TXN and command[0] not in wire.CONDITIONAL:  # the short way for what is asked most
        return COMMANDS[command[0]]
    return max(COMMANDS[kind] for kind in wire.kinds(command))


def refusal(command: Raw, level: int) -> LevelTooLow | None:
    """Return why a packed command can't be proposed at the cluster's level, None if it can."""
    needed = level_of(command)
    if needed <= level:
        return None
    return LevelTooLow(f"the cluster is at feature level {level}, and this needs {needed}: upgrade all members", level)


def check_supported(level: int) -> None:
    """Check that this version can take part at a level.

    Raises:
        Incompatible: it can't.
    """
    if level > LEVEL:
        raise Incompatible(f"the cluster is at feature level {level}, and this version supports {LEVEL} only: upgrade this member")


def unknown(command: Raw) -> Incompatible | None:
    """Return the error for a command in the log that this version has no name for, None if it knows all its parts."""
    kind = next((kind for kind in wire.kinds(command) if kind not in COMMANDS), None)
    return None if kind is None else Incompatible(f"the log has a command of the unknown kind {kind}: upgrade this member")
