"""Users and roles from a shell, against a real member: how a cluster is locked, who gets in then, and what is never shown."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from eventual import PATIENCE

from replkv import TLS, AuthenticationFailed, Config, PermissionDenied, Replica, Settings
from replkv.__main__ import main
from replkv.auth import Auth
from replkv.cli.asking import in_options
from replkv.cli.codes import DENIED, INTERRUPTED, REFUSED, USAGE, code_of
from replkv.cli.forms import escaped, unescaped

ROOT = Path(__file__).parent.parent.parent
FAST = Settings(heartbeat=0.02, promise=0.03, election_timeout=0.3)
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def replica(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Replica]:
    """A member, which commands ask; nobody is said to ask."""
    for name in list(os.environ):
        if name.startswith("REPLKV_"):
            monkeypatch.delenv(name)
    with Replica("m", data_dir=tmp_path / "data", settings=FAST) as replica:
        replica.wait_ready(PATIENCE)
        monkeypatch.setenv("REPLKV_TO", str(tmp_path / "data"))
        yield replica


@pytest.fixture
def run(replica: Replica, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """A command in this process: its code, its output, its complaints.  It may be told who asks, and what is on stdin."""
    del replica

    def run(*arguments: str, by: tuple[str, str] | None = None, stdin: str = "") -> tuple[int, str, str]:
        with monkeypatch.context() as context:
            context.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(stdin.encode())))
            if by is not None:
                context.setenv("REPLKV_USER", by[0])
                context.setenv("REPLKV_PASSWORD", by[1])
            code = main(arguments)
        out, err = capsys.readouterr()
        return code, out, err

    return run


def users(replica: Replica) -> Auth:
    """All that the member knows of users."""
    return replica._engine().node.published.machine.auth


# -- the whole story ---------------------------------------------------------------------------------------------------------------

BOSS, ANN = ("root", "of root"), ("ann", "of ann")


def test_a_cluster_is_locked_and_opened_again_from_a_shell(run: Run, replica: Replica, tmp_path: Path) -> None:
    (tmp_path / "password").write_text("of ann\n")
    replica.put("secret", "1")
    assert run("auth", "status")[:2] == (0, "auth revision 1, disabled: everybody may do everything\n")
    for arguments, said in (
        ("user add root", "user root added"),
        ("role add deployer", "role deployer added"),
        ("role grant deployer readwrite deploy/ --prefix", "role deployer may readwrite all keys that begin with deploy/"),
        (f"user add ann --new-password-file {tmp_path}/password", "user ann added"),
        ("user grant ann deployer", "user ann has the role deployer"),
    ):
        assert run(*arguments.split(), stdin="of root\n") == (0, f"{said}\n", "")
    assert run("auth", "enable") == (0, "enabled; next: see that root comes in: replkv auth status --user root\n", "")
    # who is nobody gets nothing
    code, out, err = run("get", "secret")
    assert (code, out) == (DENIED, "")
    assert "say --user" in err
    assert run("auth", "status")[0] == DENIED
    # root gets everything
    assert run("auth", "status", by=BOSS)[:2] == (0, "auth revision 7, enabled\n")
    assert run("get", "secret", by=BOSS) == (0, "1", "")
    assert run("auth", "status", by=("root", "of ann"))[0] == DENIED
    # a user gets what its roles allow, and sees itself
    assert run("put", "deploy/version", "7", by=ANN)[0] == 0
    assert run("get", "deploy/version", by=ANN) == (0, "7", "")
    code, out, err = run("get", "secret", by=ANN)
    assert (code, out) == (DENIED, "")
    assert err == "replkv: user ann may not read b'secret': have root grant it to one of the user's roles\n"
    assert run("user", "show", "ann", by=ANN)[0] == run("role", "show", "deployer", by=ANN)[0] == run("status", by=ANN)[0] == 0
    for denied in ("user list", "user show root", "role list", "auth disable", "user passwd ann", "leases"):
        code, out, err = run(*denied.split(), by=ANN, stdin="mine\n")
        assert (code, out, err) == (DENIED, "", "replkv: this is for users who have the role root, and ann has not\n")
    # what is given and taken counts at once
    assert run("role", "grant", "deployer", "read", "secret", by=BOSS)[0] == 0
    assert run("get", "secret", by=ANN) == (0, "1", "")
    assert run("role", "revoke", "deployer", "secret", by=BOSS)[0] == 0
    assert run("get", "secret", by=ANN)[0] == DENIED
    # another password
    assert run("user", "passwd", "ann", by=BOSS, stdin="new\n") == (0, "user ann has another password\n", "")
    assert run("get", "deploy/version", by=ANN)[0] == DENIED
    assert run("get", "deploy/version", by=("ann", "new"))[0] == 0
    assert run("user", "passwd", "root", by=BOSS, stdin="of boss\n")[0] == 0  # of who asks: the answer comes nevertheless
    assert run("user", "list", by=("root", "of boss"))[:2] == (0, "ann\nroot\n")
    # no role, no user
    assert run("user", "revoke", "ann", "deployer", by=("root", "of boss"))[0] == 0
    assert run("get", "deploy/version", by=("ann", "new"))[0] == DENIED
    assert run("user", "delete", "ann", by=("root", "of boss")) == (0, "user ann deleted\n", "")
    assert run("status", by=("ann", "new"))[0] == DENIED
    assert run("auth", "disable", by=("root", "of boss")) == (0, "disabled: everybody may do everything\n", "")
    assert run("get", "secret") == (0, "1", "")


def test_a_user_may_hold_a_lock_whose_keys_were_granted_to_it(run: Run, replica: Replica) -> None:
    replica.auth.add_user("root", "of root")
    replica.auth.add_user("ann", "of ann")
    replica.auth.add_role("ops")
    replica.auth.grant_role("ann", "ops")
    replica.auth.enable()
    assert run("lock", "nightly", "true", by=ANN)[0] == DENIED
    where = r"\x00replkv/lock/nightly/"
    assert run("role", "grant", "ops", "readwrite", where, "--prefix", "--escaped", by=BOSS)[0] == 0
    assert run("lock", "nightly", "true", by=ANN) == (0, "", "")
    assert run("lock", "other", "true", by=ANN)[0] == DENIED
    assert run("role", "show", "ops", by=ANN)[1].splitlines()[1].split() == ["readwrite", "prefix", where]
    assert run("role", "revoke", "ops", where, "--prefix", "--escaped", by=BOSS)[0] == 0
    assert run("lock", "nightly", "true", by=ANN)[0] == DENIED


def test_users_come_in_by_certificates_that_were_made_from_a_shell(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pki = tmp_path / "pki"
    for arguments in ("init {}", "member {} m --local", "client {} root", "client {} ann"):
        assert main(["certs", *arguments.format(pki).split()]) == 0
    tls = TLS(ca=pki / "ca.crt", cert=pki / "m.crt", key=pki / "m.key", client_ca=pki / "client-ca.crt")
    config = Config(clients="127.0.0.1:0")
    with Replica("m", data_dir=tmp_path / "data", settings=FAST, config=config, tls=tls) as replica:
        replica.wait_ready(PATIENCE)
        monkeypatch.setenv("REPLKV_TO", (tmp_path / "data" / "clients.address").read_text().splitlines()[2])

        def code(*arguments: str, by: str) -> int:
            files = ("--ca", "ca.crt"), ("--cert", f"clients/{by}.crt"), ("--key", f"clients/{by}.key")
            return main([*arguments, *(word for option, file in files for word in (option, str(pki / file)))])

        assert code("user", "add", "root", "--no-password", by="root") == code("auth", "enable", by="root") == 0
        assert code("user", "show", "root", by="root") == 0
        capsys.readouterr()
        assert code("status", by="ann") == DENIED
        assert "'replkv user add ann --no-password'" in capsys.readouterr().err
        assert code("user", "add", "ann", "--no-password", by="root") == 0
        assert code("status", by="ann") == 0
        assert code("get", "k", by="ann") == DENIED


def test_what_can_not_be_is_refused_in_words_of_the_shell(run: Run) -> None:
    for arguments, says in (
        ("auth enable", "'replkv user add root' first"),
        ("user show bob", "there is no user bob: 'replkv user list' lists those there are"),
        ("user passwd bob", "there is no user bob"),
        ("user delete bob", "there is no user bob"),
        ("user grant bob root", "there is no user bob"),
        ("user add ann --no-password", ""),
        ("user add ann", "there is a user ann already: 'replkv user passwd', or use another name"),
        ("user grant ann none", "there is no role none: 'replkv role list' lists those there are"),
        ("user revoke ann none", "'replkv user show' lists those it has"),
        ("role add root", "there is a role root already"),
        ("role delete root", "can't be changed"),
        ("role grant root read k", "can't be changed"),
        ("role show none", "there is no role none"),
        ("role add ops", ""),
        ("role revoke ops k", "'replkv role show' lists what it has"),
    ):
        code, out, err = run(*arguments.split(), stdin="secret\n")
        assert (code, bool(out)) == (REFUSED, False) if says else (0, True)
        assert says in err
        assert err.count("\n") == bool(says)


def test_root_stays_root_while_rights_are_checked(run: Run) -> None:
    assert run("user", "add", "root", stdin="of root")[0] == run("auth", "enable")[0] == 0
    for arguments in ("user delete root", "user revoke root root"):
        code, _, err = run(*arguments.split(), by=BOSS)
        assert (code, "disable it first" in err) == (REFUSED, True)
    assert run("auth", "enable", by=BOSS)[0] == 0  # once more


def test_if_root_has_no_password_enabling_says_so(run: Run) -> None:
    assert run("user", "add", "root", "--no-password")[0] == 0
    code, out, _ = run("auth", "enable")
    assert (code, out.count("\n")) == (0, 1)
    assert "root, who has no password, comes in: replkv auth status --ca ca.crt --cert root.crt --key root.key" in out


@pytest.mark.parametrize("error", [PermissionDenied("x"), AuthenticationFailed("x")])
def test_who_may_not_is_not_told_the_code_of_a_missing_key(error: Any) -> None:
    assert code_of(error) == DENIED


# -- what is shown -----------------------------------------------------------------------------------------------------------------


@pytest.fixture
def roles(replica: Replica) -> Replica:
    """A member that has users and roles."""
    replica.auth.add_user("cert", None)
    replica.auth.add_user("ann", "of ann")
    for name in ("ops", "dev"):
        replica.auth.add_role(name)
        replica.auth.grant_role("ann", name)
    replica.auth.grant_permission("dev", "readwrite", prefix="dev/")
    replica.auth.grant_permission("dev", "read", "one\n")
    replica.auth.grant_permission("dev", "write", start="a", end=b"\xff")
    replica.auth.grant_permission("dev", "read", start="from")
    return replica


def test_users_and_roles_are_lines_of_names(run: Run, roles: Replica) -> None:
    del roles
    assert run("user", "list") == (0, "ann\ncert\n", "")
    assert run("role", "list") == (0, "dev\nops\nroot\n", "")
    assert json.loads(run("user", "list", "--json")[1]) == ["ann", "cert"]
    assert json.loads(run("role", "list", "--json")[1]) == ["dev", "ops", "root"]


def test_a_role_is_a_permission_a_line_as_it_would_be_typed(run: Run, roles: Replica) -> None:
    del roles
    code, out, err = run("role", "show", "dev")
    assert (code, err) == (0, "")
    headings, *rows = out.splitlines()
    assert headings.split() == ["may", "keys", "key", "up", "to"]
    assert [row.split() for row in rows] == [
        ["write", "range", "a", "\\xff"],
        ["readwrite", "prefix", "dev/"],
        ["read", "from", "from"],
        ["read", "one", "one\\n"],
    ]
    assert json.loads(run("role", "show", "dev", "--json")[1]) == {
        "name": "dev",
        "permissions": [
            {"mode": "write", "start": "a", "end_base64": "/w=="},
            {"mode": "readwrite", "start": "dev/", "end": "dev0"},
            {"mode": "read", "start": "from", "end": None},
            {"mode": "read", "start": "one\n", "end": "one\n\x00"},
        ],
    }
    assert run("role", "show", "root")[1].splitlines()[1] == "everything"
    assert run("role", "show", "ops")[1].count("\n") == 1


def test_a_user_is_shown_with_its_roles_and_on_demand_with_what_they_allow(run: Run, roles: Replica) -> None:
    del roles
    assert [line.split() for line in run("user", "show", "ann")[1].splitlines()] == [
        ["user", "roles", "password"],
        ["ann", "dev,", "ops", "yes"],
    ]
    assert run("user", "show", "cert")[1].split() == ["user", "roles", "password", "cert", "no"]
    assert json.loads(run("user", "show", "ann", "--json")[1]) == {"name": "ann", "roles": ["dev", "ops"], "has_password": True}
    lines = run("user", "show", "ann", "--detail")[1].splitlines()
    assert lines[2].split() == ["role", "may", "keys", "key", "up", "to"]
    assert lines[4].split() == ["dev", "readwrite", "prefix", "dev/"]
    said = json.loads(run("user", "show", "ann", "--detail", "--json")[1])
    assert [(role["name"], len(role["permissions"])) for role in said["roles"]] == [("dev", 4), ("ops", 0)]
    assert json.loads(run("user", "show", "cert", "--detail", "--json")[1]) == {"name": "cert", "roles": [], "has_password": False}


@pytest.mark.parametrize(
    ("keys", "told", "start", "end"),
    [
        ("k", "k", "k", "k\x00"),
        ("k z", "all keys from k to z", "k", "z"),
        ("k --prefix", "all keys that begin with k", "k", "l"),
        ("k --from-key", "all keys from k on", "k", None),
        (r"k\n\\ --escaped", r"k\n\\", "k\n\\", "k\n\\\x00"),
        (
            r"\x00replkv/queue/\u200e/ --prefix --escaped",
            r"all keys that begin with \x00replkv/queue/\u200e/",
            "\x00replkv/queue/\u200e/",
            None,
        ),
    ],
)
def test_keys_are_granted_and_revoked_by_the_same_words(
    run: Run, replica: Replica, keys: str, told: str, start: str, end: str | None
) -> None:
    replica.auth.add_role("r")
    assert run("role", "grant", "r", "read", *keys.split()) == (0, f"role r may read {told}\n", "")
    (permission,) = replica.auth.role("r").permissions
    assert permission.start == start.encode()
    assert "queue" in keys or permission.end == (None if end is None else end.encode())
    assert run("role", "revoke", "r", *keys.split()) == (0, f"role r has no permission any more for {told}\n", "")
    assert not replica.auth.role("r").permissions


def test_all_keys_are_an_empty_prefix(run: Run, replica: Replica) -> None:
    replica.auth.add_role("r")
    assert run("role", "grant", "r", "read", "", "--prefix")[:2] == (0, "role r may read all keys\n")
    assert run("role", "show", "r")[1].splitlines()[1].split() == ["read", "all"]
    assert run("role", "revoke", "r", "", "--prefix")[0] == 0


def test_what_was_changed_is_told_in_json(run: Run, replica: Replica) -> None:
    for arguments, said in (
        ("user add root", {"user": "root"}),
        ("user passwd root", {"user": "root"}),
        ("role add r", {"role": "r"}),
        ("role grant r write k", {"role": "r", "mode": "write", "start": "k", "end": "k\x00"}),
        ("user grant root r", {"user": "root", "role": "r"}),
        ("user revoke root r", {"user": "root", "role": "r"}),
        ("role revoke r k", {"role": "r", "start": "k", "end": "k\x00"}),
        ("role delete r", {"role": "r"}),
        ("auth status", {"enabled": False, "revision": 9}),
        ("auth enable", {"enabled": True}),
    ):
        code, out, err = run(*arguments.split(), "--json", stdin="of root\n")
        assert (code, json.loads(out), err) == (0, said, "")
    assert json.loads(run("auth", "disable", "--json", by=BOSS)[1]) == {"enabled": False}
    assert not users(replica).enabled


@pytest.mark.parametrize("group", ["auth", "user", "role"])
def test_a_group_alone_says_what_there_is(run: Run, group: str) -> None:
    code, out, err = run(group)
    assert (code, err) == (0, "")
    assert f"Usage: replkv {group}" in out


@pytest.mark.parametrize(
    "data", [b"", b"a/b", b"\x00replkv/", b"\\x00", b"\\", b"\xff\xfe", "ü\u200e\x85\U0001f600".encode(), b"\n\t\r\x1b\\n"]
)
def test_what_is_shown_escaped_can_be_typed_again(data: bytes) -> None:
    assert unescaped(escaped(data).encode()) == data


@pytest.mark.parametrize("text", [b"\\", b"\\q", b"\\x0", b"\\ud800", b"\\U00110000", b"\\u12", b"a\\\n"])
def test_what_no_escape_is_is_refused(text: bytes) -> None:
    with pytest.raises(ValueError, match="stands for nothing"):
        unescaped(text)


def test_hints_about_calls_become_hints_about_commands() -> None:
    assert in_options("no user: add_user('al ice', None) or connect(user=, password=) instead") == (
        "no user: 'replkv user add al ice --no-password' or say --user instead"
    )


# -- passwords ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stdin", ["of ann", "of ann\n", "of ann\r\n", "of ann\nand more\n"])
def test_a_new_password_is_the_first_line_of_stdin_or_of_a_file(run: Run, replica: Replica, tmp_path: Path, stdin: str) -> None:
    (tmp_path / "password").write_bytes(stdin.encode())
    assert run("user", "add", "ann", stdin=stdin)[0] == 0
    assert run("user", "add", "bob", "--new-password-file", str(tmp_path / "password"))[0] == 0
    replica.auth.add_user("root", "of root")
    replica.auth.enable()
    for name in ("ann", "bob"):
        assert replica.as_user(name, "of ann").user == name


def test_without_a_password_a_user_has_none(run: Run, replica: Replica) -> None:
    assert run("user", "add", "ann", "--no-password")[:2] == (0, "user ann added\n")
    assert not replica.auth.user("ann").has_password
    assert run("user", "passwd", "ann", stdin="some\n")[0] == 0
    assert replica.auth.user("ann").has_password
    assert run("user", "passwd", "ann", "--no-password")[:2] == (0, "user ann has no password any more\n")
    assert not replica.auth.user("ann").has_password


@pytest.mark.parametrize(
    ("arguments", "stdin", "says"),
    [
        (("user", "add", "ann"), "", "stdin has no password in its first line"),
        (("user", "add", "ann"), "\nsecret\n", "stdin has no password in its first line"),
        (("user", "add", "ann"), "x" * 1025, "a password has 1 to 1024 bytes"),
        (("user", "add", "ann", "--new-password-file", "/nowhere"), "", "--new-password-file /nowhere can't be read: No such file"),
        (("user", "add", "ann", "--new-password-file", "x", "--no-password"), "", "exclude each other"),
        (("user", "add", "ann", "secret"), "", "unexpected extra argument"),
        (("user", "add", "ann", "--new-password", "secret"), "", "No such option"),
        (("user", "add", ""), "secret", "the name of a user has 1 to 128 printable characters"),
        (("user", "passwd"), "secret", "Missing argument 'NAME'"),
        (("user", "nosuch"), "", "No such command 'nosuch'"),
        (("role", "add", "a\nb"), "", "the name of a role has 1 to 128 printable characters"),
        (("role", "grant", "r", "execute", "k"), "", "'execute' is not one of"),
        (("role", "grant", "r", "read"), "", "Missing argument 'KEY'"),
        (("role", "grant", "r", "read", ""), "", "key"),
        (("role", "grant", "r", "read", "b", "a"), "", "lies behind its start"),
        (("role", "grant", "r", "read", "k", "z", "--prefix"), "", "only one of END, --prefix and --from-key"),
        (("role", "revoke", "r", "k", "--from-key", "--prefix"), "", "only one of END, --prefix and --from-key"),
        (("role", "revoke", "r", "k\\q", "--escaped"), "", "stands for nothing"),
    ],
)
def test_wrong_usage_is_a_line_and_changes_nothing(run: Run, replica: Replica, arguments: tuple[str, ...], stdin: str, says: str) -> None:
    replica.auth.add_role("r")
    before = users(replica)
    code, out, err = run(*arguments, stdin=stdin)
    assert (code, out) == (USAGE, "")
    assert says in err
    assert err.count("\n") == 1
    assert users(replica) == before


def test_a_password_is_not_repeated_in_errors(run: Run) -> None:
    for arguments in (("user", "add", "\n"), ("user", "passwd", "nobody"), ("user", "add", "ann"), ("user", "add", "ann")):
        _, out, err = run(*arguments, stdin="hunter2\n")
        assert "hunter2" not in out + err
    code, out, err = run("user", "add", "bob", stdin="hunter2" * 200)
    assert (code, "hunter2" in out + err) == (USAGE, False)


TERMINAL = "import os, pty, sys; sys.exit(os.waitstatus_to_exitcode(pty.spawn(sys.argv[1:])))"


def typed(*arguments: str, keys: Sequence[tuple[str, str]] = ()) -> tuple[int, str]:
    """What a command says on a terminal where somebody types, each time when a text has come up."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "120", "TERM": "xterm"}
    command = [sys.executable, "-c", TERMINAL, sys.executable, "-m", "replkv", *arguments]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, env=environment, stdin=pipe, stdout=pipe, stderr=subprocess.STDOUT, start_new_session=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            said = b""
            for text, line in keys:
                seen = len(said)
                while text.encode() not in said[seen:]:
                    more = process.stdout.read(1)
                    assert more, f"{text!r} was awaited after {said!r}"
                    said += more
                process.stdin.write(line.encode())
                process.stdin.flush()
            said += process.stdout.read()
            return process.wait(PATIENCE), said.decode()
        finally:
            process.kill()


