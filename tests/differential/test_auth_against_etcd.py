"""The same users, roles, permissions and requests on a real etcd and on replkv: what is denied is denied by both.

What is meant to differ is in docs/ETCD.md, and shown at the end of this file.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from typing import Any, TypeAlias

import pytest
import steps
from attrs import evolve
from auth_play import DENIED, PASSWORD, ROLES, USER, Ask, AuthPlay, Change, EtcdAuth, Forget, Grant, Hold, Take, has_keys, is_plain
from etcd_server import Etcd, EtcdRefusal, running_etcd, to_text
from generated import KEYS, compares, delete_one, gets, plain_puts, puts, scans, some_keys
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rules import etcd_finds_duplicate
from steps import Compact, Compare, Delete, Get, Operation, Put, Refused, Renew, Revoke, Scan, Step, TimeToLive, Txn, Where

from replkv import AuthenticationFailed, PermissionDenied, Replica, passwords

thorough = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])


@pytest.fixture(scope="module")
def etcd_auth(installed: Etcd, tmp_path_factory: pytest.TempPathFactory) -> Iterator[EtcdAuth]:
    with running_etcd(installed, tmp_path_factory.mktemp("etcd"), bcrypt_cost="4") as server:
        server.call("/v3/auth/user/add", {"name": "root", "password": PASSWORD})
        server.call("/v3/auth/user/grant", {"user": "root", "role": "root"})
        server.call("/v3/auth/enable", {})
        root = server.call("/v3/auth/authenticate", {"name": "root", "password": PASSWORD})["token"]
        yield EtcdAuth(server, root)


@pytest.fixture(scope="module")
def guarded(installed: Etcd) -> Iterator[Replica]:
    with pytest.MonkeyPatch.context() as patch, Replica() as replica:
        patch.setattr(passwords, "LOG2_N", 1)
        replica.wait_ready()
        replica.auth.add_user("root", PASSWORD)
        replica.auth.enable()
        yield replica


@pytest.fixture
def both(etcd_auth: EtcdAuth, guarded: Replica) -> AuthPlay:
    return AuthPlay(etcd_auth, guarded)


# -- what is generated -------------------------------------------------------------------------------------------------------------

ALL = Where()
wheres = (st.sampled_from(KEYS).map(lambda key: Where(key=key)) | some_keys | some_keys).filter(has_keys)
modes = st.sampled_from(["read", "write", "readwrite"])
roles = st.sampled_from(ROLES)
often_known = st.sampled_from([*ROLES, *ROLES, *ROLES, "none"])
grants = st.builds(Grant, often_known, modes, wheres | st.just(ALL))
changes: st.SearchStrategy[Change] = st.one_of(
    grants,
    grants,
    grants,
    st.builds(Take, often_known, wheres),
    st.builds(Hold, st.sampled_from([*ROLES, *ROLES, "none", "root"]), st.booleans()),
    st.builds(Forget, roles),
)
asked = st.one_of(
    st.builds(Ask, st.just("user"), st.sampled_from(["", USER, "root", "none"])),
    st.builds(Ask, st.just("role"), st.sampled_from(["", *ROLES, "none"])),
)

inner = st.one_of(plain_puts.map(lambda put: evolve(put, prev_kv=False)), delete_one, gets, scans).filter(
    lambda step: is_plain(step, inner=True)
)
transactions = st.builds(
    Txn,
    st.lists(compares.filter(lambda compare: has_keys(compare.where)), max_size=2).map(tuple),
    *[st.lists(inner, max_size=2).map(tuple)] * 2,
)
deletes = st.builds(Delete, wheres | st.just(ALL), st.booleans())
operations: st.SearchStrategy[Operation] = st.one_of(plain_puts, puts, delete_one, deletes, gets, scans, scans, transactions).filter(
    is_plain
)
conditional = st.builds(steps.If, st.none(), plain_puts | delete_one)
leases = st.sampled_from([1, 77])
of_leases = st.builds(steps.Grant, leases) | st.builds(Revoke, leases)

Deed: TypeAlias = Change | Ask | Step
deeds: st.SearchStrategy[Deed] = st.sampled_from(
    [changes, operations, operations, operations, operations, conditional, of_leases, asked]
).flatmap(lambda strategy: strategy)


@settings(thorough, max_examples=60)
@given(pairs=st.lists(puts, max_size=5), granted=st.lists(grants, max_size=6), held=st.sets(roles), deeds=st.lists(st.lists(deeds)))
def test_what_a_user_may_not_do_is_denied_by_both_and_all_else_has_the_same_result(
    etcd_auth: EtcdAuth, guarded: Replica, pairs: list[Put], granted: list[Grant], held: set[str], deeds: list[list[Deed]]
) -> None:
    both = AuthPlay(etcd_auth, guarded)
    for lease in (1, 77):
        both.as_root(steps.Grant(lease))
    for pair in pairs:
        both.as_root(pair)
    given_first: list[Deed] = [*granted, *(Hold(role, held=True) for role in sorted(held))]
    for deed in (*given_first, *(deed for some in deeds for deed in some)):
        if isinstance(deed, Change):
            if not (isinstance(deed, Grant) and both.etcd.overlooks(deed)):
                both.change(deed)
        elif isinstance(deed, Ask):
            both.ask(deed)
        elif not both.is_judged_by_owner(deed) and not (isinstance(deed, Txn) and etcd_finds_duplicate(deed)):  # found at another place
            both.as_user(deed)


READS: list[Step] = [
    Get(b"b"),
    Scan(Where(key=b"b")),
    Scan(Where(key=b"b"), count_only=True),
    Txn(compare=(Compare(Where(key=b"b"), "version", ">", 9),)),
]
WRITES: list[Step] = [Put(b"b", b""), Delete(Where(key=b"b")), Txn(then=(Put(b"b", b""),)), Txn(otherwise=(Delete(Where(key=b"b")),))]
DOES_BOTH: list[Step] = [
    Put(b"b", b"", prev_kv=True),
    Delete(Where(key=b"b"), prev_kv=True),
    Txn(then=(Delete(Where(key=b"b"), prev_kv=True),)),
]
EDGES = {
    "the key": Where(key=b"b"),
    "the key before": Where(key=b"a\xff"),
    "the key behind": Where(key=b"b\x00"),
    "up to the key": Where(start=b"a", end=b"b"),
    "from behind the key": Where(start=b"b\x00"),
    "from the key on": Where(start=b"b"),
    "with its prefix": Where(prefix=b"b"),
    "all": ALL,
}


@pytest.mark.parametrize("edge", EDGES)
@pytest.mark.parametrize("mode", ["read", "write", "readwrite"])
def test_the_edge_of_a_permission_is_at_the_same_key(both: AuthPlay, mode: Any, edge: str) -> None:
    both.change(Grant("one", mode, EDGES[edge]))
    both.change(Hold("one", held=True))
    covers = edge in {"the key", "from the key on", "with its prefix", "all"}
    for kind, needed in ((READS, {"read"}), (WRITES, {"write"}), (DOES_BOTH, {"read", "write"})):
        allowed = covers and needed <= ({"read", "write"} if mode == "readwrite" else {mode})
        for step in kind:
            both.as_root(Put(b"b", b"1"))
            assert (both.as_user(step) != DENIED) is allowed, step


def test_permissions_of_several_roles_that_touch_cover_a_request_over_all_of_them(both: AuthPlay) -> None:
    both.change(Grant("one", "read", Where(start=b"a", end=b"b")))
    both.change(Grant("two", "read", Where(start=b"b", end=b"d")))
    both.change(Hold("one", held=True))
    whole = Scan(Where(start=b"a", end=b"c"))
    assert both.as_user(whole) == DENIED
    both.change(Hold("two", held=True))
    assert both.as_user(whole) != DENIED
    both.change(Take("two", Where(start=b"b", end=b"d")))
    both.change(Grant("two", "read", Where(start=b"b\x00", end=b"d")))
    assert both.as_user(whole) == DENIED


def test_a_lease_needs_the_right_to_write_all_its_keys(both: AuthPlay) -> None:
    both.as_root(steps.Grant(7))
    for key in (b"a", b"b"):
        both.as_root(Put(key, b"", lease=7))
    both.change(Grant("one", "readwrite", Where(key=b"a")))
    both.change(Hold("one", held=True))
    for step in (Put(b"a", b"", lease=7), Revoke(7)):
        assert both.as_user(step) == DENIED
    both.change(Grant("one", "write", Where(key=b"b")))
    for step in (Put(b"a", b"", lease=7), Revoke(7)):
        assert both.as_user(step) != DENIED


# -- where replkv is meant to differ: docs/ETCD.md ---------------------------------------------------------------------------------

THIS = (3, 5, 1)
"""The newest version that is known to have the holes that are shown here; later ones closed them."""


def denied_here_only(both: AuthPlay, step: Step) -> None:
    """Require that replkv denies a step, and that etcd, as far as it has the hole, does not."""
    ours, theirs = both.both_as_user(step)
    assert ours == DENIED, step
    assert theirs != DENIED or both.etcd.server.version > THIS, step


def test_what_is_nested_in_transactions_is_judged_as_all_else(both: AuthPlay) -> None:
    """CVE-2026-33343 and -44283."""
    both.as_root(Put(b"b", b"secret"))
    both.as_root(steps.Grant(7))
    both.as_root(Put(b"z", b"", lease=7))
    for step in (Get(b"b"), Put(b"b", b""), Delete(Where(key=b"b"))):
        denied_here_only(both, Txn(then=(Txn(then=(step,)),)))
        assert both.both_as_user(Txn(then=(step,))) == (DENIED, DENIED)
    both.change(Grant("one", "write", Where(key=b"b")))
    both.change(Hold("one", held=True))
    denied_here_only(both, Txn(then=(Put(b"b", b"", prev_kv=True),)))
    denied_here_only(both, Txn(then=(Put(b"b", b"", lease=7),)))


def test_the_keys_of_a_lease_its_time_and_the_list_of_leases_are_not_for_everybody(both: AuthPlay) -> None:
    """CVE-2023-32082 and CVE-2026-33413."""
    both.as_root(steps.Grant(7))
    both.as_root(Put(b"secret name", b"", lease=7))
    for step in (TimeToLive(7), Renew(7), steps.Leases()):
        denied_here_only(both, step)


def test_a_lease_without_keys_is_its_owner_s(both: AuthPlay) -> None:
    """In etcd its id is a secret that protects it; here ids count up."""
    both.change(Grant("one", "write", Where(key=b"b")))
    both.change(Hold("one", held=True))
    both.as_root(steps.Grant(7))
    both.as_root(Put(b"z", b"", lease=7))
    assert both.both_as_user(Put(b"b", b"", lease=7)) == (DENIED, DENIED)
    both.as_user(steps.Grant(8))
    assert both.as_user(Put(b"b", b"", lease=8)) != DENIED
    assert both.as_user(Revoke(8)) != DENIED
    both.as_root(Delete(Where(key=b"z")))
    denied_here_only(both, Put(b"b", b"", lease=7))


def test_history_is_forgotten_by_root_alone(both: AuthPlay) -> None:
    both.as_root(Put(b"b", b""))
    denied_here_only(both, Compact(both.replkv_store.revision))


def test_a_watch_ends_when_its_right_is_taken_away(both: AuthPlay) -> None:
    """GHSA-xg4h-6gfc-h4m8."""
    both.change(Grant("one", "read", Where(key=b"b")))
    both.change(Hold("one", held=True))
    etcd = both.etcd.server
    etcd.token = both.etcd.log_in(USER)
    with closing(etcd.stream("/v3/watch", {"create_request": {"key": to_text(b"b")}})) as theirs, both.user.watch("b") as ours:
        assert theirs.next()["created"]
        both.change(Take("one", Where(key=b"b")))
        both.as_root(Put(b"b", b"secret"))
        with pytest.raises(PermissionDenied):
            ours.next(timeout=10.0)
        if etcd.version <= THIS:
            assert to_text(b"secret") in str(theirs.next()["events"])


def test_a_request_for_no_key_needs_the_right_to_its_start(both: AuthPlay) -> None:
    """etcd's intervals are looked up by their order, which these have not."""
    both.change(Grant("one", "read", Where(start=b"a", end=b"c")))
    both.change(Hold("one", held=True))
    for start, end, allowed in ((b"b", b"a", True), (b"x", b"a", False), (b"x", b"x", False)):
        ours, _ = both.both_as_user(Scan(Where(start=start, end=end)))
        assert (ours != DENIED) is allowed


