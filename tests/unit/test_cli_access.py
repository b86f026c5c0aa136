"""How commands come in: certificates, users and passwords, from options, the environment and the keyboard."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import pytest

from replkv import NoLeader, Rejected
from replkv.__main__ import main
from replkv.cli import member, plain
from replkv.cli.asking import Asking, asking, in_options, told
from replkv.cli.codes import USAGE
from replkv.tls import TLS

Ask = Callable[..., Asking]


@pytest.fixture
def ask(monkeypatch: pytest.MonkeyPatch) -> Ask:
    """What a command is told by its options; nothing of it is in the environment, but whom to ask."""
    for name in list(os.environ):
        if name.startswith("REPLKV_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("REPLKV_TO", "/data")

    @click.command()
    @asking()
    @click.argument("key", default="")  # as get and put have one
    def command(asked: Asking, key: str) -> Asking:
        del key
        return asked

    def run(*arguments: str) -> Asking:
        asked: Asking = command.main(list(arguments), standalone_mode=False)
        return asked

    return run


def test_without_options_nothing_is_encrypted_and_nobody_asks(ask: Ask) -> None:
    asked = ask()
    assert (asked.tls, asked.user, asked.password, asked.insecure) == (None, None, None, False)


def test_certificates_are_options_and_variables(ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    assert ask("--ca", "ca.crt").tls == TLS(ca="ca.crt")
    assert ask("--ca", "ca.crt", "--cert", "c", "--key", "k", "--server-name", "n").tls == TLS(
        ca="ca.crt", cert="c", key="k", server_name="n"
    )
    for name in ("CA", "CERT", "KEY", "SERVER_NAME"):
        monkeypatch.setenv(f"REPLKV_TLS_{name}", name.lower())
    assert ask().tls == TLS(ca="ca", cert="cert", key="key", server_name="server_name")
    assert ask("--ca", "mine").how["tls"] == TLS(ca="mine", cert="cert", key="key", server_name="server_name")


@pytest.mark.parametrize("option", ["--cert", "--key", "--server-name"])
def test_certificates_without_an_authority_are_refused(ask: Ask, option: str) -> None:
    with pytest.raises(click.UsageError, match=f"{option} needs --ca"):
        ask(option, "x")


def test_a_certificate_without_its_key_is_refused_in_words_of_options(ask: Ask) -> None:
    with pytest.raises(click.UsageError, match="both --cert and --key"):
        ask("--ca", "ca.crt", "--cert", "c")


@pytest.mark.parametrize("content", [b"secret", b"secret\n", b"secret\r\n", b"secret\nand a second line\n"])
def test_a_password_is_the_first_line_of_a_file(ask: Ask, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "password").write_bytes(content)
    asked = ask("--user", "alice", "--password-file", str(tmp_path / "password"))
    assert (asked.user, asked.password) == ("alice", "secret")
    assert (asked.how["user"], asked.how["password"]) == ("alice", "secret")


def test_blanks_belong_to_a_password(ask: Ask, tmp_path: Path) -> None:
    (tmp_path / "password").write_text(" a b \n")
    assert ask("--user", "alice", "--password-file", str(tmp_path / "password")).password == " a b "


@pytest.mark.parametrize(("content", "says"), [(None, "No such file"), (b"", "no password in its first line"), (b"\xff\n", "UTF-8")])
def test_a_file_without_a_password_is_named(ask: Ask, tmp_path: Path, content: bytes | None, says: str) -> None:
    if content is not None:
        (tmp_path / "password").write_bytes(content)
    with pytest.raises(click.UsageError, match=rf"--password-file {tmp_path}/password .*{says}"):
        ask("--user", "alice", "--password-file", str(tmp_path / "password"))


def test_a_password_without_a_user_is_refused(ask: Ask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(click.UsageError, match="--password-file needs --user"):
        ask("--password-file", str(tmp_path))
    monkeypatch.setenv("REPLKV_PASSWORD", "left over")
    assert ask().password is None


def test_a_password_comes_from_the_environment(ask: Ask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REPLKV_USER", "alice")
    monkeypatch.setenv("REPLKV_PASSWORD", "of the environment")
    assert (ask().user, ask().password) == ("alice", "of the environment")
    (tmp_path / "password").write_text("of the file")
    assert ask("--password-file", str(tmp_path / "password")).password == "of the file"


def test_a_password_is_asked_for_where_somebody_sits(ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, dict[str, Any]]] = []

    def prompt(text: str, **options: Any) -> str:
        asked.append((text, options))
        return "typed"

    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("click.prompt", prompt)
    assert ask("--user", "alice").password == "typed"
    assert asked == [("Password of alice", {"hide_input": True, "err": True})]


def test_where_nobody_sits_it_is_said_where_a_password_is_read(ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin.isatty", lambda: False, raising=False)
    with pytest.raises(click.UsageError, match="--password-file, or in REPLKV_PASSWORD"):
        ask("--user", "alice")


def test_a_password_is_no_argument(ask: Ask) -> None:
    with pytest.raises(click.NoSuchOption):
        ask("--user", "alice", "--password", "secret")


def test_a_password_is_not_shown(ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REPLKV_PASSWORD", "hunter2")
    assert "hunter2" not in repr(ask("--user", "alice"))


def test_hints_about_arguments_become_hints_about_options() -> None:
    text = (
        "give TLS(cert=, key=), say insecure=True, add it to ca=, start it with tls=, or say in server_name= which name; client_ca= is left"
    )
    assert in_options(text) == (
        "give --cert and --key, say --insecure, add it to --ca, start it with --ca, or say in --server-name which name; client_ca= is left"
    )


def test_what_a_key_is_called_is_left_as_it_is() -> None:
    assert told(NoLeader("give tls=")) == "give --ca"
    assert told(Rejected("the key tls= has another value")) == "the key tls= has another value"


def test_beyond_this_machine_certificates_are_named_as_the_way(ask: Ask, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    del ask
    monkeypatch.setenv("REPLKV_PASSWORD", "hunter2")
    assert main(["get", "k", "--to", "db1.internal:7421", "--user", "alice"]) == USAGE
    said = capsys.readouterr().err
    assert "the password would travel there in clear: give --ca, or say --insecure" in said
    assert "hunter2" not in said
    assert main(["get", "k", "--to", "db1.internal:7421"]) == USAGE
    assert "nothing is encrypted on the way there: give --ca, or say --insecure" in capsys.readouterr().err


def test_a_file_of_tls_that_is_missing_is_wrong_usage(ask: Ask, capsys: Any) -> None:
    del ask
    assert main(["get", "k", "--to", "127.0.0.1:7421", "--ca", "/nowhere.crt"]) == USAGE
    assert "/nowhere.crt can't be read: No such file" in capsys.readouterr().err


def test_a_member_takes_certificates_as_options(ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    del ask
    environment: dict[str, str] = {}
    monkeypatch.setattr("os.environ", environment)
    monkeypatch.setattr(member, "_serve", lambda: (_ for _ in ()).throw(SystemExit))
    monkeypatch.setattr(member, "exit_on_sigterm", lambda: None)
    monkeypatch.setattr("signal.signal", lambda *_: None)
    monkeypatch.setattr("logging.basicConfig", lambda **_: None)
    words = "member --data-dir d --insecure --ca ca --cert c --key k --client-ca cc --server-name n --require-client-cert 0"
    assert plain.run(words.split()) == 0
    assert environment == {
        "REPLKV_DATA_DIR": "d",
        "REPLKV_INSECURE": "1",
        "REPLKV_TLS_CA": "ca",
        "REPLKV_TLS_CERT": "c",
        "REPLKV_TLS_KEY": "k",
        "REPLKV_TLS_CLIENT_CA": "cc",
        "REPLKV_TLS_SERVER_NAME": "n",
        "REPLKV_TLS_REQUIRE_CLIENT_CERT": "0",
    }
