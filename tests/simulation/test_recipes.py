"""Recipes keep their promises under faults, and the judge of that would notice if they did not."""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Any

import pytest
import recipes_at_work

from replkv import keeper, wire
from replkv.recipes.holding import Holding
from replkv.recipes.line import Line
from replkv.txn import Writer


@pytest.mark.parametrize("seed", range(1, 13))
def test_locks_are_exclusive_fair_and_free_again_after_faults(seed: int) -> None:
    assert recipes_at_work.play(seed).sights["taken"] >= 30


def _believe_too_long(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(keeper, "MARGIN", 1.6)


def _go_ahead_of_the_line(patch: pytest.MonkeyPatch) -> None:
    async def at_once(*_: Any) -> bool:
        return True

    patch.setattr(Line, "_reach_front", at_once)


def _never_notice_a_loss(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Holding, "is_lost", property(lambda _: False))


def _let_every_guarded_write_pass(patch: pytest.MonkeyPatch) -> None:
    def execute(self: Writer, packed: Any) -> Generator[None, None, Any]:
        return (yield from self.execute(packed[3]))

    patch.setitem(Writer.sliced, wire.GUARD, execute)


@pytest.mark.parametrize(
    ("bug", "rule"),
    [(_believe_too_long, "K1"), (_go_ahead_of_the_line, "K1"), (_never_notice_a_loss, "K5|K1"), (_let_every_guarded_write_pass, "K3")],
)
def test_a_seeded_bug_in_locks_is_found(bug: Callable[[pytest.MonkeyPatch], None], rule: str, monkeypatch: pytest.MonkeyPatch) -> None:
    bug(monkeypatch)
    with pytest.raises(recipes_at_work.Unsound, match=rule):
        for seed in range(1, 40):
            recipes_at_work.play(seed)
