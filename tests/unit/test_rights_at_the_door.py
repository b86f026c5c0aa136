"""The rights matrix at the door: every letter that a client can send, by strangers and by users with and without rights.

A batch is judged where it is applied, and ``test_rights_matrix.py`` tries each command in each form there; what is its own at the door, how
questions and watches are judged and what a stranger gets, is tried here, for every kind of letter that there is.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from typing import Any, get_args

import pytest
from rights import (
    COMPARES,
    GETS,
    HOUR,
    OUTERMOST,
    PUTS,
    RESERVED,
    SECRET,
    Form,
    Need,
    Needs,
    Principal,
    Row,
    auth,
    forms,
    stock,
    users_of,
)
from visitors import Hall, Visitor, pull

from replkv import codec, letters, ops, wire
from replkv.errors import AuthenticationFailed, PermissionDenied
from replkv.letters import (
    INSPECT_ROLE,
    INSPECT_ROLES,
    INSPECT_STATUS,
    INSPECT_USER,
    INSPECT_USERS,
    Answer,
    Ask,
    Batch,
    Cancel,
    Events,
    Failed,
    HandOver,
    Hello,
    Inspect,
    Look,
    Outcome,
    Ping,
    Pong,
    Prove,
    Pull,
    Read,
)
from replkv.refusals import STATUS
from replkv.wire import READ, WRITE, Raw

DENIED = STATUS[PermissionDenied]
ALL = b"\x00"
"""The first key there can be."""

NOTHING, READER, WRITER, EVERYTHING, ADMIN = "nothing", "reader", "writer", "everything", "admin"
PRINCIPALS = (
    Principal(NOTHING, ()),
    Principal(READER, ((Need(READ, ALL, None),),)),
    Principal(WRITER, ((Need(WRITE, ALL, None),),)),
    Principal(EVERYTHING, ((Need(READ, ALL, None), Need(WRITE, ALL, None)),)),
    Principal(ADMIN, None),
)

# -- the hall ----------------------------------------------------------------------------------------------------------------------

READS: tuple[Row, ...] = tuple(row for row in (*GETS, *COMPARES, *RESERVED) if letters._only_reads(row.packed))
SPANS: dict[str, tuple[bytes, bytes | None, Needs]] = {
    "one key": (b"key", b"key\x00", (Need(READ, b"key", b"key\x00"),)),
    "a prefix": (b"dir/", b"dir0", (Need(READ, b"dir/", b"dir0"),)),
    "from a key on": (b"key", None, (Need(READ, b"key", None),)),
    "all": (b"\x01", None, (Need(READ, b"\x01", None),)),
    "really all": (ALL, None, (Need(READ, ALL, None),)),
    "where members are": (letters.ADDRESSES, b"\x00replkv/clients0", ()),
}


def edges(needs: Needs) -> Iterator[Principal]:
    """Yield who has exactly what is needed, and who lacks the last bit of it."""
    yield Principal("exactly", (needs,))
    for at, need in enumerate(needs):
        rest = needs[:at] + needs[at + 1 :]
        last = need.start if need.end == need.start + b"\x00" else (need.end or b"\xff" * 9)[:-1]
        yield Principal(f"{need}: up to its last", ((*rest, Need(need.mode, ALL, last)),))
        yield Principal(f"{need}: behind its first", ((*rest, Need(need.mode, need.start + b"\x00", None)),))


class Stage:
    """A door of a cluster with auth enabled; its users show certificates, which costs no hashing."""

    def __init__(self) -> None:
        self.hall = Hall()
        self.hall.run(lambda: self.hall.node.ready)
        wanted = [needs for _, _, needs in SPANS.values()] + [form.needs for row in READS for form in read_forms(row)]
        self.edges = {needs: [*edges(needs)] for needs in wanted}
        self.names: dict[Any, str] = {principal.grants: principal.name for principal in PRINCIPALS}
        for principals in self.edges.values():
            for principal in principals:
                self.names.setdefault(principal.grants, f"user{len(self.names)}")
        host = self.hall.visitor()
        session = host.opens()
        everybody = [(name, Principal(name, grants)) for grants, name in self.names.items()]
        *packed, enable = [codec.pack(command) for command in (*stock(), *users_of(everybody))]
        outcome = host.asks(Batch(7, codec.pack_batch(session, 1, 1, packed, host.guest)))
        assert {answer[0] for answer in outcome.answers} == {wire.OK}
        host.says(Batch(8, codec.pack_batch(session, 2, 2, [enable], host.guest)))
        self.hall.run(lambda: self.hall.node.machine.auth.enabled)
        self.hall.wait(30.0)  # by then the door has taken back the address of a member that has none
        assert host.kicked, "nobody has proved anything"
        self._visitors: dict[str, Visitor] = {}
        self._number = 100

    def visitor(self, user: str) -> Visitor:
        """Return a client that has shown the certificate of a user."""
        if user not in self._visitors or self._visitors[user].kicked:
            self._visitors[user] = visitor = self.hall.stranger()
            self.hall.transport.certified[visitor.pipe] = frozenset({user})
            assert visitor.greets().user == user
        return self._visitors[user]

    def number(self) -> int:
        self._number += 1
        return self._number

    def who(self, needs: Needs) -> Iterator[tuple[str, bool]]:
        """Yield users, and whether they have all rights that are needed."""
        for principal in (*PRINCIPALS, *self.edges.get(needs, ())):
            yield self.names[principal.grants], principal.may(needs)


@pytest.fixture(scope="module")
def stage() -> Stage:
    return Stage()


def read_forms(row: Row) -> Iterator[Form]:
    """Yield a row that reads, plain and nested; the machine's judgement of the other forms is the same."""
    return (form for form in forms(row) if form.name in {"plain", "otherwise", "otherwise, not taken", "as deep as can be"})


