"""``guests.py``: batches of clients reach the leader through any member, and are answered once this member has applied them."""

from __future__ import annotations

import pytest
from caller import Caller
from fake_network import FakeCluster

from replkv import codec, ops, wire
from replkv.admission import Admission
from replkv.config import Config, Settings
from replkv.errors import Closed, DiskFull, Overloaded, ReplkvError
from replkv.guests import FORWARDED_MAX, Guests
from replkv.kv import run
from replkv.links import Links
from replkv.machine import Machine, Outcome
from replkv.messages import EntryKind, Forward, Message
from replkv.outgoing import Outgoing
from replkv.space import Space

RETRY = 1.5
A, B = (1, "a"), (2, "b")


class Client:
    """Waits for the outcome of one batch."""

    def __init__(self) -> None:
        self.outcomes: list[Outcome] = []
        self.errors: list[ReplkvError] = []

    def finish(self, outcome: Outcome) -> None:
        self.outcomes.append(outcome)

    def fail(self, error: ReplkvError) -> None:
        self.errors.append(error)


@pytest.fixture
def guests() -> Guests:
    return Guests(RETRY, Admission(1000, 1000))


def outcome(key: tuple[int, int]) -> Outcome:
    return Outcome(*key, ((wire.OK, 7),))


# -- alone ------------------------------------------------------------------------------------------------------------------------


def test_a_batch_is_handed_on_once_and_answered_once(guests: Guests) -> None:
    client = Client()
    assert guests.submit((7, 1, None), b"batch", client)
    assert guests.can_send
    assert guests.batches_to_send(A, 0.0) == [b"batch"]
    assert not guests.can_send
    assert guests.batches_to_send(A, 0.1) == []
    guests.answer([outcome((7, 2)), outcome((7, 1)), outcome((7, 1))])
    assert client.outcomes == [outcome((7, 1))]
    assert guests.admission.commands == guests.admission.bytes == 0


def test_a_batch_in_the_session_of_another_is_neither_answered_from_its_nor_ends_it(guests: Guests) -> None:
    owner, thief = Client(), Client()
    guests.submit((7, 1, "ann"), b"hers", owner)
    guests.submit((7, 1, "bob"), b"his", thief)
    assert guests.batches_to_send(A, 0.0) == [b"hers", b"his"]
    refused = Outcome(7, 1, None, expired=True, owner="bob")
    guests.answer([refused])
    assert (owner.outcomes, thief.outcomes) == ([], [refused])
    answered = Outcome(7, 1, ((wire.OK, 7),), owner="ann")
    guests.answer([answered])
    assert (owner.outcomes, thief.outcomes) == ([answered], [refused])


def test_a_snapshot_answers_nobody_from_the_session_of_another(guests: Guests) -> None:
    machine, owner, thief = Machine(), Client(), Client()
    put = codec.pack_batch(1 << 16, 1, 0, [codec.pack(ops.Put("k", "v").to_wire())], ("ann", 0))
    for index, data in enumerate((codec.pack_batch(0, 5, 0, (), ("ann", 0)), put), 1):
        run(machine.apply(codec.make_entry(index, 1, EntryKind.BLOCK, 0, codec.encode_block([data]))))
    guests.submit((1 << 16, 1, "ann"), put, owner)
    guests.submit((1 << 16, 1, "bob"), put, thief)
    guests.answer_from(machine)
    assert owner.outcomes == [Outcome(1 << 16, 1, ((wire.OK, 2, None),), owner="ann")]
    assert thief.outcomes == [Outcome(1 << 16, 1, None, owner="bob")]


def test_a_client_that_names_the_session_of_a_member_does_not_have_its_commands_repeated() -> None:
    cluster = FakeCluster()
    leader, one, _ = roles(cluster)
    call = Caller.of(ops.Put("k", "v"))
    assert cluster.nodes[one].proposals.admission.enter(1)
    cluster.nodes[one].submit(call)
    cluster.run(lambda: call.finished)
    session = cluster.nodes[one].proposals.session
    client, data = Client(), codec.pack_batch(session, 2, 2, [codec.pack(ops.Put("k", "stolen").to_wire())], ("", 0))
    assert cluster.nodes[leader].submit_guest(codec.unpack_batch(data, wire.check_operation), data, client) is None
    assert result(cluster, client).expired
    assert cluster.nodes[one].proposals.session == session


