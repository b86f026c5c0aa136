"""A caller that can be asked whether it was answered."""

from __future__ import annotations

from typing import Self

from replkv import codec, ops
from replkv.proposals import Call


class Caller(Call):
    """A caller that counts how often it was answered."""

    __slots__ = ("finished",)

    def __init__(self, command: bytes | None = None) -> None:
        super().__init__(command)
        self.finished = 0

    @classmethod
    def of(cls, operation: ops.Packable[object]) -> Self:
        """Return a caller who asks for an operation."""
        return cls(codec.pack(operation.to_wire()))

    def finish(self) -> None:
        self.finished += 1
