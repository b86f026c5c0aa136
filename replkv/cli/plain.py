"""``replkv demo`` and ``replkv member``: the commands that need nothing but the standard library."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Final

from replkv import __version__
from replkv.cli import member

DESCRIPTION: Final = "Strongly consistent replicated state inside your process, and how to look at it from a shell."
DEMO: Final = "Three members, a killed leader, nothing lost."
MEMBER: Final = "Run a member in a process of its own."


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds <= 3600:  # an hour is a slip of the finger
        raise argparse.ArgumentTypeError(f"must be a number above 0 and at most 3600, not {text!r}")
    return seconds


def _parser() -> argparse.ArgumentParser:
    epilog = "There are more commands, such as status, get, put, scan, watch and lock: pip install 'replkv[cli]'."
    parser = argparse.ArgumentParser(prog="replkv", description=DESCRIPTION, epilog=epilog)
    parser.add_argument("--version", action="version", version=f"replkv {__version__}")
    commands = parser.add_subparsers(dest="command", required=True)
    demo = commands.add_parser(
        "demo",
        help=DEMO,
        description="Start three member processes, load a real data set, write and read, kill the leader with SIGKILL, restart it, and "
        "prove that every acknowledged write is on all three.",
    )
    demo.add_argument("--seconds", type=_seconds, default=9.0, help="how long to keep the members busy (default 9)")
    demo.add_argument("--keep", action="store_true", help="keep the members' directories, logs and histories")
    member.add_options(commands.add_parser("member", help=MEMBER))
    return parser


def run(arguments: Sequence[str] | None = None) -> int:
    """Run ``demo`` or ``member`` and return the exit code."""
    chosen = _parser().parse_args(arguments)
    if chosen.command == "member":
        return member.run(chosen)
    from replkv import demo  # noqa: PLC0415  # only who asks for the demo pays for its imports

    return demo.run(chosen.seconds, keep=chosen.keep)
