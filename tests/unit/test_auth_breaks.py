"""Ways to break users, roles and permissions that were found when somebody tried: each test is named after what went wrong."""

from __future__ import annotations

import ipaddress
import sys
import unicodedata
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any, cast

import pytest
from attrs import define
from rights import HELD, WORLD, Log
from rights import auth as changing
from test_login import bob, change, lock_up, root
from visitors import Hall

from replkv import auth as auth_module
from replkv import codec, errors, letters, login, ops, passwords, wire
from replkv.address import parse_address
from replkv.auth import OF_LEASE, STEP, Auth
from replkv.judged import ANEW_MAX, Judged
from replkv.letters import Ask, Hello, Look, Prove
from replkv.login import Porter
from replkv.machine import Machine
from replkv.messages import EntryKind
from replkv.plans import Plan
from replkv.refusals import STATUS

DENIED = STATUS[errors.PermissionDenied]


@pytest.fixture(autouse=True)
def cheap(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hashes that take no time."""
    monkeypatch.setattr(passwords, "LOG2_N", 1)


@pytest.fixture
def hall() -> Hall:
    made = Hall()
    made.run(lambda: made.node.ready)
    lock_up(made)
    return made


# -- what is told ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("operation", [ops.Put("bob", "v", lease=HELD), ops.Revoke(HELD), ops.Renew(HELD, 9)], ids=str)
def test_the_refusal_of_a_lease_told_a_key_that_hangs_on_it_to_who_had_guessed_its_number(operation: ops.Packable[Any]) -> None:
    log = WORLD.copy()
    log.must(changing(wire.ADD_USER, "root", b""), changing(wire.ADD_USER, "bob", b""), changing(wire.ADD_ROLE, "r"))
    log.must(changing(wire.GRANT_PERMISSION, "r", wire.READWRITE, b"bob", b"bob\x00"), changing(wire.GRANT_ROLE, "bob", "r"))
    log.must(changing(wire.ENABLE))
    (answer,) = log.do(operation.to_wire(), guest=("bob", log.machine.auth.revision))
    assert answer == (DENIED, ("bob", wire.WRITE | OF_LEASE, b"", None))


def test_who_asked_for_the_keys_of_a_lease_was_told_the_first_one_it_may_not_read(hall: Hall) -> None:
    owner = root(hall)
    session = owner.opens(900)
    granted = owner.asks(owner.batch(901, session, 1, ops.Grant(5, 3_600_000_000, 7), ops.Put("secret-name", "v", lease=5)))
    assert [answer[0] for answer in granted.answers] == [wire.OK] * 2
    failed = bob(hall).asks(Look(10, letters.LEASE_KEYS, 5))
    assert type(failed.error) is errors.PermissionDenied
    assert "secret" not in str(failed.error)
    assert "user bob may not read each of the keys that hang on this lease" in str(failed.error)


def test_whoever_knew_that_the_number_of_no_keeper_is_0_was_told_all_leases_that_nobody_keeps_alive(hall: Hall) -> None:
    owner = root(hall)
    granted = owner.asks(owner.batch(901, owner.opens(900), 1, ops.Grant(5, 3_600_000_000, 7), ops.Grant(6, 3_600_000_000, 0)))
    assert [answer[0] for answer in granted.answers] == [wire.OK] * 2
    visitor = bob(hall)
    assert visitor.asks(Look(10, letters.KEPT, 0)).raw == (wire.OK, ())
    assert visitor.asks(Look(11, letters.KEPT, 7)).raw == (wire.OK, (5,))


# -- what stops members ------------------------------------------------------------------------------------------------------------


def test_users_with_many_roles_made_a_snapshot_that_no_member_could_load() -> None:
    """A part of a dump is packed by what its rows seem to take, and a user's seemed to have no roles."""
    log = Log()
    roles = [f"{number:03}" + "x" * 120 for number in range(100)]
    users = [f"u{number}" for number in range(700)]
    for role in roles:
        log.must(changing(wire.ADD_ROLE, role))
    for user in users:
        log.must(changing(wire.ADD_USER, user, b""), *(changing(wire.GRANT_ROLE, user, role) for role in roles))
    assert sum(len(role) for role in roles) * len(users) > codec.BLOCK_MAX
    assert Machine.load(log.machine.dump()).auth == log.machine.auth


NEW = "\U0001fae8"
"""A face of Unicode 15: Python 3.11 knows no such character, Python 3.12 does."""


def test_a_name_that_one_python_takes_for_printable_stopped_the_members_on_another() -> None:
    """Anybody who was let in could have it put into the log: whether it may is found out later than whether it is a name."""
    assert NEW.isprintable() is (sys.version_info >= (3, 12))
    for command in (changing(wire.ADD_USER, NEW, b""), changing(wire.ADD_ROLE, NEW), (wire.MEMBERS, (("d", f"ipc:///{NEW}"),), (), (), ())):
        wire.check_operation(command)


def test_a_character_is_printable_or_not_whatever_the_python_knows_of_it() -> None:
    steers = [chr(code) for code in range(0x10000) if unicodedata.category(chr(code)) in ("Cc", "Cs", "Co", "Zl", "Zp")]
    for character in (*steers, "\u00a0", "\u00ad", "\u200b", "\u200e", "\u202e", "\u2066", "\ufeff", "\U000e0020"):
        assert not wire.is_auth_name(f"a{character}"), ascii(character)
    for name in ("Zoë", "Zoe\u0308", "a b", "root ", "r\u043eot", "愛", "❤\ufe0f", NEW):  # looks like root, and is another user
        assert wire.is_auth_name(name)


@pytest.mark.parametrize("written", ["::ffff:102:304", "::ffff:1.2.3.4"])
def test_an_address_that_one_python_writes_otherwise_than_another_stopped_its_members(
    written: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Since 3.13 an IPv4 address within an IPv6 one is written with dots; an address in the log has to be as it is written."""
    monkeypatch.setattr(ipaddress.IPv6Address, "__str__", lambda self: written)
    assert parse_address("[::ffff:1.2.3.4]:1") == parse_address("[::ffff:102:304]:1") == "tcp://[::ffff:102:304]:1"


# -- what never ends ---------------------------------------------------------------------------------------------------------------


class Busy:
    """A member at which rights are changed whenever something is read."""

    def __init__(self) -> None:
        auth = Auth()
        for command in (changing(wire.ADD_USER, "root", b""), changing(wire.ADD_USER, "ann", b""), changing(wire.ENABLE)):
            auth = auth.after(command, 0)
        self.machine = SimpleNamespace(auth=auth)
        self.published = SimpleNamespace(machine=self.machine)
        self.reads = 0

    def read(self) -> Any:
        self.reads += 1
        change = changing(wire.ADD_USER, f"u{self.reads}", b"") if self.reads < 100 else changing(wire.DELETE_USER, "ann")
        self.machine.auth = self.machine.auth.after(change, 0)
        return (wire.OK, self.reads)


class Long(Plan[Any]):
    """A question that every user may ask."""

    def permit(self, subject: Any, machine: Any) -> None:
        machine.auth.check_user(subject)

    def is_at_hand(self, node: Any) -> bool:
        return True

    def at_once(self, node: Any) -> Any:
        return node.read()

    def answer(self, node: Any, call: Any) -> Any:
        return node.read()


def ways(judged: Judged, node: Any) -> Iterator[Any]:
    """Answer in each way."""
    yield judged.at_once(node)
    yield judged.answer(node, cast("Any", None))
    for call in (None, object()):
        steps = judged.answer_in_steps(node, cast("Any", call))
        with pytest.raises(StopIteration) as end:
            while True:
                next(steps)
        yield end.value.value


def test_a_long_scan_of_a_user_never_ended_while_a_program_made_users_one_after_the_other() -> None:
    node = Busy()
    answers = list(ways(Judged(Long(), ("ann", 1 << 40)), node))
    assert answers == [(wire.OK, (1 + ANEW_MAX) * place) for place in range(1, 5)]


def test_what_is_not_answered_anew_any_more_is_told_only_to_who_has_the_right_still() -> None:
    node = Busy()
    node.reads = 99 - ANEW_MAX
    with pytest.raises(errors.AuthenticationFailed):
        Judged(Long(), ("ann", 1 << 40)).answer(cast("Any", node), cast("Any", None))
    assert node.reads == 100


# -- logins ------------------------------------------------------------------------------------------------------------------------


@define(eq=False)
class Guess:
    """Stands for a login by a password that is wrong."""

    user: str


def test_guesses_at_a_thousand_other_names_which_were_not_even_compared_made_those_at_one_forgotten(hall: Hall) -> None:
    porter: Porter = hall.porter
    allowed = 0

    def guess(user: str) -> bool:
        proof = cast("Any", Guess(user))
        try:
            porter.begin_check(proof, lambda: None)
        except (errors.AuthenticationFailed, errors.Overloaded):
            return False
        porter.end_check(proof, wrong=True)
        return True

    for second in range(60):
        allowed += sum(guess("bob") for _ in range(20))
        for number in range(login.NAMES_MAX + 1):
            guess(f"{second}-{number}")
        hall.cluster.now += 1.0
    assert login.BURST <= allowed <= login.BURST + 60 / login.AGAIN_AFTER + 1


@pytest.mark.parametrize("compared", [False, True])
def test_right_passwords_of_a_client_that_goes_too_early_locked_its_user_out(hall: Hall, compared: bool) -> None:
    """They were given back only when the client was still there to hear that they are right."""
    jobs: list[Any] = []
    hall.porter._elsewhere = jobs.append
    for _ in range(2 * login.BURST):
        hurried = hall.stranger()
        assert hurried.says_it_is("bob") == Ask(1)
        hurried.says(Prove(2, b"", b"bob's"))
        hall.run(lambda: jobs)
        if compared:
            jobs.pop()()
        hurried.goes()
        while jobs:
            jobs.pop()()
        hall.turn()
    hall.porter._elsewhere = lambda job: job()
    assert bob(hall).guest[0] == "bob"


# -- what holds everybody up -------------------------------------------------------------------------------------------------------

MANY = 20 * STEP


@pytest.fixture
def leased() -> Log:
    """Return a log with a lease of ann's on which many keys hang."""
    log = Log()
    log.must(changing(wire.ADD_USER, "root", b""), changing(wire.ADD_USER, "ann", b""), changing(wire.ADD_ROLE, "r"))
    log.must(changing(wire.GRANT_PERMISSION, "r", wire.READWRITE, b"k", b"l"), changing(wire.GRANT_ROLE, "ann", "r"))
    log.must(ops.Grant(1, 3_600_000_000, 0).to_wire(), *(ops.Put(f"k{number}", "", lease=1).to_wire() for number in range(MANY)))
    log.must(changing(wire.ENABLE))
    return log


def slices(log: Log, *operations: ops.Packable[Any]) -> tuple[int, list[Any]]:
    """Apply ann's operations; return how many slices that took, and the answers."""
    guest = ("ann", log.machine.auth.revision)
    session = log.batch(0, 1, (), guest).opened
    data = codec.pack_batch(session, 1, 0, [codec.pack(operation.to_wire()) for operation in operations], guest)
    entry = codec.make_entry(log.machine.applied + 1, 1, EntryKind.BLOCK, log.time, codec.encode_block([data]))
    steps, taken = log.machine.apply(entry), 0
    with pytest.raises(StopIteration) as end:
        while True:
            next(steps)
            taken += 1
    (outcome,) = end.value.value
    return taken, [answer[0] for answer in outcome.answers]


def judged(patch: pytest.MonkeyPatch) -> list[bytes]:
    """Have the keys noted that are looked up from now on."""
    seen: list[bytes] = []
    cover = auth_module._Spans.cover

    def noting(self: Any, start: bytes, end: bytes | None) -> bool:
        seen.append(start)
        return cover(self, start, end)

    patch.setattr(auth_module._Spans, "cover", noting)
    return seen


def test_a_put_on_a_lease_with_very_many_keys_held_up_every_member_until_all_were_judged(leased: Log) -> None:
    taken, statuses = slices(leased, ops.Put("kx", "", lease=1))
    assert statuses == [wire.OK]
    assert taken >= MANY // STEP


def test_each_put_on_a_lease_judged_all_its_keys_anew(leased: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    slices(leased, ops.Put("kx", "", lease=1))
    seen = judged(monkeypatch)
    nested = ops.Txn(then=[ops.Put(f"k-{number}", "", lease=1) for number in range(20)])
    _, statuses = slices(leased, ops.Put("ky", "", lease=1), nested, ops.Put("kz", "", lease=1))
    assert statuses == [wire.OK] * 3
    assert len(seen) < 100


def test_what_was_judged_once_is_judged_again_where_it_may_have_changed(leased: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    """A key that another one has hung on the lease, a right that was taken away, and another user are no matter of the past."""
    log, put = leased, ops.Put("kx", "", lease=1)
    assert slices(log, put)[1] == [wire.OK]
    log.must(ops.Put("other", "", lease=1).to_wire())
    assert slices(log, put)[1] == [DENIED]
    log.must(ops.Delete("other").to_wire(), ops.Delete("k5").to_wire(), ops.Put("k5", "", lease=1).to_wire())
    assert slices(log, put)[1] == [wire.OK]
    log.must(changing(wire.ADD_USER, "eve", b""), changing(wire.ADD_ROLE, "e"), changing(wire.GRANT_ROLE, "eve", "e"))
    log.must(changing(wire.GRANT_PERMISSION, "e", wire.READWRITE, b"kx", b"kx\x00"))
    assert slices(log, put)[1] == [wire.OK]
    assert log.do(put.to_wire(), guest=("eve", log.machine.auth.revision))[0][0] == DENIED
    log.must(changing(wire.GRANT_PERMISSION, "r", wire.READ, b"k", b"l"), changing(wire.GRANT_PERMISSION, "r", wire.WRITE, b"k1", b"l"))
    assert slices(log, put)[1] == [DENIED]
    seen = judged(monkeypatch)
    log.must(changing(wire.GRANT_PERMISSION, "r", wire.WRITE, b"k", b"l"))
    assert slices(log, put)[1] == [wire.OK]
    assert len(set(seen)) == MANY + 1


def test_a_login_had_everybodys_rights_worked_out_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    auth = Auth()
    for command in (changing(wire.ADD_USER, "root", b""), changing(wire.ADD_USER, "ann", b""), changing(wire.ENABLE)):
        auth = auth.after(command, 0)
    with pytest.raises(errors.PermissionDenied):
        auth.check_span(("ann", 9), wire.READ, (b"a", b"b"))
    after = auth.after(changing(wire.ADD_TOKEN, bytes(32), "ann", 9, 1), 0)
    monkeypatch.setattr(auth_module._Spans, "of", None)
    with pytest.raises(errors.PermissionDenied):
        after.check_span(("ann", 9), wire.READ, (b"a", b"b"))


# -- leases without keys -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def shared() -> Log:
    """Return a log in which ann and bob may write below their names."""
    log = Log()
    log.must(changing(wire.ADD_USER, "root", b""))
    for name in ("ann", "bob"):
        log.must(changing(wire.ADD_USER, name, b""), changing(wire.ADD_ROLE, name), changing(wire.GRANT_ROLE, name, name))
        log.must(changing(wire.GRANT_PERMISSION, name, wire.READWRITE, name.encode(), name.encode() + b"0"))
    log.must(changing(wire.ENABLE))
    return log


def by(log: Log, user: str, *operations: ops.Packable[Any]) -> list[int]:
    """Return what became of a user's operations."""
    guest = (user, log.machine.auth.revision)
    return [answer[0] for answer in log.do(*(operation.to_wire() for operation in operations), guest=guest)]


HOUR = 3_600_000_000


@pytest.mark.parametrize("operation", [ops.Put("bob", "v", lease=1), ops.Revoke(1), ops.Renew(1, 9), ops.Renew(1, 0)], ids=str)
def test_a_lease_on_which_no_key_hung_yet_could_be_ended_taken_over_or_made_useless_by_every_user(
    shared: Log, operation: ops.Packable[Any]
) -> None:
    """Its number is one more than that of the last; and a foreign key on it kept its own holder from using or revoking it."""
    assert by(shared, "ann", ops.Grant(0, HOUR, 7)) == [wire.OK]
    assert by(shared, "bob", operation, ops.Txn(otherwise=[operation]) if isinstance(operation, ops.Put) else operation) == [DENIED] * 2
    copy = shared.copy()
    assert by(copy, "bob", operation) == [DENIED]  # also behind a snapshot
    assert by(copy, "ann", ops.Put("ann", "v", lease=1), ops.Delete("ann"), ops.Renew(1, 8), ops.Revoke(1)) == [wire.OK] * 4


def test_a_lease_without_keys_is_whose_it_was_granted_for_in_a_member_too(shared: Log) -> None:
    stamp = shared.machine.auth.revision
    shared.must((wire.AS, "ann", stamp, ops.Grant(0, HOUR, 7).to_wire()), ops.Grant(0, HOUR, 7).to_wire())
    assert by(shared, "bob", ops.Revoke(1), ops.Revoke(2)) == [DENIED] * 2
    assert by(shared, "ann", ops.Revoke(2), ops.Revoke(1)) == [DENIED, wire.OK]
    assert by(shared, "root", ops.Revoke(2)) == [wire.OK]


def test_a_lease_that_was_taken_over_is_whose_it_is_now(shared: Log) -> None:
    shared.must(changing(wire.GRANT_PERMISSION, "bob", wire.READWRITE, b"ann", b"ann0"))
    assert by(shared, "ann", ops.Grant(0, HOUR, 7), ops.Put("ann", "v", lease=1)) == [wire.OK] * 2
    assert by(shared, "bob", ops.Renew(1, 0), ops.Delete("ann"), ops.Revoke(1)) == [wire.OK, wire.OK, DENIED]
    assert by(shared, "ann", ops.Put("ann", "v", lease=1)) == [wire.OK]
    assert by(shared, "bob", ops.Renew(1, 9), ops.Delete("ann"), ops.Renew(1, 9)) == [wire.OK] * 3
    assert by(shared, "ann", ops.Put("ann", "v", lease=1)) == [DENIED]


def test_a_lease_that_nobody_had_to_prove_anything_for_is_anybodys_after_auth_was_enabled(shared: Log) -> None:
    """Else who rests on one from before could not use it, and would keep it alive in vain."""
    shared.must(changing(wire.DISABLE))
    assert shared.do(ops.Grant(0, HOUR, 7).to_wire(), guest=("", 0))[0][0] == wire.OK
    shared.must(changing(wire.ENABLE))
    assert by(shared, "ann", ops.Put("ann", "v", lease=1)) == [wire.OK]
    assert by(shared, "bob", ops.Revoke(1)) == [DENIED]


# -- who is woken ------------------------------------------------------------------------------------------------------------------


def test_each_user_that_was_made_woke_all_watches_and_had_all_clients_looked_at(hall: Hall, monkeypatch: pytest.MonkeyPatch) -> None:
    """Twenty thousand watches take 20 ms of the thread that decides: only what takes something away is worth that."""
    rung: list[int] = []
    monkeypatch.setattr(hall.node.hub, "judge_anew", rung.append)
    before = hall.node.machine.auth
    gives = [
        (wire.ADD_USER, "new", b""),
        (wire.ADD_ROLE, "more"),
        (wire.GRANT_PERMISSION, "more", wire.READ, b"x", None),
        (wire.GRANT_PERMISSION, "more", wire.READWRITE, b"x", None),
        (wire.GRANT_ROLE, "new", "more"),
    ]
    change(root(hall), *gives)
    assert hall.node.machine.auth.revision == before.revision + len(gives)
    assert not rung
    assert hall.door._judged == before.narrowed


@pytest.mark.parametrize(
    "takes",
    [
        (wire.ENABLE,),
        (wire.DELETE_USER, "bob"),
        (wire.CHANGE_PASSWORD, "bob", b""),
        (wire.REVOKE_ROLE, "ann", "dev"),
        (wire.DELETE_ROLE, "dev"),
        (wire.GRANT_PERMISSION, "dev", wire.READ, b"app/", b"app0"),
        (wire.GRANT_PERMISSION, "dev", wire.WRITE, b"app/", b"app0"),
        (wire.REVOKE_PERMISSION, "dev", b"app/", b"app0"),
    ],
    ids=str,
)
def test_what_may_take_something_away_wakes_them(hall: Hall, takes: tuple[Any, ...]) -> None:
    narrowed = hall.node.hub.auth_revision
    change(root(hall), takes)
    assert narrowed < hall.node.hub.auth_revision == hall.node.machine.auth.narrowed == hall.node.machine.auth.revision
    again = Machine.load(hall.node.machine.dump()).auth
    assert again.narrowed == again.revision


def test_guesses_of_somebody_else_ended_a_client_instead_of_sending_it_to_another_member(hall: Hall) -> None:
    """Too many guesses are no verdict on who asks; a client that one member does not take for its user gives up what it had under way."""
    for _ in range(login.BURST):
        guesser = hall.stranger()
        assert guesser.says_it_is("bob") == Ask(1)
        assert type(guesser.proves(b"a guess").error) is errors.AuthenticationFailed
    visitor = hall.stranger()
    assert visitor.says_it_is("bob") == Ask(1)
    assert type(visitor.proves(b"bob's").error) is errors.Overloaded


@pytest.mark.parametrize("certified", [False, True])
def test_a_member_without_a_leader_told_a_client_for_good_that_it_is_no_user_of_whom_it_had_not_heard(certified: bool) -> None:
    """The client was closed at the beginning, or lost what it had under way, although another member would have let it in."""
    hall = Hall("abc")
    hall.run(lambda: hall.node.ready)
    lock_up(hall)
    for name in "bc":
        hall.cluster.crash(name)
    stranger = hall.stranger()
    if certified:
        hall.transport.certified[stranger.pipe] = frozenset(("eve",))
        failed = stranger.asks(Hello(1, letters.VERSION, 99))
    else:
        assert stranger.says_it_is("eve") == Ask(1)
        failed = stranger.proves(b"eve's")
    assert type(failed.error) is errors.NoLeader
    assert "no user" in str(failed.error) or "no such user" in str(failed.error)
    assert "try another member" in str(failed.error)