def require_denied(reply: Any, user: str) -> None:
    assert isinstance(reply, Failed), reply
    assert isinstance(reply.error, PermissionDenied)
    assert user in str(reply.error)
    assert SECRET not in letters.encode_letter(reply)


# -- reads and watches -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("consistency", letters.CONSISTENCIES)
@pytest.mark.parametrize("row", READS, ids=str)
def test_what_is_read_is_told_to_those_who_may_read_all_of_it(stage: Stage, row: Row, consistency: str) -> None:
    for form in read_forms(row):
        expected = stage.visitor(ADMIN).asks(Read(stage.number(), form.packed, consistency))
        for user, allowed in stage.who(form.needs):
            reply = stage.visitor(user).asks(Read(stage.number(), form.packed, consistency))
            if not allowed:
                require_denied(reply, user)
            elif isinstance(expected, Answer):
                assert isinstance(reply, Answer), (form.name, user, reply)
                assert reply.raw == expected.raw
            else:
                assert type(reply.error) is type(expected.error)  # of a revision that does not exist


@pytest.mark.parametrize("options", [{}, {"prev_kv": True}, {"puts": False}], ids=str)
@pytest.mark.parametrize("span", SPANS)
def test_what_happens_is_told_to_those_who_may_read_all_keys_of_a_watch(stage: Stage, span: str, options: dict[str, Any]) -> None:
    start, end, needs = SPANS[span]
    for user, allowed in stage.who(needs):
        visitor, number = stage.visitor(user), stage.number()
        visitor.says(pull(number, 2, start=start, end=end, **options))
        replies = []
        if not allowed or "puts" not in options:
            replies = [visitor.hears(number)]
        else:
            stage.hall.wait(0.5)
            replies = [reply for reply in visitor.listen() if reply.number == number]
            visitor.says(Cancel(number))
        if not allowed:
            require_denied(replies[0], user)
        elif "puts" not in options:
            assert isinstance(replies[0], Events), (user, replies[0])
            assert {event.kv.key for event in replies[0].events} <= {key for key in stage.hall.node.machine.store.newest if start <= key}
            assert replies[0].events


