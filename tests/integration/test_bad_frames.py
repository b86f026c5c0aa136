"""What strangers send to the listening socket of a live cluster: counted, dropped, and the cluster serves on in bounded memory."""

from __future__ import annotations

import random
import resource
import socket
import struct
import time
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Self

import msgpack
import pytest
from cluster import Cluster, Member, eventually

from replkv import codec
from replkv.disk import RealDisk
from replkv.log import Log
from replkv.messages import (
    Append,
    AppendReply,
    Application,
    Configuration,
    Digest,
    EntryKind,
    Forward,
    Found,
    HandOver,
    Hello,
    Hindrance,
    Message,
    Ping,
    Pong,
    ReadIndex,
    ReadIndexReply,
    SnapshotAck,
    SnapshotChunk,
    SnapshotMeta,
    TimeoutNow,
    Vote,
    VoteReply,
    Welcome,
)

REQ = b"\x00SP\x00\x00\x30\x00\x00"
"""What a REQ socket of nng says first."""


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with Cluster(tmp_path_factory.mktemp("frames")) as cluster:
        cluster.start()
        cluster["a"].call("put", "k", "v")
        yield cluster


class Stranger:
    """A TCP connection that speaks as much of nng as it is told to."""

    def __init__(self, cluster: Cluster, member: Member, hello: bytes = REQ) -> None:
        host, _, port = cluster.addresses[member.name].partition(":")
        self._socket = socket.create_connection((host, int(port)), timeout=5)
        self.raw(hello)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def raw(self, data: bytes) -> None:
        with suppress(ConnectionError):  # it has been thrown out already
            self._socket.sendall(data)

    def send(self, frame: bytes) -> None:
        """Send a frame as a request."""
        self.raw(struct.pack(">Q", len(frame) + 4) + b"\x80\x00\x00\x01" + frame)

    def is_dropped(self) -> bool:
        """Tell whether the other side has closed the connection."""
        self._socket.setblocking(False)
        try:
            while self._socket.recv(1 << 16):
                pass
        except BlockingIOError:
            return False
        except ConnectionError:
            return True
        return True


@contextmanager
def crowd(cluster: Cluster, member: Member, hellos: Iterable[bytes]) -> Iterator[list[Stranger]]:
    """Many connections at once."""
    with ExitStack() as stack:
        yield [stack.enter_context(Stranger(cluster, member, hello=hello)) for hello in hellos]


def frame(message: Message, *, cluster: bytes = codec.NO_CLUSTER, sender: int = 7, receiver: int = 0) -> bytes:
    return codec.encode_frame(cluster, sender, receiver, message)


def forged(kind: int, head: bytes, bulk: bytes = b"", *, version: int = 1, length: int | None = None) -> bytes:
    """A frame with a right checksum around whatever is wrong."""
    size = len(head) if length is None else length
    rest = struct.pack("<BBI16sQQ", version, kind, size & 0xFFFFFFFF, bytes(16), 7, 0) + head + bulk
    return struct.pack("<2sI", b"rK", zlib.crc32(rest)) + rest


def greeting(about: object) -> bytes:
    """A greeting of ``b`` that says something about itself."""
    return forged(1, msgpack.packb([[1, 1], codec.NO_CLUSTER, "b", 7, "a", ["a", "b", "c"], about]))


GOOD = frame(Hello((1, 1), codec.NO_CLUSTER, "b", 7, "a", ("a", "b", "c")))
ENTRY = codec.make_entry(1, 1, EntryKind.BLOCK, 0, b"x")
META = SnapshotMeta(1, 1, Configuration(("a",)))

