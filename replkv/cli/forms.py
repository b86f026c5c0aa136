"""How keys, values and answers are written down: for people, for scripts, and as tables."""

from __future__ import annotations

import base64
import json
import re
import sys
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import Any, Final

import click
from rich.box import ROUNDED
from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from replkv import KeyValue

WIDE = 4096
"""Columns of a table that is not drawn on a terminal: nothing is cut or wrapped for it."""
_ESCAPE: Final = re.compile(rb"\\(?:x([0-9a-fA-F]{2})|u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8})|(.?))", re.DOTALL)
_SHORT: Final = {b"\\": b"\\", b"n": b"\n", b"t": b"\t", b"r": b"\r"}


def escaped(data: bytes) -> str:
    r"""Return bytes as one line of text from which they can be told exactly.

    What is printable stays.  A backslash is ``\\``, a newline ``\n``, a byte that is not UTF-8 ``\xff``, and any other character that can't
    be seen, or would steer the terminal, ``\u200e``.
    """
    text = data.replace(b"\\", b"\\\\").decode(errors="backslashreplace")
    return text if text.isprintable() else "".join(map(_escaped, text))


def _escaped(character: str) -> str:
    if character.isprintable():
        return character
    return f"\\u{ord(character):04x}" if "\x80" <= character <= "\xff" else character.encode("unicode_escape").decode()


def unescaped(text: bytes) -> bytes:
    """Return the bytes that ``escaped`` wrote down so.

    Raises:
        ValueError: it writes nothing so.
    """
    return _ESCAPE.sub(_meant, text)


def _meant(found: re.Match[bytes]) -> bytes:
    byte, short, long, sign = found.groups()
    if byte:
        return bytes([int(byte, 16)])
    if character := short or long:
        with suppress(ValueError, OverflowError):  # no character has such a number
            return chr(int(character, 16)).encode()
    if sign in _SHORT:
        return _SHORT[sign]
    raise ValueError(f"{escaped(found[0])} stands for nothing: a backslash is written as two")


def json_field(name: str, data: bytes) -> dict[str, str]:
    """Return bytes as a field of JSON: ``name`` if they are text, ``name_base64`` if they are not."""
    try:
        return {name: data.decode()}
    except UnicodeDecodeError:
        return {f"{name}_base64": base64.b64encode(data).decode()}


def json_pair(kv: KeyValue, *, value: bool = True) -> dict[str, Any]:
    """Return a pair as an object of JSON."""
    revisions = {"create_revision": kv.create_revision, "mod_revision": kv.mod_revision, "version": kv.version, "lease": kv.lease}
    return {**json_field("key", kv.key), **(json_field("value", kv.value) if value else {}), **revisions}


def print_json(thing: object) -> None:
    """Print one line of JSON, in ASCII."""
    click.echo(json.dumps(thing))
    sys.stdout.flush()


def draw(drawing: RenderableType) -> None:
    """Print a table or a text: as wide as the terminal, or as it needs to be where there is none."""
    if sys.stdout.isatty():
        Console(highlight=False).print(drawing)
        return
    console = Console(width=WIDE, highlight=False)
    with console.capture() as captured:
        console.print(drawing)
    for line in captured.get().splitlines():
        click.echo(line.rstrip())


def table(headings: Iterable[str], rows: Iterable[Sequence[str | Text]], *, right: Sequence[str] = (), title: str | None = None) -> Table:
    """Return a table: drawn with lines on a terminal, columns alone elsewhere.

    Args:
        headings: of the columns.
        rows: their cells; text is shown as it is.
        right: the columns of numbers.
        title: stands above.
    """
    terminal = sys.stdout.isatty()
    drawn = Table(
        box=ROUNDED if terminal else None,
        title=title,
        title_justify="left",
        pad_edge=terminal,
        padding=(0, 1) if terminal else (0, 2, 0, 0),
    )
    for heading in headings:
        drawn.add_column(heading, justify="right" if heading in right else "left", overflow="fold")
    for row in rows:
        drawn.add_row(*(Text(cell) if isinstance(cell, str) else cell for cell in row))
    return drawn


def count(number: int, one: str) -> str:
    """Return a number of things: "1 key", "3 keys"."""
    return f"{number:,} {one}" if number == 1 else f"{number:,} {one}s"