# -- looks and the like ------------------------------------------------------------------------------------------------------------

ANYBODY, ROOT = (NOTHING, READER, WRITER, EVERYTHING, ADMIN), (ADMIN,)

LOOKS: dict[int, dict[int, tuple[str, ...]]] = {  # by what is asked for: who gets an answer, for each argument
    letters.LEASES: {0: ROOT},
    letters.LEASE_KEYS: {1: (READER, EVERYTHING, ADMIN), 2: ANYBODY, 4: (READER, EVERYTHING, ADMIN)},
    letters.KEPT: {7: ANYBODY, 8: ANYBODY},
    letters.READY: {0: ANYBODY},
    letters.STATUS: {0: ANYBODY},
    letters.MEMBERS: {0: ANYBODY},
    letters.SETTLED: {0: ANYBODY},
    letters.OUTLINE: {0: ROOT},
}

INSPECTIONS: dict[int, dict[str, tuple[str, ...]]] = {
    INSPECT_STATUS: {"": ANYBODY},
    INSPECT_USERS: {"": ROOT},
    INSPECT_USER: {NOTHING: (NOTHING, ADMIN), READER: (READER, ADMIN), "root": ROOT, ADMIN: ROOT, "none": ROOT},
    INSPECT_ROLES: {"": ROOT},
    INSPECT_ROLE: {"reader/0": (READER, ADMIN), "writer/0": (WRITER, ADMIN), "root": ROOT, "none": ROOT},
}


def requests(stage: Stage) -> Iterator[tuple[Any, tuple[str, ...]]]:
    """Yield questions, and who gets an answer to each."""
    for what, arguments in LOOKS.items():
        for argument, who in arguments.items():
            yield Look(stage.number(), what, argument), who
    for what, names in INSPECTIONS.items():
        for name, who in names.items():
            yield Inspect(stage.number(), what, name), who
    yield HandOver(stage.number(), "a"), ROOT
    yield HandOver(stage.number(), ""), ROOT
    yield HandOver(stage.number(), "nobody"), ROOT


@pytest.mark.parametrize("user", ANYBODY)
def test_questions_to_a_member_are_answered_to_whom_they_concern(stage: Stage, user: str) -> None:
    for request, who in requests(stage):
        reply = stage.visitor(user).asks(request)
        if user not in who:
            require_denied(reply, user)
        elif isinstance(reply, Failed):
            assert user == ADMIN, (request, reply)
            assert not isinstance(reply.error, (PermissionDenied, AuthenticationFailed)), (request, reply)
        else:
            assert isinstance(reply, Answer)


def test_nothing_that_is_told_of_users_has_a_password_s_hash_in_it(stage: Stage) -> None:
    node = stage.hall.node
    hashes = {user.password for user in node.machine.auth.users.values()} - {b""}
    for request, _ in requests(stage):
        reply = stage.visitor(ADMIN).asks(request)
        assert not any(kept in letters.encode_letter(reply) for kept in hashes)


# -- batches -----------------------------------------------------------------------------------------------------------------------

SOME = [
    row
    for row in (*PUTS[:3], *OUTERMOST)
    if row.operation.to_wire()[0] != wire.LEVEL and "without keys" not in row.name and "nobody's" not in row.name  # whose these are
]


@pytest.mark.parametrize("row", SOME, ids=str)
def test_a_batch_is_judged_by_whom_the_door_has_let_in(stage: Stage, row: Row) -> None:
    """That this is so for each command in each form is shown where they are applied."""
    needs = (*row.needs, *row.whole)
    for principal in PRINCIPALS[:3]:
        allowed = not row.root and principal.may(needs)
        if allowed and needs:
            continue  # it would change the world for the others
        visitor = stage.visitor(principal.name)
        session = visitor.opens(stage.number())
        outcome = visitor.asks(visitor.batch(stage.number(), session, 1, row.operation))
        assert isinstance(outcome, Outcome)
        assert outcome.answers is not None
        (answer,) = outcome.answers
        assert (answer[0] == DENIED) is not allowed, answer
        assert allowed or answer[1][0] == principal.name


