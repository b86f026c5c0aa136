"""What the commands of this package have in common: names on the command line, and an end in good order."""

from __future__ import annotations

import signal
import sys
from argparse import ArgumentParser
from collections.abc import Collection


def check_names(parser: ArgumentParser, asked: Collection[str], known: Collection[str]) -> None:
    """End the command with what there is, if something is asked for that there is not."""
    if unknown := [name for name in asked if name not in known]:
        parser.error(f"there is no {unknown[0]}, only {', '.join(known)}")


def end_on_sigterm() -> None:
    """Have SIGTERM end the command as an exception does, so that its clusters are stopped."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
