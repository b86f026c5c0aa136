"""What strangers do to the ports of a live cluster, with TLS and without: they get nothing, hold nothing for long and disturb nobody.

``test_bad_frames.py`` has more frames that are wrong in one way each; here whole connections are, and the clients' doors are attacked too.
"""

from __future__ import annotations

import random
import struct
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from cluster import eventually
from hostile import PASSWORDS, REQ, REQUEST, Held, Siege, Stranger, Visitor, crowd

from replkv import codec, door, doorstep, letters, links, login, ops, wire
from replkv.errors import AuthenticationFailed, Overloaded
from replkv.letters import Ask, Batch, Cancel, Failed, HandOver, Hello, Inspect, Look, Ping, Prove, Pull, Read
from replkv.messages import Hello as Greeting

CROWD = 50  # connections of each kind
LATE = 10.0  # s that what is bounded may take longer on a machine that does much else


@pytest.fixture(scope="module", params=["tls", "plain"])
def siege(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Siege]:
    with Siege(tmp_path_factory.mktemp("siege"), tls=request.param == "tls") as siege:
        yield siege


# -- connections that get so far, and no further -----------------------------------------------------------------------------------


def greeting(name: str = "zz", cluster: bytes = bytes(16)) -> bytes:
    """A greeting among members, of a stranger."""
    return codec.encode_frame(codec.NO_CLUSTER, 7, 0, Greeting((1, 1), cluster, name, 7, ""))


def hello(user: str = "ann") -> bytes:
    return letters.encode_frame(0, [letters.encode_letter(Hello(1, letters.VERSION, 99, user))])


def says_nothing(at: tuple[str, int]) -> Stranger:
    return Stranger(at)


def begins_tls(at: tuple[str, int]) -> Stranger:
    stranger = Stranger(at)
    begin = stranger.begin_tls()
    stranger.raw(begin[: len(begin) // 2])
    return stranger


def takes_what_tls_is_answered_with(at: tuple[str, int]) -> Stranger:
    stranger = Stranger(at)
    stranger.raw(stranger.begin_tls())
    return stranger


def begins_to_greet(at: tuple[str, int]) -> Stranger:
    return Stranger(at, REQ[:5])


def does_tls(at: tuple[str, int]) -> Stranger:
    stranger = Stranger(at)
    assert stranger.handshake()
    return stranger


def speaks(*data: bytes, tls: bool) -> Callable[[tuple[str, int]], Stranger]:
    def make(at: tuple[str, int]) -> Stranger:
        stranger = does_tls(at) if tls else Stranger(at)
        for part in data:
            stranger.say(part)
        return stranger

    return make


def framed(frame: bytes) -> bytes:
    return struct.pack(">Q", len(REQUEST) + len(frame)) + REQUEST + frame


STAGES: dict[bool, dict[str, list[Callable[[tuple[str, int]], Stranger]]]] = {
    True: {
        "members": [says_nothing, begins_tls, takes_what_tls_is_answered_with, begins_to_greet],
        "clients": [
            says_nothing,
            begins_tls,
            takes_what_tls_is_answered_with,
            does_tls,
            speaks(REQ, tls=True),
            speaks(REQ + framed(hello())[:-1], tls=True),
            speaks(REQ + framed(hello()), tls=True),
        ],
    },
    False: {
        "members": [
            says_nothing,
            begins_tls,
            begins_to_greet,
            speaks(REQ, tls=False),
            speaks(REQ + framed(greeting())[:-1], tls=False),
            speaks(REQ + framed(greeting()), tls=False),
        ],
        "clients": [
            says_nothing,
            begins_tls,
            begins_to_greet,
            speaks(REQ, tls=False),
            speaks(REQ + framed(hello())[:-1], tls=False),
            speaks(REQ + framed(hello()), tls=False),
        ],
    },
}
"""How far connections get, by the port and by whether it wants TLS."""


def test_connections_that_stop_anywhere_are_closed_in_time_and_disturb_nobody(siege: Siege) -> None:
    """At both ports at once, and at all of them it can be waited for nothing."""
    leader = siege.cluster.leader().name
    makers = [
        lambda make=make, at=at: make(at)
        for port, at in (("members", siege.port(leader)), ("clients", siege.door(leader)))
        for make in STAGES[siege.tls][port]
        for _ in range(CROWD)
    ]
    with siege.unharmed():
        began = time.monotonic()
        with crowd(makers) as strangers:
            siege.goes_on()
            with siege.client(leader, "bob") as client:
                assert client.status().name == leader
            eventually(lambda: all(stranger.is_dropped() for stranger in strangers), timeout=90, pause=0.2)
        assert time.monotonic() - began < doorstep.HANDSHAKE_TIMEOUT + door.UNKNOWN_FOR + 2 * LATE


def test_those_who_say_nothing_hold_few_descriptors_and_nobody_s_place(siege: Siege) -> None:
    """As many at once as the stated bounds let in, and more: the oldest make room, and members and clients find theirs."""
    leader = siege.cluster.leader()
    with siege.unharmed():
        before = Held.by(leader).descriptors
        most = door.UNKNOWN_MAX + links.UNGREETED_MAX + doorstep.most()
        ports = (siege.port(leader.name), siege.door(leader.name))
        with crowd([lambda at=at: Stranger(at, b"" if siege.tls else REQ) for at in ports for _ in range(700)]):
            with siege.client(leader.name, "bob") as client:
                assert client.status().name == leader.name
            siege.goes_on()
            eventually(lambda: Held.by(leader).descriptors <= before + most, timeout=15)


def test_connections_that_come_and_go_leave_nothing(siege: Siege) -> None:
    leader = siege.cluster.leader().name
    makers = [
        (make, at) for port, at in (("members", siege.port(leader)), ("clients", siege.door(leader))) for make in STAGES[siege.tls][port]
    ]
    with siege.unharmed():
        for number in range(1500):
            make, at = makers[number % len(makers)]
            with make(at):
                pass


def test_who_says_a_byte_at_a_time_gets_no_more_time_than_another(siege: Siege) -> None:
    leader = siege.cluster.leader().name
    with siege.unharmed():
        tls = Stranger(siege.door(leader))
        begins = [(Stranger(at), tls.begin_tls() if siege.tls else REQ) for at in (siege.port(leader), siege.door(leader))]
        through = speaks(REQ, tls=siege.tls)(siege.door(leader))
        rest = iter(framed(bytes(4000)))
        places = [0] * len(begins)

        def are_dropped_after_one_more() -> bool:
            for index, (stranger, data) in enumerate(begins):
                if places[index] < len(data) - 1:
                    stranger.raw(data[places[index] : places[index] + 1])
                    places[index] += 1
            if (byte := next(rest, None)) is not None:
                through.say(bytes([byte]))
            return all(stranger.is_dropped() for stranger in (*(stranger for stranger, _ in begins), through))

        began = time.monotonic()
        eventually(are_dropped_after_one_more, timeout=60, pause=0.1)
        assert time.monotonic() - began < doorstep.HANDSHAKE_TIMEOUT + door.SAYS_NOTHING + 2 * LATE
        for stranger in (tls, through, *(stranger for stranger, _ in begins)):
            stranger.__exit__()
