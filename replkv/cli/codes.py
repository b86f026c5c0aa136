"""What the shell is told: exit codes, and one line about what went wrong."""

from __future__ import annotations

import sys
from typing import Final

from replkv.errors import (
    AuthenticationFailed,
    DiskFull,
    LockLost,
    NoLeader,
    OutcomeUnknown,
    PermissionDenied,
    Rejected,
    ReplkvError,
    Unavailable,
)

OK: Final = 0
REFUSED: Final = 1
"""Decided against, or not there."""
USAGE: Final = 2
"""Wrong arguments, or no click and rich; nothing was sent."""
UNAVAILABLE: Final = 69
"""sysexits' EX_UNAVAILABLE: no member or no leader was reached in time, or it can't be used; nothing was done."""
TRY_AGAIN: Final = 75
"""sysexits' EX_TEMPFAIL: not got in time, or lost meanwhile; or a write without an answer, which was done once or not at all."""
DENIED: Final = 77
"""sysexits' EX_NOPERM: who asks may not, or has not proved who it is; not to be taken for an answer such as that a key is missing."""
NOT_EXECUTABLE: Final = 126
NOT_FOUND: Final = 127
SIGNAL: Final = 128
"""Added to the number of the signal that ended something."""
INTERRUPTED: Final = 130
"""Ctrl-C."""


def code_of(error: ReplkvError) -> int:
    """Return the exit code of an error."""
    if isinstance(error, (LockLost, OutcomeUnknown, DiskFull)):
        return TRY_AGAIN
    if isinstance(error, (PermissionDenied, AuthenticationFailed)):
        return DENIED
    if isinstance(error, Rejected):
        return REFUSED
    return TRY_AGAIN if isinstance(error, Unavailable) and not isinstance(error, NoLeader) else UNAVAILABLE


def complain(what: object) -> None:
    """Say on stderr, in one line, what is wrong."""
    print(f"replkv: {' '.join(str(what).split())}", file=sys.stderr, flush=True)
