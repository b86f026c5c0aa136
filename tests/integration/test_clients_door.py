"""Clients at the doors of three real members, by hand: what they were told stays, and what they repeat elsewhere takes effect once."""

from __future__ import annotations

import itertools
import selectors
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from authority import Authority
from cluster import PATIENCE, Cluster, Member, eventually, free_ports

import replkv
from replkv import codec, letters, ops, whereabouts
from replkv.errors import AuthenticationFailed, PermissionDenied
from replkv.letters import Batch, Hello, Outcome, Part, Pull, Read, Welcome
from replkv.parts import Assembly
from replkv.stream import Stream
from replkv.values import Event

NONCE = 4711


class HandMade:
    """A client that does what it is told, over one connection at a time."""

    def __init__(self, url: str) -> None:
        self.stream = Stream(url)
        self.numbers = itertools.count(1)
        self.taken = 0
        self.parts = Assembly()
        self.replies: dict[int, Any] = {}
        self.welcome: Welcome = self.hear(self.ask(Hello, letters.VERSION, 1))

    def ask(self, kind: Callable[..., Any], *fields: Any, **options: Any) -> int:
        """Send a request of a kind; return its number."""
        number = next(self.numbers)
        self.stream.send(letters.encode_frame(self.taken, [letters.encode_letter(kind(number, *fields, **options))]))
        return number

    def hear(self, number: int) -> Any:
        """Wait for the reply of a number."""
        give_up = time.monotonic() + PATIENCE
        with selectors.DefaultSelector() as selector:
            selector.register(self.stream, self.stream.mask)
            while number not in self.replies:
                assert time.monotonic() < give_up, self.replies
                selector.modify(self.stream, self.stream.mask)
                for _, mask in selector.select(0.1):
                    self._take_in(self.stream.handle(mask))
        return self.replies.pop(number)

    def _take_in(self, frames: list[bytes]) -> None:
        self.taken += len(frames)
        for frame in frames:
            for reply in letters.decode_replies(frame).letters:
                whole = self.parts.add(reply) if isinstance(reply, Part) else reply
                if whole is not None:
                    self.replies[whole.number] = whole
        if frames:
            self.stream.send(letters.encode_frame(self.taken, []))

    def open(self) -> int:
        """Open a session."""
        opened: int = self.hear(self.ask(Batch, codec.pack_batch(0, NONCE, 0, (), ("", 0)))).opened
        return opened

    def add(self, session: int, sequence: int) -> int:
        """Begin to count one up; return the request's number.  All answers are asked to be kept."""
        data = codec.pack_batch(session, sequence, 1, [codec.pack(ops.Add("n", 1).to_wire())], ("", 0))
        return self.ask(Batch, data)

    def count(self, consistency: str = "linearizable") -> int:
        """Read how far it was counted."""
        record = self.hear(self.ask(Read, ops.Get("n").to_wire(), consistency)).raw[1]
        return int(record[1]) if record else 0


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    with Cluster(tmp_path) as cluster:
        yield cluster.start()


Connect = Callable[[Member | str], HandMade]


@pytest.fixture
def connect() -> Iterator[Connect]:
    """Connects to an address, or to a member by its data directory."""
    made: list[HandMade] = []

    def to(where: Member | str) -> HandMade:
        made.append(HandMade(where if isinstance(where, str) else whereabouts.find(str(where.data_dir))[0]))
        return made[-1]

    yield to
    for client in made:
        client.stream.close()


@pytest.mark.parametrize("turns_before_the_kill", range(3))
def test_a_batch_is_repeated_at_another_member_and_applied_once(cluster: Cluster, connect: Connect, turns_before_the_kill: int) -> None:
    leader = cluster.leader()
    follower, other = cluster.others(leader)
    client = connect(follower)
    session = client.open()
    for sequence in range(1, 101):
        assert client.hear(client.add(session, sequence)).answers[0][2] == sequence
    under_way = [client.add(session, sequence) for sequence in range(101, 111)]
    if turns_before_the_kill:
        client.hear(under_way[4 * turns_before_the_kill])
    follower.kill()
    with pytest.raises(ConnectionError):
        client.hear(next(client.numbers))
    again = connect(other)
    outcomes = [again.hear(again.add(session, sequence)) for sequence in range(101, 111)]
    assert all(isinstance(outcome, Outcome) and outcome.answers for outcome in outcomes)
    assert sorted(outcome.answers[0][2] for outcome in outcomes) == list(range(101, 111))
    assert again.count() == 110
    assert connect(leader).count() == 110


