"""``badge.py`` and ``remote.py``: a client proves to each member who it is, and what it does counts once, whoever it is by then."""

from __future__ import annotations

from typing import Any

import pytest
from caller import Caller
from fake_members import Front, Members, RemoteUnderTest

from replkv import codec, letters, ops
from replkv.badge import Badge
from replkv.errors import AuthenticationFailed, OutcomeUnknown, Overloaded
from replkv.feed import Wanted
from replkv.letters import Batch, Failed, Hello, Prove
from replkv.plans import Read as ReadPlan
from replkv.values import Span

PASSWORD = b"open sesame"
TOKEN = b"ann".ljust(letters.TOKEN, b".")


@pytest.fixture
def members() -> Members:
    made = Members()
    made.users["ann"] = (PASSWORD, 5)
    return made


@pytest.fixture
def alone(members: Members) -> Members:
    """A client of ``a`` learns of no others."""
    members.advertised.clear()
    return members


def client_of(members: Members, names: str = "abc", *, user: str = "ann", password: Any = PASSWORD) -> RemoteUnderTest:
    return members.client(names, user=user, password=password)


def connected(members: Members, names: str = "abc", **options: Any) -> RemoteUnderTest:
    client = client_of(members, names, **options)
    client.run(lambda: client.connected)
    return client


def put(client: RemoteUnderTest, key: str, value: str = "v") -> Caller:
    call = Caller.of(ops.Put(key, value))
    client.admission.enter_anyway(len(call.command or b""))
    client.submit(call)
    return call


def ask(client: RemoteUnderTest, key: str) -> Caller:
    call = Caller()
    client.ask(ReadPlan(ops.Get(key), b"", "linearizable"), call)
    return call


def done(client: RemoteUnderTest, *calls: Caller) -> None:
    client.run(lambda: all(call.finished for call in calls))


def guests(front: Front) -> list[tuple[str, int] | None]:
    """On whose behalf batches came."""
    return [codec.unpack_batch(request.data, lambda _: None).guest for request in front.seen(Batch)]


def drop(members: Members, *names: str) -> None:
    """Break all connections to members, which go on."""
    for name in names or tuple(members.fronts):
        members[name].die()
        members[name].up = True


def test_a_client_proves_by_its_password_who_it_is_and_acts_as_that(members: Members) -> None:
    client = connected(members, "a")
    call = put(client, "k")
    done(client, call)
    assert call.error is None
    assert members["a"].seen(Hello)[0].user == "ann"
    assert members["a"].seen(Prove) == [Prove(2, b"", PASSWORD)]
    assert set(guests(members["a"])) == {("ann", 5)}
    (session,) = [one for one in members.log.machine.sessions._table.values() if one.owner is not None]
    assert session.owner == "ann"


def test_without_auth_a_client_is_nobody_and_shows_nothing(members: Members) -> None:
    members.users.clear()
    client = connected(members, "a")
    done(client, put(client, "k"))
    assert members["a"].seen(Prove) == []
    assert set(guests(members["a"])) == {("", 0)}


def test_at_the_next_member_the_token_will_do_and_when_it_has_ended_the_password(members: Members) -> None:
    client = connected(members, "a")
    members["a"].die()
    client.run(lambda: client.at == "b")
    assert members["b"].seen(Prove) == [Prove(2, TOKEN, b"")], "the password is not shown without need"
    members.tokens.clear()
    members["b"].die()
    client.run(lambda: client.at == "c")
    assert members["c"].seen(Prove) == [Prove(2, TOKEN, b""), Prove(3, b"", PASSWORD)]


def test_a_client_that_is_not_let_in_ends_at_once_and_says_why(members: Members) -> None:
    """It tried on until its time was over, and said that no member had answered."""
    for wrong in (client_of(members, password=b"wrong"), client_of(members, user="", password=None), client_of(members, user="bob")):
        call, began = ask(wrong, "k"), members.now
        done(wrong, call)
        assert isinstance(call.error, AuthenticationFailed)
        assert wrong.stopped
        assert isinstance(wrong.failure, AuthenticationFailed)
        assert members.now - began < 0.1
        assert isinstance(wrong.gone(), AuthenticationFailed)


