"""A client's connection to one member: letters, each with its number, and who waits for the reply; frames, and how many were taken in.

Nothing is done about a connection that breaks: whoever asked over it asks again over another one.
"""

from __future__ import annotations

from itertools import count
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeAlias

from attrs import define, field

from replkv import letters
from replkv.codec import COMMAND_MAX, FRAME_MAX, DecodeError
from replkv.errors import TooLarge
from replkv.letters import (
    LETTERS_MAX,
    SEEN_BYTES,
    SEEN_EVERY,
    Answer,
    Ask,
    Batch,
    Cancel,
    Events,
    Failed,
    HandOver,
    Hello,
    Inspect,
    Look,
    Outcome,
    Part,
    Ping,
    Pong,
    Prove,
    Pull,
    Read,
    Welcome,
)
from replkv.parts import Assembly

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from replkv.letters import Request
    from replkv.targets import Target

_FRAME_BYTES: Final = 512 << 10
"""Bytes of letters in a frame, unless a single one has more."""
_WAITING_MAX: Final = FRAME_MAX
"""Bytes that may wait for a member that does not take them in; more is kept back."""

_Kind: TypeAlias = type | tuple[type, ...]

_REPLIES: Final[dict[type, _Kind]] = {
    Hello: (Welcome, Ask),
    Prove: Welcome,
    Batch: Outcome,
    Read: Answer,
    Look: Answer,
    Inspect: Answer,
    Pull: Events,
    Ping: Pong,
    HandOver: Answer,
}
"""What answers what; ``Failed`` may answer anything."""


class Link(Protocol):
    """What carries frames to a member and back; the first frame may be sent at once."""

    @property
    def waiting(self) -> int:
        """How many bytes have not left yet."""

    def send(self, body: bytes, /) -> None:
        """Send a frame, or queue it.

        Raises:
            ConnectionError: the connection is lost.
        """

    def close(self) -> None:
        """Close the connection, with what has not left yet."""


class Network(Protocol):
    """Makes connections, and waits for what comes over them; belongs to one thread but for ``wake``."""

    def open(self, target: str, attempt: int) -> Link:
        """Begin to connect to an address, or to the member whose data directory this is.

        Args:
            target: a url, or a path.
            attempt: counts the attempts to reach it: it may have several addresses, which are tried in turn.

        Raises:
            ConnectionError, ValueError: that is not possible; the text says why.
        """

    def poll(self, timeout: float) -> list[tuple[Link, list[bytes], Exception | None]]:
        """Wait for at most ``timeout`` seconds; return the frames that arrived on each connection, and the error that ended it."""

    def wake(self) -> None:
        """End the wait of ``poll``, or the next one; any thread, without waiting."""

    def close(self) -> None:
        """Close everything."""


@define(eq=False, repr=False)
class Line:
    """A connection in use.

    Args:
        link: what carries it.
        target: where it leads.
        begun_at: when it was begun, in seconds.
    """

    link: Link
    target: Target
    begun_at: float
    heard_at: float = field(init=False)
    """When the connection moved on last: a large frame takes its time, in either direction."""
    revision: int = field(default=0, init=False)
    """The newest one that the member is known to have."""
    closed: bool = field(default=False, init=False)
    _numbers: count[int] = field(factory=lambda: count(1), init=False)
    _asked: dict[int, tuple[_Kind, Callable[[Any], object]]] = field(factory=dict, init=False)  # what answers it, and for whom
    _out: list[bytes] = field(factory=list, init=False)
    _assembly: Assembly = field(factory=Assembly, init=False)
    _received: int = field(default=0, init=False)  # frames
    _told: int = field(default=0, init=False)  # of them, those whose receipt was acknowledged
    _untold: int = field(default=0, init=False)  # bytes of the others

    def __attrs_post_init__(self) -> None:
        self.heard_at = self.begun_at

    @property
    def is_full(self) -> bool:
        """Whether the member takes nothing in, so that it is better to wait."""
        return self.link.waiting > _WAITING_MAX

    def ask(self, make: Callable[[int], Request], then: Callable[[Any], object]) -> int:
        """Send a request with the next ``flush``.

        Args:
            make: builds it, given its number.
            then: what to do with the reply.

        Returns:
            Its number.

        Raises:
            TooLarge: no member would read it; nothing is sent.
        """
        number = next(self._numbers)
        letter = make(number)
        packed = letters.encode_letter(letter)
        if len(packed) > COMMAND_MAX and not isinstance(letter, Batch):  # commands were looked at when they were packed
            raise TooLarge(f"a question of {len(packed)} bytes; at most {COMMAND_MAX} fit")
        self._out.append(packed)
        self._asked[number] = _REPLIES[type(letter)], then
        return number

    def cancel(self, number: int) -> None:
        """Have a request forgotten, unless it was answered."""
        if self._asked.pop(number, None) is not None:
            self._assembly.forget(number)
            self._out.append(letters.encode_letter(Cancel(number)))

    def receive(self, frames: Iterable[bytes], now: float) -> None:
        """Take frames in, perhaps none since the next one is still on its way, and hand each reply to who waits for it.

        Raises:
            DecodeError: what came is not what a member sends.
        """
        self.heard_at = now
        for data in frames:
            frame = letters.decode_replies(data)
            self._received += 1
            self._untold += len(data)
            self.revision = max(self.revision, frame.seen)
            for letter in frame.letters:
                if self.closed:
                    return  # one of the replies made its receiver go elsewhere
                self._deliver(letter)

    def _deliver(self, letter: Any) -> None:
        if letter.number not in self._asked:
            return  # cancelled, when the reply was on its way
        reply = self._assembly.add(letter) if isinstance(letter, Part) else letter
        if reply is None:
            return
        kind, then = self._asked.pop(reply.number)
        if not isinstance(reply, kind) and not isinstance(reply, Failed):
            raise DecodeError(f"a reply of the wrong kind, {type(reply).__name__}")
        then(reply)

    def flush(self) -> None:
        """Send what there is to say, and acknowledge what was taken in.

        Raises:
            ConnectionError: the connection is lost.
        """
        if not self._out and self._received - self._told < SEEN_EVERY and self._untold < SEEN_BYTES:
            return
        out, self._out = self._out, []
        for part in _in_frames(out):
            self.link.send(letters.encode_frame(self._received, part))
        self._told, self._untold = self._received, 0

    def close(self) -> None:
        """Close it; nobody gets a reply any more."""
        self.closed = True
        self._asked.clear()
        self.link.close()


def _in_frames(out: list[bytes]) -> Iterator[list[bytes]]:
    """Yield packed letters by the frame, at least one, which may be empty."""
    first, size = 0, 0
    for place, letter in enumerate(out):
        if place > first and (size + len(letter) > _FRAME_BYTES or place - first == LETTERS_MAX):
            yield out[first:place]
            first, size = place, 0
        size += len(letter)
    yield out[first:]


def reason_of(error: Exception) -> str:
    """Return what went wrong with a connection, without saying where: that is said beside it."""
    text = str(error) or type(error).__name__
    return text.partition(": ")[2] or text if isinstance(error, ConnectionError) else text