def test_it_is_repeated_to_a_new_leader_and_to_one_that_seems_to_have_lost_it(guests: Guests) -> None:
    guests.submit((7, 1, None), b"batch", Client())
    assert guests.batches_to_send(A, 0.0) == [b"batch"]
    assert guests.batches_to_send(B, 0.1) == [b"batch"]
    assert guests.batches_to_send(B, 0.1 + RETRY) == []
    assert guests.batches_to_send(B, 0.2 + RETRY) == [b"batch"]
    guests.repeat_all()
    assert not guests.can_send, "what is repeated waits for the next turn: else a full queue keeps the node busy"
    assert guests.batches_to_send(B, 0.3 + RETRY) == [b"batch"]


def test_a_leader_does_not_repeat_to_itself(guests: Guests) -> None:
    guests.submit((7, 1, None), b"batch", Client())
    assert guests.batches_to_send(A, 0.0, lossless=True) == [b"batch"]
    assert guests.batches_to_send(A, 9e9, lossless=True) == []
    guests.repeat_all()
    assert guests.batches_to_send(A, 9e9, lossless=True) == [b"batch"]


def test_only_some_are_under_way_at_a_time(guests: Guests) -> None:
    for sequence in range(FORWARDED_MAX + 2):
        assert guests.submit((7, sequence, None), b"%d" % sequence, Client())
    assert guests.batches_to_send(A, 0.0) == [b"%d" % sequence for sequence in range(FORWARDED_MAX)]
    assert not guests.can_send
    guests.answer([outcome((7, 3))])
    assert guests.can_send
    assert guests.batches_to_send(A, 0.0) == [b"%d" % FORWARDED_MAX]


def test_a_client_that_came_back_is_answered_over_both_connections(guests: Guests) -> None:
    one, other = Client(), Client()
    guests.submit((7, 1, None), b"batch", one)
    guests.batches_to_send(A, 0.0)
    guests.submit((7, 1, None), b"batch", other)
    assert guests.batches_to_send(A, 0.1) == []
    guests.cancel((7, 1, None), one)
    guests.cancel((7, 1, None), one)
    guests.answer([outcome((7, 1))])
    assert (one.outcomes, other.outcomes) == ([], [outcome((7, 1))])


def test_a_batch_that_nobody_waits_for_is_forgotten(guests: Guests) -> None:
    client = Client()
    for _ in range(3):
        guests.submit((7, 1, None), b"batch", client)
        guests.cancel((7, 1, None), client)
    assert guests.batches_to_send(A, 0.0) == []
    assert guests.admission.commands == 0
    guests.submit((7, 1, None), b"batch", client)
    assert guests.batches_to_send(A, 0.0) == [b"batch"]
    guests.cancel((7, 1, None), client)
    guests.answer([outcome((7, 1))])
    assert guests.batches_to_send(B, 0.0) == []
    assert client.outcomes == []


def test_what_is_under_way_is_bounded() -> None:
    guests = Guests(RETRY, Admission(2, 10))
    assert guests.submit((7, 1, None), bytes(100), Client()), "a single one is let in whatever its size"
    assert not guests.submit((7, 2, None), b"x", Client())
    assert guests.submit((7, 1, None), bytes(100), Client()), "it is here already"


def test_everybody_learns_that_the_member_has_stopped(guests: Guests) -> None:
    clients = [Client() for _ in range(3)]
    for sequence, client in enumerate(clients):
        guests.submit((7, sequence, None), b"batch", client)
    guests.batches_to_send(A, 0.0)
    guests.fail_all(error := Closed("closed"))
    assert [client.errors for client in clients] == [[error]] * 3
    assert guests.admission.commands == 0