BAD: dict[str, Callable[[], bytes]] = {
    "nothing": lambda: b"",
    "random bytes": lambda: random.randbytes(300),
    "a kilobyte of zeros": lambda: bytes(1024),
    "random bytes behind the magic": lambda: b"rK" + random.randbytes(500),
    "half a greeting": lambda: GOOD[: len(GOOD) // 2],
    "a greeting with a flipped bit": lambda: GOOD[:-3] + bytes([GOOD[-3] ^ 1]) + GOOD[-2:],
    "a greeting with a tail": lambda: GOOD + b"x",
    "a large frame before any greeting": lambda: random.randbytes(1 << 20),
    "the largest frame before any greeting": lambda: bytes(8 << 20),
    "a head longer than the frame": lambda: forged(1, b"\x90", length=1 << 31),
    "an unknown kind": lambda: forged(99, b"\x90"),
    "a newer version": lambda: forged(4, b"\x90", version=9),
    "nested lists": lambda: forged(1, b"\x91" * 3000 + b"\x90"),
    "nested claims of huge lists": lambda: forged(1, b"\xdd\xff\xff\xff\xff" * 500),
    "a huge text that is not there": lambda: forged(1, b"\xdb\xff\xff\xff\xff"),
    "a map": lambda: forged(1, msgpack.packb({"a": 1})),
    "an extension": lambda: forged(1, msgpack.packb([msgpack.ExtType(5, b"x")] * 6)),
    "fields of wrong types": lambda: forged(1, msgpack.packb([1, 2, 3, 4, 5, 6, 7])),
    "an address that is none": lambda: greeting(["nowhere", 0, 1, 0]),
    "an address that is too long": lambda: greeting([f"inproc://{'x' * 300}", 0, 1, 0]),
    "a configuration before the first": lambda: greeting(["", -1, 1, 0]),
    "too little about itself": lambda: greeting(["", 0]),
    "an application before a greeting": lambda: frame(Application("b", 7, "tcp://x:1")),
    "a request to hand over before a greeting": lambda: frame(HandOver("")),
    "too few fields": lambda: forged(1, msgpack.packb([[1, 1]])),
    "negative numbers": lambda: forged(16, msgpack.packb([-1, -1, -1, False, False])),
    "a vote before a greeting": lambda: frame(Vote(10**9, 10**9, 10**9)),
    "an append before a greeting": lambda: frame(Append(10**9, 0, 0, 10**9, 1, 0, (ENTRY,))),
    "an answer before a greeting": lambda: frame(AppendReply(10**9, 1, 10**9)),
    "a founding entry before a greeting": lambda: frame(Found(ENTRY)),
    "a batch before a greeting": lambda: frame(Forward((codec.pack_batch(1, 1, 1, ()),))),
    "a snapshot before a greeting": lambda: frame(SnapshotChunk(10**9, META, 0, 1 << 40, b"x")),
    "a ping before a greeting": lambda: frame(Ping()),
    "a pong": lambda: frame(Pong()),
    "a welcome to nobody": lambda: frame(Welcome(1, bytes(16), "b", 7, ())),
    "a greeting under a strange name": lambda: frame(Hello((1, 1), bytes(16), "zz", 7, "a")),
    "a greeting with a stolen name": lambda: GOOD,
    "a greeting with its own name": lambda: frame(Hello((1, 1), bytes(16), "a", 7, "a")),
    "a greeting for somebody else": lambda: frame(Hello((1, 1), bytes(16), "b", 7, "c")),
    "a greeting from another cluster": lambda: frame(Hello((1, 1), b"x" * 16, "b", 7, "a")),
    "a greeting of impossible versions": lambda: frame(Hello((1 << 40, 0), bytes(16), "b", 7, "a")),
    "a greeting with thousands of founders": lambda: frame(Hello((1, 1), bytes(16), "b", 7, "a", ("f",) * 3000)),
}


def serves(cluster: Cluster) -> None:
    """Check that every member still takes part, under the leader it had."""
    for member in cluster:
        assert member.call("add", "served")[0]
        assert member.call("get", "k")[1] == "v"


@pytest.mark.parametrize("what", BAD)
def test_a_bad_frame_is_counted_and_its_connection_dropped(cluster: Cluster, what: str) -> None:
    member = cluster["a"]
    before = member.call("internals")["dropped"]
    with Stranger(cluster, member) as stranger:
        stranger.send(BAD[what]())
        eventually(lambda: member.call("internals")["dropped"] > before)
        eventually(stranger.is_dropped)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x00",
        b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(500),
        b"\x00SP\x00\x00\x31\x00\x00",
    ],
    ids=["silence", "one byte", "HTTP", "TLS", "another protocol of nng"],
)
def test_what_does_not_speak_the_protocol_disturbs_nobody(cluster: Cluster, data: bytes) -> None:
    with Stranger(cluster, cluster["b"], hello=data):
        serves(cluster)


def test_sizes_beyond_the_limit_cut_the_connection_before_anything_is_read(cluster: Cluster) -> None:
    for size in ((8 << 20) + 5, 1 << 40, (1 << 64) - 1):
        with Stranger(cluster, cluster["c"]) as stranger:
            stranger.raw(struct.pack(">Q", size) + b"\x80\x00\x00\x01" + bytes(1000))
            eventually(stranger.is_dropped)
    serves(cluster)