NEW, AGAIN = "New password of root: ", "The same again: "


def test_on_a_terminal_a_new_password_is_asked_for_twice_and_not_shown(replica: Replica) -> None:
    code, said = typed("user", "add", "root", keys=[(NEW, "hunter2\n"), (AGAIN, "hunter2\n")])
    assert code == 0
    assert said.index(NEW) < said.index(AGAIN) < said.index("user root added")
    assert "hunter2" not in said
    replica.auth.enable()
    assert replica.as_user("root", "hunter2").user == "root"


def test_two_passwords_that_differ_are_asked_for_again(replica: Replica) -> None:
    code, said = typed("user", "add", "root", keys=[(NEW, "one\n"), (AGAIN, "other\n"), (NEW, "hunter2\n"), (AGAIN, "hunter2\n")])
    assert code == 0
    assert said.count(NEW) == 2
    replica.auth.enable()
    assert replica.as_user("root", "hunter2").user == "root"


def test_who_thinks_better_of_it_has_made_nobody(replica: Replica) -> None:
    code, _ = typed("user", "add", "root", keys=[(NEW, "hunter2\n"), (AGAIN, "\x03")])
    assert code == INTERRUPTED
    assert replica.auth.users() == []


def test_on_a_terminal_names_and_permissions_are_drawn(roles: Replica) -> None:
    del roles
    for arguments, parts in ((("user", "list"), ("╭", "cert")), (("role", "show", "dev"), ("╭", "readwrite", "\\xff"))):
        code, said = typed(*arguments)
        assert code == 0
        assert all(part in said for part in parts)
