"""Real forks of a process with a live transport.  Each runs in a process of its own, so that pytest itself never forks."""

from __future__ import annotations

import subprocess
import sys

import pytest

from replkv.errors import ForkedProcess

PARENT = """
import gc, os, sys, time, warnings
warnings.simplefilter("ignore", DeprecationWarning)  # of os.fork in a process with threads: this is what is tested
from replkv.errors import ForkedProcess
from replkv.transport import Answered, Arrived, LinkUp, NngTransport, PipeUp

def until(kind, *transports):
    give_up = time.monotonic() + 10
    while time.monotonic() < give_up:
        for transport in transports:
            for event in transport.poll(0.01):
                if isinstance(event, kind):
                    return event
    raise SystemExit("nothing came")

def refused(call, *arguments):
    try:
        call(*arguments)
    except ForkedProcess:
        return
    os._exit(99)

def wait_for(child):
    give_up = time.monotonic() + 10
    while time.monotonic() < give_up:
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.005)
    os.kill(child, 9)
    raise SystemExit("the child hangs")

server, client = NngTransport(), NngTransport()
client.dial("server", server.listen("tcp://127.0.0.1:0"))
until(LinkUp, client)
child = os.fork()
if child == 0:
CHILD
else:
    assert wait_for(child) == EXPECTED, "the child ended otherwise"
    assert client.send("server", b"ping")
    pipe = until(Arrived, server).pipe
    assert server.reply(pipe, b"pong")
    assert until(Answered, client).frame == b"pong"
    client.close()
    server.close()
    print("the parent goes on")
"""


def fork(child: str, expected: int = 0) -> None:
    indented = "\n".join("    " + line for line in child.strip().splitlines())
    program = PARENT.replace("CHILD", indented).replace("EXPECTED", str(expected))
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "the parent goes on\n", "")


def test_a_child_that_returns_exits_normally() -> None:
    fork("pass")


def test_a_child_that_calls_sys_exit_exits_with_its_status() -> None:
    fork("sys.exit(7)", expected=7)


def test_a_child_may_collect_its_copies() -> None:
    fork("del server, client\ngc.collect()")


def test_a_child_may_leave_through_its_parents_clean_up() -> None:
    fork("client.close()\nserver.close()")


@pytest.mark.parametrize(
    "call",
    [
        "NngTransport",
        "client.poll, 0",
        "client.wake",
        "client.send, 'server', b''",
        "client.hang_up, 'server'",
        "client.dial, 'server', 'inproc://a'",
        "server.listen, 'inproc://a'",
        "server.reply, 1, b''",
        "server.kick, 1",
    ],
)
def test_a_child_that_uses_it_gets_an_error(call: str) -> None:
    fork(f"refused({call})\nsys.exit(3)", expected=3)


def test_the_children_of_a_child_are_refused_and_exit_normally_too() -> None:
    fork("grandchild = os.fork()\nrefused(NngTransport)\nif grandchild:\n    assert wait_for(grandchild) == 0")


def test_a_child_forked_after_the_last_transport_was_closed_is_refused_as_well() -> None:
    program = """
import os, sys
from replkv.transport import NngTransport
NngTransport().close()
if os.fork() == 0:
    try:
        NngTransport()
    except Exception as error:
        print(type(error).__name__, flush=True)
else:
    sys.exit(os.waitstatus_to_exitcode(os.wait()[1]))
"""
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, ForkedProcess.__name__ + "\n", "")


def test_a_child_forked_before_the_first_transport_has_its_own() -> None:
    program = """
import os, sys
from replkv.transport import LinkUp, NngTransport
child = os.fork()
server, client = NngTransport(), NngTransport()
client.dial("server", server.listen("tcp://127.0.0.1:0"))
while LinkUp("server") not in client.poll(1):
    pass
client.close(); server.close()
if child:
    sys.exit(os.waitstatus_to_exitcode(os.wait()[1]))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")
