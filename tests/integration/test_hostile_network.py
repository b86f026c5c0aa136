"""What strangers do to the ports of a live cluster, with TLS and without: they get nothing, hold nothing for long and disturb nobody.

``test_bad_frames.py`` has more frames that are wrong in one way each; here whole connections are, and the clients' doors are attacked too.
"""

from __future__ import annotations

import random
import socket
import struct
import threading
import time
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from attrs import frozen
from authority import Authority, Certified
from cluster import Cluster, eventually, free_ports
from fleet import Writer
from hostile import DESCRIPTORS, PASSWORDS, REQ, REQUEST, Held, Siege, Stranger, Visitor, crowd

from replkv import codec, door, doorstep, letters, links, login, ops, wire
from replkv.disk import RealDisk
from replkv.errors import AuthenticationFailed, Overloaded
from replkv.letters import Ask, Batch, Cancel, Failed, HandOver, Hello, Inspect, Look, Ping, Prove, Pull, Read
from replkv.log import Log
from replkv.messages import (
    Append,
    AppendReply,
    EntryKind,
    Message,
    ReadIndex,
    ReadIndexReply,
    Refuse,
    SnapshotAck,
    TimeoutNow,
    Vote,
    VoteReply,
    Welcome,
)
from replkv.messages import Hello as Greeting
from replkv.messages import Ping as Knock

CROWD = 20  # connections of each kind
TRIES = 3  # to do TLS
UNFINISHED = DESCRIPTORS // doorstep.UNFINISHED_SHARE
LATE = 10.0  # s that what is bounded may take longer on a machine that does much else


# With TLS a connection passes all that it passes without.  So what takes long, because a bound has to pass, is tried with it alone.
BESIEGED_BOTH_WAYS = pytest.mark.parametrize("siege", ["tls", "plain"], indirect=True)
BOTH_WAYS = pytest.mark.parametrize("cluster", ["tls", "plain"], indirect=True)


@pytest.fixture(scope="module")
def siege(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Siege]:
    with Siege(tmp_path_factory.mktemp("siege"), tls=getattr(request, "param", "tls") == "tls") as siege:
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
    """In a rush nng itself ends about one of a thousand connections in its handshake: who meets that tries again, as clients do."""
    for _ in range(TRIES):
        stranger = Stranger(at)
        if stranger.handshake():
            return stranger
        stranger.socket.close()
    raise AssertionError(f"{at} refused {TRIES} handshakes, one after the other")


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


@BESIEGED_BOTH_WAYS
def test_those_who_say_nothing_hold_few_descriptors_and_nobody_s_place(siege: Siege) -> None:
    """As many at once as the stated bounds let in, and more: the oldest make room, and members and clients find theirs."""
    leader = siege.cluster.leader()
    with siege.unharmed():
        before = Held.by(leader).descriptors
        most = DESCRIPTORS // 4 + links.UNGREETED_MAX + 2 * UNFINISHED
        ports = (siege.port(leader.name), siege.door(leader.name))
        with crowd([partial(Stranger, at, b"" if siege.tls else REQ) for at in ports for _ in range(700)]):
            with siege.client(leader.name, "bob") as client:
                assert client.status().name == leader.name
            siege.goes_on()
            eventually(lambda: Held.by(leader).descriptors <= before + most, timeout=15)


