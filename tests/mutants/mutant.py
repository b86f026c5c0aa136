"""What a seeded bug is: a few lines that break the real code while a test runs, and where such a bug was met before."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import pytest
from attrs import frozen

Patch = pytest.MonkeyPatch
Break: TypeAlias = Callable[[Patch], None]

SIMULATOR, SEARCH = "simulator", "search"


@frozen
class Mutant:
    """One bug.

    Args:
        number: its place in the catalogue.
        apply: breaks the code; named for what is wrong then.
        source: where such a bug was met; empty: it was made up.
        profile: where the search finds it, see ``replkv.testing.search``; empty: nowhere.
        slow: the simulator needs more than some dozen seeds.
    """

    number: int
    apply: Break
    source: str
    profile: str
    slow: bool

    @property
    def label(self) -> str:
        return f"M{self.number:02d}"

    @property
    def text(self) -> str:
        """What is wrong, as a sentence."""
        sentence = self.apply.__name__.replace("_", " ")
        return sentence[0].upper() + sentence[1:]

    @property
    def lanes(self) -> tuple[str, ...]:
        """Who is to find it, in the order in which they are tried."""
        if not self.profile:
            return (SIMULATOR,)
        return (SEARCH, SIMULATOR) if self.slow else (SIMULATOR, SEARCH)


MUTANTS: list[Mutant] = []
"""All that were defined so far; ``catalogue.py`` has them complete and in order."""


def mutant(number: int, source: str = "", *, profile: str = "", slow: bool = False) -> Callable[[Break], Break]:
    """Add a function that breaks the code to the catalogue."""

    def add(apply: Break) -> Break:
        MUTANTS.append(Mutant(number, apply, source, profile, slow))
        return apply

    return add