def test_a_permission_for_no_key_is_refused_before_anything_is_sent(both: AuthPlay, guarded: Replica) -> None:
    assert both.etcd.change(Grant("one", "read", Where(start=b"c", end=b"a"))) is None
    for where in ({"start": "c", "end": "a"}, {"start": "c", "end": "c"}, {}):
        with pytest.raises(ValueError, match="permission"):
            guarded.auth.grant_permission("one", "read", **where)  # type: ignore[arg-type]


def test_one_key_is_one_span_however_it_is_said(both: AuthPlay, guarded: Replica) -> None:
    both.change(Grant("one", "read", Where(key=b"b")))
    other = Where(start=b"b", end=b"b\x00")
    assert both.etcd.change(Take("one", other)) == Refused("AuthRefused")
    assert both.ours.change(Take("one", other)) is None


def test_a_permission_that_is_granted_anew_is_no_longer_the_old_one(both: AuthPlay) -> None:
    wide = Where(start=b"a")
    for grant in (Grant("one", "read", Where(key=b"a")), Grant("one", "read", wide), Hold("one", held=True)):
        both.change(grant)
    assert both.as_user(Get(b"b")) != DENIED
    assert both.etcd.overlooks(Grant("one", "write", wide))
    both.change(Grant("one", "write", wide))
    denied_here_only(both, Get(b"b"))


def test_the_role_root_is_always_there_and_the_user_root_has_it_from_the_beginning(
    installed: Etcd, tmp_path_factory: pytest.TempPathFactory
) -> None:
    with running_etcd(installed, tmp_path_factory.mktemp("etcd"), bcrypt_cost="4") as server:
        server.call("/v3/auth/user/add", {"name": "root", "password": PASSWORD})
        with pytest.raises(EtcdRefusal, match="root user does not have root role"):
            server.call("/v3/auth/enable", {})
        assert "roles" not in server.call("/v3/auth/role/list", {})
    with Replica() as replica:
        replica.wait_ready()
        assert replica.auth.roles() == ["root"]
        replica.auth.add_user("root", PASSWORD)
        replica.auth.enable()


def test_an_unknown_user_and_a_wrong_password_are_one_error(both: AuthPlay, guarded: Replica) -> None:
    texts = set()
    for user in (USER, "unheard-of"):
        with pytest.raises(EtcdRefusal, match="authentication failed"):
            both.etcd.log_in(user, "wrong")
        with pytest.raises(AuthenticationFailed) as refused:
            guarded.as_user(user, "wrong")
        texts.add(str(refused.value).replace(user, "USER"))
    assert len(texts) == 1
