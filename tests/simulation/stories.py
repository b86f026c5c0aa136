"""Hand-made runs: a committed log and what clients saw, told step by step."""

from __future__ import annotations

from typing import Any

from attrs import define, field

from replkv import codec
from replkv.config import Settings
from replkv.founding import founding_entry
from replkv.messages import EntryKind
from replkv.ops import Get, Packable, Scan, Txn
from replkv.proposals import Call
from replkv.testing.checker import Witness, check, effect_of
from replkv.testing.history import Consistency, History, Operation, Slot
from replkv.testing.model import Model
from replkv.wire import OK, Raw

SESSION = 2 << 16
"""What the first entry behind the founding one opens."""


@define
class Story:
    """Clients call and return while a log grows beside them."""

    session_ttl: int | None = None
    max_bytes: int = 1 << 31
    history: History = field(factory=History)
    witness: Witness = field(init=False)
    time: int = 0
    sequence: int = 0
    own: dict[Call, list[Slot]] = field(factory=dict)

    def __attrs_post_init__(self) -> None:
        self.witness = Witness(self.session_ttl, Model(self.max_bytes))
        self.witness.apply(founding_entry(b"c" * 16, {"a": 1}, {}, Settings()))
        self.opens()

    # -- the log ------------------------------------------------------------------------------------------------------------------------

    def opens(self) -> int:
        """A session is opened; return its number."""
        self.block(codec.pack_batch(0, 77, 0, ()))
        return self.witness.index << 16

    def block(self, *batches: bytes) -> None:
        payload = codec.encode_block(batches)
        self.witness.apply(codec.make_entry(self.witness.index + 1, 1, EntryKind.BLOCK, self.time, payload))

    def logged(self, *operations: Operation, session: int = SESSION, sequence: int | None = None, lowest: int = 0) -> None:
        """The log takes operations as one batch."""
        self.sequence += 1
        sequence = sequence or self.sequence
        for place, operation in enumerate(operations):
            operation.slots.append((session, sequence, place))
        self.block(codec.pack_batch(session, sequence, lowest, [codec.pack(operation.wire) for operation in operations]))

    def logs_own(self, operation: Packable[Any], answer: Raw | None = None) -> None:
        """The log takes a command of a member's own."""
        self.sequence += 1
        command = codec.pack(operation.to_wire())
        call = Call(command)
        slot = (SESSION, self.sequence, 0)
        self.own[call] = [slot]
        self.block(codec.pack_batch(*slot[:2], 0, [command]))
        call.answer = answer or self.witness.slots[slot][1].answer

    # -- clients ------------------------------------------------------------------------------------------------------------------------

    def writes(self, operation: Packable[Any], where: str = "a/1") -> Operation:
        return self.history.call(where, Consistency.WRITE, operation.to_wire())

    def reads(self, operation: Get | Scan | Txn, where: str = "a/1", consistency: Consistency = Consistency.LINEARIZABLE) -> Operation:
        return self.history.call(where, consistency, operation.to_wire())

    def peeks(self, operation: Get | Scan | Txn, where: str = "a/1") -> Operation:
        return self.reads(operation, where, Consistency.LOCAL)

    def returns(self, operation: Operation, answer: Raw, revision: int = 0, compacted: int = 0) -> None:
        self.history.answered(operation, answer, revision, compacted)

    def acknowledged(self, operation: Operation) -> None:
        """A write returns with the answer that the log gives it."""
        effect = effect_of(operation, self.witness)
        assert effect is not None
        status, *details = effect.answer
        self.returns(operation, effect.answer if status == OK else (status, "whatever the text says", *details))

    def served(self, operation: Operation, revision: int) -> None:
        """A read returns with what is right at a revision."""
        self.returns(operation, self.witness.model.read(operation.wire, revision), revision)

    def wrote(self, operation: Packable[Any], where: str = "a/1") -> Operation:
        """A write is called, logged and acknowledged."""
        made = self.writes(operation, where)
        self.logged(made)
        self.acknowledged(made)
        return made

    def check(self) -> None:
        check(self.history, self.witness, self.own)