def test_writes_go_on_when_the_leader_is_killed(cluster: Cluster, connect: Connect) -> None:
    leader = cluster.leader()
    client = connect(cluster.others(leader)[0])
    session = client.open()
    under_way = []
    for sequence in range(1, 201):
        under_way.append(client.add(session, sequence))
        if sequence == 100:
            leader.kill()
    values = [client.hear(number).answers[0][2] for number in under_way]
    assert sorted(values) == list(range(1, 201))
    assert client.count() == 200


def test_a_watch_goes_on_at_another_member_where_it_was(cluster: Cluster, connect: Connect) -> None:
    leader = cluster.leader()
    follower, other = cluster.others(leader)
    writer, client = connect(leader), connect(follower)
    session = writer.open()
    seen: list[int] = []
    place = (2, 0, False)
    for sequence in range(1, 301):
        written = writer.add(session, sequence)
        if sequence == 150:
            follower.kill()
            client = connect(other)
        writer.hear(written)
        helping = client.hear(client.ask(Pull, b"n", b"n\0", *place[:2], synced=place[2]))
        seen += [int(event.kv.text) for event in helping.events]
        place = (helping.revision, helping.passed, helping.caught_up)
    assert seen == list(range(1, 301))


def test_a_large_answer_arrives_whole(cluster: Cluster, connect: Connect) -> None:
    for number in range(12):
        cluster["a"].call("put", f"large/{number:02}", "x" * 1_000_000)
    client = connect(cluster["b"])
    raw = client.hear(client.ask(Read, ops.Scan(prefix="large/").to_wire(), "linearizable")).raw
    assert [len(record[1]) for record in raw[2]] == [1_000_000] * 12


def test_clients_of_other_machines_learn_where_all_members_serve_them(tmp_path: Path, connect: Connect) -> None:
    ports = free_ports(3)
    with Cluster(tmp_path) as cluster:
        for member, port in zip(cluster, ports, strict=True):
            member.arguments["config"] = {"clients": f"127.0.0.1:{port}"}
        cluster.start()
        expected = {name: f"tcp://127.0.0.1:{port}" for name, port in zip("abc", ports, strict=True)}
        assert eventually(lambda: connect(expected["a"]).welcome.addresses == expected, pause=0.2)
        assert whereabouts.find(str(cluster["b"].data_dir)) == [f"ipc://{cluster['b'].data_dir}/clients", expected["b"]]
        client = connect(expected["c"])
        session = client.open()
        assert client.hear(client.add(session, 1)).answers[0][2] == 1


def test_a_member_that_was_killed_serves_clients_again_after_its_restart(cluster: Cluster, connect: Connect) -> None:
    member = cluster["a"]
    member.kill()
    assert (member.data_dir / "clients").exists()
    with pytest.raises(ConnectionError):
        connect(member)
    member.start()
    client = connect(member)
    assert client.welcome.name == "a"
    member.stop()
    with pytest.raises(ConnectionError, match="closed it"):
        client.hear(next(client.numbers))
    assert not (member.data_dir / "clients").exists()
    with pytest.raises(FileNotFoundError):
        connect(member)


# -- users ------------------------------------------------------------------------------------------------------------------------


def lock_up(member: Member) -> None:
    """Have users, ann with a password, and enable auth."""
    with replkv.connect(member.data_dir) as client:
        client.auth.add_user("root", "hunter2")
        client.auth.add_user("ann", "open sesame")
        client.auth.add_role("dev")
        client.auth.grant_permission("dev", "readwrite", prefix="app/")
        client.auth.grant_role("ann", "dev")
        client.auth.enable()


