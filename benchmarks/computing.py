"""Threads that only compute, beside a member in its process."""

from __future__ import annotations

import threading


class Computing:
    """Threads that never wait for anything, until there are to be others."""

    def __init__(self) -> None:
        self._ended = threading.Event()
        self._threads: list[threading.Thread] = []

    def have(self, threads: int) -> None:
        """Have so many compute from now on."""
        self._ended.set()
        for thread in self._threads:
            thread.join()
        self._ended = threading.Event()
        self._threads = [threading.Thread(target=_compute, args=(self._ended,), daemon=True) for _ in range(threads)]
        for thread in self._threads:
            thread.start()


def _compute(ended: threading.Event) -> None:
    number = 1
    while not ended.is_set():
        for _ in range(10_000):
            number = number * 1_103_515_245 + 12_345 & 0x7FFF_FFFF
