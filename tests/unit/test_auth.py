"""Users, roles and permissions as pure rules: who may do what, what changes them, and how they stand in a dump."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from hashlib import sha256
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from replkv import auth as auth_module
from replkv import codec, ops, passwords, wire
from replkv.auth import OF_LEASE, Auth, Span, Subject, User, needed
from replkv.auth_ops import ChangeAuth, to_mode, to_role, to_span, to_user
from replkv.codec import DecodeError
from replkv.errors import (
    AuthenticationFailed,
    AuthRefused,
    PermissionDenied,
    ReplkvError,
    RoleExists,
    RoleNotFound,
    UserExists,
    UserNotFound,
)
from replkv.lease import Leases
from replkv.letters import ADDRESSES
from replkv.values import behind_prefix
from replkv.wire import READ, READWRITE, WRITE

ALICE: Subject = ("alice", 1 << 40)
ROOT: Subject = ("root", 1 << 40)
NO_LEASES = Leases()
DIGEST = sha256(b"token").digest()


def changed(auth: Auth, what: int, *arguments: Any, time: int = 0) -> Auth:
    """Change it as the machine does, by a command that the wire would take."""
    command = ChangeAuth(what, arguments).to_wire()
    wire.check_operation(command)
    return auth.after(command, time)


def with_permissions(*permissions: tuple[bytes, bytes | None, int], roles: int = 1) -> Auth:
    """Let alice have permissions, in turn by one of her roles."""
    auth = changed(changed(Auth(), wire.ADD_USER, "root", b""), wire.ADD_USER, "alice", b"")
    for number in range(roles):
        auth = changed(changed(auth, wire.ADD_ROLE, f"r{number}"), wire.GRANT_ROLE, "alice", f"r{number}")
    for number, (start, end, mode) in enumerate(permissions):
        auth = changed(auth, wire.GRANT_PERMISSION, f"r{number % roles}", mode, start, end)
    return changed(auth, wire.ENABLE)


def may(auth: Auth, mode: int, start: bytes, end: bytes | None, subject: Subject | None = ALICE) -> bool:
    try:
        auth.check_span(subject, mode, (start, end))
    except PermissionDenied:
        return False
    return True


def prefix(text: bytes) -> Span:
    return text, behind_prefix(text)


# -- spans -------------------------------------------------------------------------------------------------------------------------

FIRST, OTHERS = (b"\x01", b"a", b"b", b"\xff"), (b"\x00", b"a", b"\xff")  # none that members write
KEYS = st.builds(lambda first, others: first + b"".join(others), st.sampled_from(FIRST), st.lists(st.sampled_from(OTHERS), max_size=2))
SPANS = st.tuples(KEYS, st.none() | KEYS).filter(lambda span: span[1] is None or span[0] < span[1])
PERMISSIONS = st.lists(st.tuples(SPANS, st.sampled_from((READ, WRITE, READWRITE))), max_size=6)


def granted_everywhere(permissions: Iterable[tuple[Span, int]], mode: int, span: Span) -> bool:
    """Look at each place where something begins or ends: between two of them all keys are alike."""
    spans = [granted for granted, allowed in permissions if allowed & mode]
    start, end = span
    places = {start, *(bound for granted in spans for bound in granted if bound is not None)}
    asked = [place for place in places if start <= place and (end is None or place < end)]
    return all(any(first <= place and (last is None or place < last) for first, last in spans) for place in asked)


@given(PERMISSIONS, SPANS, st.sampled_from((READ, WRITE)), st.integers(1, 3))
def test_a_span_is_permitted_if_each_of_its_keys_is_by_whichever_role(
    permissions: list[tuple[Span, int]], asked: Span, mode: int, roles: int
) -> None:
    latest = dict(permissions) if roles == 1 else {}  # what is granted again for the same span takes the place of what was granted before
    if roles > 1:
        by_role: dict[tuple[int, Span], int] = {(number % roles, span): allowed for number, (span, allowed) in enumerate(permissions)}
        expected = [(span, allowed) for (_, span), allowed in by_role.items()]
    else:
        expected = list(latest.items())
    auth = with_permissions(*((*span, allowed) for span, allowed in permissions), roles=roles)
    assert may(auth, mode, *asked) == granted_everywhere(expected, mode, asked)


@given(PERMISSIONS, st.randoms())
def test_the_order_in_which_permissions_were_granted_does_not_matter(permissions: list[tuple[Span, int]], random: Any) -> None:
    once = list(dict(permissions).items())
    again = random.sample(once, len(once))
    one, other = (with_permissions(*((*span, mode) for span, mode in listed)) for listed in (once, again))
    assert list(one.rows()) == list(other.rows())


def test_spans_that_touch_or_overlap_are_one() -> None:
    auth = with_permissions((b"a", b"b", READ), (b"b", b"c", READ), (b"bb", b"d", READWRITE), (b"x", None, READ))
    assert may(auth, READ, b"a", b"d")
    assert not may(auth, READ, b"a", b"d\x00")
    assert not may(auth, WRITE, b"a", b"d")
    assert may(auth, WRITE, b"bb", b"d")
    assert may(auth, READ, b"y", None)


def test_a_gap_of_a_single_key_is_a_gap() -> None:
    auth = with_permissions((b"a", b"k", READ), (b"k\x00", b"z", READ))
    assert not may(auth, READ, b"a", b"z")
    assert not may(auth, READ, b"k", b"k\x00")
    assert may(auth, READ, b"a", b"k")


@pytest.mark.parametrize("text", [b"app/", b"app/\xff", b"\xff", b"\xff\xff", b"a\xff\xff"])
def test_a_prefix_ends_exactly_where_its_keys_do(text: bytes) -> None:
    auth = with_permissions((*prefix(text), READ))
    behind = behind_prefix(text)
    assert may(auth, READ, text, text + b"\x00")
    assert may(auth, READ, text + b"\xff" * 9, text + b"\xff" * 9 + b"\x00")
    assert may(auth, READ, *prefix(text))
    assert not may(auth, READ, text[:-1] or b"\x00", text)
    if behind is not None:
        assert not may(auth, READ, behind, behind + b"\x00")
        assert not may(auth, READ, text, None)
        assert not may(auth, READ, text, behind + b"\x00")


def test_from_a_key_on_has_no_end_and_nothing_else_covers_that() -> None:
    auth = with_permissions((b"m", None, READ))
    assert may(auth, READ, b"m", None)
    assert may(auth, READ, b"\xff" * 100, None)
    assert not may(auth, READ, b"l\xff", None)
    assert not may(with_permissions((b"\x00", b"\xff" * 4096, READ)), READ, b"m", None)


def test_a_span_without_keys_needs_a_right_too() -> None:
    auth = with_permissions((b"a", b"b", READ))
    assert not may(auth, READ, b"x", b"x")
    assert not may(auth, READ, b"x", b"a")
    assert not may(auth, READ, b"b", b"a")
    assert may(auth, READ, b"a", b"a")


def test_nobody_but_root_writes_where_members_say_where_they_are_and_every_user_reads_it() -> None:
    auth = with_permissions((b"\x00", None, READWRITE))
    nothing = with_permissions()
    assert may(nothing, READ, *prefix(ADDRESSES))
    assert may(nothing, READ, ADDRESSES + b"a", ADDRESSES + b"a\x00")
    assert not may(nothing, READ, ADDRESSES, None)
    assert not may(nothing, READ, ADDRESSES[:-1], ADDRESSES)
    for start, end in [prefix(ADDRESSES), (ADDRESSES + b"a", ADDRESSES + b"b"), (b"\x00", None), prefix(b"\x00replkv/"), prefix(b"\x00")]:
        assert not may(auth, WRITE, start, end)
        assert may(auth, WRITE, start, end, ROOT)
    assert may(auth, WRITE, *prefix(b"\x00replkv/lock/jobs/"))  # what recipes keep outside of namespaces can be granted
    assert may(auth, WRITE, b"\x01", None)


# -- subjects ----------------------------------------------------------------------------------------------------------------------


def test_while_it_is_not_enabled_everybody_may_do_everything() -> None:
    auth = changed(with_permissions(), wire.DISABLE)
    for subject in (None, ("", 0), ("nobody", 0), ALICE):
        auth.check(subject, (wire.COMPACT, 5), NO_LEASES)
        auth.check_span(subject, WRITE, (b"a", None))
        auth.check_user(subject, ("root",))
        auth.check_root(subject)


def test_what_has_no_subject_is_the_members_own_and_may_do_everything() -> None:
    auth = with_permissions()
    auth.check(None, (wire.AUTH, wire.DISABLE, ()), NO_LEASES)
    auth.check_span(None, WRITE, (b"a", None))
    auth.check_user(None, ("root",))
    auth.check_root(None)


@pytest.mark.parametrize("subject", [("", 0), ("", 1 << 40), ("nobody", 1 << 40), ("alice", 0)])
def test_who_has_not_proved_to_be_a_user_may_do_nothing(subject: Subject) -> None:
    auth = with_permissions((b"\x00", None, READWRITE))
    checks: list[Callable[[], None]] = [
        lambda: auth.check(subject, (wire.GRANT, 0, 1, 0), NO_LEASES),
        lambda: auth.check_span(subject, READ, prefix(ADDRESSES)),
        lambda: auth.check_user(subject),
        lambda: auth.check_root(subject),
    ]
    for check in checks:
        with pytest.raises(AuthenticationFailed):
            check()


def test_a_user_that_was_changed_has_to_prove_anew_who_it_is() -> None:
    auth = with_permissions((b"a", None, READ))
    proved = ("alice", auth.revision)
    assert auth.is_valid(proved)
    other = changed(changed(auth, wire.ADD_ROLE, "x"), wire.GRANT_ROLE, "alice", "x")
    assert other.is_valid(proved), "a right that was added or taken away proves nothing anew"
    after = changed(auth, wire.CHANGE_PASSWORD, "alice", b"other")
    assert not after.is_valid(proved)
    assert after.is_valid(("alice", after.revision))
    anew = changed(changed(auth, wire.DELETE_USER, "alice"), wire.ADD_USER, "alice", b"")
    assert not anew.is_valid(proved), "one of the same name is somebody else"
    assert anew.is_valid(("alice", anew.revision))
    assert anew.roles_of(("alice", anew.revision)) == ()


def test_root_is_whoever_has_the_role() -> None:
    auth = with_permissions()
    auth.check(ROOT, (wire.AUTH, wire.DISABLE, ()), NO_LEASES)
    with pytest.raises(PermissionDenied, match="the role root, and alice has not"):
        auth.check(ALICE, (wire.AUTH, wire.DISABLE, ()), NO_LEASES)
    auth = changed(auth, wire.GRANT_ROLE, "alice", "root")
    auth.check(ALICE, (wire.AUTH, wire.DISABLE, ()), NO_LEASES)
    auth.check_user(ALICE, ("root",))
    auth = changed(auth, wire.REVOKE_ROLE, "alice", "root")
    with pytest.raises(PermissionDenied):
        auth.check_root(ALICE)


def test_a_user_may_ask_for_itself_and_not_for_another() -> None:
    auth = with_permissions()
    auth.check_user(ALICE)
    auth.check_user(ALICE, ("alice",))
    auth.check_user(ROOT, ("alice",))
    with pytest.raises(PermissionDenied):
        auth.check_user(ALICE, ("root",))


# -- what needs which right --------------------------------------------------------------------------------------------------------


def rights(operation: ops.Packable[Any], leases: Leases = NO_LEASES) -> set[tuple[int, bytes, bytes | None]]:
    return set(needed(operation.to_wire(), leases))


def leases_with(*keys: bytes) -> Leases:
    leases = Leases()
    lease = leases.grant(7, 1000, 0, 0)
    for key in keys:
        lease.keys[key] = None
    return leases


ON_A, ON_L = (b"a", b"a\x00"), (b"l", b"l\x00")


@pytest.mark.parametrize(
    ("operation", "expected"),
    [
        (ops.Get("a"), {(READ, *ON_A)}),
        (ops.Scan(prefix="a"), {(READ, b"a", b"b")}),
        (ops.Scan(prefix="a", count_only=True), {(READ, b"a", b"b")}),
        (ops.Put("a", "1"), {(WRITE, *ON_A)}),
        (ops.Put("a", "1", prev_kv=True), {(WRITE, *ON_A), (READ, *ON_A)}),
        (ops.Put("a", ops.KEEP), {(WRITE, *ON_A)}),
        (ops.Put("a", "1", ttl=60), {(WRITE, *ON_A)}),
        (ops.Put("a", "1", lease=7), {(WRITE, *ON_A), (WRITE | OF_LEASE, *ON_L)}),
        (ops.Put("a", "1", lease=8), {(WRITE, *ON_A)}),
        (ops.Put("a", "1", if_mod_revision=5), {(WRITE, *ON_A), (READ, *ON_A)}),
        (ops.Put("a", "1", guard=ops.Guard(b"l", 3)), {(WRITE, *ON_A), (READ, *ON_L)}),
        (ops.Delete("a"), {(WRITE, *ON_A)}),
        (ops.Delete(start="a"), {(WRITE, b"a", None)}),
        (ops.Delete("a", prev_kv=True), {(WRITE, *ON_A), (READ, *ON_A)}),
        (ops.Add("a", 1), {(WRITE, *ON_A), (READ, *ON_A)}),
        (ops.Grant(0, 1_000_000, 1), set()),
        (ops.KeepAlive(5), set()),
        (ops.Renew(7, 0), {(WRITE | OF_LEASE, *ON_L)}),
        (ops.Revoke(7), {(WRITE | OF_LEASE, *ON_L)}),
        (ops.Revoke(8), set()),
        (ops.Txn(compare=[ops.Key("a").exists]), {(READ, *ON_A)}),
        (ops.Txn(otherwise=[ops.Txn(then=[ops.Txn(otherwise=[ops.Put("a", "1")])])]), {(WRITE, *ON_A)}),
        (ops.Txn(then=[ops.Txn(compare=[ops.Key(prefix="l").missing], then=[ops.Get("a")])]), {(READ, b"l", b"m"), (READ, *ON_A)}),
    ],
    ids=lambda value: "needs" if isinstance(value, set) else str(value),  # a set shows itself in another order in each process
)
def test_what_an_operation_needs(operation: ops.Packable[Any], expected: set[tuple[int, bytes, bytes | None]]) -> None:
    assert rights(operation, leases_with(b"l")) == expected


@pytest.mark.parametrize("raw", [(wire.COMPACT, 5), (wire.MEMBERS, (), (), (), ()), (wire.LEVEL, 1), (wire.AUTH, wire.DISABLE, ()), (99,)])
def test_what_changes_the_cluster_itself_or_is_not_known_is_roots(raw: tuple[Any, ...]) -> None:
    auth = with_permissions((b"\x00", None, READWRITE))
    with pytest.raises(PermissionDenied):
        auth.check(ALICE, raw, NO_LEASES)
    auth.check(ROOT, raw, NO_LEASES)


# -- changes -----------------------------------------------------------------------------------------------------------------------


def test_each_change_counts_and_leaves_the_one_before_as_it_was() -> None:
    before = with_permissions((b"a", b"b", READ))
    rows = list(before.rows())
    after = changed(before, wire.GRANT_PERMISSION, "r0", READWRITE, b"a", b"b")
    assert after.revision == before.revision + 1
    assert may(after, WRITE, b"a", b"b")
    assert not may(before, WRITE, b"a", b"b")
    assert list(before.rows()) == rows


@pytest.mark.parametrize(
    ("what", "arguments", "error", "text"),
    [
        (wire.ADD_USER, ("alice", b""), UserExists, "alice"),
        (wire.DELETE_USER, ("bob",), UserNotFound, "bob"),
        (wire.CHANGE_PASSWORD, ("bob", b""), UserNotFound, "bob"),
        (wire.GRANT_ROLE, ("bob", "r0"), UserNotFound, "bob"),
        (wire.GRANT_ROLE, ("alice", "r9"), RoleNotFound, "r9"),
        (wire.REVOKE_ROLE, ("bob", "r0"), UserNotFound, "bob"),
        (wire.REVOKE_ROLE, ("alice", "r9"), AuthRefused, "no role r9"),
        (wire.ADD_ROLE, ("r0",), RoleExists, "r0"),
        (wire.ADD_ROLE, ("root",), RoleExists, "root"),
        (wire.DELETE_ROLE, ("r9",), RoleNotFound, "r9"),
        (wire.DELETE_ROLE, ("root",), AuthRefused, "can't be changed"),
        (wire.GRANT_PERMISSION, ("root", READ, b"a", None), AuthRefused, "can't be changed"),
        (wire.GRANT_PERMISSION, ("r9", READ, b"a", None), RoleNotFound, "r9"),
        (wire.REVOKE_PERMISSION, ("r0", b"a", None), AuthRefused, "exactly these keys"),
        (wire.REVOKE_PERMISSION, ("r9", b"a", b"b"), RoleNotFound, "r9"),
        (wire.DELETE_USER, ("root",), AuthRefused, "disable it first"),
        (wire.REVOKE_ROLE, ("root", "root"), AuthRefused, "disable it first"),
    ],
)
def test_a_change_that_can_not_be_is_refused(what: int, arguments: tuple[Any, ...], error: type[ReplkvError], text: str) -> None:
    auth = with_permissions((b"a", b"b", READ))
    with pytest.raises(error, match=text) as refusal:
        changed(auth, what, *arguments)
    assert type(refusal.value) is error
    assert refusal.value.refusal


def test_it_is_not_enabled_while_nobody_could_disable_it() -> None:
    with pytest.raises(AuthRefused, match="add_user"):
        changed(Auth(), wire.ENABLE)
    auth = changed(Auth(), wire.ADD_USER, "root", b"")
    with pytest.raises(AuthRefused, match="add_user"):
        changed(changed(auth, wire.REVOKE_ROLE, "root", "root"), wire.ENABLE)
    assert changed(auth, wire.ENABLE).enabled


def test_while_it_is_disabled_root_can_be_removed() -> None:
    auth = changed(with_permissions(), wire.DISABLE)
    assert "root" not in changed(auth, wire.DELETE_USER, "root").users


def test_a_role_that_is_removed_is_nobodys() -> None:
    auth = changed(with_permissions((b"a", b"b", READ)), wire.DELETE_ROLE, "r0")
    assert not may(auth, READ, b"a", b"b")
    assert auth.users["alice"].roles == ()
    again = changed(auth, wire.ADD_ROLE, "r0")
    assert again.users["alice"].roles == ()


def test_there_is_a_limit_to_each(monkeypatch: pytest.MonkeyPatch) -> None:
    for limit in ("USERS_MAX", "ROLES_MAX", "PERMISSIONS_MAX"):
        monkeypatch.setattr(auth_module, limit, 2)
    auth = with_permissions((b"a", None, READ), (b"b", None, READ), roles=2)
    for what, arguments, kind in [
        (wire.ADD_USER, ("c", b""), "users"),
        (wire.ADD_ROLE, ("c",), "roles"),
        (wire.GRANT_PERMISSION, ("r0", READ, b"c", None), "permissions"),
    ]:
        with pytest.raises(AuthRefused, match=f"as many {kind} as"):
            changed(auth, what, *arguments)
    assert changed(auth, wire.GRANT_PERMISSION, "r0", READWRITE, b"a", None).roles["r0"][b"a", None] == READWRITE


# -- tokens ------------------------------------------------------------------------------------------------------------------------


def digest(number: int) -> bytes:
    return sha256(b"%d" % number).digest()


def logged_in(auth: Auth, digest_: bytes = DIGEST, *, time: int = 0, ttl: int = 100) -> Auth:
    return changed(auth, wire.ADD_TOKEN, digest_, "alice", auth.revision, ttl, time=time)


def test_a_token_speaks_for_its_user_until_it_ends() -> None:
    auth = logged_in(with_permissions(), time=50)
    assert auth.holder(DIGEST, 149) == ("alice", auth.revision)
    assert auth.holder(DIGEST, 150) is None
    assert auth.holder(digest(0), 50) is None


def test_a_login_is_no_change_of_rights() -> None:
    auth = with_permissions()
    assert logged_in(auth).revision == auth.revision


@pytest.mark.parametrize("what", [wire.CHANGE_PASSWORD, wire.DELETE_USER, wire.DISABLE])
def test_a_token_ends_with_what_it_was_given_for(what: int) -> None:
    arguments: dict[int, tuple[Any, ...]] = {wire.CHANGE_PASSWORD: ("alice", b"x"), wire.DELETE_USER: ("alice",)}
    auth = changed(logged_in(with_permissions()), what, *arguments.get(what, ()))
    assert auth.holder(DIGEST, 0) is None
    assert auth.tokens == {}


def test_a_token_is_given_only_to_who_is_a_user_still() -> None:
    auth = with_permissions()
    for user, stamp in (("bob", auth.revision), ("alice", 0)):
        with pytest.raises(AuthenticationFailed):
            changed(auth, wire.ADD_TOKEN, DIGEST, user, stamp, 100)
    with pytest.raises(AuthRefused, match="not enabled"):
        logged_in(changed(auth, wire.DISABLE))


def test_who_logs_in_again_and_again_ends_its_own_oldest_token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(auth_module, "TOKENS_OF_USER_MAX", 3)
    auth = changed(with_permissions(), wire.ADD_TOKEN, DIGEST, "root", 1 << 40, 100)
    for number in range(5):
        auth = logged_in(auth, digest(number))
    assert list(auth.tokens) == [DIGEST, digest(2), digest(3), digest(4)]


def test_tokens_that_have_ended_are_forgotten_with_the_next_one() -> None:
    auth = logged_in(logged_in(with_permissions(), digest(1), time=0), digest(2), time=100)
    assert list(auth.tokens) == [digest(2)]


def test_another_cluster_knows_no_tokens() -> None:
    auth = logged_in(with_permissions())
    assert auth.without_tokens().tokens == {}
    assert auth.without_tokens().users == auth.users


# -- rows --------------------------------------------------------------------------------------------------------------------------

NAMES = st.text("ab", min_size=1, max_size=2)
CHANGES = st.lists(
    st.one_of(
        st.tuples(st.just(wire.ADD_USER), NAMES, st.binary(max_size=3)),
        st.tuples(st.just(wire.DELETE_USER), NAMES),
        st.tuples(st.just(wire.CHANGE_PASSWORD), NAMES, st.binary(max_size=3)),
        st.tuples(st.just(wire.ADD_ROLE), NAMES),
        st.tuples(st.just(wire.DELETE_ROLE), NAMES),
        st.tuples(st.just(wire.GRANT_ROLE), NAMES, NAMES),
        st.tuples(st.just(wire.REVOKE_ROLE), NAMES, NAMES),
        st.tuples(st.just(wire.GRANT_PERMISSION), NAMES, st.sampled_from((READ, WRITE, READWRITE)), KEYS, st.none() | KEYS),
        st.tuples(st.just(wire.REVOKE_PERMISSION), NAMES, KEYS, st.none() | KEYS),
        st.tuples(st.just(wire.ADD_TOKEN), st.binary(min_size=32, max_size=32), NAMES, st.integers(0, 99), st.integers(1, 99)),
    ),
    max_size=30,
)


@given(CHANGES)
def test_rows_tell_all_of_it(changes: list[tuple[Any, ...]]) -> None:
    auth = changed(changed(Auth(), wire.ADD_USER, "root", b"hash"), wire.ENABLE)
    for what, *arguments in changes:
        before = list(auth.rows())
        try:
            auth = changed(auth, what, *arguments)
        except ReplkvError:
            assert list(auth.rows()) == before
    rows = list(auth.rows())
    again = Auth.load(iter(codec.unpack(codec.pack(rows), 1 << 20)))
    assert again == auth
    assert list(again.rows()) == rows


@pytest.mark.parametrize(
    "rows",
    [
        [],
        [(True, 1, 1, 0, 0)],
        [(1, 1, 0, 0, 0)],
        [(True, -1, 0, 0, 0)],
        [(True, 1, 2, 0, 0), ("a", b"", (), 1), ("a", b"", (), 1)],
        [(True, 1, 1, 0, 0), ("a", "text", (), 1)],
        [(True, 1, 1, 0, 0), ("a", b"", "roles", 1)],
        [(True, 1, 0, 1, 0), ("r", 1), (b"a", None, 4)],
        [(True, 1, 0, 1, 0), ("r", 1), ("a", None, 1)],
        [(True, 1, 0, 0, 1), (b"short", "a", 1, 1)],
    ],
)
def test_other_rows_are_no_auth(rows: list[Any]) -> None:
    with pytest.raises(DecodeError):
        Auth.load(iter(rows))


# -- secrets -----------------------------------------------------------------------------------------------------------------------


def test_no_repr_shows_a_hash() -> None:
    kept = passwords.hashed(b"secret", b"salt" * 4)
    auth = changed(Auth(), wire.ADD_USER, "alice", kept)
    shown = [repr(auth), repr(auth.users), str(auth.users["alice"]), repr(ChangeAuth(wire.ADD_USER, ("alice", kept)))]
    assert not any(part in text for text in shown for part in (repr(kept)[2:-1], "secret", "scr1"))
    assert repr(User(kept, ("r",), 5)) == "User(roles=('r',), changed=5)"


def test_a_password_is_what_its_hash_was_made_of_and_nothing_else() -> None:
    kept = passwords.hashed(b"secret", b"salt" * 4)
    assert len(kept) <= wire.HASH_MAX
    assert passwords.matches(b"secret", kept)
    assert not passwords.matches(b"secret ", kept)
    assert not passwords.matches(b"secret", passwords.hashed(b"secret2", b"salt" * 4))
    assert kept != passwords.hashed(b"secret", b"pepper00" * 2)


@pytest.mark.parametrize("kept", [b"", b"nonsense", b"\x00" * 55, b"scr1" + bytes([20, 8, 2])])
def test_what_is_no_hash_matches_nothing_and_costs_the_same(kept: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    costs: list[tuple[int, ...]] = []

    def digest_of(password: bytes, salt: bytes, *cost: int) -> bytes:
        del password, salt
        costs.append(cost)
        return bytes(32)

    monkeypatch.setattr(passwords, "_digest", digest_of)
    assert not passwords.matches(b"secret", kept)
    assert costs == [(passwords.LOG2_N, 8, 1)]


def test_a_hash_that_would_cost_what_somebody_else_pleases_is_not_believed() -> None:
    for n, r, p in ((18, 8, 1), (15, 17, 1), (15, 8, 5), (0, 8, 1)):
        assert passwords._parsed(b"scr1" + bytes([n, r, p]) + bytes(48)) is None
    assert passwords._parsed(b"scr1" + bytes([15, 8, 1]) + bytes(48)) is not None


@pytest.mark.parametrize("cost", [(1, 1, 1), (1, 16, 4), (4, 8, 4)])
def test_a_cheap_hash_does_not_break_the_comparison(cost: tuple[int, int, int]) -> None:
    assert not passwords.matches(b"secret", b"scr1" + bytes(cost) + bytes(48))


# -- arguments ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("to_name", [to_user, to_role])
def test_a_name_is_printable_and_not_too_long(to_name: Any) -> None:
    assert to_name("Zoë") == "Zoë"
    for bad in ("", "a\n", "a\x00", "x" * 129):
        with pytest.raises(ValueError, match="1 to 128 printable"):
            to_name(bad)
    with pytest.raises(TypeError):
        to_name(b"alice")


def test_a_permission_is_for_something_that_was_said() -> None:
    assert to_mode("readwrite") == READWRITE
    for bad in ("", "all", 1, None):
        with pytest.raises(ValueError, match="'read', 'write' or 'readwrite'"):
            to_mode(bad)
    assert to_span("a", None, None, None) == (b"a", b"a\x00")
    assert to_span(None, "a/", None, None) == (b"a/", b"a0")
    assert to_span(None, None, "a", None) == (b"a", None)
    assert to_span(None, "", None, None) == to_span(None, None, "", None) == (b"\x01", None)
    for arguments in [
        (None, None, None, None),
        ("a", "b", None, None),
        (None, None, "b", "a"),
        (None, None, "a", "a"),
        ("x" * 4096, None, None, None),
    ]:
        with pytest.raises(ValueError):  # noqa: PT011  # each has its own text
            to_span(*arguments)
    assert to_span("x" * 4095, None, None, None)
