"""``login.py`` and the door behind it: nobody is told anything before it is let in, and a user has its own rights and no others."""

from __future__ import annotations

import logging
import pickle
from collections.abc import Callable
from typing import Any

import pytest
from visitors import Hall, Visitor, batch, pull, read

from replkv import codec, complaints, door, errands, letters, login, ops, passwords, wire
from replkv.auth_ops import ChangeAuth
from replkv.badge import Badge
from replkv.errors import AuthenticationFailed, Incompatible, NoLeader, Overloaded, PermissionDenied, RoleNotFound
from replkv.letters import Answer, Ask, Batch, Cancel, Events, Failed, HandOver, Hello, Inspect, Look, Outcome, Ping, Prove, Welcome
from replkv.login import Allowance
from replkv.wire import ADD_ROLE, ADD_TOKEN, ADD_USER, CHANGE_PASSWORD, DELETE_USER, DISABLE, ENABLE, GRANT_PERMISSION, GRANT_ROLE

OPEN = b"open sesame"


@pytest.fixture(autouse=True)
def cheap(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hashes that take no time."""
    monkeypatch.setattr(passwords, "LOG2_N", 1)


def kept(password: bytes) -> bytes:
    return passwords.hashed(password, bytes(passwords.SALT)) if password else b""


def change(visitor: Visitor, *changes: tuple[Any, ...], nonce: int = 700) -> None:
    """Change users and roles, in a session that is opened for it."""
    session = visitor.opens(nonce)
    operations = [ChangeAuth(what, tuple(arguments)) for what, *arguments in changes]
    outcome = visitor.asks(visitor.batch(nonce + 1, session, 1, *operations))
    assert [answer[0] for answer in outcome.answers] == [wire.OK] * len(changes), outcome.answers


def lock_up(hall: Hall) -> None:
    """Have users: root, ann and bob with passwords, cert without; all but bob may do something; and enable auth."""
    changes = (
        (ADD_USER, "root", kept(b"hunter2")),
        (ADD_USER, "ann", kept(OPEN)),
        (ADD_ROLE, "dev"),
        (GRANT_PERMISSION, "dev", wire.READWRITE, b"app/", b"app0"),
        (GRANT_ROLE, "ann", "dev"),
        (ADD_USER, "bob", kept(b"bob's")),
        (ADD_USER, "cert", b""),
        (GRANT_ROLE, "cert", "dev"),
        (ENABLE,),
    )
    change(hall.visitor(), *changes, nonce=500)
    hall.run(lambda: hall.node.machine.auth.enabled)


def root(hall: Hall) -> Visitor:
    visitor = hall.stranger()
    visitor.logs_in("root", b"hunter2")
    return visitor


def ann(hall: Hall) -> Visitor:
    visitor = hall.stranger()
    visitor.logs_in("ann", OPEN)
    return visitor


def bob(hall: Hall) -> Visitor:
    visitor = hall.stranger()
    visitor.logs_in("bob", b"bob's")
    return visitor


@pytest.fixture
def hall() -> Hall:
    made = Hall()
    made.run(lambda: made.node.ready)
    lock_up(made)
    return made


@pytest.fixture
def halls() -> dict[str, Hall]:
    """Three members, each with a door; ``a`` leads."""
    first = Hall("abc")
    first.run(first.cluster.leader)
    all_of_them = {"a": first, **{name: Hall("abc", at="abc".index(name), cluster=first.cluster) for name in "bc"}}
    leader = first.cluster.leader()
    assert leader is not None
    lock_up(all_of_them[leader])
    first.run(lambda: all(node.machine.auth.enabled for node in first.cluster.nodes.values()))
    others = [name for name in "abc" if name != leader]
    return {"leader": all_of_them[leader], "follower": all_of_them[others[0]], "other": all_of_them[others[1]]}


def told(visitor: Visitor) -> list[bytes]:
    """Take the frames that have come, as they are."""
    frames, visitor.hall.transport.frames[visitor.pipe] = visitor.hall.transport.frames[visitor.pipe], []
    visitor.taken += len(frames)
    return frames


# -- who is let in ----------------------------------------------------------------------------------------------------------------


def test_a_user_is_let_in_by_its_password_and_has_its_rights_and_no_others(hall: Hall) -> None:
    visitor = hall.stranger()
    welcome = visitor.logs_in("ann", OPEN)
    assert (welcome.user, welcome.stamp) == ("ann", hall.node.machine.auth.revision)
    assert len(welcome.token) == letters.TOKEN
    session = visitor.opens()
    done = visitor.asks(visitor.batch(11, session, 1, ops.Put("app/k", "v"), ops.Put("other", "v")))
    assert [answer[0] for answer in done.answers] == [wire.OK, 16]
    assert visitor.asks(read(12, ops.Get("app/k"))).raw[1][1] == b"v"
    assert isinstance(visitor.asks(read(13, ops.Get("other"))).error, PermissionDenied)
    assert isinstance(visitor.asks(read(14, ops.Get("other"), "local")).error, PermissionDenied)
    assert isinstance(visitor.asks(pull(15, 1)).error, PermissionDenied)


def test_while_auth_is_not_enabled_everybody_is_let_in_as_nobody_whatever_it_says() -> None:
    """Who said it was root would be root when auth is enabled, although it never proved that."""
    hall = Hall()
    hall.run(lambda: hall.node.ready)
    visitor = hall.stranger()
    welcome = visitor.says_it_is("root")
    assert (welcome.user, welcome.stamp, welcome.token) == ("", 0, b"")
    lock_up(hall)
    hall.wait(0.2)
    assert visitor.kicked


def test_a_certificate_lets_its_user_in_without_a_word(hall: Hall) -> None:
    visitor = hall.stranger()
    hall.transport.certified[visitor.pipe] = frozenset(("cert",))
    welcome = visitor.greets()
    assert (welcome.user, welcome.stamp, welcome.token) == ("cert", hall.node.machine.auth.revision, b"")
    assert visitor.asks(read(2, ops.Get("app/k"))).raw == (wire.OK, None)
    other = hall.stranger()
    hall.transport.certified[other.pipe] = frozenset(("cert",))
    assert other.says_it_is("ann") == Ask(1), "it has said that it is somebody else, whose password it may know"


@pytest.mark.parametrize("names", [None, frozenset[str](), frozenset(("nobody",)), frozenset(("",))])
def test_who_says_no_name_and_has_no_certificate_of_a_user_is_not_let_in(hall: Hall, names: frozenset[str] | None) -> None:
    visitor = hall.stranger()
    if names is not None:
        hall.transport.certified[visitor.pipe] = names
    failed = visitor.asks(Hello(1, letters.VERSION, 99))
    assert isinstance(failed.error, AuthenticationFailed)
    assert "member a: " in str(failed.error)
    assert "nobody, which is no user" in str(failed.error) if names and "nobody" in names else "user=" in str(failed.error)


def test_an_unknown_user_and_one_without_a_password_are_refused_as_one_with_a_wrong_one_is(
    hall: Hall, monkeypatch: pytest.MonkeyPatch
) -> None:
    compared: list[bytes] = []
    real = passwords.matches

    def matches(password: bytes, kept: bytes) -> bool:
        compared.append(password)
        return real(password, kept)

    monkeypatch.setattr(passwords, "matches", matches)
    texts: set[str] = set()
    for user in ("ann", "cert", "who"):
        visitor = hall.stranger()
        assert visitor.says_it_is(user) == Ask(1)
        texts.add(str(visitor.proves(b"a guess").error).replace(user, "..."))
    assert compared == [b"a guess"] * 3
    assert texts == {"member a does not let user ... in: no such user, or a wrong password"}


def test_the_empty_password_is_nobody_s(hall: Hall) -> None:
    visitor = hall.stranger()
    assert visitor.says_it_is("cert") == Ask(1)
    assert isinstance(visitor.proves(b"").error, AuthenticationFailed)


def behind(halls: dict[str, Hall], admin: Visitor, *changes: tuple[Any, ...]) -> Hall:
    """Change users while the follower stands still: what comes to its door meets the old state."""
    at = halls["follower"]
    at.cluster.paused.add(at.name)
    change(admin, *changes)
    return at


def test_who_was_made_a_user_a_moment_ago_is_let_in_at_every_member(halls: dict[str, Hall]) -> None:
    admin, at = root(halls["leader"]), halls["follower"]
    visitor, certified = at.stranger(), at.stranger()
    at.transport.certified[certified.pipe] = frozenset(("eve",))
    assert visitor.says_it_is("eve") == Ask(1)
    behind(halls, admin, (ADD_USER, "eve", kept(b"apple")))
    visitor.post(Prove(2, b"", b"apple"))
    certified.post(Hello(1, letters.VERSION, 99))
    at.turn()
    at.cluster.paused.clear()
    assert visitor._welcomed(visitor.hears(2)).user == "eve"
    assert certified._welcomed(certified.hears(1)).user == "eve"


def test_a_password_that_was_changed_a_moment_ago_does_not_do_at_any_member(halls: dict[str, Hall]) -> None:
    admin, visitor = root(halls["leader"]), halls["follower"].stranger()
    assert visitor.says_it_is("ann") == Ask(1)
    at = behind(halls, admin, (CHANGE_PASSWORD, "ann", kept(b"another")))
    visitor.post(Prove(2, b"", OPEN))
    at.turn()
    at.cluster.paused.clear()
    assert isinstance(visitor.hears(2).error, AuthenticationFailed)


def test_without_a_leader_a_member_goes_by_what_it_knows_and_gives_no_token(halls: dict[str, Hall]) -> None:
    at = halls["follower"]
    for name in {"a", "b", "c"} - {at.name}:
        at.cluster.crash(name)
    visitor = at.stranger()
    welcome = visitor.logs_in("ann", OPEN)
    assert (welcome.user, welcome.token) == ("ann", b"")
    assert visitor.asks(read(3, ops.Get("app/k"), "local")).raw == (wire.OK, None)
    assert isinstance(at.stranger().asks(Hello(1, letters.VERSION, 9)).error, AuthenticationFailed)
    wrong = at.stranger()
    wrong.says_it_is("ann")
    assert isinstance(wrong.proves(b"wrong").error, NoLeader), "it may have heard of a new password too late"


def test_who_is_logging_in_when_auth_is_disabled_is_let_in_as_nobody(hall: Hall) -> None:
    admin, visitor = root(hall), hall.stranger()
    assert visitor.says_it_is("ann") == Ask(1)
    change(admin, (DISABLE,))
    assert visitor._welcomed(visitor.proves(b"whatever")).user == ""


def test_a_client_that_goes_while_it_logs_in_leaves_nothing_behind_and_costs_no_more(hall: Hall, monkeypatch: pytest.MonkeyPatch) -> None:
    jobs: list[Callable[[], None]] = []
    hall.porter._elsewhere = jobs.append
    visitor = hall.stranger()
    visitor.says_it_is("ann")
    visitor.says(Prove(2, b"", OPEN))
    hall.run(lambda: jobs)
    visitor.goes()
    monkeypatch.setattr(passwords, "matches", lambda *_: pytest.fail("nobody waits for it"))
    jobs.pop()()
    hall.wait(0.1)
    assert hall.empty


def test_a_member_that_was_just_started_takes_no_user_for_nobody(halls: dict[str, Hall]) -> None:
    """Its log had not been applied again: auth was not enabled in what it knew, and its client's commands were refused as nobody's."""
    at = halls["follower"]
    cluster, name = at.cluster, at.name
    cluster.crash(name)
    cluster.start(name)
    again = Hall("abc", at="abc".index(name), cluster=cluster)
    assert not again.node.machine.auth.enabled
    visitor, nobody = again.stranger(), again.stranger()
    assert visitor.says_it_is("ann") == Ask(1)
    assert isinstance(nobody.asks(Hello(1, letters.VERSION, 9)).error, AuthenticationFailed)


def test_a_member_that_was_just_started_and_finds_no_leader_goes_by_what_it_knows(halls: dict[str, Hall]) -> None:
    at = halls["follower"]
    cluster, name = at.cluster, at.name
    for each in "abc":
        cluster.crash(each)
    cluster.start(name)
    again = Hall("abc", at="abc".index(name), cluster=cluster)
    began = cluster.now
    welcome = again.stranger().greets()
    assert (welcome.user, welcome.stamp) == ("", 0)
    assert login.PATIENCE <= cluster.now - began < 1.9, "before its client is tired of waiting"


# -- tokens -----------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def token(hall: Hall) -> bytes:
    return hall.stranger().logs_in("ann", OPEN).token


def refused(hall: Hall, token: bytes, user: str = "ann") -> bool:
    visitor = hall.stranger()
    reply = visitor.says_it_is(user)
    if reply != Ask(1):
        return True
    reply = visitor.proves(token=token)
    return isinstance(reply, Failed) and isinstance(reply.error, AuthenticationFailed)


def test_a_token_lets_its_user_in_at_every_member_at_once(halls: dict[str, Hall]) -> None:
    leader, follower, other = halls["leader"], halls["follower"], halls["other"]
    token = leader.stranger().logs_in("ann", OPEN).token
    for at in (follower, other, leader):
        visitor = at.stranger()
        welcome = visitor.logs_in("ann", token=token)
        assert (welcome.user, welcome.token) == ("ann", b"")
    token = follower.stranger().logs_in("ann", OPEN).token
    assert other.stranger().logs_in("ann", token=token).user == "ann"


def test_a_token_ends_after_its_time(hall: Hall, token: bytes) -> None:
    assert not refused(hall, token)
    hall.wait(login.TOKEN_FOR - 1)
    assert not refused(hall, token)
    hall.wait(2.0)
    assert refused(hall, token)


@pytest.mark.parametrize(
    "changes",
    [
        [(CHANGE_PASSWORD, "ann", b"")],
        [(DELETE_USER, "ann")],
        [(DELETE_USER, "ann"), (ADD_USER, "ann", b"")],
        [(DISABLE,), (ENABLE,)],
    ],
    ids=["another password", "removed", "removed and made anew", "auth disabled and enabled"],
)
def test_a_token_is_worth_nothing_after(hall: Hall, token: bytes, changes: list[tuple[Any, ...]]) -> None:
    assert not refused(hall, token)
    change(root(hall), *changes)
    assert refused(hall, token)


def test_a_token_is_only_its_own_user_s(hall: Hall, token: bytes) -> None:
    assert refused(hall, token, "root")
    assert refused(hall, token, "bob")
    assert refused(hall, bytes(letters.TOKEN))
    assert not refused(hall, token)


def test_when_its_token_has_ended_a_client_may_show_its_password_and_nothing_more(hall: Hall, token: bytes) -> None:
    change(root(hall), (CHANGE_PASSWORD, "ann", kept(b"another")))
    visitor = hall.stranger()
    visitor.says_it_is("ann")
    assert isinstance(visitor.proves(token=token).error, AuthenticationFailed)
    assert visitor._welcomed(visitor.proves(b"another", number=3)).user == "ann"
    other = hall.stranger()
    other.says_it_is("ann")
    for number in (2, 3):
        assert isinstance(other.proves(b"wrong", number=number).error, AuthenticationFailed)
    other.says(Prove(4, b"", b"another"))
    assert other.kicked


# -- guesses ----------------------------------------------------------------------------------------------------------------------


def guess(hall: Hall, user: str, password: bytes = b"a guess") -> Any:
    visitor = hall.stranger()
    assert visitor.says_it_is(user) == Ask(1)
    reply = visitor.proves(password)
    visitor.goes()
    return reply


def test_after_ten_wrong_passwords_a_user_has_to_wait_wherever_they_came_from(hall: Hall) -> None:
    for _ in range(login.BURST):
        assert "wrong password" in str(guess(hall, "ann").error)
    began = hall.cluster.now
    late = guess(hall, "ann", OPEN)
    assert isinstance(late.error, Overloaded)
    assert "member a was given too many wrong passwords for user ann: try again in 5 s, or another member now" in str(late.error)
    assert guess(hall, "bob", b"bob's").user == "bob"
    hall.run(lambda: hall.cluster.now >= began + login.AGAIN_AFTER)
    assert guess(hall, "ann", OPEN).user == "ann"


def test_guesses_at_users_that_do_not_exist_are_limited_alike(hall: Hall) -> None:
    texts = [str(guess(hall, "nobody").error) for _ in range(login.BURST + 1)]
    assert "try again in 5 s" in texts[-1]


def test_guesses_at_many_names_are_limited_together(hall: Hall) -> None:
    replies = [guess(hall, f"user{number}") for number in range(login.BURST_OF_ALL + 20)]
    assert isinstance(replies[-1].error, Overloaded)
    assert "try again in 1 s" in str(replies[-1].error)
    hall.wait(1.0)
    assert guess(hall, "ann", OPEN).user == "ann"


def test_right_passwords_are_not_counted(hall: Hall) -> None:
    for _ in range(3 * login.BURST):
        assert guess(hall, "ann", OPEN).user == "ann"


def test_only_so_many_passwords_wait_to_be_compared(hall: Hall) -> None:
    jobs: list[Callable[[], None]] = []
    hall.porter._elsewhere = jobs.append
    visitors = [hall.stranger() for _ in range(login.CHECKS_MAX + 1)]
    for number, visitor in enumerate(visitors):
        visitor.says_it_is(f"user{number}" if number else "ann")
        visitor.says(Prove(2, b"", OPEN))
    failed = visitors[-1].hears(2)
    assert isinstance(failed.error, Overloaded)
    assert "or another member now" in str(failed.error)
    assert all(not visitor.listen() for visitor in visitors[:-1]), "they wait"
    for job in jobs:
        job()
    assert visitors[0]._welcomed(visitors[0].hears(2)).user == "ann"
    assert isinstance(visitors[1].hears(2).error, AuthenticationFailed)


def test_an_allowance_comes_back_bit_by_bit_and_forgets_the_oldest() -> None:
    allowance = Allowance(3, 10.0)
    assert [allowance.take("x", 100.0) for _ in range(4)] == [0.0, 0.0, 0.0, 10.0]
    assert allowance.take("y", 100.0) == 0.0
    assert allowance.take("x", 104.0) == 6.0
    assert allowance.take("x", 110.0) == 0.0
    assert allowance.take("x", 110.0) == 10.0
    allowance.give_back("x")
    allowance.give_back("nobody")
    assert allowance.take("x", 110.0) == 0.0
    for number in range(login.NAMES_MAX):
        allowance.take(number, 110.0)
    assert len(allowance._used_until) == login.NAMES_MAX
    assert allowance.take("x", 110.0) == 0.0, "it was forgotten"


# -- who is not let in ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "letter",
    [
        Ping(2),
        Cancel(2),
        read(2, ops.Get("k")),
        pull(2, 1),
        Look(2, letters.STATUS),
        Look(2, letters.MEMBERS),
        Look(2, letters.READY),
        Inspect(2, letters.INSPECT_STATUS),
        HandOver(2, ""),
        batch(2, 0, 5),
        Hello(2, letters.VERSION, 99, "ann"),
    ],
    ids=lambda letter: type(letter).__name__,
)
@pytest.mark.parametrize("user", ["", "ann"])
def test_nothing_is_said_and_nothing_done_for_who_was_not_let_in(hall: Hall, letter: Any, user: str) -> None:
    before = hall.node.machine.digest()
    visitor = hall.stranger()
    visitor.post(Hello(1, letters.VERSION, 99, user))
    hall.turn()
    visitor.post(letter)
    hall.turn()
    hall.wait(0.2)
    assert visitor.kicked
    assert hall.empty
    assert hall.node.machine.digest() == before


def test_who_was_not_let_in_learns_nothing_of_the_state(hall: Hall) -> None:
    """Neither from a letter nor from the frame around it, which tells others the revision."""
    change(root(hall), (ADD_ROLE, "x"))
    frames: list[bytes] = []
    nobody, wrong, old = hall.stranger(), hall.stranger(), hall.stranger()
    nobody.post(Hello(1, letters.VERSION, 99))
    wrong.post(Hello(1, letters.VERSION, 99, "ann"))
    old.post(Hello(1, letters.OLDEST - 1, 99))
    hall.wait(0.2)
    frames += told(nobody) + told(wrong) + told(old)
    wrong.told = wrong.taken
    wrong._post(Prove(2, b"", b"wrong"))
    hall.wait(0.2)
    frames += told(wrong)
    assert len(frames) == 4
    kinds: list[type] = []
    for frame in frames:
        seen, (letter,) = letters.decode_replies(frame)
        assert seen == 0
        kinds.append(type(letter))
        assert isinstance(letter, Ask) or type(letter.error) in (AuthenticationFailed, Incompatible)
        assert hall.node.links.cluster not in frame
    assert kinds.count(Ask) == 1


def test_a_large_frame_of_who_was_not_let_in_is_not_even_taken_apart(hall: Hall, monkeypatch: pytest.MonkeyPatch) -> None:
    user, stranger, asked = ann(hall), hall.stranger(), hall.stranger()
    assert asked.says_it_is("ann") == Ask(1)
    taken_apart: list[int] = []
    real = letters.decode_requests

    def decode(data: bytes) -> Any:
        taken_apart.append(len(data))
        return real(data)

    monkeypatch.setattr(letters, "decode_requests", decode)
    large = Batch(5, bytes(door.UNKNOWN_FRAME_MAX))
    for visitor in (stranger, asked):
        visitor.says(large)
        assert visitor.kicked
    assert taken_apart == []
    longest = hall.stranger()
    longest.says_it_is("ann" * 80)
    assert isinstance(longest.proves(bytes(passwords.PASSWORD_MAX)).error, AuthenticationFailed)
    assert user.asks(read(3, ops.Get("app/" + "k" * door.UNKNOWN_FRAME_MAX))).raw == (wire.OK, None)


def test_who_was_changed_while_it_was_let_in_does_not_come_in(hall: Hall, monkeypatch: pytest.MonkeyPatch) -> None:
    """The door had looked at all connections by then, and would not have looked at this one until the next change."""
    visitor, admin = hall.stranger(), root(hall)
    visitor.says_it_is("ann")
    session = admin.opens()
    real, stuck = login.Login.go_on, [True]
    monkeypatch.setattr(login.Login, "go_on", lambda self: None if stuck[0] and self._noting_is_done else real(self))
    monkeypatch.setattr(login.Proof, "_noting_is_done", property(lambda self: self._noting is not None), raising=False)
    monkeypatch.setattr(login, "PATIENCE", 1e9)
    monkeypatch.setattr(door, "PATIENCE", 1e9)
    visitor.says(Prove(2, b"", OPEN))
    hall.run(lambda: hall.node.machine.auth.tokens and len(hall.node.machine.auth.tokens) == 2)
    assert admin.asks(admin.batch(3, session, 1, ChangeAuth(CHANGE_PASSWORD, ("ann", kept(b"x"))))).answers[0][0] == wire.OK
    hall.wait(2.0)
    (proof,) = hall.door._logins
    stuck[0] = False
    hall.door._ring(hall.door._logins[proof], proof)
    assert isinstance(visitor.hears(2).error, AuthenticationFailed)
    visitor.says(Ping(3))
    assert visitor.kicked


@pytest.mark.parametrize("first", [Prove(1, b"", OPEN), Prove(1, bytes(letters.TOKEN), b"")], ids=["password", "token"])
def test_who_proves_something_unasked_is_sent_away(hall: Hall, first: Prove) -> None:
    visitor = hall.stranger()
    visitor.says(first)
    assert visitor.kicked
    user = ann(hall)
    user.says(first)
    assert user.kicked
    hurried = hall.stranger()
    hurried.says_it_is("ann")
    hurried.post(Prove(2, b"", b"wrong"), Prove(3, b"", OPEN))
    hall.turn()
    assert hurried.kicked, "two at a time"


def test_a_connection_that_is_not_let_in_in_time_is_closed(hall: Hall) -> None:
    silent, asked, user = hall.stranger(), hall.stranger(), ann(hall)
    asked.says_it_is("ann")
    hall.wait(door.SAYS_NOTHING - 2)
    assert not silent.kicked
    hall.wait(4)
    assert silent.kicked
    hall.wait(door.UNKNOWN_FOR - door.SAYS_NOTHING - 4)
    user.asks(Ping(50))
    assert not asked.kicked
    hall.wait(4)
    assert asked.kicked
    assert not user.kicked


def test_only_so_many_connections_wait_to_be_let_in_and_the_oldest_makes_room(hall: Hall) -> None:
    hall.door._unknown_max = 5
    user, strangers = ann(hall), [hall.stranger() for _ in range(7)]
    hall.turn()
    assert [stranger.kicked for stranger in strangers] == [True] * 2 + [False] * 5
    assert not user.kicked
    assert ann(hall).asks(read(3, ops.Get("app/k"))).raw == (wire.OK, None)


# -- whose commands ---------------------------------------------------------------------------------------------------------------


def packed(*commands: tuple[Any, ...], guest: tuple[str, int] | None) -> Batch:
    return Batch(9, codec.pack_batch(1, 1, 1, [codec.pack(command) for command in commands], guest))


PUT = (wire.PUT, b"app/k", b"v", False)


@pytest.mark.parametrize(
    ("user", "newer", "command"),
    [
        (None, 0, PUT),
        ("", 0, PUT),
        ("root", 0, PUT),
        ("ann", 1, PUT),
        ("ann", 0, (wire.AS, "root", 99, PUT)),
        ("ann", 0, (wire.AS, "ann", 0, PUT)),
        ("ann", 0, (wire.LEVEL, 2)),
        ("ann", 0, (wire.AS, "root", 99, (wire.LEVEL, 2))),
        ("ann", 0, (wire.AUTH, ADD_TOKEN, (bytes(32), "root", 99, 1_000_000))),
        ("ann", 0, (wire.AS, "root", 99, (wire.AUTH, ADD_TOKEN, (bytes(32), "root", 99, 1_000_000)))),
        ("ann", 0, (wire.GUARD, b"k", 1, (wire.AS, "root", 99, PUT))),
        ("ann", 0, (wire.TXN, (), ((wire.AS, "root", 99, PUT),), ())),
    ],
    ids=range(12),
)
def test_who_gives_commands_of_somebody_else_is_sent_away(hall: Hall, user: str | None, newer: int, command: tuple[Any, ...]) -> None:
    visitor = ann(hall)
    before = hall.node.machine.digest()
    visitor.says(packed(PUT, command, guest=None if user is None else (user, visitor.guest[1] + newer)))
    assert visitor.kicked
    hall.wait(0.1)
    assert hall.node.machine.digest() == before


def test_even_root_has_no_tokens_noted_and_acts_for_nobody(hall: Hall) -> None:
    for command in ((wire.AS, "ann", 0, PUT), (wire.AUTH, ADD_TOKEN, (bytes(32), "ann", 99, 1_000_000))):
        admin = root(hall)
        admin.says(packed(command, guest=admin.guest))
        assert admin.kicked


def test_a_batch_of_an_earlier_login_may_be_repeated(hall: Hall) -> None:
    first = ann(hall)
    session = first.opens()
    add = first.batch(3, session, 1, ops.Add("app/n", 1))
    answers = first.asks(add).answers
    change(root(hall), (ADD_ROLE, "x"))
    first.goes()
    second = ann(hall)
    assert second.guest > first.guest
    assert second.asks(add).answers == answers


def test_a_frame_that_is_sent_once_more_takes_effect_once(hall: Hall) -> None:
    visitor = ann(hall)
    session = visitor.opens()
    add = visitor.batch(3, session, 1, ops.Add("app/n", 1))
    first = visitor.asks(add)
    assert visitor.asks(add) == first
    stranger = bob(hall)
    stranger.says(add)
    assert stranger.kicked, "recorded and sent by somebody else"
    assert visitor.asks(read(5, ops.Get("app/n"))).raw[1][1] == b"1"


def test_the_session_of_another_user_is_unknown_its_answers_are_not_told_and_its_numbers_not_used_up(hall: Hall) -> None:
    owner, thief = ann(hall), bob(hall)
    session = owner.opens()
    assert owner.asks(owner.batch(3, session, 1, ops.Put("app/secret", "v", prev_kv=True))).answers
    assert thief.asks(thief.batch(3, session, 1, ops.Get("x"))) == Outcome(3, session, 1, None, 0, expired=True)
    assert thief.asks(thief.batch(4, session, 2, ops.Get("x"))) == Outcome(4, session, 2, None, 0, expired=True)
    outcome = owner.asks(owner.batch(4, session, 2, ops.Add("app/n", 1)))
    assert outcome.answers[0][0] == wire.OK


def test_two_users_with_the_same_numbers_under_way_each_hear_of_their_own(halls: dict[str, Hall]) -> None:
    """The member keyed what is under way by the session's number alone: the second one got the first one's answers."""
    at = halls["follower"]
    owner, thief = ann(at), bob(at)
    session = owner.opens()
    owner.post(owner.batch(3, session, 1, ops.Add("app/n", 7)))
    thief.post(thief.batch(3, session, 1, ops.Add("app/n", 7)))
    at.turn()
    assert thief.hears(3) == Outcome(3, session, 1, None, 0, expired=True)
    assert owner.hears(3).answers[0][2] == 7
    thief.post(thief.batch(5, session, 2, ops.Add("app/n", 1)))
    at.turn()
    owner.post(owner.batch(5, session, 2, ops.Add("app/n", 1)))
    assert owner.hears(5).answers[0][2] == 8
    assert thief.hears(5).expired


def test_a_client_that_uses_the_number_of_a_member_s_session_disturbs_nobody(hall: Hall) -> None:
    """The member took its session for expired, and gave its commands once more in another one."""
    thief = bob(hall)
    session, sequence = hall.node.proposals.session, hall.node.proposals._sequence
    assert session, "it was opened to have a token noted"
    for number in range(sequence, sequence + 5):
        assert thief.asks(thief.batch(10 + number, session, number, ops.Get("x"))).expired
    assert hall.node.proposals.session == session


# -- rights that end --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("changes", [[(DELETE_USER, "ann")], [(CHANGE_PASSWORD, "ann", kept(OPEN))]], ids=["removed", "changed"])
def test_who_has_to_prove_itself_anew_is_sent_away_and_nobody_else(hall: Hall, changes: list[tuple[Any, ...]]) -> None:
    visitor, other, admin = ann(hall), bob(hall), root(hall)
    visitor.says(pull(5, 1000, start=b"app/", end=b"app0"))
    change(admin, *changes)
    hall.wait(door.TICK + 0.1)
    assert visitor.kicked
    assert not other.kicked
    assert not admin.kicked


def test_who_is_nobody_is_sent_away_when_auth_is_enabled(hall: Hall) -> None:
    change(root(hall), (DISABLE,))
    nobody = hall.visitor()
    change(hall.visitor(), (ENABLE,))
    hall.wait(door.TICK + 0.1)
    assert nobody.kicked


def test_who_enables_auth_as_nobody_hears_that_it_is_done_before_it_is_sent_away() -> None:
    hall = Hall()
    hall.run(lambda: hall.node.ready)
    visitor = hall.visitor()
    session = visitor.opens()
    enable = visitor.batch(3, session, 1, ChangeAuth(ADD_USER, ("root", kept(b"x"))), ChangeAuth(ENABLE))
    visitor.says(enable, pull(4, 1000))
    assert [answer[0] for answer in visitor.hears(3).answers] == [wire.OK] * 2
    visitor.post(read(5, ops.Get("k")), Ping(6))
    hall.wait(door.FAREWELL - 0.03)
    assert visitor.listen() == []
    hall.wait(0.1)
    assert visitor.kicked
    assert hall.empty


def test_logins_of_others_make_nobody_look_again(hall: Hall) -> None:
    visitor = ann(hall)
    judged = hall.door._judged
    bob(hall)
    assert hall.door._judged == judged
    assert not visitor.kicked


def test_a_watch_ends_when_its_right_is_taken_away_and_tells_nothing_more(hall: Hall) -> None:
    visitor, admin = ann(hall), root(hall)
    revision = hall.node.published.revision
    visitor.says(pull(5, revision + 1, start=b"app/", end=b"app0"))
    session = admin.opens()
    admin.asks(
        admin.batch(
            3,
            session,
            1,
            ChangeAuth(wire.REVOKE_ROLE, ("ann", "dev")),
            ops.Put("app/secret", "v"),
        )
    )
    failed = visitor.hears(5)
    assert isinstance(failed.error, PermissionDenied)
    assert isinstance(visitor.asks(pull(6, revision + 1, start=b"app/", end=b"app0")).error, PermissionDenied)
    assert not visitor.kicked
    visitor.goes()
    admin.goes()
    assert hall.empty


def test_a_watch_of_who_was_given_the_right_a_moment_ago_begins_at_every_member(halls: dict[str, Hall]) -> None:
    admin, visitor = root(halls["leader"]), bob(halls["follower"])
    session = admin.opens()
    admin.asks(admin.batch(3, session, 1, ops.Put("app/k", "v")))
    at = behind(halls, admin, (GRANT_ROLE, "bob", "dev"))
    visitor.post(pull(5, 1, start=b"app/", end=b"app0"))
    at.turn()
    at.cluster.paused.clear()
    helping = visitor.hears(5)
    assert isinstance(helping, Events), helping
    assert [event.kv.key for event in helping.events] == [b"app/k"]


def test_a_watch_that_is_not_permitted_is_refused_also_while_its_member_waits_for_the_leader(halls: dict[str, Hall]) -> None:
    visitor, at = bob(halls["follower"]), halls["follower"]
    for name in {"a", "b", "c"} - {at.name}:
        at.cluster.crash(name)
    visitor.says(pull(5, 1, start=b"app/", end=b"app0"))
    visitor.says(Ping(7))
    assert isinstance(visitor.hears(5).error, PermissionDenied), "a pong would say that there is nothing for it"
    visitor.says(pull(8, 1, start=b"app/", end=b"app0"))
    at.wait(door.PULL_FOR + 2)
    assert isinstance(visitor.hears(8).error, PermissionDenied)
    visitor.goes()
    assert not at.door._clients
    assert not any(isinstance(call, errands._Barrier) for calls in at.node.reads._lists() for call in calls)


def test_a_read_behind_the_barrier_is_judged_by_the_newest_rights(halls: dict[str, Hall]) -> None:
    admin, visitor = root(halls["leader"]), bob(halls["follower"])
    at = behind(halls, admin, (GRANT_ROLE, "bob", "dev"))
    visitor.post(read(5, ops.Get("app/k")))
    at.turn()
    at.cluster.paused.clear()
    assert visitor.hears(5).raw == (wire.OK, None)
    session = admin.opens(900)
    at.cluster.paused.add(at.name)
    assert admin.asks(admin.batch(901, session, 1, ChangeAuth(wire.REVOKE_ROLE, ("bob", "dev")))).answers[0][0] == wire.OK
    visitor.post(read(6, ops.Get("app/k")), read(7, ops.Get("app/k"), "local"))
    at.turn()
    assert visitor.hears(7).raw == (wire.OK, None), "by what the member knows"
    at.cluster.paused.clear()
    assert isinstance(visitor.hears(6).error, PermissionDenied)


def test_every_user_may_ask_how_the_member_is_and_about_itself(hall: Hall) -> None:
    visitor = bob(hall)
    assert visitor.asks(Look(3, letters.STATUS)).raw[0] == wire.OK
    assert visitor.asks(Look(4, letters.MEMBERS)).raw[0] == wire.OK
    assert visitor.asks(read(30, ops.Scan(prefix=letters.ADDRESSES), "local")).raw[0] == wire.OK, (
        "where members are, which clients ask on and on"
    )
    assert visitor.asks(Inspect(5, letters.INSPECT_STATUS)) == Answer(5, (wire.OK, True, hall.node.machine.auth.revision))
    assert visitor.asks(Inspect(6, letters.INSPECT_USER, "bob")).raw == (wire.OK, "bob", (), True)
    for number, (what, name) in enumerate([(letters.INSPECT_USER, "ann"), (letters.INSPECT_USERS, ""), (letters.INSPECT_ROLE, "dev")], 7):
        assert isinstance(visitor.asks(Inspect(number, what, name)).error, PermissionDenied)
    admin = root(hall)
    assert admin.asks(Inspect(3, letters.INSPECT_USERS)).raw == (wire.OK, ("ann", "bob", "cert", "root"))
    assert isinstance(admin.asks(Inspect(4, letters.INSPECT_ROLE, "none")).error, RoleNotFound)
    assert isinstance(visitor.asks(Look(20, letters.OUTLINE)).error, PermissionDenied)
    assert isinstance(visitor.asks(HandOver(21, "a")).error, PermissionDenied)


# -- secrets ----------------------------------------------------------------------------------------------------------------------


def test_no_secret_is_logged_printed_or_written_down(hall: Hall, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    token = hall.stranger().logs_in("ann", OPEN).token
    guess(hall, "ann", b"wrong " + OPEN)
    bad = hall.stranger()
    bad.says_it_is("ann")
    bad.says(Prove(2, token, OPEN), Prove(3, token, OPEN))
    assert bad.kicked
    badge = Badge("ann", OPEN)
    badge.let_in(Welcome(1, 1, "a", bytes(16), 1, hall.node.settings, {}, 1, "ann", 1, token))
    logins = [hall.door, hall.porter, badge, badge.proof(1), hall.node.machine.auth, hall.node.published]
    disk = hall.cluster.disks["a"]
    files = b"".join(disk.read(name, 0, disk.size(name)) for name in disk.list())
    assert b"\x00replkv" in files or files
    for secret in (OPEN, token, b"hunter2"):
        assert secret not in files
        for text in (caplog.text, *map(repr, logins)):
            assert secret.decode("latin-1") not in text
            assert repr(secret)[2:-1] not in text
    with pytest.raises(TypeError, match="stays in the process"):
        pickle.dumps(badge)


def test_warnings_of_wrong_passwords_name_the_user_and_do_not_fill_the_log(hall: Hall, caplog: pytest.LogCaptureFixture) -> None:
    for _ in range(9):
        guess(hall, "ann\nroot")
    (line,) = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert line == "a did not let a client in as user 'ann\\nroot': no such user, or a wrong password"
    hall.wait(complaints.EVERY)
    guess(hall, "ann")
    assert "'ann': no such user, or a wrong password, the last of 9 such logins" in caplog.records[-1].getMessage()
