"""Holes between a right and its use, on the way of real calls: in this process on behalf of a user, and over the door.

Each test is named after what went wrong, elsewhere or here; those of single commands are in ``test_auth_holes.py``.
"""

from __future__ import annotations

import copy
import logging
import pickle
import threading
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from replkv import Client, Event, Replica, connect, errors, passwords, restore, wire
from replkv.acting import ActingReplica
from replkv.auth import Auth
from replkv.auth_ops import ChangeAuth
from replkv.errors import AuthenticationFailed, PermissionDenied
from replkv.node import Node
from replkv.ops import Get, Key, Txn
from replkv.proposals import Call

SOON = 10.0
PASSWORD = "correct horse battery staple"
SECRET = b"SECRET"


@pytest.fixture(autouse=True)
def _hashing_costs_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(passwords, "LOG2_N", 1)


@pytest.fixture
def replica(tmp_path: Path) -> Iterator[Replica]:
    """A member with auth enabled, whose users are root, alice for ``alice/`` and bob for ``bob/``."""
    with Replica(data_dir=tmp_path / "data") as made:
        made.wait_ready()
        made.auth.add_user("root", PASSWORD)
        for name in ("alice", "bob"):
            made.auth.add_user(name, PASSWORD)
            made.auth.add_role(name)
            made.auth.grant_permission(name, "readwrite", prefix=f"{name}/")
            made.auth.grant_role(name, name)
        made.put("bob/key", b"harmless")
        made.auth.enable()
        yield made


@pytest.fixture
def bob(replica: Replica) -> ActingReplica:
    return replica.as_user("bob", PASSWORD)


@pytest.fixture
def client(replica: Replica, tmp_path: Path) -> Iterator[Client]:
    with connect(tmp_path / "data", user="bob", password=PASSWORD) as made:
        yield made


# -- between the check and the read ------------------------------------------------------------------------------------------------


class Interleaved:
    """Takes bob's right away, and lets root write a secret, right behind the first check of his that was passed."""

    def __init__(self, replica: Replica, monkeypatch: pytest.MonkeyPatch, *, put: bool = True) -> None:
        self.replica = replica
        self.done = False
        self._put = put
        for name in ("check", "check_span"):
            monkeypatch.setattr(Auth, name, self._around(getattr(Auth, name)))

    def _around(self, check: Callable[..., None]) -> Callable[..., None]:
        def checked(auth: Auth, subject: Any, *arguments: Any) -> None:
            check(auth, subject, *arguments)
            if subject is not None and subject[0] == "bob" and not self.done:
                self.done = True
                self.replica.auth.revoke_permission("bob", prefix="bob/")
                if self._put:
                    self.replica.put("bob/key", SECRET)

        return checked


READS: dict[str, Callable[[Any], Any]] = {
    "get": lambda s: s.get("bob/key"),
    "get, local": lambda s: s.get("bob/key", consistency="local"),
    "get, lease": lambda s: s.get("bob/key", consistency="lease"),
    "get, local, bounded": lambda s: s.get("bob/key", consistency="local", max_staleness=60),
    "scan": lambda s: s.scan(prefix="bob/"),
    "scan, local": lambda s: s.scan(prefix="bob/", consistency="local"),
    "scan, lease": lambda s: s.scan(prefix="bob/", consistency="lease"),
    "txn": lambda s: s.txn(compare=[Key("bob/key").value == SECRET]),
    "submit": lambda s: s.submit(Get("bob/key")).result(SOON),
    "submit, txn": lambda s: s.submit(Txn(then=[Get("bob/key")])).result(SOON),
}


