"""Two minds on who may do what must agree, and the judges of rights must be just: each kind of wrong is named, and what is right passes."""

from __future__ import annotations

import random
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from plays import Play, play
from stories import SESSION, Story
from test_model import random_operation

from replkv import codec, passwords, wire
from replkv.auth import Auth, Subject
from replkv.auth_ops import ChangeAuth
from replkv.errors import AuthenticationFailed, DuplicateKey, PermissionDenied, ReplkvError
from replkv.lease import Leases
from replkv.ops import Get, Grant, Packable, Put, Renew, Revoke, Scan
from replkv.refusals import STATUS
from replkv.testing.cluster import SimMember
from replkv.testing.history import Consistency, Operation, Outcome, Violation
from replkv.testing.judge import judge_login
from replkv.testing.knobs import turned
from replkv.testing.rights import RefusedChangeError, Rights
from replkv.testing.sim import nothing
from replkv.testing.streams import End
from replkv.values import Span
from replkv.wire import Raw

USERS, ROLES = ("root", "ann", "bob"), ("reader", "writer", "root")
BOUNDS = (b"\x00", b"\x00replkv/", b"\x00replkv/clients/", b"\x00replkv/clients/a", b"\x00replkv0", b"a", b"b", b"b\x00", b"c", b"n")
DENIED, UNPROVED = STATUS[PermissionDenied], STATUS[AuthenticationFailed]


def random_change(rng: random.Random) -> ChangeAuth:
    user, role, password = rng.choice(USERS), rng.choice(ROLES), rng.choice((b"1", b"2"))
    start, end = rng.choice(BOUNDS), rng.choice((None, *BOUNDS))
    what = rng.randint(wire.ENABLE, wire.ADD_TOKEN)
    match what:
        case wire.ENABLE | wire.DISABLE:
            return ChangeAuth(what)
        case wire.ADD_USER | wire.CHANGE_PASSWORD:
            return ChangeAuth(what, (user, password))
        case wire.DELETE_USER:
            return ChangeAuth(what, (user,))
        case wire.GRANT_ROLE | wire.REVOKE_ROLE:
            return ChangeAuth(what, (user, role))
        case wire.ADD_ROLE | wire.DELETE_ROLE:
            return ChangeAuth(what, (role,))
        case wire.GRANT_PERMISSION:
            return ChangeAuth(what, (role, rng.randint(1, 3), start, end))
        case wire.REVOKE_PERMISSION:
            return ChangeAuth(what, (role, start, end))
    return ChangeAuth(what, (bytes([rng.randrange(3)]) * 32, user, rng.randint(0, 12), rng.randint(1, 9)))


def random_wish(rng: random.Random) -> Packable[object]:
    if rng.random() < 0.2:
        return rng.choice((Revoke(rng.randint(1, 3)), Renew(rng.randint(1, 3), 0), Grant(0, 1_000_000, 0), random_change(rng)))
    if rng.random() < 0.3:
        return rng.choice((Get(rng.choice(BOUNDS)), Put(rng.choice(BOUNDS), "x"), Scan(start=rng.choice(BOUNDS), end=rng.choice(BOUNDS))))
    while True:
        with suppress(DuplicateKey):
            return random_operation(rng, 5)


def changed(auth: Auth, rights: Rights, change: ChangeAuth, time: int) -> tuple[Auth, Rights]:
    """Make a change on both sides: they agree whether it can be, and why not."""
    _, what, arguments = change.to_wire()
    refusals = []
    try:
        auth = auth.after(change.to_wire(), time)
    except ReplkvError as refused:
        refusals.append(type(refused))
    try:
        rights = rights.after(what, arguments, time)
    except RefusedChangeError as refused:
        refusals.append(refused.kind)
    assert refusals in ([], refusals[:1] * 2), change
    return auth, rights


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 2**32))
def test_the_product_and_the_model_agree_on_who_may_do_what(seed: int) -> None:
    rng = random.Random(seed)
    auth, rights, leases = Auth(), Rights(), Leases()
    for number, keys, owner in ((1, [b"a"], None), (2, [b"b", b"n"], USERS[1]), (3, [], rng.choice((None, "", *USERS)))):
        leases.grant(number, 1_000_000, 0, 0, owner=owner)
        for key in keys:
            leases.hang(key, number)
    for change in (ChangeAuth(wire.ADD_USER, ("root", b"")), ChangeAuth(wire.ENABLE)):
        auth, rights = changed(auth, rights, change, 0)
    for time in range(40):
        auth, rights = changed(auth, rights, random_change(rng), time)
        assert list(auth.rows()) == rights.rows()
        for digest in rights.tokens:
            assert auth.holder(digest, time) == rights.speaks_for(digest, time)
        subject = rng.choice((("", 0), (rng.choice(USERS), rng.choice((0, auth.revision)))))
        wish = random_wish(rng).to_wire()
        assert denied_by(auth, subject, wish, leases) == rights.denies(
            subject, wish, lambda lease: (leases[lease].owner, list(leases[lease].keys)) if lease in leases else ("", [])
        )