def test_a_batch_of_somebody_else_than_who_was_let_in_is_not_taken(stage: Stage) -> None:
    now = stage.hall.node.machine.auth.revision
    before = stage.hall.node.machine.digest()
    for guest in (("admin", now), ("", 0), None, (NOTHING, now + 1), (NOTHING, (1 << 62)), ("root", 0)):
        for commands in ([ops.Put("key", b"stolen").to_wire()], []):
            visitor = stage.visitor(NOTHING)
            data = codec.pack_batch(5 if commands else 0, 1, 0, [codec.pack(command) for command in commands], guest)
            visitor.says(Batch(stage.number(), data))
            assert visitor.kicked
    assert before == stage.hall.node.machine.digest()


@pytest.mark.parametrize(
    "command",
    [
        (wire.AS, "admin", 1 << 40, ops.Put("key", b"stolen").to_wire()),
        (wire.AS, NOTHING, 0, ops.Get("key").to_wire()),
        (wire.LEVEL, 1),
        auth(wire.ADD_TOKEN, bytes(32), "admin", 1 << 40, 10_000_000),
        (wire.AS, "admin", 1 << 40, auth(wire.ADD_TOKEN, bytes(32), "admin", 1 << 40, 10_000_000)),
    ],
    ids=["as root", "as itself", "level", "token", "token as root"],
)
@pytest.mark.parametrize("user", [NOTHING, ADMIN])
def test_a_command_that_is_for_members_is_not_taken_from_a_client(stage: Stage, user: str, command: Raw) -> None:
    visitor = stage.visitor(user)
    before = stage.hall.node.machine.digest()
    visitor.says(Batch(stage.number(), codec.pack_batch(5, 1, 0, [codec.pack(command)], visitor.guest)))
    assert visitor.kicked
    assert before == stage.hall.node.machine.digest()


# -- strangers ---------------------------------------------------------------------------------------------------------------------

ONE_OF_EACH: dict[type, Any] = {
    Hello: Hello(9, letters.VERSION, 99, ADMIN),
    Prove: Prove(9, b"", b"guess"),
    Batch: Batch(9, codec.pack_batch(0, 9, 0, [], ("", 0))),
    Read: Read(9, ops.Get("key").to_wire(), "local"),
    Look: Look(9, letters.STATUS),
    Pull: pull(9, 2),
    Inspect: Inspect(9, INSPECT_STATUS),
    HandOver: HandOver(9, "a"),
    Cancel: Cancel(9),
    Ping: Ping(9),
}


def test_every_kind_of_letter_has_a_row() -> None:
    assert set(ONE_OF_EACH) == set(get_args(letters.Request))
    assert set(ONE_OF_EACH) == {kind for kind, (number, _) in letters._WRITERS.items() if number < letters._REPLIES_FROM}


def test_every_look_and_every_inspection_has_a_row() -> None:
    for known, check in ((LOOKS, letters._look), (INSPECTIONS, letters._inspected)):
        for number in range(64):
            try:
                check(number)
            except codec.DecodeError:
                assert number not in known
            else:
                assert number in known


@pytest.mark.parametrize("kind", ONE_OF_EACH)
def test_who_has_not_greeted_gets_nothing(stage: Stage, kind: type) -> None:
    stranger = stage.hall.stranger()
    stranger.says(ONE_OF_EACH[kind])
    if kind is Hello:
        assert stranger.hears(9) == Ask(9), "which tells nothing, not even whether there is such a user"
    else:
        assert stranger.kicked


@pytest.mark.parametrize("kind", [kind for kind in ONE_OF_EACH if kind is not Prove])
def test_who_has_said_a_name_and_proved_nothing_gets_nothing(stage: Stage, kind: type) -> None:
    stranger = stage.hall.stranger()
    assert stranger.says_it_is(ADMIN) == Ask(1)
    stranger.says(ONE_OF_EACH[kind])
    assert stranger.kicked


