"""Whom a command asks, and how: the options that all commands share."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any, BinaryIO, Final, TypeAlias

import click
from attrs import field, frozen

from replkv import Client, Config, ReplkvError, Unavailable, connect
from replkv.errors import AuthenticationFailed, AuthRefused
from replkv.tls import TLS

Decorator: TypeAlias = Callable[[Callable[..., Any]], Callable[..., Any]]


@frozen
class Asking:
    """The options that all commands share.

    Args:
        targets: data directories and addresses.
        insecure: addresses beyond this machine may be used, although nothing is encrypted.
        timeout: seconds for each call, and to find a member.
        as_json: print JSON.
        tls: certificates, if connections are to be encrypted.
        user: who asks, if members have to know.
        password: of the user.
    """

    targets: tuple[str, ...]
    insecure: bool
    timeout: float
    as_json: bool
    tls: TLS | None = None
    user: str | None = None
    password: str | None = field(default=None, repr=False)

    @property
    def how(self) -> dict[str, Any]:
        """How to connect, whomever to."""
        config = Config(timeout=self.timeout)
        return {"user": self.user, "password": self.password, "tls": self.tls, "insecure": self.insecure, "config": config}

    @contextmanager
    def client(self) -> Iterator[Client]:
        """Connect, and close the connection at the end of the block.

        Raises:
            UsageError: an argument is wrong, of this or of a call in the block.
        """
        with usage(), connect(self.targets, **self.how, timeout=self.timeout) as client:
            yield client


@contextmanager
def usage() -> Iterator[None]:
    """Turn the ValueErrors that calls raise for their arguments, before anything is sent, into one about the command."""
    try:
        yield
    except UnicodeError:
        raise  # which are ValueErrors, but no argument's
    except ValueError as error:
        raise click.UsageError(in_options(str(error)), click.get_current_context(silent=True)) from error


_ARGUMENT: Final = re.compile(
    r"TLS\(cert=, key=\)|insecure=True|\b(?:tls|ca|cert|key|server_name)=|connect\(user=, password=\)"
    r"|add_user\('root', password\)|\bauth\.(?:users|user|roles|role)\(\)|\bchange_password\b"
)
_CERTIFIED: Final = re.compile(r"add_user\('([^']+)', None\)")
_OPTIONS: Final = {
    "TLS(cert=, key=)": "--cert and --key",
    "insecure=True": "--insecure",
    "tls=": "--ca",
    "server_name=": "--server-name",
    "connect(user=, password=)": "say --user",
    "add_user('root', password)": "'replkv user add root'",
    "auth.users()": "'replkv user list'",
    "auth.user()": "'replkv user show'",
    "auth.roles()": "'replkv role list'",
    "auth.role()": "'replkv role show'",
    "change_password": "'replkv user passwd'",
}


def in_options(text: str) -> str:
    """Return a text about arguments and calls of Python as one about options and commands."""
    named = _CERTIFIED.sub(r"'replkv user add \1 --no-password'", text)
    return _ARGUMENT.sub(lambda found: _OPTIONS.get(found[0]) or f"--{found[0][:-1]}", named)


def told(error: ReplkvError) -> str:
    """Return what an error says, with its hints for who connects as options; texts of other errors may have a user's keys in them."""
    return in_options(str(error)) if isinstance(error, (Unavailable, AuthenticationFailed, AuthRefused)) else str(error)


TIMEOUT: Final = 5.0
"""Seconds."""


def targets_of(given: tuple[str, ...]) -> tuple[str, ...]:
    """Return whom to ask: what was given, or what the environment says.

    Raises:
        UsageError: neither says it.
    """
    if given:
        return given
    listed = [part.strip() for part in os.environ.get("REPLKV_TO", "").split(",") if part.strip()]
    if listed:
        return tuple(listed)
    if directory := os.environ.get("REPLKV_DATA_DIR"):
        return (os.path.join(directory, ""),)  # surely a path
    raise click.UsageError("say whom to ask: --to with a member's data directory, or with an address at which one serves clients")


def _tls(given: dict[str, Any]) -> TLS | None:
    ca, cert, key, server_name = (given[name] for name in ("tls_ca", "tls_cert", "tls_key", "tls_server_name"))
    if ca is not None:
        with usage():
            return TLS(ca=ca, cert=cert, key=key, server_name=server_name)
    for option, value in (("--cert", cert), ("--key", key), ("--server-name", server_name)):
        if value is not None:
            raise click.UsageError(f"{option} needs --ca: the authority that has signed the members' certificates")
    return None