def test_members_keep_their_leader_and_their_memory_under_a_flood(cluster: Cluster) -> None:
    leader = cluster.leader()
    term = leader.call("status")["raft_term"]
    before = leader.call("internals")
    kinds = [make() for what, make in BAD.items() if "large" not in what]
    until = time.monotonic() + 3.0  # this is what is tested: a flood of three seconds
    sent = 0
    while time.monotonic() < until:
        strangers = [Stranger(cluster, leader) for _ in range(20)]
        for stranger in strangers:
            for _ in range(5):
                stranger.send(random.choice(kinds) if random.random() < 0.7 else random.randbytes(random.randrange(3000)))
                sent += 1
        assert leader.call("put", "k", "v", timeout=20)
        for stranger in strangers:
            stranger.__exit__()
    serves(cluster)
    after = leader.call("internals")
    assert after["dropped"] - before["dropped"] > 50
    assert after["rss"] - before["rss"] < 60_000, "KiB"
    assert cluster.leader() is leader
    assert leader.call("status")["raft_term"] == term


def test_large_frames_and_open_connections_take_no_lasting_memory(cluster: Cluster) -> None:
    member = cluster["b"]
    before = member.call("internals")["rss"]
    strangers = [Stranger(cluster, member) for _ in range(300)]
    for stranger in strangers[:150]:
        stranger.raw(struct.pack(">Q", 8 << 20) + b"\x80\x00\x00\x01" + bytes(1000))  # begun, and never ended
    for stranger in strangers[150:200]:
        stranger.send(bytes(1 << 20))
    serves(cluster)
    for stranger in strangers:
        stranger.__exit__()
    serves(cluster)
    eventually(lambda: member.call("internals")["rss"] - before < 150_000)


# -- those who take their time, and those who come in crowds --------------------------------------------------------------------------


def test_a_connection_that_says_nothing_or_half_of_something_is_closed_in_time(cluster: Cluster) -> None:
    """nng waits ten seconds for its own greeting, a member one for the first frame."""
    greeting = struct.pack(">Q", len(GOOD) + 4) + b"\x80\x00\x00\x01" + GOOD
    begun = [b"", REQ[:1], REQ[:6], REQ, *(REQ + greeting[:part] for part in (1, 8, 12, len(greeting) - 1))]
    with crowd(cluster, cluster["a"], begun) as strangers:
        eventually(lambda: all(stranger.is_dropped() for stranger in strangers), timeout=25)
    serves(cluster)


def test_a_greeting_that_drips_in_byte_by_byte_gets_no_more_time_than_another(cluster: Cluster) -> None:
    with Stranger(cluster, cluster["b"]) as stranger:
        drops = iter(struct.pack(">Q", 4000) + b"\x80\x00\x00\x01" + bytes(3988))

        def is_dropped_after_one_more() -> bool:
            stranger.raw(bytes([next(drops)]))
            return stranger.is_dropped()

        began = time.monotonic()
        eventually(is_dropped_after_one_more, pause=0.02)
        assert time.monotonic() - began < 10
    serves(cluster)


def open_files(member: Member) -> int:
    return len(list(Path(f"/proc/{member.run.process.pid}/fd").iterdir()))


def test_a_crowd_that_says_nothing_takes_the_place_of_nobody(cluster: Cluster) -> None:
    """Connections are few, and those that have never spoken make room: a member that starts meanwhile finds its peers."""
    leader = cluster.leader()
    late = cluster.others(leader)[0]
    late.kill()
    before = open_files(leader)
    with crowd(cluster, leader, [REQ] * 600):
        late.start()
        eventually(lambda: open_files(leader) < before + 300)
        with crowd(cluster, leader, [REQ] * 300):
            late.call("wait_ready", timeout=30)
            serves(cluster)
    eventually(lambda: open_files(leader) < before + 20)


def test_a_crowd_that_takes_all_descriptors_of_a_member_does_not_end_it(tmp_path: Path) -> None:
    """Who does not even begin to speak nng's protocol is not counted among the connections, for nng tells nobody of him."""
    with Cluster(tmp_path, config={"segment_bytes": 1 << 14}) as cluster:
        cluster.start()
        leader = cluster.leader()
        process = leader.run.process.pid
        limit = open_files(leader) + 30
        resource.prlimit(process, resource.RLIMIT_NOFILE, (limit, resource.prlimit(process, resource.RLIMIT_NOFILE)[1]))
        other = cluster.others(leader)[0]
        with crowd(cluster, leader, [b""] * 100):
            eventually(lambda: open_files(leader) >= limit)
            for number in range(12):  # each needs a segment of its own
                assert other.call("put", f"k{number}", random.randbytes(10_000).hex(), timeout=30)
        eventually(lambda: open_files(leader) < limit - 10)  # what is asked next needs some
        cluster.state()
        assert [member.call("failure") for member in cluster] == ["", "", ""]