def denied_by(auth: Auth, subject: Subject, packed: Raw, leases: Leases) -> type[ReplkvError] | None:
    try:
        auth.check(subject, packed, leases)
    except ReplkvError as denied:
        return type(denied)
    return None


# -- commands ----------------------------------------------------------------------------------------------------------------------


class Court(Story):
    """A log in which rights are changed, too."""

    def decides(self, *changes: ChangeAuth) -> None:
        for change in changes:
            self.wrote(change)

    def begins(self) -> None:
        """Ann may read and write what begins with an a; rights are checked from now on."""
        permit = ChangeAuth(wire.GRANT_PERMISSION, ("reader", wire.READWRITE, b"a", b"b"))
        self.decides(
            ChangeAuth(wire.ADD_USER, ("root", b"r")), ChangeAuth(wire.ADD_USER, ("ann", b"1")), ChangeAuth(wire.ADD_ROLE, ("reader",))
        )
        self.decides(permit, ChangeAuth(wire.GRANT_ROLE, ("ann", "reader")), ChangeAuth(wire.ENABLE))

    def forbids(self) -> None:
        self.decides(ChangeAuth(wire.REVOKE_ROLE, ("ann", "reader")))

    @property
    def ann(self) -> Subject:
        return "ann", self.witness.model.rights.revision

    def asks(self, operation: Get | Scan, consistency: Consistency = Consistency.LINEARIZABLE, subject: Subject | None = None) -> Operation:
        asked = self.reads(operation, consistency=consistency)
        asked.subject, asked.least = subject or self.ann, self.witness.index
        return asked

    def answers(self, asked: Operation, answer: Raw | None = None) -> None:
        """A read is answered rightly, or as told."""
        asked.most, revision = self.witness.index, self.witness.model.revision
        self.returns(asked, answer or self.witness.model.read(asked.wire, revision), revision)

    def may(self, operation: Packable[object], subject: Subject) -> Raw:
        """A guest's command in a session of its own is logged; return its answer."""
        self.block(codec.pack_batch(0, 7, 0, (), subject))
        session = self.witness.index << 16
        asked = self.writes(operation)
        asked.slots.append((session, 1, 0))
        self.block(codec.pack_batch(session, 1, 0, [codec.pack(asked.wire)], subject))
        self.acknowledged(asked)
        return self.witness.slots[session, 1, 0][1].answer


@pytest.fixture
def court() -> Court:
    story = Court()
    story.begins()
    return story


def test_a_guest_does_what_it_may_and_nothing_else(court: Court) -> None:
    assert court.may(Put("a", "1"), court.ann)[0] == wire.OK
    assert court.may(Put("b", "1"), court.ann) == (DENIED,)
    assert court.may(Put("a", "2"), ("", 0)) == (UNPROVED,)
    assert court.may(ChangeAuth(wire.DISABLE), court.ann) == (DENIED,)
    before = court.ann
    court.decides(ChangeAuth(wire.CHANGE_PASSWORD, ("ann", b"2")))
    assert court.may(Put("a", "3"), before) == (UNPROVED,)
    assert court.may(Put("a", "4"), court.ann)[0] == wire.OK
    court.check()


def test_what_is_said_to_be_done_and_was_denied_is_blamed(court: Court) -> None:
    write = court.writes(Put("b", "1"))
    slot = (wire.AS, *court.ann, write.wire)
    write.wire = slot
    court.logged(write)
    court.returns(write, (wire.OK, 2, None))
    with pytest.raises(Violation, match="T1"):
        court.check()


def test_a_batch_in_the_session_of_somebody_else_has_no_effect(court: Court) -> None:
    stolen = court.writes(Put("a", "1"))
    stolen.slots.append((SESSION, 99, 0))
    court.block(codec.pack_batch(SESSION, 99, 0, [codec.pack(stolen.wire)], court.ann))
    court.history.failed(stolen)
    assert court.witness.thefts == 1
    assert court.witness.model.pairs() == []
    court.check()


# -- reads -------------------------------------------------------------------------------------------------------------------------


def test_a_read_that_may_be_is_answered_and_another_is_not(court: Court) -> None:
    court.answers(court.asks(Get("a")))
    court.answers(court.asks(Get("b")), (DENIED, ()))
    court.answers(court.asks(Get("a"), subject=("bob", 1)), (UNPROVED, ()))
    court.check()


@pytest.mark.parametrize("answer", [None, (DENIED, ())])
def test_a_read_may_be_judged_before_or_behind_a_change_during_it(court: Court, answer: Raw | None) -> None:
    asked = court.asks(Get("a"))
    court.forbids()
    court.answers(asked, answer)
    court.check()


def test_a_read_that_began_after_its_right_was_taken_away_is_denied(court: Court) -> None:
    court.forbids()
    asked = court.asks(Get("a"))
    asked.least = court.witness.index - 1  # its member had not heard of it when it was asked
    court.answers(asked)
    with pytest.raises(Violation, match="U1"):
        court.check()


