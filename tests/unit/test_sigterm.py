"""``exit_on_sigterm``, in processes of their own: pytest's handlers stay as they are."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading

import pytest

from replkv import exit_on_sigterm

LOCKED = """
import os, signal, sys
from replkv import Replica, exit_on_sigterm

exit_on_sigterm()
with Replica() as replica:
    lock = replica.lock("job")
    try:
        with lock:
            print("held", flush=True)
            replica.lock("job").acquire()  # for ever, for this process holds it
    finally:
        os.kill(os.getpid(), signal.SIGTERM)  # impatient: once more, while the blocks end
        print(f"held {lock.held}, keys {replica.scan(prefix=bytes(1) + b'replkv/', count_only=True).count}", flush=True)
print("not reached")
"""
AWAITING = """
import asyncio
from replkv import AsyncReplica, exit_on_sigterm

async def work(replica, number):
    try:
        if number == 2:
            print("both work", flush=True)
        while True:  # the loop is hardly ever idle
            await replica.get("a", consistency="local")
            await asyncio.sleep(0)
    finally:
        print(f"{number} ended", flush=True)

async def main():
    async with AsyncReplica() as replica, replica.lock("job") as lock:
        try:
            async with asyncio.TaskGroup() as group:
                for number in (1, 2):
                    group.create_task(work(replica, number))
        finally:
            print(f"held {lock.held}, sum {(await replica.add('sum', 1)).value}", flush=True)

exit_on_sigterm()
asyncio.run(main())
"""


def ended(program: str) -> tuple[str, str, int]:
    """Run a program, ask it to end when it has said something; return what it said, its errors and its exit code."""
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        said = process.stdout.readline()
        process.send_signal(signal.SIGTERM)
        rest, errors = process.communicate(timeout=30)
        return said + rest, errors, process.returncode
    finally:
        process.kill()
        process.communicate()


def test_what_is_held_is_given_back_and_the_member_closed() -> None:
    assert ended(LOCKED) == ("held\nheld False, keys 0\n", "", 0)


def test_tasks_are_cancelled_and_end_their_blocks() -> None:
    said, errors, code = ended(AWAITING)
    assert (sorted(said.splitlines()), errors, code) == (["1 ended", "2 ended", "both work", "held True, sum 1"], "", 0)


def test_another_thread_is_told_that_it_can_not_do_that() -> None:
    refusals: list[RuntimeError] = []

    def install() -> None:
        try:
            exit_on_sigterm()
        except RuntimeError as error:
            refusals.append(error)

    before = signal.getsignal(signal.SIGTERM)
    thread = threading.Thread(target=install)
    thread.start()
    thread.join()
    with pytest.raises(RuntimeError, match="must be called by the main thread"):
        raise refusals[0]
    assert signal.getsignal(signal.SIGTERM) is before