def test_a_user_goes_from_member_to_member_with_its_token_and_what_it_did_counts_once(cluster: Cluster) -> None:
    leader = cluster.leader()
    follower, other = cluster.others(leader)
    lock_up(leader)
    where = [member.data_dir for member in (follower, other)]
    with replkv.connect(where, user="ann", password="open sesame") as client:
        names = {member.name: member for member in (follower, other)}
        for count in range(1, 51):
            assert client.add("app/n", 1).value == count
        first = client.name
        names[first].kill()
        for count in range(51, 101):
            assert client.add("app/n", 1).value == count
        assert client.name != first
        with pytest.raises(PermissionDenied, match="user ann may not read b'other'"):
            client.get("other")


def test_who_is_not_let_in_is_told_at_once_by_every_member(cluster: Cluster) -> None:
    leader = cluster.leader()
    lock_up(leader)
    for member in (leader, *cluster.others(leader)):
        logins: list[dict[str, Any]] = [{}, {"user": "ann", "password": "wrong"}, {"user": "nobody", "password": "open sesame"}]
        for login in logins:
            began = time.monotonic()
            with pytest.raises(AuthenticationFailed):
                replkv.connect(member.data_dir, timeout=PATIENCE, **login)
            assert time.monotonic() - began < PATIENCE / 2


def test_whose_password_was_changed_is_told_so_and_its_watch_ends(cluster: Cluster) -> None:
    leader = cluster.leader()
    follower, _ = cluster.others(leader)
    lock_up(leader)
    with (
        replkv.connect(leader.data_dir, user="root", password="hunter2") as admin,
        replkv.connect(follower.data_dir, user="ann", password="open sesame") as client,
        client.watch(prefix="app/") as watch,
    ):
        admin.put("app/k", "v")
        event = next(iter(watch))
        assert isinstance(event, Event)
        assert event.kv.key == b"app/k"
        admin.auth.change_password("ann", "another")
        with pytest.raises(AuthenticationFailed):
            next(iter(watch))
        assert eventually(lambda: _is_refused(client))
        with replkv.connect(follower.data_dir, user="ann", password="another") as again:
            assert again.get("app/k") is not None


def test_a_certificate_lets_its_user_in_and_no_other(tmp_path: Path) -> None:
    ours = Authority(tmp_path / "ours")
    tls = replkv.TLS(**ours.member("a").tls, client_ca=ours.client_ca, require_client_cert=False)
    config = replkv.Config(clients="127.0.0.1:0")
    with replkv.Replica("a", data_dir=tmp_path / "a", config=config, tls=tls) as replica:
        replica.wait_ready(PATIENCE)
        replica.auth.add_user("root", "hunter2")
        for user in ("cert", "bob"):
            replica.auth.add_user(user, "bob's" if user == "bob" else None)
        replica.auth.add_role("dev")
        replica.auth.grant_permission("dev", "readwrite", prefix="app/")
        replica.auth.grant_role("cert", "dev")
        replica.auth.enable()
        url = whereabouts.find(str(tmp_path / "a"))[1]
        with replkv.connect(url, tls=replkv.TLS(**ours.client("cert").tls), timeout=PATIENCE) as client:
            assert client.add("app/n", 1).value == 1
            with pytest.raises(PermissionDenied, match="user cert may not read"):
                client.get("other")
        with pytest.raises(AuthenticationFailed, match="names eve, which is no user"):
            replkv.connect(url, tls=replkv.TLS(**ours.client("eve").tls), timeout=PATIENCE)
        without = replkv.TLS(ca=ours.member("b").ca)
        with replkv.connect(url, user="bob", password="bob's", tls=without, timeout=PATIENCE) as client:
            assert client.auth.user("bob").roles == ()
        with pytest.raises(AuthenticationFailed, match="only users"):
            replkv.connect(url, tls=without, timeout=PATIENCE)


def _is_refused(client: replkv.Client) -> bool:
    try:
        client.get("app/k")
    except AuthenticationFailed:
        return True
    return False
