"""The child's side of a benchmark: a process that does what its parent asks for (``replkv_peer.ChildProcess`` is the other side).

Measurements travel as arrays, packed: to write each figure out as text would cost the process that is measured more CPU than a local read
does, which would count as the read's.
"""

from __future__ import annotations

import base64
import json
import sys
from array import array
from typing import Any

_ARRAY = "array of doubles"


def answer_requests(whom: object) -> None:
    """Answer on stdout what is asked on stdin, until that ends: a JSON object per line, which names a method and its arguments.

    Args:
        whom: has the methods.
    """
    for line in sys.stdin:
        request = json.loads(line)
        print(json.dumps(getattr(whom, request["do"])(*request["with"]), default=_packed), flush=True)


def answer_in(line: str) -> Any:
    """Return what a child's line says; arrays become lists."""
    return json.loads(line, object_hook=_unpacked)


def _packed(what: object) -> dict[str, str]:
    if not isinstance(what, array) or what.typecode != "d":
        raise TypeError(f"an answer is made of what JSON has and arrays of doubles, not of {type(what).__name__}")
    return {_ARRAY: base64.b64encode(what.tobytes()).decode()}


def _unpacked(found: dict[str, Any]) -> Any:
    return array("d", base64.b64decode(found[_ARRAY])).tolist() if _ARRAY in found else found
