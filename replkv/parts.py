"""Replies that are too large for one letter: cut into parts by a member, and put together again by a client."""

from __future__ import annotations

from typing import TYPE_CHECKING

from attrs import define, field

from replkv import letters
from replkv.codec import DecodeError
from replkv.letters import Part, decode_reply, encode_letter

if TYPE_CHECKING:
    from collections.abc import Iterator

    from replkv.letters import Reply


def in_parts(number: int, letter: bytes) -> Iterator[bytes]:
    """Yield a packed reply as it is, or cut into packed parts if it is large.

    Args:
        number: of the request.
        letter: the packed reply, of at most ``letters.REPLY_MAX`` bytes.
    """
    if len(letter) <= letters.PART_MAX:
        yield letter
        return
    for at in range(0, len(letter), letters.PART_MAX):
        yield encode_letter(Part(number, letter[at : at + letters.PART_MAX], at + letters.PART_MAX >= len(letter)))


@define(eq=False)
class Assembly:
    """Puts replies together again, those of one connection."""

    _parts: dict[int, list[bytes]] = field(factory=dict, init=False)

    def add(self, part: Part) -> Reply | None:
        """Add a part; return the reply when it is complete.

        Raises:
            DecodeError: it is none, or more is in parts than ``letters.REPLY_MAX`` bytes for each that is asked for.
        """
        parts = self._parts.setdefault(part.number, [])
        parts.append(part.data)
        if sum(map(len, parts)) > letters.REPLY_MAX:
            raise DecodeError(f"a reply of more than {letters.REPLY_MAX} bytes")
        if not part.last:
            return None
        reply = decode_reply(b"".join(self._parts.pop(part.number)))
        if reply.number != part.number or isinstance(reply, Part):
            raise DecodeError("a reply that is not what its parts said it would be")
        return reply

    def forget(self, number: int) -> None:
        """Forget what there is of a reply: nobody waits for it any more."""
        self._parts.pop(number, None)
