"""Forks members: Python takes half a second to import what one is made of, and hundreds of them are started.

What is forked is a process of its own, in a session of its own, with the program, the arguments and the environment that it would have been
started with.  Its working directory and its limits are those of the process that forks, which are those of the tests when it began.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import gc
import itertools
import json
import os
import select
import signal
import socket
import struct
import subprocess
import sys
import threading
import weakref
from pathlib import Path
from typing import Any, TextIO

NURSERIES = 3
"""Not one: sets are ordered otherwise in each, as in members that are started one by one."""
NUMBER = struct.Struct("i")
"""What is told of a member on a pipe of its own: the number of its process, and in the end its status."""
LOST = 255
"""The status of a member whose nursery has ended before it: nobody else is told it."""
LARGEST = 1 << 20  # bytes of an order


class Born:
    """A member's process, with as much of ``subprocess.Popen`` as is needed."""

    def __init__(self, stdin: TextIO, stdout: TextIO, told: int) -> None:
        self.stdin = stdin
        self.stdout = stdout
        self._told = self._closed_at_last(told)
        if not (number := os.read(told, NUMBER.size)):
            raise ChildProcessError("who forks members has ended; what it wrote to stderr tells why")
        (self.pid,) = NUMBER.unpack(number)
        self._handle: int | None = None  # a number may be another process's when this one has ended
        with contextlib.suppress(ProcessLookupError):
            self._handle = self._closed_at_last(os.pidfd_open(self.pid))
        self._status: int | None = None
        self._lock = threading.Lock()

    def _closed_at_last(self, descriptor: int) -> int:
        weakref.finalize(self, os.close, descriptor)
        return descriptor

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the end; return the status, a signal's as a negative number."""
        if self._status is None and not self._has_ended(timeout):
            raise subprocess.TimeoutExpired(f"the member with the process {self.pid}", timeout or 0.0)
        with self._lock:
            if self._status is None:
                told = os.read(self._told, NUMBER.size)
                (self._status,) = NUMBER.unpack(told) if told else (LOST,)
        return self._status

    def _has_ended(self, timeout: float | None) -> bool:
        news = select.poll()  # no select(): tests open thousands of connections
        news.register(self._told, select.POLLIN)
        return bool(news.poll(None if timeout is None else timeout * 1e3))

    def poll(self) -> int | None:
        """Return the status, None while it runs."""
        try:
            return self.wait(0)
        except subprocess.TimeoutExpired:
            return None

    def send_signal(self, number: int) -> None:
        """Send a signal, if it still runs."""
        if self._handle is not None:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._handle, number)

    def kill(self) -> None:
        """End it at once."""
        self.send_signal(signal.SIGKILL)


class Nursery:
    """A process that has imported a member's program and forks."""

    def __init__(self, program: Path, code: Path) -> None:
        self._orders, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-W", "error", __file__, str(theirs.fileno()), str(program)],
                env={**os.environ, "PYTHONPATH": str(code)},
                stdin=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                start_new_session=True,  # Ctrl-C is for the tests: they end it
            )
        atexit.register(self.close)

    def start(self, arguments: dict[str, Any], environment: dict[str, str], errors: TextIO) -> Born:
        """Begin the life of a member.

        Args:
            arguments: of its program.
            environment: all of it.
            errors: where its lines for stderr go.
        """
        their_in, stdin = os.pipe()
        stdout, their_out = os.pipe()
        told, telling = os.pipe()
        given = [their_in, their_out, errors.fileno(), telling]
        with contextlib.ExitStack() as ours:
            streams = ours.enter_context(open(stdin, "w", buffering=1)), ours.enter_context(open(stdout))
            ours.callback(os.close, told)
            try:
                socket.send_fds(self._orders, [json.dumps([arguments, environment]).encode()], given)
            finally:
                for descriptor in (their_in, their_out, telling):
                    os.close(descriptor)
            ours.pop_all()
        return Born(*streams, told)

    @property
    def has_ended(self) -> bool:
        """Whether it takes no more orders."""
        return self._process.poll() is not None

    def close(self) -> None:
        """End it; members are left alone."""
        self._orders.close()
        self._process.wait()


@functools.cache
def can_fork() -> bool:
    """Tell whether the system has what a nursery needs."""
    try:
        os.close(os.pidfd_open(os.getpid()))
    except (AttributeError, OSError):
        return False
    return True


_nurseries: dict[int, Nursery] = {}
_turns = itertools.count()
_choosing = threading.Lock()


def nursery(program: Path, code: Path) -> Nursery:
    """Return the one whose turn it is."""
    with _choosing:
        turn = next(_turns) % NURSERIES
        if turn not in _nurseries or _nurseries[turn].has_ended:
            _nurseries[turn] = Nursery(program, code)
        return _nurseries[turn]


# -- in the process that forks ------------------------------------------------------------------------------------------------------


def _serve(orders: socket.socket) -> str | None:
    """Fork for each order; return its arguments in what was forked, and None when nobody is there any more who gives orders."""
    alive: dict[int, tuple[int, int]] = {}  # by handle: the number of the process, and the pipe on which its status is told
    while True:
        for handle in select.select([orders.fileno(), *alive], [], [])[0]:
            if handle in alive:
                _tell_end(handle, *alive.pop(handle))
                continue
            order, given, _, _ = socket.recv_fds(orders, LARGEST, 4)
            if not order:
                return None
            arguments, environment = json.loads(order)
            *streams, telling = given
            if (pid := os.fork()) == 0:
                _begin(environment, streams, [telling, *alive, *(pipe for _, pipe in alive.values())])
                return json.dumps(arguments)
            for stream in streams:
                os.close(stream)
            os.write(telling, NUMBER.pack(pid))
            alive[os.pidfd_open(pid)] = pid, telling


def _tell_end(handle: int, pid: int, telling: int) -> None:
    os.close(handle)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    with contextlib.suppress(BrokenPipeError):  # nobody waits for it
        os.write(telling, NUMBER.pack(status))
    os.close(telling)


def _begin(environment: dict[str, str], streams: list[int], others: list[int]) -> None:
    os.setsid()
    for standard, descriptor in enumerate(streams):
        os.dup2(descriptor, standard)
    for descriptor in (*streams, *others):
        os.close(descriptor)
    os.environ.clear()
    os.environ.update(environment)


def main() -> None:
    orders, program = socket.socket(fileno=int(sys.argv[1])), Path(sys.argv[2])
    sys.path[0] = str(program.parent)
    member = __import__(program.stem)
    gc.collect()
    gc.freeze()
    with orders:
        arguments = _serve(orders)
    if arguments is not None:
        sys.argv = [str(program), arguments]
        member.main()


if __name__ == "__main__":
    main()
