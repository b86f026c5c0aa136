"""``replkv auth``, ``replkv user`` and ``replkv role``: who may do what, in the words that etcdctl's users know."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, Final

import click
from attrs import asdict

from replkv import UserNotFound
from replkv.auth import ROOT
from replkv.auth_calls import Role
from replkv.cli.asking import BYTES, Asking, Decorator, asking, first_line, password_in, usage
from replkv.cli.forms import draw, escaped, json_field, print_json, table, unescaped
from replkv.values import Span, behind_prefix

ALL: Final = Span.of()
"""What is granted with an empty prefix."""


def _group(name: str, text: str) -> click.Group:
    @click.group(name, help=text, invoke_without_command=True)
    @click.pass_context
    def group(context: click.Context) -> None:
        if context.invoked_subcommand is None:
            click.echo(context.get_help())

    return group


auth: Final = _group(
    "auth",
    """Have rights checked, or not, and see whether they are.

    As long as they are not, everybody who reaches a member may do everything. Once they are, these commands need the role root, but that
    every user may see the status.
    """,
)
user: Final = _group(
    "user",
    """Make users, and say which roles they have.

    A user may do what any of its roles allows. Once rights are checked these commands need the role root, but that users may see
    themselves.
    """,
)
role: Final = _group(
    "role",
    """Make roles, and say which keys they may read and write.

    The role root is always there and may do everything. Once rights are checked these commands need it, but that users may see their
    own roles.
    """,
)


def _say(asked: Asking, done: str, **fields: Any) -> None:
    """Tell what was done: a line for people, the names for scripts."""
    if asked.as_json:
        print_json(fields)
    else:
        click.echo(done)


def _list(asked: Asking, heading: str, names: Sequence[str]) -> None:
    if asked.as_json:
        print_json(names)
    elif sys.stdout.isatty():
        draw(table((heading,), [(name,) for name in names]))
    else:
        for name in names:
            click.echo(name)


# -- on and off --------------------------------------------------------------------------------------------------------------------


@auth.command("status")
@asking()
def status(asked: Asking) -> None:
    """Say whether rights are checked, and the auth revision.

    It counts the changes of users, roles and permissions.
    """
    with asked.client() as client:
        found = client.auth.status()
    state = "enabled" if found.enabled else "disabled: everybody may do everything"
    _say(asked, f"auth revision {found.revision}, {state}", enabled=found.enabled, revision=found.revision)


@auth.command("enable")
@asking()
def enable(asked: Asking) -> None:
    """Have rights checked from now on.

    Everybody has to prove then who they are, so there must be a user root with the role root. Says how to try whether you can come in as
    root. If you can't, only a program that holds a Replica can help: replica.auth.change_password or replica.auth.disable.
    """
    by_password = True
    with asked.client() as client:
        with suppress(UserNotFound):  # which enable() says better
            by_password = client.auth.user(ROOT).has_password
        client.auth.enable()
    who, how = ("root", "--user root") if by_password else ("root, who has no password,", "--ca ca.crt --cert root.crt --key root.key")
    _say(asked, f"enabled; next: see that {who} comes in: replkv auth status {how}", enabled=True)


@auth.command("disable")
@asking()
def disable(asked: Asking) -> None:
    """Let everybody do everything; users and roles stay as they are."""
    with asked.client() as client:
        client.auth.disable()
    _say(asked, "disabled: everybody may do everything", enabled=False)


# -- users -------------------------------------------------------------------------------------------------------------------------

_NEW_PASSWORD: Final[tuple[Decorator, ...]] = (
    click.option(
        "--new-password-file",
        "file",
        type=click.Path(),
        metavar="FILE",
        help="A file whose first line is the password of NAME. Default: it is asked for on a terminal, twice, or else read from stdin.",
    ),
    click.option("--no-password", is_flag=True, help="NAME has none: a certificate with this common name proves who it is."),
)


def _with_password(function: Callable[..., Any]) -> Callable[..., Any]:
    for option in reversed(_NEW_PASSWORD):
        function = option(function)
    return function


def _new_password(name: str, file: str | None, *, no_password: bool) -> str | None:
    """Return a password that is to be, of which nobody sees anything.

    Raises:
        UsageError: there is none.
    """
    if no_password:
        if file is not None:
            raise click.UsageError("--no-password and --new-password-file exclude each other")
        return None
    if file is not None:
        return password_in(file, "--new-password-file")
    if not sys.stdin.isatty():
        return first_line(sys.stdin.buffer, "stdin")
    typed: str = click.prompt(f"New password of {name}", hide_input=True, confirmation_prompt="The same again", err=True)
    return typed


@user.command("add")
@asking()
@_with_password
@click.argument("name")
def add_user(asked: Asking, name: str, **options: Any) -> None:
    """Make the user NAME.

    It may do nothing yet: give it a role. The user root has the role root from the beginning.
    """
    password = _new_password(name, **options)
    with asked.client() as client:
        client.auth.add_user(name, password)
    _say(asked, f"user {name} added", user=name)


@user.command("delete")
@asking()
@click.argument("name")
def delete_user(asked: Asking, name: str) -> None:
    """Remove the user NAME, without asking.

    Who is connected as it is sent away.
    """
    with asked.client() as client:
        client.auth.delete_user(name)
    _say(asked, f"user {name} deleted", user=name)


@user.command("list")
@asking()
def list_users(asked: Asking) -> None:
    """List the names of all users."""
    with asked.client() as client:
        found = client.auth.users()
    _list(asked, "user", found)


@user.command("show")
@asking()
@click.option("--detail", is_flag=True, help="Also what the roles allow.")
@click.argument("name")
def show_user(asked: Asking, name: str, *, detail: bool) -> None:
    """Show the roles of the user NAME."""
    with asked.client() as client:
        found = client.auth.user(name)
        roles = [client.auth.role(held) for held in found.roles] if detail else None
    if asked.as_json:
        print_json(asdict(found) if roles is None else {**asdict(found), "roles": [_as_json(each) for each in roles]})
        return
    draw(table(("user", "roles", "password"), [(found.name, ", ".join(found.roles), "yes" if found.has_password else "no")]))
    if roles:
        draw(table(("role", *HEADINGS), [(each.name, *cells) for each in roles for cells in _cells(each)]))


@user.command("passwd")
@asking()
@_with_password
@click.argument("name")
def change_password(asked: Asking, name: str, **options: Any) -> None:
    """Give the user NAME another password.

    Who is connected as it has to prove anew who it is.
    """
    password = _new_password(name, **options)
    with asked.client() as client:
        client.auth.change_password(name, password)
    _say(asked, f"user {name} has {'no password any more' if password is None else 'another password'}", user=name)


@user.command("grant")
@asking()
@click.argument("name")
@click.argument("held", metavar="ROLE")
def grant_role(asked: Asking, name: str, held: str) -> None:
    """Give the user NAME a role."""
    with asked.client() as client:
        client.auth.grant_role(name, held)
    _say(asked, f"user {name} has the role {held}", user=name, role=held)


@user.command("revoke")
@asking()
@click.argument("name")
@click.argument("held", metavar="ROLE")
def revoke_role(asked: Asking, name: str, held: str) -> None:
    """Take a role away from the user NAME."""
    with asked.client() as client:
        client.auth.revoke_role(name, held)
    _say(asked, f"user {name} has the role {held} no more", user=name, role=held)


# -- roles -------------------------------------------------------------------------------------------------------------------------

_KEYS: Final[tuple[Decorator, ...]] = (
    click.option("--prefix", is_flag=True, help="All keys that begin with KEY; with '' all, but not those of recipes."),
    click.option("--from-key", is_flag=True, help="All keys from KEY on."),
    click.option("--escaped", "as_shown", is_flag=True, help=r"KEY and END are written as they are shown, such as \xff or \x00."),
    click.argument("key", type=BYTES),
    click.argument("end", type=BYTES, required=False),
)


def _with_keys(function: Callable[..., Any]) -> Callable[..., Any]:
    for parameter in reversed(_KEYS):
        function = parameter(function)
    return function


def _span(key: bytes, end: bytes | None, *, prefix: bool, from_key: bool, as_shown: bool) -> dict[str, Any]:
    """Return the keys that a permission is for, as calls take them.

    Raises:
        UsageError: they contradict each other, or a text is not what ``escaped`` returns.
    """
    if prefix + from_key + (end is not None) > 1:
        raise click.UsageError("say only one of END, --prefix and --from-key")
    if as_shown:
        with usage():
            key, end = unescaped(key), None if end is None else unescaped(end)
    if prefix:
        return {"prefix": key}
    if from_key:
        return {"start": key}
    return {"key": key} if end is None else {"start": key, "end": end}


@role.command("add")
@asking()
@click.argument("name")
def add_role(asked: Asking, name: str) -> None:
    """Make the role NAME, which allows nothing yet."""
    with asked.client() as client:
        client.auth.add_role(name)
    _say(asked, f"role {name} added", role=name)


@role.command("delete")
@asking()
@click.argument("name")
def delete_role(asked: Asking, name: str) -> None:
    """Remove the role NAME, also from those who have it, without asking."""
    with asked.client() as client:
        client.auth.delete_role(name)
    _say(asked, f"role {name} deleted", role=name)


@role.command("list")
@asking()
def list_roles(asked: Asking) -> None:
    """List the names of all roles."""
    with asked.client() as client:
        found = client.auth.roles()
    _list(asked, "role", found)


@role.command("show")
@asking()
@click.argument("name")
def show_role(asked: Asking, name: str) -> None:
    """Show what the role NAME allows.

    For each permission: what may be done, whether it is for one key, for a prefix, for all from a key on, for a range or for all, and the
    keys. They are escaped; role revoke takes them back with --escaped.
    """
    with asked.client() as client:
        found = client.auth.role(name)
    if asked.as_json:
        print_json(_as_json(found))
    else:
        draw(table(HEADINGS, _cells(found)))


@role.command("grant")
@asking()
@click.argument("name", metavar="ROLE")
@click.argument("mode", type=click.Choice(["read", "write", "readwrite"]))
@_with_keys
def grant(asked: Asking, name: str, mode: Any, **options: Any) -> None:
    """Allow a role to read or write the one KEY, or more keys.

    With END all from KEY up to it, which is left out. It replaces what the role was allowed for exactly these keys before. Where several
    permissions touch or overlap, they count as one.
    """
    span = _span(**options)
    with asked.client() as client:
        client.auth.grant_permission(name, mode, **span)
    _say(asked, f"role {name} may {mode} {_told(Span.of(**span))}", role=name, mode=mode, **_fields(Span.of(**span)))


@role.command("revoke")
@asking()
@click.argument("name", metavar="ROLE")
@_with_keys
def revoke(asked: Asking, name: str, **options: Any) -> None:
    """Take away what a role was granted for exactly these keys.

    What it, or another role, is allowed for a span that holds some of them stays.
    """
    span = _span(**options)
    with asked.client() as client:
        client.auth.revoke_permission(name, **span)
    _say(asked, f"role {name} has no permission any more for {_told(Span.of(**span))}", role=name, **_fields(Span.of(**span)))


# -- how they are shown ------------------------------------------------------------------------------------------------------------

HEADINGS: Final = ("may", "keys", "key", "up to")
_TEXTS: Final = {
    "one": "{}",
    "prefix": "all keys that begin with {}",
    "from": "all keys from {} on",
    "range": "all keys from {} to {}",
    "all": "all keys",
}


def _kind(keys: Span) -> str:
    """Return how a permission for these keys is granted."""
    if keys == ALL:
        return "all"
    if keys.is_single:
        return "one"
    if keys.end is None:
        return "from"
    return "prefix" if keys.end == behind_prefix(keys.start) else "range"


def _told(keys: Span) -> str:
    return _TEXTS[_kind(keys)].format(escaped(keys.start), escaped(keys.end or b""))


def _cells(shown: Role) -> list[tuple[str, str, str, str]]:
    if shown.name == ROOT:
        return [("everything", "", "", "")]
    return [_cells_of(each.mode, Span(each.start, each.end)) for each in shown.permissions]


def _cells_of(mode: str, keys: Span) -> tuple[str, str, str, str]:
    kind = _kind(keys)
    return mode, kind, "" if kind == "all" else escaped(keys.start), escaped(keys.end or b"") if kind == "range" else ""


def _as_json(shown: Role) -> dict[str, Any]:
    return {"name": shown.name, "permissions": [{"mode": each.mode, **_fields(Span(each.start, each.end))} for each in shown.permissions]}


def _fields(keys: Span) -> dict[str, Any]:
    """Return keys for scripts: the first of them, and the first one behind them."""
    return {**json_field("start", keys.start), **({"end": None} if keys.end is None else json_field("end", keys.end))}
