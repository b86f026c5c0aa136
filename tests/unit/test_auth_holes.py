"""Holes that others had, and some that were found here: each test is named after what went wrong.

etcd's are told by their CVE or GHSA number, or by that of an issue.  The rights matrix tries everything in general; here is the story of
each, as an attacker would go about it.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest
from rights import ANYBODYS, EMPTY, HELD, KEEPER, MISSING, OURS, SECRET, WORLD, Log, auth, facts

from replkv import codec, errors, ops, wire
from replkv.auth import Auth, _Spans
from replkv.machine import Machine
from replkv.ops import KEEP, Add, Delete, Get, Guard, Key, Put, Renew, Revoke, Scan, Txn
from replkv.refusals import STATUS, error_of
from replkv.wire import READ, READWRITE, WRITE, Raw

OK = wire.OK
DENIED, UNPROVED = STATUS[errors.PermissionDenied], STATUS[errors.AuthenticationFailed]
REFUSED = STATUS[errors.AuthRefused]


class Cluster:
    """A world with auth enabled, in which alice may read and write ``alice/``, bob ``bob/``, and eve reads one key, ``eve``."""

    def __init__(self) -> None:
        self.log = WORLD.copy()
        self.log.must(auth(wire.ADD_USER, "root", b""))
        for name in ("alice", "bob"):
            self.log.must(*self.user(name, (READWRITE, b"%s/" % name.encode(), b"%s0" % name.encode())))
        self.log.must(*self.user("eve", (READ, b"eve", b"eve\x00")))
        self.log.must(Put("alice/secret", SECRET).to_wire(), Put("bob/secret", SECRET).to_wire(), auth(wire.ENABLE))

    @staticmethod
    def user(name: str, *permissions: tuple[int, bytes, bytes | None]) -> list[Raw]:
        granted = [auth(wire.GRANT_PERMISSION, name, *permission) for permission in permissions]
        return [auth(wire.ADD_USER, name, b""), auth(wire.ADD_ROLE, name), *granted, auth(wire.GRANT_ROLE, name, name)]

    @property
    def machine(self) -> Machine:
        return self.log.machine

    @property
    def auth(self) -> Auth:
        return self.log.machine.auth

    def as_(self, user: str, *operations: ops.Packable[Any] | Raw, stamp: int | None = None) -> tuple[Raw, ...]:
        """Return the answers to a user's client."""
        commands = [operation if isinstance(operation, tuple) else operation.to_wire() for operation in operations]
        return self.log.do(*commands, guest=(user, self.auth.revision if stamp is None else stamp))

    def denied(self, user: str, *operations: ops.Packable[Any]) -> None:
        """Require that each is denied, changes nothing, and tells nothing."""
        for operation in operations:
            before = facts(self.machine)
            (answer,) = self.as_(user, operation)
            assert answer[0] == DENIED, (operation, answer)
            assert SECRET not in codec.pack(answer)
            assert facts(self.machine) == before


@pytest.fixture
def cluster() -> Cluster:
    return Cluster()


def nested(operation: ops.Operation, depth: int) -> Txn:
    """Return an operation in both kinds of branches of transactions, so many deep."""
    for level in range(depth):
        operation = Txn(then=[operation]) if level % 2 else Txn(compare=[Key("alice/none").exists], otherwise=[operation])
    assert isinstance(operation, Txn)
    return operation


# -- transactions ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("depth", [1, 2, 3, 16])
def test_cve_2026_33343_what_was_nested_in_a_transaction_was_not_checked(cluster: Cluster, depth: int) -> None:
    cluster.denied("alice", *(nested(operation, depth) for operation in (Get("bob/secret"), Put("bob/secret", b""), Delete("bob/secret"))))
    (answer,) = cluster.as_("alice", nested(Put("alice/secret", b""), depth))
    assert answer[0] == OK


def test_the_branch_that_is_not_taken_was_not_checked_so_that_the_refusal_told_how_a_compare_came_out(cluster: Cluster) -> None:
    cluster.log.must(Put("alice/x", b"1").to_wire())
    for guess in (b"1", b"2"):
        cluster.denied("alice", Txn(compare=[Key("alice/x").value == guess], then=[Get("bob/secret")], otherwise=[Get("alice/x")]))
        cluster.denied("alice", Txn(compare=[Key("alice/x").value == guess], then=[Get("alice/x")], otherwise=[Get("bob/secret")]))