def test_a_local_read_goes_by_what_its_member_knows(court: Court) -> None:
    court.forbids()
    asked = court.asks(Get("a"), Consistency.LOCAL)
    asked.least = court.witness.index - 1
    court.answers(asked)
    court.check()


def test_a_read_that_may_be_is_not_denied(court: Court) -> None:
    court.answers(court.asks(Get("a")), (DENIED, ()))
    with pytest.raises(Violation, match="U1"):
        court.check()


def test_what_was_written_when_the_right_was_gone_is_not_shown(court: Court) -> None:
    asked = court.asks(Get("a"))
    court.forbids()
    court.wrote(Put("a", "secret"))
    court.answers(asked)
    with pytest.raises(Violation, match="U1"):
        court.check()


def test_an_answer_of_a_member_that_has_not_what_was_acknowledged_is_none(court: Court) -> None:
    asked = court.asks(Get("a"))
    court.returns(asked, court.witness.model.read(asked.wire, 1), 1)
    asked.most = 1
    with pytest.raises(Violation, match="U1"):
        court.check()


# -- logins ------------------------------------------------------------------------------------------------------------------------


def test_nobody_is_let_in_with_the_password_of_before(court: Court) -> None:
    before = court.ann
    court.decides(ChangeAuth(wire.CHANGE_PASSWORD, ("ann", b"2")))
    judge_login(court.witness, before, [b"1"])
    judge_login(court.witness, court.ann, [b"2"])
    for subject, kept in ((before, b"2"), (court.ann, b"1"), (("bob", before[1]), b"1")):
        with pytest.raises(Violation, match="U3"):
            judge_login(court.witness, subject, [kept])


# -- watches, at work --------------------------------------------------------------------------------------------------------------


def decide(stage: Play, member: SimMember, *changes: ChangeAuth) -> None:
    for change in changes:
        assert stage.ask(member, change)[0] == wire.OK


def begin(stage: Play, member: SimMember) -> Subject:
    permit = ChangeAuth(wire.GRANT_PERMISSION, ("reader", wire.READ, b"k", b"l"))
    decide(stage, member, ChangeAuth(wire.ADD_USER, ("root", b"r")), ChangeAuth(wire.ADD_USER, ("ann", b"1")))
    decide(stage, member, ChangeAuth(wire.ADD_ROLE, ("reader",)), permit, ChangeAuth(wire.GRANT_ROLE, ("ann", "reader")))
    decide(stage, member, ChangeAuth(wire.ENABLE))
    return "ann", stage.users.rights.revision


def test_a_watch_ends_when_its_right_is_taken_away() -> None:
    with play() as stage:
        member = stage.leader()
        subject = begin(stage, member)
        watcher = stage.watch(member)
        watcher.watch, watcher.subject, watcher.span = None, subject, Span.of(prefix=b"k")
        watcher.open(member)
        stage.write(member, "seen")
        stage.cluster.run(0.5)
        assert [event.kv.value for event in watcher.stream.events] == [b"seen"]
        seen = watcher.stream
        decide(stage, member, ChangeAuth(wire.REVOKE_ROLE, ("ann", "reader")))
        stage.write(member, "not seen")
        stage.cluster.run(0.5)
        assert (len(seen.events), seen.end) == (1, End.DENIED)
        stage.users.secrets[b"r"] = b"whatever it is"
        decide(stage, member, ChangeAuth(wire.DISABLE))


def test_a_watch_that_goes_on_without_a_right_is_blamed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("replkv.feed.GuardedFeed._check", lambda self: None)
    with pytest.raises(Violation, match="U2"), play() as stage:
        member = stage.leader()
        subject = begin(stage, member)
        watcher = stage.watch(member)
        watcher.watch, watcher.subject = None, subject
        watcher.open(member)
        stage.write(member, "seen")
        stage.cluster.run(0.5)


def test_a_read_of_a_user_takes_the_products_way() -> None:
    with play() as stage:
        member = stage.leader()
        subject = begin(stage, member)
        stage.write(member, "1")
        for consistency in (Consistency.LINEARIZABLE, Consistency.LOCAL, Consistency.LEASE):
            for operation, status in ((Get("k"), wire.OK), (Scan(prefix="k"), wire.OK), (Get("a"), DENIED)):
                read = stage.workload.run(member, operation, consistency, nothing, patience=3.0, subject=subject)
                assert stage.cluster.run_until(lambda read=read: read.outcome is not Outcome.PENDING, 5.0)  # type: ignore[misc]  # it is called at once
                assert read.answer is not None
                assert read.answer[0] == status
        decide(stage, member, ChangeAuth(wire.DISABLE))


def test_passwords_are_cheap_in_here() -> None:
    with turned({}):
        kept = passwords.hashed(b"secret", bytes(passwords.SALT))
        assert kept[4] == 1
        assert passwords.matches(b"secret", kept)
        assert not passwords.matches(b"other", kept)
        assert not passwords.matches(b"secret", b"")
    assert passwords.LOG2_N == 15
