"""``python tests/fuzz``: see ``command.py``."""

from __future__ import annotations

from command import main

from replkv.testing.arguments import run_command

run_command(main)
