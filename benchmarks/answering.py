"""The child's side of a benchmark: a process that does what its parent asks for (``replkv_peer.ChildProcess`` is the other side)."""

from __future__ import annotations

import json
import sys


def answer_requests(whom: object) -> None:
    """Answer on stdout what is asked on stdin, until that ends: a JSON object per line, which names a method and its arguments.

    Args:
        whom: has the methods.
    """
    for line in sys.stdin:
        request = json.loads(line)
        print(json.dumps(getattr(whom, request["do"])(*request["with"])), flush=True)
