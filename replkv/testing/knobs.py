"""Sizes that the product fixes and the simulator turns down: with a slice of one key everything happens between two slices.

None of them may change what the cluster promises; all members of a run share them.
"""

from __future__ import annotations

from contextlib import contextmanager
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import random
    from collections.abc import Iterator, Mapping

KNOBS: Mapping[str, tuple[float, ...]] = {
    "node.APPLY_SLICE": (-1.0,),
    "leadership.APPEND_BYTES": (1, 300),
    "raftlog.RUN_ENTRIES": (1, 3),
    "progress.INFLIGHT": (1, 2),
    "progress.WINDOW": (1, 16),
    "proposals.IN_FLIGHT": (1, 10),
    "proposals.OWN_IN_FLIGHT": (1,),
    "proposals.BATCH_COMMANDS": (1, 3),
    "session.KEPT_MAX": (10, 300),
    "kv.SLICE": (1, 3),
    "kv.SORT_RUN": (1, 2),
    "kv.FEW": (0, 1),
    "txn.SLICE": (1,),
    "txn.EXPIRIES": (1, 2),
    "txn.EXPIRED_KEYS": (1, 3),
    "machine.SLICE": (1,),
    "machine.CHUNK_MAX": (100, 3000),
    "machine._PART": (1, 500),
    "snapshot._SYNC_EVERY": (1,),
    "snapshotting.CHUNK": (400, 4000),
    "watch.STEP": (1, 3),
    "membership.CAUGHT_UP": (1, 8),
    "watch.PUBLISHED_STEP": (1, 3),
    "compaction.SAMPLES": (2,),
    "compaction.SCRUB_SLICE": (0.0,),
    "compaction.SCRUB_PAUSE": (0.0, 0.03),
    "verification.EVERY": (1, 7),
    "verification.FULL_EVERY": (1_000_000,),
}
LATER: Mapping[str, tuple[float, ...]] = {"snapshotting.LARGE": (0, 1000), "entries.RUN": (1, 4), "node.AHEAD": (1, 3)}
"""What came later, and is drawn apart: seeds that were run before draw the rest as they did."""
CHEAP: Mapping[str, float] = {"passwords.LOG2_N": 1}
"""What is always turned: slow on purpose."""
ALIASES = {
    "progress.INFLIGHT": ("testing.raft_check.INFLIGHT",),
    "progress.WINDOW": ("raft.WINDOW",),
    "verification.EVERY": ("upkeep.EVERY",),
    "verification.FULL_EVERY": ("upkeep.FULL_EVERY",),
    "watch.STEP": ("watch.Cursor.read.__defaults__",),
}
"""Where another module holds the same number under its own name, or a function as what it takes by default."""


def draw_knobs(rng: random.Random, apart: random.Random) -> dict[str, float]:
    """Choose some of the knobs, and what to turn them to."""
    return {**_drawn(KNOBS, rng), **_drawn(LATER, apart)}


def _drawn(knobs: Mapping[str, tuple[float, ...]], rng: random.Random) -> dict[str, float]:
    return {knob: rng.choice(values) for knob, values in knobs.items() if rng.random() < 0.3}


@contextmanager
def turned(knobs: Mapping[str, float]) -> Iterator[None]:
    """Turn knobs, and turn them back at the end.

    Raises:
        AttributeError: there is no such knob.
    """
    everywhere = {name: value for knob, value in (*CHEAP.items(), *knobs.items()) for name in (knob, *ALIASES.get(knob, ()))}
    before = {name: getattr(*_place(name)) for name in everywhere}
    try:
        for name, value in everywhere.items():
            setattr(*_place(name), (value,) if isinstance(before[name], tuple) else value)
        yield
    finally:
        for name, value in before.items():
            setattr(*_place(name), value)


def _place(name: str) -> tuple[object, str]:
    module, *path, constant = name.split(".")
    owner: object = import_module(f"replkv.{module}")
    for part in path:
        owner = getattr(owner, part)
    return owner, constant
