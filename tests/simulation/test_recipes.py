"""Recipes keep their promises under faults, and the judge of that would notice if they did not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import recipes_at_work
from recipes_at_work import Game, locks, rwlocks, semaphores

from replkv import keeper, wire
from replkv.recipes import semaphore
from replkv.recipes.holding import Holding
from replkv.recipes.line import Line
from replkv.recipes.rwlock import _RWLock
from replkv.txn import Writer


@pytest.mark.parametrize("seed", range(1, 9))
def test_locks_are_exclusive_fair_and_free_again_after_faults(seed: int) -> None:
    assert recipes_at_work.play(seed, locks).sights["taken"] >= 30


@pytest.mark.parametrize("ask", [semaphores, rwlocks])
@pytest.mark.parametrize("seed", range(1, 5))
def test_what_several_hold_is_never_more_than_there_is_and_is_free_again_after_faults(ask: Game, seed: int) -> None:
    sights = recipes_at_work.play(seed, ask).sights
    assert sights["taken"] >= 30
    assert sights["together"] > 0


def _believe_too_long(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(keeper, "MARGIN", 1.6)


def _go_ahead_of_the_line(patch: pytest.MonkeyPatch) -> None:
    async def at_once(*_: Any) -> bool:
        return True

    patch.setattr(Line, "_reach_front", at_once)


def _never_notice_a_loss(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Holding, "is_lost", property(lambda _: False))


def _let_every_guarded_write_pass(patch: pytest.MonkeyPatch) -> None:
    patch.setitem(Writer.operations, wire.GUARD, lambda writer, packed: writer.begin(packed[3]))


def _give_out_one_permit_more(patch: pytest.MonkeyPatch) -> None:
    numbers = semaphore._numbers
    patch.setattr(semaphore, "_numbers", lambda found: tuple(number + 1 for number in numbers(found)))


def _let_writers_wait_for_writers_only(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(_RWLock, "_writer", lambda self: self._side("writer", b"write/", b"write/"))


def _let_readers_wait_for_nobody(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(_RWLock, "_reader", lambda self: self._side("reader", b"read/", b"nobody/"))


@pytest.mark.parametrize(
    ("ask", "bug", "rule"),
    [
        (locks, _believe_too_long, "K1"),
        (locks, _go_ahead_of_the_line, "K1"),
        (locks, _never_notice_a_loss, "K5|K1"),
        (locks, _let_every_guarded_write_pass, "K3"),
        (semaphores, _give_out_one_permit_more, "K4"),
        (semaphores, _believe_too_long, "K4"),
        (rwlocks, _let_writers_wait_for_writers_only, "K4"),
        (rwlocks, _let_readers_wait_for_nobody, "K4"),
        (rwlocks, _believe_too_long, "K4"),
    ],
)
def test_a_seeded_bug_in_recipes_is_found(
    ask: Game, bug: Callable[[pytest.MonkeyPatch], None], rule: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    bug(monkeypatch)
    with pytest.raises(recipes_at_work.Unsound, match=rule):
        for seed in range(1, 40):
            recipes_at_work.play(seed, ask)