def test_after_a_snapshot_the_session_table_answers(guests: Guests) -> None:
    machine = Machine()
    opening = codec.pack_batch(0, 5, 0, ())
    (opened,) = run(machine.apply(codec.make_entry(1, 1, EntryKind.BLOCK, 0, codec.encode_block([opening]))))
    session = opened.opened
    put = codec.pack_batch(session, 1, 1, [codec.pack(ops.Put("k", "v").to_wire())])
    (applied,) = run(machine.apply(codec.make_entry(2, 1, EntryKind.BLOCK, 0, codec.encode_block([put]))))
    known, later, ended, opening_again = (Client() for _ in range(4))
    guests.submit((session, 1, None), put, known)
    guests.submit((session, 2, None), b"later", later)
    guests.submit((99, 1, None), b"ended", ended)
    guests.submit((0, 5, None), opening, opening_again)
    guests.answer_from(machine)
    assert known.outcomes == [applied]
    assert ended.outcomes == [Outcome(99, 1, None)], "it may have been applied before its session ended"
    assert later.outcomes == opening_again.outcomes == []
    assert guests.batches_to_send(A, 0.0) == [b"later", opening]


# -- through members --------------------------------------------------------------------------------------------------------------


def client_of(cluster: FakeCluster, name: str, session: int, sequence: int, *operations: ops.Packable[object]) -> Client:
    """Hand a batch to a member, as its door does."""
    client = Client()
    data = codec.pack_batch(session, sequence, sequence, [codec.pack(operation.to_wire()) for operation in operations])
    refusal = cluster.nodes[name].submit_guest(codec.unpack_batch(data, wire.check_operation), data, client)
    if refusal is not None:
        client.fail(refusal)
    return client


def result(cluster: FakeCluster, client: Client) -> Outcome:
    cluster.run(lambda: client.outcomes or client.errors)
    (found,) = client.outcomes
    return found


def session_at(cluster: FakeCluster, name: str, nonce: int = 77) -> int:
    opened = result(cluster, client_of(cluster, name, 0, nonce)).opened
    assert opened
    return opened


def roles(cluster: FakeCluster) -> tuple[str, str, str]:
    """The leader, and the two others."""
    cluster.run(cluster.leader)
    leader = cluster.leader() or ""
    one, other = (name for name in cluster.nodes if name != leader)
    return leader, one, other


@pytest.mark.parametrize("place", range(3))
def test_a_batch_is_applied_once_whoever_it_is_given_to_and_however_often(place: int) -> None:
    cluster = FakeCluster()
    members = roles(cluster)
    session = session_at(cluster, members[place])
    first = result(cluster, client_of(cluster, members[place], session, 1, ops.Add("n", 1), ops.Add("n", 1)))
    assert [answer[2] for answer in first.answers or ()] == [1, 2]
    for name in members:
        assert result(cluster, client_of(cluster, name, session, 1, ops.Add("n", 1), ops.Add("n", 1))) == first


def test_a_batch_whose_member_dies_is_repeated_through_another_and_applied_once() -> None:
    cluster = FakeCluster()
    leader, one, other = roles(cluster)
    session = session_at(cluster, one)
    lost = client_of(cluster, one, session, 1, ops.Add("n", 1))
    for _ in range(2):
        cluster.turn()  # far enough to be on its way
    cluster.crash(one)
    repeated = result(cluster, client_of(cluster, other, session, 1, ops.Add("n", 1)))
    assert lost.outcomes == []
    assert repeated.answers is not None
    again = result(cluster, client_of(cluster, leader, session, 2, ops.Add("n", 1)))
    assert [answer[2] for answer in again.answers or ()] == [2]


def test_a_batch_survives_the_loss_of_the_leader_it_went_to() -> None:
    cluster = FakeCluster()
    leader, one, _ = roles(cluster)
    session = session_at(cluster, one)
    clients = [client_of(cluster, one, session, sequence, ops.Add("n", 1)) for sequence in range(1, 6)]
    cluster.turn()
    cluster.crash(leader)
    values = [result(cluster, client).answers[0][2] for client in clients]  # type: ignore[index]  # it was applied
    assert sorted(values) == [1, 2, 3, 4, 5]


