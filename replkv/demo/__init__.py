"""``replkv demo``: three processes, one state, a killed leader, and the proof that nothing acknowledged was lost.

The parent starts three members (``member.py``), drives them over pipes (``processes.py``, ``traffic.py``), keeps its own record of what was
acknowledged (``ledger.py``), and in the end holds what each member has by itself against that record (``story.py``).
"""

from __future__ import annotations

import asyncio
import shutil
import sys
import tempfile
from pathlib import Path

from replkv.demo.screen import choose_screen
from replkv.demo.story import FAILURES, Story

SLACK = 90.0
"""Seconds beyond the asked-for ones after which the demo gives up, whatever it waits for."""


def run(seconds: float, *, keep: bool) -> int:
    """Run the demo in a new temporary directory.

    Args:
        seconds: how long the members are kept busy; starting and comparing come on top.
        keep: leave the directory where it is, also after a success.

    Returns:
        The exit status: 0 if every acknowledged write is on all members; else 1, and the directory stays as evidence.
    """
    root = Path(tempfile.mkdtemp(prefix="replkv-demo-"))
    try:
        problems = asyncio.run(_tell(root, seconds))
    except KeyboardInterrupt:
        problems = ["interrupted"]
    for problem in problems:
        print(f"PROBLEM: {problem}", file=sys.stderr)
    if problems or keep:
        print(f"data, logs, histories and the record of acknowledged writes: {root}")
    else:
        shutil.rmtree(root)
    return 1 if problems else 0


async def _tell(root: Path, seconds: float) -> list[str]:
    try:
        with choose_screen() as screen:
            return await asyncio.wait_for(Story(root, seconds, screen).run(), seconds + SLACK)
    except FAILURES as failure:
        return [str(failure)]
    except TimeoutError:
        return [f"not done after {seconds + SLACK:.0f} s"]
