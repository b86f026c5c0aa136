"""The command line: ``replkv demo``, also ``python -m replkv demo``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from replkv import __version__


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds <= 3600:  # an hour is a slip of the finger
        raise argparse.ArgumentTypeError(f"must be a number above 0 and at most 3600, not {text!r}")
    return seconds


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="replkv", description="Strongly consistent replicated state inside your process.")
    parser.add_argument("--version", action="version", version=f"replkv {__version__}")
    commands = parser.add_subparsers(dest="command", required=True)
    demo = commands.add_parser(
        "demo",
        help="three members, a killed leader, nothing lost",
        description="Start three member processes, load a real data set, write and read, kill the leader with SIGKILL, restart it, and "
        "prove that every acknowledged write is on all three.",
    )
    demo.add_argument("--seconds", type=_seconds, default=9.0, help="how long to keep the members busy (default 9)")
    demo.add_argument("--keep", action="store_true", help="keep the members' directories, logs and histories")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return the exit status."""
    chosen = _parser().parse_args(arguments)
    from replkv import demo  # noqa: PLC0415  # only who asks for the demo pays for its imports

    return demo.run(chosen.seconds, keep=chosen.keep)


if __name__ == "__main__":
    sys.exit(main())
