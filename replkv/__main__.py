"""The command line: ``replkv COMMAND``, also ``python -m replkv COMMAND``; what it does stands in ``cli``."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from replkv.cli import plain
from replkv.cli.codes import USAGE, complain

PLAIN = ("demo", "member", "--version")
"""What needs the standard library only."""
EXTRA = ("click", "rich")
"""What everything else needs."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return the exit code."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if given[:1] and given[0] in PLAIN:
        return plain.run(given)
    try:
        from replkv.cli.app import run  # noqa: PLC0415  # needs the extra
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in EXTRA:
            raise
        if not given or given[0].startswith("-"):
            return plain.run(given)
        complain(f"{given[0]} needs {' and '.join(EXTRA)}: pip install 'replkv[cli]'")
        return USAGE
    return run(given)


if __name__ == "__main__":
    sys.exit(main())