def _password(user: str | None, file: str | None) -> str | None:
    """Return the user's password, from a file, the environment or the keyboard; never from an argument, which others can see."""
    if user is None:
        if file is not None:
            raise click.UsageError("--password-file needs --user")
        return None
    password = password_in(file, "--password-file") if file is not None else os.environ.get("REPLKV_PASSWORD")
    if password:
        return password
    if not sys.stdin.isatty():
        raise click.UsageError(f"say the password of {user}: in a file for --password-file, or in REPLKV_PASSWORD")
    typed: str = click.prompt(f"Password of {user}", hide_input=True, err=True)
    return typed


def password_in(file: str, option: str) -> str:
    """Return the password in a file that an option names.

    Raises:
        UsageError: there is none.
    """
    try:
        with open(file, "rb") as opened:
            return first_line(opened, f"{option} {file}")
    except OSError as error:
        raise click.UsageError(f"{option} {file} can't be read: {error.strerror}") from None


def first_line(opened: BinaryIO, where: str) -> str:
    """Return the first line, a password, of what is open.

    Raises:
        UsageError: there is none.
    """
    try:
        line = opened.readline().decode().rstrip("\r\n")
    except UnicodeDecodeError:
        raise click.UsageError(f"{where} is no text in UTF-8") from None
    if not line:
        raise click.UsageError(f"{where} has no password in its first line")
    return line


def asking(*, output: bool = True) -> Decorator:
    """Return a decorator that gives a command the shared options, as one argument.

    Args:
        output: the command prints something, and answers within a time; else it has neither ``--json`` nor this ``--timeout``.
    """

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(function)
        def command(**options: Any) -> Any:
            given = {name: options.pop(name) for name in _NAMES if name in options}
            return function(_asking(given), **options)

        made: Callable[..., Any] = command
        for option in reversed([*_TARGET, *_OUTPUT] if output else _TARGET):
            made = option(made)
        return made

    return decorate


def _asking(given: dict[str, Any]) -> Asking:
    user = given["login"]
    password = _password(user, given["password_file"])
    seconds, as_json = given.get("for_calls", TIMEOUT), given.get("as_json", False)
    return Asking(targets_of(given["to"]), given["insecure"], seconds, as_json, _tls(given), user, password)


def _for_tls(name: str, value: str, text: str) -> Decorator:
    under = f"tls_{name.replace('-', '_')}"
    return click.option(f"--{name}", under, metavar=value, envvar=f"REPLKV_{under.upper()}", show_envvar=True, help=text)


_NAMES: Final[tuple[str, ...]] = (
    "to",
    "insecure",
    "tls_ca",
    "tls_cert",
    "tls_key",
    "tls_server_name",
    "login",
    "password_file",
    "for_calls",
    "as_json",
)
_TARGET: Final[list[Decorator]] = [
    click.option(
        "--to",
        multiple=True,
        metavar="TARGET",
        help="Whom to ask: a member's data directory, or an address at which it serves clients. May be repeated. Default: what REPLKV_TO "
        "lists, separated by commas, or else REPLKV_DATA_DIR.",
    ),
    click.option(
        "--insecure",
        is_flag=True,
        envvar="REPLKV_INSECURE",
        show_envvar=True,
        help="Go beyond this machine without --ca, although nothing is encrypted there, a password no more than all else.",
    ),
    _for_tls("ca", "FILE", "Use TLS: the authority that has signed the members' certificates."),
    _for_tls("cert", "FILE", "This client's own certificate, where members demand one; it may say who the user is."),
    _for_tls("key", "FILE", "The private key of --cert."),
    _for_tls("server-name", "NAME", "The name that the members' certificates have, if it is not the host of their address."),
    click.option(
        "--user",
        "login",
        metavar="NAME",
        envvar="REPLKV_USER",
        show_envvar=True,
        help="Who asks. The password is in --password-file or REPLKV_PASSWORD, or is asked for on a terminal.",
    ),
    click.option("--password-file", type=click.Path(), metavar="FILE", help="A file whose first line is the password of --user."),
]
_OUTPUT: Final[list[Decorator]] = [
    click.option(
        "--timeout",
        "for_calls",
        type=click.FloatRange(min=0, min_open=True),
        default=TIMEOUT,
        show_default=True,
        metavar="SECONDS",
        help="How long to look for a member, and to wait for each answer.",
    ),
    click.option("--json", "as_json", is_flag=True, help="Print JSON, for scripts."),
]

consistency = click.option(
    "--consistency",
    type=click.Choice(["linearizable", "lease", "local"]),
    default="linearizable",
    show_default=True,
    help="How new the answer has to be: all that was acknowledged before; the same, trusting clocks; or what the member has.",
)

BYTES = os.fsencode
"""The type of keys and values: the very bytes that the shell handed over, whether they are text or not."""
REVISION = click.IntRange(min=1)
SECONDS = click.FloatRange(min=0, min_open=True)
