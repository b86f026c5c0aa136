"""When history is compacted by itself, and how fast what is compacted is removed.

The leader decides by what ``Settings`` say and proposes a compaction like anybody else, so that all members compact alike.  Removing runs
beside everything else in short slices, on every member at its own pace.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from attrs import define, field

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from replkv.config import Settings
    from replkv.kv import Store
    from replkv.machine import Machine

SAMPLES = 16
"""How many points in time are remembered within ``Settings.compact_age``."""

ALMOST_FULL = 0.9
"""From this share of ``Settings.max_bytes`` on history makes room for what is alive."""

SCRUB_SLICE = 0.001
SCRUB_PAUSE = 0.004
"""Seconds of removing, and of leaving the thread to others: a fifth of it at most."""


@define(eq=False, repr=False)
class Compactor:
    """Tells up to which revision history should go.

    Args:
        settings: of the cluster.
    """

    settings: Settings
    _samples: deque[tuple[int, int]] = field(factory=lambda: deque(maxlen=SAMPLES + 2), init=False)  # cluster time, revision then

    def note(self, time: int, revision: int) -> None:
        """Remember which revision the store had at a cluster time, often enough to tell what is too old."""
        step = self.settings.compact_age * 1e6 / SAMPLES
        if step and (not self._samples or time - self._samples[-1][0] >= step):
            self._samples.append((time, revision))

    def target(self, machine: Machine, time: int) -> int | None:
        """Return the revision to compact at, None if nothing has to go."""
        store = machine.store
        target = max(self._too_old(time), self._too_many(store), self._too_large(store), self._too_full(machine))
        return target if store.compacted < target <= store.revision else None

    def _too_old(self, time: int) -> int:
        """Return the newest revision known to be older than ``compact_age``."""
        before = time - self.settings.compact_age * 1e6
        while len(self._samples) > 1 and self._samples[1][0] <= before:
            self._samples.popleft()
        return self._samples[0][1] if self._samples and self._samples[0][0] <= before else 0

    def _too_many(self, store: Store) -> int:
        """Keep ``compact_revisions``, and let a tenth more come together before something is done."""
        kept = self.settings.compact_revisions
        return store.revision - kept if kept and store.revision - store.compacted > kept + kept // 10 else 0

    def _too_large(self, store: Store) -> int:
        """Leave half of ``compact_bytes`` once it is reached, supposing that all revisions are about equally large."""
        history, most = store.size - store.live, self.settings.compact_bytes
        if not most or history <= most:
            return 0
        return store.revision - (store.revision - store.compacted) * most // (2 * history)

    def _too_full(self, machine: Machine) -> int:
        """Let all history go where it takes the room that new values need; not where nothing is to be compacted by itself."""
        settings, store = self.settings, machine.store
        if not (settings.compact_age or settings.compact_revisions or settings.compact_bytes):
            return 0
        full = machine.size > ALMOST_FULL * settings.max_bytes
        return store.revision if full and 2 * (store.size - store.live) > settings.max_bytes - machine.size else 0


@define(eq=False, repr=False)
class Scrubbing:
    """Removes what is compacted in short slices.

    Args:
        clock: seconds.
    """

    clock: Callable[[], float]
    next_at: float = field(default=0.0, init=False)
    _store: Store | None = field(default=None, init=False)
    _steps: Generator[None, None, None] | None = field(default=None, init=False)

    def go_on(self, store: Store) -> None:
        """Work for a slice, if it is time; between two commands, and while nobody dumps the store."""
        if self.clock() < self.next_at:
            return
        if self._steps is None or self._store is not store:
            self._store, self._steps = store, store.scrub()
        until = self.clock() + SCRUB_SLICE
        for _ in self._steps:
            if self.clock() >= until:
                break
        else:
            self._store = self._steps = None
        self.next_at = self.clock() + SCRUB_PAUSE