def test_a_member_that_has_too_many_passwords_to_compare_is_left_for_another(members: Members, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(members["a"], "prove", lambda cable, prove: cable.reply(Failed(prove.number, Overloaded("too many"))))
    client = connected(members)
    assert client.at in ("b", "c")


def test_a_password_may_take_longer_to_be_compared_than_a_greeting(members: Members, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    monkeypatch.setattr(members["a"], "prove", lambda *them: asked.append(them))
    client = client_of(members, "a")
    client.run(lambda: asked)
    client.settle(5.0)
    Front.prove(members["a"], *asked.pop())
    client.settle()
    assert client.at == "a"


def turn_away(members: Members, client: RemoteUnderTest) -> None:
    """Give the user another password, so that its client is let in nowhere any more."""
    members.users["ann"] = (b"another", 9)
    members.tokens.clear()
    drop(members)
    client.run(lambda: client._badge.refusal is not None)


def test_who_is_let_in_no_more_is_told_so_at_every_call_until_it_is_let_in_again(members: Members) -> None:
    client = connected(members)
    feed = client.feed(Wanted.of(Span(b"k", b"l")), lambda: None)
    done(client, put(client, "k"))
    for front in members.fronts.values():
        front.answers_batches = False
    unknown = put(client, "under way")
    client.settle()
    turn_away(members, client)
    assert isinstance(unknown.error, OutcomeUnknown), "it was handed over"
    calls = [put(client, "x"), ask(client, "k")]
    done(client, *calls)
    assert [type(call.error) for call in calls] == [AuthenticationFailed] * 2
    assert isinstance(feed.failed, AuthenticationFailed)
    late = client.feed(Wanted.of(Span(b"k", b"l")), lambda: None)
    client.settle()
    assert isinstance(late.failed, AuthenticationFailed)
    assert not client.stopped
    for front in members.fronts.values():
        front.answers_batches = True
    members.users["ann"] = (PASSWORD, 11)
    client.run(lambda: client.connected)
    again = [put(client, "x"), ask(client, "x")]
    done(client, *again)
    assert [call.error for call in again] == [None, None]
    assert client.admission.commands == 0


def test_who_is_let_in_no_more_does_not_guess_on_and_on(members: Members) -> None:
    client = connected(members)
    turn_away(members, client)
    before = sum(len(front.seen(Prove)) for front in members.fronts.values())
    client.settle(120.0)
    assert sum(len(front.seen(Prove)) for front in members.fronts.values()) - before < 10


def test_what_is_under_way_goes_on_when_its_user_has_proved_anew_who_it_is(alone: Members) -> None:
    """It was refused: it said on whose behalf it was, as that had been proved before the user was changed."""
    client = connected(alone, "a")
    done(client, put(client, "k"))
    alone["a"].leader = None
    call = put(client, "n")
    client.run(lambda: alone["a"].cables[-1].held)
    alone["a"].leader = "a"
    alone.users["ann"] = (PASSWORD, 9)
    alone.tokens.clear()
    drop(alone, "a")
    done(client, call)
    assert call.error is None
    assert guests(alone["a"])[-1] == ("ann", 9)
    assert client.admission.commands == 0


def test_a_batch_whose_answer_was_lost_is_repeated_by_who_has_proved_itself_anew_and_counts_once(alone: Members) -> None:
    client = connected(alone, "a")
    done(client, put(client, "k"))
    alone["a"].answers_batches = False
    call = Caller.of(ops.Add("n", 1))
    client.admission.enter_anyway(len(call.command or b""))
    client.submit(call)
    client.run(lambda: b"n" in alone.log.machine.store.newest)
    alone["a"].answers_batches = True
    alone.users["ann"] = (PASSWORD, 9)
    alone.tokens.clear()
    drop(alone, "a")
    done(client, call)
    assert call.error is None
    assert call.answer is not None
    assert call.answer[2] == 1
    assert alone.log.machine.store.newest[b"n"][1] == b"1"


def test_when_a_client_becomes_another_user_what_was_under_way_is_unknown_and_what_waits_is_done_once(alone: Members) -> None:
    """Auth was enabled: its session is nobody's, and to a user unknown."""
    users = dict(alone.users)
    alone.users.clear()
    client = connected(alone, "a")
    done(client, put(client, "k"))
    alone["a"].answers_batches = False
    under_way = put(client, "a")
    client.settle()
    alone.users.update(users)
    alone["a"].answers_batches = True
    drop(alone, "a")
    client.run(lambda: not client.connected)
    waiting = put(client, "b")
    done(client, under_way, waiting)
    assert isinstance(under_way.error, OutcomeUnknown)
    assert "another user now" in str(under_way.error)
    assert waiting.error is None
    assert guests(alone["a"])[-1] == ("ann", 5)
    assert alone.log.machine.store.newest[b"b"][4] == 1
    assert client.admission.commands == 0


@pytest.mark.parametrize("why", [AuthenticationFailed("changed")])
def test_a_member_that_takes_a_client_for_nobody_any_more_is_asked_anew(members: Members, why: AuthenticationFailed) -> None:
    client = connected(members, "a")
    front, real = members["a"], Front.read
    front.read = lambda cable, read: cable.reply(Failed(read.number, why))  # type: ignore[method-assign]
    call = ask(client, "k")
    client.run(lambda: not client.connected)
    front.read = lambda cable, read: real(front, cable, read)  # type: ignore[method-assign]
    done(client, call)
    assert call.error is None


@pytest.mark.parametrize(
    ("user", "password", "error"),
    [
        ("ann", None, ValueError),
        ("", b"x", ValueError),
        ("ann", b"", ValueError),
        ("ann", "x" * 1025, ValueError),
        ("a\nb", b"x", ValueError),
        ("ann", 7, TypeError),
    ],
)
def test_a_user_and_a_password_belong_together(user: str, password: Any, error: type[Exception]) -> None:
    with pytest.raises(error) as raised:
        Badge(user, password)
    assert "xxxx" not in str(raised.value)


def test_nothing_a_client_says_of_itself_has_its_secrets_in_it(members: Members) -> None:
    client = connected(members)
    shown = f"{client!r} {client.name} {client.trouble} {client._badge!r} {client._badge.proof(1)!r}"
    assert "sesame" not in shown
    assert TOKEN.decode() not in shown
