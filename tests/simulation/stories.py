"""Hand-made runs: a committed log and what clients saw, told step by step."""

from __future__ import annotations

from attrs import define, field

from replkv import codec
from replkv.messages import EntryKind
from replkv.ops import Add, Delete, Get, Put, Raw, Scan, Txn
from replkv.testing.checker import Witness, check
from replkv.testing.history import Consistency, History, Operation

SESSION = 2 << 16
"""What the first entry behind the founding one opens."""


@define
class Story:
    """Clients call and return while a log grows beside them."""

    session_ttl: int | None = None
    history: History = field(factory=History)
    witness: Witness = field(init=False)
    time: int = 0
    sequence: int = 0

    def __attrs_post_init__(self) -> None:
        self.witness = Witness(self.session_ttl)
        self.witness.apply(codec.make_entry(1, 1, EntryKind.FOUNDING, 0, b""))
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
        commands = [codec.pack(operation.wire) for operation in operations]
        self.block(codec.pack_batch(session, sequence or self.sequence, lowest, commands))

    # -- clients ------------------------------------------------------------------------------------------------------------------------

    def writes(self, operation: Put | Delete | Add | Txn, where: str = "a/1") -> Operation:
        return self.history.call(where, Consistency.WRITE, operation.to_wire())

    def reads(self, operation: Get | Scan | Txn, where: str = "a/1", consistency: Consistency = Consistency.LINEARIZABLE) -> Operation:
        return self.history.call(where, consistency, operation.to_wire())

    def peeks(self, operation: Get | Scan | Txn, where: str = "a/1") -> Operation:
        return self.reads(operation, where, Consistency.LOCAL)

    def returns(self, operation: Operation, answer: Raw, revision: int = 0) -> None:
        self.history.answered(operation, answer, revision)

    def acknowledged(self, operation: Operation) -> None:
        """A write returns with the answer that the log gives it."""
        self.returns(operation, self.witness.executed[operation.wire][1])

    def served(self, operation: Operation, revision: int) -> None:
        """A read returns with what is right at a revision."""
        self.returns(operation, self.witness.model.read(operation.wire, revision), revision)

    def wrote(self, operation: Put | Delete | Add | Txn, where: str = "a/1") -> Operation:
        """A write is called, logged and acknowledged."""
        made = self.writes(operation, where)
        self.logged(made)
        self.acknowledged(made)
        return made

    def check(self) -> None:
        check(self.history, self.witness)