@BESIEGED_BOTH_WAYS
def test_connections_that_come_and_go_leave_nothing(siege: Siege) -> None:
    """Nothing but a few that nng does not notice the end of, where certificates are optional: when there are more, all are made anew."""
    leader = siege.cluster.leader().name
    makers = [
        (make, at) for port, at in (("members", siege.port(leader)), ("clients", siege.door(leader))) for make in STAGES[siege.tls][port]
    ]
    with siege.unharmed(descriptors=UNFINISHED // doorstep.DEAD_SHARE if siege.tls else 0):
        for number in range(1500):
            make, at = makers[number % len(makers)]
            with make(at):
                pass


def test_connections_that_end_right_behind_their_handshake_are_not_kept_for_ever(siege: Siege) -> None:
    """nng does not notice the end of most of them."""
    leader = siege.cluster.leader()
    with siege.unharmed(descriptors=UNFINISHED // doorstep.DEAD_SHARE):
        for _ in range(3 * UNFINISHED):
            with does_tls(siege.door(leader.name)):
                pass
        with siege.client(leader.name, "bob") as client:
            assert client.status().name == leader.name


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


# -- what is wrong at some layer ---------------------------------------------------------------------------------------------------

MALFORMED: dict[str, bytes] = {
    "HTTP": b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
    "random bytes": random.Random(1).randbytes(1000),
    "zeros": bytes(1000),
    "another protocol of nng": b"\x00SP\x00\x00\x10\x00\x00" + bytes(100),
    "a record of TLS that is too long": b"\x16\x03\x03\xff\xff" + bytes(1000),
    "a record of TLS of nothing": b"\x16\x03\x03\x00\x00",
    "an alert of TLS": b"\x15\x03\x03\x00\x02\x02\x28",
    "data of TLS before its handshake": b"\x17\x03\x03\x00\x20" + bytes(32),
    "a ClientHello that claims more than it has": b"\x16\x03\x01\x00\x40\x01\xff\xff\xff\x03\x03" + bytes(60),
}
"""What is no beginning of anything."""

WRONG_SIZES = [
    bytes(8),
    struct.pack(">Q", 3) + b"abc",
    struct.pack(">Q", 1200) + b"\0\0\0\1" * 300,
    *(struct.pack(">Q", n) + REQUEST for n in ((8 << 20) + 5, 1 << 40, (1 << 64) - 1)),
]
"""Headers of frames that no peer sends: shorter than nng's own, a way back without an end, or longer than any frame."""


def checked(rest: bytes, magic: bytes = letters.MAGIC) -> bytes:
    """A frame with a right checksum around whatever is wrong."""
    return magic + struct.pack("<I", zlib.crc32(rest)) + rest


def letter(kind: int, head: bytes, bulk: bytes = b"", *, size: int | None = None) -> bytes:
    return struct.pack("<QBQII", 0, kind, 1, len(head) if size is None else size, len(bulk)) + head + bulk


BAD_FRAMES: dict[str, bytes] = {
    "nothing": b"",
    "random bytes": random.Random(2).randbytes(500),
    "random bytes behind the magic": letters.MAGIC + random.Random(3).randbytes(500),
    "a greeting with a flipped bit": hello()[:-2] + bytes([hello()[-2] ^ 1]) + hello()[-1:],
    "a greeting with a tail": hello() + b"x",
    "a frame of members": greeting(),
    "an unknown kind": checked(letter(31, b"\x90")),
    "a reply": checked(letter(33, b"\x90")),
    "a head longer than the frame": checked(letter(1, b"\x90", size=1 << 31)),
    "nested claims of huge lists": checked(letter(1, b"\xdd\xff\xff\xff\xff" * 500)),
    "nested lists": checked(letter(1, b"\x91" * 2000 + b"\x90")),
    "a map": checked(letter(1, b"\x81\xa1a\x01")),
    "fields of wrong types": checked(letter(1, codec.pack([b"x", "y", None]))),
    "a name that is too long": checked(letter(1, codec.pack([1, 99, "x" * 3000]))),
    "more than who is not let in may say": letters.encode_frame(0, [letters.encode_letter(Ping(n)) for n in range(400)]),
    "the largest frame": bytes(8 << 20),
    "frames taken in that were never sent": letters.encode_frame(1 << 40, [letters.encode_letter(Hello(1, letters.VERSION, 99, "ann"))]),
    "two greetings": letters.encode_frame(0, [letters.encode_letter(Hello(1, letters.VERSION, 99, "ann"))] * 2),
}


@BESIEGED_BOTH_WAYS
def test_what_is_malformed_at_any_layer_ends_its_connection_and_nothing_else(siege: Siege) -> None:
    leader = siege.cluster.leader().name
    ports = [siege.port(leader), siege.door(leader)]
    through = [siege.door(leader)] if siege.tls else ports  # nobody without a certificate gets through to members by TLS
    with siege.unharmed():
        makers = [lambda at=at, data=data: Stranger(at, data) for at in ports for data in MALFORMED.values()]
        makers += [lambda at=at, data=data: speaks(REQ, data, tls=siege.tls)(at) for at in through for data in WRONG_SIZES]
        makers += [lambda at=at, data=data: speaks(REQ, framed(data), tls=siege.tls)(at) for at in through for data in BAD_FRAMES.values()]
        with crowd(makers) as strangers:
            eventually(lambda: all(stranger.is_dropped() for stranger in strangers), timeout=60, pause=0.1)
            assert not any(stranger.frames() for stranger in strangers if stranger.received < 100), "none was answered"


def test_large_frames_that_are_begun_or_sent_take_no_lasting_memory(siege: Siege) -> None:
    """What nng takes in before anybody can look at it: a frame per connection, for as long as a stranger may stay."""
    leader = siege.cluster.leader().name
    header = struct.pack(">Q", codec.FRAME_MAX) + REQUEST
    with siege.unharmed(memory=100 << 10):
        with crowd([lambda: speaks(REQ, header + bytes(4 << 20), tls=siege.tls)(siege.door(leader))] * 20) as strangers:
            siege.goes_on()
            eventually(lambda: all(stranger.is_dropped() for stranger in strangers), timeout=60, pause=0.1)
        for _ in range(20):
            with speaks(REQ, framed(bytes(4 << 20)), tls=siege.tls)(siege.door(leader)) as stranger:
                eventually(stranger.is_dropped)


AMPLIFICATION = 8
"""Bytes that a stranger gets for each that it sends, at most; TLS shows the member's certificates to whoever begins it."""
FOR_NOTHING = 64
"""Bytes that it gets for none: nng says first which protocol it speaks."""


def test_strangers_get_few_bytes_for_those_they_send(siege: Siege) -> None:
    leader = siege.cluster.leader().name
    for port, at in (("members", siege.port(leader)), ("clients", siege.door(leader))):
        makers = [lambda make=make, at=at: make(at) for make in STAGES[siege.tls][port]]
        makers += [lambda data=data, at=at: Stranger(at, data) for data in MALFORMED.values()]
        if port == "clients" or not siege.tls:
            frames = (*BAD_FRAMES.values(), hello(), hello("nobody"), hello(""), greeting(), greeting("a"), greeting("b", b"x" * 16))
            makers += [lambda frame=frame, at=at: speaks(REQ, framed(frame), tls=siege.tls)(at) for frame in frames]
        with crowd(makers) as strangers:
            siege.goes_on(30)  # time for answers that should not come
            for stranger in strangers:
                stranger.hear()
            for number, stranger in enumerate(strangers):
                assert stranger.received <= AMPLIFICATION * stranger.sent + FOR_NOTHING, (port, number)


# -- the clients' door, where users are enabled ------------------------------------------------------------------------------------


def everything(number: int = 5) -> list[Any]:
    """A letter of each kind that asks for something."""
    command = codec.pack(ops.Put("count/x", "forged").to_wire())
    return [
        Batch(number, codec.pack_batch(0, 1, 0, (), ("root", 1 << 40))),
        Batch(number, codec.pack_batch(1, 1, 1, [command], ("root", 1))),
        Read(number, ops.Get("count/x").to_wire(), "local"),
        Read(number, ops.Scan().to_wire(), "linearizable"),
        *(Look(number, what) for what in range(letters.LEASES, letters.OUTLINE + 1)),
        *(Inspect(number, what, "ann") for what in range(letters.INSPECT_STATUS, letters.INSPECT_ROLE + 1)),
        Pull(number, b"\x00", None, 1),
        HandOver(number, "a"),
        Ping(number),
        Cancel(number),
        Prove(number, bytes(letters.TOKEN), b""),
        Prove(number, b"", PASSWORDS["ann"].encode()),
    ]


@BESIEGED_BOTH_WAYS
def test_before_it_is_let_in_a_connection_gets_nothing_whatever_it_asks(siege: Siege) -> None:
    name = siege.cluster.leader().name
    with siege.unharmed():
        for asked in everything():
            with siege.visitor(name) as visitor:
                visitor.letter(asked)
                eventually(visitor.is_dropped)
                assert not visitor.frames()
            if isinstance(asked, Prove):
                continue
            with siege.visitor(name) as visitor:
                visitor.letter(Hello(1, letters.VERSION, 99, "ann"))
                assert visitor.reply(1) == Ask(1)
                visitor.letter(asked)
                eventually(visitor.is_dropped)
                assert visitor.replies() == [Ask(1)]
            with siege.visitor(name) as visitor:
                assert isinstance(visitor.log_in("").error, AuthenticationFailed)
                visitor.letter(asked)
                eventually(visitor.is_dropped)
                assert len(visitor.replies()) == 1


@BESIEGED_BOTH_WAYS
def test_who_greets_and_stops_keeps_nobody_out(siege: Siege) -> None:
    """Once such connections filled a door of a process with 1024 descriptors for half a minute."""
    name = siege.cluster.leader().name
    with siege.unharmed(), crowd([lambda: speaks(REQ, framed(hello()), tls=siege.tls)(siege.door(name))] * 550) as strangers:
        with siege.client(name, "bob") as client:
            assert client.status().name == name
        assert sum(stranger.is_dropped() for stranger in strangers) >= 200
        siege.goes_on()


def test_wrong_passwords_are_limited_and_tokens_work_meanwhile(siege: Siege) -> None:
    name = siege.cluster.others(siege.cluster.leader())[0].name
    with siege.unharmed(), siege.visitor(name) as bob:
        assert bob.log_in("bob", PASSWORDS["bob"]).user == "bob"
        refused: list[str] = []
        for number in range(3 * login.BURST):
            with siege.visitor(name) as guesser:
                failed = guesser.log_in("bob", f"guess {number}")
                assert isinstance(failed, Failed)
                assert isinstance(failed.error, (AuthenticationFailed, Overloaded))
                refused.append(str(failed.error))
        looked_at = sum("or a wrong password" in text for text in refused)
        assert login.BURST <= looked_at < 2 * login.BURST
        assert sum("too many wrong passwords for user bob: try again in" in text for text in refused) == len(refused) - looked_at
        with siege.visitor(name) as again:
            assert isinstance(again.log_in("bob", PASSWORDS["bob"]).error, Overloaded), "the right one is not looked at either"
        with siege.visitor(name) as again:
            assert again.log_in("bob", token=bob.token).user == "bob"
        elsewhere = siege.cluster.others(siege.cluster[name])[0].name
        with siege.visitor(elsewhere) as again:
            assert again.log_in("bob", PASSWORDS["bob"]).user == "bob"

        def is_let_in_again() -> bool:
            with siege.visitor(name) as again:
                return not isinstance(again.log_in("bob", PASSWORDS["bob"]), Failed)

        eventually(is_let_in_again, timeout=login.AGAIN_AFTER + LATE, pause=0.5)


def test_guesses_at_many_names_at_once_cost_a_bounded_part_of_a_member(siege: Siege) -> None:
    name = siege.cluster.others(siege.cluster.leader())[1].name
    with siege.unharmed(), crowd([lambda: siege.visitor(name)] * 100) as visitors:
        began = time.monotonic()
        for number, visitor in enumerate(visitors):
            visitor.letter(Hello(1, letters.VERSION, 99, f"nobody-{number}"))
        for visitor in visitors:
            visitor.reply(1)
            visitor.letter(Prove(2, b"", b"guess"))
        failed = [visitor.reply(2).error for visitor in visitors]
        waited = sum(isinstance(error, AuthenticationFailed) for error in failed)
        assert waited <= login.BURST_OF_ALL + 1 + (time.monotonic() - began) / login.ANY_AGAIN_AFTER
        assert sum(isinstance(error, Overloaded) for error in failed) == len(failed) - waited > 0
        siege.goes_on()


PUT_RAW: Any = ops.Put("count/forged", "forged").to_wire()
PUT: bytes = codec.pack(PUT_RAW)
FORGED: dict[str, Callable[[Visitor], list[Any]]] = {
    "a member's own batch": lambda v: [codec.pack_batch(1, 1, 1, [PUT], None)],
    "a batch of root": lambda v: [codec.pack_batch(1, 1, 1, [PUT], ("root", v.guest[1]))],
    "a batch of nobody": lambda v: [codec.pack_batch(1, 1, 1, [PUT], ("", 0))],
    "a batch of a later self": lambda v: [codec.pack_batch(1, 1, 1, [PUT], (v.guest[0], v.guest[1] + 1))],
    "a command on behalf of root": lambda v: [codec.pack_batch(1, 1, 1, [codec.pack((wire.AS, "root", 1, PUT_RAW))], v.guest)],
    "one within a transaction": lambda v: [
        codec.pack_batch(1, 1, 1, [codec.pack((wire.TXN, (), ((wire.AS, "root", 1, PUT_RAW),), ()))], v.guest)
    ],
    "a new feature level": lambda v: [codec.pack_batch(1, 1, 1, [codec.pack((wire.LEVEL, 99))], v.guest)],
    "a token of root's": lambda v: [
        codec.pack_batch(1, 1, 1, [codec.pack((wire.AUTH, wire.ADD_TOKEN, (bytes(32), "root", 1, 10**9)))], v.guest)
    ],
    "bytes": lambda v: [random.Random(4).randbytes(200)],
}


@BESIEGED_BOTH_WAYS
def test_a_user_can_t_speak_as_anybody_else(siege: Siege) -> None:
    name = siege.cluster.leader().name
    with siege.unharmed():
        for what, forge in FORGED.items():
            with siege.visitor(name) as ann:
                assert ann.log_in("ann", PASSWORDS["ann"]).user == "ann"
                before = len(ann.replies())
                for data in forge(ann):
                    ann.letter(Batch(7, data))
                eventually(ann.is_dropped)
                assert len(ann.replies()) == before, what
        with siege.client(name, "root") as client:
            assert client.get("count/forged") is None


@BESIEGED_BOTH_WAYS
def test_a_batch_in_somebody_else_s_session_is_not_carried_out(siege: Siege) -> None:
    name = siege.cluster.leader().name
    with siege.unharmed(), siege.visitor(name) as ann, siege.visitor(name) as bob:
        for visitor, user in ((ann, "ann"), (bob, "bob")):
            assert visitor.log_in(user, PASSWORDS[user]).user == user
        ann.letter(Batch(3, codec.pack_batch(0, 5, 0, (), ann.guest)))
        session = ann.reply(3).opened
        bob.letter(Batch(3, codec.pack_batch(session, 1, 1, [PUT], bob.guest)))
        assert (bob.reply(3).expired, bob.reply(3).answers) == (True, None)
        ann.letter(Batch(4, codec.pack_batch(session, 1, 1, [PUT], ann.guest)))
        assert ann.reply(4).answers, "it is still ann's, and nothing was done in it"
        ann.letter(Batch(5, codec.pack_batch(session, 2, 2, [codec.pack(ops.Delete("count/forged").to_wire())], ann.guest)))
        ann.reply(5)


def test_a_user_who_asks_on_and_on_without_listening_is_one_of_many(siege: Siege) -> None:
    name = siege.cluster.leader().name
    with siege.unharmed(memory=100 << 10), siege.visitor(name) as bob:
        assert bob.log_in("bob", PASSWORDS["bob"]).user == "bob"
        taken = len(bob.frames())
        for burst in range(60):  # a member with time to spare puts many answers into one frame
            if burst >= 6 and (bob.is_dropped() or len(bob.frames()) >= letters.UNSEEN_MAX):
                break
            numbers = range(10 + burst * letters.LETTERS_MAX, 10 + (burst + 1) * letters.LETTERS_MAX)
            asked = [Inspect(n, letters.INSPECT_USER, "bob") if n % 2 else Look(n, letters.MEMBERS) for n in numbers]
            bob.send(letters.encode_frame(taken, map(letters.encode_letter, asked)))
            siege.goes_on(1)
        with siege.client(name, "ann") as client:
            assert client.add("count/beside").value
        eventually(lambda: bob.is_dropped() or len(bob.frames()) >= letters.UNSEEN_MAX)


# -- who was a member, or is one of another cluster ----------------------------------------------------------------------------------


class Tap:
    """Stands in front of a member, and keeps what the others tell it, connection by connection."""

    def __init__(self, at: tuple[str, int], target: tuple[str, int]) -> None:
        self.recorded: list[bytearray] = []
        self._target = target
        self._ends: list[socket.socket] = []
        self._server = socket.create_server(at)
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                near, _ = self._server.accept()
                try:
                    far = socket.create_connection(self._target)
                except OSError:
                    near.close()
                    continue
                self.recorded.append(kept := bytearray())
                self._ends += (near, far)
                for source, drain, record in ((near, far, kept), (far, near, bytearray())):
                    threading.Thread(target=self._carry, args=(source, drain, record), daemon=True).start()

    def _carry(self, source: socket.socket, drain: socket.socket, record: bytearray) -> None:
        with suppress(OSError):
            while data := source.recv(1 << 16):
                record += data
                drain.sendall(data)
        for end in (source, drain):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        for end in (self._server, *self._ends):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()


@pytest.fixture
def cluster(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Cluster]:
    with Cluster(tmp_path) as cluster:
        if getattr(request, "param", "tls") == "tls":
            ours = Authority(tmp_path / "ours")
            for member in cluster:
                member.arguments["tls"] = ours.member(member.name).tls
        yield cluster


def place(cluster: Cluster, name: str) -> tuple[str, int]:
    member = cluster[name]
    host, _, port = str(member.arguments.get("listen", cluster.addresses[name])).partition(":")
    return host, int(port)


def test_what_members_said_once_has_no_effect_when_it_is_said_again(cluster: Cluster) -> None:
    """Over another connection, to another member, and in another life of either side."""
    (port,) = free_ports(1)
    cluster["a"].arguments["listen"] = f"127.0.0.1:{port}"
    tap = Tap(place_in_map(cluster, "a"), ("127.0.0.1", port))
    try:
        cluster.start()
        cluster["a"].call("transfer", "b")
        eventually(lambda: cluster.leader().name == "b")
        writers = [Writer.at(cluster[name]) for name in "ab"]
        with writers[0], writers[1]:
            for writer in writers:
                writer.goes_on(20)
            recorded = [bytes(kept) for kept in tap.recorded]
            assert sum(map(len, recorded)) > 10_000
            for what in ("as it is", "in another life of the sender", "in another life of the receiver"):
                if what != "as it is":
                    again = cluster["c" if "sender" in what else "a"]
                    if again.name == "a":
                        writers[0].__exit__()
                    again.stop()
                    again.start()
                    cluster.wait_ready()
                term = cluster.leader().call("status")["raft_term"]
                for name in "ac":
                    with crowd([partial(Stranger, place(cluster, name), said) for said in recorded]) as strangers:
                        writers[1].goes_on(20)
                        if "tls" in cluster["a"].arguments:
                            eventually(lambda: all(stranger.is_dropped() for stranger in strangers))
                assert cluster.leader().call("status")["raft_term"] == term, what
        for writer in writers:
            writer.check(int(cluster["a"].call("get", writer.key)[1]))
        cluster.state()
    finally:
        tap.close()


def place_in_map(cluster: Cluster, name: str) -> tuple[str, int]:
    host, _, port = cluster.addresses[name].partition(":")
    return host, int(port)


@frozen
class Part:
    """Who somebody was in a cluster: what it takes to speak as it, and its certificate."""

    cluster: bytes
    name: str
    incarnation: int
    certified: Certified | None
    members: Mapping[str, int]

    @classmethod
    def of(cls, cluster: Cluster, name: str) -> Part:
        """Look it up in the directory of a member that does not run."""
        member = cluster[name]
        log, recovered = Log.open(RealDisk(member.data_dir), name, 1, 1 << 20)
        log.close()
        founding = codec.decode_founding(recovered.founding)
        tls = member.arguments.get("tls")
        members = founding.configuration.members
        return cls(founding.cluster, name, members[name], Certified(**tls) if tls else None, members)

    def greets(self, cluster: Cluster, to: str, *, of: bytes | None = None) -> Stranger:
        stranger = Stranger(place(cluster, to))
        if self.certified is not None:
            assert stranger.handshake(self.certified)
        stranger.say(REQ)
        greeting = Greeting((1, 1), self.cluster if of is None else of, self.name, self.incarnation, to, ("a", "b", "c"))
        stranger.send(codec.encode_frame(self.cluster if of is None else of, self.incarnation, 0, greeting))
        return stranger

    def says(self, stranger: Stranger, receiver: int, message: Message, *, of: bytes | None = None) -> None:
        stranger.send(codec.encode_frame(self.cluster if of is None else of, self.incarnation, receiver, message))


def answer(stranger: Stranger) -> Any:
    """Wait for the answer to a greeting."""
    return codec.decode_frame(eventually(stranger.frames)[0]).message


LARGEST = (1 << 63) - 1
ENTRY = codec.make_entry(1, LARGEST, EntryKind.BLOCK, 0, b"x")
HUGE: list[Message] = [
    Vote(LARGEST, LARGEST, LARGEST),
    Vote(LARGEST, LARGEST, LARGEST, pre=True),
    Vote(LARGEST, LARGEST, LARGEST, transfer=True),
    VoteReply(LARGEST, granted=False),
    VoteReply(LARGEST, granted=True, pre=True),
    Append(LARGEST, 0, 0, 0, 1, 0, (ENTRY,)),
    Append(LARGEST, LARGEST, LARGEST, LARGEST, 1, 0),
    AppendReply(LARGEST, 1, LARGEST),
    AppendReply(LARGEST, 1, LARGEST, rejected=True),
    TimeoutNow(LARGEST),
    ReadIndex(LARGEST, 1),
    ReadIndexReply(LARGEST, 1, LARGEST),
    Vote((1 << 62), 1, 1),
]
"""Messages of a term that nobody ever reaches."""


@BOTH_WAYS
def test_huge_terms_move_nobody_before_a_greeting_and_after(cluster: Cluster) -> None:
    cluster.start()
    leader = cluster.leader()
    mad, other = cluster.others(leader)
    mad.stop()
    part = Part.of(cluster, mad.name)
    term = leader.call("status")["raft_term"]
    with Writer.at(other) as writer:
        for member in (leader, other):
            with part.greets(cluster, member.name) as stranger, Stranger(place(cluster, member.name)) as unknown:
                welcome = answer(stranger)
                assert isinstance(welcome, Welcome)
                if part.certified is not None:
                    assert unknown.handshake(part.certified)
                unknown.say(REQ)
                for message in HUGE:
                    part.says(unknown, welcome.incarnation, message)
                    part.says(stranger, welcome.incarnation, message)
                eventually(unknown.is_dropped)
                writer.goes_on(20)
                assert not stranger.is_dropped()
    mad.start()
    cluster.wait_ready()
    assert cluster.leader() is leader
    assert leader.call("status")["raft_term"] == term
    assert [member.call("failure") for member in cluster] == [""] * 3
    cluster.state()


@BOTH_WAYS
def test_a_member_that_was_removed_and_one_of_another_cluster_get_nothing(cluster: Cluster) -> None:
    cluster.start()
    leader = cluster.leader()
    other, gone = cluster.others(leader)
    leader.call("change_members", remove=[gone.name])
    eventually(lambda: gone.call("failure").startswith("Removed"))
    gone.stop()
    part = Part.of(cluster, gone.name)
    term = leader.call("status")["raft_term"]
    with Writer.at(other) as writer:
        for name in (leader.name, other.name):
            for of in (None, b"x" * 16):
                with part.greets(cluster, name, of=of) as stranger:
                    refuse = answer(stranger)
                    assert isinstance(refuse, Refuse)
                    assert ("was removed" if of is None else "belongs to cluster") in refuse.reason
                    for message in (*HUGE, Vote(term + 1, LARGEST, LARGEST), SnapshotAck(term, 0, 0), Knock()):
                        part.says(stranger, part.members[name], message, of=of)
                    eventually(stranger.is_dropped)
                    assert len(stranger.frames()) == 1
        writer.goes_on(20)
    assert cluster.leader(but=gone.name) is leader
    assert leader.call("status")["raft_term"] == term
