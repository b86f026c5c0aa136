"""What a log should remember, and what may be left of that where its disk was damaged."""

from __future__ import annotations

from itertools import takewhile

from attrs import evolve, field, frozen

from replkv.codec import decode_entry
from replkv.messages import NOWHERE, UNKNOWN, HardState, Position
from replkv.snapshot import SnapshotFile


@frozen(repr=False)
class State:
    """What a log should remember; ``floor``: where it ended before a part of it was lost."""

    hard_state: HardState = HardState()
    founding: bytes = b""
    snapshot: SnapshotFile | None = None
    entries: tuple[bytes, ...] = ()  # all of them, those that a snapshot covers as b""
    floor: Position = NOWHERE

    def __repr__(self) -> str:
        terms = "".join(f" {index}@{decode_entry(raw).term}" if raw else " -" for index, raw in enumerate(self.entries, 1))
        return f"<{self.hard_state}, founding {len(self.founding)}, snapshot {self.covered}, entries{terms}, floor {self.floor}>"

    @property
    def covered(self) -> int:
        """Up to where a snapshot holds the entries."""
        return self.snapshot.meta.index if self.snapshot else 0

    @property
    def end(self) -> Position:
        """Where the log ends."""
        if len(self.entries) > self.covered:
            last = decode_entry(self.entries[-1])
            return Position(last.term, last.index)
        return Position(self.snapshot.meta.term, self.snapshot.meta.index) if self.snapshot else NOWHERE

    @property
    def visible(self) -> State:
        """What of it recovery should return."""
        return evolve(self, entries=(b"",) * self.covered + self.entries[self.covered :])


@frozen
class Harm:
    """What a damage can't have touched.

    ``intact``: the state that everything in front of it leads to; ``doubt``: it may have hit the newest flush, and nobody knows the end.
    """

    intact: State
    doubt: bool


@frozen
class Memory:
    """What the next life must find: what is ``durable`` surely, what is ``noted`` perhaps; None before the first flush.

    ``incarnation``: of the member, once it may have been told to others; ``harm``: what became of what was durable since, if anything;
    ``past``: all that was ever noted.
    """

    durable: State | None = None
    noted: State = State()
    incarnation: int | None = None
    harm: Harm | None = None
    past: tuple[State, ...] = field(default=(State(),), repr=False)

    @property
    def possible(self) -> list[State]:
        return [state for state in (self.noted, self.durable) if state is not None]

    def noting(self, state: State) -> Memory:
        """Remember what the log was told."""
        return evolve(self, noted=state, past=(*self.past, state))

    def after(self, found: State) -> Memory:
        """Remember what a recovery has found, which is durable from now on; it must be what was written, or what a damage can have left."""
        for state in self.possible:
            if state.visible == found:
                return evolve(self, durable=state, noted=state)
        assert self.harm is not None, f"found {found}, not one of {self.possible}"
        wrong = [whats_wrong(found, whole, self.harm, self.past) for whole in self.possible]
        assert "" in wrong, f"{found} can't be left of {self.possible}: {wrong}"
        return evolve(self.noting(found), durable=found, harm=None)


def whats_wrong(found: State, whole: State, harm: Harm, past: tuple[State, ...]) -> str:
    """Return why a state can't be left of a whole one that took harm; "" if it can.

    Nothing is invented, nothing is lost that the damage did not touch, and what was promised is known, or known to be lost.
    """
    if found.floor == UNKNOWN:
        promised = [state.hard_state for state in past if state.hard_state.term >= harm.intact.hard_state.term]
        known = harm.doubt and found.hard_state in promised
    else:
        known = found.hard_state == whole.hard_state and found.floor == max(whole.end, whole.floor)
    rules = {
        "it belongs to another cluster": found.founding == whole.founding,
        "the end or the vote is not what it was": known,
        "the log never looked like that": any(_is_beginning(found, state) for state in past),
        "it goes on behind its end": found.end.term <= found.floor.term and found.end.index <= found.floor.index,
        "what was intact is lost": _is_kept(harm.intact, found, whole),
    }
    return ", ".join(what for what, holds in rules.items() if not holds)


def _is_beginning(found: State, of: State) -> bool:
    """Tell whether a log held, at some time, all that was found."""
    return found.snapshot in (None, of.snapshot) and found.entries[found.covered :] == of.entries[found.covered : len(found.entries)]


def _is_kept(intact: State, found: State, whole: State) -> bool:
    """Tell whether what is intact was found, but for entries that were replaced later, and those behind a snapshot that others replaced."""
    if found.snapshot != intact.snapshot:
        return intact.snapshot != whole.snapshot
    pairs = zip(intact.entries, whole.entries, strict=False)
    kept = tuple(entry for entry, _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
    return found.entries[found.covered : len(kept)] == kept[found.covered :]
