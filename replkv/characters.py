"""Which characters a text in the log may have: the same ones for every version of Python.

Members on different versions must agree about what they let into the log, for what one of them takes for an error stops it.  So this is no
question to ``str.isprintable``: each version knows the characters of another Unicode.
"""

from __future__ import annotations

import re

_PRINTABLE = re.compile(
    r"[^\x00-\x1f\x7f-\xa0\xad\u061c\u1680\u180e\u2000-\u200f\u2028-\u202f\u205f-\u206f\u3000"
    r"\ud800-\uf8ff\ufeff\ufff0-\uffff\U000e0000-\U0010ffff]+"
)


def is_printable(text: str) -> bool:
    """Tell whether a text has characters, and none that steer a terminal, can't be seen, or can't be encoded; a space can be seen."""
    return _PRINTABLE.fullmatch(text) is not None