@pytest.mark.parametrize("way", READS)
def test_67_what_was_written_after_a_right_was_gone_was_read_by_who_had_passed_the_check(
    replica: Replica, bob: ActingReplica, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    interleaved = Interleaved(replica, monkeypatch)
    with pytest.raises(PermissionDenied):
        READS[way](bob)
    assert interleaved.done


@pytest.mark.parametrize("way", READS)
def test_67_over_the_door(replica: Replica, client: Client, monkeypatch: pytest.MonkeyPatch, way: str) -> None:
    interleaved = Interleaved(replica, monkeypatch)
    with pytest.raises(PermissionDenied):
        READS[way](client)
    assert interleaved.done


@pytest.mark.parametrize("start", [{"initial": True}, {"start_revision": 1}, {}], ids=str)
def test_67_of_watches(replica: Replica, bob: ActingReplica, monkeypatch: pytest.MonkeyPatch, start: dict[str, Any]) -> None:
    interleaved = Interleaved(replica, monkeypatch)
    with bob.watch("bob/key", **start) as watch:
        require_silent_end(watch)
    assert interleaved.done


@pytest.mark.parametrize("start", [{"initial": True}, {"start_revision": 1}, {}], ids=str)
def test_67_of_watches_over_the_door(replica: Replica, client: Client, monkeypatch: pytest.MonkeyPatch, start: dict[str, Any]) -> None:
    interleaved = Interleaved(replica, monkeypatch)
    with client.watch("bob/key", **start) as watch:
        require_silent_end(watch)
    assert interleaved.done


def require_silent_end(watch: Any) -> None:
    """Require that a watch ends with a refusal before it has told the secret."""
    with pytest.raises(PermissionDenied):
        while (event := watch.next(timeout=SOON)) is not None:
            assert not isinstance(event, Event) or event.kv.value != SECRET


# -- watches -----------------------------------------------------------------------------------------------------------------------


@pytest.fixture(params=["in this process", "over the door"])
def surface(request: pytest.FixtureRequest) -> Any:
    return request.getfixturevalue("bob" if request.param == "in this process" else "client")


def revoke_permission(replica: Replica) -> None:
    replica.auth.revoke_permission("bob", prefix="bob/")


def narrow_permission(replica: Replica) -> None:
    replica.auth.grant_permission("bob", "read", "bob/other")
    replica.auth.revoke_permission("bob", prefix="bob/")


def only_write(replica: Replica) -> None:
    replica.auth.grant_permission("bob", "write", prefix="bob/")


def revoke_role(replica: Replica) -> None:
    replica.auth.revoke_role("bob", "bob")


def delete_role(replica: Replica) -> None:
    replica.auth.delete_role("bob")


def delete_user(replica: Replica) -> None:
    replica.auth.delete_user("bob")


def change_password(replica: Replica) -> None:
    replica.auth.change_password("bob", "another one")


TAKEN = [revoke_permission, narrow_permission, only_write, revoke_role, delete_role, delete_user, change_password]


@pytest.mark.parametrize("take", TAKEN)
def test_ghsa_xg4h_6gfc_h4m8_a_live_watch_survived_that_its_right_was_taken_away(
    replica: Replica, surface: Any, take: Callable[[Replica], None]
) -> None:
    with surface.watch(prefix="bob/") as watch:
        replica.put("bob/key", b"1")
        assert watch.next(timeout=SOON).kv.value == b"1"
        take(replica)
        replica.put("bob/key", SECRET)
        with pytest.raises((PermissionDenied, AuthenticationFailed)):
            while (event := watch.next(timeout=SOON)) is not None:
                assert event.kv.value != SECRET


def test_a_watch_that_waits_ended_only_with_the_next_event(replica: Replica, surface: Any) -> None:
    """Which may never come: who waits is to know at once."""
    ends: list[BaseException] = []

    def wait() -> None:
        try:
            with surface.watch(prefix="bob/") as watch:
                begun.set()
                watch.next()
        except errors.ReplkvError as error:
            ends.append(error)

    begun = threading.Event()
    waiting = threading.Thread(target=wait, daemon=True)
    waiting.start()
    assert begun.wait(SOON)
    replica.auth.revoke_role("bob", "bob")
    waiting.join(SOON)
    assert not waiting.is_alive()
    assert isinstance(ends[0], PermissionDenied)


def test_a_watch_whose_right_went_between_its_check_and_its_sleep_slept_on(
    replica: Replica, surface: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    interleaved = Interleaved(replica, monkeypatch, put=False)
    with surface.watch("bob/key") as watch, pytest.raises(PermissionDenied):
        watch.next(timeout=SOON)
    assert interleaved.done


def test_what_a_watch_had_read_and_not_told_yet_was_told_after_its_right_was_gone(replica: Replica, bob: ActingReplica) -> None:
    for number in range(10):
        replica.put("bob/key", b"%d" % number)
    with bob.watch("bob/key", start_revision=1) as watch:
        for _ in range(3):
            assert isinstance(watch.next(timeout=SOON), Event)
        replica.auth.revoke_role("bob", "bob")
        with pytest.raises(PermissionDenied):
            watch.next(timeout=SOON)
    with bob.watch("bob/key", start_revision=1) as watch, pytest.raises(PermissionDenied):
        next(iter(watch.batches()))


def test_a_watch_from_a_key_on_told_a_reader_of_one_key_of_all(replica: Replica, surface: Any) -> None:
    for where in ({"start": "bob/"}, {"start": "bob/", "end": "bob0\x00"}, {"prefix": "bob"}, {}, {"start": b"\x00"}, {"start": "alice/"}):
        with surface.watch(start_revision=1, **where) as watch, pytest.raises(PermissionDenied):
            watch.next(timeout=SOON)


def test_a_watch_that_was_denied_began_anew_as_if_nothing_were(replica: Replica, surface: Any) -> None:
    replica.auth.revoke_role("bob", "bob")
    with surface.watch(prefix="bob/", initial=True) as watch:
        for _ in range(3):
            with pytest.raises(PermissionDenied):
                watch.next(timeout=SOON)
    replica.auth.grant_role("bob", "bob")
    with surface.watch(prefix="bob/", initial=True) as watch:
        assert watch.next(timeout=SOON).kv.key == b"bob/key"


def test_who_was_given_a_right_a_moment_ago_is_not_denied(replica: Replica, surface: Any) -> None:
    replica.auth.grant_permission("bob", "read", "shared")
    replica.put("shared", b"1")
    assert surface.get("shared").value == b"1"
    assert surface.get("shared", consistency="local").value == b"1"
    with surface.watch("shared", initial=True) as watch:
        assert watch.next(timeout=SOON).kv.value == b"1"


# -- leases ------------------------------------------------------------------------------------------------------------------------


def test_cve_2023_32082_the_keys_of_a_lease_were_told_to_who_may_not_read_them(replica: Replica, surface: Any) -> None:
    with surface.lease(60) as lease:
        surface.put("bob/1", b"", lease=lease)
        assert lease.keys() == (b"bob/1",)
        replica.put("alice/secret-name", b"", lease=lease.id)
        for _ in range(2):
            with pytest.raises(PermissionDenied) as denied:
                lease.keys()
            assert "bob/1" not in str(denied.value)
        with pytest.raises(PermissionDenied):
            surface.namespace("bob/").lease(id=lease.id, keep_alive=False).keys()
        replica.delete("alice/secret-name")
        assert lease.keys() == (b"bob/1",)


def test_cve_2026_33413_the_list_of_leases_was_told_to_everybody(surface: Any) -> None:
    with pytest.raises(PermissionDenied, match="role root"):
        surface.leases()


# -- who it is ---------------------------------------------------------------------------------------------------------------------


def test_whether_a_user_exists_was_told_by_the_text_of_the_refusal_or_its_kind(replica: Replica, tmp_path: Path) -> None:
    replica.auth.add_user("certified")
    texts = set()
    for user in ("bob", "nobody", "certified", "root"):
        for call in (lambda u: replica.as_user(u, "wrong"), lambda u: connect(tmp_path / "data", user=u, password="wrong")):
            with pytest.raises(AuthenticationFailed) as refused:
                call(user)
            texts.add(str(refused.value).replace(user, "USER"))
            assert not getattr(refused.value, "refusal", None)
    assert len(texts) == 2, texts


def test_whether_a_user_exists_was_told_by_how_long_the_refusal_took(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not timed: as much is computed for who does not exist, and for who has no password."""
    costs: list[tuple[int, ...]] = []
    digest = passwords._digest

    def noted(password: bytes, salt: bytes, n: int, r: int, p: int) -> bytes:
        costs.append((n, r, p))
        return digest(password, salt, 1, 8, 1)

    monkeypatch.setattr(passwords, "_digest", noted)
    kept = passwords.hashed(b"right", bytes(16))
    assert passwords.matches(b"right", kept)
    for known in (kept, b"", b"garbage", kept[:-1]):
        assert not passwords.matches(b"wrong", known)
    assert len(costs) == 6
    assert len(set(costs)) == 1


def test_67_as_user_believed_a_password_that_was_changed_while_it_was_compared(replica: Replica, monkeypatch: pytest.MonkeyPatch) -> None:
    matches = passwords.matches

    def slow(password: bytes, kept: bytes) -> bool:
        monkeypatch.setattr(passwords, "matches", matches)
        replica.auth.change_password("bob", "another one")
        return matches(password, kept)

    monkeypatch.setattr(passwords, "matches", slow)
    bob = replica.as_user("bob", PASSWORD)
    for call in (lambda: bob.get("bob/key"), lambda: bob.put("bob/key", b""), lambda: bob.get("bob/key", consistency="local")):
        with pytest.raises(AuthenticationFailed):
            call()


def test_67_the_door_believed_a_password_that_was_changed_while_it_was_compared(
    replica: Replica, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    matches = passwords.matches

    def slow(password: bytes, kept: bytes) -> bool:
        monkeypatch.setattr(passwords, "matches", matches)
        replica.auth.change_password("bob", "another one")
        return matches(password, kept)

    monkeypatch.setattr(passwords, "matches", slow)
    with pytest.raises(AuthenticationFailed):
        connect(tmp_path / "data", user="bob", password=PASSWORD)
    known = replica._running().machine.auth
    assert not [token for token in known.tokens.values() if known.is_valid((token.user, token.stamp))], "nor is there a token for it"


def test_the_token_of_a_client_outlived_its_password(replica: Replica, client: Client) -> None:
    assert client.get("bob/key") is not None
    replica.auth.change_password("bob", "another one")
    for _ in range(2):
        with pytest.raises(AuthenticationFailed):
            client.get("bob/key")


def test_who_came_in_as_root_while_auth_was_not_enabled_was_root_when_it_was(tmp_path: Path) -> None:
    """Nobody is asked for a password then, so nobody has proved anything."""
    with Replica(data_dir=tmp_path / "data") as replica:
        replica.wait_ready()
        replica.auth.add_user("root", PASSWORD)
        with connect(tmp_path / "data", user="root", password="wrong") as thief:
            thief.put("key", b"1")
            acting = replica.as_user("root", "wrong")
            acting.put("key", b"2")
            replica.auth.enable()
            for call in (
                lambda: thief.get("key"),
                lambda: thief.put("key", b"3"),
                lambda: acting.get("key"),
                lambda: acting.put("key", b"3"),
            ):
                with pytest.raises(AuthenticationFailed):
                    call()
        kv = replica.get("key")
        assert kv is not None
        assert kv.value == b"2"


def test_the_client_that_enabled_auth_never_heard_that_it_was_enabled(tmp_path: Path) -> None:
    """The door sent it away to prove who it is before it had sent the answer, so that every such call ended with OutcomeUnknown."""
    with Replica(data_dir=tmp_path / "data") as replica:
        replica.wait_ready()
        replica.auth.add_user("root", PASSWORD)
        with connect(tmp_path / "data", user="root", password=PASSWORD) as client:
            client.put("key", b"1")
            client.auth.enable()
            assert client.auth.status().enabled


def test_the_root_that_changed_its_own_password_never_heard_that_it_was_changed(replica: Replica, tmp_path: Path) -> None:
    with connect(tmp_path / "data", user="root", password=PASSWORD) as client:
        client.auth.change_password("root", "another one")
        with pytest.raises(AuthenticationFailed):
            client.get("key")
    with connect(tmp_path / "data", user="root", password="another one") as client:
        client.auth.users()


# -- secrets -----------------------------------------------------------------------------------------------------------------------


def everything_said(error: BaseException) -> str:
    """Return all that a log would show of an error, and of those behind it."""
    behind = [each for each in (error, error.__cause__, error.__context__) if each is not None]
    return "".join([*traceback.format_exception(error), *(repr(each) + str(each) + repr(each.__dict__) for each in behind)])


def token_of(client: Client) -> bytes:
    """Return what proves to members who a client is."""
    assert client._remote is not None
    token: bytes = client._remote._badge._token
    assert len(token) == 32
    return token


def test_cve_2021_28235_a_password_was_kept_shown_logged_or_written_down(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, replica: Replica
) -> None:
    caplog.set_level(logging.DEBUG)
    guess = "a wrong guess 4711"
    replica.auth.add_user("carol", PASSWORD)
    replica.auth.change_password("carol", PASSWORD)
    shown = [repr(replica.as_user("carol", PASSWORD))]
    with connect(tmp_path / "data", user="carol", password=PASSWORD) as client:
        token = token_of(client)
        shown += [repr(client), str(client), repr(vars(client)), repr(client._remote)]
        client.auth.status()
        for attempt in (lambda: pickle.dumps(client), lambda: copy.deepcopy(client)):
            with pytest.raises(TypeError):
                attempt()
    for call in (lambda: replica.as_user("carol", guess), lambda: connect(tmp_path / "data", user="carol", password=guess)):
        with pytest.raises(AuthenticationFailed) as refused:
            call()
        shown += [everything_said(refused.value), repr(pickle.dumps(refused.value))]
    for bad in ("", "x" * 2000, 5):
        with pytest.raises((TypeError, ValueError)) as wrong:
            replica.auth.add_user("dave", bad)  # type: ignore[arg-type]
        shown.append(str(wrong.value))
    assert not any(secret in text for text in [*shown, caplog.text] for secret in (PASSWORD, guess, "xxxx"))
    assert not any(kept in text for text in [*shown, caplog.text] for kept in ("scr1", repr(token)[2:-1]))
    replica.close()
    for file in (tmp_path / "data").rglob("*"):
        if file.is_file():
            data = file.read_bytes()
            assert PASSWORD.encode() not in data
            assert token not in data


def test_a_password_is_not_in_the_command_that_is_replicated_nor_in_its_repr(replica: Replica, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[bytes] = []
    node = replica._running()

    def submit(self: Node, call: Call) -> None:
        seen.append(call.command or b"")
        real(self, call)

    real = Node.submit
    monkeypatch.setattr(Node, "submit", submit)
    replica.auth.add_user("carol", PASSWORD)
    replica.auth.change_password("carol", PASSWORD)
    assert len(seen) == 2
    assert b"scr1" in seen[0]
    assert not any(PASSWORD.encode() in command for command in seen)
    hashes = [user.password for user in node.machine.auth.users.values()]
    assert len(set(hashes)) == len(hashes), "each has a salt of its own, though all have one password"
    change = ChangeAuth(wire.ADD_USER, ("carol", hashes[0]))
    for told in (repr(node.machine.auth), repr(node.machine.auth.users), repr(replica.auth.user("carol")), repr(change), str(change)):
        assert "scr1" not in told


# -- what others see of a refusal ----------------------------------------------------------------------------------------------------


def test_a_refusal_is_the_same_error_everywhere_and_can_be_pickled(replica: Replica, bob: ActingReplica, client: Client) -> None:
    told = []
    for surface in (bob, client):
        with pytest.raises(PermissionDenied) as denied:
            surface.put("alice/key", SECRET)
        again = pickle.loads(pickle.dumps(denied.value))
        assert type(again) is PermissionDenied
        assert str(again) == str(denied.value)
        told.append(str(again))
    assert told[0] == told[1]
    assert "bob" in told[0]
    assert "write b'alice/key'" in told[0]


def test_a_denied_call_in_a_namespace_named_another_key_than_the_one_to_be_granted(replica: Replica, surface: Any) -> None:
    with pytest.raises(PermissionDenied, match="b'alice/key'"):
        surface.namespace("alice/").put("key", b"")
    with pytest.raises(PermissionDenied, match=r"from b'alice/x/' to b'alice/x0'"):
        surface.namespace("alice/").scan(prefix="x/")


# -- restarts and restores -----------------------------------------------------------------------------------------------------------


def require_guarded(replica: Replica) -> None:
    """Require that users and rights are what they were."""
    assert replica.auth.status().enabled
    assert replica.auth.users() == ["alice", "bob", "root"]
    bob = replica.as_user("bob", PASSWORD)
    assert bob.get("bob/key") is not None
    for call in (lambda: bob.get("alice/key"), lambda: bob.put("alice/key", b""), bob.auth.disable):
        with pytest.raises(PermissionDenied):
            call()
    with pytest.raises(AuthenticationFailed):
        replica.as_user("bob", "wrong")


def test_66_users_and_rights_were_gone_or_others_after_a_restart(replica: Replica, tmp_path: Path) -> None:
    replica.auth.grant_permission("bob", "read", "shared")
    before = replica._running().machine.auth
    replica.close()
    with Replica(data_dir=tmp_path / "data") as again:
        again.wait_ready()
        assert again._running().machine.auth == before
        require_guarded(again)


def test_a_restore_left_users_and_rights_out_or_let_logins_of_the_old_cluster_in(replica: Replica, client: Client, tmp_path: Path) -> None:
    client.get("bob/key")
    assert replica._running().machine.auth.tokens
    replica.backup(tmp_path / "backup")
    restore(tmp_path / "backup", tmp_path / "restored", name="restored")
    with Replica("restored", data_dir=tmp_path / "restored") as restored:
        restored.wait_ready()
        assert not restored._running().machine.auth.tokens
        require_guarded(restored)


def test_a_user_without_rights_made_a_backup(replica: Replica, surface: Any, tmp_path: Path) -> None:
    with pytest.raises(PermissionDenied):
        surface.backup(tmp_path / "stolen")
    assert not list(tmp_path.glob("*stolen*")), "nor is anything left of it"