def test_small_batches_travel_together_and_large_ones_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = FakeCluster(config=Config(block_bytes=10_000))
    leader, one, _ = roles(cluster)
    session = session_at(cluster, one)
    messages: list[int] = []
    send = Links.send

    def noted(links: Links, peer: str, message: Message) -> bool:
        if isinstance(message, Forward):
            messages.append(len(message.batches))
        return send(links, peer, message)

    monkeypatch.setattr(Links, "send", noted)
    sizes = [10] * 20 + [20_000] * 2 + [4000] * 3
    clients = [client_of(cluster, one, session, sequence, ops.Put("k", "v" * size)) for sequence, size in enumerate(sizes, 1)]
    assert all(result(cluster, client).answers for client in clients)
    assert messages == [20, 1, 1, 2, 1]
    assert cluster.leader() == leader


def test_a_batch_of_a_session_that_is_no_more_is_not_executed() -> None:
    cluster = FakeCluster(settings=Settings(session_ttl=1.0))
    leader, one, _ = roles(cluster)
    session = session_at(cluster, one)
    until = cluster.now + 3.0
    while cluster.now < until:  # others keep the cluster's time going
        call = Caller.of(ops.Put("t", "x"))
        assert cluster.nodes[leader].proposals.admission.enter(1)
        cluster.nodes[leader].submit(call)
        cluster.run(lambda call=call: call.finished)  # type: ignore[misc]
    assert result(cluster, client_of(cluster, one, session, 1, ops.Add("n", 1))).expired


def test_batches_wait_for_a_leader_and_leave_nothing_behind_when_they_are_cancelled() -> None:
    cluster = FakeCluster()
    leader, one, other = roles(cluster)
    session = session_at(cluster, one)
    cluster.crash(leader)
    cluster.crash(other)
    client = client_of(cluster, one, session, 1, ops.Add("n", 1))
    until = cluster.now + 5.0
    cluster.run(lambda: cluster.now >= until)
    assert not client.outcomes
    cluster.nodes[one].guests.cancel((session, 1, None), client)
    assert cluster.nodes[one].guests.admission.commands == 0
    cluster.start(leader)
    assert session_at(cluster, one, 78) != session
    assert not client.outcomes


def test_a_member_that_has_too_much_under_way_refuses() -> None:
    cluster = FakeCluster(config=Config(max_commands_in_flight=2))
    leader, one, other = roles(cluster)
    session = session_at(cluster, one)
    cluster.crash(leader)
    cluster.crash(other)
    clients = [client_of(cluster, one, session, sequence, ops.Add("n", 1)) for sequence in range(1, 4)]
    assert [len(client.errors) for client in clients] == [0, 0, 1]
    assert isinstance(clients[2].errors[0], Overloaded)


def test_full_disks_refuse_what_grows_before_it_is_handed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = FakeCluster()
    _, one, _ = roles(cluster)
    session = session_at(cluster, one)
    space = cluster.nodes[one].space
    monkeypatch.setattr(space, "scarce", True)
    refused = client_of(cluster, one, session, 1, ops.Delete("k"), ops.Add("n", 1))
    assert isinstance(refused.errors[0], DiskFull)
    assert result(cluster, client_of(cluster, one, session, 1, ops.Delete("k"))).answers is not None


def test_a_batch_that_the_leader_had_to_empty_is_answered_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = FakeCluster()
    _, one, _ = roles(cluster)
    session = session_at(cluster, one)
    monkeypatch.setattr(Space, "allowed", lambda *_: codec.pack_batch(session, 1, 1, ()))
    assert result(cluster, client_of(cluster, one, session, 1, ops.Add("n", 1))) == Outcome(session, 1, ())


def test_a_member_that_closes_tells_its_clients(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = FakeCluster()
    _, one, _ = roles(cluster)
    session = session_at(cluster, one)
    node = cluster.nodes[one]
    monkeypatch.setattr(Outgoing, "send", lambda *_: None)
    client = client_of(cluster, one, session, 1, ops.Add("n", 1))
    node.request_close(0.0)
    cluster.run(lambda: client.errors)
    assert isinstance(client.errors[0], Closed)
    late = client_of(cluster, one, session, 2, ops.Add("n", 1))
    assert isinstance(late.errors[0], Closed)
