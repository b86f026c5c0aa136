"""``python tests/torture``: see ``campaign.py``."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path += [str(Path(__file__).parents[1] / "integration"), str(Path(__file__).parents[2])]

from campaign import main  # found now

from replkv.testing.arguments import run_command

run_command(main)
