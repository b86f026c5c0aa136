"""strace on the thread of a member that writes and syncs its log: a sync that fails or takes seconds, a write that leaves a hole."""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from typing import Self

from cluster import eventually

PATIENCE = 20.0  # s for strace to begin or to end; it takes a fraction of one


FAILS = {"fdatasync": "error=EIO:when=1"}
"""A sync fails, and those behind it would succeed."""
HANGS = {"fdatasync": "delay_enter=20000000:when=1"}
"""A sync takes twenty seconds, or until the tracer is closed."""
TEARS = {"pwrite64": "retval=512:when=1", "fdatasync": "signal=KILL:when=1"}
"""The first sector of a flush is not written, and the process dies before it can sync: what a loss of power may leave."""


class Tracer:
    """Injects faults into the system calls of one thread, until it is closed; use it with ``with``, or close it.

    Args:
        thread: the system's number of it.
        faults: what to do to which calls, as strace's inject= takes it.
    """

    def __init__(self, thread: int, faults: Mapping[str, str]) -> None:
        self._last = list(faults)[-1]
        options = [option for call, fault in faults.items() for option in ("-e", f"inject={call}:{fault}")]
        self._log = tempfile.TemporaryFile("w+")  # noqa: SIM115  # close() does
        self._process = subprocess.Popen(
            ["strace", "-p", str(thread), "-e", "signal=none", "-e", f"trace={','.join(faults)}", *options],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=self._log,
            start_new_session=True,
        )
        try:
            eventually(lambda: "attached" in self.said() or self._process.poll() is not None, PATIENCE)
            assert "attached" in self.said(), self.said()
        except BaseException:
            self.close()
            raise

    def said(self) -> str:
        """Return what strace has written so far."""
        self._log.flush()
        return os.pread(self._log.fileno(), 1 << 20, 0).decode()

    @property
    def hit(self) -> bool:
        """Whether the thread has met the last of the faults."""
        return f"{self._last}(" in self.said()

    def close(self) -> None:
        """Let the thread go on without it."""
        self._process.terminate()
        try:
            self._process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(PATIENCE)
        self._log.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@functools.cache
def why_no_tracer() -> str:
    """Return why no process can be traced here, "" where it can."""
    if shutil.which("strace") is None:
        return "strace not found"
    patient = subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE)
    try:
        with Tracer(patient.pid, FAILS):
            return ""
    except AssertionError as error:
        return f"strace does not work: {str(error).strip()}"
    finally:
        patient.communicate(timeout=PATIENCE)