def test_a_compare_of_a_foreign_value_was_an_oracle_that_gave_it_away_bit_by_bit(cluster: Cluster) -> None:
    for target in (Key("bob/secret"), Key(prefix="bob/"), Key(start="bob/"), Key(start="alice/"), Key(prefix="")):
        cluster.denied("alice", Txn(compare=[target.value > b"S"]), Txn(compare=[target.version == 1]), Txn(compare=[target.exists]))
        cluster.denied("alice", Txn(compare=[target.lease == 0]), nested(Txn(compare=[target.mod_revision > 1]), 2))
    cluster.denied("alice", Txn(compare=[Guard("bob/secret", 7)]))


def test_a_guard_of_a_write_was_an_oracle_for_when_a_foreign_key_was_made(cluster: Cluster) -> None:
    cluster.denied("alice", Put("alice/x", b"", guard=Guard("bob/secret", 7)), Delete("alice/x", guard=Guard("bob/secret", 7)))


def test_a_transaction_that_was_denied_in_its_last_part_had_done_the_others(cluster: Cluster) -> None:
    cluster.denied("alice", Txn(then=[Put("alice/x", b"1"), Put("alice/y", b"1"), Put("bob/z", b"1")]))


# -- what answers give away --------------------------------------------------------------------------------------------------------


def test_cve_2026_44283_a_put_told_the_pair_that_it_replaced(cluster: Cluster) -> None:
    cluster.log.must(*Cluster.user("writer", (WRITE, b"bob/", b"bob0")))
    put, delete = Put("bob/secret", b"", prev_kv=True), Delete(prefix="bob/", prev_kv=True)
    cluster.denied("writer", put, delete, nested(put, 1), nested(delete, 2), Put("bob/secret", KEEP, prev_kv=True))
    (answer,) = cluster.as_("writer", Put("bob/secret", b"new"))
    assert answer[0] == OK


def test_the_error_of_a_conditional_put_held_the_pair_that_its_caller_might_not_read(cluster: Cluster) -> None:
    cluster.log.must(*Cluster.user("writer", (WRITE, b"bob/", b"bob0")))
    conditional = (
        Put("bob/secret", b"", if_mod_revision=1),
        Delete("bob/secret", if_mod_revision=1),
        Put("bob/secret", b"", if_mod_revision=0),
    )
    cluster.denied("writer", *conditional, *(nested(operation, 2) for operation in conditional))
    (answer,) = cluster.as_("bob", conditional[0])
    conflict = error_of(*answer)
    assert isinstance(conflict, errors.Conflict)
    assert conflict.current is not None
    assert conflict.current.value == SECRET


def test_an_addition_told_who_may_only_write_what_the_counter_holds_and_whether_it_is_one(cluster: Cluster) -> None:
    cluster.log.must(*Cluster.user("writer", (WRITE, b"bob/", b"bob0")), Put("bob/n", b"5").to_wire())
    cluster.denied("writer", Add("bob/n", 0), Add("bob/secret", 0), Add("bob/new", 1), nested(Add("bob/n", 1), 1))


def test_who_may_only_write_could_see_by_an_added_nothing_that_a_key_is_there(cluster: Cluster) -> None:
    """What a writer can tell of a key without reading it: that KEEP finds none, and how many a delete removed; etcd tells so much, too."""
    cluster.log.must(*Cluster.user("writer", (WRITE, b"bob/", b"bob0")))
    missing, there, deleted = cluster.as_("writer", Put("bob/none", KEEP), Put("bob/secret", KEEP), Delete(prefix="bob/"))
    assert missing[0] == STATUS[errors.KeyNotFound]
    assert there[0] == OK
    assert deleted[2:] == (1, ())


@pytest.mark.parametrize("options", [{"count_only": True}, {"keys_only": True}, {"limit": 1}, {"min_mod_revision": 1 << 40}], ids=str)
def test_a_scan_that_returns_no_value_was_not_taken_for_a_read(cluster: Cluster, options: dict[str, Any]) -> None:
    wide: list[dict[str, Any]] = [
        {"prefix": "bob/"},
        {"start": "bob/"},
        {"start": "alice/"},
        {"prefix": "alice"},
        {},
        {"start": b"\x00"},
        {"start": "a", "end": "c"},
    ]
    for where in wide:
        cluster.denied("alice", Scan(**where, **options), nested(Scan(**where, **options), 2))
    assert cluster.as_("alice", Scan(prefix="alice/", **options))[0][0] == OK


def test_the_one_key_reader_read_from_its_key_on(cluster: Cluster) -> None:
    """GHSA-xg4h-6gfc-h4m8: b"\\x00" as the end of a range was compared as a key, and lies before every permission's end."""
    cluster.denied("eve", Scan(start="eve"), Scan(start="eve", end="eve\x00\x00"), Scan(start="eve", end=b"f"), Scan(prefix="eve"), Scan())
    auth = cluster.auth
    subject = ("eve", auth.revision)
    auth.check_span(subject, READ, (b"eve", b"eve\x00"))
    for end in (None, b"eve\x00\x00", b"\xff"):
        with pytest.raises(errors.PermissionDenied):
            auth.check_span(subject, READ, (b"eve", end))
    (nothing,) = cluster.as_("eve", Scan(start="eve", end=b"\x00"))  # in replkv that is a key like others, and no key lies between
    assert nothing[2:4] == ((), 0)