# -- a peer that has gone mad ----------------------------------------------------------------------------------------------------------


def test_a_peer_that_says_what_no_peer_says_disturbs_nobody(tmp_path: Path) -> None:
    """It greets rightly, under its own name and incarnation, and then sends whatever comes to its mind."""
    with Cluster(tmp_path) as cluster:
        cluster.start()
        leader = cluster.leader()
        leader.call("put", "k", "v")
        mad = cluster.others(leader)[0]
        mad.stop()
        log, recovered = Log.open(RealDisk(mad.data_dir), mad.name, 1, 1 << 20)
        log.close()
        founding = codec.decode_founding(recovered.founding)
        members, term = founding.configuration.members, leader.call("status")["raft_term"]
        hello = Hello((1, 1), founding.cluster, mad.name, members[mad.name], leader.name)
        with Stranger(cluster, leader) as stranger:
            stranger.send(frame(hello, cluster=founding.cluster, sender=members[mad.name]))
            for message in ravings(term):
                stranger.send(frame(message, cluster=founding.cluster, sender=members[mad.name], receiver=members[leader.name]))
            sane = cluster.others(mad)
            for member in sane:
                assert member.call("add", "served", timeout=30)[0]
            assert not stranger.is_dropped()
        mad.start()
        cluster.wait_ready()
        cluster.state()
        assert [member.call("failure") for member in cluster] == ["", "", ""]
        assert leader.call("status")["raft_term"] == term


def ravings(term: int) -> Iterator[Message]:
    """Yield messages of a peer in a term, all of them well-formed, none of them true."""
    largest = (1 << 63) - 1
    batches = (
        b"",
        b"\x00",
        bytes(100),
        random.randbytes(100),
        codec.pack_batch(largest, largest, largest, ()),
        codec.pack_batch(0, 0, 0, ()),
    )
    yield Forward(batches)
    yield Forward(tuple(bytes([number]) for number in range(64)))
    yield Forward((codec.pack_batch(1, 1, 1, [codec.pack((1, b"k", b"mad", False))]),))  # of a session that is none
    for number in (0, 1, term, largest):
        yield AppendReply(term, number, number)
        yield AppendReply(term, largest, number, rejected=True, hint_index=number, hint_term=largest)
        yield VoteReply(min(number, term), granted=True)
        yield Vote(min(number, term), largest, largest)
        yield ReadIndex(term, number)
        yield ReadIndexReply(term, number, largest)
        yield SnapshotAck(term, number, largest)
        yield Digest(number, full=bool(number % 2), hash=b"mad")
    for name in ("a", "b", "c", "zz", ""):
        yield Application(name, 999, "tcp://127.0.0.1:1")
        yield Hindrance(name)
    yield HandOver("zz")
    yield TimeoutNow(term)
    yield SnapshotChunk(term, META, 0, largest, b"x")
    yield SnapshotChunk(term, META, largest, 0, b"x")
    yield Found(ENTRY)
    yield Found(ENTRY, {"a": "tcp://127.0.0.1:1", "zz": "tcp://127.0.0.1:2"}, largest)
    yield from (Ping(), Pong(), Welcome(1, bytes(16), "b", 7, ()))


def test_strangers_changed_nothing(cluster: Cluster) -> None:
    """No stranger founded, voted or wrote anything: all members are equal and hold what was asked for."""
    scans = cluster.state()
    assert {kv[0] for kv in scans["a"]["kvs"]} == {"k", "served"}
    assert [member.call("failure") for member in cluster] == ["", "", ""]


def test_frames_at_a_member_that_waits_to_be_founded_found_nothing(tmp_path: Path) -> None:
    with Cluster(tmp_path) as cluster:
        member = cluster["a"].start()
        for make in BAD.values():
            with Stranger(cluster, member) as stranger:
                stranger.send(make())
        assert member.call("status")["state"] == "founding"
        for other in cluster.others(member):
            other.start()
        cluster.wait_ready()
        assert member.call("put", "k", "v")[0] == 2
