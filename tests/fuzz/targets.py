"""Every reader of bytes that come from others or from the disk, as one table."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import forms
import mutation
import readers

from replkv import codec, letters
from replkv.errors import Corrupt, Incompatible, WrongCluster
from replkv.messages import EntryKind, HardState, Identity, Position
from replkv.typedcodec import typed
from replkv.valuecodec import JSON, MSGPACK, TEXT, Codec, Undecodable
from replkv.wal_format import Head, RecordKind, decode_head, encode_head, encode_record

Errors = tuple[type[Exception], ...]

MALFORMED: Errors = (codec.DecodeError,)
ROTTEN: Errors = (Corrupt, Incompatible)


def _nowhere(_: bytes) -> Sequence[int]:
    return ()


class Target(NamedTuple):
    """One reader: it takes bytes, or raises one of the errors that are meant for it; nothing else, whatever the bytes.

    Attributes:
        read: takes bytes.
        refuses: the errors it may raise.
        prove: checks what was read, given the bytes.
        seeds: bytes that it takes.
        seals: repairs of checksums and lengths after a change, each tried besides the bare bytes.
        values_at: where msgpack values stand in the bytes.
        size: how many bytes count for the budget: compressed ones as many as they claim to hold.
    """

    read: Callable[[bytes], Any]
    refuses: Errors
    prove: Callable[[Any, bytes], None]
    seeds: Callable[[], Sequence[bytes]]
    seals: tuple[Callable[[bytes], bytes], ...] = ()
    values_at: Callable[[bytes], Sequence[int]] = _nowhere
    size: Callable[[bytes], int] = len

    def attempt(self, data: bytes) -> str:
        """Read bytes, prove what was read, and return in a few words how it ended."""
        try:
            value = self.read(data)
        except self.refuses as error:
            return _in_words(error)
        self.prove(value, data)
        return "taken"

    def only_read(self, data: bytes) -> None:
        """Read bytes, for the cost of it."""
        try:
            self.read(data)
        except self.refuses:
            return

    def variants(self, data: bytes) -> Iterator[bytes]:
        """Yield the bytes themselves, and with their checksums repaired."""
        yield data
        for seal in self.seals:
            yield seal(data)

    def mutant(self, rng: random.Random, data: bytes, others: Sequence[bytes]) -> bytes:
        """Change bytes a little."""
        return mutation.mutate(rng, data, others, self.values_at(data))


def _in_words(error: BaseException) -> str:
    """Return what an error says, without what differs from case to case: numbers, and what is quoted."""
    return " ".join([type(error).__name__, *(word for word in str(error).split() if word.isalpha())][:12])


def _at(place: int) -> Callable[[bytes], Sequence[int]]:
    return lambda _: (place,)


def _in_letter(data: bytes) -> Sequence[int]:
    """Return where the bulk and the head of the first letter stand, as far as there is one."""
    head = mutation.LETTER_AT
    return (mutation.value_end(data, head), head) if len(data) > head else ()


def _size_of_block(payload: bytes) -> int:
    return max(len(payload), readers.declared(payload[1:]))


def _seal_two(data: bytes) -> bytes:
    half = readers.half_of(data)
    return mutation.seal_sectors(data[:half]) + mutation.seal_sectors(data[half:])


def _of_codec(chosen: Codec[Any], *seeds: object, values_at: Callable[[bytes], Sequence[int]] = _nowhere) -> Target:
    return Target(chosen.decode, (Undecodable,), readers.prover(chosen), lambda: [chosen.encode(seed) for seed in seeds], (), values_at)


def _blocks() -> list[bytes]:
    return [entry.payload for entry in forms.entries() if entry.kind is EntryKind.BLOCK]


def _lists_of_batches() -> list[bytes]:
    return [b"\x90", *(b"\x91" + batch for batch in forms.batches())]


def _pointers() -> list[bytes]:
    return [codec.pack(forms.snapshot()[0].to_wire())]


def _heads() -> list[bytes]:
    return [encode_head(Head(forms.SEGMENT, Identity("a", 7), 5, forms.entries()[0].encoded, forms.snapshot()[0]))]


def _flushes() -> list[bytes]:
    entries = [encode_record(RecordKind.ENTRY, entry.encoded) for entry in forms.entries()]
    pointer = codec.pack(forms.snapshot()[0].to_wire())
    taken, installed = (encode_record(kind, pointer) for kind in (RecordKind.SNAPSHOT_TAKEN, RecordKind.SNAPSHOT_INSTALLED))
    flush, voted = readers.flush_of, HardState(2)
    return [
        flush(HardState(1), Position(1, 1), entries[0]),
        flush(voted, Position(2, 5), *entries),
        flush(voted, Position(2, 5), *entries, taken),
        flush(voted, Position(2, 5), installed),
        flush(voted, Position(2, 5), *entries[:4], installed),
    ]


_PLAIN: dict[str, Any] = {"a": [1, -2.5, None, True, "ä"], "b": {"c": []}}
_MIXED: dict[Any, Any] = {**_PLAIN, 1: b"raw", None: 1 << 63}
_EVERYTHING = readers.Everything((1,), 0.5, frozenset("ab"), b"raw", {"p": (1, None)}, readers.Everything(), [{}])
_SEALED = (mutation.seal_snapshot,)
_SEALED_LETTERS = (mutation.seal_letters, mutation.seal_letter)

TARGETS: dict[str, Target] = {
    "frame": Target(
        codec.decode_frame,
        MALFORMED,
        readers.prove_frame,
        forms.frames,
        (mutation.seal_frame, mutation.seal_head),
        _at(mutation.HEAD_AT),
    ),
    "request": Target(letters.decode_requests, MALFORMED, readers.prove_requests, forms.requests, _SEALED_LETTERS, _in_letter),
    "reply": Target(letters.decode_replies, MALFORMED, readers.prove_replies, forms.replies, _SEALED_LETTERS, _in_letter),
    "entry": Target(codec.decode_entry, MALFORMED, readers.prove_entry, lambda: [entry.encoded for entry in forms.entries()]),
    "batch": Target(readers.read_batch, MALFORMED, readers.prove_batch, forms.batches, values_at=_at(0)),
    "block": Target(codec.decode_block, MALFORMED, readers.prove_block, _blocks, values_at=_at(1), size=_size_of_block),
    "packed-block": Target(readers.read_packed_block, MALFORMED, readers.prove_block, _lists_of_batches, values_at=_at(0)),
    "founding": Target(codec.decode_founding, MALFORMED, readers.prove_founding, lambda: [forms.entries()[0].payload], values_at=_at(0)),
    "configuration": Target(
        codec.decode_configuration,
        MALFORMED,
        readers.prove_configuration,
        lambda: [codec.encode_configuration(forms.CONFIGURATION)],
        values_at=_at(0),
    ),
    "state": Target(
        readers.read_state,
        (codec.DecodeError, Incompatible),
        readers.prove_state,
        lambda: [forms.dump()],
        (mutation.seal_parts,),
        mutation.part_starts,
    ),
    "snapshot": Target(
        readers.read_snapshot_file,
        ROTTEN,
        readers.prove_snapshot,
        lambda: [forms.snapshot()[1]],
        _SEALED,
        _at(16),
        readers.size_of_snapshot,
    ),
    "received": Target(readers.receive, ROTTEN, lambda *_: None, lambda: [forms.snapshot()[1]], _SEALED, _at(16)),
    "pointer": Target(readers.read_pointer, MALFORMED, readers.prove_pointer, _pointers, values_at=_at(0)),
    "head": Target(decode_head, MALFORMED, readers.prove_head, _heads, values_at=_at(8)),
    "log": Target(readers.open_log, (*ROTTEN, WrongCluster), readers.prove_log, lambda: readers.segments()[:1], (mutation.seal_sectors,)),
    "log-of-two": Target(
        readers.open_two, (*ROTTEN, WrongCluster), readers.prove_log, lambda: [b"".join(readers.segments())], (_seal_two,)
    ),
    "records": Target(readers.open_records, (*ROTTEN, WrongCluster), readers.prove_log, _flushes, (), readers.record_starts),
    "text": _of_codec(TEXT, "ä"),
    "json": _of_codec(JSON, _PLAIN),
    "msgpack": _of_codec(MSGPACK, _MIXED, values_at=_at(0)),
    "typed": _of_codec(typed(readers.Everything), _EVERYTHING),
}