def test_old_revisions_were_read_by_who_had_the_right_only_then_or_has_it_only_now(cluster: Cluster) -> None:
    """The rights of now count, whatever is read: who lost its right reads no history with it."""
    before = cluster.machine.store.revision
    assert cluster.as_("bob", Get("bob/secret", revision=before))[0][0] == OK
    cluster.log.must(auth(wire.REVOKE_PERMISSION, "bob", b"bob/", b"bob0"))
    cluster.denied("bob", Get("bob/secret", revision=before), Get("bob/secret"))


# -- leases ------------------------------------------------------------------------------------------------------------------------


def test_cve_2026_44283_a_key_was_hung_on_a_foreign_lease_in_a_nested_put(cluster: Cluster) -> None:
    put = Put("alice/x", b"", lease=HELD)
    cluster.denied("alice", put, nested(put, 1), nested(put, 2), Put("alice/x", b"", lease=OURS))
    for lease, status in ((ANYBODYS, OK), (MISSING, STATUS[errors.LeaseNotFound])):
        assert cluster.as_("alice", Put("alice/x", b"", lease=lease))[0][0] == status


def test_cve_2026_33413_who_has_no_right_revoked_a_lease_and_with_it_deleted_its_keys(cluster: Cluster) -> None:
    cluster.denied("alice", Revoke(HELD), Revoke(HELD, KEEPER), Renew(HELD, 0), Renew(HELD, 99), Revoke(OURS), Renew(OURS, 5))


def test_one_foreign_key_among_many_own_was_not_noticed(cluster: Cluster) -> None:
    cluster.log.must(*(Put(f"alice/{number}", b"", lease=EMPTY).to_wire() for number in range(50)))
    (renewed,) = cluster.as_("alice", Renew(EMPTY, 0))
    assert renewed[0] == OK
    cluster.log.must(Put("bob/x", b"", lease=EMPTY).to_wire())
    cluster.denied("alice", Renew(EMPTY, 0), Revoke(EMPTY), Put("alice/1", b"", lease=EMPTY))
    cluster.denied("bob", Renew(EMPTY, 0), Revoke(EMPTY), Put("bob/x", b"", lease=EMPTY))


def test_a_lease_was_anybody_s_before_a_key_hung_on_it(cluster: Cluster) -> None:
    """Between its grant and its first put: ids count up, so each lock could be broken as it was taken, or its lease be spoilt."""
    (granted,) = cluster.as_("alice", ops.Grant(0, 60_000_000, 7))
    lease = granted[1]
    others = Revoke(lease), Revoke(lease, 7), Renew(lease, 0), Renew(lease, 9), Put("bob/x", b"", lease=lease)
    cluster.denied("bob", *others, nested(Put("bob/x", b"", lease=lease), 2))
    cluster.denied("alice", *(operation for operation in (Revoke(EMPTY), Renew(EMPTY, 9), Put("alice/x", b"", lease=EMPTY))))
    for operation in (Renew(lease, 0), Put("alice/x", b"", lease=lease), Delete("alice/x"), Put("alice/x", b"", lease=lease)):
        assert cluster.as_("alice", operation)[0][0] == OK
    cluster.denied("bob", *others)
    assert cluster.as_("alice", Delete("alice/x"), Renew(lease, 9), Revoke(lease))[2][0] == OK


def test_66_a_refusal_named_another_key_of_the_lease_on_the_member_that_began_with_a_snapshot(cluster: Cluster) -> None:
    """Keys hang on a lease in the order of time, and after a snapshot in their own: what is answered must not hang on that."""
    log = cluster.log
    log.must(*(Put(key, b"", lease=EMPTY).to_wire() for key in ("held/z", "held/a", "bob/m")))
    other = log.copy()
    assert list(other.machine.leases[EMPTY].keys) != list(log.machine.leases[EMPTY].keys), "else this shows nothing"
    for operation in (Revoke(EMPTY), Renew(EMPTY, 0), Put("alice/x", b"", lease=EMPTY), nested(Put("alice/x", b"", lease=EMPTY), 2)):
        asked = operation.to_wire()
        answers = [each.do(asked, guest=("alice", cluster.auth.revision)) for each in (log, other)]
        assert answers[0] == answers[1]
        assert answers[0][0][0] == DENIED
    assert log.machine.chain == other.machine.chain


