"""What the machine allows: a sync, a round trip between two processes, a look-up; ``python -m benchmarks.bounds URL`` is its other end."""

from __future__ import annotations

import math
import os
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from attrs import asdict, frozen

from benchmarks.peer import new_directory
from benchmarks.workloads import KEYS, drive_sequential, key, make_values
from replkv import KeyValue
from replkv.transport import Answered, Arrived, LinkUp, NngTransport

TIMES = 500
BLOCK = 4096
PREALLOCATED = 8 << 20
PAUSE = 0.001
"""Seconds between two round trips: caches and cores go cold, as they do between two puts."""

PATIENCE = 10.0
LOOK_UPS = 50_000


@frozen
class Bounds:
    """Medians, in microseconds.

    Args:
        sync_us: a block written into a file of zeros, and an fdatasync.
        round_trip_us: a frame to another process and back over nng, one in a millisecond.
        look_up_us: a key in a dict, and a KeyValue made of what is found.
        driver_us: what measuring one operation takes itself.
    """

    sync_us: float
    round_trip_us: float
    look_up_us: float
    driver_us: float

    @classmethod
    def unknown(cls) -> Bounds:
        """Return those that were not measured."""
        return cls(math.nan, math.nan, math.nan, math.nan)

    def known(self, name: str) -> float:
        """Return one of them.

        Raises:
            LookupError: it was not measured.
        """
        figure = float(getattr(self, name))
        if math.isnan(figure):
            raise LookupError(name)
        return figure

    def __str__(self) -> str:
        return (
            f"The machine meanwhile: a sync {self.sync_us:.0f} µs, a cold round trip over nng {self.round_trip_us:.0f} µs, a look-up in "
            f"a dict with its KeyValue {self.look_up_us:.2f} µs."
        )


def middle(bounds: Sequence[Bounds]) -> Bounds | None:
    """Return the medians of several; None of none."""
    rows = [asdict(one) for one in bounds]
    return Bounds(**{name: statistics.median(row[name] for row in rows) for name in rows[0]}) if rows else None


def measure(base: Path) -> Bounds:
    """Measure all of them, with files below ``base``."""
    driver = _p50(LOOK_UPS, lambda _: None)
    return Bounds(sync(base), round_trip(), look_up() - driver, driver)


def _p50(count: int, operation: Callable[[int], object]) -> float:
    latencies, _ = drive_sequential(count, operation)
    return statistics.median(latencies) * 1e6


def sync(base: Path) -> float:
    """Return the microseconds of one write and fdatasync into a file that was made before."""
    directory = new_directory(base, "sync")
    path = directory / "file"
    block = os.urandom(BLOCK)
    try:
        with path.open("wb") as file:
            file.write(bytes(PREALLOCATED))
            file.flush()
            os.fsync(file.fileno())

            def write(number: int) -> None:
                os.pwrite(file.fileno(), block, number * BLOCK % PREALLOCATED)
                os.fdatasync(file.fileno())

            return _p50(TIMES, write)
    finally:
        path.unlink(missing_ok=True)
        directory.rmdir()


def look_up() -> float:
    """Return the microseconds of a look-up, measuring included."""
    values = make_values()
    table = {key(number): (key(number), values[number % len(values)], number, number, 1, 0) for number in range(KEYS)}
    one = key(5)
    return _p50(LOOK_UPS, lambda _: KeyValue(*table[one]))


def round_trip() -> float:
    """Return the microseconds of a round trip over the transport that members use."""
    other = subprocess.Popen([sys.executable, "-m", "benchmarks.bounds"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    transport = NngTransport()
    try:
        transport.dial("other", other.stdout.readline().strip() if other.stdout else "")
        _until(transport, LinkUp)
        times = []
        for _ in range(TIMES):
            time.sleep(PAUSE)  # so that it is a cold one
            begun = time.perf_counter()
            transport.send("other", bytes(300))
            _until(transport, Answered)
            times.append(time.perf_counter() - begun)
        return statistics.median(times) * 1e6
    finally:
        transport.close()
        if other.stdin and other.stdout:
            other.stdin.close()
            other.wait(PATIENCE)
            other.stdout.close()


def _until(transport: NngTransport, kind: type) -> None:
    deadline = time.monotonic() + PATIENCE
    while not any(isinstance(event, kind) for event in transport.poll(1.0)):
        if time.monotonic() > deadline:
            raise TimeoutError("the other process does not answer")


def main() -> None:
    """Send every frame back until stdin ends."""
    transport, ended = NngTransport(), threading.Event()

    def wait() -> None:
        sys.stdin.read()
        ended.set()
        transport.wake()

    print(transport.listen("tcp://127.0.0.1:0"), flush=True)
    threading.Thread(target=wait, daemon=True).start()
    while not ended.is_set():
        for event in transport.poll(PATIENCE):
            if isinstance(event, Arrived):
                transport.reply(event.pipe, event.frame)
    transport.close()


if __name__ == "__main__":
    main()