@pytest.mark.parametrize("user", ["", ADMIN, NOTHING, "none"])
def test_who_was_refused_has_learnt_nothing_and_gets_nothing(stage: Stage, user: str) -> None:
    stranger = stage.hall.stranger()
    reply = stranger.says_it_is(user)
    if user:
        assert reply == Ask(1)
        reply = stranger.proves(b"guess")
    assert isinstance(reply, Failed)
    assert isinstance(reply.error, AuthenticationFailed)
    assert not reply.error.__dict__.get("refusal"), "which would tell more than the text"
    for kind in (Read, Ping, Look):
        if not stranger.kicked:
            stranger.says(ONE_OF_EACH[kind])
    assert stranger.kicked or all(isinstance(heard, Failed) for heard in stranger.listen())


def test_what_a_member_says_of_a_user_that_exists_and_of_one_that_does_not_differs_in_nothing_but_the_name(stage: Stage) -> None:
    texts = set()
    for user in (NOTHING, ADMIN, "none", "root"):
        stranger = stage.hall.stranger()
        assert stranger.says_it_is(user) == Ask(1)
        for secret in ({"password": b"guess"}, {"token": bytes(31) + b"1"}):
            failed = stranger.proves(number=random.randrange(10, 1 << 20), **secret) if not stranger.kicked else None
            if failed is not None:
                texts.add((*secret, type(failed.error), str(failed.error).replace(user, "USER")))
            if stranger.kicked or failed is not None:
                stranger = stage.hall.stranger()
                stranger.says_it_is(user)
    assert len(texts) == 2, texts


def test_a_pong_tells_every_user_and_nobody_else_where_the_member_stands(stage: Stage) -> None:
    assert isinstance(stage.visitor(NOTHING).asks(Ping(stage.number())), Pong)


def test_a_user_without_a_password_was_let_in_by_an_empty_one(stage: Stage) -> None:
    """Nobody here has one: certificates prove who they are."""
    for password in (b"", b"\x00", bytes(32)):
        stranger = stage.hall.stranger()
        assert stranger.says_it_is(ADMIN) == Ask(1)
        failed = stranger.proves(password)
        assert isinstance(failed.error, AuthenticationFailed)


def test_the_token_of_one_user_was_taken_for_that_of_another(stage: Stage) -> None:
    token = bytes(range(32))
    machine = stage.hall.node.machine
    machine.auth = machine.auth.after(
        auth(wire.ADD_TOKEN, hashlib.sha256(token).digest(), NOTHING, machine.auth.revision, HOUR), machine.time
    )
    for user, shown in ((ADMIN, token), (READER, token), (NOTHING, token[::-1]), (NOTHING, hashlib.sha256(token).digest())):
        stranger = stage.hall.stranger()
        assert stranger.says_it_is(user) == Ask(1)
        failed = stranger.proves(token=shown)
        assert isinstance(failed, Failed)
        assert isinstance(failed.error, AuthenticationFailed)
    stranger = stage.hall.stranger()
    assert stranger.logs_in(NOTHING, token=token).user == NOTHING


def test_a_certificate_that_names_no_user_or_several_was_taken_for_one(stage: Stage) -> None:
    for names in (frozenset({"none"}), frozenset({ADMIN, "none"}), frozenset({ADMIN, READER}), frozenset({""}), frozenset[str]()):
        stranger = stage.hall.stranger()
        stage.hall.transport.certified[stranger.pipe] = names
        failed = stranger.says_it_is("")
        assert isinstance(failed, Failed), names
        assert isinstance(failed.error, AuthenticationFailed)
    reader = stage.hall.stranger()
    stage.hall.transport.certified[reader.pipe] = frozenset({READER})
    assert reader.says_it_is(ADMIN) == Ask(1), "whoever says another name has to prove that"