def test_cve_2023_32082_the_refusal_of_a_lease_told_whose_keys_hang_on_it(cluster: Cluster) -> None:
    """To whoever counts up: the ids of leases do, too."""
    for operation in (Revoke(HELD), Renew(HELD, 0), Put("alice/x", b"", lease=HELD), nested(Put("alice/x", b"", lease=HELD), 2)):
        (answer,) = cluster.as_("alice", operation)
        assert answer[0] == DENIED
        assert b"held" not in codec.pack(answer)
        assert "held" not in str(error_of(*answer))


def test_each_key_that_hangs_on_a_lease_made_the_next_one_take_longer(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was found to be a user's to write is not looked up again with each key that the same user hangs on the lease."""
    looked_up = 0
    cover = _Spans.cover

    def counted(spans: _Spans, start: bytes, end: bytes | None) -> bool:
        nonlocal looked_up
        looked_up += 1
        return cover(spans, start, end)

    monkeypatch.setattr(_Spans, "cover", counted)
    for number in range(300):
        assert cluster.as_("alice", Put(b"alice/%d" % number, b"", lease=ANYBODYS))[0][0] == OK
    assert looked_up < 300 * 20


def test_what_was_found_to_be_a_user_s_to_write_counted_when_it_was_so_no_more(cluster: Cluster) -> None:
    """The price of not looking it up again: whatever changes the keys of the lease, or the rights, must not meet what was found before."""
    log = cluster.log

    def may() -> bool:
        return bool(cluster.as_("alice", Put("alice/x", b"", lease=ANYBODYS))[0][0] == OK)

    assert may()
    log.must(Put("bob/1", b"", lease=ANYBODYS).to_wire())
    assert not may()
    log.must(Put("bob/1", b"").to_wire())
    assert may()
    log.must(Put("bob/1", KEEP, lease=ANYBODYS).to_wire(), Delete("alice/x").to_wire())
    assert not may()
    log.must(Delete("bob/1").to_wire(), Put("alice/y", b"", lease=ANYBODYS).to_wire())
    assert may()
    log.must(Revoke(ANYBODYS).to_wire(), ops.Grant(ANYBODYS, 60_000_000, 0).to_wire(), Put("bob/1", b"", lease=ANYBODYS).to_wire())
    assert not may()
    log.must(auth(wire.GRANT_ROLE, "alice", "bob"))
    assert may()
    log.must(auth(wire.REVOKE_PERMISSION, "bob", b"bob/", b"bob0"))
    assert not may()
    other = log.copy()
    assert other.do(Put("alice/x", b"", lease=ANYBODYS).to_wire(), guest=("alice", cluster.auth.revision))[0][0] == DENIED


def test_a_short_lease_that_was_hung_on_a_foreign_key_deleted_it(cluster: Cluster) -> None:
    """By a put of the foreign key that keeps its value, or by one with a ttl."""
    (granted,) = cluster.as_("alice", ops.Grant(0, 1_000_000, 0))
    lease = granted[1]
    cluster.denied("alice", Put("bob/secret", KEEP, lease=lease), Put("bob/secret", KEEP, ttl=1), nested(Put("bob/secret", KEEP, ttl=1), 1))


# -- who it is ---------------------------------------------------------------------------------------------------------------------


def test_auth_revision_is_old_what_was_proved_before_a_change_was_believed_after_it(cluster: Cluster) -> None:
    stamp = cluster.auth.revision
    cluster.log.must(auth(wire.CHANGE_PASSWORD, "bob", b"new"))
    assert cluster.as_("bob", Get("bob/secret"), stamp=stamp) == ((UNPROVED, ("bob",)),)
    assert cluster.as_("bob", Get("bob/secret"), stamp=stamp + 1)[0][0] == OK
    assert cluster.as_("alice", Get("alice/secret"), stamp=stamp)[0][0] == OK, "somebody else's change is none of its business"


def test_a_user_that_was_deleted_and_made_anew_was_taken_for_the_old_one(cluster: Cluster) -> None:
    stamp = cluster.auth.revision
    cluster.log.must(auth(wire.DELETE_USER, "bob"))
    assert cluster.as_("bob", Get("bob/secret"), stamp=stamp) == ((UNPROVED, ("bob",)),)
    cluster.log.must(auth(wire.ADD_USER, "bob", b""), auth(wire.GRANT_ROLE, "bob", "bob"))
    assert cluster.as_("bob", Get("bob/secret"), stamp=stamp) == ((UNPROVED, ("bob",)),)
    assert cluster.as_("bob", Get("bob/secret"))[0][0] == OK


def test_a_role_that_was_deleted_and_made_anew_was_still_held_by_who_had_the_old_one(cluster: Cluster) -> None:
    cluster.log.must(auth(wire.DELETE_ROLE, "bob"), auth(wire.ADD_ROLE, "bob"))
    cluster.log.must(auth(wire.GRANT_PERMISSION, "bob", READWRITE, b"bob/", b"bob0"))
    cluster.denied("bob", Get("bob/secret"))


def test_a_client_spoke_for_another_by_a_command_that_is_for_members(cluster: Cluster) -> None:
    """The door lets none in; but whatever gets past it must not make its sender root."""
    put = Put("bob/secret", b"").to_wire()
    before = facts(cluster.machine)
    for asks in (("root", 1 << 40), ("bob", cluster.auth.revision), ("alice", 1 << 40)):
        (answer,) = cluster.as_("alice", (wire.AS, *asks, put))
        assert answer[0] == DENIED
    assert facts(cluster.machine) == before
    (answer,) = cluster.as_("", (wire.AS, "root", 1 << 40, put))
    assert answer[0] == UNPROVED


def test_what_a_batch_did_after_auth_was_enabled_in_its_midst_was_not_checked() -> None:
    """Plain puts are carried out many at a time, by who found that nothing is checked."""
    cluster = Cluster()
    cluster.log.must(auth(wire.DISABLE))
    put = Put("bob/secret", b"1").to_wire()
    session = cluster.log.batch(0, 99, (), ("alice", cluster.auth.revision)).opened
    commands = [put, put, auth(wire.ENABLE), *[put] * 200, Put("alice/x", b"").to_wire()]
    answers = cluster.log.batch(session, 1, commands, ("alice", cluster.auth.revision)).answers
    assert answers is not None
    assert [answer[0] for answer in answers] == [OK, OK, OK, *[DENIED] * 200, OK]


def test_who_came_in_while_auth_was_not_enabled_stayed_in_when_it_was(cluster: Cluster) -> None:
    cluster.log.must(auth(wire.DISABLE))
    session = cluster.log.batch(0, 98, (), ("", 0)).opened
    put = Put("bob/secret", b"1").to_wire()
    for sequence, change, status in ((1, wire.DISABLE, OK), (2, wire.ENABLE, UNPROVED), (3, wire.DISABLE, OK)):
        cluster.log.must(auth(change))
        answers = cluster.log.batch(session, sequence, [put], ("", 0)).answers
        assert answers is not None
        assert answers[0][0] == status


def test_a_client_read_the_answers_in_the_session_of_another(cluster: Cluster) -> None:
    """Sessions are numbered by their place in the log, so they can be guessed; a repeat gets what is remembered."""
    log = cluster.log
    session = log.batch(0, 97, (), ("bob", cluster.auth.revision)).opened
    get = Get("bob/secret").to_wire()
    told = log.batch(session, 1, [get], ("bob", cluster.auth.revision))
    assert SECRET in codec.pack(told.answers)
    for thief in (("alice", cluster.auth.revision), ("", 0), None):
        outcome = log.batch(session, 1, [get], thief)
        assert outcome.expired
        assert outcome.answers is None
        outcome = log.batch(session, 2, [Put("alice/x", b"").to_wire()], thief)
        assert outcome.expired
    assert log.batch(session, 1, [get], ("bob", cluster.auth.revision)).answers == told.answers


def test_another_user_of_the_name_was_told_what_the_deleted_one_was_answered(cluster: Cluster) -> None:
    log = cluster.log
    session = log.batch(0, 96, (), ("bob", cluster.auth.revision)).opened
    get = Get("bob/secret").to_wire()
    log.batch(session, 1, [get], ("bob", cluster.auth.revision))
    log.must(auth(wire.DELETE_USER, "bob"), auth(wire.ADD_USER, "bob", b""))
    outcome = log.batch(session, 1, [get], ("bob", cluster.auth.revision))
    assert outcome.expired
    assert outcome.answers is None


def test_a_user_that_deletes_itself_is_answered_once(cluster: Cluster) -> None:
    """Its session ends amid its own batch."""
    log = cluster.log
    log.must(auth(wire.GRANT_ROLE, "bob", "root"))
    session = log.batch(0, 95, (), ("bob", cluster.auth.revision)).opened
    commands = [auth(wire.DELETE_USER, "bob"), Put("bob/x", b"").to_wire()]
    outcome = log.batch(session, 1, commands, ("bob", cluster.auth.revision))
    assert outcome.answers is not None
    assert [answer[0] for answer in outcome.answers] == [OK, UNPROVED]
    assert log.batch(session, 1, commands, ("bob", cluster.auth.revision)).expired


# -- tokens ------------------------------------------------------------------------------------------------------------------------

DIGEST = b"d" * 32
VOID: dict[str, list[Raw]] = {
    "the password is another": [auth(wire.CHANGE_PASSWORD, "bob", b"new")],
    "the password is taken away": [auth(wire.CHANGE_PASSWORD, "bob", b"")],
    "the user is deleted": [auth(wire.DELETE_USER, "bob")],
    "the user is another of this name": [auth(wire.DELETE_USER, "bob"), auth(wire.ADD_USER, "bob", b"")],
    "auth was disabled meanwhile": [auth(wire.DISABLE), auth(wire.ENABLE)],
}


@pytest.mark.parametrize("how", VOID)
def test_a_token_outlived_what_it_stands_for(cluster: Cluster, how: str) -> None:
    stamp = cluster.auth.revision
    cluster.log.must(auth(wire.ADD_TOKEN, DIGEST, "bob", stamp, 300_000_000))
    assert cluster.auth.revision == stamp, "logins are no changes"
    assert cluster.auth.holder(DIGEST, cluster.machine.time) == ("bob", stamp)
    assert cluster.auth.holder(DIGEST, cluster.machine.time + 300_000_000) is None
    assert cluster.auth.holder(b"e" * 32, cluster.machine.time) is None
    cluster.log.must(*VOID[how])
    assert cluster.auth.holder(DIGEST, cluster.machine.time) is None


def test_67_the_old_password_was_accepted_because_it_was_verified_before_and_counted_after_the_change(cluster: Cluster) -> None:
    stamp = cluster.auth.revision  # a door takes it, hashes for a tenth of a second, and meanwhile:
    cluster.log.must(auth(wire.CHANGE_PASSWORD, "bob", b"new"))
    (answer,) = cluster.log.do(auth(wire.ADD_TOKEN, DIGEST, "bob", stamp, 300_000_000))
    assert answer == (UNPROVED, ("bob",))
    assert cluster.auth.tokens == {}


def test_who_logs_in_without_end_pushed_the_tokens_of_others_out(cluster: Cluster) -> None:
    stamp = cluster.auth.revision
    cluster.log.must(auth(wire.ADD_TOKEN, DIGEST, "bob", stamp, 300_000_000))
    for number in range(300):
        cluster.log.must(auth(wire.ADD_TOKEN, number.to_bytes(32), "alice", stamp, 300_000_000))
    assert cluster.auth.holder(DIGEST, cluster.machine.time) == ("bob", stamp)
    assert sum(token.user == "alice" for token in cluster.auth.tokens.values()) == 100


# -- root --------------------------------------------------------------------------------------------------------------------------


def test_root_was_deleted_or_stripped_while_auth_was_enabled_so_that_nobody_could_administer() -> None:
    cluster = Cluster()
    before = facts(cluster.machine)
    for change in (auth(wire.DELETE_USER, "root"), auth(wire.REVOKE_ROLE, "root", "root")):
        for user in ("root", None):
            (answer,) = cluster.log.do(change, guest=None if user is None else (user, cluster.auth.revision))
            assert answer[0] == REFUSED
    assert facts(cluster.machine) == before
    cluster.log.must(auth(wire.DISABLE), auth(wire.DELETE_USER, "root"))
    (answer,) = cluster.log.do(auth(wire.ENABLE))
    assert answer[0] == REFUSED
    cluster.log.must(auth(wire.ADD_USER, "root", b""), auth(wire.REVOKE_ROLE, "root", "root"))
    (answer,) = cluster.log.do(auth(wire.ENABLE))
    assert answer[0] == REFUSED


def test_the_role_root_was_emptied_deleted_or_given_permissions(cluster: Cluster) -> None:
    before = facts(cluster.machine)
    for change in (
        auth(wire.DELETE_ROLE, "root"),
        auth(wire.ADD_ROLE, "root"),
        auth(wire.GRANT_PERMISSION, "root", READ, b"a", b"b"),
        auth(wire.REVOKE_PERMISSION, "root", b"a", b"b"),
    ):
        (answer,) = cluster.log.do(change)
        assert answer[0] in {REFUSED, STATUS[errors.RoleExists]}
    assert facts(cluster.machine) == before


def test_a_user_of_the_name_root_without_the_role_was_root(cluster: Cluster) -> None:
    cluster.log.must(*Cluster.user("Root"), auth(wire.GRANT_ROLE, "alice", "root"))
    cluster.denied("Root", Get("bob/secret"), ops.Compact(2))
    assert cluster.as_("alice", Get("bob/secret"))[0][0] == OK
    cluster.log.must(auth(wire.REVOKE_ROLE, "alice", "root"))
    cluster.denied("alice", Get("bob/secret"))


def test_a_user_gave_itself_a_role(cluster: Cluster) -> None:
    before = facts(cluster.machine)
    for change in (
        auth(wire.GRANT_ROLE, "alice", "root"),
        auth(wire.GRANT_ROLE, "alice", "bob"),
        auth(wire.GRANT_PERMISSION, "alice", READWRITE, b"\x00", None),
        auth(wire.CHANGE_PASSWORD, "root", b""),
        auth(wire.CHANGE_PASSWORD, "alice", b""),
        auth(wire.DISABLE),
        auth(wire.ADD_TOKEN, DIGEST, "root", cluster.auth.revision, 300_000_000),
    ):
        (answer,) = cluster.as_("alice", change)
        assert answer[0] == DENIED
    assert facts(cluster.machine) == before


# -- permissions -------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("span", [(b"m", b"m"), (b"z", b"a"), (b"bob/z", b"bob/")])
def test_a_permission_for_no_key_allowed_some(cluster: Cluster, span: tuple[bytes, bytes]) -> None:
    """The calls refuse it; an older or another program may have it written into the log."""
    cluster.log.must(*Cluster.user("nobody", (READWRITE, *span)))
    cluster.denied("nobody", *(Get(key) for key in (b"m", b"z", b"a", b"bob/", b"bob/z", b"bob/secret")), Scan(start=b"a", end=b"z"))
    cluster.denied("nobody", Put(span[0], b""), Put(span[1], b""), Scan())
    cluster.log.must(auth(wire.GRANT_PERMISSION, "nobody", READWRITE, b"n", b"o"))
    assert cluster.as_("nobody", Get("n"))[0][0] == OK, "and takes nothing from another one"
    cluster.denied("nobody", Get("o"), Get("m\xff"))


def test_two_permissions_that_touch_in_two_roles_did_not_cover_a_request_over_both(cluster: Cluster) -> None:
    cluster.log.must(*Cluster.user("both", (READ, b"k/", b"k/m")), *Cluster.user("other", (READ, b"k/m", b"k0")))
    cluster.denied("both", Scan(prefix="k/"))
    cluster.log.must(auth(wire.GRANT_ROLE, "both", "other"))
    assert cluster.as_("both", Scan(prefix="k/"))[0][0] == OK
    cluster.denied("both", Scan(start="k/"), Scan(start="k/", end="k0\x00"), Scan(start="k", end="k0"), Delete(prefix="k/"))
    cluster.log.must(auth(wire.REVOKE_PERMISSION, "other", b"k/m", b"k0"), auth(wire.GRANT_PERMISSION, "other", READ, b"k/m\x00", b"k0"))
    cluster.denied("both", Scan(prefix="k/"))


def test_14571_what_was_worked_out_of_the_permissions_before_counted_after_they_were_changed(cluster: Cluster) -> None:
    """A cache of what a user's roles allow: whatever changes them, in whichever way, must not meet the old one."""
    get = Get("bob/secret")
    steps: list[tuple[Raw | None, bool]] = [
        (None, True),
        (auth(wire.REVOKE_PERMISSION, "bob", b"bob/", b"bob0"), False),
        (auth(wire.GRANT_PERMISSION, "bob", READ, b"bob/", b"bob0"), True),
        (auth(wire.GRANT_PERMISSION, "bob", WRITE, b"bob/", b"bob0"), False),
        (auth(wire.GRANT_PERMISSION, "bob", READWRITE, b"bob/", b"bob0"), True),
        (auth(wire.DISABLE), True),
        (auth(wire.REVOKE_ROLE, "bob", "bob"), True),
        (auth(wire.ENABLE), False),
        (auth(wire.GRANT_ROLE, "bob", "root"), True),
        (auth(wire.REVOKE_ROLE, "bob", "root"), False),
    ]
    for change, allowed in steps:
        cluster.log.must(*([change] if change is not None else []))
        for _ in range(2):
            (answer,) = cluster.as_("bob", get)
            assert (answer[0] == OK) is allowed, change


# -- members alike -----------------------------------------------------------------------------------------------------------------


def a_life(cluster: Cluster) -> list[Callable[[Log], Any]]:
    """Return what happens to users and keys, each a step that gives an answer."""
    revision = cluster.auth.revision

    def do(*commands: Raw, guest: tuple[str, int] | None = None) -> Callable[[Log], Any]:
        return lambda log: log.do(*commands, guest=guest)

    put, get = Put("bob/secret", b"1").to_wire(), Get("bob/secret").to_wire()
    return [
        do(put, get, guest=("bob", revision)),
        do(auth(wire.REVOKE_PERMISSION, "bob", b"bob/", b"bob0")),
        do(put, get, guest=("bob", revision)),
        do((wire.AS, "alice", revision, get), (wire.AS, "alice", revision, Get("alice/secret").to_wire())),
        do(auth(wire.ADD_TOKEN, DIGEST, "alice", revision, 300_000_000), auth(wire.CHANGE_PASSWORD, "alice", b"new")),
        do((wire.AS, "alice", revision, Get("alice/secret").to_wire())),
        do(auth(wire.GRANT_ROLE, "bob", "root"), auth(wire.DELETE_ROLE, "alice"), auth(wire.DELETE_USER, "nobody")),
        do(put, get, guest=("bob", revision)),
        do(auth(wire.DISABLE)),
        do(put, guest=("", 0)),
        do(auth(wire.ENABLE)),
        do(put, guest=("", 0)),
    ]


@pytest.mark.parametrize("at", range(12))
def test_66_an_entry_was_refused_on_one_member_because_users_and_their_revision_were_not_in_its_snapshot(at: int) -> None:
    """etcd 11651 and 14571: a member that began with a snapshot judged by no users, or by those at another revision."""
    whole, begun = Cluster(), Cluster()
    steps = a_life(whole)
    assert len(steps) == 12
    for step in steps[:at]:
        step(whole.log)
        step(begun.log)
    from_snapshot = begun.log.copy()
    assert from_snapshot.machine.auth == whole.auth
    for step in steps[at:]:
        assert step(from_snapshot) == step(whole.log)
    assert from_snapshot.machine.auth == whole.auth
    assert from_snapshot.machine.chain == whole.machine.chain
    assert from_snapshot.machine.digest() == whole.machine.digest()


def test_66_members_that_differ_in_their_users_compared_as_equal() -> None:
    one, other = Cluster(), Cluster()
    assert one.machine.digest() == other.machine.digest()
    other.machine.auth = other.auth.after(auth(wire.GRANT_ROLE, "alice", "root"), 0)
    assert one.machine.digest() != other.machine.digest()


def at_random(rng: random.Random) -> tuple[Raw, tuple[str, int] | None]:
    """Return a command that has to do with leases and rights, and the user whose it is; None: the member's."""
    name = rng.choice(["alice", "bob", "eve"])
    key = b"%s/%d" % (rng.choice([b"alice", b"bob"]), rng.randrange(4))
    lease = rng.choice([HELD, EMPTY, ANYBODYS, ANYBODYS, 6, 7])
    span = rng.choice([(b"alice/", b"alice0"), (b"bob/", b"bob0"), (b"alice/1", b"bob/2"), (b"held/", None)])
    put = Put(key, b"", lease=lease)
    commands: list[Raw] = [
        *[put.to_wire()] * 6,
        nested(put, rng.randrange(1, 4)).to_wire(),
        Put(key, KEEP, lease=rng.choice([lease, KEEP, None])).to_wire(),
        Put(key, b"", ttl=60).to_wire(),
        *[Delete(key).to_wire()] * 2,
        Revoke(lease).to_wire(),
        Renew(lease, 0).to_wire(),
        ops.Grant(lease, 60_000_000, 0).to_wire(),
    ]
    changes = [
        auth(rng.choice([wire.GRANT_ROLE, wire.REVOKE_ROLE]), name, rng.choice(["alice", "bob", "eve"])),
        auth(wire.GRANT_PERMISSION, rng.choice(["alice", "bob", "eve"]), rng.choice([READ, WRITE, READWRITE]), *span),
        auth(wire.REVOKE_PERMISSION, rng.choice(["alice", "bob", "eve"]), *span),
        auth(wire.ADD_TOKEN, rng.randbytes(32), name, 1 << 40, 60_000_000),
    ]
    if rng.random() < 0.15:
        return rng.choice(changes), None
    return rng.choice(commands), None if rng.random() < 0.2 else (name, 1 << 40)


@pytest.mark.parametrize("seed", range(6))
def test_66_what_a_member_remembered_of_judgements_made_it_answer_otherwise_than_one_that_was_just_started(seed: int) -> None:
    """Whatever is kept so that it need not be found out anew: who has the state from a snapshot has none of it."""
    rng, cluster = random.Random(seed), Cluster()
    log, statuses = cluster.log, set()
    for _ in range(200):
        command, guest = at_random(rng)
        started = log.copy()
        answers = log.do(command, guest=guest)
        assert started.do(command, guest=guest) == answers, command
        assert started.machine.chain == log.machine.chain
        statuses.add(answers[0][0])
    assert {OK, DENIED} <= statuses
